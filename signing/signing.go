// Package signing makes keys and signatures on the build host, in exactly the forms that Mender clients verify: RSA
// (PKCS #1 v1.5, SHA-256) and ECDSA on P-256 (r and s as 32 bytes each, SHA-256). Its counterpart on devices and servers is
// signing/verify.
//
// Keys are in files (LoadFile), in key management services, in PKCS #11 tokens and in ssh-agent (Open), or behind a command
// (OpenCommand). What comes from outside the process is brought into Mender's form and verified before it is returned.
//
// Signing with a file is reproducible: RSA signatures of this kind always are, and ECDSA signatures take their nonce from the key
// and the message (RFC 6979), so the same artifact signed twice has the same bytes. Other stores choose the nonce of ECDSA at random.
//
// No error and no value of this package that prints contains a private key, a passphrase, a PIN or a token.
package signing

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"

	"github.com/twinkeel/twinkeel/signing/verify"
)

// Signer signs messages with one private key, wherever that is kept.
type Signer interface {
	// Sign returns the signature in Mender's form.
	Sign(ctx context.Context, message []byte) ([]byte, error)
	// SignatureSize is the exact size in bytes of every signature: 64 for P-256, the size of the modulus for RSA.
	SignatureSize() int
	// Public is the public key that verifies the signatures.
	Public() crypto.PublicKey
	// KeyID identifies the public key as signing/verify does.
	KeyID() string
}

// keySigner signs with a private key in memory. It has no exported field and its String says only which key it is, so that
// printing it by mistake gives nothing away.
type keySigner struct {
	private crypto.Signer
	key     verify.Key
}

func newKeySigner(private crypto.Signer) (*keySigner, error) {
	key, err := verify.NewKey(private.Public())
	if err != nil {
		return nil, err
	}
	return &keySigner{private: private, key: key}, nil
}

func (s *keySigner) Public() crypto.PublicKey { return s.key.Public }
func (s *keySigner) KeyID() string            { return s.key.ID }
func (s *keySigner) String() string           { return s.key.Algorithm + " key " + s.key.ID }
func (s *keySigner) GoString() string         { return s.String() }

func (s *keySigner) SignatureSize() int { return signatureSize(s.key.Public) }

func (s *keySigner) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return s.SignDigest(ctx, sha256.Sum256(message))
}

// SignDigest makes it a DigestSigner.
func (s *keySigner) SignDigest(ctx context.Context, digest [sha256.Size]byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch k := s.private.(type) {
	case *rsa.PrivateKey:
		return rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, digest[:])
	case *ecdsa.PrivateKey:
		// Without a source of randomness the nonce is derived as RFC 6979 says.
		der, err := k.Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("signing with the P-256 key: %w", err)
		}
		return Normalize(s.key.Public, der)
	}
	return nil, fmt.Errorf("cannot sign with %s", s)
}
