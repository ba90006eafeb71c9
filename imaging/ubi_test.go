package imaging

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func nand() *UBI {
	return &UBI{PEB: 128 * kib, Page: 2048, Blocks: 1024, Seed: "x", Epoch: time.Unix(1_700_000_000, 0)}
}

func TestLEB(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ peb, page, sub, want int64 }{
		{128 * kib, 2048, 0, 126_976}, {128 * kib, 2048, 512, 129_024}, {64 * kib, 1, 0, 64*kib - 128}, {16 * kib, 512, 256, 15_872}, {256 * kib, 4096, 0, 253_952},
	} {
		if got := (&UBI{PEB: c.peb, Page: c.page, SubPage: c.sub}).LEB(); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// readUBI reads an image back as a kernel would: both headers of each block with their checksums, and the data of volumes.
func readUBI(t *testing.T, u *UBI, image []byte) map[uint32][]byte {
	t.Helper()
	be := binary.BigEndian
	volumes := make(map[uint32][]byte)
	sub := max(u.SubPage, 1)
	if u.SubPage == 0 {
		sub = u.Page
	}
	if int64(len(image))%u.PEB != 0 {
		t.Fatalf("%d bytes are no whole blocks", len(image))
	}
	for at := int64(0); at < int64(len(image)); at += u.PEB {
		block := image[at : at+u.PEB]
		vidAt, dataAt := int64(be.Uint32(block[16:])), int64(be.Uint32(block[20:]))
		if string(block[:4]) != "UBI#" || ^crc32.ChecksumIEEE(block[:60]) != be.Uint32(block[60:]) {
			t.Fatalf("block %d has no valid first header", at/u.PEB)
		}
		if vidAt != alignUp(ubiHeader, sub) || u.PEB-dataAt != u.LEB() {
			t.Fatalf("headers at %d, data at %d", vidAt, dataAt)
		}
		vid := block[vidAt:]
		if string(vid[:4]) != "UBI!" || ^crc32.ChecksumIEEE(vid[:60]) != be.Uint32(vid[60:]) {
			t.Fatalf("block %d has no valid second header", at/u.PEB)
		}
		volume, lnum, size := be.Uint32(vid[8:]), int64(be.Uint32(vid[12:])), int64(be.Uint32(vid[20:]))
		data := block[dataAt:]
		if vid[5] == 2 { // static: the header says how many bytes, and their checksum
			if data = data[:size]; ^crc32.ChecksumIEEE(data) != be.Uint32(vid[32:]) {
				t.Errorf("block %d of volume %d: wrong checksum", lnum, volume)
			}
		}
		if volume < 1000 && lnum*u.LEB() != int64(len(volumes[volume])) {
			t.Errorf("block %d of volume %d is out of order", lnum, volume)
		}
		volumes[volume] = append(volumes[volume], data...)
	}
	return volumes
}

func TestWriteUBI(t *testing.T) {
	tool(t, "ubinize")
	tool(t, "mkfs.ubifs")
	dir, out := t.TempDir(), t.TempDir()
	os.MkdirAll(filepath.Join(dir, "etc"), 0o755)
	os.WriteFile(filepath.Join(dir, "etc/os-release"), []byte("ID=demo\n"), 0o644)
	for _, name := range []string{"a", "m", "z"} {
		os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644)
	}
	squash := filepath.Join(t.TempDir(), "a file with spaces")
	os.WriteFile(squash, bytes.Repeat([]byte("rootfs"), 50_000), 0o644)
	for _, sub := range []int64{0, 512} {
		image := func() []byte {
			u := nand()
			u.SubPage = sub
			u.Volumes = []UBIVolume{
				{Name: "rootfsa", Content: Content{File: squash}, Size: mib},
				{Name: "rootfsb", Size: mib},
				{Name: "data", Filesystem: FilesystemUBIFS, Content: Content{Dir: dir}, Size: 8 * mib, Autoresize: true},
				{Name: "u-boot-env-1", Content: Content{Bytes: []byte("env")}, Static: true},
			}
			path := filepath.Join(out, "disk.ubi")
			if _, err := WriteUBI(t.Context(), path, u); err != nil {
				t.Fatal(err)
			}
			onlyFile(t, out, "disk.ubi")
			b, _ := os.ReadFile(path)
			return b
		}
		first := image()
		<-time.After(1100 * time.Millisecond)
		now := time.Now()
		os.Chtimes(filepath.Join(dir, "etc/os-release"), now, now)
		for _, name := range []string{"z", "a", "m"} { // with other numbers than before
			os.Rename(filepath.Join(dir, name), filepath.Join(dir, name+".old"))
			os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644)
			os.Remove(filepath.Join(dir, name+".old"))
		}
		if !bytes.Equal(first, image()) {
			t.Errorf("sub-pages of %d: the images differ", sub)
		}
		u := nand()
		u.SubPage = sub
		volumes := readUBI(t, u, first)
		want, _ := os.ReadFile(squash)
		if !bytes.HasPrefix(volumes[0], want) || string(volumes[3]) != "env" || len(volumes[1]) != 0 {
			t.Errorf("wrong content: %d, %d and %q", len(volumes[0]), len(volumes[1]), volumes[3])
		}
		checkUBIFS(t, volumes[2])
		table := volumes[0x7fffefff]
		for i, name := range []string{"rootfsa", "rootfsb", "data", "u-boot-env-1"} {
			entry := table[172*i:][:172]
			if ^crc32.ChecksumIEEE(entry[:168]) != binary.BigEndian.Uint32(entry[168:]) || !strings.HasPrefix(string(entry[16:]), name+"\x00") {
				t.Errorf("volume %d is %q", i, entry[16:40])
			}
			if flags := entry[144]; (flags == 1) != (name == "data") {
				t.Errorf("%s has the flags %d", name, flags)
			}
		}
	}
}

