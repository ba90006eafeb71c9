package build

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/internal/version"
	"github.com/twinkeel/twinkeel/pipeline"
)

const (
	fetchTries    = 5
	fetchWait     = time.Second      // before the second try; doubled each time
	fetchIdle     = 60 * time.Second // without a byte, a connection is given up
	maxRedirects  = 10
	headerTimeout = 30 * time.Second
)

// fetcher gets one file. Its fields are there for tests.
type fetcher struct {
	client *http.Client
	wait   time.Duration
	idle   time.Duration
}

func newFetcher() *fetcher {
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: headerTimeout}).DialContext,
		TLSHandshakeTimeout:   headerTimeout,
		ResponseHeaderTimeout: headerTimeout,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // the digest is that of the bytes as they are kept
		DisableKeepAlives:     true, // one file, and nothing is left open
	}
	return &fetcher{client: &http.Client{Transport: transport}, wait: fetchWait, idle: fetchIdle}
}

// fetch gets a file and puts it under its name when it is what its digest says.
func fetch(ctx context.Context, path string, f *pipeline.Fetch, progress func(done, total int64)) error {
	if f.SHA256 == "" {
		return errors.New("nothing says what the file must be")
	}
	_, err := newFetcher().fetch(ctx, path, f, progress)
	return err
}

// download is one file on its way.
type download struct {
	*fetcher
	spec      *pipeline.Fetch
	out       *durable.File
	hash      hash.Hash
	done      int64
	total     int64  // -1: not known
	validator string // ETag or date of what has come so far: the rest is of the same file
	progress  func(done, total int64)
}

// fetch returns the digest of what it got.
func (f *fetcher) fetch(ctx context.Context, path string, spec *pipeline.Fetch, progress func(done, total int64)) (string, error) {
	u, err := url.Parse(spec.URL)
	if err != nil {
		return "", errors.New("the URL cannot be read")
	}
	out, err := durable.Create(path, 0o644)
	if err != nil {
		return "", err
	}
	defer out.Abort()
	d := &download{fetcher: f, spec: spec, out: out, hash: sha256.New(), total: -1, progress: progress}
	if err := d.tries(ctx, u); err != nil {
		return "", err
	}
	got := hex.EncodeToString(d.hash.Sum(nil))
	if spec.SHA256 != "" && got != spec.SHA256 {
		return "", &wrongDigestError{d.name(u), spec.SHA256, got}
	}
	return got, out.Commit()
}

// name is the URL without what could be a secret in its query.
func (d *download) name(u *url.URL) string { return shownURL(u) }

func shownURL(u *url.URL) string {
	plain := *u
	plain.User = nil
	if plain.RawQuery != "" {
		plain.RawQuery = "…"
	}
	return plain.String()
}

// permanentError is one that another try would not change.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

func permanent(format string, args ...any) error {
	return &permanentError{fmt.Errorf(format, args...)}
}

// tries gets the file, going on where a connection broke off. A try that brought something does not count.
func (d *download) tries(ctx context.Context, u *url.URL) error {
	wait := d.wait
	for try := 1; ; try++ {
		before := d.done
		err := d.once(ctx, u)
		var final *permanentError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &final):
			return fmt.Errorf("fetching %s: %w", d.name(u), final.err)
		}
		if d.done > before && d.validator != "" {
			try, wait = 0, d.wait
		}
		if try >= fetchTries {
			return fmt.Errorf("fetching %s: %w (tried %d times)", d.name(u), plainHTTPError(err), fetchTries)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		wait = min(2*wait, time.Minute)
	}
}

