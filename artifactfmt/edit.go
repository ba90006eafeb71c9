package artifactfmt

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// ErrLegacy is returned for what can only be read: artifacts of version 2 of the format, and augmented ones.
var ErrLegacy = errors.New("artifacts of version 2 of the format and augmented artifacts cannot be changed; write the artifact anew")

// Rewrite copies an artifact with changes, but without unpacking its payload: a new header is put before the payload as it is
// stored. That costs the time of copying a file, and less where the kernel copies from *os.File to *os.File.
//
// change is given the artifact as it is, with nothing left to defaults (NoDefaultProvides is set, and either ClearsProvides or
// NoClears). It may change all but Files and Compression. The new artifact is signed by the Signer that it sets, or not at all: the old
// signature is for the old manifest. An artifact that some reader would refuse is an *InvalidError.
//
// Manifest, header and, with a verifier, the signature of the input are checked, and that its payload is there as a whole; all
// before anything is written. The payload's content isn't: its checksums go into the new manifest as they are in the old
// one, so that Verify finds damage before and after. The names and sums of its files are in Info, their sizes are not.
func Rewrite(ctx context.Context, out io.Writer, in io.ReadSeeker, o ReadOptions, change func(a *Artifact) error) (*Info, error) {
	s, err := openSource(ctx, in, o)
	if err != nil {
		return nil, err
	}
	if s.info.Version != 3 || s.info.Augmented {
		return nil, ErrLegacy
	}
	compression, err := s.payloadCompression()
	if err != nil {
		return nil, err
	}
	a := s.artifact(compression)
	files := slices.Clone(a.Files)
	if err := change(a); err != nil {
		return nil, err
	}
	if a.Compression != compression || !slices.EqualFunc(a.Files, files, func(x, y InputFile) bool { return x.Name == y.Name && x.Size == y.Size }) {
		return nil, invalid("payload", "its files and compression cannot be changed without unpacking it")
	}
	if err := a.checkStored(); err != nil {
		return nil, err
	}
	header := tarHeader("data/0000.tar"+suffixOf(compression), s.payload.Size, a.Epoch)
	prefix, info, err := a.prefix(ctx, s.info.Files, header)
	if err != nil {
		return nil, err
	}
	return info, s.splice(ctx, out, prefix)
}

// Resign copies an artifact with another signature: sign is given the manifest and returns its signature. With nil the artifact
// becomes an unsigned one. All other members stay what they are to the byte, so this also works for Legacy artifacts.
//
// What is checked is what Rewrite checks; Verifier is for the signature that the input has.
func Resign(ctx context.Context, out io.Writer, in io.ReadSeeker, o ReadOptions, sign func(ctx context.Context, manifest []byte) ([]byte, error)) (*Info, error) {
	s, err := openSource(ctx, in, o)
	if err != nil {
		return nil, err
	}
	info := s.info
	info.Signed, info.KeyID = false, ""
	old := s.stored.signatureWarnings
	info.Warnings = slices.DeleteFunc(info.Warnings, func(w string) bool { return slices.Contains(old, w) })
	var member []byte
	if sign != nil {
		signature, err := sign(ctx, slices.Clone(s.stored.manifest))
		if err != nil {
			return nil, fmt.Errorf("signing the artifact: %w", err)
		}
		text := base64.StdEncoding.EncodeToString(signature)
		if len(signature) == 0 || len(text) > maxSignature {
			return nil, fmt.Errorf("signing the artifact: %d bytes are no signature", len(signature))
		}
		member = appendMember(nil, signatureName, []byte(text), s.stored.version.ModTime)
		info.Signed = true
		info.Warnings = append(info.Warnings, signatureWarnings(signature)...)
	}
	if err := s.copyRange(ctx, out, 0, s.stored.afterManifest); err != nil {
		return nil, err
	}
	if _, err := out.Write(member); err != nil {
		return nil, fmt.Errorf("writing the artifact: %w", err)
	}
	if err := s.copyRange(ctx, out, s.stored.afterSignature, s.payload.data); err != nil {
		return nil, err
	}
	return info, s.splice(ctx, out, nil)
}

// Signed is the part of an artifact that signatures are about.
type Signed struct {
	Manifest  []byte // as it is stored; a signature is valid for exactly these bytes
	Signature []byte // decoded; nil for an unsigned artifact
	Info      *Info
}

// ReadManifest reads an artifact up to its payload, as NewReader does.
func ReadManifest(r io.Reader, o ReadOptions) (*Signed, error) {
	a, err := NewReader(r, o)
	if err != nil {
		return nil, err
	}
	return &Signed{Manifest: a.stored.manifest, Signature: a.stored.signature, Info: a.info}, nil
}

// Rename changes the artifact's name, and with it the versions that the artifact provides under the old name: the values of keys
// that end in ".version", such as rootfs-image.version.
func Rename(a *Artifact, name string) {
	for key, value := range a.Provides {
		if strings.HasSuffix(key, ".version") && value == a.Name {
			a.Provides[key] = name
		}
	}
	a.Name = name
}

