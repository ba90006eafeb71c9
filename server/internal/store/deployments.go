package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/rollout"
)

// NewDeployment is what CreateDeployment needs. Policy must have been completed. Without Devices the targets are the accepted
// devices that the policy chooses.
type NewDeployment struct {
	Name         string
	ArtifactName string
	Devices      []string
	Force        bool
	Retries      int
	Policy       menderapi.Policy
}

// TargetError says why a deployment has no devices to go to.
type TargetError struct{ Reason string }

func (e *TargetError) Error() string { return e.Reason }

// CreateDeployment fixes the targets of a deployment and releases its first phase. Errors: ErrNotFound when no artifact has
// the name, ErrExists when an unfinished deployment equals it, *TargetError, *rollout.PolicyError.
func (s *Store) CreateDeployment(ctx context.Context, n NewDeployment, now time.Time) (string, error) {
	id := uuid.NewString()
	policy, err := json.Marshal(n.Policy)
	if err != nil {
		return "", err
	}
	groups, err := json.Marshal(append([]string{}, n.Policy.Groups...))
	if err != nil {
		return "", err
	}
	err = s.update(ctx, func(tx *sql.Tx) error {
		var artifacts int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM artifacts WHERE name = ?", n.ArtifactName).Scan(&artifacts); err != nil {
			return err
		}
		if artifacts == 0 {
			return ErrNotFound
		}
		devices, err := targets(ctx, tx, n)
		if err != nil {
			return err
		}
		phases, err := rollout.Assign(n.Policy, devices)
		if err != nil {
			return err
		}
		start := rollout.Start(n.Policy)
		var expires time.Time
		if n.Policy.ExpiresSeconds > 0 {
			expires = now.Add(time.Duration(n.Policy.ExpiresSeconds) * time.Second)
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO deployments
			(id, name, artifact_name, fingerprint, force, retries, groups, policy, status, state, phase, reason, forgiven, devices, asked, total_size, created,
				open, expires)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', 'running', ?, '', 0, ?, 0, 0, ?, ?, ?)`,
			id, n.Name, n.ArtifactName, fingerprint(n, devices), n.Force, n.Retries, string(groups), string(policy), start.Phase, len(devices), millis(now),
			start.Open, optional(expires))
		if isUnique(err) {
			return ErrExists
		}
		if err != nil {
			return err
		}
		seq, err := res.LastInsertId()
		if err != nil {
			return err
		}
		if err := insertTargets(ctx, tx, seq, devices, phases); err != nil {
			return err
		}
		if err := closeOlder(ctx, tx, seq, n.Name, now); err != nil {
			return err
		}
		return advance(ctx, tx, seq, now)
	})
	return id, err
}

// closeOlder lets no more devices join the older deployments of a name: they would first get an old release.
func closeOlder(ctx context.Context, tx *sql.Tx, seq int64, name string, now time.Time) error {
	older, err := collect(ctx, tx, scanSeq, "SELECT seq FROM deployments WHERE open = 1 AND finished IS NULL AND seq < ? AND name = ?", seq, name)
	if err != nil {
		return err
	}
	for _, o := range older {
		if _, err := tx.ExecContext(ctx, "UPDATE deployments SET open = 0 WHERE seq = ?", o); err != nil {
			return err
		}
		if err := advance(ctx, tx, o, now); err != nil {
			return err
		}
	}
	return nil
}

func scanSeq(rows *sql.Rows) (seq int64, err error) {
	err = rows.Scan(&seq)
	return seq, err
}

