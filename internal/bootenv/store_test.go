package bootenv

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// Tests that set the durable hook cannot run in parallel, it is one for the process.

const testSize = 0x1000

// newUBoot makes an image that holds the environment in its middle.
func newUBoot(t testing.TB, vars map[string]string, flags ...byte) (*UBoot, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	image := bytes.Repeat([]byte{0xa5}, 8*testSize)
	var locs []Location
	for i, flag := range flags {
		block, err := EncodeUBoot(vars, testSize, len(flags) == 2, flag)
		if err != nil {
			t.Fatal(err)
		}
		loc := Location{Path: path, Offset: int64(2+3*i) * testSize, Size: testSize}
		copy(image[loc.Offset:], block)
		locs = append(locs, loc)
	}
	if err := os.WriteFile(path, image, 0o644); err != nil {
		t.Fatal(err)
	}
	u, err := OpenUBoot(locs)
	if err != nil {
		t.Fatal(err)
	}
	return u, path
}

// store is what both kinds of environment offer.
type store interface {
	Load() (map[string]string, error)
	Update(changes map[string]string) error
}

func mustLoad(t testing.TB, s store) map[string]string {
	t.Helper()
	vars, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return vars
}

func TestUBootUpdate(t *testing.T) {
	u, path := newUBoot(t, map[string]string{"a": "1", "b": "2", "c": "3"}, 1, 1)
	before, _ := os.ReadFile(path)
	if err := u.Update(map[string]string{"a": "x", "b": "", "d": "4"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "x", "c": "3", "d": "4"}, mustLoad(t, u)); diff != "" {
		t.Error(diff)
	}
	after, _ := os.ReadFile(path)
	// Equal flags: copy 1 counts, so copy 2 is written, with flag 2, and nothing else of the disk.
	second := u.Locations()[1]
	if after[second.Offset+4] != 2 {
		t.Errorf("flag of copy 2 is %d, want 2", after[second.Offset+4])
	}
	if !bytes.Equal(before[:second.Offset], after[:second.Offset]) || !bytes.Equal(before[second.end():], after[second.end():]) {
		t.Error("bytes outside copy 2 have changed")
	}
	if err := u.Update(map[string]string{"a": "y"}); err != nil {
		t.Fatal(err)
	}
	after, _ = os.ReadFile(path)
	if got := after[u.Locations()[0].Offset+4]; got != 3 {
		t.Errorf("flag of copy 1 is %d, want 3", got)
	}
}

func TestUBootFlagWraps(t *testing.T) {
	u, _ := newUBoot(t, map[string]string{"n": "start"}, 254, 253)
	for i := range 300 {
		want := fmt.Sprint(i)
		if err := u.Update(map[string]string{"n": want}); err != nil {
			t.Fatal(err)
		}
		if got := mustLoad(t, u)["n"]; got != want {
			t.Fatalf("after update %d the value is %s", i, got)
		}
	}
}

func TestUBootSurvivesOneBadCopy(t *testing.T) {
	for bad := range 2 {
		u, path := newUBoot(t, map[string]string{"a": "1"}, 1, 1)
		image, _ := os.ReadFile(path)
		image[u.Locations()[bad].Offset+100] ^= 1
		os.WriteFile(path, image, 0o644)
		if diff := cmp.Diff(map[string]string{"a": "1"}, mustLoad(t, u)); diff != "" {
			t.Error(diff)
		}
		// An update that changes nothing still heals the bad copy.
		if err := u.Update(map[string]string{"a": "1"}); err != nil {
			t.Fatal(err)
		}
		states, err := u.read()
		if err != nil || states[0].err != nil || states[1].err != nil {
			t.Errorf("copy %d bad: after the update %v, %v, %v", bad, err, states[0].err, states[1].err)
		}
		if err := u.Update(map[string]string{"a": "2"}); err != nil {
			t.Fatal(err)
		}
		if got := mustLoad(t, u)["a"]; got != "2" {
			t.Errorf("copy %d bad: value %s", bad, got)
		}
	}
}

