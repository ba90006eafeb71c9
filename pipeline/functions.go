package pipeline

import (
	"crypto/md5"  //nolint:gosec // the pipeline's author chooses
	"crypto/sha1" //nolint:gosec // the pipeline's author chooses
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"math"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/Masterminds/semver/v3"
	"github.com/bmatcuk/doublestar/v4"
	"github.com/google/uuid"
	goversion "github.com/hashicorp/go-version"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/customdecode"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	ctyyaml "github.com/zclconf/go-cty-yaml"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	"github.com/zclconf/go-cty/cty/gocty"
)

// functionTable makes the functions of expressions, as they can be given to anybody.
func functionTable(p *Pipeline, f *facts) map[string]function.Function {
	table := plainFunctions(p, f)
	for name, fn := range table {
		table[name] = guard(p, name, fn)
	}
	// These handle marks and expressions themselves.
	table["sensitive"], table["nonsensitive"], table["issensitive"] = sensitiveFunction(p), nonsensitiveFunc, isSensitiveFunc
	table["try"], table["can"] = tryFunc, tryfunc.CanFunc
	pure := maps.Clone(table)
	table["templatestring"] = guard(p, "templatestring", templateFunc(p, "template", func(src string) (string, string, bool, error) { return src, "template", true, nil }, pure))
	table["templatefile"] = guard(p, "templatefile", templateFunc(p, "path", func(name string) (string, string, bool, error) {
		if f == nil || f.pending(name) {
			return "", "", false, nil
		}
		data, err := f.read(name, maxFileSize)
		return string(data), name, true, err
	}, pure))
	return table
}

// plainFunctions are the pure core that users of Terraform know, by the same names, and a few of our own. Nothing in it depends
// on time, chance or the network, so equal inputs make equal plans. The functions that read files return unknown values while
// f is nil.
func plainFunctions(p *Pipeline, f *facts) map[string]function.Function {
	table := map[string]function.Function{
		"abs": stdlib.AbsoluteFunc, "ceil": stdlib.CeilFunc, "floor": stdlib.FloorFunc, "log": logFunc, "max": stdlib.MaxFunc,
		"min": stdlib.MinFunc, "parseint": stdlib.ParseIntFunc, "pow": stdlib.PowFunc, "signum": stdlib.SignumFunc,

		"chomp": stdlib.ChompFunc, "format": limitFormat(stdlib.FormatFunc), "formatlist": limitFormat(stdlib.FormatListFunc),
		"indent": indentFunc, "join": stdlib.JoinFunc, "lower": stdlib.LowerFunc, "upper": stdlib.UpperFunc, "regex": stdlib.RegexFunc,
		"regexall": stdlib.RegexAllFunc, "replace": replaceFunc, "split": stdlib.SplitFunc, "strrev": stdlib.ReverseFunc,
		"substr": stdlib.SubstrFunc, "title": stdlib.TitleFunc, "trim": stdlib.TrimFunc, "trimprefix": stdlib.TrimPrefixFunc,
		"trimspace": stdlib.TrimSpaceFunc, "trimsuffix": stdlib.TrimSuffixFunc,
		"startswith": textTest(strings.HasPrefix), "endswith": textTest(strings.HasSuffix), "strcontains": textTest(strings.Contains),

		"chunklist": stdlib.ChunklistFunc, "coalesce": coalesceFunc, "coalescelist": stdlib.CoalesceListFunc, "compact": stdlib.CompactFunc,
		"concat": stdlib.ConcatFunc, "contains": stdlib.ContainsFunc, "distinct": distinctFunc, "element": stdlib.ElementFunc,
		"flatten": stdlib.FlattenFunc, "index": indexFunc, "keys": stdlib.KeysFunc, "length": lengthFunc, "lookup": stdlib.LookupFunc,
		"merge": stdlib.MergeFunc, "one": oneFunc, "range": stdlib.RangeFunc, "reverse": stdlib.ReverseListFunc,
		"setintersection": stdlib.SetIntersectionFunc, "setproduct": setProductFunc, "setsubtract": stdlib.SetSubtractFunc,
		"setunion": setUnionFunc, "slice": stdlib.SliceFunc, "sort": stdlib.SortFunc, "sum": sumFunc, "transpose": transposeFunc,
		"values": stdlib.ValuesFunc, "zipmap": stdlib.ZipmapFunc, "alltrue": everyFunc, "anytrue": anyFunc, "matchkeys": matchKeysFunc,

		"base64decode": textErr(decode64), "base64encode": text(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }),
		"csvdecode": stdlib.CSVDecodeFunc, "jsondecode": stdlib.JSONDecodeFunc, "jsonencode": stdlib.JSONEncodeFunc,
		"yamldecode": yamlDecodeFunc, "yamlencode": ctyyaml.YAMLEncodeFunc, "urlencode": text(url.QueryEscape), "urldecode": textErr(url.QueryUnescape),

		"md5": digest(md5.New), "sha1": digest(sha1.New), "sha256": digest(sha256.New), "sha512": digest(sha512.New),
		"base64sha256": digest64(sha256.New), "base64sha512": digest64(sha512.New), "uuidv5": uuidFunc,

		"formatdate": stdlib.FormatDateFunc, "timeadd": stdlib.TimeAddFunc, "timecmp": timeCmpFunc,

		"tobool": stdlib.MakeToFunc(cty.Bool), "tonumber": stdlib.MakeToFunc(cty.Number), "tostring": stdlib.MakeToFunc(cty.String),
		"tolist": stdlib.MakeToFunc(cty.List(cty.DynamicPseudoType)), "toset": stdlib.MakeToFunc(cty.Set(cty.DynamicPseudoType)),
		"tomap": stdlib.MakeToFunc(cty.Map(cty.DynamicPseudoType)),

		"basename": text(path.Base), "dirname": text(path.Dir), "abspath": text(func(s string) string { return absolute(p.dir, s) }),

		"bytes": bytesFunc, "human_bytes": humanBytesFunc, "duration::seconds": durationFunc,
		"semver::parse": semverParse, "semver::compare": semverCompare, "semver::satisfies": semverSatisfies, "semver::bump": semverBump,
	}
	for name, instead := range impure {
		table[name] = absent(name, instead)
	}
	for _, more := range []map[string]function.Function{fileFunctions(f), gitFunctions(f), inspectFunctions(f), artifactFunctions(f), fakedFunctions(f)} {
		maps.Copy(table, more)
	}
	return table
}

