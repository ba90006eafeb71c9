package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/store"
)

// handler answers a request or says why not. An error that isn't an answer (see problem) is the server's own fault.
type handler func(w http.ResponseWriter, r *http.Request) error

// problem is an answer that says no.
type problem struct {
	status   int
	message  string
	metadata any
}

func (p *problem) Error() string { return p.message }

func refuse(status int, format string, args ...any) error {
	return &problem{status: status, message: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error { return refuse(http.StatusBadRequest, format, args...) }

// What most requests may take; those that carry artifacts move their deadlines along.
const (
	readTime  = time.Minute
	writeTime = time.Minute
)

// call is what the server knows of a request beside the request itself.
type call struct {
	id     string // X-MEN-RequestID
	device string // set on the device API
	user   string // set on the management API; empty for a token that belongs to nobody
	token  string // id of the token
}

type callKey struct{}

func callOf(r *http.Request) *call {
	c, _ := r.Context().Value(callKey{}).(*call)
	if c == nil {
		return &call{}
	}
	return c
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom keeps the way open for sendfile, a piece at a time, so that the deadline can move while bytes flow.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	const piece = 1 << 20 // in writeTime: 17 kB/s, slower lines resume with Range
	left := int64(1) << 62
	if l, ok := r.(*io.LimitedReader); ok { // io.CopyN's; the kernel only takes over from a file inside one of these
		r, left = l.R, l.N
	}
	deadline := http.NewResponseController(w.ResponseWriter)
	var total int64
	for left > 0 {
		_ = deadline.SetWriteDeadline(time.Now().Add(writeTime)) // not every writer has one
		part := &io.LimitedReader{R: r, N: min(left, piece)}
		want := part.N
		n, err := io.Copy(w.ResponseWriter, part)
		total, left, w.bytes = total+n, left-n, w.bytes+n
		if err != nil || n < want {
			return total, err
		}
	}
	return total, nil
}

// Unwrap lets http.ResponseController through.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// observe is around every request: it gives the request an id, headers and deadlines, and logs it. Query strings are not
// logged; links carry their signature there.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		c := &call{id: requestID(r)}
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		h := w.Header()
		h.Set(menderapi.HeaderRequestID, c.id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		deadline := http.NewResponseController(w)
		_ = deadline.SetReadDeadline(start.Add(readTime)) // a test's recorder has no deadlines
		_ = deadline.SetWriteDeadline(start.Add(writeTime))
		rec := &recorder{ResponseWriter: w}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // a sentinel to panic with; never wrapped
					panic(p)
				}
				s.log.Error("a handler failed", "request", c.id, "panic", p, "stack", string(debug.Stack()))
				if rec.status == 0 {
					s.answer(rec, r, errors.New("panic"))
				}
			}
			s.logRequest(r, c, rec, time.Since(start))
		}()
		next.ServeHTTP(rec, r)
	})
}

func (s *Server) logRequest(r *http.Request, c *call, rec *recorder, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case rec.status >= 500:
		level = slog.LevelError
	case rec.status < 400 && (r.Method == http.MethodGet || r.Method == http.MethodHead || c.device != ""):
		level = slog.LevelDebug // a fleet that polls is not news
	}
	attrs := []slog.Attr{
		slog.String("request", c.id), slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", rec.status),
		slog.Int64("bytes", rec.bytes), slog.Duration("took", took), slog.String("from", clientAddress(r)),
	}
	if c.device != "" {
		attrs = append(attrs, slog.String("device", c.device))
	}
	if c.token != "" {
		attrs = append(attrs, slog.String("user", c.user), slog.String("token", c.token))
	}
	s.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// requestID takes the sender's id when it is fit for a log.
func requestID(r *http.Request) string {
	id := r.Header.Get(menderapi.HeaderRequestID)
	if id == "" || len(id) > 64 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
		return uuid.NewString()
	}
	return id
}

