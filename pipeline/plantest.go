package pipeline

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// Names of test files. Their form is that of Terraform's *.tftest.hcl, of which a pipeline needs a part: runs that plan.
const (
	suffixTestHCL  = ".twinkeeltest.hcl"
	suffixTestJSON = ".twinkeeltest.json"
	testDir        = "tests" // beside the pipeline
	maxRuns        = 10_000  // in all test files
)

// testFileSchema and runSchema describe test files, for the same users as the tables of pipeline files.
var testFileSchema = &blockSchema{
	Kind: "test file",
	Doc:  "Runs, and what all of them begin with.",
	Attrs: []*attrSchema{
		{Name: "variables", Type: mapOf(tAny), Doc: "Values of variables for all runs of the file; also written as a block variables { ... }. They win over --var."},
		{Name: "fakes", Type: mapOf(tAny), Doc: "What all runs of the file pretend."},
	},
	Blocks: []*blockSchema{runSchema},
}

var runSchema = &blockSchema{
	Kind: "run", Label: "name",
	Doc: "One evaluation of the pipeline, and what must be true of it. Runs do not depend on each other.",
	Attrs: []*attrSchema{
		{Name: "command", Type: tString, Enum: []string{"plan", "validate"}, Default: cty.StringVal("plan"), Doc: "What is done, written with or without quotes: plan evaluates with what the run pretends, validate offline, without anything."},
		{Name: "variables", Type: mapOf(tAny), Doc: "Values of variables; also written as a block variables { ... }. They win over those of the file. Plain values and functions, no references."},
		{Name: "fakes", Type: mapOf(tAny), Doc: "What the run pretends: what sources expose, size and sha256 of artifacts and images, results of functions, files. Plain values and functions, no references."},
		{Name: "expect_failures", Type: listOf(tAny), Doc: "Addresses of what must fail, such as [var.version, check.os_fits, artifact.os]: the run passes only if each of them does, and nothing else."},
		{Name: "targets", Type: listOf(tString), Doc: "Addresses and patterns that limit the plan, as on the command line."},
	},
	Blocks: []*blockSchema{{
		Kind: "assert",
		Doc:  "A condition on the values of the pipeline, also on plan.actions and output.NAME.",
		Attrs: []*attrSchema{
			{Name: "condition", Type: tBool, Required: true, Doc: "True when all is well. What is not known fails."},
			{Name: "error_message", Type: tString, Required: true, Doc: "What to tell when it is not."},
		},
	}},
}

// TestSchema describes the blocks of test files.
func TestSchema() []KindInfo {
	info := runSchema.info(runSchema.nestedLabels())
	return []KindInfo{info}
}

// testsReference describes runs for the reference.
func testsReference() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n%s\n\nWritten `%s`.\n\n", runSchema.Kind, runSchema.Doc, runSchema.header(runSchema.nestedLabels()))
	writeArguments(&b, "Arguments:", runSchema.Attrs)
	writeNested(&b, runSchema.Blocks)
	return strings.TrimSpace(b.String())
}

// TestFiles returns the test files of the pipeline in dir: those beside its files, and those in the directory tests.
func TestFiles(dir string) ([]string, error) {
	files, err := listFiles(dir, suffixTestHCL, suffixTestJSON)
	if err != nil {
		return nil, err
	}
	more, err := listFiles(filepath.Join(dir, testDir), suffixTestHCL, suffixTestJSON)
	if err != nil { // most have none
		more = nil
	}
	return append(files, more...), nil
}

// TestPattern says which files [TestFiles] looks for.
const TestPattern = "*" + suffixTestHCL + " or *" + suffixTestJSON

// Tests are loaded test files.
type Tests struct {
	pipeline *Pipeline
	files    map[string]*hcl.File
	list     []*testFile
}

// testFile is what one file declares.
type testFile struct {
	name string
	runs []*testRun
}

// testRun is a run, with what its file adds to it.
type testRun struct {
	file        string
	name        string
	rng         hcl.Range
	validate    bool
	variables   map[string]*givenValue
	objects     map[string]*fakeObject
	functions   map[string]cty.Value
	pretended   map[string]pretended
	expected    []expectation
	targets     []string
	targetRange *hcl.Range
	asserts     []*content
}

