package auth

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// Secret is the one secret of a server. Everything that it signs uses a key derived from it for that purpose alone.
type Secret struct{ master []byte }

const secretSize = 32

// LoadSecret reads the secret from a file, and makes one when there is no file. The caller sees to it that no two
// processes do that at the same time. A file that others can read is refused: whoever has it can be any device and any user.
func LoadSecret(path string) (*Secret, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		master := make([]byte, secretSize)
		rand.Read(master) // it never fails
		if err := durable.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(master)+"\n"), 0o600); err != nil {
			return nil, err
		}
		return &Secret{master: master}, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &PermissionError{Path: path, Mode: info.Mode().Perm()}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	master := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(master, text)
	if err != nil || n != secretSize {
		return nil, fmt.Errorf("%s: damaged; it must be %d bytes in base64", path, secretSize)
	}
	return &Secret{master: master[:n]}, nil
}

// PermissionError is a secret file that others can read.
type PermissionError struct {
	Path string
	Mode fs.FileMode
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("%s: others can read it (mode %04o)", e.Path, e.Mode)
}

// Hint says what to do.
func (e *PermissionError) Hint() string { return "chmod 600 " + e.Path }

// derive makes the key for a purpose.
func (s *Secret) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, s.master, nil, "twinkeel server: "+purpose, secretSize)
	if err != nil {
		panic(err) // only for a length beyond 255 hashes
	}
	return key
}

func (s *Secret) signingKey(purpose string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(s.derive(purpose))
}
