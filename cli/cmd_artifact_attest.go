package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/artifactfmt/sbom"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/internal/version"
	"github.com/twinkeel/twinkeel/signing/attest"
)

type attestOptions struct {
	signer  signerOptions
	output  string
	sbom    string
	builder string
	inputs  []string
}

func (a *app) artifactAttestCommand() *cobra.Command {
	var o attestOptions
	c := &cobra.Command{
		Use:   "attest FILE --key KEY",
		Short: "Put a signed statement of provenance, and a bill of materials, beside an artifact",
		Long: `Write beside the artifact a statement of its provenance (in-toto, SLSA v1, in a DSSE envelope), signed with the same
key, as FILE.intoto.json; with --sbom also a bill of materials. The artifact then provides the checksums of both and is
signed anew, so that who trusts the artifact can trust them. Check all of it with
"artifact verify FILE --key PUBLIC-KEY --attestation auto".

` + keyRefHelp,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runArtifactAttest(cmd.Context(), o, args[0]) },
	}
	f := c.Flags()
	f.StringVarP(&o.output, "output", "o", "", outputUsage)
	f.StringVar(&o.sbom, "sbom", "", "SPDX or CycloneDX document, or Yocto package manifest (`file`)")
	f.StringVar(&o.builder, "builder", "", "`URI` of who builds")
	f.StringArrayVar(&o.inputs, "input", nil, "`file` that the artifact was made of (may be repeated)")
	o.signer.addFlags(c)
	return c
}

func (a *app) runArtifactAttest(ctx context.Context, o attestOptions, name string) (err error) {
	if o.output == "-" {
		return usagef("attest writes files beside the artifact, so it needs a file as --output, not stdout")
	}
	if err := notOver("--output", o.output, append(o.inputs, o.sbom, o.signer.key, o.signer.public)...); err != nil {
		return err
	}
	signer, err := a.signer(ctx, o.signer)
	if err != nil {
		return err
	}
	if signer == nil {
		return usagef("name the key with --key: a statement that nobody signed proves nothing")
	}
	if err := checkRegular(name); err != nil {
		return err
	}
	manifest, err := readManifest(name)
	if err != nil {
		return err
	}
	to, info := written(name, o.output), manifest.Info
	prefix := softwareKey(info)
	if prefix == "" {
		return fmt.Errorf("%s: it has no payload that a statement could be about", name)
	}
	provides := map[string]string{}
	build, err := attestedBuild(ctx, o, info)
	if err != nil {
		return err
	}
	files := payloadSums(info)
	written := []string{attest.SidecarName(to)}
	fresh := absent(append(sbom.SidecarNames(to), written[0])...)
	defer func() {
		if err != nil { // the artifact does not name them
			for _, path := range fresh {
				os.Remove(path)
			}
		}
	}()
	if o.sbom != "" {
		epoch, err := a.epoch()
		if err != nil {
			return err
		}
		path, _, sum, err := sbom.WriteSidecar(ctx, to, o.sbom, sbom.Facts{Artifact: info.Name, Files: files, Tool: version.Version, Epoch: epoch})
		if err != nil {
			return err
		}
		provides[sbom.ProvidesKey(prefix)] = sum
		build.Byproducts = append(build.Byproducts, attest.File(filepath.Base(path), sum))
		written = append(written, path)
	}
	envelope, err := attest.Sign(ctx, attest.New(build, files), signer)
	if err != nil {
		return err
	}
	provides[attest.ProvidesKey(prefix)] = attest.Digest(envelope)
	result, err := a.edit(ctx, name, to, func(out io.Writer, in *os.File) (*artifactfmt.Info, error) {
		info, err := artifactfmt.Rewrite(ctx, out, in, artifactfmt.ReadOptions{}, func(spec *artifactfmt.Artifact) error {
			if spec.Provides == nil {
				spec.Provides = map[string]string{}
			}
			for k, v := range provides {
				spec.Provides[k] = v
			}
			spec.Signer = signer
			return nil
		})
		if err != nil {
			return nil, err
		}
		// Last of all, so that a statement that is there already goes on fitting the artifact when something fails.
		return info, durable.WriteFile(written[0], envelope, 0o644)
	})
	if err != nil {
		return err
	}
	if !a.global.json {
		for _, path := range written {
			a.printf("%s\n", path)
		}
	}
	return a.printWritten(to, result)
}

// absent are the files that do not exist.
func absent(paths ...string) []string {
	return slices.DeleteFunc(paths, func(path string) bool {
		_, err := os.Lstat(path)
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// attestedBuild says what is known of how the artifact was made.
func attestedBuild(ctx context.Context, o attestOptions, info *artifactfmt.Info) (attest.Build, error) {
	b := attest.Build{
		Builder: o.builder, Version: version.Version,
		Parameters: map[string]any{
			"artifact_name": info.Name, "device_types": info.DeviceTypes, "payload_type": info.PayloadType,
		},
	}
	for _, path := range o.inputs {
		sum, err := sumInside(ctx, os.DirFS(filepath.Dir(path)), filepath.Base(path))
		if err != nil {
			var e *fs.PathError
			if errors.As(err, &e) {
				err = e.Err
			}
			return b, fmt.Errorf("%s: %w", path, err)
		}
		b.Inputs = append(b.Inputs, attest.File(filepath.Base(path), sum))
	}
	return b, nil
}

// softwareKey is what the provided keys of the artifact's software begin with: that of the version that it provides, else
// Mender's default.
func softwareKey(info *artifactfmt.Info) string {
	standard := (&artifactfmt.Artifact{PayloadType: info.PayloadType}).SoftwareKey()
	if _, there := info.Provides[standard+".version"]; there {
		return standard
	}
	found := ""
	for key := range info.Provides {
		if prefix, ok := strings.CutSuffix(key, ".version"); ok {
			if found != "" {
				return standard
			}
			found = prefix
		}
	}
	if found == "" {
		return standard
	}
	return found
}

func payloadSums(info *artifactfmt.Info) map[string]string {
	sums := make(map[string]string, len(info.Files))
	for _, f := range info.Files {
		sums[f.Name] = f.SHA256
	}
	return sums
}

// verifyAttestation checks the statement beside an artifact that was itself verified, and its bill of materials.
func (a *app) verifyAttestation(ctx context.Context, result *verified, o verifyOptions, v *policyVerifier, name string) error {
	path := o.attestation
	if path == "auto" {
		path = attest.SidecarName(name)
	}
	f, err := openFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	envelope, err := attest.Read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	policy := attest.AnyKey
	if o.require == "all" {
		policy = attest.AllKeys
	}
	checked, err := attest.Check(result.Provides, payloadSums(result.Info), envelope, v.keyring, policy)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	result.Attestation = checked.KeyIDs
	for _, path := range sbom.SidecarNames(name) {
		sum, err := sumInside(ctx, os.DirFS(filepath.Dir(path)), filepath.Base(path))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = sbom.Check(result.Provides, sum)
		}
		if errors.Is(err, sbom.ErrNotNamed) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		result.SBOM = path
	}
	if named := !errors.Is(sbom.Check(result.Provides, ""), sbom.ErrNotNamed); named && result.SBOM == "" {
		a.warnf("the artifact names a bill of materials, which is not beside it (%s)", strings.Join(sbom.SidecarNames(name), " or "))
	}
	return nil
}
