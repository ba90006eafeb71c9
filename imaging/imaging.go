// Package imaging lays out disk images for A/B devices and writes them: the same input gives the same bytes, in any
// folder, at any time, for any user, and no privilege, loop device or mount is needed.
//
// A [Layout] says which areas a disk has. [Layout.Resolve] turns it into a [Map], where every area has its offset, or
// refuses it and names both areas that collide. [Write] fills an image after such a map, and [ReadMap] reads a map
// back from any image, whoever made it.
//
// Where the formats come from: GPT is UEFI 2.10 chapter 5; MBR and its chain of extended boot records have no standard
// but what Linux (block/partitions/msdos.c) reads and sfdisk 2.38 writes; sgdisk 1.0.9 and sfdisk decide what is a clean
// table (docs/adr/0010). ext4 is the kernel's Documentation/filesystems/ext4, made by mke2fs 1.47 and read here;
// vfat is made by mkfs.vfat 4.2 and mtools 4.0. docs/adr/0004 and 0005 say why each.
package imaging

import (
	"io/fs"
	"time"
)

// Partition tables of a [Layout].
const (
	TableGPT    = "gpt"    // UEFI's GUID partition table, in front of it a protective MBR
	TableMBR    = "mbr"    // the table in the first sector; logical partitions from the fourth on if there are more than four
	TableHybrid = "hybrid" // a GPT whose MBR also lists up to three partitions, for boot ROMs that read nothing else
)

// File systems that a [Partition] can name. An empty name is FilesystemNone.
const (
	FilesystemExt4     = "ext4"     // made from a tree, or copied
	FilesystemVFAT     = "vfat"     // made from a tree, or copied
	FilesystemSquashFS = "squashfs" // copied only
	FilesystemEROFS    = "erofs"    // copied only
	FilesystemNone     = "none"     // raw bytes, or nothing
	FilesystemUBIFS    = "ubifs"    // of a volume of a UBI; made from a tree, or copied
)

// Layout is a disk before it has offsets. The zero value of an optional field means its default.
type Layout struct {
	Table      string // a Table constant; default TableGPT
	SectorSize int64  // logical sector: 512 (default) or 4096
	Alignment  int64  // of every partition's start and of a computed disk size; default 1 MiB
	DiskSize   int64  // 0: as small as fits
	DiskID     string // GUID of a GPT, or 8 hex digits, the signature of an MBR; empty: derived from the image's seed
	GPT        GPTOptions
	Reserves   []Reserve
	Partitions []Partition // in the order of their numbers
}

// GPTOptions change what a GPT looks like, for chips whose boot ROM reads its loader from where a table usually is.
type GPTOptions struct {
	// Entries is how many partitions the table has room for, default 128. With 56 it ends at 8 KiB, where some boot ROMs
	// look for their loader.
	Entries int
	// EntriesAt is the offset of the primary table's entries; 0: right behind the header. The header stays in sector 1.
	// Partitions come after the entries.
	EntriesAt int64
	// NoBackup leaves out the copy at the end of the disk, for media whose size is not known. The header then names itself
	// as its own copy: sfdisk and partx read that, sgdisk complains, parted refuses it.
	NoBackup bool
}

// Reserve is an area at a fixed place outside every partition, for what a boot ROM or a boot loader looks for there.
//
// One at offset 0 with at most 440 bytes is the boot code of the first sector; the table keeps the rest of that sector. A
// file of a whole sector fills it with its beginning.
type Reserve struct {
	Name   string
	Offset int64
	Size   int64 // 0: that of its content, in whole sectors; only an image, which has contents, can resolve that
	Holes  []Span
	Align  int64 // of Offset; default a sector, 1: any, then Size may be any as well
}

// Span is an area by itself. In [Reserve].Holes its offset is that on the disk: a part of the reserve which belongs to
// something else, such as the partition table inside a boot loader's image.
type Span struct {
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
}

// End is the offset of the first byte after the span.
func (s Span) End() int64 { return s.Offset + s.Size }

