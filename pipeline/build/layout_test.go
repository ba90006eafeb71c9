package build

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/bootenv"
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

// TestPresetEnvironment: where the variables have the environment, the image and fw_env.config have it.
func TestPresetEnvironment(t *testing.T) {
	t.Parallel()
	initial := filepath.Join(t.TempDir(), "u-boot-initial-env")
	write(t, initial, "bootcmd=run distro_bootcmd\n")
	for name, c := range map[string]struct {
		variables map[string]string
		want      string
		inside    bool
	}{
		"defaults": {nil, "/dev/mmcblk0 0x800000 0x20000\n/dev/mmcblk0 0x1000000 0x20000\n", true},
		"elsewhere": {
			map[string]string{"BOOTENV_SIZE": "0x40000", "MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_2": "0xA00000", "MENDER_STORAGE_DEVICE": "/dev/sda"},
			"/dev/sda 0x800000 0x40000\n/dev/sda 0xa00000 0x40000\n", true,
		},
		"boot area": {
			map[string]string{"MENDER_UBOOT_CONFIG_SYS_MMC_ENV_PART": "1"},
			"/dev/mmcblk0boot0 0x800000 0x20000\n/dev/mmcblk0boot0 0x1000000 0x20000\n", false,
		},
	} {
		l, err := Layouts{}.Preset("sdimg", c.variables)
		if err != nil {
			t.Fatal(name, err)
		}
		im := &pipeline.Image{DeviceType: pipeline.DeviceType{
			Layout: *l, StorageBase: l.StorageDevice,
			Bootloader: pipeline.Bootloader{Kind: "u-boot", Environment: l.Environment.Reserve, EnvironmentSize: l.Environment.Size, Redundant: true},
		}}
		m, err := ImageMap(im)
		if err != nil {
			t.Fatal(name, err)
		}
		if got := string(bootenv.FormatFwEnvConfig(environmentCopies(im, m))); got != "# device offset size\n"+c.want {
			t.Errorf("%s: fw_env.config is\n%s", name, got)
		}
		if inside := EnvironmentLocations(im, m) != nil; inside != c.inside {
			t.Errorf("%s: on the disk %v", name, inside)
		}
		if !c.inside {
			continue
		}
		block, err := firstEnvironment(im, m, initial)
		if err != nil {
			t.Fatal(name, err)
		}
		area, _ := m.Find("env")
		for _, at := range environmentCopies(im, m) {
			if _, _, err := bootenv.DecodeUBoot(block[at.Offset-area.Offset:][:at.Size], true); err != nil {
				t.Errorf("%s: %v: %v", name, at, err)
			}
		}
	}
}

// TestPresetNotes: what the variables may have meant otherwise is said, and what each preset boots with decides the mount.
func TestPresetNotes(t *testing.T) {
	t.Parallel()
	l, err := Layouts{}.Preset("uefiimg", map[string]string{
		"MENDER_SWAP_PART_SIZE_MB": "64", "MENDER_CALC_ROOTFS_SIZE": "102400", "MENDER_STORAGE_DEVICE_BASE": "/dev/mmcblk0-part",
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(l.Notes, "\n"); !strings.Contains(got, "mkswap") || !strings.Contains(got, "MENDER_CALC_ROOTFS_SIZE") || !strings.Contains(got, "/dev/mmcblk0p1") {
		t.Errorf("notes: %s", got)
	}
	for name, want := range map[string]string{
		"sdimg": "/uboot", "gptimg": "/uboot", "uefiimg": "/boot/efi", "biosimg": "/boot/grub", "mender-convert-grub": "/boot/efi", "mender-convert-uboot": "/uboot",
	} {
		l, err := Layouts{}.Preset(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Partitions[0].Mount; got != want {
			t.Errorf("%s mounts %s at %q", name, l.Partitions[0].Name, got)
		}
		var files []string
		for _, r := range l.Reserves {
			if r.File != "" {
				files = append(files, r.Name+"="+r.File)
			}
		}
		if (len(files) == 2) != (name == "biosimg") {
			t.Errorf("%s has %v", name, files)
		}
	}
}
