package cli

import (
	"context"
	"errors"

	"github.com/twinkeel/twinkeel/artifactfmt"
)

// The exit codes, the same for every command.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitVerify      = 3
	exitNothing     = 4
	exitInterrupted = 130
)

const exitCodeHelp = `Exit codes:
    0  done
    1  failed
    2  wrong usage, or a target that flash refuses; with plan --detailed-exitcode: there is something to do
    3  a check said no: artifact verify, fmt --check, flash
    4  nothing to do: apply, test, devices accept, devices reject
  130  interrupted`

// exitError is an error whose exit code the command chose. A nil err prints nothing: the command has said it already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exitCode(ctx context.Context, err error) int {
	var chosen *exitError
	var checksum *artifactfmt.ChecksumError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &chosen):
		return chosen.code
	case ctx.Err() != nil:
		return exitInterrupted
	case isUsage(err):
		return exitUsage
	case errors.Is(err, artifactfmt.ErrSignature), errors.Is(err, artifactfmt.ErrUnsigned), errors.As(err, &checksum):
		return exitVerify
	}
	return exitFailed
}
