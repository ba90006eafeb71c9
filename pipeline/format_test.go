package pipeline

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// sourceMaker writes random locals that all have values, with white space that nobody would choose.
type sourceMaker struct {
	*rand.Rand
	out   strings.Builder
	names int
}

func (m *sourceMaker) pick(options ...string) string { return options[m.IntN(len(options))] }

// gap is white space within a line.
func (m *sourceMaker) gap() string { return m.pick("", " ", "  ", "\t", " \t ") }

// space is white space that separates words.
func (m *sourceMaker) space() string { return " " + m.gap() }

// loose is white space between brackets, where lines may end and comments stand.
func (m *sourceMaker) loose() string {
	return m.pick("", " ", "\n", "\n\n  ", " # note\n", " // note }\n", "/* a { */", "\n   ")
}

func (m *sourceMaker) expression(depth int) string {
	if depth == 0 {
		return m.pick("1", "2.50", "-3", "1e2", "true", "false", "null", `"text"`, `"a${1+1}b"`, `"tab\t\"q\" é"`, `"$${x}"`, "local.base", `"%{if true}y%{else}n%{endif}"`)
	}
	e := func() string { return m.expression(depth - 1) }
	switch m.IntN(12) {
	case 0:
		return "[" + m.loose() + e() + m.gap() + "," + m.loose() + e() + m.pick("", ",") + m.loose() + "]"
	case 1:
		return "{" + m.loose() + "a" + m.gap() + m.pick("=", ":") + m.gap() + e() + m.pick(",", "\n", ", # note\n", " # note\n") + m.loose() + `"b c"` + m.gap() + "=" + m.gap() + e() + m.loose() + "}"
	case 2:
		return "(" + m.loose() + e() + m.loose() + ")"
	case 3:
		return "true" + m.gap() + "?" + m.gap() + e() + m.gap() + ":" + m.gap() + "null"
	case 4:
		return "[" + m.loose() + "for" + m.space() + "x" + m.space() + "in" + m.space() + "[" + e() + "]" + m.gap() + ":" + m.gap() + "x" + m.loose() + "]"
	case 5:
		return "{" + m.loose() + "for" + m.space() + "k," + m.gap() + "v" + m.space() + "in" + m.space() + "{q=" + e() + "}" + m.gap() + ":" + m.gap() + "k" + m.gap() + "=>" + m.gap() + "v" + m.gap() + "}"
	case 6:
		return "jsonencode(" + m.loose() + e() + m.loose() + ")"
	case 7:
		return "<<" + m.pick("", "-") + "END\n" + m.pick("  a\n\tb  \n", "x ${ 1+1 } y\n", "\n", "%{ for i in [1,2] ~}\n  ${i}\n%{ endfor ~}\n", "}\n") + m.pick("", "  ") + "END\n"
	case 8:
		return m.pick("1+2", "7 %4", "3*-2", "-( 4)", "1-1", "5- -2") + m.gap() + m.pick("+", "-", "*", "==", "!=", "<") + m.gap() + m.pick("3", "-1", "(2)")
	case 9:
		return "!" + m.pick("true", "false", "(1 == 2)") + m.gap() + m.pick("&&", "||") + m.gap() + "!true"
	case 10:
		return "[" + e() + "]" + m.pick("[0]", "[ 0 ]")
	default:
		return `"a ${` + m.gap() + "jsonencode([" + m.pick("1", `"x"`, "true", "[ 1,2]") + "])" + m.gap() + m.pick("", "~") + `} b"`
	}
}

// line writes an argument. Where newlines are allowed depends on what is around; what does not parse is made again.
func (m *sourceMaker) line() {
	m.names++
	for {
		value := m.expression(m.IntN(4))
		line := m.gap() + fmt.Sprintf("v%d", m.names) + strings.Repeat("x", m.IntN(6)) + m.gap() + "=" + m.gap() + value
		if !strings.HasSuffix(value, "END\n") {
			line += m.gap() + m.pick("", "# note", "// note", "/* note */") + m.pick("\n", "\n\n", "\n # note {\n")
		}
		if _, diags := hclsyntax.ParseConfig([]byte("locals {\n"+line+"}\n"), "x", hcl.InitialPos); !diags.HasErrors() {
			m.out.WriteString(line)
			return
		}
	}
}

func (m *sourceMaker) source(lines int) string {
	m.out.Reset()
	m.out.WriteString("locals {\nbase = \"b\"\n")
	for i := range lines {
		m.line()
		if i%7 == 6 {
			m.out.WriteString(m.pick("}\n", "  }\n", "} # end\n") + m.pick("", "\n\n", "# between\n", "/*\n}\n*/\n") + "locals" + m.gap() + "{\n")
		}
	}
	return m.out.String() + "}\n"
}

// words are the tokens of a source, without its white space.
func words(t *testing.T, src []byte) []string {
	t.Helper()
	tokens, diags := hclsyntax.LexConfig(src, "x", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatalf("%s\n%s", diags, src)
	}
	out := make([]string, len(tokens))
	for i, token := range tokens {
		out[i] = fmt.Sprintf("%s %q", token.Type, token.Bytes)
	}
	return out
}

// meaning is what the locals of a source are worth.
func meaning(t *testing.T, src []byte) map[string]string {
	t.Helper()
	file, diags := hclsyntax.ParseConfig(src, "x", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatalf("%s\n%s", diags, src)
	}
	out := make(map[string]string)
	ctx := &hcl.EvalContext{
		Variables: map[string]cty.Value{"local": cty.ObjectVal(map[string]cty.Value{"base": cty.StringVal("b")})},
		Functions: functionTable(&Pipeline{}, nil),
	}
	for _, block := range file.Body.(*hclsyntax.Body).Blocks {
		for name, a := range block.Body.Attributes {
			v, diags := a.Expr.Value(ctx)
			if diags.HasErrors() {
				out[name] = "error: " + diags[0].Summary
				continue
			}
			out[name] = v.GoString()
		}
	}
	return out
}

