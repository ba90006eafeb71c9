package scaffold

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
)

// Limits of what is read of a build.
const (
	maxTestdata = 32 << 20
	maxEntries  = 100_000
)

// rootfsTypes are the kinds of root file systems that are looked for; the first three are the language's own choice.
var rootfsTypes = []string{
	"ext4", "squashfs", "erofs", "ext3", "ext2", "squashfs-xz", "squashfs-zst", "squashfs-lz4", "squashfs-lzo", "erofs-lz4", "erofs-lz4hc", "btrfs",
}

// defaultTypes is how many of rootfsTypes need not be named in a pipeline.
const defaultTypes = 3

// ChoiceError says that there are several of something, or none, and how to choose.
type ChoiceError struct {
	What    string   // what is wrong, for people
	Choices []string // empty: there is none
	Advice  string
}

func (e *ChoiceError) Error() string {
	if len(e.Choices) == 0 {
		return e.What
	}
	list := e.Choices
	more := ""
	if len(list) > 20 {
		more = fmt.Sprintf(" and %d more", len(list)-20)
		list = list[:20]
	}
	return e.What + ": " + strings.Join(list, ", ") + more
}

// Hint says what to do.
func (e *ChoiceError) Hint() string { return e.Advice }

// Deploy is what a Yocto deploy directory holds, as far as a pipeline needs it.
type Deploy struct {
	Dir     string // absolute
	Machine string
	Image   string

	RootfsType string
	RootfsSize int64  // of what is compressed, when it is unpacked; 0 when that is not known
	Rootfs     string // of what is compressed, where it will be unpacked to; otherwise absolute
	Kernel     string
	BootFiles  map[string]string
	BootBytes  int64 // of all boot files
	UBootEnv   string
	BuildID    string
	HasSBOM    bool
	Variables  map[string]string // of the image's .testdata.json

	// Notes say what the pipeline that is written cannot take over.
	Notes []string
	// noBootFiles: IMAGE_BOOT_FILES names files that are not there.
	noBootFiles bool
}

// DeployOptions choose where a build left several things.
type DeployOptions struct {
	Dir     string
	Machine string // empty: the only one
	Image   string // empty: the only one with a root file system
}

// FindDeploy looks at a deploy directory, or at a build directory that has one.
func FindDeploy(ctx context.Context, o DeployOptions) (*Deploy, error) {
	dir, err := deployDir(o)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	d := &Deploy{Dir: dir}
	names, err := listDir(dir)
	if err != nil {
		return nil, err
	}
	if err := d.choose(names, o); err != nil {
		return nil, err
	}
	if err := d.ask(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// deployDir descends from a build directory to the only machine's directory in it.
func deployDir(o DeployOptions) (string, error) {
	if _, err := listDir(o.Dir); err != nil {
		return "", err
	}
	for _, images := range []string{"", "images", "deploy/images", "tmp/deploy/images", "build/tmp/deploy/images"} {
		var machines []string
		dir := filepath.Join(o.Dir, images)
		names, err := listDir(dir)
		if err != nil {
			continue
		}
		if looksDeployed(names) {
			return dir, nil
		}
		for _, name := range names {
			if inner, err := listDir(filepath.Join(dir, name)); err == nil && looksDeployed(inner) {
				machines = append(machines, name)
			}
		}
		switch {
		case o.Machine != "" && slices.Contains(machines, o.Machine):
			return filepath.Join(dir, o.Machine), nil
		case len(machines) == 1 && o.Machine == "":
			return filepath.Join(dir, machines[0]), nil
		case len(machines) > 0:
			return "", &ChoiceError{What: dir + " has images for several machines", Choices: machines, Advice: "choose one with --machine"}
		}
	}
	return "", &ChoiceError{
		What:   fmt.Sprintf("%s holds no root file system of a Yocto build", o.Dir),
		Advice: `give the machine's directory, tmp/deploy/images/MACHINE; the build needs IMAGE_FSTYPES += "ext4", or one that is compressed`,
	}
}

func looksDeployed(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := cutRootfsType(name); return ok })
}

