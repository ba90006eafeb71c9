package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// content is the inside of a block, checked against its schema and not evaluated.
type content struct {
	schemas []*attrSchema
	attrs   map[string]*hcl.Attribute
	nested  []*nestedBlock // in the order of the file
	forEach *hcl.Attribute
	missing hcl.Range // where something that is missing would go
	// incomplete is set when a required argument is missing, or one may be misspelt, which has been reported.
	incomplete bool
	misread    bool // something in it was reported when the file was read
}

// nestedBlock is a block inside another, or a dynamic block that makes such blocks.
type nestedBlock struct {
	schema   *blockSchema
	label    string
	rng      hcl.Range
	labelRng hcl.Range
	content  *content
	dynamic  *dynamicBlock // nil: a plain block
}

// dynamicBlock is the header of a dynamic block.
type dynamicBlock struct {
	forEach  hcl.Expression
	iterator string
	label    hcl.Expression // nil without
	raw      *hcl.Block     // of content
}

// readTop reads the blocks of a file. Blocks of unknown kinds are reported and left out.
func readTop(body hcl.Body) ([]*hcl.Block, hcl.Diagnostics) {
	native, ok := body.(*hclsyntax.Body)
	if !ok {
		schema := &hcl.BodySchema{}
		for _, s := range language.blocks {
			schema.Blocks = append(schema.Blocks, hcl.BlockHeaderSchema{Type: s.Kind, LabelNames: s.labelNames()})
		}
		c, diags := contentOfJSON(body, schema, unknownKind)
		return c.Blocks, diags
	}
	var diags hcl.Diagnostics
	for _, a := range sortedAttributes(native) {
		detail := "Arguments belong into a block."
		if language.byKind[a.Name] != nil {
			detail = fmt.Sprintf("%s is a block: write %s { ... } without an equals sign.", a.Name, a.Name)
		}
		diags = append(diags, fault("Unexpected argument", detail, a.NameRange.Ptr()))
	}
	var blocks []*hcl.Block
	for _, b := range native.Blocks {
		s := language.byKind[b.Type]
		if s == nil {
			diags = append(diags, unknownKind(b.Type, b.TypeRange))
			continue
		}
		if labelDiags := checkLabels(b, s.labelNames(), s.Kind); labelDiags.HasErrors() {
			diags = append(diags, labelDiags...)
			continue
		}
		blocks = append(blocks, b.AsHCLBlock())
	}
	return blocks, diags
}

func unknownKind(kind string, at hcl.Range) *hcl.Diagnostic {
	return fault("Unknown kind of block", fmt.Sprintf("There is no block %q.%s", shorten(kind), suggestKind(kind)), &at)
}

// suggestKind knows the words of other tools.
func suggestKind(kind string) string {
	switch kind {
	case "terraform", "packer", "tofu":
		return " Did you mean twinkeel?"
	case "data", "resource":
		return " Did you mean source or artifact?"
	case "device":
		return " Did you mean device_type?"
	case "local":
		return " Did you mean locals?"
	}
	return suggestion(kind, language.kinds(), "Known: ")
}

func checkLabels(b *hclsyntax.Block, want []string, kind string) hcl.Diagnostics {
	if len(b.Labels) == len(want) {
		return nil
	}
	header := kind
	for _, l := range want {
		header += " \"" + strings.ToUpper(l) + "\""
	}
	if len(b.Labels) > len(want) {
		return hcl.Diagnostics{fault("Too many labels", fmt.Sprintf("The block is written %s { ... }.", header), b.LabelRanges[len(want)].Ptr())}
	}
	subject := hcl.RangeBetween(b.TypeRange, b.DefRange())
	return hcl.Diagnostics{fault("Missing label", fmt.Sprintf("The block is written %s { ... }.", header), &subject)}
}

// readContent reads the inside of a block of the given schema and type label.
func readContent(raw *hcl.Block, s *blockSchema, typ string) (*content, hcl.Diagnostics) {
	return readBody(raw.Body, raw.DefRange, s, typ, s.Kind)
}

func readBody(body hcl.Body, header hcl.Range, s *blockSchema, typ, what string) (*content, hcl.Diagnostics) {
	c := &content{schemas: s.attrs(typ), attrs: make(map[string]*hcl.Attribute), missing: header}
	attrs, blocks, diags := readItems(body, s, typ, what)
	for _, a := range attrs {
		if a.Name == metaForEach {
			c.forEach = a
			continue
		}
		c.attrs[a.Name] = a
	}
	for _, b := range blocks {
		nested, nestedDiags := readNested(b, s, typ)
		diags = append(diags, nestedDiags...)
		if nested != nil {
			c.nested = append(c.nested, nested)
		}
	}
	c.misread = diags.HasErrors()
	c.incomplete = diags.HasErrors()
	diags = append(diags, c.checkMissing(s, typ, what, diags.HasErrors())...)
	return c, diags
}

