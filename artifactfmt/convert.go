package artifactfmt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
)

// ConvertOptions say how Convert compresses the payload.
type ConvertOptions struct {
	Compression Compression // empty means Gzip
	Level       int         // as for Artifact
	// Progress, if set, is told how much of the stored payload has been read.
	Progress func(done, total int64)
}

// Convert copies an artifact with its payload compressed in another way. All that precedes the payload stays what it is to the
// byte, and so the signature stays valid: it is for checksums of what is in the payload. Those are verified on the way. This also
// works for Legacy artifacts.
//
// Without an error the output is complete; after an error it must be thrown away, since a file of the payload proves to be
// damaged only at its end.
func Convert(ctx context.Context, out Output, in io.Reader, o ReadOptions, c ConvertOptions) (*Info, error) {
	if c.Compression == "" {
		c.Compression = Gzip
	}
	if err := (&Artifact{Compression: c.Compression, Level: c.Level}).checkCompression(); err != nil {
		return nil, err
	}
	var prefix bytes.Buffer
	recorder := &recordingReader{r: contextReader{ctx, in}, record: &prefix}
	r, err := NewReader(recorder, o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	k := &converter{Reader: r, codec: codecFor(c.Compression, c.Level), c: c}
	if k.member, k.suffix, err = r.payloadMember(); err != nil {
		return nil, err
	}
	recorder.record = nil
	prefix.Truncate(int(k.member.start))
	return k.convert(ctx, out, prefix.Bytes())
}

// recordingReader keeps what is read, as long as it has a record.
type recordingReader struct {
	r      io.Reader
	record *bytes.Buffer
}

func (r *recordingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.record != nil {
		r.record.Write(p[:n])
	}
	return n, err
}

type converter struct {
	*Reader
	codec  codec
	c      ConvertOptions
	member *tarMember // the payload
	suffix string     // of its name
}

func (k *converter) convert(ctx context.Context, out Output, prefix []byte) (*Info, error) {
	k.progress(0)
	if err := k.unpack(&progressMember{k: k}, k.suffix); err != nil {
		return nil, err
	}
	first, err := k.Next()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	large := k.largeMember(first)
	header := k.header(0, large)
	if _, err := out.Write(append(prefix, header...)); err != nil {
		return nil, fmt.Errorf("writing the artifact: %w", err)
	}
	size, err := writeFrames(ctx, out, k.codec, k.c.Level, func(f *framer) error { return k.fill(f, first) })
	if err != nil {
		return nil, err
	}
	if err := k.outer.onlyZerosLeft(); err != nil {
		return nil, err
	}
	if err := writeEnd(out, size); err != nil {
		return nil, err
	}
	if size > maxUstarSize && !large {
		return nil, fmt.Errorf("writing the artifact: the payload has grown to %d GiB, for which no place was reserved; write the artifact anew", size>>30)
	}
	if _, err := out.WriteAt(k.header(size, large), int64(len(prefix))); err != nil {
		return nil, fmt.Errorf("writing the artifact: %w", err)
	}
	k.info.Compression = k.c.Compression
	return k.info, nil
}

// progressMember tells how much of the payload member is read.
type progressMember struct {
	k    *converter
	done int64
}

func (p *progressMember) Read(b []byte) (int, error) {
	n, err := p.k.member.Read(b)
	p.done += int64(n)
	if n > 0 {
		p.k.progress(p.done)
	}
	return n, err
}

func (k *converter) progress(done int64) {
	if k.c.Progress != nil {
		k.c.Progress(done, k.member.Size)
	}
}

// largeMember says whether the payload could become too large for a ustar header, before anyone has seen more of it than its
// first file. Without compression, or with one file, its size is known. Else it would have to shrink to a 64th.
func (k *converter) largeMember(first *PayloadFile) bool {
	w := writer{Artifact: Artifact{Compression: k.c.Compression}}
	switch {
	case k.info.Compression == CompressionNone:
		w.Files = []InputFile{{Size: k.member.Size}}
	case first == nil:
	case len(k.info.Files) == 1:
		w.Files = []InputFile{{Size: first.Size}}
	default:
		w.Files = []InputFile{{Size: max(first.Size, min(k.member.Size, math.MaxInt64>>6)<<6)}}
	}
	return w.largeMember()
}

func (k *converter) header(size int64, large bool) []byte {
	name, epoch := "data/0000.tar"+k.codec.suffix, k.stored.version.ModTime
	if large {
		return paxSizeHeader(name, size, epoch)
	}
	return tarHeader(name, min(size, maxUstarSize), epoch)
}

// fill makes the payload archive anew, file by file. When it returns, every line of the manifest was met.
func (k *converter) fill(f *framer, file *PayloadFile) error {
	for file != nil {
		err := addFile(f, k.codec, file.Name, file.Size, k.stored.version.ModTime, file, sha256.New(), func(int) {})
		if file.err != nil && file.err != io.EOF { //nolint:errorlint // damaged data may have io.EOF as their cause, which copy takes for an end
			return file.err
		}
		if err != nil {
			return err
		}
		file, err = k.Next()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return f.add(tarEnd)
}
