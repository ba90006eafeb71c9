package diag

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Report is the JSON of `terraform validate -json`.
type Report struct {
	FormatVersion string       `json:"format_version"`
	Valid         bool         `json:"valid"`
	ErrorCount    int          `json:"error_count"`
	WarningCount  int          `json:"warning_count"`
	Diagnostics   []Diagnostic `json:"diagnostics"`
}

// Diagnostic is one diagnostic in JSON.
type Diagnostic struct {
	Severity string   `json:"severity"`
	Summary  string   `json:"summary"`
	Detail   string   `json:"detail"`
	Range    *Range   `json:"range,omitempty"`
	Snippet  *Snippet `json:"snippet,omitempty"`
}

// Range is a place in a file.
type Range struct {
	Filename string `json:"filename"`
	Start    Pos    `json:"start"`
	End      Pos    `json:"end"`
}

// Pos is a position: line and column count from 1, byte from 0.
type Pos struct {
	Line   int `json:"line"`
	Column int `json:"column"`
	Byte   int `json:"byte"`
}

// Snippet is the source around a place, with offsets in bytes into Code.
type Snippet struct {
	Context              *string `json:"context"`
	Code                 string  `json:"code"`
	StartLine            int     `json:"start_line"`
	HighlightStartOffset int     `json:"highlight_start_offset"`
	HighlightEndOffset   int     `json:"highlight_end_offset"`
	Values               []Value `json:"values"`
}

// Value is a value that a failing expression used.
type Value struct {
	Traversal string `json:"traversal"`
	Statement string `json:"statement"`
}

const maxSnippetBytes = 4 << 10

// NewReport puts diagnostics into the form for JSON.
func NewReport(diags hcl.Diagnostics, files map[string]*hcl.File) Report {
	r := Report{FormatVersion: "1.0", Diagnostics: []Diagnostic{}}
	r.ErrorCount, r.WarningCount = Count(diags)
	r.Valid = r.ErrorCount == 0
	for _, d := range diags {
		r.Diagnostics = append(r.Diagnostics, newDiagnostic(d, files))
	}
	return r
}

// JSON returns the report as indented JSON with a line end.
func JSON(diags hcl.Diagnostics, files map[string]*hcl.File) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(NewReport(diags, files)) // plain strings and numbers
	return out.Bytes()
}

func newDiagnostic(d *hcl.Diagnostic, files map[string]*hcl.File) Diagnostic {
	out := Diagnostic{Severity: "error", Summary: d.Summary, Detail: d.Detail}
	if d.Severity == hcl.DiagWarning {
		out.Severity = "warning"
	}
	if d.Subject == nil {
		return out
	}
	rng := *d.Subject
	out.Range = &Range{
		Filename: rng.Filename,
		Start:    Pos{rng.Start.Line, rng.Start.Column, rng.Start.Byte},
		End:      Pos{rng.End.Line, rng.End.Column, rng.End.Byte},
	}
	src := source(files, rng.Filename)
	if src == nil {
		return out
	}
	lines := cutLines(src, rng)
	s := &Snippet{StartLine: rng.Start.Line, Values: []Value{}}
	var code []string
	for _, l := range lines {
		code = append(code, string(l.text))
	}
	s.HighlightStartOffset = lines[0].from
	for _, l := range lines[:len(lines)-1] {
		s.HighlightEndOffset += len(l.text) + 1
	}
	s.HighlightEndOffset += lines[len(lines)-1].to
	s.Code = strings.Join(code, "\n")
	s.clip()
	if context := contextOf(files[rng.Filename], rng.Start.Byte); context != "" {
		s.Context = &context
	}
	for _, r := range references(d) {
		s.Values = append(s.Values, Value{r.name, "is " + r.statement})
	}
	out.Snippet = s
	return out
}

// clip keeps a snippet of a very long line small, around what is meant.
func (s *Snippet) clip() {
	if len(s.Code) <= maxSnippetBytes {
		return
	}
	from := max(0, s.HighlightStartOffset-maxSnippetBytes/4)
	to := min(len(s.Code), from+maxSnippetBytes)
	s.Code = strings.ToValidUTF8(s.Code[from:to], "?")
	s.HighlightStartOffset -= from
	s.HighlightEndOffset = min(s.HighlightEndOffset-from, len(s.Code))
}
