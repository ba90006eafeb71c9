package signing

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/signing/verify"
)

const testPIN = "73429018"

// softHSM is a token store made for a test, and the helper.
type softHSM struct {
	dir, module, helper string
}

// newSoftHSM makes two tokens with keys. Modules read the environment of the process, so tests with it are not parallel.
func newSoftHSM(t *testing.T) *softHSM {
	t.Helper()
	h := &softHSM{dir: t.TempDir()}
	for _, tool := range []string{"softhsm2-util", "pkcs11-tool", "cc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (apt-get install softhsm2 opensc gcc libc6-dev)", tool)
		}
	}
	for _, pattern := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			h.module = found[0]
			break
		}
	}
	if h.module == "" {
		t.Skip("libsofthsm2.so is not found")
	}
	var err error
	if h.helper, err = tokenHelperBuilt(); err != nil {
		t.Skipf("the helper cannot be built with cgo: %v", err)
	}
	if err := os.Mkdir(filepath.Join(h.dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(h.dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+h.dir+"/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	t.Setenv(tokenHelperVariable, h.helper)
	t.Setenv(pinVariable, testPIN)
	for _, token := range []string{"release", "other one"} {
		h.run(t, "softhsm2-util", "--init-token", "--free", "--label", token, "--pin", testPIN, "--so-pin", "12345678")
	}
	keygen := func(token, kind, label, id string, more ...string) {
		h.run(t, "pkcs11-tool", append([]string{
			"--module", h.module, "--token-label", token, "--login", "--pin", testPIN,
			"--keypairgen", "--key-type", kind, "--label", label, "--id", id,
		}, more...)...)
	}
	keygen("release", "EC:prime256v1", "ec", "01")
	keygen("release", "rsa:3072", "rsa key", "02")
	keygen("release", "EC:prime256v1", "twice", "03")
	keygen("release", "EC:prime256v1", "twice", "04")
	keygen("release", "EC:secp384r1", "p384", "05")
	keygen("release", "rsa:1024", "weak", "06")
	keygen("release", "EC:prime256v1", "each time", "07", "--always-auth")
	keygen("release", "EC:prime256v1", "private half", "08")
	h.run(t, "pkcs11-tool", "--module", h.module, "--token-label", "release", "--login", "--pin", testPIN,
		"--delete-object", "--type", "pubkey", "--id", "08")
	keygen("other one", "EC:prime256v1", "ec", "01")
	return h
}

func (h *softHSM) run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (h *softHSM) uri(path string) string { return "pkcs11:" + path + "?module-path=" + h.module }

// signs checks a signature in Mender's form with signing/verify.
func signs(t *testing.T, s Signer) {
	t.Helper()
	message := []byte("a manifest\n")
	ring := keyring(t, s)
	check := func(signature []byte, err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
			return
		}
		if id, err := ring.Verify(message, signature); err != nil || id != s.KeyID() || len(signature) != s.SignatureSize() {
			t.Errorf("a signature of %d bytes (SignatureSize %d): %q, %v", len(signature), s.SignatureSize(), id, err)
		}
	}
	for range 3 {
		check(s.Sign(t.Context(), message))
	}
	if d, ok := s.(DigestSigner); ok {
		check(d.SignDigest(t.Context(), sha256.Sum256(message)))
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Sign(cancelled, message); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func keyring(t *testing.T, s Signer) *verify.Keyring {
	t.Helper()
	key, err := verify.NewKey(s.Public())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := verify.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestPKCS11(t *testing.T) {
	h := newSoftHSM(t)
	for name, path := range map[string]string{
		"EC by label":   "token=release;object=ec",
		"EC by id":      "token=release;id=%01;type=private",
		"RSA":           "token=release;object=rsa%20key",
		"RSA by both":   "token=release;object=rsa%20key;id=%02",
		"other token":   "token=other%20one;object=ec;manufacturer=SoftHSM%20project;model=SoftHSM%20v2",
		"PIN each time": "token=release;object=each%20time",
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), h.uri(path), Options{})
			if err != nil {
				t.Fatal(err, hint(err))
			}
			signs(t, s)
			if _, ok := s.(DigestSigner); !ok {
				t.Error("it is no DigestSigner")
			}
			// The public half needs no PIN.
			public, err := LoadPublic(t.Context(), h.uri(path), Options{Getenv: func(name string) string {
				if name == pinVariable {
					return ""
				}
				return os.Getenv(name)
			}})
			if err != nil || !bytes.Equal(MarshalPublic(public), MarshalPublic(s.Public())) {
				t.Errorf("LoadPublic: %v", err)
			}
			if err := s.(io.Closer).Close(); err != nil {
				t.Error(err)
			}
			if _, err := s.Sign(t.Context(), nil); err == nil {
				t.Error("it signs after Close")
			}
		})
	}
}

