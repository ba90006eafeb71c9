package cli_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/cli"
)

// TestArtifactOverHTTP looks into an artifact on a web server: only parts of it are fetched, and what the address holds
// beside the path is in no message.
func TestArtifactOverHTTP(t *testing.T) {
	t.Parallel()
	if !haveAll("mke2fs") {
		t.Skip("needs e2fsprogs")
	}
	dir := t.TempDir()
	for path, size := range map[string]int{"root/etc/os-release": 0, "root/big": 16 << 20} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		content := []byte("VERSION_ID=7\n")
		if size > 0 {
			content = make([]byte, size)
			for i := range content {
				content[i] = byte(i * i >> 7)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, path), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		mke2fs = "/usr/sbin/mke2fs"
	}
	image := filepath.Join(dir, "rootfs.ext4")
	if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", "-d", filepath.Join(dir, "root"), image, "32M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	artifact := filepath.Join(dir, "os.mender")
	run(t, 0, "artifact", "write", "-t", "d", "-n", "os-7", "-f", image, "--compression", "none", "-o", artifact)

	var mu sync.Mutex
	fetched := int64(0)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/os.mender" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		counting := &countingResponse{ResponseWriter: w}
		f, err := os.Open(artifact)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		http.ServeContent(counting, r, "", time.Time{}, f)
		if r.Header.Get("Range") != "bytes=0-" { // that one is dropped when enough was read
			mu.Lock()
			fetched += counting.n
			mu.Unlock()
		}
	}))
	defer server.Close()
	address := server.URL + "/os.mender?signature=TOPSECRET"

	out, _ := run(t, 0, "artifact", "show", address)
	if !strings.Contains(out, "os-7") {
		t.Errorf("show printed %q", out)
	}
	out, _ = run(t, 0, "artifact", "cat", address, "/etc/os-release")
	if out != "VERSION_ID=7\n" {
		t.Errorf("cat printed %q", out)
	}
	if fetched == 0 || fetched > 2<<20 {
		t.Errorf("cat fetched %d bytes of an artifact of 32 MiB", fetched)
	}
	for _, args := range [][]string{
		{"artifact", "cat", address, "/etc/nothing"},
		{"artifact", "show", server.URL + "/forbidden?signature=TOPSECRET"},
		{"artifact", "show", "http://127.0.0.1:1/x?signature=TOPSECRET"},
		{"artifact", "show", "http://127.0.0.1:1/%zz?signature=TOPSECRET"},
	} {
		_, stderr := run(t, 1, args...)
		if strings.Contains(stderr, "TOPSECRET") {
			t.Errorf("%v tells what lets one in: %s", args, stderr)
		}
	}
}

type countingResponse struct {
	http.ResponseWriter
	n int64
}

func (c *countingResponse) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

func run(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := cli.Run(t.Context(), args, nil, strings.NewReader(""), &out, &errs); got != want {
		t.Fatalf("twinkeel %v exited with %d, not %d: %s", args, got, want, errs.String())
	}
	return out.String(), errs.String()
}

// TestInterruptWhileReadingAPipe ends a command that waits for an artifact on stdin which does not come.
func TestInterruptWhileReadingAPipe(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"show":    {"artifact", "show", "-"},
		"verify":  {"artifact", "verify", "-", "--allow-unsigned"},
		"extract": {"artifact", "extract", "-", "-o", filepath.Join(t.TempDir(), "out")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			ctx, cancel := context.WithCancel(t.Context())
			code := make(chan int)
			go func() { code <- cli.Run(ctx, args, nil, r, new(bytes.Buffer), new(bytes.Buffer)) }()
			cancel()
			select {
			case got := <-code:
				if got != 130 {
					t.Errorf("exit code %d, not 130", got)
				}
			case <-time.After(10 * time.Second):
				t.Error("it still waits")
			}
		})
	}
}
