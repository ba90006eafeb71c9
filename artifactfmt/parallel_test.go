package artifactfmt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// payloadOf returns where the payload member's content is in an artifact.
func payloadOf(t testing.TB, artifact []byte) (from, to int) {
	t.Helper()
	outer := newTarReader(bytes.NewReader(artifact), "")
	for {
		m, err := outer.next()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(m.Name, "data/") {
			return int(m.data), int(m.data + m.Size)
		}
	}
}

// withPayload puts another content into the payload member.
func withPayload(t testing.TB, artifact, content []byte) []byte {
	t.Helper()
	from, _ := payloadOf(t, artifact)
	size := int64(len(content))
	var name string
	for _, suffix := range []string{".gz", ".zst", ".xz", ""} {
		if n := "data/0000.tar" + suffix; bytes.HasPrefix(artifact[from-blockSize:], []byte(n)) {
			name = n
			break
		}
	}
	b := append(bytes.Clone(artifact[:from-blockSize]), tarHeader(name, size, time.Unix(0, 0))...)
	b = append(b, content...)
	return append(append(b, make([]byte, padding(size))...), tarEnd...)
}

// unpackBoth reads a payload on one goroutine and on several, and demands the same bytes and the same error.
func unpackBoth(t testing.TB, data []byte, limits Limits, most int64) ([]byte, error) {
	t.Helper()
	unpack := func(goroutines int) ([]byte, error) {
		d, err := decompressOn(goroutines, bytes.NewReader(data), "x", limits.withDefaults(), most)
		if err != nil {
			return nil, err
		}
		defer d.close()
		return io.ReadAll(io.LimitReader(d, most))
	}
	one, err := unpack(1)
	several, err2 := unpack(3)
	var fe *FormatError
	switch {
	case !sameError(err, err2):
		t.Errorf("one goroutine says %v, several %v", err, err2)
	case err == nil && !bytes.Equal(one, several):
		t.Error("several goroutines unpack something else than one")
	case err2 != nil && !errors.As(err2, &fe):
		t.Errorf("error %v is not a *FormatError", err2)
	}
	return several, err2
}

// sameError compares errors as people and callers see them.
func sameError(x, y error) bool {
	if x == nil || y == nil {
		return x == nil && y == nil
	}
	return x.Error() == y.Error() && reflect.TypeOf(x) == reflect.TypeOf(y)
}

