package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/menderapi"
)

func TestDeploymentSucceeds(t *testing.T) {
	t.Parallel()
	for name, v1only := range map[string]bool{"v2": false, "v1 of Mender's open source server": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, next := newDevice(t), image(2, imageSize+4000)
			s := newServer(t, artifact(t, next, nil))
			s.v1only = v1only
			d.serverURL(s)
			d.deploy(s)
			want := []string{"downloading", "installing", "rebooting", "installing", "success"}
			if !slices.Equal(s.statuses, want) {
				t.Errorf("reported %v, want %v", s.statuses, want)
			}
			if !d.holds(SlotB, next) || !d.holds(SlotA, d.old) {
				t.Error("the slots do not hold the new and the old system")
			}
			vars := d.vars()
			if vars[bootenv.VarBootPart] != "3" || vars[bootenv.VarBootPartHex] != "3" || vars[bootenv.VarUpgradeAvailable] != "0" || vars["bootcmd"] == "" {
				t.Errorf("environment %v", vars)
			}
			r := d.record()
			if r.State != Idle || r.Installed.Name != "release-2" || r.Installed.Provides["rootfs-image.version"] != "release-2" {
				t.Errorf("record %+v", r)
			}
			if !slices.Equal(d.boots, []SlotName{SlotB}) {
				t.Errorf("booted %v, want B once", d.boots)
			}
			if s.auths != 2 {
				t.Errorf("authenticated %d times, want 2: at the start and in the new system", s.auths)
			}
		})
	}
}

// A second update goes to the other slot and leaves the blocks that are already there.
func TestSecondDeployment(t *testing.T) {
	t.Parallel()
	d, two, three := newDevice(t), image(2, imageSize), image(3, imageSize)
	s := newServer(t, artifact(t, two, nil))
	d.serverURL(s)
	d.deploy(s)
	s = newServer(t, artifact(t, three, func(a *artifactfmt.Artifact) { a.Name = "release-3" }))
	s.name = "release-3"
	d.serverURL(s)
	d.deploy(s)
	if s.final != "success" || !d.holds(SlotA, three) || !d.holds(SlotB, two) {
		t.Errorf("%q; slots do not hold releases 3 and 2", s.final)
	}
	if got := d.record().Installed.Name; got != "release-3" {
		t.Errorf("installed %s", got)
	}
	s = newServer(t, nil)
	s.name = "release-3"
	d.serverURL(s)
	d.deploy(s)
	if s.final != "already-installed" || len(s.gets) != 0 {
		t.Errorf("the same release again: %q, %d downloads", s.final, len(s.gets))
	}
}

