package pipeline

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// theFleet loads the example that test files are tried on.
func theFleet(t testing.TB) *Pipeline {
	t.Helper()
	p, diags := Load(LoadOptions{Dir: "../examples/fleet"})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return p
}

// TestWrongTestFiles loads each file of testdata/tests for the fleet, and expects the messages that its comments announce,
// on their lines and no others.
func TestWrongTestFiles(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/tests/*" + suffixTestHCL)
	if err != nil || len(paths) < 15 {
		t.Fatalf("found %d cases: %v", len(paths), err)
	}
	for _, name := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(name), suffixTestHCL), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			tests, diags := theFleet(t).LoadTests(t.Context(), []string{name}, fake(nil))
			var want, got []string
			for i, l := range strings.Split(string(src), "\n") {
				if _, summary, found := strings.Cut(l, "# ERROR: "); found {
					want = append(want, fmt.Sprintf("%d %s", i+1, summary))
				}
			}
			for _, d := range diags {
				line := 0
				if d.Subject != nil {
					line = d.Subject.Start.Line
				}
				got = append(got, fmt.Sprintf("%d %s", line, d.Summary))
			}
			var text bytes.Buffer
			if err := diag.WriteText(&text, diags, tests.Files(), diag.Options{}); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" || len(want) == 0 {
				t.Errorf("messages (-want +got):\n%s\n%s", d, &text)
			}
			golden(t, strings.TrimSuffix(name, suffixTestHCL)+".txt", text.String())
		})
	}
}

const testedPipeline = `
variable "version" {
  type    = string
  default = "1.0.0"
  validation {
    condition     = can(semver::parse(var.version))
    error_message = "Not semantic."
  }
}
variable "pin" {
  type      = string
  default   = null
  sensitive = true
}
locals {
  tag    = trimprefix(git::describe(), "v")
  notes  = file("NOTES")
  secret = "${var.pin == null ? "" : var.pin}-suffix-long"
}
source "yocto" "board" {
  for_each   = toset(["one", "two"])
  deploy_dir = "deploy/${each.key}"
  machine    = "board"
  image      = "demo"
}
source "file" "app" {
  path   = "dist/app.tar"
  sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
}
layout "l" {
  slots "rootfs" {
    size       = "1MiB"
    filesystem = "ext4"
  }
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.l
  bootloader "u-boot" { environment = "env" }
}
artifact "os" {
  for_each     = source.yocto.board
  name         = "os-${var.version}-${local.tag}"
  device_types = [device_type.d]
  payload "rootfs-image" { file = each.value.rootfs }
}
artifact "app" {
  name         = "app-${var.version}"
  device_types = [device_type.d]
  payload "app-module" { files = [source.file.app.path, "${source.yocto.board["one"].deploy_dir}/extra.bin"] }
}
artifact "conf" {
  name         = "conf-${var.version}"
  device_types = [device_type.d]
  payload "conf-module" { file = "conf/x.conf" }
}
check "small" {
  assert {
    condition     = artifact.os["one"].size < 1000
    error_message = "Large."
  }
}
output "names" { value = [for a in artifact.os : a.name] }
output "pin" {
  value     = local.secret
  sensitive = true
}
`

// TestRuns does runs of all kinds on one pipeline and looks at how they end and at what they say.
func TestRuns(t *testing.T) {
	t.Parallel()
	assert := func(condition string) string {
		return "assert {\n condition = " + condition + "\n error_message = \"It is ${var.version}.\"\n}\n"
	}
	for name, c := range map[string]struct {
		run  string
		want TestStatus
		says []string // summary: detail, parts of it
	}{
		"plain":                  {"", TestPass, nil},
		"assertion holds":        {assert(`artifact.os["one"].name == "os-1.0.0-0.0.0"`), TestPass, nil},
		"assertion fails":        {assert(`artifact.app.name == "app-2.0.0"`), TestFail, []string{"Assertion failed: It is 1.0.0."}},
		"two fail":               {assert("false") + assert("1 == 2"), TestFail, []string{"Assertion failed", "Assertion failed"}},
		"variable":               {"variables = { version = \"2.0.0\" }\n" + assert(`artifact.app.name == "app-2.0.0"`), TestPass, nil},
		"git":                    {"fakes = { \"git::describe\" = \"v9.1.0\" }\n" + assert(`local.tag == "9.1.0"`), TestPass, nil},
		"content":                {"fakes = { \"path:NOTES\" = { content = \"new\" } }\n" + assert(`local.notes == "new"`), TestPass, nil},
		"content of the disk":    {assert(`local.notes == "from disk"`), TestPass, nil},
		"made up":                {assert(`source.yocto.board["two"].rootfs == "deploy/two/demo-board.rootfs.ext4"`), TestPass, nil},
		"size of a source":       {"fakes = { \"source.file.app\" = { size = 77 } }\n" + assert(`source.file.app.size == 77`), TestPass, nil},
		"all instances":          {"fakes = { \"source.yocto.board\" = { rootfs_size = 77 } }\n" + assert(`alltrue([for s in source.yocto.board : s.rootfs_size == 77])`), TestPass, nil},
		"one instance":           {"fakes = { \"source.yocto.board[one]\" = { rootfs_size = 77 } }\n" + assert(`source.yocto.board["one"].rootfs_size == 77 && source.yocto.board["two"].rootfs_size != 77`), TestPass, nil},
		"no such instance":       {"fakes = { \"source.yocto.board[six]\" = { rootfs_size = 77 } }", TestError, []string{"Unknown address: Nothing is called source.yocto.board[six]."}},
		"too large":              {"fakes = { \"source.yocto.board[one]\" = { rootfs_size = 1048577 } }", TestError, []string{"File system too large for its place"}},
		"too large, expected":    {"fakes = { \"source.yocto.board[one]\" = { rootfs_size = 1048577 } }\nexpect_failures = [artifact.os[\"one\"]]", TestPass, nil},
		"both, one expected":     {"fakes = { \"source.yocto.board\" = { rootfs_size = 1048577 } }\nexpect_failures = [artifact.os[\"one\"]]", TestError, []string{"File system too large"}},
		"of another kind":        {"fakes = { \"source.yocto.board\" = { rootfs_type = \"squashfs\" } }\nexpect_failures = [artifact.os]", TestPass, nil},
		"expected in vain":       {"expect_failures = [artifact.os, var.version]", TestFail, []string{"Expected failure is missing: The run x expects artifact.os", "Expected failure is missing: The run x expects var.version"}},
		"validation":             {"variables = { version = \"one\" }\nexpect_failures = [var.version]", TestPass, nil},
		"validation, unexpected": {"variables = { version = \"one\" }", TestError, []string{"Value of variable version refused: Not semantic."}},
		"check":                  {"fakes = { \"artifact.os\" = { size = 1000 } }\nexpect_failures = [check.small]", TestPass, nil},
		"check holds":            {"fakes = { \"artifact.os\" = { size = 999 } }\n" + assert(`artifact.os["two"].size == 999`), TestPass, nil},
		"unknown":                {assert(`artifact.os["one"].size > 0`), TestError, []string{`Condition is not known: artifact.os["one"].size is not known before a build.`}},
		"offline":                {"command = validate\n" + assert(`source.yocto.board["one"].rootfs_size > 0`), TestError, []string{"evaluates offline"}},
		"validate":               {"command = \"validate\"\n" + assert(`var.version == "1.0.0"`), TestPass, nil},
		"targets":                {"targets = [\"artifact.os[one]\"]\n" + assert(`[for a in plan.actions : a.address] == ["artifact.os[\"one\"]"]`), TestPass, nil},
		"unknown target":         {"targets = [\"artifact.oss\"]", TestError, []string{"Unknown target"}},
		"actions":                {assert(`length(plan.actions) == 4 && plan.actions[0].kind == "artifact"`), TestPass, nil},
		"output":                 {assert(`output.names[0] == "os-1.0.0-0.0.0"`), TestPass, nil},
		"secret":                 {"variables = { pin = \"hunter2-hunter2\" }\n" + assert(`output.pin == "x"`), TestFail, []string{"Assertion failed"}},
		"list is no tuple":       {assert(`artifact.os["one"].device_types == ["device_type.d"]`), TestFail, []string{"Values of different types are never equal, and these are a list and a tuple"}},
		"not a condition":        {assert(`"maybe"`), TestError, []string{"A condition is true or false"}},
		"missing file":           {"fakes = {}\n" + assert(`file("other") == ""`), TestError, []string{"there is no other"}},
		"no content":             {assert(`file(source.yocto.board["one"].manifest) == ""`), TestError, []string{"has no content"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := write(t, map[string]string{
				"p" + suffixHCL: testedPipeline, "t" + suffixTestHCL: "run \"x\" {\n" + c.run + "\n}\nrun \"after\" {}\n",
				"NOTES": "from disk", "conf/x.conf": "x",
			})
			src := strings.Replace(testedPipeline, `slots "rootfs"`, "reserve \"env\" {\n offset = \"1MiB\"\n size = \"128KiB\"\n}\nslots \"rootfs\"", 1)
			if err := writeFile(filepath.Join(dir, "p"+suffixHCL), src); err != nil {
				t.Fatal(err)
			}
			p, diags := Load(LoadOptions{Dir: dir})
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			paths, err := TestFiles(dir)
			if err != nil {
				t.Fatal(err)
			}
			tests, diags := p.LoadTests(t.Context(), paths, nil)
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			results := tests.Run(t.Context(), TestOptions{})
			r := results[0]
			var text bytes.Buffer
			_ = diag.WriteText(&text, r.Diagnostics, tests.Files(), diag.Options{})
			if r.Status != c.want {
				t.Errorf("ended with %s, want %s\n%s", r.Status, c.want, &text)
			}
			var said []string
			for _, d := range r.Diagnostics {
				said = append(said, d.Summary+": "+d.Detail)
			}
			if len(said) != len(c.says) {
				t.Errorf("says %q, want %q", said, c.says)
			}
			for i := range min(len(said), len(c.says)) {
				if !strings.Contains(said[i], c.says[i]) {
					t.Errorf("says %q, want %q", said[i], c.says[i])
				}
			}
			if strings.Contains(strings.ReplaceAll(text.String(), `variables = { pin = "hunter2-hunter2" }`, ""), "hunter2") {
				t.Errorf("shows a secret:\n%s", &text)
			}
			if results[1].Status != TestPass {
				t.Errorf("the run after it ended with %s: %v", results[1].Status, results[1].Diagnostics)
			}
		})
	}
}

// TestFilter chooses runs by globs.
func TestFilter(t *testing.T) {
	t.Parallel()
	p := theFleet(t)
	paths, err := TestFiles("../examples/fleet")
	if err != nil {
		t.Fatal(err)
	}
	tests, diags := p.LoadTests(t.Context(), paths, nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for filter, want := range map[string]int{"phases_*": 2, "fleet/phases_*": 2, "fleet": tests.Len(), "fleet.twinkeeltest.hcl": tests.Len(), "nothing": 0, "*/only_one_device": 1} {
		got := 0
		for _, r := range tests.Run(t.Context(), TestOptions{Filter: []string{filter}}) {
			if r.Status != TestSkip {
				got++
			}
		}
		if got != want {
			t.Errorf("%s: %d runs, want %d", filter, got, want)
		}
	}
}

