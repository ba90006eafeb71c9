package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"

	"github.com/twinkeel/twinkeel/internal/diag"
)

const fleet = "testdata/pipelines/fleet" + suffixHCL

func source(t testing.TB, name string) string {
	t.Helper()
	src, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(src)
}

// mustPlan plans a pipeline in which nothing is wrong.
func mustPlan(t *testing.T, text string, o LoadOptions, targets ...string) (*Pipeline, *Plan) {
	t.Helper()
	p := mustLoad(t, text, o)
	plan, diags := p.Plan(t.Context(), PlanOptions{FS: world(), Targets: targets})
	fatal(t, p, diags)
	return p, plan
}

func mustLoad(t testing.TB, text string, o LoadOptions) *Pipeline {
	t.Helper()
	name := "x" + suffixHCL
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		name = "x" + suffixJSON
	}
	if o.Dir == "" {
		o.Dir = write(t, map[string]string{name: text})
	}
	o.Layouts = testLayouts{}
	p, diags := Load(o)
	fatal(t, p, diags)
	fatal(t, p, p.Validate())
	return p.at("/p")
}

func fatal(t testing.TB, p *Pipeline, diags hcl.Diagnostics) {
	t.Helper()
	if len(diags) > 0 {
		var text bytes.Buffer
		if err := diag.WriteText(&text, diags, p.Files(), diag.Options{}); err != nil {
			t.Fatal(err)
		}
		t.Fatal(text.String())
	}
}

func addresses(plan *Plan) []string {
	var out []string
	for _, a := range plan.Actions {
		out = append(out, a.Address)
	}
	return out
}

// TestPlanFleet plans a pipeline that uses most of the language and keeps the plan as JSON.
func TestPlanFleet(t *testing.T) {
	_, plan := mustPlan(t, source(t, fleet), LoadOptions{Environ: []string{"SOURCE_DATE_EPOCH=1700000000"}})
	if plan.OutDir != "/p/out" || !plan.Epoch.Equal(time.Unix(1_700_000_000, 0)) {
		t.Errorf("out %s, epoch %s", plan.OutDir, plan.Epoch)
	}
	got, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := "testdata/pipelines/fleet.plan.json"
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(source(t, golden), string(got)+"\n"); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
}

// TestChosenSigner: of the two signers in a conditional the plan names the one that was chosen.
func TestChosenSigner(t *testing.T) {
	for channel, want := range map[string]string{"dev": "signer.file.dev", "prod": "signer.file.release"} {
		_, plan := mustPlan(t, source(t, fleet), LoadOptions{Vars: []string{"channel=" + channel}})
		if got := plan.Actions[0].Artifact.Signer.Address; got != want {
			t.Errorf("%s: signed by %s, want %s", channel, got, want)
		}
	}
}

func TestTargets(t *testing.T) {
	tests := map[string]struct{ targets, want []string }{
		"all":            {nil, []string{"artifact.app", `artifact.os["new"]`, `artifact.os["old"]`, "image.new", "rollout.os", "rollout.app"}},
		"one":            {[]string{"artifact.app"}, []string{"artifact.app"}},
		"with its needs": {[]string{"image.new"}, []string{`artifact.os["new"]`, "image.new"}},
		"glob":           {[]string{"artifact.*"}, []string{"artifact.app", `artifact.os["new"]`, `artifact.os["old"]`}},
		"all instances":  {[]string{"artifact.os"}, []string{`artifact.os["new"]`, `artifact.os["old"]`}},
		"instance":       {[]string{`artifact.os["old"]`}, []string{`artifact.os["old"]`}},
		"unquoted key":   {[]string{"artifact.os[old]"}, []string{`artifact.os["old"]`}},
		"depends_on":     {[]string{"rollout.app"}, []string{"artifact.app", `artifact.os["new"]`, `artifact.os["old"]`, "rollout.os", "rollout.app"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, plan := mustPlan(t, source(t, fleet), LoadOptions{}, test.targets...)
			got := addresses(plan)
			if len(test.targets) > 0 {
				slices.Sort(got)
				slices.Sort(test.want)
			}
			slices.Sort(got)
			slices.Sort(test.want)
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("actions (-want +got):\n%s", d)
			}
		})
	}
	for target, want := range map[string]string{
		"artifact.so":         "Did you mean artifact.os?",
		"artifact.os[nwe]":    `Did you mean artifact.os["new"]?`,
		"signer.file.dev":     "makes nothing by itself",
		"image.*x":            "Did you mean image.new?",
		"server.s":            "There are: ",
		"rollout.os[\"new\"]": "Did you mean rollout.os?",
	} {
		p := mustLoad(t, source(t, fleet), LoadOptions{})
		_, diags := p.Plan(t.Context(), PlanOptions{FS: world(), Targets: []string{target}})
		if len(diags) != 1 || !strings.Contains(diags[0].Detail, want) {
			t.Errorf("%s: got %v, want %q", target, diags, want)
		}
	}
}

