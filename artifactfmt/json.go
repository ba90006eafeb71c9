package artifactfmt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// checkJSON demands one JSON value without anything behind it, with valid UTF-8, not nested deeper than depth, and without
// keys that are the same after fold (readers disagree on which one counts).
func checkJSON(data []byte, depth int, fold func(string) string) error {
	if !utf8.Valid(data) {
		return errors.New("it is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	type level struct {
		keys    map[string]bool // nil in a list
		wantKey bool
	}
	var open []level
	for {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("it ends too early")
		case err != nil:
			return fmt.Errorf("it is not JSON: %w", err)
		}
		top := len(open) - 1
		delim, _ := token.(json.Delim)
		switch {
		case delim == '{' || delim == '[':
			if len(open) == depth {
				return fmt.Errorf("it is nested deeper than %d levels", depth)
			}
			if top >= 0 {
				open[top].wantKey = open[top].keys != nil
			}
			l := level{}
			if delim == '{' {
				l = level{keys: make(map[string]bool), wantKey: true}
			}
			open = append(open, l)
			continue
		case delim == '}' || delim == ']':
			open = open[:top]
		case top >= 0 && open[top].wantKey:
			key, _ := token.(string)
			if open[top].keys[fold(key)] {
				return fmt.Errorf("it has the key %q twice", key)
			}
			open[top].keys[fold(key)] = true
			open[top].wantKey = false
			continue
		case top >= 0:
			open[top].wantKey = open[top].keys != nil
		}
		if len(open) == 0 {
			break
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// foldCase makes keys the same that encoding/json and the C++ client match with the same field; sameCase keeps them apart, for
// JSON that is only carried.
func foldCase(key string) string { return strings.ToLower(strings.ToUpper(key)) }
func sameCase(key string) string { return key }

// compactObject checks that data is a JSON object and removes white space; all else, such as the digits of numbers, stays.
func compactObject(data []byte) ([]byte, error) {
	if len(data) > int(defaultLimits.JSON) {
		return nil, fmt.Errorf("it is larger than %d KiB", defaultLimits.JSON>>10)
	}
	if err := checkJSON(data, defaultLimits.Depth, sameCase); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	if b.Bytes()[0] != '{' {
		return nil, errors.New("it is not a JSON object")
	}
	return b.Bytes(), nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
