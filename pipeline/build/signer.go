package build

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/signing"
)

// passphraseVariable may hold the passphrase of a signer that names none.
const passphraseVariable = "TWINKEEL_KEY_PASSPHRASE"

// pinVariable may hold the PIN of a PKCS #11 signer that names none.
const pinVariable = "TWINKEEL_PKCS11_PIN"

// OpenSigner opens the key of a signer block, wherever it is. Whoever opens it closes it with signing.Close.
func OpenSigner(ctx context.Context, s *pipeline.Signer) (signing.Signer, error) {
	signer, err := openSigner(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Address, err)
	}
	if s.KeyID != "" && signer.KeyID() != s.KeyID {
		return nil, &otherKeyError{s, signer.KeyID()}
	}
	return signer, nil
}

// otherKeyError says that a private key has another public key beside it, which planning went by.
type otherKeyError struct {
	signer *pipeline.Signer
	id     string
}

func (e *otherKeyError) Error() string {
	return fmt.Sprintf("%s: its key is %s, but its public key's file holds %s", e.signer.Address, short(e.id), short(e.signer.KeyID))
}

// Hint says how the two come together again.
func (e *otherKeyError) Hint() string {
	if e.signer.PrivateKey != "" {
		return fmt.Sprintf("twinkeel keys show %s > %[1]s.pub", e.signer.PrivateKey)
	}
	return "name the right file in public_key"
}

// signerState tells whether a signer block still finds the key that it found when something was signed: a digest of what the
// block says and, for a key file, of what its inode looks like. The key itself is not read. Where its public key is known the
// state does not matter and is empty.
func signerState(plan *pipeline.Plan, s *pipeline.Signer) string {
	if s.KeyID != "" {
		return ""
	}
	parts := append([]string{
		s.Kind, s.URI, s.Key, s.PrivateKeyEnv, relativeTo(plan.Dir, s.PrivateKey), relativeTo(plan.Dir, s.Module), relativeTo(plan.Dir, s.PublicKey),
	}, s.Command...)
	if info, err := os.Stat(s.PrivateKey); err == nil {
		parts = append(parts, identity(s.PrivateKey, info))
	}
	return digestOf([]byte(strings.Join(parts, "\x00")))
}

// knownKey finds out which key a signer has without opening it: a plan must need no passphrase, token or network. It goes by
// the public key's file, by what was opened in this run, and by what was signed before while the block was the same: first of
// all the artifact itself, which may be older than a change of the key. A key in the environment is there anyway. False: it is
// not known before it is opened.
func (d *decider) knownKey(ctx context.Context, a *pipeline.Artifact) (id string, known bool) {
	s := a.Signer
	if s.KeyID != "" {
		return s.KeyID, true
	}
	if id, opened := d.opened[s.Address]; opened {
		return id, true
	}
	if s.PrivateKeyEnv != "" {
		signer, err := OpenSigner(ctx, s)
		if err != nil {
			return "", false
		}
		return signer.KeyID(), true
	}
	state := signerState(d.plan, s)
	signedBy := func(out *Output) bool {
		return out != nil && out.Signer == s.Address && out.SignerState == state && out.SignerKeyID != ""
	}
	if last := d.record.Outputs[a.Address]; signedBy(last) {
		return last.SignerKeyID, true
	}
	for _, address := range slices.Sorted(maps.Keys(d.record.Outputs)) {
		if out := d.record.Outputs[address]; signedBy(out) {
			return out.SignerKeyID, true
		}
	}
	return "", false
}

func openSigner(ctx context.Context, s *pipeline.Signer) (signing.Signer, error) {
	switch s.Kind {
	case "file":
		passphrase := func() ([]byte, error) {
			if s.Passphrase != "" {
				return []byte(string(s.Passphrase)), nil
			}
			if p := os.Getenv(passphraseVariable); p != "" {
				return []byte(p), nil
			}
			return nil, &noPassphraseError{s}
		}
		if s.PrivateKeyEnv != "" {
			return signing.LoadVariable(s.PrivateKeyEnv, os.Getenv(s.PrivateKeyEnv), passphrase)
		}
		return signing.LoadFile(s.PrivateKey, passphrase)
	case "kms":
		return signing.Open(ctx, s.URI, signing.Options{})
	case "pkcs11":
		o := signing.Options{}
		if s.PIN != "" {
			// Before the environment's: a wrong PIN locks the token after a few attempts.
			o.Getenv = func(name string) string {
				if name == pinVariable {
					return string(s.PIN)
				}
				return os.Getenv(name)
			}
		}
		return signing.Open(ctx, pkcs11URI(s), o)
	case "ssh-agent":
		return signing.Open(ctx, "ssh-agent:"+s.Key, signing.Options{})
	case "command":
		public, err := signing.LoadPublic(ctx, s.PublicKey, signing.Options{})
		if err != nil {
			return nil, err
		}
		return signing.OpenCommand(s.Dir, s.Command, public)
	}
	return nil, fmt.Errorf("there is no signer of kind %q", s.Kind)
}

// pkcs11URI adds the module's path to the URI (RFC 7512, section 2.3).
func pkcs11URI(s *pipeline.Signer) string {
	if s.Module == "" || strings.Contains(s.URI, "module-path=") {
		return s.URI
	}
	separator := "?"
	if strings.Contains(s.URI, "?") {
		separator = "&"
	}
	return s.URI + separator + "module-path=" + strings.ReplaceAll(url.QueryEscape(s.Module), "+", "%20")
}

type noPassphraseError struct{ signer *pipeline.Signer }

func (e *noPassphraseError) Error() string {
	return "none is given for " + e.signer.Address
}

// Hint says where a passphrase can come from.
func (e *noPassphraseError) Hint() string {
	return "set passphrase in " + e.signer.Address + " from a sensitive variable, or " + passphraseVariable
}
