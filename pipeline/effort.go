package pipeline

import (
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// A hundred bytes of loops inside of loops would take years, and a function of a large value in a loop all memory there is.
// So whatever multiplies work draws on one budget, before it does the work: loops by their length and the size of what they
// repeat, functions by their arguments. One step is about as long as it takes to evaluate a node of an expression.
const (
	stepsBase    = 2_500_000 // for an evaluation of any pipeline
	stepsPerByte = 20        // beside them, for each byte of the files
	loopSteps    = 8         // of a turn, beside what is in it
	bytesPerStep = 64        // that are looked at
)

// effort is what an evaluation may still do. It stays spent: try() and can() swallow the error that says so.
type effort struct{ left int }

// take pays for work and tells whether there is enough for it.
func (f *effort) take(steps int) bool {
	if steps < 0 || steps > f.left { // an overflow is too much, too
		f.left = -1
		return false
	}
	f.left -= steps
	return true
}

func (f *effort) spent() bool { return f.left < 0 }

// renew gives the next evaluation its steps.
func (p *Pipeline) renewEffort() {
	p.effort.left = stepsBase
	for _, f := range p.files {
		p.effort.left += stepsPerByte * len(f.Bytes)
	}
}

const tooManySteps = "Evaluating the pipeline takes too many steps, and they have run out here. Loops inside of loops multiply: make what they go over shorter."

// metered is an expression of which each value costs something. It walks like the parentheses that it embeds, because only
// nodes of HCL itself can tell what is in them.
type metered struct {
	*hclsyntax.ParenthesesExpr
	effort *effort
	cost   func(v cty.Value) int
}

// Value implements [hcl.Expression].
func (m *metered) Value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	if m.effort.spent() { // functions look at their arguments before they ask for steps
		return m.stop()
	}
	v, diags := m.Expression.Value(ctx)
	if !m.effort.take(m.cost(v)) {
		return m.stop()
	}
	return v, diags
}

func (m *metered) stop() (cty.Value, hcl.Diagnostics) {
	return cty.DynamicVal, hcl.Diagnostics{fault("Too many steps", tooManySteps, m.Range().Ptr())}
}

// meter puts meters into an expression or a body, where its loops and conditionals are.
func (f *effort) meter(node hclsyntax.Node) { _ = hclsyntax.Walk(node, &meterWalker{effort: f}) }

// meterBody does so for native syntax.
func (f *effort) meterBody(body hcl.Body) {
	if native, ok := body.(*hclsyntax.Body); ok {
		f.meter(native)
	}
}

type meterWalker struct {
	effort *effort
	nodes  int   // so far
	loops  []int // nodes before the loops that are open
}

// Enter implements [hclsyntax.Walker].
func (w *meterWalker) Enter(node hclsyntax.Node) hcl.Diagnostics {
	w.nodes++
	if isLoop(node) {
		w.loops = append(w.loops, w.nodes)
	}
	return nil
}

// Exit implements [hclsyntax.Walker].
func (w *meterWalker) Exit(node hclsyntax.Node) hcl.Diagnostics {
	put := func(expr *hclsyntax.Expression, cost func(cty.Value) int) {
		*expr = &metered{&hclsyntax.ParenthesesExpr{Expression: *expr, SrcRange: (*expr).Range()}, w.effort, cost}
	}
	if isLoop(node) {
		turn := loopSteps + w.nodes - w.loops[len(w.loops)-1]
		w.loops = w.loops[:len(w.loops)-1]
		turns := func(v cty.Value) int { return elements(v) * turn }
		switch loop := node.(type) {
		case *hclsyntax.ForExpr:
			put(&loop.CollExpr, turns)
			for _, each := range []*hclsyntax.Expression{&loop.KeyExpr, &loop.ValExpr, &loop.CondExpr} {
				if *each != nil {
					put(each, free)
				}
			}
		case *hclsyntax.SplatExpr:
			put(&loop.Source, turns)
		}
	}
	switch n := node.(type) {
	case *hclsyntax.ConditionalExpr: // makes one type of both, which takes the square of their elements
		put(&n.TrueResult, unifySteps)
		put(&n.FalseResult, unifySteps)
	case *hclsyntax.BinaryOpExpr:
		if n.Op == hclsyntax.OpEqual || n.Op == hclsyntax.OpNotEqual {
			put(&n.LHS, equalSteps)
		}
	case *hclsyntax.TemplateExpr:
		for i, part := range n.Parts {
			if _, literal := part.(*hclsyntax.LiteralValueExpr); !literal && len(w.loops) > 0 {
				put(&n.Parts[i], textSteps)
			}
		}
	}
	return nil
}

// free is for what only has to end when the steps have run out: a loop goes on after an error.
func free(cty.Value) int { return 0 }

func isLoop(node hclsyntax.Node) bool {
	switch node.(type) {
	case *hclsyntax.ForExpr, *hclsyntax.SplatExpr:
		return true
	}
	return false
}

