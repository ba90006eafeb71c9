package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// rootNames are the first words of references. Names bound by for expressions and dynamic blocks come beside them.
var rootNames = map[string]bool{
	"var": true, "local": true, "each": true, "path": true, "twinkeel": true,
	"source": true, "layout": true, "device_type": true, "signer": true, "artifact": true, "image": true, "server": true, "rollout": true, "module": true,
}

// pathNames are what path.NAME can be.
var pathNames = []string{"root", "module", "out"}

// symbol is something that has one value, which is found once: a variable, a local value, a block (all its instances), a
// setting, or all blocks of a kind.
type symbol struct {
	in   string // prefix of the module's instance; empty: the root
	root string // var, local, path, twinkeel, output, or a kind of block
	typ  string
	name string // empty: everything below root (and typ)
}

func (s symbol) String() string { return s.in + s.local() }

// local is what references in the same module call it.
func (s symbol) local() string {
	parts := []string{s.root}
	if s.typ != "" {
		parts = append(parts, s.typ)
	}
	if s.name != "" {
		parts = append(parts, s.name)
	}
	return strings.Join(parts, ".")
}

// reference is a traversal that was understood: the symbol and the steps that go into its value.
type reference struct {
	symbol symbol
	rest   hcl.Traversal
}

// stepName returns the name that a step selects, by .name or ["name"].
func stepName(step hcl.Traverser) (string, bool) {
	switch s := step.(type) {
	case hcl.TraverseAttr:
		return s.Name, true
	case hcl.TraverseIndex:
		if s.Key.Type() == cty.String && s.Key.IsKnown() && !s.Key.IsNull() {
			return s.Key.AsString(), true
		}
	}
	return "", false
}

// parseReference understands a traversal that begins with one of rootNames other than each. The error tells what no
// block or value answers to.
func (m *module) parseReference(t hcl.Traversal) (reference, *hcl.Diagnostic) {
	root := t.RootName()
	rest := t[1:]
	take := func() (string, hcl.Range, bool) {
		if len(rest) == 0 {
			return "", hcl.Range{}, false
		}
		name, ok := stepName(rest[0])
		if !ok {
			return "", hcl.Range{}, false
		}
		rng := rest[0].SourceRange()
		rest = rest[1:]
		return name, rng, true
	}
	sym := symbol{root: root}
	unknown := func(what, name string, rng hcl.Range, candidates []string, prefix string) *hcl.Diagnostic {
		detail := fmt.Sprintf("There is no %s %s.", what, prefix+shorten(name))
		if m.weary {
			return fault("Unknown reference", detail, rng.Ptr())
		}
		if best := closest(name, candidates); best != "" {
			detail += fmt.Sprintf(" Did you mean %s%s?", prefix, best)
		} else if len(candidates) > 0 && len(candidates) <= 8 {
			detail += fmt.Sprintf(" Known: %s.", strings.Join(candidates, ", "))
		}
		return fault("Unknown reference", detail, rng.Ptr())
	}
	switch root {
	case "var", "local", "path", "twinkeel":
		name, rng, ok := take()
		if !ok {
			return reference{}, fault("Incomplete reference", fmt.Sprintf("%s alone has no value; write %s.NAME.", root, root), t.SourceRange().Ptr())
		}
		sym.name = name
		switch root {
		case "var":
			if m.variables[name] == nil {
				return reference{}, unknown("variable", name, rng, keys(m.variables), "var.")
			}
		case "local":
			if m.locals[name] == nil {
				return reference{}, unknown("local value", name, rng, m.localNames, "local.")
			}
		case "path":
			if !slices.Contains(pathNames, name) {
				return reference{}, unknown("value", name, rng, pathNames, "path.")
			}
		case "twinkeel":
			if name != "version" {
				return reference{}, unknown("value", name, rng, []string{"version"}, "twinkeel.")
			}
		}
		return reference{sym, rest}, nil
	}

	s := language.byKind[root]
	parent := root
	if s.typed() {
		typ, rng, ok := take()
		if !ok {
			return reference{symbol: sym, rest: rest}, nil
		}
		if s.typeNamed(typ) == nil {
			// source.NAME without the type is what one writes first
			for _, t := range s.Types {
				if m.children[root+"."+t.Name][typ] != nil {
					return reference{}, fault("Unknown reference", fmt.Sprintf("The type is missing. Did you mean %s.%s.%s?", root, t.Name, typ), rng.Ptr())
				}
			}
			return reference{}, unknown("type of "+root, typ, rng, s.typeNames(), root+".")
		}
		sym.typ = typ
		parent += "." + typ
	}
	name, rng, ok := take()
	if !ok {
		return reference{symbol: sym, rest: rest}, nil
	}
	b := m.children[parent][name]
	if b == nil {
		return reference{}, unknown(root, name, rng, keys(m.children[parent]), parent+".")
	}
	sym.name = name
	return reference{sym, rest}, nil
}

