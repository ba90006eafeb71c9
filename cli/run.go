// Package cli is the twinkeel command: flags, wording and exit codes. Each command is one file, which turns flags into
// options, calls the room that does the work and says what came of it.
//
// Results go to stdout and everything else (progress, warnings, errors) to stderr. With --json the results are JSON,
// and so is an error. What sensitive variables hold never appears in either.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/version"
	"github.com/twinkeel/twinkeel/pipeline"
)

// Run runs one command line and returns the process's exit code (see exit.go). Env is in the form of os.Environ.
func Run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := newApp(env, stdin, stdout, stderr)
	root := app.rootCommand()
	args = longFlags(root, args)
	root.SetArgs(args)
	began := time.Now()
	err := root.ExecuteContext(ctx)
	if isUsage(err) && slices.Contains(args, "--json") {
		app.global.json = true // the flags may not have been read as far as that
	}
	app.stdout.flush()
	if err == nil && app.stdout.err != nil {
		err = fmt.Errorf("writing the result: %w", app.stdout.err)
	}
	app.reportError(ctx, err)
	app.flushReport()
	if lost := app.closeJSONFile(); lost != nil {
		app.reportError(ctx, lost)
		app.flushReport()
		err = errors.Join(err, lost)
	}
	code := exitCode(ctx, err)
	app.closeLog(ctx, code, began, err)
	app.stderr.flush()
	return code
}

// app is what every command has: the streams, the environment and the global flags.
type app struct {
	env    []string
	stdin  io.Reader
	stdout *redactedWriter
	stderr *redactedWriter
	ui     ui

	pipeline *pipeline.Pipeline // that was loaded; nil: none

	held     held         // diagnostics for JSON
	jsonInto *jsonFile    // of --json-into; nil: none
	log      *slog.Logger // never nil
	logFile  *logFile     // of TWINKEEL_LOG_PATH; nil: none

	global globalOptions
}

type globalOptions struct {
	dir      string
	vars     []pipeline.VarArg
	json     bool
	jsonInto string
	color    string
	noColor  bool
	progress string
	logLevel string

	warningsAsErrors bool
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "twinkeel",
		Short: "Build, sign and roll out updates for embedded Linux",
		Long: `Twinkeel turns a directory of *.twinkeel.hcl files into signed Mender artifacts, A/B disk images and rollouts.

The main job:
  twinkeel plan             what would be done, and why
  twinkeel build            signed artifacts into out/artifacts/
  twinkeel image            disk images for flashing into out/images/
  twinkeel push             upload artifacts to the server
  twinkeel rollout start    let a release reach the devices

` + exitCodeHelp,
		Version:       version.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          onlyCommands,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.setUp(cmd)
		},
		RunE: helpRun,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{plainFlagError(cmd, err)} })
	flags := root.PersistentFlags()
	flags.StringVarP(&a.global.dir, "chdir", "C", ".", "the pipeline's `directory`")
	flags.Var(&varFlag{&a.global.vars, false}, "var", "value of a variable, `name=value` (may be repeated)")
	flags.Var(&varFlag{&a.global.vars, true}, "var-file", "`file` with values of variables (may be repeated)")
	flags.BoolVar(&a.global.json, "json", false, "print results and errors as JSON")
	flags.StringVar(&a.global.color, "color", "auto", "colours: auto, always or never")
	flags.BoolVar(&a.global.noColor, "no-color", false, "as --color never")
	_ = flags.MarkHidden("no-color") // for those who know it from Terraform
	flags.StringVar(&a.global.jsonInto, "json-into", "", "also write what --json would print to a `file`")
	flags.StringVar(&a.global.progress, "progress", "auto", "progress: auto, tty, plain, json (lines of JSON) or quiet")
	flags.StringVar(&a.global.logLevel, "log-level", "", "log what is done, for those who search a fault, from this `level` on: debug, info, warn or error")
	flags.BoolVar(&a.global.warningsAsErrors, "warnings-as-errors", false, "take warnings about the pipeline as errors")
	root.AddGroup(&cobra.Group{ID: groupMain, Title: "The way of a release:"},
		&cobra.Group{ID: groupInside, Title: "Looking into a pipeline:"},
		&cobra.Group{ID: groupLook, Title: "Files and keys:"},
		&cobra.Group{ID: groupServer, Title: "Server and devices:"})
	for _, c := range []*cobra.Command{
		a.initCommand(), a.importCommand(), a.validateCommand(), a.testCommand(), a.fmtCommand(), a.planCommand(), a.buildCommand(), a.signCommand(), a.verifyCommand(), a.imageCommand(),
		a.flashCommand(), a.pushCommand(),
		a.rolloutCommand(), a.applyCommand(), a.outputCommand(),
		a.inspectCommand(), a.graphCommand(), a.consoleCommand(), a.schemaCommand(), a.functionsCommand(),
		a.artifactCommand(), a.keysCommand(), a.cacheCommand(),
		a.serverCommand(), a.devicesCommand(),
		a.versionCommand(), a.completionCommand(),
	} {
		root.AddCommand(c)
	}
	targetFlags(root, "plan", "build", "image", "push", "apply")
	a.completeArguments(root)
	return root
}

const (
	groupMain   = "main"
	groupInside = "inside"
	groupLook   = "look"
	groupServer = "server"
)

func (a *app) setUp(cmd *cobra.Command) error {
	for _, choice := range []struct {
		flag, value string
		allowed     []string
	}{
		{"color", a.global.color, []string{"auto", "always", "never"}},
		{"progress", a.global.progress, []string{"auto", "tty", "plain", "json", "quiet"}},
	} {
		if !slices.Contains(choice.allowed, choice.value) {
			return usagef("--%s takes %s, not %q", choice.flag, strings.Join(choice.allowed, ", "), choice.value)
		}
	}
	if a.global.noColor {
		a.global.color = "never"
	}
	a.ui = a.newUI()
	if err := a.openLog(); err != nil {
		return err
	}
	a.logStart(cmd.CommandPath())
	if a.global.jsonInto != "" {
		f, err := createJSONFile(a.global.jsonInto)
		if err != nil {
			return err
		}
		a.jsonInto = f
	}
	return nil
}

// longFlags lets flags be written as in Terraform and Packer, with one dash: -var, -json. pflag would read them as
// groups of one-letter flags, of which there are next to none.
func longFlags(root *cobra.Command, args []string) []string {
	known := map[string]bool{"version": true, "help": true}
	for _, c := range commandPath(root, args) {
		for _, name := range flagNames(c) {
			known[name] = true
		}
	}
	out := make([]string, len(args))
	for i, arg := range args {
		out[i] = arg
		if arg == "--" {
			copy(out[i:], args[i:])
			break
		}
		if len(arg) > 2 && arg[0] == '-' && arg[1] != '-' {
			name, _, _ := strings.Cut(arg[1:], "=")
			if known[name] {
				out[i] = "-" + arg
			}
		}
	}
	return out
}

// usageError is a command line that can't be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func isUsage(err error) bool {
	var u *usageError
	return errors.As(err, &u)
}
