package artifactfmt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

func TestOpenPayload(t *testing.T) {
	t.Parallel()
	content := sparseContent(13<<20 + 4711)
	for _, compression := range []Compression{CompressionNone, Gzip, Zstd} {
		for kind, a := range map[string]*Artifact{"rootfs": rootfs(content), "module": module(), "bootstrap": bootstrap()} {
			t.Run(kind+" "+string(compression), func(t *testing.T) {
				t.Parallel()
				a := *a
				a.Compression = compression
				artifact := write(t, &a)
				p, err := OpenPayload(bytes.NewReader(artifact), int64(len(artifact)), ReadOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if p.Info().Compression != compression || p.Info().Name != a.Name {
					t.Errorf("info %+v", p.Info())
				}
				checkChunks(t, p, artifact, compression == Zstd)
				for _, in := range a.Files {
					r, _ := in.Open()
					want, _ := io.ReadAll(r)
					f, err := p.File(in.Name)
					if err != nil {
						t.Fatal(err)
					}
					if f.Size() != int64(len(want)) {
						t.Fatalf("%s has %d bytes", in.Name, f.Size())
					}
					checkReads(t, f, want)
				}
				if _, err := p.File("nothing"); err == nil {
					t.Error("a file that is not there is found")
				}
			})
		}
	}
}

func checkReads(t *testing.T, f *PayloadSection, want []byte) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		off := rnd.IntN(len(want) + 1)
		b := make([]byte, rnd.IntN(2<<20))
		n, err := f.ReadAt(b, int64(off))
		if n != min(len(b), len(want)-off) || (n < len(b)) != errors.Is(err, io.EOF) || !bytes.Equal(b[:n], want[off:off+n]) {
			t.Fatalf("%d bytes at %d: %d, %v", len(b), off, n, err)
		}
	}
}

func checkChunks(t *testing.T, p *Payload, artifact []byte, sums bool) {
	t.Helper()
	from, _ := payloadOf(t, artifact)
	at, plain := int64(from), int64(0)
	for i, c := range p.Chunks() {
		if c.Offset != at || c.PlainOffset != plain || (c.SHA256 != "") != sums {
			t.Fatalf("chunk %d is %+v, after %d and %d", i, c, at, plain)
		}
		data, err := unpackBoth(t, artifact[c.Offset:c.Offset+c.Size], Limits{}, 64<<20)
		if err != nil || int64(len(data)) != c.PlainSize || (sums && sumOf(data) != c.SHA256) {
			t.Errorf("chunk %d %+v: %d bytes, %v", i, c, len(data), err)
		}
		at, plain = at+c.Size, plain+c.PlainSize
	}
}

