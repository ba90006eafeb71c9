package rollout

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

func predicateOf(kind, value string) menderapi.Predicate {
	return menderapi.Predicate{Scope: "inventory", Attribute: "x", Type: kind, Value: json.RawMessage(value)}
}

func TestFilter(t *testing.T) {
	for name, c := range map[string]struct {
		kind, value string
		matches     []string
		others      []string // "" stands for no attribute
	}{
		"text":             {"$eq", `"eu"`, []string{`"eu"`, `["us","eu"]`}, []string{`"EU"`, `"eu-1"`, `1`, ``, `[]`}},
		"number":           {"$eq", `40`, []string{`40`, `40.0`, `"40"`, `"4e1"`, `[1,40]`}, []string{`"40 "`, `41`, `"x"`, ``, `"Inf"`}},
		"text of a number": {"$eq", `"40"`, []string{`"40"`, `40`, `40.0`}, []string{`"40.0"`, `"4e1"`}},
		"not":              {"$ne", `"eu"`, []string{`"us"`, `1`, ``, `["us"]`}, []string{`"eu"`, `["us","eu"]`}},
		"not a number":     {"$ne", `1`, []string{`2`, `"x"`, ``}, []string{`1`, `"1"`}},
		"in":               {"$in", `["eu",7]`, []string{`"eu"`, `7`, `"7"`, `["x","eu"]`}, []string{`"us"`, `8`, ``}},
		"at least":         {"$gte", `40`, []string{`40`, `100`, `"100"`, `[1,50]`}, []string{`39.9`, `"9"`, `"many"`, ``}},
		"at most":          {"$lte", `-1.5`, []string{`-1.5`, `"-2"`}, []string{`-1`, `"0x10"`, `"nan"`, ``}},
		"exists":           {"$exists", `true`, []string{`""`, `0`, `[]`}, []string{``}},
		"exists not":       {"$exists", `false`, []string{``}, []string{`0`}},
		"pattern":          {"$regex", `"^rpi[0-9]+$"`, []string{`"rpi4"`, `["x","rpi5"]`}, []string{`"rpi"`, `"my rpi4"`, `4`, ``}},
		"pattern anywhere": {"$regex", `"pi"`, []string{`"rpi4"`}, []string{`"x"`}},
		"pattern of digits": {
			"$regex", `"^[0-9]+$"`,
			[]string{`12`, `"12"`},
			[]string{`1.5`, `"` + strings.Repeat("1", maxFilterText+1) + `"`},
		},
	} {
		f, err := NewFilter(menderapi.Policy{Filter: []menderapi.Predicate{predicateOf(c.kind, c.value)}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for want, values := range map[bool][]string{true: c.matches, false: c.others} {
			for _, v := range values {
				facts := Facts{}
				if v != "" {
					facts[Attribute{"inventory", "x"}] = json.RawMessage(v)
				}
				if got := f.Match("", facts); got != want {
					t.Errorf("%s: %s %s of %q is %v", name, c.kind, c.value, v, got)
				}
			}
		}
	}
}

func TestFilterOfGroups(t *testing.T) {
	for name, c := range map[string]struct {
		policy menderapi.Policy
		group  string
		want   bool
	}{
		"no groups":         {menderapi.Policy{}, "", true},
		"in":                {menderapi.Policy{Groups: []string{"a"}}, "a", true},
		"not in":            {menderapi.Policy{Groups: []string{"a"}}, "b", false},
		"of no group":       {menderapi.Policy{Groups: []string{""}}, "", false},
		"excluded":          {menderapi.Policy{ExcludeGroups: []string{"a"}}, "a", false},
		"not excluded":      {menderapi.Policy{ExcludeGroups: []string{"a"}}, "", true},
		"a predicate fails": {menderapi.Policy{Groups: []string{"a"}, Filter: []menderapi.Predicate{predicateOf("$exists", "true")}}, "a", false},
	} {
		f, err := NewFilter(c.policy)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Match(c.group, nil); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestFilterRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		predicate menderapi.Predicate
		text      string
	}{
		"scope":              {menderapi.Predicate{Scope: "tags", Attribute: "x", Type: "$eq", Value: json.RawMessage(`1`)}, `scope of a predicate is "tags"`},
		"attribute":          {menderapi.Predicate{Scope: "inventory", Type: "$eq", Value: json.RawMessage(`1`)}, "must name an attribute"},
		"type":               {predicateOf("$gt", "1"), `"$gt"`},
		"no value":           {predicateOf("$eq", ""), "has no value"},
		"not JSON":           {predicateOf("$eq", "x"), "has no value"},
		"equal to a list":    {predicateOf("$eq", "[1]"), "a text or a number"},
		"not a bool":         {predicateOf("$ne", "true"), "a text or a number"},
		"in a text":          {predicateOf("$in", `"a"`), "a list"},
		"in nothing":         {predicateOf("$in", `[]`), "a list"},
		"in lists":           {predicateOf("$in", `[[1]]`), "a list"},
		"in too much":        {predicateOf("$in", "[1"+strings.Repeat(",1", maxValues)+"]"), "a list"},
		"bound is a text":    {predicateOf("$gte", `"1"`), "a number"},
		"exists is a text":   {predicateOf("$exists", `"yes"`), "true or false"},
		"pattern is broken":  {predicateOf("$regex", `"("`), "not a regular expression"},
		"pattern is empty":   {predicateOf("$regex", `""`), "1 to 256"},
		"pattern is long":    {predicateOf("$regex", `"`+strings.Repeat("a", maxPattern+1)+`"`), "1 to 256"},
		"pattern is perl's":  {predicateOf("$regex", `"(?=a)"`), "RE2"},
		"pattern repeats":    {predicateOf("$regex", `"(a{100}){9}(a{100}){9}(a{100}){9}"`), "repeats too much"},
		"pattern is classes": {predicateOf("$regex", `"`+strings.Repeat(`\\pL{1000}`, 20)+`"`), "repeats too much"},
	} {
		_, err := NewFilter(menderapi.Policy{Filter: []menderapi.Predicate{c.predicate}})
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", name, err, c.text)
		}
	}
	if _, err := NewFilter(menderapi.Policy{Filter: make([]menderapi.Predicate, MaxPredicates+1)}); err == nil {
		t.Error("too many predicates: no error")
	}
}

// FuzzFilter: whatever a policy and a device say, there is an answer.
func FuzzFilter(f *testing.F) {
	for _, kind := range []string{"$eq", "$ne", "$in", "$gte", "$lte", "$exists", "$regex"} {
		f.Add(kind, `"a"`, `["a",1]`)
		f.Add(kind, `1`, `"1"`)
	}
	f.Add("$in", `["a",1]`, `"1e999"`)
	f.Fuzz(func(t *testing.T, kind, value, attribute string) {
		filter, err := NewFilter(menderapi.Policy{Filter: []menderapi.Predicate{predicateOf(kind, value)}})
		if err != nil {
			return
		}
		with := filter.Match("", Facts{Attribute{"inventory", "x"}: json.RawMessage(attribute)})
		without := filter.Match("", nil)
		if kind == "$exists" && with == without {
			t.Errorf("%s of %q is %v with and without the attribute", value, attribute, with)
		}
	})
}
