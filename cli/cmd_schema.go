package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
)

type schemaOptions struct{ jsonSchema bool }

func (a *app) schemaCommand() *cobra.Command {
	var o schemaOptions
	c := &cobra.Command{
		Use:     "schema [KIND]",
		Short:   "Describe the blocks and arguments of pipeline files",
		GroupID: groupInside,
		Long: `Describe the blocks and arguments of pipeline files: all kinds of blocks in a line each, or one kind with its arguments.
With --json it is a table for programs.

With --json-schema it is a JSON Schema (draft 2020-12) of the JSON syntax, *.twinkeel.json, for editors:

  twinkeel schema --json-schema > twinkeel.schema.json`,
		Args: atMostOne("KIND"),
		RunE: func(_ *cobra.Command, args []string) error { return a.runSchema(o, args) },
	}
	c.Flags().BoolVar(&o.jsonSchema, "json-schema", false, "print a JSON Schema of the JSON syntax")
	return c
}

func (a *app) runSchema(o schemaOptions, args []string) error {
	if o.jsonSchema {
		if len(args) > 0 {
			return usagef("--json-schema is about whole files; leave out %s", args[0])
		}
		return a.printJSON(pipeline.JSONSchema())
	}
	kinds, tests := pipeline.Schema(), pipeline.TestSchema()
	if len(args) > 0 {
		kinds = slices.Concat(kinds, tests)
		i := slices.IndexFunc(kinds, func(k pipeline.KindInfo) bool { return k.Kind == args[0] })
		if i < 0 {
			return &usageError{&hintedError{fmt.Sprintf("there is no block %q", args[0]), "twinkeel schema"}}
		}
		if done, err := a.asJSON(kinds[i]); done {
			return err
		}
		a.printKind(kinds[i], "")
		return nil
	}
	if done, err := a.asJSON(struct {
		FormatVersion string              `json:"format_version"`
		Blocks        []pipeline.KindInfo `json:"blocks"`
		TestBlocks    []pipeline.KindInfo `json:"test_blocks"` // of *.twinkeeltest.hcl
	}{"1.0", kinds, tests}); done {
		return err
	}
	t := table{}
	for _, k := range slices.Concat(kinds, tests) {
		first, _, _ := strings.Cut(k.Description, ". ")
		t.add(k.Kind, strings.TrimSuffix(first, "."))
	}
	t.print(a.stdout)
	return nil
}

// printKind describes a kind of block, and below it the kinds inside it.
func (a *app) printKind(k pipeline.KindInfo, margin string) {
	header := k.Kind
	for _, l := range k.Labels {
		header += fmt.Sprintf(" %q", strings.ToUpper(l))
	}
	a.printf("%s%s { ... }\n", margin, a.ui.out.bold(header))
	a.printText(margin+"  ", k.Description)
	a.printArguments(k.Arguments, margin+"  ")
	if k.ForEach {
		a.printArguments([]pipeline.ArgumentInfo{{Name: "for_each", Type: "map or set", Description: "One block for each element: each.key and each.value."}}, margin+"  ")
	}
	for _, t := range k.Types {
		a.printf("%s%s\n", margin+"  ", a.ui.out.bold(fmt.Sprintf("%s %q", k.Kind, t.Name)))
		a.printText(margin+"    ", t.Description)
		a.printArguments(t.Arguments, margin+"    ")
		for _, n := range t.Blocks {
			a.printKind(n, margin+"    ")
		}
	}
	for _, n := range k.Blocks {
		a.printKind(n, margin+"  ")
	}
	if len(k.Values) > 0 {
		a.printf("%s%s\n", margin+"  ", a.ui.out.bold("Values of "+k.Address))
		for _, v := range k.Values {
			a.printf("%s%s (%s, known: %s)\n", margin+"    ", v.Name, v.Type, v.Known)
			a.printText(margin+"        ", v.Description)
		}
	}
}

func (a *app) printArguments(args []pipeline.ArgumentInfo, margin string) {
	for _, arg := range args {
		traits := []string{arg.Type}
		if arg.Required {
			traits = append(traits, "required")
		}
		if len(arg.Default) > 0 {
			traits = append(traits, "default "+string(arg.Default))
		}
		if arg.Secret {
			traits = append(traits, "takes secrets")
		}
		a.printf("%s%s (%s)\n", margin, a.ui.out.cyan(arg.Name), strings.Join(traits, ", "))
		text := arg.Description
		if len(arg.Enum) > 1 {
			text += " One of " + strings.Join(arg.Enum, ", ") + "."
		}
		a.printText(margin+"    ", text)
	}
}

// printText writes a paragraph in lines of bearable length.
func (a *app) printText(margin, text string) {
	line := margin
	for _, word := range strings.Fields(text) {
		if len(line)+len(word) >= min(a.ui.width, 100) && line != margin {
			a.printf("%s\n", strings.TrimRight(line, " "))
			line = margin
		}
		line += word + " "
	}
	a.printf("%s\n", strings.TrimRight(line, " "))
}
