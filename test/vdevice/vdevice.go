// Package vdevice is a device without hardware: a directory with a disk image, and a power button that stands for the
// boot loader. The disk, its boot loader environment and the agent in its slots are real; only U-Boot and the kernel
// are not run. What their place takes is package bootloader (which slot) and the check that a kernel would find an init
// it can run (whether the slot comes up).
//
// The directory is the device's root as far as the agent sees it (its --root):
//
//	disk.img                  the disk, as it was flashed
//	data/                     the data partition's files, unpacked; /data of the device
//	dev/mmcblk0               a link to disk.img, under the name that fw_env.config and mender.conf use
//	etc/mender/mender.conf    the hardware: where in disk.img the slots are, the MAC address, how to reboot
//	var/lib/mender            a link to data/mender
//	proc/cmdline              what the boot loader tells the system: the slot it has started
//	run/                      the agent, taken out of the slot that runs
package vdevice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/agent"
	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/durable"
)

const (
	diskName   = "disk.img"
	configName = "etc/mender/mender.conf"
	// maxDataFile bounds a file of the data partition; what the agent needs there is small.
	maxDataFile = 64 << 20
)

// CreateOptions say what the new device is.
type CreateOptions struct {
	Image  string // the disk image it is flashed with
	MAC    string // its identity; empty: made from the directory's name
	Server string // URL; empty: the one in the image
	// Poll is how often it asks the server. The image's own intervals are for real fleets.
	Poll time.Duration // 0: half a second
}

// Device is a virtual device.
type Device struct {
	Dir  string
	Name string // of the directory

	slots map[agent.SlotName]agent.Slot // with files as seen from this machine
	env   *bootenv.UBoot
}

// Create flashes an image onto a new device.
func Create(ctx context.Context, dir string, o CreateOptions) (*Device, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, diskName)); err == nil {
		return nil, fmt.Errorf("%s is a device already; remove it first", dir)
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	disk := filepath.Join(dir, diskName)
	if err := copySparse(ctx, disk, o.Image); err != nil {
		return nil, fmt.Errorf("flashing %s: %w", o.Image, err)
	}
	if err := setUp(dir, o); err != nil {
		return nil, errors.Join(fmt.Errorf("setting up the device %s: %w", dir, err), os.Remove(disk))
	}
	return Open(dir)
}

func setUp(dir string, o CreateOptions) error {
	disk, m, err := openDisk(dir)
	if err != nil {
		return err
	}
	defer disk.Close()
	data, err := dataPartition(m)
	if err != nil {
		return err
	}
	tree, err := imaging.OpenExt4(disk, data.Offset, data.Size)
	if err != nil {
		return fmt.Errorf("reading the data partition: %w", err)
	}
	if err := unpack(tree, filepath.Join(dir, "data")); err != nil {
		return fmt.Errorf("unpacking the data partition: %w", err)
	}
	if err := link(dir, "var/lib/mender", "data/mender"); err != nil {
		return err
	}
	// The image's own configuration, as the agent on a real board would read it, names the board's devices.
	cfg, err := agent.LoadConfig(agent.ConfigPaths{Root: dir})
	if err != nil {
		return err
	}
	board, slots, err := findSlots(dir, cfg, m)
	if err != nil {
		return err
	}
	if err := link(dir, board, diskName); err != nil {
		return err
	}
	if o.MAC == "" {
		o.MAC = macFor(filepath.Base(dir))
	}
	if o.Poll == 0 {
		o.Poll = 500 * time.Millisecond
	}
	hardware := map[string]any{
		"UpdatePollIntervalSeconds":    o.Poll.Seconds(),
		"InventoryPollIntervalSeconds": 10 * o.Poll.Seconds(),
		"RetryPollIntervalSeconds":     2 * o.Poll.Seconds(),
		"Twinkeel": map[string]any{
			"Slots":         slots,
			"RebootCommand": "exit",
			"Identity":      map[string]string{"mac": o.MAC},
		},
	}
	if o.Server != "" {
		hardware["ServerURL"] = o.Server
	}
	text, err := json.MarshalIndent(hardware, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, configName)
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(path, append(text, '\n'), 0o600)
}

