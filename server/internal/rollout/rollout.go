// Package rollout decides how a deployment spreads over its devices: which device belongs to which phase, when the next
// phase is released, and when failures stop it. It is arithmetic on plain values; the store calls it inside the
// transaction that changes a device's status, so that no device can be released by a decision that is out of date.
//
// The rules are those of menderapi.Policy: a phase is complete when every device in it is final; then it soaks, then
// the next phase is released, where it asks for that after an approval. A phase whose failures pass its threshold pauses the
// rollout (or aborts it), and so does one that is complete without a single device that has the release: what nobody has
// tried is not proven. Only a person resumes. hawkBit's error threshold and NervesHub's failure_threshold are the models; no edition of Mender
// stops by itself.
package rollout

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// Limits of a policy. A person writes it by hand, so they are far above use.
const (
	MaxPhases  = 100
	MaxGroups  = 100
	MaxRetries = 100
	maxSoak    = 366 * 24 * time.Hour
	maxExpires = 10 * 366 * 24 * time.Hour
	maxName    = 256
)

// PolicyError says what is wrong with a policy.
type PolicyError struct{ Reason string }

func (e *PolicyError) Error() string { return "invalid policy: " + e.Reason }

func bad(format string, args ...any) error { return &PolicyError{Reason: fmt.Sprintf(format, args...)} }

// Complete checks a policy and fills in what it leaves out: one phase for everything, names for phases, what happens on
// failure.
func Complete(p menderapi.Policy) (menderapi.Policy, error) {
	if len(p.Groups) > MaxGroups || len(p.ExcludeGroups) > MaxGroups {
		return p, bad("more than %d groups", MaxGroups)
	}
	for _, g := range p.ExcludeGroups {
		if slices.Contains(p.Groups, g) {
			return p, bad("group %q is both in groups and in exclude_groups", clip(g))
		}
	}
	if _, err := NewFilter(p); err != nil {
		return p, err
	}
	if p.ExpiresSeconds < 0 || p.ExpiresSeconds > int64(maxExpires/time.Second) {
		return p, bad("expires must be between 0 and ten years")
	}
	if p.Window != nil {
		if _, err := readWindow(*p.Window); err != nil {
			return p, err
		}
	}
	if len(p.Phases) > MaxPhases {
		return p, bad("more than %d phases", MaxPhases)
	}
	switch p.OnFailure {
	case "":
		p.OnFailure = menderapi.OnFailurePause
	case menderapi.OnFailurePause, menderapi.OnFailureAbort:
	default:
		return p, bad("on_failure is %q; it must be %q or %q", p.OnFailure, menderapi.OnFailurePause, menderapi.OnFailureAbort)
	}
	if err := checkThreshold(p.FailureThreshold); err != nil {
		return p, err
	}
	p.Phases = slices.Clone(p.Phases)
	if len(p.Phases) == 0 {
		p.Phases = []menderapi.Phase{{Name: "all", Percent: 100}}
	}
	names := map[string]bool{}
	for i := range p.Phases {
		ph := &p.Phases[i]
		if ph.Name == "" {
			ph.Name = "phase " + strconv.Itoa(i+1)
		}
		if names[ph.Name] {
			return p, bad("two phases are named %q", ph.Name)
		}
		names[ph.Name] = true
		if err := checkPhase(ph); err != nil {
			return p, err
		}
	}
	return p, nil
}

func checkPhase(ph *menderapi.Phase) error {
	if len(ph.Name) > maxName {
		return bad("the name of a phase is longer than %d bytes", maxName)
	}
	ways := 0
	for _, set := range []bool{ph.Percent != 0, ph.Count != 0, len(ph.Groups) > 0} {
		if set {
			ways++
		}
	}
	switch {
	case ways != 1:
		return bad("phase %q must have exactly one of percent, count and groups", ph.Name)
	case ph.Percent < 0 || ph.Percent > 100 || math.IsNaN(ph.Percent):
		return bad("phase %q: percent must be above 0 and at most 100", ph.Name)
	case ph.Count < 0:
		return bad("phase %q: count must be above 0", ph.Name)
	case len(ph.Groups) > MaxGroups:
		return bad("phase %q: more than %d groups", ph.Name, MaxGroups)
	case ph.SoakSeconds < 0 || ph.SoakSeconds > int64(maxSoak/time.Second):
		return bad("phase %q: soak must be between 0 and a year", ph.Name)
	}
	if err := checkThreshold(ph.FailureThreshold); err != nil {
		return fmt.Errorf("phase %q: %w", ph.Name, err)
	}
	return nil
}

