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

// truncated tells an input that ended too early from one that could not be read.
func truncated(where string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w (in %s)", ErrTruncated, where)
	}
	return fmt.Errorf("reading %s: %w", where, err)
}
