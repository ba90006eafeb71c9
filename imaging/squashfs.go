package imaging

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"
)

// The format is that of version 4 in Linux (fs/squashfs/squashfs_fs.h).

const (
	squashMeta       = 8192    // bytes of a block of meta-data, uncompressed
	maxSquashBlock   = 1 << 20 // bytes of a block of data
	maxSquashMeta    = 256     // blocks of meta-data that are kept
	maxSquashDir     = 32 << 20
	maxSquashBlocks  = 1 << 22 // of one file
	maxSquashXZDict  = 8 << 20
	squashNoFragment = 0xffffffff
	squashStored     = 1 << 24 // in the size of a block of data: it is not compressed
)

var squashCompressors = map[uint16]string{1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}

// squash reads a squashfs.
type squash struct {
	r                    io.ReaderAt
	size                 int64
	blockSize            int64
	inodes, fragments    uint32
	ids                  []uint32
	inodeTable, dirTable int64
	fragmentTable        int64
	unpack               func(dst, src []byte) ([]byte, error) // appends at most cap(dst) bytes to dst
	top                  *node

	mu   sync.Mutex
	meta map[int64]squashMetaBlock
	last squashBlock // the fragment that was read last: small files share them
}

type squashMetaBlock struct {
	data []byte
	next int64
}

type squashBlock struct {
	start int64 // 0 is none, since the superblock is there
	data  []byte
}

func openSquashFS(r io.ReaderAt, size int64) (*treeFS, error) {
	b := make([]byte, 96)
	if err := readFull(r, b, 0, FilesystemSquashFS); err != nil {
		return nil, err
	}
	if major, minor := little.Uint16(b[28:]), little.Uint16(b[30:]); major != 4 {
		return nil, fmt.Errorf("it is a squashfs of version %d.%d, and 4 is the only one that is known here: %w", major, minor, errors.ErrUnsupported)
	}
	u64 := func(at int) int64 { return clampSize(little.Uint64(b[at:])) }
	s := &squash{
		r: r, size: u64(40), inodes: little.Uint32(b[4:]), blockSize: int64(little.Uint32(b[12:])), fragments: little.Uint32(b[16:]),
		inodeTable: u64(64), dirTable: u64(72), fragmentTable: u64(80),
		meta: make(map[int64]squashMetaBlock),
	}
	switch {
	case s.blockSize < 4096 || s.blockSize > maxSquashBlock || s.blockSize&(s.blockSize-1) != 0:
		return nil, damaged(FilesystemSquashFS, "blocks of %d bytes", s.blockSize)
	case s.size < 96 || s.size > size:
		return nil, damaged(FilesystemSquashFS, "it claims %d bytes of %d", s.size, size)
	case s.inodeTable < 96 || s.dirTable < s.inodeTable || s.dirTable >= s.size:
		return nil, damaged(FilesystemSquashFS, "its tables are not in it")
	}
	compressor := little.Uint16(b[20:])
	var err error
	if s.unpack, err = squashDecompressor(compressor); err != nil {
		return nil, err
	}
	if err := s.readIDs(u64(48), int(little.Uint16(b[26:]))); err != nil {
		return nil, err
	}
	if s.top, err = s.inode(little.Uint64(b[32:])); err != nil {
		return nil, err
	}
	if !s.top.mode.IsDir() {
		return nil, damaged(FilesystemSquashFS, "the root is no directory")
	}
	return newTreeFS(s), nil
}

func (s *squash) kind() string    { return FilesystemSquashFS }
func (s *squash) root() *node     { return s.top }
func (s *squash) foldsCase() bool { return false }

// squashDecompressor returns a function that unpacks into at most cap(dst) bytes, and needs no more memory than that allows.
func squashDecompressor(id uint16) (func(dst, src []byte) ([]byte, error), error) {
	fill := func(dst []byte, r io.Reader) ([]byte, error) {
		dst = dst[:cap(dst)]
		n, err := io.ReadFull(r, dst)
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			err = nil
		}
		return dst[:n], err
	}
	switch name := squashCompressors[id]; name {
	case "gzip":
		return func(dst, src []byte) ([]byte, error) {
			r, err := zlib.NewReader(bytes.NewReader(src))
			if err != nil {
				return nil, err
			}
			return fill(dst, r)
		}, nil
	case "xz":
		return func(dst, src []byte) ([]byte, error) {
			r, err := xzReader(src)
			if err != nil {
				return nil, err
			}
			return fill(dst, r)
		}, nil
	case "zstd":
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxSquashBlock), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
		return func(dst, src []byte) ([]byte, error) { return d.DecodeAll(src, dst) }, nil
	case "lz4":
		return unpackLZ4, nil
	case "":
		return nil, damaged(FilesystemSquashFS, "compressor number %d", id)
	default:
		return nil, fmt.Errorf("the squashfs is compressed with %s, which cannot be read here: %w", name, errors.ErrUnsupported)
	}
}

