package imaging

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// mke2fs makes a file system of the folder with the given arguments.
func mke2fs(t testing.TB, folder, size string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs.img")
	run(t, "mke2fs", append(append([]string{"-q", "-F", "-d", folder}, args...), path, size)...)
	return path
}

func openExt4(t testing.TB, path string) *Ext4 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, _ := f.Stat()
	e, err := OpenExt4(f, 0, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// sampleFolder has holes, files of all block map depths, a directory of several blocks and links of both kinds.
func sampleFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	rnd := rand.New(rand.NewSource(5))
	noise := make([]byte, 3<<20)
	rnd.Read(noise)
	holes := make([]byte, 2<<20)
	for at := 0; at < len(holes); at += 70_000 {
		copy(holes[at:], noise[:300])
	}
	many := filepath.Join(dir, "many")
	os.MkdirAll(many, 0o755)
	for i := range 500 {
		os.WriteFile(filepath.Join(many, fmt.Sprintf("file-with-a-long-name-%04d", i)), fmt.Append(nil, i), 0o644)
	}
	for name, data := range map[string][]byte{"empty": {}, "small": []byte("x"), "large": noise, "holes": holes, "hole at end": append([]byte("x"), make([]byte, 99_999)...)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	os.Symlink("small", filepath.Join(dir, "short"))
	os.Symlink("/many/../large", filepath.Join(dir, "absolute"))
	os.Symlink(strings.Repeat("./", 40)+"small", filepath.Join(dir, "long"))
	os.Symlink("../../../small", filepath.Join(dir, "many", "up"))
	os.Symlink("loop", filepath.Join(dir, "loop"))
	return dir
}

// The reader sees what mke2fs was given, for every block size, with and without extents, checksums and 64-bit fields.
func TestExt4ReadsWhatMke2fsMade(t *testing.T) {
	tool(t, "mke2fs")
	folder := sampleFolder(t)
	for name, args := range map[string][]string{
		"ext4":           {"-t", "ext4"},
		"ext4, 1 KiB":    {"-t", "ext4", "-b", "1024"},
		"ext4, 4 KiB":    {"-t", "ext4", "-b", "4096", "-O", "64bit,metadata_csum"},
		"no checksums":   {"-t", "ext4", "-O", "^metadata_csum,^64bit"},
		"no flex groups": {"-t", "ext4", "-b", "1024", "-O", "^flex_bg,^resize_inode", "-g", "1024"},
		"ext3":           {"-t", "ext3", "-b", "1024"},
		"ext2":           {"-t", "ext2", "-b", "1024", "-I", "128"},
	} {
		e := openExt4(t, mke2fs(t, folder, "24M", args...))
		if err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, _ error) error {
			rel, _ := filepath.Rel(folder, path)
			info, _ := d.Info()
			got, err := e.Lstat(rel)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return nil
			}
			if got.Mode() != info.Mode() || (!d.IsDir() && got.Size() != info.Size()) {
				t.Errorf("%s: %s has mode %v and %d bytes, want %v and %d", name, rel, got.Mode(), got.Size(), info.Mode(), info.Size())
			}
			switch {
			case d.Type() == fs.ModeSymlink:
				want, _ := os.Readlink(path)
				if target, err := e.ReadLink(rel); target != want || err != nil {
					t.Errorf("%s: %s leads to %q (%v), want %q", name, rel, target, err, want)
				}
			case d.Type().IsRegular():
				want, _ := os.ReadFile(path)
				if data, err := e.ReadFile(rel); err != nil || !bytes.Equal(data, want) {
					t.Errorf("%s: %s has other content (%v)", name, rel, err)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if list, err := e.ReadDir("many"); err != nil || len(list) != 501 {
			t.Errorf("%s: %d entries, %v", name, len(list), err)
		}
		for link, want := range map[string]string{"short": "x", "long": "x", "many/up": "x"} {
			if data, err := e.ReadFile(link); err != nil || string(data) != want {
				t.Errorf("%s: %s reads %q, %v", name, link, data, err)
			}
		}
		if info, err := e.Stat("absolute"); err != nil || info.Size() != 3<<20 {
			t.Errorf("%s: an absolute link: %v", name, err)
		}
		if _, err := e.ReadFile("loop"); err == nil {
			t.Errorf("%s: a link to itself was read", name)
		}
		for _, missing := range []string{"nothing", "small/x", "many/nothing"} {
			if _, err := e.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s gives %v", name, missing, err)
			}
		}
	}
}

func TestExt4IsAnFS(t *testing.T) {
	needTools(t)
	path, m := write(t, demoImage(t))
	for _, name := range []string{"rootfs_a", "data"} {
		if err := fstest.TestFS(openRegion(t, path, m, name), "lost+found"); err != nil {
			t.Error(err)
		}
	}
}

// What Write puts into a file system is what the tree says, for our reader and for debugfs.
func TestTreeArrives(t *testing.T) {
	needTools(t)
	tool(t, "debugfs")
	img := demoImage(t)
	path, m := write(t, img)
	region, _ := m.Find("rootfs_a")
	e := openRegion(t, path, m, "rootfs_a")
	image := extract(t, path, region)
	field := regexp.MustCompile(`Mode:\s+(\d+)[\s\S]*User:\s+(\d+)\s+Group:\s+(\d+)`)
	for _, want := range completeTree(img.Contents["rootfs_a"].Tree) {
		info, err := e.Lstat(want.Path)
		if err != nil {
			t.Error(err)
			continue
		}
		stat := info.Sys().(*Ext4Stat)
		if info.Mode() != want.Mode && info.Mode().Type() == want.Mode.Type() && want.Path != "usr/bin/agent" {
			t.Errorf("%s has mode %v, want %v", want.Path, info.Mode(), want.Mode)
		}
		if int(stat.UID) != want.UID || int(stat.GID) != want.GID || !info.ModTime().Equal(img.Epoch) {
			t.Errorf("%s belongs to %d:%d and is of %v", want.Path, stat.UID, stat.GID, info.ModTime())
		}
		if strings.HasPrefix(want.Path, "var/lib/a-") || strings.ContainsRune(want.Path, '"') {
			continue // hundreds; debugfs cannot take a quote
		}
		out, _ := exec.CommandContext(t.Context(), tool(t, "debugfs"), "-R", fmt.Sprintf("stat %q", "/"+want.Path), image).Output()
		got := field.FindStringSubmatch(string(out))
		permissions := uint32(info.Mode().Perm())
		for mode, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSticky: 0o1000} {
			if info.Mode()&mode != 0 {
				permissions |= bit
			}
		}
		octal := fmt.Sprintf("%04o", permissions)
		if permissions > 0o777 {
			octal = fmt.Sprintf("%05o", permissions) // debugfs does that
		}
		if len(got) != 4 || got[1] != octal || got[2] != fmt.Sprint(want.UID) || got[3] != fmt.Sprint(want.GID) {
			t.Errorf("%s: debugfs says %q, want mode %s, owner %d:%d", want.Path, got, octal, want.UID, want.GID)
		}
		if n := strings.Count(string(out), fmt.Sprintf("0x%08x:00000000", img.Epoch.Unix())); n != 4 {
			t.Errorf("%s: %d of 4 times are the epoch:\n%s", want.Path, n, out)
		}
	}
	for _, want := range img.Contents["rootfs_a"].Tree {
		data := want.Data
		if want.Source != "" {
			data, _ = os.ReadFile(want.Source)
		}
		if want.Mode.IsDir() || want.Link != "" {
			continue
		}
		if got, err := e.ReadFile(clean(want.Path)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s has other content (%v)", want.Path, err)
		}
	}
	if info, _ := e.Lstat("usr/bin/agent"); info.Mode() != 0o755|fs.ModeSetuid {
		t.Errorf("set-uid program has mode %v", info.Mode())
	}
	if target, _ := e.ReadLink("sbin/short"); target != "init" {
		t.Errorf("link leads to %q", target)
	}
	if data, err := e.ReadFile("sbin/long"); err != nil || string(data) != "#!/bin/sh\n" {
		t.Errorf("long link: %q, %v", data, err)
	}
	// The torn superblock of a power cut must not stop a mount: no metadata checksums.
	out, _ := exec.CommandContext(t.Context(), tool(t, "debugfs"), "-R", "stats", image).Output()
	if strings.Contains(string(out), "metadata_csum") || !strings.Contains(string(out), "has_journal") {
		t.Errorf("features: %.600s", out)
	}
}

