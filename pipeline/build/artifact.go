package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/artifactfmt/payload"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/signing"
)

// maxScript bounds a state script. They are shell scripts; a megabyte is a mistake.
const maxScript = 1 << 20

func (r *runner) artifact(ctx context.Context, a *pipeline.Artifact, progress func(done, total int64)) (*Output, error) {
	contents, err := openPayload(a, r.plan.Epoch)
	if err != nil {
		return nil, err
	}
	defer contents.Close()
	spec := &artifactfmt.Artifact{
		Name:              a.Name,
		Group:             a.Group,
		DeviceTypes:       a.DeviceTypes,
		PayloadType:       contents.Type,
		Files:             contents.Files,
		MetaData:          contents.MetaData,
		Provides:          a.Provides,
		NoDefaultProvides: a.NoDefaultProvides,
		Software:          artifactfmt.Software(a.Software),
		Depends:           a.Depends,
		ClearsProvides:    a.ClearsProvides,
		Compression:       artifactfmt.Compression(a.Compression),
		Level:             a.CompressionLevel,
		Epoch:             r.plan.Epoch,
		Progress:          progress,
	}
	if a.Software == (pipeline.Software{}) {
		spec.Software = contents.Software
	}
	var sidecars []Sidecar
	var signer signing.Signer
	if a.Signer != nil {
		var err error
		if signer, err = OpenSigner(ctx, a.Signer); err != nil {
			return nil, err
		}
		defer signing.Close(signer)
		spec.Signer = signer
		r.addSidecars(a, spec, signer, &sidecars)
	} else {
		r.addSidecars(a, spec, nil, &sidecars)
	}
	for _, path := range a.Scripts {
		content, err := readLimited(path, maxScript)
		if err != nil {
			return nil, err
		}
		spec.Scripts = append(spec.Scripts, artifactfmt.Script{Name: filepath.Base(path), Content: content})
	}
	info, err := r.writeArtifact(ctx, a.Path, spec)
	if err != nil {
		return nil, err
	}
	out, err := r.output(ctx, pipeline.KindArtifact, a.Path)
	if err != nil {
		return nil, err
	}
	out.ArtifactName, out.DeviceTypes, out.Sidecars = info.Name, info.DeviceTypes, sidecars
	if signer != nil {
		out.signedBy(r.plan, a.Signer, signer)
	}
	return out, nil
}

func (r *runner) writeArtifact(ctx context.Context, path string, spec *artifactfmt.Artifact) (*artifactfmt.Info, error) {
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := durable.Create(path, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Abort()
	info, err := artifactfmt.Write(ctx, f, spec)
	if errors.Is(err, syscall.ENOSPC) {
		err = syscall.ENOSPC // without the name of the temporary file, which is gone
	}
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", relativeTo(r.plan.Dir, path), err)
	}
	if err := f.Commit(); err != nil {
		return nil, err
	}
	return info, nil
}

// output describes a file that was just made.
func (r *runner) output(ctx context.Context, kind pipeline.Kind, path string) (*Output, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	digest, id, err := r.digests.identified(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Output{Kind: string(kind), Path: relativeTo(r.plan.Dir, path), Size: info.Size(), SHA256: digest, identity: id}, nil
}

// openPayload brings the payload into the form that its type wants.
func openPayload(a *pipeline.Artifact, epoch time.Time) (*payload.Contents, error) {
	p := a.Payload
	if p.Type == pipeline.BootstrapPayload {
		return &payload.Contents{}, nil
	}
	return payload.Make(p.Type, payload.Options{
		Files: p.Files, Directory: p.Directory, Destination: p.Destination, FileName: p.FileName, Mode: p.Mode,
		Images: p.Images, ImageFiles: p.ImageFiles, ComposeFiles: p.ComposeFiles, Project: p.Project, Platform: p.Platform,
		RunArgs: p.RunArgs, KeepOwners: p.KeepOwners, MetaData: p.MetaData, Epoch: epoch,
	})
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return content, nil
}
