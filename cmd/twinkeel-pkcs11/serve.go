//go:build cgo && unix

package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"github.com/twinkeel/twinkeel/signing/helper"
)

func serve() error {
	stdout, err := takeOver(os.Stdout)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // some modules keep the login by thread
	var h holder
	defer h.close()
	return helper.Serve(context.Background(), os.Stdin, stdout, &h)
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

// holder has what is open: at most one module, one session and one key.
type holder struct {
	module  string
	ctx     *p11.Ctx
	session p11.SessionHandle
	opened  bool
	key     *key
}

// Open opens a key, or shows its public half alone.
func (h *holder) Open(_ context.Context, q *helper.Request) (*helper.Response, error) {
	if q.Module == "" {
		return nil, &helper.Failure{Code: helper.BadRequest, Detail: "it opens keys in PKCS #11 tokens only"}
	}
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
	return &helper.Response{Public: k.public}, nil
}

// Sign signs with the key.
func (h *holder) Sign(_ context.Context, digest [sha256.Size]byte) ([]byte, error) {
	if h.key == nil {
		return nil, &helper.Failure{Code: helper.BadRequest, Detail: "no key is open"}
	}
	return h.key.sign(h.ctx, h.session, digest[:])
}

func (h *holder) load(module string) error {
	if h.ctx != nil && h.module == module {
		return nil
	}
	if h.ctx != nil {
		return &helper.Failure{Code: helper.BadRequest, Detail: "another module is open"}
	}
	if info, err := os.Stat(module); err != nil || info.IsDir() {
		return &helper.Failure{Code: helper.ModuleMissing}
	}
	ctx := p11.New(module)
	if ctx == nil {
		return &helper.Failure{Code: helper.ModuleUnusable, Detail: "it is not a PKCS #11 module for this machine, or lacks a library that it needs"}
	}
	if err := ctx.Initialize(); err != nil {
		ctx.Destroy()
		return &helper.Failure{Code: helper.ModuleUnusable, Detail: "C_Initialize: " + err.Error()}
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
