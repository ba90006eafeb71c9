package server

import (
	"net/http"
	"strings"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/store"
)

// listDevices lists devices with their keys.
func (s *Server) listDevices(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	return s.answerDevices(w, r, store.DeviceFilter{Statuses: q["status"], IDs: q["id"]})
}

// searchDevices is the same with the filter in the body, for long lists of ids. A filter may be one text or a list.
func (s *Server) searchDevices(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Status oneOrMany `json:"status"`
		ID     oneOrMany `json:"id"`
	}
	if err := s.decode(w, r, &req); err != nil {
		return err
	}
	return s.answerDevices(w, r, store.DeviceFilter{Statuses: req.Status, IDs: req.ID})
}

func (s *Server) answerDevices(w http.ResponseWriter, r *http.Request, f store.DeviceFilter) error {
	p, err := pagingOf(r)
	if err != nil {
		return err
	}
	if f.Statuses, err = deviceStatuses(f.Statuses); err != nil {
		return err
	}
	if len(f.IDs) > maxPerPage {
		return invalid("more than %d ids", maxPerPage)
	}
	total, err := s.store.CountDevices(r.Context(), f)
	if err != nil {
		return err
	}
	devices, err := s.store.Devices(r.Context(), f, p.store())
	if err != nil {
		return err
	}
	p.headers(w, r, total)
	return writeJSON(w, http.StatusOK, list(devices))
}

// deviceStatuses leaves out empty texts: Mender's UI sends status= for all.
func deviceStatuses(names []string) (out []string, err error) {
	for _, n := range names {
		switch n {
		case "":
		case menderapi.AuthPending, menderapi.AuthAccepted, menderapi.AuthRejected, menderapi.AuthNone, "preauthorized":
			out = append(out, n)
		default:
			return nil, invalid("%q is not the status of a device", clip(n))
		}
	}
	return out, nil
}

func (s *Server) countDevices(w http.ResponseWriter, r *http.Request) error {
	statuses, err := deviceStatuses(r.URL.Query()["status"])
	if err != nil {
		return err
	}
	n, err := s.store.CountDevices(r.Context(), store.DeviceFilter{Statuses: statuses})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, menderapi.Count{Count: n})
}

func (s *Server) getDevice(w http.ResponseWriter, r *http.Request) error {
	d, err := s.store.Device(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, d)
}

// deleteDevice forgets a device. Its token works no more from now on.
func (s *Server) deleteDevice(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if err := s.store.DeleteDevice(r.Context(), id, s.now()); err != nil {
		return err
	}
	s.log.Info("device decommissioned", "request", callOf(r).id, "device", id, "user", callOf(r).user)
	return noContent(w)
}

func (s *Server) deleteAuthSet(w http.ResponseWriter, r *http.Request) error {
	if err := s.store.DeleteAuthSet(r.Context(), r.PathValue("id"), r.PathValue("set"), s.now()); err != nil {
		return err
	}
	return noContent(w)
}

func (s *Server) getAuthStatus(w http.ResponseWriter, r *http.Request) error {
	status, err := s.store.AuthStatus(r.Context(), r.PathValue("id"), r.PathValue("set"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, menderapi.AuthStatus{Status: status})
}

// setAuthStatus accepts or rejects a key of a device. The key is named, so that nobody accepts another one that came
// under the same identity meanwhile.
func (s *Server) setAuthStatus(w http.ResponseWriter, r *http.Request) error {
	var req menderapi.AuthStatus
	if err := s.decode(w, r, &req); err != nil {
		return err
	}
	switch req.Status {
	case menderapi.AuthAccepted, menderapi.AuthRejected, menderapi.AuthPending:
	default:
		return invalid("status must be accepted, rejected or pending")
	}
	id, set := r.PathValue("id"), r.PathValue("set")
	if err := s.store.SetAuthStatus(r.Context(), id, set, req.Status, s.now()); err != nil {
		return err
	}
	s.log.Info("device key decided", "request", callOf(r).id, "device", id, "auth_set", set, "status", req.Status, "user", callOf(r).user)
	return noContent(w)
}

// deviceLimit: there is none.
func (s *Server) deviceLimit(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, map[string]int{"limit": 0})
}

// Inventory queries.
const (
	maxFilters   = 20
	maxGroupName = 1024
)

