package imaging

import (
	"encoding/binary"
	"io"
)

// A medium that is flashed after a block map keeps its old bytes wherever the map has nothing. So a block may only be left out
// if it holds zeros and nobody will ever read it: neither the file system, which takes a free block for nothing but a used
// one of zeros for zeros, nor a program that looks for signatures. What must be there even though it is zeros:
//
//   - partition tables, and the first MiB of the disk, where boot ROMs look for loaders
//   - reserves, whole: an old environment with a valid checksum would win over an empty one
//   - the head and tail of every partition, where file systems, LUKS, LVM and RAID have their signatures
//   - of a file system, all that it has in use: tables, journal, the zeros in files
//   - of anything that is not known here, everything

const (
	mustHead = mib       // all signatures that libblkid 2.38 looks for from the start are inside
	mustTail = 128 * kib // RAID 0.90 has its superblock in the last 64 KiB that are a multiple of them
)

// mustWrite returns the blocks of the image that have to be written whatever they hold.
func mustWrite(m *Map, r *imageReader) (*blockSet, error) {
	set := newBlockSet()
	set.add(0, min(mustHead, m.Size))
	for _, w := range r.tables {
		set.add(w.off, w.off+int64(len(w.data)))
	}
	for _, area := range m.Regions {
		if area.Kind != KindPartition {
			set.add(area.Offset, area.End())
			continue
		}
		set.add(area.Offset, area.Offset+min(mustHead, area.Size))
		set.add(max(area.Offset, area.End()-mustTail), area.End())
	}
	for _, p := range r.pieces {
		if p.region.Kind != KindPartition {
			continue
		}
		add := func(start, end int64) { set.add(p.off()+start, p.off()+min(end, p.size)) }
		used, err := usedBlocks(p.reader(), p.size, add)
		if err != nil {
			return nil, err
		}
		if !used {
			add(0, p.size)
		}
	}
	return set, nil
}

// reader gives access to the content without its place in a larger file.
func (p *piece) reader() io.ReaderAt {
	if p.file == nil {
		return sliceReader(p.bytes)
	}
	return io.NewSectionReader(p.file, p.base, p.size)
}

type sliceReader []byte

