// Package artifactfmt reads and writes Mender artifacts (.mender files, format version 3) as streams, and nothing else: it
// opens no file, knows no network and installs nothing.
//
// The format is described in docs/artifact-format.md, which follows the document of mender-artifact
// (Documentation/artifact-format-v3.md). Where that is silent, the readers in the field decide: mender-artifact (3.9.0 of Debian
// and the newest), the Go client (up to 3.x) and the C++ client (from 4.0). They disagree in places, so this package
//   - writes only what all of them accept ([Write]),
//   - reads what any device accepts, as far as that is safe ([NewReader]), and lists what some reader would refuse, and
//   - demands on request that all of them accept an artifact ([Validate]).
//
// Everything that is read is hostile until its checksum is met: [Limits] bounds what it can cost. The agent contains this
// package, so it depends on the standard library and the decompressors alone.
package artifactfmt

import (
	"context"
	"encoding/json"
	"io"
	"time"
)

// Compression of an artifact's payload.
type Compression string

// The compressions of the format. Debian's mender-artifact 3.9.0 and Mender clients before 4.0 can't read zstd.
const (
	CompressionNone Compression = "none"
	Gzip            Compression = "gzip"
	XZ              Compression = "xz"
	Zstd            Compression = "zstd"
)

// RootfsImage is the payload type of a root file system image; all other types name an update module.
const RootfsImage = "rootfs-image"

// Signer signs the manifest of an artifact. Its signature has the form that Mender clients verify: RSA PKCS #1 v1.5 or
// ECDSA P-256 as r and s in 32 bytes each, both with SHA-256.
type Signer interface {
	Sign(ctx context.Context, message []byte) ([]byte, error)
	// SignatureSize is the exact size in bytes of every signature; its place is reserved before it exists.
	SignatureSize() int
}

// Verifier decides whether a signature is by a trusted key; the keyring of signing/verify is one.
type Verifier interface {
	Verify(message, signature []byte) (keyID string, err error)
}

// Artifact is what Write writes.
type Artifact struct {
	// Name is the release's name; devices report it as artifact_name.
	Name string
	// Group, if set, is the artifact_group that the device belongs to afterwards.
	Group string
	// DeviceTypes are the device types the artifact is for; at least one.
	DeviceTypes []string
	// DependsNames and DependsGroups restrict the artifact to devices that have one of these artifacts or groups.
	DependsNames, DependsGroups []string

	// PayloadType is RootfsImage or the name of an update module. Empty, it makes a bootstrap artifact, which has no
	// payload and only sets what the device provides.
	PayloadType string
	// Provides are keys that the device provides afterwards. Mender's defaults for the payload type are added (the
	// version, and for a root file system its checksum) unless NoDefaultProvides is set; a key given here is kept as given.
	Provides map[string]string
	// NoDefaultProvides leaves out the default provides.
	NoDefaultProvides bool
	// NoChecksum leaves out the checksum of a root file system, one of the default provides.
	NoChecksum bool
	// LegacyChecksum provides that checksum under the key of Mender clients before 2.5, rootfs_image_checksum.
	LegacyChecksum bool
	// Software changes the default key of the version, and with it the default patterns to clear.
	Software Software
	// Depends are keys that the device must provide with exactly these values.
	Depends map[string]string
	// ClearsProvides are patterns (`*` matches any text) of provided keys to forget on installation. Nil means Mender's
	// defaults for the payload type, an empty list means none.
	ClearsProvides []string
	// NoClears leaves out even an empty list: a device then forgets all that it provided before.
	NoClears bool
	// Sidecars are documents about the artifact that are kept beside it.
	Sidecars []Sidecar
	// MetaData is a JSON object for the update module, written without change but for white space.
	MetaData json.RawMessage
	// Scripts are state scripts; they are written sorted by name.
	Scripts []Script
	// Files are the payload: exactly one for RootfsImage, none for a bootstrap artifact.
	Files []InputFile

	// Compression of the payload; empty means Gzip, which all clients read.
	Compression Compression
	// Level is the effort of the compression: 1 to 9 for Gzip and XZ, 1 to 19 for Zstd, 0 for the default (6, 5 and 3). For XZ
	// it is the size of dictionary and frame, as for xz(1): 1, 2, 4, 4, 8, 8, 16, 32 and 64 MiB. A device needs as much memory
	// to unpack it, and the writer thirteen times as much; the default of 8 MiB is what small devices can afford.
	Level int
	// Signer, if set, signs the artifact.
	Signer Signer
	// Epoch is the time stamped on all members; zero is 1970-01-01. It is the only time in an artifact.
	Epoch time.Time
	// Progress, if set, is told how much of the payload has been read.
	Progress func(done, total int64)
}