func TestOpenExt4Refuses(t *testing.T) {
	tool(t, "mke2fs")
	good, err := os.ReadFile(mke2fs(t, t.TempDir(), "2M", "-t", "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"nothing":     {func([]byte) []byte { return nil }, ErrDamaged},
		"zeros":       {func(b []byte) []byte { return make([]byte, len(b)) }, ErrDamaged},
		"truncated":   {func(b []byte) []byte { return b[:1<<20] }, ErrDamaged},
		"journal":     {func(b []byte) []byte { b[1024+0x60] |= 4; return b }, errors.ErrUnsupported},
		"inline data": {func(b []byte) []byte { b[1024+0x61] |= 0x80; return b }, errors.ErrUnsupported},
		"block size":  {func(b []byte) []byte { b[1024+0x18] = 200; return b }, ErrDamaged},
		"inode size":  {func(b []byte) []byte { le.PutUint16(b[1024+0x58:], 77); return b }, ErrDamaged},
		"inode count": {func(b []byte) []byte { le.PutUint32(b[1024+0x28:], 0); return b }, ErrDamaged},
		"block count": {func(b []byte) []byte { le.PutUint32(b[1024+4:], 1<<31); return b }, ErrDamaged},
		"inode table": {func(b []byte) []byte { le.PutUint32(b[2048+8:], 1<<31); return b }, ErrDamaged},
		"root is no dir": {func(b []byte) []byte {
			off := int(le.Uint32(b[2048+8:])) * 1024
			b[off+256+1] = 0x81
			return b
		}, ErrDamaged},
	} {
		b := c.change(bytes.Clone(good))
		if _, err := OpenExt4(bytes.NewReader(b), 0, int64(len(b))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := OpenExt4(bytes.NewReader(good), -1, 4096); err == nil {
		t.Error("a negative offset was accepted")
	}
}

// A directory that contains itself, or the root, or has two names for one directory, must not keep a walk busy.
func TestExt4Loops(t *testing.T) {
	tool(t, "mke2fs")
	folder := t.TempDir()
	os.MkdirAll(filepath.Join(folder, "a/b/c"), 0o755)
	os.MkdirAll(filepath.Join(folder, "a/d"), 0o755)
	good, _ := os.ReadFile(mke2fs(t, folder, "2M", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum"))
	e, err := OpenExt4(bytes.NewReader(good), 0, int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	number := func(name string) uint32 {
		info, err := e.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*Ext4Stat).Inode
	}
	for name, to := range map[string]uint32{"root": 2, "itself": number("a"), "parent's sibling": number("a/d"), "far away": 1 << 30} {
		bad := bytes.Clone(good)
		// Let the name "b" in a lead elsewhere.
		entry := append(binary.LittleEndian.AppendUint32(nil, number("a/b")), 12, 0, 1, 2, 'b')
		at := bytes.Index(bad, entry)
		if at < 0 {
			t.Fatal("directory entry not found")
		}
		binary.LittleEndian.PutUint32(bad[at:], to)
		e, err := OpenExt4(bytes.NewReader(bad), 0, int64(len(bad)))
		if err != nil {
			t.Fatal(err)
		}
		visits := 0
		err = fs.WalkDir(e, ".", func(_ string, _ fs.DirEntry, err error) error {
			if visits++; visits > 100 {
				t.Fatalf("%s: the walk does not end", name)
			}
			return err
		})
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", name, err)
		}
	}
}

// Random damage anywhere never panics, never takes long and never allocates without bounds.
func TestExt4Damage(t *testing.T) {
	tool(t, "mke2fs")
	rnd := rand.New(rand.NewSource(6))
	for _, args := range [][]string{{"-t", "ext4", "-O", "^metadata_csum"}, {"-t", "ext2"}} {
		good, _ := os.ReadFile(mke2fs(t, sampleFolder(t), "8M", append(args, "-b", "1024")...))
		rounds := 25
		if testing.Short() {
			rounds = 5
		}
		for range rounds {
			bad := bytes.Clone(good)
			for range 1 + rnd.Intn(200) {
				at := rnd.Intn(400 << 10) // where the metadata is
				if rnd.Intn(3) == 0 {
					binary.LittleEndian.PutUint32(bad[at&^3:], rnd.Uint32())
				} else {
					bad[at] = byte(rnd.Intn(256))
				}
			}
			walkHostile(t, bad)
		}
	}
}

func walkHostile(t *testing.T, image []byte) {
	t.Helper()
	start := time.Now()
	e, err := OpenExt4(bytes.NewReader(image), 0, int64(len(image)))
	if err != nil {
		return
	}
	visits := 0
	_ = fs.WalkDir(e, ".", func(path string, d fs.DirEntry, err error) error {
		if visits++; visits > 5000 {
			return fs.SkipAll
		}
		if err != nil {
			return nil
		}
		switch {
		case d.Type() == fs.ModeSymlink:
			_, _ = e.ReadLink(path)
			_, _ = e.Stat(path)
		case d.Type().IsRegular():
			if f, err := e.Open(path); err == nil {
				_, _ = io.CopyN(io.Discard, f, 4<<20)
				f.Close()
			}
		}
		return nil
	})
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

func FuzzExt4(f *testing.F) {
	if _, err := findTool("mke2fs"); err != nil {
		f.Skip(err)
	}
	folder := f.TempDir()
	os.MkdirAll(filepath.Join(folder, "sbin"), 0o755)
	os.WriteFile(filepath.Join(folder, "sbin/init"), []byte("#!/bin/sh"), 0o755)
	os.Symlink("sbin/init", filepath.Join(folder, "link"))
	var images [][]byte
	for _, args := range [][]string{{"-t", "ext4", "-O", "^metadata_csum,^has_journal"}, {"-t", "ext2"}} {
		image, _ := os.ReadFile(mke2fs(f, folder, "128k", append(args, "-b", "1024", "-N", "16")...))
		images = append(images, image)
	}
	// The input is a list of changes: fuzzing whole images would rarely hit anything.
	f.Add(uint8(0), []byte{})
	f.Add(uint8(1), []byte{0x04, 0x18, 0, 0xff})
	f.Add(uint8(0), []byte{0x08, 0x08, 0, 1, 0x14, 0x00, 0, 2})
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		image := bytes.Clone(images[int(which)%len(images)])
		for ; len(changes) >= 4; changes = changes[4:] {
			at := int(changes[0])<<8 | int(changes[1])
			if changes[2]&1 != 0 {
				at += 1 << 16
			}
			if at < len(image) {
				image[at] = changes[3]
			}
		}
		walkHostile(t, image)
	})
}
