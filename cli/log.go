package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/twinkeel/twinkeel/internal/version"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

// logLevels are what --log-level and TWINKEEL_LOG take.
var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// openLog starts the log of what the command does, for those who search a fault: on stderr, or at the end of the file that
// TWINKEEL_LOG_PATH names. Without --log-level and TWINKEEL_LOG there is none.
func (a *app) openLog() error {
	level, from := a.global.logLevel, "--log-level"
	if level == "" {
		level, from = a.getenv("TWINKEEL_LOG"), "TWINKEEL_LOG"
	}
	if level == "" {
		return nil
	}
	least, known := logLevels[level]
	if !known {
		return usagef("%s takes debug, info, warn or error, not %q", from, level)
	}
	var out io.Writer = a.stderr
	if path := a.getenv("TWINKEEL_LOG_PATH"); path != "" {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("TWINKEEL_LOG_PATH: %w", err)
		}
		a.logFile = &logFile{newRedactedWriter(f), f}
		out = a.logFile
	}
	a.log = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: least}))
	return nil
}

// logFile is the file of TWINKEEL_LOG_PATH.
type logFile struct {
	*redactedWriter
	f *os.File
}

// logStart notes which command runs. What its flags say may be secret and is left out.
func (a *app) logStart(command string) {
	a.log.Info("command", "name", command, "version", version.Version, "directory", a.global.dir)
}

// closeLog notes how the command ended.
func (a *app) closeLog(ctx context.Context, code int, began time.Time, err error) {
	level := slog.LevelInfo
	if code == exitFailed {
		level = slog.LevelError
	}
	about := []any{"exit", code, "took", time.Since(began).Round(time.Millisecond)}
	if err != nil {
		about = append(about, "error", err)
	}
	a.log.Log(ctx, level, "end", about...)
	if a.logFile != nil {
		a.logFile.flush()
		a.logFile.f.Close()
	}
}

// logPipeline notes what was read: files, and where variables were given.
func (a *app) logPipeline(p *pipeline.Pipeline) {
	for _, name := range slices.Sorted(maps.Keys(p.Files())) {
		a.log.Debug("read", "source", name)
	}
}

// logSteps notes what was decided about each output, and why.
func (a *app) logSteps(steps []*build.Step) {
	for _, s := range steps {
		codes := make([]string, len(s.Reasons))
		for i, r := range s.Reasons {
			codes[i] = r.Code
		}
		a.log.Debug("decided", "address", s.Action.Address, "verb", string(s.Verb), "reasons", codes, "key", s.Key, "restore", s.Restore)
	}
}

// logEvent notes what a run does.
func (a *app) logEvent(e build.Event) {
	switch e.State {
	case build.StateStarted:
		a.log.Info("started", "address", e.Address, "doing", doing(e))
	case build.StateDone:
		a.log.Info("done", "address", e.Address, "bytes", e.Done, "took", e.Took.Round(time.Millisecond))
	case build.StateCached:
		a.log.Info("cached", "address", e.Address, "detail", cachedText(e))
	case build.StateFailed:
		a.log.Error("failed", "address", e.Address, "error", e.Err)
	case build.StateOutput:
		a.log.Debug("output", "address", e.Address, "line", e.Detail)
	}
}

// loggedProgress also notes what it shows.
type loggedProgress struct {
	progress
	app *app
}

func (l loggedProgress) event(e build.Event) {
	l.app.logEvent(e)
	l.progress.event(e)
}
