package build

import (
	"fmt"
	"os"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/signing"
)

// passphraseVariable may hold the passphrase of a signer that names none.
const passphraseVariable = "TWINKEEL_KEY_PASSPHRASE"

// OpenSigner opens the key of a signer block.
func OpenSigner(s *pipeline.Signer) (signing.Signer, error) {
	if s.Kind != "file" {
		return nil, fmt.Errorf("%s: there is no signer of kind %q in this version", s.Address, s.Kind)
	}
	signer, err := signing.LoadFile(s.PrivateKey, func() ([]byte, error) {
		if s.Passphrase != "" {
			return []byte(string(s.Passphrase)), nil
		}
		if p := os.Getenv(passphraseVariable); p != "" {
			return []byte(p), nil
		}
		return nil, &noPassphraseError{s}
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Address, err)
	}
	return signer, nil
}

type noPassphraseError struct{ signer *pipeline.Signer }

func (e *noPassphraseError) Error() string {
	return "none is given for " + e.signer.Address
}

// Hint says where a passphrase can come from.
func (e *noPassphraseError) Hint() string {
	return "set passphrase in " + e.signer.Address + " from a sensitive variable, or " + passphraseVariable
}