// impure are functions that users of other tools will look for, and what to use instead. With them, two builds of one
// input would differ.
var impure = map[string]string{
	"timestamp":     "git::commit_time() or a variable",
	"plantimestamp": "git::commit_time() or a variable",
	"uuid":          "uuidv5, which makes the same identifier from the same name",
	"bcrypt":        "a value from a variable",
	"random":        "a value from a variable",
}

// leftOut are functions of other tools that are not here for other reasons.
var leftOut = map[string]string{
	"env":              "The environment is an input, and inputs are variables: env() stands only in the default of a variable, whose value is then var.NAME.",
	"rsadecrypt":       "Private keys are used by signers alone.",
	"pathexpand":       "The home directory differs between those who build; use path.root or a variable.",
	"cidrhost":         noAddresses,
	"cidrnetmask":      noAddresses,
	"cidrsubnet":       noAddresses,
	"cidrsubnets":      noAddresses,
	"cidrcontains":     noAddresses,
	"base64gzip":       "Compressed bytes differ between versions of a library; artifacts and images compress what is in them.",
	"base64gunzip":     "Compressed files are unpacked where they are used.",
	"textencodebase64": noEncodings,
	"textdecodebase64": noEncodings,
}

const (
	noAddresses = "Nothing here needs networks to be divided; give addresses as variables."
	noEncodings = "Texts are UTF-8; base64encode and base64decode take that."
)

// explainUnknownFunction says more about a function that does not exist than HCL, which knows neither what we left out nor
// the names of a namespace.
func explainUnknownFunction(d *hcl.Diagnostic, ctx *hcl.EvalContext) {
	extra, ok := hcl.DiagnosticExtra[hclsyntax.FunctionCallUnknownDiagExtra](d)
	if !ok {
		return
	}
	name := extra.CalledFunctionNamespace() + extra.CalledFunctionName()
	d.Summary, d.Detail = "Call to unknown function", fmt.Sprintf("There is no function %s.", shorten(name))
	if why := leftOut[name]; why != "" {
		d.Detail += " " + why
		return
	}
	var names []string
	for ; ctx != nil; ctx = ctx.Parent() {
		for known := range ctx.Functions {
			if impure[known] == "" {
				names = append(names, known)
			}
		}
	}
	slices.Sort(names)
	if best := closest(name, names); best != "" {
		d.Detail += fmt.Sprintf(" Did you mean %s?", best)
		return
	}
	for _, known := range names { // one that stands in another namespace, or in none
		if known[strings.LastIndexByte(known, ':')+1:] == extra.CalledFunctionName() {
			d.Detail += fmt.Sprintf(" Did you mean %s?", known)
			return
		}
	}
}

func absent(name, instead string) function.Function {
	return function.New(&function.Spec{
		VarParam: &function.Parameter{Name: "arguments", Type: cty.DynamicPseudoType, AllowNull: true, AllowUnknown: true, AllowDynamicType: true, AllowMarked: true},
		Type: func([]cty.Value) (cty.Type, error) {
			return cty.NilType, fmt.Errorf("%s is not available, because two builds of one input must be equal; use %s", name, instead)
		},
		Impl: func([]cty.Value, cty.Type) (cty.Value, error) { return cty.NilVal, errors.New("not available") },
	})
}

