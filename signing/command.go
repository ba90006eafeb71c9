package signing

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// commandLimit leaves a person time to touch a device or type a PIN.
const commandLimit = 5 * time.Minute

// OpenCommand makes a Signer of a program: it gets the message on its standard input and writes the signature to its standard output,
// as raw bytes, in ASN.1 or in base64. It is started in dir ("" is the current directory), directly and not by a shell, and
// has five minutes. Public is the key that its signatures must be valid for.
func OpenCommand(dir string, argv []string, public crypto.PublicKey) (Signer, error) {
	if len(argv) == 0 || argv[0] == "" {
		return nil, &KeyError{Path: "of a command", Reason: "the command is empty"}
	}
	// Only the program's name: arguments may hold what must not be printed.
	name := "of the command " + printable(filepath.Base(argv[0]))
	if public == nil {
		return nil, &KeyError{Path: name, Reason: "a signing command needs the public key that its signatures are for"}
	}
	e, err := newExternal(name, public)
	if err != nil {
		return nil, err
	}
	program := argv[0]
	if strings.ContainsRune(program, filepath.Separator) && !filepath.IsAbs(program) {
		program = filepath.Join(dir, program)
	}
	path, err := exec.LookPath(program)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, &KeyError{Path: name, Reason: "the program is not found or may not be executed", Err: err}
	}
	return &messageSigner{external: e, sign: func(ctx context.Context, message []byte) ([]byte, error) {
		out, err := runCommand(ctx, commandLimit, dir, path, argv[1:], message)
		if err != nil {
			var ke *KeyError
			if errors.As(err, &ke) {
				ke.Path = name
			}
			return nil, err
		}
		return ParseSignature(out)
	}}, nil
}

func runCommand(ctx context.Context, limit time.Duration, dir, path string, args []string, message []byte) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(limited, path, args...)
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(message)
	out, said := &head{limit: maxSignature + 1}, &tail{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, said
	cmd.WaitDelay = 2 * time.Second // for children that keep the pipes open
	err := cmd.Run()
	switch {
	case err == nil && len(out.data) == 0:
		return nil, &KeyError{Reason: "it wrote no signature" + said.quote()}
	case err == nil && out.more:
		return nil, &KeyError{Reason: fmt.Sprintf("it wrote more than %d KiB, which no signature has", maxSignature>>10)}
	case err == nil:
		return out.data, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		return nil, &KeyError{Reason: fmt.Sprintf("it did not finish within %s and was stopped%s", limit, said.quote()), Err: limited.Err()}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, &KeyError{Reason: fmt.Sprintf("it failed (%s)%s", exit.ProcessState, said.quote())}
	}
	return nil, &KeyError{Reason: "it could not be run: " + oneLine(err.Error(), Options{}), Err: err}
}

// head keeps the beginning of what is written to it.
type head struct {
	data  []byte
	limit int
	more  bool
}

func (h *head) Write(p []byte) (int, error) {
	room := min(len(p), h.limit-len(h.data))
	h.data = append(h.data, p[:room]...)
	h.more = h.more || len(h.data) >= h.limit
	return len(p), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	data  []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p[max(0, len(p)-t.limit):]...)
	if over := len(t.data) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

func (t *tail) quote() string {
	text := oneLine(string(t.data), Options{})
	if text == "" {
		return ""
	}
	return "; it said: " + text
}
