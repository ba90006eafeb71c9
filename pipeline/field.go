package pipeline

import (
	"fmt"
	"math/big"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// fieldType is the type of an argument: how a value that somebody wrote becomes one that the rest of the program can rely on.
type fieldType struct {
	name string   // for people, such as "list(path)"
	cty  cty.Type // of the converted value
	// convert takes a known, unmarked value that is not null.
	convert func(r refResolver, v cty.Value) (cty.Value, *problem)
	elem    *fieldType // of a list or map
	isMap   bool
	ref     []string // kinds of blocks that a reference may name
}

// refResolver finds blocks; the evaluator is one.
type refResolver interface {
	// resolveObject returns the address of the block whose value v is.
	resolveObject(v cty.Value) (address, kind string, ok bool)
	// labelled returns the address of a block of one of the kinds whose label or wire name is name, or "".
	labelled(kinds []string, name string) string
}

// problem is what is wrong with a value. Element is the index (or, for maps, the key) of the guilty element.
type problem struct {
	summary, detail string
	index           int    // -1: not an element of a list
	key             string // "": not an element of a map
}

func wrong(format string, args ...any) *problem {
	return &problem{summary: "Wrong value", detail: fmt.Sprintf(format, args...), index: -1}
}

func wrongType(format string, args ...any) *problem {
	return &problem{summary: "Wrong type of value", detail: fmt.Sprintf(format, args...), index: -1}
}

var (
	tString = &fieldType{name: "string", cty: cty.String, convert: convertTo(cty.String)}
	tBool   = &fieldType{name: "bool", cty: cty.Bool, convert: convertTo(cty.Bool)}
	tAny    = &fieldType{name: "any", cty: cty.DynamicPseudoType, convert: func(_ refResolver, v cty.Value) (cty.Value, *problem) { return v, nil }}
	// tType is a type constraint, which is read and not evaluated.
	tType     = &fieldType{name: "type", cty: cty.DynamicPseudoType}
	tInt      = &fieldType{name: "whole number", cty: cty.Number, convert: convertInt}
	tSize     = &fieldType{name: "size", cty: cty.Number, convert: convertSize}
	tDuration = &fieldType{name: "duration", cty: cty.String, convert: convertDuration}
	tPercent  = &fieldType{name: "percent", cty: cty.Number, convert: convertPercent}
	tPath     = &fieldType{name: "path", cty: cty.String, convert: convertPath}
	tName     = &fieldType{name: "name", cty: cty.String, convert: convertName}
)

// describe names a value's type for people. It never shows the value.
func describe(v cty.Value) string {
	switch ty := v.Type(); {
	case ty == cty.String:
		return "a string"
	case ty == cty.Number:
		return "a number"
	case ty == cty.Bool:
		return "a bool"
	case ty.IsTupleType() || ty.IsListType():
		return "a list"
	case ty.IsSetType():
		return "a set"
	case ty.IsMapType():
		return "a map"
	case ty.IsObjectType():
		return "an object"
	default:
		return "a value of type " + ty.FriendlyName()
	}
}

func convertTo(want cty.Type) func(refResolver, cty.Value) (cty.Value, *problem) {
	return func(_ refResolver, v cty.Value) (cty.Value, *problem) {
		out, err := convert.Convert(v, want)
		if err != nil || out.IsNull() {
			return cty.NilVal, wrongType("A %s is needed here, not %s.", want.FriendlyName(), describe(v))
		}
		return out, nil
	}
}

func convertInt(_ refResolver, v cty.Value) (cty.Value, *problem) {
	n, p := convertTo(cty.Number)(nil, v)
	if p != nil {
		return n, p
	}
	if f := n.AsBigFloat(); !f.IsInt() || !fitsInt64(f) {
		return cty.NilVal, wrong("A whole number is needed here.")
	}
	return n, nil
}

func fitsInt64(f *big.Float) bool {
	_, accuracy := f.Int64()
	return accuracy == big.Exact
}

func convertSize(_ refResolver, v cty.Value) (cty.Value, *problem) {
	switch v.Type() {
	case cty.Number:
		if f := v.AsBigFloat(); !f.IsInt() || !fitsInt64(f) {
			return cty.NilVal, wrong("A size is a whole number of bytes, or a text such as \"512MiB\".")
		}
		return v, nil
	case cty.String:
		n, err := parseSize(v.AsString())
		if err != nil {
			return cty.NilVal, wrong("%s", sentence(err.Error()))
		}
		return cty.NumberIntVal(n), nil
	default:
		return cty.NilVal, wrongType("A size is needed here (a whole number of bytes, or a text such as \"512MiB\"), not %s.", describe(v))
	}
}

func convertDuration(_ refResolver, v cty.Value) (cty.Value, *problem) {
	if v.Type() != cty.String {
		return cty.NilVal, wrongType("A duration is needed here (a text such as \"90s\", \"2h\" or \"1d12h\"), not %s.", describe(v))
	}
	if _, err := parseDuration(v.AsString()); err != nil {
		return cty.NilVal, wrong("%s", sentence(err.Error()))
	}
	return v, nil
}

func convertPercent(_ refResolver, v cty.Value) (cty.Value, *problem) {
	n := v
	switch v.Type() {
	case cty.Number:
	case cty.String:
		text := strings.TrimSuffix(strings.TrimSpace(v.AsString()), "%")
		if len(text) > 32 {
			return cty.NilVal, wrong("A percentage is a number from 0 to 100, or a text such as \"5%%\".")
		}
		parsed, err := cty.ParseNumberVal(text)
		if err != nil {
			return cty.NilVal, wrong("A percentage is a number from 0 to 100, or a text such as \"5%%\".")
		}
		n = parsed
	default:
		return cty.NilVal, wrongType("A percentage is needed here (a number from 0 to 100, or a text such as \"5%%\"), not %s.", describe(v))
	}
	if f := n.AsBigFloat(); f.Sign() < 0 || f.Cmp(big.NewFloat(100)) > 0 {
		return cty.NilVal, wrong("A percentage lies between 0 and 100.")
	}
	return n, nil
}

func convertPath(_ refResolver, v cty.Value) (cty.Value, *problem) {
	s, p := convertTo(cty.String)(nil, v)
	if p != nil {
		return s, p
	}
	switch text := s.AsString(); {
	case text == "":
		return cty.NilVal, wrong("The path is empty.")
	case len(text) > 4096:
		return cty.NilVal, wrong("The path is longer than 4096 bytes.")
	case strings.ContainsFunc(text, unicode.IsControl):
		return cty.NilVal, wrong("The path holds a control character.")
	}
	return s, nil
}

// maxName is Mender's limit for the names of artifacts, which other names share.
const maxName = 128

var validName = regexp.MustCompile(`^[A-Za-z0-9._+-]*$`)

func convertName(_ refResolver, v cty.Value) (cty.Value, *problem) {
	s, p := convertTo(cty.String)(nil, v)
	if p != nil {
		return s, p
	}
	switch text := s.AsString(); {
	case text == "":
		return cty.NilVal, wrong("The name is empty.")
	case len(text) > maxName:
		return cty.NilVal, wrong("The name has %d characters; %d are allowed.", len(text), maxName)
	case text == "." || text == "..":
		return cty.NilVal, wrong("%q is not a name.", text)
	case !validName.MatchString(text):
		i := strings.IndexFunc(text, func(r rune) bool { return !validName.MatchString(string(r)) })
		return cty.NilVal, wrong("The name holds %q; letters, digits and . _ + - are allowed.", []rune(text[i:])[0])
	}
	return s, nil
}

func listOf(elem *fieldType) *fieldType {
	t := &fieldType{name: "list(" + elem.name + ")", cty: cty.List(elem.cty), elem: elem}
	t.convert = func(r refResolver, v cty.Value) (cty.Value, *problem) {
		if ty := v.Type(); !ty.IsTupleType() && !ty.IsListType() && !ty.IsSetType() {
			hint := ""
			if len(elem.ref) > 0 && (ty.IsMapType() || ty.IsObjectType()) {
				if _, _, ok := r.resolveObject(v); ok {
					hint = " Put it in brackets: [ ... ]."
				} else {
					hint = " values() makes a list of a map."
				}
			}
			return cty.NilVal, wrongType("A list is needed here, not %s.%s", describe(v), hint)
		}
		var out []cty.Value
		for it := v.ElementIterator(); it.Next(); {
			_, e := it.Element()
			c, p := convertElement(r, elem, e)
			if p != nil {
				p.index = len(out)
				return cty.NilVal, p
			}
			out = append(out, c)
		}
		if len(out) == 0 {
			return cty.ListValEmpty(elem.cty), nil
		}
		return cty.ListVal(out), nil
	}
	return t
}

func mapOf(elem *fieldType) *fieldType {
	t := &fieldType{name: "map(" + elem.name + ")", cty: cty.Map(elem.cty), elem: elem, isMap: true}
	t.convert = func(r refResolver, v cty.Value) (cty.Value, *problem) {
		if ty := v.Type(); !ty.IsObjectType() && !ty.IsMapType() {
			return cty.NilVal, wrongType("A map is needed here, not %s.", describe(v))
		}
		out := make(map[string]cty.Value)
		for it := v.ElementIterator(); it.Next(); {
			k, e := it.Element()
			c, p := convertElement(r, elem, e)
			if p != nil {
				p.key = k.AsString()
				return cty.NilVal, p
			}
			out[k.AsString()] = c
		}
		if len(out) == 0 {
			return cty.MapValEmpty(elem.cty), nil
		}
		return cty.MapVal(out), nil
	}
	return t
}

func convertElement(r refResolver, elem *fieldType, e cty.Value) (cty.Value, *problem) {
	switch {
	case e.IsMarked(): // a reference that a secret chose
		return cty.NilVal, refuseSecret("This element", e)
	case e.IsNull():
		return cty.NilVal, wrong("An element is null.")
	case !e.IsKnown():
		return cty.UnknownVal(elem.cty), nil
	}
	return elem.convert(r, e)
}

// refTo is a reference to a block of one of the kinds: the block's object goes in, its address comes out.
func refTo(kinds ...string) *fieldType {
	t := &fieldType{name: "reference(" + strings.Join(kinds, " | ") + ")", cty: cty.String, ref: kinds}
	t.convert = func(r refResolver, v cty.Value) (cty.Value, *problem) {
		needed := aWord(kinds[0])
		if len(kinds) > 1 {
			needed = "a block (" + strings.Join(kinds, ", ") + ")"
		}
		address, kind, ok := r.resolveObject(v)
		if ok && slices.Contains(kinds, kind) {
			return cty.StringVal(address), nil
		}
		p := wrongType("A reference to %s is needed here, not %s.", needed, describe(v))
		switch {
		case ok:
			p.detail = fmt.Sprintf("A reference to %s is needed here, but %s is %s.", needed, address, aWord(kind))
		case v.Type() == cty.String:
			if found := r.labelled(kinds, v.AsString()); found != "" {
				p.detail += fmt.Sprintf(" Did you mean %s?", found)
			}
		case v.Type().IsMapType():
			p.detail += " A block with for_each is a map; choose one instance by its key."
		}
		return cty.NilVal, p
	}
	return t
}

func aWord(word string) string {
	if strings.ContainsRune("aeiou", rune(word[0])) {
		return "an " + word
	}
	return "a " + word
}

func strings2list(items ...string) cty.Value {
	vals := make([]cty.Value, len(items))
	for i, s := range items {
		vals[i] = cty.StringVal(s)
	}
	return cty.ListVal(vals)
}

// beginnings are the words that the texts of errors begin with, where they do not begin with a path.
var beginnings = []string{"the", "there", "nothing", "a", "an", "no", "reading", "it", "at", "more", "without", "only", "every"}

// sentence turns the text of an error into a sentence. A first word that may be a path stays as it is.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	if first, _, _ := strings.Cut(text, " "); slices.Contains(beginnings, first) {
		text = strings.ToUpper(text[:1]) + text[1:]
	}
	if !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "?") && !strings.HasSuffix(text, "!") {
		text += "."
	}
	return text
}

