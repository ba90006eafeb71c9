package artifactfmt

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// ErrNotSeekable is returned by OpenPayload when the payload is compressed such that a part of it can't be unpacked alone: xz,
// and whatever other tools write.
var ErrNotSeekable = errors.New("the payload is compressed without an index, so it can only be read from its beginning")

// Chunk is a part of a payload member that is unpacked by itself. The chunks of a member follow each other without gaps.
type Chunk struct {
	Offset      int64 `json:"offset"` // in the artifact
	Size        int64 `json:"size"`   // as stored
	PlainOffset int64 `json:"plain_offset"`
	PlainSize   int64 `json:"plain_size"`
	// SHA256 is what the artifact says of the unpacked content, or "". It is not signed: whoever could change the chunk could
	// change it, too. It finds chunks and damage; only the sums of whole files, in the manifest, prove where they are from.
	SHA256 string `json:"sha256,omitempty"`
}

// Payload gives random access to the payload of a stored artifact, without reading it whole. It holds a few unpacked
// chunks; its methods may be used by several goroutines.
//
// What it gives is not authenticated, even if the artifact is signed: the signature covers the manifest, and that the
// checksums of whole files, which only reading them whole can meet. Each chunk that has a SHA-256 is checked against that, but the
// sums of chunks are not signed. Use [Verify] first, or don't trust the content.
type Payload struct {
	info   *Info
	where  string
	chunks []chunk // with one more at the end, for its offsets
	sums   bool
	plain  io.ReaderAt // the payload archive
	files  map[string]*PayloadSection
}

// chunk is where a chunk begins, stored and unpacked.
type chunk struct {
	offset, plain int64
	sum           [sha256.Size]byte
}

// PayloadSection is a file of a payload. Its content isn't authenticated, see Payload.
type PayloadSection struct{ section *io.SectionReader }

// ReadAt implements io.ReaderAt.
func (s *PayloadSection) ReadAt(p []byte, off int64) (int, error) { return s.section.ReadAt(p, off) }

// Size returns the size of the file.
func (s *PayloadSection) Size() int64 { return s.section.Size() }

const (
	maxChunk  = 8 << 20 // bytes, unpacked
	maxChunks = 1 << 19
	keptBytes = 16 << 20 // of unpacked chunks
)

// OpenPayload opens the payload of an artifact of the given size. It reads what precedes the payload, checks that as NewReader does,
// and reads the payload's index and the headers in it. The error is ErrNotSeekable when there is no index.
func OpenPayload(r io.ReaderAt, size int64, o ReadOptions) (*Payload, error) {
	o.Concurrency = 1
	a, err := NewReader(io.NewSectionReader(r, 0, size), o)
	if err != nil {
		return nil, err
	}
	m, _, err := a.payloadMember()
	if err != nil {
		return nil, err
	}
	if m.Size > size-m.data {
		return nil, ErrTruncated
	}
	p := &Payload{info: a.info, where: m.Name, files: make(map[string]*PayloadSection)}
	if err := p.index(r, m.data, m.Size, a.limits); err != nil {
		return nil, err
	}
	return p, p.findFiles(a)
}

// Info describes the artifact, with the sizes of all files.
func (p *Payload) Info() *Info { return p.info }

// Chunks returns the parts of the payload that can be unpacked by themselves. A payload that isn't compressed has one.
func (p *Payload) Chunks() []Chunk {
	var all []Chunk
	for i, c := range p.chunks[:len(p.chunks)-1] {
		next := p.chunks[i+1]
		public := Chunk{Offset: c.offset, Size: next.offset - c.offset, PlainOffset: c.plain, PlainSize: next.plain - c.plain}
		if p.sums {
			public.SHA256 = hex.EncodeToString(c.sum[:])
		}
		all = append(all, public)
	}
	return all
}

// File returns a file of the payload.
func (p *Payload) File(name string) (*PayloadSection, error) {
	if f := p.files[name]; f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("the payload has no file %q", name)
}

func (p *Payload) index(r io.ReaderAt, offset, size int64, limits Limits) error {
	member := io.NewSectionReader(r, offset, size)
	start := make([]byte, min(6, size))
	if err := p.readAt(member, start, 0); err != nil {
		return err
	}
	p.info.Compression = CompressionNone
	for _, m := range magics {
		if bytes.HasPrefix(start, m.magic) {
			p.info.Compression = m.compression
		}
	}
	var err error
	var decode func(*piece) error
	switch p.info.Compression {
	case CompressionNone:
		p.chunks = []chunk{{}, {offset: size, plain: size}}
		p.plain = member
	case Gzip:
		err = p.indexGzip(member)
		decode = gzipDecoder()
	case Zstd:
		err = p.indexZstd(member)
		if err == nil {
			decode, err = zstdDecoder(1, limits)
		}
	default:
		err = ErrNotSeekable
	}
	if err != nil {
		return err
	}
	if decode != nil {
		p.plain = io.NewSectionReader(&chunkReader{p: p, member: member, base: offset, decode: decode}, 0, p.chunks[len(p.chunks)-1].plain)
	}
	for i := range p.chunks {
		p.chunks[i].offset += offset
	}
	return nil
}

