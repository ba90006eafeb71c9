package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// deviceKey is the key that stands for the device at the server. It has nothing to do with artifact signatures.
type deviceKey struct {
	signer crypto.Signer
	pem    string // of the public key
}

// loadDeviceKey reads the device's key, or makes one on the first start. Keys of both Mender clients are taken over
// (RSA in PKCS#1 from 3.x, Ed25519 in PKCS#8 from 4 on), so that a device keeps its place on the server.
func loadDeviceKey(path string) (*deviceKey, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = newDeviceKey(); err != nil {
			return nil, err
		}
		if err := durable.WriteFile(path, data, 0o600); err != nil {
			return nil, fmt.Errorf("storing the device's key: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("reading the device's key: %s: %s", path, reason(err))
	}
	signer, err := parseDeviceKey(data)
	if err != nil {
		return nil, withHint(fmt.Errorf("the device's key %s: %w", path, err),
			"move the file away to get a new key; the device must then be accepted on the server again")
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("the device's key %s: %w", path, err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return &deviceKey{signer: signer, pem: string(public)}, nil
}

func newDeviceKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the device's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making the device's key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseDeviceKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("is not PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("is %q, not an unencrypted private key", block.Type)
	}
	if err != nil {
		return nil, errors.New("is damaged")
	}
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P256() {
			return key, nil
		}
	}
	return nil, errors.New("must be Ed25519, ECDSA on P-256 or RSA")
}

// sign makes the signature of an authentication request's body in the form that belongs to the kind of key.
func (k *deviceKey) sign(body []byte) ([]byte, error) {
	if _, ok := k.signer.(ed25519.PrivateKey); ok {
		return k.signer.Sign(rand.Reader, body, crypto.Hash(0))
	}
	sum := sha256.Sum256(body)
	return k.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
}
