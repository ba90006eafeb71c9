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
	// Legacy also reads what today's devices refuse: version 2 of the format, and augmented artifacts. The signature covers only a
	// part of the latter, so with a Verifier the error is ErrSignature.
	Legacy bool
	// Concurrency is how many goroutines unpack a payload of independent frames, at most 8; each costs a frame or two of memory.
	// 0 means one goroutine, the caller's, for NewReader, and as many as there are cores for Verify and Validate. A Reader
	// with more than one must be closed.
	Concurrency int
}

// Reader reads an artifact as a stream: NewReader reads all that precedes the payload, Next goes from file to file.
type Reader struct {
	limits      Limits
	legacy      bool
	concurrency int
	outer       *tarReader
	info        *Info
	early       []string // warnings from before there was an info
	scripts     []Script
	manifest    manifest
	met         map[string]bool // lines of the manifest that were met
	stored      stored

	payload *decompressor
	inner   *tarReader
	where   string // the payload member
	left    int64  // bytes that the payload may still have
	current *PayloadFile
	err     error // of Next, once it has failed or ended
}

// stored is how an artifact's beginning is stored; whoever edits the artifact needs it.
type stored struct {
	manifest, signature []byte     // signature is decoded
	afterManifest       int64      // offset of what follows the manifest
	afterSignature      int64      // the same as afterManifest without a signature
	version             *tarMember // its time is that of the artifact
	signatureWarnings   []string
	header              *header // the first one of an augmented artifact
}

// NewReader reads an artifact up to its payload. When it returns, version and header are the ones that the manifest
// lists, and the manifest is signed as the options demand.
func NewReader(r io.Reader, o ReadOptions) (*Reader, error) {
	in := bufio.NewReaderSize(r, 32<<10)
	start, err := in.Peek(startSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, readError("", err)
	}
	limits := o.Limits.withDefaults()
	a := &Reader{
		limits: limits, legacy: o.Legacy, concurrency: o.Concurrency, outer: newTarReader(in, ""), met: make(map[string]bool), left: limits.Payload,
	}
	a.outer.warn = a.warnAt
	if err := a.readStart(start, o.Verifier); err != nil {
		return nil, err
	}
	return a, a.checkFiles()
}

// readStart reads all that precedes the payload. start is what the artifact begins with.
func (a *Reader) readStart(start []byte, verifier Verifier) error {
	version, number, err := a.readVersion(start)
	if err != nil {
		return err
	}
	if a.stored.manifest, err = a.readManifest(); err != nil {
		return err
	}
	member, err := a.member("the header")
	if err != nil {
		return err
	}
	a.stored.afterManifest, a.stored.afterSignature = member.start, member.start
	signed := Info{}
	if member.Name == signatureName {
		if signed, a.stored.signature, err = checkSignature(member, a.stored.manifest, verifier); err != nil {
			return err
		}
		if member, err = a.member("the header"); err != nil {
			return err
		}
		a.stored.afterSignature = member.start
	} else if verifier != nil {
		return ErrUnsigned
	}
	var warnings []string
	if a.manifest, warnings, err = parseManifest(a.stored.manifest, a.limits); err != nil {
		return err
	}
	if err := a.meet(versionName, version); err != nil {
		return err
	}
	augmented := member.Name == augmentName
	if augmented {
		if verifier != nil {
			return fmt.Errorf("%w: it covers only a part of this augmented artifact", ErrSignature)
		}
		if member, err = a.readAugmentManifest(member); err != nil {
			return err
		}
	}
	read := readHeader
	if number == "2" {
		read = readHeader2
	}
	h, err := a.readHeader(member, headerName, read)
	if err != nil {
		return err
	}
	a.stored.header = h
	if augmented {
		if h, err = a.readAugmentHeader(h); err != nil {
			return err
		}
	}
	a.info, a.scripts = h.publicInfo(), h.scripts
	a.info.Augmented = augmented
	if number == "2" {
		a.info.Version = 2
	}
	a.info.Signed, a.info.KeyID = signed.Signed, signed.KeyID
	a.stored.signatureWarnings = signed.Warnings
	a.info.Warnings = slices.Concat(a.early, warnings, signed.Warnings, a.info.Warnings)
	return nil
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
	if !a.legacy && (m.Name == augmentName || strings.HasPrefix(m.Name, augmentHeaderName)) {
		return nil, malformed(m.Name, "augmented artifacts are not supported (nor by Mender clients from 4.0)")
	}
	return m, m.regular()
}