// checkMissing looks for required arguments and blocks that are not there. When something unknown was found, an argument
// was probably misspelt, and one mistake makes one message.
func (c *content) checkMissing(s *blockSchema, typ, what string, misspelt bool) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, a := range c.schemas {
		if a.Required && c.attrs[a.Name] == nil {
			c.incomplete = true
			if !misspelt {
				diags = append(diags, fault("Missing argument", fmt.Sprintf("The %s needs the argument %s (%s): %s", what, a.Name, a.Type.name, a.Doc), c.missing.Ptr()))
			}
		}
	}
	for _, n := range s.blocks(typ) {
		count, open := 0, false
		for _, b := range c.nested {
			if b.schema != n {
				continue
			}
			if b.dynamic != nil {
				open = true
				continue
			}
			if count++; n.Max > 0 && count > n.Max {
				diags = append(diags, fault("Too many blocks", fmt.Sprintf("The %s takes at most %d %s.", what, n.Max, plural(n.Kind, n.Max)), b.rng.Ptr()))
			}
		}
		if count < n.Min && !open {
			c.incomplete = true
			if !misspelt {
				diags = append(diags, fault("Missing block", fmt.Sprintf("The %s needs a block %s: %s", what, n.Kind, n.Doc), c.missing.Ptr()))
			}
		}
	}
	return diags
}

func plural(kind string, n int) string {
	if n == 1 {
		return "block " + kind
	}
	return "blocks " + kind
}

// readItems lists the arguments and blocks of a body, in order, and reports unknown ones.
func readItems(body hcl.Body, s *blockSchema, typ, what string) ([]*hcl.Attribute, []*hcl.Block, hcl.Diagnostics) {
	var names, kinds []string
	for _, a := range s.attrs(typ) {
		names = append(names, a.Name)
	}
	for _, b := range s.blocks(typ) {
		kinds = append(kinds, b.Kind)
	}
	if s.ForEach {
		names = append(names, metaForEach)
	}
	native, ok := body.(*hclsyntax.Body)
	if !ok {
		return readJSONItems(body, s, typ, what, names)
	}

	var diags hcl.Diagnostics
	var attrs []*hcl.Attribute
	for _, a := range sortedAttributes(native) {
		if slices.Contains(names, a.Name) {
			attrs = append(attrs, a.AsHCLAttribute())
			continue
		}
		diags = append(diags, unknownArgument(a.Name, a.NameRange, names, kinds, what))
	}
	var blocks []*hcl.Block
	for _, b := range native.Blocks {
		switch {
		case slices.Contains(kinds, b.Type) || b.Type == "dynamic" && len(kinds) > 0:
			blocks = append(blocks, b.AsHCLBlock())
		case slices.Contains(names, b.Type):
			diags = append(diags, fault("Unexpected block", fmt.Sprintf("%s is an argument: write %s = ... with an equals sign.", b.Type, b.Type), b.TypeRange.Ptr()))
		default:
			diags = append(diags, fault("Unknown kind of block", fmt.Sprintf("The %s has no block %s.%s", what, b.Type, suggestion(b.Type, slices.Concat(kinds, names), "Known: ")), b.TypeRange.Ptr()))
		}
	}
	return attrs, blocks, diags
}

// unknownArgument reports a name that is no argument of a block.
func unknownArgument(name string, at hcl.Range, names, kinds []string, what string) *hcl.Diagnostic {
	switch {
	case slices.Contains(kinds, name):
		return fault("Unexpected argument", fmt.Sprintf("%s is a block: write %s { ... } without an equals sign.", name, name), &at)
	case name == "count":
		return fault("Unknown argument", "There is no count; use for_each, whose keys keep their meaning when one is removed.", &at)
	case name == metaForEach:
		return fault("Unknown argument", fmt.Sprintf("A %s cannot be repeated with for_each.", what), &at)
	}
	return fault("Unknown argument", fmt.Sprintf("The %s has no argument %s.%s", what, shorten(name), suggestion(name, slices.Concat(names, kinds), "Known: ")), &at)
}

