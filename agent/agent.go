// Package agent updates a device that has two root file systems (slots): it asks the server for a deployment, streams
// the artifact into the slot that is not running, proves by reading it back that the slot holds what was signed,
// switches the boot loader's environment as the last step, reboots, and commits only once the new system has reached
// the server. Kill it, or cut the power, at any instant: the device boots the old or the new system, complete, and the
// next start finishes the deployment. DESIGN.md beside this file has the states, the order of writes and what a power
// cut leaves after each.
//
// On the wire and in its files the agent is a Mender client: mender.conf, mender-agent.pem, device_type,
// bootstrap.mender, the device API (docs/formats.md and the real clients mender 3.4.0 and mender-update 5.1), and the
// boot loader variables of meta-mender. Where the two clients differ, or where both fail open, the comment at the place
// says what is done here and why.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// Errors a caller branches on.
var (
	// ErrNothingPending: there is no update to commit or to roll back.
	ErrNothingPending = errors.New("no update is pending")
	// ErrRebootNeeded: the work can only go on after a reboot, which is up to the caller.
	ErrRebootNeeded = errors.New("a reboot is needed")
	// ErrBusy: another agent works on the same data directory.
	ErrBusy = errors.New("another agent is at work in this data directory")
	// ErrRolledBack: the boot loader went back to the old system by itself.
	ErrRolledBack = errors.New("the boot loader has returned to the old system")
	// ErrRefused: the artifact is sound, but not for this device in its present state.
	ErrRefused = errors.New("the artifact is not for this device")
)

// A hinted error carries advice for the person who reads it.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// Hint is what to do about the error.
func (e *hinted) Hint() string { return e.hint }

func withHint(err error, format string, args ...any) error {
	return &hinted{error: err, hint: fmt.Sprintf(format, args...)}
}

// Options are the agent's ties to the process it runs in.
type Options struct {
	Logger *slog.Logger // nil: silent
	// Progress is told how much of a payload has been installed; total is -1 when unknown.
	Progress func(done, total int64)
}

// Agent is one device's agent. Make it with [New]; its methods are not for concurrent use.
type Agent struct {
	cfg      *Config
	log      *slog.Logger
	progress func(done, total int64)
	keys     *verify.Keyring // nil only with AllowUnsigned
	depLog   *deploymentLog
	sys      system
	boot     bootEnv
	client   *client

	stallTimeout time.Duration // no byte for this long: the connection is dropped and the download resumed
	verifyPeriod time.Duration // how long the new system may try to reach the server before it is given up
	backoff      backoff

	wakePoll, wakeInventory chan struct{}
}

// New checks everything the agent trusts, above all the keys, and fails rather than run with less than was configured.
func New(cfg *Config, o Options) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg:           cfg,
		progress:      o.Progress,
		sys:           &linux{cfg: cfg},
		boot:          &lazyEnv{cfg: cfg},
		stallTimeout:  30 * time.Second,
		verifyPeriod:  5 * time.Minute,
		backoff:       backoff{first: time.Second, limit: cfg.RetryPollInterval},
		wakePoll:      make(chan struct{}, 1),
		wakeInventory: make(chan struct{}, 1),
	}
	if a.progress == nil {
		a.progress = func(int64, int64) {}
	}
	if !cfg.AllowUnsigned {
		keys, err := verify.LoadKeyring(cfg.VerifyKeys)
		if err != nil {
			return nil, withHint(fmt.Errorf("loading the keys that artifacts must be signed with: %w", err),
				"ArtifactVerifyKey must name a PEM file with a public key")
		}
		a.keys = keys
	}
	a.depLog = &deploymentLog{path: filepath.Join(cfg.DataDir, deploymentLogName)}
	handler := o.Logger
	if handler == nil {
		handler = slog.New(slog.DiscardHandler)
	}
	a.log = slog.New(teeHandler{handler.Handler(), a.depLog})
	return a, nil
}

// begin takes the lock that every change of the device's state needs, and opens the journal. The caller must call end.
func (a *Agent) begin(ctx context.Context) (j *journal, end func(), err error) {
	if err := durable.MkdirAll(a.cfg.DataDir, 0o755); err != nil {
		return nil, nil, err
	}
	lock, err := acquireLock(ctx, filepath.Join(a.cfg.DataDir, lockName), lockPatience)
	if err != nil {
		return nil, nil, err
	}
	j, err = openJournal(filepath.Join(a.cfg.DataDir, journalName))
	var damaged *JournalDamagedError
	if errors.As(err, &damaged) {
		// Without the record the boot loader's environment is the only truth, and it is enough: whatever runs was
		// installed and verified before it was switched to. Keep the damaged file for the person who will ask.
		a.log.Error("the journal is damaged; starting a new one", "error", err, "kept", damaged.Path+".damaged")
		if err = durable.Rename(damaged.Path, damaged.Path+".damaged"); err == nil {
			j, err = openJournal(damaged.Path)
		}
	}
	if err != nil {
		lock.Close()
		return nil, nil, err
	}
	end = func() {
		j.Close()
		lock.Close()
	}
	if err := a.adoptBootstrap(ctx, j); err != nil {
		end()
		return nil, nil, err
	}
	return j, end, nil
}

// ReadStatus says what the journal in a data directory holds. It takes no lock and changes nothing, so it may run
// beside a daemon; without a journal the device is idle and nothing is known of its system.
func ReadStatus(dataDir string) (Record, error) {
	r, err := readJournal(filepath.Join(dataDir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return Record{State: Idle}, nil
	}
	return r, err
}

func closeQuietly(c io.Closer) { _ = c.Close() }
