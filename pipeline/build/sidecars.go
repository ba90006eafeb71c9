package build

import (
	"context"
	"path/filepath"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/artifactfmt/sbom"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/internal/version"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/signing/attest"
)

// Sidecar is a document that was written beside an artifact.
type Sidecar struct {
	Path   string `json:"path"` // relative to the pipeline's directory
	SHA256 string `json:"sha256"`
}

// addSidecars lets the artifact name what is written beside it: the bill of materials, then the statement of
// provenance, which names the former. What was written is in sidecars afterwards.
func (r *runner) addSidecars(a *pipeline.Artifact, spec *artifactfmt.Artifact, signer attest.Signer, sidecars *[]Sidecar) {
	prefix := spec.SoftwareKey()
	keep := func(path, sha256 string) {
		*sidecars = append(*sidecars, Sidecar{relativeTo(r.plan.Dir, path), sha256})
	}
	if a.SBOM != "" {
		spec.Sidecars = append(spec.Sidecars, artifactfmt.Sidecar{
			Key: sbom.ProvidesKey(prefix),
			Make: func(ctx context.Context, info *artifactfmt.Info) (string, error) {
				path, _, sha256, err := sbom.WriteSidecar(ctx, a.Path, a.SBOM, sbom.Facts{
					Artifact: info.Name, Files: sums(info), Tool: version.Version, Epoch: r.plan.Epoch,
				})
				keep(path, sha256)
				return sha256, err
			},
		})
	}
	if a.Provenance {
		spec.Sidecars = append(spec.Sidecars, artifactfmt.Sidecar{
			Key: attest.ProvidesKey(prefix),
			Make: func(ctx context.Context, info *artifactfmt.Info) (string, error) {
				build, err := r.provenance(ctx, a, info)
				if err != nil {
					return "", err
				}
				for _, s := range *sidecars {
					build.Byproducts = append(build.Byproducts, attest.File(filepath.Base(s.Path), s.SHA256))
				}
				envelope, err := attest.Sign(ctx, attest.New(build, sums(info)), signer)
				if err != nil {
					return "", err
				}
				path, sha256 := attest.SidecarName(a.Path), attest.Digest(envelope)
				keep(path, sha256)
				return sha256, durable.WriteFile(path, envelope, 0o644)
			},
		})
	}
}

// provenance tells how an artifact was made: of which files, by which pipeline, by whom.
func (r *runner) provenance(ctx context.Context, a *pipeline.Artifact, info *artifactfmt.Info) (attest.Build, error) {
	b := attest.Build{
		Builder: r.plan.Builder, Version: version.Version,
		Parameters: map[string]any{
			"artifact_name": info.Name, "device_types": info.DeviceTypes, "payload_type": a.Payload.Type, "address": a.Address,
		},
		Inputs: []attest.Descriptor{attest.File("pipeline", r.plan.Digest)},
	}
	files := append(append([]string{}, a.Payload.Files...), a.Payload.ImageFiles...)
	for _, path := range append(append(files, a.Payload.ComposeFiles...), a.Scripts...) {
		sum, err := r.digests.file(ctx, path)
		if err != nil {
			return b, err
		}
		b.Inputs = append(b.Inputs, attest.File(filepath.Base(path), sum))
	}
	if a.Payload.Directory != "" {
		sum, err := r.digests.tree(ctx, a.Payload.Directory)
		if err != nil {
			return b, err
		}
		b.Inputs = append(b.Inputs, attest.File(filepath.Base(a.Payload.Directory)+"/", sum))
	}
	return b, nil
}

// sums are the SHA-256 of the payload's files.
func sums(info *artifactfmt.Info) map[string]string {
	m := make(map[string]string, len(info.Files))
	for _, f := range info.Files {
		m[f.Name] = f.SHA256
	}
	return m
}
