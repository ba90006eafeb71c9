package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
)

// errReadBack: the slot does not give back what was written to it.
var errReadBack = errors.New("the slot does not hold what was written to it; its storage is failing")

// installPayload streams an artifact into the inactive slot and proves that it arrived there. It returns the update
// with all that the later states need to know. Until it returns nil, and in it, nothing but the inactive slot changes.
//
// Everything that can refuse the artifact comes before the first byte is written: signature, device type, depends,
// kind and number of payloads, size, and whether the boot loader could be switched at all.
func (a *Agent) installPayload(ctx context.Context, src io.Reader, u Update, installed Installed) (Update, error) {
	deviceType, err := a.cfg.deviceType()
	if err != nil {
		return u, err
	}
	running, err := a.sys.RunningSlot()
	if err != nil {
		return u, err
	}
	if err := a.checkBoot(running); err != nil {
		return u, err
	}
	target, err := a.cfg.slot(running.Other())
	if err != nil {
		return u, err
	}
	if own, err := a.cfg.slot(running); err == nil && own.BootPart == target.BootPart {
		return u, &ConfigError{
			Reason: fmt.Sprintf("both slots are boot partition %d; a switch would change nothing", own.BootPart),
			Advice: "give the slots in the section \"Twinkeel\" different values of BootPart",
		}
	}

	slot, err := openSlot(target)
	if err != nil {
		return u, err
	}
	defer closeQuietly(slot)

	// Without an end to what is read, empty compressed members and tar headers could go on for ever.
	src = &boundedReader{src, slot.size + slot.size/64 + 16<<20}
	r, err := artifactfmt.NewReader(src, a.readOptions())
	if err != nil {
		return u, err
	}
	info := r.Info()
	if u.Name != "" && info.Name != u.Name {
		return u, fmt.Errorf("%w: it is named %q, the deployment is of %q", ErrRefused, info.Name, u.Name)
	}
	if err := checkFits(info, deviceType, installed); err != nil {
		return u, err
	}
	if err := checkSupported(info, r.Scripts()); err != nil {
		return u, err
	}
	file, err := r.Next()
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: it has no payload", ErrRefused)
	}
	if err != nil {
		return u, err
	}
	if file.Size <= 0 || file.Size > slot.size {
		return u, fmt.Errorf("%w: its root file system has %d bytes, slot %s (%s) has %d",
			ErrRefused, file.Size, running.Other(), target.Device, slot.size)
	}

	u.Name, u.Target, u.Size, u.SHA256 = info.Name, running.Other(), file.Size, file.SHA256
	u.After = installed.after(info)
	if err := u.fits(installed); err != nil {
		return u, err // better now than when it must be written
	}

	started := time.Now()
	a.log.Info("writing", "artifact_name", u.Name, "slot", u.Target, "bytes", u.Size, "key", shortID(info.KeyID))
	stats, err := slot.fill(ctx, file, file.Size, a.progress)
	if err != nil {
		return u, err
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("%w: it has more than one payload file", ErrRefused)
		}
		return u, err
	}
	written := time.Since(started)
	if err := a.verifySlot(ctx, slot, &u); err != nil {
		return u, err
	}
	a.log.Info("verified by reading back", "slot", u.Target, "written", stats.Written, "unchanged", stats.Skipped,
		"flushes", stats.Flushes, "write_time", written.Round(time.Millisecond), "total_time", time.Since(started).Round(time.Millisecond))
	return u, slot.Close()
}

// boundedReader fails where an artifact goes on beyond what could be in it.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("%w: it is much larger than the slot", ErrRefused)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func shortID(id string) string {
	if id == "" {
		return "none"
	}
	return id[:min(12, len(id))]
}

func (a *Agent) verifySlot(ctx context.Context, slot *slotFile, u *Update) error {
	got, err := slot.digest(ctx, u.Size)
	if err != nil {
		return err
	}
	if got != u.SHA256 {
		return fmt.Errorf("%w: SHA-256 is %s, must be %s", errReadBack, got, u.SHA256)
	}
	return nil
}

// checkSupported refuses what this agent does not do, rather than do half of it.
func checkSupported(info *artifactfmt.Info, scripts []artifactfmt.Script) error {
	if info.PayloadType != artifactfmt.RootfsImage {
		kind := info.PayloadType
		if kind == "" {
			kind = "none (a bootstrap artifact)"
		}
		return fmt.Errorf("%w: its payload type is %s; only %s is supported", ErrRefused, kind, artifactfmt.RootfsImage)
	}
	if len(scripts) > 0 {
		return fmt.Errorf("%w: it contains state scripts (%s), which are not supported", ErrRefused, printable(scripts[0].Name, 80))
	}
	return nil
}

// checkBoot makes sure that a switch of the boot loader would work.
func (a *Agent) checkBoot(running SlotName) error {
	slot, err := a.cfg.slot(running)
	if err != nil {
		return err
	}
	vars, err := a.boot.Load()
	if err != nil {
		return fmt.Errorf("reading the boot loader's environment: %w", err)
	}
	if onTrial(vars) && !boots(vars, slot) {
		// Somebody told the boot loader to try the other slot, and no record says that its content is any good.
		a.log.Warn("taking back a switch of the boot loader that this agent did not make")
		if err := a.boot.Update(settle(slot)); err != nil {
			return fmt.Errorf("setting the boot loader's environment back: %w", err)
		}
		if vars, err = a.boot.Load(); err != nil {
			return fmt.Errorf("reading the boot loader's environment: %w", err)
		}
	}
	if err := checkEnv(vars, slot, running); err != nil || a.cfg.BootEnvironment.Type != "u-boot" {
		return err
	}
	return checkLimit(vars)
}
