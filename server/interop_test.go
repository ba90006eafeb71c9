package server_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server"
)

// tool finds a real peer or skips the test.
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("interoperability tests run without -short")
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian package %s); not tested against it", name, debianPackage)
	}
	return path
}

// TestMenderCLI drives the management API with the real mender-cli and artifacts of the real mender-artifact.
func TestMenderCLI(t *testing.T) {
	cli := tool(t, "mender-cli", "mender-cli")
	maker := tool(t, "mender-artifact", "mender-artifact")
	b := newBench(t, nil)
	if err := b.srv.AddUser(t.Context(), "ada@example.com", "correct horse"); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	run := func(wantOK bool, program string, args ...string) string {
		t.Helper()
		if program == cli {
			args = append([]string{"--server", b.http.URL}, args...)
		}
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME=", "XDG_CONFIG_HOME=")
		cmd.Dir = home
		out, err := cmd.CombinedOutput()
		if (err == nil) != wantOK {
			t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	rootfs := filepath.Join(home, "rootfs.img")
	if err := os.WriteFile(rootfs, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	image, module := filepath.Join(home, "image.mender"), filepath.Join(home, "module.mender")
	run(true, maker, "write", "rootfs-image", "-t", "board", "-t", "board-b", "-n", "release-1", "-f", rootfs, "-o", image)
	run(true, maker, "write", "module-image", "-T", "single-file", "-t", "board", "-n", "file-1", "-f", rootfs, "-o", module)

	run(false, cli, "login", "--username", "ada@example.com", "--password", "wrong horse")
	run(true, cli, "login", "--username", "Ada@example.com", "--password", "correct horse")
	run(true, cli, "artifacts", "upload", "--description", "from the cli", "--no-progress", image)
	run(true, cli, "artifacts", "upload", module)
	if out := run(false, cli, "artifacts", "upload", "--no-progress", image); !strings.Contains(out, "409") {
		t.Errorf("uploading again: %s", out)
	}
	var ids []string
	for detail := range 4 {
		out := run(true, cli, "artifacts", "list", "-d", fmt.Sprint(detail))
		if !strings.Contains(out, "release-1") || !strings.Contains(out, "file-1") {
			t.Errorf("list -d %d: %s", detail, out)
		}
		if found := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`).FindAllString(out, -1); len(found) > 0 {
			ids = found
		}
		if detail == 3 && !strings.Contains(out, "board-b") {
			t.Errorf("the details have no device types: %s", out)
		}
	}
	all, err := b.ListArtifacts(t.Context(), "release-1")
	if err != nil || len(all) != 1 {
		t.Fatalf("release-1: %v %v", all, err)
	}
	if a := all[0]; a.Description != "from the cli" || a.Updates[0].TypeInfo.Type != "rootfs-image" || a.Updates[0].Files[0].Size != 3<<20 ||
		a.ArtifactProvides["rootfs-image.version"] != "release-1" || len(a.ArtifactProvides["rootfs-image.checksum"]) != 64 {
		t.Errorf("what the server knows of an artifact of mender-artifact: %+v", a)
	}
	if len(ids) == 0 {
		t.Fatal("mender-cli shows no ids")
	}
	run(true, cli, "artifacts", "delete", all[0].ID)
	run(false, cli, "artifacts", "delete", all[0].ID)
	newDevice(b, "02:00:00:00:00:01").accepted()
	if out := run(true, cli, "devices", "list"); !strings.Contains(out, "accepted") {
		t.Errorf("devices list: %s", out)
	}
	if out := run(true, cli, "--token-value", b.token, "artifacts", "list"); !strings.Contains(out, "file-1") {
		t.Errorf("with an access token: %s", out)
	}
	run(false, cli, "--token-value", "x.y.z", "artifacts", "list")
}

// TestMenderClient lets the real mender client 3.x go its whole way: it authenticates, sends its inventory, installs an
// artifact with an update module, and reports.
func TestMenderClient(t *testing.T) {
	mender := tool(t, "mender", "mender-client")
	maker := tool(t, "mender-artifact", "mender-artifact")
	if out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("no mount namespace for the client here (it needs root): %s", out)
	}
	b := newBench(t, func(c *server.Config) { c.Now = time.Now })
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("share/identity/mender-device-identity", "#!/bin/sh\necho mac=02:00:00:00:00:07\n", 0o755)
	write("share/inventory/mender-inventory-test", "#!/bin/sh\necho kernel=6.1\necho tag=a\necho tag=b\n", 0o755)
	target := filepath.Join(dir, "installed")
	module := `#!/bin/sh
case "$1" in
SupportsRollback) echo Yes ;;
NeedsArtifactReboot) echo No ;;
ArtifactInstall) cat "$2"/files/* > ` + target + ` ;;
esac
`
	write("share/modules/v3/copy", module, 0o755)
	write("data/device_type", "device_type=testdev\n", 0o644)
	conf := write("mender.conf", fmt.Sprintf(`{"Servers":[{"ServerURL":%q}],"DBus":{"Enabled":false},"UpdatePollIntervalSeconds":1,
		"InventoryPollIntervalSeconds":1,"RetryPollIntervalSeconds":1,"DeviceTypeFile":%q}`,
		b.http.URL, filepath.Join(dir, "data/device_type")), 0o644)
	write("payload.txt", strings.Repeat("new content\n", 2000), 0o644)
	write("etc/artifact_info", "artifact_name=release-0\n", 0o644)
	// The client's scripts and modules have a fixed place; in a mount namespace of its own it finds ours there.
	client := []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0/share" /usr/share/mender && mount --bind "$0/etc" /etc/mender && exec "$@"`, dir, mender, "--no-syslog", "--config", conf, "--fallback-config", conf, "--data", filepath.Join(dir, "data")}
	art := filepath.Join(dir, "file-1.mender")
	if out, err := exec.CommandContext(t.Context(), maker, "write", "module-image", "-T", "copy", "-t", "testdev", "-n", "file-1",
		"-f", filepath.Join(dir, "payload.txt"), "-o", art, "--compression", "none").CombinedOutput(); err != nil {
		t.Fatalf("mender-artifact: %v\n%s", err, out)
	}
	if _, err := b.UploadArtifact(t.Context(), art, "", nil); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var logs strings.Builder
	cmd := exec.CommandContext(ctx, client[0], append(client[1:], "daemon")...)
	cmd.Stdout, cmd.Stderr = &logs, &logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- cmd.Wait() }()
	defer func() { cancel(); <-stopped }()
	// wait polls until the condition holds; real time, since the client is another program.
	wait := func(what string, holds func() bool) {
		t.Helper()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for !holds() {
			select {
			case <-tick.C:
			case err := <-stopped:
				stopped <- err
				t.Fatalf("the client ended before %s: %v\n%s", what, err, tail(&logs))
			case <-ctx.Done():
				cancel()
				<-stopped
				stopped <- errors.New("stopped")
				t.Fatalf("no sign of %s\n%s", what, tail(&logs))
			}
		}
	}
	var id string
	wait("a pending device", func() bool {
		devices, err := b.Devices(ctx, "pending")
		if err != nil || len(devices) == 0 {
			return false
		}
		id = devices[0].ID
		return b.SetAuthStatus(ctx, id, devices[0].AuthSets[0].ID, "accepted") == nil
	})
	var dep string
	wait("a deployment", func() bool {
		var err error
		dep, err = b.CreateDeployment(ctx, menderapi.NewDeployment{Name: "file", ArtifactName: "file-1", AllDevices: true})
		return err == nil
	})
	wait("the end of the deployment", func() bool {
		d, err := b.Deployment(ctx, dep)
		return err == nil && d.Status == menderapi.DeploymentFinished
	})
	b.expectStats(dep, map[menderapi.Status]int{"success": 1})
	if got, err := os.ReadFile(target); err != nil || len(got) != 24000 {
		t.Errorf("what the module installed: %d bytes, %v", len(got), err)
	}
	wait("the new inventory", func() bool {
		d, err := b.Inventory(ctx, id)
		if err != nil {
			return false
		}
		found := 0
		for _, a := range d.Attributes {
			if a.Name == "artifact_name" && string(a.Value) == `"file-1"` || a.Name == "tag" && string(a.Value) == `["a","b"]` {
				found++
			}
		}
		return found == 2
	})
}

func tail(b *strings.Builder) string {
	s := b.String()
	return s[max(0, len(s)-4000):]
}
