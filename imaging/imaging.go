// Package imaging lays out disk images for A/B devices and writes them: the same input gives the same bytes, in any
// folder, at any time, for any user, and no privilege, loop device or mount is needed.
//
// A [Layout] says which areas a disk has. [Layout.Resolve] turns it into a [Map], where every area has its offset, or
// refuses it and names both areas that collide. [Write] fills an image after such a map, and [ReadMap] reads a map
// back from any image, whoever made it.
//
// Where the formats come from: GPT is UEFI 2.10 chapter 5, written through go-diskfs 1.9.4 and read here; sgdisk 1.0.9
// decides what is a clean table. ext4 is the kernel's Documentation/filesystems/ext4, made by mke2fs 1.47 and read here;
// vfat is made by mkfs.vfat 4.2 and mtools 4.0. docs/adr/0004 and 0005 say why each.
package imaging

import (
	"io/fs"
	"time"
)

// TableGPT is the only partition table so far.
const TableGPT = "gpt"

// File systems that a [Partition] can name. An empty name is FilesystemNone.
const (
	FilesystemExt4     = "ext4"     // made from a tree, or copied
	FilesystemVFAT     = "vfat"     // made from a tree, or copied
	FilesystemSquashFS = "squashfs" // copied only
	FilesystemEROFS    = "erofs"    // copied only
	FilesystemNone     = "none"     // raw bytes, or nothing
)

// Layout is a disk before it has offsets. The zero value of an optional field means its default.
type Layout struct {
	Table      string // TableGPT (default)
	SectorSize int64  // logical sector: 512 (default) or 4096
	Alignment  int64  // of every partition's start and of a computed disk size; default 1 MiB
	DiskSize   int64  // 0: as small as fits
	Reserves   []Reserve
	Partitions []Partition // in the order of their numbers and places
}

// Reserve is an area at a fixed place outside every partition, for what a boot ROM or a boot loader looks for there.
type Reserve struct {
	Name   string
	Offset int64
	Size   int64
}

// Partition of a layout.
type Partition struct {
	Name       string
	Size       int64
	Filesystem string // a Filesystem constant
	Label      string // of the file system
	Type       string // GUID or a name of TypeNames; empty: after Filesystem and Bootable
	Bootable   bool   // sets the legacy boot attribute, which U-Boot's distro boot looks for
	Grow       bool   // takes the rest of DiskSize; only the last partition can
	Slot       string // "a" or "b"
}

// Image is what [Write] writes.
type Image struct {
	Layout Layout
	// Contents by the name of a partition or reserve. An ext4 or vfat partition without content gets an empty file
	// system, except a slot B, which stays zeros: its first content comes with the first update.
	Contents map[string]Content
	// Seed makes all identifiers: the GUIDs of disk and partitions, the UUIDs of file systems. Images that shall be told
	// apart when both are plugged into one machine need different seeds.
	Seed string
	// Epoch is the time stamped on everything inside; the zero time is 1970-01-01.
	Epoch time.Time
	// Progress is told how many bytes of content have been placed. It may be nil.
	Progress func(done, total int64)
}

// Content fills one area. Exactly one of its fields is set.
type Content struct {
	File  string // path of a file system image or any other bytes; holes stay holes
	Bytes []byte
	Tree  []TreeFile // makes the file system that the partition names
}

// TreeFile is one file, directory or symbolic link in a file system that Write makes. Directories that are not listed
// belong to root with mode 0755.
type TreeFile struct {
	Path string // slash-separated, below the root of the file system
	// Mode holds the type (a directory, or nothing for files and links) and permissions; without any permission bit it
	// is 0644 for files and 0755 for directories. vfat stores none of it.
	Mode     fs.FileMode
	UID, GID int
	Source   string // path on the host; or
	Data     []byte // the content itself; or
	Link     string // the target of a symbolic link
}

// Kinds of a [Region].
const (
	KindTable       = "table"        // protective MBR and primary GPT
	KindReserve     = "reserve"      // a Reserve of the layout
	KindPartition   = "partition"    // a partition
	KindBackupTable = "backup-table" // the GPT's copy at the end of the disk
)

// Map is a disk with every area in its place, ordered by offset.
type Map struct {
	Table      string   `json:"table"`
	SectorSize int64    `json:"sector_size"`
	Size       int64    `json:"size"`
	UUID       string   `json:"uuid,omitempty"` // of the disk
	Regions    []Region `json:"regions"`
	// Damaged is set by ReadMap when one of the two tables is bad: "primary" or "backup".
	Damaged string `json:"damaged,omitempty"`
}

// Region is an area of a disk.
type Region struct {
	Kind           string `json:"kind"`
	Name           string `json:"name"`
	Number         int    `json:"number,omitempty"` // of a partition, from 1
	Offset         int64  `json:"offset"`
	Size           int64  `json:"size"`
	Type           string `json:"type,omitempty"`       // GUID, lower case
	UUID           string `json:"uuid,omitempty"`       // of the partition (PARTUUID), lower case
	Filesystem     string `json:"filesystem,omitempty"` // wanted by the layout, or found by ReadMap
	Label          string `json:"label,omitempty"`      // of the file system
	FilesystemUUID string `json:"filesystem_uuid,omitempty"`
	Bootable       bool   `json:"bootable,omitempty"`
	Slot           string `json:"slot,omitempty"`
}

// End is the offset of the first byte after the region.
func (r Region) End() int64 { return r.Offset + r.Size }

// Find returns the partition or reserve with that name.
func (m *Map) Find(name string) (Region, bool) {
	for _, r := range m.Regions {
		if (r.Kind == KindPartition || r.Kind == KindReserve) && r.Name == name {
			return r, true
		}
	}
	return Region{}, false
}

// Partition returns the partition with that number.
func (m *Map) Partition(number int) (Region, bool) {
	for _, r := range m.Regions {
		if r.Kind == KindPartition && r.Number == number {
			return r, true
		}
	}
	return Region{}, false
}
