package menderapi

import (
	"encoding/json"
	"time"
)

// Paths of the management API that this project's own client uses. A %s stands for an id.
const (
	PathLogin            = "/api/management/v1/useradm/auth/login"
	PathArtifacts        = "/api/management/v1/deployments/artifacts"
	PathArtifact         = "/api/management/v1/deployments/artifacts/%s"
	PathDeployments      = "/api/management/v1/deployments/deployments"
	PathDeployment       = "/api/management/v1/deployments/deployments/%s"
	PathDeploymentAbort  = "/api/management/v1/deployments/deployments/%s/status"
	PathDeploymentDevs   = "/api/management/v1/deployments/deployments/%s/devices/list"
	PathDeploymentDevLog = "/api/management/v1/deployments/deployments/%s/devices/%s/log"
	PathAuthDevices      = "/api/management/v2/devauth/devices"
	PathAuthStatus       = "/api/management/v2/devauth/devices/%s/auth/%s/status"
	PathInventory        = "/api/management/v1/inventory/devices"
	PathInventoryDevice  = "/api/management/v1/inventory/devices/%s"
	PathInventoryGroup   = "/api/management/v1/inventory/devices/%s/group"
	PathGroups           = "/api/management/v1/inventory/groups"
	PathArtifactDownload = "/api/management/v1/deployments/artifacts/%s/download"
	PathAuthDevice       = "/api/management/v2/devauth/devices/%s"
	PathAuthCount        = "/api/management/v2/devauth/devices/count"
	PathStatistics       = "/api/management/v1/deployments/deployments/%s/statistics"
)

// HeaderTotalCount carries the number of all items of a list that is answered in pages.
const HeaderTotalCount = "X-Total-Count"

// ContentTypeJWT is the media type of a bare token.
const ContentTypeJWT = "application/jwt"

// ErrorArtifactConflict is what a server answers with 409 to an artifact that it cannot tell from another one. Mender's
// upload action looks for exactly this text and takes it as "already there".
const ErrorArtifactConflict = "An artifact with the same name has conflicting depends"

// Artifact as the management API lists it. Updates[].MetaData must be absent or a list: with an object mender-cli
// fails to list anything.
type Artifact struct {
	ID                    string            `json:"id"`
	Name                  string            `json:"name"`
	Description           string            `json:"description"`
	DeviceTypesCompatible []string          `json:"device_types_compatible"`
	Info                  ArtifactInfo      `json:"info"`
	Signed                bool              `json:"signed"`
	Updates               []Update          `json:"updates"`
	ArtifactProvides      map[string]string `json:"artifact_provides"`
	ArtifactDepends       map[string]any    `json:"artifact_depends"`
	ClearsProvides        []string          `json:"clears_artifact_provides,omitempty"`
	Size                  int64             `json:"size"`
	Modified              time.Time         `json:"modified"`
	SHA256                string            `json:"sha256,omitempty"` // Twinkeel: of the whole file, lower-case hex
	KeyID                 string            `json:"key_id,omitempty"` // Twinkeel: of the trusted key that signed it
}

// ArtifactInfo is the format of an artifact.
type ArtifactInfo struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
}

