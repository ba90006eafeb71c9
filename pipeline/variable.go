package pipeline

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

const envPrefix = "TWINKEEL_VAR_"

// variable is a declared variable.
type variable struct {
	name        string
	rng         hcl.Range // of the header
	typ         cty.Type  // DynamicPseudoType: any
	typeDefault *typeexpr.Defaults
	typed       bool // has a type constraint
	deflt       hcl.Expression
	sensitive   bool
	nullable    bool
	deprecated  string
	validations []*content
}

// givenValue is a value from outside. Either text, which the variable's type decides how to read, or expr, evaluated
// without any reference.
type givenValue struct {
	origin string // for messages: "--var version", "TWINKEEL_VAR_version", a file name
	expr   hcl.Expression
	isText bool
	text   string
	rng    hcl.Range
}

func (m *module) declareVariable(raw *hcl.Block) hcl.Diagnostics {
	name := raw.Labels[0]
	diags := checkLabel(name, raw.LabelRanges[0])
	if diags.HasErrors() {
		return diags
	}
	c, contentDiags := readContent(raw, variableSchema, "")
	diags = append(diags, contentDiags...)
	v := &variable{name: name, rng: raw.DefRange, typ: cty.DynamicPseudoType, nullable: true}
	if first := m.variables[name]; first != nil {
		return append(diags, duplicate("variable", name, v.rng, first.rng))
	}
	m.variables[name] = v
	if c == nil {
		return diags
	}
	if a := c.attrs["type"]; a != nil {
		ty, defaults, typeDiags := typeexpr.TypeConstraintWithDefaults(a.Expr)
		if typeDiags.HasErrors() {
			diags = append(diags, fault("Wrong type constraint", typeConstraintDetail(a.Expr, typeDiags), a.Expr.Range().Ptr()))
		} else {
			v.typ, v.typeDefault, v.typed = ty, defaults, true
		}
	}
	if a := c.attrs["default"]; a != nil {
		v.deflt = a.Expr
	}
	flag := func(name string, into *bool) {
		if a := c.attrs[name]; a != nil {
			val, valDiags := a.Expr.Value(nil)
			if valDiags.HasErrors() || val.IsNull() || val.Type() != cty.Bool {
				diags = append(diags, fault("Wrong type of value", fmt.Sprintf("%s is true or false.", name), a.Expr.Range().Ptr()))
				return
			}
			*into = val.True()
		}
	}
	flag("sensitive", &v.sensitive)
	flag("nullable", &v.nullable)
	for _, field := range []string{"description", "deprecated"} {
		if a := c.attrs[field]; a != nil {
			val, valDiags := a.Expr.Value(nil)
			if valDiags.HasErrors() || val.IsNull() || val.Type() != cty.String {
				diags = append(diags, fault("Wrong type of value", fmt.Sprintf("%s is a text without references.", field), a.Expr.Range().Ptr()))
			} else if field == "deprecated" {
				v.deprecated = val.AsString()
			}
		}
	}
	for _, n := range c.nested {
		if n.dynamic != nil {
			diags = append(diags, fault("Wrong dynamic block", "Validations cannot be dynamic.", n.rng.Ptr()))
			continue
		}
		v.validations = append(v.validations, n.content)
	}
	return diags
}

func typeConstraintDetail(expr hcl.Expression, diags hcl.Diagnostics) string {
	if val, valDiags := expr.Value(nil); !valDiags.HasErrors() && val.Type() == cty.String && !val.IsNull() && val.IsKnown() {
		if _, isJSON := expr.(*hclsyntax.TemplateExpr); isJSON {
			return fmt.Sprintf("A type is written without quotes: %s.", shorten(val.AsString()))
		}
	}
	return diags[0].Detail
}