func (a *Reader) small(name string, limit int64) (*tarMember, []byte, error) {
	m, err := a.member(name)
	if err != nil {
		return nil, nil, err
	}
	if m.Name != name {
		return nil, nil, malformed("", "expected the member %q, found %q", name, m.Name)
	}
	if m.Size > limit {
		return nil, nil, malformed(name, "it is larger than %d KiB", limit>>10)
	}
	data, err := m.readAll()
	return m, data, err
}

func (a *Reader) readVersion(start []byte) (data []byte, number string, err error) {
	a.stored.version, data, err = a.small(versionName, 4<<10)
	if err != nil {
		return nil, "", notArtifact(start, err)
	}
	number, warnings, err := parseVersion(data)
	a.early = append(a.early, warnings...)
	if err == nil && number == "2" && !a.legacy {
		err = malformed(versionName, "version 2 of the format is not supported; version 3 is")
	}
	return data, number, err
}

// parseVersion accepts format "mender" in the versions 2 and 3. Its keys count only as the format spells them.
func parseVersion(data []byte) (number string, warnings []string, err error) {
	if err := checkJSON(data, 4, foldCase); err != nil {
		return "", nil, &FormatError{Member: versionName, Reason: err.Error()}
	}
	var keys map[string]json.RawMessage
	var format string
	var version json.Number
	if json.Unmarshal(data, &keys) != nil || json.Unmarshal(keys["format"], &format) != nil ||
		json.Unmarshal(keys["version"], &version) != nil || version == "" {
		return "", nil, malformed(versionName, "it does not say which format and version this is")
	}
	switch {
	case format != "mender":
		return "", nil, malformed(versionName, "the format is %q, not %q", format, "mender")
	case version == "2":
		warnings = append(warnings, "version: version 2 of the format (Mender clients from 4.0 refuse it)")
	case version != "3":
		return "", nil, malformed(versionName, "version %s of the format is not supported; version 3 is", version)
	}
	if len(keys) > 2 {
		warnings = append(warnings, "version: it has keys that the format does not have (mender-artifact refuses them)")
	}
	return version.String(), warnings, nil
}

func (a *Reader) readManifest() ([]byte, error) {
	_, data, err := a.small(manifestName, a.limits.ManifestLength)
	return data, err
}

// maxSignature is the most that the member of a signature may have; RSA with 8192 bits takes 1368 bytes.
const maxSignature = 4 << 10

// checkSignature checks the signature over the manifest as it is stored, before anyone has interpreted that.
func checkSignature(m *tarMember, manifest []byte, verifier Verifier) (info Info, signature []byte, err error) {
	if m.Size > maxSignature {
		return Info{}, nil, malformed(signatureName, "it is larger than any signature")
	}
	text, err := m.readAll()
	if err != nil {
		return Info{}, nil, err
	}
	info.Signed = true
	plain := bytes.TrimRight(text, "\r\n")
	if len(plain) != len(text) {
		info.Warnings = append(info.Warnings, "manifest.sig: it ends with a line break (Mender clients from 4.0 refuse it)")
	}
	signature, err = base64.StdEncoding.Strict().DecodeString(string(plain))
	if err != nil || bytes.ContainsAny(plain, "\r\n") {
		return Info{}, nil, malformed(signatureName, "it is not base64 on one line")
	}
	if len(signature) == 0 {
		return Info{}, nil, fmt.Errorf("%w: it is empty", ErrSignature)
	}
	info.Warnings = append(info.Warnings, signatureWarnings(signature)...)
	if verifier != nil {
		if info.KeyID, err = verifier.Verify(manifest, signature); err != nil {
			return Info{}, nil, fmt.Errorf("%w: %w", ErrSignature, err)
		}
	}
	return info, signature, nil
}

