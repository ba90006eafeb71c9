package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// jsonChecker checks documents against the part of JSON Schema that our schema uses, and fails on any other word in it.
type jsonChecker struct {
	t    *testing.T
	defs map[string]any
}

func newJSONChecker(t *testing.T) (*jsonChecker, map[string]any) {
	t.Helper()
	text, err := json.Marshal(JSONSchema())
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	return &jsonChecker{t, schema["$defs"].(map[string]any)}, schema
}

// check returns what is wrong with a value: a path and a reason, or nothing.
func (c *jsonChecker) check(schema any, v any, at string) string {
	if all, ok := schema.(bool); ok {
		if all {
			return ""
		}
		return at + " is not allowed"
	}
	s := schema.(map[string]any)
	for _, word := range keys(s) {
		problem := ""
		switch arg := s[word]; word {
		case "$schema", "$defs", "title", "description", "default":
		case "$ref":
			name := strings.TrimPrefix(arg.(string), "#/$defs/")
			if c.defs[name] == nil {
				c.t.Fatalf("%s is not defined", name)
			}
			problem = c.check(c.defs[name], v, at)
		case "anyOf":
			var reasons []string
			for _, one := range arg.([]any) {
				reason := c.check(one, v, at)
				if reason == "" {
					reasons = nil
					break
				}
				reasons = append(reasons, reason)
			}
			problem = strings.Join(reasons, " or ")
		case "allOf":
			for _, one := range arg.([]any) {
				if problem == "" {
					problem = c.check(one, v, at)
				}
			}
		case "type":
			types, ok := arg.([]any)
			if !ok {
				types = []any{arg}
			}
			if !slices.Contains(types, any(jsonType(v))) && (jsonType(v) != "integer" || !slices.Contains(types, any("number"))) {
				problem = fmt.Sprintf("%s is %s, not %v", at, jsonType(v), arg)
			}
		case "enum":
			if !slices.ContainsFunc(arg.([]any), func(e any) bool { return reflect.DeepEqual(e, v) }) {
				problem = fmt.Sprintf("%s is none of %v", at, arg)
			}
		case "pattern":
			if text, ok := v.(string); ok && !regexp.MustCompile(arg.(string)).MatchString(text) {
				problem = fmt.Sprintf("%s does not match %s", at, arg)
			}
		case "minimum", "maximum":
			if n, ok := v.(float64); ok && (word == "minimum" && n < arg.(float64) || word == "maximum" && n > arg.(float64)) {
				problem = at + " is out of range"
			}
		case "required":
			if object, ok := v.(map[string]any); ok {
				for _, name := range arg.([]any) {
					if _, ok := object[name.(string)]; !ok {
						problem = fmt.Sprintf("%s lacks %s", at, name)
					}
				}
			}
		case "items":
			if list, ok := v.([]any); ok {
				for i, item := range list {
					if problem == "" {
						problem = c.check(arg, item, fmt.Sprintf("%s[%d]", at, i))
					}
				}
			}
		case "properties", "additionalProperties":
			if word == "properties" {
				problem = c.properties(s, v, at)
			} else if s["properties"] == nil {
				problem = c.properties(map[string]any{"properties": map[string]any{}, "additionalProperties": arg}, v, at)
			}
		default:
			c.t.Fatalf("the schema uses %q, which the checker does not know", word)
		}
		if problem != "" {
			return problem
		}
	}
	return ""
}

func (c *jsonChecker) properties(s map[string]any, v any, at string) string {
	object, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	known := s["properties"].(map[string]any)
	for _, name := range keys(object) {
		sub, ok := known[name]
		if !ok {
			if sub = s["additionalProperties"]; sub == nil {
				continue
			}
		}
		if problem := c.check(sub, object[name], at+"."+name); problem != "" {
			return problem
		}
	}
	return ""
}

func jsonType(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	}
	return "object"
}

