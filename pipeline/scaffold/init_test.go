package scaffold

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

// deploy makes a deploy directory. The root file system is a superblock of ext4, or of squashfs for that suffix.
func deploy(t *testing.T, vars map[string]string, files ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "board")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range files {
		data := []byte("content")
		if strings.HasSuffix(name, ".ext4") || strings.HasSuffix(name, ".ext3") {
			data = make([]byte, 1<<20)
			copy(data[1024+56:], "\x53\xef")
			data[1024+5] = 4 // 1,024 blocks of 1 KiB
		}
		if strings.Contains(name, ".squashfs") {
			data = append([]byte("hsqs"), make([]byte, 4096)...)
		}
		write(name, data)
	}
	if vars != nil {
		data, err := json.Marshal(vars)
		if err != nil {
			t.Fatal(err)
		}
		write("image-board.rootfs.testdata.json", data)
	}
	return dir
}

// mustPlan plans what was written, as the command does.
func mustPlan(t *testing.T, text string) *pipeline.Plan {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.twinkeel.hcl"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p, diags := pipeline.Load(pipeline.LoadOptions{Dir: dir})
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, text)
	}
	plan, diags := p.Plan(t.Context(), pipeline.PlanOptions{})
	if len(diags) > 0 {
		t.Fatalf("%v\n%s", diags, text)
	}
	for _, a := range plan.Actions {
		if a.Image != nil {
			if _, err := build.ImageMap(a.Image); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
		}
	}
	return plan
}

func TestStarter(t *testing.T) {
	t.Parallel()
	text, err := Starter()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.twinkeel.hcl"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p, diags := pipeline.Load(pipeline.LoadOptions{Dir: dir})
	if diags = append(diags, p.Validate()...); len(diags) > 0 {
		t.Fatal(diags)
	}
}

