package imaging

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// memory is a disk in memory.
type memory []byte

func (m memory) ReadAt(b []byte, off int64) (int, error)  { return bytes.NewReader(m).ReadAt(b, off) }
func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }

func smallDisk(t testing.TB, sector int64) (memory, *Map) {
	t.Helper()
	img := &Image{Layout: Layout{
		SectorSize: sector, Alignment: 4096, Partitions: []Partition{
			{Name: "boot", Size: 4096, Bootable: true}, {Name: "root_a", Size: 8192, Slot: "a"}, {Name: "root_b", Size: 8192, Slot: "b"},
		},
	}}
	m := mustMap(t, img)
	disk := make(memory, m.Size)
	if err := m.writeTable(disk); err != nil {
		t.Fatal(err)
	}
	return disk, m
}

func TestProtectiveMBR(t *testing.T) {
	disk, m := smallDisk(t, 512)
	want := []byte{0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0}
	want = binary.LittleEndian.AppendUint32(want, uint32(m.Size/512-1))
	if diff := cmp.Diff(want, []byte(disk[446:462])); diff != "" {
		t.Error(diff)
	}
	if !bytes.Equal(disk[:446], make([]byte, 446)) || !bytes.Equal(disk[462:510], make([]byte, 48)) || disk[510] != 0x55 || disk[511] != 0xaa {
		t.Error("the rest of the protective MBR is not as it should be")
	}
}

func TestReadMapOfDamagedTables(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		for name, c := range map[string]struct {
			damage func(disk memory, m *Map)
			want   string // Damaged, or "none" when nothing can be read
		}{
			"intact":               {func(memory, *Map) {}, ""},
			"no protective MBR":    {func(d memory, _ *Map) { clear(d[:sector]) }, ""},
			"primary header":       {func(d memory, _ *Map) { d[sector+60] ^= 1 }, "primary"},
			"primary entries":      {func(d memory, _ *Map) { d[2*sector+60] ^= 1 }, "primary"},
			"start overwritten":    {func(d memory, _ *Map) { clear(d[:3*sector]) }, "primary"},
			"backup header":        {func(d memory, _ *Map) { d[int64(len(d))-sector+60] ^= 1 }, "backup"},
			"backup entries":       {func(d memory, m *Map) { d[m.Regions[len(m.Regions)-1].Offset] ^= 1 }, "backup"},
			"both":                 {func(d memory, _ *Map) { d[sector] = 0; d[int64(len(d))-sector] = 0 }, "none"},
			"header moved":         {func(d memory, _ *Map) { reseal(d, sector, func(h []byte) { h[24] = 2 }) }, "primary"},
			"huge table":           {func(d memory, _ *Map) { reseal(d, sector, func(h []byte) { h[83] = 0x7f }) }, "primary"},
			"entries off the disk": {func(d memory, _ *Map) { reseal(d, sector, func(h []byte) { h[79] = 0x7f }) }, "primary"},
			"backup off the disk":  {func(d memory, _ *Map) { reseal(d, sector, func(h []byte) { h[39] = 0x7f }) }, "backup"},
			"partition off the disk": {func(d memory, _ *Map) {
				d[2*sector+45] = 1
				reseal(d, sector, func(h []byte) {
					binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(d[2*sector:2*sector+gptArraySize(gptEntries, sector)]))
				})
			}, "none"},
			"overlap": {func(d memory, _ *Map) {
				copy(d[2*sector+128+32:], d[2*sector+32:2*sector+48])
				reseal(d, sector, func(h []byte) {
					binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(d[2*sector:2*sector+gptArraySize(gptEntries, sector)]))
				})
			}, "none"},
		} {
			disk, want := smallDisk(t, sector)
			c.damage(disk, want)
			got, err := ReadMap(disk, int64(len(disk)))
			if c.want == "none" {
				if !errors.Is(err, ErrNoTable) {
					t.Errorf("%s: %v, want ErrNoTable", name, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s, %d-byte sectors: %v", name, sector, err)
				continue
			}
			want.Damaged = c.want
			if c.want == "backup" {
				want.Regions = want.Regions[:len(want.Regions)-1]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %d-byte sectors: %s", name, sector, diff)
			}
		}
	}
}

// reseal changes the primary header and makes its checksum right again.
func reseal(d memory, sector int64, change func(header []byte)) {
	h := d[sector : sector+92]
	change(h)
	clear(h[16:20])
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h))
}

