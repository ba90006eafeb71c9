// Command twinkeel-pkcs11 loads a PKCS #11 module and signs with a key of its tokens, for twinkeel, which starts it and talks to
// it over its standard input and output (signing/helper has the protocol).
package main

import (
	"os"

	"github.com/twinkeel/twinkeel/signing/helper"
)

func main() { os.Exit(helper.Main("twinkeel-pkcs11", "pkcs11:…", serve)) }
