package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/twinkeel/twinkeel/internal/diag"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
)

const (
	// killAfter is how long an interrupted command may take to end by itself.
	killAfter = 5 * time.Second
	// maxLine is how much of a line that a command writes is shown, and maxHeld how much is looked at to find secrets in it;
	// both in bytes.
	maxLine = 1000
	maxHeld = 64 << 10
	// lastLines are kept for the error of a command that fails.
	lastLines = 20
)

// exec runs a command in a fresh output directory and moves what it declared into place, when it did well. Nothing of a
// command that fails is seen.
func (r *runner) exec(ctx context.Context, a *pipeline.SourceAction) error {
	x := a.Exec
	if err := durable.MkdirAll(a.Dir, 0o755); err != nil {
		return err
	}
	temp, remove, err := durable.TempDir(filepath.Join(a.Dir, "outputs"))
	if err != nil {
		return err
	}
	defer remove()
	log := &lines{secrets: secretsOf(x), emit: func(line string) {
		r.events(Event{Address: a.Address, State: StateOutput, Detail: line})
	}}
	if err := r.runCommand(ctx, x, temp, log); err != nil {
		return err
	}
	for _, name := range sortedKeys(x.Outputs) {
		if err := checkProduced(temp, name, x.Outputs[name]); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(x.Outputs) {
		rel := filepath.FromSlash(x.Outputs[name])
		if err := moveOutput(filepath.Join(temp, rel), filepath.Join(a.Dir, rel)); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) runCommand(ctx context.Context, x *pipeline.Exec, out string, log *lines) error {
	cmd := exec.CommandContext(ctx, x.Command[0], x.Command[1:]...)
	cmd.Dir, cmd.Env = x.Dir, r.environment(x, out)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that what it starts ends with it. When this process ends without having waited, as by a second
	// Ctrl-C, the kernel kills the command: when the thread ends that started it (PR_SET_PDEATHSIG of prctl(2)), which is
	// therefore kept until then.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var kill *time.Timer
	cmd.Cancel = func() error {
		group := -cmd.Process.Pid
		kill = time.AfterFunc(killAfter, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
		return syscall.Kill(group, syscall.SIGTERM)
	}
	cmd.WaitDelay = killAfter + time.Second // for what left its group and holds the pipes
	err := cmd.Start()
	if err != nil {
		return &commandError{command: x.Command, err: plainExecError(err, x.Command[0])}
	}
	err = cmd.Wait()
	if kill != nil {
		kill.Stop()
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind
	log.flush()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return &commandError{command: x.Command, err: err, last: log.last}
	}
	return nil
}

// plainExecError says what is wrong with a program in the words of people who have no Go.
func plainExecError(err error, program string) error {
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("there is no program %s in PATH", program)
	case errors.Is(err, exec.ErrDot):
		return fmt.Errorf("write ./%s for a program of the pipeline's directory", program)
	}
	return errors.New(plainPathError(err))
}

// environment is all that a command sees: what changes from one machine to the next must not change what it makes.
func (r *runner) environment(x *pipeline.Exec, out string) []string {
	env := map[string]string{
		"PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME"), "LANG": "C.UTF-8", "TZ": "UTC",
		"SOURCE_DATE_EPOCH": fmt.Sprint(r.plan.Epoch.Unix()), "PWD": x.Dir,
	}
	for name, value := range x.Environment {
		env[name] = value
	}
	for name, value := range x.SecretEnvironment {
		env[name] = string(value)
	}
	env["OUT"] = out
	list := make([]string, 0, len(env))
	for _, name := range sortedKeys(env) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// checkProduced looks whether a declared output is there: a file, and reached through no link.
func checkProduced(dir, name, rel string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	steps := strings.Split(rel, "/")
	for i := range steps {
		at := strings.Join(steps[:i+1], "/")
		info, err := root.Lstat(filepath.FromSlash(at))
		last := i == len(steps)-1
		switch {
		case err != nil:
			return &noOutputError{name, rel, "is not there", listDir(dir)}
		case last && info.IsDir():
			return &noOutputError{name, rel, "is a directory, and outputs are files; an archive holds several", ""}
		case last && !info.Mode().IsRegular(), !last && !info.IsDir():
			return &noOutputError{name, rel, "is not a regular file", ""}
		}
	}
	return nil
}

// listDir names some of what is in a directory.
func listDir(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return "it wrote nothing there"
	}
	const most = 8
	var names []string
	for i, e := range entries {
		if i == most {
			names = append(names, "…")
			break
		}
		names = append(names, e.Name())
	}
	return "it wrote " + strings.Join(names, ", ")
}

// moveOutput puts an output where it belongs. Of its mode only remains whether it can be executed.
func moveOutput(from, to string) error {
	f, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if info.Mode()&0o100 != 0 {
		mode = 0o755
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := durable.Sync(f); err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return durable.Rename(from, to)
}

// lines passes on what a command writes, line by line and harmless, and keeps the last of it.
type lines struct {
	emit    func(string)
	secrets []string

	mu   sync.Mutex
	part []byte // of a line that has no end yet
	long bool   // its rest is left out
	last []string
}

// Write implements [io.Writer].
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		if room := maxHeld - len(l.part); len(line) > room {
			line, l.long = line[:room], true
		}
		l.part = append(l.part, line...)
		if whole {
			l.end()
		}
		p = rest
	}
	return n, nil
}

