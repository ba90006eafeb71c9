package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func publicPEM(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signEC(t *testing.T, k *ecdsa.PrivateKey, message string) (raw, der []byte) {
	t.Helper()
	digest := sha256.Sum256([]byte(message))
	der, err := ecdsa.SignASN1(rand.Reader, k, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	var s struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &s); err != nil {
		t.Fatal(err)
	}
	return append(s.R.FillBytes(make([]byte, 32)), s.S.FillBytes(make([]byte, 32))...), der
}

func TestVerify(t *testing.T) {
	t.Parallel()
	ec, other, r := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256()), rsaKey(t, 2048)
	keys, err := ParseKeys(slices.Concat(publicPEM(t, &other.PublicKey), []byte("\n"), publicPEM(t, &ec.PublicKey), publicPEM(t, &r.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := NewKeyring(append(keys, keys[0])...)
	if err != nil {
		t.Fatal(err)
	}
	if len(ring.Keys()) != 3 {
		t.Errorf("%d keys", len(ring.Keys()))
	}
	raw, der := signEC(t, ec, "message")
	digest := sha256.Sum256([]byte("message"))
	pkcs1, err := rsa.SignPKCS1v15(rand.Reader, r, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	pss, err := rsa.SignPSS(rand.Reader, r, crypto.SHA256, digest[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	order := elliptic.P256().Params().N.Bytes()
	cases := map[string]struct {
		message   string
		signature []byte
		want      string
	}{
		"r and s":            {"message", raw, keys[1].ID},
		"ASN.1":              {"message", der, keys[1].ID},
		"RSA":                {"message", pkcs1, keys[2].ID},
		"other message":      {"Message", raw, ""},
		"other RSA message":  {"Message", pkcs1, ""},
		"PSS":                {"message", pss, ""},
		"empty":              {"message", nil, ""},
		"short":              {"message", raw[:63], ""},
		"long":               {"message", append(slices.Clone(raw), 0), ""},
		"ASN.1 and a byte":   {"message", append(slices.Clone(der), 0), ""},
		"zeros":              {"message", make([]byte, 64), ""},
		"r is zero":          {"message", append(make([]byte, 32), raw[32:]...), ""},
		"s is the order":     {"message", append(slices.Clone(raw[:32]), order...), ""},
		"halves swapped":     {"message", append(slices.Clone(raw[32:]), raw[:32]...), ""},
		"RSA zeros":          {"message", make([]byte, 256), ""},
		"RSA with more":      {"message", append(slices.Clone(pkcs1), 0), ""},
		"RSA with less":      {"message", pkcs1[:255], ""},
		"RSA leading zero":   {"message", append([]byte{0}, pkcs1...), ""},
		"a megabyte of junk": {"message", bytes.Repeat([]byte{1}, 1<<20), ""},
	}
	for name, c := range cases {
		id, err := ring.Verify([]byte(c.message), c.signature)
		if id != c.want || (c.want == "") != errors.Is(err, ErrNoMatch) {
			t.Errorf("%s: %q, %v", name, id, err)
		}
	}
}

func TestParseKeysRefuses(t *testing.T) {
	t.Parallel()
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec := ecKey(t, elliptic.P256())
	good := publicPEM(t, &ec.PublicKey)
	privateDER, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	huge := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 9000, 1), E: 65537}
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	cases := map[string]struct {
		data []byte
		want string
	}{
		"empty":       {nil, "empty"},
		"blank":       {[]byte(" \n\n"), "empty"},
		"text":        {[]byte("hello"), "something other"},
		"text before": {append([]byte("key:\n"), good...), "something other"},
		"text behind": {append(slices.Clone(good), "x"...), "something other"},
		"cut":         {good[:len(good)-30], "damaged PEM"},
		"private":     {block("PRIVATE KEY", privateDER), "private key"},
		"certificate": {block("CERTIFICATE", []byte("x")), "certificate"},
		"PKCS #1":     {block("RSA PUBLIC KEY", []byte("x")), "PKCS #1"},
		"unknown":     {block("SSH KEY", []byte("x")), `"SSH KEY"`},
		"junk":        {block("PUBLIC KEY", []byte("x")), "damaged"},
		"headers":     {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Headers: map[string]string{"a": "b"}, Bytes: []byte("x")}), "headers"},
		"RSA 9001":    {publicPEM(t, huge), "larger than"},
		"P-384":       {publicPEM(t, &ecKey(t, elliptic.P384()).PublicKey), "P-384 cannot be used: Mender clients verify only"},
		"Ed25519":     {publicPEM(t, ed), "Ed25519 cannot be used: Mender clients verify only"},
		"second bad":  {append(slices.Clone(good), publicPEM(t, ed)...), "Ed25519"},
	}
	small, _ := new(big.Int).SetString("1"+strings.Repeat("0", 300), 10)
	cases["RSA weak"] = struct {
		data []byte
		want string
	}{publicPEM(t, &rsa.PublicKey{N: small.Add(small, big.NewInt(7)), E: 65537}), "too weak"}
	for name, c := range cases {
		keys, err := ParseKeys(c.data)
		var ke *KeyError
		if !errors.As(err, &ke) || !strings.Contains(err.Error(), c.want) || keys != nil {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Whatever is wrong with the configuration of keys, the result is an error.
func TestKeyringFailsClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, empty, large := filepath.Join(dir, "good"), filepath.Join(dir, "empty"), filepath.Join(dir, "large")
	key := publicPEM(t, &ecKey(t, elliptic.P256()).PublicKey)
	for path, data := range map[string][]byte{good: key, empty: nil, large: bytes.Repeat(key, 1000)} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	missing := filepath.Join(dir, "missing")
	for name, paths := range map[string][]string{
		"nil": nil, "none": {}, "empty name": {""}, "missing": {missing}, "good and missing": {good, missing}, "empty file": {good, empty},
		"directory": {dir}, "large": {large},
	} {
		if ring, err := LoadKeyring(paths); err == nil || ring != nil {
			t.Errorf("%s: %v, %v", name, ring, err)
		}
	}
	_, err := LoadKeyring([]string{missing})
	if err == nil || !strings.Contains(err.Error(), "key file "+missing+": it does not exist") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := NewKeyring(Key{ID: "x"}); err == nil {
		t.Error("a key without a key is accepted")
	}
	if ring, err := LoadKeyring([]string{good}); err != nil || len(ring.Keys()) != 1 || ring.Keys()[0].Algorithm != "ecdsa-p256" {
		t.Errorf("good: %v", err)
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add(publicPEM(f, &ecKey(f, elliptic.P256()).PublicKey))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := ParseKeys(data)
		var ke *KeyError
		if (err == nil) != (len(keys) > 0) || (err != nil && !errors.As(err, &ke)) {
			t.Errorf("%d keys, %v", len(keys), err)
		}
	})
}
