package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/rollout"
)

// A deployment whose policy has a filter finds out again who takes part whenever a device asks. A device joins with the poll
// in which it first meets the filter, and leaves with the first one after that in which it doesn't, unless it has begun.

// system are the attributes that the server itself knows of a device; group, status and times are columns of the device.
func system(status, group string, created, updated int64, checkedIn sql.NullInt64) (list []menderapi.Attribute, err error) {
	add := func(scope, name string, value any) {
		text, jsonErr := json.Marshal(value)
		err = errors.Join(err, jsonErr)
		list = append(list, menderapi.Attribute{Scope: scope, Name: name, Value: text})
	}
	add(ScopeIdentity, "status", status)
	if group != "" {
		add(ScopeSystem, "group", group)
	}
	add(ScopeSystem, "created_ts", fromMillis(created))
	add(ScopeSystem, "updated_ts", fromMillis(updated))
	if checkedIn.Valid {
		add(ScopeSystem, "check_in_time", fromOptional(checkedIn))
	}
	return list, err
}

// candidate is an accepted device, with what a filter looks at.
type candidate struct {
	rollout.Device
	facts rollout.Facts
}

const selectCandidates = "SELECT id, coalesce(group_name, ''), status, created, updated, checked_in FROM devices"

func scanCandidate(rows *sql.Rows) (c candidate, err error) {
	var status string
	var created, updated int64
	var checkedIn sql.NullInt64
	if err := rows.Scan(&c.ID, &c.Group, &status, &created, &updated, &checkedIn); err != nil {
		return c, err
	}
	known, err := system(status, c.Group, created, updated, checkedIn)
	c.facts = make(rollout.Facts, len(known))
	for _, a := range known {
		c.facts[rollout.Attribute{Scope: a.Scope, Name: a.Name}] = a.Value
	}
	return c, err
}

const (
	selectCandidate  = selectCandidates + " WHERE id = ? AND status = 'accepted'"
	selectAttributes = "SELECT scope, name, value FROM attributes WHERE device_id = ?"
)

// reader is where a device's part in rollouts is looked up: in a transaction, or with the statements that polls use.
type reader struct{ open, device, attributes querier }

func readerOf(tx *sql.Tx) reader { return reader{tx, tx, tx} }

func (s *Store) pollReader() reader {
	return reader{prepared{s.openDeployments}, prepared{s.candidate}, prepared{s.attributes}}
}

// accepted is one accepted device; ErrNotFound when it is not accepted.
func (r reader) accepted(ctx context.Context, device string) (candidate, error) {
	list, err := collect(ctx, r.device, scanCandidate, selectCandidate, device)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return candidate{}, err
	}
	c := list[0]
	_, err = collect(ctx, r.attributes, func(rows *sql.Rows) (struct{}, error) {
		var a rollout.Attribute
		var value string
		err := rows.Scan(&a.Scope, &a.Name, &value)
		c.facts[a] = json.RawMessage(value)
		return struct{}{}, err
	}, selectAttributes, device)
	return c, err
}

// matching lists the accepted devices that meet a filter, in the order in which they came. Attributes are read by name for
// all devices at once: a query for each device takes ten times as long.
func matching(ctx context.Context, q querier, f *rollout.Filter) ([]rollout.Device, error) {
	all, err := collect(ctx, q, scanCandidate, selectCandidates+" WHERE status = 'accepted' ORDER BY seq")
	if err != nil {
		return nil, err
	}
	byID := make(map[string]rollout.Facts, len(all))
	for _, c := range all {
		byID[c.ID] = c.facts
	}
	for _, a := range f.Attributes() {
		_, err := collect(ctx, q, func(rows *sql.Rows) (struct{}, error) {
			var device, value string
			err := rows.Scan(&device, &value)
			if facts := byID[device]; facts != nil {
				facts[a] = json.RawMessage(value)
			}
			return struct{}{}, err
		}, "SELECT device_id, value FROM attributes WHERE scope = ? AND name = ?", a.Scope, a.Name)
		if err != nil {
			return nil, err
		}
	}
	var list []rollout.Device
	for _, c := range all {
		if f.Match(c.Group, c.facts) {
			list = append(list, c.Device)
		}
	}
	return list, nil
}

// selectOpenDeployments are the ones that a device may join: not those that it is or was in, and none that is older than a
// release it got from another one.
const selectOpenDeployments = selectDeployment + ` WHERE d.open = 1 AND d.finished IS NULL
	AND NOT EXISTS (SELECT 1 FROM targets t WHERE t.deployment = d.seq AND t.device_id = ?1)
	AND NOT EXISTS (SELECT 1 FROM deployments n CROSS JOIN targets t ON t.deployment = n.seq AND t.device_id = ?1
		WHERE n.seq > d.seq AND t.status IN ('success', 'already-installed'))
	ORDER BY d.seq`

// joinable are the deployments whose filter the device meets and that it is not in, with its group.
func (r reader) joinable(ctx context.Context, device string) (list []deployment, group string, err error) {
	deployments, err := collect(ctx, r.open, scanDeployment, selectOpenDeployments, device)
	if err != nil || len(deployments) == 0 {
		return nil, "", err
	}
	c, err := r.accepted(ctx, device)
	if err != nil {
		if isNotFound(err) {
			err = nil
		}
		return nil, "", err
	}
	for _, d := range deployments {
		f, err := rollout.NewFilter(d.policy)
		if err != nil {
			return nil, "", err
		}
		if f.Match(c.Group, c.facts) {
			list = append(list, d)
		}
	}
	return list, c.Group, nil
}

// join puts a device into every rollout whose filter it meets.
func join(ctx context.Context, tx *sql.Tx, device string, now time.Time) error {
	list, group, err := readerOf(tx).joinable(ctx, device)
	if err != nil {
		return err
	}
	for _, d := range list {
		tallies, err := loadTallies(ctx, tx, d.seq)
		if err != nil {
			return err
		}
		phase, ok := rollout.Join(d.policy, d.position, byPhase(tallies, len(d.policy.Phases)), group)
		if !ok {
			continue
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO targets (deployment, device_id, phase, status, joined) VALUES (?, ?, ?, 'pending', ?)",
			d.seq, device, phase, millis(now))
		if err != nil {
			return err
		}
		if err := advance(ctx, tx, d.seq, now); err != nil {
			return err
		}
	}
	return nil
}

// leave takes a device that has not begun out of a rollout whose filter it no longer meets.
func (t target) leave(ctx context.Context, tx *sql.Tx, device string, now time.Time) (left bool, err error) {
	if len(t.policy.Filter) == 0 || t.status != menderapi.StatusPending || t.attempt > 1 {
		return false, nil
	}
	f, err := rollout.NewFilter(t.policy)
	if err != nil {
		return false, err
	}
	c, err := readerOf(tx).accepted(ctx, device)
	if err != nil && !isNotFound(err) || err == nil && f.Match(c.Group, c.facts) {
		return false, err
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM targets WHERE deployment = ? AND device_id = ?", t.seq, device)
	if err != nil {
		return false, err
	}
	return true, advance(ctx, tx, t.seq, now)
}
