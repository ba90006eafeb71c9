package imaging

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strings"
	"time"
)

// ErrDamaged says that a file system contradicts itself.
var ErrDamaged = errors.New("the ext4 file system is damaged")

// Limits of what is read from an ext4 file system, whose every byte may be hostile.
const (
	maxExt4Extents  = 1 << 20  // of one file
	maxExt4Nodes    = 1 << 16  // blocks of one file's block map
	maxExt4Dir      = 64 << 20 // bytes of one directory
	maxExt4Link     = 4096     // bytes of a symbolic link
	maxExt4Links    = 40       // symbolic links in one lookup, as in Linux
	maxExt4ReadFile = 256 << 20
	maxExt4Path     = 4096
)

const (
	ext4RootInode = 2

	ext4Incompat64bit   = 0x80
	ext4IncompatExtents = 0x40
	ext4IncompatRecover = 0x4
	ext4FlagExtents     = 0x80000
	ext4FlagInline      = 0x10000000
	ext4FlagEncrypted   = 0x800
	// FILETYPE, EXTENTS, 64BIT, MMP, FLEX_BG, EA_INODE, CSUM_SEED, LARGEDIR, CASEFOLD: none changes what is read here.
	// Others either change the format or, like RECOVER, say that what is on the disk is not the whole truth.
	ext4IncompatKnown = 0x2 | ext4IncompatExtents | ext4Incompat64bit | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x20000
)

// Ext4 reads an ext2, ext3 or ext4 file system without mounting it. It is an [fs.FS] with [fs.ReadDirFS],
// [fs.ReadFileFS], [fs.StatFS] and [fs.ReadLinkFS]; symbolic links are followed inside the file system, absolute ones from its
// root. It never writes, takes no byte on trust and can be used by several goroutines.
type Ext4 struct {
	r              io.ReaderAt
	size           int64
	blockSize      int64
	inodeSize      int64
	inodesPerGroup uint32
	inodes         uint32
	descSize       int64
	descStart      int64
	label, uuid    string
}

var (
	_ fs.ReadDirFS  = (*Ext4)(nil)
	_ fs.ReadFileFS = (*Ext4)(nil)
	_ fs.StatFS     = (*Ext4)(nil)
	_ fs.ReadLinkFS = (*Ext4)(nil)
)

