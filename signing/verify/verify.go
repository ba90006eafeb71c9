// Package verify decides whether a signature on a Mender artifact was made by a key that is trusted.
//
// It knows exactly the two algorithms that Mender clients know: RSA (PKCS #1 v1.5 with SHA-256) and ECDSA on P-256 with
// SHA-256. There is no answer but "verified by this key" and an error: an empty list of keys, a file that cannot be read
// and a key of another kind are errors when the keyring is made, so that a broken configuration never means "unverified".
//
// The form of a signature is the one of mender-artifact (docs/artifact-format.md, "manifest.sig"): for RSA as many bytes
// as the modulus has, for P-256 the numbers r and s as 32 bytes each. A P-256 signature of any other length is tried as
// the ASN.1 form that hardware modules give and that Mender clients from version 4 on accept.
//
// The package uses the standard library alone, because the agent on the device contains it.
package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
)

// ErrNoMatch is returned when no trusted key verifies a signature.
var ErrNoMatch = errors.New("signature does not match any trusted key")

// The sizes of RSA keys that are accepted. Below 2048 bits a key can be broken; above 8192 a hostile key costs more
// time than any real one.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

const maxKeyFile = 64 << 10

// Key is a public key that may sign artifacts.
type Key struct {
	// ID is the lower-case hexadecimal SHA-256 of the key in its DER form (SubjectPublicKeyInfo). It is what
	// `openssl pkey -pubin -in FILE -outform DER | sha256sum` prints.
	ID string
	// Algorithm is "ecdsa-p256" or "rsa-" and the size in bits, such as "rsa-3072".
	Algorithm string
	Public    crypto.PublicKey
}

// KeyError is a key, or a file of keys, that cannot be used.
type KeyError struct {
	Path   string // "" when the key did not come from a file
	Reason string
	Advice string // what to do, may be ""
	Err    error  // may be nil
}

func (e *KeyError) Error() string {
	if e.Path == "" {
		return e.Reason
	}
	return fmt.Sprintf("key file %s: %s", e.Path, e.Reason)
}

func (e *KeyError) Unwrap() error { return e.Err }

// Hint is what the person can do about it.
func (e *KeyError) Hint() string { return e.Advice }

// NewKey makes a Key of a public key: an *rsa.PublicKey with 2048 to 8192 bits or an *ecdsa.PublicKey on P-256. All others are
// refused with the reason.
func NewKey(public crypto.PublicKey) (Key, error) {
	algorithm, err := algorithmOf(public)
	if err != nil {
		return Key{}, err
	}
	id, err := KeyID(public)
	if err != nil {
		return Key{}, err
	}
	return Key{ID: id, Algorithm: algorithm, Public: public}, nil
}

func algorithmOf(public crypto.PublicKey) (string, error) {
	const only = "Mender clients verify only RSA and ECDSA P-256"
	switch k := public.(type) {
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		switch {
		case bits < minRSABits:
			return "", &KeyError{Reason: fmt.Sprintf("an RSA key of %d bits is too weak: at least %d are needed, 3072 are recommended", bits, minRSABits)}
		case bits > maxRSABits:
			return "", &KeyError{Reason: fmt.Sprintf("an RSA key of %d bits is larger than the %d that are accepted", bits, maxRSABits)}
		}
		return fmt.Sprintf("rsa-%d", bits), nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return "", &KeyError{Reason: fmt.Sprintf("an ECDSA key on the curve %s cannot be used: %s", k.Curve.Params().Name, only)}
		}
		return "ecdsa-p256", nil
	default:
		return "", &KeyError{Reason: fmt.Sprintf("a key of the kind %s cannot be used: %s", kindOf(public), only)}
	}
}

// kindOf names a key for people; Go's type names would not help them.
func kindOf(public crypto.PublicKey) string {
	switch fmt.Sprintf("%T", public) {
	case "ed25519.PublicKey":
		return "Ed25519"
	case "*ecdh.PublicKey":
		return "X25519 or ECDH"
	case "*dsa.PublicKey":
		return "DSA"
	}
	return "that is unknown here"
}

// KeyID returns the identifier of a public key; see [Key].
func KeyID(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", &KeyError{Reason: "the public key cannot be encoded", Err: err}
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// ParseKeys reads one or more public keys in PEM form ("BEGIN PUBLIC KEY"). Anything else in the input but white space is
// an error: a key that is silently passed over is a device that cannot be updated.
func ParseKeys(data []byte) ([]Key, error) {
	var keys []Key
	rest := bytes.TrimSpace(data)
	if len(rest) == 0 {
		return nil, &KeyError{Reason: "it is empty; expected a public key in PEM form"}
	}
	for len(rest) > 0 {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, &KeyError{Reason: "it holds something other than public keys in PEM form (BEGIN PUBLIC KEY)"}
		}
		block, after := pem.Decode(rest)
		if block == nil {
			return nil, &KeyError{Reason: "it holds a damaged PEM block"}
		}
		key, err := parseBlock(block)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
		rest = bytes.TrimSpace(after)
	}
	return keys, nil
}

