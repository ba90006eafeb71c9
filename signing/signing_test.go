package signing

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/twinkeel/twinkeel/signing/verify"
)

func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// openssl runs the real tool in dir; its keys are what users have.
func openssl(t *testing.T, dir string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	c := exec.CommandContext(t.Context(), "openssl", args...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// The example of RFC 6979, A.2.5: P-256, SHA-256, message "sample".
func TestRFC6979(t *testing.T) {
	t.Parallel()
	scalar, err := hex.DecodeString("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721")
	if err != nil {
		t.Fatal(err)
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newKeySigner(private)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Sign(t.Context(), []byte("sample"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716" +
		"f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
	if hex.EncodeToString(got) != want {
		t.Errorf("%x", got)
	}
}

func TestGenerateSignVerify(t *testing.T) {
	t.Parallel()
	for algorithm, size := range map[string]int{"": 64, "ecdsa-p256": 64, "rsa-3072": 384} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			private, public, err := Generate(algorithm)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			privatePath, publicPath := filepath.Join(dir, "k.pem"), filepath.Join(dir, "k.pub")
			if err := WriteKeyPair(privatePath, publicPath, private, public); err != nil {
				t.Fatal(err)
			}
			for path, mode := range map[string]fs.FileMode{privatePath: 0o600, publicPath: 0o644} {
				info, err := os.Stat(path)
				if err != nil || info.Mode().Perm() != mode {
					t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
				}
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 2 {
				t.Errorf("files are left over: %v", entries)
			}
			s, err := LoadFile(privatePath, nil)
			if err != nil {
				t.Fatal(err)
			}
			ring, err := verify.LoadKeyring([]string{publicPath})
			if err != nil {
				t.Fatal(err)
			}
			message := []byte("manifest")
			signature, err := s.Sign(t.Context(), message)
			if err != nil || len(signature) != size || s.SignatureSize() != size {
				t.Fatalf("%d bytes of %d announced, %v", len(signature), s.SignatureSize(), err)
			}
			id, err := ring.Verify(message, signature)
			if err != nil || id != s.KeyID() || id != ring.Keys()[0].ID {
				t.Errorf("verified by %q (%v), signed by %q", id, err, s.KeyID())
			}
			again, err := s.Sign(t.Context(), message)
			if err != nil || !bytes.Equal(signature, again) {
				t.Error("the signature is not reproducible")
			}
			if _, err := ring.Verify([]byte("other"), signature); !errors.Is(err, verify.ErrNoMatch) {
				t.Errorf("another message: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := s.Sign(ctx, message); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		})
	}
}

func TestGenerateRefuses(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"rsa-2048", "rsa-1024", "ecdsa-p384", "ed25519", "x"} {
		_, _, err := Generate(algorithm)
		var ae *AlgorithmError
		if !errors.As(err, &ae) || !strings.Contains(hint(err), "ecdsa-p256") {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

func TestWriteKeyPairKeepsFiles(t *testing.T) {
	t.Parallel()
	for _, existing := range []string{"k.pem", "k.pub"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, existing), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := WriteKeyPair(filepath.Join(dir, "k.pem"), filepath.Join(dir, "k.pub"), []byte("a"), []byte("b"))
		var ee *ExistsError
		if !errors.As(err, &ee) || !errors.Is(err, fs.ErrExist) || ee.Path != filepath.Join(dir, existing) {
			t.Errorf("%s: %v", existing, err)
		}
		if data, _ := os.ReadFile(filepath.Join(dir, existing)); string(data) != "precious" {
			t.Errorf("%s was overwritten: %q", existing, data)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%s: files are left over: %v", existing, entries)
		}
	}
	if err := WriteKeyPair("k", "./k", nil, nil); err == nil {
		t.Error("both keys in one file are accepted")
	}
}

// Of many that write the same name at the same time one wins, and its file stays.
func TestWriteNewIsExclusive(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "k")
	var wg sync.WaitGroup
	var mu sync.Mutex
	winner := ""
	for i := range 16 {
		wg.Go(func() {
			content := fmt.Sprint(i)
			err := writeNew(path, []byte(content), 0o600)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && winner == "":
				winner = content
			case err == nil:
				t.Errorf("%s and %s both won", winner, content)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if data, err := os.ReadFile(path); err != nil || string(data) != winner || winner == "" {
		t.Errorf("%q, winner %q, %v", data, winner, err)
	}
}

const secret = "correct horse battery"

func TestLoadFileForms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openssl(t, dir, "ecparam", "-name", "prime256v1", "-genkey", "-out", "sec1-params.pem")
	openssl(t, dir, "ec", "-in", "sec1-params.pem", "-out", "sec1.pem")
	openssl(t, dir, "genrsa", "-traditional", "-out", "pkcs1.pem", "2048")
	openssl(t, dir, "pkcs8", "-topk8", "-nocrypt", "-in", "sec1.pem", "-out", "pkcs8-ec.pem")
	openssl(t, dir, "pkcs8", "-topk8", "-nocrypt", "-in", "pkcs1.pem", "-out", "pkcs8-rsa.pem")
	pass := "pass:" + secret
	openssl(t, dir, "ec", "-in", "sec1.pem", "-aes128", "-passout", pass, "-out", "old-encrypted.pem")
	openssl(t, dir, "rsa", "-in", "pkcs1.pem", "-traditional", "-aes256", "-passout", pass, "-out", "old-encrypted-rsa.pem")
	for name, args := range map[string][]string{
		"aes128": {"-v2", "aes-128-cbc"}, "aes192": {"-v2", "aes-192-cbc"}, "aes256": {"-v2", "aes-256-cbc"},
		"3des": {"-v2", "des3"}, "sha1": {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA1"},
		"scrypt": {"-scrypt", "-scrypt_N", "1024"},
	} {
		openssl(t, dir, append([]string{"pkcs8", "-topk8", "-in", "sec1.pem", "-passout", pass, "-out", "encrypted-" + name + ".pem"}, args...)...)
	}
	ids := map[string]bool{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		asked := false
		s, err := LoadFile(path, func() ([]byte, error) { asked = true; return []byte(secret), nil })
		if err != nil {
			t.Errorf("%s: %v", e.Name(), err)
			continue
		}
		encrypted := strings.Contains(e.Name(), "encrypted")
		if asked != encrypted {
			t.Errorf("%s: the passphrase was asked for: %v", e.Name(), asked)
		}
		if _, isRSA := s.Public().(*rsa.PublicKey); !isRSA {
			ids[s.KeyID()] = true
		}
		if !encrypted {
			continue
		}
		for what, ask := range map[string]func() ([]byte, error){
			"no passphrase":    nil,
			"wrong passphrase": func() ([]byte, error) { return []byte("tr0ub4dor"), nil },
		} {
			_, err := LoadFile(path, ask)
			if !errors.Is(err, ErrPassphrase) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s, %s: %v", e.Name(), what, err)
			}
		}
		broken := errors.New("no terminal")
		if _, err := LoadFile(path, func() ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
			t.Errorf("%s: %v", e.Name(), err)
		}
	}
	if len(ids) != 1 {
		t.Errorf("the same key has the identifiers %v", ids)
	}
}

// The identifier of a key is what openssl and sha256sum print.
func TestKeyIDIsTheOneOfOpenssl(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openssl(t, dir, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "k.pem")
	openssl(t, dir, "pkey", "-in", "k.pem", "-pubout", "-outform", "DER", "-out", "k.der")
	if err := os.Chmod(filepath.Join(dir, "k.pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := LoadFile(filepath.Join(dir, "k.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := os.ReadFile(filepath.Join(dir, "k.der"))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(der); s.KeyID() != hex.EncodeToString(sum[:]) {
		t.Errorf("%s, not %x", s.KeyID(), sum)
	}
}

func TestLoadFileRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, data []byte, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, public, err := Generate("")
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384DER, err := x509.MarshalPKCS8PrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(private)
	damaged := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes[:len(block.Bytes)-5]})
	openssl(t, dir, "genrsa", "-out", "weak.pem", "1024")
	openssl(t, dir, "genpkey", "-algorithm", "ed25519", "-out", "ed.pem")
	for _, name := range []string{"weak.pem", "ed.pem"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]struct{ path, want, hint string }{
		"missing":     {filepath.Join(dir, "nothing.pem"), "does not exist", "twinkeel keys generate " + filepath.Join(dir, "nothing.pem")},
		"open to all": {write("open.pem", private, 0o644), "its mode is 0644", "chmod 600 " + filepath.Join(dir, "open.pem")},
		"group":       {write("group.pem", private, 0o640), "its mode is 0640", "chmod 600"},
		"empty":       {write("empty.pem", nil, 0o600), "is empty", ""},
		"no PEM":      {write("text.pem", []byte("hello"), 0o600), "no key in PEM form", ""},
		"public":      {write("public.pem", public, 0o600), "holds a public key", ""},
		"P-384":       {write("p384.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p384DER}), 0o600), "P-384 cannot be used: Mender clients verify only RSA and ECDSA P-256", "keys generate"},
		"weak RSA":    {filepath.Join(dir, "weak.pem"), "weak", ""},
		"Ed25519":     {filepath.Join(dir, "ed.pem"), "Ed25519 cannot be used: Mender clients verify only RSA and ECDSA P-256", "keys generate"},
		"damaged":     {write("damaged.pem", damaged, 0o600), "damaged", ""},
		"huge":        {write("huge.pem", bytes.Repeat(private, 1000), 0o600), "larger than", ""},
		"directory":   {dir, "is a directory", ""},
		"certificate": {write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), 0o600), `"CERTIFICATE"`, ""},
		"encrypted junk": {
			write("junk.pem", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("xxx")}), 0o600),
			"passphrase is wrong, or the key is damaged", "",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := LoadFile(c.path, func() ([]byte, error) { return []byte(secret), nil })
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if !strings.Contains(hint(err), c.hint) {
				t.Errorf("hint %q, want %q", hint(err), c.hint)
			}
		})
	}
}

// Nothing that prints gives a key or a passphrase away.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	private, public, err := Generate("")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "k")
	if err := WriteKeyPair(path, path+".pub", private, public); err != nil {
		t.Fatal(err)
	}
	s, err := LoadFile(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := s.(*keySigner).private.(*ecdsa.PrivateKey)
	scalar, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s)}
	openssl(t, dir, "pkcs8", "-topk8", "-in", "k", "-passout", "pass:"+secret, "-out", "enc")
	if err := os.Chmod(filepath.Join(dir, "enc"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = LoadFile(filepath.Join(dir, "enc"), func() ([]byte, error) { return []byte(secret + "x"), nil })
	texts = append(texts, err.Error(), fmt.Sprintf("%#v", err))
	for _, text := range texts {
		for _, forbidden := range []string{hex.EncodeToString(scalar), new(big.Int).SetBytes(scalar).String(), secret, "BEGIN"} {
			if strings.Contains(text, forbidden) {
				t.Errorf("%q contains a secret", text)
			}
		}
	}
}

func FuzzPrivate(f *testing.F) {
	private, public, err := Generate("")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(private)
	f.Add(public)
	f.Add(append(public, private...))
	f.Add([]byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\n" +
		"MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhLzVN2HtQ7dAICCAAw\n" +
		"DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEAAAAAAAAAAAAAAAAAAAAAAEgZAA\n-----END ENCRYPTED PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := parsePrivate(data, nil) // without a passphrase: deriving keys is slow on purpose
		var ke *KeyError
		if err == nil && key == nil || err != nil && !errors.As(err, &ke) {
			t.Errorf("%v, %v", key, err)
		}
	})
}