// xzReader reads the one block of a stream of xz (the .xz file format 1.2.1, 3.1). The stream's own reader would let
// a hostile one ask for a dictionary of gigabytes. Filters for programs (mksquashfs -Xbcj) are not known.
func xzReader(src []byte) (io.Reader, error) {
	wrong := errors.New("a block of xz is damaged")
	if len(src) < 24 || !bytes.HasPrefix(src, []byte("\xfd7zXZ\x00")) {
		return nil, wrong
	}
	header := src[12:]
	size := (int(header[0]) + 1) * 4
	if header[0] == 0 || size > len(header) {
		return nil, wrong
	}
	data := header[size:]
	header = header[:size]
	at := 2
	number := func() (n uint64) {
		for shift := 0; shift < 63 && at < len(header); shift += 7 {
			c := header[at]
			at++
			n |= uint64(c&0x7f) << shift
			if c < 0x80 {
				break
			}
		}
		return n
	}
	for _, bit := range []byte{0x40, 0x80} { // the sizes of the block
		if header[1]&bit != 0 {
			number()
		}
	}
	if filter, properties := number(), number(); header[1]&3 != 0 || filter != 0x21 || properties != 1 {
		return nil, fmt.Errorf("it is compressed with filters of xz that cannot be read here: %w", errors.ErrUnsupported)
	}
	if at >= len(header) || header[at] > 40 {
		return nil, wrong
	}
	dictionary := int64(2|header[at]&1) << (header[at]/2 + 11)
	if dictionary > maxSquashXZDict {
		return nil, errors.New("a block of xz needs too large a dictionary")
	}
	return lzma.Reader2Config{DictCap: int(dictionary)}.NewReader2(bytes.NewReader(data))
}

// unpackLZ4 unpacks one block of LZ4 (lz4_Block_format.md of lz4).
func unpackLZ4(dst, src []byte) ([]byte, error) {
	wrong := errors.New("a block of lz4 is damaged")
	length := func(n int) (int, bool) {
		for more := n == 15; more; {
			if len(src) == 0 || n > maxSquashBlock {
				return 0, false
			}
			n += int(src[0])
			more = src[0] == 255
			src = src[1:]
		}
		return n, true
	}
	for len(src) > 0 {
		token := src[0]
		src = src[1:]
		n, ok := length(int(token >> 4))
		if !ok || n > len(src) || len(dst)+n > cap(dst) {
			return nil, wrong
		}
		dst = append(dst, src[:n]...)
		if src = src[n:]; len(src) == 0 {
			break
		}
		if len(src) < 2 {
			return nil, wrong
		}
		back := int(little.Uint16(src))
		src = src[2:]
		n, ok = length(int(token & 15))
		n += 4
		if !ok || back == 0 || back > len(dst) || len(dst)+n > cap(dst) {
			return nil, wrong
		}
		for range n {
			dst = append(dst, dst[len(dst)-back])
		}
	}
	return dst, nil
}

// read reads and unpacks what is stored at a place.
func (s *squash) read(at, stored int64, compressed bool, limit int64) ([]byte, error) {
	if at < 0 || stored <= 0 || stored > limit || at > s.size-stored {
		return nil, damaged(FilesystemSquashFS, "a block of %d bytes at %d", stored, at)
	}
	b := make([]byte, stored)
	if err := readFull(s.r, b, at, FilesystemSquashFS); err != nil {
		return nil, err
	}
	if !compressed {
		return b, nil
	}
	out, err := s.unpack(make([]byte, 0, limit), b)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return nil, err
	case err != nil:
		return nil, damaged(FilesystemSquashFS, "unpacking a block: %v", err)
	case len(out) == 0 || int64(len(out)) > limit:
		return nil, damaged(FilesystemSquashFS, "a block unpacks to %d bytes", len(out))
	}
	return out, nil
}

