package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The programs that make file systems, with the Debian packages they come in.
var tools = []struct{ name, pkg string }{
	{"mke2fs", "e2fsprogs"}, {"debugfs", "e2fsprogs"}, {"mkfs.vfat", "dosfstools"}, {"mcopy", "mtools"}, {"mmd", "mtools"},
}

// editTools are those that only changing an image needs.
var editTools = []struct{ name, pkg string }{
	{"e2fsck", "e2fsprogs"}, {"resize2fs", "e2fsprogs"},
}

// flashTools are those for raw flash, which only WriteUBI needs.
var flashTools = []struct{ name, pkg string }{
	{"ubinize", "mtd-utils"}, {"mkfs.ubifs", "mtd-utils"},
}

// ToolError says that a program is missing, or that it failed.
type ToolError struct {
	Tool    string
	Package string // set when the program is missing
	Output  string // what it said when it failed
	Err     error
}

func (e *ToolError) Error() string {
	if e.Package != "" {
		return fmt.Sprintf("%s is not installed", e.Tool)
	}
	if e.Output != "" {
		return fmt.Sprintf("%s: %v: %s", e.Tool, e.Err, e.Output)
	}
	return fmt.Sprintf("%s: %v", e.Tool, e.Err)
}

func (e *ToolError) Unwrap() error { return e.Err }

// Hint names the package to install.
func (e *ToolError) Hint() string {
	if e.Package == "" {
		return ""
	}
	return "apt-get install " + e.Package
}

// Full tells whether the program ran out of room inside the file system it was filling.
func (e *ToolError) Full() bool {
	if errors.Is(e.Err, syscall.ENOSPC) {
		return false
	}
	for _, sign := range []string{"Could not allocate", "Disk full", "No free space", "not enough space"} {
		if strings.Contains(e.Output, sign) {
			return true
		}
	}
	return false
}

// CheckTools looks for the programs that make file systems. An image of prepared file systems needs none of them.
func CheckTools() error {
	for _, t := range tools {
		if _, err := findTool(t.name); err != nil {
			return err
		}
	}
	return nil
}

// findTool also looks where Debian keeps programs that an ordinary user's PATH lacks.
func findTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	for _, t := range slices.Concat(tools, editTools, flashTools) {
		if t.name == name {
			return "", &ToolError{Tool: name, Package: t.pkg, Err: err}
		}
	}
	return "", &ToolError{Tool: name, Err: err}
}

// runTool runs a program in dir with nothing of the caller's environment that could change its output.
func (img *Image) runTool(ctx context.Context, dir string, env []string, name string, args ...string) error {
	_, err := img.runToolOutput(ctx, dir, env, name, args...)
	return err
}

// runToolOutput also returns what the program said.
func (img *Image) runToolOutput(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	return RunTool(ctx, dir, img.epochSeconds(), env, name, args...)
}

// RunTool runs one of the programs that make and change file systems, in dir, at a time in seconds since 1970 if it asks for
// one, with nothing of the caller's environment that could change what it does. It returns what the program said; the
// error is a [*ToolError].
func RunTool(ctx context.Context, dir string, seconds int64, env []string, name string, args ...string) (string, error) {
	path, err := findTool(name)
	if err != nil {
		return "", err
	}
	epoch := strconv.FormatInt(seconds, 10)
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + dir, "LC_ALL=C.UTF-8", "TZ=UTC", "SOURCE_DATE_EPOCH=" + epoch,
	}, env...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		text := strings.Join(strings.Fields(output.String()), " ")
		if len(text) > 2000 {
			text = text[:2000]
		}
		if strings.Contains(text, "No space left on device") {
			err = syscall.ENOSPC
		}
		return "", &ToolError{Tool: name, Output: text, Err: err}
	}
	return output.String(), nil
}