// TestOrder: an action stands after everything it depends on.
func TestOrder(t *testing.T) {
	_, plan := mustPlan(t, source(t, fleet), LoadOptions{})
	seen := make(map[string]bool)
	for _, a := range plan.Actions {
		for _, need := range a.DependsOn {
			if !seen[need] {
				t.Errorf("%s stands before %s", a.Address, need)
			}
		}
		seen[a.Address] = true
	}
}

// TestTargetNeedsNoOther: what is not asked for is not looked at, so its missing inputs do not matter.
func TestTargetNeedsNoOther(t *testing.T) {
	text := source(t, fleet) + `
source "file" "absent" { path = "absent.bin" }
artifact "absent" {
  name         = "x"
  device_types = [device_type.board]
  payload "edge-app" { file = source.file.absent.path }
}
`
	mustPlan(t, text, LoadOptions{}, "image.new")
	p := mustLoad(t, text, LoadOptions{})
	if _, diags := p.Plan(t.Context(), PlanOptions{FS: world()}); !diags.HasErrors() {
		t.Error("the missing file was not noticed")
	}
}

func yoctoPipeline(dir, extra string) string {
	return fmt.Sprintf(`
source "yocto" "y" {
  deploy_dir = "deploy/%s"
  machine    = "qemux86-64"
  image      = "demo-image"
  %s
}
output "facts" { value = source.yocto.y }
`, dir, extra)
}

// TestYocto reads deploy directories of both naming schemes.
func TestYocto(t *testing.T) {
	tests := map[string]struct {
		dir, extra string
		want       map[string]any
	}{
		"link": {"new", "", map[string]any{
			"rootfs": "deploy/new/demo-image-qemux86-64.rootfs-20260202000000.ext4", "rootfs_type": "ext4", "rootfs_size": float64(60 << 20),
			"manifest": "deploy/new/demo-image-qemux86-64.rootfs.manifest", "distro_version": "5.0.1", "build_id": "20260202000000",
			"kernel": "deploy/new/bzImage", "packages": map[string]any{"busybox": "1.36.1", "openssl": "3.2.0"},
			"boot_files": map[string]any{
				"bzImage": "deploy/new/bzImage", "boot/boot.scr": "deploy/new/boot.scr",
				"overlays/a.dtbo": "deploy/new/overlays/a.dtbo", "overlays/b.dtbo": "deploy/new/overlays/b.dtbo",
			},
		}},
		"newest by date": {"old", "", map[string]any{
			"rootfs": "deploy/old/demo-image-qemux86-64-20220303000000.rootfs.ext4", "rootfs_size": float64(41 << 20),
			"manifest": "deploy/old/demo-image-qemux86-64-20220303000000.rootfs.manifest", "distro_version": "4.0", "build_id": "20220303000000",
			"testdata": "deploy/old/demo-image-qemux86-64-20220303000000.testdata.json", "kernel": "deploy/old/zImage-qemux86-64.bin",
			"boot_files": map[string]any{},
		}},
		"arguments": {"new", `kernel = "bzImage--*.bin"
  boot_files = { "dt/" = "overlays/*", "k" = "bzImage" }`, map[string]any{
			"kernel": "deploy/new/bzImage--6.6-r0-qemux86-64-20260202000000.bin",
			"boot_files": map[string]any{
				"dt/a.dtbo": "deploy/new/overlays/a.dtbo", "dt/b.dtbo": "deploy/new/overlays/b.dtbo", "dt/README": "deploy/new/overlays/README",
				"k": "deploy/new/bzImage",
			},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := mustLoad(t, yoctoPipeline(test.dir, test.extra), LoadOptions{})
			outputs, diags := p.Outputs(t.Context(), OutputOptions{FS: world()})
			fatal(t, p, diags)
			got := make(map[string]any)
			if err := json.Unmarshal(outputs[0].Value, &got); err != nil {
				t.Fatal(err)
			}
			for key, want := range test.want {
				if d := cmp.Diff(want, got[key]); d != "" {
					t.Errorf("%s (-want +got):\n%s", key, d)
				}
			}
		})
	}
}

