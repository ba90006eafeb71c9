// Package build runs plans: it decides which actions have something to do, makes artifacts and images, and starts
// rollouts. It is the only part of the pipeline with effects and the only one that knows the rooms that do the work.
//
// The way of a build:
//
//	plan --Decide--> steps, each with its key and the reasons to run --Run--> files in out/ and out/twinkeel.json
//
// A step's key is the digest of everything that its output depends on: the evaluated attributes, the content of each
// input, the identity of the signing key and the version of the code that makes it. The record out/twinkeel.json holds
// the key of each output; an output whose key is unchanged and whose file is untouched is not made again. Outputs
// appear whole or not at all, and the record is written after the outputs it names: an interrupted build leaves outputs
// that the next one makes again, never a record of something that isn't there.
package build

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twinkeel/twinkeel/pipeline"
)

// Options of a run.
type Options struct {
	// Parallelism is how many actions run at once; 0 means one per core.
	Parallelism int
	// Events hears what happens, from several goroutines at once; nil is allowed.
	Events func(Event)
	// Warn hears what goes wrong with the cache, from several goroutines at once; nil is allowed. It makes no build fail.
	Warn func(string)
	// CacheSize is how many bytes on the disk the cache may have after the run: 0 means DefaultCacheSize, less no bound.
	CacheSize int64
	// NoExec refuses to run the commands of sources. What they made before is used.
	NoExec bool
}

// Event is a piece of news about one action.
type Event struct {
	Address string
	State   State
	Doing   string        // what is being done: "writing", "uploading"
	Done    int64         // bytes, with StateProgress
	Total   int64         // bytes; -1 when unknown
	Took    time.Duration // with StateDone
	Detail  string        // with StateDone: what came of it
	Err     error         // with StateFailed
}

// State of an action in a run.
type State int

// The states.
const (
	StateStarted State = iota
	StateProgress
	StateDone
	StateCached
	StateFailed
	StateOutput // Detail is a line that a command wrote
)

