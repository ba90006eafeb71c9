package agent

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
