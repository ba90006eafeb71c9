package imaging

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"slices"
)

// A slot B is usually filled like slot A. Whatever is computed of an area's bytes alone is computed once: twin says of which earlier
// area's source, size and surroundings a piece is a repetition.

// twins maps the place of a piece to that of the first piece with the same bytes in an area of the same size.
func (r *imageReader) twins() map[int64]int64 {
	type key struct {
		path             string
		base, size, room int64
	}
	first, twins := make(map[key]int64), make(map[int64]int64)
	for _, p := range r.pieces {
		room := p.region.Size
		if p.path == "" || p.off()%blockSize != 0 || room%blockSize != 0 || r.tables.touches(p.off(), p.region.End()) {
			continue
		}
		k := key{p.path, p.base, p.size, room}
		if at, known := first[k]; known {
			twins[p.off()] = at
		} else {
			first[k] = p.off()
		}
	}
	return twins
}

// MaxWholeDigest is the size up to which SHA-256 are taken of all bytes. Zeros cost as much as any others then, about a second for
// each 2 GiB.
const MaxWholeDigest = 4 << 30

// imageDigest is the SHA-256 of the whole image, holes included.
type imageDigest struct {
	h   hash.Hash
	sum string
}

func newImageDigest() *imageDigest { return &imageDigest{h: sha256.New()} }

func (d *imageDigest) put(w *window) error {
	return w.each(w.off, w.off+w.size, func(b []byte) error { d.h.Write(b); return nil })
}

func (d *imageDigest) finish() error {
	d.sum = hex.EncodeToString(d.h.Sum(nil))
	return nil
}

// sparseDigest is what [SparseSHA256] describes.
type sparseDigest struct {
	h    hash.Hash
	size int64
	sum  string
}

func newSparseDigest() *sparseDigest { return &sparseDigest{h: sha256.New()} }

func (d *sparseDigest) put(w *window) error {
	d.size = w.off + w.size
	if w.data != nil && w.nonzero != 0 {
		d.add(w.off, w.data)
	}
	return nil
}

// add takes a window that holds anything but zeros.
func (d *sparseDigest) add(off int64, data []byte) {
	var record [8 + sha256.Size]byte
	binary.BigEndian.PutUint64(record[:], uint64(off))
	sum := sha256.Sum256(data)
	copy(record[8:], sum[:])
	d.h.Write(record[:])
}

func (d *sparseDigest) finish() error {
	d.h.Write(binary.BigEndian.AppendUint64(nil, uint64(d.size)))
	d.sum = hex.EncodeToString(d.h.Sum(nil))
	return nil
}

// SparseSHA256 digests a file without paying for its zeros: it is the SHA-256 of a record for each 256 KiB, at multiples of
// that, which are not all zeros, and of the file's size. A record is the offset (8 bytes, as the size, big-endian) and the
// SHA-256 of those bytes. Two files have the same one when they have the same bytes, whatever of them are holes.
func SparseSHA256(ctx context.Context, f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	d := newSparseDigest()
	d.size = info.Size()
	buf := make([]byte, windowSize)
	for at := int64(0); at < d.size; {
		start, end := nextData(f, at, d.size)
		for at = start - start%windowSize; at < end; at += windowSize {
			if err := ctx.Err(); err != nil {
				return "", err
			}
			data := buf[:min(windowSize, d.size-at)]
			if _, err := f.ReadAt(data, at); err != nil {
				return "", fmt.Errorf("reading %s: %w", f.Name(), err)
			}
			if !AllZeros(data) {
				d.add(at, data)
			}
		}
	}
	err = d.finish()
	return d.sum, err
}