// signatureWarnings tells forms of ECDSA signatures apart; those of RSA have 256 bytes and more.
func signatureWarnings(signature []byte) []string {
	switch n := len(signature); {
	case n == 64 || n >= 256:
		return nil
	case n < 70 || n > 72:
		return []string{"manifest.sig: an ECDSA signature in ASN.1 form, of unusual length (mender-artifact refuses it)"}
	}
	return []string{"manifest.sig: an ECDSA signature in ASN.1 form (mender-artifact before 3.11.3 refuses it)"}
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
func (a *Reader) readHeader(m *tarMember, name string, read headerReader) (*header, error) {
	suffix, isHeader := strings.CutPrefix(m.Name, name)
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
	h, err := read(d, m.Name, a.limits)
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
	return a.stored.header.checkFileList(a.info.Files)
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
		if err := a.current.drain(); err != nil {
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
	a.current = &PayloadFile{Name: m.Name, Size: m.Size, SHA256: want, member: m, hash: sha256.New(), done: a.fileDone, concurrent: a.concurrency > 1}
	return a.current, nil
}

// payloadMember returns the member that the payload is in, and the suffix of its name.
func (a *Reader) payloadMember() (m *tarMember, suffix string, err error) {
	if m, err = a.member("the payload"); err != nil {
		return nil, "", err
	}
	parts := dataName.FindStringSubmatch(m.Name)
	if parts == nil {
		return nil, "", malformed("", "expected the payload, found the member %q", m.Name)
	}
	a.where = m.Name
	if parts[1] != "0000" {
		a.warn("its number is not 0000 (the format has one payload, which has this number)")
	}
	return m, parts[2], nil
}

func (a *Reader) openPayload() error {
	m, suffix, err := a.payloadMember()
	if err != nil {
		return err
	}
	return a.unpack(m, suffix)
}

// unpack begins to unpack the payload: r is the content of its member.
func (a *Reader) unpack(r io.Reader, suffix string) (err error) {
	if a.payload, err = decompressOn(a.concurrency, r, a.where, a.limits, a.limits.Payload); err != nil {
		return err
	}
	a.info.Compression = a.payload.compression
	if named, _ := compressionOf(suffix); named != a.payload.compression {
		a.warn("its content is compressed in another way than its name says (mender-artifact refuses it)")
	}
	a.inner = newTarReader(a.payload, a.where)
	a.inner.warn = a.warnAt
	return nil
}

func (a *Reader) warn(text string) { a.warnAt(a.where, text) }

func (a *Reader) warnAt(where, text string) {
	if a.info == nil {
		a.early = append(a.early, where+": "+text)
		return
	}
	a.info.Warnings = append(a.info.Warnings, where+": "+text)
}

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

	concurrent bool
}

func (f *PayloadFile) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.member.Read(p)
	f.hash.Write(p[:n])
	f.err = f.end(err)
	return n, f.err
}

// end turns the end of the file into an error if the checksum differs.
func (f *PayloadFile) end(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	if got := hex.EncodeToString(f.hash.Sum(nil)); got != f.SHA256 {
		return &ChecksumError{Name: payloadPrefix + f.Name, Want: f.SHA256, Got: got}
	}
	f.done(f.Name, f.Size)
	return io.EOF
}

// Verify reads a whole artifact and checks all that a device would check. What some Mender reader would refuse is in
// the Warnings of the result.
func Verify(ctx context.Context, r io.Reader, o ReadOptions) (*Info, error) {
	a, err := NewReader(contextReader{ctx, r}, o.onAllCores())
	if err != nil {
		return nil, err
	}
	defer a.Close()
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
	a, err := NewReader(r, o.onAllCores())
	if err != nil {
		return nil, err
	}
	defer a.Close()
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
