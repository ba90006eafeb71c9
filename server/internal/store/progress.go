package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/rollout"
)

// Provides is what a device that asks for work says of itself.
type Provides struct {
	DeviceType   string
	ArtifactName string
	// Others are the further keys that it provides. Nil means that it can't tell (the first version of the API), which
	// is not the same as none.
	Others map[string]string
}

// meets says whether the device provides all that an artifact depends on.
func (p Provides) meets(a menderapi.Artifact) bool {
	for key, wanted := range a.ArtifactDepends {
		var have string
		known := true
		switch key {
		case "device_type":
			continue // it was chosen by that
		case "artifact_name":
			have = p.ArtifactName
		default:
			have, known = p.Others[key]
			if !known && p.Others == nil {
				continue // the device itself will check
			}
		}
		if !known || !accepts(wanted, have) {
			return false
		}
	}
	return true
}

// accepts: what an artifact depends on is one value or a list of values to choose from.
func accepts(wanted any, have string) bool {
	switch w := wanted.(type) {
	case string:
		return w == have
	case []any:
		for _, v := range w {
			if v == have {
				return true
			}
		}
	}
	return false
}

// Offer is a deployment for a device.
type Offer struct {
	Deployment string
	Artifact   menderapi.Artifact
}

// target is a row of the table, with what matters of its deployment.
type target struct {
	seq        int64
	deployment string
	artifact   string // name
	force      bool
	retries    int
	state      string // of the rollout
	released   int    // the last released phase
	phase      int
	status     menderapi.Status
	substate   string
	attempt    int
	notBefore  time.Time
	artifactID string
	asked      bool
	offered    bool
	expired    bool // the deployment: there is no further attempt
	policy     menderapi.Policy
}

const selectTarget = `SELECT t.deployment, d.id, d.artifact_name, d.force, d.retries, d.state, d.phase, d.expired, d.policy,
	t.phase, t.status, t.substate, t.attempt, t.not_before, coalesce(t.artifact_id, ''), t.asked IS NOT NULL, t.offered IS NOT NULL
	FROM targets t JOIN deployments d ON d.seq = t.deployment`

// What the device has begun comes first: an older deployment that is released meanwhile must not send it back.
const selectOpenTargets = selectTarget + ` WHERE t.device_id = ? AND t.finished IS NULL
	ORDER BY t.status = 'pending', t.deployment LIMIT ?`

func scanTarget(rows *sql.Rows) (t target, err error) {
	var notBefore sql.NullInt64
	var policy string
	err = rows.Scan(&t.seq, &t.deployment, &t.artifact, &t.force, &t.retries, &t.state, &t.released, &t.expired, &policy,
		&t.phase, &t.status, &t.substate, &t.attempt, &notBefore, &t.artifactID, &t.asked, &t.offered)
	t.notBefore = fromOptional(notBefore)
	if err == nil {
		if err = json.Unmarshal([]byte(policy), &t.policy); err != nil {
			err = fmt.Errorf("damaged deployment record: %w", err)
		}
	}
	return t, err
}

// due says that the target is to be offered now. A device that has begun goes on even while the rollout is paused or its
// window is closed: stopping half-way helps nobody.
func (t target) due(now time.Time) bool {
	if t.status != menderapi.StatusPending {
		return true
	}
	running := t.state == menderapi.RolloutRunning || t.state == menderapi.RolloutSoaking
	return running && t.phase <= t.released && !now.Before(t.notBefore) && rollout.WindowOpen(t.policy, now)
}

// installed says that the device already has what the deployment brings, as which status that counts.
func (t target) installed(p Provides) (menderapi.Status, bool) {
	switch {
	case t.artifact != p.ArtifactName:
		return "", false
	case t.status == menderapi.StatusPending:
		return menderapi.StatusAlreadyInstalled, !t.force
	case t.force && t.status == menderapi.StatusDownloading:
		// It had the artifact before it began, and lost its place before it installed anything.
		return "", false
	}
	// Its report of the success got lost; what it runs is the proof.
	return menderapi.StatusSuccess, true
}

