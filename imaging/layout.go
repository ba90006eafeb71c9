package imaging

import (
	"cmp"
	"fmt"
	"math"
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
	defaultSector    = int64(512)
	maxAlignment     = int64(1) << 30
	maxSize          = int64(1) << 56 // keeps every sum of this package inside 63 bits
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

// describe names a region, its size and its place in messages: for people, and with the exact bytes.
func (r Region) describe() string {
	name := fmt.Sprintf("%s %q", r.Kind, r.Name)
	switch {
	case r.Kind == KindTable && r.Name == regionGPTEntries:
		name = "the entry array of the partition table"
	case r.Kind == KindTable && r.Name == regionEBR:
		name = fmt.Sprintf("the boot record of logical partition %d", r.Number)
	case r.Kind == KindTable:
		name = "the partition table"
	case r.Kind == KindBackupTable:
		name = "the backup partition table"
	case r.Kind == KindExtended:
		name = "the extended partition"
	case r.Kind == KindPartition && r.Name == "":
		name = fmt.Sprintf("partition %d", r.Number)
	}
	return name + " " + Span{r.Offset, r.Size}.describe()
}

func (s Span) describe() string {
	size, at := cmp.Or(shortSize(s.Size), fmt.Sprint(s.Size, " bytes")), place(s.Offset)
	if s.Offset%kib != 0 {
		at = "byte " + at
	}
	return fmt.Sprintf("(%s at %s, bytes %d to %d)", size, at, s.Offset, s.End()-1)
}

// resolver is a layout with its defaults and what its table allows.
type resolver struct {
	*Layout
	table             string
	sector, alignment int64
	entries           int64    // of the GPT
	first             int64    // where partitions may begin
	fixed             []Region // tables and reserves, sorted
}

// Resolve gives every area its offset: reserves and partitions with an offset stand where they are told to, the other
// partitions follow one another at multiples of the alignment and skip over tables and reserves. It refuses a layout
// that cannot be written or that the reader of some tool would misunderstand; the error is a [*LayoutError].
func (l *Layout) Resolve() (*Map, error) {
	r := &resolver{Layout: l}
	for _, check := range []func() error{r.checkHead, r.checkGPTOptions, r.checkDiskID, r.checkNames, r.fix, r.checkSlots} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	parts, err := r.placePartitions()
	if err != nil {
		return nil, err
	}
	m := &Map{
		Table: r.table, SectorSize: r.sector, Size: l.DiskSize,
		Regions: slices.Concat(r.fixed, parts), Extended: extendedAround(parts, r.sector),
	}
	for _, p := range parts {
		if p.Logical {
			m.Regions = append(m.Regions, bootRecord(p, r.sector))
		}
	}
	if m.Size == 0 {
		m.Size = alignUp(lastEnd(m.Regions)+r.backupSize(), max(r.alignment, r.sector))
		if backup := r.backup(m.Size); backup.Size > 0 {
			m.Regions = append(m.Regions, backup)
		}
	}
	byOffset(m.Regions)
	if r.isGPT() {
		m.NoBackup = l.GPT.NoBackup
		if r.entries != gptEntries {
			m.Entries = int(r.entries)
		}
		m.UUID = strings.ToLower(l.DiskID)
	} else {
		m.setSignature(strings.ToLower(l.DiskID))
	}
	return m, r.checkResult(m, parts)
}

// checkResult looks at what only shows when everything has its place.
func (r *resolver) checkResult(m *Map, parts []Region) error {
	if err := checkOverlap(m.Regions); err != nil {
		return err
	}
	if err := checkSlotSizes(parts); err != nil {
		return err
	}
	if err := checkExtended(m.Extended, parts); err != nil {
		return err
	}
	for _, p := range parts {
		if (r.table == TableMBR || p.InMBR) && p.End() > maxMBRSectors*r.sector {
			return refuse(fmt.Sprintf("use table = %q, or sectors of 4096 bytes if the medium has them", TableGPT),
				"%s ends behind %s, which is as far as the 32-bit sector numbers of an MBR reach with sectors of %d bytes",
				p.describe(), FormatSize(maxMBRSectors*r.sector), r.sector)
		}
	}
	if r.table == TableHybrid {
		if err := checkHybrid(m); err != nil {
			return err
		}
	}
	return checkActive(m)
}

func (r *resolver) isGPT() bool { return r.table != TableMBR }

var tableNames = []string{TableGPT, TableMBR, TableHybrid}

func (r *resolver) checkHead() error {
	r.table = cmp.Or(r.Table, TableGPT)
	if !slices.Contains(tableNames, r.table) {
		return refuse("partition tables are "+strings.Join(tableNames, ", "), "unknown partition table %q", r.Table)
	}
	r.sector = cmp.Or(r.SectorSize, defaultSector)
	if r.sector != 512 && r.sector != 4096 {
		return refuse("sectors have 512 or 4096 bytes", "a sector of %d bytes", r.sector)
	}
	r.alignment = cmp.Or(r.Alignment, defaultAlignment)
	if badAlignment(r.alignment, r.sector) {
		return refuse("1 MiB suits nearly every medium",
			"an alignment of %s; it must be a multiple of the sector (%d bytes) and at most %s",
			FormatSize(r.alignment), r.sector, FormatSize(maxAlignment))
	}
	if r.DiskSize < 0 || r.DiskSize > maxSize || r.DiskSize%r.sector != 0 {
		return refuse("", "a disk of %s; the size must be a multiple of the sector (%d bytes) and at most %s",
			FormatSize(r.DiskSize), r.sector, FormatSize(maxSize))
	}
	if len(r.Partitions) == 0 {
		return refuse("", "a layout needs at least one partition")
	}
	return nil
}

func badAlignment(alignment, sector int64) bool {
	return alignment < sector || alignment%sector != 0 || alignment > maxAlignment
}

// checkNames refuses names that a GPT cannot store and names that occur twice: contents are given by name.
func (r *resolver) checkNames() error {
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
	for _, v := range r.Reserves {
		if err := check(KindReserve, v.Name); err != nil {
			return err
		}
	}
	for _, p := range r.Partitions {
		if err := check(KindPartition, p.Name); err != nil {
			return err
		}
	}
	return nil
}

// fix places what does not move: tables and reserves.
func (r *resolver) fix() error {
	var reserves []Region
	code := int64(0) // bytes of the first sector that boot code takes from the table
	for _, v := range r.Reserves {
		area, err := r.checkReserve(v)
		if err != nil {
			return err
		}
		reserves = append(reserves, area)
		for _, piece := range area.Pieces() {
			if piece.Offset < bootCodeSize {
				code = bootCodeSize
			}
		}
	}
	r.fixed = r.tables(code)
	r.first = lastEnd(r.fixed)
	if r.DiskSize > 0 {
		if need := r.first + r.backupSize(); r.DiskSize < need {
			return refuse("", "the disk has %s, less than its partition table needs: %s", FormatSize(r.DiskSize), FormatSize(need))
		}
		if backup := r.backup(r.DiskSize); backup.Size > 0 {
			r.fixed = append(r.fixed, backup)
		}
	}
	r.fixed = append(r.fixed, reserves...)
	byOffset(r.fixed)
	return checkOverlap(r.fixed)
}

// tables are the regions of the table at the start of the disk, behind the boot code.
func (r *resolver) tables(code int64) []Region {
	if !r.isGPT() {
		return []Region{{Kind: KindTable, Name: regionMBR, Offset: code, Size: mbrSize - code}}
	}
	array := gptArraySize(r.entries, r.sector)
	head := Region{Kind: KindTable, Name: regionGPT, Offset: code, Size: 2*r.sector - code}
	if at := cmp.Or(r.GPT.EntriesAt, 2*r.sector); at != 2*r.sector {
		return []Region{head, {Kind: KindTable, Name: regionGPTEntries, Offset: at, Size: array}}
	}
	head.Size += array
	return []Region{head}
}

// backup is the region of the GPT's copy on a disk of size bytes; without one its size is 0.
func (r *resolver) backup(size int64) Region {
	n := r.backupSize()
	return Region{Kind: KindBackupTable, Name: regionGPT, Offset: size - n, Size: n}
}

func (r *resolver) backupSize() int64 {
	if !r.isGPT() || r.GPT.NoBackup {
		return 0
	}
	return gptArraySize(r.entries, r.sector) + r.sector
}

func (r *resolver) checkReserve(v Reserve) (Region, error) {
	area := Region{Kind: KindReserve, Name: v.Name, Offset: v.Offset, Size: v.Size}
	align := cmp.Or(v.Align, r.sector)
	bootCode := v.Offset == 0 && v.Size <= bootCodeSize
	switch {
	case v.Size == 0:
		return area, refuse("give it a size; only an image, which has its content, can find it out",
			"reserve %q has no size", v.Name)
	case v.Size < 0 || v.Size > maxSize:
		return area, badSize(KindReserve, v.Name, v.Size)
	case v.Offset < 0 || v.Offset > maxSize:
		return area, refuse("", "reserve %q is at offset %d, which no disk has", v.Name, v.Offset)
	case v.Align < 0 || v.Align > maxAlignment:
		return area, refuse("", "reserve %q has an alignment of %s; it can be 1 byte to %s", v.Name, FormatSize(v.Align), FormatSize(maxAlignment))
	case v.Offset%align != 0:
		return area, refuse(moveTo(v.Offset, align), "%s is misaligned: its offset is not a multiple of %s", area.describe(), FormatSize(align))
	case v.Size%min(align, r.sector) != 0 && v.Offset == 0 && v.Size < mbrSize && !bootCode:
		return area, refuse(fmt.Sprintf("cut it to %d bytes", bootCodeSize),
			"%s is too large for boot code, which has at most %d bytes; behind it are the disk's signature and the partition table",
			area.describe(), bootCodeSize)
	case v.Size%min(align, r.sector) != 0 && !bootCode:
		return area, refuse("", "reserve %q has %s, not a multiple of the sector (%d bytes)", v.Name, FormatSize(v.Size), r.sector)
	case r.DiskSize > 0 && area.End() > r.DiskSize:
		return area, refuse("", "%s ends behind the disk, which has %s", area.describe(), FormatSize(r.DiskSize))
	}
	return area, setHoles(&area, v.Holes)
}

func setHoles(area *Region, holes []Span) error {
	area.Holes = slices.Clone(holes)
	slices.SortFunc(area.Holes, func(a, b Span) int { return cmp.Compare(a.Offset, b.Offset) })
	for i, h := range area.Holes {
		switch {
		case h.Size <= 0 || h.Size > maxSize:
			return refuse("", "reserve %q has a hole of %d bytes", area.Name, h.Size)
		case h.Offset < area.Offset || h.Offset > area.End() || h.End() > area.End():
			return refuse("holes have offsets on the disk, as everything in a layout", "the hole %s of %s is not inside it", h.describe(), area.describe())
		case i > 0 && h.Offset < area.Holes[i-1].End():
			return refuse("", "the hole %s of %s overlaps its hole %s", h.describe(), area.describe(), area.Holes[i-1].describe())
		}
	}
	if len(area.Pieces()) == 0 {
		return refuse("", "%s consists of holes alone", area.describe())
	}
	return nil
}

// moveTo advises the next places that are aligned.
func moveTo(offset, align int64) string {
	below := offset - offset%align
	return fmt.Sprintf("the next aligned places are %s and %s", FormatSize(below), FormatSize(below+align))
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

func lastEnd(regions []Region) (end int64) {
	for _, r := range regions {
		end = max(end, r.End())
	}
	return end
}

// checkOverlap compares what belongs to each region: one may stand in a hole of another.
func checkOverlap(regions []Region) error {
	type piece struct {
		Span
		of Region
	}
	var pieces []piece
	regions = slices.Clone(regions)
	byOffset(regions)
	for _, r := range regions {
		for _, s := range r.Pieces() {
			pieces = append(pieces, piece{s, r})
		}
	}
	slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(a.Offset, b.Offset) })
	for i := 1; i < len(pieces); i++ {
		if a, b := pieces[i-1], pieces[i]; b.Offset < a.End() {
			return overlap(a.of, b.of)
		}
	}
	return nil
}