// insertTargets makes a row for each device, and the counters. SQLite does the loop: a statement for each of 100,000 devices
// takes three times as long.
func insertTargets(ctx context.Context, tx *sql.Tx, seq int64, devices []rollout.Device, phases []int) error {
	byPhase := map[int][]string{}
	for i, d := range devices {
		byPhase[phases[i]] = append(byPhase[phases[i]], d.ID)
	}
	for phase, ids := range byPhase {
		slices.Sort(ids) // the order of the table
		document, err := json.Marshal(ids)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO targets (deployment, device_id, phase, status) SELECT ?, value, ?, 'pending' FROM json_each(?)",
			seq, phase, string(document))
		if err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO tallies (deployment, phase, status, n)
		SELECT deployment, phase, status, count(*) FROM targets WHERE deployment = ? GROUP BY 1, 2, 3`, seq)
	return err
}

// targets lists the devices of a new deployment in the order in which they came.
func targets(ctx context.Context, tx *sql.Tx, n NewDeployment) ([]rollout.Device, error) {
	filter, err := rollout.NewFilter(n.Policy)
	if err != nil {
		return nil, err
	}
	all, err := matching(ctx, tx, filter)
	if err != nil {
		return nil, err
	}
	if len(n.Devices) == 0 {
		if len(all) == 0 && len(n.Policy.Filter) == 0 { // with a filter they may still come
			return nil, nobody(n.Policy)
		}
		return all, nil
	}
	chosen := make(map[string]bool, len(n.Devices))
	for _, d := range n.Devices {
		chosen[d] = true
	}
	var list []rollout.Device
	for _, d := range all {
		if chosen[d.ID] {
			list = append(list, d)
		}
		delete(chosen, d.ID)
	}
	for _, d := range n.Devices {
		if chosen[d] {
			return nil, &TargetError{Reason: fmt.Sprintf("device %q is not known or not accepted", d)}
		}
	}
	return list, nil
}

func nobody(p menderapi.Policy) error {
	reason := "there is no accepted device"
	if len(p.Groups) > 0 {
		reason = fmt.Sprintf("no accepted device is in group %q", p.Groups)
	}
	if len(p.ExcludeGroups) > 0 {
		reason += fmt.Sprintf(" outside of the excluded %q", p.ExcludeGroups)
	}
	return &TargetError{Reason: reason}
}

// fingerprint is equal for deployments that would do the same to the same devices under the same name. Devices that are
// found by a filter are nobody's list: there is one such deployment of a name and a release at a time.
func fingerprint(n NewDeployment, devices []rollout.Device) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q", n.Name, n.ArtifactName)
	if len(n.Policy.Filter) > 0 {
		devices = nil
	}
	for _, d := range devices {
		fmt.Fprintf(h, " %q", d.ID)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// DeploymentFilter chooses deployments; empty fields choose all.
type DeploymentFilter struct {
	ID                          string
	Status                      string
	Search                      string // prefix of the name or of the artifact's name, or the id
	CreatedBefore, CreatedAfter time.Time
	OldestFirst                 bool
	Device                      string // has this device as target
}

func (f DeploymentFilter) where() *where {
	w := &where{}
	if f.ID != "" {
		w.add("d.id = ?", f.ID)
	}
	if f.Status != "" {
		w.add("d.status = ?", f.Status)
	}
	if f.Search != "" {
		w.add(`(d.name LIKE ? ESCAPE '\' OR d.artifact_name LIKE ? ESCAPE '\' OR d.id = ?)`, likePrefix(f.Search), likePrefix(f.Search), f.Search)
	}
	if !f.CreatedBefore.IsZero() {
		w.add("d.created < ?", millis(f.CreatedBefore))
	}
	if !f.CreatedAfter.IsZero() {
		w.add("d.created > ?", millis(f.CreatedAfter))
	}
	if f.Device != "" {
		w.add("EXISTS (SELECT 1 FROM targets t WHERE t.deployment = d.seq AND t.device_id = ?)", f.Device)
	}
	return w
}

// Deployments lists deployments, newest first, and says how many there are on all pages.
func (s *Store) Deployments(ctx context.Context, f DeploymentFilter, p Page, now time.Time) (list []menderapi.Deployment, total int, err error) {
	w := f.where()
	if err := s.read.QueryRowContext(ctx, "SELECT count(*) FROM deployments d"+w.sql(), w.args...).Scan(&total); err != nil {
		return nil, 0, err
	}
	order := " ORDER BY d.seq DESC"
	if f.OldestFirst {
		order = " ORDER BY d.seq"
	}
	rows, err := collect(ctx, s.read, scanDeployment, selectDeployment+w.sql()+order+p.sql(), w.args...)
	if err != nil {
		return nil, 0, err
	}
	for _, d := range rows {
		shown, err := s.show(ctx, d, now)
		if err != nil {
			return nil, 0, err
		}
		list = append(list, shown)
	}
	return list, total, nil
}

