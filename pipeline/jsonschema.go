package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// KindInfo describes a kind of block, from the table that decoding reads.
type KindInfo struct {
	Kind        string         `json:"kind"`
	Description string         `json:"description"`
	Labels      []string       `json:"labels"`
	Address     string         `json:"address,omitempty"` // how expressions call it
	ForEach     bool           `json:"for_each,omitempty"`
	Once        bool           `json:"once,omitempty"`
	Min         int            `json:"min,omitempty"` // of nested blocks
	Max         int            `json:"max,omitempty"` // 0: any number
	Arguments   []ArgumentInfo `json:"arguments"`
	Types       []TypeInfo     `json:"types,omitempty"` // values of the label "type", with what they add
	Blocks      []KindInfo     `json:"blocks,omitempty"`
	Values      []ValueInfo    `json:"values,omitempty"` // what references see beside the arguments
}

// TypeInfo describes a type of a kind that has several.
type TypeInfo struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Arguments   []ArgumentInfo `json:"arguments"`
	Blocks      []KindInfo     `json:"blocks,omitempty"`
}

// ArgumentInfo describes an argument.
type ArgumentInfo struct {
	Name        string          `json:"name"`
	Type        string          `json:"type"`
	Description string          `json:"description"`
	Required    bool            `json:"required,omitempty"`
	Default     json.RawMessage `json:"default,omitempty"`
	Enum        []string        `json:"enum,omitempty"`
	Secret      bool            `json:"secret,omitempty"` // takes sensitive values
}

// ValueInfo describes a value that a block computes.
type ValueInfo struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Known       string `json:"known"` // from when: always, plan, build, server
	Description string `json:"description"`
}

// Schema describes the kinds of blocks, in the order of the reference.
func Schema() []KindInfo {
	var out []KindInfo
	for _, s := range language.blocks {
		out = append(out, s.info(s.labelNames()))
	}
	return out
}

func (s *blockSchema) info(labels []string) KindInfo {
	k := KindInfo{
		Kind: s.Kind, Description: s.Doc, Labels: append([]string{}, labels...), ForEach: s.ForEach, Once: s.Once,
		Min: s.Min, Max: s.Max, Arguments: argumentInfos(s.Attrs), Blocks: nestedInfos(s.Blocks),
	}
	if s.Refers {
		k.Address = s.addressForm()
		for _, x := range s.Exposes {
			k.Values = append(k.Values, ValueInfo{x.Name, typeText(x.Type), s.knownFrom(x), x.Doc})
		}
	}
	for _, t := range s.Types {
		k.Types = append(k.Types, TypeInfo{t.Name, t.Doc, argumentInfos(t.Attrs), nestedInfos(t.Blocks)})
	}
	return k
}

func nestedInfos(blocks []*blockSchema) []KindInfo {
	var out []KindInfo
	for _, s := range blocks {
		out = append(out, s.info(s.nestedLabels()))
	}
	return out
}

func argumentInfos(attrs []*attrSchema) []ArgumentInfo {
	out := []ArgumentInfo{}
	for _, a := range attrs {
		info := ArgumentInfo{Name: a.Name, Type: a.Type.name, Description: a.Doc, Required: a.Required, Enum: a.Enum, Secret: a.Secret}
		if a.hasDefault() {
			info.Default = a.defaultJSON()
		}
		out = append(out, info)
	}
	return out
}

// JSONSchema describes the JSON syntax of pipeline files (*.twinkeel.json) in the words of JSON Schema, draft 2020-12, so
// that editors complete and check them. It says less than the language: values of expressions are not known to it.
//
// The syntax is HCL's (hashicorp/hcl, json/spec.md): a block is an object, or an array of objects where there are several;
// labels are the keys of objects around it; texts are templates; "//" is a comment.
func JSONSchema() map[string]any {
	d := definitions{"template": object{"type": "string", "pattern": `[$%]\{`, "description": "An expression: \"${...}\"."}}
	properties := object{"//": true}
	for _, s := range language.blocks {
		properties[s.Kind] = oneOrMore(d.labelled(s, s.labelNames(), s.Kind))
	}
	root := d.define("pipeline", object{"type": "object", "properties": properties, "additionalProperties": false})
	return object{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title":   "Twinkeel pipeline",
		"anyOf":   []any{root, object{"type": "array", "items": root}},
		"$defs":   d,
	}
}

// object is a JSON object.
type object = map[string]any

func anyOf(schemas ...any) object { return object{"anyOf": schemas} }

// oneOrMore is how HCL's JSON takes blocks: one, or several in an array.
func oneOrMore(schema object) object {
	return anyOf(schema, object{"type": "array", "items": schema})
}

// definitions are the named parts of the schema.
type definitions object

func (d definitions) define(name string, schema object) object {
	d[name] = schema
	return object{"$ref": "#/$defs/" + name}
}

// labelled is a block within the objects whose keys are its labels.
func (d definitions) labelled(s *blockSchema, labels []string, name string) object {
	if len(labels) == 0 {
		return d.body(s, "", name)
	}
	if !s.typed() {
		return d.define(name+".labels", byLabel(s.Doc, d.body(s, "", name)))
	}
	types := object{"//": true}
	for _, t := range s.Types {
		inner := d.body(s, t.Name, name+"."+t.Name)
		if len(labels) > 1 {
			inner = d.define(name+"."+t.Name+".labels", byLabel(t.Doc, inner))
		}
		types[t.Name] = oneOrMore(inner)
	}
	return d.define(name+".types", object{"type": "object", "description": s.Doc, "properties": types, "additionalProperties": false})
}

