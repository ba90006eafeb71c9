package flash

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// disk is a device in memory with a cache that loses or keeps what was not synced, in any order, when power fails.
type disk struct {
	mu      sync.Mutex
	medium  []byte
	cache   []cached
	written int64
	ops     int
	dieAt   int                       // at this operation power fails
	onWrite func(off, n int64) error  // faults
	onRead  func(off, n int64) error  //
	spoil   func(p []byte, off int64) // what is read
}

type cached struct {
	off  int64
	data []byte
}

var errPower = errors.New("power failed")

func (d *disk) step() error {
	d.ops++
	if d.dieAt > 0 && d.ops >= d.dieAt {
		return errPower
	}
	return nil
}

func (d *disk) Size() int64 { return int64(len(d.medium)) }

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return 0, err
	}
	if d.onWrite != nil {
		if err := d.onWrite(off, int64(len(p))); err != nil {
			return 0, err
		}
	}
	if off+int64(len(p)) > d.Size() {
		return 0, syscall.ENOSPC
	}
	d.cache = append(d.cache, cached{off, bytes.Clone(p)})
	d.written += int64(len(p))
	return len(p), nil
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	for _, c := range d.cache {
		copy(d.medium[c.off:], c.data)
	}
	d.cache = nil
	return nil
}

// powerCut keeps of what was not synced any sectors, in any order.
func (d *disk) powerCut(seed uint64) {
	r := mathrand.New(mathrand.NewPCG(seed, 1))
	for _, i := range r.Perm(len(d.cache)) {
		c := d.cache[i]
		for at := 0; at < len(c.data); at += 512 {
			if r.IntN(2) == 0 {
				copy(d.medium[c.off+int64(at):], c.data[at:min(at+512, len(c.data))])
			}
		}
	}
	d.cache = nil
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.onRead != nil {
		if err := d.onRead(off, int64(len(p))); err != nil {
			return 0, err
		}
	}
	copy(p, d.medium[off:])
	for _, c := range d.cache {
		for i := range p {
			if at := off + int64(i) - c.off; at >= 0 && at < int64(len(c.data)) {
				p[i] = c.data[at]
			}
		}
	}
	if d.spoil != nil {
		d.spoil(p, off)
	}
	return len(p), nil
}

// zeroingDisk is a disk that zeroes by itself.
type zeroingDisk struct{ *disk }

func (d zeroingDisk) Zero(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	d.cache = append(d.cache, cached{off, make([]byte, n)})
	return nil
}

func newDisk(size int64, fill func(b []byte)) *disk {
	d := &disk{medium: make([]byte, size)}
	if fill != nil {
		fill(d.medium)
	}
	return d
}

func fillA5(b []byte) {
	for i := range b {
		b[i] = 0xa5
	}
}

const testSize = 24 * mib

// testPartitions of an image: boot, slot A, an empty slot B.
var testPartitions = []Range{{4 * mib, 4 * mib}, {8 * mib, 7 * mib}, {15 * mib, 7 * mib}}

// testImage is a disk with a GPT, an environment at 2 MiB, noise in boot and slot A and nothing in slot B.
func testImage(seed byte) []byte {
	b := make([]byte, testSize)
	noise := mathrand.NewChaCha8([32]byte{seed})
	noise.Read(b[2*mib:][:128*kib])
	noise.Read(b[testPartitions[0].Offset:][:2*mib])
	noise.Read(b[testPartitions[1].Offset:][:3*mib+512])
	writeTestGPT(b, testPartitions, seed)
	return b
}

// writeTestGPT writes both tables by UEFI 2.10 section 5.3, by itself so that the tests need no program.
func writeTestGPT(b []byte, parts []Range, seed byte) {
	le := binary.LittleEndian
	last := uint64(len(b)/512 - 1)
	b[446+4] = 0xee
	le.PutUint32(b[446+8:], 1)
	le.PutUint32(b[446+12:], uint32(last))
	b[510], b[511] = 0x55, 0xaa
	array := make([]byte, 128*128)
	for i, p := range parts {
		e := array[i*128:]
		copy(e, []byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4})
		e[16], e[17] = seed, byte(i+1)
		le.PutUint64(e[32:], uint64(p.Offset/512))
		le.PutUint64(e[40:], uint64(p.End()/512-1))
		e[56] = byte('a' + i)
	}
	header := func(at, other, arrayAt uint64) {
		h := b[at*512:][:512]
		copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		le.PutUint64(h[24:], at)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], 34)
		le.PutUint64(h[48:], last-33)
		h[56] = seed
		le.PutUint64(h[72:], arrayAt)
		le.PutUint32(h[80:], 128)
		le.PutUint32(h[84:], 128)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(array))
		le.PutUint32(h[16:], 0)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		copy(b[arrayAt*512:], array)
	}
	header(1, last, 2)
	header(last, 1, last-32)
}