// Update is one payload of an artifact.
type Update struct {
	TypeInfo TypeInfo        `json:"type_info"`
	Files    []UpdateFile    `json:"files"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
	MetaData []any           `json:"meta_data"`
}

// TypeInfo names the payload type.
type TypeInfo struct {
	Type string `json:"type"`
}

// UpdateFile is one file of a payload.
type UpdateFile struct {
	Name     string    `json:"name"`
	Checksum string    `json:"checksum"`
	Size     int64     `json:"size"`
	Date     time.Time `json:"date"`
}

// NewDeployment creates a deployment. Devices or AllDevices chooses the devices; Policy.Groups alone does so too, and
// with AllDevices it narrows the choice.
type NewDeployment struct {
	Name              string   `json:"name"`
	ArtifactName      string   `json:"artifact_name"`
	Devices           []string `json:"devices,omitempty"`
	AllDevices        bool     `json:"all_devices,omitempty"`
	ForceInstallation bool     `json:"force_installation,omitempty"`
	Retries           int      `json:"retries,omitempty"`
	Policy            *Policy  `json:"policy,omitempty"` // Twinkeel
}

// Policy is how a deployment spreads (Twinkeel). The zero value means everything at once and a stop at no number of
// failures, as Mender does.
type Policy struct {
	// Groups limits the targets to these static groups; none means every accepted device.
	Groups []string `json:"groups,omitempty"`
	// ExcludeGroups are static groups whose devices take no part.
	ExcludeGroups []string `json:"exclude_groups,omitempty"`
	// Filter limits the targets to the devices that meet all of these predicates. With one the targets are not fixed: they
	// are found out again whenever a device asks. One that meets the filter later joins, one that no longer does before it
	// has begun leaves, and the deployment stays open until it expires, is aborted, or a newer one of its name starts.
	Filter []Predicate `json:"filter,omitempty"`
	// ExpiresSeconds is how long after its creation devices that have not begun are still offered the release; 0 means
	// for ever.
	ExpiresSeconds int64 `json:"expires_seconds,omitempty"`
	// Window is when devices may begin; nil means always.
	Window *Window `json:"window,omitempty"`
	// Phases are released one after the other; none means one phase of 100 %. A device belongs to the first phase that
	// reaches it; phases that leave devices over, and a phase for groups without devices, are refused.
	Phases []Phase `json:"phases,omitempty"`
	// FailureThreshold is the share of failed devices, in percent of the phase's devices, above which OnFailure
	// happens. Nil means never; 0 means at the first failure. After a resume it counts from there.
	FailureThreshold *float64 `json:"failure_threshold,omitempty"`
	// OnFailure is "pause" (the default) or "abort".
	OnFailure string `json:"on_failure,omitempty"`
}

// Predicate is a condition on one attribute of a device, as in Mender's filters (POST /v2/inventory/filters/search, and
// the filter of a deployment): inventory, identity or system is the scope; of Mender's types $eq, $ne, $in, $gte, $lte,
// $exists and $regex are understood.
type Predicate struct {
	Scope     string          `json:"scope"`
	Attribute string          `json:"attribute"`
	Type      string          `json:"type"`
	Value     json.RawMessage `json:"value"`
}

// Types of predicates.
const (
	PredicateEqual    = "$eq"     // the value is a text or a number
	PredicateNotEqual = "$ne"     // likewise; also met by a device without the attribute
	PredicateIn       = "$in"     // the value is a list of texts and numbers
	PredicateAtLeast  = "$gte"    // the value is a number
	PredicateAtMost   = "$lte"    // likewise
	PredicateExists   = "$exists" // the value is true or false
	PredicateMatches  = "$regex"  // the value is a regular expression, in RE2's syntax
)

// Window is a time of the week in which devices may begin an update. Outside of it those that have begun go on.
type Window struct {
	Days     []string `json:"days,omitempty"`     // mon … sun, on which it begins; none means every day
	From     string   `json:"from,omitempty"`     // 15:04; with To, or neither of them for whole days
	To       string   `json:"to,omitempty"`       // not included; at or before From it is on the next day; 24:00 is the day's end
	Timezone string   `json:"timezone,omitempty"` // of the IANA database, such as Europe/Berlin; UTC without
}

// Phase is one step of a rollout: exactly one of Percent, Count and Groups says which devices it releases. Percent and
// Count are cumulative over all targets.
type Phase struct {
	Name             string   `json:"name"`
	Percent          float64  `json:"percent,omitempty"`
	Count            int      `json:"count,omitempty"`
	Groups           []string `json:"groups,omitempty"`
	SoakSeconds      int64    `json:"soak_seconds,omitempty"`
	FailureThreshold *float64 `json:"failure_threshold,omitempty"`
	// Approval makes the rollout wait for a person before it releases this phase.
	Approval bool `json:"approval,omitempty"`
}

// States of a rollout (Twinkeel).
const (
	RolloutRunning  = "running"
	RolloutSoaking  = "soaking"
	RolloutWaiting  = "waiting" // for the approval of the next phase
	RolloutPaused   = "paused"
	RolloutFinished = "finished"
	RolloutAborted  = "aborted"
)

// What a rollout does when a failure threshold is passed (Twinkeel).
const (
	OnFailurePause = "pause"
	OnFailureAbort = "abort"
)

// Statuses of a deployment as a whole.
const (
	DeploymentPending    = "pending"
	DeploymentInProgress = "inprogress"
	DeploymentFinished   = "finished"
)

// Deployment as the management API shows it. DeviceCount counts the devices that have asked for it, MaxDevices its
// targets.
type Deployment struct {
	ID           string           `json:"id"`
	Name         string           `json:"name"`
	ArtifactName string           `json:"artifact_name"`
	Created      time.Time        `json:"created"`
	Finished     *time.Time       `json:"finished,omitempty"`
	Status       string           `json:"status"` // pending, inprogress, finished
	DeviceCount  int              `json:"device_count"`
	MaxDevices   int              `json:"max_devices"`
	Artifacts    []string         `json:"artifacts"`
	Groups       []string         `json:"groups,omitempty"`
	Type         string           `json:"type"`
	Statistics   Statistics       `json:"statistics"`
	Rollout      *RolloutProgress `json:"rollout,omitempty"` // Twinkeel
}

// State is the deployment's state: the rollout's where there is one, which tells more.
func (d *Deployment) State() string {
	if d.Rollout != nil {
		return d.Rollout.State
	}
	return d.Status
}

// Statistics counts a deployment's devices by status.
type Statistics struct {
	Status    map[Status]int `json:"status"`
	TotalSize int64          `json:"total_size"`
}

// RolloutProgress is where a deployment with a policy stands (Twinkeel).
type RolloutProgress struct {
	Policy      Policy          `json:"policy"`
	State       string          `json:"state"` // running, soaking, waiting, paused, finished, aborted
	Phase       int             `json:"phase"` // index of the current phase, from 0
	PauseReason string          `json:"pause_reason,omitempty"`
	SoakUntil   *time.Time      `json:"soak_until,omitempty"`
	Phases      []PhaseProgress `json:"phases"`
	Waits       *Wait           `json:"waits,omitempty"` // what goes on only later, or after somebody does something
	Open        bool            `json:"open,omitempty"`  // further devices may join
	Expires     *time.Time      `json:"expires,omitempty"`
	Expired     bool            `json:"expired,omitempty"`
}

// Wait is what a rollout, or one of its devices, waits for (Twinkeel).
type Wait struct {
	For   string     `json:"for"`             // one of the constants below
	Phase string     `json:"phase,omitempty"` // the phase that is waited for
	Until *time.Time `json:"until,omitempty"` // when it ends by itself, if that is known
}

// What is waited for.
const (
	WaitApproval = "approval" // a person approves the next phase
	WaitResume   = "resume"   // a person resumes the paused rollout
	WaitSoak     = "soak"     // the phase is complete and soaks
	WaitWindow   = "window"   // the window opens
	WaitDevices  = "devices"  // devices of the released phases ask, or finish
	WaitMatches  = "matches"  // further devices that meet the filter
	WaitPhase    = "phase"    // a device: its phase is released
	WaitRetry    = "retry"    // a device: the pause before its next attempt ends
	WaitPoll     = "poll"     // a device: it asks
)

// PhaseProgress counts one phase's devices.
type PhaseProgress struct {
	Name    string `json:"name"`
	Devices int    `json:"devices"`
	Done    int    `json:"done"` // success or already installed
	Failed  int    `json:"failed"`
	Started bool   `json:"started"`
}

// StatusApproved releases a phase that waits for approval (Twinkeel).
const StatusApproved = "approved"

// DeploymentStatus changes a deployment: "aborted" (Mender), or "paused", "running" and "approved" (Twinkeel).
type DeploymentStatus struct {
	Status string `json:"status"`
	Phase  string `json:"phase,omitempty"` // approved: which phase, so that two people do not approve two by accident
}

// DeploymentDevice is one device of a deployment.
type DeploymentDevice struct {
	ID       string     `json:"id"`
	Status   Status     `json:"status"`
	SubState string     `json:"substate,omitempty"`
	Created  time.Time  `json:"created"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
	Log      bool       `json:"log"`
	Phase    string     `json:"phase,omitempty"`   // Twinkeel
	Attempt  int        `json:"attempt,omitempty"` // Twinkeel: from 1; more than 1 after a retry
	Waits    *Wait      `json:"waits,omitempty"`   // Twinkeel: what one waits for that has not begun
}

