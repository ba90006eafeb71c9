package artifactfmt

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Write writes an artifact. Each input is read once and the output is written once: the place of all that precedes
// the payload is reserved, the payload streams through while it is hashed and compressed on all cores, and what depends on its
// checksum (header, manifest, signature, size of the payload member) is put in its place last.
//
// The same artifact gives the same bytes, on any machine. Without an error the output is complete, but it isn't synced;
// after an error it must be thrown away.
//
// An *InvalidError is returned before anything is read or written.
func Write(ctx context.Context, out Output, a *Artifact) (*Info, error) {
	w := &writer{Artifact: *a}
	if w.Compression == "" {
		w.Compression = Gzip
	}
	if err := w.check(); err != nil {
		return nil, err
	}
	w.codec = codecs[w.Compression]
	for range w.Files {
		w.sums = append(w.sums, sha256.New())
	}
	reserved, err := w.reserve()
	if err != nil {
		return nil, err
	}
	if _, err := out.Write(make([]byte, reserved)); err != nil {
		return nil, fmt.Errorf("writing the artifact: %w", err)
	}
	size, err := w.writePayload(ctx, out)
	if err != nil {
		return nil, err
	}
	end := append(make([]byte, padding(size)), tarEnd...)
	if _, err := out.Write(end); err != nil {
		return nil, fmt.Errorf("writing the artifact: %w", err)
	}
	prefix, info, err := w.prefix(ctx, size)
	if err != nil {
		return nil, err
	}
	if int64(len(prefix)) != reserved {
		return nil, fmt.Errorf("writing the artifact: what precedes the payload has %d bytes instead of %d", len(prefix), reserved)
	}
	if _, err := out.WriteAt(prefix, 0); err != nil {
		return nil, fmt.Errorf("writing the artifact: %w", err)
	}
	return info, nil
}

type writer struct {
	Artifact
	codec codec
	sums  []hash.Hash // of Files
}

func (w *writer) sum(i int) string { return hex.EncodeToString(w.sums[i].Sum(nil)) }

// payloadSum is the checksum of a root file system image.
func (w *writer) payloadSum() string {
	if len(w.sums) == 0 {
		return ""
	}
	return w.sum(0)
}

// archiveSize is the size of the payload archive before compression.
func (w *writer) archiveSize() int64 {
	size := int64(len(tarEnd))
	for _, f := range w.Files {
		size += memberSize(f.Size)
	}
	return size
}

// largeMember says whether the payload member could be too large for a ustar header. Compression can't be trusted to
// shrink: its worst case grows by far less than the 1/256 allowed for here.
func (w *writer) largeMember() bool {
	size := w.archiveSize()
	if w.Compression != CompressionNone {
		size += size/256 + 1<<20
	}
	return size > maxUstarSize
}

func (w *writer) payloadHeader(size int64) []byte {
	name := "data/0000.tar" + w.codec.suffix
	if w.largeMember() {
		return paxSizeHeader(name, size, w.Epoch)
	}
	return tarHeader(name, size, w.Epoch)
}

// reserve returns the size of all that precedes the payload. No part of it depends on the payload's checksums.
func (w *writer) reserve() (int64, error) {
	header, err := w.encodeHeader(strings.Repeat("0", sumSize))
	if err != nil {
		return 0, err
	}
	size := memberSize(int64(len(versionContent))) + memberSize(int64(len(w.manifest(header).encode()))) +
		memberSize(int64(len(header))) + int64(len(w.payloadHeader(0)))
	if w.Signer != nil {
		size += memberSize(int64(base64.StdEncoding.EncodedLen(w.Signer.SignatureSize())))
	}
	return size, nil
}

func (w *writer) manifest(header []byte) manifest {
	var m manifest
	for i, f := range w.Files {
		m = append(m, manifestLine{Sum: w.sum(i), Name: payloadPrefix + f.Name})
	}
	sum := func(data []byte) string { s := sha256.Sum256(data); return hex.EncodeToString(s[:]) }
	return append(m,
		manifestLine{Sum: sum(header), Name: headerName},
		manifestLine{Sum: sum([]byte(versionContent)), Name: versionName})
}

