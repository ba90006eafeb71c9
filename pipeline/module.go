package pipeline

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Limits of modules. Each may call the same two others, so their instances are counted and not only their depth.
const (
	maxModuleDirs      = 200
	maxModuleInstances = 1_000
	maxModuleDepth     = 20
)

// module is what the files of one directory declare. The root of a pipeline is one, and so is every instance of what a
// block module names: instances share all but their blocks, which know where they are by their home.
type module struct {
	prefix string // of addresses: "" for the root, else such as module.gateway. or module.site["x"].
	source string // the directory, as seen from the root's: path.module
	folder string // of its outputs, below those of the root: "", or such as gateway or site-x/gateway

	variables  map[string]*variable
	locals     map[string]*hcl.Attribute
	blocks     map[string]*block            // by local address
	byKind     map[string][]*block          // of blocks with an address, in order of declaration
	others     map[string][]*block          // twinkeel, check, output
	children   map[string]map[string]*block // of a kind (or KIND.TYPE), by name
	localNames []string                     // in order of declaration
	callees    map[string]*module           // what its module blocks name, by label; missing when that cannot be read

	weary   bool               // so many references are wrong that suggestions are no longer looked for
	badRefs map[hcl.Range]bool // references that checkReferences reported
}

func newModule(source string) *module {
	return &module{
		source:    source,
		variables: make(map[string]*variable),
		locals:    make(map[string]*hcl.Attribute),
		blocks:    make(map[string]*block),
		byKind:    make(map[string][]*block),
		others:    make(map[string][]*block),
		children:  make(map[string]map[string]*block),
		callees:   make(map[string]*module),
		badRefs:   make(map[hcl.Range]bool),
	}
}

// instance makes a copy of the module whose blocks have addresses of their own.
func (m *module) instance(prefix, folder string) *module {
	copied := *m
	copied.prefix, copied.folder = prefix, folder
	moved := make(map[*block]*block)
	move := func(b *block) *block {
		if moved[b] == nil {
			there := *b
			there.home = &copied
			moved[b] = &there
		}
		return moved[b]
	}
	copied.blocks = make(map[string]*block, len(m.blocks))
	for address, b := range m.blocks {
		copied.blocks[address] = move(b)
	}
	lists := func(of map[string][]*block) map[string][]*block {
		out := make(map[string][]*block, len(of))
		for kind, list := range of {
			for _, b := range list {
				out[kind] = append(out[kind], move(b))
			}
		}
		return out
	}
	copied.byKind, copied.others = lists(m.byKind), lists(m.others)
	copied.children = make(map[string]map[string]*block, len(m.children))
	for parent, named := range m.children {
		copied.children[parent] = make(map[string]*block, len(named))
		for name, b := range named {
			copied.children[parent][name] = move(b)
		}
	}
	return &copied
}

// output returns the output block of a name, or nil.
func (m *module) output(name string) *block {
	for _, b := range m.others["output"] {
		if b.name == name {
			return b
		}
	}
	return nil
}

func (m *module) outputNames() []string {
	var names []string
	for _, b := range m.others["output"] {
		names = append(names, b.name)
	}
	return names
}

// readModules reads the directories that the module blocks of m name. chain holds the directories above, absolute.
func (p *Pipeline) readModules(m *module, dir string, chain []string) hcl.Diagnostics {
	var diags hcl.Diagnostics
	here, err := filepath.Abs(dir)
	if err != nil {
		return hcl.Diagnostics{fault("Directory not found", sentence(err.Error()), nil)}
	}
	chain = append(slices.Clone(chain), here)
	for _, b := range m.byKind["module"] {
		if b.content == nil || b.content.attrs["source"] == nil {
			continue
		}
		callee, calleeDiags := p.readModule(b.content.attrs["source"].Expr, dir, chain)
		diags = append(diags, calleeDiags...)
		if callee != nil {
			m.callees[b.name] = callee
			diags = append(diags, checkInputs(b, callee)...)
		}
	}
	return diags
}

