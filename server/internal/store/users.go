package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/google/uuid"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// Limits on what one user may hold, as in Mender.
const (
	MaxSessions = 10
	MaxTokens   = 10
)

// AddUser creates a user with the hash of a password. A second one with the email is ErrExists.
func (s *Store) AddUser(ctx context.Context, email, hash string, now time.Time) (string, error) {
	id := uuid.NewString()
	_, err := s.write.ExecContext(ctx, "INSERT INTO users (id, email, password, created, updated) VALUES (?, ?, ?, ?, ?)",
		id, email, hash, millis(now), millis(now))
	if isUnique(err) {
		return "", ErrExists
	}
	return id, err
}

// SetPassword replaces a user's password and ends all sessions.
func (s *Store) SetPassword(ctx context.Context, email, hash string, now time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		err := changed(tx.ExecContext(ctx, "UPDATE users SET password = ?, updated = ? WHERE email = ?", hash, millis(now), email))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "DELETE FROM tokens WHERE kind = 'session' AND user_id = (SELECT id FROM users WHERE email = ?)", email)
		return err
	})
}

// Password returns the id and the password hash of a user.
func (s *Store) Password(ctx context.Context, email string) (id, hash string, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT id, password FROM users WHERE email = ?", email).Scan(&id, &hash)
	return id, hash, notFound(err)
}

// User returns a user.
func (s *Store) User(ctx context.Context, id string) (*menderapi.User, error) {
	u := menderapi.User{ID: id}
	var created, updated int64
	var login sql.NullInt64
	err := s.read.QueryRowContext(ctx, "SELECT email, created, updated, login FROM users WHERE id = ?", id).
		Scan(&u.Email, &created, &updated, &login)
	if err != nil {
		return nil, notFound(err)
	}
	u.Created, u.Updated, u.Login = fromMillis(created), fromMillis(updated), pointer(fromOptional(login))
	return &u, nil
}

// CountUsers says how many users there are.
func (s *Store) CountUsers(ctx context.Context) (n int, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT count(*) FROM users").Scan(&n)
	return n, err
}

// AddSession records a login and returns the session's id. The user's oldest sessions beyond MaxSessions end.
func (s *Store) AddSession(ctx context.Context, user string, now, expires time.Time) (string, error) {
	id := uuid.NewString()
	return id, s.update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "UPDATE users SET login = ? WHERE id = ?", millis(now), user); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO tokens (id, user_id, kind, name, created, expires) VALUES (?, ?, 'session', '', ?, ?)",
			id, user, millis(now), millis(expires)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM tokens WHERE kind = 'session' AND user_id = ? AND id NOT IN
			(SELECT id FROM tokens WHERE kind = 'session' AND user_id = ? ORDER BY created DESC, rowid DESC LIMIT ?)`, user, user, MaxSessions)
		return err
	})
}

// AddToken records a personal access token and returns its id. user is empty for one that belongs to nobody; expires is
// zero for one that doesn't expire.
func (s *Store) AddToken(ctx context.Context, user, name string, now, expires time.Time) (string, error) {
	id := uuid.NewString()
	err := s.update(ctx, func(tx *sql.Tx) error {
		if user != "" {
			var n int
			err := tx.QueryRowContext(ctx, "SELECT count(*) FROM tokens WHERE user_id = ? AND kind = 'access'", user).Scan(&n)
			if err != nil {
				return err
			}
			if n >= MaxTokens {
				return ErrFull
			}
		}
		_, err := tx.ExecContext(ctx, "INSERT INTO tokens (id, user_id, kind, name, created, expires) VALUES (?, ?, 'access', ?, ?, ?)",
			id, sql.NullString{String: user, Valid: user != ""}, name, millis(now), optional(expires))
		return err
	})
	if isUnique(err) {
		return "", ErrExists
	}
	return id, err
}

// TokenOwner says whose token it is, when it is known and not expired; user is empty when it belongs to nobody.
func (s *Store) TokenOwner(ctx context.Context, id string, now time.Time) (user string, err error) {
	var owner sql.NullString
	err = s.read.QueryRowContext(ctx, "SELECT user_id FROM tokens WHERE id = ? AND (expires IS NULL OR expires > ?)", id, millis(now)).Scan(&owner)
	return owner.String, notFound(err)
}

// Tokens lists a user's personal access tokens.
func (s *Store) Tokens(ctx context.Context, user string) ([]menderapi.Token, error) {
	return collect(ctx, s.read, func(rows *sql.Rows) (t menderapi.Token, err error) {
		var created int64
		var expires, used sql.NullInt64
		err = rows.Scan(&t.ID, &t.Name, &created, &expires, &used)
		t.Created, t.Expires, t.LastUsed = fromMillis(created), pointer(fromOptional(expires)), pointer(fromOptional(used))
		return t, err
	}, `SELECT id, name, created, expires, used FROM tokens
		WHERE kind = 'access' AND coalesce(user_id, '') = ? ORDER BY created, id`, user)
}

// DeleteToken ends a token of a user: a session or a personal access token.
func (s *Store) DeleteToken(ctx context.Context, user, id string) error {
	return changed(s.write.ExecContext(ctx, "DELETE FROM tokens WHERE id = ? AND coalesce(user_id, '') = ?", id, user))
}

// TouchTokens records when tokens were last used.
func (s *Store) TouchTokens(ctx context.Context, used map[string]time.Time) error {
	return s.touch(ctx, "UPDATE tokens SET used = max(coalesce(used, 0), ?) WHERE id = ?", used)
}

func (s *Store) touch(ctx context.Context, query string, times map[string]time.Time) error {
	if len(times) == 0 {
		return nil
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		stmt, err := tx.PrepareContext(ctx, query)
		if err != nil {
			return err
		}
		defer stmt.Close()
		for id, t := range times {
			if _, err := stmt.ExecContext(ctx, millis(t), id); err != nil {
				return err
			}
		}
		return nil
	})
}

// DropExpiredTokens deletes what has expired.
func (s *Store) DropExpiredTokens(ctx context.Context, now time.Time) error {
	_, err := s.write.ExecContext(ctx, "DELETE FROM tokens WHERE expires <= ?", millis(now))
	return err
}
