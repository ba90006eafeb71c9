package artifactfmt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/twinkeel/twinkeel/signing"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// memory is an Output in memory.
type memory struct{ b []byte }

func (m *memory) Write(p []byte) (int, error) {
	m.b = append(m.b, p...)
	return len(p), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(len(m.b)) {
		return 0, errors.New("behind the end")
	}
	return copy(m.b[off:], p), nil
}

// file makes an input of bytes.
func file(name string, content []byte) InputFile {
	return InputFile{
		Name: name,
		Size: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}
}

// sparseContent resembles a file system image: text that compresses, noise that does not, and holes.
func sparseContent(size int) []byte {
	rnd := rand.NewChaCha8([32]byte{1})
	b := make([]byte, size)
	for at := 0; at < size; at += 64 << 10 {
		part := b[at:min(at+64<<10, size)]
		switch rnd.Uint64() % 8 {
		case 0, 1, 2: // a hole
		case 3:
			rnd.Read(part)
		default:
			text := make([]byte, 512)
			rnd.Read(text)
			for i := range text {
				text[i] = 'a' + text[i]%16
			}
			for i := range part {
				part[i] = text[(i*7+i/511)%len(text)]
			}
		}
	}
	return b
}

// keyPair makes a key in files and returns their names, a signer and a keyring.
func keyPair(t testing.TB, algorithm string) (private, public string, signer signing.Signer, ring *verify.Keyring) {
	t.Helper()
	dir := t.TempDir()
	private, public = filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.pub")
	privatePEM, publicPEM, err := signing.Generate(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.WriteKeyPair(private, public, privatePEM, publicPEM); err != nil {
		t.Fatal(err)
	}
	if signer, err = signing.LoadFile(private, nil); err != nil {
		t.Fatal(err)
	}
	if ring, err = verify.LoadKeyring([]string{public}); err != nil {
		t.Fatal(err)
	}
	return private, public, signer, ring
}

func write(t testing.TB, a *Artifact) []byte {
	t.Helper()
	var out memory
	if _, err := Write(t.Context(), &out, a); err != nil {
		t.Fatal(err)
	}
	return out.b
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// rootfs is a small artifact with a bit of everything.
func rootfs(content []byte) *Artifact {
	return &Artifact{
		Name: "release-1.0.0", DeviceTypes: []string{"beaglebone", "raspberrypi4"}, PayloadType: RootfsImage,
		Depends:     map[string]string{"rootfs-image.version": "release-0.9"},
		Files:       []InputFile{file("rootfs.ext4", content)},
		Scripts:     []Script{{"ArtifactInstall_Leave_50_b", []byte("#!/bin/sh\nexit 0\n")}, {"ArtifactInstall_Enter_10", []byte("#!/bin/sh\n")}},
		Compression: Gzip,
	}
}

func module() *Artifact {
	return &Artifact{
		Name: "app-2", Group: "beta", DeviceTypes: []string{"qemux86-64"}, PayloadType: "single-file",
		DependsNames: []string{"app-1", "app-0"}, DependsGroups: []string{"beta", "alpha"},
		Provides: map[string]string{"app.flavour": "<dark>"}, ClearsProvides: []string{"app.*"},
		MetaData: []byte(`{ "big": 9007199254740993, "list": [1, 2.50] }`),
		Files: []InputFile{
			file("dest_dir", []byte("/etc\n")), file("filename", []byte("app.conf\n")), file("empty", nil),
			file("app.conf", bytes.Repeat([]byte("key = value\n"), 1000)),
		},
	}
}

func bootstrap() *Artifact {
	return &Artifact{
		Name: "factory-1", DeviceTypes: []string{"qemux86-64"},
		Provides: map[string]string{"rootfs-image.version": "factory-1"}, ClearsProvides: []string{"*"},
	}
}

func sumOf(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}
