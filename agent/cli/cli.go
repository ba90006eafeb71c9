// Package cli is the command line of twinkeel-agent: flags, wording and exit codes. The commands, their global flags
// and the exit codes 0, 1, 2 and 4 are those of Mender's clients, so that scripts and service files written for them
// keep working; 3 is new and tells a forged or damaged artifact from all other failures.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/twinkeel/twinkeel/agent"
	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/version"
)

// Exit codes.
const (
	ExitDone         = 0
	ExitFailed       = 1
	ExitNothing      = 2 // nothing to commit or to roll back
	ExitVerification = 3 // unsigned, wrongly signed, damaged
	ExitReboot       = 4 // done, and a reboot is needed (install and rollback: with --reboot-exit-code)
)

const helpHead = `twinkeel-agent updates this device: it installs signed artifacts into the slot that is not running, boots it on
trial, and commits it or returns to the old one.

Usage:
  twinkeel-agent [flags] command [flags]

Commands:
`

const helpTail = `
Exit codes:
  0  done
  1  failed
  2  nothing to commit or to roll back
  3  verification failed: unsigned, not signed by a trusted key, or damaged
  4  a reboot is needed (daemon with "RebootCommand": "exit"; install and rollback with --reboot-exit-code)
`

// command is one word of the command line.
type command struct {
	name, args, help string
	run              func(ctx context.Context, c *call) error
}

var commands = []command{
	{"daemon", "", "poll the server and install what it offers", runDaemon},
	{"install", "FILE|URL", "install an artifact; it runs, on trial, after a reboot", runInstall},
	{"commit", "", "keep the installed update for good", runCommit},
	{"rollback", "", "give up the installed update", runRollback},
	{"show-artifact", "", "print the name of the installed artifact", runShowArtifact},
	{"show-provides", "", "print what the installed system provides", runShowProvides},
	{"status", "", "print the state of the update at hand", runStatus},
	{"check-update", "", "make the running daemon ask the server now", runCheckUpdate},
	{"send-inventory", "", "make the running daemon send the inventory now", runSendInventory},
	{"version", "", "print the version", runVersion},
}

// call is one use of the command line.
type call struct {
	args           []string
	stdout, stderr io.Writer
	paths          agent.ConfigPaths
	json           bool
	debug          bool
	rebootExitCode bool
}

// usageError is a command line that means nothing.
type usageError struct{ error }

// Run is the whole program. It returns the exit code.
func Run(ctx context.Context, args, _ []string, _ io.Reader, stdout, stderr io.Writer) int {
	c := &call{stdout: stdout, stderr: stderr}
	err := c.dispatch(ctx, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, c.help())
		return ExitDone
	}
	var said quiet
	if err != nil && !errors.As(err, &said) {
		c.printError(err)
	}
	return exitCode(err)
}

func (c *call) flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	for _, one := range []struct {
		value       *string
		short, long string
		usage       string
	}{
		{&c.paths.Main, "c", "config", "configuration `file` (default /etc/mender/mender.conf)"},
		{&c.paths.Fallback, "b", "fallback-config", "fallback configuration `file` (default /var/lib/mender/mender.conf)"},
		{&c.paths.DataDir, "d", "data", "`directory` of the agent's own data (default /var/lib/mender)"},
		{&c.paths.Root, "", "root", "`directory` put before every absolute path of the configuration"},
	} {
		f.StringVar(one.value, one.long, *one.value, one.usage)
		if one.short != "" {
			f.StringVar(one.value, one.short, *one.value, one.usage)
		}
	}
	f.BoolVar(&c.json, "json", c.json, "print JSON: results, errors, progress and log lines")
	f.BoolVar(&c.debug, "debug", c.debug, "log more")
	return f
}

