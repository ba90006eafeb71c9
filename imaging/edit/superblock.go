package edit

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"

	"github.com/twinkeel/twinkeel/imaging"
)

// The fields of an ext4 superblock that are looked at or set here (the kernel's Documentation/filesystems/ext4/super.rst).
const (
	superSize        = 1024 // also where the first one is
	superBlocks      = 0x4
	superFirstBlock  = 0x14
	superBlockShift  = 0x18
	superPerGroup    = 0x20
	superWritten     = 0x30
	superMagic       = 0x38
	superLastCheck   = 0x40
	superGroup       = 0x5a // of this copy
	superIncompat    = 0x60
	superROCompat    = 0x64
	superUUID        = 0x68
	superKBytes      = 0x178
	superSum         = 0x3fc
	incompatRecover  = 0x4
	roSparseSuper    = 0x1
	roMetadataSum    = 0x400
	ext4Magic        = 0xef53
	maxExt4PerGroup  = 8 * 65536
	maxExt4BlockBits = 6
)

// ext4Super is what of a superblock is looked at.
type ext4Super struct {
	// written is the time of the last change, in seconds. What is done now gets the same, so that the same change of the same
	// image gives the same bytes, and no time is in the future of another.
	written       int64
	kbytes        uint64 // written in its lifetime
	needsRecovery bool   // the journal has changes that are not in their places
}

func (im *Image) ext4Super(r imaging.Region) (s ext4Super, err error) {
	b := make([]byte, superSize)
	if _, err := im.file().ReadAt(b, r.Offset+superSize); err != nil {
		return s, plainCause(err)
	}
	le := binary.LittleEndian
	return ext4Super{
		written: max(int64(le.Uint32(b[superWritten:])), 1), kbytes: le.Uint64(b[superKBytes:]),
		needsRecovery: le.Uint32(b[superIncompat:])&incompatRecover != 0,
	}, nil
}

// setTimes sets back, in a file that is an ext4 which was just checked, what resize2fs notes in every copy of the superblock
// whatever time it is told.
func (s ext4Super) setTimes(f *os.File) error {
	first := make([]byte, superSize)
	if _, err := f.ReadAt(first, superSize); err != nil {
		return err
	}
	le := binary.LittleEndian
	shift, perGroup := le.Uint32(first[superBlockShift:]), int64(le.Uint32(first[superPerGroup:]))
	if shift > maxExt4BlockBits || perGroup < 1 || perGroup > maxExt4PerGroup {
		return nil // e2fsck would not have let it pass
	}
	size := int64(1024) << shift
	sparse := le.Uint32(first[superROCompat:])&roSparseSuper != 0
	blocks, at := int64(le.Uint32(first[superBlocks:])), int64(le.Uint32(first[superFirstBlock:]))
	b := make([]byte, superSize)
	for group := int64(0); at < blocks; group, at = group+1, at+perGroup {
		off := at * size
		switch {
		case group == 0:
			off = superSize
		case sparse && !imaging.HasSuperblock(group):
			continue
		}
		if _, err := f.ReadAt(b, off); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if le.Uint16(b[superMagic:]) != ext4Magic || int64(le.Uint16(b[superGroup:])) != group || string(b[superUUID:][:16]) != string(first[superUUID:][:16]) {
			continue
		}
		le.PutUint32(b[superWritten:], uint32(s.written))
		le.PutUint32(b[superLastCheck:], uint32(s.written))
		le.PutUint64(b[superKBytes:], s.kbytes)
		if le.Uint32(b[superROCompat:])&roMetadataSum != 0 {
			le.PutUint32(b[superSum:], ^crc32.Checksum(b[:superSum], crc32.MakeTable(crc32.Castagnoli)))
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
	}
	return nil
}