// guard wraps a function so that its errors show no sensitive argument, that a panic in it becomes an error without a stack
// trace, and that what it does is paid for.
func guard(p *Pipeline, name string, fn function.Function) function.Function {
	open := func(q function.Parameter) function.Parameter {
		q.AllowMarked, q.AllowUnknown, q.AllowDynamicType, q.AllowNull = true, true, true, true
		if q.Type.IsCollectionType() { // converted here
			q.Type = cty.DynamicPseudoType
		}
		return q
	}
	params, rest := fn.Params(), fn.VarParam()
	spec := &function.Spec{}
	for _, q := range params {
		spec.Params = append(spec.Params, open(q))
	}
	if rest != nil {
		q := open(*rest)
		spec.VarParam = &q
	}
	explain := func(args []cty.Value, err error) error {
		var panicked function.PanicError
		switch {
		case err == nil:
			return nil
		case slices.ContainsFunc(args, cty.Value.ContainsMarked):
			return fmt.Errorf("it does not accept these arguments; they are sensitive, so the reason is not shown")
		case errors.As(err, &panicked):
			return fmt.Errorf("internal error in function %s; please report it, with the arguments", name)
		}
		return err
	}
	converted := func(args []cty.Value) ([]cty.Value, error) {
		out := slices.Clone(args)
		for i, v := range args {
			q := rest
			if i < len(params) {
				q = &params[i]
			}
			want := q.Type
			if ty, ok := conversions[name]; ok {
				want = ty
			}
			if !want.IsCollectionType() {
				continue
			}
			same, err := unifyInto(v, want)
			switch {
			case err == nil:
				out[i] = same
			case q.Type.IsCollectionType() || elements(v) > maxTypes:
				return nil, function.NewArgError(i, err)
			} // else the function has its own words for it
		}
		return out, nil
	}
	spec.Type = func(args []cty.Value) (cty.Type, error) {
		if err := p.payFor(name, args); err != nil {
			return cty.NilType, explain(args, err)
		}
		in, err := converted(args)
		if err != nil {
			return cty.NilType, explain(args, err)
		}
		ty, err := fn.ReturnTypeForValues(in)
		return ty, explain(args, err)
	}
	spec.Impl = func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		in, err := converted(args)
		if err != nil {
			return cty.NilVal, explain(args, err)
		}
		v, err := fn.Call(in)
		if err == nil {
			size, _ := valueSize(v)
			p.effort.take(size / bytesPerStep) // when that was too much, nothing comes of the value
		}
		return v, explain(args, err)
	}
	return function.New(spec)
}

// text makes a function of one text.
func text(fn func(string) string) function.Function {
	return textErr(func(s string) (string, error) { return fn(s), nil })
}

func textErr(fn func(string) (string, error)) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "str", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			out, err := fn(args[0].AsString())
			if err != nil {
				return cty.NilVal, function.NewArgError(0, err)
			}
			return cty.StringVal(out), nil
		},
	})
}

func textTest(fn func(s, part string) bool) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "str", Type: cty.String}, {Name: "part", Type: cty.String}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.BoolVal(fn(args[0].AsString(), args[1].AsString())), nil
		},
	})
}

func decode64(s string) (string, error) {
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return "", errors.New("it is not base64")
	}
	if !utf8.Valid(data) {
		return "", errors.New("the decoded bytes are not text in UTF-8")
	}
	return string(data), nil
}

func digest(h func() hash.Hash) function.Function {
	return text(func(s string) string {
		sum := h()
		sum.Write([]byte(s))
		return hex.EncodeToString(sum.Sum(nil))
	})
}

func digest64(h func() hash.Hash) function.Function {
	return text(func(s string) string {
		sum := h()
		sum.Write([]byte(s))
		return base64.StdEncoding.EncodeToString(sum.Sum(nil))
	})
}

// The next functions bound work that their arguments could make endless.

var wideVerb = regexp.MustCompile(`%[^a-zA-Z%]*[0-9]{5}`)

func limitFormat(fn function.Function) function.Function {
	return function.New(&function.Spec{
		Params:   fn.Params(),
		VarParam: fn.VarParam(),
		Type: func(args []cty.Value) (cty.Type, error) {
			if args[0].IsKnown() && !args[0].IsNull() && wideVerb.MatchString(args[0].AsString()) {
				return cty.NilType, function.NewArgErrorf(0, "a width of more than 9999 is not supported")
			}
			return fn.ReturnTypeForValues(args)
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return fn.Call(args) },
	})
}

var indentFunc = function.New(&function.Spec{
	Params: stdlib.IndentFunc.Params(),
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		var n int
		if err := gocty.FromCtyValue(args[0], &n); err != nil || n < 0 || n > 1000 {
			return cty.NilVal, function.NewArgErrorf(0, "it must be a whole number from 0 to 1000")
		}
		return stdlib.IndentFunc.Call(args)
	},
})

var replaceFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "str", Type: cty.String}, {Name: "substr", Type: cty.String}, {Name: "replace", Type: cty.String}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		str, sub, with := args[0].AsString(), args[1].AsString(), args[2].AsString()
		if len(str)*max(len(with), 1) > maxInputSize {
			return cty.NilVal, errors.New("the result could become too large")
		}
		if len(sub) > 1 && strings.HasPrefix(sub, "/") && strings.HasSuffix(sub, "/") {
			re, err := regexp.Compile(sub[1 : len(sub)-1])
			if err != nil {
				return cty.NilVal, function.NewArgError(1, err)
			}
			return cty.StringVal(re.ReplaceAllString(str, with)), nil
		}
		return cty.StringVal(strings.ReplaceAll(str, sub, with)), nil
	},
})

