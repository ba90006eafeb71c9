package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/pipeline"
)

func testFetcher(s *httptest.Server) *fetcher {
	f := newFetcher()
	if s != nil && s.Certificate() != nil {
		f.client.Transport = s.Client().Transport
	}
	f.wait, f.idle = time.Millisecond, 2*time.Second
	return f
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// fetchInto fetches into a new directory, and returns what is there afterwards: at most the file, and nothing half-written.
func fetchInto(t *testing.T, f *fetcher, spec *pipeline.Fetch) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	if spec.MaxSize == 0 {
		spec.MaxSize = 1 << 30
	}
	_, err := f.fetch(t.Context(), filepath.Join(dir, "file"), spec, func(int64, int64) {})
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if err != nil {
		if len(entries) > 0 {
			t.Errorf("after the error there is %s", entries[0].Name())
		}
		return nil, err
	}
	if len(entries) != 1 {
		t.Fatalf("there are %d files", len(entries))
	}
	data, readErr := os.ReadFile(filepath.Join(dir, "file"))
	if readErr != nil {
		t.Fatal(readErr)
	}
	return data, nil
}

// TestFetchGoesOnWhereItBrokeOff: every answer ends after some bytes; the rest is asked for, of the same file.
func TestFetchGoesOnWhereItBrokeOff(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	var requests, fromTheStart atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		start := 0
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Accept-Ranges", "bytes")
		if r.Header.Get("Range") != "" {
			if r.Header.Get("If-Range") != `"v1"` {
				t.Errorf("If-Range is %q", r.Header.Get("If-Range"))
			}
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(content)-1, len(content)))
			w.Header().Set("Content-Length", fmt.Sprint(len(content)-start))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			fromTheStart.Add(1)
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		}
		w.Write(content[start:min(start+30_000, len(content))])
		w.(http.Flusher).Flush()
		if start+30_000 < len(content) {
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	got, err := fetchInto(t, testFetcher(nil), &pipeline.Fetch{URL: server.URL + "/a", SHA256: sumOf(content)})
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if n := fromTheStart.Load(); n != 1 || requests.Load() < 6 {
		t.Errorf("%d requests, %d of them from the start", requests.Load(), n)
	}
}

// TestFetchBeginsAgain: the file changed between two tries, or the server knows no parts.
func TestFetchBeginsAgain(t *testing.T) {
	t.Parallel()
	for name, ranges := range map[string]string{"changed": "bytes", "no parts": "none"} {
		var tries atomic.Int64
		second := bytes.Repeat([]byte("new"), 50_000)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Accept-Ranges", ranges)
			w.Header().Set("ETag", fmt.Sprintf(`"%d"`, tries.Load()))
			w.Header().Set("Content-Length", fmt.Sprint(len(second)))
			if tries.Add(1) == 1 {
				w.Write(bytes.Repeat([]byte("old"), 30_000))
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			w.Write(second)
		}))
		got, err := fetchInto(t, testFetcher(nil), &pipeline.Fetch{URL: server.URL, SHA256: sumOf(second)})
		server.Close()
		if err != nil || !bytes.Equal(got, second) || tries.Load() != 2 {
			t.Errorf("%s: %d bytes after %d tries, %v", name, len(got), tries.Load(), err)
		}
	}
}

