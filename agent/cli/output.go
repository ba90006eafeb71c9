package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// handler writes log lines: for people and for the system's journal, which adds the time itself, or as JSON.
//
//	update state=downloading from=idle event=offered
//	{"time":"…","level":"INFO","msg":"update","attrs":{"event":"offered","from":"idle","state":"downloading"}}
//
// The standard library's handlers would be 20 KiB more on every device.
type handler struct {
	mu    *sync.Mutex
	w     io.Writer
	level slog.Level
	json  bool
	attrs []slog.Attr
}

func newHandler(w io.Writer, level slog.Level, asJSON bool) slog.Handler {
	return &handler{mu: &sync.Mutex{}, w: w, level: level, json: asJSON}
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

// logJSON is a line of the log with --json.
type logJSON struct {
	Time  time.Time         `json:"time"`
	Level string            `json:"level"`
	Msg   string            `json:"msg"`
	Attrs map[string]string `json:"attrs,omitempty"`
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	attrs := h.attrs
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs[:len(attrs):len(attrs)], a)
		return true
	})
	line := textLine(r, attrs)
	if h.json {
		v := logJSON{Time: r.Time, Level: r.Level.String(), Msg: r.Message, Attrs: map[string]string{}}
		for _, a := range attrs {
			v.Attrs[a.Key] = a.Value.String()
		}
		var err error
		if line, err = json.Marshal(v); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.w.Write(append(line, '\n'))
	return err
}

func textLine(r slog.Record, attrs []slog.Attr) []byte {
	var line []byte
	switch {
	case r.Level >= slog.LevelError:
		line = append(line, "error: "...)
	case r.Level >= slog.LevelWarn:
		line = append(line, "warning: "...)
	}
	line = append(line, r.Message...)
	for _, a := range attrs {
		value := a.Value.String()
		if strings.ContainsAny(value, " \t\n\"") || value == "" {
			value = strconv.Quote(value)
		}
		line = append(line, " "+a.Key+"="+value...)
	}
	return line
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	copied := *h
	copied.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return &copied
}

func (h *handler) WithGroup(string) slog.Handler { return h }

// progress shows how far an install is: one line that is rewritten on a terminal, nothing on a pipe, and events with
// --json.
type progress struct {
	c        *call
	terminal bool
	started  time.Time
	last     time.Time
	shown    bool
}

func newProgress(c *call) *progress {
	return &progress{c: c, terminal: isTerminal(c.stderr), started: time.Now()}
}

// progressJSON is an event with --json.
type progressJSON struct {
	Event string `json:"event"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

func (p *progress) update(done, total int64) {
	now := time.Now()
	if now.Sub(p.last) < 200*time.Millisecond && done != total {
		return
	}
	p.last = now
	switch {
	case p.c.json:
		_ = json.NewEncoder(p.c.stdout).Encode(progressJSON{"progress", done, total})
	case p.terminal:
		rate := float64(done) / max(now.Sub(p.started).Seconds(), 0.001)
		fmt.Fprintf(p.c.stderr, "\r\x1b[K%s of %s, %3d %%, %s/s", mebibytes(float64(done)), mebibytes(float64(total)), done*100/max(total, 1), mebibytes(rate))
		p.shown = true
	}
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprintln(p.c.stderr)
	}
}

func mebibytes(n float64) string { return fmt.Sprintf("%.1f MiB", n/(1<<20)) }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