// Deployment returns one deployment.
func (s *Store) Deployment(ctx context.Context, id string, now time.Time) (*menderapi.Deployment, error) {
	list, _, err := s.Deployments(ctx, DeploymentFilter{ID: id}, Page{}, now)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

// deployment is a row of the table.
type deployment struct {
	seq                    int64
	id, name, artifactName string
	force                  bool
	retries                int
	groups                 []string
	policy                 menderapi.Policy
	status                 string
	position               rollout.Position
	devices, asked         int
	totalSize              int64
	created, finished      time.Time
	expires                time.Time
	expired                bool
}

const selectDeployment = `SELECT d.seq, d.id, d.name, d.artifact_name, d.force, d.retries, d.groups, d.policy, d.status,
	d.state, d.phase, d.reason, d.soak_until, d.forgiven, d.devices, d.asked, d.total_size, d.created, d.finished,
	d.awaits, d.passed, d.open, d.expires, d.expired FROM deployments d`

func scanDeployment(rows *sql.Rows) (d deployment, err error) {
	var groups, policy string
	var created int64
	var soakUntil, finished, expires sql.NullInt64
	var awaits bool
	err = rows.Scan(&d.seq, &d.id, &d.name, &d.artifactName, &d.force, &d.retries, &groups, &policy, &d.status,
		&d.position.State, &d.position.Phase, &d.position.Reason, &soakUntil, &d.position.Forgiven, &d.devices, &d.asked, &d.totalSize, &created, &finished,
		&awaits, &d.position.Passed, &d.position.Open, &expires, &d.expired)
	if err != nil {
		return d, err
	}
	if awaits {
		d.position.State = menderapi.RolloutWaiting
	}
	d.expires = fromOptional(expires)
	d.position.SoakUntil, d.created, d.finished = fromOptional(soakUntil), fromMillis(created), fromOptional(finished)
	if err = json.Unmarshal([]byte(groups), &d.groups); err == nil {
		err = json.Unmarshal([]byte(policy), &d.policy)
	}
	if err != nil {
		err = fmt.Errorf("damaged deployment record: %w", err)
	}
	return d, err
}

func loadDeployment(ctx context.Context, q querier, condition string, arg any) (deployment, error) {
	list, err := collect(ctx, q, scanDeployment, selectDeployment+" WHERE "+condition, arg)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return deployment{}, err
	}
	return list[0], nil
}

// tally is how many targets of a phase have a status.
type tally struct {
	phase  int
	status menderapi.Status
	n      int
}

func loadTallies(ctx context.Context, q querier, seq int64) ([]tally, error) {
	return collect(ctx, q, func(rows *sql.Rows) (t tally, err error) {
		err = rows.Scan(&t.phase, &t.status, &t.n)
		return t, err
	}, "SELECT phase, status, n FROM tallies WHERE deployment = ?", seq)
}

func byPhase(list []tally, phases int) []rollout.Tally {
	out := make([]rollout.Tally, phases)
	for _, t := range list {
		p := &out[t.phase]
		p.Devices += t.n
		switch {
		case t.status == menderapi.StatusSuccess || t.status == menderapi.StatusAlreadyInstalled:
			p.Done += t.n
		case t.status == menderapi.StatusFailure:
			p.Failed += t.n
		case t.status.Final():
			p.Other += t.n
		}
	}
	return out
}

