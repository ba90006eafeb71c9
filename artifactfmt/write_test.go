package artifactfmt

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	_, _, signer, ring := keyPair(t, "ecdsa-p256")
	content := sparseContent(9<<20 + 4711) // more than one frame of every compression
	sum := sumOf(content)
	cases := map[string]struct {
		artifact *Artifact
		want     Info
		files    map[string][]byte
	}{
		"rootfs": {rootfs(content), Info{
			Version: 3, Name: "release-1.0.0", DeviceTypes: []string{"beaglebone", "raspberrypi4"}, PayloadType: RootfsImage,
			Provides:       map[string]string{"rootfs-image.version": "release-1.0.0", "rootfs-image.checksum": sum},
			Depends:        map[string]string{"rootfs-image.version": "release-0.9"},
			ClearsProvides: []string{"artifact_group", "rootfs_image_checksum", "rootfs-image.*"},
			Scripts:        []ScriptInfo{{"ArtifactInstall_Enter_10", 10}, {"ArtifactInstall_Leave_50_b", 17}},
			Files:          []FileInfo{{"rootfs.ext4", int64(len(content)), sum}},
		}, map[string][]byte{"rootfs.ext4": content}},
		"module": {module(), Info{
			Version: 3, Name: "app-2", Group: "beta", DeviceTypes: []string{"qemux86-64"}, PayloadType: "single-file",
			DependsNames: []string{"app-1", "app-0"}, DependsGroups: []string{"beta", "alpha"},
			Provides:       map[string]string{"app.flavour": "<dark>", "rootfs-image.single-file.version": "app-2"},
			ClearsProvides: []string{"app.*"}, MetaData: []byte(`{"big":9007199254740993,"list":[1,2.50]}`),
			Files: []FileInfo{
				{"dest_dir", 5, sumOf([]byte("/etc\n"))},
				{"filename", 9, sumOf([]byte("app.conf\n"))},
				{"empty", 0, sumOf(nil)},
				{"app.conf", 12000, sumOf(bytes.Repeat([]byte("key = value\n"), 1000))},
			},
		}, map[string][]byte{"dest_dir": []byte("/etc\n"), "filename": []byte("app.conf\n"), "empty": {}, "app.conf": bytes.Repeat([]byte("key = value\n"), 1000)}},
		"bootstrap": {bootstrap(), Info{
			Version: 3, Name: "factory-1", DeviceTypes: []string{"qemux86-64"},
			Provides: map[string]string{"rootfs-image.version": "factory-1"}, ClearsProvides: []string{"*"},
		}, map[string][]byte{}},
	}
	for name, c := range cases {
		for _, compression := range []Compression{CompressionNone, Gzip, XZ, Zstd} {
			t.Run(name+" "+string(compression), func(t *testing.T) {
				t.Parallel()
				a, want := *c.artifact, c.want
				a.Compression, a.Signer = compression, signer
				want.Compression, want.Signed, want.KeyID = compression, true, signer.KeyID()
				var out memory
				written, err := Write(t.Context(), &out, &a)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(&want, written); d != "" {
					t.Errorf("Write: %s", d)
				}
				info, err := Validate(t.Context(), bytes.NewReader(out.b), ReadOptions{Verifier: ring})
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(&want, info); d != "" {
					t.Errorf("Validate: %s", d)
				}
				r, err := NewReader(io.MultiReader(bytes.NewReader(out.b)), ReadOptions{})
				if err != nil {
					t.Fatal(err)
				}
				files := map[string][]byte{}
				for {
					f, err := r.Next()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					if files[f.Name], err = io.ReadAll(f); err != nil {
						t.Fatal(err)
					}
				}
				if !maps.EqualFunc(c.files, files, bytes.Equal) { // go-cmp takes seconds for megabytes
					t.Error("files differ")
				}
				if len(r.Scripts()) != len(a.Scripts) {
					t.Errorf("%d scripts instead of %d", len(r.Scripts()), len(a.Scripts))
				}
			})
		}
	}
}

