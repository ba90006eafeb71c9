// Package gptdisk reads and writes one GUID partition table as it lies on a disk: its header and its entries, byte for byte. It
// is for those who check or move a table; who wants to know what is where asks imaging.ReadMap.
//
// The format is UEFI 2.10 section 5.3; sgdisk 1.0.9 decides. A table is only returned whole: both of its checksums are right.
package gptdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Limits of a table that is read.
const (
	MaxEntries   = 1024
	MaxEntrySize = 4096
	MinEntrySize = 128
)

// Table is one of the two tables of a disk.
type Table struct {
	Sector      int64 // bytes
	LBA         uint64
	Alternate   uint64 // where the other one is
	FirstUsable uint64
	LastUsable  uint64
	EntriesAt   uint64 // sector of the entries
	Count       uint32
	EntrySize   uint32
	Disk        [16]byte // GUID, as on the disk
	Entries     []byte
	header      []byte // a sector
}

// Read reads the table whose header is in sector lba of a disk of size bytes.
func Read(r io.ReaderAt, size, sector int64, lba uint64) (*Table, error) {
	last := uint64(size/sector) - 1
	if size < 4*sector || lba < 1 || lba > last {
		return nil, fmt.Errorf("sector %d is not on the disk", lba)
	}
	b := make([]byte, sector)
	if _, err := r.ReadAt(b, int64(lba)*sector); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading sector %d: %w", lba, err)
	}
	le := binary.LittleEndian
	if string(b[:8]) != "EFI PART" {
		return nil, errors.New("there is no signature")
	}
	length := int64(le.Uint32(b[12:]))
	if length < 92 || length > sector {
		return nil, fmt.Errorf("its header has %d bytes", length)
	}
	if sum := le.Uint32(b[16:]); headerSum(b, length) != sum {
		return nil, errors.New("the header's checksum is wrong")
	}
	t := &Table{
		Sector: sector, LBA: le.Uint64(b[24:]), Alternate: le.Uint64(b[32:]), FirstUsable: le.Uint64(b[40:]), LastUsable: le.Uint64(b[48:]),
		EntriesAt: le.Uint64(b[72:]), Count: le.Uint32(b[80:]), EntrySize: le.Uint32(b[84:]), Disk: [16]byte(b[56:72]), header: b,
	}
	switch {
	case t.LBA != lba:
		return nil, fmt.Errorf("the header in sector %d belongs into sector %d", lba, t.LBA)
	case t.Count < 1 || t.Count > MaxEntries || t.EntrySize < MinEntrySize || t.EntrySize > MaxEntrySize || t.EntrySize%8 != 0:
		return nil, fmt.Errorf("it has %d entries of %d bytes", t.Count, t.EntrySize)
	case t.EntriesAt < 2 || t.EntriesAt > last || last-t.EntriesAt < t.EntrySectors()-1:
		return nil, fmt.Errorf("its entries are in sector %d, which is not on the disk", t.EntriesAt)
	}
	t.Entries = make([]byte, int64(t.Count)*int64(t.EntrySize))
	if _, err := r.ReadAt(t.Entries, int64(t.EntriesAt)*sector); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the entries: %w", err)
	}
	if crc32.ChecksumIEEE(t.Entries) != le.Uint32(b[88:]) {
		return nil, errors.New("the checksum of the entries is wrong")
	}
	return t, nil
}

func headerSum(b []byte, length int64) uint32 {
	c := append([]byte(nil), b[:length]...)
	clear(c[16:20])
	return crc32.ChecksumIEEE(c)
}

// EntrySectors is how many sectors the entries take.
func (t *Table) EntrySectors() uint64 {
	n := uint64(t.Count) * uint64(t.EntrySize)
	return (n + uint64(t.Sector) - 1) / uint64(t.Sector)
}

// Entry is the bytes of an entry, counted from 1; changing them changes the table.
func (t *Table) Entry(number int) []byte {
	if number < 1 || number > int(t.Count) {
		return nil
	}
	return t.Entries[(number-1)*int(t.EntrySize):][:t.EntrySize]
}

// Header encodes the header with its fields as they are now, over what else the sector held.
func (t *Table) Header() []byte {
	b := append([]byte(nil), t.header...)
	le := binary.LittleEndian
	for at, v := range map[int]uint64{24: t.LBA, 32: t.Alternate, 40: t.FirstUsable, 48: t.LastUsable, 72: t.EntriesAt} {
		le.PutUint64(b[at:], v)
	}
	le.PutUint32(b[88:], crc32.ChecksumIEEE(t.Entries))
	le.PutUint32(b[16:], headerSum(b, int64(le.Uint32(b[12:]))))
	return b
}

// Padded is the entries, filled up with zeros to whole sectors.
func (t *Table) Padded() []byte {
	b := make([]byte, t.EntrySectors()*uint64(t.Sector))
	copy(b, t.Entries)
	return b
}

// At returns a copy of the table for another place: its header in sector lba, its entries in entriesAt, and the other table
// in alternate.
func (t *Table) At(lba, entriesAt, alternate uint64) *Table {
	c := *t
	c.LBA, c.EntriesAt, c.Alternate = lba, entriesAt, alternate
	return &c
}