// logFunc refuses what has no logarithm; the float that stands for it is no number.
var logFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "num", Type: cty.Number}, {Name: "base", Type: cty.Number}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		for i, a := range args {
			if a.AsBigFloat().Sign() <= 0 {
				return cty.NilVal, function.NewArgErrorf(i, "a number of more than 0 is needed")
			}
		}
		if args[1].RawEquals(cty.NumberIntVal(1)) {
			return cty.NilVal, function.NewArgErrorf(1, "a base other than 1 is needed")
		}
		num, _ := args[0].AsBigFloat().Float64()
		base, _ := args[1].AsBigFloat().Float64()
		if result := math.Log(num) / math.Log(base); !math.IsNaN(result) && !math.IsInf(result, 0) {
			return stdlib.Log(args[0], args[1])
		}
		return cty.NilVal, errors.New("the numbers are too large or too small")
	},
})

var setProductFunc = function.New(&function.Spec{
	VarParam: stdlib.SetProductFunc.VarParam(),
	Type: func(args []cty.Value) (cty.Type, error) {
		product := 1
		for _, a := range args {
			a, _ = a.Unmark()
			if a.IsKnown() && !a.IsNull() && a.CanIterateElements() {
				if product *= max(a.LengthInt(), 1); product > 100_000 {
					return cty.NilType, errors.New("the product has more than 100,000 elements")
				}
			}
		}
		return stdlib.SetProductFunc.ReturnTypeForValues(args)
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return stdlib.SetProductFunc.Call(args) },
})

// tryFunc is tryfunc.TryFunc, which evaluates its expressions once for the type and once for the value: each try() within
// another would double the work, and a hundred would never end.
var tryFunc = function.New(&function.Spec{
	VarParam: tryfunc.TryFunc.VarParam(),
	Type: func(args []cty.Value) (cty.Type, error) {
		if len(args) == 0 {
			return cty.NilType, errors.New("at least one argument is needed")
		}
		return cty.DynamicPseudoType, nil
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		var text strings.Builder
		for _, arg := range args {
			v, diags := customdecode.ExpressionClosureFromVal(arg).Value()
			switch {
			case !diags.HasErrors() && v.IsWhollyKnown():
				return v, nil
			case !diags.HasErrors(): // once it is known it may fail, or be of another type
				return cty.DynamicVal, nil
			}
			for _, d := range diags {
				if text.Len() < 4<<10 { // those of tries within tries add up
					fmt.Fprintf(&text, "\n- %s: %s", d.Summary, d.Detail)
				}
			}
		}
		return cty.NilVal, errors.New("no expression has a value:" + text.String())
	},
})

// maxYAMLDepth is how many brackets may be open: the parser looks at all of them with each token.
const maxYAMLDepth = 1_000

var yamlDecodeFunc = function.New(&function.Spec{
	Params: ctyyaml.YAMLDecodeFunc.Params(),
	Type: func(args []cty.Value) (cty.Type, error) {
		if args[0].IsKnown() && !args[0].IsNull() {
			text, _ := args[0].Unmark()
			depth := 0
			for _, c := range text.AsString() {
				switch c {
				case '[', '{':
					depth++
				case ']', '}':
					depth = max(0, depth-1)
				}
				if depth > maxYAMLDepth {
					return cty.NilType, function.NewArgErrorf(0, "more than %d brackets are open in it", maxYAMLDepth)
				}
			}
		}
		return ctyyaml.YAMLDecodeFunc.ReturnTypeForValues(args)
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return ctyyaml.YAMLDecodeFunc.Call(args) },
})

var lengthFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType, AllowDynamicType: true, AllowUnknown: true}},
	Type: func(args []cty.Value) (cty.Type, error) {
		ty := args[0].Type()
		if ty == cty.String || ty == cty.DynamicPseudoType || ty.IsCollectionType() || ty.IsTupleType() || ty.IsObjectType() {
			return cty.Number, nil
		}
		return cty.NilType, function.NewArgErrorf(0, "a text, list, set, map or object is needed")
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		v := args[0]
		switch ty := v.Type(); {
		case ty == cty.DynamicPseudoType:
			return cty.UnknownVal(cty.Number), nil
		case ty.IsTupleType():
			return number(int64(len(ty.TupleElementTypes()))), nil
		case ty.IsObjectType():
			return number(int64(len(ty.AttributeTypes()))), nil
		case !v.IsKnown():
			return cty.UnknownVal(cty.Number), nil
		case ty == cty.String:
			return stdlib.Strlen(v)
		}
		return v.Length(), nil
	},
})

