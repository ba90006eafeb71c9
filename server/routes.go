package server

import (
	"net/http"
	"strings"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// access says who may call a route.
type access int

const (
	open   access = iota // anyone; the handler checks what it needs
	device               // an accepted device with its token
	user                 // a person or a program with a token of the management API
)

// route is one line of the API.
type route struct {
	pattern string
	access  access
	handler handler
}

// Prefixes of the paths.
const (
	deviceAuth        = "/api/devices/v1/authentication"
	deviceDeployments = "/api/devices/v1/deployments"
	downloads         = deviceDeployments + "/download/artifacts/"
	useradm           = "/api/management/v1/useradm"
	artifacts         = menderapi.PathArtifacts
	deployments       = menderapi.PathDeployments
	devauth           = "/api/management/v2/devauth"
	inventory         = "/api/management/v1/inventory"
)

func (s *Server) routes() []route {
	return []route{
		{"GET /healthz", open, s.healthz},
		{"GET /readyz", open, s.readyz},

		{"POST " + menderapi.PathAuthRequests, open, s.authRequest},
		{"POST " + menderapi.PathNextV2, device, s.nextV2},
		{"POST " + menderapi.PathNextV1, device, s.nextV1},
		{"GET " + menderapi.PathNextV1, device, s.nextV1Query},
		{"PUT " + deviceDeployments + "/device/deployments/{id}/status", device, s.reportStatus},
		{"PUT " + deviceDeployments + "/device/deployments/{id}/log", device, s.putLog},
		{"PUT " + menderapi.PathDeviceAttributes, device, s.putAttributes},
		{"PATCH " + menderapi.PathDeviceAttributes, device, s.putAttributes},
		{"GET " + downloads + "{id}", open, s.download},

		{"POST " + menderapi.PathLogin, open, s.login},
		{"POST " + useradm + "/auth/logout", user, s.logout},
		{"GET " + useradm + "/users/me", user, s.me},
		{"GET " + useradm + "/settings/tokens", user, s.listTokens},
		{"POST " + useradm + "/settings/tokens", user, s.newToken},
		{"DELETE " + useradm + "/settings/tokens/{id}", user, s.deleteToken},

		{"POST " + artifacts, user, s.upload},
		{"GET " + artifacts, user, s.listArtifacts},
		{"GET " + artifacts + "/list", user, s.pageArtifacts},
		{"GET /api/management/v2/deployments/artifacts", user, s.pageArtifacts},
		{"GET " + artifacts + "/{id}", user, s.getArtifact},
		{"PUT " + artifacts + "/{id}", user, s.describeArtifact},
		{"DELETE " + artifacts + "/{id}", user, s.deleteArtifact},
		{"GET " + artifacts + "/{id}/download", user, s.artifactLink},
		{"GET /api/management/v1/deployments/limits/storage", user, s.storageLimit},

		{"POST " + deployments, user, s.newDeployment},
		{"POST " + deployments + "/group/{name}", user, s.newGroupDeployment},
		{"GET " + deployments, user, s.listDeployments},
		{"POST " + deployments + "/statistics/list", user, s.listStatistics},
		{"GET " + deployments + "/{id}", user, s.getDeployment},
		{"PUT " + deployments + "/{id}/status", user, s.steerDeployment},
		{"GET " + deployments + "/{id}/{what}", user, s.getDeploymentPart},
		{"GET " + deployments + "/{id}/devices/list", user, s.pageDeploymentDevices},
		{"GET " + deployments + "/{id}/devices/{device}/log", user, s.getLog},
		{"DELETE " + deployments + "/devices/{device}", user, s.endDevice},

		{"GET " + devauth + "/devices", user, s.listDevices},
		{"POST " + devauth + "/devices/search", user, s.searchDevices},
		{"GET " + devauth + "/devices/count", user, s.countDevices},
		{"GET " + devauth + "/devices/{id}", user, s.getDevice},
		{"DELETE " + devauth + "/devices/{id}", user, s.deleteDevice},
		{"DELETE " + devauth + "/devices/{id}/auth/{set}", user, s.deleteAuthSet},
		{"GET " + devauth + "/devices/{id}/auth/{set}/status", user, s.getAuthStatus},
		{"PUT " + devauth + "/devices/{id}/auth/{set}/status", user, s.setAuthStatus},
		{"GET " + devauth + "/limits/max_devices", user, s.deviceLimit},

		{"GET " + inventory + "/devices", user, s.listInventory},
		{"GET " + inventory + "/devices/{id}", user, s.getInventory},
		{"DELETE " + inventory + "/devices/{id}", user, s.clearInventory},
		{"GET " + inventory + "/devices/{id}/group", user, s.getGroup},
		{"PUT " + inventory + "/devices/{id}/group", user, s.setGroup},
		{"DELETE " + inventory + "/devices/{id}/group/{name}", user, s.leaveGroup},
		{"GET " + inventory + "/groups", user, s.listGroups},
		{"GET " + inventory + "/groups/{name}/devices", user, s.listGroupDevices},
		{"PATCH " + inventory + "/groups/{name}/devices", user, s.joinGroup},
		{"DELETE " + inventory + "/groups/{name}/devices", user, s.emptyGroup},
	}
}

// Handler answers the requests of both APIs.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.Handle(r.pattern, s.guard(r))
	}
	return s.observe(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern == "" { // the mux's own answers are plain text; clients want JSON
			probe := &headerProbe{header: http.Header{}}
			h.ServeHTTP(probe, r)
			if allow := probe.header.Get("Allow"); allow != "" {
				w.Header().Set("Allow", allow)
				s.answer(w, r, refuse(http.StatusMethodNotAllowed, "%s is not possible here; %s is", clip(r.Method), allow))
				return
			}
			s.answer(w, r, refuse(http.StatusNotFound, "no such path: %s", clip(r.URL.Path)))
			return
		}
		mux.ServeHTTP(w, r)
	}))
}

// headerProbe takes an answer and keeps its headers.
type headerProbe struct{ header http.Header }

func (p *headerProbe) Header() http.Header         { return p.header }
func (p *headerProbe) Write(b []byte) (int, error) { return len(b), nil }
func (p *headerProbe) WriteHeader(int)             {}

// guard checks who calls before the handler runs.
func (s *Server) guard(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		switch rt.access {
		case device:
			err = s.checkDevice(r)
		case user:
			err = s.checkUser(r)
		}
		if err == nil {
			err = rt.handler(w, r)
		}
		if err != nil {
			s.answer(w, r, err)
		}
	})
}

// bearer returns the token of a request, or nothing.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error { return noContent(w) }

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	if err := s.store.Ping(r.Context()); err != nil {
		return err
	}
	if err := s.blobs.Check(); err != nil {
		return err
	}
	return noContent(w)
}
