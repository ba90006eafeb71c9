package build

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// entryOf returns the cache of a plan that was built, its only entry, and where the files of that are.
func entryOf(t *testing.T, plan *pipeline.Plan) (c *Cache, e *Entry, entry, content string) {
	t.Helper()
	c = OpenCache(CacheDir(plan))
	entries, damaged, err := c.Entries()
	if err != nil || len(damaged) > 0 || len(entries) != 1 {
		t.Fatalf("the cache has %d entries, damaged %v, %v", len(entries), damaged, err)
	}
	e = entries[0]
	return c, e, c.entryPath(e.Key), c.contentPath(e.Files[0].SHA256)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func runWarned(t *testing.T, plan *pipeline.Plan) (steps []*Step, warnings []string) {
	t.Helper()
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	if _, err := Run(t.Context(), steps, plan, Options{Warn: func(w string) {
		mu.Lock()
		defer mu.Unlock()
		warnings = append(warnings, w)
	}}); err != nil {
		t.Fatal(err)
	}
	return steps, warnings
}

func TestRestoreIsWhatWasBuilt(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	plan.Actions[0].Artifact.Provenance = true
	before := buildAll(t, plan).Outputs["artifact.os"]
	bytesBefore := read(t, plan.Actions[0].Artifact.Path)
	if err := os.RemoveAll(plan.OutDir); err != nil {
		t.Fatal(err)
	}
	steps, warnings := runWarned(t, plan)
	if !steps[0].Restore || len(warnings) > 0 {
		t.Errorf("restore is %t, warnings %v", steps[0].Restore, warnings)
	}
	if !bytes.Equal(read(t, plan.Actions[0].Artifact.Path), bytesBefore) {
		t.Error("the restored artifact differs")
	}
	record, err := ReadRecord(plan.OutDir)
	if err != nil {
		t.Fatal(err)
	}
	after := record.Outputs["artifact.os"]
	if after.SHA256 != before.SHA256 || after.SignerKeyID != before.SignerKeyID || after.ArtifactName != "os-1" || len(after.Sidecars) != 1 ||
		after.Sidecars[0] != before.Sidecars[0] || after.Key != before.Key {
		t.Errorf("recorded %+v, want %+v", after, before)
	}
	if s := decideOne(t, plan); !s.UpToDate() {
		t.Errorf("afterwards: %s %v", s.Verb, s.Reasons)
	}
}

// TestEditedOutputLeavesTheCacheAlone: an image in out/ may be mounted and written to.
func TestEditedOutputLeavesTheCacheAlone(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	buildAll(t, plan)
	path := plan.Actions[0].Artifact.Path
	whole := read(t, path)
	for _, round := range []string{"of a built output", "of a restored output"} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("edited in place"), 100); err != nil {
			t.Fatal(err)
		}
		f.Close()
		steps, warnings := runWarned(t, plan)
		if !steps[0].Restore || len(warnings) > 0 || !bytes.Equal(read(t, path), whole) {
			t.Errorf("after the edit %s: restore %t, warnings %v", round, steps[0].Restore, warnings)
		}
	}
}

