package edit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
)

func resize(t testing.TB, path string, size int64) (got *Resized) {
	t.Helper()
	_, err := edited(t, path, Options{}, func(im *Image) (err error) {
		got, err = im.Resize(t.Context(), size, true)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// sixPartitions adds two, so that an MBR needs an extended one.
func sixPartitions(img *imaging.Image) {
	p := img.Layout.Partitions
	img.Layout.Partitions = append(p[:3:3], imaging.Partition{Name: "spare", Size: 2 * mib}, imaging.Partition{Name: "more", Size: 2 * mib}, p[3])
}

func TestResize(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*imaging.Image){
		"gpt":            nil,
		"gpt 4096":       func(img *imaging.Image) { img.Layout.SectorSize = 4096 },
		"gpt 56 entries": func(img *imaging.Image) { img.Layout.GPT.Entries = 56 },
		"gpt no backup":  func(img *imaging.Image) { img.Layout.GPT.NoBackup = true },
		"mbr":            func(img *imaging.Image) { img.Layout.Table = imaging.TableMBR },
		"mbr logical":    func(img *imaging.Image) { img.Layout.Table = imaging.TableMBR; sixPartitions(img) },
		"hybrid": func(img *imaging.Image) {
			img.Layout.Table = imaging.TableHybrid
			img.Layout.Partitions[0].InMBR, img.Layout.Partitions[3].InMBR = true, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := board(t, change)
			got := resize(t, path, 6000*mib) // beyond 4 GiB
			if !got.Grown || got.Room < 5900*mib || got.Size != 6000*mib {
				t.Errorf("%+v", got)
			}
			checkTables(t, path, name)
			report := sound(t, path)
			last := report.Partitions[len(report.Partitions)-1]
			if last.Size != got.Room || last.FilesystemSize < got.Room-4*kib {
				t.Errorf("partition %+v of %+v", last, got)
			}
			if used := allocated(t, path); used > 64*mib {
				t.Errorf("%d bytes are allocated", used)
			}
			d, err := inspect.Open(t.Context(), path, inspect.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if d.Map.Damaged != "" {
				t.Errorf("damaged: %s", d.Map.Damaged)
			}
			if agent, _, found := d.FindAgent(); !found || agent.DeviceType != "board" {
				t.Errorf("the files are gone: %+v", agent)
			}
		})
	}
}

// checkTables asks sgdisk, which has no word for tables without a backup, and sfdisk. Both take the sectors of files to have 512 bytes.
func checkTables(t testing.TB, path, name string) {
	t.Helper()
	if strings.HasPrefix(name, "gpt") && !strings.Contains(name, "4096") && !strings.Contains(name, "no backup") {
		if out := run(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
			t.Errorf("sgdisk: %s", out)
		}
	}
	if strings.Contains(name, "4096") || strings.Contains(name, "no backup") {
		return
	}
	out := run(t, "sfdisk", "--verify", path)
	if !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk: %s", out)
	}
}

// TestResizeOfForeignTables: sfdisk puts boot records elsewhere, and leaves things in a table that are not known here.
func TestResizeOfForeignTables(t *testing.T) {
	t.Parallel()
	tool(t, "sfdisk")
	for name, script := range map[string]string{
		"gpt": "label: gpt\nstart=2048, size=8192, name=\"odd name\", attrs=\"RequiredPartition,GUID:50\"\nstart=16384, size=8192, type=21686148-6449-6E6F-744E-656564454649\n",
		"mbr": "label: dos\nlabel-id: 0x12345678\nstart=2048, size=8192, type=c, bootable\nstart=16384, size=40960, type=5\nstart=18432, size=8192, type=83\nstart=30720, size=8192, type=83\n",
	} {
		path := filepath.Join(t.TempDir(), "disk.img")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 32*mib); err != nil {
			t.Fatal(err)
		}
		run(t, "sh", "-c", fmt.Sprintf("printf '%%s' '%s' | PATH=$PATH:/sbin:/usr/sbin sfdisk -q %s", script, path))
		before := run(t, "sfdisk", "-d", path)
		got := resize(t, path, 100*mib)
		if got.Grown || got.Room <= got.OldRoom {
			t.Errorf("%s: %+v", name, got)
		}
		checkTables(t, path, name)
		after := run(t, "sfdisk", "-d", path)
		if a, b := shape(before), shape(after); a != b {
			t.Errorf("%s: before\n%s\nafter\n%s", name, a, b)
		}
	}
}

