package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/imaging/edit"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/durable"
)

type imageProvisionOptions struct {
	devices, dir, name   string
	set, identity        []string
	files, texts, env    []string
	config               string
	noKey, sha256, force bool
}

func (a *app) imageProvisionCommand() *cobra.Command {
	var o imageProvisionOptions
	c := &cobra.Command{
		Use:   "provision IMAGE --output-dir DIRECTORY",
		Short: "Stamp copies of a disk image with the identity and key of each device",
		Long: `Make one image for each line of a list of devices, without building or copying it again: each shares the blocks of IMAGE where
the file system can (XFS, btrfs), and elsewhere takes no more than its data. On the partition with the agent's files a
device gets its identity, from the columns of --identity (default is the first), in mender.conf, and a key of its own, made
here as the agent would make it.

The list is comma-separated; its first line names the columns. {column} stands for a device's value in --name, --file,
--text and --env:

  twinkeel image provision board.img --devices devices.csv --output-dir factory \
      --identity serial --env 'serial#={serial}' --env 'ethaddr={mac}' \
      --text 'data:/hostname=board-{serial}' --file 'data:/wifi.conf=sites/{site}.conf'

provisioned.jsonl in the directory has a line of JSON for each image: its name, identity, and the public key by which the
device will ask to be accepted, with its fingerprint. Private keys are in the images alone, which only their owner may read:
treat them as keys. An image that is there already is only replaced with --force, and its device then has another key.

IMAGE is a raw image, or the address of an image block that is built. A block map (.bmap) beside it is made anew for each.`,
		Args: exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runImageProvision(cmd.Context(), o, args[0]) },
	}
	f := c.Flags()
	f.Var((*notEmpty)(&o.devices), "devices", "`file` with the list of devices (CSV; \"-\" is stdin)")
	f.StringArrayVar(&o.set, "set", nil, "`column=value` of a single device, in the place of --devices (may be repeated)")
	f.VarP((*notEmpty)(&o.dir), "output-dir", "o", "`directory` for the images; it is made")
	f.Var((*notEmpty)(&o.name), "name", "`name` of each image; default is IMAGE's with the identity behind it")
	f.StringSliceVar(&o.identity, "identity", nil, "`columns` that are the device's identity, separated by commas")
	f.StringArrayVar(&o.files, "file", nil, "`PARTITION:/PATH=FILE` to copy into the image (may be repeated)")
	f.StringArrayVar(&o.texts, "text", nil, "`PARTITION:/PATH=TEXT` to write into the image (may be repeated)")
	f.StringArrayVar(&o.env, "env", nil, "`name=value` of a variable of the boot loader's environment (may be repeated)")
	f.Var((*notEmpty)(&o.config), "fw-env-config", "`file` that says where the environment is, as the one for fw_setenv")
	f.BoolVar(&o.noKey, "no-key", false, "let each device make its key on its first start")
	f.BoolVar(&o.sha256, "sha256", false, "read each image again for its SHA-256")
	f.BoolVar(&o.force, "force", false, "replace images that are there already")
	return c
}

func (a *app) runImageProvision(ctx context.Context, o imageProvisionOptions, name string) (err error) {
	list, err := a.deviceList(ctx, o)
	if err != nil {
		return err
	}
	image, known, err := a.environmentPlaces(ctx, name, o.config)
	if err != nil {
		return err
	}
	devices, err := o.plan(list, image, known)
	if err != nil {
		return err
	}
	missing := missingDirs(o.dir)
	defer func() {
		for _, d := range slices.Backward(missing) {
			if err != nil {
				os.Remove(d) // only empty ones go
			}
		}
	}()
	if err := durable.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	manifest, err := edit.OpenManifest(o.dir)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if other := manifest.Taken(d.Identity, filepath.Base(d.Output)); other != "" && !o.force {
			return &hintedError{
				fmt.Sprintf("%s is for %s already, in %s: both images would be one device", other, identityText(d.Identity), manifest.Path()),
				"--force makes another one; the device is accepted by the key of the image that it gets",
			}
		}
	}
	done, err := a.provisionAll(ctx, o, image, devices, manifest)
	if err != nil {
		if len(done) > 0 {
			a.notef("%d of %s are made; %s lists them\n", len(done), plural(len(devices), "image"), manifest.Path())
		}
		return err
	}
	if shown, err := a.asJSON(done); shown {
		return err
	}
	t := table{}
	for _, p := range done {
		t.add(p.Image, identityText(p.Identity), orNone(p.Fingerprint))
	}
	t.print(a.stdout)
	return nil
}

func (a *app) deviceList(ctx context.Context, o imageProvisionOptions) (*edit.Devices, error) {
	switch {
	case o.dir == "":
		return nil, usagef("--output-dir is missing: where shall the images go?")
	case (o.devices == "") == (len(o.set) == 0):
		return nil, usagef("give the devices with --devices FILE, or one with --set column=value")
	case o.devices == "":
		list, err := edit.OneDevice(o.set)
		if err != nil {
			return nil, usagef("--set: %v", err)
		}
		return list, nil
	}
	in, err := a.open(ctx, o.devices)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return edit.ReadDevices(in, o.devices)
}

// stampedDevice is a device and the files on the host that go into its image.
type stampedDevice struct {
	edit.Device
	sources []sourceFile
}

type sourceFile struct{ partition, path, file string }

