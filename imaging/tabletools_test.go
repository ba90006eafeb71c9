package imaging

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
	gocmp "github.com/google/go-cmp/cmp"
)

const gib = int64(1) << 30

// tableMatrix are layouts that other tools must read exactly as they were meant.
func tableMatrix() map[string]Layout {
	parts := func(n int, size int64) (out []Partition) {
		for i := range n {
			out = append(out, Partition{Name: fmt.Sprint("part-", i+1), Size: size})
		}
		return out
	}
	boot := Partition{Name: "boot", Size: 16 * mib, Filesystem: FilesystemVFAT, Bootable: true}
	data := Partition{Name: "data", Size: 8 * mib, Grow: true}
	far := func(table string, disk, size int64) Layout {
		return Layout{Table: table, DiskSize: disk, Partitions: []Partition{
			boot, {Name: "root_a", Size: size, Slot: "a"}, {Name: "root_b", Size: size, Slot: "b"}, data,
		}}
	}
	everything := parts(3, 3*mib)
	everything[0].Attributes = []string{"required", "no-block-io", "read-only", "hidden", "no-automount", "grow-filesystem", "48"}
	everything[1].Type, everything[1].UUID = "root-arm64", "DEADBEEF-0000-4000-8000-00000000CAFE"
	everything[2].Name, everything[2].Type = "zürich 𝄞 & more", "esp"
	active := parts(4, 2*mib)
	active[1].Bootable = true
	logical := parts(6, 2*mib)
	logical[0] = boot
	logical[4].MBRType, logical[5].Type = "swap", "esp"
	mixed := parts(5, 2*mib+512)
	mixed[1].Logical, mixed[2].Logical = true, true
	hybrid := parts(5, 4*mib)
	hybrid[0], hybrid[2].InMBR, hybrid[3].InMBR = boot, true, true
	hybrid[0].InMBR, hybrid[3].MBRType = true, "preloader"
	matrix := map[string]Layout{
		"gpt":                    {Partitions: everything, DiskID: "01234567-89AB-CDEF-0123-456789ABCDEF"},
		"gpt with 128":           {Partitions: parts(128, 64*kib), Alignment: 64 * kib},
		"gpt with boot code":     {Partitions: parts(2, mib), Reserves: []Reserve{{Name: "code", Size: 440}}},
		"gpt, out of order":      {Partitions: []Partition{{Name: "x", Offset: 20 * mib, Size: mib}, {Name: "y", Offset: 4 * mib, Size: mib}}},
		"gpt above 4 GiB":        far(TableGPT, 20*gib, 8*gib),
		"gpt above 2 TiB":        far(TableGPT, 5<<40, 2<<40),
		"gpt, 4096":              {SectorSize: 4096, Partitions: everything},
		"gpt above 2 TiB, 4096":  func() Layout { l := far(TableGPT, 14<<40, 6<<40); l.SectorSize = 4096; return l }(),
		"mbr with 1":             {Table: TableMBR, Partitions: parts(1, mib), DiskID: "0BADF00D"},
		"mbr with 4":             {Table: TableMBR, Partitions: active, Reserves: []Reserve{{Name: "code", Size: 440}, {Name: "spl", Offset: 512, Size: 64 * kib}}},
		"mbr with 6":             {Table: TableMBR, Partitions: logical},
		"mbr with 60":            {Table: TableMBR, Partitions: parts(59, 64*kib), Alignment: 64 * kib},
		"mbr, densely":           {Table: TableMBR, Partitions: parts(7, 512), Alignment: 512},
		"mbr, logical in front":  {Table: TableMBR, Partitions: mixed},
		"mbr above 4 GiB":        far(TableMBR, 20*gib, 8*gib),
		"mbr up to 2 TiB":        far(TableMBR, 2<<40, 900*gib),
		"mbr logical above 1TiB": {Table: TableMBR, Partitions: append(parts(3, 400*gib), parts(6, 100*gib)[3:]...)},
		"mbr, 4096":              {Table: TableMBR, SectorSize: 4096, Partitions: append([]Partition{boot}, parts(6, 8*mib)[1:]...)},
		"hybrid":                 {Table: TableHybrid, Partitions: hybrid},
		"hybrid above 4 GiB": {Table: TableHybrid, Partitions: []Partition{
			{Name: "big", Size: 6 * gib}, {Name: "boot", Size: 64 * mib, Filesystem: FilesystemVFAT, InMBR: true, Bootable: true},
		}},
	}
	for name, c := range presetCases {
		if l, _, err := Preset(c.preset, c.vars); err == nil { // an error is TestPresets' to report
			matrix["preset "+name] = *l
		}
	}
	return matrix
}

