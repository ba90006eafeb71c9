package imaging

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// capability is cap_net_raw+ep as the kernel stores it.
var capability = string([]byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})

// archive makes a tar of a small root file system, with what ordinary users cannot create.
func archive(t testing.TB, extra ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	old, late := time.Unix(1_600_000_000, 0), time.Unix(1_900_000_000, 0)
	put := func(h *tar.Header, content string) {
		t.Helper()
		h.Size = int64(len(content))
		if h.ModTime.IsZero() {
			h.ModTime = old
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
	}
	put(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 3}, "")
	put(&tar.Header{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	put(&tar.Header{Name: "./bin/ping", Mode: 0o755, Uid: 70_000, Gid: 5, PAXRecords: map[string]string{
		"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.long": strings.Repeat("long value ", 20),
	}}, "ELF")
	put(&tar.Header{Name: "./bin/su", Mode: 0o4755, ModTime: late}, "setuid")
	put(&tar.Header{Name: "./bin/sudo", Typeflag: tar.TypeLink, Linkname: "./bin/su"}, "")
	put(&tar.Header{Name: "./bin/doas", Typeflag: tar.TypeLink, Linkname: "bin/sudo"}, "")
	put(&tar.Header{Name: "./bin/sh", Typeflag: tar.TypeSymlink, Linkname: "../busybox"}, "")
	put(&tar.Header{Name: "./dev/console", Typeflag: tar.TypeChar, Mode: 0o600, Devmajor: 5, Devminor: 1}, "")
	put(&tar.Header{Name: "./dev/nvme", Typeflag: tar.TypeBlock, Mode: 0o660, Gid: 6, Devmajor: 259, Devminor: 70_000}, "")
	put(&tar.Header{Name: "./run/a \"pipe\"", Typeflag: tar.TypeFifo, Mode: 0o622}, "")
	put(&tar.Header{Name: "./tmp", Typeflag: tar.TypeDir, Mode: 0o1777}, "")
	put(&tar.Header{Name: "./tmp/with\"quotes' and spaces", Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}, "x")
	for _, h := range extra {
		put(h, "")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func treeImage(c Content) *Image {
	return &Image{
		Seed: "t", Epoch: time.Unix(1_700_000_000, 0), Layout: Layout{Partitions: []Partition{{Name: "root", Size: 40 * mib, Filesystem: FilesystemExt4}}},
		Contents: map[string]Content{"root": c},
	}
}

func TestTar(t *testing.T) {
	needTools(t)
	data := archive(t)
	dir := t.TempDir()
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(data)
	z.Close()
	e, _ := zstd.NewWriter(nil)
	var last string
	for name, content := range map[string][]byte{"x.tar": data, "x.tar.gz": gz.Bytes(), "x.tar.zst": e.EncodeAll(data, nil)} {
		file := filepath.Join(dir, name)
		os.WriteFile(file, content, 0o644)
		path, m := write(t, treeImage(Content{Tar: file, Tree: []TreeFile{{Path: "etc/more", Data: []byte("more")}, {Path: "tmp", Mode: fs.ModeDir | 0o700}}}))
		if got := sum(t, path); last != "" && got != last {
			t.Errorf("%s gives another image", name)
		} else {
			last = got
		}
		if name != "x.tar" {
			continue
		}
		r, _ := m.Find("root")
		image := extract(t, path, r)
		run(t, "e2fsck", "-fn", image)
		root := openRegion(t, path, m, "root")
		stat := func(name string) (fs.FileInfo, *Ext4Stat) {
			t.Helper()
			info, err := root.Lstat(name)
			if err != nil {
				t.Fatal(err)
			}
			return info, info.Sys().(*Ext4Stat)
		}
		for name, want := range map[string]string{
			".": "drwx--x--x 3:0 1600000000", "bin/ping": "-rwxr-xr-x 70000:5 1600000000", "bin/su": "urwxr-xr-x 0:0 1700000000",
			"dev/console": "Dcrw------- 0:0 1600000000", "dev/nvme": "Drw-rw---- 0:6 1600000000", `run/a "pipe"`: "prw--w--w- 0:0 1600000000",
			"tmp": "drwx------ 0:0 1700000000", "dev": "drwxr-xr-x 0:0 1700000000", "etc/more": "-rw-r--r-- 0:0 1700000000", "bin/sh": "Lrwxrwxrwx 0:0 1600000000",
		} {
			info, s := stat(name)
			if got := fmt.Sprintf("%v %d:%d %d", info.Mode(), s.UID, s.GID, info.ModTime().Unix()); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
		if _, s := stat("dev/nvme"); s.Major != 259 || s.Minor != 70_000 {
			t.Errorf("dev/nvme is %d:%d", s.Major, s.Minor)
		}
		_, su := stat("bin/su")
		_, doas := stat("bin/doas")
		if su.Inode != doas.Inode || su.Links != 3 {
			t.Errorf("bin/su and bin/doas are inodes %d and %d with %d names", su.Inode, doas.Inode, su.Links)
		}
		if b, err := root.ReadFile("bin/doas"); string(b) != "setuid" {
			t.Errorf("bin/doas holds %q, %v", b, err)
		}
		out := run(t, "debugfs", "-R", "ea_list /bin/ping", image)
		for _, want := range []string{"security.capability (20) = 01 00 00 02 00 20 00 00", "user.long (220)"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %s in %s", want, out)
			}
		}
		out = run(t, "debugfs", "-R", "stat /dev/nvme", image)
		if !regexp.MustCompile(`Type: block special\s[\s\S]*Device major/minor number: 259:70000`).MatchString(out) {
			t.Errorf("debugfs: %s", out)
		}
		if out := run(t, "debugfs", "-R", "ls -p /dev", image); !strings.Contains(out, "/020600/0/0/console/") {
			t.Errorf("debugfs: %s", out)
		}
	}
}

// The kernel sees in the mounted file system what the archive has.
func TestTarMounted(t *testing.T) {
	needTools(t)
	file := filepath.Join(t.TempDir(), "x.tar")
	os.WriteFile(file, archive(t), 0o644)
	path, m := write(t, treeImage(Content{Tar: file}))
	r, _ := m.Find("root")
	dir := t.TempDir()
	if out, err := command(t, "mount", "-o", "loop,ro", extract(t, path, r), dir); err != nil {
		t.Skipf("cannot mount: %s", out)
	}
	defer command(t, "umount", dir)
	value := make([]byte, 100)
	if n, err := unix.Getxattr(filepath.Join(dir, "bin/ping"), "security.capability", value); err != nil || string(value[:n]) != capability {
		t.Errorf("security.capability is %x, %v", value[:max(n, 0)], err)
	}
	var stat unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "dev/nvme"), &stat); err != nil || unix.Major(stat.Rdev) != 259 || unix.Minor(stat.Rdev) != 70_000 || stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		t.Errorf("%v: %+v", err, stat)
	}
	if n, err := unix.Getxattr(filepath.Join(dir, `tmp/with"quotes' and spaces`), "user.a", value); err != nil || string(value[:n]) != "b" {
		t.Errorf("user.a is %q, %v", value[:max(n, 0)], err)
	}
	if err := unix.Lstat(filepath.Join(dir, `run/a "pipe"`), &stat); err != nil || stat.Mode != unix.S_IFIFO|0o622 {
		t.Errorf("%v: mode %o", err, stat.Mode)
	}
}

func TestTarRefused(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	for name, c := range map[string]struct {
		extra *tar.Header
		want  string
	}{
		"outside":       {&tar.Header{Name: "../../etc/passwd"}, "leads out of the archive"},
		"absolute":      {&tar.Header{Name: "/etc/passwd"}, "leads out of the archive"},
		"link outside":  {&tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}, "leads out of the archive"},
		"through link":  {&tar.Header{Name: "bin/sh/x"}, "symbolic link"},
		"twice":         {&tar.Header{Name: "bin/ping"}, "listed twice"},
		"file as dir":   {&tar.Header{Name: "bin/ping/x"}, "is not a directory"},
		"dangling link": {&tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "nowhere"}, "not among the files"},
		"link to dir":   {&tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "tmp"}, "not among the files"},
		"device":        {&tar.Header{Name: "x", Typeflag: tar.TypeChar, Devmajor: 100_000}, "no device 100000:0"},
		"no archive":    {nil, "tar"},
	} {
		data := []byte("this is no archive at all")
		if c.extra != nil {
			data = archive(t, c.extra)
		}
		file := filepath.Join(t.TempDir(), "x.tar")
		os.WriteFile(file, data, 0o644)
		_, err := Write(t.Context(), filepath.Join(dir, "disk"), treeImage(Content{Tar: file}))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `"root"`) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		onlyFile(t, dir)
	}
	large := filepath.Join(t.TempDir(), "x.tar")
	os.WriteFile(large, archive(t), 0o644)
	img := treeImage(Content{Tar: large})
	img.Contents["root"] = Content{Tar: bomb(t)}
	if _, err := Write(t.Context(), filepath.Join(dir, "disk"), img); err == nil || !strings.Contains(err.Error(), "more than the 40 MiB") {
		t.Errorf("a bomb gives %v", err)
	}
	onlyFile(t, dir)
}

