package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/internal/version"
	"github.com/twinkeel/twinkeel/pipeline"
)

// Saved is a plan in a file: enough to tell later whether the same would be done, and what is different if not. It names
// addresses, verbs and reasons, and what servers know of rollouts; everything else is digests, so that no value of the
// pipeline is in it.
type Saved struct {
	FormatVersion string                  `json:"format_version"`
	Version       string                  `json:"twinkeel_version"`
	Pipeline      string                  `json:"pipeline"` // SHA-256 of its files
	Epoch         int64                   `json:"epoch"`
	Targets       []string                `json:"targets"`
	Force         bool                    `json:"force"`
	Variables     *SavedVariables         `json:"variables"`
	Servers       map[string]*ServerState `json:"servers,omitempty"` // by address of the rollout; none: no server was asked
	Steps         []*SavedStep            `json:"steps"`
}

// SavedStep is one step of it.
type SavedStep struct {
	Address string   `json:"address"`
	Verb    Verb     `json:"verb"`
	Restore bool     `json:"restore,omitempty"`
	Reasons []string `json:"reasons"` // codes
	Key     string   `json:"key,omitempty"`
	// Definition is the digest of the evaluated block, secrets left out.
	Definition string `json:"definition"`
	// SigningKey is where a key that has to be opened is, and what its file looks like; see signerState.
	SigningKey string            `json:"signing_key,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"` // digests of what the key is made of
	Inputs     map[string]string `json:"inputs,omitempty"`     // digests of what is read
}

const (
	savedVersion = "twinkeel-plan-2"
	maxSaved     = 64 << 20
)

// Save makes of a plan what can be written to a file.
func Save(plan *pipeline.Plan, steps []*Step, targets []string, force bool) (*Saved, error) {
	variables, err := saveVariables(plan, newSalt())
	if err != nil {
		return nil, err
	}
	s := save(plan, steps, targets, force)
	s.Variables = variables
	return s, nil
}

func save(plan *pipeline.Plan, steps []*Step, targets []string, force bool) *Saved {
	s := &Saved{
		FormatVersion: savedVersion, Version: version.Version, Pipeline: plan.Digest, Epoch: plan.Epoch.Unix(),
		Targets: append([]string{}, targets...), Force: force, Steps: []*SavedStep{},
	}
	for _, step := range steps {
		s.Steps = append(s.Steps, saveStep(plan, step))
	}
	return s
}

func saveStep(plan *pipeline.Plan, step *Step) *SavedStep {
	s := &SavedStep{
		Address: step.Action.Address, Verb: step.Verb, Restore: step.Restore, Key: step.Key, Reasons: []string{},
		Definition: definition(plan, step.Action), Attributes: map[string]string{}, Inputs: step.inputs,
	}
	if step.keyUnknown {
		a := step.Action.Artifact
		if a == nil {
			a = step.Action.Image.Artifact
		}
		s.SigningKey = signerState(plan, a.Signer)
	}
	for _, r := range step.Reasons {
		if r.Code != ReasonCacheDamaged {
			s.Reasons = append(s.Reasons, r.Code)
		}
	}
	for name, value := range step.attributes {
		s.Attributes[name] = digestOf([]byte(value))
	}
	return s
}

// definition digests an action. Secrets encode as a fixed text, so they do not count: a token or a passphrase decides whether
// something can be done and not what. Paths count from the pipeline's directory: a plan may be made in one checkout and carried
// out in another.
func definition(plan *pipeline.Plan, a *pipeline.Action) string {
	text, err := json.Marshal(a)
	if err != nil {
		panic(err) // plan values are plain and always encode
	}
	dir, err := json.Marshal(plan.Dir)
	if err != nil {
		panic(err) // a string always encodes
	}
	inside := append(dir[:len(dir)-1], '/') // `"/home/me/fleet/`
	return digestOf(bytes.ReplaceAll(text, inside, []byte{'"'}))
}

func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Write puts the plan into a file.
func (s *Saved) Write(path string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(text, '\n'), 0o600) // see SavedVariables
}

// ReadSaved reads what Write wrote.
func ReadSaved(path string) (*Saved, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &noPlanError{path, "is not there"}
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &noPlanError{path, "is not a file"}
	}
	text, err := readLimited(path, maxSaved)
	if err != nil {
		return nil, err
	}
	var s Saved
	if err := json.Unmarshal(text, &s); err != nil || !strings.HasPrefix(s.FormatVersion, "twinkeel-plan-") {
		return nil, &noPlanError{path, "is no plan"}
	}
	if s.FormatVersion != savedVersion {
		return nil, &noPlanError{path, "was written by another version of twinkeel"}
	}
	if slices.Contains(s.Steps, nil) || s.Variables == nil || slices.Contains(slices.Collect(maps.Values(s.Servers)), nil) {
		return nil, &noPlanError{path, "is damaged"}
	}
	return &s, nil
}

