package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// checkJSON demands one JSON value in valid UTF-8 with nothing behind it, not nested deeper than depth, with no more values and
// keys in all than values, and no key twice in an object: readers disagree on which one counts.
func checkJSON(data []byte, depth, values int) error {
	if !utf8.Valid(data) {
		return errors.New("it is not valid UTF-8")
	}
	type level struct {
		keys    map[string]bool // nil in a list
		wantKey bool
	}
	var open []level
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	for count := 0; ; count++ {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("it ends too early")
		case err != nil:
			return fmt.Errorf("it is not JSON: %w", err)
		case count >= 2*values: // the end of a list or an object is a token, too
			return fmt.Errorf("it has more than %d values", values)
		}
		top := len(open) - 1
		key, isString := token.(string)
		switch token {
		case json.Delim('{'), json.Delim('['):
			if len(open) == depth {
				return fmt.Errorf("it is nested deeper than %d levels", depth)
			}
			l := level{}
			if token == json.Delim('{') {
				l = level{keys: make(map[string]bool), wantKey: true}
			}
			open = append(open, l)
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:top]
			top--
		default:
			if isString && top >= 0 && open[top].wantKey {
				if open[top].keys[key] {
					return fmt.Errorf("it has the key %s twice", short(key))
				}
				open[top].keys[key] = true
				open[top].wantKey = false
				continue
			}
		}
		if top < 0 { // the value is complete
			break
		}
		open[top].wantKey = open[top].keys != nil
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// object takes a JSON object apart by the exact names of its fields; encoding/json would take "Payload" for "payload".
func object(data []byte) (map[string]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, errors.New("null")
	}
	return fields, nil
}

// text returns a field that must be a string.
func text(fields map[string]json.RawMessage, name string) (string, error) {
	raw, ok := fields[name]
	if !ok {
		return "", fmt.Errorf("%s is missing", short(name))
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", fmt.Errorf("%s is not a string", short(name))
	}
	return *s, nil
}