// expectation is something that must fail.
type expectation struct {
	address string
	rng     hcl.Range
}

// LoadTests reads test files and checks all that needs no run. Files are named as given. The Tests are never nil, so that
// their Files can serve to print the diagnostics; with errors among these they cannot run.
func (p *Pipeline) LoadTests(ctx context.Context, paths []string, fsys FileSystem) (*Tests, hcl.Diagnostics) {
	if fsys == nil {
		fsys = OS{}
	}
	t := &Tests{pipeline: p, files: make(map[string]*hcl.File)}
	l := &testLoader{tests: t, pipeline: p}
	pretend := &pretendedFiles{real: fsys, functions: newFakes(nil, nil, nil, fsys).files.functions}
	l.functions = &hcl.EvalContext{Functions: functionTable(p, &facts{ctx: ctx, fs: pretend, dir: p.dir})}
	for _, path := range paths {
		l.file(path)
	}
	diag.Sort(l.diags)
	if more := len(l.diags) - maxProblems; more > 0 {
		l.diags = append(l.diags[:maxProblems:maxProblems], fault("Too many problems", fmt.Sprintf("%d more are not shown.", more), nil))
	}
	return t, l.diags
}

// Files are the sources that diagnostics of the tests are about, the pipeline's included.
func (t *Tests) Files() map[string]*hcl.File {
	all := maps.Clone(t.pipeline.files)
	maps.Copy(all, t.files)
	return all
}

// newFakes are the fakes of one run.
func newFakes(objects map[string]*fakeObject, functions map[string]cty.Value, files map[string]pretended, fsys FileSystem) *fakes {
	f := &fakes{objects: objects, functions: functions}
	f.files = &pretendedFiles{real: fsys, files: maps.Clone(files), functions: make(map[string]function.Function)}
	if f.files.files == nil {
		f.files.files = make(map[string]pretended)
	}
	for name, fake := range fakeFunctions {
		v := functions[name]
		if v == cty.NilVal {
			v = fake.madeUp
		}
		if v != cty.NilVal {
			f.files.functions[name] = fakedFunction(name, fake.result, v)
		}
	}
	return f
}

// testLoader reads test files.
type testLoader struct {
	tests     *Tests
	pipeline  *Pipeline
	functions *hcl.EvalContext
	runs      int
	diags     hcl.Diagnostics
}

func (l *testLoader) report(d *hcl.Diagnostic) { l.diags = append(l.diags, d) }

func (l *testLoader) file(path string) {
	src, err := readSource(path)
	if err != nil {
		l.report(fault("Cannot read file", sentence(err.Error()), nil))
		return
	}
	file, diags := parseSource(src, path)
	if file != nil {
		l.tests.files[path] = file
	}
	l.diags = append(l.diags, diags...)
	if diags.HasErrors() || file == nil || file.Body == nil {
		return
	}
	l.pipeline.effort.meterBody(file.Body)
	body, blocks := takeVariables(file.Body)
	start := hcl.Range{Filename: path, Start: hcl.InitialPos, End: hcl.InitialPos}
	c, diags := readBody(body, start, testFileSchema, "", testFileSchema.Kind)
	l.diags = append(l.diags, diags...)
	c.replace(l.pipeline.effort.native)
	common := &testRun{variables: make(map[string]*givenValue), objects: make(map[string]*fakeObject), functions: make(map[string]cty.Value), pretended: make(map[string]pretended)}
	l.variables(common, path, c.attrs["variables"], blocks[hcl.Range{}])
	l.fakes(common, c.attrs["fakes"])
	found := &testFile{name: path}
	names := make(map[string]hcl.Range)
	for _, n := range c.nested {
		switch first, dup := names[n.label]; {
		case n.dynamic != nil:
			l.report(fault("Wrong dynamic block", "Runs cannot be dynamic.", n.rng.Ptr()))
			continue
		case dup:
			l.report(duplicate("run", n.label, n.rng, first))
			continue
		}
		names[n.label] = n.rng
		if l.runs++; l.runs > maxRuns {
			l.report(fault("Too many runs", fmt.Sprintf("At most %d are read.", maxRuns), n.rng.Ptr()))
			return
		}
		found.runs = append(found.runs, l.run(path, common, n, blocks[n.rng]))
	}
	if len(c.nested) == 0 && !diags.HasErrors() {
		l.report(fault("No run", "The file tests nothing. Add run \"NAME\" { ... }.", &start))
	}
	l.tests.list = append(l.tests.list, found)
}

