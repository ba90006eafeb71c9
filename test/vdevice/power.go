package vdevice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twinkeel/twinkeel/agent"
	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/test/vdevice/bootloader"
)

// ErrBricked: the device was reset again and again, and no system came up.
var ErrBricked = errors.New("no slot holds a system that comes up")

const (
	// rebootExit is the agent's exit code for "reboot now".
	rebootExit = 4
	// maxResets in a row without a system that comes up; two slots need at most three.
	maxResets = 5
	// powerOffPatience is how long the system may take to stop before the power goes.
	powerOffPatience = 5 * time.Second
)

// RunOptions say how the device behaves.
type RunOptions struct {
	Console   *Console
	BootDelay time.Duration // how long the boot loader and the kernel take
}

// Run switches the device on. It returns nil when ctx ends, which is the power button held down.
func (d *Device) Run(ctx context.Context, o RunOptions) error {
	power, err := os.OpenFile(filepath.Join(d.Dir, "power.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer power.Close()
	if unix.Flock(int(power.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return fmt.Errorf("%s is switched on already", d.Dir)
	}
	for resets := 0; ctx.Err() == nil; {
		came, err := d.boot(ctx, o)
		if err != nil {
			return err
		}
		if resets++; came {
			resets = 0
		}
		if resets >= maxResets {
			return fmt.Errorf("%s: %w", d.Name, ErrBricked)
		}
	}
	o.Console.printf("power: off")
	return nil
}

// boot is one life of the device, from power on to reset. It says whether a system came up.
func (d *Device) boot(ctx context.Context, o RunOptions) (came bool, err error) {
	parts := [2]int{d.slots[agent.SlotA].BootPart, d.slots[agent.SlotB].BootPart}
	decision, err := bootloader.PowerOn(d.env, parts)
	if err != nil {
		return false, fmt.Errorf("%s: the boot loader: %w", d.Name, err)
	}
	slot := agent.SlotA
	if decision.Part == parts[1] {
		slot = agent.SlotB
	}
	if decision.FellBack {
		o.Console.warnf("boot: bootcount %d is over the limit: back to slot %s", decision.BootCount, slot)
	}
	o.Console.printf("boot: slot %s (partition %d), bootcount %d", slot, decision.Part, decision.BootCount)
	if wait(ctx, o.BootDelay) != nil {
		return false, nil
	}
	program, version, err := d.startSystem(slot)
	var panicked *panicError
	if errors.As(err, &panicked) {
		o.Console.warnf("kernel: Kernel panic - not syncing: %v", panicked)
		o.Console.warnf("watchdog: reset")
		return false, nil
	}
	if err != nil {
		return false, err
	}
	o.Console.printf("init: %s", version)
	return true, d.runAgent(ctx, o, program)
}

// startSystem checks that the slot comes up, and takes its agent out of it.
func (d *Device) startSystem(slot agent.SlotName) (program, version string, err error) {
	disk, err := os.Open(filepath.Join(d.Dir, diskName))
	if err != nil {
		return "", "", err
	}
	defer disk.Close()
	root, err := mountRoot(disk, d.slots[slot].Offset, d.slots[slot].Size)
	if err != nil {
		return "", "", err
	}
	if err := runnable(root, agentPath, 0); err != nil {
		return "", "", &panicError{fmt.Sprintf("init has nothing to start: %v", err)}
	}
	if program, err = d.unpackAgent(root, slot); err != nil {
		return "", "", err
	}
	release := osRelease(root)
	if version = release["PRETTY_NAME"]; version == "" {
		version = "a system without os-release"
	}
	line := fmt.Sprintf("root=/dev/vda%d rw twinkeel.slot=%s\n", d.slots[slot].BootPart, slot)
	path := filepath.Join(d.Dir, "proc", "cmdline")
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", "", err
	}
	return program, version, durable.WriteFile(path, []byte(line), 0o644)
}

func (d *Device) unpackAgent(root *imaging.Ext4, slot agent.SlotName) (string, error) {
	content, err := root.ReadFile(agentPath)
	if err != nil {
		return "", &panicError{fmt.Sprintf("/%s: %v", agentPath, err)}
	}
	path := filepath.Join(d.Dir, "run", "twinkeel-agent-"+string(slot))
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, durable.WriteFile(path, content, 0o755)
}

// runAgent runs the slot's agent until it asks for a reboot, dies (then the watchdog resets the device) or the power
// goes off.
func (d *Device) runAgent(ctx context.Context, o RunOptions, program string) error {
	// The child must die with this process, and Linux ties that to the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, "--root", d.Dir, "daemon")
	cmd.Dir = d.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = powerOffPatience
	output := o.Console.lines("agent: ")
	cmd.Stdout, cmd.Stderr = output, output
	err := cmd.Run()
	output.flush()
	switch {
	case ctx.Err() != nil:
		return nil
	case cmd.ProcessState == nil:
		return fmt.Errorf("starting the agent: %w", err)
	case cmd.ProcessState.ExitCode() == rebootExit:
		o.Console.printf("reboot")
		return nil
	}
	o.Console.warnf("watchdog: the agent ended (%v): reset", cmd.ProcessState)
	_ = wait(ctx, time.Second) // when the power goes meanwhile, Run sees it
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