// jsonPipeline is JSON syntax with for_each, dynamic and references.
const jsonPipeline = `{
  "//": "a comment",
  "variable": {"version": {"type": "string", "default": "1.0.0"}},
  "layout": {"ab": {"slots": {"rootfs": {"size": "64MiB", "filesystem": "ext4"}}, "reserve": {"env": {"offset": "1MiB", "size": "128KiB"}}}},
  "device_type": {"d": {"architecture": "arm64", "layout": "${layout.ab}", "bootloader": {"u-boot": {"environment": "env"}}}},
  "artifact": {"os": {
    "for_each": {"a": "good.ext4"},
    "name": "os-${var.version}",
    "device_types": ["${device_type.d}"],
    "payload": {"rootfs-image": {"file": "${each.value}"}}
  }},
  "server": {"s": {"url": "https://ota.example.com"}},
  "rollout": {"r": {
    "server": "${server.s}",
    "artifacts": "${values(artifact.os)}",
    "dynamic": {"phase": {"for_each": [10, 100], "labels": ["p${phase.value}"], "content": {"percent": "${phase.value}"}}}
  }},
  "output": {"path": {"value": "${artifact.os[\"a\"].path}"}}
}
`

func TestJSONSyntax(t *testing.T) {
	p, plan := mustPlan(t, jsonPipeline, LoadOptions{})
	if d := cmp.Diff([]string{`artifact.os["a"]`, "rollout.r"}, addresses(plan)); d != "" {
		t.Errorf("actions (-want +got):\n%s", d)
	}
	if got := plan.Actions[1].Rollout.Phases; len(got) != 2 || got[0].Name != "p10" || got[1].Percent != 100 {
		t.Errorf("phases: %+v", got)
	}
	outputs, diags := p.Outputs(t.Context(), OutputOptions{FS: world()})
	fatal(t, p, diags)
	if string(outputs[0].Value) != `"out/artifacts/os-a.mender"` {
		t.Errorf("output: %s", outputs[0].Value)
	}
	// A misspelt argument is found in JSON too, with its place.
	dir := write(t, map[string]string{"x" + suffixJSON: `{"server":{"s":{"ulr":"https://x"}}}`})
	_, diags = Load(LoadOptions{Dir: dir})
	if !diags.HasErrors() || diags[0].Subject == nil || !strings.Contains(diags[0].Detail, "ulr") {
		t.Errorf("got %v", diags)
	}
}

// TestSeveralFiles: the files of a directory make one pipeline, whatever editors left beside them.
func TestSeveralFiles(t *testing.T) {
	dir := write(t, map[string]string{
		"a" + suffixHCL:         "locals { a = local.b }\noutput \"a\" { value = local.a }",
		"b" + suffixHCL:         "\ufefflocals { b = \"from b\" }",
		".hidden" + suffixHCL:   "nonsense",
		"c" + suffixHCL + "~":   "nonsense",
		"#d" + suffixHCL:        "nonsense",
		"notes.hcl":             "nonsense",
		"sub/e" + suffixHCL:     "nonsense",
		"x" + suffixHCL + "/in": "nonsense",
	})
	p := mustLoad(t, "", LoadOptions{Dir: dir})
	outputs, diags := p.Outputs(t.Context(), OutputOptions{FS: world()})
	fatal(t, p, diags)
	if string(outputs[0].Value) != `"from b"` {
		t.Errorf("got %s", outputs[0].Value)
	}
	if _, diags := Load(LoadOptions{Dir: t.TempDir()}); !diags.HasErrors() || !strings.Contains(diags[0].Detail, "*"+suffixHCL) {
		t.Errorf("empty directory: %v", diags)
	}
	if _, diags := Load(LoadOptions{Dir: filepath.Join(dir, "nope")}); !diags.HasErrors() {
		t.Error("missing directory: no error")
	}
}

