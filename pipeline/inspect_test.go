package pipeline

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lookPipeline has a value of every sort: known, computed, unknown until built, secret, chosen by a condition.
const lookPipeline = `
variable "version" {
  default = "1.0"
}
variable "pin" {
  sensitive = true
  default   = "PLANTED-PIN"
}
locals {
  prod   = false
  signer = local.prod ? signer.pkcs11.hsm : signer.file.dev
  sets   = { "a b" = toset(["x"]), n = [1, 2.5, true, null] }
  half   = { pin = var.pin, ok = 1 }
}
signer "file" "dev" {
  private_key = "dev.pem"
}
signer "pkcs11" "hsm" {
  uri = "pkcs11:token=fleet"
  pin = var.pin
}
layout "ab" {
  slots "rootfs" {
    size       = "8MiB"
    filesystem = "ext4"
  }
}
device_type "board" {
  for_each     = toset(["rpi4", "x86"])
  type         = each.key
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" {
    environment = "env"
  }
}
artifact "app" {
  for_each     = device_type.board
  name         = "app-${var.version}"
  device_types = [each.value]
  signer       = local.signer
  payload "single-file" {
    file        = "app.bin"
    destination = "/opt/"
  }
}
artifact "none" {
  for_each     = {}
  name         = "none"
  device_types = values(device_type.board)
  payload "single-file" {
    file        = "app.bin"
    destination = "/opt/"
  }
}
check "size" {
  assert {
    condition     = artifact.app["rpi4"].size < 1000
    error_message = "Too large."
  }
}
output "sizes" {
  value = { for k, a in artifact.app : k => a.size }
}
`

func lookAt(t *testing.T, src string) *Pipeline {
	t.Helper()
	src = strings.Replace(src, `layout "ab" {`, "layout \"ab\" {\n  reserve \"env\" {\n    offset = \"1MiB\"\n    size   = \"128KiB\"\n  }\n  partition \"data\" {\n    size = \"4MiB\"\n    filesystem = \"ext4\"\n    mount = \"/data\"\n  }", 1)
	p, diags := Load(LoadOptions{Dir: write(t, map[string]string{"a.twinkeel.hcl": src}), Vars: []string{"version=2.0"}})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return p
}

func inspect(t *testing.T, p *Pipeline, targets ...string) map[string]Inspected {
	t.Helper()
	found, diags := p.Inspect(t.Context(), InspectOptions{Targets: targets, Offline: true})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	out := make(map[string]Inspected)
	for _, one := range found {
		out[one.Address] = one
	}
	return out
}

func TestInspect(t *testing.T) {
	t.Parallel()
	all := inspect(t, lookAt(t, lookPipeline))
	if got := len(all); got != 2+4+2+1+2+2+1 {
		t.Errorf("%d values: %v", got, keys(all))
	}
	for address, want := range map[string]string{
		"var.version":       `"2.0"`,
		"var.pin":           "(sensitive value)",
		"local.sets":        "{\n  \"a b\" = toset([\"x\"])\n  n     = [1, 2.5, true, null]\n}",
		"local.half":        "{\n  ok  = 1\n  pin = (sensitive value)\n}",
		"output.sizes":      "{\n  rpi4 = (not known offline)\n  x86  = (not known offline)\n}",
		"signer.pkcs11.hsm": "{\n  uri = \"pkcs11:token=fleet\"\n  pin = (sensitive value)\n  # computed\n  key_id     = (not known offline)\n  public_key = (not known offline)\n}",
		`artifact.app["x86"]`: `{
  name             = "app-2.0"
  device_types     = [device_type.board["x86"]]
  signer           = signer.file.dev
  default_provides = true
  provenance       = false
  payload "single-file" {
    file        = "app.bin"
    destination = "/opt/"
  }
  # computed
  path   = "out/artifacts/app-x86.mender"
  size   = (not known offline)
  sha256 = (not known offline)
  signed = true
}`,
	} {
		if d := cmp.Diff(want, all[address].Text); d != "" {
			t.Errorf("%s (-want +got):\n%s", address, d)
		}
	}
	if got := all["var.version"].Origin; got != "--var version" {
		t.Errorf("var.version comes from %q", got)
	}
	app := all[`artifact.app["rpi4"]`]
	if d := cmp.Diff([]string{".size", ".sha256"}, app.Unknown); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{".pin"}, all["local.half"].Sensitive); d != "" {
		t.Error(d)
	}
	value := app.Value.(map[string]any)
	payload, _ := value["payload"].([]any)
	if len(payload) != 1 || !cmp.Equal(payload[0].(map[string]any)["labels"], []any{"single-file"}) {
		t.Errorf("payload: %v", value["payload"])
	}
	text, err := json.Marshal(all)
	if err != nil || strings.Contains(string(text), "PLANTED") {
		t.Errorf("%v, or the secret is shown: %s", err, text)
	}
}

