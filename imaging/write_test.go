package imaging

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// tool returns the path of a program or skips the test.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := findTool(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func needTools(t testing.TB) {
	t.Helper()
	if err := CheckTools(); err != nil {
		t.Skip(err)
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func command(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}

const (
	envOffset = 4 * mib
	envSize   = 16 * kib
)

func demoLayout() Layout {
	return Layout{
		Reserves: []Reserve{{Name: "boot", Offset: 32 * kib, Size: 64 * kib}, {Name: "env", Offset: envOffset, Size: 2 * envSize}},
		Partitions: []Partition{
			{Name: "esp", Size: 8 * mib, Filesystem: FilesystemVFAT, Label: "boot", Bootable: true},
			{Name: "rootfs_a", Size: 16 * mib, Filesystem: FilesystemExt4, Slot: "a"},
			{Name: "rootfs_b", Size: 16 * mib, Filesystem: FilesystemExt4, Slot: "b"},
			{Name: "data", Size: 8 * mib, Filesystem: FilesystemExt4, Label: "data", Grow: true},
		},
	}
}

// demoTree has what is hard to get right: odd names, holes, long links, special modes, foreign owners.
func demoTree(t testing.TB) []TreeFile {
	t.Helper()
	source := filepath.Join(t.TempDir(), "agent")
	holes := make([]byte, 300_000)
	rand.New(rand.NewSource(1)).Read(holes[:5000])
	copy(holes[250_000:], "behind a hole")
	if err := os.WriteFile(source, holes, 0o640); err != nil {
		t.Fatal(err)
	}
	tree := []TreeFile{
		{Path: "/sbin/init", Mode: 0o755, Data: []byte("#!/bin/sh\n")},
		{Path: "usr/bin/agent", Mode: 0o4755 | fs.ModeSetuid, Source: source},
		{Path: "etc/os-release", Data: []byte("ID=demo\n")},
		{Path: "etc/a \"name\" with 'quotes' and ünïcode", Data: []byte{}},
		{Path: "etc/secret", Mode: 0o600, UID: 70000, GID: 12, Data: []byte("x")},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "sbin/short", Link: "init"},
		{Path: "sbin/long", Link: "/" + strings.Repeat("usr/../", 30) + "sbin/init"},
		{Path: "var", Mode: fs.ModeDir | 0o750, UID: 5, GID: 6},
	}
	for i := range 300 { // more than one directory block
		tree = append(tree, TreeFile{Path: fmt.Sprintf("var/lib/a-rather-long-name-for-a-file-%d", i), Data: fmt.Append(nil, i)})
	}
	return tree
}

func demoImage(t testing.TB) *Image {
	t.Helper()
	env, err := bootenv.EncodeUBoot(map[string]string{bootenv.VarBootPart: "2"}, int(envSize), true, 1)
	if err != nil {
		t.Fatal(err)
	}
	return &Image{
		Layout: demoLayout(), Seed: "demo", Epoch: time.Unix(1_700_000_000, 0),
		Contents: map[string]Content{
			"boot": {Bytes: []byte("first stage")},
			"env":  {Bytes: append(bytes.Clone(env), env...)},
			"esp": {Tree: []TreeFile{
				{Path: "EFI/BOOT/BOOTX64.EFI", Data: []byte("MZ")},
				{Path: "Image", Data: bytes.Repeat([]byte("kernel"), 9999)},
				{Path: "extlinux/extlinux.conf", Data: []byte("default x\n")},
				{Path: "zürich", Data: []byte("é")},
			}},
			"rootfs_a": {Tree: demoTree(t)},
			"data": {Tree: []TreeFile{
				{Path: "mender", Mode: fs.ModeDir | 0o700, UID: 1000, GID: 1000},
				{Path: "mender/device_type", Mode: 0o444, Data: []byte("device_type=demo\n")},
			}},
		},
	}
}

func write(t testing.TB, img *Image) (string, *Map) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	res, err := Write(t.Context(), path, img)
	if err != nil {
		t.Fatal(err)
	}
	return path, res.Map
}

func sum(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func onlyFile(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files in the folder: %s", diff)
	}
}

