package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// Claim is a proven authentication request: whoever sent it holds the key.
type Claim struct {
	Identity     string // JSON object, keys sorted
	IdentityHash string
	PubKey       string // PEM, normalised
	Fingerprint  string
	Address      string // of the sender
}

// Admission is how a claim is treated when the device or the key is new.
type Admission struct {
	Accept     bool // the first key of a new device is accepted at once; further keys never are
	MaxPending int  // devices
	MaxKeys    int  // auth sets of one device
}

// AuthState is what the server thinks of a claim.
type AuthState struct {
	Device  string
	AuthSet string
	Status  string
	New     bool // recorded by this call
}

// Authenticate finds the auth set of a claim and records a new one. A claim beyond the limits is ErrFull: the sender is
// anyone, so what it can make the server store must be bounded.
func (s *Store) Authenticate(ctx context.Context, c Claim, a Admission, now time.Time) (AuthState, error) {
	find := func(q querier) (st AuthState, err error) {
		err = q.QueryRowContext(ctx, `SELECT a.device_id, a.id, a.status FROM auth_sets a JOIN devices d ON d.id = a.device_id
			WHERE d.identity_hash = ? AND a.fingerprint = ?`, c.IdentityHash, c.Fingerprint).Scan(&st.Device, &st.AuthSet, &st.Status)
		return st, notFound(err)
	}
	if st, err := find(s.read); err == nil || !isNotFound(err) {
		return st, err // no write for a known key: a fleet asks for tokens all day
	}
	var st AuthState
	err := s.update(ctx, func(tx *sql.Tx) (err error) {
		if st, err = find(tx); err == nil || !isNotFound(err) {
			return err // a parallel request of the same device came first
		}
		st = AuthState{AuthSet: uuid.NewString(), Status: menderapi.AuthPending, New: true}
		err = tx.QueryRowContext(ctx, "SELECT id FROM devices WHERE identity_hash = ?", c.IdentityHash).Scan(&st.Device)
		switch {
		case err == nil:
			var keys int
			if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM auth_sets WHERE device_id = ?", st.Device).Scan(&keys); err != nil {
				return err
			}
			if keys >= a.MaxKeys {
				return ErrFull
			}
		case isNotFound(notFound(err)):
			if a.Accept {
				st.Status = menderapi.AuthAccepted
			} else if err := roomForPending(ctx, tx, a.MaxPending); err != nil {
				return err
			}
			st.Device = uuid.NewString()
			if err := insertDevice(ctx, tx, st.Device, c, now); err != nil {
				return err
			}
		default:
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO auth_sets (id, device_id, pubkey, fingerprint, status, created, address)
			VALUES (?, ?, ?, ?, ?, ?, ?)`, st.AuthSet, st.Device, c.PubKey, c.Fingerprint, st.Status, millis(now), c.Address); err != nil {
			return err
		}
		return refreshDevice(ctx, tx, st.Device, now)
	})
	return st, err
}

func roomForPending(ctx context.Context, tx *sql.Tx, limit int) error {
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM devices WHERE status = 'pending'").Scan(&n); err != nil {
		return err
	}
	if n >= limit {
		return ErrFull
	}
	return nil
}

func insertDevice(ctx context.Context, tx *sql.Tx, id string, c Claim, now time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO devices (id, identity_hash, identity, status, created, updated, checked_in)
		VALUES (?, ?, ?, 'noauth', ?, ?, ?)`, id, c.IdentityHash, c.Identity, millis(now), millis(now), millis(now))
	if err != nil {
		return err
	}
	var identity map[string]json.RawMessage
	if err := json.Unmarshal([]byte(c.Identity), &identity); err != nil {
		return err
	}
	for name, value := range identity {
		_, err := tx.ExecContext(ctx, `INSERT INTO attributes (device_id, scope, name, value, description, updated)
			VALUES (?, 'identity', ?, ?, '', ?)`, id, name, string(value), millis(now))
		if err != nil {
			return err
		}
	}
	return nil
}

// refreshDevice sets a device's status to the strongest of its auth sets. One that is rejected, or has no key left, cannot
// ask for anything any more, so no rollout waits for it.
func refreshDevice(ctx context.Context, tx *sql.Tx, id string, now time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE devices SET updated = ?, status = coalesce((
			SELECT status FROM auth_sets WHERE device_id = devices.id
			ORDER BY CASE status WHEN 'accepted' THEN 0 WHEN 'pending' THEN 1 ELSE 2 END LIMIT 1), 'noauth')
		WHERE id = ?`, millis(now), id)
	if err != nil {
		return err
	}
	var status string
	if err := tx.QueryRowContext(ctx, "SELECT status FROM devices WHERE id = ?", id).Scan(&status); err != nil {
		return notFound(err)
	}
	if status == menderapi.AuthAccepted || status == menderapi.AuthPending {
		return nil
	}
	return endTargets(ctx, tx, "device_id = ?", []any{id}, menderapi.StatusAborted, "the device is not accepted", now)
}

const selectAcceptedDevice = "SELECT device_id FROM auth_sets WHERE id = ? AND status = 'accepted'"

// AcceptedDevice returns the device of an auth set while that set is accepted. Every request of a device asks this, so
// that a rejection works at once.
func (s *Store) AcceptedDevice(ctx context.Context, authSet string) (device string, err error) {
	err = s.acceptedDevice.QueryRowContext(ctx, authSet).Scan(&device)
	return device, notFound(err)
}

// SetAuthStatus accepts, rejects or resets one key of a device. Accepting it rejects the key accepted before: a device
// has one.
func (s *Store) SetAuthStatus(ctx context.Context, device, authSet, status string, now time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		if status == menderapi.AuthAccepted {
			_, err := tx.ExecContext(ctx, "UPDATE auth_sets SET status = 'rejected' WHERE device_id = ? AND status = 'accepted' AND id <> ?", device, authSet)
			if err != nil {
				return err
			}
		}
		err := changed(tx.ExecContext(ctx, "UPDATE auth_sets SET status = ? WHERE id = ? AND device_id = ?", status, authSet, device))
		if err != nil {
			return err
		}
		return refreshDevice(ctx, tx, device, now)
	})
}

// AuthStatus returns the status of one key of a device.
func (s *Store) AuthStatus(ctx context.Context, device, authSet string) (status string, err error) {
	err = s.read.QueryRowContext(ctx, "SELECT status FROM auth_sets WHERE id = ? AND device_id = ?", authSet, device).Scan(&status)
	return status, notFound(err)
}

// DeleteAuthSet forgets one key of a device, and the device with its last key.
func (s *Store) DeleteAuthSet(ctx context.Context, device, authSet string, now time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		if err := changed(tx.ExecContext(ctx, "DELETE FROM auth_sets WHERE id = ? AND device_id = ?", authSet, device)); err != nil {
			return err
		}
		var left int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM auth_sets WHERE device_id = ?", device).Scan(&left); err != nil {
			return err
		}
		if left == 0 {
			return deleteDevice(ctx, tx, device, now)
		}
		return refreshDevice(ctx, tx, device, now)
	})
}

// DeleteDevice forgets a device. Where it was still to be updated it counts as decommissioned.
func (s *Store) DeleteDevice(ctx context.Context, id string, now time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error { return deleteDevice(ctx, tx, id, now) })
}

func deleteDevice(ctx context.Context, tx *sql.Tx, id string, now time.Time) error {
	if err := changed(tx.ExecContext(ctx, "DELETE FROM devices WHERE id = ?", id)); err != nil {
		return err
	}
	return endTargets(ctx, tx, "device_id = ?", []any{id}, menderapi.StatusDecommissioned, "", now)
}

// DeviceFilter chooses devices; empty fields choose all.
type DeviceFilter struct {
	Statuses []string
	IDs      []string
}

func (f DeviceFilter) where() *where {
	w := &where{}
	in := func(column string, values []string) {
		if len(values) == 0 {
			return
		}
		args := make([]any, len(values))
		for i, v := range values {
			args[i] = v
		}
		w.add(column+" IN (?"+strings.Repeat(", ?", len(values)-1)+")", args...)
	}
	in("status", f.Statuses)
	in("id", f.IDs)
	return w
}

// CountDevices counts devices.
func (s *Store) CountDevices(ctx context.Context, f DeviceFilter) (n int, err error) {
	w := f.where()
	err = s.read.QueryRowContext(ctx, "SELECT count(*) FROM devices"+w.sql(), w.args...).Scan(&n)
	return n, err
}

// Devices lists devices with their keys, in the order in which they came.
func (s *Store) Devices(ctx context.Context, f DeviceFilter, p Page) ([]menderapi.AuthDevice, error) {
	w := f.where()
	list, err := collect(ctx, s.read, func(rows *sql.Rows) (d menderapi.AuthDevice, err error) {
		var identity string
		var created, updated int64
		var checkedIn sql.NullInt64
		if err := rows.Scan(&d.ID, &identity, &d.Status, &created, &updated, &checkedIn); err != nil {
			return d, err
		}
		d.CreatedTS, d.UpdatedTS, d.CheckInTime = fromMillis(created), fromMillis(updated), pointer(fromOptional(checkedIn))
		d.IdentityData, err = identityStrings(identity)
		return d, err
	}, "SELECT id, identity, status, created, updated, checked_in FROM devices"+w.sql()+" ORDER BY seq"+p.sql(), w.args...)
	if err != nil {
		return nil, err
	}
	for i := range list {
		d := &list[i]
		d.AuthSets, err = collect(ctx, s.read, func(rows *sql.Rows) (a menderapi.AuthSet, err error) {
			var created int64
			err = rows.Scan(&a.ID, &a.PubKey, &a.Status, &created, &a.Fingerprint)
			a.TS, a.IdentityData = fromMillis(created), d.IdentityData
			return a, err
		}, "SELECT id, pubkey, status, created, fingerprint FROM auth_sets WHERE device_id = ? ORDER BY created, id", d.ID)
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Device returns one device.
func (s *Store) Device(ctx context.Context, id string) (*menderapi.AuthDevice, error) {
	list, err := s.Devices(ctx, DeviceFilter{IDs: []string{id}}, Page{})
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

// identityStrings shows identity values that aren't strings as their JSON text.
func identityStrings(identity string) (map[string]string, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(identity), &raw); err != nil {
		return nil, err
	}
	m := make(map[string]string, len(raw))
	for k, v := range raw {
		var text string
		if json.Unmarshal(v, &text) != nil {
			text = string(v)
		}
		m[k] = text
	}
	return m, nil
}

// TouchDevices records when devices were last heard of.
func (s *Store) TouchDevices(ctx context.Context, seen map[string]time.Time) error {
	return s.touch(ctx, "UPDATE devices SET checked_in = max(coalesce(checked_in, 0), ?) WHERE id = ?", seen)
}

// DropSilentPending forgets pending devices that have not been heard of since the given time. One that was accepted once
// may be awaited by a rollout; that goes on without it.
func (s *Store) DropSilentPending(ctx context.Context, since, now time.Time) error {
	silent := func(q querier) ([]string, error) {
		return collect(ctx, q, scanString, "SELECT id FROM devices WHERE status = 'pending' AND coalesce(checked_in, created) < ?", millis(since))
	}
	if ids, err := silent(s.read); err != nil || len(ids) == 0 {
		return err
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		ids, err := silent(tx)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := deleteDevice(ctx, tx, id, now); err != nil {
				return err
			}
		}
		return nil
	})
}
