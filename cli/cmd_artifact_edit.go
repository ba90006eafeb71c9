package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/durable"
)

type modifyOptions struct {
	header                                                             headerOptions
	signer                                                             signerOptions
	output                                                             string
	removeProvides, removeDepends, removeClears, removeScripts         []string
	noGroup, noDependsNames, noDependsGroups, noMetaData, dropUnsigned bool
}

func (a *app) artifactModifyCommand() *cobra.Command {
	var o modifyOptions
	c := &cobra.Command{
		Use:   "modify FILE [--name NAME] [--provides KEY=VALUE] … --key KEY",
		Short: "Change an artifact's header without touching its payload",
		Long: `Change what an artifact says about itself: name, device types, provides, depends, state scripts, meta-data. The payload
is copied as it is, so this takes no longer than copying the file. FILE is replaced unless --output says otherwise.

With the name, provided versions that repeat it change too. A signed artifact must be signed anew: give --key, or
--unsigned to go without.

` + keyRefHelp,
		Args:    exactArgs("FILE"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runArtifactModify(cmd.Context(), o, args[0]) },
		Example: `  twinkeel artifact modify os.mender --name os-2.1.1 --provides channel=beta --key release.key -o os-beta.mender`,
	}
	o.header.addFlags(c)
	f := c.Flags()
	f.StringVarP(&o.output, "output", "o", "", outputUsage)
	f.StringArrayVar(&o.removeProvides, "remove-provides", nil, "provided `key` to leave out (may be repeated)")
	f.StringArrayVar(&o.removeDepends, "remove-depends", nil, "`key` to no longer depend on (may be repeated)")
	f.StringArrayVar(&o.removeClears, "remove-clears-provides", nil, "`pattern` to leave out (may be repeated)")
	f.StringArrayVar(&o.removeScripts, "remove-script", nil, "`name` of a state script to leave out (may be repeated)")
	f.BoolVar(&o.noGroup, "no-group", false, "leave out the artifact group")
	f.BoolVar(&o.noDependsNames, "no-depends-name", false, "depend on no release")
	f.BoolVar(&o.noDependsGroups, "no-depends-group", false, "depend on no group")
	f.BoolVar(&o.noMetaData, "no-meta-data", false, "leave out the meta-data")
	f.BoolVar(&o.dropUnsigned, "unsigned", false, "leave out the signature")
	o.signer.addFlags(c)
	return c
}

func (a *app) runArtifactModify(ctx context.Context, o modifyOptions, name string) error {
	if o.dropUnsigned && o.signer.given() {
		return usagef("--unsigned and a key to sign with contradict each other")
	}
	if err := notOver("--output", o.output, append(o.header.scripts, o.header.metaData, o.signer.key, o.signer.public)...); err != nil {
		return err
	}
	if err := checkRegular(name); err != nil {
		return err
	}
	signed, err := readManifest(name)
	if err != nil {
		return err
	}
	if signed.Info.Signed && !o.signer.given() && !o.dropUnsigned {
		return &hintedError{
			fmt.Sprintf("%s: it is signed, and its signature will not fit what changes", name),
			"sign it anew with --key, or say --unsigned",
		}
	}
	signer, err := a.signer(ctx, o.signer)
	if err != nil {
		return err
	}
	info, err := a.edit(ctx, name, o.output, func(out io.Writer, in *os.File) (*artifactfmt.Info, error) {
		return artifactfmt.Rewrite(ctx, out, in, artifactfmt.ReadOptions{}, func(spec *artifactfmt.Artifact) error {
			if signer != nil {
				spec.Signer = signer
			}
			return o.change(spec)
		})
	})
	if err != nil {
		return err
	}
	return a.printWritten(written(name, o.output), info)
}

// change applies the flags to an artifact.
func (o *modifyOptions) change(spec *artifactfmt.Artifact) error {
	if o.header.name != "" {
		artifactfmt.Rename(spec, o.header.name)
	}
	for _, r := range []struct {
		flag string
		keys []string
		from map[string]string
	}{
		{"--remove-provides", o.removeProvides, spec.Provides},
		{"--remove-depends", o.removeDepends, spec.Depends},
	} {
		for _, key := range r.keys {
			if _, there := r.from[key]; !there {
				return notThere(r.flag, key, slices.Sorted(maps.Keys(r.from)))
			}
			delete(r.from, key)
		}
	}
	for _, p := range o.removeClears {
		i := slices.Index(spec.ClearsProvides, p)
		if i < 0 {
			return notThere("--remove-clears-provides", p, spec.ClearsProvides)
		}
		spec.ClearsProvides = slices.Delete(slices.Clone(spec.ClearsProvides), i, i+1)
	}
	for _, name := range o.removeScripts {
		i := slices.IndexFunc(spec.Scripts, func(s artifactfmt.Script) bool { return s.Name == name })
		if i < 0 {
			var names []string
			for _, s := range spec.Scripts {
				names = append(names, s.Name)
			}
			return notThere("--remove-script", name, names)
		}
		spec.Scripts = slices.Delete(slices.Clone(spec.Scripts), i, i+1)
	}
	if o.noGroup {
		spec.Group = ""
	}
	if o.noDependsNames {
		spec.DependsNames = nil
	}
	if o.noDependsGroups {
		spec.DependsGroups = nil
	}
	if o.noMetaData {
		spec.MetaData = nil
	}
	if o.header.metaData != "" {
		data, err := readJSONFile(o.header.metaData)
		if err != nil {
			return err
		}
		spec.MetaData = data
	}
	return o.header.apply(spec)
}

func notThere(flag, value string, there []string) error {
	if len(there) == 0 {
		return usagef("%s %q: the artifact has none", flag, value)
	}
	return usagef("%s %q: the artifact does not have it; it has %s", flag, value, strings.Join(there, ", "))
}

type convertOptions struct {
	compression, output string
}

func (a *app) artifactConvertCommand() *cobra.Command {
	var o convertOptions
	c := &cobra.Command{
		Use:   "convert FILE --compression COMPRESSION",
		Short: "Compress an artifact's payload in another way",
		Long: `Compress an artifact's payload in another way. What was signed stays the same, so the signature stays valid. Every
checksum is checked on the way. FILE is replaced unless --output says otherwise.`,
		Args:    exactArgs("FILE"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runArtifactConvert(cmd.Context(), o, args[0]) },
		Example: `  twinkeel artifact convert os.mender --compression zstd:19 --output os.zst.mender`,
	}
	addCompressionFlag(c.Flags(), &o.compression)
	c.Flags().StringVarP(&o.output, "output", "o", "", outputUsage)
	return c
}

func (a *app) runArtifactConvert(ctx context.Context, o convertOptions, name string) error {
	if o.compression == "" {
		return usagef("--compression is missing: which one shall it be?")
	}
	compression, level, err := parseCompression(o.compression, nil)
	if err != nil {
		return err
	}
	to := written(name, o.output)
	if to == "-" {
		return usagef("convert writes the sizes of what it made last, so it needs a file as --output, not stdout")
	}
	if err := checkRegular(name); err != nil {
		return err
	}
	in, err := openFile(name)
	if err != nil {
		return err
	}
	defer in.Close()
	var info *artifactfmt.Info
	err = a.working(ctx, to, "converting", func(report func(done, total int64)) error {
		return write(to, func(f *durable.File) error {
			info, err = artifactfmt.Convert(ctx, f, in, artifactfmt.ReadOptions{},
				artifactfmt.ConvertOptions{Compression: compression, Level: level, Progress: report})
			return err
		})
	})
	if err != nil {
		return err
	}
	return a.printWritten(to, info)
}
