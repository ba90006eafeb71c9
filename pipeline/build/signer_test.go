package build

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/signing"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// signedWith tells which key signed an artifact.
func signedWith(t *testing.T, path string, s *pipeline.Signer) bool {
	t.Helper()
	signer, err := OpenSigner(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	key, err := verify.NewKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := verify.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = artifactfmt.Verify(t.Context(), bytes.NewReader(read(t, path)), artifactfmt.ReadOptions{Verifier: ring})
	return err == nil
}

// closedSigner cannot be opened: a plan that tries to fails.
func closedSigner() *pipeline.Signer {
	return &pipeline.Signer{Address: "signer.kms.release", Kind: "kms", URI: "hashivault://ota"}
}

func TestPlansOpenNoKey(t *testing.T) {
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	t.Setenv("VAULT_TOKEN", "x")
	// What is started for the key leaves a file.
	helper, started := filepath.Join(t.TempDir(), "helper"), filepath.Join(t.TempDir(), "started")
	if err := os.WriteFile(helper, []byte("#!/bin/sh\n: > "+started+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TWINKEEL_KMS_HELPER", helper)
	plan := artifactPlan(t)
	plan.Actions[0].Artifact.Signer = closedSigner()
	if _, err := OpenSigner(t.Context(), plan.Actions[0].Artifact.Signer); err == nil {
		t.Fatal("the key can be opened")
	}
	if err := os.Remove(started); err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		steps, err := Decide(t.Context(), plan, force)
		if err != nil {
			t.Fatal(err)
		}
		if steps[0].Verb != VerbBuild {
			t.Errorf("%s %v", steps[0].Verb, steps[0].Reasons)
		}
	}
	if _, err := os.Stat(started); err == nil {
		t.Error("deciding has started a helper")
	}
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), steps, plan, Options{}); err == nil || !strings.Contains(err.Error(), "signer.kms.release") {
		t.Errorf("built with a key that cannot be opened: %v", err)
	}
}

// TestKeyWithoutPublicHalf: the plan goes by what the last build recorded, as long as the key file was not touched.
func TestKeyWithoutPublicHalf(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	a := plan.Actions[0].Artifact
	a.Signer.KeyID = ""
	buildAll(t, plan)
	if s := decideOne(t, plan); !s.UpToDate() {
		t.Fatalf("after the build: %s %v", s.Verb, s.Reasons)
	}
	first := read(t, a.Path)

	// The same key in a new file: it has to be looked at, and then there is nothing to do.
	text := read(t, a.Signer.PrivateKey)
	if err := os.Remove(a.Signer.PrivateKey); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.Signer.PrivateKey, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if s := decideOne(t, plan); s.Verb != VerbSign || !cmp.Equal(codes(s), []string{ReasonKeyChanged}) {
		t.Errorf("with another key file: %s %v", s.Verb, s.Reasons)
	}
	buildAll(t, plan)
	if !bytes.Equal(read(t, a.Path), first) {
		t.Error("the same key signed again")
	}
	if s := decideOne(t, plan); !s.UpToDate() {
		t.Errorf("after the key was looked at: %s %v", s.Verb, s.Reasons)
	}

	newKey(t, plan)
	buildAll(t, plan)
	if !signedWith(t, a.Path, a.Signer) {
		t.Error("the new key did not sign")
	}
	if s := decideOne(t, plan); !s.UpToDate() {
		t.Errorf("after the new key signed: %s %v", s.Verb, s.Reasons)
	}
}

// TestKeyOfOtherOutputs: where one signer has signed with two keys, each artifact stays as it is, in every plan.
func TestKeyOfOtherOutputs(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	a := plan.Actions[0].Artifact
	a.Signer.KeyID = ""
	buildAll(t, plan)
	d, err := newDecider(plan, false)
	if err != nil {
		t.Fatal(err)
	}
	own := d.record.Outputs[a.Address]
	for _, address := range []string{"artifact.a", "artifact.z"} {
		other := *own
		other.SignerKeyID = strings.Repeat("0", 64)
		d.record.Outputs[address] = &other
	}
	for range 20 {
		if id, known := d.knownKey(t.Context(), a); !known || id != own.SignerKeyID {
			t.Fatalf("%s, %t; it was signed with %s", id, known, own.SignerKeyID)
		}
	}
}