// readModule reads the directory that an argument source names, once for all blocks that name it.
func (p *Pipeline) readModule(source hcl.Expression, dir string, chain []string) (*module, hcl.Diagnostics) {
	wrong := func(summary, detail string) (*module, hcl.Diagnostics) {
		return nil, hcl.Diagnostics{fault(summary, detail, source.Range().Ptr())}
	}
	v, diags := source.Value(nil)
	if diags.HasErrors() || v.IsNull() || v.Type() != cty.String {
		return wrong("Wrong source", "The source of a module is a text without references, such as \"./modules/gateway\".")
	}
	text := v.AsString()
	switch {
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return wrong("Wrong source", "The source of a module holds no control characters.")
	case !strings.HasPrefix(text, "./") && !strings.HasPrefix(text, "../") && text != ".." && !filepath.IsAbs(text):
		return wrong("Wrong source", fmt.Sprintf("Modules are local directories, relative to the file that names them: write \"./%s\" if there is one.", shorten(text)))
	}
	at := filepath.FromSlash(text)
	if !filepath.IsAbs(at) {
		at = filepath.Join(dir, at)
	}
	abs, err := filepath.Abs(at)
	if err != nil {
		return wrong("Directory not found", sentence(err.Error()))
	}
	if slices.Contains(chain, abs) {
		return wrong("Cycle", fmt.Sprintf("%s is a directory that this module is part of.", text))
	}
	if known := p.sources[abs]; known != nil {
		return known, nil
	}
	if len(chain) > maxModuleDepth || len(p.sources) >= maxModuleDirs {
		return wrong("Too many modules", fmt.Sprintf("At most %d directories are read, at most %d of them in one another.", maxModuleDirs, maxModuleDepth))
	}
	paths, err := SourceFiles(at)
	if err != nil {
		return wrong("No module found", sentence(err.Error()))
	}
	shown := abs
	if rel, relErr := filepath.Rel(p.dir, abs); relErr == nil {
		shown = filepath.ToSlash(rel)
	}
	m := newModule(shown)
	p.sources[abs] = m
	diags, fits := p.read(m, paths)
	if !fits {
		return nil, diags
	}
	diags = append(diags, refuseSettings(m)...)
	diags = append(diags, p.readModules(m, at, chain)...)
	return m, append(diags, m.checkReferences()...)
}

// refuseSettings: what is set for the whole pipeline is set by its root.
func refuseSettings(m *module) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, b := range m.others["twinkeel"] {
		if b.content == nil {
			continue
		}
		for _, name := range keys(b.content.attrs) {
			if name != "required_version" {
				diags = append(diags, fault("Setting in a module", fmt.Sprintf("%s holds for the whole pipeline and is set in its root; a module has only required_version.", name), b.content.attrs[name].NameRange.Ptr()))
			}
		}
	}
	return diags
}

// checkInputs compares the names of the inputs, where they are written out, with the variables of the module.
func checkInputs(b *block, callee *module) hcl.Diagnostics {
	given, known := inputsOf(b)
	if !known {
		return nil
	}
	var diags hcl.Diagnostics
	for _, name := range keys(given) {
		if callee.variables[name] == nil {
			diags = append(diags, unknownInput(b, callee, name, given[name].Range()))
		}
	}
	for _, name := range keys(callee.variables) {
		if v := callee.variables[name]; given[name] == nil && v.deflt == nil {
			diags = append(diags, missingInput(b, callee, v))
		}
	}
	return diags
}

func unknownInput(b *block, callee *module, name string, at hcl.Range) *hcl.Diagnostic {
	return fault("Unknown input", fmt.Sprintf("The module in %s declares no variable %s.%s", callee.source, shorten(name), suggestion(name, keys(callee.variables), "Declared: ")), &at)
}

func missingInput(b *block, callee *module, v *variable) *hcl.Diagnostic {
	at := b.rng
	if a := b.content.attrs["inputs"]; a != nil {
		at = a.NameRange
	}
	return fault("Missing input", fmt.Sprintf("The module's variable %s (%s:%d) has no default; give it a value: inputs = { %s = ... }.", v.name, path.Join(callee.source, filepath.Base(v.rng.Filename)), v.rng.Start.Line, v.name), &at)
}

