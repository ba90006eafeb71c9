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
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// outputsImage has two slots of one file with holes, zeros in files, a reserve and an odd tail, without any tool.
func outputsImage(t testing.TB, dense bool) *Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.img")
	data := make([]byte, 9*mib+5*blockSize)
	rnd := rand.New(rand.NewSource(7))
	rnd.Read(data[:mib+100])
	for range 20 {
		at := rnd.Intn(len(data) - 20_000)
		rnd.Read(data[at : at+rnd.Intn(20_000)])
	}
	for i := 5 * mib; i < 6*mib; i++ {
		data[i] = 0xff
	}
	copy(data[len(data)-3:], "end")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if dense {
		f.Write(data)
	} else if err := copySparse(t.Context(), f, 0, bytes.NewReader(data), int64(len(data)), func(int64) {}); err != nil {
		t.Fatal(err)
	}
	return &Image{
		Seed: "outputs",
		Layout: Layout{
			Reserves: []Reserve{{Name: "env", Offset: 4 * mib, Size: 128 * kib}},
			Partitions: []Partition{
				{Name: "a", Size: 12 * mib, Slot: "a"},
				{Name: "b", Size: 12 * mib, Slot: "b"},
				{Name: "empty", Size: 40 * mib},
				{Name: "tail", Size: 3 * mib},
			},
		},
		Contents: map[string]Content{
			"env": {Bytes: []byte("env")}, "a": {File: path}, "b": {File: path}, "tail": {Bytes: bytes.Repeat([]byte("x"), int(3*mib))},
		},
		Digests: true,
	}
}

// everything asks for all formats in dir.
func everything(dir string) (outputs []Output) {
	for _, f := range formats[1:] {
		o := Output{Format: f, Path: filepath.Join(dir, "disk."+f)}
		if f == FormatXZ {
			o.Level = 1 // frames of 1 MiB, of which a test has more than one
		}
		outputs = append(outputs, o)
	}
	return outputs
}

func writeAll(t testing.TB, img *Image) (string, *Result) {
	t.Helper()
	dir := t.TempDir()
	img.Outputs = everything(dir)
	res, err := Write(t.Context(), filepath.Join(dir, "disk.raw"), img)
	if err != nil {
		t.Fatal(err)
	}
	return dir, res
}

// TestKnownDigest: what the caller knows of a file is taken over, of a compressed one not.
func TestKnownDigest(t *testing.T) {
	t.Parallel()
	told := strings.Repeat("0123456789abcdef", 4)
	img := outputsImage(t, true)
	file := img.Contents["a"].File
	img.Contents["a"] = Content{File: file, SHA256: told}
	_, res := writeAll(t, img)
	for _, a := range res.Areas {
		if (a.SHA256 == told) != (a.Name == "a" || a.Name == "b") { // the same file
			t.Errorf("%+v", a)
		}
	}

	whole := filepath.Join(t.TempDir(), "fs.ext4")
	run(t, "mke2fs", "-q", "-t", "ext4", whole, "8M")
	run(t, "gzip", "-k", whole)
	img = &Image{
		Layout:   Layout{Partitions: []Partition{{Name: "fs", Size: 8 * mib, Filesystem: FilesystemExt4}}},
		Contents: map[string]Content{"fs": {File: whole + ".gz", SHA256: told}}, Digests: true,
	}
	if _, res = writeAll(t, img); res.Areas[0].SHA256 != sum(t, whole) {
		t.Errorf("%+v", res.Areas)
	}
}

