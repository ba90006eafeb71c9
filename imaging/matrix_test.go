package imaging

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/internal/bootenv"
)

// matrixLayouts are A/B disks of every kind: all tables, both sizes of sectors, places beyond 4 GiB, and Mender's own
// layouts with their default sizes.
func matrixLayouts(t testing.TB) map[string]Layout {
	t.Helper()
	disk := func(table string, sector int64, more ...Partition) Layout {
		boot := Partition{Name: "boot", Size: 16 * mib, Filesystem: FilesystemVFAT, Bootable: true, InMBR: table == TableHybrid}
		if sector == 4096 {
			boot.Size = 64 * mib
		}
		return Layout{
			Table: table, SectorSize: sector, Reserves: []Reserve{{Name: "env", Offset: mib, Size: 128 * kib}},
			Partitions: append([]Partition{
				boot,
				{Name: "rootfs_a", Size: 16 * mib, Filesystem: FilesystemExt4, Slot: "a"},
				{Name: "rootfs_b", Size: 16 * mib, Filesystem: FilesystemExt4, Slot: "b"},
				{Name: "data", Size: 16 * mib, Filesystem: FilesystemExt4, Label: "data"},
			}, more...),
		}
	}
	far := func(table string) Layout { // all but the environment lies behind the first 5 GiB
		l := disk(table, 512)
		l.Partitions = append([]Partition{{Name: "before", Size: 5 * gib}}, l.Partitions...)
		return l
	}
	logs, spare := Partition{Name: "logs", Size: 8 * mib, Filesystem: FilesystemExt4}, Partition{Name: "spare", Size: 8 * mib, Filesystem: FilesystemExt4}
	layouts := map[string]Layout{
		"gpt":                 disk(TableGPT, 512),
		"gpt, 4096":           disk(TableGPT, 4096),
		"gpt beyond 4 GiB":    far(TableGPT),
		"mbr with 4":          disk(TableMBR, 512),
		"mbr with 6":          disk(TableMBR, 512, logs, spare),
		"mbr with 6, 4096":    disk(TableMBR, 4096, logs, spare),
		"mbr beyond 4 GiB":    far(TableMBR),
		"hybrid":              disk(TableHybrid, 512),
		"hybrid beyond 4 GiB": far(TableHybrid),
	}
	for _, name := range PresetNames() {
		l, _, err := Preset(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		layouts["preset "+name] = *l
	}
	return layouts
}

var matrixEnv = map[string]string{bootenv.VarBootPart: "2", bootenv.VarUpgradeAvailable: "0", "bootcmd": "run a; run b"}

const matrixEnvSize = 64 * kib

// matrixImage fills every area of a layout: a kernel for the boot partition, files that name their partition for the ext4
// ones, two copies of an environment for U-Boot, or for GRUB where no place is reserved, noise for boot loaders.
func matrixImage(t testing.TB, l Layout) *Image {
	t.Helper()
	img := &Image{Layout: l, Seed: "matrix", Epoch: time.Unix(1_700_000_000, 0), Contents: make(map[string]Content)}
	boot := []TreeFile{{Path: "extlinux/extlinux.conf", Data: []byte("default x\n")}, {Path: "Image", Data: matrixKernel()}}
	for _, r := range l.Reserves {
		img.Contents[r.Name] = Content{Bytes: bytes.Repeat([]byte("loader!\n"), int(min(r.Size, 200*kib)/8))}
	}
	if _, uboot := img.Contents["env"]; uboot {
		area, _ := mustMap(t, img).Find("env")
		copies := make([]byte, area.Size)
		for i, flag := range []byte{7, 6} { // the first is the newer one
			block, err := bootenv.EncodeUBoot(matrixEnv, int(matrixEnvSize), true, flag)
			if err != nil {
				t.Fatal(err)
			}
			copy(copies[int64(i)*area.Size/2:], block)
		}
		img.Contents["env"] = Content{Bytes: copies}
	} else {
		files, err := bootenv.GRUBFiles(matrixEnv)
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range files {
			boot = append(boot, TreeFile{Path: "grub-mender-grubenv/" + name, Data: data})
		}
	}
	for _, p := range l.Partitions {
		switch p.Filesystem {
		case FilesystemVFAT:
			img.Contents[p.Name] = Content{Tree: boot}
		case FilesystemExt4:
			img.Contents[p.Name] = Content{Tree: []TreeFile{
				{Path: "etc/name", Data: []byte(p.Name)}, {Path: "lib/modules/x.ko", Data: matrixKernel()}, {Path: "sbin/init", Link: "../lib/modules/x.ko"},
			}}
		}
	}
	return img
}

func matrixKernel() []byte { return bytes.Repeat([]byte("kernel of an A/B board "), 30_000) }

// TestMatrix fills images of every kind with everything that a board has, and lets the programs that will meet them look:
// at the tables, the file systems, the environment, and at what the other forms of the image unpack to.
func TestMatrix(t *testing.T) {
	needTools(t)
	for name, l := range matrixLayouts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && strings.HasPrefix(name, "preset") {
				t.Skip("takes seconds")
			}
			dir := t.TempDir()
			at := func(name string) string { return filepath.Join(dir, name) }
			img := matrixImage(t, l)
			img.Outputs = []Output{{Format: FormatBmap, Path: at("bmap")}, {Format: FormatQcow2, Path: at("qcow2")}, {Format: FormatAndroidSparse, Path: at("simg")}}
			raw := at("disk.img")
			res, err := Write(t.Context(), raw, img)
			if err != nil {
				t.Fatal(err)
			}
			t.Run("tables", func(t *testing.T) { checkTables(t, raw, res.Map) })
			for _, r := range res.Map.Regions {
				switch r.Filesystem {
				case FilesystemExt4:
					t.Run(r.Name, func(t *testing.T) { checkExt4(t, extract(t, raw, r), r) })
				case FilesystemVFAT:
					t.Run(r.Name, func(t *testing.T) { checkVFAT(t, extract(t, raw, r)) })
				}
			}
			t.Run("environment", func(t *testing.T) { checkEnvironment(t, raw, res.Map) })
			t.Run("mounted", func(t *testing.T) { checkMounted(t, raw, res.Map) })
			t.Run("bmaptool", func(t *testing.T) {
				run(t, "bmaptool", "-q", "copy", "--bmap", at("bmap"), raw, at("from-bmap"))
				sameBytes(t, raw, at("from-bmap"))
			})
			t.Run("qemu-img", func(t *testing.T) {
				if out := run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", at("qcow2"), raw); !strings.Contains(out, "Images are identical") {
					t.Error(out)
				}
				run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", at("qcow2"), at("from-qcow2"))
				sameBytes(t, raw, at("from-qcow2"))
			})
			t.Run("simg2img", func(t *testing.T) {
				run(t, "simg2img", at("simg"), at("from-simg"))
				sameBytes(t, raw, at("from-simg"))
			})
		})
	}
}