// extract copies a region into a sparse file of its own, for tools that take no offset.
func extract(t testing.TB, path string, r Region) string {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	name := filepath.Join(t.TempDir(), r.Name+".img")
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := out.Truncate(r.Size); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(t.Context(), out, []int64{0}, in, r.Offset, r.Size, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	return name
}

// Every tool that will meet such an image agrees with it.
func TestToolsAgree(t *testing.T) {
	needTools(t)
	path, m := write(t, demoImage(t))
	onlyFile(t, filepath.Dir(path), "disk.img")

	t.Run("sgdisk", func(t *testing.T) {
		tool(t, "sgdisk")
		if out := run(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") || strings.Contains(out, "Caution") || strings.Contains(out, "Warning") {
			t.Errorf("sgdisk -v: %s", out)
		}
		for n, want := range map[string][]string{
			"1": {"C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "'esp'", "Attribute flags: 0000000000000004"},
			"2": {"0FC63DAF-8483-4772-8E79-3D69D8477DE4", "'rootfs_a'"}, "4": {"'data'"},
		} {
			out := run(t, "sgdisk", "-i", n, path)
			for _, w := range want {
				if !strings.Contains(out, w) {
					t.Errorf("partition %s: no %s in\n%s", n, w, out)
				}
			}
		}
	})
	t.Run("sfdisk", func(t *testing.T) {
		tool(t, "sfdisk")
		if out := run(t, "sfdisk", "--verify", path); !strings.Contains(out, "No errors detected") {
			t.Errorf("sfdisk --verify: %s", out)
		}
	})
	t.Run("fsck", func(t *testing.T) {
		tool(t, "e2fsck")
		tool(t, "fsck.vfat")
		for _, name := range []string{"rootfs_a", "data"} {
			r, _ := m.Find(name)
			run(t, "e2fsck", "-fn", extract(t, path, r))
		}
		r, _ := m.Find("esp")
		esp := extract(t, path, r)
		run(t, "fsck.vfat", "-n", esp)
		out := run(t, "mdir", "-/", "-b", "-i", esp, "::/")
		for _, want := range []string{"::/EFI/BOOT/BOOTX64.EFI", "::/Image", "::/extlinux/extlinux.conf"} {
			if !strings.Contains(out, want+"\n") {
				t.Errorf("no %s in\n%s", want, out)
			}
		}
		if got := run(t, "mtype", "-i", esp, "::/extlinux/extlinux.conf"); got != "default x\n" {
			t.Errorf("extlinux.conf is %q", got)
		}
	})
	t.Run("fw_printenv", func(t *testing.T) {
		tool(t, "fw_printenv")
		config := filepath.Join(t.TempDir(), "fw_env.config")
		locs := []bootenv.Location{{Path: path, Offset: envOffset, Size: envSize}, {Path: path, Offset: envOffset + envSize, Size: envSize}}
		os.WriteFile(config, bootenv.FormatFwEnvConfig(locs), 0o644)
		if got := run(t, "fw_printenv", "-c", config); got != "mender_boot_part=2\n" {
			t.Errorf("fw_printenv: %q", got)
		}
	})
	t.Run("blkid", func(t *testing.T) {
		tool(t, "blkid")
		for _, name := range []string{"esp", "data"} {
			r, _ := m.Find(name)
			out := run(t, "blkid", "-p", "-O", fmt.Sprint(r.Offset), "-S", fmt.Sprint(r.Size), path)
			for _, want := range []string{r.Label, r.FilesystemUUID, r.Filesystem} {
				if !strings.Contains(out, `"`+want+`"`) {
					t.Errorf("%s: no %q in %s", name, want, out)
				}
			}
		}
	})
}

func TestReserveBytesAndSlotB(t *testing.T) {
	needTools(t)
	path, m := write(t, demoImage(t))
	f, _ := os.Open(path)
	defer f.Close()
	got := make([]byte, 11)
	f.ReadAt(got, 32*kib)
	if string(got) != "first stage" {
		t.Errorf("the reserve holds %q", got)
	}
	b, _ := m.Find("rootfs_b")
	content := make([]byte, b.Size)
	f.ReadAt(content, b.Offset)
	if !bytes.Equal(content, make([]byte, b.Size)) || b.Filesystem != FilesystemNone {
		t.Errorf("slot B is not empty (%s)", b.Filesystem)
	}
}

func TestReadMapGivesWhatWriteMade(t *testing.T) {
	needTools(t)
	for name, img := range map[string]*Image{
		"demo": demoImage(t),
		"fixed size": {Seed: "x", Layout: Layout{DiskSize: 40 * mib, Partitions: []Partition{
			{Name: "boot", Size: mib, Filesystem: FilesystemVFAT}, {Name: "d", Size: mib, Filesystem: FilesystemExt4, Label: "d", Grow: true},
		}}},
		"4096-byte sectors": {Seed: "x", Layout: Layout{SectorSize: 4096, Partitions: []Partition{
			{Name: "boot", Size: 64 * mib, Filesystem: FilesystemVFAT, Label: "B"}, {Name: "d_é𝄞", Size: mib, Filesystem: FilesystemExt4},
		}}},
		"raw": {Seed: "y", Layout: Layout{Alignment: 512, Partitions: []Partition{{Name: "x", Size: 512}, {Name: "y", Size: 1024, Type: "swap"}}}},
	} {
		path, want := write(t, img)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, _ := f.Stat()
		got, err := ReadMap(f, info.Size())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		stripped := *want
		stripped.Regions = nil
		for _, r := range want.Regions {
			if r.Kind != KindReserve { // a table does not know reserves
				stripped.Regions = append(stripped.Regions, r)
			}
		}
		if diff := cmp.Diff(&stripped, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Two builds at different times, in different folders, with different masks and time zones give the same bytes.
func TestReproducible(t *testing.T) {
	needTools(t)
	first, _ := write(t, demoImage(t))
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("LC_ALL", "C")
	t.Setenv("MKE2FS_CONFIG", "/dev/null")
	<-time.After(1100 * time.Millisecond) // ext4 has times in seconds, FAT in two of them
	second, _ := write(t, demoImage(t))
	if a, b := sum(t, first), sum(t, second); a != b {
		out, _ := exec.CommandContext(t.Context(), "cmp", "-l", first, second).Output()
		t.Errorf("the images differ:\n%.2000s", out)
	}
	if info, _ := os.Stat(second); info.Mode().Perm() != 0o644 {
		t.Errorf("the image has mode %v", info.Mode())
	}
	other := demoImage(t)
	other.Seed = "another"
	third, _ := write(t, other)
	if sum(t, first) == sum(t, third) {
		t.Error("the seed has no influence")
	}
}

// Without an epoch everything is of 1970, or of 1980 where FAT begins, and the checkers do not mind.
func TestZeroEpoch(t *testing.T) {
	needTools(t)
	tool(t, "e2fsck")
	tool(t, "fsck.vfat")
	img := demoImage(t)
	img.Epoch = time.Time{}
	path, m := write(t, img)
	data, _ := m.Find("data")
	run(t, "e2fsck", "-fn", extract(t, path, data))
	info, err := openRegion(t, path, m, "data").Stat("mender/device_type")
	if err != nil || info.ModTime().Unix() != 0 {
		t.Errorf("%v, %v", info.ModTime(), err)
	}
	esp, _ := m.Find("esp")
	vfat := extract(t, path, esp)
	run(t, "fsck.vfat", "-n", vfat)
	if out := run(t, "mdir", "-i", vfat, "::/"); strings.Contains(out, time.Now().UTC().Format("2006-01-02")) {
		t.Errorf("today's date is in the image:\n%s", out)
	}
}

// An ordinary user gets the bytes that root gets.
func TestReproducibleForOtherUsers(t *testing.T) {
	needTools(t)
	if os.Getuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	if path := os.Getenv("TWINKEEL_TEST_WRITE"); path != "" {
		if _, err := Write(t.Context(), path, demoImage(t)); err != nil {
			t.Fatal(err)
		}
		return
	}
	first, _ := write(t, demoImage(t))
	dir, err := os.MkdirTemp("", "imaging") //nolint:usetesting // nobody else may enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o777)
	binary := filepath.Join(dir, "imaging.test")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Skip(err)
	}
	os.WriteFile(binary, self, 0o755)
	second := filepath.Join(dir, "disk.img")
	cmd := exec.CommandContext(t.Context(), binary, "-test.run", "^TestWriteAsUser$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TWINKEEL_TEST_WRITE="+second, "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if sum(t, first) != sum(t, second) {
		t.Error("the images differ")
	}
}

// TestWriteAsUser is the child of TestReproducibleForOtherUsers.
func TestWriteAsUser(t *testing.T) {
	path := os.Getenv("TWINKEEL_TEST_WRITE")
	if path == "" {
		t.Skip("only run by TestReproducibleForOtherUsers")
	}
	if _, err := Write(t.Context(), path, demoImage(t)); err != nil {
		t.Fatal(err)
	}
}

func TestTooLarge(t *testing.T) {
	needTools(t)
	big := filepath.Join(t.TempDir(), "rootfs.ext4")
	os.WriteFile(big, make([]byte, 17*mib), 0o644)
	noise := make([]byte, 7*mib)
	rand.New(rand.NewSource(2)).Read(noise)
	for name, c := range map[string]struct {
		area    string
		content Content
	}{
		"file":               {"rootfs_a", Content{File: big}},
		"bytes":              {"boot", Content{Bytes: make([]byte, 64*kib+1)}},
		"tree, sum":          {"data", Content{Tree: []TreeFile{{Path: "x", Source: big}}}},
		"tree, with tables":  {"data", Content{Tree: []TreeFile{{Path: "x", Data: noise}}}},
		"vfat, with tables":  {"esp", Content{Tree: []TreeFile{{Path: "x", Data: append(bytes.Clone(noise), noise[:mib-kib]...)}}}},
		"directories galore": {"data", Content{Tree: manyDirs(2200)}},
	} {
		img := demoImage(t)
		img.Contents[c.area] = c.content
		dir := t.TempDir()
		_, err := Write(t.Context(), filepath.Join(dir, "disk.img"), img)
		var tl *TooLargeError
		if !errors.As(err, &tl) {
			t.Errorf("%s: %v, want a TooLargeError", name, err)
			continue
		}
		region, _ := mustMap(t, img).Find(c.area)
		for _, want := range []string{fmt.Sprintf("%q", c.area), FormatSize(region.Size), FormatSize(tl.Need)} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %s", name, err, want)
			}
		}
		onlyFile(t, dir)
	}
}

func manyDirs(n int) (tree []TreeFile) {
	for i := range n {
		tree = append(tree, TreeFile{Path: fmt.Sprintf("d%d", i), Mode: fs.ModeDir})
	}
	return tree
}

func mustMap(t testing.TB, img *Image) *Map {
	t.Helper()
	m, err := img.Map()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestContentRefused(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		os.WriteFile(path, data, 0o644)
		return path
	}
	squash := make([]byte, 8192)
	copy(squash, "hsqs")
	path, m := write(t, demoImage(t))
	a, _ := m.Find("rootfs_a")
	ext4, _ := os.ReadFile(extract(t, path, a))
	gzipped := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(b)
		w.Close()
		return out.Bytes()
	}
	for name, c := range map[string]struct {
		area    string
		content Content
		want    string
	}{
		"unknown area":      {"rootfs_c", Content{Bytes: []byte("x")}, "no partition or reserve of that name"},
		"two kinds":         {"data", Content{File: "x", Bytes: []byte("x")}, "more than one"},
		"tree in reserve":   {"boot", Content{Tree: []TreeFile{{Path: "x"}}}, "no file system to put files into"},
		"missing file":      {"rootfs_a", Content{File: filepath.Join(dir, "gone")}, "no such file"},
		"folder":            {"rootfs_a", Content{File: dir}, "not a regular file"},
		"other kind":        {"rootfs_a", Content{File: file("squash", squash)}, `is a squashfs file system, but the partition wants ext4`},
		"damaged gzip":      {"rootfs_a", Content{File: file("gz", []byte("\x1f\x8b\x08xxxxx"))}, "ends too early"},
		"compressed bytes":  {"rootfs_a", Content{Bytes: []byte("\x1f\x8b\x08xxxxx")}, "is compressed (gzip)"},
		"compressed text":   {"rootfs_a", Content{File: file("text.gz", gzipped([]byte("hello")))}, "no file system that is known here"},
		"other kind, gz":    {"rootfs_a", Content{File: file("squash.gz", gzipped(squash))}, "is a squashfs file system, but the partition wants ext4"},
		"unpacks to more":   {"rootfs_b", Content{File: file("more.gz", gzipped(append(bytes.Clone(ext4), make([]byte, mib)...)))}, "unpacks to more than the 16 MiB"},
		"file system large": {"data", Content{File: file("large.gz", gzipped(ext4))}, "does not fit into partition \"data\": it has 16 MiB"},
		"truncated in gz":   {"rootfs_a", Content{File: file("short.gz", gzipped(ext4[:8*mib]))}, "is truncated: it has 8 MiB"},
		"cut off gz":        {"rootfs_a", Content{File: file("cut.gz", gzipped(ext4)[:20_000])}, "ends too early"},
		"no file system":    {"rootfs_a", Content{File: file("text", []byte("hello"))}, "no file system that is known here"},
		"truncated":         {"rootfs_a", Content{File: file("short", ext4[:8*mib])}, "is truncated: it has 8 MiB (8388608 bytes), but its file system has 16 MiB (16777216 bytes)"},
		"path climbs":       {"data", Content{Tree: []TreeFile{{Path: "a\x00b"}}}, "not a path"},
		"listed twice":      {"data", Content{Tree: []TreeFile{{Path: "/a"}, {Path: "a/"}}}, "listed twice"},
		"case":              {"esp", Content{Tree: []TreeFile{{Path: "a"}, {Path: "A"}}}, "does not tell them apart"},
		"vfat character":    {"esp", Content{Tree: []TreeFile{{Path: "a:b"}}}, "vfat cannot store"},
		"vfat link":         {"esp", Content{Tree: []TreeFile{{Path: "a", Link: "b"}}}, "no symbolic links"},
		"vfat trailing dot": {"esp", Content{Tree: []TreeFile{{Path: "a."}}}, "does not keep"},
		"file as folder":    {"data", Content{Tree: []TreeFile{{Path: "a"}, {Path: "a/b"}}}, `"a" is not a directory`},
		"irregular":         {"data", Content{Tree: []TreeFile{{Path: "a", Mode: fs.ModeIrregular}}}, "no kind of file"},
		"device in vfat":    {"esp", Content{Tree: []TreeFile{{Path: "a", Mode: fs.ModeDevice}}}, "neither devices"},
		"no such device":    {"data", Content{Tree: []TreeFile{{Path: "a", Mode: fs.ModeDevice, Major: 4096}}}, "no device 4096:0"},
		"pipe with data":    {"data", Content{Tree: []TreeFile{{Path: "a", Mode: fs.ModeNamedPipe, Data: []byte("x")}}}, "has no content"},
		"dangling name":     {"data", Content{Tree: []TreeFile{{Path: "a", HardLink: "b"}}}, "is not among the files"},
		"name of a folder":  {"data", Content{Tree: []TreeFile{{Path: "a", HardLink: "b"}, {Path: "b", Mode: fs.ModeDir}}}, "is not among the files"},
		"unknown xattr":     {"data", Content{Tree: []TreeFile{{Path: "a", Xattrs: map[string]string{"os2.x": ""}}}}, `"os2.x"`},
		"odd xattr":         {"data", Content{Tree: []TreeFile{{Path: "a", Xattrs: map[string]string{"user.a\nquit": ""}}}}, "cannot be stored"},
		"large xattr":       {"data", Content{Tree: []TreeFile{{Path: "a", Xattrs: map[string]string{"user.a": strings.Repeat("x", 5000)}}}}, "too large"},
		"no such folder":    {"data", Content{Dir: filepath.Join(dir, "gone")}, "no such file"},
		"folder is a file":  {"data", Content{Dir: path}, "is not a directory"},
		"no such archive":   {"data", Content{Tar: filepath.Join(dir, "gone")}, "no such file"},
		"root of a tree":    {"data", Content{Tree: []TreeFile{{Path: "a"}}, RootOwned: true}, "only a directory or an archive"},
		"folder and file":   {"data", Content{Dir: dir, File: path}, "more than one"},
		"long name":         {"data", Content{Tree: []TreeFile{{Path: strings.Repeat("x", 256)}}}, "at most 255 bytes"},
		"two sources":       {"data", Content{Tree: []TreeFile{{Path: "a", Source: path, Data: []byte("x")}}}, "more than one of"},
		"missing source":    {"data", Content{Tree: []TreeFile{{Path: "a", Source: "/gone"}}}, "no such file"},
		"folder content":    {"data", Content{Tree: []TreeFile{{Path: "a", Mode: fs.ModeDir, Data: []byte("x")}}}, "a directory has no content"},
		"owner":             {"data", Content{Tree: []TreeFile{{Path: "a", UID: -1}}}, "the owner -1:0"},
	} {
		img := demoImage(t)
		img.Contents[c.area] = c.content
		dir := t.TempDir()
		_, err := Write(t.Context(), filepath.Join(dir, "disk.img"), img)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("%q", c.area)) {
			t.Errorf("%s: %v does not name the area", name, err)
		}
		onlyFile(t, dir)
	}
}