// elements is how many elements a value has, and 0 where that is not known.
func elements(v cty.Value) int {
	v, _ = v.Unmark()
	if v.IsNull() || !v.IsKnown() || !v.CanIterateElements() {
		return 0
	}
	return v.LengthInt()
}

// unifySteps is what it takes to find one type for a value and another one: where each element has a type of its own, the
// square of their number.
func unifySteps(v cty.Value) int { return unifyTypeSteps(v.Type()) }

func unifyTypeSteps(ty cty.Type) int {
	steps, n := 0, 0
	switch {
	case ty.IsTupleType():
		for _, element := range ty.TupleElementTypes() {
			steps += unifyTypeSteps(element)
			n++
		}
	case ty.IsObjectType():
		for _, element := range ty.AttributeTypes() {
			steps += unifyTypeSteps(element)
			n++
		}
	case ty.IsCollectionType():
		return unifyTypeSteps(ty.ElementType())
	}
	return steps + n*n/8
}

// equalSteps is what it takes to compare a value, whose elements are looked at several times.
func equalSteps(v cty.Value) int {
	size, _ := valueSize(v)
	return size * 8 / bytesPerStep
}

func textSteps(v cty.Value) int {
	v, _ = v.Unmark()
	if v.Type() != cty.String || v.IsNull() || !v.IsKnown() {
		return 0
	}
	return len(v.AsString()) * 4 / bytesPerStep // each part is copied several times
}

// replace puts other expressions in the place of a block's, and of those in it. A type constraint is none.
func (c *content) replace(with func(hcl.Expression) hcl.Expression) {
	if c == nil {
		return
	}
	if c.forEach != nil {
		c.forEach.Expr = with(c.forEach.Expr)
	}
	for _, s := range c.schemas {
		if a := c.attrs[s.Name]; a != nil && s.Type != tType {
			a.Expr = with(a.Expr)
		}
	}
	for _, n := range c.nested {
		if n.dynamic != nil {
			n.dynamic.forEach = with(n.dynamic.forEach)
			if n.dynamic.label != nil {
				n.dynamic.label = with(n.dynamic.label)
			}
		}
		n.content.replace(with)
	}
}

// meterJSON puts meters into what is written in JSON syntax.
func (f *effort) meterJSON(m *module) {
	for _, v := range m.variables {
		if v.deflt != nil {
			v.deflt = f.native(v.deflt)
		}
		for _, c := range v.validations {
			c.replace(f.native)
		}
	}
	for _, a := range m.locals {
		a.Expr = f.native(a.Expr)
	}
	for _, lists := range []map[string][]*block{m.byKind, m.others} {
		for _, blocks := range lists {
			for _, b := range blocks {
				b.content.replace(f.native)
			}
		}
	}
}

// native makes a native expression of one in JSON syntax that holds templates: those are parsed again and again where they
// are evaluated, so that no meter could be put into them. What cannot be parsed stays as it is, and fails as it would.
func (f *effort) native(expr hcl.Expression) hcl.Expression {
	if _, already := expr.(hclsyntax.Expression); already {
		return expr
	}
	made, ok := nativeExpr(expr)
	if !ok {
		return expr
	}
	f.meter(made)
	return made
}

// nativeExpr returns false for what is no better than before.
func nativeExpr(expr hcl.Expression) (hclsyntax.Expression, bool) {
	if items, diags := hcl.ExprList(expr); !diags.HasErrors() {
		list := &hclsyntax.TupleConsExpr{SrcRange: expr.Range(), OpenRange: expr.StartRange()}
		templates := false
		for _, item := range items {
			made, ok := nativeExpr(item)
			if made == nil {
				return nil, false
			}
			templates = templates || ok
			list.Exprs = append(list.Exprs, made)
		}
		return list, templates
	}
	if pairs, diags := hcl.ExprMap(expr); !diags.HasErrors() {
		object := &hclsyntax.ObjectConsExpr{SrcRange: expr.Range(), OpenRange: expr.StartRange()}
		templates, names := false, make(map[string]bool)
		for _, pair := range pairs {
			key, keyOK := nativeExpr(pair.Key)
			value, valueOK := nativeExpr(pair.Value)
			name, _ := pair.Key.Value(nil)
			if key == nil || value == nil || names[name.AsString()] {
				return nil, false
			}
			names[name.AsString()] = true
			templates = templates || keyOK || valueOK
			object.Items = append(object.Items, hclsyntax.ObjectConsItem{KeyExpr: key, ValueExpr: value})
		}
		return object, templates
	}
	v, diags := expr.Value(nil) // without a context, a text is itself
	if diags.HasErrors() {
		return nil, false
	}
	if v.Type() == cty.String && !v.IsNull() && (strings.Contains(v.AsString(), "${") || strings.Contains(v.AsString(), "%{")) {
		start := expr.Range().Start
		start.Column++ // behind the quote
		start.Byte++
		template, diags := hclsyntax.ParseTemplate([]byte(v.AsString()), expr.Range().Filename, start)
		if diags.HasErrors() {
			return nil, false
		}
		return template, true
	}
	return &hclsyntax.LiteralValueExpr{Val: v, SrcRange: expr.Range()}, false
}
