package signing

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/twinkeel/twinkeel/signing/helper"
)

// helperProgram is a program that reaches keys for this one.
type helperProgram struct {
	name, variable string
	does           string
	build          string // its command line, for people
}

const (
	tokenHelperVariable   = "TWINKEEL_PKCS11_HELPER"
	serviceHelperVariable = "TWINKEEL_KMS_HELPER"
)

var (
	tokenHelper = helperProgram{
		name: "twinkeel-pkcs11", variable: tokenHelperVariable, does: "loads PKCS #11 modules",
		build: "CGO_ENABLED=1 go build ./cmd/twinkeel-pkcs11 (needs a C compiler)",
	}
	serviceHelper = helperProgram{
		name: "twinkeel-kms", variable: serviceHelperVariable, does: "talks to key management services",
		build: "CGO_ENABLED=0 go build ./cmd/twinkeel-kms",
	}
)

// start starts the program for the key called key, with variables of the environment set or, when empty, kept from it. The path is
// that of the program, for messages.
func (h *helperProgram) start(ctx context.Context, key string, o Options, set map[string]string) (client *helper.Client, path string, err error) {
	path, err = h.find(o)
	if err != nil {
		return nil, "", &KeyError{
			Path: key, Reason: err.Error(),
			Advice: "it is released beside twinkeel; from the sources: " + h.build + ". Put it beside twinkeel or into PATH, or set " + h.variable + " to its path",
		}
	}
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if _, other := set[name]; !other {
			env = append(env, v)
		}
	}
	for name, value := range set {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	client, err = helper.Start(ctx, path, env)
	if err != nil {
		return nil, "", &KeyError{Path: key, Reason: "the helper " + printable(path) + " could not be started: " + printable(err.Error())}
	}
	return client, path, nil
}

func (h *helperProgram) find(o Options) (string, error) {
	if path := o.getenv(h.variable); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("the helper %s, which %s names, is not there or not executable", printable(path), h.variable)
		}
		return path, nil
	}
	beside := "beside twinkeel"
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		dir := filepath.Dir(self)
		if path, err := exec.LookPath(filepath.Join(dir, h.name)); err == nil {
			return path, nil
		}
		beside += " in " + printable(dir)
	}
	if path, err := exec.LookPath(h.name); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("the program %s, which %s, is neither %s nor in PATH", h.name, h.does, beside)
}

// explain says what is wrong with the program itself, if that is what failed; detail is fit for people.
func (h *helperProgram) explain(f *helper.Failure, path, detail string) (reason, advice string, ok bool) {
	switch f.Code {
	case helper.HelperEnded:
		return "the helper that " + h.does + " ended (" + detail + ")", "", true
	case helper.HelperBroken, helper.BadRequest:
		return "the helper " + printable(path) + " is not understood: " + detail, "install twinkeel and " + h.name + " of the same version", true
	}
	return "", "", false
}

// publicOf reads the public key of an answer.
func publicOf(answer *helper.Response) (crypto.PublicKey, error) {
	public, err := x509.ParsePKIXPublicKey(answer.Public)
	if err != nil {
		return nil, &helper.Failure{Code: helper.HelperBroken, Detail: "its public key is damaged or of an unknown kind"}
	}
	return public, nil
}

// helperSigner is a digestSigner with a helper process behind it, which ends with the context of Open, with this process, or by Close.
type helperSigner struct {
	digestSigner
	client *helper.Client
}

// Close ends the helper process.
func (s *helperSigner) Close() error { return s.client.Close() }

// Close ends what a signer has running for it, such as a helper process. Signers that have none may be closed, too.
func Close(s Signer) {
	if h, ok := s.(*helperSigner); ok {
		h.client.Close()
	}
}
