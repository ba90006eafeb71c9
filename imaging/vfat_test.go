package imaging

import (
	"fmt"
	"testing"
)

// TestVFATSizes makes file systems of sizes at which mkfs.vfat changes its mind: those of floppies and where FAT12 and
// FAT16 end.
func TestVFATSizes(t *testing.T) {
	t.Parallel()
	needTools(t)
	tool(t, "fsck.vfat")
	for _, sector := range []int64{512, 4096} {
		for _, size := range []int64{128, 720, 1440, 2880, 4096, 16 << 10, 33 << 10, 64 << 10, 65 << 10} {
			t.Run(fmt.Sprintf("%d KiB by %d", size, sector), func(t *testing.T) {
				t.Parallel()
				path, m := write(t, &Image{
					Seed:     "x",
					Layout:   Layout{SectorSize: sector, Partitions: []Partition{{Name: "boot", Size: size * kib, Filesystem: FilesystemVFAT, Label: "boot"}}},
					Contents: map[string]Content{"boot": {Tree: []TreeFile{{Path: "d/A long name.txt", Data: []byte("x")}}}},
				})
				r, _ := m.Find("boot")
				run(t, "fsck.vfat", "-n", extract(t, path, r))
			})
		}
	}
}