// source is an artifact that is copied with changes.
type source struct {
	*Reader
	in      io.ReadSeeker
	base    int64 // where in the input the artifact begins
	payload *tarMember
}

// openSource reads an artifact up to its payload, and what follows that.
func openSource(ctx context.Context, in io.ReadSeeker, o ReadOptions) (*source, error) {
	base, err := in.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, readError("", err)
	}
	s := &source{in: in, base: base}
	if s.Reader, err = NewReader(contextReader{ctx, in}, o); err != nil {
		return nil, err
	}
	if s.payload, _, err = s.payloadMember(); err != nil {
		return nil, err
	}
	return s, s.checkEnd(ctx)
}

// checkEnd demands that the artifact ends behind its payload.
func (s *source) checkEnd(ctx context.Context) error {
	size, err := s.in.Seek(0, io.SeekEnd)
	if err != nil {
		return readError("", err)
	}
	end := s.payload.data + s.payload.Size + padding(s.payload.Size)
	if size-s.base < end {
		return ErrTruncated
	}
	if err := s.seek(end); err != nil {
		return err
	}
	rest := newTarReader(bufio.NewReader(contextReader{ctx, s.in}), "")
	m, err := rest.next()
	switch {
	case errors.Is(err, io.EOF):
		return rest.onlyZerosLeft()
	case err != nil:
		return err
	}
	return malformed("", "the member %q follows the payload", m.Name)
}

// seek goes to an offset of the artifact.
func (s *source) seek(offset int64) error {
	if _, err := s.in.Seek(s.base+offset, io.SeekStart); err != nil {
		return readError("", err)
	}
	return nil
}

// payloadCompression looks at the beginning of the payload, which counts for more than its name.
func (s *source) payloadCompression() (Compression, error) {
	if err := s.seek(s.payload.data); err != nil {
		return "", err
	}
	start := make([]byte, min(6, s.payload.Size))
	if _, err := io.ReadFull(s.in, start); err != nil {
		return "", readError("", err)
	}
	c := sniff(start)
	if c == CompressionNone && s.payload.Size < int64(len(tarEnd)) {
		return "", malformed(s.where, "it ends too early")
	}
	return c, nil
}

// artifact describes what was read. It shares nothing with the reader.
func (s *source) artifact(c Compression) *Artifact {
	i := s.info
	a := &Artifact{
		Name: i.Name, Group: i.Group, DeviceTypes: slices.Clone(i.DeviceTypes),
		DependsNames: slices.Clone(i.DependsNames), DependsGroups: slices.Clone(i.DependsGroups),
		PayloadType: i.PayloadType,
		Provides:    map[string]string{}, NoDefaultProvides: true, Depends: map[string]string{},
		ClearsProvides: slices.Clone(i.ClearsProvides), NoClears: i.NoClears,
		MetaData: slices.Clone(i.MetaData), Scripts: slices.Clone(s.scripts),
		Compression: c, Epoch: s.stored.version.ModTime,
	}
	maps.Copy(a.Provides, i.Provides)
	maps.Copy(a.Depends, i.Depends)
	for _, f := range i.Files {
		a.Files = append(a.Files, InputFile{Name: f.Name, Size: f.Size})
	}
	return a
}

// checkStored is check for an artifact whose payload exists already, so that nobody opens its files or knows their size.
func (a *Artifact) checkStored() error {
	all := *a
	all.Files = slices.Clone(a.Files)
	for i := range all.Files {
		all.Files[i].Size = 1
		all.Files[i].Open = func() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }
	}
	return all.check()
}

// splice writes the prefix, the payload as it is stored, and the artifact's end.
func (s *source) splice(ctx context.Context, out io.Writer, prefix []byte) error {
	if len(prefix) > 0 {
		if _, err := out.Write(prefix); err != nil {
			return fmt.Errorf("writing the artifact: %w", err)
		}
	}
	if err := s.copyRange(ctx, out, s.payload.data, s.payload.data+s.payload.Size); err != nil {
		return err
	}
	return writeEnd(out, s.payload.Size)
}

// copyRange copies bytes of the artifact as they are. It gives io.Copy the input itself, so that the kernel copies
// (copy_file_range) from one *os.File to another, in pieces between which the context is asked.
func (s *source) copyRange(ctx context.Context, out io.Writer, from, to int64) error {
	const piece = 64 << 20
	if err := s.seek(from); err != nil {
		return err
	}
	for from < to {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.CopyN(out, s.in, min(piece, to-from))
		from += n
		switch {
		case errors.Is(err, io.EOF):
			return ErrTruncated
		case err != nil:
			return fmt.Errorf("copying the artifact: %w", err)
		}
	}
	return nil
}

// sniff tells a compression by the first bytes.
func sniff(start []byte) Compression {
	for _, m := range magics {
		if bytes.HasPrefix(start, m.magic) {
			return m.compression
		}
	}
	return CompressionNone
}

// suffixOf is what the name of a member with this compression ends with.
func suffixOf(c Compression) string {
	switch c {
	case Gzip:
		return ".gz"
	case XZ:
		return ".xz"
	case Zstd:
		return ".zst"
	}
	return ""
}
