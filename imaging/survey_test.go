package imaging

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSurveyFindsWhatWriteKnows: the block map and the digest of a finished image are those that were made with it.
func TestSurveyFindsWhatWriteKnows(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.img")
	img := &Image{
		Digests: true, Outputs: []Output{{Format: FormatBmap, Path: path + ".bmap"}},
		Layout: Layout{
			Reserves: []Reserve{{Name: "env", Offset: mib, Size: 32 * kib}},
			Partitions: []Partition{
				{Name: "boot", Size: 8 * mib, Filesystem: FilesystemVFAT},
				{Name: "rootfs_a", Size: 8 * mib, Filesystem: FilesystemExt4, Slot: "a"},
				{Name: "rootfs_b", Size: 8 * mib, Filesystem: FilesystemExt4, Slot: "b"},
				{Name: "raw", Size: 3 * mib},
			},
		},
		Contents: map[string]Content{
			"rootfs_a": {Tree: []TreeFile{{Path: "x", Data: []byte("x")}}},
			"raw":      {Bytes: append(make([]byte, 100*kib), 1)},
		},
	}
	res, err := Write(t.Context(), path, img)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := os.Open(path + ".bmap")
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	want, err := ParseBmap(text)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ReadMap(f, res.Size)
	if err != nil {
		t.Fatal(err)
	}
	seen := int64(0)
	got, sum, err := Survey(t.Context(), f, m, want, func(n int64) { seen += n })
	if err != nil {
		t.Fatal(err)
	}
	if sum != res.SHA256 || seen != res.Size {
		t.Errorf("digest %s of %d bytes, want %s of %d", sum, seen, res.SHA256, res.Size)
	}
	mapped := func(b *Bmap) map[int64]bool {
		set := map[int64]bool{}
		for _, r := range b.Ranges {
			for n := r.First; n <= r.Last; n++ {
				set[n] = true
			}
		}
		return set
	}
	// Whether the rest of a raw partition was given or is a hole cannot be told from an image, so it counts as given.
	raw, _ := m.Partition(4)
	a, b := mapped(want), mapped(got)
	for n := raw.Offset / blockSize; n < raw.End()/blockSize; n++ {
		delete(a, n)
		delete(b, n)
	}
	if d := cmp.Diff(a, b); d != "" {
		t.Error(d)
	}
}
