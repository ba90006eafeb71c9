package signing

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/twinkeel/twinkeel/signing/pkcs11"
)

func newEC(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// pemFile writes a private key as PKCS #8 and its public half beside it.
func pemFile(t testing.TB, dir, name string, k crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".pub", MarshalPublic(k.Public()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFormsOfSignatures(t *testing.T) {
	t.Parallel()
	ec, r := newEC(t, elliptic.P256()), newRSA(t, 2048)
	digest := sha256.Sum256([]byte("message"))
	// Numbers with leading zeros make short ASN.1; their raw form keeps 64 bytes.
	for i := range 600 {
		der, err := ecdsa.SignASN1(rand.Reader, ec, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		raw, err := Normalize(&ec.PublicKey, der)
		if err != nil || len(raw) != 64 {
			t.Fatalf("%d: %d bytes, %v", i, len(raw), err)
		}
		if again, err := Normalize(&ec.PublicKey, raw); err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("%d: Normalize changes its own result: %v", i, err)
		}
		if back, err := DER(&ec.PublicKey, raw); err != nil || !bytes.Equal(back, der) {
			t.Fatalf("%d: DER(Normalize(x)) is not x: %v", i, err)
		}
	}
	sig, err := rsa.SignPKCS1v15(rand.Reader, r, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []func(crypto.PublicKey, []byte) ([]byte, error){Normalize, DER} {
		if got, err := f(&r.PublicKey, sig); err != nil || !bytes.Equal(got, sig) {
			t.Errorf("RSA: %v", err)
		}
	}
	order := elliptic.P256().Params().N
	der := func(r, s *big.Int) []byte {
		b, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one := big.NewInt(1)
	for name, c := range map[string]struct {
		public crypto.PublicKey
		sig    []byte
		want   string
	}{
		"empty":           {&ec.PublicKey, nil, "not one of ECDSA P-256"},
		"short":           {&ec.PublicKey, make([]byte, 63), "not one of ECDSA P-256"},
		"zeros":           {&ec.PublicKey, make([]byte, 64), "out of range"},
		"r is the order":  {&ec.PublicKey, append(order.Bytes(), bytes.Repeat([]byte{1}, 32)...), "out of range"},
		"negative":        {&ec.PublicKey, der(big.NewInt(-1), one), "out of range"},
		"s is the order":  {&ec.PublicKey, der(one, order), "out of range"},
		"huge":            {&ec.PublicKey, der(new(big.Int).Lsh(one, 4000), one), "out of range"},
		"ASN.1 and more":  {&ec.PublicKey, append(der(one, one), 0), "not one of ECDSA P-256"},
		"three numbers":   {&ec.PublicKey, []byte{0x30, 9, 2, 1, 1, 2, 1, 1, 2, 1, 1, 0}, "not one of ECDSA P-256"},
		"RSA for EC":      {&ec.PublicKey, sig, "not one of ECDSA P-256"},
		"EC for RSA":      {&r.PublicKey, make([]byte, 64), "has 64 bytes; one of this RSA key has 256"},
		"RSA with a zero": {&r.PublicKey, append([]byte{0}, sig...), "has 257 bytes"},
		"P-384":           {&newEC(t, elliptic.P384()).PublicKey, make([]byte, 96), "P-384"},
		"nil":             {nil, sig, "unknown"},
	} {
		if got, err := Normalize(c.public, c.sig); err == nil || got != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
		if got, err := DER(c.public, c.sig); err == nil || got != nil {
			t.Errorf("%s: DER gives %x", name, got)
		}
	}
}

func TestParseSignature(t *testing.T) {
	t.Parallel()
	raw := make([]byte, 256)
	rand.Read(raw)
	raw[0], raw[255] = '\n', ' ' // belong to the signature
	text := base64.StdEncoding.EncodeToString(raw)
	for name, in := range map[string]string{
		"bytes": string(raw), "base64": text, "with newline": text + "\n", "of openssl base64": text[:64] + "\n" + text[64:] + "\r\n", "indented": "  " + text,
	} {
		if got, err := ParseSignature([]byte(in)); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, in := range map[string]string{"empty": "", "blank": " \n", "cut": text[:len(text)-2], "long": strings.Repeat("A", maxSignature+1)} {
		if got, err := ParseSignature([]byte(in)); err == nil {
			t.Errorf("%s: %x", name, got)
		}
	}
}

func FuzzSignature(f *testing.F) {
	ec, r := newEC(f, elliptic.P256()), newRSA(f, 2048)
	f.Add([]byte{0x30, 6, 2, 1, 1, 2, 1, 1})
	f.Add(make([]byte, 64))
	f.Add(make([]byte, 256))
	f.Add([]byte("MAYCAQECAQE=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		sig, err := ParseSignature(data)
		if err != nil {
			return
		}
		for _, public := range []crypto.PublicKey{&ec.PublicKey, &r.PublicKey} {
			raw, err := Normalize(public, sig)
			if err != nil {
				if _, ok := asSignatureError(err); !ok {
					t.Errorf("%T", err)
				}
				continue
			}
			der, err := DER(public, raw)
			if err != nil || len(raw) != signatureSize(public) {
				t.Fatalf("%d bytes, %v", len(raw), err)
			}
			if len(der) == 2*p256Size {
				continue // as long as the raw form, for which it is taken; so short are r and s once in 2^48 signatures
			}
			if back, err := Normalize(public, der); err != nil || !bytes.Equal(back, raw) {
				t.Errorf("%x, %v", back, err)
			}
		}
	})
}

func FuzzURI(f *testing.F) {
	f.Add("pkcs11:token=a;object=b;id=%01?module-path=/m.so&pin-source=file:/p")
	f.Add("pkcs11:slot-id=3;serial=x;type=private;object=%3B%3F%26%25")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := pkcs11.Parse(text)
		if err != nil {
			return
		}
		again, err := pkcs11.Parse(u.String())
		if err != nil || again.String() != u.String() {
			t.Errorf("%q: %v", u, err)
		}
	})
}

func TestURIRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"pkcs11:token=a":                                     "names no key",
		"pkcs11:object=a;object=b":                           "object twice",
		"pkcs11:object=a?module-path=/a&module-path=/b":      "module-path twice",
		"pkcs11:object=a;pin-value=4711":                     "behind the question mark",
		"pkcs11:object=a?pin-value=4711":                     "a PIN in the URI",
		"pkcs11:object=a?module-path=softhsm.so":             "absolute",
		"pkcs11:object=a?module-name=softhsm":                "module-name is not understood",
		"pkcs11:object=a?pin-source=|cat%20pin":              "must be a file",
		"pkcs11:object=a?pin-source=https://x/pin":           "must be a file",
		"pkcs11:object=a;type=cert":                          "type must be private",
		"pkcs11:object=a;slot-id=x":                          "not a number",
		"pkcs11:object=%zz":                                  "bad %",
		"pkcs11:object":                                      "without =",
		"pkcs11:object=a;4711=x":                             "4711 is not understood",
		"pkcs11:id=":                                         "id is empty",
		"pkcs11:object=" + strings.Repeat("a", 5000):         "longer",
		"pkcs11:object=a;" + strings.Repeat("x", 100) + "=b": "an attribute is not understood",
		"pkcs11:object=a?" + "se cret" + "=b":                "an attribute is not understood",
		"pkcs12:object=a":                                    "scheme pkcs11",
	} {
		if u, err := pkcs11.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, %v", text, u, err)
		}
	}
}

// keyringAgent serves a keyring as ssh-agent does.
func keyringAgent(t *testing.T, keys ...agent.AddedKey) string {
	t.Helper()
	ring := agent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(k); err != nil {
			t.Fatal(err)
		}
	}
	return serveAgent(t, func(conn net.Conn) { _ = agent.ServeAgent(ring, conn) })
}

