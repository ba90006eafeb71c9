package build

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/pipeline"
)

func TestServerStateChanges(t *testing.T) {
	t.Parallel()
	base := ServerState{DeploymentID: "1", ArtifactName: "os-1", State: "running", Artifacts: []string{"aa", "bb"}}
	for name, c := range map[string]struct {
		change func(s *ServerState)
		want   []string
	}{
		"nothing":     {func(*ServerState) {}, nil},
		"deployment":  {func(s *ServerState) { s.DeploymentID, s.ArtifactName = "2", "os-2" }, []string{"the server has another deployment: os-1 is running -> os-2 is running"}},
		"state":       {func(s *ServerState) { s.State = "paused" }, []string{"the deployment on the server changed: os-1 is running -> os-1 is paused"}},
		"gone":        {func(s *ServerState) { *s = ServerState{Artifacts: s.Artifacts} }, []string{"the server has another deployment: os-1 is running -> never started"}},
		"other bytes": {func(s *ServerState) { s.Artifacts = []string{"aa", "cc"} }, []string{"the artifacts of the release on the server changed"}},
	} {
		now := base
		c.change(&now)
		if d := cmp.Diff(c.want, base.changes(&now)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// TestSavedVariables: each change is named, and neither values nor anything that is equal for equal values is in the file.
func TestSavedVariables(t *testing.T) {
	t.Parallel()
	plan := func(values ...string) *pipeline.Plan {
		p := &pipeline.Plan{}
		for _, v := range values {
			name, value, _ := strings.Cut(v, "=")
			p.Variables = append(p.Variables, pipeline.PlanVariable{
				Name: strings.TrimPrefix(name, "!"), Sensitive: strings.HasPrefix(name, "!"), JSON: pipeline.Secret(value),
			})
		}
		return p
	}
	first := plan(`version="1"`, `!pin="1234"`, `!token="long"`)
	saved, err := saveVariables(first, newSalt())
	if err != nil {
		t.Fatal(err)
	}
	again, err := saveVariables(first, newSalt())
	if err != nil {
		t.Fatal(err)
	}
	if saved.Sensitive == again.Sensitive || saved.Plain["version"] == again.Plain["version"] {
		t.Error("equal values have equal digests in two files")
	}
	const secret = "one of the sensitive variables pin, token changed; give the same values as for the plan"
	for name, c := range map[string]struct {
		plan *pipeline.Plan
		want []string
	}{
		"same":          {first, nil},
		"plain":         {plan(`version="2"`, `!pin="1234"`, `!token="long"`), []string{"var.version changed"}},
		"pin":           {plan(`version="1"`, `!pin="1235"`, `!token="long"`), []string{secret}},
		"swapped":       {plan(`version="1"`, `!pin="long"`, `!token="1234"`), []string{secret}},
		"no longer":     {plan(`version="1"`, `!pin="1234"`), []string{"var.token is gone"}},
		"new":           {plan(`version="1"`, `x=1`, `!pin="1234"`, `!token="long"`), []string{"var.x is new"}},
		"now sensitive": {plan(`!version="1"`, `!pin="1234"`, `!token="long"`), []string{"var.version changed"}},
	} {
		if d := cmp.Diff(c.want, saved.changes(c.plan)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	for _, salt := range []string{"", "xx", "00"} {
		if got := (&SavedVariables{Salt: salt}).changes(first); len(got) != 1 || !strings.Contains(got[0], "cannot be read") {
			t.Errorf("salt %q: %v", salt, got)
		}
	}
	if got := (&SavedVariables{Salt: saved.Salt, Plain: saved.Plain, Sensitive: "x"}).changes(plan(`version="1"`)); len(got) != 1 {
		t.Errorf("a digest of nothing: %v", got)
	}
	if (&SavedVariables{Salt: saved.Salt, Plain: saved.Plain, Sensitive: saved.Sensitive}).changes(first) == nil {
		t.Error("a file without the names of its sensitive variables is taken")
	}
}
