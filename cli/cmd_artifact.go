package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
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
		Short:   "Look at and check .mender files",
		GroupID: groupLook,
		Args:    onlyCommands,
		RunE:    helpRun,
	}
	c.AddCommand(a.artifactShowCommand(), a.artifactVerifyCommand())
	return c
}

func (a *app) artifactShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Show what an artifact is, from its header alone",
		Long: `Show what an artifact is: name, device types, what it provides and depends on, its files. Only the header is read, so
this takes no time however large the payload is; "-" reads stdin. Nothing is verified: use "artifact verify" for that.`,
		Args: exactArgs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return a.runArtifactShow(args[0]) },
	}
}

func (a *app) runArtifactShow(name string) error {
	f, err := a.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := artifactfmt.NewReader(f, artifactfmt.ReadOptions{})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return a.printInfo(r.Info())
}

type verifyOptions struct {
	keys     []string
	unsigned bool
	strict   bool
}

func (a *app) artifactVerifyCommand() *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify FILE --key PUBLIC-KEY",
		Short: "Check an artifact's signature and every checksum",
		Long: `Check that an artifact is whole and signed by a trusted key: its structure, the signature, and the checksum of every
part. Exits with 3 when it is not. With several keys, a signature by any of them is enough.`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runArtifactVerify(cmd.Context(), o, args[0]) },
	}
	c.Flags().StringArrayVarP(&o.keys, "key", "k", nil, "PEM `file` with trusted public keys (may be repeated)")
	c.Flags().BoolVar(&o.unsigned, "allow-unsigned", false, "check only the checksums")
	c.Flags().BoolVar(&o.strict, "strict", false, "also demand that every Mender reader accepts the artifact")
	return c
}

func (a *app) runArtifactVerify(ctx context.Context, o verifyOptions, name string) error {
	var options artifactfmt.ReadOptions
	switch {
	case len(o.keys) > 0:
		keyring, err := verify.LoadKeyring(o.keys)
		if err != nil {
			return err
		}
		options.Verifier = keyring
	case !o.unsigned:
		return usagef("name the trusted keys with --key, or say --allow-unsigned")
	}
	f, err := a.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	check := artifactfmt.Verify
	if o.strict {
		check = artifactfmt.Validate
	}
	info, err := check(ctx, f, options)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &exitError{exitVerify, fmt.Errorf("%s: %w", name, err)}
	}
	if a.global.json {
		return a.printInfo(info)
	}
	s := a.ui.out
	a.printf("%s %s", s.green("OK"), info.Name)
	if info.KeyID != "" {
		a.printf(", signed by key %s", info.KeyID[:16])
	} else {
		a.printf(", %s", s.yellow("signature not checked"))
	}
	a.printf("\n")
	for _, w := range info.Warnings {
		a.warnf("%s", printable(w))
	}
	return nil
}

// open opens a file, or stdin for "-".
func (a *app) open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(a.stdin), nil
	}
	return openFile(name)
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
	if a.global.json {
		return a.printJSON(info)
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

func pairs(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+" = "+v)
	}
	slices.Sort(out)
	return out
}
