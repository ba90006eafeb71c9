package imaging

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The first sector of a disk, as every BIOS, boot ROM and kernel reads it. All numbers are little-endian; CHS addresses
// are of a disk with 255 heads and 63 sectors a track.
const (
	mbrSize      = int64(512) // also with larger sectors, whose rest stays empty
	bootCodeSize = int64(440)
	mbrEntries   = 4
	mbrEntrySize = 16

	mbrSignatureAt = 440
	mbrEntriesAt   = 446
	mbrMagicAt     = 510

	maxMBRSectors = int64(1) << 32

	// ebrLead is how many sectors in front of a logical partition its boot record stands. wic and parted leave two, so
	// images that shall be like theirs get the same offsets.
	ebrLead = 2
	// maxLogical keeps numbers up to 60, which is as many as sfdisk reads.
	maxLogical   = 56
	firstLogical = 5

	mbrActive = 0x80

	mbrTypeLinux       = "83"
	mbrTypeFAT32       = "0c"
	mbrTypeExtended    = "0f" // with sector numbers instead of CHS
	mbrTypeExtendedCHS = "05" // what links inside the chain have
	mbrTypeProtective  = "ee"
)

// mbrTypeByName are the partition types a layout can name instead of giving the byte; names and bytes as sfdisk 2.38 lists
// them.
var mbrTypeByName = map[string]string{
	"fat12": "01", "fat16": "06", "ntfs": "07", "fat32-chs": "0b", "fat32": mbrTypeFAT32, "fat16-lba": "0e", "prep": "41",
	"swap": "82", "linux": mbrTypeLinux, "lvm": "8e", "data": "da", "esp": "ef", "raid": "fd",
	"preloader": "a2", // where the boot ROM of Cyclone V and Arria chips finds its loader
}

// MBRTypeNames returns the names that [Partition].MBRType understands beside hex bytes.
func MBRTypeNames() []string { return slices.Sorted(maps.Keys(mbrTypeByName)) }

// MBRTypeName returns the name of a type in an MBR, two hex digits, or these digits.
func MBRTypeName(typ string) string {
	for name, t := range mbrTypeByName {
		if t == typ {
			return name
		}
	}
	return typ
}

// mbrTypeByGPTName translates types that are named as in a GPT.
var mbrTypeByGPTName = map[string]string{
	"esp": "ef", "linux": mbrTypeLinux, "basic-data": "07", "swap": "82", "lvm": "8e", "raid": "fd", "prep": "41", "xbootldr": "ea",
}

// mbrPartitionType is the byte for a partition as two hex digits: its MBRType, else its Type, else what its file system is.
func mbrPartitionType(p Partition) (string, error) {
	given := p.MBRType
	if given == "" && p.Type != "" {
		if p.Type == "basic-data" && p.Filesystem == FilesystemVFAT {
			return mbrTypeFAT32, nil
		}
		if typ, ok := mbrTypeByGPTName[p.Type]; ok {
			return typ, nil
		}
		if _, ok := typeByName[p.Type]; ok && (strings.HasPrefix(p.Type, "root-") || strings.HasPrefix(p.Type, "usr-")) {
			return mbrTypeLinux, nil
		}
		given = p.Type
	}
	if given == "" {
		if p.Filesystem == FilesystemVFAT {
			return mbrTypeFAT32, nil
		}
		return mbrTypeLinux, nil
	}
	if typ, ok := mbrTypeByName[given]; ok {
		return typ, nil
	}
	b, err := hex.DecodeString(strings.TrimPrefix(given, "0x"))
	if err != nil || len(b) != 1 {
		return "", refuse(adviseType(given, MBRTypeNames(), "use a byte such as 0c or 83, or one of "+strings.Join(MBRTypeNames(), ", ")),
			"partition %q: %q is no type of an MBR", p.Name, given)
	}
	switch typ := hex.EncodeToString(b); typ {
	case "00", mbrTypeExtendedCHS, mbrTypeExtended, "85", mbrTypeProtective:
		return "", refuse("", "partition %q: the type %s is for the table's own use", p.Name, typ)
	default:
		return typ, nil
	}
}

