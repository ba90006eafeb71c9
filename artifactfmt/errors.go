package artifactfmt

import (
	"errors"
	"fmt"
	"io"
)

// Errors of reading.
var (
	// ErrUnsigned is returned for an artifact without signature when a verifier is set.
	ErrUnsigned = errors.New("artifact is not signed, but a verification key is configured")
	// ErrSignature is returned when the signature is not by a trusted key, or damaged.
	ErrSignature = errors.New("artifact signature is not valid")
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