// shape is a dump of sfdisk without what a new size changes: the size of the last partition and of the extended one.
func shape(dump string) string {
	var lines []string
	for line := range strings.Lines(dump) {
		if strings.HasPrefix(line, "last-lba") {
			continue
		}
		before, after, ok := strings.Cut(line, "size=")
		if ok {
			_, after, _ = strings.Cut(after, ",")
			line = before + after
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

func TestResizeTwiceIsTheSameAsOnce(t *testing.T) {
	t.Parallel()
	one := board(t, nil)
	resize(t, one, 50*mib)
	resize(t, one, 90*mib)
	before := string(readFile(t, one))
	if got := resize(t, one, 90*mib); got.Room != got.OldRoom {
		t.Errorf("%+v", got)
	}
	if string(readFile(t, one)) != before {
		t.Error("resizing to the same size changes bytes")
	}
	other := board(t, nil)
	resize(t, other, 50*mib)
	resize(t, other, 90*mib)
	if string(readFile(t, other)) != before {
		after := string(readFile(t, other))
		for i := range before {
			if before[i] != after[i] {
				t.Fatalf("two runs differ, first at %d", i)
			}
		}
	}
}

// TestResizeWithChecksums: file systems of other makers have checksums and 64-bit numbers.
func TestResizeWithChecksums(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data.ext4")
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "metadata_csum,64bit", "-U", "6c1a5a4e-52a1-4cf4-8e0c-6f1a0c3c1f00", data, "20M")
	var results []string
	for range 2 {
		path := board(t, func(img *imaging.Image) {
			img.Layout.Partitions[3].Size = 20 * mib
			img.Contents["data"] = imaging.Content{File: data}
		})
		if got := resize(t, path, 100*mib); !got.Grown {
			t.Errorf("%+v", got)
		}
		sound(t, path)
		results = append(results, string(readFile(t, path)))
	}
	if results[0] != results[1] {
		t.Error("two runs differ")
	}
}

func TestShrink(t *testing.T) {
	t.Parallel()
	path := board(t, func(img *imaging.Image) { img.Layout.DiskSize = 100 * mib })
	if got := resize(t, path, 40*mib); got.Room != got.OldRoom || got.Size != 40*mib {
		t.Errorf("%+v", got)
	}
	sound(t, path)
	checkTables(t, path, "gpt")
}

func TestBackupTableIsMoved(t *testing.T) {
	t.Parallel()
	path := board(t, nil)
	if err := os.Truncate(path, 60*mib); err != nil {
		t.Fatal(err)
	}
	if got := resize(t, path, 60*mib); !got.Grown {
		t.Errorf("%+v", got)
	}
	sound(t, path)
	checkTables(t, path, "gpt")
}

func TestRefusedSizes(t *testing.T) {
	t.Parallel()
	put := func(path string, off int64, data []byte) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		size   int64
		damage func(path string)
		want   string
	}{
		"too small":          {20 * mib, func(string) {}, "too small: partition 4 (data) ends at"},
		"something behind":   {200 * mib, func(path string) { put(path, 38*mib, []byte("environment")) }, "data behind partition 4 (data)"},
		"damaged table":      {200 * mib, func(path string) { put(path, 600, []byte("X")) }, "damaged (primary)"},
		"damaged filesystem": {200 * mib, func(path string) { put(path, 26*mib+3*kib, noise(8, 8*kib)) }, "file system is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := board(t, func(img *imaging.Image) { img.Layout.DiskSize = 40 * mib })
			c.damage(path)
			before := string(readFile(t, path))
			_, err := edited(t, path, Options{}, func(im *Image) error {
				_, err := im.Resize(t.Context(), c.size, true)
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
