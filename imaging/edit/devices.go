package edit

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a list of devices.
const (
	MaxDevices    = 10000
	maxColumns    = 64
	maxDeviceList = 16 << 20
	maxValue      = 4096
)

// Devices is a table of what is different from device to device.
type Devices struct {
	Columns []string
	Rows    [][]string
}

// ListError says what is wrong with a list of devices.
type ListError struct {
	Name   string // of the file
	Line   int    // 0: it is about the whole
	Reason string
}

func (e *ListError) Error() string {
	if e.Line == 0 {
		return e.Name + ": " + e.Reason
	}
	return fmt.Sprintf("%s line %d: %s", e.Name, e.Line, e.Reason)
}

// Hint shows a correct one.
func (e *ListError) Hint() string {
	return "it is comma-separated, its first line names the columns: serial,mac"
}

var columnName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

// ReadDevices reads comma-separated values as RFC 4180 has them. The first line names the columns. No value is empty, so that no
// device gets half an identity.
func ReadDevices(r io.Reader, name string) (*Devices, error) {
	bad := func(line int, format string, args ...any) error {
		return &ListError{name, line, fmt.Sprintf(format, args...)}
	}
	text, err := io.ReadAll(io.LimitReader(r, maxDeviceList+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, plainCause(err))
	}
	if len(text) > maxDeviceList {
		return nil, bad(0, "more than %d bytes", maxDeviceList)
	}
	in := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff")))) // a mark that spreadsheets put there
	in.TrimLeadingSpace, in.ReuseRecord = true, false
	d := &Devices{}
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		var parse *csv.ParseError
		if errors.As(err, &parse) {
			return nil, bad(parse.Line, "%v", parse.Err)
		}
		if err != nil {
			return nil, err
		}
		line, _ := in.FieldPos(0)
		if d.Columns == nil {
			if err := checkColumns(row); err != nil {
				return nil, bad(line, "%v", err)
			}
			d.Columns = row
			continue
		}
		if len(d.Rows) == MaxDevices {
			return nil, bad(line, "more than %d devices", MaxDevices)
		}
		for i, value := range row {
			if row[i] = strings.TrimSpace(value); row[i] == "" {
				return nil, bad(line, "no value for %s", d.Columns[i])
			}
			if err := checkValue(row[i]); err != nil {
				return nil, bad(line, "%s: %v", d.Columns[i], err)
			}
		}
		d.Rows = append(d.Rows, row)
	}
	if len(d.Rows) == 0 {
		return nil, bad(0, "it lists no device")
	}
	return d, nil
}

// OneDevice is a table of one device, from NAME=VALUE.
func OneDevice(pairs []string) (*Devices, error) {
	d := &Devices{Rows: [][]string{nil}}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("%q is not NAME=VALUE", pair)
		}
		if err := checkValue(value); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		d.Columns, d.Rows[0] = append(d.Columns, name), append(d.Rows[0], value)
	}
	return d, checkColumns(d.Columns)
}

func checkColumns(names []string) error {
	if len(names) > maxColumns {
		return fmt.Errorf("%d columns; at most %d", len(names), maxColumns)
	}
	for i, name := range names {
		if names[i] = strings.TrimSpace(name); !columnName.MatchString(names[i]) {
			return fmt.Errorf("%q is no name for a column: letters, digits, _ and -", name)
		}
		if slices.Contains(names[:i], names[i]) {
			return fmt.Errorf("two columns %q", names[i])
		}
	}
	return nil
}

func checkValue(value string) error {
	switch {
	case len(value) > maxValue:
		return fmt.Errorf("more than %d bytes", maxValue)
	case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
		return errors.New("a character that cannot be printed")
	}
	return nil
}

// Value is that of a column in a row.
func (d *Devices) Value(row []string, column string) (string, error) {
	i := slices.Index(d.Columns, column)
	if i < 0 {
		return "", fmt.Errorf("there is no column %q; there are %s", column, strings.Join(d.Columns, ", "))
	}
	return row[i], nil
}

var placeholder = regexp.MustCompile(`\$?\{[A-Za-z_][A-Za-z0-9_-]*\}`)

// Expand puts the values of a row in the place of {column}. ${name} stays: it belongs to boot loaders and shells.
func (d *Devices) Expand(template string, row []string) (string, error) {
	var missing error
	out := placeholder.ReplaceAllStringFunc(template, func(text string) string {
		if text[0] == '$' {
			return text
		}
		value, err := d.Value(row, text[1:len(text)-1])
		if err != nil && missing == nil {
			missing = err
		}
		return value
	})
	return out, missing
}

var fileName = regexp.MustCompile(`^[A-Za-z0-9_+=@,-][A-Za-z0-9._+=@,-]{0,199}$`)

// ExpandName is Expand for the name of a file, which a value cannot lead out of its directory. Colons, as MAC addresses have
// them, become dashes: many programs take a name with one for that of another machine.
func (d *Devices) ExpandName(template string, row []string) (string, error) {
	name, err := d.Expand(template, row)
	if err != nil {
		return "", err
	}
	if name = strings.ReplaceAll(name, ":", "-"); !fileName.MatchString(name) {
		return "", fmt.Errorf("%q is no name for a file: letters, digits and . _ + = @ , -", name)
	}
	return name, nil
}

// ExpandPath is Expand for a path on the host: no value adds a directory to it or leads out of one.
func (d *Devices) ExpandPath(template string, row []string) (string, error) {
	safe := slices.Clone(row)
	for i, value := range safe {
		if strings.ContainsRune(value, '/') || strings.Trim(value, ".") == "" {
			safe[i] = "\x00"
		}
	}
	out, err := d.Expand(template, safe)
	if err == nil && strings.ContainsRune(out, 0) {
		return "", errors.New("a value with '/', or of dots alone, cannot be part of a path")
	}
	return out, err
}