// maxOpen bounds how many deployments one poll looks at.
const maxOpen = 100

// Next finds the device's next deployment: one that it has begun, else the oldest one that is released for it. It returns nil when there is none. On
// the way it settles what needs no installation: a device that has the artifact already, and one that no artifact fits.
// A device that asks again in the middle of a deployment has lost its state and is offered the same artifact again. What it
// has begun to match it joins, and what it matches no longer it leaves.
func (s *Store) Next(ctx context.Context, device string, p Provides, now time.Time) (*Offer, error) {
	open := func(q querier) ([]target, error) {
		list, err := collect(ctx, q, scanTarget, selectOpenTargets, device, maxOpen)
		var due []target
		for _, t := range list {
			if t.due(now) {
				due = append(due, t)
			}
		}
		return due, err
	}
	due, err := open(prepared{s.openTargets})
	if err != nil {
		return nil, err
	}
	if len(due) == 0 {
		if more, _, err := s.pollReader().joinable(ctx, device); err != nil || len(more) == 0 {
			return nil, err // nearly every poll ends here, without a write
		}
	}
	var offer *Offer
	err = s.update(ctx, func(tx *sql.Tx) error {
		if err := join(ctx, tx, device, now); err != nil {
			return err
		}
		for {
			due, err := open(tx) // anew each time: what is settled may have ended others
			if err != nil || len(due) == 0 {
				return err
			}
			if left, err := due[0].leave(ctx, tx, device, now); left || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			if offer, err = due[0].offer(ctx, tx, device, p, now); offer != nil || err != nil {
				return err
			}
		}
	})
	return offer, err
}

// offer settles the target or makes an offer of it.
func (t target) offer(ctx context.Context, tx *sql.Tx, device string, p Provides, now time.Time) (*Offer, error) {
	if !t.asked {
		if _, err := tx.ExecContext(ctx, "UPDATE targets SET asked = ? WHERE deployment = ? AND device_id = ?", millis(now), t.seq, device); err != nil {
			return nil, err
		}
	}
	if status, ok := t.installed(p); ok {
		return nil, t.finish(ctx, tx, device, status, "", now)
	}
	a, why, err := t.choose(ctx, tx, p)
	if err != nil {
		return nil, err
	}
	if why != "" {
		return nil, t.finish(ctx, tx, device, menderapi.StatusNoArtifact, why, now)
	}
	if !t.offered || t.artifactID != a.ID {
		_, err := tx.ExecContext(ctx, "UPDATE targets SET offered = coalesce(offered, ?), artifact_id = ? WHERE deployment = ? AND device_id = ?",
			millis(now), a.ID, t.seq, device)
		if err != nil {
			return nil, err
		}
	}
	return &Offer{Deployment: t.deployment, Artifact: a}, nil
}

func clip(s string) string { return s[:min(len(s), 64)] }

// choose takes the artifact that the device was offered before, else the smallest one of the release that is for its type
// and whose dependencies it meets. Without one it says why.
func (t target) choose(ctx context.Context, tx *sql.Tx, p Provides) (a menderapi.Artifact, why string, err error) {
	documents, err := collect(ctx, tx, scanString, `SELECT a.document FROM artifacts a JOIN artifact_types y ON y.artifact_id = a.id
		WHERE a.name = ? AND y.device_type = ? ORDER BY a.id = ? DESC, a.size, a.id`, t.artifact, p.DeviceType, t.artifactID)
	if err != nil {
		return a, "", err
	}
	for _, document := range documents {
		if a, err = decodeArtifact(document); err != nil {
			return a, "", err
		}
		if a.ID == t.artifactID || p.meets(a) {
			return a, "", nil
		}
	}
	if len(documents) > 0 {
		return a, fmt.Sprintf("the device with artifact %q does not provide what the release's artifacts depend on", clip(p.ArtifactName)), nil
	}
	return a, fmt.Sprintf("the release has no artifact for device type %q", clip(p.DeviceType)), nil
}

