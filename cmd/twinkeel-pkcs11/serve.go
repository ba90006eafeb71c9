//go:build cgo && unix

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"github.com/twinkeel/twinkeel/signing/pkcs11"
)

// serve answers requests until the input ends, which is when twinkeel has.
func serve(stdin io.Reader, out *os.File, stderr io.Writer) int {
	stdout, err := takeOver(out)
	if err != nil {
		fmt.Fprintln(stderr, "twinkeel-pkcs11:", err)
		return 1
	}
	runtime.LockOSThread() // some modules keep the login by thread
	in := bufio.NewReader(stdin)
	var h holder
	defer h.close()
	for {
		var q pkcs11.Request
		err := pkcs11.ReadLine(in, &q)
		if errors.Is(err, io.EOF) {
			return 0
		}
		if err != nil {
			fmt.Fprintln(stderr, "twinkeel-pkcs11:", err)
			return 1
		}
		answer, err := h.answer(&q)
		clear(q.PIN)
		if err != nil {
			answer = &pkcs11.Response{Failure: asFailure(err)}
		}
		answer.Version = pkcs11.Version
		if err := pkcs11.WriteLine(stdout, answer); err != nil {
			fmt.Fprintln(stderr, "twinkeel-pkcs11:", err)
			return 1
		}
	}
}

// takeOver keeps the way to twinkeel for this program alone: modules that print would break the protocol, so what they take for
// standard output is standard error.
func takeOver(stdout *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(stdout.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := unix.Dup2(int(os.Stderr.Fd()), int(stdout.Fd())); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "stdout"), nil
}

func asFailure(err error) *pkcs11.Failure {
	var f *pkcs11.Failure
	if errors.As(err, &f) {
		return f
	}
	return &pkcs11.Failure{Code: pkcs11.ModuleFailed, Detail: err.Error()}
}

// holder has what is open: at most one module, one session and one key.
type holder struct {
	module  string
	ctx     *p11.Ctx
	session p11.SessionHandle
	opened  bool
	key     *key
}

func (h *holder) answer(q *pkcs11.Request) (*pkcs11.Response, error) {
	switch {
	case q.Version != pkcs11.Version:
		return nil, &pkcs11.Failure{Code: pkcs11.BadRequest, Detail: "another version of the protocol"}
	case q.Op == pkcs11.OpOpen:
		return h.open(q)
	case q.Op == pkcs11.OpSign && h.key == nil:
		return nil, &pkcs11.Failure{Code: pkcs11.BadRequest, Detail: "no key is open"}
	case q.Op == pkcs11.OpSign && len(q.Digest) != 32:
		return nil, &pkcs11.Failure{Code: pkcs11.BadRequest, Detail: "the digest is not a SHA-256"}
	case q.Op == pkcs11.OpSign:
		signature, err := h.key.sign(h.ctx, h.session, q.Digest)
		return &pkcs11.Response{Signature: signature}, err
	}
	return nil, &pkcs11.Failure{Code: pkcs11.BadRequest, Detail: "an operation that is not known"}
}

func (h *holder) open(q *pkcs11.Request) (*pkcs11.Response, error) {
	h.closeSession()
	if err := h.load(q.Module); err != nil {
		return nil, err
	}
	slot, info, err := findToken(h.ctx, q)
	if err != nil {
		return nil, err
	}
	if h.session, err = h.ctx.OpenSession(slot, p11.CKF_SERIAL_SESSION); err != nil {
		return nil, fmt.Errorf("C_OpenSession: %w", err)
	}
	h.opened = true
	if !q.PublicOnly {
		if err := login(h.ctx, h.session, info, q.PIN); err != nil {
			return nil, err
		}
	}
	k, err := findKey(h.ctx, h.session, q)
	if err != nil {
		return nil, err
	}
	if !q.PublicOnly {
		h.key = k
	}
	return &pkcs11.Response{Public: k.public}, nil
}

func (h *holder) load(module string) error {
	if h.ctx != nil && h.module == module {
		return nil
	}
	if h.ctx != nil {
		return &pkcs11.Failure{Code: pkcs11.BadRequest, Detail: "another module is open"}
	}
	if info, err := os.Stat(module); err != nil || info.IsDir() {
		return &pkcs11.Failure{Code: pkcs11.ModuleMissing}
	}
	ctx := p11.New(module)
	if ctx == nil {
		return &pkcs11.Failure{Code: pkcs11.ModuleUnusable, Detail: "it is not a PKCS #11 module for this machine, or lacks a library that it needs"}
	}
	if err := ctx.Initialize(); err != nil {
		ctx.Destroy()
		return &pkcs11.Failure{Code: pkcs11.ModuleUnusable, Detail: "C_Initialize: " + err.Error()}
	}
	h.ctx, h.module = ctx, module
	return nil
}

func (h *holder) closeSession() {
	if h.key != nil {
		clear(h.key.pin)
		h.key = nil
	}
	if h.opened {
		// With its last session an application is logged out.
		_ = h.ctx.CloseSession(h.session)
		h.opened = false
	}
}

func (h *holder) close() {
	h.closeSession()
	if h.ctx != nil {
		_ = h.ctx.Finalize()
		h.ctx.Destroy()
	}
}
