package imaging

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestVFATMatrix makes file systems of all sizes at which somebody's arithmetic went wrong: where the kinds of FAT meet,
// those for which go-diskfs makes a table that is too small (33 and 64 to 507 MiB), and more than 2 GiB.
func TestVFATMatrix(t *testing.T) {
	t.Parallel()
	needTools(t)
	tool(t, "fsck.vfat")
	sizes := []int64{1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 33, 34, 63, 64, 65, 127, 128, 129, 194, 255, 256, 257, 259, 260, 505, 506, 507, 511, 512, 513, 600, 2047, 2049, 4097}
	if testing.Short() {
		sizes = []int64{1, 16, 33, 64, 129, 505}
	}
	content := strings.Repeat("0123456789abcdef", 3000)
	for _, sector := range []int64{512, 4096} {
		for _, size := range sizes {
			name := fmt.Sprintf("%d MiB by %d", size, sector)
			path, m := write(t, &Image{
				Seed: "x", Layout: Layout{SectorSize: sector, Partitions: []Partition{{Name: "boot", Size: size * mib, Filesystem: FilesystemVFAT, Label: "BOOT"}}},
				Contents: map[string]Content{"boot": {Tree: []TreeFile{{Path: "EFI/BOOT/bootaa64.efi", Data: []byte(content)}, {Path: "A long name.txt"}}}},
			})
			r, _ := m.Find("boot")
			image := extract(t, path, r)
			os.Remove(path)
			if out := run(t, "fsck.vfat", "-n", image); strings.Contains(out, "differ") || strings.Contains(out, "wrong") {
				t.Errorf("%s: %s", name, out)
			}
			if out := run(t, "mdir", "-b", "-/", "-i", image, "::"); !strings.Contains(out, "bootaa64.efi") {
				t.Errorf("%s: %s", name, out)
			}
			if out := run(t, "mtype", "-i", image, "::/EFI/BOOT/bootaa64.efi"); out != content {
				t.Errorf("%s: the file has %d bytes", name, len(out))
			}
			f, _ := os.Open(image)
			found, err := Probe(f, r.Size)
			if err != nil || found.Label != "BOOT" || found.UUID != r.FilesystemUUID || found.Size > r.Size {
				t.Errorf("%s: %+v, %v", name, found, err)
			}
			var used int64
			if known, err := usedBlocks(f, r.Size, func(start, end int64) { used += end - start }); !known || err != nil || used > 20*mib {
				t.Errorf("%s: used %d, known %v, %v", name, used, known, err)
			}
			f.Close()
			os.Remove(image)
		}
	}
}