// answer sends an error.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, err error) {
	id := callOf(r).id
	var p *problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p):
	case errors.As(err, &tooLarge):
		p = &problem{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)}
	case errors.Is(err, store.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		p = &problem{status: http.StatusNotFound, message: "not found"}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		p = &problem{status: http.StatusInsufficientStorage, message: "the server's disk is full"}
		s.log.Error("the disk is full", "request", id, "error", err)
	case r.Context().Err() != nil:
		p = &problem{status: http.StatusServiceUnavailable, message: "the request was given up"}
	default:
		p = &problem{status: http.StatusInternalServerError, message: "internal error"}
		s.log.Error("a request failed", "request", id, "error", err)
	}
	body := menderapi.Error{Error: p.message, RequestID: id}
	if p.metadata != nil {
		body.Metadata, _ = json.Marshal(p.metadata) // plain maps
	}
	h := w.Header()
	switch p.status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="ManagementJWT"`)
	case http.StatusTooManyRequests:
		h.Set("Retry-After", "30")
	}
	for _, name := range []string{"Content-Length", "Content-Disposition", "Etag", "Last-Modified"} {
		h.Del(name)
	}
	_ = writeJSON(w, p.status, body) // whoever hung up can't be told
}

// writeJSON sends a value. Lists must not be nil: clients expect [].
func writeJSON(w http.ResponseWriter, status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, err = w.Write(data)
	return ignoreHangup(err)
}

// ignoreHangup: once an answer has begun, that the other side is gone is no error of this one.
func ignoreHangup(error) error { return nil }

func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// created answers with the place of what was made. The body is empty: Mender's CI actions take any body for an error.
func created(w http.ResponseWriter, location string) error {
	w.Header().Set("Location", location)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// body reads a request body up to the limit. It may come in chunks without a length: real clients send it so.
func (s *Server) body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		return data, nil
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, err
	}
	return nil, invalid("the body ended too early")
}

// decode reads a JSON body. Fields that this server doesn't know are ignored, as Mender's does: its tools send some.
func (s *Server) decode(w http.ResponseWriter, r *http.Request, into any) error {
	data, err := s.body(w, r, s.limits.JSONBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return invalid("the body is not the JSON that belongs here: %s", jsonReason(err))
	}
	return nil
}

func jsonReason(err error) string {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind):
		if kind.Field == "" {
			return "a " + kind.Value + " stands where it must not"
		}
		return fmt.Sprintf("field %q must not be a %s", kind.Field, kind.Value)
	case errors.As(err, &syntax):
		return fmt.Sprintf("%v, at byte %d", syntax, syntax.Offset)
	}
	return err.Error()
}

// Pages as in Mender.
const (
	defaultPerPage = 20
	maxPerPage     = 500
	maxPage        = 1 << 22
)

// The last page's offset fits an int of 32 bits too, where it would otherwise wrap to the first page.
const _ = int32(maxPage * maxPerPage)

// paging is the page that a request asks for.
type paging struct{ page, perPage int }

func pagingOf(r *http.Request) (paging, error) {
	p := paging{page: 1, perPage: defaultPerPage}
	q := r.URL.Query()
	for _, f := range []struct {
		name string
		into *int
		max  int
	}{{"page", &p.page, maxPage}, {"per_page", &p.perPage, maxPerPage}} {
		text := q.Get(f.name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > f.max {
			return p, invalid("%s must be a number from 1 to %d", f.name, f.max)
		}
		*f.into = n
	}
	return p, nil
}

func (p paging) store() store.Page {
	return store.Page{Limit: p.perPage, Offset: (p.page - 1) * p.perPage}
}

// headers tells about the other pages: one Link header for each relation, as Mender's clients expect.
func (p paging) headers(w http.ResponseWriter, r *http.Request, total int) {
	last := max(1, (total+p.perPage-1)/p.perPage)
	add := func(rel string, page int) {
		q := r.URL.Query()
		q.Set("page", strconv.Itoa(page))
		q.Set("per_page", strconv.Itoa(p.perPage))
		w.Header().Add("Link", fmt.Sprintf("<%s>; rel=%q", (&url.URL{Path: r.URL.Path, RawQuery: q.Encode()}).String(), rel))
	}
	add("first", 1)
	if p.page > 1 {
		add("prev", p.page-1)
	}
	if p.page < last {
		add("next", p.page+1)
	}
	add("last", last)
	w.Header().Set(menderapi.HeaderTotalCount, strconv.Itoa(total))
}

// pathID reads a UUID from the path. Another text is 400, as in Mender.
func pathID(r *http.Request, name string) (string, error) {
	text := r.PathValue(name)
	u, err := uuid.Parse(text)
	if err != nil || u.String() != strings.ToLower(text) {
		return "", invalid("%q is not an id", clip(text))
	}
	return u.String(), nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
