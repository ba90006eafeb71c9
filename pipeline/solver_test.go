package pipeline

import (
	"github.com/twinkeel/twinkeel/imaging"
)

// testLayouts places areas as pipeline/build does, for which tests here would be a cycle of imports.
type testLayouts struct{}

func (testLayouts) Preset(string, map[string]string) (*Layout, error) {
	return &Layout{Table: "gpt", Partitions: []Partition{
		{Name: "rootfs_a", Size: 64 << 20, Filesystem: "ext4", Slot: "a", SlotGroup: "rootfs"},
		{Name: "rootfs_b", Size: 64 << 20, Filesystem: "ext4", Slot: "b", SlotGroup: "rootfs"},
	}}, nil
}

func (testLayouts) Place(l *Layout) error {
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
