package signing

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/signing/helper"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// Options are what opening a key may need. The zero value asks nobody and reads the environment of the process.
type Options struct {
	// Passphrase is called for an encrypted key file.
	Passphrase func() ([]byte, error)
	// PIN is called for a PKCS #11 token that wants one when neither pin-source nor TWINKEEL_PKCS11_PIN gives it. It is
	// not the same as Passphrase: a wrong PIN locks a token after a few attempts.
	PIN func() ([]byte, error)
	// Getenv reads a variable; nil is os.Getenv. The clients of AWS, Google and Azure, the PKCS #11 module and signing commands
	// see the environment of the process in any case.
	Getenv func(name string) string

	kmsLimit time.Duration // for tests; 0 is kmsOpenLimit
}

func (o Options) getenv(name string) string {
	if o.Getenv != nil {
		return o.Getenv(name)
	}
	return os.Getenv(name)
}

// Refs says how keys are named; it is for help texts and errors.
const Refs = "a PEM file, awskms://…, gcpkms://…, azurekms://…, hashivault://KEY, pkcs11:token=…;object=…, or ssh-agent:[FINGERPRINT or COMMENT]"

const (
	pkcs11Scheme = "pkcs11:"
	agentScheme  = "ssh-agent:"
)

// Open opens the private key that ref names: a PEM file, a key of a key management service (awskms://, gcpkms://, azurekms://,
// hashivault://), a PKCS #11 URI (RFC 7512) or a key of ssh-agent (ssh-agent:FINGERPRINT, ssh-agent:COMMENT, or ssh-agent: for
// the only one). Public keys are fetched, and keys that Mender clients cannot verify refused, before Open returns.
//
// The context bounds opening; for services and tokens it must also outlive the use of the key, and Close ends the process that
// reaches them.
func Open(ctx context.Context, ref string, o Options) (Signer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	store := storeOf(ref)
	switch {
	case ref == "":
		return nil, &KeyError{Path: `""`, Reason: "the name of the key is empty", Advice: "name one of: " + Refs}
	case store != nil:
		return openKMS(ctx, store, ref, o)
	case strings.HasPrefix(ref, pkcs11Scheme):
		return openPKCS11(ctx, ref, o)
	case strings.HasPrefix(ref, agentScheme):
		return openAgent(ctx, ref, o)
	}
	if err := unknownStore(ref); err != nil {
		return nil, err
	}
	return LoadFile(ref, o.Passphrase)
}

// LoadPublic returns the public key of any key that Open can open, or of a file with one public key. Stores tell it without
// using the private key, PKCS #11 tokens that keep public objects also without a PIN; an encrypted key file needs its passphrase.
func LoadPublic(ctx context.Context, ref string, o Options) (crypto.PublicKey, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch {
	case storeOf(ref) != nil, strings.HasPrefix(ref, agentScheme), ref == "":
		s, err := Open(ctx, ref, o)
		if err != nil {
			return nil, err
		}
		defer Close(s)
		return s.Public(), nil
	case strings.HasPrefix(ref, pkcs11Scheme):
		return publicPKCS11(ctx, ref, o)
	}
	if err := unknownStore(ref); err != nil {
		return nil, err
	}
	ring, err := verify.LoadKeyring([]string{ref})
	if err == nil {
		keys := ring.Keys()
		if len(keys) != 1 {
			return nil, &verify.KeyError{Path: ref, Reason: fmt.Sprintf("it holds %d public keys; one is expected here", len(keys))}
		}
		return keys[0].Public, nil
	}
	// What is no public key may be a private one, whatever text openssl wrote before it.
	s, privateErr := LoadFile(ref, o.Passphrase)
	var ke *KeyError
	switch {
	case privateErr == nil:
		return s.Public(), nil
	case errors.As(privateErr, &ke) && ke.noPrivate || errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return nil, privateErr
}

// unknownStore refuses URIs of stores that there is no client for, which would otherwise be files that do not exist.
func unknownStore(ref string) error {
	scheme, _, ok := strings.Cut(ref, "://")
	if !ok || strings.ContainsAny(scheme, "/.") {
		return nil
	}
	return &KeyError{Path: printable(scheme) + "://…", Reason: "there is no such key store", Advice: "name one of: " + Refs}
}

// external is the part that all keys outside this process have in common.
type external struct {
	key  verify.Key
	name string // for people, without secrets
}

func newExternal(name string, public crypto.PublicKey) (external, error) {
	key, err := verify.NewKey(public)
	if err != nil {
		var ve *verify.KeyError
		if errors.As(err, &ve) {
			return external{}, &KeyError{Path: name, Reason: ve.Reason, Err: err}
		}
		return external{}, err
	}
	return external{key: key, name: name}, nil
}

func (e external) Public() crypto.PublicKey { return e.key.Public }
func (e external) KeyID() string            { return e.key.ID }
func (e external) SignatureSize() int       { return signatureSize(e.key.Public) }
func (e external) String() string           { return e.key.Algorithm + " key " + e.key.ID + " (" + e.name + ")" }
func (e external) GoString() string         { return e.String() }

// finish makes of what a store gave a signature that can be used, or an error that names the key.
func (e external) finish(digest [sha256.Size]byte, message, signature []byte, err error) ([]byte, error) {
	if err == nil {
		signature, err = settle(e.key.Public, digest, message, signature)
	}
	if se, ok := asSignatureError(err); ok {
		return nil, &KeyError{Path: e.name, Reason: "its signature cannot be used: " + se.Reason, Advice: se.Advice, Err: err}
	}
	if err != nil {
		return nil, err
	}
	return signature, nil
}

// digestSigner is a key that is given the SHA-256 of messages.
type digestSigner struct {
	external
	sign func(ctx context.Context, digest [sha256.Size]byte) ([]byte, error)
}

func (s *digestSigner) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return s.do(ctx, sha256.Sum256(message), message)
}

func (s *digestSigner) SignDigest(ctx context.Context, digest [sha256.Size]byte) ([]byte, error) {
	return s.do(ctx, digest, nil)
}

func (s *digestSigner) do(ctx context.Context, digest [sha256.Size]byte, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	signature, err := s.sign(ctx, digest)
	return s.finish(digest, message, signature, err)
}

// messageSigner is a key that is given whole messages.
type messageSigner struct {
	external
	sign func(ctx context.Context, message []byte) ([]byte, error)
}

func (s *messageSigner) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	signature, err := s.sign(ctx, message)
	return s.finish(sha256.Sum256(message), message, signature, err)
}

// oneLine makes what a service or a program said fit for an error.
func oneLine(text string, o Options, secrets ...string) string {
	return helper.OneLine(text, o.getenv, secrets...)
}

func printable(text string) string { return helper.Printable(text) }
