package server_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server"
	"github.com/twinkeel/twinkeel/server/client"
)

func fleet(b *bench, n int) []*device {
	b.t.Helper()
	devices := make([]*device, n)
	for i := range devices {
		devices[i] = newDevice(b, fmt.Sprintf("02:00:00:00:00:%02d", i)).accepted()
		b.clock.add(time.Second)
	}
	return devices
}

// offers says which of the devices are offered the deployment now.
func offers(devices []*device, id string) string {
	out := ""
	for _, d := range devices {
		if n := d.next("board", "old"); n != nil && n.ID == id {
			out += "x"
			continue
		}
		out += "-"
	}
	return out
}

func (b *bench) run() {
	b.t.Helper()
	if err := b.srv.TickForTest(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// TestCanaryPauses: three devices, one canary; its failure pauses the rollout, and resuming it continues with the rest.
func TestCanaryPauses(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 3)
	b.push("1.2.0", "board", []byte("broken"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "1.2.0", AllDevices: true, Policy: &menderapi.Policy{
		Phases:           []menderapi.Phase{{Name: "canary", Count: 1}, {Name: "rest", Percent: 100}},
		FailureThreshold: ptr(0.0),
	}})
	if got := offers(devices, id); got != "x--" {
		t.Fatalf("offered to %s, want the canary alone", got)
	}
	canary := devices[0]
	// As recorded from a client whose update failed: failure twice, then the log.
	canary.report(id, "downloading", "installing", "rebooting", "failure", "failure")
	log := `{"messages":[{"timestamp":"2026-03-01T12:00:00Z","level":"error","message":"the new system did not come up"}]}`
	if status, body, _ := b.send("PUT", fmt.Sprintf(menderapi.PathDeploymentLog, id), canary.token, []byte(log)); status != 204 {
		t.Errorf("log after the final status: %d %s", status, body)
	}
	dep := b.deployment(id)
	if r := dep.Rollout; r.State != "paused" || r.Phase != 0 || !strings.Contains(r.PauseReason, `1 of 1 devices of phase "canary" failed`) {
		t.Errorf("after the canary's failure: %+v", r)
	}
	if dep.Status != "inprogress" || dep.Finished != nil {
		t.Errorf("a paused deployment has status %s", dep.Status)
	}
	b.clock.add(time.Hour)
	b.run()
	if got := offers(devices, id); got != "---" {
		t.Errorf("a paused rollout was offered to %s", got)
	}
	b.expectStats(id, map[menderapi.Status]int{"pending": 2, "failure": 1})
	text, err := b.DeviceLog(t.Context(), id, canary.id)
	if err != nil || text != "2026-03-01T12:00:00Z error: the new system did not come up\n" {
		t.Errorf("log: %q %v", text, err)
	}
	if _, err := b.DeviceLog(t.Context(), id, devices[1].id); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("log of a device that sent none: %v", err)
	}

	if err := b.SetDeploymentStatus(t.Context(), id, "running"); err != nil {
		t.Fatal(err)
	}
	if got := offers(devices, id); got != "-xx" {
		t.Errorf("after resuming it was offered to %s", got)
	}
	for _, d := range devices[1:] {
		d.report(id, "downloading", "success")
	}
	dep = b.deployment(id)
	if dep.Status != "finished" || dep.Rollout.State != "finished" {
		t.Errorf("at the end: %s %+v", dep.Status, dep.Rollout)
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 2, "failure": 1})
	list, err := b.DeploymentDevices(t.Context(), id)
	if err != nil || len(list) != 3 || list[0].ID != canary.id || list[0].Phase != "canary" || !list[0].Log || list[1].Phase != "rest" || list[1].Finished == nil {
		t.Errorf("devices: %+v %v", list, err)
	}
	if err := b.SetDeploymentStatus(t.Context(), id, "aborted"); !errors.Is(err, client.ErrUnusable) {
		t.Errorf("aborting a finished deployment: %v", err)
	}
}

