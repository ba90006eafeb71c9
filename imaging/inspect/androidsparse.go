package inspect

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
)

// The format is that of AOSP's system/core/libsparse (sparse_format.h, version 1.0); img2simg and simg2img decide.
const (
	sparseMagic       = 0xed26ff3a
	sparseHeader      = 28
	sparseChunkHeader = 12

	sparseRaw      = 0xcac1
	sparseFill     = 0xcac2
	sparseDontCare = 0xcac3
	sparseCRC      = 0xcac4

	maxSparseChunks = 1 << 21
	maxDiskSize     = 1 << 53 // bytes of any disk that is read
)

// sparseChunk is a run of the image. What no chunk gives bytes to reads as zeros.
type sparseChunk struct {
	start, end int64 // in the image
	at         int64 // in the file, of raw data
	fill       [4]byte
	raw        bool
}

type androidSparse struct {
	r      io.ReaderAt
	size   int64
	chunks []sparseChunk // that are not all zeros, in order
}

func openAndroidSparse(r io.ReaderAt, size int64) (*androidSparse, error) {
	in := &sparseInput{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 64<<10), left: size}
	b := make([]byte, sparseHeader)
	if err := in.read(b); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	header, chunkHeader := int64(le.Uint16(b[8:])), int64(le.Uint16(b[10:]))
	block, blocks, count := int64(le.Uint32(b[12:])), int64(le.Uint32(b[16:])), int64(le.Uint32(b[20:]))
	switch {
	case le.Uint32(b) != sparseMagic:
		return nil, damaged(FormatAndroidSparse, "no signature")
	case le.Uint16(b[4:]) != 1:
		return nil, &UnsupportedError{fmt.Sprintf("an Android sparse image of version %d", le.Uint16(b[4:])), ""}
	case header < sparseHeader || chunkHeader < sparseChunkHeader:
		return nil, damaged(FormatAndroidSparse, "headers of %d and %d bytes", header, chunkHeader)
	case block < 512 || block > 16<<20 || block%4 != 0:
		return nil, damaged(FormatAndroidSparse, "blocks of %d bytes", block)
	case block*blocks > maxDiskSize:
		return nil, damaged(FormatAndroidSparse, "%d blocks of %d bytes", blocks, block)
	case count > maxSparseChunks:
		return nil, &UnsupportedError{fmt.Sprintf("an Android sparse image of %d pieces, more than %d", count, maxSparseChunks), ""}
	}
	a := &androidSparse{r: r, size: block * blocks}
	if err := in.skip(header - sparseHeader); err != nil {
		return nil, err
	}
	at := int64(0)
	for range count {
		var err error
		if at, err = a.readChunk(in, at, block, chunkHeader); err != nil {
			return nil, err
		}
	}
	if at != a.size {
		return nil, damaged(FormatAndroidSparse, "its pieces make %d bytes, its header says %d", at, a.size)
	}
	return a, nil
}

// readChunk reads the header of a piece that begins at `at` in the image, and returns where it ends.
func (a *androidSparse) readChunk(in *sparseInput, at, block, chunkHeader int64) (int64, error) {
	b := make([]byte, sparseChunkHeader)
	if err := in.read(b); err != nil {
		return 0, err
	}
	if err := in.skip(chunkHeader - sparseChunkHeader); err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	kind, data := le.Uint16(b), int64(le.Uint32(b[8:]))-chunkHeader
	c := sparseChunk{start: at, end: at + int64(le.Uint32(b[4:]))*block}
	if c.end > a.size {
		return 0, damaged(FormatAndroidSparse, "a piece ends behind the image")
	}
	want := map[uint16]int64{sparseRaw: c.end - c.start, sparseFill: 4, sparseCRC: 4}[kind]
	if data != want || kind < sparseRaw || kind > sparseCRC {
		return 0, damaged(FormatAndroidSparse, "a piece of kind 0x%04x with %d bytes", kind, data)
	}
	switch kind {
	case sparseRaw:
		c.raw, c.at = true, in.at
		if err := in.skip(data); err != nil {
			return 0, err
		}
	case sparseFill:
		if err := in.read(c.fill[:]); err != nil {
			return 0, err
		}
	default: // a checksum covers what came before; readers of files have the file's own
		return c.end, in.skip(data)
	}
	if c.end > c.start && (c.raw || c.fill != [4]byte{}) {
		a.chunks = append(a.chunks, c)
	}
	return c.end, nil
}

// sparseInput reads the file from its start and knows where it is.
type sparseInput struct {
	r        *bufio.Reader
	at, left int64
}

func (in *sparseInput) read(b []byte) error {
	n, err := io.ReadFull(in.r, b)
	in.at, in.left = in.at+int64(n), in.left-int64(n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged(FormatAndroidSparse, "it ends too early")
	}
	return err
}

func (in *sparseInput) skip(n int64) error {
	if n > in.left {
		return damaged(FormatAndroidSparse, "it ends too early")
	}
	// bufio reads what it skips; data that is skipped is mostly larger than its buffer and not needed.
	for n > 0 {
		part := min(n, 1<<30)
		if _, err := in.r.Discard(int(part)); err != nil {
			return damaged(FormatAndroidSparse, "it ends too early")
		}
		n, in.at, in.left = n-part, in.at+part, in.left-part
	}
	return nil
}

// ReadAt implements [io.ReaderAt].
func (a *androidSparse) ReadAt(p []byte, off int64) (int, error) {
	p, end, err := clip(p, off, a.size)
	if err != nil {
		return 0, err
	}
	i := sort.Search(len(a.chunks), func(i int) bool { return a.chunks[i].end > off })
	for n := 0; n < len(p); {
		at, stop := off+int64(n), off+int64(len(p))
		if i == len(a.chunks) || at < a.chunks[i].start { // nothing before the next piece
			if i < len(a.chunks) {
				stop = min(stop, a.chunks[i].start)
			}
			clear(p[n : n+int(stop-at)])
			n += int(stop - at)
			continue
		}
		c := a.chunks[i]
		part := p[n : n+int(min(stop, c.end)-at)]
		if c.raw {
			if err := readFull(a.r, part, c.at+at-c.start, FormatAndroidSparse); err != nil {
				return n, err
			}
		} else {
			for k := range part {
				part[k] = c.fill[(at-c.start+int64(k))%4]
			}
		}
		n += len(part)
		i++
	}
	return len(p), end
}

// clip shortens a read to what there is; end is io.EOF when that is less than was asked for.
func clip(p []byte, off, size int64) (clipped []byte, end, err error) {
	if off < 0 {
		return nil, nil, errors.New("a read before the start")
	}
	if off >= size {
		return nil, nil, io.EOF
	}
	if int64(len(p)) > size-off {
		return p[:size-off], io.EOF, nil
	}
	return p, nil, nil
}

func readFull(r io.ReaderAt, p []byte, off int64, format string) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return damaged(format, "it points behind its end")
	}
	return err
}
