package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/internal/version"
)

const (
	maxAnswer   = 1 << 20  // of an API call
	maxHeader   = 64 << 10 // of any answer; net/http would take 10 MiB
	callTimeout = time.Minute
)

// errNotAuthorized: the server knows the device not, or not yet.
var errNotAuthorized = errors.New("the server does not accept this device (yet)")

// statusError is an answer that is not a success.
type statusError struct {
	Call       string // "POST URL"
	Code       int
	Message    string
	RetryAfter time.Duration
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("%s: the server answered %d %s", e.Call, e.Code, http.StatusText(e.Code))
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// answered says that err is an answer with this code.
func answered(err error, code int) bool {
	var se *statusError
	return errors.As(err, &se) && se.Code == code
}

// client speaks Mender's device API.
type client struct {
	servers []string
	tenant  string
	key     *deviceKey
	idData  string
	http    *http.Client

	server string // the one that authorized us
	token  string
}

// newHTTPClient makes the one HTTP client for API and downloads. There is no overall timeout: a download takes as long
// as it takes, and has a stall timeout of its own.
func newHTTPClient(caFile string) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a root file system without certificates is common
		}
		data, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("reading ServerCertificate: %s: %s", caFile, reason(err))
		}
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("ServerCertificate: %s holds no certificate", caFile)
		}
		config.RootCAs = pool
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  30 * time.Second,
			ExpectContinueTimeout:  time.Second,
			MaxIdleConns:           2,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true, // an artifact is what the server stores, byte by byte
		},
		CheckRedirect: func(to *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return errors.New("too many redirects")
			}
			if via[0].URL.Scheme == "https" && to.URL.Scheme != "https" {
				return errors.New("a redirect from https to " + to.URL.Scheme + " is not followed")
			}
			return nil
		},
	}, nil
}

// forget drops the token: the next call authenticates anew.
func (c *client) forget() { c.token = "" }

// authenticate asks the servers in their order for a token.
func (c *client) authenticate(ctx context.Context) error {
	var failures []error
	for _, server := range c.servers {
		token, err := c.authenticateAt(ctx, server)
		if err == nil {
			c.server, c.token = server, token
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		failures = append(failures, err)
	}
	return fmt.Errorf("authenticating: %w", errors.Join(failures...))
}

func (c *client) authenticateAt(ctx context.Context, server string) (string, error) {
	body, err := json.Marshal(menderapi.AuthRequest{IDData: c.idData, PubKey: c.key.pem, TenantToken: c.tenant})
	if err != nil {
		return "", err
	}
	signature, err := c.key.sign(body)
	if err != nil {
		return "", fmt.Errorf("signing with the device's key: %w", err)
	}
	header := http.Header{menderapi.HeaderSignature: {base64.StdEncoding.EncodeToString(signature)}}
	if c.tenant != "" {
		header.Set("Authorization", "Bearer "+c.tenant)
	}
	_, answer, err := c.send(ctx, http.MethodPost, server, menderapi.PathAuthRequests, body, header)
	if answered(err, http.StatusUnauthorized) {
		return "", fmt.Errorf("%w: %w", errNotAuthorized, err)
	}
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(answer))
	if token == "" || strings.ContainsAny(token, " \r\n\t") {
		return "", fmt.Errorf("%s answered with something that is no token", server)
	}
	return token, nil
}

// call makes an authorized call. When the token is refused it authenticates once more and repeats the call.
func (c *client) call(ctx context.Context, method, path string, in any) (int, []byte, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return 0, nil, err
	}
	for fresh := false; ; fresh = true {
		if c.token == "" {
			if err := c.authenticate(ctx); err != nil {
				return 0, nil, err
			}
			fresh = true
		}
		header := http.Header{"Authorization": {"Bearer " + c.token}}
		code, answer, err := c.send(ctx, method, c.server, path, body, header)
		if !answered(err, http.StatusUnauthorized) {
			return code, answer, err
		}
		c.forget()
		if fresh {
			return 0, nil, fmt.Errorf("%w: %w", errNotAuthorized, err)
		}
	}
}

func (c *client) send(ctx context.Context, method, server, path string, body []byte, header http.Header) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	address := strings.TrimRight(server, "/") + path
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, networkError(err)
	}
	defer closeQuietly(resp.Body)
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		if err != nil {
			return 0, nil, fmt.Errorf("%s %s: reading the answer: %w", method, address, networkError(err))
		}
		return resp.StatusCode, answer, nil
	}
	return 0, nil, newStatusError(method+" "+address, resp, answer)
}