func TestOutputs(t *testing.T) {
	t.Parallel()
	dir, res := writeAll(t, outputsImage(t, false))
	raw, err := os.ReadFile(filepath.Join(dir, "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("plain write gives the same image", func(t *testing.T) {
		img := outputsImage(t, true)
		img.Digests = false
		path, _ := write(t, img)
		if sum(t, path) != res.SHA256 {
			t.Error("the images differ")
		}
	})
	t.Run("digests", func(t *testing.T) {
		if got := fmt.Sprintf("%x", sha256.Sum256(raw)); got != res.SHA256 || int64(len(raw)) != res.Size {
			t.Errorf("the image has %s and %d bytes, the result says %s and %d", got, len(raw), res.SHA256, res.Size)
		}
		var names []string
		for _, a := range res.Areas {
			r, _ := res.Map.Find(a.Name)
			if got := fmt.Sprintf("%x", sha256.Sum256(raw[r.Offset:r.Offset+a.Size])); got != a.SHA256 {
				t.Errorf("%s: %s, want %s", a.Name, got, a.SHA256)
			}
			names = append(names, a.Name)
		}
		if diff := cmp.Diff([]string{"a", "env", "b", "tail"}, names); diff != "" && !slices.Equal(names, []string{"env", "a", "b", "tail"}) {
			t.Error(diff)
		}
		for _, o := range res.Outputs {
			info, err := os.Stat(o.Path)
			if err != nil || info.Size() != o.Size || sum(t, o.Path) != o.SHA256 {
				t.Errorf("%+v: %v", o, err)
			}
		}
		if len(res.Outputs) != len(formats)-1 {
			t.Errorf("%d outputs", len(res.Outputs))
		}
	})
	for format, open := range map[string]func(io.Reader) (io.Reader, error){
		FormatGzip: func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		FormatXZ:   func(r io.Reader) (io.Reader, error) { return xz.NewReader(r) },
		FormatZstd: func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) },
	} {
		t.Run(format, func(t *testing.T) {
			f, err := os.Open(filepath.Join(dir, "disk."+format))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			r, err := open(f)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%v, %d bytes", err, len(got))
			}
		})
	}
	for _, c := range [][]string{{"gzip", "-t", FormatGzip}, {"xz", "-t", FormatXZ}, {"zstd", "-qt", FormatZstd}} {
		t.Run(c[0], func(t *testing.T) { run(t, c[0], c[1], filepath.Join(dir, "disk."+c[2])) })
	}
	t.Run("simg2img", func(t *testing.T) {
		out := filepath.Join(dir, "from-android")
		defer os.Remove(out)
		run(t, "simg2img", filepath.Join(dir, "disk.android-sparse"), out)
		if sum(t, out) != res.SHA256 {
			t.Error("simg2img makes another image")
		}
	})
	t.Run("qemu-img", func(t *testing.T) {
		path := filepath.Join(dir, "disk.qcow2")
		if out := run(t, "qemu-img", "check", path); !strings.Contains(out, "No errors were found") {
			t.Error(out)
		}
		if out := run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, filepath.Join(dir, "disk.raw")); !strings.Contains(out, "Images are identical") {
			t.Error(out)
		}
	})
	t.Run("bmaptool", func(t *testing.T) {
		tool(t, "bmaptool")
		out := filepath.Join(dir, "from-bmap")
		defer os.Remove(out)
		run(t, "bmaptool", "-q", "copy", "--bmap", filepath.Join(dir, "disk.bmap"), filepath.Join(dir, "disk.zst"), out)
		if sum(t, out) != res.SHA256 {
			t.Error("bmaptool makes another image")
		}
	})
	var names []string
	for _, f := range formats {
		names = append(names, "disk."+f)
	}
	slices.Sort(names)
	onlyFile(t, dir, names...)
}

// The same bytes come out whatever the input's density, the host's file system, the number of cores and the other outputs.
func TestOutputsReproducible(t *testing.T) {
	dir, _ := writeAll(t, outputsImage(t, false))
	want := make(map[string]string)
	for _, f := range formats {
		want[f] = sum(t, filepath.Join(dir, "disk."+f))
	}
	check := func(name, dir string) {
		t.Helper()
		for _, f := range formats {
			if path := filepath.Join(dir, "disk."+f); want[f] != sum(t, path) {
				t.Errorf("%s: %s differs", name, f)
			}
		}
	}
	old := runtime.GOMAXPROCS(1)
	one, _ := writeAll(t, outputsImage(t, true))
	runtime.GOMAXPROCS(old)
	check("dense, one core", one)
	memory := t.TempDir()
	if err := syscall.Mount("tmpfs", memory, "tmpfs", 0, "size=200m"); err == nil {
		defer syscall.Unmount(memory, 0)
		img := outputsImage(t, true)
		img.Outputs = everything(memory)
		if _, err := Write(t.Context(), filepath.Join(memory, "disk.raw"), img); err != nil {
			t.Fatal(err)
		}
		check("tmpfs", memory)
		if a, b := allocated(t, filepath.Join(memory, "disk.raw")), allocated(t, filepath.Join(dir, "disk.raw")); a > b+b/50 || b > a+a/50 {
			t.Errorf("%d bytes are allocated on tmpfs and %d elsewhere", a, b)
		}
	}
	alone := t.TempDir()
	for _, o := range everything(alone) { // without a raw image
		img := outputsImage(t, false)
		img.Digests, img.Outputs = false, []Output{o}
		if _, err := Write(t.Context(), "", img); err != nil {
			t.Fatal(err)
		}
		if want[o.Format] != sum(t, o.Path) {
			t.Errorf("alone: %s differs", o.Format)
		}
	}
	entries, _ := os.ReadDir(alone)
	if len(entries) != len(formats)-1 {
		t.Errorf("%v", entries)
	}
}

