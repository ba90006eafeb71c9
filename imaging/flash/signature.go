package flash

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

const (
	maxSumFile   = 1 << 20
	maxSignature = 16 << 10
)

// findSum finds the SHA-256 that the file has to have, and who says so.
func (m *Image) findSum() error {
	if m.o.SHA256 != "" {
		sum := strings.ToLower(strings.TrimPrefix(m.o.SHA256, "sha256:"))
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size {
			return &ImageError{Path: m.Path, Reason: "the SHA-256 that was given is not one: it has 64 hexadecimal digits"}
		}
		m.wantSum, m.sumFrom = sum, "the SHA-256 that was given"
		return nil
	}
	name := m.Path + ".sha256"
	text, err := readSmall(name, maxSumFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	sum, err := parseSum(string(text), filepath.Base(m.Path))
	if err != nil {
		return &ImageError{Path: name, Reason: err.Error(), Advice: "sha256sum writes such files"}
	}
	m.wantSum, m.sumFrom = sum, name
	return nil
}

// parseSum finds the checksum of a file in what sha256sum prints: lines of the digits, a blank, a blank or "*", and the
// name; or with --tag "SHA256 (NAME) = DIGITS"; or the digits alone.
func parseSum(text, name string) (string, error) {
	found := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		digits, rest, _ := strings.Cut(line, " ")
		of := strings.TrimPrefix(strings.TrimSpace(rest), "*")
		if tagged, ok := strings.CutPrefix(line, "SHA256 ("); ok {
			if i := strings.LastIndex(tagged, ") = "); i >= 0 {
				of, digits = tagged[:i], tagged[i+4:]
			}
		}
		if of != "" && filepath.Base(of) != name {
			continue
		}
		if raw, err := hex.DecodeString(digits); err != nil || len(raw) != sha256.Size {
			return "", errors.New("it is no list of SHA-256 checksums")
		}
		if digits = strings.ToLower(digits); found != "" && found != digits {
			return "", fmt.Errorf("it has two different checksums of %s", name)
		}
		found = digits
	}
	if found == "" {
		return "", fmt.Errorf("it has no checksum of %s", name)
	}
	return found, nil
}

// checkSignatures looks at the signatures once the file's digest is known. The block map names every byte that is written by
// its checksum, so its signature is enough; without a map the image's is needed.
func (m *Image) checkSignatures(file [sha256.Size]byte) error {
	if m.o.Keyring == nil {
		return nil
	}
	imageKey, imageErr := m.checkSignature(m.Path, file)
	if m.bmap == nil {
		m.KeyID = imageKey
		return imageErr
	}
	bmapKey, err := m.checkSignature(m.BmapPath, sha256.Sum256(m.bmapText))
	if err != nil {
		var missing *UnsignedError
		if errors.As(err, &missing) && imageErr == nil {
			missing.Advice = "the image is signed, its block map is not: sign it, too, or write everything with --no-bmap"
		}
		return err
	}
	if m.bmap.ChecksumType == "sha1" {
		return &VerifyError{
			What: m.BmapPath, Reason: "its checksums are SHA-1, which can be forged, so its signature says nothing of the image",
			Advice: "make the block map again with SHA-256, or use --no-bmap with a signed image",
		}
	}
	for _, r := range m.bmap.Ranges {
		if r.Checksum == "" {
			return &VerifyError{
				What: m.BmapPath, Reason: "it has ranges without a checksum, so its signature says nothing of them",
				Advice: "make the block map again with checksums, or use --no-bmap with a signed image",
			}
		}
	}
	var missing *UnsignedError
	if imageErr != nil && !errors.As(imageErr, &missing) { // there is one, and it is wrong
		return imageErr
	}
	m.KeyID = bmapKey
	return nil
}

// UnsignedError says that a file has no signature though one is demanded.
type UnsignedError struct{ Path, Advice string }

func (e *UnsignedError) Error() string {
	return fmt.Sprintf("%s: it is not signed: there is no %s", e.Path, filepath.Base(e.Path)+".sig")
}

// Hint says what to do about it.
func (e *UnsignedError) Hint() string { return e.Advice }

// checkSignature checks the signature in PATH.sig over a file's SHA-256.
func (m *Image) checkSignature(path string, digest [sha256.Size]byte) (string, error) {
	name := path + ".sig"
	text, err := readSmall(name, maxSignature)
	if errors.Is(err, fs.ErrNotExist) {
		return "", &UnsignedError{path, fmt.Sprintf("sign it with: openssl dgst -sha256 -sign KEY -out %s %s", filepath.Base(name), filepath.Base(path))}
	}
	if err != nil {
		return "", err
	}
	// Bytes, as openssl writes them, or base64 text, as twinkeel does: it is the one that verifies.
	id, err := m.o.Keyring.VerifyDigest(digest, text)
	if err != nil {
		if raw, notText := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(text), nil))); notText == nil {
			id, err = m.o.Keyring.VerifyDigest(digest, raw)
		}
	}
	if err != nil {
		return "", &VerifyError{
			What: path, Reason: fmt.Sprintf("the signature in %s is not by a trusted key, or is for another file", filepath.Base(name)),
			Advice: "get both again from where they came from, and check which key signs there",
		}
	}
	return id, nil
}
