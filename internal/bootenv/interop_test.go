package bootenv

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tool returns the path of a peer or skips the test.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian package %s)", name, pkg)
	}
	return path
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

func lines(vars map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		b.WriteString(name + "=" + vars[name] + "\n")
	}
	return b.String()
}

// fw_printenv and fw_setenv of libubootenv see what we write, in the copy we mean, and the other way round.
func TestLibubootenv(t *testing.T) {
	printenv, setenv := tool(t, "fw_printenv", "libubootenv-tool"), tool(t, "fw_setenv", "libubootenv-tool")
	for _, flags := range [][]byte{{1, 1}, {255, 254}, {254, 255}, {0}} {
		u, path := newUBoot(t, crashOld, flags...)
		config := filepath.Join(t.TempDir(), "fw_env.config")
		os.WriteFile(config, FormatFwEnvConfig(u.Locations()), 0o644)
		want := maps.Clone(crashOld)
		for i, value := range []string{"one", "two words", "three=3", "four", "five", "six"} {
			want["x"] = value
			if i%2 == 0 {
				if err := u.Update(map[string]string{"x": value}); err != nil {
					t.Fatal(err)
				}
			} else {
				run(t, setenv, "-c", config, "x", value)
			}
			if diff := cmp.Diff(lines(want), run(t, printenv, "-c", config)); diff != "" {
				t.Fatalf("flags %v, round %d: fw_printenv: %s", flags, i, diff)
			}
			if diff := cmp.Diff(want, mustLoad(t, u)); diff != "" {
				t.Fatalf("flags %v, round %d: %s", flags, i, diff)
			}
		}
		if len(flags) == 1 {
			continue
		}
		// With one copy damaged both read the other.
		image, _ := os.ReadFile(path)
		for i, l := range u.Locations() {
			bad := bytes.Clone(image)
			bad[l.Offset+200] ^= 0x80
			os.WriteFile(path, bad, 0o644)
			if diff := cmp.Diff(lines(mustLoad(t, u)), run(t, printenv, "-c", config)); diff != "" {
				t.Errorf("copy %d damaged: %s", i, diff)
			}
		}
	}
}

// The size in fw_env.config is hexadecimal, with or without 0x, whatever it looks like.
func TestLibubootenvReadsSizesAsHex(t *testing.T) {
	printenv := tool(t, "fw_printenv", "libubootenv-tool")
	u, path := newUBoot(t, crashOld, 1, 1)
	config := filepath.Join(t.TempDir(), "fw_env.config")
	text := path + " 8192 1000\n" + path + " 20480 1000\n" // testSize is 0x1000
	os.WriteFile(config, []byte(text), 0o644)
	locs, err := ParseFwEnvConfig(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(u.Locations(), locs); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(lines(crashOld), run(t, printenv, "-c", config)); diff != "" {
		t.Error(diff)
	}
}

func TestMkenvimage(t *testing.T) {
	mkenvimage := tool(t, "mkenvimage", "u-boot-tools")
	dir := t.TempDir()
	text := filepath.Join(dir, "env.txt")
	os.WriteFile(text, []byte(lines(crashOld)), 0o644)
	for _, redundant := range []bool{false, true} {
		out := filepath.Join(dir, "env.bin")
		args := []string{"-p", "0", "-s", "0x1000", "-o", out, text}
		if redundant {
			args = append([]string{"-r"}, args...)
		}
		run(t, mkenvimage, args...)
		want, _ := os.ReadFile(out)
		got, err := EncodeUBoot(crashOld, 0x1000, redundant, 1)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("redundant %t: not the bytes of mkenvimage (%v)", redundant, err)
		}
	}
}

func TestGrubEditenv(t *testing.T) {
	editenv := tool(t, "grub-editenv", "grub-common")
	g, _ := newGRUB(t, map[string]string{"a": `x\y`, VarBootPart: "2"})
	if got := run(t, editenv, g.path(1, grubEnv), "list"); got != "a=x\\y\n"+VarBootPart+"=2\n" {
		t.Errorf("grub-editenv lists %q", got)
	}
	run(t, editenv, g.path(1, grubEnv), "set", "b=3", `c=p\q`)
	want := map[string]string{"a": `x\y`, VarBootPart: "2", "b": "3", "c": `p\q`}
	if diff := cmp.Diff(want, mustLoad(t, g)); diff != "" {
		t.Error(diff)
	}
}