// TestDamagedEntries damages an entry in every way; each is a miss with a warning, is said in the plan, found by Verify, and
// made good by the build.
func TestDamagedEntries(t *testing.T) {
	t.Parallel()
	flip := func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
		return os.WriteFile(path, b, 0o644) // the same size, in place
	}
	keepingTime := func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return errors.Join(flip(path), os.Chtimes(path, info.ModTime(), info.ModTime()))
	}
	for name, test := range map[string]struct {
		damage func(entry, content string) error
		says   string
	}{
		"content flipped":                {func(_, content string) error { return flip(content) }, "has changed"},
		"content flipped, time put back": {func(_, content string) error { return keepingTime(content) }, "has changed"},
		"content cut":                    {func(_, content string) error { return os.Truncate(content, 100) }, "has 100 bytes instead of"},
		"content empty":                  {func(_, content string) error { return os.Truncate(content, 0) }, "has 0 bytes"},
		"content longer":                 {func(_, content string) error { return os.Truncate(content, 1<<24) }, "instead of"},
		"content gone":                   {func(_, content string) error { return os.Remove(content) }, "is gone"},
		"content is a directory": {func(_, content string) error {
			return errors.Join(os.Remove(content), os.Mkdir(content, 0o755))
		}, "is not a file"},
		"content is a pipe": {func(_, content string) error {
			return errors.Join(os.Remove(content), syscall.Mkfifo(content, 0o644))
		}, "is not a file"},
		"content is a link": {func(_, content string) error {
			return errors.Join(os.Rename(content, content+"x"), os.Symlink(content+"x", content))
		}, "cannot be read"},
		"entry flipped": {func(entry, _ string) error { return flip(entry) }, "checksum"},
		"entry empty":   {func(entry, _ string) error { return os.Truncate(entry, 0) }, "too early"},
		"entry cut":     {func(entry, _ string) error { return os.Truncate(entry, 90) }, "checksum"},
		"entry huge":    {func(entry, _ string) error { return os.Truncate(entry, 1<<30) }, "as a whole"},
		"entry of another key": {func(entry, _ string) error {
			b, err := os.ReadFile(entry)
			if err != nil {
				return err
			}
			e, err := decodeEntry(filepath.Base(entry), b)
			if err != nil {
				return err
			}
			e.Key = strings.Repeat("0", 64)
			text, err := encodeEntry(e)
			return errors.Join(err, os.WriteFile(entry, text, 0o644))
		}, "something else"},
		"entry leads elsewhere": {func(entry, _ string) error {
			b, err := os.ReadFile(entry)
			if err != nil {
				return err
			}
			e, err := decodeEntry(filepath.Base(entry), b)
			if err != nil {
				return err
			}
			e.Files = append(e.Files, e.Files[0])
			e.Files[1].Name = "../../key.pem"
			text, err := encodeEntry(e)
			return errors.Join(err, os.WriteFile(entry, text, 0o644))
		}, "names no file"},
		"entry is a pipe": {func(entry, _ string) error {
			return errors.Join(os.Remove(entry), syscall.Mkfifo(entry, 0o644))
		}, "not a file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan := artifactPlan(t)
			buildAll(t, plan)
			whole := read(t, plan.Actions[0].Artifact.Path)
			c, _, entry, content := entryOf(t, plan)
			if err := test.damage(entry, content); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(plan.OutDir); err != nil {
				t.Fatal(err)
			}
			if _, damaged, err := c.Verify(t.Context(), false); err != nil || len(damaged) != 1 || !strings.Contains(damaged[0].Error(), test.says) {
				t.Errorf("Verify says %v, %v; want %q", damaged, err, test.says)
			}
			s := decideOne(t, plan)
			if s.Verb != VerbBuild || s.Reasons[len(s.Reasons)-1].Code != ReasonCacheDamaged {
				t.Errorf("the plan is %s %v", s.Verb, s.Reasons)
			}
			if name == "content is a directory" {
				return // nothing but a hand puts one there, and a rename cannot replace it
			}
			_, warnings := runWarned(t, plan)
			if len(warnings) != 1 || !strings.Contains(warnings[0], test.says) {
				t.Errorf("warnings %q, want %q", warnings, test.says)
			}
			if !bytes.Equal(read(t, plan.Actions[0].Artifact.Path), whole) {
				t.Error("what was built differs")
			}
			if _, damaged, err := c.Verify(t.Context(), false); err != nil || len(damaged) > 0 {
				t.Errorf("after the build Verify says %v, %v", damaged, err)
			}
		})
	}
}

func TestRepairRemovesOnlyWhatIsDamaged(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	buildAll(t, plan)
	c, e, _, content := entryOf(t, plan)
	plan.Actions[0].Artifact.Name = "os-2"
	buildAll(t, plan)
	if err := os.Truncate(content, 10); err != nil {
		t.Fatal(err)
	}
	whole, damaged, err := c.Verify(t.Context(), true)
	if err != nil || whole != 1 || len(damaged) != 1 || damaged[0].Key != e.Key || damaged[0].Address != "artifact.os" {
		t.Errorf("got %d, %v, %v", whole, damaged, err)
	}
	if _, err := os.Stat(content); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the damaged content is still there: %v", err)
	}
	if whole, damaged, err := c.Verify(t.Context(), false); whole != 1 || len(damaged) > 0 || err != nil {
		t.Errorf("then %d, %v, %v", whole, damaged, err)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	c := OpenCache(CacheDir(plan))
	if p, err := c.Prune(t.Context(), 1, 0); err != nil || p.Removed != 0 {
		t.Fatalf("without a cache: %+v, %v", p, err)
	}
	var oldest string
	for i, name := range []string{"os-1", "os-2", "os-3"} {
		plan.Actions[0].Artifact.Name = name
		write(t, plan.Actions[0].Artifact.Payload.Files[0], strings.Repeat(name, 10_000))
		buildAll(t, plan)
		entries, _, err := c.Entries()
		if err != nil || len(entries) != i+1 || entries[0].ArtifactName != name {
			t.Fatalf("after %s: %v, %v", name, entries, err)
		}
		used := time.Now().Add(time.Duration(i-3) * 24 * time.Hour)
		if err := os.Chtimes(c.entryPath(entries[0].Key), used, used); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			oldest = entries[0].Key
		}
	}
	half := filepath.Join(c.dir, "cas", "ab")
	if err := os.MkdirAll(half, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(half, ".x.twinkeel-tmp-1"), "half a file")
	p, err := c.Prune(t.Context(), 0, 60*time.Hour)
	if err != nil || p.Removed != 1 || p.Left != 2 || p.Freed == 0 {
		t.Errorf("by age: %+v, %v", p, err)
	}
	if _, err := c.read(oldest); !errors.Is(err, errMiss) {
		t.Errorf("the oldest is still there: %v", err)
	}
	if files := filesBelow(t, filepath.Join(c.dir, "cas")); len(files) != 2 {
		t.Errorf("contents left: %v", files)
	}
	one := p.Size / 2
	if p, err = c.Prune(t.Context(), one+one/2, 0); err != nil || p.Removed != 1 || p.Left != 1 || p.Size > one+one/2 {
		t.Errorf("by size: %+v, %v", p, err)
	}
	if entries, _, err := c.Entries(); err != nil || len(entries) != 1 || entries[0].ArtifactName != "os-3" {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestRunBoundsTheCache(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), steps, plan, Options{CacheSize: 1}); err != nil {
		t.Fatal(err)
	}
	if files := filesBelow(t, filepath.Join(CacheDir(plan), "cas")); len(files) > 0 {
		t.Errorf("a cache of one byte holds %v", files)
	}
}

