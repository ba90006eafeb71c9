package artifactfmt

import (
	"bytes"
	"encoding/hex"
	"strings"
)

// The names that matter in a manifest.
const (
	versionName   = "version"
	manifestName  = "manifest"
	signatureName = "manifest.sig"
	headerName    = "header.tar"
	payloadPrefix = "data/0000/"
)

// versionContent is the whole member "version".
const versionContent = `{"format":"mender","version":3}`

const sumSize = 64 // hexadecimal digits of a SHA-256

// manifestLine is one line of a manifest: the SHA-256 of a member in lower-case hexadecimal digits, and its name.
type manifestLine struct{ Sum, Name string }

// manifest is the list of all that an artifact contains, in its order.
type manifest []manifestLine

func (m manifest) encode() []byte {
	var b bytes.Buffer
	for _, l := range m {
		b.WriteString(l.Sum + "  " + l.Name + "\n")
	}
	return b.Bytes()
}

// sum returns the checksum of the named member, or "".
func (m manifest) sum(name string) string {
	for _, l := range m {
		if l.Name == name {
			return l.Sum
		}
	}
	return ""
}

// parseManifest reads the form that all readers read: 64 lower-case digits, two spaces, a name without blanks, a line feed.
// Names are unique. A missing last line feed is the only deviation that passes (with a warning): C++ clients take it.
func parseManifest(data []byte, limits Limits) (m manifest, warnings []string, err error) {
	if len(data) == 0 {
		return nil, nil, malformed(manifestName, "it is empty")
	}
	text := string(data)
	if !strings.HasSuffix(text, "\n") {
		warnings = append(warnings, "manifest: the last line does not end with a line feed (mender-artifact drops the line)")
		text += "\n"
	}
	seen := make(map[string]bool)
	for number := 1; text != ""; number++ {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		if number > limits.Files+2 {
			return nil, nil, malformed(manifestName, "it has more than %d lines", limits.Files+2)
		}
		l, ok := parseManifestLine(line)
		if !ok {
			return nil, nil, malformed(manifestName, "line %d is not a SHA-256, two spaces and a name", number)
		}
		if seen[l.Name] {
			return nil, nil, malformed(manifestName, "line %d names %q a second time", number, l.Name)
		}
		seen[l.Name] = true
		if len(l.Name) > maxManifestKey {
			warnings = append(warnings, "manifest: a name is longer than 100 bytes (Mender clients from 4.0 refuse it)")
		}
		m = append(m, l)
	}
	return m, warnings, nil
}

func parseManifestLine(line string) (manifestLine, bool) {
	if len(line) < sumSize+3 || line[sumSize:sumSize+2] != "  " {
		return manifestLine{}, false
	}
	l := manifestLine{Sum: line[:sumSize], Name: line[sumSize+2:]}
	if _, err := hex.DecodeString(l.Sum); err != nil || l.Sum != strings.ToLower(l.Sum) {
		return manifestLine{}, false
	}
	for _, c := range []byte(l.Name) {
		if c <= ' ' || c >= 0x7f {
			return manifestLine{}, false
		}
	}
	return l, len(l.Name) <= 1024
}
