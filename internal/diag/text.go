package diag

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcled"
)

// Options say how text is written.
type Options struct {
	Color bool
	Width int // of the terminal; 0 means 100
}

const (
	maxShown        = 20 // diagnostics
	maxSnippetLines = 5
	defaultWidth    = 100
	minWidth        = 40
)

// WriteText writes diagnostics for people, at most 20, with the source lines that files hold.
func WriteText(w io.Writer, diags hcl.Diagnostics, files map[string]*hcl.File, o Options) error {
	p := &printer{w: bufio.NewWriter(w), files: files, color: o.Color, width: o.Width}
	if p.width <= 0 {
		p.width = defaultWidth
	}
	p.width = max(p.width, minWidth)
	for i, d := range diags {
		if i == maxShown {
			errors, warnings := Count(diags[i:])
			fmt.Fprintf(p.w, "... and %s not shown.\n", amounts(errors, warnings))
			break
		}
		if i > 0 {
			fmt.Fprintln(p.w)
		}
		p.diagnostic(d)
	}
	return p.w.Flush()
}

func amounts(errors, warnings int) string {
	switch {
	case warnings == 0:
		return count(errors, "more error")
	case errors == 0:
		return count(warnings, "more warning")
	}
	return count(errors, "more error") + " and " + count(warnings, "warning")
}

func count(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return strconv.Itoa(n) + " " + word + "s"
}

// The escape sequences in use.
const (
	reset  = "\x1b[0m"
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
)

type printer struct {
	w     *bufio.Writer
	files map[string]*hcl.File
	color bool
	width int
}

func (p *printer) paint(text string, codes ...string) string {
	if !p.color || text == "" {
		return text
	}
	return strings.Join(codes, "") + text + reset
}

func (p *printer) diagnostic(d *hcl.Diagnostic) {
	word, hue := "Error", red
	if d.Severity == hcl.DiagWarning {
		word, hue = "Warning", yellow
	}
	fmt.Fprintf(p.w, "%s %s\n", p.paint(word+":", bold, hue), p.paint(printable(d.Summary), bold))
	if d.Subject != nil {
		fmt.Fprintln(p.w)
		p.snippet(d, hue)
	}
	if d.Detail != "" {
		fmt.Fprintln(p.w)
		for line := range strings.SplitSeq(strings.TrimRight(d.Detail, "\n"), "\n") {
			p.wrap(printable(line))
		}
	}
}

// snippet shows the lines of the subject, the place marked with carets.
func (p *printer) snippet(d *hcl.Diagnostic, hue string) {
	rng := *d.Subject
	src := source(p.files, rng.Filename)
	where := ""
	if file := p.files[rng.Filename]; file != nil && file.Nav != nil {
		if context := contextOf(file, rng.Start.Byte); context != "" {
			where = ", in " + printable(context)
		}
	}
	if src == nil {
		fmt.Fprintf(p.w, "  on %s line %d%s\n", printable(rng.Filename), rng.Start.Line, where)
		return
	}
	fmt.Fprintf(p.w, "  on %s line %d%s:\n", printable(rng.Filename), rng.Start.Line, where)
	lines := cutLines(src, rng)
	number := len(strconv.Itoa(rng.Start.Line + len(lines) - 1))
	for i, l := range lines {
		if i == maxSnippetLines {
			fmt.Fprintf(p.w, "  %s\n", p.paint(strings.Repeat(" ", number)+"  ...", dim))
			break
		}
		text, from, to := fitLine(l, p.width-number-4)
		prefix := fmt.Sprintf("  %*d: ", number, rng.Start.Line+i)
		fmt.Fprintf(p.w, "%s%s\n", p.paint(prefix, dim), text)
		if len(lines) == 1 || i == 0 {
			fmt.Fprintf(p.w, "%s%s\n", strings.Repeat(" ", len(prefix)+from), p.paint(strings.Repeat("^", max(to-from, 1)), hue))
		}
	}
	for _, r := range references(d) {
		text := printable(r.name + " is " + r.statement)
		fmt.Fprintf(p.w, "  %s\n", p.paint(strings.Repeat(" ", number)+"  "+clip(text, p.width-number-4), dim))
	}
}

