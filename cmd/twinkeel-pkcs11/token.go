//go:build cgo && unix

package main

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"github.com/twinkeel/twinkeel/signing/helper"
)

// maxFound bounds the lists in failures, maxObjects the search.
const (
	maxFound   = 20
	maxObjects = 100
)

// findToken finds the one token that the request names. Tokens that are not initialised are no tokens yet.
func findToken(ctx *p11.Ctx, q *helper.Request) (slot uint, info p11.TokenInfo, err error) {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return 0, info, fmt.Errorf("C_GetSlotList: %w", err)
	}
	var all, fit []string
	for _, s := range slots {
		i, err := ctx.GetTokenInfo(s)
		if err != nil || i.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			continue // it may have been pulled out just now
		}
		text := fmt.Sprintf("token=%s serial=%s slot-id=%d", padded(i.Label), padded(i.SerialNumber), s)
		all = append(all, text)
		if matches(q.Token, i.Label) && matches(q.Serial, i.SerialNumber) && matches(q.Manufacturer, i.ManufacturerID) &&
			matches(q.Model, i.Model) && (q.SlotID == nil || *q.SlotID == s) {
			fit = append(fit, text)
			slot, info = s, i
		}
	}
	switch len(fit) {
	case 0:
		return 0, info, &helper.Failure{Code: helper.TokenMissing, Found: some(all)}
	case 1:
		return slot, info, nil
	}
	return 0, info, &helper.Failure{Code: helper.TokenAmbiguous, Found: some(fit)}
}

func matches(wanted, is string) bool { return wanted == "" || wanted == padded(is) }

// padded removes the blanks that fill fields of fixed width.
func padded(s string) string { return strings.TrimRight(s, " \x00") }

func some(list []string) []string { return list[:min(len(list), maxFound)] }

func login(ctx *p11.Ctx, session p11.SessionHandle, info p11.TokenInfo, pin []byte) error {
	keypad := info.Flags&p11.CKF_PROTECTED_AUTHENTICATION_PATH != 0
	switch {
	case info.Flags&p11.CKF_LOGIN_REQUIRED == 0 && len(pin) == 0:
		return nil
	case len(pin) == 0 && !keypad:
		return &helper.Failure{Code: helper.PINMissing}
	}
	return loginError(ctx.Login(session, p11.CKU_USER, string(pin)))
}

func loginError(err error) error {
	if err == nil {
		return nil
	}
	var code p11.Error
	if errors.As(err, &code) {
		switch code {
		case p11.CKR_USER_ALREADY_LOGGED_IN:
			return nil
		case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE:
			return &helper.Failure{Code: helper.PINWrong}
		case p11.CKR_PIN_LOCKED:
			return &helper.Failure{Code: helper.PINLocked}
		}
	}
	return fmt.Errorf("C_Login: %w", err)
}

// key is a key that was found. Handle is that of the private key, unless only the public one was asked for.
type key struct {
	handle p11.ObjectHandle
	kind   uint   // CKK_RSA or CKK_EC
	public []byte // SubjectPublicKeyInfo
	pin    []byte // kept only for keys that want it for each signature
}