// "../x" is cleaned to "x" below the root: nothing leaves the staging folder.
func TestTreePathsStayInside(t *testing.T) {
	needTools(t)
	img := demoImage(t)
	img.Contents["data"] = Content{Tree: []TreeFile{{Path: "../../../../tmp/twinkeel-escaped", Data: []byte("x")}, {Path: "l", Link: "/tmp"}, {Path: "k"}}}
	path, m := write(t, img)
	e := openRegion(t, path, m, "data")
	if _, err := e.Stat("tmp/twinkeel-escaped"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/tmp/twinkeel-escaped"); err == nil {
		t.Error("a file was written outside")
	}
	// A link in the tree must not be written through on the host.
	img.Contents["data"] = Content{Tree: []TreeFile{{Path: "l", Link: t.TempDir()}, {Path: "l/x", Data: []byte("x")}}}
	if _, err := Write(t.Context(), filepath.Join(t.TempDir(), "disk.img"), img); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a file below a link: %v", err)
	}
}

func TestCancel(t *testing.T) {
	needTools(t)
	for _, after := range []int{0, 1, 3} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		img := demoImage(t)
		calls := 0
		img.Progress = func(int64, int64) {
			if calls++; calls > after {
				cancel()
			}
		}
		dir := t.TempDir()
		if _, err := Write(ctx, filepath.Join(dir, "disk.img"), img); !errors.Is(err, context.Canceled) {
			t.Errorf("after %d reports: %v", after, err)
		}
		onlyFile(t, dir)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if _, err := Write(ctx, filepath.Join(dir, "disk.img"), demoImage(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("before the start: %v", err)
	}
	onlyFile(t, dir)
}

func TestRelativePath(t *testing.T) {
	needTools(t)
	first, _ := write(t, demoImage(t))
	img := demoImage(t)
	t.Chdir(t.TempDir())
	os.Mkdir("out", 0o755)
	if _, err := Write(t.Context(), "out/disk.img", img); err != nil {
		t.Fatal(err)
	}
	onlyFile(t, "out", "disk.img")
	if sum(t, "out/disk.img") != sum(t, first) {
		t.Error("the images differ")
	}
}

func TestProgress(t *testing.T) {
	needTools(t)
	img := demoImage(t)
	var last, of int64
	img.Progress = func(done, total int64) {
		if done < last || done > total || (of != 0 && total != of) {
			t.Fatalf("from %d of %d to %d of %d", last, of, done, total)
		}
		last, of = done, total
	}
	write(t, img)
	if last != of || of == 0 {
		t.Errorf("ended at %d of %d", last, of)
	}
}

// A failure at any durable step leaves the old image and nothing else.
func TestFailedStepLeavesOldImage(t *testing.T) {
	img := &Image{Layout: Layout{Partitions: []Partition{{Name: "x", Size: mib}}}, Contents: map[string]Content{"x": {Bytes: []byte("new")}}}
	defer durable.SetHook(nil)
	for n := int64(1); ; n++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "disk.img")
		os.WriteFile(path, []byte("old"), 0o644)
		op := ""
		durable.SetHook(func(s durable.Step) error {
			if s.Number != n {
				return nil
			}
			op = s.Op
			return syscall.ENOSPC
		})
		_, err := Write(t.Context(), path, img)
		durable.SetHook(nil)
		if op == "" {
			if err != nil || n < 4 {
				t.Errorf("step %d: %v", n, err)
			}
			return
		}
		var se *SpaceError
		if !errors.As(err, &se) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want a SpaceError", op, err)
		}
		onlyFile(t, dir, "disk.img")
		if data, _ := os.ReadFile(path); string(data) != "old" && op != "fsync directory" {
			t.Errorf("%s: the old image is gone", op)
		}
	}
}