// role is the number of a partition and whether it stands in the extended partition.
type role struct {
	number  int
	logical bool
}

// roles numbers the partitions. In an MBR the extended partition takes the number of the first logical one's place among
// the four, and logical ones count from five: with four primary ones and more, 1, 2, 3, 5, 6.
func (r *resolver) roles() ([]role, error) {
	n := len(r.Partitions)
	logical := slices.IndexFunc(r.Partitions, func(p Partition) bool { return p.Logical })
	if r.isGPT() {
		if n > int(r.entries) {
			return nil, refuse("", "%d partitions; this GPT holds at most %d", n, r.entries)
		}
		if logical >= 0 {
			return nil, refuse(`that is for table = "mbr"`, "partition %q is logical, but a GPT has only one kind", r.Partitions[logical].Name)
		}
	}
	automatic := !r.isGPT() && logical < 0 && n > mbrEntries
	var out []role
	primary, logicals, extended := 0, 0, 0
	for i, p := range r.Partitions {
		if !p.Logical && (!automatic || i < mbrEntries-1) {
			primary++
			out = append(out, role{number: primary})
			continue
		}
		if extended == 0 {
			primary++
			extended = primary
		}
		out = append(out, role{number: firstLogical + logicals, logical: true})
		logicals++
	}
	if !r.isGPT() && primary > mbrEntries {
		return nil, refuse("make some of them logical, or use table = \"gpt\"",
			"%d primary partitions%s; an MBR holds at most four", primary-min(extended, 1), map[bool]string{true: " and an extended one"}[extended > 0])
	}
	if logicals > maxLogical {
		return nil, refuse(`use table = "gpt"`, "%d logical partitions; tools read at most %d", logicals, maxLogical)
	}
	return out, nil
}

// bootRecord is the region of the boot record that leads to a logical partition.
func bootRecord(p Region, sector int64) Region {
	return Region{Kind: KindTable, Name: regionEBR, Number: p.Number, Offset: p.Offset - ebrLead*sector, Size: sector}
}

// extendedAround is the extended partition: from the first boot record to the end of the last logical partition. Its number
// is the first of the four that no partition has.
func extendedAround(parts []Region, sector int64) *Region {
	e := Region{Kind: KindExtended, Name: KindExtended, Number: 1, MBRType: mbrTypeExtended, Offset: -1}
	end := int64(0)
	for _, p := range parts {
		if !p.Logical {
			if e.Offset < 0 {
				e.Number = p.Number + 1
			}
			continue
		}
		if at := bootRecord(p, sector).Offset; e.Offset < 0 || at < e.Offset {
			e.Offset = at
		}
		end = max(end, p.End())
	}
	if e.Offset < 0 {
		return nil
	}
	e.Size = end - e.Offset
	return &e
}

// checkExtended wants logical partitions in their order, as the chain of boot records goes, and no primary one between them.
func checkExtended(e *Region, parts []Region) error {
	if e == nil {
		return nil
	}
	var last *Region
	for i, p := range parts {
		switch {
		case !p.Logical && p.Offset < e.End() && e.Offset < p.End():
			return refuse("put it before or behind all logical partitions", "%s overlaps %s, which is around the logical partitions", p.describe(), e.describe())
		case p.Logical && last != nil && p.Offset < last.Offset:
			return refuse("list them in the order of their places", "logical %s stands before logical %s", p.describe(), last.describe())
		case p.Logical:
			last = &parts[i]
		}
	}
	if n := e.Number; n > mbrEntries {
		return refuse("", "no number is left for %s", e.describe())
	}
	return nil
}

// checkActive refuses a second active partition: boot code takes the first or none.
func checkActive(m *Map) error {
	var first *Region
	for i := range m.Regions {
		r := &m.Regions[i]
		if !r.Bootable || !m.listedInMBR(*r) {
			continue
		}
		if first != nil {
			return refuse("keep one of them", "%s and %s are both bootable; an MBR has one active partition", first.describe(), r.describe())
		}
		first = r
	}
	return nil
}

