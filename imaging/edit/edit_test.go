package edit

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/durable"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	envOffset = 1 * mib
	envSize   = 16 * kib
)

// tool returns the path of a judge, or skips the test.
func tool(t testing.TB, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	t.Skipf("%s is not installed", name)
	return ""
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func variables(change map[string]string) map[string]string {
	vars := map[string]string{"bootcmd": "run boot_slot", "bootlimit": "1", "bootcount": "0", "upgrade_available": "0", "mender_boot_part": "2", "mender_boot_part_hex": "2"}
	for name, value := range change {
		vars[name] = value
	}
	return vars
}

// board is an A/B image with a redundant environment, as pipelines make them; change alters it first.
func board(t testing.TB, change func(*imaging.Image)) string {
	t.Helper()
	for _, name := range []string{"mke2fs", "debugfs", "mkfs.vfat", "mcopy"} {
		tool(t, name)
	}
	block, err := bootenv.EncodeUBoot(variables(nil), envSize, true, 1)
	if err != nil {
		t.Fatal(err)
	}
	config := bootenv.FormatFwEnvConfig([]bootenv.Location{
		{Path: "/dev/mmcblk0", Offset: envOffset, Size: envSize}, {Path: "/dev/mmcblk0", Offset: envOffset + envSize, Size: envSize},
	})
	img := &imaging.Image{
		Seed: "test",
		Layout: imaging.Layout{
			Reserves: []imaging.Reserve{{Name: "env", Offset: envOffset, Size: 2 * envSize}},
			Partitions: []imaging.Partition{
				{Name: "boot", Size: 8 * mib, Filesystem: "vfat", Bootable: true},
				{Name: "rootfs_a", Size: 8 * mib, Filesystem: "ext4", Slot: "a"},
				{Name: "rootfs_b", Size: 8 * mib, Filesystem: "ext4", Slot: "b"},
				{Name: "data", Size: 8 * mib, Filesystem: "ext4", Label: "data"},
			},
		},
		Contents: map[string]imaging.Content{
			"env":      {Bytes: append(block, block...)},
			"boot":     {Tree: []imaging.TreeFile{{Path: "boot.scr", Data: []byte("script")}}},
			"rootfs_a": {Tree: []imaging.TreeFile{{Path: "etc/os-release", Data: []byte("ID=one\n")}, {Path: "noise", Data: noise(1, 300*kib)}}},
			"data": {Tree: []imaging.TreeFile{
				{Path: "mender/mender.conf", Mode: 0o600, Data: []byte(`{"ServerURL":"https://ota.example.com","RootfsPartA":"/dev/mmcblk0p2","RootfsPartB":"/dev/mmcblk0p3"}`)},
				{Path: "mender/device_type", Data: []byte("device_type=board\n")},
				{Path: "u-boot/fw_env.config", Data: config},
			}},
		},
	}
	if change != nil {
		change(img)
	}
	path := filepath.Join(t.TempDir(), "board.img")
	if _, err := imaging.Write(t.Context(), path, img); err != nil {
		t.Fatal(err)
	}
	return path
}

// edited makes a change in the place of the image.
func edited(t testing.TB, path string, o Options, change func(im *Image) error) (*Result, error) {
	t.Helper()
	im, err := Open(t.Context(), path, o)
	if err != nil {
		return nil, err
	}
	defer im.Abort()
	if err := change(im); err != nil {
		return nil, err
	}
	return im.Commit(t.Context())
}

// sound holds the result to all judges that inspect.Verify has, but for warnings.
func sound(t testing.TB, path string) *inspect.Report {
	t.Helper()
	d, err := inspect.Open(t.Context(), path, inspect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	v := inspect.VerifyOptions{Check: inspect.CheckAlways, NoDigests: true}
	if f, err := os.Open(path + ".bmap"); err == nil {
		defer f.Close()
		if v.Bmap, err = imaging.ParseBmap(f); err != nil {
			t.Fatal(err)
		}
	}
	report, err := d.Verify(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		if f.Severity == inspect.SeverityError || strings.HasPrefix(f.Code, "table") {
			t.Errorf("%s: %s: %s: %s", path, f.Code, f.Place, f.Text)
		}
	}
	return report
}

// alone fails when there is anything in the image's folder but the files named.
func alone(t testing.TB, path string, more ...string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	known := strings.Join(append(more, filepath.Base(path)), "\n")
	for _, e := range entries {
		if !strings.Contains("\n"+known+"\n", "\n"+e.Name()+"\n") {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func set(name, value string) Variables { return Variables{Set: map[string]string{name: value}} }

func setLimit(ctx context.Context, value string) func(*Image) error {
	return func(im *Image) error {
		_, err := im.SetEnvironment(ctx, set("bootlimit", value))
		return err
	}
}

func TestRefusedImages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(make([]byte, mib))
	z.Close()
	for name, c := range map[string]struct{ path, want string }{
		"packed":    {write("a.img", packed.Bytes()), "compressed (gzip)"},
		"no table":  {write("b.img", make([]byte, mib)), "no valid partition table"},
		"empty":     {write("c.img", nil), "no valid partition table"},
		"directory": {dir, "not a file"},
		"missing":   {filepath.Join(dir, "none"), "no such file"},
		"device":    {"/dev/null", "device"},
	} {
		if _, err := Open(t.Context(), c.path, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestModeAndLinkAreKept(t *testing.T) {
	t.Parallel()
	path := board(t, nil)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.img")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := edited(t, link, Options{}, setLimit(t.Context(), "2")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v %v", info, err)
	}
	if info, err = os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	path := board(t, nil)
	before := string(readFile(t, path))
	ctx, cancel := context.WithCancel(t.Context())
	im, err := Open(ctx, path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	data, err := im.Disk.Find("data")
	if err != nil {
		t.Fatal(err)
	}
	if err := im.WriteFiles(ctx, data, []File{{Path: "x"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteFiles: %v", err)
	}
	if _, err := im.Commit(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit: %v", err)
	}
	alone(t, path)
	ctx, cancel = context.WithCancel(t.Context())
	_, err = Open(ctx, path, Options{Progress: func(int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Open: %v", err)
	}
	if string(readFile(t, path)) != before {
		t.Error("the image has changed")
	}
	alone(t, path)
}

func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	path := board(t, nil)
	_, err := edited(t, path, Options{}, func(im *Image) error {
		if err := setLimit(t.Context(), "2")(im); err != nil {
			return err
		}
		return os.Truncate(path, 50*mib)
	})
	if err == nil || !strings.Contains(err.Error(), "changed it meanwhile") {
		t.Errorf("%v", err)
	}
	alone(t, path)
}

// A hook is one for the process, so this test is not parallel.
func TestAFailureAtEveryStepLeavesTheOldImageOrTheNew(t *testing.T) {
	path := board(t, nil)
	if err := os.WriteFile(path+".sha256", []byte(strings.Repeat("0", 64)+"  board.img\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	old := string(readFile(t, path))
	defer durable.SetHook(nil)
	failed := 0
	for n := int64(1); ; n++ {
		op := ""
		durable.SetHook(func(s durable.Step) error {
			if s.Number == n {
				op = s.Op
				return syscall.ENOSPC
			}
			return nil
		})
		_, err := edited(t, path, Options{}, setLimit(t.Context(), "2"))
		durable.SetHook(nil)
		alone(t, path, "board.img.sha256")
		if err == nil {
			if op != "" || failed < 6 {
				t.Errorf("step %d (%s): no error; %d steps failed", n, op, failed)
			}
			break
		}
		failed++
		var full *imaging.SpaceError
		if !errors.As(err, &full) || full.Path != path {
			t.Errorf("step %d (%s): %v", n, op, err)
		}
		now := string(readFile(t, path))
		if now != old {
			sound(t, path) // it has its name already
			if err := os.WriteFile(path, []byte(old), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(t, "sh", "-c", fmt.Sprintf("cd %s && sha256sum -c board.img.sha256", filepath.Dir(path)))
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	defer syscall.Unmount(dir, 0)
	source := board(t, nil)
	path := filepath.Join(dir, "board.img")
	run(t, "cp", "--sparse=always", source, path)
	big := filepath.Join(t.TempDir(), "big.img")
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", big, "8M")
	f, err := os.OpenFile(big, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(noise(3, 5*mib), 2*mib); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for name, change := range map[string]func(im *Image) error{
		"replacing": func(im *Image) error {
			r, err := im.Disk.Find("b")
			if err != nil {
				return err
			}
			_, err = im.Replace(t.Context(), r, Content{Name: big, File: big})
			return err
		},
		"writing files": func(im *Image) error {
			r, err := im.Disk.Find("data")
			if err != nil {
				return err
			}
			return im.WriteFiles(t.Context(), r, []File{{Path: "x", Data: noise(4, 5*mib)}})
		},
	} {
		_, err := edited(t, path, Options{}, change)
		var full *imaging.SpaceError
		if !errors.As(err, &full) || full.Hint() == "" || strings.Contains(err.Error(), "twinkeel-tmp") {
			t.Errorf("%s: %v, want a SpaceError", name, err)
		}
		alone(t, path)
	}
	sound(t, path)
}

func TestCompanionsFollow(t *testing.T) {
	t.Parallel()
	path := board(t, nil)
	// A map that keeps a part of the free space mapped, as that of a layout with a reserve does.
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, _ := f.Stat()
	keep := &imaging.Bmap{ImageSize: info.Size(), BlockSize: 4096, ChecksumType: "sha256", Ranges: []imaging.BmapRange{{First: 0, Last: (info.Size() - 1) / 4096}}}
	out, err := os.Create(path + ".bmap")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keep.WriteTo(out); err != nil {
		t.Fatal(err)
	}
	out.Close()
	sums := strings.Repeat("1", 64) + "  other.img\n" + strings.Repeat("2", 64) + " *board.img\n"
	for suffix, text := range map[string]string{".sha256": sums, ".bmap.sig": "x"} {
		if err := os.WriteFile(path+suffix, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	res, err := edited(t, path, Options{}, setLimit(t.Context(), "2"))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Rewritten) != 2 || len(res.Stale) != 1 || res.Stale[0] != path+".bmap.sig" {
		t.Errorf("%+v", res)
	}
	text := string(readFile(t, path+".sha256"))
	if !strings.Contains(text, strings.Repeat("1", 64)+"  other.img\n") || !strings.Contains(text, res.SHA256+"  board.img\n") {
		t.Errorf("%s", text)
	}
	sound(t, path)
	made, err := os.Open(path + ".bmap")
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	b, err := imaging.ParseBmap(made)
	if err != nil {
		t.Fatal(err)
	}
	mapped := int64(0)
	for _, r := range b.Ranges {
		if r.First == mapped {
			mapped = r.Last + 1
		}
	}
	if boot := int64(envOffset+2*envSize) / 4096; mapped < boot {
		t.Errorf("mapped up to block %d: what was mapped in front of the partitions, up to %d, is not", mapped, boot)
	}
	if slot := (info.Size() / 2) / 4096; b.MappedBlocks() > slot {
		t.Errorf("%d of %d blocks are mapped, an empty slot among them", b.MappedBlocks(), b.Blocks())
	}
	run(t, "bmaptool", "copy", "--no-sig-verify", path, filepath.Join(t.TempDir(), "copy.img"))
}
