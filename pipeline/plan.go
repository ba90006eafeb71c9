package pipeline

import (
	"encoding/json"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Plan is what a pipeline would do: plain values, no effects. Actions stand in an order in which they can run.
type Plan struct {
	// Dir is the pipeline's directory and OutDir where outputs go; both absolute.
	Dir    string `json:"-"`
	OutDir string `json:"-"`
	// CacheDir is where the pipeline wants its cache, absolute too.
	CacheDir string `json:"-"`
	// Digest is the SHA-256 of the pipeline's files, and Builder who builds; both are for statements of provenance.
	Digest  string `json:"digest"`
	Builder string `json:"builder,omitempty"`
	// Epoch is the time stamped into outputs (SOURCE_DATE_EPOCH, else 0).
	Epoch   time.Time `json:"epoch"`
	Actions []*Action `json:"actions"`
	// Variables are the values that it was made with.
	Variables []PlanVariable `json:"-"`
	// Unchecked: the condition of some check needs what only a build tells. [Pipeline.CheckBuilt] asks again.
	Unchecked bool `json:"-"`
}

// Kind of an action.
type Kind string

// The kinds of actions, in the order in which `apply` runs them.
const (
	KindSource   Kind = "source"   // make files that the others need
	KindArtifact Kind = "artifact" // write a signed .mender file
	KindImage    Kind = "image"    // write a disk image
	KindRollout  Kind = "rollout"  // push artifacts and start a deployment
)

// Action is one thing to make or to start. Exactly one of Source, Artifact, Image and Rollout is set, as Kind says.
type Action struct {
	Address   string        `json:"address"`
	Kind      Kind          `json:"kind"`
	DependsOn []string      `json:"depends_on,omitempty"` // addresses of other actions
	Source    *SourceAction `json:"source,omitempty"`
	Artifact  *Artifact     `json:"artifact,omitempty"`
	Image     *Image        `json:"image,omitempty"`
	Rollout   *Rollout      `json:"rollout,omitempty"`
	Range     hcl.Range     `json:"-"` // of the block's header
	// Named: a target is about it, and it is not there only because another action needs it.
	Named bool `json:"-"`
}

// Secret is a value that must not be shown. It prints and encodes as a fixed text; convert it to string to use it.
type Secret string

// String hides the value.
func (s Secret) String() string { return "(sensitive value)" }

// GoString hides the value from %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalJSON hides the value.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// Artifact is an artifact block, evaluated. Paths are absolute.
type Artifact struct {
	Address     string            `json:"address"`
	Name        string            `json:"name"`
	Group       string            `json:"group,omitempty"`
	DeviceTypes []string          `json:"device_types"` // Mender device type names
	Payload     Payload           `json:"payload"`
	Provides    map[string]string `json:"provides,omitempty"` // beside the defaults
	// NoDefaultProvides leaves out the defaults, Software changes them.
	NoDefaultProvides bool              `json:"no_default_provides,omitempty"`
	Software          Software          `json:"software,omitzero"`
	Depends           map[string]string `json:"depends,omitempty"`
	ClearsProvides    []string          `json:"clears_provides,omitempty"` // nil: the format's defaults
	Scripts           []string          `json:"scripts,omitempty"`
	Compression       string            `json:"compression"`                 // none, gzip, xz, zstd
	CompressionLevel  int               `json:"compression_level,omitempty"` // 0: the format's default
	Signer            *Signer           `json:"signer,omitempty"`
	Provenance        bool              `json:"provenance,omitempty"` // a signed statement of it beside the artifact
	SBOM              string            `json:"sbom,omitempty"`       // path of what the bill of materials is made of
	Path              string            `json:"path"`                 // of the output
	// Checks are questions about its files that planning left for later.
	Checks []FileCheck `json:"-"`
}

// Software says which software an artifact's default provides are about.
type Software struct {
	Filesystem string `json:"filesystem,omitempty"`
	Name       string `json:"name,omitempty"`
	Version    string `json:"version,omitempty"`
}

// Payload of an artifact. What follows Files is for the update modules whose payloads have a form of their own.
type Payload struct {
	Type         string          `json:"type"` // "bootstrap" has none
	Files        []string        `json:"files"`
	Directory    string          `json:"directory,omitempty"`
	Destination  string          `json:"destination,omitempty"`
	FileName     string          `json:"file_name,omitempty"`
	Mode         string          `json:"mode,omitempty"`
	KeepOwners   bool            `json:"keep_owners,omitempty"`
	Images       []string        `json:"images,omitempty"`
	ImageFiles   []string        `json:"image_files,omitempty"`
	ComposeFiles []string        `json:"compose_files,omitempty"`
	Project      string          `json:"project,omitempty"`
	Platform     string          `json:"platform,omitempty"`
	RunArgs      string          `json:"run_args,omitempty"`
	MetaData     json.RawMessage `json:"meta_data,omitempty"`
}

// Signer is a signer block.
type Signer struct {
	Address    string `json:"address"`
	Kind       string `json:"kind"`                  // file, kms, pkcs11, ssh-agent, command
	PrivateKey string `json:"private_key,omitempty"` // file: path of a PEM file
	// PrivateKeyEnv is the name of the environment variable that has the PEM text in place of a file.
	PrivateKeyEnv string   `json:"private_key_env,omitempty"`
	Passphrase    Secret   `json:"passphrase,omitempty"`
	URI           string   `json:"uri,omitempty"`     // kms, pkcs11
	Module        string   `json:"module,omitempty"`  // pkcs11: path of the library
	PIN           Secret   `json:"pin,omitempty"`     // pkcs11
	Key           string   `json:"key,omitempty"`     // ssh-agent: fingerprint or comment
	Command       []string `json:"command,omitempty"` // command
	Dir           string   `json:"-"`                 // where it runs
	PublicKey     string   `json:"public_key,omitempty"`
	// KeyID is that of the public key, when planning finds it: beside the private key as FILE.pub, or where PublicKey says. The
	// private key is not looked at for a plan.
	KeyID string `json:"key_id,omitempty"`
}

// DeviceType is a device_type block.
type DeviceType struct {
	Address      string     `json:"address"`
	Name         string     `json:"name"` // as the device reports it
	Compatible   []string   `json:"compatible,omitempty"`
	Architecture string     `json:"architecture"` // Go's names: amd64, arm64, arm
	Clients      []string   `json:"clients,omitempty"`
	Layout       Layout     `json:"layout"`
	Bootloader   Bootloader `json:"bootloader"`
	StorageBase  string     `json:"storage_device"` // /dev/mmcblk0
}

// Bootloader of a device type.
type Bootloader struct {
	Kind            string `json:"kind"`                  // u-boot, grub-efi, grub-bios
	Partition       string `json:"partition,omitempty"`   // GRUB's: the EFI system partition, or that of /boot/grub
	Loader          string `json:"loader,omitempty"`      // grub-efi: path on it
	Environment     string `json:"environment,omitempty"` // name of the layout's reserve or, in UBI, of what EnvironmentVolumes makes of it
	EnvironmentSize int64  `json:"environment_size,omitempty"`
	Redundant       bool   `json:"redundant"`
	// ScriptVars are further variables of U-Boot's first environment.
	ScriptVars map[string]string `json:"script_vars,omitempty"`
}

// EnvironmentVolumes are the names of the volumes that hold U-Boot's environment in UBI, one for each copy. They are Mender's.
func (b Bootloader) EnvironmentVolumes() []string {
	switch {
	case b.Environment == "":
		return nil
	case b.Redundant:
		return []string{b.Environment + "-1", b.Environment + "-2"}
	}
	return []string{b.Environment}
}

// Layout is a layout block. Sizes and offsets are bytes; a slots block has become two partitions NAME_a and NAME_b.
type Layout struct {
	Address    string      `json:"address"`
	Table      string      `json:"table"`         // gpt, mbr, hybrid, ubi
	UBI        *UBI        `json:"ubi,omitempty"` // of raw flash, whose volumes the partitions are
	SectorSize int64       `json:"sector_size,omitempty"`
	Alignment  int64       `json:"alignment"`
	DiskSize   int64       `json:"disk_size,omitempty"` // 0: as small as fits
	DiskID     string      `json:"disk_id,omitempty"`   // GUID, or 8 hex digits of an MBR; empty: made
	GPT        GPT         `json:"gpt,omitzero"`
	Reserves   []Reserve   `json:"reserves,omitempty"`
	Partitions []Partition `json:"partitions"`

	// What a preset says beside the disk itself.
	StorageDevice string            `json:"storage_device,omitempty"`
	Environment   *EnvironmentPlace `json:"environment,omitempty"` // of U-Boot
	Notes         []string          `json:"-"`                     // what is not as the variables may have meant

	Range hcl.Range            `json:"-"` // of the block's header
	Areas map[string]hcl.Range `json:"-"` // of the areas' headers, by name
}

// EnvironmentPlace is where a preset has the two copies of U-Boot's environment.
type EnvironmentPlace struct {
	Reserve string   `json:"reserve,omitempty"` // of the layout; empty: the copies are not on the disk of the image
	Device  string   `json:"device"`
	Offsets [2]int64 `json:"offsets"`
	Size    int64    `json:"size"` // of each
}

// UBI is raw flash. Sizes are bytes.
type UBI struct {
	EraseBlock  int64  `json:"erase_block"`
	Page        int64  `json:"page"`
	SubPage     int64  `json:"sub_page,omitempty"` // 0: Page
	Blocks      int64  `json:"blocks"`
	Compression string `json:"compression,omitempty"` // of UBIFS: lzo, zlib, zstd, none
	SpaceFixup  bool   `json:"space_fixup,omitempty"`
}

// GPT is what is unusual about a GPT.
type GPT struct {
	Entries       int   `json:"entries,omitempty"`        // 0: 128
	EntriesOffset int64 `json:"entries_offset,omitempty"` // 0: behind the header
	NoBackup      bool  `json:"no_backup,omitempty"`
}

// Reserve is an area outside every partition.
type Reserve struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
	Align  int64  `json:"align,omitempty"` // of Offset; 0: a sector
	Holes  []Span `json:"holes,omitempty"` // what belongs to others, at offsets of the disk
	File   string `json:"-"`               // name of what Mender's build puts there, when a preset says so
}

