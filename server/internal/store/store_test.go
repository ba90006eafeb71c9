package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/rollout"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func openStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestContract is what every store must keep, whatever database is below it.
func TestContract(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *Store){
		"one accepted key":       contractAuth,
		"users":                  contractUsers,
		"conflicting artifacts":  contractArtifacts,
		"tallies are the counts": contractTallies,
		"parallel":               contractParallel,
		"forgotten targets":      contractForgotten,
		"rollouts end":           contractEnd,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, openStore(t)) })
	}
}

func addDevice(t *testing.T, s *Store, name, status string) string {
	t.Helper()
	st, err := s.Authenticate(t.Context(), Claim{Identity: fmt.Sprintf(`{"name":%q}`, name), IdentityHash: name, PubKey: "k", Fingerprint: name},
		Admission{MaxPending: 1000, MaxKeys: 3}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if status != menderapi.AuthPending {
		if err := s.SetAuthStatus(t.Context(), st.Device, st.AuthSet, status, epoch); err != nil {
			t.Fatal(err)
		}
	}
	return st.Device
}

func addArtifact(t *testing.T, s *Store, id, name string, types ...string) error {
	t.Helper()
	var combinations []string
	for _, ty := range types {
		combinations = append(combinations, fmt.Sprintf(`{"device_type":%q}`, ty))
	}
	return s.AddArtifact(t.Context(), menderapi.Artifact{ID: id, Name: name, Size: 10, Modified: epoch, DeviceTypesCompatible: types}, combinations)
}

func deploy(t *testing.T, s *Store, name string, p menderapi.Policy, retries int) string {
	t.Helper()
	p, err := rollout.Complete(p)
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.CreateDeployment(t.Context(), NewDeployment{Name: name, ArtifactName: "r", Policy: p, Retries: retries}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func contractAuth(t *testing.T, s *Store) {
	ctx := t.Context()
	claim := Claim{Identity: `{"a":"b"}`, IdentityHash: "h", PubKey: "one", Fingerprint: "f1", Address: "192.0.2.1"}
	limits := Admission{MaxPending: 1, MaxKeys: 2}
	first, err := s.Authenticate(ctx, claim, limits, epoch)
	if err != nil || first.Status != "pending" || !first.New {
		t.Fatalf("first: %+v %v", first, err)
	}
	if again, err := s.Authenticate(ctx, claim, limits, epoch); err != nil || again.New || again.AuthSet != first.AuthSet {
		t.Errorf("again: %+v %v", again, err)
	}
	if _, err := s.AcceptedDevice(ctx, first.AuthSet); !errors.Is(err, ErrNotFound) {
		t.Errorf("a pending key is accepted: %v", err)
	}
	claim.Fingerprint = "f2"
	second, err := s.Authenticate(ctx, claim, limits, epoch)
	if err != nil || second.Device != first.Device || second.AuthSet == first.AuthSet {
		t.Errorf("second key: %+v %v", second, err)
	}
	claim.Fingerprint = "f3"
	if _, err := s.Authenticate(ctx, claim, limits, epoch); !errors.Is(err, ErrFull) {
		t.Errorf("third key: %v", err)
	}
	if _, err := s.Authenticate(ctx, Claim{Identity: `{"x":"y"}`, IdentityHash: "other", Fingerprint: "f"}, limits, epoch); !errors.Is(err, ErrFull) {
		t.Errorf("second pending device: %v", err)
	}
	for _, set := range []string{first.AuthSet, second.AuthSet} {
		if err := s.SetAuthStatus(ctx, first.Device, set, "accepted", epoch); err != nil {
			t.Fatal(err)
		}
		if d, err := s.AcceptedDevice(ctx, set); err != nil || d != first.Device {
			t.Errorf("accepted: %s %v", d, err)
		}
	}
	if status, err := s.AuthStatus(ctx, first.Device, first.AuthSet); err != nil || status != "rejected" {
		t.Errorf("the key accepted before is %s %v", status, err)
	}
	if err := s.SetAuthStatus(ctx, "another device", second.AuthSet, "rejected", epoch); !errors.Is(err, ErrNotFound) {
		t.Errorf("a key of another device: %v", err)
	}
	if err := s.DeleteAuthSet(ctx, first.Device, first.AuthSet, epoch); err != nil {
		t.Error(err)
	}
	if err := s.DeleteAuthSet(ctx, first.Device, second.AuthSet, epoch); err != nil {
		t.Error(err)
	}
	if _, err := s.Device(ctx, first.Device); !errors.Is(err, ErrNotFound) {
		t.Errorf("a device without keys: %v", err)
	}
	silent := addDevice(t, s, "silent", "pending")
	if err := s.TouchDevices(ctx, map[string]time.Time{silent: epoch.Add(time.Hour)}); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		since time.Duration
		want  error
	}{{30 * time.Minute, nil}, {2 * time.Hour, ErrNotFound}} {
		if err := s.DropSilentPending(ctx, epoch.Add(c.since), epoch.Add(c.since)); err != nil {
			t.Error(err)
		}
		if _, err := s.Device(ctx, silent); !errors.Is(err, c.want) {
			t.Errorf("a device heard of after an hour, asked for since %s: %v", c.since, err)
		}
	}
}

// contractForgotten: a device that is forgotten in the middle of a rollout, by whichever way, does not hold it up for ever.
func contractForgotten(t *testing.T, s *Store) {
	ctx := t.Context()
	id := addDevice(t, s, "once accepted", "accepted")
	if err := addArtifact(t, s, "a", "r", "board"); err != nil {
		t.Fatal(err)
	}
	dep := deploy(t, s, "d", menderapi.Policy{}, 0)
	device, err := s.Device(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetAuthStatus(ctx, id, device.AuthSets[0].ID, "pending", epoch); err != nil {
		t.Fatal(err)
	}
	if err := s.DropSilentPending(ctx, epoch.Add(time.Hour), epoch.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	d, err := s.Deployment(ctx, dep, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if d.Status != menderapi.DeploymentFinished || d.Statistics.Status[menderapi.StatusDecommissioned] != 1 {
		t.Errorf("the rollout to a device that is no more: %s %v", d.Status, d.Statistics.Status)
	}
}

func contractUsers(t *testing.T, s *Store) {
	ctx := t.Context()
	id, err := s.AddUser(ctx, "a@example.com", "hash", epoch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddUser(ctx, "a@example.com", "hash", epoch); !errors.Is(err, ErrExists) {
		t.Errorf("twice: %v", err)
	}
	var first string
	for i := range MaxSessions + 1 {
		session, err := s.AddSession(ctx, id, epoch.Add(time.Duration(i)*time.Second), epoch.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = session
		}
		if owner, err := s.TokenOwner(ctx, session, epoch); err != nil || owner != id {
			t.Errorf("session %d: %s %v", i, owner, err)
		}
		if _, err := s.TokenOwner(ctx, session, epoch.Add(time.Hour)); !errors.Is(err, ErrNotFound) {
			t.Errorf("expired session: %v", err)
		}
	}
	if _, err := s.TokenOwner(ctx, first, epoch); !errors.Is(err, ErrNotFound) {
		t.Errorf("the oldest session beyond the limit: %v", err)
	}
	for i := range MaxTokens {
		if _, err := s.AddToken(ctx, id, fmt.Sprint(i), epoch, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.AddToken(ctx, id, "more", epoch, time.Time{}); !errors.Is(err, ErrFull) {
		t.Errorf("too many tokens: %v", err)
	}
	tokens, err := s.Tokens(ctx, id)
	if err != nil || len(tokens) != MaxTokens {
		t.Fatalf("%d tokens, %v", len(tokens), err)
	}
	if err := s.DeleteToken(ctx, "somebody else", tokens[0].ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleting another user's token: %v", err)
	}
	if err := s.SetPassword(ctx, "a@example.com", "new", epoch); err != nil {
		t.Error(err)
	}
	var sessions int
	if err := s.read.QueryRowContext(ctx, "SELECT count(*) FROM tokens WHERE kind = 'session'").Scan(&sessions); err != nil || sessions != 0 {
		t.Errorf("%d sessions after a new password, %v", sessions, err)
	}
}

func contractArtifacts(t *testing.T, s *Store) {
	if err := addArtifact(t, s, "a", "r", "x", "y"); err != nil {
		t.Fatal(err)
	}
	var conflict *ConflictError
	if err := addArtifact(t, s, "b", "r", "z", "y"); !errors.As(err, &conflict) || conflict.Artifact != "a" || conflict.Combination != `{"device_type":"y"}` {
		t.Errorf("one device type in common: %v", err)
	}
	if has, err := s.HasArtifact(t.Context(), "b"); err != nil || has {
		t.Errorf("a refused artifact is there: %v", err)
	}
	if err := addArtifact(t, s, "b", "r", "z"); err != nil {
		t.Errorf("another device type: %v", err)
	}
	if err := addArtifact(t, s, "c", "other", "x", "y"); err != nil {
		t.Errorf("another name: %v", err)
	}
	if err := s.DeleteArtifact(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if err := addArtifact(t, s, "d", "r", "x"); err != nil {
		t.Errorf("after the other one was deleted: %v", err)
	}
}

// checkTallies compares the counters with a count.
func checkTallies(t *testing.T, s *Store) {
	t.Helper()
	count := func(query string) string {
		rows, err := collect(t.Context(), s.read, func(rows *sql.Rows) (string, error) {
			var deployment, phase, n int
			var status string
			err := rows.Scan(&deployment, &phase, &status, &n)
			return fmt.Sprint(deployment, " ", phase, " ", status, " ", n), err
		}, query)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(rows, "\n")
	}
	counted := count("SELECT deployment, phase, status, count(*) FROM targets GROUP BY 1, 2, 3 ORDER BY 1, 2, 3")
	tallied := count("SELECT deployment, phase, status, n FROM tallies WHERE n > 0 ORDER BY 1, 2, 3")
	if counted != tallied {
		t.Errorf("the counters differ from the count:\n%s\n--- counted:\n%s", tallied, counted)
	}
}

func contractTallies(t *testing.T, s *Store) {
	ctx := t.Context()
	var devices []string
	for i := range 6 {
		devices = append(devices, addDevice(t, s, fmt.Sprint("d", i), "accepted"))
	}
	addDevice(t, s, "pending", "pending")
	if err := addArtifact(t, s, "a", "r", "board"); err != nil {
		t.Fatal(err)
	}
	id := deploy(t, s, "first", menderapi.Policy{Phases: []menderapi.Phase{{Count: 4}, {Percent: 100}}}, 1)
	checkTallies(t, s)
	next := func(device, artifact string, now time.Time) bool {
		o, err := s.Next(ctx, device, Provides{DeviceType: "board", ArtifactName: artifact, Others: map[string]string{}}, now)
		if err != nil {
			t.Fatal(err)
		}
		checkTallies(t, s)
		return o != nil && o.Deployment == id
	}
	report := func(device string, status menderapi.Status) error {
		err := s.Report(ctx, device, id, menderapi.StatusReport{Status: status}, time.Minute, epoch)
		checkTallies(t, s)
		return err
	}
	if err := report(devices[0], "downloading"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a report before the offer: %v", err)
	}
	for i, d := range devices {
		if next(d, "old", epoch) != (i < 4) {
			t.Errorf("device %d: offered %v", i, i >= 4)
		}
	}
	for _, r := range []struct {
		device int
		status menderapi.Status
	}{{0, "downloading"}, {0, "success"}, {0, "failure"}, {1, "installing"}, {1, "failure"}, {1, "failure"}, {2, "pause_before_installing"}, {3, "already-installed"}} {
		if err := report(devices[r.device], r.status); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if next(devices[1], "old", epoch) {
		t.Error("offered again before its time")
	}
	if !next(devices[1], "old", epoch.Add(time.Minute)) {
		t.Error("not offered again")
	}
	if err := report(devices[1], "failure"); err != nil {
		t.Error(err)
	}
	if err := s.DeleteDevice(ctx, devices[2], epoch); err != nil {
		t.Error(err)
	}
	checkTallies(t, s)
	if !next(devices[4], "old", epoch) {
		t.Error("the second phase was not released")
	}
	if err := s.Abort(ctx, id, "why", epoch); err != nil {
		t.Error(err)
	}
	checkTallies(t, s)
	if err := report(devices[4], "success"); !errors.Is(err, ErrAborted) {
		t.Errorf("a report after the abort: %v", err)
	}
	d, err := s.Deployment(ctx, id, epoch)
	if err != nil {
		t.Fatal(err)
	}
	want := map[menderapi.Status]int{"success": 1, "failure": 1, "already-installed": 1, "decommissioned": 1, "aborted": 2}
	for status, n := range d.Statistics.Status {
		if n != want[status] {
			t.Errorf("%s: %d, want %d", status, n, want[status])
		}
	}
	if d.Status != "finished" || d.MaxDevices != 6 || d.DeviceCount != 5 || d.Statistics.TotalSize != 50 || d.Rollout.PauseReason != "why" {
		t.Errorf("deployment: %+v", d)
	}
}

func contractParallel(t *testing.T, s *Store) {
	ctx := t.Context()
	const n = 20
	devices := make([]string, n)
	for i := range devices {
		devices[i] = addDevice(t, s, fmt.Sprint("d", i), "accepted")
	}
	if err := addArtifact(t, s, "a", "r", "board"); err != nil {
		t.Fatal(err)
	}
	id := deploy(t, s, "d", menderapi.Policy{Phases: []menderapi.Phase{{Percent: 30}, {Percent: 60}, {Percent: 100}}}, 0)
	for {
		var wait sync.WaitGroup
		for _, d := range devices {
			wait.Go(func() {
				o, err := s.Next(ctx, d, Provides{DeviceType: "board", ArtifactName: "old"}, epoch)
				if err != nil {
					t.Error(err)
				}
				if o == nil {
					return
				}
				for _, status := range []menderapi.Status{"downloading", "installing", "success"} {
					wait.Go(func() { // in any order, as a proxy may deliver them
						if err := s.Report(ctx, d, id, menderapi.StatusReport{Status: status}, 0, epoch); err != nil {
							t.Error(err)
						}
					})
				}
			})
		}
		wait.Wait()
		checkTallies(t, s)
		if got, err := s.Deployment(ctx, id, epoch); err != nil || got.Status == "finished" {
			if err != nil || got.Statistics.Status["success"] != n {
				t.Errorf("%+v %v", got, err)
			}
			return
		}
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "odd ?#%name.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the database: %v %v", info, err)
	}
	second, err := Open(t.Context(), path) // the command line beside the server
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.AddUser(t.Context(), "a@example.com", "h", epoch); err != nil {
		t.Error(err)
	}
	second.Close()
	if n, err := s.CountUsers(t.Context()); n != 1 || err != nil {
		t.Errorf("%d users, %v", n, err)
	}
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := s.write.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s (%v)", pragma, got, want, err)
		}
	}
	if _, err := s.read.ExecContext(t.Context(), "DELETE FROM users"); err == nil {
		t.Error("the reading connections can write")
	}
	if _, err := s.write.ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "a newer release wrote it") {
		t.Errorf("a database of the future: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.db"), []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), filepath.Join(dir, "x.db")); err == nil {
		t.Error("a file that is no database was opened")
	}
}

// BenchmarkDeploymentTo100k shows what a large fleet costs: creating a deployment, one poll of a device with nothing to
// do, and one look at the statistics.
func BenchmarkDeploymentTo100k(b *testing.B) {
	ctx := context.Background()
	s, err := Open(ctx, filepath.Join(b.TempDir(), "x.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	err = s.update(ctx, func(tx *sql.Tx) error {
		for i := range 100_000 {
			id := fmt.Sprintf("device-%06d", i)
			if _, err := tx.ExecContext(ctx, `INSERT INTO devices (id, identity_hash, identity, status, created, updated) VALUES (?, ?, '{}', 'accepted', 0, 0)`, id, id); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO artifacts (id, name, size, modified, document) VALUES ('a', 'r', 1, 0, '{"id":"a"}')`)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	var id string
	p, err := rollout.Complete(menderapi.Policy{Phases: []menderapi.Phase{{Count: 10}, {Percent: 100}}})
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	b.Run("create", func(b *testing.B) {
		for b.Loop() {
			n++
			if id, err = s.CreateDeployment(ctx, NewDeployment{Name: fmt.Sprint(n), ArtifactName: "r", Policy: p}, epoch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("statistics", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Deployment(ctx, id, epoch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("poll", func(b *testing.B) {
		for b.Loop() {
			if o, err := s.Next(ctx, "device-050000", Provides{DeviceType: "x", ArtifactName: "y"}, epoch); o != nil || err != nil {
				b.Fatal(o, err)
			}
		}
	})
}
