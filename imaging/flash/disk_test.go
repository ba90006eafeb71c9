package flash

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeSystem has a system disk sda with / and an LVM volume for /data on sdd, a card sdb with two partitions, a loop device,
// and nodes of them as files in dev/.
type fakeSystem struct {
	System
	root string
}

func newFakeSystem(t *testing.T) *fakeSystem {
	t.Helper()
	s := &fakeSystem{root: t.TempDir()}
	numbers := map[string][2]uint32{}
	s.System = System{
		Sys: s.root + "/sys", Proc: s.root + "/proc", Udev: s.root + "/udev",
		Number: func(path string) (uint32, uint32, error) {
			if n, ok := numbers[filepath.Base(path)]; ok {
				return n[0], n[1], nil
			}
			return 0, 0, errors.New("no block device")
		},
	}
	add := func(name, dir string, major, minor uint32, attributes map[string]string) {
		numbers[name] = [2]uint32{major, minor}
		dev := string(number(major, minor))
		s.put(t, "dev/"+name, "")
		s.put(t, dir+"/dev", dev+"\n")
		for k, v := range attributes {
			s.put(t, dir+"/"+k, v+"\n")
		}
		s.link(t, s.root+"/"+dir, "sys/dev/block/"+dev)
	}
	disk := func(more map[string]string) map[string]string {
		out := map[string]string{"size": "62333952", "ro": "0", "removable": "0", "queue/logical_block_size": "512"}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	const usb = "sys/devices/pci0/usb1/1-2"
	const card = usb + "/host0/block/sdb"
	s.put(t, usb+"/idVendor", "0781")
	s.put(t, usb+"/serial", "4C530001210927110\x1b[31m82")
	add("sda", "sys/devices/pci0/ata1/block/sda", 8, 0, disk(map[string]string{"device/model": "SSD 870"}))
	add("sda1", "sys/devices/pci0/ata1/block/sda/sda1", 8, 1, map[string]string{"partition": "1", "size": "1000"})
	add("sdb", card, 8, 16, disk(map[string]string{"device/vendor": "SanDisk ", "device/model": "Ultra\x1b]0;x", "removable": "1"}))
	add("sdb1", card+"/sdb1", 8, 17, map[string]string{"partition": "1", "size": "2048"})
	add("sdc", "sys/devices/pci0/usb1/1-3/block/sdc", 8, 32, disk(map[string]string{"size": "0", "removable": "1"}))
	add("sdd", "sys/devices/pci0/ata2/block/sdd", 8, 48, disk(nil))
	add("dm-0", "sys/devices/virtual/block/dm-0", 253, 0, map[string]string{"dm/name": "vg-data", "size": "9"})
	s.link(t, s.root+"/sys/devices/pci0/ata2/block/sdd", "sys/devices/virtual/block/dm-0/slaves/sdd")
	s.link(t, s.root+"/sys/devices/virtual/block/dm-0", "sys/devices/pci0/ata2/block/sdd/holders/dm-0")
	add("sde", "sys/devices/pci0/ata3/block/sde", 8, 64, disk(nil))
	add("sdf", "sys/devices/pci0/ata4/block/sdf", 8, 80, disk(map[string]string{"ro": "1"}))
	add("mtdblock0", "sys/devices/virtual/block/mtdblock0", 31, 0, disk(nil))
	add("loop0", "sys/devices/virtual/block/loop0", 7, 0, disk(map[string]string{"loop/backing_file": "/tmp/x"}))
	s.put(t, "udev/data/b8:16", "E:ID_SERIAL_SHORT=\nE:ID_MODEL=x\n")
	s.put(t, "proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 253:0 / /data rw - ext4 /dev/mapper/vg-data rw\n")
	s.put(t, "proc/swaps", "Filename\tType\n/dev/sde partition 1 1 1\n")
	return s
}

func (s *fakeSystem) put(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	store(t, path, []byte(text))
}

func (s *fakeSystem) link(t *testing.T, to, name string) {
	t.Helper()
	path := filepath.Join(s.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	s := newFakeSystem(t)
	s.link(t, "sdb", "dev/card")
	s.link(t, "nowhere", "dev/dangling")
	for name, c := range map[string]struct {
		target string
		permit Permit
		want   string // of the refusal; "": taken
	}{
		"system disk":           {"sda", Permit{}, "this machine runs from it: sda1 is mounted on /"},
		"system partition":      {"sda1", Permit{Partition: true}, "this machine runs from it"},
		"partition":             {"sdb1", Permit{}, "it is a partition"},
		"partition, permitted":  {"sdb1", Permit{Partition: true}, ""},
		"disk for a partition":  {"sdb", Permit{Partition: true}, "it is no partition"},
		"card":                  {"sdb", Permit{}, ""},
		"card by a link":        {"card", Permit{}, ""},
		"empty reader":          {"sdc", Permit{}, "it has no medium"},
		"below LVM":             {"sdd", Permit{}, "sdd holds dm-0, which is mounted on /data; sdd is part of dm-0 (vg-data)"},
		"LVM itself":            {"dm-0", Permit{}, "it is made of other disks (dm-0 vg-data)"},
		"swap":                  {"sde", Permit{}, "this machine runs from it: sde is swap space"},
		"write-protected":       {"sdf", Permit{}, "it is write-protected"},
		"raw flash":             {"mtdblock0", Permit{}, "it is raw flash"},
		"loop":                  {"loop0", Permit{}, ""},
		"missing":               {"sdx", Permit{}, "it does not exist"},
		"link to nothing":       {"dangling", Permit{File: true}, "it is a link to nothing"},
		"file":                  {"../proc/swaps", Permit{}, "it is a file, not a disk"},
		"file, permitted":       {"../proc/swaps", Permit{File: true}, ""},
		"new file, permitted":   {"../new.img", Permit{File: true}, ""},
		"folder":                {"..", Permit{File: true}, "neither a disk nor a file"},
		"new file in no folder": {"../a/b/new.img", Permit{File: true}, "there is no directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := s.Inspect(s.root+"/dev/"+c.target, c.permit)
			var refused *RefusedError
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (!errors.As(err, &refused) || !strings.Contains(refused.Reason, c.want)):
				t.Errorf("%+v, %v; want %q", d, err, c.want)
			}
		})
	}
	d, err := s.Inspect(s.root+"/dev/sdb", Permit{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Model != "SanDisk Ultra\uFFFD]0;x" || d.Serial != "4C530001210927110\uFFFD[31m82" || d.Transport != "usb" || !d.Removable || d.Size != 62333952*512 {
		t.Errorf("%+v", d)
	}
}

// TestUnknownMounts: what is not understood must not be taken for free.
func TestUnknownMounts(t *testing.T) {
	t.Parallel()
	s := newFakeSystem(t)
	s.put(t, "proc/self/mountinfo", "a line of the future\n")
	if _, err := s.Inspect(s.root+"/dev/sdb", Permit{}); err == nil || !strings.Contains(err.Error(), "what is mounted") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(s.root + "/proc/self/mountinfo"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Inspect(s.root+"/dev/sdb", Permit{}); err == nil {
		t.Error("taken without knowing what is mounted")
	}
}
