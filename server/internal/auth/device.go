package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// Bounds of a device's RSA key. The Go client of Mender makes 3072 bits; the upper bound is what verifying may cost.
const (
	minRSA = 2048
	maxRSA = 4096
)

// maxIdentity bounds the number of identity values; devices have one to five.
const maxIdentity = 64

// ErrSignature is a request that its key has not signed.
var ErrSignature = errors.New("the signature does not match the key in the request")

// DeviceRequest is a device's authentication request whose signature has been verified.
type DeviceRequest struct {
	Identity     string // JSON object with its keys sorted, so that the order in which a script prints them doesn't matter
	IdentityHash string // SHA-256 of it, hex; this is who the device is
	PubKey       string // PEM, normalised: the same key is the same text
	Fingerprint  string // SHA-256 of the DER key, hex
}

// VerifyDevice checks an authentication request: the signature is over the exact bytes of the body, by the key in it.
// Errors other than ErrSignature say what is wrong with the request.
func VerifyDevice(body []byte, signature string) (*DeviceRequest, error) {
	var req menderapi.AuthRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, errors.New("the body is not the JSON of an authentication request")
	}
	if req.IDData == "" || req.PubKey == "" {
		return nil, errors.New("id_data and pubkey must be set")
	}
	key, der, err := parseDeviceKey(req.PubKey)
	if err != nil {
		return nil, err
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(signature)
	if err != nil {
		return nil, ErrSignature
	}
	if !verifyBody(key, body, sig) {
		return nil, ErrSignature
	}
	identity, err := canonicalIdentity(req.IDData)
	if err != nil {
		return nil, err
	}
	idHash, keyHash := sha256.Sum256([]byte(identity)), sha256.Sum256(der)
	return &DeviceRequest{
		Identity: identity, IdentityHash: hex.EncodeToString(idHash[:]),
		PubKey:      string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		Fingerprint: hex.EncodeToString(keyHash[:]),
	}, nil
}

// parseDeviceKey reads a public key and returns its normal form beside it.
func parseDeviceKey(text string) (key crypto.PublicKey, der []byte, err error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, errors.New("pubkey is not one PEM block of type PUBLIC KEY")
	}
	if key, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return nil, nil, errors.New("pubkey is not a public key that this server knows")
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA {
			return nil, nil, fmt.Errorf("pubkey has %d bits; RSA keys must have %d to %d", bits, minRSA, maxRSA)
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, nil, fmt.Errorf("pubkey is on curve %s; only P-256 is supported", k.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return nil, nil, errors.New("pubkey must be an RSA, ECDSA P-256 or Ed25519 key")
	}
	der, err = x509.MarshalPKIXPublicKey(key)
	return key, der, err
}

func verifyBody(key crypto.PublicKey, body, sig []byte) bool {
	digest := sha256.Sum256(body)
	switch k := key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], sig) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest[:], sig)
	case ed25519.PublicKey:
		return ed25519.Verify(k, body, sig)
	}
	return false
}

// canonicalIdentity writes an identity object with its keys sorted and without white space.
func canonicalIdentity(text string) (string, error) {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber() // 64-bit serial numbers stay what they are
	var identity map[string]any
	if err := d.Decode(&identity); err != nil {
		return "", errors.New("id_data is not a JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return "", errors.New("id_data has something after its JSON object")
	}
	if len(identity) == 0 || len(identity) > maxIdentity {
		return "", fmt.Errorf("id_data must have 1 to %d values", maxIdentity)
	}
	out, err := json.Marshal(identity)
	return string(out), err
}
