//go:build !cgo || !unix

package main

import (
	"fmt"
	"io"
	"os"
)

func serve(_ io.Reader, _ *os.File, stderr io.Writer) int {
	fmt.Fprintln(stderr, "this twinkeel-pkcs11 was built for Windows or without cgo and cannot load modules; "+
		"build it with a C compiler: CGO_ENABLED=1 go build ./cmd/twinkeel-pkcs11")
	return 1
}
