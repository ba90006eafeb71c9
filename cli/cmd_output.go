package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

type outputOptions struct{ raw bool }

func (a *app) outputCommand() *cobra.Command {
	var o outputOptions
	c := &cobra.Command{
		Use:     "output [NAME]",
		Short:   "Print the pipeline's outputs",
		GroupID: groupMain,
		Args:    atMostOne("NAME"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runOutput(cmd.Context(), o, args) },
	}
	c.Flags().BoolVar(&o.raw, "raw", false, "print a string as it is, for scripts")
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
	outputs, diags := p.Outputs(ctx, pipeline.OutputOptions{Built: built, FS: build.Files{}})
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

// lastBuild is what out/ holds, for outputs that tell of it.
func lastBuild(p *pipeline.Pipeline) (map[string]pipeline.BuiltFile, error) {
	record, err := build.ReadRecord(p.OutDir())
	if err != nil {
		return nil, err
	}
	built := make(map[string]pipeline.BuiltFile, len(record.Outputs))
	for address, out := range record.Outputs {
		built[address] = pipeline.BuiltFile{Size: out.Size, SHA256: out.SHA256}
	}
	return built, nil
}

func (a *app) printAllOutputs(outputs []pipeline.Output) error {
	if a.global.json {
		all := map[string]pipeline.Output{}
		for _, out := range outputs {
			all[out.Name] = out
		}
		return a.printJSON(all)
	}
	for _, out := range outputs {
		a.printf("%s = %s\n", a.ui.out.bold(out.Name), outputText(out))
	}
	return nil
}

func (a *app) printOneOutput(o outputOptions, out pipeline.Output) error {
	if !out.Known {
		return fmt.Errorf("output %q is known only after a build", out.Name)
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