// takeVariables takes the blocks variables { ... } out of a file in native syntax and out of its runs: any names may stand
// in them, as in locals. They are returned by the header of the run, and under no range those of the file. In JSON the block
// and the argument look the same.
func takeVariables(body hcl.Body) (rest hcl.Body, taken map[hcl.Range][]*hclsyntax.Block) {
	taken = make(map[hcl.Range][]*hclsyntax.Block)
	native, ok := body.(*hclsyntax.Body)
	if !ok {
		return body, taken
	}
	cut := func(b *hclsyntax.Body, key hcl.Range) *hclsyntax.Body {
		out := *b
		out.Blocks = nil
		for _, inner := range b.Blocks {
			if inner.Type == "variables" && len(inner.Labels) == 0 {
				taken[key] = append(taken[key], inner)
				continue
			}
			out.Blocks = append(out.Blocks, inner)
		}
		return &out
	}
	top := cut(native, hcl.Range{})
	for i, b := range top.Blocks {
		if b.Type == runSchema.Kind {
			run := *b
			run.Body = cut(b.Body, b.DefRange())
			top.Blocks[i] = &run
		}
	}
	return top, taken
}

func (l *testLoader) run(path string, common *testRun, n *nestedBlock, blocks []*hclsyntax.Block) *testRun {
	r := &testRun{
		file: path, name: n.label, rng: n.rng, variables: maps.Clone(common.variables), objects: make(map[string]*fakeObject),
		functions: maps.Clone(common.functions), pretended: maps.Clone(common.pretended),
	}
	for address, o := range common.objects { // each run notes by itself which it met
		r.objects[address] = &fakeObject{address: o.address, rng: o.rng, values: maps.Clone(o.values), used: true}
	}
	c := n.content
	r.validate = l.command(c.attrs["command"]) == "validate"
	l.variables(r, path, c.attrs["variables"], blocks)
	l.fakes(r, c.attrs["fakes"])
	r.expected = l.expectations(c.attrs["expect_failures"])
	if a := c.attrs["targets"]; a != nil {
		r.targets, r.targetRange = l.texts(a), a.Expr.Range().Ptr()
	}
	for _, assert := range c.nested {
		if assert.dynamic != nil {
			l.report(fault("Wrong dynamic block", "Assertions cannot be dynamic.", assert.rng.Ptr()))
			continue
		}
		for _, name := range []string{"condition", "error_message"} {
			if a := assert.content.attrs[name]; a != nil {
				l.references(a.Expr)
			}
		}
		r.asserts = append(r.asserts, assert.content)
	}
	return r
}

// command reads plan or validate, a bare word or a text.
func (l *testLoader) command(a *hcl.Attribute) string {
	if a == nil {
		return "plan"
	}
	word := hcl.ExprAsKeyword(a.Expr)
	if word == "" {
		if v, ok := l.value(a.Expr); ok && v.Type() == cty.String && !v.IsNull() && v.IsKnown() {
			word = v.AsString()
		}
	}
	known := runSchema.Attrs[0].Enum
	if !slices.Contains(known, word) {
		l.report(fault("Wrong value", fmt.Sprintf("command cannot be %q.%s", shorten(word), enumSuggestion(word, known)), a.Expr.Range().Ptr()))
	}
	return word
}

