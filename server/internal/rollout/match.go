package rollout

import (
	"encoding/json"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// Limits of a filter. A poll of every device may evaluate it, so its work is bounded: patterns are RE2, whose time grows
// with the length of the pattern's program times that of the text, and both have a limit.
const (
	MaxPredicates   = 50
	maxValues       = 1000 // of $in
	maxFilterText   = 4096 // bytes of a value or of an attribute's name
	maxPattern      = 256  // bytes
	maxPatternSteps = 2000 // instructions of the compiled pattern
)

// Scopes of attributes that a filter may name.
var filterScopes = []string{"inventory", "identity", "system"}

// Attribute names an attribute of a device.
type Attribute struct{ Scope, Name string }

// Facts are the attributes of a device, as JSON: a text, a number, or a list of either.
type Facts map[Attribute]json.RawMessage

// Filter says which devices take part: the groups of a policy and its predicates.
type Filter struct {
	groups, exclude []string
	predicates      []predicate
}

// predicate is a compiled menderapi.Predicate.
type predicate struct {
	attribute Attribute
	holds     func(value json.RawMessage, exists bool) bool
}

// NewFilter compiles the part of a policy that chooses devices. What is wrong with it is a *PolicyError.
func NewFilter(p menderapi.Policy) (*Filter, error) {
	if len(p.Filter) > MaxPredicates {
		return nil, bad("more than %d predicates in the filter", MaxPredicates)
	}
	f := &Filter{groups: p.Groups, exclude: p.ExcludeGroups}
	for _, given := range p.Filter {
		compiled, err := compile(given)
		if err != nil {
			return nil, err
		}
		f.predicates = append(f.predicates, compiled)
	}
	return f, nil
}

// Attributes are the ones that Match looks at.
func (f *Filter) Attributes() []Attribute {
	var list []Attribute
	for _, p := range f.predicates {
		if !slices.Contains(list, p.attribute) {
			list = append(list, p.attribute)
		}
	}
	return list
}

// InGroups tells whether devices of a group take part, as far as the group decides.
func (f *Filter) InGroups(group string) bool {
	if group != "" && slices.Contains(f.exclude, group) {
		return false
	}
	return len(f.groups) == 0 || group != "" && slices.Contains(f.groups, group)
}

// Match tells whether a device takes part: its group, and all predicates.
func (f *Filter) Match(group string, facts Facts) bool {
	if !f.InGroups(group) {
		return false
	}
	for _, p := range f.predicates {
		value, exists := facts[p.attribute]
		if !p.holds(value, exists) {
			return false
		}
	}
	return true
}

// compilers make the test of each type of predicate from its value.
var compilers = map[string]func(value any) (func(json.RawMessage, bool) bool, string){
	menderapi.PredicateEqual: func(want any) (func(json.RawMessage, bool) bool, string) {
		if !isScalar(want) {
			return nil, "must be a text or a number"
		}
		return func(v json.RawMessage, _ bool) bool { return anyOf(v, equalTo(want)) }, ""
	},
	menderapi.PredicateNotEqual: func(want any) (func(json.RawMessage, bool) bool, string) {
		if !isScalar(want) {
			return nil, "must be a text or a number"
		}
		return func(v json.RawMessage, _ bool) bool { return !anyOf(v, equalTo(want)) }, ""
	},
	menderapi.PredicateIn: func(want any) (func(json.RawMessage, bool) bool, string) {
		list, ok := want.([]any)
		if !ok || len(list) == 0 || len(list) > maxValues || slices.ContainsFunc(list, func(v any) bool { return !isScalar(v) }) {
			return nil, "must be a list of 1 to " + strconv.Itoa(maxValues) + " texts and numbers"
		}
		return func(v json.RawMessage, _ bool) bool {
			return anyOf(v, func(have any) bool {
				return slices.ContainsFunc(list, func(w any) bool { return equalTo(w)(have) })
			})
		}, ""
	},
	menderapi.PredicateAtLeast: bound(func(have, limit float64) bool { return have >= limit }),
	menderapi.PredicateAtMost:  bound(func(have, limit float64) bool { return have <= limit }),
	menderapi.PredicateExists: func(want any) (func(json.RawMessage, bool) bool, string) {
		wanted, ok := want.(bool)
		if !ok {
			return nil, "must be true or false"
		}
		return func(_ json.RawMessage, exists bool) bool { return exists == wanted }, ""
	},
	menderapi.PredicateMatches: func(want any) (func(json.RawMessage, bool) bool, string) {
		text, ok := want.(string)
		if !ok {
			return nil, "must be a regular expression"
		}
		re, reason := compilePattern(text)
		if reason != "" {
			return nil, reason
		}
		return func(v json.RawMessage, _ bool) bool {
			return anyOf(v, func(have any) bool {
				text := textOf(have)
				return len(text) <= maxFilterText && re.MatchString(text)
			})
		}, ""
	},
}

func bound(within func(have, limit float64) bool) func(any) (func(json.RawMessage, bool) bool, string) {
	return func(want any) (func(json.RawMessage, bool) bool, string) {
		limit, ok := want.(float64)
		if !ok {
			return nil, "must be a number"
		}
		return func(v json.RawMessage, _ bool) bool {
			return anyOf(v, func(have any) bool {
				n, ok := numberOf(have)
				return ok && within(n, limit)
			})
		}, ""
	}
}

func compile(p menderapi.Predicate) (predicate, error) {
	if !slices.Contains(filterScopes, p.Scope) {
		return predicate{}, bad("the scope of a predicate is %q; it must be inventory, identity or system", clip(p.Scope))
	}
	if p.Attribute == "" || len(p.Attribute) > maxFilterText {
		return predicate{}, bad("a predicate must name an attribute in 1 to %d bytes", maxFilterText)
	}
	compiler := compilers[p.Type]
	if compiler == nil {
		return predicate{}, bad("the type of a predicate is %q; it must be $eq, $ne, $in, $gte, $lte, $exists or $regex", clip(p.Type))
	}
	var value any
	if err := json.Unmarshal(p.Value, &value); err != nil {
		return predicate{}, bad("the predicate of %s.%s has no value", p.Scope, clip(p.Attribute))
	}
	holds, reason := compiler(value)
	if reason != "" {
		return predicate{}, bad("the value of %s for %s.%s %s", p.Type, p.Scope, clip(p.Attribute), reason)
	}
	return predicate{Attribute{p.Scope, p.Attribute}, holds}, nil
}

// compilePattern refuses what would take long, or tells what is wrong with the pattern.
func compilePattern(text string) (*regexp.Regexp, string) {
	if text == "" || len(text) > maxPattern {
		return nil, "must be a regular expression of 1 to " + strconv.Itoa(maxPattern) + " bytes"
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, "is not a regular expression of RE2's syntax"
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil || len(program.Inst) > maxPatternSteps {
		return nil, "repeats too much"
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, "is not a regular expression of RE2's syntax"
	}
	return re, ""
}

func clip(s string) string { return s[:min(len(s), 64)] }

func isScalar(v any) bool {
	switch v := v.(type) {
	case string:
		return len(v) <= maxFilterText
	case float64:
		return true
	}
	return false
}

// anyOf tests an attribute's value, or each of its values where it is a list: a predicate on a list is met by one element,
// as in Mender.
func anyOf(raw json.RawMessage, test func(have any) bool) bool {
	var value any
	if len(raw) == 0 || json.Unmarshal(raw, &value) != nil {
		return false
	}
	if list, ok := value.([]any); ok {
		return slices.ContainsFunc(list, test)
	}
	return test(value)
}

// equalTo compares numbers as numbers. Most inventory scripts know only texts, so the text of a number is that number where
// a number is wanted; and a number equals the text that is wanted when that is its text.
func equalTo(want any) func(have any) bool {
	return func(have any) bool {
		if limit, ok := want.(float64); ok {
			n, ok := numberOf(have)
			return ok && n == limit
		}
		return want == textOf(have)
	}
}

func textOf(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}

// numberOf reads a number, or a decimal text of one.
func numberOf(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case string:
		if v == "" || len(v) > 64 || strings.Trim(v, "0123456789+-.eE") != "" {
			return 0, false
		}
		n, err := strconv.ParseFloat(v, 64)
		return n, err == nil && !math.IsInf(n, 0)
	}
	return 0, false
}