// mapOf is a block map of what is not zero, and of more.
func mapOf(b []byte, more ...Range) *imaging.Bmap {
	const block = 4096
	m := &imaging.Bmap{ImageSize: int64(len(b)), BlockSize: block, ChecksumType: "sha256"}
	for i := int64(0); i < m.Blocks(); i++ {
		mapped := !imaging.AllZeros(b[i*block : min((i+1)*block, int64(len(b)))])
		for _, r := range more {
			mapped = mapped || i*block >= r.Offset && i*block < r.End()
		}
		if n := len(m.Ranges); mapped && n > 0 && m.Ranges[n-1].Last == i-1 {
			m.Ranges[n-1].Last = i
		} else if mapped {
			m.Ranges = append(m.Ranges, imaging.BmapRange{First: i, Last: i})
		}
	}
	for i := range m.Ranges {
		off, size := m.Extent(m.Ranges[i])
		s := sha256.Sum256(b[off:][:size])
		m.Ranges[i].Checksum = hex.EncodeToString(s[:])
	}
	return m
}

func store(t *testing.T, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func storeBmap(t *testing.T, name string, m *imaging.Bmap) {
	t.Helper()
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	store(t, name, b.Bytes())
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// checked is an image that was stored, opened and checked.
func checked(t *testing.T, content []byte, bmap *imaging.Bmap, compressed bool) *Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "board.img")
	if bmap != nil {
		storeBmap(t, path+".bmap", bmap)
	}
	if compressed {
		path = store(t, path+".gz", zipped(t, content))
	} else {
		store(t, path, content)
	}
	img, err := OpenImage(path, ImageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	if err := img.Check(t.Context(), 0, nil); err != nil {
		t.Fatal(err)
	}
	return img
}

func runOne(t *testing.T, img *Image, d Device, o Options) Result {
	t.Helper()
	return Run(t.Context(), img, []*Target{{Name: "card", Device: d}}, o)[0]
}

func hasTable(b []byte) bool {
	_, err := imaging.ReadMap(bytes.NewReader(b), int64(len(b)))
	return err == nil
}

// TestSameContentEverywhere: whatever was on the device, everything that matters is the same afterwards, and where the device
// zeroes by itself every byte is.
func TestSameContentEverywhere(t *testing.T) {
	t.Parallel()
	content := testImage(1)
	older := func(b []byte) {
		copy(b, testImage(2))
		copy(b[3*mib:], "an environment that is valid")
		fillA5(b[16*mib : 18*mib])
	}
	for _, compressed := range []bool{false, true} {
		for name, bmap := range map[string]*imaging.Bmap{"no bmap": nil, "bmap": mapOf(content)} {
			img := checked(t, content, bmap, compressed)
			for before, fill := range map[string]func([]byte){"zeros": nil, "A5": fillA5, "older": older} {
				for _, zeroes := range []bool{false, true} {
					for _, delta := range []bool{false, true} {
						d := newDisk(testSize+3*mib, fill)
						var dev Device = d
						if zeroes {
							dev = zeroingDisk{d}
						}
						r := runOne(t, img, dev, Options{Delta: delta})
						where := fmt.Sprintf("%s, compressed %t, over %s, zeroes %t, delta %t", name, compressed, before, zeroes, delta)
						if r.Err != nil || r.Outcome != Complete || !r.Verified {
							t.Fatalf("%s: %+v", where, r)
						}
						same := []Range{{0, testSize}}
						if bmap != nil && (!zeroes || delta) { // the middle of slot B is nobody's
							same = mustMap(img.Map, testSize, 4096)
							for _, m := range bmap.Ranges {
								off, size := bmap.Extent(m)
								same = append(same, Range{off, size})
							}
							same = union(same)
						}
						for _, s := range same {
							if !bytes.Equal(d.medium[s.Offset:s.End()], content[s.Offset:s.End()]) {
								t.Errorf("%s: the bytes %s differ", where, s)
							}
						}
						if imaging.AllZeros(d.medium[len(d.medium)-512:]) != true {
							t.Errorf("%s: an old backup table is left at the end", where)
						}
					}
				}
			}
		}
	}
}

// TestKilledAnywhere: power fails at every operation; what is left never has a table unless it is the old system, untouched, or
// the new one, complete.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	content, old := testImage(1), testImage(2)
	img := checked(t, content, mapOf(content), false)
	for _, delta := range []bool{false, true} {
		states := map[string]int{}
		for at := 1; ; at++ {
			d := newDisk(testSize, func(b []byte) { copy(b, old) })
			d.dieAt = at
			r := runOne(t, img, d, Options{Delta: delta})
			if r.Err == nil {
				if at < 10 {
					t.Fatalf("only %d operations", at)
				}
				break
			}
			if !errors.Is(r.Err, errPower) {
				t.Fatal(r.Err)
			}
			d.dieAt = 0
			d.powerCut(uint64(at))
			if !hasTable(d.medium) {
				states["none"]++
				continue
			}
			intact := func(want []byte) bool { // the old system may have lost its backup table
				return bytes.Equal(d.medium[:testSize-tableArea], want[:testSize-tableArea])
			}
			inside := Range{tableArea, testSize - 2*tableArea}
			switch {
			case d.medium[510] == 0 && bytes.Equal(d.medium[inside.Offset:inside.End()], content[inside.Offset:inside.End()]):
				states["new, without its first sector"]++ // all is in place and was read back; without sector 0 nobody looks for it
			case intact(old):
				states["old"]++
			case intact(content):
				states["new"]++
			default:
				t.Errorf("killed at operation %d (delta %t): there is a table, but the content is neither old nor new", at, delta)
			}
		}
		if states["none"] == 0 || states["old"] == 0 {
			t.Errorf("delta %t: states seen: %v", delta, states)
		}
	}
}

