package server

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/rollout"
	"github.com/twinkeel/twinkeel/server/internal/store"
)

// Bounds of a deployment's fields, as in Mender.
const (
	maxDeploymentName = 4096
	maxStatistics     = 100 // deployments in one request
	maxHistoryPage    = 20
)

// newDeployment starts a deployment to a list of devices, to all, or to what its policy chooses.
func (s *Server) newDeployment(w http.ResponseWriter, r *http.Request) error {
	var n menderapi.NewDeployment
	if err := s.decode(w, r, &n); err != nil {
		return err
	}
	chosen := n.Policy != nil && (len(n.Policy.Groups) > 0 || len(n.Policy.ExcludeGroups) > 0 || len(n.Policy.Filter) > 0)
	switch {
	case len(n.Devices) > 0 && (n.AllDevices || chosen):
		return invalid("devices excludes all_devices and the policy's groups, exclude_groups and filter")
	case len(n.Devices) == 0 && !n.AllDevices && !chosen:
		return invalid("the deployment has no devices: set devices, all_devices, or groups or a filter in the policy")
	}
	return s.createDeployment(w, r, n)
}

// newGroupDeployment starts a deployment to a static group.
func (s *Server) newGroupDeployment(w http.ResponseWriter, r *http.Request) error {
	var n menderapi.NewDeployment
	if err := s.decode(w, r, &n); err != nil {
		return err
	}
	group := r.PathValue("name")
	if !isGroupName(group) {
		return invalid("%q is not the name of a group", clip(group))
	}
	if len(n.Devices) > 0 || n.AllDevices {
		return invalid("a deployment to a group has no devices and no all_devices")
	}
	if n.Policy == nil {
		n.Policy = &menderapi.Policy{}
	}
	n.Policy.Groups = []string{group}
	return s.createDeployment(w, r, n)
}

func (s *Server) createDeployment(w http.ResponseWriter, r *http.Request, n menderapi.NewDeployment) error {
	for _, f := range []struct{ name, value string }{{"name", n.Name}, {"artifact_name", n.ArtifactName}} {
		if f.value == "" || len(f.value) > maxDeploymentName {
			return invalid("%s must have 1 to %d bytes", f.name, maxDeploymentName)
		}
	}
	if n.Retries < 0 || n.Retries > rollout.MaxRetries {
		return invalid("retries must be 0 to %d", rollout.MaxRetries)
	}
	if n.Policy == nil {
		n.Policy = &menderapi.Policy{}
	}
	policy, err := rollout.Complete(*n.Policy)
	if err != nil {
		return invalid("%v", err)
	}
	id, err := s.store.CreateDeployment(r.Context(), store.NewDeployment{
		Name: n.Name, ArtifactName: n.ArtifactName, Devices: n.Devices, Force: n.ForceInstallation, Retries: n.Retries, Policy: policy,
	}, s.now())
	var noTarget *store.TargetError
	var badPolicy *rollout.PolicyError
	switch {
	case errors.Is(err, store.ErrNotFound):
		return refuse(http.StatusUnprocessableEntity, "no artifact is named %q", clip(n.ArtifactName))
	case errors.Is(err, store.ErrExists):
		return refuse(http.StatusConflict, "an unfinished deployment has the same name, artifact and devices")
	case errors.As(err, &noTarget), errors.As(err, &badPolicy):
		return invalid("%v", err)
	case err != nil:
		return err
	}
	s.log.Info("deployment created", "request", callOf(r).id, "deployment", id, "user", callOf(r).user)
	return created(w, deployments+"/"+id)
}

func (s *Server) listDeployments(w http.ResponseWriter, r *http.Request) error {
	p, err := pagingOf(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	f := store.DeploymentFilter{Status: q.Get("status"), Search: q.Get("search")}
	if len(f.Search) > maxDescription {
		return errSearchText
	}
	switch f.Status {
	case "", menderapi.DeploymentPending, menderapi.DeploymentInProgress, menderapi.DeploymentFinished:
	default:
		return invalid("status must be pending, inprogress or finished")
	}
	if t := q.Get("type"); t != "" && t != "software" {
		return writeJSON(w, http.StatusOK, []menderapi.Deployment{}) // configuration deployments: there are none
	}
	switch q.Get("sort") {
	case "", "desc":
	case "asc":
		f.OldestFirst = true
	default:
		return invalid("sort must be asc or desc")
	}
	for _, b := range []struct {
		name string
		into *time.Time
	}{{"created_before", &f.CreatedBefore}, {"created_after", &f.CreatedAfter}} {
		if text := q.Get(b.name); text != "" {
			seconds, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return invalid("%s must be a time in seconds since 1970", b.name)
			}
			*b.into = time.Unix(seconds, 0)
		}
	}
	items, total, err := s.store.Deployments(r.Context(), f, p.store(), s.now())
	if err != nil {
		return err
	}
	p.headers(w, r, total)
	return writeJSON(w, http.StatusOK, list(items))
}

func (s *Server) getDeployment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	d, err := s.store.Deployment(r.Context(), id, s.now())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, d)
}

