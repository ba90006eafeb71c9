//go:build !cgo || !unix

package main

import "errors"

func serve() error {
	return errors.New("this program was built for Windows or without cgo and cannot load modules; " +
		"build it with a C compiler: CGO_ENABLED=1 go build ./cmd/twinkeel-pkcs11")
}
