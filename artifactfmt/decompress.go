package artifactfmt

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// magics tell compressions apart by their first bytes, as the C++ client does (mender-artifact goes by the name's suffix).
var magics = []struct {
	compression Compression
	magic       []byte
}{
	{Gzip, []byte{0x1f, 0x8b}},
	{XZ, []byte{0xfd, '7', 'z', 'X', 'Z', 0}},
	{Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd}},
}

// compressionOf returns what the suffix of a member's name says, and whether it is one.
// It doesn't ask codecs: whoever only reads, such as the agent, shall not have the encoders linked in.
func compressionOf(suffix string) (Compression, bool) {
	switch suffix {
	case "":
		return CompressionNone, true
	case ".gz":
		return Gzip, true
	case ".xz":
		return XZ, true
	case ".zst":
		return Zstd, true
	}
	return "", false
}

// decompressor unpacks one member. Its errors tell damaged data (*FormatError) from a source that fails or ends early.
type decompressor struct {
	compression Compression
	where       string
	source      *errorKeeper
	r           io.Reader
}

// errorKeeper remembers the error of a source: decompressors wrap and replace errors in many ways.
type errorKeeper struct {
	r   io.Reader
	err error
}

func (k *errorKeeper) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		k.err = err
	}
	return n, err
}

// decompress opens a member by its content. No more than maxPlain bytes will be read from it.
func decompress(r io.Reader, where string, limits Limits, maxPlain int64) (*decompressor, error) {
	d := &decompressor{compression: CompressionNone, where: where, source: &errorKeeper{r: r}}
	in := bufio.NewReaderSize(d.source, 32<<10)
	start, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, d.explain(err)
	}
	for _, m := range magics {
		if bytes.HasPrefix(start, m.magic) {
			d.compression = m.compression
		}
	}
	switch d.compression {
	case CompressionNone:
		d.r = in
	case Gzip:
		d.r, err = gzip.NewReader(in)
	case XZ:
		d.r = newXZReader(in, min(limits.XZDictionary, max(maxPlain, minXZDictionary)), limits.XZDictionary)
	case Zstd:
		// One goroutine, little memory: this runs on devices.
		d.r, err = zstd.NewReader(in,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(limits.ZstdWindow))
	}
	if err != nil && d.compression != CompressionNone {
		return nil, d.explain(err)
	}
	return d, nil
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = d.explain(err)
	}
	return n, err
}

func (d *decompressor) explain(err error) error {
	if d.source.err != nil {
		return d.source.err
	}
	var reason string
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		reason = "the compressed data end too early"
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, errXZDictionary):
		reason = "unpacking it takes more memory than is allowed"
	case errors.Is(err, errXZFilter):
		reason = "it uses an xz filter that mender-artifact cannot read"
	default:
		// The libraries prefix their messages with the compression's name.
		text := err.Error()
		if _, after, found := strings.Cut(text, ": "); found {
			text = after
		}
		reason = "the " + string(d.compression) + " data are damaged: " + text
	}
	return &FormatError{Member: d.where, Reason: reason, Err: err}
}
