package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
)

// onlyKeyChanged tells that another signature makes of the last output what the plan wants: nothing but the key changed. A
// statement of provenance is signed with the same key and named in what the signature covers, so artifacts that have one are
// built anew.
func (s *Step) onlyKeyChanged() bool {
	a := s.Action.Artifact
	if a == nil || a.Signer == nil || a.Provenance || len(s.Reasons) == 0 {
		return false
	}
	for _, r := range s.Reasons {
		if r.Code != ReasonKeyChanged && r.Code != ReasonCacheDamaged {
			return false
		}
	}
	return true
}

// resign puts the signature of another key into an artifact that is there. A signature is about the manifest alone, so the payload is
// copied as it is stored. The file must be what the record says: a new signature would vouch for anything else as well.
func (r *runner) resign(ctx context.Context, a *pipeline.Artifact) (*Output, error) {
	r.mu.Lock()
	last := r.record.Outputs[a.Address]
	r.mu.Unlock()
	digest, id, err := r.digests.identified(ctx, a.Path)
	if err != nil {
		return nil, err
	}
	if last == nil || digest != last.SHA256 {
		return nil, fmt.Errorf("%s was modified since the plan was made", relativeTo(r.plan.Dir, a.Path))
	}
	signer, err := OpenSigner(ctx, a.Signer)
	if err != nil {
		return nil, err
	}
	in, err := os.Open(a.Path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if err := r.writeResigned(ctx, a.Path, in, id, signer); err != nil {
		return nil, err
	}
	out, err := r.output(ctx, pipeline.KindArtifact, a.Path)
	if err != nil {
		return nil, err
	}
	out.ArtifactName, out.DeviceTypes, out.Sidecars = a.Name, last.DeviceTypes, last.Sidecars
	out.signedBy(a.Signer, signer)
	return out, nil
}

func (r *runner) writeResigned(ctx context.Context, path string, in *os.File, id string, signer artifactfmt.Signer) error {
	f, err := durable.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer f.Abort()
	_, err = artifactfmt.Resign(ctx, f, in, artifactfmt.ReadOptions{}, signer.Sign)
	if errors.Is(err, syscall.ENOSPC) {
		err = syscall.ENOSPC // without the name of the temporary file, which is gone
	}
	if err != nil {
		return fmt.Errorf("signing %s: %w", relativeTo(r.plan.Dir, path), err)
	}
	if info, err := in.Stat(); err != nil || identity(path, info) != id {
		return fmt.Errorf("%s changed while it was signed", relativeTo(r.plan.Dir, path))
	}
	return f.Commit()
}
