package imaging

import (
	"errors"
	"flag"
	"fmt"
	"maps"
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
		"reserve named as a partition":  {Reserves: []Reserve{{Name: "a", Offset: mib, Size: mib}}, Partitions: []Partition{part("a", mib)}},
		"reserve over the table":        {Reserves: []Reserve{{Name: "spl", Offset: 8 * kib, Size: 32 * kib}}, Partitions: one},
		"reserve in sector 0":           {Reserves: []Reserve{{Name: "mbr", Offset: 0, Size: 512}}, Partitions: one},
		"reserve over the backup":       {DiskSize: 10 * mib, Reserves: []Reserve{{Name: "tail", Offset: 10*mib - 512, Size: 512}}, Partitions: one},
		"reserve behind the disk":       {DiskSize: 10 * mib, Reserves: []Reserve{{Name: "tail", Offset: 10 * mib, Size: 512}}, Partitions: one},
		"overlapping reserves":          {Reserves: []Reserve{{Name: "env", Offset: 8 * mib, Size: 128 * kib}, {Name: "env2", Offset: 8*mib + 64*kib, Size: 128 * kib}}, Partitions: one},
		"reserve inside a reserve":      {Reserves: []Reserve{{Name: "outer", Offset: 8 * mib, Size: mib}, {Name: "inner", Offset: 8*mib + 64*kib, Size: 512}}, Partitions: one},
		"misaligned reserve":            {Reserves: []Reserve{{Name: "env", Offset: 8*mib + 100, Size: 512}}, Partitions: one},
		"odd reserve":                   {Reserves: []Reserve{{Name: "env", Offset: 8 * mib, Size: 1000}}, Partitions: one},
		"empty reserve":                 {Reserves: []Reserve{{Name: "env", Offset: 8 * mib, Size: 0}}, Partitions: one},
		"negative reserve":              {Reserves: []Reserve{{Name: "env", Offset: -512, Size: 512}}, Partitions: one},
		"overflowing reserve":           {Reserves: []Reserve{{Name: "env", Offset: 1<<63 - 512, Size: 1 << 62}}, Partitions: one},
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

// refusedTables are layouts that one kind of table cannot hold.
func refusedTables() map[string]Layout {
	part := func(name string, size int64) Partition { return Partition{Name: name, Size: size} }
	parts := func(n int) (out []Partition) {
		for i := range n {
			out = append(out, part(fmt.Sprint("p", i+1), mib))
		}
		return out
	}
	with := func(n int, change func(p []Partition)) []Partition {
		p := parts(n)
		change(p)
		return p
	}
	gpt := func(o GPTOptions, p ...Partition) Layout {
		return Layout{GPT: o, Partitions: append(p, part("x", mib))}
	}
	const guid = "01234567-89ab-cdef-0123-456789abcdef"
	return map[string]Layout{
		// Places.
		"partition misaligned":           {Partitions: []Partition{{Name: "a", Offset: mib + 512, Size: mib}}},
		"partition off its alignment":    {Partitions: []Partition{{Name: "a", Offset: 5 * mib, Align: 4 * mib, Size: mib}}},
		"partition over a partition":     {Partitions: []Partition{part("a", 8*mib), {Name: "b", Offset: 4 * mib, Size: mib}}},
		"partition over a later one":     {Partitions: []Partition{{Name: "a", Offset: 4 * mib, Size: 8 * mib}, {Name: "b", Offset: 2 * mib, Size: 4 * mib}}},
		"partition over a reserve":       {Reserves: []Reserve{{Name: "env", Offset: 8 * mib, Size: 2 * mib}}, Partitions: []Partition{{Name: "a", Offset: 9 * mib, Size: mib}}},
		"partition over the table":       {Alignment: 512, Partitions: []Partition{{Name: "a", Offset: 16 * kib, Size: mib}}},
		"partition behind the disk":      {DiskSize: 10 * mib, Partitions: []Partition{{Name: "a", Offset: 20 * mib, Size: mib}}},
		"partition alignment":            {Partitions: []Partition{{Name: "a", Align: 1000, Size: mib}}},
		"partition at a negative offset": {Partitions: []Partition{{Name: "a", Offset: -mib, Size: mib}}},
		"partition too far":              {Partitions: []Partition{{Name: "a", Offset: 1 << 62, Size: mib}}},
		// Sizes.
		"percent and size":           {DiskSize: 64 * mib, Partitions: []Partition{{Name: "a", Size: mib, Percent: 10}}},
		"percent and rest":           {DiskSize: 64 * mib, Partitions: []Partition{{Name: "a", Rest: true, Percent: 10}}},
		"percent of no disk":         {Partitions: []Partition{{Name: "a", Percent: 10}}},
		"rest of no disk":            {Partitions: []Partition{{Name: "a", Rest: true}}},
		"negative percent":           {DiskSize: 64 * mib, Partitions: []Partition{{Name: "a", Percent: -1}}},
		"101 percent":                {DiskSize: 64 * mib, Partitions: []Partition{{Name: "a", Percent: 101}}},
		"percent below alignment":    {DiskSize: 64 * mib, Partitions: []Partition{{Name: "a", Percent: 0.5}}},
		"100 percent":                {DiskSize: 64 * mib, Partitions: []Partition{{Name: "a", Percent: 100}}},
		"no room for the rest":       {DiskSize: 10 * mib, Partitions: []Partition{part("a", 8*mib), {Name: "b", Rest: true, Size: 4 * mib}}},
		"rest and grow":              {DiskSize: 10 * mib, Partitions: []Partition{{Name: "a", Rest: true}, {Name: "b", Size: mib, Grow: true}}},
		"slots of two shares":        {DiskSize: 64 * mib, Partitions: []Partition{{Name: "r_a", Percent: 10, Slot: "a"}, {Name: "r_b", Percent: 20, Slot: "b"}}},
		"percent too small for ext4": {DiskSize: 64 * mib, Alignment: 512, Partitions: []Partition{{Name: "a", Percent: 1, Filesystem: "ext4"}}},
		// Reserves.
		"boot code too large":    {Table: "mbr", Reserves: []Reserve{{Name: "code", Size: 446}}, Partitions: parts(1)},
		"boot code over a GPT":   {Reserves: []Reserve{{Name: "code", Size: 512}}, Partitions: parts(1)},
		"reserve off alignment":  {Reserves: []Reserve{{Name: "env", Offset: 9 * mib, Size: mib, Align: 4 * mib}}, Partitions: parts(1)},
		"reserve bad alignment":  {Reserves: []Reserve{{Name: "env", Offset: 9 * mib, Size: mib, Align: -1}}, Partitions: parts(1)},
		"hole outside":           {Reserves: []Reserve{{Name: "spl", Offset: 2 * mib, Size: mib, Holes: []Span{{mib, 512}}}}, Partitions: parts(1)},
		"holes overlap":          {Reserves: []Reserve{{Name: "spl", Offset: 2 * mib, Size: mib, Holes: []Span{{2*mib + 512, 1024}, {2*mib + 1024, 512}}}}, Partitions: parts(1)},
		"nothing but a hole":     {Reserves: []Reserve{{Name: "spl", Offset: 2 * mib, Size: mib, Holes: []Span{{2 * mib, mib}}}}, Partitions: parts(1)},
		"hole too small for GPT": {Reserves: []Reserve{{Name: "spl", Size: mib, Holes: []Span{{440, 8 * kib}}}}, Partitions: parts(1)},
		"hole without a size":    {Reserves: []Reserve{{Name: "spl", Offset: 2 * mib, Size: mib, Holes: []Span{{2 * mib, 0}}}}, Partitions: parts(1)},
		"loader at sector 2":     {Reserves: []Reserve{{Name: "bootloader", Offset: 1024, Size: 512 * kib}}, Partitions: parts(1)},
		"loader over the MBR":    {Table: "mbr", Reserves: []Reserve{{Name: "bootloader", Offset: 0, Size: 512 * kib}}, Partitions: parts(1)},
		// GPT.
		"gpt, no GUID":           {DiskID: "1234abcd", Partitions: parts(1)},
		"gpt, bad UUID":          {Partitions: with(1, func(p []Partition) { p[0].UUID = "{" + guid + "}" })},
		"gpt, UUID twice":        {Partitions: with(2, func(p []Partition) { p[0].UUID, p[1].UUID = guid, strings.ToUpper(guid) })},
		"gpt, UUID of the disk":  {DiskID: strings.ToUpper(guid), Partitions: with(1, func(p []Partition) { p[0].UUID = guid })},
		"gpt, attribute":         {Partitions: with(1, func(p []Partition) { p[0].Attributes = []string{"readonly"} })},
		"gpt, attribute bit 64":  {Partitions: with(1, func(p []Partition) { p[0].Attributes = []string{"64"} })},
		"gpt, logical":           {Partitions: with(1, func(p []Partition) { p[0].Logical = true })},
		"gpt, in the MBR":        {Partitions: with(1, func(p []Partition) { p[0].InMBR = true })},
		"gpt, MBR type":          {Partitions: with(1, func(p []Partition) { p[0].MBRType = "0c" })},
		"gpt, near miss of type": {Partitions: with(1, func(p []Partition) { p[0].Type = "root-x96-64" })},
		"gpt, typing error":      {Partitions: with(1, func(p []Partition) { p[0].Type = "root_arm64" })},
		"gpt of 4 is full":       {GPT: GPTOptions{Entries: 4}, Partitions: parts(5)},
		"gpt of 5000":            gpt(GPTOptions{Entries: 5000}),
		"gpt moved, misaligned":  gpt(GPTOptions{EntriesAt: 5000}),
		"gpt moved, negative":    gpt(GPTOptions{EntriesAt: -512}),
		"gpt moved over header":  gpt(GPTOptions{EntriesAt: 512}),
		"gpt moved, too late":    gpt(GPTOptions{EntriesAt: 8 * mib}, Partition{Name: "early", Offset: mib, Size: mib}),
		"gpt moved over reserve": {GPT: GPTOptions{EntriesAt: mib}, Reserves: []Reserve{{Name: "spl", Offset: 32 * kib, Size: mib}}, Partitions: parts(1)},
		// MBR.
		"mbr, 5 primary": {Table: "mbr", Partitions: with(6, func(p []Partition) { p[5].Logical = true })},
		"mbr, 70":        {Table: "mbr", Partitions: parts(70)},
		"mbr above 2 TiB": {Table: "mbr", DiskSize: 4 << 40, Partitions: []Partition{
			part("a", 1<<40), part("b", 1<<40),
		}},
		"mbr, no signature":          {Table: "mbr", DiskID: "0x1234abc", Partitions: parts(1)},
		"mbr, zero signature":        {Table: "mbr", DiskID: "00000000", Partitions: parts(1)},
		"mbr, GUID":                  {Table: "mbr", DiskID: guid, Partitions: parts(1)},
		"mbr, UUID":                  {Table: "mbr", Partitions: with(1, func(p []Partition) { p[0].UUID = guid })},
		"mbr, attributes":            {Table: "mbr", Partitions: with(1, func(p []Partition) { p[0].Attributes = []string{"hidden"} })},
		"mbr, in the MBR":            {Table: "mbr", Partitions: with(1, func(p []Partition) { p[0].InMBR = true })},
		"mbr, GPT options":           {Table: "mbr", GPT: GPTOptions{NoBackup: true}, Partitions: parts(1)},
		"mbr, bad type":              {Table: "mbr", Partitions: with(1, func(p []Partition) { p[0].MBRType = "123" })},
		"mbr, type misspelt":         {Table: "mbr", Partitions: with(1, func(p []Partition) { p[0].MBRType = "linus" })},
		"mbr, type ee":               {Table: "mbr", Partitions: with(1, func(p []Partition) { p[0].MBRType = "ee" })},
		"mbr, type bios-boot":        {Table: "mbr", Partitions: with(1, func(p []Partition) { p[0].Type = "bios-boot" })},
		"mbr, two active":            {Table: "mbr", Partitions: with(3, func(p []Partition) { p[0].Bootable, p[2].Bootable = true, true })},
		"mbr, primary among logical": {Table: "mbr", Partitions: with(3, func(p []Partition) { p[0].Logical, p[2].Logical = true, true })},
		"mbr, logical out of order": {Table: "mbr", Partitions: with(2, func(p []Partition) {
			p[0].Logical, p[1].Logical, p[0].Offset, p[1].Offset = true, true, 20*mib, 10*mib
		})},
		"mbr, no room for a boot record": {Table: "mbr", Alignment: 512, Partitions: with(2, func(p []Partition) {
			p[0].Logical, p[1].Logical, p[0].Offset, p[1].Offset = true, true, mib, 2*mib+512
		})},
		// Hybrid.
		"hybrid, none in the MBR": {Table: "hybrid", Partitions: parts(2)},
		"hybrid, 4 in the MBR": {Table: "hybrid", Partitions: with(4, func(p []Partition) {
			for i := range p {
				p[i].InMBR = true
			}
		})},
		"hybrid above 2 TiB": {Table: "hybrid", Partitions: []Partition{part("a", 2<<40), {Name: "b", Size: mib, InMBR: true}}},
		"hybrid, bad type":   {Table: "hybrid", Partitions: with(1, func(p []Partition) { p[0].InMBR, p[0].MBRType = true, "zz" })},
	}
}

func TestRefused(t *testing.T) {
	var b strings.Builder
	layouts := refused()
	maps.Copy(layouts, refusedTables())
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
		Reserves: []Reserve{{Name: "env", Offset: 4 * mib, Size: 32 * kib}, {Name: "spl", Offset: 32 * kib, Size: 64 * kib}, {Name: "late", Offset: 20 * mib, Size: 512}},
		Partitions: []Partition{
			{Name: "boot", Size: 2*mib + 512, Filesystem: FilesystemVFAT, Bootable: true},
			{Name: "root_a", Size: 8 * mib, Slot: "a"},
			{Name: "root_b", Size: 8 * mib, Slot: "b"},
			{Name: "data", Size: mib, Filesystem: FilesystemExt4, Grow: true},
		},
	}
	m, err := l.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"table gpt: 0 to 17408",
		"reserve spl: 32768 to 98304",
		"partition boot: 1048576 to 3146240",
		"reserve env: 4194304 to 4227072",
		"partition root_a: 5242880 to 13631488", // after the reserve
		"reserve late: 20971520 to 20972032",
		"partition root_b: 22020096 to 30408704", // does not fit before it
		"partition data: 30408704 to 31457280",
		"backup-table gpt: 32488960 to 32505856",
	}
	if diff := cmp.Diff(want, places(m)); diff != "" {
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

// places are the regions of a map, in short.
func places(m *Map) (out []string) {
	for _, r := range m.Regions {
		out = append(out, fmt.Sprintf("%s %s: %d to %d", r.Kind, r.Name, r.Offset, r.End()))
	}
	return out
}

func TestTypes(t *testing.T) {
	for want, p := range map[string]Partition{
		"esp":                                  {Filesystem: FilesystemVFAT, Bootable: true},
		"basic-data":                           {Filesystem: FilesystemVFAT},
		"linux":                                {Filesystem: FilesystemExt4, Bootable: true},
		"swap":                                 {Type: "swap"},
		"root-x86-64-verity":                   {Type: "root-amd64-verity"},
		"root-x86-64":                          {Type: "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"},
		"4f68bce3-e8cd-4db1-96e7-fbcaf984b70a": {Type: "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B70A"},
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
	for _, name := range []string{"mbr with 6", "hybrid"} {
		l = tableMatrix()[name]
		if m, err = l.Resolve(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "# %s\n%s\n", name, m.Bar(100))
	}
	l = Layout{GPT: GPTOptions{EntriesAt: 64 * kib}, Reserves: []Reserve{
		{Name: "loader", Size: 2 * mib, Holes: []Span{{440, 584}, {64 * kib, 16 * kib}, {mib, 16 * kib}}}, {Name: "env", Offset: mib, Size: 16 * kib},
	}, Partitions: []Partition{{Name: "root", Size: 2 * mib, Attributes: []string{"read-only"}}}}
	if m, err = l.Resolve(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "# holes\n%s\n", m.Bar(100))
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
