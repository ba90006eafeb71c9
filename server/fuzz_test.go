package server_test

import (
	"crypto/ed25519"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server"
)

// FuzzRequests: whatever body and query come, the answer is never the server's own fault, and every refusal has
// Mender's form.
func FuzzRequests(f *testing.F) {
	srv, err := server.Open(f.Context(), server.Config{DataDir: f.TempDir(), AutoAccept: true, Limits: server.Limits{
		AuthRate: 1e9, DeviceRate: 1e9, LoginRate: 1e9,
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { srv.Close() })
	h := srv.Handler()
	user, err := srv.CreateToken(f.Context(), "fuzz", 0)
	if err != nil {
		f.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	login := authBody(`{"mac":"m"}`, key)
	r := httptest.NewRequestWithContext(f.Context(), "POST", menderapi.PathAuthRequests, strings.NewReader(string(login)))
	r.Header.Set("X-MEN-Signature", signBody(key, login))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	device := w.Body.String()
	if w.Code != 200 {
		f.Fatalf("authentication: %d %s", w.Code, device)
	}
	const id = "6c84fb90-12c4-11e1-840d-7b25c5ee775a"
	targets := []struct{ method, path, token string }{
		{"POST", menderapi.PathAuthRequests, ""},
		{"POST", menderapi.PathNextV2, device},
		{"POST", menderapi.PathNextV1, device},
		{"GET", menderapi.PathNextV1, device},
		{"PUT", "/api/devices/v1/deployments/device/deployments/" + id + "/status", device},
		{"PUT", "/api/devices/v1/deployments/device/deployments/" + id + "/log", device},
		{"PUT", menderapi.PathDeviceAttributes, device},
		{"PATCH", menderapi.PathDeviceAttributes, device},
		{"GET", "/api/devices/v1/deployments/download/artifacts/" + id, ""},
		{"POST", menderapi.PathDeployments, user},
		{"GET", menderapi.PathDeployments, user},
		{"PUT", menderapi.PathDeployments + "/" + id + "/status", user},
		{"POST", menderapi.PathDeployments + "/statistics/list", user},
		{"GET", menderapi.PathArtifacts + "/list", user},
		{"POST", menderapi.PathArtifacts, user},
		{"POST", "/api/management/v2/devauth/devices/search", user},
		{"GET", menderapi.PathAuthDevices, user},
		{"GET", menderapi.PathInventory, user},
		{"PATCH", menderapi.PathGroups + "/g/devices", user},
		{"POST", "/api/management/v1/useradm/settings/tokens", user},
	}
	for i, body := range []string{
		`{"device_provides":{"device_type":"board","artifact_name":"old"}}`, `{"device_provides":null}`, `{"status":"success","substate":"x"}`,
		`{"messages":[{"timestamp":"2026-03-01T12:00:00Z","level":"a","message":"b"}]}`, `[{"name":"a","value":[1,2]}]`, `[{"name":"a","value":1e999}]`,
		`{"name":"n","artifact_name":"r","all_devices":true,"policy":{"phases":[{"count":1},{"percent":100}],"failure_threshold":0}}`,
		`{"deployment_ids":["x"]}`, `{"status":["accepted"],"id":"x"}`, `["x"]`, `{"name":"t","expires_in":1}`, `null`, `[null]`, "\x00", `{"status":null}`,
		`--b` + "\r\nContent-Disposition: form-data; name=\"artifact\"\r\n\r\nx\r\n--b--\r\n",
	} {
		f.Add(uint8(i), "page=1&sort=a:desc&name=x*", body)
		f.Add(uint8(i+4), "page=-1&x-men-expire=x&x-men-signature=x&status=%00&a/b=eq:c", body)
		f.Add(uint8(14), "", body)
	}
	f.Fuzz(func(t *testing.T, which uint8, query, body string) {
		target := targets[int(which)%len(targets)]
		r := httptest.NewRequestWithContext(t.Context(), target.method, target.path, strings.NewReader(body))
		r.URL.RawQuery = query
		r.Header.Set("Authorization", "Bearer "+target.token)
		r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		r.Header.Set("X-MEN-Signature", signBody(key, []byte(body)))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%s %s?%s with %q: %d %s", target.method, target.path, query, body, w.Code, w.Body)
		}
		if w.Code >= 400 && !strings.HasPrefix(w.Body.String(), `{"error":"`) {
			t.Fatalf("%s %s?%s with %q: %d %s", target.method, target.path, query, body, w.Code, w.Body)
		}
	})
}
