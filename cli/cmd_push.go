package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

type pushOptions struct {
	server serverOptions
	signer string
}

func (a *app) pushCommand() *cobra.Command {
	var o pushOptions
	c := &cobra.Command{
		Use:     "push [ADDRESS]...",
		Short:   "Upload built artifacts to the server",
		GroupID: groupMain,
		Long: `Upload built artifacts. What the server has already, byte for byte, is not sent again; a release that the server has
under the same name with other content is an error. So is an artifact that is not up to date, or not signed by the signer
that its block names; --signer says that another one is meant, as for "twinkeel sign".`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runPush(cmd.Context(), o, args) },
	}
	o.server.addFlags(c)
	c.Flags().Var((*notEmpty)(&o.signer), "signer", "`address` of the signer block that has signed, when it is not the one that artifacts name")
	return c
}

func (a *app) runPush(ctx context.Context, o pushOptions, targets []string) error {
	p, plan, err := a.planOf(ctx, targets, pipeline.KindArtifact)
	if err != nil {
		return err
	}
	if len(plan.Actions) == 0 {
		return noBlockError(pipeline.KindArtifact)
	}
	if err := a.signWith(p, plan, o.signer); err != nil {
		return err
	}
	server, err := o.server.choose(p)
	if err != nil {
		return err
	}
	pushed, err := a.push(ctx, server, plan, artifactsOf(plan.Actions))
	if err != nil {
		return err
	}
	if done, err := a.asJSON(notNil(pushed)); done {
		return err
	}
	t := table{}
	for _, x := range pushed {
		state := "uploaded"
		if x.Already {
			state = "already there"
		}
		t.add(x.Address, state, x.Name, size(x.Size), x.ID)
	}
	t.print(a.stdout)
	return nil
}

func (a *app) push(ctx context.Context, server *pipeline.Server, plan *pipeline.Plan, artifacts []*pipeline.Artifact) ([]build.Pushed, error) {
	c, err := build.Connect(server)
	if err != nil {
		return nil, err
	}
	show := a.newProgress(ctx)
	defer show.close()
	return build.Push(ctx, c, plan, artifacts, show.event)
}

func artifactsOf(actions []*pipeline.Action) []*pipeline.Artifact {
	var artifacts []*pipeline.Artifact
	for _, action := range actions {
		if action.Artifact != nil {
			artifacts = append(artifacts, action.Artifact)
		}
	}
	return artifacts
}

// serverOptions choose one of the pipeline's servers.
type serverOptions struct{ name string }

func (o *serverOptions) addFlags(c *cobra.Command) {
	c.Flags().StringVar(&o.name, "server", "", "`name` of the server block to use, where there are several")
}

func (o *serverOptions) choose(p *pipeline.Pipeline) (*pipeline.Server, error) {
	servers, diags := p.Servers()
	if diags.HasErrors() {
		return nil, &diagnosticsError{diags, p.Files()}
	}
	if o.name == "" && len(servers) == 1 {
		return &servers[0], nil
	}
	names := make([]string, len(servers))
	for i := range servers {
		names[i] = servers[i].Address
		if names[i] == o.name || names[i] == "server."+o.name {
			return &servers[i], nil
		}
	}
	slices.Sort(names)
	switch {
	case len(servers) == 0:
		return nil, &hintedError{"the pipeline has no server", `add a block: server "local" { url = "http://127.0.0.1:8080" }`}
	case o.name == "":
		return nil, usagef("the pipeline has several servers; choose one with --server: %v", names)
	}
	return nil, usagef("there is no server %q in the pipeline; it has %v", o.name, names)
}

// hintedError is an error with advice.
type hintedError struct{ text, hint string }

func (e *hintedError) Error() string { return e.text }

// Hint gives the advice.
func (e *hintedError) Hint() string { return e.hint }
