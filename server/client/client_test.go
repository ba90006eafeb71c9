package client

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

const secretToken = "s3cret-t0ken"

func newClient(t *testing.T, h http.HandlerFunc) (*Client, *httptest.Server) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(s.URL, secretToken, Options{RetryWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func hintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		status     int
		body       string
		is         error
		text, hint string
	}{
		"no token":   {401, `{"error":"unauthorized","request_id":"r1"}`, ErrUnauthorized, "401 Unauthorized (request r1)", "set the server's token"},
		"not found":  {404, `{"error":"not found","request_id":"r1"}`, ErrNotFound, "404 Not Found", ""},
		"no server":  {404, `<html>`, ErrNotFound, "404 Not Found", "is this the URL of an update server"},
		"conflict":   {409, `{"error":"An artifact with the same name has conflicting depends"}`, ErrConflict, "conflicting depends", "new name"},
		"unusable":   {422, `{"error":"no artifact is named \"x\""}`, ErrUnusable, "no artifact is named", ""},
		"its fault":  {500, `{"error":"internal error","request_id":"r1"}`, nil, "internal error", "server's log"},
		"redirect":   {302, ``, nil, "redirects to https://elsewhere.example/", "set the server's url"},
		"large body": {500, strings.Repeat("x", 1<<20), nil, "500 Internal Server Error", "server's log"},
	} {
		cl, srv := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
			if c.status == 302 {
				w.Header().Set("Location", "https://elsewhere.example/")
			}
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		})
		err := cl.DeleteArtifact(t.Context(), "id?x=1")
		var api *APIError
		if !errors.As(err, &api) || api.Status != c.status || api.Method != "DELETE" || api.URL != srv.URL+"/api/management/v1/deployments/artifacts/id%3Fx=1" {
			t.Errorf("%s: %+v", name, api)
		}
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v is not %v", name, err, c.is)
		}
		if !strings.Contains(err.Error(), c.text) || !strings.Contains(hintOf(err), c.hint) || (c.hint == "") != (hintOf(err) == "") {
			t.Errorf("%s: error %q, hint %q; want %q and %q", name, err, hintOf(err), c.text, c.hint)
		}
		if strings.Contains(fmt.Sprintf("%+v %#v", err, api), secretToken) {
			t.Errorf("%s: the token is in the error", name)
		}
	}
}

func TestNoConnection(t *testing.T) {
	cl, srv := newClient(t, func(http.ResponseWriter, *http.Request) {})
	srv.Close()
	_, err := cl.ListArtifacts(t.Context(), "")
	if !strings.Contains(err.Error(), "no answer from "+srv.URL) || !strings.Contains(hintOf(err), "is the server running") || strings.Contains(err.Error(), secretToken) {
		t.Errorf("refused: %v, hint %q", err, hintOf(err))
	}
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "[]") }))
	defer secure.Close()
	stranger, err := New(secure.URL, "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = stranger.ListArtifacts(t.Context(), ""); !strings.Contains(hintOf(err), "ca_certificate") {
		t.Errorf("unknown authority: %v, hint %q", err, hintOf(err))
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	friend, err := New(secure.URL, "", Options{CACertificate: ca})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = friend.ListArtifacts(t.Context(), ""); err != nil {
		t.Errorf("with its authority: %v", err)
	}
}

// TestServerThatHangs: a server that takes the connection and never answers is given up, once.
func TestServerThatHangs(t *testing.T) {
	var asked atomic.Int32
	end := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1); <-end }))
	defer s.Close()
	defer close(end)
	c, err := New(s.URL, secretToken, Options{AnswerTimeout: 50 * time.Millisecond, RetryWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.Devices(t.Context(), ""); err == nil || !strings.HasSuffix(err.Error(), "in time") || hintOf(err) == "" || asked.Load() != 1 {
		t.Errorf("asked %d times: %v, hint %q", asked.Load(), err, hintOf(err))
	}
}

func TestNew(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ url, ca, text string }{
		"no scheme":    {"updates.example.com", "", "must look like"},
		"other scheme": {"ftp://x", "", "must look like"},
		"password":     {"https://ada:" + secretToken + "@x", "", "must not contain a user"},
		"no CA file":   {"https://x", "/does/not/exist", "CA certificate"},
		"empty CA":     {"https://x", empty, "no PEM certificate"},
	} {
		if _, err := New(c.url, "", Options{CACertificate: c.ca}); err == nil || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), secretToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, token := range []string{"two words", secretToken + "\nnext", "s3cret\x00", "\u00e9"} {
		if _, err := New("https://x", token, Options{}); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("token %q: %v", token, err)
		}
	}
	if _, err := New("https://x", secretToken+"\n", Options{}); err != nil {
		t.Errorf("a token with the line break of its file: %v", err)
	}
}

