package imaging

import (
	"errors"
	"math/rand"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFullDisk(t *testing.T) {
	needTools(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	defer syscall.Unmount(dir, 0)
	noise := make([]byte, 9*mib)
	rand.New(rand.NewSource(3)).Read(noise)
	for name, content := range map[string]Content{
		"copying":            {Bytes: noise},
		"staging a tree":     {Tree: []TreeFile{{Path: "x", Data: noise}}},
		"making file system": {Tree: []TreeFile{{Path: "x", Data: noise[:4*mib]}}},
	} {
		p := Partition{Name: "x", Size: 16 * mib}
		if content.Tree != nil {
			p.Filesystem = FilesystemExt4
		}
		img := &Image{Layout: Layout{Partitions: []Partition{p}}, Contents: map[string]Content{"x": content}}
		path := filepath.Join(dir, "disk.img")
		_, err := Write(t.Context(), path, img)
		var se *SpaceError
		if !errors.As(err, &se) || se.Hint() == "" || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want a SpaceError", name, err)
		}
		onlyFile(t, dir)
	}
}
