package imaging

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/google/uuid"
)

// ErrNoTable says that there is no partition table on a disk, or none that is whole.
var ErrNoTable = errors.New("no valid partition table")

// maxReadEntries bounds what ReadMap reads; tables have 128 entries, and nothing known makes more than 1024.
const maxReadEntries = 1024

// ReadMap reads the map of a disk of size bytes back: its table, and what file system each partition holds. Of a GPT it
// takes the primary or, if that is damaged, the backup. A disk whose MBR lists partitions and does not protect a GPT is one with
// an MBR, as Linux sees it, even if an old GPT is still there. Reserves are not on the disk and not in the map, and
// neither are the names of partitions in an MBR. The source may be hostile; without a whole table the error is [ErrNoTable].
func ReadMap(r io.ReaderAt, size int64) (*Map, error) {
	if isUBI(r, size) {
		return nil, ErrUBI
	}
	head, headErr := readMBRSector(r, size)
	if headErr == nil && !head.protects() {
		m, err := readMBR(r, size, head)
		if err == nil || !errors.Is(err, ErrNoTable) {
			return m, err
		}
		headErr = err
	}
	var first error
	for _, sector := range []int64{512, 4096} {
		m, err := readGPT(r, size, sector)
		if err == nil {
			m.addHybrid(head)
			return m, m.probe(r)
		}
		if first == nil || !errors.Is(err, ErrNoTable) {
			first = err
		}
	}
	if headErr != nil && !errors.Is(headErr, errNoMBR) {
		return nil, headErr
	}
	return nil, first
}

// probe finds out what the partitions hold.
func (m *Map) probe(r io.ReaderAt) error {
	for i := range m.Regions {
		p := &m.Regions[i]
		if p.Kind != KindPartition {
			continue
		}
		found, err := Probe(io.NewSectionReader(r, p.Offset, p.Size), p.Size)
		if err != nil {
			return err
		}
		p.Filesystem, p.Label, p.FilesystemUUID = cmp.Or(found.Kind, FilesystemNone), found.Label, found.UUID
	}
	return nil
}

type gptHeader struct {
	lba, alternate, firstUsable, lastUsable, array uint64
	disk                                           uuid.UUID
	entries, entrySize, arrayCRC                   uint32
}

func readGPT(r io.ReaderAt, size, sector int64) (*Map, error) {
	if size < 3*sector {
		return nil, fmt.Errorf("%w: the disk has only %s", ErrNoTable, FormatSize(max(size, 0)))
	}
	last := uint64(size/sector - 1)
	head, entries, err := readHeader(r, 1, last, sector)
	backup, damaged := gptHeader{}, ""
	if err == nil {
		// The backup's place is in the header: at the end of the disk the image was made for.
		if head.alternate != head.lba {
			if backup, _, err = readHeader(r, head.alternate, last, sector); err != nil {
				backup, damaged = gptHeader{}, "backup"
			}
		}
	} else {
		primary := err
		if head, entries, err = readHeader(r, last, last, sector); err != nil {
			return nil, fmt.Errorf("%w: no GPT at the start of the disk: %v; and none at its end: %v", ErrNoTable, primary, err)
		}
		backup, damaged = head, "primary"
	}
	m := &Map{Table: TableGPT, SectorSize: sector, Size: size, UUID: head.disk.String(), Damaged: damaged}
	if head.entries != gptEntries {
		m.Entries = int(head.entries)
	}
	m.NoBackup = damaged == "" && backup.lba == 0
	m.Regions = gptRegions(head, backup, sector)
	for i := range int(head.entries) {
		entry := entries[i*int(head.entrySize):][:gptEntrySize]
		region, used, err := readEntry(entry, i+1, last, sector)
		if err != nil {
			return nil, err
		}
		if used {
			m.Regions = append(m.Regions, region)
		}
	}
	if err := checkOverlap(m.Regions); err != nil {
		return nil, contradiction(err)
	}
	byOffset(m.Regions)
	return m, nil
}

// contradiction is what a table says of two areas.
func contradiction(err error) error {
	var refused *LayoutError
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %s", ErrNoTable, refused.Reason)
	}
	return err
}