func checkSectorSize(v cty.Value) string {
	if n, _ := v.AsBigFloat().Int64(); n != sector && n != 4096 {
		return "is 512 or 4096"
	}
	return ""
}

// checkEnvironmentSize keeps to what an environment can have: a header and a variable, and not more than is ever read.
func checkEnvironmentSize(v cty.Value) string {
	if n, _ := v.AsBigFloat().Int64(); n < sector || n%sector != 0 || n > 16<<20 {
		return "must be a multiple of 512 bytes, at most 16MiB"
	}
	return ""
}

// The checks of arguments below get a known value that is not null. What they return completes "NAME ...".

func notEmpty(v cty.Value) string {
	if v.LengthInt() == 0 {
		return "must not be empty"
	}
	return ""
}

// checkPlain looks for what no header of an artifact may hold.
func checkPlain(v cty.Value) string {
	reason := ""
	_ = cty.Walk(v, func(at cty.Path, part cty.Value) (bool, error) {
		if len(at) > 0 && part.Type() == cty.String && v.Type().IsMapType() {
			if step, ok := at[len(at)-1].(cty.IndexStep); ok && strings.ContainsFunc(step.Key.AsString(), unicode.IsControl) {
				reason = fmt.Sprintf("has the key %q, which holds a control character", shorten(step.Key.AsString()))
			}
		}
		if part.IsKnown() && !part.IsNull() && part.Type() == cty.String && strings.ContainsFunc(part.AsString(), unicode.IsControl) {
			reason = fmt.Sprintf("holds %q, in which there is a control character", shorten(part.AsString()))
		}
		return reason == "", nil
	})
	return reason
}

