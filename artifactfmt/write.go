package artifactfmt

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
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
	w, err := newWriter(a)
	if err != nil {
		return nil, err
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
	if err := writeEnd(out, size); err != nil {
		return nil, err
	}
	prefix, info, err := w.prefix(ctx, w.files(), w.payloadHeader(size))
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

// writeEnd writes what follows a payload of the given size.
func writeEnd(out io.Writer, size int64) error {
	if _, err := out.Write(append(make([]byte, padding(size)), tarEnd...)); err != nil {
		return fmt.Errorf("writing the artifact: %w", err)
	}
	return nil
}

type writer struct {
	Artifact
	codec       codec
	sums        []hash.Hash // of Files
	done, total int64       // bytes, for Progress
}

// newWriter checks the artifact.
func newWriter(a *Artifact) (*writer, error) {
	w := &writer{Artifact: *a}
	if w.Compression == "" {
		w.Compression = Gzip
	}
	if err := w.check(); err != nil {
		return nil, err
	}
	w.codec = codecFor(w.Compression, w.Level)
	for _, f := range w.Files {
		w.sums = append(w.sums, sha256.New())
		w.total += f.Size
	}
	return w, nil
}

// files describes the payload, as far as it was hashed.
func (w *writer) files() []FileInfo {
	var files []FileInfo
	for i, f := range w.Files {
		files = append(files, FileInfo{Name: f.Name, Size: f.Size, SHA256: hex.EncodeToString(w.sums[i].Sum(nil))})
	}
	return files
}

// payloadSum is the checksum of a root file system image.
func payloadSum(files []FileInfo) string {
	if len(files) == 0 {
		return ""
	}
	return files[0].SHA256
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
	zeros := strings.Repeat("0", sumSize)
	sums := make(map[string]string, len(w.Sidecars))
	for _, s := range w.Sidecars {
		sums[s.Key] = zeros
	}
	header, err := w.providing(sums).encodeHeader(zeros)
	if err != nil {
		return 0, err
	}
	size := memberSize(int64(len(versionContent))) + memberSize(int64(len(listMembers(w.files(), header).encode()))) +
		memberSize(int64(len(header))) + int64(len(w.payloadHeader(0)))
	if w.Signer != nil {
		size += memberSize(int64(base64.StdEncoding.EncodedLen(w.Signer.SignatureSize())))
	}
	return size, nil
}

// listMembers makes the manifest of an artifact with these files.
func listMembers(files []FileInfo, header []byte) manifest {
	var m manifest
	for _, f := range files {
		m = append(m, manifestLine{Sum: f.SHA256, Name: payloadPrefix + f.Name})
	}
	sum := func(data []byte) string { s := sha256.Sum256(data); return hex.EncodeToString(s[:]) }
	return append(m,
		manifestLine{Sum: sum(header), Name: headerName},
		manifestLine{Sum: sum([]byte(versionContent)), Name: versionName})
}

// writePayload streams the payload archive to out and returns its size there.
func (w *writer) writePayload(ctx context.Context, out io.Writer) (int64, error) {
	return writeFrames(ctx, out, w.codec, w.Level, w.fillPayload)
}

// writeFrames writes what fill gives to the framer, in the codec's form, and returns its size there.
func writeFrames(ctx context.Context, out io.Writer, c codec, level int, fill func(f *framer) error) (int64, error) {
	f, err := newFramer(ctx, out, c, level)
	if err != nil {
		return 0, err
	}
	if err := fill(f); err != nil {
		f.stop(err)
		return 0, err
	}
	if err := f.finish(); err != nil {
		return 0, err
	}
	if c.trailer == nil {
		return f.written, nil
	}
	trailer := c.trailer(f.sizes)
	if _, err := out.Write(trailer); err != nil {
		return 0, fmt.Errorf("writing the artifact: %w", err)
	}
	return f.written + int64(len(trailer)), nil
}

func (w *writer) fillPayload(f *framer) error {
	progress := func(n int) {
		w.done += int64(n)
		if w.Progress != nil {
			w.Progress(w.done, w.total)
		}
	}
	progress(0)
	for i := range w.Files {
		if err := w.copyFile(f, i, progress); err != nil {
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
	if err := addFile(f, w.codec, file.Name, file.Size, w.Epoch, r, w.sums[i], progress); err != nil {
		if f.ctx.Err() != nil { // not the file's fault
			return err
		}
		return fmt.Errorf("reading payload file %q: %w", file.Name, err)
	}
	return nil
}

// addFile adds one file to a payload archive.
func addFile(f *framer, c codec, name string, size int64, epoch time.Time, r io.Reader, h hash.Hash, progress func(n int)) error {
	if err := f.add(tarHeader(name, size, epoch)); err != nil {
		return err
	}
	// Frames begin with large files: blocks of an image then sit in frames at the same places whatever precedes it.
	if size >= int64(c.frameSize) {
		f.cut()
	}
	if err := f.copy(r, size, h, progress); err != nil {
		return err
	}
	return f.add(make([]byte, padding(size)))
}

// prefix makes all that precedes the payload: of that, it needs the files and the header of the member that holds them.
func (a *Artifact) prefix(ctx context.Context, files []FileInfo, payloadHeader []byte) ([]byte, *Info, error) {
	sums, err := a.makeSidecars(ctx, files)
	if err != nil {
		return nil, nil, err
	}
	header, err := a.providing(sums).encodeHeader(payloadSum(files))
	if err != nil {
		return nil, nil, err
	}
	manifest := listMembers(files, header).encode()
	prefix := appendMember(nil, versionName, []byte(versionContent), a.Epoch)
	prefix = appendMember(prefix, manifestName, manifest, a.Epoch)
	if a.Signer != nil {
		signature, err := a.Signer.Sign(ctx, manifest)
		if err != nil {
			return nil, nil, fmt.Errorf("signing the artifact: %w", err)
		}
		if len(signature) != a.Signer.SignatureSize() {
			return nil, nil, fmt.Errorf("signing the artifact: the signature has %d bytes instead of %d", len(signature), a.Signer.SignatureSize())
		}
		prefix = appendMember(prefix, signatureName, []byte(base64.StdEncoding.EncodeToString(signature)), a.Epoch)
	}
	prefix = appendMember(prefix, headerName, header, a.Epoch)
	prefix = append(prefix, payloadHeader...)
	info, err := a.writtenInfo(header, files)
	return prefix, info, err
}

// providing returns the artifact with more provides.
func (a *Artifact) providing(more map[string]string) *Artifact {
	if len(more) == 0 {
		return a
	}
	b := *a
	b.Provides = make(map[string]string, len(a.Provides)+len(more))
	maps.Copy(b.Provides, a.Provides)
	maps.Copy(b.Provides, more)
	return &b
}

// makeSidecars has the documents about the artifact made, and returns their checksums by key.
func (a *Artifact) makeSidecars(ctx context.Context, files []FileInfo) (map[string]string, error) {
	if len(a.Sidecars) == 0 {
		return nil, nil
	}
	header, err := a.encodeHeader(payloadSum(files))
	if err != nil {
		return nil, err
	}
	sums := make(map[string]string, len(a.Sidecars))
	for _, s := range a.Sidecars {
		info, err := a.writtenInfo(header, slices.Clone(files)) // to each its own, lest it be changed
		if err != nil {
			return nil, err
		}
		info.KeyID = ""
		sum, err := s.Make(ctx, info)
		if err != nil {
			return nil, fmt.Errorf("making the document for %q: %w", s.Key, err)
		}
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size || sum != strings.ToLower(sum) {
			return nil, fmt.Errorf("making the document for %q: %.100q is not a SHA-256 of 64 lower-case hexadecimal digits", s.Key, sum)
		}
		sums[s.Key] = sum
	}
	return sums, nil
}

// writtenInfo describes the artifact by reading what was written: a header that the reader doesn't take must not leave the house.
func (a *Artifact) writtenInfo(header []byte, files []FileInfo) (*Info, error) {
	h, err := readHeader(strings.NewReader(string(header)), headerName, defaultLimits)
	if err != nil {
		return nil, fmt.Errorf("checking the header that was written: %w", err)
	}
	info := h.publicInfo()
	info.Compression = a.Compression
	info.Files = files
	if a.Signer != nil {
		info.Signed = true
		if k, ok := a.Signer.(interface{ KeyID() string }); ok {
			info.KeyID = k.KeyID()
		}
	}
	return info, nil
}
