package imaging

import (
	"cmp"
	"math/bits"
	"slices"
)

// The stream of an image is cut into windows of 64 blocks, so that one word has a bit for each block.
const (
	blockSize  = 4096
	windowSize = 64 * blockSize
	pageSize   = 64 * windowSize
)

// blockSet is a set of an image's blocks of 4 KiB. What it takes grows with how broken up the set is, not with the image:
// 512 bytes for each 16 MiB that are neither wholly in it nor wholly out of it.
type blockSet struct {
	pages map[int64]*[64]uint64
	full  []span // of pages, in the order they were added until sorted
	dirty bool
}

type span struct{ start, end int64 }

func newBlockSet() *blockSet { return &blockSet{pages: make(map[int64]*[64]uint64)} }

// add takes in every block that the bytes from start to end touch.
func (s *blockSet) add(start, end int64) {
	first, last := start/blockSize, (end+blockSize-1)/blockSize // last is excluded
	const perPage = pageSize / blockSize
	for first < last {
		page := first / perPage
		if first%perPage == 0 && last-first >= perPage {
			whole := (last - first) / perPage
			s.full, s.dirty = append(s.full, span{page, page + whole}), true
			first += whole * perPage
			continue
		}
		stop := min(last, (page+1)*perPage)
		p := s.pages[page]
		if p == nil {
			p = new([64]uint64)
			s.pages[page] = p
		}
		for b := first; b < stop; {
			n := min(stop-b, 64-b%64)
			p[b%perPage/64] |= bitRun(int(b%64), int(n))
			b += n
		}
		first = stop
	}
}

func bitRun(from, count int) uint64 {
	if count == 64 {
		return ^uint64(0)
	}
	return (1<<count - 1) << from
}

// word returns the bits of the blocks of one window.
func (s *blockSet) word(window int64) uint64 {
	if s == nil {
		return 0
	}
	page := window / 64
	if s.inFull(page) {
		return ^uint64(0)
	}
	if p := s.pages[page]; p != nil {
		return p[window%64]
	}
	return 0
}

func (s *blockSet) inFull(page int64) bool {
	if s.dirty { // sorted and merged, so that one search tells
		s.dirty = false
		slices.SortFunc(s.full, func(a, b span) int { return cmp.Compare(a.start, b.start) })
		merged := s.full[:0]
		for _, f := range s.full {
			if n := len(merged); n > 0 && f.start <= merged[n-1].end {
				merged[n-1].end = max(merged[n-1].end, f.end)
				continue
			}
			merged = append(merged, f)
		}
		s.full = merged
	}
	i, found := slices.BinarySearchFunc(s.full, page, func(f span, p int64) int { return cmp.Compare(f.start, p) })
	return found || i > 0 && page < s.full[i-1].end
}

// runs calls fn for each run of blocks that are all in bits or all not, from the byte off to size bytes behind it.
func runs(word uint64, off, size int64, fn func(start, end int64, set bool) error) error {
	end := off + size
	for b := 0; b < 64 && off < end; {
		set := word>>b&1 == 1
		w := word >> b
		if set {
			w = ^w
		}
		n := min(bits.TrailingZeros64(w), 64-b)
		stop := min(off+int64(n)*blockSize, end)
		if err := fn(off, stop, set); err != nil {
			return err
		}
		b, off = b+n, stop
	}
	return nil
}
