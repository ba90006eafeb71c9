package agent

import "fmt"

// State of an update. The journal holds it; the effect that belongs to a state is carried out after the state has been
// recorded, and is carried out again when the agent starts and finds the state.
type State string

// The states. Which slot runs and what the boot loader will do next is not part of the state: it is looked at.
const (
	Idle        State = "idle"
	Downloading State = "downloading"  // the payload goes to the inactive slot
	Installing  State = "installing"   // the slot is verified; the boot loader is about to be switched
	Rebooting   State = "rebooting"    // the boot loader is switched; the new system has not been seen yet
	Verifying   State = "verifying"    // the new system runs, on trial
	Committing  State = "committing"   // the new system is good and is being made permanent
	RollingBack State = "rolling-back" // the old system is being made permanent again
	Reporting   State = "reporting"    // the outcome is known; the server is not told yet
)

// Event is what came of a state's effect.
type Event string

// The events.
const (
	Offered          Event = "offered"           // there is a deployment
	AlreadyInstalled Event = "already-installed" // and its artifact is what runs
	Verified         Event = "verified"          // the slot holds the payload, proven by reading it back
	SlotChanged      Event = "slot-changed"      // the slot no longer holds what was verified
	Switched         Event = "switched"          // the boot loader will try the new slot
	NewSystem        Event = "new-system"        // the new slot runs
	Healthy          Event = "healthy"           // and has reached the server
	Committed        Event = "committed"
	FellBack         Event = "fell-back"   // the boot loader has returned to the old slot by itself
	Interrupted      Event = "interrupted" // the same, but the new system had come up before: worth another try
	Failed           Event = "failed"
	Aborted          Event = "aborted" // by the server
	RolledBack       Event = "rolled-back"
	Stuck            Event = "stuck" // no way back to the old slot was found
	Reported         Event = "reported"
)

// transitions is the whole state machine.
var transitions = map[State]map[Event]State{
	Idle: {
		Offered:          Downloading,
		AlreadyInstalled: Reporting,
	},
	Downloading: { // nothing is switched: failing costs nothing
		Verified: Installing,
		Failed:   Reporting,
		Aborted:  Reporting,
	},
	Installing: {
		Switched:    Rebooting,
		NewSystem:   Verifying, // power failed between the switch and its record
		SlotChanged: Downloading,
		Failed:      RollingBack, // the switch may or may not have been made
		Aborted:     RollingBack,
	},
	Rebooting: {
		NewSystem: Verifying,
		FellBack:  Reporting,
		Failed:    RollingBack,
		Aborted:   RollingBack,
	},
	Verifying: {
		Healthy:     Committing,
		Interrupted: Installing,
		FellBack:    Reporting,
		Failed:      RollingBack,
		Aborted:     RollingBack,
	},
	Committing: {
		Committed:   Reporting,
		Interrupted: Installing,
		FellBack:    Reporting,
		Failed:      RollingBack,
	},
	RollingBack: {
		RolledBack: Reporting,
		Stuck:      Reporting,
	},
	Reporting: {
		Reported: Idle,
	},
}

// next is the state that follows.
func next(s State, e Event) (State, error) {
	to, ok := transitions[s][e]
	if !ok {
		return s, fmt.Errorf("event %q has no place in state %q", e, s)
	}
	return to, nil
}

// needsTarget says that the state means nothing without a slot.
func (s State) needsTarget() bool {
	switch s {
	case Installing, Rebooting, Verifying, Committing, RollingBack:
		return true
	}
	return false
}