func TestPhasesSoak(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 10)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true, Policy: &menderapi.Policy{
		Phases: []menderapi.Phase{{Count: 1, SoakSeconds: 3600}, {Percent: 30, SoakSeconds: 60}, {Percent: 100}},
	}})
	step := func(want string) {
		t.Helper()
		if got := offers(devices, id); got != want {
			t.Errorf("offered to %s, want %s", got, want)
		}
	}
	step("x---------")
	devices[0].report(id, "success")
	if r := b.deployment(id).Rollout; r.State != "soaking" || r.SoakUntil == nil || !r.SoakUntil.Equal(b.clock.now().Add(time.Hour)) {
		t.Errorf("after the first phase: %+v", r)
	}
	b.clock.add(time.Hour - time.Second)
	b.run()
	step("----------")
	if err := b.SetDeploymentStatus(t.Context(), id, "paused"); err != nil {
		t.Fatal(err)
	}
	b.clock.add(time.Second)
	b.run()
	step("----------")
	if err := b.SetDeploymentStatus(t.Context(), id, "running"); err != nil {
		t.Fatal(err)
	}
	step("-xx-------")
	devices[1].report(id, "success")
	devices[2].report(id, "failure") // no threshold: it goes on
	b.clock.add(time.Minute)
	b.run()
	step("---xxxxxxx")
	r := b.deployment(id).Rollout
	if r.Phase != 2 || r.Phases[1].Devices != 2 || r.Phases[1].Done != 1 || r.Phases[1].Failed != 1 || !r.Phases[2].Started {
		t.Errorf("progress: %+v", r)
	}
}

// TestPausedDevicesGoOn: who has begun is neither stopped nor forgotten when a rollout pauses.
func TestPausedDevicesGoOn(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 2)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true})
	if got := offers(devices, id); got != "xx" {
		t.Fatal(got)
	}
	devices[0].report(id, "downloading")
	if err := b.SetDeploymentStatus(t.Context(), id, "paused"); err != nil {
		t.Fatal(err)
	}
	if got := offers(devices, id); got != "x-" {
		t.Errorf("while paused it was offered to %s; want only the device that has begun", got)
	}
	if got := devices[0].report(id, "installing", "success"); got != 204 {
		t.Errorf("report while paused: %d", got)
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 1, "pending": 1})
}

func TestAbort(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 3)
	b.push("r", "board", []byte("x"))
	n := menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true}
	id := b.deploy(n)
	if _, err := b.CreateDeployment(t.Context(), n); !errors.Is(err, client.ErrConflict) {
		t.Errorf("the same deployment again: %v", err)
	}
	offers(devices[:2], id)
	devices[0].report(id, "success")
	devices[1].report(id, "installing")
	if got := devices[2].report(id, "downloading"); got != 404 {
		t.Errorf("report of a device that was never offered it: %d, want 404", got)
	}
	if status, _, _ := b.send("PUT", fmt.Sprintf(menderapi.PathDeploymentAbort, id), b.token, []byte(`{"status":"finished"}`)); status != 400 {
		t.Errorf("a status that isn't one: %d", status)
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 1, "installing": 1, "pending": 1}) // Mender aborts in spite of its 400
	if err := b.SetDeploymentStatus(t.Context(), id, "aborted"); err != nil {
		t.Fatal(err)
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 1, "aborted": 2})
	if got := devices[1].report(id, "success"); got != 409 {
		t.Errorf("report after the abort: %d, want 409", got)
	}
	if got := devices[0].report(id, "success"); got != 204 {
		t.Errorf("repeated success after the abort: %d, want 204", got)
	}
	log := `{"messages":[{"timestamp":"2026-03-01T12:00:00.123Z","level":"info","message":"x"}]}`
	if status, _, _ := b.send("PUT", fmt.Sprintf(menderapi.PathDeploymentLog, id), devices[1].token, []byte(log)); status != 204 {
		t.Errorf("log after the abort: %d", status)
	}
	if got := offers(devices, id); got != "---" {
		t.Errorf("offered after the abort to %s", got)
	}
	if again := b.deploy(n); again == id {
		t.Error("the same id twice")
	}
}

