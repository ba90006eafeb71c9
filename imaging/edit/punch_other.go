//go:build !linux

package edit

import "os"

func punch(*os.File, int64, int64) (bool, error) { return false, nil }
