package pipeline

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeFS is a file system whose files are as large as a test says without having content.
type fakeFS map[string]fakeFile

type fakeFile struct {
	size int64  // of the file when data is shorter
	data string // the beginning of it
	link string
}

// fake makes a file system below /p, the directory of the pipelines under test. Directories are made as needed.
func fake(files map[string]fakeFile) fakeFS {
	out := fakeFS{"/": {}}
	for name, f := range files {
		full := path.Join("/p", name)
		out[full] = f
	}
	return out
}

func (f fakeFS) isDir(name string) bool {
	if _, ok := f[name]; ok && name != "/" {
		return false
	}
	for n := range f {
		if strings.HasPrefix(n, strings.TrimSuffix(name, "/")+"/") {
			return true
		}
	}
	return false
}

func (f fakeFS) Stat(name string) (fs.FileInfo, error) {
	if f.isDir(name) {
		return fakeInfo{path.Base(name), 0, fs.ModeDir | 0o755}, nil
	}
	file, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	if file.link != "" {
		return f.Stat(path.Join(path.Dir(name), file.link))
	}
	return fakeInfo{path.Base(name), max(file.size, int64(len(file.data))), 0o644}, nil
}

func (f fakeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if !f.isDir(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	var names []string
	for n := range f {
		if rest, ok := strings.CutPrefix(n, strings.TrimSuffix(name, "/")+"/"); ok && rest != "" {
			first, _, _ := strings.Cut(rest, "/")
			names = append(names, first)
		}
	}
	slices.Sort(names)
	var out []fs.DirEntry
	for _, n := range slices.Compact(names) {
		mode := fs.FileMode(0o644)
		if f.isDir(path.Join(name, n)) {
			mode = fs.ModeDir | 0o755
		}
		out = append(out, fs.FileInfoToDirEntry(fakeInfo{n, 0, mode}))
	}
	return out, nil
}

func (f fakeFS) ReadLink(name string) (string, error) {
	if file := f[name]; file.link != "" {
		return file.link, nil
	}
	return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
}

func (f fakeFS) Open(name string) (io.ReadCloser, error) {
	file, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if file.link != "" {
		return f.Open(path.Join(path.Dir(name), file.link))
	}
	zeros := io.LimitReader(zeroReader{}, max(0, file.size-int64(len(file.data))))
	return io.NopCloser(io.MultiReader(strings.NewReader(file.data), zeros)), nil
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

type fakeInfo struct {
	name string
	size int64
	mode fs.FileMode
}

func (i fakeInfo) Name() string       { return i.name }
func (i fakeInfo) Size() int64        { return i.size }
func (i fakeInfo) Mode() fs.FileMode  { return i.mode }
func (i fakeInfo) ModTime() time.Time { return time.Unix(0, 0) }
func (i fakeInfo) IsDir() bool        { return i.mode.IsDir() }
func (i fakeInfo) Sys() any           { return nil }

// ext4 is the beginning of an ext4 file system, as far as anybody looks.
var ext4 = string(bytes.Repeat([]byte{0}, 1080)) + "\x53\xef" + string(bytes.Repeat([]byte{0}, 2048))

func gzipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text)) // a buffer takes everything
	_ = w.Close()
	return b.String()
}

// superblock is ext4 with a number of blocks of 1 KiB.
func superblock(blocks uint32) string {
	b := []byte(ext4)
	binary.LittleEndian.PutUint32(b[1024+4:], blocks)
	return string(b)
}

// ubifsSuper is the beginning of a UBIFS with a number of blocks of 126976 bytes.
func ubifsSuper(blocks uint32) string {
	b := make([]byte, 4096)
	le := binary.LittleEndian
	le.PutUint32(b, 0x06101831)
	b[20] = 6
	le.PutUint32(b[36:], 126_976)
	le.PutUint32(b[40:], blocks)
	return string(b)
}

// The beginnings of programs and kernels, as far as anybody looks.

func header(size int) string { return string(make([]byte, size)) }

// patch puts texts at offsets of another.
func patch(text string, at ...any) string {
	b := []byte(text)
	for i := 0; i < len(at); i += 2 {
		copy(b[at[i].(int):], at[i+1].(string))
	}
	return string(b)
}

func elfHeader(machine byte) string {
	return patch(header(64), 0, "\x7fELF\x02\x01\x01", 16, "\x02\x00"+string([]byte{machine, 0}))
}

func efiHeader(machine uint16) string {
	return patch(header(256), 0, "MZ", 0x3c, "\x80", 0x80, "PE\x00\x00"+string([]byte{byte(machine), byte(machine >> 8)}))
}

// bootSector is that of a bzImage of 64 bits, which is also an EFI program.
var bootSector = patch(header(1024), 0, "MZ", 0x1fe, "\x55\xaaXXHdrS\x0f\x02", 0x236, "\x01")

