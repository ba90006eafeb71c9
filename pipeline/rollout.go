package pipeline

import (
	"encoding/json"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// What a rollout's server also checks (server/internal/rollout), told here before anything is built.
const (
	maxPattern      = 256  // bytes
	maxPatternSteps = 2000 // instructions of the compiled pattern
	maxPredicates   = 50
	maxTarget       = 100 // groups
	maxExpires      = 10 * 366 * 24 * time.Hour
	maxMatchText    = 4096
	maxMatchValues  = 1000
)

// Types of the values that attributes of devices are compared with. Both stand for values of several types, so neither
// is a list or a string of cty's.
var (
	tNumber  = &fieldType{name: "number", cty: cty.Number, convert: convertTo(cty.Number)}
	tScalar  = &fieldType{name: "text or number", cty: cty.DynamicPseudoType, convert: convertScalar}
	tScalars = &fieldType{name: "list(text or number)", cty: cty.DynamicPseudoType, convert: convertScalars}
)

func convertScalar(_ refResolver, v cty.Value) (cty.Value, *problem) {
	if ty := v.Type(); ty != cty.String && ty != cty.Number {
		return cty.NilVal, wrongType("A text or a number is needed here, not %s.", describe(v))
	}
	if v.Type() == cty.String && len(v.AsString()) > maxMatchText {
		return cty.NilVal, wrong("The text is longer than %d bytes.", maxMatchText)
	}
	return v, nil
}

func convertScalars(r refResolver, v cty.Value) (cty.Value, *problem) {
	if ty := v.Type(); !ty.IsTupleType() && !ty.IsListType() && !ty.IsSetType() {
		return cty.NilVal, wrongType("A list is needed here, not %s.", describe(v))
	}
	var out []cty.Value
	for it := v.ElementIterator(); it.Next(); {
		_, element := it.Element()
		c, p := convertElement(r, tScalar, element)
		if p != nil {
			p.index = len(out)
			return cty.NilVal, p
		}
		out = append(out, c)
	}
	if len(out) > maxMatchValues {
		return cty.NilVal, wrong("The list has %d values; %d are allowed.", len(out), maxMatchValues)
	}
	return cty.TupleVal(out), nil
}

func checkPattern(v cty.Value) string {
	text := v.AsString()
	if text == "" || len(text) > maxPattern {
		return fmt.Sprintf("must have 1 to %d bytes", maxPattern)
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return "is no regular expression of RE2's syntax: " + strings.TrimPrefix(err.Error(), "error parsing regexp: ")
	}
	if program, err := syntax.Compile(tree.Simplify()); err != nil || len(program.Inst) > maxPatternSteps {
		return "repeats too much; devices ask often, and each time it is matched"
	}
	return ""
}

func checkExpires(v cty.Value) string {
	if d, err := parseDuration(v.AsString()); err != nil || d < time.Minute || d > maxExpires {
		return "must lie between a minute and ten years"
	}
	return ""
}

var weekdays = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

func checkDays(v cty.Value) string {
	if p := notEmpty(v); p != "" {
		return p
	}
	seen := make(map[string]bool)
	for it := v.ElementIterator(); it.Next(); {
		_, day := it.Element()
		if !day.IsKnown() {
			continue
		}
		name := day.AsString()
		if !slices.Contains(weekdays, name) {
			return fmt.Sprintf("holds %q.%s", shorten(name), strings.TrimSuffix(suggestion(name, weekdays, "The days are "), "."))
		}
		if seen[name] {
			return "holds " + name + " twice"
		}
		seen[name] = true
	}
	return ""
}

var clockTime = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]$`)

func checkFrom(v cty.Value) string {
	if !clockTime.MatchString(v.AsString()) {
		return "must be a time of the day such as \"22:30\""
	}
	return ""
}

func checkTo(v cty.Value) string {
	if v.AsString() == "24:00" {
		return ""
	}
	return checkFrom(v)
}

// zoneName bounds names of zones before they become paths below the time zone database.
var zoneName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$`)

