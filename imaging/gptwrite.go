package imaging

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

const attributeLegacyBoot = 1 << 2

// writeGPT writes both partition tables of m to w, in the places that m gives them.
func writeGPT(w io.WriterAt, m *Map) error {
	table := &gpt.Table{
		LogicalSectorSize: int(m.SectorSize), PhysicalSectorSize: int(m.SectorSize), GUID: m.UUID, ProtectiveMBR: true,
	}
	for _, r := range m.Regions {
		if r.Kind != KindPartition {
			continue
		}
		p := &gpt.Partition{
			Index: r.Number, Name: r.Name, GUID: r.UUID, Type: gpt.Type(r.Type),
			Start: uint64(r.Offset / m.SectorSize), End: uint64(r.End()/m.SectorSize - 1), Size: uint64(r.Size),
		}
		if r.Bootable {
			p.Attributes |= attributeLegacyBoot
		}
		table.Partitions = append(table.Partitions, p)
	}
	if err := table.Write(&tableSink{w}, m.Size); err != nil {
		return fmt.Errorf("writing the partition table: %w", err)
	}
	return protectiveMBR(w, m)
}

// protectiveMBR completes the entry that go-diskfs wrote: it leaves the CHS fields zero, which UEFI 2.10 table 5.4 does
// not allow, and cuts the length of disks above 2 TiB instead of saturating it.
func protectiveMBR(w io.WriterAt, m *Map) error {
	entry := []byte{0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0}
	last := min(m.Size/m.SectorSize-1, math.MaxUint32)
	binary.LittleEndian.PutUint32(entry[12:], uint32(last))
	if _, err := w.WriteAt(entry, 446); err != nil {
		return fmt.Errorf("writing the partition table: %w", err)
	}
	return nil
}

// tableSink lets go-diskfs write and nothing else. It hides Sync: an image is synced once, before it gets its name.
type tableSink struct{ io.WriterAt }

var errSink = errors.New("the table is written, not read")

func (*tableSink) Stat() (fs.FileInfo, error)        { return nil, errSink }
func (*tableSink) Read([]byte) (int, error)          { return 0, errSink }
func (*tableSink) ReadAt([]byte, int64) (int, error) { return 0, errSink }
func (*tableSink) Seek(int64, int) (int64, error)    { return 0, errSink }
func (*tableSink) Close() error                      { return nil }
