package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }

// Scopes of attributes.
const (
	ScopeInventory = "inventory"
	ScopeIdentity  = "identity"
	ScopeSystem    = "system"
)

// MaxAttributes is how many attributes a device may have in the scope that it writes itself.
const MaxAttributes = 1024

// PutAttributes stores what a device says of itself. With replace, attributes that it doesn't name go away. Values must
// be valid JSON.
func (s *Store) PutAttributes(ctx context.Context, device string, list []menderapi.Attribute, replace bool, now time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		if err := changed(tx.ExecContext(ctx, "UPDATE devices SET inventoried = ? WHERE id = ?", millis(now), device)); err != nil {
			return err
		}
		if replace {
			if _, err := tx.ExecContext(ctx, "DELETE FROM attributes WHERE device_id = ? AND scope = 'inventory'", device); err != nil {
				return err
			}
		}
		for _, a := range list {
			if _, err := tx.ExecContext(ctx, `INSERT INTO attributes (device_id, scope, name, value, description, updated)
				VALUES (?, 'inventory', ?, ?, ?, ?)
				ON CONFLICT DO UPDATE SET value = excluded.value, description = excluded.description, updated = excluded.updated`,
				device, a.Name, string(a.Value), a.Description, millis(now)); err != nil {
				return err
			}
		}
		var n int
		err := tx.QueryRowContext(ctx, "SELECT count(*) FROM attributes WHERE device_id = ? AND scope = 'inventory'", device).Scan(&n)
		if err == nil && n > MaxAttributes {
			err = ErrFull
		}
		return err
	})
}

// AttributeIs is a condition on one attribute: its value, or one of its values, is Value as text or as a number.
type AttributeIs struct{ Scope, Name, Value string }

// InventoryFilter chooses devices; empty fields choose all.
type InventoryFilter struct {
	ID         string
	Group      string
	HasGroup   *bool
	Attributes []AttributeIs
	Sort       *AttributeSort
}

// AttributeSort orders devices by an attribute; devices without it come last.
type AttributeSort struct {
	Scope, Name string
	Descending  bool
}

func (f InventoryFilter) where() *where {
	w := &where{}
	if f.ID != "" {
		w.add("d.id = ?", f.ID)
	}
	if f.Group != "" {
		w.add("d.group_name = ?", f.Group)
	}
	if f.HasGroup != nil {
		w.add("(d.group_name IS NOT NULL) = ?", *f.HasGroup)
	}
	for _, a := range f.Attributes {
		switch {
		case a.Scope == ScopeSystem && a.Name == "group":
			w.add("d.group_name = ?", a.Value)
		case a.Scope == ScopeIdentity && a.Name == "status":
			w.add("d.status = ?", a.Value)
		default:
			// json_each of a plain value is that value, of a list its items.
			w.add(`EXISTS (SELECT 1 FROM attributes a, json_each(a.value) v
				WHERE a.device_id = d.id AND a.scope = ? AND a.name = ? AND CAST(v.value AS TEXT) = ?)`, a.Scope, a.Name, a.Value)
		}
	}
	return w
}

// Inventory lists devices with their attributes and says how many there are on all pages.
func (s *Store) Inventory(ctx context.Context, f InventoryFilter, p Page) (list []menderapi.InventoryDevice, total int, err error) {
	w := f.where()
	if err := s.read.QueryRowContext(ctx, "SELECT count(*) FROM devices d"+w.sql(), w.args...).Scan(&total); err != nil {
		return nil, 0, err
	}
	order, args := " ORDER BY d.seq", w.args
	if f.Sort != nil {
		direction := ""
		if f.Sort.Descending {
			direction = " DESC"
		}
		order = ` ORDER BY (SELECT json_extract(a.value, '$') FROM attributes a
			WHERE a.device_id = d.id AND a.scope = ? AND a.name = ?)` + direction + " NULLS LAST, d.seq"
		args = append(args[:len(args):len(args)], f.Sort.Scope, f.Sort.Name)
	}
	list, err = collect(ctx, s.read, scanInventory, `SELECT d.id, d.status, coalesce(d.group_name, ''), d.created, d.updated, d.checked_in, d.inventoried
		FROM devices d`+w.sql()+order+p.sql(), args...)
	if err != nil {
		return nil, 0, err
	}
	for i := range list {
		stored, err := collect(ctx, s.read, func(rows *sql.Rows) (a menderapi.Attribute, err error) {
			var value string
			var updated int64
			err = rows.Scan(&a.Scope, &a.Name, &value, &a.Description, &updated)
			a.Value, a.Timestamp = json.RawMessage(value), pointer(fromMillis(updated))
			return a, err
		}, "SELECT scope, name, value, description, updated FROM attributes WHERE device_id = ? ORDER BY scope, name", list[i].ID)
		if err != nil {
			return nil, 0, err
		}
		list[i].Attributes = append(stored, list[i].Attributes...)
	}
	return list, total, nil
}

