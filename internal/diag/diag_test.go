package diag

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

const name = "demo.twinkeel.hcl"

// problem makes a diagnostic about the first place in src where what stands.
func problem(t *testing.T, src, what string) (*hcl.Diagnostic, map[string]*hcl.File) {
	t.Helper()
	file, _ := hclsyntax.ParseConfig([]byte(src), name, hcl.InitialPos)
	at := strings.Index(src, what)
	if at < 0 {
		t.Fatalf("%q is not in the source", what)
	}
	pos := func(offset int) hcl.Pos {
		line := 1 + strings.Count(src[:offset], "\n")
		return hcl.Pos{Line: line, Column: offset - strings.LastIndex(src[:offset], "\n"), Byte: offset}
	}
	return &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: "Something is wrong", Detail: "This is what to do.",
		Subject: &hcl.Range{Filename: name, Start: pos(at), End: pos(at + len(what))},
	}, map[string]*hcl.File{name: file}
}

func text(t *testing.T, o Options, files map[string]*hcl.File, diags ...*hcl.Diagnostic) string {
	t.Helper()
	var out bytes.Buffer
	if err := WriteText(&out, diags, files, o); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestText(t *testing.T) {
	src := "artifact \"os\" {\n\tname = \"x\" # a comment\n}\n"
	d, files := problem(t, src, `"x"`)
	want := `Error: Something is wrong

  on demo.twinkeel.hcl line 2, in artifact "os":
  2:   name = "x" # a comment
              ^^^

This is what to do.
`
	if diff := cmp.Diff(want, text(t, Options{}, files, d)); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	colored := text(t, Options{Color: true}, files, d)
	if !strings.Contains(colored, "\x1b[31m^^^\x1b[0m") || !strings.Contains(colored, "\x1b[1m\x1b[31mError:\x1b[0m") {
		t.Errorf("colours: %q", colored)
	}
	d.Severity, d.Subject = hcl.DiagWarning, nil
	if diff := cmp.Diff("Warning: Something is wrong\n\nThis is what to do.\n", text(t, Options{}, files, d)); diff != "" {
		t.Errorf("without place (-want +got):\n%s", diff)
	}
}

// TestLongLine: a line of any length is cut around the mistake, whose marks stay under it.
func TestLongLine(t *testing.T) {
	for _, before := range []int{0, 10, 59, 60, 500, 100_000} {
		for _, after := range []int{0, 10, 100_000} {
			d, files := problem(t, strings.Repeat("a", before)+"WRONG"+strings.Repeat("b", after), "WRONG")
			lines := strings.Split(text(t, Options{Width: 60}, files, d), "\n")
			line, marks := []rune(lines[3]), []rune(lines[4])
			if len(line) > 60 {
				t.Errorf("%d/%d: %d columns", before, after, len(line))
			}
			at := strings.IndexRune(string(marks), '^')
			if got := string(line[at : at+5]); got != "WRONG" || string(marks[at:]) != "^^^^^" {
				t.Errorf("%d/%d: the marks stand under %q:\n%s\n%s", before, after, got, string(line), string(marks))
			}
		}
	}
}

// TestControlCharacters: nothing in a source reaches the terminal as a command.
func TestControlCharacters(t *testing.T) {
	src := "a = \"\x1b]0;title\x07\x1b[2J\u202e\u2066\x9b31m\xff\x00\" # WRONG\r\n"
	d, files := problem(t, src, "WRONG")
	d.Summary, d.Detail = "sum\x1b[31m", "det\x07ail\u202e"
	d.Subject.Filename = name
	out := text(t, Options{}, files, d)
	for _, r := range out {
		if r != '\n' && (r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u202e' || r == '\u2066') {
			t.Errorf("%q is in the output:\n%q", r, out)
		}
	}
}

// TestOddRanges: ranges that lie outside their file, empty or turned around are shown somehow and do no harm.
func TestOddRanges(t *testing.T) {
	src := "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n"
	_, files := problem(t, src, "one")
	for _, bytes := range [][2]int{{0, 0}, {3, 3}, {len(src), len(src)}, {len(src) + 10, len(src) + 20}, {10, 5}, {-5, 3}, {0, len(src)}, {2, 1000}} {
		d := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "x", Subject: &hcl.Range{
			Filename: name, Start: hcl.Pos{Line: 1, Column: 1, Byte: bytes[0]}, End: hcl.Pos{Line: 1, Column: 1, Byte: bytes[1]},
		}}
		out := text(t, Options{}, files, d)
		if !strings.Contains(out, "^") {
			t.Errorf("%v: nothing is marked:\n%s", bytes, out)
		}
		if n := strings.Count(out, "\n"); n > 12 {
			t.Errorf("%v: %d lines", bytes, n)
		}
		JSON(hcl.Diagnostics{d}, files)
	}
	for _, files := range []map[string]*hcl.File{nil, {name: nil}, {name: {}}} {
		if out := text(t, Options{}, files, &hcl.Diagnostic{Summary: "x", Subject: &hcl.Range{Filename: name}}); !strings.Contains(out, "on "+name) {
			t.Errorf("without source: %s", out)
		}
	}
}