// show makes what the API shows of a deployment.
func (s *Store) show(ctx context.Context, d deployment, now time.Time) (menderapi.Deployment, error) {
	m := menderapi.Deployment{
		ID: d.id, Name: d.name, ArtifactName: d.artifactName, Created: d.created, Finished: pointer(d.finished), Status: d.status,
		DeviceCount: d.asked, MaxDevices: d.devices, Groups: d.groups, Type: "software",
		Statistics: menderapi.Statistics{Status: make(map[menderapi.Status]int, len(menderapi.DeviceStatuses)), TotalSize: d.totalSize},
	}
	tallies, err := loadTallies(ctx, s.read, d.seq)
	if err != nil {
		return m, err
	}
	for _, status := range menderapi.DeviceStatuses {
		m.Statistics.Status[status] = 0
	}
	for _, t := range tallies {
		m.Statistics.Status[t.status] += t.n
	}
	if m.Artifacts, err = collect(ctx, s.read, scanString, "SELECT id FROM artifacts WHERE name = ? ORDER BY modified, id", d.artifactName); err != nil {
		return m, err
	}
	if m.Artifacts == nil {
		m.Artifacts = []string{}
	}
	m.Rollout = &menderapi.RolloutProgress{
		Policy: d.policy, State: d.position.State, Phase: max(d.position.Phase, 0),
		PauseReason: d.position.Reason, SoakUntil: pointer(d.position.SoakUntil),
		Waits: rollout.Waits(d.policy, d.position, byPhase(tallies, len(d.policy.Phases)), now),
		Open:  d.position.Open, Expires: pointer(d.expires), Expired: d.expired,
	}
	for i, t := range byPhase(tallies, len(d.policy.Phases)) {
		m.Rollout.Phases = append(m.Rollout.Phases, menderapi.PhaseProgress{
			Name: d.policy.Phases[i].Name, Devices: t.Devices, Done: t.Done, Failed: t.Failed, Started: i <= d.position.Phase,
		})
	}
	return m, nil
}

// advance lets a rollout move after its targets or the clock have changed. It is called in the same transaction as the
// change.
func advance(ctx context.Context, tx *sql.Tx, seq int64, now time.Time) error {
	d, err := loadDeployment(ctx, tx, "d.seq = ?", seq)
	if err != nil {
		return err
	}
	tallies, err := loadTallies(ctx, tx, seq)
	if err != nil {
		return err
	}
	return settle(ctx, tx, d, tallies, rollout.Step(d.policy, d.position, byPhase(tallies, len(d.policy.Phases)), now), now)
}

// settle stores where a rollout has come to, and ends the remaining targets of an aborted one.
func settle(ctx context.Context, tx *sql.Tx, d deployment, tallies []tally, pos rollout.Position, now time.Time) error {
	status, finished := d.status, d.finished
	for _, t := range tallies {
		if t.status != menderapi.StatusPending && t.n > 0 && status == menderapi.DeploymentPending {
			status = menderapi.DeploymentInProgress
		}
	}
	if pos.Ended() && status != menderapi.DeploymentFinished {
		status, finished = menderapi.DeploymentFinished, now
	}
	if status != d.status || pos != d.position {
		state, awaits := pos.State, pos.State == menderapi.RolloutWaiting
		if awaits {
			state = menderapi.RolloutRunning
		}
		_, err := tx.ExecContext(ctx, `UPDATE deployments SET status = ?, finished = ?, state = ?, phase = ?, reason = ?, soak_until = ?, forgiven = ?,
			awaits = ?, passed = ?, open = ? WHERE seq = ?`,
			status, optional(finished), state, pos.Phase, pos.Reason, optional(pos.SoakUntil), pos.Forgiven, awaits, pos.Passed, pos.Open, d.seq)
		if err != nil {
			return err
		}
	}
	if pos.State != menderapi.RolloutAborted {
		return nil
	}
	_, err := tx.ExecContext(ctx, "UPDATE targets SET status = 'aborted', finished = ? WHERE deployment = ? AND finished IS NULL", millis(now), d.seq)
	return err
}

