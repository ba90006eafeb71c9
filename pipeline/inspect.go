package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// InspectOptions says what to look at, and how.
type InspectOptions struct {
	// Targets are addresses and globs, as in [PlanOptions], of anything that has a value: also var.NAME, local.NAME and
	// output.NAME, and kinds (artifact, source.yocto). None means all.
	Targets []string
	// FS answers questions about files; nil means the real file system.
	FS FileSystem
	// Offline reads no files and needs no variables; what depends on them is unknown.
	Offline bool
	// Built is what the last build made, by address.
	Built map[string]BuiltFile
}

// Inspected is something of the pipeline with its value.
type Inspected struct {
	Address string `json:"address"`
	Kind    string `json:"kind"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	// Origin tells where a variable's value was given; empty for its default.
	Origin string `json:"origin,omitempty"`
	Shown
}

// Shown is a value in forms that may be seen: what is sensitive or not known yet is left out.
type Shown struct {
	// Value is in the form that encoding/json has of JSON, with null for what is left out.
	Value any `json:"value"`
	// Unknown and Sensitive are the paths of what was left out, such as ["os"].size; "." is the whole value.
	Unknown   []string `json:"unknown,omitempty"`
	Sensitive []string `json:"sensitive,omitempty"`
	// Text is the value in the language's own syntax.
	Text string `json:"-"`
}

// Inspect evaluates the pipeline, or what the targets name and what that needs, and returns the values in order: variables,
// local values, blocks, outputs. Checks are not made: who looks may want to know why they fail.
func (p *Pipeline) Inspect(ctx context.Context, o InspectOptions) ([]Inspected, hcl.Diagnostics) {
	if p.loadDiags.HasErrors() {
		return nil, p.loadDiags
	}
	e := p.looker(ctx, o.FS, o.Offline, o.Built)
	all := p.everyValue()
	chosen := all
	if len(o.Targets) > 0 {
		chosen = e.chooseValues(all, o.Targets)
	}
	found := []Inspected{}
	met := make([]bool, len(o.Targets))
	for _, n := range chosen {
		for _, one := range e.look(n) {
			if answersAny(o.Targets, one.Address, met) {
				found = append(found, one)
			}
		}
	}
	if !e.failed() {
		e.reportUnmet(o.Targets, met, found, all)
	}
	diags := e.finish()
	if diags.HasErrors() {
		return nil, diags
	}
	for i := range found {
		found[i].Text = p.withoutQuotedSecrets(found[i].Text)
	}
	return found, diags
}

// looker is an evaluator for those who look and make nothing.
func (p *Pipeline) looker(ctx context.Context, fsys FileSystem, offline bool, built map[string]BuiltFile) *evaluator {
	switch {
	case offline:
		fsys = nil
	case fsys == nil:
		fsys = OS{}
	}
	e := newEvaluator(ctx, p, fsys, !offline)
	e.built = built
	return e
}

// named is something that has an address and a value.
type named struct {
	module  *module
	address string
	symbol  symbol
	block   *block // nil for variables and local values
	rng     hcl.Range
}

func (n named) kind() string {
	switch n.symbol.root {
	case "var":
		return "variable"
	case "":
		return n.block.schema.Kind
	}
	return n.symbol.root
}

// everyValue lists what has a value: variables by name, all others as they stand.
func (p *Pipeline) everyValue() []named {
	_ = p.Validate() // finds the instances of modules
	var all []named
	for _, m := range p.checked.everyModule() {
		all = append(all, m.everyValue()...)
	}
	return all
}

func (m *module) everyValue() []named {
	var all []named
	for _, name := range keys(m.variables) {
		s := symbol{in: m.prefix, root: "var", name: name}
		all = append(all, named{m, s.String(), s, nil, m.variables[name].rng})
	}
	for _, name := range m.localNames {
		s := symbol{in: m.prefix, root: "local", name: name}
		all = append(all, named{m, s.String(), s, nil, m.locals[name].NameRange})
	}
	for _, kind := range language.kinds() {
		for _, b := range m.byKind[kind] {
			all = append(all, named{m, b.address(), b.symbol(), b, b.rng})
		}
	}
	for _, b := range m.others["output"] {
		all = append(all, named{m, b.address(), symbol{}, b, b.rng})
	}
	return all
}

// answers tells whether a target names an address: itself, a glob of it, something that it is part of. The quotes of keys
// may be left out, because shells take them away.
func answers(target, address string) bool {
	if matchAddress(target, address) || matchAddress(target, strings.ReplaceAll(address, `"`, "")) {
		return true
	}
	rest, ok := strings.CutPrefix(address, target)
	return ok && (rest[0] == '.' || rest[0] == '[')
}

