package auth

import (
	"crypto/ed25519"
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Audience is what a token is for. A token of one audience is nothing in another.
type Audience string

// The audiences.
const (
	Device Audience = "device"
	User   Audience = "user"
)

const (
	issuer   = "twinkeel"
	maxToken = 4096
)

// ErrToken is a token that is not valid here; the reason is not for the sender.
var ErrToken = errors.New("token is not valid")

// Tokens issues and checks the tokens of one audience. Each audience has a key of its own.
type Tokens struct {
	audience Audience
	key      ed25519.PrivateKey
	now      func() time.Time
	parser   *jwt.Parser
}

// NewTokens makes the tokens of an audience.
func NewTokens(s *Secret, audience Audience, now func() time.Time) *Tokens {
	return &Tokens{
		audience: audience,
		key:      s.signingKey("token for " + string(audience)),
		now:      now,
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithIssuer(issuer),
			jwt.WithAudience(string(audience)), jwt.WithTimeFunc(now), jwt.WithLeeway(time.Minute)),
	}
}

// claims holds Mender's private claim too: its tools show by it what a token is.
type claims struct {
	jwt.RegisteredClaims
	MenderDevice bool `json:"mender.device,omitempty"`
	MenderUser   bool `json:"mender.user,omitempty"`
}

// Issue makes a token. id is what the caller can revoke: the auth set of a device, the session or token of a user.
// Without expires it is valid until it is revoked.
func (t *Tokens) Issue(id, subject string, expires time.Time) (string, error) {
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID: id, Subject: subject, Issuer: issuer, Audience: jwt.ClaimStrings{string(t.audience)}, IssuedAt: jwt.NewNumericDate(t.now()),
		},
		MenderDevice: t.audience == Device,
		MenderUser:   t.audience == User,
	}
	if !expires.IsZero() {
		c.ExpiresAt = jwt.NewNumericDate(expires)
	}
	return jwt.NewWithClaims(jwt.SigningMethodEdDSA, c).SignedString(t.key)
}

// Check returns the id and the subject of a valid token. The caller must still ask whether the id was revoked.
func (t *Tokens) Check(token string) (id, subject string, err error) {
	if len(token) > maxToken {
		return "", "", ErrToken
	}
	var c claims
	_, err = t.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return t.key.Public(), nil })
	if err != nil || c.ID == "" {
		return "", "", ErrToken
	}
	return c.ID, c.Subject, nil
}