// Span is a piece of a disk.
type Span struct {
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
}

// Partition of a layout. One of Size, Percent and Rest is set before it is placed, and Size after it.
type Partition struct {
	Name       string   `json:"name"`
	Number     int      `json:"number,omitempty"` // in the table; 0: not placed, or the first volume
	Offset     int64    `json:"offset,omitempty"`
	Size       int64    `json:"size"`
	Percent    float64  `json:"percent,omitempty"` // of the disk
	Rest       bool     `json:"rest,omitempty"`
	Align      int64    `json:"align,omitempty"`
	UUID       string   `json:"uuid,omitempty"`
	Attributes []string `json:"attributes,omitempty"` // of a GPT
	MBRType    string   `json:"mbr_type,omitempty"`
	Logical    bool     `json:"logical,omitempty"`
	InMBR      bool     `json:"in_mbr,omitempty"` // of a hybrid table
	Filesystem string   `json:"filesystem"`       // ext4, vfat, squashfs, erofs, ubifs, none
	Label      string   `json:"label,omitempty"`
	Type       string   `json:"type,omitempty"` // GUID or a name; empty: from Filesystem and role
	Mount      string   `json:"mount,omitempty"`
	Bootable   bool     `json:"bootable,omitempty"`
	Grow       bool     `json:"grow,omitempty"`
	Slot       string   `json:"slot,omitempty"` // "a" or "b"
	SlotGroup  string   `json:"slot_group,omitempty"`
}

