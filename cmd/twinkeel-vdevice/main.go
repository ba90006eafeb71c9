// Command twinkeel-vdevice is a device without hardware, for demonstrations and tests; see package vdevice.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/twinkeel/twinkeel/test/vdevice"
)

const usage = `twinkeel-vdevice is a device in a directory: a disk image and a power button.

Usage:
  twinkeel-vdevice create DIR --image FILE [--mac ADDRESS] [--server URL] [--poll DURATION]
  twinkeel-vdevice run DIR [--color] [--boot-delay DURATION]      switch it on; SIGTERM switches it off
  twinkeel-vdevice status DIR [--json]
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(os.Stdout, usage)
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "twinkeel-vdevice: error: %v\n", err)
		var hinter interface{ Hint() string }
		if errors.As(err, &hinter) && hinter.Hint() != "" {
			fmt.Fprintf(os.Stderr, "hint: %s\n", hinter.Hint())
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return flag.ErrHelp
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.SetOutput(io.Discard)
	var create vdevice.CreateOptions
	var options vdevice.RunOptions
	var color, asJSON bool
	switch args[0] {
	case "create":
		f.StringVar(&create.Image, "image", "", "")
		f.StringVar(&create.MAC, "mac", "", "")
		f.StringVar(&create.Server, "server", "", "")
		f.DurationVar(&create.Poll, "poll", 0, "")
	case "run":
		f.BoolVar(&color, "color", false, "")
		f.DurationVar(&options.BootDelay, "boot-delay", 300*time.Millisecond, "")
	case "status":
		f.BoolVar(&asJSON, "json", false, "")
	case "help", "-h", "--help":
		return flag.ErrHelp
	default:
		return fmt.Errorf("unknown command %q; see twinkeel-vdevice help", args[0])
	}
	dir := ""
	for rest := args[1:]; len(rest) > 0; { // flags may stand before and after the directory
		if err := f.Parse(rest); err != nil {
			return err
		}
		if rest = f.Args(); len(rest) > 0 {
			if dir != "" {
				return fmt.Errorf("%s takes one directory", args[0])
			}
			dir, rest = rest[0], rest[1:]
		}
	}
	if dir == "" || args[0] == "create" && create.Image == "" {
		return flag.ErrHelp
	}
	if args[0] == "create" {
		_, err := vdevice.Create(ctx, dir, create)
		return err
	}
	d, err := vdevice.Open(dir)
	if err != nil {
		return err
	}
	if args[0] == "run" {
		options.Console = vdevice.NewConsole(stdout, d.Name, color)
		return d.Run(ctx, options)
	}
	s, err := d.Status()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(stdout).Encode(s)
	}
	return s.Print(stdout)
}
