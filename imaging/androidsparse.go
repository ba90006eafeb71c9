package imaging

import (
	"bytes"
	"encoding/binary"
	"os"
)

// The Android sparse image format, version 1.0, is that of AOSP's libsparse (sparse_format.h); its simg2img decides.
// A file header of 28 bytes is followed by chunks, each with a header of 12.
const (
	androidMagic     = 0xed26ff3a
	androidHeader    = 28
	androidChunk     = 12
	androidRaw       = 0xcac1
	androidFill      = 0xcac2 // one word of 4 bytes, over and over
	androidDontCare  = 0xcac3
	androidMaxBlocks = 1 << 14 // of a chunk that holds bytes; fastboot keeps one in memory
	androidMaxCount  = 1<<32 - 1
)

// androidSparse writes an image for fastboot. "Don't care" leaves old bytes on the medium, so it is used exactly where a
// block map would have nothing; other blocks of zeros are filled.
type androidSparse struct {
	out    *os.File
	blocks int64
	must   *blockSet
	at     int64 // where the next byte of the file goes

	kind   uint16
	word   [4]byte // of a fill
	count  int64   // blocks of the open chunk
	start  int64   // of its header
	chunks uint32
}

func newAndroidSparse(out *os.File, size int64, must *blockSet) *androidSparse {
	return &androidSparse{out: out, blocks: size / blockSize, must: must, at: androidHeader}
}

func (a *androidSparse) put(w *window) error {
	for off := w.off; off < w.off+w.size; off += windowSize {
		size := min(windowSize, w.off+w.size-off)
		must := a.must.word(off / windowSize)
		if w.data == nil {
			err := runs(must, off, size, func(start, end int64, must bool) error { return a.zeros((end-start)/blockSize, must) })
			if err != nil {
				return err
			}
			continue
		}
		for at := off; at < off+size; at += blockSize {
			bit := (at - off) / blockSize
			if err := a.block(w.slice(at, at+blockSize), w.nonzero>>bit&1 == 1, must>>bit&1 == 1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *androidSparse) zeros(blocks int64, must bool) error {
	if must {
		return a.chunk(androidFill, [4]byte{}, blocks, nil)
	}
	return a.chunk(androidDontCare, [4]byte{}, blocks, nil)
}

func (a *androidSparse) block(b []byte, nonzero, must bool) error {
	switch {
	case !nonzero:
		return a.zeros(1, must)
	case bytes.Equal(b[4:], b[:len(b)-4]):
		return a.chunk(androidFill, [4]byte(b), 1, nil)
	}
	return a.chunk(androidRaw, [4]byte{}, 1, b)
}

// chunk adds blocks to the open chunk if they are of its kind, or begins another.
func (a *androidSparse) chunk(kind uint16, word [4]byte, blocks int64, data []byte) error {
	for blocks > 0 {
		limit := int64(androidMaxCount)
		if kind == androidRaw {
			limit = androidMaxBlocks
		}
		if a.count == 0 || kind != a.kind || word != a.word || a.count >= limit {
			if err := a.end(); err != nil {
				return err
			}
			a.kind, a.word, a.start = kind, word, a.at
			a.at += androidChunk
			if kind == androidFill {
				a.at += 4
			}
		}
		n := min(blocks, limit-a.count)
		a.count += n
		blocks -= n
		if kind == androidRaw {
			if _, err := a.out.WriteAt(data, a.at); err != nil {
				return err
			}
			a.at += int64(len(data))
		}
	}
	return nil
}

// end writes the header of the open chunk, now that its size is known.
func (a *androidSparse) end() error {
	if a.count == 0 {
		return nil
	}
	b := binary.LittleEndian.AppendUint16(nil, a.kind)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(a.count))
	size := int64(androidChunk)
	switch a.kind {
	case androidRaw:
		size += a.count * blockSize
	case androidFill:
		size += 4
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	if a.kind == androidFill {
		b = append(b, a.word[:]...)
	}
	a.count = 0
	a.chunks++
	_, err := a.out.WriteAt(b, a.start)
	return err
}

func (a *androidSparse) finish() error {
	if err := a.end(); err != nil {
		return err
	}
	le := binary.LittleEndian
	b := le.AppendUint32(nil, androidMagic)
	for _, n := range []uint16{1, 0, androidHeader, androidChunk} {
		b = le.AppendUint16(b, n)
	}
	// No checksum of the whole: readers ignore it, and it would be a CRC of every zero.
	for _, n := range []uint32{blockSize, uint32(a.blocks), a.chunks, 0} {
		b = le.AppendUint32(b, n)
	}
	_, err := a.out.WriteAt(b, 0)
	return err
}
