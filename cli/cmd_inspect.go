package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

type inspectOptions struct{ offline bool }

func (o *inspectOptions) addFlags(c *cobra.Command) {
	c.Flags().BoolVar(&o.offline, "offline", false, "read no deploy directory and need no variables; what they tell is not known")
}

func (a *app) inspectCommand() *cobra.Command {
	var o inspectOptions
	c := &cobra.Command{
		Use:     "inspect [ADDRESS]...",
		Short:   "Show the values of variables, blocks and outputs",
		GroupID: groupInside,
		Long: `Show what the pipeline's expressions come to: variables with where they were given, local values, blocks with all their
arguments and what they compute, outputs. Addresses and patterns (var.version, artifact, 'artifact.os[*]', source.yocto.*) limit
it, and then only what they need is evaluated.

Size and SHA-256 of outputs are those of the last build; before it they show as (known after build). Sensitive values are hidden.
With --json the paths of what is hidden or unknown stand beside each value.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runInspect(cmd.Context(), o, args) },
	}
	o.addFlags(c)
	return c
}

// lookOptions are the options for those who look and make nothing.
func (o *inspectOptions) lookOptions(p *pipeline.Pipeline, targets []string) (pipeline.InspectOptions, error) {
	look := pipeline.InspectOptions{Targets: targets, Offline: o.offline, FS: build.Files{}}
	if o.offline {
		return look, nil
	}
	var err error
	look.Built, err = lastBuild(p)
	return look, err
}

func (a *app) runInspect(ctx context.Context, o inspectOptions, targets []string) error {
	p, err := a.load()
	if err != nil {
		return err
	}
	look, err := o.lookOptions(p, targets)
	if err != nil {
		return err
	}
	found, diags := p.Inspect(ctx, look)
	a.hide(p)
	if err := a.check(p, diags); err != nil {
		return err
	}
	if done, err := a.asJSON(struct {
		FormatVersion string               `json:"format_version"`
		Values        []pipeline.Inspected `json:"values"`
	}{"1.0", found}); done {
		return err
	}
	s := a.ui.out
	for _, one := range found {
		where := fmt.Sprintf("%s:%d", p.FileName(one.File), one.Line)
		if one.Origin != "" {
			where += ", value from " + one.Origin
		}
		a.printf("%s\n%s = %s\n", s.dim(printable("# "+where)), s.bold(printable(one.Address)), printable(one.Text))
	}
	return nil
}