// readAt fills b. The member is there as a whole, so its early end is the source's fault.
func (p *Payload) readAt(member io.ReaderAt, b []byte, at int64) error {
	n, err := member.ReadAt(b, at)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return ErrTruncated
	}
	return &sourceError{err}
}

// indexGzip goes from member to member.
func (p *Payload) indexGzip(member *io.SectionReader) error {
	var at, plain int64
	for at < member.Size() {
		var header [gzipHeaderSize]byte
		if member.Size()-at < gzipHeaderSize {
			return malformed(p.where, "something follows the last gzip member")
		}
		if err := p.readAt(member, header[:], at); err != nil {
			return err
		}
		size, ok := gzipMemberSize(header[:])
		switch {
		case !ok && at == 0:
			return ErrNotSeekable
		case !ok, int64(size) > member.Size()-at, len(p.chunks) == maxChunks:
			return malformed(p.where, "the sizes of its gzip members do not fit each other")
		}
		var isize [4]byte
		if err := p.readAt(member, isize[:], at+int64(size)-4); err != nil {
			return err
		}
		if err := p.addChunk(at, plain, int64(size), int64(binary.LittleEndian.Uint32(isize[:]))); err != nil {
			return err
		}
		at += int64(size)
		plain += int64(binary.LittleEndian.Uint32(isize[:]))
	}
	p.chunks = append(p.chunks, chunk{offset: at, plain: plain})
	return nil
}

func (p *Payload) addChunk(at, plain, size, plainSize int64) error {
	if plainSize > maxChunk {
		return ErrNotSeekable // without spending the memory
	}
	if size <= 0 || plainSize <= 0 || size > plainSize+plainSize/64+1024 {
		return malformed(p.where, "chunk %d has an impossible size", len(p.chunks))
	}
	p.chunks = append(p.chunks, chunk{offset: at, plain: plain})
	return nil
}

// indexZstd reads the seek table at the end, and the checksums in front of it if they are there.
func (p *Payload) indexZstd(member *io.SectionReader) error {
	size := member.Size()
	var footer [seekFooter]byte
	if size < skippableHeader+seekFooter {
		return ErrNotSeekable
	}
	if err := p.readAt(member, footer[:], size-seekFooter); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(footer[5:]) != seekableMagic {
		return ErrNotSeekable
	}
	frames, entry := int64(binary.LittleEndian.Uint32(footer[:])), int64(8)
	if footer[4]&0x80 != 0 { // each entry has a checksum, which nobody needs
		entry = 12
	}
	start := size - seekFooter - entry*frames - skippableHeader
	if frames == 0 || frames > maxChunks || start < 0 || footer[4]&0x7c != 0 {
		return malformed(p.where, "its seek table is damaged")
	}
	table := make([]byte, skippableHeader+entry*frames)
	if err := p.readAt(member, table, start); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(table) != seekTableMagic ||
		int64(binary.LittleEndian.Uint32(table[4:])) != entry*frames+seekFooter {
		return malformed(p.where, "its seek table is damaged")
	}
	var at, plain int64
	for i := range frames {
		e := table[skippableHeader+entry*i:]
		compressed, unpacked := int64(binary.LittleEndian.Uint32(e)), int64(binary.LittleEndian.Uint32(e[4:]))
		if err := p.addChunk(at, plain, compressed, unpacked); err != nil {
			return err
		}
		at += compressed
		plain += unpacked
	}
	p.chunks = append(p.chunks, chunk{offset: at, plain: plain})
	return p.readSums(member, at, start)
}