// value evaluates an expression without references.
func (l *testLoader) value(expr hcl.Expression) (cty.Value, bool) {
	if refs := expr.Variables(); len(refs) > 0 {
		l.report(fault("Unexpected reference", "What goes into a run are plain values: functions are allowed, references are not. Assertions can refer to the pipeline's values.", refs[0].SourceRange().Ptr()))
		return cty.NilVal, false
	}
	v, diags := safeValue(expr, l.functions)
	if diags.HasErrors() {
		l.diags = append(l.diags, diags...)
		return cty.NilVal, false
	}
	if _, reason := valueSize(v); reason != "" {
		l.report(fault("Value too large", reason, expr.Range().Ptr()))
		return cty.NilVal, false
	}
	l.pipeline.keepDerived(v)
	v, _ = v.UnmarkDeep() // the declaration of a variable decides whether it is sensitive
	return v, true
}

// testEntry is an element of an object, with the places of its name and its value.
type testEntry struct {
	name         string
	nameRng, rng hcl.Range
	value        cty.Value
	expr         hcl.Expression // of the value; nil when the object is not written out
}

// entries evaluates an object.
func (l *testLoader) entries(expr hcl.Expression, what string) []testEntry {
	pairs, diags := hcl.ExprMap(expr)
	if diags.HasErrors() { // not written out
		v, ok := l.value(expr)
		if !ok {
			return nil
		}
		return l.entriesOf(v, expr.Range(), what)
	}
	var out []testEntry
	for _, pair := range pairs {
		key, keyDiags := safeValue(pair.Key, l.functions)
		if keyDiags.HasErrors() {
			l.diags = append(l.diags, keyDiags...)
			continue
		}
		if key, _ = key.Unmark(); !key.IsKnown() || key.IsNull() || key.Type() != cty.String {
			l.report(fault("Wrong type of value", "A name is needed here.", pair.Key.Range().Ptr()))
			continue
		}
		if v, ok := l.value(pair.Value); ok {
			out = append(out, testEntry{key.AsString(), pair.Key.Range(), pair.Value.Range(), v, pair.Value})
		}
	}
	return out
}

func (l *testLoader) entriesOf(v cty.Value, rng hcl.Range, what string) []testEntry {
	if ty := v.Type(); v.IsNull() || !v.IsKnown() || !ty.IsObjectType() && !ty.IsMapType() {
		l.report(fault("Wrong type of value", fmt.Sprintf("%s is an object, { ... }, not %s.", what, describe(v)), &rng))
		return nil
	}
	var out []testEntry
	for it := v.ElementIterator(); it.Next(); {
		k, element := it.Element()
		out = append(out, testEntry{k.AsString(), rng, rng, element, nil})
	}
	return out
}

// variables reads the values of variables, from the argument and from blocks.
func (l *testLoader) variables(r *testRun, path string, a *hcl.Attribute, blocks []*hclsyntax.Block) {
	var entries []testEntry
	if a != nil {
		entries = l.entries(a.Expr, "variables")
	}
	for _, b := range blocks {
		if a != nil || b != blocks[0] {
			l.report(fault("Duplicate variables", "There are already variables here; put all of them into one block.", b.DefRange().Ptr()))
			continue
		}
		for _, inner := range b.Body.Blocks {
			l.report(fault("Unexpected block", "Here stand only values, such as version = \"1.0.0\".", inner.TypeRange.Ptr()))
		}
		for _, attr := range sortedAttributes(b.Body) {
			if v, ok := l.value(attr.Expr); ok {
				entries = append(entries, testEntry{attr.Name, attr.NameRange, attr.Expr.Range(), v, attr.Expr})
			}
		}
	}
	for _, x := range entries {
		declared := l.pipeline.variables[x.name]
		if declared == nil {
			l.report(fault("Unknown variable", fmt.Sprintf("The pipeline declares no variable %s.%s", shorten(x.name), suggestion(x.name, keys(l.pipeline.variables), "Declared: ")), x.nameRng.Ptr()))
			continue
		}
		if declared.sensitive {
			l.pipeline.keepSecret(x.value)
		}
		r.variables[x.name] = &givenValue{origin: path, expr: hcl.StaticExpr(x.value, x.rng), rng: x.rng}
	}
}