// metaBlock returns the block of meta-data at a place, and where the next one is.
func (s *squash) metaBlock(at int64) (squashMetaBlock, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, found := s.meta[at]; found {
		return m, nil
	}
	var head [2]byte
	if at < 0 || at > s.size-2 {
		return squashMetaBlock{}, damaged(FilesystemSquashFS, "meta-data at %d", at)
	}
	if err := readFull(s.r, head[:], at, FilesystemSquashFS); err != nil {
		return squashMetaBlock{}, err
	}
	size := int64(little.Uint16(head[:]))
	data, err := s.read(at+2, size&0x7fff, size&0x8000 == 0, squashMeta)
	if err != nil {
		return squashMetaBlock{}, err
	}
	m := squashMetaBlock{data, at + 2 + size&0x7fff}
	if len(s.meta) >= maxSquashMeta {
		clear(s.meta)
	}
	s.meta[at] = m
	return m, nil
}

// metaReader reads meta-data, which goes on from block to block.
type metaReader struct {
	s        *squash
	at, next int64 // this block and the next one
	size     int   // of this block
	data     []byte
}

// metaPlace is where a metaReader is; unlike that it keeps no block in memory.
type metaPlace struct{ block, offset int64 }

func (m *metaReader) place() metaPlace { return metaPlace{m.at, int64(m.size - len(m.data))} }

func (s *squash) metaAt(block, offset int64) (*metaReader, error) {
	m, err := s.metaBlock(block)
	if err != nil {
		return nil, err
	}
	if offset > int64(len(m.data)) {
		return nil, damaged(FilesystemSquashFS, "meta-data behind its block")
	}
	return &metaReader{s, block, m.next, len(m.data), m.data[offset:]}, nil
}

func (m *metaReader) Read(p []byte) (int, error) {
	if len(m.data) == 0 {
		b, err := m.s.metaBlock(m.next)
		if err != nil {
			return 0, err
		}
		m.at, m.next, m.size, m.data = m.next, b.next, len(b.data), b.data
	}
	n := copy(p, m.data)
	m.data = m.data[n:]
	return n, nil
}

func (m *metaReader) bytes(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(m, b)
	return b, err
}

// tableEntry reads an entry of one of the tables that are found by a list of their blocks.
func (s *squash) tableEntry(table int64, index, width int) ([]byte, error) {
	perBlock := squashMeta / width
	var at [8]byte
	where := table + int64(index/perBlock)*8
	if where < 0 || where > s.size-8 {
		return nil, damaged(FilesystemSquashFS, "a table behind its end")
	}
	if err := readFull(s.r, at[:], where, FilesystemSquashFS); err != nil {
		return nil, err
	}
	m, err := s.metaAt(clampSize(little.Uint64(at[:])), int64(index%perBlock*width))
	if err != nil {
		return nil, err
	}
	return m.bytes(width)
}

// readIDs reads the table of owners and groups.
func (s *squash) readIDs(table int64, count int) error {
	for i := range count {
		b, err := s.tableEntry(table, i, 4)
		if err != nil {
			return err
		}
		s.ids = append(s.ids, little.Uint32(b))
	}
	return nil
}

func (s *squash) id(index uint16) (uint32, error) {
	if int(index) >= len(s.ids) {
		return 0, damaged(FilesystemSquashFS, "owner %d of %d", index, len(s.ids))
	}
	return s.ids[index], nil
}

// squashDir is where the entries of a directory are.
type squashDir struct {
	block        int64
	offset, size int64
}

// squashFile is where the content of a file is; its list of blocks follows the inode.
type squashFile struct {
	start            int64
	fragment, offset uint32
	list             metaPlace
}

