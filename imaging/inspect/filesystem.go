package inspect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/twinkeel/twinkeel/imaging"
)

// Usage is what a file system says of its room.
type Usage struct {
	imaging.Filesystem
	Used int64 // bytes, with the file system's own tables; -1 when it is not known
}

// UsageOf looks at the file system in the first size bytes of r.
func UsageOf(r io.ReaderAt, size int64) (Usage, error) {
	found, err := imaging.Probe(r, size)
	u := Usage{found, -1}
	if err != nil {
		return u, err
	}
	switch found.Kind {
	case imaging.FilesystemExt4:
		if s, err := readExt4(r, size); err == nil {
			u.Used = s.size - s.free*s.blockSize
		}
	case imaging.FilesystemVFAT:
		if f, err := readFAT(r, size); err == nil {
			if free, err := f.freeClusters(); err == nil {
				u.Used = f.size - free*f.cluster
			}
		}
	case imaging.FilesystemSquashFS, imaging.FilesystemEROFS: // they have no free blocks
		u.Used = found.Size
	}
	return u, nil
}

// problem is something wrong with a file system.
type problem struct {
	code     string
	severity string
	text     string
	hint     string
}

// ext4 is what the superblock says of the whole; the kernel's Documentation/filesystems/ext4 is the format.
type ext4 struct {
	r          io.ReaderAt
	super      []byte
	blockSize  int64
	size, free int64 // bytes; blocks
	groups     int64
	perGroup   int64
	descSize   int64
	descAt     int64
	incompat   uint32
	ro         uint32
}

const (
	ext4SuperSize = 1024
	ext4MaxGroups = 1 << 22 // 512 TiB of usual groups

	ext4Recover       = 0x4
	ext4Meta          = 0x10
	ext464bit         = 0x80
	ext4ChecksumSeed  = 0x2000
	ext4GroupChecksum = 0x10
	ext4MetaChecksum  = 0x400
)

var errNotExt4 = errors.New("there is no ext4 superblock")

func readExt4(r io.ReaderAt, size int64) (*ext4, error) {
	s := &ext4{r: r, super: make([]byte, ext4SuperSize)}
	if size < 2048 {
		return nil, errNotExt4
	}
	if _, err := r.ReadAt(s.super, 1024); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	le := binary.LittleEndian
	if le.Uint16(s.super[0x38:]) != 0xef53 {
		return nil, errNotExt4
	}
	s.incompat, s.ro = le.Uint32(s.super[0x60:]), le.Uint32(s.super[0x64:])
	blocks, free := uint64(le.Uint32(s.super[0x4:])), uint64(le.Uint32(s.super[0xc:]))
	s.descSize = 32
	if s.incompat&ext464bit != 0 {
		blocks |= uint64(le.Uint32(s.super[0x150:])) << 32
		free |= uint64(le.Uint32(s.super[0x158:])) << 32
		s.descSize = int64(le.Uint16(s.super[0xfe:]))
	}
	shift, first := le.Uint32(s.super[0x18:]), int64(le.Uint32(s.super[0x14:]))
	s.perGroup = int64(le.Uint32(s.super[0x20:]))
	switch {
	case shift > 6:
		return nil, fmt.Errorf("blocks of 2^%d bytes", 10+uint64(shift))
	case s.descSize < 32 || s.descSize > 1024 || s.perGroup < 1 || s.perGroup > 8*(1024<<shift):
		return nil, fmt.Errorf("groups of %d blocks, described in %d bytes", s.perGroup, s.descSize)
	case blocks > uint64(maxDiskSize)>>(10+shift) || free > blocks || int64(blocks) <= first:
		return nil, fmt.Errorf("it counts %d free blocks of %d", free, blocks)
	}
	s.blockSize = 1024 << shift
	s.size, s.free = int64(blocks)*s.blockSize, int64(free)
	s.groups = (int64(blocks) - first + s.perGroup - 1) / s.perGroup
	s.descAt = (first + 1) * s.blockSize
	if s.groups > ext4MaxGroups {
		return nil, fmt.Errorf("%d groups of blocks", s.groups)
	}
	return s, nil
}