func TestUBootUnchangedWritesNothing(t *testing.T) {
	u, _ := newUBoot(t, map[string]string{"a": "1"}, 1, 1)
	var ops []string
	durable.SetHook(func(s durable.Step) error { ops = append(ops, s.Op); return nil })
	defer durable.SetHook(nil)
	if err := u.Update(map[string]string{"a": "1", "gone": ""}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"fsync"}, ops); diff != "" {
		t.Error(diff)
	}
}

func TestUBootBothCopiesBad(t *testing.T) {
	for name, c := range map[string]struct {
		make func(loc Location, i int) []byte
		hint string
	}{
		"zeros":   {func(Location, int) []byte { return make([]byte, testSize) }, "saveenv"},
		"erased":  {func(Location, int) []byte { return bytes.Repeat([]byte{0xff}, testSize) }, "saveenv"},
		"garbage": {func(Location, int) []byte { return bytes.Repeat([]byte("garbage!"), testSize/8) }, "CONFIG_ENV_OFFSET"},
		"other form": {func(Location, int) []byte {
			b, _ := EncodeUBoot(map[string]string{"a": "1"}, testSize, false, 0)
			return b
		}, "single form"},
	} {
		u, path := newUBoot(t, nil, 1, 1)
		image, _ := os.ReadFile(path)
		for i, l := range u.Locations() {
			copy(image[l.Offset:], c.make(l, i))
		}
		os.WriteFile(path, image, 0o644)
		_, err := u.Load()
		var ce *CorruptError
		if !errors.As(err, &ce) {
			t.Fatalf("%s: %v, want a CorruptError", name, err)
		}
		for _, l := range u.Locations() {
			if !strings.Contains(err.Error(), l.String()) {
				t.Errorf("%s: %q does not name %s", name, err, l)
			}
		}
		if !strings.Contains(ce.Hint(), c.hint) {
			t.Errorf("%s: hint %q does not mention %q", name, ce.Hint(), c.hint)
		}
		if err := u.Update(map[string]string{"a": "1"}); !errors.As(err, &ce) {
			t.Errorf("%s: Update gives %v, want a CorruptError", name, err)
		}
		now, _ := os.ReadFile(path)
		if !bytes.Equal(now, image) {
			t.Errorf("%s: a refused update has written", name)
		}
	}
}

func TestOpenUBootRefuses(t *testing.T) {
	for name, locs := range map[string][]Location{
		"none":     nil,
		"three":    {{"a", 0, 64, 0}, {"a", 64, 64, 0}, {"a", 128, 64, 0}},
		"overlap":  {{"a", 0, 64, 0}, {"a", 63, 64, 0}},
		"sizes":    {{"a", 0, 64, 0}, {"a", 64, 65, 0}},
		"negative": {{"a", -1, 64, 0}},
		"no path":  {{"", 0, 64, 0}},
	} {
		var ce *ConfigError
		if _, err := OpenUBoot(locs); !errors.As(err, &ce) || ce.Hint() == "" {
			t.Errorf("%s: %v, want a ConfigError", name, err)
		}
	}
	if _, err := OpenUBoot([]Location{{"a", 0, 64, 0}, {"b", 0, 64, 0}}); err != nil {
		t.Errorf("same offset on two devices: %v", err)
	}
}

func TestUBootDeviceProblems(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env")
	u, _ := OpenUBoot([]Location{{path, 0, 64, 0}})
	if _, err := u.Load(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing device: %v", err)
	}
	if err := u.Update(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing device: %v", err)
	}
	os.WriteFile(path, make([]byte, 63), 0o644)
	var ce *ConfigError
	if _, err := u.Load(); !errors.As(err, &ce) || !strings.Contains(err.Error(), "ends before") {
		t.Errorf("short device: %v", err)
	}
	u, _ = OpenUBoot([]Location{{"/dev/null", 0, 64, 0}})
	if _, err := u.Load(); !errors.Is(err, ErrRawFlash) {
		t.Errorf("character device: %v", err)
	}
}