// inode reads the inode at a place in the table: the block's in the upper bits, the one in the block in the lower 16.
func (s *squash) inode(ref uint64) (*node, error) {
	if ref>>48 != 0 {
		return nil, damaged(FilesystemSquashFS, "an inode at %#x", ref)
	}
	at := s.inodeTable + int64(ref>>16)
	if at >= s.dirTable {
		return nil, damaged(FilesystemSquashFS, "an inode at %#x", ref)
	}
	m, err := s.metaAt(at, int64(ref&0xffff))
	if err != nil {
		return nil, err
	}
	h, err := m.bytes(16)
	if err != nil {
		return nil, err
	}
	n := &node{id: ref, mode: fs.FileMode(little.Uint16(h[2:]) & 0o777), mtime: time.Unix(int64(little.Uint32(h[8:])), 0).UTC()}
	for bit, mode := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if little.Uint16(h[2:])&bit != 0 {
			n.mode |= mode
		}
	}
	n.sys = &Ext4Stat{Inode: little.Uint32(h[12:]), Links: 1}
	if n.sys.UID, err = s.id(little.Uint16(h[4:])); err != nil {
		return nil, err
	}
	if n.sys.GID, err = s.id(little.Uint16(h[6:])); err != nil {
		return nil, err
	}
	kind := little.Uint16(h)
	if kind < 1 || kind > 14 {
		return nil, damaged(FilesystemSquashFS, "inode %d is of kind %d", n.sys.Inode, kind)
	}
	// How many bytes of each kind of inode follow the common ones.
	rest := []int{0, 16, 16, 8, 8, 8, 4, 4, 24, 40, 8, 12, 12, 8, 8}[kind]
	b, err := m.bytes(rest)
	if err != nil {
		return nil, err
	}
	u32 := func(at int) uint32 { return little.Uint32(b[at:]) }
	links := func(at int) { n.sys.Links = uint16(min(u32(at), 0xffff)) }
	switch kind {
	case 1:
		n.mode |= fs.ModeDir
		links(4)
		n.impl = squashDir{block: int64(u32(0)), offset: int64(little.Uint16(b[10:])), size: int64(little.Uint16(b[8:]))}
	case 8:
		n.mode |= fs.ModeDir
		links(0)
		n.impl = squashDir{block: int64(u32(8)), offset: int64(little.Uint16(b[18:])), size: int64(u32(4))}
	case 2:
		n.size = int64(u32(12))
		n.impl = squashFile{start: int64(u32(0)), fragment: u32(4), offset: u32(8), list: m.place()}
	case 9:
		n.size = int64(little.Uint64(b[8:]))
		links(24)
		n.impl = squashFile{start: clampSize(little.Uint64(b)), fragment: u32(28), offset: u32(32), list: m.place()}
		if n.size < 0 || n.size > maxSize {
			return nil, damaged(FilesystemSquashFS, "inode %d has %d bytes", n.sys.Inode, n.size)
		}
	case 3, 10:
		n.mode |= fs.ModeSymlink
		links(0)
		if n.size = int64(u32(4)); n.size > maxExt4Link {
			return nil, damaged(FilesystemSquashFS, "a symbolic link of %d bytes", n.size)
		}
		n.impl = m.place()
	case 4, 5, 11, 12:
		n.mode |= fs.ModeDevice
		if kind == 5 || kind == 12 {
			n.mode |= fs.ModeCharDevice
		}
		links(0)
		n.sys.Major, n.sys.Minor = u32(4)>>8&0xfff, u32(4)&0xff|u32(4)>>12&^0xff
	case 6, 13:
		n.mode |= fs.ModeNamedPipe
		links(0)
	case 7, 14:
		n.mode |= fs.ModeSocket
		links(0)
	}
	return n, nil
}

func (s *squash) readLink(link *node) (string, error) {
	at, ok := link.impl.(metaPlace)
	if !ok {
		return "", fs.ErrInvalid
	}
	m, err := s.metaAt(at.block, at.offset)
	if err != nil {
		return "", err
	}
	b, err := m.bytes(int(link.size))
	return string(b), err
}

