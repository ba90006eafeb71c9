package client

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// Errors that an *APIError matches with errors.Is, by its status.
var (
	ErrUnauthorized = errors.New("not authorized")             // 401
	ErrNotFound     = errors.New("not found")                  // 404
	ErrConflict     = errors.New("already there or in use")    // 409
	ErrUnusable     = errors.New("understood, but not usable") // 422
)

// APIError is an answer that says no.
type APIError struct {
	Method    string
	URL       string // without query
	Status    int
	Message   string // the server's words; may be empty
	RequestID string // finds the request in the server's log
}

func newAPIError(req *http.Request, resp *http.Response) *APIError {
	u := *req.URL
	u.RawQuery = ""
	e := &APIError{
		Method: req.Method, URL: u.Redacted(), Status: resp.StatusCode,
		RequestID: resp.Header.Get(menderapi.HeaderRequestID),
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrBody))
	var m menderapi.Error
	if err == nil && json.Unmarshal(body, &m) == nil {
		e.Message = m.Error
		if e.RequestID == "" {
			e.RequestID = m.RequestID
		}
	}
	if loc := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && loc != "" {
		e.Message = "redirects to " + redactURL(loc)
	}
	return e
}

func (e *APIError) Error() string {
	s := fmt.Sprintf("%s %s: the server answered %d %s", e.Method, e.URL, e.Status, http.StatusText(e.Status))
	if e.Message != "" && !strings.EqualFold(e.Message, http.StatusText(e.Status)) {
		s += ": " + e.Message
	}
	if e.RequestID != "" {
		s += " (request " + e.RequestID + ")"
	}
	return s
}

// Is lets errors.Is find the sentinel of the status.
func (e *APIError) Is(target error) bool {
	switch target {
	case ErrUnauthorized:
		return e.Status == http.StatusUnauthorized
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrConflict:
		return e.Status == http.StatusConflict
	case ErrUnusable:
		return e.Status == http.StatusUnprocessableEntity
	}
	return false
}

// Hint says what to do.
func (e *APIError) Hint() string {
	switch {
	case e.Status == http.StatusUnauthorized:
		return "the token is missing, expired or of another server; set the server's token to one from `twinkeel server token create`"
	case e.Status == http.StatusForbidden:
		return "this token may not do that; use one with more rights"
	case e.Status == http.StatusNotFound && e.Message == "":
		return "is this the URL of an update server? see the server block's url"
	case e.Status == http.StatusConflict && e.Message == menderapi.ErrorArtifactConflict:
		return "the server has an artifact of this name for the same devices; give the release a new name, or delete the old one"
	case e.Status == http.StatusRequestEntityTooLarge:
		return "raise the server's artifact size limit"
	case e.Status/100 == 3:
		return "set the server's url to the place that it redirects to"
	case e.Status == http.StatusTooManyRequests:
		return "wait a minute and try again"
	case e.Status >= 500:
		return "the server's log has the reason under this request id"
	}
	return ""
}

// ConnectError says that there was no answer.
type ConnectError struct {
	Server string
	err    error
}

func (e *ConnectError) Error() string {
	if e.timeout() {
		return fmt.Sprintf("no answer from %s in time", e.Server)
	}
	return fmt.Sprintf("no answer from %s: %v", e.Server, e.err)
}

// wantsCertificate tells the answers of servers that want a client certificate, or another one. crypto/tls has no type for
// the alerts of the other side (RFC 8446, section 6.2): they are texts in an operation called "remote error".
func wantsCertificate(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return false
	}
	text := op.Err.Error()
	return strings.Contains(text, "certificate") // required, bad, expired, revoked, unknown, of an unknown authority
}

func (e *ConnectError) timeout() bool {
	var n net.Error
	return errors.As(e.err, &n) && n.Timeout()
}

// Unwrap returns the network's error.
func (e *ConnectError) Unwrap() error { return e.err }

// Hint says what to do.
func (e *ConnectError) Hint() string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	switch {
	case wantsCertificate(e.err):
		return "the server wants a certificate that it trusts; set client_certificate and client_key"
	case errors.Is(e.err, syscall.ECONNREFUSED):
		return "is the server running? `twinkeel server run` starts one"
	case errors.As(e.err, &unknown):
		return "set ca_certificate to the certificate that signed the server's"
	case errors.As(e.err, &host):
		return "the server's certificate is for another name; check the url"
	case errors.As(e.err, &record):
		return "the server does not speak TLS on this port; check the url's scheme and port"
	case errors.As(e.err, &dns):
		return "check the host name in the server's url"
	case e.timeout():
		return "is the server overloaded, or a firewall on the way? its log and `curl -v " + e.Server + "` tell"
	}
	return ""
}

// temporary says that a repetition may help.
func temporary(err error) bool {
	var api *APIError
	if errors.As(err, &api) {
		switch api.Status {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	var conn *ConnectError
	if !errors.As(err, &conn) {
		return false
	}
	var cert *tls.CertificateVerificationError
	return !conn.timeout() && !errors.As(conn.err, &cert) && !wantsCertificate(conn.err) && !errors.Is(conn.err, syscall.ECONNREFUSED)
}

// withoutURL takes off the wrapper that repeats method and URL, which our own errors say already.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