// listedInMBR tells whether the MBR or its chain names the partition.
func (m *Map) listedInMBR(r Region) bool {
	return r.Kind == KindPartition && (m.Table == TableMBR || m.Table == TableHybrid && r.InMBR)
}

// setSignature gives an MBR its signature and its partitions the UUIDs that Linux derives from it (PARTUUID).
func (m *Map) setSignature(signature string) {
	m.Signature = signature
	if m.Table != TableMBR || signature == "" {
		return
	}
	for i := range m.Regions {
		if r := &m.Regions[i]; r.Kind == KindPartition {
			r.UUID = fmt.Sprintf("%s-%02x", signature, r.Number)
		}
	}
}

// mbrSector is the first sector of a disk, or a boot record of its chain, from the signature on.
type mbrSector [mbrSize]byte

func (s *mbrSector) put(slot int, typ string, active bool, start, count int64) {
	b := s[mbrEntriesAt+slot*mbrEntrySize:][:mbrEntrySize]
	if active {
		b[0] = mbrActive
	}
	t, _ := hex.DecodeString(typ) // two digits since it was resolved or read
	copy(b[4:5], t)
	putCHS(b[1:4], start)
	putCHS(b[5:8], start+count-1)
	binary.LittleEndian.PutUint32(b[8:], uint32(start))
	binary.LittleEndian.PutUint32(b[12:], uint32(count))
	s[mbrMagicAt], s[mbrMagicAt+1] = 0x55, 0xaa
}

// putCHS writes the address of a sector in the old form: head, sector with the upper bits of the cylinder, cylinder. What
// is beyond 1024 cylinders gets the highest values, which means "use the sector number".
func putCHS(b []byte, lba int64) {
	const heads, sectors, cylinders = 255, 63, 1024
	c, h, s := lba/(heads*sectors), lba/sectors%heads, lba%sectors+1
	if c >= cylinders {
		copy(b, []byte{0xfe, 0xff, 0xff})
		return
	}
	b[0], b[1], b[2] = byte(h), byte(s)|byte(c>>8<<6), byte(c)
}

// mbrBlocks are the MBR and the boot records of logical partitions.
func (m *Map) mbrBlocks() []block {
	var head mbrSector
	if sig, err := hex.DecodeString(m.Signature); err == nil && len(sig) == 4 {
		slices.Reverse(sig)
		copy(head[mbrSignatureAt:], sig)
	}
	var logical []Region
	for _, r := range m.Regions {
		switch {
		case r.Kind != KindPartition:
		case r.Logical:
			logical = append(logical, r)
		default:
			head.put(r.Number-1, r.MBRType, r.Bootable, r.Offset/m.SectorSize, r.Size/m.SectorSize)
		}
	}
	if e := m.Extended; e != nil {
		head.put(e.Number-1, e.MBRType, false, e.Offset/m.SectorSize, e.Size/m.SectorSize)
	}
	blocks := []block{{bootCodeSize, head[bootCodeSize:]}}
	for i, p := range logical {
		blocks = append(blocks, m.bootRecord(p, logical[i+1:]))
	}
	return blocks
}

// bootRecord holds one logical partition, counted from itself, and the way to the next record, counted from the start of
// the extended partition.
func (m *Map) bootRecord(p Region, behind []Region) block {
	var s mbrSector
	at := bootRecord(p, m.SectorSize)
	s.put(0, p.MBRType, p.Bootable, p.Offset/m.SectorSize, p.Size/m.SectorSize)
	binary.LittleEndian.PutUint32(s[mbrEntriesAt+8:], uint32((p.Offset-at.Offset)/m.SectorSize))
	if len(behind) > 0 {
		next := bootRecord(behind[0], m.SectorSize)
		s.put(1, mbrTypeExtendedCHS, false, next.Offset/m.SectorSize, (behind[0].End()-next.Offset)/m.SectorSize)
		binary.LittleEndian.PutUint32(s[mbrEntriesAt+mbrEntrySize+8:], uint32((next.Offset-m.Extended.Offset)/m.SectorSize))
	}
	return block{at.Offset, s[:]}
}