// The bytes of artifacts, as sums. When a library compresses differently in a new version this test shows it: then change
// the sums knowingly, because every user's outputs change with them.
func TestGoldenBytes(t *testing.T) { // not parallel: it changes GOMAXPROCS
	content := sparseContent(10 << 20)
	golden := map[string]string{
		"rootfs none":    "8ac7591dcdee8c7f67e2d1a45eae057ac6c9ef96b982531b0495a61ef895445a",
		"rootfs gzip":    "33c8ac299e228965d687c4ebd058e109e9b0f1d9b8fd0b7b13fcf664ababdc46",
		"rootfs zstd":    "0c119d95b266f4e1f07086cd8f08250ac7f2c9594069ae721a2b52c7ca95e2bf",
		"module none":    "59519f68f95fc7e46b77972181e992df97d3375645e9a44b7df7a9efd69661db",
		"module gzip":    "53c9724ff2b33d722448b2ebc72cf890e566a197e942d7891dc28e3b378e5b1e",
		"bootstrap gzip": "083c20110fef25ebab2483ff380d2bf68934d615fe6bee35780d1e1dd48efef0",
	}
	artifacts := map[string]*Artifact{"rootfs": rootfs(content), "module": module(), "bootstrap": bootstrap()}
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	for _, cores := range []int{1, 4, 4} {
		runtime.GOMAXPROCS(cores)
		for name, want := range golden {
			kind, compression, _ := strings.Cut(name, " ")
			a := *artifacts[kind]
			a.Compression = Compression(compression)
			a.Epoch = time.Unix(1_700_000_000, 0).In(time.FixedZone("", 3600))
			if got := sumOf(write(t, &a)); got != want {
				t.Errorf("%s on %d cores: %s, not %s", name, cores, got, want)
			}
		}
	}
}

