package auth

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

func TestPassword(t *testing.T) {
	p := NewPasswords(1)
	hash, err := p.Hash(t.Context(), "correct horse")
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("hash %q %v", hash, err)
	}
	long := strings.Repeat("x", MaxPassword)
	longHash, err := p.Hash(t.Context(), long)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		password, hash string
		want           bool
	}{
		"right": {"correct horse", hash, true}, "wrong": {"correct hors", hash, false}, "empty": {"", hash, false},
		"nobody": {"correct horse", "", false}, "long": {long, longHash, true}, "longer": {long + "x", longHash, false},
	} {
		if got, err := p.Check(t.Context(), c.password, c.hash); got != c.want || err != nil {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	if again, err := p.Hash(t.Context(), "correct horse"); err != nil || again == hash {
		t.Error("two hashes of one password are equal")
	}
	for _, damaged := range []string{"x", "$argon2id$v=19$m=1$a$b", "$argon2id$v=18$m=19456,t=2,p=1$AAAA$AAAA", "$bcrypt$v=19$m=19456,t=2,p=1$AAAA$AAAA"} {
		if ok, err := p.Check(t.Context(), "x", damaged); ok || err == nil {
			t.Errorf("damaged record %q: %v %v", damaged, ok, err)
		}
	}
}

func TestSecretFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	a, err := LoadSecret(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := LoadSecret(path)
	if err != nil || string(a.master) != string(b.master) {
		t.Errorf("the secret changed: %v", err)
	}
	if string(a.derive("one")) == string(a.derive("two")) {
		t.Error("two purposes have one key")
	}
	for name, content := range map[string]string{"short": "AAAA\n", "empty": "", "not base64": "%%%%%%"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSecret(path); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	var mode *PermissionError
	if _, err := LoadSecret(path); !errors.As(err, &mode) || mode.Hint() != "chmod 600 "+path {
		t.Errorf("mode 640: %v", err)
	}
}

func TestLink(t *testing.T) {
	secret, err := LoadSecret(filepath.Join(t.TempDir(), "secret"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	l := NewLinks(secret, func() time.Time { return now })
	q := l.Sign("/a", now.Add(time.Minute))
	if err := l.Check("/a", q); err != nil {
		t.Error(err)
	}
	if l.Check("/b", q) == nil {
		t.Error("valid for another path")
	}
	now = now.Add(time.Minute)
	if l.Check("/a", q) == nil {
		t.Error("valid after its end")
	}
}

// FuzzVerifyDevice: no body panics; what is accepted was signed, and says the same when it is said again.
func FuzzVerifyDevice(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		f.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	for _, identity := range []string{`{"mac":"02:00:00:00:00:01"}`, `{"b":1,"a":[1,2]}`, `{"n":12345678901234567890}`, `{}`, `[]`, `{"a":"b"}{}`, `{"a":"\u2028"}`} {
		body, err := json.Marshal(menderapi.AuthRequest{IDData: identity, PubKey: public})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body, base64.StdEncoding.EncodeToString(ed25519.Sign(key, body)), true)
	}
	f.Add([]byte(`{"id_data":"{}","pubkey":"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}`), "AAAA", false)
	f.Fuzz(func(t *testing.T, body []byte, signature string, sign bool) {
		if sign {
			signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, body))
		}
		got, err := VerifyDevice(body, signature)
		if err != nil {
			return
		}
		if !sign && got.PubKey == public {
			sig, err := base64.StdEncoding.DecodeString(signature)
			if err != nil || !ed25519.Verify(key.Public().(ed25519.PublicKey), body, sig) {
				t.Fatal("accepted without a signature")
			}
		}
		again, err := canonicalIdentity(got.Identity)
		if err != nil || again != got.Identity {
			t.Fatalf("%q becomes %q (%v)", got.Identity, again, err)
		}
	})
}
