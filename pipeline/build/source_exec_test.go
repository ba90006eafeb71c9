package build

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/pipeline"
)

func shell(t *testing.T, script string) (*runner, *pipeline.SourceAction) {
	t.Helper()
	dir := t.TempDir()
	a := &pipeline.SourceAction{
		Address: "source.exec.x", Dir: filepath.Join(dir, "x"), Outputs: []string{filepath.Join(dir, "x/out")},
		Exec: &pipeline.Exec{Command: []string{"sh", "-c", script}, Dir: dir, Outputs: map[string]string{"out": "out"}},
	}
	return &runner{plan: &pipeline.Plan{Dir: dir}, events: func(Event) {}}, a
}

// TestExecEndsWithItsChildren: an interrupt ends what the command started, too, and leaves no output.
func TestExecEndsWithItsChildren(t *testing.T) {
	t.Parallel()
	r, a := shell(t, "(while :; do echo alive >>alive; sleep 0.02; done) & echo x >$OUT/out; wait")
	alive := filepath.Join(a.Exec.Dir, "alive")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(alive); err == nil {
				cancel()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if err := r.exec(ctx, a); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	before, err := os.Stat(alive)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if after, err := os.Stat(alive); err != nil || after.Size() != before.Size() {
		t.Errorf("the child is still writing: %v", err)
	}
	if entries, _ := os.ReadDir(a.Dir); len(entries) > 0 {
		t.Errorf("left behind: %s", entries[0].Name())
	}
}

// TestExecEndsWithUs: a command that heeds no signal ends when this process is killed. The test starts itself to be that
// process. The command runs on a thread that is not the first one, as in a build, and outlives others.
func TestExecEndsWithUs(t *testing.T) {
	alive := os.Getenv("TWINKEEL_TEST_ALIVE")
	if alive != "" {
		r, a := shell(t, "trap '' TERM INT HUP; while :; do echo alive >>"+alive+"; sleep 0.02; done")
		for range 4 { // threads that come and go must not end it
			go func() { runtime.LockOSThread() }()
		}
		t.Fatal(r.exec(t.Context(), a))
	}
	alive = filepath.Join(t.TempDir(), "alive")
	self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestExecEndsWithUs$")
	self.Env = append(os.Environ(), "TWINKEEL_TEST_ALIVE="+alive, "TMPDIR="+t.TempDir())
	if err := self.Start(); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		info, err := os.Stat(alive)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	for deadline := time.Now().Add(20 * time.Second); size() < 60; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the command does not run")
		}
	}
	if err := self.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = self.Wait()
	before := size()
	time.Sleep(300 * time.Millisecond)
	if size() > before+6 { // the last line may have been on its way
		t.Error("the command is still writing")
	}
}

func TestExecRefusesOutputs(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{
		"ln -s /etc/passwd $OUT/out": "is not a regular file", "mkdir $OUT/out": "is a directory", "mkfifo $OUT/out": "is not a regular file", "true": "is not there; it wrote nothing",
		"echo x >$OUT/out; exit 3": "sh ended with exit code 3", "kill -9 $$": "sh was ended by a signal",
	} {
		r, a := shell(t, script)
		if err := r.exec(t.Context(), a); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
		if _, err := os.Lstat(a.Outputs[0]); err == nil {
			t.Errorf("%s: there is an output", script)
		}
	}
}

// TestExecHidesSecrets: also of several lines, and in lines that are too long to be shown.
func TestExecHidesSecrets(t *testing.T) {
	t.Parallel()
	r, a := shell(t, `echo "$TOKEN"; printf 'a\033[31mb\n'; head -c 990 /dev/zero | tr '\0' x; echo "$TOKEN"; exit 1`)
	a.Exec.SecretEnvironment = map[string]pipeline.Secret{"TOKEN": "first-secret\nsecond-secret"}
	var seen strings.Builder
	r.events = func(e Event) { seen.WriteString(e.Detail + "\n") }
	err := r.exec(t.Context(), a)
	if err == nil || seen.Len() < 900 {
		t.Fatal(err, seen.String())
	}
	for _, text := range []string{seen.String(), err.Error()} {
		if strings.Contains(text, "secret") && strings.Contains(text, "first-s") || strings.Contains(text, "second-s") || strings.Contains(text, "\x1b") {
			t.Errorf("shown: %s", text)
		}
	}
}
