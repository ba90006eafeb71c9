package imaging

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := "testdata/" + file
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (run with -update to accept): %s", path, diff)
	}
}

// refused are layouts that must not be written, by what is wrong with them.
func refused() map[string]Layout {
	part := func(name string, size int64) Partition { return Partition{Name: name, Size: size} }
	one := []Partition{part("x", mib)}
	many := make([]Partition, 129)
	for i := range many {
		many[i] = part(fmt.Sprint("p", i), 512)
	}
	return map[string]Layout{
		"mbr":                           {Table: "mbr", Partitions: one},
		"unknown table":                 {Table: "apm", Partitions: one},
		"no partition":                  {},
		"129 partitions":                {Partitions: many},
		"sector size":                   {SectorSize: 1024, Partitions: one},
		"alignment below sector":        {Alignment: 100, Partitions: one},
		"alignment not sector multiple": {SectorSize: 4096, Alignment: 6144, Partitions: one},
		"alignment too large":           {Alignment: 2 << 30, Partitions: one},
		"negative disk":                 {DiskSize: -1, Partitions: one},
		"odd disk":                      {DiskSize: 10*mib + 1, Partitions: one},
		"disk smaller than tables":      {DiskSize: 16 * kib, Partitions: one},
		"disk too small for partition":  {DiskSize: 2 * mib, Partitions: one},
		"disk too small for the third":  {DiskSize: 20 * mib, Partitions: []Partition{part("a", 8*mib), part("b", 8*mib), part("c", 8*mib)}},
		"partition in the backup table": {DiskSize: 10 * mib, Partitions: []Partition{part("a", 9*mib)}},
		"no name":                       {Partitions: []Partition{part("", mib)}},
		"long name":                     {Partitions: []Partition{part(strings.Repeat("x", 37), mib)}},
		"long name in UTF-16":           {Partitions: []Partition{part(strings.Repeat("𝄞", 19), mib)}},
		"control character in name":     {Partitions: []Partition{part("a\x1b[2J", mib)}},
		"duplicate partition":           {Partitions: []Partition{part("a", mib), part("a", mib)}},
		"reserve named as a partition":  {Reserves: []Reserve{{"a", mib, mib}}, Partitions: []Partition{part("a", mib)}},
		"reserve over the table":        {Reserves: []Reserve{{"spl", 8 * kib, 32 * kib}}, Partitions: one},
		"reserve in sector 0":           {Reserves: []Reserve{{"mbr", 0, 512}}, Partitions: one},
		"reserve over the backup":       {DiskSize: 10 * mib, Reserves: []Reserve{{"tail", 10*mib - 512, 512}}, Partitions: one},
		"reserve behind the disk":       {DiskSize: 10 * mib, Reserves: []Reserve{{"tail", 10 * mib, 512}}, Partitions: one},
		"overlapping reserves":          {Reserves: []Reserve{{"env", 8 * mib, 128 * kib}, {"env2", 8*mib + 64*kib, 128 * kib}}, Partitions: one},
		"reserve inside a reserve":      {Reserves: []Reserve{{"outer", 8 * mib, mib}, {"inner", 8*mib + 64*kib, 512}}, Partitions: one},
		"misaligned reserve":            {Reserves: []Reserve{{"env", 8*mib + 100, 512}}, Partitions: one},
		"odd reserve":                   {Reserves: []Reserve{{"env", 8 * mib, 1000}}, Partitions: one},
		"empty reserve":                 {Reserves: []Reserve{{"env", 8 * mib, 0}}, Partitions: one},
		"negative reserve":              {Reserves: []Reserve{{"env", -512, 512}}, Partitions: one},
		"overflowing reserve":           {Reserves: []Reserve{{"env", 1<<63 - 512, 1 << 62}}, Partitions: one},
		"empty partition":               {Partitions: []Partition{part("a", 0)}},
		"odd partition":                 {Partitions: []Partition{part("a", mib+1)}},
		"overflowing partition":         {Partitions: []Partition{part("a", 1<<63-512)}},
		"tiny ext4":                     {Partitions: []Partition{{Name: "a", Size: 64 * kib, Filesystem: "ext4"}}},
		"tiny vfat":                     {Partitions: []Partition{{Name: "a", Size: 64 * kib, Filesystem: "vfat"}}},
		"unknown file system":           {Partitions: []Partition{{Name: "a", Size: mib, Filesystem: "ntfs"}}},
		"unknown type":                  {Partitions: []Partition{{Name: "a", Size: mib, Type: "efi"}}},
		"type in braces":                {Partitions: []Partition{{Name: "a", Size: mib, Type: "{0fc63daf-8483-4772-8e79-3d69d8477de4}"}}},
		"zero type":                     {Partitions: []Partition{{Name: "a", Size: mib, Type: "00000000-0000-0000-0000-000000000000"}}},
		"long ext4 label":               {Partitions: []Partition{{Name: "a", Size: mib, Filesystem: "ext4", Label: "a-label-of-17-chr"}}},
		"vfat label":                    {Partitions: []Partition{{Name: "a", Size: mib, Filesystem: "vfat", Label: "zürich"}}},
		"label without file system":     {Partitions: []Partition{{Name: "a", Size: mib, Label: "x"}}},
		"grow in the middle":            {DiskSize: 10 * mib, Partitions: []Partition{{Name: "a", Size: mib, Grow: true}, part("b", mib)}},
		"slot c":                        {Partitions: []Partition{{Name: "a", Size: mib, Slot: "c"}}},
		"slot a alone":                  {Partitions: []Partition{{Name: "r_a", Size: mib, Slot: "a"}}},
		"slot b alone":                  {Partitions: []Partition{{Name: "r_b", Size: mib, Slot: "b"}}},
		"slots of two sizes":            {Partitions: []Partition{{Name: "r_a", Size: mib, Slot: "a"}, {Name: "r_b", Size: 2 * mib, Slot: "b"}}},
		"growing slot":                  {Partitions: []Partition{{Name: "r_a", Size: mib, Slot: "a"}, {Name: "r_b", Size: mib, Slot: "b", Grow: true}}},
	}
}