// checkUBIFS checks the checksum of every node, and that the times are the image's.
func checkUBIFS(t *testing.T, fs []byte) {
	t.Helper()
	le := binary.LittleEndian
	kinds := make(map[byte]int)
	for pos, size := 0, 0; pos+ubifsHeader <= len(fs); pos += size {
		if size = 8; le.Uint32(fs[pos:]) != ubifsMagic {
			continue
		}
		node := fs[pos:][:le.Uint32(fs[pos+16:])]
		size = int(alignUp(int64(len(node)), 8))
		if ^crc32.ChecksumIEEE(node[8:]) != le.Uint32(node[4:]) {
			t.Errorf("the node at %d has a wrong checksum", pos)
		}
		if len(node) < 160 && node[20] == ubifsInode {
			continue // what follows the superblock in place of a signature
		}
		if node[20] == ubifsInode && le.Uint64(node[ubifsTimes+16:]) != 1_700_000_000 {
			t.Errorf("a file is of %d", le.Uint64(node[ubifsTimes+16:]))
		}
		kinds[node[20]]++
	}
	if kinds[ubifsInode] < 3 || kinds[ubifsSuperblock] != 1 {
		t.Errorf("nodes %v", kinds)
	}
}

func TestUBIRefused(t *testing.T) {
	t.Parallel()
	v := func(v ...UBIVolume) func(*UBI) { return func(u *UBI) { u.Volumes = v } }
	for name, c := range map[string]struct {
		change func(*UBI)
		want   string
	}{
		"block":       {func(u *UBI) { u.PEB = 100_000 }, "erase blocks of"},
		"page":        {func(u *UBI) { u.Page = 0 }, "pages of 0"},
		"sub-page":    {func(u *UBI) { u.SubPage = 4096 }, "sub-pages of 4096"},
		"headers":     {func(u *UBI) { u.PEB, u.Page = 4*kib, 4*kib }, "too little"},
		"none":        {v(), "0 volumes"},
		"many":        {v(make([]UBIVolume, 129)...), "129 volumes"},
		"no name":     {v(UBIVolume{Size: 1}), "1 to 127"},
		"injection":   {v(UBIVolume{Name: "a\nimage=/etc/passwd", Size: 1}), "1 to 127"},
		"twice":       {v(UBIVolume{Name: "a", Size: 1}, UBIVolume{Name: "a", Size: 1}), "two volumes"},
		"no size":     {v(UBIVolume{Name: "a"}), "no size"},
		"two kinds":   {v(UBIVolume{Name: "a", Content: Content{Bytes: []byte("x"), File: "x"}}), "more than one"},
		"grow twice":  {v(UBIVolume{Name: "a", Size: 1, Autoresize: true}, UBIVolume{Name: "b", Size: 1, Autoresize: true}), "only one can"},
		"static grow": {v(UBIVolume{Name: "a", Content: Content{Bytes: []byte("x")}, Static: true, Autoresize: true}), "cannot grow"},
		"too large":   {v(UBIVolume{Name: "a", Content: Content{Bytes: make([]byte, 126_977)}, Size: 1}), "does not fit into partition"},
		"file system": {v(UBIVolume{Name: "a", Size: 40 * mib, Filesystem: FilesystemExt4}), "ext4 cannot be in a volume"},
		"no blocks":   {v(UBIVolume{Name: "a", Size: mib, Filesystem: FilesystemUBIFS}), "needs 17 blocks"},
		"files":       {v(UBIVolume{Name: "a", Size: mib, Content: Content{Dir: "/"}}), "files need a file system"},
		"compression": {func(u *UBI) { u.Compression = "gzip" }, "no compression"},
		"not fitting": {v(UBIVolume{Name: "a", Size: 1001 * 126_976}), "need 1025 blocks, of which UBI keeps 24"},
		"missing":     {v(UBIVolume{Name: "a", Content: Content{File: "/no/such/file"}}), "no such file"},
	} {
		u := nand()
		u.Volumes = []UBIVolume{{Name: "a", Size: 1}}
		c.change(u)
		dir := t.TempDir()
		if _, err := WriteUBI(t.Context(), filepath.Join(dir, "x"), u); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		onlyFile(t, dir)
	}
	u := nand()
	u.Volumes = []UBIVolume{{Name: "a", Size: 1000 * 126_976}}
	if err := u.Check(); err != nil {
		t.Error(fmt.Errorf("what just fits is refused: %w", err))
	}
}