// checkTables wants no complaint of sgdisk and sfdisk, which know 4096-byte sectors of devices only.
func checkTables(t *testing.T, path string, m *Map) {
	t.Helper()
	disk := path
	if m.SectorSize != 512 {
		disk = loop(t, path, Region{Size: m.Size}, m.SectorSize)
	}
	if out := run(t, "sfdisk", "--verify", disk); !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk --verify: %s", out)
	}
	if m.Table == TableMBR {
		return
	}
	if out := run(t, "sgdisk", "-v", disk); !strings.Contains(out, "No problems found") || strings.Contains(out, "Caution") || strings.Contains(out, "Warning") {
		t.Errorf("sgdisk -v: %s", out)
	}
}

func checkExt4(t *testing.T, image string, r Region) {
	t.Helper()
	run(t, "e2fsck", "-fn", image)
	if out := run(t, "debugfs", "-R", "cat /etc/name", image); !strings.HasSuffix(out, "\n"+r.Name) {
		t.Errorf("/etc/name is %q", out)
	}
}

func checkVFAT(t *testing.T, image string) {
	t.Helper()
	if out := run(t, "fsck.vfat", "-n", image); strings.Contains(out, "differ") || strings.Contains(out, "wrong") {
		t.Errorf("fsck.vfat: %s", out)
	}
	if out := run(t, "mdir", "-b", "-/", "-i", image, "::"); !strings.Contains(out, "::/extlinux/extlinux.conf\n") {
		t.Errorf("mdir: %s", out)
	}
	if out := run(t, "mtype", "-i", image, "::/Image"); out != string(matrixKernel()) {
		t.Errorf("mtype: the kernel has %d bytes", len(out))
	}
}

