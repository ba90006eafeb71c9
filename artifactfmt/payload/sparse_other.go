//go:build !linux

package payload

import (
	"errors"
	"os"
)

// nextData isn't known here; holes are read as zeros.
func nextData(*os.File, int64) (start, end int64, err error) { return 0, 0, errors.ErrUnsupported }
