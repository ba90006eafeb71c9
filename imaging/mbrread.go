package imaging

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
)

// maxReadLogical bounds the chain of boot records that ReadMap follows; Linux gives up after 100.
const maxReadLogical = 100

// errNoMBR says that the first sector is no MBR: that is not worth a word if there is a GPT, or nothing at all.
var errNoMBR = fmt.Errorf("%w: no MBR", ErrNoTable)

// mbrEntry is one of the four lines of an MBR or of a boot record.
type mbrEntry struct {
	slot         int
	typ          string // two hex digits
	active       bool
	start, count int64 // sectors
}

func (e mbrEntry) extends() bool {
	return slices.Contains([]string{mbrTypeExtendedCHS, mbrTypeExtended, "85"}, e.typ)
}

type mbrTable struct {
	signature string // empty: none
	entries   []mbrEntry
}

// protects tells whether the MBR is there to keep others away from a GPT, which makes that the table.
func (t *mbrTable) protects() bool {
	return slices.ContainsFunc(t.entries, func(e mbrEntry) bool { return e.typ == mbrTypeProtective && e.start == 1 })
}

// readMBRSector reads the first sector. The boot sectors of file systems end in the same two bytes; they are told apart as
// Linux does it, by what cannot be in an MBR.
func readMBRSector(r io.ReaderAt, size int64) (*mbrTable, error) {
	if size < 2*mbrSize {
		return nil, errNoMBR
	}
	head := make([]byte, 4096)
	n, err := r.ReadAt(head[:min(size, 4096)], 0)
	if err != nil && (!errors.Is(err, io.EOF) || int64(n) < mbrSize) {
		return nil, fmt.Errorf("reading the first sector: %w", err)
	}
	if probeFAT(head).Kind != "" || bytes.HasPrefix(head[3:], []byte("NTFS    ")) || bytes.HasPrefix(head[3:], []byte("EXFAT   ")) {
		return nil, errNoMBR
	}
	entries, err := parseMBREntries(head[:mbrSize])
	if err != nil || len(entries) == 0 {
		return nil, errNoMBR
	}
	t := &mbrTable{entries: entries}
	if sig := binary.LittleEndian.Uint32(head[mbrSignatureAt:]); sig != 0 {
		t.signature = fmt.Sprintf("%08x", sig)
	}
	return t, nil
}

var errBadBootRecord = errors.New("not a boot record")

func parseMBREntries(sector []byte) ([]mbrEntry, error) {
	if sector[mbrMagicAt] != 0x55 || sector[mbrMagicAt+1] != 0xaa {
		return nil, errBadBootRecord
	}
	var out []mbrEntry
	for slot := range mbrEntries {
		b := sector[mbrEntriesAt+slot*mbrEntrySize:][:mbrEntrySize]
		if b[0] != 0 && b[0] != mbrActive {
			return nil, errBadBootRecord
		}
		e := mbrEntry{
			slot: slot, typ: hex.EncodeToString(b[4:5]), active: b[0] == mbrActive,
			start: int64(binary.LittleEndian.Uint32(b[8:])), count: int64(binary.LittleEndian.Uint32(b[12:])),
		}
		if e.typ != "00" && e.count > 0 {
			out = append(out, e)
		}
	}
	return out, nil
}

// readMBR reads a disk with an MBR. The table does not say how large its sectors are: both sizes are tried, and the one with
// which more of what the partitions should hold is found is taken, if in doubt 512.
func readMBR(r io.ReaderAt, size int64, head *mbrTable) (*Map, error) {
	var best *Map
	var first error
	most := -1
	for _, sector := range []int64{512, 4096} {
		m, err := readMBRWith(r, size, sector, head)
		if err == nil {
			err = m.probe(r)
		}
		if err != nil {
			if !errors.Is(err, ErrNoTable) {
				return nil, err
			}
			if first == nil {
				first = err
			}
			continue
		}
		if n := m.recognised(); n > most {
			best, most = m, n
		}
	}
	if best == nil {
		return nil, first
	}
	return best, nil
}

// recognised counts the regions that are what they claim to be.
func (m *Map) recognised() (n int) {
	for _, r := range m.Regions {
		if r.Name == regionEBR || r.Kind == KindPartition && r.Filesystem != FilesystemNone {
			n++
		}
	}
	return n
}

