package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/rollout"
)

// contractEnd: whatever people and devices do, and in whichever order, statistics stay sums, nothing is offered before its
// phase, and a rollout that nobody stops ends once its devices have answered.
func contractEnd(t *testing.T, s *Store) {
	for seed := range uint64(8) {
		if t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { randomRollouts(t, s, seed) }); t.Failed() {
			return
		}
	}
}

func randomRollouts(t *testing.T, s *Store, seed uint64) {
	ctx, now, r := t.Context(), epoch, rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // must be repeatable
	name := func(kind string, i int) string { return fmt.Sprintf("%s %d of seed %d", kind, i, seed) }
	runs := map[string]string{} // device: its artifact
	var devices, deployments []string
	for i := range []int{1, 2, 3, 7}[seed%4] {
		id := addDevice(t, s, name("device", i), "accepted")
		devices, runs[id] = append(devices, id), "old"
	}
	half, nothing := 50.0, 0.0
	policies := []menderapi.Policy{
		{},
		{Phases: []menderapi.Phase{{Count: 1, SoakSeconds: 30}, {Percent: 34}, {Percent: 100}}, FailureThreshold: &nothing},
		{Phases: []menderapi.Phase{{Percent: 10}, {Percent: 100}}, FailureThreshold: &half, OnFailure: "abort"},
		{
			Phases: []menderapi.Phase{{Count: 1, Approval: true}, {Percent: 100}}, ExpiresSeconds: 3000,
			Filter: []menderapi.Predicate{{Scope: "inventory", Attribute: "on", Type: "$eq", Value: []byte("1")}},
		},
		{Phases: []menderapi.Phase{{Count: 1}, {Percent: 100, Approval: true}}, ExpiresSeconds: 2500},
	}
	release := map[string]string{}
	for i, p := range policies {
		artifact := name("release", i)
		if err := addArtifact(t, s, artifact, artifact, "board"); err != nil {
			t.Fatal(err)
		}
		p, err := rollout.Complete(p)
		if err != nil {
			t.Fatal(err)
		}
		to := devices
		if len(p.Filter) > 0 { // it finds its devices itself
			to = nil
		}
		id, err := s.CreateDeployment(ctx, NewDeployment{Name: artifact, ArtifactName: artifact, Policy: p, Retries: i % 2, Devices: to}, now)
		if err != nil {
			t.Fatal(err)
		}
		deployments, release[id] = append(deployments, id), artifact
	}
	poll := func(device string) string {
		o, err := s.Next(ctx, device, Provides{DeviceType: "board", ArtifactName: runs[device]}, now)
		if err != nil {
			t.Fatal(err)
		}
		if o == nil {
			return ""
		}
		tg, err := oneTarget(ctx, s.read, device, o.Deployment)
		if err != nil {
			t.Fatal(err)
		}
		if tg.phase > tg.released || tg.status == menderapi.StatusPending && tg.state != "running" && tg.state != "soaking" {
			t.Errorf("offered in phase %d of a rollout that is %s in phase %d", tg.phase, tg.state, tg.released)
		}
		return o.Deployment
	}
	report := func(device, id string, status menderapi.Status) {
		err := s.Report(ctx, device, id, menderapi.StatusReport{Status: status}, time.Minute, now)
		if err != nil && !errors.Is(err, ErrAborted) && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
	approve := func(id string) error {
		d, err := s.Deployment(ctx, id, now)
		if err != nil || d.Rollout.Waits == nil || d.Rollout.Waits.For != menderapi.WaitApproval {
			return err
		}
		return s.Approve(ctx, id, d.Rollout.Waits.Phase, now)
	}
	statuses := []menderapi.Status{"downloading", "installing", "rebooting", "success", "failure"}
	gone := map[string]bool{}
	for range 120 {
		device, id := devices[r.IntN(len(devices))], deployments[r.IntN(len(deployments))]
		var err error
		switch n := r.IntN(100); {
		case n < 40 && !gone[device]:
			if offered := poll(device); offered != "" && r.IntN(2) == 0 {
				report(device, offered, "installing")
				runs[device] = release[offered]
			}
		case n < 75 && !gone[device]:
			report(device, id, statuses[r.IntN(len(statuses))])
		case n < 78:
			value := []byte{'0' + byte(r.IntN(2))}
			if !gone[device] {
				err = s.PutAttributes(ctx, device, []menderapi.Attribute{{Name: "on", Value: value}}, true, now)
			}
		case n < 80:
			err = s.Pause(ctx, id, "why", now)
		case n < 90:
			err = s.Resume(ctx, id, now)
		case n < 94 && n > 91:
			err = approve(id)
		case n == 90:
			err = s.Abort(ctx, id, "why", now)
		case n == 91 && len(gone) < len(devices)/2 && !gone[device]:
			gone[device], err = true, s.DeleteDevice(ctx, device, now)
		default:
			now = now.Add(time.Duration(r.IntN(40)) * time.Second)
			err = s.Tick(ctx, now)
		}
		if err != nil && !errors.Is(err, ErrFinished) {
			t.Fatal(err)
		}
		checkTallies(t, s)
	}
	for range 60 {
		now = now.Add(time.Minute)
		if err := s.Tick(ctx, now); err != nil {
			t.Fatal(err)
		}
		for _, id := range deployments {
			if err := s.Resume(ctx, id, now); err != nil && !errors.Is(err, ErrFinished) {
				t.Fatal(err)
			}
			if err := approve(id); err != nil {
				t.Fatal(err)
			}
		}
		for _, device := range devices {
			if gone[device] {
				continue
			}
			if id := poll(device); id != "" {
				report(device, id, "success")
				runs[device] = release[id]
			}
		}
		checkTallies(t, s)
	}
	for _, id := range deployments {
		d, err := s.Deployment(ctx, id, epoch)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, n := range d.Statistics.Status {
			sum += n
		}
		if d.Status != "finished" || sum != d.MaxDevices || len(d.Rollout.Policy.Filter) == 0 && sum != len(devices) {
			t.Errorf("%s is %s, its statistics sum to %d of %d: %v, rollout %+v", d.Name, d.Status, sum, len(devices), d.Statistics.Status, d.Rollout)
		}
	}
}
