package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/server"
	"github.com/twinkeel/twinkeel/signing/verify"
)

func (a *app) serverCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "server",
		Short:   "Run the update server",
		GroupID: groupServer,
		Args:    onlyCommands,
		RunE:    helpRun,
	}
	c.AddCommand(a.serverRunCommand(), a.serverUserCommand(), a.serverTokenCommand())
	return c
}

// defaultData is where the server keeps everything when nothing is said.
const defaultData = "twinkeel-data"

type serverRunOptions struct {
	data, listen, publicURL string
	keys                    []string
	autoAccept              bool
	cert, key               string
	insecure                bool
}

func (a *app) serverRunCommand() *cobra.Command {
	var o serverRunOptions
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the server until it is interrupted",
		Long: `Run the server. It needs no set-up: one directory holds the database and the artifacts. Devices reach it with Mender's
device API; mender-cli and this command with the management API.

Without a certificate it listens only on the loopback interface, because devices and tokens need TLS.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runServer(cmd.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.data, "data", defaultData, "`directory` of the database and the artifacts")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8080", "`address` to listen on")
	f.StringVar(&o.publicURL, "public-url", "", "`URL` at which devices reach the server, when it is not the one they ask at")
	f.StringArrayVar(&o.keys, "verify-key", nil, "refuse uploads that none of the public keys in this `file` has signed (may be repeated)")
	f.BoolVar(&o.autoAccept, "auto-accept", false, "accept every device that asks; for a bench, not for a fleet")
	f.StringVar(&o.cert, "tls-cert", "", "PEM `file` with the certificate chain")
	f.StringVar(&o.key, "tls-key", "", "PEM `file` with the certificate's key")
	f.BoolVar(&o.insecure, "insecure-http", false, "allow plain HTTP on other than loopback addresses, behind a TLS proxy")
	return c
}

func (a *app) runServer(ctx context.Context, o serverRunOptions) error {
	config := server.Config{
		DataDir: o.data, PublicURL: o.publicURL, AutoAccept: o.autoAccept,
		Logger: slog.New(slog.NewTextHandler(a.stderr, nil)),
	}
	if len(o.keys) > 0 {
		keyring, err := verify.LoadKeyring(o.keys)
		if err != nil {
			return err
		}
		config.Keyring = keyring
	}
	tlsConfig, err := o.tls()
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return listenError(o.listen, err)
	}
	defer listener.Close()
	if tlsConfig == nil && !o.insecure && !isLoopback(listener.Addr()) {
		return &hintedError{
			fmt.Sprintf("%s can be reached from elsewhere, and without TLS anyone on the way could read tokens", o.listen),
			"give --tls-cert and --tls-key; behind a TLS proxy add --insecure-http",
		}
	}
	s, err := server.Open(ctx, config)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.TakeOver(); errors.Is(err, server.ErrInUse) {
		return &hintedError{fmt.Sprintf("%s: %v", o.data, err), "stop the other one, or choose another directory with --data"}
	} else if err != nil {
		return err
	}
	scheme := "http"
	if tlsConfig != nil {
		scheme = "https"
	}
	a.notef("%s on %s://%s, data in %s\n", a.ui.err.bold("twinkeel server"), scheme, listener.Addr(), o.data)
	if err := s.Serve(ctx, listener, tlsConfig); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	a.notef("twinkeel server: stopped\n")
	return &exitError{code: exitOK}
}

func listenError(address string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	text := fmt.Sprintf("listening on %s: %v", address, err)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &hintedError{"listening on " + address + ": another program listens there", "choose another address with --listen"}
	case errors.Is(err, syscall.EACCES):
		return &hintedError{text, "ports below 1024 need the capability CAP_NET_BIND_SERVICE, or a proxy in front"}
	}
	return &hintedError{text, "give an address as --listen 127.0.0.1:8080, or :443 for every interface"}
}

func (o *serverRunOptions) tls() (*tls.Config, error) {
	if o.cert == "" && o.key == "" {
		return nil, nil
	}
	if o.cert == "" || o.key == "" {
		return nil, usagef("--tls-cert and --tls-key go together")
	}
	cert, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, fmt.Errorf("loading the certificate %s: %w", o.cert, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// openServer opens the data directory for a short command beside a running server. It makes none: a token from a
// mistyped directory would look right and open nothing.
func openServer(ctx context.Context, data string) (*server.Server, error) {
	if _, err := os.Stat(filepath.Join(data, "server.db")); err != nil {
		return nil, &hintedError{data + " is not the data directory of a server", "name the one of `twinkeel server run --data`, which makes it when it first runs"}
	}
	return server.Open(ctx, server.Config{DataDir: data})
}

func (a *app) serverUserCommand() *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Manage the people who may log in", Args: onlyCommands, RunE: helpRun}
	var data string
	add := &cobra.Command{
		Use:   "add EMAIL",
		Short: "Add a user; the password is read from stdin",
		Args:  exactArgs("EMAIL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runUserAdd(cmd.Context(), data, args[0])
		},
	}
	add.Flags().StringVar(&data, "data", defaultData, "the server's data `directory`")
	c.AddCommand(add)
	return c
}

func (a *app) runUserAdd(ctx context.Context, data, email string) error {
	s, err := openServer(ctx, data)
	if err != nil {
		return err
	}
	defer s.Close()
	password, err := a.readSecret(ctx, "Password: ")
	if err != nil {
		return err
	}
	if err := s.AddUser(ctx, email, password); err != nil {
		return err
	}
	a.notef("added %s\n", email)
	if done, err := a.asJSON(map[string]string{"email": email}); done {
		return err
	}
	return nil
}

func (a *app) serverTokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Manage tokens for tools", Args: onlyCommands, RunE: helpRun}
	var data string
	var expires time.Duration
	create := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token for a tool, and print it once",
		Args:  exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runTokenCreate(cmd.Context(), data, args[0], expires)
		},
	}
	create.Flags().StringVar(&data, "data", defaultData, "the server's data `directory`")
	create.Flags().DurationVar(&expires, "expires", 365*24*time.Hour, "how long it is good for")
	c.AddCommand(create)
	return c
}

func (a *app) runTokenCreate(ctx context.Context, data, name string, expires time.Duration) error {
	if expires <= 0 {
		return usagef("--expires takes a duration longer than 0, such as 720h; not %s", expires)
	}
	s, err := openServer(ctx, data)
	if err != nil {
		return err
	}
	defer s.Close()
	token, err := s.CreateToken(ctx, name, expires)
	if err != nil {
		return err
	}
	if done, err := a.asJSON(map[string]string{"name": name, "token": token}); done {
		return err
	}
	a.printf("%s\n", token)
	return nil
}

// readSecret reads one line from stdin, asking for it where someone sits there.
func (a *app) readSecret(ctx context.Context, prompt string) (string, error) {
	if f, ok := a.terminal(); ok {
		fmt.Fprint(a.stderr, prompt)
		defer fmt.Fprintln(a.stderr)
		return readHidden(ctx, f)
	}
	line, err := bufio.NewReader(io.LimitReader(a.stdin, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("no password on stdin")
	}
	return line, nil
}
