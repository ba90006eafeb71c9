package build

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/server/client"
)

// tokenVariable may hold the token of a server that has none in the pipeline.
const tokenVariable = "TWINKEEL_TOKEN"

// Connect makes a client for a server block.
func Connect(s *pipeline.Server) (*client.Client, error) {
	token := string(s.Token)
	if token == "" {
		token = os.Getenv(tokenVariable)
	}
	return client.New(s.URL, token, client.Options{
		CACertificate: s.CACertificate, ClientCertificate: s.ClientCertificate, ClientKey: s.ClientKey,
	})
}

// Pushed says what became of one artifact.
type Pushed struct {
	Address string `json:"address"`
	Name    string `json:"artifact_name"`
	ID      string `json:"id"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
	Already bool   `json:"already_there"`
}

// Push uploads built artifacts. One that is not what the plan says, and would come to the server under another release's
// name or with old content, is an error. One that the server has with the same bytes is left alone; one that the server
// has under the same name for the same device types with other bytes is an error, because a release must not change.
func Push(ctx context.Context, c *client.Client, plan *pipeline.Plan, artifacts []*pipeline.Artifact, events func(Event)) ([]Pushed, error) {
	if events == nil {
		events = func(Event) {}
	}
	d, err := newDecider(plan, false)
	if err != nil {
		return nil, err
	}
	d.sending = true
	defer d.digests.save()
	for _, action := range plan.Actions { // an artifact of which a source would be made anew is not up to date
		if action.Source == nil {
			continue
		}
		step, err := d.decide(ctx, action)
		if err != nil {
			return nil, &ActionError{Address: action.Address, Err: err}
		}
		d.steps[action.Address] = step
	}
	var pushed []Pushed
	for _, a := range artifacts {
		p, err := push(ctx, c, d, a, events)
		if err != nil {
			err = &ActionError{Address: a.Address, Err: err}
			events(Event{Address: a.Address, State: StateFailed, Err: err})
			return pushed, err
		}
		pushed = append(pushed, *p)
	}
	return pushed, nil
}

func push(ctx context.Context, c *client.Client, d *decider, a *pipeline.Artifact, events func(Event)) (*Pushed, error) {
	step, err := d.decide(ctx, &pipeline.Action{Address: a.Address, Kind: pipeline.KindArtifact, Artifact: a})
	if err != nil {
		return nil, err
	}
	if step.Verb != VerbCached {
		return nil, d.stale(step)
	}
	built := d.record.Outputs[a.Address]
	p := &Pushed{Address: a.Address, Name: a.Name, Size: built.Size, SHA256: built.SHA256}
	there, err := c.ListArtifacts(ctx, a.Name)
	if err != nil {
		return nil, err
	}
	for _, t := range there {
		switch {
		case t.Name != a.Name:
		case t.SHA256 == built.SHA256:
			p.ID, p.Already = t.ID, true
			events(Event{Address: a.Address, State: StateCached, Detail: "the server has it"})
			return p, nil
		case overlap(t.DeviceTypesCompatible, a.DeviceTypes):
			return nil, &changedReleaseError{a, c.URL(), t}
		}
	}
	events(Event{Address: a.Address, State: StateStarted, Doing: "uploading", Total: built.Size})
	p.ID, err = c.UploadArtifact(ctx, a.Path, "", func(done, total int64) {
		events(Event{Address: a.Address, State: StateProgress, Doing: "uploading", Done: done, Total: total})
	})
	if err != nil {
		return nil, err
	}
	events(Event{Address: a.Address, State: StateDone, Done: built.Size, Detail: "uploaded to " + c.URL()})
	return p, nil
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// Started says what became of a rollout.
type Started struct {
	Address      string `json:"address"`
	Name         string `json:"name"`
	ArtifactName string `json:"artifact_name"`
	DeploymentID string `json:"deployment_id"`
	Already      bool   `json:"already_started"`
	Status       string `json:"status,omitempty"` // of one that was started before
}

// StartRollout creates the deployment of a rollout, whose artifacts must be on the server. A rollout of the same name
// and release is started only once: a second call returns the first one's deployment, or an error when that was aborted.
func StartRollout(ctx context.Context, c *client.Client, r *pipeline.Rollout) (*Started, error) {
	if len(r.Artifacts) == 0 {
		return nil, &ActionError{Address: r.Address, Err: fmt.Errorf("the rollout has no artifacts")}
	}
	release := r.Artifacts[0].Name
	s := &Started{Address: r.Address, Name: r.Name, ArtifactName: release}
	existing, err := newestDeployment(ctx, c, r.Name, func(d *menderapi.Deployment) bool { return d.ArtifactName == release })
	if err != nil {
		return nil, &ActionError{Address: r.Address, Err: err}
	}
	if existing != nil {
		s.DeploymentID, s.Status, s.Already = existing.ID, existing.State(), true
		if s.Status == menderapi.RolloutAborted {
			return nil, &ActionError{Address: r.Address, Err: &abortedError{release}}
		}
		return s, nil
	}
	s.DeploymentID, err = c.CreateDeployment(ctx, newDeployment(r, release))
	if err != nil {
		return nil, &ActionError{Address: r.Address, Err: err}
	}
	return s, nil
}

// NewestDeployment returns the newest deployment of a rollout, whatever its release, or nil.
func NewestDeployment(ctx context.Context, c *client.Client, name string) (*menderapi.Deployment, error) {
	return newestDeployment(ctx, c, name, func(*menderapi.Deployment) bool { return true })
}

func newestDeployment(ctx context.Context, c *client.Client, name string, wanted func(*menderapi.Deployment) bool) (*menderapi.Deployment, error) {
	all, err := c.Deployments(ctx, client.DeploymentFilter{Name: name}) // newest first
	if err != nil {
		return nil, err
	}
	for i := range all {
		if d := &all[i]; d.Name == name && wanted(d) {
			return d, nil
		}
	}
	return nil, nil
}

type abortedError struct{ release string }

func (e *abortedError) Error() string {
	return fmt.Sprintf("the rollout of %s was aborted, and is not started again", e.release)
}

// Hint says how to go on.
func (e *abortedError) Hint() string { return "release again under a new artifact name" }

func newDeployment(r *pipeline.Rollout, release string) menderapi.NewDeployment {
	threshold := r.FailureThreshold
	policy := &menderapi.Policy{
		Groups: r.Groups, ExcludeGroups: r.ExcludeGroups, FailureThreshold: &threshold, OnFailure: r.OnFailure,
		ExpiresSeconds: int64(r.Expires.Seconds()),
	}
	for _, m := range r.Match {
		policy.Filter = append(policy.Filter, menderapi.Predicate(m))
	}
	if r.Window != nil {
		w := menderapi.Window(*r.Window)
		policy.Window = &w
	}
	for _, p := range r.Phases {
		policy.Phases = append(policy.Phases, menderapi.Phase{
			Name: p.Name, Percent: p.Percent, Count: p.Count, Groups: p.Groups,
			SoakSeconds: int64(p.Soak.Seconds()), FailureThreshold: p.FailureThreshold, Approval: p.Approval,
		})
	}
	return menderapi.NewDeployment{
		Name: r.Name, ArtifactName: release, AllDevices: true, Retries: r.Retries, Policy: policy,
	}
}

// stale says why an artifact is not sent.
func (d *decider) stale(s *Step) error {
	a, last := s.Action.Artifact, d.record.Outputs[s.Action.Address]
	e := &staleArtifactError{artifact: a, path: d.relative(a.Path), reason: "not up to date: " + s.Reasons[0].Detail}
	if e.unsigned = last != nil && last.SignerKeyID == "" && s.onlyKeyChanged(); e.unsigned {
		e.reason = "not signed"
	}
	return e
}

type staleArtifactError struct {
	artifact     *pipeline.Artifact
	path, reason string
	unsigned     bool
}

func (e *staleArtifactError) Error() string { return e.path + " is " + e.reason }

// Hint says what to do about it.
func (e *staleArtifactError) Hint() string {
	if e.unsigned {
		return "twinkeel sign '" + e.artifact.Address + "'"
	}
	return "twinkeel build '" + e.artifact.Address + "', with the same --var"
}

type changedReleaseError struct {
	artifact *pipeline.Artifact
	server   string
	there    menderapi.Artifact
}

func (e *changedReleaseError) Error() string {
	return fmt.Sprintf("%s has %q for %v already, with other bytes (id %s)", e.server, e.there.Name, e.there.DeviceTypesCompatible, e.there.ID)
}

// Hint says how to go on.
func (e *changedReleaseError) Hint() string {
	return "give the release a new name; a released artifact must not change under its name"
}