func TestReadMapRefuses(t *testing.T) {
	for name, disk := range map[string]memory{"empty": {}, "zeros": make(memory, 1<<20), "text": memory(strings.Repeat("hello ", 10000))} {
		if _, err := ReadMap(disk, int64(len(disk))); !errors.Is(err, ErrNoTable) {
			t.Errorf("%s: %v, want ErrNoTable", name, err)
		}
	}
	// A claim of more bytes than there are.
	disk, _ := smallDisk(t, 512)
	if _, err := ReadMap(disk, 1<<40); err != nil {
		t.Errorf("an image copied to a larger disk: %v", err)
	}
}

func TestProbe(t *testing.T) {
	at := func(size, off int, magic string) memory {
		m := make(memory, size)
		copy(m[off:], magic)
		return m
	}
	ext := at(4096, 1080, "\x53\xef")
	binary.LittleEndian.PutUint32(ext[1028:], 3)
	copy(ext[1024+0x78:], "a\x1b[31mb")
	for name, c := range map[string]struct {
		disk memory
		want Filesystem
	}{
		"nothing":         {make(memory, 4096), Filesystem{}},
		"empty":           {memory{}, Filesystem{}},
		"ext4":            {ext, Filesystem{Kind: "ext4", Size: 3 * 1024, Block: 1024, Label: "a\ufffd[31mb"}},
		"squashfs":        {at(96, 0, "hsqs"), Filesystem{Kind: "squashfs"}},
		"erofs":           {at(4096, 1024, "\xe2\xe1\xf5\xe0"), Filesystem{Kind: "erofs"}},
		"swap":            {at(4096, 4086, "SWAPSPACE2"), Filesystem{Kind: "swap"}},
		"gzip":            {memory("\x1f\x8b\x08"), Filesystem{Compressed: "gzip"}},
		"xz":              {memory("\xfd7zXZ\x00"), Filesystem{Compressed: "xz"}},
		"zstd":            {memory("\x28\xb5\x2f\xfd"), Filesystem{Compressed: "zstd"}},
		"boot sector":     {at(4096, 510, "\x55\xaa"), Filesystem{}},
		"absurd ext4":     {at(4096, 1024, strings.Repeat("\xff", 56)+"\x53\xef"), Filesystem{Kind: "ext4"}},
		"ends too early":  {at(1081, 1080, "\x53"), Filesystem{}},
		"half a squashfs": {memory("hsq"), Filesystem{}},
	} {
		got, err := Probe(c.disk, int64(len(c.disk)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func FuzzReadMap(f *testing.F) {
	// The input is a list of changes to the tables, after which the checksums are made right again if fix is set: whole
	// disks are too large to fuzz, and the checksums would stop them all.
	f.Add(false, false, []byte{})
	f.Add(true, true, []byte{0x50, 1})
	f.Add(false, true, []byte{0x48, 3, 0x80, 7, 0xa0, 1, 0xb8, 0xff})
	disks := map[bool]memory{}
	disks[false], _ = smallDisk(f, 512)
	disks[true], _ = smallDisk(f, 4096)
	f.Fuzz(func(t *testing.T, large, fix bool, changes []byte) {
		disk, sector := bytes.Clone(disks[large]), int64(512)
		if large {
			sector = 4096
		}
		// One byte chooses the place: the header's first 128 bytes, then the first entry.
		for ; len(changes) >= 2; changes = changes[2:] {
			at := sector + int64(changes[0])
			if changes[0] >= 128 {
				at = 2*sector + int64(changes[0]) - 128
			}
			disk[at] = changes[1]
		}
		if fix {
			le := binary.LittleEndian
			reseal(disk, sector, func(h []byte) {
				array := int64(le.Uint32(h[80:])) * int64(le.Uint32(h[84:]))
				if start := int64(le.Uint32(h[72:])) * sector; start+array <= int64(len(disk)) {
					le.PutUint32(h[88:], crc32.ChecksumIEEE(disk[start:start+array]))
				}
			})
		}
		m, err := ReadMap(memory(disk), int64(len(disk)))
		if err != nil {
			if !errors.Is(err, ErrNoTable) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		for _, r := range m.Regions {
			if r.Offset < 0 || r.Size <= 0 || r.End() > int64(len(disk)) {
				t.Fatalf("%s of a disk with %d bytes", r.describe(), len(disk))
			}
		}
		m.Bar(80)
	})
}

func FuzzProbe(f *testing.F) {
	f.Add([]byte("hsqs"))
	f.Add(append(make([]byte, 1080), 0x53, 0xef))
	f.Add(append(make([]byte, 510), 0x55, 0xaa))
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := Probe(memory(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if found.Size < 0 || strings.ContainsAny(found.Label, "\x1b\n\r") {
			t.Fatalf("%+v", found)
		}
	})
}
