// Package sbom finds, checks and makes the list of software (SBOM) that lies beside an artifact: Yocto's own SPDX documents are
// taken as they are, and where there are none, a CycloneDX document is made of the image's package manifest. The artifact
// provides the document's SHA-256, as with the statements of signing/attest.
//
// The promise: a document of Yocto is copied byte for byte, after a check that it is whole and what its name says, in constant
// memory; a document that is made depends on nothing but the manifest and the given facts.
//
// The names are those of openembedded-core: meta/classes/create-spdx-2.2.bbclass (dunfell: .spdx.tar.gz; honister to
// walnascar: .spdx.tar.zst, and up to langdale also a .spdx.json that refers to the documents in the archive),
// meta/lib/oe/spdx30_tasks.py (SPDX 3.0, scarthgap on request, the default from styhead: .spdx.json) and
// meta/classes-recipe/rootfs-postcommands.bbclass (.manifest). Made documents follow CycloneDX 1.6 (ECMA-424).
package sbom

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// Kind of a document.
type Kind string

// The kinds of documents. Manifest is no SBOM, but what one can be made of.
const (
	SPDX3        Kind = "spdx-3"           // JSON-LD
	SPDX2        Kind = "spdx-2"           // JSON
	SPDX2TarZstd Kind = "spdx-2-tar-zst"   // Yocto's archive of documents that refer to each other
	SPDX2TarGzip Kind = "spdx-2-tar-gzip"  //
	CycloneDX    Kind = "cyclonedx"        // JSON
	Manifest     Kind = "package-manifest" // of an image
)

const keySuffix = ".sbom.sha256"

var sidecarSuffixes = map[Kind]string{
	SPDX3:        ".spdx.json",
	SPDX2:        ".spdx.json",
	SPDX2TarZstd: ".spdx.tar.zst",
	SPDX2TarGzip: ".spdx.tar.gz",
	CycloneDX:    ".cdx.json",
	Manifest:     ".cdx.json",
}

// SidecarName is where the document of an artifact lies. That of a Manifest is the CycloneDX document made of it.
func SidecarName(artifact string, kind Kind) string { return artifact + sidecarSuffixes[kind] }

// SidecarNames are all names that an artifact's document can have, for those who look for it.
func SidecarNames(artifact string) []string {
	var names []string
	for _, suffix := range slices.Compact(slices.Sorted(maps.Values(sidecarSuffixes))) {
		names = append(names, artifact+suffix)
	}
	return names
}

// ProvidesKey is the key under which an artifact provides the SHA-256 of its document. Prefix is what stands before ".version"
// in the key of the artifact's version.
func ProvidesKey(prefix string) string { return prefix + keySuffix }

// ErrNotNamed is returned when an artifact provides no checksum of an SBOM.
var ErrNotNamed = errors.New("the artifact does not name an SBOM")

// Check reports whether an artifact names the document with this SHA-256. Provides must be of a verified artifact.
func Check(provides map[string]string, sha256 string) error {
	found := ErrNotNamed
	for _, key := range slices.Sorted(maps.Keys(provides)) {
		switch {
		case !strings.HasSuffix(key, keySuffix):
		case provides[key] == sha256:
			return nil
		case errors.Is(found, ErrNotNamed):
			found = fmt.Errorf("not the SBOM that the artifact names: it provides %s %q, the SBOM has %s", key, provides[key], sha256)
		}
	}
	return found
}

// NotFoundError is a deploy directory without a document for an image.
type NotFoundError struct {
	Dir  string
	Name string // of the image, as files are named
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("no SBOM and no package manifest of %q in %s", e.Name, e.Dir)
}

// Hint is what the person can do about it.
func (e *NotFoundError) Hint() string {
	return `add INHERIT += "create-spdx" to the build's configuration, or name a document`
}

// Is makes the error one of fs.ErrNotExist.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// AmbiguousError is a deploy directory with documents of several builds and no link that says which is the last.
type AmbiguousError struct {
	Dir   string
	Names []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%s has documents of %d builds and no link to the last one: %q to %q", e.Dir, len(e.Names), e.Names[0], e.Names[len(e.Names)-1])
}

// Hint is what the person can do about it.
func (e *AmbiguousError) Hint() string { return "name the document, or delete the old ones" }

