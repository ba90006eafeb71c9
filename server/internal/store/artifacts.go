package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// ConflictError says which combination of dependencies an artifact of the same name has already. It is ErrExists.
type ConflictError struct {
	Artifact    string // id of the one that is there
	Combination string // JSON object
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("artifact %s has the same name and depends on the same: %s", e.Artifact, e.Combination)
}

// Is makes it ErrExists.
func (e *ConflictError) Is(target error) bool { return target == ErrExists }

// AddArtifact makes an artifact visible. Its blob must be in place. combinations are what it depends on, one JSON object
// for each combination of values; one that an artifact of the same name has is a *ConflictError, since a device that
// matches it could not tell which to take.
func (s *Store) AddArtifact(ctx context.Context, a menderapi.Artifact, combinations []string) error {
	document, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO artifacts (id, name, size, modified, document) VALUES (?, ?, ?, ?, ?)",
			a.ID, a.Name, a.Size, millis(a.Modified), string(document))
		if isUnique(err) {
			return ErrExists
		}
		if err != nil {
			return err
		}
		for _, c := range combinations {
			_, err := tx.ExecContext(ctx, "INSERT INTO artifact_depends (name, combination, artifact_id) VALUES (?, ?, ?)", a.Name, c, a.ID)
			if isUnique(err) {
				conflict := &ConflictError{Combination: c}
				err := tx.QueryRowContext(ctx, "SELECT artifact_id FROM artifact_depends WHERE name = ? AND combination = ?", a.Name, c).Scan(&conflict.Artifact)
				if err != nil {
					return err
				}
				return conflict
			}
			if err != nil {
				return err
			}
		}
		for _, t := range a.DeviceTypesCompatible {
			if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO artifact_types (artifact_id, device_type) VALUES (?, ?)", a.ID, t); err != nil {
				return err
			}
		}
		return nil
	})
}

// Conflict says whether AddArtifact would refuse, so that an upload can be refused before it is read to its end.
func (s *Store) Conflict(ctx context.Context, name string, combinations []string) error {
	for _, c := range combinations {
		conflict := &ConflictError{Combination: c}
		err := notFound(s.read.QueryRowContext(ctx, "SELECT artifact_id FROM artifact_depends WHERE name = ? AND combination = ?", name, c).Scan(&conflict.Artifact))
		if err == nil {
			return conflict
		}
		if !isNotFound(err) {
			return err
		}
	}
	return nil
}

// ArtifactFilter chooses artifacts; empty fields choose all. Name may end in * for a prefix.
type ArtifactFilter struct {
	Names       []string
	Description string // within it, upper and lower case alike
	DeviceType  string
	PayloadType string
}

func (f ArtifactFilter) where() *where {
	w := &where{}
	if len(f.Names) > 0 {
		var any []string
		var args []interface{}
		for _, n := range f.Names {
			if prefix, ok := strings.CutSuffix(n, "*"); ok {
				any, args = append(any, `name LIKE ? ESCAPE '\'`), append(args, likePrefix(prefix))
				continue
			}
			any, args = append(any, "name = ?"), append(args, n)
		}
		w.add("("+strings.Join(any, " OR ")+")", args...)
	}
	if f.Description != "" {
		w.add(`document ->> '$.description' LIKE ? ESCAPE '\'`, likeWithin(f.Description))
	}
	if f.DeviceType != "" {
		w.add("id IN (SELECT artifact_id FROM artifact_types WHERE device_type = ?)", f.DeviceType)
	}
	if f.PayloadType != "" {
		w.add("EXISTS (SELECT 1 FROM json_each(document, '$.updates') u WHERE u.value ->> '$.type_info.type' = ?)", f.PayloadType)
	}
	return w
}

// Artifacts lists artifacts, newest first, and says how many there are on all pages.
func (s *Store) Artifacts(ctx context.Context, f ArtifactFilter, p Page) (list []menderapi.Artifact, total int, err error) {
	w := f.where()
	if err := s.read.QueryRowContext(ctx, "SELECT count(*) FROM artifacts"+w.sql(), w.args...).Scan(&total); err != nil {
		return nil, 0, err
	}
	list, err = collect(ctx, s.read, func(rows *sql.Rows) (menderapi.Artifact, error) {
		var document string
		if err := rows.Scan(&document); err != nil {
			return menderapi.Artifact{}, err
		}
		return decodeArtifact(document)
	}, "SELECT document FROM artifacts"+w.sql()+" ORDER BY modified DESC, id"+p.sql(), w.args...)
	return list, total, err
}

// Artifact returns one artifact.
func (s *Store) Artifact(ctx context.Context, id string) (*menderapi.Artifact, error) {
	var document string
	if err := s.read.QueryRowContext(ctx, "SELECT document FROM artifacts WHERE id = ?", id).Scan(&document); err != nil {
		return nil, notFound(err)
	}
	a, err := decodeArtifact(document)
	return &a, err
}

func decodeArtifact(document string) (a menderapi.Artifact, err error) {
	if err = json.Unmarshal([]byte(document), &a); err != nil {
		err = fmt.Errorf("damaged artifact record: %w", err)
	}
	return a, err
}

// DescribeArtifact changes an artifact's description.
func (s *Store) DescribeArtifact(ctx context.Context, id, description string, now time.Time) error {
	return changed(s.write.ExecContext(ctx,
		"UPDATE artifacts SET modified = ?, document = json_set(document, '$.description', ?, '$.modified', ?) WHERE id = ?",
		millis(now), description, fromMillis(millis(now)).Format(time.RFC3339Nano), id))
}

// DeleteArtifact makes an artifact invisible; its blob may go afterwards. One that an unfinished deployment may still
// hand out is ErrInUse.
func (s *Store) DeleteArtifact(ctx context.Context, id string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		var used int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM deployments
			WHERE finished IS NULL AND artifact_name = (SELECT name FROM artifacts WHERE id = ?)`, id).Scan(&used)
		if err != nil {
			return err
		}
		if used > 0 {
			return ErrInUse
		}
		return changed(tx.ExecContext(ctx, "DELETE FROM artifacts WHERE id = ?", id))
	})
}

// HasArtifact says whether a blob belongs to a visible artifact.
func (s *Store) HasArtifact(ctx context.Context, id string) (bool, error) {
	var n int
	err := s.read.QueryRowContext(ctx, "SELECT count(*) FROM artifacts WHERE id = ?", id).Scan(&n)
	return n > 0, err
}

// StoredBytes is the size of all artifacts.
func (s *Store) StoredBytes(ctx context.Context) (n int64, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT coalesce(sum(size), 0) FROM artifacts").Scan(&n)
	return n, err
}
