package flash

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// devNumber names a block device in the kernel: "8:1".
type devNumber string

func number(major, minor uint32) devNumber { return devNumber(fmt.Sprintf("%d:%d", major, minor)) }

// mount is a line of /proc/self/mountinfo (proc(5)).
type mount struct {
	dev    devNumber
	point  string
	source string
}

const maxProcFile = 16 << 20

// parseMounts reads mountinfo: ID, parent, MAJOR:MINOR, root, mount point, options, optional fields up to "-", type, source,
// options. Lines of another form are errors: a mount that is not understood must not be taken for none.
func parseMounts(text string) ([]mount, error) {
	var mounts []mount
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		dash := slices.Index(fields, "-")
		if dash < 6 || len(fields) < dash+2 {
			return nil, fmt.Errorf("a line of another form than mountinfo's: %q", strings.TrimSpace(line))
		}
		m := mount{dev: devNumber(fields[2]), point: unescape(fields[4])}
		if len(fields) > dash+2 {
			m.source = unescape(fields[dash+2])
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// parseSwaps reads /proc/swaps: a line of titles, then the file or device, its type and more.
func parseSwaps(text string) (names []string) {
	first := true
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if !first && len(fields) > 0 {
			names = append(names, unescape(fields[0]))
		}
		first = false
	}
	return names
}

// unescape undoes the octal escapes of blanks, tabs, newlines and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// use is something that a disk is in use for.
type use struct {
	name   string // of the disk or partition: "sdb1"
	what   string // "is mounted on /media/x"
	system bool   // this machine needs it to run
}

// systemPoints are the mount points without which a machine does not start or nobody can work on it.
var systemPoints = []string{"/", "/boot", "/boot/efi", "/boot/firmware", "/efi", "/home", "/usr", "/var", "/nix"}

// uses are all that a whole disk and its partitions are in use for. members are the directories of both in sysfs by number.
func (s System) uses(members map[devNumber]string) ([]use, error) {
	var uses []use
	mounts, swaps, err := s.mountsAndSwaps()
	if err != nil {
		return nil, err
	}
	add := func(dev devNumber, what string, system bool) {
		for _, base := range s.bases(dev) {
			if dir, ok := members[base]; ok {
				if base != dev {
					what = "holds " + s.nameOf(dev) + ", which " + what
				}
				uses = append(uses, use{filepath.Base(dir), what, system})
			}
		}
	}
	for _, m := range mounts {
		dev := m.dev
		if strings.HasPrefix(string(dev), "0:") { // btrfs and others that span disks: only the source tells one of them
			if source, ok := s.numberOf(m.source); ok {
				dev = source
			}
		}
		add(dev, "is mounted on "+m.point, slices.Contains(systemPoints, path.Clean(m.point)))
	}
	for _, name := range swaps {
		if dev, ok := s.numberOf(name); ok {
			add(dev, "is swap space", true)
		}
	}
	for _, dir := range members {
		entries, err := os.ReadDir(filepath.Join(dir, "holders"))
		if err != nil {
			continue // kernels without
		}
		for _, e := range entries {
			holder := e.Name()
			if name := s.attribute(filepath.Join(dir, "holders", holder), "dm/name"); name != "" {
				holder += " (" + name + ")"
			}
			uses = append(uses, use{filepath.Base(dir), "is part of " + holder, false})
		}
	}
	return uses, nil
}

func (s System) mountsAndSwaps() ([]mount, []string, error) {
	text, err := readSmall(filepath.Join(s.Proc, "self/mountinfo"), maxProcFile)
	if err != nil {
		return nil, nil, fmt.Errorf("finding out what is mounted: %w", err)
	}
	mounts, err := parseMounts(string(text))
	if err != nil {
		return nil, nil, fmt.Errorf("finding out what is mounted: %w", err)
	}
	swaps, err := readSmall(filepath.Join(s.Proc, "swaps"), maxProcFile)
	if err != nil && !os.IsNotExist(err) && !strings.Contains(err.Error(), "does not exist") {
		return nil, nil, fmt.Errorf("finding out what is swap space: %w", err)
	}
	return mounts, parseSwaps(string(swaps)), nil
}

// bases are a device and all devices it is made of: of LVM, LUKS and md the disks below. Depth and number are bounded, for
// sysfs is a tree here and nothing else.
func (s System) bases(dev devNumber) []devNumber {
	found := []devNumber{dev}
	for i := 0; i < len(found) && len(found) < 1000; i++ {
		dir, err := s.dir(found[i])
		if err != nil {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(dir, "slaves"))
		if err != nil {
			continue
		}
		for _, e := range entries {
			below := devNumber(s.attribute(filepath.Join(dir, "slaves", e.Name()), "dev"))
			if below != "" && !slices.Contains(found, below) {
				found = append(found, below)
			}
		}
	}
	return found
}

func (s System) nameOf(dev devNumber) string {
	dir, err := s.dir(dev)
	if err != nil {
		return string(dev)
	}
	return filepath.Base(dir)
}