// steerDeployment aborts a deployment as in Mender; pausing and resuming are ours.
func (s *Server) steerDeployment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var req menderapi.DeploymentStatus
	if err := s.decode(w, r, &req); err != nil {
		return err
	}
	switch req.Status {
	case menderapi.RolloutAborted:
		err = s.store.Abort(r.Context(), id, "aborted by a person", s.now())
	case menderapi.RolloutPaused:
		err = s.store.Pause(r.Context(), id, "paused by a person", s.now())
	case menderapi.RolloutRunning:
		err = s.store.Resume(r.Context(), id, s.now())
	case menderapi.StatusApproved:
		err = s.store.Approve(r.Context(), id, req.Phase, s.now())
	default:
		return invalid("status must be aborted, paused, running or approved")
	}
	var notWaiting *rollout.NotWaitingError
	if errors.As(err, &notWaiting) {
		return refuse(http.StatusConflict, "%v", notWaiting)
	}
	if errors.Is(err, store.ErrFinished) {
		return refuse(http.StatusUnprocessableEntity, "the deployment has finished already")
	}
	if err != nil {
		return err
	}
	s.log.Info("deployment steered", "request", callOf(r).id, "deployment", id, "status", req.Status, "phase", clip(req.Phase), "user", callOf(r).user)
	return noContent(w)
}

// getDeploymentPart answers the paths below a deployment that have one more element. They share a route with the history of
// a device (deployments/devices/ID), which Mender put at the same place.
func (s *Server) getDeploymentPart(w http.ResponseWriter, r *http.Request) error {
	if r.PathValue("id") == "devices" {
		return s.deviceHistory(w, r)
	}
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	switch r.PathValue("what") {
	case "statistics":
		d, err := s.store.Deployment(r.Context(), id, s.now())
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, d.Statistics.Status)
	case "devices":
		devices, _, err := s.store.DeploymentDevices(r.Context(), id, store.TargetFilter{}, store.Page{}, s.now())
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, list(devices))
	case "device_list":
		devices, _, err := s.store.DeploymentDevices(r.Context(), id, store.TargetFilter{}, store.Page{}, s.now())
		if err != nil {
			return err
		}
		ids := make([]string, len(devices))
		for i, d := range devices {
			ids[i] = d.ID
		}
		return writeJSON(w, http.StatusOK, ids)
	}
	return refuse(http.StatusNotFound, "no such path: %s", clip(r.URL.Path))
}

func (s *Server) pageDeploymentDevices(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	p, err := pagingOf(r)
	if err != nil {
		return err
	}
	statuses, err := statusesNamed(r.URL.Query().Get("status"))
	if err != nil {
		return err
	}
	devices, total, err := s.store.DeploymentDevices(r.Context(), id, store.TargetFilter{Statuses: statuses}, p.store(), s.now())
	if err != nil {
		return err
	}
	p.headers(w, r, total)
	return writeJSON(w, http.StatusOK, list(devices))
}

// statusesNamed knows the statuses and Mender's three names for several of them.
func statusesNamed(name string) (out []menderapi.Status, err error) {
	for _, st := range menderapi.DeviceStatuses {
		pause := strings.HasPrefix(string(st), "pause_")
		if string(st) == name || name == "pause" && pause || name == "active" && !st.Final() || name == "finished" && st.Final() {
			out = append(out, st)
		}
	}
	if name != "" && len(out) == 0 {
		return nil, invalid("%q is not a status", clip(name))
	}
	return out, nil
}

func (s *Server) listStatistics(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		IDs []string `json:"deployment_ids"`
	}
	if err := s.decode(w, r, &req); err != nil {
		return err
	}
	if len(req.IDs) == 0 || len(req.IDs) > maxStatistics {
		return invalid("deployment_ids must have 1 to %d ids", maxStatistics)
	}
	type item struct {
		ID    string                   `json:"id"`
		Stats map[menderapi.Status]int `json:"stats"`
	}
	items := []item{}
	for _, id := range req.IDs {
		d, err := s.store.Deployment(r.Context(), id, s.now())
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		items = append(items, item{ID: d.ID, Stats: d.Statistics.Status})
	}
	return writeJSON(w, http.StatusOK, items)
}

// getLog shows a device's log as text, one message a line.
func (s *Server) getLog(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	l, err := s.store.Log(r.Context(), id, r.PathValue("device"))
	if errors.Is(err, store.ErrNotFound) {
		return refuse(http.StatusNotFound, "the device has sent no log of this deployment")
	}
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, m := range l.Messages {
		fmt.Fprintf(&b, "%s %s: %s\n", m.Timestamp, m.Level, m.Message)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err = w.Write([]byte(b.String()))
	return ignoreHangup(err)
}

// deviceHistory lists the deployments of one device.
func (s *Server) deviceHistory(w http.ResponseWriter, r *http.Request) error {
	p, err := pagingOf(r)
	if err != nil {
		return err
	}
	if p.perPage > maxHistoryPage {
		return invalid("per_page must be a number from 1 to %d", maxHistoryPage)
	}
	id := r.PathValue("what")
	all, total, err := s.store.Deployments(r.Context(), store.DeploymentFilter{Device: id}, p.store(), s.now())
	if err != nil {
		return err
	}
	type item struct {
		ID         string                     `json:"id"`
		Deployment menderapi.Deployment       `json:"deployment"`
		Device     menderapi.DeploymentDevice `json:"device"`
	}
	items := []item{}
	for _, d := range all {
		devices, _, err := s.store.DeploymentDevices(r.Context(), d.ID, store.TargetFilter{Device: id}, store.Page{}, s.now())
		if err != nil {
			return err
		}
		for _, device := range devices {
			items = append(items, item{ID: d.ID, Deployment: d, Device: device})
		}
	}
	p.headers(w, r, total)
	return writeJSON(w, http.StatusOK, items)
}

// endDevice aborts all deployments of one device for it.
func (s *Server) endDevice(w http.ResponseWriter, r *http.Request) error {
	if err := s.store.EndDevice(r.Context(), r.PathValue("device"), s.now()); err != nil {
		return err
	}
	return noContent(w)
}
