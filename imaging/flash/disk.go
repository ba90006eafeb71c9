package flash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/twinkeel/twinkeel/imaging"
)

// System is where the kernel tells of its devices; [Host] is the real one.
type System struct {
	Sys, Proc string
	Udev      string // udev's database; may be missing
	// Number finds the number of a block device. It is not in the file system of a test.
	Number func(path string) (major, minor uint32, err error)
}

// Kinds of a [Disk].
const (
	KindDisk      = "disk"
	KindPartition = "partition"
	KindLoop      = "loop device"
	KindFile      = "file"
)

// Disk is a possible target and what is known of it. The names come from the device, which may be anyone's: they are free of
// what a terminal would act on.
type Disk struct {
	Path       string `json:"path"` // as it was named
	Node       string `json:"node"` // behind all links
	Kind       string `json:"kind"`
	Model      string `json:"model,omitempty"`
	Serial     string `json:"serial,omitempty"`
	Transport  string `json:"transport,omitempty"` // usb, mmc, nvme, ata, virtio
	Size       int64  `json:"size"`
	SectorSize int64  `json:"sector_size"`
	Removable  bool   `json:"removable"`

	dev     devNumber
	discard bool // it offers discarding
	zeroes  bool // it can zero ranges by itself
}

// Permit says which targets besides whole disks are meant.
type Permit struct {
	File      bool // regular files, also ones that do not exist yet
	Partition bool // partitions, and nothing else
}

// RefusedError says why a target is not written to.
type RefusedError struct {
	Target, Reason, Advice string
}

func (e *RefusedError) Error() string { return e.Target + ": refused: " + e.Reason }

// Hint says what to do about it.
func (e *RefusedError) Hint() string { return e.Advice }

// Inspect finds out what a target is and refuses those that must not be overwritten: disks that are in use, above all the
// one this machine runs from, parts of disks, and what is no disk at all.
func (s System) Inspect(target string, p Permit) (*Disk, error) {
	refuse := func(advice, format string, args ...any) (*Disk, error) {
		return nil, &RefusedError{target, fmt.Sprintf(format, args...), advice}
	}
	node, err := filepath.EvalSymlinks(target)
	if errors.Is(err, fs.ErrNotExist) && p.File {
		if node, err = newFile(target); err != nil {
			return refuse("", "%v", err)
		}
		return &Disk{Path: target, Node: node, Kind: KindFile, SectorSize: 512}, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return refuse("list the disks with lsblk; a file as a target needs --file", "it does not exist")
	}
	if err != nil {
		return nil, fileError(target, err)
	}
	if node, err = filepath.Abs(node); err != nil {
		return nil, fileError(target, err)
	}
	info, err := os.Stat(node)
	if err != nil {
		return nil, fileError(target, err)
	}
	major, minor, err := s.Number(node)
	switch {
	case err == nil:
		return s.inspectDevice(target, node, number(major, minor), p)
	case info.Mode().IsRegular() && p.File:
		return &Disk{Path: target, Node: node, Kind: KindFile, SectorSize: 512, Size: info.Size()}, nil
	case info.Mode().IsRegular():
		return refuse("name the disk, such as /dev/sdb; to write into a file add --file", "it is a file, not a disk")
	case info.Mode()&fs.ModeCharDevice != 0:
		return refuse("raw flash (mtd) is not written this way, but with ubiformat", "it is a character device, not a disk")
	}
	return refuse("name the disk, such as /dev/sdb", "it is neither a disk nor a file")
}