func TestEpochIsTheOnlyTime(t *testing.T) {
	t.Parallel()
	a := module()
	first := write(t, a)
	a.Epoch = time.Unix(0, 0)
	if !bytes.Equal(first, write(t, a)) {
		t.Error("the zero time is not 1970-01-01")
	}
	a.Epoch = time.Unix(1, 0)
	if bytes.Equal(first, write(t, a)) {
		t.Error("the epoch is not in the artifact")
	}
	a.Epoch = time.Unix(-5, 0)
	if !bytes.Equal(first, write(t, a)) {
		t.Error("a time before 1970, which tar can't hold, is not 1970")
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	base := func() *Artifact { return rootfs([]byte("x")) }
	cases := map[string]struct {
		change   func(a *Artifact)
		provides map[string]string
		clears   []string
		none     bool
	}{
		"no defaults": {func(a *Artifact) { a.NoDefaultProvides, a.ClearsProvides = true, []string{} }, nil, nil, false},
		"own version": {
			func(a *Artifact) { a.Provides = map[string]string{"rootfs-image.version": "v7"} },
			map[string]string{"rootfs-image.version": "v7", "rootfs-image.checksum": sumOf([]byte("x"))},
			[]string{"artifact_group", "rootfs_image_checksum", "rootfs-image.*"},
			false,
		},
		"bootstrap": {func(a *Artifact) { a.PayloadType, a.Files, a.Scripts = "", nil, nil }, nil, nil, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := base()
			c.change(a)
			info, err := Validate(t.Context(), bytes.NewReader(write(t, a)), ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.provides, info.Provides); d != "" {
				t.Error(d)
			}
			if len(info.ClearsProvides) != len(c.clears) || info.NoClears != c.none {
				t.Errorf("clears %q, none %v", info.ClearsProvides, info.NoClears)
			}
		})
	}
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 257)
	cases := map[string]struct {
		change func(a *Artifact)
		want   string
	}{
		"no name":                {func(a *Artifact) { a.Name = "" }, "artifact name"},
		"long name":              {func(a *Artifact) { a.Name = long }, "longer than 256"},
		"blank in name":          {func(a *Artifact) { a.Name = "a b" }, "white space"},
		"escape in name":         {func(a *Artifact) { a.Name = "a\x1b[2J" }, "cannot be printed"},
		"bad UTF-8":              {func(a *Artifact) { a.Name = "a\xff" }, "UTF-8"},
		"no device type":         {func(a *Artifact) { a.DeviceTypes = nil }, "device type"},
		"empty device type":      {func(a *Artifact) { a.DeviceTypes = []string{""} }, "device type"},
		"device type twice":      {func(a *Artifact) { a.DeviceTypes = []string{"a", "a"} }, "twice"},
		"line break in group":    {func(a *Artifact) { a.Group = "a\nb" }, "artifact group"},
		"keys alike":             {func(a *Artifact) { a.Provides = map[string]string{"Key": "1", "key": "2"} }, "case alone"},
		"reserved key":           {func(a *Artifact) { a.Provides = map[string]string{"artifact_name": "1"} }, "set by the artifact itself"},
		"empty key":              {func(a *Artifact) { a.Depends = map[string]string{"": "1"} }, "depends"},
		"two images":             {func(a *Artifact) { a.Files = append(a.Files, file("b", []byte("b"))) }, "exactly one file"},
		"empty image":            {func(a *Artifact) { a.Files = []InputFile{file("a", nil)} }, "is empty"},
		"meta-data for image":    {func(a *Artifact) { a.MetaData = []byte("{}") }, "meta-data"},
		"path as file name":      {func(a *Artifact) { a.Files[0].Name = "../x" }, "directory part"},
		"dot dot":                {func(a *Artifact) { a.Files[0].Name = ".." }, "not the name of a file"},
		"plus in file name":      {func(a *Artifact) { a.Files[0].Name = "a+b" }, "only the letters"},
		"long file name":         {func(a *Artifact) { a.Files[0].Name = long[:91] }, "90 bytes"},
		"unknown size":           {func(a *Artifact) { a.Files[0].Size = -1 }, "size"},
		"files without type":     {func(a *Artifact) { a.PayloadType = "" }, "bootstrap"},
		"type with slash":        {func(a *Artifact) { a.PayloadType = "../x" }, "update module"},
		"names differ in case":   {func(a *Artifact) { a.PayloadType = "m"; a.Files = []InputFile{file("A", nil), file("a", nil)} }, "case alone"},
		"meta-data no object":    {func(a *Artifact) { a.PayloadType, a.MetaData = "m", []byte("[1]") }, "not a JSON object"},
		"meta-data key twice":    {func(a *Artifact) { a.PayloadType, a.MetaData = "m", []byte(`{"a":1,"a":2}`) }, "twice"},
		"meta-data too deep":     {func(a *Artifact) { a.PayloadType, a.MetaData = "m", []byte(strings.Repeat("[", 100)) }, "nested deeper"},
		"script with junk":       {func(a *Artifact) { a.Scripts[0].Name = "xArtifactInstall_Enter_00" }, "state script"},
		"script with path":       {func(a *Artifact) { a.Scripts[0].Name = "ArtifactInstall_Enter_00_a/../b" }, "state script"},
		"script state unknown":   {func(a *Artifact) { a.Scripts[0].Name = "Idle_Enter_00" }, "state script"},
		"script number too long": {func(a *Artifact) { a.Scripts[0].Name = "ArtifactInstall_Enter_00zz" }, "state script"},
		"script twice":           {func(a *Artifact) { a.Scripts[1].Name = a.Scripts[0].Name }, "twice"},
		"huge scripts":           {func(a *Artifact) { a.Scripts[0].Content = make([]byte, 17<<20) }, "16 MiB"},
		"compression":            {func(a *Artifact) { a.Compression = "lz4" }, "use none, gzip, xz or zstd"},
		"level":                  {func(a *Artifact) { a.Level = 10 }, "not between 1 and 9"},
		"level of xz":            {func(a *Artifact) { a.Compression, a.Level = XZ, 10 }, "between 1 and 9"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := rootfs([]byte("content"))
			a.Files[0].Open = func() (io.ReadCloser, error) { t.Error("the input was opened"); return nil, io.EOF }
			c.change(a)
			var out memory
			_, err := Write(t.Context(), &out, a)
			var ie *InvalidError
			if !errors.As(err, &ie) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want an InvalidError with %q", err, c.want)
			}
			if len(out.b) > 0 {
				t.Error("something was written")
			}
		})
	}
}

