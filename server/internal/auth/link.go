package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"time"
)

// Parameters of a link, as Mender's own signed links name them.
const (
	paramExpire    = "x-men-expire"
	paramSignature = "x-men-signature"
)

// ErrLink is a link that is forged or has expired.
var ErrLink = errors.New("the link is not valid or has expired")

// Links makes links that need no further authorization, since devices send none with a download.
type Links struct {
	key []byte
	now func() time.Time
}

// NewLinks makes links with a key derived from the secret; they survive a restart.
func NewLinks(s *Secret, now func() time.Time) *Links {
	return &Links{key: s.derive("download link"), now: now}
}

// Sign returns the query of a link to GET a path until it expires.
func (l *Links) Sign(path string, expires time.Time) url.Values {
	text := expires.UTC().Format(time.RFC3339)
	return url.Values{
		paramExpire:    {text},
		paramSignature: {base64.RawURLEncoding.EncodeToString(l.mac(path, text))},
	}
}

// Check says whether the query belongs to the path and has not expired.
func (l *Links) Check(path string, q url.Values) error {
	text := q.Get(paramExpire)
	mac, err := base64.RawURLEncoding.Strict().DecodeString(q.Get(paramSignature))
	if err != nil || !hmac.Equal(mac, l.mac(path, text)) {
		return ErrLink
	}
	expires, err := time.Parse(time.RFC3339, text)
	if err != nil || !l.now().Before(expires) {
		return ErrLink
	}
	return nil
}

func (l *Links) mac(path, expires string) []byte {
	h := hmac.New(sha256.New, l.key)
	h.Write([]byte("GET\n" + path + "\n" + paramExpire + "=" + expires + "\n"))
	return h.Sum(nil)
}
