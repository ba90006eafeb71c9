package signing

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const kmsSecret = "s.Zm9yZ2V0dGhpc3Rva2Vu"

// serviceKey is a key that a service of the tests has.
type serviceKey struct {
	private    crypto.Signer
	algorithms []string // of AWS, in its order
	misbehave  func(digest []byte) ([]byte, error)
}

func (k *serviceKey) sign(digest []byte) ([]byte, error) {
	if k.misbehave != nil {
		return k.misbehave(digest)
	}
	return k.private.Sign(rand.Reader, digest, crypto.SHA256)
}

// serviceKeys are keys of all kinds, by name.
func serviceKeys(t *testing.T) map[string]*serviceKey {
	t.Helper()
	ec := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	r, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	// In the order in which AWS lists them for such a key.
	all := []string{
		"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512", "RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
	}
	other := ec(elliptic.P256())
	return map[string]*serviceKey{
		"ec":   {private: ec(elliptic.P256()), algorithms: []string{"ECDSA_SHA_256"}},
		"rsa":  {private: r, algorithms: all},
		"p384": {private: ec(elliptic.P384()), algorithms: []string{"ECDSA_SHA_384"}},
		"pss": {private: r, algorithms: all[3:4], misbehave: func(digest []byte) ([]byte, error) {
			return rsa.SignPSS(rand.Reader, r, crypto.SHA256, digest, nil)
		}},
		"sha512":  {private: r, algorithms: all[2:3]},
		"encrypt": {private: r},
		"liar": {private: ec(elliptic.P256()), algorithms: []string{"ECDSA_SHA_256"}, misbehave: func(digest []byte) ([]byte, error) {
			return other.Sign(rand.Reader, digest, crypto.SHA256)
		}},
		"broken": {private: r, algorithms: all, misbehave: func([]byte) ([]byte, error) { return nil, errors.New("the service is broken") }},
	}
}

// vaultServer answers as Vault's transit engine does (its API, "Read key" and "Sign data").
func vaultServer(t *testing.T, keys map[string]*serviceKey) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail := func(code int, text string) {
			w.WriteHeader(code)
			json.NewEncoder(w).Encode(map[string]any{"errors": []string{text}})
		}
		part := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
		if r.Header.Get("X-Vault-Token") != kmsSecret {
			fail(http.StatusForbidden, "permission denied for "+r.Header.Get("X-Vault-Token"))
			return
		}
		if len(part) < 2 || keys[part[1]] == nil {
			fail(http.StatusNotFound, "no such key")
			return
		}
		k := keys[part[1]]
		switch {
		case part[0] == "keys" && r.Method == http.MethodGet:
			json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{
				"latest_version": 2,
				"keys":           map[string]any{"2": map[string]any{"name": "key", "public_key": string(MarshalPublic(k.private.Public()))}},
			}})
		case part[0] == "sign" && len(part) == 3 && part[2] == "sha2-256":
			var q struct {
				Input     string
				Prehashed bool
				Algorithm string `json:"signature_algorithm"`
			}
			if err := json.NewDecoder(r.Body).Decode(&q); err != nil || !q.Prehashed || q.Algorithm != "pkcs1v15" {
				fail(http.StatusBadRequest, "unexpected request")
				return
			}
			digest, err := base64.StdEncoding.DecodeString(q.Input)
			if err != nil {
				fail(http.StatusBadRequest, err.Error())
				return
			}
			sig, err := k.sign(digest)
			if err != nil {
				fail(http.StatusBadRequest, err.Error())
				return
			}
			json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"signature": "vault:v2:" + base64.StdEncoding.EncodeToString(sig)}})
		default:
			fail(http.StatusNotFound, "unexpected path")
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// kmsHelper is the path of the real helper, which is asked for by every test that goes to a service.
func kmsHelper(t *testing.T) string {
	t.Helper()
	path, err := serviceHelperBuilt()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func vaultOptions(t *testing.T, env map[string]string) Options {
	t.Helper()
	path := kmsHelper(t)
	return Options{Getenv: func(name string) string {
		if name == serviceHelperVariable {
			return cmp.Or(env[name], path)
		}
		return env[name]
	}}
}

func TestVault(t *testing.T) {
	t.Parallel()
	s := vaultServer(t, serviceKeys(t))
	o := vaultOptions(t, map[string]string{"VAULT_ADDR": s.URL, "VAULT_TOKEN": kmsSecret})
	for _, name := range []string{"ec", "rsa"} {
		signer, err := Open(t.Context(), "hashivault://"+name, o)
		if err != nil {
			t.Fatal(err)
		}
		signs(t, signer)
		public, err := LoadPublic(t.Context(), "hashivault://"+name, o)
		if err != nil || string(MarshalPublic(public)) != string(MarshalPublic(signer.Public())) {
			t.Errorf("LoadPublic: %v", err)
		}
	}
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".vault-token"), []byte(kmsSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), "hashivault://ec", vaultOptions(t, map[string]string{"BAO_ADDR": s.URL, "HOME": home})); err != nil {
		t.Errorf("the token in ~/.vault-token: %v", err)
	}
}