// TestLongChain: values may wait for each other in long chains, and beyond the limit there is an error, not a crash.
func TestLongChain(t *testing.T) {
	chain := func(n int) string {
		var b strings.Builder
		b.WriteString("locals {\n  a0 = 1\n")
		for i := 1; i <= n; i++ {
			fmt.Fprintf(&b, "  a%d = local.a%d\n", i, i-1)
		}
		fmt.Fprintf(&b, "}\noutput \"last\" { value = local.a%d }\n", n)
		return b.String()
	}
	p := mustLoad(t, chain(9_000), LoadOptions{})
	if outputs, _ := p.Outputs(t.Context(), OutputOptions{FS: world()}); len(outputs) != 1 || string(outputs[0].Value) != "1" {
		t.Errorf("got %v", outputs)
	}
	// Names sort so that the end of the chain is asked for first.
	var b strings.Builder
	b.WriteString("locals {\n")
	for i := range 12_000 {
		fmt.Fprintf(&b, "  a%d = local.a%d\n", i, i+1)
	}
	b.WriteString("  a12000 = 1\n}\n")
	p, diags := Load(LoadOptions{Dir: write(t, map[string]string{"x" + suffixHCL: b.String()})})
	fatal(t, p, diags)
	if diags := p.Validate(); len(diags) != 1 || diags[0].Summary != "Chain of references too long" {
		t.Errorf("got %d diagnostics: %v", len(diags), diags)
	}
}

func TestServersAndRollouts(t *testing.T) {
	p := mustLoad(t, source(t, fleet), LoadOptions{Vars: []string{"server_token=t0ken-of-the-fleet"}})
	s, diags := p.Server("")
	fatal(t, p, diags)
	if s.URL != "https://ota.example.com" || string(s.Token) != "t0ken-of-the-fleet" || s.CACertificate != "/p/keys/ca.pem" {
		t.Errorf("server: %+v, token %q", s, string(s.Token))
	}
	if _, diags := p.Server("flete"); !diags.HasErrors() || !strings.Contains(diags[0].Detail, "server.fleet") {
		t.Errorf("got %v", diags)
	}
	refs, diags := p.Rollouts()
	fatal(t, p, diags)
	if len(refs) != 2 || refs[0].Address != "rollout.os" || refs[0].Name != "os" || refs[0].Server.URL != s.URL {
		t.Errorf("rollouts: %+v", refs)
	}
}

func TestEpoch(t *testing.T) {
	p := mustLoad(t, source(t, fleet), LoadOptions{Environ: []string{"SOURCE_DATE_EPOCH=soon"}})
	if _, diags := p.Plan(t.Context(), PlanOptions{FS: world()}); len(diags) != 1 || diags[0].Summary != "Wrong SOURCE_DATE_EPOCH" {
		t.Errorf("got %v", diags)
	}
}

func TestFormat(t *testing.T) {
	got, diags := Format([]byte("\ufefflocals {\r\na=1 # one\r\n  bcd = 2\r\n}\r\n"), "x"+suffixHCL)
	if want := "locals {\r\n  a   = 1 # one\r\n  bcd = 2\r\n}\r\n"; string(got) != want || diags.HasErrors() {
		t.Errorf("got %q, %v", got, diags)
	}
	if got, diags := Format([]byte("locals {"), "x"+suffixHCL); got != nil || !diags.HasErrors() {
		t.Errorf("a broken file was formatted: %q", got)
	}
	if got, diags := Format([]byte(`{ "a":1}`), "x"+suffixJSON); string(got) != `{ "a":1}` || diags.HasErrors() {
		t.Errorf("JSON was touched: %q, %v", got, diags)
	}
}

