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
	maxPlain    int64
	source      *errorKeeper
	r           io.Reader
	ahead       *unpacker // r, if it is one
}

// errorKeeper remembers the error of a source: decompressors wrap and replace errors in many ways.
type errorKeeper struct {
	r    io.Reader
	err  error
	stop <-chan struct{} // nil, or closed when nobody wants more
}

func (k *errorKeeper) Read(p []byte) (int, error) {
	if k.err != nil {
		return 0, k.err
	}
	select {
	case <-k.stop:
		return 0, errStopped
	default:
	}
	n, err := k.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		k.err = err
	}
	return n, err
}

// decompress opens a member by its content. No more than maxPlain bytes will be read from it.
func decompress(r io.Reader, where string, limits Limits, maxPlain int64) (*decompressor, error) {
	return decompressOn(1, r, where, limits, maxPlain)
}

// decompressOn is decompress with several goroutines; with more than one the decompressor must be closed.
func decompressOn(goroutines int, r io.Reader, where string, limits Limits, maxPlain int64) (*decompressor, error) {
	d := &decompressor{compression: CompressionNone, where: where, maxPlain: maxPlain, source: &errorKeeper{r: r}}
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
	if goroutines > 1 {
		err = d.concurrently(in, limits, goroutines)
	} else {
		d.r, err = d.sequential(in, limits)
	}
	if err != nil {
		return nil, d.explain(err)
	}
	return d, nil
}

// sequential returns what unpacks in, which has the decompressor's compression, without further goroutines.
func (d *decompressor) sequential(in *bufio.Reader, limits Limits) (io.Reader, error) {
	switch d.compression {
	case Gzip:
		return gzip.NewReader(in)
	case XZ:
		return newXZReader(in, min(limits.XZDictionary, max(d.maxPlain, minXZDictionary)), limits.XZDictionary), nil
	case Zstd:
		// One goroutine, little memory: this runs on devices.
		return zstd.NewReader(in,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(limits.ZstdWindow))
	}
	return in, nil
}

// close ends the goroutines, if there are any.
func (d *decompressor) close() {
	if d.ahead != nil {
		d.ahead.stop()
	}
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && d.ahead == nil { // which explains by itself
		err = d.explain(err)
	}
	return n, err
}

func (d *decompressor) explain(err error) error {
	if d.source.err != nil {
		return d.source.err
	}
	return d.damaged(err)
}

// damaged explains an error that isn't the source's.
func (d *decompressor) damaged(err error) error {
	var reason string
	err = noEOF(err) // nobody shall take it for the end
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
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
