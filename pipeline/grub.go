package pipeline

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// The boot loader types of GRUB.
const (
	grubEFI  = "grub-efi"
	grubBIOS = "grub-bios"
)

// efiLoaders are the names that firmware looks for on a disk that it has no entry of, by architecture (UEFI 2.10, 3.5.1.1).
var efiLoaders = map[string]string{
	"amd64": "EFI/BOOT/BOOTX64.EFI", "arm64": "EFI/BOOT/BOOTAA64.EFI", "arm": "EFI/BOOT/BOOTARM.EFI",
	"386": "EFI/BOOT/BOOTIA32.EFI", "riscv64": "EFI/BOOT/BOOTRISCV64.EFI",
}

func checkLoader(v cty.Value) string {
	if reason := checkInside(v.AsString()); reason != "" {
		return "is no path of a file on the partition"
	}
	return ""
}

// findEFIPartition finds the partition that GRUB and its environment are on.
func (e *evaluator) findEFIPartition(d *DeviceType, l *Layout, n *nestedBody) {
	d.Bootloader.Loader = n.body.text("loader")
	if n.body.unset("loader") {
		d.Bootloader.Loader = efiLoaders[d.Architecture]
	}
	found := e.bootPartition(l, n, func(p *Partition) bool { return p.Bootable && p.Filesystem == "vfat" })
	switch {
	case found == nil && n.body.unset("partition"):
		e.report(fault("No EFI system partition", fmt.Sprintf("GRUB and its environment are on a partition with filesystem = \"vfat\" and bootable = true, and %s has none.", l.Address), n.rng.Ptr()))
	case found == nil:
	case found.Filesystem != "vfat":
		e.report(fault("No EFI system partition", fmt.Sprintf("Firmware reads vfat only, and %s of %s has the file system %s.", found.Name, l.Address, found.Filesystem), n.body.rangeOf("partition")))
	default:
		e.takeBootPartition(d, l, n, found, "/boot/efi")
	}
}

// findBIOSPartition finds the partition of /boot/grub. Which file systems GRUB reads its modules decide; those that are made
// here it all reads.
func (e *evaluator) findBIOSPartition(d *DeviceType, l *Layout, n *nestedBody) {
	const mount = "/boot/grub"
	found := e.bootPartition(l, n, func(p *Partition) bool { return p.Mount == mount })
	switch {
	case found == nil && n.body.unset("partition"):
		e.report(fault("No boot partition", fmt.Sprintf("GRUB's environment is on a partition with mount = %q, and %s has none.", mount, l.Address), n.rng.Ptr()))
	case found == nil:
	case found.Filesystem != "vfat" && found.Filesystem != "ext4" || found.Slot != "":
		e.report(fault("No boot partition", fmt.Sprintf("GRUB's environment is in files that stay when a slot is written, on a partition with a vfat or ext4, which %s of %s is not.", found.Name, l.Address), n.body.rangeOf("partition")))
	default:
		e.takeBootPartition(d, l, n, found, mount)
	}
}

// bootPartition is the partition that the bootloader names, or else the first one that is like one.
func (e *evaluator) bootPartition(l *Layout, n *nestedBody, like func(*Partition) bool) *Partition {
	named := n.body.text("partition")
	var names []string
	for i := range l.Partitions {
		p := &l.Partitions[i]
		names = append(names, p.Name)
		if p.Name == named || n.body.unset("partition") && like(p) {
			return p
		}
	}
	if n.body.has("partition") {
		e.report(fault("Unknown partition", fmt.Sprintf("%s has no partition %s.%s", l.Address, named, suggestion(named, names, "Known: ")), n.body.rangeOf("partition")))
	}
	return nil
}

// takeBootPartition wants the partition mounted: the running system writes the environment there.
func (e *evaluator) takeBootPartition(d *DeviceType, l *Layout, n *nestedBody, p *Partition, mount string) {
	if p.Mount == "" {
		e.report(fault("Boot partition not mounted", fmt.Sprintf("The agent writes GRUB's environment to %s, so the partition needs a mount in %s, such as %q.", p.Name, l.Address, mount), n.rng.Ptr()))
		return
	}
	d.Bootloader.Partition = p.Name
}

// checkLoaderFilled finds out whether the firmware will find the loader. What a prebuilt file system holds is its maker's
// business.
func (e *evaluator) checkLoaderFilled(inst *instance, im *Image) {
	boot := im.DeviceType.Bootloader
	if boot.Kind != grubEFI || boot.Partition == "" || boot.Loader == "" || inst.body.open {
		return
	}
	for _, n := range inst.body.all("fill") {
		if n.label != boot.Partition {
			continue
		}
		switch {
		case n.body.has("files"):
			if n.body.values["files"].IsWhollyKnown() && !hasFold(keys(n.body.textMap("files")), boot.Loader) {
				e.report(fault("Boot loader missing", fmt.Sprintf("The firmware looks for %s on %s, and this fill does not bring it.", boot.Loader, boot.Partition), n.body.rangeOf("files")))
			}
		case n.body.has("dir") && e.facts != nil:
			if !e.facts.holds(n.body.text("dir"), boot.Loader) {
				e.report(fault("Boot loader missing", fmt.Sprintf("The firmware looks for %s on %s, and %s has none.", boot.Loader, boot.Partition, n.body.text("dir")), n.body.rangeOf("dir")))
			}
		}
		return
	}
	e.report(fault("Boot loader missing", fmt.Sprintf("Nothing fills %s, where the firmware looks for %s.", boot.Partition, boot.Loader), inst.block.rng.Ptr()))
}

// holds tells whether a directory has a file, named without regard to case.
func (f *facts) holds(dir, file string) bool {
	for _, step := range strings.Split(path.Clean(file), "/") {
		entries, err := f.fs.ReadDir(f.abs(dir))
		if err != nil {
			return false
		}
		at := slices.IndexFunc(entries, func(e fs.DirEntry) bool { return strings.EqualFold(e.Name(), step) })
		if at < 0 {
			return false
		}
		dir = path.Join(dir, entries[at].Name())
	}
	_, err := f.regular(dir)
	return err == nil
}

// hasFold looks for a path as vfat does, without regard to case.
func hasFold(names []string, want string) bool {
	for _, name := range names {
		if strings.EqualFold(path.Clean(name), want) {
			return true
		}
	}
	return false
}