func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	var tries atomic.Int64
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "plain") }))
	defer plain.Close()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tries.Add(1)
		switch r.URL.Path {
		case "/missing":
			http.NotFound(w, r)
		case "/broken":
			http.Error(w, "broken", http.StatusBadGateway)
		case "/down":
			http.Redirect(w, r, plain.URL, http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/encoded":
			w.Header().Set("Content-Encoding", "gzip")
			fmt.Fprint(w, "x")
		case "/endless":
			w.(http.Flusher).Flush()
			for range 100 {
				w.Write(make([]byte, 1000))
			}
		default:
			w.Header().Set("Content-Length", "50000")
			fmt.Fprint(w, strings.Repeat("x", 50_000))
		}
	}))
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	for path, tt := range map[string]struct {
		tries int64
		want  string
	}{
		"/missing": {1, "the server answers 404 Not Found"},
		"/broken":  {fetchTries, "the server answers 502 Bad Gateway (tried 5 times)"},
		"/down":    {1, "it is redirected from https to http://127.0.0.1"},
		"/loop":    {maxRedirects, "it is redirected more than 10 times"},
		"/encoded": {1, "the server sends it encoded as gzip"},
		"/large":   {1, "it has 50000 bytes, and max_size allows 40000"},
		"/endless": {1, "it has more than the 40000 bytes that max_size allows"},
		"/other":   {1, "is not the file that it was: its SHA-256 is"},
	} {
		tries.Store(0)
		spec := &pipeline.Fetch{URL: server.URL + path + "?token=hunter2-hunter2", SHA256: sumOf(nil), MaxSize: 40_000}
		if path == "/other" {
			spec.MaxSize = 1 << 20
		}
		_, err := fetchInto(t, testFetcher(server), spec)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") || tries.Load() != tt.tries {
			t.Errorf("%s: after %d tries %v", path, tries.Load(), err)
		}
	}
	if _, err := fetchInto(t, testFetcher(nil), &pipeline.Fetch{URL: server.URL, SHA256: sumOf(nil)}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody knows: %v", err)
	}
}

// TestFetchKeepsSecretsOnTheirHost: a redirect to the same host gets the headers, one to another host does not, nor what that
// one redirects to.
func TestFetchKeepsSecretsOnTheirHost(t *testing.T) {
	t.Parallel()
	var seen []string
	note := func(name string, r *http.Request) {
		seen = append(seen, fmt.Sprintf("%s %s %s referer=%s", name, r.URL.Path, r.Header.Get("Private-Token"), r.Header.Get("Referer")))
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note("other", r)
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/there", http.StatusFound)
			return
		}
		fmt.Fprint(w, "file")
	}))
	defer other.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note("own", r)
		if r.URL.Path == "/a" {
			http.Redirect(w, r, "/b", http.StatusFound)
			return
		}
		http.Redirect(w, r, other.URL+"/moved", http.StatusFound)
	}))
	defer server.Close()
	got, err := fetchInto(t, testFetcher(nil), &pipeline.Fetch{
		URL: server.URL + "/a", SHA256: sumOf([]byte("file")), Headers: map[string]pipeline.Secret{"Private-Token": "hunter2"},
	})
	if err != nil || string(got) != "file" {
		t.Fatal(err)
	}
	want := "own /a hunter2 referer=, own /b hunter2 referer=" + server.URL + "/a, other /moved  referer=, other /there  referer="
	if text := strings.Join(seen, ", "); !strings.HasPrefix(text, "own /a hunter2") || strings.Count(text, "hunter2") != 2 || len(seen) != 4 {
		t.Errorf("got %s\nwant %s", text, want)
	}
}

// TestFetchGivesUpOnSilence: a server that holds the connection and sends nothing.
func TestFetchGivesUpOnSilence(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Write([]byte("x"))
		w.(http.Flusher).Flush()
		<-stop
	}))
	defer server.Close()
	defer close(stop)
	f := testFetcher(nil)
	f.idle = 50 * time.Millisecond
	_, err := fetchInto(t, f, &pipeline.Fetch{URL: server.URL, SHA256: sumOf(nil)})
	if !errors.Is(err, errIdle) {
		t.Fatal(err)
	}
}

func TestContentRange(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"bytes 5-9/10": "5 10 true", "bytes 5-9/*": "5 -1 true", "bytes */10": "0 0 false", "": "0 0 false", "bytes -5-9/10": "0 0 false", "items 1-2/3": "0 0 false",
	} {
		start, total, ok := contentRange(text)
		if got := fmt.Sprint(start, total, ok); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