// readGiven collects the values of variables from outside, weakest first, so that later ones win: the environment, the
// automatic files, files and texts from the command line.
func (p *Pipeline) readGiven(dir string, o LoadOptions) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, name := range keys(p.environ) {
		if v, ok := strings.CutPrefix(name, envPrefix); ok && p.variables[v] != nil {
			p.giveText(v, name, p.environ[name])
		}
	}
	auto, err := listFiles(dir, suffixAutoHCL, suffixAutoJSON)
	if err != nil {
		diags = append(diags, fault("Cannot read directory", sentence(err.Error()), nil))
	}
	sort.Slice(auto, func(i, j int) bool { return filepath.Base(auto[i]) < filepath.Base(auto[j]) })
	for _, path := range auto {
		diags = append(diags, p.giveFile(path)...)
	}
	for _, path := range o.VarFiles {
		diags = append(diags, p.giveFile(path)...)
	}
	for _, text := range o.Vars {
		diags = append(diags, p.giveArg(text)...)
	}
	for _, arg := range o.Args {
		if arg.File != "" {
			diags = append(diags, p.giveFile(arg.File)...)
		} else {
			diags = append(diags, p.giveArg(arg.Var)...)
		}
	}
	return diags
}

func (p *Pipeline) giveArg(arg string) hcl.Diagnostics {
	name, text, ok := strings.Cut(arg, "=")
	name = strings.TrimSpace(name)
	switch {
	case !ok:
		return hcl.Diagnostics{fault("Wrong --var", fmt.Sprintf("--var %s has no value; write --var NAME=VALUE.", shorten(name)), nil)}
	case p.variables[name] == nil:
		return hcl.Diagnostics{fault("Unknown variable", fmt.Sprintf("--var %s gives a value to a variable that the pipeline does not declare.%s", shorten(name), suggestion(name, keys(p.variables), "Declared: ")), nil)}
	}
	p.giveText(name, "--var "+name, text)
	return nil
}

// giveText records a text as the value of a variable. The text becomes a file of its own, so that messages can show it.
func (p *Pipeline) giveText(name, origin, text string) {
	g := &givenValue{origin: origin, isText: true, text: text}
	g.rng = hcl.Range{Filename: origin, Start: hcl.InitialPos, End: endOf(text)}
	shown := text
	if p.variables[name].sensitive {
		p.keepSecret(cty.StringVal(text))
		shown = Secret(text).String()
		g.rng.End = endOf(shown)
	}
	p.files[origin] = &hcl.File{Bytes: []byte(shown)}
	p.given[name] = g
}

func endOf(text string) hcl.Pos {
	line, _, _ := strings.Cut(text, "\n")
	return hcl.Pos{Line: 1, Column: len([]rune(line)) + 1, Byte: len(line)}
}

func (p *Pipeline) giveFile(path string) hcl.Diagnostics {
	if !strings.HasSuffix(path, ".hcl") && !strings.HasSuffix(path, ".json") {
		return hcl.Diagnostics{fault("Unknown kind of variable file", fmt.Sprintf("%s ends neither in %s nor in %s.", path, suffixVarsHCL, suffixVarsJSON), nil)}
	}
	if _, err := os.Stat(path); err != nil {
		return hcl.Diagnostics{fault("Cannot read variable file", sentence(err.Error()), nil)}
	}
	body, diags := p.parseFile(path)
	if body == nil || diags.HasErrors() {
		return p.withoutLines(path, diags)
	}
	if native, ok := body.(*hclsyntax.Body); ok {
		for _, b := range native.Blocks {
			hint := ""
			if b.Type == "variable" {
				hint = " Variables are declared in the pipeline's files; here stand only values, such as version = \"1.0.0\"."
			}
			diags = append(diags, fault("Unexpected block", "A variable file holds values only."+hint, b.TypeRange.Ptr()))
		}
		if diags.HasErrors() {
			_ = p.withoutLines(path, nil) // the messages hold nothing of it
			return diags
		}
	}
	attrs, attrDiags := body.JustAttributes()
	if attrDiags.HasErrors() {
		return p.withoutLines(path, append(diags, attrDiags...))
	}
	for _, name := range keys(attrs) {
		a := attrs[name]
		if v := p.variables[p.meant(name)]; v != nil && v.sensitive { // known before anything can go wrong with it
			val, valDiags := a.Expr.Value(nil)
			if valDiags.HasErrors() { // what it would be is not known, so what stands there must not be shown
				p.hideLines(path)
			}
			p.keepSecret(val)
		}
		if p.variables[name] == nil {
			diags = append(diags, caution("Unknown variable", fmt.Sprintf("The pipeline declares no variable %s.%s", shorten(name), suggestion(name, keys(p.variables), "")), a.NameRange.Ptr()))
			continue
		}
		p.given[name] = &givenValue{origin: path, expr: a.Expr, rng: a.Expr.Range()}
	}
	return diags
}

