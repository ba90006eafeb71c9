package server_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server"
	"github.com/twinkeel/twinkeel/server/client"
)

// clock is a clock that a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// bench is a server on loopback with a client that may do everything.
type bench struct {
	*client.Client
	t     *testing.T
	srv   *server.Server
	http  *httptest.Server
	clock *clock
	token string
	dir   string
}

func newBench(t *testing.T, change func(*server.Config)) *bench {
	t.Helper()
	return openBench(t, t.TempDir(), newClock(), change)
}

func openBench(t *testing.T, dir string, c *clock, change func(*server.Config)) *bench {
	t.Helper()
	config := server.Config{DataDir: dir, Now: c.now, Limits: server.Limits{LoginRate: 1000, AuthRate: 1000, DeviceRate: 1000}}
	if change != nil {
		change(&config)
	}
	srv, err := server.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	h := httptest.NewServer(srv.Handler())
	t.Cleanup(h.Close)
	token, err := srv.CreateToken(t.Context(), "test "+t.Name()+rand.Text(), 0)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := client.New(h.URL, token, client.Options{RetryWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{Client: cl, t: t, srv: srv, http: h, clock: c, token: token, dir: dir}
}

// artifact writes an artifact file.
func artifact(t *testing.T, name, deviceType string, payload []byte, change func(*artifactfmt.Artifact)) string {
	t.Helper()
	a := &artifactfmt.Artifact{
		Name: name, DeviceTypes: []string{deviceType}, PayloadType: "single-file",
		Files: []artifactfmt.InputFile{{Name: "payload", Size: int64(len(payload)), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(payload)), nil
		}}},
	}
	if change != nil {
		change(a)
	}
	path := filepath.Join(t.TempDir(), "a.mender")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := artifactfmt.Write(t.Context(), f, a); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *bench) push(name, deviceType string, payload []byte) string {
	b.t.Helper()
	id, err := b.UploadArtifact(b.t.Context(), artifact(b.t, name, deviceType, payload, nil), "", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

// device is a client of the device API.
type device struct {
	b     *bench
	mac   string
	key   crypto.Signer
	token string
	id    string // on the server, once known
}

func newDevice(b *bench, mac string) *device {
	b.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	return &device{b: b, mac: mac, key: key}
}

func signBody(key crypto.Signer, body []byte) string {
	digest := sha256.Sum256(body)
	message, hash := digest[:], crypto.SHA256
	if _, ok := key.(ed25519.PrivateKey); ok {
		message, hash = body, crypto.Hash(0)
	}
	sig, err := key.Sign(rand.Reader, message, hash)
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(sig)
}

func publicPEM(key crypto.Signer) string {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func authBody(identity string, key crypto.Signer) []byte {
	body, err := json.Marshal(menderapi.AuthRequest{IDData: identity, PubKey: publicPEM(key)})
	if err != nil {
		panic(err)
	}
	return append(body, '\n') // as the Go client sends it; it is part of what is signed
}

// authenticate asks for a token and keeps it.
func (d *device) authenticate() int {
	d.b.t.Helper()
	body := authBody(fmt.Sprintf(`{"mac":%q}`, d.mac), d.key)
	status, answer, _ := d.b.send("POST", menderapi.PathAuthRequests, "", body, "X-MEN-Signature", signBody(d.key, body))
	if status == http.StatusOK {
		d.token = answer
	}
	return status
}

// accepted makes the device one that is known and accepted.
func (d *device) accepted() *device {
	d.b.t.Helper()
	d.authenticate()
	all, err := d.b.Devices(d.b.t.Context(), "")
	if err != nil {
		d.b.t.Fatal(err)
	}
	for _, a := range all {
		if a.IdentityData["mac"] != d.mac {
			continue
		}
		d.id = a.ID
		if err := d.b.SetAuthStatus(d.b.t.Context(), a.ID, a.AuthSets[len(a.AuthSets)-1].ID, "accepted"); err != nil {
			d.b.t.Fatal(err)
		}
	}
	if status := d.authenticate(); status != http.StatusOK {
		d.b.t.Fatalf("authentication of an accepted device: %d", status)
	}
	return d
}

// send sends a request in chunks, as real clients do, and returns status, body and headers.
func (b *bench) send(method, path, token string, body []byte, headers ...string) (int, string, http.Header) {
	b.t.Helper()
	var r io.Reader
	if body != nil {
		r = io.MultiReader(bytes.NewReader(body)) // of unknown length
	}
	if !strings.HasPrefix(path, "http") {
		path = b.http.URL + path
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, path, r)
	if err != nil {
		b.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := b.http.Client().Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(data), resp.Header
}

// next polls.
func (d *device) next(deviceType, artifactName string) *menderapi.Next {
	d.b.t.Helper()
	body, err := json.Marshal(menderapi.NextRequest{
		DeviceProvides: map[string]string{"device_type": deviceType, "artifact_name": artifactName}, UpdateControlMap: true,
	})
	if err != nil {
		d.b.t.Fatal(err)
	}
	status, answer, _ := d.b.send("POST", menderapi.PathNextV2, d.token, body)
	switch status {
	case http.StatusNoContent:
		return nil
	case http.StatusOK:
		var n menderapi.Next
		if err := json.Unmarshal([]byte(answer), &n); err != nil {
			d.b.t.Fatal(err)
		}
		return &n
	}
	d.b.t.Fatalf("next: %d %s", status, answer)
	return nil
}

func (d *device) report(id string, statuses ...menderapi.Status) int {
	d.b.t.Helper()
	last := 0
	for _, s := range statuses {
		last, _, _ = d.b.send("PUT", fmt.Sprintf(menderapi.PathDeploymentStatus, id), d.token, []byte(`{"status":"`+string(s)+`"}`+"\n"))
	}
	return last
}

func (b *bench) deploy(n menderapi.NewDeployment) string {
	b.t.Helper()
	id, err := b.CreateDeployment(b.t.Context(), n)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b *bench) deployment(id string) *menderapi.Deployment {
	b.t.Helper()
	d, err := b.Deployment(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	sum := 0
	for _, n := range d.Statistics.Status {
		sum += n
	}
	if sum != d.MaxDevices {
		b.t.Errorf("the statistics of %s sum to %d of %d targets: %v", id, sum, d.MaxDevices, d.Statistics.Status)
	}
	return d
}

func (b *bench) expectStats(id string, want map[menderapi.Status]int) {
	b.t.Helper()
	got := b.deployment(id).Statistics.Status
	if len(got) != len(menderapi.DeviceStatuses) {
		b.t.Errorf("the statistics have %d statuses, want all %d", len(got), len(menderapi.DeviceStatuses))
	}
	for _, s := range menderapi.DeviceStatuses {
		if got[s] != want[s] {
			b.t.Errorf("statistics: %s = %d, want %d (all: %v)", s, got[s], want[s], got)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// TestWholeWay walks the main job: a device comes, is accepted, and gets a release.
func TestWholeWay(t *testing.T) {
	b := newBench(t, nil)
	d := newDevice(b, "02:00:00:00:00:01")
	if got := d.authenticate(); got != http.StatusUnauthorized {
		t.Errorf("a new device was answered %d, want 401 until it is accepted", got)
	}
	d.accepted()
	if n := d.next("board", "old"); n != nil {
		t.Errorf("an offer without a deployment: %+v", n)
	}
	payload := bytes.Repeat([]byte("payload "), 4000)
	file := artifact(t, "release-1", "board", payload, nil)
	var sent int64
	artifactID, err := b.UploadArtifact(t.Context(), file, "first", func(done, total int64) { sent = done })
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if sent != int64(len(want)) {
		t.Errorf("progress ended at %d of %d bytes", sent, len(want))
	}
	id := b.deploy(menderapi.NewDeployment{Name: "first", ArtifactName: "release-1", AllDevices: true})
	b.expectStats(id, map[menderapi.Status]int{"pending": 1})

	n := d.next("board", "old")
	if n == nil || n.ID != id || n.Artifact.ID != artifactID || n.Artifact.ArtifactName != "release-1" ||
		fmt.Sprint(n.Artifact.DeviceTypesCompatible) != "[board]" {
		t.Fatalf("offer %+v", n)
	}
	status, got, h := b.send("GET", n.Artifact.Source.URI, "", nil, "Accept-Encoding", "gzip")
	if status != 200 || got != string(want) {
		t.Errorf("download: %d with %d bytes, want %d", status, len(got), len(want))
	}
	for name, value := range map[string]string{
		"Content-Type": menderapi.ContentTypeArtifact, "Accept-Ranges": "bytes", "Content-Encoding": "",
		"Content-Length": fmt.Sprint(len(want)), "Content-Disposition": `attachment; filename="release-1.mender"`,
	} {
		if h.Get(name) != value {
			t.Errorf("download header %s is %q, want %q", name, h.Get(name), value)
		}
	}
	status, got, h = b.send("GET", n.Artifact.Source.URI, "", nil, "Range", "bytes=1000-")
	if status != 206 || got != string(want[1000:]) || h.Get("Content-Range") != fmt.Sprintf("bytes 1000-%d/%d", len(want)-1, len(want)) {
		t.Errorf("resumed download: %d, %d bytes, Content-Range %q", status, len(got), h.Get("Content-Range"))
	}

	// What a real client sends in one successful update, repetitions included.
	if got := d.report(id, "downloading", "downloading", "downloading", "installing", "installing", "success"); got != 204 {
		t.Errorf("report of success: %d", got)
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 1})
	dep := b.deployment(id)
	if dep.Status != "finished" || dep.Finished == nil || dep.DeviceCount != 1 || dep.Statistics.TotalSize != int64(len(want)) {
		t.Errorf("deployment after the last report: %+v", dep)
	}
	if got := d.report(id, "failure", "success", "downloading"); got != 204 {
		t.Errorf("report after the end: %d", got)
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 1})
	if n := d.next("board", "release-1"); n != nil {
		t.Errorf("an offer after success: %+v", n)
	}
}

func TestDeviceKeys(t *testing.T) {
	b := newBench(t, nil)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"rsa": rsaKey, "ecdsa": ecKey, "ed25519": edKey} {
		d := &device{b: b, mac: name, key: key}
		d.accepted()
		if d.token == "" || d.next("x", "y") != nil {
			t.Errorf("%s: no token", name)
		}
	}
	good := authBody(`{"mac":"m"}`, edKey)
	for name, c := range map[string]struct {
		body, signature string
		want            int
	}{
		"no signature":        {string(good), "", 400},
		"other key":           {string(good), signBody(ecKey, good), 401},
		"body changed":        {string(good) + " ", signBody(edKey, good), 401},
		"not base64":          {string(good), "%%%", 401},
		"not JSON":            {"{", "AAAA", 400},
		"no fields":           {"{}", "AAAA", 400},
		"identity not object": {string(authBody(`["m"]`, edKey)), signBody(edKey, authBody(`["m"]`, edKey)), 400},
		"identity empty":      {string(authBody(`{}`, edKey)), signBody(edKey, authBody(`{}`, edKey)), 400},
		"identity and more":   {string(authBody(`{"a":"b"} x`, edKey)), signBody(edKey, authBody(`{"a":"b"} x`, edKey)), 400},
		"curve":               {string(authBody(`{"m":"m"}`, p384)), signBody(p384, authBody(`{"m":"m"}`, p384)), 400},
		"too large":           {string(authBody(`{"m":"`+strings.Repeat("x", 20<<10)+`"}`, edKey)), "AAAA", 413},
	} {
		if got, answer, _ := b.send("POST", menderapi.PathAuthRequests, "", []byte(c.body), "X-MEN-Signature", c.signature); got != c.want {
			t.Errorf("%s: %d %s, want %d", name, got, answer, c.want)
		}
	}
}

// TestIdentity: the same identity in another order is the same device; another key of it is another auth set that waits, and
// accepting it ends the first one at once.
func TestIdentity(t *testing.T) {
	b := newBench(t, func(c *server.Config) { c.AutoAccept = true })
	first, second := newDevice(b, ""), newDevice(b, "")
	ask := func(d *device, identity string) int {
		body := authBody(identity, d.key)
		status, answer, _ := b.send("POST", menderapi.PathAuthRequests, "", body, "X-MEN-Signature", signBody(d.key, body))
		if status == 200 {
			d.token = answer
		}
		return status
	}
	if got := ask(first, `{"sn":"1","mac":"m"}`); got != 200 {
		t.Fatalf("auto-accept: %d", got)
	}
	if got := ask(first, `{ "mac":"m", "sn":"1" }`); got != 200 {
		t.Errorf("same identity in another order: %d", got)
	}
	if got := ask(second, `{"sn":"1","mac":"m"}`); got != 401 {
		t.Errorf("a second key of a known device was accepted by itself: %d", got)
	}
	devices, err := b.Devices(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(devices) != 1 || len(devices[0].AuthSets) != 2 || devices[0].Status != "accepted" {
		t.Fatalf("devices: %+v", devices)
	}
	for _, a := range devices[0].AuthSets {
		if a.Status == "pending" {
			if err := b.SetAuthStatus(t.Context(), devices[0].ID, a.ID, "accepted"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, _, h := b.send("POST", menderapi.PathNextV2, first.token, []byte(`{"device_provides":{"device_type":"a","artifact_name":"b"}}`)); got != 401 || h.Get("WWW-Authenticate") == "" {
		t.Errorf("the replaced key's token still works: %d", got)
	}
	if got := ask(second, `{"sn":"1","mac":"m"}`); got != 200 {
		t.Errorf("the accepted second key: %d", got)
	}
	if err := b.DeleteDevice(t.Context(), devices[0].ID); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := b.send("PUT", menderapi.PathDeviceAttributes, second.token, []byte(`[]`)); got != 401 {
		t.Errorf("a decommissioned device's token still works: %d", got)
	}
}

func TestBoundsOnStrangers(t *testing.T) {
	b := newBench(t, func(c *server.Config) { c.Limits.PendingDevices, c.Limits.KeysPerDevice = 3, 2 })
	for i := range 5 {
		newDevice(b, fmt.Sprint("stranger ", i)).authenticate()
		newDevice(b, "stranger 0").authenticate()
	}
	devices, err := b.Devices(t.Context(), "pending")
	if err != nil {
		t.Fatal(err)
	}
	if len(devices) != 3 || len(devices[0].AuthSets) != 2 {
		t.Errorf("%d devices are pending, the first with %d keys; want 3 and 2", len(devices), len(devices[0].AuthSets))
	}
	slow := newBench(t, func(c *server.Config) { c.Limits.AuthRate = 0.1 })
	d := newDevice(slow, "m")
	d.authenticate()
	if got := d.authenticate(); got != http.StatusTooManyRequests {
		t.Errorf("second request in one instant: %d, want 429", got)
	}
	slow.clock.add(11 * time.Second)
	if got := d.authenticate(); got != http.StatusUnauthorized {
		t.Errorf("request after the pause: %d, want 401", got)
	}
}

// TestLoginRateOfNetworks: an IPv6 network of 64 bits is one sender, another one is another.
func TestLoginRateOfNetworks(t *testing.T) {
	b := newBench(t, func(c *server.Config) { c.Limits.LoginRate = 0.1 })
	for _, c := range []struct {
		from string
		want int
	}{
		{"[2001:db8:0:1::1]:1000", 401},
		{"[2001:db8:0:1:ffff::2]:1000", 429},
		{"[2001:db8:0:2::1]:1000", 401},
		{"192.0.2.1:1000", 401},
		{"192.0.2.2:1000", 401},
		{"192.0.2.1:1001", 429},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", menderapi.PathLogin, nil)
		r.RemoteAddr = c.from
		w := httptest.NewRecorder()
		b.srv.Handler().ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("a login from %s: %d, want %d", c.from, w.Code, c.want)
		}
	}
}

// TestTokensAreForOneThing: no token works where another kind belongs, nor after its end.
func TestTokensAreForOneThing(t *testing.T) {
	b := newBench(t, nil)
	d := newDevice(b, "m").accepted()
	if got, _, _ := b.send("GET", menderapi.PathArtifacts, d.token, nil); got != 401 {
		t.Errorf("a device's token on the management API: %d", got)
	}
	if got, _, _ := b.send("PUT", menderapi.PathDeviceAttributes, b.token, []byte("[]")); got != 401 {
		t.Errorf("a user's token on the device API: %d", got)
	}
	other := newBench(t, nil)
	if got, _, _ := other.send("GET", menderapi.PathArtifacts, b.token, nil); got != 401 {
		t.Errorf("another server's token: %d", got)
	}
	parts := strings.Split(b.token, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + "."
	if got, _, _ := b.send("GET", menderapi.PathArtifacts, none, nil); got != 401 {
		t.Errorf("an unsigned token: %d", got)
	}
	b.clock.add(25 * time.Hour)
	if got, _, _ := b.send("PUT", menderapi.PathDeviceAttributes, d.token, []byte("[]")); got != 401 {
		t.Errorf("an expired device token: %d", got)
	}
	if got := d.authenticate(); got != 200 {
		t.Errorf("renewing: %d", got)
	}
	short, err := b.srv.CreateToken(t.Context(), "short", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := b.send("GET", menderapi.PathArtifacts, short, nil); got != 200 {
		t.Errorf("an access token: %d", got)
	}
	b.clock.add(2 * time.Hour)
	if got, _, _ := b.send("GET", menderapi.PathArtifacts, short, nil); got != 401 {
		t.Errorf("an expired access token: %d", got)
	}
	if _, err := b.srv.CreateToken(t.Context(), "short", 0); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("a second token of one name: %v", err)
	}
}

func TestLogin(t *testing.T) {
	b := newBench(t, nil)
	if err := b.srv.AddUser(t.Context(), "Ada@Example.com", "correct horse"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string][2]string{
		"short password": {"x@example.com", "short"}, "no address": {"x", "long enough"}, "twice": {"ada@example.com", "another one"},
	} {
		if err := b.srv.AddUser(t.Context(), c[0], c[1]); err == nil {
			t.Errorf("%s: the user was added", name)
		}
	}
	anonymous, err := client.New(b.http.URL, "", client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := anonymous.Login(t.Context(), "ADA@example.com", "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if got, body, _ := b.send("GET", "/api/management/v1/useradm/users/me", token, nil); got != 200 || !strings.Contains(body, `"ada@example.com"`) {
		t.Errorf("me: %d %s", got, body)
	}
	for _, wrong := range [][2]string{{"ada@example.com", "wrong horse"}, {"eve@example.com", "correct horse"}, {"", ""}} {
		if _, err := anonymous.Login(t.Context(), wrong[0], wrong[1]); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("login as %q with %q: %v", wrong[0], wrong[1], err)
		}
	}
	got, pat, _ := b.send("POST", "/api/management/v1/useradm/settings/tokens", token, []byte(`{"name":"ci","expires_in":3600}`))
	if got != 200 || strings.Count(pat, ".") != 2 {
		t.Errorf("new token: %d %s", got, pat)
	}
	if got, _, _ := b.send("POST", "/api/management/v1/useradm/settings/tokens", token, []byte(`{"name":"ci"}`)); got != 409 {
		t.Errorf("second token of one name: %d", got)
	}
	if got, _, _ := b.send("POST", "/api/management/v1/useradm/auth/logout", token, nil); got != 202 {
		t.Errorf("logout: %d", got)
	}
	if got, _, _ := b.send("GET", menderapi.PathArtifacts, token, nil); got != 401 {
		t.Errorf("after logout: %d", got)
	}
	if got, _, _ := b.send("GET", menderapi.PathArtifacts, pat, nil); got != 200 {
		t.Errorf("the access token after logout: %d", got)
	}
	if err := b.srv.SetPassword(t.Context(), "ada@example.com", "battery staple"); err != nil {
		t.Fatal(err)
	}
	if _, err := anonymous.Login(t.Context(), "ada@example.com", "correct horse"); err == nil {
		t.Error("the old password still works")
	}
	slow := newBench(t, func(c *server.Config) { c.Limits.LoginRate = 0.1 })
	slow.send("POST", menderapi.PathLogin, "", nil)
	if got, _, h := slow.send("POST", menderapi.PathLogin, "", nil); got != 429 || h.Get("Retry-After") == "" {
		t.Errorf("second login in one instant: %d", got)
	}
}

// TestRestart: tokens, links and state survive; a second server on the directory is refused, a second opener is not.
func TestRestart(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	var uri, token string
	t.Run("first", func(t *testing.T) {
		b := openBench(t, dir, c, nil)
		d := newDevice(b, "m").accepted()
		b.push("r", "board", []byte("x"))
		b.deploy(menderapi.NewDeployment{Name: "d", ArtifactName: "r", AllDevices: true})
		uri, token = d.next("board", "old").Artifact.Source.URI, d.token
		second, err := server.Open(t.Context(), server.Config{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close()
		if err := second.AddUser(t.Context(), "a@example.com", "correct horse"); err != nil {
			t.Errorf("adding a user beside a running server: %v", err)
		}
		if err := second.TakeOver(); !errors.Is(err, server.ErrInUse) {
			t.Errorf("a second server took over one data directory: %v", err)
		}
		if err := second.Run(t.Context()); !errors.Is(err, server.ErrInUse) {
			t.Errorf("a second server ran on one data directory: %v", err)
		}
	})
	b := openBench(t, dir, c, nil)
	i := strings.Index(uri, "/api/")
	if got, _, _ := b.send("GET", uri[i:], "", nil); got != 200 {
		t.Errorf("a link after a restart: %d", got)
	}
	if got, _, _ := b.send("PUT", menderapi.PathDeviceAttributes, token, []byte("[]")); got != 200 {
		t.Errorf("a device token after a restart: %d", got)
	}
	for _, name := range []string{"secret", "server.db"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "secret" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
	if err := os.Chmod(filepath.Join(dir, "secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Open(t.Context(), server.Config{DataDir: dir}); err == nil || !strings.Contains(err.Error(), "others can read it") {
		t.Errorf("a secret that others can read: %v", err)
	}
}

type brokenListener struct{ net.Listener }

func (brokenListener) Accept() (net.Conn, error) { return nil, errors.New("broken") }
func (brokenListener) Close() error              { return nil }

func TestServeTLS(t *testing.T) {
	srv, err := server.Open(t.Context(), server.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	borrowed := httptest.NewTLSServer(nil) // for its certificate
	defer borrowed.Close()
	l := httptest.NewUnstartedServer(nil).Listener
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l, &tls.Config{Certificates: borrowed.TLS.Certificates}) }()
	resp, err := borrowed.Client().Get("https://" + l.Addr().String() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 204 || resp.Header.Get("Strict-Transport-Security") == "" || resp.TLS.Version < tls.VersionTLS12 {
		t.Errorf("readyz: %d %v", resp.StatusCode, resp.Header)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
}

// TestNothingSecretIsLogged: a whole way, logged at every level, shows no token, password, signature or link.
func TestNothingSecretIsLogged(t *testing.T) {
	var mu sync.Mutex
	var log strings.Builder
	b := newBench(t, func(c *server.Config) {
		c.Logger = slog.New(slog.NewJSONHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	if err := b.srv.AddUser(t.Context(), "ada@example.com", "correct horse"); err != nil {
		t.Fatal(err)
	}
	session, err := b.Login(t.Context(), "ada@example.com", "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Login(t.Context(), "ada@example.com", "wrong horse"); err == nil {
		t.Fatal("logged in")
	}
	d := newDevice(b, "02:00:00:00:00:01").accepted()
	b.push("r", "board", []byte("x"))
	id := b.deploy(menderapi.NewDeployment{Name: "d", ArtifactName: "r", AllDevices: true})
	uri := d.next("board", "old").Artifact.Source.URI
	b.send("GET", uri, "", nil)
	b.send("GET", uri+"x", "", nil)
	d.report(id, "success")
	b.http.Close()
	mu.Lock()
	defer mu.Unlock()
	if strings.Count(log.String(), "\n") < 10 || !strings.Contains(log.String(), d.id) {
		t.Fatalf("hardly anything was logged: %s", log.String())
	}
	_, signature, _ := strings.Cut(uri, "x-men-signature=")
	for name, secret := range map[string]string{
		"access token": b.token, "session": session, "password": "correct horse", "wrong password": "wrong horse", "device token": d.token,
		"link": signature, "identity": d.mac,
	} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has the %s", name)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestServe(t *testing.T) {
	srv, err := server.Open(t.Context(), server.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	l := httptest.NewUnstartedServer(nil).Listener
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l, nil) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 204 {
		t.Errorf("healthz: %d", resp.StatusCode)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := srv.Serve(t.Context(), brokenListener{}, nil); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("serve on a broken listener: %v", err)
	}
	if resp, err := http.Get("http://" + l.Addr().String() + "/healthz"); err == nil {
		resp.Body.Close()
		t.Error("the server still answers after its end")
	}
}
