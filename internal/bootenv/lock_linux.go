package bootenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// fwLockFile is what fw_printenv and fw_setenv of libubootenv and U-Boot lock.
const fwLockFile = "/var/lock/fw_printenv.lock"

// lockEnvironment keeps other writers away until the returned function is called. For a device it takes the lock that
// fw_setenv takes; an environment in a regular file (an image, a virtual device) is locked itself.
func lockEnvironment(path string) (unlock func(), err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening the boot environment: %w", err)
	}
	name, flags := path, os.O_RDONLY
	if !info.Mode().IsRegular() {
		name, flags = fwLockFile, os.O_RDWR|os.O_CREATE
	}
	f, err := os.OpenFile(name, flags, 0o644)
	switch {
	case errors.Is(err, fs.ErrNotExist) && name == fwLockFile:
		return func() {}, nil // a system without /var/lock has no fw_setenv that would lock there either
	case err != nil:
		return nil, fmt.Errorf("locking the boot environment: %w", err)
	}
	return flock(f)
}

func flock(f *os.File) (unlock func(), err error) {
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// dropCache makes the next read come from the medium and not from memory, where the kernel can do that.
func dropCache(f *os.File, offset, size int64) {
	// Best effort: without it the read back only proves that the right file was written.
	_ = unix.Fadvise(int(f.Fd()), offset, size, unix.FADV_DONTNEED)
}