// flash does what a flasher does: copy what is mapped, touch nothing else. It returns the bytes it wrote.
func flash(t testing.TB, dir string, medium []byte) (written int64) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "disk.bmap"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := ParseBmap(f)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.Open(filepath.Join(dir, "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, r := range b.Ranges {
		off, n := b.Extent(r)
		if _, err := raw.ReadAt(medium[off:off+n], off); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(medium[off:off+n])); got != r.Checksum {
			t.Fatalf("range %d-%d has %s, the map says %s", r.First, r.Last, got, r.Checksum)
		}
		written += n
	}
	return written
}

// A used medium keeps its bytes wherever the map has nothing. All that anybody reads there must be the image's all the same:
// file systems that are clean and hold the same files, environments, tables, and no signature of what was there before.
func TestFlashOverUsedMedium(t *testing.T) {
	needTools(t)
	img := demoImage(t)
	img.Digests = true
	hole := make([]byte, 3*mib) // zeros inside a file that are not holes to mke2fs
	copy(hole[mib:], "middle")
	zeros := filepath.Join(t.TempDir(), "zeros")
	os.WriteFile(zeros, hole, 0o644)
	esp, root := img.Contents["esp"], img.Contents["rootfs_a"]
	esp.Tree = append(esp.Tree, TreeFile{Path: "zeros", Source: zeros})
	root.Tree = append(root.Tree, TreeFile{Path: "zeros", Data: bytes.Repeat([]byte{0, 0, 0, 0}, 300_000)})
	img.Contents["esp"], img.Contents["rootfs_a"] = esp, root
	dir, res := writeAll(t, img)
	medium := bytes.Repeat([]byte{0xa5}, int(res.Size))
	written := flash(t, dir, medium)
	if written != res.Mapped || written > res.Size*2/3 {
		t.Errorf("%d of %d bytes were written, the result says %d", written, res.Size, res.Mapped)
	}
	path := filepath.Join(t.TempDir(), "medium")
	os.WriteFile(path, medium, 0o644)
	raw := filepath.Join(dir, "disk.raw")
	for _, name := range []string{"rootfs_a", "data"} {
		r, _ := res.Map.Find(name)
		run(t, "e2fsck", "-fn", extract(t, path, r))
		if diff := cmp.Diff(listing(t, openRegion(t, raw, res.Map, name)), listing(t, openRegion(t, path, res.Map, name))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	r, _ := res.Map.Find("esp")
	vfat := extract(t, path, r)
	run(t, "fsck.vfat", "-n", vfat)
	out := filepath.Join(t.TempDir(), "zeros")
	run(t, "mcopy", "-i", vfat, "::/zeros", out)
	if sum(t, out) != sum(t, zeros) {
		t.Error("the zeros of a file in vfat are not zeros any more")
	}
	if b, _ := res.Map.Find("rootfs_b"); !bytes.Equal(medium[b.Offset:b.Offset+mib], make([]byte, mib)) {
		t.Error("the head of the empty slot is what was there before")
	}
	f, _ := os.Open(path)
	defer f.Close()
	want, _ := os.Open(raw)
	defer want.Close()
	a, err := ReadMap(f, res.Size)
	b, err2 := ReadMap(want, res.Size)
	if diff := cmp.Diff(b, a); diff != "" || err != nil || err2 != nil {
		t.Errorf("%v, %v: %s", err, err2, diff)
	}
}

// listing is every file of a file system with its content's digest.
func listing(t testing.TB, e *Ext4) map[string]string {
	t.Helper()
	all := make(map[string]string)
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := e.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range entries {
			name := filepath.Join(dir, d.Name())
			info, err := d.Info()
			if err != nil {
				t.Fatal(err)
			}
			all[name] = fmt.Sprint(info.Mode(), info.ModTime(), info.Sys())
			switch {
			case d.IsDir():
				walk(name)
			case info.Mode().IsRegular():
				data, err := e.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				all[name] += fmt.Sprintf(" %x", sha256.Sum256(data))
			}
		}
	}
	walk(".")
	if len(all) < 2 {
		t.Fatal("hardly any files")
	}
	return all
}

// The journal and the tables of every kind of ext4 are mapped, also when their groups have no bitmap yet.
func TestMustMapExt4(t *testing.T) {
	t.Parallel()
	tool(t, "mke2fs")
	for name, args := range map[string][]string{
		"default":     {"-t", "ext4"},
		"1 KiB":       {"-t", "ext4", "-b", "1024"},
		"no flex_bg":  {"-t", "ext4", "-O", "^flex_bg,^metadata_csum", "-g", "8192"},
		"ext2":        {"-t", "ext2"},
		"no sparse":   {"-t", "ext3", "-O", "^sparse_super,^resize_inode", "-g", "4096"},
		"bigalloc":    {"-t", "ext4", "-O", "bigalloc,^resize_inode"},
		"64bit, lazy": {"-t", "ext4", "-O", "64bit", "-E", "lazy_itable_init=1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "fs")
			src := t.TempDir()
			os.WriteFile(filepath.Join(src, "zeros"), make([]byte, 700_000), 0o644)
			os.WriteFile(filepath.Join(src, "text"), []byte("text"), 0o644)
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			os.Truncate(path, 200*mib)
			run(t, "mke2fs", append(append([]string{"-q", "-F", "-d", src}, args...), path)...)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			medium := bytes.Repeat([]byte{0xa5}, int(200*mib))
			var mapped int64
			known, err := usedBlocks(f, 200*mib, func(start, end int64) {
				if _, err := f.ReadAt(medium[start:end], start); err != nil {
					t.Fatal(err)
				}
				mapped += end - start
			})
			if err != nil {
				t.Fatal(err)
			}
			if known != (name != "bigalloc") || known && mapped > 60*mib {
				t.Errorf("known %v, %d bytes are in use", known, mapped)
			}
			if !known {
				return
			}
			copy(medium, make([]byte, 1024)) // the boot block, which every partition's head has
			used := filepath.Join(t.TempDir(), "used")
			os.WriteFile(used, medium, 0o644)
			run(t, "e2fsck", "-fn", used)
			u, _ := os.Open(used)
			defer u.Close()
			e, err := OpenExt4(u, 0, 200*mib)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := e.ReadFile("text"); string(b) != "text" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

// Damage makes the map larger, never smaller, and panics nowhere.
func FuzzUsedBlocks(f *testing.F) {
	for _, args := range [][]string{{"mke2fs", "-q", "-F", "-t", "ext4"}, {"mkfs.vfat"}, {"mkfs.vfat", "-F", "32"}} {
		path := filepath.Join(f.TempDir(), "fs")
		os.WriteFile(path, nil, 0o644)
		os.Truncate(path, mib)
		if name, err := findTool(args[0]); err == nil {
			if exec.Command(name, append(args[1:], path)...).Run() == nil {
				data, _ := os.ReadFile(path)
				f.Add(data[:96*kib])
			}
		}
	}
	squash := make([]byte, 4096)
	copy(squash, "hsqs")
	f.Add(squash)
	f.Fuzz(func(t *testing.T, data []byte) {
		// Behind the data are zeros, so that small inputs describe file systems of some size.
		whole := make([]byte, max(mib, int64(len(data))))
		copy(whole, data)
		calls := 0
		_, err := usedBlocks(sliceReader(whole), int64(len(whole)), func(start, end int64) {
			if calls++; start < 0 || end < start || calls > 1<<22 {
				t.Fatalf("%d to %d, %d calls", start, end, calls)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestBlockSet(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewSource(5))
	for range 30 {
		const blocks = 3 * 4096 * 3
		s, want := newBlockSet(), make([]bool, blocks+4096)
		for range rnd.Intn(40) {
			start := rnd.Int63n(blocks * blockSize)
			end := min(start+rnd.Int63n(1<<uint(rnd.Intn(26)+1)), blocks*blockSize)
			s.add(start, end)
			for b := start / blockSize; b*blockSize < end; b++ {
				want[b] = true
			}
		}
		for b := range int64(blocks) {
			if got := s.word(b/64)>>(b%64)&1 == 1; got != want[b] {
				t.Fatalf("block %d: %v", b, got)
			}
		}
	}
	if newBlockSet().word(9) != 0 || (*blockSet)(nil).word(9) != 0 {
		t.Error("an empty set has blocks")
	}
}

// A map of any image is bounded: behind many ranges, short gaps are mapped.
func TestBmapBounded(t *testing.T) {
	t.Parallel()
	const patience = 1 << 10
	m := &Map{Size: 40 * patience * blockSize}
	b := newBmapper(m, nil, nil)
	b.patience = patience
	data := make([]byte, windowSize)
	var nonzero uint64
	for i := range 32 {
		data[2*i*blockSize] = 1
		nonzero |= 1 << (2 * i)
	}
	h := sha256.New()
	for off := int64(0); off < m.Size; off += windowSize {
		if err := b.put(&window{off: off, size: windowSize, data: data, nonzero: nonzero}); err != nil {
			t.Fatal(err)
		}
		h.Write(data)
	}
	b.finish()
	if err := b.out.check(); err != nil {
		t.Fatal(err)
	}
	if n := len(b.out.Ranges); n < patience || n > patience+200 {
		t.Errorf("%d ranges", n)
	}
	last := b.out.Ranges[len(b.out.Ranges)-2]
	_, n := b.out.Extent(last)
	hh := sha256.New()
	for range n / windowSize {
		hh.Write(data)
	}
	if last.Last-last.First+1 > maxRangeBlocks {
		t.Errorf("a range of %d blocks", last.Last-last.First+1)
	}
	if n%windowSize == 0 && last.First%64 == 0 && hex.EncodeToString(hh.Sum(nil)) != last.Checksum {
		t.Error("a range with mapped gaps has a wrong checksum")
	}
}

func TestOutputsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, c := range map[string]struct {
		raw     string
		outputs []Output
		change  func(*Image)
		want    string
	}{
		"nothing":        {"", nil, nil, "without a path"},
		"unknown format": {"", []Output{{Format: "vhd", Path: path("x")}}, nil, `"vhd"`},
		"no path":        {"", []Output{{Format: FormatZstd}}, nil, "no path"},
		"one file twice": {path("x"), []Output{{Format: FormatZstd, Path: path("x")}}, nil, "both raw and zst"},
		"level":          {"", []Output{{Format: FormatXZ, Path: path("x"), Level: 10}}, nil, "level 10"},
		"level of bmap":  {"", []Output{{Format: FormatBmap, Path: path("x"), Level: 1}}, nil, "level 1"},
		"android, odd": {"", []Output{{Format: FormatAndroidSparse, Path: path("x")}}, func(i *Image) {
			i.Layout = Layout{Alignment: 512, Partitions: []Partition{{Name: "x", Size: 512}}}
			i.Contents = nil
		}, "blocks of 4096"},
		"android, huge": {"", []Output{{Format: FormatAndroidSparse, Path: path("x")}}, func(i *Image) {
			i.Layout.Partitions[2].Size = 17 << 40
		}, "cannot describe"},
		"qcow2, huge": {"", []Output{{Format: FormatQcow2, Path: path("x")}}, func(i *Image) { i.Layout.Partitions[2].Size = 65 << 40 }, "cannot describe"},
	} {
		img := outputsImage(t, false)
		img.Outputs = c.outputs
		if c.change != nil {
			c.change(img)
		}
		_, err := Write(t.Context(), c.raw, img)
		var oe *OutputError
		if !errors.As(err, &oe) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	onlyFile(t, dir)
}

// What belongs to others inside a reserve is left to them, whether the content is copied or streamed.
func TestReserveWithHoles(t *testing.T) {
	t.Parallel()
	loader := make([]byte, 600*kib)
	rand.New(rand.NewSource(11)).Read(loader)
	file := filepath.Join(t.TempDir(), "loader")
	os.WriteFile(file, loader, 0o644)
	for name, content := range map[string]Content{"bytes": {Bytes: loader}, "file": {File: file}} {
		for _, digests := range []bool{false, true} {
			img := &Image{
				Layout: Layout{
					Reserves: []Reserve{
						{Name: "loader", Size: mib, Holes: []Span{{Offset: 440, Size: 17*kib - 440}, {Offset: 100 * kib, Size: 16 * kib}}},
						{Name: "env", Offset: 100 * kib, Size: 16 * kib},
					},
					Partitions: []Partition{{Name: "x", Size: mib}},
				},
				Contents: map[string]Content{"loader": content, "env": {Bytes: []byte("environment")}}, Digests: digests,
			}
			path, m := write(t, img)
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			env := append([]byte("environment"), make([]byte, 16*kib-11)...)
			if !bytes.Equal(got[:440], loader[:440]) || !bytes.Equal(got[17*kib:100*kib], loader[17*kib:100*kib]) ||
				!bytes.Equal(got[100*kib:116*kib], env) || !bytes.Equal(got[116*kib:600*kib], loader[116*kib:]) {
				t.Errorf("%s, digests %v: wrong content", name, digests)
			}
			if found, err := ReadMap(bytes.NewReader(got), m.Size); err != nil || found.Damaged != "" {
				t.Errorf("%s, digests %v: %v, %+v", name, digests, err, found)
			}
		}
	}
}

// Interrupted at any report of progress, or with a disk that is full, nothing is left, whatever was asked for.
func TestOutputsInterrupted(t *testing.T) {
	for after := 1; after < 60; after += 7 {
		ctx, cancel := context.WithCancel(t.Context())
		dir := t.TempDir()
		img := outputsImage(t, false)
		img.Outputs = everything(dir)
		n := 0
		img.Progress = func(int64, int64) {
			if n++; n == after {
				cancel()
			}
		}
		_, err := Write(ctx, filepath.Join(dir, "disk.raw"), img)
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after %d reports: %v", after, err)
		}
		onlyFile(t, dir)
	}
}

func TestOutputsFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	defer syscall.Unmount(dir, 0)
	for _, o := range append(everything(dir), Output{Format: FormatRaw, Path: filepath.Join(dir, "disk.raw")}) {
		if o.Format == FormatBmap {
			continue // a few kilobytes
		}
		img := outputsImage(t, false)
		img.Outputs = []Output{o, {Format: FormatBmap, Path: filepath.Join(dir, "x.bmap")}}
		noise := make([]byte, 12*mib)
		rand.New(rand.NewSource(9)).Read(noise)
		img.Contents["a"] = Content{Bytes: noise}
		_, err := Write(t.Context(), "", img)
		var se *SpaceError
		if !errors.As(err, &se) || !strings.Contains(err.Error(), o.Path) {
			t.Errorf("%s: %v, want a SpaceError", o.Format, err)
		}
		onlyFile(t, dir)
	}
}

// A source that changes while it is read makes no image: its digests would not be the image's.
func TestChangedSource(t *testing.T) {
	t.Parallel()
	for _, digests := range []bool{false, true} {
		img := outputsImage(t, false)
		img.Digests = digests
		file := img.Contents["a"].File
		changed := false
		img.Progress = func(done, _ int64) {
			if done > 6*mib && !changed {
				changed = true
				os.WriteFile(file, []byte("short"), 0o644)
			}
		}
		dir := t.TempDir()
		_, err := Write(t.Context(), filepath.Join(dir, "x"), img)
		if err == nil {
			t.Errorf("digests %v: no error", digests)
		}
		onlyFile(t, dir)
	}
}
