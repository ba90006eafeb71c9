package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/store"
)

// Bounds of an upload beside the artifact itself.
const (
	maxDescription  = 4096
	maxParts        = 16
	uploadSlack     = 64 << 10 // for the multipart frame and the small parts
	maxCombinations = 1024     // of what one artifact depends on
)

// upload takes an artifact as a stream: it is written beside its final place, hashed and verified in one pass, and becomes
// visible only when every checksum of it was met. The order of writes is in DESIGN.md.
func (s *Server) upload(w http.ResponseWriter, r *http.Request) error {
	body := &movingDeadline{r: r.Body, c: http.NewResponseController(w)}
	err := s.takeUpload(w, r, body)
	if err != nil {
		// A connection that is closed while the client still sends is reset, and the reason is lost with it. So what
		// remains is read, by whoever may upload as much anyway.
		_, _ = io.Copy(io.Discard, io.LimitReader(body, s.limits.ArtifactBytes+uploadSlack))
	}
	return err
}

func (s *Server) takeUpload(w http.ResponseWriter, r *http.Request, stream io.ReadCloser) error {
	if err := s.own(); err != nil {
		return fmt.Errorf("taking over the data directory: %w", err)
	}
	if r.ContentLength > s.limits.ArtifactBytes+uploadSlack {
		return s.errArtifactSize()
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		return refuse(http.StatusUnsupportedMediaType, "the body must be multipart/form-data")
	}
	body := http.MaxBytesReader(w, stream, s.limits.ArtifactBytes+uploadSlack)
	form := multipart.NewReader(body, params["boundary"])
	u := uploadForm{size: -1, id: uuid.NewString()}
	for range maxParts {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return invalid("the body has no part named artifact")
		}
		if err != nil {
			return s.readError(err, "the multipart body is damaged or ended too early")
		}
		if part.FormName() != "artifact" {
			if err := u.field(part); err != nil {
				return err
			}
			continue
		}
		a, err := s.receive(r.Context(), part, u)
		if err != nil {
			return err
		}
		s.log.Info("artifact uploaded", "request", callOf(r).id, "artifact", a.ID, "size", a.Size, "signed", a.Signed, "user", callOf(r).user)
		return created(w, artifacts+"/"+a.ID)
	}
	return invalid("the body has more than %d parts", maxParts)
}

func (s *Server) errArtifactSize() error {
	return refuse(http.StatusRequestEntityTooLarge, "the artifact is larger than this server takes (%d bytes)", s.limits.ArtifactBytes)
}

// readError says that the body could not be read.
func (s *Server) readError(err error, message string) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return s.errArtifactSize()
	}
	return invalid("%s", message)
}

// uploadForm is what stands before the artifact in the body.
type uploadForm struct {
	id          string
	description string
	size        int64 // -1: not said
}

func (u *uploadForm) field(part *multipart.Part) error {
	value, err := io.ReadAll(io.LimitReader(part, maxDescription+1))
	if err != nil {
		return invalid("the multipart body is damaged or ended too early")
	}
	if len(value) > maxDescription {
		return invalid("the part %q is longer than %d bytes", clip(part.FormName()), maxDescription)
	}
	text := string(value)
	switch part.FormName() {
	case "description":
		u.description = text
	case "size":
		if u.size, err = strconv.ParseInt(text, 10, 64); err != nil || u.size < 0 {
			return invalid("size is not a number of bytes")
		}
	case "artifact_id":
		id, err := uuid.Parse(text)
		if err != nil {
			return invalid("artifact_id is not an id")
		}
		u.id = id.String()
	}
	return nil // other parts are for other servers
}