// byLabel is an object of blocks by their label.
func byLabel(doc string, inner object) object {
	return object{"type": "object", "description": doc, "properties": object{"//": true}, "additionalProperties": oneOrMore(inner)}
}

// body is what stands in the braces of a block with the given type label.
func (d definitions) body(s *blockSchema, typ, name string) object {
	if s == localsSchema {
		return d.define(name, object{"type": "object", "description": s.Doc})
	}
	properties := object{"//": true}
	required := []any{}
	for _, a := range s.attrs(typ) {
		properties[a.Name] = a.jsonSchema()
		if a.Required {
			required = append(required, a.Name)
		}
	}
	if s.ForEach {
		properties[metaForEach] = object{"description": "Map or set of strings: one block for each element.", "anyOf": []any{object{"type": "object"}, template}}
	}
	out := object{"type": "object", "description": s.Doc, "properties": properties, "additionalProperties": false}
	var needed []any
	dynamic := object{"//": true}
	for _, n := range s.blocks(typ) {
		properties[n.Kind] = oneOrMore(d.labelled(n, n.nestedLabels(), name+"."+n.Kind))
		dynamic[n.Kind] = oneOrMore(d.dynamic(n, name+"."+n.Kind))
		if n.Min > 0 {
			needed = append(needed, anyOf(object{"required": []any{n.Kind}}, object{"required": []any{"dynamic"}}))
		}
	}
	if len(dynamic) > 1 {
		properties["dynamic"] = oneOrMore(object{
			"type": "object", "description": "Blocks that are made for each element of a value.", "properties": dynamic, "additionalProperties": false,
		})
	}
	if len(required) > 0 {
		out["required"] = required
	}
	if len(needed) > 0 {
		out["allOf"] = needed
	}
	return d.define(name, out)
}

// dynamic is the inside of a dynamic block that makes blocks of a kind.
func (d definitions) dynamic(s *blockSchema, name string) object {
	content := name
	if s.typed() { // then there is one type
		content += "." + s.Types[0].Name
	}
	properties := object{
		"//":        true,
		metaForEach: anyOf(object{"type": []any{"object", "array"}}, template),
		"iterator":  object{"type": "string", "description": "Name of the element in content; by default " + s.Kind + "."},
		"content":   oneOrMore(object{"$ref": "#/$defs/" + content}),
	}
	required := []any{metaForEach, "content"}
	if len(s.nestedLabels()) > 0 {
		properties["labels"] = object{"type": "array", "items": object{"type": "string"}}
		required = append(required, "labels")
	}
	return d.define(name+".dynamic", object{"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

var template = object{"$ref": "#/$defs/template"}

func (a *attrSchema) jsonSchema() object {
	out := a.Type.jsonSchema()
	if len(a.Enum) > 0 {
		enum := []any{}
		for _, e := range a.Enum {
			enum = append(enum, e)
		}
		out = anyOf(object{"enum": enum}, template)
	}
	if !a.Required && out["anyOf"] != nil {
		out = anyOf(append(slices.Clone(out["anyOf"].([]any)), object{"type": "null"})...)
	}
	out["description"] = a.Doc
	if a.hasDefault() {
		out["default"] = a.defaultJSON()
	}
	return out
}

func (a *attrSchema) defaultJSON() json.RawMessage {
	text, err := ctyjson.Marshal(a.Default, a.Default.Type())
	if err != nil {
		return nil
	}
	return text
}

func (a *attrSchema) hasDefault() bool { return a.Default != cty.NilVal && !a.Default.IsNull() }

// jsonSchema says what may be written for a value of the type. Conversions that the language makes are allowed.
func (t *fieldType) jsonSchema() object {
	switch {
	case t.elem != nil && t.isMap:
		return anyOf(object{"type": "object", "additionalProperties": t.elem.jsonSchema()}, template)
	case t.elem != nil:
		return anyOf(object{"type": "array", "items": t.elem.jsonSchema()}, template)
	case len(t.ref) > 0:
		return anyOf(object{"type": "string", "pattern": `\$\{`, "description": t.referenceText()})
	}
	switch t {
	case tBool:
		return anyOf(object{"type": "boolean"}, object{"enum": []any{"true", "false"}}, template)
	case tInt:
		return anyOf(object{"type": "integer"}, object{"type": "string"})
	case tSize:
		return anyOf(object{"type": "integer"}, object{"type": "string", "description": "Such as \"512MiB\"."})
	case tPercent:
		return anyOf(object{"type": "number", "minimum": 0, "maximum": 100}, object{"type": "string", "description": "Such as \"5%\"."})
	case tNumber, tScalar:
		return anyOf(object{"type": []any{"string", "number"}})
	case tScalars:
		return anyOf(object{"type": "array", "items": object{"type": []any{"string", "number"}}}, template)
	case tDuration, tPath, tName, tType:
		return anyOf(object{"type": "string"})
	case tString:
		return anyOf(object{"type": []any{"string", "number", "boolean"}})
	}
	return object{}
}

// referenceText says how a reference is written in JSON.
func (t *fieldType) referenceText() string {
	var forms []string
	for _, kind := range t.ref {
		forms = append(forms, fmt.Sprintf("\"${%s}\"", language.byKind[kind].addressForm()))
	}
	return "Reference: " + strings.Join(forms, " or ") + "."
}
