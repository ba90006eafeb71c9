package build

import (
	"fmt"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/pipeline"
)

// Layouts solves the layouts of pipelines with imaging; it is a [pipeline.LayoutSolver].
type Layouts struct{}

// Preset implements [pipeline.LayoutSolver].
func (Layouts) Preset(name string, variables map[string]string) (*pipeline.Layout, error) {
	return nil, fmt.Errorf("the preset %s is not known", name)
}

// Place implements [pipeline.LayoutSolver].
func (Layouts) Place(l *pipeline.Layout) error {
	m, err := Layout(l).Resolve()
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
	}
	return nil
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