func checkThreshold(t *float64) error {
	if t != nil && (*t < 0 || *t > 100 || math.IsNaN(*t)) {
		return bad("failure_threshold must be between 0 and 100 percent")
	}
	return nil
}

// Device is one target of a rollout.
type Device struct {
	ID    string
	Group string
}

// Assign gives each device the index of its phase. Devices keep their order: the first ones are in the first phases, so
// that an operator can foretell who the canaries are.
//
// Percent and count are cumulative over all devices; a group phase takes the devices of its groups that no earlier
// phase has. Phases that leave devices over are an error: whether the rest was meant is not for a server to guess. So is a
// group phase without any device: a canary that does not exist protects nobody. Where the policy has a filter, its devices
// may still come, and Step waits for the first one.
func Assign(p menderapi.Policy, devices []Device) ([]int, error) {
	phases := make([]int, len(devices))
	for i := range phases {
		phases[i] = -1
	}
	assigned := 0
	for n, ph := range p.Phases {
		if len(ph.Groups) > 0 {
			members := 0
			for i, d := range devices {
				if !slices.Contains(ph.Groups, d.Group) || d.Group == "" {
					continue
				}
				members++
				if phases[i] < 0 {
					phases[i] = n
					assigned++
				}
			}
			if members == 0 && len(p.Filter) == 0 {
				return nil, bad("phase %q: no device of this rollout is in %s", ph.Name, groupList(ph.Groups))
			}
			continue
		}
		upTo := share(ph, len(devices))
		for i := range devices {
			if assigned >= upTo {
				break
			}
			if phases[i] < 0 {
				phases[i] = n
				assigned++
			}
		}
	}
	if assigned < len(devices) {
		return nil, bad("its phases reach only %d of %d devices; end with a phase of 100 percent, or limit the target with groups",
			assigned, len(devices))
	}
	return phases, nil
}

// share is how many of n devices have the release at the end of a phase that is no group's.
func share(ph menderapi.Phase, n int) int {
	if ph.Count > 0 {
		return min(ph.Count, n)
	}
	// The small term keeps 10 % of 30 at 3 where floating point says 3.0000000000000004.
	return min(int(math.Ceil(ph.Percent/100*float64(n)-1e-9)), n)
}

// Join is the phase of a device that begins to meet the filter of a rollout that runs already: the first one that is not
// over and takes it, as Assign would have it. A device whose group's phase is over, and for which there is no other, counts
// in the current one. It is never put into a phase that is over, whose failures nobody counts any more. A device that no
// phase takes does not take part.
func Join(p menderapi.Policy, pos Position, tallies []Tally, group string) (phase int, ok bool) {
	current := max(pos.Phase, 0)
	all, upTo := 1, 0
	for i, t := range tallies {
		all += t.Devices
		if i < current {
			upTo += t.Devices
		}
	}
	mine := false
	for i, ph := range p.Phases {
		inGroup := group != "" && slices.Contains(ph.Groups, group)
		if i < current {
			mine = mine || inGroup
			continue
		}
		upTo += tallies[i].Devices
		if inGroup || len(ph.Groups) == 0 && upTo < share(ph, all) {
			return i, true
		}
	}
	return current, mine
}

func groupList(groups []string) string {
	if len(groups) == 1 {
		return fmt.Sprintf("group %q", groups[0])
	}
	return fmt.Sprintf("groups %q", groups)
}

// Tally counts the devices of one phase.
type Tally struct {
	Devices int
	Done    int // success or already installed
	Failed  int
	Other   int // final without an installation: no artifact for them, aborted, decommissioned
}

// Open is the number of devices that are not final.
func (t Tally) Open() int { return t.Devices - t.Done - t.Failed - t.Other }

