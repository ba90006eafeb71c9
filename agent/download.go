package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// download reads an artifact over HTTP as one stream, whatever happens to the connections under it: it continues with
// a Range request where the last one ended, and where a server does not know Range it reads the beginning once more
// and passes over it. A connection that delivers nothing for the stall timeout counts as broken. (Mender 3.4.0 waits 4
// hours; mender-update hangs for good when the answer to a Range request is 200.)
type download struct {
	ctx      context.Context // of the install; a Read has no parameter for it
	http     *http.Client
	url      string
	log      *slog.Logger
	stall    time.Duration
	backoff  backoff
	patience time.Duration // give up after this long without a new byte
	// refresh, if set, gets a new link when the old one is refused.
	refresh func(context.Context) (string, error)
	// alive, if set, is asked before each further attempt, and now and then, whether there is still reason to go on.
	alive func(context.Context) error

	body     io.ReadCloser
	cancel   context.CancelFunc
	offset   int64 // bytes handed out
	total    int64 // of the artifact; -1 while unknown
	etag     string
	failures int
	lastByte time.Time
	asked    time.Time // when alive was asked
}

// askEvery is how many stall timeouts pass between two questions whether a download that goes on is still wanted. A
// server may send a byte now and then for years.
const askEvery = 20

var errDownloadChanged = errors.New("the artifact on the server changed during the download")

// permanentError ends the download at once; everything else is tried again.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func (d *download) Read(p []byte) (int, error) {
	if d.lastByte.IsZero() {
		d.lastByte, d.total = time.Now(), -1
		d.asked = d.lastByte
	}
	if d.alive != nil && time.Since(d.asked) > askEvery*d.stall {
		if err := d.alive(d.ctx); err != nil {
			return 0, err
		}
		d.asked = time.Now()
	}
	for {
		if d.total >= 0 && d.offset >= d.total {
			d.drop()
			return 0, io.EOF
		}
		err := d.connect()
		if err == nil {
			var n int
			n, err = d.readBody(p)
			d.offset += int64(n)
			if n > 0 {
				d.failures, d.lastByte = 0, time.Now()
			}
			if errors.Is(err, io.EOF) && d.total < 0 {
				d.total = d.offset // the server did not say: where it ends is where it ends
			}
			if n > 0 {
				if err != nil {
					d.drop()
				}
				return n, nil
			}
			if errors.Is(err, io.EOF) {
				if d.offset == d.total {
					continue
				}
				err = fmt.Errorf("the connection ended after %d of %d bytes", d.offset, d.total)
			}
			if err == nil {
				continue
			}
		}
		d.drop()
		if err := d.wait(err); err != nil {
			return 0, err
		}
	}
}

// wait decides whether err is worth another attempt, and waits for it.
func (d *download) wait(err error) error {
	var permanent permanentError
	switch {
	case d.ctx.Err() != nil:
		return d.ctx.Err()
	case errors.As(err, &permanent):
		return permanent.error
	case time.Since(d.lastByte) > d.patience:
		return fmt.Errorf("giving up after %v without a new byte: %w", d.patience, err)
	}
	d.failures++
	delay := d.backoff.after(d.failures)
	var status *statusError
	if errors.As(err, &status) {
		delay = max(delay, status.RetryAfter)
	}
	d.log.Warn("the download was interrupted", "error", err, "at", d.offset, "of", d.total, "again_in", delay.Round(time.Millisecond))
	if err := pause(d.ctx, delay); err != nil {
		return err
	}
	if d.alive != nil {
		return d.alive(d.ctx)
	}
	return nil
}

// readBody reads with the stall timeout.
func (d *download) readBody(p []byte) (int, error) {
	timer := time.AfterFunc(d.stall, d.cancel)
	n, err := d.body.Read(p)
	if !timer.Stop() && err != nil && d.ctx.Err() == nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("no data for %v", d.stall)
	}
	return n, err
}

func (d *download) drop() {
	if d.body == nil {
		return
	}
	d.cancel()
	closeQuietly(d.body)
	d.body = nil
}

// connect makes sure that the next byte of body is the one at offset.
func (d *download) connect() error {
	if d.body != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(d.ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		cancel()
		return permanentError{err}
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	if d.offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.offset))
		if d.etag != "" {
			req.Header.Set("If-Range", d.etag)
		}
	}
	resp, err := d.http.Do(req) //nolint:bodyclose // it becomes d.body, which drop closes
	if err != nil {
		cancel()
		return networkError(err)
	}
	d.body, d.cancel = resp.Body, cancel
	if err := d.accept(resp); err != nil {
		d.drop()
		return err
	}
	return nil
}

// accept looks at an answer, and reads over what is already known.
func (d *download) accept(resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusOK:
		if err := d.same(resp, resp.ContentLength); err != nil {
			return err
		}
		return d.skip()
	case resp.StatusCode == http.StatusPartialContent && d.offset > 0:
		start, total, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err != nil {
			return err
		}
		if start != d.offset {
			return permanentError{fmt.Errorf("the server was asked for byte %d and sent byte %d", d.offset, start)}
		}
		return d.same(resp, total)
	}
	timer := time.AfterFunc(d.stall, d.cancel)
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	timer.Stop()
	err := newStatusError("downloading "+withoutQuery(d.url), resp, answer)
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500:
		return err
	case d.refresh != nil && d.failures < 3:
		link, linkErr := d.refresh(d.ctx)
		if linkErr != nil {
			return permanentError{linkErr} // it has tried for long, or the deployment is gone
		}
		d.url = link
		return err
	}
	return permanentError{err}
}

// same notes size and version of the artifact at the first answer, and compares them at every later one.
func (d *download) same(resp *http.Response, total int64) error {
	etag := resp.Header.Get("ETag")
	if strings.HasPrefix(etag, "W/") {
		etag = "" // means similar, not equal
	}
	if d.offset == 0 {
		d.total, d.etag = total, etag
		return nil
	}
	if total >= 0 && d.total >= 0 && total != d.total || d.etag != "" && etag != "" && etag != d.etag {
		return permanentError{errDownloadChanged}
	}
	if d.total < 0 {
		d.total = total
	}
	return nil
}

// skip reads up to offset in an answer that begins at the beginning. It counts as no progress.
func (d *download) skip() error {
	buf := make([]byte, 64<<10)
	for left := d.offset; left > 0; {
		n, err := d.readBody(buf[:min(int64(len(buf)), left)])
		left -= int64(n)
		if err != nil && left > 0 {
			return fmt.Errorf("reading the beginning again: %w", err)
		}
	}
	return nil
}

func (d *download) Close() error {
	d.drop()
	return nil
}

// parseContentRange reads "bytes START-END/TOTAL"; TOTAL may be *.
func parseContentRange(value string) (start, total int64, err error) {
	bad := fmt.Errorf("the server's Content-Range %q makes no sense", printable(value, 60))
	rest, ok := strings.CutPrefix(value, "bytes ")
	span, size, ok2 := strings.Cut(rest, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, bad
	}
	start, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	if err1 != nil || err2 != nil || start < 0 || end < start {
		return 0, 0, bad
	}
	if size == "*" {
		return start, -1, nil
	}
	total, err3 := strconv.ParseInt(size, 10, 64)
	if err3 != nil || total <= end {
		return 0, 0, bad
	}
	return start, total, nil
}