func TestAbortPolicy(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 4)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true, Policy: &menderapi.Policy{
		FailureThreshold: ptr(25.0), OnFailure: "abort",
	}})
	offers(devices, id)
	devices[0].report(id, "failure")
	if s := b.deployment(id).Rollout.State; s != "running" {
		t.Errorf("at the threshold, not above it: %s", s)
	}
	devices[1].report(id, "failure")
	if d := b.deployment(id); d.Rollout.State != "aborted" || d.Status != "finished" {
		t.Errorf("above the threshold: %s %s", d.Rollout.State, d.Status)
	}
	b.expectStats(id, map[menderapi.Status]int{"failure": 2, "aborted": 2})
}

// TestSettledWithoutInstalling: what a poll finds out by itself.
func TestSettledWithoutInstalling(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 3)
	b.push("r", "board", make([]byte, 5000))
	small := b.push("r", "board-small", nil)
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true})
	if n := devices[0].next("board", "r"); n != nil {
		t.Errorf("a device that has the release was offered it")
	}
	if n := devices[1].next("toaster", "old"); n != nil {
		t.Errorf("a device of another type was offered the release")
	}
	if n := devices[2].next("board-small", "old"); n == nil || n.Artifact.ID != small {
		t.Errorf("offer for the other board: %+v", n)
	}
	b.expectStats(id, map[menderapi.Status]int{"already-installed": 1, "noartifact": 1, "pending": 1})
	devices[2].report(id, "downloading", "installing", "rebooting")
	// It has lost its state: the same artifact again.
	if n := devices[2].next("board-small", "old"); n == nil || n.Artifact.ID != small {
		t.Errorf("a device that lost its state: %+v", n)
	}
	// Its report of the success was lost.
	if n := devices[2].next("board-small", "r"); n != nil {
		t.Errorf("a device that runs the release was offered it again")
	}
	b.expectStats(id, map[menderapi.Status]int{"already-installed": 1, "noartifact": 1, "success": 1})

	forced := b.deploy(menderapi.NewDeployment{Name: "force", ArtifactName: "r", Devices: []string{devices[0].id}, ForceInstallation: true})
	if n := devices[0].next("board", "r"); n == nil || n.ID != forced {
		t.Errorf("forced installation: %+v", n)
	}
}

// TestSmallestArtifact: of the artifacts of a release that fit a device, the smallest is taken.
func TestSmallestArtifact(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 4)
	full, err := b.UploadArtifact(t.Context(), artifact(t, "r", "board", make([]byte, 50_000), func(a *artifactfmt.Artifact) {
		a.Compression = artifactfmt.CompressionNone
	}), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	delta, err := b.UploadArtifact(t.Context(), artifact(t, "r", "board", nil, func(a *artifactfmt.Artifact) {
		a.DependsNames, a.Depends = []string{"old", "older"}, map[string]string{"rootfs-image.checksum": "abc"}
	}), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true})
	for i, c := range []struct{ path, body, want string }{
		{menderapi.PathNextV2, `{"device_provides":{"device_type":"board","artifact_name":"old","rootfs-image.checksum":"abc"}}`, delta},
		{menderapi.PathNextV2, `{"device_provides":{"device_type":"board","artifact_name":"old","rootfs-image.checksum":"xyz"}}`, full},
		{menderapi.PathNextV2, `{"device_provides":{"device_type":"board","artifact_name":"ancient","rootfs-image.checksum":"abc"}}`, full},
		{menderapi.PathNextV1, `{"device_type":"board","artifact_name":"old"}`, delta}, // can't tell; the device checks
	} {
		_, answer, _ := b.send("POST", c.path, devices[i].token, []byte(c.body))
		var n menderapi.Next
		if err := json.Unmarshal([]byte(answer), &n); err != nil || n.Artifact.ID != c.want {
			t.Errorf("%s was offered %s, want %s", c.body, answer, c.want)
		}
	}
	// An offer stays the one it was, also when the device has changed half-way.
	devices[0].report(id, "installing")
	if n := devices[0].next("board", "old"); n == nil || n.Artifact.ID != delta {
		t.Errorf("the offer changed: %+v", n)
	}
}

