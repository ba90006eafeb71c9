package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// TestOptions says what to run, and how.
type TestOptions struct {
	// Filter are globs of the names of runs, of files, or of both with a slash between them. None means all.
	Filter []string
	// FS answers questions about files that no run fakes; nil means the real file system.
	FS FileSystem
	// Done is told of each run when it is done.
	Done func(TestRun)
}

// TestStatus is how a run ended.
type TestStatus string

// How a run ends.
const (
	TestPass  TestStatus = "pass"
	TestFail  TestStatus = "fail"  // an assertion does not hold, or what should fail does not
	TestError TestStatus = "error" // the pipeline or the assertion could not be evaluated
	TestSkip  TestStatus = "skip"  // left out by a filter, or interrupted before
)

// TestRun is what came of a run.
type TestRun struct {
	File, Name  string
	Line        int
	Status      TestStatus
	Duration    time.Duration
	Diagnostics hcl.Diagnostics // warnings, too
	Plan        *Plan           // nil when there is none
}

// Len returns how many runs there are.
func (t *Tests) Len() int {
	n := 0
	for _, f := range t.list {
		n += len(f.runs)
	}
	return n
}

// Names are the names of all runs and of their files, each once, as a filter takes them.
func (t *Tests) Names() []string {
	var names []string
	for _, f := range t.list {
		names = append(names, f.name)
		for _, r := range f.runs {
			names = append(names, r.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Run does the runs, file by file, in the order in which they stand. Each evaluates the pipeline anew.
func (t *Tests) Run(ctx context.Context, o TestOptions) []TestRun {
	if o.FS == nil {
		o.FS = OS{}
	}
	results := []TestRun{}
	for _, f := range t.list {
		for _, r := range f.runs {
			result := TestRun{File: f.name, Name: r.name, Line: r.rng.Start.Line, Status: TestSkip}
			if r.matches(o.Filter) && ctx.Err() == nil {
				began := time.Now()
				t.pipeline.test(ctx, r, o, &result)
				result.Duration = time.Since(began)
			}
			results = append(results, result)
			if o.Done != nil {
				o.Done(result)
			}
		}
	}
	return results
}

// matches tells whether a filter names the run.
func (r *testRun) matches(filter []string) bool {
	if len(filter) == 0 {
		return true
	}
	base := r.file[strings.LastIndexByte(strings.ReplaceAll(r.file, `\`, "/"), '/')+1:]
	short := strings.TrimSuffix(strings.TrimSuffix(base, suffixTestHCL), suffixTestJSON)
	names := []string{r.name, r.file, base, short}
	for _, file := range names[1:] {
		names = append(names, file+"/"+r.name)
	}
	return slices.ContainsFunc(filter, func(glob string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return matchAddress(glob, name) })
	})
}

// test does a run. The pipeline has the run's variables meanwhile.
func (p *Pipeline) test(ctx context.Context, r *testRun, o TestOptions, result *TestRun) {
	given, checked := p.given, p.checked
	defer func() { p.given, p.checked = given, checked }()
	p.given, p.checked = make(map[string]*givenValue), nil
	for name, g := range given {
		p.given[name] = g
	}
	for name, g := range r.variables {
		p.given[name] = g
	}

	e, plan := p.rehearse(ctx, r, o)
	if err := ctx.Err(); err != nil {
		result.Status = TestSkip
		return
	}
	v := &verdict{e: e, run: r, result: result}
	v.judge()
	if plan != nil && !v.failed() {
		result.Plan = plan
	}
	if result.Status != TestError {
		v.asserts(plan)
	}
	if result.Status == TestSkip {
		result.Status = TestPass
	}
	diag.Sort(result.Diagnostics)
}

// rehearse evaluates the pipeline as a plan, or as a validation, would. The evaluator keeps the diagnostics.
func (p *Pipeline) rehearse(ctx context.Context, r *testRun, o TestOptions) (*evaluator, *Plan) {
	if r.validate {
		e := newEvaluator(ctx, p, nil, false)
		e.everything()
		return e, nil
	}
	if len(r.targets) > 0 { // which instances they need is known offline
		if diags := p.Validate(); diags.HasErrors() {
			return p.checked, nil
		}
	}
	e := p.pretending(ctx, r, o.FS)
	e.only = p.neededBy(r.targets)
	plan := e.plan(r.targets)
	if e.skipped && e.unready {
		e = p.pretending(ctx, r, o.FS)
		plan = e.plan(r.targets)
	}
	if len(r.targets) == 0 && !e.stopped() {
		e.everything() // a plan leaves out what nothing refers to
	}
	e.reportUnmetFakes()
	if e.failed() {
		return e, nil
	}
	return e, plan
}

// stopped tells that a variable is wrong, after which a plan looks at nothing else.
func (e *evaluator) stopped() bool {
	return slices.ContainsFunc(e.diags, func(d *hcl.Diagnostic) bool {
		for owner := range e.ownersOf(d) {
			if d.Severity == hcl.DiagError && strings.Contains("."+owner, ".var.") {
				return true
			}
		}
		return false
	})
}

// neededBy is needed, of a pipeline that may not have been validated when there are no targets.
func (p *Pipeline) neededBy(targets []string) map[string]bool {
	if len(targets) == 0 {
		return nil
	}
	return p.needed(targets)
}

// reportUnmetFakes reports keys of for_each that do not exist. What no target needs has not been looked at.
func (e *evaluator) reportUnmetFakes() {
	if e.failed() {
		return
	}
	for b := range e.blocks {
		for address, fake := range e.fakes.objects {
			if i := strings.LastIndexByte(address, '['); !fake.used && i > 0 && address[:i] == unquoted(b.address()) {
				e.report(fault("Unknown address", fmt.Sprintf("Nothing is called %s.%s", shorten(fake.address), suggestion(fake.address, e.instancesOf(b), "There are: ")), fake.rng.Ptr()))
			}
		}
	}
}

func (e *evaluator) instancesOf(b *block) []string {
	var out []string
	for _, inst := range e.blocks[b] {
		out = append(out, inst.address)
	}
	return out
}

// pretending is an evaluator for a run.
func (p *Pipeline) pretending(ctx context.Context, r *testRun, fsys FileSystem) *evaluator {
	f := newFakes(r.objects, r.functions, r.pretended, fsys)
	e := newEvaluator(ctx, p, f.files, true)
	e.fakes = f
	return e
}

// verdict finds out how a run ended.
type verdict struct {
	e      *evaluator
	run    *testRun
	result *TestRun
}

func (v *verdict) failed() bool { return v.result.Status == TestFail || v.result.Status == TestError }

func (v *verdict) add(status TestStatus, d *hcl.Diagnostic) {
	v.result.Diagnostics = append(v.result.Diagnostics, d)
	if v.result.Status != TestError {
		v.result.Status = status
	}
}

// judge compares what went wrong with what was expected to.
func (v *verdict) judge() {
	met := make([]bool, len(v.run.expected))
	for _, d := range v.e.diags {
		if d.Severity == hcl.DiagWarning {
			v.result.Diagnostics = append(v.result.Diagnostics, d)
			continue
		}
		owners, expected := v.e.ownersOf(d), false
		for i, x := range v.run.expected {
			if x.among(owners) {
				met[i], expected = true, true
			}
		}
		if expected {
			continue
		}
		if d.Subject == nil && v.run.targetRange != nil {
			located := *d
			located.Subject = v.run.targetRange
			d = &located
		}
		v.add(TestError, d)
	}
	for i, x := range v.run.expected {
		if !met[i] {
			v.add(TestFail, fault("Expected failure is missing", fmt.Sprintf("The run %s expects %s to fail, but nothing is wrong with it.", v.run.name, x.address), x.rng.Ptr()))
		}
	}
}

// among tells whether one of the addresses is meant. A module fails with anything in it.
func (x expectation) among(owners map[string]bool) bool {
	if owners[x.address] {
		return true
	}
	for owner := range owners {
		if strings.HasPrefix(x.address, "module.") && (strings.HasPrefix(owner, x.address+".") || strings.HasPrefix(owner, x.address+"[")) {
			return true
		}
	}
	return false
}

// asserts checks the conditions of a run.
func (v *verdict) asserts(plan *Plan) {
	e := v.e
	e.diags, e.reported = nil, make(map[string]bool)
	for _, c := range v.run.asserts {
		condition, message := c.attrs["condition"], c.attrs["error_message"]
		sc := e.assertScope(plan, condition.Expr, message.Expr)
		value, ctx, ok := e.valueIn(condition.Expr, sc)
		if !ok {
			continue // reported
		}
		e.pipeline.keepDerived(value)
		value, _ = value.Unmark()
		if !value.IsKnown() {
			d := fault("Condition is not known", v.unknown(condition.Expr, ctx), condition.Expr.Range().Ptr())
			d.Expression, d.EvalContext = condition.Expr, ctx
			v.add(TestError, d)
			continue
		}
		out, p := tBool.convert(e, orNull(value))
		if value.IsNull() || p != nil {
			d := fault("Wrong type of value", "A condition is true or false.", condition.Expr.Range().Ptr())
			d.Expression, d.EvalContext = condition.Expr, ctx
			v.add(TestError, d)
			continue
		}
		if out.True() {
			continue
		}
		d := fault("Assertion failed", e.messageOf(message.Expr, sc)+unlikeTypes(condition.Expr, ctx), condition.Expr.Range().Ptr())
		d.Expression, d.EvalContext = condition.Expr, ctx
		v.add(TestFail, d)
	}
	for _, d := range e.diags {
		if d.Severity == hcl.DiagError {
			v.add(TestError, d)
		}
	}
}

// messageOf is the text of an error_message, unless it is a secret.
func (e *evaluator) messageOf(expr hcl.Expression, sc *scope) string {
	m, _, ok := e.valueIn(expr, sc)
	switch {
	case !ok:
	case m.ContainsMarked():
		return "The message of this condition holds a sensitive value and is not shown."
	case m.IsKnown() && !m.IsNull() && m.Type() == cty.String:
		return m.AsString()
	}
	return "The condition does not hold."
}

// unknown tells why a condition cannot be decided.
func (v *verdict) unknown(expr hcl.Expression, ctx *hcl.EvalContext) string {
	var names []string
	for _, t := range expr.Variables() {
		value, diags := t.TraverseAbs(ctx)
		name := string(hclwrite.TokensForTraversal(t).Bytes())
		if !diags.HasErrors() && !value.IsWhollyKnown() && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	var what string
	switch len(names) {
	case 0:
		what = "Something in it is not known"
	case 1:
		what = names[0] + " is not known"
	default:
		what = strings.Join(names, ", ") + " are not known"
	}
	switch {
	case v.run.validate:
		return what + ": command = validate evaluates offline."
	case len(v.run.expected) > 0:
		return what + ", perhaps because of what the run expects to fail."
	}
	return what + " before a build. If it is the size or sha256 of an artifact or an image, set it in fakes."
}

// assertScope is what an assertion sees: the pipeline's values, the plan and, if it asks for them, the outputs.
func (e *evaluator) assertScope(plan *Plan, exprs ...hcl.Expression) *scope {
	sc := e.globalScope().with(planRoot, planValue(plan))
	asked := func(expr hcl.Expression) bool {
		return slices.ContainsFunc(expr.Variables(), func(t hcl.Traversal) bool { return t.RootName() == outputRoot })
	}
	if !slices.ContainsFunc(exprs, asked) {
		return sc
	}
	outputs := make(map[string]cty.Value)
	for _, b := range e.pipeline.others["output"] {
		v, out := e.output(b)
		switch {
		case v == cty.NilVal:
			v = cty.DynamicVal
		case out.Sensitive:
			v = v.Mark(secretOf(b.address()))
		}
		outputs[b.name] = v
	}
	return sc.with(outputRoot, cty.ObjectVal(outputs))
}

// planValue is what assertions see of a plan. Its lists are tuples, which == compares with what [ ... ] makes.
func planValue(plan *Plan) cty.Value {
	if plan == nil {
		return cty.ObjectVal(map[string]cty.Value{"actions": cty.DynamicVal})
	}
	actions := []cty.Value{}
	for _, a := range plan.Actions {
		needs := []cty.Value{}
		for _, address := range a.DependsOn {
			needs = append(needs, cty.StringVal(address))
		}
		actions = append(actions, cty.ObjectVal(map[string]cty.Value{
			"address": cty.StringVal(a.Address), "kind": cty.StringVal(string(a.Kind)), "depends_on": cty.TupleVal(needs),
		}))
	}
	return cty.ObjectVal(map[string]cty.Value{"actions": cty.TupleVal(actions)})
}

// unlikeTypes warns of the commonest reason why two values that look equal are not: a list is never equal to [ ... ].
func unlikeTypes(expr hcl.Expression, ctx *hcl.EvalContext) string {
	op, ok := expr.(*hclsyntax.BinaryOpExpr)
	if !ok || op.Op != hclsyntax.OpEqual {
		return ""
	}
	left, leftDiags := op.LHS.Value(ctx)
	right, rightDiags := op.RHS.Value(ctx)
	if leftDiags.HasErrors() || rightDiags.HasErrors() || left.IsNull() || right.IsNull() || left.Type().Equals(right.Type()) {
		return ""
	}
	if one, other := left.Type(), right.Type(); one.IsTupleType() && other.IsTupleType() || one.IsObjectType() && other.IsObjectType() {
		return ""
	}
	return fmt.Sprintf("\n\nValues of different types are never equal, and these are %s and %s; tolist(), toset() and tomap() convert.", typeWord(left), typeWord(right))
}

func typeWord(v cty.Value) string {
	switch ty := v.Type(); {
	case ty.IsTupleType():
		return "a tuple"
	default:
		return describe(v)
	}
}
