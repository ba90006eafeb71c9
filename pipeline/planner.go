package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// actionKinds are the kinds of blocks that become actions, in the order in which they run.
var actionKinds = []Kind{KindArtifact, KindImage, KindRollout}

// Plan evaluates the pipeline with the facts of the file system and says what there is to do. It opens no keys and no
// connections. The plan is nil when there are errors.
func (p *Pipeline) Plan(ctx context.Context, o PlanOptions) (*Plan, hcl.Diagnostics) {
	if p.loadDiags.HasErrors() {
		return nil, p.loadDiags
	}
	if diags := p.Validate(); diags.HasErrors() {
		return nil, diags
	}
	fsys := o.FS
	if fsys == nil {
		fsys = OS{}
	}
	e := newEvaluator(ctx, p, fsys, true)
	e.only = p.needed(o.Targets)
	plan := e.plan(o.Targets)
	if e.skipped && e.unready { // something beside the plan's edges needs an instance that was left out
		e = newEvaluator(ctx, p, fsys, true)
		plan = e.plan(o.Targets)
	}
	if e.facts.decomposed != "" {
		e.report(caution("File name in another form", fmt.Sprintf("%s is written in decomposed Unicode on this disk, as some systems do. It is found all the same; a copy elsewhere may have another name, and then other bytes in artifacts.", e.shown(e.facts.decomposed)), nil))
	}
	if err := ctx.Err(); err != nil {
		e.diags = append(hcl.Diagnostics{fault("Interrupted", sentence(err.Error()), nil)}, e.diags...)
	}
	diag.Sort(e.diags)
	if e.failed() {
		return nil, e.diags
	}
	return plan, e.diags
}

func (e *evaluator) plan(targets []string) *Plan {
	p := e.pipeline
	for _, m := range e.everyModule() {
		e.checkVariables(m)
	}
	plan := &Plan{Dir: p.dir, OutDir: p.abs(e.out()), Digest: p.digest(), Epoch: e.epoch(), Actions: []*Action{}}
	plan.Variables = e.planVariables()
	plan.Builder, plan.CacheDir = e.builder, p.cacheDir(e)
	if e.failed() {
		return nil
	}
	for _, b := range e.selectBlocks(targets) {
		e.symbol(b.symbol(), b.rng)
	}
	if len(targets) == 0 {
		e.checks()
		plan.Unchecked = e.unchecked
	}
	e.checkTogether(len(targets) == 0)
	if e.failed() {
		return nil
	}

	actions := make(map[string]*Action)
	var all []*instance
	for _, kind := range actionKinds {
		for _, b := range e.declared(string(kind)) {
			for _, inst := range e.blocks[b] {
				all = append(all, inst)
				actions[inst.address] = inst.action(kind)
			}
		}
	}
	for _, inst := range e.sourceActions() { // without targets those run that somebody needs
		if actions[inst.address] = inst.action(KindSource); len(targets) > 0 {
			all = append(all, inst)
		}
	}
	for _, address := range keys(actions) {
		a := actions[address]
		a.DependsOn = slices.DeleteFunc(a.DependsOn, func(need string) bool { return actions[need] == nil }) // a source that makes nothing
		e.addSourceEdges(a)
	}
	chosen := e.selectInstances(targets, all)
	e.onlySources(targets, chosen)
	done := make(map[string]bool)
	var add func(inst *instance)
	add = func(inst *instance) {
		if done[inst.address] {
			return
		}
		done[inst.address] = true
		a := actions[inst.address]
		for _, need := range a.DependsOn {
			add(e.instances[need])
		}
		plan.Actions = append(plan.Actions, a)
	}
	for _, inst := range chosen {
		actions[inst.address].Named = len(targets) > 0
		add(inst)
	}
	for _, address := range keys(e.instances) { // also what actions are made from, such as servers and layouts
		e.mustBeKnown(e.instances[address].body, e.instances[address])
	}
	slices.SortStableFunc(plan.Actions, func(a, b *Action) int { return slices.Index(actionKinds, a.Kind) - slices.Index(actionKinds, b.Kind) }) // sources first
	plan.Actions = inOrder(plan.Actions)
	e.checkOutputPaths(plan)
	return plan
}

// CheckBuilt makes the checks of the pipeline again, with what a build made, by address. It returns what fails.
func (p *Pipeline) CheckBuilt(ctx context.Context, fsys FileSystem, built map[string]BuiltFile) hcl.Diagnostics {
	if p.loadDiags.HasErrors() {
		return p.loadDiags
	}
	if fsys == nil {
		fsys = OS{}
	}
	e := newEvaluator(ctx, p, fsys, true)
	e.built = built
	e.checks()
	return slices.DeleteFunc(e.finish(), func(d *hcl.Diagnostic) bool { return d.Severity != hcl.DiagError }) // the plan warned
}

// CacheDir is where the pipeline wants its cache, absolute, as far as that is known offline; else the default.
func (p *Pipeline) CacheDir() string {
	if p.checked == nil {
		return p.abs(defaultCacheDir)
	}
	return p.cacheDir(p.checked)
}

