package imaging

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
)

const (
	mib = int64(1) << 20
	kib = int64(1) << 10

	defaultAlignment = mib
	maxAlignment     = int64(1) << 30
	maxSize          = int64(1) << 56 // keeps every sum of this package inside 63 bits

	gptEntries   = 128
	gptEntrySize = 128
	gptArraySize = gptEntries * gptEntrySize
	maxGPTName   = 36 // UTF-16 units
)

// LayoutError says why a layout is refused. The message names the areas it is about.
type LayoutError struct {
	Reason string
	Advice string // what to do; may be empty
}

func (e *LayoutError) Error() string { return "layout: " + e.Reason }

// Hint says what to do about it.
func (e *LayoutError) Hint() string { return e.Advice }

func refuse(advice, format string, args ...any) error {
	return &LayoutError{Reason: fmt.Sprintf(format, args...), Advice: advice}
}

// smallest sizes in which the usual tools still make a file system of the kind.
var smallestFilesystem = map[string]int64{FilesystemExt4: mib, FilesystemVFAT: 128 * kib}

var filesystems = []string{FilesystemExt4, FilesystemVFAT, FilesystemSquashFS, FilesystemEROFS, FilesystemNone}

// describe names a region and its place in messages.
func (r Region) describe() string {
	name := ""
	switch r.Kind {
	case KindTable:
		name = "the partition table"
	case KindBackupTable:
		name = "the backup partition table"
	default:
		name = fmt.Sprintf("%s %q", r.Kind, r.Name)
	}
	return fmt.Sprintf("%s (%s to %s)", name, place(r.Offset), place(r.End()))
}

// tableSize is the size of the protective MBR, the GPT header and its array, and of the backup, which has no MBR.
func tableSize(sector int64) (primary, backup int64) {
	array := (gptArraySize + sector - 1) / sector * sector
	return 2*sector + array, array + sector
}

// Resolve gives every area its offset: reserves stand where they are told to, partitions follow one another at
// multiples of the alignment and skip over reserves. It refuses a layout that cannot be written or that the reader of
// some tool would misunderstand; the error is a [*LayoutError].
func (l *Layout) Resolve() (*Map, error) {
	sector, alignment, err := l.checkHead()
	if err != nil {
		return nil, err
	}
	if err := l.checkNames(); err != nil {
		return nil, err
	}
	primary, backup := tableSize(sector)
	fixed := []Region{{Kind: KindTable, Name: TableGPT, Offset: 0, Size: primary}}
	if l.DiskSize > 0 {
		if l.DiskSize < primary+backup {
			return nil, refuse("", "the disk has %s, less than its two partition tables need: %s", FormatSize(l.DiskSize), FormatSize(primary+backup))
		}
		fixed = append(fixed, Region{Kind: KindBackupTable, Name: TableGPT, Offset: l.DiskSize - backup, Size: backup})
	}
	for _, r := range l.Reserves {
		area, err := l.checkReserve(r, sector)
		if err != nil {
			return nil, err
		}
		fixed = append(fixed, area)
	}
	if err := checkOverlap(fixed); err != nil {
		return nil, err
	}
	if err := l.checkSlots(); err != nil {
		return nil, err
	}
	regions, err := l.placePartitions(fixed, sector, alignment)
	if err != nil {
		return nil, err
	}
	regions = append(regions, fixed...)
	byOffset(regions)
	size := l.DiskSize
	if size == 0 {
		last := regions[len(regions)-1].End()
		size = alignUp(last+backup, max(alignment, sector))
		regions = append(regions, Region{Kind: KindBackupTable, Name: TableGPT, Offset: size - backup, Size: backup})
	}
	return &Map{Table: TableGPT, SectorSize: sector, Size: size, Regions: regions}, nil
}

func (l *Layout) checkHead() (sector, alignment int64, err error) {
	switch l.Table {
	case "", TableGPT:
	case "mbr":
		return 0, 0, refuse(`use table = "gpt"`, "partition table %q is not supported yet, only %q", l.Table, TableGPT)
	default:
		return 0, 0, refuse(`use table = "gpt"`, "unknown partition table %q", l.Table)
	}
	sector = cmp.Or(l.SectorSize, 512)
	if sector != 512 && sector != 4096 {
		return 0, 0, refuse("sectors have 512 or 4096 bytes", "a sector of %d bytes", sector)
	}
	alignment = cmp.Or(l.Alignment, defaultAlignment)
	if alignment < sector || alignment%sector != 0 || alignment > maxAlignment {
		return 0, 0, refuse("1 MiB suits nearly every medium",
			"an alignment of %s; it must be a multiple of the sector (%d bytes) and at most %s", FormatSize(alignment), sector, FormatSize(maxAlignment))
	}
	if l.DiskSize < 0 || l.DiskSize > maxSize || l.DiskSize%sector != 0 {
		return 0, 0, refuse("", "a disk of %s; the size must be a multiple of the sector (%d bytes) and at most %s", FormatSize(l.DiskSize), sector, FormatSize(maxSize))
	}
	if len(l.Partitions) == 0 {
		return 0, 0, refuse("", "a layout needs at least one partition")
	}
	if len(l.Partitions) > gptEntries {
		return 0, 0, refuse("", "%d partitions; a GPT holds at most %d", len(l.Partitions), gptEntries)
	}
	return sector, alignment, nil
}

