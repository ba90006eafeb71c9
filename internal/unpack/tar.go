package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
	"unicode"

	"github.com/mholt/archives"
)

// Limits of an archive. There are no defaults: the caller knows what the content is for.
type Limits struct {
	Size    int64 // bytes of all files together, as they are when unpacked; holes of sparse files count
	Entries int   // how many entries, directories and links among them
}

const (
	maxEntryName  = 4095     // bytes of a path, PATH_MAX of Linux without its NUL
	maxLinkNames  = 64 << 20 // bytes of the names of all links, which are remembered
	headerPerFile = 8 << 10  // bytes that an entry may take beside its content, on average
	xattrRecord   = "SCHILY.xattr."
)

// Entry is one file, directory or link of an archive.
type Entry struct {
	// Name is clean, relative and without "..": "etc/passwd". The root of the archive is ".".
	Name string
	// Mode has the type, the permissions and setuid, setgid and sticky.
	Mode     fs.FileMode
	Size     int64 // of a regular file, bytes
	ModTime  time.Time
	UID, GID int
	// Link is where a symbolic link points, as it stands, which may be outside; or with HardLink the Name of an earlier entry.
	Link         string
	HardLink     bool
	Major, Minor int64             // of a device
	Xattrs       map[string]string // by name: "security.capability"
	// Body reads the content of a regular file. It ends with the call that it was given to.
	Body io.Reader
}

// Tar calls fn for every entry of a tar archive, which may be compressed, in the order of the archive. Paths are checked: none
// leads out of the archive, or through a symbolic link of it. An error of fn ends the walk and is returned as it is.
func Tar(ctx context.Context, r io.Reader, name string, l Limits, fn func(*Entry) error) error {
	stream, _, err := Open(r, name, l.Size+int64(l.Entries)*headerPerFile)
	if err != nil {
		return err
	}
	defer stream.Close()
	w := &tarWalk{name: name, limits: l, left: l.Size, links: map[string]bool{}, fn: fn}
	seen := &source{r: stream}
	err = archives.Tar{}.Extract(ctx, seen, w.entry)
	switch {
	case w.err != nil:
		return w.err
	case err == nil && w.entries == 0 && !w.ended(stream):
		return &CorruptError{Name: name, Format: "tar", Err: tar.ErrHeader}
	case err == nil:
		return w.drain(stream)
	case seen.err != nil: // the stream's own
		return seen.err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return &CorruptError{Name: name, Format: "tar", Err: err}
}

type tarWalk struct {
	name    string
	limits  Limits
	left    int64
	entries int
	links   map[string]bool // names of symbolic links
	linked  int             // bytes of these
	fn      func(*Entry) error
	err     error // of a check or of fn, as opposed to the archive's
}

// ended is true for the one archive without entries that is an archive: archive/tar has read its two empty blocks.
func (w *tarWalk) ended(stream io.Reader) bool {
	o, ok := stream.(*output)
	return ok && o.limit-o.left >= 1024
}

// drain reads what follows the last entry: the checksum of a compression comes after it.
func (w *tarWalk) drain(stream io.Reader) error {
	_, err := io.Copy(io.Discard, stream)
	return err
}

// entry implements archives.FileHandler.
func (w *tarWalk) entry(_ context.Context, f archives.FileInfo) error {
	header, ok := f.Header.(*tar.Header)
	if !ok {
		w.err = &CorruptError{Name: w.name, Format: "tar", Err: tar.ErrHeader}
		return w.err
	}
	e, err := w.check(header)
	if err != nil {
		w.err = err
		return err
	}
	body, err := f.Open()
	if err != nil {
		w.err = err
		return err
	}
	defer body.Close()
	b := &source{r: body}
	e.Body = b
	if err := w.fn(e); err != nil && b.err == nil { // what goes wrong with the archive is worded by Tar
		w.err = err
		return err
	}
	return b.err
}

// check makes an entry of a header, or says what is wrong with it.
func (w *tarWalk) check(h *tar.Header) (*Entry, error) {
	wrong := func(format string, args ...any) error {
		return &EntryError{Name: w.name, Entry: shorten(h.Name), Reason: fmt.Sprintf(format, args...)}
	}
	if w.entries++; w.entries > w.limits.Entries {
		return nil, wrong("it is one more than the %d entries that are allowed", w.limits.Entries)
	}
	name, reason := inside(h.Name)
	if reason != "" {
		return nil, wrong("its name %s", reason)
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if w.links[dir] {
			return nil, wrong("%s is a symbolic link in the same archive", dir)
		}
	}
	e := &Entry{
		Name: name, Mode: h.FileInfo().Mode(), ModTime: h.ModTime, UID: h.Uid, GID: h.Gid, Link: h.Linkname,
		Major: h.Devmajor, Minor: h.Devminor,
	}
	for record, value := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(record, xattrRecord); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[attr] = value
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		e.Size = h.Size
		if w.left -= h.Size; h.Size < 0 || w.left < 0 {
			return nil, &TooLargeError{Name: w.name, Limit: w.limits.Size}
		}
	case tar.TypeLink:
		e.HardLink = true
		if e.Link, reason = inside(h.Linkname); reason != "" {
			return nil, wrong("what it links to %s", reason)
		}
	case tar.TypeSymlink:
		if w.linked += len(name); len(h.Linkname) > maxEntryName || h.Linkname == "" || w.linked > maxLinkNames {
			return nil, wrong("it is no link that could be made")
		}
		w.links[name] = true
	case tar.TypeDir, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return nil, wrong("it has the type %q, which is not supported", string(rune(h.Typeflag)))
	}
	if h.Typeflag != tar.TypeSymlink { // an archive may hold a name twice; the later one counts
		delete(w.links, name)
	}
	return e, nil
}

// inside cleans a path of an archive, or says what is wrong with it.
func inside(name string) (clean, reason string) {
	switch clean = path.Clean(name); {
	case name == "":
		return "", "is empty"
	case len(name) > maxEntryName:
		return "", fmt.Sprintf("has more than %d bytes", maxEntryName)
	case strings.HasPrefix(name, "/"), clean == "..", strings.HasPrefix(clean, "../"):
		return "", "leads out of the archive"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "", "holds a control character"
	}
	return clean, ""
}

func shorten(text string) string {
	const limit = 200
	if len(text) > limit {
		return text[:limit] + "…"
	}
	return text
}

// EntryError says what is wrong with one entry of an archive.
type EntryError struct {
	Name   string // of the archive
	Entry  string
	Reason string
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("%s holds %q, which is refused: %s", e.Name, e.Entry, e.Reason)
}
