package pipeline

import (
	"bytes"
	_ "embed" // the words between the tables
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// referenceText is what people wrote of the reference; comments in it mark where the tables go.
//
//go:embed reference/reference.md
var referenceText string

// referenceExample is a pipeline with every kind of block, for the reference to quote.
//
//go:embed reference/example.twinkeel.hcl
var referenceExample []byte

// referenceModule is the module that the example uses.
//
//go:embed reference/modules/kiosk/kiosk.twinkeel.hcl
var referenceModule []byte

// Reference describes the language in Markdown: docs/language.md. Blocks and arguments come from the schema, functions
// from the function table, examples from a pipeline that is valid, so that none of them can say what is not so.
func Reference() []byte {
	text := referenceText
	for mark, with := range map[string]string{
		"contents": contentsReference(), "references": referencesReference(), "types": typesReference(),
		metaForEach: kindsWith(func(s *blockSchema) bool { return s.ForEach }),
		metaDepends: kindsWith(func(s *blockSchema) bool { return slices.Contains(s.Attrs, attrDependsOn) }),
		"blocks":    blocksReference(), "functions": functionsReference(), "impure": impureReference(),
		"module": moduleReference(), "tests": testsReference(),
	} {
		text = strings.Replace(text, "<!-- "+mark+" -->", with, 1)
	}
	return []byte(text)
}

func contentsReference() string {
	var b strings.Builder
	for _, line := range strings.Split(referenceText, "\n") {
		title, ok := strings.CutPrefix(line, "## ")
		if !ok || title == "Contents" {
			continue
		}
		fmt.Fprintf(&b, "- [%s](#%s)", title, anchor(title))
		if title == "Blocks" {
			for i, s := range language.blocks {
				sep := ", "
				if i == 0 {
					sep = ": "
				}
				fmt.Fprintf(&b, "%s[%s](#%s)", sep, s.Kind, anchor(s.Kind))
			}
		}
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// anchor is what a heading is called in links.
func anchor(heading string) string {
	return strings.ReplaceAll(strings.ToLower(heading), " ", "-")
}

func referencesReference() string {
	var rows []string
	for _, s := range language.blocks {
		if s.Refers {
			rows = append(rows, fmt.Sprintf("| `%s` | a block [%s](#%s) |", s.addressForm(), s.Kind, anchor(s.Kind)))
		}
	}
	return strings.Join(rows, "\n")
}

// addressForm is how expressions call blocks of a kind.
func (s *blockSchema) addressForm() string {
	if s.typed() {
		return s.Kind + ".TYPE.NAME"
	}
	return s.Kind + ".NAME"
}

// typeDocs describe the types of arguments. Lists, maps and references follow the types they are made of.
var typeDocs = []struct {
	t    *fieldType
	text string
}{
	{tString, "text"},
	{tBool, "`true` or `false`"},
	{tInt, "a number without a fraction"},
	{tSize, "bytes: a whole number, or a text with a unit: `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024), `kB`, `MB`, `GB`, `TB` (powers of 1000), `B`. Exact: `\"1.5GiB\"` is fine, `\"0.1KiB\"` and the ambiguous `\"1G\"` are not. Reads as a number of bytes"},
	{tDuration, "a text such as `\"90s\"`, `\"15m\"`, `\"2h\"`, `\"1d\"` or `\"1d12h\"`; days are 24 hours and stand first; not negative"},
	{tExtent, "a size as above, a share of the disk such as `\"25%\"`, or `\"rest\"`"},
	{tNumber, "a number"},
	{tScalar, "a text or a number"},
	{tScalars, "a list of texts and numbers"},
	{tPercent, "from 0 to 100: a number, or a text such as `\"2.5%\"`. Reads as a number"},
	{tPath, "the path of a file or directory, relative to the pipeline's directory; at most 4096 bytes"},
	{tName, "1 to 128 letters, digits and `.` `_` `+` `-`"},
	{tAny, "any value"},
	{tType, "a type constraint as in Terraform, written without quotes: `string`, `number`, `bool`, `any`, `list(T)`, `set(T)`, `map(T)`, `tuple([T, ...])`, `object({ name = T, other = optional(T, default) })`"},
}

func typesReference() string {
	var rows []string
	for _, d := range typeDocs {
		rows = append(rows, fmt.Sprintf("| %s | %s |", d.t.name, d.text))
	}
	return strings.Join(append(rows,
		"| list(T) | a list of values of a type, `[a, b]`; sets are taken, too |",
		"| map(T) | values of a type by name, `{ name = value }` |",
		"| reference(KIND) | a block of that kind, written as its address without quotes: `layout.ab`, `artifact.os[\"rpi4\"]` |"), "\n")
}

func kindsWith(has func(*blockSchema) bool) string {
	var kinds []string
	for _, s := range language.blocks {
		if has(s) {
			kinds = append(kinds, fmt.Sprintf("[%s](#%s)", s.Kind, anchor(s.Kind)))
		}
	}
	return strings.Join(kinds, ", ")
}

func blocksReference() string {
	examples := blockExamples()
	var b strings.Builder
	for _, s := range language.blocks {
		fmt.Fprintf(&b, "### %s\n\n%s\n\n", s.Kind, s.Doc)
		fmt.Fprintf(&b, "```hcl\n%s\n```\n\n", strings.Join(examples[s.Kind], "\n\n"))
		b.WriteString(s.manners())
		writeArguments(&b, "Arguments:", s.Attrs)
		for _, t := range s.Types {
			fmt.Fprintf(&b, "#### %s %q\n\n%s\n\n", s.Kind, t.Name, t.Doc)
			writeArguments(&b, "Arguments:", t.Attrs)
			writeNested(&b, t.Blocks)
		}
		writeNested(&b, s.Blocks)
		s.writeValues(&b)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// header is how a block is written.
func (s *blockSchema) header(labels []string) string {
	text := s.Kind
	for _, l := range labels {
		text += " \"" + strings.ToUpper(l) + "\""
	}
	return text + " { ... }"
}

// manners says how a block at the top is written, repeated and referred to.
func (s *blockSchema) manners() string {
	text := "Written `" + s.header(s.labelNames()) + "`"
	if s.typed() {
		text += ", where TYPE is " + quoted(s.typeNames(), "or")
	}
	if s.Refers {
		text += "; referred to as `" + s.addressForm() + "`"
	}
	text += "."
	switch {
	case s.ForEach:
		text += " Takes `for_each`."
	case s.Once:
		text += " At most once."
	}
	return text + "\n\n"
}

func quoted(names []string, word string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = fmt.Sprintf("`%q`", n)
	}
	if len(q) == 1 {
		return q[0]
	}
	return strings.Join(q[:len(q)-1], ", ") + " " + word + " " + q[len(q)-1]
}

func writeArguments(b *strings.Builder, title string, attrs []*attrSchema) {
	if len(attrs) == 0 {
		return
	}
	fmt.Fprintf(b, "%s\n\n", title)
	for _, a := range attrs {
		fmt.Fprintf(b, "- `%s` (%s): %s", a.Name, strings.Join(a.traits(), ", "), a.Doc)
		if len(a.Enum) > 1 {
			fmt.Fprintf(b, " One of %s.", quoted(a.Enum, "and"))
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
}

// traits are what stands in parentheses after an argument's name.
func (a *attrSchema) traits() []string {
	traits := []string{a.Type.name}
	switch {
	case a.Required:
		traits = append(traits, "**required**")
	case a.Default != cty.NilVal:
		traits = append(traits, "default `"+a.defaultText()+"`")
	default:
		traits = append(traits, "optional")
	}
	if a.Secret {
		traits = append(traits, "takes secrets")
	}
	return traits
}

// defaultText writes a default as a person would.
func (a *attrSchema) defaultText() string {
	n := func() int64 {
		i, _ := a.Default.AsBigFloat().Int64()
		return i
	}
	switch a.Type {
	case tSize:
		return fmt.Sprintf("%q", formatSize(n()))
	case tPercent:
		return fmt.Sprintf("\"%d%%\"", n())
	}
	return valueText(a.Default)
}

func valueText(v cty.Value) string {
	switch ty := v.Type(); {
	case ty == cty.String:
		return fmt.Sprintf("%q", v.AsString())
	case ty == cty.Bool:
		return fmt.Sprint(v.True())
	case ty == cty.Number:
		return v.AsBigFloat().Text('f', -1)
	case ty.IsListType():
		var items []string
		for _, item := range v.AsValueSlice() {
			items = append(items, valueText(item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return v.GoString()
}

func writeNested(b *strings.Builder, blocks []*blockSchema) {
	for _, s := range blocks {
		fmt.Fprintf(b, "#### Nested block %s\n\n%s\n\nWritten `%s`, %s.\n\n", s.Kind, s.Doc, s.header(s.nestedLabels()), s.times())
		writeArguments(b, "Arguments:", s.Attrs)
		for _, t := range s.Types {
			writeArguments(b, fmt.Sprintf("`%s %q`: %s Arguments:", s.Kind, t.Name, t.Doc), t.Attrs)
		}
	}
}

// times is how often a nested block may appear.
func (s *blockSchema) times() string {
	switch {
	case s.Min == 1 && s.Max == 1:
		return "exactly once"
	case s.Min == 0 && s.Max == 0:
		return "any number of times"
	case s.Min == 0 && s.Max == 1:
		return "at most once"
	case s.Min == 1 && s.Max == 0:
		return "at least once"
	case s.Max == 0:
		return fmt.Sprintf("at least %d times", s.Min)
	}
	return fmt.Sprintf("%d to %d times", s.Min, s.Max)
}

func (s *blockSchema) writeValues(b *strings.Builder) {
	if !s.Refers {
		return
	}
	b.WriteString("Values beside the arguments:\n\n- `id` (string, known: always): The block's address.\n")
	for _, x := range s.Exposes {
		fmt.Fprintf(b, "- `%s` (%s, known: %s): %s\n", x.Name, typeText(x.Type), s.knownFrom(x), x.Doc)
	}
	b.WriteByte('\n')
}

func typeText(ty cty.Type) string {
	switch {
	case ty.IsListType():
		return "list(" + typeText(ty.ElementType()) + ")"
	case ty.IsMapType():
		return "map(" + typeText(ty.ElementType()) + ")"
	case ty.IsObjectType():
		var attrs []string
		for _, name := range keys(ty.AttributeTypes()) {
			attrs = append(attrs, name+" = "+typeText(ty.AttributeType(name)))
		}
		return "object({ " + strings.Join(attrs, ", ") + " })"
	}
	return ty.FriendlyName()
}

// knownFrom tells when a computed value is known, in the words of the reference. What a source computes it reads from
// files.
func (s *blockSchema) knownFrom(x exposedSchema) string {
	switch {
	case x.Known != "":
		return x.Known
	case x.Built:
		return "build"
	case s == sourceSchema:
		return "plan"
	}
	return "always"
}

// moduleReference quotes a call of a module, and the module.
func moduleReference() string {
	return fmt.Sprintf("```hcl\n%s\n```\n\nwith this in `modules/kiosk/kiosk.twinkeel.hcl`:\n\n```hcl\n%s\n```", strings.Join(blockExamples()["module"], "\n"), bytes.TrimSpace(referenceModule))
}

// blockExamples are the blocks of the example by kind, as they are written.
func blockExamples() map[string][]string {
	file, diags := hclsyntax.ParseConfig(referenceExample, "example.twinkeel.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		return nil // TestReferenceExample tells why
	}
	out := make(map[string][]string)
	for _, b := range file.Body.(*hclsyntax.Body).Blocks {
		out[b.Type] = append(out[b.Type], string(bytes.TrimSpace(referenceExample[b.TypeRange.Start.Byte:b.CloseBraceRange.End.Byte])))
	}
	return out
}

func impureReference() string {
	var rows []string
	for _, name := range keys(impure) {
		rows = append(rows, fmt.Sprintf("- `%s`: use %s.", name, impure[name]))
	}
	return strings.Join(rows, "\n")
}

func functionsReference() string {
	p := &Pipeline{}
	table := functionTable(p, nil)
	for name, fn := range envFunctions(p) {
		table[name] = fn
	}
	var b strings.Builder
	for _, g := range functionDocs {
		fmt.Fprintf(&b, "### %s\n\n", g.title)
		for _, f := range g.functions {
			fmt.Fprintf(&b, "- `%s`: %s\n", signature(f.name, table[f.name]), f.text)
		}
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// signature is how a function is called.
func signature(name string, fn function.Function) string {
	var params []string
	for _, p := range fn.Params() {
		params = append(params, p.Name)
	}
	if v := fn.VarParam(); v != nil {
		params = append(params, v.Name+"...")
	}
	return name + "(" + strings.Join(params, ", ") + ")"
}

type functionDoc struct{ name, text string }

// functionDocs describe every function of the table but those that only say what to use instead.
var functionDocs = []struct {
	title     string
	functions []functionDoc
}{
	{"Numbers", []functionDoc{
		{"abs", "absolute value"},
		{"ceil", "the whole number at or above"},
		{"floor", "the whole number at or below"},
		{"log", "logarithm to a base"},
		{"max", "the greatest"},
		{"min", "the least"},
		{"parseint", "the number that a text writes in a base from 2 to 62"},
		{"pow", "power"},
		{"signum", "-1, 0 or 1: the sign"},
		{"sum", "sum of a list or set with at least one number"},
	}},
	{"Text", []functionDoc{
		{"chomp", "without newlines at the end"},
		{"endswith", "whether a text ends in another"},
		{"format", "a text from a pattern, such as `format(\"%s-%03d\", \"os\", 7)`"},
		{"formatlist", "`format` for each element of lists"},
		{"indent", "indents all lines but the first by 0 to 1000 spaces"},
		{"join", "joins lists of texts with a separator"},
		{"lower", "in lower case"},
		{"regex", "the first match of an RE2 pattern: a text, or its groups as a list or an object; an error without a match"},
		{"regexall", "all matches, as a list"},
		{"replace", "replaces every occurrence of a text, or of a pattern between slashes: `replace(s, \"/[^a-z]/\", \"-\")`"},
		{"split", "splits a text at a separator into a list"},
		{"startswith", "whether a text begins with another"},
		{"strcontains", "whether a text holds another"},
		{"strrev", "backwards"},
		{"substr", "part of a text; a negative offset counts from the end, a length of -1 means all of the rest"},
		{"templatefile", "a file, rendered as a template with values"},
		{"templatestring", "a text, rendered as a template with values"},
		{"title", "each word with a capital letter"},
		{"trim", "without the given characters at both ends"},
		{"trimprefix", "without a text at the beginning"},
		{"trimspace", "without white space at both ends"},
		{"trimsuffix", "without a text at the end"},
		{"upper", "in upper case"},
	}},
	{"Collections", []functionDoc{
		{"alltrue", "whether all of a list are true"},
		{"anytrue", "whether any of a list is true"},
		{"chunklist", "cuts a list into lists of a size"},
		{"coalesce", "the first value that is neither null nor empty"},
		{"coalescelist", "the first list that is not empty"},
		{"compact", "without empty texts and nulls"},
		{"concat", "one list of several"},
		{"contains", "whether a list or set holds a value"},
		{"distinct", "without repetitions"},
		{"element", "an element by its index, which starts again at the end of the list"},
		{"flatten", "lists within a list, in one"},
		{"index", "index of a value in a list; an error when it is not there"},
		{"keys", "the keys of a map, sorted"},
		{"length", "number of elements, or of characters in a text"},
		{"lookup", "the element of a map by its key, or a default"},
		{"matchkeys", "the values whose keys, at the same index, are in a set"},
		{"merge", "one map of several; the later ones win"},
		{"one", "the only element, or null when there is none"},
		{"range", "a list of numbers: `range(3)` is 0, 1, 2; also `range(start, limit, step)`"},
		{"reverse", "a list backwards"},
		{"setintersection", "what all sets hold"},
		{"setproduct", "all combinations of elements, at most 100,000"},
		{"setsubtract", "what the first set holds and the second does not"},
		{"setunion", "what any of the sets holds"},
		{"slice", "part of a list, from one index to before another"},
		{"sort", "texts in order"},
		{"transpose", "a map of lists with keys and elements exchanged"},
		{"values", "the values of a map, in the order of its keys: `artifacts = values(artifact.os)`"},
		{"zipmap", "a map of a list of keys and one of values"},
	}},
	{"Sizes and versions", []functionDoc{
		{"bytes", "a size as a number of bytes: `bytes(\"512MiB\")`"},
		{"duration::seconds", "a duration as a number of seconds: `duration::seconds(\"1d12h\")`"},
		{"human_bytes", "a number of bytes as people write it: `human_bytes(1610612736)` is `\"1.5GiB\"`"},
		{"semver::bump", "the next version: part is `\"major\"`, `\"minor\"` or `\"patch\"`"},
		{"semver::compare", "-1, 0 or 1: the order of two versions by semver.org"},
		{"semver::parse", "an object with `major`, `minor`, `patch`, `prerelease` and `build`; a `v` in front is taken"},
		{"semver::satisfies", "whether a version meets a constraint such as `\"~> 1.2\"`, in the form of `required_version`"},
	}},
	{"Git", []functionDoc{
		{"git::branch", "name of the branch, or null when none is checked out"},
		{"git::commit", "the commit's hash, or as much of it as `length` says (from 4)"},
		{"git::commit_time", "time of the commit, as 2026-01-31T12:00:00Z"},
		{"git::describe", "`git describe --tags`: the last tag, and how far the commit is from it; `pattern` is a glob that the tag must match"},
		{"git::dirty", "whether files that git knows have changes that are not committed"},
	}},
	{"Outputs of builds", []functionDoc{
		{"elf_machine", "for which processor an ELF file is, as `architecture` of a device type has it"},
		{"fs::type", "the file system in an image file: `ext4`, `squashfs`, `erofs` or `vfat`; null for anything else"},
		{"fs::used", "how many bytes of a file system image (ext4, squashfs, erofs) are in use"},
		{"mender::artifact", "the head of an existing artifact: an object with `name`, `group`, `device_types`, `payload_type`, `provides`, `depends`, `clears_provides`, `signed`, `size` and `sha256`; its signature is not verified"},
		{"yocto::package_version", "version of a package in the image of a yocto source"},
		{"yocto::testdata", "a variable of the build, from the `.testdata.json` of a yocto source"},
	}},
	{"Files and paths", []functionDoc{
		{"abspath", "absolute, seen from the pipeline's directory"},
		{"basename", "the last part of a path"},
		{"dirname", "a path without its last part"},
		{"file", "content of a file in UTF-8"},
		{"filebase64", "content of a file in base64"},
		{"filebase64sha256", "SHA-256 of a file, in base64"},
		{"filebase64sha512", "SHA-512 of a file, in base64"},
		{"fileexists", "whether there is such a file"},
		{"filemd5", "MD5 of a file, in hexadecimal digits"},
		{"fileset", "the files below a directory that match a glob; `**` stands for any directories"},
		{"filesha1", "SHA-1 of a file, in hexadecimal digits"},
		{"filesha256", "SHA-256 of a file, in hexadecimal digits"},
		{"filesha512", "SHA-512 of a file, in hexadecimal digits"},
		{"filesize", "size of a file in bytes"},
	}},
	{"Encoding", []functionDoc{
		{"base64decode", "text in UTF-8 from base64"},
		{"base64encode", "base64 of a text"},
		{"csvdecode", "a list of objects from CSV; the first line has the names"},
		{"jsondecode", "a value from JSON"},
		{"jsonencode", "JSON of a value"},
		{"urldecode", "a text from a URL's query"},
		{"urlencode", "a text for a URL's query"},
		{"yamldecode", "a value from YAML"},
		{"yamlencode", "YAML of a value"},
	}},
	{"Digests", []functionDoc{
		{"base64sha256", "SHA-256 of a text in base64"},
		{"base64sha512", "SHA-512 of a text in base64"},
		{"md5", "MD5 of a text, in hexadecimal digits"},
		{"sha1", "SHA-1 of a text, in hexadecimal digits"},
		{"sha256", "SHA-256 of a text, in hexadecimal digits"},
		{"sha512", "SHA-512 of a text, in hexadecimal digits"},
		{"uuidv5", "the UUID of a name in a namespace: `\"dns\"`, `\"url\"`, `\"oid\"`, `\"x500\"` or a UUID"},
	}},
	{"Times", []functionDoc{
		{"formatdate", "a time in another form: `formatdate(\"YYYY-MM-DD\", t)`"},
		{"timeadd", "a time and a duration such as `\"24h\"`"},
		{"timecmp", "-1, 0 or 1: the order of two times"},
	}},
	{"Types and errors", []functionDoc{
		{"can", "whether an expression has a value at all"},
		{"issensitive", "whether a value is sensitive"},
		{"nonsensitive", "the same value, shown from here on: for what is derived from a secret and is none"},
		{"sensitive", "the same value, hidden from here on"},
		{"tobool", "as a bool"},
		{"tolist", "as a list"},
		{"tomap", "as a map"},
		{"tonumber", "as a number"},
		{"toset", "as a set"},
		{"tostring", "as a string"},
		{"try", "the first expression that has a value"},
	}},
	{"Environment", []functionDoc{
		{"env", "a variable of the environment, or null; in the `default` of a variable only, because inputs are variables"},
	}},
}
