package imaging

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLargeSectors: what is made for a disk with sectors of 4096 bytes is mounted from one, however small it is.
func TestLargeSectors(t *testing.T) {
	t.Parallel()
	needTools(t)
	layout := Layout{SectorSize: 4096, Partitions: []Partition{
		{Name: "tiny", Size: smallestFilesystem[FilesystemExt4], Filesystem: FilesystemExt4},
		{Name: "boot", Size: smallestFilesystem[FilesystemVFAT], Filesystem: FilesystemVFAT},
		{Name: "small", Size: 8 * mib, Filesystem: FilesystemExt4},
		{Name: "esp", Size: 16 * mib, Filesystem: FilesystemVFAT},
		{Name: "large", Size: 2 * smallExt4, Filesystem: FilesystemExt4},
	}}
	img := &Image{Layout: layout, Seed: "sectors", Contents: map[string]Content{}}
	for _, p := range layout.Partitions {
		img.Contents[p.Name] = Content{Tree: []TreeFile{{Path: "dir/file", Data: []byte(p.Name)}}}
	}
	path, m := write(t, img)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, r := range m.Regions {
		if r.Kind != KindPartition {
			continue
		}
		found, err := Probe(io.NewSectionReader(f, r.Offset, r.Size), r.Size)
		if err != nil || found.Block != 4096 {
			t.Errorf("%s: %+v, %v", r.Name, found, err)
		}
		if part := extract(t, path, r); r.Filesystem == FilesystemExt4 {
			run(t, "e2fsck", "-fn", part)
		} else {
			run(t, "fsck.vfat", "-n", part)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("only root can mount what was made")
	}
	for _, r := range m.Regions {
		if r.Kind != KindPartition {
			continue
		}
		out, err := command(t, "losetup", "-b", "4096", "-r", "-f", "--show", "-o", fmt.Sprint(r.Offset), "--sizelimit", fmt.Sprint(r.Size), path)
		if err != nil {
			t.Skipf("no loop device with sectors of 4096 bytes: %s", out)
		}
		dev := strings.TrimSpace(out)
		dir := t.TempDir()
		t.Cleanup(func() {
			ctx := context.WithoutCancel(t.Context())
			_ = exec.CommandContext(ctx, "umount", "-l", dir).Run()
			_ = exec.CommandContext(ctx, "losetup", "-d", dev).Run()
		})
		if out, err := command(t, "mount", "-o", "ro", "-t", r.Filesystem, dev, dir); err != nil {
			if strings.Contains(out, "unknown filesystem") {
				t.Logf("this kernel mounts no %s", r.Filesystem)
				continue
			}
			t.Errorf("%s: %s", r.Name, out)
			continue
		}
		if got, err := os.ReadFile(filepath.Join(dir, "dir", "file")); err != nil || string(got) != r.Name {
			t.Errorf("%s: %q, %v", r.Name, got, err)
		}
	}
}

// TestSmallBlocksRefused: a file system of another maker that the disk's sectors are too large for.
func TestSmallBlocksRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ext4, fat := filepath.Join(dir, "ext4"), filepath.Join(dir, "fat")
	for _, path := range []string{ext4, fat} {
		if err := os.WriteFile(path, make([]byte, 8*mib), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", ext4)
	run(t, "mkfs.vfat", "-S", "512", fat)
	text, err := os.ReadFile(ext4)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write(text)
	w.Close()
	if err := os.WriteFile(ext4+".gz", packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		kind    string
		content Content
		advice  string
	}{
		"ext4":  {FilesystemExt4, Content{File: ext4}, "make it with mkfs.ext4 -b 4096"},
		"bytes": {FilesystemExt4, Content{Bytes: text}, "make it with mkfs.ext4 -b 4096"},
		"gzip":  {FilesystemExt4, Content{File: ext4 + ".gz"}, "make it with mkfs.ext4 -b 4096"},
		"vfat":  {FilesystemVFAT, Content{File: fat}, "make it with mkfs.vfat -S 4096"},
	} {
		img := &Image{Layout: Layout{Partitions: []Partition{{Name: "p", Size: 8 * mib, Filesystem: c.kind}}}, Contents: map[string]Content{"p": c.content}}
		if _, err := Write(t.Context(), filepath.Join(t.TempDir(), "disk.img"), img); err != nil {
			t.Errorf("%s, sectors of 512 bytes: %v", name, err)
		}
		img.Layout.SectorSize = 4096
		out := t.TempDir()
		_, err := Write(t.Context(), filepath.Join(out, "disk.img"), img)
		var refused *ContentError
		if !errors.As(err, &refused) || refused.Advice != c.advice || !strings.Contains(err.Error(), "on a disk whose sectors have 4096") {
			t.Errorf("%s: %v, %+v", name, err, refused)
		}
		onlyFile(t, out)
	}
}
