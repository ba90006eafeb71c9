package pipeline

import (
	"encoding/json"
)

// LoadOptions says what to load.
type LoadOptions struct {
	// Dir holds the *.twinkeel.hcl and *.twinkeel.json files; empty means the working directory. File names in
	// diagnostics begin with it.
	Dir string
	// VarFiles are paths of variable files, later ones win. Relative paths are relative to the working directory.
	VarFiles []string
	// Vars are "name=value" texts; they win over VarFiles.
	Vars []string
	// Args are both of the above in the order of a command line, where later ones win whatever their kind. They win
	// over VarFiles and Vars.
	Args []VarArg
	// Environ is the environment ("KEY=value"): TWINKEEL_VAR_name gives a variable's value, SOURCE_DATE_EPOCH the epoch.
	Environ []string
	// Layouts knows disks. Without it the sizes and places of partitions stay as they are written, and presets are unknown.
	Layouts LayoutSolver
	// Version is the tool's, for required_version and twinkeel.version. Empty, or none that can be compared, satisfies
	// every requirement.
	Version string
}

// VarArg is one --var or --var-file of a command line. Exactly one field is set.
type VarArg struct {
	Var  string // name=value
	File string // path
}

// PlanOptions says what to plan.
type PlanOptions struct {
	// Targets are addresses (artifact.os, artifact.os["rpi4"], artifact.os[rpi4]) and globs (artifact.*) of actions; they and
	// what they depend on are planned. None means all.
	Targets []string
	// FS answers questions about files; nil means the real file system.
	FS FileSystem
}

// Output is the value of an output block.
type Output struct {
	Name        string          `json:"-"`
	Description string          `json:"description,omitempty"`
	Sensitive   bool            `json:"sensitive"`
	Known       bool            `json:"known"`           // false: parts of the value appear with the build
	Value       json.RawMessage `json:"value,omitempty"` // of a known value
	Type        json.RawMessage `json:"type,omitempty"`  // in cty's JSON form, as `terraform output -json` has it
}

// OutputOptions says how to evaluate outputs.
type OutputOptions struct {
	FS FileSystem
	// Name limits it to one output, so that what is wrong with others does not matter; empty means all.
	Name string
	// ShowSensitive puts the values of sensitive outputs into Value in clear text.
	ShowSensitive bool
	// Built is what the last build made, by address: artifacts and images whose size and digest are known.
	Built map[string]BuiltFile
	// Deployments are the newest ones of rollouts, by the rollout's address; what is not in it is not known.
	Deployments map[string]Deployment
}

// Deployment is what a server says of a rollout.
type Deployment struct {
	ID     string // empty: it was not started
	Status string
}

// BuiltFile is a file that a build made.
type BuiltFile struct {
	Size   int64
	SHA256 string
	// PublicKey is that of a signer, whose address is the key: PEM text.
	PublicKey string
}

// RolloutRef is what a command needs to find a rollout on its server, without reading any source.
type RolloutRef struct {
	Address string
	Name    string
	Server  Server
}