func TestVaultRefuses(t *testing.T) {
	t.Parallel()
	s := vaultServer(t, serviceKeys(t))
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	good := map[string]string{"VAULT_ADDR": s.URL, "VAULT_TOKEN": kmsSecret}
	home := t.TempDir()
	for name, c := range map[string]struct {
		ref  string
		env  map[string]string
		want string
		tip  string
	}{
		"P-384":       {"hashivault://p384", good, "P-384", "ecdsa-p256"},
		"no key":      {"hashivault://none", good, "hashivault://none", "VAULT_ADDR"},
		"bad name":    {"hashivault://a/b", good, "does not name a key of Vault", "hashivault://KEY"},
		"no address":  {"hashivault://ec", map[string]string{"VAULT_TOKEN": kmsSecret}, "VAULT_ADDR", "VAULT_ADDR"},
		"no token":    {"hashivault://ec", map[string]string{"VAULT_ADDR": s.URL, "HOME": home}, "no token", "VAULT_TOKEN"},
		"wrong token": {"hashivault://ec", map[string]string{"VAULT_ADDR": s.URL, "VAULT_TOKEN": "wrong" + kmsSecret}, "permission denied for [secret]", "policy"},
		"no server":   {"hashivault://ec", map[string]string{"VAULT_ADDR": closed.URL, "VAULT_TOKEN": kmsSecret}, "refused", "VAULT_ADDR"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signer, err := Open(t.Context(), c.ref, vaultOptions(t, c.env))
			refused(t, signer, err, c.want, c.tip)
		})
	}
	for name, want := range map[string]string{
		"pss": "RSA-PSS; Mender clients verify only", "liar": "not valid for the public key", "broken": "the service is broken",
	} {
		signer, err := Open(t.Context(), "hashivault://"+name, vaultOptions(t, good))
		if err != nil {
			t.Fatal(err)
		}
		sig, err := signer.Sign(t.Context(), []byte("x"))
		if sig != nil {
			t.Errorf("%s: a signature", name)
		}
		refused(t, nil, err, want, "")
	}
}

func refused(t *testing.T, s Signer, err error, want, tip string) {
	t.Helper()
	var ke *KeyError
	if !errors.As(err, &ke) || s != nil || !strings.Contains(err.Error(), want) || !strings.Contains(hint(err), tip) {
		t.Errorf("%v\nhint: %s\nwanted %q", err, hint(err), want)
	}
	if err != nil && (strings.Contains(err.Error(), kmsSecret) || strings.Contains(hint(err), kmsSecret) || strings.ContainsAny(err.Error(), "\n\x1b")) {
		t.Errorf("the error has a secret or several lines: %q", err)
	}
}

// awsServer answers as AWS KMS does (API of 2014-11-01, JSON 1.1).
func awsServer(t *testing.T, keys map[string]*serviceKey) string {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail := func(kind, text string) {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(map[string]any{"__type": kind, "message": text})
		}
		var q struct {
			KeyID            string `json:"KeyId"`
			Message          []byte
			MessageType      string
			SigningAlgorithm string
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			fail("SerializationException", err.Error())
			return
		}
		if !strings.Contains(r.Header.Get("Authorization"), "AKIDTEST") {
			fail("UnrecognizedClientException", "The security token included in the request is invalid "+os.Getenv("AWS_SECRET_ACCESS_KEY"))
			return
		}
		k := keys[strings.TrimPrefix(q.KeyID, "alias/")]
		if k == nil {
			fail("NotFoundException", "Alias "+q.KeyID+" is not found.")
			return
		}
		answer := map[string]any{"KeyId": q.KeyID}
		switch r.Header.Get("X-Amz-Target") {
		case "TrentService.GetPublicKey":
			der, err := x509.MarshalPKIXPublicKey(k.private.Public())
			if err != nil {
				fail("KMSInternalException", err.Error())
				return
			}
			answer["PublicKey"] = der
		case "TrentService.DescribeKey":
			answer = map[string]any{"KeyMetadata": map[string]any{"KeyId": q.KeyID, "SigningAlgorithms": k.algorithms}}
		case "TrentService.Sign":
			if q.MessageType != "DIGEST" || q.SigningAlgorithm != k.algorithms[0] || len(q.Message) != 32 {
				fail("ValidationException", fmt.Sprintf("%s %s %d", q.MessageType, q.SigningAlgorithm, len(q.Message)))
				return
			}
			sig, err := k.sign(q.Message)
			if err != nil {
				fail("KeyUnavailableException", err.Error())
				return
			}
			answer["Signature"] = sig
		default:
			fail("UnknownOperationException", r.Header.Get("X-Amz-Target"))
			return
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(s.Close)
	// Amazon's client reads the environment of the process.
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"AWS_CA_BUNDLE": ca, "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": kmsSecret,
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
	} {
		t.Setenv(name, value)
	}
	return strings.TrimPrefix(s.URL, "https://")
}

