package pipeline

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// unpackFiles makes a directory of an archive of texts.
func unpackFiles(t testing.TB, archive string) string {
	t.Helper()
	files := make(map[string]string)
	for _, f := range txtar.Parse([]byte(archive)).Files {
		files[f.Name] = string(f.Data)
	}
	return write(t, files)
}

// sites is a pipeline whose devices come from modules, one of which is used twice and holds another.
const sites = `
-- main.twinkeel.hcl --
variable "token" {
  type      = string
  default   = "hunter2secret"
  sensitive = true
}
locals { version = "1.2.0" }
module "board" {
  source = "./modules/board"
  inputs = { name = "rpi" }
}
module "site" {
  for_each = toset(["north", "south.east"])
  source   = "./modules/site"
  inputs = {
    device_type = module.board.device_type
    release     = "${local.version}-${each.key}"
    token       = var.token
  }
}
rollout "os" {
  server    = module.site["north"].server
  artifacts = [module.site["north"].artifact]
  phase "all" { percent = 100 }
}
output "names" { value = { for key, s in module.site : key => s.artifact.name } }
output "token" {
  value     = module.site["north"].token
  sensitive = true
}
-- modules/board/board.twinkeel.hcl --
variable "name" { type = string }
layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "64MiB"
    filesystem = "ext4"
    mount      = "/data"
  }
}
device_type "this" {
  type         = var.name
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "env" }
}
output "device_type" { value = device_type.this }
-- modules/site/site.twinkeel.hcl --
variable "device_type" { type = any }
variable "release" {
  type = string
  validation {
    condition     = length(var.release) > 3
    error_message = "Too short."
  }
}
variable "token" {
  type      = string
  sensitive = true
}
variable "unused" {
  type    = list(string)
  default = []
}
server "this" {
  url   = "https://ota.example.com"
  token = var.token
}
module "os" {
  source = "../os"
  inputs = { device_type = var.device_type, release = var.release }
}
image "whole" {
  device_type = var.device_type
  artifact    = module.os.artifact
  fill "rootfs" { file = "good.ext4" }
}
check "named" {
  assert {
    condition     = startswith(module.os.artifact.name, "os-")
    error_message = "A name begins with os-."
  }
}
output "artifact" { value = module.os.artifact }
output "server" { value = server.this }
output "token" {
  value     = var.token
  sensitive = true
}
-- modules/os/os.twinkeel.hcl --
variable "device_type" {}
variable "release" { type = string }
artifact "os" {
  name         = "os-${replace(var.release, ".", "_")}"
  device_types = [var.device_type]
  scripts      = ["${path.module}/ArtifactInstall_Leave_00"]
  payload "rootfs-image" { file = "good.ext4" }
}
output "artifact" { value = artifact.os }
`

// sitesWorld holds what sites needs.
func sitesWorld() fakeFS {
	world := world()
	world["/p/modules/os/ArtifactInstall_Leave_00"] = fakeFile{data: "#!/bin/sh\n"}
	return world
}

func TestModules(t *testing.T) {
	t.Parallel()
	p := mustLoad(t, "", LoadOptions{Dir: unpackFiles(t, sites)})
	plan, diags := p.Plan(t.Context(), PlanOptions{FS: sitesWorld()})
	fatal(t, p, diags)

	var got []string
	for _, a := range plan.Actions {
		line := a.Address
		switch {
		case a.Artifact != nil:
			line += fmt.Sprintf(" %s %v %s %v", a.Artifact.Name, a.Artifact.DeviceTypes, a.Artifact.Path, a.Artifact.Scripts)
		case a.Image != nil:
			line += fmt.Sprintf(" %s %s needs %v", a.Image.Name, a.Image.Path, a.DependsOn)
		case a.Rollout != nil:
			line += fmt.Sprintf(" %s at %s with %s needs %v", a.Rollout.Name, a.Rollout.Server.Address, string(a.Rollout.Server.Token), a.DependsOn)
		}
		got = append(got, line)
	}
	want := []string{
		`module.site["north"].module.os.artifact.os os-1_2_0-north [rpi] /p/out/artifacts/site-north/os/os.mender [/p/modules/os/ArtifactInstall_Leave_00]`,
		`module.site["south.east"].module.os.artifact.os os-1_2_0-south_east [rpi] /p/out/artifacts/site-south.east/os/os.mender [/p/modules/os/ArtifactInstall_Leave_00]`,
		`module.site["north"].image.whole site-north-whole /p/out/images/site-north/whole.img needs [module.site["north"].module.os.artifact.os]`,
		`module.site["south.east"].image.whole site-south.east-whole /p/out/images/site-south.east/whole.img needs [module.site["south.east"].module.os.artifact.os]`,
		`rollout.os os at module.site["north"].server.this with hunter2secret needs [module.site["north"].module.os.artifact.os]`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}

	outputs, diags := p.Outputs(t.Context(), OutputOptions{FS: sitesWorld(), ShowSensitive: true})
	fatal(t, p, diags)
	if got := string(outputs[0].Value); got != `{"north":"os-1_2_0-north","south.east":"os-1_2_0-south_east"}` {
		t.Errorf("names = %s", got)
	}
	if got := string(outputs[1].Value); got != `"hunter2secret"` || !outputs[1].Sensitive {
		t.Errorf("token = %s, sensitive %v", got, outputs[1].Sensitive)
	}
}

