package rollout

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

func ptr(v float64) *float64 { return &v }

func devices(groups ...string) []Device {
	var list []Device
	for i, g := range groups {
		list = append(list, Device{ID: fmt.Sprint(i), Group: g})
	}
	return list
}

func TestAssign(t *testing.T) {
	type phases = []menderapi.Phase
	for name, c := range map[string]struct {
		phases  phases
		devices []Device
		want    []int
		err     string
	}{
		"nothing said":      {nil, devices("", "", ""), []int{0, 0, 0}, ""},
		"canary by count":   {phases{{Count: 1}, {Percent: 100}}, devices("", "", ""), []int{0, 1, 1}, ""},
		"cumulative":        {phases{{Percent: 10}, {Percent: 50}, {Percent: 100}}, devices("", "", "", "", "", "", "", "", "", ""), []int{0, 1, 1, 1, 1, 2, 2, 2, 2, 2}, ""},
		"percent rounds up": {phases{{Percent: 1}, {Percent: 34}, {Percent: 100}}, devices("", "", ""), []int{0, 1, 2}, ""},
		"count beyond":      {phases{{Count: 99}}, devices("", ""), []int{0, 0}, ""},
		"phase of nobody":   {phases{{Count: 1}, {Count: 1}, {Percent: 100}}, devices("", ""), []int{0, 2}, ""},
		"group first":       {phases{{Groups: []string{"lab"}}, {Percent: 100}}, devices("", "lab", ""), []int{1, 0, 1}, ""},
		"group counts in":   {phases{{Groups: []string{"lab"}}, {Percent: 50}, {Percent: 100}}, devices("", "lab", "", ""), []int{1, 0, 2, 2}, ""},
		"all in groups":     {phases{{Groups: []string{"a"}}, {Groups: []string{"b", "c"}}}, devices("a", "b", "c"), []int{0, 1, 1}, ""},
		"group twice":       {phases{{Groups: []string{"a"}}, {Groups: []string{"a", "b"}}}, devices("a", "b"), []int{0, 1}, ""},
		"empty group":       {phases{{Groups: []string{"x"}}, {Percent: 100}}, devices("", ""), nil, `no device of this rollout is in group "x"`},
		"no group is none":  {phases{{Groups: []string{""}}, {Percent: 100}}, devices("", ""), nil, "no device of this rollout"},
		"devices left over": {phases{{Percent: 50}}, devices("", "", "", ""), nil, "reach only 2 of 4 devices"},
	} {
		p, err := Complete(menderapi.Policy{Phases: c.phases})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := Assign(p, c.devices)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want %q", name, err, c.err)
		}
		if d := cmp.Diff(c.want, got); c.err == "" && d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestComplete(t *testing.T) {
	p, err := Complete(menderapi.Policy{})
	if err != nil || p.OnFailure != "pause" || len(p.Phases) != 1 || p.Phases[0].Percent != 100 || p.Phases[0].Name != "all" {
		t.Errorf("empty policy: %+v %v", p, err)
	}
	given := []menderapi.Phase{{Count: 1}, {Percent: 100}}
	if p, err = Complete(menderapi.Policy{Phases: given}); err != nil || p.Phases[1].Name != "phase 2" || given[1].Name != "" {
		t.Errorf("names: %+v %v; the caller's phases became %+v", p, err, given)
	}
	for name, p := range map[string]menderapi.Policy{
		"two phases of one name": {Phases: []menderapi.Phase{{Name: "a", Count: 1}, {Name: "a", Count: 2}}},
		"nothing chosen":         {Phases: []menderapi.Phase{{Name: "a"}}},
		"negative count":         {Phases: []menderapi.Phase{{Count: -1}}},
		"percent":                {Phases: []menderapi.Phase{{Percent: 101}}},
		"negative soak":          {Phases: []menderapi.Phase{{Count: 1, SoakSeconds: -1}}},
		"endless soak":           {Phases: []menderapi.Phase{{Count: 1, SoakSeconds: 1 << 62}}},
		"threshold of a phase":   {Phases: []menderapi.Phase{{Count: 1, FailureThreshold: ptr(-1)}}},
		"too many phases":        {Phases: make([]menderapi.Phase, MaxPhases+1)},
		"group in and out":       {Groups: []string{"a"}, ExcludeGroups: []string{"a"}},
		"negative expiry":        {ExpiresSeconds: -1},
		"endless expiry":         {ExpiresSeconds: 1 << 62},
		"empty window":           {Window: &menderapi.Window{}},
		"bad filter":             {Filter: []menderapi.Predicate{{}}},
	} {
		if _, err := Complete(p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestStep(t *testing.T) {
	two := menderapi.Policy{OnFailure: "pause", FailureThreshold: ptr(20), Phases: []menderapi.Phase{
		{Name: "canary", Count: 2, SoakSeconds: 60, FailureThreshold: ptr(0)}, {Name: "rest", Percent: 100},
	}}
	abort := two
	abort.OnFailure = "abort"
	odd := menderapi.Policy{OnFailure: "pause", FailureThreshold: ptr(4.6), Phases: []menderapi.Phase{{Name: "all", Percent: 100}}}
	gated := menderapi.Policy{OnFailure: "pause", FailureThreshold: ptr(10), Phases: []menderapi.Phase{{Name: "canary", Count: 2, Approval: true}, {Name: "rest", Percent: 100, Approval: true}}}
	three := menderapi.Policy{OnFailure: "pause", Phases: []menderapi.Phase{{Name: "a", Count: 1}, {Name: "b", Percent: 34}, {Name: "c", Percent: 100}}}
	running := Position{State: "running"}
	soakEnd := now.Add(time.Minute)
	for name, c := range map[string]struct {
		policy  menderapi.Policy
		from    Position
		tallies []Tally
		want    Position
	}{
		"open devices":         {two, running, []Tally{{Devices: 2, Done: 1}, {Devices: 8}}, running},
		"canary done":          {two, running, []Tally{{Devices: 2, Done: 2}, {Devices: 8}}, Position{State: "soaking", SoakUntil: soakEnd}},
		"still soaking":        {two, Position{State: "soaking", SoakUntil: now.Add(1)}, []Tally{{Devices: 2, Done: 2}, {Devices: 8}}, Position{State: "soaking", SoakUntil: now.Add(1)}},
		"soaked":               {two, Position{State: "soaking", SoakUntil: now}, []Tally{{Devices: 2, Done: 2}, {Devices: 8}}, Position{State: "running", Phase: 1}},
		"canary of other ends": {two, running, []Tally{{Devices: 2, Other: 2}, {Devices: 8}}, Position{State: "paused", Reason: `phase "canary" ended without a device that has the release`}},
		"one of them has it":   {two, running, []Tally{{Devices: 2, Other: 1, Done: 1}, {Devices: 8}}, Position{State: "soaking", SoakUntil: soakEnd}},
		"passed by a person":   {two, Position{State: "running", Passed: true}, []Tally{{Devices: 2, Other: 2}, {Devices: 8}}, Position{State: "soaking", SoakUntil: soakEnd, Passed: true}},
		"forgiven, no success": {two, Position{State: "running", Forgiven: 2}, []Tally{{Devices: 2, Failed: 2}, {Devices: 8}}, Position{State: "paused", Forgiven: 2, Reason: `phase "canary" ended without a device that has the release`}},
		"nobody, and no rest":  {two, running, []Tally{{Devices: 2, Other: 2}, {}}, Position{State: "finished", Phase: 1}},
		"approval, at first":   {gated, Position{State: "running", Phase: -1}, []Tally{{Devices: 2}, {Devices: 8}}, Position{State: "waiting", Phase: -1}},
		"approval, later":      {gated, running, []Tally{{Devices: 2, Done: 2}, {Devices: 8}}, Position{State: "waiting"}},
		"waiting, one joins":   {gated, Position{State: "waiting", Open: true}, []Tally{{Devices: 3, Done: 2}, {Devices: 8}}, Position{State: "running", Open: true}},
		"waiting, it fails":    {gated, Position{State: "waiting", Open: true}, []Tally{{Devices: 3, Done: 2, Failed: 1}, {Devices: 8}}, Position{State: "paused", Open: true, Reason: `1 of 3 devices of phase "canary" failed; its failure threshold is 10 %`}},
		"waiting for nothing":  {gated, Position{State: "waiting", Phase: -1}, []Tally{{Devices: 2, Other: 2}, {}}, Position{State: "finished", Phase: 1}},
		"open, nobody yet":     {two, Position{State: "running", Open: true}, []Tally{{}, {Devices: 8}}, Position{State: "running", Open: true}},
		"open, all done":       {two, Position{State: "running", Phase: 1, Open: true}, []Tally{{Devices: 2, Done: 2}, {Devices: 8, Done: 8}}, Position{State: "running", Phase: 1, Open: true}},
		"open, empty between":  {three, Position{State: "running", Open: true}, []Tally{{Devices: 1, Done: 1}, {}, {Devices: 1}}, Position{State: "running", Phase: 2, Open: true}},
		"empty phase":          {two, running, []Tally{{}, {Devices: 8}}, Position{State: "running", Phase: 1}},
		"one canary failed":    {two, running, []Tally{{Devices: 2, Failed: 1}, {Devices: 8}}, Position{State: "paused", Reason: `1 of 2 devices of phase "canary" failed; its failure threshold is 0 %`}},
		"forgiven":             {two, Position{State: "running", Forgiven: 1}, []Tally{{Devices: 2, Failed: 1, Done: 1}, {Devices: 8}}, Position{State: "soaking", Forgiven: 1, SoakUntil: soakEnd}},
		"failed again":         {two, Position{State: "running", Forgiven: 1}, []Tally{{Devices: 2, Failed: 2}, {Devices: 8}}, Position{State: "paused", Forgiven: 1, Reason: `2 of 2 devices of phase "canary" failed; its failure threshold is 0 %`}},
		"at the threshold":     {two, Position{State: "running", Phase: 1}, []Tally{{Devices: 2, Done: 2}, {Devices: 10, Failed: 2}}, Position{State: "running", Phase: 1}},
		"above the threshold":  {two, Position{State: "running", Phase: 1}, []Tally{{Devices: 2, Done: 2}, {Devices: 10, Failed: 3}}, Position{State: "paused", Phase: 1, Reason: `3 of 10 devices of phase "rest" failed; its failure threshold is 20 %`}},
		"exactly at it":        {odd, running, []Tally{{Devices: 1500, Failed: 69}}, running},
		"one more":             {odd, running, []Tally{{Devices: 1500, Failed: 70}}, Position{State: "paused", Reason: `70 of 1500 devices of phase "all" failed; its failure threshold is 4.6 %`}},
		"abort":                {abort, running, []Tally{{Devices: 2, Failed: 1}, {Devices: 8}}, Position{State: "aborted", Reason: `1 of 2 devices of phase "canary" failed; its failure threshold is 0 %`}},
		"all done":             {two, Position{State: "running", Phase: 1}, []Tally{{Devices: 2, Done: 2}, {Devices: 1, Done: 1}}, Position{State: "finished", Phase: 1}},
		"all failed":           {two, Position{State: "running", Phase: 1}, []Tally{{Devices: 2, Done: 2}, {Devices: 1, Failed: 1}}, Position{State: "finished", Phase: 1}},
		"paused stays":         {two, Position{State: "paused", Reason: "x"}, []Tally{{Devices: 2, Done: 2}, {Devices: 8}}, Position{State: "paused", Reason: "x"}},
		"paused, nothing left": {two, Position{State: "paused", Reason: "x"}, []Tally{{Devices: 2, Done: 2}, {Devices: 8, Done: 8}}, Position{State: "finished", Phase: 1, Reason: "x"}},
		"aborted for good":     {two, Position{State: "aborted"}, []Tally{{Devices: 2}, {Devices: 8}}, Position{State: "aborted"}},
	} {
		got := Step(c.policy, c.from, c.tallies, now)
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if again := Step(c.policy, got, c.tallies, now); again != got {
			t.Errorf("%s: a second step moved from %+v to %+v", name, got, again)
		}
	}
}

// TestThresholdIsExact: whatever the order of events, a rollout releases no phase after its threshold was passed, and
// what has failed before it stops is at most the threshold, the one device above it, and what was under way.
func TestThresholdIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		n := 1 + r.IntN(60)
		threshold := float64(r.IntN(60))
		p, err := Complete(menderapi.Policy{FailureThreshold: &threshold, Phases: []menderapi.Phase{{Percent: 1 + 50*r.Float64()}, {Percent: 100}}})
		if err != nil {
			t.Fatal(err)
		}
		phases, err := Assign(p, devices(make([]string, n)...))
		if err != nil {
			t.Fatal(err)
		}
		tallies := make([]Tally, 2)
		for _, ph := range phases {
			tallies[ph].Devices++
		}
		pos := Step(p, Position{State: menderapi.RolloutRunning}, tallies, now)
		for !pos.Ended() && pos.State != menderapi.RolloutPaused {
			tally := &tallies[pos.Phase]
			if tally.Open() == 0 {
				t.Fatalf("stuck at %+v with %+v", pos, tallies)
			}
			if r.IntN(2) == 0 {
				tally.Failed++
			} else {
				tally.Done++
			}
			pos = Step(p, pos, tallies, now)
		}
		for i, tally := range tallies {
			if limit := threshold / 100 * float64(tally.Devices); float64(tally.Failed) > limit+1 {
				t.Errorf("phase %d of %d devices: %d failures at a threshold of %g %%", i, tally.Devices, tally.Failed, threshold)
			}
		}
		if pos.Phase == 0 && tallies[1].Done+tallies[1].Failed > 0 {
			t.Errorf("devices of the second phase ran though the first stopped")
		}
	}
}

func TestApprove(t *testing.T) {
	p := menderapi.Policy{OnFailure: "pause", Phases: []menderapi.Phase{{Name: "canary", Count: 1, Approval: true}, {Name: "rest", Percent: 100, Approval: true}}}
	tallies := []Tally{{Devices: 1}, {Devices: 3}}
	pos := Step(p, Start(p), tallies, now)
	if pos.State != menderapi.RolloutWaiting || pos.Phase != -1 {
		t.Fatalf("at first: %+v", pos)
	}
	if _, err := Approve(p, pos, "rest", tallies, now); err == nil || !strings.Contains(err.Error(), `phase "canary" waits`) {
		t.Errorf("another phase: %v", err)
	}
	pos, err := Approve(p, pos, "canary", tallies, now)
	if err != nil || pos != (Position{State: "running"}) {
		t.Fatalf("approved: %+v %v", pos, err)
	}
	if _, err := Approve(p, pos, "canary", tallies, now); err == nil || !strings.Contains(err.Error(), "no phase waits") {
		t.Errorf("a second time: %v", err)
	}
	tallies[0].Done = 1
	pos = Step(p, pos, tallies, now)
	paused := Pause(pos, "why")
	if _, err := Approve(p, paused, "rest", tallies, now); err == nil {
		t.Error("a paused rollout was approved")
	}
	if resumed := Resume(p, paused, tallies, now); resumed.State != menderapi.RolloutWaiting || resumed.Phase != 0 {
		t.Errorf("resuming approves nothing: %+v", resumed)
	}
	if pos, err = Approve(p, pos, "rest", tallies, now); err != nil || pos.Phase != 1 || pos.State != "running" {
		t.Errorf("the rest: %+v %v", pos, err)
	}
}

// TestResumeWithoutSuccess: a person may let a phase pass that proved nothing, and only that phase.
func TestResumeWithoutSuccess(t *testing.T) {
	p := menderapi.Policy{OnFailure: "pause", Phases: []menderapi.Phase{{Name: "a", Count: 1}, {Name: "b", Count: 2}, {Name: "c", Percent: 100}}}
	tallies := []Tally{{Devices: 1, Other: 1}, {Devices: 1, Other: 1}, {Devices: 1}}
	pos := Step(p, Start(p), tallies, now)
	for phase := range 2 {
		if pos.State != menderapi.RolloutPaused || pos.Phase != phase {
			t.Fatalf("phase %d: %+v", phase, pos)
		}
		pos = Resume(p, pos, tallies, now)
	}
	if pos.State != menderapi.RolloutRunning || pos.Phase != 2 || pos.Passed {
		t.Errorf("at the end: %+v", pos)
	}
}

func TestJoin(t *testing.T) {
	type phases = []menderapi.Phase
	groups := phases{{Groups: []string{"canary"}}, {Groups: []string{"field"}}}
	tenth := phases{{Percent: 10}, {Percent: 100}}
	for name, c := range map[string]struct {
		phases  phases
		current int
		tallies []Tally
		group   string
		want    int
		ok      bool
	}{
		"the first of all":       {tenth, 0, []Tally{{}, {}}, "", 0, true},
		"the second":             {tenth, 0, []Tally{{Devices: 1}, {}}, "", 1, true},
		"the eleventh":           {tenth, 0, []Tally{{Devices: 1}, {Devices: 9}}, "", 0, true},
		"not into what is over":  {tenth, 1, []Tally{{Devices: 1}, {Devices: 9}}, "", 1, true},
		"before an approval":     {tenth, -1, []Tally{{}, {}}, "", 0, true},
		"canary by count":        {phases{{Count: 1}, {Percent: 100}}, 0, []Tally{{Devices: 1}, {}}, "", 1, true},
		"by group":               {groups, 0, []Tally{{Devices: 1}, {Devices: 1}}, "field", 1, true},
		"its phase is over":      {groups, 1, []Tally{{Devices: 1}, {Devices: 1}}, "canary", 1, true},
		"of no phase":            {groups, 0, []Tally{{Devices: 1}, {Devices: 1}}, "other", 0, false},
		"of no group":            {groups, 0, []Tally{{Devices: 1}, {Devices: 1}}, "", 0, false},
		"group over, then rest":  {phases{{Groups: []string{"canary"}}, {Percent: 50}, {Percent: 100}}, 1, []Tally{{Devices: 1}, {Devices: 1}, {Devices: 1}}, "canary", 2, true},
		"group counts for share": {phases{{Groups: []string{"canary"}}, {Percent: 50}, {Percent: 100}}, 0, []Tally{{Devices: 2}, {}, {Devices: 1}}, "", 2, true},
	} {
		p, err := Complete(menderapi.Policy{Phases: c.phases})
		if err != nil {
			t.Fatal(err)
		}
		phase, ok := Join(p, Position{Phase: c.current}, c.tallies, c.group)
		if ok != c.ok || ok && phase != c.want {
			t.Errorf("%s: phase %d %v, want %d %v", name, phase, ok, c.want, c.ok)
		}
	}
}
