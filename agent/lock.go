package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lockName is locked while something changes the device's state: for the length of a deployment by the daemon, of
	// a command by the command line. Between two polls the daemon does not hold it, so a person can commit.
	lockName = "twinkeel-agent.lock"
	// daemonLockName is locked by the daemon as long as it runs, and holds its process id.
	daemonLockName = "twinkeel-agent.pid"

	lockPatience = 10 * time.Second
)

// acquireLock takes an advisory lock, which ends with the process however it dies.
func acquireLock(ctx context.Context, path string, patience time.Duration) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %s", path, reason(err))
	}
	deadline := time.Now().Add(patience)
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			closeQuietly(f)
			return nil, fmt.Errorf("locking %s: %w", path, err)
		case !time.Now().Before(deadline):
			closeQuietly(f)
			return nil, withHint(fmt.Errorf("%w (%s is locked)", ErrBusy, path), "wait until it is done, or stop it")
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			closeQuietly(f)
			return nil, err
		}
	}
}

// lockDaemon makes this process the data directory's daemon.
func lockDaemon(ctx context.Context, path string) (*os.File, error) {
	f, err := acquireLock(ctx, path, 0)
	if err != nil {
		return nil, err
	}
	// For `check-update`, which asks the daemon by signal. Losing it in a power cut loses nothing, and a full disk must not
	// keep the daemon from starting. It has a fixed length, to be written over.
	_, _ = fmt.Fprintf(f, "%-20d\n", os.Getpid())
	return f, nil
}

// daemonPID is the process id of the running daemon, 0 if there is none.
func daemonPID(path string) (int, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return 0, nil
		}
		return 0, fmt.Errorf("opening %s: %s", path, reason(err))
	}
	defer closeQuietly(f)
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return 0, nil // nobody holds it: what is written there is old
	}
	data := make([]byte, 32)
	n, _ := f.ReadAt(data, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data[:n])))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s holds no process id", path)
	}
	return pid, nil
}
