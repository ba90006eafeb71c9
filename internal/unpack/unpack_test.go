package unpack

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/mholt/archives"
	"github.com/pierrec/lz4/v4"
)

// sample is data of which some compresses well, some does not, and some is zero.
func sample(n int) []byte {
	out := make([]byte, 0, n)
	state := uint32(1)
	for len(out) < n {
		switch (len(out) / 5000) % 3 {
		case 0:
			state = state*1664525 + 1013904223
			out = append(out, byte(state>>24))
		case 1:
			out = append(out, "twinkeel"[len(out)%8])
		default:
			out = append(out, 0)
		}
	}
	return out
}

func compressWith(t testing.TB, c archives.Compressor, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := c.OpenWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// legacyLz4 is what bitbake writes: no end mark, blocks of 8 MiB.
func legacyLz4(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := lz4.NewWriter(&buf)
	if err := w.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func all(t testing.TB, data []byte) map[string]struct {
	format Format
	packed []byte
} {
	type packed = struct {
		format Format
		packed []byte
	}
	return map[string]packed{
		"a.gz":         {Gzip, compressWith(t, archives.Gz{}, data)},
		"a.bz2":        {Bzip2, compressWith(t, archives.Bz2{}, data)},
		"a.xz":         {Xz, compressWith(t, archives.Xz{}, data)},
		"a.zst":        {Zstd, compressWith(t, archives.Zstd{}, data)},
		"a.lz4":        {Lz4, compressWith(t, archives.Lz4{}, data)},
		"legacy.lz4":   {Lz4, legacyLz4(t, data)},
		"plain":        {None, data},
		"no suffix":    {Gzip, compressWith(t, archives.Gz{}, data)},
		"misnamed.bz2": {Xz, compressWith(t, archives.Xz{}, data)},
	}
}

func TestOpenGivesWhatWasPacked(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 100, 1 << 20} {
		data := sample(size)
		for name, p := range all(t, data) {
			r, format, err := Open(iotest.HalfReader(bytes.NewReader(p.packed)), name, int64(size))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, data) || format != p.format {
				t.Errorf("%s: got %d bytes of %s, %v; want %d of %s", name, len(got), format, err, size, p.format)
			}
			if err := r.Close(); err != nil {
				t.Errorf("%s: Close: %v", name, err)
			}
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, errClosed) {
				t.Errorf("%s: read after Close gives %v", name, err)
			}
		}
	}
}

func TestOpenReadsWhatTheRealToolsWrite(t *testing.T) {
	t.Parallel()
	for name, command := range map[string][]string{
		"a.gz": {"gzip", "-9n"}, "a.bz2": {"bzip2", "-9"}, "a.xz": {"xz", "-6", "-T2"}, "crc32.xz": {"xz", "-1", "--check=crc32"},
		"a.zst": {"zstd", "-3", "-T2"}, "long.zst": {"zstd", "--long=27"}, "a.lz4": {"lz4", "-9"}, "linked.lz4": {"lz4", "-BD", "-BX", "-B4"}, "bitbake.lz4": {"lz4", "-9", "-z", "-l"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tool, err := exec.LookPath(command[0])
			if err != nil {
				t.Skip(command[0] + " is not installed")
			}
			data := sample(2 << 20)
			if FormatOf(name) == Lz4 {
				data = sample(9 << 20) // more than one block of a legacy frame
			}
			cmd := exec.CommandContext(t.Context(), tool, append(command[1:], "-c")...)
			cmd.Stdin = bytes.NewReader(data)
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			for copies, want := range [][]byte{1: data, 2: slices.Concat(data, data)} { // all formats may be concatenated
				if copies == 0 {
					continue
				}
				r, _, err := Open(bytes.NewReader(bytes.Repeat(packed, copies)), name, int64(len(want)))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d copies: got %d bytes, %v; want %d", copies, len(got), err, len(want))
				}
				r.Close()
			}
		})
	}
}

func TestOpenStopsAtTheLimit(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	for name, p := range all(t, make([]byte, limit+1)) { // the smallest bomb
		r, _, err := Open(bytes.NewReader(p.packed), name, limit)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r)
		var large *TooLargeError
		if !errors.As(err, &large) || n != limit || large.Limit != limit {
			t.Errorf("%s: %d bytes, then %v", name, n, err)
		}
		r.Close()
	}
}