func findKey(ctx *p11.Ctx, session p11.SessionHandle, q *helper.Request) (*key, error) {
	class := uint(p11.CKO_PRIVATE_KEY)
	if q.PublicOnly {
		class = p11.CKO_PUBLIC_KEY
	}
	template := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class)}
	if q.Object != "" {
		template = append(template, p11.NewAttribute(p11.CKA_LABEL, q.Object))
	}
	if q.ID != nil {
		template = append(template, p11.NewAttribute(p11.CKA_ID, q.ID))
	}
	found, err := find(ctx, session, template)
	if err != nil {
		return nil, err
	}
	switch len(found) {
	case 0:
		all, err := find(ctx, session, template[:1])
		if err != nil {
			return nil, err
		}
		return nil, &helper.Failure{Code: helper.ObjectMissing, Found: describe(ctx, session, all)}
	case 1:
	default:
		return nil, &helper.Failure{Code: helper.ObjectAmbiguous, Found: describe(ctx, session, found)}
	}
	k := &key{handle: found[0]}
	if k.kind, err = number(ctx, session, k.handle, p11.CKA_KEY_TYPE); err != nil {
		return nil, err
	}
	if !q.PublicOnly {
		if v, err := attribute(ctx, session, k.handle, p11.CKA_SIGN); err == nil && isFalse(v) {
			return nil, &helper.Failure{Code: helper.KeyUnsuitable, Detail: "the key is not one for signatures (CKA_SIGN is false)"}
		}
		if v, err := attribute(ctx, session, k.handle, p11.CKA_ALWAYS_AUTHENTICATE); err == nil && len(v) == 1 && v[0] != 0 {
			k.pin = bytes.Clone(q.PIN)
		}
	}
	if k.public, err = publicOf(ctx, session, k, q.PublicOnly); err != nil {
		return nil, err
	}
	return k, nil
}

func isFalse(v []byte) bool { return len(v) == 1 && v[0] == 0 }

func find(ctx *p11.Ctx, session p11.SessionHandle, template []*p11.Attribute) ([]p11.ObjectHandle, error) {
	if err := ctx.FindObjectsInit(session, template); err != nil {
		return nil, fmt.Errorf("C_FindObjectsInit: %w", err)
	}
	found, _, err := ctx.FindObjects(session, maxObjects)
	if err != nil {
		_ = ctx.FindObjectsFinal(session)
		return nil, fmt.Errorf("C_FindObjects: %w", err)
	}
	if err := ctx.FindObjectsFinal(session); err != nil {
		return nil, fmt.Errorf("C_FindObjectsFinal: %w", err)
	}
	return found, nil
}

// describe names objects in the form of a URI's attributes.
func describe(ctx *p11.Ctx, session p11.SessionHandle, objects []p11.ObjectHandle) []string {
	var list []string
	for _, o := range objects[:min(len(objects), maxFound)] {
		label, _ := attribute(ctx, session, o, p11.CKA_LABEL)
		id, _ := attribute(ctx, session, o, p11.CKA_ID)
		var text strings.Builder
		fmt.Fprintf(&text, "object=%s", label[:min(len(label), 64)])
		if len(id) > 0 {
			text.WriteString(" id=")
			for _, b := range id[:min(len(id), 32)] {
				fmt.Fprintf(&text, "%%%02X", b)
			}
		}
		list = append(list, text.String())
	}
	return list
}

func attribute(ctx *p11.Ctx, session p11.SessionHandle, o p11.ObjectHandle, kind uint) ([]byte, error) {
	attributes, err := ctx.GetAttributeValue(session, o, []*p11.Attribute{p11.NewAttribute(kind, nil)})
	if err != nil {
		return nil, fmt.Errorf("C_GetAttributeValue: %w", err)
	}
	if len(attributes) != 1 {
		return nil, errors.New("C_GetAttributeValue: no value")
	}
	return attributes[0].Value, nil
}

// number reads a CK_ULONG, which has the byte order of the machine; its values here fit into one byte or are vendors' own.
func number(ctx *p11.Ctx, session p11.SessionHandle, o p11.ObjectHandle, kind uint) (uint, error) {
	v, err := attribute(ctx, session, o, kind)
	if err != nil {
		return 0, err
	}
	for _, n := range []uint{p11.CKK_RSA, p11.CKK_EC} {
		if bytes.Equal(v, p11.NewAttribute(kind, n).Value) {
			return n, nil
		}
	}
	return 0, &helper.Failure{Code: helper.KeyUnsuitable, Detail: "the key is neither RSA nor EC: Mender clients verify only RSA and ECDSA P-256"}
}

