package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
)

func doing(s *Step) string {
	switch {
	case s.Action.Source != nil && !s.Restore:
		return sourceVerbs[s.Action.Source.Type]
	case s.Restore:
		return "restoring"
	case s.Verb == VerbSign:
		return "signing"
	}
	return "writing"
}

// produce takes the output of a step from the cache, or makes it and keeps it there. Who builds the same thing at the same
// time waits, in this process or another.
func (r *runner) produce(ctx context.Context, s *Step) (*Output, error) {
	unlock, err := r.cache.lockKey(ctx, s.cacheKey)
	switch {
	case err == nil:
		defer unlock()
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default: // nothing can be written there; building twice is only slow
		r.warn("the cache cannot be used: " + err.Error())
	}
	out, err := r.restore(ctx, s)
	if out == nil && err == nil {
		if s.Restore { // it was there when the plan was made
			s.Verb, s.Restore = VerbRebuild, false
		}
		if out, err = r.make(ctx, s); err == nil {
			r.keep(ctx, s, out)
		}
	}
	if err != nil {
		return nil, err
	}
	out.Key, out.Attributes, out.Inputs = s.Key, s.attributes, s.inputs
	return out, nil
}

// restore takes an output from the cache. It returns nil when it isn't there as a whole.
func (r *runner) restore(ctx context.Context, s *Step) (*Output, error) {
	if s.forced || s.Verb == VerbSign || !cached(s.Action) {
		return nil, nil
	}
	e, err := r.cache.find(ctx, s.cacheKey, r.digests.like)
	if err == nil {
		if err := r.sweepBeside(s.Action); err != nil {
			return nil, err
		}
		if s.Action.Source != nil {
			err = r.cache.takeAll(ctx, e, s.Action.Source.Outputs, r.digests.like)
		} else {
			err = r.cache.take(ctx, e, outputPath(s.Action), r.digests.like)
		}
	}
	var damaged *DamagedEntryError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, errMiss):
		return nil, nil
	case errors.As(err, &damaged):
		r.warn(damaged.Error() + "; it is made again")
		return nil, nil
	case err != nil:
		return nil, err
	}
	s.Verb, s.Restore = VerbCached, true
	if s.Action.Source != nil {
		return r.sourceOutput(ctx, s.Action.Source)
	}
	return r.restored(s.Action, e), nil
}

// restored describes an output that was taken from the cache.
func (r *runner) restored(a *pipeline.Action, e *Entry) *Output {
	path := outputPath(a)
	out := &Output{
		Kind: string(a.Kind), Path: relativeTo(r.plan.Dir, path), Size: e.Files[0].Size,
		ArtifactName: e.ArtifactName, DeviceTypes: e.DeviceTypes, SignerKeyID: e.SignerKeyID, SignerPublicKey: e.SignerPublicKey, Areas: e.Areas,
	}
	out.setDigest(e.Files[0].SHA256)
	if a.Artifact != nil && a.Artifact.Signer != nil {
		out.Signer, out.SignerState = a.Artifact.Signer.Address, signerState(r.plan, a.Artifact.Signer)
	}
	for _, f := range e.Files[1:] {
		out.Sidecars = append(out.Sidecars, Sidecar{relativeTo(r.plan.Dir, filepath.Join(filepath.Dir(path), f.Name)), f.SHA256})
	}
	return out
}

// keep puts an output into the cache. Failing to is no failure of the build, which has its output.
func (r *runner) keep(ctx context.Context, s *Step, out *Output) {
	if !cached(s.Action) {
		return
	}
	path := outputPath(s.Action)
	files := []made{{path, out.digest(), out.identity}}
	for _, c := range out.Sidecars {
		beside := filepath.Join(r.plan.Dir, filepath.FromSlash(c.Path))
		sum, id, err := r.digests.identified(ctx, beside)
		if err != nil || sum != c.SHA256 || s.Action.Source == nil && filepath.Dir(beside) != filepath.Dir(path) {
			return
		}
		files = append(files, made{beside, sum, id})
	}
	err := r.cache.store(ctx, &Entry{
		Key: s.cacheKey, PayloadKey: s.payloadKey, Address: s.Action.Address, Kind: out.Kind,
		ArtifactName: out.ArtifactName, DeviceTypes: out.DeviceTypes, SignerKeyID: out.SignerKeyID, SignerPublicKey: out.SignerPublicKey, Areas: out.Areas,
	}, files)
	switch {
	case err == nil:
		r.stored.Store(true)
	case errors.Is(err, errNoRoom):
		r.warn(fmt.Sprintf("%s is not kept in the cache: it would take more than half of the room that is left", s.Action.Address))
	case ctx.Err() == nil:
		r.warn(fmt.Sprintf("%s is not kept in the cache: %v", s.Action.Address, err))
	}
}

// boundCache removes what was used longest ago from a cache that has grown too large.
func (r *runner) boundCache(ctx context.Context, size int64) {
	if size == 0 {
		size = DefaultCacheSize
	}
	if size < 0 || !r.stored.Load() || ctx.Err() != nil {
		return
	}
	// Another process that is at work there does it when it is done.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := r.cache.Prune(ctx, size, 0); err != nil && ctx.Err() == nil {
		r.warn("the cache could not be tidied: " + err.Error())
	}
}

// sweepBeside removes what a killed build left where an output goes, once for each directory.
func (r *runner) sweepBeside(a *pipeline.Action) error {
	path := outputPath(a)
	if path == "" {
		return nil
	}
	dir := filepath.Dir(path)
	if _, swept := r.swept.LoadOrStore(dir, true); swept {
		return nil
	}
	return durable.Sweep(dir)
}