// OpenExt4 reads the superblock of the file system in size bytes at offset. A file system that a crash left with a
// journal to replay, or one with features that change the format, gives an error that wraps [errors.ErrUnsupported].
func OpenExt4(r io.ReaderAt, offset, size int64) (*Ext4, error) {
	if offset < 0 || size < 2048 {
		return nil, fmt.Errorf("%w: it has only %d bytes", ErrDamaged, max(size, 0))
	}
	section := io.NewSectionReader(r, offset, size)
	super := make([]byte, 1024)
	if _, err := section.ReadAt(super, 1024); err != nil {
		return nil, fmt.Errorf("reading the ext4 superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(super[0x38:]) != 0xef53 {
		return nil, fmt.Errorf("%w: no superblock", ErrDamaged)
	}
	incompat := le.Uint32(super[0x60:])
	if incompat&ext4IncompatRecover != 0 {
		return nil, fmt.Errorf("the ext4 file system was not unmounted and has a journal to replay (e2fsck -p does it): %w", errors.ErrUnsupported)
	}
	if unknown := incompat &^ ext4IncompatKnown; unknown != 0 {
		return nil, fmt.Errorf("the ext4 file system uses features 0x%x: %w", unknown, errors.ErrUnsupported)
	}
	probe := probeExt4(super)
	shift := le.Uint32(super[0x18:])
	blocksPerGroup := le.Uint32(super[0x20:])
	e := &Ext4{
		r: section, size: size, inodes: le.Uint32(super[0x0:]), inodesPerGroup: le.Uint32(super[0x28:]),
		inodeSize: int64(le.Uint16(super[0x58:])), descSize: 32, label: probe.Label, uuid: probe.UUID,
	}
	if le.Uint32(super[0x4c:]) == 0 { // revision 0 has no field for it
		e.inodeSize = 128
	}
	if shift > 6 {
		return nil, fmt.Errorf("%w: block size 2^%d", ErrDamaged, 10+uint64(shift))
	}
	e.blockSize = 1024 << shift
	if incompat&ext4Incompat64bit != 0 {
		e.descSize = int64(le.Uint16(super[0xfe:]))
	}
	switch perGroup := uint32(8 * e.blockSize); {
	case probe.Size < 2*e.blockSize || probe.Size > size:
		return nil, fmt.Errorf("%w: it claims %d bytes of %d", ErrDamaged, probe.Size, size)
	case e.inodeSize < 128 || e.inodeSize > e.blockSize || e.inodeSize&(e.inodeSize-1) != 0:
		return nil, fmt.Errorf("%w: inodes of %d bytes", ErrDamaged, e.inodeSize)
	case e.descSize < 32 || e.descSize > e.blockSize || e.descSize&(e.descSize-1) != 0:
		return nil, fmt.Errorf("%w: group descriptors of %d bytes", ErrDamaged, e.descSize)
	case e.inodesPerGroup == 0 || e.inodesPerGroup > perGroup || blocksPerGroup == 0 || blocksPerGroup > perGroup:
		return nil, fmt.Errorf("%w: groups of %d inodes and %d blocks", ErrDamaged, e.inodesPerGroup, blocksPerGroup)
	}
	e.descStart = e.blockSize
	if e.blockSize == 1024 {
		e.descStart = 2048
	}
	root, err := e.inode(ext4RootInode)
	if err != nil {
		return nil, err
	}
	if !root.mode.IsDir() {
		return nil, fmt.Errorf("%w: the root is no directory", ErrDamaged)
	}
	return e, nil
}

// Label returns the file system's label.
func (e *Ext4) Label() string { return e.label }

// UUID returns the file system's UUID.
func (e *Ext4) UUID() string { return e.uuid }

// Ext4Stat is what Sys of a [fs.FileInfo] returns.
type Ext4Stat struct {
	Inode        uint32
	Links        uint16
	UID, GID     uint32
	Major, Minor uint32 // of a device
}

type ext4Inode struct {
	number uint32
	mode   fs.FileMode
	size   int64
	mtime  time.Time
	flags  uint32
	stat   Ext4Stat
	block  [60]byte
}

// inodeOffset is where an inode is, from the start of the file system.
func (e *Ext4) inodeOffset(n uint32) (int64, error) {
	if n == 0 || n > e.inodes {
		return 0, fmt.Errorf("%w: inode %d of %d", ErrDamaged, n, e.inodes)
	}
	group, index := int64((n-1)/e.inodesPerGroup), int64((n-1)%e.inodesPerGroup)
	desc := make([]byte, e.descSize)
	if err := e.readAt(desc, e.descStart+group*e.descSize); err != nil {
		return 0, err
	}
	table := uint64(binary.LittleEndian.Uint32(desc[8:]))
	if e.descSize >= 64 {
		table |= uint64(binary.LittleEndian.Uint32(desc[0x28:])) << 32
	}
	start, err := e.blockOffset(table)
	if err != nil {
		return 0, err
	}
	return start + index*e.inodeSize, nil
}

func (e *Ext4) blockOffset(block uint64) (int64, error) {
	if block == 0 || block >= uint64(e.size/e.blockSize) {
		return 0, fmt.Errorf("%w: block %d of %d", ErrDamaged, block, e.size/e.blockSize)
	}
	return int64(block) * e.blockSize, nil
}

func (e *Ext4) readAt(b []byte, off int64) error {
	if _, err := e.r.ReadAt(b, off); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: it points behind its end", ErrDamaged)
		}
		return fmt.Errorf("reading the ext4 file system: %w", err)
	}
	return nil
}