// TestFormatKeepsMeaning formats random sources: the result is canonical, has the same tokens and the same values.
func TestFormatKeepsMeaning(t *testing.T) {
	t.Parallel()
	for seed := range uint64(80) {
		m := &sourceMaker{Rand: rand.New(rand.NewPCG(seed, 1))}
		src := []byte(m.source(1 + m.IntN(40)))
		once, diags := Format(src, "x"+suffixHCL)
		if _, parseDiags := hclsyntax.ParseConfig(src, "x", hcl.InitialPos); parseDiags.HasErrors() {
			t.Fatalf("seed %d: the test makes wrong sources: %s\n%s", seed, parseDiags, src)
		}
		if diags.HasErrors() {
			t.Fatalf("seed %d: %s", seed, diags)
		}
		twice, _ := Format(once, "x"+suffixHCL)
		if !bytes.Equal(once, twice) {
			t.Fatalf("seed %d: not idempotent (-once +twice):\n%s\nof\n%s", seed, cmp.Diff(string(once), string(twice)), src)
		}
		if d := cmp.Diff(words(t, src), words(t, once)); d != "" {
			t.Fatalf("seed %d: tokens (-before +after):\n%s\n%s\n%s", seed, d, src, once)
		}
		before := meaning(t, src)
		if len(before) < 2 {
			t.Fatalf("seed %d: no values in %s", seed, src)
		}
		if d := cmp.Diff(before, meaning(t, once)); d != "" {
			t.Fatalf("seed %d: values (-before +after):\n%s", seed, d)
		}
	}
}

// TestPieces: large sources come out of their pieces as they do whole, wherever braces stand.
func TestPieces(t *testing.T) {
	t.Parallel()
	cut := 0
	for seed := range uint64(12) {
		m := &sourceMaker{Rand: rand.New(rand.NewPCG(seed, 2))}
		src := []byte(m.source(200))
		if seed%2 == 0 {
			src = append([]byte(manyArtifacts(int(60+seed))), src...)
		}
		if seed%5 == 0 { // a heredoc and a comment that look like blocks, where a piece could end
			block := strings.Repeat("a {\n}\n", pieceSize/4)
			src = []byte(manyArtifacts(50) + "locals {\nx = <<E\n" + block + "E\n}\n/*\n" + block + "*/\n")
		}
		if len(pieces(src)) > 1 {
			cut++
		}
		whole, diags := hclsyntax.ParseConfig(src, "x", hcl.InitialPos)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		got, diags := parseNative(src, "x")
		if len(diags) > 0 {
			t.Fatalf("seed %d: %s", seed, diags)
		}
		want, have := whole.Body.(*hclsyntax.Body), got.Body.(*hclsyntax.Body)
		if d := cmp.Diff(outline(want), outline(have)); d != "" {
			t.Fatalf("seed %d (-whole +pieces):\n%s", seed, d)
		}
		if want.SrcRange != have.SrcRange || want.EndRange != have.EndRange {
			t.Errorf("seed %d: ranges %v %v, want %v %v", seed, have.SrcRange, have.EndRange, want.SrcRange, want.EndRange)
		}
		formatted, diags := Format(src, "x"+suffixHCL)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if d := cmp.Diff(string(hclwrite.Format(src)), string(formatted)); d != "" {
			t.Fatalf("seed %d: formatted (-whole +pieces):\n%s", seed, d)
		}
	}
	if cut < 8 {
		t.Errorf("only %d sources were cut", cut)
	}
}

// outline lists where everything of a body stands.
func outline(body *hclsyntax.Body) []string {
	var out []string
	for _, a := range sortedAttributes(body) {
		out = append(out, fmt.Sprintf("%s %v %v", a.Name, a.SrcRange, a.Expr.Range()))
	}
	for _, b := range body.Blocks {
		out = append(out, fmt.Sprintf("%s %q %v", b.Type, b.Labels, b.Range()))
		out = append(out, outline(b.Body)...)
	}
	return out
}

// TestPiecesReport: mistakes of large sources are reported as those of small ones, with their places.
func TestPiecesReport(t *testing.T) {
	t.Parallel()
	good := manyArtifacts(60)
	for name, mistake := range map[string]string{
		"syntax": "locals {\n a = \n}\n", "attribute": "a = 1\n" + good + "a = 2\n", "open": "locals {\n", "heredoc": "locals {\n a = <<E\n",
		"nesting": "locals {\n a = " + strings.Repeat("(", 300) + "\n}\n", "control": "\x00\n", "mark": "\ufeff\n",
	} {
		src := []byte(good + mistake + good)
		_, want := hclsyntax.ParseConfig(src, "x", hcl.InitialPos)
		if name == "nesting" {
			want = checkNesting(src, "x")
		}
		_, got := parseNative(src, "x")
		if len(want) == 0 || want.Error() != got.Error() || len(want) != len(got) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
		if out, diags := Format(src, "x"); out != nil || !diags.HasErrors() {
			t.Errorf("%s: formatted", name)
		}
	}
	file, _ := parseNative([]byte(good+good), "x")
	names := file.Nav.(blockNames)
	at := strings.LastIndex(good+good, "app-7.version")
	if got := names.ContextString(at); got != `artifact "a7"` {
		t.Errorf("context is %q", got)
	}
	if got := names.ContextDefRange(at); got.Start.Line < 400 || names.ContextString(0) != "" {
		t.Errorf("header at %v", got)
	}
}
