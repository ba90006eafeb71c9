package pipeline

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// payFor takes the steps of a function's call: for its arguments, and for what it could make of them.
func (p *Pipeline) payFor(name string, args []cty.Value) error {
	total := 0
	for i, a := range args {
		size, reason := valueSize(a)
		if reason != "" {
			return function.NewArgErrorf(i, "it is too large")
		}
		total += size
	}
	if cost := costs[name]; cost != nil {
		more := cost(plainArgs(args))
		if more > maxInputSize {
			p.effort.take(more / bytesPerStep) // as if it were done: a loop would ask again and again
			return errors.New("the result could become too large")
		}
		total += more
	}
	if !p.effort.take(1 + total/bytesPerStep) {
		return errors.New("the pipeline takes too many steps")
	}
	return nil
}

// costs are bytes of work and result beyond those of the arguments, at most, of functions that can make much of little.
var costs = map[string]func(a plainArgs) int{
	"format":     func(a plainArgs) int { return a.verbs() * (a.size(1) + a.width()) },
	"formatlist": func(a plainArgs) int { return a.verbs() * (a.size(1) + a.longest(1)*(a.scalars(1)+a.width())) },
	"indent":     func(a plainArgs) int { return strings.Count(a.text(1), "\n") * 1_000 },
	"join":       func(a plainArgs) int { return len(a.text(0)) * a.count(1) },
	"split":      func(a plainArgs) int { return 64 * strings.Count(a.text(1), a.text(0)) },
	"regexall":   func(a plainArgs) int { return len(a.text(1)) * (64 + len(a.text(0))/8) },
	"regex":      func(a plainArgs) int { return len(a.text(1)) * len(a.text(0)) / 8 },
	"jsondecode": func(a plainArgs) int { return 128 * elementsOf(a.text(0), ",[{") },
	"yamldecode": func(a plainArgs) int { return 256 * elementsOf(a.text(0), ",[{:-*\n") },
	"csvdecode":  func(a plainArgs) int { return 64 * elementsOf(a.text(0), ",\n") },
	"toset":      hashing, "setunion": hashing, "setintersection": hashing, "setsubtract": hashing,
	"distinct":       func(a plainArgs) int { return a.count(0) * 10 * bytesPerStep },
	"templatestring": func(a plainArgs) int { return 16 * len(a.text(0)) },
}

// hashing is what finding equal elements takes; sets are also sorted whenever they are looked through.
func hashing(a plainArgs) int { return a.count(0) * 100 * bytesPerStep }

func elementsOf(text, marks string) int {
	n := 0
	for _, mark := range marks {
		n += strings.Count(text, string(mark))
	}
	return n
}

// plainArgs reads arguments that may be anything; what is not a known text, or missing, reads as nothing.
type plainArgs []cty.Value

func (a plainArgs) text(i int) string {
	if i >= len(a) {
		return ""
	}
	v, _ := a[i].Unmark()
	if v.Type() != cty.String || v.IsNull() || !v.IsKnown() {
		return ""
	}
	return v.AsString()
}

// size is that of the arguments from i.
func (a plainArgs) size(i int) (total int) {
	for _, v := range a[min(i, len(a)):] {
		size, _ := valueSize(v)
		total += size
	}
	return total
}

// scalars is the size of those that are no lists.
func (a plainArgs) scalars(i int) (total int) {
	for _, v := range a[min(i, len(a)):] {
		if elements(v) == 0 {
			size, _ := valueSize(v)
			total += size
		}
	}
	return total
}

// count is how many elements the lists from i have.
func (a plainArgs) count(i int) (total int) {
	for _, v := range a[min(i, len(a)):] {
		total += elements(v)
	}
	return total
}

func (a plainArgs) longest(i int) (most int) {
	for _, v := range a[min(i, len(a)):] {
		most = max(most, elements(v))
	}
	return most
}

func (a plainArgs) verbs() int { return strings.Count(a.text(0), "%") }

var widths = regexp.MustCompile(`[0-9]+`)

// width is the largest number in a format.
func (a plainArgs) width() (most int) {
	for _, digits := range widths.FindAllString(a.text(0), -1) {
		n, err := strconv.Atoi(digits)
		if err != nil {
			n = maxInputSize
		}
		most = max(most, n)
	}
	return most
}

// conversions are the functions whose parameters take anything, and what it is made into.
var conversions = map[string]cty.Type{
	"tolist": cty.List(cty.DynamicPseudoType), "toset": cty.Set(cty.DynamicPseudoType), "tomap": cty.Map(cty.DynamicPseudoType),
}

// maxTypes is how many types the elements of one list can have, of which one is made.
const maxTypes = 100

// oneType is the type that all the values can have. cty takes the square of the number of types that it is given, so it is
// given each once.
func oneType(values []cty.Value) (cty.Type, error) {
	var types []cty.Type
	for _, v := range values {
		ty := v.Type()
		if ty == cty.DynamicPseudoType && v.IsKnown() || slices.ContainsFunc(types, ty.Equals) { // null fits everywhere
			continue
		}
		if types = append(types, ty); len(types) > maxTypes {
			return cty.NilType, fmt.Errorf("the elements have more than %d different types", maxTypes)
		}
	}
	if len(types) == 0 {
		return cty.DynamicPseudoType, nil
	}
	ty, _ := convert.UnifyUnsafe(types)
	if ty == cty.NilType {
		return cty.NilType, errors.New("the elements have no type in common")
	}
	return ty, nil
}