// tableImage writes the tables alone, into a sparse file.
func tableImage(t testing.TB, l Layout) (string, *Map) {
	t.Helper()
	m := mustMap(t, &Image{Layout: l, Seed: "matrix"})
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(m.Size); err != nil {
		t.Skipf("no file of %s here: %v", FormatSize(m.Size), err)
	}
	if err := m.writeTable(f); err != nil {
		t.Fatal(err)
	}
	return path, m
}

// seen is a partition as other tools show it.
type seen struct {
	Number      int
	Start, Size int64 // sectors
	Type, UUID  string
	Name        string
	Attributes  string
	Bootable    bool
}

func expected(m *Map) (out []seen) {
	for _, r := range m.Regions {
		if r.Kind != KindPartition {
			continue
		}
		s := seen{Number: r.Number, Start: r.Offset / m.SectorSize, Size: r.Size / m.SectorSize}
		if m.Table == TableMBR {
			s.Type, s.Bootable = strings.TrimLeft(r.MBRType, "0"), r.Bootable
		} else {
			s.Type, s.UUID, s.Name, s.Attributes = r.Type, r.UUID, r.Name, sfdiskAttributes(r)
		}
		out = append(out, s)
	}
	if e := m.Extended; e != nil {
		out = append(out, seen{Number: e.Number, Start: e.Offset / m.SectorSize, Size: e.Size / m.SectorSize, Type: "f"})
	}
	slices.SortFunc(out, func(a, b seen) int { return a.Number - b.Number })
	return out
}

func sfdiskAttributes(r Region) string {
	names := map[string]string{
		"required": "RequiredPartition", "no-block-io": "NoBlockIOProtocol", "legacy-boot": "LegacyBIOSBootable",
		"grow-filesystem": "59", "read-only": "60", "hidden": "62", "no-automount": "63", "48": "48",
	}
	var out, numbers []string
	for _, a := range r.Attributes {
		if n := names[a]; len(n) > 2 {
			out = append(out, n)
		} else {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) > 0 {
		out = append(out, "GUID:"+strings.Join(numbers, ","))
	}
	return strings.Join(out, " ")
}

// sfdiskSees parses sfdisk -J, optionally of the MBR in front of a GPT.
func sfdiskSees(t *testing.T, path string, args ...string) (label, id string, out []seen) {
	t.Helper()
	var dump struct {
		PartitionTable struct {
			Label, ID  string
			Partitions []struct {
				Node, Type, UUID, Name, Attrs string
				Start, Size                   int64
				Bootable                      bool
			}
		}
	}
	text := run(t, "sfdisk", append(args, "-J", path)...)
	if err := json.Unmarshal([]byte(text[max(strings.Index(text, "{"), 0):]), &dump); err != nil {
		t.Fatalf("sfdisk -J: %v\n%s", err, text)
	}
	for _, p := range dump.PartitionTable.Partitions {
		n, err := strconv.Atoi(strings.TrimPrefix(p.Node, path))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, seen{n, p.Start, p.Size, strings.ToLower(p.Type), strings.ToLower(p.UUID), p.Name, p.Attrs, p.Bootable})
	}
	return dump.PartitionTable.Label, strings.ToLower(dump.PartitionTable.ID), out
}

func TestTablesWithSfdisk(t *testing.T) {
	tool(t, "sfdisk")
	for name, l := range tableMatrix() {
		if l.SectorSize == 4096 {
			continue // takes files for disks with 512-byte sectors; see TestTablesWithFdisk
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, m := tableImage(t, l)
			label, id, got := sfdiskSees(t, path)
			wantLabel, wantID := "gpt", m.UUID
			if m.Table == TableMBR {
				wantLabel, wantID = "dos", "0x"+m.Signature
			}
			if label != wantLabel || id != wantID {
				t.Errorf("sfdisk sees a %s with %s, want %s with %s", label, id, wantLabel, wantID)
			}
			if diff := gocmp.Diff(expected(m), got); diff != "" {
				t.Error(diff)
			}
			if out := run(t, "sfdisk", "--verify", path); !strings.Contains(out, "No errors detected") {
				t.Errorf("sfdisk --verify: %s", out)
			}
		})
	}
}

