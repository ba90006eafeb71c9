package attest

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of checking a statement; see also FormatError, DigestError and SubjectError.
var (
	// ErrUnsigned is returned for an envelope without any signature.
	ErrUnsigned = errors.New("attestation is not signed")
	// ErrSignature is returned when the signatures are not by the trusted keys that the policy asks for, or damaged.
	ErrSignature = errors.New("attestation signature is not valid")
	// ErrNotNamed is returned when the artifact provides no checksum of a statement.
	ErrNotNamed = errors.New("the artifact does not name an attestation")
)

// FormatError is a statement or an envelope that breaks its format, or goes beyond a limit.
type FormatError struct {
	Part   string // "envelope" or "statement"
	Reason string
	Err    error // may be nil
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("not a valid attestation: %s: %s", e.Part, e.Reason)
}

func (e *FormatError) Unwrap() error { return e.Err }

func malformed(part, reason string, args ...any) error {
	return &FormatError{Part: part, Reason: fmt.Sprintf(reason, args...)}
}

// DigestError is a statement other than the one that the artifact names.
type DigestError struct {
	Key       string // that the artifact provides
	Want, Got string // SHA-256 in hexadecimal
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("not the attestation that the artifact names: it provides %s %q, the attestation has %s", e.Key, e.Want, e.Got)
}

// Hint is what the person can do about it.
func (e *DigestError) Hint() string {
	return "take the attestation that was published with this very artifact, or attest it again with: twinkeel artifact attest"
}

// SubjectError is a statement about other files than those in the artifact. Names are those of the payload's files.
type SubjectError struct {
	Missing []string // in the artifact, but not in the statement
	Extra   []string // in the statement, but not in the artifact
	Changed []string // in both with different checksums
}

func (e *SubjectError) Error() string {
	var parts []string
	for _, p := range []struct {
		names []string
		what  string
	}{
		{e.Changed, "other content for"},
		{e.Missing, "nothing about"},
		{e.Extra, "a file that the artifact lacks,"},
	} {
		if len(p.names) > 0 {
			parts = append(parts, p.what+" "+list(p.names))
		}
	}
	return "the attestation is about another payload: it has " + strings.Join(parts, "; ")
}

// list quotes the first few names, which may come from a stranger.
func list(names []string) string {
	const most = 3
	var quoted []string
	for _, n := range names[:min(len(names), most)] {
		if len(n) > 120 {
			n = n[:120] + "…"
		}
		quoted = append(quoted, fmt.Sprintf("%q", n))
	}
	if more := len(names) - most; more > 0 {
		quoted = append(quoted, fmt.Sprintf("%d more", more))
	}
	return strings.Join(quoted, ", ")
}
