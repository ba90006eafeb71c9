package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// Devices lists the devices with the given status (pending, accepted, rejected), or all for an empty one.
func (c *Client) Devices(ctx context.Context, status string) ([]menderapi.AuthDevice, error) {
	q := url.Values{}
	if status != "" {
		q.Set("status", status)
	}
	return all[menderapi.AuthDevice](ctx, c, menderapi.PathAuthDevices, q)
}

// Device returns one device with the keys that it has presented.
func (c *Client) Device(ctx context.Context, id string) (*menderapi.AuthDevice, error) {
	var d menderapi.AuthDevice
	err := c.decode(ctx, get(menderapi.PathAuthDevice, id), &d)
	return &d, err
}

// SetAuthStatus accepts or rejects one key of a device ("accepted", "rejected", "pending").
func (c *Client) SetAuthStatus(ctx context.Context, device, authSet, status string) error {
	_, err := c.run(ctx, call{
		method: http.MethodPut,
		path:   fmt.Sprintf(menderapi.PathAuthStatus, url.PathEscape(device), url.PathEscape(authSet)),
		body:   menderapi.AuthStatus{Status: status}, accept: http.StatusNoContent,
	})
	return err
}

// DeleteDevice forgets a device: its token stops to work at once, and it may ask again.
func (c *Client) DeleteDevice(ctx context.Context, id string) error {
	_, err := c.run(ctx, call{method: http.MethodDelete, path: fmt.Sprintf(menderapi.PathAuthDevice, url.PathEscape(id)), accept: http.StatusNoContent})
	return err
}

// InventoryDevices lists all devices with their attributes.
func (c *Client) InventoryDevices(ctx context.Context) ([]menderapi.InventoryDevice, error) {
	return all[menderapi.InventoryDevice](ctx, c, menderapi.PathInventory, nil)
}

// Inventory returns one device's attributes.
func (c *Client) Inventory(ctx context.Context, device string) (*menderapi.InventoryDevice, error) {
	var d menderapi.InventoryDevice
	err := c.decode(ctx, get(menderapi.PathInventoryDevice, device), &d)
	return &d, err
}

// SetGroup puts a device into a static group, or takes it out of its group when group is empty.
func (c *Client) SetGroup(ctx context.Context, device, group string) error {
	path := fmt.Sprintf(menderapi.PathInventoryGroup, url.PathEscape(device))
	if group != "" {
		_, err := c.run(ctx, call{method: http.MethodPut, path: path, body: menderapi.Group{Group: &group}, accept: http.StatusNoContent})
		return err
	}
	var now menderapi.Group
	if err := c.decode(ctx, call{method: http.MethodGet, path: path, accept: http.StatusOK}, &now); err != nil || now.Group == nil {
		return err
	}
	_, err := c.run(ctx, call{method: http.MethodDelete, path: path + "/" + url.PathEscape(*now.Group), accept: http.StatusNoContent})
	return err
}

// Groups lists the static groups.
func (c *Client) Groups(ctx context.Context) ([]string, error) {
	var g []string
	err := c.decode(ctx, call{method: http.MethodGet, path: menderapi.PathGroups, accept: http.StatusOK}, &g)
	return g, err
}