// Position is where a rollout stands. The store keeps it with the deployment.
type Position struct {
	State     string    // menderapi.RolloutRunning, …
	Phase     int       // the last released one; -1 while the first one waits for approval
	Reason    string    // why it is paused or was aborted
	SoakUntil time.Time // zero unless the phase is complete and soaks
	// Forgiven is the number of the phase's failures that a person has seen and resumed after; they count no more.
	Forgiven int
	// Passed says that a person has resumed after the phase ended without a success.
	Passed bool
	// Open says that devices may still join, so the rollout does not end with its last device.
	Open bool
}

// Start is the position of a new rollout, to be followed by a Step.
func Start(p menderapi.Policy) Position {
	pos := Position{State: menderapi.RolloutRunning, Open: len(p.Filter) > 0}
	if p.Phases[0].Approval {
		pos.Phase = -1
	}
	return pos
}

// Ended says that the rollout will never change again.
func (p Position) Ended() bool {
	return p.State == menderapi.RolloutFinished || p.State == menderapi.RolloutAborted
}

// release goes on to the next phase.
func (p Position) release() Position {
	return Position{State: menderapi.RolloutRunning, Phase: p.Phase + 1, Reason: p.Reason, Open: p.Open}
}

// Step moves a rollout as far as its devices and the clock allow. tallies has one entry for each phase. Calling it again
// with the same arguments changes nothing.
func Step(p menderapi.Policy, pos Position, tallies []Tally, now time.Time) Position {
	for !pos.Ended() {
		if openDevices(tallies) == 0 && !pos.Open {
			// Also when paused: there is nothing left to hold back.
			return Position{State: menderapi.RolloutFinished, Phase: len(p.Phases) - 1, Reason: pos.Reason, Forgiven: pos.Forgiven}
		}
		if pos.State == menderapi.RolloutPaused {
			return pos
		}
		if pos.Phase >= 0 {
			next, over := stepPhase(p, pos, tallies, now)
			if pos = next; !over {
				return pos
			}
		}
		if p.Phases[pos.Phase+1].Approval {
			pos.State = menderapi.RolloutWaiting
			return pos
		}
		pos = pos.release()
	}
	return pos
}

func openDevices(tallies []Tally) int {
	open := 0
	for _, t := range tallies {
		open += t.Open()
	}
	return open
}

// stepPhase looks at the current phase and says whether it is over.
func stepPhase(p menderapi.Policy, pos Position, tallies []Tally, now time.Time) (_ Position, over bool) {
	ph, t := p.Phases[pos.Phase], tallies[pos.Phase]
	if reason := exceeded(p, ph, t, pos.Forgiven); reason != "" {
		pos.Reason = reason
		pos.State = menderapi.RolloutPaused
		if p.OnFailure == menderapi.OnFailureAbort {
			pos.State, pos.Open = menderapi.RolloutAborted, false
		}
		return pos, false
	}
	pos.State = menderapi.RolloutRunning
	switch {
	case t.Open() > 0 || pos.Phase == len(p.Phases)-1:
		return pos, false
	case t.Devices == 0 && pos.Open && !proven(tallies[:pos.Phase]):
		return pos, false // the first device is still to come
	case t.Devices > 0 && t.Done == 0 && !pos.Passed:
		pos.State = menderapi.RolloutPaused
		pos.Reason = fmt.Sprintf("phase %q ended without a device that has the release", ph.Name)
		return pos, false
	}
	if soak := time.Duration(ph.SoakSeconds) * time.Second; soak > 0 && t.Devices > 0 {
		if pos.SoakUntil.IsZero() {
			pos.SoakUntil = now.Add(soak)
		}
		if now.Before(pos.SoakUntil) {
			pos.State = menderapi.RolloutSoaking
			return pos, false
		}
	}
	return pos, true
}

// proven says that some device has the release.
func proven(tallies []Tally) bool {
	return slices.ContainsFunc(tallies, func(t Tally) bool { return t.Done > 0 })
}

// exceeded says why a phase has too many failures, or nothing.
func exceeded(p menderapi.Policy, ph menderapi.Phase, t Tally, forgiven int) string {
	limit := p.FailureThreshold
	if ph.FailureThreshold != nil {
		limit = ph.FailureThreshold
	}
	failed := t.Failed - forgiven
	// At the threshold is not above it: 69 of 1500 are 4.6 %, though 4.6*1500 is 6899.999999999999 in floating point.
	if limit == nil || failed <= 0 || float64(failed)*100 <= *limit*float64(t.Devices)+1e-6 {
		return ""
	}
	return fmt.Sprintf("%d of %d devices of phase %q failed; its failure threshold is %s %%",
		t.Failed, t.Devices, ph.Name, strconv.FormatFloat(*limit, 'g', -1, 64))
}

