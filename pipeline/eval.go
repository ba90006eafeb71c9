package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// maxChain bounds how many values may wait for each other, which bounds the stack.
const maxChain = 10_000

// evaluator finds values on demand. Every symbol is evaluated once, when the first expression needs it; what it needs in
// turn is found first, by recursion. A symbol that is met again while it waits is a cycle.
//
// A value that cannot be found becomes an unknown value, and the mistake is reported once, where it is. Unknown values
// pass through everything without further reports. Offline (facts == nil), what only the file system tells is unknown,
// too, so one evaluator serves validation and planning.
type evaluator struct {
	builder       string // of the twinkeel block
	cacheDir      string // of the twinkeel block; empty when there is none
	pipeline      *Pipeline
	facts         *facts                // nil: offline
	built         map[string]BuiltFile  // by address; what the last build made
	deployments   map[string]Deployment // of rollouts by address, when the server was asked
	only          map[string]bool       // instances of for_each to evaluate, by address; nil: all
	sources       *sources              // what source actions make
	upgrading     bool                  // the lock file is about to be written, and not read
	skipped       bool                  // some instance is not in only, and unknown
	unchecked     bool                  // the condition of a check was not known
	unready       bool                  // a value that is not known was needed
	needVariables bool                  // a required variable without a value is an error
	fakes         *fakes                // of a test; nil: none
	blamed        blamed                // whom the reported problems belong to
	functions     *hcl.EvalContext
	defaults      *hcl.EvalContext // functions of a variable's default

	values    map[symbol]*symbolValue
	stack     []waiting
	instances map[string]*instance // by address
	blocks    map[*block][]*instance
	callees   map[*block][]*module // instances that a module block makes
	calls     map[string]*call     // how, by the instance's prefix
	reported  map[string]bool
	origins   map[string]string // by what is wrong with a file: the problem that says so
	work      int               // size of all values so far, see maxWork
	diags     hcl.Diagnostics
}

// symbolValue is a symbol's value, or its state while it is being found.
type symbolValue struct {
	done  bool
	value cty.Value        // NilVal as long as nobody needs what build returns
	build func() cty.Value // of a block: few are referred to, and an object costs more than all that is in it
	size  int              // see valueSize
}

// get returns the value, which is made for the first who asks.
func (s *symbolValue) get() cty.Value {
	if s.value == cty.NilVal {
		s.value, s.build = s.build(), nil
		s.size, _ = valueSize(s.value)
	}
	return s.value
}

// waiting is a symbol that is being evaluated, and the reference that asked for it.
type waiting struct {
	symbol symbol
	from   hcl.Range
}

// instance is one evaluated block: the block itself, or one for each key of for_each.
type instance struct {
	block   *block
	address string
	key     string // of for_each
	keyed   bool
	body    *body
	result  any // what the plan makes of it: *Layout, *DeviceType, *Signer, *Artifact, *Image, *Server, *Rollout

	computed map[string]cty.Value // what it exposes beside its arguments
}

// body is the evaluated inside of a block.
type body struct {
	content *content
	values  map[string]cty.Value // converted and unmarked; secrets of Secret arguments included
	secret  map[string]bool      // arguments whose value is sensitive
	nested  []*nestedBody
	open    bool // a dynamic block is not known yet, so there may be more
}

// nestedBody is an evaluated nested block.
type nestedBody struct {
	schema   *blockSchema
	label    string
	labelRng hcl.Range
	rng      hcl.Range
	body     *body
}

// hide notes that the value of an argument is sensitive.
func (b *body) hide(name string) {
	if b.secret == nil {
		b.secret = make(map[string]bool)
	}
	b.secret[name] = true
}

func (b *body) all(kind string) []*nestedBody {
	var out []*nestedBody
	for _, n := range b.nested {
		if n.schema.Kind == kind {
			out = append(out, n)
		}
	}
	return out
}

// scope holds the names that only a part of the pipeline sees.
type scope struct {
	module    *module
	each      map[string]cty.Value // each, and iterators of dynamic blocks
	functions *hcl.EvalContext
}

func (s *scope) with(name string, v cty.Value) *scope {
	inner := &scope{module: s.module, each: make(map[string]cty.Value, len(s.each)+1), functions: s.functions}
	for n, x := range s.each {
		inner.each[n] = x
	}
	inner.each[name] = v
	return inner
}

func newEvaluator(ctx context.Context, p *Pipeline, fsys FileSystem, needVariables bool) *evaluator {
	e := &evaluator{
		pipeline: p, needVariables: needVariables,
		values: make(map[symbol]*symbolValue), instances: make(map[string]*instance),
		blocks: make(map[*block][]*instance), reported: make(map[string]bool), sources: &sources{},
		callees: make(map[*block][]*module), calls: make(map[string]*call),
	}
	p.renewEffort()
	if fsys != nil {
		e.facts = &facts{ctx: ctx, fs: fsys, dir: p.dir, sources: e.sources}
	}
	table := functionTable(p, e.facts)
	e.functions = &hcl.EvalContext{Functions: table}
	e.defaults = e.functions.NewChild()
	e.defaults.Functions = envFunctions(p)
	return e
}

