package pkcs11

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
	stdout *bufio.Reader
	said   *ending

	mu   sync.Mutex
	dead *Failure // why no request can be made any more
}

// Start starts the helper at path. It ends when ctx does, when Close is called, and when this process ends. Variables of the
// environment that begin with one of hide are kept from it.
func Start(ctx context.Context, path string, hide ...string) (*Client, error) {
	cmd := exec.CommandContext(ctx, path)
	for _, v := range os.Environ() {
		hidden := false
		for _, h := range hide {
			hidden = hidden || strings.HasPrefix(v, h)
		}
		if !hidden {
			cmd.Env = append(cmd.Env, v)
		}
	}
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
	return &Client{cmd: cmd, stdin: stdin, stdout: bufio.NewReader(stdout), said: said}, nil
}

// Close ends the helper.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead == nil {
		_ = c.end(&Failure{Code: HelperEnded, Detail: "it was closed"})
	}
	return nil
}

// Do makes one request. The error is a *Failure or the context's. A request that is given up ends the helper, because
// no module can be interrupted.
func (c *Client) Do(ctx context.Context, q Request) (*Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return nil, c.dead
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	q.Version = Version
	var answer Response
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err = WriteLine(c.stdin, q); err == nil {
			err = ReadLine(c.stdout, &answer)
		}
	}()
	select {
	case <-done:
	case <-ctx.Done():
		_ = c.cmd.Process.Kill()
		<-done // the pipes are closed with the process
		_ = c.end(&Failure{Code: HelperEnded, Detail: "a request was given up"})
		return nil, ctx.Err()
	}
	switch {
	case err != nil:
		code := HelperBroken
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrClosed) || isPipe(err) {
			code = HelperEnded
		}
		return nil, c.end(&Failure{Code: code, Detail: err.Error()})
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
	if f.Code == HelperEnded && c.cmd.ProcessState != nil && !c.cmd.ProcessState.Success() {
		f.Detail = c.cmd.ProcessState.String()
	}
	// The first line is the cause; stacks of Go may follow.
	if said, _, _ := strings.Cut(strings.TrimSpace(c.said.String()), "\n"); said != "" {
		f.Detail += ": " + said
	}
	c.dead = f
	return f
}

// ending keeps the first KiB that is written to it: a crash names its cause first.
type ending struct {
	mu   sync.Mutex
	data []byte
}

func (e *ending) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.data = append(e.data, p[:min(len(p), 1024-len(e.data))]...)
	return len(p), nil
}

func (e *ending) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return string(e.data)
}

func isPipe(err error) bool {
	return strings.Contains(err.Error(), "broken pipe") || strings.Contains(err.Error(), "file already closed")
}
