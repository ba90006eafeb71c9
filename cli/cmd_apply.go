package cli

import (
	"bufio"
	"context"
	"fmt"
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
		Use:     "apply [ADDRESS]...",
		Short:   "Build, push and start rollouts, after one question",
		GroupID: groupMain,
		Long: `Do all that the plan says: write artifacts and images, upload the artifacts of the rollouts, and start them. The plan
is shown first and needs a "yes", or --auto-approve where nobody can answer.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runApply(cmd.Context(), o, args) },
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
	if !a.global.json {
		a.printPlan(steps)
	}
	t := count(steps)
	if t.toMake() == 0 && t.start == 0 {
		if a.global.json {
			if err := a.printJSON(applied{map[string]*build.Output{}, []*build.Started{}}); err != nil {
				return err
			}
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
	if a.global.json {
		return a.printJSON(applied{record.Outputs, notNil(started)})
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