// endTargets ends the open targets that a condition chooses and lets their rollouts move.
func endTargets(ctx context.Context, tx *sql.Tx, condition string, args []any, status menderapi.Status, substate string, now time.Time) error {
	seqs, err := collect(ctx, tx, scanSeq, "SELECT DISTINCT deployment FROM targets WHERE finished IS NULL AND "+condition, args...)
	if err != nil || len(seqs) == 0 {
		return err
	}
	_, err = tx.ExecContext(ctx, "UPDATE targets SET status = ?, substate = ?, finished = ? WHERE finished IS NULL AND "+condition,
		append([]any{string(status), substate, millis(now)}, args...)...)
	if err != nil {
		return err
	}
	for _, seq := range seqs {
		if err := advance(ctx, tx, seq, now); err != nil {
			return err
		}
	}
	return nil
}

// Abort ends a deployment: every device that isn't final counts as aborted, and its next report is refused. A finished
// one is ErrFinished.
func (s *Store) Abort(ctx context.Context, id, reason string, now time.Time) error {
	return s.steer(ctx, id, now, func(d deployment, _ []rollout.Tally) rollout.Position {
		d.position.State, d.position.Reason, d.position.Open = menderapi.RolloutAborted, reason, false
		return d.position
	})
}

// Pause holds a deployment: devices that have begun go on, no other one starts.
func (s *Store) Pause(ctx context.Context, id, reason string, now time.Time) error {
	return s.steer(ctx, id, now, func(d deployment, _ []rollout.Tally) rollout.Position {
		if d.position.State == menderapi.RolloutPaused {
			return d.position // keep the first reason
		}
		return rollout.Pause(d.position, reason)
	})
}

// Resume lets a paused deployment go on. The failures so far no longer count against its thresholds.
func (s *Store) Resume(ctx context.Context, id string, now time.Time) error {
	return s.steer(ctx, id, now, func(d deployment, tallies []rollout.Tally) rollout.Position {
		if d.position.State != menderapi.RolloutPaused {
			return d.position
		}
		return rollout.Resume(d.policy, d.position, tallies, now)
	})
}

func (s *Store) steer(ctx context.Context, id string, now time.Time, f func(deployment, []rollout.Tally) rollout.Position) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		d, err := loadDeployment(ctx, tx, "d.id = ?", id)
		if err != nil {
			return err
		}
		if d.position.Ended() {
			return ErrFinished
		}
		tallies, err := loadTallies(ctx, tx, d.seq)
		if err != nil {
			return err
		}
		return settle(ctx, tx, d, tallies, f(d, byPhase(tallies, len(d.policy.Phases))), now)
	})
}

// Approve releases the phase of that name, which must be the one that waits; otherwise the error is a
// *rollout.NotWaitingError.
func (s *Store) Approve(ctx context.Context, id, phase string, now time.Time) error {
	var refused error
	err := s.steer(ctx, id, now, func(d deployment, tallies []rollout.Tally) (pos rollout.Position) {
		pos, refused = rollout.Approve(d.policy, d.position, phase, tallies, now)
		return pos
	})
	return errors.Join(err, refused)
}

// selectDue are the deployments for which the clock alone changes something: a soak or the whole rollout is over.
const selectDue = `SELECT seq FROM deployments WHERE state = 'soaking' AND soak_until <= ?1
	UNION SELECT seq FROM deployments WHERE expired = 0 AND finished IS NULL AND expires IS NOT NULL AND expires <= ?1`

// Tick does what is due: it releases the phases whose soak time is over, and gives up the devices that have not begun when
// their rollout expires.
func (s *Store) Tick(ctx context.Context, now time.Time) error {
	if seqs, err := collect(ctx, s.read, scanSeq, selectDue, millis(now)); err != nil || len(seqs) == 0 {
		return err
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		seqs, err := collect(ctx, tx, scanSeq, selectDue, millis(now))
		if err != nil {
			return err
		}
		for _, seq := range seqs {
			if err := expire(ctx, tx, seq, now); err != nil {
				return err
			}
			if err := advance(ctx, tx, seq, now); err != nil {
				return err
			}
		}
		return nil
	})
}