func (p *Pipeline) cacheDir(e *evaluator) string {
	if e.cacheDir == "" {
		return p.abs(defaultCacheDir)
	}
	return p.abs(e.cacheDir)
}

// inOrder puts what is depended on first and changes nothing else. There are no cycles: evaluation would have met them.
func inOrder(actions []*Action) []*Action {
	byAddress := make(map[string]*Action, len(actions))
	for _, a := range actions {
		byAddress[a.Address] = a
	}
	out := make([]*Action, 0, len(actions))
	done := make(map[string]bool)
	var add func(a *Action)
	add = func(a *Action) {
		if a == nil || done[a.Address] {
			return
		}
		done[a.Address] = true
		for _, need := range a.DependsOn {
			add(byAddress[need])
		}
		out = append(out, a)
	}
	for _, a := range actions {
		add(a)
	}
	return out
}

// action makes the action of an evaluated block. Edges come from the values, not from the text: a reference in the
// branch of a conditional that was not taken makes no edge.
func (inst *instance) action(kind Kind) *Action {
	a := &Action{Address: inst.address, Kind: kind, Range: inst.block.rng}
	switch kind {
	case KindSource:
		a.Source, _ = inst.result.(*SourceAction)
	case KindArtifact:
		a.Artifact, _ = inst.result.(*Artifact)
	case KindImage:
		a.Image, _ = inst.result.(*Image)
		a.DependsOn = append(a.DependsOn, inst.body.text("artifact"))
	case KindRollout:
		a.Rollout, _ = inst.result.(*Rollout)
		a.DependsOn = append(a.DependsOn, inst.body.texts("artifacts")...)
	}
	for _, need := range inst.body.texts(metaDepends) {
		if !slices.Contains(a.DependsOn, need) {
			a.DependsOn = append(a.DependsOn, need)
		}
	}
	return a
}

// mustBeKnown reports arguments whose values appear only with the build: a plan needs them before.
func (e *evaluator) mustBeKnown(b *body, inst *instance) {
	for _, s := range b.content.schemas {
		if v := b.values[s.Name]; !v.IsWhollyKnown() {
			e.unready = true
			e.report(fault("Value known only after the build", fmt.Sprintf("%s of %s depends on something that does not exist before the build, such as the size or checksum of an output.", s.Name, inst.address), b.rangeOf(s.Name)))
		}
	}
	for _, n := range b.nested {
		e.mustBeKnown(n.body, inst)
	}
}