func TestDeploymentRefused(t *testing.T) {
	t.Parallel()
	good := image(2, imageSize)
	plain := func(t *testing.T) []byte { return artifact(t, good, nil) }
	changed := func(change func(*artifactfmt.Artifact)) func(t *testing.T) []byte {
		return func(t *testing.T) []byte { return artifact(t, good, change) }
	}
	for name, c := range map[string]struct {
		artifact func(t *testing.T) []byte
		want     string // in the reported reason
		writes   bool   // may the inactive slot have been written to?
	}{
		"another device type":  {changed(func(a *artifactfmt.Artifact) { a.DeviceTypes = []string{"toaster"} }), "device type toaster, this is a testdev", false},
		"unsigned":             {changed(func(a *artifactfmt.Artifact) { a.Signer = nil }), "not signed", false},
		"signed by a stranger": {changed(func(a *artifactfmt.Artifact) { a.Signer = keys().other }), "signature", false},
		"depends on a name":    {changed(func(a *artifactfmt.Artifact) { a.DependsNames = []string{"release-1"} }), "needs artifact release-1", false},
		"depends on a provide": {changed(func(a *artifactfmt.Artifact) { a.Depends = map[string]string{"x": "1"} }), "needs x = 1", false},
		"depends on a group":   {changed(func(a *artifactfmt.Artifact) { a.DependsGroups = []string{"g"} }), "needs artifact group g", false},
		"another name":         {changed(func(a *artifactfmt.Artifact) { a.Name = "other" }), `named "other"`, false},
		"update module":        {changed(func(a *artifactfmt.Artifact) { a.PayloadType = "single-file" }), "payload type is single-file", false},
		"state scripts": {changed(func(a *artifactfmt.Artifact) {
			a.Scripts = []artifactfmt.Script{{Name: "ArtifactInstall_Enter_00_x", Content: []byte("#!/bin/sh\n")}}
		}), "state scripts", false},
		"too large":               {func(t *testing.T) []byte { return artifact(t, image(2, slotSize+1), nil) }, "bytes, slot B", false},
		"truncated":               {func(t *testing.T) []byte { a := plain(t); return a[:len(a)/2] }, "too early", true},
		"truncated in the header": {func(t *testing.T) []byte { a := plain(t); return a[:5000] }, "too early", false},
		"tampered payload": {func(t *testing.T) []byte {
			a := plain(t)
			a[bytes.Index(a, good[1000:1100])] ^= 1
			return a
		}, "", true},
		"tampered manifest": {func(t *testing.T) []byte {
			a := plain(t)
			a[bytes.Index(a, []byte("  data/0000/rootfs.ext4"))-1] ^= 1
			return a
		}, "signature", false},
		"not an artifact": {func(*testing.T) []byte { return bytes.Repeat([]byte("<html>"), 2000) }, "", false},
		"empty":           {func(*testing.T) []byte { return nil }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			s := newServer(t, c.artifact(t))
			d.serverURL(s)
			d.deploy(s)
			if !strings.HasPrefix(s.final, "failure ") || !strings.Contains(s.final, c.want) {
				t.Errorf("reported %q, want failure with %q", s.final, c.want)
			}
			d.checkOld()
			if empty := make([]byte, slotSize); !c.writes && !d.holds(SlotB, empty) {
				t.Error("the slot was written to before the artifact was refused")
			}
			if d.record().State != Idle || len(d.boots) != 0 {
				t.Errorf("state %s after %d reboots", d.record().State, len(d.boots))
			}
			if len(s.log) == 0 {
				t.Error("no log was sent")
			}
		})
	}
}

func TestDeploymentSurvivesTheNetwork(t *testing.T) {
	t.Parallel()
	next := image(2, imageSize)
	cut := func(w http.ResponseWriter, body []byte, at int) { // a connection that breaks
		w.Write(body[:at])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	whole := func(w http.ResponseWriter, s *server) {
		w.Header().Set("Content-Length", fmt.Sprint(len(s.artifact)))
	}
	for name, c := range map[string]struct {
		download func(s *server) func(w http.ResponseWriter, r *http.Request, n int)
		gets     int
		ranged   bool
		want     string
	}{
		"cut five times, with Range": {func(s *server) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if n > 5 {
					s.serveArtifact(w, r)
					return
				}
				var start int
				if fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start); start > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(s.artifact)-1, len(s.artifact)))
					w.Header().Set("Content-Length", fmt.Sprint(len(s.artifact)-start))
					w.WriteHeader(http.StatusPartialContent)
				} else {
					whole(w, s)
				}
				cut(w, s.artifact[start:], 300_000)
			}
		}, 6, true, "success"},
		"cut, without Range": {func(s *server) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, _ *http.Request, n int) {
				whole(w, s)
				if n < 3 {
					cut(w, s.artifact, n*700_000)
				}
				w.Write(s.artifact)
			}
		}, 3, true, "success"},
		"stall": {func(s *server) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if n > 1 {
					s.serveArtifact(w, r)
					return
				}
				whole(w, s)
				w.Write(s.artifact[:500_000])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}
		}, 2, true, "success"},
		"errors of the server": {func(s *server) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				switch n {
				case 1:
					w.WriteHeader(http.StatusBadGateway)
				case 2:
					w.WriteHeader(http.StatusForbidden) // the link expired: a new one is asked for
				default:
					s.serveArtifact(w, r)
				}
			}
		}, 3, false, "success"},
		"gone for good": {func(*server) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusGone) }
		}, 4, false, "failure"},
		"changed on the way": {func(s *server) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					whole(w, s)
					cut(w, s.artifact, 500_000)
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.artifact[:len(s.artifact)-512]))
			}
		}, 2, true, "failure"},
		"a wrong range": {func(s *server) func(http.ResponseWriter, *http.Request, int) {
			return func(w http.ResponseWriter, _ *http.Request, n int) {
				if n == 1 {
					whole(w, s)
					cut(w, s.artifact, 500_000)
				}
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(s.artifact)-1, len(s.artifact)))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(s.artifact)
			}
		}, 2, true, "failure"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			s := newServer(t, artifact(t, next, nil))
			s.Config.ErrorLog = nil
			s.download = c.download(s)
			d.serverURL(s)
			d.deploy(s)
			if !strings.HasPrefix(s.final, c.want) {
				t.Errorf("reported %q, want %s", s.final, c.want)
			}
			if len(s.gets) != c.gets {
				t.Errorf("%d requests %q, want %d", len(s.gets), s.gets, c.gets)
			}
			if last := s.gets[len(s.gets)-1]; (last != "") != c.ranged {
				t.Errorf("the last request has the range %q", last)
			}
			if c.want == "failure" {
				d.checkOld()
			}
		})
	}
}