// contextOf names the block at an offset. HCL's navigation panics on bodies that it did not finish reading.
func contextOf(file *hcl.File, offset int) (text string) {
	defer func() {
		if recover() != nil {
			text = ""
		}
	}()
	return hcled.ContextString(file, offset)
}

func source(files map[string]*hcl.File, name string) []byte {
	if f := files[name]; f != nil && f.Bytes != nil {
		return f.Bytes
	}
	return nil
}

// line is a source line with the bytes [from, to) that are meant.
type line struct {
	text     []byte
	from, to int
}

// cutLines returns the lines that a range touches; offsets beyond the source are bent back into it.
func cutLines(src []byte, rng hcl.Range) []line {
	start := min(max(rng.Start.Byte, 0), len(src))
	end := min(max(rng.End.Byte, start), len(src))
	begin := bytes.LastIndexByte(src[:start], '\n') + 1
	var lines []line
	for {
		stop := len(src)
		if i := bytes.IndexByte(src[begin:], '\n'); i >= 0 {
			stop = begin + i
		}
		text := bytes.TrimSuffix(src[begin:stop], []byte("\r"))
		lines = append(lines, line{
			text: text,
			from: min(max(start-begin, 0), len(text)),
			to:   min(max(end-begin, 0), len(text)),
		})
		if stop >= end || stop == len(src) || len(lines) > maxSnippetLines {
			return lines
		}
		begin = stop + 1
	}
}

// fitLine makes a source line fit for a terminal of the given width: tabs become two spaces, control characters a
// replacement, and a long line is cut around what is meant. It returns the columns of what is meant.
func fitLine(l line, width int) (text string, from, to int) {
	var out []rune
	start, end := -1, -1
	for i := 0; i < len(l.text); {
		if start < 0 && i >= l.from {
			start = len(out)
		}
		if end < 0 && i >= l.to {
			end = len(out)
		}
		r, size := utf8.DecodeRune(l.text[i:])
		if r == '\t' {
			out = append(out, ' ', ' ')
		} else {
			out = append(out, visible(r))
		}
		i += size
	}
	if start < 0 {
		start = len(out)
	}
	if end < 0 {
		end = len(out)
	}
	for len(out) > 0 && len(out) > end && out[len(out)-1] == ' ' {
		out = out[:len(out)-1]
	}
	if len(out) <= width {
		return string(out), start, end
	}
	// Keep the beginning of what is meant in view, with a third of the width before it.
	first := max(0, min(start-width/3, len(out)-width))
	last := min(len(out), first+width)
	cut := append([]rune(nil), out[first:last]...)
	if first > 0 {
		cut[0] = '…'
	}
	if last < len(out) {
		cut[len(cut)-1] = '…'
	}
	return string(cut), min(max(start-first, 0), len(cut)), min(max(end-first, 0), len(cut))
}

// visible replaces what a terminal might act upon or what changes the direction of text.
func visible(r rune) rune {
	if r == utf8.RuneError || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
		return '\ufffd'
	}
	return r
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\r' {
			return ' '
		}
		return visible(r)
	}, s)
}

func quote(s string) string {
	return `"` + clip(s, 60) + `"`
}

func clip(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(width-1, 0)]) + "…"
}

// wrap writes a line of prose, broken at spaces; a word that is too long for a line stays whole, since it may be a
// path to copy. The indentation of the line is kept.
func (p *printer) wrap(text string) {
	indent := text[:len(text)-len(strings.TrimLeft(text, " "))]
	column := 0
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
			fmt.Fprint(p.w, indent, word)
			column = len(indent) + n
		case column+1+n > p.width:
			fmt.Fprint(p.w, "\n", indent, word)
			column = len(indent) + n
		default:
			fmt.Fprint(p.w, " ", word)
			column += 1 + n
		}
	}
	fmt.Fprintln(p.w)
}