// globalScope is that of the pipeline's root, scopeIn that of a module.
func (e *evaluator) globalScope() *scope { return e.scopeIn(e.pipeline.module) }

func (e *evaluator) scopeIn(m *module) *scope { return &scope{module: m, functions: e.functions} }

func (e *evaluator) defaultScope(m *module) *scope { return &scope{module: m, functions: e.defaults} }

// report adds a diagnostic, once: the instances of a block repeat their mistakes.
func (e *evaluator) report(d *hcl.Diagnostic) {
	key := problemKey(d)
	e.blame(key)
	if e.reported[key] || e.weary() {
		return
	}
	e.reported[key] = true
	e.diags = append(e.diags, d)
}

// reportOrigin reports what is wrong with a file, where it shows first. Whoever uses the file too has the same problem,
// which is not said again but belongs to each of them.
func (e *evaluator) reportOrigin(wrong string, d *hcl.Diagnostic) {
	if e.knownWrong(wrong) {
		return
	}
	if e.origins == nil {
		e.origins = make(map[string]string)
	}
	e.origins[wrong] = problemKey(d)
	e.report(d)
}

// knownWrong tells whether that has been reported, and makes it the problem of who asks, too.
func (e *evaluator) knownWrong(wrong string) bool {
	key, known := e.origins[wrong]
	if known {
		e.blame(key)
	}
	return known
}

// missingFile is what is wrong with a file that is not there.
func (e *evaluator) missingFile(name string) string { return "missing\x00" + e.pipeline.abs(name) }

// problemKey is equal for equal problems.
func problemKey(d *hcl.Diagnostic) string {
	key := d.Summary + "\x00" + d.Detail
	if d.Subject != nil {
		key += "\x00" + d.Subject.String()
	}
	return key
}

// weary tells that so much is wrong that more is not worth the time.
func (e *evaluator) weary() bool { return len(e.reported) > maxProblems }

// reportAt reports a mistake in an argument, with the values that led to it.
func (e *evaluator) reportAt(summary, detail string, expr hcl.Expression, ctx *hcl.EvalContext) {
	d := fault(summary, detail, expr.Range().Ptr())
	d.Expression, d.EvalContext = expr, ctx
	e.report(d)
}

// value evaluates an expression. When that fails the mistake has been reported and the value is unknown.
func (e *evaluator) value(expr hcl.Expression, sc *scope) (cty.Value, *hcl.EvalContext) {
	v, ctx, ok := e.valueIn(expr, sc)
	if !ok {
		return cty.DynamicVal, ctx
	}
	return v, ctx
}

func (e *evaluator) valueIn(expr hcl.Expression, sc *scope) (cty.Value, *hcl.EvalContext, bool) {
	ctx := sc.functions
	if e.exhausted() {
		return cty.NilVal, ctx, false
	}
	fail := func(summary, detail string) (cty.Value, *hcl.EvalContext, bool) {
		e.report(fault(summary, detail, expr.Range().Ptr()))
		return cty.NilVal, ctx, false
	}
	if traversals := expr.Variables(); len(traversals) > 0 {
		var size int
		ctx, size = e.contextFor(traversals, sc)
		switch {
		case size > maxInputSize:
			return fail("Value too large", fmt.Sprintf("The values that go in here have together more than %s.", formatSize(maxInputSize)))
		case e.exhausted(): // by what this refers to, where it was reported
			return cty.NilVal, ctx, false
		case !e.pipeline.effort.take(size / 2 / bytesPerStep):
			return fail("Too many steps", tooManySteps)
		}
	}
	v, diags := safeValue(expr, ctx)
	if e.pipeline.effort.spent() { // whatever try() made of it
		return fail("Too many steps", tooManySteps)
	}
	if diags.HasErrors() {
		for _, d := range diags {
			explainUnknownFunction(d, ctx)
			for _, twice := range []string{"..", "?."} { // HCL adds a stop to the text of any function
				if strings.HasSuffix(d.Detail, twice) && !strings.HasSuffix(d.Detail, "...") {
					d.Detail = strings.TrimSuffix(d.Detail, ".")
				}
			}
			e.report(d)
		}
		return cty.NilVal, ctx, false
	}
	size, reason := valueSize(v)
	if e.work += size; e.work > maxWork {
		return fail("Pipeline too large", fmt.Sprintf("The values up to here have together more than %s.", formatSize(maxWork)))
	}
	if reason != "" {
		return fail("Value too large", reason)
	}
	return v, ctx, true
}