// overlap refuses b, which begins inside a. The table is there by itself, so the message blames the other.
func overlap(a, b Region) error {
	if b.Kind == KindTable && a.Kind != KindTable {
		a, b = b, a
	}
	advice := ""
	switch {
	case a.Kind == KindTable && a.Name == regionEBR:
		advice = fmt.Sprintf("a logical partition needs %d sectors in front of it", ebrLead)
	case a.Kind == KindTable && b.Kind == KindReserve && b.Offset == 0:
		advice = fmt.Sprintf("boot code has at most %d bytes, the table is behind it; a larger loader needs a hole there", bootCodeSize)
	case a.Kind == KindTable:
		advice = fmt.Sprintf("the first place behind the partition table is %s", FormatSize(a.End()))
	case a.Kind == KindBackupTable || b.Kind == KindBackupTable:
		advice = "the backup partition table is at the end of the disk; move the other or make the disk larger"
	case b.Kind == KindPartition:
		advice = fmt.Sprintf("the first place behind %s %q is %s", a.Kind, a.Name, FormatSize(a.End()))
	}
	return refuse(advice, "%s overlaps %s", b.describe(), a.describe())
}

// checkSlots wants slots in pairs of equal size: an update that fits one must fit the other.
func (r *resolver) checkSlots() error {
	bySlot := map[string][]Partition{}
	for _, p := range r.Partitions {
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
		case as[i].Grow || bs[i].Grow:
			return refuse("put the data partition last and let it grow", "a slot cannot grow: partition %q, partition %q", as[i].Name, bs[i].Name)
		}
	}
	return nil
}