func TestValues(t *testing.T) {
	src := "a = var.secret + var.text + var.list[0] + var.unknown + var.object + var.null\n"
	file, _ := hclsyntax.ParseConfig([]byte(src), name, hcl.InitialPos)
	attr := file.Body.(*hclsyntax.Body).Attributes["a"]
	d := &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: "x", Subject: attr.Expr.Range().Ptr(), Expression: attr.Expr,
		EvalContext: &hcl.EvalContext{Variables: map[string]cty.Value{"var": cty.ObjectVal(map[string]cty.Value{
			"secret": cty.StringVal("hunter2").Mark("m"), "text": cty.StringVal(strings.Repeat("long ", 100)), "list": cty.ListVal([]cty.Value{cty.NumberIntVal(7)}),
			"unknown": cty.UnknownVal(cty.String), "object": cty.ObjectVal(map[string]cty.Value{"a": cty.StringVal("hunter2").Mark("m")}), "null": cty.NullVal(cty.String),
		})}},
	}
	files := map[string]*hcl.File{name: file}
	out := text(t, Options{}, files, d)
	for _, want := range []string{"var.secret is sensitive and not shown", "var.list[0] is 7", "var.null is null", "var.object is sensitive", `var.text is "long long`} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	both := out + string(JSON(hcl.Diagnostics{d}, files))
	if strings.Contains(both, "hunter2") || strings.Contains(both, "var.unknown is") {
		t.Errorf("too much is shown:\n%s", both)
	}
}

func TestManyAndOrder(t *testing.T) {
	src := strings.Repeat("x\n", 40)
	_, files := problem(t, src, "x")
	var diags hcl.Diagnostics
	for i := 29; i >= 0; i-- {
		diags = append(diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: fmt.Sprintf("number %d", i), Subject: &hcl.Range{
			Filename: name, Start: hcl.Pos{Line: i + 1, Column: 1, Byte: 2 * i}, End: hcl.Pos{Line: i + 1, Column: 2, Byte: 2*i + 1},
		}})
	}
	diags = append(diags, &hcl.Diagnostic{Severity: hcl.DiagWarning, Summary: "no place"})
	Sort(diags)
	if diags[0].Summary != "no place" || diags[1].Summary != "number 0" || diags[30].Summary != "number 29" {
		t.Errorf("order: %v", diags)
	}
	out := text(t, Options{}, files, diags...)
	if !strings.HasSuffix(out, "... and 11 more errors not shown.\n") || strings.Count(out, "Error: ") != 19 {
		t.Errorf("got:\n%s", out)
	}
}

// TestJSON compares with the form of `terraform validate -json`.
func TestJSON(t *testing.T) {
	src := "artifact \"os\" {\n  name = \"x\"\n}\n"
	d, files := problem(t, src, `"x"`)
	want := `{
  "format_version": "1.0",
  "valid": false,
  "error_count": 1,
  "warning_count": 0,
  "diagnostics": [
    {
      "severity": "error",
      "summary": "Something is wrong",
      "detail": "This is what to do.",
      "range": {
        "filename": "demo.twinkeel.hcl",
        "start": {
          "line": 2,
          "column": 10,
          "byte": 25
        },
        "end": {
          "line": 2,
          "column": 13,
          "byte": 28
        }
      },
      "snippet": {
        "context": "artifact \"os\"",
        "code": "  name = \"x\"",
        "start_line": 2,
        "highlight_start_offset": 9,
        "highlight_end_offset": 12,
        "values": []
      }
    }
  ]
}
`
	if diff := cmp.Diff(want, string(JSON(hcl.Diagnostics{d}, files))); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	var empty Report
	if err := json.Unmarshal(JSON(nil, nil), &empty); err != nil || !empty.Valid || empty.Diagnostics == nil {
		t.Errorf("without diagnostics: %+v, %v", empty, err)
	}
	// The offsets of a snippet that was cut still mean the same text.
	for _, src := range []string{strings.Repeat("a", 50_000) + "WRONG" + strings.Repeat("b", 50_000), "x\r\nyy WRO\r\nNG z\n"} {
		what := "WRONG"
		if !strings.Contains(src, what) {
			what = "WRO\r\nNG"
		}
		d, files := problem(t, src, what)
		s := NewReport(hcl.Diagnostics{d}, files).Diagnostics[0].Snippet
		got := s.Code[s.HighlightStartOffset:s.HighlightEndOffset]
		if strings.ReplaceAll(got, "\n", "") != "WRONG" || len(s.Code) > maxSnippetBytes {
			t.Errorf("%d bytes, highlighted %q", len(s.Code), got)
		}
	}
}

