package signing

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/signing/pkcs11"
)

const (
	pinVariable    = "TWINKEEL_PKCS11_PIN"
	helperVariable = "TWINKEEL_PKCS11_HELPER"
	moduleVariable = "TWINKEEL_PKCS11_MODULE"
	helperName     = "twinkeel-pkcs11"
)

// tokenLimit leaves a person time to touch a token or to type on its keypad.
const tokenLimit = 2 * time.Minute

// tokenSigner is a digestSigner with a helper process behind it, which ends with the context of Open, with this process, or by Close.
type tokenSigner struct {
	digestSigner
	client *pkcs11.Client
}

// Close ends the helper process.
func (s *tokenSigner) Close() error { return s.client.Close() }

func openPKCS11(ctx context.Context, ref string, o Options) (Signer, error) {
	t, err := parseToken(ref, o)
	if err != nil {
		return nil, err
	}
	pin, err := t.pin(o)
	if err != nil {
		return nil, err
	}
	defer func() { clear(pin) }()
	client, err := t.start(ctx)
	if err != nil {
		return nil, err
	}
	public, err := t.open(ctx, client, pin, false)
	var f *pkcs11.Failure
	if errors.As(err, &f) && f.Code == pkcs11.PINMissing && o.PIN != nil {
		if pin, err = o.PIN(); err != nil {
			client.Close()
			return nil, t.fail("the PIN could not be read: "+oneLine(err.Error(), o), "", err)
		}
		public, err = t.open(ctx, client, pin, false)
	}
	if err != nil {
		client.Close()
		return nil, t.explain(err, o, pin)
	}
	e, err := newExternal(t.name(), public)
	if err != nil {
		client.Close()
		return nil, err
	}
	s := &tokenSigner{client: client}
	s.digestSigner = digestSigner{external: e, sign: func(ctx context.Context, digest [sha256.Size]byte) ([]byte, error) {
		limited, cancel := context.WithTimeout(ctx, tokenLimit)
		defer cancel()
		answer, err := client.Do(limited, pkcs11.Request{Op: pkcs11.OpSign, Digest: digest[:]})
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, t.explain(err, o)
		}
		return answer.Signature, nil
	}}
	return s, nil
}

// publicPKCS11 asks for the public object, which most tokens show to everyone, and logs in only when there is none.
func publicPKCS11(ctx context.Context, ref string, o Options) (crypto.PublicKey, error) {
	t, err := parseToken(ref, o)
	if err != nil {
		return nil, err
	}
	client, err := t.start(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	public, err := t.open(ctx, client, nil, true)
	var f *pkcs11.Failure
	switch {
	case err == nil:
		e, err := newExternal(t.name(), public)
		return e.key.Public, err
	case !errors.As(err, &f) || (f.Code != pkcs11.ObjectMissing && f.Code != pkcs11.PublicMissing && f.Code != pkcs11.PINMissing):
		return nil, t.explain(err, o)
	}
	s, err := openPKCS11(ctx, ref, o)
	if err != nil {
		return nil, err
	}
	defer s.(*tokenSigner).Close()
	return s.Public(), nil
}

// token is a key in a token, as its URI names it.
type token struct {
	uri    *pkcs11.URI
	module string
	helper string
}

func (t *token) name() string { return printable(t.uri.String()) }

func (t *token) fail(reason, advice string, err error) error {
	return &KeyError{Path: t.name(), Reason: reason, Advice: advice, Err: err}
}

func parseToken(ref string, o Options) (*token, error) {
	uri, err := pkcs11.Parse(ref)
	if err != nil {
		// The URI itself may have a PIN.
		return nil, &KeyError{
			Path: "pkcs11:…", Reason: err.Error(),
			Advice: "write pkcs11:token=LABEL;object=LABEL?module-path=/PATH/OF/MODULE.so&pin-source=file:/PATH, or set " + pinVariable,
		}
	}
	t := &token{uri: uri, module: uri.ModulePath}
	if t.module == "" {
		t.module = o.getenv(moduleVariable)
	}
	if !filepath.IsAbs(t.module) {
		return nil, t.fail("it does not say which PKCS #11 module to load",
			"add ?module-path=/PATH/OF/MODULE.so to the URI, or set "+moduleVariable+" to the absolute path", nil)
	}
	if t.helper, err = findHelper(o); err != nil {
		return nil, t.fail(err.Error(), "it is released beside twinkeel; from the sources: CGO_ENABLED=1 go build ./cmd/"+helperName+
			" (needs a C compiler). Put it beside twinkeel or into PATH, or set "+helperVariable+" to its path", nil)
	}
	return t, nil
}

func findHelper(o Options) (string, error) {
	if path := o.getenv(helperVariable); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("the helper %s, which %s names, is not there or not executable", printable(path), helperVariable)
		}
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		if path := filepath.Join(filepath.Dir(self), helperName); isExecutable(path) {
			return path, nil
		}
	}
	if path, err := exec.LookPath(helperName); err == nil {
		return path, nil
	}
	return "", errors.New("the program " + helperName + ", which loads PKCS #11 modules, is not installed")
}

