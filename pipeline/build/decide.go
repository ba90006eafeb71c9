package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/pipeline"
)

// Verb is what a step will do.
type Verb string

// The verbs.
const (
	VerbBuild   Verb = "build"   // make it for the first time
	VerbRebuild Verb = "rebuild" // make it again
	VerbSign    Verb = "sign"    // put another signature into it
	VerbCached  Verb = "cached"  // nothing: it is up to date, or its output is in the cache
	VerbStart   Verb = "start"   // start a rollout; the server knows whether it runs already
)

// Reason says why a step runs, as a code for programs and a text for people.
type Reason struct {
	Code   string `json:"code"`
	Detail string `json:"detail,omitempty"`
}

// The reason codes.
const (
	ReasonNeverBuilt       = "never_built"
	ReasonForced           = "forced"
	ReasonInputChanged     = "input_changed"
	ReasonAttributeChanged = "attribute_changed"
	ReasonKeyChanged       = "key_changed"
	ReasonToolChanged      = "tool_changed"
	ReasonDependency       = "dependency_rebuilt"
	ReasonOutputMissing    = "output_missing"
	ReasonOutputModified   = "output_modified"
	ReasonCacheDamaged     = "cache_entry_damaged"
)

// Step is an action with what is to be done about it.
type Step struct {
	Action  *pipeline.Action `json:"action"`
	Verb    Verb             `json:"verb"`
	Reasons []Reason         `json:"reasons,omitempty"`
	Key     string           `json:"key,omitempty"`
	// Restore: the output is not up to date, but it is in the cache and taken from there. Reasons say why it is needed.
	Restore bool `json:"restore,omitempty"`

	// After are the addresses of source actions that run first: what they make decides about this step.
	After []string `json:"after,omitempty"`

	attributes map[string]string // what the key was made of, for the next build's reasons
	inputs     map[string]string
	cacheKey   string
	payloadKey string // of an artifact: the cache's key of one with the same content and whatever signature; empty: there is none
	contentKey string // of an artifact: of what an image takes from it, which is neither its compression nor its place
	keyUnknown bool   // the signing key has to be opened to know which it is, which a plan does not
	fromCache  bool   // with VerbSign: what is signed comes from the cache
	forced     bool
	done       bool // its output is there
}

// UpToDate tells that there is nothing to do.
func (s *Step) UpToDate() bool { return s.Verb == VerbCached && !s.Restore }

// Decide says for each action of the plan whether it has something to do, and why. It reads inputs (through a memo of
// digests that trusts an unchanged inode, size and time), the record of the last build and public keys; it writes
// nothing but that memo. With force everything is made again.
func Decide(ctx context.Context, plan *pipeline.Plan, force bool) ([]*Step, error) {
	d, err := newDecider(plan, force)
	if err != nil {
		return nil, err
	}
	defer d.digests.save()
	steps := make([]*Step, 0, len(plan.Actions))
	for _, a := range plan.Actions {
		s, err := d.decide(ctx, a)
		if err != nil {
			return nil, &ActionError{Address: a.Address, Err: err}
		}
		d.steps[a.Address] = s
		steps = append(steps, s)
	}
	return steps, nil
}

type decider struct {
	plan    *pipeline.Plan
	record  *Record
	sources *Record           // of what source actions made
	owners  map[string]string // see ownersOf
	digests *digests
	cache   *Cache
	force   bool
	steps   map[string]*Step
	// sending: the outputs are not made but sent. The key that signed them need not be here, and the record names it.
	sending bool
	opened  map[string]string // ids of the keys that were opened, by the signer's address
}

func newDecider(plan *pipeline.Plan, force bool) (*decider, error) {
	record, err := ReadRecord(plan.OutDir)
	if err != nil {
		return nil, err
	}
	sources, err := readSourceRecord(plan.Dir)
	if err != nil {
		return nil, err
	}
	return &decider{plan: plan, record: record, sources: sources, owners: ownersOf(plan), digests: openDigests(plan.Dir), cache: OpenCache(CacheDir(plan)), force: force, steps: map[string]*Step{}}, nil
}

