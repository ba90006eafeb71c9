package bootenv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
)

// MaxUBootSize is the largest environment that is read or written. Real ones have 8 KiB to 256 KiB.
const MaxUBootSize = 16 << 20

// ErrChecksum says that a block is no U-Boot environment, or a damaged one.
var ErrChecksum = errors.New("the checksum is wrong")

// A U-Boot environment is a little-endian CRC32 (IEEE), in the redundant form then one byte that says which of the two
// copies is newer, then NAME=VALUE strings, each ended by NUL, the last followed by another NUL. The checksum covers
// all bytes after the header, padding too, but not the flag byte.
func ubootHeader(redundant bool) int {
	if redundant {
		return 5
	}
	return 4
}

// EncodeUBoot makes an environment block of size bytes, padded with zeros as U-Boot's saveenv does. The flag is only
// stored in the redundant form; the first copy that mkenvimage makes has flag 1. Variables are sorted by name, so that the same
// variables give the same bytes.
func EncodeUBoot(vars map[string]string, size int, redundant bool, flag byte) ([]byte, error) {
	header := ubootHeader(redundant)
	if size <= header+1 || size > MaxUBootSize {
		return nil, fmt.Errorf("%d bytes is no size for a U-Boot environment (%d to %d)", size, header+2, MaxUBootSize)
	}
	need := header + 1
	for name, value := range vars {
		need += len(name) + 1 + len(value) + 1
	}
	if len(vars) == 0 {
		need++ // an empty environment is two NULs to readers that look for the end
	}
	if need > size {
		return nil, &SizeError{Need: need, Size: size}
	}
	block := make([]byte, header, size)
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		// Names that came with a valid block may be stranger than those that Update lets in, but must stay names.
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return nil, &VarError{name, "a name must not be empty and not contain '=' or NUL"}
		}
		if err := checkValue(name, vars[name]); err != nil {
			return nil, err
		}
		block = append(block, name...)
		block = append(block, '=')
		block = append(block, vars[name]...)
		block = append(block, 0)
	}
	block = block[:size]
	if redundant {
		block[4] = flag
	}
	binary.LittleEndian.PutUint32(block, crc32.ChecksumIEEE(block[header:]))
	return block, nil
}

// DecodeUBoot reads an environment block and returns its variables and, in the redundant form, its flag. A block whose
// checksum is wrong gives [ErrChecksum]. As in U-Boot, strings without '=' are skipped and of two variables with one
// name the later counts.
func DecodeUBoot(block []byte, redundant bool) (map[string]string, byte, error) {
	header := ubootHeader(redundant)
	if len(block) <= header+1 || len(block) > MaxUBootSize {
		return nil, 0, fmt.Errorf("%d bytes is no size for a U-Boot environment (%d to %d)", len(block), header+2, MaxUBootSize)
	}
	if binary.LittleEndian.Uint32(block) != crc32.ChecksumIEEE(block[header:]) {
		return nil, 0, ErrChecksum
	}
	vars := make(map[string]string)
	for data := block[header:]; len(data) > 0 && data[0] != 0; {
		entry, rest, _ := bytes.Cut(data, []byte{0})
		data = rest
		if name, value, ok := strings.Cut(string(entry), "="); ok && name != "" {
			vars[name] = value
		}
	}
	if !redundant {
		return vars, 0, nil
	}
	return vars, block[4], nil
}

// newer tells which of two valid copies counts: the one with the higher flag, where 0 comes after 255, and the first
// when both are equal (env_check_redund in U-Boot's env/common.c).
func newer(flag1, flag2 byte) int {
	switch {
	case flag1 == 255 && flag2 == 0:
		return 1
	case flag1 == 0 && flag2 == 255:
		return 0
	case flag2 > flag1:
		return 1
	default:
		return 0
	}
}
