package bootenv

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// GRUBSize is the size of every GRUB environment block.
const GRUBSize = 1024

const grubSignature = "# GRUB Environment Block\n"

// ErrGRUBBlock says that a block is no GRUB environment block.
var ErrGRUBBlock = errors.New("not a GRUB environment block")

// EncodeGRUB makes an environment block: the signature line, NAME=VALUE lines sorted by name with backslash and newline
// escaped by a backslash, and '#' up to 1024 bytes. There is no checksum.
func EncodeGRUB(vars map[string]string) ([]byte, error) {
	return encodeGRUB(grubSignature, vars)
}

// encodeGRUB puts vars behind a preamble: the signature and comments that a newer grub-editenv writes below it. They
// are kept because the lock files of grub-mender-grubenv are compared by their hash.
func encodeGRUB(preamble string, vars map[string]string) ([]byte, error) {
	block := []byte(preamble)
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if err := checkName(name); err != nil {
			return nil, err
		}
		if err := checkValue(name, vars[name]); err != nil {
			return nil, err
		}
		block = append(block, name...)
		block = append(block, '=')
		for _, c := range []byte(vars[name]) {
			if c == '\\' || c == '\n' {
				block = append(block, '\\')
			}
			block = append(block, c)
		}
		block = append(block, '\n')
	}
	if len(block) > GRUBSize {
		return nil, &SizeError{Need: len(block), Size: GRUBSize}
	}
	return append(block, bytes.Repeat([]byte{'#'}, GRUBSize-len(block))...), nil
}

// DecodeGRUB reads the variables of an environment block. A block that GRUB would not take gives [ErrGRUBBlock].
func DecodeGRUB(block []byte) (map[string]string, error) {
	_, vars, err := decodeGRUB(block)
	return vars, err
}

func decodeGRUB(block []byte) (preamble string, vars map[string]string, err error) {
	if len(block) != GRUBSize {
		return "", nil, fmt.Errorf("%w: %d bytes instead of %d", ErrGRUBBlock, len(block), GRUBSize)
	}
	rest, ok := strings.CutPrefix(string(block), grubSignature)
	if !ok {
		return "", nil, fmt.Errorf("%w: the first line is not %q", ErrGRUBBlock, strings.TrimSpace(grubSignature))
	}
	preamble = grubSignature
	vars = make(map[string]string)
	for rest != "" {
		if rest[0] == '#' {
			line, after, ok := strings.Cut(rest, "\n")
			if !ok {
				break // the padding
			}
			if len(vars) == 0 {
				preamble += line + "\n"
			}
			rest = after
			continue
		}
		name, value, after, ok := cutGRUBLine(rest)
		if !ok {
			return "", nil, fmt.Errorf("%w: a line without end", ErrGRUBBlock)
		}
		if name != "" {
			vars[name] = value
		}
		rest = after
	}
	return preamble, vars, nil
}

// cutGRUBLine splits NAME=VALUE and undoes the escapes. A line without '=' has no name and is skipped, as GRUB does.
func cutGRUBLine(s string) (name, value, rest string, ok bool) {
	var line strings.Builder
	equals := -1
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && equals >= 0 && i+1 < len(s):
			i++
			line.WriteByte(s[i])
		case c == '\n':
			text := line.String()
			if equals < 0 {
				return "", "", s[i+1:], true
			}
			return text[:equals], text[equals+1:], s[i+1:], true
		default:
			if c == '=' && equals < 0 {
				equals = line.Len()
			}
			line.WriteByte(c)
		}
	}
	return "", "", "", false
}