// Image is an image block, evaluated. Artifact is the release that slot A holds.
type Image struct {
	Address    string        `json:"address"`
	Name       string        `json:"name"` // the block's label, with the for_each key
	DeviceType DeviceType    `json:"device_type"`
	Artifact   *Artifact     `json:"artifact"`
	Server     *Server       `json:"server,omitempty"` // whose URL the agent polls
	Fills      []Fill        `json:"fills"`
	Path       string        `json:"path"`    // of the first output
	Outputs    []ImageOutput `json:"outputs"` // that at Path first
	// WholeSHA256: also what is larger than 4 GiB gets one.
	WholeSHA256 bool `json:"whole_sha256,omitempty"`
	// Checks are questions about its files that planning left for later.
	Checks []FileCheck `json:"-"`
}

// ImageOutput is one form of an image.
type ImageOutput struct {
	Format string `json:"format"` // raw, bmap, gz, xz, zst, android-sparse, qcow2, ubi
	Path   string `json:"path"`
}

// Fill is what goes into a partition of an image: exactly one of File (a file system image, copied as is), Files (paths
// inside the file system, to absolute paths on the host), Dir (a tree), Tar (an archive of one) and Empty.
type Fill struct {
	// Partition is the name of a partition, of a slot group (slot A, with Both also slot B), or of a reserve. The file of
	// the boot loader's environment is text, NAME=VALUE in each line; that of any other reserve is copied.
	Partition string            `json:"partition"`
	File      string            `json:"file,omitempty"`
	Files     map[string]string `json:"files,omitempty"`
	Dir       string            `json:"dir,omitempty"`
	Tar       string            `json:"tar,omitempty"`
	// RootOwned: all of Dir or Tar belongs to root, whoever owns it here.
	RootOwned bool      `json:"root_owned,omitempty"`
	Empty     bool      `json:"empty,omitempty"`
	Both      bool      `json:"both,omitempty"`
	Range     hcl.Range `json:"-"`
}

