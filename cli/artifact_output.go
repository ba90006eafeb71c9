package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

const outputUsage = "`file` to write; without it FILE is replaced"

// create starts the file at path, which appears whole or not at all. A file that is replaced keeps its mode and owner, and
// a symbolic link to it stays one.
func create(path string) (*durable.File, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	mode := fs.FileMode(0o644)
	old, err := os.Stat(path)
	switch {
	case err == nil && old.IsDir():
		return nil, fmt.Errorf("%s: it is a directory", path)
	case err == nil && !old.Mode().IsRegular():
		return nil, fmt.Errorf("%s: it is not a regular file; \"-o -\" writes to stdout", path)
	case err == nil:
		mode = old.Mode().Perm()
	}
	f, err := durable.Create(path, mode)
	if err != nil {
		return nil, err
	}
	if st, ok := statOf(old); ok {
		_ = f.Chown(st.uid, st.gid) // only root may give files away; others keep what they may
	}
	return f, nil
}

// notOver refuses an output, "" and "-" excepted, that would replace one of the files that are read for it.
func notOver(flag, to string, inputs ...string) error {
	if to == "" || to == "-" {
		return nil
	}
	there, err := os.Stat(to)
	if err != nil || there.IsDir() {
		return nil
	}
	for _, name := range inputs {
		if name == "" || name == "-" {
			continue
		}
		if in, err := os.Stat(name); err == nil && os.SameFile(there, in) {
			return usagef("%s %s would replace %s, which is read: choose another name", flag, to, name)
		}
	}
	return nil
}

type owner struct{ uid, gid int }

func statOf(info fs.FileInfo) (owner, bool) {
	if info == nil {
		return owner{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return owner{}, false
	}
	return owner{int(st.Uid), int(st.Gid)}, true
}

// write makes the file at path with what make writes.
func write(path string, make func(f *durable.File) error) error {
	f, err := create(path)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := make(f); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = syscall.ENOSPC // without the name of the temporary file, which is gone
		}
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Commit()
}

// writeOrStdout writes to path, or to stdout for "-".
func (a *app) writeOrStdout(path string, make func(w io.Writer) error) error {
	if path != "-" {
		return write(path, func(f *durable.File) error { return make(f) })
	}
	if err := a.notTerminal(path); err != nil {
		return err
	}
	// What is binary must not pass through the search for secrets.
	return make(a.stdout.target)
}

// notTerminal refuses to write an artifact to a terminal.
func (a *app) notTerminal(path string) error {
	if f, ok := a.stdout.target.(*os.File); ok && path == "-" && isTerminal(f) {
		return usagef("an artifact is not for the terminal: redirect stdout, or name a file with --output")
	}
	return nil
}

// working shows the progress of one piece of work on stderr.
func (a *app) working(ctx context.Context, name, doing string, work func(report func(done, total int64)) error) error {
	show := a.newProgress(ctx)
	defer show.close()
	what := filepath.Base(shown(name))
	if name == "-" {
		what = "artifact" // on stdin or stdout
	}
	e := build.Event{Address: what, Doing: doing, State: build.StateStarted}
	show.event(e)
	e.State = build.StateProgress
	err := work(func(done, total int64) {
		e.Done, e.Total = done, total
		show.event(e)
	})
	if e.State, e.Err = build.StateDone, err; err != nil {
		e.State = build.StateFailed
	}
	show.event(e)
	return err
}

// countingReader reports how much of a file has been read.
type countingReader struct {
	r           io.Reader
	done, total int64
	report      func(done, total int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	c.report(c.done, c.total)
	return n, err
}

// checkRegular refuses as FILE what cannot be read twice.
func checkRegular(name string) error {
	if name == "-" {
		return usagef("FILE must be a file here, not stdin: it is read twice")
	}
	info, err := os.Stat(name)
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		return usagef("%s: FILE must be a regular file here: it is read twice", name)
	}
	return nil
}

// edit makes a new version of the artifact in the file from, at path to ("" replaces the file, "-" is stdout).
func (a *app) edit(ctx context.Context, from, to string, change func(out io.Writer, in *os.File) (*artifactfmt.Info, error)) (*artifactfmt.Info, error) {
	in, err := openFile(from)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if to == "" {
		to = from
	}
	var info *artifactfmt.Info
	err = a.writeOrStdout(to, func(out io.Writer) error {
		if info, err = change(out, in); err != nil && ctx.Err() == nil && to != from {
			return fmt.Errorf("%s: %w", from, err)
		}
		return err
	})
	return info, err
}
