package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/signing"
)

// board is a device in a directory, small enough for the command line's tests.
type board struct {
	t      *testing.T
	root   string
	signer signing.Signer
}

func newBoard(t *testing.T) *board {
	t.Helper()
	b := &board{t: t, root: t.TempDir()}
	private, public, err := signing.Generate("")
	if err != nil {
		t.Fatal(err)
	}
	b.write("key.pem", string(private))
	if b.signer, err = signing.LoadFile(filepath.Join(b.root, "key.pem"), nil); err != nil {
		t.Fatal(err)
	}
	b.write("var/lib/mender/key.pub", string(public))
	b.write("var/lib/mender/device_type", "device_type=testdev\n")
	b.write("etc/fw_env.config", "/env 0 0x1000\n/env 0x1000 0x1000\n")
	block, err := bootenv.EncodeUBoot(map[string]string{bootenv.VarBootPart: "2", bootenv.VarUpgradeAvailable: "0", bootenv.VarBootLimit: "1"}, 4096, true, 1)
	if err != nil {
		t.Fatal(err)
	}
	b.write("env", string(block)+string(block))
	b.write("slot2", strings.Repeat("a", 4096))
	b.write("slot3", strings.Repeat("b", 4096))
	b.write("etc/mender/mender.conf", `{"ArtifactVerifyKey": "/var/lib/mender/key.pub", "RootfsPartA": "/slot2", "RootfsPartB": "/slot3"}`)
	b.boot("A")
	return b
}

func (b *board) boot(slot string) { b.write("proc/cmdline", "twinkeel.slot="+slot) }

func (b *board) write(name, content string) {
	b.t.Helper()
	path := filepath.Join(b.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *board) artifact(signer artifactfmt.Signer) string {
	b.t.Helper()
	path := filepath.Join(b.root, "a.mender")
	out, err := os.Create(path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer out.Close()
	content := strings.Repeat("c", 3000)
	_, err = artifactfmt.Write(b.t.Context(), out, &artifactfmt.Artifact{
		Name: "release-2", DeviceTypes: []string{"testdev"}, PayloadType: artifactfmt.RootfsImage, Signer: signer,
		Files: []artifactfmt.InputFile{{Name: "r.ext4", Size: 3000, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(content)), nil
		}}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return path
}

// run is one use of the command line.
func (b *board) run(args ...string) (code int, stdout, stderr string) {
	b.t.Helper()
	var out, errs bytes.Buffer
	code = Run(b.t.Context(), append([]string{"--root", b.root}, args...), nil, nil, &out, &errs)
	return code, out.String(), errs.String()
}

// A story, line by line: command, exit code, and what must be on stdout and stderr.
func TestStory(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	good := b.artifact(b.signer)
	for i, step := range []struct {
		before         func()
		args           string
		code           int
		stdout, stderr string
	}{
		{nil, "show-artifact", 0, "unknown\n", ""},
		{nil, "show-provides", 0, "", ""},
		{nil, "status", 0, "idle\n", ""},
		{nil, "commit", 2, "", "twinkeel-agent: no update is pending\n"},
		{nil, "rollback", 2, "", "no update is pending"},
		{nil, "install /nowhere.mender", 1, "", "error: opening the artifact /nowhere.mender: no such file"},
		{nil, "install --reboot-exit-code " + good, 4, "release-2 is installed. Reboot to try it", "update state=rebooting"},
		{nil, "install " + good, 1, "", "hint: commit or roll back that update first"},
		{nil, "status", 0, "rebooting: release-2 in slot B\n", ""},
		{nil, "commit", 1, "", "hint: reboot first, then commit"},
		{func() { b.boot("B") }, "commit", 0, "release-2 is committed.\n", ""},
		{nil, "show-artifact", 0, "release-2\n", ""},
		{nil, "show-provides", 0, "artifact_name=release-2\nrootfs-image.checksum=", ""},
		{nil, "show-artifact --json", 0, `{"artifact_name":"release-2"}`, ""},
		{nil, "install " + good, 0, "release-2 is installed", ""},
		{nil, "rollback", 0, "the running system stays", ""},
		{func() { b.artifact(nil) }, "install " + good, 3, "", "error: artifact is not signed"},
		{nil, "install --json " + good, 3, "", `"exit_code":3`},
		{func() { b.write("a.mender", "junk") }, "install " + good, 3, "", "error: "},
		{nil, "check-update", 1, "", "no daemon is running"},
		{nil, "daemon", 1, "", "hint: set ServerURL"},
		{func() { b.write("etc/mender/mender.conf", "{") }, "install " + good, 1, "", "invalid JSON"},
		{nil, "daemon --json", 1, "", `{"error":"configuration `},
	} {
		if step.before != nil {
			step.before()
		}
		code, stdout, stderr := b.run(strings.Fields(step.args)...)
		if code != step.code || !strings.Contains(stdout, step.stdout) || !strings.Contains(stderr, step.stderr) || step.stdout == "" && stdout != "" {
			t.Errorf("%d: %s: exit %d\nstdout %q\nstderr %q", i, step.args, code, stdout, stderr)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]struct {
		code int
		text string
	}{
		"": {0, "Exit codes:"}, "help": {0, "Commands:"}, "--help": {0, "--config file"}, "install --help": {0, "Usage:"},
		"version": {0, "twinkeel-agent "}, "frobnicate": {1, `unknown command "frobnicate"`}, "install": {1, "usage: twinkeel-agent install FILE|URL"},
		"commit now": {1, "usage: twinkeel-agent commit"}, "--nonsense": {1, "nonsense"},
	} {
		var out bytes.Buffer
		if code := Run(t.Context(), strings.Fields(args), nil, nil, &out, &out); code != want.code || !strings.Contains(out.String(), want.text) {
			t.Errorf("%q: exit %d\n%s", args, code, out.String())
		}
	}
}

func TestJSONEvents(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	code, stdout, stderr := b.run("install", "--json", b.artifact(b.signer))
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	for _, line := range append(lines, strings.Split(strings.TrimSpace(stderr), "\n")...) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	want := fmt.Sprintf(`{"event":"progress","done":%d,"total":%d}`, 3000, 3000)
	if code != 0 || len(lines) < 2 || lines[len(lines)-2] != want || !strings.Contains(lines[len(lines)-1], `"reboot_required":true`) {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}
