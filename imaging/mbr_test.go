package imaging

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// smallMBR is a disk with two primary and four logical partitions, one sector each, and its map.
func smallMBR(t testing.TB) (memory, *Map) {
	t.Helper()
	l := Layout{Table: TableMBR, Alignment: 512, DiskID: "1234abcd"}
	for i := range 6 {
		l.Partitions = append(l.Partitions, Partition{Name: string(rune('a' + i)), Size: 512, Logical: i > 1})
	}
	m := mustMap(t, &Image{Layout: l})
	disk := make(memory, m.Size)
	if err := m.writeTable(disk); err != nil {
		t.Fatal(err)
	}
	return disk, m
}

// The MBR and the first line of the first record are what sfdisk 2.38 writes for the same partitions; the links differ, since
// it leaves one sector for a boot record instead of two.
func TestMBRBytes(t *testing.T) {
	disk, _ := smallMBR(t)
	const (
		head = "cdab3412" + "0000" +
			"00" + "000200" + "83" + "000200" + "01000000" + "01000000" +
			"00" + "000300" + "83" + "000300" + "02000000" + "01000000" +
			"00" + "000400" + "0f" + "000f00" + "03000000" + "0c000000"
		first = "00" + "000600" + "83" + "000600" + "02000000" + "01000000" +
			"00" + "000700" + "05" + "000900" + "03000000" + "03000000"
		last = "00" + "000f00" + "83" + "000f00" + "02000000" + "01000000"
	)
	for at, want := range map[int64]string{
		440: head, 510: "55aa", 3*512 + 446: first, 3*512 + 510: "55aa", 12*512 + 446: last, 12*512 + 478: strings.Repeat("00", 32) + "55aa",
	} {
		if got := hex.EncodeToString(disk[at : at+int64(len(want)/2)]); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
	}
}

func TestCHS(t *testing.T) {
	for lba, want := range map[int64]string{
		0: "000100", 62: "003f00", 63: "010100", 2048: "202100", 16065: "000101", 16065 * 256: "004100",
		16065*1024 - 1: "feffff", 16065 * 1024: "feffff", 1 << 31: "feffff",
	} {
		var b [3]byte
		putCHS(b[:], lba)
		if got := hex.EncodeToString(b[:]); got != want {
			t.Errorf("sector %d: %s, want %s", lba, got, want)
		}
	}
}