// bomb is an archive of 1 GiB of zeros in a megabyte.
func bomb(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bomb.tar.gz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, _ := gzip.NewWriterLevel(f, 1)
	w := tar.NewWriter(z)
	w.WriteHeader(&tar.Header{Name: "zeros", Size: 1 << 30})
	for range 1 << 10 {
		w.Write(make([]byte, mib))
	}
	w.Close()
	z.Close()
	return path
}

func TestDir(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "sub"), 0o750)
	os.WriteFile(filepath.Join(dir, "sub/file"), []byte("content"), 0o640)
	os.Link(filepath.Join(dir, "sub/file"), filepath.Join(dir, "name"))
	os.Symlink("sub/file", filepath.Join(dir, "link"))
	unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600)
	xattr := unix.Setxattr(filepath.Join(dir, "sub/file"), "user.kept", []byte("yes"), 0) == nil
	root := os.Getuid() == 0
	if root {
		os.Chown(filepath.Join(dir, "sub/file"), 1234, 99_999)
		os.Chmod(filepath.Join(dir, "sub/file"), 0o640)
		syscall.Mknod(filepath.Join(dir, "null"), syscall.S_IFCHR|0o666, 1<<8|3)
	}
	os.Chtimes(filepath.Join(dir, "sub/file"), time.Now(), time.Now())
	path, m := write(t, treeImage(Content{Dir: dir}))
	r, _ := m.Find("root")
	image := extract(t, path, r)
	run(t, "e2fsck", "-fn", image)
	e := openRegion(t, path, m, "root")
	info, err := e.Stat("name")
	if err != nil {
		t.Fatal(err)
	}
	s := info.Sys().(*Ext4Stat)
	if info.Mode() != 0o640 || s.Links != 2 || info.ModTime().Unix() != 1_700_000_000 || root && (s.UID != 1234 || s.GID != 99_999) {
		t.Errorf("%v %v %+v", info.Mode(), info.ModTime(), s)
	}
	if info, err := e.Stat("sub"); err != nil || info.Mode() != fs.ModeDir|0o750 {
		t.Errorf("%v, %v", info, err)
	}
	if info, err := e.Stat("pipe"); err != nil || info.Mode() != fs.ModeNamedPipe|0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if root {
		if info, err := e.Stat("null"); err != nil || info.Sys().(*Ext4Stat).Major != 1 || info.Sys().(*Ext4Stat).Minor != 3 {
			t.Errorf("%v, %v", info, err)
		}
	}
	if out := run(t, "debugfs", "-R", "ea_list /name", image); xattr && !strings.Contains(out, `user.kept (3) = "yes"`) {
		t.Error(out)
	}
	owned, m := write(t, treeImage(Content{Dir: dir, RootOwned: true}))
	info, _ = openRegion(t, owned, m, "root").Stat("name")
	if s := info.Sys().(*Ext4Stat); s.UID != 0 || s.GID != 0 {
		t.Errorf("owned by %d:%d, want root", s.UID, s.GID)
	}
	// The folder is untouched: its files got second names for a while, no more.
	if info, err := os.Stat(filepath.Join(dir, "sub/file")); err != nil || info.Sys().(*syscall.Stat_t).Nlink != 2 {
		t.Errorf("%v, %v", info, err)
	}
}