func checkSlotSizes(parts []Region) error {
	bySlot := map[string][]Region{}
	for _, p := range parts {
		bySlot[p.Slot] = append(bySlot[p.Slot], p)
	}
	for i, a := range bySlot["a"] {
		if b := bySlot["b"][i]; a.Size != b.Size {
			return refuse("make them equal: every update must fit either", "the slots differ in size: partition %q has %s, partition %q has %s",
				a.Name, FormatSize(a.Size), b.Name, FormatSize(b.Size))
		}
	}
	return nil
}

func (r *resolver) checkPartition(p Partition) error {
	kind := cmp.Or(p.Filesystem, FilesystemNone)
	align := cmp.Or(p.Align, r.alignment)
	sizes := 0
	for _, set := range []bool{p.Size != 0, p.Percent != 0, p.Rest} {
		if set {
			sizes++
		}
	}
	switch {
	case !slices.Contains(filesystems, kind):
		return refuse("file systems are "+strings.Join(filesystems, ", "), "partition %q: unknown file system %q", p.Name, kind)
	case p.Percent != 0 && sizes > 1:
		return refuse("", "partition %q has more than one of a size, a percentage and the rest", p.Name)
	case math.IsNaN(p.Percent) || p.Percent < 0 || p.Percent > 100:
		return refuse("", "partition %q has %v percent of the disk", p.Name, p.Percent)
	case (p.Percent != 0 || p.Rest) && r.DiskSize == 0:
		return refuse("give the disk a size", "partition %q has a share of the disk, but the disk has no size", p.Name)
	case p.Size < 0 || p.Size > maxSize || sizes == 0:
		return badSize(KindPartition, p.Name, p.Size)
	case p.Size%r.sector != 0:
		return refuse("", "partition %q has %s, not a multiple of the sector (%d bytes)", p.Name, FormatSize(p.Size), r.sector)
	case badAlignment(align, r.sector):
		return refuse("", "partition %q has an alignment of %s; it must be a multiple of the sector (%d bytes) and at most %s",
			p.Name, FormatSize(align), r.sector, FormatSize(maxAlignment))
	case p.Offset < 0 || p.Offset > maxSize:
		return refuse("", "partition %q is at offset %d, which no disk has", p.Name, p.Offset)
	case p.Offset%align != 0:
		return refuse(moveTo(p.Offset, align)+"; or give the partition its own alignment",
			"partition %q at %s is misaligned: its offset is not a multiple of %s", p.Name, FormatSize(p.Offset), FormatSize(align))
	}
	return checkLabel(p.Name, kind, p.Label)
}

// checkSmallest is about sizes, which are known only when the partition has its place.
func checkSmallest(r Region) error {
	if smallest := smallestFilesystem[r.Filesystem]; r.Size < smallest {
		return refuse("", "partition %q has %s, too small for %s, which needs at least %s",
			r.Name, FormatSize(r.Size), r.Filesystem, FormatSize(smallest))
	}
	return nil
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

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