func TestRefused(t *testing.T) {
	var b strings.Builder
	layouts := refused()
	var names []string
	for name := range layouts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		l := layouts[name]
		_, err := l.Resolve()
		var le *LayoutError
		if !errors.As(err, &le) {
			t.Errorf("%s: %v, want a LayoutError", name, err)
			continue
		}
		fmt.Fprintf(&b, "# %s\n%v\n", name, err)
		if hint := le.Hint(); hint != "" {
			fmt.Fprintf(&b, "hint: %s\n", hint)
		}
		b.WriteByte('\n')
		// Nothing is written for a refused layout.
		dir := t.TempDir()
		if _, err := Write(t.Context(), dir+"/x", &Image{Layout: l}); !errors.As(err, &le) {
			t.Errorf("%s: Write gives %v", name, err)
		}
		onlyFile(t, dir)
	}
	golden(t, "refused.txt", b.String())
}

func TestResolve(t *testing.T) {
	l := Layout{
		Reserves: []Reserve{{"env", 4 * mib, 32 * kib}, {"spl", 32 * kib, 64 * kib}, {"late", 20 * mib, 512}},
		Partitions: []Partition{
			{Name: "boot", Size: 2*mib + 512, Filesystem: FilesystemVFAT, Bootable: true},
			{Name: "root_a", Size: 8 * mib, Slot: "a"},
			{Name: "root_b", Size: 8 * mib, Slot: "b"},
			{Name: "data", Size: mib, Filesystem: FilesystemExt4, Grow: true},
		},
	}
	offsets := func(m *Map) (out []string) {
		for _, r := range m.Regions {
			out = append(out, r.describe())
		}
		return out
	}
	m, err := l.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"the partition table (0 to 17 KiB)",
		`reserve "spl" (32 KiB to 96 KiB)`,
		fmt.Sprintf(`partition "boot" (1 MiB to %d)`, 3*mib+512),
		`reserve "env" (4 MiB to 4128 KiB)`,
		`partition "root_a" (5 MiB to 13 MiB)`, // after the reserve
		fmt.Sprintf(`reserve "late" (20 MiB to %d)`, 20*mib+512),
		`partition "root_b" (21 MiB to 29 MiB)`, // does not fit before it
		`partition "data" (29 MiB to 30 MiB)`,
		fmt.Sprintf("the backup partition table (%d to 31 MiB)", 31*mib-33*512),
	}
	if diff := cmp.Diff(want, offsets(m)); diff != "" {
		t.Error(diff)
	}
	if m.Size != 31*mib {
		t.Errorf("size %d", m.Size)
	}

	l.DiskSize = 100 * mib
	if m, err = l.Resolve(); err != nil {
		t.Fatal(err)
	}
	data, _ := m.Find("data")
	if data.Offset != 29*mib || data.End() != 99*mib || m.Size != 100*mib {
		t.Errorf("data is %s of %d", data.describe(), m.Size)
	}
	// The least disk size that the error message names is enough, and one sector less is not.
	l.DiskSize = 31 * mib
	if _, err := l.Resolve(); err != nil {
		t.Error(err)
	}
	l.DiskSize = 30*mib + 32*512
	if _, err := l.Resolve(); err == nil {
		t.Error("accepted a disk without room for the backup table")
	}
}

