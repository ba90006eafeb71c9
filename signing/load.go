package signing

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/twinkeel/twinkeel/signing/verify"
)

// KeyError is a private key, or the file, store or command that has it, that cannot be used.
type KeyError struct {
	Path   string // the file, or the URI without secrets
	Reason string
	Advice string // what to do, may be ""
	Err    error  // may be nil

	noPrivate bool // the file could be read and holds no private key
}

func (e *KeyError) Error() string { return fmt.Sprintf("private key %s: %s", e.Path, e.Reason) }

func (e *KeyError) Unwrap() error { return e.Err }

// Hint is what the person can do about it.
func (e *KeyError) Hint() string { return e.Advice }

// ErrPassphrase is wrapped when a key is encrypted and the passphrase is missing or wrong.
var ErrPassphrase = errors.New("missing or wrong passphrase")

const maxKeyFile = 64 << 10

// LoadFile reads a private key in PEM form: PKCS #8 (plain or encrypted), PKCS #1 or SEC 1 (plain, or encrypted in
// OpenSSL's old way). Passphrase is called only for an encrypted key and may be nil. A file that others may read is refused.
func LoadFile(path string, passphrase func() ([]byte, error)) (Signer, error) {
	data, err := readPrivateFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	return load(path, data, passphrase)
}

// LoadVariable reads a private key in PEM form from the value of an environment variable of that name, as LoadFile does from
// a file. No error quotes the value.
func LoadVariable(name, value string, passphrase func() ([]byte, error)) (Signer, error) {
	what := "in the environment variable " + name
	switch {
	case value == "":
		return nil, &KeyError{Path: what, Reason: "the variable is not set, or empty", Advice: "set " + name + " to the PEM text of the key"}
	case len(value) > maxKeyFile:
		return nil, &KeyError{Path: what, Reason: fmt.Sprintf("the value is larger than %d KiB, which no key is", maxKeyFile>>10)}
	}
	return load(what, []byte(value), passphrase)
}

// load makes a signer of PEM text that was found at a place.
func load(place string, data []byte, passphrase func() ([]byte, error)) (Signer, error) {
	private, err := parsePrivate(data, passphrase)
	if err != nil {
		var ke *KeyError
		if errors.As(err, &ke) {
			ke.Path = place
			return nil, ke
		}
		return nil, &KeyError{Path: place, Reason: err.Error(), Err: err}
	}
	signer, err := newKeySigner(private)
	if err != nil {
		var ve *verify.KeyError
		if errors.As(err, &ve) {
			return nil, &KeyError{Path: place, Reason: ve.Reason, Advice: "make a suitable key with: twinkeel keys generate FILE", Err: err}
		}
		return nil, err
	}
	return signer, nil
}

func readPrivateFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		e := &KeyError{Path: path, Err: err}
		var pe *fs.PathError
		switch {
		case errors.Is(err, fs.ErrNotExist):
			e.Reason, e.Advice = "the file does not exist", "make a key with: twinkeel keys generate "+path
		case errors.Is(err, fs.ErrPermission):
			e.Reason = "the file may not be read by this user"
		case errors.As(err, &pe):
			e.Reason = pe.Err.Error()
		default:
			e.Reason = "the file cannot be opened"
		}
		return nil, e
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, &KeyError{Path: path, Reason: "the file cannot be examined", Err: err}
	}
	if info.IsDir() {
		return nil, &KeyError{Path: path, Reason: "it is a directory"}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, &KeyError{Path: path, Reason: "the file cannot be read", Err: err}
	}
	if len(data) > maxKeyFile {
		return nil, &KeyError{Path: path, Reason: fmt.Sprintf("the file is larger than %d KiB, which no key is", maxKeyFile>>10)}
	}
	// A pipe, such as bash's <(…), has no permissions that mean something.
	mode := info.Mode()
	if mode.IsRegular() && runtime.GOOS != "windows" && mode.Perm()&0o077 != 0 && !isPublic(data) {
		clear(data)
		return nil, &KeyError{
			Path:   path,
			Reason: fmt.Sprintf("other users may read or change the file (its mode is %04o)", mode.Perm()),
			Advice: "chmod 600 " + path,
		}
	}
	return data, nil
}

// isPublic tells a public key, given by mistake: its mode does not matter, and what is wrong with it is something else.
func isPublic(data []byte) bool {
	return bytes.Contains(data, []byte("PUBLIC KEY-----")) && !bytes.Contains(data, []byte("PRIVATE KEY"))
}

// parsePrivate finds the one private key in a PEM file. Other blocks before it, such as "EC PARAMETERS", which openssl
// writes, are passed over.
func parsePrivate(data []byte, passphrase func() ([]byte, error)) (crypto.Signer, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, &KeyError{noPrivate: true, Reason: "the file is empty"}
	}
	other := ""
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		key, err := parsePrivateBlock(block, passphrase)
		if errors.Is(err, errNotPrivate) {
			other = block.Type
			continue
		}
		return key, err
	}
	switch other {
	case "":
		return nil, &KeyError{noPrivate: true, Reason: "the file holds no key in PEM form"}
	case "PUBLIC KEY", "RSA PUBLIC KEY":
		return nil, &KeyError{noPrivate: true, Reason: "the file holds a public key; the private one is needed to sign"}
	}
	return nil, &KeyError{noPrivate: true, Reason: fmt.Sprintf("the file holds a PEM block %q, but no private key that can be read here", other)}
}

var errNotPrivate = errors.New("not a private key")

// privateTypes are the PEM blocks that hold private keys, of openssl, sigstore and cosign.
var privateTypes = []string{
	"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY",
	"ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY",
}

func parsePrivateBlock(block *pem.Block, passphrase func() ([]byte, error)) (crypto.Signer, error) {
	if !slices.Contains(privateTypes, block.Type) {
		return nil, errNotPrivate
	}
	var asked bool
	var passErr error
	key, err := cryptoutils.UnmarshalPEMToPrivateKey(pem.EncodeToMemory(block), func(bool) ([]byte, error) {
		asked = true
		if passphrase == nil {
			passErr = &KeyError{Reason: "the key is encrypted and no passphrase is given", Err: ErrPassphrase}
			return nil, passErr
		}
		p, err := passphrase()
		if err != nil {
			passErr = &KeyError{Reason: "the key is encrypted and the passphrase could not be read: " + err.Error(), Err: err}
		}
		return p, passErr
	})
	switch {
	case passErr != nil:
		return nil, passErr
	case err != nil && asked:
		return nil, &KeyError{Reason: "the passphrase is wrong, or the key is damaged or encrypted in an unusual way", Err: ErrPassphrase}
	case err != nil: // the cause stays out: parsers may quote parts of what they read
		return nil, &KeyError{Reason: "the key is damaged, or weaker than is accepted"}
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return nil, &KeyError{Reason: "the key is of a kind that cannot sign: Mender clients verify only RSA and ECDSA P-256"}
}
