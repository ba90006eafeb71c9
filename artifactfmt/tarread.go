package artifactfmt

import (
	"archive/tar"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// tarReader is archive/tar's reader with the guards that an artifact needs: nothing but regular files, no sparse
// files, no PAX records that change what was meant, errors that name the member, and an end that is really there.
type tarReader struct {
	where string
	in    *countingReader
	tar   *tar.Reader
	// end is where the last member ends, with its padding.
	end int64
	// warn, if set, is told what a reader refuses; warned says that it was.
	warn   func(where, text string)
	warned bool
}

// tarMember is one member; read it before the next one.
type tarMember struct {
	*tar.Header
	where   string // for messages about the member
	archive string // and about the archive that it is in
	// start is the offset of the member's headers in the archive, data that of its content.
	start, data int64
	r           io.Reader
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func newTarReader(r io.Reader, where string) *tarReader {
	in := &countingReader{r: r}
	return &tarReader{where: where, in: in, tar: tar.NewReader(in)}
}

// next returns the next member; io.EOF behind the last one, when the two zero blocks are there that end an archive.
func (t *tarReader) next() (*tarMember, error) {
	h, err := t.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		if t.in.n-t.end != int64(len(tarEnd)) {
			return nil, readError(t.where, io.ErrUnexpectedEOF)
		}
		return nil, io.EOF
	case errors.Is(err, tar.ErrHeader):
		return nil, malformed(t.where, "it is not a tar archive, or a damaged one")
	case errors.Is(err, tar.ErrFieldTooLong):
		return nil, malformed(t.where, "a tar header is too large")
	case err != nil:
		return nil, readError(t.where, err)
	}
	m := &tarMember{Header: h, where: t.where + ": " + h.Name, archive: t.where, r: t.tar, start: t.end, data: t.in.n}
	t.end = t.in.n + h.Size + padding(h.Size)
	if t.where == "" {
		m.where = h.Name
	}
	if len(h.Name) > 1024 || printableProblem(h.Name) != "" {
		return nil, malformed(t.where, "the name %.200q of a member is too long or cannot be printed", h.Name)
	}
	if h.Size < 0 || h.Size > maxPAXSize {
		return nil, malformed(m.where, "its size is impossible")
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return nil, malformed(m.where, "it is a sparse file, which the format does not have")
		}
	}
	t.checkPAX(m)
	return m, nil
}

// checkPAX warns of records that libarchive can't convert in the C locale, in which the Mender client runs. They come from
// tools that write the builder's name into the archive. Once per archive is enough.
func (t *tarReader) checkPAX(m *tarMember) {
	if t.warned || t.warn == nil {
		return
	}
	for _, key := range sortedKeys(m.PAXRecords) {
		if strings.ContainsFunc(key+m.PAXRecords[key], func(r rune) bool { return r >= utf8.RuneSelf }) {
			t.warned = true
			t.warn(m.where, "its PAX record "+strconv.Quote(key)+" is not ASCII (Mender clients from 4.0 refuse it in the C locale)")
			return
		}
	}
}

// onlyZerosLeft reads what follows the end of the archive: GNU tar fills its last record with zeros.
func (t *tarReader) onlyZerosLeft() error {
	const limit = 1 << 20
	buf := make([]byte, 4<<10)
	for n := int64(0); ; {
		k, err := t.in.r.Read(buf)
		n += int64(k)
		switch {
		case !allZero(buf[:k]):
			return malformed(t.where, "something follows the end of the archive")
		case n > limit:
			return malformed(t.where, "more than %d KiB of zeros follow the end of the archive", limit>>10)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return readError(t.where, err)
		}
	}
}

// regular demands a regular file: a link or device in its place would make readers disagree about what it contains.
func (m *tarMember) regular() error {
	switch m.Typeflag {
	case tar.TypeReg:
		return nil
	case tar.TypeLink, tar.TypeSymlink:
		return malformed(m.where, "it is a link, not a regular file")
	case tar.TypeDir:
		return malformed(m.where, "it is a directory, not a regular file")
	}
	return malformed(m.where, "it is not a regular file")
}

func (m *tarMember) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = readError(m.archive, err)
	}
	return n, err
}

// readAll reads a member whose size was checked. Memory grows with what is really there, not with what the header says.
func (m *tarMember) readAll() ([]byte, error) { return io.ReadAll(m) }