func TestFunctions(t *testing.T) {
	for expr, want := range map[string]string{
		`semver::bump("1.4.2", "minor")`: `"1.5.0"`, `semver::satisfies("1.4.2", "~> 1.2")`: `true`, `semver::compare("1.0.0-rc.1", "1.0.0")`: `-1`,
		`semver::parse("v1.2.3-rc.1+b").prerelease`: `"rc.1"`, `bytes("1.5KiB")`: `1536`,
		`coalesce("", null, "x")`: `"x"`, `alltrue([])`: `true`, `anytrue([false, true])`: `true`, `length("äö")`: `2`, `one([])`: `null`, `sum([1, 2.5])`: `3.5`,
		`index(["a", "b"], "b")`: `1`, `replace("a.b.c", ".", "-")`: `"a-b-c"`, `replace("a1b2", "/[0-9]/", "")`: `"ab"`,
		`transpose({ a = ["x", "y"], b = ["x"] }).x`: `["a","b"]`, `matchkeys(["i", "j"], ["a", "b"], ["b"])`: `["j"]`,
		`sha256("")`: `"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"`, `uuidv5("dns", "example.com")`: `"cfbff0d1-9375-5685-968c-48ce8b15ae17"`,
		`fileexists("nope")`: `false`, `fileexists("good.ext4")`: `true`, `file("tree/file")`: `"x"`, `filesize("good.ext4")`: `62914560`,
		`fileset("deploy", "**/*.dtbo")`: `["new/overlays/a.dtbo","new/overlays/b.dtbo"]`, `basename("a/b.txt")`: `"b.txt"`, `abspath("x")`: `"/p/x"`,
		`templatestring("$${a}-%%{ if b }yes%%{ endif }", { a = 1, b = true })`: `"1-yes"`, `try(tonumber("x"), 7)`: `7`, `can(local.nope)`: ``,
		`yamldecode("a: [1, 2]").a[1]`: `2`, `issensitive(sensitive(1))`: `true`, `timecmp("2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z")`: `1`,
	} {
		if want == "" {
			continue
		}
		p := mustLoad(t, "output \"v\" { value = "+expr+" }", LoadOptions{})
		outputs, diags := p.Outputs(t.Context(), OutputOptions{FS: world()})
		fatal(t, p, diags)
		if len(outputs) != 1 || string(outputs[0].Value) != want {
			t.Errorf("%s = %s, want %s", expr, outputs[0].Value, want)
		}
	}
	for _, expr := range []string{
		`format("%99999999d", 1)`, `setproduct([for i in range(400) : i], [for i in range(400) : i])`, `indent(100000000, "x")`,
		`log(-1, 2)`, `pow(10, 1000000) / 0`, `templatestring("${join("", [for i in range(900) : "("])}", {})`,
	} {
		dir := write(t, map[string]string{"x" + suffixHCL: "locals { v = " + expr + " }"})
		_, _, diags := diagnose(t, dir, LoadOptions{})
		for _, d := range diags {
			if strings.Contains(d.Detail, "goroutine") {
				t.Errorf("%s shows a stack trace", expr)
			}
		}
	}
}

func TestOutputsKnowWhatWasBuilt(t *testing.T) {
	t.Parallel()
	p := mustLoad(t, source(t, fleet)+`
output "sizes" { value = [for a in values(artifact.os) : "${a.size} ${a.sha256}"] }
`, LoadOptions{})
	sizes := func(built map[string]BuiltFile) Output {
		t.Helper()
		outputs, diags := p.Outputs(t.Context(), OutputOptions{FS: world(), Built: built})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		return outputs[len(outputs)-1]
	}
	if out := sizes(nil); out.Known {
		t.Errorf("before a build: %s", out.Value)
	}
	plan, diags := p.Plan(t.Context(), PlanOptions{FS: world()})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	built := map[string]BuiltFile{}
	for _, a := range plan.Actions {
		built[a.Address] = BuiltFile{Size: 42, SHA256: "abc"}
	}
	if out := sizes(built); !out.Known || !strings.Contains(string(out.Value), `"42 abc"`) {
		t.Errorf("after a build: known %t, %s", out.Known, out.Value)
	}
}

// TestDeployDirOfSeveralBuilds: what a link names is current, whatever its type, and its companions are those of its date.
func TestDeployDirOfSeveralBuilds(t *testing.T) {
	const name = "demo-m.rootfs"
	tests := map[string]struct {
		files  map[string]fakeFile
		rootfs string
		busy   string
	}{
		"a link of the second type wins over an old file of the first": {map[string]fakeFile{
			"d/" + name + "-20230101000000.ext4":     {size: 1 << 20, data: ext4},
			"d/" + name + "-20240101000000.squashfs": {size: 1 << 20, data: "hsqs"},
			"d/" + name + ".squashfs":                {link: name + "-20240101000000.squashfs"},
		}, "d/" + name + "-20240101000000.squashfs", ""},
		"companions have the date": {map[string]fakeFile{
			"d/" + name + "-20240101000000.ext4":     {size: 1 << 20, data: ext4},
			"d/" + name + ".ext4":                    {link: "./" + name + "-20240101000000.ext4"},
			"d/" + name + "-20240101000000.manifest": {data: "busybox m 1\n"},
			"d/" + name + "-20250101000000.manifest": {data: "busybox m 2\n"},
			"d/" + name + ".manifest":                {link: name + "-20250101000000.manifest"},
		}, "d/" + name + "-20240101000000.ext4", "1"},
	}
	for what, test := range tests {
		y := &yocto{facts: &facts{ctx: t.Context(), fs: fake(test.files), dir: "/p"}, dir: "d", machine: "m", image: "demo", types: []string{"ext4", "squashfs"}}
		if err := y.find(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if y.rootfs != test.rootfs || y.packages["busybox"] != test.busy {
			t.Errorf("%s: got %s, packages %v", what, y.rootfs, y.packages)
		}
	}
}