// newFile is the path behind all links of a file that does not exist yet.
func newFile(target string) (string, error) {
	if _, err := os.Lstat(target); err == nil {
		return "", errors.New("it is a link to nothing")
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(target))
	if err != nil {
		return "", fmt.Errorf("there is no directory %s", filepath.Dir(target))
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	if strings.HasPrefix(dir+"/", "/dev/") { // a device that has just gone, or a misspelt one: not a file in memory
		return "", errors.New("there is no such device")
	}
	return filepath.Join(dir, filepath.Base(target)), nil
}

func (s System) inspectDevice(target, node string, dev devNumber, p Permit) (*Disk, error) {
	refuse := func(advice, format string, args ...any) (*Disk, error) {
		return nil, &RefusedError{target, fmt.Sprintf(format, args...), advice}
	}
	dir, err := s.dir(dev)
	if err != nil {
		return refuse("", "the kernel does not tell what device it is (%s is missing)", filepath.Join(s.Sys, "dev/block", string(dev)))
	}
	name, whole := filepath.Base(dir), dir
	d := &Disk{Path: target, Node: node, Kind: KindDisk, dev: dev}
	isPartition := s.attribute(dir, "partition") != ""
	switch {
	case isPartition && !p.Partition:
		return refuse("name the whole disk: /dev/"+filepath.Base(filepath.Dir(dir))+"; to write into a partition add --partition", "it is a partition")
	case isPartition:
		d.Kind, whole = KindPartition, filepath.Dir(dir)
	case p.Partition:
		return refuse("leave --partition out to write to the whole disk", "it is no partition")
	case strings.HasPrefix(name, "mtdblock"):
		return refuse("raw flash needs ubiformat, which knows its bad blocks", "it is raw flash")
	case strings.HasPrefix(name, "dm-"), strings.HasPrefix(name, "md"):
		return refuse("name the disk itself", "it is made of other disks (%s)", strings.TrimSpace(name+" "+s.attribute(dir, "dm/name")))
	case strings.HasPrefix(name, "loop"):
		d.Kind = KindLoop
	}
	members := s.members(whole)
	if isPartition { // its siblings may be in use
		members = map[devNumber]string{dev: dir}
	}
	uses, err := s.uses(members)
	if err != nil {
		return nil, err
	}
	if err := refuseUsed(target, uses); err != nil {
		return nil, err
	}
	if s.attribute(dir, "ro") == "1" || s.attribute(whole, "ro") == "1" {
		return refuse("look for a switch on the card or its adapter", "it is write-protected")
	}
	s.describe(d, dir, whole)
	if d.Size == 0 {
		return refuse("put a card into the reader", "it has no medium")
	}
	return d, nil
}

// refuseUsed words what a disk is in use for, the worst first.
func refuseUsed(target string, uses []use) error {
	if len(uses) == 0 {
		return nil
	}
	slices.SortStableFunc(uses, func(a, b use) int {
		if a.system != b.system {
			if a.system {
				return -1
			}
			return 1
		}
		return strings.Compare(a.name+a.what, b.name+b.what)
	})
	var list []string
	for _, u := range uses[:min(len(uses), 5)] {
		list = append(list, clean(u.name+" "+u.what))
	}
	e := &RefusedError{Target: target, Reason: "it is in use: " + strings.Join(list, "; ")}
	if uses[0].system {
		e.Reason = "this machine runs from it: " + strings.Join(list, "; ")
		e.Advice = "name another disk; lsblk lists them"
		return e
	}
	e.Advice = "make sure that it is the right disk, then unmount or stop what uses it (umount, swapoff, vgchange -an, cryptsetup close, mdadm --stop)"
	return e
}

// members are a whole disk and its partitions.
func (s System) members(whole string) map[devNumber]string {
	members := map[devNumber]string{devNumber(s.attribute(whole, "dev")): whole}
	entries, err := os.ReadDir(whole)
	if err != nil {
		return members
	}
	for _, e := range entries {
		dir := filepath.Join(whole, e.Name())
		if e.IsDir() && s.attribute(dir, "partition") != "" {
			members[devNumber(s.attribute(dir, "dev"))] = dir
		}
	}
	return members
}

// describe fills in what sysfs and udev know.
func (s System) describe(d *Disk, dir, whole string) {
	d.Size = s.count(dir, "size") * 512 // always in these units (Documentation/ABI/stable/sysfs-block)
	if d.SectorSize = s.count(whole, "queue/logical_block_size"); d.SectorSize < 512 || d.SectorSize > 64*kib {
		d.SectorSize = 512
	}
	d.discard = s.count(whole, "queue/discard_max_bytes") > 0
	d.zeroes = s.count(whole, "queue/write_zeroes_max_bytes") > 0
	d.Transport = transport(whole)
	// eMMC that is soldered in does not say it is removable, SD cards in built-in readers neither; the type tells.
	d.Removable = s.attribute(whole, "removable") == "1" || s.attribute(whole, "device/type") == "SD" || d.Transport == "usb"
	udev := s.udev(devNumber(s.attribute(whole, "dev")))
	model := strings.TrimSpace(s.attribute(whole, "device/vendor") + " " + s.attribute(whole, "device/model"))
	if strings.HasPrefix(model, "0x") {
		model = "" // virtio has a number for a vendor
	}
	d.Model = clean(first(model, s.attribute(whole, "device/name"), udev["ID_MODEL"], s.attribute(whole, "loop/backing_file")))
	d.Serial = clean(first(udev["ID_SERIAL_SHORT"], s.attribute(whole, "serial"), s.attribute(whole, "device/serial"),
		s.usbAttribute(whole, "serial"), udev["ID_SCSI_SERIAL"]))
}

func first(texts ...string) string {
	for _, t := range texts {
		if t = strings.TrimSpace(t); t != "" {
			return t
		}
	}
	return ""
}

// transport reads the way to the device off its place in sysfs.
func transport(dir string) string {
	for _, t := range []struct{ part, name string }{
		{"/usb", "usb"}, {"/mmc_host/", "mmc"}, {"/nvme/", "nvme"}, {"/ata", "ata"}, {"/virtio", "virtio"}, {"/virtual/", "virtual"},
	} {
		if strings.Contains(dir, t.part) {
			return t.name
		}
	}
	return ""
}

// usbAttribute looks for an attribute of the USB device that a disk hangs on: the directory above with an idVendor.
func (s System) usbAttribute(dir, name string) string {
	for range 20 {
		if s.attribute(dir, "idVendor") != "" {
			return s.attribute(dir, name)
		}
		dir = filepath.Dir(dir)
	}
	return ""
}

// dir is the directory of a device in sysfs, behind all links.
func (s System) dir(dev devNumber) (string, error) {
	return filepath.EvalSymlinks(filepath.Join(s.Sys, "dev/block", string(dev)))
}

const maxAttribute = 64 << 10

// attribute is the content of a file in sysfs without its end of line; empty when there is none.
func (s System) attribute(dir, name string) string {
	text, err := readSmall(filepath.Join(dir, name), maxAttribute)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func (s System) count(dir, name string) int64 {
	n, err := strconv.ParseInt(s.attribute(dir, name), 10, 64)
	if err != nil || n < 0 || n > maxImage {
		return 0
	}
	return n
}

// udev reads udev's database of a device: lines such as "E:ID_MODEL=...".
func (s System) udev(dev devNumber) map[string]string {
	text, err := readSmall(filepath.Join(s.Udev, "data", "b"+string(dev)), 1<<20)
	if err != nil {
		return nil
	}
	return parseUdev(string(text))
}

func parseUdev(text string) map[string]string {
	out := make(map[string]string)
	for line := range strings.Lines(text) {
		if entry, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "E:"); ok {
			if name, value, ok := strings.Cut(entry, "="); ok {
				out[name] = value
			}
		}
	}
	return out
}

// numberOf is the number of the block device with that path.
func (s System) numberOf(path string) (devNumber, bool) {
	if !strings.HasPrefix(path, "/") {
		return "", false
	}
	major, minor, err := s.Number(path)
	if err != nil {
		return "", false
	}
	return number(major, minor), true
}

// clean makes text of a device fit to be shown.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.Join(strings.Fields(s), " "))
	if runes := []rune(s); len(runes) > 200 {
		s = string(runes[:200])
	}
	return s
}

// CheckImage refuses an image that does not go with the disk: too large, or with a table in sectors of another size.
func (d *Disk) CheckImage(img *Image) error {
	if d.Kind != KindFile && img.Size > d.Size {
		return &TooSmallError{Target: d.Path, Need: img.Size, Size: d.Size}
	}
	if d.Kind == KindFile { // which has no sectors
		return nil
	}
	if m := img.Map; m != nil && m.SectorSize != d.SectorSize {
		return &RefusedError{
			d.Path, fmt.Sprintf("the image is for disks with sectors of %d bytes, this one has %d", m.SectorSize, d.SectorSize),
			"make the image for this kind of disk: sector_size in its layout",
		}
	}
	if reason, advice := img.Filesystem.Unfit(d.SectorSize); reason != "" {
		return &RefusedError{d.Path, reason, advice}
	}
	return nil
}

// CurrentMap is the partition table that is on a disk now; nil when there is none that can be read.
func (d *Disk) CurrentMap() *imaging.Map {
	f, err := os.Open(d.Node)
	if err != nil {
		return nil
	}
	defer f.Close()
	m, err := imaging.ReadMap(f, d.Size)
	if err != nil {
		return nil
	}
	return m
}