func (d *decider) decide(ctx context.Context, a *pipeline.Action) (*Step, error) {
	if a.Kind == pipeline.KindRollout {
		return &Step{Action: a, Verb: VerbStart}, nil
	}
	s, err := d.describe(ctx, a)
	if err != nil {
		return nil, err
	}
	s.forced = d.force
	last := d.last(a)
	if len(s.After) > 0 {
		return d.postpone(s, last), nil
	}
	if err := checkFiles(d.plan, a, d.maker); err != nil {
		return nil, err
	}
	if last == nil {
		s.Verb, s.Reasons = VerbBuild, []Reason{{Code: ReasonNeverBuilt, Detail: "never built"}}
		return s, d.lookUp(ctx, s)
	}
	s.Reasons = append(s.Reasons, d.changes(s, last)...)
	if len(s.Reasons) == 0 {
		r, err := d.outputsChanged(ctx, a, last)
		if err != nil {
			return nil, err
		}
		s.Reasons = append(s.Reasons, r...)
	}
	if len(s.Reasons) == 0 && s.keyUnknown {
		s.Reasons = []Reason{{ReasonKeyChanged, "its signing key has to be looked at first"}}
	}
	if len(s.Reasons) == 0 && d.force {
		s.Reasons = []Reason{{Code: ReasonForced, Detail: "--force"}}
	}
	s.Verb = VerbCached
	if len(s.Reasons) > 0 {
		s.Verb = VerbRebuild
		if err := d.lookUp(ctx, s); err != nil {
			return nil, err
		}
	}
	if s.Verb == VerbRebuild && s.onlyKeyChanged() && !d.force { // the nearest, and what a record says is checked
		touched, err := d.outputChanged(ctx, outputPath(a), last)
		if err != nil {
			return nil, err
		}
		if len(touched) == 0 {
			s.Verb = VerbSign
		}
	}
	return s, nil
}

// lookUp makes a step that would build into one that takes the output from the cache, when it is there; or into one that
// signs what is there with another signature.
func (d *decider) lookUp(ctx context.Context, s *Step) error {
	if d.force || d.sending {
		return nil
	}
	if !s.keyUnknown {
		_, err := d.cache.find(ctx, s.cacheKey, d.digests.like)
		var damaged *DamagedEntryError
		switch {
		case err == nil:
			s.Verb, s.Restore = VerbCached, true
			return nil
		case errors.As(err, &damaged):
			s.Reasons = append(s.Reasons, Reason{ReasonCacheDamaged, damaged.Error()})
		}
	}
	if s.payloadKey == "" || s.Action.Artifact.Signer == nil {
		return nil
	}
	if _, err := d.cache.findPayload(ctx, s.payloadKey, d.digests.like); err == nil {
		s.Verb, s.fromCache = VerbSign, true
	}
	return ctx.Err()
}

// describe gathers what an action's output depends on, and makes its key.
func (d *decider) describe(ctx context.Context, a *pipeline.Action) (*Step, error) {
	s := &Step{Action: a}
	var err error
	switch a.Kind {
	case pipeline.KindSource:
		err = d.describeSource(ctx, s, a.Source)
	case pipeline.KindArtifact:
		err = d.describeArtifact(ctx, s, a.Artifact)
	case pipeline.KindImage:
		err = d.describeImage(ctx, s, a.Image)
	}
	if err != nil {
		return nil, err
	}
	s.attributes["implementation"] = fmt.Sprintf("%s/%d", a.Kind, implementation[a.Kind])
	if a.Source == nil || a.Source.Exec != nil { // what is copied, fetched or unpacked has no time in it
		s.attributes["epoch"] = fmt.Sprint(d.plan.Epoch.Unix())
	}
	if len(s.After) > 0 {
		return s, nil // its key is found when they have run
	}
	s.Key = key(a.Kind, s.attributes, s.inputs)
	s.cacheKey = d.cacheKeyOf(s)
	if a.Artifact != nil {
		s.payloadKey, s.contentKey = payloadKeyOf(s), contentKeyOf(s)
	}
	return s, nil
}

// implementation rises when the bytes that an action makes from the same inputs change.
var implementation = map[pipeline.Kind]int{pipeline.KindSource: 1, pipeline.KindArtifact: 2, pipeline.KindImage: 3}

func (d *decider) describeArtifact(ctx context.Context, s *Step, a *pipeline.Artifact) error {
	s.attributes = attributes(map[string]any{
		"name": a.Name, "group": a.Group, "device_types": a.DeviceTypes, "payload": a.Payload.Type,
		"meta_data": a.Payload.MetaData, "provides": a.Provides, "depends": a.Depends,
		"clears_provides": a.ClearsProvides, "compress": a.Compression, "path": d.relative(a.Path),
	})
	maps.Copy(s.attributes, optionalAttributes(a))
	s.inputs = map[string]string{}
	for i, f := range a.Payload.Files {
		if err := d.input(ctx, s, fmt.Sprintf("payload file %s", fileRole(i, f)), f); err != nil {
			return err
		}
	}
	for i, f := range a.Scripts {
		if err := d.input(ctx, s, fmt.Sprintf("script %s", fileRole(i, f)), f); err != nil {
			return err
		}
	}
	if err := d.describePayload(ctx, s, a); err != nil {
		return err
	}
	if a.Signer == nil {
		return nil
	}
	id, known := d.knownKey(ctx, a)
	last := d.record.Outputs[a.Address]
	switch {
	case known:
	case d.sending && (last == nil || last.Signer != a.Signer.Address):
		id = "unknown"
	case last != nil: // nothing else is known; what is sent need not have its key here
		id = last.SignerKeyID
	}
	s.attributes[attributeSigner] = id
	s.keyUnknown = !known && !d.sending
	return nil
}