func TestRedactor(t *testing.T) {
	secrets := []string{"hunter2", "hunter2-long", "abc", "line one of it\nline two of it", `quo"te<&`, "a b/c+d"}
	tests := map[string]struct{ in, want string }{
		"plain":          {"pin hunter2.", "pin (sensitive value)."},
		"longest":        {"hunter2-long hunter2-lon", "(sensitive value) (sensitive value)-lon"},
		"too short":      {"abc", "abc"},
		"prefix at end":  {"pin hunt", "pin hunt"},
		"repeated":       {"hunter2hunter2", "(sensitive value)(sensitive value)"},
		"overlapping":    {"hunthunter2", "hunt(sensitive value)"},
		"lines":          {"  1: line one of it\n  2: line two of it\n", "  1: (sensitive value)\n  2: (sensitive value)\n"},
		"JSON":           {`{"a":"quo\"te<&"} {"a":"quo\"te\u003c\u0026"}`, `{"a":"(sensitive value)"} {"a":"(sensitive value)"}`},
		"URL":            {"?x=a+b%2Fc%2Bd", "?x=(sensitive value)"},
		"nothing to say": {"", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Redact(test.in, secrets); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			// However the text is split between writes, the result is the same.
			for size := 1; size <= len(test.in); size++ {
				var out bytes.Buffer
				r := NewRedactor(&out, secrets)
				for rest := test.in; rest != ""; {
					n := min(size, len(rest))
					if written, err := r.Write([]byte(rest[:n])); written != n || err != nil {
						t.Fatalf("wrote %d of %d: %v", written, n, err)
					}
					rest = rest[n:]
				}
				if err := r.Flush(); err != nil {
					t.Fatal(err)
				}
				if got := out.String(); got != test.want {
					t.Errorf("in pieces of %d: got %q, want %q", size, got, test.want)
				}
			}
		})
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestRedactorReportsErrors(t *testing.T) {
	r := NewRedactor(brokenWriter{}, []string{"hunter2"})
	if _, err := r.Write([]byte("hunt")); err != nil {
		t.Errorf("held back: %v", err)
	}
	if err := r.Flush(); !errors.Is(err, errBroken) {
		t.Errorf("flush: %v", err)
	}
	if _, err := r.Write([]byte("x")); !errors.Is(err, errBroken) {
		t.Errorf("write: %v", err)
	}
	if err := WriteText(brokenWriter{}, hcl.Diagnostics{{Summary: "x"}}, nil, Options{}); !errors.Is(err, errBroken) {
		t.Errorf("text: %v", err)
	}
}

// FuzzText: no source and no range panics or lets a control character through.
func FuzzText(f *testing.F) {
	f.Add("a = 1\n", 0, 3, 40)
	f.Add("a = \"\x1b[2J\"\r\n\tb = 2", 4, 30, 0)
	f.Add(strings.Repeat("é", 200), 100, 101, 60)
	f.Fuzz(func(t *testing.T, src string, from, to, width int) {
		file, _ := hclsyntax.ParseConfig([]byte(src[:min(len(src), 1000)]), name, hcl.InitialPos)
		d := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: src, Detail: src, Subject: &hcl.Range{
			Filename: name, Start: hcl.Pos{Line: 1, Column: 1, Byte: from}, End: hcl.Pos{Line: 1, Column: 1, Byte: to},
		}}
		files := map[string]*hcl.File{name: file}
		out := text(t, Options{Width: width % 1000}, files, d)
		if i := strings.IndexFunc(out, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }); i >= 0 {
			t.Errorf("control character %q", out[i])
		}
		if !json.Valid(JSON(hcl.Diagnostics{d}, files)) {
			t.Error("invalid JSON")
		}
	})
}
