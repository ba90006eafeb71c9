package imaging

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// placedParts are a map's partitions as "number name offset size", by number.
func placedParts(m *Map) (out []string) {
	var parts []Region
	for _, r := range m.Regions {
		if r.Kind == KindPartition {
			parts = append(parts, r)
		}
	}
	slices.SortFunc(parts, func(a, b Region) int { return a.Number - b.Number })
	for _, r := range parts {
		out = append(out, fmt.Sprintf("%d %s %d %d", r.Number, r.Name, r.Offset, r.Size))
	}
	return out
}

type presetCase struct {
	preset string
	vars   map[string]string
	want   []string
	size   int64
}

// The offsets and sizes come from a program that has the functions of meta-mender's classes word for word, followed by the
// placing of wic's direct.py: 1 or 34 sectors first, each part aligned, two sectors for a logical one, padded to the alignment.
var presetCases = map[string]presetCase{
	"sdimg": {
		"sdimg", nil,
		[]string{"1 boot 25165824 16777216", "2 rootfs_a 41943040 444596224", "3 rootfs_b 486539264 444596224", "4 data 931135488 134217728"},
		1065353216,
	},
	"uefiimg": {
		"uefiimg", nil,
		[]string{"1 boot 8388608 16777216", "2 rootfs_a 25165824 452984832", "3 rootfs_b 478150656 452984832", "4 data 931135488 134217728"},
		1073741824,
	},
	"gptimg": {
		"gptimg", nil,
		[]string{"1 boot 25165824 16777216", "2 rootfs_a 41943040 444596224", "3 rootfs_b 486539264 444596224", "4 data 931135488 134217728"},
		1073741824,
	},
	"biosimg": {
		"biosimg", nil,
		[]string{"1 boot 8388608 16777216", "2 rootfs_a 25165824 452984832", "3 rootfs_b 478150656 452984832", "4 data 931135488 134217728"},
		1065353216,
	},
	"sdimg, 8 GB card": {
		"sdimg",
		map[string]string{
			"MENDER_STORAGE_TOTAL_SIZE_MB": "7600", "MENDER_BOOT_PART_SIZE_MB": "64", "MENDER_DATA_PART_SIZE_MB": "500",
			"MENDER_STORAGE_PEB_SIZE": "4194304",
		},
		[]string{"1 boot 12582912 67108864", "2 rootfs_a 79691776 3678404608", "3 rootfs_b 3758096384 3678404608", "4 data 7436500992 524288000"},
		7960788992,
	},
	"uefiimg with everything": {
		"uefiimg",
		map[string]string{
			"MENDER_STORAGE_TOTAL_SIZE_MB": "16384", "MENDER_BOOT_PART_SIZE_MB": "256", "MENDER_DATA_PART_SIZE_MB": "2048",
			"MENDER_SWAP_PART_SIZE_MB": "1023", "MENDER_EXTRA_PARTS": "logs home", "MENDER_EXTRA_PARTS_SIZES_MB[logs]": "512",
			"MENDER_EXTRA_PARTS_SIZES_MB[home]": "100", "MENDER_EXTRA_PARTS[home]": "--fstype=ext4 --label=home",
			"MENDER_DATA_PART_NUMBER": "5",
		},
		[]string{
			"1 boot 8388608 268435456", "2 rootfs_a 276824064 6509559808", "3 rootfs_b 6786383872 6509559808", "4 swap 13295943680 1072693248",
			"5 data 14369685504 2147483648", "6 logs 16517169152 536870912", "7 home 17054040064 104857600",
		},
		17163091968,
	},
	"gptimg with a large environment": {
		"gptimg",
		map[string]string{
			"MENDER_STORAGE_TOTAL_SIZE_MB": "3800", "MENDER_STORAGE_PEB_SIZE": "1048576", "BOOTENV_SIZE": "0x120000",
			"MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET": "4194304", "MENDER_RESERVED_SPACE_BOOTLOADER_DATA": "8388608",
		},
		[]string{"1 boot 8388608 16777216", "2 rootfs_a 25165824 1911554048", "3 rootfs_b 1936719872 1911554048", "4 data 3848273920 134217728"},
		3983540224,
	},
	"sdimg with six partitions": {
		"sdimg",
		map[string]string{
			"MENDER_STORAGE_TOTAL_SIZE_MB": "2048", "MENDER_SWAP_PART_SIZE_MB": "64", "MENDER_EXTRA_PARTS": "logs",
			"MENDER_EXTRA_PARTS_SIZES_MB[logs]": "33", "MENDER_DATA_PART_NUMBER": "6",
		},
		[]string{
			"1 boot 25165824 16777216", "2 rootfs_a 41943040 922746880", "3 rootfs_b 964689920 922746880", "5 swap 1895825408 67108864",
			"6 data 1971322880 134217728", "7 logs 2113929216 34603008",
		},
		2155872256,
	},
	"biosimg without boot partition": {
		"biosimg",
		map[string]string{
			"MENDER_STORAGE_TOTAL_SIZE_MB": "500", "MENDER_BOOT_PART_SIZE_MB": "0", "MENDER_DATA_PART_SIZE_MB": "20", "MENDER_STORAGE_PEB_SIZE": "512",
			"MENDER_IMAGE_BOOTLOADER_FILE": "", "MENDER_ROOTFS_PART_A_NUMBER": "1",
		},
		[]string{"1 rootfs_a 1024 251657216", "2 rootfs_b 251658240 251657216", "3 data 503315456 20971520"},
		524286976,
	},
	"sdimg without boot partition": {
		"sdimg",
		map[string]string{
			"MENDER_BOOT_PART_SIZE_MB": "0", "MENDER_DATA_PART_SIZE_MB": "100", "MENDER_EXTRA_PARTS": "x y",
			"MENDER_EXTRA_PARTS_SIZES_MB[x]": "10", "MENDER_EXTRA_PARTS_SIZES_MB[y]": "20",
		},
		[]string{
			"1 rootfs_a 25165824 444596224", "2 rootfs_b 469762048 444596224", "3 data 914358272 104857600", "5 x 1023410176 10485760", "6 y 1040187392 20971520",
		},
		1065353216,
	},
	"mender-convert with GRUB": {
		"mender-convert-grub", nil,
		[]string{"1 boot 8388608 41943040", "2 rootfs_a 50331648 4194304000", "3 rootfs_b 4244635648 4194304000", "4 data 8438939648 134217728"},
		8192 << 20,
	},
	"mender-convert with U-Boot": {
		"mender-convert-uboot", nil,
		[]string{"1 boot 25165824 41943040", "2 rootfs_a 67108864 4185915392", "3 rootfs_b 4253024256 4185915392", "4 data 8438939648 134217728"},
		8192 << 20,
	},
}

