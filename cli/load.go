package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/twinkeel/twinkeel/internal/version"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

func (a *app) loadOptions() pipeline.LoadOptions {
	return pipeline.LoadOptions{Dir: a.global.dir, Args: a.global.vars, Environ: a.env, Version: version.Version, Layouts: build.Layouts{}}
}

// load reads the pipeline that the global flags name. Its secrets are hidden from then on.
func (a *app) load() (*pipeline.Pipeline, error) {
	p, diags := pipeline.Load(a.loadOptions())
	if p != nil {
		a.pipeline = p
		a.hide(p)
		a.logPipeline(p)
	}
	return p, a.check(p, diags)
}

// hide keeps the pipeline's secrets, and those of the environment, from every stream.
func (a *app) hide(p *pipeline.Pipeline) {
	secrets := p.Secrets()
	for _, name := range []string{"TWINKEEL_TOKEN", "TWINKEEL_KEY_PASSPHRASE", "TWINKEEL_PKCS11_PIN"} {
		if value := a.getenv(name); value != "" {
			secrets = append(secrets, value)
		}
	}
	for _, w := range a.streams() {
		w.hide(secrets)
	}
}

// plan loads the pipeline and plans the targets, or everything.
func (a *app) plan(ctx context.Context, targets []string) (*pipeline.Pipeline, *pipeline.Plan, error) {
	p, err := a.load()
	if err != nil {
		return nil, nil, err
	}
	plan, diags := p.Plan(ctx, pipeline.PlanOptions{Targets: targets, FS: build.Files{}})
	a.hide(p) // what came from files while planning
	if err := a.check(p, diags); err != nil {
		return nil, nil, err
	}
	return p, plan, nil
}

// check turns errors among the diagnostics into an error, and prints what are only warnings.
func (a *app) check(p *pipeline.Pipeline, diags hcl.Diagnostics) error {
	if len(diags) == 0 {
		return nil
	}
	var files map[string]*hcl.File
	if p != nil {
		files = p.Files()
	}
	a.strict(diags)
	if diags.HasErrors() {
		return &diagnosticsError{diags, files}
	}
	a.reportDiagnostics(diags, files)
	return nil
}

// strict makes errors of warnings, where --warnings-as-errors wants it.
func (a *app) strict(diags hcl.Diagnostics) {
	if !a.global.warningsAsErrors {
		return
	}
	for _, d := range diags {
		d.Severity = hcl.DiagError
	}
}

// decide plans the targets, or everything, and says what is to be done about those of the given kinds and what they
// need. No kind means all.
func (a *app) decide(ctx context.Context, targets []string, force bool, kinds ...pipeline.Kind) (*pipeline.Plan, []*build.Step, error) {
	_, plan, err := a.planOf(ctx, targets, kinds...)
	if err != nil {
		return nil, nil, err
	}
	steps, err := a.decideSteps(ctx, plan, force)
	return plan, steps, err
}

func (a *app) decideSteps(ctx context.Context, plan *pipeline.Plan, force bool) ([]*build.Step, error) {
	steps, err := build.Decide(ctx, plan, force)
	a.logSteps(steps)
	return steps, err
}

// planOf plans the targets and keeps the actions of the given kinds, with what they need. Without targets the whole
// pipeline is planned first, so that its checks hold whatever a command is about.
func (a *app) planOf(ctx context.Context, targets []string, kinds ...pipeline.Kind) (*pipeline.Pipeline, *pipeline.Plan, error) {
	p, plan, err := a.plan(ctx, targets)
	if err != nil || len(kinds) == 0 {
		return p, plan, err
	}
	needed := map[string]bool{}
	for _, action := range slices.Backward(plan.Actions) { // those that need come after what they need
		if slices.Contains(kinds, action.Kind) || action.Source != nil && action.Named || needed[action.Address] {
			needed[action.Address] = true
			for _, address := range action.DependsOn {
				needed[address] = true
			}
		}
	}
	if err := a.checkNamed(plan, kinds, needed); err != nil {
		return nil, nil, err
	}
	plan.Actions = slices.DeleteFunc(plan.Actions, func(action *pipeline.Action) bool { return !needed[action.Address] })
	if len(plan.Actions) == 0 && len(targets) > 0 {
		return nil, nil, usagef("%s names no %s", strings.Join(targets, " "), kinds[0])
	}
	return p, plan, nil
}

// kindWords are what blocks make, and the commands that make it.
var kindWords = map[pipeline.Kind]struct{ word, command string }{
	pipeline.KindArtifact: {"an artifact", "twinkeel build"},
	pipeline.KindImage:    {"a disk image", "twinkeel image"},
	pipeline.KindRollout:  {"a rollout", "twinkeel rollout start"},
}

// checkNamed refuses targets that are all of other kinds than a command is about, although what they are made from is of
// such a kind: whoever names an image does not ask for its artifact. Of several targets it says which is left out.
func (a *app) checkNamed(plan *pipeline.Plan, kinds []pipeline.Kind, needed map[string]bool) error {
	var other *pipeline.Action
	meant := false
	for _, action := range plan.Actions {
		switch {
		case !action.Named:
		case action.Source != nil || slices.Contains(kinds, action.Kind):
			meant = true
		case other == nil && !needed[action.Address]:
			other = action
		}
	}
	if other == nil {
		return nil
	}
	is := kindWords[other.Kind]
	err := &hintedError{
		fmt.Sprintf("%s is %s, not %s", other.Address, is.word, kindWords[kinds[0]].word),
		is.command + " " + strings.ReplaceAll(other.Address, `"`, ""),
	}
	if !meant {
		return &usageError{err}
	}
	a.warnf("%s, and left out (%s)", err.text, err.hint)
	return nil
}

// relative shortens a path for messages: relative to the directory in which the user is.
func relative(path string) string {
	abs, err := filepath.Abs(".")
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(abs, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}
