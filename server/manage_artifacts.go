package server

import (
	"errors"
	"net/http"
	"time"

	"github.com/twinkeel/twinkeel/server/internal/store"
)

// manageLink is how long a link lives that a person asks for, as in Mender.
const manageLink = 15 * time.Minute

// artifactFilter reads the filter of a list. Its bounds are far below what SQLite takes in one expression and one pattern.
func artifactFilter(r *http.Request) (f store.ArtifactFilter, err error) {
	q := r.URL.Query()
	f = store.ArtifactFilter{
		Names: q["name"], Description: q.Get("description"), DeviceType: q.Get("device_type"), PayloadType: q.Get("update_type"),
	}
	if len(f.Names) > maxPerPage {
		return f, invalid("more than %d names", maxPerPage)
	}
	for _, text := range append([]string{f.Description}, f.Names...) {
		if len(text) > maxDescription {
			return f, errSearchText
		}
	}
	return f, nil
}

var errSearchText = invalid("a text to search for is longer than %d bytes", maxDescription)

// listArtifacts lists all artifacts: mender-cli 1.9.0 knows no pages.
func (s *Server) listArtifacts(w http.ResponseWriter, r *http.Request) error {
	f, err := artifactFilter(r)
	if err != nil {
		return err
	}
	items, _, err := s.store.Artifacts(r.Context(), f, store.Page{})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list(items))
}

// pageArtifacts is the same in pages. A page that makes no sense is the first one here, as in Mender.
func (s *Server) pageArtifacts(w http.ResponseWriter, r *http.Request) error {
	p, err := pagingOf(r)
	if err != nil {
		p = paging{page: 1, perPage: defaultPerPage}
	}
	f, err := artifactFilter(r)
	if err != nil {
		return err
	}
	items, total, err := s.store.Artifacts(r.Context(), f, p.store())
	if err != nil {
		return err
	}
	p.headers(w, r, total)
	return writeJSON(w, http.StatusOK, list(items))
}

func (s *Server) getArtifact(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	a, err := s.store.Artifact(r.Context(), id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, a)
}

func (s *Server) describeArtifact(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	var req struct {
		Description string `json:"description"`
	}
	if err := s.decode(w, r, &req); err != nil {
		return err
	}
	if len(req.Description) > maxDescription {
		return invalid("description is longer than %d bytes", maxDescription)
	}
	if err := s.store.DescribeArtifact(r.Context(), id, req.Description, s.now()); err != nil {
		return err
	}
	return noContent(w)
}

// deleteArtifact removes the record first: a crash then leaves a blob that nothing refers to, and the next start
// removes it. The other way round it would leave an artifact without bytes.
func (s *Server) deleteArtifact(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	release, ok := s.writing.take(id) // until the blob is gone, nobody may upload under the id again
	if !ok {
		return refuse(http.StatusConflict, "the artifact is being uploaded or deleted")
	}
	defer release()
	err = s.store.DeleteArtifact(r.Context(), id)
	if errors.Is(err, store.ErrInUse) {
		return refuse(http.StatusConflict, "an unfinished deployment uses the artifact")
	}
	if err != nil {
		return err
	}
	if err := s.blobs.Delete(id); err != nil {
		s.log.Error("removing the bytes of a deleted artifact", "artifact", id, "error", err)
	}
	s.log.Info("artifact deleted", "request", callOf(r).id, "artifact", id, "user", callOf(r).user)
	return noContent(w)
}

func (s *Server) artifactLink(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if _, err := s.store.Artifact(r.Context(), id); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.link(r, id, s.now().Add(manageLink)))
}

func (s *Server) storageLimit(w http.ResponseWriter, r *http.Request) error {
	used, err := s.store.StoredBytes(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]int64{"limit": 0, "usage": used})
}
