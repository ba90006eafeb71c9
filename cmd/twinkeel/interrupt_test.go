package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const actAsTool = "TWINKEEL_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(actAsTool) != "" {
		main()
	}
	os.Exit(m.Run())
}

const pipelineText = `
layout "ab" {
  table = "gpt"
  reserve "uboot_env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "none"
  }
}
device_type "board" {
  type         = "board"
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "uboot_env" }
}
signer "command" "slow" {
  command    = ["./sign.sh"]
  public_key = "key.pem.pub"
}
signer "file" "fast" { private_key = "key.pem" }
variable "slow" { default = false }
artifact "app" {
  name         = "app-1"
  device_types = [device_type.board]
  signer       = var.slow ? signer.command.slow : signer.file.fast
  compress     = "gzip"
  payload "single-file" {
    file        = "payload.bin"
    destination = "/opt/app"
  }
}
`

// tool is the real command as a process of its own.
func tool(t *testing.T, dir string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Dir, c.Env = dir, append(os.Environ(), actAsTool+"=1", "TWINKEEL_CACHE_DIR=", "NO_COLOR=1")
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	c.WaitDelay = 10 * time.Second
	return c, &said
}

func mustRun(t *testing.T, dir string, args ...string) string {
	t.Helper()
	c, said := tool(t, dir, args...)
	if err := c.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, said)
	}
	return said.String()
}

// project is a pipeline whose only artifact takes long to compress (size MiB of noise).
func project(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	noise := make([]byte, size<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for name, f := range map[string]struct {
		content []byte
		mode    fs.FileMode
	}{
		"app.twinkeel.hcl": {[]byte(pipelineText), 0o644},
		"payload.bin":      {noise, 0o644},
		// What it starts in the background keeps the pipe open after it is killed: the orderly end takes a while.
		"sign.sh": {[]byte("#!/bin/sh\nsleep 20 &\ntouch signing\nwait\n"), 0o755},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), f.content, f.mode); err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, dir, "keys", "generate", "key.pem")
	return dir
}

// files are all regular files below dir but those that the project begins with and the memo of digests.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if filepath.Dir(rel) != "." && rel != ".twinkeel/cache/digests.json" {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func waitUntil(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func halfWritten(t *testing.T, dir string) func() bool {
	return func() bool {
		for _, name := range files(t, dir) {
			if strings.Contains(name, ".twinkeel-tmp-") {
				return true
			}
		}
		return false
	}
}

// imageText has a disk image in all formats but xz, of which a frame of noise takes seconds that nothing interrupts.
const imageText = `
image "disk" {
  device_type = device_type.board
  artifact    = artifact.app
  formats     = ["raw", "bmap", "gz", "zst", "android-sparse", "qcow2"]
  fill "rootfs" {
    file = "rootfs.bin"
    both = true
  }
}
`

func TestFirstInterruptLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		for _, after := range []time.Duration{0, 100 * time.Millisecond} {
			t.Run(fmt.Sprintf("%v after %v", signal, after), func(t *testing.T) {
				t.Parallel()
				interrupt(t, project(t, 128), "build", signal, after)
			})
			t.Run(fmt.Sprintf("image, %v after %v", signal, after), func(t *testing.T) {
				t.Parallel()
				dir := project(t, 1)
				mustRun(t, dir, "build")
				noise := make([]byte, 60<<20)
				rand.NewChaCha8([32]byte{2}).Read(noise)
				for name, content := range map[string][]byte{"image.twinkeel.hcl": []byte(imageText), "rootfs.bin": noise} {
					if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				interrupt(t, dir, "image", signal, after)
			})
		}
	}
}

// interrupt runs a command until it writes something and ends it. What was there before is left, and nothing else.
func interrupt(t *testing.T, dir, command string, signal syscall.Signal, after time.Duration) {
	t.Helper()
	before := files(t, dir)
	c, said := tool(t, dir, command)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "an output is being written", halfWritten(t, dir))
	time.Sleep(after)
	if err := c.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil || c.ProcessState.ExitCode() != 130 {
		t.Errorf("it ended with %v, want exit code 130\n%s", err, said)
	}
	if left := files(t, dir); !slices.Equal(left, before) {
		t.Errorf("left behind: %v, there was %v", left, before)
	}
}

func TestSecondInterruptStopsAtOnce(t *testing.T) {
	t.Parallel()
	dir := project(t, 1)
	c, said := tool(t, dir, "build", "--var", "slow=true")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	waitUntil(t, "the artifact is being signed", func() bool {
		_, err := os.Stat(filepath.Join(dir, "signing"))
		return err == nil
	})
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended after the first signal, %v: nothing is tested\n%s", err, said)
	case <-time.After(300 * time.Millisecond):
	}
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	waitUntil(t, "it ended", func() bool { return syscall.Kill(c.Process.Pid, 0) != nil || isZombie(c.Process.Pid) })
	if took := time.Since(start); took > time.Second {
		t.Errorf("it ended %v after the second signal", took)
	}
	<-ended
	status, ok := c.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("it ended with %v, want the signal", c.ProcessState)
	}
	for _, name := range files(t, dir) {
		if !strings.Contains(name, ".twinkeel-tmp-") && !strings.Contains(name, "/locks/") {
			t.Errorf("%s is visible", name)
		}
	}
	mustRun(t, dir, "build")
	mustRun(t, dir, "cache", "prune")
	for _, name := range files(t, dir) {
		if strings.Contains(name, ".twinkeel-tmp-") || strings.Contains(name, "/locks/") {
			t.Errorf("%s is left behind by the next build", name)
		}
	}
	mustRun(t, dir, "artifact", "verify", "out/artifacts/app.mender", "--key", "key.pem.pub")
}

func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(b), ") ")
	return err != nil || strings.HasPrefix(after, "Z")
}

// TestTwoProcessesOneCache: what two processes need at once is built once, and both have it.
func TestTwoProcessesOneCache(t *testing.T) {
	t.Parallel()
	one := project(t, 8)
	two := t.TempDir()
	for _, name := range []string{"app.twinkeel.hcl", "payload.bin", "key.pem", "key.pem.pub"} {
		b, err := os.ReadFile(filepath.Join(one, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(two, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cache := filepath.Join(t.TempDir(), "cache")
	said := map[string]*bytes.Buffer{}
	var commands []*exec.Cmd
	for _, dir := range []string{one, two} {
		c, out := tool(t, dir, "build")
		c.Env = append(c.Env, "TWINKEEL_CACHE_DIR="+cache)
		said[dir] = out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, c)
	}
	for _, c := range commands {
		if err := c.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, said[c.Dir])
		}
	}
	built := 0
	var artifacts [][]byte
	for _, dir := range []string{one, two} {
		if !strings.Contains(said[dir].String(), "from the cache") {
			built++
		}
		b, err := os.ReadFile(filepath.Join(dir, "out/artifacts/app.mender"))
		if err != nil {
			t.Fatal(err)
		}
		artifacts = append(artifacts, b)
	}
	if built != 1 || !bytes.Equal(artifacts[0], artifacts[1]) {
		t.Errorf("%d of 2 built; equal: %t\n%s\n%s", built, bytes.Equal(artifacts[0], artifacts[1]), said[one], said[two])
	}
	if left, err := os.ReadDir(filepath.Join(cache, "locks")); err != nil || len(left) > 0 {
		t.Errorf("locks left: %v, %v", left, err)
	}
}