// optionalAttributes are those that few artifacts set: the others need not be built anew because these came to be.
func optionalAttributes(a *pipeline.Artifact) map[string]string {
	p := a.Payload
	all := attributes(map[string]any{
		"default_provides": !a.NoDefaultProvides, "software": a.Software, "compress_level": a.CompressionLevel, "provenance": a.Provenance,
		"destination": p.Destination, "file_name": p.FileName, "mode": p.Mode, "keep_owners": p.KeepOwners,
		"images": p.Images, "project": p.Project, "platform": p.Platform, "run_args": p.RunArgs,
	})
	for name, unset := range map[string]string{
		"default_provides": "true", "software": "{}", "compress_level": "0", "provenance": "false", "keep_owners": "false",
	} {
		if all[name] == unset {
			delete(all, name)
		}
	}
	return all
}

// describePayload adds what is read for a payload beside its files.
func (d *decider) describePayload(ctx context.Context, s *Step, a *pipeline.Artifact) error {
	for i, f := range a.Payload.ImageFiles {
		if err := d.input(ctx, s, fmt.Sprintf("container image %s", fileRole(i, f)), f); err != nil {
			return err
		}
	}
	for i, f := range a.Payload.ComposeFiles {
		if err := d.input(ctx, s, fmt.Sprintf("Compose file %s", fileRole(i, f)), f); err != nil {
			return err
		}
	}
	if a.Payload.Directory != "" {
		if err := d.inputTree(ctx, s, "payload directory", a.Payload.Directory); err != nil {
			return err
		}
	}
	if a.SBOM != "" {
		return d.input(ctx, s, "bill of materials", a.SBOM)
	}
	return nil
}

func (d *decider) describeImage(ctx context.Context, s *Step, im *pipeline.Image) error {
	m, err := ImageMap(im)
	if err != nil { // before anything is built, and not only when it is this image's turn
		return err
	}
	device := im.DeviceType
	device.Address, device.Layout.Address = "", ""
	s.attributes = attributes(map[string]any{
		"name": im.Name, "device_type": device, "path": d.relative(im.Path), "formats": formatsOf(im),
	})
	if im.Server != nil {
		s.attributes["server"] = im.Server.URL
	}
	if im.WholeSHA256 {
		s.attributes["whole_sha256"] = "true"
	}
	s.inputs = map[string]string{}
	if im.Server != nil && im.Server.CACertificate != "" {
		if err := d.input(ctx, s, "the server's CA certificate", im.Server.CACertificate); err != nil {
			return err
		}
	}
	for _, f := range im.Fills {
		s.attributes["fill "+f.Partition] = fmt.Sprintf("%s, both=%t, root=%t", fillKind(f), f.Both, f.RootOwned) // files = { file = ... } is not file = ...
		if f.File != "" {
			if err := d.input(ctx, s, "file of "+f.Partition, f.File); err != nil {
				return err
			}
		}
		for _, inside := range sortedKeys(f.Files) {
			if err := d.input(ctx, s, inside+" of "+f.Partition, f.Files[inside]); err != nil {
				return err
			}
		}
		if f.Tar != "" {
			if err := d.input(ctx, s, "archive of "+f.Partition, f.Tar); err != nil {
				return err
			}
		}
		if f.Dir != "" {
			if err := d.inputFill(ctx, s, m, im, f); err != nil {
				return err
			}
		}
	}
	if im.Artifact != nil {
		step := d.steps[im.Artifact.Address]
		if step == nil { // not part of this plan: described by itself
			action := &pipeline.Action{Address: im.Artifact.Address, Kind: pipeline.KindArtifact, Artifact: im.Artifact}
			var err error
			if step, err = d.describe(ctx, action); err != nil {
				return err
			}
		}
		for _, address := range step.After {
			s.waitFor(address)
		}
		s.inputs[inputArtifact], s.keyUnknown = step.contentKey, step.keyUnknown
	}
	return nil
}