func (s sliceReader) ReadAt(b []byte, off int64) (int, error) {
	if off >= int64(len(s)) {
		return 0, io.EOF
	}
	n := copy(b, s[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// usedBlocks calls add for all that a file system has in use. It is false when that can't be told, because the file
// system is not known, contradicts itself, or has a journal that has yet to say what is true.
func usedBlocks(r io.ReaderAt, size int64, add func(start, end int64)) (bool, error) {
	found, err := Probe(r, size)
	if err != nil {
		return false, err
	}
	switch {
	case found.Size > size:
		return false, nil
	case found.Kind == FilesystemExt4:
		return usedExt4(r, size, add)
	case found.Kind == FilesystemVFAT:
		return usedFAT(r, size, add)
	case found.Kind == FilesystemSquashFS && found.Size > 0, found.Kind == FilesystemEROFS && found.Size > 0:
		add(0, found.Size)
		return true, nil
	case found.Kind == "swap": // nobody reads a page of it before writing it
		add(0, mib)
		return true, nil
	}
	return false, nil
}

const (
	maxExt4Groups = 1 << 22

	ext4IncompatMetaBG    = 0x10
	ext4CompatSparse2     = 0x200
	ext4ROSparseSuper     = 0x1
	ext4ROGDTChecksum     = 0x10
	ext4ROBigAlloc        = 0x200
	ext4ROMetadataSum     = 0x400
	ext4GroupBlocksUninit = 0x2
)

// usedExt4 goes by the block bitmaps, and by the descriptors for the tables of groups whose bitmap is yet to be made.
func usedExt4(r io.ReaderAt, size int64, add func(start, end int64)) (bool, error) {
	super := make([]byte, 1024)
	if n, err := r.ReadAt(super, 1024); n < len(super) {
		return false, readError(err)
	}
	le := binary.LittleEndian
	compat, incompat, ro := le.Uint32(super[0x5c:]), le.Uint32(super[0x60:]), le.Uint32(super[0x64:])
	shift := le.Uint32(super[0x18:])
	if shift > 6 || incompat&(ext4IncompatRecover|ext4IncompatMetaBG) != 0 || incompat&^(ext4IncompatKnown|0x8000) != 0 ||
		compat&ext4CompatSparse2 != 0 || ro&ext4ROBigAlloc != 0 {
		return false, nil
	}
	g := &ext4Groups{
		r: r, add: add, bs: 1024 << shift, blocks: probeExt4(super).Size / (1024 << shift), first: int64(le.Uint32(super[0x14:])),
		perGroup: int64(le.Uint32(super[0x20:])), inodeSize: int64(le.Uint16(super[0x58:])), descSize: 32,
		inodesPerGroup: int64(le.Uint32(super[0x28:])), reserved: int64(le.Uint16(super[0xce:])),
		sparse: ro&ext4ROSparseSuper != 0, uninit: ro&(ext4ROGDTChecksum|ext4ROMetadataSum) != 0,
	}
	if incompat&ext4Incompat64bit != 0 {
		g.descSize = int64(le.Uint16(super[0xfe:]))
	}
	if le.Uint32(super[0x4c:]) == 0 {
		g.inodeSize = 128
	}
	switch {
	case g.blocks <= g.first || g.first < 0 || g.first > 1 || g.perGroup <= 0 || g.perGroup > 8*g.bs,
		g.inodesPerGroup <= 0 || g.inodesPerGroup > 8*g.bs, g.inodeSize < 128 || g.inodeSize > g.bs, g.descSize < 32 || g.descSize > g.bs:
		return false, nil
	}
	if (g.blocks-g.first-1)/g.perGroup+1 > maxExt4Groups {
		return false, nil
	}
	return g.walk()
}

type ext4Groups struct {
	r                           io.ReaderAt
	add                         func(start, end int64)
	bs, blocks, first, perGroup int64
	inodesPerGroup, inodeSize   int64
	descSize, reserved          int64
	sparse, uninit              bool
	descriptors, tableBlocks    int64
}

func (g *ext4Groups) walk() (bool, error) {
	groups := (g.blocks-g.first-1)/g.perGroup + 1
	g.descriptors = (groups*g.descSize + g.bs - 1) / g.bs
	g.tableBlocks = (g.inodesPerGroup*g.inodeSize + g.bs - 1) / g.bs
	desc, bitmap := make([]byte, g.descSize), make([]byte, g.bs)
	for group := range groups {
		if n, err := g.r.ReadAt(desc, (g.first+1)*g.bs+group*g.descSize); n < len(desc) {
			return false, readError(err)
		}
		start := g.first + group*g.perGroup
		count := min(g.perGroup, g.blocks-start)
		if !g.sparse || HasSuperblock(group) {
			g.addBlocks(start, min(1+g.descriptors+g.reserved, count))
		}
		pointer := func(low, high int) int64 {
			n := int64(binary.LittleEndian.Uint32(desc[low:]))
			if g.descSize >= 64 {
				n |= int64(binary.LittleEndian.Uint32(desc[high:])) << 32
			}
			return n
		}
		blockBitmap, inodeBitmap, table := pointer(0, 0x20), pointer(4, 0x24), pointer(8, 0x28)
		for _, n := range []int64{blockBitmap, inodeBitmap, table} {
			if n <= 0 || n >= g.blocks {
				return false, nil
			}
		}
		g.addBlocks(blockBitmap, 1)
		g.addBlocks(inodeBitmap, 1)
		g.addBlocks(table, min(g.tableBlocks, g.blocks-table))
		if g.uninit && binary.LittleEndian.Uint16(desc[0x12:])&ext4GroupBlocksUninit != 0 {
			continue
		}
		if n, err := g.r.ReadAt(bitmap, blockBitmap*g.bs); n < len(bitmap) {
			return false, readError(err)
		}
		g.addBitmap(bitmap, start, count)
	}
	return true, nil
}

func (g *ext4Groups) addBlocks(start, count int64) { g.add(start*g.bs, (start+count)*g.bs) }

func (g *ext4Groups) addBitmap(bitmap []byte, start, count int64) {
	for i := int64(0); i < count; i++ {
		if bitmap[i/8] == 0 && i%8 == 0 {
			i += 7
			continue
		}
		run := i
		for run < count && bitmap[run/8]>>(run%8)&1 == 1 {
			run++
		}
		if run > i {
			g.addBlocks(start+i, run-i)
			i = run
		}
	}
}

// HasSuperblock tells whether a group of an ext4 begins with a copy of the superblock: 0, 1 and the powers of 3, 5 and 7 do.
func HasSuperblock(group int64) bool {
	for _, base := range []int64{3, 5, 7} {
		n := int64(1)
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return group <= 1
}

// usedFAT goes by the first allocation table. Reserved sectors, the tables and the root directory of FAT12 and FAT16 are in
// use as a whole: a zero there says that a cluster is free, or that a directory ends.
func usedFAT(r io.ReaderAt, size int64, add func(start, end int64)) (bool, error) {
	head := make([]byte, 512)
	if n, err := r.ReadAt(head, 0); n < len(head) {
		return false, readError(err)
	}
	le := binary.LittleEndian
	sector, cluster := int64(le.Uint16(head[11:])), int64(head[13])
	fatSectors, total := int64(le.Uint16(head[22:])), int64(le.Uint16(head[19:]))
	wide := fatSectors == 0
	if wide {
		fatSectors = int64(le.Uint32(head[36:]))
	}
	if total == 0 {
		total = int64(le.Uint32(head[32:]))
	}
	root := (int64(le.Uint16(head[17:]))*32 + sector - 1) / sector
	fat := int64(le.Uint16(head[14:]))
	data := fat + int64(head[16])*fatSectors + root
	if fat == 0 || fatSectors == 0 || data >= total || total*sector > size {
		return false, nil
	}
	add(0, data*sector)
	clusters := (total - data) / cluster
	entryBits := int64(16)
	switch {
	case wide:
		entryBits = 32
	case clusters < 4085:
		entryBits = 12
	}
	if (clusters+2)*entryBits/8 > fatSectors*sector {
		return false, nil
	}
	t := fatTable{r: r, at: fat * sector, bits: entryBits}
	for n := int64(2); n < clusters+2; n++ {
		used, err := t.used(n)
		if err != nil {
			return false, err
		}
		if used {
			start := (data + (n-2)*cluster) * sector
			add(start, start+cluster*sector)
		}
	}
	return true, nil
}

// fatTable reads an allocation table forwards.
type fatTable struct {
	r     io.ReaderAt
	at    int64
	bits  int64
	buf   []byte
	start int64 // of buf, inside the table
}

func (t *fatTable) used(n int64) (bool, error) {
	pos := n * t.bits / 8
	width := (t.bits + 7) / 8
	if pos < t.start || pos+width > t.start+int64(len(t.buf)) {
		if t.buf == nil {
			t.buf = make([]byte, 0, 48*kib)
		}
		t.start = pos
		k, err := t.r.ReadAt(t.buf[:cap(t.buf)], t.at+pos)
		if t.buf = t.buf[:k]; int64(k) < width {
			return false, readError(err)
		}
	}
	b := t.buf[pos-t.start:]
	le := binary.LittleEndian
	switch t.bits {
	case 12:
		return le.Uint16(b)>>(n%2*4)&0xfff != 0, nil
	case 16:
		return le.Uint16(b) != 0, nil
	}
	return le.Uint32(b)&0x0fffffff != 0, nil
}

// readError is nil for an end that came too early: then the file system is not what it says, which is no reason to stop.
func readError(err error) error {
	if err == io.EOF { //nolint:errorlint // ReaderAt gives it bare
		return nil
	}
	return err
}
