package imaging

import (
	"context"
	"errors"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// xfs mounts a new XFS, which can share blocks between files, of a size that takes hardly any room.
func xfs(t *testing.T, size int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting an XFS needs root")
	}
	mkfs, losetup := tool(t, "mkfs.xfs"), tool(t, "losetup")
	backing := filepath.Join(t.TempDir(), "xfs")
	os.WriteFile(backing, nil, 0o644)
	os.Truncate(backing, size)
	if out, err := command(t, mkfs, "-q", "-m", "reflink=1", backing); err != nil {
		t.Fatalf("mkfs.xfs: %v: %s", err, out)
	}
	out, err := command(t, losetup, "-f", "--show", backing)
	if err != nil {
		t.Skipf("no loop device: losetup: %v: %s", err, out)
	}
	device, dir := strings.TrimSpace(out), t.TempDir()
	detach := func() { exec.CommandContext(context.WithoutCancel(t.Context()), losetup, "-d", device).Run() }
	t.Cleanup(detach)
	if err := syscall.Mount(device, dir, "xfs", 0, ""); err != nil {
		t.Skipf("this machine does not mount XFS: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// used is how much of a file system is taken.
func used(t *testing.T, dir string) int64 {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s unix.Statfs_t
	if err := errors.Join(unix.Syncfs(int(f.Fd())), unix.Fstatfs(int(f.Fd()), &s)); err != nil { // blocks that are only promised do not count yet
		t.Fatal(err)
	}
	return int64(s.Blocks-s.Bfree) * s.Bsize
}

// TestSharedBlocks: where files can share blocks, an image with two slots of 1 GiB takes no room for them, and no time.
func TestSharedBlocks(t *testing.T) {
	dir := xfs(t, 4*gib)
	noise := make([]byte, mib)
	rand.New(rand.NewSource(8)).Read(noise)
	for name, c := range map[string]struct {
		slot    int64
		digests bool
	}{
		"alone":        {gib, false},
		"with digests": {256 * mib, true}, // for which all is read
	} {
		t.Run(name, func(t *testing.T) {
			root, path := filepath.Join(dir, name), filepath.Join(dir, "disk.img")
			f, err := os.Create(root)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for at := int64(0); at < c.slot; at += 8 * mib { // in pieces, as the blocks of a file system are
				if _, err := f.WriteAt(noise, at); err != nil {
					t.Fatal(err)
				}
			}
			f.Truncate(c.slot)
			img := &Image{
				Layout:   Layout{Partitions: []Partition{{Name: "a", Size: c.slot, Slot: "a"}, {Name: "b", Size: c.slot, Slot: "b"}}},
				Contents: map[string]Content{"a": {File: root}, "b": {File: root}},
				Digests:  c.digests,
			}
			fastest := time.Hour
			for range 5 { // other programs keep the disk busy
				os.Remove(path)
				before, start := used(t, dir), time.Now()
				res, err := Write(t.Context(), path, img)
				if err != nil {
					t.Fatal(err)
				}
				fastest = min(fastest, time.Since(start))
				if more := used(t, dir) - before; more > 2*mib {
					t.Errorf("the image takes %d bytes", more)
				}
				if got := allocated(t, path); got < c.slot/4 {
					t.Errorf("the image has %d bytes", got)
				}
				if fastest < 200*time.Millisecond || c.digests {
					b, _ := res.Map.Find("b")
					sameBytes(t, root, extract(t, path, b))
					return
				}
			}
			t.Errorf("it took %v", fastest)
		})
	}
}