// cacheKeyOf is the key without where the output goes: the same file can be needed in several places. What is written beside an
// artifact names its file, its address and its builder, so there they count.
func (d *decider) cacheKeyOf(s *Step) string {
	attributes, inputs := maps.Clone(s.attributes), maps.Clone(s.inputs)
	if a := s.Action.Artifact; a != nil && (a.Provenance || a.SBOM != "") {
		attributes["address"], attributes["builder"] = a.Address, d.plan.Builder
	} else {
		delete(attributes, "path")
	}
	if im := s.Action.Image; im != nil { // what is written beside it is called after it
		attributes["file"] = filepath.Base(im.Path)
	}
	return key(s.Action.Kind, attributes, inputs)
}

// payloadKeyOf is the cache's key of an artifact whatever its signature: a signature covers the manifest alone, so another one
// can be put into its place. What is written beside an artifact is signed or named together with it, then there is none.
func payloadKeyOf(s *Step) string {
	if a := s.Action.Artifact; a.Provenance || a.SBOM != "" {
		return ""
	}
	attributes := maps.Clone(s.attributes)
	delete(attributes, "path")
	attributes[attributeSigner] = "any"
	return key(s.Action.Kind, attributes, s.inputs)
}

// contentKeyOf is the key of what an image takes from an artifact: what it provides, and who signs it.
func contentKeyOf(s *Step) string {
	attributes := maps.Clone(s.attributes)
	if a := s.Action.Artifact; !a.Provenance && a.SBOM == "" { // else it provides checksums of what names it
		for _, name := range []string{"path", "compress", "compress_level"} {
			delete(attributes, name)
		}
	}
	return key(s.Action.Kind, attributes, s.inputs)
}

func formatsOf(im *pipeline.Image) []string {
	var formats []string
	for _, o := range im.Outputs {
		formats = append(formats, o.Format)
	}
	return formats
}

// inputFill is input for a directory of a fill: what of it goes into the file system. That it can is found out here, since
// looking through it is most of the work.
func (d *decider) inputFill(ctx context.Context, s *Step, m *imaging.Map, im *pipeline.Image, f pipeline.Fill) error {
	role := "directory of " + f.Partition
	if promised, waits := d.comes(s, role, f.Dir); waits {
		s.inputs[role] = promised
		return nil
	}
	tree, err := imaging.ReadTree(ctx, f.Dir)
	if err != nil {
		return err
	}
	for _, name := range fillTargets(&im.DeviceType.Layout, f) {
		if err := m.CheckTree(name, tree); err != nil {
			return err
		}
	}
	s.inputs[role], err = d.digests.fill(ctx, tree, f.RootOwned)
	return err
}

func fillKind(f pipeline.Fill) string {
	switch {
	case f.File != "":
		return "file"
	case f.Dir != "":
		return "dir"
	case f.Tar != "":
		return "tar"
	case f.Empty:
		return "empty"
	}
	return "files"
}

const (
	attributeSigner = "signer's key"
	inputArtifact   = "artifact"
)

// changes compares what a step depends on now with what its last output was made of.
func (d *decider) changes(s *Step, last *Output) []Reason {
	if s.Key == last.Key {
		return nil
	}
	var reasons []Reason
	for _, name := range unionKeys(s.attributes, last.Attributes) {
		now, then := s.attributes[name], last.Attributes[name]
		if now == then {
			continue
		}
		switch name {
		case attributeSigner:
			reasons = append(reasons, Reason{ReasonKeyChanged, keyChange(s.Action.Artifact, last, then, now)})
		case "implementation":
			reasons = append(reasons, Reason{ReasonToolChanged, "this version of twinkeel writes it differently"})
		default:
			path, then, now := firstDifference(name, []byte(then), []byte(now))
			reasons = append(reasons, Reason{ReasonAttributeChanged, fmt.Sprintf("%s changed: %s -> %s", path, cut(then), cut(now))})
		}
	}
	for _, role := range unionKeys(s.inputs, last.Inputs) {
		now, then := s.inputs[role], last.Inputs[role]
		switch {
		case now == then:
		case role == inputArtifact:
			reasons = append(reasons, Reason{ReasonDependency, "its artifact changed"})
		case then == "":
			reasons = append(reasons, Reason{ReasonInputChanged, role + " is new"})
		case now == "":
			reasons = append(reasons, Reason{ReasonInputChanged, role + " is gone"})
		default:
			reasons = append(reasons, Reason{ReasonInputChanged, fmt.Sprintf("%s changed: sha256 %s -> %s", role, short(then), short(now))})
		}
	}
	if len(reasons) == 0 { // a record of another version, which named less
		reasons = append(reasons, Reason{ReasonToolChanged, "the last build was recorded differently"})
	}
	return reasons
}