// crash stops an update before each of its steps in turn, as an injected error and as a death that nothing cleans up after,
// and tells check what was being tried. It returns the number of steps.
func crash(t *testing.T, prepare func() (update func() error, check func(step string, updated bool))) int {
	t.Helper()
	defer durable.SetHook(nil)
	failed := errors.New("injected")
	for n := int64(1); ; n++ {
		for _, dies := range []bool{false, true} {
			update, check := prepare()
			stopped := ""
			durable.SetHook(func(s durable.Step) error {
				if s.Number < n || (s.Number > n && !dies) {
					return nil
				}
				if stopped == "" {
					stopped = fmt.Sprintf("step %d, %s %s", s.Number, s.Op, filepath.Base(s.Path))
				}
				if dies {
					panic(failed)
				}
				return failed
			})
			err := func() (err error) {
				defer func() {
					if r := recover(); r != nil {
						err = failed
					}
				}()
				return update()
			}()
			durable.SetHook(nil)
			if stopped == "" {
				if err != nil {
					t.Fatal(err)
				}
				check("undisturbed", true)
				return int(n - 1)
			}
			if !errors.Is(err, failed) {
				t.Fatalf("%s: the error was lost: %v", stopped, err)
			}
			check(stopped, false)
		}
	}
}

var (
	crashOld = map[string]string{VarBootPart: "2", VarUpgradeAvailable: "0", VarBootCount: "0"}
	crashNew = map[string]string{VarBootPart: "3", VarUpgradeAvailable: "1", VarBootCount: "0"}
)

func oldOrNew(vars map[string]string) bool {
	return maps.Equal(vars, crashOld) || maps.Equal(vars, crashNew)
}

func checkOldOrNew(t *testing.T, s store, step string, updated bool) {
	t.Helper()
	got, err := s.Load()
	if err != nil {
		t.Fatalf("stopped at %s: %v", step, err)
	}
	if isNew := maps.Equal(got, crashNew); !isNew && (updated || !maps.Equal(got, crashOld)) {
		t.Fatalf("stopped at %s: neither old nor new: %v", step, got)
	}
	// The next attempt always succeeds and is seen.
	if err := s.Update(crashNew); err != nil {
		t.Fatalf("stopped at %s, tried again: %v", step, err)
	}
	if got := mustLoad(t, s); !maps.Equal(got, crashNew) {
		t.Fatalf("stopped at %s, tried again: %v", step, got)
	}
}

func TestUBootCrash(t *testing.T) {
	for _, flags := range [][]byte{{1, 1}, {1, 2}, {255, 254}, {0, 255}} {
		steps := crash(t, func() (func() error, func(string, bool)) {
			u, _ := newUBoot(t, crashOld, flags...)
			return func() error { return u.Update(crashNew) },
				func(step string, updated bool) { checkOldOrNew(t, u, step, updated) }
		})
		if steps != 2 {
			t.Errorf("an update takes %d steps, want one write and one fsync", steps)
		}
	}
}