func TestPresets(t *testing.T) {
	for name, c := range presetCases {
		l, info, err := Preset(c.preset, c.vars)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		m, err := l.Resolve()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(c.want, placedParts(m)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if m.Size != c.size {
			t.Errorf("%s: %d bytes, want %d", name, m.Size, c.size)
		}
		if a, _ := m.Find("rootfs_a"); a.Size != info.SlotSize {
			t.Errorf("%s: slots of %d, info has %d", name, a.Size, info.SlotSize)
		}
		if larger := m.Size > info.TotalSize; larger != strings.Contains(strings.Join(info.Notes, "\n"), "more than MENDER_STORAGE_TOTAL_SIZE_MB") {
			t.Errorf("%s: %d bytes for %d: notes %q", name, m.Size, info.TotalSize, info.Notes)
		}
	}
}

// TestPresetTypes has what reference images have: types, flags, labels, reserves, environment.
func TestPresetTypes(t *testing.T) {
	type want struct {
		parts    []string
		reserves []string
		env      *PresetEnvironment
		files    []PresetFile
	}
	env := &PresetEnvironment{Reserve: "env", Device: "/dev/mmcblk0", Offsets: [2]int64{0x800000, 0x1000000}, Size: 0x20000}
	for name, w := range map[string]want{
		"sdimg": {
			[]string{"0c vfat boot [] true", "83 ext4  [] false", "83 ext4  [] false", "83 ext4 data [] false"},
			[]string{"env 8388608 16777216"},
			env, nil,
		},
		"gptimg": {
			[]string{"basic-data vfat boot [legacy-boot] true", "linux ext4  [] false", "linux ext4  [] false", "linux ext4 data [] false"},
			[]string{"env 8388608 16777216"},
			env, nil,
		},
		"uefiimg": {
			[]string{"esp vfat boot [legacy-boot] true", "linux ext4  [] false", "linux ext4  [] false", "linux ext4 data [] false"}, nil, nil, nil,
		},
		"biosimg": {
			[]string{"0c vfat boot [] true", "83 ext4  [] false", "83 ext4  [] false", "83 ext4 data [] false"},
			[]string{"boot_code 0 440", "bootloader 512 8388096"},
			nil,
			[]PresetFile{{Reserve: "boot_code", File: "boot.img", Length: 440}, {Reserve: "bootloader", File: "grub-core.img"}},
		},
	} {
		l, info, err := Preset(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		m, err := l.Resolve()
		if err != nil {
			t.Fatal(err)
		}
		var got want
		for _, r := range m.Regions {
			switch r.Kind {
			case KindPartition:
				typ := r.MBRType
				if r.Type != "" {
					typ = TypeName(r.Type)
				}
				got.parts = append(got.parts, fmt.Sprint(typ, " ", r.Filesystem, " ", r.Label, " ", r.Attributes, " ", r.Bootable))
			case KindReserve:
				got.reserves = append(got.reserves, fmt.Sprint(r.Name, " ", r.Offset, " ", r.Size))
			}
		}
		got.env, got.files = info.Environment, info.Files
		if diff := cmp.Diff(w, got, cmp.AllowUnexported(want{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestPresetVariables(t *testing.T) {
	l, info, err := Preset("uefiimg", map[string]string{
		"MENDER_STORAGE_DEVICE": "/dev/sda", "ARTIFACTIMG_FSTYPE": "btrfs", "MENDER_CALC_ROOTFS_SIZE": "409600",
		"MENDER_FEATURES": "mender-grub mender-partuuid", "MENDER_BOOT_PART_LABEL": "EFI", "MENDER_DATA_PART_FSTYPE": "ext4",
		"MENDER_ROOTFS_PART_A": "/dev/disk/by-partuuid/01234567-89ab-cdef-0123-456789abcdef",
	})
	if err != nil {
		t.Fatal(err)
	}
	if info.DeviceBase != "/dev/sda" || info.SlotSize != 400*mib || info.Environment != nil {
		t.Errorf("%+v", info)
	}
	if diff := cmp.Diff([]string{
		"the root file systems have 400 MiB (419430400 bytes), as MENDER_CALC_ROOTFS_SIZE says; the other variables give 432 MiB (452984832 bytes)",
		`partition "rootfs_a": btrfs is copied as it is, not checked or made`, `partition "rootfs_b": btrfs is copied as it is, not checked or made`,
	}, info.Notes); diff != "" {
		t.Error(diff)
	}
	if l.Partitions[0].Label != "EFI" || l.Partitions[1].UUID != "01234567-89ab-cdef-0123-456789abcdef" || l.Partitions[3].Filesystem != "ext4" {
		t.Errorf("%+v", l.Partitions)
	}
	l, info, err = Preset("sdimg", map[string]string{
		"MENDER_ROOTFS_PART_A": byPartUUID + "1234abcd-02", "MENDER_ROOTFS_PART_B": byPartUUID + "1234abcd-03", "MENDER_IMAGE_BOOTLOADER_FILE": "u-boot.bin",
		"MENDER_UBOOT_CONFIG_SYS_MMC_ENV_PART": "1", "MENDER_RESERVED_SPACE_BOOTLOADER_DATA": "0",
	})
	if err != nil {
		t.Fatal(err)
	}
	if l.DiskID != "1234abcd" || info.Environment.Device != "/dev/mmcblk0boot0" || len(l.Reserves) != 1 || l.Reserves[0].Offset != 1024 || l.Reserves[0].Size != 8*mib-1024 {
		t.Errorf("%s, %+v, %+v", l.DiskID, info.Environment, l.Reserves)
	}
}

func TestPresetRefuses(t *testing.T) {
	var b strings.Builder
	cases := map[string]presetCase{
		"unknown":                   {preset: "uefi"},
		"no number":                 {preset: "sdimg", vars: map[string]string{"MENDER_BOOT_PART_SIZE_MB": "${@max(1, 2)}"}},
		"negative":                  {preset: "sdimg", vars: map[string]string{"MENDER_DATA_PART_SIZE_MB": "-5"}},
		"absurd":                    {preset: "sdimg", vars: map[string]string{"MENDER_STORAGE_TOTAL_SIZE_MB": "4000000000000000"}},
		"no data":                   {preset: "sdimg", vars: map[string]string{"MENDER_DATA_PART_SIZE_MB": "0"}},
		"nothing left":              {preset: "sdimg", vars: map[string]string{"MENDER_DATA_PART_SIZE_MB": "1000"}},
		"alignment":                 {preset: "sdimg", vars: map[string]string{"MENDER_PARTITION_ALIGNMENT": "126976123"}},
		"environment off alignment": {preset: "sdimg", vars: map[string]string{"MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET": "0x400000"}},
		"environment too large":     {preset: "sdimg", vars: map[string]string{"BOOTENV_SIZE": "0x900000"}},
		"copies overlap":            {preset: "sdimg", vars: map[string]string{"MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_2": "0x810000"}},
		"copy elsewhere":            {preset: "sdimg", vars: map[string]string{"MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_2": "0x2000000"}},
		"odd reserve":               {preset: "sdimg", vars: map[string]string{"MENDER_RESERVED_SPACE_BOOTLOADER_DATA": "8388608"}},
		"loader over the GPT":       {preset: "gptimg", vars: map[string]string{"MENDER_IMAGE_BOOTLOADER_FILE": "u-boot.bin"}},
		"loader behind":             {preset: "sdimg", vars: map[string]string{"MENDER_IMAGE_BOOTLOADER_FILE": "u-boot.bin", "MENDER_IMAGE_BOOTLOADER_BOOTSECTOR_OFFSET": "16384"}},
		"wrong number":              {preset: "sdimg", vars: map[string]string{"MENDER_DATA_PART_NUMBER": "5"}},
		"wrong PARTUUID":            {preset: "sdimg", vars: map[string]string{"MENDER_ROOTFS_PART_A": byPartUUID + "1234abcd-03"}},
		"two disks":                 {preset: "sdimg", vars: map[string]string{"MENDER_ROOTFS_PART_A": byPartUUID + "1234abcd-02", "MENDER_ROOTFS_PART_B": byPartUUID + "1234abce-03"}},
		"GPT UUID in an MBR":        {preset: "sdimg", vars: map[string]string{"MENDER_BOOT_PART": byPartUUID + "01234567-89ab-cdef-0123-456789abcdef"}},
		"extra without size":        {preset: "sdimg", vars: map[string]string{"MENDER_EXTRA_PARTS": "logs"}},
		"extra named data":          {preset: "sdimg", vars: map[string]string{"MENDER_EXTRA_PARTS": "data", "MENDER_EXTRA_PARTS_SIZES_MB[data]": "8"}},
		"extra with a bad type":     {preset: "gptimg", vars: map[string]string{"MENDER_EXTRA_PARTS": "x", "MENDER_EXTRA_PARTS_SIZES_MB[x]": "8", "MENDER_EXTRA_PARTS[x]": "--part-type 83"}},
		"long data label":           {preset: "sdimg", vars: map[string]string{"MENDER_DATA_PART_LABEL": "persistent-storage"}},
		"scheme":                    {preset: "mender-convert-grub", vars: map[string]string{"MENDER_PARTITION_SCHEME": "apm"}},
		"convert, nothing left":     {preset: "mender-convert-uboot", vars: map[string]string{"MENDER_STORAGE_TOTAL_SIZE_MB": "200"}},
		"convert, no boot":          {preset: "mender-convert-uboot", vars: map[string]string{"MENDER_BOOT_PART_SIZE_MB": "0"}},
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		_, _, err := Preset(c.preset, c.vars)
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
	}
	golden(t, "presets_refused.txt", b.String())
}

func FuzzPreset(f *testing.F) {
	names := PresetNames()
	f.Add(uint8(0), "MENDER_BOOT_PART_SIZE_MB", "64", "MENDER_EXTRA_PARTS", "a b")
	f.Add(uint8(3), "BOOTENV_SIZE", "0xffffffffffffff", "MENDER_STORAGE_TOTAL_SIZE_MB", "68719476735")
	f.Add(uint8(4), "MENDER_PARTITION_ALIGNMENT", "1024", "MENDER_EXTRA_PARTS_SIZES_MB[a]", "1")
	f.Fuzz(func(t *testing.T, preset uint8, name1, value1, name2, value2 string) {
		vars := map[string]string{name1: value1, name2: value2, "MENDER_EXTRA_PARTS_SIZES_MB[b]": "1"}
		l, _, err := Preset(names[int(preset)%len(names)], vars)
		if err != nil {
			var le *LayoutError
			if !errors.As(err, &le) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		m, err := l.Resolve()
		if err != nil {
			t.Fatal(err)
		}
		if m.Size <= 0 || len(m.Regions) < 3 {
			t.Fatalf("%+v", m)
		}
	})
}