func (s *squash) readDir(dir *node) ([]namedNode, error) {
	d, ok := dir.impl.(squashDir)
	if !ok {
		return nil, fs.ErrInvalid
	}
	left := d.size - 3 // the size counts . and .., which are not there
	if left <= 0 {
		return nil, nil
	}
	if left > maxSquashDir {
		return nil, damaged(FilesystemSquashFS, "a directory of %d bytes", left)
	}
	m, err := s.metaAt(s.dirTable+d.block, d.offset)
	if err != nil {
		return nil, err
	}
	var out []namedNode
	for left > 0 {
		h, err := m.bytes(12)
		if err != nil {
			return nil, err
		}
		left -= 12
		count, block := int64(little.Uint32(h))+1, uint64(little.Uint32(h[4:]))
		if count > 256 || int64(len(out))+count > maxTreeEntries {
			return nil, damaged(FilesystemSquashFS, "a directory with %d names in a row", count)
		}
		for range count {
			e, err := m.bytes(8)
			if err != nil {
				return nil, err
			}
			length := int(little.Uint16(e[6:])) + 1
			if left -= int64(8 + length); length > 256 || left < 0 {
				return nil, damaged(FilesystemSquashFS, "a name of %d bytes", length)
			}
			name, err := m.bytes(length)
			if err != nil {
				return nil, err
			}
			n, err := s.inode(block<<16 | uint64(little.Uint16(e)))
			if err != nil {
				return nil, err
			}
			out = append(out, namedNode{string(name), n})
		}
	}
	return out, nil
}

// squashData reads the content of one file.
type squashData struct {
	s      *squash
	size   int64
	starts []int64  // of the stored blocks
	sizes  []uint32 // as they are stored
	tail   []byte   // what is in a fragment

	mu    sync.Mutex
	last  int
	block []byte // the block number last
}

func (s *squash) open(file *node) (io.ReaderAt, error) {
	f, ok := file.impl.(squashFile)
	if !ok {
		return nil, fs.ErrInvalid
	}
	d := &squashData{s: s, size: file.size, last: -1}
	blocks := (file.size + s.blockSize - 1) / s.blockSize
	if f.fragment != squashNoFragment {
		blocks = file.size / s.blockSize
	}
	if blocks > maxSquashBlocks {
		return nil, fmt.Errorf("a file of %d blocks: %w", blocks, errors.ErrUnsupported)
	}
	list, err := s.metaAt(f.list.block, f.list.offset)
	if err != nil {
		return nil, err
	}
	at := f.start
	var b [4]byte
	for range blocks {
		if _, err := io.ReadFull(list, b[:]); err != nil {
			return nil, err
		}
		size := little.Uint32(b[:])
		d.starts, d.sizes = append(d.starts, at), append(d.sizes, size)
		if at += int64(size &^ squashStored); at > s.size {
			return nil, damaged(FilesystemSquashFS, "a file ends behind it")
		}
	}
	if length := file.size - blocks*s.blockSize; length > 0 {
		d.tail, err = s.fragment(f.fragment, int64(f.offset), length)
	}
	return d, err
}

// fragment returns a part of a block that several files share.
func (s *squash) fragment(index uint32, offset, length int64) ([]byte, error) {
	if index >= s.fragments {
		return nil, damaged(FilesystemSquashFS, "fragment %d of %d", index, s.fragments)
	}
	e, err := s.tableEntry(s.fragmentTable, int(index), 16)
	if err != nil {
		return nil, err
	}
	start, size := clampSize(little.Uint64(e)), little.Uint32(e[8:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.start != start || start == 0 {
		b, err := s.read(start, int64(size&^squashStored), size&squashStored == 0, s.blockSize)
		if err != nil {
			return nil, err
		}
		s.last = squashBlock{start, b}
	}
	if offset > int64(len(s.last.data))-length {
		return nil, damaged(FilesystemSquashFS, "a part of a fragment behind its end")
	}
	return s.last.data[offset : offset+length], nil
}

func (d *squashData) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= d.size {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= d.size {
			return n, io.EOF
		}
		number := int(at / d.s.blockSize)
		inBlock := at - int64(number)*d.s.blockSize
		if number >= len(d.sizes) {
			n += copy(p[n:], d.tail[inBlock:])
			continue
		}
		want := min(d.s.blockSize, d.size-int64(number)*d.s.blockSize)
		if d.sizes[number] == 0 { // a hole
			part := p[n:min(int64(len(p)), int64(n)+want-inBlock)]
			clear(part)
			n += len(part)
			continue
		}
		block, err := d.read(number, want)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], block[inBlock:])
	}
	return n, nil
}

func (d *squashData) read(number int, want int64) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last == number {
		return d.block, nil
	}
	size := d.sizes[number]
	b, err := d.s.read(d.starts[number], int64(size&^squashStored), size&squashStored == 0, d.s.blockSize)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != want {
		return nil, damaged(FilesystemSquashFS, "a block of %d bytes instead of %d", len(b), want)
	}
	d.last, d.block = number, b
	return b, nil
}
