package server_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/client"
)

// tell sets attributes of a device's inventory, as the device does.
func (d *device) tell(attributes string) {
	d.b.t.Helper()
	if status, body, _ := d.b.send("PUT", menderapi.PathDeviceAttributes, d.token, []byte(attributes)); status != 200 {
		d.b.t.Fatalf("inventory: %d %s", status, body)
	}
}

// authSet is the accepted key of a device.
func (b *bench) authSet(d *device) string {
	b.t.Helper()
	known, err := b.Device(b.t.Context(), d.id)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, s := range known.AuthSets {
		if s.Status == menderapi.AuthAccepted {
			return s.ID
		}
	}
	b.t.Fatalf("device %s has no accepted key", d.mac)
	return ""
}

func predicate(scope, name, kind, value string) menderapi.Predicate {
	return menderapi.Predicate{Scope: scope, Attribute: name, Type: kind, Value: json.RawMessage(value)}
}

func (b *bench) expectWait(id, what string) *menderapi.Wait {
	b.t.Helper()
	w := b.deployment(id).Rollout.Waits
	switch {
	case w == nil && what != "":
		b.t.Errorf("the rollout waits for nothing, want %s", what)
	case w != nil && w.For != what:
		b.t.Errorf("the rollout waits for %+v, want %q", w, what)
	}
	return w
}

// deviceWaits are what each device of a deployment waits for, in the order in which they came.
func (b *bench) deviceWaits(id string) string {
	b.t.Helper()
	list, err := b.DeploymentDevices(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	out := ""
	for _, d := range list {
		if d.Waits == nil {
			out += "- "
			continue
		}
		out += d.Waits.For + " "
	}
	return strings.TrimSpace(out)
}

// TestFilterJoinsAndLeaves: who takes part is found out whenever a device asks.
func TestFilterJoinsAndLeaves(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 5)
	b.push("r", "board", []byte("x"))
	battery := func(i int, level string) {
		devices[i].tell(`[{"name":"battery_level","value":` + level + `},{"name":"region","value":"eu"}]`)
	}
	for i, level := range []string{`80`, `"75"`, `10`, `90`} { // the last device tells nothing
		battery(i, level)
	}
	for i, group := range []string{"lab", "field", "field", "museum"} {
		if err := b.SetGroup(t.Context(), devices[i].id, group); err != nil {
			t.Fatal(err)
		}
	}
	n := menderapi.NewDeployment{Name: "os", ArtifactName: "r", Policy: &menderapi.Policy{
		ExcludeGroups: []string{"museum"},
		Filter: []menderapi.Predicate{
			predicate("inventory", "region", "$in", `["eu","us"]`), predicate("inventory", "battery_level", "$gte", `40`),
			predicate("identity", "mac", "$regex", `"^02:"`), predicate("system", "group", "$exists", `true`),
		},
		Phases: []menderapi.Phase{{Name: "canary", Count: 1}, {Name: "rest", Percent: 100}},
	}}
	id := b.deploy(n)
	if d := b.deployment(id); d.MaxDevices != 2 || !d.Rollout.Open {
		t.Errorf("at first: %d devices, %+v", d.MaxDevices, d.Rollout)
	}
	if got := offers(devices, id); got != "x----" {
		t.Errorf("offered to %s", got)
	}
	b.expectWait(id, "devices")
	if got := b.deviceWaits(id); got != "poll phase" {
		t.Errorf("the devices wait for %s", got)
	}
	devices[0].report(id, "success")
	battery(1, `5`) // leaves before it got the release
	battery(2, `50`)
	if got := offers(devices, id); got != "--x--" {
		t.Errorf("offered to %s after the second left and the third joined", got)
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 1, "pending": 1})
	devices[2].report(id, "downloading")
	battery(2, `1`)
	if got := offers(devices, id); got != "--x--" {
		t.Errorf("offered to %s; what has begun goes on", got)
	}
	devices[2].report(id, "success")
	b.expectWait(id, "matches")
	if d := b.deployment(id); d.Status != "inprogress" || d.Rollout.State != "running" {
		t.Errorf("without a device that asks: %s %s", d.Status, d.Rollout.State)
	}
	battery(1, `60`) // comes back
	if err := b.SetGroup(t.Context(), devices[3].id, "field"); err != nil {
		t.Fatal(err)
	}
	if got := offers(devices, id); got != "-x-x-" {
		t.Errorf("offered to %s after one came back and one changed its group", got)
	}
	if _, err := b.CreateDeployment(t.Context(), n); !errors.Is(err, client.ErrConflict) {
		t.Errorf("the same deployment again: %v", err)
	}
	for _, i := range []int{1, 3} {
		devices[i].report(id, "success")
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 4})

	// The next release of the name ends the joining, and with it the rollout.
	b.push("s", "board", []byte("y"))
	n.ArtifactName = "s"
	newer := b.deploy(n)
	if d := b.deployment(id); d.Status != "finished" || d.Rollout.Open {
		t.Errorf("the older rollout is %s, open %v", d.Status, d.Rollout.Open)
	}
	if err := b.SetGroup(t.Context(), devices[4].id, "field"); err != nil {
		t.Fatal(err)
	}
	battery(4, `99`)
	if n := devices[4].next("board", "old"); n != nil {
		t.Errorf("a device that joins late is offered %s before the canary", n.Artifact.ArtifactName)
	}
	if d := b.deployment(newer); d.MaxDevices != 4 {
		t.Errorf("%d devices in the newer rollout, want 4", d.MaxDevices)
	}
}

