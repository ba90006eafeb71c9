package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/signing/verify"
)

func (a *app) artifactCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "artifact",
		Short:   "Write, check, sign, change and look into .mender files",
		GroupID: groupLook,
		Args:    onlyCommands,
		RunE:    helpRun,
	}
	c.AddCommand(a.artifactWriteCommand(), a.artifactShowCommand(), a.artifactVerifyCommand(), a.artifactSignCommand(),
		a.artifactAttachCommand(), a.artifactModifyCommand(), a.artifactConvertCommand(), a.artifactExtractCommand(),
		a.artifactLsCommand(), a.artifactCatCommand(), a.artifactDiffCommand(), a.artifactAttestCommand())
	return c
}

func (a *app) artifactShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Show what an artifact is, from its header alone",
		Long: `Show what an artifact is: name, device types, what it provides and depends on, its files. Only the header is read, so
this takes no time however large the payload is. FILE may also be an http:// or https:// address, of which only the
beginning is fetched, or "-" for stdin. Nothing is verified: use "artifact verify" for that.`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runArtifactShow(cmd.Context(), args[0]) },
	}
}

func (a *app) runArtifactShow(ctx context.Context, name string) error {
	info, err := a.readInfo(ctx, name)
	if err != nil {
		return err
	}
	return a.printInfo(info)
}

type verifyOptions struct {
	keys        []string
	unsigned    bool
	strict      bool
	require     string
	signatures  []string
	attestation string
}

func (a *app) artifactVerifyCommand() *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify FILE --key PUBLIC-KEY",
		Short: "Check an artifact's signature and every checksum",
		Long: `Check that an artifact is whole and signed by a trusted key: its structure, the signature, and the checksum of every
part. Exits with 3 when it is not.

With several keys a signature by any of them is enough. With "--require all" each key must have signed: the artifact
holds one signature, and --signature names files with others, as "artifact sign --detached" writes them.

With --attestation the statement of provenance beside the artifact is checked, too: that the artifact names it, that a
trusted key signed it, and that it is about this payload.`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runArtifactVerify(cmd.Context(), o, args[0]) },
	}
	f := c.Flags()
	f.StringArrayVarP(&o.keys, "key", "k", nil, "PEM `file` with trusted public keys (may be repeated)")
	f.BoolVar(&o.unsigned, "allow-unsigned", false, "check only the checksums")
	f.BoolVar(&o.strict, "strict", false, "also demand that every Mender reader accepts the artifact")
	f.StringVar(&o.require, "require", "any", "whose signature is needed: any of the keys, or all")
	f.StringArrayVar(&o.signatures, "signature", nil, "`file` with a further signature (may be repeated)")
	f.StringVar(&o.attestation, "attestation", "", "check the statement of provenance in this `file`; \"auto\" is the one beside the artifact")
	return c
}

// verified is what `artifact verify --json` prints.
type verified struct {
	*artifactfmt.Info
	KeyIDs      []string `json:"key_ids,omitempty"`     // of all keys that signed the artifact
	Attestation []string `json:"attestation,omitempty"` // ids of the keys that signed the statement of provenance
	SBOM        string   `json:"sbom,omitempty"`        // the bill of materials that was checked
}

