package bootenv

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Location is where one copy of a U-Boot environment is stored: in a block device or a file.
type Location struct {
	Path   string
	Offset int64
	Size   int64
	Sector int64 // of flash, which fw_setenv erases at once; 0: none
}

func (l Location) String() string {
	return fmt.Sprintf("%s at offset 0x%x, %d bytes", l.Path, l.Offset, l.Size)
}

// end is the first byte after the copy.
func (l Location) end() int64 { return l.Offset + l.Size }

// ConfigError is a mistake in a fw_env.config.
type ConfigError struct {
	Line   int // 0 when it is about the whole file
	Reason string
}

func (e *ConfigError) Error() string {
	if e.Line == 0 {
		return "fw_env.config: " + e.Reason
	}
	return fmt.Sprintf("fw_env.config line %d: %s", e.Line, e.Reason)
}

// Hint shows a correct line.
func (e *ConfigError) Hint() string {
	return "a line is `device offset size`, one line for each copy, for example `/dev/mmcblk0 0x800000 0x20000`"
}

const maxConfigSize = 64 << 10

// ParseFwEnvConfig reads a fw_env.config: one line (a single environment) or two (a redundant one), each
// `device offset size [sector-size [sectors]]`; '#' begins a comment.
//
// The numbers are read as fw_printenv reads them: the offset in C notation (0x800000, 8388608), but the size and what
// follows as hexadecimal with or without 0x, so that `16384` means 0x16384 in both. Offsets counted from the end of the
// device (negative ones) are refused: a wrong guess about the device's size would write into somebody's data.
func ParseFwEnvConfig(r io.Reader) ([]Location, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxConfigSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading fw_env.config: %w", err)
	}
	if len(text) > maxConfigSize {
		return nil, &ConfigError{0, fmt.Sprintf("more than %d bytes", maxConfigSize)}
	}
	var locs []Location
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxConfigSize+1)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		loc, err := parseConfigLine(fields)
		if err != nil {
			return nil, &ConfigError{n, err.Error()}
		}
		if len(locs) == 2 {
			return nil, &ConfigError{n, "a third location; U-Boot keeps at most two copies"}
		}
		locs = append(locs, loc)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading fw_env.config: %w", err)
	}
	if len(locs) == 0 {
		return nil, &ConfigError{0, "no location in it"}
	}
	return locs, nil
}

func parseConfigLine(fields []string) (Location, error) {
	if len(fields) < 3 || len(fields) > 5 {
		return Location{}, fmt.Errorf("%d fields instead of 3 to 5", len(fields))
	}
	// Base 0 would also take Go's 0b, 0o and _ forms, which strtoll does not know.
	if strings.ContainsAny(fields[1], "_oObB") && !strings.HasPrefix(strings.ToLower(fields[1]), "0x") {
		return Location{}, fmt.Errorf("%q is no offset", fields[1])
	}
	offset, err := strconv.ParseInt(fields[1], 0, 64)
	switch {
	case err != nil:
		return Location{}, fmt.Errorf("%q is no offset", fields[1])
	case offset < 0:
		return Location{}, fmt.Errorf("offset %s counts from the end of the device, which is not supported", fields[1])
	}
	for i, what := range []string{"size", "sector size", "number of sectors"} {
		if 2+i >= len(fields) {
			break
		}
		if _, err := parseHex(fields[2+i]); err != nil {
			return Location{}, fmt.Errorf("%q is no %s (hexadecimal)", fields[2+i], what)
		}
	}
	size, _ := parseHex(fields[2])
	loc := Location{Path: fields[0], Offset: offset, Size: size} // Sector matters to whoever erases, which nobody does here
	return loc, loc.check()
}

func parseHex(s string) (int64, error) {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "0x"), "0X")
	n, err := strconv.ParseUint(s, 16, 63)
	return int64(n), err
}

func (l Location) check() error {
	switch {
	case l.Path == "":
		return errors.New("no device")
	case l.Offset < 0:
		return fmt.Errorf("offset %d is negative", l.Offset)
	case l.Size < 16 || l.Size > MaxUBootSize:
		return fmt.Errorf("%d (0x%x) bytes is no size for an environment (16 to %d)", l.Size, l.Size, MaxUBootSize)
	case l.Offset > math.MaxInt64-l.Size:
		return fmt.Errorf("offset %d is too large", l.Offset)
	}
	return nil
}

// FormatFwEnvConfig writes a fw_env.config that both this package and fw_printenv read as locs.
func FormatFwEnvConfig(locs []Location) []byte {
	var b bytes.Buffer
	b.WriteString("# device offset size\n")
	for _, l := range locs {
		fmt.Fprintf(&b, "%s 0x%x 0x%x", l.Path, l.Offset, l.Size)
		if l.Sector > 0 {
			fmt.Fprintf(&b, " 0x%x", l.Sector)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}
