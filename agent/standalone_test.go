package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/durable"
)

func (d *device) file(content []byte) string {
	d.t.Helper()
	d.write("update.mender", string(content))
	return d.path("update.mender")
}

func TestInstallCommit(t *testing.T) {
	t.Parallel()
	d, next := newDevice(t), image(2, imageSize)
	ctx := t.Context()
	if _, err := d.agent().Commit(ctx); !errors.Is(err, ErrNothingPending) {
		t.Errorf("commit without an update: %v", err)
	}
	if err := d.agent().Rollback(ctx); !errors.Is(err, ErrNothingPending) {
		t.Errorf("rollback without an update: %v", err)
	}
	path := d.file(artifact(t, next, nil))
	installed, err := d.agent().Install(ctx, path)
	if err != nil || installed.Name != "release-2" {
		t.Fatalf("install: %v, %v", installed, err)
	}
	if vars := d.vars(); vars[bootenv.VarUpgradeAvailable] != "1" || vars[bootenv.VarBootPart] != "3" || vars[bootenv.VarBootCount] != "0" {
		t.Errorf("environment after the install: %v", vars)
	}
	if _, err := d.agent().Install(ctx, path); err == nil || !strings.Contains(err.Error(), "pending") {
		t.Errorf("a second install: %v", err)
	}
	if _, err := d.agent().Commit(ctx); err == nil || !strings.Contains(err.Error(), "does not run yet") {
		t.Errorf("commit before the reboot: %v", err)
	}
	d.powerOn()
	if _, err := d.agent().Install(ctx, path); err == nil || !strings.Contains(err.Error(), "pending") {
		t.Errorf("a second install after the reboot: %v", err)
	}
	installed, err = d.agent().Commit(ctx)
	if err != nil || installed.Name != "release-2" {
		t.Fatalf("commit: %v, %v", installed, err)
	}
	if vars := d.vars(); vars[bootenv.VarUpgradeAvailable] != "0" || vars[bootenv.VarBootPart] != "3" {
		t.Errorf("environment after the commit: %v", vars)
	}
	if _, err := d.agent().Commit(ctx); !errors.Is(err, ErrNothingPending) {
		t.Errorf("a second commit: %v", err)
	}
}

func TestInstallRollback(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reboot, commitFails bool
	}{"before the reboot": {false, false}, "in the new system": {true, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, ctx := newDevice(t), t.Context()
			if _, err := d.agent().Install(ctx, d.file(artifact(t, image(2, imageSize), nil))); err != nil {
				t.Fatal(err)
			}
			if c.reboot {
				d.powerOn()
			}
			err := d.agent().Rollback(ctx)
			if errors.Is(err, ErrRebootNeeded) != c.reboot || !c.reboot && err != nil {
				t.Fatalf("rollback: %v", err)
			}
			d.checkOld()
			if c.commitFails {
				if _, err := d.agent().Commit(ctx); err == nil || !strings.Contains(err.Error(), "being rolled back") {
					t.Errorf("commit after rollback: %v", err)
				}
			}
			if got := d.powerOn(); got != SlotA {
				t.Errorf("booted %s", got)
			}
			if err := d.agent().Rollback(ctx); !errors.Is(err, ErrNothingPending) {
				t.Errorf("a second rollback: %v", err)
			}
			if r := d.record(); r.State != Idle || r.Installed.Name != "" {
				t.Errorf("record %+v", r)
			}
		})
	}
}

// Nobody committed, the device rebooted: the boot loader has returned, and the update is gone.
func TestInstallForgotten(t *testing.T) {
	t.Parallel()
	d, ctx := newDevice(t), t.Context()
	path := d.file(artifact(t, image(2, imageSize), nil))
	if _, err := d.agent().Install(ctx, path); err != nil {
		t.Fatal(err)
	}
	d.powerOn()
	d.powerOn()
	_, err := d.agent().Commit(ctx)
	if !errors.Is(err, ErrNothingPending) || !errors.Is(err, ErrRolledBack) {
		t.Errorf("commit: %v", err)
	}
	d.checkOld()
	if _, err := d.agent().Install(ctx, path); err != nil {
		t.Errorf("the next install: %v", err)
	}
}

func TestInstallFromURL(t *testing.T) {
	t.Parallel()
	d, next := newDevice(t), image(2, imageSize)
	s := newServer(t, artifact(t, next, func(a *artifactfmt.Artifact) { a.Compression = artifactfmt.Gzip }))
	if _, err := d.agent().Install(t.Context(), s.URL+"/artifact"); err != nil || !d.holds(SlotB, next) {
		t.Errorf("install: %v", err)
	}
	if _, err := newDevice(t).agent().Install(t.Context(), s.URL+"/nothing"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("install of nothing: %v", err)
	}
}