func keys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// checkReferences looks at every reference of the pipeline, whether or not an evaluation would come across it.
func (m *module) checkReferences() hcl.Diagnostics {
	c := &referenceChecker{module: m}
	for _, name := range keys(m.variables) {
		v := m.variables[name]
		if v.deflt != nil {
			for _, t := range v.deflt.Variables() {
				c.bad(t, v.deflt, fault("Unexpected reference", "A default is a plain value; functions are allowed, references are not. A local value can combine variables.", t.SourceRange().Ptr()))
			}
		}
		for _, val := range v.validations {
			c.nested(val, nil)
		}
	}
	for _, name := range m.localNames {
		c.expression(m.locals[name].Expr, nil)
	}
	for _, kind := range language.kinds() {
		for _, b := range slices.Concat(m.byKind[kind], m.others[kind]) {
			if b.content == nil {
				continue
			}
			if b.forEach != nil {
				c.expression(b.forEach.Expr, nil)
			}
			var scope []string
			if b.forEach != nil {
				scope = []string{"each"}
			}
			c.content(b.content, scope)
		}
	}
	return c.diags
}

type referenceChecker struct {
	module *module
	diags  hcl.Diagnostics
}

func (c *referenceChecker) content(body *content, scope []string) {
	for _, s := range body.schemas {
		if a := body.attrs[s.Name]; a != nil && s.Type != tType {
			c.expression(a.Expr, scope)
		}
	}
	for _, n := range body.nested {
		inner := scope
		if n.dynamic != nil {
			c.expression(n.dynamic.forEach, scope)
			inner = append(slices.Clone(scope), n.dynamic.iterator)
			if n.dynamic.label != nil {
				c.expression(n.dynamic.label, inner)
			}
		}
		c.nested(n.content, inner)
	}
}

func (c *referenceChecker) nested(body *content, scope []string) {
	if body != nil {
		c.content(body, scope)
	}
}

func (c *referenceChecker) expression(expr hcl.Expression, scope []string) {
	for _, t := range expr.Variables() {
		if slices.Contains(scope, t.RootName()) && t.RootName() != "each" {
			continue
		}
		if d := c.traversal(t, slices.Contains(scope, "each")); d != nil {
			c.bad(t, expr, d)
		}
	}
}

func (c *referenceChecker) bad(t hcl.Traversal, expr hcl.Expression, d *hcl.Diagnostic) {
	d.Expression = expr
	c.module.badRefs[t.SourceRange()] = true
	c.diags = append(c.diags, d)
	c.module.weary = len(c.diags) > maxProblems
}