// Two entries with one source are two files, though the staging area has one.
func TestOneSourceTwice(t *testing.T) {
	needTools(t)
	source := filepath.Join(t.TempDir(), "x")
	os.WriteFile(source, []byte("x"), 0o644)
	path, m := write(t, treeImage(Content{Tree: []TreeFile{{Path: "a", Source: source}, {Path: "b", Source: source, Mode: 0o600}}}))
	e := openRegion(t, path, m, "root")
	a, _ := e.Stat("a")
	b, _ := e.Stat("b")
	if a.Sys().(*Ext4Stat).Inode == b.Sys().(*Ext4Stat).Inode || a.Mode() == b.Mode() {
		t.Errorf("%v and %v are one file", a, b)
	}
}

// A compressed file system ends up as its plain form does, in both slots, with a raw image and without.
func TestCompressedFile(t *testing.T) {
	needTools(t)
	plain, m := write(t, demoImage(t))
	r, _ := m.Find("rootfs_a")
	data, err := os.ReadFile(extract(t, plain, r))
	if err != nil {
		t.Fatal(err)
	}
	img := func(file string) *Image {
		img := demoImage(t)
		img.Contents["rootfs_a"], img.Contents["rootfs_b"] = Content{File: file}, Content{File: file}
		return img
	}
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "plain"), data, 0o644)
	want, res := writeAll(t, img(filepath.Join(dir, "plain")))
	raw := sum(t, filepath.Join(want, "disk.raw"))
	for name, pack := range map[string]func(io.Writer) io.WriteCloser{
		"gz":  func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"xz":  func(w io.Writer) io.WriteCloser { x, _ := xz.NewWriter(w); return x },
		"zst": func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z },
	} {
		var b bytes.Buffer
		w := pack(&b)
		w.Write(data)
		w.Close()
		file := filepath.Join(dir, "rootfs.ext4."+name)
		os.WriteFile(file, b.Bytes(), 0o644)
		path, m := write(t, img(file))
		if sum(t, path) != raw {
			t.Errorf("%s gives another image", name)
		}
		if b, _ := m.Find("rootfs_b"); b.FilesystemUUID != r.FilesystemUUID {
			t.Errorf("%s: the file system in slot B is %s", name, b.FilesystemUUID)
		}
		if allocated(t, path) > allocated(t, filepath.Join(want, "disk.raw"))*11/10 {
			t.Errorf("%s: %d bytes are allocated", name, allocated(t, path))
		}
		if name == "xz" {
			continue
		}
		all, got := writeAll(t, img(file))
		for _, f := range formats {
			if sum(t, filepath.Join(all, "disk."+f)) != sum(t, filepath.Join(want, "disk."+f)) {
				t.Errorf("%s: %s differs", name, f)
			}
		}
		if got.SHA256 != res.SHA256 || fmt.Sprint(got.Areas) != fmt.Sprint(res.Areas) {
			t.Errorf("%s: %v, want %v", name, got.Areas, res.Areas)
		}
		bmap := img(file)
		bmap.Outputs = []Output{{Format: FormatBmap, Path: filepath.Join(t.TempDir(), "x.bmap")}}
		if _, err := Write(t.Context(), "", bmap); err != nil {
			t.Fatal(err)
		}
		if sum(t, bmap.Outputs[0].Path) != sum(t, filepath.Join(want, "disk.bmap")) {
			t.Errorf("%s: the block map alone differs", name)
		}
		onlyFile(t, filepath.Dir(bmap.Outputs[0].Path), "x.bmap")
	}
	var tl *TooLargeError
	small := demoImage(t)
	small.Contents["data"] = Content{File: filepath.Join(dir, "rootfs.ext4.gz")}
	if _, err := Write(t.Context(), filepath.Join(t.TempDir(), "x"), small); !errors.As(err, &tl) || tl.Need != 16*mib {
		t.Errorf("%v, want a TooLargeError", err)
	}
}

// TestRootComesFirst: also before names that are as short as its own.
func TestRootComesFirst(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{{"a", "b", "c"}, {"a"}, {"-", "~", "!"}} {
		var tree []TreeFile
		for _, name := range names {
			tree = append(tree, TreeFile{Path: name})
		}
		for range 20 { // the order of a map
			if first := completeTree(tree)[0].Path; first != "." {
				t.Fatalf("%v: %q is first", names, first)
			}
		}
	}
}
