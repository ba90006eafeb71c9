package helper

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
)

// Keeper is what a helper does: it keeps at most one key open.
type Keeper interface {
	Open(ctx context.Context, q *Request) (*Response, error)
	// Sign signs with the key that was opened last.
	Sign(ctx context.Context, digest [sha256.Size]byte) ([]byte, error)
}

// Main is the main function of the helper called name, for keys that are named as keys says. It returns the exit code.
func Main(name, keys string, serve func() error) int {
	// What crashes prints one line, not the stacks of Go.
	debug.SetTraceback("none")
	if len(os.Args) == 2 && (os.Args[1] == "--version" || os.Args[1] == "version") {
		fmt.Fprintf(os.Stdout, "%s, protocol %d\n", name, Version)
		return 0
	}
	if len(os.Args) > 1 || isTerminal(os.Stdin) {
		fmt.Fprintf(os.Stderr, "%s is started by twinkeel, for keys that are named %s; it has nothing to say to people\n", name, keys)
		return 2
	}
	// A terminal interrupts twinkeel as well, which then ends this process. The signal is not ignored, which children would inherit.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	stderr := os.Stderr // serve may give modules and clients another one
	if err := serve(); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Serve answers requests one after another, on this goroutine, until the input ends, which is when twinkeel has. The context of a
// request ends then, too.
func Serve(ctx context.Context, in io.Reader, out io.Writer, k Keeper) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	requests := make(chan *Request)
	go func() {
		r := bufio.NewReader(in)
		for {
			q := new(Request)
			if err := ReadLine(r, q); err != nil {
				cancel(err)
				return
			}
			select {
			case requests <- q:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		case q := <-requests:
			answer, err := reply(ctx, k, q)
			clear(q.PIN)
			if err != nil {
				answer = &Response{Failure: asFailure(err)}
			}
			answer.Version = Version
			if err := WriteLine(out, answer); err != nil {
				return err
			}
		}
	}
}

func reply(ctx context.Context, k Keeper, q *Request) (*Response, error) {
	switch {
	case q.Version != Version:
		return nil, &Failure{Code: BadRequest, Detail: "another version of the protocol"}
	case q.Op == OpOpen:
		return k.Open(ctx, q)
	case q.Op == OpSign && len(q.Digest) != sha256.Size:
		return nil, &Failure{Code: BadRequest, Detail: "the digest is not a SHA-256"}
	case q.Op == OpSign:
		signature, err := k.Sign(ctx, [sha256.Size]byte(q.Digest))
		return &Response{Signature: signature}, err
	}
	return nil, &Failure{Code: BadRequest, Detail: "an operation that is not known"}
}

func asFailure(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{Code: Failed, Detail: OneLine(err.Error(), os.Getenv)}
}