// readSums reads the frame with the chunks' checksums, which is all that may be between the last chunk and the seek table.
func (p *Payload) readSums(member *io.SectionReader, at, end int64) error {
	if at == end {
		return nil
	}
	n := len(p.chunks) - 1
	content := len(sumTableMark) + n*sha256.Size
	if end-at != int64(skippableHeader+content) {
		return malformed(p.where, "its seek table does not fit its content")
	}
	table := make([]byte, skippableHeader+content)
	if err := p.readAt(member, table, at); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(table) != sumTableMagic || int(binary.LittleEndian.Uint32(table[4:])) != content ||
		string(table[skippableHeader:skippableHeader+len(sumTableMark)]) != sumTableMark {
		return malformed(p.where, "its seek table does not fit its content")
	}
	for i := range n {
		copy(p.chunks[i].sum[:], table[skippableHeader+len(sumTableMark)+i*sha256.Size:])
	}
	p.sums = true
	return nil
}

// findFiles goes through the headers in the payload archive.
func (p *Payload) findFiles(a *Reader) error {
	archive := io.NewSectionReader(p.plain, 0, p.chunks[len(p.chunks)-1].plain)
	for at := int64(0); ; {
		members := newTarReader(io.NewSectionReader(p.plain, at, archive.Size()-at), p.where)
		m, err := members.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := m.regular(); err != nil {
			return err
		}
		if a.manifest.sum(payloadPrefix+m.Name) == "" {
			return malformed(m.where, "the manifest does not list it")
		}
		if p.files[m.Name] != nil {
			return malformed(m.where, "it is there twice")
		}
		if m.Size > archive.Size()-at-m.data {
			return malformed(m.where, "it ends too early")
		}
		p.files[m.Name] = &PayloadSection{io.NewSectionReader(p.plain, at+m.data, m.Size)}
		a.fileDone(m.Name, m.Size)
		at += m.data + m.Size + padding(m.Size)
	}
	for _, f := range p.info.Files {
		if p.files[f.Name] == nil {
			return malformed(manifestName, "it lists %q, which is not in the artifact", payloadPrefix+f.Name)
		}
	}
	return nil
}

// chunkReader unpacks chunks, and keeps those that were used last.
type chunkReader struct {
	p      *Payload
	member io.ReaderAt
	base   int64 // of the member in the artifact

	mu     sync.Mutex
	decode func(*piece) error
	work   piece
	kept   []keptChunk // the one used last is first
}

type keptChunk struct {
	index int
	data  []byte
}

func (c *chunkReader) ReadAt(b []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	chunks := c.p.chunks
	i, exact := slices.BinarySearchFunc(chunks, off, func(ch chunk, off int64) int {
		switch {
		case ch.plain < off:
			return -1
		case ch.plain > off:
			return 1
		}
		return 0
	})
	if !exact {
		i--
	}
	n := 0
	for ; n < len(b); i++ {
		if i >= len(chunks)-1 {
			return n, io.EOF
		}
		data, err := c.get(i)
		if err != nil {
			return n, err
		}
		n += copy(b[n:], data[off+int64(n)-chunks[i].plain:])
	}
	return n, nil
}

// get returns an unpacked chunk, valid until the next call.
func (c *chunkReader) get(i int) ([]byte, error) {
	for k, kept := range c.kept {
		if kept.index == i {
			copy(c.kept[1:], c.kept[:k])
			c.kept[0] = kept
			return kept.data, nil
		}
	}
	this, next := c.p.chunks[i], c.p.chunks[i+1]
	size := int(next.plain - this.plain)
	w := &c.work
	w.size = size
	if n := int(next.offset - this.offset); cap(w.packed) < n {
		w.packed = make([]byte, n)
	} else {
		w.packed = w.packed[:n]
	}
	if err := c.p.readAt(c.member, w.packed, this.offset-c.base); err != nil {
		return nil, err
	}
	w.plain = make([]byte, 0, size)
	err := c.decode(w)
	if err == nil && len(w.plain) != size {
		err = errFrameSize
	}
	if err != nil {
		return nil, (&decompressor{compression: c.p.info.Compression, where: c.p.where}).damaged(err)
	}
	if c.p.sums && sha256.Sum256(w.plain) != this.sum {
		return nil, malformed(c.p.where, "chunk %d does not have the checksum that the artifact lists for it", i)
	}
	total := size
	for k, kept := range c.kept {
		if total += len(kept.data); total > keptBytes {
			c.kept = c.kept[:k]
			break
		}
	}
	c.kept = slices.Insert(c.kept, 0, keptChunk{i, w.plain})
	return w.plain, nil
}

// zstdDecoder unpacks frames whose size is known, in up to n goroutines at a time.
func zstdDecoder(n int, limits Limits) (func(p *piece) error, error) {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(n),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxWindow(limits.ZstdWindow))
	if err != nil {
		return nil, err
	}
	return func(p *piece) (err error) {
		p.plain, err = z.DecodeAll(p.packed, p.plain[:0])
		return err
	}, nil
}
