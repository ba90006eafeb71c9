package build

import (
	"context"
	"slices"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/pipeline"
)

// ServerState is what a server knows of a rollout, as far as a plan depends on it: how far devices have come does not count.
type ServerState struct {
	DeploymentID string   `json:"deployment_id,omitempty"` // of the newest deployment with the rollout's name
	ArtifactName string   `json:"artifact_name,omitempty"` // its release
	State        string   `json:"state,omitempty"`
	Artifacts    []string `json:"artifacts,omitempty"` // SHA-256 of what the server has of the plan's release, sorted
}

// LookAtServer asks the server of a rollout what it knows of it.
func LookAtServer(ctx context.Context, r *pipeline.Rollout) (*ServerState, error) {
	c, err := Connect(&r.Server)
	if err != nil {
		return nil, &ActionError{Address: r.Address, Err: err}
	}
	s := &ServerState{}
	d, err := NewestDeployment(ctx, c, r.Name)
	if err != nil {
		return nil, &ActionError{Address: r.Address, Err: err}
	}
	if d != nil {
		s.DeploymentID, s.ArtifactName, s.State = d.ID, d.ArtifactName, d.State()
	}
	if len(r.Artifacts) == 0 {
		return s, nil
	}
	release := r.Artifacts[0].Name
	there, err := c.ListArtifacts(ctx, release)
	if err != nil {
		return nil, &ActionError{Address: r.Address, Err: err}
	}
	there = slices.DeleteFunc(there, func(a menderapi.Artifact) bool { return a.Name != release })
	for _, a := range there {
		s.Artifacts = append(s.Artifacts, a.SHA256)
	}
	slices.Sort(s.Artifacts)
	return s, nil
}

// Describe says in words what the server has.
func (s *ServerState) Describe() string {
	if s.DeploymentID == "" {
		return "never started"
	}
	return s.ArtifactName + " is " + s.State
}

// changes says what is different now.
func (s *ServerState) changes(now *ServerState) []string {
	var changes []string
	switch {
	case s.DeploymentID != now.DeploymentID:
		changes = append(changes, "the server has another deployment: "+s.Describe()+" -> "+now.Describe())
	case s.State != now.State || s.ArtifactName != now.ArtifactName:
		changes = append(changes, "the deployment on the server changed: "+s.Describe()+" -> "+now.Describe())
	}
	if !slices.Equal(s.Artifacts, now.Artifacts) {
		changes = append(changes, "the artifacts of the release on the server changed")
	}
	return changes
}
