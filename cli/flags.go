package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/twinkeel/twinkeel/pipeline"
)

// varFlag collects --var and --var-file in the order in which they stand, because the later one wins.
type varFlag struct {
	args *[]pipeline.VarArg
	file bool
}

func (f *varFlag) String() string { return "" }
func (f *varFlag) Type() string   { return "string" }

func (f *varFlag) Set(value string) error {
	if f.file {
		*f.args = append(*f.args, pipeline.VarArg{File: value})
		return nil
	}
	if name, _, ok := strings.Cut(value, "="); !ok || name == "" {
		return fmt.Errorf("write it as name=value")
	}
	*f.args = append(*f.args, pipeline.VarArg{Var: value})
	return nil
}

// commandPath returns the root and the commands that args name, as far as they can be told before flags are parsed.
func commandPath(root *cobra.Command, args []string) []*cobra.Command {
	path := []*cobra.Command{root}
	at := root
	for _, arg := range args {
		for _, sub := range at.Commands() {
			if sub.Name() == arg || sub.HasAlias(arg) {
				path, at = append(path, sub), sub
				break
			}
		}
	}
	return path
}

func flagNames(c *cobra.Command) []string {
	var names []string
	add := func(f *pflag.Flag) { names = append(names, f.Name) }
	c.PersistentFlags().VisitAll(add)
	c.Flags().VisitAll(add)
	return names
}

// plainFlagError leaves out of a flag's error what only a Go programmer understands.
func plainFlagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		return unknownFlag(cmd, unknown)
	}
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	flag := invalid.GetFlag()
	reason := ""
	switch flag.Value.Type() {
	case "int":
		reason = "it takes a number"
	case "duration":
		reason = "it takes a duration, such as 90m or 720h"
	default:
		reason = invalid.Unwrap().Error()
	}
	return fmt.Errorf("--%s %q: %s", flag.Name, invalid.GetValue(), reason)
}

// unknownFlag names a flag as it was written, and the one that was meant if one looks like it. pflag reads -no-colr as a
// group of one-letter flags.
func unknownFlag(cmd *cobra.Command, unknown *pflag.NotExistError) error {
	name, written := unknown.GetSpecifiedName(), "--"+unknown.GetSpecifiedName()
	if group := unknown.GetSpecifiedShortnames(); group != "" {
		name, written = strings.TrimPrefix(group, "-"), "-"+group
		name, _, _ = strings.Cut(name, "=")
	}
	best, distance := "", 3
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if d := levenshtein.Distance(name, f.Name, nil); d < distance && d < len(name) {
			best, distance = f.Name, d
		}
	})
	hint := cmd.CommandPath() + " --help"
	if best != "" {
		hint = "did you mean --" + best + "?"
	}
	return &hintedError{"there is no flag " + written, hint}
}

// targetFlags let addresses be given to commands as in Terraform, with -target.
func targetFlags(root *cobra.Command, commands ...string) {
	for _, c := range root.Commands() {
		if !slices.Contains(commands, c.Name()) {
			continue
		}
		var targets []string
		c.Flags().StringArrayVar(&targets, "target", nil, "an `address`, as an argument")
		_ = c.Flags().MarkHidden("target")
		run := c.RunE
		c.RunE = func(cmd *cobra.Command, args []string) error { return run(cmd, append(args, targets...)) }
	}
}

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// exactArgs is cobra.ExactArgs with a message that names what is wanted.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		want := "no arguments"
		if len(names) > 0 {
			want = strings.Join(names, " ")
		}
		return usagef("%s takes %s; got %s", cmd.CommandPath(), want, plural(len(args), "argument"))
	}
}

// onlyCommands is for commands that only hold others: an argument is a misspelt one.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := &unknownCommandError{path: cmd.CommandPath(), name: args[0]}
	cmd.SuggestionsMinimumDistance = 2
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		err.similar = similar[0]
	}
	return &usageError{err}
}

type unknownCommandError struct{ path, name, similar string }

func (e *unknownCommandError) Error() string {
	return fmt.Sprintf("%s has no command %q", e.path, e.name)
}

// Hint names the command that was meant, if one looks like it.
func (e *unknownCommandError) Hint() string {
	if e.similar != "" {
		return e.path + " " + e.similar
	}
	return e.path + " --help"
}

// helpRun prints the help of a command that only holds others.
func helpRun(cmd *cobra.Command, _ []string) error { return cmd.Help() }

func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < 2 {
			return nil
		}
		return usagef("%s takes one %s at most; got %s", cmd.CommandPath(), name, plural(len(args), "argument"))
	}
}

func atLeastOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return nil
		}
		return usagef("%s needs at least one %s", cmd.CommandPath(), name)
	}
}

// notEmpty is a flag that cannot be given an empty value, as from a variable that is not set: `--key "$KEY"` must not mean
// that nothing is signed.
type notEmpty string

func (f *notEmpty) String() string { return string(*f) }
func (f *notEmpty) Type() string   { return "string" }

func (f *notEmpty) Set(value string) error {
	if value == "" {
		return errors.New("it is empty")
	}
	*f = notEmpty(value)
	return nil
}