// Partition of a layout. Its size is one of Size, Percent and Rest.
type Partition struct {
	Name       string
	Offset     int64 // 0: the next free place
	Align      int64 // of the start; default the layout's Alignment
	Size       int64
	Percent    float64  // of DiskSize, rounded down to the alignment
	Rest       bool     // what all others leave of DiskSize, at least Size; several share it equally
	Filesystem string   // a Filesystem constant
	Label      string   // of the file system
	Type       string   // GUID or a name of TypeNames; empty: after Filesystem and Bootable
	UUID       string   // GUID of the partition (PARTUUID), GPT only; empty: derived from the image's seed
	Attributes []string // GPT only: names of AttributeNames or numbers of bits
	Bootable   bool     // sets GPT's legacy boot attribute, which U-Boot's distro boot looks for, or MBR's active flag
	Grow       bool     // takes the rest of DiskSize, if there is one; only the last partition can
	Slot       string   // "a" or "b"
	MBRType    string   // hex byte or a name of MBRTypeNames; MBR and hybrid only; empty: after Type and Filesystem
	Logical    bool     // MBR only: inside the extended partition. If none is, those from the fourth on are, when there are more than four
	InMBR      bool     // hybrid only: listed in the MBR too
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
	// Outputs are written in the same pass, beside the raw image: a block map, compressed forms, other formats.
	Outputs []Output
	// Digests asks for the SHA-256 of the image, of every content and of every output. What has more than MaxWholeDigest
	// gets none, since that would cost time for its zeros, and the image a SparseSHA256 instead.
	Digests bool
	// WholeDigests asks for them also of what has more than that.
	WholeDigests bool
	digestLimit  int64 // in the place of MaxWholeDigest, for tests
	// Progress is told how much of the work is done, in bytes. It may be nil.
	Progress func(done, total int64)
}

// Result says what Write has made.
type Result struct {
	Map    *Map   `json:"map"`
	Size   int64  `json:"size"`             // of the raw image, whether it was kept or not
	SHA256 string `json:"sha256,omitempty"` // of the raw image
	// SparseSHA256 is in the place of SHA256 where the raw image is larger than MaxWholeDigest; see [SparseSHA256].
	SparseSHA256 string          `json:"sparse_sha256,omitempty"`
	Areas        []AreaDigest    `json:"areas,omitempty"`  // with Digests, in the order of their places
	Mapped       int64           `json:"mapped,omitempty"` // bytes that the block map has
	Outputs      []WrittenOutput `json:"outputs,omitempty"`
}

// AreaDigest is the digest of what fills a partition or reserve: of the file system or file itself, without the zeros
// that may follow it in its area. For a slot it is what Mender calls rootfs-image.checksum. Areas without content have none.
type AreaDigest struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"` // none of more than MaxWholeDigest
}

// Content fills one area: with a file, with bytes, or with a file system that is made from a directory or an archive, to
// which a tree may be added, or from the tree alone.
type Content struct {
	// File is the path of a file system image or any other bytes; holes stay holes. Where the layout wants a file system, a
	// compressed one (gzip, bzip2, xz, zstd, lz4) is unpacked into its place.
	File string
	// SHA256 of File, as hexadecimal digits, where the caller knows it: Result.Areas then has it without reading all of the holes.
	// It is not used of a compressed file. Whether it is right is not checked.
	SHA256 string
	Bytes  []byte
	Dir    string // path of a directory on the host, whose modes, owners, links, devices and attributes are kept
	Tar    string // path of a tar archive, which may be compressed; the same is kept of it, and times before Image.Epoch
	// RootOwned gives all of Dir or Tar to root, for a Dir whose owner is whoever has built it.
	RootOwned bool
	Tree      []TreeFile // makes the file system that the partition names, or adds to Dir or Tar
}