func TestDeploymentAborted(t *testing.T) {
	t.Parallel()
	for _, at := range []struct {
		status string
		nth    int
		boots  int
	}{{"downloading", 1, 0}, {"installing", 1, 0}, {"rebooting", 1, 0}, {"installing", 2, 2}} {
		t.Run(fmt.Sprint(at.status, at.nth), func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			s := newServer(t, artifact(t, image(2, imageSize), nil))
			seen := 0
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/status") {
					return false
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.final != "" {
					t.Error("a report after the abort")
				}
				s.statuses = append(s.statuses, "")
				if want := map[string]int{"downloading1": 1, "installing1": 2, "rebooting1": 3, "installing2": 4}[fmt.Sprint(at.status, at.nth)]; len(s.statuses) == want {
					seen++
					s.final = "aborted"
					w.WriteHeader(http.StatusConflict)
					return true
				}
				w.WriteHeader(http.StatusNoContent)
				return true
			}
			d.serverURL(s)
			d.deploy(s)
			if seen != 1 {
				t.Error("the abort was not reached")
			}
			d.checkOld()
			if len(d.boots) != at.boots {
				t.Errorf("booted %v, want %d boots", d.boots, at.boots)
			}
			if r := d.record(); r.State != Idle || r.Installed.Name != "" {
				t.Errorf("record %+v", r)
			}
		})
	}
}

// A new system that does not come up: the boot loader returns, and the agent reports it without one more reboot.
func TestBrokenSystemRollsBack(t *testing.T) {
	t.Parallel()
	d, next := newDevice(t), image(2, imageSize)
	d.broken = func(content []byte) bool { return bytes.HasPrefix(content, next) }
	s := newServer(t, artifact(t, next, nil))
	d.serverURL(s)
	d.deploy(s)
	if !strings.HasPrefix(s.final, "failure the boot loader has returned to the old system in slot A") {
		t.Errorf("reported %q", s.final)
	}
	if !slices.Equal(d.boots, []SlotName{SlotB, SlotA}) {
		t.Errorf("booted %v, want B, then A", d.boots)
	}
	d.checkOld()
	text := ""
	for _, m := range s.log {
		text += m.Message + "\n"
	}
	if !strings.Contains(text, "verified by reading back") || !strings.Contains(text, "returned to the old system") {
		t.Errorf("the log does not tell the story:\n%s", text)
	}
}

