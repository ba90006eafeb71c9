package edit

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/twinkeel/twinkeel/imaging"
)

// filesystem makes an ext4 of which a little is in use.
func ext4(t testing.TB, size string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.ext4")
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", path, size)
	return path
}

func replace(t testing.TB, partition string, c Content) func(*Image) error {
	return func(im *Image) error {
		r, err := im.Disk.Find(partition)
		if err != nil {
			return err
		}
		_, err = im.Replace(t.Context(), r, c)
		return err
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	small := ext4(t, "4M")
	packed := small + ".xz"
	run(t, "sh", "-c", "xz -c "+small+" > "+packed)
	path := board(t, nil)
	for name, c := range map[string]Content{
		"file":   {Name: small, File: small},
		"packed": {Name: packed, File: packed},
		"stream": {Name: "stream", Stream: strings.NewReader(string(readFile(t, small))), Size: 4 * mib},
	} {
		out := filepath.Join(t.TempDir(), "new.img")
		if _, err := edited(t, path, Options{Output: out}, replace(t, "a", c)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sound(t, out)
		d := readFile(t, out)
		m, err := imaging.ReadMap(strings.NewReader(string(d)), int64(len(d)))
		if err != nil {
			t.Fatal(err)
		}
		r, _ := m.Find("rootfs_a")
		slot := d[r.Offset:r.End()]
		if string(slot[:4*mib]) != string(readFile(t, small)) {
			t.Errorf("%s: the slot does not hold the file", name)
		}
		if strings.Trim(string(slot[4*mib:]), "\x00") != "" {
			t.Errorf("%s: something is left of the old content", name)
		}
		if was, is := allocated(t, path), allocated(t, out); is > was+mib {
			t.Errorf("%s: the image takes %d bytes, before %d: holes are filled", name, is, was)
		}
	}
}

func allocated(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestRefusedContent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, big := ext4(t, "4M"), ext4(t, "9M")
	cut := write("cut.ext4", readFile(t, good)[:3*mib])
	raw := write("raw", noise(5, mib))
	empty := write("empty", nil)
	packed := write("big.ext4.gz", nil)
	run(t, "sh", "-c", "gzip -c "+big+" > "+packed)
	path := board(t, nil)
	before := string(readFile(t, path))
	for name, c := range map[string]struct {
		partition, file string
		force           bool
		want            string
	}{
		"too large":           {"a", big, true, "does not fit into partition 2 (rootfs_a)"},
		"unpacks to too much": {"a", packed, true, "does not fit into partition 2 (rootfs_a)"},
		"cut short":           {"a", cut, true, "cut short"},
		"another kind":        {"boot", good, false, "it holds ext4, but partition 1 (boot) is for vfat"},
		"no file system":      {"b", raw, false, "no file system that is known"},
		"empty":               {"a", empty, true, "empty"},
		"a directory":         {"a", dir, true, "not a file"},
		"missing":             {"a", dir + "/none", true, "no such file"},
		"no such partition":   {"c", good, true, "there is none"},
	} {
		_, err := edited(t, path, Options{}, replace(t, c.partition, Content{Name: c.file, File: c.file, Force: c.force}))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if string(readFile(t, path)) != before {
		t.Error("the image has changed")
	}
	alone(t, path)
	if _, err := edited(t, path, Options{}, replace(t, "b", Content{Name: raw, File: raw, Force: true})); err != nil {
		t.Errorf("with force: %v", err)
	}
}