// receive stores one artifact.
func (s *Server) receive(ctx context.Context, body io.Reader, u uploadForm) (*menderapi.Artifact, error) {
	if u.size > s.limits.ArtifactBytes {
		return nil, s.errArtifactSize()
	}
	// Two uploads under one id would share a blob, and the one that is refused would take it away from the other.
	release, ok := s.writing.take(u.id)
	if !ok {
		return nil, refuse(http.StatusConflict, "an artifact with the id %s is being uploaded or deleted", u.id)
	}
	defer release()
	if known, err := s.store.HasArtifact(ctx, u.id); err != nil || known {
		if known {
			return nil, refuse(http.StatusConflict, "an artifact has the id %s already", u.id)
		}
		return nil, err
	}
	file, err := s.blobs.Create(u.id)
	if err != nil {
		return nil, err
	}
	defer file.Abort()
	in := &intake{body: body, file: file, sum: sha256.New(), limit: s.limits.ArtifactBytes}
	a, combinations, err := s.verify(ctx, in)
	switch {
	case in.writeErr != nil:
		return nil, in.writeErr // a full disk is not the artifact's fault
	case errors.Is(in.readErr, errTooLarge):
		return nil, s.errArtifactSize()
	case in.readErr != nil:
		return nil, s.readError(in.readErr, "the upload ended too early")
	case err != nil:
		return nil, refusal(err)
	case u.size >= 0 && u.size != in.n:
		return nil, invalid("the size part says %d bytes, the artifact has %d", u.size, in.n)
	}
	a.ID, a.Description, a.Size, a.SHA256 = u.id, u.description, in.n, hex.EncodeToString(in.sum.Sum(nil))
	a.Modified = s.now().UTC().Truncate(time.Millisecond)
	for i := range a.Updates[0].Files {
		a.Updates[0].Files[i].Date = a.Modified // the format has no times; mender-cli shows one
	}
	// The blob first: a crash here leaves a blob that nothing refers to, which the next start removes.
	if err := file.Commit(); err != nil {
		return nil, err
	}
	if err := s.store.AddArtifact(ctx, *a, combinations); err != nil {
		if deleteErr := s.blobs.Delete(u.id); deleteErr != nil {
			s.log.Error("removing a refused upload", "artifact", u.id, "error", deleteErr)
		}
		return nil, refusal(err)
	}
	return a, nil
}

// refusal says what is wrong with an artifact.
func refusal(err error) error {
	var conflict *store.ConflictError
	var format *artifactfmt.FormatError
	var sum *artifactfmt.ChecksumError
	var p *problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &conflict):
		return &problem{status: http.StatusConflict, message: menderapi.ErrorArtifactConflict, metadata: map[string]any{
			"conflict": map[string]any{"artifact_id": conflict.Artifact, "depends": json.RawMessage(conflict.Combination)},
		}}
	case errors.Is(err, store.ErrExists):
		return refuse(http.StatusConflict, "an artifact has the same id already")
	case errors.Is(err, artifactfmt.ErrUnsigned):
		return invalid("the artifact is not signed; this server takes only artifacts signed by one of its trusted keys")
	case errors.Is(err, artifactfmt.ErrSignature):
		return invalid("the artifact is not signed by a key that this server trusts")
	case errors.Is(err, artifactfmt.ErrTruncated), errors.As(err, &format), errors.As(err, &sum):
		return invalid("%v", err)
	}
	return err
}

// verify reads the whole artifact and returns what the API shows of it.
func (s *Server) verify(ctx context.Context, in *intake) (*menderapi.Artifact, []string, error) {
	var o artifactfmt.ReadOptions
	if s.config.Keyring != nil {
		o.Verifier = s.config.Keyring
	}
	// A buffer of our own: bufio takes a reader that is buffered already as it is, so what the artifact's reader has read
	// ahead stays within reach for drain.
	buffered := bufio.NewReaderSize(in, 64<<10)
	r, err := artifactfmt.NewReader(buffered, o)
	if err != nil {
		return nil, nil, err
	}
	combinations, err := combinationsOf(r.Info())
	if err != nil {
		return nil, nil, err
	}
	// Before the payload comes: a repeated upload need not be sent to its end. AddArtifact decides.
	if err := s.store.Conflict(ctx, r.Info().Name, combinations); err != nil {
		return nil, nil, err
	}
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		if _, err := io.Copy(io.Discard, f); err != nil {
			return nil, nil, err
		}
	}
	if err := drain(buffered); err != nil {
		return nil, nil, err
	}
	return describe(r.Info()), combinations, nil
}

