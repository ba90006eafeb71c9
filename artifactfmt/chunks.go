package artifactfmt

import "encoding/binary"

// What makes frames findable without unpacking what precedes them; see compress.go for who writes it.

const (
	skippableHeader = 8 // of a skippable frame of zstd: magic number, size
	skippableMin    = 0x184D2A50
	skippableMax    = 0x184D2A5F

	// The seek table of the zstd seekable format.
	seekTableMagic = 0x184D2A5E
	seekableMagic  = 0x8F92EAB1
	seekFooter     = 9

	// The table of checksums, see sumTable.
	sumTableMagic = 0x184D2A5D
	sumTableMark  = "TWKLSUM\x01"

	// gzipHeaderSize is the header of a gzip member with nothing but gzipExtra in it.
	gzipHeaderSize = 20
)

// gzipExtra is the extra field of a gzip member (RFC 1952, 2.3.1.1): the subfield "SZ" with the size of the member from its first
// byte to its last, little endian. Here it is zero, to be filled in.
var gzipExtra = []byte{'S', 'Z', 4, 0, 0, 0, 0, 0}

// gzipMemberSize returns the size that a member says at its start, if it does.
func gzipMemberSize(start []byte) (size int, ok bool) {
	const flags = "\x1f\x8b\x08\x04" // deflate, with an extra field and nothing else
	if len(start) < gzipHeaderSize || string(start[:4]) != flags || start[10] != byte(len(gzipExtra)) || start[11] != 0 ||
		string(start[12:16]) != string(gzipExtra[:4]) {
		return 0, false
	}
	n := binary.LittleEndian.Uint32(start[16:])
	return int(n), n >= gzipHeaderSize+10 && n < 1<<31-1
}