func readMBRWith(r io.ReaderAt, size, sector int64, head *mbrTable) (*Map, error) {
	m := &Map{Table: TableMBR, SectorSize: sector, Size: size}
	m.Regions = append(m.Regions, Region{Kind: KindTable, Name: regionMBR, Size: mbrSize})
	for _, e := range head.entries {
		p, err := m.mbrRegion(e, e.slot+1, 0)
		switch {
		case err != nil:
			return nil, err
		case !e.extends():
			m.Regions = append(m.Regions, p)
		case m.Extended != nil:
			return nil, fmt.Errorf("%w: two extended partitions", ErrNoTable)
		default:
			p.Kind, p.Name = KindExtended, KindExtended
			m.Extended = &p
		}
	}
	primary := len(m.Regions)
	if m.Extended != nil {
		for _, p := range m.Regions[1:] {
			if err := checkOverlap([]Region{*m.Extended, p}); err != nil {
				return nil, contradiction(err)
			}
		}
		if err := m.readChain(r); err != nil {
			return nil, err
		}
	}
	if err := checkOverlap(m.Regions); err != nil {
		return nil, contradiction(err)
	}
	for i := primary; i < len(m.Regions); i++ {
		m.Regions[i].Logical = m.Regions[i].Kind == KindPartition
	}
	m.setSignature(head.signature)
	byOffset(m.Regions)
	return m, nil
}

// mbrRegion is the partition of an entry whose sectors are counted from base.
func (m *Map) mbrRegion(e mbrEntry, number int, base int64) (Region, error) {
	p := Region{
		Kind: KindPartition, Number: number, MBRType: e.typ, Bootable: e.active,
		Offset: base + e.start*m.SectorSize, Size: e.count * m.SectorSize,
	}
	if p.Offset < mbrSize || p.End() > m.Size {
		return p, fmt.Errorf("%w: partition %d is %s of a disk with %s", ErrNoTable, number, Span{p.Offset, p.Size}.describe(), FormatSize(m.Size))
	}
	return p, nil
}

// readChain follows the boot records inside the extended partition. A chain that breaks off leaves a map that says so; one that
// leaves its partition, turns back or does not end is refused.
func (m *Map) readChain(r io.ReaderAt) error {
	at, number := m.Extended.Offset, firstLogical
	seen := map[int64]bool{}
	for {
		if seen[at] {
			return fmt.Errorf("%w: the logical partitions lead back to the boot record at %s", ErrNoTable, FormatSize(at))
		}
		if seen[at] = true; len(seen) > maxReadLogical {
			return fmt.Errorf("%w: more than %d logical partitions", ErrNoTable, maxReadLogical)
		}
		sector := make([]byte, mbrSize)
		if _, err := r.ReadAt(sector, at); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading a boot record: %w", err)
		}
		entries, err := parseMBREntries(sector)
		if err != nil {
			m.Damaged = "extended"
			return nil
		}
		m.Regions = append(m.Regions, Region{Kind: KindTable, Name: regionEBR, Number: number, Offset: at, Size: m.SectorSize})
		next, used := int64(0), false
		for _, e := range entries {
			base := at
			if e.extends() {
				base = m.Extended.Offset
			}
			p, err := m.mbrRegion(e, number, base)
			if err != nil {
				return err
			}
			if p.Offset < m.Extended.Offset || p.End() > m.Extended.End() {
				return fmt.Errorf("%w: %s is outside %s", ErrNoTable, p.describe(), m.Extended.describe())
			}
			switch {
			case e.extends() && next == 0:
				next = p.Offset
			case !e.extends() && !used:
				used = true
				m.Regions = append(m.Regions, p)
			}
		}
		if used {
			number++
		}
		if next == 0 {
			return nil
		}
		at = next
	}
}

// addHybrid marks the partitions of a GPT that the MBR in front of it lists too.
func (m *Map) addHybrid(head *mbrTable) {
	if head == nil {
		return
	}
	for _, e := range head.entries {
		if e.typ == mbrTypeProtective {
			continue
		}
		m.Table, m.Signature = TableHybrid, head.signature
		i := slices.IndexFunc(m.Regions, func(r Region) bool {
			return r.Kind == KindPartition && r.Offset == e.start*m.SectorSize && r.Size == e.count*m.SectorSize
		})
		switch {
		case i >= 0:
			m.Regions[i].InMBR, m.Regions[i].MBRType = true, e.typ
		case m.Damaged == "":
			m.Damaged = "mbr"
		}
	}
}
