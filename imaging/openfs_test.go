package imaging

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"
)

// mksquashfs makes a squashfs of the folder.
func mksquashfs(t testing.TB, folder string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs.squashfs")
	run(t, "mksquashfs", append([]string{folder, path, "-noappend", "-quiet", "-no-progress", "-processors", "1"}, args...)...)
	return path
}

// mkvfat makes a vfat of the folder's regular files and directories.
func mkvfat(t testing.TB, folder string, size int64, args ...string) string {
	t.Helper()
	tool(t, "mcopy")
	path := filepath.Join(t.TempDir(), "fs.vfat")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.vfat", append(args, "-n", "LABEL", path)...)
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		cmd := exec.CommandContext(t.Context(), tool(t, "mcopy"), "-s", "-m", "-i", path, filepath.Join(folder, e.Name()), "::/")
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC") // names and times are in its environment's terms
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("mcopy: %v\n%s", err, out)
		}
	}
	return path
}

func openImage(t testing.TB, path string) (fs.FS, string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	files, kind, err := OpenFilesystem(f, info.Size())
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	return files, kind
}

// plainFolder is what vfat can hold as well.
func plainFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	rnd := rand.New(rand.NewSource(7))
	noise := make([]byte, 300_000)
	rnd.Read(noise)
	for name, content := range map[string][]byte{
		"CONFIG.TXT": []byte("a=b\n"), "lower.txt": []byte("l"), "README": {}, "large.bin": noise, "zeros": make([]byte, 400_000),
		"d/A long name with blanks.txt": []byte("x"), "d/e/" + strings.Repeat("n", 200): []byte("deep"), "d/gr\u00fc\u00dfe \u03a9 \u6f22.txt": []byte("u"),
		"exact": noise[:4096], "exact128k": noise[:128<<10],
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Date(2024, 2, 29, 12, 34, 56, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 {
		if err := os.MkdirAll(filepath.Join(dir, "many"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "many", fmt.Sprintf("file-with-a-long-name-%03d", i)), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sameTree compares a file system with the folder that it was made of.
func sameTree(t *testing.T, files fs.FS, folder string, modes bool) {
	t.Helper()
	count := 0
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		count++
		rel, _ := filepath.Rel(folder, path)
		rel = filepath.ToSlash(rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		got, err := fs.Lstat(files, rel)
		if err != nil {
			t.Errorf("%s: %v", rel, err)
			return nil
		}
		if !d.IsDir() && got.Size() != info.Size() || got.Mode().Type() != info.Mode().Type() || modes && got.Mode() != info.Mode() {
			t.Errorf("%s: %v, %d bytes; want %v, %d", rel, got.Mode(), got.Size(), info.Mode(), info.Size())
		}
		if info.Mode().IsRegular() || modes {
			if diff := info.ModTime().Sub(got.ModTime()).Abs(); diff >= 2*time.Second {
				t.Errorf("%s: time %v, want %v", rel, got.ModTime(), info.ModTime())
			}
		}
		switch {
		case d.Type() == fs.ModeSymlink:
			want, _ := os.Readlink(path)
			if target, err := fs.ReadLink(files, rel); err != nil || target != want {
				t.Errorf("%s leads to %q, %v; want %q", rel, target, err, want)
			}
		case d.Type().IsRegular():
			want, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if data, err := fs.ReadFile(files, rel); err != nil || !bytes.Equal(data, want) {
				t.Errorf("%s has other content, %v", rel, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	if err := fs.WalkDir(files, ".", func(string, fs.DirEntry, error) error { found++; return nil }); err != nil || found != count {
		t.Errorf("%d names, %v; want %d", found, err, count)
	}
}

func TestVFATFilesystems(t *testing.T) {
	t.Parallel()
	needTools(t)
	folder := plainFolder(t)
	for name, test := range map[string]struct {
		size int64
		args []string
	}{
		"fat12":             {3 << 20, []string{"-F", "12"}},
		"fat16":             {20 << 20, []string{"-F", "16"}},
		"fat16, 4 KiB":      {64 << 20, []string{"-F", "16", "-S", "4096"}},
		"fat32":             {40 << 20, []string{"-F", "32", "-s", "1"}},
		"fat32, 8 sectors":  {300 << 20, []string{"-F", "32", "-s", "8"}},
		"one table":         {8 << 20, []string{"-f", "1"}},
		"by mkfs.vfat":      {300 << 20, nil},
		"fat12, 32 sectors": {16 << 20, []string{"-F", "12", "-s", "32"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, kind := openImage(t, mkvfat(t, folder, test.size, test.args...))
			if kind != FilesystemVFAT {
				t.Errorf("it is %s", kind)
			}
			sameTree(t, files, folder, false)
			if err := fstest.TestFS(files, "CONFIG.TXT", "d/A long name with blanks.txt"); err != nil {
				t.Error(err)
			}
			if b, err := fs.ReadFile(files, "config.TXT"); err != nil || string(b) != "a=b\n" {
				t.Errorf("a name in other case: %q, %v", b, err)
			}
		})
	}
}

func TestSquashfsFilesystems(t *testing.T) {
	t.Parallel()
	tool(t, "mksquashfs")
	folder := sampleFolder(t)
	if err := os.Chmod(filepath.Join(folder, "small"), 0o755|fs.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	plain := plainFolder(t)
	for name, args := range map[string][]string{
		"gzip":           {"-comp", "gzip"},
		"xz":             {"-comp", "xz", "-b", "1M"},
		"xz, small":      {"-comp", "xz", "-b", "4K"},
		"zstd":           {"-comp", "zstd"},
		"zstd 22":        {"-comp", "zstd", "-Xcompression-level", "22", "-b", "1M"},
		"lz4":            {"-comp", "lz4"},
		"lz4 hc":         {"-comp", "lz4", "-Xhc", "-b", "1M"},
		"stored":         {"-comp", "gzip", "-noI", "-noD", "-noF", "-noX"},
		"no fragments":   {"-comp", "gzip", "-no-fragments"},
		"only fragments": {"-comp", "gzip", "-always-use-fragments", "-no-duplicates", "-b", "4K"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, folder := range []string{folder, plain} {
				files, kind := openImage(t, mksquashfs(t, folder, args...))
				if kind != FilesystemSquashFS {
					t.Errorf("it is %s", kind)
				}
				sameTree(t, files, folder, true)
			}
			files, _ := openImage(t, mksquashfs(t, plain, args...))
			if err := fstest.TestFS(files, "CONFIG.TXT", "many/file-with-a-long-name-299"); err != nil {
				t.Error(err)
			}
			f, err := files.Open("large.bin")
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(plain, "large.bin"))
			if err != nil {
				t.Fatal(err)
			}
			if err := iotest.TestReader(f, want); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExt4Filesystem(t *testing.T) {
	t.Parallel()
	tool(t, "mke2fs")
	path := mke2fs(t, sampleFolder(t), "24M", "-t", "ext4")
	files, kind := openImage(t, path)
	if b, err := fs.ReadFile(files, "many/up"); err != nil || string(b) != "x" || kind != FilesystemExt4 {
		t.Errorf("%s: %q, %v", kind, b, err)
	}
	image := readImage(t, path)
	little.PutUint16(image[1024+0x58:], 77)
	if files, _, err := OpenFilesystem(bytes.NewReader(image), int64(len(image))); !errors.Is(err, ErrDamaged) || files != nil {
		t.Errorf("damaged: %v, %v", files, err)
	}
}

func TestSquashfsLinksAndDevices(t *testing.T) {
	t.Parallel()
	tool(t, "mksquashfs")
	files, _ := openImage(t, mksquashfs(t, sampleFolder(t), "-p", "dev d 755 0 0", "-p", "dev/null c 666 12 34 1 3", "-p", "dev/sda b 660 0 6 8 300",
		"-p", "dev/pipe i 600 0 0 f", "-p", "dev/sock i 600 0 0 s"))
	for name, want := range map[string]string{"short": "x", "long": "x", "many/up": "x"} {
		if b, err := fs.ReadFile(files, name); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if info, err := fs.Stat(files, "absolute"); err != nil || info.Size() != 3<<20 {
		t.Errorf("an absolute link: %v", err)
	}
	if _, err := fs.ReadFile(files, "loop"); err == nil {
		t.Error("a link to itself was read")
	}
	for name, want := range map[string]struct {
		mode fs.FileMode
		stat Ext4Stat
	}{
		"dev/null": {fs.ModeDevice | fs.ModeCharDevice | 0o666, Ext4Stat{Links: 1, UID: 12, GID: 34, Major: 1, Minor: 3}},
		"dev/sda":  {fs.ModeDevice | 0o660, Ext4Stat{Links: 1, GID: 6, Major: 8, Minor: 300}},
		"dev/pipe": {fs.ModeNamedPipe | 0o600, Ext4Stat{Links: 1}},
		"dev/sock": {fs.ModeSocket | 0o600, Ext4Stat{Links: 1}},
	} {
		info, err := fs.Lstat(files, name)
		if err != nil {
			t.Error(err)
			continue
		}
		stat := *info.Sys().(*Ext4Stat)
		stat.Inode = 0
		if info.Mode() != want.mode || stat != want.stat {
			t.Errorf("%s: %v %+v, want %v %+v", name, info.Mode(), stat, want.mode, want.stat)
		}
		if _, err := files.Open(name); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
}

func TestOpenFilesystemNames(t *testing.T) {
	t.Parallel()
	at := func(off int, magic string) []byte {
		b := make([]byte, 128<<10)
		copy(b[off:], magic)
		return b
	}
	for name, test := range map[string]struct {
		image      []byte
		kind, want string
	}{
		"nothing":   {nil, "", "no file system that is known"},
		"zeros":     {make([]byte, 8192), "", "no file system that is known"},
		"gzip":      {at(0, "\x1f\x8b"), "gzip", "decompress it first"},
		"erofs":     {at(1024, "\xe2\xe1\xf5\xe0"), FilesystemEROFS, "it is erofs"},
		"btrfs":     {at(0x10040, "_BHRfS_M"), "btrfs", "it is btrfs"},
		"UBI":       {at(0, "UBI#"), "a UBI image", "it is a UBI image"},
		"disk":      {at(512, "EFI PART"), "a disk with a partition table (GPT)", "partition table"},
		"squash 3":  {at(0, "hsqs"+strings.Repeat("\x00", 24)+"\x03\x00"), FilesystemSquashFS, "version 3.0"},
		"squash lz": {at(0, "hsqs\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x03\x00\x11\x00\x00\x00\x01\x00\x04\x00\x00\x00"+"\x60\x00\x00\x00\x00\x00\x00\x00"+"\x00\x01\x00\x00\x00\x00\x00\x00"+strings.Repeat("\x80\x00\x00\x00\x00\x00\x00\x00", 6)), FilesystemSquashFS, "lzo"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, kind, err := OpenFilesystem(bytes.NewReader(test.image), int64(len(test.image)))
			if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), test.want) || kind != test.kind {
				t.Errorf("%q, %v; want %q, %q", kind, err, test.kind, test.want)
			}
		})
	}
}

// TestVFATLoops: what points back at itself ends, and is refused.
func TestVFATLoops(t *testing.T) {
	t.Parallel()
	needTools(t)
	folder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "file"), make([]byte, 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(mkvfat(t, folder, 1<<20, "-F", "12", "-s", "1"))
	if err != nil {
		t.Fatal(err)
	}
	entry := func(b []byte, name string) []byte {
		i := bytes.Index(b, []byte(name))
		if i < 0 {
			t.Fatalf("no %q", name)
		}
		return b[i : i+32]
	}
	for name, change := range map[string]func(b []byte){
		"directory in itself":   func(b []byte) { copy(entry(b, "B          ")[26:], entry(b, "A          ")[26:28]) },
		"directory in no place": func(b []byte) { little.PutUint16(entry(b, "A          ")[26:], 1) },
		"file too long":         func(b []byte) { little.PutUint32(entry(b, "FILE       ")[28:], 1<<31) },
		"chain too short":       func(b []byte) { little.PutUint32(entry(b, "FILE       ")[28:], 20_000) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bytes.Clone(good)
			change(b)
			files, _, err := OpenFilesystem(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			err = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					_, err = fs.ReadFile(files, path)
				}
				return err
			})
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("%v, want ErrDamaged", err)
			}
		})
	}
}

// walkImage reads whatever an image holds, which must end soon.
func walkImage(t *testing.T, image []byte) {
	t.Helper()
	start := time.Now()
	files, _, err := OpenFilesystem(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return
	}
	visits := 0
	_ = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if visits++; visits > 2000 {
			return fs.SkipAll
		}
		if err != nil {
			return nil
		}
		switch {
		case d.Type() == fs.ModeSymlink:
			_, _ = fs.ReadLink(files, path)
			_, _ = fs.Stat(files, path)
		case d.Type().IsRegular():
			if f, err := files.Open(path); err == nil {
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

func smallFolder(t testing.TB) string {
	t.Helper()
	folder := t.TempDir()
	for name, content := range map[string]string{"sbin/init": "#!/bin/sh", "etc/a rather long name": strings.Repeat("text ", 2000), "zeros": strings.Repeat("\x00", 9000)} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func readImage(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func vfatSeeds(t testing.TB) [][]byte {
	t.Helper()
	folder := smallFolder(t)
	return [][]byte{
		readImage(t, mkvfat(t, folder, 64<<10, "-F", "12", "-s", "1")),
		readImage(t, mkvfat(t, folder, 2200<<10, "-F", "16", "-s", "1")),
		smallFAT32(t),
	}
}

// smallFAT32 is smaller than mtools takes FAT32 to be: a directory in cluster 3 with a file in clusters 5 and 4.
func smallFAT32(t testing.TB) []byte {
	t.Helper()
	b := readImage(t, mkvfat(t, t.TempDir(), 256<<10, "-F", "32", "-s", "1"))
	table := int64(little.Uint16(b[14:])) * 512
	for cluster, next := range map[int64]uint32{3: 0x0fffffff, 4: 0x0ffffff8, 5: 4} {
		little.PutUint32(b[table+4*cluster:], next)
	}
	data := table + int64(b[16])*int64(little.Uint32(b[36:]))*512
	entry := func(at int64, name string, attributes byte, cluster uint16, size uint32) {
		copy(b[at:], name)
		b[at+11] = attributes
		little.PutUint16(b[at+26:], cluster)
		little.PutUint32(b[at+28:], size)
	}
	entry(data+32, "DIR        ", 0x10, 3, 0) // behind the label
	entry(data+512, "FILE    TXT", 0x20, 5, 700)
	copy(b[data+3*512:], strings.Repeat("a", 512))
	copy(b[data+2*512:], strings.Repeat("b", 188))
	return b
}

func TestSmallFAT32(t *testing.T) {
	t.Parallel()
	needTools(t)
	image := smallFAT32(t)
	files, _, err := OpenFilesystem(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := fs.ReadFile(files, "DIR/FILE.TXT"); err != nil || string(b) != strings.Repeat("a", 512)+strings.Repeat("b", 188) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func squashSeeds(t testing.TB) [][]byte {
	t.Helper()
	folder := smallFolder(t)
	if err := os.Symlink("sbin/init", filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	var images [][]byte
	for _, args := range [][]string{
		{"-noI", "-noD", "-noF"}, {"-comp", "gzip"}, {"-comp", "xz"}, {"-comp", "zstd"}, {"-comp", "lz4"}, {"-noI", "-no-fragments", "-b", "4K"},
	} {
		images = append(images, readImage(t, mksquashfs(t, folder, append(args, "-nopad")...)))
	}
	return images
}

// TestFilesystemDamage changes bytes at random where they matter.
func TestFilesystemDamage(t *testing.T) {
	t.Parallel()
	needTools(t)
	tool(t, "mksquashfs")
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	rnd := rand.New(rand.NewSource(8))
	for _, good := range append(vfatSeeds(t), squashSeeds(t)...) {
		for range rounds {
			bad := bytes.Clone(good)
			for range 1 + rnd.Intn(20) {
				at := rnd.Intn(min(len(bad), 64<<10))
				if rnd.Intn(3) == 0 {
					at = rnd.Intn(96)
				}
				bad[at] = byte(rnd.Intn(256))
			}
			walkImage(t, bad)
		}
	}
}

// fuzzImages fuzzes lists of changes: whole images would rarely hit anything.
func fuzzImages(f *testing.F, images [][]byte) {
	f.Helper()
	for i := range images {
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), []byte{0, 12, 0, 255, 0, 40, 0, 1})
	}
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		image := bytes.Clone(images[int(which)%len(images)])
		for ; len(changes) >= 4; changes = changes[4:] {
			if at := int(changes[2]&1)<<16 | int(changes[0])<<8 | int(changes[1]); at < len(image) {
				image[at] = changes[3]
			}
		}
		walkImage(t, image)
	})
}

func FuzzVFAT(f *testing.F) {
	if err := CheckTools(); err != nil {
		f.Skip(err)
	}
	fuzzImages(f, vfatSeeds(f))
}

func FuzzSquashFS(f *testing.F) {
	if _, err := findTool("mksquashfs"); err != nil {
		f.Skip(err)
	}
	fuzzImages(f, squashSeeds(f))
}
