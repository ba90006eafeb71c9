// Command twinkeel-pkcs11 loads a PKCS #11 module and signs with a key of its tokens, for twinkeel, which starts it and talks to
// it over its standard input and output (signing/pkcs11 has the protocol).
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/twinkeel/twinkeel/signing/pkcs11"
)

func main() {
	// A module that crashes prints one line, not the stacks of Go.
	debug.SetTraceback("none")
	if len(os.Args) == 2 && (os.Args[1] == "--version" || os.Args[1] == "version") {
		fmt.Println("twinkeel-pkcs11, protocol", pkcs11.Version)
		return
	}
	if len(os.Args) > 1 || isTerminal(os.Stdin) {
		fmt.Fprintln(os.Stderr, "twinkeel-pkcs11 is started by twinkeel, for keys that are named pkcs11:…; it has nothing to say to people")
		os.Exit(2)
	}
	os.Exit(serve(os.Stdin, os.Stdout, os.Stderr))
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
