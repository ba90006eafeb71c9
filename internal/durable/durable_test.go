package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"
)

// TestMain lets the crash tests run this binary as the process that dies.
func TestMain(m *testing.M) {
	if n := os.Getenv("DURABLE_DIE_AT"); n != "" {
		os.Exit(writeAndDie(os.Getenv("DURABLE_FILE"), n))
	}
	os.Exit(m.Run())
}

func writeAndDie(path, at string) int {
	n, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return 2
	}
	SetHook(func(s Step) error {
		if s.Number == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	})
	if err := WriteFile(path, []byte("new"), 0o600); err != nil {
		return 1
	}
	return 0
}

func TestKilledAtEveryStepLeavesTheOldOrTheNewFile(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "DURABLE_DIE_AT="+strconv.Itoa(n), "DURABLE_FILE="+path)
		err := cmd.Run()
		got, readErr := os.ReadFile(path)
		if readErr != nil || (string(got) != "old" && string(got) != "new") {
			t.Fatalf("killed before step %d: the file holds %q (%v)", n, got, readErr)
		}
		if err := Sweep(dir); err != nil {
			t.Fatal(err)
		}
		if names := list(t, dir); names != "file" {
			t.Fatalf("killed before step %d: %s is left after Sweep", n, names)
		}
		if err == nil { // it came through: there is no step n
			if n < 5 || string(got) != "new" {
				t.Fatalf("only %d steps, file holds %q", n-1, got)
			}
			return
		}
	}
}

// What is being written is no leftover, at any moment: several actions of a build, and several builds, share a directory.
func TestSweepLeavesFilesInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	written := make(chan struct{})
	sweeper := make(chan error)
	go func() {
		for {
			select {
			case <-written:
				sweeper <- nil
				return
			default:
			}
			if err := Sweep(dir); err != nil {
				sweeper <- err
				return
			}
		}
	}()
	var writers errgroup.Group
	for w := range 8 {
		writers.Go(func() error {
			for i := range 100 {
				if err := WriteFile(filepath.Join(dir, fmt.Sprintf("%d-%d", w, i)), []byte("x"), 0o600); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := writers.Wait()
	close(written)
	if err := errors.Join(err, <-sweeper); err != nil {
		t.Fatal(err)
	}
}

// The rename of a commit would put a file into the place of a device.
func TestOnlyFilesAreReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, link} {
		before := list(t, dir)
		if err := WriteFile(path, []byte("x"), 0o600); err == nil || !strings.Contains(err.Error(), "no file") {
			t.Errorf("%s: %v", path, err)
		}
		if after := list(t, dir); after != before {
			t.Errorf("%s is left, before %s", after, before)
		}
	}
}

// A hook is one for the process, so the tests that set it are not parallel.
func TestAnErrorAtEveryStepLeavesNoTrace(t *testing.T) {
	defer SetHook(nil)
	for n := int64(1); ; n++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
		op := ""
		SetHook(func(s Step) error {
			if s.Number == n {
				op = s.Op
				return syscall.ENOSPC
			}
			return nil
		})
		err := WriteFile(path, []byte("new"), 0o600)
		SetHook(nil)
		got, _ := os.ReadFile(path)
		if err == nil {
			if op != "" || string(got) != "new" {
				t.Fatalf("step %d (%s) failed and WriteFile did not say so", n, op)
			}
			return
		}
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), path) && op != "fsync directory" {
			t.Errorf("step %d (%s): the error %q lacks the cause or the path", n, op, err)
		}
		if names := list(t, dir); names != "file" {
			t.Errorf("step %d (%s): the directory holds %s", n, op, names)
		}
		if want := "old"; string(got) != want && op != "fsync directory" {
			t.Errorf("step %d (%s): the file holds %q", n, op, got)
		}
	}
}

func TestCreateThenAbort(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "out"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "half")
	f.Abort()
	f.Abort()
	if names := list(t, dir); names != "" {
		t.Errorf("after Abort the directory holds %s", names)
	}
	if err := f.Commit(); err == nil {
		t.Error("Commit after Abort succeeded")
	}
}

func TestCommitThenAbort(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "out")
	f, err := Create(path, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "whole")
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	f.Abort()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("got %v, %v; want a file with mode 0640", info, err)
	}
}

func TestErrorsNameTheFileThatWasAskedFor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "no", "such", "file")
	err := WriteFile(path, nil, 0o644)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), tempMark) {
		t.Errorf("got %q", err)
	}
}

func TestMkdirAllAndRemove(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	for range 2 {
		if err := MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "file")
	if err := WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := MkdirAll(filepath.Join("/dev/null", "x"), 0o755); err == nil {
		t.Error("made a directory below a file")
	}
}

func TestSweepTakesOnlyWhatWasLeftBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"keep", ".hidden", ".out" + tempMark + "123"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, ".out"+tempMark+"d", "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := Create(filepath.Join(dir, "busy"), 0o644) // as if by another process
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	work, remove, err := TempDir(filepath.Join(dir, "busy"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{".hidden", filepath.Base(f.Name()), filepath.Base(work), "keep"}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(list(t, dir))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	remove()
	if strings.Contains(list(t, dir), filepath.Base(work)) {
		t.Error("the directory is still there")
	}
	if err := Sweep(filepath.Join(dir, "none")); err != nil {
		t.Error(err)
	}
}

func list(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return strings.Join(names, " ")
}
