package agent

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/artifactfmt"
)

func testRecord(name string) Record {
	return Record{
		Version: recordVersion, State: Rebooting, Installed: Installed{Name: "release-1", Provides: map[string]string{"rootfs-image.version": "release-1"}},
		Update: &Update{
			ID: "d", Name: name, Target: SlotB, Size: 5, SHA256: "ab", Switches: 1,
			After: Installed{Name: name, Provides: map[string]string{"rootfs-image.version": name}},
		},
	}
}

func TestJournal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if j.record.State != Idle {
		t.Errorf("a new journal is in state %s", j.record.State)
	}
	want := testRecord("release-2")
	for range 5 {
		want.Update.Reboots++
		if err := j.write(want); err != nil {
			t.Fatal(err)
		}
		j.Close()
		if j, err = openJournal(path); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, j.record); diff != "" {
			t.Fatal(diff)
		}
		r, err := readJournal(path)
		if diff := cmp.Diff(want, r); diff != "" || err != nil {
			t.Fatal(diff, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != journalCopies*journalCopySize || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	large := want
	large.Installed.Provides = map[string]string{"x": strings.Repeat("x", journalCopySize)}
	if err := j.write(large); !errors.Is(err, ErrRecordTooLarge) {
		t.Errorf("a record that does not fit: %v", err)
	}
	j.Close()
}

// Whatever part of a write arrives, the journal gives the old record or the new one.
func TestJournalTornWrite(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	older, newer := testRecord("release-2"), testRecord("release-3")
	for range 3 { // so that both copies have held records
		if err := j.write(older); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.write(newer); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	seen := map[string]int{}
	check := func(data []byte) {
		t.Helper()
		r, _, _, err := chooseRecord(data)
		if err != nil {
			t.Fatal(err)
		}
		if !cmp.Equal(r, older) && !cmp.Equal(r, newer) {
			t.Fatalf("neither record: %+v", r)
		}
		seen[r.Update.Name]++
	}
	for end := range len(before) { // the first bytes arrived
		if bytes.Equal(before[end:], after[end:]) {
			check(after)
			break
		}
		check(append(append([]byte{}, after[:end]...), before[end:]...))
	}
	for range 2000 { // some of the 64-byte pieces arrived
		data := bytes.Clone(before)
		for at := 0; at < len(data); at += 64 {
			if random.IntN(2) == 0 {
				copy(data[at:at+64], after[at:])
			}
		}
		check(data)
	}
	if len(seen) != 2 {
		t.Errorf("seen %v", seen)
	}
}

func TestJournalDamage(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	path := d.path("var/lib/mender/" + journalName)
	d.write("var/lib/mender/"+journalName, "garbage")
	var damaged *JournalDamagedError
	if _, err := openJournal(path); !errors.As(err, &damaged) {
		t.Fatalf("opening garbage: %v", err)
	}
	// The device must still be updatable, and somebody may want to see the remains.
	if _, err := d.agent().Install(t.Context(), d.file(artifact(t, image(2, imageSize), nil))); err != nil {
		t.Error(err)
	}
	if data, _ := os.ReadFile(path + ".damaged"); string(data) != "garbage" {
		t.Error("the damaged journal was not kept")
	}
}

func FuzzJournal(f *testing.F) {
	for seq, r := range []Record{{Version: 1, State: Idle}, testRecord("x")} {
		data, err := encodeRecord(r, uint64(seq))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(journalMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, seq, err := decodeRecord(data)
		if err != nil {
			return
		}
		if err := r.check(); err != nil {
			t.Fatal(err)
		}
		again, err := encodeRecord(r, seq)
		if err != nil {
			t.Fatal(err)
		}
		back, seq2, err := decodeRecord(again)
		if err != nil || seq2 != seq || !cmp.Equal(r, back) {
			t.Errorf("%+v becomes %+v, %v", r, back, err)
		}
	})
}

func TestStates(t *testing.T) {
	t.Parallel()
	reached := map[State]bool{Idle: true}
	for from, events := range transitions {
		for event, to := range events {
			reached[to] = true
			if got, err := next(from, event); got != to || err != nil {
				t.Errorf("%s + %s = %s, %v", from, event, got, err)
			}
			if transitions[to] == nil {
				t.Errorf("%s leads to %s, which is no state", from, to)
			}
		}
	}
	for state := range transitions {
		if !reached[state] {
			t.Errorf("%s is never reached", state)
		}
		if got, err := next(state, "nonsense"); err == nil || got != state {
			t.Errorf("%s + nonsense = %s", state, got)
		}
	}
	// Only Installing may switch, and only a verified slot gets there.
	for from, events := range transitions {
		for event, to := range events {
			if to == Installing && event != Verified && event != Interrupted {
				t.Errorf("%s + %s leads to the switch", from, event)
			}
			if to == Committing && event != Healthy {
				t.Errorf("%s + %s leads to the commit", from, event)
			}
		}
	}
	if _, err := next(Downloading, Switched); err == nil {
		t.Error("a switch without a verified slot")
	}
}

func TestProvides(t *testing.T) {
	t.Parallel()
	before := Installed{Name: "r1", Group: "g", Provides: map[string]string{"rootfs-image.version": "r1", "rootfs-image.x": "1", "data.version": "7"}}
	for name, c := range map[string]struct {
		info artifactfmt.Info
		want Installed
	}{
		"defaults": {
			artifactfmt.Info{Name: "r2", Provides: map[string]string{"rootfs-image.version": "r2"}, ClearsProvides: []string{"artifact_group", "rootfs_image_checksum", "rootfs-image.*"}},
			Installed{Name: "r2", Provides: map[string]string{"rootfs-image.version": "r2", "data.version": "7"}},
		},
		"no clears": {
			artifactfmt.Info{Name: "r2", NoClears: true, Provides: map[string]string{"a": "b"}},
			Installed{Name: "r2", Group: "g", Provides: map[string]string{"a": "b"}},
		},
		"neither":   {artifactfmt.Info{Name: "r2", NoClears: true}, Installed{Name: "r2", Group: "g", Provides: map[string]string{}}},
		"only list": {artifactfmt.Info{Name: "r2", ClearsProvides: []string{"data.*"}}, Installed{Name: "r2", Group: "g", Provides: map[string]string{"rootfs-image.version": "r1", "rootfs-image.x": "1"}}},
		"a group":   {artifactfmt.Info{Name: "r2", Group: "h", ClearsProvides: []string{"*"}}, Installed{Name: "r2", Group: "h", Provides: map[string]string{}}},
	} {
		if diff := cmp.Diff(c.want, before.after(&c.info)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestMatchPattern(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, key string
		want         bool
	}{
		{"", "", true},
		{"", "a", false},
		{"a", "a", true},
		{"a", "ab", false},
		{"*", "", true},
		{"*", "a.b", true},
		{"rootfs-image.*", "rootfs-image.version", true},
		{"rootfs-image.*", "rootfs-image", false},
		{"a*b", "ab", true},
		{"a*b", "a", false},
		{"ab*b", "ab", false},
		{"*.version", "x.y.version", true},
		{"a*b*c", "axbxbxc", true},
		{"a*b*c", "axcxb", false},
		{"[a]", "a", false},
		{"a?", "ab", false},
	} {
		if got := matchPattern(c.pattern, c.key); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.key, got)
		}
	}
}