// TestOneCacheTwoBuildsAtOnce: two processes (here: runs with nothing in common but the cache) that need the same output build
// it once.
func TestOneCacheTwoBuildsAtOnce(t *testing.T) {
	t.Setenv(cacheVariable, filepath.Join(t.TempDir(), "shared"))
	one := artifactPlan(t)
	two := *one
	two.OutDir = filepath.Join(t.TempDir(), "elsewhere")
	artifact := *one.Actions[0].Artifact
	artifact.Path = filepath.Join(two.OutDir, "deep", "other-name.mender")
	two.Actions = []*pipeline.Action{{Address: artifact.Address, Kind: pipeline.KindArtifact, Artifact: &artifact}}
	plans := []*pipeline.Plan{one, &two}
	steps := make([][]*Step, len(plans))
	for i, plan := range plans {
		var err error
		if steps[i], err = Decide(t.Context(), plan, false); err != nil {
			t.Fatal(err)
		}
	}
	var wait sync.WaitGroup
	for i, plan := range plans {
		wait.Go(func() {
			if _, err := Run(t.Context(), steps[i], plan, Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if !bytes.Equal(read(t, one.Actions[0].Artifact.Path), read(t, artifact.Path)) {
		t.Error("the two artifacts differ")
	}
	if a, b := steps[0][0].Restore, steps[1][0].Restore; a == b {
		t.Errorf("restored: %t and %t; want one built and one restored", a, b)
	}
}

func TestHolesStayHoles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in, err := os.Create(filepath.Join(dir, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	const size = 1 << 30
	for _, at := range []int64{0, 300 << 20, 700<<20 + 5} {
		if _, err := in.WriteAt(bytes.Repeat([]byte("data"), 10_000), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := in.Sync(); err != nil { // or Blocks is not known yet
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	if err := copyDurably(t.Context(), out, in, size, 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(out)
	if err != nil || info.Size() != size {
		t.Fatalf("%v, %v", info, err)
	}
	if n := onDisk(info); n > 2<<20 {
		t.Errorf("the copy takes %d bytes on the disk", n)
	}
	a, err := hashFile(t.Context(), in.Name(), "")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := hashFile(t.Context(), out, ""); err != nil || a != b {
		t.Errorf("the copy has another content: %v", err)
	}
}

// TestSigningAgainIsBuilding: another signature in the old artifact makes the same bytes as a build with the other key.
func TestSigningAgainIsBuilding(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	buildAll(t, plan)
	path := plan.Actions[0].Artifact.Path
	newKey(t, plan)
	steps, _ := runWarned(t, plan)
	if steps[0].Verb != VerbSign {
		t.Fatalf("%s %v", steps[0].Verb, steps[0].Reasons)
	}
	signed := read(t, path)
	signer, err := OpenSigner(t.Context(), plan.Actions[0].Artifact.Signer)
	if err != nil {
		t.Fatal(err)
	}
	key, err := verify.NewKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := verify.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := artifactfmt.Verify(t.Context(), bytes.NewReader(signed), artifactfmt.ReadOptions{Verifier: ring}); err != nil {
		t.Error(err)
	}
	if s := decideOne(t, plan); !s.UpToDate() {
		t.Errorf("afterwards: %s %v", s.Verb, s.Reasons)
	}
	steps, err = Decide(t.Context(), plan, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), steps, plan, Options{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, path), signed) {
		t.Error("a build with the new key makes another artifact")
	}
}

// TestNothingElseIsSigned: what was modified after the plan gets no signature.
func TestNothingElseIsSigned(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	buildAll(t, plan)
	newKey(t, plan)
	dropCache(t, plan)
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	path := plan.Actions[0].Artifact.Path
	b := read(t, path)
	b[len(b)-5000] ^= 1
	write(t, path, string(b))
	if _, err = Run(t.Context(), steps, plan, Options{}); err == nil || !strings.Contains(err.Error(), "was modified") {
		t.Errorf("got %v", err)
	}
	if !bytes.Equal(read(t, path), b) {
		t.Error("it was changed")
	}
}
