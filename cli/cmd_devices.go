package cli

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/pipeline/build"
	"github.com/twinkeel/twinkeel/server/client"
)

func (a *app) devicesCommand() *cobra.Command {
	var o serverOptions
	c := &cobra.Command{
		Use:     "devices",
		Short:   "List, accept and reject devices",
		GroupID: groupServer,
		Args:    onlyCommands,
		RunE:    helpRun,
	}
	c.PersistentFlags().StringVar(&o.name, "server", "", "`name` of the server block to use, where there are several")
	var status string
	list := &cobra.Command{
		Use:   "list",
		Short: "List the devices that have asked to join",
		Args:  exactArgs(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.runDevicesList(cmd.Context(), o, status) },
	}
	list.Flags().StringVar(&status, "status", "", "only pending, accepted or rejected ones")
	c.AddCommand(list, a.devicesSetCommand(&o, "accept", "accepted", "Let devices in"), a.devicesSetCommand(&o, "reject", "rejected", "Turn devices away; their tokens stop to work at once"))
	return c
}

func (a *app) connect(o serverOptions) (*client.Client, error) {
	p, err := a.load()
	if err != nil {
		return nil, err
	}
	server, err := o.choose(p)
	if err != nil {
		return nil, err
	}
	return build.Connect(server)
}

func (a *app) runDevicesList(ctx context.Context, o serverOptions, status string) error {
	c, err := a.connect(o)
	if err != nil {
		return err
	}
	devices, err := c.Devices(ctx, status)
	if err != nil {
		return err
	}
	if done, err := a.asJSON(notNil(devices)); done {
		return err
	}
	t := table{}
	t.add("ID", "STATUS", "IDENTITY", "KEY")
	for _, d := range devices {
		t.add(d.ID, d.Status, identityText(d.IdentityData), fingerprints(d))
	}
	t.print(a.stdout)
	return nil
}

func identityText(identity map[string]string) string {
	parts := make([]string, 0, len(identity))
	for k, v := range identity {
		parts = append(parts, k+"="+v)
	}
	sort.Strings(parts)
	return strings.Join(parts, " ")
}

// fingerprints names a device's keys. More than one means that somebody else may have asked with its identity.
func fingerprints(d menderapi.AuthDevice) string {
	parts := make([]string, 0, len(d.AuthSets))
	for _, s := range d.AuthSets {
		text := s.Fingerprint
		if len(text) > 16 {
			text = text[:16]
		}
		if len(d.AuthSets) > 1 {
			text += " (" + s.Status + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

func (a *app) devicesSetCommand(o *serverOptions, verb, status, short string) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   verb + " [ID]...",
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runDevicesSet(cmd.Context(), *o, args, all, verb, status)
		},
	}
	c.Flags().BoolVar(&all, "all-pending", false, "every device that waits")
	return c
}

func (a *app) runDevicesSet(ctx context.Context, o serverOptions, ids []string, all bool, verb, status string) error {
	if len(ids) == 0 && !all {
		return usagef("name the devices to %s, or say --all-pending", verb)
	}
	c, err := a.connect(o)
	if err != nil {
		return err
	}
	var devices []menderapi.AuthDevice
	if all {
		if devices, err = c.Devices(ctx, "pending"); err != nil {
			return err
		}
	}
	for _, id := range ids {
		d, err := c.Device(ctx, id)
		if errors.Is(err, client.ErrNotFound) {
			return &hintedError{fmt.Sprintf("%s knows no device %s", c.URL(), id), "twinkeel devices list"}
		}
		if err != nil {
			return fmt.Errorf("device %s: %w", id, err)
		}
		devices = append(devices, *d)
	}
	if len(devices) == 0 {
		a.notef("no device is waiting\n")
	}
	changed := []changedDevice{}
	for _, d := range devices {
		set, err := authSetToChange(d, status)
		if err != nil {
			return err
		}
		if set == nil {
			a.notef("%s is %s already\n", d.ID, status)
			continue
		}
		if err := c.SetAuthStatus(ctx, d.ID, set.ID, status); err != nil {
			return fmt.Errorf("device %s: %w", d.ID, err)
		}
		changed = append(changed, changedDevice{d.ID, status})
		a.notef("%s %s %s\n", status, printable(d.ID), a.ui.err.dim(printable(identityText(d.IdentityData))))
	}
	if _, err := a.asJSON(changed); err != nil {
		return err
	}
	if len(changed) == 0 {
		return &exitError{code: exitNothing}
	}
	return nil
}

// changedDevice is one of the devices that `devices accept --json` and `devices reject --json` print.
type changedDevice struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

// authSetToChange picks the key that the command is about: the only one, or the only pending one when accepting. With
// several candidates a person must look, because one of them may be an impostor's. It is nil when there is nothing to do.
func authSetToChange(d menderapi.AuthDevice, status string) (*menderapi.AuthSet, error) {
	var candidates []*menderapi.AuthSet
	for i := range d.AuthSets {
		if s := &d.AuthSets[i]; s.Status != status && (status == "rejected" || s.Status == "pending" || len(d.AuthSets) == 1) {
			candidates = append(candidates, s)
		}
	}
	switch len(candidates) {
	case 1:
		return candidates[0], nil
	case 0:
		if d.Status == status {
			return nil, nil
		}
		return nil, fmt.Errorf("device %s has no key to be %s; it is %s", d.ID, status, d.Status)
	}
	return nil, &hintedError{
		fmt.Sprintf("device %s has presented %d keys: %s", d.ID, len(d.AuthSets), fingerprints(d)),
		"compare them with the fingerprint the device prints, and reject the others with mender-cli or the API",
	}
}
