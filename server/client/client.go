// Package client speaks the management API of a Twinkeel server, or of a Mender server as far as the two agree: it
// uploads artifacts, starts and watches deployments, and accepts devices.
//
// The requests are those of Mender's OpenAPI documents (internal/menderapi has their shapes); what only a Twinkeel
// server understands is optional in them. A Client is safe for concurrent use. Its errors never contain the token.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// Options change how a Client connects. The zero value is usual.
type Options struct {
	// CACertificate is the path of a PEM file with certificates to trust beside those of the system.
	CACertificate string
	// ClientCertificate and ClientKey are the paths of PEM files with a certificate, its chain and its unencrypted private
	// key, for servers (or proxies before them) that ask for one. Both or none. A key that others may read is refused.
	ClientCertificate, ClientKey string
	// HTTPClient replaces the client that New makes; the certificates are ignored then.
	HTTPClient *http.Client
	// RetryWait is the pause before the first of the three tries of a request that only reads; it doubles each time.
	// 0 means half a second.
	RetryWait time.Duration
	// AnswerTimeout is how long a server may take to begin its answer to anything but an upload, which it verifies
	// first. 0 means 30 seconds.
	AnswerTimeout time.Duration
}

// Client is a connection to one server as one user.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
	large *http.Client // the same, for uploads, whose answer takes longer
	wait  time.Duration
}

const (
	tries      = 3
	maxAnswer  = 64 << 20 // of JSON; a list of 100,000 devices of a deployment is 20 MiB, and it comes in pages
	maxErrBody = 64 << 10
	perPage    = 500 // the most that Mender allows
)

// New makes a client for the server at rawURL ("https://host[:port]"). The token is a personal access token or what
// Login returned; it may be empty for Login itself.
func New(rawURL, token string, o Options) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return nil, fmt.Errorf("server URL %q: it must look like https://updates.example.com", redactURL(rawURL))
	}
	if u.User != nil {
		return nil, fmt.Errorf("server URL %q: it must not contain a user or a password; use a token", redactURL(rawURL))
	}
	token = strings.TrimSpace(token)
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("the server's token holds a space, a line break or another character that no token has")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawQuery, u.Fragment = "", ""
	c := &Client{base: u, token: token, http: o.HTTPClient, large: o.HTTPClient, wait: o.RetryWait}
	if c.wait <= 0 {
		c.wait = 500 * time.Millisecond
	}
	if c.http == nil {
		t, err := newTransport(o)
		if err != nil {
			return nil, err
		}
		t.ResponseHeaderTimeout = 5 * time.Minute
		c.large = newHTTPClient(t)
		t = t.Clone()
		if t.ResponseHeaderTimeout = o.AnswerTimeout; t.ResponseHeaderTimeout <= 0 {
			t.ResponseHeaderTimeout = 30 * time.Second
		}
		c.http = newHTTPClient(t)
	}
	return c, nil
}

func newTransport(o Options) (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if o.ClientCertificate != "" || o.ClientKey != "" {
		own, err := loadClientCertificate(o.ClientCertificate, o.ClientKey)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.Certificates = []tls.Certificate{own}
	}
	if caFile := o.CACertificate; caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("reading CA certificate: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA certificate %s: no PEM certificate in it", caFile)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return t, nil
}

