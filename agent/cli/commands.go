package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/twinkeel/twinkeel/agent"
)

func runDaemon(ctx context.Context, c *call) error {
	a, _, err := c.open(nil)
	if err != nil {
		err = agent.LeaveTrial(ctx, c.paths, slog.New(c.logHandler()), err)
		if errors.Is(err, agent.ErrRebootNeeded) {
			return quiet{err}
		}
		return err
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range signals {
			if s == syscall.SIGUSR1 {
				a.CheckUpdate()
			} else {
				a.SendInventory()
			}
		}
	}()
	err = a.Daemon(ctx)
	signal.Stop(signals)
	close(signals)
	<-done
	if errors.Is(err, agent.ErrRebootNeeded) {
		return quiet{err} // the log has said why
	}
	return err
}

func runCheckUpdate(_ context.Context, c *call) error   { return c.signalDaemon(syscall.SIGUSR1) }
func runSendInventory(_ context.Context, c *call) error { return c.signalDaemon(syscall.SIGUSR2) }

func (c *call) signalDaemon(s syscall.Signal) error {
	cfg, err := agent.LoadConfig(c.paths)
	if err != nil {
		return err
	}
	pid, err := cfg.DaemonPID()
	if err != nil {
		return err
	}
	if pid == 0 {
		return errors.New("no daemon is running")
	}
	if err := syscall.Kill(pid, s); err != nil {
		return fmt.Errorf("signalling the daemon (process %d): %w", pid, err)
	}
	return nil
}

// installResult is the result of install with --json.
type installResult struct {
	Installed      agent.Installed `json:"installed"`
	RebootRequired bool            `json:"reboot_required"`
}

func runInstall(ctx context.Context, c *call) error {
	p := newProgress(c)
	a, _, err := c.open(p.update)
	if err != nil {
		return err
	}
	installed, err := a.Install(ctx, c.args[0])
	p.end()
	if err != nil {
		return err
	}
	err = c.result(installResult{installed, true},
		fmt.Sprintf("%s is installed. Reboot to try it, then run `twinkeel-agent commit` to keep it.", installed.Name))
	if err == nil && c.rebootExitCode {
		return quiet{agent.ErrRebootNeeded}
	}
	return err
}

func runCommit(ctx context.Context, c *call) error {
	a, _, err := c.open(nil)
	if err != nil {
		return err
	}
	installed, err := a.Commit(ctx)
	if err != nil {
		return err
	}
	return c.result(installed, installed.Name+" is committed.")
}

// rollbackResult is the result of rollback with --json.
type rollbackResult struct {
	RebootRequired bool `json:"reboot_required"`
}

func runRollback(ctx context.Context, c *call) error {
	a, _, err := c.open(nil)
	if err != nil {
		return err
	}
	err = a.Rollback(ctx)
	switch {
	case err == nil:
		return c.result(rollbackResult{false}, "The update is rolled back; the running system stays.")
	case !errors.Is(err, agent.ErrRebootNeeded):
		return err
	}
	if err := c.result(rollbackResult{true}, "The update is rolled back. Reboot to return to the old system."); err != nil {
		return err
	}
	if c.rebootExitCode {
		return quiet{agent.ErrRebootNeeded}
	}
	return nil
}

// record reads what the journal knows; nothing is verified for that, and a daemon may be at work.
func (c *call) record() (agent.Record, error) {
	cfg, err := agent.LoadConfig(c.paths)
	if err != nil {
		return agent.Record{}, err
	}
	return agent.ReadStatus(cfg.DataDir)
}

func runShowArtifact(_ context.Context, c *call) error {
	r, err := c.record()
	if err != nil {
		return err
	}
	name := r.Installed.Name
	if name == "" {
		name = "unknown"
	}
	return c.result(map[string]string{"artifact_name": name}, name)
}

func runShowProvides(_ context.Context, c *call) error {
	r, err := c.record()
	if err != nil {
		return err
	}
	lines := []string{}
	for key, value := range r.Installed.Provides {
		lines = append(lines, key+"="+value)
	}
	if r.Installed.Group != "" {
		lines = append(lines, "artifact_group="+r.Installed.Group)
	}
	if r.Installed.Name != "" {
		lines = append(lines, "artifact_name="+r.Installed.Name)
	}
	slices.Sort(lines)
	if len(lines) == 0 && !c.json {
		return nil
	}
	return c.result(r.Installed, strings.Join(lines, "\n"))
}

func runStatus(_ context.Context, c *call) error {
	r, err := c.record()
	if err != nil {
		return err
	}
	line := string(r.State)
	if u := r.Update; u != nil {
		line += ": " + u.Name
		if u.Target != "" {
			line += " in slot " + string(u.Target)
		}
		if u.Reason != "" {
			line += " (" + u.Reason + ")"
		}
	}
	return c.result(r, line)
}

// quiet is an error that only sets the exit code: everything has been said.
type quiet struct{ error }

func (q quiet) Unwrap() error { return q.error }
