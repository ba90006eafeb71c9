package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// standalonePatience is how long a download for a person at a terminal may go without a new byte.
const standalonePatience = 10 * time.Minute

// Install installs an artifact from a file or an http(s) URL. On success the device boots it at the next reboot, on
// trial until Commit.
func (a *Agent) Install(ctx context.Context, source string) (Installed, error) {
	j, end, err := a.begin(ctx)
	if err != nil {
		return Installed{}, err
	}
	defer end()
	m := &machine{Agent: a, j: j}
	if err := m.settle(ctx); err != nil {
		return Installed{}, err
	}
	if u := j.record.Update; u != nil {
		return Installed{}, withHint(fmt.Errorf("the update to %s is pending (%s)", u.Name, j.record.State),
			"commit or roll back that update first")
	}
	src, err := a.open(ctx, source)
	if err != nil {
		return Installed{}, err
	}
	defer closeQuietly(src)

	if err := m.record(step{event: Offered, update: Update{Source: source}}); err != nil {
		return Installed{}, err
	}
	u, err := a.installPayload(ctx, src, *j.record.Update, j.record.Installed)
	if err != nil {
		return Installed{}, errors.Join(err, m.abandon(ctx, u, err))
	}
	m.verified = true
	if err := m.record(step{event: Verified, update: u}); err != nil {
		return Installed{}, errors.Join(err, m.abandon(ctx, u, err))
	}
	err = m.run(ctx)
	if errors.Is(err, ErrRebootNeeded) {
		return u.After, nil
	}
	if err != nil && m.j.record.State == Installing { // the switch was undone, see run
		err = errors.Join(err, m.abandon(ctx, u, err))
	}
	if err == nil { // switched back and done
		err = m.cause
	}
	return Installed{}, err
}

// abandon ends an update that failed before the switch. If even that cannot be recorded, the next start finds the
// state and ends it; nothing was switched.
func (m *machine) abandon(ctx context.Context, u Update, cause error) error {
	if err := m.record(failed(u, "installing", cause)); err != nil {
		return err
	}
	return m.run(context.WithoutCancel(ctx))
}

// open opens the source of a standalone install.
func (a *Agent) open(ctx context.Context, source string) (io.ReadCloser, error) {
	if !strings.HasPrefix(source, "http://") && !strings.HasPrefix(source, "https://") {
		f, err := os.Open(source)
		if err != nil {
			return nil, fmt.Errorf("opening the artifact %s: %s", source, reason(err))
		}
		return struct {
			io.Reader
			io.Closer
		}{contextReader{ctx, f}, f}, nil
	}
	h, err := newHTTPClient(a.cfg.ServerCertificate)
	if err != nil {
		return nil, err
	}
	return &download{
		ctx: ctx, http: h, url: source, log: a.log, stall: a.stallTimeout, backoff: a.backoff, patience: standalonePatience,
	}, nil
}

// settle ends what an interrupted standalone command left, as far as no person is needed for it. Afterwards the state
// is idle, or the update waits for a reboot or for commit or rollback.
func (m *machine) settle(ctx context.Context) error {
	for m.j.record.State != Idle && m.j.record.Update.Standalone() {
		u := *m.j.record.Update
		var s step
		switch m.j.record.State {
		case Downloading:
			s = failed(u, "installing", errors.New("interrupted"))
		case Verifying:
			return nil // the new system runs: for the person to judge
		case Installing, Rebooting:
			target, running, vars, err := m.look(u)
			switch {
			case err != nil:
				return err
			case running == u.Target:
				return nil
			case m.j.record.State == Installing && armed(vars, target):
				s = step{event: Switched, update: u}
			case m.j.record.State == Installing: // and nobody was told that it worked
				s = failed(u, "installing", errors.New("interrupted"))
			case armed(vars, target):
				return nil
			default:
				s = m.fellBack(u, "the new system did not come up, or was not committed")
			}
		default:
			var err error
			if s, err = m.effect(ctx); errors.Is(err, ErrRebootNeeded) {
				return nil
			} else if err != nil {
				return err
			}
		}
		if err := m.record(s); err != nil {
			return err
		}
		if s.event == FellBack {
			m.log.Warn("the update is gone", "artifact_name", u.Name, "reason", s.update.Reason)
		}
	}
	return nil
}

// pending prepares Commit and Rollback: the update that waits, or ErrNothingPending.
func (a *Agent) pending(ctx context.Context) (*machine, func(), error) {
	j, end, err := a.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	m := &machine{Agent: a, j: j}
	if err := m.settle(ctx); err != nil {
		end()
		return nil, nil, err
	}
	switch u := j.record.Update; {
	case u == nil && m.fell:
		end()
		return nil, nil, fmt.Errorf("%w: %w", ErrNothingPending, ErrRolledBack)
	case u == nil:
		end()
		return nil, nil, ErrNothingPending
	case !u.Standalone():
		end()
		return nil, nil, withHint(fmt.Errorf("the update to %s is a deployment of the server", u.Name),
			"the daemon commits it, or rolls it back")
	}
	return m, end, nil
}

// Commit makes a standalone update permanent. It must run in the new system.
func (a *Agent) Commit(ctx context.Context) (Installed, error) {
	m, end, err := a.pending(ctx)
	if err != nil {
		return Installed{}, err
	}
	defer end()
	u := *m.j.record.Update
	_, running, _, err := m.look(u)
	if err != nil {
		return Installed{}, err
	}
	switch {
	case m.j.record.State == RollingBack:
		return Installed{}, withHint(fmt.Errorf("%s is being rolled back", u.Name), "reboot to finish that")
	case running != u.Target:
		return Installed{}, withHint(fmt.Errorf("%s is installed but does not run yet", u.Name), "reboot first, then commit")
	}
	err = m.run(ctx)
	if m.cause != nil {
		return Installed{}, errors.Join(fmt.Errorf("%s was not committed: %w", u.Name, m.cause), err)
	}
	if err != nil {
		return Installed{}, err
	}
	return m.j.record.Installed, nil
}

// Rollback gives up a standalone update. ErrRebootNeeded means that the new system still runs, until the next reboot.
func (a *Agent) Rollback(ctx context.Context) error {
	m, end, err := a.pending(ctx)
	if err != nil {
		return err
	}
	defer end()
	u := *m.j.record.Update
	if m.j.record.State == Rebooting || m.j.record.State == Verifying {
		u.Outcome, u.Reason = OutcomeFailure, "rolled back by hand"
		if err := m.record(step{event: Failed, update: u}); err != nil {
			return err
		}
	}
	return m.run(ctx)
}
