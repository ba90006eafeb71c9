package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
)

type graphOptions struct{ format, kind string }

func (a *app) graphCommand() *cobra.Command {
	var o graphOptions
	c := &cobra.Command{
		Use:     "graph [ADDRESS]...",
		Short:   "Draw what needs what",
		GroupID: groupInside,
		Long: `Draw what needs what, for Graphviz, for Mermaid, or as JSON. Addresses and patterns (artifact.*) limit it to what they name and
what that needs.

There are two graphs. That of the values has every reference that is written, whatever its value; it reads no files. That of the
actions has what would be built and started, with the keys and servers that would be used: of two signers in a conditional, the
one that was chosen.

  twinkeel graph | dot -Tsvg > pipeline.svg
  twinkeel graph --type actions --format mermaid`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runGraph(cmd.Context(), o, args) },
	}
	c.Flags().StringVar(&o.format, "format", "dot", "`form` of the graph: dot, mermaid or json (also --json)")
	c.Flags().StringVar(&o.kind, "type", "values", "`graph` to draw: values or actions")
	return c
}

func (a *app) runGraph(ctx context.Context, o graphOptions, targets []string) error {
	if o.format != "dot" && o.format != "mermaid" && o.format != "json" {
		return usagef("--format takes dot, mermaid or json, not %q", o.format)
	}
	g, err := a.graph(ctx, o.kind, targets)
	if err != nil {
		return err
	}
	document := struct {
		FormatVersion string `json:"format_version"`
		Type          string `json:"type"`
		*pipeline.Graph
	}{"1.0", o.kind, g}
	if done, err := a.asJSON(document); done {
		return err
	}
	switch o.format {
	case "json":
		return a.printJSON(document)
	case "mermaid":
		a.printf("%s", printable(g.Mermaid()))
	default:
		a.printf("%s", printable(g.DOT()))
	}
	return nil
}

func (a *app) graph(ctx context.Context, kind string, targets []string) (*pipeline.Graph, error) {
	switch kind {
	case "values":
		p, err := a.load()
		if err != nil {
			return nil, err
		}
		g, diags := p.ValueGraph(targets)
		return g, a.check(p, diags)
	case "actions":
		_, plan, err := a.plan(ctx, targets)
		if err != nil {
			return nil, err
		}
		return plan.ActionGraph(), nil
	}
	return nil, usagef("--type takes values or actions, not %q", kind)
}