// TestFilterWithoutDevices: a rollout that nobody matches yet waits, with its canary first.
func TestFilterWithoutDevices(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 3)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true, Policy: &menderapi.Policy{
		Filter: []menderapi.Predicate{predicate("inventory", "ready", "$eq", `"yes"`)},
		Phases: []menderapi.Phase{{Name: "canary", Percent: 10}, {Name: "rest", Percent: 100}},
	}})
	b.expectWait(id, "matches")
	for _, d := range devices {
		d.tell(`[{"name":"ready","value":"yes"}]`)
	}
	if got := offers(devices, id); got != "x--" {
		t.Errorf("offered to %s, want the canary alone", got)
	}
	devices[0].report(id, "success")
	if got := offers(devices, id); got != "-xx" {
		t.Errorf("offered to %s after the canary", got)
	}
	if err := b.SetDeploymentStatus(t.Context(), id, "aborted"); err != nil {
		t.Fatal(err)
	}
	if d := b.deployment(id); d.Rollout.Open || d.Rollout.Waits != nil {
		t.Errorf("aborted: %+v", d.Rollout)
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 1, "aborted": 2})
}

// TestFilterAfterNewer: a device that got a newer release joins no older rollout.
func TestFilterAfterNewer(t *testing.T) {
	b := newBench(t, nil)
	d := fleet(b, 1)[0]
	b.push("1", "board", []byte("x"))
	b.push("2", "board", []byte("y"))
	older := b.deploy(menderapi.NewDeployment{Name: "older", ArtifactName: "1", AllDevices: true, Policy: &menderapi.Policy{
		Filter: []menderapi.Predicate{predicate("inventory", "ready", "$exists", `true`)},
	}})
	newer := b.deploy(menderapi.NewDeployment{Name: "newer", ArtifactName: "2", AllDevices: true})
	if n := d.next("board", "old"); n == nil || n.ID != newer {
		t.Fatalf("offered %+v", n)
	}
	d.report(newer, "success")
	d.tell(`[{"name":"ready","value":"yes"}]`)
	if n := d.next("board", "2"); n != nil {
		t.Errorf("sent back to %s", n.Artifact.ArtifactName)
	}
	b.expectStats(older, map[menderapi.Status]int{})
}

func TestExpires(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 4)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true, Retries: 1, Policy: &menderapi.Policy{
		Filter: []menderapi.Predicate{predicate("identity", "mac", "$exists", `true`)}, ExpiresSeconds: 3600,
	}})
	if e := b.deployment(id).Rollout.Expires; e == nil || !e.Equal(b.clock.now().Add(time.Hour)) {
		t.Errorf("expires %v", e)
	}
	offers(devices, id)
	devices[0].report(id, "success")
	devices[1].report(id, "downloading")
	devices[2].report(id, "downloading", "failure") // another attempt is due
	b.clock.add(time.Hour - time.Second)
	b.run()
	b.expectStats(id, map[menderapi.Status]int{"success": 1, "downloading": 1, "pending": 2})
	b.clock.add(time.Second)
	b.run()
	b.expectStats(id, map[menderapi.Status]int{"success": 1, "downloading": 1, "failure": 1, "aborted": 1})
	d := b.deployment(id)
	if !d.Rollout.Expired || d.Rollout.Open || d.Status != "inprogress" {
		t.Errorf("expired: %s %+v", d.Status, d.Rollout)
	}
	late := newDevice(b, "02:00:00:00:00:99").accepted()
	if n := late.next("board", "old"); n != nil {
		t.Error("a device joined an expired rollout")
	}
	if got := offers(devices, id); got != "-x--" {
		t.Errorf("offered to %s, want the one that has begun", got)
	}
	if got := devices[3].report(id, "downloading"); got != 409 {
		t.Errorf("a report of a device that never began: %d", got)
	}
	devices[1].report(id, "failure") // no time for another attempt
	b.expectStats(id, map[menderapi.Status]int{"success": 1, "failure": 2, "aborted": 1})
	if d := b.deployment(id); d.Status != "finished" {
		t.Errorf("at the end: %s", d.Status)
	}
	list, err := b.DeploymentDevices(t.Context(), id)
	if err != nil || !strings.Contains(list[3].SubState, "expired") {
		t.Errorf("devices: %+v %v", list, err)
	}
}

