package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/gocty"
)

// gitRunner is the ability of a [FileSystem] to ask git about the work tree around a directory. One without it says that
// there is no git.
type gitRunner interface {
	Git(ctx context.Context, dir string, args ...string) (out string, err error)
}

// Limits of a question to git, which reads a whole work tree for some.
const (
	gitTime   = 20 * time.Second
	maxGitOut = 64 << 10
)

// Git runs git in a directory. It changes nothing there, asks nobody and starts none of the programs that a work tree's
// settings can name for looking at it.
func (OS) Git(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gitTime)
	defer cancel()
	safe := []string{"--no-pager", "--no-optional-locks", "-c", "core.fsmonitor=", "-c", "core.hooksPath=/dev/null", "-c", "log.showSignature=false", "-C", dir}
	cmd := exec.CommandContext(ctx, "git", append(safe, args...)...)
	cmd.Env = append(gitEnviron(os.Environ()), "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	cmd.WaitDelay = time.Second
	out, problem := &limited{}, &limited{}
	cmd.Stdout, cmd.Stderr = out, problem
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", errors.New("git is not installed; give the value as a variable instead")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", fmt.Errorf("git did not answer within %s", gitTime)
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", &gitError{problem.text(), err}
	}
	return out.text(), nil
}

// gitEnviron leaves out what binds git to a work tree other than that of its directory, as inside of a hook.
func gitEnviron(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		return strings.HasPrefix(entry, "GIT_") && !strings.HasPrefix(entry, "GIT_CONFIG") && !strings.HasPrefix(entry, "GIT_CEILING")
	})
}

// limited keeps the beginning of what is written.
type limited struct{ buf bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.buf.Write(p[:min(len(p), maxGitOut-l.buf.Len())])
	return len(p), nil
}

func (l *limited) text() string { return strings.TrimSpace(l.buf.String()) }

// gitError is what git said when it failed.
type gitError struct {
	text string
	err  error
}

func (e *gitError) Error() string { return e.text }
func (e *gitError) Unwrap() error { return e.err }

// gitAnswer is what git said to one question of a planning run.
type gitAnswer struct {
	out string
	err error
}

// git asks once; all instances of a block get one answer.
func (f *facts) git(args ...string) (string, error) {
	key := strings.Join(args, "\x00")
	if answer, asked := f.answers[key]; asked {
		return answer.out, answer.err
	}
	runner, ok := f.fs.(gitRunner)
	if !ok {
		return "", errors.New("git cannot be asked here")
	}
	out, err := runner.Git(f.ctx, f.dir, args...)
	if err == nil && !utf8.ValidString(out) {
		err = errors.New("git's answer is not text in UTF-8")
	}
	if f.answers == nil {
		f.answers = make(map[string]gitAnswer)
	}
	f.answers[key] = gitAnswer{out, err}
	return out, err
}

// explainGit words what git says as a cause and what to do.
func (f *facts) explainGit(err error) error {
	var failed *gitError
	if !errors.As(err, &failed) {
		return err
	}
	contains := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(failed.text, part) })
	}
	switch {
	case contains("dubious ownership", "safe.directory"):
		return fmt.Errorf("git does not trust the work tree around %s, because it belongs to another user; trust it with: git config --global --add safe.directory %s", f.dir, f.dir)
	case contains("not a git repository"):
		return fmt.Errorf("%s is not in a work tree of git", f.dir)
	case contains("No names found", "No tags can describe", "cannot describe anything", "No annotated tags"):
		if _, err := f.git("rev-parse", "--verify", "HEAD"); err != nil {
			return errors.New("there is no commit yet")
		}
		text := "no tag fits that HEAD comes after"
		if shallow, _ := f.git("rev-parse", "--is-shallow-repository"); shallow == "true" {
			text += "; the clone is shallow, so fetch the rest: git fetch --unshallow --tags"
		}
		return errors.New(text)
	case contains("unknown revision", "does not have any commits", "Needed a single revision", "bad revision"), failed.text == "HEAD":
		return errors.New("there is no commit yet")
	}
	line, _, _ := strings.Cut(failed.text, "\n")
	if line == "" {
		line = failed.err.Error()
	}
	return fmt.Errorf("git: %s", shorten(line))
}

// gitFunctions are facts of the work tree that the pipeline's directory is in. Offline they are unknown.
func gitFunctions(f *facts) map[string]function.Function {
	// ask makes a function with at most one argument, which is null when it is left out.
	ask := func(param string, paramType, result cty.Type, fn func(arg cty.Value) (cty.Value, error)) function.Function {
		spec := &function.Spec{
			Type: func(args []cty.Value) (cty.Type, error) {
				if len(args) > 1 {
					return cty.NilType, errors.New("one argument at most is taken")
				}
				return result, nil
			},
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				arg := cty.NullVal(paramType)
				if len(args) > 0 {
					arg = args[0]
				}
				if f == nil {
					return cty.UnknownVal(result), nil
				}
				v, err := fn(arg)
				if err != nil {
					return cty.NilVal, f.explainGit(err)
				}
				return v, nil
			},
		}
		if param != "" {
			spec.VarParam = &function.Parameter{Name: param, Type: paramType}
		}
		return function.New(spec)
	}
	return map[string]function.Function{
		"git::describe": ask("pattern", cty.String, cty.String, func(pattern cty.Value) (cty.Value, error) {
			args := []string{"describe", "--tags"}
			if !pattern.IsNull() {
				args = append(args, "--match="+pattern.AsString())
			}
			out, err := f.git(args...)
			return cty.StringVal(out), err
		}),
		"git::commit": ask("length", cty.Number, cty.String, func(length cty.Value) (cty.Value, error) {
			out, err := f.git("rev-parse", "--verify", "HEAD")
			if err != nil || length.IsNull() {
				return cty.StringVal(out), err
			}
			var n int
			if err := gocty.FromCtyValue(length, &n); err != nil || n < 4 || n > 64 {
				return cty.NilVal, function.NewArgErrorf(0, "a whole number from 4 to 64 is needed")
			}
			return cty.StringVal(out[:min(n, len(out))]), nil
		}),
		"git::branch": ask("", cty.String, cty.String, func(cty.Value) (cty.Value, error) {
			ref, err := f.git("rev-parse", "--symbolic-full-name", "HEAD")
			if branch, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
				return cty.StringVal(branch), err
			}
			return cty.NullVal(cty.String), err
		}),
		"git::dirty": ask("", cty.String, cty.Bool, func(cty.Value) (cty.Value, error) {
			out, err := f.git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=none")
			return cty.BoolVal(out != ""), err
		}),
		"git::commit_time": ask("", cty.String, cty.String, func(cty.Value) (cty.Value, error) {
			out, err := f.git("log", "-1", "--format=%ct")
			if err != nil {
				return cty.NilVal, err
			}
			seconds, err := strconv.ParseInt(out, 10, 64)
			if err != nil || seconds < 0 || seconds > 1<<33 {
				return cty.NilVal, fmt.Errorf("git: %q is not the time of a commit", shorten(out))
			}
			return cty.StringVal(time.Unix(seconds, 0).UTC().Format(time.RFC3339)), nil
		}),
	}
}