// cutRootfsType takes the kind of a root file system, and what it is compressed with, from a file's name.
func cutRootfsType(name string) (string, bool) {
	for _, suffix := range pipeline.PackedSuffixes() {
		if plain, ok := strings.CutSuffix(name, suffix); ok {
			name = plain
			break
		}
	}
	for _, ext := range rootfsTypes {
		if stem, ok := strings.CutSuffix(name, "."+ext); ok && stem != "" {
			return stem, true
		}
	}
	return "", false
}

func listDir(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, plainPathError(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(maxEntries + 1)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s is not a directory that can be read: %w", dir, plainPathError(err))
	case len(names) > maxEntries:
		return nil, fmt.Errorf("%s has more than %d entries", dir, maxEntries)
	}
	slices.Sort(names)
	return names, nil
}

func plainPathError(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	return err
}

var (
	datePattern = regexp.MustCompile(`-[0-9]{14}$`)
	namePattern = regexp.MustCompile(`^[A-Za-z0-9._+-]{1,128}$`)
)

// choose finds machine and image from the names of files and, where there are any, the builds' variables.
func (d *Deploy) choose(names []string, o DeployOptions) error {
	type build struct{ machine, image string }
	var builds []build
	var stems []string
	for _, name := range names { // the variables say it best
		if !strings.HasSuffix(name, ".testdata.json") {
			continue
		}
		vars, err := readTestdata(filepath.Join(d.Dir, name))
		if err != nil {
			d.Notes = append(d.Notes, err.Error())
			continue
		}
		b := build{vars["MACHINE"], vars["IMAGE_BASENAME"]}
		if b.machine == "" {
			continue
		}
		if b.image == "" {
			b.image, _, _ = strings.Cut(name, "-"+b.machine)
		}
		if !slices.Contains(builds, b) {
			builds = append(builds, b)
		}
	}
	for _, name := range names {
		if stem, ok := cutRootfsType(name); ok {
			stem = strings.TrimSuffix(datePattern.ReplaceAllString(strings.TrimSuffix(stem, ".rootfs"), ""), ".rootfs")
			stems = append(stems, stem)
		}
	}
	machine := o.Machine
	if machine == "" && len(builds) > 0 {
		machine = builds[0].machine
	}
	if base := filepath.Base(d.Dir); machine == "" && slices.ContainsFunc(stems, func(s string) bool { return strings.HasSuffix(s, "-"+base) }) {
		machine = base // tmp/deploy/images/MACHINE
	}
	if machine == "" {
		return &ChoiceError{What: d.Dir + " does not say for which machine it is", Advice: "name the machine with --machine"}
	}
	var images []string
	for _, stem := range stems {
		if image, ok := strings.CutSuffix(stem, "-"+machine); ok && namePattern.MatchString(image) && !slices.Contains(images, image) {
			images = append(images, image)
		}
	}
	slices.Sort(images)
	d.Machine = machine
	switch {
	case o.Image != "" && !slices.Contains(images, o.Image):
		return &ChoiceError{What: fmt.Sprintf("%s has no root file system of an image %s; there is", d.Dir, o.Image), Choices: images, Advice: "choose one with --image"}
	case o.Image != "":
		d.Image = o.Image
	case len(images) == 1:
		d.Image = images[0]
	case len(images) == 0:
		return &ChoiceError{What: fmt.Sprintf("%s holds no root file system for the machine %s", d.Dir, machine), Advice: "choose another machine with --machine"}
	default:
		return &ChoiceError{What: d.Dir + " has several images", Choices: images, Advice: "choose one with --image"}
	}
	return nil
}

func readTestdata(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, plainPathError(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", file)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxTestdata+1))
	if err != nil {
		return nil, plainPathError(err)
	}
	if len(data) > maxTestdata {
		return nil, fmt.Errorf("%s is larger than 32 MiB", file)
	}
	all := map[string]any{}
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("%s is not valid JSON: %w", file, err)
	}
	vars := make(map[string]string, len(all))
	for name, value := range all {
		if text, ok := value.(string); ok && len(text) <= 1<<16 {
			vars[name] = strings.TrimSpace(text)
		}
	}
	return vars, nil
}

