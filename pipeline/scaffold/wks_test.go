package scaffold

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

var update = flag.Bool("update", false, "rewrite golden files")

func importText(t *testing.T, src string, vars map[string]string) *Imported {
	t.Helper()
	in, err := Import(Kickstart{FS: fstest.MapFS{"board.wks": {Data: []byte(src)}}, Name: "board.wks", Vars: vars})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

var (
	layoutName  = regexp.MustCompile(`(?m)^layout "([^"]+)"`)
	layoutBlock = regexp.MustCompile(`(?ms)^layout .*?^}\n`)
	envName     = regexp.MustCompile(`environment = "([^"]+)"`)
)

// mustWork puts a layout into a complete pipeline and demands that it is canonical, valid, and has a place for everything.
func mustWork(t *testing.T, text string) *imaging.Map {
	t.Helper()
	formatted, diags := pipeline.Format([]byte(text), "layout")
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, text)
	}
	if d := cmp.Diff(string(formatted), text); d != "" {
		t.Fatalf("not canonical:\n%s", d)
	}
	name, env := layoutName.FindStringSubmatch(text), envName.FindStringSubmatch(text)
	var bootloader string
	switch {
	case name != nil && env != nil:
		bootloader = fmt.Sprintf("bootloader \"u-boot\" {\n environment = %q\n environment_size = \"4KiB\"\n}", env[1])
	case name != nil && strings.Contains(text, `bootloader "grub-efi" {}`):
		bootloader = "bootloader \"u-boot\" {\n environment = \"test_env\"\n environment_size = \"4KiB\"\n}"
		if !strings.HasSuffix(layoutBlock.FindString(text), "\n}\n") {
			t.Fatalf("no layout:\n%s", text)
		}
		text = layoutBlock.ReplaceAllStringFunc(text, func(s string) string {
			return strings.TrimSuffix(s, "}\n") + "  reserve \"test_env\" {\n    offset = \"1030TiB\"\n    size   = \"128KiB\"\n  }\n}\n"
		})
	default:
		t.Fatalf("no layout or no environment:\n%s", text)
	}
	dir := t.TempDir()
	rest := fmt.Sprintf(`
device_type "board" {
  architecture = "arm64"
  layout       = layout.%s
  %s
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.board]
  payload "bootstrap" {}
}
image "board" {
  device_type = device_type.board
  artifact    = artifact.os
}
`, name[1], bootloader)
	for file, content := range map[string]string{"layout.twinkeel.hcl": text, "main.twinkeel.hcl": rest} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, diags := pipeline.Load(pipeline.LoadOptions{Dir: dir})
	diags = append(diags, p.Validate()...)
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, text)
	}
	plan, diags := p.Plan(t.Context(), pipeline.PlanOptions{})
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, text)
	}
	for _, a := range plan.Actions {
		if a.Image == nil {
			continue
		}
		places, err := build.ImageMap(a.Image)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return places
	}
	t.Fatal("no image")
	return nil
}