// withoutLines keeps the mistakes of a file that cannot be read from showing what stands there, where a value in it may be
// sensitive: nobody can tell then what is a value of what.
func (p *Pipeline) withoutLines(path string, diags hcl.Diagnostics) hcl.Diagnostics {
	for _, v := range p.variables {
		if !v.sensitive {
			continue
		}
		p.hideLines(path)
		for _, d := range diags {
			d.Detail, d.Expression, d.EvalContext = "The file may hold sensitive values, so nothing of it is shown.", nil, nil
		}
		break
	}
	return diags
}

// hideLines keeps a file's lines from being shown.
func (p *Pipeline) hideLines(path string) { p.files[path] = &hcl.File{} }

// meant is the variable that a name in a variable file is about: also one that was misspelt may be secret.
func (p *Pipeline) meant(name string) string {
	if p.variables[name] != nil {
		return name
	}
	return closest(name, keys(p.variables))
}

// variable finds a variable's value: what was given, else the default, converted to the type and marked.
func (e *evaluator) variable(m *module, v *variable) cty.Value {
	val := e.rawVariable(m, v)
	if v.sensitive {
		e.pipeline.keepSecret(val)
		val = val.Mark(secretOf(m.prefix + "var." + v.name))
	}
	return val
}

// given returns the value that a variable is given from outside, by the caller of its module or, in the root, by the user.
func (e *evaluator) given(m *module, v *variable) (val cty.Value, at hcl.Range, given bool) {
	if m.prefix != "" {
		return e.input(m, v)
	}
	g := e.pipeline.given[v.name]
	if g == nil {
		return cty.NilVal, v.rng, false
	}
	val, ok := e.givenValue(v, g)
	if !ok {
		val = cty.UnknownVal(v.typ.WithoutOptionalAttributesDeep())
	}
	return val, g.rng, true
}

func (e *evaluator) rawVariable(m *module, v *variable) cty.Value {
	unknown := cty.UnknownVal(v.typ.WithoutOptionalAttributesDeep())
	if val, at, given := e.given(m, v); given {
		if v.deprecated != "" {
			e.report(caution("Deprecated variable", fmt.Sprintf("%s: %s", v.name, v.deprecated), at.Ptr()))
		}
		if !val.IsNull() || v.nullable {
			return val
		}
		if v.deflt == nil {
			e.report(fault("Wrong value of variable", fmt.Sprintf("The variable %s must not be null.", v.name), at.Ptr()))
			return unknown
		}
	}
	if v.deflt == nil {
		if e.needVariables && m.prefix == "" {
			e.report(fault("No value for variable", fmt.Sprintf("The variable %s has no default, and no value was given. Give one with --var %s=..., %s%s or a *%s file.",
				v.name, v.name, envPrefix, v.name, suffixAutoHCL), v.rng.Ptr()))
		}
		return unknown
	}
	val, ctx, ok := e.valueIn(v.deflt, e.defaultScope(m))
	if !ok {
		return unknown
	}
	out, ok := e.convertVariable(v, val, v.deflt, ctx, "default")
	if !ok {
		return unknown
	}
	if out.IsNull() && !v.nullable {
		e.report(fault("Wrong value of variable", fmt.Sprintf("The default of %s is null, which nullable = false forbids.", v.name), v.deflt.Range().Ptr()))
		return unknown
	}
	return out
}