// world is what the pipelines of the tests find.
func world() fakeFS {
	return fake(map[string]fakeFile{
		"good.ext4":     {size: 60 << 20, data: ext4},
		"other.ext4":    {size: 60 << 20, data: ext4},
		"big.ext4":      {size: 70<<20 + 512, data: ext4},
		"empty.ext4":    {},
		"root.squashfs": {size: 1 << 20, data: "hsqs"},
		"cut.ext4":      {size: 50 << 20, data: superblock(60 << 10)},
		"noise.ext4":    {size: 50 << 20, data: "noise"},
		"squashfs.gz":   {data: gzipped("hsqs" + header(4096))},
		"large.ext4.gz": {data: gzipped(superblock(100 << 10))},
		"kernel.gz":     {data: gzipped("kernel")},
		"tree/file":     {data: "x"},
		"boot.img":      {size: 512},
		"root.ubifs":    {size: 100 * 126_976, data: ubifsSuper(100)},
		"big.ubifs":     {size: 400 * 126_976, data: ubifsSuper(400)},
		"env.txt":       {data: "bootcmd=boot\n"},
		"core.img":      {size: 30 << 10},
		"large/a/file":  {size: 5 << 20},

		"amd64.elf":     {data: elfHeader(62)},
		"videocore.elf": {data: elfHeader(137)},
		"amd64.efi":     {data: efiHeader(0x8664)},
		"arm64.Image":   {size: 1 << 20, data: patch(efiHeader(0xaa64), 0x38, "ARM\x64")},
		"riscv.Image":   {size: 1 << 20, data: patch(efiHeader(0x5064), 0x20, "\x02", 0x38, "RSC\x05")},
		"bzImage":       {size: 1 << 20, data: bootSector},
		"amd64.uImage":  {data: patch(header(64), 0, "\x27\x05\x19\x56", 29, "\x18")},

		"deploy/x86/demo-image-qemux86-64.rootfs.ext4":       {size: 60 << 20, data: ext4},
		"deploy/leads-out/demo-image-qemux86-64.rootfs.ext4": {link: "../../good.ext4"},
		"deploy/x86/bzImage":                                 {size: 1 << 20, data: bootSector},
		"esp/EFI/boot/bootx64.efi":                           {data: "MZ"},

		"deploy/new/demo-image-qemux86-64.rootfs-20260101000000.ext4": {size: 50 << 20, data: ext4},
		"deploy/new/demo-image-qemux86-64.rootfs-20260202000000.ext4": {size: 60 << 20, data: ext4},
		"deploy/new/demo-image-qemux86-64.rootfs.ext4":                {link: "demo-image-qemux86-64.rootfs-20260202000000.ext4"},
		"deploy/new/demo-image-qemux86-64.rootfs.manifest":            {data: "busybox core2_64 1.36.1\nopenssl core2_64 3.2.0\n"},
		"deploy/new/demo-image-qemux86-64.rootfs.testdata.json":       {data: `{"MACHINE":"qemux86-64","DISTRO_VERSION":"5.0.1","KERNEL_IMAGETYPE":"bzImage","IMAGE_BOOT_FILES":"bzImage boot.scr;boot/boot.scr overlays/*.dtbo;overlays/","X":{"y":1}}`},
		"deploy/new/bzImage": {link: "bzImage--6.6-r0-qemux86-64-20260202000000.bin"},
		"deploy/new/bzImage--6.6-r0-qemux86-64-20260202000000.bin": {data: "kernel"},
		"deploy/new/boot.scr":        {data: "script"},
		"deploy/new/overlays/a.dtbo": {data: "a"},
		"deploy/new/overlays/b.dtbo": {data: "b"},
		"deploy/new/overlays/README": {data: "text"},

		"deploy/old/demo-image-qemux86-64-20220101000000.rootfs.ext4":     {size: 40 << 20, data: ext4},
		"deploy/old/demo-image-qemux86-64-20220303000000.rootfs.ext4":     {size: 41 << 20, data: ext4},
		"deploy/old/demo-image-qemux86-64-20220303000000.rootfs.manifest": {data: "busybox core2-64 1.35.0\n"},
		"deploy/old/demo-image-qemux86-64-20220303000000.testdata.json":   {data: `{"MACHINE":"qemux86-64","DISTRO_VERSION":"4.0"}`},
		"deploy/old/zImage-qemux86-64.bin":                                {data: "kernel"},

		"deploy/compressed/demo-image-qemux86-64.rootfs.ext4.zst": {size: 1 << 20},
		"deploy/dangling/demo-image-qemux86-64.rootfs.ext4":       {link: "demo-image-qemux86-64.rootfs-20260101000000.ext4"},
		"deploy/liar/demo-image-qemux86-64.rootfs.ext4":           {size: 1 << 20, data: ext4},
		"deploy/liar/demo-image-qemux86-64.rootfs.testdata.json":  {data: `{"MACHINE":"beaglebone"}`},
	})
}

// at makes a pipeline believe that it lives in /p.
func (p *Pipeline) at(dir string) *Pipeline {
	p.dir = dir
	return p
}

// write makes a directory with the given files.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := writeFile(path.Join(dir, name), text); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
