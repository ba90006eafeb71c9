package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/signing/verify"
)

const (
	// maxReboots bounds how often a reboot is asked for without the system coming up differently.
	maxReboots = 3
	// maxSwitches bounds how often the boot loader is told to try the same update. The second time is for an update
	// whose new system came up and was then cut off: boot loaders give one boot only, so a power cut in those seconds
	// looks like a failure.
	maxSwitches = 2
	// maxRefusals bounds how often an outcome is reported to a server that says each time that the report is wrong. A
	// device that reported for ever could not be updated any more.
	maxRefusals = 10
)

// errAborted: the server no longer wants the deployment.
var errAborted = errors.New("the server has aborted the deployment")

// machine carries an update through its states. One exists while the lock is held.
type machine struct {
	*Agent
	j *journal
	// offer is the deployment as the server just gave it; after a restart it is asked for again, as its link expires.
	offer *menderapi.Next
	// verified: this process has read the slot back, so that it need not be done again before the switch.
	verified bool
	// For those who tell a person:
	cause error // why the update failed
	fell  bool  // the boot loader was found to have returned to the old system
}

// step is what an effect came to: the event, and the update as it is from now on.
type step struct {
	event  Event
	update Update
	cause  error // of a failure
}

// record writes the state that follows. It is the only place where states change.
func (m *machine) record(s step) error {
	from := m.j.record
	if s.cause != nil {
		m.cause = s.cause
	}
	to, err := next(from.State, s.event)
	if err != nil {
		return err
	}
	r := Record{State: to, Installed: from.Installed, Update: &s.update}
	switch s.event {
	case Committed:
		r.Installed = s.update.After
	case Stuck:
		r.Installed = s.update.After
		r.Installed.Name += "_INCONSISTENT" // Mender's mark for a system that is not what was asked for
	}
	if to != from.State {
		r.Update.Reboots = 0
	}
	if to == Idle {
		r.Update = nil
	}
	if err := m.j.write(r); err != nil {
		return fmt.Errorf("recording the state %s: %w", to, err)
	}
	m.fell = m.fell || s.event == FellBack
	attrs := []any{"state", to, "from", from.State, "event", s.event}
	if s.update.Reason != "" && to == Reporting {
		attrs = append(attrs, "reason", s.update.Reason)
	}
	m.log.Info("update", attrs...)
	return nil
}

// run carries the update on until it is done, or until ctx ends, a reboot is needed or the journal cannot be written.
// It is the same for a new update and for one that was cut off: an effect looks at what is there before it does
// anything.
func (m *machine) run(ctx context.Context) error {
	for m.j.record.State != Idle {
		s, err := m.effect(ctx)
		if err != nil {
			return err
		}
		if err := m.record(s); err != nil {
			return errors.Join(err, m.undo(s))
		}
	}
	return nil
}

// undo takes back a switch that could not be recorded, for a person who is told that the install failed: the next
// reboot must not try it. The daemon tells nobody, and goes on from the record that is there, before or after the
// switch; both are good.
func (m *machine) undo(s step) error {
	if m.j.record.State != Installing || !s.update.Standalone() || s.event == NewSystem {
		return nil
	}
	old, err := m.cfg.slot(s.update.Target.Other())
	if err == nil {
		err = m.boot.Update(settle(old))
	}
	if err != nil {
		return fmt.Errorf("undoing the switch of the boot loader: %w", err)
	}
	return nil
}

func (m *machine) effect(ctx context.Context) (step, error) {
	u := *m.j.record.Update
	switch m.j.record.State {
	case Downloading:
		return m.downloading(ctx, u)
	case Installing:
		return m.installing(ctx, u)
	case Rebooting:
		return m.rebooting(ctx, u)
	case Verifying:
		return m.verifying(ctx, u)
	case Committing:
		return m.committing(ctx, u)
	case RollingBack:
		return m.rollingBack(ctx, u)
	case Reporting:
		return m.reporting(ctx, u)
	}
	return step{}, fmt.Errorf("state %q has no effect", m.j.record.State)
}