func newHTTPClient(t *http.Transport) *http.Client {
	return &http.Client{
		Transport: t,
		// A redirect would send the request, and on the same host the token, to a place that nobody configured; and it
		// turns a POST into a GET. The answer is shown instead.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func redactURL(raw string) string {
	if u, err := url.Parse(raw); err == nil {
		return u.Redacted()
	}
	return "(not a URL)"
}

// URL is the server's address, for messages.
func (c *Client) URL() string { return c.base.String() }

// call is one request. A body is a value to encode as JSON.
type call struct {
	method string
	path   string
	query  url.Values
	body   any
	auth   func(*http.Request) // nil: the token
	accept int                 // the status that means success
}

// do sends a call and returns the answer with its body unread. Calls that only read are repeated when the server or
// the network fails for a moment; the others never are, since they may have had their effect.
func (c *Client) do(ctx context.Context, k call) (*http.Response, error) {
	wait := c.wait
	for try := 1; ; try++ {
		resp, err := c.once(ctx, k)
		if err == nil || k.method != http.MethodGet || try == tries || !temporary(err) || ctx.Err() != nil {
			return resp, err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
		wait *= 2
	}
}

func (c *Client) once(ctx context.Context, k call) (*http.Response, error) {
	var body io.Reader
	if k.body != nil {
		data, err := json.Marshal(k.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := c.request(ctx, k.method, k.path, k.query, body)
	if err != nil {
		return nil, err
	}
	if k.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if k.auth != nil {
		req.Header.Del("Authorization")
		k.auth(req)
	}
	return c.send(c.http, req, k.accept)
}

func (c *Client) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	req.Header.Set("User-Agent", "twinkeel")
	return req, nil
}

// send returns the answer when its status is the accepted one; else the body is consumed and becomes an *APIError.
func (c *Client) send(h *http.Client, req *http.Request, accept int) (*http.Response, error) {
	resp, err := h.Do(req)
	if err != nil {
		if ctxErr := req.Context().Err(); ctxErr != nil {
			return nil, ctxErr
		}
		return nil, &ConnectError{Server: c.base.String(), err: withoutURL(err)}
	}
	if resp.StatusCode == accept {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, newAPIError(req, resp)
}

// decode reads the JSON answer of a call.
func (c *Client) decode(ctx context.Context, k call, into any) error {
	_, err := c.decodeHeader(ctx, k, into)
	return err
}

func (c *Client) decodeHeader(ctx context.Context, k call, into any) (http.Header, error) {
	resp, err := c.do(ctx, k)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); err != nil {
		return nil, fmt.Errorf("%s %s: the answer is not what this program understands: %w", k.method, c.base.JoinPath(k.path), err)
	}
	return resp.Header, nil
}

// run sends a call whose answer has no body.
func (c *Client) run(ctx context.Context, k call) (http.Header, error) {
	resp, err := c.do(ctx, k)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrBody)) // so that the connection can be used again
	return resp.Header, err
}

// created sends a call that makes something and returns the id in its Location.
func (c *Client) created(ctx context.Context, k call) (string, error) {
	k.accept = http.StatusCreated
	h, err := c.run(ctx, k)
	if err != nil {
		return "", err
	}
	return idFromLocation(h)
}

func idFromLocation(h http.Header) (string, error) {
	loc := h.Get("Location")
	id := loc[strings.LastIndexByte(loc, '/')+1:]
	if id == "" {
		return "", errors.New("the server's answer has no Location with the id of what it created")
	}
	return id, nil
}

// all reads every page of a list.
func all[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	q := url.Values{}
	for k, v := range query {
		q[k] = v
	}
	q.Set("per_page", strconv.Itoa(perPage))
	var items []T
	for page := 1; ; page++ {
		q.Set("page", strconv.Itoa(page))
		var part []T
		if err := c.decode(ctx, call{method: http.MethodGet, path: path, query: q, accept: http.StatusOK}, &part); err != nil {
			return nil, err
		}
		items = append(items, part...)
		if len(part) < perPage {
			return items, nil
		}
	}
}

// Login exchanges an email address and a password for a token. The client itself goes on without it: make a new one.
func (c *Client) Login(ctx context.Context, email, password string) (string, error) {
	resp, err := c.do(ctx, call{
		method: http.MethodPost, path: menderapi.PathLogin, accept: http.StatusOK,
		auth: func(r *http.Request) { r.SetBasicAuth(email, password) },
	})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	token, err := io.ReadAll(io.LimitReader(resp.Body, maxErrBody))
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", withoutURL(err))
	}
	if len(bytes.TrimSpace(token)) == 0 {
		return "", errors.New("the server's answer to the login has no token")
	}
	return string(bytes.TrimSpace(token)), nil
}