// TestInspectNames holds the names in values apart: an argument and something else of the same name would hide each other.
func TestInspectNames(t *testing.T) {
	t.Parallel()
	var visit func(s *blockSchema, attrs []*attrSchema, blocks []*blockSchema)
	visit = func(s *blockSchema, attrs []*attrSchema, blocks []*blockSchema) {
		seen := map[string]bool{"labels": true}
		for _, a := range attrs {
			if seen[a.Name] {
				t.Errorf("%s of %s hides something", a.Name, s.Kind)
			}
			seen[a.Name] = true
		}
		for _, n := range blocks {
			if seen[n.Kind] {
				t.Errorf("%s in %s hides something", n.Kind, s.Kind)
			}
			visit(n, n.Attrs, n.Blocks)
		}
	}
	for _, s := range language.blocks {
		visit(s, s.Attrs, s.Blocks)
		for _, typ := range s.typeNames() {
			visit(s, s.attrs(typ), s.blocks(typ))
		}
	}
}

// TestInspectUnknownKeys shows a block whose keys nobody knows.
func TestInspectUnknownKeys(t *testing.T) {
	t.Parallel()
	p := lookAt(t, strings.Replace(lookPipeline, "for_each     = toset([\"rpi4\", \"x86\"])", "for_each     = var.keys", 1)+"variable \"keys\" {\n  type = set(string)\n}\n")
	all := inspect(t, p, "device_type")
	if got := all["device_type.board[…]"].Text; !strings.Contains(got, "type         = (not known offline)") {
		t.Errorf("%v", all)
	}
}

func TestInspectTargets(t *testing.T) {
	t.Parallel()
	p := lookAt(t, lookPipeline)
	for target, want := range map[string][]string{
		"var.version":         {"var.version"},
		"var.*":               {"var.pin", "var.version"},
		"artifact":            {`artifact.app["rpi4"]`, `artifact.app["x86"]`},
		"artifact.app[rpi4]":  {`artifact.app["rpi4"]`},
		`artifact.app["x86"]`: {`artifact.app["x86"]`},
		"artifact.*[*4]":      {`artifact.app["rpi4"]`},
		"artifact.none":       {},
		"signer.file":         {"signer.file.dev"},
		"output.sizes":        {"output.sizes"},
		"*.app*":              {`artifact.app["rpi4"]`, `artifact.app["x86"]`},
	} {
		got := keys(inspect(t, p, target))
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", target, d)
		}
	}
	for target, want := range map[string]string{
		"artifact.ap":        "artifact.app",
		"artifact.app[rpi5]": `artifact.app["rpi4"]`,
		"nothing":            "Nothing is called nothing",
		"":                   "Nothing is called",
	} {
		_, diags := p.Inspect(t.Context(), InspectOptions{Targets: []string{target}, Offline: true})
		if !diags.HasErrors() || !strings.Contains(diags[0].Detail, want) {
			t.Errorf("%q: %v", target, diags)
		}
	}
}