func checkZone(v cty.Value) string {
	name := v.AsString()
	if len(name) > 64 || name == "Local" || !zoneName.MatchString(name) {
		return "must be the name of a time zone such as \"Europe/Berlin\""
	}
	if _, err := time.LoadLocation(name); err != nil {
		return fmt.Sprintf("is %q, which is not in the IANA time zone database; names look like \"Europe/Berlin\"", name)
	}
	return ""
}

// computeTarget reads who takes part.
func (e *evaluator) computeTarget(r *Rollout, n *nestedBody) {
	b := n.body
	r.Groups, r.ExcludeGroups = b.texts("groups"), b.texts("exclude_groups")
	if b.unset("groups") && b.unset("exclude_groups") && len(b.all("match")) == 0 && !b.open && !b.content.incomplete {
		e.report(fault("Empty target", "A target needs groups, exclude_groups or match; without a target every device that the artifacts fit takes part.", n.rng.Ptr()))
	}
	for _, name := range []string{"groups", "exclude_groups"} {
		if len(b.texts(name)) > maxTarget {
			e.report(fault("Too many groups", fmt.Sprintf("A target can name %d groups.", maxTarget), b.rangeOf(name)))
		}
	}
	for i, g := range r.ExcludeGroups {
		if contains(r.Groups, g) {
			e.report(fault("Group is in and out", fmt.Sprintf("The group %s is both in groups and in exclude_groups.", g),
				elementRange(b.content.attrs["exclude_groups"].Expr, &problem{index: i}).Ptr()))
		}
	}
	for _, m := range b.all("match") {
		r.Match = append(r.Match, e.computeMatch(m)...)
	}
	if len(r.Match) > maxPredicates {
		e.report(fault("Too many conditions", fmt.Sprintf("A target can have %d conditions; this one has %d.", maxPredicates, len(r.Match)), n.rng.Ptr()))
	}
}

var matchScopes = []string{"inventory", "identity", "system"}

// predicates are the arguments of a match by Mender's names, in the order in which they are written down.
var predicates = []struct{ argument, kind string }{
	{"exists", "$exists"}, {"equals", "$eq"}, {"not", "$ne"}, {"in", "$in"}, {"min", "$gte"}, {"max", "$lte"}, {"pattern", "$regex"},
}

// computeMatch turns a match into Mender's predicates.
func (e *evaluator) computeMatch(n *nestedBody) []Predicate {
	scope, key, ok := strings.Cut(n.label, ".")
	if !ok || key == "" || !slices.Contains(matchScopes, scope) {
		e.report(fault("Wrong attribute", fmt.Sprintf("%q is not SCOPE.KEY with one of the scopes inventory, identity and system, such as inventory.region.", shorten(n.label)), n.labelRng.Ptr()))
		return nil
	}
	var out []Predicate
	set := false
	for _, p := range predicates {
		set = set || !n.body.unset(p.argument)
		v := n.body.values[p.argument]
		if v == cty.NilVal || v.IsNull() || !v.IsWhollyKnown() {
			continue
		}
		if v.Type().IsTupleType() && v.LengthInt() == 0 {
			continue // reported
		}
		value, err := ctyjson.Marshal(v, v.Type())
		if err != nil {
			e.report(fault("Wrong value", fmt.Sprintf("The value of %s cannot be written as JSON.", p.argument), n.body.rangeOf(p.argument)))
			continue
		}
		out = append(out, Predicate{Scope: scope, Attribute: key, Type: p.kind, Value: json.RawMessage(value)})
	}
	if !set && !n.body.content.incomplete {
		e.report(fault("Empty match", "A match needs at least one of equals, not, in, min, max, exists and pattern.", n.rng.Ptr()))
	}
	e.checkContradiction(n)
	return out
}

