// Package server is the update server: Mender's device API, the part of Mender's management API that its tools use, and
// rollouts that stop by themselves, over one data directory.
//
// The device API is what unmodified Mender clients (3.4.0 in Go, 4 and 5 in C++) and our agent speak; the management API
// is what mender-cli, the official CI actions and `twinkeel push` speak. The shapes are those of mender-server's OpenAPI
// documents, kept in internal/menderapi; where they are silent, the recorded requests of those clients decide (chunked
// bodies, repeated reports, the log after the final status). What goes beyond Mender is optional in every shape.
//
// DESIGN.md beside this file says what is stored, in which order, and what a crash leaves.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/mail"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/server/internal/auth"
	"github.com/twinkeel/twinkeel/server/internal/blob"
	"github.com/twinkeel/twinkeel/server/internal/store"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// Config is how a server runs. Only DataDir must be set.
type Config struct {
	// DataDir holds all that the server keeps; it is created when it doesn't exist. It must be on a local disk.
	DataDir string
	// Keyring, when set, is the policy that an uploaded artifact must be signed by one of its keys. Nil records whether an
	// artifact is signed, as Mender does.
	Keyring *verify.Keyring
	// PublicURL is the address under which devices reach the server, for download links. Empty takes it from each request.
	PublicURL string
	// AutoAccept accepts new devices at once. A further key of a known device still waits for a person.
	AutoAccept bool
	// Logger gets one line per request; nil is silence.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Limits bound what others can make the server do. Zero fields have the documented defaults.
	Limits Limits
}

// Limits of a server.
type Limits struct {
	ArtifactBytes  int64         // of one upload; 10 GiB
	JSONBytes      int64         // of a request body; 1 MiB, as in Mender: it makes the C++ client truncate its log
	PendingDevices int           // that wait for acceptance; 10,000
	KeysPerDevice  int           // 16
	PendingFor     time.Duration // until a silent pending device is forgotten; 30 days
	DeviceToken    time.Duration // 24 hours; clients renew theirs by themselves
	Session        time.Duration // after a login; 12 hours
	DownloadLink   time.Duration // for devices; 24 hours, at most that
	RetryAfter     time.Duration // between two attempts of a device; 1 minute
	Shutdown       time.Duration // for requests under way when the server stops; 15 seconds
	AuthRate       float64       // authentication requests per second and IP address (IPv6: network of 64 bits); 20
	LoginRate      float64       // logins per second, counted likewise; 1
	DeviceRate     float64       // requests per second and device; 20
}

func (l Limits) withDefaults() Limits {
	def(&l.ArtifactBytes, 10<<30)
	def(&l.JSONBytes, 1<<20)
	def(&l.PendingDevices, 10_000)
	def(&l.KeysPerDevice, 16)
	def(&l.PendingFor, 30*24*time.Hour)
	def(&l.DeviceToken, 24*time.Hour)
	def(&l.Session, 12*time.Hour)
	def(&l.DownloadLink, 24*time.Hour)
	def(&l.RetryAfter, time.Minute)
	def(&l.Shutdown, 15*time.Second)
	def(&l.AuthRate, 20)
	def(&l.LoginRate, 1)
	def(&l.DeviceRate, 20)
	l.DownloadLink = min(l.DownloadLink, 24*time.Hour)
	return l
}

func def[T int | int64 | float64 | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Server is an open data directory with the APIs on it.
type Server struct {
	config Config
	limits Limits
	log    *slog.Logger
	now    func() time.Time

	store     *store.Store
	blobs     *blob.Dir
	passwords *auth.Passwords
	devices   *auth.Tokens
	users     *auth.Tokens
	links     *auth.Links

	authRate, loginRate, deviceRate *limiter
	seenDevices, seenTokens         seen
	writing                         claims // ids of artifacts that are coming or going

	own     func() error // becomes the data directory's only server, once
	lock    *fileLock
	closing sync.Once
}

// ErrInUse says that another server runs on the data directory.
var ErrInUse = errors.New("another server uses this data directory")

// Open opens the data directory and creates it when it doesn't exist. Several processes may have it open, so that users can
// be added while a server runs; only one of them can serve.
func Open(ctx context.Context, c Config) (*Server, error) {
	if c.DataDir == "" {
		return nil, errors.New("the server needs a data directory")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	s := &Server{config: c, limits: c.Limits.withDefaults(), log: c.Logger, now: c.Now, passwords: auth.NewPasswords(2)}
	if err := durable.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, err
	}
	// Two processes that open a new directory at the same time must not make two secrets.
	opening, err := lockFile(ctx, filepath.Join(c.DataDir, "open.lock"))
	if err != nil {
		return nil, err
	}
	defer opening.release()
	secret, err := auth.LoadSecret(filepath.Join(c.DataDir, "secret"))
	if err != nil {
		return nil, fmt.Errorf("reading the server's secret: %w", err)
	}
	s.devices = auth.NewTokens(secret, auth.Device, s.now)
	s.users = auth.NewTokens(secret, auth.User, s.now)
	s.links = auth.NewLinks(secret, s.now)
	s.authRate = newLimiter(s.limits.AuthRate, s.now)
	s.loginRate = newLimiter(s.limits.LoginRate, s.now)
	s.deviceRate = newLimiter(s.limits.DeviceRate, s.now)
	if s.blobs, err = blob.Open(filepath.Join(c.DataDir, "artifacts")); err != nil {
		return nil, err
	}
	if s.store, err = store.Open(ctx, filepath.Join(c.DataDir, "server.db")); err != nil {
		return nil, err
	}
	s.own = sync.OnceValue(s.takeOver)
	return s, nil
}

// takeOver makes this process the only server of the data directory and removes what an interrupted one left. It runs
// before the first upload, since uploads are what it would take for leftovers.
func (s *Server) takeOver() error {
	lock, err := tryLockFile(filepath.Join(s.config.DataDir, "server.lock"))
	if err != nil {
		return err
	}
	s.lock = lock
	removed, err := s.blobs.Sweep(context.Background(), s.store.HasArtifact) //nolint:contextcheck // must not stop half-way with the first request's context
	for _, id := range removed {
		s.log.Info("removed an upload that was never finished", "artifact", id)
	}
	return err
}

// Close closes the data directory. Serve and Run must have returned.
func (s *Server) Close() error {
	var err error
	s.closing.Do(func() {
		err = errors.Join(s.flushSeen(context.Background()), s.store.Close())
		s.lock.release()
	})
	return err
}

// AddUser creates a user who may do everything. The email is the name to log in with, in any case of letters.
func (s *Server) AddUser(ctx context.Context, email, password string) error {
	email, err := normalEmail(email)
	if err != nil {
		return err
	}
	if strings.EqualFold(password, email) {
		return errors.New("the password must not be the email address")
	}
	hash, err := s.passwords.Hash(ctx, password)
	if err != nil {
		return err
	}
	if _, err = s.store.AddUser(ctx, email, hash, s.now()); errors.Is(err, store.ErrExists) {
		return fmt.Errorf("user %s exists already", email)
	}
	return err
}

// SetPassword changes a user's password and ends the sessions.
func (s *Server) SetPassword(ctx context.Context, email, password string) error {
	email, err := normalEmail(email)
	if err != nil {
		return err
	}
	hash, err := s.passwords.Hash(ctx, password)
	if err != nil {
		return err
	}
	if err = s.store.SetPassword(ctx, email, hash, s.now()); errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("there is no user %s", email)
	}
	return err
}