// answersAny tells whether any of the targets names the address, or there are none, and notes which did.
func answersAny(targets []string, address string, met []bool) bool {
	hit := len(targets) == 0
	for i, t := range targets {
		if answers(t, address) {
			met[i], hit = true, true
		}
	}
	return hit
}

// chooseValues returns what may hold a target: keys are known only with the value.
func (e *evaluator) chooseValues(all []named, targets []string) []named {
	return slices.DeleteFunc(slices.Clone(all), func(n named) bool {
		return !slices.ContainsFunc(targets, func(t string) bool {
			head, _, _ := strings.Cut(t, "[")
			return answers(head, n.address) || answers(t, n.address)
		})
	})
}

// reportUnmet reports the targets that nothing answers to, with what was probably meant.
func (e *evaluator) reportUnmet(targets []string, met []bool, found []Inspected, all []named) {
	var addresses []string
	for _, n := range all {
		addresses = append(addresses, n.address)
		for _, inst := range e.blocks[n.block] {
			if inst.keyed {
				addresses = append(addresses, inst.address)
			}
		}
	}
	for i, t := range targets {
		empty := slices.ContainsFunc(all, func(n named) bool { return answers(t, n.address) }) // a for_each of nothing
		if !met[i] && !empty {
			e.report(fault("Unknown address", fmt.Sprintf("Nothing is called %s.%s", shorten(t), suggestion(t, addresses, "There are: ")), nil))
		}
	}
}

// look finds a value; a block with for_each has several.
func (e *evaluator) look(n named) []Inspected {
	one := Inspected{Address: n.address, Kind: n.kind(), File: n.rng.Filename, Line: n.rng.Start.Line}
	show := &shower{offline: e.facts == nil}
	switch {
	case n.symbol.root == "": // an output
		v, out := e.output(n.block)
		if v == cty.NilVal {
			return nil
		}
		if out.Sensitive {
			v = v.Mark(secretOf(n.address))
		}
		one.Shown = show.value(v)
		return []Inspected{one}
	case n.block == nil:
		if n.symbol.root == "var" {
			one.Origin = e.origin(n)
		}
		one.Shown = show.value(e.symbol(n.symbol, n.rng).value)
		return []Inspected{one}
	}
	if n.symbol.root == "module" {
		one.Shown = show.value(e.symbol(n.symbol, n.rng).get())
		return []Inspected{one}
	}
	e.symbol(n.symbol, n.rng)
	instances := e.blocks[n.block]
	if open := e.instances[n.address+"[…]"]; len(instances) == 0 && open != nil {
		instances = []*instance{open} // the keys are not known
	}
	value := e.referred(n.symbol)
	var found []Inspected
	for _, inst := range instances {
		object := value
		if inst.keyed {
			object = value.Index(cty.StringVal(inst.key))
		}
		if !object.Type().IsObjectType() { // no key is known
			object = cty.NilVal
		}
		one.Address = inst.address
		one.Shown = show.instance(inst, object)
		found = append(found, one)
	}
	return found
}

// origin tells where a variable was given its value; empty for its default.
func (e *evaluator) origin(n named) string {
	if g := e.pipeline.given[n.symbol.name]; g != nil && n.module.prefix == "" {
		return g.origin
	}
	if c := e.calls[n.module.prefix]; c != nil {
		if at := c.rangeOf(n.symbol.name); at != c.block.rng {
			return fmt.Sprintf("%s:%d", at.Filename, at.Start.Line)
		}
	}
	return ""
}

// referred is what a reference to a symbol sees.
func (e *evaluator) referred(s symbol) cty.Value {
	t := hcl.Traversal{hcl.TraverseRoot{Name: s.root}}
	if s.typ != "" {
		t = append(t, hcl.TraverseAttr{Name: s.typ})
	}
	t = append(t, hcl.TraverseAttr{Name: s.name})
	ctx, _ := e.contextFor([]hcl.Traversal{t}, e.scopeIn(e.pipeline.modules[s.in]))
	v, _ := t.TraverseAbs(ctx)
	return v
}

// Addresses are the addresses of the blocks of the given kinds, as far as they are known without files: of all kinds that
// have one without arguments. They are for completion, so they work on a pipeline with mistakes.
func (p *Pipeline) Addresses(kinds ...string) []string {
	var addresses []string
	for _, n := range p.everyValue() {
		if len(kinds) > 0 && !slices.Contains(kinds, n.kind()) {
			continue
		}
		keyed := false
		if p.checked != nil && n.block != nil {
			for _, inst := range p.checked.blocks[n.block] {
				if inst.keyed {
					keyed = true
					addresses = append(addresses, strings.ReplaceAll(inst.address, `"`, ""))
				}
			}
		}
		if !keyed {
			addresses = append(addresses, n.address)
		}
	}
	return addresses
}