// coalesceFunc skips empty texts too, as Terraform's does.
var coalesceFunc = function.New(&function.Spec{
	VarParam: &function.Parameter{Name: "values", Type: cty.DynamicPseudoType, AllowNull: true, AllowUnknown: true, AllowDynamicType: true},
	Type: func(args []cty.Value) (cty.Type, error) {
		ty, err := oneType(args)
		if err != nil {
			return cty.NilType, errors.New("all arguments must have one type")
		}
		return ty, nil
	},
	Impl: func(args []cty.Value, ty cty.Type) (cty.Value, error) {
		for _, a := range args {
			a, err := convert.Convert(a, ty)
			if err != nil {
				return cty.NilVal, err
			}
			if !a.IsKnown() {
				return cty.UnknownVal(ty), nil
			}
			if a.IsNull() || a.Type() == cty.String && a.AsString() == "" {
				continue
			}
			return a, nil
		}
		return cty.NilVal, errors.New("every argument is null or empty")
	},
})

var indexFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "list", Type: cty.DynamicPseudoType}, {Name: "value", Type: cty.DynamicPseudoType}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		if ty := args[0].Type(); !ty.IsListType() && !ty.IsTupleType() {
			return cty.NilVal, function.NewArgErrorf(0, "a list is needed")
		}
		for it := args[0].ElementIterator(); it.Next(); {
			i, v := it.Element()
			eq, err := stdlib.Equal(v, args[1])
			if err != nil {
				return cty.NilVal, err
			}
			if !eq.IsKnown() {
				return cty.UnknownVal(cty.Number), nil
			}
			if eq.True() {
				return i, nil
			}
		}
		return cty.NilVal, errors.New("the value is not in the list")
	},
})

var oneFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "list", Type: cty.DynamicPseudoType}},
	Type: func(args []cty.Value) (cty.Type, error) {
		switch ty := args[0].Type(); {
		case ty.IsListType() || ty.IsSetType():
			return ty.ElementType(), nil
		case ty.IsTupleType() && len(ty.TupleElementTypes()) == 0:
			return cty.DynamicPseudoType, nil
		case ty.IsTupleType() && len(ty.TupleElementTypes()) == 1:
			return ty.TupleElementType(0), nil
		}
		return cty.NilType, function.NewArgErrorf(0, "a list or set with no or one element is needed")
	},
	Impl: func(args []cty.Value, ty cty.Type) (cty.Value, error) {
		switch args[0].LengthInt() {
		case 0:
			return cty.NullVal(ty), nil
		case 1:
			for it := args[0].ElementIterator(); it.Next(); {
				_, v := it.Element()
				return v, nil
			}
		}
		return cty.NilVal, function.NewArgErrorf(0, "a list or set with no or one element is needed")
	},
})

var sumFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "list", Type: cty.DynamicPseudoType}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		if !args[0].CanIterateElements() || args[0].LengthInt() == 0 {
			return cty.NilVal, function.NewArgErrorf(0, "a list or set of numbers with at least one element is needed")
		}
		total := cty.Zero
		for it := args[0].ElementIterator(); it.Next(); {
			_, v := it.Element()
			n, err := convert.Convert(v, cty.Number)
			if err != nil || n.IsNull() {
				return cty.NilVal, function.NewArgErrorf(0, "every element must be a number")
			}
			if !n.IsKnown() {
				return cty.UnknownVal(cty.Number), nil
			}
			total = total.Add(n)
		}
		return total, nil
	},
})

var transposeFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "values", Type: cty.Map(cty.List(cty.String))}},
	Type:   function.StaticReturnType(cty.Map(cty.List(cty.String))),
	Impl: func(args []cty.Value, ty cty.Type) (cty.Value, error) {
		if !args[0].IsWhollyKnown() {
			return cty.UnknownVal(ty), nil
		}
		out := make(map[string][]cty.Value)
		for it := args[0].ElementIterator(); it.Next(); {
			k, list := it.Element()
			if list.IsNull() {
				continue
			}
			for inner := list.ElementIterator(); inner.Next(); {
				_, v := inner.Element()
				if v.IsNull() {
					return cty.NilVal, errors.New("an element is null")
				}
				out[v.AsString()] = append(out[v.AsString()], k)
			}
		}
		if len(out) == 0 {
			return cty.MapValEmpty(cty.List(cty.String)), nil
		}
		vals := make(map[string]cty.Value, len(out))
		for k, v := range out {
			vals[k] = cty.ListVal(v)
		}
		return cty.MapVal(vals), nil
	},
})

// quantifier makes alltrue (stop at false) and anytrue (stop at true).
func quantifier(stop bool) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "list", Type: cty.List(cty.Bool)}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			unknown := false
			for it := args[0].ElementIterator(); it.Next(); {
				_, v := it.Element()
				switch {
				case !v.IsKnown():
					unknown = true
				case v.IsNull():
					if !stop {
						return cty.False, nil
					}
				case v.True() == stop:
					return cty.BoolVal(stop), nil
				}
			}
			if unknown {
				return cty.UnknownVal(cty.Bool), nil
			}
			return cty.BoolVal(!stop), nil
		},
	})
}

var everyFunc, anyFunc = quantifier(false), quantifier(true)

