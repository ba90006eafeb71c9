package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// input is an artifact to look at: a file, stdin for "-", or a URL.
type input struct {
	io.Reader
	io.Closer
	at   io.ReaderAt // nil when there is no random access
	size int64       // 0 when it is not known
}

// openAny opens a file, stdin for "-", or what a server has at an http:// or https:// address.
func (a *app) openAny(ctx context.Context, name string) (*input, error) {
	switch {
	case name == "-":
		r := interruptible(ctx, a.stdin)
		return &input{Reader: r, Closer: r}, nil
	case strings.HasPrefix(name, "http://"), strings.HasPrefix(name, "https://"):
		return openURL(ctx, name)
	}
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		return &input{Reader: f, Closer: f, at: f, size: info.Size()}, nil
	}
	return &input{Reader: interruptible(ctx, f), Closer: f}, nil
}

// interruptible makes reads of a pipe or terminal, which can take for ever, end with ctx. Closing it does not close r.
func interruptible(ctx context.Context, r io.Reader) io.ReadCloser {
	f, ok := r.(*os.File)
	if !ok {
		return io.NopCloser(r)
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		return io.NopCloser(r)
	}
	out, in := io.Pipe()
	context.AfterFunc(ctx, func() { in.CloseWithError(ctx.Err()) })
	go func() { // a read that is under way stays; the process ends soon after ctx does
		_, err := io.Copy(in, f)
		in.CloseWithError(err)
	}()
	return out
}

// remote reads a file on a web server, by ranges where the server has them (RFC 9110, section 14).
type remote struct {
	ctx  context.Context
	url  string
	size int64

	body io.ReadCloser // of the first request: all of it, read only as far as is needed

	cached map[int64][]byte // blocks by where they begin
}

// remoteBlock is how much a small read fetches. Headers of artifacts and tables of file systems are smaller.
const remoteBlock = 64 << 10

// remoteBlocks is how many of them are kept.
const remoteBlocks = 64

var remoteClient = &http.Client{Transport: &http.Transport{
	Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: time.Minute, TLSHandshakeTimeout: 30 * time.Second,
	DisableCompression: true, // what is fetched are ranges of the stored bytes
}}

func openURL(ctx context.Context, address string) (*input, error) {
	r := &remote{ctx: ctx, url: address}
	resp, err := r.get("bytes=0-") //nolint:bodyclose // the caller closes the input
	if err != nil {
		return nil, err
	}
	r.body = resp.Body
	in := &input{Reader: r.body, Closer: r.body, size: max(resp.ContentLength, 0)}
	if resp.StatusCode == http.StatusPartialContent && resp.ContentLength > 0 {
		r.size, in.at = resp.ContentLength, r
	}
	return in, nil
}

func (r *remote) get(ranges string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: it is not an address", shown(r.url))
	}
	req.Header.Set("Range", ranges)
	resp, err := remoteClient.Do(req)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err // without the whole address
		}
		return nil, fmt.Errorf("%s: %w", shown(r.url), err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: the server says %s", shown(r.url), resp.Status)
	}
	return resp, nil
}

var errNoRange = errors.New("the server sent another part of the file than it was asked for")

// ReadAt is used by one goroutine at a time.
func (r *remote) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), r.size-off)
	if n > remoteBlock {
		if err := r.fetch(p[:n], off); err != nil {
			return 0, err
		}
	} else {
		for done := int64(0); done < n; {
			start := (off + done) / remoteBlock * remoteBlock
			block, err := r.blockAt(start)
			if err != nil {
				return int(done), err
			}
			done += int64(copy(p[done:n], block[off+done-start:]))
		}
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (r *remote) blockAt(start int64) ([]byte, error) {
	if block := r.cached[start]; block != nil {
		return block, nil
	}
	block := make([]byte, min(remoteBlock, r.size-start))
	if err := r.fetch(block, start); err != nil {
		return nil, err
	}
	if r.cached == nil || len(r.cached) == remoteBlocks {
		r.cached = map[int64][]byte{}
	}
	r.cached[start] = block
	return block, nil
}

func (r *remote) fetch(p []byte, off int64) error {
	resp, err := r.get("bytes=" + strconv.FormatInt(off, 10) + "-" + strconv.FormatInt(off+int64(len(p))-1, 10))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	want := fmt.Sprintf("bytes %d-%d/", off, off+int64(len(p))-1)
	if resp.StatusCode != http.StatusPartialContent || !strings.HasPrefix(resp.Header.Get("Content-Range"), want) {
		return errNoRange
	}
	if _, err := io.ReadFull(resp.Body, p); err != nil {
		return fmt.Errorf("fetching the artifact: %w", err)
	}
	return nil
}

// contextReader stops reading when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// open opens a small file, or stdin for "-".
func (a *app) open(ctx context.Context, name string) (io.ReadCloser, error) {
	if name == "-" {
		return interruptible(ctx, a.stdin), nil
	}
	return openFile(name)
}

// shown is the name of an input in messages. The query of an address stays out: it may hold what lets one in.
func shown(name string) string {
	if !strings.HasPrefix(name, "http://") && !strings.HasPrefix(name, "https://") {
		return name
	}
	name, _, _ = strings.Cut(name, "#")
	name, _, _ = strings.Cut(name, "?")
	if u, err := url.Parse(name); err == nil {
		return u.Redacted()
	}
	scheme, rest, _ := strings.Cut(name, "://")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = "xxxxx" + rest[i:]
	}
	return scheme + "://" + rest
}
