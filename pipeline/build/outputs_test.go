package build

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/pipeline"
)

// rawImagePlan is a plan with one image, "image.board", of raw bytes alone: no program is needed to make it.
func rawImagePlan(t *testing.T, formats ...string) *pipeline.Plan {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "rootfs")
	write(t, file, "a root file system")
	im := ubootImage()
	for i := range im.DeviceType.Layout.Partitions {
		im.DeviceType.Layout.Partitions[i].Filesystem = "none"
	}
	im.Fills = []pipeline.Fill{{Partition: "rootfs", File: file}}
	plan := &pipeline.Plan{
		Dir: dir, OutDir: filepath.Join(dir, "out"),
		Actions: []*pipeline.Action{{Address: im.Address, Kind: pipeline.KindImage, Image: im}},
	}
	setFormats(plan, formats...)
	return plan
}

func setFormats(plan *pipeline.Plan, formats ...string) {
	im := plan.Actions[0].Image
	im.Outputs = nil
	for _, f := range formats {
		im.Outputs = append(im.Outputs, pipeline.ImageOutput{Format: f, Path: filepath.Join(plan.OutDir, "images", "board."+f)})
	}
	im.Path = im.Outputs[0].Path
}

func exists(t *testing.T, plan *pipeline.Plan, format string) bool {
	t.Helper()
	_, err := os.Lstat(filepath.Join(plan.OutDir, "images", "board."+format))
	return err == nil
}

// TestStaleOutputs: what a block no longer makes goes with the next build, if it is what was made.
func TestStaleOutputs(t *testing.T) {
	t.Parallel()
	plan := rawImagePlan(t, imaging.FormatRaw, imaging.FormatBmap, imaging.FormatGzip, imaging.FormatZstd)
	buildAll(t, plan)
	beside := filepath.Join(plan.OutDir, "images", "other.bmap")
	write(t, beside, "not of this build")
	write(t, filepath.Join(plan.OutDir, "images", "board.zst"), "changed by somebody")
	setFormats(plan, imaging.FormatGzip)
	steps, err := Decide(t.Context(), plan, false)
	if err != nil {
		t.Fatal(err)
	}
	var warnings []string
	if _, err := Run(t.Context(), steps, plan, Options{Warn: func(text string) { warnings = append(warnings, text) }}); err != nil {
		t.Fatal(err)
	}
	for format, want := range map[string]bool{imaging.FormatRaw: false, imaging.FormatBmap: false, imaging.FormatGzip: true, imaging.FormatZstd: true} {
		if exists(t, plan, format) != want {
			t.Errorf("%s is there: %v, want %v", format, !want, want)
		}
	}
	if _, err := os.Stat(beside); err != nil {
		t.Error(err)
	}
	if len(warnings) != 1 || warnings[0] != "out/images/board.zst is no longer an output, but was changed since it was made; it stays" {
		t.Errorf("%q", warnings)
	}
	setFormats(plan, imaging.FormatRaw) // and from the cache
	buildAll(t, plan)
	if exists(t, plan, imaging.FormatGzip) || !exists(t, plan, imaging.FormatRaw) {
		t.Error("the compressed image is still there, or the raw one is not")
	}
}