// gptRegions are where the tables are. What is damaged cannot say, and is taken to be where it usually is.
func gptRegions(head, backup gptHeader, sector int64) []Region {
	array := alignUp(int64(head.entries)*int64(head.entrySize), sector)
	regions := []Region{{Kind: KindTable, Name: regionGPT, Size: 2*sector + array}}
	if at := int64(head.array) * sector; head.lba == 1 && at != 2*sector {
		regions[0].Size = 2 * sector
		regions = append(regions, Region{Kind: KindTable, Name: regionGPTEntries, Offset: at, Size: array})
	}
	if backup.lba == 0 {
		return regions
	}
	copied := Region{Kind: KindBackupTable, Name: regionGPT, Offset: int64(backup.lba) * sector, Size: sector}
	if int64(backup.array)*sector+array == copied.Offset {
		copied.Offset -= array
		copied.Size += array
	}
	return append(regions, copied)
}

// readHeader reads one of the two tables with its entries and checks both checksums.
func readHeader(r io.ReaderAt, lba, last uint64, sector int64) (gptHeader, []byte, error) {
	var h gptHeader
	if lba < 1 || lba > last {
		return h, nil, fmt.Errorf("sector %d is not on the disk", lba)
	}
	b := make([]byte, sector)
	if _, err := r.ReadAt(b, int64(lba)*sector); err != nil {
		return h, nil, fmt.Errorf("reading sector %d: %w", lba, err)
	}
	le := binary.LittleEndian
	if string(b[:8]) != gptMagic {
		return h, nil, errors.New("no signature")
	}
	length := le.Uint32(b[12:])
	if length < gptHeaderSize || int64(length) > sector {
		return h, nil, fmt.Errorf("a header of %d bytes", length)
	}
	sum := le.Uint32(b[16:])
	clear(b[16:20])
	if crc32.ChecksumIEEE(b[:length]) != sum {
		return h, nil, errors.New("the header's checksum is wrong")
	}
	h = gptHeader{
		lba: le.Uint64(b[24:]), alternate: le.Uint64(b[32:]), firstUsable: le.Uint64(b[40:]), lastUsable: le.Uint64(b[48:]),
		disk: guidFromDisk(b[56:72]), array: le.Uint64(b[72:]),
		entries: le.Uint32(b[80:]), entrySize: le.Uint32(b[84:]), arrayCRC: le.Uint32(b[88:]),
	}
	switch {
	case h.lba != lba:
		return h, nil, fmt.Errorf("the header in sector %d belongs into sector %d", lba, h.lba)
	case h.entries < 1 || h.entries > maxReadEntries || h.entrySize < gptEntrySize || h.entrySize > 4096 || h.entrySize%8 != 0:
		return h, nil, fmt.Errorf("a table of %d entries with %d bytes", h.entries, h.entrySize)
	}
	array := make([]byte, int64(h.entries)*int64(h.entrySize))
	sectors := uint64(alignUp(int64(len(array)), sector) / sector)
	if h.array < 2 || h.array > last || last-h.array < sectors-1 {
		return h, nil, fmt.Errorf("the entries are in sector %d, which is not on the disk", h.array)
	}
	if _, err := r.ReadAt(array, int64(h.array)*sector); err != nil {
		return h, nil, fmt.Errorf("reading the entries: %w", err)
	}
	if crc32.ChecksumIEEE(array) != h.arrayCRC {
		return h, nil, errors.New("the checksum of the entries is wrong")
	}
	return h, array, nil
}

func readEntry(b []byte, number int, last uint64, sector int64) (Region, bool, error) {
	typ := guidFromDisk(b[:16])
	if typ == uuid.Nil {
		return Region{}, false, nil
	}
	le := binary.LittleEndian
	start, end, attributes := le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint64(b[48:])
	if start < 1 || end < start || end > last {
		return Region{}, false, fmt.Errorf("%w: partition %d has the sectors %d to %d of a disk with %d", ErrNoTable, number, start, end, last+1)
	}
	var units []uint16
	for i := 56; i < gptEntrySize; i += 2 {
		u := le.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	r := Region{
		Kind: KindPartition, Name: printable(string(utf16.Decode(units))), Number: number,
		Offset: int64(start) * sector, Size: int64(end-start+1) * sector,
		Type: typ.String(), UUID: guidFromDisk(b[16:32]).String(), Attributes: attributeNames(attributes, true),
	}
	r.Bootable = r.hasAttribute(attributeLegacyBoot)
	// A GPT has no place for slots; the names that slots get have.
	for _, slot := range []string{"a", "b"} {
		if strings.HasSuffix(r.Name, "_"+slot) {
			r.Slot = slot
		}
	}
	return r, true, nil
}

// guidFromDisk undoes the mixed byte order of a GPT: the first three fields are little-endian.
func guidFromDisk(b []byte) uuid.UUID {
	return uuid.UUID{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}
}

// printable replaces what a terminal would act on. Names and labels come from images of strangers.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
