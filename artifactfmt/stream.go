package artifactfmt

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// errChanged is returned by WriteStream when the inputs differ from what they were at first.
var errChanged = errors.New("an input was changed while it was being read; write the artifact again")

// WriteStream is Write for pipes and sockets, where nothing can be put into its place later. It reads each input twice: the
// first time only to learn the checksums and the compressed size, which precede the payload. So it takes nearly twice the
// time of Write (hence write to a file when there is a choice), no temporary file, and gives the same bytes.
//
// Progress counts both passes. After an error the output must be thrown away.
func WriteStream(ctx context.Context, out io.Writer, a *Artifact) (*Info, error) {
	w, err := newWriter(a)
	if err != nil {
		return nil, err
	}
	if _, err := w.reserve(); err != nil { // finds what would be too large, before anything is read
		return nil, err
	}
	w.total *= 2
	size, err := w.writePayload(ctx, io.Discard)
	if err != nil {
		return nil, err
	}
	prefix, info, err := w.prefix(ctx, w.files(), w.payloadHeader(size))
	if err != nil {
		return nil, err
	}
	if _, err := out.Write(prefix); err != nil {
		return nil, fmt.Errorf("writing the artifact: %w", err)
	}
	first := w.files()
	for _, h := range w.sums {
		h.Reset()
	}
	again, err := w.writePayload(ctx, &limitedWriter{out: out, left: size})
	if errors.Is(err, errChanged) {
		return nil, errChanged
	}
	if err != nil {
		return nil, err
	}
	for i, f := range w.files() {
		if f != first[i] {
			return nil, fmt.Errorf("payload file %q: %w", f.Name, errChanged)
		}
	}
	if again != size {
		return nil, errChanged
	}
	return info, writeEnd(out, size)
}

// limitedWriter lets nobody write more than was announced.
type limitedWriter struct {
	out  io.Writer
	left int64
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		return 0, errChanged
	}
	n, err := l.out.Write(p)
	l.left -= int64(n)
	return n, err
}
