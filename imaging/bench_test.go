package imaging

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestBenchImage is what scripts/bench-imaging.sh runs: one image of the prepared file systems in the folder
// TWINKEEL_BENCH_INPUT, as TWINKEEL_BENCH_MODE says, with slots of TWINKEEL_BENCH_SLOT bytes, at TWINKEEL_BENCH_OUTPUT.
func TestBenchImage(t *testing.T) {
	input, output := os.Getenv("TWINKEEL_BENCH_INPUT"), os.Getenv("TWINKEEL_BENCH_OUTPUT")
	if input == "" || output == "" {
		t.Skip("only run by scripts/bench-imaging.sh")
	}
	slot := gib
	if text := os.Getenv("TWINKEEL_BENCH_SLOT"); text != "" {
		var err error
		if slot, err = strconv.ParseInt(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	content := func(name string) Content {
		file := filepath.Join(input, name)
		text, err := os.ReadFile(file + ".sha256") // planning knows the digests of inputs
		if err != nil {
			t.Fatal(err)
		}
		return Content{File: file, SHA256: string(text[:64])}
	}
	root := content("rootfs.ext4")
	img := &Image{
		Seed: "bench",
		Layout: Layout{Partitions: []Partition{
			{Name: "boot", Size: 64 * mib, Filesystem: FilesystemVFAT},
			{Name: "rootfs_a", Size: slot, Filesystem: FilesystemExt4, Slot: "a"},
			{Name: "rootfs_b", Size: slot, Filesystem: FilesystemExt4, Slot: "b"},
			{Name: "data", Size: 128 * mib, Filesystem: FilesystemExt4},
		}},
		Contents: map[string]Content{
			"boot": content("boot.vfat"), "rootfs_a": root, "rootfs_b": root, "data": content("data.ext4"),
		},
	}
	mode := os.Getenv("TWINKEEL_BENCH_MODE")
	switch mode {
	case FormatRaw:
	case "digests":
		img.Digests = true
		img.Outputs = []Output{{Format: FormatBmap, Path: output + ".bmap"}}
	default:
		img.Outputs = []Output{{Format: mode, Path: output}}
		output = ""
	}
	if _, err := Write(t.Context(), output, img); err != nil {
		t.Fatal(err)
	}
}
