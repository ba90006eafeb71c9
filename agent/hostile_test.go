package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// A download answered with an error whose text never comes must not hang: the text is read under the stall timeout.
func TestAnErrorWithoutItsTextDoesNotHang(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newServer(t, artifact(t, image(2, imageSize), nil))
	s.download = func(w http.ResponseWriter, r *http.Request, n int) {
		if n > 1 {
			s.serveArtifact(w, r)
			return
		}
		w.Header().Set("Content-Length", "4000")
		w.WriteHeader(http.StatusServiceUnavailable)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	d.serverURL(s)
	d.deploy(s)
	if s.final != "success" {
		t.Errorf("reported %q", s.final)
	}
}

// A server that offers the same bad deployment again and again gets one attempt for each interval.
func TestADeploymentThatIsOfferedForeverIsNotTriedWithoutPause(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"refused artifact": http.StatusNoContent, "abort": http.StatusConflict} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			s := newServer(t, []byte("no artifact"))
			var offers atomic.Int32
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case strings.HasSuffix(r.URL.Path, "/status"):
					w.WriteHeader(status)
					return true
				case r.URL.Path == menderapi.PathNextV2:
					offers.Add(1)
				}
				return false
			}
			d.serverURL(s, map[string]any{"UpdatePollIntervalSeconds": 60, "RetryPollIntervalSeconds": 60})
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if err := d.agent().Daemon(ctx); err != nil {
				t.Fatal(err)
			}
			if n := offers.Load(); n != 1 {
				t.Errorf("it asked %d times in half a second", n)
			}
		})
	}
}

func TestHugeHeadersAreRefused(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 1 << 10 {
			w.Header().Add("X-Filler", strings.Repeat("x", 1<<10))
		}
	}))
	defer s.Close()
	h, err := newHTTPClient("")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.Get(s.URL)
	if err == nil {
		resp.Body.Close()
		t.Error("a MiB of headers was read")
	}
}

// Whatever a server puts into a link, the failure it causes fits into the journal.
func TestALongLinkDoesNotHoldTheDevice(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newServer(t, nil)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != menderapi.PathNextV2 || s.finalStatus() != "" {
			return false
		}
		json.NewEncoder(w).Encode(menderapi.Next{ID: deploymentID, Artifact: menderapi.NextArtifact{
			ArtifactName: s.name, Source: menderapi.Link{URI: s.URL + "/" + strings.Repeat("x", 100<<10)},
		}})
		return true
	}
	d.serverURL(s)
	d.deploy(s)
	if !strings.HasPrefix(s.final, "failure") {
		t.Errorf("reported %q", s.final)
	}
}

// Provides that could not be recorded as installed, beside the update that brings them, are refused at the beginning.
func TestProvidesTooLargeForTheJournal(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newServer(t, artifact(t, image(2, imageSize), func(a *artifactfmt.Artifact) {
		a.Provides = map[string]string{}
		for i := range 160 {
			a.Provides[fmt.Sprintf("key-%d", i)] = strings.Repeat("v", 250)
		}
	}))
	d.serverURL(s)
	d.deploy(s)
	if !strings.Contains(s.final, ErrRecordTooLarge.Error()) {
		t.Errorf("reported %q", s.final)
	}
	d.checkOld()
}

// A server that is too busy for the report of a new system does not make the device give that system up.
func TestABusyServerDoesNotCauseARollback(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newServer(t, artifact(t, image(2, imageSize), nil))
	var asked atomic.Int32
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if len(d.boots) == 0 || !strings.HasSuffix(r.URL.Path, "/status") || asked.Add(1) > 1 {
			return false
		}
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	d.serverURL(s)
	d.deploy(s)
	if s.final != "success" {
		t.Errorf("reported %q", s.final)
	}
}

// A server that calls the final report wrong does not keep the device from its next update.
func TestAReportThatIsNeverTaken(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newServer(t, []byte("no artifact"))
	var reports atomic.Int32
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/status"):
			reports.Add(1)
			w.WriteHeader(http.StatusBadRequest)
			return true
		case r.URL.Path == menderapi.PathNextV2 && reports.Load() > 1:
			s.mu.Lock()
			s.final = "given up"
			s.mu.Unlock()
		}
		return false
	}
	d.serverURL(s)
	d.deploy(s)
	if n := reports.Load(); n != maxRefusals+1 || d.record().State != Idle {
		t.Errorf("%d reports, state %s", n, d.record().State)
	}
}