func isExecutable(path string) bool {
	_, err := exec.LookPath(path)
	return err == nil
}

// pin is nil when none is given: some tokens need none, or have a keypad.
func (t *token) pin(o Options) ([]byte, error) {
	if t.uri.PINSource == "" {
		if pin := o.getenv(pinVariable); pin != "" {
			return []byte(pin), nil
		}
		return nil, nil
	}
	data, err := readPrivateFile(t.uri.PINSource)
	if err != nil {
		var ke *KeyError
		if errors.As(err, &ke) {
			return nil, t.fail("its pin-source "+printable(t.uri.PINSource)+": "+ke.Reason, pinAdvice(ke), err)
		}
		return nil, err
	}
	pin := bytes.TrimRight(data, "\r\n")
	if len(pin) == 0 || len(pin) > 1024 || bytes.IndexByte(pin, 0) >= 0 {
		return nil, t.fail("its pin-source "+printable(t.uri.PINSource)+" holds no PIN", "", nil)
	}
	return pin, nil
}

func pinAdvice(ke *KeyError) string {
	if strings.HasPrefix(ke.Advice, "chmod") {
		return ke.Advice
	}
	return "write the PIN into the file, readable by its owner alone"
}

func (t *token) start(ctx context.Context) (*pkcs11.Client, error) {
	client, err := pkcs11.Start(ctx, t.helper, pinVariable+"=")
	if err != nil {
		return nil, t.fail("the helper "+printable(t.helper)+" could not be started: "+printable(err.Error()), "", err)
	}
	return client, nil
}

func (t *token) open(ctx context.Context, client *pkcs11.Client, pin []byte, publicOnly bool) (crypto.PublicKey, error) {
	limited, cancel := context.WithTimeout(ctx, tokenLimit)
	defer cancel()
	u := t.uri
	answer, err := client.Do(limited, pkcs11.Request{
		Op: pkcs11.OpOpen, Module: t.module, Token: u.Token, Serial: u.Serial, Manufacturer: u.Manufacturer, Model: u.Model,
		SlotID: u.SlotID, Object: u.Object, ID: u.ID, PIN: pin, PublicOnly: publicOnly,
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(answer.Public)
	if err != nil {
		return nil, &pkcs11.Failure{Code: pkcs11.HelperBroken, Detail: "its public key is damaged or of an unknown kind"}
	}
	return public, nil
}

// explain turns what the helper says into an error for people.
func (t *token) explain(err error, o Options, pin ...[]byte) error {
	var f *pkcs11.Failure
	if !errors.As(err, &f) {
		if errors.Is(err, context.DeadlineExceeded) {
			return t.fail(fmt.Sprintf("the token gave no answer within %s", tokenLimit), "", err)
		}
		return err
	}
	secrets := []string{}
	for _, p := range pin {
		secrets = append(secrets, string(p))
	}
	module := printable(t.module)
	detail := oneLine(f.Detail, o, secrets...)
	found := oneLine(strings.Join(f.Found, ", "), o)
	have := func(what string) string {
		if found == "" {
			return "there is no " + what
		}
		return "there is: " + found
	}
	var reason, advice string
	switch f.Code {
	case pkcs11.ModuleMissing:
		reason, advice = "the PKCS #11 module "+module+" does not exist", "install the token's software, or correct module-path"
	case pkcs11.ModuleUnusable:
		reason, advice = "the PKCS #11 module "+module+" cannot be used: "+detail, "see whether pkcs11-tool --module "+module+" -L can"
	case pkcs11.TokenMissing:
		reason, advice = "no token fits", have("token at all; plug it in, or check the module's configuration")
	case pkcs11.TokenAmbiguous:
		reason, advice = "several tokens fit: "+found, "add token=, serial= or slot-id= to the URI"
	case pkcs11.PINMissing:
		reason, advice = "the token wants a PIN", "set "+pinVariable+", or add pin-source=file:/PATH to the URI"
	case pkcs11.PINWrong:
		reason, advice = "the PIN is wrong", "correct it before you try again: tokens lock themselves after a few wrong PINs"
	case pkcs11.PINLocked:
		reason, advice = "the token is locked after too many wrong PINs", "unlock it with the security officer's PIN"
	case pkcs11.ObjectMissing:
		reason, advice = "the token has no such private key", have("private key in the token that can be seen")
	case pkcs11.ObjectAmbiguous:
		reason, advice = "several private keys fit: "+found, "add id= or object= to the URI"
	case pkcs11.KeyUnsuitable:
		reason = detail
	case pkcs11.PublicMissing:
		reason = "the token has no public key and no certificate that belongs to the private key"
		advice = "import the public key into the token, with the same id"
	case pkcs11.HelperEnded:
		reason = "the helper that loads PKCS #11 modules ended (" + detail + "); the module " + module + " may have crashed it"
	case pkcs11.HelperBroken:
		reason, advice = "the helper "+printable(t.helper)+" is not understood: "+detail, "install twinkeel and "+helperName+" of the same version"
	default:
		reason = "the PKCS #11 module " + module + " failed: " + detail
	}
	return t.fail(reason, advice, f)
}