func (c *call) dispatch(ctx context.Context, args []string) error {
	global := c.flags("twinkeel-agent")
	if err := parse(global, args); err != nil {
		return err
	}
	if global.NArg() == 0 {
		return flag.ErrHelp
	}
	name := global.Arg(0)
	if name == "help" {
		return flag.ErrHelp
	}
	for _, cmd := range commands {
		if cmd.name != name {
			continue
		}
		local := c.flags(name)
		if name == "install" || name == "rollback" {
			local.BoolVar(&c.rebootExitCode, "reboot-exit-code", false, "exit with 4 when a reboot is needed")
		}
		rest := global.Args()[1:]
		for len(rest) > 0 { // flags may stand before and after the arguments
			if err := parse(local, rest); err != nil {
				return err
			}
			if rest = local.Args(); len(rest) > 0 {
				c.args, rest = append(c.args, rest[0]), rest[1:]
			}
		}
		if want := len(strings.Fields(cmd.args)); len(c.args) != want {
			return usageError{fmt.Errorf("usage: twinkeel-agent %s", strings.TrimSpace(cmd.name+" "+cmd.args))}
		}
		return cmd.run(ctx, c)
	}
	return usageError{fmt.Errorf("unknown command %q; see twinkeel-agent help", name)}
}

func parse(f *flag.FlagSet, args []string) error {
	err := f.Parse(args)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return usageError{err}
	}
	return err
}

func (c *call) help() string {
	var b strings.Builder
	b.WriteString(helpHead)
	for _, cmd := range commands {
		fmt.Fprintf(&b, "  %-18s %s\n", strings.TrimSpace(cmd.name+" "+cmd.args), cmd.help)
	}
	b.WriteString("\nFlags:\n")
	f := c.flags("")
	short := map[string]string{"config": "-c, ", "fallback-config": "-b, ", "data": "-d, "}
	f.VisitAll(func(one *flag.Flag) {
		if len(one.Name) == 1 {
			return
		}
		placeholder, usage := flag.UnquoteUsage(one)
		fmt.Fprintf(&b, "  %4s%-28s %s\n", short[one.Name], "--"+strings.TrimSpace(one.Name+" "+placeholder), usage)
	})
	b.WriteString(helpTail)
	return b.String()
}

// errorJSON is what an error is with --json.
type errorJSON struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	Code  int    `json:"exit_code"`
}

func (c *call) printError(err error) {
	var hinter interface{ Hint() string }
	hint := ""
	if errors.As(err, &hinter) {
		hint = hinter.Hint()
	}
	if c.json {
		_ = json.NewEncoder(c.stderr).Encode(errorJSON{err.Error(), hint, exitCode(err)})
		return
	}
	if errors.Is(err, agent.ErrRebootNeeded) || errors.Is(err, agent.ErrNothingPending) {
		fmt.Fprintf(c.stderr, "twinkeel-agent: %v\n", err)
	} else {
		fmt.Fprintf(c.stderr, "twinkeel-agent: error: %v\n", err)
	}
	if hint != "" {
		fmt.Fprintf(c.stderr, "hint: %s\n", hint)
	}
}

func exitCode(err error) int {
	var checksum *artifactfmt.ChecksumError
	var format *artifactfmt.FormatError
	switch {
	case err == nil:
		return ExitDone
	case errors.Is(err, agent.ErrNothingPending):
		return ExitNothing
	case errors.Is(err, agent.ErrRebootNeeded):
		return ExitReboot
	case errors.Is(err, artifactfmt.ErrUnsigned), errors.Is(err, artifactfmt.ErrSignature),
		errors.Is(err, artifactfmt.ErrTruncated), errors.As(err, &checksum), errors.As(err, &format):
		return ExitVerification
	}
	return ExitFailed
}

// open loads the configuration and makes the agent, whose log goes to stderr.
func (c *call) open(progress func(done, total int64)) (*agent.Agent, *agent.Config, error) {
	cfg, err := agent.LoadConfig(c.paths)
	if err != nil {
		return nil, nil, err
	}
	a, err := agent.New(cfg, agent.Options{Logger: slog.New(c.logHandler()), Progress: progress})
	return a, cfg, err
}

func (c *call) logHandler() slog.Handler {
	level := slog.LevelInfo
	if c.debug {
		level = slog.LevelDebug
	}
	return newHandler(c.stderr, level, c.json)
}

// result prints the outcome of a command: the object with --json, else the line.
func (c *call) result(v any, line string) error {
	if c.json {
		return json.NewEncoder(c.stdout).Encode(v)
	}
	_, err := fmt.Fprintln(c.stdout, line)
	return err
}

func runVersion(_ context.Context, c *call) error {
	return c.result(map[string]string{"version": version.Version}, "twinkeel-agent "+version.Version)
}
