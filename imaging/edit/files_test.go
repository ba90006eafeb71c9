package edit

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
)

func writeFiles(t testing.TB, partition string, files ...File) func(*Image) error {
	return func(im *Image) error {
		r, err := im.Disk.Find(partition)
		if err != nil {
			return err
		}
		return im.WriteFiles(t.Context(), r, files)
	}
}

func TestWriteFiles(t *testing.T) {
	t.Parallel()
	for partition, files := range map[string][]File{
		"data": {
			{Path: "/mender/device_type", Data: []byte("device_type=other\n")}, // replaced
			{Path: "new/deep/key.pem", Mode: 0o600, Data: []byte("secret")},
			{Path: "with blanks/and 'quotes' $x `y` \\ ;#", Mode: 0o755, Data: noise(2, 70*kib)},
			{Path: "empty", Data: nil},
			{Path: "ünïcode", Data: []byte("x")},
		},
		"boot": {
			{Path: "boot.scr", Data: []byte("another script")},
			{Path: "overlays/a long name.dtbo", Data: noise(3, 70*kib)},
		},
	} {
		path := board(t, nil)
		if _, err := edited(t, path, Options{}, writeFiles(t, partition, files...)); err != nil {
			t.Errorf("%s: %v", partition, err)
			continue
		}
		sound(t, path)
		d, err := inspect.Open(t.Context(), path, inspect.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		inside, kind, err := d.Filesystem(partition)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			name := strings.TrimPrefix(f.Path, "/")
			data, err := fs.ReadFile(inside, name)
			if err != nil || string(data) != string(f.Data) {
				t.Errorf("%s: %q: %v, %d bytes", partition, f.Path, err, len(data))
			}
			info, err := fs.Stat(inside, name)
			want := f.Mode
			if want == 0 {
				want = 0o644
			}
			if kind == imaging.FilesystemExt4 && err == nil && info.Mode() != want {
				t.Errorf("%q has mode %v, want %v", f.Path, info.Mode(), want)
			}
		}
		again := board(t, nil)
		if _, err := edited(t, again, Options{}, writeFiles(t, partition, files...)); err != nil {
			t.Fatal(err)
		}
		if partition == "data" && string(readFile(t, path)) != string(readFile(t, again)) {
			t.Error("two runs differ")
		}
	}
}

func TestRefusedFiles(t *testing.T) {
	t.Parallel()
	path := board(t, func(img *imaging.Image) {
		data := img.Contents["data"]
		data.Tree = append(data.Tree, imaging.TreeFile{Path: "link", Link: "/mender"}, imaging.TreeFile{Path: "key", Link: "/mender/device_type"})
		img.Contents["data"] = data
	})
	before := string(readFile(t, path))
	for name, c := range map[string]struct {
		partition string
		files     []File
		want      string
	}{
		"leads out":         {"data", []File{{Path: "../x"}}, "no path in a file system"},
		"the root":          {"data", []File{{Path: "/"}}, "no path in a file system"},
		"a quote":           {"data", []File{{Path: "a\"b"}}, "not allowed"},
		"a new line":        {"data", []File{{Path: "a\nrm b"}}, "not allowed"},
		"an inode":          {"data", []File{{Path: "<8>"}}, "begins with '<'"},
		"a long name":       {"data", []File{{Path: strings.Repeat("a", 256)}}, "too long"},
		"a wildcard":        {"boot", []File{{Path: "*.scr"}}, "vfat does not have"},
		"twice":             {"data", []File{{Path: "a"}, {Path: "/a"}}, "written twice"},
		"below a file":      {"data", []File{{Path: "mender/device_type/x"}}, "no directory"},
		"below a link":      {"data", []File{{Path: "link/x"}}, "no directory"},
		"over a link":       {"data", []File{{Path: "key"}}, "no file"},
		"over a directory":  {"data", []File{{Path: "mender"}}, "no file"},
		"below another new": {"data", []File{{Path: "a"}, {Path: "a/b"}}, "debugfs"},
		"no file system":    {"b", []File{{Path: "a"}}, "no file system"},
		"no room":           {"data", []File{{Path: "a", Data: noise(1, 9*mib)}}, "no room is left"},
		"no room in vfat":   {"boot", []File{{Path: "a", Data: noise(1, 9*mib)}}, "no room is left"},
	} {
		_, err := edited(t, path, Options{}, writeFiles(t, c.partition, c.files...))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if string(readFile(t, path)) != before {
		t.Error("the image has changed")
	}
	alone(t, path)
}

func TestDamagedFilesystemsAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		off  int64
		data []byte
		want string
	}{
		"damaged":       {3 * kib, noise(8, 8*kib), "file system is damaged"},
		"not unmounted": {1024 + 0x60, []byte{0x46}, "not unmounted"},
	} {
		path := board(t, nil)
		d, err := inspect.Open(t.Context(), path, inspect.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, _ := d.Find("data")
		d.Close()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(c.data, r.Offset+c.off); err != nil {
			t.Fatal(err)
		}
		f.Close()
		_, err = edited(t, path, Options{}, writeFiles(t, "data", File{Path: "a"}))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
