package flash

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// loopDevice is a block device over a file of 0xa5.
func loopDevice(t *testing.T, size int64, options ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	b := make([]byte, size)
	fillA5(b)
	backing := store(t, filepath.Join(t.TempDir(), "disk"), b)
	out, err := exec.CommandContext(t.Context(), "losetup", append(options, "-f", "--show", backing)...).CombinedOutput()
	if err != nil {
		t.Skipf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.CommandContext(context.WithoutCancel(t.Context()), "losetup", "-d", dev).Run() })
	return dev
}

// TestSectorSizeOfLoop: an image for sectors of 512 bytes is not for a device with larger ones, whatever kind of device.
func TestSectorSizeOfLoop(t *testing.T) {
	t.Parallel()
	dev := loopDevice(t, testSize+mib, "-b", "4096")
	d, err := Host().Inspect(dev, Permit{})
	if err != nil {
		t.Fatal(err)
	}
	content := testImage(1)
	var refused *RefusedError
	if err := d.CheckImage(checked(t, content, nil, true)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "sectors of 512 bytes, this one has 4096") {
		t.Errorf("%v", err)
	}
	ext4 := make([]byte, 2*mib)
	copy(ext4[1024+56:], "\x53\xef") // with blocks of 1 KiB
	img := checked(t, ext4, nil, false)
	if err := d.CheckImage(img); !errors.As(err, &refused) || refused.Advice != "make it with mkfs.ext4 -b 4096" {
		t.Errorf("%v", err)
	}
	d.SectorSize = 512
	if err := d.CheckImage(img); err != nil {
		t.Error(err)
	}
}

// TestLoopDevice goes through the kernel: claiming, zeroing, pacing, dropping caches.
func TestLoopDevice(t *testing.T) {
	t.Parallel()
	dev := loopDevice(t, testSize+mib)
	content := testImage(1)
	img := checked(t, content, mapOf(content), true)
	host := Host()
	d, err := host.Inspect(dev, Permit{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Kind != KindLoop || d.Size != testSize+mib {
		t.Errorf("%+v", d)
	}
	target, release, err := host.Open(d, img.Size)
	if err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	if _, _, err := host.Open(d, img.Size); !errors.As(err, &refused) {
		t.Errorf("claimed twice: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	r := Run(cancelled, img, []*Target{target}, Options{Events: func(e Event) {
		if e.Phase == PhaseWrite && e.State == StateProgress {
			cancel() // Ctrl-C in the middle
		}
	}})[0]
	if !errors.Is(r.Err, context.Canceled) || r.Outcome != NoTable || d.CurrentMap() != nil {
		t.Errorf("interrupted: %+v", r)
	}
	r = Run(t.Context(), img, []*Target{target}, Options{})[0]
	if r.Err != nil || !r.Verified {
		t.Fatalf("%+v", r)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dev)
	if err != nil {
		t.Fatal(err)
	}
	if r.Zeroed > 0 && !bytes.Equal(got[:testSize], content) {
		t.Error("the device differs from the image, though it zeroes by itself")
	}
	for _, p := range img.plan.pieces {
		if !bytes.Equal(got[p.off:p.rng().End()], content[p.off:p.rng().End()]) {
			t.Errorf("the bytes %s differ", p.rng())
		}
	}
	if m := d.CurrentMap(); m == nil {
		t.Error("there is no table on the device")
	}
}