func serveAgent(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return socket
}

func agentOptions(socket string) Options {
	return Options{Getenv: func(name string) string {
		if name == socketVariable {
			return socket
		}
		return ""
	}}
}

func TestAgent(t *testing.T) {
	t.Parallel()
	ec, r := newEC(t, elliptic.P256()), newRSA(t, 2048)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := func(public crypto.PublicKey) string {
		k, err := ssh.NewPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		return ssh.FingerprintSHA256(k)
	}
	all := agentOptions(keyringAgent(t,
		agent.AddedKey{PrivateKey: &ed, Comment: "ed"}, agent.AddedKey{PrivateKey: ec, Comment: "release key"},
		agent.AddedKey{PrivateKey: r, Comment: "twin"}, agent.AddedKey{PrivateKey: newRSA(t, 2048), Comment: "twin"},
		agent.AddedKey{PrivateKey: newEC(t, elliptic.P384()), Comment: "p384"},
	))
	two := agentOptions(keyringAgent(t, agent.AddedKey{PrivateKey: &ed}, agent.AddedKey{PrivateKey: ec}))
	for name, c := range map[string]struct {
		ref string
		o   Options
		key crypto.PublicKey
	}{
		"fingerprint":     {"ssh-agent:" + fingerprint(&ec.PublicKey), all, &ec.PublicKey},
		"RSA":             {"ssh-agent:" + fingerprint(&r.PublicKey), all, &r.PublicKey},
		"comment":         {"ssh-agent:release key", all, &ec.PublicKey},
		"only usable one": {"ssh-agent:", two, &ec.PublicKey},
	} {
		s, err := Open(t.Context(), c.ref, c.o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(MarshalPublic(s.Public()), MarshalPublic(c.key)) {
			t.Errorf("%s: another key", name)
		}
		signs(t, s)
		if _, ok := s.(DigestSigner); ok {
			t.Errorf("%s: ssh-agent cannot sign digests", name)
		}
		if public, err := LoadPublic(t.Context(), c.ref, c.o); err != nil || !bytes.Equal(MarshalPublic(public), MarshalPublic(c.key)) {
			t.Errorf("%s: LoadPublic: %v", name, err)
		}
	}
	silent := serveAgent(t, func(net.Conn) {})
	garbage := serveAgent(t, func(c net.Conn) { fmt.Fprint(c, "\xff\xff\xff\xffgarbage") })
	for name, c := range map[string]struct {
		ref       string
		o         Options
		want, tip string
	}{
		"several":        {"ssh-agent:", all, "3 keys in ssh-agent fit", "release key"},
		"same comment":   {"ssh-agent:twin", all, "2 keys in ssh-agent fit", "SHA256:"},
		"no such":        {"ssh-agent:SHA256:AAAA", all, "no key with this fingerprint", "SHA256:"},
		"Ed25519":        {"ssh-agent:ed", all, "Ed25519 cannot be used", ""},
		"P-384":          {"ssh-agent:p384", all, "P-384", ""},
		"none usable":    {"ssh-agent:", agentOptions(keyringAgent(t, agent.AddedKey{PrivateKey: &ed})), "no key that can be used", "ssh-ed25519"},
		"no keys":        {"ssh-agent:", agentOptions(keyringAgent(t)), "ssh-agent has no keys", "ssh-add"},
		"no agent":       {"ssh-agent:", agentOptions(""), "SSH_AUTH_SOCK is not set", "ssh-add"},
		"no socket":      {"ssh-agent:", agentOptions("/nonexistent/agent"), "/nonexistent/agent", "ssh-add -l"},
		"agent hangs up": {"ssh-agent:", agentOptions(silent), "asking ssh-agent", ""},
		"agent is none":  {"ssh-agent:", agentOptions(garbage), "asking ssh-agent", ""},
	} {
		s, err := Open(t.Context(), c.ref, c.o)
		t.Run(name, func(t *testing.T) { refused(t, s, err, c.want, c.tip) })
	}
	s, err := Open(t.Context(), "ssh-agent:release key", all)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Sign(t.Context(), make([]byte, maxAgentMessage+1))
	refused(t, nil, err, "at most 240 KiB", "")
	if _, err := s.Sign(t.Context(), make([]byte, maxAgentMessage)); err != nil {
		t.Error(err)
	}
}

// An agent that does not answer does not hold up a build that is stopped.
func TestAgentHangs(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	socket := serveAgent(t, func(net.Conn) { <-stop })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, "ssh-agent:", agentOptions(socket)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestRealAgent(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"ssh-agent", "ssh-add"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	cmd := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 200 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for name, k := range map[string]crypto.Signer{"ec": newEC(t, elliptic.P256()), "rsa": newRSA(t, 2048)} {
		block, err := ssh.MarshalPrivateKey(k, name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		add := exec.CommandContext(t.Context(), "ssh-add", "-q", path)
		add.Env = append(os.Environ(), socketVariable+"="+socket)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("ssh-add: %v\n%s", err, out)
		}
		s, err := Open(t.Context(), "ssh-agent:"+name, agentOptions(socket))
		if err != nil {
			t.Fatal(err)
		}
		signs(t, s)
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	ec, r := newEC(t, elliptic.P256()), newRSA(t, 2048)
	ecFile, rsaFile := pemFile(t, dir, "ec.pem", ec), pemFile(t, dir, "rsa.pem", r)
	for name, c := range map[string]struct {
		argv   []string
		public crypto.PublicKey
	}{
		"EC, ASN.1":   {[]string{"openssl", "dgst", "-sha256", "-sign", ecFile}, &ec.PublicKey},
		"RSA":         {[]string{"openssl", "dgst", "-sha256", "-sign", rsaFile}, &r.PublicKey},
		"EC, base64":  {[]string{"sh", "-c", `openssl dgst -sha256 -sign "$0" | openssl base64`, ecFile}, &ec.PublicKey},
		"RSA, base64": {[]string{"sh", "-c", `openssl dgst -sha256 -sign "$0" | openssl base64 -A`, rsaFile}, &r.PublicKey},
	} {
		s, err := OpenCommand("", c.argv, c.public)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { signs(t, s) })
	}
	for name, c := range map[string]struct {
		argv []string
		want string
	}{
		"fails":        {[]string{"sh", "-c", "echo no token in the reader >&2; exit 3"}, "of the command sh: it failed (exit status 3); it said: no token in the reader"},
		"terminal":     {[]string{"sh", "-c", `printf '\033[31mred\033[0m\n' >&2; exit 1`}, "it said: ?[31mred?[0m"},
		"says much":    {[]string{"sh", "-c", "yes | head -c 1000000 >&2; echo the end >&2; exit 1"}, "it failed"},
		"is killed":    {[]string{"sh", "-c", "kill -9 $$"}, "signal: killed"},
		"nothing":      {[]string{"true"}, "wrote no signature"},
		"too much":     {[]string{"sh", "-c", "yes | head -c 1000000"}, "wrote more than 8 KiB"},
		"text":         {[]string{"echo", "hello"}, "looks like base64, but"},
		"other key":    {[]string{"openssl", "dgst", "-sha256", "-sign", pemFile(t, dir, "other.pem", newRSA(t, 2048))}, "not valid for the public key"},
		"other kind":   {[]string{"openssl", "dgst", "-sha256", "-sign", ecFile}, "one of this RSA key has 256"},
		"SHA-512":      {[]string{"openssl", "dgst", "-sha512", "-sign", rsaFile}, "over the message's SHA-512; Mender clients verify only SHA-256"},
		"hashed twice": {[]string{"sh", "-c", `openssl dgst -sha256 -binary | openssl dgst -sha256 -sign "$0"`, rsaFile}, "hashed twice"},
		"PSS":          {[]string{"openssl", "dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sign", rsaFile}, "RSA-PSS"},
	} {
		s, err := OpenCommand("", c.argv, &r.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			_, err := s.Sign(t.Context(), []byte("message"))
			refused(t, nil, err, c.want, "")
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
	for name, c := range map[string]struct {
		argv   []string
		public crypto.PublicKey
		want   string
	}{
		"no words":      {nil, &r.PublicKey, "the command is empty"},
		"empty":         {[]string{""}, &r.PublicKey, "the command is empty"},
		"no program":    {[]string{"/nonexistent/sign", "--token", kmsSecret}, &r.PublicKey, "is not found"},
		"no shell":      {[]string{"openssl dgst -sha256 -sign x"}, &r.PublicKey, "is not found"},
		"no public key": {[]string{"true"}, nil, "needs the public key"},
		"weak key":      {[]string{"true"}, &newEC(t, elliptic.P384()).PublicKey, "P-384"},
	} {
		s, err := OpenCommand("", c.argv, c.public)
		t.Run(name, func(t *testing.T) { refused(t, s, err, c.want, "") })
	}
}

func TestCommandIsStopped(t *testing.T) {
	t.Parallel()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("sleep is not installed")
	}
	_, err = runCommand(t.Context(), 20*time.Millisecond, "", sleep, []string{"60"}, nil)
	var ke *KeyError
	if !errors.As(err, &ke) || !strings.Contains(ke.Reason, "did not finish within 20ms") {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := runCommand(ctx, time.Hour, "", sleep, []string{"60"}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestOpenFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := pemFile(t, dir, "k.pem", newEC(t, elliptic.P256()))
	s, err := Open(t.Context(), key, Options{})
	if err != nil {
		t.Fatal(err)
	}
	signs(t, s)
	if _, ok := s.(DigestSigner); !ok {
		t.Error("a file is no DigestSigner")
	}
	for _, path := range []string{key, key + ".pub"} {
		public, err := LoadPublic(t.Context(), path, Options{})
		if err != nil || !bytes.Equal(MarshalPublic(public), MarshalPublic(s.Public())) {
			t.Errorf("%s: %v", path, err)
		}
	}
	openssl(t, dir, "ecparam", "-name", "prime256v1", "-genkey", "-out", "sec1.pem")
	openssl(t, dir, "pkcs8", "-topk8", "-in", "sec1.pem", "-passout", "pass:"+secret, "-out", "encrypted.pem")
	for _, name := range []string{"sec1.pem", "encrypted.pem"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPublic(t.Context(), filepath.Join(dir, name), Options{Passphrase: func() ([]byte, error) { return []byte(secret), nil }}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := LoadPublic(t.Context(), filepath.Join(dir, "encrypted.pem"), Options{}); !errors.Is(err, ErrPassphrase) {
		t.Error(err)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	other := MarshalPublic(&newEC(t, elliptic.P256()).PublicKey)
	for name, data := range map[string][]byte{"two.pub": append(public, other...), "text.pub": []byte("hello"), "empty.pub": nil} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPublic(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := LoadPublic(t.Context(), filepath.Join(dir, "none"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if MarshalPublic("no key") != nil {
		t.Error("MarshalPublic of no key")
	}
}
