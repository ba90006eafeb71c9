package artifactfmt

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Names and values that all readers accept; see docs/artifact-format.md, "Names".
const (
	maxText        = 256 // bytes of names, groups, keys and values: mender-artifact from 4.1.1
	maxFileName    = 90  // "data/0000/" and the name fit the 100 bytes that the C++ client allows in a manifest
	maxManifestKey = 100
)

// bootstrapType is what "type" is null for.
const bootstrapType = ""

var (
	fileNamePattern    = regexp.MustCompile(`^[A-Za-z0-9_.,-]+$`)
	payloadTypePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+-]*$`)

	// scriptPattern is what the C++ client takes, but for slashes; mender-artifact's own pattern isn't anchored and lets it
	// write what devices refuse.
	scriptPattern = regexp.MustCompile(
		`^Artifact(Install|Reboot|Commit|Rollback|RollbackReboot|Failure)_(Enter|Leave|Error)_[0-9][0-9](_[^\s/]+)?$`)
	scriptWritePattern = regexp.MustCompile(`^[A-Za-z0-9_.,+-]+$`)
)

// textProblem says why s can't be a name or value that all readers accept, or "".
func textProblem(s string) string {
	switch {
	case s == "":
		return "it is empty"
	case len(s) > maxText:
		return "it is longer than 256 bytes"
	}
	return printableProblem(s)
}

func printableProblem(s string) string {
	if !utf8.ValidString(s) {
		return "it is not valid UTF-8"
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return "it has characters that cannot be printed"
		}
	}
	return ""
}

// fileNameProblem says why s can't be the name of a payload file, or "".
func fileNameProblem(s string) string {
	switch {
	case s == "":
		return "it is empty"
	case s == "." || s == "..":
		return "it is not the name of a file"
	case strings.ContainsAny(s, `/\`):
		return "it has a directory part; payload files have plain names"
	case !fileNamePattern.MatchString(s):
		return "only the letters a-z and A-Z, digits and _ . , - may be in it"
	}
	return ""
}

func scriptNameProblem(s string) string {
	if !scriptPattern.MatchString(s) || printableProblem(s) != "" || len(s) > 255 {
		return "it is not the name of a state script: those look like ArtifactInstall_Enter_10_some-text, with the states " +
			"Install, Reboot, Commit, Rollback, RollbackReboot and Failure, and Enter, Leave or Error"
	}
	return ""
}

// check says whether Write can write the artifact such that every reader accepts it. The error is an *InvalidError.
func (a *Artifact) check() error {
	if err := a.checkNames(); err != nil {
		return err
	}
	if err := a.checkPayload(); err != nil {
		return err
	}
	if err := a.checkScripts(); err != nil {
		return err
	}
	return a.checkCompression()
}

func (a *Artifact) checkNames() error {
	if p := textProblem(a.Name); p != "" {
		return invalid("artifact name", "%q cannot be used: %s", a.Name, p)
	}
	if strings.ContainsFunc(a.Name, unicode.IsSpace) {
		return invalid("artifact name", "%q cannot be used: mender-artifact refuses white space in it", a.Name)
	}
	if a.Group != "" {
		if p := textProblem(a.Group); p != "" {
			return invalid("artifact group", "%q cannot be used: %s", a.Group, p)
		}
	}
	if len(a.DeviceTypes) == 0 {
		return invalid("device type", "the artifact names none, so no device would accept it")
	}
	for field, s := range map[string]string{
		"software file system": a.Software.Filesystem, "software name": a.Software.Name, "software version": a.Software.Version,
	} {
		if s == "" {
			continue
		}
		if p := textProblem(s); p != "" {
			return invalid(field, "%q cannot be used: %s", s, p)
		}
		if a.PayloadType == bootstrapType {
			return invalid(field, "%q is given for an artifact without payload, which updates no software", s)
		}
	}
	for _, list := range []struct {
		field  string
		values []string
	}{
		{"device type", a.DeviceTypes},
		{"artifact name to depend on", a.DependsNames},
		{"artifact group to depend on", a.DependsGroups},
		{"pattern of provides to clear", a.ClearsProvides},
	} {
		for i, v := range list.values {
			if p := textProblem(v); p != "" {
				return invalid(list.field, "%q cannot be used: %s", v, p)
			}
			for _, other := range list.values[:i] {
				if other == v {
					return invalid(list.field, "%q is given twice", v)
				}
			}
		}
	}
	for field, values := range map[string]map[string]string{"provides": a.provides(""), "depends": a.Depends} {
		if err := checkPairs(field, values); err != nil {
			return err
		}
	}
	if a.NoClears && len(a.ClearsProvides) > 0 {
		return invalid("pattern of provides to clear", "some are given, and none are wanted at the same time")
	}
	return a.checkSidecars()
}

// checkSidecars also refuses a key that is provided anyway, since one of the values would be lost.
func (a *Artifact) checkSidecars() error {
	all := a.provides("")
	for _, s := range a.Sidecars {
		if s.Make == nil {
			return invalid("sidecar", "nobody makes the document for %q", s.Key)
		}
		if _, found := all[s.Key]; found {
			return invalid("sidecar", "the key %q is provided already", s.Key)
		}
		all[s.Key] = ""
	}
	return checkPairs("sidecar", all)
}

// checkPairs also refuses keys that differ in case alone: some JSON readers do not tell them apart.
func checkPairs(field string, values map[string]string) error {
	folded := make(map[string]string, len(values))
	for _, k := range sortedKeys(values) {
		if p := textProblem(k); p != "" {
			return invalid(field, "the key %q cannot be used: %s", k, p)
		}
		if v := values[k]; v != "" {
			if p := textProblem(v); p != "" {
				return invalid(field, "the value of %q cannot be used: %s", k, p)
			}
		}
		if k == "artifact_name" || k == "artifact_group" || k == "device_type" {
			return invalid(field, "the key %q is set by the artifact itself", k)
		}
		if other, found := folded[foldCase(k)]; found {
			return invalid(field, "the keys %q and %q differ in case alone", other, k)
		}
		folded[foldCase(k)] = k
	}
	return nil
}

func (a *Artifact) checkPayload() error {
	switch a.PayloadType {
	case bootstrapType:
		if len(a.Files) > 0 || len(a.MetaData) > 0 {
			return invalid("payload type", "it is missing: an artifact without one is a bootstrap artifact and can have neither files nor meta-data")
		}
	case RootfsImage:
		if len(a.Files) != 1 {
			return invalid("payload", "a %s artifact has exactly one file, not %d", RootfsImage, len(a.Files))
		}
		if a.Files[0].Size == 0 {
			return invalid("payload", "the root file system image %q is empty", a.Files[0].Name)
		}
		if len(a.MetaData) > 0 {
			return invalid("meta-data", "a %s artifact has none", RootfsImage)
		}
	default:
		if !payloadTypePattern.MatchString(a.PayloadType) || len(a.PayloadType) > maxFileName {
			return invalid("payload type", "%q cannot be the name of an update module: it must start with a letter or digit and go on with those and _ . + -", a.PayloadType)
		}
	}
	if len(a.Files) > defaultLimits.Files {
		return invalid("payload", "%d files are more than the %d that are allowed", len(a.Files), defaultLimits.Files)
	}
	names := make(map[string]string, len(a.Files))
	for _, f := range a.Files {
		if p := fileNameProblem(f.Name); p != "" {
			return invalid("payload", "the file name %q cannot be used: %s", f.Name, p)
		}
		if len(f.Name) > maxFileName {
			return invalid("payload", "the file name %q is longer than the %d bytes that devices allow", f.Name, maxFileName)
		}
		if other, found := names[strings.ToLower(f.Name)]; found {
			return invalid("payload", "the file names %q and %q are the same or differ in case alone", other, f.Name)
		}
		names[strings.ToLower(f.Name)] = f.Name
		if f.Size < 0 || f.Size > maxPAXSize || f.Open == nil {
			return invalid("payload", "the size of %q is not known", f.Name)
		}
	}
	if len(a.MetaData) > 0 {
		if _, err := compactObject(a.MetaData); err != nil {
			return invalid("meta-data", "%v", err)
		}
	}
	return nil
}

func (a *Artifact) checkScripts() error {
	if len(a.Scripts) > defaultLimits.Scripts {
		return invalid("state script", "%d are more than the %d that are allowed", len(a.Scripts), defaultLimits.Scripts)
	}
	names := make(map[string]bool, len(a.Scripts))
	for _, s := range a.Scripts {
		if p := scriptNameProblem(s.Name); p != "" {
			return invalid("state script", "%q cannot be used: %s", s.Name, p)
		}
		if !scriptWritePattern.MatchString(s.Name) || len("scripts/"+s.Name) > maxManifestKey {
			return invalid("state script", "%q cannot be used: only 92 of the letters a-z and A-Z, digits and _ . , + - may be in it", s.Name)
		}
		if names[s.Name] {
			return invalid("state script", "%q is given twice", s.Name)
		}
		names[s.Name] = true
	}
	return nil
}

func (a *Artifact) checkCompression() error {
	highest := map[Compression]int{"": 9, Gzip: 9, Zstd: 19, XZ: 9, CompressionNone: 0}
	limit, known := highest[a.Compression]
	if !known {
		return invalid("compression", "%q is unknown: use none, gzip, xz or zstd", a.Compression)
	}
	if a.Level < 0 || a.Level > limit {
		if limit == 0 {
			return invalid("compression level", "%s has no levels", a.Compression)
		}
		return invalid("compression level", "%d is not between 1 and %d", a.Level, limit)
	}
	return nil
}
