package artifactfmt

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// The members of the header archive, in the order in which they are written.
const (
	headerInfoName = "header-info"
	scriptsPrefix  = "scripts/"
	typeInfoName   = "headers/0000/type-info"
	metaDataName   = "headers/0000/meta-data"
)

// headerInfo is the document header-info.
type headerInfo struct {
	Payloads []payloadType  `json:"payloads"`
	Provides headerProvides `json:"artifact_provides"`
	Depends  headerDepends  `json:"artifact_depends"`
}

type payloadType struct {
	Type *string `json:"type"` // null in a bootstrap artifact
}

type headerProvides struct {
	Name  string `json:"artifact_name"`
	Group string `json:"artifact_group,omitempty"`
}

type headerDepends struct {
	Names       []string `json:"artifact_name,omitempty"`
	DeviceTypes []string `json:"device_type"`
	Groups      []string `json:"artifact_group,omitempty"`
}

// typeInfo is the document type-info. A pointer tells an absent list of patterns from an empty one.
type typeInfo struct {
	Type     *string           `json:"type"`
	Provides map[string]string `json:"artifact_provides,omitempty"`
	Depends  map[string]string `json:"artifact_depends,omitempty"`
	Clears   *[]string         `json:"clears_artifact_provides,omitempty"`
}

// The provided keys that hold the SHA-256 of a root file system image, and the one before Mender 2.5.
const (
	checksumKey       = "rootfs-image.checksum"
	legacyChecksumKey = "rootfs_image_checksum"
)

// softwareKey is what the keys of the software that the artifact updates begin with; "" for a bootstrap artifact.
func (a *Artifact) softwareKey() string {
	if a.PayloadType == bootstrapType {
		return ""
	}
	key := "rootfs-image"
	if a.Software.Filesystem != "" {
		key = a.Software.Filesystem
	}
	switch {
	case a.Software.Name != "":
		key += "." + a.Software.Name
	case a.PayloadType != RootfsImage:
		key += "." + a.PayloadType
	}
	return key
}

// checksumKey is the provided key that holds the SHA-256 of a root file system image, or "". Unlike the version's key it
// doesn't follow Software: nobody but delta updates asks for it.
func (a *Artifact) checksumKey() string {
	switch {
	case a.PayloadType != RootfsImage, a.NoDefaultProvides, a.NoChecksum:
		return ""
	case a.LegacyChecksum:
		return legacyChecksumKey
	}
	return checksumKey
}

// provides returns what a device provides after the installation, in the end: given and default ones.
func (a *Artifact) provides(payloadSum string) map[string]string {
	all := map[string]string{}
	if key := a.softwareKey(); key != "" && !a.NoDefaultProvides {
		all[key+".version"] = a.Name
		if a.Software.Version != "" {
			all[key+".version"] = a.Software.Version
		}
	}
	if key := a.checksumKey(); key != "" {
		all[key] = payloadSum
	}
	maps.Copy(all, a.Provides)
	return all
}

// DefaultClears returns the patterns of provided keys that an artifact of this payload type and Software clears unless
// ClearsProvides says something else; they are those of mender-artifact.
func (a *Artifact) DefaultClears() []string {
	key := a.softwareKey()
	switch {
	case key == "":
		return nil
	case a.PayloadType == RootfsImage && key == "rootfs-image":
		return []string{"artifact_group", legacyChecksumKey, "rootfs-image.*"}
	}
	return []string{key + ".*"}
}

func (a *Artifact) clears() []string {
	switch {
	case a.NoClears:
		return nil
	case a.ClearsProvides != nil:
		return a.ClearsProvides
	}
	return a.DefaultClears()
}

// encodeHeader makes the header archive. Its size does not depend on the digits of payloadSum.
func (a *Artifact) encodeHeader(payloadSum string) ([]byte, error) {
	var kind *string
	if a.PayloadType != bootstrapType {
		kind = &a.PayloadType
	}
	info := headerInfo{
		Payloads: []payloadType{{Type: kind}},
		Provides: headerProvides{Name: a.Name, Group: a.Group},
		Depends:  headerDepends{Names: a.DependsNames, DeviceTypes: a.DeviceTypes, Groups: a.DependsGroups},
	}
	types := typeInfo{Type: kind, Provides: a.provides(payloadSum), Depends: a.Depends}
	if clears := a.clears(); clears != nil {
		types.Clears = &clears
	}
	infoJSON, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("encoding header-info: %w", err)
	}
	typesJSON, err := json.Marshal(types)
	if err != nil {
		return nil, fmt.Errorf("encoding type-info: %w", err)
	}
	if limit := int(defaultLimits.JSON); len(infoJSON) > limit || len(typesJSON) > limit {
		return nil, invalid("provides, depends and device types", "they take more than %d KiB", limit>>10)
	}
	header := appendMember(nil, headerInfoName, infoJSON, a.Epoch)
	scripts := slices.SortedFunc(slices.Values(a.Scripts), func(x, y Script) int { return strings.Compare(x.Name, y.Name) })
	for _, s := range scripts {
		header = appendMember(header, scriptsPrefix+s.Name, s.Content, a.Epoch)
	}
	header = appendMember(header, typeInfoName, typesJSON, a.Epoch)
	if a.PayloadType != bootstrapType {
		metaData := []byte("{}") // an empty member would do for most clients, an empty object does for all
		if len(a.MetaData) > 0 {
			if metaData, err = compactObject(a.MetaData); err != nil {
				return nil, fmt.Errorf("encoding meta-data: %w", err)
			}
		}
		header = appendMember(header, metaDataName, metaData, a.Epoch)
	}
	header = append(header, tarEnd...)
	if int64(len(header)) > defaultLimits.Header {
		return nil, invalid("state scripts", "they take more than %d MiB together", defaultLimits.Header>>20)
	}
	return header, nil
}

