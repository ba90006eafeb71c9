package cli_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const reproduciblePipeline = `
twinkeel { builder = "https://ci.example.com" }
layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  partition "boot" {
    size       = "8MiB"
    filesystem = "vfat"
    bootable   = true
  }
  slots "rootfs" {
    size       = "8MiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "8MiB"
    filesystem = "ext4"
    mount      = "/data"
  }
}
device_type "board" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "env" }
}
signer "file" "s" { private_key = "key.pem" }
artifact "os" {
  for_each     = toset(["none", "gzip", "xz", "zstd"])
  name         = "os-1"
  device_types = [device_type.board]
  compress     = each.key
  signer       = signer.file.s
  provenance   = true
  payload "rootfs-image" { file = "rootfs.ext4" }
}
artifact "file" {
  name         = "file-1"
  device_types = [device_type.board]
  payload "single-file" {
    file        = "tree/bin/tool"
    destination = "/opt/tool"
  }
}
artifact "dir" {
  name         = "dir-1"
  device_types = [device_type.board]
  payload "directory" {
    directory   = "tree"
    destination = "/opt"
  }
}
artifact "module" {
  name         = "module-1"
  device_types = [device_type.board]
  scripts      = ["ArtifactInstall_Enter_00_stop"]
  payload "edge-app" {
    files     = ["tree/bin/tool", "tree/text"]
    meta_data = { z = 1, a = [true, null] }
  }
}
image "board" {
  device_type = device_type.board
  artifact    = artifact.os["gzip"]
  formats     = ["raw", "bmap", "gz", "xz", "zst", "android-sparse", "qcow2"]
  fill "boot" { dir = "tree" }
  fill "data" { dir = "tree" }
  fill "rootfs" {
    file = "rootfs.ext4"
    both = true
  }
}
`

// reproducibleInputs writes what the pipeline reads, with modification times that nobody else has.
func reproducibleInputs(t *testing.T, dir string, when time.Time) {
	t.Helper()
	rootfs := make([]byte, 4<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(rootfs[1<<20 : 2<<20])
	binary.LittleEndian.PutUint16(rootfs[1024+56:], 0xEF53)
	binary.LittleEndian.PutUint32(rootfs[1024+4:], 4<<10) // blocks of 1 KiB
	tool := make([]byte, 100_000)
	_, _ = random.Read(tool)
	for name, f := range map[string]struct {
		content []byte
		mode    fs.FileMode
	}{
		"x.twinkeel.hcl": {[]byte(reproduciblePipeline), 0o644}, "rootfs.ext4": {rootfs, 0o644},
		"tree/bin/tool": {tool, 0o755}, "tree/text": {[]byte("text\n"), 0o640}, "tree/deep/er/file": {[]byte("x"), 0o600},
		"ArtifactInstall_Enter_00_stop": {[]byte("#!/bin/sh\n"), 0o755},
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, f.mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"tree", "tree/bin", "tree/deep", "tree/deep/er"} {
		if err := os.Chmod(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, when, when)
	}); err != nil {
		t.Fatal(err)
	}
}

// TestReproducible builds everything twice, as different as two builds of one input can be: in another directory, another time
// zone, another locale, with another umask, by another user where that is possible, one after the other on one core and all at
// once on several. Every byte below out/ is the same, that of images in every format.
func TestReproducible(t *testing.T) {
	t.Parallel()
	if !haveAll("mke2fs", "mkfs.vfat", "mcopy", "debugfs") {
		t.Skip("needs e2fsprogs, dosfstools and mtools")
	}
	base, err := os.MkdirTemp("", "reproducible") //nolint:usetesting // that of t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(base, "twinkeel") // as which the test binary is the tool, see TestMain
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tool, self, 0o755); err != nil {
		t.Fatal(err)
	}
	type builder struct {
		dir, zone, locale, umask string
		parallelism              int
		nobody                   bool
		when                     time.Time
	}
	builders := []builder{
		{dir: "a", zone: "UTC", locale: "C", umask: "022", parallelism: 1, when: time.Unix(1_700_000_000, 0)},
		{dir: "somewhere/else entirely/b", zone: "Pacific/Auckland", locale: "de_DE.UTF-8", umask: "077", parallelism: 8, nobody: os.Getuid() == 0, when: time.Unix(1_600_000_000, 123)},
	}
	run := func(b builder, args ...string) {
		t.Helper()
		quoted := make([]string, len(args))
		for i, a := range args {
			quoted[i] = "'" + a + "'"
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "umask "+b.umask+" && exec '"+tool+"' "+strings.Join(quoted, " "))
		cmd.Dir = filepath.Join(base, b.dir)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "TZ=" + b.zone, "LC_ALL=" + b.locale, "HOME=" + cmd.Dir, "TMPDIR=" + cmd.Dir, fmt.Sprintf("GOMAXPROCS=%d", b.parallelism)}
		if b.nobody {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s in %s: %v\n%s", args[0], b.dir, err, out)
		}
	}
	for i, b := range builders {
		dir := filepath.Join(base, b.dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		reproducibleInputs(t, dir, b.when)
		if i == 0 {
			run(b, "keys", "generate", "key.pem")
		} else if err := exec.CommandContext(t.Context(), "cp", filepath.Join(base, builders[0].dir, "key.pem"), filepath.Join(base, builders[0].dir, "key.pem.pub"), dir).Run(); err != nil {
			t.Fatal(err)
		}
		if b.nobody {
			if err := exec.CommandContext(t.Context(), "chown", "-R", "65534:65534", dir).Run(); err != nil {
				t.Fatal(err)
			}
		}
		run(b, "apply", "--auto-approve", fmt.Sprintf("--parallelism=%d", b.parallelism))
	}
	first, second := readTree(t, filepath.Join(base, builders[0].dir, "out")), readTree(t, filepath.Join(base, builders[1].dir, "out"))
	if len(first) < 10 {
		t.Errorf("only %d files were made", len(first))
	}
	for _, ending := range []string{"img", "img.bmap", "img.gz", "img.xz", "img.zst", "simg", "qcow2"} {
		if len(first["images/board."+ending]) == 0 {
			t.Errorf("there is no board.%s", ending)
		}
	}
	for name, content := range first {
		if other, ok := second[name]; !ok {
			t.Errorf("%s is missing in the second build", name)
		} else if !bytes.Equal(content, other) {
			t.Errorf("%s differs from byte %d of %d and %d on", name, commonPrefix(content, other), len(content), len(other))
		}
	}
	if len(second) != len(first) {
		t.Errorf("%d files were made, then %d", len(first), len(second))
	}
}

func readTree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		out[rel], err = os.ReadFile(path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func commonPrefix(a, b []byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