// TestWindowIsKept: outside of its window a rollout gives devices nothing new. The clock of the tests starts at noon, UTC.
func TestWindowIsKept(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 2)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true, Policy: &menderapi.Policy{
		Window: &menderapi.Window{From: "22:00", To: "23:00", Timezone: "Europe/Berlin"},
	}})
	if got := offers(devices, id); got != "--" {
		t.Errorf("at noon it was offered to %s", got)
	}
	w := b.expectWait(id, "window")
	if w == nil || w.Until == nil || w.Until.Format(time.RFC3339) != "2026-03-01T21:00:00Z" {
		t.Errorf("it opens %+v", w)
	}
	if got := b.deviceWaits(id); got != "window window" {
		t.Errorf("the devices wait for %s", got)
	}
	b.clock.add(9*time.Hour + time.Minute)
	b.expectWait(id, "devices")
	if got := offers(devices[:1], id); got != "x" {
		t.Errorf("at night it was offered to %s", got)
	}
	devices[0].report(id, "downloading")
	b.clock.add(time.Hour)
	if got := offers(devices, id); got != "x-" {
		t.Errorf("after the window it was offered to %s, want the device that has begun", got)
	}
	b.clock.add(23 * time.Hour)
	for _, d := range devices {
		d.authenticate() // tokens last a day
	}
	if got := offers(devices, id); got != "xx" {
		t.Errorf("the next night it was offered to %s", got)
	}
}

func TestApproval(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 3)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true, Policy: &menderapi.Policy{
		Phases: []menderapi.Phase{{Name: "canary", Count: 1, SoakSeconds: 60, Approval: true}, {Name: "rest", Percent: 100, Approval: true}},
	}})
	if got := offers(devices, id); got != "---" {
		t.Errorf("before any approval it was offered to %s", got)
	}
	w := b.expectWait(id, "approval")
	if r := b.deployment(id).Rollout; r.State != "waiting" || r.Phase != 0 || r.Phases[0].Started || w == nil || w.Phase != "canary" {
		t.Errorf("at first: %+v, waits %+v", r, w)
	}
	if err := b.ApprovePhase(t.Context(), id, "rest"); !errors.Is(err, client.ErrConflict) || !strings.Contains(err.Error(), `phase "canary" waits`) {
		t.Errorf("the wrong phase: %v", err)
	}
	if err := b.ApprovePhase(t.Context(), id, "canary"); err != nil {
		t.Fatal(err)
	}
	if err := b.ApprovePhase(t.Context(), id, "canary"); !errors.Is(err, client.ErrConflict) {
		t.Errorf("twice: %v", err)
	}
	if got := offers(devices, id); got != "x--" {
		t.Errorf("after the approval it was offered to %s", got)
	}
	devices[0].report(id, "success")
	b.expectWait(id, "soak")
	b.clock.add(time.Minute)
	b.run()
	b.expectWait(id, "approval")
	if got := b.deviceWaits(id); got != "- phase phase" {
		t.Errorf("the devices wait for %s", got)
	}
	if got := offers(devices, id); got != "---" {
		t.Errorf("after the soak it was offered to %s", got)
	}
	for _, status := range []string{"paused", "running"} { // resuming is no approval
		if err := b.SetDeploymentStatus(t.Context(), id, status); err != nil {
			t.Fatal(err)
		}
		if got := offers(devices, id); got != "---" {
			t.Errorf("%s: it was offered to %s", status, got)
		}
	}
	if err := b.ApprovePhase(t.Context(), id, "rest"); err != nil {
		t.Fatal(err)
	}
	if got := offers(devices, id); got != "-xx" {
		t.Errorf("after the second approval it was offered to %s", got)
	}
	for _, d := range devices[1:] {
		d.report(id, "success")
	}
	b.expectWait(id, "")
	if err := b.ApprovePhase(t.Context(), id, "rest"); !errors.Is(err, client.ErrUnusable) {
		t.Errorf("approving what is finished: %v", err)
	}
}