func readJSONItems(body hcl.Body, s *blockSchema, typ, what string, names []string) ([]*hcl.Attribute, []*hcl.Block, hcl.Diagnostics) {
	schema := &hcl.BodySchema{}
	for _, n := range names {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: n})
	}
	var kinds []string
	for _, b := range s.blocks(typ) {
		kinds = append(kinds, b.Kind)
		schema.Blocks = append(schema.Blocks, hcl.BlockHeaderSchema{Type: b.Kind, LabelNames: b.nestedLabels()})
	}
	if len(schema.Blocks) > 0 {
		schema.Blocks = append(schema.Blocks, hcl.BlockHeaderSchema{Type: "dynamic", LabelNames: []string{"kind"}})
	}
	c, diags := contentOfJSON(body, schema, func(name string, at hcl.Range) *hcl.Diagnostic {
		return unknownArgument(name, at, names, kinds, what)
	})
	attrs := make([]*hcl.Attribute, 0, len(c.Attributes))
	for _, a := range c.Attributes {
		attrs = append(attrs, a)
	}
	slices.SortFunc(attrs, func(a, b *hcl.Attribute) int { return a.Range.Start.Byte - b.Range.Start.Byte })
	return attrs, c.Blocks, diags
}

// contentOfJSON reads a body in JSON syntax and has names reported that the schema does not have.
func contentOfJSON(body hcl.Body, schema *hcl.BodySchema, unknown func(name string, at hcl.Range) *hcl.Diagnostic) (*hcl.BodyContent, hcl.Diagnostics) {
	c, rest, diags := body.PartialContent(schema)
	if diags.HasErrors() {
		return c, diags
	}
	others, restDiags := rest.JustAttributes()
	for _, name := range keys(others) {
		diags = append(diags, unknown(name, others[name].NameRange))
	}
	return c, append(diags, restDiags...)
}

// nestedLabels are the labels of a block inside another: the type or the name, never both.
func (s *blockSchema) nestedLabels() []string {
	switch {
	case s.typed():
		return []string{"type"}
	case s.Label != "":
		return []string{s.Label}
	}
	return nil
}

func readNested(raw *hcl.Block, parent *blockSchema, typ string) (*nestedBlock, hcl.Diagnostics) {
	if raw.Type == "dynamic" {
		return readDynamic(raw, parent, typ)
	}
	i := slices.IndexFunc(parent.blocks(typ), func(s *blockSchema) bool { return s.Kind == raw.Type })
	s := parent.blocks(typ)[i]
	n := &nestedBlock{schema: s, rng: raw.DefRange, labelRng: raw.DefRange}
	want := s.nestedLabels()
	if len(raw.Labels) != len(want) {
		header := s.Kind
		for _, l := range want {
			header += " \"" + strings.ToUpper(l) + "\""
		}
		return nil, hcl.Diagnostics{fault("Wrong number of labels", fmt.Sprintf("The block is written %s { ... }.", header), raw.DefRange.Ptr())}
	}
	if len(want) > 0 {
		n.label, n.labelRng = raw.Labels[0], raw.LabelRanges[0]
	}
	if diags := n.checkLabel(); diags.HasErrors() {
		return nil, diags
	}
	var diags hcl.Diagnostics
	n.content, diags = readContent(raw, s, n.typ())
	return n, diags
}

// typ is the type label of a nested block whose kind has types.
func (n *nestedBlock) typ() string {
	if n.schema.typed() {
		return n.label
	}
	return ""
}

func (n *nestedBlock) checkLabel() hcl.Diagnostics {
	switch {
	case n.schema.typed() && n.schema.typeNamed(n.label) == nil:
		return hcl.Diagnostics{fault("Unknown type of "+n.schema.Kind,
			fmt.Sprintf("There is no %s of type %q.%s", n.schema.Kind, shorten(n.label), suggestion(n.label, n.schema.typeNames(), "Known: ")), n.labelRng.Ptr())}
	case n.schema.Label != "" && (!validName.MatchString(n.label) || n.label == "" || len(n.label) > maxName):
		return hcl.Diagnostics{fault("Wrong name", fmt.Sprintf("%q is not a name: letters, digits and . _ + - are allowed, at most %d.", shorten(n.label), maxName), n.labelRng.Ptr())}
	}
	return nil
}