func parseBlock(block *pem.Block) (Key, error) {
	switch block.Type {
	case "PUBLIC KEY":
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
		return Key{}, &KeyError{
			Reason: "it holds a private key; a public key is needed here",
			Advice: "keep the private key away from devices and servers; make its public half with: openssl pkey -in KEY -pubout",
		}
	case "CERTIFICATE":
		return Key{}, &KeyError{
			Reason: "it holds a certificate; Mender clients read only plain public keys",
			Advice: "take the key out of it with: openssl x509 -in FILE -pubkey -noout",
		}
	case "RSA PUBLIC KEY":
		return Key{}, &KeyError{
			Reason: "it holds a key in PKCS #1 form; Mender clients read only the PKIX form (BEGIN PUBLIC KEY)",
			Advice: "convert it with: openssl rsa -RSAPublicKey_in -in FILE -pubout",
		}
	default:
		return Key{}, &KeyError{Reason: fmt.Sprintf("it holds a PEM block %q; expected PUBLIC KEY", block.Type)}
	}
	if len(block.Headers) > 0 {
		return Key{}, &KeyError{Reason: "it holds a PEM block with headers, which a public key does not have"}
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return Key{}, &KeyError{Reason: "it holds a public key that is damaged or of an unknown kind", Err: err}
	}
	return NewKey(public)
}

// Keyring holds the keys that are trusted; there is at least one.
type Keyring struct {
	keys []Key
}

// NewKeyring trusts the given keys. Without any it is an error.
func NewKeyring(keys ...Key) (*Keyring, error) {
	if len(keys) == 0 {
		return nil, &KeyError{Reason: "no verification key is given"}
	}
	ring := &Keyring{}
	seen := make(map[string]bool)
	for _, k := range keys {
		checked, err := NewKey(k.Public)
		if err != nil {
			return nil, err
		}
		if !seen[checked.ID] {
			seen[checked.ID] = true
			ring.keys = append(ring.keys, checked)
		}
	}
	return ring, nil
}

// LoadKeyring trusts the keys in the given files. It fails closed: an empty list, a missing, unreadable or empty file and
// a key that cannot be used are errors.
func LoadKeyring(paths []string) (*Keyring, error) {
	var keys []Key
	for _, path := range paths {
		data, err := readKeyFile(path)
		if err != nil {
			return nil, err
		}
		found, err := ParseKeys(data)
		if err != nil {
			var ke *KeyError
			if errors.As(err, &ke) {
				named := *ke
				named.Path = path
				return nil, &named
			}
			return nil, err
		}
		keys = append(keys, found...)
	}
	return NewKeyring(keys...)
}

func readKeyFile(path string) ([]byte, error) {
	if path == "" {
		return nil, &KeyError{Reason: "the name of a verification key file is empty"}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fileError(path, err)
	}
	if len(data) > maxKeyFile {
		return nil, &KeyError{Path: path, Reason: fmt.Sprintf("it is larger than %d KiB, which no list of keys is", maxKeyFile>>10)}
	}
	return data, nil
}

func fileError(path string, err error) error {
	reason := err.Error()
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		reason = "it does not exist"
	case errors.Is(err, fs.ErrPermission):
		reason = "it may not be read by this user"
	case errors.As(err, &pe):
		reason = pe.Err.Error()
	}
	return &KeyError{Path: path, Reason: reason, Err: err}
}

// Keys returns the trusted keys in the order in which they were given.
func (r *Keyring) Keys() []Key { return append([]Key(nil), r.keys...) }

// Verify checks a signature over message and returns the identifier of the key that made it. If no key did, the error is
// ErrNoMatch.
func (r *Keyring) Verify(message, signature []byte) (keyID string, err error) {
	return r.VerifyDigest(sha256.Sum256(message), signature)
}

// VerifyDigest is Verify for a message of which only the SHA-256 is at hand, as of an image of many gigabytes.
func (r *Keyring) VerifyDigest(digest [sha256.Size]byte, signature []byte) (keyID string, err error) {
	for _, k := range r.keys {
		if verifyOne(k.Public, digest[:], signature) {
			return k.ID, nil
		}
	}
	return "", ErrNoMatch
}

func verifyOne(public crypto.PublicKey, digest, signature []byte) bool {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest, signature) == nil
	case *ecdsa.PublicKey:
		if len(signature) == 64 {
			der, err := asn1.Marshal(struct{ R, S *big.Int }{
				new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]),
			})
			return err == nil && ecdsa.VerifyASN1(k, digest, der)
		}
		return ecdsa.VerifyASN1(k, digest, signature) // takes only the canonical encoding
	}
	return false
}
