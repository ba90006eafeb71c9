package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// Facts are what is known of an image beside its packages. Empty ones are left out.
type Facts struct {
	Image    string // such as "core-image-minimal"
	Machine  string
	Distro   string            // name of the distribution (DISTRO)
	Version  string            // of the distribution (DISTRO_VERSION), which is taken for the image's
	Artifact string            // artifact name; the image's name if that is not known
	Files    map[string]string // the payload's files and their SHA-256 in lower-case hexadecimal
	Tool     string            // version of twinkeel
	Epoch    time.Time         // the time to write into the document, usually SOURCE_DATE_EPOCH; zero writes none
}

// The properties that say what CycloneDX has no field for.
const (
	propertyMachine  = "twinkeel:machine"
	propertyDistro   = "twinkeel:distro"
	propertyArtifact = "twinkeel:artifact_name"
)

const imageRef = "image"

// FromManifest makes a CycloneDX 1.6 document in JSON of an image's package manifest. The same manifest, in any order, and the
// same facts give the same bytes.
func FromManifest(r io.Reader, facts Facts) ([]byte, error) {
	packages, err := ParseManifest(r)
	if err != nil {
		return nil, err
	}
	bom := cdx.NewBOM()
	image, err := imageComponent(facts)
	if err != nil {
		return nil, err
	}
	tool := cdx.Component{Type: cdx.ComponentTypeApplication, Name: "twinkeel", Version: facts.Tool}
	bom.Metadata = &cdx.Metadata{
		Lifecycles: &[]cdx.Lifecycle{{Phase: cdx.LifecyclePhaseBuild}},
		Tools:      &cdx.ToolsChoice{Components: &[]cdx.Component{tool}},
		Component:  image,
	}
	if !facts.Epoch.IsZero() {
		bom.Metadata.Timestamp = facts.Epoch.UTC().Format(time.RFC3339)
	}
	components := make([]cdx.Component, 0, len(packages))
	refs := make([]string, 0, len(packages))
	dependencies := make([]cdx.Dependency, 1, len(packages)+1)
	for _, p := range packages {
		url := p.purl() // it is different for different packages, so it can be their name within the document
		components = append(components, cdx.Component{
			BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: url,
		})
		refs = append(refs, url)
	}
	dependencies[0] = cdx.Dependency{Ref: imageRef, Dependencies: &refs}
	bom.Components = &components
	bom.Dependencies = &dependencies
	// A manifest lists all packages, but not what each of them needs or contains.
	bom.Compositions = &[]cdx.Composition{
		{Aggregate: cdx.CompositionAggregateIncomplete, Assemblies: &[]cdx.BOMReference{imageRef}},
	}

	// The serial number must differ whenever the document does and, to be reproducible, only then: it is a UUID of the rest.
	rest, err := encode(bom)
	if err != nil {
		return nil, err
	}
	bom.SerialNumber = uuid.NewHash(sha256.New(), uuid.NameSpaceURL, rest, 8).URN() // version 8: made in an own way
	return encode(bom)
}

// imageComponent describes the image and, below it, the payload's files.
func imageComponent(facts Facts) (*cdx.Component, error) {
	c := &cdx.Component{
		BOMRef: imageRef, Type: cdx.ComponentTypeOS, Version: facts.Version,
		Name: cmp.Or(facts.Image, facts.Artifact),
	}
	if c.Name == "" {
		return nil, errors.New("making an SBOM: neither the image nor the artifact has a name")
	}
	var properties []cdx.Property
	for _, p := range []cdx.Property{
		{Name: propertyArtifact, Value: facts.Artifact}, {Name: propertyDistro, Value: facts.Distro}, {Name: propertyMachine, Value: facts.Machine},
	} {
		if p.Value != "" {
			properties = append(properties, p)
		}
	}
	if len(properties) > 0 {
		c.Properties = &properties
	}
	var files []cdx.Component
	for _, name := range slices.Sorted(maps.Keys(facts.Files)) {
		files = append(files, cdx.Component{
			BOMRef: "data/0000/" + name, Type: cdx.ComponentTypeFile, Name: name,
			Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: facts.Files[name]}},
		})
	}
	if len(files) > 0 {
		c.Components = &files
	}
	return c, nil
}

func encode(bom *cdx.BOM) ([]byte, error) {
	var b bytes.Buffer
	e := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := e.EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("making an SBOM: %w", err)
	}
	return b.Bytes(), nil
}