// checkContradiction finds conditions that no value meets: whoever writes them means something else, and gets a rollout
// that reaches nobody.
func (e *evaluator) checkContradiction(n *nestedBody) {
	b := n.body
	clash := func(at, format string, args ...any) {
		e.report(fault("Condition that nothing meets", fmt.Sprintf(format, args...), b.rangeOf(at)))
	}
	if b.has("exists") && !b.flag("exists") {
		for _, name := range []string{"equals", "in", "min", "max", "pattern"} {
			if !b.unset(name) {
				clash("exists", "A device without the attribute has no value for %s.", name)
				return
			}
		}
	}
	if b.has("min") && b.has("max") && b.values["min"].AsBigFloat().Cmp(b.values["max"].AsBigFloat()) > 0 {
		clash("max", "No number is at least %s and at most %s.", shownScalar(b.values["min"]), shownScalar(b.values["max"]))
		return
	}
	if b.has("equals") && b.has("not") && b.values["equals"].RawEquals(b.values["not"]) {
		clash("not", "No value is %[1]s and is not %[1]s.", shownScalar(b.values["equals"]))
		return
	}
	var wanted []cty.Value
	at := "equals"
	switch {
	case b.has("equals") && b.has("in"):
		clash("in", "equals names the only value, so in has no meaning; use one of them.")
		return
	case b.has("equals"):
		wanted = []cty.Value{b.values["equals"]}
	case b.has("in") && b.values["in"].IsWhollyKnown():
		wanted, at = b.values["in"].AsValueSlice(), "in"
	default:
		return
	}
	if !slices.ContainsFunc(wanted, b.within) {
		clash(at, "Nothing of it lies within the other conditions.")
	}
}

// within tells whether a value may meet the bounds and the pattern.
func (b *body) within(v cty.Value) bool {
	if v.Type() == cty.Number {
		n := v.AsBigFloat()
		if b.has("min") && n.Cmp(b.values["min"].AsBigFloat()) < 0 || b.has("max") && n.Cmp(b.values["max"].AsBigFloat()) > 0 {
			return false
		}
	}
	if v.Type() == cty.String && b.has("pattern") {
		if re, err := regexp.Compile(b.text("pattern")); err == nil && !re.MatchString(v.AsString()) {
			return false
		}
	}
	return true
}

func shownScalar(v cty.Value) string {
	if v.Type() == cty.Number {
		return v.AsBigFloat().Text('g', 10)
	}
	return fmt.Sprintf("%q", shorten(v.AsString()))
}

// computeWindow reads when devices may begin.
func (e *evaluator) computeWindow(r *Rollout, n *nestedBody) {
	b := n.body
	r.Window = &Window{Days: b.texts("days"), From: b.text("from"), To: b.text("to"), Timezone: b.text("timezone")}
	report := func(detail string, at *hcl.Range) { e.report(fault("Wrong window", detail, at)) }
	switch {
	case b.content.incomplete:
	case b.unset("days") && b.unset("from") && b.unset("to"):
		report("A window needs days, or from and to, or both.", n.rng.Ptr())
	case b.unset("from") != b.unset("to"):
		report("from and to go together.", n.rng.Ptr())
	case b.has("from") && b.text("from") == b.text("to"):
		report("from and to are the same time; leave both out for whole days.", b.rangeOf("to"))
	}
}

// deploymentValues are what a rollout exposes of its server, when it was asked.
func (e *evaluator) deploymentValues(address string) map[string]cty.Value {
	out := map[string]cty.Value{"deployment_id": cty.UnknownVal(cty.String), "status": cty.UnknownVal(cty.String)}
	if d, ok := e.deployments[address]; ok {
		out["deployment_id"], out["status"] = cty.NullVal(cty.String), cty.StringVal(d.Status)
		if d.ID != "" {
			out["deployment_id"] = cty.StringVal(d.ID)
		}
	}
	return out
}
