package edit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
	"github.com/twinkeel/twinkeel/imaging/internal/gptdisk"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// growAlignment is that of the end of a partition that grows; it suits the erase blocks of nearly every medium.
const growAlignment = 1 << 20

// Resized is what [Image.Resize] has changed.
type Resized struct {
	OldSize   int64  `json:"old_size"`
	Size      int64  `json:"size"`
	Partition int    `json:"partition"` // the last one
	Name      string `json:"name"`
	OldRoom   int64  `json:"old_room"` // of the partition
	Room      int64  `json:"room"`
	// Filesystem is what the partition holds; Grown says whether it has the new room, too.
	Filesystem string `json:"filesystem"`
	Grown      bool   `json:"grown"`
}

// Resize gives the disk another size: the backup table goes to the new end, the last partition grows into the room that there
// is now, and with it its file system, if that is ext4 and grow is set. A disk shrinks only by what is free behind its last
// partition.
func (im *Image) Resize(ctx context.Context, size int64, grow bool) (out *Resized, err error) {
	defer spaceError(&err, im.Path)
	m := im.Disk.Map
	size -= size % m.SectorSize
	last, err := im.lastPartition()
	if err != nil {
		return nil, err
	}
	t, err := im.readTable()
	if err != nil {
		return nil, err
	}
	if err := im.checkTail(t, last, size); err != nil {
		return nil, err
	}
	out = &Resized{
		OldSize: im.Disk.Size, Size: size, Partition: last.Number, Name: last.Name,
		OldRoom: last.Size, Room: last.Size, Filesystem: last.Filesystem,
	}
	if size >= t.end() {
		out.Room = max(last.Size, t.limit(size)/growAlignment*growAlignment-last.Offset)
	}
	if err := im.moveTable(ctx, t, last, out); err != nil {
		return nil, fmt.Errorf("writing %s: %w", im.Path, plainCause(err))
	}
	if grow && out.Room > last.Size && last.Filesystem == imaging.FilesystemExt4 {
		if err := im.growExt4(ctx, last, out.Room); err != nil {
			return nil, err
		}
		out.Grown = true
	}
	return out, im.reload()
}

// lastPartition is the one that nothing is behind.
func (im *Image) lastPartition() (last imaging.Region, err error) {
	for _, r := range im.Disk.Map.Regions {
		if r.Kind == imaging.KindPartition && r.End() > last.End() {
			last = r
		}
	}
	if last.Size == 0 {
		return last, refuse(im.source, "", "it has no partition")
	}
	return last, nil
}

// table is a partition table as it lies on the disk, where its last partition can be moved.
type table interface {
	// end is the size of the disk that the table is for.
	end() int64
	// backup is how much the copy of the table takes at the end of the disk.
	backup() int64
	// limit is how far a partition can reach on a disk of a size.
	limit(size int64) int64
	// grow writes the table for a disk of size bytes with another size of the last partition.
	grow(f *os.File, last imaging.Region, size, room int64) error
}

func (im *Image) readTable() (table, error) {
	m := im.Disk.Map
	if m.Damaged != "" && m.Damaged != "backup" {
		return nil, refuse(im.source, "repair it first; twinkeel image verify says more", "its partition table is damaged (%s)", m.Damaged)
	}
	if m.Table == imaging.TableMBR {
		return &mbrTable{m: m}, nil
	}
	t, err := gptdisk.Read(im.Disk, im.Disk.Size, m.SectorSize, 1)
	if err != nil {
		return nil, fmt.Errorf("%s: the partition table: %w", im.source, err)
	}
	return &gptTable{m: m, t: t}, nil
}

// checkTail refuses a size that something would be cut off by.
func (im *Image) checkTail(t table, last imaging.Region, size int64) error {
	need := last.End() + t.backup()
	switch {
	case size < need:
		return refuse(im.source, "the last partition does not shrink: the least size is "+imaging.FormatSize(need),
			"%s is too small: partition %s ends at %s%s", imaging.FormatSize(size), inspect.Title(last), imaging.FormatSize(last.End()),
			map[bool]string{true: ", and the backup partition table is behind it"}[t.backup() > 0])
	case last.End() > t.end():
		return refuse(im.source, "", "partition %s ends behind the disk that its table is for", inspect.Title(last))
	}
	blank, err := im.blankBehind(last.End())
	if err != nil {
		return fmt.Errorf("reading %s: %w", im.source, plainCause(err))
	}
	if !blank {
		return refuse(im.source, "it may be the environment of a boot loader, or what is left of another image",
			"there is data behind partition %s that belongs to nothing in the table", inspect.Title(last))
	}
	return nil
}

// blankBehind tells whether there is nothing from at on but the backup table.
func (im *Image) blankBehind(at int64) (bool, error) {
	for _, r := range im.Disk.Map.Regions {
		if r.Kind != imaging.KindBackupTable || r.Offset < at {
			continue
		}
		if blank, err := imaging.Blank(im.file(), at, r.Offset-at); !blank || err != nil {
			return false, err
		}
		at = r.End()
	}
	return imaging.Blank(im.file(), at, im.Disk.Size-at)
}