type noPlanError struct{ path, what string }

func (e *noPlanError) Error() string { return e.path + " " + e.what }

// Hint says how to get one.
func (e *noPlanError) Hint() string { return "twinkeel plan --out " + e.path }

// Changes says what is different now from when the plan was saved, in words; nothing when it is what there is to do.
func (s *Saved) Changes(plan *pipeline.Plan, steps []*Step) []string {
	now := save(plan, steps, s.Targets, s.Force)
	var changes []string
	if s.Version != now.Version {
		changes = append(changes, fmt.Sprintf("it was made by version %s of twinkeel, and this is %s", s.Version, now.Version))
	}
	if s.Pipeline != now.Pipeline {
		changes = append(changes, "the pipeline's files changed")
	}
	if s.Epoch != now.Epoch {
		changes = append(changes, fmt.Sprintf("SOURCE_DATE_EPOCH changed: %d -> %d", s.Epoch, now.Epoch))
	}
	changes = append(changes, s.Variables.changes(plan)...)
	then := map[string]*SavedStep{}
	for _, step := range s.Steps {
		then[step.Address] = step
	}
	for i, step := range now.Steps {
		old := then[step.Address]
		delete(then, step.Address)
		if old == nil {
			changes = append(changes, step.Address+" is new")
			continue
		}
		for _, change := range old.changes(step, steps[i]) {
			changes = append(changes, step.Address+": "+change)
		}
	}
	for _, address := range slices.Sorted(maps.Keys(then)) {
		changes = append(changes, address+" is gone")
	}
	return changes
}

// ServerChanges asks the servers that were asked for the plan again, and says what is different there.
func (s *Saved) ServerChanges(ctx context.Context, plan *pipeline.Plan) ([]string, error) {
	var changes []string
	for _, a := range plan.Actions {
		then := s.Servers[a.Address]
		if a.Rollout == nil || then == nil {
			continue
		}
		now, err := LookAtServer(ctx, a.Rollout)
		if err != nil {
			return nil, err
		}
		for _, change := range then.changes(now) {
			changes = append(changes, a.Address+": "+change)
		}
	}
	return changes, nil
}

// changes compares a step with what it is now. What follows from another difference is not said.
func (s *SavedStep) changes(now *SavedStep, step *Step) []string {
	changes := differences(s.Attributes, now.Attributes)
	for _, change := range differences(s.Inputs, now.Inputs) {
		if !strings.HasPrefix(change, inputArtifact+" ") { // whose own changes are said
			changes = append(changes, change)
		}
	}
	if s.SigningKey != now.SigningKey {
		changes = append(changes, "its signing key has no public key beside it, and its file is another one than it was")
	}
	switch {
	case len(changes) > 0 || s.Key != now.Key:
	case s.Definition != now.Definition:
		changes = append(changes, "its block has other values; give the same --var and --var-file as for the plan")
	case s.makes() != now.makes() || !slices.Equal(s.Reasons, now.Reasons):
		text := fmt.Sprintf("what is to be done changed: %s -> %s", s.todo(), now.todo())
		if len(step.Reasons) > 0 {
			text += " (" + step.Reasons[0].Detail + ")"
		}
		changes = append(changes, text)
	}
	if len(changes) == 0 && s.Key != now.Key {
		changes = append(changes, "its artifact changed")
	}
	return changes
}

// makes tells whether there will be another output, or another rollout. Whether it is built, signed or taken from the cache is
// not what was agreed to: the same comes of it, and a cache may be gone.
func (s *SavedStep) makes() bool { return s.Restore || s.Verb != VerbCached }

func (s *SavedStep) todo() string {
	switch {
	case s.Restore:
		return "restore from the cache"
	case s.Verb == VerbCached:
		return "nothing"
	}
	return string(s.Verb)
}

func differences(then, now map[string]string) []string {
	var out []string
	for _, name := range unionKeys(then, now) {
		switch a, b := then[name], now[name]; {
		case a == b:
		case a == "":
			out = append(out, name+" is new")
		case b == "":
			out = append(out, name+" is gone")
		default:
			out = append(out, name+" changed")
		}
	}
	return out
}