// fakes reads what a run pretends.
func (l *testLoader) fakes(r *testRun, a *hcl.Attribute) {
	if a == nil {
		return
	}
	for _, x := range l.entries(a.Expr, "fakes") {
		switch name, isPath := strings.CutPrefix(x.name, pathFake); {
		case isPath:
			l.fakeFile(r, name, x)
		case fakeFunctions[x.name].result != cty.NilType:
			l.fakeFunction(r, x)
		case strings.Contains(x.name, "::"):
			l.report(fault("Unknown function", fmt.Sprintf("The result of %s cannot be faked.%s", shorten(x.name), suggestion(x.name, keys(fakeFunctions), "Functions that can: ")), x.nameRng.Ptr()))
		default:
			l.fakeObject(r, x)
		}
	}
}

// inner are the elements of a fake, with their places as far as they are written out.
func (l *testLoader) inner(x testEntry) []testEntry {
	if x.expr != nil {
		if _, diags := hcl.ExprMap(x.expr); !diags.HasErrors() {
			return l.entries(x.expr, "A fake")
		}
	}
	return l.entriesOf(x.value, x.rng, "A fake")
}

func (l *testLoader) fakeFile(r *testRun, name string, x testEntry) {
	if name == "" {
		l.report(fault("Wrong path", "The path is missing; write path:FILE.", x.nameRng.Ptr()))
		return
	}
	file := pretended{size: madeUpSize, kind: kindOf(name)}
	types := map[string]cty.Type{"size": cty.Number, "type": cty.String, "content": cty.String}
	for _, y := range l.inner(x) {
		ty, ok := types[y.name]
		if !ok {
			l.report(fault("Unknown attribute", fmt.Sprintf("A faked file has no attribute %s.%s", shorten(y.name), suggestion(y.name, keys(types), "Known: ")), y.nameRng.Ptr()))
			continue
		}
		v, err := convertFake(y.value, ty)
		if err != nil || v.IsNull() {
			l.report(fault("Wrong type of value", sentence(fmt.Sprintf("%s of a faked file: %s", y.name, orText(err, "it must not be null"))), y.rng.Ptr()))
			continue
		}
		switch y.name {
		case "size":
			file.size, _ = v.AsBigFloat().Int64()
		case "type":
			if file.kind = v.AsString(); rootfsKinds[file.kind] == "" {
				l.report(fault("Wrong value", fmt.Sprintf("type cannot be %q.%s", shorten(file.kind), enumSuggestion(file.kind, keys(rootfsKinds))), y.rng.Ptr()))
			}
		case "content":
			content := v.AsString()
			file.content = &content
		}
	}
	r.pretended[l.pipeline.abs(name)] = file
}

func orText(err error, text string) string {
	if err != nil {
		return err.Error()
	}
	return text
}

func (l *testLoader) fakeFunction(r *testRun, x testEntry) {
	want := fakeFunctions[x.name].result
	if ty := x.value.Type(); ty.IsObjectType() || ty.IsMapType() {
		want = cty.Map(want)
	}
	v, err := convertFake(x.value, want)
	if err != nil {
		l.report(fault("Wrong type of value", sentence(fmt.Sprintf("The result of %s cannot be faked so: %s", x.name, err)), x.rng.Ptr()))
		return
	}
	r.functions[x.name] = v
}

// fakeObject reads what a block exposes.
func (l *testLoader) fakeObject(r *testRun, x testEntry) {
	head := unquoted(x.name)
	b := l.declared()[head]
	if i := strings.LastIndexByte(head, '['); b == nil && i >= 0 && strings.HasSuffix(head, "]") {
		head = head[:i]
		if b = l.declared()[head]; b != nil && b.forEach == nil {
			b = nil
		}
	}
	if b == nil {
		l.report(fault("Unknown address", fmt.Sprintf("Nothing is called %s.%s", shorten(x.name), suggestion(head, l.fakeable(), "These can be faked: ")), x.nameRng.Ptr()))
		return
	}
	types := l.exposed(b)
	if len(types) == 0 {
		l.report(fault("Nothing to fake", fmt.Sprintf("%s exposes nothing that comes from outside of the pipeline. Sources can be faked, and size and sha256 of artifacts and images.", head), x.nameRng.Ptr()))
		return
	}
	o := r.objects[unquoted(x.name)]
	if o == nil {
		o = &fakeObject{values: make(map[string]cty.Value)}
		r.objects[unquoted(x.name)] = o
	}
	o.address, o.rng, o.used = x.name, x.nameRng, false
	for _, y := range l.inner(x) {
		ty, ok := types[y.name]
		if !ok {
			l.report(unknownFake(b, y, types))
			continue
		}
		v, err := convertFake(y.value, ty)
		if err != nil {
			l.report(fault("Wrong type of value", sentence(fmt.Sprintf("%s of %s: %s", y.name, x.name, err)), y.rng.Ptr()))
			continue
		}
		o.values[y.name] = v
	}
}