// Run does the steps that make files, each when those it depends on are done, and records the outputs. Steps that are
// up to date are reported as cached. After a failure no new step starts, those under way are cancelled, and what was
// finished before stays recorded.
func Run(ctx context.Context, steps []*Step, plan *pipeline.Plan, o Options) (*Record, error) {
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	if o.Parallelism <= 0 {
		o.Parallelism = runtime.NumCPU()
	}
	record, err := ReadRecord(plan.OutDir)
	if err != nil {
		return nil, err
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	sources, err := readSourceRecord(plan.Dir)
	if err != nil {
		return nil, err
	}
	r := &runner{
		before: record, sourcesBefore: sources, owners: ownersOf(plan),
		plan: plan, record: record, digests: openDigests(plan.Dir), events: o.Events,
		cache: OpenCache(CacheDir(plan)), warn: o.Warn, noExec: o.NoExec, steps: make(map[string]*Step, len(steps)), opened: make(map[string]string),
	}
	for _, s := range steps {
		r.steps[s.Action.Address] = s
	}
	runErr := r.run(ctx, steps, o.Parallelism)
	r.boundCache(ctx, o.CacheSize)
	r.digests.save()
	if sources, err := readSourceRecord(plan.Dir); err == nil {
		r.record.Sources = sources.Outputs
	}
	return r.record, runErr
}

type runner struct {
	plan    *pipeline.Plan
	digests *digests
	events  func(Event)
	cache   *Cache
	warn    func(string)
	noExec  bool
	// before and sourcesBefore are the records as the run found them.
	before, sourcesBefore *Record
	owners                map[string]string
	steps                 map[string]*Step // by address; a step is changed by its own goroutine, before those that need it go on
	stored                atomic.Bool      // something new is in the cache
	swept                 sync.Map         // directories of outputs in which nothing half-written is left

	mu     sync.Mutex // guards the rest, and the record's file
	record *Record
	opened map[string]string // ids of keys, by the signer's address
}

func (r *runner) run(ctx context.Context, steps []*Step, parallelism int) error {
	finished := make(map[string]chan struct{}, len(steps))
	for _, s := range steps {
		finished[s.Action.Address] = make(chan struct{})
	}
	group, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, parallelism)
	for _, s := range steps {
		group.Go(func() error {
			for _, address := range s.Action.DependsOn {
				done, inRun := finished[address]
				if !inRun {
					continue
				}
				select {
				case <-done:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := r.step(ctx, s); err != nil {
				return err
			}
			close(finished[s.Action.Address])
			return nil
		})
	}
	return group.Wait()
}

func (r *runner) step(ctx context.Context, s *Step) error {
	address := s.Action.Address
	if err := r.settle(ctx, s); err != nil {
		err = &ActionError{Address: address, Err: err}
		r.events(Event{Address: address, State: StateFailed, Err: err})
		return err
	}
	if s.UpToDate() {
		r.events(Event{Address: address, State: StateCached})
		return r.noteState(ctx, s)
	}
	start := time.Now()
	r.events(Event{Address: address, State: StateStarted, Doing: doing(s), Total: -1})
	out, err := r.produce(ctx, s)
	if err == nil {
		err = r.remember(ctx, s.Action, out)
	}
	if err != nil {
		err = &ActionError{Address: address, Err: err}
		r.events(Event{Address: address, State: StateFailed, Err: err})
		return err
	}
	s.done = true
	r.events(Event{Address: address, State: StateDone, Took: time.Since(start), Done: out.Size, Detail: out.Path})
	return nil
}

// noteState writes down that a key which had to be looked at is the one that signed an output, so that it need not be looked at
// again.
func (r *runner) noteState(ctx context.Context, s *Step) error {
	a := s.Action.Artifact
	if a == nil || a.Signer == nil {
		return nil
	}
	r.mu.Lock()
	out := r.record.Outputs[a.Address]
	r.mu.Unlock()
	state := signerState(r.plan, a.Signer)
	if out == nil || out.Signer != a.Signer.Address || out.SignerState == state {
		return nil
	}
	noted := *out
	noted.SignerState = state
	return r.remember(ctx, s.Action, &noted)
}

func (r *runner) make(ctx context.Context, s *Step) (*Output, error) {
	progress := func(done, total int64) {
		r.events(Event{Address: s.Action.Address, State: StateProgress, Doing: "writing", Done: done, Total: total})
	}
	if err := r.sweepBeside(s.Action); err != nil {
		return nil, err
	}
	var (
		out *Output
		err error
	)
	if err := checkFiles(r.plan, s.Action, func(string) *Step { return nil }); err != nil {
		return nil, err
	}
	switch s.Action.Kind {
	case pipeline.KindSource:
		out, err = r.source(ctx, s, progress)
	case pipeline.KindArtifact:
		if s.Verb == VerbSign {
			return r.resign(ctx, s)
		}
		out, err = r.artifact(ctx, s.Action.Artifact, progress)
	case pipeline.KindImage:
		out, err = r.image(ctx, s.Action.Image, progress)
	default:
		return nil, fmt.Errorf("a %s is not built; it is started", s.Action.Kind)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// outputPath is the file that an action makes.
func outputPath(a *pipeline.Action) string {
	switch a.Kind {
	case pipeline.KindSource:
		return a.Source.Outputs[0]
	case pipeline.KindArtifact:
		return a.Artifact.Path
	case pipeline.KindImage:
		return a.Image.Path
	}
	return ""
}

// remember adds an output to the record as it is now: another build in the same directory may have added its own.
func (r *runner) remember(ctx context.Context, a *pipeline.Action, out *Output) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Source != nil {
		return rememberSource(r.plan.Dir, a.Address, out)
	}
	dir, err := os.Open(r.plan.OutDir)
	if err != nil {
		return err
	}
	defer dir.Close() // and gives the lock back
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("locking %s: %w", r.plan.OutDir, err)
	}
	record, err := ReadRecord(r.plan.OutDir)
	if err != nil {
		return err
	}
	if err := r.removeStale(ctx, record, a.Address, out); err != nil {
		return err
	}
	record.Outputs[a.Address] = out
	r.record = record
	return record.write(r.plan.OutDir)
}

// ActionError says which block of the pipeline an error belongs to.
type ActionError struct {
	Address string
	Err     error
}

func (e *ActionError) Error() string { return e.Address + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *ActionError) Unwrap() error { return e.Err }