// TestBytesWritten: a default image with an empty slot B is written with at least 3 times fewer bytes than dd would.
func TestBytesWritten(t *testing.T) {
	t.Parallel()
	content := testImage(1)
	img := checked(t, content, mapOf(content), false)
	d := newDisk(testSize, fillA5)
	r := runOne(t, img, zeroingDisk{d}, Options{})
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if r.Written != d.written || d.written*3 > testSize {
		t.Errorf("%d bytes written, reported as %d; dd writes %d", d.written, r.Written, testSize)
	}
	again := &disk{medium: d.medium}
	if r := runOne(t, img, again, Options{Delta: true}); r.Err != nil || again.written != 0 || r.Skipped == 0 || r.Outcome != Complete {
		t.Errorf("a second run with delta wrote %d bytes: %+v", again.written, r)
	}
	again.medium[9*mib] ^= 1
	if r := runOne(t, img, again, Options{Delta: true}); r.Err != nil || again.written > 10*mib || !bytes.Equal(again.medium, content) {
		t.Errorf("one byte differs: %d bytes were written: %+v", again.written, r)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	content := testImage(1)
	img := checked(t, content, nil, false)
	bad := Range{9 * mib, 4096}
	hit := func(off, n int64) bool { return bad.within(off, n).Size > 0 }
	for name, c := range map[string]struct {
		set     func(d *disk)
		outcome Outcome
		want    string // in the error; "": none
		verify  bool   // it is a VerifyError
	}{
		"write error":       {func(d *disk) { d.onWrite = func(off, n int64) error { return when(hit(off, n), syscall.EIO) } }, NoTable, "writing at 8 MiB", false},
		"gone":              {func(d *disk) { d.onWrite = func(off, n int64) error { return when(hit(off, n), syscall.ENODEV) } }, NoTable, "no such device", false},
		"full":              {func(d *disk) { d.onWrite = func(off, n int64) error { return when(hit(off, n), syscall.ENOSPC) } }, NoTable, "no space", false},
		"no write at all":   {func(d *disk) { d.onWrite = func(int64, int64) error { return syscall.EROFS } }, NoTable, "read-only", false},
		"bad on read back":  {func(d *disk) { d.onRead = func(off, n int64) error { return when(hit(off, n), syscall.EIO) } }, NoTable, "cannot be read back", true},
		"flipped bit":       {func(d *disk) { d.spoil = func(p []byte, off int64) { flipIn(p, off, bad.Offset) } }, NoTable, "8388608-", true},
		"bad table":         {func(d *disk) { d.spoil = func(p []byte, off int64) { flipIn(p, off, 600) } }, NoTable, "cannot be read back", true},
		"gone on read back": {func(d *disk) { d.onRead = func(off, n int64) error { return when(hit(off, n), syscall.ENXIO) } }, NoTable, "no such device or address", false},
		"heals when read again": {func(d *disk) {
			left := 2
			d.spoil = func(p []byte, off int64) {
				if left > 0 && hit(off, int64(len(p))) {
					left--
					flipIn(p, off, bad.Offset)
				}
			}
		}, Complete, "", false},
		"heals when written again": {func(d *disk) {
			writes := 0
			d.onWrite = func(off, n int64) error {
				if hit(off, n) {
					writes++
				}
				return nil
			}
			d.spoil = func(p []byte, off int64) {
				if writes < 3 {
					flipIn(p, off, bad.Offset)
				}
			}
		}, Complete, "", false},
		"smaller than it says": {func(d *disk) {
			d.spoil = func(p []byte, off int64) {
				if off >= 12*mib {
					clear(p)
				}
			}
		}, NoTable, "cannot be read back", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDisk(testSize, func(b []byte) { copy(b, testImage(2)) })
			c.set(d)
			r := runOne(t, img, d, Options{})
			if c.want == "" {
				if r.Err != nil || r.Outcome != c.outcome || !bytes.Equal(d.medium, content) {
					t.Fatalf("%+v", r)
				}
				return
			}
			var wrong *VerifyError
			if r.Err == nil || !strings.Contains(r.Err.Error(), c.want) || errors.As(r.Err, &wrong) != c.verify || r.Outcome != c.outcome {
				t.Errorf("%+v, want %q, %s", r, c.want, c.outcome)
			}
			if c.verify && len(wrong.Bad) == 0 {
				t.Error("no ranges are named")
			}
			var hint interface{ Hint() string }
			if !errors.As(r.Err, &hint) || hint.Hint() == "" {
				t.Errorf("no advice with %v", r.Err)
			}
			if name != "no write at all" && hasTable(d.medium) {
				t.Error("the device has a table")
			}
		})
	}
}

