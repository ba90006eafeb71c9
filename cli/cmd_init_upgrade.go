package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

// upgraded is what `init --upgrade --json` prints.
type upgraded struct {
	File   string           `json:"file"`
	Locked []upgradedSource `json:"locked"`
}

type upgradedSource struct {
	URL     string `json:"url"`
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
	Changed bool   `json:"changed"` // the lock file had nothing, or something else
}

// runUpgrade fetches what the pipeline does not pin itself, and writes the lock file anew.
func (a *app) runUpgrade(ctx context.Context) error {
	p, err := a.load()
	if err != nil {
		return err
	}
	actions, diags := p.Unlocked(ctx)
	a.hide(p)
	if err := a.check(p, diags); err != nil {
		return err
	}
	file := filepath.Join(a.global.dir, pipeline.LockFile)
	before := readLock(file)
	var warned warnings
	defer warned.print(a)
	show := a.newProgress(ctx)
	locked, err := build.Lock(ctx, &pipeline.Plan{Dir: p.Dir(), CacheDir: p.CacheDir()}, actions, build.Options{Events: show.event, Warn: warned.add})
	show.close()
	if err != nil {
		return err
	}
	result := upgraded{File: relative(file), Locked: []upgradedSource{}}
	for url, l := range locked {
		result.Locked = append(result.Locked, upgradedSource{url, l.SHA256, l.Size, before[url].SHA256 != l.SHA256})
	}
	slices.SortFunc(result.Locked, func(x, y upgradedSource) int {
		if x.URL < y.URL {
			return -1
		}
		return 1
	})
	switch {
	case len(locked) > 0:
		err = durable.WriteFile(file, pipeline.FormatLock(locked), 0o644)
	case before != nil:
		err = durable.Remove(file)
	}
	if err != nil {
		return err
	}
	if done, err := a.asJSON(result); done {
		return err
	}
	if len(locked) == 0 {
		a.notef("Every http source says itself what its file must be; there is nothing to lock.\n")
		return nil
	}
	t := table{}
	for _, l := range result.Locked {
		state := "unchanged"
		if l.Changed {
			state = "locked"
		}
		t.add(printable(l.URL), state, size(l.Size), "sha256:"+l.SHA256[:12])
	}
	t.print(a.stdout)
	return nil
}

// maxLock is more than any lock file has, in bytes.
const maxLock = 4 << 20

// readLock reads what the lock file says now; one that cannot be read is written anew and says nothing.
func readLock(file string) map[string]pipeline.Locked {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLock+1))
	if err != nil {
		return map[string]pipeline.Locked{}
	}
	locked, diags := pipeline.ParseLock(data, file)
	if diags.HasErrors() {
		return map[string]pipeline.Locked{}
	}
	return locked
}
