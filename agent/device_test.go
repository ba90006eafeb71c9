package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/signing"
	"github.com/twinkeel/twinkeel/test/vdevice/bootloader"
)

// The test's disk: two copies of the environment and two slots.
const (
	envSize   = 0x2000
	envA      = 0x10000
	envB      = 0x20000
	slotSize  = 3<<20 + 5000 // not a multiple of the block size
	slotAAt   = 1 << 20
	slotBAt   = 6 << 20
	diskSize  = 12 << 20
	imageSize = 2<<20 + 70000
)

// device is a whole device in a directory.
type device struct {
	t    testing.TB
	root string
	env  *bootenv.UBoot
	old  []byte // what slot A holds
	// broken says that a system does not come up.
	broken func(image []byte) bool
	atBoot bool // the boot loader is at work, not the agent
	boots  []SlotName
}

// image is a root file system of the given size: noise with stretches that two images share.
func image(seed byte, size int) []byte {
	shared := rand.NewChaCha8([32]byte{42})
	own := rand.NewChaCha8([32]byte{seed})
	data := make([]byte, size)
	shared.Read(data)
	for at := 0; at < size; at += 1 << 20 {
		if (at>>20)%3 != 1 { // the second MiB is the same in all
			own.Read(data[at:min(at+4096, size)])
		}
	}
	return data
}