func readDynamic(raw *hcl.Block, parent *blockSchema, typ string) (*nestedBlock, hcl.Diagnostics) {
	var kinds []string
	for _, s := range parent.blocks(typ) {
		kinds = append(kinds, s.Kind)
	}
	if len(raw.Labels) != 1 {
		return nil, hcl.Diagnostics{fault("Wrong number of labels", "The block is written dynamic \"KIND\" { ... }, with the kind of block to make.", raw.DefRange.Ptr())}
	}
	i := slices.Index(kinds, raw.Labels[0])
	if i < 0 {
		return nil, hcl.Diagnostics{fault("Unknown kind of block", fmt.Sprintf("The %s has no block %s.%s", parent.Kind, raw.Labels[0], suggestion(raw.Labels[0], kinds, "Known: ")), raw.LabelRanges[0].Ptr())}
	}
	s := parent.blocks(typ)[i]
	c, diags := raw.Body.Content(&hcl.BodySchema{
		Attributes: []hcl.AttributeSchema{{Name: metaForEach, Required: true}, {Name: "iterator"}, {Name: "labels"}},
		Blocks:     []hcl.BlockHeaderSchema{{Type: "content"}},
	})
	if diags.HasErrors() {
		return nil, diags
	}
	if len(c.Blocks) != 1 {
		return nil, hcl.Diagnostics{fault("Wrong dynamic block", "A dynamic block needs exactly one block content { ... }.", raw.DefRange.Ptr())}
	}
	d := &dynamicBlock{forEach: c.Attributes[metaForEach].Expr, iterator: s.Kind, raw: c.Blocks[0]}
	if a := c.Attributes["iterator"]; a != nil {
		d.iterator = hcl.ExprAsKeyword(a.Expr)
		if d.iterator == "" {
			return nil, hcl.Diagnostics{fault("Wrong dynamic block", "The iterator is a plain name, such as iterator = item.", a.Expr.Range().Ptr())}
		}
	}
	if rootNames[d.iterator] && d.iterator != s.Kind || d.iterator == "each" {
		return nil, hcl.Diagnostics{fault("Wrong dynamic block", fmt.Sprintf("The iterator %s would hide what references call %s; set iterator to another name.", d.iterator, d.iterator), raw.DefRange.Ptr())}
	}
	wantLabel := len(s.nestedLabels()) > 0
	switch a := c.Attributes["labels"]; {
	case wantLabel && a == nil:
		return nil, hcl.Diagnostics{fault("Wrong dynamic block", fmt.Sprintf("A block %s has a label, so its dynamic block needs labels = [ ... ].", s.Kind), raw.DefRange.Ptr())}
	case a != nil:
		exprs, listDiags := hcl.ExprList(a.Expr)
		if listDiags.HasErrors() || len(exprs) != len(s.nestedLabels()) {
			return nil, hcl.Diagnostics{fault("Wrong dynamic block", fmt.Sprintf("A block %s has %d labels; labels is a list of as many.", s.Kind, len(s.nestedLabels())), a.Expr.Range().Ptr())}
		}
		if len(exprs) > 0 {
			d.label = exprs[0]
		}
	}
	n := &nestedBlock{schema: s, rng: raw.DefRange, labelRng: raw.LabelRanges[0], dynamic: d}
	if s.typed() { // which arguments there are is known with the label
		if len(s.Types) != 1 {
			return nil, hcl.Diagnostics{fault("Wrong dynamic block", fmt.Sprintf("A block %s cannot be dynamic: its label says which arguments it has. Write it out; its arguments may be conditional.", s.Kind), raw.DefRange.Ptr())}
		}
		n.content, diags = readContent(d.raw, s, s.Types[0].Name)
		return n, diags
	}
	n.content, diags = readContent(d.raw, s, "")
	return n, diags
}

// readLocals lists the values of a locals block, in order.
func readLocals(body hcl.Body) ([]*hcl.Attribute, hcl.Diagnostics) {
	found, diags := body.JustAttributes()
	attrs := make([]*hcl.Attribute, 0, len(found))
	for _, a := range found {
		attrs = append(attrs, a)
	}
	slices.SortFunc(attrs, func(a, b *hcl.Attribute) int { return a.Range.Start.Byte - b.Range.Start.Byte })
	return attrs, diags
}

func sortedAttributes(body *hclsyntax.Body) []*hclsyntax.Attribute {
	attrs := make([]*hclsyntax.Attribute, 0, len(body.Attributes))
	for _, a := range body.Attributes {
		attrs = append(attrs, a)
	}
	slices.SortFunc(attrs, func(a, b *hclsyntax.Attribute) int { return a.SrcRange.Start.Byte - b.SrcRange.Start.Byte })
	return attrs
}