// A daemon leaves an update by hand alone, and goes on polling when it is over.
func TestDaemonBesideStandalone(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newServer(t, artifact(t, image(3, imageSize), nil))
	d.serverURL(s)
	if _, err := d.agent().Install(t.Context(), d.file(artifact(t, image(2, imageSize), nil))); err != nil {
		t.Fatal(err)
	}
	d.powerOn()
	a := d.agent()
	if err := a.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := &loop{Agent: a}
	if err := l.turn(t.Context()); err != nil || len(s.statuses) != 0 || d.record().State != Rebooting {
		t.Fatalf("a turn beside the update: %v, reported %v, state %s", err, s.statuses, d.record().State)
	}
	if _, err := d.agent().Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.name = "release-3"
	s.artifact = artifact(t, image(3, imageSize), func(a *artifactfmt.Artifact) { a.Name = "release-3" })
	d.deploy(s)
	if s.final != "success" || !d.holds(SlotA, image(3, imageSize)) {
		t.Errorf("reported %q", s.final)
	}
}

// The disk is full from the n-th step on, for every n; and only at the n-th step. In place writes of the journal and
// of the slots do not need space, but here even they fail. An error must leave the old system to boot, and the boot
// loader untouched; and when there is space again, the same install must work.
func TestFullDisk(t *testing.T) {
	next := image(2, imageSize)
	file := artifact(t, next, nil)
	defer durable.SetHook(nil)
	for _, once := range []bool{false, true} {
		failures := 0
		for step := int64(1); ; step++ {
			d := newDevice(t)
			path := d.file(file)
			a := d.agent()
			hit := ""
			durable.SetHook(func(s durable.Step) error {
				if s.Number == step || s.Number > step && !once {
					if hit == "" {
						hit = s.Op + " " + s.Path
					}
					return syscall.ENOSPC
				}
				return nil
			})
			_, err := a.Install(t.Context(), path)
			durable.SetHook(nil)
			if hit == "" {
				break
			}
			where := fmt.Sprintf("step %d (%s), once: %v", step, hit, once)
			if err == nil {
				t.Errorf("%s: installed", where)
				continue
			}
			failures++
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s: the error hides the reason: %v", where, err)
			}
			vars := d.vars()
			// The undoing of the switch is itself a write. When it fails too, the error must say so.
			if vars[bootenv.VarUpgradeAvailable] != "0" && !strings.Contains(err.Error(), "undoing the switch") {
				t.Errorf("%s: the switch is left on: %v", where, err)
			}
			d.checkBootable(d.old, next)
			if vars[bootenv.VarUpgradeAvailable] == "0" {
				d.checkOld()
				if _, err := d.agent().Install(t.Context(), path); err != nil || !d.holds(SlotB, next) {
					t.Errorf("%s: the next install: %v", where, err)
				}
			}
		}
		t.Logf("once %v: %d steps failed", once, failures)
		if failures < 10 {
			t.Errorf("only %d steps: the hook is not where it should be", failures)
		}
	}
}

// The same for a deployment whose troubles pass: it must end in success.
func TestFullDiskForAWhile(t *testing.T) {
	next := image(2, imageSize)
	file := artifact(t, next, nil)
	defer durable.SetHook(nil)
	for step := int64(1); ; step++ {
		d := newDevice(t)
		s := newServer(t, file)
		d.serverURL(s)
		hit := ""
		durable.SetHook(func(at durable.Step) error {
			if at.Number == step && !d.atBoot {
				hit = at.Op + " " + strings.TrimPrefix(at.Path, d.root)
				return syscall.ENOSPC
			}
			return nil
		})
		d.deployThrough(s)
		durable.SetHook(nil)
		d.checkBootable(d.old, next)
		if hit == "" {
			t.Logf("%d steps", step-1)
			return
		}
		vars := d.vars()
		if vars[bootenv.VarUpgradeAvailable] != "0" {
			t.Errorf("step %d (%s): the boot loader still waits", step, hit)
		}
		ok := s.final == "success" && d.holds(SlotB, next) || strings.Contains(s.final, "no space left")
		if !ok {
			t.Errorf("step %d (%s): reported %q", step, hit, s.final)
		}
	}
}

// deployThrough is deploy with an init that starts the agent again when it ends with an error.
func (d *device) deployThrough(s *server) {
	d.t.Helper()
	for range 12 {
		a, err := loadTestAgent(d.root, testLog(d.t))
		if err != nil {
			d.t.Fatal(err)
		}
		ctx, stop := contextUntil(d.t, s)
		err = a.Daemon(ctx)
		stop()
		switch {
		case errors.Is(err, ErrRebootNeeded):
			d.powerOn()
		case err == nil:
			return
		}
	}
	d.t.Fatalf("no end; reported %v", s.statuses)
}

func TestMissingSlotIsNotCreated(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/mmcblk0p3"
	if _, err := openSlot(Slot{Device: path}); err == nil {
		t.Error("opened")
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the file was created")
	}
	for name, s := range map[string]Slot{
		"a directory": {Device: t.TempDir()}, "a character device": {Device: "/dev/null"},
	} {
		if _, err := openSlot(s); err == nil {
			t.Errorf("%s opened as a slot", name)
		}
	}
	d := newDevice(t)
	for _, s := range []Slot{{Offset: diskSize - 10, Size: 11}, {Offset: diskSize + 1}, {Offset: -1, Size: 5}} {
		s.Device = d.path("disk.img")
		if _, err := openSlot(s); err == nil {
			t.Errorf("%+v opened although it is outside", s)
		}
	}
}