// Whatever part of the one write has reached the medium, in whatever order of sectors, the old or the new values count.
func TestUBootTornWrite(t *testing.T) {
	for _, flags := range [][]byte{{1, 1}, {1, 2}, {255, 254}, {0, 255}, {254, 255}} {
		u, path := newUBoot(t, crashOld, flags...)
		before, _ := os.ReadFile(path)
		if err := u.Update(crashNew); err != nil {
			t.Fatal(err)
		}
		after, _ := os.ReadFile(path)
		const sectors = testSize / 512
		target := -1
		for i, l := range u.Locations() {
			if !bytes.Equal(before[l.Offset:l.end()], after[l.Offset:l.end()]) {
				target = i
			}
		}
		loc := u.Locations()[target]
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		check := func(what string, torn []byte) {
			t.Helper()
			f.WriteAt(torn, loc.Offset)
			if got, err := u.Load(); err != nil || !oldOrNew(got) {
				t.Fatalf("flags %v, %s: %v, %v", flags, what, got, err)
			}
		}
		from, to := before[loc.Offset:loc.end()], after[loc.Offset:loc.end()]
		for mask := range 1 << sectors {
			torn := bytes.Clone(from)
			for s := range sectors {
				if mask&(1<<s) != 0 {
					copy(torn[s*512:(s+1)*512], to[s*512:])
				}
			}
			check(fmt.Sprintf("sectors %08b", mask), torn)
		}
		for n := range 600 { // torn inside a sector; all variables are in the first
			torn := bytes.Clone(from)
			copy(torn[:n], to)
			check(fmt.Sprintf("%d bytes", n), torn)
		}
	}
}

func newGRUB(t testing.TB, vars map[string]string) (*GRUB, string) {
	t.Helper()
	dir := t.TempDir()
	files, err := GRUBFiles(vars)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g, err := OpenGRUB(dir)
	if err != nil {
		t.Fatal(err)
	}
	return g, dir
}

func TestGRUBUpdate(t *testing.T) {
	g, dir := newGRUB(t, crashOld)
	if err := g.Update(map[string]string{VarBootPart: "3", VarUpgradeAvailable: "1", VarBootCount: "", "x": `a\b`}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{VarBootPart: "3", VarUpgradeAvailable: "1", "x": `a\b`}
	if diff := cmp.Diff(want, mustLoad(t, g)); diff != "" {
		t.Error(diff)
	}
	fresh, _ := GRUBFiles(want)
	for name, data := range fresh {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s differs from a fresh environment (%v)", name, err)
		}
	}
}

// The comments of newer GRUB versions stay, and with them the hash of the lock file.
func TestGRUBKeepsComments(t *testing.T) {
	g, dir := newGRUB(t, crashOld)
	warning := grubSignature + "# WARNING: Do not edit this file by tools other than grub-editenv!!!\n"
	lock := pad(warning + "editing=0\n")
	env := pad(warning + "a=1\n")
	for n := 1; n <= 2; n++ {
		os.WriteFile(g.path(n, grubLock), lock, 0o644)
		os.WriteFile(g.path(n, grubLockSum), lockSum(lock), 0o644)
		os.WriteFile(g.path(n, grubEnv), env, 0o644)
	}
	if err := g.Update(map[string]string{"a": "2"}); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		for file, want := range map[string][]byte{grubLock: lock, grubLockSum: lockSum(lock), grubEnv: pad(warning + "a=2\n")} {
			if got, _ := os.ReadFile(g.path(n, file)); !bytes.Equal(got, want) {
				t.Errorf("%s has become %q", filepath.Join(dir, file), got)
			}
		}
	}
}

func TestGRUBCrash(t *testing.T) {
	steps := crash(t, func() (func() error, func(string, bool)) {
		g, _ := newGRUB(t, crashOld)
		return func() error { return g.Update(crashNew) },
			func(step string, updated bool) { checkOldOrNew(t, g, step, updated) }
	})
	if steps != 12 {
		t.Errorf("an update takes %d steps, want six writes with an fsync each", steps)
	}
}