// exhausted tells that nothing more can be evaluated, which was reported.
func (e *evaluator) exhausted() bool { return e.work > maxWork || e.pipeline.effort.spent() }

// safeValue evaluates an expression. HCL and cty have panicked on odd values before; the process survives if they do so again.
func safeValue(expr hcl.Expression, ctx *hcl.EvalContext) (v cty.Value, diags hcl.Diagnostics) {
	defer func() {
		if recover() != nil {
			v, diags = cty.DynamicVal, hcl.Diagnostics{fault("Cannot evaluate", "This expression makes the evaluator fail. Please report it, with the expression.", expr.Range().Ptr())}
		}
	}()
	return expr.Value(ctx)
}

// tree is the values of an expression's references by name, step by step.
type tree struct {
	value    cty.Value // of a leaf
	children map[string]*tree
}

// spoil makes all of it unknown, whatever was or will be put there.
func (t *tree) spoil() { t.value, t.children = cty.DynamicVal, nil }

func (t *tree) put(path []string, v cty.Value) {
	if t.value != cty.NilVal {
		return // all of it is there
	}
	if len(path) == 0 {
		t.value, t.children = v, nil
		return
	}
	if t.children == nil {
		t.children = make(map[string]*tree)
	}
	child := t.children[path[0]]
	if child == nil {
		child = &tree{}
		t.children[path[0]] = child
	}
	child.put(path[1:], v)
}

func (t *tree) build() cty.Value {
	if t.value != cty.NilVal {
		return t.value
	}
	attrs := make(map[string]cty.Value, len(t.children))
	for name, c := range t.children {
		attrs[name] = c.build()
	}
	return cty.ObjectVal(attrs)
}

// contextFor makes the context of one expression: only what it refers to is in it, so the work for a pipeline grows with
// its references and not with their square. It also returns the size of the values that are in it as a whole.
func (e *evaluator) contextFor(traversals []hcl.Traversal, sc *scope) (_ *hcl.EvalContext, total int) {
	roots := make(map[string]*tree)
	root := func(name string) *tree {
		if roots[name] == nil {
			roots[name] = &tree{}
		}
		return roots[name]
	}
	put := func(v cty.Value, path ...string) { root(path[0]).put(path[1:], v) }
	for _, t := range traversals {
		name := t.RootName()
		if v, ok := sc.each[name]; ok {
			put(v, name)
			continue
		}
		if !rootNames[name] || name == "each" {
			put(cty.DynamicVal, name)
			continue
		}
		if sc.module.badRefs[t.SourceRange()] { // reported when the pipeline was loaded
			root(name).spoil()
			continue
		}
		ref, d := sc.module.parseReference(t)
		if d != nil {
			e.report(d)
			root(name).spoil()
			continue
		}
		ref.symbol.in = sc.module.prefix
		if b, output := sc.module.outputBehind(ref); output != "" {
			put(e.outputOf(b, output, t.SourceRange()), "module", b.name, output)
			continue
		}
		found := e.symbol(ref.symbol, t.SourceRange())
		v := found.get()
		if len(ref.rest) == 0 {
			total += found.size
		}
		path := []string{ref.symbol.root}
		if ref.symbol.typ != "" {
			path = append(path, ref.symbol.typ)
		}
		if ref.symbol.name != "" {
			path = append(path, ref.symbol.name)
		}
		put(v, path...)
	}
	ctx := sc.functions.NewChild()
	ctx.Variables = make(map[string]cty.Value, len(roots))
	for name, t := range roots {
		ctx.Variables[name] = t.build()
	}
	return ctx, total
}

// symbol returns the value of a symbol, finding it when it is asked for the first time.
func (e *evaluator) symbol(s symbol, from hcl.Range) *symbolValue {
	if found := e.values[s]; found != nil {
		if !found.done {
			e.reportCycle(s, from)
			return &symbolValue{done: true, value: cty.DynamicVal}
		}
		return found
	}
	entry := &symbolValue{}
	e.values[s] = entry
	e.stack = append(e.stack, waiting{s, from})
	if len(e.stack) > maxChain {
		e.report(fault("Chain of references too long", fmt.Sprintf("More than %d values wait for each other here.", maxChain), from.Ptr()))
		entry.value = cty.DynamicVal
	} else if b := e.pipeline.modules[s.in].blocks[s.local()]; b != nil && s.name != "" && s.root != "module" {
		entry.build = e.block(b)
	} else {
		entry.value = e.find(s)
	}
	e.stack = e.stack[:len(e.stack)-1]
	if entry.build == nil {
		entry.size, _ = valueSize(entry.value)
	}
	entry.done = true
	return entry
}