// header is a header archive that was read.
type header struct {
	parseInfo func(h *header, where string, data []byte, limits Limits) error
	// hasFiles says that the format's version has the member "files", which lists them.
	hasFiles bool
	files    []string

	info     headerInfo
	types    typeInfo
	metaData json.RawMessage
	scripts  []Script
	warnings []string
}

// headerReader reads an unpacked header archive. member is its name, for messages.
type headerReader func(archive io.Reader, member string, limits Limits) (*header, error)

// readHeader is the headerReader of version 3.
func readHeader(archive io.Reader, member string, limits Limits) (*header, error) {
	h := &header{parseInfo: (*header).parseInfo3}
	if err := h.read(archive, member, limits); err != nil {
		return nil, err
	}
	return h, h.check(member)
}

// read reads the members of a header archive.
func (h *header) read(archive io.Reader, member string, limits Limits) error {
	var seenTypes, seenMetaData bool
	members := newTarReader(io.LimitReader(archive, limits.Header+1), member)
	members.warn = h.warn
	for first := true; ; first = false {
		m, err := members.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		where := member + ": " + m.Name
		if m.Typeflag == tar.TypeDir && !first {
			h.warn(where, "it is a directory (Mender clients from 4.0 refuse it)")
			continue
		}
		if err := m.regular(); err != nil {
			return err
		}
		if first != (m.Name == headerInfoName) {
			return malformed(where, "the header must begin with %s, and have it once", headerInfoName)
		}
		script, isScript := strings.CutPrefix(m.Name, scriptsPrefix)
		limit := limits.JSON
		if isScript {
			limit = limits.Header
		}
		if m.Size > limit {
			return malformed(where, "it is larger than %d KiB", limit>>10)
		}
		content, err := m.readAll()
		if err != nil {
			return err
		}
		switch {
		case first:
			err = h.parseInfo(h, where, content, limits)
		case isScript:
			if seenTypes || seenMetaData {
				h.warn(where, "it follows the type-info (Mender clients from 4.0 refuse that)")
			}
			err = h.addScript(where, script, content, limits)
		case m.Name == typeInfoName && !seenTypes:
			if seenMetaData {
				h.warn(where, "it follows the meta-data (Mender clients from 4.0 refuse that)")
			}
			seenTypes = true
			err = h.parseTypes(where, content, limits)
		case m.Name == metaDataName && !seenMetaData:
			seenMetaData = true
			err = h.parseMetaData(where, content, limits)
		case h.hasFiles && m.Name == filesName && h.files == nil:
			err = h.parseFiles(where, content, limits)
		case m.Name == typeInfoName, m.Name == metaDataName, h.hasFiles && m.Name == filesName:
			err = malformed(where, "it is there twice")
		case strings.HasPrefix(m.Name, "headers/"):
			err = malformed(where, "only one payload is supported, which has the number 0000")
		default:
			err = malformed(where, "the format has no such member")
		}
		if err != nil {
			return err
		}
	}
	if err := members.onlyZerosLeft(); err != nil {
		return err
	}
	if !seenTypes {
		return malformed(member, "it has no type-info")
	}
	return nil
}

func (h *header) warn(where, text string) { h.warnings = append(h.warnings, where+": "+text) }

// decode reads a JSON document into v; keys that the format doesn't have are passed over.
func decode(where string, data []byte, limits Limits, v any) error {
	if err := checkJSON(data, limits.Depth, foldCase); err != nil {
		return &FormatError{Member: where, Reason: err.Error()}
	}
	if err := json.Unmarshal(data, v); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return malformed(where, "the value of %q is a JSON %s, which the format does not allow there", te.Field, te.Value)
		}
		return malformed(where, "it is not JSON")
	}
	return nil
}

