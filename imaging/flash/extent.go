package flash

import (
	"cmp"
	"slices"

	"github.com/twinkeel/twinkeel/imaging"
)

// What a foreign block map may leave out and must still read as zeros: boot loader environments lie outside of partitions,
// and a file system is recognised by what its first and last bytes hold.
const (
	mustHead = mib      // of each partition
	mustTail = 64 * kib // of each partition: md and some file systems keep a superblock there
	mustGap  = 64 * mib // of each space outside of partitions
	// mustBlind is the start of an image whose table is not known.
	mustBlind = 32 * mib
)

// union sorts ranges and joins those that touch or overlap. Empty ones vanish.
func union(ranges []Range) []Range {
	sorted := slices.DeleteFunc(slices.Clone(ranges), func(r Range) bool { return r.Size <= 0 })
	slices.SortFunc(sorted, func(a, b Range) int { return cmp.Compare(a.Offset, b.Offset) })
	var out []Range
	for _, r := range sorted {
		if n := len(out); n > 0 && r.Offset <= out[n-1].End() {
			out[n-1].Size = max(out[n-1].End(), r.End()) - out[n-1].Offset
		} else {
			out = append(out, r)
		}
	}
	return out
}

// complement is what a union leaves of the first size bytes.
func complement(ranges []Range, size int64) []Range {
	var out []Range
	at := int64(0)
	for _, r := range ranges {
		if r.Offset >= size {
			break
		}
		if r.Offset > at {
			out = append(out, Range{at, r.Offset - at})
		}
		at = max(at, r.End())
	}
	if at < size {
		out = append(out, Range{at, size - at})
	}
	return out
}

// clip is the part of r inside the first size bytes.
func (r Range) clip(size int64) Range {
	start, end := min(max(r.Offset, 0), size), min(r.End(), size)
	return Range{start, max(end-start, 0)}
}

// within is the part of r inside a window.
func (r Range) within(offset, size int64) Range {
	start, end := max(r.Offset, offset), min(r.End(), offset+size)
	return Range{start, max(end-start, 0)}
}

// mustMap is what has to be written or zeroed whatever a block map says, in whole blocks of it.
func mustMap(m *imaging.Map, size, block int64) []Range {
	var parts, must []Range
	must = append(must, Range{0, tableArea}, Range{size - tableArea, tableArea})
	if m == nil {
		must = append(must, Range{0, mustBlind})
	} else {
		for _, r := range m.Regions {
			if r.Kind == imaging.KindPartition {
				parts = append(parts, Range{r.Offset, r.Size})
				must = append(must, Range{r.Offset, min(mustHead, r.Size)}, Range{r.End() - min(mustTail, r.Size), min(mustTail, r.Size)})
			}
		}
		for _, gap := range complement(union(parts), size) {
			must = append(must, Range{gap.Offset, min(gap.Size, mustGap)})
		}
	}
	for i, r := range must {
		start := max(r.Offset, 0) / block * block
		end := (r.End() + block - 1) / block * block
		must[i] = Range{start, end - start}.clip(size)
	}
	return union(must)
}