func TestPKCS11PINSources(t *testing.T) {
	h := newSoftHSM(t)
	file, open := filepath.Join(h.dir, "pin"), filepath.Join(h.dir, "open-pin")
	for path, mode := range map[string]os.FileMode{file: 0o600, open: 0o644} {
		if err := os.WriteFile(path, []byte(testPIN+"\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	noPIN := func(name string) string {
		if name == pinVariable {
			return ""
		}
		return os.Getenv(name)
	}
	uri := h.uri("token=release;object=ec")
	for _, source := range []string{"file:" + file, "file://" + file, "file://localhost" + file, file} {
		s, err := Open(t.Context(), uri+"&pin-source="+source, Options{Getenv: noPIN})
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		s.(io.Closer).Close()
	}
	if _, err := Open(t.Context(), uri+"&pin-source=file:"+open, Options{}); err == nil || !strings.Contains(err.Error(), "0644") {
		t.Errorf("a PIN that others may read: %v", err)
	}
	if _, err := Open(t.Context(), uri, Options{Getenv: noPIN}); err == nil || !strings.Contains(hint(err), pinVariable) {
		t.Errorf("no PIN: %v", err)
	}
	asked := 0
	s, err := Open(t.Context(), uri, Options{Getenv: noPIN, PIN: func() ([]byte, error) { asked++; return []byte(testPIN), nil }})
	if err != nil || asked != 1 {
		t.Fatalf("asked %d times: %v", asked, err)
	}
	s.(io.Closer).Close()
	if _, err := Open(t.Context(), uri, Options{Getenv: noPIN, PIN: func() ([]byte, error) { return nil, os.ErrClosed }}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a prompt that fails: %v", err)
	}
	// The helper gets neither an argument nor a variable with the PIN.
	client, _, err := tokenHelper.start(t.Context(), "", Options{}, map[string]string{pinVariable: ""})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if environ, err := os.ReadFile(procFile(t, h.helper, "environ")); err == nil && bytes.Contains(environ, []byte(testPIN)) {
		t.Error("the helper's environment has the PIN")
	}
}

// procFile finds the file in /proc of the process that runs program.
func procFile(t *testing.T, program, name string) string {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil && exe == program {
			return filepath.Join(dir, name)
		}
	}
	t.Log("/proc does not show the helper")
	return ""
}

// kill ends the process that runs program, and waits until it is no more.
func kill(t *testing.T, program, signal string) {
	t.Helper()
	exe := procFile(t, program, "exe")
	if out, err := exec.CommandContext(t.Context(), "kill", signal, filepath.Base(filepath.Dir(exe))).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Readlink(exe); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("it does not end")
		}
	}
}