// keyChange says of an artifact that another key signed it.
func keyChange(a *pipeline.Artifact, last *Output, then, now string) string {
	text := fmt.Sprintf("signing key changed: %s -> %s", short(then), short(now))
	switch {
	case then == "" && now != "":
		return text // it was not signed
	case a != nil && a.Signer != nil && last.Signer != "" && last.Signer != a.Signer.Address:
		text += fmt.Sprintf(" (signed by %s, and the block names %s)", last.Signer, a.Signer.Address)
	}
	return text
}

func (d *decider) outputChanged(ctx context.Context, path string, last *Output) ([]Reason, error) {
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return []Reason{{ReasonOutputMissing, "its output is gone"}}, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() != last.Size {
		return []Reason{{ReasonOutputModified, fmt.Sprintf("its output was modified (size %d -> %d)", last.Size, info.Size())}}, nil
	}
	digest, err := d.digests.like(ctx, path, last.digest())
	if err != nil {
		return nil, err
	}
	if digest != last.digest() {
		return []Reason{{ReasonOutputModified, "its output was modified"}}, nil
	}
	for _, s := range last.Sidecars {
		digest, err := d.digests.file(ctx, filepath.Join(d.plan.Dir, filepath.FromSlash(s.Path)))
		switch {
		case os.IsNotExist(err):
			return []Reason{{ReasonOutputMissing, s.Path + " is gone"}}, nil
		case err != nil:
			return nil, err
		case digest != s.SHA256:
			return []Reason{{ReasonOutputModified, s.Path + " was modified"}}, nil
		}
	}
	return nil, nil
}

func (d *decider) input(ctx context.Context, s *Step, role, path string) error {
	if promised, waits := d.comes(s, role, path); waits {
		s.inputs[role] = promised
		return nil
	}
	digest, err := d.digests.file(ctx, path)
	if err != nil {
		return err
	}
	s.inputs[role] = digest
	return nil
}

func (d *decider) relative(path string) string { return relativeTo(d.plan.Dir, path) }

// key digests what an output depends on. JSON objects are written with sorted keys, so the text is canonical.
func key(kind pipeline.Kind, attributes, inputs map[string]string) string {
	text, err := json.Marshal(struct {
		Version    int               `json:"v"`
		Kind       pipeline.Kind     `json:"op"`
		Attributes map[string]string `json:"attributes"`
		Inputs     map[string]string `json:"inputs"`
	}{1, kind, attributes, inputs})
	if err != nil {
		panic(err) // maps of strings always encode
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// attributes turns values into comparable texts, leaving out what is not set. An empty list is set: clears_provides = []
// clears nothing, and without it the defaults are cleared.
func attributes(values map[string]any) map[string]string {
	texts := make(map[string]string, len(values))
	for name, v := range values {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // plan values are plain and always encode
		}
		switch string(text) {
		case "null", `""`:
			continue
		}
		texts[name] = string(text)
	}
	return texts
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func unionKeys(a, b map[string]string) []string {
	keys := append(sortedKeys(a), sortedKeys(b)...)
	slices.Sort(keys)
	return slices.Compact(keys)
}

func short(digest string) string {
	if len(digest) > 12 {
		return digest[:12]
	}
	if digest == "" {
		return "none"
	}
	return digest
}

// firstDifference goes into objects and lists of JSON as far as two values have the same shape, and returns where they
// differ and what is there.
func firstDifference(path string, then, now []byte) (where, was, is string) {
	var objects [2]map[string]json.RawMessage
	if json.Unmarshal(then, &objects[0]) == nil && json.Unmarshal(now, &objects[1]) == nil {
		for _, key := range slices.Sorted(maps.Keys(objects[1])) {
			if a, b := objects[0][key], objects[1][key]; !bytes.Equal(a, b) {
				return firstDifference(path+"."+key, a, b)
			}
		}
	}
	var lists [2][]json.RawMessage
	if json.Unmarshal(then, &lists[0]) == nil && json.Unmarshal(now, &lists[1]) == nil && len(lists[0]) == len(lists[1]) {
		for i, a := range lists[0] {
			if b := lists[1][i]; !bytes.Equal(a, b) {
				return firstDifference(fmt.Sprintf("%s[%d]", path, i), a, b)
			}
		}
	}
	return path, string(then), string(now)
}

func cut(text string) string {
	const limit = 60
	if text == "" {
		return "none"
	}
	if len(text) > limit {
		return text[:limit] + "…"
	}
	return text
}