func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.end()
	}
}

// secretsOf are the sensitive values that a command gets; those of several lines line by line, as they would be written.
func secretsOf(x *pipeline.Exec) []string {
	var out []string
	for _, value := range x.SecretEnvironment {
		out = append(out, strings.Split(string(value), "\n")...)
		out = append(out, string(value))
	}
	return out
}

func (l *lines) end() {
	text := diag.Redact(strings.TrimSuffix(string(l.part), "\r"), l.secrets)
	if text = escape(text); len(text) > maxLine || l.long {
		text = strings.ToValidUTF8(text[:min(len(text), maxLine)], "") + " …"
	}
	l.part, l.long = l.part[:0], false
	if l.last = append(l.last, text); len(l.last) > lastLines {
		l.last = slices.Delete(l.last, 0, 1)
	}
	l.emit(text)
}

// escape makes of control characters what a terminal only shows.
func escape(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text)
}

var _ io.Writer = (*lines)(nil)

type commandError struct {
	command []string
	err     error
	last    []string
}

func (e *commandError) Error() string {
	name := filepath.Base(e.command[0])
	var exit *exec.ExitError
	text := ""
	switch {
	case errors.As(e.err, &exit) && exit.ExitCode() >= 0:
		text = fmt.Sprintf("%s ended with exit code %d", name, exit.ExitCode())
	case errors.As(e.err, &exit):
		text = fmt.Sprintf("%s was ended by a signal (%s)", name, exit.ProcessState)
	default:
		text = fmt.Sprintf("%s cannot be run: %v", name, e.err)
	}
	if len(e.last) > 0 {
		text += "; the last that it wrote:\n  " + strings.Join(e.last, "\n  ")
	}
	return text
}

// Unwrap gives the cause.
func (e *commandError) Unwrap() error { return e.err }

type noOutputError struct{ name, rel, what, wrote string }

func (e *noOutputError) Error() string {
	text := fmt.Sprintf("the command ended well, but its output %s, $OUT/%s, %s", e.name, e.rel, e.what)
	if e.wrote != "" {
		text += "; " + e.wrote
	}
	return text
}

type noExecError struct{}

func (*noExecError) Error() string {
	return "its command would have to run, and --no-exec forbids that"
}

// Hint says what to do.
func (*noExecError) Hint() string {
	return "read the command in the pipeline, and leave --no-exec out when you trust it"
}
