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

// textHandler writes log lines for people and for the journal of the system, which adds the time itself:
//
//	state: downloading (from idle, event offered)
type textHandler struct {
	mu    *sync.Mutex
	w     io.Writer
	level slog.Leveler
	attrs []slog.Attr
}

func newTextHandler(w io.Writer, level slog.Leveler) slog.Handler {
	return &textHandler{mu: &sync.Mutex{}, w: w, level: level}
}

func (h *textHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if r.Level >= slog.LevelWarn {
		b.WriteString(map[bool]string{true: "error: ", false: "warning: "}[r.Level >= slog.LevelError])
	}
	b.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		value := a.Value.String()
		if strings.ContainsAny(value, " \t\n\"") || value == "" {
			value = strconv.Quote(value)
		}
		fmt.Fprintf(&b, " %s=%s", a.Key, value)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	copied := *h
	copied.attrs = append(append([]slog.Attr{}, h.attrs...), attrs...)
	return &copied
}

func (h *textHandler) WithGroup(string) slog.Handler { return h }

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
