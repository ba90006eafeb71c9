package blob

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

const id = "6c84fb90-12c4-11e1-840d-7b25c5ee775a"

func TestDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "..", "../x", "x", id + "/..", "{" + id + "}", "6C84FB90-12C4-11E1-840D-7B25C5EE775A", id[:35], id + "\x00"} {
		if _, err := d.Create(name); err == nil {
			t.Errorf("created %q", name)
		}
		if _, err := d.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("opening %q: %v", name, err)
		}
		if err := d.Delete(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("deleting %q: %v", name, err)
		}
	}
	f, err := d.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("bytes"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a blob that is still written can be opened: %v", err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	r, err := d.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	keepAll := func(context.Context, string) (bool, error) { return true, nil }
	if removed, err := d.Sweep(t.Context(), keepAll); err != nil || len(removed) > 0 {
		t.Errorf("sweeping with everything in use: %v %v", removed, err)
	}
	keepNone := func(context.Context, string) (bool, error) { return false, nil }
	if removed, err := d.Sweep(t.Context(), keepNone); err != nil || len(removed) != 1 || removed[0] != id {
		t.Errorf("sweeping with nothing in use: %v %v", removed, err)
	}
	if err := d.Delete(id); err != nil {
		t.Errorf("deleting what is gone: %v", err)
	}
	got := make([]byte, 5)
	if n, err := r.Read(got); err != nil || string(got[:n]) != "bytes" {
		t.Errorf("who reads a blob that is deleted meanwhile gets %q, %v", got[:n], err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if d.Check() == nil {
		t.Error("a directory that is gone passes the check")
	}
}
