package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// daemonPatience is how long a download may go without a new byte before the deployment fails. It is long: a device
// that is often offline shall get its update, and what counts is that the server still wants it.
const daemonPatience = 24 * time.Hour

// Daemon polls and updates until ctx ends (nil) or a reboot is needed that it is not to make itself
// ([ErrRebootNeeded]). What goes wrong on the way is logged and tried again; an error is returned only for what a
// restart could not cure.
func (a *Agent) Daemon(ctx context.Context) error {
	if err := durable.MkdirAll(a.cfg.DataDir, 0o755); err != nil {
		return err
	}
	alone, err := lockDaemon(ctx, filepath.Join(a.cfg.DataDir, daemonLockName))
	if err != nil {
		return err
	}
	defer closeQuietly(alone)
	if err := durable.Sweep(a.cfg.DataDir); err != nil {
		return err
	}
	if err := a.connect(ctx); err != nil {
		j, end, journalErr := a.begin(ctx)
		if journalErr != nil {
			return errors.Join(err, journalErr)
		}
		defer end()
		m := &machine{Agent: a, j: j}
		return m.leaveTrial(ctx, err)
	}
	l := &loop{Agent: a}
	for failures := 0; ; {
		err := l.turn(ctx)
		switch {
		case ctx.Err() != nil:
			a.log.Info("stopping")
			return nil
		case errors.Is(err, ErrRebootNeeded):
			return err
		case err != nil:
			failures++
			l.logFailure(err)
		default:
			failures = 0
		}
		if err := l.rest(ctx, failures, err); err != nil {
			a.log.Info("stopping")
			return nil
		}
	}
}

// connect prepares the client of the server.
func (a *Agent) connect(ctx context.Context) error {
	if len(a.cfg.Servers) == 0 {
		return &ConfigError{Reason: "no server", Advice: "set ServerURL"}
	}
	if _, err := a.cfg.deviceType(); err != nil {
		return err
	}
	if _, err := a.sys.RunningSlot(); err != nil {
		return err
	}
	key, err := loadDeviceKey(a.cfg.AuthPrivateKey)
	if err != nil {
		return err
	}
	id, err := a.identity(ctx)
	if err != nil {
		return err
	}
	h, err := newHTTPClient(a.cfg.ServerCertificate)
	if err != nil {
		return err
	}
	a.client = &client{servers: a.cfg.Servers, tenant: a.cfg.TenantToken, key: key, idData: id, http: h}
	return nil
}

// CheckUpdate makes a running Daemon poll at once, and SendInventory makes it send the inventory.
func (a *Agent) CheckUpdate()   { wake(a.wakePoll) }
func (a *Agent) SendInventory() { wake(a.wakeInventory) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake already
	}
}

// loop is the daemon between two updates.
type loop struct {
	*Agent
	nextPoll, nextInventory time.Time
	lastFailure             string
	waitsForPerson          bool
}

// turn does what is due: carry on an update that is under way, send the inventory, ask for a deployment.
func (l *loop) turn(ctx context.Context) error {
	j, end, err := l.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	m := &machine{Agent: l.Agent, j: j}
	if j.record.State != Idle {
		if j.record.Update.Standalone() {
			return l.standaloneTurn(ctx, m)
		}
		l.depLog.resume()
		defer l.depLog.stop()
		l.log.Info("carrying on", "state", j.record.State, "deployment", j.record.Update.ID)
		if err := m.run(ctx); err != nil {
			return err
		}
		l.nextPoll, l.nextInventory = time.Time{}, time.Time{} // show the new state at once
	}
	l.waitsForPerson = false

	deviceType, err := l.cfg.deviceType()
	if err != nil {
		return err
	}
	now := time.Now()
	if !now.Before(l.nextInventory) {
		err := l.client.sendInventory(ctx, l.inventory(ctx, deviceType, j.record.Installed))
		var status *statusError
		switch {
		case err == nil:
			l.nextInventory = now.Add(l.cfg.InventoryPoll)
		case errors.As(err, &status) && !errors.Is(err, errNotAuthorized):
			// The server is there and does not want it: no reason to miss an update.
			l.log.Warn("the inventory was not taken", "error", err)
			l.nextInventory = now.Add(max(l.cfg.RetryPollInterval, status.RetryAfter))
		default:
			return err
		}
	}
	if now.Before(l.nextPoll) {
		return nil
	}
	offer, err := l.client.next(ctx, deviceType, j.record.Installed)
	if err != nil {
		return err
	}
	l.lastFailure = ""
	if offer == nil {
		l.nextPoll = now.Add(l.cfg.UpdatePoll)
		return nil
	}
	return l.deploy(ctx, m, offer)
}

