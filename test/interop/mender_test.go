// Package interop lets real clients install our artifacts.
package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/artifactfmt/payload"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/signing"
)

const slotSize = 4 << 20

// device is what the Mender client 3.x takes for a device: it runs in a mount namespace of its own, where its fixed
// directories are ours, with a boot environment in a file.
type device struct {
	t   *testing.T
	dir string
}

func newDevice(t *testing.T) *device {
	t.Helper()
	if testing.Short() {
		t.Skip("real clients run without -short")
	}
	if _, err := exec.LookPath("mender"); err != nil {
		t.Skip("mender is not installed (Debian package mender-client)")
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("no mount namespace for the client here (it needs root): %s", out)
	}
	d := &device{t: t, dir: t.TempDir()}
	d.put("data/device_type", "device_type=board\n", 0o644)
	d.put("etc/artifact_info", "artifact_name=release-0\n", 0o644)
	d.put("share/identity/mender-device-identity", "#!/bin/sh\necho mac=02:00:00:00:00:07\n", 0o755)
	d.put("env", "mender_boot_part=2\nmender_boot_part_hex=2\nupgrade_available=0\nbootcount=0\n", 0o644)
	// The client compares what is mounted at / with its slots.
	d.put("bin/mount", "#!/bin/sh\necho \"$(readlink "+d.path("active")+") on / type ext4 (rw)\"\n", 0o755)
	d.put("bin/fw_printenv", `#!/bin/sh
env=`+d.path("env")+`
[ $# != 0 ] || cat "$env"
for key in "$@"; do grep "^$key=" "$env"; done
exit 0
`, 0o755)
	d.put("bin/fw_setenv", `#!/bin/sh
env=`+d.path("env")+`
if [ "$1" = -s ]; then cat "$2"; else echo "$1=$2"; fi | while IFS='= ' read -r key value; do
	sed -i "/^$key=/d" "$env"
	[ -z "$value" ] || echo "$key=$value" >> "$env"
done
`, 0o755)
	return d
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

func (d *device) put(name, content string, mode fs.FileMode) {
	d.t.Helper()
	path := d.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		d.t.Fatal(err)
	}
}

// configure writes the client's configuration; publicKey may be "".
func (d *device) configure(publicKey string) {
	d.t.Helper()
	conf := map[string]any{"DBus": map[string]any{"Enabled": false}, "DeviceTypeFile": d.path("data/device_type")}
	if _, err := os.Lstat(d.path("root2")); err == nil {
		conf["RootfsPartA"], conf["RootfsPartB"] = d.path("root2"), d.path("root3")
	}
	if publicKey != "" {
		conf["ArtifactVerifyKey"] = publicKey
	}
	b, err := json.Marshal(conf)
	if err != nil {
		d.t.Fatal(err)
	}
	d.put("mender.conf", string(b), 0o644)
}

