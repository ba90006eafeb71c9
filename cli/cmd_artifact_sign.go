package cli

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/signing"
	"github.com/twinkeel/twinkeel/signing/verify"
)

type signOptions struct {
	signer       signerOptions
	output       string
	force        bool
	digestOnly   bool
	manifestOnly bool
	digest       string
	detached     string
}

func (a *app) artifactSignCommand() *cobra.Command {
	var o signOptions
	c := &cobra.Command{
		Use:   "sign FILE --key KEY",
		Short: "Sign an artifact, or sign it anew",
		Long: `Sign an artifact: nothing but the signature changes, and the payload is neither unpacked nor packed. FILE is replaced
unless --output says otherwise.

Where the key is on another machine, three steps do:
  twinkeel artifact sign --digest-only FILE               here: prints the digest of what is to be signed
  twinkeel artifact sign --digest DIGEST --key KEY        there: prints the signature
  twinkeel artifact attach FILE --signature SIGNATURE --key PUBLIC-KEY
--manifest-only prints the bytes themselves, for tools that hash on their own, such as openssl dgst -sha256 -sign.

` + keyRefHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.digest != "" {
				return exactArgs()(cmd, args)
			}
			return exactArgs("FILE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.runArtifactSign(cmd.Context(), o, args) },
	}
	f := c.Flags()
	f.StringVarP(&o.output, "output", "o", "", outputUsage)
	f.BoolVarP(&o.force, "force", "f", false, "replace a signature that is there")
	f.BoolVar(&o.digestOnly, "digest-only", false, "print the SHA-256 of what is to be signed, and sign nothing")
	f.BoolVar(&o.manifestOnly, "manifest-only", false, "write what is to be signed to stdout, and sign nothing")
	f.Var((*notEmpty)(&o.digest), "digest", "sign this `digest`, of --digest-only, and print the signature")
	f.Var((*notEmpty)(&o.detached), "detached", "write the signature to this `file` and leave the artifact alone")
	o.signer.addFlags(c)
	return c
}

func (a *app) runArtifactSign(ctx context.Context, o signOptions, args []string) error {
	if err := o.check(args); err != nil {
		return err
	}
	if o.digestOnly || o.manifestOnly {
		if o.signer.given() {
			return usagef("--digest-only and --manifest-only sign nothing, so they take no key")
		}
		return a.printDigest(args[0], o.manifestOnly)
	}
	if !o.signer.given() {
		return usagef("name the key with --key")
	}
	signer, err := a.signer(ctx, o.signer)
	if err != nil {
		return err
	}
	if o.digest != "" {
		return a.signDigest(ctx, signer, o.digest)
	}
	if o.detached != "" {
		return a.signDetached(ctx, signer, args[0], o.detached)
	}
	info, err := a.resign(ctx, args[0], o.output, o.force, signer.Sign)
	if err != nil {
		return err
	}
	info.KeyID = signer.KeyID()
	return a.printWritten(written(args[0], o.output), info)
}

// check refuses flags of which one would be ignored, and outputs that would replace what is read.
func (o *signOptions) check(args []string) error {
	var instead []string // of signing the artifact
	for _, f := range []struct {
		name  string
		given bool
	}{
		{"--digest-only", o.digestOnly}, {"--manifest-only", o.manifestOnly}, {"--digest", o.digest != ""}, {"--detached", o.detached != ""},
	} {
		if f.given {
			instead = append(instead, f.name)
		}
	}
	switch {
	case len(instead) > 1:
		return usagef("%s do not go together", strings.Join(instead, " and "))
	case len(instead) == 1 && o.output != "":
		return usagef("%s does not write the artifact, so --output does not go with it", instead[0])
	}
	if err := notOver("--detached", o.detached, append(args, o.signer.key, o.signer.public)...); err != nil {
		return err
	}
	return notOver("--output", o.output, o.signer.key, o.signer.public)
}

func written(from, to string) string {
	if to == "" {
		return from
	}
	return to
}

var errSigned = errors.New("it is signed already")

// resign replaces the signature of the artifact in a file.
func (a *app) resign(ctx context.Context, from, to string, force bool, sign func(ctx context.Context, manifest []byte) ([]byte, error)) (*artifactfmt.Info, error) {
	if err := checkRegular(from); err != nil {
		return nil, err
	}
	if !force {
		signed, err := readManifest(from)
		if err != nil {
			return nil, err
		}
		if len(signed.Signature) > 0 {
			return nil, &hintedError{fmt.Sprintf("%s: %v", from, errSigned), "--force replaces its signature"}
		}
	}
	return a.edit(ctx, from, to, func(out io.Writer, in *os.File) (*artifactfmt.Info, error) {
		return artifactfmt.Resign(ctx, out, in, artifactfmt.ReadOptions{Legacy: true}, sign)
	})
}

func readManifest(name string) (*artifactfmt.Signed, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	signed, err := artifactfmt.ReadManifest(f, artifactfmt.ReadOptions{Legacy: true})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return signed, nil
}

func (a *app) printDigest(name string, whole bool) error {
	signed, err := readManifest(name)
	if err != nil {
		return err
	}
	if whole {
		_, err := a.stdout.target.Write(signed.Manifest)
		return err
	}
	sum := sha256.Sum256(signed.Manifest)
	digest := hex.EncodeToString(sum[:])
	if done, err := a.asJSON(map[string]string{"artifact": signed.Info.Name, "algorithm": "sha256", "digest": digest}); done {
		return err
	}
	a.printf("%s\n", digest)
	return nil
}

func (a *app) signDigest(ctx context.Context, signer signing.Signer, text string) error {
	raw, err := hex.DecodeString(strings.TrimPrefix(text, "sha256:"))
	if err != nil || len(raw) != sha256.Size {
		return usagef("--digest takes the 64 hexadecimal digits that --digest-only printed")
	}
	s, ok := signer.(signing.DigestSigner)
	if !ok {
		return &hintedError{"this kind of key signs whole messages, not digests", "sign the output of --manifest-only with it"}
	}
	signature, err := s.SignDigest(ctx, [sha256.Size]byte(raw))
	if err != nil {
		return err
	}
	return a.printSignature(signer, signature)
}

func (a *app) printSignature(signer signing.Signer, signature []byte) error {
	text := base64.StdEncoding.EncodeToString(signature)
	if done, err := a.asJSON(map[string]string{"key_id": signer.KeyID(), "signature": text}); done {
		return err
	}
	a.printf("%s\n", text)
	return nil
}

func (a *app) signDetached(ctx context.Context, signer signing.Signer, name, to string) error {
	signed, err := readManifest(name)
	if err != nil {
		return err
	}
	signature, err := signer.Sign(ctx, signed.Manifest)
	if err != nil {
		return err
	}
	if to == "-" {
		return a.printSignature(signer, signature)
	}
	err = write(to, func(f *durable.File) error {
		_, err := fmt.Fprintln(f, base64.StdEncoding.EncodeToString(signature))
		return err
	})
	if err != nil {
		return err
	}
	if done, err := a.asJSON(map[string]string{"key_id": signer.KeyID(), "path": to}); done {
		return err
	}
	a.printf("%s: signature by key %s\n", to, signer.KeyID()[:16])
	return nil
}

type attachOptions struct {
	signature, key, output string
	force                  bool
}

func (a *app) artifactAttachCommand() *cobra.Command {
	var o attachOptions
	c := &cobra.Command{
		Use:   "attach FILE --signature SIGNATURE --key PUBLIC-KEY",
		Short: "Put a signature that was made elsewhere into an artifact",
		Long: `Put a signature into an artifact: one of "artifact sign --digest" or --detached, of openssl, or of a hardware module. It
may be base64 text or bytes, ECDSA signatures in either form. Only a signature that the public key verifies is taken.`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runArtifactAttach(cmd.Context(), o, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.signature, "signature", "", "`file` with the signature; \"-\" is stdin")
	f.StringVarP(&o.key, "key", "k", "", "PEM `file` with the public key")
	f.StringVarP(&o.output, "output", "o", "", outputUsage)
	f.BoolVarP(&o.force, "force", "f", false, "replace a signature that is there")
	return c
}

func (a *app) runArtifactAttach(ctx context.Context, o attachOptions, name string) error {
	if o.signature == "" || o.key == "" {
		return usagef("name the signature with --signature and the public key with --key")
	}
	if err := notOver("--output", o.output, o.signature, o.key); err != nil {
		return err
	}
	keyring, err := verify.LoadKeyring([]string{o.key})
	if err != nil {
		return err
	}
	signature, err := a.readSignature(ctx, o.signature, keyring)
	if err != nil {
		return err
	}
	signed, err := readManifest(name)
	if err != nil {
		return err
	}
	id, err := keyring.Verify(signed.Manifest, signature)
	if err != nil {
		return &exitError{exitVerify, &hintedError{
			fmt.Sprintf("%s: the signature in %s is not by that key, or is for another artifact", name, o.signature),
			"the digest to sign is printed by: twinkeel artifact sign --digest-only " + name,
		}}
	}
	info, err := a.resign(ctx, name, o.output, o.force, func(context.Context, []byte) ([]byte, error) { return signature, nil })
	if err != nil {
		return err
	}
	info.KeyID = id
	return a.printWritten(written(name, o.output), info)
}

const maxSignature = 16 << 10

// readSignature reads a signature for one of the keys and brings it into Mender's form.
func (a *app) readSignature(ctx context.Context, name string, keyring *verify.Keyring) ([]byte, error) {
	f, err := a.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSignature+1))
	if err != nil {
		return nil, withoutOperation(err)
	}
	if len(data) > maxSignature {
		return nil, fmt.Errorf("%s: it is larger than any signature", name)
	}
	raw, err := signing.ParseSignature(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, key := range keyring.Keys() {
		if normal, err := signing.Normalize(key.Public, raw); err == nil {
			return normal, nil
		}
	}
	return nil, fmt.Errorf("%s: it has the size of no signature by the trusted keys", name)
}
