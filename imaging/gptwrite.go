package imaging

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"regexp"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"
)

// UEFI 2.10 chapter 5.3. All numbers are little-endian; GUIDs have their first three fields so.
const (
	gptEntries    = 128 // what UEFI wants at least, and what everybody has
	maxGPTEntries = 1024
	gptEntrySize  = 128
	gptHeaderSize = 92
	gptRevision   = 0x00010000
	maxGPTName    = 36 // UTF-16 units
	gptMagic      = "EFI PART"
)

// gptArraySize is the room of a table's entries, in whole sectors.
func gptArraySize(entries, sector int64) int64 { return alignUp(entries*gptEntrySize, sector) }

// checkGPTOptions completes the options of the GPT.
func (r *resolver) checkGPTOptions() error {
	o := r.GPT
	if !r.isGPT() {
		if o != (GPTOptions{}) {
			return refuse("", "the layout has options of a GPT, but its table is an MBR")
		}
		return nil
	}
	r.entries = int64(cmp.Or(o.Entries, gptEntries))
	if r.entries < 1 || r.entries > maxGPTEntries {
		return refuse("128 is what other tools expect", "a GPT of %d entries; it can have 1 to %d", r.entries, maxGPTEntries)
	}
	switch {
	case o.EntriesAt < 0 || o.EntriesAt > maxSize:
		return refuse("", "the entries of the GPT are at offset %d, which no disk has", o.EntriesAt)
	case o.EntriesAt%r.sector != 0:
		return refuse(moveTo(o.EntriesAt, r.sector), "the entries of the GPT at %s are misaligned: their offset is not a multiple of the sector (%d bytes)",
			FormatSize(o.EntriesAt), r.sector)
	}
	return nil
}

var mbrSignature = regexp.MustCompile(`^[0-9a-fA-F]{8}$`)

func (r *resolver) checkDiskID() error {
	if r.DiskID == "" {
		return nil
	}
	if r.isGPT() {
		if _, ok := parseGUID(r.DiskID); !ok {
			return refuse("a GUID has the form 01234567-89ab-cdef-0123-456789abcdef", "the disk's identifier %q is no GUID, which a GPT needs", r.DiskID)
		}
		return nil
	}
	if !mbrSignature.MatchString(r.DiskID) || strings.Trim(r.DiskID, "0") == "" {
		return refuse("use eight hex digits that are not all zero", "the disk's identifier %q cannot be the signature of an MBR", r.DiskID)
	}
	return nil
}

// block is a piece of a table and where it belongs.
type block struct {
	offset int64
	data   []byte
}

// writeTable writes all tables of m to w, in the places that m gives them, and nothing else.
func (m *Map) writeTable(w io.WriterAt) error {
	for _, b := range m.tableBlocks() {
		if _, err := w.WriteAt(b.data, b.offset); err != nil {
			return fmt.Errorf("writing the partition table: %w", err)
		}
	}
	return nil
}

// tableBlocks are all tables of m, the copy at the end first: until the first sector is written, there is no table.
func (m *Map) tableBlocks() []block {
	if m.Table == TableMBR {
		blocks := m.mbrBlocks()
		return append(blocks[1:], blocks[0])
	}
	entries := m.gptEntries()
	last := m.Size/m.SectorSize - 1
	array := int64(len(entries))
	primaryArray, backupArray, alternate := 2*m.SectorSize, (last*m.SectorSize)-array, last
	firstUsable, lastUsable := primaryArray+array, backupArray-m.SectorSize
	for _, r := range m.Regions {
		if r.Kind == KindTable && r.Name == regionGPTEntries {
			primaryArray, firstUsable = r.Offset, r.End()
		}
	}
	var blocks []block
	if m.NoBackup {
		alternate, lastUsable = 1, last*m.SectorSize
	}
	header := func(own, other, array int64) []byte {
		return m.gptHeader(entries, own, other, firstUsable/m.SectorSize, lastUsable/m.SectorSize, array/m.SectorSize)
	}
	if !m.NoBackup {
		blocks = append(blocks, block{backupArray, entries}, block{last * m.SectorSize, header(last, 1, backupArray)})
	}
	return append(blocks, block{primaryArray, entries}, block{m.SectorSize, header(1, alternate, primaryArray)}, m.protectiveBlock())
}

// gptEntries is the array of partitions, in whole sectors.
func (m *Map) gptEntries() []byte {
	array := make([]byte, gptArraySize(int64(cmp.Or(m.Entries, gptEntries)), m.SectorSize))
	le := binary.LittleEndian
	for _, r := range m.Regions {
		if r.Kind != KindPartition {
			continue
		}
		e := array[(r.Number-1)*gptEntrySize:][:gptEntrySize]
		putGUID(e, r.Type)
		putGUID(e[16:], r.UUID)
		le.PutUint64(e[32:], uint64(r.Offset/m.SectorSize))
		le.PutUint64(e[40:], uint64(r.End()/m.SectorSize-1))
		le.PutUint64(e[48:], r.attributeSet())
		for i, u := range utf16.Encode([]rune(r.Name)) {
			le.PutUint16(e[56+2*i:], u)
		}
	}
	return array
}

func (m *Map) gptHeader(entries []byte, own, other, firstUsable, lastUsable, array int64) []byte {
	count := cmp.Or(m.Entries, gptEntries)
	h := make([]byte, m.SectorSize)
	copy(h, gptMagic)
	le := binary.LittleEndian
	le.PutUint32(h[8:], gptRevision)
	le.PutUint32(h[12:], gptHeaderSize)
	le.PutUint64(h[24:], uint64(own))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[40:], uint64(firstUsable))
	le.PutUint64(h[48:], uint64(lastUsable))
	putGUID(h[56:], m.UUID)
	le.PutUint64(h[72:], uint64(array))
	le.PutUint32(h[80:], uint32(count))
	le.PutUint32(h[84:], gptEntrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries[:count*gptEntrySize]))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderSize]))
	return h
}

// putGUID writes a GUID with the mixed byte order of a GPT; guidFromDisk undoes it.
func putGUID(b []byte, guid string) {
	id, err := uuid.Parse(guid)
	if err != nil {
		return // none, as of a map that was resolved without a seed
	}
	mixed := guidFromDisk(id[:]) // swapping twice is swapping back
	copy(b, mixed[:])
}
