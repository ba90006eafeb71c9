package flash

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/unpack"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// maxImage bounds what an image may unpack to where no target says less.
const maxImage = int64(1) << 50

// ImageOptions say what an image is checked against. What lies beside the image is found by its name.
type ImageOptions struct {
	Bmap   string // path of the block map; "": NAME.bmap, if it is there
	NoBmap bool   // write everything
	Raw    bool   // take what is neither a disk nor a file system
	SHA256 string // of the file as it is; "": of NAME.sha256, if it is there
	// Keyring is nil when signatures are not asked for. Otherwise the block map, or without one the image, needs a signature
	// by one of these keys in NAME.sig.
	Keyring *verify.Keyring
}

// Image is an image file and what it is checked against.
type Image struct {
	Path     string
	BmapPath string // "" when there is none
	// Map is the partition table; nil when the image has none that is known. When the image is compressed, what its file
	// systems are is not known before it is written.
	Map *imaging.Map
	// Filesystem is what the image begins with when it has no partition table.
	Filesystem imaging.Filesystem
	// Size in bytes; of a compressed image without a block map 0 before [Image.Check].
	Size   int64
	Format unpack.Format

	// What Check found.
	SHA256     string // of the image as it is written, with all its zeros
	FileSHA256 string // of the file
	KeyID      string // of the key that signed the block map, or without one the image; "" when no keyring was given

	file     *os.File
	fileSize int64
	bmap     *imaging.Bmap
	bmapText []byte
	o        ImageOptions
	wantSum  string // SHA-256 of the file that was asked for; "" for none
	sumFrom  string // who asks
	plan     *plan
}

// ImageError says why a file cannot be flashed.
type ImageError struct {
	Path, Reason, Advice string
	Err                  error
}

func (e *ImageError) Error() string { return e.Path + ": " + e.Reason }
func (e *ImageError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *ImageError) Hint() string { return e.Advice }

// notImages are files that lie about beside images and are named in their place, by suffix or by their first bytes.
var notImages = []struct{ suffix, magic, what, advice string }{
	{".bmap", "", "a block map, not an image", "name the image; its block map is found beside it"},
	{".sig", "", "a signature, not an image", "name the image; its signature is found beside it"},
	{".sha256", "", "a checksum, not an image", "name the image; its checksum is found beside it"},
	{".mender", "version\x00", "an artifact, which devices install by themselves", "flash an image: twinkeel image writes one"},
	{".qcow2", "QFI\xfb", "a qcow2 image for virtual machines", "convert it: qemu-img convert -O raw FILE board.img"},
	{".simg", "\x3a\xff\x26\xed", "an Android sparse image", "convert it: simg2img FILE board.img"},
	{".zip", "PK\x03\x04", "a zip archive", "unpack it and name the image inside"},
}

// OpenImage opens an image with its block map and looks at its partition table. Nothing is checked yet but that map.
func OpenImage(path string, o ImageOptions) (*Image, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeNamedPipe != 0 { // to open it would wait for a writer
		return nil, &ImageError{path, "it is a pipe, and has to be read twice", "write it to a file first", nil}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	img := &Image{Path: path, file: f, o: o}
	if err := img.open(); err != nil {
		f.Close()
		return nil, err
	}
	return img, nil
}

// Close closes the file.
func (m *Image) Close() error { return m.file.Close() }

func (m *Image) open() error {
	info, err := m.file.Stat()
	if err != nil {
		return fileError(m.Path, err)
	}
	if !info.Mode().IsRegular() {
		return &ImageError{Path: m.Path, Reason: "it is not a file", Advice: "an image is read twice, so it cannot come from a pipe or a device: store it first"}
	}
	if m.fileSize = info.Size(); m.fileSize == 0 {
		return &ImageError{Path: m.Path, Reason: "it is empty"}
	}
	if err := m.refuseOthers(); err != nil {
		return err
	}
	if err := m.findBmap(); err != nil {
		return err
	}
	if err := m.findSum(); err != nil {
		return err
	}
	stream, format, err := m.stream(maxImage)
	if err != nil {
		return err
	}
	defer stream.Close()
	m.Format = format
	if format == unpack.None {
		m.Size = m.fileSize
	}
	if m.bmap != nil {
		if m.Size != 0 && m.Size != m.bmap.ImageSize {
			return &VerifyError{
				What: m.BmapPath, Reason: fmt.Sprintf("it is for an image of %s, %s has %s",
					imaging.FormatSize(m.bmap.ImageSize), m.Path, imaging.FormatSize(m.Size)),
				Advice: "get both again from where they came from, or write everything with --no-bmap",
			}
		}
		m.Size = m.bmap.ImageSize
	}
	return m.readMap(stream)
}

func (m *Image) refuseOthers() error {
	head := make([]byte, 8)
	n, err := m.file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fileError(m.Path, err)
	}
	for _, other := range notImages {
		if strings.HasSuffix(strings.ToLower(m.Path), other.suffix) || other.magic != "" && bytes.HasPrefix(head[:n], []byte(other.magic)) {
			return &ImageError{Path: m.Path, Reason: "it is " + other.what, Advice: other.advice}
		}
	}
	return nil
}

// beside are the names an image's companions may have: with the suffix of its compression and without.
func beside(path, suffix string) []string {
	names := []string{path + suffix}
	if bare, format := unpack.Trim(path); format != unpack.None {
		names = append(names, bare+suffix)
	}
	return names
}

const maxBmapFile = 64 << 20