// unknownFake words that a block exposes nothing of a name.
func unknownFake(b *block, y testEntry, types map[string]cty.Type) *hcl.Diagnostic {
	for _, a := range b.schema.attrs(b.typ) {
		if a.Name == y.name {
			return fault("Unknown attribute", fmt.Sprintf("%s is an argument of %s, which the pipeline sets; a test can fake only what is found out: %s.", y.name, b.address(), strings.Join(keys(types), ", ")), y.nameRng.Ptr())
		}
	}
	return fault("Unknown attribute", fmt.Sprintf("%s exposes no %s.%s", b.address(), shorten(y.name), suggestion(y.name, keys(types), "Known: ")), y.nameRng.Ptr())
}

// declared are the blocks of the pipeline and its modules, by address without quotes.
func (l *testLoader) declared() map[string]*block {
	out := make(map[string]*block)
	for _, b := range l.pipeline.blocks {
		out[unquoted(b.address())] = b
	}
	if l.pipeline.checked != nil {
		for b := range l.pipeline.checked.blocks {
			out[unquoted(b.address())] = b
		}
	}
	return out
}

func (l *testLoader) fakeable() []string {
	var out []string
	declared := l.declared()
	for _, address := range keys(declared) {
		if len(l.exposed(declared[address])) > 0 {
			out = append(out, address)
		}
	}
	return out
}

// exposed are the values of a block that come from outside of the pipeline, with their types: what an offline evaluation
// of a source leaves open, and what is known of an output after its build.
func (l *testLoader) exposed(b *block) map[string]cty.Type {
	out := make(map[string]cty.Type)
	for _, x := range b.schema.Exposes {
		if x.Built && b.schema.Kind != "source" {
			out[x.Name] = x.Type
		}
	}
	if b.schema.Kind != "source" {
		return out
	}
	e := newEvaluator(context.Background(), l.pipeline, nil, false)
	for name, v := range e.computeSource(&instance{block: b, address: b.address(), body: &body{content: b.content, values: map[string]cty.Value{}}}) {
		if !v.IsKnown() {
			out[name] = v.Type()
		}
	}
	return out
}

// texts reads a list of texts.
func (l *testLoader) texts(a *hcl.Attribute) []string {
	v, ok := l.value(a.Expr)
	if !ok {
		return nil
	}
	if ty := v.Type(); v.IsNull() || !v.IsWhollyKnown() || !ty.IsTupleType() && !ty.IsListType() && !ty.IsSetType() {
		l.report(fault("Wrong type of value", fmt.Sprintf("A list of texts is needed here, not %s.", describe(v)), a.Expr.Range().Ptr()))
		return nil
	}
	var out []string
	for it := v.ElementIterator(); it.Next(); {
		_, element := it.Element()
		if element.IsNull() || element.Type() != cty.String {
			l.report(fault("Wrong type of value", fmt.Sprintf("A list of texts is needed here, and it holds %s.", describe(element)), a.Expr.Range().Ptr()))
			return nil
		}
		out = append(out, element.AsString())
	}
	return out
}