// TestModuleTargets: a target in a module brings what it needs, from wherever, and nothing else.
func TestModuleTargets(t *testing.T) {
	t.Parallel()
	p := mustLoad(t, "", LoadOptions{Dir: unpackFiles(t, sites)})
	for target, want := range map[string][]string{
		`module.site[north].image.whole`:            {`module.site["north"].module.os.artifact.os`, `module.site["north"].image.whole`},
		`module.site["north"].module.os`:            {`module.site["north"].module.os.artifact.os`},
		`module.site[south.east]`:                   {`module.site["south.east"].module.os.artifact.os`, `module.site["south.east"].image.whole`},
		`module.*.artifact.os`:                      {`module.site["north"].module.os.artifact.os`, `module.site["south.east"].module.os.artifact.os`},
		`rollout.os`:                                {`module.site["north"].module.os.artifact.os`, `rollout.os`},
		`module.site["north"].module.os.artifact.*`: {`module.site["north"].module.os.artifact.os`},
	} {
		plan, diags := p.Plan(t.Context(), PlanOptions{FS: sitesWorld(), Targets: []string{target}})
		fatal(t, p, diags)
		if d := cmp.Diff(want, addresses(plan)); d != "" {
			t.Errorf("%s (-want +got):\n%s", target, d)
		}
	}
	if _, diags := p.Plan(t.Context(), PlanOptions{FS: sitesWorld(), Targets: []string{"module.nowhere.artifact.os"}}); len(diags) != 1 || diags[0].Summary != "Unknown target" {
		t.Errorf("an unknown target: %v", diags)
	}
	if _, diags := p.Plan(t.Context(), PlanOptions{FS: sitesWorld(), Targets: []string{"module.board.layout.ab"}}); len(diags) != 1 || diags[0].Summary != "Nothing to make" {
		t.Errorf("a target that makes nothing: %v", diags)
	}
}

// TestModulesAreSeen: those who look find what is in modules, and no secret.
func TestModulesAreSeen(t *testing.T) {
	t.Parallel()
	p := mustLoad(t, "", LoadOptions{Dir: unpackFiles(t, sites)})
	found, diags := p.Inspect(t.Context(), InspectOptions{FS: sitesWorld()})
	fatal(t, p, diags)
	var all strings.Builder
	for _, f := range found {
		fmt.Fprintf(&all, "%s (%s) %s = %s\n", f.Address, f.Kind, filepath.Base(f.Origin), f.Text)
	}
	for _, want := range []string{
		`module.board.var.name (variable) main.twinkeel.hcl:9 = "rpi"`,
		`module.site["north"].output.token (output) . = (sensitive value)`,
		`module.site["south.east"].module.os.artifact.os (artifact)`,
		`module.site["north"].var.token (variable) main.twinkeel.hcl:17 = (sensitive value)`,
		`module.site (module)`,
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("%q is missing in\n%s", want, all.String())
		}
	}
	if strings.Contains(all.String(), "hunter2") {
		t.Error("a secret is shown")
	}
	g, diags := p.ValueGraph(nil)
	fatal(t, p, diags)
	dot := g.DOT()
	for _, edge := range []string{
		`"rollout.os" -> "module.site"`,
		`"module.site[\"north\"].var.token" -> "var.token"`,
		`"module.site[\"north\"].var.device_type" -> "module.board.output.device_type"`,
		`"module.board.output.device_type" -> "module.board.device_type.this"`,
	} {
		if !strings.Contains(dot, edge) {
			t.Errorf("the graph has no %s:\n%s", edge, dot)
		}
	}
}

// TestModuleErrors loads each archive of testdata/modules and expects the messages that comments in its files announce.
func TestModuleErrors(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/modules/*.txtar")
	if err != nil || len(names) < 12 {
		t.Fatalf("found %d cases: %v", len(names), err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			dir := unpackFiles(t, string(src))
			p, _, diags := diagnose(t, dir, LoadOptions{})
			var want, got []string
			for _, f := range txtar.Parse(src).Files {
				for i, l := range strings.Split(string(f.Data), "\n") {
					if _, summary, found := strings.Cut(l, "# ERROR: "); found {
						want = append(want, fmt.Sprintf("%s:%d %s", f.Name, i+1, summary))
					}
				}
			}
			for _, d := range diags {
				at := ":0"
				if d.Subject != nil {
					at = fmt.Sprintf("%s:%d", d.Subject.Filename, d.Subject.Start.Line)
				}
				got = append(got, strings.TrimPrefix(at, dir+"/")+" "+d.Summary)
			}
			slices.Sort(want)
			slices.Sort(got)
			var text bytes.Buffer
			if err := diag.WriteText(&text, diags, p.Files(), diag.Options{}); err != nil {
				t.Fatal(err)
			}
			out := strings.ReplaceAll(text.String(), dir+"/", "")
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("messages (-want +got):\n%s\n%s", d, out)
			}
			golden(t, strings.TrimSuffix(name, ".txtar")+".txt", out)
		})
	}
}

// TestManyModules: each of twenty modules that call the next one twice would make a million instances.
func TestManyModules(t *testing.T) {
	t.Parallel()
	files := make(map[string]string)
	for i := range 18 {
		next := fmt.Sprintf("../m%d", i+1)
		name := fmt.Sprintf("m%d/x.twinkeel.hcl", i)
		if i == 0 {
			name, next = "x.twinkeel.hcl", "./m1"
		}
		files[name] = fmt.Sprintf("module \"a\" { source = %q }\nmodule \"b\" { source = %q }\n", next, next)
	}
	files["m18/x.twinkeel.hcl"] = "output \"x\" { value = 1 }\n"
	p, diags := Load(LoadOptions{Dir: write(t, files)})
	fatal(t, p, diags)
	if diags := p.Validate(); len(diags) == 0 || diags[0].Summary != "Too many modules" {
		t.Errorf("got %v", diags)
	}
}
