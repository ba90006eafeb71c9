package build

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// removeStale removes what the last build of a block wrote and this one does not: another form of an image, a document beside
// an artifact. A block map that describes an image no more would keep it from being flashed. It is called after the new output
// is there and before the record forgets the old one, so that a build that is killed in between leaves nothing unknown.
//
// Only what the record names is removed, inside the output directory, and as it was written: what somebody has changed is theirs.
func (r *runner) removeStale(ctx context.Context, record *Record, address string, out *Output) error {
	last := record.Outputs[address]
	if last == nil {
		return nil
	}
	needed := map[string]bool{}
	name := func(o *Output) {
		needed[o.Path] = true
		for _, s := range o.Sidecars {
			needed[s.Path] = true
		}
	}
	for other, o := range record.Outputs {
		if other != address {
			name(o)
		}
	}
	name(out)
	for _, old := range append([]Sidecar{{last.Path, last.digest()}}, last.Sidecars...) {
		if needed[old.Path] {
			continue
		}
		if err := r.removeMade(ctx, old); err != nil {
			return err
		}
	}
	return nil
}

// removeMade removes a file of an earlier build, if it is still that file.
func (r *runner) removeMade(ctx context.Context, old Sidecar) error {
	path := filepath.Join(r.plan.Dir, filepath.FromSlash(old.Path))
	outDir, err := filepath.EvalSymlinks(r.plan.OutDir)
	if err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return nil //nolint:nilerr // gone, and what was in it
	}
	if rel, err := filepath.Rel(outDir, dir); err != nil || !filepath.IsLocal(rel) {
		return nil //nolint:nilerr // not below the output directory
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	digest, err := r.digests.like(ctx, path, old.SHA256)
	if err != nil {
		return err
	}
	if digest != old.SHA256 {
		r.warn(old.Path + " is no longer an output, but was changed since it was made; it stays")
		return nil
	}
	return durable.Remove(path)
}