func when(b bool, err error) error {
	if b {
		return err
	}
	return nil
}

func flipIn(p []byte, off, at int64) {
	if at >= off && at < off+int64(len(p)) {
		p[at-off] ^= 4
	}
}

func TestSeveralTargets(t *testing.T) {
	t.Parallel()
	content := testImage(1)
	for _, compressed := range []bool{false, true} {
		img := checked(t, content, nil, compressed)
		good, small, broken, stuck, other := newDisk(testSize, fillA5), newDisk(testSize-512, nil), newDisk(testSize, nil), newDisk(testSize, nil), newDisk(testSize+mib, nil)
		broken.onWrite = func(off, _ int64) error { return when(off >= 8*mib, syscall.EIO) }
		release := make(chan struct{})
		t.Cleanup(func() { close(release) })
		devices := []*disk{good, small, broken, stuck, other}
		var targets []*Target
		for i, d := range devices {
			targets = append(targets, &Target{Name: fmt.Sprint("card ", i), Device: d})
		}
		stuck.onWrite = func(off, _ int64) error {
			if off >= 4*mib && off < 20*mib {
				<-release // for ever, as far as the run is concerned
			}
			return nil
		}
		results := Run(t.Context(), img, targets, Options{StallTimeout: 3 * time.Second})
		for i, want := range []Outcome{Complete, Untouched, NoTable, NoTable, Complete} {
			if results[i].Outcome != want || (results[i].Err == nil) != (want == Complete) {
				t.Errorf("target %d: %+v, want %s", i, results[i], want)
			}
		}
		if !errors.Is(results[3].Err, errStalled) {
			t.Errorf("the stuck one: %v", results[3].Err)
		}
		for _, d := range []*disk{good, other} {
			if !bytes.Equal(d.medium[:testSize], content) {
				t.Error("a good one differs")
			}
		}
	}
}