func checkPositive(v cty.Value) string {
	if v.AsBigFloat().Sign() <= 0 {
		return "must be more than zero"
	}
	return ""
}

func checkNotNegative(v cty.Value) string {
	if v.AsBigFloat().Sign() < 0 {
		return "must not be negative"
	}
	return ""
}

func checkAlignment(v cty.Value) string {
	n, _ := v.AsBigFloat().Int64()
	if n < 512 || n&(n-1) != 0 || n > 1<<30 {
		return "must be a power of two, from 512 bytes to 1GiB"
	}
	return ""
}

// clients are the update clients that an artifact's compression is chosen for.
var clients = []string{"twinkeel", clientMender3, "mender-4"}

// clientMender3 is the one that does not read zstd.
const clientMender3 = "mender-3"

func checkClients(v cty.Value) string {
	if p := notEmpty(v); p != "" {
		return p
	}
	for it := v.ElementIterator(); it.Next(); {
		if _, c := it.Element(); c.IsKnown() && !c.IsNull() && !slices.Contains(clients, c.AsString()) {
			return fmt.Sprintf("holds %q; the clients are %s", c.AsString(), strings.Join(clients, ", "))
		}
	}
	return ""
}

func checkLevel(v cty.Value) string {
	if n, _ := v.AsBigFloat().Int64(); n < 1 || n > 19 {
		return "must lie between 1 and 19"
	}
	return ""
}

