package unpack

import (
	"encoding/binary"
	"errors"
	"io"
)

// lz4Frames passes an lz4 stream on and looks that every frame is whole: the decoder takes the end of the data between two
// blocks for the end of the frame. A legacy frame has no end mark, so there only a cut within a block is seen.
type lz4Frames struct {
	r       io.Reader
	pending []byte // read to know what comes, and not passed on yet
	left    int64  // bytes of the present block
	inFrame bool   // of the present kind, in which blocks follow
	legacy  bool
	blockCk int64 // bytes of a checksum after each block
	frameCk int64 // and after the frame
	err     error
}

const (
	lz4Magic       = 0x184D2204
	lz4LegacyMagic = 0x184C2102
	lz4Skippable   = 0x184D2A50 // to ...5F
)

var errLz4 = errors.New("no lz4 frame")

// Read implements [io.Reader].
func (l *lz4Frames) Read(p []byte) (int, error) {
	for len(p) > 0 {
		switch {
		case len(l.pending) > 0:
			n := copy(p, l.pending)
			l.pending = l.pending[n:]
			return n, nil
		case l.left > 0:
			n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
			l.left -= int64(n)
			if errors.Is(err, io.EOF) {
				err = nil
				if l.left > 0 {
					err = io.ErrUnexpectedEOF
				}
			}
			return n, err
		case l.err != nil:
			return 0, l.err
		}
		l.err = l.next()
	}
	return 0, nil
}

// next reads the size of a block or the header of a frame.
func (l *lz4Frames) next() error {
	word, err := l.take(4)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF) && l.inFrame && !l.legacy:
		return io.ErrUnexpectedEOF
	default:
		return err
	}
	value := binary.LittleEndian.Uint32(word)
	switch {
	case l.inFrame && l.legacy && value != lz4LegacyMagic && value != lz4Magic:
		l.left = int64(value)
		return nil
	case l.inFrame && !l.legacy && value == 0: // end mark
		l.inFrame, l.left = false, l.frameCk
		return nil
	case l.inFrame && !l.legacy:
		l.left = int64(value&0x7fffffff) + l.blockCk
		return nil
	}
	return l.frame(value)
}

// frame reads the header of a frame, whose magic number is known.
func (l *lz4Frames) frame(magic uint32) error {
	switch {
	case magic == lz4LegacyMagic:
		l.inFrame, l.legacy = true, true
		return nil
	case magic&^0xf == lz4Skippable:
		size, err := l.rest(4)
		if err != nil {
			return err
		}
		l.inFrame, l.left = false, int64(binary.LittleEndian.Uint32(size))
		return nil
	case magic != lz4Magic:
		return errLz4
	}
	descriptor, err := l.rest(2)
	if err != nil {
		return err
	}
	flags := descriptor[0]
	l.inFrame, l.legacy, l.blockCk, l.frameCk, l.left = true, false, 0, 0, 1 // the header's checksum
	if flags&0x10 != 0 {
		l.blockCk = 4
	}
	if flags&0x04 != 0 {
		l.frameCk = 4
	}
	if flags&0x08 != 0 {
		l.left += 8 // size of the content
	}
	if flags&0x01 != 0 {
		l.left += 4 // number of a dictionary
	}
	return nil
}

// take reads n bytes that will be passed on.
func (l *lz4Frames) take(n int) ([]byte, error) {
	buf := make([]byte, n)
	if _, err := io.ReadFull(l.r, buf); err != nil {
		return nil, err
	}
	l.pending = append(l.pending, buf...)
	return buf, nil
}

// rest is take within a header.
func (l *lz4Frames) rest(n int) ([]byte, error) {
	buf, err := l.take(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return buf, err
}