// TestMakeUBIFS: what an ordinary user cannot put into a directory is in the file system, and it can grow with its volume.
func TestMakeUBIFS(t *testing.T) {
	tool(t, "ubinize")
	tool(t, "mkfs.ubifs")
	archive := writeTar(t, tar.Header{Name: "bin/a b", Typeflag: tar.TypeReg, Mode: 0o4750, Uid: 1000, Gid: 70_000},
		tar.Header{Name: "bin/c", Typeflag: tar.TypeLink, Linkname: "bin/a b"}, tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3})
	u := nand()
	u.Compression, u.SpaceFixup = "zlib", true
	u.Volumes = []UBIVolume{{
		Name: "data", Filesystem: FilesystemUBIFS, Size: 4 * mib, Autoresize: true,
		Content: Content{Tar: archive, Tree: []TreeFile{{Path: "secret", Mode: 0o400, Data: []byte("x")}, {Path: "link", Link: "secret"}}},
	}}
	path := filepath.Join(t.TempDir(), "disk.ubi")
	res, err := WriteUBI(t.Context(), path, u)
	if err != nil {
		t.Fatal(err)
	}
	image, _ := os.ReadFile(path)
	if sum := sha256.Sum256(image); res.SHA256 != hex.EncodeToString(sum[:]) || res.Size != int64(len(image)) {
		t.Errorf("the digest is of something else: %+v", res)
	}
	file := filepath.Join(t.TempDir(), "fs")
	os.WriteFile(file, readUBI(t, u, image)[0], 0o644)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	le := binary.LittleEndian
	var got []string
	err = eachUBIFSNode(f, u.LEB(), func(node []byte) bool {
		switch {
		case node[20] == ubifsSuperblock:
			if most := le.Uint32(node[ubifsLEBs+4:]); most != 1024 {
				t.Errorf("it can grow to %d blocks", most)
			}
			if flags := le.Uint32(node[28:]); flags&4 == 0 {
				t.Errorf("no space fixup: flags %x", flags)
			}
		case node[20] == ubifsInode && len(node) >= ubifsInodeSize:
			got = append(got, fmt.Sprintf("%o %d:%d", le.Uint32(node[ubifsMode:]), le.Uint32(node[ubifsUID:]), le.Uint32(node[ubifsUID+4:])))
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := []string{"100400 0:0", "104750 1000:70000", "120777 0:0", "20666 0:0", "40755 0:0", "40755 0:0"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("inodes (-want +got):\n%s", d)
	}

	for name, c := range map[string]struct {
		content Content
		want    string
	}{
		"attributes": {Content{Tree: []TreeFile{{Path: "f", Data: []byte("x"), Xattrs: map[string]string{"user.a": "b"}}}}, "extended attributes cannot"},
		"socket":     {Content{Tree: []TreeFile{{Path: "s", Mode: fs.ModeSocket | 0o600}}}, "a socket cannot"},
		"blank":      {Content{Tree: []TreeFile{{Path: "n l", Mode: fs.ModeNamedPipe | 0o600}}}, "a blank in its name"},
		"large":      {Content{Tree: []TreeFile{{Path: "f", Data: make([]byte, 5*mib)}}}, "does not fit"},
		"ext4":       {Content{File: archive}, "no file system that is known"},
	} {
		u.Volumes[0].Content = c.content
		dir := t.TempDir()
		if _, err := WriteUBI(t.Context(), filepath.Join(dir, "x"), u); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		onlyFile(t, dir)
	}
}

func writeTar(t *testing.T, headers ...tar.Header) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "content.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestUBIMap(t *testing.T) {
	t.Parallel()
	u := nand()
	u.Volumes = []UBIVolume{{Name: "rootfsa", Filesystem: FilesystemUBIFS, Size: 40 * mib, Slot: "a"}, {Name: "env", Size: 1}}
	m, err := u.Map()
	if err != nil {
		t.Fatal(err)
	}
	if env, _ := m.Find("env"); env.Number != 1 || env.Size != u.LEB() || m.Regions[0].Size != 331*u.LEB() || m.Size != 1000*u.LEB() {
		t.Errorf("%+v", m)
	}
	bar := m.Bar(80)
	if !strings.Contains(bar, "0  rootfsa") || strings.Contains(bar, "offset") || !strings.Contains(bar, "flash: room for ") {
		t.Errorf("\n%s", bar)
	}
}