// brokenReader fails after some bytes.
type brokenReader struct{ left int }

var errBroken = errors.New("input/output error")

func (b *brokenReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errBroken
	}
	n := min(len(p), b.left)
	b.left -= n
	return n, nil
}

func (b *brokenReader) Close() error { return nil }

// fullDisk takes some bytes.
type fullDisk struct {
	discard
	left int
}

var errFull = errors.New("no space left on device")

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.left -= len(p); d.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriteFails(t *testing.T) {
	t.Parallel()
	const size = 30 << 20
	for _, compression := range []Compression{CompressionNone, Gzip, Zstd} {
		input := func(size int64, r func() io.Reader) *Artifact {
			a := rootfs([]byte("x"))
			a.Compression = compression
			a.Files[0].Size = size
			a.Files[0].Open = func() (io.ReadCloser, error) { return io.NopCloser(r()), nil }
			return a
		}
		zeros := func(n int64) func() io.Reader { return func() io.Reader { return io.LimitReader(zeroReader{}, n) } }
		cancelled, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("interrupted")
		signer := &badSigner{}
		cases := map[string]struct {
			ctx  context.Context
			out  Output
			a    *Artifact
			want error
			text string
		}{
			"input breaks":     {t.Context(), discard{}, input(size, func() io.Reader { return &brokenReader{left: 5 << 20} }), errBroken, "rootfs.ext4"},
			"input shrank":     {t.Context(), discard{}, input(size, zeros(size-1)), errSize, "rootfs.ext4"},
			"input grew":       {t.Context(), discard{}, input(size, zeros(size+1)), errSize, "rootfs.ext4"},
			"disk full":        {t.Context(), &fullDisk{left: 8 << 10}, input(size, zeros(size)), errFull, "writing the artifact"},
			"disk full first":  {t.Context(), &fullDisk{left: 512}, input(size, zeros(size)), errFull, "writing the artifact"},
			"interrupted":      {cancelled, discard{}, input(size, zeros(size)), cause, ""},
			"signer fails":     {t.Context(), discard{}, signed(input(size, zeros(size)), &badSigner{err: errBroken}), errBroken, "signing"},
			"signature length": {t.Context(), discard{}, signed(input(size, zeros(size)), signer), nil, "63 bytes instead of 64"},
			"cannot be opened": {t.Context(), discard{}, func() *Artifact {
				a := input(size, zeros(size))
				a.Files[0].Open = func() (io.ReadCloser, error) { return nil, os.ErrPermission }
				return a
			}(), os.ErrPermission, "rootfs.ext4"},
		}
		cancel(cause)
		for name, c := range cases {
			t.Run(name+" "+string(compression), func(t *testing.T) {
				t.Parallel()
				_, err := Write(c.ctx, c.out, c.a)
				if err == nil || (c.want != nil && !errors.Is(err, c.want)) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("error %v, want %v with %q", err, c.want, c.text)
				}
			})
		}
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type badSigner struct{ err error }

func (s *badSigner) SignatureSize() int { return 64 }
func (s *badSigner) Sign(context.Context, []byte) ([]byte, error) {
	return make([]byte, 63), s.err
}

func signed(a *Artifact, s Signer) *Artifact {
	a.Signer = s
	return a
}

func TestProgress(t *testing.T) {
	t.Parallel()
	a := rootfs(sparseContent(3 << 20))
	var last, total int64 = -1, 0
	a.Progress = func(d, of int64) {
		if d < last {
			t.Errorf("progress goes back from %d to %d", last, d)
		}
		last, total = d, of
	}
	write(t, a)
	if last != 3<<20 || total != 3<<20 {
		t.Errorf("progress ends with %d of %d", last, total)
	}
}

// An image of 9 GiB of zeros needs PAX headers, and the writer's memory does not grow with it.
func TestLargeFile(t *testing.T) {
	if os.Getenv("TWINKEEL_LARGE") == "" {
		t.Skip("it reads 9 GiB; set TWINKEEL_LARGE=1 to run it")
	}
	t.Parallel()
	const size = 9 << 30
	a := rootfs([]byte("x"))
	a.Files[0].Size = size
	a.Files[0].Open = func() (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(zeroReader{}, size)), nil }
	a.Compression = Zstd
	path := filepath.Join(t.TempDir(), "a.mender")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Write(t.Context(), f, a); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	info, err := Validate(t.Context(), f, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if info.Files[0].Size != size {
		t.Errorf("size %d", info.Files[0].Size)
	}
}

func TestLargeHeader(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{maxUstarSize, maxUstarSize + 1, maxPAXSize} {
		header := tarHeader("rootfs.ext4", size, time.Unix(7, 0))
		if int64(len(header)) != tarHeaderSize(size) {
			t.Errorf("%d bytes instead of %d", len(header), tarHeaderSize(size))
		}
		h, err := tar.NewReader(bytes.NewReader(header)).Next()
		if err != nil || h.Name != "rootfs.ext4" || h.Size != size || h.Mode != 0o600 || h.ModTime.Unix() != 7 {
			t.Errorf("size %d is read as %+v (%v)", size, h, err)
		}
	}
	// A compressed payload of which nobody knows whether it stays below 8 GiB: its member has the PAX header in any case.
	w := writer{codec: codecs[Gzip], Artifact: Artifact{Compression: Gzip, Files: []InputFile{{Name: "a", Size: 9 << 30}}}}
	h, err := tar.NewReader(bytes.NewReader(w.payloadHeader(5))).Next()
	if err != nil || h.Size != 5 || len(w.payloadHeader(0)) != len(w.payloadHeader(8<<30)) {
		t.Errorf("a small payload with a PAX header is read as %+v (%v)", h, err)
	}
}

func TestPAXRecord(t *testing.T) {
	t.Parallel()
	// The length counts its own digits, also where counting them changes their number.
	for value, want := range map[string]string{
		"8589934592":            "19 size=8589934592\n",
		strings.Repeat("1", 90): "99 size=" + strings.Repeat("1", 90) + "\n",
		strings.Repeat("1", 91): "101 size=" + strings.Repeat("1", 91) + "\n",
	} {
		if got := paxRecord("size", value); got != want || len(got) != mustInt(t, got) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func mustInt(t *testing.T, record string) int {
	t.Helper()
	digits, _, _ := strings.Cut(record, " ")
	n := 0
	for _, c := range digits {
		n = 10*n + int(c-'0')
	}
	return n
}

// The seek table leads to frames that can be unpacked alone, and a frame begins where a large file does.
func TestSeekTable(t *testing.T) {
	t.Parallel()
	content := sparseContent(10 << 20)
	a := rootfs(content)
	a.Compression = Zstd
	artifact := write(t, a)
	outer := newTarReader(bytes.NewReader(artifact), "")
	var data []byte
	for {
		m, err := outer.next()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(m.Name, "data/") {
			if data, err = m.readAll(); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	footer := data[len(data)-9:]
	if binary.LittleEndian.Uint32(footer[5:]) != 0x8F92EAB1 {
		t.Fatalf("no seek table: % x", footer)
	}
	frames := int(binary.LittleEndian.Uint32(footer))
	table := data[len(data)-9-8*frames:]
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var plain []byte
	starts := map[int]bool{}
	at := 0
	for i := range frames {
		compressed, size := binary.LittleEndian.Uint32(table[8*i:]), binary.LittleEndian.Uint32(table[8*i+4:])
		starts[len(plain)] = true
		part, err := d.DecodeAll(data[at:at+int(compressed)], nil)
		if err != nil || len(part) != int(size) {
			t.Fatalf("frame %d: %d bytes, %v", i, len(part), err)
		}
		plain = append(plain, part...)
		at += int(compressed)
	}
	if !starts[blockSize] || !starts[blockSize+4<<20] {
		t.Errorf("frames begin at %v", starts)
	}
	if !bytes.Equal(plain[blockSize:blockSize+len(content)], content) {
		t.Error("the content differs")
	}
}