// deploy carries a new deployment as far as this system can.
func (l *loop) deploy(ctx context.Context, m *machine, offer *menderapi.Next) error {
	l.depLog.start()
	defer l.depLog.stop()
	l.log.Info("deployment", "id", offer.ID, "artifact_name", offer.Artifact.ArtifactName)
	m.offer = offer
	s := step{event: Offered, update: Update{ID: offer.ID, Name: offer.Artifact.ArtifactName}}
	if offer.Artifact.ArtifactName == m.j.record.Installed.Name {
		s.event, s.update.Outcome = AlreadyInstalled, OutcomeAlreadyInstalled
	}
	if err := m.record(s); err != nil {
		return err
	}
	if err := m.run(ctx); err != nil {
		return err
	}
	// It ended without a reboot, so nothing was installed. A server that goes on offering it must not keep the device,
	// and its flash, busy without a pause.
	l.nextPoll, l.nextInventory = time.Now().Add(min(l.cfg.UpdatePoll, l.cfg.RetryPollInterval)), time.Time{}
	return nil
}

// standaloneTurn leaves an update that a person started to that person.
func (l *loop) standaloneTurn(ctx context.Context, m *machine) error {
	if err := m.settle(ctx); err != nil {
		return err
	}
	if m.j.record.State == Idle {
		return nil // and it goes on as if nothing had been
	}
	l.nextPoll = time.Now().Add(l.cfg.UpdatePoll)
	l.nextInventory = l.nextPoll
	if !l.waitsForPerson {
		l.log.Info("not polling: an update installed by hand waits to be committed or rolled back", "artifact_name", m.j.record.Update.Name)
		l.waitsForPerson = true
	}
	return nil
}

// logFailure logs a failure once, not at every attempt: a device that is pending acceptance asks for days.
func (l *loop) logFailure(err error) {
	if text := err.Error(); text != l.lastFailure {
		l.log.Warn("will try again", "error", err)
		l.lastFailure = text
	}
}

// rest waits until something is due, or until someone asks for it.
func (l *loop) rest(ctx context.Context, failures int, err error) error {
	delay := time.Until(l.nextPoll)
	if failures == 0 {
		delay = min(delay, max(time.Until(l.nextInventory), 0))
	} else {
		delay = l.backoff.after(failures)
		var status *statusError
		if errors.As(err, &status) {
			delay = max(delay, status.RetryAfter)
		}
	}
	timer := time.NewTimer(max(delay, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.wakePoll:
		l.nextPoll = time.Time{}
	case <-l.wakeInventory:
		l.nextInventory = time.Time{}
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// newDownload makes the stream of an artifact.
func (a *Agent) newDownload(ctx context.Context, url string) *download {
	return &download{
		ctx: ctx, http: a.client.http, url: url, log: a.log, stall: a.stallTimeout, backoff: a.backoff, patience: daemonPatience,
	}
}

// DaemonPID is the process id of the data directory's daemon, 0 if none runs.
func (c *Config) DaemonPID() (int, error) {
	pid, err := daemonPID(filepath.Join(c.DataDir, daemonLockName))
	if err != nil {
		return 0, fmt.Errorf("finding the daemon: %w", err)
	}
	return pid, nil
}