// find returns the value of a symbol other than a block.
func (e *evaluator) find(s symbol) cty.Value {
	m := e.pipeline.modules[s.in]
	switch s.root {
	case "var":
		return e.variable(m, m.variables[s.name])
	case "local":
		v, _ := e.value(m.locals[s.name].Expr, e.scopeIn(m))
		e.pipeline.keepDerived(v)
		return v
	case "path":
		return cty.StringVal(e.path(m, s.name))
	case "twinkeel":
		return cty.StringVal(e.pipeline.version)
	case metaForEach:
		e.call(m.blocks[s.name])
		return cty.DynamicVal
	case "output":
		return e.moduleOutput(m, s.name)
	case "module":
		if s.name != "" {
			return e.moduleValue(m.blocks[s.local()])
		}
	}
	return e.wholeKind(s)
}

// wholeKind is an object of all blocks of a kind, or of one of its types.
func (e *evaluator) wholeKind(s symbol) cty.Value {
	schema := language.byKind[s.root]
	attrs := make(map[string]cty.Value)
	if schema.typed() && s.typ == "" {
		for _, t := range schema.Types {
			attrs[t.Name] = e.wholeKind(symbol{in: s.in, root: s.root, typ: t.Name})
		}
		return cty.ObjectVal(attrs)
	}
	for _, b := range e.pipeline.modules[s.in].byKind[s.root] {
		if b.typ == s.typ {
			attrs[b.name] = e.symbol(b.symbol(), b.rng).get()
		}
	}
	return cty.ObjectVal(attrs)
}

// reportCycle reports a symbol that waits for itself, with every step on the way.
func (e *evaluator) reportCycle(s symbol, from hcl.Range) {
	if e.weary() {
		return
	}
	start := slices.IndexFunc(e.stack, func(w waiting) bool { return w.symbol == s })
	cycle := e.stack[start:]
	if len(cycle) == 1 {
		e.report(fault("Cycle", fmt.Sprintf("%s refers to itself.", s), from.Ptr()))
		return
	}
	var text strings.Builder
	fmt.Fprintf(&text, "These values wait for each other:\n")
	const most = 20
	for i, w := range cycle {
		if i >= most {
			fmt.Fprintf(&text, "  ... and %d more\n", len(cycle)-most)
			break
		}
		next, at := s, from
		if i+1 < len(cycle) {
			next, at = cycle[i+1].symbol, cycle[i+1].from
		}
		fmt.Fprintf(&text, "  %s needs %s (%s:%d,%d)\n", w.symbol, next, e.pipeline.FileName(at.Filename), at.Start.Line, at.Start.Column)
	}
	e.report(fault("Cycle", strings.TrimRight(text.String(), "\n"), from.Ptr()))
}

// path is the value of path.NAME in a module.
func (e *evaluator) path(m *module, name string) string {
	switch name {
	case "root":
		return "."
	case "module":
		return m.source
	}
	if m.prefix != "" {
		return e.out()
	}
	return e.outDir()
}

// outDir is where outputs go, as written.
func (e *evaluator) outDir() string {
	for _, b := range e.pipeline.others["twinkeel"] {
		if b.content == nil {
			continue
		}
		body := e.evaluateBody(b.content, e.globalScope())
		e.builder, e.cacheDir = body.text("builder"), body.text("cache_dir")
		if body.has("out_dir") {
			return body.text("out_dir")
		}
	}
	return "out"
}

// block evaluates all instances of a block. It returns how to make what references to it see: an object, or with for_each
// a map of objects.
func (e *evaluator) block(b *block) func() cty.Value {
	object := b.schema.object
	if b.content == nil {
		return func() cty.Value { return cty.DynamicVal }
	}
	if b.forEach == nil {
		inst := &instance{block: b, address: b.address()}
		e.evaluate(inst, e.scopeIn(b.home))
		e.blocks[b] = []*instance{inst}
		return inst.value
	}
	items, known, ok := e.forEach(b.forEach.Expr, e.scopeIn(b.home))
	if !ok || !known { // check once what does not depend on the key
		inst := &instance{block: b, address: b.address() + "[…]"}
		e.evaluate(inst, e.scopeIn(b.home).with("each", unknownEach()))
		return func() cty.Value { return cty.UnknownVal(cty.Map(object)) }
	}
	for _, item := range items {
		inst := &instance{block: b, key: item.key, keyed: true, address: fmt.Sprintf("%s[%q]", b.address(), item.key)}
		if e.leaveOut(inst) {
			continue
		}
		e.evaluate(inst, e.scopeIn(b.home).with("each", eachOf(item)))
		e.blocks[b] = append(e.blocks[b], inst)
	}
	return func() cty.Value {
		values := make(map[string]cty.Value, len(items))
		for _, item := range items {
			values[item.key] = cty.UnknownVal(object)
		}
		for _, inst := range e.blocks[b] {
			values[inst.key] = inst.value()
		}
		if len(values) == 0 {
			return cty.MapValEmpty(object)
		}
		return cty.MapVal(values)
	}
}