// inputsOf returns the inputs of a module block one by one, where they are written out: { a = ..., b = ... }. One that is
// not needed is then not evaluated, and what comes out of a module can go into another input of it.
func inputsOf(b *block) (given map[string]hcl.Expression, known bool) {
	given = make(map[string]hcl.Expression)
	a := b.content.attrs["inputs"]
	if a == nil {
		return given, true
	}
	pairs, diags := hcl.ExprMap(a.Expr)
	if diags.HasErrors() {
		return nil, false
	}
	for _, pair := range pairs {
		key, keyDiags := pair.Key.Value(nil)
		if keyDiags.HasErrors() || key.IsNull() || !key.IsKnown() || key.Type() != cty.String {
			return nil, false
		}
		given[key.AsString()] = pair.Value
	}
	return given, true
}

// call is an instance of a module with its inputs, which are evaluated where the module block stands.
type call struct {
	block  *block
	scope  *scope
	inputs map[string]hcl.Expression // nil: whole
	key    string                    // of for_each
}

// rangeOf is where an input is written.
func (c *call) rangeOf(name string) hcl.Range {
	if expr := c.inputs[name]; expr != nil {
		return expr.Range()
	}
	return c.block.rng
}

// instancesSymbol is the symbol whose evaluation finds the instances of a module block: its for_each may refer to anything.
func instancesSymbol(b *block) symbol {
	return symbol{in: b.home.prefix, root: metaForEach, name: b.local()}
}

// called returns the instances that a module block makes. A for_each whose keys are not known makes one, for checking.
func (e *evaluator) called(b *block) []*module {
	e.symbol(instancesSymbol(b), b.rng)
	return e.callees[b]
}

// call finds the instances of a module block.
func (e *evaluator) call(b *block) {
	callee := b.home.callees[b.name]
	if callee == nil || b.content == nil {
		return // reported
	}
	inputs, _ := inputsOf(b)
	add := func(prefix, key string, sc *scope) {
		if len(e.pipeline.modules) >= maxModuleInstances && e.pipeline.modules[prefix] == nil {
			e.report(fault("Too many modules", fmt.Sprintf("There are more than %d instances of modules.", maxModuleInstances), b.rng.Ptr()))
			return
		}
		name := b.name
		if key != "" {
			name += "-" + cleanName(key)
		}
		m := e.pipeline.moduleAt(prefix, path.Join(b.home.folder, name), callee)
		e.calls[prefix] = &call{block: b, scope: sc, inputs: inputs, key: key}
		e.callees[b] = append(e.callees[b], m)
	}
	outside := e.scopeIn(b.home)
	if b.forEach == nil {
		add(b.address()+".", "", outside)
		return
	}
	items, known, ok := e.forEach(b.forEach.Expr, outside)
	if !ok || !known {
		add(b.address()+"[…].", "", outside.with("each", unknownEach()))
		return
	}
	for _, item := range items {
		add(fmt.Sprintf("%s[%q].", b.address(), item.key), item.key, outside.with("each", eachOf(item)))
	}
}

// moduleAt returns the instance with a prefix.
func (p *Pipeline) moduleAt(prefix, folder string, callee *module) *module {
	if p.modules[prefix] == nil {
		p.modules[prefix] = callee.instance(prefix, folder)
	}
	return p.modules[prefix]
}

// everyModule returns the root and all instances, callers first.
func (e *evaluator) everyModule() []*module {
	all := []*module{e.pipeline.module}
	for i := 0; i < len(all); i++ {
		for _, b := range all[i].byKind["module"] {
			all = append(all, e.called(b)...)
		}
	}
	return all
}

// declared returns the blocks of a kind in all modules.
func (e *evaluator) declared(kind string) []*block {
	var blocks []*block
	for _, m := range e.everyModule() {
		blocks = append(blocks, m.byKind[kind]...)
	}
	return blocks
}

// declaredOffline is that for those who have no evaluator: as far as nothing but the files tells.
func (p *Pipeline) declaredOffline(kind string) []*block {
	_ = p.Validate()
	return p.checked.declared(kind)
}

// open tells whether the keys of some for_each around the module are not known, so that nobody can refer to what is in it.
func (m *module) open() bool { return strings.Contains(m.prefix, "[…]") }

