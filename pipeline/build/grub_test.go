package build

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/pipeline"
)

// TestGRUBImage makes an image for GRUB on UEFI and does with it what the device will: it finds the environment that the
// agent's configuration names, and changes it.
func TestGRUBImage(t *testing.T) {
	t.Parallel()
	if err := imaging.CheckTools(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	loader := filepath.Join(dir, "loader.efi")
	write(t, loader, "MZ")
	im := ubootImage()
	im.Path = filepath.Join(dir, "out", "board.img")
	im.Outputs = []pipeline.ImageOutput{{Format: "raw", Path: im.Path}}
	im.Fills = []pipeline.Fill{{Partition: "boot", Files: map[string]string{"EFI/BOOT/BOOTX64.EFI": loader}}}
	im.DeviceType.Layout.Partitions[0].Mount = "/boot/efi"
	im.DeviceType.Layout.Reserves = nil
	im.DeviceType.Bootloader = pipeline.Bootloader{Kind: bootloaderEFI, Partition: "boot", Loader: "EFI/BOOT/BOOTX64.EFI"}
	r := &runner{plan: &pipeline.Plan{Dir: dir, OutDir: filepath.Join(dir, "out")}, digests: openDigests(dir), warn: func(string) {}}
	if _, err := r.image(t.Context(), im, func(_, _ int64) {}); err != nil {
		t.Fatal(err)
	}
	m, err := ImageMap(im)
	if err != nil {
		t.Fatal(err)
	}
	config, err := r.agentConfig(im, m)
	if err != nil || !strings.Contains(string(config), `"Config": "/boot/efi/grub-mender-grubenv"`) || !strings.Contains(string(config), `"Type": "grub"`) {
		t.Errorf("the agent's configuration is\n%s\n%v", config, err)
	}

	esp, _ := m.Find("boot")
	img, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	files, kind, err := imaging.OpenFilesystem(io.NewSectionReader(img, esp.Offset, esp.Size), esp.Size)
	if err != nil || kind != "vfat" {
		t.Fatal(kind, err)
	}
	mounted := filepath.Join(dir, "mounted")
	if err := os.CopyFS(mounted, files); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Stat(files, "EFI/BOOT/BOOTX64.EFI"); err != nil {
		t.Error(err)
	}
	env, err := bootenv.OpenGRUB(filepath.Join(mounted, grubEnvDir))
	if err != nil {
		t.Fatal(err)
	}
	vars, err := env.Load()
	if d := cmp.Diff(map[string]string{"mender_boot_part": "2", "upgrade_available": "0", "bootcount": "0"}, vars); err != nil || d != "" {
		t.Errorf("environment (-want +got):\n%s%v", d, err)
	}
	if err := env.Update(map[string]string{"mender_boot_part": "3", "upgrade_available": "1"}); err != nil {
		t.Error(err)
	}

	im.Fills[0].Files["grub-mender-grubenv/mender_grubenv1/env"] = loader
	if _, err := r.image(t.Context(), im, func(_, _ int64) {}); err == nil || !strings.Contains(err.Error(), "which is made with the image") {
		t.Errorf("a fill that brings the environment, too: %v", err)
	}
}