// Pause holds a rollout: devices that have begun go on, no other one starts.
func Pause(pos Position, reason string) Position {
	pos.State, pos.Reason = menderapi.RolloutPaused, reason
	return pos
}

// Resume goes on after a pause. The failures so far are forgiven; the threshold counts from here again. A phase that has
// ended without a success is passed: a person has looked.
func Resume(p menderapi.Policy, pos Position, tallies []Tally, now time.Time) Position {
	pos.State, pos.Reason = menderapi.RolloutRunning, ""
	if pos.Phase >= 0 {
		t := tallies[pos.Phase]
		pos.Forgiven = t.Failed
		pos.Passed = t.Devices > 0 && t.Open() == 0 && t.Done == 0
	}
	return Step(p, pos, tallies, now)
}

// NotWaitingError says that there is nothing to approve, or something else.
type NotWaitingError struct{ Reason string }

func (e *NotWaitingError) Error() string { return e.Reason }

// Approve releases the phase of that name, which must be the one that waits.
func Approve(p menderapi.Policy, pos Position, phase string, tallies []Tally, now time.Time) (Position, error) {
	if pos.State != menderapi.RolloutWaiting {
		return pos, &NotWaitingError{fmt.Sprintf("no phase waits for approval; the rollout is %s", pos.State)}
	}
	if next := p.Phases[pos.Phase+1].Name; next != phase {
		return pos, &NotWaitingError{fmt.Sprintf("phase %q waits for approval, not %q", next, clip(phase))}
	}
	pos = pos.release()
	pos.Reason = ""
	return Step(p, pos, tallies, now), nil
}

// Waits says what a rollout waits for; nil when it is over.
func Waits(p menderapi.Policy, pos Position, tallies []Tally, now time.Time) *menderapi.Wait {
	current := p.Phases[max(pos.Phase, 0)].Name
	switch pos.State {
	case menderapi.RolloutFinished, menderapi.RolloutAborted:
		return nil
	case menderapi.RolloutPaused:
		return &menderapi.Wait{For: menderapi.WaitResume}
	case menderapi.RolloutWaiting:
		return &menderapi.Wait{For: menderapi.WaitApproval, Phase: p.Phases[pos.Phase+1].Name}
	case menderapi.RolloutSoaking:
		return &menderapi.Wait{For: menderapi.WaitSoak, Phase: current, Until: until(pos.SoakUntil)}
	}
	window := WindowWait(p, now)
	switch {
	case window != nil:
		return window
	case openDevices(tallies[:pos.Phase+1]) > 0:
		return &menderapi.Wait{For: menderapi.WaitDevices, Phase: current}
	}
	return &menderapi.Wait{For: menderapi.WaitMatches, Phase: current}
}

// WindowWait says that devices wait for the window, and until when; nil when it is open.
func WindowWait(p menderapi.Policy, now time.Time) *menderapi.Wait {
	if WindowOpen(p, now) {
		return nil
	}
	return &menderapi.Wait{For: menderapi.WaitWindow, Until: until(windowOpens(p, now))}
}

// DeviceWaits says what a device waits for that is to begin, or to begin again. window is what WindowWait says.
func DeviceWaits(p menderapi.Policy, pos Position, phase int, notBefore time.Time, window *menderapi.Wait, now time.Time) *menderapi.Wait {
	switch {
	case pos.Ended():
		return nil
	case phase > pos.Phase:
		return &menderapi.Wait{For: menderapi.WaitPhase, Phase: p.Phases[phase].Name}
	case pos.State == menderapi.RolloutPaused:
		return &menderapi.Wait{For: menderapi.WaitResume}
	case now.Before(notBefore):
		return &menderapi.Wait{For: menderapi.WaitRetry, Until: until(notBefore)}
	case window != nil:
		return window
	}
	return &menderapi.Wait{For: menderapi.WaitPoll}
}

func until(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
