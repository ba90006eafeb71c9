package signing

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature/kms/aws"
	"github.com/sigstore/sigstore/pkg/signature/kms/azure"
	"github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	"github.com/sigstore/sigstore/pkg/signature/kms/hashivault"

	"github.com/twinkeel/twinkeel/signing/helper"
)

// helperDir has the real helpers, which are built when the first test wants them.
var helperDir string

var (
	tokenHelperBuilt   = sync.OnceValues(func() (string, error) { return buildHelper("twinkeel-pkcs11", "1") })
	serviceHelperBuilt = sync.OnceValues(func() (string, error) { return buildHelper("twinkeel-kms", "0") })
)

func TestMain(m *testing.M) {
	var err error
	if helperDir, err = os.MkdirTemp("", "twinkeel-helpers"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(helperDir)
	os.Exit(code)
}

// buildHelper uses the flags of the Makefile, and with them the same cache.
func buildHelper(name, cgo string) (string, error) {
	path := filepath.Join(helperDir, name)
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", path, "github.com/twinkeel/twinkeel/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// script makes a helper of a few lines of shell. Tests with it are not parallel: a program cannot be started while another test
// forks with the file still open for writing.
func script(t *testing.T, lines string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "helper")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+lines+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestKMSHelperFails(t *testing.T) {
	kmsHelper(t) // takes its time
	text, session := script(t, "exit 0"), strings.Repeat("session", 300)
	if err := os.Chmod(text, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ helper, want, tip string }{
		"missing":         {"/nonexistent/helper", "the helper /nonexistent/helper, which TWINKEEL_KMS_HELPER names, is not there", "go build ./cmd/twinkeel-kms"},
		"not executable":  {text, "not executable", serviceHelperVariable},
		"ends":            {script(t, "exit 0"), "the helper that talks to key management services ended (exit status 0)", ""},
		"fails":           {script(t, "echo cannot work with "+kmsSecret+" >&2; exit 3"), "ended (exit status 3: cannot work with [secret])", ""},
		"fails at length": {script(t, "echo '"+strings.Repeat("x", 500)+session+"' >&2; exit 3"), "xxx[secret])", ""},
		"dies":            {script(t, "kill -SEGV $$"), "ended (signal: segmentation fault", ""},
		"half an answer":  {script(t, `read q; printf '{"v":1'`), "ended (exit status 0)", ""},
		"another program": {script(t, "exec cat"), "is not understood", "install twinkeel and twinkeel-kms of the same version"},
		"garbage":         {script(t, `read q; echo '\033[31mhello'`), "is not understood: a line is not a message", "same version"},
		"another version": {script(t, `read q; echo '{"v":2}'`), "is not understood: it speaks version 2", "same version"},
		"no key":          {script(t, `read q; echo '{"v":1}'; read q`), "is not understood: its public key is damaged", "same version"},
		"no end of line":  {script(t, "exec cat /dev/zero"), "is not understood: a line is longer", "same version"},
		"no end of lines": {script(t, "exec yes"), "is not understood: a line is not a message", "same version"},
		"secret":          {script(t, `read q; echo '{"v":1,"failure":{"code":"failed","detail":"for `+kmsSecret+`\\n\\u001b[31m"}}'; read q`), "for [secret] ?[31m", "VAULT_ADDR"},
		"long failure":    {script(t, `read q; echo '{"v":1,"failure":{"code":"failed","detail":"`+strings.Repeat("x", 10000)+`"}}'; read q`), "xxx…", "VAULT_ADDR"},
		"unknown failure": {script(t, `read q; echo '{"v":1,"failure":{"code":"new"}}'; read q`), "asking Vault for the public key", "VAULT_ADDR"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			signer, err := Open(t.Context(), "hashivault://ec", vaultOptions(t, map[string]string{
				"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": kmsSecret, "AWS_SESSION_TOKEN": session, serviceHelperVariable: c.helper,
			}))
			refused(t, signer, err, c.want, c.tip)
			if took := time.Since(start); took > kmsOpenLimit {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestKMSHelperNotInstalled(t *testing.T) {
	dir := filepath.Dir(kmsHelper(t))
	t.Setenv("PATH", t.TempDir())
	o := Options{Getenv: func(name string) string {
		return map[string]string{"VAULT_ADDR": "http://x", "VAULT_TOKEN": kmsSecret}[name]
	}}
	signer, err := Open(t.Context(), "hashivault://ec", o)
	self, _ := os.Executable()
	refused(t, signer, err, "the program twinkeel-kms, which talks to key management services, is neither beside twinkeel in "+filepath.Dir(self)+" nor in PATH",
		"Put it beside twinkeel or into PATH, or set TWINKEEL_KMS_HELPER")

	// In PATH it is found.
	t.Setenv("PATH", dir)
	signer, err = Open(t.Context(), "hashivault://ec", o)
	refused(t, signer, err, "asking Vault", "VAULT_ADDR")
}

// A helper that hangs is left behind, by a time limit as by a context, and so are programs that it has started.
func TestKMSHelperHangs(t *testing.T) {
	kmsHelper(t) // takes its time
	for name, lines := range map[string]string{"alone": "exec sleep 60", "with a child": "sleep 60"} {
		t.Run(name, func(t *testing.T) {
			o := vaultOptions(t, map[string]string{"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": kmsSecret, serviceHelperVariable: script(t, lines)})
			start := time.Now()
			o.kmsLimit = 50 * time.Millisecond
			signer, err := Open(t.Context(), "hashivault://ec", o)
			refused(t, signer, err, "Vault gave no answer within 50ms while asking Vault for the public key", "VAULT_ADDR")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it is no timeout: %v", err)
			}
			o.kmsLimit = time.Hour
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			if signer, err := Open(ctx, "hashivault://ec", o); !errors.Is(err, context.Canceled) || signer != nil {
				t.Error(err)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// The real helper and a service that is slow: the limit holds, a context ends the process, and what is dead stays so.
func TestKMSSlowService(t *testing.T) {
	keys := serviceKeys(t)
	release := make(chan struct{})
	defer close(release)
	keys["slow"] = &serviceKey{private: keys["ec"].private, misbehave: func([]byte) ([]byte, error) { <-release; return nil, errors.New("late") }}
	s := vaultServer(t, keys)
	o := vaultOptions(t, map[string]string{"VAULT_ADDR": s.URL, "VAULT_TOKEN": kmsSecret})
	signer, err := Open(t.Context(), "hashivault://slow", o)
	if err != nil {
		t.Fatal(err)
	}
	exe := procFile(t, kmsHelper(t), "exe")
	for _, name := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(exe), name))
		if has := strings.Contains(string(text), kmsSecret); err == nil && has != (name == "environ") {
			t.Errorf("%s has the token: %v", name, has)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := signer.Sign(ctx, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(exe)); exe != "" && err == nil {
		t.Error("the helper is still there")
	}
	_, err = signer.Sign(t.Context(), []byte("x"))
	refused(t, nil, err, "the helper that talks to key management services ended (a request was given up)", "")

	asked := make(chan struct{}, 10)
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-release }))
	t.Cleanup(silent.Close)
	o = vaultOptions(t, map[string]string{"VAULT_ADDR": silent.URL, "VAULT_TOKEN": kmsSecret})
	o.kmsLimit = 200 * time.Millisecond
	signer, err = Open(t.Context(), "hashivault://ec", o)
	refused(t, signer, err, "Vault gave no answer within 200ms", "VAULT_ADDR")
	<-asked

	// When twinkeel is gone the helper does not wait for the service.
	cmd := exec.CommandContext(t.Context(), kmsHelper(t))
	cmd.Env = append(os.Environ(), "VAULT_ADDR="+silent.URL, "VAULT_TOKEN="+kmsSecret)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := helper.WriteLine(in, helper.Request{Version: helper.Version, Op: helper.OpOpen, Service: "hashivault://ec"}); err != nil {
		t.Error(err)
	}
	<-asked
	in.Close()
	start := time.Now()
	if err := cmd.Wait(); err != nil || time.Since(start) > 10*time.Second {
		t.Errorf("the helper ended after %s: %v", time.Since(start), err)
	}
}

// A helper that dies between two signatures is an error that says so, and one that is closed is gone.
func TestKMSHelperDies(t *testing.T) {
	s := vaultServer(t, serviceKeys(t))
	o := vaultOptions(t, map[string]string{"VAULT_ADDR": s.URL, "VAULT_TOKEN": kmsSecret})
	signer, err := Open(t.Context(), "hashivault://ec", o)
	if err != nil {
		t.Fatal(err)
	}
	signs(t, signer)
	kill(t, kmsHelper(t), "-KILL")
	for range 2 {
		_, err := signer.Sign(t.Context(), []byte("x"))
		refused(t, nil, err, "the helper that talks to key management services ended (signal: killed)", "")
	}
	Close(signer)
	if signer, err = Open(t.Context(), "hashivault://rsa", o); err != nil {
		t.Fatal(err)
	}
	Close(signer)
	Close(signer)
	_, err = signer.Sign(t.Context(), []byte("x"))
	refused(t, nil, err, "it was closed", "")
	Close(&messageSigner{}) // has nothing to end
}

// The forms that are taken without the helper are those that its clients take.
func TestStoreFormsAreSigstores(t *testing.T) {
	t.Parallel()
	valid := map[string]func(string) error{
		aws.ReferenceScheme: aws.ValidReference, azure.ReferenceScheme: azure.ValidReference,
		gcp.ReferenceScheme: gcp.ValidReference, hashivault.ReferenceScheme: hashivault.ValidReference,
	}
	if len(stores) != len(valid) {
		t.Errorf("%d stores, %d clients", len(stores), len(valid))
	}
	const uuid = "1234abcd-12ab-34cd-56ef-1234567890ab"
	for _, rest := range []string{
		"", "/", "a", "A", "a-", "-a", "a.b", "a_b-c.d", "a/", "/a", "a/b", "a//", "a/b/c", "a/b/0f", "a/b/0F", "a/b/c/d", "a b", "a\n", "a\x1b",
		uuid, "/" + uuid, "/mrk-" + strings.ReplaceAll(uuid, "-", ""), "host:1/" + uuid, "/" + uuid + "0", "/key/" + uuid,
		"/alias/", "/alias/a", "/alias/a/b", "host/alias/a", "/alias/a\nb", "alias/a", "a/b/alias/c", "/x/alias/c",
		"/arn:aws:kms:eu-central-1:123456789012:key/" + uuid, "/arn:aws-cn:kms:x:123456789012:alias/a", "host/arn:aws-us-gov:kms:x:123456789012:alias/",
		"/arn:aws:kms:x:12345678901:alias/a", "/arn:aws-x:kms:x:123456789012:alias/a", "/arn:aws:kms:x:123456789012:" + uuid, "/arn:aws:kms:x:123456789012:key/a",
		"projects/p/locations/l/keyRings/r/cryptoKeys/k", "projects/p/locations/l/keyRings/r/cryptoKeys/k/", "projects/p/locations/l/keyRings/r/cryptoKeys/k/versions/1",
		"projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/",
		"projects/p/locations/l/keyRings/r/cryptoKeys/k/other/1", "projects//locations/l/keyRings/r/cryptoKeys/k", "v.vault.azure.net/k", "v.vault.azure.net/k/",
	} {
		for i, st := range stores {
			ref := st.scheme + rest
			if got, want := stores[i].valid.MatchString(ref), valid[st.scheme](ref) == nil; got != want {
				t.Errorf("%q: %v here, %v by sigstore", ref, got, want)
			}
		}
	}
}
