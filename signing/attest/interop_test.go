package attest

import (
	"bytes"
	"crypto"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
)

func sigstoreVerifier(t *testing.T, k keyPair, options ...dsse.Option) signature.Verifier {
	t.Helper()
	v, err := signature.LoadVerifierFromPEMFile(k.public, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return dsse.WrapVerifier(v, options...)
}

// What sigstore's verifier takes cosign takes, too: it is the one cosign uses.
func TestSigstoreReadsOurs(t *testing.T) {
	t.Parallel()
	ec, rsa, other := newKey(t, "ecdsa-p256"), newKey(t, "rsa-3072"), newKey(t, "ecdsa-p256")
	for name, signers := range map[string][]keyPair{"ecdsa": {ec}, "rsa": {rsa}, "several": {other, rsa, ec}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := sign(t, New(someBuild(), someFiles()), signers...)
			for _, k := range signers {
				var body []byte
				v := sigstoreVerifier(t, k, dsse.WithDecodedPayload(&body), dsse.WithExpectedPayloadType(PayloadType))
				if err := v.VerifySignature(bytes.NewReader(env), nil); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(body, payload(t, env)) {
					t.Errorf("sigstore read %s", body)
				}
			}
			stranger := newKey(t, "ecdsa-p256")
			if err := sigstoreVerifier(t, stranger).VerifySignature(bytes.NewReader(env), nil); err == nil {
				t.Error("a key that did not sign it verifies it")
			}
		})
	}
	var all []signature.Verifier
	for _, k := range []keyPair{ec, rsa} {
		v, err := signature.LoadVerifierFromPEMFile(k.public, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	env := sign(t, New(someBuild(), someFiles()), ec, rsa)
	if err := dsse.WrapMultiVerifierWithOpts(PayloadType, 2, all).VerifySignature(bytes.NewReader(env), nil); err != nil {
		t.Error(err)
	}
}

// The reason why envelopes have no keyid. If this fails, sigstore has changed, and envelopes may name their keys.
func TestSigstorePassesOverKeyIDs(t *testing.T) {
	t.Parallel()
	k := newKey(t, "ecdsa-p256")
	env := sign(t, New(someBuild(), someFiles()), k)
	env = bytes.Replace(env, []byte(`{"sig":`), []byte(`{"keyid":"`+k.signer.KeyID()+`","sig":`), 1)
	if err := sigstoreVerifier(t, k).VerifySignature(bytes.NewReader(env), nil); err == nil {
		t.Error("sigstore takes a keyid of ours")
	}
	if _, err := Verify(env, ring(t, k), AnyKey); err != nil {
		t.Error(err)
	}
}

func TestWeReadSigstores(t *testing.T) {
	t.Parallel()
	body, err := encode(New(someBuild(), someFiles()))
	if err != nil {
		t.Fatal(err)
	}
	for _, algorithm := range []string{"ecdsa-p256", "rsa-3072"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			k, other := newKey(t, algorithm), newKey(t, "ecdsa-p256")
			s, err := signature.LoadSignerVerifierFromPEMFile(k.private, crypto.SHA256, nil)
			if err != nil {
				t.Fatal(err)
			}
			single, err := dsse.WrapSigner(s, PayloadType).SignMessage(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			several, err := dsse.WrapMultiSigner(PayloadType, s).SignMessage(bytes.NewReader(body)) // has a keyid
			if err != nil {
				t.Fatal(err)
			}
			for _, env := range [][]byte{single, several} {
				v, err := Verify(env, ring(t, other, k), AnyKey)
				if err != nil {
					t.Fatal(err)
				}
				if len(v.KeyIDs) != 1 || v.KeyIDs[0] != k.signer.KeyID() {
					t.Errorf("signed by %v", v.KeyIDs)
				}
				if err := Matches(v.Statement, someFiles()); err != nil {
					t.Error(err)
				}
				if _, err := Verify(env, ring(t, other), AnyKey); err == nil {
					t.Error("a key that did not sign it verifies it")
				}
			}
		})
	}
}

// The commands of docs/attestation.md for those who have openssl and nothing else.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "openssl", "jq", "base64"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "attestation.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, script, ok := strings.Cut(string(doc), "<!-- openssl -->\n\n```sh\n")
	if !ok {
		t.Fatal("docs/attestation.md has no commands for openssl")
	}
	script, _, _ = strings.Cut(script, "```")
	for _, algorithm := range []string{"ecdsa-p256", "rsa-3072"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			k := newKey(t, algorithm)
			dir := t.TempDir()
			env := sign(t, New(someBuild(), someFiles()), k)
			public, err := os.ReadFile(k.public)
			if err != nil {
				t.Fatal(err)
			}
			run := func(env []byte) (string, error) {
				for name, data := range map[string][]byte{"release-1.mender.intoto.json": env, "release.pub": public} {
					if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				c := exec.CommandContext(t.Context(), "bash", "-e", "-c", script)
				c.Dir = dir
				out, err := c.CombinedOutput()
				return string(out), err
			}
			out, err := run(env)
			if err != nil || !strings.Contains(out, "Verified OK") || !strings.Contains(out, "data/0000/rootfs.ext4") {
				t.Fatalf("%v\n%s", err, out)
			}
			var e envelope
			if err := json.Unmarshal(env, &e); err != nil {
				t.Fatal(err)
			}
			out, err = run(bytes.Replace(env, []byte(e.Payload[:40]), []byte(e.Payload[:38]+"XX"), 1))
			if err == nil || strings.Contains(out, "Verified OK") {
				t.Errorf("a changed payload passes\n%s", out)
			}
		})
	}
}
