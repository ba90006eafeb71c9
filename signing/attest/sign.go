package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"

	"github.com/twinkeel/twinkeel/signing/verify"
)

// Signer signs a statement; the signers of package signing are such.
type Signer interface {
	// Sign returns the signature in Mender's form: RSA PKCS #1 v1.5, or r and s of P-256 as 32 bytes each.
	Sign(ctx context.Context, message []byte) ([]byte, error)
	Public() crypto.PublicKey
}

// envelope is a DSSE envelope. There is no keyid, although the format has a place for it: it is a hint that nobody may rely on,
// and sigstore's verifier, and with it cosign, passes over every signature whose keyid is not the key's fingerprint in the
// form of SSH. Without a keyid all verifiers try their keys.
type envelope struct {
	PayloadType string              `json:"payloadType"`
	Payload     string              `json:"payload"`
	Signatures  []envelopeSignature `json:"signatures"`
}

type envelopeSignature struct {
	Sig string `json:"sig"`
}

// Sign puts a statement in an envelope with a signature by each of the signers. It refuses a statement that [Verify] would.
func Sign(ctx context.Context, s Statement, signers ...Signer) ([]byte, error) {
	if len(signers) == 0 {
		return nil, ErrUnsigned
	}
	if len(signers) > maxSignatures {
		return nil, fmt.Errorf("signing the attestation: %d keys are too many, at most %d can be used", len(signers), maxSignatures)
	}
	payload, err := encode(s)
	if err != nil {
		return nil, err
	}
	message := pae(PayloadType, payload)
	out := envelope{PayloadType: PayloadType, Payload: base64.StdEncoding.EncodeToString(payload)}
	seen := make(map[string]bool)
	for _, signer := range signers {
		sig, keyID, err := signOne(ctx, signer, message)
		if err != nil {
			return nil, err
		}
		if seen[keyID] {
			return nil, fmt.Errorf("signing the attestation: key %s is given twice", keyID)
		}
		seen[keyID] = true
		out.Signatures = append(out.Signatures, envelopeSignature{Sig: base64.StdEncoding.EncodeToString(sig)})
	}
	data, err := marshal(out)
	if err != nil {
		return nil, err
	}
	if len(data) > MaxSize {
		return nil, malformed("envelope", "it would have %d bytes, more than the %d MiB that are read", len(data), MaxSize>>20)
	}
	return data, nil
}

// signOne returns the signature in the form of DSSE. It is verified at once: a signature by a remote key store that does not do
// what it should is found here and not by the user of the artifact.
func signOne(ctx context.Context, signer Signer, message []byte) (sig []byte, keyID string, err error) {
	key, err := verify.NewKey(signer.Public())
	if err != nil {
		return nil, "", err
	}
	ring, err := verify.NewKeyring(key)
	if err != nil {
		return nil, "", err
	}
	if sig, err = signer.Sign(ctx, message); err != nil {
		return nil, "", fmt.Errorf("signing the attestation: %w", err)
	}
	if _, ok := key.Public.(*ecdsa.PublicKey); ok {
		if sig, err = derP256(sig); err != nil {
			return nil, "", fmt.Errorf("signing the attestation with key %s: %w", key.ID, err)
		}
	}
	if _, err := ring.Verify(message, sig); err != nil {
		return nil, "", fmt.Errorf("signing the attestation: the signature made by key %s is wrong: %w", key.ID, err)
	}
	return sig, key.ID, nil
}

// derP256 turns Mender's form of an ECDSA signature into ASN.1, which everyone else uses.
func derP256(raw []byte) ([]byte, error) {
	if len(raw) != rawP256Size {
		return nil, fmt.Errorf("the signature has %d bytes, one of P-256 has %d", len(raw), rawP256Size)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(raw[:rawP256Size/2]), new(big.Int).SetBytes(raw[rawP256Size/2:]),
	})
}

// encode writes the statement and reads it again, so that nothing is signed that would be refused.
func encode(s Statement) ([]byte, error) {
	payload, err := marshal(s)
	if err != nil {
		return nil, &FormatError{Part: "statement", Reason: "it cannot be written as JSON: " + err.Error(), Err: err}
	}
	payload = bytes.TrimSuffix(payload, []byte("\n"))
	if _, err := parseStatement(payload); err != nil {
		return nil, err
	}
	return payload, nil
}

// marshal writes JSON as it is read best: in the order of the fields, sorted maps, nothing escaped for web pages.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// pae is the pre-authentication encoding of DSSE, what is really signed.
func pae(payloadType string, payload []byte) []byte {
	b := make([]byte, 0, len(payload)+len(payloadType)+64)
	b = append(b, "DSSEv1 "...)
	b = strconv.AppendInt(b, int64(len(payloadType)), 10)
	b = append(b, ' ')
	b = append(b, payloadType...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(payload)), 10)
	b = append(b, ' ')
	return append(b, payload...)
}