// expire gives up what has not begun, where the time of a deployment is over. A device between two attempts has failed.
func expire(ctx context.Context, tx *sql.Tx, seq int64, now time.Time) error {
	err := changed(tx.ExecContext(ctx, "UPDATE deployments SET expired = 1, open = 0 WHERE seq = ? AND expired = 0 AND expires <= ?", seq, millis(now)))
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	const pending = "deployment = ? AND status = 'pending' AND attempt "
	err = endTargets(ctx, tx, pending+"> 1", []any{seq}, menderapi.StatusFailure, "the rollout expired before another attempt", now)
	if err != nil {
		return err
	}
	return endTargets(ctx, tx, pending+"= 1", []any{seq}, menderapi.StatusAborted, "the rollout expired before the device began", now)
}

// Settle lets every unfinished rollout move. It is for the start of the server: a migration may have ended targets.
func (s *Store) Settle(ctx context.Context, now time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		seqs, err := collect(ctx, tx, scanSeq, "SELECT seq FROM deployments WHERE finished IS NULL ORDER BY seq")
		if err != nil {
			return err
		}
		for _, seq := range seqs {
			if err := advance(ctx, tx, seq, now); err != nil {
				return err
			}
		}
		return nil
	})
}

// TargetFilter chooses the targets of a deployment; no statuses choose all.
type TargetFilter struct {
	Device   string
	Statuses []menderapi.Status
}

// DeploymentDevices lists a deployment's devices with their statuses and says how many there are on all pages.
func (s *Store) DeploymentDevices(ctx context.Context, id string, f TargetFilter, p Page, now time.Time) (list []menderapi.DeploymentDevice, total int, err error) {
	d, err := loadDeployment(ctx, s.read, "d.id = ?", id)
	if err != nil {
		return nil, 0, err
	}
	w := &where{}
	w.add("t.deployment = ?", d.seq)
	if f.Device != "" {
		w.add("t.device_id = ?", f.Device)
	}
	if len(f.Statuses) > 0 {
		names, err := json.Marshal(f.Statuses)
		if err != nil {
			return nil, 0, err
		}
		w.add("t.status IN (SELECT value FROM json_each(?))", string(names))
	}
	if err := s.read.QueryRowContext(ctx, "SELECT count(*) FROM targets t"+w.sql(), w.args...).Scan(&total); err != nil {
		return nil, 0, err
	}
	window := rollout.WindowWait(d.policy, now)
	list, err = collect(ctx, s.read, func(rows *sql.Rows) (m menderapi.DeploymentDevice, err error) {
		var phase int
		var asked, finished, notBefore, joined sql.NullInt64
		err = rows.Scan(&m.ID, &m.Status, &m.SubState, &phase, &m.Attempt, &asked, &finished, &m.Log, &notBefore, &joined)
		m.Created, m.Started, m.Finished = d.created, pointer(fromOptional(asked)), pointer(fromOptional(finished))
		m.Phase = d.policy.Phases[phase].Name
		if joined.Valid {
			m.Created = fromOptional(joined)
		}
		if m.Status == menderapi.StatusPending {
			m.Waits = rollout.DeviceWaits(d.policy, d.position, phase, fromOptional(notBefore), window, now)
		}
		return m, err
	}, `SELECT t.device_id, t.status, t.substate, t.phase, t.attempt, t.asked, t.finished, l.device_id IS NOT NULL, t.not_before, t.joined
		FROM targets t
		LEFT JOIN devices v ON v.id = t.device_id
		LEFT JOIN logs l ON l.deployment = t.deployment AND l.device_id = t.device_id`+w.sql()+
		" ORDER BY t.phase, v.seq NULLS LAST, t.device_id"+p.sql(), w.args...)
	return list, total, err
}

// Log returns what a device logged in a deployment.
func (s *Store) Log(ctx context.Context, id, device string) (*menderapi.Log, error) {
	var document string
	err := s.read.QueryRowContext(ctx, `SELECT l.document FROM logs l JOIN deployments d ON d.seq = l.deployment
		WHERE d.id = ? AND l.device_id = ?`, id, device).Scan(&document)
	if err != nil {
		return nil, notFound(err)
	}
	var l menderapi.Log
	if err := json.Unmarshal([]byte(document), &l); err != nil {
		return nil, fmt.Errorf("damaged log record: %w", err)
	}
	return &l, nil
}
