package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
)

func (a *app) functionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "functions [NAME]",
		Short:   "Describe the functions of expressions",
		GroupID: groupInside,
		Long: `Describe the functions that expressions may use, or one of them. To try one:

  twinkeel console -e 'semver::bump("1.2.3", "minor")'`,
		Args: atMostOne("NAME"),
		RunE: func(_ *cobra.Command, args []string) error { return a.runFunctions(args) },
	}
}

func (a *app) runFunctions(args []string) error {
	all := pipeline.Functions()
	if len(args) > 0 {
		return a.printFunction(all, args[0])
	}
	if done, err := a.asJSON(struct {
		FormatVersion string                  `json:"format_version"`
		Functions     []pipeline.FunctionInfo `json:"functions"`
	}{"1.0", all}); done {
		return err
	}
	group := ""
	for _, f := range all {
		if f.Group != group {
			if group != "" {
				a.printf("\n")
			}
			group = f.Group
			a.printf("%s\n", a.ui.out.bold(group))
		}
		a.printf("  %-42s %s\n", f.Signature, a.ui.out.dim(plainText(f.Description)))
	}
	return nil
}

func (a *app) printFunction(all []pipeline.FunctionInfo, name string) error {
	i := slices.IndexFunc(all, func(f pipeline.FunctionInfo) bool { return f.Name == name })
	switch instead := pipeline.ReplacedFunction(name); {
	case i >= 0:
	case instead != "":
		return &usageError{&hintedError{fmt.Sprintf("%s is not available, because two builds of one input must be equal", name), "use " + instead}}
	case pipeline.LeftOutFunction(name) != "":
		return &usageError{&hintedError{fmt.Sprintf("there is no function %s", name), pipeline.LeftOutFunction(name)}}
	default:
		return &usageError{&hintedError{fmt.Sprintf("there is no function %q", name), "twinkeel functions"}}
	}
	f := all[i]
	if done, err := a.asJSON(f); done {
		return err
	}
	a.printf("%s\n", a.ui.out.bold(f.Signature))
	a.printText("  ", plainText(f.Description)+".")
	t := table{}
	for _, p := range f.Parameters {
		t.add("  "+p.Name, p.Type)
	}
	if f.Variadic != nil {
		t.add("  "+f.Variadic.Name+"...", f.Variadic.Type)
	}
	t.print(a.stdout)
	return nil
}

// plainText takes the marks of code out of a description.
func plainText(description string) string { return strings.ReplaceAll(description, "`", "") }
