package artifactfmt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"slices"
	"strings"
)

// ReadOptions say how to read.
type ReadOptions struct {
	// Verifier, if set, must verify the artifact's signature. Without a signature the error is ErrUnsigned, with one that
	// does not verify ErrSignature, both before anything else of the artifact is trusted.
	Verifier Verifier
	Limits   Limits
	// Legacy also reads what today's devices refuse: version 2 of the format, and augmented artifacts, of which the signature
	// covers only a part.
	Legacy bool
	// Concurrency is how many goroutines unpack a payload of independent frames; 0 means 1. Each costs a frame of memory.
	Concurrency int
}

// Reader reads an artifact as a stream: NewReader reads all that precedes the payload, Next goes from file to file.
type Reader struct {
	limits   Limits
	outer    *tarReader
	info     *Info
	scripts  []Script
	manifest manifest
	met      map[string]bool // lines of the manifest that were met

	payload *decompressor
	inner   *tarReader
	where   string // the payload member
	left    int64  // bytes that the payload may still have
	current *PayloadFile
	err     error // of Next, once it has failed or ended
}

// NewReader reads an artifact up to its payload. When it returns, version and header are the ones that the manifest
// lists, and the manifest is signed as the options demand.
func NewReader(r io.Reader, o ReadOptions) (*Reader, error) {
	limits := o.Limits.withDefaults()
	a := &Reader{limits: limits, outer: newTarReader(bufio.NewReaderSize(r, 32<<10), ""), met: make(map[string]bool), left: limits.Payload}
	version, err := a.readVersion()
	if err != nil {
		return nil, err
	}
	raw, err := a.readManifest()
	if err != nil {
		return nil, err
	}
	signed := Info{}
	member, err := a.member("the header")
	if err != nil {
		return nil, err
	}
	if member.Name == signatureName {
		if signed, err = checkSignature(member, raw, o.Verifier); err != nil {
			return nil, err
		}
		if member, err = a.member("the header"); err != nil {
			return nil, err
		}
	} else if o.Verifier != nil {
		return nil, ErrUnsigned
	}
	var warnings []string
	if a.manifest, warnings, err = parseManifest(raw, limits); err != nil {
		return nil, err
	}
	if err := a.meet(versionName, version); err != nil {
		return nil, err
	}
	h, err := a.readHeader(member)
	if err != nil {
		return nil, err
	}
	a.info, a.scripts = h.publicInfo(), h.scripts
	a.info.Signed, a.info.KeyID = signed.Signed, signed.KeyID
	a.info.Warnings = slices.Concat(warnings, signed.Warnings, a.info.Warnings)
	return a, a.checkFiles()
}

// member returns the next member of the artifact, which must be there and regular.
func (a *Reader) member(wanted string) (*tarMember, error) {
	m, err := a.outer.next()
	if errors.Is(err, io.EOF) {
		return nil, malformed("", "%s is missing", wanted)
	}
	if err != nil {
		return nil, err
	}
	if m.Name == "manifest-augment" || strings.HasPrefix(m.Name, "header-augment.tar") {
		return nil, malformed(m.Name, "augmented artifacts are not supported (nor by Mender clients from 4.0)")
	}
	return m, m.regular()
}

func (a *Reader) small(name string, limit int64) ([]byte, error) {
	m, err := a.member(name)
	if err != nil {
		return nil, err
	}
	if m.Name != name {
		return nil, malformed("", "expected the member %q, found %q", name, m.Name)
	}
	if m.Size > limit {
		return nil, malformed(name, "it is larger than %d KiB", limit>>10)
	}
	return m.readAll()
}

func (a *Reader) readVersion() ([]byte, error) {
	data, err := a.small(versionName, 4<<10)
	if err != nil {
		return nil, err
	}
	return data, parseVersion(data)
}

// parseVersion accepts exactly format "mender" in version 3.
func parseVersion(data []byte) error {
	if err := checkJSON(data, 4, foldCase); err != nil {
		return &FormatError{Member: versionName, Reason: err.Error()}
	}
	var v struct {
		Format  string
		Version json.Number
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return malformed(versionName, "it does not say which format and version this is")
	}
	switch {
	case v.Format != "mender":
		return malformed(versionName, "the format is %q, not %q", v.Format, "mender")
	case v.Version != "3":
		return malformed(versionName, "version %s of the format is not supported; version 3 is", v.Version)
	}
	return nil
}

func (a *Reader) readManifest() ([]byte, error) {
	return a.small(manifestName, a.limits.ManifestLength)
}