func (e *Ext4) inode(n uint32) (*ext4Inode, error) {
	off, err := e.inodeOffset(n)
	if err != nil {
		return nil, err
	}
	b := make([]byte, e.inodeSize)
	if err := e.readAt(b, off); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	mode := le.Uint16(b)
	size := uint64(le.Uint32(b[0x4:]))
	if mode&0xf000 == 0x8000 || mode&0xf000 == 0x4000 {
		size |= uint64(le.Uint32(b[0x6c:])) << 32
	}
	if size > uint64(maxSize) {
		return nil, fmt.Errorf("%w: inode %d has %d bytes", ErrDamaged, n, size)
	}
	in := &ext4Inode{
		number: n, size: int64(size), flags: le.Uint32(b[0x20:]),
		stat: Ext4Stat{
			Inode: n, Links: le.Uint16(b[0x1a:]),
			UID: uint32(le.Uint16(b[0x2:])) | uint32(le.Uint16(b[0x78:]))<<16,
			GID: uint32(le.Uint16(b[0x18:])) | uint32(le.Uint16(b[0x7a:]))<<16,
		},
	}
	copy(in.block[:], b[0x28:])
	seconds, nanoseconds := int64(int32(le.Uint32(b[0x10:]))), int64(0)
	if len(b) >= 0x8c && le.Uint16(b[0x80:]) >= 0x8c-0x80 {
		extra := le.Uint32(b[0x88:])
		seconds += int64(extra&3) << 32
		nanoseconds = min(int64(extra>>2), 999_999_999)
	}
	in.mtime = time.Unix(seconds, nanoseconds).UTC()
	in.mode = fs.FileMode(mode & 0o777)
	for bit, m := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			in.mode |= m
		}
	}
	switch mode & 0xf000 {
	case 0x8000:
	case 0x4000:
		in.mode |= fs.ModeDir
	case 0xa000:
		in.mode |= fs.ModeSymlink
	case 0x2000:
		in.mode |= fs.ModeDevice | fs.ModeCharDevice
	case 0x6000:
		in.mode |= fs.ModeDevice
	case 0x1000:
		in.mode |= fs.ModeNamedPipe
	case 0xc000:
		in.mode |= fs.ModeSocket
	default:
		return nil, fmt.Errorf("%w: inode %d has mode 0%o", ErrDamaged, n, mode)
	}
	if in.mode&fs.ModeDevice != 0 {
		in.stat.Major, in.stat.Minor = deviceNumber(in.block[:])
	}
	return in, nil
}

// deviceNumber undoes the kernel's old (first word) and new (second word) encodings.
func deviceNumber(block []byte) (major, minor uint32) {
	if v := binary.LittleEndian.Uint32(block); v != 0 {
		return v >> 8 & 0xff, v & 0xff
	}
	v := binary.LittleEndian.Uint32(block[4:])
	return v >> 8 & 0xfff, v&0xff | v>>12&^0xff
}

// extent is a run of blocks of a file that has bytes on the disk. What lies between extents is zeros.
type extent struct{ logical, count, offset int64 } // in blocks, in blocks, in bytes of the file system

// extents returns the runs of a file, sorted.
func (e *Ext4) extents(in *ext4Inode) ([]extent, error) {
	switch {
	case in.flags&ext4FlagInline != 0:
		return nil, fmt.Errorf("inode %d keeps its data inline: %w", in.number, errors.ErrUnsupported)
	case in.flags&ext4FlagEncrypted != 0:
		return nil, fmt.Errorf("inode %d is encrypted: %w", in.number, errors.ErrUnsupported)
	}
	w := &ext4Walker{e: e, in: in, limit: (in.size + e.blockSize - 1) / e.blockSize}
	var err error
	if in.flags&ext4FlagExtents != 0 {
		err = w.extentNode(in.block[:], -1)
	} else {
		err = w.blockMap()
	}
	if err != nil {
		return nil, err
	}
	return w.out, nil
}

type ext4Walker struct {
	e     *Ext4
	in    *ext4Inode
	limit int64 // blocks of the file
	nodes int
	out   []extent
}

func (w *ext4Walker) damaged(what string) error {
	return fmt.Errorf("%w: %s of inode %d", ErrDamaged, what, w.in.number)
}

func (w *ext4Walker) add(logical, count int64, block uint64) error {
	offset, err := w.e.blockOffset(block)
	if err != nil {
		return err
	}
	if _, err := w.e.blockOffset(block + uint64(count) - 1); err != nil {
		return err
	}
	if n := len(w.out); n > 0 {
		last := &w.out[n-1]
		end := last.logical + last.count
		if logical < end {
			return w.damaged("the order of the blocks")
		}
		if logical == end && offset == last.offset+last.count*w.e.blockSize {
			last.count += count
			return nil
		}
	}
	if len(w.out) >= maxExt4Extents {
		return w.damaged("the number of extents")
	}
	w.out = append(w.out, extent{logical, count, offset})
	return nil
}

