package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mholt/archives"
)

// planned makes a pipeline of real files and plans it.
func planned(t *testing.T, dir, text string, o LoadOptions, targets ...string) (*Pipeline, *Plan, string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "x"+suffixHCL), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	o.Dir = dir
	p, diags := Load(o)
	fatal(t, p, diags)
	plan, diags := p.Plan(t.Context(), PlanOptions{Targets: targets})
	var text2 strings.Builder
	for _, d := range diags {
		fmt.Fprintf(&text2, "%s: %s\n", d.Summary, d.Detail)
	}
	return p, plan, text2.String()
}

func firstOutput(t *testing.T, p *Pipeline) string {
	t.Helper()
	outputs, diags := p.Outputs(t.Context(), OutputOptions{})
	fatal(t, p, diags)
	return string(outputs[0].Value)
}

const forSources = `
layout "l" {
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.l
  bootloader "u-boot" { environment = "env" }
}
`

func TestDir(t *testing.T) {
	t.Parallel()
	files := map[string]string{"www/a.html": "a", "www/css/b.css": "b", "www/css/c.map": "c", "www/drafts/d.html": "d", "www/deep/er/e.html": "e"}
	for name, tt := range map[string]struct{ arguments, files, path string }{
		"all":          {``, `a.html css/b.css css/c.map deep/er/e.html drafts/d.html`, "www"},
		"include":      {`include = ["**/*.html"]`, `a.html deep/er/e.html drafts/d.html`, ".twinkeel/sources/dir.d/tree"},
		"a directory":  {`include = ["css"]`, `css/b.css css/c.map`, ".twinkeel/sources/dir.d/tree"},
		"exclude":      {`exclude = ["drafts", "**/*.map"]`, `a.html css/b.css deep/er/e.html`, ".twinkeel/sources/dir.d/tree"},
		"both":         {"include = [\"**/*.html\"]\nexclude = [\"drafts/**\"]", `a.html deep/er/e.html`, ".twinkeel/sources/dir.d/tree"},
		"leaves all":   {`exclude = ["*.none"]`, `a.html css/b.css css/c.map deep/er/e.html drafts/d.html`, "www"},
		"one level":    {`include = ["*"]`, `a.html css/b.css css/c.map deep/er/e.html drafts/d.html`, "www"},
		"alternatives": {`include = ["{a,x}.html"]`, `a.html`, ".twinkeel/sources/dir.d/tree"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _, problems := planned(t, write(t, files), "source \"dir\" \"d\" {\n path = \"www\"\n "+tt.arguments+"\n}\noutput \"o\" { value = \"${join(\" \", source.dir.d.files)}|${source.dir.d.path}\" }\n", LoadOptions{})
			if got, want := firstOutput(t, p), `"`+tt.files+"|"+tt.path+`"`; got != want || problems != "" {
				t.Errorf("got %s, want %s; %s", got, want, problems)
			}
		})
	}
}

// TestDirDigest: the digest of a tree is of names, contents, what can be executed and links, and of nothing else.
func TestDirDigest(t *testing.T) {
	t.Parallel()
	const text = "source \"dir\" \"d\" { path = \"w\" }\noutput \"o\" { value = source.dir.d.tree_sha256 }\n"
	digest := func(change func(dir string)) string {
		dir := write(t, map[string]string{"w/a": "a", "w/b/c": "c"})
		change(dir)
		p, _, problems := planned(t, dir, text, LoadOptions{})
		if problems != "" {
			t.Fatal(problems)
		}
		return firstOutput(t, p)
	}
	first := digest(func(string) {})
	if len(first) != 66 || digest(func(dir string) { os.Chmod(filepath.Join(dir, "w/a"), 0o600) }) != first {
		t.Errorf("the digest %s is none, or of the machine", first)
	}
	seen := map[string]string{first: "nothing"}
	for name, change := range map[string]func(dir string){
		"content": func(dir string) { os.WriteFile(filepath.Join(dir, "w/a"), []byte("b"), 0o644) },
		"name":    func(dir string) { os.Rename(filepath.Join(dir, "w/a"), filepath.Join(dir, "w/z")) },
		"mode":    func(dir string) { os.Chmod(filepath.Join(dir, "w/a"), 0o755) },
		"link": func(dir string) {
			os.Remove(filepath.Join(dir, "w/a"))
			os.Symlink("b/c", filepath.Join(dir, "w/a"))
		},
	} {
		got := digest(change)
		if other, dup := seen[got]; dup {
			t.Errorf("%s and %s give one digest", name, other)
		}
		seen[got] = name
	}
}

func TestLinksOfDir(t *testing.T) {
	t.Parallel()
	for target, inside := range map[string]bool{
		"a": true, "../a": true, "../other/a": true, "./a": true, "/etc/passwd": false, "../../etc": false, "a/../../..": false, "x/../y": false, "": false, "..": true, "../..": false,
	} {
		if linkInside("sub/link", target) != inside {
			t.Errorf("%q: not %t", target, inside)
		}
	}
	dir := write(t, map[string]string{"w/a": "a", "secret": "s"})
	if err := os.Symlink("../secret", filepath.Join(dir, "w/link")); err != nil {
		t.Fatal(err)
	}
	_, _, problems := planned(t, dir, `source "dir" "d" { path = "w" }
output "o" { value = source.dir.d.path }
check "c" {
  assert {
    condition     = source.dir.d.path != ""
    error_message = "x"
  }
}`, LoadOptions{})
	if !strings.Contains(problems, "w/link is a link to ../secret, which leads out of w") {
		t.Errorf("got %q", problems)
	}
}

// TestSourceEdges: what reads a source's output depends on it, through fills, scripts, other sources and paths below a tree.
func TestSourceEdges(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"www/a": "a", "www/b.md": "b", "plain": "p"})
	_, plan, problems := planned(t, dir, forSources+`
source "exec" "sdk" {
  command = ["make-sdk"]
  outputs = { tar = "sdk.tar" }
}
source "exec" "app" {
  for_each = toset(["x y", "x-y"])
  command  = ["build", "--sdk=${source.exec.sdk.outputs.tar}", each.key]
  outputs  = { app = "app" }
}
source "exec" "unused" {
  command = ["never"]
  outputs = { x = "x" }
}
source "dir" "web" {
  path    = "www"
  exclude = ["*.md"]
}
artifact "app" {
  for_each     = { one = "x y", two = "x-y" }
  name         = "app"
  device_types = [device_type.d]
  payload "single-file" {
    file        = source.exec.app[each.value].outputs.app
    destination = "/usr/bin"
  }
}
artifact "page" {
  name         = "page"
  device_types = [device_type.d]
  payload "script" { file = "${source.dir.web.path}/a" }
}
artifact "plain" {
  name         = "plain"
  device_types = [device_type.d]
  payload "script" { file = "plain" }
}
`, LoadOptions{})
	if plan == nil {
		t.Fatal(problems)
	}
	got := make(map[string][]string)
	dirs := make(map[string]bool)
	for _, a := range plan.Actions {
		got[a.Address] = a.DependsOn
		if a.Source != nil {
			dirs[a.Source.Dir] = true
		}
	}
	want := map[string][]string{
		"source.exec.sdk": nil, "source.dir.web": nil,
		`source.exec.app["x y"]`: {"source.exec.sdk"}, `source.exec.app["x-y"]`: {"source.exec.sdk"},
		`artifact.app["one"]`: {`source.exec.app["x y"]`}, `artifact.app["two"]`: {`source.exec.app["x-y"]`},
		"artifact.page": {"source.dir.web"}, "artifact.plain": nil,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if len(dirs) != 4 {
		t.Errorf("directories: %v", dirs)
	}
	_, plan, _ = planned(t, dir, source(t, filepath.Join(dir, "x"+suffixHCL)), LoadOptions{}, "artifact.page")
	if d := cmp.Diff([]string{"source.dir.web", "artifact.page"}, addresses(plan)); d != "" {
		t.Errorf("targets: -want +got:\n%s", d)
	}
}

// TestSourceOutputsAreUnknownFacts: what only the content of an output tells is not known, and not an error.
func TestSourceOutputsAreUnknownFacts(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"filesize(%s)", "filesha256(%s)", "file(%s)", "fileexists(%s)", "elf_machine(%s)", "fs::used(%s)", "templatefile(%s, {})"} {
		p, _, problems := planned(t, t.TempDir(), "source \"exec\" \"x\" {\n command = [\"x\"]\n outputs = { x = \"x\" }\n}\noutput \"o\" { value = "+fmt.Sprintf(call, "source.exec.x.outputs.x")+" }\n", LoadOptions{})
		outputs, diags := p.Outputs(t.Context(), OutputOptions{})
		fatal(t, p, diags)
		if outputs[0].Known || problems != "" {
			t.Errorf("%s: known %t, %s", call, outputs[0].Known, problems)
		}
	}
}

// TestPackedRootfs: the beginning of a compressed file system tells its kind and size.
func TestPackedRootfs(t *testing.T) {
	t.Parallel()
	super := []byte(superblock(8 << 10)) // blocks of 1 KiB
	for ext, c := range map[string]archives.Compressor{"gz": archives.Gz{}, "bz2": archives.Bz2{}, "xz": archives.Xz{}, "zst": archives.Zstd{}, "lz4": archives.Lz4{}} {
		var packed bytes.Buffer
		w, err := c.OpenWriter(&packed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(append(super, make([]byte, 8<<20-len(super))...)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		dir := write(t, map[string]string{
			"deploy/i-m-20240101000000.rootfs.ext4." + ext: packed.String(),
			"deploy/i-m-20240101000000.testdata.json":      `{"MACHINE":"m","MENDER_DEVICE_TYPE":"beagle","DISTRO":"poky","SECRET":"no","MENDER_LIST":["a"]}`,
		})
		p, _, problems := planned(t, dir, `source "yocto" "y" {
  deploy_dir = "deploy"
  machine    = "m"
  image      = "i"
}
output "o" { value = [source.yocto.y.rootfs, source.yocto.y.rootfs_type, source.yocto.y.rootfs_size, source.yocto.y.build_id, source.yocto.y.variables] }
`, LoadOptions{})
		var got []any
		if err := json.Unmarshal([]byte(firstOutput(t, p)), &got); err != nil {
			t.Fatal(err)
		}
		want := []any{
			".twinkeel/sources/yocto.y/i-m-20240101000000.rootfs.ext4", "ext4", float64(8 << 20), "20240101000000",
			map[string]any{"MACHINE": "m", "MENDER_DEVICE_TYPE": "beagle", "DISTRO": "poky"},
		}
		if d := cmp.Diff(want, got); d != "" || problems != "" {
			t.Errorf("%s: %s -want +got:\n%s", ext, problems, d)
		}
	}
}

func TestLockFile(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", 32)
	locked := map[string]Locked{"https://b.example/x?y=1": {sum, 5}, "https://a.example/${x}": {sum, 0}}
	text := FormatLock(locked)
	got, diags := ParseLock(text, LockFile)
	if diags.HasErrors() || cmp.Diff(locked, got) != "" {
		t.Errorf("%v, %v from\n%s", got, diags, text)
	}
	if !bytes.HasPrefix(text, []byte("# Written by")) || bytes.Index(text, []byte("a.example")) > bytes.Index(text, []byte("b.example")) {
		t.Errorf("no header, or not sorted:\n%s", text)
	}
	for name, text := range map[string]string{
		"twice": `http "https://a" {
  sha256 = "` + sum + `"
  size = 1
}
http "https://a" {
  sha256 = "` + sum + `"
  size = 1
}`,
		"short":    `http "https://a" { sha256 = "ab" }`,
		"no url":   "http \"a\" {\n sha256 = \"" + sum + "\"\n size = 1\n}",
		"negative": "http \"https://a\" {\n sha256 = \"" + sum + "\"\n size = -1\n}",
		"null":     "http \"https://a\" {\n sha256 = null\n size = 1\n}",
		"call":     "http \"https://a\" {\n sha256 = file(\"x\")\n size = 1\n}",
		"other":    `ftp "x" {}`,
	} {
		if _, diags := ParseLock([]byte(text), LockFile); !diags.HasErrors() {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzLockFile: no panic, and what is read can be written and read again.
func FuzzLockFile(f *testing.F) {
	f.Add(FormatLock(map[string]Locked{"https://a.example/x": {strings.Repeat("ab", 32), 5}}))
	f.Add([]byte("http \"https://a\" {\n sha256 = null\n size = 1e9999\n}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		locked, diags := ParseLock(data, LockFile)
		if diags.HasErrors() {
			return
		}
		again, diags := ParseLock(FormatLock(locked), LockFile)
		if diags.HasErrors() || len(again) != len(locked) {
			t.Fatalf("%v, %v", again, diags)
		}
	})
}
