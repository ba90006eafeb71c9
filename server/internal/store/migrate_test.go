package store

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// TestMigrateFirst opens a database as the first release left it: with a rollout under way, and one that a rejected device
// held up.
func TestMigrateFirst(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "x.db")
	first, err := migrations.ReadFile("migrations/0001_first.sql")
	if err != nil {
		t.Fatal(err)
	}
	old, err := sql.Open("sqlite", dsn(path, "immediate"))
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		string(first), "PRAGMA user_version = 1",
		`INSERT INTO devices (id, identity_hash, identity, status, created, updated) VALUES
			('good', 'good', '{}', 'accepted', 0, 0), ('bad', 'bad', '{}', 'rejected', 0, 0), ('none', 'none', '{}', 'noauth', 0, 0)`,
		`INSERT INTO artifacts (id, name, size, modified, document) VALUES ('a', 'r', 7, 0, '{"id":"a","artifact_name":"r"}')`,
		`INSERT INTO artifact_types VALUES ('a', 'board')`,
		`INSERT INTO deployments VALUES
			(1, 'held up', 'n', 'r', 'f1', 0, 0, '[]', '{"phases":[{"name":"all","percent":100}],"on_failure":"pause"}',
				'inprogress', 'running', 0, '', NULL, 0, 2, 1, 0, 5, NULL),
			(2, 'under way', 'm', 'r', 'f2', 0, 1, '[]', '{"phases":[{"name":"one","count":1,"soak_seconds":60},{"name":"all","percent":100}],"on_failure":"pause"}',
				'inprogress', 'soaking', 0, '', 60000, 0, 2, 1, 7, 5, NULL)`,
		`INSERT INTO targets (deployment, device_id, phase, status, finished) VALUES
			(1, 'bad', 0, 'pending', NULL), (1, 'none', 0, 'success', 9), (2, 'good', 1, 'pending', NULL), (2, 'gone', 0, 'success', 9)`,
		`INSERT INTO tallies SELECT deployment, phase, status, count(*) FROM targets GROUP BY 1, 2, 3`,
	} {
		if _, err := old.ExecContext(ctx, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	s, err := Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	checkTallies(t, s)
	if err := s.Settle(ctx, epoch); err != nil {
		t.Fatal(err)
	}
	held, err := s.Deployment(ctx, "held up", epoch)
	if err != nil || held.Status != menderapi.DeploymentFinished || held.Statistics.Status[menderapi.StatusAborted] != 1 {
		t.Errorf("the rollout that a rejected device held up: %+v %v", held, err)
	}
	running, err := s.Deployment(ctx, "under way", fromMillis(59_999))
	if err != nil || running.Status != menderapi.DeploymentInProgress || running.MaxDevices != 2 || running.Rollout.Open || running.Rollout.Expires != nil {
		t.Errorf("the rollout under way: %+v %v", running, err)
	}
	if err := s.Tick(ctx, epoch); err != nil {
		t.Fatal(err)
	}
	o, err := s.Next(ctx, "good", Provides{DeviceType: "board", ArtifactName: "old"}, epoch)
	if err != nil || o == nil || o.Deployment != "under way" {
		t.Errorf("after its soak it is offered as %+v, %v", o, err)
	}
	if err := s.Report(ctx, "good", "under way", menderapi.StatusReport{Status: menderapi.StatusSuccess}, 0, epoch); err != nil {
		t.Error(err)
	}
	checkTallies(t, s)
	if running, err = s.Deployment(ctx, "under way", epoch); err != nil || running.Status != menderapi.DeploymentFinished {
		t.Errorf("at its end: %+v %v", running, err)
	}
	var problems string
	if err := s.read.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&problems); err != nil || problems != "ok" {
		t.Errorf("integrity: %s %v", problems, err)
	}
}

// BenchmarkPollOpenRollout is a poll of a device that takes part in nothing, while ten rollouts with filters are open.
func BenchmarkPollOpenRollout(b *testing.B) {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "x.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	err = s.update(b.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(b.Context(), `INSERT INTO devices (id, identity_hash, identity, status, created, updated) VALUES ('d', 'd', '{}', 'accepted', 0, 0);
			INSERT INTO artifacts (id, name, size, modified, document) VALUES ('a', 'r', 1, 0, '{"id":"a"}')`)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 10 {
		_, err := s.CreateDeployment(b.Context(), NewDeployment{Name: string(rune('a' + i)), ArtifactName: "r", Policy: menderapi.Policy{
			Phases: []menderapi.Phase{{Name: "all", Percent: 100}},
			Filter: []menderapi.Predicate{
				{Scope: "inventory", Attribute: "region", Type: "$eq", Value: []byte(`"eu"`)},
				{Scope: "inventory", Attribute: "name", Type: "$regex", Value: []byte(`"^rpi[0-9]+$"`)},
			},
		}}, epoch)
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if o, err := s.Next(b.Context(), "d", Provides{DeviceType: "x", ArtifactName: "y"}, epoch); o != nil || err != nil {
			b.Fatal(o, err)
		}
	}
}