func TestRetries(t *testing.T) {
	b := newBench(t, func(c *server.Config) { c.Limits.RetryAfter = time.Minute })
	d := fleet(b, 1)[0]
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true, Retries: 1, Policy: &menderapi.Policy{FailureThreshold: ptr(0.0)}})
	offers([]*device{d}, id)
	if got := d.report(id, "downloading", "failure", "failure", "failure"); got != 204 {
		t.Errorf("report: %d", got)
	}
	b.expectStats(id, map[menderapi.Status]int{"pending": 1})
	if got := offers([]*device{d}, id); got != "-" {
		t.Error("offered again before the pause was over")
	}
	b.clock.add(time.Minute)
	if got := offers([]*device{d}, id); got != "x" {
		t.Error("not offered again after the pause")
	}
	list, err := b.DeploymentDevices(t.Context(), id)
	if err != nil || list[0].Attempt != 2 {
		t.Errorf("attempt: %+v %v", list, err)
	}
	d.report(id, "downloading", "failure")
	b.expectStats(id, map[menderapi.Status]int{"failure": 1})
}

func TestGroups(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 4)
	b.push("r", "board", []byte("x"))
	for i, g := range []string{"lab", "field", "field"} {
		if err := b.SetGroup(t.Context(), devices[i].id, g); err != nil {
			t.Fatal(err)
		}
	}
	if g, err := b.Groups(t.Context()); err != nil || fmt.Sprint(g) != "[field lab]" {
		t.Errorf("groups: %v %v", g, err)
	}
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", Policy: &menderapi.Policy{
		Groups: []string{"lab", "field"}, Phases: []menderapi.Phase{{Groups: []string{"field"}}, {Percent: 100}},
	}})
	if got := offers(devices, id); got != "-xx-" {
		t.Errorf("offered to %s", got)
	}
	for name, c := range map[string]struct {
		body   string
		status int
		text   string
	}{
		"no devices":         {`{"name":"n","artifact_name":"r"}`, 400, "has no devices"},
		"both":               {`{"name":"n","artifact_name":"r","all_devices":true,"devices":["x"]}`, 400, "excludes"},
		"no such artifact":   {`{"name":"n","artifact_name":"zz","all_devices":true}`, 422, "no artifact is named"},
		"unknown device":     {`{"name":"n","artifact_name":"r","devices":["x"]}`, 400, "not known or not accepted"},
		"no name":            {`{"artifact_name":"r","all_devices":true}`, 400, "name must have"},
		"empty group":        {`{"name":"n","artifact_name":"r","policy":{"groups":["attic"]}}`, 400, "no accepted device is in group"},
		"phases leave some":  {`{"name":"n","artifact_name":"r","all_devices":true,"policy":{"phases":[{"count":1}]}}`, 400, "reach only 1 of 4"},
		"phase of nobody":    {`{"name":"n","artifact_name":"r","all_devices":true,"policy":{"phases":[{"groups":["attic"]},{"percent":100}]}}`, 400, "no device of this rollout is in group"},
		"phase of two kinds": {`{"name":"n","artifact_name":"r","all_devices":true,"policy":{"phases":[{"count":1,"percent":5}]}}`, 400, "exactly one of"},
		"bad threshold":      {`{"name":"n","artifact_name":"r","all_devices":true,"policy":{"failure_threshold":101}}`, 400, "failure_threshold"},
		"bad on_failure":     {`{"name":"n","artifact_name":"r","all_devices":true,"policy":{"on_failure":"panic"}}`, 400, "on_failure"},
		"negative retries":   {`{"name":"n","artifact_name":"r","all_devices":true,"retries":-1}`, 400, "retries"},
		"not JSON":           {`{`, 400, "not the JSON"},
		"wrong type":         {`{"name":7}`, 400, "must not be a number"},
		"huge":               {`{"name":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "larger than"},
		"mender's action":    {`{"name":"a","artifact_name":"r","all_devices":true,"retries":1,"filter_id":"x"}`, 201, ""},
	} {
		status, body, _ := b.send("POST", menderapi.PathDeployments, b.token, []byte(c.body))
		if status != c.status || !strings.Contains(body, c.text) || status == 201 && body != "" {
			t.Errorf("%s: %d %s, want %d with %q", name, status, body, c.status, c.text)
		}
	}
	status, body, h := b.send("POST", menderapi.PathDeployments+"/group/lab", b.token, []byte(`{"name":"g","artifact_name":"r"}`))
	if status != 201 || body != "" || h.Get("Location") == "" {
		t.Errorf("deployment to a group: %d %s", status, body)
	}
	if status, _, _ := b.send("DELETE", "/api/management/v1/inventory/devices/"+devices[0].id+"/group/field", b.token, nil); status != 404 {
		t.Errorf("leaving a group that it is not in: %d", status)
	}
	if err := b.SetGroup(t.Context(), devices[0].id, ""); err != nil {
		t.Error(err)
	}
	if status, body, _ := b.send("GET", "/api/management/v1/inventory/groups/lab/devices", b.token, nil); status != 404 {
		t.Errorf("an empty group: %d %s", status, body)
	}
	if status, body, _ := b.send("PATCH", "/api/management/v1/inventory/groups/new/devices", b.token, []byte(`["`+devices[0].id+`","x"]`)); status != 200 || body != `{"updated_count":1,"matched_count":1}` {
		t.Errorf("patching a group: %d %s", status, body)
	}
}

// TestNewerComesFirst: a device that has a newer release is not sent back by an older rollout that reaches it later.
func TestNewerComesFirst(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 2)
	b.push("1", "board", []byte("x"))
	b.push("2", "board", []byte("x"))
	old := b.deploy(menderapi.NewDeployment{Name: "old", ArtifactName: "1", AllDevices: true, Policy: &menderapi.Policy{
		Phases: []menderapi.Phase{{Count: 1}, {Percent: 100}},
	}})
	newer := b.deploy(menderapi.NewDeployment{Name: "new", ArtifactName: "2", AllDevices: true})
	if got := offers(devices, old); got != "x-" {
		t.Errorf("the older one goes first where it is released: %s", got)
	}
	devices[1].report(newer, "downloading", "success")
	devices[0].report(old, "success")
	b.expectStats(old, map[menderapi.Status]int{"success": 1, "aborted": 1})
	if got := b.deployment(old).Status; got != "finished" {
		t.Errorf("the older deployment is %s", got)
	}
}

func TestDecommissioned(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 2)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true})
	offers(devices, id)
	devices[0].report(id, "success")
	if err := b.DeleteDevice(t.Context(), devices[1].id); err != nil {
		t.Fatal(err)
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 1, "decommissioned": 1})
	if got := b.deployment(id).Status; got != "finished" {
		t.Errorf("the deployment is %s", got)
	}
}

// TestParallelReports: many devices at once; the sum is always the number of targets.
func TestParallelReports(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 12)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true, Policy: &menderapi.Policy{
		Phases: []menderapi.Phase{{Count: 2}, {Percent: 50}, {Percent: 100}},
	}})
	for range 3 {
		var wait sync.WaitGroup
		for i, d := range devices {
			wait.Go(func() {
				if n := d.next("board", "old"); n != nil {
					last := menderapi.StatusSuccess
					if i%3 == 0 {
						last = menderapi.StatusFailure
					}
					d.report(id, "downloading", "installing", "rebooting", "installing", last)
				}
			})
		}
		wait.Wait()
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 8, "failure": 4})
}

func TestForeignAndUnknown(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 2)
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", Devices: []string{devices[0].id}})
	offers(devices, id)
	path := fmt.Sprintf(menderapi.PathDeploymentStatus, id)
	for name, c := range map[string]struct {
		method, path, token, body string
		want                      int
	}{
		"another device's deployment": {"PUT", path, devices[1].token, `{"status":"success"}`, 404},
		"its log":                     {"PUT", fmt.Sprintf(menderapi.PathDeploymentLog, id), devices[1].token, `{"messages":[{"timestamp":"2026-03-01T12:00:00Z","level":"a","message":"b"}]}`, 404},
		"unknown deployment":          {"PUT", fmt.Sprintf(menderapi.PathDeploymentStatus, "6c84fb90-12c4-11e1-840d-7b25c5ee775a"), devices[0].token, `{"status":"success"}`, 404},
		"the server's own status":     {"PUT", path, devices[0].token, `{"status":"aborted"}`, 400},
		"no status":                   {"PUT", path, devices[0].token, `{}`, 400},
		"long substate":               {"PUT", path, devices[0].token, `{"status":"installing","substate":"` + strings.Repeat("ä", 201) + `"}`, 400},
		"substate of 200":             {"PUT", path, devices[0].token, `{"status":"installing","substate":"` + strings.Repeat("ä", 200) + `"}`, 204},
		"empty log":                   {"PUT", fmt.Sprintf(menderapi.PathDeploymentLog, id), devices[0].token, `{"messages":[]}`, 400},
		"log without level":           {"PUT", fmt.Sprintf(menderapi.PathDeploymentLog, id), devices[0].token, `{"messages":[{"timestamp":"2026-03-01T12:00:00Z","message":"b"}]}`, 400},
		"log without time":            {"PUT", fmt.Sprintf(menderapi.PathDeploymentLog, id), devices[0].token, `{"messages":[{"timestamp":"now","level":"a","message":"b"}]}`, 400},
		"log too large":               {"PUT", fmt.Sprintf(menderapi.PathDeploymentLog, id), devices[0].token, `{"messages":[{"message":"` + strings.Repeat("x", 1<<20) + `"}]}`, 413},
		"no token":                    {"PUT", path, "", `{"status":"success"}`, 401},
		"next v2 without type":        {"POST", menderapi.PathNextV2, devices[0].token, `{"device_provides":{"artifact_name":"x"}}`, 400},
		"next v2 not JSON":            {"POST", menderapi.PathNextV2, devices[0].token, `x`, 400},
		"next v1 POST":                {"POST", menderapi.PathNextV1, devices[0].token, `{"artifact_name":"old","device_type":"board","foo":"bar"}`, 200},
		"next v1 POST without name":   {"POST", menderapi.PathNextV1, devices[0].token, `{"device_type":"board"}`, 400},
		"next v1 GET":                 {"GET", menderapi.PathNextV1 + "?artifact_name=old&device_type=board", devices[0].token, "", 200},
		"next v1 GET for nothing":     {"GET", menderapi.PathNextV1 + "?artifact_name=old&device_type=board", devices[1].token, "", 204},
		"unknown path":                {"GET", "/api/devices/v9/x", "", "", 404},
		"wrong method":                {"DELETE", path, devices[0].token, "", 405},
	} {
		status, body, h := b.send(c.method, c.path, c.token, []byte(c.body), "X-MEN-RequestID", "from-the-device")
		if status != c.want {
			t.Errorf("%s: %d %s, want %d", name, status, body, c.want)
		}
		if status >= 400 && (!strings.Contains(body, `"error":"`) || !strings.Contains(body, `"request_id":"from-the-device"`) || h.Get("Content-Type") != "application/json") {
			t.Errorf("%s: not an error in Mender's form: %s %v", name, body, h)
		}
		if status == http.StatusMethodNotAllowed && h.Get("Allow") == "" {
			t.Errorf("%s: no Allow header", name)
		}
	}
}

