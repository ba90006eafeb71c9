package pipeline

import (
	"strings"

	"github.com/twinkeel/twinkeel/imaging"
)

// testLayouts places areas as pipeline/build does, for which tests here would be a cycle of imports.
type testLayouts struct{}

func (testLayouts) Preset(name string, variables map[string]string) (*Layout, error) {
	made, info, err := imaging.Preset(name, variables)
	if err != nil {
		return nil, err
	}
	l := &Layout{
		Table: made.Table, Alignment: made.Alignment, DiskSize: made.DiskSize,
		StorageDevice: info.Device, Environment: (*EnvironmentPlace)(info.Environment), Notes: info.Notes,
	}
	for _, r := range made.Reserves {
		reserve := Reserve{Name: r.Name, Offset: r.Offset, Size: r.Size}
		for _, f := range info.Files {
			if f.Reserve == r.Name {
				reserve.File = f.File
			}
		}
		l.Reserves = append(l.Reserves, reserve)
	}
	for _, p := range made.Partitions {
		part := Partition{Name: p.Name, Offset: p.Offset, Size: p.Size, Filesystem: p.Filesystem, Bootable: p.Bootable, Slot: p.Slot}
		switch {
		case p.Slot != "":
			part.SlotGroup = strings.TrimSuffix(p.Name, "_"+p.Slot)
		case p.Name == "data":
			part.Mount = "/data"
		case p.Name == "boot" && info.Bootloader == "grub-bios":
			part.Mount = "/boot/grub"
		}
		l.Partitions = append(l.Partitions, part)
	}
	return l, nil
}

func (testLayouts) Place(l *Layout) error {
	if l.UBI != nil {
		return placeVolumes(l)
	}
	disk := imaging.Layout{Table: l.Table, SectorSize: l.SectorSize, Alignment: l.Alignment, DiskSize: l.DiskSize}
	for _, r := range l.Reserves {
		disk.Reserves = append(disk.Reserves, imaging.Reserve{Name: r.Name, Offset: r.Offset, Size: r.Size})
	}
	for _, p := range l.Partitions {
		disk.Partitions = append(disk.Partitions, imaging.Partition{Name: p.Name, Offset: p.Offset, Size: p.Size, Percent: p.Percent, Rest: p.Rest, Grow: p.Grow, InMBR: p.InMBR})
	}
	m, err := disk.Resolve()
	if err != nil {
		return err
	}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if area, ok := m.Find(p.Name); ok {
			p.Number, p.Offset, p.Size, p.Percent, p.Rest = area.Number, area.Offset, area.Size, 0, false
		}
	}
	return nil
}

func placeVolumes(l *Layout) error {
	u := imaging.UBI{PEB: l.UBI.EraseBlock, Page: l.UBI.Page, SubPage: l.UBI.SubPage, Blocks: l.UBI.Blocks}
	for _, p := range l.Partitions {
		u.Volumes = append(u.Volumes, imaging.UBIVolume{Name: p.Name, Size: p.Size, Autoresize: p.Grow, Filesystem: strings.TrimPrefix(p.Filesystem, "none")})
	}
	m, err := u.Map()
	if err != nil {
		return err
	}
	for i, r := range m.Regions {
		l.Partitions[i].Number, l.Partitions[i].Size = r.Number, r.Size
	}
	return nil
}