// item is one element of a for_each.
type item struct {
	key   string
	value cty.Value
}

func eachOf(i item) cty.Value {
	return cty.ObjectVal(map[string]cty.Value{"key": cty.StringVal(i.key), "value": i.value})
}

// unknownEach stands for any key.
func unknownEach() cty.Value {
	return cty.ObjectVal(map[string]cty.Value{"key": cty.UnknownVal(cty.String), "value": cty.DynamicVal})
}

// forEach evaluates a for_each. Keys become parts of addresses and file names, so they must be known and no secret.
func (e *evaluator) forEach(expr hcl.Expression, sc *scope) (items []item, known, ok bool) {
	v, ctx, ok := e.valueIn(expr, sc)
	if !ok {
		return nil, false, false
	}
	if v.ContainsMarked() {
		p := refuseSecret(metaForEach, v)
		e.reportAt(p.summary, p.detail, expr, ctx)
		return nil, false, false
	}
	ty := v.Type()
	switch {
	case v.IsNull():
		e.reportAt("Wrong for_each", "The value is null.", expr, ctx)
		return nil, false, false
	case ty == cty.DynamicPseudoType && !v.IsKnown():
	case ty.IsMapType() || ty.IsObjectType():
	case ty.IsSetType() && ty.ElementType() == cty.String:
	case ty.IsSetType() && ty.ElementType() == cty.DynamicPseudoType:
	case ty.IsTupleType() || ty.IsListType():
		e.reportAt("Wrong for_each", "A map or a set of strings is needed here, not a list, whose elements have no lasting names. toset() makes a set of a list of strings.", expr, ctx)
		return nil, false, false
	default:
		e.reportAt("Wrong for_each", fmt.Sprintf("A map or a set of strings is needed here, not %s.", describe(v)), expr, ctx)
		return nil, false, false
	}
	if !v.IsKnown() || ty.IsSetType() && !v.IsWhollyKnown() {
		e.unready = true
		if e.facts != nil && !e.failed() {
			e.reportAt("Wrong for_each", "The keys are known only after the build, so nobody can say yet what there will be.", expr, ctx)
		}
		return nil, false, true
	}
	for it := v.ElementIterator(); it.Next(); {
		k, val := it.Element()
		if k.IsNull() {
			e.reportAt("Wrong for_each", "An element of the set is null.", expr, ctx)
			return nil, false, false
		}
		key := k.AsString()
		if key == "" || len(key) > maxName || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			e.reportAt("Wrong for_each", fmt.Sprintf("%q cannot be a key: it is empty, too long or holds control characters.", shorten(key)), expr, ctx)
			return nil, false, false
		}
		items = append(items, item{key, val})
	}
	return items, true, true
}

func (e *evaluator) failed() bool { return e.diags.HasErrors() }

// evaluate finds the values of an instance: its arguments, what it computes, and its place in the plan.
func (e *evaluator) evaluate(inst *instance, sc *scope) {
	defer e.lookAtInstance(inst)()
	inst.body = e.evaluateBody(inst.block.content, sc)
	e.instances[inst.address] = inst
	inst.computed = e.compute(inst)
	e.fakes.override(inst)
}

// value is what references to the instance see.
func (inst *instance) value() cty.Value {
	object := inst.block.schema.object
	attrs := make(map[string]cty.Value)
	for name, ty := range object.AttributeTypes() {
		v, ok := inst.computed[name]
		if !ok {
			v, ok = inst.body.values[name]
			if ok && inst.body.secret[name] {
				v = v.Mark(secretOf(inst.address + "." + name))
			}
		}
		switch {
		case name == "id":
			v = cty.StringVal(inst.address)
		case !ok || v == cty.NilVal:
			v = cty.NullVal(ty)
		}
		attrs[name] = v
	}
	return cty.ObjectVal(attrs)
}

func (e *evaluator) evaluateBody(c *content, sc *scope) *body {
	b := &body{content: c, values: make(map[string]cty.Value, len(c.schemas))}
	for _, s := range c.schemas {
		a := c.attrs[s.Name]
		switch {
		case a != nil:
			v, secret := e.argument(s, a, sc)
			b.values[s.Name] = v
			if secret {
				b.hide(s.Name)
			}
		case s.Default != cty.NilVal:
			b.values[s.Name] = s.Default
		case s.Required: // reported; whoever uses it must not report again
			b.values[s.Name] = cty.UnknownVal(s.Type.cty)
		default:
			b.values[s.Name] = cty.NullVal(s.Type.cty)
		}
	}
	for _, n := range c.nested {
		if n.content == nil {
			continue
		}
		if n.dynamic == nil {
			b.nested = append(b.nested, &nestedBody{schema: n.schema, label: n.label, labelRng: n.labelRng, rng: n.rng, body: e.evaluateBody(n.content, sc)})
			continue
		}
		made, known := e.expand(n, sc)
		b.nested = append(b.nested, made...)
		b.open = b.open || !known
	}
	if !b.open {
		e.countBlocks(b)
	}
	return b
}

