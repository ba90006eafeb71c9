package payload

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
)

const (
	maxEntries = 200_000 // of one archive, whose headers are kept in memory
	tarBlock   = 512
)

// archive is a tar archive that is written while it is read. All its headers exist beforehand, so its size is known exactly.
type archive struct {
	entries []entry
	size    int64
	epoch   time.Time
}

type entry struct {
	header []byte
	size   int64
	open   func() (io.ReadCloser, error) // nil without content
}

// add appends a member. Its header is a plain one if that can hold it, else one of GNU tar: BusyBox, which many devices have,
// skips the PAX headers that archive/tar would choose for a long name.
func (a *archive) add(h tar.Header, open func() (io.ReadCloser, error)) error {
	if len(a.entries) >= maxEntries {
		return fmt.Errorf("there are more than the %d files that are allowed", maxEntries)
	}
	h.ModTime = a.epoch
	if a.epoch.IsZero() {
		h.ModTime = time.Unix(0, 0)
	}
	h.AccessTime, h.ChangeTime, h.Uname, h.Gname, h.PAXRecords = time.Time{}, time.Time{}, "", "", nil
	var b bytes.Buffer
	for _, h.Format = range []tar.Format{tar.FormatUSTAR, tar.FormatGNU} {
		b.Reset()
		err := tar.NewWriter(&b).WriteHeader(&h)
		if err == nil {
			break
		}
		if h.Format == tar.FormatGNU {
			return fmt.Errorf("%q does not fit a tar archive: %w", h.Name, err)
		}
	}
	a.entries = append(a.entries, entry{header: bytes.Clone(b.Bytes()), size: h.Size, open: open})
	a.size += int64(b.Len()) + (h.Size+tarBlock-1)/tarBlock*tarBlock
	return nil
}

func (a *archive) addBytes(name string, content []byte) error {
	return a.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
}

func (a *archive) addDir(name string) error {
	return a.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil)
}

// addTree appends what is in a directory, sorted by name. Hard links become files of their own; devices, sockets and
// pipes are refused: they have no place in an update.
func (a *archive) addTree(root *os.Root, prefix string, keepOwners bool) error {
	return fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		link := ""
		switch info.Mode().Type() {
		case 0, fs.ModeDir:
		case fs.ModeSymlink:
			if link, err = root.Readlink(name); err != nil {
				return err
			}
		default:
			return invalid("directory", "%s is neither a file nor a directory nor a symbolic link, and cannot be part of a payload",
				filepath.Join(root.Name(), filepath.FromSlash(name)))
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		h.Name = prefix + "/" + name
		switch {
		case name == ".":
			h.Name = prefix + "/"
		case info.IsDir():
			h.Name += "/"
		}
		if !keepOwners {
			h.Uid, h.Gid = 0, 0
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			h.Mode = 0o777 // some systems have others, and none heeds them
		}
		if !info.Mode().IsRegular() {
			h.Size = 0
			return a.add(*h, nil)
		}
		h.Typeflag = tar.TypeReg
		return a.add(*h, func() (io.ReadCloser, error) {
			return openSteady(func() (*os.File, error) { return root.Open(name) }, info)
		})
	})
}

// addFile appends a file from elsewhere under the given name.
func (a *archive) addFile(path, name string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: info.Size()}
	return a.add(h, func() (io.ReadCloser, error) {
		return openSteady(func() (*os.File, error) { return os.Open(path) }, info)
	})
}

// input makes the archive a file of the payload.
func (a *archive) input(name string) artifactfmt.InputFile {
	return artifactfmt.InputFile{Name: name, Size: a.size + 2*tarBlock, Open: func() (io.ReadCloser, error) { return &archiveReader{a: a}, nil }}
}

// gzipInput does the same in the form of gzip, for update modules that look for it. The archive is stored, not compressed:
// its size must be known beforehand, and the artifact's own compression does better on what nothing has compressed yet.
func (a *archive) gzipInput(name string) artifactfmt.InputFile {
	plain := a.size + 2*tarBlock
	blocks := (plain + maxStored - 1) / maxStored
	return artifactfmt.InputFile{
		Name: name, Size: int64(len(gzipHeader)) + 5*blocks + plain + 8,
		Open: func() (io.ReadCloser, error) {
			return &storedGzip{in: &archiveReader{a: a}, left: plain, size: plain, pending: []byte(gzipHeader)}, nil
		},
	}
}

