package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/hashicorp/hcl/v2"

	"github.com/twinkeel/twinkeel/internal/diag"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// asJSON gives a result out as JSON: on stdout with --json, then there is nothing more to print and done is true, and to
// the file of --json-into.
func (a *app) asJSON(v any) (done bool, err error) { return a.giveJSON(v, true) }

// asJSONLine is asJSON for commands with many results: a line for each.
func (a *app) asJSONLine(v any) (done bool, err error) { return a.giveJSON(v, false) }

func (a *app) giveJSON(v any, indent bool) (done bool, err error) {
	if a.jsonInto != nil {
		err = writeJSON(a.jsonInto, v, indent)
	}
	if a.global.json && err == nil {
		err = writeJSON(a.stdout, v, indent)
	}
	return a.global.json || err != nil, err
}

// printJSON is for results that are always JSON.
func (a *app) printJSON(v any) error { return writeJSON(a.stdout, v, true) }

// held are the diagnostics that go out as one report of JSON when the command ends.
type held struct {
	mu    sync.Mutex
	diags hcl.Diagnostics
	files map[string]*hcl.File
}

func (h *held) add(files map[string]*hcl.File, diags ...*hcl.Diagnostic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.diags = append(h.diags, diags...)
	if files != nil {
		h.files = files
	}
}

// wantsJSON tells that diagnostics are wanted as JSON, by --json or --json-into.
func (a *app) wantsJSON() bool { return a.global.json || a.jsonInto != nil }

// flushReport gives out what was held: on stderr with --json, and to the file of --json-into.
func (a *app) flushReport() {
	if len(a.held.diags) == 0 {
		return
	}
	report := diag.NewReport(a.held.diags, a.held.files)
	a.held.diags = nil
	if a.jsonInto != nil {
		_ = writeJSON(a.jsonInto, report, true)
	}
	if a.global.json {
		_ = writeJSON(a.stderr, report, true)
	}
}

func writeJSON(w io.Writer, v any, indent bool) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if indent {
		enc.SetIndent("", "  ")
	}
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes())
	return err
}

// jsonFile is the file of --json-into. It appears with all that belongs into it when the command ends, whatever came of it. A
// device or a pipe is written to as it goes.
type jsonFile struct {
	*redactedWriter
	path string
	end  func() error
}

func createJSONFile(path string) (*jsonFile, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("--json-into: %w", withoutOperation(err))
		}
		return &jsonFile{newRedactedWriter(f), path, f.Close}, nil
	}
	f, err := durable.Create(path, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--json-into: %w", err)
	}
	w := newRedactedWriter(f)
	return &jsonFile{w, path, func() error {
		defer f.Abort() // does nothing after Commit
		if w.err != nil {
			return nil // which is said
		}
		return f.Commit()
	}}, nil
}

// closeJSONFile makes the file of --json-into appear.
func (a *app) closeJSONFile() error {
	if a.jsonInto == nil {
		return nil
	}
	j := a.jsonInto
	a.jsonInto = nil
	j.flush()
	err := j.end()
	if j.err != nil {
		err = j.err
		var p *fs.PathError // whose name is a temporary one
		if errors.As(err, &p) {
			err = p.Err
		}
		return fmt.Errorf("writing %s: %w", j.path, err)
	}
	return err
}

// streams are all that the command writes, where no secret may appear.
func (a *app) streams() []*redactedWriter {
	all := []*redactedWriter{a.stdout, a.stderr}
	if a.jsonInto != nil {
		all = append(all, a.jsonInto.redactedWriter)
	}
	if a.logFile != nil {
		all = append(all, a.logFile.redactedWriter)
	}
	return all
}