// TestInspectReadsFilesOnlyForTargets looks at a variable of a pipeline whose sources are not there.
func TestInspectReadsFilesOnlyForTargets(t *testing.T) {
	t.Parallel()
	p, diags := Load(LoadOptions{Dir: write(t, map[string]string{"a.twinkeel.hcl": `
source "file" "app" {
  path = "missing"
}
locals {
  a = 1
  b = source.file.app.size
}
`})})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if found, diags := p.Inspect(t.Context(), InspectOptions{Targets: []string{"local.a"}}); len(found) != 1 || diags.HasErrors() {
		t.Error(found, diags)
	}
	if found, diags := p.Inspect(t.Context(), InspectOptions{Targets: []string{"local.b"}}); found != nil || !diags.HasErrors() {
		t.Error(found, diags)
	}
	if found, diags := p.Inspect(t.Context(), InspectOptions{Offline: true}); len(found) != 3 || diags.HasErrors() {
		t.Error(found, diags)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	p := lookAt(t, lookPipeline)
	if d := cmp.Diff([]string{"artifact.app[rpi4]", "artifact.app[x86]", "artifact.none"}, p.Addresses("artifact")); d != "" {
		t.Error(d)
	}
	broken, diags := Load(LoadOptions{Dir: write(t, map[string]string{"a.twinkeel.hcl": `artifact "x" {` + "\n" + `  name = var.gone` + "\n}\n"})})
	if !diags.HasErrors() || !slices.Equal(broken.Addresses(), []string{"artifact.x"}) {
		t.Error(broken.Addresses(), diags)
	}
	nothing, _ := Load(LoadOptions{Dir: t.TempDir()})
	if got := nothing.Addresses(); len(got) != 0 {
		t.Error(got)
	}
}

func TestConsole(t *testing.T) {
	t.Parallel()
	c, diags := lookAt(t, lookPipeline).Console(t.Context(), InspectOptions{Offline: true})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, one := range []struct{ expr, want, problem string }{
		{expr: `1 + 2`, want: "3"},
		{expr: `local.signer.id`, want: `"signer.file.dev"`},
		{expr: `var.gone`, problem: "There is no variable var.gone"},
		{expr: `var.version`, want: `"2.0"`}, // where var.gone stood
		{expr: `"${var.pin}!"`, want: "(sensitive value)"},
		{expr: `type(local.half)`, want: "(sensitive value)"},
		{expr: `type(artifact.app["x86"].size)`, want: `"number"`},
		{expr: `[for k, a in artifact.app : upper(k)]`, want: `["RPI4", "X86"]`},
		{expr: `artifact.app["x86"].sha256`, want: "(not known offline)"},
		{expr: `parseint("x", 10)`, problem: "base 10"},
		{expr: `parseint("x", 10)`, problem: "base 10"}, // reported again
		{expr: `each.key`, problem: "for_each"},
		{expr: `timestamp()`, problem: "two builds"},
		{expr: `1 +`, problem: "expression"},
		{expr: strings.Repeat("(", 100_000), problem: "open here"},
		{expr: strings.Repeat(" ", 2<<20), problem: "not read"},
		{expr: "<<EOT\na\nEOT\n", want: `"a\n"`},
		{expr: `"\u001b[31m"`, want: `"\u001b[31m"`},
		{expr: `keys(device_type)`, want: `["board"]`},
	} {
		shown, diags := c.Eval(one.expr)
		name := shorten(one.expr)
		switch {
		case one.problem == "" && (diags.HasErrors() || shown.Text != one.want):
			t.Errorf("%s: %q, %v; want %q", name, shown.Text, diags, one.want)
		case one.problem != "" && (!diags.HasErrors() || !strings.Contains(diags.Error()+diags[0].Detail, one.problem)):
			t.Errorf("%s: %q, %v; want a problem with %q", name, shown.Text, diags, one.problem)
		}
	}
}

func TestOpenExpression(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]bool{
		"": false, "1": false, "[": true, "[1,\n2]": false, "{ a = (1": true, `"a`: false, "<<EOT\na": true, "<<EOT\na\nEOT": false,
		"]": false, "f(\n\"x\",": true, `"${f(`: true, `"[" `: false,
	} {
		if got := OpenExpression(src); got != want {
			t.Errorf("%q: %v", src, got)
		}
	}
}

func FuzzConsole(f *testing.F) {
	for _, s := range []string{"1", "var.version", "[for x in [1]: x]", "type(var.pin)", `"${var.pin}"`, "artifact.app[*]", "<<A\nA", "a::b()", "[[[["} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		c, _ := lookAt(t, lookPipeline).Console(t.Context(), InspectOptions{Offline: true})
		OpenExpression(src)
		shown, _ := c.Eval(src)
		if strings.Contains(shown.Text, "PLANTED-PIN") && !strings.Contains(src, "nonsensitive") && !strings.Contains(src, "PLANTED") {
			t.Errorf("%q shows the secret: %s", src, shown.Text)
		}
		if _, err := json.Marshal(shown); err != nil {
			t.Errorf("%q: %v", src, err)
		}
	})
}

func TestFunctionInfos(t *testing.T) {
	t.Parallel()
	byName := make(map[string]FunctionInfo)
	for _, f := range Functions() {
		if f.Description == "" || !strings.HasPrefix(f.Signature, f.Name+"(") {
			t.Errorf("%+v", f)
		}
		byName[f.Name] = f
	}
	if d := cmp.Diff([]ParameterInfo{{"separator", "string"}}, byName["join"].Parameters); d != "" {
		t.Error(d)
	}
	if v := byName["join"].Variadic; v == nil || *v != (ParameterInfo{"lists", "list(string)"}) {
		t.Errorf("join takes %v", v)
	}
	for name := range functionTable(&Pipeline{}, nil) {
		if _, ok := byName[name]; !ok && ReplacedFunction(name) == "" {
			t.Errorf("%s is not described", name)
		}
	}
}
