package durable

import (
	"errors"
	"sync/atomic"
	"syscall"
)

// Step is one change to the medium, named before it happens.
type Step struct {
	Number int64  // counts from 1 since the hook was set
	Op     string // "create", "write", "fsync", "rename", "fsync directory", "remove", "mkdir", "write at"
	Path   string
}

var (
	hook      atomic.Pointer[func(Step) error]
	stepCount atomic.Int64
)

// SetHook makes every function of this package call h before each step that changes the medium; an error from h makes
// that step fail in its place. It exists for crash tests, which kill their own process or fill the disk at step N for
// every N; a program never calls it. A nil h removes the hook.
func SetHook(h func(Step) error) {
	stepCount.Store(0)
	if h == nil {
		hook.Store(nil)
		return
	}
	hook.Store(&h)
}

func step(op, path string) error {
	if h := hook.Load(); h != nil {
		return (*h)(Step{Number: stepCount.Add(1), Op: op, Path: path})
	}
	return nil
}

// isSyncUnsupported tells file systems that cannot sync a directory (some FUSE and network ones answer EINVAL or
// ENOTSUP) from a failed sync. Nothing better can be done there.
func isSyncUnsupported(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP)
}