// TestStaleOutputsStayInside: a record that names files elsewhere, and links that lead there, remove nothing.
func TestStaleOutputsStayInside(t *testing.T) {
	t.Parallel()
	plan := rawImagePlan(t, imaging.FormatRaw)
	record := buildAll(t, plan)
	elsewhere := t.TempDir()
	outside := filepath.Join(elsewhere, "file")
	write(t, outside, "mine")
	if err := os.Symlink(elsewhere, filepath.Join(plan.OutDir, "link")); err != nil {
		t.Fatal(err)
	}
	sum, err := hashFile(t.Context(), outside, "")
	if err != nil {
		t.Fatal(err)
	}
	out := record.Outputs["image.board"]
	for _, path := range []string{relativeTo(plan.Dir, outside), outside, "out/link/file", "rootfs", "out/gone/file", "out"} {
		out.Sidecars = append(out.Sidecars, Sidecar{path, sum})
	}
	if err := record.write(plan.OutDir); err != nil {
		t.Fatal(err)
	}
	write(t, plan.Actions[0].Image.Fills[0].File, "mine") // so that only the place keeps it
	buildAll(t, plan)
	for _, path := range []string{outside, filepath.Join(plan.Dir, "rootfs"), filepath.Join(plan.OutDir, "images", "board.raw")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// TestFillDirectory: what a directory has besides files and modes arrives, owners if they are asked for; what the file system
// cannot hold is found with the plan.
func TestFillDirectory(t *testing.T) {
	t.Parallel()
	if err := imaging.CheckTools(); err != nil {
		t.Skip(err)
	}
	plan := rawImagePlan(t, imaging.FormatRaw)
	im := plan.Actions[0].Image
	im.DeviceType.Layout.Partitions[0].Filesystem = "ext4"
	dir := filepath.Join(plan.Dir, "tree")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "file"), "x")
	if err := os.Link(filepath.Join(dir, "file"), filepath.Join(dir, "more")); err != nil {
		t.Fatal(err)
	}
	uid := os.Getuid()
	if uid == 0 {
		uid = 1234
		if err := os.Chown(filepath.Join(dir, "file"), uid, 0); err != nil {
			t.Fatal(err)
		}
	}
	im.Fills = []pipeline.Fill{{Partition: "boot", Dir: dir, RootOwned: true}}
	for _, want := range []int{0, uid} {
		im.Fills[0].RootOwned = want == 0
		if s := decideOne(t, plan); s.UpToDate() {
			t.Errorf("owner %d: nothing to do", want)
		}
		buildAll(t, plan)
		f, err := os.Open(im.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		m, err := ImageMap(im)
		if err != nil {
			t.Fatal(err)
		}
		boot, _ := m.Find("boot")
		files, err := imaging.OpenExt4(f, boot.Offset, boot.Size)
		if err != nil {
			t.Fatal(err)
		}
		info, err := fs.Stat(files, "more")
		if err != nil {
			t.Fatal(err)
		}
		if stat := info.Sys().(*imaging.Ext4Stat); int(stat.UID) != want || stat.Links != 2 {
			t.Errorf("%+v, want the owner %d", stat, want)
		}
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	im.DeviceType.Layout.Partitions[0].Filesystem = "vfat"
	if _, err := Decide(t.Context(), plan, false); err == nil || !strings.Contains(err.Error(), `"link": vfat has no symbolic links`) {
		t.Errorf("%v", err)
	}
}

// TestLargeImage: a raw image above 4 GiB has a digest without its zeros, which the next build and the cache go by.
func TestLargeImage(t *testing.T) {
	t.Parallel()
	plan := rawImagePlan(t, imaging.FormatRaw, imaging.FormatBmap)
	plan.Actions[0].Image.DeviceType.Layout.DiskSize = 2 * imaging.MaxWholeDigest
	out := buildAll(t, plan).Outputs["image.board"]
	if out.SHA256 != "" || len(out.SparseSHA256) != 64 || out.Size != 2*imaging.MaxWholeDigest {
		t.Errorf("%+v", out)
	}
	if s := decideOne(t, plan); !s.UpToDate() {
		t.Errorf("after the build: %+v", s)
	}
	f, err := os.OpenFile(plan.Actions[0].Image.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("x"), imaging.MaxWholeDigest)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := decideOne(t, plan)
	if len(s.Reasons) != 1 || s.Reasons[0].Code != ReasonOutputModified || !s.Restore {
		t.Errorf("after a change: %+v", s)
	}
	again := buildAll(t, plan).Outputs["image.board"]
	if again.SparseSHA256 != out.SparseSHA256 || again.SHA256 != "" {
		t.Errorf("from the cache: %+v", again)
	}
	if whole, damaged, err := OpenCache(CacheDir(plan)).Verify(t.Context(), false); err != nil || whole != 1 || len(damaged) > 0 {
		t.Errorf("the cache has %d whole entries, %v, %v", whole, damaged, err)
	}
}
