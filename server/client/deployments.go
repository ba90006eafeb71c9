package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// maxLog is the longest device log that is read: the server takes at most 1 MiB of JSON.
const maxLog = 4 << 20

// CreateDeployment starts a deployment and returns its id. One that equals an unfinished one is ErrConflict; an
// artifact name that the server doesn't have is ErrUnusable.
func (c *Client) CreateDeployment(ctx context.Context, d menderapi.NewDeployment) (string, error) {
	return c.created(ctx, call{method: http.MethodPost, path: menderapi.PathDeployments, body: d})
}

// DeploymentFilter chooses deployments; empty fields choose all.
type DeploymentFilter struct {
	Status string // pending, inprogress, finished
	Name   string // exactly this name
}

// Deployments lists deployments, newest first.
func (c *Client) Deployments(ctx context.Context, f DeploymentFilter) ([]menderapi.Deployment, error) {
	q := url.Values{}
	if f.Status != "" {
		q.Set("status", f.Status)
	}
	if f.Name != "" {
		q.Set("search", f.Name) // Mender's search also finds names that only begin so
	}
	list, err := all[menderapi.Deployment](ctx, c, menderapi.PathDeployments, q)
	if err != nil || f.Name == "" {
		return list, err
	}
	var named []menderapi.Deployment
	for _, d := range list {
		if d.Name == f.Name {
			named = append(named, d)
		}
	}
	return named, nil
}

// Deployment returns one deployment, with its statistics and where its rollout stands.
func (c *Client) Deployment(ctx context.Context, id string) (*menderapi.Deployment, error) {
	var d menderapi.Deployment
	err := c.decode(ctx, get(menderapi.PathDeployment, id), &d)
	return &d, err
}

// SetDeploymentStatus aborts ("aborted"), pauses ("paused") or resumes ("running") a deployment.
func (c *Client) SetDeploymentStatus(ctx context.Context, id, status string) error {
	return c.setDeployment(ctx, id, menderapi.DeploymentStatus{Status: status})
}

// ApprovePhase releases the phase of that name, which must be the one that waits for approval; ErrConflict says that it is
// not.
func (c *Client) ApprovePhase(ctx context.Context, id, phase string) error {
	return c.setDeployment(ctx, id, menderapi.DeploymentStatus{Status: menderapi.StatusApproved, Phase: phase})
}

func (c *Client) setDeployment(ctx context.Context, id string, to menderapi.DeploymentStatus) error {
	_, err := c.run(ctx, call{
		method: http.MethodPut, path: fmt.Sprintf(menderapi.PathDeploymentAbort, url.PathEscape(id)),
		body: to, accept: http.StatusNoContent,
	})
	return err
}

// DeploymentDevices lists the devices of a deployment with their statuses.
func (c *Client) DeploymentDevices(ctx context.Context, id string) ([]menderapi.DeploymentDevice, error) {
	return all[menderapi.DeploymentDevice](ctx, c, fmt.Sprintf(menderapi.PathDeploymentDevs, url.PathEscape(id)), nil)
}

// DeviceLog returns what a device logged in a deployment, one line per message. A device without a log is ErrNotFound.
func (c *Client) DeviceLog(ctx context.Context, deployment, device string) (string, error) {
	resp, err := c.do(ctx, get(menderapi.PathDeploymentDevLog, deployment, device))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxLog))
	if err != nil {
		return "", fmt.Errorf("reading the log of device %s: %w", device, withoutURL(err))
	}
	return string(text), nil
}