// shower turns values into what may be seen.
type shower struct {
	offline   bool
	unknown   []string
	sensitive []string
}

const sensitiveText = "(sensitive value)"

func (s *shower) unknownText() string {
	if s.offline {
		return "(not known offline)"
	}
	return "(known after build)"
}

func (s *shower) value(v cty.Value) Shown {
	s.unknown, s.sensitive = nil, nil
	return Shown{Value: s.plain(v, ""), Unknown: s.unknown, Sensitive: s.sensitive, Text: s.text(v, 0)}
}

// withoutQuotedSecrets hides secrets in a text in which quotes changed their looks, so that a filter of output would not know
// them: nonsensitive() lets them come as far as this.
func (p *Pipeline) withoutQuotedSecrets(text string) string {
	for _, secret := range p.Secrets() {
		quoted := string(hclwrite.TokensForValue(cty.StringVal(secret)).Bytes())
		if quoted = quoted[1 : len(quoted)-1]; quoted != secret {
			text = strings.ReplaceAll(text, quoted, sensitiveText)
		}
	}
	return text
}

// plain makes what encoding/json writes as the value.
func (s *shower) plain(v cty.Value, at string) any {
	here := at
	if here == "" {
		here = "."
	}
	switch {
	case v.IsMarked():
		s.sensitive = append(s.sensitive, here)
		return nil
	case !v.IsKnown():
		s.unknown = append(s.unknown, here)
		return nil
	case v.IsNull():
		return nil
	}
	switch ty := v.Type(); {
	case ty == cty.String:
		return v.AsString()
	case ty == cty.Bool:
		return v.True()
	case ty == cty.Number:
		if v.AsBigFloat().IsInf() { // 1/0, which JSON cannot write
			return numberText(v)
		}
		return json.Number(numberText(v))
	case ty.IsMapType() || ty.IsObjectType():
		out := make(map[string]any)
		for it := v.ElementIterator(); it.Next(); {
			k, element := it.Element()
			out[k.AsString()] = s.plain(element, at+step(k.AsString()))
		}
		return out
	case v.CanIterateElements():
		out := []any{}
		for it := v.ElementIterator(); it.Next(); {
			_, element := it.Element()
			out = append(out, s.plain(element, fmt.Sprintf("%s[%d]", at, len(out))))
		}
		return out
	}
	return nil
}

// step is how a path goes on to an attribute or key.
func step(key string) string {
	if hclsyntax.ValidIdentifier(key) {
		return "." + key
	}
	return fmt.Sprintf("[%q]", key)
}

func numberText(v cty.Value) string {
	f := v.AsBigFloat()
	if n, accuracy := f.Int64(); accuracy == big.Exact { // which is much faster to write
		return strconv.FormatInt(n, 10)
	}
	return f.Text('f', -1)
}

// lineWidth is up to where lists stay on one line.
const lineWidth = 100

// text writes a value in native syntax.
func (s *shower) text(v cty.Value, indent int) string {
	switch {
	case v.IsMarked():
		return sensitiveText
	case !v.IsKnown():
		return s.unknownText()
	case v.IsNull():
		return "null"
	}
	switch ty := v.Type(); {
	case ty == cty.String:
		return string(hclwrite.TokensForValue(v).Bytes())
	case ty == cty.Bool:
		return fmt.Sprint(v.True())
	case ty == cty.Number:
		return numberText(v)
	case ty.IsSetType():
		return "toset(" + s.list(v, indent, s.text) + ")"
	case ty.IsMapType() || ty.IsObjectType():
		var items []entry
		for it := v.ElementIterator(); it.Next(); {
			k, element := it.Element()
			name := k.AsString()
			if !hclsyntax.ValidIdentifier(name) {
				name = s.text(k, 0)
			}
			items = append(items, entry{name, s.text(element, indent+1)})
		}
		return braces(items, indent)
	case v.CanIterateElements():
		return s.list(v, indent, s.text)
	}
	return v.Type().FriendlyName()
}

// list writes a list on one line if it fits, else with an element on each.
func (s *shower) list(v cty.Value, indent int, write func(cty.Value, int) string) string {
	var items []string
	for it := v.ElementIterator(); it.Next(); {
		_, element := it.Element()
		items = append(items, write(element, indent+1))
	}
	line := "[" + strings.Join(items, ", ") + "]"
	if len(line)+2*indent <= lineWidth && !strings.Contains(line, "\n") {
		return line
	}
	margin := strings.Repeat("  ", indent)
	return "[\n" + margin + "  " + strings.Join(items, ",\n"+margin+"  ") + ",\n" + margin + "]"
}

// entry is a name and the text of its value.
type entry struct{ name, text string }

