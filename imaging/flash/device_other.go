//go:build !linux

package flash

import (
	"errors"
	"syscall"
)

var (
	errLinuxOnly = errors.New("flashing works on Linux only")
	goneErrors   = []error{syscall.ENXIO}
	brokenErrors = []error{syscall.EIO}
)

// Host is this machine.
func Host() System {
	return System{Number: func(string) (uint32, uint32, error) { return 0, 0, errLinuxOnly }}
}

// Open claims a disk for writing.
func (System) Open(*Disk, int64) (*Target, func() error, error) { return nil, nil, errLinuxOnly }