// TestTablesWithFdisk is for 4096-byte sectors, which sfdisk and sgdisk cannot be told of for a file.
func TestTablesWithFdisk(t *testing.T) {
	tool(t, "fdisk")
	for name, l := range tableMatrix() {
		if l.SectorSize != 4096 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, m := tableImage(t, l)
			columns := "Device,Start,Sectors,Id"
			if m.Table != TableMBR {
				columns = "Device,Start,Sectors,Type-UUID"
			}
			var got []seen
			text := run(t, "fdisk", "-b", "4096", "-l", "-o", columns, path)
			for line := range strings.Lines(text) {
				f := strings.Fields(line)
				if len(f) != 4 || !strings.HasPrefix(f[0], path) {
					continue
				}
				var s seen
				for i, v := range []any{&s.Number, &s.Start, &s.Size} {
					if _, err := fmt.Sscan(strings.TrimPrefix(f[i], path), v); err != nil {
						t.Fatalf("%s: %v", line, err)
					}
				}
				s.Type = strings.ToLower(f[3])
				got = append(got, s)
			}
			want := expected(m)
			for i := range want {
				want[i] = seen{Number: want[i].Number, Start: want[i].Start, Size: want[i].Size, Type: want[i].Type}
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("%s\n%s", diff, text)
			}
			for _, bad := range []string{"corrupt", "mismatch", "invalid", "not in table order", "does not start"} {
				if strings.Contains(strings.ToLower(text), bad) {
					t.Errorf("fdisk: %s", text)
				}
			}
		})
	}
}

func TestTablesWithSgdisk(t *testing.T) {
	tool(t, "sgdisk")
	for name, l := range tableMatrix() {
		if l.SectorSize == 4096 || l.Table == TableMBR {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, _ := tableImage(t, l)
			out := run(t, "sgdisk", "-v", path)
			if !strings.Contains(out, "No problems found") || strings.Contains(out, "Caution") || strings.Contains(out, "Warning") {
				t.Errorf("sgdisk -v: %s", out)
			}
		})
	}
}