func TestAWS(t *testing.T) {
	t.Setenv(serviceHelperVariable, kmsHelper(t))
	host := awsServer(t, serviceKeys(t))
	for _, name := range []string{"ec", "rsa"} {
		signer, err := Open(t.Context(), "awskms://"+host+"/alias/"+name, Options{})
		if err != nil {
			t.Fatal(err)
		}
		signs(t, signer)
	}
	for name, c := range map[string]struct{ want, tip string }{
		"p384":    {"P-384", "ECC_NIST_P256"},
		"sha512":  {"signs with this rsa-3072 key only SHA-512; Mender clients verify only SHA-256", "ECC_NIST_P256"},
		"encrypt": {"may not be one for signatures", "kms:Sign"},
		"none":    {"Alias alias/none is not found", "AWS_REGION"},
	} {
		signer, err := Open(t.Context(), "awskms://"+host+"/alias/"+name, Options{})
		refused(t, signer, err, c.want, c.tip)
	}
	for name, want := range map[string]string{
		"pss": "RSA-PSS; Mender clients verify only", "liar": "not valid for the public key", "broken": "the service is broken",
	} {
		signer, err := Open(t.Context(), "awskms://"+host+"/alias/"+name, Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = signer.Sign(t.Context(), []byte("x"))
		refused(t, nil, err, want, "")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
	signer, err := Open(t.Context(), "awskms://"+host+"/alias/ec", Options{})
	refused(t, signer, err, "invalid [secret]", "AWS_ACCESS_KEY_ID")

	// A program that gives credentials may ask for a code; what it reads is not the protocol.
	dir := t.TempDir()
	for name, text := range map[string]string{
		"config": "[default]\ncredential_process = sh " + filepath.Join(dir, "program") + "\n",
		"program": "test -p /dev/stdin && exit 1\necho 'What is the code?' >&2\n" +
			`echo '{"Version": 1, "AccessKeyId": "AKIDTEST", "SecretAccessKey": "` + kmsSecret + `"}'` + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "config"))
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if signer, err = Open(t.Context(), "awskms://"+host+"/alias/ec", Options{}); err != nil {
		t.Fatal(err)
	}
	signs(t, signer)
}

// Without credentials the services' libraries look around; that must end soon, and the error must say what is missing.
func TestNoCredentials(t *testing.T) {
	t.Setenv(serviceHelperVariable, kmsHelper(t))
	dir := t.TempDir()
	for name, value := range map[string]string{
		"HOME": dir, "PATH": dir, "AZURE_CONFIG_DIR": dir, "CLOUDSDK_CONFIG": dir, "GOOGLE_APPLICATION_CREDENTIALS": "", "GCE_METADATA_HOST": "127.0.0.1:1",
		"AZURE_TENANT_ID": "", "AZURE_CLIENT_ID": "", "AZURE_CLIENT_SECRET": "", "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
		"AWS_PROFILE": "", "AWS_CONFIG_FILE": filepath.Join(dir, "none"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "none"),
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1", "AZURE_TOKEN_CREDENTIALS": "dev",
	} {
		t.Setenv(name, value)
	}
	for ref, variable := range map[string]string{
		"awskms:///alias/release":                                 "AWS_ACCESS_KEY_ID",
		"gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k": "GOOGLE_APPLICATION_CREDENTIALS",
		"azurekms://v.vault.invalid/k":                            "AZURE_CLIENT_ID",
	} {
		t.Run(ref, func(t *testing.T) {
			start := time.Now()
			signer, err := Open(t.Context(), ref, Options{kmsLimit: time.Second})
			refused(t, signer, err, ref, variable)
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(dir, "none.json"))
	signer, err := Open(t.Context(), "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k", Options{})
	refused(t, signer, err, "none.json", "GOOGLE_APPLICATION_CREDENTIALS")
}

func TestStoreForms(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]string{
		"":                             "empty",
		"awskms://release":             "AWS KMS",
		"awskms:///release":            "AWS KMS",
		"gcpkms://projects/p":          "Google Cloud KMS",
		"azurekms://vault":             "Azure Key Vault",
		"hashivault://":                "Vault",
		"hashivault://a\x1b[31m":       "Vault",
		"gcpmks://projects/p":          "no such key store",
		"https://example.com/key":      "no such key store",
		"pkcs11:":                      "names no key",
		"pkcs11:object=a?pin-value=12": "a PIN in the URI",
	} {
		signer, err := Open(t.Context(), ref, Options{Getenv: func(string) string { return "" }})
		refused(t, signer, err, want, "")
		_, err = LoadPublic(t.Context(), ref, Options{Getenv: func(string) string { return "" }})
		refused(t, nil, err, want, "")
	}
}
