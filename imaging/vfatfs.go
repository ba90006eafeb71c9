package imaging

import (
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
)

// The format is that of Microsoft's "FAT: General Overview of On-Disk Format" 1.03; where that and Linux differ (which kind
// of FAT it is, names in lower case), Linux decides, since devices run it.

const (
	vfatEntry   = 32
	maxVFATDir  = 65536 * vfatEntry // bytes of one directory, as Linux and Windows have it
	vfatPage    = 4096
	maxVFATPage = 4096 // pages of the allocation table that are kept
)

// vfat reads FAT12, FAT16 and FAT32.
type vfat struct {
	r           io.ReaderAt
	bits        int   // of an entry of the allocation table
	fat         int64 // where the table is
	fatSize     int64
	data        int64 // where cluster 2 is
	clusterSize int64
	clusters    uint32 // the highest number of a cluster is one more
	rootDir     int64  // where the root directory of FAT12 and FAT16 is
	rootSize    int64
	top         *node

	mu    sync.Mutex
	pages map[int64][]byte
}

func openVFAT(r io.ReaderAt, size int64) (*treeFS, error) {
	b := make([]byte, 512)
	if err := readFull(r, b, 0, FilesystemVFAT); err != nil {
		return nil, err
	}
	sector, perCluster := int64(little.Uint16(b[11:])), int64(b[13])
	reserved, tables, rootEntries := int64(little.Uint16(b[14:])), int64(b[16]), int64(little.Uint16(b[17:]))
	total, perTable := int64(little.Uint16(b[19:])), int64(little.Uint16(b[22:]))
	if total == 0 {
		total = int64(little.Uint32(b[32:]))
	}
	v := &vfat{r: r, bits: 16, pages: make(map[int64][]byte)}
	if perTable == 0 {
		perTable, v.bits = int64(little.Uint32(b[36:])), 32
	}
	rootSectors := (rootEntries*vfatEntry + sector - 1) / max(sector, 1)
	first := reserved + tables*perTable + rootSectors
	switch {
	case sector < 512 || sector > 4096 || sector&(sector-1) != 0 || perCluster == 0 || perCluster&(perCluster-1) != 0:
		return nil, damaged(FilesystemVFAT, "clusters of %d sectors of %d bytes", perCluster, sector)
	case reserved == 0 || tables == 0 || perTable == 0 || first >= total:
		return nil, damaged(FilesystemVFAT, "its tables take %d of %d sectors", first, total)
	case total*sector > size:
		return nil, damaged(FilesystemVFAT, "it claims %d bytes of %d", total*sector, size)
	}
	v.fat, v.fatSize, v.data, v.clusterSize = reserved*sector, perTable*sector, first*sector, perCluster*sector
	v.rootDir, v.rootSize = (reserved+tables*perTable)*sector, rootEntries*vfatEntry
	clusters := (total - first) / perCluster
	if v.bits == 16 && clusters <= 4084 {
		v.bits = 12
	}
	v.clusters = uint32(min(clusters, v.fatSize*8/int64(v.bits)-2, 0x0ffffff5))
	v.top = &node{mode: fs.ModeDir | 0o755, mtime: vfatTime(0, 0)}
	if v.bits == 32 {
		if flags := little.Uint16(b[40:]); flags&0x80 != 0 { // one table is active and the others are not kept
			if int64(flags&0xf) >= tables {
				return nil, damaged(FilesystemVFAT, "its active table is number %d of %d", flags&0xf, tables)
			}
			v.fat += int64(flags&0xf) * v.fatSize
		}
		v.top.id = uint64(little.Uint32(b[44:]) & 0x0fffffff)
		if !v.valid(uint32(v.top.id)) {
			return nil, damaged(FilesystemVFAT, "its root directory is in cluster %d of %d", v.top.id, v.clusters)
		}
	}
	return newTreeFS(v), nil
}

func (v *vfat) kind() string    { return FilesystemVFAT }
func (v *vfat) root() *node     { return v.top }
func (v *vfat) foldsCase() bool { return true }

func (v *vfat) readLink(*node) (string, error) { return "", fs.ErrInvalid }

func (v *vfat) valid(cluster uint32) bool { return cluster >= 2 && cluster-2 < v.clusters }

