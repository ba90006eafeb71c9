//go:build !cgo

package main

import (
	"fmt"
	"io"
)

func serve(_ io.Reader, _, stderr io.Writer) int {
	fmt.Fprintln(stderr, "this twinkeel-pkcs11 was built without cgo and cannot load modules; "+
		"build it with a C compiler: CGO_ENABLED=1 go build ./cmd/twinkeel-pkcs11")
	return 1
}