func TestMissingTool(t *testing.T) {
	saved := tools
	defer func() { tools = saved }()
	tools = []struct{ name, pkg string }{{"mke2fs-of-nowhere", "e2fsprogs"}}
	_, err := Write(t.Context(), filepath.Join(t.TempDir(), "x"), &Image{Layout: Layout{Partitions: []Partition{{Name: "d", Size: mib, Filesystem: "ext4"}}}})
	var te *ToolError
	if !errors.As(err, &te) || te.Hint() != "apt-get install e2fsprogs" {
		t.Errorf("%v, want a ToolError with the package", err)
	}
}

func allocated(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// Images of any size are sparse, also from a dense input, and offsets above 4 GiB are right.
func TestLargeSparse(t *testing.T) {
	dense := make([]byte, 8*mib)
	copy(dense[5*mib:], "in the middle")
	file := filepath.Join(t.TempDir(), "dense")
	os.WriteFile(file, dense, 0o644)
	img := &Image{
		Layout: Layout{Partitions: []Partition{
			{Name: "low", Size: 5 << 30}, {Name: "high", Size: 8 * mib}, {Name: "huge", Size: 3 << 40}, {Name: "last", Size: mib},
		}},
		Contents: map[string]Content{"high": {File: file}, "last": {Bytes: []byte("the end")}},
	}
	if testing.Short() {
		img.Layout.Partitions[2].Size = 5 << 30
	}
	start := time.Now()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.img")
	res, err := Write(t.Context(), path, img)
	if err != nil {
		t.Fatal(err)
	}
	m := res.Map
	if took := time.Since(start); took > time.Second {
		t.Errorf("an image that is nearly all holes took %v", took)
	}
	if got := allocated(t, path); got > 256*kib {
		t.Errorf("%d bytes are allocated", got)
	}
	f, _ := os.Open(path)
	defer f.Close()
	for name, want := range map[string]string{"high": "in the middle", "last": "the end"} {
		r, _ := m.Find(name)
		at := r.Offset
		if name == "high" {
			at += 5 * mib
		}
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, at); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v)", name, got, err)
		}
		if r.Offset < 5<<30 {
			t.Errorf("%s is at %d", name, r.Offset)
		}
	}
	if _, err := ReadMap(f, m.Size); err != nil {
		t.Error(err)
	}
	if _, err := findTool("sgdisk"); err == nil {
		if out := run(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
			t.Error(out)
		}
	}
}

