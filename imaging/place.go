package imaging

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// candidate is a partition on its way to a place.
type candidate struct {
	Region
	align  int64
	lead   int64 // bytes in front of it that it needs too: the boot record of a logical partition
	pinned bool  // its offset is given
	rest   bool
}

// placePartitions gives all partitions their sizes and offsets.
func (r *resolver) placePartitions() ([]Region, error) {
	roles, err := r.roles()
	if err != nil {
		return nil, err
	}
	var list []candidate
	for i, p := range r.Partitions {
		c, err := r.candidate(p, roles[i])
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if err := r.checkGrow(); err != nil {
		return nil, err
	}
	if err := checkUnique(r.DiskID, list); err != nil {
		return nil, err
	}
	if err := r.shareRest(list); err != nil {
		return nil, err
	}
	placed, err := r.place(list)
	if err != nil {
		return nil, err
	}
	if last := len(placed) - 1; r.Partitions[last].Grow {
		placed[last].Size = r.grown(placed)
	}
	for _, p := range placed {
		if err := checkSmallest(p); err != nil {
			return nil, err
		}
	}
	return placed, nil
}

func (r *resolver) candidate(p Partition, role role) (candidate, error) {
	if err := r.checkPartition(p); err != nil {
		return candidate{}, err
	}
	c := candidate{
		align: cmp.Or(p.Align, r.alignment), pinned: p.Offset != 0, rest: p.Rest,
		Region: Region{
			Kind: KindPartition, Name: p.Name, Number: role.number, Logical: role.logical, Offset: p.Offset, Size: p.Size,
			Filesystem: cmp.Or(p.Filesystem, FilesystemNone), Label: p.Label, Bootable: p.Bootable, Slot: p.Slot, InMBR: p.InMBR,
		},
	}
	if p.Percent != 0 {
		c.Size = portion(r.DiskSize, p.Percent)
		if c.Size -= c.Size % c.align; c.Size == 0 {
			return c, refuse("", "partition %q has %v percent of %s, which is less than its alignment: %s",
				p.Name, p.Percent, FormatSize(r.DiskSize), FormatSize(c.align))
		}
	}
	if role.logical {
		c.lead = ebrLead * r.sector
	}
	return c, r.identify(p, &c.Region)
}

// portion is percent of size, counted in millionths, so that no machine rounds it differently.
func portion(size int64, percent float64) int64 {
	hi, lo := bits.Mul64(uint64(size), uint64(math.Round(percent*1e6)))
	n, _ := bits.Div64(hi, lo, 1e8)
	return int64(n)
}

func (r *resolver) checkGrow() error {
	rest := slices.IndexFunc(r.Partitions, func(p Partition) bool { return p.Rest })
	for i, p := range r.Partitions {
		switch {
		case !p.Grow:
		case i != len(r.Partitions)-1:
			return refuse("put it last", "partition %q can grow, but partition %q comes after it", p.Name, r.Partitions[i+1].Name)
		case rest >= 0:
			return refuse("let one of them", "partition %q takes the rest of the disk and partition %q grows into it", r.Partitions[rest].Name, p.Name)
		}
	}
	return nil
}

// place gives every candidate an offset and checks that they all fit.
func (r *resolver) place(list []candidate) ([]Region, error) {
	placed := make([]Region, 0, len(list))
	cursor := r.first
	for _, c := range list {
		if !c.pinned {
			c.Offset = r.nextGap(cursor, c)
		}
		if c.Offset < r.first {
			table := r.fixed[slices.IndexFunc(r.fixed, func(f Region) bool { return f.Kind == KindTable && f.End() == r.first })]
			return nil, refuse(fmt.Sprintf("the first place behind the partition table is %s", FormatSize(r.first)),
				"%s begins before the end of %s", c.describe(), table.describe())
		}
		if r.DiskSize > 0 && c.End() > r.DiskSize-r.backupSize() {
			return nil, r.tooSmall(c.Region, placed)
		}
		placed = append(placed, c.Region)
		cursor = c.End()
	}
	return placed, checkOverlap(slices.Concat(r.fixed, placed))
}

// nextGap finds the first aligned place from cursor on where the candidate touches no fixed area.
func (r *resolver) nextGap(cursor int64, c candidate) int64 {
	at := alignUp(cursor+c.lead, c.align)
	for _, f := range r.fixed { // sorted
		if f.Kind == KindBackupTable {
			continue
		}
		for _, s := range f.Pieces() {
			if at-c.lead < s.End() && s.Offset < at+c.Size {
				at = alignUp(s.End()+c.lead, c.align)
			}
		}
	}
	return at
}

// shareRest gives the candidates that take the rest of the disk the largest size with which everything fits, the same to
// each. With a larger size every place moves up or stays, so that halving the interval finds it.
func (r *resolver) shareRest(list []candidate) error {
	var rests []*candidate
	least := r.alignment
	for i := range list {
		if c := &list[i]; c.rest {
			rests = append(rests, c)
			least = max(least, alignUp(c.Size, r.alignment))
		}
	}
	if len(rests) == 0 {
		return nil
	}
	fits := func(units int64) error {
		for _, c := range rests {
			c.Size = units * r.alignment
		}
		_, err := r.place(list)
		return err
	}
	low, high := least/r.alignment, max(least, r.DiskSize)/r.alignment+1
	if err := fits(low); err != nil {
		return err
	}
	for low+1 < high {
		if middle := low + (high-low)/2; fits(middle) == nil {
			low = middle
		} else {
			high = middle
		}
	}
	return fits(low)
}

// grown is the size of the last partition when it takes the rest of the disk: up to the next area, with an aligned end.
func (r *resolver) grown(placed []Region) int64 {
	last := placed[len(placed)-1]
	if r.DiskSize == 0 {
		return last.Size
	}
	end := r.DiskSize
	for _, f := range slices.Concat(r.fixed, placed) {
		for _, s := range f.Pieces() {
			if s.Offset >= last.End() {
				end = min(end, s.Offset)
			}
		}
	}
	end -= end % max(r.alignment, r.sector)
	return max(last.Size, end-last.Offset)
}

// tooSmall explains that area does not fit the given disk size.
func (r *resolver) tooSmall(area Region, placed []Region) error {
	advice := ""
	if m, err := r.unbounded().Resolve(); err == nil {
		advice = fmt.Sprintf("the layout needs a disk of at least %s", FormatSize(m.Size))
	}
	after, backup := "", ""
	if len(placed) > 0 {
		after = " after " + placed[len(placed)-1].describe()
	}
	if n := r.backupSize(); n > 0 {
		backup = fmt.Sprintf(", of which the last %s hold the backup partition table", FormatSize(n))
	}
	return refuse(advice, "%s does not fit%s: the disk has %s%s", area.describe(), after, FormatSize(r.DiskSize), backup)
}

// unbounded is the layout on a disk that is as large as it needs, with every rest at its least. Percentages stay, and so
// does the refusal of them without a disk.
func (r *resolver) unbounded() *Layout {
	free := *r.Layout
	free.DiskSize = 0
	free.Partitions = slices.Clone(r.Partitions)
	for i := range free.Partitions {
		if p := &free.Partitions[i]; p.Rest {
			p.Rest, p.Size = false, max(alignUp(p.Size, r.alignment), r.alignment)
		}
	}
	return &free
}

// checkUnique refuses an identifier that is given twice.
func checkUnique(disk string, list []candidate) error {
	seen := map[string]string{}
	if disk != "" {
		seen[strings.ToLower(disk)] = "the disk"
	}
	for _, c := range list {
		if other := seen[c.UUID]; c.UUID != "" && other != "" {
			return refuse("give each its own, or none: they are then derived from the image's seed",
				"partition %q and %s have the same UUID %s", c.Name, other, c.UUID)
		}
		seen[c.UUID] = fmt.Sprintf("partition %q", c.Name)
	}
	return nil
}
