// Package store keeps the server's state in one SQLite database: users and tokens, devices and their keys, inventory,
// artifacts, deployments and the status of every device in them.
//
// Each exported method that changes something is one transaction, and it is on the medium when the method returns
// (WAL with synchronous=FULL). What belongs together changes together: a device's status, the counters, and the
// decision of the rollout that follows from it. See DESIGN.md of package server for the schema's invariants and what a
// crash leaves.
//
// Several processes may have the database open: the command line adds users while the server runs.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	ErrInUse    = errors.New("in use by an unfinished deployment")
	ErrFinished = errors.New("already finished")
	ErrAborted  = errors.New("aborted")
	ErrFull     = errors.New("limit reached")
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is an open database.
type Store struct {
	write *sql.DB // one connection: SQLite has one writer, and waiting in Go is fairer than its busy handler
	read  *sql.DB

	// Prepared, since every poll of a device runs them: parsing the SQL costs several times what running it does.
	acceptedDevice, openTargets, openDeployments, candidate, attributes *sql.Stmt
}

// Open opens the database file at path, creates it when it doesn't exist, and brings its schema up to date.
func Open(ctx context.Context, path string) (*Store, error) {
	// SQLite would let others read it; its other files take over the mode of this one.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	f.Close()
	s := &Store{}
	// The writer syncs at every commit: an accepted device and a reported status must survive a power cut.
	if s.write, err = sql.Open("sqlite", dsn(path, "immediate", "synchronous(FULL)")); err != nil {
		return nil, fmt.Errorf("opening database %s: %w", path, err)
	}
	s.write.SetMaxOpenConns(1)
	if err := s.migrate(ctx); err != nil {
		s.write.Close()
		return nil, fmt.Errorf("opening database %s: %w", path, err)
	}
	if s.read, err = sql.Open("sqlite", dsn(path, "deferred", "query_only(1)")); err != nil {
		s.write.Close()
		return nil, fmt.Errorf("opening database %s: %w", path, err)
	}
	s.read.SetMaxOpenConns(max(2, runtime.NumCPU()))
	for _, p := range []struct {
		to   **sql.Stmt
		text string
	}{
		{&s.acceptedDevice, selectAcceptedDevice},
		{&s.openTargets, selectOpenTargets},
		{&s.openDeployments, selectOpenDeployments},
		{&s.candidate, selectCandidate},
		{&s.attributes, selectAttributes},
	} {
		if err == nil {
			*p.to, err = s.read.PrepareContext(ctx, p.text)
		}
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("opening database %s: %w", path, err)
	}
	return s, nil
}

func dsn(path, lock string, pragmas ...string) string {
	q := url.Values{"_txlock": {lock}, "_pragma": append([]string{
		"busy_timeout(5000)", "journal_mode(WAL)", "foreign_keys(1)",
	}, pragmas...)}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// migrate applies the numbered migrations that the database hasn't seen, each in its own transaction. PRAGMA
// user_version is the number of the last one, and is part of the transaction.
func (s *Store) migrate(ctx context.Context) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	var version int
	if err := s.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(names) {
		return fmt.Errorf("it has schema version %d and this program knows up to %d: a newer release wrote it", version, len(names))
	}
	for n, name := range names {
		number, err := strconv.Atoi(filepath.Base(name)[:4])
		if err != nil || number != n+1 {
			return fmt.Errorf("migration %s is not number %d", name, n+1)
		}
		if number <= version {
			continue
		}
		text, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		err = s.update(ctx, func(tx *sql.Tx) error {
			var now int // another process may have been faster
			if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&now); err != nil || now >= number {
				return err
			}
			if _, err := tx.ExecContext(ctx, string(text)); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "PRAGMA user_version = "+strconv.Itoa(number))
			return err
		})
		if err != nil {
			return fmt.Errorf("migration %s: %w", name, err)
		}
	}
	return nil
}

// Close closes the database. What was reported as done is on the medium already.
func (s *Store) Close() error {
	return errors.Join(s.read.Close(), s.write.Close())
}

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return s.read.QueryRowContext(ctx, "SELECT 1").Scan(&one)
}

// Optimize lets SQLite refresh its statistics; call it about daily.
func (s *Store) Optimize(ctx context.Context) error {
	_, err := s.write.ExecContext(ctx, "PRAGMA optimize")
	return err
}

// update runs f in a write transaction and commits when f returns nil.
func (s *Store) update(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing; before one the first error counts
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// prepared is a querier that knows its query.
type prepared struct{ *sql.Stmt }

func (p prepared) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return p.Stmt.QueryContext(ctx, args...)
}

func (p prepared) QueryRowContext(ctx context.Context, _ string, args ...any) *sql.Row {
	return p.Stmt.QueryRowContext(ctx, args...)
}

// querier is what both a transaction and the reading pool can do.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

func scanString(rows *sql.Rows) (string, error) {
	var s string
	err := rows.Scan(&s)
	return s, err
}

// changed turns "no row matched" into ErrNotFound.
func changed(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// isUnique tells a violated UNIQUE or PRIMARY KEY constraint.
func isUnique(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

func millis(t time.Time) int64 { return t.UnixMilli() }

func optional(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: !t.IsZero()}
}

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func fromOptional(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return fromMillis(ms.Int64)
}

func pointer(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Page is a part of a list. The zero value is all of it.
type Page struct{ Limit, Offset int }

func (p Page) sql() string {
	if p.Limit == 0 {
		return ""
	}
	return fmt.Sprintf(" LIMIT %d OFFSET %d", p.Limit, p.Offset)
}

// where joins conditions.
type where struct {
	conditions []string
	args       []any
}

func (w *where) add(condition string, args ...any) {
	w.conditions = append(w.conditions, condition)
	w.args = append(w.args, args...)
}

func (w *where) sql() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// likePrefix and likeWithin escape text for LIKE … ESCAPE '\'.
func likePrefix(s string) string { return likeEscaper.Replace(s) + "%" }
func likeWithin(s string) string { return "%" + likeEscaper.Replace(s) + "%" }

var likeEscaper = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)