// ask lets the language itself say what source "yocto" finds, so that the pipeline and its draft cannot disagree.
func (d *Deploy) ask(ctx context.Context) error {
	diags, err := d.probe(ctx, "")
	if err != nil {
		return err
	}
	if diags != "" {
		withAll := diags
		if diags, err = d.probe(ctx, "boot_files = {}\n"); err != nil {
			return err
		}
		if diags != "" {
			return errors.New(diags)
		}
		d.noBootFiles = true
		d.Notes = append(d.Notes, "the boot files are left out. "+withAll)
	}
	for _, file := range d.BootFiles {
		if info, err := os.Stat(file); err == nil {
			d.BootBytes += alignUp(info.Size(), 32*kib) // the largest cluster of a FAT
		}
	}
	return nil
}

// probed is what the probe's output holds.
type probed struct {
	Rootfs     string            `json:"rootfs"`
	RootfsType string            `json:"rootfs_type"`
	Kernel     string            `json:"kernel"`
	UBootEnv   string            `json:"uboot_env"`
	Testdata   string            `json:"testdata"`
	SBOM       string            `json:"sbom"`
	BuildID    string            `json:"build_id"`
	BootFiles  map[string]string `json:"boot_files"`
}

// probe evaluates a pipeline with nothing but the source. It returns what the language says is wrong.
func (d *Deploy) probe(ctx context.Context, more string) (string, error) {
	dir, err := os.MkdirTemp("", "twinkeel-init-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	text := fmt.Sprintf("source \"yocto\" \"probe\" {\ndeploy_dir = %s\nmachine = %s\nimage = %s\nrootfs_types = %s\n%s}\noutput \"probe\" {\nvalue = {\n",
		quote(d.Dir), quote(d.Machine), quote(d.Image), quoteList(rootfsTypes), more)
	for _, name := range []string{"rootfs", "rootfs_type", "kernel", "uboot_env", "testdata", "sbom", "build_id", "boot_files"} {
		text += name + " = source.yocto.probe." + name + "\n"
	}
	text += "}\n}\noutput \"size\" {\nvalue = source.yocto.probe.rootfs_size\n}\n" // of what is compressed it may not be known
	if err := durable.WriteFile(filepath.Join(dir, "probe.twinkeel.hcl"), []byte(text), 0o600); err != nil {
		return "", err
	}
	p, diags := pipeline.Load(pipeline.LoadOptions{Dir: dir})
	var outputs []pipeline.Output
	if !diags.HasErrors() {
		outputs, diags = p.Outputs(ctx, pipeline.OutputOptions{})
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if diags.HasErrors() {
		return strings.TrimSpace(diags[0].Detail), nil
	}
	var got probed
	if len(outputs) != 2 || json.Unmarshal(outputs[0].Value, &got) != nil {
		return "", fmt.Errorf("%s cannot be read as a deploy directory", d.Dir)
	}
	d.RootfsSize = 0
	if outputs[1].Known && json.Unmarshal(outputs[1].Value, &d.RootfsSize) != nil {
		return "", fmt.Errorf("%s cannot be read as a deploy directory", d.Dir)
	}
	d.Rootfs, d.RootfsType, d.Kernel = got.Rootfs, got.RootfsType, got.Kernel
	d.UBootEnv, d.BuildID, d.BootFiles, d.HasSBOM = got.UBootEnv, got.BuildID, got.BootFiles, got.SBOM != ""
	if got.Testdata != "" {
		if d.Variables, err = readTestdata(got.Testdata); err != nil {
			return "", err
		}
	}
	return "", nil
}

// number reads a variable as a whole number, decimal or hexadecimal; false when it is not one.
func (d *Deploy) number(name string) (int64, bool) {
	n, err := strconv.ParseInt(d.Variables[name], 0, 64)
	return n, err == nil && n >= 0 && n <= maxSize
}

// mebibytes reads a size in MiB.
func (d *Deploy) mebibytes(name string) (int64, bool) {
	n, ok := d.number(name)
	return n * mib, ok && n <= maxSize/mib
}

// fileSize is the size of a regular file, or -1.
func fileSize(file string) int64 {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() {
		return -1
	}
	return info.Size()
}
