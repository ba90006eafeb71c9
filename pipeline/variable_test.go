package pipeline

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/internal/diag"
)

const oneVariable = `
variable "v" {
  type    = string
  default = "default"
}
output "v" { value = var.v }
`

// valueOf loads a pipeline with a variable v and returns the JSON of its output.
func valueOf(t *testing.T, o LoadOptions) string {
	t.Helper()
	p, diags := Load(o)
	fatal(t, p, diags)
	outputs, diags := p.Outputs(t.Context(), OutputOptions{FS: world()})
	fatal(t, p, diags)
	return string(outputs[0].Value)
}

// TestPrecedence adds the ways to give a value one by one, weakest first; each must win over those before.
func TestPrecedence(t *testing.T) {
	dir := write(t, map[string]string{"x" + suffixHCL: oneVariable})
	extra := t.TempDir()
	o := LoadOptions{Dir: dir}
	file := func(dir, name, value string) string {
		t.Helper()
		text := fmt.Sprintf("v = %q\n", value)
		if strings.HasSuffix(name, ".json") {
			text = fmt.Sprintf("{%q: %q}", "v", value)
		}
		path := filepath.Join(dir, name)
		if err := writeFile(path, text); err != nil {
			t.Fatal(err)
		}
		return path
	}
	steps := []struct {
		value string
		do    func()
	}{
		{"default", func() {}},
		{"environment", func() { o.Environ = []string{"TWINKEEL_VAR_v=environment", "TWINKEEL_VAR_other=x"} }},
		{"auto a", func() { file(dir, "a"+suffixAutoHCL, "auto a") }},
		{"auto b", func() { file(dir, "b"+suffixAutoJSON, "auto b") }},
		{"auto c", func() { file(dir, "c"+suffixAutoHCL, "auto c") }},
		{"auto c", func() { file(dir, "d"+suffixVarsHCL, "not automatic") }},
		{"file", func() { o.VarFiles = []string{file(extra, "one"+suffixVarsHCL, "file")} }},
		{"second file", func() { o.VarFiles = append(o.VarFiles, file(extra, "two"+suffixVarsJSON, "second file")) }},
		{"flag", func() { o.Vars = []string{"v=flag"} }},
		{"second flag", func() { o.Vars = append(o.Vars, "v=second flag") }},
		{"later file", func() { o.Args = []VarArg{{Var: "v=earlier"}, {File: file(extra, "late"+suffixVarsHCL, "later file")}} }},
		{"last=flag", func() { o.Args = append(o.Args, VarArg{Var: "v=last=flag"}) }},
	}
	for _, s := range steps {
		s.do()
		if got := valueOf(t, o); got != fmt.Sprintf("%q", s.value) {
			t.Errorf("got %s, want %q", got, s.value)
		}
	}
}

