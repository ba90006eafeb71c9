package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

type outputOptions struct {
	raw    bool
	server bool
}

func (a *app) outputCommand() *cobra.Command {
	var o outputOptions
	c := &cobra.Command{
		Use:     "output [NAME]",
		Short:   "Print the pipeline's outputs",
		GroupID: groupMain,
		Long: `Print the pipeline's outputs. What only a build tells comes from the record of the last one. The deployments of rollouts are
known with --server alone: nothing else here asks it.`,
		Args: atMostOne("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runOutput(cmd.Context(), o, args) },
	}
	c.Flags().BoolVar(&o.raw, "raw", false, "print a string as it is, for scripts")
	c.Flags().BoolVar(&o.server, "server", false, "ask the servers for deployment_id and status of rollouts")
	return c
}

func (a *app) runOutput(ctx context.Context, o outputOptions, args []string) error {
	p, err := a.load()
	if err != nil {
		return err
	}
	built, err := lastBuild(p)
	if err != nil {
		return err
	}
	var deployments map[string]pipeline.Deployment
	if o.server {
		if deployments, err = a.deployments(ctx, p); err != nil {
			return err
		}
	}
	look := pipeline.OutputOptions{Built: built, Deployments: deployments, FS: build.Files{}}
	if len(args) > 0 {
		look.Name = args[0]
	}
	outputs, diags := p.Outputs(ctx, look)
	a.hide(p) // what came from files
	if err := a.check(p, diags); err != nil {
		return err
	}
	if len(args) == 0 {
		if o.raw {
			return usagef("--raw prints one output; name it")
		}
		return a.printAllOutputs(outputs)
	}
	for _, out := range outputs {
		if out.Name == args[0] {
			return a.printOneOutput(o, out)
		}
	}
	return &hintedError{fmt.Sprintf("the pipeline has no output %q", args[0]), "twinkeel output"}
}

// deployments asks the servers for the newest deployment of each rollout.
func (a *app) deployments(ctx context.Context, p *pipeline.Pipeline) (map[string]pipeline.Deployment, error) {
	rollouts, diags := p.Rollouts()
	if err := a.check(p, diags); err != nil {
		return nil, err
	}
	found := make(map[string]pipeline.Deployment, len(rollouts))
	for _, r := range rollouts {
		c, err := build.Connect(&r.Server)
		if err != nil {
			return nil, &build.ActionError{Address: r.Address, Err: err}
		}
		d, err := build.NewestDeployment(ctx, c, r.Name)
		if err != nil {
			return nil, &build.ActionError{Address: r.Address, Err: err}
		}
		found[r.Address] = pipeline.Deployment{Status: "not started"}
		if d != nil {
			found[r.Address] = pipeline.Deployment{ID: d.ID, Status: d.State()}
		}
	}
	return found, nil
}

// lastBuild is what out/ holds, for outputs that tell of it.
func lastBuild(p *pipeline.Pipeline) (map[string]pipeline.BuiltFile, error) {
	record, err := build.ReadRecord(p.OutDir())
	if err != nil {
		return nil, err
	}
	built := make(map[string]pipeline.BuiltFile, len(record.Outputs))
	for address, out := range record.Outputs {
		built[address] = pipeline.BuiltFile{Size: out.Size, SHA256: out.SHA256}
		if out.Signer != "" && out.SignerPublicKey != "" {
			built[out.Signer] = pipeline.BuiltFile{PublicKey: out.SignerPublicKey}
		}
	}
	return built, nil
}

func (a *app) printAllOutputs(outputs []pipeline.Output) error {
	all := map[string]pipeline.Output{}
	for _, out := range outputs {
		all[out.Name] = out
	}
	if done, err := a.asJSON(all); done {
		return err
	}
	for _, out := range outputs {
		a.printf("%s = %s\n", a.ui.out.bold(out.Name), outputText(out))
	}
	return nil
}

func (a *app) printOneOutput(o outputOptions, out pipeline.Output) error {
	if !out.Known {
		return fmt.Errorf("output %q is known only after a build, or from the server (--server)", out.Name)
	}
	if out.Sensitive {
		return fmt.Errorf("output %q is sensitive and is never printed", out.Name)
	}
	if o.raw {
		var text string
		if json.Unmarshal(out.Value, &text) != nil {
			return usagef("output %q is not a string; use --json", out.Name)
		}
		a.printf("%s", text)
		return nil
	}
	a.printf("%s\n", outputText(out))
	return nil
}

func outputText(out pipeline.Output) string {
	switch {
	case out.Sensitive: // in the list of all
		return "(sensitive value)"
	case !out.Known:
		return "(known after build)"
	}
	var v any
	if json.Unmarshal(out.Value, &v) == nil {
		if text, err := json.MarshalIndent(v, "", "  "); err == nil {
			return printable(string(text))
		}
	}
	return printable(string(out.Value))
}
