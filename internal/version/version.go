// Package version says which build of Twinkeel this is.
package version

// Version is set by the linker (see the Makefile); a plain `go build` leaves the default.
var Version = "0.1.0-dev"
