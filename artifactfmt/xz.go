package artifactfmt

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"

	"github.com/ulikunitz/xz/lzma"
)

// xzReader reads the xz container (The .xz File Format, version 1.1.0) and leaves LZMA2 to ulikunitz/xz. That library reads the
// container too, but allocates whatever dictionary a file asks for, up to 4 GiB; here there is a limit. The checks of the
// blocks and the indexes are passed over: the manifest has the SHA-256 of what comes out.
type xzReader struct {
	in       *bufio.Reader
	dictCap  int64 // never more than this is allocated: more than comes out can't be referred to
	limit    int64 // what a file may ask for
	check    int64 // bytes of check behind each block of the current stream
	block    io.Reader
	started  int64 // bytes of the block's header and data
	consumed int64 // bytes of in that were read
	produced int64 // bytes that came out
	dicts    int64 // bytes of all dictionaries so far, each of which has to be cleared
	garbage  int64 // bytes of dictionaries since the last collection
	blocks   uint64
	open     bool // inside a stream
	err      error
}

const (
	minXZDictionary = 1 << 12
	maxXZDictRatio  = 64 // bytes of dictionaries for each byte that comes out; `xz -9 --block-size=1MiB` has it
)

var (
	errXZ           = errors.New("xz: the container is damaged")
	errXZDictionary = errors.New("xz: the dictionary is larger than allowed")
	errXZFilter     = errors.New("xz: a filter other than LZMA2")
)

func newXZReader(in *bufio.Reader, dictCap, limit int64) *xzReader {
	return &xzReader{in: in, dictCap: dictCap, limit: limit}
}

// ReadByte and rawReader.Read count what is consumed, to find the padding of blocks.
func (x *xzReader) readByte() (byte, error) {
	b, err := x.in.ReadByte()
	if err == nil {
		x.consumed++
	}
	return b, noEOF(err)
}

type xzSource struct{ x *xzReader }

func (s xzSource) Read(p []byte) (int, error) {
	n, err := s.x.in.Read(p)
	s.x.consumed += int64(n)
	return n, err
}

func (s xzSource) ReadByte() (byte, error) { return s.x.readByte() }

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (x *xzReader) Read(p []byte) (int, error) {
	for x.err == nil {
		if x.block == nil {
			x.err = x.next()
			continue
		}
		n, err := x.block.Read(p)
		x.produced += int64(n)
		if errors.Is(err, io.EOF) {
			x.block = nil
			err = x.endBlock()
		}
		x.err = err
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
	return 0, x.err
}

// next goes to the next block, through indexes, footers and headers of streams. io.EOF at the end.
func (x *xzReader) next() error {
	if !x.open {
		if err := x.startStream(); err != nil {
			return err
		}
	}
	x.started = x.consumed
	size, err := x.readByte()
	if err != nil {
		return err
	}
	if size == 0 {
		x.open = false
		return x.endStream()
	}
	return x.startBlock(size)
}

func (x *xzReader) full(n int64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(x.in, b); err != nil {
		return nil, noEOF(err)
	}
	x.consumed += n
	return b, nil
}

func crcFits(data, crc []byte) bool {
	return crc32.ChecksumIEEE(data) == binary.LittleEndian.Uint32(crc)
}

func (x *xzReader) startStream() error {
	first := x.consumed == 0
	for {
		start, err := x.in.Peek(4)
		if len(start) == 0 && errors.Is(err, io.EOF) && !first {
			return io.EOF
		}
		if err != nil {
			return noEOF(err)
		}
		if first || binary.LittleEndian.Uint32(start) != 0 {
			break
		}
		if _, err := x.full(4); err != nil { // stream padding
			return err
		}
	}
	h, err := x.full(12)
	if err != nil {
		return err
	}
	if string(h[:6]) != "\xfd7zXZ\x00" || h[6] != 0 || h[7] > 15 || !crcFits(h[6:8], h[8:]) {
		return errXZ
	}
	x.check = [16]int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[h[7]]
	x.open, x.blocks = true, 0
	return nil
}

func (x *xzReader) startBlock(size byte) error {
	rest, err := x.full(int64(size)*4 + 3)
	if err != nil {
		return err
	}
	h, crc := append([]byte{size}, rest[:len(rest)-4]...), rest[len(rest)-4:]
	if !crcFits(h, crc) {
		return errXZ
	}
	flags, fields := h[1], h[2:]
	if flags&0x3f != 0 { // more than one filter, or a flag that the format doesn't have
		return errXZFilter
	}
	dictCap := x.dictCap
	for _, present := range []byte{0x40, 0x80} { // sizes of the block, compressed and not
		if flags&present != 0 {
			size, n := binary.Uvarint(fields)
			if n <= 0 {
				return errXZ
			}
			fields = fields[n:]
			if present == 0x80 {
				dictCap = int64(min(uint64(dictCap), size))
			}
		}
	}
	if len(fields) < 3 {
		return errXZ
	}
	if fields[0] != 0x21 || fields[1] != 1 {
		return errXZFilter
	}
	declared, ok := xzDictionary(fields[2])
	if !ok {
		return errXZ
	}
	if declared > x.limit {
		return errXZDictionary
	}
	x.blocks++
	dictCap = max(min(declared, dictCap), minXZDictionary)
	// Blocks of a few bytes, each with the largest dictionary, would cost a device hours.
	if x.dicts += dictCap; x.dicts > 2*x.limit+maxXZDictRatio*x.produced {
		return errXZDictionary
	}
	// Each block takes a dictionary of its own. The collector alone would let the old ones pile up to twice the limit.
	if x.garbage += dictCap; x.garbage > x.limit {
		runtime.GC()
		x.garbage = dictCap
	}
	config := lzma.Reader2Config{DictCap: int(dictCap)}
	x.block, err = config.NewReader2(xzSource{x})
	return err
}

// xzDictionary decodes the size of a dictionary: 2 or 3 times a power of two.
func xzDictionary(bits byte) (int64, bool) {
	switch {
	case bits > 40:
		return 0, false
	case bits == 40:
		return 1<<32 - 1, true
	}
	return int64(2|bits&1) << (bits/2 + 11), true
}

func (x *xzReader) endBlock() error {
	if _, err := x.full(-(x.consumed - x.started) & 3); err != nil {
		return err
	}
	_, err := x.full(x.check)
	return err
}

// endStream reads the index and the footer.
func (x *xzReader) endStream() error {
	records, err := x.uvarint()
	if err != nil {
		return err
	}
	if records != x.blocks {
		return errXZ
	}
	for range 2 * records {
		if _, err := x.uvarint(); err != nil {
			return err
		}
	}
	if _, err := x.full(-(x.consumed-x.started)&3 + 4); err != nil { // padding and CRC
		return err
	}
	footer, err := x.full(12)
	if err != nil {
		return err
	}
	if string(footer[10:]) != "YZ" || !crcFits(footer[4:10], footer[:4]) {
		return errXZ
	}
	return nil
}

func (x *xzReader) uvarint() (uint64, error) {
	v, err := binary.ReadUvarint(xzSource{x})
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, errXZ
	}
	return v, err
}