func TestOpenPayloadRefuses(t *testing.T) {
	t.Parallel()
	content := sparseContent(9 << 20)
	artifacts := map[Compression][]byte{}
	for _, c := range []Compression{Gzip, Zstd, XZ} {
		a := rootfs(content)
		a.Compression = c
		artifacts[c] = write(t, a)
	}
	member := func(c Compression) []byte {
		from, to := payloadOf(t, artifacts[c])
		return bytes.Clone(artifacts[c][from:to])
	}
	z := member(Zstd)
	frames := int(binary.LittleEndian.Uint32(z[len(z)-seekFooter:]))
	table := len(z) - seekFooter - 8*frames // its first entry
	sums := table - skippableHeader - 32*frames
	put := func(c Compression, at int, v uint32) []byte {
		b := member(c)
		binary.LittleEndian.PutUint32(b[at:], v)
		return withPayload(t, artifacts[c], b)
	}
	cases := map[string]struct {
		artifact []byte
		want     error // nil is a *FormatError
		later    bool  // only reading finds it
	}{
		"xz":                        {artifacts[XZ], ErrNotSeekable, false},
		"zstd without table":        {withPayload(t, artifacts[Zstd], z[:sums-skippableHeader-8]), ErrNotSeekable, false},
		"zstd, 0 frames":            {put(Zstd, len(z)-seekFooter, 0), nil, false},
		"zstd, one frame too many":  {put(Zstd, len(z)-seekFooter, uint32(frames+1)), nil, false},
		"zstd, 4 billion frames":    {put(Zstd, len(z)-seekFooter, 1<<32-1), nil, false},
		"zstd, frame of 0":          {put(Zstd, table+8, 0), nil, false},
		"zstd, frame of 4 GiB":      {put(Zstd, table+8, 1<<32-1), nil, false},
		"zstd, content of 0":        {put(Zstd, table+12, 0), nil, false},
		"zstd, content of 4 GiB":    {put(Zstd, table+12, 1<<32-1), ErrNotSeekable, false},
		"zstd, frame one too large": {put(Zstd, table+8, binary.LittleEndian.Uint32(z[table+8:])+1), nil, false},
		"zstd, content too small":   {put(Zstd, table+12, 4<<20-1), nil, true},
		"zstd, sum differs":         {put(Zstd, sums+32, 0), nil, true},
		"zstd, mark of sums":        {put(Zstd, sums-8, 0), nil, false},
		"zstd, data damaged":        {put(Zstd, len(z)/2, 0x12345678), nil, true},
		"gzip, size too small":      {put(Gzip, 16, 30), ErrNotSeekable, false},
		"gzip, size too large":      {put(Gzip, 16, 1<<30), nil, false},
		"gzip, no size":             {put(Gzip, 12, 0), ErrNotSeekable, false},
		"gzip, garbage behind":      {withPayload(t, artifacts[Gzip], append(member(Gzip), "garbage behind it, a little longer"...)), nil, false},
		"gzip, data damaged":        {put(Gzip, len(member(Gzip))/2, 0x12345678), nil, true},
		"cut":                       {artifacts[Zstd][:len(artifacts[Zstd])/2], ErrTruncated, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := OpenPayload(bytes.NewReader(c.artifact), int64(len(c.artifact)), ReadOptions{})
			if c.later && err == nil {
				f, fileErr := p.File("rootfs.ext4")
				if fileErr != nil {
					t.Fatal(fileErr)
				}
				_, err = io.Copy(io.Discard, io.NewSectionReader(f, 0, f.Size()))
			}
			var fe *FormatError
			if err == nil || (c.want != nil && !errors.Is(err, c.want)) || (c.want == nil && !errors.As(err, &fe)) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

// Whatever the index says, what is read is what everyone else unpacks, or an error.
func TestOpenPayloadWithWrongIndex(t *testing.T) {
	t.Parallel()
	content := sparseContent(5<<20 + 3)
	for _, compression := range []Compression{Gzip, Zstd} {
		a := rootfs(content)
		a.Compression = compression
		good := write(t, a)
		from, to := payloadOf(t, good)
		index := [2]int{from, from + gzipHeaderSize}
		if compression == Zstd {
			index = [2]int{to - skippableHeader - 2*8 - seekFooter - skippableHeader - len(sumTableMark) - 2*32, to}
		}
		opened := 0
		for at := index[0]; at < index[1]; at++ {
			for _, flip := range []byte{0x01, 0x80, 0xff} {
				data := bytes.Clone(good)
				data[at] ^= flip
				p, err := OpenPayload(bytes.NewReader(data), int64(len(data)), ReadOptions{})
				if err == nil {
					opened++
					var f *PayloadSection
					if f, err = p.File(a.Files[0].Name); err == nil {
						got := make([]byte, len(content))
						if _, err = f.ReadAt(got, 0); err == nil && !bytes.Equal(got, content) {
							t.Fatalf("%s: byte %d changed, and the content differs", compression, at-from)
						}
					}
				}
				if err != nil && !errors.Is(err, ErrNotSeekable) {
					isTyped(t, err)
				}
			}
		}
		if opened == 0 {
			t.Errorf("%s: nothing was opened", compression)
		}
	}
}
