package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
)

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:       "completion bash|zsh|fish|powershell",
		Short:     "Print a script that completes commands in a shell",
		ValidArgs: shells,
		Long: `Print a script that lets a shell complete commands, flags and what they take, and the addresses of the pipeline in the
working directory (or in that of -C).

For bash (with the package bash-completion), for you alone:
  mkdir -p ~/.local/share/bash-completion/completions
  twinkeel completion bash > ~/.local/share/bash-completion/completions/twinkeel

For zsh, into a directory of $fpath, such as:
  twinkeel completion zsh > /usr/local/share/zsh/site-functions/_twinkeel

For fish:
  twinkeel completion fish > ~/.config/fish/completions/twinkeel.fish

For PowerShell, in the file that $PROFILE names:
  twinkeel completion powershell | Out-String | Invoke-Expression

A new shell has it. To try it at once in bash:
  source <(twinkeel completion bash)`,
		Args: exactArgs("SHELL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			return usagef("there is no completion for %q; there is for %s", args[0], strings.Join(shells, ", "))
		},
	}
}

// completeArguments lets the shells complete the arguments of commands that take names from the pipeline. A pipeline that
// can't be read completes nothing, in silence.
func (a *app) completeArguments(root *cobra.Command) {
	kinds := map[string][]string{
		"plan": {"artifact", "image", "rollout"}, "build": {"artifact"}, "image": {"image"}, "push": {"artifact"},
		"apply": {"artifact", "image", "rollout"}, "inspect": {}, "graph": {},
		"rollout start": {"rollout"}, "rollout status": {"rollout"}, "rollout pause": {"rollout"}, "rollout resume": {"rollout"},
		"rollout abort": {"rollout"}, "rollout approve": {"rollout"}, "rollout retry": {"rollout"},
	}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		name := strings.TrimPrefix(c.CommandPath(), root.Name()+" ")
		if of, ok := kinds[name]; ok && c.ValidArgsFunction == nil {
			c.ValidArgsFunction = a.completeFrom(func() []string { return a.addresses(of...) }, true)
			if c.Flags().Lookup("target") != nil {
				_ = c.RegisterFlagCompletionFunc("target", c.ValidArgsFunction)
			}
		}
		switch name {
		case "output":
			c.ValidArgsFunction = a.completeFrom(func() []string {
				names := a.addresses("output")
				for i, n := range names {
					names[i] = strings.TrimPrefix(n, "output.")
				}
				return names
			}, false)
		case "schema":
			c.ValidArgsFunction = a.completeFrom(kindNames, false)
		case "functions":
			c.ValidArgsFunction = a.completeFrom(functionNames, false)
		case "keys show", "keys fingerprint":
			c.ValidArgsFunction = completeKeys
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
	a.completeFlags(root)
}

// completeFlags lets the shells complete what flags take, as far as it can be known without asking a server.
func (a *app) completeFlags(root *cobra.Command) {
	fixed := func(values ...string) func(context.Context) []string {
		return func(context.Context) []string { return values }
	}
	unlabelled := func(kind string) func(context.Context) []string {
		return func(context.Context) []string {
			names := a.addresses(kind)
			for i, n := range names {
				names[i] = strings.TrimPrefix(n, kind+".")
			}
			return names
		}
	}
	for _, f := range []struct {
		command, flag string // no command: the root's
		names         func(context.Context) []string
	}{
		{"", "color", fixed("auto", "always", "never")},
		{"", "progress", fixed("auto", "tty", "plain", "json", "quiet")},
		{"", "log-level", fixed("debug", "info", "warn", "error")},
		{"graph", "format", fixed("dot", "mermaid", "json")},
		{"graph", "type", fixed("values", "actions")},
		{"init", "from", fixed("yocto")},
		{"push", "server", unlabelled("server")},
		{"devices", "server", unlabelled("server")},
		{"devices list", "status", fixed("pending", "accepted", "rejected")},
		{"test", "filter", a.testNames},
	} {
		c, _, err := root.Find(strings.Fields(f.command))
		if err == nil {
			err = c.RegisterFlagCompletionFunc(f.flag, func(cmd *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
				return a.completeFrom(func() []string { return f.names(cmd.Context()) }, false)(cmd, nil, toComplete)
			})
		}
		if err != nil {
			panic(err) // a flag that has been renamed: every test finds it
		}
	}
	_ = root.RegisterFlagCompletionFunc("var", a.completeVar)
	_ = root.MarkPersistentFlagFilename("var-file", "twinkeelvars.hcl", "twinkeelvars.json")
	_ = root.MarkPersistentFlagDirname("chdir")
}

// completeVar completes the names of the pipeline's own variables, up to the equals sign.
func (a *app) completeVar(_ *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	for _, n := range a.addresses("variable") {
		if name, ok := strings.CutPrefix(n, "var."); ok && strings.HasPrefix(name, toComplete) {
			out = append(out, name+"=")
		}
	}
	return out, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

// completeKeys completes files of keys.
func completeKeys(_ *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return []cobra.Completion{"pem", "pub", "key"}, cobra.ShellCompDirectiveFilterFileExt
}

// testNames are the names of the pipeline's runs and of their files.
func (a *app) testNames(ctx context.Context) []string {
	p, diags := pipeline.Load(a.loadOptions())
	a.hide(p)
	paths, err := pipeline.TestFiles(a.global.dir)
	if diags.HasErrors() || err != nil {
		return nil
	}
	tests, _ := p.LoadTests(ctx, paths, nil)
	return tests.Names()
}

// completeFrom completes arguments from names: one, or any number of different ones.
func (a *app) completeFrom(names func() []string, several bool) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && !several {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		given := make(map[string]bool, len(args))
		for _, arg := range args {
			given[arg] = true
		}
		var out []cobra.Completion
		for _, n := range names() {
			if strings.HasPrefix(n, toComplete) && !given[n] && printable(n) == n {
				out = append(out, n)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// addresses are the pipeline's, whatever is wrong with it.
func (a *app) addresses(kinds ...string) []string {
	p, _ := pipeline.Load(a.loadOptions())
	a.hide(p)
	return p.Addresses(kinds...)
}

func kindNames() []string {
	var names []string
	for _, k := range pipeline.Schema() {
		names = append(names, fmt.Sprintf("%s\t%s", k.Kind, k.Description))
	}
	return names
}

func functionNames() []string {
	var names []string
	for _, f := range pipeline.Functions() {
		names = append(names, fmt.Sprintf("%s\t%s", f.Name, plainText(f.Description)))
	}
	return names
}