// A new system from which the server cannot be reached is given up.
func TestUnreachableServerRollsBack(t *testing.T) {
	t.Parallel()
	d, next := newDevice(t), image(2, imageSize)
	s := newServer(t, artifact(t, next, nil))
	s.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		if len(d.boots) == 1 { // in the new system
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	d.serverURL(s)
	d.deploy(s)
	if !strings.HasPrefix(s.final, "failure verifying the new system: reaching the server") {
		t.Errorf("reported %q", s.final)
	}
	d.checkOld()
	if !slices.Equal(d.boots, []SlotName{SlotB, SlotA}) {
		t.Errorf("booted %v", d.boots)
	}
}

// A new system in which the agent cannot even start must not stay.
func TestUnusableAgentInNewSystem(t *testing.T) {
	t.Parallel()
	d, next := newDevice(t), image(2, imageSize)
	s := newServer(t, artifact(t, next, nil))
	d.serverURL(s)
	if err := d.agent().Daemon(t.Context()); err == nil {
		t.Fatal("no reboot")
	}
	d.powerOn()
	d.write("var/lib/mender/device_type", "what?")
	err := d.agent().Daemon(t.Context())
	if err == nil || !strings.Contains(err.Error(), "device type") || !strings.Contains(err.Error(), ErrRebootNeeded.Error()) {
		t.Fatalf("the daemon ended with %v", err)
	}
	d.powerOn()
	d.write("var/lib/mender/device_type", "device_type=testdev")
	d.deploy(s)
	if !strings.Contains(s.final, "failure") || !strings.Contains(s.final, "device type") {
		t.Errorf("reported %q", s.final)
	}
	d.checkOld()
}

// The power fails while the new system is on trial, and that system has written to its own root file system meanwhile.
// The first time it gets another try, with a fresh copy; the second time it is given up.
func TestCutOffOnTrial(t *testing.T) {
	t.Parallel()
	for cuts, want := range map[int]string{1: "success", 2: "failure the boot loader has returned to the old system in slot A: the new system came up"} {
		t.Run(fmt.Sprint(cuts), func(t *testing.T) {
			t.Parallel()
			d, next := newDevice(t), image(2, imageSize)
			s := newServer(t, artifact(t, next, nil))
			left := cuts
			var cut context.CancelFunc
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if len(d.boots) == 0 || d.boots[len(d.boots)-1] == SlotA || left == 0 || !strings.HasSuffix(r.URL.Path, "/status") {
					return false
				}
				left--
				cut() // in Verifying, and nothing has been reported
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			d.serverURL(s)
			for range cuts {
				for reboot := true; reboot; {
					var ctx context.Context
					ctx, cut = context.WithCancel(t.Context())
					err := d.agent().Daemon(ctx)
					cut()
					if reboot = errors.Is(err, ErrRebootNeeded); reboot {
						d.powerOn()
					}
				}
				if r := d.record(); r.State != Verifying {
					t.Fatalf("cut in state %s", r.State)
				}
				d.writeSlot(SlotB, []byte("written by the new system"))
				d.powerOn()
			}
			d.deploy(s)
			if !strings.HasPrefix(s.final, want) {
				t.Errorf("reported %q, want %q", s.final, want)
			}
			if cuts == 1 && !d.holds(SlotB, next) {
				t.Error("slot B does not hold the new system")
			}
			if cuts == 2 {
				d.checkOld()
			}
		})
	}
}

// The token may end at any time, and the server may have other troubles: the deployment does not mind.
func TestServerTroubles(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newServer(t, artifact(t, image(2, imageSize), nil))
	calls, failed := 0, map[string]bool{}
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if calls++; calls%3 == 0 {
			clear(s.tokens)
		}
		key := fmt.Sprint(r.Method, r.URL.Path, len(s.statuses))
		if r.URL.Path == "/artifact" || failed[key] {
			return false
		}
		failed[key] = true
		if calls%2 == 0 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		} else {
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, `{"error":"a \u001b[31mbad day"}`)
		}
		return true
	}
	d.serverURL(s)
	d.deploy(s)
	if s.final != "success" {
		t.Errorf("reported %q", s.final)
	}
}

// A server that does not take inventories can still update.
func TestInventoryRefused(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newServer(t, artifact(t, image(2, imageSize), nil))
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != menderapi.PathDeviceAttributes {
			return false
		}
		w.WriteHeader(http.StatusMethodNotAllowed)
		return true
	}
	d.serverURL(s)
	d.deploy(s)
	if s.final != "success" {
		t.Errorf("reported %q", s.final)
	}
}

func TestHostileDeployments(t *testing.T) {
	t.Parallel()
	for _, n := range []menderapi.Next{
		{},
		{ID: "../../x", Artifact: menderapi.NextArtifact{ArtifactName: "a", Source: menderapi.Link{URI: "http://x/"}}},
		{ID: "..", Artifact: menderapi.NextArtifact{ArtifactName: "a", Source: menderapi.Link{URI: "http://x/"}}},
		{ID: "a?b", Artifact: menderapi.NextArtifact{ArtifactName: "a", Source: menderapi.Link{URI: "http://x/"}}},
		{ID: "a", Artifact: menderapi.NextArtifact{Source: menderapi.Link{URI: "http://x/"}}},
		{ID: "a", Artifact: menderapi.NextArtifact{ArtifactName: "a", Source: menderapi.Link{URI: "file:///etc/passwd"}}},
		{ID: "a", Artifact: menderapi.NextArtifact{ArtifactName: "a", Source: menderapi.Link{URI: "http://"}}},
	} {
		if checkNext(&n) == nil {
			t.Errorf("%+v is accepted", n)
		}
	}
}