func (w *ext4Walker) readNode(block uint64) ([]byte, error) {
	if w.nodes++; w.nodes > maxExt4Nodes {
		return nil, w.damaged("the size of the block map")
	}
	off, err := w.e.blockOffset(block)
	if err != nil {
		return nil, err
	}
	b := make([]byte, w.e.blockSize)
	return b, w.e.readAt(b, off)
}

// extentNode reads one node of an extent tree; depth is what its parent says it must be, -1 for the root.
func (w *ext4Walker) extentNode(b []byte, want int) error {
	le := binary.LittleEndian
	count, depth := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != 0xf30a || 12+12*count > len(b) || depth > 5 || (want >= 0 && depth != want) {
		return w.damaged("the extent tree")
	}
	for i := range count {
		entry := b[12+12*i:][:12]
		if depth > 0 {
			child, err := w.readNode(uint64(le.Uint32(entry[4:])) | uint64(le.Uint16(entry[8:]))<<32)
			if err != nil {
				return err
			}
			if err := w.extentNode(child, depth-1); err != nil {
				return err
			}
			continue
		}
		logical, length := int64(le.Uint32(entry)), int64(le.Uint16(entry[4:]))
		if length > 32768 {
			continue // allocated but not written: reads as zeros
		}
		if length == 0 {
			return w.damaged("an empty extent")
		}
		if err := w.add(logical, length, uint64(le.Uint32(entry[8:]))|uint64(le.Uint16(entry[6:]))<<32); err != nil {
			return err
		}
	}
	return nil
}

// blockMap reads the direct and indirect block pointers of ext2 and ext3.
func (w *ext4Walker) blockMap() error {
	logical := int64(0)
	for i := range 15 {
		block := uint64(binary.LittleEndian.Uint32(w.in.block[4*i:]))
		if err := w.pointer(block, max(0, i-11), &logical); err != nil {
			return err
		}
	}
	return nil
}

func (w *ext4Walker) pointer(block uint64, level int, logical *int64) error {
	if *logical >= w.limit {
		return nil
	}
	if level == 0 || block == 0 {
		span := int64(1)
		for range level {
			span *= w.e.blockSize / 4
		}
		at := *logical
		*logical += span
		if block == 0 {
			return nil
		}
		return w.add(at, 1, block)
	}
	b, err := w.readNode(block)
	if err != nil {
		return err
	}
	for i := 0; i < len(b); i += 4 {
		if err := w.pointer(uint64(binary.LittleEndian.Uint32(b[i:])), level-1, logical); err != nil {
			return err
		}
	}
	return nil
}

// ext4Data reads the content of one file.
type ext4Data struct {
	e       *Ext4
	size    int64
	extents []extent
}

func (e *Ext4) data(in *ext4Inode) (*ext4Data, error) {
	extents, err := e.extents(in)
	if err != nil {
		return nil, err
	}
	return &ext4Data{e, in.size, extents}, nil
}

