// Package unpack reads compressed files and tar archives as streams: gzip, bzip2, xz, zstd and lz4, as builds of embedded
// Linux deploy them (IMAGE_FSTYPES of openembedded-core: "ext4.zst", "tar.xz" and so on). What comes out is bounded, by size
// and by number, and what is damaged or cut off ends in an error and never in less data.
//
// The decoders are those that github.com/mholt/archives (v0.1.5) chooses. Formats: RFC 1952 (gzip), RFC 8878 (zstd), the xz
// file format 1.1.0, bzip2 1.0.8's decompress.c, and lz4_Frame_format.md 1.6.4 with its legacy frame, which bitbake writes
// (image_types.bbclass runs lz4 -l). Archives are those of archive/tar: ustar, pax and GNU.
//
// It is for hosts. Devices read artifacts, whose compressions package artifactfmt knows.
package unpack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/mholt/archives"
)

// Format of a compression. None is "".
type Format string

// The formats.
const (
	None  Format = ""
	Gzip  Format = "gzip"
	Bzip2 Format = "bzip2"
	Xz    Format = "xz"
	Zstd  Format = "zstd"
	Lz4   Format = "lz4"
)

// decoder opens a stream of one format.
type decoder struct {
	format Format
	suffix string   // of file names
	magic  []string // any of which the stream begins with
	open   func(io.Reader) (io.ReadCloser, error)
}

// maxWindow bounds the memory of a zstd decoder, in bytes. zstd --ultra -22 needs as much; --long=31 would need 2 GiB. The xz
// decoder has 64 MiB, which is what xz -9 needs.
const maxWindow = 128 << 20

var decoders = []decoder{
	{Gzip, ".gz", []string{"\x1f\x8b"}, archives.Gz{}.OpenReader},
	{Bzip2, ".bz2", []string{"BZh"}, archives.Bz2{}.OpenReader},
	{Xz, ".xz", []string{"\xfd7zXZ\x00"}, archives.Xz{}.OpenReader},
	{Zstd, ".zst", []string{"\x28\xb5\x2f\xfd"}, archives.Zstd{DecoderOptions: []zstd.DOption{
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2),
	}}.OpenReader},
	{Lz4, ".lz4", []string{"\x04\x22\x4d\x18", "\x02\x21\x4c\x18"}, func(r io.Reader) (io.ReadCloser, error) {
		return archives.Lz4{}.OpenReader(&lz4Frames{r: r})
	}},
}

// longestMagic is how many bytes tell every format.
const longestMagic = 6

// FormatOf is the compression that a file name promises.
func FormatOf(name string) Format {
	_, format := Trim(name)
	return format
}

// Trim takes the suffix of a compression from a file name.
func Trim(name string) (bare string, format Format) {
	lower := strings.ToLower(name)
	for _, d := range decoders {
		if strings.HasSuffix(lower, d.suffix) && len(path.Base(name)) > len(d.suffix) {
			return name[:len(name)-len(d.suffix)], d.format
		}
	}
	return name, None
}

// Open decompresses r. Its content tells how; a stream that is not compressed is passed on as it is, with [None], unless its
// name promises a compression. The name is that of the file, for this and for errors. At most limit bytes come out: one more
// is a [*TooLargeError]. The caller closes what is returned, and r.
func Open(r io.Reader, name string, limit int64) (io.ReadCloser, Format, error) {
	src := &source{r: r}
	buffered := bufio.NewReaderSize(src, 64<<10)
	head, err := buffered.Peek(longestMagic)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, None, fmt.Errorf("reading %s: %w", name, err)
	}
	d := sniff(head)
	if d == nil {
		if promised := FormatOf(name); promised != None {
			return nil, None, &NotCompressedError{Name: name, Format: promised}
		}
		return &output{r: io.NopCloser(buffered), src: src, name: name, limit: limit, left: limit, begun: true}, None, nil
	}
	out := &output{src: src, name: name, format: d.format, limit: limit, left: limit}
	if err := out.guard(func() (err error) { out.r, err = d.open(buffered); return err }); err != nil {
		return nil, d.format, err
	}
	out.begun = true
	return out, d.format, nil
}

func sniff(head []byte) *decoder {
	for i, d := range decoders {
		for _, m := range d.magic {
			if bytes.HasPrefix(head, []byte(m)) {
				return &decoders[i]
			}
		}
	}
	return nil
}

// source remembers what went wrong with reading, which is no damage of the data.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// output is a decompressed stream with a limit.
type output struct {
	r           io.ReadCloser
	src         *source
	name        string
	format      Format
	limit, left int64
	begun       bool // the header was read
	err         error
}

// Read implements [io.Reader].
func (o *output) Read(p []byte) (n int, err error) {
	if o.err != nil {
		return 0, o.err
	}
	if int64(len(p)) > o.left+1 { // one more tells whether that was all
		p = p[:o.left+1]
	}
	if len(p) == 0 {
		return 0, nil
	}
	o.err = o.guard(func() (err error) { n, err = o.r.Read(p); return err })
	if int64(n) > o.left {
		n, o.err = int(o.left), &TooLargeError{Name: o.name, Limit: o.limit}
	}
	o.left -= int64(n)
	return n, o.err
}

// guard runs a decoder and words what it returns. Decoders have panicked on damaged data before.
func (o *output) guard(f func() error) (err error) {
	defer func() {
		if what := recover(); what != nil {
			err = &CorruptError{Name: o.name, Format: o.format, Err: fmt.Errorf("the decoder failed: %v", what)}
		}
	}()
	err = f()
	switch {
	case err == nil:
		return nil
	case o.src.err != nil:
		return fmt.Errorf("reading %s: %w", o.name, o.src.err)
	case errors.Is(err, io.EOF) && o.begun:
		return io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return &CorruptError{Name: o.name, Format: o.format, Err: err}
}

// Close frees the decoder.
func (o *output) Close() error {
	o.err = errClosed
	return o.r.Close()
}

var errClosed = errors.New("the stream is closed")

// TooLargeError says that more came out of a file than was allowed.
type TooLargeError struct {
	Name  string
	Limit int64 // bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s unpacks to more than the %d bytes that are allowed", e.Name, e.Limit)
}

// CorruptError says that compressed data is damaged or cut off.
type CorruptError struct {
	Name   string
	Format Format
	Err    error
}

func (e *CorruptError) Error() string {
	if errors.Is(e.Err, io.ErrUnexpectedEOF) {
		return fmt.Sprintf("%s ends too early; the build or the copy was probably interrupted", e.Name)
	}
	return fmt.Sprintf("%s is damaged, or not what %s can read: %v", e.Name, e.Format, e.Err)
}

// Unwrap gives the decoder's error.
func (e *CorruptError) Unwrap() error { return e.Err }

// NotCompressedError says that a file is not compressed although its name says so.
type NotCompressedError struct {
	Name   string
	Format Format // that the name promises
}

func (e *NotCompressedError) Error() string {
	return fmt.Sprintf("%s is not compressed with %s, as its name says", e.Name, e.Format)
}
