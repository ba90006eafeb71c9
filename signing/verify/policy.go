package verify

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// Policy says how many of the trusted keys must have signed.
type Policy string

// The policies. There is no other, and none is the default: "" is refused.
const (
	Any Policy = "any" // at least one of the trusted keys
	All Policy = "all" // each of the trusted keys
)

// maxSignatures bounds the work that a list of signatures can cause.
const maxSignatures = 64

// ParsePolicy reads a policy's name.
func ParsePolicy(name string) (Policy, error) {
	switch p := Policy(name); p {
	case Any, All:
		return p, nil
	}
	return "", fmt.Errorf("there is no policy %q; it is any or all", name)
}

// MissingError is returned when a message lacks signatures that a policy asks for. It is an ErrNoMatch.
type MissingError struct {
	Policy Policy
	Signed []string // the identifiers of the trusted keys that have signed
	// Missing are the identifiers of the trusted keys that have not: under All each of them must, under Any one.
	Missing []string
}

func (e *MissingError) Error() string {
	missing := strings.Join(e.Missing, ", ")
	if e.Policy == All {
		return fmt.Sprintf("%d of %d trusted keys have not signed: %s", len(e.Missing), len(e.Missing)+len(e.Signed), missing)
	}
	return "no trusted key has signed; trusted are: " + missing
}

// Is makes MissingError an ErrNoMatch.
func (e *MissingError) Is(target error) bool { return target == ErrNoMatch }

// VerifyAll checks signatures over message against a policy and returns the identifiers of the trusted keys that have signed, in
// the order of the keyring. Signatures of other keys count for nothing, and a key counts once however often it has signed. If the
// policy is not met, the error is a *MissingError.
func (r *Keyring) VerifyAll(message []byte, signatures [][]byte, policy Policy) (keyIDs []string, err error) {
	if _, err := ParsePolicy(string(policy)); err != nil {
		return nil, err
	}
	if len(signatures) > maxSignatures {
		return nil, fmt.Errorf("there are %d signatures; at most %d are checked", len(signatures), maxSignatures)
	}
	if len(r.keys) == 0 { // only a Keyring that NewKeyring did not make
		return nil, ErrNoMatch
	}
	digest := sha256.Sum256(message)
	var missing []string
	for _, k := range r.keys {
		signed := false
		for _, s := range signatures {
			if signed = verifyOne(k.Public, digest[:], s); signed {
				break
			}
		}
		if signed {
			keyIDs = append(keyIDs, k.ID)
		} else {
			missing = append(missing, k.ID)
		}
	}
	if len(keyIDs) == 0 || policy == All && len(missing) > 0 {
		return nil, &MissingError{Policy: policy, Signed: keyIDs, Missing: missing}
	}
	return keyIDs, nil
}
