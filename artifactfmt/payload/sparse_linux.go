package payload

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// nextData returns where the next data begin at or behind a place of a file, and where they end. Behind the last data both
// are the end of the file.
func nextData(f *os.File, at int64) (start, end int64, err error) {
	start, err = f.Seek(at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // nothing but a hole is left
		info, err := f.Stat()
		if err != nil {
			return 0, 0, err
		}
		end = max(at, info.Size())
		return end, end, nil
	}
	if err != nil {
		return 0, 0, err
	}
	if end, err = f.Seek(start, unix.SEEK_HOLE); err != nil {
		return 0, 0, err
	}
	return start, end, nil
}
