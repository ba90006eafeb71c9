package artifactfmt

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// A compressed payload is a sequence of frames (gzip members, xz streams, zstd frames) that are compressed independently of each
// other, each from a fixed number of bytes. So the cores can share the work, and the result doesn't depend on how many there are.
// All readers take such sequences (docs/artifact-format.md, "Compression").

// codec is a compression as it is written.
type codec struct {
	suffix    string
	frameSize int // bytes of input in a frame
	// newEncoder returns a function that appends src as one frame to dst. It is used by one goroutine; nil means that the bytes
	// are taken as they are.
	newEncoder func(level int) (func(dst, src []byte) ([]byte, error), error)
	// trailer, if set, makes what follows the last frame.
	trailer func(frames []frameSizes) []byte
	// chunkSums says that the trailer wants the checksums of frames.
	chunkSums bool
	// frameMemory is what an encoder takes, if that matters.
	frameMemory int
}

// frameSizes are the sizes of a frame, compressed and not, and the SHA-256 of what it was made from.
type frameSizes struct {
	compressed, plain int
	sum               [sha256.Size]byte
}

var codecs = map[Compression]codec{
	CompressionNone: {suffix: "", frameSize: 1 << 20},
	Gzip:            {suffix: ".gz", frameSize: 1 << 20, newEncoder: newGzipEncoder},
	XZ:              {suffix: ".xz", frameSize: 8 << 20, newEncoder: newXZEncoder},
	Zstd:            {suffix: ".zst", frameSize: 4 << 20, newEncoder: newZstdEncoder, trailer: zstdTrailer, chunkSums: true},
}

// codecFor returns the codec of a compression at a level.
func codecFor(c Compression, level int) codec {
	k := codecs[c]
	if c == XZ {
		k.frameSize = xzDictSize(level)
		k.frameMemory = 13 * k.frameSize
	}
	return k
}

// xzDictSize is the size of dictionary and frame at a level of xz, as xz(1) has them; 0 is the default.
func xzDictSize(level int) int {
	return [10]int{8, 1, 2, 4, 4, 8, 8, 16, 32, 64}[level] << 20
}

func newGzipEncoder(level int) (func(dst, src []byte) ([]byte, error), error) {
	if level == 0 {
		level = 6
	}
	w, err := gzip.NewWriterLevel(nil, level)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return func(dst, src []byte) ([]byte, error) {
		start := len(dst)
		b := bytes.NewBuffer(dst)
		w.Reset(b) // also sets the member's header to: no name, no time, unknown system
		w.Extra = gzipExtra
		if _, err := w.Write(src); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		member := b.Bytes()[start:]
		binary.LittleEndian.PutUint32(member[gzipHeaderSize-4:], uint32(len(member)))
		return b.Bytes(), nil
	}, nil
}

func newZstdEncoder(level int) (func(dst, src []byte) ([]byte, error), error) {
	if level == 0 {
		level = 3
	}
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(4<<20), // the frame: more would be memory that a device reserves for nothing
		zstd.WithEncoderCRC(true),
		zstd.WithZeroFrames(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return func(dst, src []byte) ([]byte, error) { return e.EncodeAll(src, dst), nil }, nil
}

func newXZEncoder(level int) (func(dst, src []byte) ([]byte, error), error) {
	config := xz.WriterConfig{DictCap: xzDictSize(level), CheckSum: xz.CRC64}
	return func(dst, src []byte) ([]byte, error) {
		b := bytes.NewBuffer(dst)
		w, err := config.NewWriter(b)
		if err != nil {
			return nil, fmt.Errorf("xz: %w", err)
		}
		if _, err := w.Write(src); err != nil {
			return nil, fmt.Errorf("xz: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("xz: %w", err)
		}
		// A writer can't be used again, and takes six times the dictionary. Frames cost seconds, a collection milliseconds.
		runtime.GC()
		return b.Bytes(), nil
	}, nil
}

func zstdTrailer(frames []frameSizes) []byte {
	return append(sumTable(frames), seekTable(frames)...)
}

// sumTable is a skippable frame with the SHA-256 of each frame's content. It is of this program alone:
//
//	magic number 0x184D2A5D, size of what follows, "TWKLSUM" and the version 1, for each frame 32 bytes
//
// It directly precedes the seek table, which has as many entries; the seek table does not list it.
func sumTable(frames []frameSizes) []byte {
	content := len(sumTableMark) + sha256.Size*len(frames)
	b := make([]byte, 0, skippableHeader+content)
	b = binary.LittleEndian.AppendUint32(b, sumTableMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(content))
	b = append(b, sumTableMark...)
	for _, f := range frames {
		b = append(b, f.sum[:]...)
	}
	return b
}

// seekTable is the skippable frame of the zstd seekable format, version 0.1.0 (facebook/zstd, contrib/seekable_format), without
// checksums: it says where each frame begins, so that a reader can fetch and unpack a part. Other decoders skip it.
func seekTable(frames []frameSizes) []byte {
	content := 8*len(frames) + seekFooter
	b := make([]byte, 0, skippableHeader+content)
	b = binary.LittleEndian.AppendUint32(b, seekTableMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(content))
	for _, f := range frames {
		b = binary.LittleEndian.AppendUint32(b, uint32(f.compressed))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.plain))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frames)))
	b = append(b, 0) // no checksums: 32 bits of XXH64 would prove nothing
	return binary.LittleEndian.AppendUint32(b, seekableMagic)
}