// AllZeros tells whether there is nothing but zeros.
func AllZeros(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// areaDigests are those of the contents, each over its own size. One above the limit has none unless the caller knows it, nor has one with holes for
// others, since not all of it is in the image.
type areaDigests struct {
	pieces []*piece // sorted
	todo   []*piece
	twins  map[int64]int64
	limit  int64 // of contents that are digested
	h      hash.Hash
	sums   map[int64]string // by place
}

func newAreaDigests(r *imageReader, twins map[int64]int64, limit int64) *areaDigests {
	d := &areaDigests{twins: twins, limit: limit, sums: make(map[int64]string)}
	for _, p := range r.pieces {
		if !p.part {
			d.pieces = append(d.pieces, p)
		}
	}
	d.todo = d.pieces
	return d
}

func (d *areaDigests) put(w *window) error {
	for len(d.todo) > 0 {
		p := d.todo[0]
		start, end := max(w.off, p.off()), min(w.off+w.size, p.end())
		if start >= end {
			break
		}
		at, twin := d.twins[p.off()]
		read := !twin && p.sha256 == "" && p.size <= d.limit
		if read {
			if start == p.off() {
				d.h = sha256.New()
			}
			_ = w.each(start, end, func(b []byte) error { d.h.Write(b); return nil })
		}
		if end < p.end() {
			break
		}
		switch {
		case p.sha256 != "":
			d.sums[p.off()] = p.sha256
		case twin:
			d.sums[p.off()] = d.sums[at]
		case read:
			d.sums[p.off()] = hex.EncodeToString(d.h.Sum(nil))
		}
		d.todo = d.todo[1:]
	}
	return nil
}

func (d *areaDigests) finish() error { return nil }

const (
	// maxRangeBlocks makes ranges of at most 16 MiB, so that a flasher has little to repeat when one turns out bad.
	maxRangeBlocks = 4096
	// bmapPatience is the number of ranges after which short gaps are mapped too, twice as long ones each time. It
	// bounds the map of an image of any size without looking ahead, and so without a second pass.
	bmapPatience = 1 << 14
)

// bmapper makes the block map: blocks that hold anything, and those that must be written though they hold zeros. It
// looks at nothing but the content, since what a host's file system says about holes differs from host to host and
// from one minute to the next.
type bmapper struct {
	must  *blockSet
	areas []bmapArea // without a gap, up to the image's end
	area  int
	out   Bmap
	open  bool  // the last range can still grow
	gap   int64 // blocks of zeros behind the last range that may yet be taken into it
	h     hash.Hash

	patience int
}

// bmapArea is a part of the image whose ranges are its own: none reaches into another area.
type bmapArea struct {
	start, end  int64
	twin        int // index of the area that has the same ranges; -1: none
	first, last int // indexes of its ranges, last is excluded
}

func newBmapper(m *Map, must *blockSet, twins map[int64]int64) *bmapper {
	b := &bmapper{
		must: must, h: sha256.New(), patience: bmapPatience,
		out: Bmap{Version: bmapVersion, ImageSize: m.Size, BlockSize: blockSize, ChecksumType: "sha256"},
	}
	cuts := []int64{0, m.Size}
	for _, r := range m.Regions {
		for _, at := range []int64{alignUp(r.Offset, blockSize), alignUp(r.End(), blockSize)} {
			cuts = append(cuts, min(at, m.Size))
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	index := make(map[int64]int)
	for i := range cuts[:len(cuts)-1] {
		area := bmapArea{start: cuts[i], end: cuts[i+1], twin: -1}
		index[area.start] = i
		if at, known := twins[area.start]; known {
			area.twin = index[at]
		}
		b.areas = append(b.areas, area)
	}
	return b
}

func (b *bmapper) put(w *window) error {
	run := func(start, end int64, mapped bool) error { b.run(w, start, end, mapped); return nil }
	if w.data != nil {
		return runs(w.nonzero|b.must.word(w.off/windowSize), w.off, w.size, run)
	}
	for off := w.off; off < w.off+w.size; off += windowSize {
		if err := runs(b.must.word(off/windowSize), off, min(windowSize, w.off+w.size-off), run); err != nil {
			return err
		}
	}
	return nil
}

// run takes blocks that are all mapped or all not.
func (b *bmapper) run(w *window, start, end int64, mapped bool) {
	for start < end {
		for start >= b.areas[b.area].end {
			b.close()
			b.areas[b.area].last = len(b.out.Ranges)
			b.area++
			b.areas[b.area].first = len(b.out.Ranges)
			b.repeat()
		}
		stop := min(end, b.areas[b.area].end)
		switch {
		case b.areas[b.area].twin >= 0: // done by repeat
		case !mapped:
			b.skip((stop - start) / blockSize)
		default:
			stop = b.take(w, start, stop)
		}
		start = stop
	}
}

// repeat copies the ranges of an area that has the same bytes.
func (b *bmapper) repeat() {
	area := b.areas[b.area]
	if area.twin < 0 {
		return
	}
	twin := b.areas[area.twin]
	shift := (area.start - twin.start) / blockSize
	for _, r := range b.out.Ranges[twin.first:twin.last] {
		b.out.Ranges = append(b.out.Ranges, BmapRange{r.First + shift, r.Last + shift, r.Checksum})
	}
}

// take maps blocks up to end, or up to where the range is long enough, and returns where it stopped.
func (b *bmapper) take(w *window, start, end int64) int64 {
	first := start / blockSize
	last := len(b.out.Ranges) - 1
	if b.open && first+1-b.out.Ranges[last].First > maxRangeBlocks {
		b.close()
	}
	if !b.open {
		b.out.Ranges = append(b.out.Ranges, BmapRange{First: first})
		last = len(b.out.Ranges) - 1
		b.open, b.gap = true, 0
		b.h.Reset()
	}
	for ; b.gap > 0; b.gap-- {
		b.h.Write(zeros[:])
	}
	stop := min(end, (b.out.Ranges[last].First+maxRangeBlocks)*blockSize)
	_ = w.each(start, stop, func(data []byte) error { b.h.Write(data); return nil })
	b.out.Ranges[last].Last = (stop - 1) / blockSize
	return stop
}

// skip leaves blocks of zeros out, unless the map is so long already that a short gap is better taken in.
func (b *bmapper) skip(blocks int64) {
	if !b.open {
		return
	}
	b.gap += blocks
	if b.gap >= int64(1)<<min(len(b.out.Ranges)/b.patience, 40) {
		b.close()
	}
}

// close ends the range before the blocks of zeros that were seen last.
func (b *bmapper) close() {
	if b.open {
		b.out.Ranges[len(b.out.Ranges)-1].Checksum = hex.EncodeToString(b.h.Sum(nil))
		b.open, b.gap = false, 0
	}
}

func (b *bmapper) finish() error {
	b.close()
	b.areas[b.area].last = len(b.out.Ranges)
	return nil
}

// byPlace sorts what has a place in the image.
func byPlace[T any](list []T, place func(T) int64) {
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(place(a), place(b)) })
}
