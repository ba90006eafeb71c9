package helper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Client is a running helper. Its methods may be called by several goroutines.
type Client struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
	lines  *bufio.Reader
	said   *ending

	turn chan struct{} // holds something while the rest is in use
	dead *Failure      // why no request can be made any more
}

// Start starts the helper at path with the environment env. It ends when ctx does, when Close is called, and when this process ends.
func Start(ctx context.Context, path string, env []string) (*Client, error) {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = env
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	said := &ending{}
	cmd.Stderr = said
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Client{cmd: cmd, stdin: stdin, stdout: stdout, lines: bufio.NewReader(stdout), said: said, turn: make(chan struct{}, 1)}, nil
}

// Close ends the helper.
func (c *Client) Close() error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	if c.dead == nil {
		_ = c.end(&Failure{Code: HelperEnded, Detail: "it was closed"})
	}
	return nil
}

// Do makes one request, which may take until limit from when its turn comes. The error is a *Failure or the context's. A request
// that is given up ends the helper, because no module can be interrupted.
func (c *Client) Do(ctx context.Context, q Request, limit time.Duration) (*Response, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.dead != nil {
		return nil, c.dead
	}
	q.Version = Version
	var answer Response
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err = WriteLine(c.stdin, q); err == nil {
			err = ReadLine(c.lines, &answer)
		}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	late := false
	select {
	case <-done:
	case <-ctx.Done():
	case <-timer.C:
		late = true
	}
	if late || ctx.Err() != nil {
		_ = c.cmd.Process.Kill()
		c.stdin.Close()
		c.stdout.Close() // programs that the helper has started may hold the other end
		<-done
		_ = c.end(&Failure{Code: HelperEnded, Detail: "a request was given up"})
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return nil, &Failure{Code: TimedOut, Detail: "no answer within " + limit.String()}
	}
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrClosed) || isPipe(err):
		return nil, c.end(&Failure{Code: HelperEnded})
	case err != nil:
		return nil, c.end(&Failure{Code: HelperBroken, Detail: err.Error()})
	case answer.Version != Version:
		return nil, c.end(&Failure{Code: HelperBroken, Detail: fmt.Sprintf("it speaks version %d of the protocol, not %d", answer.Version, Version)})
	case answer.Failure != nil:
		return nil, answer.Failure
	}
	return &answer, nil
}

// end makes sure that the process is gone and keeps the reason, with what the process said.
func (c *Client) end(f *Failure) *Failure {
	c.stdin.Close()
	if f.Code != HelperEnded {
		_ = c.cmd.Process.Kill()
	}
	timer := time.AfterFunc(2*time.Second, func() { _ = c.cmd.Process.Kill() })
	_ = c.cmd.Wait()
	timer.Stop()
	if f.Detail == "" {
		f.Detail = c.cmd.ProcessState.String()
	}
	// The first line is the cause; stacks of Go may follow.
	if said, _, _ := strings.Cut(strings.TrimSpace(c.said.String()), "\n"); said != "" {
		f.Detail += ": " + said
	}
	c.dead = f
	return f
}

// maxSaid is more than any secret has, which must not be cut before it is looked for.
const maxSaid = 64 << 10

// ending keeps the beginning of what is written to it: a crash names its cause first.
type ending struct {
	mu   sync.Mutex
	data []byte
}

func (e *ending) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.data = append(e.data, p[:min(len(p), maxSaid-len(e.data))]...)
	return len(p), nil
}

func (e *ending) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return string(e.data)
}

func isPipe(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "broken pipe") || strings.Contains(err.Error(), "file already closed"))
}