// countBlocks checks how many blocks the dynamic ones have made; plain blocks were counted when the file was read.
func (e *evaluator) countBlocks(b *body) {
	for _, n := range b.content.nested {
		if n.dynamic == nil {
			continue
		}
		switch count := len(b.all(n.schema.Kind)); {
		case count < n.schema.Min:
			e.report(fault("Missing block", fmt.Sprintf("The dynamic block makes no block %s, and one is needed: %s", n.schema.Kind, n.schema.Doc), n.rng.Ptr()))
		case n.schema.Max > 0 && count > n.schema.Max:
			e.report(fault("Too many blocks", fmt.Sprintf("With the dynamic block there are %d %s, and at most %d may be there.", count, plural(n.schema.Kind, count), n.schema.Max), n.rng.Ptr()))
		}
	}
}

// expand makes the blocks of a dynamic block. They are not known while its for_each or a label is not.
func (e *evaluator) expand(n *nestedBlock, sc *scope) (out []*nestedBody, known bool) {
	d := n.dynamic
	v, ctx, ok := e.valueIn(d.forEach, sc)
	if !ok {
		return nil, false
	}
	if v.ContainsMarked() {
		p := refuseSecret(metaForEach, v)
		e.reportAt(p.summary, p.detail, d.forEach, ctx)
		return nil, false
	}
	if !v.IsKnown() {
		e.unready = true
		if e.facts != nil && !e.failed() {
			e.reportAt("Wrong for_each", "The value is known only after the build, so nobody can say yet how many blocks there will be.", d.forEach, ctx)
		}
		inner := sc.with(d.iterator, cty.ObjectVal(map[string]cty.Value{"key": cty.DynamicVal, "value": cty.DynamicVal}))
		e.evaluateBody(n.content, inner)
		return nil, false
	}
	if v.IsNull() || !v.CanIterateElements() {
		e.reportAt("Wrong for_each", fmt.Sprintf("A list, a set or a map is needed here, not %s.", describe(v)), d.forEach, ctx)
		return nil, false
	}
	known = true
	for it := v.ElementIterator(); it.Next(); {
		key, val := it.Element()
		if v.Type().IsSetType() {
			key = val
		}
		inner := sc.with(d.iterator, cty.ObjectVal(map[string]cty.Value{"key": key, "value": val}))
		made := *n
		if d.label != nil {
			label, labelCtx := e.value(d.label, inner)
			made.labelRng = d.label.Range()
			switch {
			case label.ContainsMarked():
				p := refuseSecret("A label", label)
				e.reportAt(p.summary, p.detail, d.label, labelCtx)
				known = false
				continue
			case !label.IsKnown():
				known = false
				continue
			case label.IsNull() || label.Type() != cty.String:
				e.reportAt("Wrong dynamic block", "A label is a text.", d.label, labelCtx)
				known = false
				continue
			}
			made.label = label.AsString()
			if diags := made.checkLabel(); diags.HasErrors() {
				e.report(diags[0])
				known = false
				continue
			}
		}
		out = append(out, &nestedBody{schema: n.schema, label: made.label, labelRng: made.labelRng, rng: n.rng, body: e.evaluateBody(n.content, inner)})
	}
	return out, known
}