// TestLargeDigests: digests and a block map of an image of any size cost what is in it.
func TestLargeDigests(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 3*windowSize/2)
	rand.New(rand.NewSource(1)).Read(noise)
	needTools(t)
	path := filepath.Join(t.TempDir(), "disk.img")
	img := &Image{
		Layout: Layout{Partitions: []Partition{
			{Name: "small", Size: mib}, {Name: "data", Size: 50 << 30, Filesystem: FilesystemExt4}, {Name: "rest", Size: 50 << 30},
		}},
		Contents: map[string]Content{"small": {Bytes: noise}, "rest": {Bytes: noise}}, Digests: true,
		Outputs: []Output{{Format: FormatBmap, Path: path + ".bmap"}},
	}
	start := time.Now()
	res, err := Write(t.Context(), path, img)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if res.SHA256 != "" || res.SparseSHA256 == "" || res.Outputs[0].SHA256 == "" {
		t.Errorf("%+v", res)
	}
	for _, a := range res.Areas {
		if (a.SHA256 == "") != (a.Name == "data") {
			t.Errorf("%+v", a)
		}
	}
	out, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if got, err := SparseSHA256(t.Context(), out); err != nil || got != res.SparseSHA256 {
		t.Errorf("%s, %v; Write says %s", got, err, res.SparseSHA256)
	}
}

