// Command twinkeel-agent updates a device; see package agent.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/twinkeel/twinkeel/agent/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