// candidates are what Find looks for, the best first. An archive of SPDX 2 is better than the single document, which some
// versions write, too: that one only refers to those in the archive.
var candidates = []struct {
	suffix string
	kind   Kind
}{
	{".spdx.json", SPDX3},
	{".spdx.tar.zst", SPDX2TarZstd},
	{".spdx.tar.gz", SPDX2TarGzip},
	{".spdx.json", SPDX2},
	{".manifest", Manifest},
}

// Find looks in a deploy directory (tmp/deploy/images/MACHINE) for the best document of an image, such as
// "core-image-minimal". The names are those of the links that Yocto makes to the last build, or, when it was told to make
// none, of the only build there is.
func Find(dir, machine, image string) (path string, kind Kind, err error) {
	name := image + "-" + machine
	if strings.ContainsAny(name, "/\\\x00") {
		return "", "", fmt.Errorf("looking for an SBOM: %q is not the name of an image and a machine", name)
	}
	for _, c := range candidates {
		path, err := find(dir, name, c.suffix)
		switch {
		case err != nil:
			return "", "", err
		case path == "":
			continue
		}
		if c.suffix == ".spdx.json" {
			kind, err := kindOfFile(path)
			if err != nil {
				return "", "", err
			}
			if kind != c.kind {
				continue
			}
		}
		return path, c.kind, nil
	}
	return "", "", &NotFoundError{Dir: dir, Name: name}
}

// version is what Yocto puts between an image's name and the suffix of a file: ".rootfs" (from nanbield on before the time,
// earlier after it) and the time of the build.
var version = regexp.MustCompile(`^(\.rootfs)?-[0-9]{14}(\.rootfs)?$`)

func find(dir, name, suffix string) (string, error) {
	for _, link := range []string{name + ".rootfs" + suffix, name + suffix} {
		path := filepath.Join(dir, link)
		switch info, err := os.Stat(path); {
		case err == nil && info.Mode().IsRegular():
			return path, nil
		case err == nil:
			return "", fmt.Errorf("looking for an SBOM: %s is not a file", path)
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("looking for an SBOM: %w", err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("looking for an SBOM: %w", err)
	}
	var found []string
	for _, e := range entries {
		middle, ok := strings.CutPrefix(e.Name(), name)
		if ok {
			middle, ok = strings.CutSuffix(middle, suffix)
		}
		if ok && version.MatchString(middle) && e.Type().IsRegular() {
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return filepath.Join(dir, found[0]), nil
	}
	return "", &AmbiguousError{Dir: dir, Names: found}
}

func kindOfFile(path string) (Kind, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("looking for an SBOM: %w", err)
	}
	defer f.Close()
	kind, err := kindOfStart(f)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return kind, nil
}

// WriteSidecar puts the document at path, or what is made of it if it is a manifest, beside an artifact, and returns where and
// its SHA-256. The file appears whole or not at all.
func WriteSidecar(ctx context.Context, artifact, path string, facts Facts) (sidecar string, kind Kind, sha256 string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", "", fmt.Errorf("reading the SBOM: %w", err)
	}
	defer f.Close()
	fail := func(err error) (string, Kind, string, error) { return "", "", "", fmt.Errorf("%s: %w", path, err) }
	in := io.Reader(contextReader{ctx, f})
	if strings.HasSuffix(path, ".manifest") {
		data, err := FromManifest(in, facts)
		if err != nil {
			return fail(err)
		}
		sidecar = SidecarName(artifact, Manifest)
		if err := durable.WriteFile(sidecar, data, 0o644); err != nil {
			return "", "", "", err
		}
		return sidecar, CycloneDX, Digest(data), nil
	}
	kind, err = kindOfStart(in)
	if err != nil {
		return fail(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fail(err)
	}
	sidecar = SidecarName(artifact, kind)
	out, err := durable.Create(sidecar, 0o644)
	if err != nil {
		return "", "", "", err
	}
	defer out.Abort()
	copied, sha256, err := Copy(out, in)
	switch {
	case err != nil:
		return fail(err)
	case copied != kind:
		return fail(errors.New("it changed while it was read"))
	}
	return sidecar, kind, sha256, out.Commit()
}

// contextReader ends reading when the context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
