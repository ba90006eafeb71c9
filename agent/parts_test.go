package agent

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/durable"
)

func TestDeviceKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mender-agent.pem")
	made, err := loadDeviceKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadDeviceKey(path)
	if err != nil || again.pem != made.pem {
		t.Errorf("the second start has another key: %v", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}

	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ecDER, _ := x509.MarshalECPrivateKey(ecKey)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p384DER, _ := x509.MarshalPKCS8PrivateKey(p384)
	body := []byte(`{"id_data":"{}"}`)
	sum := sha256.Sum256(body)
	for name, c := range map[string]struct {
		block  *pem.Block
		verify func(public any, signature []byte) bool
	}{
		"RSA of mender 3": {
			&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)},
			func(public any, s []byte) bool {
				return rsa.VerifyPKCS1v15(public.(*rsa.PublicKey), 5 /* SHA-256 */, sum[:], s) == nil
			},
		},
		"ECDSA": {
			&pem.Block{Type: "EC PRIVATE KEY", Bytes: ecDER},
			func(public any, s []byte) bool { return ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), sum[:], s) },
		},
		"Ed25519 of mender 4": {nil, func(public any, s []byte) bool { return ed25519.Verify(public.(ed25519.PublicKey), body, s) }},
		"P-384":               {&pem.Block{Type: "PRIVATE KEY", Bytes: p384DER}, nil},
		"encrypted":           {&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: ecDER}, nil},
		"damaged":             {&pem.Block{Type: "PRIVATE KEY", Bytes: ecDER[3:]}, nil},
	} {
		file := path
		if c.block != nil {
			file = filepath.Join(t.TempDir(), "key.pem")
			if err := os.WriteFile(file, pem.EncodeToMemory(c.block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		key, err := loadDeviceKey(file)
		if (err == nil) != (c.verify != nil) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.verify == nil {
			continue
		}
		signature, err := key.sign(body)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(key.pem))
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil || !c.verify(public, signature) {
			t.Errorf("%s: the signature does not verify (%v)", name, err)
		}
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.config(map[string]any{"Twinkeel.Identity": nil})
	for i, mac := range []string{"00:00:00:00:00:00", "02:00:00:00:00:09", "02:00:00:00:00:03"} {
		dir := "sys/class/net/" + strconv.Itoa(i) + "/"
		d.write(dir+"ifindex", strconv.Itoa(9-i))
		d.write(dir+"type", "1")
		d.write(dir+"address", mac+"\n")
	}
	if id, err := d.agent().identity(t.Context()); err != nil || id != `{"mac":"02:00:00:00:00:03"}` {
		t.Errorf("%s, %v", id, err)
	}
	script := d.path("usr/share/mender/identity/mender-device-identity")
	d.write("usr/share/mender/identity/mender-device-identity", "#!/bin/sh\necho serial=1=2\necho mac=a\necho mac=b\necho junk\n")
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	if id, err := d.agent().identity(t.Context()); err != nil || id != `{"mac":["a","b"],"serial":"1=2"}` {
		t.Errorf("%s, %v", id, err)
	}
	d.write("usr/share/mender/identity/mender-device-identity", "#!/bin/sh\necho mac=a\nexit 1\n")
	if id, err := d.agent().identity(t.Context()); err == nil {
		t.Errorf("a failing script gives %s", id)
	}
}

func TestInventory(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	for name, text := range map[string]string{"mender-inventory-a": "echo os=Poky; echo ip=1; echo ip=2", "mender-inventory-b": "exit 1", "other": "echo no=1"} {
		d.write("usr/share/mender/inventory/"+name, "#!/bin/sh\n"+text+"\n")
		if err := os.Chmod(d.path("usr/share/mender/inventory/"+name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got := ""
	for _, a := range d.agent().inventory(t.Context(), "testdev", Installed{}) {
		if a.Name != "twinkeel_agent_version" && a.Name != "cpu_architecture" {
			got += a.Name + "=" + string(a.Value) + " "
		}
	}
	if want := `device_type="testdev" artifact_name="unknown" active_slot="A" os="Poky" ip=["1","2"] `; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	bootstrap := func(change func(*artifactfmt.Artifact)) string {
		return string(artifact(t, nil, func(a *artifactfmt.Artifact) {
			a.Name, a.PayloadType, a.Files = "release-1", "", nil
			a.Provides = map[string]string{"rootfs-image.version": "release-1"}
			if change != nil {
				change(a)
			}
		}))
	}
	for name, c := range map[string]struct {
		content, want string
		removed       bool
	}{
		"good":                {bootstrap(nil), "release-1", true},
		"unsigned":            {bootstrap(func(a *artifactfmt.Artifact) { a.Signer = nil }), "", false},
		"of a stranger":       {bootstrap(func(a *artifactfmt.Artifact) { a.Signer = keys().other }), "", false},
		"another device type": {bootstrap(func(a *artifactfmt.Artifact) { a.DeviceTypes = []string{"x"} }), "", false},
		"with a payload":      {string(artifact(t, []byte("x"), nil)), "", false},
		"garbage":             {"garbage", "", false},
	} {
		d := newDevice(t)
		d.write("var/lib/mender/"+bootstrapName, c.content)
		if err := d.agent().Rollback(t.Context()); !errors.Is(err, ErrNothingPending) {
			t.Fatal(err)
		}
		_, err := os.Lstat(d.path("var/lib/mender/" + bootstrapName))
		if got := d.record().Installed; got.Name != c.want || c.want != "" && got.Provides["rootfs-image.version"] != c.want || os.IsNotExist(err) != c.removed {
			t.Errorf("%s: %+v, removed: %v", name, got, err)
		}
	}
}

func TestContentRange(t *testing.T) {
	t.Parallel()
	for value, want := range map[string][2]int64{
		"bytes 5-9/10": {5, 10}, "bytes 0-0/1": {0, 1}, "bytes 5-9/*": {5, -1},
		"": {}, "bytes */10": {}, "bytes 5-4/10": {}, "bytes 5-10/10": {}, "bytes -5-9/10": {}, "5-9/10": {}, "bytes 5-9": {}, "bytes a-b/c": {},
	} {
		start, total, err := parseContentRange(value)
		if [2]int64{start, total} != want || (err == nil) != (want != [2]int64{}) {
			t.Errorf("%q: %d, %d, %v", value, start, total, err)
		}
	}
}

func TestRootDevice(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mountinfo")
	content := "21 1 179:2 / / rw - ext4 /dev/root rw\n22 21 0:5 / /dev rw - devtmpfs x rw\n23 21 179:4 /mender /var/lib/mender rw - ext4 x rw\n"
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := rootDevice(path); err != nil || got != 179<<8|2 {
		t.Errorf("%#x, %v", got, err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(content, "/ / rw", "/ /x rw")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rootDevice(path); err == nil {
		t.Error("no root, no error")
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	b := backoff{first: time.Second, limit: 5 * time.Minute}
	for failures, most := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 1000: 5 * time.Minute} {
		for range 100 {
			if d := b.after(failures); d < most/2 || d > most {
				t.Fatalf("after %d failures: %v", failures, d)
			}
		}
	}
	if d := (backoff{first: time.Second, limit: time.Millisecond}).after(1); d > time.Millisecond {
		t.Errorf("beyond the limit: %v", d)
	}
}

func TestOneDaemon(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pid")
	if pid, err := daemonPID(path); pid != 0 || err != nil {
		t.Errorf("no file: %d, %v", pid, err)
	}
	f, err := lockDaemon(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDaemon(t.Context(), path); !errors.Is(err, ErrBusy) {
		t.Errorf("a second daemon: %v", err)
	}
	if pid, err := daemonPID(path); pid != os.Getpid() || err != nil {
		t.Errorf("%d, %v", pid, err)
	}
	f.Close()
	if pid, err := daemonPID(path); pid != 0 || err != nil {
		t.Errorf("after its end: %d, %v", pid, err)
	}
}

// A boot loader that another hand switched, or that does not belong to this configuration.
func TestForeignSwitch(t *testing.T) {
	t.Parallel()
	next := image(2, imageSize)
	for name, c := range map[string]struct {
		vars map[string]string
		want string
	}{
		"to the other slot":     {map[string]string{bootenv.VarBootPart: "3", bootenv.VarUpgradeAvailable: "1"}, ""},
		"on trial":              {map[string]string{bootenv.VarUpgradeAvailable: "1"}, "in the middle of an update"},
		"other partition":       {map[string]string{bootenv.VarBootPart: "3"}, "do not belong"},
		"no partition":          {map[string]string{bootenv.VarBootPart: ""}, "do not belong"},
		"never saved by U-Boot": {map[string]string{bootenv.VarCanary: ""}, "never saved"},
	} {
		d := newDevice(t)
		if err := d.env.Update(c.vars); err != nil {
			t.Fatal(err)
		}
		_, err := d.agent().Install(t.Context(), d.file(artifact(t, next, nil)))
		text := ""
		if err != nil {
			var h interface{ Hint() string }
			text = err.Error()
			if errors.As(err, &h) {
				text += " " + h.Hint()
			}
		}
		if (err == nil) != (c.want == "") || !strings.Contains(text, c.want) {
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
		if c.want != "" && d.holds(SlotB, next) {
			t.Errorf("%s: the slot was written to", name)
		}
	}
}

// The order of durable steps is the promise; on one disk a missing flush cannot be seen from outside.
func TestOrderOfWrites(t *testing.T) {
	d := newDevice(t)
	a := d.agent()
	file := d.file(artifact(t, image(2, imageSize), nil))
	var steps []string
	durable.SetHook(func(s durable.Step) error {
		what := "other"
		switch filepath.Base(s.Path) {
		case journalName:
			what = "journal"
		case "disk.img":
			what = "disk"
		}
		if one := what + " " + s.Op; len(steps) == 0 || steps[len(steps)-1] != one {
			steps = append(steps, one)
		}
		return nil
	})
	defer durable.SetHook(nil)
	if _, err := a.Install(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	want := "journal create,journal write,journal fsync,journal rename,other fsync directory," + // a new journal
		"journal write at,journal fsync," + // downloading
		"disk write at,disk fsync," + // the slot
		"journal write at,journal fsync," + // installing
		"disk write at,disk fsync," + // the switch
		"journal write at,journal fsync" // rebooting
	if got := strings.Join(steps, ","); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// What U-Boot's own tool reads is what the agent wrote.
func TestEnvironmentForFwPrintenv(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("fw_printenv")
	if err != nil {
		t.Skip("fw_printenv is not installed (Debian: libubootenv-tool)")
	}
	d := newDevice(t)
	if _, err := d.agent().Install(t.Context(), d.file(artifact(t, image(2, imageSize), nil))); err != nil {
		t.Fatal(err)
	}
	config := strings.ReplaceAll("R 0x10000 0x2000\nR 0x20000 0x2000\n", "R", d.path("disk.img"))
	d.write("fw_env.host", config)
	out, err := exec.Command(tool, "-c", d.path("fw_env.host"), "mender_boot_part", "mender_boot_part_hex", "upgrade_available", "bootcount").CombinedOutput()
	if want := "mender_boot_part=3\nmender_boot_part_hex=3\nupgrade_available=1\nbootcount=0\n"; err != nil || string(out) != want {
		t.Errorf("%s%v", out, err)
	}
}