// TestFromYocto: what a build leaves in all its variants becomes a pipeline that can be planned.
func TestFromYocto(t *testing.T) {
	t.Parallel()
	base := map[string]string{"MACHINE": "board", "IMAGE_BASENAME": "image"}
	with := func(pairs ...string) map[string]string {
		out := map[string]string{}
		for k, v := range base {
			out[k] = v
		}
		for i := 0; i < len(pairs); i += 2 {
			out[pairs[i]] = pairs[i+1]
		}
		return out
	}
	for name, c := range map[string]struct {
		vars  map[string]string
		files []string
		want  []string // in the text
		never []string
	}{
		"no variables": {nil, []string{"image-board.ext4"}, []string{`architecture   = "arm64"`, "is a guess", `size       = "64MiB"`, `default     = "0.1.0"`}, []string{`fill "boot"`}},
		"old names":    {nil, []string{"image-board-20250101000000.rootfs.ext4", "zImage"}, []string{`architecture   = "arm"`, "build_id"}, nil},
		"new names":    {with("TARGET_ARCH", "x86_64"), []string{"image-board.rootfs-20250101000000.ext4"}, []string{`architecture   = "amd64"`, "build_id"}, nil},
		"squashfs":     {base, []string{"image-board.squashfs"}, []string{`filesystem = "squashfs"`}, []string{"rootfs_types"}},
		"other types":  {base, []string{"image-board.squashfs-xz"}, []string{`rootfs_types = ["squashfs-xz"]`, `filesystem = "squashfs"`}, nil},
		"boot files":   {with("IMAGE_BOOT_FILES", "a.dtb;b.dtb"), []string{"image-board.ext4", "a.dtb"}, []string{`fill "boot"`, `size       = "64MiB"`}, nil},
		"lost file":    {with("IMAGE_BOOT_FILES", "a.dtb gone.dtb"), []string{"image-board.ext4", "a.dtb"}, []string{"boot_files = {}"}, []string{`fill "boot"`}},
		"environment":  {base, []string{"image-board.ext4", "u-boot-initial-env"}, []string{`fill "uboot_env"`}, nil},
		"mender": {
			with("MENDER_STORAGE_DEVICE", "/dev/sda", "MENDER_PARTITION_ALIGNMENT", "4194304", "MENDER_BOOT_PART_SIZE_MB", "24", "MENDER_DATA_PART_SIZE_MB", "99",
				"MENDER_CALC_ROOTFS_SIZE", "204800", "MENDER_SWAP_PART_SIZE_MB", "32", "MENDER_DEVICE_TYPE", "dev-1", "MENDER_DEVICE_TYPES_COMPATIBLE", "dev-1 dev-2 bad;name",
				"MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_1", "4194304", "MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_2", "0x800000", "BOOTENV_SIZE", "0x20000",
				"MENDER_SERVER_URL", "https://updates.example.org", "MENDER_IMAGE_BOOTLOADER_FILE", "loader.bin", "MENDER_IMAGE_BOOTLOADER_BOOTSECTOR_OFFSET", "66"),
			[]string{"image-board.ext4", "loader.bin"},
			[]string{
				`storage_device = "/dev/sda"`, `alignment = "4MiB"`, `size       = "24MiB"`, `size       = "99MiB"`, `size       = "200MiB"`, `type = "swap"`,
				`compatible     = ["dev-2"]`, "offset = \"4MiB\"\n    size   = \"8MiB\"", `environment_size = "128KiB"`, "https://updates.example.org",
				"offset = \"33KiB\"", "${source.yocto.board.deploy_dir}/loader.bin",
			},
			nil,
		},
		"nonsense": {
			with("MENDER_STORAGE_DEVICE", "/dev/x\"\n}", "MENDER_PARTITION_ALIGNMENT", "7", "MENDER_BOOT_PART_SIZE_MB", "-4", "MENDER_DATA_PART_SIZE_MB", "99999999999999999999",
				"MENDER_CALC_ROOTFS_SIZE", "1", "MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_1", "1", "BOOTENV_SIZE", "3", "MENDER_SERVER_URL", "${file(\"/etc/passwd\")}",
				"MENDER_IMAGE_BOOTLOADER_FILE", "../../etc/passwd", "MENDER_IMAGE_BOOTLOADER_BOOTSECTOR_OFFSET", "9999999999999", "MENDER_EXTRA_PARTS", "a\n}\nb", "MENDER_FEATURES", "mender-grub"),
			[]string{"image-board.ext4"},
			[]string{`storage_device = "/dev/mmcblk0"`, "the build is for GRUB"},
			[]string{"passwd\")", `fill "bootloader"`},
		},
		"flash": {with("MENDER_STORAGE_DEVICE", "ubi0"), []string{"image-board.ext4"}, []string{"raw flash"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := FindDeploy(t.Context(), DeployOptions{Dir: deploy(t, c.vars, c.files...)})
			if err != nil {
				t.Fatal(err)
			}
			text, _, err := FromYocto(d, d.Dir)
			if err != nil {
				t.Fatal(err)
			}
			plan := mustPlan(t, text)
			if len(plan.Actions) != 3 {
				t.Errorf("%d actions", len(plan.Actions))
			}
			if a := plan.Actions[0].Artifact; a == nil || len(a.Payload.Files) != 1 || a.Payload.Files[0] != d.Rootfs {
				t.Errorf("the pipeline finds %v, the draft %s", plan.Actions[0].Artifact, d.Rootfs)
			}
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
			for _, never := range c.never {
				if strings.Contains(text, never) {
					t.Errorf("%q in\n%s", never, text)
				}
			}
		})
	}
}

func TestChoices(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files []string
		o     DeployOptions
		want  string // error; "" for none
	}{
		"several images": {[]string{"one-board.ext4", "two-board.rootfs.ext4"}, DeployOptions{}, "several images: one, two"},
		"chosen":         {[]string{"one-board.ext4", "two-board.rootfs.ext4"}, DeployOptions{Image: "two"}, ""},
		"initramfs":      {[]string{"one-board.ext4", "initramfs-board.cpio.gz"}, DeployOptions{}, ""},
		"no such image":  {[]string{"one-board.ext4"}, DeployOptions{Image: "three"}, "no root file system of an image three"},
		"other machine":  {[]string{"one-elsewhere.ext4"}, DeployOptions{}, "does not say for which machine"},
		"machine given":  {[]string{"one-elsewhere.ext4"}, DeployOptions{Machine: "elsewhere"}, ""},
		"empty":          {nil, DeployOptions{}, "no root file system of a Yocto build"},
		"compressed":     {[]string{"one-board.ext4.gz"}, DeployOptions{}, "no root file system of a Yocto build"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.o.Dir = deploy(t, nil, c.files...)
			_, err := FindDeploy(t.Context(), c.o)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var choice *ChoiceError
			if !errors.As(err, &choice) || !strings.Contains(err.Error(), c.want) || choice.Hint() == "" {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
