package edit

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// punch makes a hole in a file and tells whether that worked.
func punch(f *os.File, off, size int64) (bool, error) {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return false, nil
	}
	return err == nil, err
}