// Statuses of a device and of an auth set.
const (
	AuthPending  = "pending"
	AuthAccepted = "accepted"
	AuthRejected = "rejected"
	AuthNone     = "noauth"
)

// AuthDevice is a device and the keys it has presented.
type AuthDevice struct {
	ID              string            `json:"id"`
	IdentityData    map[string]string `json:"identity_data"`
	Status          string            `json:"status"` // pending, accepted, rejected, preauthorized, noauth
	CreatedTS       time.Time         `json:"created_ts"`
	UpdatedTS       time.Time         `json:"updated_ts"`
	CheckInTime     *time.Time        `json:"check_in_time,omitempty"`
	Decommissioning bool              `json:"decommissioning"`
	AuthSets        []AuthSet         `json:"auth_sets"`
}

// AuthSet is one key of a device.
type AuthSet struct {
	ID           string            `json:"id"`
	PubKey       string            `json:"pubkey"`
	IdentityData map[string]string `json:"identity_data"`
	Status       string            `json:"status"`
	TS           time.Time         `json:"ts"`
	Fingerprint  string            `json:"fingerprint,omitempty"` // Twinkeel: SHA-256 of the key's DER, lower-case hex
}

// AuthStatus sets the status of an auth set.
type AuthStatus struct {
	Status string `json:"status"`
}

// Count is the answer of the endpoints that count.
type Count struct {
	Count int `json:"count"`
}

// Group names a device's static group. A nil Group means that it is in none.
type Group struct {
	Group *string `json:"group"`
}

// GroupChange says how many devices a change of a group found and changed.
type GroupChange struct {
	Updated int `json:"updated_count"`
	Matched int `json:"matched_count"`
}

// NewToken asks for a personal access token. ExpiresIn is in seconds; 0 means never.
type NewToken struct {
	Name      string `json:"name"`
	ExpiresIn int64  `json:"expires_in,omitempty"`
}

// Token is a personal access token, without the secret.
type Token struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	Created  time.Time  `json:"created_ts"`
	Expires  *time.Time `json:"expiration_date,omitempty"`
	LastUsed *time.Time `json:"last_used,omitempty"`
}

// User is a person who may use the management API.
type User struct {
	ID      string     `json:"id"`
	Email   string     `json:"email"`
	Created time.Time  `json:"created_ts"`
	Updated time.Time  `json:"updated_ts"`
	Login   *time.Time `json:"login_ts,omitempty"`
}

// InventoryDevice is a device with its attributes.
type InventoryDevice struct {
	ID         string      `json:"id"`
	Attributes []Attribute `json:"attributes"`
	UpdatedTS  time.Time   `json:"updated_ts"`
}