// scanInventory makes the attributes that the server itself knows.
func scanInventory(rows *sql.Rows) (d menderapi.InventoryDevice, err error) {
	var status, group string
	var created, updated int64
	var checkedIn, inventoried sql.NullInt64
	if err := rows.Scan(&d.ID, &status, &group, &created, &updated, &checkedIn, &inventoried); err != nil {
		return d, err
	}
	d.Attributes, err = system(status, group, created, updated, checkedIn)
	d.UpdatedTS = fromMillis(max(updated, inventoried.Int64))
	return d, err
}

// ClearInventory forgets what a device said of itself.
func (s *Store) ClearInventory(ctx context.Context, device string) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		if err := changed(tx.ExecContext(ctx, "UPDATE devices SET inventoried = NULL WHERE id = ?", device)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM attributes WHERE device_id = ? AND scope = 'inventory'", device)
		return err
	})
}

// Group returns a device's group, or nothing.
func (s *Store) Group(ctx context.Context, device string) (string, error) {
	var g sql.NullString
	err := s.read.QueryRowContext(ctx, "SELECT group_name FROM devices WHERE id = ?", device).Scan(&g)
	return g.String, notFound(err)
}

// JoinGroup puts devices into a group, each out of the one it was in. It says how many of them exist and how many
// changed. Running deployments are not affected, but for those with a filter: the devices of the others were chosen when they
// were created.
func (s *Store) JoinGroup(ctx context.Context, group string, devices []string, now time.Time) (c menderapi.GroupChange, err error) {
	return s.regroup(ctx, devices, func(tx *sql.Tx, device string) (sql.Result, error) {
		return tx.ExecContext(ctx, "UPDATE devices SET group_name = ?, updated = ? WHERE id = ? AND group_name IS NOT ?", group, millis(now), device, group)
	})
}

// LeaveGroup takes devices out of a group.
func (s *Store) LeaveGroup(ctx context.Context, group string, devices []string, now time.Time) (c menderapi.GroupChange, err error) {
	return s.regroup(ctx, devices, func(tx *sql.Tx, device string) (sql.Result, error) {
		return tx.ExecContext(ctx, "UPDATE devices SET group_name = NULL, updated = ? WHERE id = ? AND group_name = ?", millis(now), device, group)
	})
}

func (s *Store) regroup(ctx context.Context, devices []string, change func(*sql.Tx, string) (sql.Result, error)) (c menderapi.GroupChange, err error) {
	err = s.update(ctx, func(tx *sql.Tx) error {
		for _, d := range devices {
			var known int
			if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM devices WHERE id = ?", d).Scan(&known); err != nil {
				return err
			}
			c.Matched += known
			switch err := changed(change(tx, d)); {
			case err == nil:
				c.Updated++
			case !isNotFound(err):
				return err
			}
		}
		return nil
	})
	return c, err
}

// Groups lists the groups that have devices.
func (s *Store) Groups(ctx context.Context) ([]string, error) {
	return collect(ctx, s.read, scanString, "SELECT DISTINCT group_name FROM devices WHERE group_name IS NOT NULL ORDER BY 1")
}

// GroupDevices lists a group's devices. A group without devices does not exist: ErrNotFound.
func (s *Store) GroupDevices(ctx context.Context, group string, p Page) (ids []string, total int, err error) {
	if err := s.read.QueryRowContext(ctx, "SELECT count(*) FROM devices WHERE group_name = ?", group).Scan(&total); err != nil {
		return nil, 0, err
	}
	if total == 0 {
		return nil, 0, ErrNotFound
	}
	ids, err = collect(ctx, s.read, scanString, "SELECT id FROM devices WHERE group_name = ? ORDER BY seq"+p.sql(), group)
	return ids, total, err
}