// TreeFile is one file, directory, link or device in a file system that Write makes. Directories that are not listed
// belong to root with mode 0755. vfat takes files and directories only, and stores neither modes nor owners.
type TreeFile struct {
	Path string // slash-separated, below the root of the file system
	// Mode holds the type (nothing for files and links) and permissions; without any permission bit it is 0644 for files
	// and 0755 for directories.
	Mode         fs.FileMode
	UID, GID     int
	Source       string // path on the host; or
	Data         []byte // the content itself; or
	Link         string // the target of a symbolic link; or
	HardLink     string // the Path of another file of the tree, of which this is one more name
	Major, Minor uint32 // of a device
	// Xattrs are extended attributes by their full names: "security.capability", "user.x".
	Xattrs map[string]string
	// Time is that of the last change. No file is younger than Image.Epoch, and those without a time are as old.
	Time time.Time
}

// Kinds of a [Region].
const (
	KindTable       = "table"        // the MBR with the primary GPT, the GPT's entries if they are elsewhere, or an extended boot record
	KindReserve     = "reserve"      // a Reserve of the layout
	KindPartition   = "partition"    // a partition
	KindBackupTable = "backup-table" // the GPT's copy at the end of the disk
	KindExtended    = "extended"     // the extended partition of an MBR, which is around others and therefore not among Map.Regions
)

// Names of regions of the kinds KindTable and KindBackupTable.
const (
	regionGPT        = "gpt"
	regionGPTEntries = "gpt-entries" // when they are not behind the header
	regionMBR        = "mbr"
	regionEBR        = "ebr" // Number is that of its logical partition
)

// Map is a disk with every area in its place, ordered by offset.
type Map struct {
	Table      string   `json:"table"`
	SectorSize int64    `json:"sector_size"`
	Size       int64    `json:"size"`
	UUID       string   `json:"uuid,omitempty"`      // of the disk, GPT and hybrid
	Signature  string   `json:"signature,omitempty"` // of the disk, 8 hex digits, MBR and hybrid
	Entries    int      `json:"entries,omitempty"`   // of the GPT, when they are not 128
	NoBackup   bool     `json:"no_backup,omitempty"` // a GPT without a copy, on purpose
	Regions    []Region `json:"regions"`             // none shares a byte with another, except that one may be in a hole of another
	// Extended is the partition of an MBR that is around the logical ones and their boot records.
	Extended *Region `json:"extended,omitempty"`
	// Damaged is set by ReadMap when a part of the table is bad: "primary" or "backup" for one of the two GPTs,
	// "extended" when the chain of logical partitions breaks off, so that more may have been there.
	Damaged string `json:"damaged,omitempty"`
}

// Region is an area of a disk.
type Region struct {
	Kind           string   `json:"kind"`
	Name           string   `json:"name"`
	Number         int      `json:"number,omitempty"` // of a partition, from 1
	Offset         int64    `json:"offset"`
	Size           int64    `json:"size"`
	Holes          []Span   `json:"holes,omitempty"`    // of a reserve: what of it belongs to others; see Pieces
	Type           string   `json:"type,omitempty"`     // GUID, lower case
	MBRType        string   `json:"mbr_type,omitempty"` // two hex digits, of what an MBR lists
	UUID           string   `json:"uuid,omitempty"`     // of the partition (PARTUUID), lower case
	Attributes     []string `json:"attributes,omitempty"`
	Filesystem     string   `json:"filesystem,omitempty"` // wanted by the layout, or found by ReadMap
	Label          string   `json:"label,omitempty"`      // of the file system
	FilesystemUUID string   `json:"filesystem_uuid,omitempty"`
	Bootable       bool     `json:"bootable,omitempty"`
	Logical        bool     `json:"logical,omitempty"`
	InMBR          bool     `json:"in_mbr,omitempty"` // of a hybrid
	Slot           string   `json:"slot,omitempty"`
}

// Pieces are the parts of the region that belong to it and to nobody else: all of it but its holes. Whoever writes a
// region's content writes these and skips what is in between.
func (r Region) Pieces() []Span {
	var out []Span
	at := r.Offset
	for _, h := range r.Holes { // sorted
		if h.Offset > at {
			out = append(out, Span{at, h.Offset - at})
		}
		at = h.End()
	}
	if at < r.End() {
		out = append(out, Span{at, r.End() - at})
	}
	return out
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