// listInventory lists devices with their attributes: ?[scope/]name=[eq:]value, sort, group, has_group.
func (s *Server) listInventory(w http.ResponseWriter, r *http.Request) error {
	p, err := pagingOf(r)
	if err != nil {
		return err
	}
	var f store.InventoryFilter
	for key, values := range r.URL.Query() {
		value := values[0]
		switch key {
		case "page", "per_page":
		case "group":
			f.Group = value
		case "has_group":
			if value != "true" && value != "false" {
				return invalid("has_group must be true or false")
			}
			has := value == "true"
			f.HasGroup = &has
		case "sort":
			name, order, _ := strings.Cut(value, ":")
			if name == "" || order != "" && order != "asc" && order != "desc" {
				return invalid("sort must look like name:asc or name:desc")
			}
			f.Sort = &store.AttributeSort{Descending: order == "desc"}
			f.Sort.Scope, f.Sort.Name = scopeAndName(name)
		default:
			for _, v := range values {
				a := store.AttributeIs{Value: strings.TrimPrefix(v, "eq:")}
				a.Scope, a.Name = scopeAndName(key)
				f.Attributes = append(f.Attributes, a)
			}
		}
	}
	if len(f.Attributes) > maxFilters {
		return invalid("more than %d filters", maxFilters)
	}
	devices, total, err := s.store.Inventory(r.Context(), f, p.store())
	if err != nil {
		return err
	}
	p.headers(w, r, total)
	return writeJSON(w, http.StatusOK, list(devices))
}

func scopeAndName(text string) (scope, name string) {
	if scope, name, ok := strings.Cut(text, "/"); ok {
		return scope, name
	}
	return store.ScopeInventory, text
}

func (s *Server) getInventory(w http.ResponseWriter, r *http.Request) error {
	devices, _, err := s.store.Inventory(r.Context(), store.InventoryFilter{ID: r.PathValue("id")}, store.Page{})
	if err != nil {
		return err
	}
	if len(devices) == 0 {
		return store.ErrNotFound
	}
	return writeJSON(w, http.StatusOK, devices[0])
}

func (s *Server) clearInventory(w http.ResponseWriter, r *http.Request) error {
	if err := s.store.ClearInventory(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	return noContent(w)
}

func isGroupName(name string) bool {
	return name != "" && len(name) <= maxGroupName &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

func (s *Server) listGroups(w http.ResponseWriter, r *http.Request) error {
	groups, err := s.store.Groups(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list(groups))
}

func (s *Server) listGroupDevices(w http.ResponseWriter, r *http.Request) error {
	p, err := pagingOf(r)
	if err != nil {
		return err
	}
	ids, total, err := s.store.GroupDevices(r.Context(), r.PathValue("name"), p.store())
	if err != nil {
		return err
	}
	p.headers(w, r, total)
	return writeJSON(w, http.StatusOK, list(ids))
}

func (s *Server) getGroup(w http.ResponseWriter, r *http.Request) error {
	name, err := s.store.Group(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	var g menderapi.Group
	if name != "" {
		g.Group = &name
	}
	return writeJSON(w, http.StatusOK, g)
}

func (s *Server) setGroup(w http.ResponseWriter, r *http.Request) error {
	var g menderapi.Group
	if err := s.decode(w, r, &g); err != nil {
		return err
	}
	if g.Group == nil || !isGroupName(*g.Group) {
		return invalid("group must be a name of letters, digits, - and _")
	}
	c, err := s.store.JoinGroup(r.Context(), *g.Group, []string{r.PathValue("id")}, s.now())
	if err != nil {
		return err
	}
	if c.Matched == 0 {
		return store.ErrNotFound
	}
	return noContent(w)
}

func (s *Server) leaveGroup(w http.ResponseWriter, r *http.Request) error {
	c, err := s.store.LeaveGroup(r.Context(), r.PathValue("name"), []string{r.PathValue("id")}, s.now())
	if err != nil {
		return err
	}
	if c.Updated == 0 {
		return store.ErrNotFound
	}
	return noContent(w)
}

func (s *Server) joinGroup(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if !isGroupName(name) {
		return invalid("the name of a group has letters, digits, - and _")
	}
	var ids []string
	if err := s.decode(w, r, &ids); err != nil {
		return err
	}
	c, err := s.store.JoinGroup(r.Context(), name, ids, s.now())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, c)
}

func (s *Server) emptyGroup(w http.ResponseWriter, r *http.Request) error {
	var ids []string
	if err := s.decode(w, r, &ids); err != nil {
		return err
	}
	c, err := s.store.LeaveGroup(r.Context(), r.PathValue("name"), ids, s.now())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, c)
}