// checkExt4 looks at what says by itself that it is sound: the state, the checksums of the superblock and of the groups.
func checkExt4(r io.ReaderAt, size int64) []problem {
	s, err := readExt4(r, size)
	if err != nil {
		return []problem{{CodeFilesystem, SeverityError, err.Error(), ""}}
	}
	var out []problem
	le := binary.LittleEndian
	if s.size > size {
		out = append(out, problem{
			CodeFilesystemSize, SeverityError,
			fmt.Sprintf("the file system has %s, the partition only %s", imaging.FormatSize(s.size), imaging.FormatSize(size)), "",
		})
	}
	switch state := le.Uint16(s.super[0x3a:]); {
	case s.incompat&ext4Recover != 0:
		out = append(out, problem{
			CodeFilesystemDirty, SeverityWarning, "it was not unmounted: the first mount replays its journal",
			"unmount it before its image is taken",
		})
	case state&2 != 0:
		out = append(out, problem{CodeFilesystemErrors, SeverityError, "the kernel has noted errors in it", "e2fsck -f repairs it"})
	case state&1 == 0:
		out = append(out, problem{CodeFilesystemDirty, SeverityWarning, "it was not unmounted", "e2fsck -f checks it"})
	}
	if s.ro&ext4MetaChecksum != 0 && crc32c(^uint32(0), s.super[:0x3fc]) != le.Uint32(s.super[0x3fc:]) {
		return append(out, problem{CodeFilesystem, SeverityError, "the checksum of its superblock is wrong", "e2fsck -f may repair it from a backup"})
	}
	if bad := s.badGroups(size); bad > 0 {
		out = append(out, problem{CodeFilesystem, SeverityError, fmt.Sprintf("the checksums of %d of %d group descriptors are wrong", bad, s.groups), ""})
	}
	return out
}