// plainHTTPError leaves out the method and the URL, which the message has.
func plainHTTPError(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// once makes one request, for the rest of the file if a part is there.
func (d *download) once(ctx context.Context, u *url.URL) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return permanent("the URL cannot be read")
	}
	d.setHeaders(req, u)
	client := *d.client
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error { return d.redirect(next, via, u) }
	resp, err := client.Do(req)
	if err != nil {
		var final *permanentError
		var certificate *tls.CertificateVerificationError
		switch {
		case errors.As(err, &final):
			return final
		case errors.As(err, &certificate):
			return &permanentError{plainHTTPError(err)}
		}
		return err
	}
	defer resp.Body.Close()
	if err := d.accept(resp); err != nil {
		return err
	}
	idle := time.AfterFunc(d.idle, func() { cancel(errIdle) })
	defer idle.Stop()
	return d.receive(ctx, resp.Body, idle)
}

var errIdle = errors.New("the server sends nothing any more")

func (d *download) setHeaders(req *http.Request, to *url.URL) {
	for name, value := range d.spec.Headers {
		req.Header.Set(name, string(value))
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "twinkeel/"+version.Version)
	if d.done > 0 && d.validator != "" {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.done))
		req.Header.Set("If-Range", d.validator)
	}
}

// redirect follows where a server points, but never from https to http, and with what is secret only to the same host.
func (d *download) redirect(next *http.Request, via []*http.Request, first *url.URL) error {
	last := via[len(via)-1].URL
	switch {
	case len(via) >= maxRedirects:
		return permanent("it is redirected more than %d times", maxRedirects)
	case next.URL.Scheme != "https" && (next.URL.Scheme != "http" || last.Scheme == "https"):
		return permanent("it is redirected from %s to %s, where anybody could change it", last.Scheme, shownURL(next.URL))
	}
	if next.URL.Host == first.Host && next.URL.Scheme == first.Scheme {
		for name, value := range d.spec.Headers {
			next.Header.Set(name, string(value))
		}
		return nil
	}
	for name := range d.spec.Headers {
		next.Header.Del(name)
	}
	next.Header.Del("Referer")
	next.Header.Set("User-Agent", "twinkeel/"+version.Version)
	return nil
}

// accept looks at the answer and gets ready for its body: from the beginning, or where the last one broke off.
func (d *download) accept(resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusOK:
		if err := d.restart(); err != nil {
			return err
		}
		d.total = resp.ContentLength
	case resp.StatusCode == http.StatusPartialContent && d.done > 0:
		start, total, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || start != d.done {
			d.validator = "" // from the beginning, next time
			return errors.New("the server sends another part than was asked for")
		}
		d.total = total
		return nil
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && d.done > 0:
		d.validator = ""
		return errors.New("the server has no such part any more")
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusRequestTimeout:
		return fmt.Errorf("the server answers %s", resp.Status)
	default:
		return permanent("the server answers %s", escape(resp.Status))
	}
	if resp.Header.Get("Content-Encoding") != "" && resp.Header.Get("Content-Encoding") != "identity" {
		return permanent("the server sends it encoded as %s, which was not asked for", escape(resp.Header.Get("Content-Encoding")))
	}
	if d.total > d.spec.MaxSize {
		return permanent("it has %d bytes, and max_size allows %d", d.total, d.spec.MaxSize)
	}
	d.validator = ""
	if resp.Header.Get("Accept-Ranges") == "bytes" {
		d.validator = validator(resp.Header)
	}
	return nil
}

// validator is what If-Range takes: a strong ETag, else the date of the last change.
func validator(h http.Header) string {
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	return h.Get("Last-Modified")
}

// contentRange reads "bytes FIRST-LAST/TOTAL", where TOTAL may be *.
func contentRange(text string) (start, total int64, ok bool) {
	text, ok = strings.CutPrefix(text, "bytes ")
	span, all, ok2 := strings.Cut(text, "/")
	first, _, ok3 := strings.Cut(span, "-")
	start, err := strconv.ParseInt(first, 10, 64)
	if !ok || !ok2 || !ok3 || err != nil || start < 0 {
		return 0, 0, false
	}
	if total, err = strconv.ParseInt(all, 10, 64); err != nil {
		total = -1
	}
	return start, total, true
}

func (d *download) restart() error {
	d.hash.Reset()
	d.done = 0
	if err := d.out.Truncate(0); err != nil {
		return &permanentError{err}
	}
	if _, err := d.out.Seek(0, io.SeekStart); err != nil {
		return &permanentError{err}
	}
	return nil
}