// next returns what the table says of a cluster: the next of the chain, or something that is not valid.
func (v *vfat) next(cluster uint32) (uint32, error) {
	off := int64(cluster) * int64(v.bits) / 8
	var b [4]byte
	for i := range max(2, v.bits/8) {
		c, err := v.fatByte(off + int64(i))
		if err != nil {
			return 0, err
		}
		b[i] = c
	}
	n := little.Uint32(b[:])
	switch {
	case v.bits == 32:
		return n & 0x0fffffff, nil
	case v.bits == 12 && cluster&1 == 1:
		return n >> 4 & 0xfff, nil
	case v.bits == 12:
		return n & 0xfff, nil
	}
	return n, nil
}

func (v *vfat) fatByte(off int64) (byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	number := off / vfatPage
	page, found := v.pages[number]
	if !found {
		page = make([]byte, min(vfatPage, v.fatSize-number*vfatPage))
		if err := readFull(v.r, page, v.fat+number*vfatPage, FilesystemVFAT); err != nil {
			return 0, err
		}
		if len(v.pages) >= maxVFATPage {
			clear(v.pages)
		}
		v.pages[number] = page
	}
	if off%vfatPage >= int64(len(page)) {
		return 0, damaged(FilesystemVFAT, "its allocation table is too short")
	}
	return page[off%vfatPage], nil
}

