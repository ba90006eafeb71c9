// Package attest writes and checks statements of how an artifact was made: an in-toto Statement v1 with a SLSA Provenance v1
// predicate, in a DSSE envelope, signed with the keys that sign artifacts. The statement lies beside the artifact
// ("X.mender.intoto.json"), because every Mender reader refuses a member that it does not know, and the artifact provides its
// SHA-256, so that what signs the artifact signs the statement, too. The statement therefore can't name the artifact's file,
// whose bytes depend on it; its subjects are the files of the payload, under their names in the artifact's manifest.
//
// The promise: the same facts and keys give the same bytes (no clock, no randomness), what [Sign] writes [Verify] accepts, and
// Verify costs little whatever it is given.
//
// Formats: docs/attestation.md here; github.com/in-toto/attestation (spec/v1/statement.md, resource_descriptor.md),
// slsa.dev/spec/v1.0/provenance, github.com/secure-systems-lab/dsse (envelope.md, protocol.md). Where these are silent,
// sigstore's verifier decides (sigstore/sigstore 1.10, pkg/signature/dsse), which cosign uses.
//
// Signers and artifacts come in as plain values; beside the standard library the package needs signing/verify alone.
package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"
)

// The identifiers of the formats.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"
	PayloadType   = "application/vnd.in-toto+json"
)

// BuildType says how the build's parameters and inputs are to be read; docs/attestation.md describes it there.
const BuildType = "https://github.com/twinkeel/twinkeel/blob/main/docs/attestation.md#artifact-v1"

// LocalBuilder is the builder when none is named: some machine, about which nothing is promised.
const LocalBuilder = "https://github.com/twinkeel/twinkeel/blob/main/docs/attestation.md#local-builder"

// MaxSize is the size in bytes of the largest envelope that is written or read.
const MaxSize = 16 << 20

const keySuffix = ".provenance.sha256"

// SidecarName is where the statement about an artifact lies.
func SidecarName(artifact string) string { return artifact + ".intoto.json" }

// ProvidesKey is the key under which an artifact provides the SHA-256 of its statement. Prefix is what stands before ".version"
// in the key of the artifact's version, such as "rootfs-image" or "rootfs-image.single-file"; the default patterns of what an
// artifact clears then cover the key.
func ProvidesKey(prefix string) string { return prefix + keySuffix }

// Digest is the SHA-256 of an envelope in lower-case hexadecimal, the value of the provided key.
func Digest(envelope []byte) string {
	sum := sha256.Sum256(envelope)
	return hex.EncodeToString(sum[:])
}

// Statement is an in-toto Statement v1 about the payload of an artifact.
type Statement struct {
	Type          string       `json:"_type"`
	Subject       []Descriptor `json:"subject"`
	PredicateType string       `json:"predicateType"`
	Predicate     Provenance   `json:"predicate"`
}

// Descriptor is a thing with its digests: in-toto's ResourceDescriptor.
type Descriptor struct {
	Name      string            `json:"name,omitempty"`
	URI       string            `json:"uri,omitempty"`
	Digest    map[string]string `json:"digest,omitempty"` // algorithm ("sha256", "gitCommit") to lower-case hexadecimal
	MediaType string            `json:"mediaType,omitempty"`
}

// Provenance is a SLSA Provenance v1 predicate.
type Provenance struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is what went into the build.
type BuildDefinition struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   map[string]any `json:"externalParameters"`
	InternalParameters   map[string]any `json:"internalParameters,omitempty"`
	ResolvedDependencies []Descriptor   `json:"resolvedDependencies,omitempty"`
}

// RunDetails is what is known of the one run of the build.
type RunDetails struct {
	Builder    Builder      `json:"builder"`
	Metadata   *Metadata    `json:"metadata,omitempty"`
	Byproducts []Descriptor `json:"byproducts,omitempty"`
}

// Builder is who ran the build.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// Metadata tells one run from another. Each part of it makes the statement of every run different.
type Metadata struct {
	InvocationID string    `json:"invocationId,omitempty"`
	StartedOn    time.Time `json:"startedOn,omitzero"`
	FinishedOn   time.Time `json:"finishedOn,omitzero"`
}

// Build is what [New] makes a statement of.
type Build struct {
	// Builder is the URI of who vouches for the build's surroundings; "" is LocalBuilder.
	Builder string
	// Version is the version of twinkeel, "" leaves it out.
	Version string
	// Parameters are what the user asked for: names of the artifact, of device types, of the pipeline. No secrets.
	Parameters map[string]any
	// Internal are parameters that the builder set by itself.
	Internal map[string]any
	// Inputs are the files that the artifact was made from, with their digests; see File.
	Inputs []Descriptor
	// Byproducts are further results of the build, such as its SBOM.
	Byproducts []Descriptor
	// InvocationID, Started and Finished describe the run. Left empty, all runs give the same statement.
	InvocationID      string
	Started, Finished time.Time
}

// File describes a file by its name and SHA-256 in lower-case hexadecimal. The name is meant for people and does not say where
// the file is: a path of the build host tells strangers about it and makes builds in two places differ.
func File(name, sha256 string) Descriptor {
	return Descriptor{Name: name, Digest: map[string]string{"sha256": sha256}}
}

// New makes the statement that the payload's files (their names in the payload, such as "rootfs.ext4", and SHA-256 in
// lower-case hexadecimal) were built so. Inputs and byproducts are sorted, for their order means nothing. [Sign] checks it.
func New(b Build, files map[string]string) Statement {
	s := Statement{
		Type:          StatementType,
		PredicateType: PredicateType,
		Predicate: Provenance{
			BuildDefinition: BuildDefinition{
				BuildType:            BuildType,
				ExternalParameters:   b.Parameters,
				InternalParameters:   b.Internal,
				ResolvedDependencies: sorted(b.Inputs),
			},
			RunDetails: RunDetails{
				Builder:    Builder{ID: b.Builder},
				Byproducts: sorted(b.Byproducts),
			},
		},
	}
	if s.Predicate.BuildDefinition.ExternalParameters == nil {
		s.Predicate.BuildDefinition.ExternalParameters = map[string]any{} // the field is required
	}
	run := &s.Predicate.RunDetails
	if run.Builder.ID == "" {
		run.Builder.ID = LocalBuilder
	}
	if b.Version != "" {
		run.Builder.Version = map[string]string{"twinkeel": b.Version}
	}
	if b.InvocationID != "" || !b.Started.IsZero() || !b.Finished.IsZero() {
		run.Metadata = &Metadata{InvocationID: b.InvocationID, StartedOn: seconds(b.Started), FinishedOn: seconds(b.Finished)}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		s.Subject = append(s.Subject, File(subjectName(name), files[name]))
	}
	return s
}

// subjectName is the name of a payload's file in the manifest.
func subjectName(file string) string { return "data/0000/" + file }

// seconds is the time in the form of the specification: UTC, ending in Z. More than seconds nobody needs.
func seconds(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Second)
}

func sorted(list []Descriptor) []Descriptor {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Descriptor) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		if c := strings.Compare(a.URI, b.URI); c != 0 {
			return c
		}
		return strings.Compare(a.Digest["sha256"], b.Digest["sha256"])
	})
	return list
}