func (h *header) parseInfo3(where string, data []byte, limits Limits) error {
	var keys map[string]json.RawMessage
	if err := decode(where, data, limits, &keys); err != nil {
		return err
	}
	unknown := false
	for k := range keys {
		switch foldCase(k) {
		case "payloads", "artifact_provides", "artifact_depends":
		default: // further down, and in type-info, everyone passes over them
			unknown = true
		}
	}
	if unknown {
		h.warn(where, "it has keys that the format does not have (mender-artifact refuses them)")
	}
	if err := decode(where, data, limits, &h.info); err != nil {
		return err
	}
	return h.checkInfo(where)
}

// checkInfo demands what every version of the format demands.
func (h *header) checkInfo(where string) error {
	switch {
	case len(h.info.Payloads) != 1:
		return malformed(where, "it lists %d payloads; devices take exactly one", len(h.info.Payloads))
	case h.info.Provides.Name == "":
		return malformed(where, "it has no artifact_name")
	case len(h.info.Depends.DeviceTypes) == 0:
		return malformed(where, "it has no device_type, so no device would accept it")
	}
	texts := slices.Concat([]string{h.info.Provides.Name, h.info.Provides.Group}, h.info.Depends.Names,
		h.info.Depends.DeviceTypes, h.info.Depends.Groups)
	return h.checkTexts(where, texts)
}

// checkTexts refuses what could be mistaken for something else on a terminal or in a log.
func (h *header) checkTexts(where string, texts []string) error {
	for _, s := range texts {
		if p := printableProblem(s); p != "" {
			return malformed(where, "the text %q cannot be used: %s", s, p)
		}
		if len(s) > maxText {
			h.warn(where, "a text is longer than 256 bytes (mender-artifact from 4.1.1 refuses it)")
		}
	}
	return nil
}

func (h *header) parseTypes(where string, data []byte, limits Limits) error {
	if err := decode(where, data, limits, &h.types); err != nil {
		return err
	}
	var texts []string
	for _, pairs := range []map[string]string{h.types.Provides, h.types.Depends} {
		for k, v := range pairs {
			texts = append(texts, k, v)
		}
	}
	if h.types.Clears != nil {
		texts = append(texts, *h.types.Clears...)
	}
	slices.Sort(texts)
	return h.checkTexts(where, texts)
}

func (h *header) parseMetaData(where string, data []byte, limits Limits) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	if err := checkJSON(data, limits.Depth, sameCase); err != nil {
		return &FormatError{Member: where, Reason: err.Error()}
	}
	if bytes.TrimSpace(data)[0] != '{' {
		return malformed(where, "it is not a JSON object")
	}
	if string(bytes.TrimSpace(data)) != "{}" {
		h.metaData = data
	}
	return nil
}

func (h *header) addScript(where, name string, content []byte, limits Limits) error {
	if p := scriptNameProblem(name); p != "" {
		return malformed(where, "%s", p)
	}
	if len(h.scripts) == limits.Scripts {
		return malformed(where, "there are more than %d state scripts", limits.Scripts)
	}
	for _, s := range h.scripts {
		if s.Name == name {
			return malformed(where, "it is there twice")
		}
	}
	h.scripts = append(h.scripts, Script{Name: name, Content: content})
	return nil
}

// check compares the two places that name the payload type. Versions 3.3 to 4.3 of mender-artifact wrote "" into type-info
// for root file systems; devices go by header-info.
func (h *header) check(member string) error {
	where := member + ": " + typeInfoName
	kind, again := h.info.Payloads[0].Type, h.types.Type
	switch {
	case kind == nil:
		if again != nil && *again != "" {
			return malformed(where, "it names the payload type %q, header-info none", *again)
		}
		if h.metaData != nil {
			return malformed(member+": "+metaDataName, "an artifact without payload has none")
		}
	case again == nil || *again == "":
		h.warn(where, "it does not name the payload type (mender-artifact from 4.4 refuses that)")
	case *again != *kind:
		return malformed(where, "it names the payload type %q, header-info %q", *again, *kind)
	}
	if kind != nil && !payloadTypePattern.MatchString(*kind) {
		return malformed(member+": "+headerInfoName, "the payload type %q cannot be the name of an update module", *kind)
	}
	return nil
}

// info turns what was read into the public form.
func (h *header) publicInfo() *Info {
	i := &Info{
		Version:       3,
		Name:          h.info.Provides.Name,
		Group:         h.info.Provides.Group,
		DeviceTypes:   h.info.Depends.DeviceTypes,
		DependsNames:  h.info.Depends.Names,
		DependsGroups: h.info.Depends.Groups,
		Provides:      h.types.Provides,
		Depends:       h.types.Depends,
		NoClears:      h.types.Clears == nil,
		MetaData:      h.metaData,
		Warnings:      h.warnings,
	}
	if kind := h.info.Payloads[0].Type; kind != nil {
		i.PayloadType = *kind
	}
	if h.types.Clears != nil {
		i.ClearsProvides = *h.types.Clears
	}
	for _, s := range h.scripts {
		i.Scripts = append(i.Scripts, ScriptInfo{Name: s.Name, Size: int64(len(s.Content))})
	}
	return i
}
