package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/store"
)

// maxProvide bounds a value that a device provides, as in Mender.
const maxProvide = 4096

// nextV2 is what current clients ask first.
func (s *Server) nextV2(w http.ResponseWriter, r *http.Request) error {
	var req menderapi.NextRequest
	if err := s.decode(w, r, &req); err != nil {
		return err
	}
	p := store.Provides{DeviceType: req.DeviceProvides["device_type"], ArtifactName: req.DeviceProvides["artifact_name"], Others: req.DeviceProvides}
	return s.next(w, r, p)
}

// nextV1 is what clients ask that got 404 for v2. The provides stand at the top level (mender 3.4.0) or in
// artifact_provides (Mender's document).
func (s *Server) nextV1(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		DeviceType   string `json:"device_type"`
		ArtifactName string `json:"artifact_name"`
	}
	if err := s.decode(w, r, &req); err != nil {
		return err
	}
	return s.next(w, r, store.Provides{DeviceType: req.DeviceType, ArtifactName: req.ArtifactName})
}

func (s *Server) nextV1Query(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	return s.next(w, r, store.Provides{DeviceType: q.Get("device_type"), ArtifactName: q.Get("artifact_name")})
}

func (s *Server) next(w http.ResponseWriter, r *http.Request, p store.Provides) error {
	for _, f := range []struct{ name, value string }{{"device_type", p.DeviceType}, {"artifact_name", p.ArtifactName}} {
		if f.value == "" || len(f.value) > maxProvide {
			return invalid("%s must have 1 to %d characters", f.name, maxProvide)
		}
	}
	now := s.now()
	offer, err := s.store.Next(r.Context(), callOf(r).device, p, now)
	if err != nil {
		return err
	}
	if offer == nil {
		return noContent(w)
	}
	return writeJSON(w, http.StatusOK, menderapi.Next{
		ID: offer.Deployment,
		Artifact: menderapi.NextArtifact{
			ID: offer.Artifact.ID, ArtifactName: offer.Artifact.Name,
			DeviceTypesCompatible: offer.Artifact.DeviceTypesCompatible, // exactly the header's; mender 3.4.0 compares
			Source:                s.link(r, offer.Artifact.ID, now.Add(s.limits.DownloadLink)),
		},
	})
}

// link makes a link that needs no further authorization: devices send none with a download.
func (s *Server) link(r *http.Request, artifact string, expires time.Time) menderapi.Link {
	path := downloads + artifact
	base := s.config.PublicURL
	if base == "" {
		u := url.URL{Scheme: "http", Host: r.Host}
		if r.TLS != nil {
			u.Scheme = "https"
		}
		base = u.String()
	}
	return menderapi.Link{
		URI: base + path + "?" + s.links.Sign(path, expires).Encode(), Expire: expires.UTC().Truncate(time.Second), Method: http.MethodGet,
	}
}

// download serves an artifact to whoever has a link. Range requests, conditional ones and HEAD are ServeContent's.
func (s *Server) download(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := s.links.Check(downloads+id, r.URL.Query()); err != nil {
		return refuse(http.StatusForbidden, "%v", err)
	}
	a, err := s.store.Artifact(r.Context(), id)
	if err != nil {
		return err
	}
	f, err := s.blobs.Open(id)
	if err != nil {
		return err
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", menderapi.ContentTypeArtifact)
	h.Set("Content-Disposition", `attachment; filename="`+fileName(a.Name)+`.mender"`)
	h.Set("Etag", `"`+a.SHA256+`"`)
	h.Set("Cache-Control", "private, no-transform")
	// No modification time: the description's change would be one, and an interrupted download would start again.
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// fileName keeps of an artifact's name what every file system and header takes.
func fileName(name string) string {
	clean := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.+", c) {
			return c
		}
		return '_'
	}, name)
	return clean[:min(len(clean), 200)]
}

// reportStatus takes what a device says of its deployment. Reports come several times and after the end; see
// store.Report.
func (s *Server) reportStatus(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var report menderapi.StatusReport
	if err := s.decode(w, r, &report); err != nil {
		return err
	}
	if !report.Status.FromDevice() {
		return invalid("a device cannot report the status %q", clip(string(report.Status)))
	}
	if utf8.RuneCountInString(report.SubState) > menderapi.MaxSubState {
		return invalid("substate has more than %d characters", menderapi.MaxSubState)
	}
	err = s.store.Report(r.Context(), callOf(r).device, id, report, s.limits.RetryAfter, s.now())
	if errors.Is(err, store.ErrAborted) {
		return refuse(http.StatusConflict, "the deployment was aborted")
	}
	if err != nil {
		return err
	}
	s.log.Info("device status", "request", callOf(r).id, "device", callOf(r).device, "deployment", id, "status", report.Status)
	return noContent(w)
}

// putLog takes a device's log, also after the deployment's end: clients report the failure first and then send the log.
func (s *Server) putLog(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var l menderapi.Log
	if err := s.decode(w, r, &l); err != nil {
		return err
	}
	if len(l.Messages) == 0 {
		return invalid("messages must not be empty")
	}
	for i, m := range l.Messages {
		if _, err := time.Parse(time.RFC3339, m.Timestamp); err != nil {
			return invalid("messages[%d].timestamp is not a time in RFC 3339", i)
		}
		if m.Level == "" || m.Message == "" {
			return invalid("messages[%d] has no level or no message", i)
		}
	}
	if err := s.store.PutLog(r.Context(), callOf(r).device, id, l, s.now()); err != nil {
		return err
	}
	return noContent(w)
}

// putAttributes takes a device's inventory: PUT is all of it, PATCH a part.
func (s *Server) putAttributes(w http.ResponseWriter, r *http.Request) error {
	var attributes []menderapi.Attribute
	if err := s.decode(w, r, &attributes); err != nil {
		return err
	}
	if len(attributes) > store.MaxAttributes {
		return invalid("more than %d attributes", store.MaxAttributes)
	}
	for _, a := range attributes {
		if a.Name == "" || len(a.Name) > 1024 || len(a.Description) > 4096 {
			return invalid("an attribute must have a name of 1 to 1024 bytes and a description of at most 4096")
		}
		if !isAttributeValue(a.Value) {
			return invalid("the value of attribute %q must be text, a number, or a list of either", clip(a.Name))
		}
	}
	err := s.store.PutAttributes(r.Context(), callOf(r).device, attributes, r.Method == http.MethodPut, s.now())
	if errors.Is(err, store.ErrFull) {
		return invalid("the device has more than %d attributes", store.MaxAttributes)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// isAttributeValue: Mender allows text, numbers, and lists of one of them.
func isAttributeValue(raw json.RawMessage) bool {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return false
	}
	items, isList := v.([]any)
	if !isList {
		items = []any{v}
	}
	texts, numbers := 0, 0
	for _, item := range items {
		switch item.(type) {
		case string:
			texts++
		case float64:
			numbers++
		}
	}
	return max(texts, numbers) == len(items)
}
