package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

type planOptions struct {
	detailedExitCode bool
	force            bool
	out              string
	server           bool
}

func (a *app) planCommand() *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use:     "plan [ADDRESS]...",
		Short:   "Show what would be done, and why",
		GroupID: groupMain,
		Long: `Show what would be done, and why. Addresses and patterns (artifact.*, 'artifact.os["rpi4"]') limit it; what they need is
planned with them. Nothing is changed, and no server is asked unless --server is given: then what servers know of the rollouts
is shown, too. With --out the plan is also written to a file, which apply takes: it does what the plan says or, when something
changed meanwhile, nothing. The file holds no values, only digests; still, where short PINs are the only sensitive variables,
keep it as carefully as those.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runPlan(cmd.Context(), o, args) },
	}
	c.Flags().BoolVar(&o.detailedExitCode, "detailed-exitcode", false, "exit with 2 when there is something to build or a rollout to start; with --server, one that is not there yet")
	c.Flags().BoolVar(&o.force, "force", false, "plan to build everything again")
	c.Flags().BoolVar(&o.server, "server", false, "ask the servers what they know of the rollouts")
	c.Flags().StringVar(&o.out, "out", "", "write the plan to a `file` for apply")
	return c
}

func (a *app) runPlan(ctx context.Context, o planOptions, targets []string) error {
	plan, steps, err := a.decide(ctx, targets, o.force)
	if err != nil {
		return err
	}
	if err := a.checkUpToDate(ctx, plan, steps); err != nil {
		return err
	}
	servers, err := o.lookAtServers(ctx, plan)
	if err != nil {
		return err
	}
	if o.out != "" {
		saved, err := build.Save(plan, steps, targets, o.force)
		if err != nil {
			return err
		}
		saved.Servers = servers
		if err := saved.Write(o.out); err != nil {
			return err
		}
	}
	a.noteServers(plan, servers)
	if err := a.showPlan(plan, steps); err != nil {
		return err
	}
	if o.out != "" {
		a.notef("The plan is in %s; carry it out with the same --var: twinkeel apply %s\n", o.out, o.out)
	}
	if o.detailedExitCode && (count(steps).toMake() > 0 || startable(steps, servers)) {
		return &exitError{code: exitUsage}
	}
	return nil
}

// lookAtServers asks what servers know of the plan's rollouts, by address; nothing when that is not wanted.
func (o *planOptions) lookAtServers(ctx context.Context, plan *pipeline.Plan) (map[string]*build.ServerState, error) {
	if !o.server {
		return nil, nil
	}
	states := map[string]*build.ServerState{}
	for _, action := range plan.Actions {
		if action.Rollout == nil {
			continue
		}
		state, err := build.LookAtServer(ctx, action.Rollout)
		if err != nil {
			return nil, err
		}
		states[action.Address] = state
	}
	return states, nil
}

// startable tells whether a rollout would be started: one that no server was asked about counts.
func startable(steps []*build.Step, servers map[string]*build.ServerState) bool {
	return slices.ContainsFunc(steps, func(s *build.Step) bool {
		if s.Verb != build.VerbStart {
			return false
		}
		state := servers[s.Action.Address]
		return state == nil || state.DeploymentID == "" || state.ArtifactName != s.Action.Rollout.Artifacts[0].Name
	})
}

// noteServers says what servers know of the plan's rollouts.
func (a *app) noteServers(plan *pipeline.Plan, states map[string]*build.ServerState) {
	for _, action := range plan.Actions {
		if state := states[action.Address]; state != nil {
			a.notef("%s on its server: %s\n", action.Address, printable(state.Describe()))
		}
	}
}

func (a *app) showPlan(plan *pipeline.Plan, steps []*build.Step) error {
	if done, err := a.asJSON(planJSON(plan, steps)); done {
		return err
	}
	a.printPlan(steps)
	return a.printImageMaps(plan)
}

func planJSON(plan *pipeline.Plan, steps []*build.Step) any {
	return struct {
		FormatVersion string        `json:"format_version"`
		Directory     string        `json:"directory"`
		OutDir        string        `json:"out_dir"`
		Steps         []*build.Step `json:"steps"`
	}{"1.0", plan.Dir, plan.OutDir, steps}
}

// printPlan writes one line per step, and its reasons.
func (a *app) printPlan(steps []*build.Step) {
	s := a.ui.out
	wide := 0
	for _, step := range steps {
		wide = max(wide, len(step.Action.Address))
	}
	for _, step := range steps {
		sign, verb := planSign(s, step.Verb)
		reason := ""
		if len(step.Reasons) > 0 {
			reason = step.Reasons[0].Detail
		} else {
			reason = planNote(step)
		}
		if step.Restore {
			reason = "restore from the cache: " + reason
		}
		a.printf("  %s %s  %s %s\n", sign, s.bold(fmt.Sprintf("%-*s", wide, step.Action.Address)), verb, s.dim(reason))
		for _, more := range step.Reasons[min(1, len(step.Reasons)):] {
			a.printf("  %*s %s\n", wide+12, "", s.dim(more.Detail))
		}
	}
	a.printf("%s\n", s.bold(count(steps).String()))
}

func planSign(s style, v build.Verb) (sign, verb string) {
	verb = fmt.Sprintf("%-8s", v)
	switch v {
	case build.VerbBuild:
		return s.green("+"), s.green(verb)
	case build.VerbRebuild, build.VerbSign:
		return s.yellow("~"), s.yellow(verb)
	case build.VerbStart:
		return s.cyan(">"), s.cyan(verb)
	}
	return s.dim("="), s.dim(verb)
}

// planNote says of a step without reasons what it stands for.
func planNote(step *build.Step) string {
	switch r := step.Action.Rollout; {
	case r != nil:
		names := make([]string, len(r.Phases))
		for i, p := range r.Phases {
			names[i] = p.Name
		}
		return fmt.Sprintf("%s on %s, %s: %s", r.Artifacts[0].Name, r.Server.URL, plural(len(r.Phases), "phase"), strings.Join(names, ", "))
	case step.Action.Source != nil:
		return relative(step.Action.Source.Outputs[0])
	case step.Action.Artifact != nil:
		return relative(step.Action.Artifact.Path)
	case step.Action.Image != nil:
		return relative(step.Action.Image.Path)
	}
	return ""
}

// printImageMaps draws the disk of each image of the plan.
func (a *app) printImageMaps(plan *pipeline.Plan) error {
	for _, action := range plan.Actions {
		if action.Image == nil {
			continue
		}
		m, err := build.ImageMap(action.Image)
		if err != nil {
			return &build.ActionError{Address: action.Address, Err: err}
		}
		a.printf("\n%s %s\n%s", a.ui.out.bold(action.Address), a.ui.out.dim(action.Image.DeviceType.Name), m.Bar(min(a.ui.width, 100)))
	}
	return nil
}

// tally counts steps by verb.
type tally struct{ build, rebuild, sign, restore, cached, start int }

func count(steps []*build.Step) tally {
	var t tally
	for _, s := range steps {
		switch {
		case s.Verb == build.VerbBuild:
			t.build++
		case s.Verb == build.VerbRebuild:
			t.rebuild++
		case s.Verb == build.VerbSign:
			t.sign++
		case s.Restore:
			t.restore++
		case s.Verb == build.VerbCached:
			t.cached++
		case s.Verb == build.VerbStart:
			t.start++
		}
	}
	return t
}

func (t tally) toMake() int { return t.build + t.rebuild + t.sign + t.restore }

func (t tally) String() string {
	text := fmt.Sprintf("Plan: %d to build, %d to rebuild", t.build, t.rebuild)
	if t.sign > 0 {
		text += fmt.Sprintf(", %d to sign", t.sign)
	}
	if t.restore > 0 {
		text += fmt.Sprintf(", %d from the cache", t.restore)
	}
	text += fmt.Sprintf(", %d up to date", t.cached)
	if t.start > 0 {
		text += ", " + plural(t.start, "rollout") + " to start"
	}
	return text + "."
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
