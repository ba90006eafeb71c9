package build

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/pipeline"
)

func ubootImage() *pipeline.Image {
	return &pipeline.Image{
		Address: "image.board", Name: "board",
		DeviceType: pipeline.DeviceType{
			Name: "board", StorageBase: "/dev/mmcblk0",
			Layout: pipeline.Layout{
				Table: "gpt", Alignment: 1 << 20,
				Reserves: []pipeline.Reserve{{Name: "env", Offset: 1 << 20, Size: 128 << 10}},
				Partitions: []pipeline.Partition{
					{Name: "boot", Size: 4 << 20, Filesystem: "vfat"},
					{Name: "rootfs_a", Size: 8 << 20, Filesystem: "ext4", Slot: "a", SlotGroup: "rootfs"},
					{Name: "rootfs_b", Size: 8 << 20, Filesystem: "ext4", Slot: "b", SlotGroup: "rootfs"},
				},
			},
			Bootloader: pipeline.Bootloader{Kind: "u-boot", Environment: "env", EnvironmentSize: 64 << 10, Redundant: true},
		},
	}
}

func TestFirstEnvironment(t *testing.T) {
	t.Parallel()
	im := ubootImage()
	m, err := ImageMap(im)
	if err != nil {
		t.Fatal(err)
	}
	initial := filepath.Join(t.TempDir(), "u-boot-initial-env")
	write(t, initial, "bootcmd=run distro_bootcmd\nbootlimit=3\nbootcount=7\nupgrade_available=1\nempty=\nwith=a=b\n")
	block, err := firstEnvironment(im, m, initial)
	if err != nil {
		t.Fatal(err)
	}
	half := len(block) / 2
	if !bytes.Equal(block[:64<<10], block[half:half+64<<10]) {
		t.Error("the two copies differ")
	}
	vars, flag, err := bootenv.DecodeUBoot(block[:64<<10], true)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"bootcmd": "run distro_bootcmd", "bootlimit": "3", "bootcount": "0", "upgrade_available": "0",
		"mender_boot_part": "2", "mender_boot_part_hex": "2", "with": "a=b",
	}
	for name, value := range want {
		if vars[name] != value {
			t.Errorf("%s is %q, want %q", name, vars[name], value)
		}
	}
	if flag != 1 {
		t.Errorf("flag %d, want 1 as mkenvimage writes it", flag)
	}
}

func TestInitialEnvironmentThatWouldNotBoot(t *testing.T) {
	t.Parallel()
	im := ubootImage()
	m, err := ImageMap(im)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":                                       "NAME=VALUE",
		"bootdelay=2\n":                          "bootcmd",
		"bootcmd=x\n\x00\x01\n":                  "line 2",
		"bootcmd=" + strings.Repeat("x", 65<<10): "has room for 65536",
	} {
		initial := filepath.Join(t.TempDir(), "env")
		write(t, initial, text)
		if _, err := firstEnvironment(im, m, initial); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %q", text, err, want)
		}
	}
	if _, err := firstEnvironment(im, m, "/no/such/file"); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
}

// TestImageKey: what changes an image changes its key.
func TestImageKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, tree := filepath.Join(dir, "file"), filepath.Join(dir, "tree")
	write(t, file, "one")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(tree, "file"), "one")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(tree, link); err != nil {
		t.Fatal(err)
	}
	im := ubootImage()
	plan := &pipeline.Plan{Dir: dir, OutDir: filepath.Join(dir, "out"), Actions: []*pipeline.Action{{Address: im.Address, Kind: pipeline.KindImage, Image: im}}}
	seen := map[string]string{}
	for name, fill := range map[string]func() pipeline.Fill{
		"file":          func() pipeline.Fill { return pipeline.Fill{Partition: "boot", File: file} },
		"file in it":    func() pipeline.Fill { return pipeline.Fill{Partition: "boot", Files: map[string]string{"file": file}} },
		"other name":    func() pipeline.Fill { return pipeline.Fill{Partition: "boot", Files: map[string]string{"file2": file}} },
		"both":          func() pipeline.Fill { return pipeline.Fill{Partition: "rootfs", File: file, Both: true} },
		"slot A":        func() pipeline.Fill { return pipeline.Fill{Partition: "rootfs", File: file} },
		"nothing in it": func() pipeline.Fill { return pipeline.Fill{Partition: "boot", Files: map[string]string{}} },
		"link":          func() pipeline.Fill { return pipeline.Fill{Partition: "boot", Dir: link} },
		"link, changed": func() pipeline.Fill {
			other := filepath.Join(dir, "tree2")
			if err := os.Mkdir(other, 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(other, "file"), "two")
			link := filepath.Join(dir, "link2")
			if err := os.Symlink(other, link); err != nil {
				t.Fatal(err)
			}
			return pipeline.Fill{Partition: "boot", Dir: link}
		},
	} {
		im.Fills = []pipeline.Fill{fill()}
		key := decideOne(t, plan).Key
		if other := seen[key]; other != "" {
			t.Errorf("%q and %q have one key", name, other)
		}
		seen[key] = name
	}
}