func checkEnvironment(t *testing.T, path string, m *Map) {
	t.Helper()
	var want strings.Builder
	for _, name := range slices.Sorted(maps.Keys(matrixEnv)) {
		fmt.Fprintf(&want, "%s=%s\n", name, matrixEnv[name])
	}
	area, uboot := m.Find("env")
	if !uboot {
		boot, _ := m.Find("boot")
		image := extract(t, path, boot)
		for _, copied := range []string{"mender_grubenv1", "mender_grubenv2"} {
			env := filepath.Join(t.TempDir(), "env")
			run(t, "mcopy", "-i", image, "::/grub-mender-grubenv/"+copied+"/env", env)
			if got := run(t, "grub-editenv", env, "list"); got != want.String() {
				t.Errorf("%s: grub-editenv: %q", copied, got)
			}
		}
		return
	}
	config := filepath.Join(t.TempDir(), "fw_env.config")
	os.WriteFile(config, bootenv.FormatFwEnvConfig([]bootenv.Location{
		{Path: path, Offset: area.Offset, Size: matrixEnvSize}, {Path: path, Offset: area.Offset + area.Size/2, Size: matrixEnvSize},
	}), 0o644)
	if got := run(t, "fw_printenv", "-c", config); got != want.String() {
		t.Errorf("fw_printenv: %q", got)
	}
}

// checkMounted lets the kernel look, on a device with the sectors that the image is for.
func checkMounted(t *testing.T, path string, m *Map) {
	t.Helper()
	for _, r := range m.Regions {
		if r.Filesystem != FilesystemExt4 && r.Filesystem != FilesystemVFAT {
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			dir, device := t.TempDir(), loop(t, path, r, m.SectorSize)
			err := syscall.Mount(device, dir, r.Filesystem, syscall.MS_RDONLY, "")
			if errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EPERM) {
				t.Skipf("this machine does not mount %s: %v", r.Filesystem, err)
			}
			if err != nil {
				t.Fatalf("mount: %v", err)
			}
			t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) }) // it is busy while a child of another test has our files, before its exec
			name, want := "Image", matrixKernel()
			if r.Filesystem == FilesystemExt4 {
				name, want = "etc/name", []byte(r.Name)
			}
			if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s has %d bytes, %v", name, len(got), err)
			}
		})
	}
}

// loop is a device of a part of a file.
func loop(t testing.TB, path string, r Region, sector int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	losetup := tool(t, "losetup")
	out, err := command(t, losetup, "-r", "-f", "--show", "-b", fmt.Sprint(sector), "-o", fmt.Sprint(r.Offset), "--sizelimit", fmt.Sprint(r.Size), path)
	if err != nil {
		t.Skipf("no loop device: losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(out)
	t.Cleanup(func() { exec.Command(losetup, "-d", device).Run() }) // t.Context has ended by then
	return device
}

// sameBytes compares two images without reading what is a hole in both.
func sameBytes(t testing.TB, a, b string) {
	t.Helper()
	var files [2]*os.File
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	info, _ := files[0].Stat()
	size := info.Size()
	if other, _ := files[1].Stat(); other.Size() != size {
		t.Errorf("%s has %d bytes, %s has %d", a, size, b, other.Size())
		return
	}
	one, two := make([]byte, copyChunk), make([]byte, copyChunk)
	for _, f := range files { // the data of either, in both
		for start, end := nextData(f, 0, size); start < size; start, end = nextData(f, end, size) {
			for at := start; at < end; at += copyChunk {
				n := min(copyChunk, end-at)
				if _, err := files[0].ReadAt(one[:n], at); err != nil {
					t.Fatal(err)
				}
				if _, err := files[1].ReadAt(two[:n], at); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(one[:n], two[:n]) {
					t.Errorf("%s differs from %s within %d bytes at %d", b, a, n, at)
					return
				}
			}
		}
	}
}
