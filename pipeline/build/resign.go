package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/signing"
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

// resign puts the signature of another key into an artifact that is there, in its place or in the cache. A signature is about the
// manifest alone, so the payload is copied as it is stored.
func (r *runner) resign(ctx context.Context, s *Step) (*Output, error) {
	a := s.Action.Artifact
	signer, err := OpenSigner(ctx, a.Signer)
	if err != nil {
		return nil, err
	}
	defer signing.Close(signer)
	in, before, err := r.signable(ctx, s)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if err := r.writeResigned(ctx, a.Path, in, signer); err != nil {
		return nil, err
	}
	out, err := r.output(ctx, pipeline.KindArtifact, a.Path)
	if err != nil {
		return nil, err
	}
	out.ArtifactName, out.DeviceTypes, out.Sidecars = a.Name, before.DeviceTypes, before.Sidecars
	out.signedBy(r.plan, a.Signer, signer)
	return out, nil
}

// signable opens the artifact that gets another signature. It must be what the record or the cache says: a new signature would
// vouch for anything else as well.
func (r *runner) signable(ctx context.Context, s *Step) (*os.File, *Output, error) {
	path := s.Action.Artifact.Path
	if s.fromCache {
		e, err := r.cache.findPayload(ctx, s.payloadKey, r.digests.like)
		if err != nil {
			return nil, nil, err
		}
		in, err := r.cache.open(ctx, e, 0, r.digests.like, false)
		return in, &Output{DeviceTypes: e.DeviceTypes}, err
	}
	r.mu.Lock()
	last := r.record.Outputs[s.Action.Address]
	r.mu.Unlock()
	digest, id, err := r.digests.identified(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	in, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	if info, err := in.Stat(); err != nil || last == nil || digest != last.SHA256 || identity(path, info) != id {
		in.Close()
		return nil, nil, fmt.Errorf("%s was modified since the plan was made", relativeTo(r.plan.Dir, path))
	}
	return in, last, nil
}

func (r *runner) writeResigned(ctx context.Context, path string, in *os.File, signer artifactfmt.Signer) error {
	before, err := in.Stat()
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
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
	if after, err := in.Stat(); err != nil || identity(in.Name(), after) != identity(in.Name(), before) {
		return fmt.Errorf("%s changed while it was signed", relativeTo(r.plan.Dir, path))
	}
	return f.Commit()
}
