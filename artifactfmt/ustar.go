package artifactfmt

import (
	"fmt"
	"strconv"
	"time"
)

// The tar headers that are written (POSIX.1-1988 ustar): mode 0600, no owner, one time for all. archive/tar's writer
// isn't used because the header of the payload member is written before its size is known, and because these bytes must
// never change with the version of a library. Reading is archive/tar's job.

const (
	blockSize    = 512
	maxUstarSize = 1<<33 - 1 // eleven octal digits
	maxPAXSize   = 1 << 50   // beyond any medium; keeps sums of sizes far from overflow
)

// tarEnd is the end of every tar archive.
var tarEnd = make([]byte, 2*blockSize)

func padding(size int64) int64 { return -size & (blockSize - 1) }

// memberSize is what a member takes in an archive: header, content and padding.
func memberSize(size int64) int64 { return tarHeaderSize(size) + size + padding(size) }

// tarHeaderSize is the number of bytes that tarHeader gives for a member of this size.
func tarHeaderSize(size int64) int64 {
	if size > maxUstarSize {
		return 3 * blockSize
	}
	return blockSize
}

// tarHeader encodes the header of a regular file. A size that ustar can't hold goes into a PAX extended header
// (POSIX.1-2001) before it.
func tarHeader(name string, size int64, mtime time.Time) []byte {
	if size <= maxUstarSize {
		return ustarBlock(name, '0', size, mtime)
	}
	return paxSizeHeader(name, size, mtime)
}

func paxSizeHeader(name string, size int64, mtime time.Time) []byte {
	record := paxRecord("size", strconv.FormatInt(size, 10))
	header := ustarBlock("PaxHeaders.0/size", 'x', int64(len(record)), mtime)
	header = append(header, record...)
	header = append(header, make([]byte, padding(int64(len(record))))...)
	return append(header, ustarBlock(name, '0', min(size, maxUstarSize), mtime)...)
}

// paxRecord is "LENGTH KEY=VALUE\n", where LENGTH counts itself too.
func paxRecord(key, value string) string {
	rest := len(" " + key + "=" + value + "\n")
	length := rest + 1
	for rest+len(strconv.Itoa(length)) != length {
		length = rest + len(strconv.Itoa(length))
	}
	return fmt.Sprintf("%d %s=%s\n", length, key, value)
}

func ustarBlock(name string, kind byte, size int64, mtime time.Time) []byte {
	seconds := min(max(mtime.Unix(), 0), maxUstarSize)
	b := make([]byte, blockSize)
	copy(b[0:100], name)
	copy(b[100:], "0000600\x00") // mode
	copy(b[108:], "0000000\x00") // uid
	copy(b[116:], "0000000\x00") // gid
	copy(b[124:], fmt.Sprintf("%011o\x00", size))
	copy(b[136:], fmt.Sprintf("%011o\x00", seconds))
	copy(b[148:], "        ") // the checksum counts its own field as blanks
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	copy(b[329:], "0000000\x00") // device major
	copy(b[337:], "0000000\x00") // device minor
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// appendMember appends a whole small file to an archive.
func appendMember(archive []byte, name string, content []byte, mtime time.Time) []byte {
	size := int64(len(content))
	archive = append(archive, tarHeader(name, size, mtime)...)
	archive = append(archive, content...)
	return append(archive, make([]byte, padding(size))...)
}