var matchKeysFunc = function.New(&function.Spec{
	Params: []function.Parameter{
		{Name: "values", Type: cty.List(cty.DynamicPseudoType)},
		{Name: "keys", Type: cty.List(cty.DynamicPseudoType)},
		{Name: "searchset", Type: cty.List(cty.DynamicPseudoType)},
	},
	Type: func(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil },
	Impl: func(args []cty.Value, ty cty.Type) (cty.Value, error) {
		if !args[1].IsWhollyKnown() || !args[2].IsWhollyKnown() {
			return cty.UnknownVal(ty), nil
		}
		if args[0].LengthInt() != args[1].LengthInt() {
			return cty.NilVal, errors.New("values and keys must have one length")
		}
		wanted, values := newBuckets(), args[0].AsValueSlice()
		for _, w := range args[2].AsValueSlice() {
			wanted.add(w)
		}
		var out []cty.Value
		for i, k := range args[1].AsValueSlice() {
			if wanted.has(k) {
				out = append(out, values[i])
			}
		}
		if len(out) == 0 {
			return cty.ListValEmpty(ty.ElementType()), nil
		}
		return cty.ListVal(out), nil
	},
})

var uuidFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "namespace", Type: cty.String}, {Name: "name", Type: cty.String}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		known := map[string]uuid.UUID{"dns": uuid.NameSpaceDNS, "url": uuid.NameSpaceURL, "oid": uuid.NameSpaceOID, "x500": uuid.NameSpaceX500}
		space, ok := known[args[0].AsString()]
		if !ok {
			var err error
			if space, err = uuid.Parse(args[0].AsString()); err != nil {
				return cty.NilVal, function.NewArgErrorf(0, "a UUID, or one of dns, url, oid and x500, is needed")
			}
		}
		return cty.StringVal(uuid.NewSHA1(space, []byte(args[1].AsString())).String()), nil
	},
})

var timeCmpFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "a", Type: cty.String}, {Name: "b", Type: cty.String}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		var times [2]time.Time
		for i := range times {
			t, err := time.Parse(time.RFC3339, args[i].AsString())
			if err != nil {
				return cty.NilVal, function.NewArgErrorf(i, "a time such as 2026-01-31T12:00:00Z is needed")
			}
			times[i] = t
		}
		return number(int64(times[0].Compare(times[1]))), nil
	},
})

var bytesFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "size", Type: cty.String}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		n, err := parseSize(args[0].AsString())
		if err != nil {
			return cty.NilVal, function.NewArgError(0, err)
		}
		return number(n), nil
	},
})

var humanBytesFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "bytes", Type: cty.Number}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		var n int64
		if err := gocty.FromCtyValue(args[0], &n); err != nil || n < 0 {
			return cty.NilVal, function.NewArgErrorf(0, "a whole number of bytes that is not negative is needed")
		}
		for _, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
			if n >= sizeUnits[unit] {
				number := strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(sizeUnits[unit])), ".0")
				return cty.StringVal(number + unit), nil
			}
		}
		return cty.StringVal(fmt.Sprintf("%d bytes", n)), nil
	},
})

var durationFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "duration", Type: cty.String}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		d, err := parseDuration(args[0].AsString())
		if err != nil {
			return cty.NilVal, function.NewArgError(0, err)
		}
		return cty.NumberFloatVal(d.Seconds()), nil
	},
})

// Versions by semver.org.

func version2(v cty.Value, arg int) (*semver.Version, error) {
	if len(v.AsString()) > 256 {
		return nil, function.NewArgErrorf(arg, "it is longer than a version can be")
	}
	parsed, err := semver.StrictNewVersion(strings.TrimPrefix(v.AsString(), "v"))
	if err != nil {
		return nil, function.NewArgErrorf(arg, "%q is not a semantic version such as 1.4.0 or 1.5.0-rc.1", shorten(v.AsString()))
	}
	return parsed, nil
}

var semverObject = cty.Object(map[string]cty.Type{
	"major": cty.Number, "minor": cty.Number, "patch": cty.Number, "prerelease": cty.String, "build": cty.String,
})

var semverParse = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "version", Type: cty.String}},
	Type:   function.StaticReturnType(semverObject),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		v, err := version2(args[0], 0)
		if err != nil {
			return cty.NilVal, err
		}
		return cty.ObjectVal(map[string]cty.Value{
			"major": cty.NumberUIntVal(v.Major()), "minor": cty.NumberUIntVal(v.Minor()), "patch": cty.NumberUIntVal(v.Patch()),
			"prerelease": cty.StringVal(v.Prerelease()), "build": cty.StringVal(v.Metadata()),
		}), nil
	},
})

var semverCompare = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "a", Type: cty.String}, {Name: "b", Type: cty.String}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		a, err := version2(args[0], 0)
		if err != nil {
			return cty.NilVal, err
		}
		b, err := version2(args[1], 1)
		if err != nil {
			return cty.NilVal, err
		}
		return number(int64(a.Compare(b))), nil
	},
})

