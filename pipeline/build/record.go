package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/signing"
)

// RecordFile is the record's name in the output directory.
const RecordFile = "twinkeel.json"

// Record says what the output directory holds. It is meant for CI as much as for the next build.
type Record struct {
	FormatVersion int                `json:"format_version"`
	Outputs       map[string]*Output `json:"outputs"` // by address
	// Sources are what source actions made, in what Run returns. They have a record of their own on the disk.
	Sources map[string]*Output `json:"-"`
}

// Output is one file that was made.
type Output struct {
	Kind         string   `json:"kind"` // artifact, image
	Path         string   `json:"path"` // relative to the pipeline's directory
	Size         int64    `json:"size"` // bytes
	SHA256       string   `json:"sha256,omitempty"`
	ArtifactName string   `json:"artifact_name,omitempty"`
	DeviceTypes  []string `json:"device_types,omitempty"`
	SignerKeyID  string   `json:"signer_key_id,omitempty"`
	// SparseSHA256 is in the place of SHA256 for raw images above 4 GiB; see [imaging.SparseSHA256].
	SparseSHA256 string `json:"sparse_sha256,omitempty"`
	// Signer is the address of the block that signed, and SignerPublicKey its key as PEM text.
	Signer          string `json:"signer,omitempty"`
	SignerPublicKey string `json:"signer_public_key,omitempty"`
	// SignerState is how that block found its key, where only opening it says which it is; see signerState.
	SignerState string `json:"signer_state,omitempty"`
	// Sidecars are what was written beside an artifact, the other forms of an image, and further outputs of a source.
	Sidecars []Sidecar `json:"sidecars,omitempty"`
	Areas    []Area    `json:"areas,omitempty"` // of an image: what fills its partitions and reserves
	Key      string    `json:"key"`             // of the action; see the package comment

	Attributes map[string]string `json:"attributes,omitempty"`
	Inputs     map[string]string `json:"inputs,omitempty"` // what was read, by role: SHA-256

	identity string // of the inode that was digested; see digests
}

// Area is what fills a partition or reserve of an image, without the zeros behind it.
type Area struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"` // none above 4 GiB
}

// digest is what tells whether the output is as it was made.
func (o *Output) digest() string {
	if o.SparseSHA256 != "" {
		return sparseForm + o.SparseSHA256
	}
	return o.SHA256
}

// setDigest is the reverse of digest.
func (o *Output) setDigest(digest string) {
	if sum, sparse := strings.CutPrefix(digest, sparseForm); sparse {
		o.SparseSHA256 = sum
	} else {
		o.SHA256 = digest
	}
}

// signedBy notes who signed an output.
func (o *Output) signedBy(plan *pipeline.Plan, s *pipeline.Signer, key signing.Signer) {
	o.Signer, o.SignerKeyID, o.SignerPublicKey = s.Address, key.KeyID(), string(signing.MarshalPublic(key.Public()))
	o.SignerState = signerState(plan, s)
}

const recordVersion = 1

// ReadRecord reads the record of an output directory; where there is none it is empty. A record that can't be read is
// an error, because building over it would forget outputs.
func ReadRecord(outDir string) (*Record, error) {
	empty := &Record{FormatVersion: recordVersion, Outputs: map[string]*Output{}}
	path := filepath.Join(outDir, RecordFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return nil, err
	}
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, &damagedRecordError{path, err}
	}
	if r.FormatVersion != recordVersion { // of another version of the tool: everything is made again
		return empty, nil
	}
	if r.Outputs == nil {
		r.Outputs = map[string]*Output{}
	}
	for address, out := range r.Outputs {
		if out == nil {
			return nil, &damagedRecordError{path, fmt.Errorf("%s has no value", address)}
		}
	}
	return &r, nil
}

func (r *Record) write(outDir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(outDir, RecordFile), append(text, '\n'), 0o644)
}

type damagedRecordError struct {
	path string
	err  error
}

func (e *damagedRecordError) Error() string {
	return fmt.Sprintf("the record of the last build, %s, is damaged: %v", e.path, e.err)
}

// Hint says how to go on.
func (e *damagedRecordError) Hint() string {
	return "delete " + e.path + "; the next build makes everything again"
}