// Script is a state script, such as ArtifactInstall_Enter_10_stop-services.
type Script struct {
	Name    string
	Content []byte
}

// InputFile is a file of the payload. Open is called once (by WriteStream twice), and the file must then give exactly
// Size bytes. What it returns may be a SparseReader.
type InputFile struct {
	Name string
	Open func() (io.ReadCloser, error)
	Size int64
}

// Output is where Write writes to: an empty file, open for writing and not for appending. *os.File and *durable.File are outputs.
type Output interface {
	io.Writer
	io.WriterAt
}

// Info describes an artifact. Its JSON form is what `twinkeel artifact show --json` prints.
type Info struct {
	Version        int               `json:"version"`             // of the format: 3, or 2 with ReadOptions.Legacy
	Augmented      bool              `json:"augmented,omitempty"` // has parts that its signature does not cover
	Name           string            `json:"name"`
	Group          string            `json:"group,omitempty"`
	DeviceTypes    []string          `json:"device_types"`
	DependsNames   []string          `json:"depends_names,omitempty"`
	DependsGroups  []string          `json:"depends_groups,omitempty"`
	PayloadType    string            `json:"payload_type,omitempty"` // "" is a bootstrap artifact
	Provides       map[string]string `json:"provides,omitempty"`
	Depends        map[string]string `json:"depends,omitempty"`
	ClearsProvides []string          `json:"clears_provides,omitempty"`
	// NoClears tells an artifact without the list of patterns from one with an empty list: a device that installs the
	// former forgets all that it provided before.
	NoClears    bool            `json:"no_clears_provides,omitempty"`
	MetaData    json.RawMessage `json:"meta_data,omitempty"`
	Scripts     []ScriptInfo    `json:"scripts,omitempty"`
	Files       []FileInfo      `json:"files,omitempty"`
	Compression Compression     `json:"compression,omitempty"` // of the payload; "" until the reader has come to it
	Signed      bool            `json:"signed"`                // has a signature, of which nothing is known without a Verifier
	KeyID       string          `json:"key_id,omitempty"`      // of the key that verified it, or that signed it
	// Warnings say what some Mender reader would refuse.
	Warnings []string `json:"warnings,omitempty"`
}

// ScriptInfo describes a state script.
type ScriptInfo struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// FileInfo describes a file of the payload.
type FileInfo struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // -1 until it has been read
	SHA256 string `json:"sha256"`
}

// Software says which software an artifact updates. By default that is the root file system, or the part of it that the
// update module takes care of: the version key is rootfs-image.version, or rootfs-image.TYPE.version.
type Software struct {
	Filesystem string // in the place of "rootfs-image"
	Name       string // in the place of the update module's name
	Version    string // in the place of the artifact's name
}

// Sidecar is a document about an artifact that is kept beside it, such as a statement of its provenance. The artifact
// provides the document's checksum, so that its signature covers the document, too.
type Sidecar struct {
	Key string // the provided key that gets the checksum
	// Make writes the document and returns its SHA-256 in lower-case hexadecimal. It is called once, when the payload's
	// checksums are known; what it is given lacks KeyID and the sidecars' own keys.
	Make func(ctx context.Context, info *Info) (string, error)
}

// SparseReader is what InputFile.Open may return for a file with holes, which then are neither read nor compressed twice.
type SparseReader interface {
	io.Reader
	// Hole skips the hole at the present position and returns its length in bytes; 0 means that there is data, or the end.
	// Read should stop where a hole begins, or the hole's zeros are read after all.
	Hole() (int64, error)
}