// TestPhaseWithoutSuccess: a phase in which no device took the release does not release the next one by itself.
func TestPhaseWithoutSuccess(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 3)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true, Policy: &menderapi.Policy{
		Phases: []menderapi.Phase{{Name: "canary", Count: 1}, {Name: "rest", Percent: 100}},
	}})
	if n := devices[0].next("toaster", "old"); n != nil { // noartifact
		t.Fatal("offered to another type")
	}
	if got := offers(devices[1:], id); got != "--" {
		t.Errorf("offered to %s though the canary has nothing", got)
	}
	if r := b.deployment(id).Rollout; r.State != "paused" || !strings.Contains(r.PauseReason, `phase "canary" ended without a device`) {
		t.Errorf("%+v", r)
	}
	if err := b.SetDeploymentStatus(t.Context(), id, "running"); err != nil {
		t.Fatal(err)
	}
	if got := offers(devices[1:], id); got != "xx" {
		t.Errorf("after a person resumed it was offered to %s", got)
	}
}

// TestRejectedDevice: a device that may no longer ask holds up no rollout.
func TestRejectedDevice(t *testing.T) {
	for name, end := range map[string]func(*bench, *device) error{
		"rejected": func(b *bench, d *device) error {
			return b.SetAuthStatus(b.t.Context(), d.id, b.authSet(d), "rejected")
		},
		"its key dismissed, a rejected one left": func(b *bench, d *device) error {
			first := b.authSet(d)
			again := newDevice(b, d.mac) // the same identity with another key
			if got := again.authenticate(); got != 401 {
				return fmt.Errorf("a second key: %d", got)
			}
			sets, err := b.Device(b.t.Context(), d.id)
			if err != nil {
				return err
			}
			for _, s := range sets.AuthSets {
				if s.ID != first {
					if err := b.SetAuthStatus(b.t.Context(), d.id, s.ID, "rejected"); err != nil {
						return err
					}
				}
			}
			status, body, _ := b.send("DELETE", "/api/management/v2/devauth/devices/"+d.id+"/auth/"+first, b.token, nil)
			if status != 204 {
				return fmt.Errorf("dismissing the key: %d %s", status, body)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			devices := fleet(b, 2)
			b.push("r", "board", []byte("x"))
			id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true})
			offers(devices, id)
			devices[0].report(id, "success")
			devices[1].report(id, "downloading")
			if err := end(b, devices[1]); err != nil {
				t.Fatal(err)
			}
			b.expectStats(id, map[menderapi.Status]int{"success": 1, "aborted": 1})
			if d := b.deployment(id); d.Status != "finished" {
				t.Errorf("the rollout is %s", d.Status)
			}
		})
	}
}

func TestPolicyRefused(t *testing.T) {
	b := newBench(t, nil)
	fleet(b, 1)
	b.push("r", "board", []byte("x"))
	for name, c := range map[string]struct{ policy, text string }{
		"scope":          {`{"filter":[{"scope":"tags","attribute":"a","type":"$eq","value":1}]}`, "scope"},
		"pattern":        {`{"filter":[{"scope":"inventory","attribute":"a","type":"$regex","value":"("}]}`, "RE2"},
		"window":         {`{"window":{"from":"1:00","to":"2:00"}}`, "22:30"},
		"zone":           {`{"window":{"days":["mon"],"timezone":"Mars/Olympus"}}`, "IANA"},
		"expires":        {`{"expires_seconds":-5}`, "expires"},
		"all excluded":   {`{"groups":["lab"],"exclude_groups":["lab"]}`, "both in groups and"},
		"nobody outside": {`{"groups":["lab"],"exclude_groups":["x"]}`, "no accepted device is in group"},
	} {
		status, body, _ := b.send("POST", menderapi.PathDeployments, b.token, []byte(`{"name":"n","artifact_name":"r","all_devices":true,"policy":`+c.policy+`}`))
		if status != 400 || !strings.Contains(body, c.text) {
			t.Errorf("%s: %d %s, want 400 with %q", name, status, body, c.text)
		}
	}
	status, body, _ := b.send("POST", menderapi.PathDeployments, b.token, []byte(`{"name":"n","artifact_name":"r","devices":["x"],"policy":{"filter":[{"scope":"inventory","attribute":"a","type":"$eq","value":1}]}}`))
	if status != 400 || !strings.Contains(body, "excludes") {
		t.Errorf("devices and a filter: %d %s", status, body)
	}
}