func TestInventory(t *testing.T) {
	b := newBench(t, nil)
	devices := fleet(b, 2)
	put := func(method, body string) int {
		status, answer, _ := b.send(method, menderapi.PathDeviceAttributes, devices[0].token, []byte(body))
		if answer != "" && status == http.StatusOK {
			t.Errorf("body of a success: %s", answer)
		}
		return status
	}
	if got := put("PUT", `[{"name":"device_type","value":"board"},{"name":"tag","value":["a","b"]},{"name":"mem","value":512},{"name":"artifact_name","value":"1"}]`+"\n"); got != 200 {
		t.Errorf("PUT: %d", got)
	}
	if got := put("PATCH", `[{"name":"artifact_name","value":"2","description":"d"}]`); got != 200 {
		t.Errorf("PATCH: %d", got)
	}
	for _, bad := range []string{`{}`, `[{"name":"","value":"x"}]`, `[{"name":"x"}]`, `[{"name":"x","value":{"a":1}}]`, `[{"name":"x","value":["a",1]}]`, `[{"name":"x","value":true}]`} {
		if got := put("PUT", bad); got != 400 {
			t.Errorf("PUT %s: %d", bad, got)
		}
	}
	values := func() string {
		d, err := b.Inventory(t.Context(), devices[0].id)
		if err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, a := range d.Attributes {
			if a.Scope == "inventory" || a.Scope == "identity" {
				out += a.Scope + "/" + a.Name + "=" + string(a.Value) + " "
			}
		}
		return out
	}
	if got := values(); got != `identity/mac="02:00:00:00:00:00" inventory/artifact_name="2" inventory/device_type="board" inventory/mem=512 inventory/tag=["a","b"] identity/status="accepted" ` {
		t.Errorf("attributes: %s", got)
	}
	for query, want := range map[string]int{
		"device_type=board": 1, "device_type=eq:board": 1, "device_type=other": 0, "mem=512": 1, "tag=b": 1, "identity/status=accepted": 2,
		"has_group=true": 0, "group=x": 0, "identity/mac=02:00:00:00:00:01": 1, "sort=mem:desc": 2, "tags/x=y": 0,
	} {
		status, body, h := b.send("GET", menderapi.PathInventory+"?"+query, b.token, nil)
		if status != 200 || h.Get("X-Total-Count") != fmt.Sprint(want) {
			t.Errorf("?%s: %d, %s devices, want %d (%s)", query, status, h.Get("X-Total-Count"), want, body)
		}
	}
	for _, query := range []string{"page=0", "per_page=501", "page=x", "has_group=maybe", "sort=x:y"} {
		if status, _, _ := b.send("GET", menderapi.PathInventory+"?"+query, b.token, nil); status != 400 {
			t.Errorf("?%s: %d, want 400", query, status)
		}
	}
	if got := put("PUT", `[]`); got != 200 {
		t.Errorf("PUT of nothing: %d", got)
	}
	if got := values(); strings.Contains(got, "inventory/") {
		t.Errorf("attributes after an empty PUT: %s", got)
	}
	if list, err := b.InventoryDevices(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("list: %d %v", len(list), err)
	}
	for query, want := range map[string]string{"": `{"count":2}`, "?status=pending": `{"count":0}`, "?status=accepted": `{"count":2}`} {
		if _, body, _ := b.send("GET", menderapi.PathAuthCount+query, b.token, nil); body != want {
			t.Errorf("count%s: %s", query, body)
		}
	}
}

