package signing

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/signing/helper"
	"github.com/twinkeel/twinkeel/signing/pkcs11"
)

const (
	pinVariable    = "TWINKEEL_PKCS11_PIN"
	moduleVariable = "TWINKEEL_PKCS11_MODULE"
)

// tokenLimit leaves a person time to touch a token or to type on its keypad.
const tokenLimit = 2 * time.Minute

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
	client, err := t.start(ctx, o)
	if err != nil {
		return nil, err
	}
	public, err := t.open(ctx, client, pin, false)
	var f *helper.Failure
	if errors.As(err, &f) && f.Code == helper.PINMissing && o.PIN != nil {
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
	sign := func(ctx context.Context, digest [sha256.Size]byte) ([]byte, error) {
		answer, err := client.Do(ctx, helper.Request{Op: helper.OpSign, Digest: digest[:]}, tokenLimit)
		if err != nil {
			return nil, t.explain(err, o)
		}
		return answer.Signature, nil
	}
	return &helperSigner{digestSigner: digestSigner{external: e, sign: sign}, client: client}, nil
}

// publicPKCS11 asks for the public object, which most tokens show to everyone, and logs in only when there is none.
func publicPKCS11(ctx context.Context, ref string, o Options) (crypto.PublicKey, error) {
	t, err := parseToken(ref, o)
	if err != nil {
		return nil, err
	}
	client, err := t.start(ctx, o)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	public, err := t.open(ctx, client, nil, true)
	var f *helper.Failure
	switch {
	case err == nil:
		e, err := newExternal(t.name(), public)
		return e.key.Public, err
	case !errors.As(err, &f) || (f.Code != helper.ObjectMissing && f.Code != helper.PublicMissing && f.Code != helper.PINMissing):
		return nil, t.explain(err, o)
	}
	s, err := openPKCS11(ctx, ref, o)
	if err != nil {
		return nil, err
	}
	defer Close(s)
	return s.Public(), nil
}

// token is a key in a token, as its URI names it.
type token struct {
	uri    *pkcs11.URI
	module string
	helper string // the path of the program that was started
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
	return t, nil
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

func (t *token) start(ctx context.Context, o Options) (client *helper.Client, err error) {
	client, t.helper, err = tokenHelper.start(ctx, t.name(), o, map[string]string{pinVariable: ""})
	return client, err
}

func (t *token) open(ctx context.Context, client *helper.Client, pin []byte, publicOnly bool) (crypto.PublicKey, error) {
	u := t.uri
	answer, err := client.Do(ctx, helper.Request{
		Op: helper.OpOpen, Module: t.module, Token: u.Token, Serial: u.Serial, Manufacturer: u.Manufacturer, Model: u.Model,
		SlotID: u.SlotID, Object: u.Object, ID: u.ID, PIN: pin, PublicOnly: publicOnly,
	}, tokenLimit)
	if err != nil {
		return nil, err
	}
	return publicOf(answer)
}

// explain turns what the helper says into an error for people.
func (t *token) explain(err error, o Options, pin ...[]byte) error {
	var f *helper.Failure
	if !errors.As(err, &f) {
		return err
	}
	if f.Code == helper.TimedOut {
		return t.fail(fmt.Sprintf("the token gave no answer within %s", tokenLimit), "", context.DeadlineExceeded)
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
	reason, advice, ofHelper := tokenHelper.explain(f, t.helper, detail)
	switch f.Code {
	case helper.ModuleMissing:
		reason, advice = "the PKCS #11 module "+module+" does not exist", "install the token's software, or correct module-path"
	case helper.ModuleUnusable:
		reason, advice = "the PKCS #11 module "+module+" cannot be used: "+detail, "see whether pkcs11-tool --module "+module+" -L can"
	case helper.TokenMissing:
		reason, advice = "no token fits", have("token at all; plug it in, or check the module's configuration")
	case helper.TokenAmbiguous:
		reason, advice = "several tokens fit: "+found, "add token=, serial= or slot-id= to the URI"
	case helper.PINMissing:
		reason, advice = "the token wants a PIN", "set "+pinVariable+", or add pin-source=file:/PATH to the URI"
	case helper.PINWrong:
		reason, advice = "the PIN is wrong", "correct it before you try again: tokens lock themselves after a few wrong PINs"
	case helper.PINLocked:
		reason, advice = "the token is locked after too many wrong PINs", "unlock it with the security officer's PIN"
	case helper.ObjectMissing:
		reason, advice = "the token has no such private key", have("private key in the token that can be seen")
	case helper.ObjectAmbiguous:
		reason, advice = "several private keys fit: "+found, "add id= or object= to the URI"
	case helper.KeyUnsuitable:
		reason = detail
	case helper.PublicMissing:
		reason = "the token has no public key and no certificate that belongs to the private key"
		advice = "import the public key into the token, with the same id"
	case helper.HelperEnded:
		reason += "; the module " + module + " may have crashed it"
	default:
		if !ofHelper {
			reason = "the PKCS #11 module " + module + " failed: " + detail
		}
	}
	return t.fail(reason, advice, f)
}
