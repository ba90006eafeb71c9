package edit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// withIdentity sets Identity in the section "Twinkeel" of a mender.conf. All else stays, in its order.
func withIdentity(config []byte, identity map[string]string) ([]byte, error) {
	top, err := parseObject(config)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(identity)
	if err != nil {
		return nil, err
	}
	own, err := parseObject(top.get("Twinkeel"))
	if err != nil {
		return nil, fmt.Errorf("section Twinkeel: %w", err)
	}
	section, err := own.set("Identity", text).encode()
	if err != nil {
		return nil, err
	}
	all, err := top.set("Twinkeel", section).encode()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, all, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// object is a JSON object whose members keep their order. The agent compares keys without regard to case and refuses one that is
// there twice.
type object []member

type member struct {
	key   string
	value json.RawMessage
}

func parseObject(text []byte) (object, error) {
	if text == nil {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, errors.New("it is no object")
	}
	var o object
	for dec.More() {
		token, err := dec.Token()
		key, ok := token.(string)
		if err != nil || !ok {
			return nil, fmt.Errorf("a mistake near byte %d", dec.InputOffset())
		}
		m := member{key: key}
		if err := dec.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("a mistake near byte %d", dec.InputOffset())
		}
		if o.get(key) != nil {
			return nil, fmt.Errorf("the key %q is there twice", key)
		}
		o = append(o, m)
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("it ends too early, at byte %d", dec.InputOffset())
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("text behind the object, near byte %d", dec.InputOffset())
	}
	return o, nil
}

func (o object) get(key string) json.RawMessage {
	for _, m := range o {
		if strings.EqualFold(m.key, key) {
			return m.value
		}
	}
	return nil
}

func (o object) set(key string, value json.RawMessage) object {
	for i, m := range o {
		if strings.EqualFold(m.key, key) {
			o[i].value = value
			return o
		}
	}
	return append(o, member{key, value})
}

func (o object) encode() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(m.key)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
