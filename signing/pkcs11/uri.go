// Package pkcs11 reads the URIs that name keys in PKCS #11 tokens (RFC 7512).
package pkcs11

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// URI names a private key in a token, and the module that reaches the token (RFC 7512).
type URI struct {
	Token, Serial, Manufacturer, Model string
	SlotID                             *uint
	Object                             string
	ID                                 []byte
	ModulePath                         string
	PINSource                          string // a path, or ""
}

// maxURI is longer than any sensible URI.
const maxURI = 4 << 10

// Parse reads a PKCS #11 URI. What would be ignored is refused instead: a URI that is understood by half names another key than its
// author thinks.
func Parse(text string) (*URI, error) {
	rest, ok := strings.CutPrefix(text, "pkcs11:")
	if !ok {
		return nil, fmt.Errorf("it is not of the scheme pkcs11")
	}
	if len(text) > maxURI {
		return nil, fmt.Errorf("it is longer than %d KiB", maxURI>>10)
	}
	path, query, _ := strings.Cut(rest, "?")
	u := &URI{}
	seen := map[string]bool{}
	if err := eachAttribute(path, ";", seen, u.setPath); err != nil {
		return nil, err
	}
	if err := eachAttribute(query, "&", seen, u.setQuery); err != nil {
		return nil, err
	}
	if u.Object == "" && u.ID == nil {
		return nil, fmt.Errorf("it names no key: object=LABEL or id=%%01 is missing")
	}
	return u, nil
}

func eachAttribute(text, separator string, seen map[string]bool, set func(name, value string) error) error {
	for part := range strings.SplitSeq(text, separator) {
		if part == "" {
			continue
		}
		name, escaped, ok := strings.Cut(part, "=")
		if !ok {
			return fmt.Errorf("it has a part without =")
		}
		value, err := url.PathUnescape(escaped)
		if err != nil {
			return fmt.Errorf("the value of %s has a bad %%", attribute(name))
		}
		if seen[name] {
			return fmt.Errorf("it has %s twice", attribute(name))
		}
		seen[name] = true
		if err := set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// attribute keeps a name that is none out of messages.
func attribute(name string) string {
	if len(name) > 32 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return "an attribute"
	}
	return name
}

func (u *URI) setPath(name, value string) error {
	switch name {
	case "token":
		u.Token = value
	case "serial":
		u.Serial = value
	case "manufacturer":
		u.Manufacturer = value
	case "model":
		u.Model = value
	case "object":
		u.Object = value
	case "id":
		u.ID = []byte(value)
		if value == "" {
			return fmt.Errorf("its id is empty")
		}
	case "slot-id":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return fmt.Errorf("its slot-id is not a number")
		}
		slot := uint(n)
		u.SlotID = &slot
	case "type":
		if value != "private" {
			return fmt.Errorf("its type must be private, or left out")
		}
	case "pin-value", "pin-source", "module-path":
		return fmt.Errorf("%s belongs behind the question mark", name)
	default:
		return fmt.Errorf("%s is not understood; token, serial, manufacturer, model, slot-id, object, id and type are", attribute(name))
	}
	return nil
}

func (u *URI) setQuery(name, value string) error {
	switch name {
	case "module-path":
		if !filepath.IsAbs(value) {
			return fmt.Errorf("its module-path must be the absolute path of a shared library")
		}
		u.ModulePath = value
	case "pin-source":
		path := strings.TrimPrefix(value, "file:")
		if strings.HasPrefix(path, "//") {
			path = strings.TrimPrefix(strings.TrimPrefix(path, "//"), "localhost")
		}
		if strings.HasPrefix(value, "|") || path == "" || strings.Contains(path, "://") {
			return fmt.Errorf("its pin-source must be a file: pin-source=file:/PATH")
		}
		u.PINSource = path
	case "pin-value":
		return fmt.Errorf("a PIN in the URI would be seen by everyone who sees the command line or the configuration")
	default:
		return fmt.Errorf("%s is not understood; module-path and pin-source are", attribute(name))
	}
	return nil
}

// String is the URI without the source of the PIN, for messages.
func (u *URI) String() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+strings.NewReplacer(";", "%3B", "?", "%3F", "&", "%26").Replace(url.PathEscape(value)))
		}
	}
	add("token", u.Token)
	add("serial", u.Serial)
	add("manufacturer", u.Manufacturer)
	add("model", u.Model)
	if u.SlotID != nil {
		add("slot-id", strconv.FormatUint(uint64(*u.SlotID), 10))
	}
	add("object", u.Object)
	if u.ID != nil {
		var id strings.Builder
		for _, b := range u.ID {
			fmt.Fprintf(&id, "%%%02X", b)
		}
		parts = append(parts, "id="+id.String())
	}
	return "pkcs11:" + strings.Join(parts, ";")
}
