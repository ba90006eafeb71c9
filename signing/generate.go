package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// DefaultAlgorithm is what Generate makes when no algorithm is named.
const DefaultAlgorithm = "ecdsa-p256"

var generators = map[string]func() (crypto.Signer, error){
	"ecdsa-p256": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
	"rsa-3072":   func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 3072) },
	"rsa-4096":   func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 4096) },
}

// AlgorithmError is an algorithm that Generate does not make keys for.
type AlgorithmError struct {
	Algorithm string
	Reason    string
}

func (e *AlgorithmError) Error() string {
	return fmt.Sprintf("no key of the algorithm %q is made: %s", e.Algorithm, e.Reason)
}

// Hint lists what can be made.
func (e *AlgorithmError) Hint() string { return "use ecdsa-p256 (the default), rsa-3072 or rsa-4096" }

// Generate makes a new key pair in PEM form: the private key in PKCS #8, the public one in PKIX form. The algorithm is
// "ecdsa-p256" (also when empty), "rsa-3072" or "rsa-4096".
func Generate(algorithm string) (private, public []byte, err error) {
	if algorithm == "" {
		algorithm = DefaultAlgorithm
	}
	generate := generators[algorithm]
	if generate == nil {
		reason := "Mender clients verify only RSA and ECDSA P-256"
		if strings.HasPrefix(algorithm, "rsa-") {
			reason = "new RSA keys have 3072 or 4096 bits"
		}
		return nil, nil, &AlgorithmError{Algorithm: algorithm, Reason: reason}
	}
	key, err := generate()
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the private key: %w", err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the public key: %w", err)
	}
	private = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER})
	public = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
	return private, public, nil
}

// ExistsError is a key file that is already there.
type ExistsError struct{ Path string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("%s already exists and is not overwritten: a lost key cannot be brought back", e.Path)
}

// Hint is what the person can do about it.
func (e *ExistsError) Hint() string { return "choose another name, or move the file away first" }

// Is makes ExistsError an fs.ErrExist.
func (e *ExistsError) Is(target error) bool { return target == fs.ErrExist }

// WriteKeyPair stores a key pair: the private key readable by its owner alone (0600), the public key by all (0644). Each file
// appears whole or not at all. Neither overwrites a file; when one of them exists, nothing is written.
func WriteKeyPair(privatePath, publicPath string, private, public []byte) error {
	if filepath.Clean(privatePath) == filepath.Clean(publicPath) {
		return fmt.Errorf("the private and the public key cannot both be written to %s", privatePath)
	}
	for _, path := range []string{privatePath, publicPath} {
		if _, err := os.Lstat(path); err == nil {
			return &ExistsError{Path: path}
		}
	}
	if err := writeNew(privatePath, private, 0o600); err != nil {
		return err
	}
	// If power fails here there is a private key without its public half, which can be derived from it.
	if err := writeNew(publicPath, public, 0o644); err != nil {
		return errors.Join(err, durable.Remove(privatePath))
	}
	return nil
}

// writeNew is durable.WriteFile for a name that must be new: the finished file gets its name by link(2), which, unlike rename(2),
// fails when the name exists.
func writeNew(path string, data []byte, perm fs.FileMode) error {
	f, err := durable.Create(path, perm)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := durable.Sync(f.File); err != nil {
		return err
	}
	switch err := os.Link(f.Name(), path); {
	case errors.Is(err, fs.ErrExist):
		return &ExistsError{Path: path}
	case err != nil: // a file system without links, such as vfat
		if _, err := os.Lstat(path); err == nil {
			return &ExistsError{Path: path}
		}
		return f.Commit()
	}
	return durable.SyncDir(filepath.Dir(path))
}