// moveTable writes the tables of the new size; nothing is left of the old copy.
func (im *Image) moveTable(ctx context.Context, t table, last imaging.Region, out *Resized) error {
	for _, r := range im.Disk.Map.Regions {
		if r.Kind == imaging.KindBackupTable {
			if err := zero(ctx, im.file(), r.Offset, r.Size); err != nil {
				return err
			}
		}
	}
	if err := im.f.Truncate(out.Size); err != nil {
		return err
	}
	return t.grow(im.file(), last, out.Size, out.Room)
}

// growExt4 grows a file system in a file of its own: resize2fs cuts a file behind the file system, whose offset in it it
// forgets (1.47.0), and with it the end of the disk.
func (im *Image) growExt4(ctx context.Context, r imaging.Region, room int64) error {
	if _, err := im.scratch(); err != nil {
		return err
	}
	const name = "filesystem"
	if err := im.scratchFile(name, nil); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(im.work, name), os.O_RDWR, 0)
	if err != nil {
		return plainCause(err)
	}
	defer f.Close()
	if err := f.Truncate(room); err != nil {
		return plainCause(err)
	}
	im.meter.more(r.Size + room)
	if err := imaging.CopyRange(ctx, f, 0, im.file(), r.Offset, r.Size, im.meter.add); err != nil {
		return fmt.Errorf("copying partition %s: %w", inspect.Title(r), plainCause(err))
	}
	super, err := im.checkExt4(ctx, r, name)
	if err != nil {
		return err
	}
	// resize2fs wants a check since the last mount.
	if _, err := im.run(ctx, super.written, "e2fsck", "-f", "-p", name); err != nil && !corrected(err) {
		return fmt.Errorf("partition %s: %w", inspect.Title(r), err)
	}
	if _, err := im.run(ctx, super.written, "resize2fs", name, strconv.FormatInt(room/512, 10)+"s"); err != nil {
		return fmt.Errorf("partition %s: %w", inspect.Title(r), err)
	}
	if err := super.setTimes(f); err != nil {
		return plainCause(err)
	}
	if _, err := im.checkExt4(ctx, r, name); err != nil {
		return err
	}
	if err := f.Truncate(room); err != nil { // it may be shorter by a part of a block
		return plainCause(err)
	}
	if err := zero(ctx, im.file(), r.Offset, room); err != nil {
		return fmt.Errorf("writing %s: %w", im.Path, plainCause(err))
	}
	return imaging.CopyRange(ctx, im.file(), r.Offset, f, 0, room, im.meter.add)
}

// corrected is e2fsck's exit code for a file system that is whole now.
func corrected(err error) bool {
	var exit interface{ ExitCode() int }
	return errors.As(err, &exit) && exit.ExitCode() == 1
}

// gptTable is a GPT; a hybrid has an MBR in front of it that may list the partition, too.
type gptTable struct {
	m *imaging.Map
	t *gptdisk.Table
}

func (g *gptTable) end() int64 {
	if g.m.NoBackup {
		return int64(g.t.LastUsable+1) * g.t.Sector
	}
	return int64(g.t.Alternate+1) * g.t.Sector
}

func (g *gptTable) backup() int64 {
	if g.m.NoBackup {
		return 0
	}
	return int64(g.t.EntrySectors()+1) * g.t.Sector
}

func (g *gptTable) limit(size int64) int64 { return size - g.backup() }

// grow writes the backup first. Names, attributes and whatever else an entry holds stay.
func (g *gptTable) grow(f *os.File, last imaging.Region, size, room int64) error {
	sector := g.t.Sector
	end := uint64(size / sector)
	primary := g.t
	putUint64(primary.Entry(last.Number)[40:], uint64((last.Offset+room)/sector-1))
	primary.LastUsable = uint64(g.limit(size)/sector) - 1
	if !g.m.NoBackup {
		primary.Alternate = end - 1
		entriesAt := end - 1 - primary.EntrySectors()
		backup := primary.At(end-1, entriesAt, 1)
		if err := writeTable(f, backup); err != nil {
			return err
		}
	}
	if err := writeTable(f, primary); err != nil {
		return err
	}
	mbr, err := readSector(f, 0)
	if err != nil {
		return err
	}
	for i := range mbrEntries {
		e := mbr.entry(i)
		switch {
		case e.typ() == mbrProtective && e.start() == 1 && g.m.Table == imaging.TableGPT:
			e.setCount(min(int64(end)-1, maxMBRSectors-1))
		case g.m.Table == imaging.TableHybrid && e.typ() != mbrProtective && e.start() == last.Offset/sector && e.count() == last.Size/sector:
			e.setEnd(min(room/sector, maxMBRSectors-1-e.start()))
		}
	}
	return durable.WriteAt(f, mbr[:], 0)
}

func writeTable(f *os.File, t *gptdisk.Table) error {
	if err := durable.WriteAt(f, t.Padded(), int64(t.EntriesAt)*t.Sector); err != nil {
		return err
	}
	return durable.WriteAt(f, t.Header(), int64(t.LBA)*t.Sector)
}
