package edit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// ManifestName is the file in the output directory that lists what was provisioned, a line of JSON for each image.
const ManifestName = "provisioned.jsonl"

const maxManifest = 256 << 20

// Manifest lists the images in a directory. It is complete after every image, so that one that was made before an
// interruption is known.
type Manifest struct {
	path  string
	lines []Provisioned
}

// OpenManifest reads the manifest of a directory, if there is one.
func OpenManifest(dir string) (*Manifest, error) {
	m := &Manifest{path: filepath.Join(dir, ManifestName)}
	text, err := readLimited(m.path, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.path, plainCause(err))
	}
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var p Provisioned
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return m, nil
		} else if err != nil || p.Image == "" {
			return nil, refuse(m.path, "move it away", "it is no list of provisioned images")
		}
		m.lines = append(m.lines, p)
	}
}

// Path is that of the manifest.
func (m *Manifest) Path() string { return m.path }

// Taken is another image in the manifest for the device with an identity; "" when there is none.
func (m *Manifest) Taken(identity map[string]string, image string) string {
	for _, p := range m.lines {
		if p.Image != image && maps.Equal(p.Identity, identity) {
			return p.Image
		}
	}
	return ""
}

// Add puts an image into the manifest, in the place of one of that name.
func (m *Manifest) Add(p Provisioned) error {
	if at := slices.IndexFunc(m.lines, func(old Provisioned) bool { return old.Image == p.Image }); at >= 0 {
		m.lines[at] = p
	} else {
		m.lines = append(m.lines, p)
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	for _, line := range m.lines {
		if err := enc.Encode(line); err != nil {
			return err
		}
	}
	return durable.WriteFile(m.path, text.Bytes(), 0o644)
}