// TestOpenNoticesEveryCut: what is cut off anywhere never looks whole.
func TestOpenNoticesEveryCut(t *testing.T) {
	t.Parallel()
	data := sample(20_000)
	for name, p := range all(t, data) {
		if p.format == None || name == "legacy.lz4" { // which nobody can tell
			continue
		}
		for cut := range p.packed {
			if cut > 40 && cut < len(p.packed)-40 && cut%499 != 0 {
				continue
			}
			r, _, err := Open(bytes.NewReader(p.packed[:cut]), name, 1<<20)
			if err == nil {
				_, err = io.Copy(io.Discard, r)
				r.Close()
			}
			var corrupt *CorruptError
			var plain *NotCompressedError
			if cut < longestMagic && errors.As(err, &plain) || cut < longestMagic && FormatOf(name) == None {
				continue
			}
			if !errors.As(err, &corrupt) {
				t.Errorf("%s cut at %d of %d: %v", name, cut, len(p.packed), err)
			}
		}
	}
}

// TestCutBetweenBlocksOfLz4: there the decoder itself sees nothing wrong.
func TestCutBetweenBlocksOfLz4(t *testing.T) {
	t.Parallel()
	packed := compressWith(t, archives.Lz4{}, sample(9<<20)) // blocks of 4 MiB
	frames := &lz4Frames{r: bytes.NewReader(packed)}
	ends := []int{}
	for pos := 0; ; {
		before := pos
		buf := make([]byte, 1)
		if _, err := io.ReadFull(frames, buf); err != nil {
			break
		}
		if pos++; frames.left == 0 && len(frames.pending) == 0 && before > 8 {
			ends = append(ends, pos)
		}
	}
	if len(ends) < 4 {
		t.Fatalf("%d ends of blocks found", len(ends))
	}
	for _, cut := range ends[:len(ends)-1] {
		r, _, err := Open(bytes.NewReader(packed[:cut]), "a.lz4", 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %d bytes, %v", cut, n, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	broken := errors.New("the disk is broken")
	var window bytes.Buffer
	w, err := zstd.NewWriter(&window, zstd.WithWindowSize(maxWindow*2), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(sample(1 << 20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	gz := compressWith(t, archives.Gz{}, sample(100_000))
	for name, tt := range map[string]struct {
		r    io.Reader
		file string
		want string
	}{
		"a name that lies":  {strings.NewReader("plain text"), "x.ext4.gz", "x.ext4.gz is not compressed with gzip, as its name says"},
		"nothing":           {strings.NewReader(""), "x.xz", "x.xz is not compressed with xz, as its name says"},
		"a large window":    {&window, "x.zst", "x.zst is damaged, or not what zstd can read"},
		"a wrong checksum":  {bytes.NewReader(append(slices.Clone(gz[:len(gz)-5]), 1, 2, 3, 4, 5)), "x.gz", "x.gz is damaged"},
		"a disk that fails": {io.MultiReader(bytes.NewReader(gz[:500]), iotest.ErrReader(broken)), "x.gz", "reading x.gz: the disk is broken"},
		"failing at once":   {iotest.ErrReader(broken), "x.gz", "reading x.gz: the disk is broken"},
		"garbage behind":    {bytes.NewReader(append(slices.Clone(gz), "garbage, and enough of it"...)), "x.gz", "x.gz is damaged"},
	} {
		r, _, err := Open(tt.r, tt.file, 1<<30)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
}

func TestTrim(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		bare   string
		format Format
	}{
		"a/b.ext4.zst": {"a/b.ext4", Zstd}, "IMAGE.GZ": {"IMAGE", Gzip}, "a.tar": {"a.tar", None}, ".gz": {".gz", None},
		"dir.xz/a": {"dir.xz/a", None}, "a.bz2": {"a", Bzip2}, "a.lz4": {"a", Lz4}, "dir/.xz": {"dir/.xz", None},
	} {
		if bare, format := Trim(name); bare != want.bare || format != want.format {
			t.Errorf("%s: got %s, %s", name, bare, format)
		}
	}
}

// FuzzOpen: whatever comes in, no panic, bounded output, and errors that people can read.
func FuzzOpen(f *testing.F) {
	for _, p := range all(f, sample(3000)) {
		f.Add(p.packed)
		f.Add(p.packed[:len(p.packed)/2])
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		const limit = 1 << 20
		watchdog := time.AfterFunc(20*time.Second, func() { panic("it does not come to an end") })
		defer watchdog.Stop()
		r, _, err := Open(bytes.NewReader(packed), "x", limit)
		if err == nil {
			defer r.Close()
			var n int64
			if n, err = io.Copy(io.Discard, r); n > limit {
				t.Fatalf("%d bytes", n)
			}
		}
		var large *TooLargeError
		var corrupt *CorruptError
		if err != nil && !errors.As(err, &large) && !errors.As(err, &corrupt) {
			t.Fatalf("%T: %v", err, err)
		}
	})
}