func TestVariableValues(t *testing.T) {
	tests := map[string]struct{ declaration, given, want string }{
		"text stays text":      {`type = string`, "001", `"001"`},
		"no type is text":      {``, "true", `"true"`},
		"number":               {`type = number`, "12", `12`},
		"bool":                 {`type = bool`, "true", `true`},
		"list":                 {`type = list(number)`, `[1, 2]`, `[1,2]`},
		"optional attributes":  {`type = object({ a = string, b = optional(number, 7) })`, `{ a = "x" }`, `{"a":"x","b":7}`},
		"null is a value":      {"type = list(string)\n default = []", `null`, `null`},
		"null is the default":  {"type = list(string)\n default = [\"d\"]\n nullable = false", `null`, `["d"]`},
		"default is converted": {"type = set(string)\n default = [\"b\", \"a\", \"b\"]", "", `["a","b"]`},
		"environment":          {`default = env("HOME_OF_TEST")`, "", `"here"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{"x" + suffixHCL: "variable \"v\" {\n" + test.declaration + "\n}\noutput \"v\" { value = var.v }\n"})
			o := LoadOptions{Dir: dir, Environ: []string{"HOME_OF_TEST=here"}}
			if test.given != "" {
				o.Vars = []string{"v=" + test.given}
			}
			if got := valueOf(t, o); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestWrongValues: mistakes outside the pipeline's files name the flag, the environment variable or the file.
func TestWrongValues(t *testing.T) {
	declaration := "variable \"count\" { type = number }\nvariable \"list\" { type = list(string) }\nvariable \"pin\" {\n type = number\n sensitive = true\n default = 1\n}\n"
	extra := write(t, map[string]string{
		"typo" + suffixVarsHCL:  "cuont = 1\n",
		"ref" + suffixVarsHCL:   "count = var.list\n",
		"block" + suffixVarsHCL: "variable \"count\" {}\n",
		"x.txt":                 "count = 1\n",
	})
	tests := map[string]struct {
		o    LoadOptions
		want []string
	}{
		"flag of wrong type":    {LoadOptions{Vars: []string{"count=many"}}, []string{"--var count", "many", "is a number, and \"many\" is none"}},
		"environment":           {LoadOptions{Environ: []string{"TWINKEEL_VAR_count=many"}}, []string{"TWINKEEL_VAR_count", "is a number, and \"many\" is none"}},
		"complex type":          {LoadOptions{Vars: []string{"list=a"}}, []string{"--var list", `list(string)`, `["a", "b"]`}},
		"misspelt flag":         {LoadOptions{Vars: []string{"cuont=1"}}, []string{"--var cuont", "Did you mean count?"}},
		"no value":              {LoadOptions{Vars: []string{"count"}}, []string{"--var NAME=VALUE"}},
		"misspelt in file":      {LoadOptions{VarFiles: []string{extra + "/typo" + suffixVarsHCL}}, []string{"Warning: Unknown variable", "Did you mean count?"}},
		"reference in file":     {LoadOptions{VarFiles: []string{extra + "/ref" + suffixVarsHCL}}, []string{"plain values"}},
		"declaration in file":   {LoadOptions{VarFiles: []string{extra + "/block" + suffixVarsHCL}}, []string{"values only"}},
		"missing file":          {LoadOptions{VarFiles: []string{extra + "/none" + suffixVarsHCL}}, []string{"none" + suffixVarsHCL}},
		"unknown kind of file":  {LoadOptions{VarFiles: []string{extra + "/x.txt"}}, []string{suffixVarsHCL}},
		"deep expression":       {LoadOptions{Vars: []string{"list=" + strings.Repeat("[", 100_000)}}, []string{"Nested too deep"}},
		"secret is not shown":   {LoadOptions{Vars: []string{"pin=hunter2hunter2"}}, []string{"--var pin", "(sensitive value)"}},
		"secret in environment": {LoadOptions{Environ: []string{"TWINKEEL_VAR_pin=hunter2hunter2"}}, []string{"TWINKEEL_VAR_pin"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.o.Dir = write(t, map[string]string{"x" + suffixHCL: declaration})
			p, _, diags := diagnose(t, test.o.Dir, test.o)
			var text bytes.Buffer
			if err := diag.WriteText(&text, diags, p.Files(), diag.Options{Width: 200}); err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !strings.Contains(text.String(), want) {
					t.Errorf("%q is not in:\n%s", want, text.String())
				}
			}
			if strings.Contains(text.String(), "hunter2") {
				t.Errorf("the secret is shown:\n%s", text.String())
			}
		})
	}
}

// TestSecrets plants a secret in many places and looks for it in everything that comes out.
func TestSecrets(t *testing.T) {
	const secret = "hunter2-hunter2"
	use := map[string]string{
		"local":             `locals { l = var.s }`,
		"template":          `locals { l = "a-${var.s}-b" }`,
		"tonumber":          `locals { l = tonumber(var.s) }`,
		"tobool":            `locals { l = tobool(var.s) }`,
		"parseint":          `locals { l = parseint(var.s, 10) }`,
		"formatdate":        `locals { l = formatdate(var.s, var.s) }`,
		"timeadd":           `locals { l = timeadd(var.s, "1h") }`,
		"jsondecode":        `locals { l = jsondecode(var.s) }`,
		"yamldecode":        `locals { l = yamldecode("[${var.s}") }`,
		"regex":             `locals { l = regex("^x", var.s) }`,
		"format":            `locals { l = format("%d", var.s) }`,
		"index":             `locals { l = [1][var.s] }`,
		"key":               `locals { l = { a = 1 }[var.s] }`,
		"attribute":         `locals { l = var.s.nope }`,
		"semver":            `locals { l = semver::parse(var.s) }`,
		"bytes":             `locals { l = bytes(var.s) }`,
		"base64decode":      `locals { l = base64decode(var.s) }`,
		"file":              `locals { l = file(var.s) }`,
		"fileset":           `locals { l = fileset(".", var.s) }`,
		"templatestring":    `locals { l = templatestring("$${x.y}", { x = var.s }) }`,
		"templatestring 2":  `locals { l = templatestring(var.s, { x = 1 }) + 1 }`,
		"try":               `locals { l = try(tonumber(var.s), parseint(var.s, 10)) }`,
		"arithmetic":        `locals { l = var.s + 1 }`,
		"condition":         `locals { l = var.s ? 1 : 2 }`,
		"for":               `locals { l = [for x in var.s : x] }`,
		"for_each":          fleetPart + `artifact "x" { for_each = toset([var.s]) }`,
		"size":              `layout "x" { disk_size = var.s }`,
		"url":               `server "x" { url = var.s }`,
		"path":              `source "file" "x" { path = var.s }`,
		"name":              fleetPart + `artifact "x" { name = var.s }`,
		"passphrase":        `signer "file" "x" { private_key = var.s }`,
		"token is an error": `server "x" { token = [var.s] }`,
		"output":            `output "o" { value = { a = [var.s] } }`,
		"check":             "check \"c\" {\n assert {\n condition = var.s == \"\"\n error_message = \"It is ${var.s}.\"\n }\n}",
		"check 2":           "check \"c\" {\n assert {\n condition = var.s == \"\"\n error_message = \"It is wrong.\"\n }\n}",
		"sensitive output":  "output \"o\" {\n value = var.s\n sensitive = true\n}",
		"unused":            ``,
		"dynamic":           "rollout \"x\" {\n dynamic \"phase\" {\n for_each = [var.s]\n labels = [phase.value]\n content {}\n }\n}",
	}
	for name, text := range use {
		for _, how := range []string{"flag", "environment", "file", "default"} {
			t.Run(name+" by "+how, func(t *testing.T) {
				deflt := ""
				if how == "default" {
					deflt = "\n  default = \"" + secret + "\""
				}
				dir := write(t, map[string]string{"x" + suffixHCL: "variable \"s\" {\n  type = string\n  sensitive = true" + deflt + "\n}\n" + text + "\n"})
				o := LoadOptions{Dir: dir}
				switch how {
				case "flag":
					o.Vars = []string{"s=" + secret}
				case "environment":
					o.Environ = []string{"TWINKEEL_VAR_s=" + secret}
				case "file":
					if err := writeFile(filepath.Join(dir, "x"+suffixAutoHCL), "s = \""+secret+"\"\n"); err != nil {
						t.Fatal(err)
					}
				}
				p, plan, diags := diagnose(t, dir, o)
				outputs, _ := p.Outputs(t.Context(), OutputOptions{FS: world()})
				var out bytes.Buffer
				w := &out
				if err := diag.WriteText(w, diags, p.Files(), diag.Options{}); err != nil {
					t.Fatal(err)
				}
				w.Write(diag.JSON(diags, p.Files()))
				fmt.Fprintf(w, "%v %+v %#v\n", plan, plan, plan)
				for _, o := range outputs {
					w.Write(o.Value)
				}
				shown := out.String()
				if how == "default" { // the source line itself may be quoted; that is what the redactor is for
					shown = diag.Redact(shown, p.Secrets())
				}
				if strings.Contains(shown, "hunter2") {
					t.Errorf("the secret is shown:\n%s", shown)
				}
				if d := cmp.Diff([]string{secret}, p.Secrets()[len(p.Secrets())-1:]); d != "" {
					t.Errorf("secrets (-want +got):\n%s", d)
				}
			})
		}
	}
}

const fleetPart = "layout \"ab\" {\n slots \"rootfs\" {\n size = 1\n filesystem = \"ext4\"\n }\n}\n"

// TestSecretsReachTheirPlaces: where secrets belong they arrive in clear, and nowhere else.
func TestSecretsReachTheirPlaces(t *testing.T) {
	_, plan := mustPlan(t, source(t, fleet), LoadOptions{Vars: []string{"server_token=hunter2", "channel=prod"}})
	a := plan.Actions[0].Artifact
	if string(a.Signer.Passphrase) != "hunter2" || fmt.Sprintf("%v %+v %#v %s", *a.Signer, *a.Signer, *a.Signer, a.Signer.Passphrase) == "" {
		t.Errorf("passphrase is %q", string(a.Signer.Passphrase))
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if text := fmt.Sprintf(verb, *a.Signer); strings.Contains(text, "hunter2") {
			t.Errorf("%s shows the secret: %s", verb, text)
		}
	}
}
