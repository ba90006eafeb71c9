package pipeline

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Limits of a file. HCL's parser and evaluator recurse, and Go ends the process on stack overflow, so what they are
// given is bounded first: 100,000 open parentheses would end a process, and so would a sum of four million terms.
const (
	maxFileSize  = 8 << 20
	maxDepth     = 200   // of nested brackets, templates and blocks
	maxOperators = 2_000 // that are open at once, over all levels
	maxNumber    = 1_000 // characters of a number
	maxExponent  = 4     // digits of a number's exponent
)

// checkNesting refuses native syntax that is nested too deep. src may also be an expression.
func checkNesting(src []byte, filename string) hcl.Diagnostics {
	if plainlyShallow(src) {
		return nil
	}
	return checkLexed(src, filename)
}

func checkLexed(src []byte, filename string) hcl.Diagnostics {
	tokens, _ := hclsyntax.LexConfig(src, filename, hcl.InitialPos) // the parser reports what the lexer finds
	return checkTokens(tokens)
}

// checkTemplateNesting is checkNesting for the text of a template.
func checkTemplateNesting(src []byte, filename string, start hcl.Pos) hcl.Diagnostics {
	tokens, _ := hclsyntax.LexTemplate(src, filename, start)
	return checkTokens(tokens)
}

// level is an open bracket and what stands in it since the last separator.
type level struct {
	operators  int
	directives int  // open %{ if } and %{ for }
	newlineSep bool // a newline ends an expression here
}

func checkTokens(tokens hclsyntax.Tokens) hcl.Diagnostics {
	levels := []level{{newlineSep: true}}
	open := 0 // operators over all levels
	fail := func(t hclsyntax.Token, what string) hcl.Diagnostics {
		return hcl.Diagnostics{{
			Severity: hcl.DiagError, Summary: "Nested too deep",
			Detail:  what + " Move inner parts to locals.",
			Subject: t.Range.Ptr(),
		}}
	}
	separate := func() {
		top := &levels[len(levels)-1]
		open -= top.operators
		top.operators = 0
	}
	for i, t := range tokens {
		top := &levels[len(levels)-1]
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOParen, hclsyntax.TokenOBrack, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			if t.Type == hclsyntax.TokenOBrack || t.Type == hclsyntax.TokenOParen {
				top.operators++ // x[a][b][c] nests to the left
				open++
			}
			if t.Type == hclsyntax.TokenTemplateControl && i+1 < len(tokens) {
				switch string(tokens[i+1].Bytes) {
				case "if", "for":
					top.directives++
					top.operators++
					open++
				case "endif", "endfor":
					if top.directives > 0 {
						top.directives--
						top.operators--
						open--
					}
				}
				if top.directives > maxDepth {
					return fail(t, fmt.Sprintf("More than %d template directives are open here.", maxDepth))
				}
			}
			levels = append(levels, level{newlineSep: t.Type == hclsyntax.TokenOBrace})
			if len(levels) > maxDepth {
				return fail(t, fmt.Sprintf("More than %d brackets, templates and blocks are open here.", maxDepth))
			}
		case hclsyntax.TokenCBrace, hclsyntax.TokenCParen, hclsyntax.TokenCBrack, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc,
			hclsyntax.TokenTemplateSeqEnd:
			separate()
			if len(levels) > 1 {
				levels = levels[:len(levels)-1]
			}
		case hclsyntax.TokenNewline:
			if top.newlineSep {
				separate()
			}
		case hclsyntax.TokenComma:
			separate()
		case hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenPercent,
			hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq,
			hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq, hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenBang,
			hclsyntax.TokenQuestion, hclsyntax.TokenDot, hclsyntax.TokenDoubleColon:
			top.operators++
			open++
		case hclsyntax.TokenNumberLit:
			if tooLong(string(t.Bytes)) {
				return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "Number too long", Detail: "Nothing here needs a number of this size.", Subject: t.Range.Ptr()}}
			}
		}
		if open > maxOperators {
			return fail(t, fmt.Sprintf("More than %d operators are open here.", maxOperators))
		}
	}
	return nil
}

// tooLong tells whether a number would cost more than it can be worth: 1e999999999 has a billion digits.
func tooLong(number string) bool {
	if len(number) > maxNumber {
		return true
	}
	if _, exponent, found := strings.Cut(strings.ToLower(number), "e"); found {
		return len(strings.TrimLeft(exponent, "+-0")) > maxExponent
	}
	return false
}

// checkJSONNesting does the same for JSON syntax, whose strings are templates.
func checkJSONNesting(src []byte, filename string) hcl.Diagnostics {
	depth, line, lineStart := 0, 1, 0
	fail := func(at int, summary, detail string) hcl.Diagnostics {
		start := hcl.Pos{Line: line, Column: at - lineStart + 1, Byte: at}
		end := start
		end.Byte++
		end.Column++
		return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &hcl.Range{Filename: filename, Start: start, End: end}}}
	}
	for i := 0; i < len(src); i++ {
		switch c := src[i]; {
		case c == '\n':
			line, lineStart = line+1, i+1
		case c == '[' || c == '{':
			if depth++; depth > maxDepth {
				return fail(i, "Nested too deep", fmt.Sprintf("More than %d brackets are open here. Move inner parts to locals.", maxDepth))
			}
		case c == ']' || c == '}':
			depth--
		case c == '-' || c >= '0' && c <= '9':
			end := i
			for end < len(src) && strings.IndexByte("+-.eE0123456789", src[end]) >= 0 {
				end++
			}
			if tooLong(string(src[i:end])) {
				return fail(i, "Number too long", "Nothing here needs a number of this size.")
			}
			i = end - 1
		case c == '"':
			end := i + 1
			for end < len(src) && src[end] != '"' && src[end] != '\n' {
				if src[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(src) {
				return nil // the parser says what is missing
			}
			literal := src[i:min(end+1, len(src))]
			if strings.Contains(string(literal), "${") || strings.Contains(string(literal), "%{") {
				var text string
				if json.Unmarshal(literal, &text) == nil {
					start := hcl.Pos{Line: line, Column: i - lineStart + 2, Byte: i + 1}
					if diags := checkTemplateNesting([]byte(text), filename, start); diags.HasErrors() {
						return diags
					}
				}
			}
			if src[end] == '\n' {
				end--
			}
			i = end
		}
	}
	return nil
}
