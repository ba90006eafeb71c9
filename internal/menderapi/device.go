// Package menderapi holds the JSON of Mender's device API and management API, once, for the server, its client and the
// agent.
//
// The shapes follow the OpenAPI documents of mender-server; where those are silent, the requests that the real
// clients send decide (mender 3.4.0 of Debian, mender-update 5.1, mender-cli 1.9.0). What this project adds to a shape
// is optional for every reader and marked "Twinkeel" below.
package menderapi

import (
	"encoding/json"
	"time"
)

// Paths of the device API. A %s stands for the deployment id.
const (
	PathAuthRequests     = "/api/devices/v1/authentication/auth_requests"
	PathNextV2           = "/api/devices/v2/deployments/device/deployments/next"
	PathNextV1           = "/api/devices/v1/deployments/device/deployments/next"
	PathDeploymentStatus = "/api/devices/v1/deployments/device/deployments/%s/status"
	PathDeploymentLog    = "/api/devices/v1/deployments/device/deployments/%s/log"
	PathDeviceAttributes = "/api/devices/v1/inventory/device/attributes"
)

// MaxSubState is the number of characters that a substate may have.
const MaxSubState = 200

// HeaderSignature carries the base64 signature of an authentication request's exact body bytes: RSA PKCS#1 v1.5 with
// SHA-256, ECDSA P-256 (ASN.1) with SHA-256, or Ed25519 over the body itself.
const HeaderSignature = "X-MEN-Signature"

// HeaderRequestID names a request in the server's log and in error bodies.
const HeaderRequestID = "X-MEN-RequestID"

// ContentTypeArtifact is the media type of a .mender file.
const ContentTypeArtifact = "application/vnd.mender-artifact"

// AuthRequest asks for a device token. IDData is a JSON object in a string; PubKey is PEM (SubjectPublicKeyInfo).
type AuthRequest struct {
	IDData      string `json:"id_data"`
	PubKey      string `json:"pubkey"`
	TenantToken string `json:"tenant_token,omitempty"`
	Tier        string `json:"tier,omitempty"`
}

// NextRequest asks for the device's next deployment (v2). DeviceProvides has at least "device_type" and
// "artifact_name".
type NextRequest struct {
	DeviceProvides   map[string]string `json:"device_provides"`
	UpdateControlMap bool              `json:"update_control_map,omitempty"`
}

// Next is a deployment for the device that asked.
type Next struct {
	ID       string       `json:"id"`
	Artifact NextArtifact `json:"artifact"`
}

// NextArtifact says what to install and where it is. DeviceTypesCompatible equals the list in the artifact's header.
type NextArtifact struct {
	ID                    string   `json:"id,omitempty"`
	ArtifactName          string   `json:"artifact_name"`
	DeviceTypesCompatible []string `json:"device_types_compatible"`
	Source                Link     `json:"source"`
}

// Link is a download link that needs no further authorization until it expires.
type Link struct {
	URI    string    `json:"uri"`
	Expire time.Time `json:"expire"`
	Method string    `json:"method,omitempty"`
}

// Status of one device in one deployment.
type Status string

// The statuses. A device may report those from StatusDownloading to StatusAlreadyInstalled; the rest is the server's.
const (
	StatusDownloading           Status = "downloading"
	StatusInstalling            Status = "installing"
	StatusRebooting             Status = "rebooting"
	StatusPauseBeforeInstalling Status = "pause_before_installing"
	StatusPauseBeforeRebooting  Status = "pause_before_rebooting"
	StatusPauseBeforeCommitting Status = "pause_before_committing"
	StatusSuccess               Status = "success"
	StatusFailure               Status = "failure"
	StatusAlreadyInstalled      Status = "already-installed"

	StatusPending        Status = "pending"
	StatusAborted        Status = "aborted"
	StatusNoArtifact     Status = "noartifact"
	StatusDecommissioned Status = "decommissioned"
)

// DeviceStatuses lists every status, in the order in which the server's statistics name them.
var DeviceStatuses = []Status{
	StatusPending, StatusDownloading, StatusInstalling, StatusRebooting, StatusPauseBeforeInstalling,
	StatusPauseBeforeRebooting, StatusPauseBeforeCommitting, StatusSuccess, StatusFailure, StatusAlreadyInstalled,
	StatusNoArtifact, StatusAborted, StatusDecommissioned,
}

// Final says that a device with this status is done with the deployment.
func (s Status) Final() bool {
	switch s {
	case StatusSuccess, StatusFailure, StatusAlreadyInstalled, StatusNoArtifact, StatusAborted, StatusDecommissioned:
		return true
	}
	return false
}

// FromDevice says that a device may report this status.
func (s Status) FromDevice() bool {
	switch s {
	case StatusDownloading, StatusInstalling, StatusRebooting, StatusPauseBeforeInstalling, StatusPauseBeforeRebooting,
		StatusPauseBeforeCommitting, StatusSuccess, StatusFailure, StatusAlreadyInstalled:
		return true
	}
	return false
}

// StatusReport is what a device says of its deployment. SubState has at most 200 characters.
type StatusReport struct {
	Status   Status `json:"status"`
	SubState string `json:"substate,omitempty"`
}

// Log is a device's log of one deployment.
type Log struct {
	Messages []LogMessage `json:"messages"`
}

// LogMessage is one line of it. Timestamp is RFC 3339.
type LogMessage struct {
	Timestamp string `json:"timestamp"`
	Level     string `json:"level"`
	Message   string `json:"message"`
}

// Attribute is one inventory value. Value is a string, a number, or a list of either.
type Attribute struct {
	Name        string          `json:"name"`
	Value       json.RawMessage `json:"value"`
	Description string          `json:"description,omitempty"`
	Scope       string          `json:"scope,omitempty"`
	Timestamp   *time.Time      `json:"timestamp,omitempty"`
}

// Error is the body of every answer that is not a success.
type Error struct {
	Error     string          `json:"error"`
	RequestID string          `json:"request_id,omitempty"`
	Metadata  json.RawMessage `json:"metadata,omitempty"`
}