// A new system whose configuration or keys are broken must not stay either, although there is no agent to decide that.
func TestBrokenConfigurationInNewSystem(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, want string }{
		"configuration": {"etc/mender/mender.conf", "invalid JSON"},
		"key":           {"var/lib/mender/key.pem", "loading the keys"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			s := newServer(t, artifact(t, image(2, imageSize), nil))
			d.serverURL(s)
			start := func() error {
				a, err := loadTestAgent(d.root, testLog(t))
				if err != nil {
					return LeaveTrial(t.Context(), ConfigPaths{Root: d.root}, testLog(t), err)
				}
				return a.Daemon(t.Context())
			}
			if err := start(); !errors.Is(err, ErrRebootNeeded) {
				t.Fatal(err)
			}
			good, err := os.ReadFile(d.path(c.file))
			if err != nil {
				t.Fatal(err)
			}
			d.write(c.file, "{")
			if err := start(); err == nil || errors.Is(err, ErrRebootNeeded) {
				t.Fatalf("the old system, which is not on trial: %v", err)
			}
			d.powerOn()
			if err := start(); !errors.Is(err, ErrRebootNeeded) {
				t.Fatalf("the new system stays: %v", err)
			}
			if slot := d.powerOn(); slot != SlotA {
				t.Fatalf("slot %s", slot)
			}
			d.write(c.file, string(good))
			d.deploy(s)
			if !strings.Contains(s.final, "failure") || !strings.Contains(s.final, c.want) {
				t.Errorf("reported %q", s.final)
			}
			d.checkOld()
		})
	}
}

func TestAFullDiskDoesNotKeepTheDaemonFromStarting(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), daemonLockName)
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	f, err := lockDaemon(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// A source that never ends does not keep the agent reading: here as tar headers that belong to no member.
func TestAnEndlessArtifactIsGivenUp(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	record := "20 comment=hello123\n"
	var header bytes.Buffer
	w := tar.NewWriter(&header)
	if err := w.WriteHeader(&tar.Header{Name: "x", Size: int64(len(record)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	pax := make([]byte, 1024)
	copy(pax, header.Bytes()[:512])
	copy(pax[512:], record)
	pax[156] = tar.TypeXHeader
	sum, _ := strconv.ParseInt(string(pax[148:154]), 8, 64)
	copy(pax[148:], fmt.Sprintf("%06o", sum+tar.TypeXHeader-tar.TypeReg))
	s := newServer(t, nil)
	s.download = func(w http.ResponseWriter, _ *http.Request, _ int) {
		for {
			if _, err := w.Write(pax); err != nil {
				return
			}
		}
	}
	d.serverURL(s)
	d.deploy(s)
	if !strings.Contains(s.final, "larger than the slot") {
		t.Errorf("reported %q", s.final)
	}
	d.checkOld()
}

// A download that never ends because it is so slow is given up when the server no longer wants it.
func TestASlowDownloadCanBeAborted(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newServer(t, artifact(t, image(2, imageSize), nil))
	var downloading atomic.Bool
	s.download = func(w http.ResponseWriter, r *http.Request, _ int) {
		downloading.Store(true)
		for i := range s.artifact {
			w.Write(s.artifact[i : i+1])
			http.NewResponseController(w).Flush()
			if pause(r.Context(), 10*time.Millisecond) != nil {
				return
			}
		}
	}
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if !downloading.Load() || !strings.HasSuffix(r.URL.Path, "/status") {
			return false
		}
		w.WriteHeader(http.StatusConflict)
		s.mu.Lock()
		s.final = "aborted"
		s.mu.Unlock()
		return true
	}
	d.serverURL(s)
	a := d.agent()
	a.stallTimeout = 150 * time.Millisecond
	ctx, stop := contextUntil(t, s)
	defer stop()
	if err := a.Daemon(ctx); err != nil || s.finalStatus() != "aborted" {
		t.Errorf("%v, %q", err, s.finalStatus())
	}
}

// What nobody has signed yet may cost little memory: the header comes before anything of it can be checked.
func TestALargeHeaderIsRefusedUnread(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.write("a.mender", string(artifact(t, image(2, imageSize), func(a *artifactfmt.Artifact) {
		a.Scripts = []artifactfmt.Script{{Name: "ArtifactInstall_Enter_00", Content: make([]byte, 2<<20)}}
	})))
	if _, err := d.agent().Install(t.Context(), d.path("a.mender")); err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Errorf("got %v", err)
	}
}