func TestPKCS11Refuses(t *testing.T) {
	h := newSoftHSM(t)
	crash, broken := h.library(t, "crash", `void *C_GetFunctionList(void **l) { *(volatile int *)0 = 1; return l; }`),
		h.library(t, "broken", `int unrelated(void) { return 0; }`)
	noisy := h.library(t, "noisy", `#include <stdio.h>
__attribute__((constructor)) static void hello(void) { puts("{}"); fflush(stdout); }`)
	notALibrary := filepath.Join(h.dir, "text.so")
	if err := os.WriteFile(notALibrary, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	release := h.uri("token=release;object=ec")
	cases := map[string]struct {
		ref       string
		pin       string
		helper    string
		want, tip string
	}{
		"wrong PIN":         {ref: release, pin: "00000000", want: "the PIN is wrong", tip: "lock"},
		"short PIN":         {ref: release, pin: "0", want: "the PIN is wrong"},
		"no such token":     {ref: h.uri("token=relase;object=ec"), want: "no token fits", tip: "token=release"},
		"no such serial":    {ref: h.uri("serial=1;object=ec"), want: "no token fits"},
		"no such slot":      {ref: h.uri("slot-id=99;object=ec"), want: "no token fits", tip: "slot-id="},
		"several tokens":    {ref: h.uri("object=ec"), want: "several tokens fit: token=", tip: "serial="},
		"no such object":    {ref: h.uri("token=release;object=ce"), want: "no such private key", tip: "object=ec id=%01"},
		"no such id":        {ref: h.uri("token=release;object=ec;id=%02"), want: "no such private key"},
		"several objects":   {ref: h.uri("token=release;object=twice"), want: "several private keys fit: object=twice id=%0"},
		"P-384":             {ref: h.uri("token=release;object=p384"), want: "not on the curve P-256"},
		"weak":              {ref: h.uri("token=release;object=weak"), want: "too weak"},
		"no public half":    {ref: h.uri("token=release;id=%08"), want: "no public key and no certificate"},
		"no module":         {ref: "pkcs11:token=release;object=ec", want: "which PKCS #11 module", tip: moduleVariable},
		"module missing":    {ref: "pkcs11:object=ec?module-path=/nonexistent/module.so", want: "/nonexistent/module.so does not exist"},
		"module is a text":  {ref: "pkcs11:object=ec?module-path=" + notALibrary, want: "cannot be used"},
		"another library":   {ref: "pkcs11:object=ec?module-path=" + broken, want: "cannot be used"},
		"module crashes":    {ref: "pkcs11:object=ec?module-path=" + crash, want: "ended (exit status 2: SIGSEGV: segmentation violation"},
		"module talks":      {ref: "pkcs11:object=ec?module-path=" + noisy, want: "cannot be used"},
		"helper missing":    {ref: release, helper: "/nonexistent/helper", want: "/nonexistent/helper", tip: "go build"},
		"helper is another": {ref: release, helper: "cat", want: "is not understood"},
		"helper ends":       {ref: release, helper: "true", want: "ended"},
		"helper fails":      {ref: release, helper: "false", want: "exit status 1"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := Options{Getenv: func(name string) string {
				switch {
				case name == pinVariable && c.pin != "":
					return c.pin
				case name == tokenHelperVariable && c.helper != "":
					return c.helper
				}
				return os.Getenv(name)
			}}
			s, err := Open(t.Context(), c.ref, o)
			var ke *KeyError
			if !errors.As(err, &ke) || s != nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(hint(err), c.tip) {
				t.Errorf("%v\nhint: %s", err, hint(err))
			}
			if err != nil && strings.Contains(err.Error()+hint(err), testPIN) {
				t.Errorf("the error has the PIN: %v", err)
			}
		})
	}
}

// A helper that dies between two signatures is an error that says so.
func TestPKCS11HelperDies(t *testing.T) {
	h := newSoftHSM(t)
	s, err := Open(t.Context(), h.uri("token=release;object=ec"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	signs(t, s)
	kill(t, h.helper, "-SEGV")
	for range 2 {
		if _, err := s.Sign(t.Context(), []byte("x")); err == nil || !strings.Contains(err.Error(), "the helper that loads PKCS #11 modules ended") {
			t.Errorf("%v", err)
		}
	}
}

func (h *softHSM) library(t *testing.T, name, source string) string {
	t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path+".c", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	h.run(t, "cc", "-shared", "-fPIC", "-o", path+".so", path+".c")
	return path + ".so"
}