// failed ends the update with a reason, or with the abort that err is.
func failed(u Update, stage string, err error) step {
	if errors.Is(err, errAborted) {
		u.Outcome, u.Reason = OutcomeAborted, err.Error()
		return step{Aborted, u, err}
	}
	err = fmt.Errorf("%s: %w", stage, err)
	u.Outcome, u.Reason = OutcomeFailure, err.Error()
	return step{Failed, u, err}
}

// downloading fills the inactive slot. A power cut leaves the old system running and an arbitrary mix of blocks in the
// inactive slot; the next run writes the blocks that are missing.
func (m *machine) downloading(ctx context.Context, u Update) (step, error) {
	u, err := m.download(ctx, u)
	switch {
	case err == nil:
		m.verified = true
		return step{event: Verified, update: u}, nil
	case ctx.Err() != nil:
		return step{}, ctx.Err()
	}
	m.offer = nil
	return failed(u, "installing", err), nil
}

func (m *machine) download(ctx context.Context, u Update) (Update, error) {
	link, err := m.link(ctx, u)
	if err != nil {
		return u, err
	}
	if err := m.tell(ctx, u, menderapi.StatusDownloading); err != nil {
		return u, err
	}
	d := m.newDownload(ctx, link)
	d.refresh = func(ctx context.Context) (string, error) {
		m.offer = nil
		return m.link(ctx, u)
	}
	d.alive = func(ctx context.Context) error { return m.tell(ctx, u, menderapi.StatusDownloading) }
	defer closeQuietly(d)
	u, err = m.installPayload(ctx, d, u, m.j.record.Installed)
	if err != nil {
		return u, err
	}
	return u, m.tell(ctx, u, menderapi.StatusInstalling)
}