// Server is a server block.
type Server struct {
	Address       string `json:"address"`
	URL           string `json:"url"`
	Token         Secret `json:"token,omitempty"`
	CACertificate string `json:"ca_certificate,omitempty"` // path
	// ClientCertificate and ClientKey are paths of PEM files; both or none.
	ClientCertificate string `json:"client_certificate,omitempty"`
	ClientKey         string `json:"client_key,omitempty"`
}

// Rollout is a rollout block, evaluated. One release: all artifacts have one name.
type Rollout struct {
	Address          string        `json:"address"`
	Name             string        `json:"name"`
	Server           Server        `json:"server"`
	Artifacts        []*Artifact   `json:"artifacts"`
	Groups           []string      `json:"groups,omitempty"`
	ExcludeGroups    []string      `json:"exclude_groups,omitempty"`
	Match            []Predicate   `json:"match,omitempty"`
	Expires          time.Duration `json:"expires,omitempty"` // 0: never
	Window           *Window       `json:"window,omitempty"`
	Phases           []Phase       `json:"phases"`
	FailureThreshold float64       `json:"failure_threshold"` // percent
	OnFailure        string        `json:"on_failure"`        // pause, abort
	Retries          int           `json:"retries"`
}

// Phase of a rollout: exactly one of Percent, Count and Groups is set.
type Phase struct {
	Name             string        `json:"name"`
	Percent          float64       `json:"percent,omitempty"`
	Count            int           `json:"count,omitempty"`
	Groups           []string      `json:"groups,omitempty"`
	Soak             time.Duration `json:"soak"`
	FailureThreshold *float64      `json:"failure_threshold,omitempty"` // percent; nil: the rollout's
	Approval         bool          `json:"approval,omitempty"`
}

// Predicate is a condition on an attribute of a device, in the words of Mender's filters.
type Predicate struct {
	Scope     string          `json:"scope"` // inventory, identity, system
	Attribute string          `json:"attribute"`
	Type      string          `json:"type"` // $eq, $ne, $in, $gte, $lte, $exists, $regex
	Value     json.RawMessage `json:"value"`
}

// Window is when devices may begin.
type Window struct {
	Days     []string `json:"days,omitempty"`
	From     string   `json:"from,omitempty"`
	To       string   `json:"to,omitempty"`
	Timezone string   `json:"timezone"`
}