func TestTypes(t *testing.T) {
	for want, p := range map[string]Partition{
		"esp":                                  {Filesystem: FilesystemVFAT, Bootable: true},
		"basic-data":                           {Filesystem: FilesystemVFAT},
		"linux":                                {Filesystem: FilesystemExt4, Bootable: true},
		"swap":                                 {Type: "swap"},
		"4f68bce3-e8cd-4db1-96e7-fbcaf984b709": {Type: "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"},
	} {
		guid, err := partitionType(p)
		if err != nil || TypeName(guid) != want {
			t.Errorf("%+v: %s, %v; want %s", p, TypeName(guid), err, want)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 bytes", 512: "512 bytes", 64 * mib: "64 MiB (67108864 bytes)", 17 * kib: "17 KiB (17408 bytes)", mib + mib/2: "1.5 MiB (1572864 bytes)", 3 << 40: "3 TiB (3298534883328 bytes)",
	} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestIdentifiers(t *testing.T) {
	img := &Image{Layout: demoLayout(), Seed: "s"}
	a, b := mustMap(t, img), mustMap(t, img)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Error(diff)
	}
	seen := map[string]bool{a.UUID: true}
	for _, r := range a.Regions {
		for _, id := range []string{r.UUID, r.FilesystemUUID} {
			if id != "" && seen[id] {
				t.Errorf("%s occurs twice", id)
			}
			seen[id] = true
		}
	}
	if identifier("a", "bc") == identifier("ab", "c") {
		t.Error("different parts give one identifier")
	}
}

func TestBar(t *testing.T) {
	l := demoLayout()
	l.Partitions[0].Size, l.Partitions[3].Size = 64*mib, 64*mib
	l.Partitions[1].Size, l.Partitions[2].Size = 256*mib, 256*mib
	m, err := l.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, width := range []int{0, 60, 80, 120} {
		text := m.Bar(width)
		for _, line := range strings.Split(text, "\n") {
			if n := len([]rune(line)); n > max(width, barMin) && !strings.HasPrefix(line, "disk: ") {
				t.Errorf("width %d: a line of %d columns: %s", width, n, line)
			}
		}
		fmt.Fprintf(&b, "# width %d\n%s\n", width, text)
	}
	l = Layout{DiskSize: 40 << 30, Partitions: []Partition{{Name: "boot", Size: mib, Filesystem: "vfat"}, {Name: "a", Size: 4 << 30}, {Name: "b", Size: 4 << 30}}}
	if m, err = l.Resolve(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "# mostly free\n%s\n", m.Bar(80))
	golden(t, "bar.txt", b.String())
	many := Layout{}
	for i := range 128 {
		many.Partitions = append(many.Partitions, Partition{Name: fmt.Sprint(i), Size: mib})
	}
	if m, err = many.Resolve(); err != nil {
		t.Fatal(err)
	}
	if got := m.Bar(80); !strings.Contains(got, "127") {
		t.Errorf("128 partitions: %s", got)
	}
	if got := (&Map{}).Bar(80); !strings.Contains(got, "disk: 0 bytes") {
		t.Errorf("an empty map: %s", got)
	}
}
