package build

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/pipeline"
)

// Layouts solves the layouts of pipelines with imaging; it is a [pipeline.LayoutSolver].
type Layouts struct{}

// Preset implements [pipeline.LayoutSolver].
func (Layouts) Preset(name string, variables map[string]string) (*pipeline.Layout, error) {
	made, info, err := imaging.Preset(name, variables)
	if err != nil {
		return nil, err
	}
	l := &pipeline.Layout{
		Table: made.Table, SectorSize: made.SectorSize, Alignment: made.Alignment, DiskSize: made.DiskSize, DiskID: made.DiskID,
		GPT:           pipeline.GPT{Entries: made.GPT.Entries, EntriesOffset: made.GPT.EntriesAt, NoBackup: made.GPT.NoBackup},
		StorageDevice: info.Device, Environment: (*pipeline.EnvironmentPlace)(info.Environment), Notes: info.Notes,
	}
	if info.Device != "" && partitionDevice(info.Device, 1) != info.DeviceBase+"1" {
		l.Notes = append(l.Notes, fmt.Sprintf("MENDER_STORAGE_DEVICE_BASE says that the first partition is %s1, but here it is %s", info.DeviceBase, partitionDevice(info.Device, 1)))
	}
	for _, r := range made.Reserves {
		reserve := pipeline.Reserve{Name: r.Name, Offset: r.Offset, Size: r.Size, Align: r.Align}
		for _, h := range r.Holes {
			reserve.Holes = append(reserve.Holes, pipeline.Span(h))
		}
		if i := slices.IndexFunc(info.Files, func(f imaging.PresetFile) bool { return f.Reserve == r.Name }); i >= 0 {
			reserve.File = info.Files[i].File
		}
		l.Reserves = append(l.Reserves, reserve)
	}
	for _, p := range made.Partitions {
		part := pipeline.Partition{
			Name: p.Name, Offset: p.Offset, Align: p.Align, Size: p.Size, Percent: p.Percent, Rest: p.Rest,
			Filesystem: cmp.Or(p.Filesystem, imaging.FilesystemNone), Label: p.Label, Type: p.Type, UUID: p.UUID, Attributes: p.Attributes,
			Mount: presetMount(p, info.Bootloader), Bootable: p.Bootable, Grow: p.Grow, Slot: p.Slot, MBRType: p.MBRType, Logical: p.Logical, InMBR: p.InMBR,
		}
		if p.Slot != "" {
			part.SlotGroup = strings.TrimSuffix(p.Name, "_"+p.Slot)
		}
		l.Partitions = append(l.Partitions, part)
	}
	return l, nil
}

// presetMount is where Mender's builds mount a partition of a preset (mender-setup-install.inc, fstab).
func presetMount(p imaging.Partition, bootloader string) string {
	switch p.Name {
	case "data":
		return dataMount
	case "boot":
		return map[string]string{bootEnvTypeUBoot: "/uboot", bootloaderEFI: "/boot/efi", bootloaderBIOS: "/boot/grub"}[bootloader]
	}
	return ""
}

// Place implements [pipeline.LayoutSolver].
func (Layouts) Place(l *pipeline.Layout) error {
	m, err := layoutMap(l)
	if err != nil {
		return err
	}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		area, ok := m.Find(p.Name)
		if !ok {
			return fmt.Errorf("partition %q has no place", p.Name)
		}
		p.Number, p.Offset, p.Size, p.Percent, p.Rest = area.Number, area.Offset, area.Size, 0, false
		if l.UBI != nil {
			p.Offset = 0
		}
	}
	return nil
}

// layoutMap is where everything in a layout is, or which volumes there are.
func layoutMap(l *pipeline.Layout) (*imaging.Map, error) {
	if l.UBI != nil {
		return flash(l).Map()
	}
	return Layout(l).Resolve()
}

// flash turns a layout block of raw flash into imaging's, without content.
func flash(l *pipeline.Layout) *imaging.UBI {
	u := &imaging.UBI{
		PEB: l.UBI.EraseBlock, Page: l.UBI.Page, SubPage: l.UBI.SubPage, Blocks: l.UBI.Blocks, NOR: l.UBI.Page == 1,
		Compression: l.UBI.Compression, SpaceFixup: l.UBI.SpaceFixup,
	}
	for _, p := range l.Partitions {
		v := imaging.UBIVolume{Name: p.Name, Size: p.Size, Autoresize: p.Grow, Slot: p.Slot}
		if p.Filesystem != imaging.FilesystemNone {
			v.Filesystem = p.Filesystem
		}
		u.Volumes = append(u.Volumes, v)
	}
	return u
}

// Layout turns a layout block into imaging's.
func Layout(l *pipeline.Layout) *imaging.Layout {
	out := &imaging.Layout{
		Table: l.Table, SectorSize: l.SectorSize, Alignment: l.Alignment, DiskSize: l.DiskSize, DiskID: l.DiskID,
		GPT: imaging.GPTOptions{Entries: l.GPT.Entries, EntriesAt: l.GPT.EntriesOffset, NoBackup: l.GPT.NoBackup},
	}
	for _, r := range l.Reserves {
		reserve := imaging.Reserve{Name: r.Name, Offset: r.Offset, Size: r.Size, Align: r.Align}
		for _, h := range r.Holes {
			reserve.Holes = append(reserve.Holes, imaging.Span(h))
		}
		out.Reserves = append(out.Reserves, reserve)
	}
	for _, p := range l.Partitions {
		out.Partitions = append(out.Partitions, imaging.Partition{
			Name: p.Name, Offset: p.Offset, Align: p.Align, Size: p.Size, Percent: p.Percent, Rest: p.Rest,
			Filesystem: p.Filesystem, Label: p.Label, Type: p.Type, UUID: p.UUID, Attributes: p.Attributes,
			Bootable: p.Bootable, Grow: p.Grow, Slot: p.Slot, MBRType: p.MBRType, Logical: p.Logical, InMBR: p.InMBR,
		})
	}
	return out
}