// TestLateOlderDeployment: an older deployment that is released while a newer one is under way on a device waits for it. It
// would send the device back otherwise, and in the end be forgotten, as for a device that had finished.
func TestLateOlderDeployment(t *testing.T) {
	b := newBench(t, nil)
	d := fleet(b, 1)[0]
	b.push("one", "board", []byte("1"))
	b.push("two", "board", []byte("2"))
	older := b.deploy(menderapi.NewDeployment{Name: "older", ArtifactName: "one", AllDevices: true})
	if err := b.SetDeploymentStatus(t.Context(), older, "paused"); err != nil {
		t.Fatal(err)
	}
	newer := b.deploy(menderapi.NewDeployment{Name: "newer", ArtifactName: "two", AllDevices: true})
	if n := d.next("board", "old"); n == nil || n.ID != newer {
		t.Fatalf("offered %+v, want the newer deployment", n)
	}
	d.report(newer, "downloading", "installing")
	if err := b.SetDeploymentStatus(t.Context(), older, "running"); err != nil {
		t.Fatal(err)
	}
	if n := d.next("board", "old"); n == nil || n.ID != newer {
		t.Errorf("asking again in the middle: offered %+v, want the newer deployment again", n)
	}
	if n := d.next("board", "two"); n != nil {
		t.Errorf("the device runs the newer release and is offered %s", n.Artifact.ArtifactName)
	}
	b.expectStats(newer, map[menderapi.Status]int{"success": 1})
	b.expectStats(older, map[menderapi.Status]int{"aborted": 1})
}
