package flash

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
	"github.com/twinkeel/twinkeel/internal/bootenv"
)

const (
	boardEnvAt   = mib
	boardEnvSize = 64 * kib
)

// writeBoard makes an A/B image with its block map: U-Boot's environment with the flags of its two copies, slot A, and slot B
// where it is filled. Without flags the environment was never written.
func writeBoard(t *testing.T, path string, flags []byte, vars map[string]string, fillB bool) *imaging.Map {
	t.Helper()
	noise := make([]byte, 3*mib)
	mathrand.NewChaCha8([32]byte{byte(len(path))}).Read(noise)
	system := imaging.Content{Tree: []imaging.TreeFile{{Path: "etc/path", Data: []byte(path)}, {Path: "lib/noise", Data: noise}}}
	img := &imaging.Image{
		Seed: path,
		Layout: imaging.Layout{
			Reserves: []imaging.Reserve{{Name: "env", Offset: boardEnvAt, Size: 2 * boardEnvSize}},
			Partitions: []imaging.Partition{
				{Name: "boot", Size: 8 * mib, Filesystem: imaging.FilesystemVFAT, Bootable: true},
				{Name: "rootfs_a", Size: 16 * mib, Filesystem: imaging.FilesystemExt4, Slot: "a"},
				{Name: "rootfs_b", Size: 16 * mib, Filesystem: imaging.FilesystemExt4, Slot: "b"},
				{Name: "data", Size: 8 * mib, Filesystem: imaging.FilesystemExt4},
			},
		},
		Contents: map[string]imaging.Content{"rootfs_a": system, "boot": {Tree: []imaging.TreeFile{{Path: "Image", Data: noise[:mib]}}}},
		Outputs:  []imaging.Output{{Format: imaging.FormatBmap, Path: path + ".bmap"}},
	}
	if fillB {
		img.Contents["rootfs_b"] = system
	}
	var env []byte
	for _, flag := range flags {
		block, err := bootenv.EncodeUBoot(vars, int(boardEnvSize), true, flag)
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, block...)
	}
	if env != nil {
		img.Contents["env"] = imaging.Content{Bytes: env}
	}
	res, err := imaging.Write(t.Context(), path, img)
	if err != nil {
		t.Fatal(err)
	}
	return res.Map
}

// found is what a boot loader and a system find on a medium.
type found struct {
	Printed    string // as fw_printenv says, its complaint included
	Boot       *inspect.Boot
	Partitions []inspect.Partition // file systems, as e2fsck finds them
	Findings   []inspect.Finding
	Heads      map[string]string // digests of those of the disk, of every partition and of the backup table
}

func look(t *testing.T, path string, m *imaging.Map) found {
	t.Helper()
	copies := func(disk string) []bootenv.Location {
		return []bootenv.Location{{Path: disk, Offset: boardEnvAt, Size: boardEnvSize}, {Path: disk, Offset: boardEnvAt + boardEnvSize, Size: boardEnvSize}}
	}
	config := store(t, filepath.Join(t.TempDir(), "fw_env.config"), bootenv.FormatFwEnvConfig(copies(path)))
	said, _ := exec.CommandContext(t.Context(), "fw_printenv", "-c", config).CombinedOutput()
	out := found{Printed: string(said), Heads: make(map[string]string)}
	disk, err := inspect.Open(t.Context(), path, inspect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	report, err := disk.Verify(t.Context(), inspect.VerifyOptions{Environment: copies("/dev/mmcblk0"), NoDigests: true})
	if err != nil {
		t.Fatal(err)
	}
	out.Boot, out.Partitions, out.Findings = report.Boot, report.Partitions, report.Findings
	head := func(name string, off, n int64) {
		b := make([]byte, n)
		if _, err := disk.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		out.Heads[name] = fmt.Sprintf("%x", sha256.Sum256(b))
	}
	head("disk", 0, mib)
	for _, r := range m.Regions {
		if r.Kind != imaging.KindTable {
			head(fmt.Sprint(r.Kind, " ", r.Name), r.Offset, min(r.Size, mib))
		}
	}
	return out
}

// TestBootsAsOverZeros: over 0xA5 and over an older image, whose environment is valid, has higher flags and starts the other
// slot, a board finds what it finds where nothing was before. The target is a file, or a device that cannot zero by itself
// and keeps what the block map leaves out.
func TestBootsAsOverZeros(t *testing.T) {
	t.Parallel()
	if err := imaging.CheckTools(); err != nil {
		t.Skip(err)
	}
	if _, err := exec.LookPath("fw_printenv"); err != nil {
		t.Skip("fw_printenv is not installed")
	}
	dir := t.TempDir()
	older := filepath.Join(dir, "the-older-one.img")
	writeBoard(t, older, []byte{200, 201}, map[string]string{bootenv.VarBootPart: "3", "of": "the older image"}, true)
	used, err := os.ReadFile(older)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		flags []byte
		print string // of fw_printenv; "": its complaint
		boot  int
	}{
		"written": {[]byte{1, 1}, bootenv.VarBootPart + "=2\nof=the new image\n", 2},
		"blank":   {nil, "", 0},
	} {
		path := filepath.Join(dir, name+".img")
		m := writeBoard(t, path, c.flags, map[string]string{bootenv.VarBootPart: "2", "of": "the new image"}, false)
		img, err := OpenImage(path, ImageOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		if err := img.Check(t.Context(), 0, nil); err != nil {
			t.Fatal(err)
		}
		if img.BmapPath == "" || img.Size != int64(len(used)) {
			t.Fatalf("bmap %q, %d bytes over %d", img.BmapPath, img.Size, len(used))
		}
		before := map[string][]byte{"zeros": make([]byte, len(used)), "A5": bytes.Repeat([]byte{0xa5}, len(used)), "the older image": used}
		flashed := func(over string, o Options, file bool) found {
			target := filepath.Join(dir, "target")
			defer os.Remove(target)
			if !file {
				d := newDisk(int64(len(used)), func(b []byte) { copy(b, before[over]) })
				if r := runOne(t, img, d, o); r.Err != nil {
					t.Fatal(r.Err)
				}
				return look(t, store(t, target, d.medium), m)
			}
			store(t, target, before[over])
			flashFile(t, img, target, o)
			return look(t, target, m)
		}
		want := flashed("zeros", Options{}, true)
		if want.Boot.Partition != c.boot || c.print != "" && want.Printed != c.print || inspect.Wrong(want.Findings) {
			t.Errorf("%s, over zeros: %q starts %+v; findings %+v", name, want.Printed, want.Boot, want.Findings)
		}
		for over := range before {
			for _, file := range []bool{false, true} {
				for _, delta := range []bool{false, true} {
					if diff := cmp.Diff(want, flashed(over, Options{Delta: delta}, file)); diff != "" {
						t.Errorf("%s, over %s, file %t, delta %t: %.2000s", name, over, file, delta, diff)
					}
				}
			}
		}
	}
}

// flashFile writes to a file as the command does.
func flashFile(t *testing.T, img *Image, path string, o Options) {
	t.Helper()
	host := Host()
	d, err := host.Inspect(path, Permit{File: true})
	if err != nil {
		t.Fatal(err)
	}
	target, release, err := host.Open(d, img.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if r := Run(t.Context(), img, []*Target{target}, o)[0]; r.Err != nil || !r.Verified {
		t.Fatalf("%+v", r)
	}
}