var semverSatisfies = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "version", Type: cty.String}, {Name: "constraint", Type: cty.String}},
	Type:   function.StaticReturnType(cty.Bool),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		v, err := version2(args[0], 0)
		if err != nil {
			return cty.NilVal, err
		}
		// The constraints are those of required_version: "~> 1.2" is 1.2 up to but not including 2.
		if len(args[1].AsString()) > 256 {
			return cty.NilVal, function.NewArgErrorf(1, "it is longer than a constraint can be")
		}
		c, err := goversion.NewConstraint(args[1].AsString())
		if err != nil {
			return cty.NilVal, function.NewArgErrorf(1, "%q is not a constraint such as \"~> 1.2\" or \">= 1.2, < 1.5\"", shorten(args[1].AsString()))
		}
		parsed, err := goversion.NewSemver(v.String())
		if err != nil {
			return cty.NilVal, function.NewArgError(0, err)
		}
		return cty.BoolVal(c.Check(parsed)), nil
	},
})

var semverBump = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "version", Type: cty.String}, {Name: "part", Type: cty.String}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		v, err := version2(args[0], 0)
		if err != nil {
			return cty.NilVal, err
		}
		switch args[1].AsString() {
		case "major":
			return cty.StringVal(v.IncMajor().String()), nil
		case "minor":
			return cty.StringVal(v.IncMinor().String()), nil
		case "patch":
			return cty.StringVal(v.IncPatch().String()), nil
		}
		return cty.NilVal, function.NewArgErrorf(1, "it must be major, minor or patch")
	},
})

// Sensitivity.

var anyParam = []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType, AllowNull: true, AllowUnknown: true, AllowDynamicType: true, AllowMarked: true}}

func typeOfArg(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil }

// sensitiveFunction marks values and has them hidden in all output, should they come there without their mark.
func sensitiveFunction(p *Pipeline) function.Function {
	return function.New(&function.Spec{
		Params: anyParam, Type: typeOfArg,
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			v := args[0].Mark(secretOf("sensitive()"))
			p.keepDerived(v)
			return v, nil
		},
	})
}

var nonsensitiveFunc = function.New(&function.Spec{
	Params: anyParam, Type: typeOfArg,
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		v, _ := args[0].UnmarkDeep()
		return v, nil
	},
})

var isSensitiveFunc = function.New(&function.Spec{
	Params: anyParam, Type: function.StaticReturnType(cty.Bool),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		return cty.BoolVal(args[0].ContainsMarked()), nil
	},
})

// envFunctions are what a variable's default may use beside the table: the environment is an input, and inputs are
// variables.
func envFunctions(p *Pipeline) map[string]function.Function {
	return map[string]function.Function{
		"env": guard(p, "env", function.New(&function.Spec{
			Params: []function.Parameter{{Name: "name", Type: cty.String}},
			Type:   function.StaticReturnType(cty.String),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				if v, ok := p.environ[args[0].AsString()]; ok {
					if !utf8.ValidString(v) {
						return cty.NilVal, function.NewArgErrorf(0, "its value is not text in UTF-8")
					}
					return cty.StringVal(v), nil
				}
				return cty.NullVal(cty.String), nil
			},
		})),
	}
}

// templateFunc makes templatestring and templatefile.
func templateFunc(p *Pipeline, param string, load func(string) (src, name string, known bool, err error), functions map[string]function.Function) function.Function {
	render := func(args []cty.Value) (cty.Value, error) {
		src, name, known, err := load(args[0].AsString())
		if err != nil || !known {
			return cty.DynamicVal, err
		}
		if diags := checkTemplateNesting([]byte(src), name, hcl.InitialPos); diags.HasErrors() {
			return cty.DynamicVal, fmt.Errorf("%s: %s", name, diags[0].Detail)
		}
		expr, diags := hclsyntax.ParseTemplate([]byte(src), name, hcl.InitialPos)
		if diags.HasErrors() {
			return cty.DynamicVal, fmt.Errorf("%s:%d,%d: %s; %s", name, diags[0].Subject.Start.Line, diags[0].Subject.Start.Column, diags[0].Summary, diags[0].Detail)
		}
		p.effort.meter(expr)
		vars := make(map[string]cty.Value)
		if ty := args[1].Type(); !ty.IsObjectType() && !ty.IsMapType() {
			return cty.DynamicVal, function.NewArgErrorf(1, "a map is needed")
		}
		if !args[1].IsKnown() {
			return cty.DynamicVal, nil
		}
		for it := args[1].ElementIterator(); it.Next(); {
			k, v := it.Element()
			vars[k.AsString()] = v
		}
		for _, t := range expr.Variables() {
			if _, ok := vars[t.RootName()]; !ok {
				return cty.DynamicVal, function.NewArgErrorf(1, "the template needs a value for %s", t.RootName())
			}
		}
		v, diags := expr.Value(&hcl.EvalContext{Variables: vars, Functions: functions})
		if diags.HasErrors() {
			return cty.DynamicVal, fmt.Errorf("%s:%d,%d: %s; %s", name, diags[0].Subject.Start.Line, diags[0].Subject.Start.Column, diags[0].Summary, diags[0].Detail)
		}
		return v, nil
	}
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: param, Type: cty.String}, {Name: "vars", Type: cty.DynamicPseudoType}},
		Type: func(args []cty.Value) (cty.Type, error) {
			if !args[0].IsKnown() || !args[1].IsKnown() {
				return cty.DynamicPseudoType, nil
			}
			v, err := render(args)
			return v.Type(), err
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return render(args) },
	})
}

