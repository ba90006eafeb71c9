package vdevice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/agent"
	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server"
	"github.com/twinkeel/twinkeel/server/client"
	"github.com/twinkeel/twinkeel/signing"
)

const (
	mib     = 1 << 20
	envSize = 0x4000
)

// factory makes images and artifacts with the real agent in them.
type factory struct {
	t      *testing.T
	dir    string
	agent  string
	signer signing.Signer
	public []byte
}

func newFactory(t *testing.T) *factory {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the agent and makes file systems")
	}
	if err := imaging.CheckTools(); err != nil {
		t.Skipf("%v", err)
	}
	f := &factory{t: t, dir: t.TempDir()}
	f.agent = filepath.Join(f.dir, "twinkeel-agent")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", f.agent, "github.com/twinkeel/twinkeel/cmd/twinkeel-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
	private, public, err := signing.Generate("")
	if err != nil {
		t.Fatal(err)
	}
	f.public = public
	key := filepath.Join(f.dir, "key.pem")
	if err := os.WriteFile(key, private, 0o600); err != nil {
		t.Fatal(err)
	}
	if f.signer, err = signing.LoadFile(key, nil); err != nil {
		t.Fatal(err)
	}
	return f
}

// rootfs is a minimal root file system: the agent is its own init, as far as anybody looks.
func (f *factory) rootfs(version string, init bool) imaging.Content {
	tree := []imaging.TreeFile{
		{Path: "usr/bin/twinkeel-agent", Mode: 0o755, Source: f.agent},
		{Path: "etc/os-release", Data: fmt.Appendf(nil, "PRETTY_NAME=\"Test OS %s\"\nVERSION_ID=%s\n", version, version)},
		{Path: "bin", Link: "usr/bin"},
	}
	if init {
		tree = append(tree, imaging.TreeFile{Path: "sbin/init", Link: "../bin/twinkeel-agent"})
	}
	return imaging.Content{Tree: tree}
}

func (f *factory) layout() imaging.Layout {
	return imaging.Layout{
		Reserves: []imaging.Reserve{{Name: "env1", Offset: mib, Size: envSize}, {Name: "env2", Offset: mib + 65536, Size: envSize}},
		Partitions: []imaging.Partition{
			{Name: "boot", Size: 4 * mib, Filesystem: imaging.FilesystemVFAT},
			{Name: "rootfs_a", Size: 24 * mib, Filesystem: imaging.FilesystemExt4, Slot: "a"},
			{Name: "rootfs_b", Size: 24 * mib, Filesystem: imaging.FilesystemExt4, Slot: "b"},
			{Name: "data", Size: 16 * mib, Filesystem: imaging.FilesystemExt4, Label: "data"},
		},
	}
}