var kmsSchemes = []string{"awskms://", "gcpkms://", "azurekms://", "hashivault://"}

func checkKMS(v cty.Value) string {
	for _, scheme := range kmsSchemes {
		if rest, ok := strings.CutPrefix(v.AsString(), scheme); ok && rest != "" {
			return ""
		}
	}
	return "must begin with one of " + strings.Join(kmsSchemes, ", ") + " and name a key"
}

func checkPKCS11(v cty.Value) string {
	switch uri := v.AsString(); {
	case !strings.HasPrefix(uri, "pkcs11:"):
		return "must begin with pkcs11:"
	case strings.Contains(uri, "pin-value="):
		return "must not hold the PIN: set pin from a sensitive variable"
	}
	return ""
}

func checkRetries(v cty.Value) string {
	if n, _ := v.AsBigFloat().Int64(); n < 0 || n > 100 {
		return "must lie between 0 and 100"
	}
	return ""
}

var validSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)

func checkSHA256(v cty.Value) string {
	if !validSHA256.MatchString(v.AsString()) {
		return "must be 64 hexadecimal digits in lower case"
	}
	return ""
}

func checkMount(v cty.Value) string {
	if s := v.AsString(); !strings.HasPrefix(s, "/") || path.Clean(s) != s || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }) {
		return "must be an absolute path without spaces and without a slash at its end, such as \"/data\""
	}
	return ""
}

var validDevice = regexp.MustCompile(`^/dev/[A-Za-z0-9._/+-]+$`)

// partitionNames are Linux's names of partitions, where the name of a disk is wanted.
var partitionNames = regexp.MustCompile(`^/dev/((sd|vd|hd|xvd)[a-z]+[0-9]+|(mmcblk[0-9]+|nvme[0-9]+n[0-9]+)p[0-9]+)$`)

func checkDevice(v cty.Value) string {
	if partitionNames.MatchString(v.AsString()) {
		return "must be a disk, not a partition of one"
	}
	if path.Clean(v.AsString()) != v.AsString() || !validDevice.MatchString(v.AsString()) {
		return "must be a path such as \"/dev/mmcblk0\" or \"/dev/vda\""
	}
	return ""
}

func checkURL(v cty.Value) string {
	u, err := url.Parse(v.AsString())
	switch {
	case err != nil || u.Host == "":
		return "must be a URL, such as \"https://ota.example.com\""
	case u.Scheme != "https" && u.Scheme != "http":
		return "must begin with https:// or http://"
	case u.User != nil:
		return "holds a user name or password, which would end up in plain sight; use token"
	case u.RawQuery != "" || u.Fragment != "":
		return "holds a query or a fragment; only scheme, host and path make sense"
	}
	return ""
}