// link is where the deployment's artifact can be downloaded now.
func (m *machine) link(ctx context.Context, u Update) (string, error) {
	if m.offer == nil {
		deviceType, err := m.cfg.deviceType()
		if err != nil {
			return "", err
		}
		err = m.persist(ctx, "asking for the deployment again", func() error {
			m.offer, err = m.client.next(ctx, deviceType, m.j.record.Installed)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	if m.offer == nil || m.offer.ID != u.ID {
		m.offer = nil
		return "", fmt.Errorf("%w: it is no longer offered", errAborted)
	}
	return m.offer.Artifact.Source.URI, nil
}

// installing switches the boot loader. It is the only place that makes a slot bootable, and the slot was read back and
// compared with the signed manifest before: by this process, or just now. A power cut leaves the environment as it was
// or switched, never between (internal/bootenv); in both cases the slot it names is complete.
func (m *machine) installing(ctx context.Context, u Update) (step, error) {
	target, running, vars, err := m.look(u)
	if err != nil {
		return failed(u, "switching the boot loader", err), nil
	}
	switch {
	case running == u.Target:
		return step{event: NewSystem, update: u}, nil
	case armed(vars, target):
		return step{event: Switched, update: u}, nil
	}
	if !m.verified {
		if err := m.recheck(ctx, u, target); err != nil {
			if ctx.Err() != nil {
				return step{}, ctx.Err()
			}
			if u.Standalone() {
				return failed(u, "checking the slot", err), nil
			}
			m.log.Warn("the slot is filled again", "slot", u.Target, "because", err)
			return step{event: SlotChanged, update: u}, nil
		}
	}
	u.Switches++
	if err := m.boot.Update(arm(target)); err != nil {
		return failed(u, "switching the boot loader", err), nil // RollingBack looks what became of it
	}
	return step{event: Switched, update: u}, nil
}

func (m *machine) recheck(ctx context.Context, u Update, target Slot) error {
	slot, err := openSlot(target)
	if err != nil {
		return err
	}
	defer closeQuietly(slot)
	return m.verifySlot(ctx, slot, &u)
}

// look finds out where the device stands.
func (m *machine) look(u Update) (target Slot, running SlotName, vars map[string]string, err error) {
	if target, err = m.cfg.slot(u.Target); err != nil {
		return
	}
	if running, err = m.sys.RunningSlot(); err != nil {
		return
	}
	if vars, err = m.boot.Load(); err != nil {
		err = fmt.Errorf("reading the boot loader's environment: %w", err)
	}
	return
}

// rebooting waits for the new system. The boot loader's environment tells a reboot that is still to come (it says "try
// the new slot") from one that led back (the boot loader has taken that back).
func (m *machine) rebooting(ctx context.Context, u Update) (step, error) {
	target, running, vars, err := m.look(u)
	switch {
	case err != nil:
		return failed(u, "rebooting", err), nil
	case running == u.Target:
		return step{event: NewSystem, update: u}, nil
	case !armed(vars, target):
		return m.fellBack(u, "the new system did not come up, or did not stay up"), nil
	}
	if u.Standalone() {
		return step{}, ErrRebootNeeded
	}
	if err := m.tell(ctx, u, menderapi.StatusRebooting); err != nil {
		if ctx.Err() != nil {
			return step{}, ctx.Err()
		}
		return failed(u, "rebooting", err), nil
	}
	return m.reboot(ctx, u)
}

// reboot counts the attempt before it makes it.
func (m *machine) reboot(ctx context.Context, u Update) (step, error) {
	if u.Reboots >= maxReboots {
		return failed(u, "rebooting", fmt.Errorf("the device did not boot slot %s in %d reboots", u.Target, u.Reboots)), nil
	}
	err := m.countedReboot(ctx, u)
	var refused rebootError
	if errors.As(err, &refused) && m.j.record.State == Rebooting {
		return failed(u, "rebooting", err), nil
	}
	return step{}, err
}

// rebootError: the system did not reboot although it was told to.
type rebootError struct{ error }

func (e rebootError) Unwrap() error { return e.error }

func (m *machine) countedReboot(ctx context.Context, u Update) error {
	r := m.j.record
	u.Reboots++
	r.Update = &u
	if err := m.j.write(r); err != nil {
		return err
	}
	m.log.Info("rebooting", "attempt", u.Reboots)
	err := m.sys.Reboot(ctx)
	if errors.Is(err, ErrRebootNeeded) || ctx.Err() != nil {
		return err
	}
	return rebootError{err}
}

// leaveTrial reboots a new system in which the agent cannot even start, so that the boot loader returns to the old one.
// Without it such a system would stay, out of the server's reach, until someone happens to reboot it.
func (m *machine) leaveTrial(ctx context.Context, cause error) error {
	r := m.j.record
	if r.State != Rebooting && r.State != Verifying || r.Update.Standalone() || r.Update.Reboots >= maxReboots {
		return cause
	}
	if running, err := m.sys.RunningSlot(); err == nil && running != r.Update.Target {
		return cause
	}
	m.log.Error("this system is on trial and its agent cannot work; returning to the old system", "error", cause)
	u := *r.Update
	u.Reason = cause.Error()
	return errors.Join(cause, m.countedReboot(ctx, u))
}

// LeaveTrial is for a daemon whose configuration or keys were refused, with cause. If this system is on trial it is
// rebooted, so that the boot loader returns to the old one; otherwise, and if that fails, it returns an error that
// includes cause. Nothing of the configuration is used but where the journal is.
func LeaveTrial(ctx context.Context, p ConfigPaths, log *slog.Logger, cause error) error {
	cfg := &Config{Root: p.Root, DataDir: p.dataDir()}
	if p.Root == "" { // else `reboot` would be that of another machine
		cfg.RebootCommand = defaultReboot
	}
	if r, err := ReadStatus(cfg.DataDir); err != nil || r.State == Idle {
		return cause
	}
	// A keyring without keys verifies nothing.
	a := &Agent{cfg: cfg, log: log, sys: &linux{cfg: cfg}, keys: &verify.Keyring{}}
	j, end, err := a.begin(ctx)
	if err != nil {
		return errors.Join(cause, err)
	}
	defer end()
	return (&machine{Agent: a, j: j}).leaveTrial(ctx, cause)
}

func (m *machine) fellBack(u Update, why string) step {
	if u.Reason != "" {
		why = u.Reason // what the new system itself had to say
	}
	u.Outcome = OutcomeFailure
	u.Reason = fmt.Sprintf("%v in slot %s: %s", ErrRolledBack, u.Target.Other(), why)
	return step{event: FellBack, update: u}
}

// cutOff is a fall back after the new system had already come up: power failed before it was committed. The slot still
// holds it, so it gets one more try.
func (m *machine) cutOff(u Update) step {
	if u.Switches < maxSwitches && !u.Standalone() {
		return step{event: Interrupted, update: u}
	}
	return m.fellBack(u, "the new system came up, but was cut off before it could be committed")
}

// verifying runs in the new system. It is good when it can reach the server: what cannot be updated any more must not
// stay.
func (m *machine) verifying(ctx context.Context, u Update) (step, error) {
	_, running, _, err := m.look(u)
	if err != nil {
		return failed(u, "verifying the new system", err), nil
	}
	if running != u.Target {
		return m.cutOff(u), nil
	}
	if u.Standalone() {
		return step{event: Healthy, update: u}, nil // the person who says commit has judged
	}
	trial, cancel := context.WithTimeout(ctx, m.verifyPeriod)
	defer cancel()
	m.client.forget()
	err = m.persist(trial, "reaching the server from the new system", func() error {
		return abortOr(m.client.report(trial, u.ID, menderapi.StatusInstalling, "verifying the new system"))
	})
	switch {
	case ctx.Err() != nil:
		return step{}, ctx.Err()
	case err != nil:
		return failed(u, "verifying the new system", err), nil
	}
	return step{event: Healthy, update: u}, nil
}

// committing makes the new system permanent: first for the boot loader, then, with the record that follows, for the
// agent. A power cut between the two finds the environment committed and repeats the record.
func (m *machine) committing(ctx context.Context, u Update) (step, error) {
	target, running, vars, err := m.look(u)
	if err != nil {
		return failed(u, "committing", err), nil
	}
	if running != u.Target {
		return m.cutOff(u), nil
	}
	if !settled(vars, target) {
		if u.Standalone() {
			if err := m.boot.Update(settle(target)); err != nil {
				return step{}, fmt.Errorf("committing: %w", err) // and a person can try again
			}
		} else if err := m.commitPatiently(ctx, target); err != nil {
			if ctx.Err() != nil {
				return step{}, ctx.Err()
			}
			return failed(u, "committing", err), nil
		}
	}
	u.Outcome = OutcomeSuccess
	return step{event: Committed, update: u}, nil
}

// commitPatiently gives the storage some time before a new system that works is given up.
func (m *machine) commitPatiently(ctx context.Context, target Slot) error {
	trial, cancel := context.WithTimeout(ctx, m.verifyPeriod)
	defer cancel()
	return m.persist(trial, "committing", func() error { return m.boot.Update(settle(target)) })
}

// rollingBack makes the old slot the one that boots, and boots it if it does not run. Without power for the second
// step the boot loader returns by itself.
func (m *machine) rollingBack(ctx context.Context, u Update) (step, error) {
	old := u.Target.Other()
	slot, err := m.cfg.slot(old)
	if err != nil {
		return step{}, err
	}
	running, err := m.sys.RunningSlot()
	if err != nil {
		return step{}, err
	}
	vars, err := m.boot.Load()
	if err == nil && !settled(vars, slot) {
		err = m.boot.Update(settle(slot))
	}
	if err != nil {
		// On the old system the switch may be left on: say so and try again, but never report an end that is none. On
		// the new one a reboot is all that can still be done.
		m.log.Error("the boot loader's environment cannot be set back", "error", err)
		if running == old {
			return step{}, fmt.Errorf("undoing the switch of the boot loader: %w", err)
		}
	}
	if running == old {
		return step{event: RolledBack, update: u}, nil
	}
	if u.Standalone() {
		return step{}, ErrRebootNeeded
	}
	if u.Reboots >= maxReboots {
		u.Reason += fmt.Sprintf("; and slot %s cannot be booted any more", old)
		return step{event: Stuck, update: u}, nil
	}
	return m.reboot(ctx, u)
}

// reporting tells the server, for as long as it takes. Only then is the update over.
func (m *machine) reporting(ctx context.Context, u Update) (step, error) {
	done := step{event: Reported, update: u}
	if u.Standalone() || u.Outcome == OutcomeAborted {
		return done, nil
	}
	status := menderapi.Status(u.Outcome)
	refusals := 0
	err := m.persist(ctx, "reporting the outcome", func() error {
		err := abortOr(m.client.report(ctx, u.ID, status, u.Reason))
		if refused(err) {
			if refusals++; refusals == maxRefusals {
				m.log.Error("the server does not take the outcome; going on without", "error", err)
				return nil
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, errAborted) {
		return step{}, err
	}
	if status == menderapi.StatusFailure {
		if err := m.sendDeploymentLog(ctx, u.ID); err != nil {
			m.log.Warn("the deployment's log could not be sent", "error", err)
		}
	}
	return done, ctx.Err()
}

// sendDeploymentLog sends the log, halved from the front as long as the server finds it too large.
func (m *machine) sendDeploymentLog(ctx context.Context, id string) error {
	messages := m.depLog.messages()
	for attempt := 1; len(messages) > 0; attempt++ {
		err := m.client.sendLog(ctx, id, messages)
		switch {
		case err == nil:
			return nil
		case answered(err, http.StatusRequestEntityTooLarge):
			messages = messages[(len(messages)+1)/2:]
			continue
		case attempt >= 3:
			return err
		}
		if err := pause(ctx, m.backoff.after(attempt)); err != nil {
			return err
		}
	}
	return nil
}

// tell reports a status on the way. Only an abort counts; a server that cannot take the report does not hold up the
// update (both Mender clients do the same), and finds out at the end.
func (m *machine) tell(ctx context.Context, u Update, status menderapi.Status) error {
	if u.Standalone() {
		return nil
	}
	err := abortOr(m.client.report(ctx, u.ID, status, ""))
	if err == nil || errors.Is(err, errAborted) || ctx.Err() != nil {
		return err
	}
	m.log.Warn("a status was not reported", "status", status, "error", err)
	return nil
}

// abortOr turns the answers that mean "not wanted any more" into errAborted.
func abortOr(err error) error {
	if answered(err, http.StatusConflict) || answered(err, http.StatusNotFound) {
		return fmt.Errorf("%w: %w", errAborted, err)
	}
	return err
}

// refused says that repeating the very same call is without hope. It is not when the device may be accepted later, or
// when the server is busy.
func refused(err error) bool {
	var status *statusError
	if !errors.As(err, &status) || status.Code < 400 || status.Code >= 500 {
		return false
	}
	switch status.Code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	}
	return true
}

// persist repeats a call until it succeeds, the server aborts, or ctx ends.
func (m *machine) persist(ctx context.Context, what string, call func() error) error {
	for failures := 1; ; failures++ {
		err := call()
		if err == nil || errors.Is(err, errAborted) {
			return err
		}
		delay := m.backoff.after(failures)
		var status *statusError
		if errors.As(err, &status) {
			delay = max(delay, status.RetryAfter)
		}
		if end, ok := ctx.Deadline(); ok { // a new system must not be given up because a busy server asks for patience
			delay = max(min(delay, time.Until(end)/2), m.backoff.first)
		}
		m.log.Warn(what+" failed", "error", err, "again_in", delay)
		if pause(ctx, delay) != nil {
			return fmt.Errorf("%s: gave up: %w", what, err)
		}
	}
}
