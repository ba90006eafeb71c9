package signing

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	"github.com/twinkeel/twinkeel/signing/verify"
)

// p256Size is the size of r and of s.
const p256Size = 32

// maxSignature bounds what is taken for a signature: four times the base64 form of the largest RSA key's.
const maxSignature = 8 << 10

// SignatureError is something that was given as a signature and is none of the expected key.
type SignatureError struct {
	Reason string
	Advice string // what to do, may be ""
}

func (e *SignatureError) Error() string { return e.Reason }

// Hint is what the person can do about it.
func (e *SignatureError) Hint() string { return e.Advice }

// DigestSigner is a Signer that also signs when it is given only the SHA-256 of the message. Keys in files, in key
// management services and in PKCS #11 tokens can; ssh-agent and signing commands take only messages.
type DigestSigner interface {
	SignDigest(ctx context.Context, digest [sha256.Size]byte) ([]byte, error)
}

// Normalize returns a signature in Mender's form: for RSA as many bytes as the modulus has, for ECDSA on P-256 the numbers r and s
// as 32 bytes each. ECDSA signatures may come in that form or in ASN.1. Whether the signature is valid is not checked.
func Normalize(public crypto.PublicKey, signature []byte) ([]byte, error) {
	if _, err := verify.NewKey(public); err != nil {
		return nil, err
	}
	switch k := public.(type) {
	case *rsa.PublicKey:
		if len(signature) != k.Size() {
			return nil, &SignatureError{Reason: fmt.Sprintf("the signature has %d bytes; one of this RSA key has %d", len(signature), k.Size())}
		}
		return bytes.Clone(signature), nil
	case *ecdsa.PublicKey:
		if len(signature) == 2*p256Size {
			r, s := new(big.Int).SetBytes(signature[:p256Size]), new(big.Int).SetBytes(signature[p256Size:])
			return rawP256(r, s)
		}
		var rs struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(signature, &rs); err != nil || len(rest) > 0 {
			return nil, &SignatureError{Reason: fmt.Sprintf(
				"the signature (%d bytes) is not one of ECDSA P-256: neither r and s as 32 bytes each nor ASN.1", len(signature))}
		}
		return rawP256(rs.R, rs.S)
	}
	return nil, &SignatureError{Reason: "the key is of an unknown kind"}
}

// rawP256 is Mender's form of an ECDSA signature.
func rawP256(r, s *big.Int) ([]byte, error) {
	order := elliptic.P256().Params().N
	if r.Sign() <= 0 || s.Sign() <= 0 || r.Cmp(order) >= 0 || s.Cmp(order) >= 0 {
		return nil, &SignatureError{Reason: "the signature is not one of ECDSA P-256: a number is out of range"}
	}
	raw := make([]byte, 2*p256Size)
	r.FillBytes(raw[:p256Size])
	s.FillBytes(raw[p256Size:])
	return raw, nil
}

// DER returns a signature in the form of X.509 and DSSE, the reverse of Normalize: ASN.1 for ECDSA, unchanged for RSA. Either
// form is taken.
func DER(public crypto.PublicKey, signature []byte) ([]byte, error) {
	raw, err := Normalize(public, signature)
	if err != nil {
		return nil, err
	}
	if _, isRSA := public.(*rsa.PublicKey); isRSA {
		return raw, nil
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:p256Size]), new(big.Int).SetBytes(raw[p256Size:])})
}

// ParseSignature reads a signature that people carry from machine to machine: the bytes themselves, or their standard base64 form with
// any white space. The result still has the form that its maker gave it; see Normalize.
func ParseSignature(data []byte) ([]byte, error) {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return nil, &SignatureError{Reason: "the signature is empty"}
	case len(data) > maxSignature:
		return nil, &SignatureError{Reason: fmt.Sprintf("the signature is longer than %d KiB, which none is", maxSignature>>10)}
	}
	text := make([]byte, 0, len(data))
	for _, c := range data {
		switch {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '+', c == '/', c == '=':
			text = append(text, c)
		default: // no base64, so the bytes themselves; by chance they look like base64 once in 10^38 signatures
			return bytes.Clone(data), nil
		}
	}
	signature, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		return nil, &SignatureError{Reason: "the signature looks like base64, but it is damaged or cut"}
	}
	return signature, nil
}

// MarshalPublic returns a public key in the PEM form that devices read (PKIX), or nil for a kind that has none.
func MarshalPublic(public crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// signatureSize is the exact size of every signature in Mender's form.
func signatureSize(public crypto.PublicKey) int {
	if k, ok := public.(*rsa.PublicKey); ok {
		return k.Size()
	}
	return 2 * p256Size
}

// settle makes Mender's form of a signature that came from outside the process, and returns it only when it is valid. A key store
// that is configured wrongly would otherwise be noticed on the devices. Message is nil when only its digest is known.
func settle(public crypto.PublicKey, digest [sha256.Size]byte, message, signature []byte) ([]byte, error) {
	raw, err := Normalize(public, signature)
	if err != nil {
		return nil, err
	}
	if validDigest(public, crypto.SHA256, digest[:], raw) {
		return raw, nil
	}
	return nil, &SignatureError{Reason: whyInvalid(public, digest, message, raw)}
}

func validDigest(public crypto.PublicKey, hash crypto.Hash, digest, raw []byte) bool {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, hash, digest, raw) == nil
	case *ecdsa.PublicKey:
		der, err := DER(k, raw)
		return err == nil && ecdsa.VerifyASN1(k, digest, der)
	}
	return false
}

// whyInvalid recognises the usual mistakes.
func whyInvalid(public crypto.PublicKey, digest [sha256.Size]byte, message, raw []byte) string {
	const only = "Mender clients verify only SHA-256"
	if k, ok := public.(*rsa.PublicKey); ok {
		if rsa.VerifyPSS(k, crypto.SHA256, digest[:], raw, nil) == nil {
			return "the signature is RSA-PSS; Mender clients verify only RSA PKCS #1 v1.5"
		}
	}
	twice := sha256.Sum256(digest[:])
	if validDigest(public, crypto.SHA256, twice[:], raw) {
		return "the signature is over the SHA-256 of the SHA-256 of the message: it was hashed twice"
	}
	if message != nil {
		sums := map[crypto.Hash][]byte{}
		s1, s384, s512 := sha1.Sum(message), sha512.Sum384(message), sha512.Sum512(message)
		sums[crypto.SHA1], sums[crypto.SHA384], sums[crypto.SHA512] = s1[:], s384[:], s512[:]
		for hash, sum := range sums {
			if validDigest(public, hash, sum, raw) {
				return fmt.Sprintf("the signature is over the message's %s; %s", hash, only)
			}
		}
	}
	return "the signature is not valid for the public key: it was made with another key, or over something else"
}

// asSignatureError tells a bad signature from a failure to make one.
func asSignatureError(err error) (*SignatureError, bool) {
	var se *SignatureError
	return se, errors.As(err, &se)
}