// givenValue reads a value from outside. A text is taken as it is where the type is a string, a number, a bool, or where
// there is none; for other types it is an expression.
func (e *evaluator) givenValue(v *variable, g *givenValue) (cty.Value, bool) {
	if !g.isText {
		val, diags := g.expr.Value(nil)
		if diags.HasErrors() {
			d := diags[0]
			if v.sensitive || len(g.expr.Variables()) > 0 {
				d = fault("Wrong value of variable", "A variable file holds plain values, without references and functions.", g.expr.Range().Ptr())
			}
			e.report(d)
			return cty.NilVal, false
		}
		return e.convertVariable(v, val, g.expr, nil, "value")
	}
	if !v.typed || v.typ.IsPrimitiveType() || v.typ == cty.DynamicPseudoType {
		val, err := convert.Convert(cty.StringVal(g.text), v.typ)
		if err != nil {
			given, example := fmt.Sprintf("%q", shorten(g.text)), map[cty.Type]string{cty.Number: "5", cty.Bool: "true"}[v.typ]
			if v.sensitive {
				given = "the sensitive text"
			}
			e.report(fault("Wrong value of variable", fmt.Sprintf("The variable %s is a %s, and %s is none. Write for instance \"%s=%s\".", v.name, v.typ.FriendlyName(), given, g.origin, example), g.rng.Ptr()))
			return cty.NilVal, false
		}
		return val, true
	}
	bad := func(reason string) (cty.Value, bool) {
		if v.sensitive {
			reason = "" // it may quote the text
		}
		e.report(fault("Wrong value of variable", fmt.Sprintf("The variable %s has the type %s, so its value is written like in a pipeline, for instance %s.%s",
			v.name, typeexpr.TypeString(v.typ.WithoutOptionalAttributesDeep()), exampleOf(v.typ), reason), g.rng.Ptr()))
		return cty.NilVal, false
	}
	src := []byte(g.text)
	if len(src) > maxFileSize {
		return bad(" It is too large.")
	}
	if diags := checkNesting(src, g.origin); diags.HasErrors() {
		return bad(" " + diags[0].Summary + ".")
	}
	expr, diags := hclsyntax.ParseExpression(src, g.origin, hcl.InitialPos)
	if diags.HasErrors() {
		return bad(" " + diags[0].Summary + ".")
	}
	e.pipeline.effort.meter(expr)
	val, diags := expr.Value(nil)
	if diags.HasErrors() {
		return bad(" " + diags[0].Summary + ".")
	}
	return e.convertVariable(v, val, expr, nil, "value")
}

func (e *evaluator) convertVariable(v *variable, val cty.Value, expr hcl.Expression, ctx *hcl.EvalContext, what string) (cty.Value, bool) {
	if v.typeDefault != nil && !val.IsNull() {
		val = v.typeDefault.Apply(val)
	}
	out, err := unifyInto(val, v.typ)
	if err != nil {
		d := fault("Wrong value of variable", fmt.Sprintf("The %s of %s does not fit its type %s: %s.", what, v.name, typeexpr.TypeString(v.typ.WithoutOptionalAttributesDeep()), conversionError(err)), expr.Range().Ptr())
		if !v.sensitive {
			d.Expression, d.EvalContext = expr, ctx
		}
		e.report(d)
		return cty.NilVal, false
	}
	return out, true
}

// conversionError adds the place in the value to the error of a conversion.
func conversionError(err error) string {
	if pathError, ok := err.(cty.PathError); ok && len(pathError.Path) > 0 { //nolint:errorlint // cty returns it bare
		var at strings.Builder
		for _, step := range pathError.Path {
			switch s := step.(type) {
			case cty.GetAttrStep:
				at.WriteString("." + s.Name)
			case cty.IndexStep:
				if s.Key.Type() == cty.Number {
					fmt.Fprintf(&at, "[%s]", s.Key.AsBigFloat().Text('f', 0))
				} else if s.Key.Type() == cty.String {
					fmt.Fprintf(&at, "[%q]", s.Key.AsString())
				}
			}
		}
		return at.String() + ": " + err.Error()
	}
	return err.Error()
}

func exampleOf(ty cty.Type) string {
	switch {
	case ty.IsListType() || ty.IsSetType() || ty.IsTupleType():
		return `["a", "b"]`
	default:
		return `{ a = "b" }`
	}
}

// checkVariables evaluates the variables of a module and checks their validation blocks.
func (e *evaluator) checkVariables(m *module) {
	defer e.blamed.leave()
	for _, name := range keys(m.variables) {
		e.symbol(symbol{in: m.prefix, root: "var", name: name}, m.variables[name].rng)
	}
	for _, name := range keys(m.variables) {
		v := m.variables[name]
		e.blamed.at = m.prefix + "var." + name
		subject := v.rng
		if g := e.pipeline.given[name]; g != nil && m.prefix == "" {
			subject = g.rng
		} else if c := e.calls[m.prefix]; c != nil {
			subject = c.rangeOf(name)
		}
		for _, c := range v.validations {
			e.assert(m, c, "Value of variable "+name+" refused", &subject)
		}
	}
}
