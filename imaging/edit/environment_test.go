package edit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/durable"
)

func text(s string) *string { return &s }

func environmentOf(t testing.TB, path string) *inspect.Environment {
	t.Helper()
	d, err := inspect.Open(t.Context(), path, inspect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all, findings := d.Environments(nil)
	if len(all) != 1 {
		t.Fatalf("%d environments, %v", len(all), findings)
	}
	return all[0]
}

func TestSetEnvironment(t *testing.T) {
	t.Parallel()
	path := board(t, nil)
	var got *Environment
	change := Variables{Set: map[string]string{"bootlimit": "3", "new": "a b"}, Unset: []string{"bootcount", "nothing"}}
	_, err := edited(t, path, Options{}, func(im *Image) (err error) {
		got, err = im.SetEnvironment(t.Context(), change)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Change{{"bootcount", text("0"), nil}, {"bootlimit", text("1"), text("3")}, {"new", nil, text("a b")}}
	if d := cmp.Diff(want, got.Changes); d != "" {
		t.Error(d)
	}
	if got.Boot.Slot != "a" || got.Warning != "" {
		t.Errorf("%+v", got)
	}
	e := environmentOf(t, path)
	if !e.Copies[1].Used || *e.Copies[1].Flag != 2 || *e.Copies[0].Flag != 1 {
		t.Errorf("%+v", e.Copies)
	}
	config := filepath.Join(t.TempDir(), "fw_env.config")
	places := fmt.Sprintf("%s 0x%x 0x%x\n%s 0x%x 0x%x\n", path, envOffset, envSize, path, envOffset+envSize, envSize)
	if err := os.WriteFile(config, []byte(places), 0o644); err != nil {
		t.Fatal(err)
	}
	out := run(t, "fw_printenv", "-c", config)
	for _, line := range []string{"bootlimit=3\n", "new=a b\n"} {
		if !strings.Contains(out, line) {
			t.Errorf("fw_printenv lacks %q:\n%s", line, out)
		}
	}
	if strings.Contains(out, "bootcount") {
		t.Errorf("fw_printenv still has bootcount:\n%s", out)
	}
	sound(t, path)
}

func TestEnvironmentWithOneCopy(t *testing.T) {
	t.Parallel()
	block, err := bootenv.EncodeUBoot(variables(nil), envSize, false, 0)
	if err != nil {
		t.Fatal(err)
	}
	known := []bootenv.Location{{Path: "/dev/mmcblk0", Offset: envOffset, Size: envSize}}
	path := board(t, func(img *imaging.Image) {
		img.Contents["env"] = imaging.Content{Bytes: block}
	})
	_, err = edited(t, path, Options{}, func(im *Image) error {
		v := set("bootlimit", "9")
		v.Known = known
		_, err := im.SetEnvironment(t.Context(), v)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := inspect.Open(t.Context(), path, inspect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all, _ := d.Environments(known)
	if len(all) != 1 || all[0].Variables["bootlimit"] != "9" {
		t.Errorf("%+v", all)
	}
}

func TestEnvironmentInGRUBForm(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"vfat", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			files, err := bootenv.GRUBFiles(map[string]string{"mender_boot_part": "2", "upgrade_available": "0", "bootcount": "0"})
			if err != nil {
				t.Fatal(err)
			}
			var tree []imaging.TreeFile
			for name, data := range files {
				tree = append(tree, imaging.TreeFile{Path: "grub-mender-grubenv/" + name, Data: data})
			}
			path := board(t, func(img *imaging.Image) {
				img.Layout.Reserves = nil
				delete(img.Contents, "env")
				img.Layout.Partitions[0].Filesystem = kind
				img.Contents["boot"] = imaging.Content{Tree: tree}
				img.Contents["data"] = imaging.Content{Tree: []imaging.TreeFile{{Path: "mender/device_type", Data: []byte("device_type=board\n")}}}
			})
			if _, err := edited(t, path, Options{}, func(im *Image) error {
				got, err := im.SetEnvironment(t.Context(), Variables{Set: map[string]string{"bootcount": "1", "mender_boot_part": "3"}})
				if err == nil && (got.Kind != inspect.EnvironmentGRUB || len(got.Changes) != 2 || !strings.Contains(got.Warning, "3 (rootfs_b), which holds no file system")) {
					t.Errorf("%+v", got)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			e := environmentOf(t, path)
			if e.Variables["bootcount"] != "1" || e.Copies[0].State != inspect.CopyValid || e.Copies[1].State != inspect.CopyValid {
				t.Errorf("%+v", e)
			}
			d, err := inspect.Open(t.Context(), path, inspect.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			report, err := d.Verify(t.Context(), inspect.VerifyOptions{Check: inspect.CheckAlways, NoDigests: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range report.Findings {
				if strings.HasPrefix(f.Code, "filesystem") {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

func TestRefusedEnvironments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  []byte
		v    Variables
		want string
	}{
		"never written":         {make([]byte, 2*envSize), set("a", "b"), "never written"},
		"damaged":               {noise(7, 2*envSize), set("a", "b"), "no copy of its environment"},
		"no name":               {nil, set("", "b"), "name is empty"},
		"too much":              {nil, set("a", strings.Repeat("x", envSize)), "has room for"},
		"a place not there":     {nil, Variables{Set: map[string]string{"a": "b"}, Known: []bootenv.Location{{Path: "/dev/mmcblk0", Offset: 1 << 40, Size: envSize}}}, "ends behind the disk"},
		"a place in partitions": {nil, Variables{Set: map[string]string{"a": "b"}, Known: []bootenv.Location{{Path: "/dev/mmcblk0", Offset: 4 * mib, Size: envSize}}}, "lies in partition"},
		"over the table":        {nil, Variables{Set: map[string]string{"a": "b"}, Known: []bootenv.Location{{Path: "/dev/mmcblk0", Offset: envOffset, Size: envSize}, {Path: "/dev/mmcblk0", Size: envSize}}}, "over the partition table"},
		"over each other":       {nil, Variables{Set: map[string]string{"a": "b"}, Known: []bootenv.Location{{Path: "/dev/mmcblk0", Offset: envOffset, Size: envSize}, {Path: "/dev/mmcblk0", Offset: envOffset + 4*kib, Size: envSize}}}, "overlap"},
		"raw flash":             {nil, Variables{Set: map[string]string{"a": "b"}, Known: []bootenv.Location{{Path: "/dev/mtd1", Size: envSize}}}, "not on this disk"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := board(t, func(img *imaging.Image) {
				if c.env != nil {
					img.Contents["env"] = imaging.Content{Bytes: c.env}
				}
			})
			before := string(readFile(t, path))
			_, err := edited(t, path, Options{}, func(im *Image) error {
				_, err := im.SetEnvironment(t.Context(), c.v)
				return err
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if string(readFile(t, path)) != before {
				t.Error("the image has changed")
			}
			alone(t, path)
		})
	}
}

func TestInitNeedsBootcmdOrAWord(t *testing.T) {
	t.Parallel()
	blank := func(img *imaging.Image) { img.Contents["env"] = imaging.Content{Bytes: make([]byte, 2*envSize)} }
	for name, v := range map[string]Variables{
		"bootcmd": {Set: map[string]string{"bootcmd": "run x"}},
		"init":    {Set: map[string]string{"a": "b"}, Init: true},
	} {
		path := board(t, blank)
		if _, err := edited(t, path, Options{}, func(im *Image) error {
			_, err := im.SetEnvironment(t.Context(), v)
			return err
		}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		e := environmentOf(t, path)
		if e.Copies[0].State != inspect.CopyValid || e.Copies[1].State != inspect.CopyValid {
			t.Errorf("%s: %+v", name, e.Copies)
		}
	}
}

// TestDevicesKeepAValidCopy stops the change of a device at every step. A file stands for the device. A hook is one for the process,
// so the test is not parallel.
func TestDevicesKeepAValidCopy(t *testing.T) {
	path := board(t, nil)
	defer durable.SetHook(nil)
	steps := 0
	for n := int64(1); ; n++ {
		durable.SetHook(func(s durable.Step) error {
			if s.Number == n {
				return syscall.EIO
			}
			return nil
		})
		_, err := SetDeviceEnvironment(t.Context(), path, set("bootlimit", "5"))
		durable.SetHook(nil)
		if e := environmentOf(t, path); !e.Usable() {
			t.Fatalf("step %d: %+v", n, e)
		}
		if err == nil {
			break
		}
		if steps++; !errors.Is(err, syscall.EIO) {
			t.Fatalf("step %d: %v", n, err)
		}
	}
	if e := environmentOf(t, path); e.Variables["bootlimit"] != "5" || steps == 0 {
		t.Errorf("after %d steps: %+v", steps, e)
	}
	// A torn write: half of the new block.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(noise(9, 512), envOffset+512); err != nil {
		t.Fatal(err)
	}
	if _, err := SetDeviceEnvironment(t.Context(), path, set("bootlimit", "6")); err != nil {
		t.Fatal(err)
	}
	if e := environmentOf(t, path); e.Variables["bootlimit"] != "6" || e.Copies[0].State != inspect.CopyValid || e.Copies[1].State != inspect.CopyValid {
		t.Errorf("%+v", e)
	}
}
