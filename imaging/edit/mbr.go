package edit

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// The fields of an MBR and of the boot records of its chain, as in imaging/mbr.go.
const (
	mbrEntries    = 4
	mbrProtective = 0xee
	maxMBRSectors = int64(1) << 32
)

func putUint64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }

// mbrSector is one of them; what is not an entry stays as it is.
type mbrSector [512]byte

func readSector(f io.ReaderAt, at int64) (*mbrSector, error) {
	var s mbrSector
	if _, err := f.ReadAt(s[:], at); err != nil {
		return nil, err
	}
	return &s, nil
}

// mbrEntry is one of the four.
type mbrEntry []byte

func (s *mbrSector) entry(i int) mbrEntry { return s[446+16*i:][:16] }

func (e mbrEntry) typ() byte        { return e[4] }
func (e mbrEntry) extends() bool    { return e.typ() == 0x05 || e.typ() == 0x0f || e.typ() == 0x85 }
func (e mbrEntry) start() int64     { return int64(binary.LittleEndian.Uint32(e[8:])) }
func (e mbrEntry) count() int64     { return int64(binary.LittleEndian.Uint32(e[12:])) }
func (e mbrEntry) setCount(n int64) { binary.LittleEndian.PutUint32(e[12:], uint32(n)) }

// setEnd sets the number of sectors and the old address of the last one, which says no more than "use the number" beyond 8 GB.
func (e mbrEntry) setEnd(count int64) {
	e.setCount(count)
	const heads, sectors, cylinders = 255, 63, 1024
	last := e.start() + count - 1
	c, h, s := last/(heads*sectors), last/sectors%heads, last%sectors+1
	if c >= cylinders {
		copy(e[5:], []byte{0xfe, 0xff, 0xff})
		return
	}
	e[5], e[6], e[7] = byte(h), byte(s)|byte(c>>8<<6), byte(c)
}

// mbrTable is an MBR. It does not know how large its disk is: that is what the last partition leaves free.
type mbrTable struct{ m *imaging.Map }

func (t *mbrTable) end() int64    { return t.m.Size }
func (t *mbrTable) backup() int64 { return 0 }

func (t *mbrTable) limit(size int64) int64 { return min(size, (maxMBRSectors-1)*t.m.SectorSize) }

// grow changes the entry of the partition. For a logical one that is in its boot record; the link to that in the record before
// it, and the extended partition, reach as far.
func (t *mbrTable) grow(f *os.File, last imaging.Region, _, room int64) error {
	if room == last.Size {
		return nil
	}
	sector := t.m.SectorSize
	end := (last.Offset + room) / sector
	if !last.Logical {
		return t.patch(f, 0, func(e mbrEntry) bool { return !e.extends() && e.start() == last.Offset/sector },
			func(e mbrEntry) { e.setEnd(room / sector) })
	}
	own, before, err := t.records(last)
	if err != nil {
		return err
	}
	base := t.m.Extended.Offset / sector
	if err := t.patch(f, own, func(e mbrEntry) bool { return !e.extends() && own/sector+e.start() == last.Offset/sector },
		func(e mbrEntry) { e.setEnd(room / sector) }); err != nil {
		return err
	}
	if before >= 0 {
		if err := t.patch(f, before, func(e mbrEntry) bool { return e.extends() && base+e.start() == own/sector },
			func(e mbrEntry) { e.setEnd(end - own/sector) }); err != nil {
			return err
		}
	}
	return t.patch(f, 0, func(e mbrEntry) bool { return e.extends() && e.start() == base },
		func(e mbrEntry) { e.setEnd(end - base) })
}

// records are the boot records of a logical partition and of the one before it, or -1.
func (t *mbrTable) records(p imaging.Region) (own, before int64, err error) {
	own, before = -1, -1
	for _, r := range t.m.Regions {
		if r.Kind != imaging.KindTable || r.Number == 0 {
			continue
		}
		switch r.Number {
		case p.Number:
			own = r.Offset
		case p.Number - 1:
			before = r.Offset
		}
	}
	if own < 0 {
		return 0, 0, fmt.Errorf("the boot record of logical partition %d is not there", p.Number)
	}
	return own, before, nil
}

// patch changes the one entry of a sector that is meant.
func (t *mbrTable) patch(f *os.File, at int64, is func(mbrEntry) bool, change func(mbrEntry)) error {
	s, err := readSector(f, at)
	if err != nil {
		return err
	}
	for i := range mbrEntries {
		if e := s.entry(i); e.count() > 0 && e.typ() != 0 && is(e) {
			change(e)
			return durable.WriteAt(f, s[:], at)
		}
	}
	return fmt.Errorf("the boot record at %d does not list the partition", at)
}
