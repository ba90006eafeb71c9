package build

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		"bootcmd=" + strings.Repeat("x", 65<<10): "copy 1",
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
