package imaging

import (
	"errors"
	"fmt"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// drawer makes choices from bytes, and zeros when they end.
type drawer struct{ data []byte }

func (d *drawer) n(most int) int {
	if len(d.data) == 0 {
		return 0
	}
	b := int(d.data[0])
	d.data = d.data[1:]
	return b % (most + 1)
}

func pick[T any](d *drawer, from ...T) T { return from[d.n(len(from)-1)] }

// layout is any layout that is small enough to be written into memory; most of its choices are sound.
func (d *drawer) layout() Layout {
	l := Layout{
		Table: pick(d, TableGPT, TableMBR, TableHybrid), SectorSize: pick[int64](d, 512, 4096), Alignment: pick[int64](d, 4096, 512, 8192, 64*kib),
		DiskSize: pick[int64](d, 0, mib, 256*kib),
	}
	if l.Table != TableMBR {
		l.GPT = GPTOptions{Entries: pick(d, 0, 4, 56, 128, 200), EntriesAt: pick[int64](d, 0, 64*kib, 8*kib), NoBackup: d.n(3) == 3}
	}
	for i := range d.n(3) {
		r := Reserve{Name: fmt.Sprint("r", i), Offset: int64(d.n(255)) * 4096, Size: int64(d.n(15)) * 4096}
		if d.n(3) == 3 {
			r.Offset, r.Size = 0, 440
		}
		if d.n(3) == 3 {
			r.Holes = []Span{{r.Offset + int64(d.n(7))*512, int64(d.n(7)) * 512}}
		}
		l.Reserves = append(l.Reserves, r)
	}
	for i := range 1 + d.n(8) {
		p := Partition{Name: fmt.Sprint("p", i), Size: int64(1+d.n(15)) * 4096}
		switch d.n(7) {
		case 1:
			p.Offset = int64(d.n(255)) * 4096
		case 2:
			p.Size, p.Percent = 0, float64(d.n(100))
		case 3:
			p.Rest = true
		case 4:
			p.Align = pick[int64](d, 512, 4096, 16*kib)
		}
		p.InMBR = l.Table == TableHybrid && d.n(1) == 1
		p.Logical = l.Table == TableMBR && d.n(5) == 5
		p.Bootable = d.n(7) == 7
		l.Partitions = append(l.Partitions, p)
	}
	l.Partitions[len(l.Partitions)-1].Grow = d.n(5) == 5
	return l
}

// FuzzLayout: a layout is refused with a reason, or what is written for it stays inside the regions of its tables and
// reads back as it was meant.
func FuzzLayout(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 0, 1, 1, 2, 20, 3, 0, 0, 60, 1, 0, 0, 7})
	f.Add([]byte{2, 1, 0, 1, 2, 1, 0, 0, 4, 1, 0, 1, 2, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		l := (&drawer{data}).layout()
		m, err := (&Image{Layout: l, Seed: "fuzz"}).Map()
		if err != nil {
			var refused *LayoutError
			if !errors.As(err, &refused) || refused.Reason == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		if m.Size > 64*mib {
			t.Fatalf("a disk of %d bytes", m.Size)
		}
		disk := make(memory, m.Size)
		for _, b := range m.tableBlocks() {
			if !inTables(m, b) {
				t.Fatalf("%d bytes at %d are outside the tables of %v", len(b.data), b.offset, places(m))
			}
			copy(disk[b.offset:], b.data)
		}
		got, err := ReadMap(disk, m.Size)
		if err != nil {
			t.Fatalf("%v: %v", places(m), err)
		}
		want := readable(m)
		if want.Table == TableMBR && got.SectorSize != want.SectorSize {
			return // without logical partitions and file systems nothing tells
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Fatalf("%v: %s", places(m), diff)
		}
	})
}

func inTables(m *Map, b block) bool {
	for _, r := range m.Regions {
		if (r.Kind == KindTable || r.Kind == KindBackupTable) && b.offset >= r.Offset && b.offset+int64(len(b.data)) <= r.End() {
			return true
		}
	}
	return false
}