// writePayload streams the payload archive to out and returns its size there.
func (w *writer) writePayload(ctx context.Context, out Output) (int64, error) {
	f, err := newFramer(ctx, out, w.codec, w.Level)
	if err != nil {
		return 0, err
	}
	if err := w.fillPayload(f); err != nil {
		f.stop(err)
		return 0, err
	}
	if err := f.finish(); err != nil {
		return 0, err
	}
	if w.codec.trailer == nil {
		return f.written, nil
	}
	trailer := w.codec.trailer(f.sizes)
	if _, err := out.Write(trailer); err != nil {
		return 0, fmt.Errorf("writing the artifact: %w", err)
	}
	return f.written + int64(len(trailer)), nil
}

func (w *writer) fillPayload(f *framer) error {
	var done, total int64
	for _, file := range w.Files {
		total += file.Size
	}
	progress := func(n int) {
		done += int64(n)
		if w.Progress != nil {
			w.Progress(done, total)
		}
	}
	progress(0)
	for i, file := range w.Files {
		if err := f.add(tarHeader(file.Name, file.Size, w.Epoch)); err != nil {
			return err
		}
		// Frames begin with large files: blocks of an image then sit in frames at the same places whatever precedes it.
		if file.Size >= int64(w.codec.frameSize) {
			f.cut()
		}
		if err := w.copyFile(f, i, progress); err != nil {
			return err
		}
		if err := f.add(make([]byte, padding(file.Size))); err != nil {
			return err
		}
	}
	return f.add(tarEnd)
}

func (w *writer) copyFile(f *framer, i int, progress func(n int)) error {
	file := w.Files[i]
	r, err := file.Open()
	if err != nil {
		return fmt.Errorf("reading payload file %q: %w", file.Name, err)
	}
	defer r.Close()
	if err := f.copy(r, file.Size, w.sums[i], progress); err != nil {
		if f.ctx.Err() != nil { // not the file's fault
			return err
		}
		return fmt.Errorf("reading payload file %q: %w", file.Name, err)
	}
	return nil
}

// prefix makes all that precedes the payload, whose member has the given size.
func (w *writer) prefix(ctx context.Context, size int64) ([]byte, *Info, error) {
	header, err := w.encodeHeader(w.payloadSum())
	if err != nil {
		return nil, nil, err
	}
	manifest := w.manifest(header).encode()
	prefix := appendMember(nil, versionName, []byte(versionContent), w.Epoch)
	prefix = appendMember(prefix, manifestName, manifest, w.Epoch)
	if w.Signer != nil {
		signature, err := w.Signer.Sign(ctx, manifest)
		if err != nil {
			return nil, nil, fmt.Errorf("signing the artifact: %w", err)
		}
		if len(signature) != w.Signer.SignatureSize() {
			return nil, nil, fmt.Errorf("signing the artifact: the signature has %d bytes instead of %d", len(signature), w.Signer.SignatureSize())
		}
		prefix = appendMember(prefix, signatureName, []byte(base64.StdEncoding.EncodeToString(signature)), w.Epoch)
	}
	prefix = appendMember(prefix, headerName, header, w.Epoch)
	prefix = append(prefix, w.payloadHeader(size)...)
	info, err := w.info(header)
	return prefix, info, err
}

// info describes the artifact by reading what was written: a header that the reader doesn't take must not leave the house.
func (w *writer) info(header []byte) (*Info, error) {
	h, err := readHeader(strings.NewReader(string(header)), headerName, defaultLimits)
	if err != nil {
		return nil, fmt.Errorf("checking the header that was written: %w", err)
	}
	info := h.publicInfo()
	info.Compression = w.Compression
	for i, f := range w.Files {
		info.Files = append(info.Files, FileInfo{Name: f.Name, Size: f.Size, SHA256: w.sum(i)})
	}
	if w.Signer != nil {
		info.Signed = true
		if k, ok := w.Signer.(interface{ KeyID() string }); ok {
			info.KeyID = k.KeyID()
		}
	}
	return info, nil
}
