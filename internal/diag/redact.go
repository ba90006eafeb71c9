package diag

import (
	"bytes"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// MinSecret is the length in bytes below which a secret is not searched for: hiding every "1" would hide everything.
const MinSecret = 4

// Redacted stands where a secret was.
const Redacted = "(sensitive value)"

// Redactor is a writer that replaces secrets on their way to another writer, also where a secret is split between two
// writes. It holds back the end of what was written as long as a secret could begin there; Flush writes it.
type Redactor struct {
	mu      sync.Mutex
	w       io.Writer
	secrets map[string]bool
	// begin has the secrets by their first bytes, the longest first: there may be many.
	begin map[[MinSecret]byte][]string
	held  []byte
}

// NewRedactor returns a Redactor that hides the secrets of at least [MinSecret] bytes.
func NewRedactor(w io.Writer, secrets []string) *Redactor {
	r := &Redactor{w: w, secrets: make(map[string]bool), begin: make(map[[MinSecret]byte][]string)}
	r.Add(secrets)
	return r
}

// Add hides more secrets from now on. A secret is hidden as it is, and as JSON and URLs write it.
func (r *Redactor) Add(secrets []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	touched := make(map[[MinSecret]byte]bool)
	for _, s := range secrets {
		for _, form := range forms(s) {
			if len(form) < MinSecret || r.secrets[form] {
				continue
			}
			r.secrets[form] = true
			key := [MinSecret]byte([]byte(form))
			r.begin[key] = append(r.begin[key], form)
			touched[key] = true
		}
	}
	for key := range touched {
		slices.SortFunc(r.begin[key], func(a, b string) int {
			if len(a) != len(b) {
				return len(b) - len(a)
			}
			return strings.Compare(a, b)
		})
	}
}

// forms are the ways in which a secret appears in output.
func forms(s string) []string {
	out := []string{s}
	if quoted, err := json.Marshal(s); err == nil {
		once := string(quoted[1 : len(quoted)-1])
		out = append(out, once)
		if again, err := json.Marshal(once); err == nil { // jsonencode() in a text that is printed as JSON
			out = append(out, string(again[1:len(again)-1]))
		}
	}
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false)
	if enc.Encode(s) == nil {
		out = append(out, string(bytes.TrimSpace(plain.Bytes())[1:plain.Len()-2]))
	}
	out = append(out, url.QueryEscape(s), url.PathEscape(s), printable(s))
	// A text of several lines is printed line by line, with an indentation or a number before each.
	for _, l := range bytes.Split([]byte(s), []byte("\n")) {
		if l = bytes.TrimSpace(l); len(l) >= 2*MinSecret {
			out = append(out, string(l))
		}
	}
	return out
}

// Write implements [io.Writer]. It reports all of p as written even when a part is held back.
func (r *Redactor) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = append(r.held, p...)
	out, rest := r.split(r.held, false)
	r.held = append([]byte(nil), rest...)
	if len(out) > 0 {
		if _, err := r.w.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Flush writes what is held back.
func (r *Redactor) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	out, _ := r.split(r.held, true)
	r.held = nil
	if len(out) == 0 {
		return nil
	}
	_, err := r.w.Write(out)
	return err
}

// split redacts data and returns what can be written and what must wait: everything from the first place where a secret
// could begin whose end is yet to come. With final, nothing is to come.
func (r *Redactor) split(data []byte, final bool) (out, rest []byte) {
	if len(r.secrets) == 0 {
		return data, nil
	}
	for i := 0; i < len(data); {
		hit, wait := r.at(data[i:])
		if wait && !final {
			return out, data[i:]
		}
		if hit > 0 {
			out = append(out, Redacted...)
			i += hit
			continue
		}
		out = append(out, data[i])
		i++
	}
	return out, nil
}

// at returns the length of the secret that data begins with, or 0, and whether a longer one could begin that data is too short
// to tell.
func (r *Redactor) at(data []byte) (hit int, wait bool) {
	if len(data) < MinSecret {
		for s := range r.secrets {
			if strings.HasPrefix(s, string(data)) {
				return 0, true
			}
		}
		return 0, false
	}
	for _, s := range r.begin[[MinSecret]byte(data)] {
		switch {
		case len(s) <= len(data) && string(data[:len(s)]) == s:
			return len(s), wait
		case len(s) > len(data) && s[:len(data)] == string(data):
			wait = true
		}
	}
	return 0, wait
}

// Redact returns text without secrets.
func Redact(text string, secrets []string) string {
	var out bytes.Buffer
	r := NewRedactor(&out, secrets)
	_, _ = r.Write([]byte(text)) // a buffer takes everything
	_ = r.Flush()
	return out.String()
}