func TestTablesWithParted(t *testing.T) {
	tool(t, "parted")
	for name, l := range tableMatrix() {
		if l.SectorSize == 4096 || strings.Contains(name, "60") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, m := tableImage(t, l)
			var got, want []string
			for line := range strings.Lines(run(t, "parted", "-s", "-m", path, "unit", "B", "print")) {
				f := strings.Split(strings.TrimSuffix(strings.TrimSpace(line), ";"), ":")
				if _, err := strconv.Atoi(f[0]); err == nil && len(f) > 4 {
					got = append(got, strings.Join(f[:4], " "))
				}
			}
			for _, s := range expected(m) {
				want = append(want, fmt.Sprintf("%d %dB %dB %dB", s.Number, s.Start*512, (s.Start+s.Size)*512-1, s.Size*512))
			}
			slices.Sort(got) // parted goes by offset
			slices.Sort(want)
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTablesWithPartx is about PARTUUIDs, which in an MBR are made of the signature and the number.
func TestTablesWithPartx(t *testing.T) {
	tool(t, "partx")
	for name, l := range tableMatrix() {
		if l.SectorSize == 4096 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, m := tableImage(t, l)
			var got, want []string
			for line := range strings.Lines(run(t, "partx", "-g", "-r", "-o", "NR,START,UUID", path)) {
				if n, _, _ := strings.Cut(line, " "); m.Extended == nil || n != fmt.Sprint(m.Extended.Number) {
					got = append(got, strings.TrimSpace(line))
				}
			}
			for _, r := range m.Regions {
				if r.Kind == KindPartition {
					want = append(want, fmt.Sprint(r.Number, " ", r.Offset/512, " ", r.UUID))
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTablesWithDiskfs reads with go-diskfs, which shares nothing with util-linux and gdisk.
func TestTablesWithDiskfs(t *testing.T) {
	for name, l := range tableMatrix() {
		if cmp.Or(l.Table, TableGPT) != TableGPT || strings.Contains(name, "2 TiB") { // it wants the length that does not fit
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, m := tableImage(t, l)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			table, err := gpt.Read(f, int(m.SectorSize), int(m.SectorSize))
			if err != nil {
				t.Fatal(err)
			}
			if err := table.Verify(f, uint64(m.Size)); err != nil {
				t.Error(err)
			}
			var got, want []seen
			for _, p := range table.Partitions {
				if p.Type == gpt.Unused {
					continue
				}
				got = append(got, seen{
					Number: p.Index, Start: int64(p.Start), Size: int64(p.End - p.Start + 1), Type: strings.ToLower(string(p.Type)),
					UUID: strings.ToLower(p.GUID), Name: p.Name, Attributes: fmt.Sprint(p.Attributes),
				})
			}
			for _, r := range m.Regions {
				if r.Kind == KindPartition {
					want = append(want, seen{
						Number: r.Number, Start: r.Offset / m.SectorSize, Size: r.Size / m.SectorSize, Type: r.Type,
						UUID: r.UUID, Name: r.Name, Attributes: fmt.Sprint(r.attributeSet()),
					})
				}
			}
			slices.SortFunc(want, func(a, b seen) int { return a.Number - b.Number })
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestUnusualGPT looks at tables with options, about which sgdisk warns as it should.
func TestUnusualGPT(t *testing.T) {
	tool(t, "sgdisk")
	tool(t, "sfdisk")
	parts := []Partition{{Name: "a", Size: mib}, {Name: "b", Size: mib}}
	for name, c := range map[string]struct {
		layout Layout
		says   []string
	}{
		"56 entries": {
			Layout{GPT: GPTOptions{Entries: 56}, Reserves: []Reserve{{Name: "spl", Offset: 8 * kib, Size: 32 * kib}}, Partitions: parts},
			[]string{"holds up to 56 entries", "ends at sector 15", "No problems found"},
		},
		"entries elsewhere": {
			Layout{
				GPT: GPTOptions{EntriesAt: 512 * kib}, Partitions: parts,
				Reserves: []Reserve{{Name: "spl", Offset: kib, Size: 511 * kib}},
			},
			[]string{"begins at sector 1024", "No problems found"},
		},
		"no backup": {
			Layout{GPT: GPTOptions{NoBackup: true}, Partitions: parts},
			[]string{"doesn't reside\nat the end of the disk", "last usable sector is 6143"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			path, m := tableImage(t, c.layout)
			out, _ := exec.CommandContext(t.Context(), tool(t, "sgdisk"), "-v", "-p", path).CombinedOutput() //nolint:gosec // a tool of the tests
			for _, want := range c.says {
				if !strings.Contains(string(out), want) {
					t.Errorf("sgdisk does not say %q: %s", want, out)
				}
			}
			if _, _, got := sfdiskSees(t, path); gocmp.Diff(expected(m), got) != "" {
				t.Error(gocmp.Diff(expected(m), got))
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := ReadMap(f, m.Size)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(readable(m), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestHybridWithTools looks at the MBR behind the protective entry, as a boot ROM does.
func TestHybridWithTools(t *testing.T) {
	tool(t, "sfdisk")
	path, m := tableImage(t, tableMatrix()["hybrid"])
	_, _, got := sfdiskSees(t, path, "--label-nested", "dos")
	want := []seen{{Number: 4, Start: 1, Type: "ee"}}
	for i, r := range m.numberedInMBR() {
		want = append(want, seen{
			Number: i + 1, Start: r.Offset / 512, Size: r.Size / 512, Type: strings.TrimLeft(r.MBRType, "0"), Bootable: r.Bootable,
		})
	}
	want[0].Size = want[1].Start - 1
	slices.SortFunc(want, func(a, b seen) int { return a.Number - b.Number })
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestTablesReadBack reads every image of the matrix with our own reader, which shares no code with the writer but the
// names of attributes.
func TestTablesReadBack(t *testing.T) {
	for name, l := range tableMatrix() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, want := tableImage(t, l)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := ReadMap(f, want.Size)
			if err != nil {
				t.Fatal(err)
			}
			if want.Table == TableMBR && l.SectorSize == 4096 {
				// Nothing but the chain tells the sector size, and it does.
				if got.SectorSize != 4096 {
					t.Errorf("sectors of %d bytes", got.SectorSize)
				}
			}
			if diff := gocmp.Diff(readable(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// readable is a map with what of it is on the disk.
func readable(m *Map) *Map {
	out := *m
	out.Regions = nil
	for _, r := range m.Regions {
		switch {
		case r.Kind == KindReserve:
			continue
		case r.Kind == KindTable && r.Offset == bootCodeSize: // that there is boot code is not
			r.Offset, r.Size = 0, r.Size+bootCodeSize
		case r.Kind == KindPartition:
			r.Filesystem, r.Label, r.FilesystemUUID = FilesystemNone, "", ""
			if m.Table == TableMBR {
				r.Name, r.Slot = "", ""
			}
		}
		out.Regions = append(out.Regions, r)
	}
	return &out
}