func TestRefusedImages(t *testing.T) {
	t.Parallel()
	content := testImage(1)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := verify.NewKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	keyring, err := verify.NewKeyring(public)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(b []byte) []byte {
		digest := sha256.Sum256(b)
		sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	good := func(dir string) {
		storeBmap(t, dir+"/board.img.bmap", mapOf(content))
		store(t, dir+"/board.img", content)
	}
	signFile := func(t *testing.T, name string) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		store(t, name+".sig", []byte(base64.StdEncoding.EncodeToString(sign(b))+"\n"))
	}
	changed := slices.Clone(content)
	changed[9*mib] ^= 1
	inHole := slices.Clone(content)
	inHole[16*mib] = 1
	digest := sha256.Sum256(content)
	for name, c := range map[string]struct {
		set   func(t *testing.T, dir string) string // returns the image
		o     ImageOptions
		limit int64
		want  string // "": fine
	}{
		"good":              {func(_ *testing.T, d string) string { good(d); return d + "/board.img" }, ImageOptions{}, 0, ""},
		"changed in range":  {func(t *testing.T, d string) string { good(d); return store(t, d+"/board.img", changed) }, ImageOptions{}, 0, "do not have the checksum"},
		"changed in a hole": {func(t *testing.T, d string) string { good(d); return store(t, d+"/board.img", inHole) }, ImageOptions{}, 0, "leaves out the bytes"},
		"shorter":           {func(t *testing.T, d string) string { good(d); return store(t, d+"/board.img", content[:testSize-512]) }, ImageOptions{}, 0, "it is for an image of"},
		"shorter inside": {func(t *testing.T, d string) string {
			good(d)
			return store(t, d+"/board.img.gz", zipped(t, content[:testSize-8*mib]))
		}, ImageOptions{}, 0, "its block map is for one of"},
		"cut off": {func(t *testing.T, d string) string {
			z := zipped(t, content)
			return store(t, d+"/board.img.gz", z[:len(z)/2])
		}, ImageOptions{}, 0, "ends too early"},
		"broken bmap": {func(t *testing.T, d string) string {
			good(d)
			b, _ := os.ReadFile(d + "/board.img.bmap")
			store(t, d+"/board.img.bmap", bytes.Replace(b, []byte("</ImageSize>"), []byte("1</ImageSize>"), 1))
			return d + "/board.img"
		}, ImageOptions{}, 0, "block map"},
		"sha256 given":       {func(_ *testing.T, d string) string { good(d); return d + "/board.img" }, ImageOptions{SHA256: strings.Repeat("0", 64)}, 0, "its SHA-256 is"},
		"right sha256 given": {func(_ *testing.T, d string) string { good(d); return d + "/board.img" }, ImageOptions{SHA256: hex.EncodeToString(digest[:])}, 0, ""},
		"sha256 beside": {func(t *testing.T, d string) string {
			good(d)
			store(t, d+"/board.img.sha256", []byte(strings.Repeat("1", 64)+"  board.img\n"))
			return d + "/board.img"
		}, ImageOptions{}, 0, "board.img.sha256 says"},
		"unsigned": {func(_ *testing.T, d string) string { good(d); return d + "/board.img" }, ImageOptions{Keyring: keyring}, 0, "it is not signed"},
		"only the image signed": {func(t *testing.T, d string) string {
			good(d)
			signFile(t, d+"/board.img")
			return d + "/board.img"
		}, ImageOptions{Keyring: keyring}, 0, "board.img.bmap: it is not signed"},
		"only the image signed, no bmap": {func(t *testing.T, d string) string {
			good(d)
			signFile(t, d+"/board.img")
			return d + "/board.img"
		}, ImageOptions{Keyring: keyring, NoBmap: true}, 0, ""},
		"bmap signed": {func(t *testing.T, d string) string {
			good(d)
			signFile(t, d+"/board.img.bmap")
			return d + "/board.img"
		}, ImageOptions{Keyring: keyring}, 0, ""},
		"signature in bytes": {func(t *testing.T, d string) string {
			good(d)
			store(t, d+"/board.img.sig", sign(content))
			return d + "/board.img"
		}, ImageOptions{Keyring: keyring, NoBmap: true}, 0, ""},
		"signed for another": {func(t *testing.T, d string) string {
			good(d)
			store(t, d+"/board.img.sig", sign(changed))
			return d + "/board.img"
		}, ImageOptions{Keyring: keyring, NoBmap: true}, 0, "not by a trusted key"},
		"bomb":      {func(t *testing.T, d string) string { return store(t, d+"/board.img.gz", zipped(t, content)) }, ImageOptions{}, 8 * mib, "needs more than 8 MiB"},
		"too large": {func(t *testing.T, d string) string { return store(t, d+"/board.img", content) }, ImageOptions{}, 8 * mib, "needs 24 MiB"},
		"empty":     {func(t *testing.T, d string) string { return store(t, d+"/board.img", nil) }, ImageOptions{}, 0, "it is empty"},
		"a bmap":    {func(_ *testing.T, d string) string { good(d); return d + "/board.img.bmap" }, ImageOptions{}, 0, "a block map, not an image"},
		"qcow2":     {func(t *testing.T, d string) string { return store(t, d+"/x", []byte("QFI\xfb1234")) }, ImageOptions{}, 0, "qcow2"},
		"vmdk":      {func(t *testing.T, d string) string { return store(t, d+"/x", []byte("KDMV1234")) }, ImageOptions{}, 0, "it is a VMDK disk"},
		"fixed vhd": {func(t *testing.T, d string) string {
			return store(t, d+"/x", append(make([]byte, 4096), append([]byte("conectix"), make([]byte, 504)...)...))
		}, ImageOptions{}, 0, "it is a VHD disk"},
		"key":           {func(t *testing.T, d string) string { return store(t, d+"/x", []byte("-----BEGIN PRIVATE KEY-----\n")) }, ImageOptions{}, 0, "it is a key or certificate (PEM), not a disk image"},
		"text":          {func(t *testing.T, d string) string { return store(t, d+"/x", []byte("hello")) }, ImageOptions{}, 0, "it has no partition table, no file system"},
		"text, packed":  {func(t *testing.T, d string) string { return store(t, d+"/x.gz", zipped(t, []byte("hello"))) }, ImageOptions{}, 0, "it has no partition table, no file system"},
		"text, meant":   {func(t *testing.T, d string) string { return store(t, d+"/x", []byte("hello")) }, ImageOptions{Raw: true}, 0, ""},
		"boot code":     {func(t *testing.T, d string) string { return store(t, d+"/x", append(make([]byte, 510), 0x55, 0xaa)) }, ImageOptions{}, 0, ""},
		"a file system": {func(t *testing.T, d string) string { return store(t, d+"/x", append(make([]byte, 1080), 0x53, 0xef)) }, ImageOptions{}, 0, ""},
		"a folder":      {func(_ *testing.T, d string) string { return d }, ImageOptions{}, 0, "not a file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img, err := OpenImage(c.set(t, t.TempDir()), c.o)
			if err == nil {
				defer img.Close()
				err = img.Check(t.Context(), c.limit, nil)
			}
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want == "" && c.o.Keyring != nil && img.KeyID != public.ID:
				t.Errorf("signed by %q", img.KeyID)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestChangedMeanwhile: an image that changes between the check and the write leaves no table.
func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	content := testImage(1)
	img := checked(t, content, nil, false)
	content[9*mib] ^= 1
	store(t, img.Path, content)
	d := newDisk(testSize, nil)
	r := runOne(t, img, d, Options{})
	if r.Err == nil || !strings.Contains(r.Err.Error(), "have changed since") || r.Outcome != NoTable || hasTable(d.medium) {
		t.Errorf("%+v", r)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n")
	f.Add("36 35 98:0 /mnt1 /mnt\\0402 rw master:1 - ext3 /dev/root rw\n")
	f.Add("Filename Type Size\n/swap\\040file file 1 2 3\n")
	f.Add("E:ID_MODEL=x\nS:disk\n")
	f.Add(strings.Repeat("0", 64) + " *board.img\n")
	f.Add("SHA256 (board.img) = " + strings.Repeat("a", 64) + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		if mounts, err := parseMounts(text); err == nil {
			for _, m := range mounts {
				if m.dev == "" || m.point == "" {
					t.Errorf("%+v", m)
				}
			}
		}
		parseSwaps(text)
		parseUdev(text)
		if sum, err := parseSum(text, "board.img"); err == nil && len(sum) != 64 {
			t.Errorf("%q", sum)
		}
		if c := clean(text); strings.ContainsAny(c, "\x1b\n\r\x00") {
			t.Errorf("%q", c)
		}
	})
}