// Each block is cut within its write too: after any prefix of any of the six writes the old or the new values count, and
// the copy that does not count is never the one GRUB's script would load.
func TestGRUBTornWrite(t *testing.T) {
	g, dir := newGRUB(t, crashOld)
	type write struct {
		path string
		data []byte
	}
	var writes []write
	var last string
	durable.SetHook(func(s durable.Step) error {
		if s.Op == "fsync" && s.Path == last { // what was written is in the file now
			data, _ := os.ReadFile(s.Path)
			writes = append(writes, write{s.Path, data})
		}
		last = s.Path
		return nil
	})
	err := g.Update(crashNew)
	durable.SetHook(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(writes) != 6 {
		t.Fatalf("%d writes", len(writes))
	}
	files, _ := GRUBFiles(crashOld)
	for name, data := range files {
		os.WriteFile(filepath.Join(dir, name), data, 0o644)
	}
	for i, w := range writes {
		before, _ := os.ReadFile(w.path)
		for n := range GRUBSize + 1 {
			torn := append(bytes.Clone(w.data[:n]), before[n:]...)
			if bytes.Equal(torn, before) && n > 0 && n < GRUBSize {
				continue
			}
			os.WriteFile(w.path, torn, 0o644)
			got, err := g.Load()
			if err != nil || !oldOrNew(got) {
				t.Fatalf("write %d (%s), %d bytes: %v, %v", i+1, w.path, n, got, err)
			}
		}
	}
}

func TestGRUBRestores(t *testing.T) {
	for name, damage := range map[string]func(g *GRUB){
		"lock 1 busy":      func(g *GRUB) { os.WriteFile(g.path(1, grubLock), pad(grubSignature+"editing=1\n"), 0o644) },
		"lock 2 busy":      func(g *GRUB) { os.WriteFile(g.path(2, grubLock), pad(grubSignature+"editing=1\n"), 0o644) },
		"lock 1 missing":   func(g *GRUB) { os.Remove(g.path(1, grubLock)) },
		"directory 2 gone": func(g *GRUB) { os.RemoveAll(filepath.Dir(g.path(2, grubLock))) },
		"directory 1 gone": func(g *GRUB) { os.RemoveAll(filepath.Dir(g.path(1, grubLock))) },
		"env 1 garbage":    func(g *GRUB) { os.WriteFile(g.path(1, grubEnv), make([]byte, GRUBSize), 0o644) },
		"env 2 truncated":  func(g *GRUB) { os.WriteFile(g.path(2, grubEnv), nil, 0o644) },
		"hash 1 wrong":     func(g *GRUB) { os.WriteFile(g.path(1, grubLockSum), []byte("x"), 0o644) },
	} {
		g, dir := newGRUB(t, crashOld)
		damage(g)
		if diff := cmp.Diff(crashOld, mustLoad(t, g)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if err := g.Update(crashNew); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		fresh, _ := GRUBFiles(crashNew)
		for file, data := range fresh {
			if got, err := os.ReadFile(filepath.Join(dir, file)); !bytes.Equal(got, data) {
				t.Errorf("%s: %s is not restored (%v)", name, file, err)
			}
		}
	}
	g, _ := newGRUB(t, crashOld)
	for n := 1; n <= 2; n++ {
		os.WriteFile(g.path(n, grubEnv), make([]byte, GRUBSize), 0o644)
	}
	var ce *CorruptError
	if _, err := g.Load(); !errors.As(err, &ce) || ce.Hint() == "" {
		t.Errorf("both copies bad: %v, want a CorruptError", err)
	}
	if _, err := OpenGRUB(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no environment: %v", err)
	}
}

// Several processes, here stores, change one environment at a time and lose nothing.
func TestUBootConcurrent(t *testing.T) {
	u, _ := newUBoot(t, map[string]string{"start": "1"}, 1, 1)
	var wg sync.WaitGroup
	for who := range 4 {
		other, err := OpenUBoot(u.Locations())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for i := range 10 {
				if err := other.Update(map[string]string{fmt.Sprintf("v%d_%d", who, i): "x"}); err != nil {
					t.Error(err)
				}
				if vars, err := other.Load(); err != nil || vars["start"] != "1" {
					t.Errorf("%v, %v", vars, err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(mustLoad(t, u)); n != 41 {
		t.Errorf("%d variables, want 41", n)
	}
}