// badGroups counts the group descriptors whose checksum is wrong.
func (s *ext4) badGroups(size int64) (bad int64) {
	// With META_BG the descriptors are elsewhere; e2fsck checks them.
	if s.ro&(ext4MetaChecksum|ext4GroupChecksum) == 0 || s.incompat&ext4Meta != 0 {
		return 0
	}
	le := binary.LittleEndian
	uuid := s.super[0x68:0x78]
	seed := crc32c(^uint32(0), uuid)
	if s.incompat&ext4ChecksumSeed != 0 {
		seed = le.Uint32(s.super[0x270:])
	}
	table := io.NewSectionReader(s.r, s.descAt, min(s.groups*s.descSize, max(0, size-s.descAt)))
	in := newBlockReader(table, s.descSize)
	for group := range s.groups {
		desc, err := in.next()
		if err != nil {
			return bad + s.groups - group
		}
		var number [4]byte
		le.PutUint32(number[:], uint32(group))
		want := le.Uint16(desc[0x1e:])
		var got uint16
		if s.ro&ext4MetaChecksum != 0 {
			c := append([]byte(nil), desc...)
			c[0x1e], c[0x1f] = 0, 0
			got = uint16(crc32c(crc32c(seed, number[:]), c))
		} else {
			got = crc16(crc16(crc16(0xffff, uuid), number[:]), desc[:0x1e])
			if len(desc) > 0x20 {
				got = crc16(got, desc[0x20:])
			}
		}
		if got != want {
			bad++
		}
	}
	return bad
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c is the kernel's: without the inversions at both ends.
func crc32c(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

// crc16 is the kernel's lib/crc16.c: polynomial 0x8005, reflected.
func crc16(crc uint16, b []byte) uint16 {
	for _, c := range b {
		crc ^= uint16(c)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0xa001
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}

// blockReader reads records of one size through a buffer.
type blockReader struct {
	r   io.Reader
	buf []byte
	at  int
	n   int
	rec int
}

func newBlockReader(r io.Reader, record int64) *blockReader {
	return &blockReader{r: r, buf: make([]byte, record*(1+(64<<10)/record)), rec: int(record)}
}

func (b *blockReader) next() ([]byte, error) {
	if b.at+b.rec > b.n {
		n, err := io.ReadFull(b.r, b.buf)
		b.at, b.n = 0, n-n%b.rec
		if b.n == 0 {
			if err == nil {
				err = io.EOF
			}
			return nil, err
		}
	}
	rec := b.buf[b.at : b.at+b.rec]
	b.at += b.rec
	return rec, nil
}

// fat is the shape of a FAT file system; Microsoft's "FAT: General Overview of On-Disk Format" 1.03 is the format.
type fat struct {
	r                      io.ReaderAt
	boot                   []byte
	sector, cluster        int64
	size                   int64
	tableAt, table, tables int64
	clusters, bits, backup int64
}

var errNotFAT = errors.New("its first sector describes no FAT file system")

func readFAT(r io.ReaderAt, size int64) (*fat, error) {
	b := make([]byte, 512)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return nil, errNotFAT
	}
	le := binary.LittleEndian
	f := &fat{r: r, boot: b, sector: int64(le.Uint16(b[11:])), tables: int64(b[16]), bits: 16}
	per, reserved, root := int64(b[13]), int64(le.Uint16(b[14:])), int64(le.Uint16(b[17:]))
	total, table := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	if table == 0 {
		table, f.bits = int64(le.Uint32(b[36:])), 32
		f.backup = int64(le.Uint16(b[50:]))
	}
	if f.sector < 512 || f.sector > 4096 || f.sector&(f.sector-1) != 0 || per == 0 || per&(per-1) != 0 || f.tables == 0 || reserved == 0 {
		return nil, errNotFAT
	}
	f.cluster, f.size = per*f.sector, total*f.sector
	f.tableAt, f.table = reserved*f.sector, table*f.sector
	first := reserved + f.tables*table + (root*32+f.sector-1)/f.sector
	if first >= total {
		return nil, fmt.Errorf("its tables take %d of %d sectors", first, total)
	}
	f.clusters = (total - first) / per
	if f.bits == 16 && f.clusters <= 4084 {
		f.bits = 12
	}
	if f.table*8/f.bits < f.clusters+2 {
		return nil, fmt.Errorf("its allocation table is too short: it has room for %d of %d clusters", f.table*8/f.bits-2, f.clusters)
	}
	return f, nil
}

const maxFATTable = 1 << 30 // bytes; 2^28 clusters of 4 bytes

// freeClusters counts the zeros in the first allocation table.
func (f *fat) freeClusters() (free int64, err error) {
	if f.table > maxFATTable {
		return 0, errNotFAT
	}
	in := newBlockReader(io.NewSectionReader(f.r, f.tableAt, f.table), 12) // holds whole entries of every width
	le := binary.LittleEndian
	for n := int64(0); n < f.clusters+2; {
		rec, err := in.next()
		if err != nil {
			return 0, err
		}
		for i := int64(0); i < 96/f.bits && n < f.clusters+2; i, n = i+1, n+1 {
			var v uint32
			switch at := i * f.bits / 8; f.bits {
			case 32:
				v = le.Uint32(rec[at:]) & 0x0fffffff
			case 16:
				v = uint32(le.Uint16(rec[at:]))
			default:
				v = uint32(le.Uint16(rec[at:])) >> (i & 1 * 4) & 0xfff
			}
			if v == 0 && n >= 2 {
				free++
			}
		}
	}
	return free, nil
}

func checkFAT(r io.ReaderAt, size int64) []problem {
	f, err := readFAT(r, size)
	if err != nil {
		return []problem{{CodeFilesystem, SeverityError, err.Error(), ""}}
	}
	var out []problem
	if f.size > size {
		return []problem{{
			CodeFilesystemSize, SeverityError,
			fmt.Sprintf("the file system has %s, the partition only %s", imaging.FormatSize(f.size), imaging.FormatSize(size)), "",
		}}
	}
	first := make([]byte, 8)
	if _, err := r.ReadAt(first, f.tableAt); err == nil {
		le := binary.LittleEndian
		clean := map[int64]bool{12: true, 16: le.Uint16(first[2:])&0x8000 != 0, 32: le.Uint32(first[4:])&0x08000000 != 0}[f.bits]
		if !clean || f.bits != 12 && f.boot[map[int64]int{16: 37, 32: 65}[f.bits]]&1 != 0 {
			out = append(out, problem{CodeFilesystemDirty, SeverityWarning, "it was not unmounted", "fsck.vfat checks it"})
		}
	}
	same, err := f.tablesEqual()
	switch {
	case err != nil:
		out = append(out, problem{CodeFilesystem, SeverityError, "reading its allocation tables: " + err.Error(), ""})
	case !same:
		out = append(out, problem{CodeFilesystem, SeverityError, "its allocation tables differ from one another", "fsck.vfat repairs it"})
	}
	return out
}

// tablesEqual compares the copies of the allocation table, unless only one is kept.
func (f *fat) tablesEqual() (bool, error) {
	if f.bits == 32 && binary.LittleEndian.Uint16(f.boot[40:])&0x80 != 0 || f.table > maxFATTable {
		return true, nil
	}
	a, b := make([]byte, 64<<10), make([]byte, 64<<10)
	for t := int64(1); t < f.tables; t++ {
		for at := int64(0); at < f.table; at += int64(len(a)) {
			n := min(int64(len(a)), f.table-at)
			for part, off := range map[*[]byte]int64{&a: f.tableAt + at, &b: f.tableAt + t*f.table + at} {
				if got, err := f.r.ReadAt((*part)[:n], off); int64(got) < n {
					return false, err
				}
			}
			if !bytes.Equal(a[:n], b[:n]) {
				return false, nil
			}
		}
	}
	return true, nil
}
