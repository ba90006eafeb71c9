package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/signing"
)

const (
	keyRefHelp = `A key is the path of a PEM file, awskms://, gcpkms://, azurekms:// or hashivault:// with the key's place there, a
pkcs11: URI, or ssh-agent:FINGERPRINT. The passphrase of an encrypted file is asked for, or taken from
TWINKEEL_KEY_PASSPHRASE. For everything else --key-command runs a program, without a shell, that reads the message on
stdin and writes its signature to stdout; --public-key says which key it has.`
	passphraseVariable = "TWINKEEL_KEY_PASSPHRASE"
	pinVariable        = "TWINKEEL_PKCS11_PIN"
)

// signerOptions name the key that signs.
type signerOptions struct {
	key, command, public string
}

func (o *signerOptions) addFlags(c *cobra.Command) {
	c.Flags().VarP((*notEmpty)(&o.key), "key", "k", "private `key` to sign with: a PEM file, or where else it is (see above)")
	c.Flags().Var((*notEmpty)(&o.command), "key-command", "`program` and arguments that sign, in the place of --key")
	c.Flags().Var((*notEmpty)(&o.public), "public-key", "PEM `file` with the public key of --key-command")
}

func (o *signerOptions) given() bool { return o.key != "" || o.command != "" }

// signer opens the key that the options name; nil when they name none.
func (a *app) signer(ctx context.Context, o signerOptions) (signing.Signer, error) {
	switch {
	case o.key != "" && o.command != "":
		return nil, usagef("--key and --key-command are two ways to sign; use one")
	case o.command != "" && o.public == "":
		return nil, usagef("--key-command needs --public-key, to check what the program signs")
	case o.public != "" && o.command == "":
		return nil, usagef("--public-key goes with --key-command")
	case strings.ContainsAny(o.command, "'\""):
		return nil, usagef("--key-command is divided at blanks, without a shell: quotes have no meaning; put the command into a script")
	case o.command != "":
		public, err := signing.LoadPublic(ctx, o.public, signing.Options{})
		if err != nil {
			return nil, err
		}
		return signing.OpenCommand("", strings.Fields(o.command), public)
	case o.key == "":
		return nil, nil
	}
	return signing.Open(ctx, o.key, a.keyOptions(ctx, o.key))
}

// keyOptions say where secrets come from: the environment, or whoever sits at the terminal.
func (a *app) keyOptions(ctx context.Context, key string) signing.Options {
	return signing.Options{
		Passphrase: func() ([]byte, error) { return a.secret(ctx, "Passphrase of "+key, passphraseVariable) },
		PIN:        func() ([]byte, error) { return a.secret(ctx, "PIN of "+key, pinVariable) },
		Getenv:     a.getenv,
	}
}

// secret comes from the environment, or from whoever sits at the terminal.
func (a *app) secret(ctx context.Context, what, variable string) ([]byte, error) {
	if text := a.getenv(variable); text != "" {
		return []byte(text), nil
	}
	tty, ok := a.terminal()
	if !ok || !a.ui.interactive {
		return nil, fmt.Errorf("nobody can be asked; set %s", variable)
	}
	fmt.Fprintf(a.stderr, "%s: ", printable(what))
	text, err := readHidden(ctx, tty)
	fmt.Fprintln(a.stderr)
	return []byte(text), err
}
