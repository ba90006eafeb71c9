package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/twinkeel/twinkeel/pipeline"
)

type consoleOptions struct {
	inspectOptions
	expressions []string
}

func (a *app) consoleCommand() *cobra.Command {
	var o consoleOptions
	c := &cobra.Command{
		Use:     "console",
		Short:   "Evaluate expressions",
		GroupID: groupInside,
		Long: `Evaluate expressions as the pipeline's files would, and print their values. They come from --expression, else from stdin, one in
each line; an expression with an open bracket goes on in the next line. Nothing is changed. Sensitive values are hidden.

Beside the language's functions there is type(value). A mistake ends the command with 1 after the last expression. With --json
each value is one line of JSON.

  twinkeel console -e 'artifact.os.name'
  echo 'keys(source.yocto.demo.packages)' | twinkeel console --json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runConsole(cmd.Context(), o) },
	}
	o.addFlags(c)
	c.Flags().StringArrayVarP(&o.expressions, "expression", "e", nil, "an `expression` to evaluate, in the place of stdin (may be repeated)")
	return c
}

func (a *app) runConsole(ctx context.Context, o consoleOptions) error {
	p, err := a.load()
	if err != nil {
		return err
	}
	look, err := o.lookOptions(p, nil)
	if err != nil {
		return err
	}
	c, diags := p.Console(ctx, look)
	if err := a.check(p, diags); err != nil {
		return err
	}
	s := &consoleSession{app: a, pipeline: p, console: c}
	if len(o.expressions) > 0 {
		for _, expr := range o.expressions {
			if err := s.eval(ctx, expr); err != nil {
				return err
			}
		}
		return s.result()
	}
	next, typed, finish := a.consoleLines()
	s.typed = typed
	defer finish()
	return s.run(ctx, next)
}

// consoleSession evaluates expressions and remembers whether one failed.
type consoleSession struct {
	app      *app
	pipeline *pipeline.Pipeline
	console  *pipeline.Console
	typed    bool // someone is there and has seen it
	failed   bool
}

func (s *consoleSession) result() error {
	if s.failed && !s.typed {
		return &exitError{code: exitFailed} // the diagnostics are out
	}
	return nil
}

// lineReader returns the next line, or io.EOF. More tells that it continues an expression.
type lineReader func(ctx context.Context, more bool) (string, error)

// run evaluates what next returns until it returns io.EOF.
func (s *consoleSession) run(ctx context.Context, next lineReader) error {
	open := ""
	for {
		line, err := next(ctx, open != "")
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		ended := err != nil
		open += line
		switch text := strings.TrimSpace(open); {
		case !ended && pipeline.OpenExpression(open) && len(open) <= maxSource:
			open += "\n"
			continue
		case text == "" || strings.HasPrefix(text, "#"):
		case text == "exit" || text == "quit":
			return s.result()
		default:
			if err := s.eval(ctx, strings.TrimRight(open, "\r\n")); err != nil {
				return err
			}
		}
		open = ""
		if ended {
			return s.result()
		}
	}
}

// eval evaluates one expression and prints its value, or what is wrong with it.
func (s *consoleSession) eval(ctx context.Context, expr string) error {
	a := s.app
	shown, diags := s.console.Eval(expr)
	a.hide(s.pipeline)
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(diags) > 0 {
		a.stdout.flush() // errors and values in their order
		a.reportDiagnostics(diags, s.console.Files())
		a.flushReport()
		a.stderr.flush()
	}
	if diags.HasErrors() {
		s.failed = true
		return nil
	}
	if done, err := a.asJSONLine(shown); err != nil {
		return err
	} else if !done {
		a.printf("%s\n", printable(shown.Text))
	}
	a.stdout.flush()
	return a.stdout.err
}

// consoleLines reads stdin line by line, with a prompt and line editing where someone types.
func (a *app) consoleLines() (next lineReader, typed bool, finish func()) {
	if f, ok := a.terminal(); ok && a.ui.interactive {
		return a.typedLines(f), true, func() {}
	}
	type result struct {
		line string
		err  error
	}
	lines := make(chan result)
	done := make(chan struct{})
	go func() { // a pipe cannot be interrupted; the process ends soon after ctx does
		scanner := bufio.NewScanner(a.stdin)
		scanner.Buffer(nil, maxSource)
		for scanner.Scan() {
			select {
			case lines <- result{line: scanner.Text()}:
			case <-done:
				return
			}
		}
		err := scanner.Err()
		switch {
		case errors.Is(err, bufio.ErrTooLong):
			err = fmt.Errorf("stdin: a line is longer than %s", size(maxSource))
		case err == nil:
			err = io.EOF
		}
		select {
		case lines <- result{err: err}:
		case <-done:
		}
	}()
	next = func(ctx context.Context, _ bool) (string, error) {
		select {
		case r := <-lines:
			return r.line, r.err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return next, false, func() { close(done) }
}

// typedLines reads lines from a terminal. It is in raw mode only while a line is typed, so that all other output is as ever.
func (a *app) typedLines(f *os.File) lineReader {
	screen := struct {
		io.Reader
		io.Writer
	}{f, a.stderr.target} // what is typed must show at once, and a filter would wait to see what it becomes
	t := term.NewTerminal(screen, "")
	if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		_ = t.SetSize(w, h) // a size that it refuses leaves 80 columns
	}
	a.notef("Expressions, one in each line; exit or Ctrl-D ends.\n")
	return func(ctx context.Context, more bool) (string, error) {
		t.SetPrompt("> ")
		if more {
			t.SetPrompt(". ")
		}
		fd := int(f.Fd())
		before, err := term.MakeRaw(fd)
		if err != nil {
			return "", err
		}
		type result struct {
			line string
			err  error
		}
		read := make(chan result, 1)
		go func() { // as above
			line, err := t.ReadLine()
			read <- result{line, err}
		}()
		select {
		case r := <-read:
			if errors.Is(r.err, term.ErrPasteIndicator) {
				r.err = nil
			}
			err = term.Restore(fd, before)
			if errors.Is(r.err, io.EOF) {
				fmt.Fprintln(a.stderr)
			}
			return r.line, errors.Join(r.err, err)
		case <-ctx.Done():
			return "", errors.Join(ctx.Err(), term.Restore(fd, before))
		}
	}
}