func (d *ext4Data) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= d.size {
		return 0, io.EOF
	}
	short := false
	if int64(len(b)) > d.size-off {
		b, short = b[:d.size-off], true
	}
	bs := d.e.blockSize
	i := sort.Search(len(d.extents), func(i int) bool { return (d.extents[i].logical+d.extents[i].count)*bs > off })
	n := 0
	for n < len(b) {
		at := off + int64(n)
		end := off + int64(len(b)) // of the run that starts here
		if i < len(d.extents) {
			x := d.extents[i]
			if start := x.logical * bs; at < start {
				end = min(end, start)
			} else {
				end = min(end, start+x.count*bs)
				part := b[n : n+int(end-at)]
				if err := d.e.readAt(part, x.offset+at-start); err != nil {
					return n, err
				}
				n += len(part)
				i++
				continue
			}
		}
		clear(b[n : n+int(end-at)])
		n += int(end - at)
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

func (e *Ext4) readAll(in *ext4Inode, limit int64) ([]byte, error) {
	if in.size > limit {
		return nil, fmt.Errorf("inode %d has %s, more than the %s that are read at once", in.number, FormatSize(in.size), FormatSize(limit))
	}
	d, err := e.data(in)
	if err != nil {
		return nil, err
	}
	b := make([]byte, in.size)
	if _, err := d.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

func (e *Ext4) readLink(in *ext4Inode) (string, error) {
	if in.size < int64(len(in.block)) && in.flags&ext4FlagExtents == 0 {
		return string(in.block[:in.size]), nil
	}
	b, err := e.readAll(in, maxExt4Link)
	return string(b), err
}

// readDir returns the entries of a directory by name; parent is what its ".." says.
//
// A tree that a hostile image bends into a loop or into countless names for one directory would keep any walk busy for
// ever. So a directory must name the one it was reached from as its parent (lookup checks that), and no directory may
// have two names in one place.
func (e *Ext4) readDir(in *ext4Inode) (entries map[string]uint32, parent uint32, err error) {
	b, err := e.readAll(in, maxExt4Dir)
	if err != nil {
		return nil, 0, err
	}
	le := binary.LittleEndian
	damaged := fmt.Errorf("%w: directory inode %d", ErrDamaged, in.number)
	entries = make(map[string]uint32)
	seen := make(map[uint32]bool)
	for ; int64(len(b)) >= e.blockSize; b = b[e.blockSize:] {
		for rest := b[:e.blockSize]; len(rest) > 0; {
			if len(rest) < 8 {
				return nil, 0, damaged
			}
			length := int(le.Uint16(rest[4:]))
			if e.blockSize == 65536 && (length == 65535 || length == 0) {
				length = 65536
			}
			nameLength := int(rest[6])
			if length < 8 || length > len(rest) || length%4 != 0 || 8+nameLength > length {
				return nil, 0, damaged
			}
			inode, name, isDir := le.Uint32(rest), string(rest[8:8+nameLength]), rest[7] == 2
			rest = rest[length:]
			switch {
			case inode == 0 || name == ".":
				continue
			case name == "..":
				parent = inode
				continue
			case name == "" || strings.ContainsAny(name, "/\x00") || inode > e.inodes || entries[name] != 0 || isDir && seen[inode]:
				return nil, 0, damaged
			}
			entries[name] = inode
			if isDir {
				seen[inode] = true
			}
		}
	}
	if parent == 0 {
		return nil, 0, damaged
	}
	return entries, parent, nil
}

// child returns the inode behind one name of a directory.
func (e *Ext4) child(dir *ext4Inode, entries map[string]uint32, name string) (*ext4Inode, error) {
	n, ok := entries[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	in, err := e.inode(n)
	if err != nil {
		return nil, err
	}
	if in.mode.IsDir() {
		first := make([]byte, e.blockSize)
		d, err := e.data(in)
		if err != nil {
			return nil, err
		}
		if _, err := d.ReadAt(first, 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		// "." takes twelve bytes, then comes "..".
		if n == ext4RootInode || n == dir.number || binary.LittleEndian.Uint32(first[12:]) != dir.number || string(first[20:22]) != ".." {
			return nil, fmt.Errorf("%w: directory inode %d is not where it says", ErrDamaged, n)
		}
	}
	return in, nil
}

// lookup walks to a name. The last part is followed when it is a symbolic link and follow is set.
func (e *Ext4) lookup(name string, follow bool) (*ext4Inode, error) {
	root, err := e.inode(ext4RootInode)
	if err != nil {
		return nil, err
	}
	path := []*ext4Inode{root}
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		dir := path[len(path)-1]
		if !dir.mode.IsDir() {
			return nil, fs.ErrNotExist
		}
		switch part {
		case "", ".":
			continue
		case "..":
			if len(path) > 1 {
				path = path[:len(path)-1]
			}
			continue
		}
		entries, _, err := e.readDir(dir)
		if err != nil {
			return nil, err
		}
		in, err := e.child(dir, entries, part)
		if err != nil {
			return nil, err
		}
		if in.mode&fs.ModeSymlink == 0 || (len(todo) == 0 && !follow) {
			path = append(path, in)
			continue
		}
		if links++; links > maxExt4Links {
			return nil, errors.New("too many symbolic links")
		}
		target, err := e.readLink(in)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(target, "/") {
			path = path[:1]
		}
		todo = append(strings.Split(target, "/"), todo...)
		if len(todo) > maxExt4Path {
			return nil, errors.New("the path is too long")
		}
	}
	return path[len(path)-1], nil
}

func (e *Ext4) find(op, name string, follow bool) (*ext4Inode, error) {
	if !fs.ValidPath(name) || len(name) > maxExt4Path {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	in, err := e.lookup(name, follow)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return in, nil
}

// ext4Info is a file's fs.FileInfo and fs.DirEntry.
type ext4Info struct {
	name string
	in   *ext4Inode
}

func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

func (i ext4Info) Name() string               { return i.name }
func (i ext4Info) Size() int64                { return i.in.size }
func (i ext4Info) Mode() fs.FileMode          { return i.in.mode }
func (i ext4Info) Type() fs.FileMode          { return i.in.mode.Type() }
func (i ext4Info) ModTime() time.Time         { return i.in.mtime }
func (i ext4Info) IsDir() bool                { return i.in.mode.IsDir() }
func (i ext4Info) Sys() any                   { stat := i.in.stat; return &stat }
func (i ext4Info) Info() (fs.FileInfo, error) { return i, nil }

// Stat describes a file; of a symbolic link what it leads to.
func (e *Ext4) Stat(name string) (fs.FileInfo, error) {
	in, err := e.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return ext4Info{base(name), in}, nil
}

// Lstat describes a file; a symbolic link is not followed.
func (e *Ext4) Lstat(name string) (fs.FileInfo, error) {
	in, err := e.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return ext4Info{base(name), in}, nil
}

// ReadLink returns the target of a symbolic link.
func (e *Ext4) ReadLink(name string) (string, error) {
	in, err := e.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if in.mode&fs.ModeSymlink == 0 {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	target, err := e.readLink(in)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// ReadFile returns the content of a file of at most 256 MiB; use Open for larger ones.
func (e *Ext4) ReadFile(name string) ([]byte, error) {
	in, err := e.find("read", name, true)
	if err != nil {
		return nil, err
	}
	if !in.mode.IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	b, err := e.readAll(in, maxExt4ReadFile)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

// ReadDir returns the entries of a directory, sorted by name.
func (e *Ext4) ReadDir(name string) ([]fs.DirEntry, error) {
	in, err := e.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	list, err := e.list(in)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return list, nil
}

func (e *Ext4) list(dir *ext4Inode) ([]fs.DirEntry, error) {
	if !dir.mode.IsDir() {
		return nil, errors.New("not a directory")
	}
	entries, _, err := e.readDir(dir)
	if err != nil {
		return nil, err
	}
	list := make([]fs.DirEntry, 0, len(entries))
	for name := range entries {
		in, err := e.child(dir, entries, name)
		if err != nil {
			return nil, err
		}
		list = append(list, ext4Info{name, in})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name() < list[j].Name() })
	return list, nil
}

// Open opens a file for reading. A regular one is also an [io.ReaderAt] and an [io.Seeker].
func (e *Ext4) Open(name string) (fs.File, error) {
	in, err := e.find("open", name, true)
	if err != nil {
		return nil, err
	}
	info := ext4Info{base(name), in}
	if name == "." {
		info.name = "."
	}
	switch {
	case in.mode.IsDir():
		list, err := e.list(in)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &ext4Dir{info: info, list: list}, nil
	case in.mode.IsRegular():
		d, err := e.data(in)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &ext4File{SectionReader: io.NewSectionReader(d, 0, in.size), info: info}, nil
	default:
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("neither a file nor a directory")}
	}
}

type ext4File struct {
	*io.SectionReader
	info ext4Info
}

func (f *ext4File) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *ext4File) Close() error               { return nil }

type ext4Dir struct {
	info ext4Info
	list []fs.DirEntry
}

func (d *ext4Dir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *ext4Dir) Close() error               { return nil }
func (d *ext4Dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a directory")}
}

func (d *ext4Dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(d.list) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.list) {
		n = len(d.list)
	}
	part := d.list[:n:n]
	d.list = d.list[n:]
	return part, nil
}
