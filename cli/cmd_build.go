package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

type buildOptions struct {
	force       bool
	parallelism int
	noExec      bool
	unsigned    bool
}

func (o *buildOptions) addFlags(c *cobra.Command) {
	c.Flags().BoolVar(&o.force, "force", false, "build everything again")
	c.Flags().BoolVar(&o.noExec, "no-exec", false, "run no command of the pipeline's sources; fail where one would have to run")
	c.Flags().IntVar(&o.parallelism, "parallelism", 0, "how many outputs are made at once (default: one per core)")
}

func (a *app) buildCommand() *cobra.Command {
	var o buildOptions
	var dryRun bool
	c := &cobra.Command{
		Use:     "build [ADDRESS]...",
		Short:   "Write signed artifacts",
		GroupID: groupMain,
		Long: `Write the pipeline's artifacts, each signed by the signer it names. What is up to date is left alone, and what was built
before is taken from the cache. Outputs appear whole or not at all; out/twinkeel.json names each with its size, SHA-256
and signer. Sources that fetch, unpack or run something do so first, where an artifact needs them or an ADDRESS names them:
whoever builds a pipeline runs its commands, unless --no-exec is given. Ctrl-C removes what is half-written and stops; a second one stops at once.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if dryRun {
				return a.runDryBuild(cmd.Context(), o, args, pipeline.KindArtifact)
			}
			return a.runBuild(cmd.Context(), o, args, pipeline.KindArtifact)
		},
	}
	o.addFlags(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be built, and why")
	c.Flags().BoolVar(&o.unsigned, "unsigned", false, "leave out the signatures, for \"twinkeel sign\" on the machine that has the key")
	return c
}

// runDryBuild shows the plan of what runBuild would make.
func (a *app) runDryBuild(ctx context.Context, o buildOptions, targets []string, kinds ...pipeline.Kind) error {
	plan, steps, err := a.decideBuild(ctx, o, targets, kinds...)
	if err != nil {
		return err
	}
	if err := a.checkUpToDate(ctx, plan, steps); err != nil {
		return err
	}
	return a.showPlan(plan, steps)
}

// decideBuild is decide for what a command builds, of which there must be something.
func (a *app) decideBuild(ctx context.Context, o buildOptions, targets []string, kinds ...pipeline.Kind) (*pipeline.Plan, []*build.Step, error) {
	_, plan, err := a.planOf(ctx, targets, kinds...)
	if err != nil {
		return nil, nil, err
	}
	if len(plan.Actions) == 0 {
		return nil, nil, noBlockError(kinds[len(kinds)-1])
	}
	if o.unsigned {
		if err := unsign(plan); err != nil {
			return nil, nil, err
		}
	}
	steps, err := a.decideSteps(ctx, plan, o.force)
	return plan, steps, err
}

// unsign leaves the signers out of a plan's artifacts.
func unsign(plan *pipeline.Plan) error {
	return eachArtifact(plan, func(artifact *pipeline.Artifact) error {
		if artifact.Provenance {
			return &build.ActionError{Address: artifact.Address, Err: errors.New("its statement of provenance is signed when it is built, so it cannot be built unsigned")}
		}
		artifact.Signer = nil
		return nil
	})
}

// eachArtifact lets change make another artifact of each that the plan makes.
func eachArtifact(plan *pipeline.Plan, change func(*pipeline.Artifact) error) error {
	for _, action := range plan.Actions {
		if action.Artifact == nil {
			continue
		}
		other := *action.Artifact
		if err := change(&other); err != nil {
			return err
		}
		action.Artifact = &other
	}
	return nil
}

// runBuild makes the outputs of the given kinds and prints them.
func (a *app) runBuild(ctx context.Context, o buildOptions, targets []string, kinds ...pipeline.Kind) error {
	plan, steps, err := a.decideBuild(ctx, o, targets, kinds...)
	if err != nil {
		return err
	}
	record, err := a.make(ctx, o, plan, steps)
	if err != nil {
		return err
	}
	return a.printOutputs(record, steps)
}

// noBlockError is for commands about blocks of a kind that the pipeline doesn't have.
func noBlockError(kind pipeline.Kind) error {
	return &hintedError{fmt.Sprintf("the pipeline has no %s", kind), fmt.Sprintf("add a block: %s \"NAME\" { ... }", kind)}
}

// make runs the steps that write files.
func (a *app) make(ctx context.Context, o buildOptions, plan *pipeline.Plan, steps []*build.Step) (*build.Record, error) {
	if o.parallelism < 0 {
		return nil, usagef("--parallelism takes a number from 1, or 0 for one per core; not %d", o.parallelism)
	}
	cacheSize, err := a.cacheSize()
	if err != nil {
		return nil, err
	}
	defer garbagePercent(50)() // what a build holds are a few large buffers, of which none should wait long
	var warned warnings
	defer warned.print(a) // when the progress bars have gone
	show := a.newProgress(ctx)
	defer show.close()
	steps = slices.DeleteFunc(slices.Clone(steps), func(s *build.Step) bool { return s.Verb == build.VerbStart })
	record, err := build.Run(ctx, steps, plan, build.Options{
		Parallelism: o.parallelism, Events: show.event, Warn: warned.add, CacheSize: cacheSize, NoExec: o.noExec,
	})
	if err != nil {
		return nil, err
	}
	return record, a.checkMade(ctx, plan, steps, record)
}

// warnings collects what several goroutines warn of, each text once.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

func (w *warnings) add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.texts, text) {
		w.texts = append(w.texts, text)
	}
}

func (w *warnings) print(a *app) {
	for _, text := range w.texts {
		a.warnf("%s", text)
	}
}

// printOutputs lists what the steps stand for: address, file, size and the start of its SHA-256.
func (a *app) printOutputs(record *build.Record, steps []*build.Step) error {
	outputs, sources := map[string]*build.Output{}, map[string]*build.Output{}
	for _, s := range steps {
		if out := record.Sources[s.Action.Address]; out != nil && s.Action.Named {
			sources[s.Action.Address] = out
		}
		if out := record.Outputs[s.Action.Address]; out != nil && s.Verb != build.VerbStart {
			outputs[s.Action.Address] = out
		}
	}
	if done, err := a.asJSON(struct {
		build.Record
		Sources map[string]*build.Output `json:"sources,omitempty"` // those that were asked for
	}{build.Record{FormatVersion: record.FormatVersion, Outputs: outputs}, sources}); done {
		return err
	}
	t := table{}
	for _, s := range steps {
		out := outputs[s.Action.Address]
		if s.Action.Source != nil {
			out = sources[s.Action.Address]
		}
		if out == nil {
			continue
		}
		state := "built"
		switch {
		case s.Restore:
			state = "from the cache"
		case s.Verb == build.VerbSign:
			state = "signed"
		case s.Verb == build.VerbCached:
			state = "up to date"
		}
		t.add(s.Action.Address, state, out.Path, size(out.Size), shortDigest(out))
	}
	t.print(a.stdout)
	return nil
}

// shortDigest is the beginning of an output's digest. A large image has one that leaves out its zeros.
func shortDigest(out *build.Output) string {
	if out.SHA256 == "" {
		return "sparse-sha256:" + out.SparseSHA256[:min(12, len(out.SparseSHA256))]
	}
	return "sha256:" + out.SHA256[:min(12, len(out.SHA256))]
}
