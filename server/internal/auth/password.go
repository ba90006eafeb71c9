// Package auth proves who sends a request: people by password, people and programs by token, devices by a signature over
// their authentication request and then by token, and anyone with a download link by the link itself.
//
// It keeps no state but one secret; what may be revoked is looked up by the caller. The signed request of a device is
// Mender's (OpenAPI document of its deviceauth service); the tokens are JSON Web Tokens that clients treat as opaque.
package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"
)

// The cost of a password: OWASP's recommendation for argon2id (2024).
const (
	argonMemory  = 19 * 1024 // KiB
	argonTime    = 2
	argonThreads = 1
	argonKey     = 32
	argonSalt    = 16
)

// Bounds of a password. Mender allows 256 characters, which bcrypt could not hash.
const (
	MinPassword = 8
	MaxPassword = 1024
)

// Passwords hashes and checks passwords, a few at a time: each costs 19 MiB, and logins come from anyone.
type Passwords struct{ slots *semaphore.Weighted }

// NewPasswords allows n hashes at a time.
func NewPasswords(n int64) *Passwords { return &Passwords{slots: semaphore.NewWeighted(n)} }

// Hash makes the text to store for a password, in PHC form.
func (p *Passwords) Hash(ctx context.Context, password string) (string, error) {
	if len(password) < MinPassword {
		return "", fmt.Errorf("the password is too short: it needs at least %d characters", MinPassword)
	}
	if len(password) > MaxPassword {
		return "", fmt.Errorf("the password is longer than %d bytes", MaxPassword)
	}
	salt := make([]byte, argonSalt)
	rand.Read(salt) // it never fails
	key, err := p.derive(ctx, password, salt, argonTime, argonMemory, argonThreads)
	if err != nil {
		return "", err
	}
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		b64.EncodeToString(salt), b64.EncodeToString(key)), nil
}

// nobody is checked when there is no such user, so that the answer takes as long as for one that there is.
const nobody = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// Check says whether the password is the one that was hashed. An empty hash stands for a user that doesn't exist: it takes
// as long and is never right.
func (p *Passwords) Check(ctx context.Context, password, hash string) (bool, error) {
	known := hash != ""
	if !known {
		hash = nobody
	}
	if len(password) > MaxPassword {
		password = password[:MaxPassword]
		known = false
	}
	var version int
	var memory, time uint32
	var threads uint8
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errors.New("damaged password record")
	}
	if _, err := fmt.Sscanf(parts[2]+" "+parts[3], "v=%d m=%d,t=%d,p=%d", &version, &memory, &time, &threads); err != nil || version != argon2.Version {
		return false, errors.New("damaged password record")
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err := errors.Join(err1, err2); err != nil {
		return false, errors.New("damaged password record")
	}
	got, err := p.derive(ctx, password, salt, time, memory, threads)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1 && known, nil
}

func (p *Passwords) derive(ctx context.Context, password string, salt []byte, time, memory uint32, threads uint8) ([]byte, error) {
	if err := p.slots.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer p.slots.Release(1)
	return argon2.IDKey([]byte(password), salt, time, memory, threads, argonKey), nil
}