func (d *device) mender(args ...string) (string, error) {
	script := `mount --bind "$0/share" /usr/share/mender && mount --bind "$0/etc" /etc/mender && PATH="$0/bin:$PATH" exec mender "$@"`
	conf := d.path("mender.conf")
	all := append([]string{"--mount", "sh", "-c", script, d.dir, "--no-syslog", "--config", conf, "--fallback-config", conf, "--data", d.path("data")}, args...)
	cmd := exec.CommandContext(d.t.Context(), "unshare", all...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *device) must(args ...string) string {
	d.t.Helper()
	out, err := d.mender(args...)
	if err != nil {
		d.t.Fatalf("mender %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// provides are the lines that show-provides prints, which the client's log may surround.
func (d *device) expectProvides(want ...string) {
	d.t.Helper()
	out := d.must("show-provides")
	for _, line := range want {
		if !strings.Contains("\n"+out, "\n"+line+"\n") {
			d.t.Errorf("the device does not provide %s:\n%s", line, out)
		}
	}
}

// slots makes the two slots: device nodes at root2 and root3, one the file system that runs here, which nothing writes to, the
// other a loop device over a file. It returns the file.
func (d *device) slots() string {
	d.t.Helper()
	file := d.path("slot.img")
	d.put("slot.img", "", 0o600)
	if err := os.Truncate(file, slotSize); err != nil {
		d.t.Fatal(err)
	}
	out, err := exec.CommandContext(d.t.Context(), "losetup", "--find", "--show", file).CombinedOutput()
	loop := strings.TrimSpace(string(out))
	if err != nil {
		d.t.Skipf("no loop device for a slot here: %s", loop)
	}
	d.t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(d.t.Context()), "losetup", "--detach", loop).CombinedOutput(); err != nil {
			d.t.Errorf("losetup: %v %s", err, out)
		}
	})
	d.run(`mknod "$0/root2" b $(stat -c '%Hd %Ld' /)`)
	d.run(`mknod "$0/root3" b $(stat -c '%Hr %Lr' ` + loop + `)`)
	d.run(`ln -s "$0/root2" "$0/active"`)
	if f, err := os.OpenFile(d.path("root3"), os.O_WRONLY, 0); err != nil {
		d.t.Skipf("device nodes do not work in %s: %v", d.dir, err)
	} else {
		f.Close()
	}
	return file
}

// reboot exchanges the slots.
func (d *device) reboot() {
	d.t.Helper()
	d.run(`mv "$0/root2" "$0/x" && mv "$0/root3" "$0/root2" && mv "$0/x" "$0/root3" && ln -sfn "$0/root3" "$0/active"`)
}

func (d *device) run(script string) {
	d.t.Helper()
	if out, err := exec.CommandContext(d.t.Context(), "sh", "-c", script, d.dir).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func (d *device) expectEnv(want ...string) {
	d.t.Helper()
	b, err := os.ReadFile(d.path("env"))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, line := range want {
		if !strings.Contains("\n"+string(b), "\n"+line+"\n") {
			d.t.Errorf("the boot environment lacks %s:\n%s", line, b)
		}
	}
}

// key makes a key pair and returns its signer and the public key's file.
func key(t *testing.T, algorithm string) (signing.Signer, string) {
	t.Helper()
	dir := t.TempDir()
	private, public := filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.pub")
	privatePEM, publicPEM, err := signing.Generate(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.WriteKeyPair(private, public, privatePEM, publicPEM); err != nil {
		t.Fatal(err)
	}
	signer, err := signing.LoadFile(private, nil)
	if err != nil {
		t.Fatal(err)
	}
	return signer, public
}

func writeArtifact(t *testing.T, a *artifactfmt.Artifact) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.mender")
	f, err := durable.Create(path, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := artifactfmt.Write(t.Context(), f, a); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	return path
}

// image is a root file system of text, noise and holes, whose size is no multiple of anything.
func image(t *testing.T) (path string, content []byte) {
	t.Helper()
	content = make([]byte, 3<<20+512)
	rnd := rand.NewChaCha8([32]byte{3})
	_, _ = rnd.Read(content[:1<<20])
	copy(content[2<<20:], bytes.Repeat([]byte("text "), 100_000))
	path = filepath.Join(t.TempDir(), "rootfs.ext4")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func rootfs(t *testing.T, path string, compression artifactfmt.Compression, signer artifactfmt.Signer) *artifactfmt.Artifact {
	t.Helper()
	c, err := payload.Make(artifactfmt.RootfsImage, payload.Options{Files: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	a := &artifactfmt.Artifact{
		Name: "release-1", DeviceTypes: []string{"board"}, PayloadType: c.Type, Files: c.Files, Compression: compression,
		Scripts: []artifactfmt.Script{{Name: "ArtifactInstall_Enter_10_note", Content: []byte("#!/bin/sh\nexit 0\n")}},
	}
	if signer != nil {
		a.Signer = signer
	}
	return a
}

// TestMenderInstallsRootfs: the client writes the inactive slot, boots it and commits.
func TestMenderInstallsRootfs(t *testing.T) {
	t.Parallel()
	path, content := image(t)
	for _, test := range []struct {
		compression artifactfmt.Compression
		algorithm   string
	}{
		{artifactfmt.CompressionNone, "ecdsa-p256"},
		{artifactfmt.Gzip, "rsa-3072"},
		{artifactfmt.XZ, ""},
	} {
		t.Run(fmt.Sprintf("%s %s", test.compression, test.algorithm), func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			slot := d.slots()
			var signer artifactfmt.Signer
			public := ""
			if test.algorithm != "" {
				signer, public = key(t, test.algorithm)
			}
			d.configure(public)
			d.must("install", writeArtifact(t, rootfs(t, path, test.compression, signer)))
			d.expectEnv("mender_boot_part=3", "upgrade_available=1")
			got, err := os.ReadFile(slot)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got[:len(content)], content) {
				t.Error("the slot has other content than the image")
			}
			d.reboot()
			d.must("commit")
			d.expectEnv("mender_boot_part=3", "upgrade_available=0")
			d.expectProvides("artifact_name=release-1", "rootfs-image.version=release-1")
		})
	}
}

// TestMenderRefusesForeignKey: nothing of an artifact that another key signed, or none, reaches the slot.
func TestMenderRefusesForeignKey(t *testing.T) {
	t.Parallel()
	path, _ := image(t)
	foreign, _ := key(t, "ecdsa-p256")
	for name, signer := range map[string]artifactfmt.Signer{"foreign": foreign, "unsigned": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			slot := d.slots()
			_, public := key(t, "ecdsa-p256")
			d.configure(public)
			out, err := d.mender("install", writeArtifact(t, rootfs(t, path, artifactfmt.Gzip, signer)))
			if err == nil || !strings.Contains(out, "signature") {
				t.Errorf("%v\n%s", err, out)
			}
			d.expectEnv("mender_boot_part=2", "upgrade_available=0")
			got, err := os.ReadFile(slot)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, make([]byte, slotSize)) {
				t.Error("the slot was written")
			}
		})
	}
}

// TestMenderInstallsSingleFile: Debian's update module puts the file in its place, and back.
func TestMenderInstallsSingleFile(t *testing.T) {
	t.Parallel()
	module, err := os.ReadFile("/usr/share/mender/modules/v3/single-file")
	if err != nil {
		t.Skip("the update module single-file is not installed (Debian package mender-client)")
	}
	for _, compression := range []artifactfmt.Compression{artifactfmt.CompressionNone, artifactfmt.Gzip, artifactfmt.XZ} {
		for _, end := range []string{"commit", "rollback"} {
			t.Run(fmt.Sprintf("%s %s", compression, end), func(t *testing.T) {
				t.Parallel()
				d := newDevice(t)
				d.put("share/modules/v3/single-file", string(module), 0o755)
				d.put("root/etc/app.conf", "old\n", 0o600)
				d.put("app-v2.conf", "new\n", 0o600)
				signer, public := key(t, "ecdsa-p256")
				d.configure(public)
				target := d.path("root/etc/app.conf")
				c, err := payload.Make("single-file", payload.Options{Files: []string{d.path("app-v2.conf")}, Destination: target, Mode: "0640"})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				d.must("install", writeArtifact(t, &artifactfmt.Artifact{
					Name: "file-1", DeviceTypes: []string{"board"}, PayloadType: c.Type, Files: c.Files, MetaData: c.MetaData, Signer: signer, Compression: compression,
				}))
				expectFile(t, target, "new\n", 0o640)
				d.must(end)
				if end == "rollback" {
					expectFile(t, target, "old\n", 0o600)
					return
				}
				expectFile(t, target, "new\n", 0o640)
				d.expectProvides("artifact_name=file-1", "rootfs-image.single-file.version=file-1")
			})
		}
	}
}

func expectFile(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != content || info.Mode() != mode {
		t.Errorf("%s: %q, %v; want %q, %v", path, b, info.Mode(), content, mode)
	}
}
