package build

import (
	"testing"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/pipeline"
)

// TestPresetLayouts: a preset becomes a layout that places its partitions where imaging's own does.
func TestPresetLayouts(t *testing.T) {
	t.Parallel()
	for _, name := range imaging.PresetNames() {
		variables := map[string]string{"MENDER_STORAGE_TOTAL_SIZE_MB": "2048", "MENDER_DATA_PART_SIZE_MB": "256", "MENDER_SWAP_PART_SIZE_MB": "64"}
		l, err := Layouts{}.Preset(name, variables)
		if err != nil {
			t.Fatal(name, err)
		}
		if err := (Layouts{}).Place(l); err != nil {
			t.Fatal(name, err)
		}
		want, _, err := imaging.Preset(name, variables)
		if err != nil {
			t.Fatal(err)
		}
		m, err := want.Resolve()
		if err != nil {
			t.Fatal(err)
		}
		slots, data := 0, false
		for _, p := range l.Partitions {
			area, ok := m.Find(p.Name)
			if !ok || area.Offset != p.Offset || area.Size != p.Size || area.Number != p.Number {
				t.Errorf("%s: %s is at %d with %d, number %d; want %+v", name, p.Name, p.Offset, p.Size, p.Number, area)
			}
			if p.SlotGroup == "rootfs" {
				slots++
			}
			data = data || p.Mount == "/data"
		}
		if slots != 2 || !data {
			t.Errorf("%s has %d slots, and data %v", name, slots, data)
		}
		again := Layout(l)
		if _, err := again.Resolve(); err != nil { // placed, it is still a layout
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (Layouts{}).Preset("sdimg", map[string]string{"MENDER_STORAGE_TOTAL_SIZE_MB": "64"}); err == nil {
		t.Error("a disk without room for slots is taken")
	}
	if err := (Layouts{}).Place(&pipeline.Layout{}); err == nil {
		t.Error("a layout without partitions is placed")
	}
}
