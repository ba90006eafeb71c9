package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/twinkeel/twinkeel/pipeline/build"
)

// progress shows what a run is doing, on stderr.
type progress interface {
	event(build.Event)
	close() // waits until the last state is on the screen
}

func (a *app) newProgress(ctx context.Context) progress {
	return loggedProgress{a.chosenProgress(ctx), a}
}

func (a *app) chosenProgress(ctx context.Context) progress {
	switch a.ui.progress {
	case "tty":
		return newBars(ctx, a)
	case "quiet":
		return quiet{}
	case "json":
		return &jsonLines{app: a, started: map[string]time.Time{}, last: map[string]time.Time{}}
	}
	return &plainLines{app: a, started: map[string]time.Time{}, beat: map[string]time.Time{}}
}

type quiet struct{}

func (quiet) event(build.Event) {}
func (quiet) close()            {}

// plainLines is for logs: a line at the start and at the end of each action, and a sign of life every ten seconds.
type plainLines struct {
	app     *app
	mu      sync.Mutex
	started map[string]time.Time
	beat    map[string]time.Time
}

const heartbeat = 10 * time.Second

func (p *plainLines) event(e build.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.app.ui.err
	now := time.Now()
	switch e.State {
	case build.StateStarted:
		p.started[e.Address], p.beat[e.Address] = now, now
		p.app.notef("%s %s\n", s.bold(e.Address+":"), doing(e))
	case build.StateProgress:
		if now.Sub(p.beat[e.Address]) < heartbeat {
			return
		}
		p.beat[e.Address] = now
		p.app.notef("%s %s, %s\n", s.bold(e.Address+":"), doing(e), amount(e))
	case build.StateDone:
		took := now.Sub(p.started[e.Address])
		p.app.notef("%s %s (%s in %s, %s)\n", s.bold(e.Address+":"), s.green("done"), size(e.Done), took.Round(time.Millisecond), rate(e.Done, took))
	case build.StateOutput:
		p.app.notef("%s %s\n", s.dim(e.Address+" |"), e.Detail)
	case build.StateCached:
		p.app.notef("%s %s\n", s.bold(e.Address+":"), s.dim(cachedText(e)))
	case build.StateFailed:
		if errors.Is(e.Err, context.Canceled) {
			return // interrupted, or stopped since another one failed: that one says why
		}
		p.app.notef("%s %s\n", s.bold(e.Address+":"), s.red("failed"))
	}
}

func (p *plainLines) close() {}

func doing(e build.Event) string {
	if e.Doing == "" {
		return "writing"
	}
	return e.Doing
}

func cachedText(e build.Event) string {
	if e.Detail == "" {
		return "up to date"
	}
	return e.Detail
}

func amount(e build.Event) string {
	if e.Total <= 0 {
		return size(e.Done)
	}
	return fmt.Sprintf("%s of %s (%d %%)", size(e.Done), size(e.Total), e.Done*100/e.Total)
}

func rate(bytes int64, took time.Duration) string {
	if took <= 0 {
		return "at once"
	}
	return size(int64(float64(bytes)/took.Seconds())) + "/s"
}

// jsonLines is for programs: a line of JSON for each event, on stderr, at most one a second for the progress of an action.
type jsonLines struct {
	app     *app
	mu      sync.Mutex
	started map[string]time.Time
	last    map[string]time.Time
}

// progressLine is such a line.
type progressLine struct {
	Type    string   `json:"type"` // "progress"
	Address string   `json:"address"`
	State   string   `json:"state"`
	Doing   string   `json:"doing,omitempty"`
	Done    int64    `json:"done"`
	Total   int64    `json:"total,omitempty"`   // 0: not known
	Seconds *float64 `json:"seconds,omitempty"` // since it started
	Detail  string   `json:"detail,omitempty"`
	Error   string   `json:"error,omitempty"`
}

var stateNames = map[build.State]string{
	build.StateStarted: "started", build.StateProgress: "progress", build.StateDone: "done", build.StateCached: "cached",
	build.StateFailed: "failed", build.StateOutput: "output",
}

func (p *jsonLines) event(e build.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	line := progressLine{Type: "progress", Address: e.Address, State: stateNames[e.State], Doing: e.Doing, Done: e.Done, Total: max(e.Total, 0), Detail: e.Detail}
	switch e.State {
	case build.StateStarted:
		p.started[e.Address], p.last[e.Address] = now, now
	case build.StateProgress:
		if now.Sub(p.last[e.Address]) < time.Second {
			return
		}
		p.last[e.Address] = now
	case build.StateFailed:
		line.Error = fmt.Sprint(e.Err)
	}
	if began, known := p.started[e.Address]; known {
		took := now.Sub(began).Seconds()
		line.Seconds = &took
	}
	_ = writeJSON(p.app.stderr, line, false)
}

func (p *jsonLines) close() {}

// bars is for terminals: one bar per action, with rate and time left.
type bars struct {
	app  *app
	p    *mpb.Progress
	mu   sync.Mutex
	bars map[string]*mpb.Bar
}

func newBars(ctx context.Context, a *app) *bars {
	return &bars{
		app: a, bars: map[string]*mpb.Bar{},
		p: mpb.NewWithContext(ctx, mpb.WithOutput(a.stderr.target), mpb.WithWidth(36), mpb.WithAutoRefresh(),
			mpb.WithRefreshRate(100*time.Millisecond)),
	}
}

func (b *bars) event(e build.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.app.ui.err
	bar := b.bars[e.Address]
	switch e.State {
	case build.StateStarted:
		b.bars[e.Address] = b.p.New(max(e.Total, 0),
			mpb.BarStyle().Lbound(" ").Filler("━").Tip("━").Padding(" ").Rbound(" "),
			mpb.PrependDecorators(decor.Name(e.Address, decor.WCSyncSpaceR), decor.Name(doing(e), decor.WCSyncSpaceR)),
			mpb.AppendDecorators(
				decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace),
				decor.OnComplete(decor.AverageSpeed(decor.SizeB1024(0), "% .1f", decor.WCSyncSpace), s.green(" done")),
				decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace), "")))
	case build.StateProgress:
		if bar != nil {
			if e.Total > 0 {
				bar.SetTotal(e.Total, false)
			}
			bar.SetCurrent(e.Done)
		}
	case build.StateDone:
		if bar != nil {
			bar.SetTotal(-1, true)
		}
	case build.StateOutput:
		fmt.Fprintf(b.p, "%s %s\n", s.dim(e.Address+" |"), b.app.stderr.redacted(e.Detail))
	case build.StateCached:
		fmt.Fprintf(b.p, "%s %s\n", e.Address, s.dim(cachedText(e)))
	case build.StateFailed:
		if bar != nil {
			bar.Abort(false)
		}
	}
}

func (b *bars) close() {
	b.mu.Lock()
	for _, bar := range b.bars {
		if !bar.Completed() && !bar.Aborted() {
			bar.Abort(false)
		}
	}
	b.mu.Unlock()
	b.p.Wait()
}