// argument evaluates an argument and converts it to its type. A value that is no good has been reported and is unknown.
func (e *evaluator) argument(s *attrSchema, a *hcl.Attribute, sc *scope) (_ cty.Value, secret bool) {
	unknown := cty.UnknownVal(s.Type.cty)
	v, ctx, ok := e.valueIn(a.Expr, sc)
	if !ok {
		return unknown, false
	}
	if v.ContainsMarked() && len(s.Type.refs()) == 0 {
		e.pipeline.keepDerived(v)
		if !s.Secret {
			p := refuseSecret(s.Name, v)
			e.reportAt(p.summary, p.detail, a.Expr, ctx)
			return unknown, false
		}
		v, _ = v.UnmarkDeep()
		secret = true
	}
	if v.IsMarked() { // a reference that a secret chose
		p := refuseSecret(s.Name, v)
		e.reportAt(p.summary, p.detail, a.Expr, ctx)
		return unknown, false
	}
	fail := func(summary, detail string, rng hcl.Range) {
		d := fault(summary, detail, &rng)
		if !secret {
			d.Expression, d.EvalContext = a.Expr, ctx
		}
		e.report(d)
	}
	switch {
	case v.IsNull():
		if s.Required && s.Type != tAny {
			fail("Missing value", fmt.Sprintf("%s is required, but its value is null.", s.Name), a.Expr.Range())
			return unknown, secret
		}
		if s.Default != cty.NilVal {
			return s.Default, secret
		}
		return cty.NullVal(s.Type.cty), secret
	case !v.IsKnown():
		return unknown, secret
	}
	out, p := s.Type.convert(e, v)
	if p != nil {
		summary := p.summary
		detail := p.detail
		if secret {
			detail = fmt.Sprintf("The value of %s does not fit (%s); it is sensitive and not shown.", s.Name, s.Type.name)
		}
		fail(summary, detail, elementRange(a.Expr, p))
		return unknown, secret
	}
	if len(s.Enum) > 0 && out.IsKnown() && !slices.Contains(s.Enum, out.AsString()) {
		fail("Wrong value", fmt.Sprintf("%s cannot be %q.%s", s.Name, shorten(out.AsString()), enumSuggestion(out.AsString(), s.Enum)), a.Expr.Range())
		return unknown, secret
	}
	if s.Check != nil && out.IsKnown() {
		if reason := s.Check(out); reason != "" {
			fail("Wrong value", fmt.Sprintf("%s %s.", s.Name, reason), a.Expr.Range())
			return unknown, secret
		}
	}
	return out, secret
}