func braces(items []entry, indent int) string {
	if len(items) == 0 {
		return "{}"
	}
	return "{\n" + aligned(items, indent+1) + strings.Repeat("  ", indent) + "}"
}

// aligned writes one entry on each line, with the equals signs of neighbours below each other, as fmt does.
func aligned(items []entry, indent int) string {
	var b strings.Builder
	margin := strings.Repeat("  ", indent)
	for start := 0; start < len(items); {
		end := start
		for end < len(items) && !strings.Contains(items[end].text, "\n") {
			end++
		}
		wide := 0
		for _, it := range items[start:end] {
			wide = max(wide, len(it.name))
		}
		for _, it := range items[start:end] {
			fmt.Fprintf(&b, "%s%-*s = %s\n", margin, wide, it.name, it.text)
		}
		if end < len(items) {
			fmt.Fprintf(&b, "%s%s = %s\n", margin, items[end].name, items[end].text)
			end++
		}
		start = end
	}
	return b.String()
}

// instance shows an evaluated block: its arguments, its nested blocks, and what it computes. The object is what references
// to it see, or NilVal when there is none.
func (s *shower) instance(inst *instance, object cty.Value) Shown {
	s.unknown, s.sensitive = nil, nil
	value := s.body(inst.body, object, "")
	var computed []entry
	for _, x := range inst.block.schema.Exposes {
		if object == cty.NilVal {
			break
		}
		v := object.GetAttr(x.Name)
		if _, ok := value[x.Name]; ok || !v.IsMarked() && v.IsKnown() && v.IsNull() {
			continue
		}
		value[x.Name] = s.plain(v, step(x.Name))
		text := s.text(v, 1)
		if x.Known == "server" && !v.IsKnown() {
			text = "(known from the server)"
		}
		computed = append(computed, entry{x.Name, text})
	}
	var b strings.Builder
	b.WriteString("{\n")
	b.WriteString(s.bodyText(inst.body, object, 1))
	if len(computed) > 0 {
		b.WriteString("  # computed\n")
		b.WriteString(aligned(computed, 1))
	}
	b.WriteString("}")
	return Shown{Value: value, Unknown: s.unknown, Sensitive: s.sensitive, Text: b.String()}
}

// seen is the value of an argument. What a block computes stands in place of an argument that was not given.
func (b *body) seen(name string, object cty.Value) cty.Value {
	if object != cty.NilVal && object.Type().HasAttribute(name) {
		return object.GetAttr(name)
	}
	if b.secret[name] {
		return b.values[name].Mark(secretOf(name))
	}
	return b.values[name]
}

func (s *shower) body(b *body, object cty.Value, at string) map[string]any {
	out := make(map[string]any)
	for _, a := range b.content.schemas {
		out[a.Name] = s.plain(b.seen(a.Name, object), at+step(a.Name))
	}
	for _, n := range b.nested {
		made, _ := out[n.schema.Kind].([]any)
		one := s.body(n.body, cty.NilVal, fmt.Sprintf("%s.%s[%d]", at, n.schema.Kind, len(made)))
		if len(n.schema.nestedLabels()) > 0 {
			one["labels"] = []any{n.label} // partitions have an argument called label
		}
		out[n.schema.Kind] = append(made, one)
	}
	return out
}

func (s *shower) bodyText(b *body, object cty.Value, indent int) string {
	var items []entry
	for _, a := range b.content.schemas {
		v := b.seen(a.Name, object)
		switch {
		case !v.IsMarked() && v.IsKnown() && v.IsNull():
		case len(a.Type.refs()) > 0:
			items = append(items, entry{a.Name, s.reference(v, indent)})
		default:
			items = append(items, entry{a.Name, s.text(v, indent)})
		}
	}
	var text bytes.Buffer
	text.WriteString(aligned(items, indent))
	margin := strings.Repeat("  ", indent)
	for _, n := range b.nested {
		header := n.schema.Kind
		if len(n.schema.nestedLabels()) > 0 {
			header += fmt.Sprintf(" %q", n.label)
		}
		fmt.Fprintf(&text, "%s%s {\n%s%s}\n", margin, header, s.bodyText(n.body, cty.NilVal, indent+1), margin)
	}
	if b.open {
		fmt.Fprintf(&text, "%s# and what dynamic blocks make %s\n", margin, s.unknownText())
	}
	return text.String()
}

// reference writes addresses as the language does, without quotes.
func (s *shower) reference(v cty.Value, indent int) string {
	switch {
	case v.IsMarked() || !v.IsKnown() || v.IsNull():
		return s.text(v, indent)
	case v.Type() == cty.String:
		return v.AsString()
	}
	return s.list(v, indent, s.reference)
}