// TestSignFromCache: another key signs what another one signed before, also when nothing is left in the output directory.
func TestSignFromCache(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	a := plan.Actions[0].Artifact
	buildAll(t, plan)
	if err := os.RemoveAll(plan.OutDir); err != nil {
		t.Fatal(err)
	}
	newKey(t, plan)
	s := decideOne(t, plan)
	if s.Verb != VerbSign || !cmp.Equal(codes(s), []string{ReasonNeverBuilt}) {
		t.Fatalf("%s %v", s.Verb, s.Reasons)
	}
	signed := buildAll(t, plan).Outputs["artifact.os"]
	if !signedWith(t, a.Path, a.Signer) || signed.SignerKeyID != a.Signer.KeyID || !cmp.Equal(signed.DeviceTypes, []string{"board"}) {
		t.Errorf("got %+v", signed)
	}

	// What only looks like it is not taken.
	unsigned := *a
	unsigned.Signer = nil
	plan.Actions[0].Artifact = &unsigned
	buildAll(t, plan)
	info, err := artifactfmt.Verify(t.Context(), bytes.NewReader(read(t, a.Path)), artifactfmt.ReadOptions{})
	if err != nil || info.Signed {
		t.Errorf("without a signer: %+v, %v", info, err)
	}
	plan.Actions[0].Artifact = a
	if s := decideOne(t, plan); !s.Restore {
		t.Errorf("signed before: %s %v", s.Verb, s.Reasons)
	}
}

// TestOnlyTheNamedSignersArtifactIsSent: a release goes out with the signature that its block names, or not at all.
func TestOnlyTheNamedSignersArtifactIsSent(t *testing.T) {
	plan := artifactPlan(t)
	a := plan.Actions[0].Artifact
	buildAll(t, plan)
	sent := func() (*Step, error) {
		d, err := newDecider(plan, false)
		if err != nil {
			t.Fatal(err)
		}
		d.sending = true
		s, err := d.decide(t.Context(), plan.Actions[0])
		if err != nil {
			t.Fatal(err)
		}
		if s.UpToDate() {
			return s, nil
		}
		return s, d.stale(s)
	}
	named := *a.Signer
	if err := os.Remove(named.PrivateKey); err != nil { // it may be on another machine
		t.Fatal(err)
	}
	for _, id := range []string{named.KeyID, ""} {
		a.Signer.KeyID = id
		if s, _ := sent(); !s.UpToDate() {
			t.Errorf("signed as the block says, key id %q: %v", id, s.Reasons)
		}
	}
	other := strings.Repeat("0", 64)
	for name, signer := range map[string]*pipeline.Signer{
		"another key":            {Address: named.Address, Kind: "file", PrivateKey: named.PrivateKey, KeyID: other},
		"another signer":         {Address: "signer.file.other", Kind: "file", PrivateKey: "other.pem", KeyID: other},
		"a signer nobody opened": closedSigner(),
	} {
		a.Signer = signer
		if _, err := sent(); err == nil || !strings.Contains(err.Error(), "is not up to date: signing key changed") {
			t.Errorf("%s: %v", name, err)
		}
	}

	a.Signer = nil
	if err := os.RemoveAll(plan.OutDir); err != nil {
		t.Fatal(err)
	}
	buildAll(t, plan)
	for _, signer := range []*pipeline.Signer{&named, closedSigner()} {
		a.Signer = signer
		if _, err := sent(); err == nil || err.Error() != "out/artifacts/os.mender is not signed" {
			t.Errorf("an unsigned one: %v", err)
		}
	}
}

// TestPublicKeyOfAnotherKey: planning goes by the public key's file, so what it says has to be true.
func TestPublicKeyOfAnotherKey(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	private, _, err := signing.Generate("")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plan.Actions[0].Artifact.Signer.PrivateKey, private, 0o600); err != nil {
		t.Fatal(err)
	}
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = Run(t.Context(), steps, plan, Options{}); err == nil || !strings.Contains(err.Error(), "its public key's file holds") {
		t.Errorf("got %v", err)
	}
}