// epoch is the time that outputs carry.
func (e *evaluator) epoch() time.Time {
	text, ok := e.pipeline.environ["SOURCE_DATE_EPOCH"]
	if !ok || text == "" {
		return time.Unix(0, 0).UTC()
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<33 {
		e.report(fault("Wrong SOURCE_DATE_EPOCH", fmt.Sprintf("SOURCE_DATE_EPOCH is %q; it is a whole number of seconds since 1970, at most %d.", shorten(text), int64(1)<<33), nil))
		return time.Unix(0, 0).UTC()
	}
	return time.Unix(seconds, 0).UTC()
}

// checkOutputPaths finds two outputs of one name, which sanitised keys can have.
func (e *evaluator) checkOutputPaths(plan *Plan) {
	first := make(map[string]*Action)
	for _, a := range plan.Actions {
		var path string
		switch a.Kind {
		case KindSource: // named after its address
			continue
		case KindArtifact:
			path = a.Artifact.Path
		case KindImage:
			path = a.Image.Path
		case KindRollout:
			path = "rollout " + a.Rollout.Name
		}
		if other := first[path]; other != nil {
			shown := path
			if rel, err := filepath.Rel(plan.Dir, path); err == nil && filepath.IsAbs(path) {
				shown = rel
			}
			e.report(fault("Two outputs of one name", fmt.Sprintf("%s and %s both become %s. Change a label or a key of for_each.", other.Address, a.Address, shown), a.Range.Ptr()))
			continue
		}
		first[path] = a
	}
}

// selectBlocks returns the blocks that may hold a target; all of them without targets. A target that nothing answers to
// is reported.
func (e *evaluator) selectBlocks(targets []string) []*block {
	var blocks, chosen []*block
	var addresses []string
	for _, kind := range actionKinds {
		for _, b := range e.declared(string(kind)) {
			blocks = append(blocks, b)
			addresses = append(addresses, b.address())
		}
	}
	if len(targets) == 0 {
		return blocks
	}
	blocks = append(blocks, e.declared(string(KindSource))...)
	met := make([]bool, len(targets))
	for _, b := range blocks {
		hit := false
		for i, t := range targets {
			if b.mayAnswer(t) {
				met[i], hit = true, true
			}
		}
		if hit {
			chosen = append(chosen, b)
		}
	}
	for i, t := range targets {
		if met[i] {
			continue
		}
		if e.makesNothing(t) {
			e.report(fault("Nothing to make", fmt.Sprintf("%s makes nothing by itself; targets are artifacts, images and rollouts.", t), nil))
			continue
		}
		e.report(fault("Unknown target", fmt.Sprintf("Nothing is called %s.%s", shorten(t), suggestion(t, addresses, "There are: ")), nil))
	}
	return chosen
}

// mayAnswer tells whether a target may name an instance of the block.
func (b *block) mayAnswer(target string) bool {
	target, address := strings.ReplaceAll(target, `"`, ""), strings.ReplaceAll(b.address(), `"`, "")
	if i := strings.LastIndexByte(target, '['); i > 0 && matchAddress(target[:i], address) {
		return true
	}
	return matchAddress(target, address) || inModule(target, address)
}

// inModule tells whether a target names a module that the address is in.
func inModule(target, address string) bool {
	rest, ok := strings.CutPrefix(address, target)
	return ok && strings.HasPrefix(target, "module.") && (rest[0] == '.' || rest[0] == '[')
}

// makesNothing tells whether a target names a block that becomes no action.
func (e *evaluator) makesNothing(target string) bool {
	for _, m := range e.everyModule() {
		if rest, ok := strings.CutPrefix(target, m.prefix); ok && m.blocks[rest] != nil {
			return true
		}
	}
	return false
}

// selectInstances returns the instances that targets name; all of them without targets.
func (e *evaluator) selectInstances(targets []string, all []*instance) []*instance {
	if len(targets) == 0 {
		return all
	}
	var chosen []*instance
	met := make([]bool, len(targets))
	for _, inst := range all {
		hit := false
		for i, t := range targets {
			if inst.answers(t) {
				met[i], hit = true, true
			}
		}
		if hit {
			chosen = append(chosen, inst)
		}
	}
	for i, t := range targets {
		if !met[i] && strings.Contains(t, "[") {
			e.report(fault("Unknown target", fmt.Sprintf("Nothing is called %s.%s", shorten(t), suggestion(t, e.pipeline.targetAddresses(), "There are: ")), nil))
		}
	}
	return chosen
}

// answers tells whether a target names the instance.
func (inst *instance) answers(target string) bool {
	target, address := strings.ReplaceAll(target, `"`, ""), strings.ReplaceAll(inst.address, `"`, "")
	return matchAddress(target, strings.ReplaceAll(inst.block.address(), `"`, "")) || matchAddress(target, address) || inModule(target, address)
}

// needed are the addresses of what targets name and of what that depends on, as far as the offline evaluation tells: the
// files of one device's artifact should not have to exist when another device's is asked for. nil means that it does not
// tell, or that everything is needed.
func (p *Pipeline) needed(targets []string) map[string]bool {
	out := make(map[string]bool)
	var add func(inst *instance)
	add = func(inst *instance) {
		if inst == nil || out[inst.address] {
			return
		}
		out[inst.address] = true
		for _, need := range inst.action(Kind(inst.block.schema.Kind)).DependsOn {
			add(p.checked.instances[need])
		}
	}
	for _, kind := range actionKinds {
		for _, b := range p.checked.declared(string(kind)) {
			if p.checked.blocks[b] == nil && b.forEach != nil {
				return nil // its keys need the file system or a variable
			}
			for _, inst := range p.checked.blocks[b] {
				if slices.ContainsFunc(targets, inst.answers) {
					add(inst)
				}
			}
		}
	}
	if len(targets) == 0 {
		return nil
	}
	return out
}

// targetAddresses are what targets can name, as far as the offline evaluation tells.
func (p *Pipeline) targetAddresses() []string {
	var out []string
	for _, address := range keys(p.checked.instances) {
		if slices.Contains(actionKinds, Kind(p.checked.instances[address].block.schema.Kind)) {
			out = append(out, address)
		}
	}
	return out
}

// leaveOut tells whether an instance of for_each is beside the point of the plan.
func (e *evaluator) leaveOut(inst *instance) bool {
	if e.only == nil || e.only[inst.address] || !slices.Contains(actionKinds, Kind(inst.block.schema.Kind)) {
		return false
	}
	e.skipped = true
	return true
}

// matchAddress matches a glob with * and ?, which stand for any characters; brackets stand for themselves.
func matchAddress(pattern, address string) bool {
	// Greedy matching with one point to go back to, which is linear in practice and never exponential.
	p, a, star, mark := 0, 0, -1, 0
	for a < len(address) {
		switch {
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == address[a]) && pattern[p] != '*':
			p++
			a++
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, a
			p++
		case star >= 0:
			mark++
			p, a = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// digest is the SHA-256 of the pipeline's files: of their names and contents.
func (p *Pipeline) digest() string {
	var files []string
	for name, f := range p.files {
		sum := sha256.Sum256(f.Bytes)
		files = append(files, fmt.Sprintf("%q %x", filepath.Base(name), sum)) // without the directory: the same pipeline elsewhere is the same
	}
	slices.Sort(files)
	sum := sha256.Sum256([]byte(strings.Join(files, "\n")))
	return hex.EncodeToString(sum[:])
}