// unifyInto is convert.Convert, except that it finds the type of many elements in linear time.
func unifyInto(v cty.Value, want cty.Type) (cty.Value, error) {
	v, marks := v.Unmark()
	same, err := unified(v, want)
	if err == nil && hasForm(same.Type(), want) { // conversion would copy it
		return same.WithMarks(marks), nil
	}
	if err == nil {
		v, err = convert.Convert(same, want)
	}
	if err != nil {
		return cty.NilVal, err
	}
	return v.WithMarks(marks), nil
}

// hasForm tells whether a type is what a collection of any type stands for.
func hasForm(ty, want cty.Type) bool {
	return want.IsCollectionType() && want.ElementType() == cty.DynamicPseudoType &&
		(ty.IsListType() && want.IsListType() || ty.IsSetType() && want.IsSetType() || ty.IsMapType() && want.IsMapType())
}

// unified gives the elements of a value one type, where a collection of any type is wanted.
func unified(v cty.Value, want cty.Type) (cty.Value, error) {
	isMap := want.IsMapType() && v.Type().IsObjectType()
	isList := (want.IsListType() || want.IsSetType()) && v.Type().IsTupleType()
	if v.IsNull() || !v.IsKnown() || !isMap && !isList || !want.HasDynamicTypes() || v.LengthInt() == 0 {
		return v, nil
	}
	var names []string
	var elems []cty.Value
	for it := v.ElementIterator(); it.Next(); {
		k, e := it.Element()
		e, err := unifyInto(e, want.ElementType())
		if err != nil {
			return cty.NilVal, err
		}
		elems = append(elems, e)
		if isMap {
			names = append(names, k.AsString())
		}
	}
	one, err := oneType(elems)
	const few = 500
	switch {
	case err != nil:
		return cty.NilVal, err
	case !one.HasDynamicTypes():
	case len(elems) <= few: // an element is not known, nor what it will be; or all are null
		return v, nil
	default:
		return cty.UnknownVal(want), nil
	}
	for i, e := range elems {
		if elems[i], err = convert.Convert(e, one); err != nil {
			return cty.NilVal, err
		}
	}
	switch {
	case isMap:
		all := make(map[string]cty.Value, len(elems))
		for i, name := range names {
			all[name] = elems[i]
		}
		return cty.MapVal(all), nil
	case want.IsSetType():
		return cty.SetVal(elems), nil
	}
	return cty.ListVal(elems), nil
}

// buckets finds values among many.
type buckets map[int][]cty.Value

func newBuckets() buckets { return make(buckets) }

func (b buckets) has(v cty.Value) bool { return slices.ContainsFunc(b[v.Hash()], v.RawEquals) }

// add tells whether the value is new.
func (b buckets) add(v cty.Value) bool {
	hash := v.Hash()
	if slices.ContainsFunc(b[hash], v.RawEquals) {
		return false
	}
	b[hash] = append(b[hash], v)
	return true
}

// distinctFunc is stdlib's, which compares each element with all before it.
var distinctFunc = function.New(&function.Spec{
	Params: stdlib.DistinctFunc.Params(),
	Type:   func(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil },
	Impl: func(args []cty.Value, ty cty.Type) (cty.Value, error) {
		if !args[0].IsWhollyKnown() {
			return cty.UnknownVal(ty), nil
		}
		seen := newBuckets()
		out := slices.DeleteFunc(args[0].AsValueSlice(), func(v cty.Value) bool { return !seen.add(v) })
		if len(out) == 0 {
			return cty.ListValEmpty(ty.ElementType()), nil
		}
		return cty.ListVal(out), nil
	},
})

// setUnionFunc is stdlib's, which copies all it has with each further set.
var setUnionFunc = function.New(&function.Spec{
	Params:   stdlib.SetUnionFunc.Params(),
	VarParam: stdlib.SetUnionFunc.VarParam(),
	Type: func(args []cty.Value) (cty.Type, error) {
		var differ []cty.Value // by type
		for _, a := range args {
			if !slices.ContainsFunc(differ, func(b cty.Value) bool { return a.Type().Equals(b.Type()) }) {
				differ = append(differ, a)
			}
		}
		if len(differ) > maxTypes {
			return cty.NilType, fmt.Errorf("the sets have more than %d different types", maxTypes)
		}
		return stdlib.SetUnionFunc.ReturnTypeForValues(differ)
	},
	Impl: func(args []cty.Value, ty cty.Type) (cty.Value, error) {
		for len(args) > 1 { // in pairs, so that each element is copied few times
			var next []cty.Value
			for pair := range slices.Chunk(args, 2) {
				union, err := stdlib.SetUnionFunc.Call(pair)
				if err != nil {
					return cty.NilVal, err
				}
				next = append(next, union)
			}
			args = next
		}
		return convert.Convert(args[0], ty)
	},
})