// plan expands everything for every device and looks at what has to be there, before anything is made.
func (o *imageProvisionOptions) plan(list *edit.Devices, image string, known []bootenv.Location) ([]stampedDevice, error) {
	if len(o.identity) == 0 {
		o.identity = list.Columns[:1]
	}
	if o.name == "" {
		stem, suffix := imageStem(image)
		o.name = stem
		for _, column := range o.identity {
			o.name += "-{" + column + "}"
		}
		o.name += suffix
	}
	var devices []stampedDevice
	outputs, identities := map[string]int{}, map[string]int{}
	for i, row := range list.Rows {
		d, err := o.device(list, row, known)
		if err != nil {
			return nil, usagef("device %d: %v", i+1, err)
		}
		for _, name := range append(edit.Beside(d.Output), d.Output) {
			if other, twice := outputs[name]; twice {
				return nil, usagef("devices %d and %d would both be %s: put what tells them apart into --name", other, i+1, name)
			}
		}
		who := identityText(d.Identity)
		if other, twice := identities[who]; twice {
			return nil, usagef("devices %d and %d have one identity, %s", other, i+1, who)
		}
		for _, name := range append(edit.Beside(d.Output), d.Output) {
			outputs[name] = i + 1
		}
		identities[who] = i + 1
		if err := o.checkOutput(d.Output, image); err != nil {
			return nil, err
		}
		devices = append(devices, d)
	}
	return devices, nil
}

func (o *imageProvisionOptions) checkOutput(output, image string) error {
	if same, err := sameFile(output, image); err == nil && same {
		return usagef("%s is the image itself: choose another directory, or --name", output)
	}
	if _, err := os.Lstat(output); err == nil && !o.force {
		return &hintedError{fmt.Sprintf("%s: it exists already", output), "--force replaces it; its device then has another key, which has to be accepted anew"}
	}
	return nil
}

func (o *imageProvisionOptions) device(list *edit.Devices, row []string, known []bootenv.Location) (d stampedDevice, err error) {
	file, err := list.ExpandName(o.name, row)
	if err != nil {
		return d, fmt.Errorf("--name: %w", err)
	}
	if strings.HasPrefix(file, edit.ManifestName) {
		return d, fmt.Errorf("--name: %s is the name of the manifest", file)
	}
	d.Output, d.NoKey, d.Identity = filepath.Join(o.dir, file), o.noKey, map[string]string{}
	for _, column := range o.identity {
		if d.Identity[column], err = list.Value(row, column); err != nil {
			return d, fmt.Errorf("--identity: %w", err)
		}
	}
	d.Variables = edit.Variables{Set: map[string]string{}, Known: known}
	for _, text := range o.env {
		name, value, err := splitVariable(text)
		if err != nil {
			return d, fmt.Errorf("--env: %w", err)
		}
		if d.Variables.Set[name], err = list.Expand(value, row); err != nil {
			return d, fmt.Errorf("--env %s: %w", name, err)
		}
	}
	for _, text := range o.texts {
		partition, path, value, err := splitPlaced("--text", text)
		if err != nil {
			return d, err
		}
		f := edit.PartitionFile{Partition: partition}
		if f.Path, err = list.ExpandPath(path, row); err != nil {
			return d, fmt.Errorf("--text %s: %w", path, err)
		}
		if value, err = list.Expand(value, row); err != nil {
			return d, fmt.Errorf("--text %s: %w", path, err)
		}
		f.Data = []byte(value + "\n")
		d.Files = append(d.Files, f)
	}
	for _, text := range o.files {
		s := sourceFile{}
		if s.partition, s.path, s.file, err = splitPlaced("--file", text); err != nil {
			return d, err
		}
		if s.path, err = list.ExpandPath(s.path, row); err == nil {
			s.file, err = list.ExpandPath(s.file, row)
		}
		if err != nil {
			return d, fmt.Errorf("--file %s: %w", text, err)
		}
		if info, err := os.Stat(s.file); err != nil {
			return d, fmt.Errorf("--file: %w", withoutOperation(err))
		} else if !info.Mode().IsRegular() {
			return d, fmt.Errorf("--file: %s is not a file", s.file)
		}
		d.sources = append(d.sources, s)
	}
	return d, nil
}

// splitPlaced splits PARTITION:/PATH=VALUE.
func splitPlaced(flag, text string) (partition, path, value string, err error) {
	place, value, ok := strings.Cut(text, "=")
	partition, path, inside := strings.Cut(place, ":")
	if !ok || !inside || partition == "" || !strings.HasPrefix(path, "/") || value == "" {
		return "", "", "", fmt.Errorf("%s %q is not PARTITION:/PATH=%s", flag, text, map[string]string{"--file": "FILE", "--text": "TEXT"}[flag])
	}
	return partition, path, value, nil
}

// maxStamped bounds a file that goes into an image.
const maxStamped = 64 << 20

// provisionAll makes the images one after another; the manifest is complete after each.
func (a *app) provisionAll(ctx context.Context, o imageProvisionOptions, image string, devices []stampedDevice, manifest *edit.Manifest) ([]edit.Provisioned, error) {
	done := []edit.Provisioned{}
	var stale []string
	for _, d := range devices {
		for _, s := range d.sources {
			info, err := os.Stat(s.file)
			if err != nil {
				return done, withoutOperation(err)
			}
			data, err := readSmall(s.file, maxStamped)
			if err != nil {
				return done, err
			}
			d.Files = append(d.Files, edit.PartitionFile{Partition: s.partition, File: edit.File{Path: s.path, Mode: info.Mode().Perm(), Data: data}})
		}
		err := a.working(ctx, d.Output, "provisioning", func(report func(done, total int64)) error {
			p, err := edit.Provision(ctx, image, d.Device, edit.Options{Digest: o.sha256, Progress: report})
			if err != nil {
				return err
			}
			stale = append(stale, p.Stale...)
			done = append(done, *p)
			return manifest.Add(*p)
		})
		if err != nil {
			return done, cmp.Or(ctx.Err(), err)
		}
	}
	a.warnStale(stale)
	return done, nil
}