// expectations reads the addresses of what must fail.
func (l *testLoader) expectations(a *hcl.Attribute) []expectation {
	if a == nil {
		return nil
	}
	exprs, diags := hcl.ExprList(a.Expr)
	if diags.HasErrors() {
		l.report(fault("Wrong type of value", "A list of addresses is needed here, such as [var.version, check.os_fits].", a.Expr.Range().Ptr()))
		return nil
	}
	var out []expectation
	for _, expr := range exprs {
		t, travDiags := hcl.AbsTraversalForExpr(expr)
		if travDiags.HasErrors() {
			l.report(fault("Wrong address", "The address of a variable, local value, block, check or output is needed here, such as var.version or artifact.os[\"rpi4\"].", expr.Range().Ptr()))
			continue
		}
		if address, d := l.pipeline.failable(t); d != nil {
			l.report(d)
		} else {
			out = append(out, expectation{address, expr.Range()})
		}
	}
	return out
}

// failable understands the address of something that diagnostics can be about.
func (p *Pipeline) failable(t hcl.Traversal) (string, *hcl.Diagnostic) {
	switch root := t.RootName(); {
	case root == "check" || root == "output":
		if d := p.oneOf(t, root); d != nil {
			return "", d
		}
		name, _ := stepName(t[1])
		return root + "." + name, nil
	case !rootNames[root] || root == "each" || root == "path" || root == "twinkeel":
		return "", fault("Wrong address", fmt.Sprintf("%s cannot fail. Variables, local values, blocks, checks and outputs can.", shorten(root)), t.SourceRange().Ptr())
	}
	c := &referenceChecker{module: p.module}
	if d := c.traversal(t, false); d != nil && d.Summary != "Wrong reference" { // an attribute after for_each
		return "", d
	}
	ref, d := p.parseReference(t)
	switch {
	case d != nil:
		return "", d
	case ref.symbol.name == "":
		return "", fault("Incomplete reference", fmt.Sprintf("%s stands for several; name one of them.", ref.symbol), t.SourceRange().Ptr())
	}
	address := ref.symbol.String()
	rest := ref.rest
	if b := p.blocks[address]; b != nil && b.forEach != nil && len(rest) > 0 {
		if key, ok := stepName(rest[0]); ok {
			if _, index := rest[0].(hcl.TraverseIndex); index {
				address, rest = fmt.Sprintf("%s[%q]", address, key), rest[1:]
			}
		}
	}
	if len(rest) > 0 {
		return "", fault("Wrong address", fmt.Sprintf("What fails is %s as a whole; leave out what follows it.", address), rest[0].SourceRange().Ptr())
	}
	return address, nil
}

// oneOf checks a traversal such as output.NAME.
func (p *Pipeline) oneOf(t hcl.Traversal, kind string) *hcl.Diagnostic {
	if len(t) < 2 {
		return fault("Incomplete reference", fmt.Sprintf("Write %s.NAME.", kind), t.SourceRange().Ptr())
	}
	name, ok := stepName(t[1])
	var names []string
	for _, b := range p.others[kind] {
		names = append(names, b.name)
	}
	if !ok || !slices.Contains(names, name) {
		return fault("Unknown reference", fmt.Sprintf("There is no %s %s.%s", kind, shorten(name), suggestion(name, names, "Known: ")), t[1].SourceRange().Ptr())
	}
	return nil
}

// Names that only assertions see, beside those of the pipeline.
const (
	planRoot   = "plan"
	outputRoot = "output"
)

// references checks what an assertion refers to.
func (l *testLoader) references(expr hcl.Expression) {
	c := &referenceChecker{module: l.pipeline.module}
	c.expression(expr, []string{planRoot, outputRoot})
	for _, t := range expr.Variables() {
		switch t.RootName() {
		case outputRoot:
			if d := l.pipeline.oneOf(t, outputRoot); d != nil {
				c.diags = append(c.diags, d)
			}
		case planRoot:
			if len(t) < 2 {
				continue
			}
			if name, ok := stepName(t[1]); !ok || name != "actions" {
				c.diags = append(c.diags, fault("Unknown attribute", "plan has the attribute actions only: a list of objects with address, kind and depends_on.", t[1].SourceRange().Ptr()))
			}
		}
	}
	l.diags = append(l.diags, c.diags...)
}
