package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server"
	"github.com/twinkeel/twinkeel/server/client"
	"github.com/twinkeel/twinkeel/signing"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// form makes a multipart body. Parts are name, value; the part artifact is a file.
func form(parts ...string) (body []byte, contentType string) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i+1 < len(parts); i += 2 {
		create := w.CreateFormField
		if parts[i] == "artifact" {
			create = func(name string) (io.Writer, error) { return w.CreateFormFile(name, "../../etc/passwd") }
		}
		part, err := create(parts[i])
		if err != nil {
			panic(err)
		}
		io.WriteString(part, parts[i+1])
	}
	w.Close()
	return b.Bytes(), w.FormDataContentType()
}

func (b *bench) postForm(parts ...string) (int, string, http.Header) {
	b.t.Helper()
	body, kind := form(parts...)
	return b.send("POST", menderapi.PathArtifacts, b.token, body, "Content-Type", kind)
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// blobs lists what is in the directory of blobs, unfinished ones too.
func (b *bench) blobs() []string {
	b.t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.dir, "artifacts"))
	if err != nil {
		b.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestArtifacts(t *testing.T) {
	b := newBench(t, nil)
	file := artifact(t, "rel-1", "board", []byte("content"), func(a *artifactfmt.Artifact) {
		a.MetaData = json.RawMessage(`{"dest":"/x"}`)
		a.DependsNames = []string{"rel-0", "rel-00"}
		a.Group = "stable"
	})
	id, err := b.UploadArtifact(t.Context(), file, "the first", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Artifact(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "rel-1" || got.Description != "the first" || got.Size != int64(len(read(t, file))) || got.Signed ||
		got.ArtifactProvides["artifact_name"] != "rel-1" || got.ArtifactProvides["artifact_group"] != "stable" ||
		fmt.Sprint(got.ArtifactDepends["artifact_name"]) != "[rel-0 rel-00]" || got.Updates[0].TypeInfo.Type != "single-file" ||
		got.Updates[0].Files[0].Name != "payload" || got.Updates[0].Files[0].Size != 7 || string(got.Updates[0].Metadata) != `{"dest":"/x"}` {
		t.Errorf("artifact %+v", got)
	}
	_, raw, _ := b.send("GET", menderapi.PathArtifacts, b.token, nil)
	if !strings.Contains(raw, `"meta_data":[]`) {
		t.Errorf("meta_data must be a list for mender-cli: %s", raw)
	}

	// The body of a success is empty; Mender's upload action takes any body for an error.
	status, body, h := b.postForm("artifact", read(t, artifact(t, "rel-2", "board", nil, nil)))
	if status != 201 || body != "" || !strings.HasPrefix(h.Get("Location"), menderapi.PathArtifacts+"/") {
		t.Errorf("upload with only the artifact part: %d %q %v", status, body, h)
	}
	status, body, _ = b.postForm("artifact", read(t, artifact(t, "rel-2", "board", []byte("other"), nil)))
	if status != 409 || !strings.Contains(body, "An artifact with the same name has conflicting depends") || !strings.Contains(body, `"device_type":"board"`) {
		t.Errorf("same name and device type: %d %s", status, body)
	}
	if status, body, _ := b.postForm("artifact", read(t, artifact(t, "rel-2", "other-board", nil, nil))); status != 201 {
		t.Errorf("same name for another device type: %d %s", status, body)
	}
	list, err := b.ListArtifacts(t.Context(), "rel-2")
	if err != nil || len(list) != 2 {
		t.Errorf("listing rel-2: %d, %v", len(list), err)
	}
	for query, want := range map[string]int{
		"": 3, "name=rel-1": 1, "name=rel-*": 3, "name=rel_*": 0, "device_type=other-board": 1, "description=FIRST": 1, "update_type=single-file": 3, "update_type=x": 0,
	} {
		var page []menderapi.Artifact
		_, body, h := b.send("GET", menderapi.PathArtifacts+"/list?"+query, b.token, nil)
		if err := json.Unmarshal([]byte(body), &page); err != nil || len(page) != want || h.Get("X-Total-Count") != fmt.Sprint(want) {
			t.Errorf("list?%s: %d of %s, want %d (%v)", query, len(page), h.Get("X-Total-Count"), want, err)
		}
	}
	_, _, h = b.send("GET", menderapi.PathArtifacts+"/list?per_page=1&page=2", b.token, nil)
	if links := strings.Join(h.Values("Link"), "\n"); len(h.Values("Link")) != 4 || !strings.Contains(links, `?page=3&per_page=1>; rel="next"`) {
		t.Errorf("links of a page in the middle:\n%s", links)
	}

	link, err := b.ArtifactLink(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if status, data, _ := b.send("GET", link.URI, "", nil); status != 200 || data != read(t, file) {
		t.Errorf("download: %d, %d bytes", status, len(data))
	}
	u, err := url.Parse(link.URI)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(url.Values){
		"no signature": func(q url.Values) { q.Del("x-men-signature") },
		"later expiry": func(q url.Values) { q.Set("x-men-expire", b.clock.now().Add(time.Hour*9).Format(time.RFC3339)) },
		"forged":       func(q url.Values) { q.Set("x-men-signature", strings.Repeat("A", 43)) },
	} {
		q := u.Query()
		change(q)
		if status, _, _ := b.send("GET", u.Scheme+"://"+u.Host+u.Path+"?"+q.Encode(), "", nil); status != 403 {
			t.Errorf("link with %s: %d, want 403", name, status)
		}
	}
	if status, _, _ := b.send("GET", strings.Replace(link.URI, id, list[0].ID, 1), "", nil); status != 403 {
		t.Errorf("link moved to another artifact: %d, want 403", status)
	}
	b.clock.add(16 * time.Minute)
	if status, _, _ := b.send("GET", link.URI, "", nil); status != 403 {
		t.Errorf("expired link: %d, want 403", status)
	}

	if status, _, _ := b.send("PUT", menderapi.PathArtifacts+"/"+id, b.token, []byte(`{"description":"new \"words\""}`)); status != 204 {
		t.Errorf("description: %d", status)
	}
	if got, err := b.Artifact(t.Context(), id); err != nil || got.Description != `new "words"` || !got.Modified.After(list[0].Modified) {
		t.Errorf("after the new description: %+v %v", got, err)
	}
	if err := b.DeleteArtifact(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteArtifact(t.Context(), id); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("deleting twice: %v", err)
	}
	if n := len(b.blobs()); n != 2 {
		t.Errorf("%d blobs after a deletion, want 2", n)
	}
	if status, _, _ := b.send("GET", menderapi.PathArtifacts+"/not-an-id", b.token, nil); status != 400 {
		t.Errorf("an id that is none: %d", status)
	}
}

// TestRefusedUploads: nothing of a refused upload is listed or left on the disk.
func TestRefusedUploads(t *testing.T) {
	private, public, err := signing.Generate("ecdsa-p256")
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(keyFile, private, 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := signing.LoadFile(keyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := verify.ParseKeys(public)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := verify.NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *server.Config) { c.Keyring = ring; c.Limits.ArtifactBytes = 200 << 10 })
	sign := func(a *artifactfmt.Artifact) { a.Signer = signer }
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	stored := func(a *artifactfmt.Artifact) { sign(a); a.Compression = artifactfmt.CompressionNone }
	good := read(t, artifact(t, "r", "board", payload, stored))
	flipped := []byte(good)
	flipped[bytes.Index(flipped, payload[:64])+100] ^= 1
	other, _, err := signing.Generate("ecdsa-p256")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, other, 0o600); err != nil {
		t.Fatal(err)
	}
	stranger, err := signing.LoadFile(keyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 300<<10)
	for i := range random {
		random[i] = byte(i * i >> 3)
	}
	for name, c := range map[string]struct {
		parts  []string
		status int
		text   string
	}{
		"unsigned":         {[]string{"artifact", read(t, artifact(t, "r", "board", payload, nil))}, 400, "not signed"},
		"stranger's key":   {[]string{"artifact", read(t, artifact(t, "r", "board", payload, func(a *artifactfmt.Artifact) { a.Signer = stranger }))}, 400, "not signed by a key"},
		"flipped bit":      {[]string{"artifact", string(flipped)}, 400, "checksum of data/0000/payload differs"},
		"truncated":        {[]string{"artifact", good[:len(good)/2]}, 400, "too early"},
		"empty":            {[]string{"artifact", ""}, 400, "artifact"},
		"not an artifact":  {[]string{"artifact", strings.Repeat("x", 4096)}, 400, "not a Mender artifact"},
		"wrong size":       {[]string{"size", "12", "artifact", good}, 400, "size part says 12"},
		"size no number":   {[]string{"size", "many", "artifact", good}, 400, "size is not"},
		"size beyond":      {[]string{"size", "999999999", "artifact", good}, 413, "larger than this server takes"},
		"too large":        {[]string{"artifact", read(t, artifact(t, "r", "board", random, stored))}, 413, "larger than this server takes"},
		"long description": {[]string{"description", strings.Repeat("x", 5000), "artifact", good}, 400, "longer than"},
		"no artifact":      {[]string{"size", "1"}, 400, "no part named artifact"},
		"trailing bytes":   {[]string{"artifact", good + "more"}, 400, "follows the end"},
		"bad artifact_id":  {[]string{"artifact_id", "../x", "artifact", good}, 400, "artifact_id"},
	} {
		status, body, _ := b.postForm(c.parts...)
		if status != c.status || !strings.Contains(body, c.text) {
			t.Errorf("%s: %d %s, want %d with %q", name, status, body, c.status, c.text)
		}
		if left := b.blobs(); len(left) > 0 {
			t.Errorf("%s: left on the disk: %v", name, left)
		}
	}
	if status, _, _ := b.send("POST", menderapi.PathArtifacts, b.token, []byte("{}"), "Content-Type", "application/json"); status != 415 {
		t.Errorf("a body of another kind: %d, want 415", status)
	}
	if list, err := b.ListArtifacts(t.Context(), ""); err != nil || len(list) != 0 {
		t.Errorf("listed after refusals: %v %v", list, err)
	}
	if status, body, _ := b.postForm("size", fmt.Sprint(len(good)), "description", "d", "artifact", good); status != 201 {
		t.Fatalf("the good one: %d %s", status, body)
	}
	list, err := b.ListArtifacts(t.Context(), "")
	if err != nil || len(list) != 1 || !list[0].Signed || list[0].KeyID != keys[0].ID {
		t.Errorf("the signed artifact: %+v %v", list, err)
	}
}

// TestUploadCrash stops an upload before each step that it makes on the disk. Nothing half-written is listed, and the
// next start removes what is left.
func TestUploadCrash(t *testing.T) {
	file := artifact(t, "r", "board", bytes.Repeat([]byte("x"), 10_000), nil)
	defer durable.SetHook(nil)
	for failAt := int64(1); ; failAt++ {
		dir, c := t.TempDir(), newClock()
		b := openBench(t, dir, c, nil)
		reached := false
		durable.SetHook(func(s durable.Step) error {
			if s.Number >= failAt { // the disk is gone from here on, as after a crash
				reached = true
				return syscall.EIO
			}
			return nil
		})
		id, err := b.UploadArtifact(t.Context(), file, "", nil)
		durable.SetHook(nil)
		if !reached {
			if err != nil {
				t.Errorf("without a fault: %v", err)
			}
			if failAt < 4 {
				t.Errorf("an upload has only %d steps: the hook does not see them", failAt-1)
			}
			return
		}
		if err == nil {
			t.Fatalf("the upload %s was reported as done, though step %d failed", id, failAt)
		}
		if list, err := b.ListArtifacts(t.Context(), ""); err != nil || len(list) != 0 {
			t.Errorf("fault at step %d: listed %v %v", failAt, list, err)
		}
		b.http.Close()
		b.srv.Close()
		// What a kill leaves besides: an unfinished temporary file and a blob without a record.
		leave := func(name string) {
			if err := os.WriteFile(filepath.Join(dir, "artifacts", name), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		leave(".6c84fb90-12c4-11e1-840d-7b25c5ee775a.mender.twinkeel-tmp-1")
		leave("6c84fb90-12c4-11e1-840d-7b25c5ee775a.mender")
		leave("README") // not ours
		again := openBench(t, dir, c, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := again.srv.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if left := again.blobs(); len(left) != 1 || left[0] != "README" {
			t.Errorf("fault at step %d: after the next start the disk has %v", failAt, left)
		}
		if _, err := again.UploadArtifact(t.Context(), file, "", nil); err != nil {
			t.Errorf("fault at step %d: uploading again: %v", failAt, err)
		}
	}
}

// TestFullDisk: a full disk is the server's trouble, said as such.
func TestFullDisk(t *testing.T) {
	b := newBench(t, nil)
	file := artifact(t, "r", "board", []byte("x"), nil)
	durable.SetHook(func(s durable.Step) error {
		if s.Op == "fsync" {
			return syscall.ENOSPC
		}
		return nil
	})
	defer durable.SetHook(nil)
	_, err := b.UploadArtifact(t.Context(), file, "", nil)
	var api *client.APIError
	if !errors.As(err, &api) || api.Status != http.StatusInsufficientStorage || !strings.Contains(api.Message, "disk is full") {
		t.Errorf("upload to a full disk: %v", err)
	}
	if left := b.blobs(); len(left) > 0 {
		t.Errorf("left on the disk: %v", left)
	}
}

// TestAbortedUpload: a client that goes away in the middle leaves nothing.
func TestAbortedUpload(t *testing.T) {
	b := newBench(t, nil)
	good := read(t, artifact(t, "r", "board", bytes.Repeat([]byte("x"), 100_000), func(a *artifactfmt.Artifact) { a.Compression = artifactfmt.CompressionNone }))
	body, kind := form("artifact", good)
	r, w := io.Pipe()
	go func() {
		w.Write(body[:len(body)/2])
		w.CloseWithError(errors.New("the cable was pulled"))
	}()
	req, err := http.NewRequestWithContext(t.Context(), "POST", b.http.URL+menderapi.PathArtifacts, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Authorization", "Bearer "+b.token)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("half an upload was answered %d", resp.StatusCode)
	}
	b.http.Close() // waits for the handler
	if left := b.blobs(); len(left) > 0 {
		t.Errorf("left on the disk: %v", left)
	}
}

func TestArtifactInUse(t *testing.T) {
	b := newBench(t, nil)
	newDevice(b, "m").accepted()
	id := b.push("r", "board", []byte("x"))
	dep := b.deploy(menderapi.NewDeployment{Name: "d", ArtifactName: "r", AllDevices: true})
	if err := b.DeleteArtifact(t.Context(), id); !errors.Is(err, client.ErrConflict) {
		t.Errorf("deleting an artifact in use: %v", err)
	}
	if err := b.SetDeploymentStatus(t.Context(), dep, "aborted"); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteArtifact(t.Context(), id); err != nil {
		t.Errorf("deleting it after the deployment's end: %v", err)
	}
}

// TestRefusalOfALargeUploadIsHeard: the reason comes although the client is still sending when the server knows it.
func TestRefusalOfALargeUploadIsHeard(t *testing.T) {
	b := newBench(t, nil)
	path := filepath.Join(t.TempDir(), "junk.mender")
	if err := os.WriteFile(path, bytes.Repeat([]byte("junk"), 4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		_, err := b.UploadArtifact(t.Context(), path, "", nil)
		var refused *client.APIError
		if !errors.As(err, &refused) || refused.Status != http.StatusBadRequest {
			t.Fatalf("got %v, want the server's reason", err)
		}
	}
}

// TestTwoUploadsUnderOneID: whichever is refused must not take the other one's bytes away.
func TestTwoUploadsUnderOneID(t *testing.T) {
	b := newBench(t, nil)
	const id = "6f2b0a52-3a6e-4bd4-9b0b-0c6d0a6d3c11"
	big := func(a *artifactfmt.Artifact) { a.Compression = artifactfmt.CompressionNone }
	body, kind := form("artifact_id", id, "artifact", read(t, artifact(t, "slow", "board", bytes.Repeat([]byte("s"), 300_000), big)))
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", b.http.URL+menderapi.PathArtifacts, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Authorization", "Bearer "+b.token)
	slow := make(chan int, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			slow <- 0
			return
		}
		resp.Body.Close()
		slow <- resp.StatusCode
	}()
	w.Write(body[:len(body)/2])
	for tick := time.NewTicker(time.Millisecond); len(b.blobs()) == 0; <-tick.C {
		if t.Context().Err() != nil {
			t.Fatal("the first upload never began")
		}
	}
	quick, _, _ := b.postForm("artifact_id", id, "artifact", read(t, artifact(t, "quick", "board", bytes.Repeat([]byte("q"), 5000), big)))
	w.Write(body[len(body)/2:])
	w.Close()
	if first := <-slow; first != 201 || quick != 409 {
		t.Errorf("the upload that came first: %d, want 201; the other one: %d, want 409", first, quick)
	}
	l, err := b.ArtifactLink(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, _ := b.send("GET", strings.TrimPrefix(l.URI, b.http.URL), "", nil); status != 200 {
		t.Errorf("the artifact is listed, and its download answers %d", status)
	}
}

// TestLongFilters: what SQLite cannot take in one query is refused, and is no fault of the server.
func TestLongFilters(t *testing.T) {
	b := newBench(t, nil)
	newDevice(b, "m").accepted()
	b.push("r", "board", []byte("x"))
	b.deploy(menderapi.NewDeployment{Name: "d", ArtifactName: "r", AllDevices: true})
	long := strings.Repeat("_", 26_000)
	for _, path := range []string{
		menderapi.PathArtifacts + "?" + strings.Repeat("name=a&", 1500),
		menderapi.PathArtifacts + "?name=" + long + "*",
		menderapi.PathArtifacts + "/list?description=" + long,
		menderapi.PathDeployments + "?search=" + long,
	} {
		if status, body, _ := b.send("GET", path, b.token, nil); status != 400 {
			t.Errorf("GET %.80s…: %d %s, want 400", path, status, body)
		}
	}
	if status, body, _ := b.send("GET", menderapi.PathArtifacts+"?name=a&name=r*", b.token, nil); status != 200 || !strings.Contains(body, `"name":"r"`) {
		t.Errorf("two names: %d %s", status, body)
	}
}
