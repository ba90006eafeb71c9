package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAgentDeps holds the list of packages beyond the standard library that the agent contains. A change of deps.txt is
// a decision: each of them runs as root on every device.
func TestAgentDeps(t *testing.T) {
	t.Parallel()
	list := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	list.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("deps.txt")
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != string(want) {
		t.Errorf("the agent now contains\n%s\nif that is wanted, write it to deps.txt", out)
	}
}

// maxAgentSize is the budget of the stripped, static binary on arm64: 7 MiB.
const maxAgentSize = 7 << 20

// TestAgentSize builds the agent as it is released (see the Makefile). The tag leaves HTTP/2 out, which a device that
// makes one request at a time has no use for.
func TestAgentSize(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds for another architecture")
	}
	path := filepath.Join(t.TempDir(), "twinkeel-agent")
	build := exec.Command("go", "build", "-trimpath", "-tags=nethttpomithttp2", "-ldflags=-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.2f MiB", float64(info.Size())/(1<<20))
	if info.Size() > maxAgentSize {
		t.Errorf("the agent has %d bytes, more than the budget of %d", info.Size(), maxAgentSize)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), "/lib/ld-linux") {
		t.Error("the binary is not static")
	}
}