// TestWholeDigests: who wants them gets them of large images and contents as well.
func TestWholeDigests(t *testing.T) {
	t.Parallel()
	content := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(content, bytes.Repeat([]byte("content "), int(mib)/4), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, whole := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "disk.img")
		res, err := Write(t.Context(), path, &Image{
			Layout:   Layout{Partitions: []Partition{{Name: "p", Size: 3 * mib}}},
			Contents: map[string]Content{"p": {File: content}}, Digests: true, WholeDigests: whole, digestLimit: mib,
		})
		if err != nil {
			t.Fatal(err)
		}
		if (res.SHA256 == sum(t, path)) != whole || (res.Areas[0].SHA256 == sum(t, content)) != whole || (res.SparseSHA256 == "") != whole {
			t.Errorf("whole %t: %+v", whole, res)
		}
	}
}

// TestSparseSHA256: it is that of the bytes, whether they are holes or not.
func TestSparseSHA256(t *testing.T) {
	t.Parallel()
	digest := func(change func(f *os.File) error) string {
		f, err := os.Create(filepath.Join(t.TempDir(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		err = errors.Join(f.Truncate(9*windowSize+100), change(f))
		sum, sumErr := SparseSHA256(t.Context(), f)
		if err = errors.Join(err, sumErr); err != nil {
			t.Fatal(err)
		}
		return sum
	}
	put := func(data []byte, off int64) func(f *os.File) error {
		return func(f *os.File) error { _, err := f.WriteAt(data, off); return err }
	}
	text := []byte("text")
	sparse := digest(put(text, 3*windowSize-2))
	dense := make([]byte, 9*windowSize+100)
	copy(dense[3*windowSize-2:], text)
	if digest(put(dense, 0)) != sparse {
		t.Error("a file without holes has another digest")
	}
	seen := map[string]string{}
	for name, change := range map[string]func(f *os.File) error{
		"empty":     func(*os.File) error { return nil },
		"text":      put(text, 3*windowSize-2),
		"moved":     put(text, 3*windowSize-1),
		"elsewhere": put(text, 4*windowSize-2),
		"at end":    put(text, 9*windowSize+96),
		"longer":    func(f *os.File) error { return f.Truncate(9*windowSize + 101) },
	} {
		sum := digest(change)
		if other := seen[sum]; other != "" {
			t.Errorf("%s and %s have the same digest", name, other)
		}
		seen[sum] = name
	}
}

func TestCopySparse(t *testing.T) {
	rnd := rand.New(rand.NewSource(4))
	for i := range 200 {
		size := rnd.Intn(40_000)
		data := make([]byte, size)
		for range rnd.Intn(5) {
			if size > 0 {
				from := rnd.Intn(size)
				rnd.Read(data[from:min(size, from+rnd.Intn(9000))])
			}
		}
		off := int64(rnd.Intn(10_000))
		var out sparseRecorder
		if err := copySparse(t.Context(), &out, off, bytes.NewReader(data), int64(size), func(int64) {}); err != nil {
			t.Fatal(err)
		}
		out.grow(int(off) + size)
		if !bytes.Equal(out.data[off:], data) {
			t.Fatalf("case %d: wrong content", i)
		}
	}
	if err := copySparse(t.Context(), &sparseRecorder{}, 0, strings.NewReader("ab"), 3, func(int64) {}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a short input gives %v", err)
	}
}

type sparseRecorder struct{ data []byte }

func (s *sparseRecorder) grow(n int) {
	if n > len(s.data) {
		s.data = append(s.data, make([]byte, n-len(s.data))...)
	}
}

func (s *sparseRecorder) WriteAt(b []byte, off int64) (int, error) {
	s.grow(int(off) + len(b))
	return copy(s.data[off:], b), nil
}

func openRegion(t testing.TB, path string, m *Map, name string) *Ext4 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r, _ := m.Find(name)
	e, err := OpenExt4(f, r.Offset, r.Size)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestBootCode: of a whole first sector, such as GRUB's boot.img, the boot code is taken and nothing of the table.
func TestBootCode(t *testing.T) {
	t.Parallel()
	layout := Layout{
		Table: TableMBR, Reserves: []Reserve{{Name: "code", Size: 440}}, Partitions: []Partition{{Name: "p", Size: mib}},
	}
	sector := bytes.Repeat([]byte("x"), 512)
	copy(sector[510:], "\x55\xaa")
	for name, c := range map[string]struct {
		file []byte
		size int64
		want string
	}{
		"whole sector":      {sector, 440, ""},
		"exact":             {sector[:440], 440, ""},
		"no sector":         {sector[:511], 440, "does not fit"},
		"not a boot sector": {bytes.Repeat([]byte("x"), 512), 440, "no boot sector"},
		"too long":          {sector, 400, "the boot code of "},
		"zeros behind":      {append(append(bytes.Repeat([]byte("x"), 400), make([]byte, 40)...), sector[440:]...), 400, ""},
	} {
		dir := t.TempDir()
		file, path := filepath.Join(dir, "boot.img"), filepath.Join(dir, "disk.img")
		os.WriteFile(file, c.file, 0o644)
		layout := layout
		layout.Reserves = []Reserve{{Name: "code", Size: c.size}}
		_, err := Write(t.Context(), path, &Image{Layout: layout, Contents: map[string]Content{"code": {File: file}}, Seed: "s"})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, _ := os.ReadFile(path)
		if !bytes.Equal(got[:c.size], c.file[:c.size]) || bytes.Contains(got[c.size:512], []byte("x")) {
			t.Errorf("%s: the first sector is %q", name, got[:512])
		}
	}
}
