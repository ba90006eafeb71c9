package pipeline

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// grubEFI is the boot loader type of GRUB on UEFI.
const grubEFI = "grub-efi"

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

// findEFIPartition finds the partition that GRUB and its environment are on. The running system writes the environment
// there, so it has to be mounted.
func (e *evaluator) findEFIPartition(d *DeviceType, l *Layout, n *nestedBody) {
	d.Bootloader.Loader = n.body.text("loader")
	if n.body.unset("loader") {
		d.Bootloader.Loader = efiLoaders[d.Architecture]
	}
	if !n.body.unset("partition") && !n.body.has("partition") {
		return
	}
	var names []string
	var found *Partition
	for i := range l.Partitions {
		p := &l.Partitions[i]
		names = append(names, p.Name)
		if p.Name == n.body.text("partition") || n.body.unset("partition") && p.Bootable && p.Filesystem == "vfat" && found == nil {
			found = p
		}
	}
	switch {
	case found == nil && n.body.has("partition"):
		e.report(fault("Unknown partition", fmt.Sprintf("%s has no partition %s.%s", l.Address, n.body.text("partition"), suggestion(n.body.text("partition"), names, "Known: ")), n.body.rangeOf("partition")))
	case found == nil:
		e.report(fault("No EFI system partition", fmt.Sprintf("GRUB and its environment are on a partition with filesystem = \"vfat\" and bootable = true, and %s has none.", l.Address), n.rng.Ptr()))
	case found.Filesystem != "vfat":
		e.report(fault("No EFI system partition", fmt.Sprintf("Firmware reads vfat only, and %s of %s has the file system %s.", found.Name, l.Address, found.Filesystem), n.body.rangeOf("partition")))
	case found.Mount == "":
		e.report(fault("Boot partition not mounted", fmt.Sprintf("The agent writes GRUB's environment to %s, so the partition needs a mount in %s, such as \"/boot/efi\".", found.Name, l.Address), n.rng.Ptr()))
	default:
		d.Bootloader.Partition = found.Name
	}
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