// chain returns where the clusters of a file or directory are, at most limit of them.
func (v *vfat) chain(cluster uint32, limit int64) ([]extent, error) {
	var out []extent
	for count := int64(0); count < limit && v.valid(cluster); count++ {
		offset := v.data + int64(cluster-2)*v.clusterSize
		if n := len(out); n > 0 && out[n-1].offset+out[n-1].count*v.clusterSize == offset {
			out[n-1].count++
		} else if n >= maxTreeExtents {
			return nil, fmt.Errorf("a file in more than %d pieces: %w", maxTreeExtents, ErrDamaged)
		} else {
			out = append(out, extent{logical: count, count: 1, offset: offset})
		}
		var err error
		if cluster, err = v.next(cluster); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// vfatData reads the content of a file.
type vfatData struct {
	v       *vfat
	extents []extent
	size    int64
}

func (v *vfat) open(file *node) (io.ReaderAt, error) {
	d := &vfatData{v: v, size: file.size}
	if file.size == 0 {
		return d, nil
	}
	need := (file.size + v.clusterSize - 1) / v.clusterSize
	first, _ := file.impl.(uint32)
	if need > int64(v.clusters) {
		return nil, damaged(FilesystemVFAT, "a file of %d bytes", file.size)
	}
	var err error
	if d.extents, err = v.chain(first, need); err != nil {
		return nil, err
	}
	if n := len(d.extents); n == 0 || d.extents[n-1].logical+d.extents[n-1].count < need {
		return nil, damaged(FilesystemVFAT, "a file of %d bytes ends before", file.size)
	}
	return d, nil
}

func (d *vfatData) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= d.size {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= d.size {
			return n, io.EOF
		}
		cluster := at / d.v.clusterSize
		i := sort.Search(len(d.extents), func(i int) bool { return d.extents[i].logical+d.extents[i].count > cluster })
		e := d.extents[i]
		skip := at - e.logical*d.v.clusterSize
		part := p[n:min(int64(len(p)), int64(n)+e.count*d.v.clusterSize-skip, int64(n)+d.size-at)]
		if err := readFull(d.v.r, part, e.offset+skip, FilesystemVFAT); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// dirBytes reads a directory as a whole.
func (v *vfat) dirBytes(dir *node) ([]byte, error) {
	if dir == v.top && v.bits != 32 {
		b := make([]byte, v.rootSize)
		return b, readFull(v.r, b, v.rootDir, FilesystemVFAT)
	}
	extents, err := v.chain(uint32(dir.id), maxVFATDir/v.clusterSize+1)
	if err != nil {
		return nil, err
	}
	size := int64(0)
	for _, e := range extents {
		size += e.count * v.clusterSize
	}
	if size > maxVFATDir && size > v.clusterSize {
		return nil, damaged(FilesystemVFAT, "a directory does not end")
	}
	b := make([]byte, size)
	at := int64(0)
	for _, e := range extents {
		n := e.count * v.clusterSize
		if err := readFull(v.r, b[at:at+n], e.offset, FilesystemVFAT); err != nil {
			return nil, err
		}
		at += n
	}
	return b, nil
}

func (v *vfat) readDir(dir *node) ([]namedNode, error) {
	b, err := v.dirBytes(dir)
	if err != nil {
		return nil, err
	}
	var out []namedNode
	var long longName
	for ; len(b) >= vfatEntry && b[0] != 0; b = b[vfatEntry:] {
		e := b[:vfatEntry]
		switch attributes := e[11]; {
		case e[0] == 0xe5: // deleted
			long = longName{}
		case attributes&0x3f == 0x0f:
			long.add(e)
		case attributes&0x08 != 0: // the label
			long = longName{}
		default:
			name, ok := long.name(e)
			long = longName{}
			if !ok {
				name = shortName(e)
			}
			if name == "." || name == ".." {
				continue
			}
			n, err := v.node(e)
			if err != nil {
				return nil, err
			}
			out = append(out, namedNode{name, n})
		}
	}
	return out, nil
}

// node makes a node of a directory entry.
func (v *vfat) node(e []byte) (*node, error) {
	first := uint32(little.Uint16(e[26:]))
	if v.bits == 32 {
		first |= uint32(little.Uint16(e[20:])) << 16
	}
	n := &node{mode: 0o644, size: int64(little.Uint32(e[28:])), mtime: vfatTime(little.Uint16(e[24:]), little.Uint16(e[22:])), impl: first}
	if e[11]&0x01 != 0 {
		n.mode = 0o444
	}
	if e[11]&0x10 != 0 {
		if !v.valid(first) {
			return nil, damaged(FilesystemVFAT, "a directory in cluster %d of %d", first, v.clusters)
		}
		n.mode, n.size, n.id = fs.ModeDir|0o755, 0, uint64(first)
	}
	return n, nil
}

// vfatTime makes a time of a date and time of day, which FAT has without a zone.
func vfatTime(date, clock uint16) time.Time {
	return time.Date(1980+int(date>>9), time.Month(max(1, date>>5&0xf)), max(1, int(date&0x1f)),
		int(clock>>11), int(clock>>5&0x3f), int(clock&0x1f)*2, 0, time.UTC)
}

// longName collects the entries that precede the one they name, the last part of the name first.
type longName struct {
	want     int // the number that the next part must have
	checksum byte
	units    []uint16
}

func (l *longName) add(e []byte) {
	number := int(e[0] & 0x3f)
	if e[0]&0x40 != 0 && number >= 1 && number <= 20 {
		*l = longName{want: number, checksum: e[13], units: make([]uint16, 13*number)}
	}
	if number == 0 || number != l.want || e[13] != l.checksum {
		*l = longName{}
		return
	}
	l.want--
	part := l.units[13*(number-1):]
	for i, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		part[i] = little.Uint16(e[at:])
	}
}

// name returns the whole name if it is complete and belongs to the entry.
func (l *longName) name(e []byte) (string, bool) {
	if l.units == nil || l.want != 0 {
		return "", false
	}
	sum := byte(0)
	for _, c := range e[:11] {
		sum = sum>>1 | sum<<7
		sum += c
	}
	units := l.units
	for i, u := range units {
		if u == 0 {
			units = units[:i]
			break
		}
	}
	return string(utf16.Decode(units)), sum == l.checksum && len(units) > 0
}

// shortName is the name of an entry without a long one, such as CONFIG.TXT.
func shortName(e []byte) string {
	name, extension := oemString(e[:8]), oemString(e[8:11])
	if e[0] == 0x05 { // stands for what would mean that the entry is deleted
		name = oemString(append([]byte{0xe5}, e[1:8]...))
	}
	if e[12]&0x08 != 0 {
		name = strings.ToLower(name)
	}
	if e[12]&0x10 != 0 {
		extension = strings.ToLower(extension)
	}
	if extension == "" {
		return name
	}
	return name + "." + extension
}

// codePage437 is what the bytes from 0x80 mean where nobody said otherwise; Linux takes the same.
var codePage437 = []rune("ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐" +
	"└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0")

func oemString(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		if c < 0x80 {
			s.WriteByte(c)
		} else {
			s.WriteRune(codePage437[c-0x80])
		}
	}
	return strings.TrimRight(s.String(), " ")
}