// archiveReader reads an archive from its beginning to its end.
type archiveReader struct {
	a       *archive
	next    int
	pending []byte // headers and padding, given out before anything else
	body    io.ReadCloser
	left    int64 // bytes of the body
	ended   bool
}

func (r *archiveReader) Read(p []byte) (int, error) {
	for len(p) > 0 {
		switch {
		case len(r.pending) > 0:
			n := copy(p, r.pending)
			r.pending = r.pending[n:]
			return n, nil
		case r.body != nil && r.left > 0:
			n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
			r.left -= int64(n)
			if err == nil || n > 0 {
				return n, nil
			}
			if errors.Is(err, io.EOF) {
				err = errChanged
			}
			return 0, err
		case r.body != nil:
			if err := r.endBody(); err != nil {
				return 0, err
			}
		case r.next < len(r.a.entries):
			e := r.a.entries[r.next]
			r.next++
			r.pending = e.header
			if e.open == nil {
				continue
			}
			body, err := e.open()
			if err != nil {
				return 0, err
			}
			r.body, r.left = body, e.size
		case !r.ended:
			r.ended = true
			r.pending = make([]byte, 2*tarBlock)
		default:
			return 0, io.EOF
		}
	}
	return 0, nil
}

// endBody closes a member's content, which is when a changed file shows.
func (r *archiveReader) endBody() error {
	err := r.body.Close()
	r.body = nil
	r.pending = make([]byte, (tarBlock-r.a.entries[r.next-1].size%tarBlock)%tarBlock)
	return err
}

func (r *archiveReader) Close() error {
	if r.body == nil {
		return nil
	}
	body := r.body
	r.body = nil
	if r.left > 0 { // given up halfway: what Close says about changes is of no interest
		_ = body.Close()
		return nil
	}
	return body.Close()
}

var errChanged = errors.New("it changed while it was read")

// steadyFile is a file that must stay as it was when the archive was planned.
type steadyFile struct {
	*os.File
	was fs.FileInfo
}

func openSteady(open func() (*os.File, error), was fs.FileInfo) (io.ReadCloser, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	s := &steadyFile{f, was}
	if err := s.check(); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

func (s *steadyFile) check() error {
	is, err := s.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(is, s.was) || is.Size() != s.was.Size() || !is.ModTime().Equal(s.was.ModTime()) || is.Mode() != s.was.Mode() {
		return fmt.Errorf("reading %s: %w", s.Name(), errChanged)
	}
	return nil
}

// Close also fails when the file is no longer what it was.
func (s *steadyFile) Close() error {
	return errors.Join(s.check(), s.File.Close())
}

const (
	maxStored  = 65535 // bytes of a stored block of deflate (RFC 1951, 3.2.4)
	gzipHeader = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
)

// storedGzip wraps what it reads as gzip (RFC 1952) in stored blocks.
type storedGzip struct {
	in         io.ReadCloser
	left, size int64
	sum        uint32
	pending    []byte
	block      int64 // bytes left of the present block
	ended      bool
}

func (g *storedGzip) Read(p []byte) (int, error) {
	for len(p) > 0 {
		switch {
		case len(g.pending) > 0:
			n := copy(p, g.pending)
			g.pending = g.pending[n:]
			return n, nil
		case g.block > 0:
			n, err := g.in.Read(p[:min(int64(len(p)), g.block)])
			g.sum = crc32.Update(g.sum, crc32.IEEETable, p[:n])
			g.block -= int64(n)
			if n > 0 {
				return n, nil
			}
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return 0, err
			}
		case g.left > 0:
			g.block = min(g.left, maxStored)
			g.left -= g.block
			last := byte(0)
			if g.left == 0 {
				last = 1
			}
			g.pending = []byte{last, byte(g.block), byte(g.block >> 8), ^byte(g.block), ^byte(g.block >> 8)}
		case !g.ended:
			g.ended = true
			s, n := g.sum, uint32(g.size)
			g.pending = []byte{byte(s), byte(s >> 8), byte(s >> 16), byte(s >> 24), byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
		default:
			return 0, io.EOF
		}
	}
	return 0, nil
}

func (g *storedGzip) Close() error { return g.in.Close() }
