package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/rollout"
)

// NewDeployment is what CreateDeployment needs. Policy must have been completed. Without Devices and without groups in the
// policy, the targets are all accepted devices.
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
		res, err := tx.ExecContext(ctx, `INSERT INTO deployments
			(id, name, artifact_name, fingerprint, force, retries, groups, policy, status, state, phase, reason, forgiven, devices, asked, total_size, created)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', 'running', 0, '', 0, ?, 0, 0, ?)`,
			id, n.Name, n.ArtifactName, fingerprint(n, devices), n.Force, n.Retries, string(groups), string(policy), len(devices), millis(now))
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
		return advance(ctx, tx, seq, now)
	})
	return id, err
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
	w := &where{}
	w.add("status = 'accepted'")
	chosen := make(map[string]bool, len(n.Devices))
	for _, d := range n.Devices {
		chosen[d] = true
	}
	inGroup := make(map[string]bool, len(n.Policy.Groups))
	for _, g := range n.Policy.Groups {
		inGroup[g] = true
	}
	all, err := collect(ctx, tx, func(rows *sql.Rows) (d rollout.Device, err error) {
		err = rows.Scan(&d.ID, &d.Group)
		return d, err
	}, "SELECT id, coalesce(group_name, '') FROM devices"+w.sql()+" ORDER BY seq", w.args...)
	if err != nil {
		return nil, err
	}
	var list []rollout.Device
	for _, d := range all {
		wanted := (len(n.Devices) == 0 || chosen[d.ID]) && (len(inGroup) == 0 || inGroup[d.Group])
		if wanted {
			list = append(list, d)
		}
		delete(chosen, d.ID)
	}
	for _, d := range n.Devices {
		if chosen[d] {
			return nil, &TargetError{Reason: fmt.Sprintf("device %q is not known or not accepted", d)}
		}
	}
	if len(list) == 0 {
		if len(inGroup) > 0 {
			return nil, &TargetError{Reason: fmt.Sprintf("no accepted device is in group %q", n.Policy.Groups)}
		}
		return nil, &TargetError{Reason: "there is no accepted device"}
	}
	return list, nil
}

// fingerprint is equal for deployments that would do the same to the same devices under the same name.
func fingerprint(n NewDeployment, devices []rollout.Device) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q", n.Name, n.ArtifactName)
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
func (s *Store) Deployments(ctx context.Context, f DeploymentFilter, p Page) (list []menderapi.Deployment, total int, err error) {
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
		shown, err := s.show(ctx, d)
		if err != nil {
			return nil, 0, err
		}
		list = append(list, shown)
	}
	return list, total, nil
}

// Deployment returns one deployment.
func (s *Store) Deployment(ctx context.Context, id string) (*menderapi.Deployment, error) {
	list, _, err := s.Deployments(ctx, DeploymentFilter{ID: id}, Page{})
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
}

const selectDeployment = `SELECT d.seq, d.id, d.name, d.artifact_name, d.force, d.retries, d.groups, d.policy, d.status,
	d.state, d.phase, d.reason, d.soak_until, d.forgiven, d.devices, d.asked, d.total_size, d.created, d.finished FROM deployments d`

func scanDeployment(rows *sql.Rows) (d deployment, err error) {
	var groups, policy string
	var created int64
	var soakUntil, finished sql.NullInt64
	err = rows.Scan(&d.seq, &d.id, &d.name, &d.artifactName, &d.force, &d.retries, &groups, &policy, &d.status,
		&d.position.State, &d.position.Phase, &d.position.Reason, &soakUntil, &d.position.Forgiven, &d.devices, &d.asked, &d.totalSize, &created, &finished)
	if err != nil {
		return d, err
	}
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
func (s *Store) show(ctx context.Context, d deployment) (menderapi.Deployment, error) {
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
		Policy: d.policy, State: d.position.State, Phase: d.position.Phase,
		PauseReason: d.position.Reason, SoakUntil: pointer(d.position.SoakUntil),
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
		_, err := tx.ExecContext(ctx, `UPDATE deployments SET status = ?, finished = ?, state = ?, phase = ?, reason = ?, soak_until = ?, forgiven = ?
			WHERE seq = ?`, status, optional(finished), pos.State, pos.Phase, pos.Reason, optional(pos.SoakUntil), pos.Forgiven, d.seq)
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
	seqs, err := collect(ctx, tx, func(rows *sql.Rows) (seq int64, err error) {
		err = rows.Scan(&seq)
		return seq, err
	}, "SELECT DISTINCT deployment FROM targets WHERE finished IS NULL AND "+condition, args...)
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
		d.position.State, d.position.Reason = menderapi.RolloutAborted, reason
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

// Tick releases the phases whose soak time is over.
func (s *Store) Tick(ctx context.Context, now time.Time) error {
	due := func(q querier) ([]int64, error) {
		return collect(ctx, q, func(rows *sql.Rows) (seq int64, err error) {
			err = rows.Scan(&seq)
			return seq, err
		}, "SELECT seq FROM deployments WHERE state = 'soaking' AND soak_until <= ?", millis(now))
	}
	if seqs, err := due(s.read); err != nil || len(seqs) == 0 {
		return err
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		seqs, err := due(tx)
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
func (s *Store) DeploymentDevices(ctx context.Context, id string, f TargetFilter, p Page) (list []menderapi.DeploymentDevice, total int, err error) {
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
	list, err = collect(ctx, s.read, func(rows *sql.Rows) (m menderapi.DeploymentDevice, err error) {
		var phase int
		var asked, finished sql.NullInt64
		err = rows.Scan(&m.ID, &m.Status, &m.SubState, &phase, &m.Attempt, &asked, &finished, &m.Log)
		m.Created, m.Started, m.Finished = d.created, pointer(fromOptional(asked)), pointer(fromOptional(finished))
		m.Phase = d.policy.Phases[phase].Name
		return m, err
	}, `SELECT t.device_id, t.status, t.substate, t.phase, t.attempt, t.asked, t.finished, l.device_id IS NOT NULL
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