// image makes a disk with release 1.0.0 in slot A.
func (f *factory) image(server string) string {
	f.t.Helper()
	env, err := bootenv.EncodeUBoot(map[string]string{
		bootenv.VarBootPart: "2", bootenv.VarBootPartHex: "2", bootenv.VarUpgradeAvailable: "0", bootenv.VarBootCount: "0",
		bootenv.VarBootLimit: "1", bootenv.VarCheckCanary: "1",
	}, envSize, true, 1)
	if err != nil {
		f.t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{
		"ServerURL": server, "ArtifactVerifyKeys": []string{"/data/mender/artifact-verify-key.pem"},
		"DeviceTypeFile": "/data/mender/device_type", "RootfsPartA": "/dev/mmcblk0p2", "RootfsPartB": "/dev/mmcblk0p3",
		"Twinkeel": map[string]any{"BootEnvironment": map[string]string{"Type": "u-boot", "Config": "/data/u-boot/fw_env.config"}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	bootstrap := f.artifact(&artifactfmt.Artifact{Name: "release-1.0.0", Provides: map[string]string{"rootfs-image.version": "release-1.0.0"}})
	fwenv := bootenv.FormatFwEnvConfig([]bootenv.Location{
		{Path: "/dev/mmcblk0", Offset: mib, Size: envSize}, {Path: "/dev/mmcblk0", Offset: mib + 65536, Size: envSize},
	})
	path := filepath.Join(f.dir, "disk.img")
	_, err = imaging.Write(f.t.Context(), path, &imaging.Image{
		Layout: f.layout(), Seed: "test", Contents: map[string]imaging.Content{
			"env1": {Bytes: env}, "env2": {Bytes: env}, "rootfs_a": f.rootfs("1.0.0", true),
			"data": {Tree: []imaging.TreeFile{
				{Path: "mender/device_type", Data: []byte("device_type=testdev\n")},
				{Path: "mender/mender.conf", Mode: 0o600, Data: config},
				{Path: "mender/artifact-verify-key.pem", Data: f.public},
				{Path: "mender/bootstrap.mender", Source: bootstrap},
				{Path: "u-boot/fw_env.config", Data: fwenv},
			}},
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return path
}

func (f *factory) artifact(a *artifactfmt.Artifact) string {
	f.t.Helper()
	a.DeviceTypes, a.Signer = []string{"testdev"}, f.signer
	out, err := os.Create(filepath.Join(f.dir, a.Name+".mender"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer out.Close()
	if _, err := artifactfmt.Write(f.t.Context(), out, a); err != nil {
		f.t.Fatal(err)
	}
	return out.Name()
}

// release is an artifact of a root file system.
func (f *factory) release(version string, init bool) string {
	f.t.Helper()
	path := filepath.Join(f.dir, "rootfs.img")
	_, err := imaging.Write(f.t.Context(), path, &imaging.Image{
		Layout:   imaging.Layout{Partitions: []imaging.Partition{{Name: "rootfs", Size: 20 * mib, Filesystem: imaging.FilesystemExt4}}},
		Contents: map[string]imaging.Content{"rootfs": f.rootfs(version, init)}, Seed: version,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	disk, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	m, err := imaging.ReadMap(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		f.t.Fatal(err)
	}
	r, _ := m.Find("rootfs")
	return f.artifact(&artifactfmt.Artifact{
		Name: "release-" + version, PayloadType: artifactfmt.RootfsImage,
		Files: []artifactfmt.InputFile{{Name: "rootfs.ext4", Size: r.Size, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(disk[r.Offset:r.End()])), nil
		}}},
	})
}

// fleet is the real server, with devices accepted as they come.
type fleet struct {
	t      *testing.T
	url    string
	client *client.Client
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	s, err := server.Open(t.Context(), server.Config{DataDir: t.TempDir(), AutoAccept: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	h := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		h.Close()
		stop()
		if err := <-ran; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		s.Close()
	})
	token, err := s.CreateToken(t.Context(), "test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(h.URL, token, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{t, h.URL, c}
}

// deploy uploads an artifact, deploys it to all devices and waits for the end. It returns the only device's status and
// what it logged.
func (s *fleet) deploy(name, file string) (menderapi.DeploymentDevice, string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 90*time.Second)
	defer cancel()
	check := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	_, err := s.client.UploadArtifact(ctx, file, "", nil)
	check(err)
	var id string
	for id == "" { // until the device has shown up
		check(wait(ctx, 20*time.Millisecond))
		id, err = s.client.CreateDeployment(ctx, menderapi.NewDeployment{Name: "all", ArtifactName: name, AllDevices: true})
		if err != nil && !errors.Is(err, client.ErrUnusable) && !errors.Is(err, client.ErrNotFound) {
			s.t.Fatal(err)
		}
	}
	for {
		check(wait(ctx, 50*time.Millisecond))
		d, err := s.client.Deployment(ctx, id)
		check(err)
		if d.Status != "finished" {
			continue
		}
		devices, err := s.client.DeploymentDevices(ctx, id)
		check(err)
		if len(devices) != 1 {
			s.t.Fatalf("the deployment has %d devices", len(devices))
		}
		log := ""
		if devices[0].Status == menderapi.StatusFailure { // the log comes after the status
			for log == "" {
				check(wait(ctx, 20*time.Millisecond))
				log, _ = s.client.DeviceLog(ctx, id, devices[0].ID)
			}
		}
		return devices[0], log
	}
}

// The whole way on a virtual device: a new release, then one without init, from power on to power off.
func TestVirtualDevice(t *testing.T) {
	t.Parallel()
	f, s := newFactory(t), newFleet(t)
	dir := filepath.Join(t.TempDir(), "device-1")
	d, err := Create(t.Context(), dir, CreateOptions{Image: f.image(s.url), Poll: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(t.Context(), dir, CreateOptions{Image: f.image(s.url)}); err == nil {
		t.Error("a device was flashed over")
	}
	var console lockedBuffer
	ctx, off := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, RunOptions{Console: NewConsole(&console, d.Name, false)}) }()
	defer off()

	expect := func(slot agent.SlotName, artifact, systemA, systemB string) {
		t.Helper()
		status, err := d.Status()
		if err != nil {
			t.Fatal(err)
		}
		if status.Slot != slot || status.Artifact != artifact || !status.On || status.Environment[bootenv.VarUpgradeAvailable] != "0" ||
			status.Systems[agent.SlotA].Version != systemA || status.Systems[agent.SlotB].Version != systemB {
			t.Errorf("status %+v\n%s", status, console.String())
		}
	}
	if got, _ := s.deploy("release-1.1.0", f.release("1.1.0", true)); got.Status != menderapi.StatusSuccess {
		t.Errorf("reported %+v\n%s", got, console.String())
	}
	expect(agent.SlotB, "release-1.1.0", "1.0.0", "1.1.0")
	got, log := s.deploy("release-1.2.0", f.release("1.2.0", false))
	if got.Status != menderapi.StatusFailure || !strings.HasPrefix(got.SubState, "the boot loader has returned") || !strings.Contains(log, "fell-back") {
		t.Errorf("reported %+v\n%s", got, log)
	}
	expect(agent.SlotB, "release-1.1.0", "1.2.0", "1.1.0")

	if err := d.Run(t.Context(), RunOptions{Console: NewConsole(io.Discard, "", false)}); err == nil || !strings.Contains(err.Error(), "on already") {
		t.Errorf("a second power on: %v", err)
	}
	off()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	text := console.String()
	for _, want := range []string{
		"[device-1] boot: slot A (partition 2), bootcount 0\n", "[device-1] init: Test OS 1.0.0\n",
		"[device-1] boot: slot B (partition 3), bootcount 1\n", "[device-1] init: Test OS 1.1.0\n",
		"[device-1] kernel: Kernel panic - not syncing: no working init found: /sbin/init is missing\n",
		"[device-1] boot: bootcount 2 is over the limit: back to slot B\n", "[device-1] power: off\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	status, err := d.Status()
	if err != nil || status.On {
		t.Errorf("after power off: %+v, %v", status, err)
	}
	var out strings.Builder
	if err := status.Print(&out); err != nil || !strings.Contains(out.String(), "slot A    partition 2: Test OS 1.2.0 (/sbin/init is missing)") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// Both slots without init: the device is a brick, and says so.
func TestBrick(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	d, err := Create(t.Context(), filepath.Join(t.TempDir(), "d"), CreateOptions{Image: f.image("http://127.0.0.1:1")})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.OpenFile(filepath.Join(d.Dir, diskName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	disk.WriteAt(make([]byte, 8192), d.slots[agent.SlotA].Offset)
	disk.Close()
	if err := d.Run(t.Context(), RunOptions{Console: NewConsole(io.Discard, "d", true)}); !errors.Is(err, ErrBricked) {
		t.Errorf("run: %v", err)
	}
}

func TestSplitPartition(t *testing.T) {
	t.Parallel()
	for device, want := range map[string]string{
		"/dev/mmcblk0p2": "/dev/mmcblk0 2", "/dev/sda12": "/dev/sda 12", "/dev/nvme0n1p3": "/dev/nvme0n1 3", "/dev/vdp1": "/dev/vdp 1",
		"/dev/sda": "", "sda1": "", "": "", "/etc/x1": "",
	} {
		disk, number, err := splitPartition(device)
		got := fmt.Sprint(disk, " ", number)
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q: %q, want %q", device, got, want)
		}
	}
}

func TestConsole(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := NewConsole(&out, "d", false)
	l := c.lines("agent: ")
	for _, s := range []string{"one\ntw", "o\n", "", "three"} {
		io.WriteString(l, s)
	}
	l.flush()
	if want := "[d] agent: one\n[d] agent: two\n[d] agent: three\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	io.WriteString(l, strings.Repeat("x", 3*maxLine))
	l.flush()
	if out.Len() < 3*maxLine-10 {
		t.Errorf("%d bytes of a long line", out.Len())
	}
}

func TestCopySparse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{3 * mib, 90 * mib} {
		if _, err := f.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(100 * mib); err != nil {
		t.Fatal(err)
	}
	if err := copySparse(t.Context(), to, from); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("the copy differs (%v)", err)
	}
	if out, err := exec.Command("du", "-k", to).Output(); err != nil || len(out) == 0 || len(strings.Fields(string(out))[0]) > 4 {
		t.Errorf("the copy is not sparse: %s%v", out, err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