// keys are made once: what is tested is their use.
var keys = sync.OnceValue(func() (k struct {
	signer, other signing.Signer
	public        []byte
},
) {
	dir, err := os.MkdirTemp("", "agent-keys-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	load := func(name string) (signing.Signer, []byte) {
		private, public, err := signing.Generate("")
		if err != nil {
			panic(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, private, 0o600); err != nil {
			panic(err)
		}
		s, err := signing.LoadFile(path, nil)
		if err != nil {
			panic(err)
		}
		return s, public
	}
	k.signer, k.public = load("key")
	k.other, _ = load("other")
	return k
})

func newDevice(t testing.TB) *device {
	t.Helper()
	d := &device{t: t, root: t.TempDir(), old: image(1, imageSize)}
	d.write("etc/fw_env.config", fmt.Sprintf("/disk.img 0x%x 0x%x\n/disk.img 0x%x 0x%x\n", envA, envSize, envB, envSize))
	d.write("proc/cmdline", "quiet twinkeel.slot=A")
	d.write("var/lib/mender/device_type", "device_type=testdev\n")
	d.write("var/lib/mender/key.pem", string(keys().public))
	d.write("disk.img", "")
	if err := os.Truncate(d.path("disk.img"), diskSize); err != nil {
		t.Fatal(err)
	}
	d.writeSlot(SlotA, d.old)
	vars := map[string]string{
		bootenv.VarBootPart: "2", bootenv.VarBootPartHex: "2", bootenv.VarUpgradeAvailable: "0", bootenv.VarBootCount: "0",
		bootenv.VarBootLimit: "1", bootenv.VarCheckCanary: "1", bootenv.VarCanary: "1", "bootcmd": "run mender_boot",
	}
	block, err := bootenv.EncodeUBoot(vars, envSize, true, 1)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(d.path("disk.img"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt(block, envA)
	f.WriteAt(block, envB)
	d.env, err = bootenv.OpenUBoot([]bootenv.Location{
		{Path: d.path("disk.img"), Offset: envA, Size: envSize}, {Path: d.path("disk.img"), Offset: envB, Size: envSize},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.config(nil)
	return d
}

func (d *device) path(name string) string { return filepath.Join(d.root, name) }

func (d *device) write(name, content string) {
	d.t.Helper()
	if err := os.MkdirAll(filepath.Dir(d.path(name)), 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.path(name), []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// config writes mender.conf: the preset with changes, of which nil removes a key.
func (d *device) config(changes map[string]any) {
	own := map[string]any{
		"Slots": map[string]any{
			"A": map[string]any{"Device": "/disk.img", "Offset": slotAAt, "Size": slotSize, "BootPart": 2},
			"B": map[string]any{"Device": "/disk.img", "Offset": slotBAt, "Size": slotSize, "BootPart": 3},
		},
		"RebootCommand": "exit",
		"Identity":      map[string]string{"mac": "02:00:00:00:00:01"},
	}
	top := map[string]any{
		"Twinkeel": own, "ArtifactVerifyKey": "/var/lib/mender/key.pem",
		"UpdatePollIntervalSeconds": 0.05, "InventoryPollIntervalSeconds": 1, "RetryPollIntervalSeconds": 0.05,
	}
	for key, value := range changes {
		into := top
		if name, ok := strings.CutPrefix(key, "Twinkeel."); ok {
			into, key = own, name
		}
		if into[key] = value; value == nil {
			delete(into, key)
		}
	}
	data, err := json.Marshal(top)
	if err != nil {
		d.t.Fatal(err)
	}
	d.write("etc/mender/mender.conf", string(data))
}

// agent makes an agent that is in a hurry.
func (d *device) agent() *Agent {
	d.t.Helper()
	a, err := loadTestAgent(d.root, testLog(d.t))
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

func loadTestAgent(root string, log *slog.Logger) (*Agent, error) {
	cfg, err := LoadConfig(ConfigPaths{Root: root})
	if err != nil {
		return nil, err
	}
	a, err := New(cfg, Options{Logger: log})
	if err != nil {
		return nil, err
	}
	a.backoff = backoff{first: 5 * time.Millisecond, limit: 20 * time.Millisecond}
	a.stallTimeout = 300 * time.Millisecond
	a.verifyPeriod = 2 * time.Second
	return a, nil
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func (d *device) slot(s SlotName) []byte {
	d.t.Helper()
	f, err := os.Open(d.path("disk.img"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, slotSize)
	if _, err := f.ReadAt(data, slotAt(s)); err != nil {
		d.t.Fatal(err)
	}
	return data
}

func (d *device) writeSlot(s SlotName, content []byte) {
	d.t.Helper()
	f, err := os.OpenFile(d.path("disk.img"), os.O_RDWR, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, slotAt(s)); err != nil {
		d.t.Fatal(err)
	}
}

func slotAt(s SlotName) int64 {
	if s == SlotA {
		return slotAAt
	}
	return slotBAt
}

// holds says whether a slot begins with an image.
func (d *device) holds(s SlotName, image []byte) bool {
	return bytes.HasPrefix(d.slot(s), image)
}

func (d *device) vars() map[string]string {
	d.t.Helper()
	vars, err := d.env.Load()
	if err != nil {
		d.t.Fatalf("the environment: %v", err)
	}
	return vars
}

// powerOn boots: it runs the boot loader until it finds a system that comes up, and leaves word of the slot.
func (d *device) powerOn() SlotName {
	d.t.Helper()
	d.atBoot = true
	defer func() { d.atBoot = false }()
	for range 3 {
		decision, err := bootloader.PowerOn(d.env, [2]int{2, 3})
		if err != nil {
			d.t.Fatal(err)
		}
		slot := SlotA
		if decision.Part == 3 {
			slot = SlotB
		}
		d.boots = append(d.boots, slot)
		if d.broken != nil && d.broken(d.slot(slot)) {
			continue // the kernel panics, the watchdog resets
		}
		d.write("proc/cmdline", "quiet twinkeel.slot="+string(slot))
		return slot
	}
	d.t.Fatalf("no system comes up: booted %v, environment %v", d.boots, d.vars())
	return ""
}

// checkBootable demands what must hold at every instant: what the boot loader would start now is one of the images.
func (d *device) checkBootable(images ...[]byte) {
	d.t.Helper()
	slot := SlotA
	if d.vars()[bootenv.VarBootPart] == "3" {
		slot = SlotB
	}
	content := d.slot(slot)
	for _, image := range images {
		if bytes.HasPrefix(content, image) {
			return
		}
	}
	d.t.Fatalf("slot %s would be booted and holds no complete system", slot)
}

// checkOld demands that nothing but the inactive slot was touched.
func (d *device) checkOld() {
	d.t.Helper()
	vars := d.vars()
	if vars[bootenv.VarBootPart] != "2" || vars[bootenv.VarUpgradeAvailable] != "0" {
		d.t.Errorf("the boot loader was switched: part %s, upgrade_available %s", vars[bootenv.VarBootPart], vars[bootenv.VarUpgradeAvailable])
	}
	if !d.holds(SlotA, d.old) {
		d.t.Error("the running slot was written to")
	}
}

// artifact writes a signed artifact of a root file system.
func artifact(t testing.TB, rootfs []byte, change func(*artifactfmt.Artifact)) []byte {
	t.Helper()
	a := &artifactfmt.Artifact{
		Name: "release-2", DeviceTypes: []string{"testdev"}, PayloadType: artifactfmt.RootfsImage,
		Files: []artifactfmt.InputFile{{
			Name: "rootfs.ext4", Size: int64(len(rootfs)),
			Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(rootfs)), nil },
		}},
		Compression: artifactfmt.CompressionNone, // so that cuts fall into the payload
		Signer:      keys().signer,
	}
	if change != nil {
		change(a)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "a.mender"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := artifactfmt.Write(t.Context(), out, a); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// server is a Mender server with one deployment.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	artifact []byte
	name     string
	statuses []string
	log      []menderapi.LogMessage
	final    string
	auths    int
	polls    int // after the final status
	gets     []string
	tokens   map[string]bool
	done     chan struct{} // closed when the device has polled after its final status

	v1only bool
	// answer, if set, may handle a request instead.
	answer func(w http.ResponseWriter, r *http.Request) bool
	// download, if set, serves the artifact instead; n counts from 1.
	download func(w http.ResponseWriter, r *http.Request, n int)
}

const deploymentID = "6f0e0d5c-5a6b-4d4e-9a3a-0123456789ab"

func newServer(t testing.TB, artifact []byte) *server {
	s := &server{artifact: artifact, name: "release-2", tokens: map[string]bool{}, done: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if s.answer != nil && s.answer(w, r) {
		return
	}
	s.mu.Lock()
	path := r.URL.Path
	switch path {
	case menderapi.PathAuthRequests:
		s.auths++
		token := fmt.Sprintf("token-%d", s.auths)
		s.tokens[token] = true
		s.mu.Unlock()
		if r.Header.Get(menderapi.HeaderSignature) == "" || !bytes.Contains(body, []byte("02:00:00:00:00:01")) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		io.WriteString(w, token)
		return
	case "/artifact":
		s.gets = append(s.gets, r.Header.Get("Range"))
		n := len(s.gets)
		s.mu.Unlock()
		if s.download != nil {
			s.download(w, r, n)
			return
		}
		s.serveArtifact(w, r)
		return
	}
	defer s.mu.Unlock()
	if token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); !s.tokens[token] {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch {
	case path == menderapi.PathNextV2 && s.v1only:
		w.WriteHeader(http.StatusNotFound)
	case path == menderapi.PathNextV2, path == menderapi.PathNextV1:
		if s.final != "" {
			if s.polls++; s.polls == 1 {
				close(s.done)
			}
			w.WriteHeader(http.StatusNoContent)
			return
		}
		json.NewEncoder(w).Encode(menderapi.Next{ID: deploymentID, Artifact: menderapi.NextArtifact{
			ArtifactName: s.name, DeviceTypesCompatible: []string{"testdev"}, Source: menderapi.Link{URI: s.URL + "/artifact"},
		}})
	case strings.HasSuffix(path, "/status"):
		var report menderapi.StatusReport
		json.Unmarshal(body, &report)
		s.statuses = append(s.statuses, string(report.Status))
		if report.Status.Final() {
			s.final = strings.TrimSpace(string(report.Status) + " " + report.SubState)
		}
		w.WriteHeader(http.StatusNoContent)
	case strings.HasSuffix(path, "/log"):
		var log menderapi.Log
		json.Unmarshal(body, &log)
		s.log = log.Messages
		w.WriteHeader(http.StatusNoContent)
	case path == menderapi.PathDeviceAttributes:
		w.WriteHeader(http.StatusOK)
	default:
		w.WriteHeader(http.StatusTeapot)
	}
}

func (s *server) serveArtifact(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(s.artifact)))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.artifact))
}

func (s *server) finalStatus() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.final
}

// deploy runs the device until the server has its final report, through as many reboots as it takes.
func (d *device) deploy(s *server) {
	d.t.Helper()
	ctx, stop := contextUntil(d.t, s)
	defer stop()
	for range 10 {
		err := d.agent().Daemon(ctx)
		if errors.Is(err, ErrRebootNeeded) {
			d.powerOn()
			continue
		}
		if err != nil {
			d.t.Fatalf("the daemon ended: %v", err)
		}
		break
	}
	if s.finalStatus() == "" {
		d.t.Fatalf("no final status; reported %v, booted %v", s.statuses, d.boots)
	}
}

// contextUntil ends when the server has its final report and was polled once more.
func contextUntil(t testing.TB, s *server) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	go func() {
		select {
		case <-s.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func (d *device) serverURL(s *server, more ...map[string]any) {
	changes := map[string]any{"ServerURL": s.URL}
	for _, m := range more {
		for k, v := range m {
			changes[k] = v
		}
	}
	d.config(changes)
}

func (d *device) record() Record {
	d.t.Helper()
	r, err := ReadStatus(d.path("var/lib/mender"))
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}