// finish makes the target final. A device that has a newer release for sure is not sent back by an older deployment
// that it never began; that one counts as aborted for it.
func (t target) finish(ctx context.Context, tx *sql.Tx, device string, status menderapi.Status, substate string, now time.Time) error {
	_, err := tx.ExecContext(ctx, "UPDATE targets SET status = ?, substate = ?, finished = ? WHERE deployment = ? AND device_id = ?",
		string(status), substate, millis(now), t.seq, device)
	if err != nil {
		return err
	}
	if status == menderapi.StatusSuccess || status == menderapi.StatusAlreadyInstalled {
		err := endTargets(ctx, tx, "device_id = ? AND deployment < ? AND status = 'pending'", []any{device, t.seq},
			menderapi.StatusAborted, "a newer deployment came first", now)
		if err != nil {
			return err
		}
	}
	return advance(ctx, tx, t.seq, now)
}

// Report records what a device says of its deployment. It may be repeated. Errors: ErrNotFound when the deployment was
// never offered to the device, ErrAborted when the server has ended it. What comes after a final status is ignored: a
// success stays one.
//
// A failure with attempts left arms the next one, to be offered after retryAfter; a repetition of the report, which real
// clients send, does not use up another attempt.
func (s *Store) Report(ctx context.Context, device, id string, r menderapi.StatusReport, retryAfter time.Duration, now time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		t, err := oneTarget(ctx, tx, device, id)
		if err != nil {
			return err
		}
		armed := t.attempt > 1 && !t.offered // between two attempts
		switch {
		case t.status == menderapi.StatusAborted || t.status == menderapi.StatusDecommissioned:
			return ErrAborted
		case !t.asked:
			return ErrNotFound
		case t.status.Final() || armed || (t.status == r.Status && t.substate == r.SubState):
			return nil
		case r.Status == menderapi.StatusFailure && t.attempt <= t.retries && !t.expired:
			_, err := tx.ExecContext(ctx, `UPDATE targets SET status = 'pending', substate = ?, attempt = attempt + 1, offered = NULL, not_before = ?
				WHERE deployment = ? AND device_id = ?`, r.SubState, millis(now.Add(retryAfter)), t.seq, device)
			if err != nil {
				return err
			}
			return advance(ctx, tx, t.seq, now)
		case r.Status.Final():
			return t.finish(ctx, tx, device, r.Status, r.SubState, now)
		}
		_, err = tx.ExecContext(ctx, "UPDATE targets SET status = ?, substate = ? WHERE deployment = ? AND device_id = ?",
			string(r.Status), r.SubState, t.seq, device)
		if err != nil || t.status == r.Status {
			return err
		}
		return advance(ctx, tx, t.seq, now)
	})
}

func oneTarget(ctx context.Context, q querier, device, id string) (target, error) {
	list, err := collect(ctx, q, scanTarget, selectTarget+" WHERE d.id = ? AND t.device_id = ?", id, device)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return target{}, err
	}
	return list[0], nil
}

// PutLog stores a device's log of a deployment in place of an older one. It is taken after the end too: clients report the
// failure first. A deployment that was never offered to the device is ErrNotFound.
func (s *Store) PutLog(ctx context.Context, device, id string, l menderapi.Log, now time.Time) error {
	document, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		t, err := oneTarget(ctx, tx, device, id)
		if err != nil {
			return err
		}
		if !t.asked {
			return ErrNotFound
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO logs (deployment, device_id, updated, document) VALUES (?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET updated = excluded.updated, document = excluded.document`, t.seq, device, millis(now), string(document))
		return err
	})
}

// EndDevice ends the open targets of a device in all deployments.
func (s *Store) EndDevice(ctx context.Context, device string, now time.Time) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		return endTargets(ctx, tx, "device_id = ?", []any{device}, menderapi.StatusAborted, "", now)
	})
}