// FuzzTestFile feeds anything as a test file, in both syntaxes: nothing panics, nothing hangs.
func FuzzTestFile(f *testing.F) {
	seeds, err := filepath.Glob("testdata/tests/*" + suffixTestHCL)
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range append(seeds, "../examples/fleet/fleet"+suffixTestHCL) {
		src, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src, false)
	}
	f.Add([]byte(`{"variables":{"version":"2.0.0"},"run":{"a":{"expect_failures":["var.version"],"fakes":{"source.yocto.rpi4":{"rootfs_size":9}},"assert":{"condition":"${true}","error_message":"x"}}}}`), true)
	for _, s := range hostile() {
		if len(s) < 1<<16 {
			f.Add([]byte(s), false)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, asJSON bool) {
		if len(src) > 1<<16 {
			t.Skip()
		}
		name := "x" + suffixTestHCL
		if asJSON {
			name = "x" + suffixTestJSON
		}
		watchdog := time.AfterFunc(10*time.Second, func() { panic(fmt.Sprintf("hangs: %q", src)) })
		defer watchdog.Stop()
		path := filepath.Join(write(t, map[string]string{name: string(src)}), name)
		p := theFleet(t)
		tests, diags := p.LoadTests(t.Context(), []string{path}, fake(nil))
		if !diags.HasErrors() {
			for _, r := range tests.Run(t.Context(), TestOptions{FS: fake(nil)}) {
				diags = slices.Concat(diags, r.Diagnostics)
				if (r.Status == TestPass) == r.Diagnostics.HasErrors() {
					t.Errorf("run %q ended with %s and says %v", r.Name, r.Status, r.Diagnostics)
				}
			}
		}
		if err := diag.WriteText(io.Discard, diags, tests.Files(), diag.Options{}); err != nil {
			t.Error(err)
		}
		diag.JSON(diags, tests.Files())
	})
}