func (a *app) runArtifactVerify(ctx context.Context, o verifyOptions, name string) error {
	v, err := a.verifier(ctx, o)
	if err != nil {
		return err
	}
	options := artifactfmt.ReadOptions{Legacy: !o.strict}
	if v != nil {
		options.Verifier = v
	}
	in, err := a.openAny(ctx, name)
	if err != nil {
		return err
	}
	defer in.Close()
	check := artifactfmt.Verify
	if o.strict {
		check = artifactfmt.Validate
	}
	var result verified
	err = a.working(ctx, name, "verifying", func(report func(done, total int64)) error {
		result.Info, err = check(ctx, &countingReader{r: in, total: in.size, report: report}, options)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &exitError{exitVerify, fmt.Errorf("%s: %w", shown(name), err)}
	}
	if v != nil {
		result.KeyIDs = v.ids
	}
	if o.attestation != "" {
		if err := a.verifyAttestation(ctx, &result, o, v, name); err != nil {
			return &exitError{exitVerify, err}
		}
	}
	if done, err := a.asJSON(result); done {
		return err
	}
	a.printVerified(result)
	return nil
}

func (a *app) printVerified(v verified) {
	s := a.ui.out
	a.printf("%s %s", s.green("OK"), printable(v.Name))
	for i, id := range v.KeyIDs {
		if i == 0 {
			a.printf(", signed by key %s", id[:16])
		} else {
			a.printf(" and %s", id[:16])
		}
	}
	if len(v.KeyIDs) == 0 {
		a.printf(", %s", s.yellow("signature not checked"))
	}
	a.printf("\n")
	for _, id := range v.Attestation {
		a.printf("%s provenance, signed by key %s\n", s.green("OK"), id[:16])
	}
	if v.SBOM != "" {
		a.printf("%s bill of materials %s\n", s.green("OK"), printable(v.SBOM))
	}
	for _, w := range v.Warnings {
		a.warnf("%s", printable(w))
	}
}

// policyVerifier checks the artifact's signature, and those in files, against the trusted keys.
type policyVerifier struct {
	keyring *verify.Keyring
	policy  verify.Policy
	others  [][]byte

	ids []string // of the keys that signed
}

// Verify checks all signatures over the manifest. It is called with the one in the artifact.
func (v *policyVerifier) Verify(manifest, signature []byte) (string, error) {
	ids, err := v.keyring.VerifyAll(manifest, append([][]byte{signature}, v.others...), v.policy)
	if err != nil {
		return "", err
	}
	v.ids = ids
	return ids[0], nil
}

// verifier makes what the flags want; nil without keys.
func (a *app) verifier(ctx context.Context, o verifyOptions) (*policyVerifier, error) {
	policy := verify.Policy(o.require)
	switch {
	case policy != verify.Any && policy != verify.All:
		return nil, usagef("--require takes any or all, not %q", o.require)
	case len(o.keys) == 0 && !o.unsigned:
		return nil, usagef("name the trusted keys with --key, or say --allow-unsigned")
	case len(o.keys) > 0 && o.unsigned:
		return nil, usagef("--key and --allow-unsigned contradict each other")
	case len(o.keys) == 0 && (len(o.signatures) > 0 || o.attestation != ""):
		return nil, usagef("--signature and --attestation need the trusted keys: name them with --key")
	case len(o.keys) == 0:
		return nil, nil
	}
	keyring, err := verify.LoadKeyring(o.keys)
	if err != nil {
		return nil, err
	}
	v := &policyVerifier{keyring: keyring, policy: policy}
	for _, name := range o.signatures {
		signature, err := a.readSignature(ctx, name, keyring)
		if err != nil {
			return nil, err
		}
		v.others = append(v.others, signature)
	}
	return v, nil
}

// openFile opens a file that a person named, and says it if it is a directory: reading one fails in odd ways.
func openFile(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, withoutOperation(err)
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, fmt.Errorf("%s: it is a directory", name)
	}
	return f, nil
}

// withoutOperation takes the system call's name off an error about a file.
func withoutOperation(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	}
	return err
}

func (a *app) printInfo(info *artifactfmt.Info) error {
	if done, err := a.asJSON(info); done {
		return err
	}
	t := table{}
	t.add("name", info.Name)
	if info.Group != "" {
		t.add("group", info.Group)
	}
	t.add("device types", strings.Join(info.DeviceTypes, ", "))
	kind := info.PayloadType
	if kind == "" {
		kind = "none (bootstrap artifact)"
	}
	t.add("payload type", kind)
	signed := "no"
	if info.Signed {
		signed = "yes"
	}
	t.add("signed", signed)
	for _, list := range []struct {
		name   string
		values []string
	}{
		{"depends on artifact", info.DependsNames},
		{"depends on group", info.DependsGroups},
		{"depends", pairs(info.Depends)},
		{"provides", pairs(info.Provides)},
		{"clears", info.ClearsProvides},
	} {
		for i, v := range list.values {
			name := list.name
			if i > 0 {
				name = ""
			}
			t.add(name, v)
		}
	}
	if len(info.MetaData) > 0 {
		t.add("meta-data", compactJSON(info.MetaData))
	}
	for _, s := range info.Scripts {
		t.add("script", s.Name)
	}
	for _, f := range info.Files {
		text := f.Name
		if f.Size >= 0 {
			text += ", " + size(f.Size)
		}
		t.add("file", text)
		t.add("", "sha256 "+f.SHA256)
	}
	if info.Compression != "" {
		t.add("compression", string(info.Compression))
	}
	t.print(a.stdout)
	for _, w := range info.Warnings {
		a.warnf("%s", printable(w))
	}
	return nil
}

func compactJSON(text json.RawMessage) string {
	var compact bytes.Buffer
	if json.Compact(&compact, text) != nil {
		return string(text)
	}
	return compact.String()
}

func pairs(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+" = "+v)
	}
	slices.Sort(out)
	return out
}