// TestRetries: what reads is repeated when the server has a bad moment; what changes something never is.
func TestRetries(t *testing.T) {
	var n atomic.Int64
	cl, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) < 3 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		io.WriteString(w, "[]")
	})
	if _, err := cl.ListArtifacts(t.Context(), ""); err != nil || n.Load() != 3 {
		t.Errorf("reading took %d tries: %v", n.Load(), err)
	}
	n.Store(0)
	if _, err := cl.CreateDeployment(t.Context(), menderapi.NewDeployment{}); err == nil || n.Load() != 1 {
		t.Errorf("creating took %d tries: %v", n.Load(), err)
	}
	n.Store(-100)
	if _, err := cl.ListArtifacts(t.Context(), ""); err == nil || n.Load() != -97 {
		t.Errorf("a server that stays bad was asked %d times: %v", n.Load()+100, err)
	}
}

// TestUploadIsAStream: the length is known before, progress moves, and a refusal before the body costs no body.
func TestUploadIsAStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.mender")
	if err := os.WriteFile(path, make([]byte, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cl, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength < 5<<20 || len(r.TransferEncoding) > 0 || r.Header.Get("Authorization") != "Bearer "+secretToken {
			t.Errorf("length %d, encoding %v", r.ContentLength, r.TransferEncoding)
		}
		form, err := r.MultipartReader()
		if err != nil {
			t.Error(err)
			return
		}
		var order []string
		for {
			part, err := form.NextPart()
			if err != nil {
				break
			}
			n, _ := io.Copy(io.Discard, part)
			order = append(order, fmt.Sprint(part.FormName(), ":", n))
		}
		if got := strings.Join(order, " "); got != "size:7 description:5 artifact:5242880" {
			t.Errorf("parts %s", got)
		}
		w.Header().Set("Location", "/api/management/v1/deployments/artifacts/the-id")
		w.WriteHeader(http.StatusCreated)
	})
	calls, last := 0, int64(0)
	id, err := cl.UploadArtifact(t.Context(), path, "words", func(done, total int64) {
		if done < last || total != 5<<20 {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		calls, last = calls+1, done
	})
	if err != nil || id != "the-id" || last != 5<<20 || calls < 2 {
		t.Errorf("id %q, %v; %d calls of progress up to %d", id, err, calls, last)
	}
	sent := int64(0)
	refusing, _ := newClient(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	if _, err := refusing.UploadArtifact(t.Context(), path, "", func(done, _ int64) { sent = done }); !errors.Is(err, ErrUnauthorized) || sent > 0 {
		t.Errorf("a refused upload sent %d bytes: %v", sent, err)
	}
	if _, err := cl.UploadArtifact(t.Context(), filepath.Join(t.TempDir(), "none"), "", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := cl.UploadArtifact(t.Context(), t.TempDir(), "", nil); err == nil {
		t.Error("a directory was uploaded")
	}
}

func TestAllPages(t *testing.T) {
	cl, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		n := 0
		switch r.URL.Query().Get("page") {
		case "1", "2":
			n = perPage
		case "3":
			n = 7
		}
		json.NewEncoder(w).Encode(make([]menderapi.AuthDevice, n))
	})
	devices, err := cl.Devices(t.Context(), "")
	if err != nil || len(devices) != 2*perPage+7 {
		t.Errorf("%d devices, %v", len(devices), err)
	}
}

func TestNonsenseAnswers(t *testing.T) {
	cl, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path != menderapi.PathLogin {
			w.WriteHeader(http.StatusCreated)
			return
		}
		if r.URL.Path != menderapi.PathLogin {
			io.WriteString(w, "<html>")
		}
	})
	if _, err := cl.ListArtifacts(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "not what this program understands") {
		t.Errorf("HTML: %v", err)
	}
	if _, err := cl.CreateDeployment(t.Context(), menderapi.NewDeployment{}); err == nil || !strings.Contains(err.Error(), "Location") {
		t.Errorf("no Location: %v", err)
	}
	if _, err := cl.Login(t.Context(), "a", "b"); err == nil || !strings.Contains(err.Error(), "no token") {
		t.Errorf("empty token: %v", err)
	}
}
