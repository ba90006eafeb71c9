package vdevice

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"

	"github.com/twinkeel/twinkeel/imaging"
)

const (
	initPath  = "sbin/init"
	agentPath = "usr/bin/twinkeel-agent"
)

// panicError is why a kernel would not come up.
type panicError struct{ reason string }

func (e *panicError) Error() string { return e.reason }

// machines are the ELF machines that this machine can run.
var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM, "386": elf.EM_386, "riscv64": elf.EM_RISCV,
}

// mountRoot does what a kernel does with a slot: it mounts it and looks for an init that it can run.
func mountRoot(disk io.ReaderAt, offset, size int64) (*imaging.Ext4, error) {
	root, err := imaging.OpenExt4(disk, offset, size)
	if err != nil {
		return nil, &panicError{fmt.Sprintf("VFS: unable to mount root fs: %v", err)}
	}
	if err := runnable(root, initPath, 1); err != nil {
		return nil, &panicError{fmt.Sprintf("no working init found: %v", err)}
	}
	return root, nil
}

// runnable says whether a kernel of this machine could execute a file: an ELF program whose loader is there, or a
// script whose interpreter is.
func runnable(root *imaging.Ext4, path string, scripts int) error {
	info, err := root.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("/%s is missing", path)
	}
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("/%s is not executable", path)
	}
	f, err := root.Open(path)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	defer f.Close()
	content, ok := f.(io.ReaderAt)
	if !ok {
		return fmt.Errorf("/%s cannot be read", path)
	}
	line, err := bufio.NewReader(io.NewSectionReader(content, 0, 256)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if words := strings.Fields(strings.TrimPrefix(line, "#!")); strings.HasPrefix(line, "#!") && len(words) > 0 {
		if scripts == 0 {
			return fmt.Errorf("/%s is a script run by a script", path)
		}
		return runnable(root, strings.TrimPrefix(words[0], "/"), scripts-1)
	}
	return runnableELF(root, path, content)
}

func runnableELF(root *imaging.Ext4, path string, content io.ReaderAt) error {
	program, err := elf.NewFile(content)
	if err != nil {
		return fmt.Errorf("/%s is no program", path)
	}
	if want := machines[runtime.GOARCH]; program.Machine != want {
		return fmt.Errorf("/%s is a program for %v, this machine is %v", path, program.Machine, want)
	}
	for _, p := range program.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		name, err := io.ReadAll(p.Open())
		if err != nil {
			return fmt.Errorf("/%s: %w", path, err)
		}
		loader := strings.Trim(string(name), "/\x00")
		if _, err := root.Stat(loader); err != nil {
			return fmt.Errorf("/%s needs /%s, which is missing", path, loader)
		}
	}
	return nil
}

// osRelease reads the name and version that a system gives itself.
func osRelease(root fs.FS) map[string]string {
	var data []byte
	for _, path := range []string{"etc/os-release", "usr/lib/os-release"} {
		if content, err := fs.ReadFile(root, path); err == nil {
			data = content
			break
		}
	}
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[key] = strings.Trim(value, `"'`)
		}
	}
	return out
}