// publicOf builds the public key. RSA private keys have its numbers; for EC, and where a token hides them, they are in the public key
// or the certificate with the same id.
func publicOf(ctx *p11.Ctx, session p11.SessionHandle, k *key, isPublic bool) ([]byte, error) {
	if der, err := publicFrom(ctx, session, k.handle, k.kind); err == nil && (isPublic || k.kind == p11.CKK_RSA) {
		return der, nil
	} else if isPublic {
		return nil, err
	}
	id, err := attribute(ctx, session, k.handle, p11.CKA_ID)
	if err != nil || len(id) == 0 {
		return nil, &helper.Failure{Code: helper.PublicMissing}
	}
	objects, err := find(ctx, session, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), p11.NewAttribute(p11.CKA_ID, id)})
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if der, err := publicFrom(ctx, session, o, k.kind); err == nil {
			return der, nil
		}
	}
	certificates, err := find(ctx, session, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_CERTIFICATE), p11.NewAttribute(p11.CKA_ID, id)})
	if err != nil {
		return nil, err
	}
	for _, o := range certificates {
		value, err := attribute(ctx, session, o, p11.CKA_VALUE)
		if err != nil {
			continue
		}
		if c, err := x509.ParseCertificate(value); err == nil {
			return x509.MarshalPKIXPublicKey(c.PublicKey)
		}
	}
	// A public key that is there and cannot be used says more than its absence.
	if len(objects) > 0 {
		_, err := publicFrom(ctx, session, objects[0], k.kind)
		return nil, err
	}
	return nil, &helper.Failure{Code: helper.PublicMissing}
}

func publicFrom(ctx *p11.Ctx, session p11.SessionHandle, o p11.ObjectHandle, kind uint) ([]byte, error) {
	if kind == p11.CKK_RSA {
		n, err := attribute(ctx, session, o, p11.CKA_MODULUS)
		if err != nil {
			return nil, err
		}
		e, err := attribute(ctx, session, o, p11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return nil, err
		}
		exponent := new(big.Int).SetBytes(e)
		if len(n) == 0 || !exponent.IsInt64() || exponent.Int64() < 3 || exponent.Int64() > 1<<31-1 {
			return nil, &helper.Failure{Code: helper.KeyUnsuitable, Detail: "the RSA key has an exponent that is not accepted"}
		}
		return x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())})
	}
	params, err := attribute(ctx, session, o, p11.CKA_EC_PARAMS)
	if err != nil {
		return nil, err
	}
	var curve asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(params, &curve); err != nil || !curve.Equal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}) {
		return nil, &helper.Failure{Code: helper.KeyUnsuitable, Detail: "the EC key is not on the curve P-256: Mender clients verify only RSA and ECDSA P-256"}
	}
	point, err := attribute(ctx, session, o, p11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	var inner []byte // the standard wants an OCTET STRING; some tokens give the point itself
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		point = inner
	}
	if _, err := ecdh.P256().NewPublicKey(point); err != nil {
		return nil, &helper.Failure{Code: helper.KeyUnsuitable, Detail: "the public key of the EC key is damaged"}
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(public)
}

// sha256Info is the ASN.1 before a SHA-256 in a PKCS #1 signature (RFC 8017, 9.2).
var sha256Info = []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}

func (k *key) sign(ctx *p11.Ctx, session p11.SessionHandle, digest []byte) ([]byte, error) {
	mechanism, data := uint(p11.CKM_ECDSA), digest
	if k.kind == p11.CKK_RSA {
		mechanism, data = p11.CKM_RSA_PKCS, append(bytes.Clone(sha256Info), digest...)
	}
	if err := ctx.SignInit(session, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, k.handle); err != nil {
		return nil, fmt.Errorf("C_SignInit: %w", err)
	}
	if k.pin != nil {
		if err := loginError(ctx.Login(session, p11.CKU_CONTEXT_SPECIFIC, string(k.pin))); err != nil {
			return nil, err
		}
	}
	signature, err := ctx.Sign(session, data)
	if err != nil {
		return nil, fmt.Errorf("C_Sign: %w", err)
	}
	return signature, nil
}
