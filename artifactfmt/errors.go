package artifactfmt

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Errors of reading.
var (
	// ErrUnsigned is returned for an artifact without signature when a verifier is set.
	ErrUnsigned = errors.New("artifact is not signed, but a verification key is configured")
	// ErrSignature is returned when the signature is not by a trusted key, damaged, or for a part of the artifact only.
	ErrSignature = errors.New("artifact signature is not valid")
	// ErrNotArtifact is returned for a file that is something else, with what it looks like.
	ErrNotArtifact = errors.New("not a Mender artifact")
	// ErrTruncated is returned when the input ends before the artifact does.
	ErrTruncated = errors.New("artifact ends too early: it was truncated or not transferred completely")
)

// FormatError is an artifact that breaks the format, or goes beyond a limit.
type FormatError struct {
	Member string // the member of the artifact, such as "manifest" or "header.tar.gz: header-info"; may be ""
	Reason string
	Err    error // may be nil
}

func (e *FormatError) Error() string {
	if errors.Is(e.Err, ErrNotArtifact) {
		return ErrNotArtifact.Error() + ": " + e.Reason
	}
	if e.Member == "" {
		return "not a valid artifact: " + e.Reason
	}
	return fmt.Sprintf("not a valid artifact: %s: %s", e.Member, e.Reason)
}

func (e *FormatError) Unwrap() error { return e.Err }

// ChecksumError is content that differs from what the manifest says.
type ChecksumError struct {
	Name      string // the name in the manifest, such as "data/0000/rootfs.ext4"
	Want, Got string // SHA-256 in hexadecimal
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("checksum of %s differs: the manifest says %s, the content has %s", e.Name, e.Want, e.Got)
}

// InvalidError is an Artifact that Write refuses, because some reader in the field would.
type InvalidError struct {
	Field  string // of Artifact, in the words of the format: "artifact name", "device type", …
	Reason string
	Advice string // what to do, may be ""
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }

// Hint is what the person can do about it.
func (e *InvalidError) Hint() string { return e.Advice }

func invalid(field, reason string, args ...any) error {
	return &InvalidError{Field: field, Reason: fmt.Sprintf(reason, args...)}
}

func malformed(member, reason string, args ...any) error {
	return &FormatError{Member: member, Reason: fmt.Sprintf(reason, args...)}
}

// startSize is how much of a file notArtifact wants to see: its beginning, and the superblock of an ext4 file system.
const startSize = 2 << 10

// notArtifact explains err, with which the first member could not be read, for a file that is something else.
func notArtifact(start []byte, err error) error {
	var se *sourceError
	first := start[:min(len(start), len(versionName)+1)]
	switch {
	case errors.As(err, &se):
		return err
	case len(start) == 0: // or nothing of it has come
		return &FormatError{Reason: "it is empty", Err: errors.Join(ErrNotArtifact, ErrTruncated)}
	case strings.HasPrefix(versionName+"\x00", string(first)):
		return err
	}
	if kind := looksLike(start); kind != "" {
		return &FormatError{Reason: "it looks like " + kind, Err: ErrNotArtifact}
	}
	var fe *FormatError
	if errors.As(err, &fe) {
		return &FormatError{Reason: fe.Reason, Err: ErrNotArtifact}
	}
	return &FormatError{Reason: "it is not even a tar archive", Err: ErrNotArtifact}
}

// fileMagics are what files begin with that people take for artifacts.
var fileMagics = []struct {
	at    int
	magic string
	kind  string
}{
	{257, "ustar", ""}, // a tar archive; the error says what is missing in it
	{0, "\x1f\x8b", "a gzip file; artifacts are never compressed as a whole"},
	{0, "\xfd7zXZ\x00", "an xz file; artifacts are never compressed as a whole"},
	{0, "\x28\xb5\x2f\xfd", "a zstd file; artifacts are never compressed as a whole"},
	{0, "BZh", "a bzip2 file"},
	{0, "PK\x03\x04", "a zip file"},
	{0, "\x7fELF", "an ELF program"},
	{0, "hsqs", "a squashfs image"},
	{0, "-----BEGIN ", "a PEM file, such as a key"},
	{1024 + 56, "\x53\xef", "an ext4 image; an artifact contains one"},
	{510, "\x55\xaa", "a disk image, or a FAT file system"},
}

// looksLike says what a file seems to be, or "".
func looksLike(start []byte) string {
	for _, m := range fileMagics {
		if len(start) >= m.at && strings.HasPrefix(string(start[m.at:]), m.magic) {
			return m.kind
		}
	}
	text := strings.ToLower(strings.TrimSpace(string(start)))
	switch {
	case strings.HasPrefix(text, "<!doctype html"), strings.HasPrefix(text, "<html"):
		return "a web page"
	case strings.Trim(string(start), "\x00") == "":
		return "nothing but zeros"
	case strings.HasPrefix(text, "{"):
		return "a JSON document"
	case isText(start):
		return "a text file"
	}
	return ""
}

// isText passes over a character that the end of start may have cut.
func isText(start []byte) bool {
	for len(start) > 0 {
		r, size := utf8.DecodeRune(start)
		if r == utf8.RuneError && size == 1 && utf8.FullRune(start) {
			return false
		}
		if !unicode.IsPrint(r) && !unicode.IsSpace(r) && r != utf8.RuneError {
			return false
		}
		start = start[size:]
	}
	return true
}

// readError explains an error of reading an archive. where is "" for the artifact itself, whose early end means that bytes are
// missing; a member that is there as a whole and ends too early is wrong. Errors that are explained already, and those of
// the source, stay what they are.
func readError(where string, err error) error {
	var fe *FormatError
	var se *sourceError
	switch {
	case errors.As(err, &fe), errors.As(err, &se), errors.Is(err, ErrTruncated):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		if where == "" {
			return ErrTruncated
		}
		return malformed(where, "it ends too early")
	}
	return &sourceError{err}
}

// sourceError is an error of the reader that the artifact comes from.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "reading the artifact: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }
