package pipeline

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// gitIn runs git in dir with an identity and a fixed time.
func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Env = append(gitEnviron(os.Environ()), "GIT_COMMITTER_DATE=1767225600 +0100", "GIT_AUTHOR_DATE=1767225600 +0100", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// outputOf evaluates an expression in a directory with the real file system, or says what is wrong.
func outputOf(t *testing.T, dir, expr string) string {
	t.Helper()
	name := filepath.Join(dir, "x"+suffixHCL)
	if err := os.WriteFile(name, []byte("output \"v\" { value = "+expr+" }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, diags := Load(LoadOptions{Dir: dir})
	if diags = append(diags, p.Validate()...); diags.HasErrors() {
		return diags.Error()
	}
	outputs, diags := p.Outputs(t.Context(), OutputOptions{})
	if diags.HasErrors() {
		return diags.Error()
	}
	return string(outputs[0].Value)
}

func TestGitFunctions(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	expect := func(dir, expr, want string) {
		t.Helper()
		if got := outputOf(t, dir, expr); got != want && (strings.HasPrefix(want, `"`) || !strings.Contains(got, want)) {
			t.Errorf("%s = %s, want %s", expr, got, want)
		}
	}
	expect(dir, `git::commit()`, "is not in a work tree of git")
	gitIn(t, dir, "init", "-q")
	expect(dir, `git::commit()`, "there is no commit yet")
	expect(dir, `git::branch()`, "there is no commit yet")
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	gitIn(t, dir, "add", "a")
	gitIn(t, dir, "commit", "-qm", "one")
	hash := gitIn(t, dir, "rev-parse", "HEAD")
	expect(dir, `git::commit()`, `"`+hash+`"`)
	expect(dir, `git::commit(8)`, `"`+hash[:8]+`"`)
	expect(dir, `git::commit(2)`, "from 4 to 64")
	expect(dir, `git::commit(8, 9)`, "one argument at most")
	expect(dir, `git::branch()`, `"main"`)
	expect(dir, `git::commit_time()`, `"2026-01-01T00:00:00Z"`)
	expect(dir, `git::describe()`, "no tag fits")
	gitIn(t, dir, "tag", "v1.2.0")
	gitIn(t, dir, "commit", "-qm", "two", "--allow-empty")
	expect(dir, `git::describe()`, `"v1.2.0-1-g`+gitIn(t, dir, "rev-parse", "--short", "HEAD")+`"`)
	expect(dir, `git::describe("v1.*")`, `"v1.2.0-1-g`+gitIn(t, dir, "rev-parse", "--short", "HEAD")+`"`)
	expect(dir, `git::describe("--exec=x")`, "no tag fits")
	expect(dir, `git::dirty()`, "false")
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect(dir, `git::dirty()`, "true")

	// What a work tree's settings name is not run.
	trap := filepath.Join(t.TempDir(), "ran")
	gitIn(t, dir, "config", "core.fsmonitor", "touch "+trap+";")
	gitIn(t, dir, "config", "core.pager", "touch "+trap)
	gitIn(t, dir, "config", "core.hooksPath", t.TempDir())
	expect(dir, `[git::dirty(), git::describe(), git::commit_time()]`, "true")
	if _, err := os.Stat(trap); err == nil {
		t.Error("a program of the work tree's settings was run")
	}

	gitIn(t, dir, "checkout", "-q", "--detach")
	expect(dir, `coalesce(git::branch(), "none")`, `"none"`)
	clone := filepath.Join(t.TempDir(), "clone")
	gitIn(t, dir, "clone", "-q", "--no-tags", "--depth=1", "file://"+dir, clone)
	expect(clone, `git::describe()`, "git fetch --unshallow --tags")
}

// fakeGit is a file system with a git that says one thing.
type fakeGit struct {
	fakeFS
	out   string
	err   error
	asked *int
}

func (g fakeGit) Git(context.Context, string, ...string) (string, error) {
	*g.asked++
	return g.out, g.err
}

func TestGitIsAskedOnceAndNotByValidate(t *testing.T) {
	t.Parallel()
	asked := 0
	p := mustLoad(t, `output "v" { value = [for i in range(5) : git::commit()] }`, LoadOptions{})
	if diags := p.Validate(); diags.HasErrors() || asked != 0 {
		t.Errorf("validate: %v, asked %d times", diags, asked)
	}
	git := fakeGit{fakeFS: world(), out: "abc", asked: &asked}
	if outputs, diags := p.Outputs(t.Context(), OutputOptions{FS: git}); diags.HasErrors() || string(outputs[0].Value) != `["abc","abc","abc","abc","abc"]` || asked != 1 {
		t.Errorf("%v, %v, asked %d times", outputs, diags, asked)
	}
	git.err = &gitError{"fatal: detected dubious ownership in repository at '/p'\nTo add an exception ...", nil}
	if _, diags := p.Outputs(t.Context(), OutputOptions{FS: git}); !strings.Contains(diags.Error(), "git config --global --add safe.directory /p") {
		t.Errorf("got %v", diags)
	}
	git.err, git.out = nil, "\xff"
	if _, diags := p.Outputs(t.Context(), OutputOptions{FS: git}); !strings.Contains(diags.Error(), "UTF-8") {
		t.Errorf("got %v", diags)
	}
	if _, diags := p.Outputs(t.Context(), OutputOptions{FS: world()}); !strings.Contains(diags.Error(), "git cannot be asked here") {
		t.Errorf("got %v", diags)
	}
}

func TestGitOutputIsBounded(t *testing.T) {
	t.Parallel()
	l := &limited{}
	for range 10 {
		if n, err := l.Write(bytes.Repeat([]byte("x"), maxGitOut/4)); n != maxGitOut/4 || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(l.text()) != maxGitOut {
		t.Errorf("kept %d bytes", len(l.text()))
	}
}

func TestLookFunctions(t *testing.T) {
	t.Parallel()
	elf := func(class, order byte, machine uint16) fakeFile {
		b := make([]byte, 64)
		copy(b, "\x7fELF")
		b[4], b[5] = class, order
		binary.LittleEndian.PutUint16(b[18:], machine)
		if order == 2 {
			binary.BigEndian.PutUint16(b[18:], machine)
		}
		return fakeFile{data: string(b)}
	}
	used := []byte(superblock(1000))
	binary.LittleEndian.PutUint32(used[1024+12:], 400)
	damaged := []byte(superblock(1000))
	binary.LittleEndian.PutUint32(damaged[1024+12:], 1001)
	files := world()
	for name, file := range map[string]fakeFile{
		"arm64": elf(2, 1, 183), "arm": elf(1, 1, 40), "mips": elf(1, 2, 8), "riscv": elf(1, 1, 243), "odd": elf(2, 1, 9999), "short": {data: "\x7fE"},
		"used.ext4": {data: string(used)}, "damaged.ext4": {data: string(damaged)},
	} {
		files["/p/"+name] = file
	}
	const sources = `
source "yocto" "new" {
  deploy_dir = "deploy/new"
  machine    = "qemux86-64"
  image      = "demo-image"
}
`
	for expr, want := range map[string]string{
		`elf_machine("arm64")`: `"arm64"`, `elf_machine("arm")`: `"arm"`, `elf_machine("mips")`: `"mips"`, `elf_machine("riscv")`: `"riscv32"`,
		`elf_machine("odd")`: "number 9999", `elf_machine("short")`: "is not an ELF file", `elf_machine("nope")`: "there is no nope",
		`fs::type("good.ext4")`: `"ext4"`, `fs::type("root.squashfs")`: `"squashfs"`, `fs::type("noise.ext4")`: `null`, `fs::type("tree")`: "is a directory",
		`fs::used("used.ext4")`: `614400`, `fs::used("damaged.ext4")`: "damaged", `fs::used("noise.ext4")`: "not an image",
		`yocto::package_version(source.yocto.new, "openssl")`: `"3.2.0"`, `yocto::package_version(source.yocto.new, "opensl")`: "Did you mean openssl?",
		`yocto::testdata(source.yocto.new, "DISTRO_VERSION")`: `"5.0.1"`, `yocto::testdata(source.yocto.new, "X")`: "is not a text",
		`yocto::testdata(source.yocto.new, "MACHIN")`: "Did you mean MACHINE?", `yocto::testdata("deploy/new", "MACHINE")`: "a source is needed",
		`yocto::testdata(null, "MACHINE")`: "must not be null",
	} {
		dir := write(t, map[string]string{"x" + suffixHCL: sources + "output \"v\" { value = " + expr + " }\n"})
		p, diags := Load(LoadOptions{Dir: dir})
		p.at("/p")
		diags = append(diags, p.Validate()...)
		got := diags.Error()
		if !diags.HasErrors() {
			outputs, diags := p.Outputs(t.Context(), OutputOptions{FS: files})
			if got = diags.Error(); !diags.HasErrors() {
				got = string(outputs[0].Value)
			}
		}
		if exact := want[0] == '"' || want == "null" || want[0] < 'A'; exact && got != want || !strings.Contains(got, want) {
			t.Errorf("%s: %s", expr, cmp.Diff(want, fmt.Sprint(got)))
		}
	}
}