// Users says how many users there are.
func (s *Server) Users(ctx context.Context) (int, error) { return s.store.CountUsers(ctx) }

func normalEmail(email string) (string, error) {
	email = strings.ToLower(strings.TrimSpace(email))
	// Basic authentication cannot carry a colon in the name.
	if a, err := mail.ParseAddress(email); err != nil || a.Address != email || strings.Contains(email, ":") || len(email) > 255 {
		return "", fmt.Errorf("%q is not an email address", email)
	}
	return email, nil
}

// CreateToken makes an access token under a name that no other such token has. It works for the given time, for ever
// when that is 0.
func (s *Server) CreateToken(ctx context.Context, name string, valid time.Duration) (string, error) {
	return s.createToken(ctx, "", name, valid)
}

func (s *Server) createToken(ctx context.Context, user, name string, valid time.Duration) (string, error) {
	if name == "" || len(name) > 255 {
		return "", errors.New("a token needs a name of at most 255 bytes")
	}
	if valid < 0 {
		return "", errors.New("a token cannot have expired before it exists")
	}
	now, expires := s.now(), time.Time{}
	if valid > 0 {
		expires = now.Add(valid)
	}
	id, err := s.store.AddToken(ctx, user, name, now, expires)
	if errors.Is(err, store.ErrExists) {
		return "", &TokenExistsError{Name: name}
	}
	if err != nil {
		return "", err
	}
	return s.users.Issue(id, user, expires)
}

// TokenExistsError is a token name that is taken.
type TokenExistsError struct{ Name string }

func (e *TokenExistsError) Error() string {
	return fmt.Sprintf("a token named %q exists already", e.Name)
}

// TakeOver makes this process the data directory's only server; ErrInUse says that another one is. Serve and Run do it
// anyway: call it before something is announced that they could still refuse.
func (s *Server) TakeOver() error { return s.own() }

// Run does what the server does by itself: it lets phases end their soak, records when devices were last heard of, and
// forgets what has expired. It returns when ctx is done, with ErrInUse at once when another server uses the data directory.
// Serve calls it; call it only to serve Handler in another way.
func (s *Server) Run(ctx context.Context) error {
	if err := s.own(); err != nil {
		return err
	}
	s.schedule(ctx)
	return nil
}

// Serve answers requests on a listener until ctx is done, with TLS when a configuration is given. Requests under way then
// have a little time to end.
func (s *Server) Serve(ctx context.Context, l net.Listener, tlsConfig *tls.Config) error {
	if err := s.own(); err != nil {
		l.Close()
		return err
	}
	errorLog := slog.NewLogLogger(s.log.Handler(), slog.LevelDebug) // broken handshakes of strangers
	srv := &http.Server{
		Handler:           s.Handler(),
		TLSConfig:         tlsConfig,
		ErrorLog:          errorLog,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		// No ReadTimeout and WriteTimeout: artifacts take as long as they take. Handlers set deadlines that move while
		// bytes flow.
	}
	background, stop := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() { s.schedule(background) })
	failed := make(chan error, 1)
	go func() {
		if tlsConfig != nil {
			if tlsConfig.MinVersion == 0 {
				srv.TLSConfig = tlsConfig.Clone()
				srv.TLSConfig.MinVersion = tls.VersionTLS12
			}
			failed <- srv.ServeTLS(l, "", "")
			return
		}
		failed <- srv.Serve(l)
	}()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Shutdown)
		if srv.Shutdown(grace) != nil {
			srv.Close() // uploads and downloads that are still running; both sides can repeat them
		}
		cancel()
		if e := <-failed; !errors.Is(e, http.ErrServerClosed) {
			err = e
		}
	}
	stop()
	wait.Wait()
	return err
}

var _ io.Closer = (*Server)(nil)
