package pipeline

import (
	"context"
	"fmt"
	"maps"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// maxExpression bounds what is read as one expression.
const maxExpression = 1 << 20

// consoleFile is the name of expressions in diagnostics.
const consoleFile = "<expression>"

// Console evaluates expressions as they would be evaluated in the pipeline's files.
type Console struct {
	pipeline *Pipeline
	fresh    func() *evaluator
	e        *evaluator
	files    map[string]*hcl.File
}

// Console makes a console on the pipeline. Of the options it takes all but Targets.
func (p *Pipeline) Console(ctx context.Context, o InspectOptions) (*Console, hcl.Diagnostics) {
	if p.loadDiags.HasErrors() {
		return nil, p.loadDiags
	}
	c := &Console{pipeline: p, files: maps.Clone(p.files)}
	c.fresh = func() *evaluator {
		e := p.looker(ctx, o.FS, o.Offline, o.Built)
		e.functions = e.functions.NewChild()
		e.functions.Functions = map[string]function.Function{"type": typeFunc}
		return e
	}
	return c, nil
}

// Files are the sources that diagnostics of the console are about.
func (c *Console) Files() map[string]*hcl.File { return c.files }

// Eval evaluates one expression. What was found for earlier ones is used again.
func (c *Console) Eval(src string) (Shown, hcl.Diagnostics) {
	c.files[consoleFile] = &hcl.File{Bytes: []byte(src)}
	if len(src) > maxExpression {
		return Shown{}, hcl.Diagnostics{fault("Expression too large", fmt.Sprintf("Expressions of more than %s are not read.", formatSize(maxExpression)), nil)}
	}
	if diags := checkNesting([]byte(src+"\n"), consoleFile); diags.HasErrors() {
		return Shown{}, diags
	}
	// A heredoc ends with its line.
	expr, diags := hclsyntax.ParseExpression([]byte(src+"\n"), consoleFile, hcl.InitialPos)
	if diags.HasErrors() {
		return Shown{}, diags
	}
	c.pipeline.renewEffort()
	c.pipeline.effort.meter(expr)
	check := &referenceChecker{module: c.pipeline.module}
	check.expression(expr, nil)
	for _, t := range expr.Variables() { // the next expression has other references in the same places
		delete(c.pipeline.badRefs, t.SourceRange())
	}
	if check.diags.HasErrors() {
		return Shown{}, check.diags
	}
	if c.e == nil || c.e.failed() || c.e.work > maxWork/2 {
		c.e = c.fresh() // what a mistake made unknown would be unknown without a word
	}
	v, _, ok := c.e.valueIn(expr, c.e.globalScope())
	diags = c.e.finish()
	c.e.diags = nil
	if !ok || diags.HasErrors() {
		c.e = nil
		return Shown{}, diags
	}
	c.pipeline.keepDerived(v)
	show := &shower{offline: c.e.facts == nil}
	shown := show.value(v)
	shown.Text = c.pipeline.withoutQuotedSecrets(shown.Text)
	return shown, diags
}

// typeFunc is there for consoles only: what a value's type is, is nothing to build on.
var typeFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType, AllowMarked: true, AllowNull: true, AllowUnknown: true, AllowDynamicType: true}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		// The names in an object may be as secret as what they hold.
		_, marks := args[0].UnmarkDeep()
		return cty.StringVal(typeexpr.TypeString(args[0].Type())).WithMarks(marks), nil
	},
})

// OpenExpression tells whether a text is the beginning of an expression that goes on in the next line: a bracket or a
// heredoc is open. A quote that is open at the end of a line is a mistake.
func OpenExpression(src string) bool {
	tokens, _ := hclsyntax.LexExpression([]byte(src+"\n"), consoleFile, hcl.InitialPos)
	var open []hclsyntax.TokenType
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOParen, hclsyntax.TokenOBrack, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			open = append(open, t.Type)
		case hclsyntax.TokenCBrace, hclsyntax.TokenCParen, hclsyntax.TokenCBrack, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc,
			hclsyntax.TokenTemplateSeqEnd:
			if len(open) == 0 {
				return false
			}
			open = open[:len(open)-1]
		}
	}
	return len(open) > 0 && open[len(open)-1] != hclsyntax.TokenOQuote
}

// FunctionInfo describes a function of expressions.
type FunctionInfo struct {
	Name        string          `json:"name"`
	Group       string          `json:"group"`
	Signature   string          `json:"signature"`
	Description string          `json:"description"` // plain text with code in backquotes
	Parameters  []ParameterInfo `json:"parameters"`
	Variadic    *ParameterInfo  `json:"variadic_parameter,omitempty"`
}

// ParameterInfo describes a parameter of a function.
type ParameterInfo struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Functions describes the functions of expressions, by group.
func Functions() []FunctionInfo {
	p := &Pipeline{}
	table := functionTable(p, nil)
	maps.Copy(table, plainFunctions(p, nil)) // with the types of their parameters
	maps.Copy(table, envFunctions(p))
	param := func(q function.Parameter) ParameterInfo {
		if q.Type == cty.DynamicPseudoType || q.Type.IsCapsuleType() { // an expression, which is any
			return ParameterInfo{q.Name, "any"}
		}
		return ParameterInfo{q.Name, typeexpr.TypeString(q.Type)}
	}
	var out []FunctionInfo
	for _, g := range functionDocs {
		for _, d := range g.functions {
			fn := table[d.name]
			f := FunctionInfo{Name: d.name, Group: g.title, Signature: signature(d.name, fn), Description: d.text, Parameters: []ParameterInfo{}}
			for _, q := range fn.Params() {
				f.Parameters = append(f.Parameters, param(q))
			}
			if v := fn.VarParam(); v != nil {
				q := param(*v)
				f.Variadic = &q
			}
			out = append(out, f)
		}
	}
	return out
}

// LeftOutFunction tells why a function of other tools is not here, or returns "".
func LeftOutFunction(name string) string { return leftOut[name] }

// ReplacedFunction tells what to use in place of a function of other tools that is left out on purpose, or returns "".
func ReplacedFunction(name string) string { return impure[name] }