// checkSignature checks the signature over the manifest as it is stored, before anyone has interpreted that.
func checkSignature(m *tarMember, manifest []byte, verifier Verifier) (Info, error) {
	if m.Size > 4<<10 {
		return Info{}, malformed(signatureName, "it is larger than any signature")
	}
	text, err := m.readAll()
	if err != nil {
		return Info{}, err
	}
	info := Info{Signed: true}
	plain := bytes.TrimRight(text, "\r\n")
	if len(plain) != len(text) {
		info.Warnings = append(info.Warnings, "manifest.sig: it ends with a line break (Mender clients from 4.0 refuse it)")
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(string(plain))
	if err != nil || bytes.ContainsAny(plain, "\r\n") {
		return Info{}, malformed(signatureName, "it is not base64 on one line")
	}
	if len(signature) < 256 && len(signature) != 64 {
		info.Warnings = append(info.Warnings, "manifest.sig: an ECDSA signature in ASN.1 form (mender-artifact before 3.11.3 refuses it)")
	}
	if verifier != nil {
		if info.KeyID, err = verifier.Verify(manifest, signature); err != nil {
			return Info{}, fmt.Errorf("%w: %w", ErrSignature, err)
		}
	}
	return info, nil
}

// meet demands that the manifest lists content under name.
func (a *Reader) meet(name string, content []byte) error {
	want := a.manifest.sum(name)
	if want == "" {
		return malformed(manifestName, "it does not list %q", name)
	}
	sum := sha256.Sum256(content)
	if got := hex.EncodeToString(sum[:]); got != want {
		return &ChecksumError{Name: name, Want: want, Got: got}
	}
	a.met[name] = true
	return nil
}

// readHeader reads the header. It is small, so it is in memory and its checksum is met before it is unpacked.
func (a *Reader) readHeader(m *tarMember) (*header, error) {
	suffix, isHeader := strings.CutPrefix(m.Name, headerName)
	named, known := compressionOf(suffix)
	if !isHeader || !known {
		return nil, malformed("", "expected the header, found the member %q", m.Name)
	}
	if m.Size > a.limits.Header {
		return nil, malformed(m.Name, "it is larger than %d MiB", a.limits.Header>>20)
	}
	packed, err := m.readAll()
	if err != nil {
		return nil, err
	}
	if err := a.meet(m.Name, packed); err != nil {
		return nil, err
	}
	d, err := decompress(bytes.NewReader(packed), m.Name, a.limits, a.limits.Header)
	if err != nil {
		return nil, err
	}
	h, err := readHeader(d, m.Name, a.limits)
	if err != nil {
		return nil, err
	}
	if d.compression != named {
		h.warn(m.Name, "its content is compressed in another way than its name says (mender-artifact refuses it)")
	}
	return h, nil
}

// checkFiles looks at the names in the manifest: each must be the version, the header or a file of the payload.
func (a *Reader) checkFiles() error {
	for _, l := range a.manifest {
		name, isFile := strings.CutPrefix(l.Name, payloadPrefix)
		if !isFile {
			if !a.met[l.Name] {
				return malformed(manifestName, "it lists %q, which is not in the artifact", l.Name)
			}
			continue
		}
		if p := fileNameProblem(name); p != "" {
			return malformed(manifestName, "the payload file name %q cannot be used: %s", name, p)
		}
		a.info.Files = append(a.info.Files, FileInfo{Name: name, Size: -1, SHA256: l.Sum})
	}
	switch n := len(a.info.Files); {
	case a.info.PayloadType == bootstrapType && n > 0:
		return malformed(manifestName, "it lists files, but the artifact has no payload type")
	case a.info.PayloadType == RootfsImage && n != 1:
		return malformed(manifestName, "it lists %d files; a %s artifact has one", n, RootfsImage)
	}
	return nil
}

// Info describes the artifact. The sizes of payload files are known when they have been read, the payload's compression after the
// first Next.
func (a *Reader) Info() *Info { return a.info }

// Scripts returns the state scripts, in the artifact's order.
func (a *Reader) Scripts() []Script { return a.scripts }

var dataName = regexp.MustCompile(`^data/([0-9]{4})\.tar(\.gz|\.xz|\.zst)?$`)

// Next returns the next file of the payload. What the caller has left unread of the one before is read and checked first.
// When the payload is complete, every line of the manifest was met and the artifact has ended, the error is io.EOF.
func (a *Reader) Next() (*PayloadFile, error) {
	if a.err != nil {
		return nil, a.err
	}
	f, err := a.next()
	if err != nil {
		a.err = err
		return nil, err
	}
	return f, nil
}

func (a *Reader) next() (*PayloadFile, error) {
	if a.payload == nil {
		if err := a.openPayload(); err != nil {
			return nil, err
		}
	}
	if a.current != nil {
		if _, err := io.Copy(io.Discard, a.current); err != nil {
			return nil, err
		}
	}
	m, err := a.inner.next()
	if errors.Is(err, io.EOF) {
		if err := a.finish(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	if err := m.regular(); err != nil {
		return nil, err
	}
	if p := fileNameProblem(m.Name); p != "" {
		return nil, malformed(m.where, "the name cannot be used: %s", p)
	}
	listed := payloadPrefix + m.Name
	want := a.manifest.sum(listed)
	switch {
	case want == "":
		return nil, malformed(m.where, "the manifest does not list it")
	case a.met[listed]:
		return nil, malformed(m.where, "it is there twice")
	case m.Size > a.left:
		return nil, malformed(m.where, "the payload is larger than the %d bytes that are allowed", a.limits.Payload)
	}
	a.left -= m.Size
	a.met[listed] = true
	a.current = &PayloadFile{Name: m.Name, Size: m.Size, SHA256: want, member: m, hash: sha256.New(), done: a.fileDone}
	return a.current, nil
}

func (a *Reader) openPayload() error {
	m, err := a.member("the payload")
	if err != nil {
		return err
	}
	parts := dataName.FindStringSubmatch(m.Name)
	if parts == nil {
		return malformed("", "expected the payload, found the member %q", m.Name)
	}
	a.where = m.Name
	if parts[1] != "0000" {
		a.warn("its number is not 0000 (the format has one payload, which has this number)")
	}
	if a.payload, err = decompress(m, m.Name, a.limits, a.limits.Payload); err != nil {
		return err
	}
	a.info.Compression = a.payload.compression
	if named, _ := compressionOf(parts[2]); named != a.payload.compression {
		a.warn("its content is compressed in another way than its name says (mender-artifact refuses it)")
	}
	a.inner = newTarReader(a.payload, m.Name)
	return nil
}

func (a *Reader) warn(text string) { a.info.Warnings = append(a.info.Warnings, a.where+": "+text) }

func (a *Reader) fileDone(name string, size int64) {
	for i := range a.info.Files {
		if a.info.Files[i].Name == name {
			a.info.Files[i].Size = size
		}
	}
}

// finish demands that nothing is missing and nothing follows. Reading the payload's rest also makes the decompressor check what it
// checks at the end.
func (a *Reader) finish() error {
	if err := a.inner.onlyZerosLeft(); err != nil {
		return err
	}
	for _, l := range a.manifest {
		if !a.met[l.Name] {
			return malformed(manifestName, "it lists %q, which is not in the artifact", l.Name)
		}
	}
	m, err := a.outer.next()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return malformed("", "the member %q follows the payload", m.Name)
}

// PayloadFile is a file of the payload, to be read until io.EOF. If its content is not the one that the manifest lists, Read
// returns a *ChecksumError in the place of io.EOF; until then nothing that was read may be trusted.
type PayloadFile struct {
	Name   string
	Size   int64
	SHA256 string // what the manifest says

	member *tarMember
	hash   hash.Hash
	done   func(name string, size int64)
	err    error
}

func (f *PayloadFile) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.member.Read(p)
	f.hash.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(f.hash.Sum(nil)); got != f.SHA256 {
			err = &ChecksumError{Name: payloadPrefix + f.Name, Want: f.SHA256, Got: got}
		} else {
			f.done(f.Name, f.Size)
		}
	}
	f.err = err
	return n, err
}

// Verify reads a whole artifact and checks all that a device would check. What some Mender reader would refuse is in
// the Warnings of the result.
func Verify(ctx context.Context, r io.Reader, o ReadOptions) (*Info, error) {
	a, err := NewReader(contextReader{ctx, r}, o)
	if err != nil {
		return nil, err
	}
	for {
		if _, err := a.Next(); errors.Is(err, io.EOF) {
			return a.Info(), nil
		} else if err != nil {
			return nil, err
		}
	}
}

// Validate is Verify for artifacts that are to be published: it demands that every Mender reader accepts the artifact, and
// names the one that would not. Nothing but zeros may follow the artifact's end.
func Validate(ctx context.Context, r io.Reader, o ReadOptions) (*Info, error) {
	r = contextReader{ctx, r}
	a, err := NewReader(r, o)
	if err != nil {
		return nil, err
	}
	for err == nil {
		_, err = a.Next()
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := a.outer.onlyZerosLeft(); err != nil {
		return nil, err
	}
	if len(a.info.Warnings) > 0 {
		return nil, &FormatError{Reason: a.info.Warnings[0]}
	}
	return a.info, nil
}

// contextReader stops reading when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
