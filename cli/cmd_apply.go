package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

type applyOptions struct {
	buildOptions
	autoApprove bool
}

func (a *app) applyCommand() *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use:     "apply [ADDRESS]... | FILE",
		Short:   "Build, push and start rollouts, after one question",
		GroupID: groupMain,
		Long: `Do all that the plan says: write artifacts and images, upload the artifacts of the rollouts, and start them. The plan
is shown first and needs a "yes", or --auto-approve where nobody can answer.

FILE is a plan that "plan --out" wrote. It was looked at, so there is no question; but when the pipeline, the value of a
variable, an input, a key or an output changed since, nothing is done and what changed is said. The same goes for what the
server knows of a rollout, if "plan --server" asked it. Values of variables must be given again.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if file, ok := planFile(args); ok {
				return a.runApplyFile(cmd.Context(), o, file)
			}
			return a.runApply(cmd.Context(), o, args)
		},
	}
	o.addFlags(c)
	c.Flags().BoolVar(&o.autoApprove, "auto-approve", false, "do not ask")
	return c
}

func (a *app) runApply(ctx context.Context, o applyOptions, targets []string) error {
	plan, steps, err := a.decide(ctx, targets, o.force)
	if err != nil {
		return err
	}
	return a.carryOut(ctx, o, plan, steps)
}

// planFile tells whether the only argument is a file and not an address. What looks like a path is one, there or not.
func planFile(args []string) (string, bool) {
	if len(args) != 1 {
		return "", false
	}
	if strings.ContainsRune(args[0], filepath.Separator) || strings.HasSuffix(args[0], ".json") {
		return args[0], true
	}
	info, err := os.Stat(args[0])
	return args[0], err == nil && info.Mode().IsRegular()
}

// runApplyFile carries out a plan that was written before, when it still is what there is to do.
func (a *app) runApplyFile(ctx context.Context, o applyOptions, file string) error {
	saved, err := build.ReadSaved(file)
	if err != nil {
		return err
	}
	if o.force && !saved.Force {
		return usagef("--force belongs to the plan: twinkeel plan --force --out %s", file)
	}
	plan, steps, err := a.decide(ctx, saved.Targets, saved.Force)
	if err != nil {
		return err
	}
	changes := saved.Changes(plan, steps)
	onServers, err := saved.ServerChanges(ctx, plan)
	if err != nil {
		return err
	}
	if changes = append(changes, onServers...); len(changes) > 0 {
		return &stalePlanError{file, changes}
	}
	o.autoApprove = true
	return a.carryOut(ctx, o, plan, steps)
}

type stalePlanError struct {
	file    string
	changes []string
}

func (e *stalePlanError) Error() string {
	return fmt.Sprintf("the plan in %s is out of date, nothing was done:\n  %s", e.file, strings.Join(e.changes, "\n  "))
}

// Hint says how to go on.
func (e *stalePlanError) Hint() string {
	return "twinkeel plan --out " + e.file + ", and look at it again"
}

func (a *app) carryOut(ctx context.Context, o applyOptions, plan *pipeline.Plan, steps []*build.Step) error {
	if !a.global.json {
		a.printPlan(steps)
	}
	t := count(steps)
	if t.toMake() == 0 && t.start == 0 {
		if _, err := a.asJSON(applied{map[string]*build.Output{}, []*build.Started{}}); err != nil {
			return err
		}
		return &exitError{code: exitNothing}
	}
	if !o.autoApprove {
		if err := a.confirm(ctx); err != nil {
			return err
		}
	}
	record, err := a.make(ctx, o.buildOptions, plan, steps)
	if err != nil {
		return err
	}
	var started []*build.Started
	for _, s := range steps {
		r := s.Action.Rollout
		if r == nil {
			continue
		}
		if _, err := a.push(ctx, &r.Server, plan, r.Artifacts); err != nil {
			return err
		}
		one, err := a.start(ctx, r)
		if err != nil {
			return err
		}
		started = append(started, one)
	}
	if done, err := a.asJSON(applied{record.Outputs, notNil(started)}); done {
		return err
	}
	if err := a.printOutputs(record, steps); err != nil {
		return err
	}
	return a.printStarted(started)
}

// applied is what `apply --json` prints.
type applied struct {
	Outputs  map[string]*build.Output `json:"outputs"`
	Rollouts []*build.Started         `json:"rollouts"`
}

func (a *app) start(ctx context.Context, r *pipeline.Rollout) (*build.Started, error) {
	c, err := build.Connect(&r.Server)
	if err != nil {
		return nil, err
	}
	return build.StartRollout(ctx, c, r)
}

// confirm asks for a yes.
func (a *app) confirm(ctx context.Context) error {
	if !a.ui.interactive || a.global.json {
		return &hintedError{"apply asks before it changes anything, and nobody can answer here", "add --auto-approve"}
	}
	fmt.Fprintf(a.stderr, "%s Only \"yes\" goes on: ", a.ui.err.bold("Do this?"))
	answer := make(chan string, 1)
	go func() { // stdin cannot be interrupted; the process ends soon after ctx does
		line, _ := bufio.NewReader(a.stdin).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case line := <-answer:
		if line == "yes" {
			return nil
		}
		return &exitError{exitFailed, fmt.Errorf("nothing was done")}
	case <-ctx.Done():
		return ctx.Err()
	}
}