// outputBehind returns the module block and the name of the one output that a reference is about. A module with for_each
// has several, and then the name is empty.
func (m *module) outputBehind(ref reference) (b *block, output string) {
	if ref.symbol.root != "module" || ref.symbol.name == "" || len(ref.rest) == 0 {
		return nil, ""
	}
	b = m.blocks[ref.symbol.local()]
	if b.forEach != nil || m.callees[b.name] == nil {
		return nil, ""
	}
	name, ok := stepName(ref.rest[0])
	if !ok || m.callees[b.name].output(name) == nil {
		return nil, ""
	}
	return b, name
}

// outputOf is one output of a module without for_each; what else it puts out is not evaluated.
func (e *evaluator) outputOf(b *block, name string, from hcl.Range) cty.Value {
	instances := e.called(b)
	if len(instances) == 0 { // too many, which was reported
		return cty.DynamicVal
	}
	return e.symbol(symbol{in: instances[0].prefix, root: "output", name: name}, from).get()
}

// moduleValue is what references to a module see: its outputs, or with for_each an object of them by key.
func (e *evaluator) moduleValue(b *block) cty.Value {
	instances := e.called(b)
	if len(instances) == 0 && b.forEach == nil {
		return cty.DynamicVal
	}
	values := make(map[string]cty.Value)
	for _, m := range instances {
		outputs := make(map[string]cty.Value)
		for _, out := range m.others["output"] {
			outputs[out.name] = e.symbol(symbol{in: m.prefix, root: "output", name: out.name}, b.rng).get()
		}
		switch {
		case b.forEach == nil:
			return cty.ObjectVal(outputs)
		case m.open():
			return cty.DynamicVal
		}
		values[e.calls[m.prefix].key] = cty.ObjectVal(outputs)
	}
	return cty.ObjectVal(values)
}

// moduleOutput is one output of a module.
func (e *evaluator) moduleOutput(m *module, name string) cty.Value {
	b := m.output(name)
	if b == nil {
		return cty.DynamicVal
	}
	v, _ := e.output(b)
	if v == cty.NilVal {
		return cty.DynamicVal
	}
	return v
}

// input evaluates what a module's variable is given. ok is false when it is given nothing.
func (e *evaluator) input(m *module, v *variable) (_ cty.Value, at hcl.Range, ok bool) {
	c := e.calls[m.prefix]
	if c == nil {
		return cty.NilVal, v.rng, false
	}
	unknown := cty.UnknownVal(v.typ.WithoutOptionalAttributesDeep())
	if c.inputs != nil {
		expr := c.inputs[v.name]
		if expr == nil {
			return cty.NilVal, c.block.rng, false
		}
		val, ctx, ok := e.valueIn(expr, c.scope)
		if ok {
			val, ok = e.convertVariable(v, val, expr, ctx, "value")
		}
		if !ok {
			val = unknown
		}
		return val, expr.Range(), true
	}
	expr := c.block.content.attrs["inputs"].Expr
	all, ctx, ok := e.valueIn(expr, c.scope)
	if !ok {
		return unknown, expr.Range(), true
	}
	all, marks := all.Unmark()
	ty := all.Type()
	switch {
	case all.IsNull():
		return cty.NilVal, expr.Range(), false
	case !ty.IsObjectType() && !ty.IsMapType() && ty != cty.DynamicPseudoType:
		e.reportAt("Wrong type of value", "The inputs of a module are an object: inputs = { NAME = VALUE }.", expr, ctx)
		return unknown, expr.Range(), true
	case !all.IsKnown():
		return unknown, expr.Range(), true
	}
	callee := e.pipeline.modules[m.prefix]
	var found cty.Value
	for it := all.ElementIterator(); it.Next(); {
		key, val := it.Element()
		if callee.variables[key.AsString()] == nil {
			e.report(unknownInput(c.block, callee, key.AsString(), expr.Range()))
		}
		if key.AsString() == v.name {
			found = val.WithMarks(marks)
		}
	}
	if found == cty.NilVal {
		if v.deflt == nil {
			e.report(missingInput(c.block, callee, v))
			return unknown, expr.Range(), true
		}
		return cty.NilVal, expr.Range(), false
	}
	val, ok := e.convertVariable(v, found, expr, ctx, "value")
	if !ok {
		val = unknown
	}
	return val, expr.Range(), true
}
