// Command twinkeel-kms signs with a key in a key management service, for twinkeel, which starts it and talks to it over its standard
// input and output (signing/helper has the protocol). The clients are sigstore's.
package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"os"

	"github.com/sigstore/sigstore/pkg/signature/kms"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/aws"        // registers awskms://
	_ "github.com/sigstore/sigstore/pkg/signature/kms/azure"      // registers azurekms://
	_ "github.com/sigstore/sigstore/pkg/signature/kms/gcp"        // registers gcpkms://
	_ "github.com/sigstore/sigstore/pkg/signature/kms/hashivault" // registers hashivault://
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/twinkeel/twinkeel/signing/helper"
)

func main() {
	os.Exit(helper.Main("twinkeel-kms", "awskms://…, gcpkms://…, azurekms://… or hashivault://…", serve))
}

func serve() error {
	in, out := os.Stdin, os.Stdout
	takeOver()
	return helper.Serve(context.Background(), in, out, &service{})
}

// takeOver keeps the ways from and to twinkeel for the protocol alone. Programs that give credentials, such as credential_process
// of AWS, inherit standard input and error to ask for a code: they get the terminal, if there is one.
func takeOver() {
	log.SetOutput(io.Discard) // sigstore says where it looks for a token
	os.Stdout = os.Stderr
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		os.Stdin, os.Stderr = tty, tty
		return
	}
	os.Stdin, _ = os.Open(os.DevNull) // nil is read as empty, too
}

// service has the key that is open.
type service struct {
	client kms.SignerVerifier
}

// Open asks for the public key and for the hash that the key signs.
func (s *service) Open(ctx context.Context, q *helper.Request) (*helper.Response, error) {
	if q.Service == "" {
		return nil, &helper.Failure{Code: helper.BadRequest, Detail: "it opens keys in key management services only"}
	}
	return within(ctx, func() (*helper.Response, error) {
		client, err := kms.Get(ctx, q.Service, crypto.SHA256)
		if err != nil {
			return nil, err
		}
		public, err := client.PublicKey(options.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		_, opts, err := client.CryptoSigner(ctx, nil)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return nil, err
		}
		s.client = client
		return &helper.Response{Public: der, Hash: opts.HashFunc().String()}, nil
	})
}

// Sign has a SHA-256 signed.
func (s *service) Sign(ctx context.Context, digest [sha256.Size]byte) ([]byte, error) {
	if s.client == nil {
		return nil, &helper.Failure{Code: helper.BadRequest, Detail: "no key is open"}
	}
	return within(ctx, func() ([]byte, error) {
		return s.client.SignMessage(nil, options.WithContext(ctx), options.WithDigest(digest[:]), options.WithCryptoSignerOpts(crypto.SHA256))
	})
}

// errUnexpected stands for a panic: sigstore's clients index lists that a service may leave empty, such as the algorithms of a key
// that cannot sign.
var errUnexpected = errors.New("the answer of the key store is not understood; the key may not be one for signatures")

// within runs f and leaves it behind when ctx ends, which is when twinkeel has: some clients do not heed it.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			if recover() != nil {
				o.err = errUnexpected
			}
			done <- o
		}()
		o.value, o.err = f()
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		return *new(T), ctx.Err()
	}
}