// fileFunctions read files in the pipeline's directory or elsewhere; relative paths are relative to it.
func fileFunctions(f *facts) map[string]function.Function {
	reader := func(ty cty.Type, read func(name string) (cty.Value, error)) function.Function {
		return function.New(&function.Spec{
			Params: []function.Parameter{{Name: "path", Type: cty.String}},
			Type:   function.StaticReturnType(ty),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				if f == nil || f.pending(args[0].AsString()) {
					return cty.UnknownVal(ty), nil
				}
				v, err := read(args[0].AsString())
				if err != nil {
					return cty.NilVal, function.NewArgError(0, err)
				}
				return v, nil
			},
		})
	}
	digestOf := func(make func() hash.Hash, encode func([]byte) string) function.Function {
		return reader(cty.String, func(name string) (cty.Value, error) {
			sum, err := f.digest(name, make())
			return cty.StringVal(encode(sum)), err
		})
	}
	return map[string]function.Function{
		"file": reader(cty.String, func(name string) (cty.Value, error) {
			data, err := f.read(name, maxFileSize)
			if err != nil {
				return cty.NilVal, err
			}
			if !utf8.Valid(data) {
				return cty.NilVal, fmt.Errorf("%s is not text in UTF-8; use filebase64", name)
			}
			return cty.StringVal(string(data)), nil
		}),
		"filebase64": reader(cty.String, func(name string) (cty.Value, error) {
			data, err := f.read(name, maxFileSize)
			return cty.StringVal(base64.StdEncoding.EncodeToString(data)), err
		}),
		"filemd5":          digestOf(md5.New, hex.EncodeToString),
		"filesha1":         digestOf(sha1.New, hex.EncodeToString),
		"filesha256":       digestOf(sha256.New, hex.EncodeToString),
		"filesha512":       digestOf(sha512.New, hex.EncodeToString),
		"filebase64sha256": digestOf(sha256.New, base64.StdEncoding.EncodeToString),
		"filebase64sha512": digestOf(sha512.New, base64.StdEncoding.EncodeToString),
		"filesize": reader(cty.Number, func(name string) (cty.Value, error) {
			size, err := f.regular(name)
			return number(size), err
		}),
		"fileexists": reader(cty.Bool, func(name string) (cty.Value, error) {
			_, err := f.regular(name)
			if err != nil && !errors.Is(err, errMissing) {
				return cty.NilVal, err
			}
			return cty.BoolVal(err == nil), nil
		}),
		"fileset": function.New(&function.Spec{
			Params: []function.Parameter{{Name: "path", Type: cty.String}, {Name: "pattern", Type: cty.String}},
			Type:   function.StaticReturnType(cty.Set(cty.String)),
			Impl: func(args []cty.Value, ty cty.Type) (cty.Value, error) {
				if f == nil || f.pending(args[0].AsString()) {
					return cty.UnknownVal(ty), nil
				}
				names, err := f.match(args[0].AsString(), args[1].AsString())
				if err != nil {
					return cty.NilVal, err
				}
				if len(names) == 0 {
					return cty.SetValEmpty(cty.String), nil
				}
				return cty.SetVal(strings2list(names...).AsValueSlice()), nil
			},
		}),
	}
}

// match lists the files below dir whose path from there matches a pattern, in which ** stands for any directories.
func (f *facts) match(dir, pattern string) ([]string, error) {
	if !doublestar.ValidatePattern(pattern) {
		return nil, fmt.Errorf("%q is not a glob", shorten(pattern))
	}
	if err := f.directory(dir); err != nil {
		return nil, err
	}
	var out []string
	count := 0
	var walk func(rel string, depth int) error
	walk = func(rel string, depth int) error {
		if depth > 100 {
			return fmt.Errorf("%s is nested more than 100 directories deep", path.Join(dir, rel))
		}
		if err := f.ctx.Err(); err != nil {
			return err
		}
		entries, err := f.fs.ReadDir(filepath.Join(f.abs(dir), filepath.FromSlash(rel)))
		if err != nil {
			return f.explain(path.Join(dir, rel), err)
		}
		for _, e := range entries {
			if count++; count > maxEntries {
				return fmt.Errorf("%s holds more than %d files", dir, maxEntries)
			}
			name := path.Join(rel, e.Name())
			if e.IsDir() {
				if err := walk(name, depth+1); err != nil {
					return err
				}
				continue
			}
			if ok, _ := doublestar.Match(pattern, name); ok {
				out = append(out, name)
			}
		}
		return nil
	}
	if err := walk("", 0); err != nil {
		return nil, err
	}
	slices.Sort(out)
	return out, nil
}