func TestUnpackOddFrames(t *testing.T) {
	t.Parallel()
	plain := sparseContent(5<<20 + 99)
	pack := func(c Compression, parts ...[]byte) []byte {
		encode, err := codecs[c].newEncoder(0)
		if err != nil {
			t.Fatal(err)
		}
		var b []byte
		for _, p := range parts {
			if b, err = encode(b, p); err != nil {
				t.Fatal(err)
			}
		}
		return b
	}
	foreignGzip := func() []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Name = "x"
		w.Write(plain)
		w.Close()
		return b.Bytes()
	}()
	foreignZstd := func() []byte {
		var b bytes.Buffer
		w, _ := zstd.NewWriter(&b)
		w.Write(plain)
		w.Close()
		return b.Bytes()
	}()
	members := pack(Gzip, plain[:1<<20], plain[1<<20:2<<20], plain[2<<20:2<<20+7])
	frames := pack(Zstd, plain[:4<<20], plain[4<<20:])
	size := func(b []byte, n uint32) []byte {
		b = bytes.Clone(b)
		binary.LittleEndian.PutUint32(b[16:], n)
		return b
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	skip := []byte{0x5A, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}
	flip := func(b []byte, at int) []byte { b = bytes.Clone(b); b[at] ^= 0x55; return b }
	first, second := len(pack(Gzip, plain[:1<<20])), len(pack(Gzip, plain[:1<<20], plain[1<<20:2<<20]))
	cases := map[string]struct {
		data []byte
		want []byte // nil: refused
	}{
		"gzip members":                {members, plain[:2<<20+7]},
		"gzip foreign":                {foreignGzip, plain},
		"gzip ours, then foreign":     {join(members, foreignGzip), join(plain[:2<<20+7], plain)},
		"gzip foreign, then ours":     {join(foreignGzip, members), join(plain, plain[:2<<20+7])},
		"gzip large member":           {pack(Gzip, plain[:5<<20]), plain[:5<<20]},
		"gzip empty member":           {pack(Gzip, nil, plain[:9]), plain[:9]},
		"gzip size 0":                 {size(members, 0), plain[:2<<20+7]},
		"gzip size 31":                {size(members, 31), plain[:2<<20+7]},
		"gzip size one too small":     {size(members, uint32(first-1)), plain[:2<<20+7]},
		"gzip size one too large":     {size(members, uint32(first+1)), plain[:2<<20+7]},
		"gzip size huge":              {size(members, 1<<32-1), plain[:2<<20+7]},
		"gzip size behind the end":    {size(members, 2<<20), plain[:2<<20+7]},
		"gzip size of two":            {size(members, uint32(second)), plain[:2<<20+7]},
		"gzip size of empty and full": {size(join(pack(Gzip, nil), members), uint32(len(pack(Gzip, nil))+first)), plain[:2<<20+7]},
		"gzip damaged":                {flip(members, first/2), nil},
		"gzip wrong sum":              {flip(members, first-6), nil},
		"gzip wrong plain size":       {flip(members, first-4), nil},
		"gzip cut":                    {members[:first+100], nil},
		"gzip cut in header":          {members[:first+5], nil},
		"gzip garbage behind":         {join(members, []byte("garbage that is long enough to be a header")), nil},
		"zstd frames":                 {frames, plain},
		"zstd foreign":                {foreignZstd, plain},
		"zstd mixed":                  {join(frames, foreignZstd, frames), join(plain, plain, plain)},
		"zstd skippable":              {join(frames, skip, frames, skip), join(plain, plain)},
		"zstd skippable is cut":       {join(frames, skip[:9]), nil},
		"zstd skippable of 4 GiB":     {join(frames, []byte{0x5A, 0x2a, 0x4d, 0x18, 255, 255, 255, 255, 0}), nil},
		"zstd cut":                    {frames[:len(frames)-3], nil},
		"zstd damaged":                {flip(frames, len(frames)/2), nil},
		"zstd wrong sum":              {flip(frames, len(frames)-1), nil},
		"zstd garbage behind":         {join(frames, []byte("garbage that is long enough to be a header")), nil},
		"zstd size of 1 TiB": {[]byte{
			0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0,
		}, nil},
		"none": {plain, plain},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := unpackBoth(t, c.data, Limits{}, 64<<20)
			if (err == nil) != (c.want != nil) {
				t.Fatalf("error %v", err)
			}
			if err == nil && !bytes.Equal(got, c.want) {
				t.Errorf("%d bytes differ from the %d that were packed", len(got), len(c.want))
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	for _, c := range []Compression{Gzip, Zstd, XZ} {
		encode, err := codecs[c].newEncoder(0)
		if err != nil {
			f.Fatal(err)
		}
		b, err := encode(nil, sparseContent(3000))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(bytes.Clone(b), b...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		unpackBoth(t, data, Limits{ZstdWindow: 1 << 20, XZDictionary: 1 << 20}, 1<<20)
	})
}

// Not parallel: it counts goroutines.
func TestNoGoroutineIsLeft(t *testing.T) {
	content := sparseContent(20 << 20)
	for _, compression := range []Compression{CompressionNone, Gzip, XZ, Zstd} {
		a := rootfs(content)
		a.Compression = compression
		artifact := write(t, a)
		from, to := payloadOf(t, artifact)
		damaged := bytes.Clone(artifact)
		damaged[(from+to)/2] ^= 0xff
		broken := errors.New("connection reset")
		before := runtime.NumGoroutine()
		o := ReadOptions{Concurrency: 4}
		if _, err := Verify(t.Context(), bytes.NewReader(artifact), o); err != nil {
			t.Errorf("%s: %v", compression, err)
		}
		if _, err := Verify(t.Context(), bytes.NewReader(damaged), o); err == nil {
			t.Errorf("%s: damage is not found", compression)
		}
		source := io.MultiReader(bytes.NewReader(artifact[:(from+to)/2]), iotest.ErrReader(broken))
		if _, err := Verify(t.Context(), source, o); !errors.Is(err, broken) {
			t.Errorf("%s: the source's error becomes %v", compression, err)
		}
		if _, err := Verify(t.Context(), bytes.NewReader(artifact[:(from+to)/2]), o); !errors.Is(err, ErrTruncated) {
			t.Errorf("%s: truncation becomes %v", compression, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		source = io.MultiReader(bytes.NewReader(artifact[:(from+to)/2]), readerFunc(func([]byte) (int, error) {
			cancel()
			return 0, ctx.Err()
		}))
		if _, err := Verify(ctx, source, o); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancellation becomes %v", compression, err)
		}
		r, err := NewReader(bytes.NewReader(artifact), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		for start := time.Now(); runtime.NumGoroutine() > before; runtime.Gosched() { // one that is done need not be gone yet
			if time.Since(start) > 10*time.Second {
				t.Fatalf("%s: %d goroutines are left", compression, runtime.NumGoroutine()-before)
			}
		}
	}
}

// Whoever stops early need not wait for a source that never comes to a frame.
func TestCloseEndsEndlessSource(t *testing.T) {
	t.Parallel()
	encode, err := codecs[Zstd].newEncoder(0)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := encode(nil, sparseContent(9000))
	if err != nil {
		t.Fatal(err)
	}
	skip := []byte{0x5A, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 1}
	endless := readerFunc(func(p []byte) (int, error) { return copy(p, skip), nil })
	limits := defaultLimits
	d, err := decompressOn(3, io.MultiReader(bytes.NewReader(frame), endless), "x", limits, limits.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := d.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	d.close()
	if _, err := io.Copy(io.Discard, d); err == nil {
		t.Error("a payload that was closed seems to have ended")
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