func (d *download) receive(ctx context.Context, body io.Reader, idle *time.Timer) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			idle.Reset(d.idle)
			if d.done+int64(n) > d.spec.MaxSize {
				return permanent("it has more than the %d bytes that max_size allows", d.spec.MaxSize)
			}
			if _, err := d.out.Write(buf[:n]); err != nil {
				if errors.Is(err, syscall.ENOSPC) {
					err = syscall.ENOSPC
				}
				return &permanentError{err}
			}
			d.hash.Write(buf[:n])
			d.done += int64(n)
			d.progress(d.done, d.total)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && d.total >= 0 && d.done != d.total:
			return io.ErrUnexpectedEOF
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(context.Cause(ctx), errIdle):
			return errIdle
		default:
			return err
		}
	}
}

type wrongDigestError struct{ url, want, got string }

func (e *wrongDigestError) Error() string {
	return fmt.Sprintf("%s is not the file that it was: its SHA-256 is %s, not %s", e.url, e.got, e.want)
}

// Hint says how to go on.
func (e *wrongDigestError) Hint() string {
	return "find out why it changed; when the new file is right, set its sha256, or run twinkeel init --upgrade"
}

// Lock fetches what a pipeline does not pin, once each, and returns what the files are. They are kept in the cache, so that
// the build that follows needs no network.
func Lock(ctx context.Context, plan *pipeline.Plan, actions []*pipeline.SourceAction, o Options) (map[string]pipeline.Locked, error) {
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	locked := map[string]pipeline.Locked{}
	d := &decider{plan: plan, digests: openDigests(plan.Dir), cache: OpenCache(CacheDir(plan)), steps: map[string]*Step{}}
	defer d.digests.save()
	for _, a := range actions {
		if _, known := locked[a.HTTP.URL]; known {
			continue
		}
		entry, err := d.lock(ctx, a, o)
		if err != nil {
			err = &ActionError{Address: a.Address, Err: err}
			o.Events(Event{Address: a.Address, State: StateFailed, Err: err})
			return nil, err
		}
		locked[a.HTTP.URL] = *entry
	}
	return locked, nil
}

func (d *decider) lock(ctx context.Context, a *pipeline.SourceAction, o Options) (*pipeline.Locked, error) {
	start := time.Now()
	o.Events(Event{Address: a.Address, State: StateStarted, Doing: sourceVerbs[a.Type], Total: -1})
	if err := durable.MkdirAll(a.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := durable.Sweep(a.Dir); err != nil {
		return nil, err
	}
	temp, remove, err := durable.TempDir(filepath.Join(a.Dir, "fetched"))
	if err != nil {
		return nil, err
	}
	defer remove()
	path := filepath.Join(temp, filepath.Base(a.Outputs[0]))
	sum, err := newFetcher().fetch(ctx, path, a.HTTP, func(done, total int64) {
		o.Events(Event{Address: a.Address, State: StateProgress, Doing: sourceVerbs[a.Type], Done: done, Total: total})
	})
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	pinned := *a
	fetch := *a.HTTP
	fetch.SHA256 = sum
	pinned.HTTP = &fetch
	step, err := d.describe(ctx, &pipeline.Action{Address: a.Address, Kind: pipeline.KindSource, Source: &pinned})
	if err != nil {
		return nil, err
	}
	err = d.cache.store(ctx, &Entry{Key: step.cacheKey, Address: a.Address, Kind: string(pipeline.KindSource)}, []made{{path, sum, identity(path, info)}})
	if err != nil && !errors.Is(err, errNoRoom) && o.Warn != nil {
		o.Warn(fmt.Sprintf("%s is not kept in the cache: %v", a.Address, err))
	}
	o.Events(Event{Address: a.Address, State: StateDone, Took: time.Since(start), Done: info.Size()})
	return &pipeline.Locked{SHA256: sum, Size: info.Size()}, nil
}