// TestJSONSchemaTakesPipelines holds the schema against pipelines in JSON: those written by hand, and the repository's in
// native syntax, converted. The language itself takes each of them, too.
func TestJSONSchemaTakesPipelines(t *testing.T) {
	t.Parallel()
	c, schema := newJSONChecker(t)
	docs := map[string][]byte{"reference.twinkeel.hcl": referenceExample}
	for _, pattern := range []string{"testdata/json/*.twinkeel.json", "testdata/pipelines/*.twinkeel.hcl", "../examples/*/*.twinkeel.hcl"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v, %v", pattern, names, err)
		}
		for _, name := range names {
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			docs[name] = src
		}
	}
	for name, src := range docs {
		var v any
		if strings.HasSuffix(name, suffixHCL) {
			src, v = toJSON(t, name, src)
		} else if err := json.Unmarshal(src, &v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if problem := c.check(schema, v, ""); problem != "" {
			t.Errorf("%s: the schema says: %s\n%s", name, problem, src)
		}
		if all, _ := filepath.Glob(filepath.Join(filepath.Dir(name), "*"+suffixHCL)); len(all) > 1 {
			continue // the rest of the pipeline is elsewhere
		}
		p, diags := Load(LoadOptions{Dir: write(t, map[string]string{"a.twinkeel.json": string(src), "modules/kiosk/kiosk.twinkeel.hcl": string(referenceModule)})})
		for _, d := range slices.Concat(diags, p.Validate()) {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// TestJSONSchemaRefuses breaks a good document in ways that an editor should show.
func TestJSONSchemaRefuses(t *testing.T) {
	t.Parallel()
	c, schema := newJSONChecker(t)
	src, err := os.ReadFile("testdata/json/board.twinkeel.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"artifact": {`, `"artefact": {`},
		{`"layout": "${layout.ab}"`, `"layout": "layout.ab"`},
		{`"name": "${local.release}",`, ``},
		{`"payload":`, `"pay":`},
		{`"table": "gpt"`, `"table": "ext"`},
		{`"alignment": 1048576`, `"alignment": 1.5`},
		{`"bootable": true`, `"bootable": 1`},
		{`"file": {"rootfs"`, `"fil": {"rootfs"`},
		{`"u-boot"`, `"uboot"`},
		{`"groups": ["field"]`, `"groups": "field"`},
		{`"retries": 2`, `"retries": 2, "retires": 2`},
		{`"labels": ["${phase.value.name}"],`, ``},
		{`"provides": {"channel": "${var.version}"}`, `"provides": ["a"]`},
		{`"condition": "${local.n < 4}",`, ``},
		{`"percent": "${phase.value.percent}"`, `"per": 1`},
	} {
		bad := strings.Replace(string(src), change[0], change[1], 1)
		var v any
		if err := json.Unmarshal([]byte(bad), &v); err != nil || bad == string(src) {
			t.Fatalf("%s: %v", change[1], err)
		}
		if problem := c.check(schema, v, ""); problem == "" {
			t.Errorf("the schema takes %q in place of %q", change[1], change[0])
		}
	}
}

// toJSON writes a pipeline in JSON syntax. The text keeps the order of blocks of different kinds, for which a name may stand
// there twice; the value has them together.
func toJSON(t *testing.T, name string, src []byte) (text []byte, v any) {
	t.Helper()
	file, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	body := bodyToJSON(file.Body.(*hclsyntax.Body), src)
	text, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	grouped, err := json.Marshal(body.grouped())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(grouped, &v); err != nil {
		t.Fatal(err)
	}
	return text, v
}

// orderedJSON is an object whose properties keep their order.
type orderedJSON []jsonProperty

type jsonProperty struct {
	name  string
	value any
}

func (o orderedJSON) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, p := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(p.name)
		value, err := json.Marshal(p.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s:%s", name, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (o orderedJSON) grouped() any {
	out := make(map[string]any)
	for _, p := range o {
		value := p.value
		if inner, ok := value.(orderedJSON); ok {
			value = inner.grouped()
			if before := out[p.name]; before != nil {
				list, ok := before.([]any)
				if !ok {
					list = []any{before}
				}
				value = append(list, value)
			}
		}
		out[p.name] = value
	}
	return out
}

func bodyToJSON(body *hclsyntax.Body, src []byte) orderedJSON {
	out := orderedJSON{}
	for _, a := range sortedAttributes(body) {
		out = append(out, jsonProperty{a.Name, exprToJSON(a.Expr, src, a.Name)})
	}
	for _, b := range body.Blocks {
		inner := bodyToJSON(b.Body, src)
		for _, label := range slices.Backward(b.Labels) {
			inner = orderedJSON{{label, inner}}
		}
		out = append(out, jsonProperty{b.Type, inner})
	}
	return out
}

func exprToJSON(expr hclsyntax.Expression, src []byte, name string) any {
	r := expr.Range()
	text := string(src[r.Start.Byte:r.End.Byte])
	refers := slices.ContainsFunc(expr.Variables(), func(t hcl.Traversal) bool { return rootNames[t.RootName()] })
	if name == "type" && !strings.HasPrefix(text, `"`) && !refers || name == "iterator" {
		return text // read as it stands
	}
	switch e := expr.(type) {
	case *hclsyntax.TupleConsExpr:
		list := []any{}
		for _, item := range e.Exprs {
			list = append(list, exprToJSON(item, src, ""))
		}
		return list
	case *hclsyntax.LiteralValueExpr:
		data, _ := ctyjson.Marshal(e.Val, e.Val.Type())
		return json.RawMessage(data)
	case *hclsyntax.TemplateExpr:
		if v, diags := e.Value(nil); !diags.HasErrors() && e.IsStringLiteral() && !strings.ContainsAny(v.AsString(), "$%") {
			return v.AsString()
		}
	}
	if strings.Contains(text, "<<") {
		v, _ := expr.Value(nil)
		return v.AsString()
	}
	return "${" + text + "}"
}

// TestSchemaInfos finds what the table holds and its description does not.
func TestSchemaInfos(t *testing.T) {
	t.Parallel()
	infos := Schema()
	if len(infos) != len(language.blocks) {
		t.Fatalf("%d kinds of %d", len(infos), len(language.blocks))
	}
	for i, s := range language.blocks {
		k := infos[i]
		if k.Kind != s.Kind || len(k.Arguments) != len(s.Attrs) || len(k.Types) != len(s.Types) || len(k.Blocks) != len(s.Blocks) || k.Description == "" {
			t.Errorf("%+v", k)
		}
	}
	text, err := json.Marshal(infos)
	if err != nil || !bytes.Contains(text, []byte(`"default":["ext4","squashfs","erofs"]`)) {
		t.Errorf("%v in %s", err, text)
	}
}