// describe makes the API's picture of an artifact.
func describe(info *artifactfmt.Info) *menderapi.Artifact {
	a := &menderapi.Artifact{
		Name: info.Name, DeviceTypesCompatible: info.DeviceTypes,
		Info:   menderapi.ArtifactInfo{Format: "mender", Version: info.Version},
		Signed: info.Signed, KeyID: info.KeyID,
		ArtifactProvides: map[string]string{"artifact_name": info.Name},
		ArtifactDepends:  dependsOf(info),
		ClearsProvides:   info.ClearsProvides,
	}
	maps.Copy(a.ArtifactProvides, info.Provides)
	if info.Group != "" {
		a.ArtifactProvides["artifact_group"] = info.Group
	}
	u := menderapi.Update{
		TypeInfo: menderapi.TypeInfo{Type: info.PayloadType}, Files: []menderapi.UpdateFile{}, Metadata: info.MetaData,
		MetaData: []any{}, // mender-cli fails on anything but a list
	}
	for _, f := range info.Files {
		u.Files = append(u.Files, menderapi.UpdateFile{Name: f.Name, Checksum: f.SHA256, Size: f.Size})
	}
	a.Updates = []menderapi.Update{u}
	return a
}

func dependsOf(info *artifactfmt.Info) map[string]any {
	depends := map[string]any{"device_type": info.DeviceTypes}
	if len(info.DependsNames) > 0 {
		depends["artifact_name"] = info.DependsNames
	}
	if len(info.DependsGroups) > 0 {
		depends["artifact_group"] = info.DependsGroups
	}
	for k, v := range info.Depends {
		depends[k] = v
	}
	return depends
}

// combinationsOf lists every combination of values that the artifact depends on, as JSON objects with sorted keys.
func combinationsOf(info *artifactfmt.Info) ([]string, error) {
	list := []map[string]string{{}}
	for key, value := range dependsOf(info) {
		values, isList := value.([]string)
		if !isList {
			values = []string{fmt.Sprint(value)}
		}
		var next []map[string]string
		for _, have := range list {
			for _, v := range values {
				if len(next) >= maxCombinations {
					return nil, invalid("the artifact depends on more than %d combinations of device types, names and groups", maxCombinations)
				}
				c := maps.Clone(have)
				c[key] = v
				next = append(next, c)
			}
		}
		list = next
	}
	var out []string
	for _, c := range list {
		text, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		out = append(out, string(text))
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// claims are the ids of artifacts whose record and blob are about to change. One process serves, so memory is enough.
type claims struct {
	mu  sync.Mutex
	ids map[string]bool
}

// take claims an id, unless somebody has it. The claim ends with release.
func (c *claims) take(id string) (release func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids[id] {
		return nil, false
	}
	if c.ids == nil {
		c.ids = map[string]bool{}
	}
	c.ids[id] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.ids, id)
	}, true
}

var errTooLarge = errors.New("too large")

// intake is the stream of an upload: what is read from it is in the file and in the sum. It remembers which side failed,
// since the artifact's reader reports every failure as the artifact's.
type intake struct {
	body              io.Reader
	file              io.Writer
	sum               hash.Hash
	n, limit          int64
	readErr, writeErr error
}

func (in *intake) Read(p []byte) (int, error) {
	if in.writeErr != nil {
		return 0, in.writeErr
	}
	n, err := in.body.Read(p)
	if in.n += int64(n); in.n > in.limit {
		in.readErr = errTooLarge
		return 0, in.readErr
	}
	if n > 0 {
		in.sum.Write(p[:n])
		if _, in.writeErr = in.file.Write(p[:n]); in.writeErr != nil {
			return 0, in.writeErr
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		in.readErr = err
	}
	return n, err
}

// drain takes what follows the artifact: the padding that tar programs append, and nothing else.
func drain(r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return invalid("something follows the end of the artifact")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// movingDeadline gives a body as much time as it needs while it keeps coming.
type movingDeadline struct {
	r    io.ReadCloser
	c    *http.ResponseController
	next time.Time
}

func (m *movingDeadline) Read(p []byte) (int, error) {
	if now := time.Now(); now.After(m.next) {
		_ = m.c.SetReadDeadline(now.Add(readTime)) // a test's recorder has no deadlines
		_ = m.c.SetWriteDeadline(now.Add(2 * readTime))
		m.next = now.Add(time.Second)
	}
	return m.r.Read(p)
}

func (m *movingDeadline) Close() error { return m.r.Close() }