// checkNames refuses names that a GPT cannot store and names that occur twice: contents are given by name.
func (l *Layout) checkNames() error {
	seen := make(map[string]string)
	check := func(kind, name string) error {
		if name == "" {
			return refuse("", "a %s without a name", kind)
		}
		if n := len(utf16.Encode([]rune(name))); n > maxGPTName {
			return refuse("", "the name of %s %q has %d characters (UTF-16 units); a GPT stores at most %d", kind, name, n, maxGPTName)
		}
		if i := strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }); i >= 0 {
			return refuse("", "the name of %s %q contains a character that cannot be printed", kind, name)
		}
		if other, ok := seen[name]; ok {
			return refuse("give each its own name", "%s %q and %s %q have the same name", other, name, kind, name)
		}
		seen[name] = kind
		return nil
	}
	for _, r := range l.Reserves {
		if err := check(KindReserve, r.Name); err != nil {
			return err
		}
	}
	for _, p := range l.Partitions {
		if err := check(KindPartition, p.Name); err != nil {
			return err
		}
	}
	return nil
}

func (l *Layout) checkReserve(r Reserve, sector int64) (Region, error) {
	area := Region{Kind: KindReserve, Name: r.Name, Offset: r.Offset, Size: r.Size}
	switch {
	case r.Size <= 0 || r.Size > maxSize:
		return area, badSize(KindReserve, r.Name, r.Size)
	case r.Offset < 0 || r.Offset > maxSize:
		return area, refuse("", "reserve %q is at offset %d, which no disk has", r.Name, r.Offset)
	case r.Offset%sector != 0:
		return area, refuse("", "%s is misaligned: its offset is not a multiple of the sector (%d bytes)", area.describe(), sector)
	case r.Size%sector != 0:
		return area, refuse("", "reserve %q has %s, not a multiple of the sector (%d bytes)", r.Name, FormatSize(r.Size), sector)
	case l.DiskSize > 0 && area.End() > l.DiskSize:
		return area, refuse("", "%s ends behind the disk, which has %s", area.describe(), FormatSize(l.DiskSize))
	}
	return area, nil
}

func badSize(kind, name string, size int64) error {
	if size > maxSize {
		return refuse("", "%s %q has %d bytes, more than any disk", kind, name, size)
	}
	return refuse("", "%s %q has %s; it must have at least one sector", kind, name, FormatSize(size))
}

// byOffset sorts regions by their place; of two in one place the table comes first, so that messages blame the other.
func byOffset(regions []Region) {
	rank := map[string]int{KindTable: -1, KindBackupTable: -1}
	slices.SortStableFunc(regions, func(a, b Region) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(rank[a.Kind], rank[b.Kind]), cmp.Compare(a.End(), b.End()))
	})
}

func checkOverlap(regions []Region) error {
	byOffset(regions)
	for i := 1; i < len(regions); i++ {
		a, b := regions[i-1], regions[i]
		if b.Offset >= a.End() {
			continue
		}
		advice := ""
		for _, r := range []Region{a, b} {
			switch r.Kind {
			case KindTable:
				advice = fmt.Sprintf("the first place behind the partition table is %s", FormatSize(r.End()))
			case KindBackupTable:
				advice = fmt.Sprintf("the backup partition table takes the last %s of the disk", FormatSize(r.Size))
			}
		}
		return refuse(advice, "%s overlaps %s", b.describe(), a.describe())
	}
	return nil
}

// checkSlots wants slots in pairs of equal size: an update that fits one must fit the other.
func (l *Layout) checkSlots() error {
	bySlot := map[string][]Partition{}
	for _, p := range l.Partitions {
		switch p.Slot {
		case "":
		case "a", "b":
			bySlot[p.Slot] = append(bySlot[p.Slot], p)
		default:
			return refuse(`slots are "a" and "b"`, "partition %q is slot %q", p.Name, p.Slot)
		}
	}
	as, bs := bySlot["a"], bySlot["b"]
	for i := range max(len(as), len(bs)) {
		switch {
		case i >= len(bs):
			return refuse("", "partition %q is a slot A without a slot B", as[i].Name)
		case i >= len(as):
			return refuse("", "partition %q is a slot B without a slot A", bs[i].Name)
		case as[i].Size != bs[i].Size:
			return refuse("make them equal: every update must fit either", "the slots differ in size: partition %q has %s, partition %q has %s",
				as[i].Name, FormatSize(as[i].Size), bs[i].Name, FormatSize(bs[i].Size))
		case as[i].Grow || bs[i].Grow:
			return refuse("put the data partition last and let it grow", "a slot cannot grow: partition %q, partition %q", as[i].Name, bs[i].Name)
		}
	}
	return nil
}

