package artifactfmt

import (
	"bytes"
	"encoding/binary"
	"fmt"

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
}

// frameSizes are the sizes of a frame, compressed and not.
type frameSizes struct{ compressed, plain int }

var codecs = map[Compression]codec{
	CompressionNone: {suffix: "", frameSize: 1 << 20},
	Gzip:            {suffix: ".gz", frameSize: 1 << 20, newEncoder: newGzipEncoder},
	XZ:              {suffix: ".xz", frameSize: xzFrame, newEncoder: newXZEncoder},
	Zstd:            {suffix: ".zst", frameSize: 4 << 20, newEncoder: newZstdEncoder, trailer: seekTable},
}

// xzFrame is also the dictionary: what a device needs as memory to unpack.
const xzFrame = 8 << 20

func newGzipEncoder(level int) (func(dst, src []byte) ([]byte, error), error) {
	if level == 0 {
		level = 6
	}
	w, err := gzip.NewWriterLevel(nil, level)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return func(dst, src []byte) ([]byte, error) {
		b := bytes.NewBuffer(dst)
		w.Reset(b) // also sets the member's header to: no name, no time, unknown system
		if _, err := w.Write(src); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
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

func newXZEncoder(int) (func(dst, src []byte) ([]byte, error), error) {
	config := xz.WriterConfig{DictCap: xzFrame, CheckSum: xz.CRC64}
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
		return b.Bytes(), nil
	}, nil
}

// seekTable is the skippable frame of the zstd seekable format, version 0.1.0 (facebook/zstd, contrib/seekable_format), without
// checksums: it says where each frame begins, so that a reader can fetch and unpack a part. Other decoders skip it.
func seekTable(frames []frameSizes) []byte {
	const (
		skippableMagic = 0x184D2A5E
		seekableMagic  = 0x8F92EAB1
		footerSize     = 9
	)
	content := 8*len(frames) + footerSize
	b := make([]byte, 0, 8+content)
	b = binary.LittleEndian.AppendUint32(b, skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(content))
	for _, f := range frames {
		b = binary.LittleEndian.AppendUint32(b, uint32(f.compressed))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.plain))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frames)))
	b = append(b, 0) // no checksums
	return binary.LittleEndian.AppendUint32(b, seekableMagic)
}