var userAgent = "twinkeel-agent/" + version.Version

func newStatusError(call string, resp *http.Response, answer []byte) *statusError {
	e := &statusError{Call: call, Code: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"))}
	var body menderapi.Error
	if json.Unmarshal(answer, &body) == nil {
		e.Message = printable(body.Error, 300)
	}
	return e
}

// retryAfter reads the header in its form of seconds, within a day.
func retryAfter(value string) time.Duration {
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, 24*time.Hour)
}

// networkError drops the outer *url.Error's quoting and keeps the cause.
func networkError(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return fmt.Errorf("%s %s: %w", strings.ToUpper(ue.Op), withoutQuery(ue.URL), ue.Err)
	}
	return err
}

// withoutQuery makes a URL fit for messages: the query of a download link is the permission to download.
func withoutQuery(address string) string {
	address, _, _ = strings.Cut(address, "?")
	return address
}

// printable makes text of a stranger safe for a terminal and a log.
func printable(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return text
}

// next asks for a deployment; nil means there is none. Mender's open source server knows only the older call.
func (c *client) next(ctx context.Context, deviceType string, installed Installed) (*menderapi.Next, error) {
	provides := map[string]string{}
	for key, value := range installed.Provides {
		provides[key] = value
	}
	provides["device_type"] = deviceType
	provides["artifact_name"] = installed.artifactName()
	if installed.Group != "" {
		provides["artifact_group"] = installed.Group
	}
	code, answer, err := c.call(ctx, http.MethodPost, menderapi.PathNextV2, menderapi.NextRequest{DeviceProvides: provides})
	if answered(err, http.StatusNotFound) {
		code, answer, err = c.call(ctx, http.MethodPost, menderapi.PathNextV1, provides)
	}
	if err != nil {
		return nil, fmt.Errorf("asking for a deployment: %w", err)
	}
	if code == http.StatusNoContent {
		return nil, nil
	}
	var n menderapi.Next
	if err := json.Unmarshal(answer, &n); err != nil {
		return nil, errors.New("asking for a deployment: the answer is not the JSON of a deployment")
	}
	if err := checkNext(&n); err != nil {
		return nil, fmt.Errorf("asking for a deployment: %w", err)
	}
	return &n, nil
}

// checkNext refuses a deployment that could not be reported on or downloaded. The id becomes part of request paths.
func checkNext(n *menderapi.Next) error {
	if n.ID == "" || len(n.ID) > 128 || strings.Trim(n.ID, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") != "" || strings.Trim(n.ID, ".") == "" {
		return errors.New("the deployment has no usable id")
	}
	if n.Artifact.ArtifactName == "" || len(n.Artifact.ArtifactName) > 4096 {
		return fmt.Errorf("deployment %s names no artifact", n.ID)
	}
	link, err := url.Parse(n.Artifact.Source.URI)
	if err != nil || link.Host == "" || link.Scheme != "http" && link.Scheme != "https" {
		return fmt.Errorf("deployment %s has no usable download link", n.ID)
	}
	return nil
}

func (c *client) report(ctx context.Context, id string, status menderapi.Status, substate string) error {
	path := fmt.Sprintf(menderapi.PathDeploymentStatus, id)
	_, _, err := c.call(ctx, http.MethodPut, path, menderapi.StatusReport{Status: status, SubState: printable(substate, 190)})
	if err != nil {
		return fmt.Errorf("reporting %q: %w", status, err)
	}
	return nil
}

func (c *client) sendLog(ctx context.Context, id string, messages []menderapi.LogMessage) error {
	_, _, err := c.call(ctx, http.MethodPut, fmt.Sprintf(menderapi.PathDeploymentLog, id), menderapi.Log{Messages: messages})
	if err != nil {
		return fmt.Errorf("sending the deployment's log: %w", err)
	}
	return nil
}

func (c *client) sendInventory(ctx context.Context, attributes []menderapi.Attribute) error {
	_, _, err := c.call(ctx, http.MethodPut, menderapi.PathDeviceAttributes, attributes)
	if err != nil {
		return fmt.Errorf("sending the inventory: %w", err)
	}
	return nil
}
