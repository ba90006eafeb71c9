package cli

import (
	"context"
	"encoding/xml"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/diag"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
)

type testOptions struct {
	filter  []string
	verbose bool
	junit   string
}

func (a *app) testCommand() *cobra.Command {
	var o testOptions
	c := &cobra.Command{
		Use:     "test",
		Short:   "Test the pipeline without building anything",
		GroupID: groupMain,
		Long: `Test the pipeline: do what the runs in *.twinkeeltest.hcl (or .json) say, which stand beside the pipeline's files or in the
directory tests. Each run plans the pipeline with its own variables and checks what must be true of the plan, or what must fail.

Nothing is built and no deploy directory, key, server or git is asked: what sources expose is what a run says in fakes, or made up.
With --json the result is one object. Exits with 1 when a run fails, with 2 when a test file is wrong, and with 4 when there is
nothing to run.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runTest(cmd.Context(), o) },
	}
	c.Flags().StringArrayVar(&o.filter, "filter", nil, "only runs whose name, file or FILE/RUN matches a `glob` (may be repeated)")
	c.Flags().BoolVar(&o.verbose, "verbose", false, "also show what is planned, warnings, and what was left out")
	c.Flags().StringVar(&o.junit, "junit-xml", "", "also write the result to a `file` in the form of JUnit")
	return c
}

func (a *app) runTest(ctx context.Context, o testOptions) error {
	p, err := a.load()
	if err != nil {
		return err
	}
	paths, err := pipeline.TestFiles(a.global.dir)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return &exitError{exitNothing, &hintedError{fmt.Sprintf("there is no %s file in %s, nor in its directory tests", pipeline.TestPattern, a.global.dir), "twinkeel schema run"}}
	}
	tests, diags := p.LoadTests(ctx, paths, nil)
	a.hide(p)
	if diags.HasErrors() {
		return &exitError{exitUsage, &diagnosticsError{diags, tests.Files()}}
	}
	a.reportWarnings(diags, tests.Files())

	show := &testPrinter{app: a, pipeline: p, files: tests.Files(), verbose: o.verbose}
	results := tests.Run(ctx, pipeline.TestOptions{Filter: o.filter, Done: show.run})
	sum := tallyTests(results)
	if ctx.Err() == nil && sum.skipped == len(results) {
		return &exitError{exitNothing, fmt.Errorf("none of %s matches --filter %s", plural(len(results), "run"), strings.Join(o.filter, " "))}
	}
	if o.junit != "" {
		text, err := junitXML(results, tests.Files(), p.Secrets())
		if err != nil {
			return err
		}
		if err := durable.WriteFile(o.junit, text, 0o644); err != nil {
			return err
		}
	}
	if done, err := a.asJSON(testsJSON(results, tests.Files())); err != nil {
		return err
	} else if !done {
		a.printf("\n%s\n", sum.paint(a.ui.out))
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case sum.failed+sum.errors > 0:
		return &exitError{code: exitFailed}
	}
	return nil
}

func (a *app) reportWarnings(diags hcl.Diagnostics, files map[string]*hcl.File) {
	if len(diags) > 0 {
		a.reportDiagnostics(diags, files)
	}
}

// testPrinter writes runs as they end.
type testPrinter struct {
	app      *app
	pipeline *pipeline.Pipeline
	files    map[string]*hcl.File
	verbose  bool
	file     string
}

func (t *testPrinter) run(r pipeline.TestRun) {
	a := t.app
	a.hide(t.pipeline) // a run may give secrets, and make them
	if a.global.json || r.Status == pipeline.TestSkip && !t.verbose {
		return
	}
	if t.file != r.File {
		t.file = r.File
		a.printf("%s\n", a.ui.out.bold(printable(r.File)))
	}
	a.printf("  run %q ... %s\n", r.Name, testWord(a.ui.out, r.Status))
	if t.verbose && r.Plan != nil {
		for _, action := range r.Plan.Actions {
			needs := ""
			if len(action.DependsOn) > 0 {
				needs = a.ui.out.dim("  needs " + strings.Join(action.DependsOn, ", "))
			}
			a.printf("    %s%s\n", printable(action.Address), printable(needs))
		}
	}
	diags := r.Diagnostics
	if !t.verbose {
		diags = slices.DeleteFunc(slices.Clone(diags), func(d *hcl.Diagnostic) bool { return d.Severity == hcl.DiagWarning })
	}
	if len(diags) > 0 {
		a.stdout.flush() // so that both streams keep their order in one terminal
		fmt.Fprintln(a.stderr)
		a.reportDiagnostics(diags, t.files)
		fmt.Fprintln(a.stderr)
		a.stderr.flush()
	}
}

func testWord(s style, status pipeline.TestStatus) string {
	switch status {
	case pipeline.TestPass:
		return s.green("pass")
	case pipeline.TestSkip:
		return s.dim("skip")
	}
	return s.red(string(status))
}

// testTally counts runs by how they ended.
type testTally struct{ passed, failed, errors, skipped int }

func tallyTests(results []pipeline.TestRun) testTally {
	var t testTally
	for _, r := range results {
		switch r.Status {
		case pipeline.TestPass:
			t.passed++
		case pipeline.TestFail:
			t.failed++
		case pipeline.TestError:
			t.errors++
		case pipeline.TestSkip:
			t.skipped++
		}
	}
	return t
}

func (t testTally) paint(s style) string {
	text := fmt.Sprintf("%d passed, %d failed", t.passed, t.failed)
	if t.errors > 0 {
		text += ", " + plural(t.errors, "error")
	}
	if t.skipped > 0 {
		text += fmt.Sprintf(", %d skipped", t.skipped)
	}
	text += "."
	if t.failed+t.errors > 0 {
		return s.red(text)
	}
	return s.green(text)
}

// testsJSON is the result for programs.
func testsJSON(results []pipeline.TestRun, files map[string]*hcl.File) any {
	type run struct {
		Name        string              `json:"name"`
		Line        int                 `json:"line"`
		Status      pipeline.TestStatus `json:"status"`
		DurationMS  int64               `json:"duration_ms"`
		Diagnostics []diag.Diagnostic   `json:"diagnostics"`
	}
	type file struct {
		Path string `json:"path"`
		Runs []run  `json:"runs"`
	}
	var list []file
	for _, r := range results {
		if len(list) == 0 || list[len(list)-1].Path != r.File {
			list = append(list, file{Path: r.File})
		}
		last := &list[len(list)-1]
		last.Runs = append(last.Runs, run{r.Name, r.Line, r.Status, r.Duration.Milliseconds(), diag.NewReport(r.Diagnostics, files).Diagnostics})
	}
	t := tallyTests(results)
	return struct {
		FormatVersion string         `json:"format_version"`
		Summary       map[string]int `json:"summary"`
		Files         []file         `json:"files"`
	}{"1.0", map[string]int{"passed": t.passed, "failed": t.failed, "errors": t.errors, "skipped": t.skipped}, list}
}

// The XML of JUnit, as Jenkins (xunit plugin, junit-10.xsd) and GitLab read it. Times are in seconds.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		File     string      `xml:"file,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name      string        `xml:"name,attr"`
		ClassName string        `xml:"classname,attr"`
		File      string        `xml:"file,attr"`
		Line      int           `xml:"line,attr"`
		Time      string        `xml:"time,attr"`
		Failure   *junitProblem `xml:"failure,omitempty"`
		Error     *junitProblem `xml:"error,omitempty"`
		Skipped   *struct{}     `xml:"skipped,omitempty"`
	}
	junitProblem struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// junitXML writes the results. Secrets are hidden before the XML can change their looks.
func junitXML(results []pipeline.TestRun, files map[string]*hcl.File, secrets []string) ([]byte, error) {
	var suites []junitSuite
	var total time.Duration
	for start := 0; start < len(results); {
		end := start
		for end < len(results) && results[end].File == results[start].File {
			end++
		}
		suite := junitSuite{Name: results[start].File, File: results[start].File}
		var took time.Duration
		for _, r := range results[start:end] {
			suite.Cases = append(suite.Cases, junitOf(r, files, secrets))
			took += r.Duration
		}
		t := tallyTests(results[start:end])
		suite.Tests, suite.Failures, suite.Errors, suite.Skipped, suite.Time = end-start, t.failed, t.errors, t.skipped, seconds(took)
		suites = append(suites, suite)
		total += took
		start = end
	}
	t := tallyTests(results)
	text, err := xml.MarshalIndent(junitSuites{
		Tests: len(results), Failures: t.failed, Errors: t.errors, Skipped: t.skipped, Time: seconds(total), Suites: suites,
	}, "", "  ")
	return append([]byte(xml.Header), append(text, '\n')...), err
}

func junitOf(r pipeline.TestRun, files map[string]*hcl.File, secrets []string) junitCase {
	c := junitCase{
		Name: r.Name, ClassName: strings.TrimSuffix(filepath.Base(r.File), filepath.Ext(r.File)), File: r.File, Line: r.Line, Time: seconds(r.Duration),
	}
	problem := func() *junitProblem {
		p := &junitProblem{}
		var text strings.Builder
		_ = diag.WriteText(&text, r.Diagnostics, files, diag.Options{})
		p.Text = withoutSecrets(text.String(), secrets)
		for _, d := range r.Diagnostics {
			if d.Severity == hcl.DiagError {
				p.Message = withoutSecrets(d.Summary+": "+d.Detail, secrets)
				break
			}
		}
		return p
	}
	switch r.Status {
	case pipeline.TestFail:
		c.Failure = problem()
	case pipeline.TestError:
		c.Error = problem()
	case pipeline.TestSkip:
		c.Skipped = &struct{}{}
	}
	return c
}

func withoutSecrets(text string, secrets []string) string {
	var out strings.Builder
	r := diag.NewRedactor(&out, secrets)
	_, _ = r.Write([]byte(text))
	_ = r.Flush()
	return out.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