func TestReadDamagedMBR(t *testing.T) {
	le := binary.LittleEndian
	// Places of the entries: of the MBR, and of the boot records, which are in sectors 3, 6, 9 and 12.
	entry := func(sector, slot int) int { return sector*512 + 446 + slot*16 }
	for name, c := range map[string]struct {
		damage func(d memory)
		want   string // Damaged, "" or a part of the refusal
		parts  int
	}{
		"intact":                    {func(memory) {}, "", 6},
		"no magic":                  {func(d memory) { d[511] = 0 }, "no valid partition table", 0},
		"odd status":                {func(d memory) { d[446] = 1 }, "no valid partition table", 0},
		"first record lost":         {func(d memory) { clear(d[3*512 : 4*512]) }, "extended", 2},
		"third record lost":         {func(d memory) { clear(d[9*512 : 10*512]) }, "extended", 4},
		"chain ends early":          {func(d memory) { clear(d[entry(6, 1):entry(6, 2)]) }, "", 4},
		"logical removed":           {func(d memory) { clear(d[entry(6, 0):entry(6, 1)]) }, "", 5},
		"chain to itself":           {func(d memory) { le.PutUint32(d[entry(6, 1)+8:], 3) }, "lead back", 0},
		"chain to the first":        {func(d memory) { le.PutUint32(d[entry(9, 1)+8:], 0) }, "lead back", 0},
		"chain off the disk":        {func(d memory) { le.PutUint32(d[entry(6, 1)+8:], 1<<31) }, "of a disk with", 0},
		"chain out of its place":    {func(d memory) { le.PutUint32(d[entry(0, 2)+12:], 8) }, "is outside the extended partition", 0},
		"partition off the disk":    {func(d memory) { le.PutUint32(d[entry(0, 1)+12:], 1<<32-1) }, "of a disk with", 0},
		"partition over the table":  {func(d memory) { le.PutUint32(d[entry(0, 1)+8:], 0) }, "of a disk with", 0},
		"primary over primary":      {func(d memory) { le.PutUint32(d[entry(0, 1)+8:], 1) }, "overlaps", 0},
		"primary over extended":     {func(d memory) { le.PutUint32(d[entry(0, 1)+12:], 5) }, "the extended partition", 0},
		"logical over boot record":  {func(d memory) { le.PutUint32(d[entry(3, 0)+12:], 2) }, "overlaps", 0},
		"two extended":              {func(d memory) { d[entry(0, 1)+4] = 5 }, "two extended", 0},
		"protects nothing":          {func(d memory) { d[entry(0, 0)+4] = 0xee }, "no GPT", 0},
		"nothing in it":             {func(d memory) { clear(d[446:510]) }, "no valid partition table", 0},
		"the boot sector of a vfat": {func(d memory) { copy(d[11:], "\x00\x02\x01"); d[16] = 2; copy(d[54:], "FAT16") }, "no valid partition table", 0},
		"the boot sector of a ntfs": {func(d memory) { copy(d[3:], "NTFS    ") }, "no valid partition table", 0},
	} {
		disk, _ := smallMBR(t)
		c.damage(disk)
		m, err := ReadMap(disk, int64(len(disk)))
		if c.parts == 0 {
			if !errors.Is(err, ErrNoTable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		n := 0
		for _, r := range m.Regions {
			if r.Kind == KindPartition {
				n++
			}
		}
		if shown := strings.Contains(m.Bar(80), "\ndamaged: the"); shown != (c.want != "") {
			t.Errorf("%s: the damage is shown: %v", name, shown)
		}
		if n != c.parts || m.Damaged != c.want {
			t.Errorf("%s: %d partitions, damaged %q; want %d and %q", name, n, m.Damaged, c.parts, c.want)
		}
	}
}

// endless is a disk on which every sector is a boot record that leads to the next one.
type endless struct{ head memory }

func (e endless) ReadAt(b []byte, off int64) (int, error) {
	if off == 0 {
		return copy(b, e.head), nil
	}
	var s mbrSector
	s.put(1, mbrTypeExtendedCHS, false, off/512, 1)
	binary.LittleEndian.PutUint32(s[mbrEntriesAt+24:], uint32(off/512-1+1))
	return copy(b, s[:]), nil
}

func TestReadEndlessChain(t *testing.T) {
	var head mbrSector
	head.put(0, mbrTypeExtended, false, 1, 1<<31)
	disk := endless{append(head[:], make([]byte, 4096)...)}
	if _, err := ReadMap(disk, 1<<41); !errors.Is(err, ErrNoTable) || !strings.Contains(err.Error(), "more than 100 logical") {
		t.Errorf("%v", err)
	}
}

// An MBR that does not protect the GPT behind it is the table, as for Linux; one without partitions is not.
func TestReadMapPrefersWhatLinuxReads(t *testing.T) {
	disk, want := smallDisk(t, 512)
	var s mbrSector
	s.put(0, mbrTypeLinux, false, 40, 8)
	copy(disk, s[:])
	m, err := ReadMap(disk, int64(len(disk)))
	if err != nil || m.Table != TableMBR {
		t.Errorf("%v, %v; want the MBR", m, err)
	}
	clear(disk[446:510])
	if m, err = ReadMap(disk, int64(len(disk))); err != nil || cmp.Diff(want, m) != "" {
		t.Errorf("%v, %s; want the GPT", err, cmp.Diff(want, m))
	}
}

// A hybrid whose two tables disagree is what some boot and others do not.
func TestReadHybrid(t *testing.T) {
	img := &Image{Seed: "h", Layout: Layout{Table: TableHybrid, Alignment: 4096, Partitions: []Partition{
		{Name: "fw", Size: 4096, InMBR: true, MBRType: "0c", Bootable: true}, {Name: "root", Size: 4096},
	}}}
	want := mustMap(t, img)
	disk := make(memory, want.Size)
	if err := want.writeTable(disk); err != nil {
		t.Fatal(err)
	}
	got, err := ReadMap(disk, want.Size)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(readable(want), got); diff != "" {
		t.Error(diff)
	}
	binary.LittleEndian.PutUint32(disk[446+12:], 1)
	if got, err = ReadMap(disk, want.Size); err != nil || got.Damaged != "mbr" {
		t.Errorf("%v, %v; want damaged", got, err)
	}
	// Without its header the GPT is read from the end, as without a hybrid.
	clear(disk[512:1024])
	if got, err = ReadMap(disk, want.Size); err != nil || got.Damaged != "primary" || got.Table != TableHybrid {
		t.Errorf("%v, %v; want the backup", got, err)
	}
}

// TestHoles puts the table and an environment into holes of one large boot loader.
func TestHoles(t *testing.T) {
	l := Layout{
		Reserves: []Reserve{
			{Name: "loader", Size: 2 * mib, Holes: []Span{{mib, 16 * kib}, {440, 17*kib - 440}}},
			{Name: "env", Offset: mib, Size: 16 * kib},
		},
		Partitions: []Partition{{Name: "root", Size: mib}},
	}
	m, err := l.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{
		"reserve loader: 0 to 2097152", "table gpt: 440 to 17408", "reserve env: 1048576 to 1064960",
		"partition root: 2097152 to 3145728", "backup-table gpt: 4177408 to 4194304",
	}, places(m)); diff != "" {
		t.Error(diff)
	}
	loader, _ := m.Find("loader")
	if diff := cmp.Diff([]Span{{0, 440}, {17 * kib, mib - 17*kib}, {mib + 16*kib, mib - 16*kib}}, loader.Pieces()); diff != "" {
		t.Error(diff)
	}
	// One byte less of a hole, and the environment is refused.
	l.Reserves[0].Holes[0].Size--
	if _, err := l.Resolve(); err == nil || !strings.Contains(err.Error(), `"env"`) {
		t.Errorf("%v", err)
	}
}

func TestShares(t *testing.T) {
	for name, c := range map[string]struct {
		layout Layout
		want   []string
	}{
		"slots share the rest": {
			Layout{DiskSize: 100 * mib, Alignment: 4 * mib, Partitions: []Partition{
				{Name: "boot", Size: 16 * mib}, {Name: "a", Rest: true, Slot: "a"}, {Name: "b", Rest: true, Slot: "b"}, {Name: "data", Size: 8 * mib},
			}},
			// 100 MiB less 4 for the table, 16, 8 and the last 4, which the backup is in: 68, of which 64 divide by two.
			[]string{"boot 4+16", "a 20+32", "b 52+32", "data 84+8"},
		},
		"rest in front of a fixed place": {
			Layout{DiskSize: 64 * mib, Partitions: []Partition{{Name: "a", Rest: true}, {Name: "b", Offset: 32 * mib, Size: 4 * mib}}},
			[]string{"a 1+31", "b 32+4"},
		},
		"percentages": {
			Layout{DiskSize: 1000 * mib, Partitions: []Partition{{Name: "a", Percent: 33.3333}, {Name: "b", Percent: 12.5}, {Name: "c", Rest: true}}},
			[]string{"a 1+333", "b 334+125", "c 459+540"},
		},
		"of an MBR": {
			Layout{Table: TableMBR, DiskSize: 64 * mib, Partitions: []Partition{{Name: "a", Rest: true}}},
			[]string{"a 1+63"},
		},
		"logical": {
			Layout{Table: TableMBR, DiskSize: 64 * mib, Partitions: []Partition{
				{Name: "a", Size: mib}, {Name: "b", Rest: true, Logical: true}, {Name: "c", Rest: true, Logical: true},
			}},
			[]string{"a 1+1", "b 3+30", "c 34+30"},
		},
		"grown": {
			Layout{DiskSize: 64 * mib, Partitions: []Partition{{Name: "a", Size: mib}, {Name: "b", Size: mib, Grow: true}}},
			[]string{"a 1+1", "b 2+61"},
		},
		"grown up to a partition": {
			Layout{DiskSize: 64 * mib, Partitions: []Partition{{Name: "a", Offset: 40 * mib, Size: mib}, {Name: "b", Offset: 2 * mib, Size: mib, Grow: true}}},
			[]string{"b 2+38", "a 40+1"},
		},
	} {
		m, err := c.layout.Resolve()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, r := range m.Regions {
			if r.Kind == KindPartition {
				got = append(got, strings.Join([]string{r.Name, " ", hexless(r.Offset), "+", hexless(r.Size)}, ""))
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func hexless(n int64) string { return strings.TrimSuffix(shortSize(n), " MiB") }

func TestReserveOfItsContent(t *testing.T) {
	img := &Image{
		Layout: Layout{
			Reserves:   []Reserve{{Name: "code"}, {Name: "spl", Offset: 32 * kib}},
			Partitions: []Partition{{Name: "root", Size: mib}},
		},
		Contents: map[string]Content{"code": {Bytes: make([]byte, 100)}, "spl": {Bytes: make([]byte, 1000)}},
	}
	m := mustMap(t, img)
	for name, want := range map[string]int64{"code": 100, "spl": 1024} {
		if r, _ := m.Find(name); r.Size != want {
			t.Errorf("%s has %d bytes, want %d", name, r.Size, want)
		}
	}
	if img.Layout.Reserves[1].Size != 0 {
		t.Error("the layout was changed")
	}
}

func FuzzReadDisk(f *testing.F) {
	disk, _ := smallMBR(f)
	f.Add([]byte(disk))
	gpt, _ := smallDisk(f, 4096)
	f.Add([]byte(gpt))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ReadMap(memory(data), int64(len(data)))
		if err != nil {
			if !errors.Is(err, ErrNoTable) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		end := int64(0)
		for _, r := range m.Regions {
			if r.Offset < end || r.Size <= 0 || r.End() > int64(len(data)) {
				t.Fatalf("%s behind %d of a disk with %d bytes", r.describe(), end, len(data))
			}
			end = r.End()
		}
		m.Bar(80)
		drawn(t, m)
	})
}
