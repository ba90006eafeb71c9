package artifactfmt

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// What ReadOptions.Legacy reads, and nobody should write any more:
//
//   - version 2 of the format (mender-artifact's Documentation/artifact-format-v2.md): header-info has other keys, and the
//     header lists the files of the payload once more;
//   - augmented artifacts: a second manifest, which no signature covers, lists a second header and more files. What they provide
//     and depend on is added to that of the first header.
//
// The Go client up to 3.x installs both, the C++ client neither.

const (
	augmentName       = "manifest-augment"
	augmentHeaderName = "header-augment.tar"
	filesName         = "headers/0000/files"
)

// headerInfo2 is the document header-info of version 2.
type headerInfo2 struct {
	Name        string        `json:"artifact_name"`
	Updates     []payloadType `json:"updates"`
	DeviceTypes []string      `json:"device_types_compatible"`
}

// readHeader2 is the headerReader of version 2.
func readHeader2(archive io.Reader, member string, limits Limits) (*header, error) {
	h := &header{parseInfo: (*header).parseInfo2, hasFiles: true}
	if err := h.read(archive, member, limits); err != nil {
		return nil, err
	}
	if h.files == nil {
		return nil, malformed(member, "it has no list of files")
	}
	if h.info.Payloads[0].Type == nil {
		return nil, malformed(member+": "+headerInfoName, "version 2 of the format has no artifacts without payload type")
	}
	return h, h.check(member)
}

func (h *header) parseInfo2(where string, data []byte, limits Limits) error {
	var i headerInfo2
	if err := decode(where, data, limits, &i); err != nil {
		return err
	}
	h.info = headerInfo{Payloads: i.Updates, Provides: headerProvides{Name: i.Name}, Depends: headerDepends{DeviceTypes: i.DeviceTypes}}
	return h.checkInfo(where)
}

func (h *header) parseFiles(where string, data []byte, limits Limits) error {
	var f struct {
		Files []string `json:"files"`
	}
	if err := decode(where, data, limits, &f); err != nil {
		return err
	}
	if len(f.Files) > limits.Files {
		return malformed(where, "it lists more than %d files", limits.Files)
	}
	h.files = slices.Sorted(slices.Values(f.Files))
	if h.files == nil {
		h.files = []string{}
	}
	return nil
}

// checkFileList compares the header's list of files, if its version has one, with the manifest's.
func (h *header) checkFileList(files []FileInfo) error {
	if !h.hasFiles {
		return nil
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, h.files) {
		return malformed(filesName, "it does not list the files that the manifest lists")
	}
	return nil
}

// readAugmentManifest adds what the second manifest lists to the first one, and returns the member that follows.
func (a *Reader) readAugmentManifest(m *tarMember) (next *tarMember, err error) {
	if m.Size > a.limits.ManifestLength {
		return nil, malformed(augmentName, "it is larger than %d KiB", a.limits.ManifestLength>>10)
	}
	data, err := m.readAll()
	if err != nil {
		return nil, err
	}
	lines, warnings, err := parseManifest(data, a.limits)
	if err != nil {
		return nil, inMember(err, augmentName)
	}
	a.early = append(a.early, warnings...)
	a.warnAt(augmentName, "an augmented artifact, of which the signature covers only a part (Mender clients from 4.0 refuse it)")
	for _, l := range lines {
		if !strings.HasPrefix(l.Name, payloadPrefix) && !strings.HasPrefix(l.Name, augmentHeaderName) {
			return nil, malformed(augmentName, "it lists %q, which is not for it to list", l.Name)
		}
		if a.manifest.sum(l.Name) != "" {
			return nil, malformed(augmentName, "it lists %q, as the manifest does", l.Name)
		}
	}
	a.manifest = append(a.manifest, lines...)
	return a.member("the header")
}

// inMember moves an error about the manifest to another member.
func inMember(err error, member string) error {
	if fe, ok := err.(*FormatError); ok { //nolint:errorlint // it comes from parseManifest as it is
		return &FormatError{Member: member, Reason: fe.Reason, Err: fe.Err}
	}
	return err
}

// readAugmentHeader reads the second header and returns the first one with what the second adds.
func (a *Reader) readAugmentHeader(first *header) (*header, error) {
	m, err := a.member("the augmented header")
	if err != nil {
		return nil, err
	}
	second, err := a.readHeader(m, augmentHeaderName, readHeader)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(m.Name, ".zst") {
		a.warnAt(m.Name, "an augmented header that is compressed with zstd (mender-artifact refuses it)")
	}
	kind, again := first.info.Payloads[0].Type, second.info.Payloads[0].Type
	switch {
	case (kind == nil) != (again == nil):
		return nil, malformed(m.Name, "one of the two headers names no payload type")
	case len(second.scripts) > 0:
		return nil, malformed(m.Name, "it has state scripts, which nobody has signed")
	case kind != nil && *kind != *again: // mender-artifact writes that with --augment-type
		a.warnAt(m.Name, fmt.Sprintf("it names another payload type, %q, which nobody has signed and mender-artifact goes by", *again))
	}
	all := *first
	all.warnings = slices.Concat(first.warnings, second.warnings)
	all.types.Provides = merged(first.types.Provides, second.types.Provides)
	all.types.Depends = merged(first.types.Depends, second.types.Depends)
	if second.types.Clears != nil {
		clears := *second.types.Clears
		if first.types.Clears != nil {
			clears = slices.Concat(*first.types.Clears, clears)
		}
		all.types.Clears = &clears
	}
	if second.metaData != nil {
		all.metaData = second.metaData
	}
	return &all, nil
}

// merged returns both maps in one; the second counts where both have a key, as in mender-artifact.
func merged(first, second map[string]string) map[string]string {
	if len(second) == 0 {
		return first
	}
	all := maps.Clone(second)
	for k, v := range first {
		if _, found := all[k]; !found {
			all[k] = v
		}
	}
	return all
}
