package sbom

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// The limits of what is read. An image's documents have some ten megabytes, an archive decompressed some hundreds.
const (
	MaxSize         = 256 << 20 // of a document or an archive
	maxUnpacked     = 4 << 30   // of an archive's content
	maxMembers      = 200_000   // of an archive
	maxZstdWindow   = 64 << 20  // what decompressing may have to remember
	bufferSize      = 64 << 10
	archiveIndex    = "index.json"
	archiveDocument = ".spdx.json"
)

// FormatError is a document that is damaged, beyond a limit, or none at all.
type FormatError struct {
	Member string // of an archive; may be ""
	Reason string
	Err    error // may be nil
}

func (e *FormatError) Error() string {
	if e.Member == "" {
		return "not a valid SBOM: " + e.Reason
	}
	return fmt.Sprintf("not a valid SBOM: member %q: %s", e.Member, e.Reason)
}

func (e *FormatError) Unwrap() error { return e.Err }

// Digest is the SHA-256 of a document in lower-case hexadecimal, the value of the provided key.
func Digest(document []byte) string {
	sum := sha256.Sum256(document)
	return hex.EncodeToString(sum[:])
}

// Copy copies a document from r to w, byte for byte, and returns its kind, which is never Manifest, and its SHA-256. It is
// checked on the way: JSON to the last byte, for an archive each document in it, and that it says to be SPDX or CycloneDX.
// After an error w holds a part of it.
func Copy(w io.Writer, r io.Reader) (kind Kind, sha256sum string, err error) {
	hash := sha256.New()
	out := io.MultiWriter(outside{w: w}, hash)
	in := bufio.NewReaderSize(io.TeeReader(&limited{r: outside{r: r}, left: MaxSize, what: "it"}, out), bufferSize)
	if kind, err = inspect(in, false); err != nil {
		return "", "", err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return "", "", err
	}
	return kind, hex.EncodeToString(hash.Sum(nil)), nil
}

// kindOfStart tells the kind of a document, reading no further than to where it says so.
func kindOfStart(r io.Reader) (Kind, error) {
	return inspect(bufio.NewReaderSize(&limited{r: outside{r: r}, left: MaxSize, what: "it"}, bufferSize), true)
}

// inspect tells the kind of a document. If not hasty, it reads and checks it to the end.
func inspect(in *bufio.Reader, hasty bool) (Kind, error) {
	start, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch {
	case len(start) == 0:
		return "", &FormatError{Reason: "it is empty"}
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		if hasty {
			return SPDX2TarZstd, nil
		}
		d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return "", fmt.Errorf("decompressing the SBOM: %w", err)
		}
		defer d.Close()
		return SPDX2TarZstd, checkArchive(d)
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		if hasty {
			return SPDX2TarGzip, nil
		}
		d, err := gzip.NewReader(in)
		if err != nil {
			return "", damaged(err)
		}
		return SPDX2TarGzip, checkArchive(d)
	}
	return documentKind(in, hasty)
}

// checkArchive checks an archive of SPDX documents as create-spdx-2.2.bbclass makes it: documents and their index.
func checkArchive(r io.Reader) error {
	unpacked := &limited{r: r, left: maxUnpacked, what: "its content"}
	archive := tar.NewReader(unpacked)
	documents := 0
	for members := 0; ; members++ {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		switch {
		case err != nil:
			return damaged(err)
		case members == maxMembers:
			return &FormatError{Reason: fmt.Sprintf("it has more than %d members", maxMembers)}
		case h.Typeflag != tar.TypeReg:
			return &FormatError{Member: h.Name, Reason: "it is not a file"}
		}
		if err := checkMember(h.Name, archive); err != nil {
			return err
		}
		if h.Name != archiveIndex {
			documents++
		}
	}
	if documents == 0 {
		return &FormatError{Reason: "it is an archive without any SPDX document"}
	}
	if _, err := io.Copy(io.Discard, unpacked); err != nil { // the sum at the end of the compressed data is checked, too
		return damaged(err)
	}
	return nil
}

func checkMember(name string, r io.Reader) error {
	in := bufio.NewReaderSize(r, bufferSize)
	var err error
	switch {
	case name == archiveIndex:
		err = scanJSON(in, func(string, string) error { return nil })
	case strings.HasSuffix(name, archiveDocument):
		var kind Kind
		if kind, err = documentKind(in, false); err == nil && kind != SPDX2 {
			err = &FormatError{Reason: fmt.Sprintf("it is of the kind %s, expected %s", kind, SPDX2)}
		}
	default:
		return &FormatError{Member: name, Reason: "an archive of SPDX documents has only files named *" + archiveDocument + " and " + archiveIndex}
	}
	var fe *FormatError
	if errors.As(err, &fe) && fe.Member == "" {
		return &FormatError{Member: name, Reason: fe.Reason, Err: fe.Err}
	}
	return damaged(err)
}

// damaged explains errors of the decompressors and of archive/tar. Others, such as those of reading the file, stay what they are.
func damaged(err error) error {
	var fe *FormatError
	var oe *outsideError
	if err == nil || errors.As(err, &fe) || errors.As(err, &oe) {
		return err
	}
	return &FormatError{Reason: "the archive is damaged: " + err.Error(), Err: err}
}

// documentKind tells by the members at the top of a JSON document what it is.
func documentKind(in *bufio.Reader, hasty bool) (Kind, error) {
	var kind Kind
	err := scanJSON(in, func(name, value string) error {
		var found Kind
		switch name {
		case "spdxVersion":
			if !strings.HasPrefix(value, "SPDX-2.") {
				return unknown(name, value, "SPDX-2.2")
			}
			found = SPDX2
		case "@context":
			if !strings.HasPrefix(value, "https://spdx.org/rdf/3.") {
				return unknown(name, value, "https://spdx.org/rdf/3.0.1/spdx-context.jsonld")
			}
			found = SPDX3
		case "bomFormat":
			if value != "CycloneDX" {
				return unknown(name, value, "CycloneDX")
			}
			found = CycloneDX
		default:
			return nil
		}
		if kind != "" {
			return &FormatError{Reason: fmt.Sprintf("it says twice what it is: %s and %s", kind, found)}
		}
		kind = found
		if hasty {
			return errStop
		}
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, errStop):
		return "", err
	case kind == "":
		return "", &FormatError{Reason: "it is JSON, but has none of spdxVersion, @context and bomFormat, by which SPDX and CycloneDX are known"}
	}
	return kind, nil
}

func unknown(name, value, want string) error {
	return &FormatError{Reason: fmt.Sprintf("its %s is %q, expected such as %q", name, value, want)}
}

// limited is an io.LimitedReader that fails at the limit.
type limited struct {
	r    io.Reader
	left int64
	what string
}

func (l *limited) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, &FormatError{Reason: l.what + " is larger than is accepted"}
	}
	return n, err
}

// outside marks the errors of a reader or a writer, to tell them from those of what is read.
type outside struct {
	r io.Reader
	w io.Writer
}

func (o outside) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &outsideError{"reading", err}
	}
	return n, err
}

func (o outside) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		err = &outsideError{"copying", err}
	}
	return n, err
}

// outsideError is an error of where the document comes from or goes to, not of the document.
type outsideError struct {
	doing string
	err   error
}

func (e *outsideError) Error() string { return e.doing + " the SBOM: " + e.err.Error() }
func (e *outsideError) Unwrap() error { return e.err }
