package imaging

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"
)

// Filesystem is what [Probe] found.
type Filesystem struct {
	Kind  string // a Filesystem constant, "swap", or "" when nothing is known there
	Label string
	UUID  string
	Size  int64 // of the file system by its own account; 0: unknown
	// Block is the least the file system reads and writes: a block, or a sector of vfat. The kernel mounts none where it is
	// less than a sector of the disk. 0: unknown, or any will do.
	Block int64
	// Compressed names the compression ("gzip", "xz", "zstd", "bzip2") of what may be a compressed file system.
	Compressed string
}

// Unfit says why the file system cannot be mounted on a disk with sectors of that size, and what to do; nothing when it can.
func (f Filesystem) Unfit(sector int64) (reason, advice string) {
	if f.Block == 0 || f.Block >= sector {
		return "", ""
	}
	unit, option := "blocks", "b"
	if f.Kind == FilesystemVFAT {
		unit, option = "sectors", "S"
	}
	return fmt.Sprintf("the %s file system has %s of %d bytes, and Linux mounts no such one on a disk whose sectors have %d", f.Kind, unit, f.Block, sector),
		fmt.Sprintf("make it with mkfs.%s -%s %d", f.Kind, option, sector)
}

// Probe looks at the first bytes of a file system. What it reports is a claim of those bytes and nothing more.
func Probe(r io.ReaderAt, size int64) (Filesystem, error) {
	head := make([]byte, min(4096, max(size, 0)))
	n, err := r.ReadAt(head, 0)
	if err != nil && (err != io.EOF || n < len(head)) {
		return Filesystem{}, fmt.Errorf("looking for a file system: %w", err)
	}
	for len(head) < 4096 {
		head = append(head, 0)
	}
	for magic, kind := range map[string]string{"\x1f\x8b": "gzip", "\xfd7zXZ\x00": "xz", "\x28\xb5\x2f\xfd": "zstd", "BZh": "bzip2"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return Filesystem{Compressed: kind}, nil
		}
	}
	le := binary.LittleEndian
	switch super := head[1024:2048]; {
	case le.Uint32(head) == ubifsMagic && head[20] == ubifsSuperblock:
		return Filesystem{
			Kind: FilesystemUBIFS, UUID: formatUUID(head[ubifsUUID:ubifsUUIDEnd]), Size: clampSize(uint64(le.Uint32(head[ubifsLEB:])) * uint64(le.Uint32(head[ubifsLEBs:]))),
		}, nil
	case le.Uint16(super[0x38:]) == 0xef53:
		return probeExt4(super), nil
	case le.Uint32(super) == 0xe0f5e1e2:
		f := Filesystem{Kind: FilesystemEROFS, UUID: formatUUID(super[48:64]), Label: cString(super[64:80])}
		if bits := super[12]; bits >= 9 && bits <= 16 {
			f.Size, f.Block = int64(le.Uint32(super[36:]))<<bits, 1<<bits
		}
		return f, nil
	case bytes.HasPrefix(head, []byte("hsqs")):
		return Filesystem{Kind: FilesystemSquashFS, Size: clampSize(le.Uint64(head[40:]))}, nil
	case bytes.Equal(head[4086:4096], []byte("SWAPSPACE2")):
		return Filesystem{Kind: "swap", UUID: formatUUID(head[1036:1052]), Label: cString(head[1052:1068])}, nil
	}
	return probeFAT(head), nil
}

func probeExt4(super []byte) Filesystem {
	le := binary.LittleEndian
	f := Filesystem{Kind: FilesystemExt4, UUID: formatUUID(super[0x68:0x78]), Label: cString(super[0x78:0x88])}
	blocks := uint64(le.Uint32(super[0x4:]))
	if le.Uint32(super[0x60:])&ext4Incompat64bit != 0 {
		blocks |= uint64(le.Uint32(super[0x150:])) << 32
	}
	if shift := le.Uint32(super[0x18:]); shift <= 6 && blocks < 1<<44 {
		f.Block = 1024 << shift
		f.Size = int64(blocks) * f.Block
	}
	return f
}

// probeFAT wants more than the boot signature, which every partition table has too.
func probeFAT(head []byte) Filesystem {
	le := binary.LittleEndian
	sector, cluster, fats := le.Uint16(head[11:]), head[13], head[16]
	if head[510] != 0x55 || head[511] != 0xaa || (sector != 512 && sector != 1024 && sector != 2048 && sector != 4096) ||
		cluster == 0 || cluster&(cluster-1) != 0 || fats == 0 || fats > 2 {
		return Filesystem{}
	}
	extended := 36 // where the serial number and the label stand
	switch {
	case bytes.HasPrefix(head[54:], []byte("FAT1")):
	case bytes.HasPrefix(head[82:], []byte("FAT32")):
		extended = 64
	default:
		return Filesystem{}
	}
	sectors := int64(le.Uint16(head[19:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(head[32:]))
	}
	id := head[extended+3:]
	f := Filesystem{
		Kind: FilesystemVFAT, Size: sectors * int64(sector), Block: int64(sector),
		UUID:  fmt.Sprintf("%02X%02X-%02X%02X", id[3], id[2], id[1], id[0]),
		Label: cString(head[extended+7 : extended+18]),
	}
	if f.Label == "NO NAME" {
		f.Label = ""
	}
	return f
}

func formatUUID(b []byte) string {
	id, err := uuid.FromBytes(b)
	if err != nil || id == uuid.Nil {
		return ""
	}
	return id.String()
}

// cString is a label: up to the first NUL, without the blanks behind it, and without what would upset a terminal.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return printable(strings.TrimRight(string(b), " "))
}

func clampSize(n uint64) int64 {
	if n > uint64(maxSize) {
		return 0
	}
	return int64(n)
}