// TestLinkedDirectory: a link to a directory fills a partition as the directory does, and a change behind it counts.
func TestLinkedDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(tree, "file"), "one")
	link := filepath.Join(dir, "link")
	if err := os.Symlink("tree", link); err != nil {
		t.Fatal(err)
	}
	d := openDigests(dir)
	digest := func() (string, error) {
		tree, err := imaging.ReadTree(t.Context(), link)
		if err != nil {
			return "", err
		}
		return d.fill(t.Context(), tree, true)
	}
	before, err := digest()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(tree, "file"), "two")
	if after, err := digest(); err != nil || after == before {
		t.Errorf("a change behind the link is not seen: %v", err)
	}
}

// TestEmptyListIsNotTheDefault: clears_provides = [] makes another artifact than no clears_provides.
func TestEmptyListIsNotTheDefault(t *testing.T) {
	t.Parallel()
	plan := artifactPlan(t)
	buildAll(t, plan)
	plan.Actions[0].Artifact.ClearsProvides = []string{}
	if got := decideOne(t, plan); got.Verb != VerbRebuild {
		t.Errorf("it is %s", got.Verb)
	}
}

// TestLayoutIsCheckedBeforeTheBuild: a layout that cannot be written is found with the plan.
func TestLayoutIsCheckedBeforeTheBuild(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	im := ubootImage()
	im.DeviceType.Layout.Reserves[0].Offset = 0 // over the partition table
	plan := &pipeline.Plan{Dir: dir, OutDir: filepath.Join(dir, "out"), Actions: []*pipeline.Action{{Address: im.Address, Kind: pipeline.KindImage, Image: im}}}
	if _, err := Decide(t.Context(), plan, false); err == nil || !strings.Contains(err.Error(), "overlaps") {
		t.Errorf("got %v", err)
	}
}

// TestAgentDataBesideAFill: the data partition's own directories may be there, the agent's files may not.
func TestAgentDataBesideAFill(t *testing.T) {
	t.Parallel()
	agent := []imaging.TreeFile{{Path: "mender", Mode: os.ModeDir | 0o755}, {Path: "mender/device_type", Data: []byte("x")}}
	content := imaging.Content{Tree: []imaging.TreeFile{{Path: "mender", Mode: os.ModeDir | 0o700}, {Path: "mender/extra", Data: []byte("y")}}}
	if err := addMade(&content, agent); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range content.Tree {
		paths = append(paths, f.Path)
	}
	if got := strings.Join(paths, " "); got != "mender mender/extra mender/device_type" {
		t.Errorf("got %s", got)
	}
	content = imaging.Content{Tree: []imaging.TreeFile{{Path: "mender/device_type", Data: []byte("y")}}}
	if err := addMade(&content, agent); err == nil || !strings.Contains(err.Error(), "mender/device_type") {
		t.Errorf("got %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "mender"), 0o700); err != nil {
		t.Fatal(err)
	}
	content = imaging.Content{Dir: dir}
	if err := addMade(&content, agent); err != nil || len(content.Tree) != 1 || content.Tree[0].Path != "mender/device_type" {
		t.Errorf("beside a directory: %v, %v", content.Tree, err)
	}
	write(t, filepath.Join(dir, "mender", "device_type"), "y")
	if err := addMade(&imaging.Content{Dir: dir}, agent); err == nil || !strings.Contains(err.Error(), "mender/device_type") {
		t.Errorf("got %v", err)
	}
}

func TestPartitionDevice(t *testing.T) {
	t.Parallel()
	for disk, want := range map[string]string{
		"/dev/sda": "/dev/sda2", "/dev/mmcblk0": "/dev/mmcblk0p2", "/dev/nvme0n1": "/dev/nvme0n1p2",
		"/dev/disk/by-path/platform-fe340000.mmc": "/dev/disk/by-path/platform-fe340000.mmc-part2",
		"/dev/disk/by-id/mmc-0x12":                "/dev/disk/by-id/mmc-0x12-part2",
	} {
		if got := partitionDevice(disk, 2); got != want {
			t.Errorf("%s: got %s, want %s", disk, got, want)
		}
	}
}