func enumSuggestion(given string, enum []string) string {
	if best := closest(given, enum); best != "" {
		return fmt.Sprintf(" Did you mean %q?", best)
	}
	quoted := make([]string, len(enum))
	for i, s := range enum {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	return " Possible: " + strings.Join(quoted, ", ") + "."
}

// elementRange finds the guilty element of a list or a map where it is written out.
func elementRange(expr hcl.Expression, p *problem) hcl.Range {
	if p.index >= 0 {
		if elems, diags := hcl.ExprList(expr); !diags.HasErrors() && p.index < len(elems) {
			return elems[p.index].Range()
		}
	}
	if p.key != "" {
		if pairs, diags := hcl.ExprMap(expr); !diags.HasErrors() {
			for _, pair := range pairs {
				if k, keyDiags := pair.Key.Value(nil); !keyDiags.HasErrors() && k.Type() == cty.String && k.IsKnown() && !k.IsNull() && k.AsString() == p.key {
					return pair.Value.Range()
				}
			}
		}
	}
	return expr.Range()
}

// refs are the kinds that the type refers to, itself or by its elements.
func (t *fieldType) refs() []string {
	if t.elem != nil {
		return t.elem.refs()
	}
	return t.ref
}

// resolveObject implements [refResolver].
func (e *evaluator) resolveObject(v cty.Value) (address, kind string, ok bool) {
	if v.IsMarked() || v.IsNull() || !v.IsKnown() || !v.Type().IsObjectType() || !v.Type().HasAttribute("id") {
		return "", "", false
	}
	id, marks := v.GetAttr("id").Unmark()
	if len(marks) > 0 || id.Type() != cty.String || id.IsNull() || !id.IsKnown() {
		return "", "", false
	}
	inst := e.instances[id.AsString()]
	if inst == nil || !v.Type().Equals(inst.block.schema.object) {
		return "", "", false
	}
	return inst.address, inst.block.schema.Kind, true
}

// labelled implements [refResolver].
func (e *evaluator) labelled(kinds []string, name string) string {
	m := e.pipeline.module
	if inst := e.blamed.instance; inst != nil {
		m = inst.block.home
	}
	for _, kind := range kinds {
		for _, b := range m.byKind[kind] {
			if b.name == name || b.local() == name || strings.TrimPrefix(b.local(), kind+".") == name {
				return b.local()
			}
			if insts := e.blocks[b]; len(insts) == 1 {
				if d, ok := insts[0].result.(*DeviceType); ok && d.Name == name {
					return b.local()
				}
			}
		}
	}
	return ""
}

// assert checks a condition block, if what it is about is known; where it stands in the file is the subject unless one is given.
func (e *evaluator) assert(m *module, c *content, summary string, subject *hcl.Range) (known bool) {
	condition, message := c.attrs["condition"], c.attrs["error_message"]
	if condition == nil || message == nil {
		return true
	}
	sc := e.scopeIn(m)
	v, ctx, ok := e.valueIn(condition.Expr, sc)
	if !ok {
		return true
	}
	v, _ = v.Unmark()
	if !v.IsKnown() {
		return false
	}
	out, p := tBool.convert(e, orNull(v))
	if v.IsNull() || p != nil {
		e.reportAt("Wrong type of value", "A condition is true or false.", condition.Expr, ctx)
		return true
	}
	if out.True() {
		return true
	}
	text := "The condition does not hold."
	if m, _, ok := e.valueIn(message.Expr, sc); ok {
		switch {
		case m.ContainsMarked():
			text = "The message of this condition holds a sensitive value and is not shown."
		case m.IsKnown() && !m.IsNull() && m.Type() == cty.String:
			text = m.AsString()
		}
	}
	if subject == nil {
		subject = condition.Expr.Range().Ptr()
	}
	d := fault(summary, text, subject)
	d.Expression, d.EvalContext = condition.Expr, ctx
	e.report(d)
	return true
}

func orNull(v cty.Value) cty.Value {
	if v.IsNull() {
		return cty.NullVal(cty.Bool)
	}
	return v
}

// everything evaluates all there is.
func (e *evaluator) everything() {
	e.symbol(symbol{root: "path", name: "out"}, hcl.Range{})
	modules := e.everyModule()
	for _, m := range modules {
		e.checkVariables(m)
		for _, name := range m.localNames {
			e.symbol(symbol{in: m.prefix, root: "local", name: name}, m.locals[name].NameRange)
		}
	}
	for _, m := range modules {
		for _, kind := range language.kinds() {
			for _, b := range m.byKind[kind] {
				e.symbol(b.symbol(), b.rng)
			}
		}
	}
	e.checks()
	e.checkTogether(true)
	for _, m := range modules {
		for _, b := range m.others["output"] {
			if m.prefix == "" {
				e.output(b)
			} else {
				e.symbol(symbol{in: m.prefix, root: "output", name: b.name}, b.rng)
			}
		}
	}
}

// checks evaluates the check blocks.
func (e *evaluator) checks() {
	defer e.blamed.leave()
	for _, m := range e.everyModule() {
		for _, b := range m.others["check"] {
			if b.content == nil {
				continue
			}
			e.blamed.at = b.address()
			for _, n := range b.content.nested {
				if n.dynamic != nil {
					e.report(fault("Wrong dynamic block", "Assertions cannot be dynamic.", n.rng.Ptr()))
					continue
				}
				if !e.assert(m, n.content, "Check failed", nil) {
					e.unchecked = true
				}
			}
		}
	}
}

// Validate evaluates the whole pipeline without the file system, keys or network. Facts of sources and required
// variables without a value are unknown. What Load has reported is not repeated.
func (p *Pipeline) Validate() hcl.Diagnostics {
	if p.checked == nil {
		p.checked = newEvaluator(context.Background(), p, nil, false)
		p.checked.everything()
		diag.Sort(p.checked.diags)
	}
	return p.checked.diags
}

// Limits of values. A pipeline of twenty lines can double a text with each; memory is bounded here.
const (
	maxValueSize = 16 << 20 // bytes of texts and 64 for each element
	maxInputSize = 64 << 20 // of all values that one expression takes in whole
	maxValueNest = 500
	maxWork      = 512 << 20 // of all values of an evaluation
	maxDigits    = 10_000    // of a number
)

// valueSize measures a value and tells what is too large about it.
func valueSize(v cty.Value) (int, string) {
	if ty := v.Type(); ty == cty.Bool || ty == cty.DynamicPseudoType {
		return 8, ""
	}
	size := 0
	reason := ""
	var measure func(v cty.Value, depth int) bool
	measure = func(v cty.Value, depth int) bool {
		if depth > maxValueNest {
			reason = fmt.Sprintf("The value is nested more than %d deep.", maxValueNest)
			return false
		}
		v, _ = v.Unmark()
		size += 64
		if !v.IsKnown() || v.IsNull() {
			return true
		}
		switch ty := v.Type(); {
		case ty == cty.String:
			size += len(v.AsString())
		case ty == cty.Number:
			if exp := v.AsBigFloat().MantExp(nil); exp > 3*maxDigits || exp < -3*maxDigits {
				reason = "The number has too many digits."
				return false
			}
		case ty.IsCollectionType() || ty.IsTupleType() || ty.IsObjectType():
			for it := v.ElementIterator(); it.Next(); {
				k, element := it.Element()
				if ty.IsObjectType() || ty.IsMapType() {
					size += len(k.AsString())
				}
				if !measure(element, depth+1) {
					return false
				}
			}
		}
		if size > maxValueSize {
			reason = fmt.Sprintf("The value has more than %s.", formatSize(maxValueSize))
			return false
		}
		return true
	}
	measure(v, 0)
	return size, reason
}

// onlyMarked cuts a value down to the parts that carry a mark.
func onlyMarked(v cty.Value) cty.Value {
	var parts []cty.Value
	_ = cty.Walk(v, func(_ cty.Path, part cty.Value) (bool, error) {
		if part.IsMarked() {
			parts = append(parts, part)
			return false, nil
		}
		return true, nil
	})
	return cty.TupleVal(parts)
}