func (m *Image) findBmap() error {
	if m.o.NoBmap {
		return nil
	}
	names := beside(m.Path, ".bmap")
	if m.o.Bmap != "" {
		names = []string{m.o.Bmap}
	}
	for _, name := range names {
		text, err := readSmall(name, maxBmapFile)
		if errors.Is(err, fs.ErrNotExist) && m.o.Bmap == "" {
			continue
		}
		if err != nil {
			return err
		}
		b, err := imaging.ParseBmap(bytes.NewReader(text))
		if err != nil {
			var hint interface{ Hint() string }
			advice := ""
			if errors.As(err, &hint) {
				advice = hint.Hint()
			}
			return &VerifyError{What: name, Reason: err.Error(), Advice: advice}
		}
		m.bmap, m.bmapText, m.BmapPath = b, text, name
		return nil
	}
	return nil
}

// readSmall reads a file that lies beside an image.
func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fileError(name, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, &ImageError{Path: name, Reason: "it is not a file"}
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fileError(name, err)
	}
	if int64(len(text)) > limit {
		return nil, &ImageError{Path: name, Reason: fmt.Sprintf("it is larger than %s", imaging.FormatSize(limit))}
	}
	return text, nil
}

func fileError(path string, err error) error {
	reason := err.Error()
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		reason = "it does not exist"
	case errors.Is(err, fs.ErrPermission):
		reason = "it may not be read by this user"
	case errors.As(err, &pe):
		reason = pe.Err.Error()
	}
	return &ImageError{Path: path, Reason: reason, Err: err}
}

// stream is the image from its start, unpacked; the file's position is not used.
func (m *Image) stream(limit int64) (io.ReadCloser, unpack.Format, error) {
	return m.streamThrough(io.NewSectionReader(m.file, 0, m.fileSize), limit)
}

func (m *Image) streamThrough(file io.Reader, limit int64) (io.ReadCloser, unpack.Format, error) {
	stream, format, err := unpack.Open(file, m.Path, limit)
	if err != nil {
		return nil, format, m.streamError(err)
	}
	return stream, format, nil
}

// streamError words what went wrong while the image was read.
func (m *Image) streamError(err error) error {
	var corrupt *unpack.CorruptError
	var promised *unpack.NotCompressedError
	if errors.As(err, &corrupt) || errors.As(err, &promised) {
		return &ImageError{Path: m.Path, Reason: strings.TrimPrefix(err.Error(), m.Path+" "), Advice: "get it again from where it came from", Err: err}
	}
	return err
}

// rawFlash refuses an image that no disk can use, and that would cost raw flash its erase counters.
func (m *Image) rawFlash(err error) error {
	return &ImageError{Path: m.Path, Reason: "it is a UBI image for raw flash, not for a disk", Advice: "on the device: ubiformat /dev/mtdN -f " + filepath.Base(m.Path), Err: err}
}

// readMap looks at the partition table, or else at the file system. Of a compressed image only the first bytes are read for
// that. One without a table, such as a file system for a partition, can be flashed, too.
func (m *Image) readMap(stream io.Reader) error {
	if m.Format == unpack.None {
		return m.look(m.file, m.Size)
	}
	head := make([]byte, mib)
	n, err := io.ReadFull(stream, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return m.streamError(err)
	}
	if err := m.look(headReader(head[:n]), cmp.Or(m.Size, maxImage)); err != nil || m.Map == nil {
		return err
	}
	m.Map.Damaged = "" // the end, where the backup is, was not read
	end := int64(0)
	for i := range m.Map.Regions {
		r := &m.Map.Regions[i]
		if r.Kind == imaging.KindPartition {
			r.Filesystem = "not read yet"
		}
		end = max(end, r.End())
	}
	if m.Size == 0 {
		m.Map.Size = end
	}
	return nil
}

// look finds out what an image is, and refuses a file that was named by mistake: a key, an archive, the disk of a virtual
// machine.
func (m *Image) look(r io.ReaderAt, size int64) error {
	found, err := imaging.ReadMap(r, size)
	if err == nil {
		m.Map = found
		return nil
	}
	if errors.Is(err, imaging.ErrUBI) {
		return m.rawFlash(err)
	}
	if m.Filesystem, err = imaging.Probe(r, size); err != nil {
		return fileError(m.Path, err)
	}
	if m.Filesystem.Kind != "" || m.o.Raw {
		return nil
	}
	what, nature := imaging.Recognise(r, size)
	advice := "name the image; to write this file all the same, such as a boot loader, add --raw"
	switch {
	case nature == imaging.OnDisk:
		return nil
	case nature == imaging.VirtualDisk:
		advice = "convert it: qemu-img convert -O raw FILE board.img"
	case what == "":
		what = "no disk image: it has no partition table, no file system that is known here, and no boot code"
	default:
		what += ", not a disk image"
	}
	return &ImageError{Path: m.Path, Reason: "it is " + what, Advice: advice}
}

// headReader is a disk of which only the first bytes are known; all others are zeros.
type headReader []byte

func (h headReader) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(h)) {
		copy(p, h[off:])
	}
	return len(p), nil
}

// progressReader counts what passes and ends with ctx.
type progressReader struct {
	ctx  context.Context
	r    io.Reader
	done atomic.Int64
}

func (p *progressReader) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.r.Read(b)
	p.done.Add(int64(n))
	return n, err
}

// Name is the file's own name.
func (m *Image) Name() string { return filepath.Base(m.Path) }
