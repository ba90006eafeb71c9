package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

const (
	deploymentLogName = "twinkeel-deployment.log"
	maxDeploymentLog  = 256 << 10 // server's bodies end at 1 MiB
	maxLogLine        = 4 << 10
)

// deploymentLog keeps what happened in the deployment at hand, across reboots, as lines of JSON. It is for people: it
// is flushed but not journaled, and a disk too full for it stops nothing.
type deploymentLog struct {
	path string
	on   bool
}

// start begins a new log; resume goes on with one that a former process began.
func (l *deploymentLog) start() {
	l.on = true
	if f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err == nil {
		closeQuietly(f)
	}
}

func (l *deploymentLog) resume() { l.on = true }
func (l *deploymentLog) stop()   { l.on = false }

func (l *deploymentLog) append(m menderapi.LogMessage) {
	if !l.on {
		return
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer closeQuietly(f)
	size, err := f.Seek(0, io.SeekEnd)
	line, jsonErr := json.Marshal(m)
	if err != nil || jsonErr != nil || size+int64(len(line)) > maxDeploymentLog {
		return
	}
	if _, err := f.Write(append(line, '\n')); err == nil {
		_ = f.Sync()
	}
}

// messages reads the log back. A line that a power cut tore is passed over.
func (l *deploymentLog) messages() []menderapi.LogMessage {
	f, err := os.Open(l.path)
	if err != nil {
		return nil
	}
	defer closeQuietly(f)
	var out []menderapi.LogMessage
	lines := bufio.NewScanner(io.LimitReader(f, maxDeploymentLog))
	lines.Buffer(nil, 4*maxLogLine)
	for lines.Scan() {
		var m menderapi.LogMessage
		if json.Unmarshal(lines.Bytes(), &m) == nil && m.Timestamp != "" && m.Level != "" && m.Message != "" {
			out = append(out, m)
		}
	}
	return out
}

// teeHandler sends every line to the process's log and, while there is a deployment, to its log.
type teeHandler struct {
	slog.Handler
	log *deploymentLog
}

func (h teeHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.Handler.Enabled(ctx, level)
}

func (h teeHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		h.log.append(menderapi.LogMessage{
			Timestamp: r.Time.UTC().Format(time.RFC3339Nano),
			Level:     strings.ToLower(r.Level.String()),
			Message:   printable(flatten(r), maxLogLine/2),
		})
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h teeHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return teeHandler{h.Handler.WithAttrs(attrs), h.log}
}

func (h teeHandler) WithGroup(name string) slog.Handler {
	return teeHandler{h.Handler.WithGroup(name), h.log}
}

// flatten writes a record as "message (key: value, key: value)".
func flatten(r slog.Record) string {
	parts := []string{}
	r.Attrs(func(a slog.Attr) bool {
		parts = append(parts, fmt.Sprintf("%s: %v", a.Key, a.Value))
		return true
	})
	if len(parts) == 0 {
		return r.Message
	}
	return r.Message + " (" + strings.Join(parts, ", ") + ")"
}