func (c *referenceChecker) traversal(t hcl.Traversal, each bool) *hcl.Diagnostic {
	root := t.RootName()
	switch {
	case root == "each" && !each:
		return fault("Unknown reference", "each is there only in a block with for_each.", t.SourceRange().Ptr())
	case root == "each":
		if len(t) < 2 {
			return fault("Incomplete reference", "each alone has no value; write each.key or each.value.", t.SourceRange().Ptr())
		}
		if name, ok := stepName(t[1]); !ok || name != "key" && name != "value" {
			return fault("Unknown reference", "each has the attributes key and value only.", t[1].SourceRange().Ptr())
		}
		return nil
	case !rootNames[root]:
		return c.unknownRoot(t)
	}
	ref, d := c.module.parseReference(t)
	if d != nil {
		return d
	}
	b := c.module.blocks[ref.symbol.local()]
	if b == nil || len(ref.rest) == 0 {
		return nil
	}
	if b.schema == moduleSchema {
		return c.moduleOutput(b, ref.rest)
	}
	rest := ref.rest
	if b.forEach != nil {
		if attr, ok := rest[0].(hcl.TraverseAttr); ok {
			return fault("Wrong reference", fmt.Sprintf("%s has for_each, so it stands for several; choose one by its key: %s[\"KEY\"].%s.", b.address(), b.address(), attr.Name), rest[0].SourceRange().Ptr())
		}
		rest = rest[1:]
	} else if index, ok := rest[0].(hcl.TraverseIndex); ok {
		name, isName := stepName(index)
		if !isName || !b.schema.object.HasAttribute(name) {
			return fault("Wrong reference", fmt.Sprintf("%s has no for_each, so it has no instances to choose from.", b.address()), rest[0].SourceRange().Ptr())
		}
	}
	if len(rest) == 0 {
		return nil
	}
	name, ok := stepName(rest[0])
	names := b.schema.attributeNames(b.typ)
	if !ok || slices.Contains(names, name) {
		return nil
	}
	what := sentenceStart(aWord(b.schema.Kind))
	if b.typ != "" {
		what += " of type " + b.typ
	}
	return fault("Unknown attribute", fmt.Sprintf("%s has no attribute %s.%s", what, name, suggestion(name, names, "Known: ")), rest[0].SourceRange().Ptr())
}

// moduleOutput checks what follows the name of a module.
func (c *referenceChecker) moduleOutput(b *block, rest hcl.Traversal) *hcl.Diagnostic {
	callee := c.module.callees[b.name]
	if callee == nil {
		return nil // reported
	}
	if b.forEach != nil {
		if attr, ok := rest[0].(hcl.TraverseAttr); ok {
			return fault("Wrong reference", fmt.Sprintf("%s has for_each, so it stands for several; choose one by its key: %s[\"KEY\"].%s.", b.local(), b.local(), attr.Name), rest[0].SourceRange().Ptr())
		}
		if rest = rest[1:]; len(rest) == 0 {
			return nil
		}
	}
	name, ok := stepName(rest[0])
	if !ok || callee.output(name) != nil {
		return nil
	}
	detail := fmt.Sprintf("The module in %s has no output %s.%s", callee.source, shorten(name), suggestion(name, callee.outputNames(), "It has: "))
	if callee.blocks[name] != nil || language.byKind[name] != nil || callee.locals[name] != nil {
		detail += " What is in a module can be referred to only through its outputs."
	}
	return fault("Unknown output", detail, rest[0].SourceRange().Ptr())
}

func (c *referenceChecker) unknownRoot(t hcl.Traversal) *hcl.Diagnostic {
	root := t.RootName()
	m := c.module
	rng := t[0].SourceRange()
	detail := fmt.Sprintf("There is no %s.", shorten(root))
	switch {
	case root == "data":
		detail += " Did you mean source?"
	case root == "count":
		detail += " Blocks are repeated by for_each, and each.key tells them apart."
	case root == "device":
		detail += " Did you mean device_type?"
	case m.variables[root] != nil:
		detail += fmt.Sprintf(" Did you mean var.%s?", root)
	case m.locals[root] != nil:
		detail += fmt.Sprintf(" Did you mean local.%s?", root)
	default:
		hint := suggestion(root, keys(rootNames), "")
		if hint == "" && len(t) == 1 && hclsyntax.ValidIdentifier(root) {
			hint = fmt.Sprintf(" If a text is meant, put it in quotes: \"%s\".", shorten(root))
		}
		detail += hint
	}
	return fault("Unknown reference", detail, rng.Ptr())
}
