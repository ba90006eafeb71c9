package sbom

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The limits of a package manifest. The largest images have some thousand packages.
const (
	maxManifest = 16 << 20
	maxLine     = 4096
	maxPackages = 100_000
	maxField    = 1024
)

// Package is a line of a package manifest.
type Package struct {
	Name    string
	Arch    string // may be ""
	Version string
}

// ManifestError is a package manifest that can't be read.
type ManifestError struct {
	Line   int // from 1; 0 is the manifest as a whole
	Reason string
}

func (e *ManifestError) Error() string {
	if e.Line == 0 {
		return "not a package manifest: " + e.Reason
	}
	return fmt.Sprintf("not a package manifest: line %d: %s", e.Line, e.Reason)
}

// ParseManifest reads the package manifest of an image, "NAME ARCH VERSION" or, as earlier versions wrote it, "NAME VERSION" in
// each line. The packages are sorted, and each is there once.
func ParseManifest(r io.Reader) ([]Package, error) {
	lines := bufio.NewScanner(&limited{r: r, left: maxManifest, what: "the package manifest"})
	lines.Buffer(nil, maxLine)
	var packages []Package
	n := 0
	for lines.Scan() {
		n++
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		p, err := parsePackage(fields)
		switch {
		case err != nil:
			return nil, &ManifestError{Line: n, Reason: err.Error()}
		case len(packages) == maxPackages:
			return nil, &ManifestError{Line: n, Reason: fmt.Sprintf("there are more than %d packages", maxPackages)}
		}
		packages = append(packages, p)
	}
	var fe *FormatError
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, &ManifestError{Line: n + 1, Reason: fmt.Sprintf("it is longer than %d bytes", maxLine)}
	case errors.As(err, &fe):
		return nil, &ManifestError{Reason: fmt.Sprintf("it is larger than %d MiB", maxManifest>>20)}
	case err != nil:
		return nil, err
	case len(packages) == 0:
		return nil, &ManifestError{Reason: "it lists no package"}
	}
	slices.SortFunc(packages, func(a, b Package) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version), strings.Compare(a.Arch, b.Arch))
	})
	return slices.Compact(packages), nil
}

func parsePackage(fields []string) (Package, error) {
	for _, f := range fields {
		if len(f) > maxField {
			return Package{}, fmt.Errorf("%q… is longer than %d bytes", f[:32], maxField)
		}
		if !utf8.ValidString(f) || strings.ContainsFunc(f, func(c rune) bool { return !unicode.IsPrint(c) }) {
			return Package{}, fmt.Errorf("%.200q has characters that cannot be printed", f)
		}
	}
	switch len(fields) {
	case 2:
		return Package{Name: fields[0], Version: fields[1]}, nil
	case 3:
		return Package{Name: fields[0], Arch: fields[1], Version: fields[2]}, nil
	}
	return Package{}, fmt.Errorf("it has %d words, expected a package's name, architecture and version", len(fields))
}

// purl is the package's URL. Its type is "generic", as of other tools that have only a manifest: "yocto" of the purl
// specification, which OE-Core uses in its own documents, wants the recipe's name, its version and its layer (BPN, PV,
// BBFILE_COLLECTIONS), and a manifest has none of these, but names like libc6 for glibc, and versions with the revision. Nor is
// it "deb" or "rpm": those stand for the packages of distributions, in whose lists of flaws Yocto's would be looked up.
func (p Package) purl() string {
	url := "pkg:generic/" + percent(p.Name) + "@" + percent(p.Version)
	if p.Arch != "" {
		url += "?arch=" + percent(p.Arch)
	}
	return url
}

// percent encodes all but what the purl specification leaves as it is.
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~:", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