// Open finds an existing device.
func Open(dir string) (*Device, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	cfg, err := agent.LoadConfig(agent.ConfigPaths{Root: dir, Main: filepath.Join(dir, configName)})
	if err != nil {
		return nil, fmt.Errorf("%s is no virtual device: %w", dir, err)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Device{Dir: dir, Name: filepath.Base(dir), slots: cfg.Slots}
	d.env, err = openEnvironment(dir, cfg)
	return d, err
}

// openEnvironment is the boot loader's way to its variables: it knows the disk and not the agent's configuration, but
// on a board both must agree, and fw_env.config says on what.
func openEnvironment(dir string, cfg *agent.Config) (*bootenv.UBoot, error) {
	f, err := os.Open(cfg.BootEnvironment.Config)
	if err != nil {
		return nil, fmt.Errorf("the boot loader's environment: %w", err)
	}
	defer f.Close()
	locations, err := bootenv.ParseFwEnvConfig(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.BootEnvironment.Config, err)
	}
	disk, err := os.Stat(filepath.Join(dir, diskName))
	if err != nil {
		return nil, err
	}
	for i, l := range locations {
		path := inside(dir, l.Path)
		if info, err := os.Stat(path); err != nil || !os.SameFile(info, disk) {
			return nil, fmt.Errorf("%s: the environment is on %s, which is not this device's disk", cfg.BootEnvironment.Config, l.Path)
		}
		locations[i].Path = filepath.Join(dir, diskName)
	}
	return bootenv.OpenUBoot(locations)
}

func openDisk(dir string) (*os.File, *imaging.Map, error) {
	f, err := os.Open(filepath.Join(dir, diskName))
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	m, err := imaging.ReadMap(f, info.Size())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("reading the partition table: %w", err), f.Close())
	}
	return f, m, nil
}

func dataPartition(m *imaging.Map) (imaging.Region, error) {
	for _, r := range m.Regions {
		if r.Kind == imaging.KindPartition && (r.Name == "data" || r.Label == "data") {
			return r, nil
		}
	}
	return imaging.Region{}, errors.New("the image has no partition named data")
}

// findSlots turns RootfsPartA and B of the image's configuration into places on the disk. It also returns the name that
// the board has for the disk.
func findSlots(dir string, cfg *agent.Config, m *imaging.Map) (board string, slots map[agent.SlotName]agent.Slot, err error) {
	slots = map[agent.SlotName]agent.Slot{}
	for _, name := range []agent.SlotName{agent.SlotA, agent.SlotB} {
		device := "/" + strings.TrimPrefix(strings.TrimPrefix(cfg.Slots[name].Device, dir), "/")
		disk, number, err := splitPartition(device)
		if err != nil {
			return "", nil, fmt.Errorf("slot %s: %w", name, err)
		}
		if board != "" && disk != board {
			return "", nil, fmt.Errorf("the slots are on two disks, %s and %s", board, disk)
		}
		board = disk
		r, ok := m.Partition(number)
		if !ok {
			return "", nil, fmt.Errorf("slot %s is %s, but the image has no partition %d", name, device, number)
		}
		slots[name] = agent.Slot{Device: disk, Offset: r.Offset, Size: r.Size, BootPart: number}
	}
	return board, slots, nil
}

// splitPartition takes /dev/mmcblk0p2 apart into /dev/mmcblk0 and 2, and /dev/sda2 into /dev/sda and 2.
func splitPartition(device string) (disk string, number int, err error) {
	disk = strings.TrimRight(device, "0123456789")
	number, err = strconv.Atoi(device[len(disk):])
	if err != nil || !strings.HasPrefix(disk, "/dev/") {
		return "", 0, fmt.Errorf("%q in the image's mender.conf is no partition of a disk", device)
	}
	if short := strings.TrimSuffix(disk, "p"); short != disk && strings.TrimRight(short, "0123456789") != short {
		disk = short
	}
	return disk, number, nil
}

// macFor makes a locally administered address of a name, so that demonstrations are the same every time.
func macFor(name string) string {
	sum := uint32(2166136261) // FNV-1a
	for _, b := range []byte(name) {
		sum = (sum ^ uint32(b)) * 16777619
	}
	return fmt.Sprintf("02:76:%02x:%02x:%02x:%02x", byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

// inside is a path of the device, seen from this machine.
func inside(dir, path string) string { return filepath.Join(dir, filepath.Join("/", path)) }

// link makes the device's path name a link to another of its paths.
func link(dir, name, target string) error {
	at := inside(dir, name)
	if _, err := os.Lstat(at); err == nil {
		return nil
	}
	if err := durable.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	to, err := filepath.Rel(filepath.Dir(at), inside(dir, target))
	if err != nil {
		return err
	}
	return os.Symlink(to, at)
}

// unpack copies the files of a file system. Links are left out: what the agent keeps on the data partition has none,
// and one from a strange image could lead anywhere on this machine.
func unpack(tree fs.FS, to string) error {
	return fs.WalkDir(tree, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := inside(to, path)
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			return durable.MkdirAll(at, 0o755)
		case !info.Mode().IsRegular():
			return nil
		case info.Size() > maxDataFile:
			return fmt.Errorf("%s has %d bytes; at most %d are expected there", path, info.Size(), maxDataFile)
		}
		content, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		return durable.WriteFile(at, content, info.Mode().Perm()|0o200)
	})
}
