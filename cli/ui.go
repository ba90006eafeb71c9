package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/term"

	"github.com/twinkeel/twinkeel/internal/diag"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

// ui knows what the streams can show.
type ui struct {
	out, err    style
	width       int  // of stderr, in cells
	canRedraw   bool // stderr is a terminal on which lines can be drawn over
	progress    string
	interactive bool // someone can answer a question
}

// style paints text, or doesn't.
type style struct{ on bool }

func (s style) paint(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(t string) string   { return s.paint("1", t) }
func (s style) dim(t string) string    { return s.paint("2", t) }
func (s style) red(t string) string    { return s.paint("31", t) }
func (s style) green(t string) string  { return s.paint("32", t) }
func (s style) yellow(t string) string { return s.paint("33", t) }
func (s style) cyan(t string) string   { return s.paint("36", t) }

func newApp(env []string, stdin io.Reader, stdout, stderr io.Writer) *app {
	a := &app{env: env, stdin: stdin, stdout: newRedactedWriter(stdout), stderr: newRedactedWriter(stderr), log: slog.New(slog.DiscardHandler)}
	a.ui = a.newUI()
	return a
}

func (a *app) newUI() ui {
	u := ui{width: 100, progress: a.global.progress}
	u.out.on = a.useColor(a.stdout)
	u.err.on = a.useColor(a.stderr)
	if f, ok := a.stderr.target.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		w, h, err := term.GetSize(int(f.Fd()))
		if err == nil && w > 20 {
			u.width = w
		}
		u.canRedraw = err == nil && h > 1 && a.getenv("CI") == "" && a.getenv("TERM") != "dumb"
	}
	if f, ok := a.stdin.(*os.File); ok {
		u.interactive = term.IsTerminal(int(f.Fd())) && a.getenv("CI") == ""
	}
	if u.progress == "" || u.progress == "auto" {
		u.progress = "plain"
		if u.canRedraw {
			u.progress = "tty"
		}
	}
	if a.global.json && a.global.progress == "auto" {
		u.progress = "quiet"
	}
	return u
}

// useColor follows --color, then NO_COLOR and CLICOLOR_FORCE, then whether the stream is a terminal.
func (a *app) useColor(w *redactedWriter) bool {
	switch a.global.color {
	case "always":
		return true
	case "never":
		return false
	}
	if a.getenv("NO_COLOR") != "" || a.getenv("TERM") == "dumb" {
		return false
	}
	if force := a.getenv("CLICOLOR_FORCE"); force != "" && force != "0" {
		return true
	}
	f, ok := w.target.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (a *app) getenv(name string) string {
	for _, entry := range slices.Backward(a.env) {
		if k, v, ok := strings.Cut(entry, "="); ok && k == name {
			return v
		}
	}
	return ""
}

// printf writes to stdout; results only.
func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.stdout, format, args...) }

// notef writes to stderr, where everything goes that isn't a result.
func (a *app) notef(format string, args ...any) {
	if !a.global.json {
		fmt.Fprintf(a.stderr, format, args...)
	}
}

func (a *app) warnf(format string, args ...any) {
	if a.wantsJSON() {
		a.held.add(nil, &hcl.Diagnostic{Severity: hcl.DiagWarning, Summary: fmt.Sprintf(format, args...)})
	}
	if a.global.json {
		return
	}
	fmt.Fprintf(a.stderr, "%s %s\n", a.ui.err.yellow("twinkeel: warning:"), fmt.Sprintf(format, args...))
}

// notNil makes an empty list of none, which JSON would write as null.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// diagnosticsError carries the diagnostics of a pipeline that could not be used.
type diagnosticsError struct {
	diags hcl.Diagnostics
	files map[string]*hcl.File
}

func (e *diagnosticsError) Error() string { return e.diags.Error() }

// reportError is the one place where a failed command says why.
func (a *app) reportError(ctx context.Context, err error) {
	if err == nil {
		return
	}
	var chosen *exitError
	if errors.As(err, &chosen) {
		if chosen.err == nil {
			return
		}
		err = chosen.err
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		a.sayError("interrupted", "", nil)
		return
	}
	var diags *diagnosticsError
	if errors.As(err, &diags) {
		a.reportDiagnostics(diags.diags, diags.files)
		return
	}
	hint := hintOf(err)
	if hint == "" && isUsage(err) {
		hint = "twinkeel --help"
	}
	a.sayError(err.Error(), hint, a.placeOf(err))
}

// sayError says what went wrong and what to do about it, and names the block of the pipeline, if it is about one.
func (a *app) sayError(text, hint string, place *hcl.Range) {
	if a.wantsJSON() {
		a.held.add(a.files(), &hcl.Diagnostic{Severity: hcl.DiagError, Summary: text, Detail: hint, Subject: place})
	}
	if a.global.json {
		return
	}
	if text == "interrupted" {
		fmt.Fprintf(a.stderr, "%s\n", a.ui.err.yellow("twinkeel: interrupted"))
		return
	}
	fmt.Fprintf(a.stderr, "%s %s\n", a.ui.err.red("twinkeel: error:"), printable(text))
	if place != nil {
		fmt.Fprintf(a.stderr, "  on %s line %d\n", printable(place.Filename), place.Start.Line)
	}
	if hint != "" {
		fmt.Fprintf(a.stderr, "%s %s\n", a.ui.err.cyan("hint:"), printable(hint))
	}
}

// placeOf finds the block of the pipeline that an error is about.
func (a *app) placeOf(err error) *hcl.Range {
	var action *build.ActionError
	if a.pipeline == nil || !errors.As(err, &action) {
		return nil
	}
	return a.pipeline.PlaceOf(action.Address)
}

func (a *app) files() map[string]*hcl.File {
	if a.pipeline == nil {
		return nil
	}
	return a.pipeline.Files()
}

func (a *app) reportDiagnostics(diags hcl.Diagnostics, files map[string]*hcl.File) {
	if a.wantsJSON() {
		a.held.add(files, diags...)
	}
	if !a.global.json {
		a.printDiagnostics(diags, files)
	}
}

// printDiagnostics writes diagnostics for people.
func (a *app) printDiagnostics(diags hcl.Diagnostics, files map[string]*hcl.File) {
	_ = diag.WriteText(a.stderr, diags, files, diag.Options{Color: a.ui.err.on, Width: a.ui.width})
}

func hintOf(err error) string {
	for e := err; e != nil; e = errors.Unwrap(e) { // the outermost that has something to say
		if h, ok := e.(interface{ Hint() string }); ok && h.Hint() != "" {
			return h.Hint()
		}
	}
	if errors.Is(err, syscall.ENOSPC) {
		return "free some space"
	}
	return ""
}

// printable keeps text from files and servers from controlling the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text)
}

// size writes bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, exponent := float64(n)/unit, 0
	for value >= unit && exponent < 4 {
		value /= unit
		exponent++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[exponent])
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// terminal is stdin, where it is one.
func (a *app) terminal() (*os.File, bool) {
	f, ok := a.stdin.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// readHidden reads a line without showing it. When ctx ends first, the terminal shows again what is typed.
func readHidden(ctx context.Context, f *os.File) (string, error) {
	fd := int(f.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	type result struct {
		line []byte
		err  error
	}
	read := make(chan result, 1)
	go func() { // a terminal cannot be interrupted; the process ends soon after ctx does
		line, err := term.ReadPassword(fd)
		read <- result{line, err}
	}()
	select {
	case r := <-read:
		return string(r.line), r.err
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}