func (l *Layout) placePartitions(fixed []Region, sector, alignment int64) ([]Region, error) {
	var placed []Region
	cursor := int64(0)
	for i, p := range l.Partitions {
		if err := checkPartition(p, sector); err != nil {
			return nil, err
		}
		typ, err := partitionType(p)
		if err != nil {
			return nil, err
		}
		area := Region{
			Kind: KindPartition, Name: p.Name, Number: i + 1, Size: p.Size, Type: typ,
			Filesystem: cmp.Or(p.Filesystem, FilesystemNone), Label: p.Label, Bootable: p.Bootable, Slot: p.Slot,
		}
		area.Offset = nextGap(fixed, cursor, p.Size, alignment)
		if l.DiskSize > 0 && area.End() > l.DiskSize || collides(fixed, area) {
			return nil, l.tooSmall(area, placed, sector)
		}
		if p.Grow {
			if i != len(l.Partitions)-1 {
				return nil, refuse("put it last", "partition %q can grow, but partition %q comes after it", p.Name, l.Partitions[i+1].Name)
			}
			area.Size = l.rest(fixed, area, sector, alignment)
		}
		placed = append(placed, area)
		cursor = area.End()
	}
	return placed, nil
}

func checkPartition(p Partition, sector int64) error {
	kind := cmp.Or(p.Filesystem, FilesystemNone)
	switch smallest := smallestFilesystem[kind]; {
	case !slices.Contains(filesystems, kind):
		return refuse("file systems are "+strings.Join(filesystems, ", "), "partition %q: unknown file system %q", p.Name, kind)
	case p.Size <= 0 || p.Size > maxSize:
		return badSize(KindPartition, p.Name, p.Size)
	case p.Size%sector != 0:
		return refuse("", "partition %q has %s, not a multiple of the sector (%d bytes)", p.Name, FormatSize(p.Size), sector)
	case p.Size < smallest:
		return refuse("", "partition %q has %s, too small for %s, which needs at least %s", p.Name, FormatSize(p.Size), kind, FormatSize(smallest))
	}
	return checkLabel(p.Name, kind, p.Label)
}

var vfatLabel = regexp.MustCompile(`^[A-Z0-9_ -]{1,11}$`)

func checkLabel(name, kind, label string) error {
	switch {
	case label == "":
	case kind == FilesystemExt4 && len(label) > 16:
		return refuse("", "the label %q of partition %q has %d bytes; ext4 stores at most 16", label, name, len(label))
	case kind == FilesystemVFAT && !vfatLabel.MatchString(strings.ToUpper(label)):
		return refuse("", "the label %q of partition %q cannot be stored in vfat: at most 11 letters, digits, '_', '-' and blanks", label, name)
	case kind != FilesystemExt4 && kind != FilesystemVFAT:
		return refuse("", "partition %q has the label %q, but no file system that could be labelled (%s)", name, label, kind)
	case strings.ContainsFunc(label, func(r rune) bool { return !unicode.IsPrint(r) }):
		return refuse("", "the label %q of partition %q contains a character that cannot be printed", label, name)
	}
	return nil
}

// nextGap finds the first aligned place from cursor on where size bytes touch no fixed area.
func nextGap(fixed []Region, cursor, size, alignment int64) int64 {
	at := alignUp(cursor, alignment)
	for _, f := range fixed { // sorted
		if f.Kind != KindBackupTable && at < f.End() && f.Offset < at+size {
			at = alignUp(f.End(), alignment)
		}
	}
	return at
}

func collides(fixed []Region, area Region) bool {
	for _, f := range fixed {
		if area.Offset < f.End() && f.Offset < area.End() {
			return true
		}
	}
	return false
}

// tooSmall explains that area does not fit the given disk size.
func (l *Layout) tooSmall(area Region, placed []Region, sector int64) error {
	free := *l
	free.DiskSize = 0
	advice := ""
	if m, err := free.Resolve(); err == nil {
		advice = fmt.Sprintf("the layout needs a disk of at least %s", FormatSize(m.Size))
	}
	_, backup := tableSize(sector)
	after := ""
	if len(placed) > 0 {
		after = " after " + placed[len(placed)-1].describe()
	}
	return refuse(advice, "%s does not fit%s: the disk has %s, of which the last %s hold the backup partition table",
		area.describe(), after, FormatSize(l.DiskSize), FormatSize(backup))
}

// rest is the size of a growing partition: up to the next fixed area, with an aligned end.
func (l *Layout) rest(fixed []Region, area Region, sector, alignment int64) int64 {
	if l.DiskSize == 0 {
		return area.Size
	}
	end := l.DiskSize
	for _, f := range fixed {
		if f.Offset >= area.End() {
			end = min(end, f.Offset)
		}
	}
	end -= end % max(alignment, sector)
	return max(area.Size, end-area.Offset)
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
