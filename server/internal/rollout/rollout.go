// Package rollout decides how a deployment spreads over its devices: which device belongs to which phase, when the next
// phase is released, and when failures stop it. It is arithmetic on plain values; the store calls it inside the
// transaction that changes a device's status, so that no device can be released by a decision that is out of date.
//
// The rules are those of menderapi.Policy: a phase is complete when every device in it is final; then it soaks, then
// the next phase is released. A phase whose failures pass its threshold pauses the rollout (or aborts it), and only a
// person resumes it. hawkBit's error threshold and NervesHub's failure_threshold are the models; no edition of Mender
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
	maxName    = 256
)

// PolicyError says what is wrong with a policy.
type PolicyError struct{ Reason string }

func (e *PolicyError) Error() string { return "invalid policy: " + e.Reason }

func bad(format string, args ...any) error { return &PolicyError{Reason: fmt.Sprintf(format, args...)} }

// Complete checks a policy and fills in what it leaves out: one phase for everything, names for phases, what happens on
// failure.
func Complete(p menderapi.Policy) (menderapi.Policy, error) {
	if len(p.Groups) > MaxGroups {
		return p, bad("more than %d groups", MaxGroups)
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
// phase has. A group phase without any device and phases that leave devices over are errors: a canary that does not
// exist protects nobody, and whether the rest was meant is not for a server to guess.
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
			if members == 0 {
				return nil, bad("phase %q: no device of this rollout is in %s", ph.Name, groupList(ph.Groups))
			}
			continue
		}
		upTo := min(ph.Count, len(devices))
		if ph.Count == 0 {
			// The small term keeps 10 % of 30 at 3 where floating point says 3.0000000000000004.
			upTo = min(int(math.Ceil(ph.Percent/100*float64(len(devices))-1e-9)), len(devices))
		}
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
	State     string // menderapi.RolloutRunning, …
	Phase     int
	Reason    string    // why it is paused or was aborted
	SoakUntil time.Time // zero unless the phase is complete and soaks
	// Forgiven is the number of the phase's failures that a person has seen and resumed after; they count no more.
	Forgiven int
}

// Ended says that the rollout will never change again.
func (p Position) Ended() bool {
	return p.State == menderapi.RolloutFinished || p.State == menderapi.RolloutAborted
}

// Step moves a rollout as far as its devices and the clock allow. tallies has one entry for each phase. Calling it again
// with the same arguments changes nothing.
func Step(p menderapi.Policy, pos Position, tallies []Tally, now time.Time) Position {
	for !pos.Ended() {
		open := 0
		for _, t := range tallies {
			open += t.Open()
		}
		if open == 0 {
			// Also when paused: there is nothing left to hold back.
			return Position{State: menderapi.RolloutFinished, Phase: len(p.Phases) - 1, Reason: pos.Reason, Forgiven: pos.Forgiven}
		}
		if pos.State == menderapi.RolloutPaused {
			return pos
		}
		ph, t := p.Phases[pos.Phase], tallies[pos.Phase]
		if reason := exceeded(p, ph, t, pos.Forgiven); reason != "" {
			pos.Reason = reason
			pos.State = menderapi.RolloutPaused
			if p.OnFailure == menderapi.OnFailureAbort {
				pos.State = menderapi.RolloutAborted
			}
			return pos
		}
		pos.State = menderapi.RolloutRunning
		if t.Open() > 0 || pos.Phase == len(p.Phases)-1 {
			return pos
		}
		if soak := time.Duration(ph.SoakSeconds) * time.Second; soak > 0 && t.Devices > 0 {
			if pos.SoakUntil.IsZero() {
				pos.SoakUntil = now.Add(soak)
			}
			if now.Before(pos.SoakUntil) {
				pos.State = menderapi.RolloutSoaking
				return pos
			}
		}
		pos.Phase++
		pos.SoakUntil, pos.Forgiven = time.Time{}, 0
	}
	return pos
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

// Resume goes on after a pause. The failures so far are forgiven; the threshold counts from here again.
func Resume(p menderapi.Policy, pos Position, tallies []Tally, now time.Time) Position {
	pos.State, pos.Reason = menderapi.RolloutRunning, ""
	pos.Forgiven = tallies[pos.Phase].Failed
	return Step(p, pos, tallies, now)
}