// TestPlacesAsWic imports the files of testdata/wic and compares numbers, sectors, types and flags with those of the
// images that wic 0.2.0 (openembedded-core, the commit before it became a project of its own) made of them, as sfdisk
// lists them. The root file system there holds a file, and all sizes are given, so that nothing is a guess.
func TestPlacesAsWic(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/wic/*.wks")
	if err != nil || len(inputs) < 10 {
		t.Fatalf("%d inputs: %v", len(inputs), err)
	}
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			t.Parallel()
			in, err := Import(Kickstart{FS: os.DirFS("testdata/wic"), Name: filepath.Base(input)})
			if err != nil || in.Diags.HasErrors() {
				t.Fatal(err, in.Diags)
			}
			var got []string
			places := mustWork(t, in.Text)
			regions := places.Regions
			if places.Extended != nil {
				regions = append(slices.Clone(regions), *places.Extended)
			}
			for _, r := range regions {
				if r.Kind != imaging.KindPartition && r.Kind != imaging.KindExtended {
					continue
				}
				typ, flags := strings.ToUpper(r.Type), ""
				if places.Table == imaging.TableMBR {
					typ = strings.TrimPrefix(r.MBRType, "0")
				}
				switch {
				case slices.Contains(r.Attributes, "required"):
					flags = `"RequiredPartition"`
				case r.Bootable && places.Table == imaging.TableMBR:
					flags = "bootable"
				case r.Bootable:
					flags = `"LegacyBIOSBootable"`
				}
				got = append(got, fmt.Sprintf("%d %d %d %s %s", r.Number, r.Offset/sector, r.Size/sector, typ, flags))
			}
			slices.Sort(got)
			want, err := os.ReadFile(strings.TrimSuffix(input, ".wks") + ".sectors")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Split(strings.TrimRight(string(want), "\n"), "\n"), got); d != "" {
				t.Errorf("%s\n%s", d, in.Text)
			}
		})
	}
}

// TestImportGolden imports the files of testdata/wks, which have the shapes of real ones: openembedded-core's canned
// files, a Raspberry Pi's SD card, what meta-mender writes, i.MX and Rockchip boards with raw boot loaders.
func TestImportGolden(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/wks/*.wks")
	if err != nil || len(inputs) < 8 {
		t.Fatalf("%d inputs: %v", len(inputs), err)
	}
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			t.Parallel()
			in, err := Import(Kickstart{FS: os.DirFS("testdata/wks"), Name: filepath.Base(input), Vars: map[string]string{"EFI_PROVIDER": "grub-efi", "IMAGE_ROOTFS_SIZE": "300000"}})
			if err != nil {
				t.Fatal(err)
			}
			if in.Diags.HasErrors() {
				t.Fatal(in.Diags)
			}
			mustWork(t, in.Text)
			golden := strings.TrimSuffix(input, ".wks") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(in.Text), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), in.Text); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		src   string
		slots string // name
		warns string // "" for none about slots
		parts int    // other partitions
	}{
		"names":           {"part --label rootfs_a --fstype=ext4 --size 64\npart --label rootfs_b --fstype=ext4 --size 64\n", "rootfs", "", 0},
		"capital letters": {"part --part-name rootA --fstype=ext4 --size 64\npart --part-name rootB --fstype=ext4 --size 64\n", "root", "", 0},
		"equal sources":   {"part / --source rootfs --fstype=ext4 --size 64\npart --source rootfs --fstype=ext4 --size 64\n", "rootfs", "", 0},
		"second is empty": {"part --source rawcopy --sourceparams=file=/x.ext4 --fixed-size 64\npart --fstype=ext4 --fixed-size 64\n", "rootfs", "", 0},
		"sizes differ":    {"part --label system_0 --fstype=ext4 --size 64\npart --label system_1 --fstype=ext4 --size 96\n", "system", "The two slots differ in size", 0},
		"apart":           {"part --label root_a --fstype=ext4 --size 64\npart --label other --fstype=ext4 --size 8\npart --label root_b --fstype=ext4 --size 64\n", "root", "Partitions move", 1},
		"one":             {"part / --source rootfs --fstype=ext4 --size 64\n", "rootfs", "One root file system becomes two", 0},
		"rescue is none":  {"part / --source rootfs --fstype=ext4 --size 64\npart /rescue --source rootfs --rootfs-dir=r --fstype=ext4 --size 64\n", "rootfs", "One root file system becomes two", 1},
		"none":            {"part /boot --size 64\n", "rootfs", "No root file system", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := importText(t, c.src+"bootloader --ptable gpt\n", nil)
			if in.Diags.HasErrors() {
				t.Fatal(in.Diags)
			}
			mustWork(t, in.Text)
			if want := fmt.Sprintf("\n  slots %q {", c.slots); strings.Count(in.Text, want) != 1 {
				t.Errorf("no %s in\n%s", want, in.Text)
			}
			if got := strings.Count(in.Text, "\n  partition "); got != c.parts {
				t.Errorf("%d partitions, want %d:\n%s", got, c.parts, in.Text)
			}
			said := in.Diags.Error()
			about := false
			for _, s := range []string{"The two slots differ", "Partitions move", "One root file system", "No root file system"} {
				about = about || strings.Contains(in.Text, s)
			}
			if c.warns == "" && about || !strings.Contains(in.Text, c.warns) {
				t.Errorf("want a note %q; got %s\n%s", c.warns, said, in.Text)
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	in := importText(t, strings.Join([]string{
		"part spl --no-table --source rawcopy --sourceparams=file=SPL --offset 1k --size 69k",
		"part loader --no-table --source rawcopy --sourceparams=file=u-boot.img --offset 128s --size 1M",
		"part env --no-table --source rawcopy --sourceparams=file=uboot.env --offset 4096 --fixed-size 128k",
		"part /boot --fstype=vfat --offset 8M --size 16 --align 1024",
		"part / --source rootfs --fstype=ext4 --fixed-size 64 --offset 32M",
		"part /data --fstype=ext4 --fixed-size 64 --offset 33M",
		"bootloader --ptable gpt",
	}, "\n"), nil)
	mustWork(t, in.Text)
	for _, want := range []string{
		"reserve \"loader\" {\n    offset = \"64KiB\"\n    size   = \"1MiB\"",
		"reserve \"uboot_env\" {\n    offset = \"4MiB\"\n    size   = \"128KiB\"",
		"partition \"boot\" {\n    offset     = \"8MiB\"",
		"reserve \"before_rootfs\" {\n    offset = \"24MiB\"\n    size   = \"8MiB\"",
		"board.wks:1: No place beside a GPT.",
		"board.wks:6: Place cannot be kept.",
	} {
		if !strings.Contains(in.Text, want) {
			t.Errorf("no %q in\n%s", want, in.Text)
		}
	}
	if strings.Contains(in.Text, `"spl"`) {
		t.Error("an area in the place of the GPT was kept")
	}
}

// TestTables: the kinds of table, and what goes only with one of them.
func TestTables(t *testing.T) {
	t.Parallel()
	const slots = "part / --source rootfs --fstype=ext4 --fixed-size 64 --align 1024\npart --source rootfs --fstype=ext4 --fixed-size 64 --align 1024\n"
	const loader = "part loader --no-table --source rawcopy --sourceparams=file=u-boot.bin --fixed-size 512k "
	for name, c := range map[string]struct {
		src         string
		want, never []string
	}{
		"mbr by default":     {slots, []string{`table     = "mbr"`}, []string{"GPT"}},
		"loader at 8KiB":     {"bootloader --ptable msdos\n" + loader + "--align 8\n" + slots, []string{`table     = "mbr"`, "reserve \"loader\" {\n    offset = \"8KiB\""}, []string{"gpt {"}},
		"loader behind GPT":  {"bootloader --ptable gpt\n" + loader + "--align 8\n" + slots, []string{"reserve \"loader\" {\n    offset = \"24KiB\"", "board.wks:2: Place behind a GPT."}, []string{"gpt {"}},
		"loader in the GPT":  {"bootloader --ptable gpt\n" + loader + "--offset 8k\n" + slots, []string{"reserve \"loader\" {\n    offset = \"8KiB\"", "entries = 56", "board.wks:2: Smaller table."}, nil},
		"disk id":            {"bootloader --ptable msdos --diskid 0xabc\n" + slots, []string{`disk_id   = "00000abc"`}, nil},
		"wrong disk id":      {"bootloader --ptable gpt --diskid 0xabc\n" + slots, []string{"board.wks:1: Disk identifier left out."}, []string{"disk_id   ="}},
		"hybrid":             {"bootloader --ptable gpt-hybrid\npart /boot --mbr --fixed-size 8\n" + slots, []string{`table     = "hybrid"`, "in_mbr     = true"}, nil},
		"hybrid of none":     {"bootloader --ptable gpt-hybrid\n" + slots, []string{`table     = "gpt"`, "board.wks:1: Hybrid without partitions."}, nil},
		"hybrid of too many": {"bootloader --ptable gpt-hybrid\npart /boot --mbr --fixed-size 8\npart /x --mbr --fixed-size 8\npart / --mbr --source rootfs --fstype=ext4 --fixed-size 64\n", []string{"board.wks:4: Too many in the MBR."}, nil},
		"system id":          {"part /boot --fixed-size 8 --system-id 0xef\n" + slots, []string{`mbr_type   = "ef"`}, nil},
		"system id of a GPT": {"bootloader --ptable gpt\npart /boot --fixed-size 8 --system-id 0xef\n" + slots, []string{"board.wks:2: Option left out. --system-id"}, []string{"mbr_type"}},
		"extended type":      {"part /boot --fixed-size 8 --system-id 0x0f\n" + slots, []string{"board.wks:1: Type left out."}, []string{"mbr_type"}},
		"two active":         {"part /boot --active --fixed-size 8\npart /x --active --fixed-size 8\n" + slots, []string{"board.wks:1: Second active partition."}, nil},
		"names in an MBR":    {"part /boot --fixed-size 8 --part-name boot --part-type c12a7328-f81f-11d2-ba4b-00a0c93ec93b\n" + slots, []string{"--part-name: an MBR has no names", "--part-type: wic refuses it"}, nil},
		"uuid":               {"bootloader --ptable gpt\npart /x --fixed-size 8 --uuid 8B0C1E36-7f0e-4d0c-9c0e-2d6a9a9a0001\npart /y --fixed-size 8 --uuid 8b0c1e36-7f0e-4d0c-9c0e-2d6a9a9a0001\n" + slots, []string{`uuid       = "8b0c1e36-7f0e-4d0c-9c0e-2d6a9a9a0001"`, "board.wks:3: Option left out. --uuid: another one has it already."}, nil},
		"disks":              {"part /boot --ondisk mmcblk0 --fixed-size 8\npart /x --ondrive sda --fixed-size 8\n" + slots, []string{`storage_device = "/dev/mmcblk0"`, "board.wks:2: Another disk."}, nil},
		"unpacked":           {"part /x --source rawcopy --sourceparams=file=a.gz,unpack,skip=4 --fixed-size 8\n" + slots, []string{"board.wks:1: Compressed content.", "board.wks:1: Skipped bytes."}, nil},
		"uefi":               {"bootloader --ptable gpt\npart /boot --source bootimg_efi --active --fixed-size 64\n" + slots, []string{`bootloader "grub-efi" {}`, "board.wks:2: Boot loader comes with a fill."}, []string{"uboot_env"}},
		"table flags":        {loader + "--offset 8k --active\n" + slots, []string{"--active is about the table"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := importText(t, c.src, nil)
			if in.Diags.HasErrors() {
				t.Fatal(in.Diags)
			}
			mustWork(t, in.Text)
			text := strings.ReplaceAll(in.Text, "\n# ", " ") // comments are wrapped
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, in.Text)
				}
			}
			for _, never := range c.never {
				if strings.Contains(text, never) {
					t.Errorf("%q in\n%s", never, in.Text)
				}
			}
		})
	}
}

func TestImportErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ src, want string }{
		"nothing":         {"# only a comment\n", "No partitions"},
		"command":         {"part / --size 8\nvolume x\n", `board.wks:2,1-9: Unknown command; "volume"`},
		"quote":           {"part / --label \"x\n", "Open quotation"},
		"size":            {"part / --size 8X\n", `--size: "8X" is not a size`},
		"huge":            {"part / --size 9999999999999G\n", "more than a disk holds"},
		"negative":        {"part / --size=-1\n", "is not a size"},
		"align":           {"part / --align 99999999999 --size 8\n", "Wrong alignment"},
		"no value":        {"part / --size --fstype=ext4\n", "--size needs a value"},
		"variable":        {"part / --size ${X}\n", "--var X=VALUE"},
		"python":          {"part / --size ${@d.getVar('X')}\n", "IMAGE-MACHINE.wks"},
		"include itself":  {"include board.wks\n", "includes itself"},
		"include outside": {"include /etc/passwd\n", "Include leaves the directory"},
		"include missing": {"include other.wks\n", "Cannot read kickstart file"},
		"two loaders":     {"part / --size 8\nbootloader\nbootloader\n", "Second bootloader"},
		"too many":        {strings.Repeat("part --size 1\n", maxParts+1), "Too many partitions"},
		"too many lines":  {strings.Repeat("part --size 1\n", maxLines+1), "Too many lines"},
		"long line":       {"part / --label " + strings.Repeat("x", maxLine+1), "Line too long"},
		"too large":       {strings.Repeat("#", maxKickstart+1), "larger than 1 MiB"},
		"overlap":         {"part / --size 8\npart x --no-table --offset 1M --size 1M\n", "Areas overlap"},
		"table":           {"bootloader --ptable sun\npart / --size 8\n", "Unknown table"},
		"overhead":        {"part / --source rootfs --size 8 --overhead-factor 0.5\n", "Wrong overhead"},
		"beyond an MBR":   {"part / --fixed-size 1500G\n", "Disk too large"},
		"primary between": {"part /a --size 8 --type logical\npart / --size 8\npart /b --size 8 --type logical\n", "Primary partition among logical ones"},
		"zero byte":       {"part / --label \x00 --size 8\n", "Not a kickstart file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := importText(t, c.src, nil)
			if !in.Diags.HasErrors() || in.Text != "" {
				t.Fatalf("no error, but %q", in.Text)
			}
			all := ""
			for _, d := range in.Diags {
				all += d.Error() + "\n"
			}
			if !strings.Contains(all, c.want) {
				t.Errorf("got %s, want %q", all, c.want)
			}
		})
	}
}

// TestExpansionIsBounded: a variable that contains itself, and one that doubles, end soon.
func TestExpansionIsBounded(t *testing.T) {
	t.Parallel()
	for _, vars := range []map[string]string{{"A": "${A}"}, {"A": "${A}${A}"}, {"A": strings.Repeat("x", 1<<17)}} {
		if in := importText(t, "part / --label ${A} --size 8\n", vars); !in.Diags.HasErrors() {
			t.Errorf("no error for %d bytes", len(vars["A"]))
		}
	}
}

// TestTextCannotLeaveComments: what a file says stays what it is in the text.
func TestTextCannotLeaveComments(t *testing.T) {
	t.Parallel()
	in := importText(t, "part / --source rootfs --fstype=ext4 --size 64\n"+
		"part /x --fstype=ext4 --size 8 --label '${var.x}' --source rawcopy --sourceparams 'file=${file(\"/etc/passwd\")}\u2028}' --part-type \"a\r}\"\n"+
		"bootloader --ptable gpt --append \"a \\\" b ${Q}\"\n", map[string]string{
		"var.x": "${", "file(\"/etc/passwd\")": "\r\n}\nlayout \"y\" {", "Q": "\x1b[31m",
	})
	if in.Diags.HasErrors() {
		t.Fatal(in.Diags)
	}
	mustWork(t, in.Text)
	if strings.Count(in.Text, "\nlayout ") != 1 || strings.ContainsAny(in.Text, "\x1b\r") {
		t.Errorf("%q", in.Text)
	}
}

func TestShellWords(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		`a  b`: {"a", "b"}, `a"b c"d`: {"ab cd"}, `'a\' b`: {`a\`, "b"}, `"a\"b\x"`: {`a"b\x`}, `a\ b ""`: {"a b", ""},
	} {
		got, err := shellWords(in)
		if err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
}

// FuzzImport: whatever the file, there is a finding or a text that works; nothing panics.
func FuzzImport(f *testing.F) {
	inputs, err := filepath.Glob("testdata/wks/*.wks")
	if err != nil || len(inputs) == 0 {
		f.Fatal("no seeds")
	}
	for _, input := range inputs {
		src, err := os.ReadFile(input)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(src))
	}
	for _, seed := range []string{ // names, sizes and places that have gone wrong
		"bootloader --ptable gpt\npart --no-table --fixed-size 3k --part-name env\n",
		"bootloader --ptable gpt\npart /boot --label root_b --offset 32M --no-table\npart x --fixed-size 3k\npart --label root_a --align 33\n",
		"part x --size 900G\npart /data --fixed-size 3k --align 4096 --fstype=none\npart /data --fixed-size 3k --fstype=ext4\npart swap --fstype=swap --offset 3s --align 33\n",
		"bootloader --ptable gpt-hybrid\npart x --size 1900G\npart /boot --mbr --size 900G\n",
		"part / --no-table --part-name env\npart swap --offset 32M --size 900G\npart /boot --size 1G --align 33 --no-table\n",
		"part / --source rootfs --fstype=ext4 --fixed-size 3k\n",
		"part /a --type logical --size 8\npart /b --type logical --size 8 --align 3\npart / --source rootfs --fstype=ext4 --size 8\n",
	} {
		f.Add(seed)
	}
	f.Add("part a --no-table --offset 64k\npart b --offset 3s --align 3\\\n --size 1\npart --label x_a --size 1\npart --label x_b\n")
	f.Fuzz(func(t *testing.T, src string) {
		in, err := Import(Kickstart{FS: fstest.MapFS{"f.wks": {Data: []byte(src)}}, Name: "f.wks", Vars: map[string]string{"A": "1"}})
		if err != nil {
			t.Fatal(err)
		}
		if in.Diags.HasErrors() {
			if in.Text != "" {
				t.Fatal("a text in spite of errors")
			}
			return
		}
		mustWork(t, in.Text)
	})
}
