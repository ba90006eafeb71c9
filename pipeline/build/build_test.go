package build

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/signing"
)

// artifactPlan is a plan with one artifact, "artifact.os", whose input and key are in the plan's directory.
func artifactPlan(t *testing.T) *pipeline.Plan {
	t.Helper()
	dir := t.TempDir()
	rootfs := filepath.Join(dir, "rootfs.ext4")
	write(t, rootfs, strings.Repeat("a root file system ", 100_000))
	private, public, err := signing.Generate("")
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, "key.pem")
	if err := signing.WriteKeyPair(keyFile, keyFile+".pub", private, public); err != nil {
		t.Fatal(err)
	}
	key, err := signing.LoadFile(keyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	return &pipeline.Plan{Dir: dir, OutDir: out, Epoch: time.Unix(0, 0), Actions: []*pipeline.Action{{
		Address: "artifact.os", Kind: pipeline.KindArtifact,
		Artifact: &pipeline.Artifact{
			Address: "artifact.os", Name: "os-1", DeviceTypes: []string{"board"}, Compression: "gzip",
			Payload: pipeline.Payload{Type: "rootfs-image", Files: []string{rootfs}},
			Signer:  &pipeline.Signer{Address: "signer.file.dev", Kind: "file", PrivateKey: keyFile, KeyID: key.KeyID()},
			Path:    filepath.Join(out, "artifacts", "os.mender"),
		},
	}}}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	// Older than the window in which a digest isn't remembered.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

// newKey replaces the key of the plan's signer.
func newKey(t *testing.T, p *pipeline.Plan) {
	t.Helper()
	private, _, err := signing.Generate("")
	if err != nil {
		t.Fatal(err)
	}
	s := p.Actions[0].Artifact.Signer
	if err := os.WriteFile(s.PrivateKey, private, 0o600); err != nil {
		t.Fatal(err)
	}
	if s.KeyID == "" {
		return
	}
	key, err := signing.LoadFile(s.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.KeyID = key.KeyID()
}

// dropCache leaves the plan without what was built before.
func dropCache(t *testing.T, p *pipeline.Plan) {
	t.Helper()
	for _, part := range []string{"ac", "cas", "payload"} {
		if err := os.RemoveAll(filepath.Join(CacheDir(p), part)); err != nil {
			t.Fatal(err)
		}
	}
}

func decideOne(t *testing.T, plan *pipeline.Plan) *Step {
	t.Helper()
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	return steps[0]
}

func buildAll(t *testing.T, plan *pipeline.Plan) *Record {
	t.Helper()
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	record, err := Run(t.Context(), steps, plan, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func codes(s *Step) []string {
	var out []string
	for _, r := range s.Reasons {
		out = append(out, r.Code)
	}
	return out
}

func TestReasons(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(t *testing.T, plan *pipeline.Plan)
		verb   Verb
		codes  []string
	}{
		"nothing": {func(*testing.T, *pipeline.Plan) {}, VerbCached, nil},
		"touched": {func(t *testing.T, p *pipeline.Plan) {
			if err := os.Chtimes(p.Actions[0].Artifact.Payload.Files[0], time.Now(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}, VerbCached, nil},
		"input": {func(t *testing.T, p *pipeline.Plan) {
			write(t, p.Actions[0].Artifact.Payload.Files[0], "other")
		}, VerbRebuild, []string{ReasonInputChanged}},
		"same size": {func(t *testing.T, p *pipeline.Plan) {
			path := p.Actions[0].Artifact.Payload.Files[0]
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[10]++
			write(t, path, string(b))
		}, VerbRebuild, []string{ReasonInputChanged}},
		"name": {func(_ *testing.T, p *pipeline.Plan) {
			p.Actions[0].Artifact.Name = "os-2"
		}, VerbRebuild, []string{ReasonAttributeChanged}},
		"epoch": {func(_ *testing.T, p *pipeline.Plan) {
			p.Epoch = time.Unix(1_700_000_000, 0)
		}, VerbRebuild, []string{ReasonAttributeChanged}},
		"key": {func(t *testing.T, p *pipeline.Plan) {
			newKey(t, p)
		}, VerbSign, []string{ReasonKeyChanged}},
		"key, with provenance": {func(t *testing.T, p *pipeline.Plan) {
			p.Actions[0].Artifact.Provenance = true
			buildAll(t, p)
			newKey(t, p)
		}, VerbRebuild, []string{ReasonKeyChanged}},
		"key and output": {func(t *testing.T, p *pipeline.Plan) {
			newKey(t, p)
			if err := os.Truncate(p.Actions[0].Artifact.Path, 100); err != nil {
				t.Fatal(err)
			}
		}, VerbSign, []string{ReasonKeyChanged}}, // what is in the cache
		"key and output, no cache": {func(t *testing.T, p *pipeline.Plan) {
			newKey(t, p)
			dropCache(t, p)
			if err := os.Truncate(p.Actions[0].Artifact.Path, 100); err != nil {
				t.Fatal(err)
			}
		}, VerbRebuild, []string{ReasonKeyChanged}},
		"output gone": {func(t *testing.T, p *pipeline.Plan) {
			dropCache(t, p)
			if err := os.Remove(p.Actions[0].Artifact.Path); err != nil {
				t.Fatal(err)
			}
		}, VerbRebuild, []string{ReasonOutputMissing}},
		"output gone, in the cache": {func(t *testing.T, p *pipeline.Plan) {
			if err := os.Remove(p.Actions[0].Artifact.Path); err != nil {
				t.Fatal(err)
			}
		}, VerbCached, []string{ReasonOutputMissing}},
		"output cut": {func(t *testing.T, p *pipeline.Plan) {
			dropCache(t, p)
			if err := os.Truncate(p.Actions[0].Artifact.Path, 100); err != nil {
				t.Fatal(err)
			}
		}, VerbRebuild, []string{ReasonOutputModified}},
		"memo damaged": {func(t *testing.T, p *pipeline.Plan) {
			write(t, filepath.Join(p.Dir, ".twinkeel/cache/digests.json"), "{")
		}, VerbCached, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan := artifactPlan(t)
			if s := decideOne(t, plan); s.Verb != VerbBuild || !cmp.Equal(codes(s), []string{ReasonNeverBuilt}) {
				t.Fatalf("at first: %s %v", s.Verb, codes(s))
			}
			buildAll(t, plan)
			test.change(t, plan)
			s := decideOne(t, plan)
			if restore := strings.HasSuffix(name, "in the cache"); s.Restore != restore {
				t.Errorf("restore is %t, want %t", s.Restore, restore)
			}
			if s.Verb != test.verb || !cmp.Equal(codes(s), test.codes) {
				t.Errorf("got %s %v, want %s %v", s.Verb, s.Reasons, test.verb, test.codes)
			}
		})
	}
}

func TestRecordNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	out := buildAll(t, plan).Outputs["artifact.os"]
	if out.Path != "out/artifacts/os.mender" || out.ArtifactName != "os-1" || len(out.SHA256) != 64 || len(out.SignerKeyID) != 64 {
		t.Errorf("got %+v", out)
	}
	onDisk, err := ReadRecord(plan.OutDir)
	if err != nil || onDisk.Outputs["artifact.os"].SHA256 != out.SHA256 {
		t.Errorf("the record on disk differs: %+v, %v", onDisk, err)
	}
}

// TestImageFollowsCACertificate: the certificate is on the data partition, so its content is an input.
func TestImageFollowsCACertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	im := ubootImage()
	im.Server = &pipeline.Server{CACertificate: ca}
	plan := &pipeline.Plan{Dir: dir, OutDir: filepath.Join(dir, "out"), Actions: []*pipeline.Action{{
		Address: "image.board", Kind: pipeline.KindImage, Image: im,
	}}}
	write(t, ca, "one")
	before := decideOne(t, plan).Key
	write(t, ca, "another")
	if decideOne(t, plan).Key == before {
		t.Error("the key is the same with another CA certificate")
	}
}

// TestTwoBuildsAtOnce: a build that ends while another runs in the same directory stays in the record.
func TestTwoBuildsAtOnce(t *testing.T) {
	t.Parallel()
	one := artifactPlan(t)
	two := *one
	other := *one.Actions[0].Artifact
	other.Address, other.Path = "artifact.app", filepath.Join(one.OutDir, "artifacts", "app.mender")
	two.Actions = []*pipeline.Action{{Address: other.Address, Kind: pipeline.KindArtifact, Artifact: &other}}
	steps, err := Decide(t.Context(), one, false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Run(t.Context(), steps, one, Options{Events: func(e Event) {
		if e.State == StateStarted {
			buildAll(t, &two)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	record, err := ReadRecord(one.OutDir)
	if err != nil || record.Outputs["artifact.os"] == nil || record.Outputs["artifact.app"] == nil {
		t.Errorf("got %v, %v; want both", record, err)
	}
}

func TestFirstDifference(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ then, now, want string }{
		"texts":   {`"a"`, `"b"`, `x "a" "b"`},
		"nested":  {`{"name":"board","layout":{"p":[{"size":1},{"size":2}]}}`, `{"name":"board","layout":{"p":[{"size":1},{"size":3}]}}`, `x.layout.p[1].size 2 3`},
		"new key": {`{"a":1}`, `{"a":1,"b":2}`, `x.b  2`},
		"gone":    {`{"a":1,"b":2}`, `{"a":1}`, `x {"a":1,"b":2} {"a":1}`},
		"longer":  {`[1]`, `[1,2]`, `x [1] [1,2]`},
		"at all":  {``, `{"a":1}`, `x  {"a":1}`},
		"no JSON": {`both=true`, `both=false`, `x both=true both=false`},
	} {
		where, was, is := firstDifference("x", []byte(test.then), []byte(test.now))
		if got := where + " " + was + " " + is; got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestDamagedRecordSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{", `[]`, `{"format_version":1,"outputs":{"a":null}}`, `{"outputs":3}`} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, RecordFile), text)
		_, err := ReadRecord(dir)
		var h interface{ Hint() string }
		if err == nil || !errors.As(err, &h) || !strings.Contains(h.Hint(), dir) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// TestFullDiskAtEveryStep makes each durable step of a build fail in turn; those of the cache make no build fail. Not parallel: the
// hook is the process's.
func TestFullDiskAtEveryStep(t *testing.T) {
	plan := artifactPlan(t)
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	defer durable.SetHook(nil)
	for n := int64(1); ; n++ {
		var hit, failed, either atomic.Bool
		durable.SetHook(func(s durable.Step) error {
			if s.Number == n {
				hit.Store(true)
				either.Store(s.Path == plan.Dir) // both out and the cache are made in it
				failed.Store(!strings.Contains(s.Path, "/.twinkeel") && s.Path != plan.Dir)
				return syscall.ENOSPC
			}
			return nil
		})
		_, err := Run(t.Context(), steps, plan, Options{})
		durable.SetHook(nil)
		for _, name := range filesBelow(t, plan.Dir) {
			if strings.Contains(name, ".twinkeel-tmp-") || strings.Contains(name, "/locks/") {
				t.Errorf("step %d: %s is left behind", n, name)
			}
		}
		if _, err := ReadRecord(plan.OutDir); err != nil {
			t.Errorf("step %d: %v", n, err)
		}
		if failed.Load() && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("step %d failed; Run returned %v", n, err)
		}
		if failed.Load() == (err == nil) && !either.Load() {
			t.Errorf("step %d: %v", n, err)
		}
		if !hit.Load() {
			if n < 20 {
				t.Fatalf("only %d steps", n)
			}
			break
		}
		for _, dir := range []string{plan.OutDir, filepath.Join(plan.Dir, ".twinkeel")} {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestBuildSweepsWhatAKilledOneLeft(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	dir := filepath.Dir(plan.Actions[0].Artifact.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, ".os.mender.twinkeel-tmp-1")
	write(t, left, "half an artifact")
	buildAll(t, plan)
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there", left)
	}
}

// TestImageAloneHasTheSameKey: whether the artifact is in the plan with its image decides nothing.
func TestImageAloneHasTheSameKey(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	im := ubootImage()
	im.Artifact, im.Path = plan.Actions[0].Artifact, filepath.Join(plan.OutDir, "images", "board.img")
	image := &pipeline.Action{Address: im.Address, Kind: pipeline.KindImage, Image: im, DependsOn: []string{"artifact.os"}}
	plan.Actions = append(plan.Actions, image)
	both, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	plan.Actions = []*pipeline.Action{image}
	if alone := decideOne(t, plan); alone.Key != both[1].Key {
		t.Errorf("the image alone has key %s, with its artifact %s", alone.Key, both[1].Key)
	}
}

func TestCancelLeavesNothing(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Run(ctx, steps, plan, Options{Events: func(e Event) {
		if e.State == StateStarted {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if names := filesBelow(t, plan.OutDir); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestStepsWaitForWhatTheyNeed(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	second := *plan.Actions[0]
	artifact := *second.Artifact
	artifact.Address, artifact.Path = "artifact.second", filepath.Join(plan.OutDir, "artifacts", "second.mender")
	second.Address, second.Artifact, second.DependsOn = "artifact.second", &artifact, []string{"artifact.os", "artifact.elsewhere"}
	plan.Actions = append([]*pipeline.Action{&second}, plan.Actions...)
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	if _, err := Run(t.Context(), steps, plan, Options{Parallelism: 1, Events: func(e Event) {
		if e.State == StateDone {
			order = append(order, e.Address)
		}
	}}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"artifact.os", "artifact.second"}; !cmp.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
}

func TestSecretsAreInNoJSON(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	plan.Actions[0].Artifact.Signer.Passphrase = "hunter2hunter2"
	step := decideOne(t, plan)
	text, err := json.Marshal(step)
	if err != nil || strings.Contains(string(text), "hunter2") {
		t.Errorf("%s, %v", text, err)
	}
	for _, v := range step.attributes {
		if strings.Contains(v, "hunter2") {
			t.Errorf("attribute %s", v)
		}
	}
}

func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
