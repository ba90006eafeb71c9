package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

// imageCommands look into disk images and change them.
func (a *app) imageCommands() []*cobra.Command {
	return []*cobra.Command{
		a.imageMapCommand(), a.imageVerifyCommand(), a.imageLsCommand(), a.imageCatCommand(), a.imageExtractCommand(), a.imageDiffCommand(),
		a.imageSetEnvCommand(), a.imageReplaceSlotCommand(), a.imageResizeCommand(), a.imageProvisionCommand(),
	}
}

const diskHelp = `IMAGE is a raw image, one that is compressed (.gz, .xz, .zst, .bz2, .lz4), an Android sparse or qcow2 image, or a block device.
A compressed one is unpacked into a sparse temporary file first. Neither root nor a loop device is needed for files.`

const partitionHelp = `PARTITION is a number, a name, the label of its file system, or a or b for a slot.`

// openDisk opens an image or a disk; unpacking shows its progress.
func (a *app) openDisk(ctx context.Context, name string) (*inspect.Disk, error) {
	if name == "-" || strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://") {
		return nil, usagef("%s: IMAGE must be a file or a block device: its parts are needed in any order", shown(name))
	}
	var show progress
	e := build.Event{Address: oneLine(name), Doing: "unpacking", State: build.StateStarted}
	d, err := inspect.Open(ctx, name, inspect.Options{Progress: func(done, total int64) {
		if show == nil {
			show = a.newProgress(ctx)
			show.event(e)
			e.State = build.StateProgress
		}
		e.Done, e.Total = done, total
		show.event(e)
	}})
	if show != nil {
		if e.State, e.Err = build.StateDone, err; err != nil {
			e.State = build.StateFailed
		}
		show.event(e)
		show.close()
	}
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return d, err
}

type imageMapOptions struct {
	svg   string
	width int
}

func (a *app) imageMapCommand() *cobra.Command {
	var o imageMapOptions
	c := &cobra.Command{
		Use:   "map IMAGE|DEVICE|ADDRESS",
		Short: "Show what is where on a disk image or a disk",
		Long: `Draw a disk to scale, with a table of its partitions, of what lies between them, and of how full its file systems are. With
the address of an image block of the pipeline, such as image.board, it shows the disk as it will be, before anything is built.

` + diskHelp,
		Args: exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runImageMap(cmd.Context(), o, args[0]) },
	}
	c.Flags().StringVar(&o.svg, "svg", "", "write a picture to `file` instead (\"-\" is stdout)")
	c.Flags().IntVar(&o.width, "width", 0, "`columns` of the drawing; default is the terminal's width, 100 at most")
	return c
}

// shownMap is what `image map --json` prints: the map, and what it does not know.
type shownMap struct {
	*imaging.Map
	Free  []imaging.Span `json:"free"` // what belongs to no region
	Usage []partitionUse `json:"usage"`
}

type partitionUse struct {
	Number         int    `json:"number"`
	Name           string `json:"name"`
	Filesystem     string `json:"filesystem"`
	FilesystemSize int64  `json:"filesystem_size"`
	Used           int64  `json:"used"` // bytes; -1 when it is not known
}

func (a *app) runImageMap(ctx context.Context, o imageMapOptions, name string) error {
	if o.width < 0 || o.width > 1000 {
		return usagef("--width %d: it takes a number from 1 to 1000", o.width)
	}
	m, use, err := a.readMap(ctx, name)
	if err != nil {
		return err
	}
	if o.svg != "" {
		if m.Table == imaging.TableUBI {
			return fmt.Errorf("%s is raw flash, of which there is no picture: UBI decides where the blocks of a volume are", name)
		}
		if err := notOver("--svg", o.svg, name); err != nil {
			return err
		}
		return a.writeOrStdoutText(o.svg, m.SVG)
	}
	if done, err := a.asJSON(shownMap{m, notNil(inspect.Gaps(m)), notNil(use)}); done {
		return err
	}
	width := o.width
	if width == 0 {
		width = min(a.ui.width, 100)
	}
	a.printf("%s", m.Bar(width))
	if len(use) > 0 {
		a.printf("\n")
		t := table{}
		t.add("partition", "file system", "size", "used", "")
		for _, u := range use {
			used, percent := "?", ""
			if u.Used >= 0 {
				used = size(u.Used)
				percent = fmt.Sprintf("%d %%", u.Used*100/max(u.FilesystemSize, 1))
			}
			t.add(strings.TrimSpace(fmt.Sprintf("%d %s", u.Number, oneLine(u.Name))), u.Filesystem, size(u.FilesystemSize), used, percent)
		}
		t.print(a.stdout)
	}
	return nil
}

// writeOrStdoutText writes to path, or to stdout for "-", a terminal included.
func (a *app) writeOrStdoutText(path string, make func(w io.Writer) error) error {
	if path == "-" {
		return make(a.stdout)
	}
	return write(path, func(f *durable.File) error { return make(f) })
}

// readMap reads the map of a file or device, or makes that of an image of the pipeline.
func (a *app) readMap(ctx context.Context, name string) (*imaging.Map, []partitionUse, error) {
	im, err := a.imageAt(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if im != nil {
		m, err := build.ImageMap(im)
		return m, nil, err
	}
	d, err := a.openDisk(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	if d.Map == nil {
		return nil, nil, fmt.Errorf("%s: %w", name, d.NoTable)
	}
	var use []partitionUse
	for _, r := range d.Map.Regions {
		if r.Kind != imaging.KindPartition {
			continue
		}
		u, err := inspect.UsageOf(d.Section(r), r.Size)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: partition %s: %w", name, inspect.Title(r), err)
		}
		if u.Kind != "" {
			use = append(use, partitionUse{r.Number, r.Name, u.Kind, u.Size, u.Used})
		}
	}
	return d.WithEnvironments(), use, nil
}

// imageAt returns the image block of the pipeline that an address names, or nothing when the name is that of a file.
func (a *app) imageAt(ctx context.Context, name string) (*pipeline.Image, error) {
	if !strings.HasPrefix(name, "image.") {
		return nil, nil
	}
	if _, err := os.Lstat(name); err == nil {
		return nil, nil // a file of that name
	}
	if strings.ContainsRune(name, os.PathSeparator) {
		return nil, nil
	}
	_, plan, err := a.planOf(ctx, []string{name}, pipeline.KindImage)
	if err != nil {
		return nil, err
	}
	var found []*pipeline.Image
	for _, action := range plan.Actions {
		if action.Image != nil {
			found = append(found, action.Image)
		}
	}
	if len(found) != 1 {
		return nil, usagef("%s names %s: choose one", name, plural(len(found), "image"))
	}
	return found[0], nil
}

// splitInside splits PARTITION:/PATH. Without a colon it is a partition, and with a slash at its front a path on a disk that is one
// file system.
func splitInside(text string) (partition, path string, whole bool) {
	if strings.HasPrefix(text, "/") {
		return "", text, false
	}
	partition, path, inside := strings.Cut(text, ":")
	return partition, path, !inside
}

func (a *app) imageLsCommand() *cobra.Command {
	var recursive bool
	c := &cobra.Command{
		Use:   "ls IMAGE [PARTITION:/PATH]",
		Short: "List the partitions of a disk image, or files in one of them",
		Long: `List the partitions; with PARTITION:/PATH, such as data:/mender, a directory in the file system of a partition (ext2 to ext4,
vfat or squashfs), without root and without mounting it. On an image that is one file system without a table, /PATH is enough.

` + partitionHelp + "\n\n" + diskHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 2 {
				return nil
			}
			return usagef("%s takes IMAGE and perhaps PARTITION:/PATH; got %s", cmd.CommandPath(), plural(len(args), "argument"))
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.runImageLs(cmd.Context(), args[0])
			}
			return a.runImageLsInside(cmd.Context(), args[0], args[1], recursive)
		},
	}
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "list directories in directories, too")
	return c
}

// listedPartition is what `image ls --json` prints of a partition.
type listedPartition struct {
	Number     int    `json:"number"`
	Name       string `json:"name"`
	Slot       string `json:"slot,omitempty"`
	Offset     int64  `json:"offset"`
	Size       int64  `json:"size"`
	Filesystem string `json:"filesystem"`
	Label      string `json:"label,omitempty"`
}

func (a *app) runImageLs(ctx context.Context, name string) error {
	d, err := a.openDisk(ctx, name)
	if err != nil {
		return err
	}
	defer d.Close()
	if d.Map == nil {
		if _, _, err := d.Filesystem(""); err == nil {
			return a.listDisk(ctx, d, "", "/", false)
		}
		return fmt.Errorf("%s: %w", name, d.NoTable)
	}
	list := []listedPartition{}
	for _, r := range d.Map.Regions {
		if r.Kind == imaging.KindPartition {
			list = append(list, listedPartition{r.Number, r.Name, r.Slot, r.Offset, r.Size, r.Filesystem, r.Label})
		}
	}
	slices.SortFunc(list, func(a, b listedPartition) int { return a.Number - b.Number })
	if done, err := a.asJSON(list); done {
		return err
	}
	t := table{}
	for _, p := range list {
		label := p.Label
		if label != "" {
			label = strconv.Quote(label)
		}
		t.add(strconv.Itoa(p.Number), oneLine(p.Name), p.Filesystem, size(p.Size), label)
	}
	t.print(a.stdout)
	return nil
}

func (a *app) runImageLsInside(ctx context.Context, name, where string, recursive bool) error {
	d, err := a.openDisk(ctx, name)
	if err != nil {
		return err
	}
	defer d.Close()
	partition, path, whole := splitInside(where)
	if whole {
		path = "/"
	}
	return a.listDisk(ctx, d, partition, path, recursive)
}

func (a *app) listDisk(ctx context.Context, d *inspect.Disk, partition, path string, recursive bool) error {
	inside, err := a.diskFiles(d, partition)
	if err != nil {
		return err
	}
	return a.listInside(ctx, insideName(d, partition), inside, path, recursive)
}

func insideName(d *inspect.Disk, partition string) string {
	if partition == "" {
		return d.Path
	}
	return d.Path + ": partition " + partition
}

// diskFiles opens the file system of a partition.
func (a *app) diskFiles(d *inspect.Disk, partition string) (fs.FS, error) {
	if partition == "" && d.Map != nil {
		return nil, usagef("%s has partitions: write PARTITION:/PATH", d.Path)
	}
	inside, _, err := d.Filesystem(partition)
	if err != nil {
		if hint := hintOf(err); hint != "" {
			return nil, &hintedError{fmt.Sprintf("%s: %v", d.Path, err), hint}
		}
		return nil, fmt.Errorf("%s: %w", insideName(d, partition), supported(err))
	}
	return inside, nil
}

func (a *app) imageCatCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cat IMAGE PARTITION:/PATH",
		Short: "Print a file from a disk image, or a whole partition",
		Long: `Print a file of the file system in a partition, such as data:/mender/device_type. PARTITION alone writes all its bytes to stdout.

` + partitionHelp + "\n\n" + diskHelp,
		Args: exactArgs("IMAGE", "PARTITION:/PATH"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runImageCat(cmd.Context(), args[0], args[1]) },
	}
}

func (a *app) runImageCat(ctx context.Context, name, where string) error {
	d, err := a.openDisk(ctx, name)
	if err != nil {
		return err
	}
	defer d.Close()
	partition, path, whole := splitInside(where)
	if whole {
		r, err := d.Partition(partition)
		if err != nil {
			return a.partitionError(d, err)
		}
		if f, ok := a.stdout.target.(*os.File); ok && isTerminal(f) {
			return usagef("a partition is not for the terminal: redirect stdout, or use image extract")
		}
		_, err = io.Copy(a.stdout.target, contextReader{ctx, r})
		return err
	}
	inside, err := a.diskFiles(d, partition)
	if err != nil {
		return err
	}
	return a.catInside(ctx, insideName(d, partition), inside, path)
}

func (a *app) partitionError(d *inspect.Disk, err error) error {
	return &hintedError{fmt.Sprintf("%s: %v", d.Path, err), hintOf(err)}
}

func (a *app) imageExtractCommand() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "extract IMAGE PARTITION[:/PATH] --output PATH",
		Short: "Write a partition, a file or a directory of a disk image to the host",
		Long: `Write a partition as an image of its own, a file of its file system, or a directory with all below it. Holes stay holes. A
directory must not exist yet and appears when it is complete; files in it get their permissions and times but belong to the caller.
Symbolic links are written as they are and never followed; devices, pipes and sockets are left out, which is said.

` + partitionHelp + "\n\n" + diskHelp,
		Args: exactArgs("IMAGE", "PARTITION[:/PATH]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runImageExtract(cmd.Context(), args[0], args[1], to)
		},
	}
	c.Flags().StringVarP(&to, "output", "o", "", "`path` to write to")
	return c
}

func (a *app) runImageExtract(ctx context.Context, name, where, to string) error {
	if to == "" {
		return usagef("--output is missing: where shall it go?")
	}
	if err := notOver("--output", to, name); err != nil {
		return err
	}
	d, err := a.openDisk(ctx, name)
	if err != nil {
		return err
	}
	defer d.Close()
	partition, path, whole := splitInside(where)
	result := extracted{Path: to}
	if whole {
		r, err := d.Partition(partition)
		if err != nil {
			return a.partitionError(d, err)
		}
		err = a.working(ctx, to, "extracting", func(report func(done, total int64)) error {
			return write(to, func(f *durable.File) error {
				return imaging.FillFile(ctx, f.File, &countingReader{r: r, total: r.Size(), report: report})
			})
		})
		if err != nil {
			return err
		}
		result.Files, result.Size = 1, r.Size()
	} else {
		inside, err := a.diskFiles(d, partition)
		if err != nil {
			return err
		}
		if err := a.extractInside(ctx, insideName(d, partition), inside, path, to, &result); err != nil {
			return err
		}
	}
	if done, err := a.asJSON(result); done {
		return err
	}
	a.printf("%s: %s, %s\n", to, plural(result.Files, "file"), size(result.Size))
	return nil
}

func (a *app) imageDiffCommand() *cobra.Command {
	var o imageDiffOptions
	c := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Show how two disk images differ, down to files and variables",
		Long: `Show what differs between two disks: their tables, the content of their partitions, the variables of the boot loader's
environment and, file by file, the file systems of partitions that differ. Lines begin with + for what NEW has, - for what OLD had
and ~ for what changed.

` + diskHelp,
		Args: exactArgs("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runImageDiff(cmd.Context(), o, args[0], args[1])
		},
	}
	c.Flags().BoolVar(&o.noFiles, "no-files", false, "do not compare file by file")
	c.Flags().BoolVar(&o.exitCode, "exit-code", false, "exit with 3 when they differ")
	return c
}

type imageDiffOptions struct{ noFiles, exitCode bool }

func (a *app) runImageDiff(ctx context.Context, o imageDiffOptions, old, new string) error {
	var disks [2]*inspect.Disk
	var all [2]map[string]string
	for i, name := range []string{old, new} {
		d, err := a.openDisk(ctx, name)
		if err != nil {
			return err
		}
		defer d.Close()
		if d.Map == nil {
			return fmt.Errorf("%s: %w", name, d.NoTable)
		}
		disks[i] = d
		if all[i], err = a.diskFacts(ctx, d); err != nil {
			return err
		}
	}
	differences := compareMaps("", all[0], all[1])
	if !o.noFiles {
		more, err := a.compareDiskFiles(ctx, disks, all)
		if err != nil {
			return err
		}
		differences = append(differences, more...)
	}
	done, err := a.asJSON(notNil(differences))
	if !done {
		a.printDifferences(differences)
	}
	if err == nil && o.exitCode && len(differences) > 0 {
		return &exitError{exitVerify, nil}
	}
	return err
}

// diskFacts are what there is to say of a disk, by name.
func (a *app) diskFacts(ctx context.Context, d *inspect.Disk) (map[string]string, error) {
	m := d.Map
	f := map[string]string{
		"size": size(m.Size) + " (" + strconv.FormatInt(m.Size, 10) + " bytes)", "table": m.Table, "sector size": strconv.FormatInt(m.SectorSize, 10),
	}
	for name, value := range map[string]string{"disk id": m.UUID, "disk signature": m.Signature, "damaged table": m.Damaged} {
		if value != "" {
			f[name] = value
		}
	}
	var spans []imaging.Span
	var names []string
	for _, r := range m.Regions {
		if r.Kind != imaging.KindPartition {
			continue
		}
		name := "partition " + inspect.Title(r)
		f[name] = strings.TrimSpace(fmt.Sprintf("%s at %d, %s %s", size(r.Size), r.Offset, r.Filesystem, r.Label))
		for what, value := range map[string]string{
			"type": r.Type + r.MBRType, "id": r.UUID, "file system id": r.FilesystemUUID, "attributes": strings.Join(r.Attributes, ","),
		} {
			if value != "" {
				f[name+" "+what] = value
			}
		}
		spans, names = append(spans, imaging.Span{Offset: r.Offset, Size: r.Size}), append(names, name+" content")
	}
	err := a.working(ctx, d.Path, "reading", func(report func(done, total int64)) error {
		sums, err := inspect.Digests(ctx, d, d.Size, spans, report)
		for i := range names {
			if err == nil {
				f[names[i]] = "sha256:" + sums[i][:12]
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", d.Path, err)
	}
	environments, _ := d.Environments(nil)
	for _, e := range environments {
		for name, value := range e.Variables {
			f["environment "+name] = value
		}
	}
	return f, nil
}

// compareDiskFiles compares the file systems of partitions that are on both disks and hold different bytes.
func (a *app) compareDiskFiles(ctx context.Context, disks [2]*inspect.Disk, facts [2]map[string]string) ([]difference, error) {
	var out []difference
	for _, r := range disks[0].Map.Regions {
		if r.Kind != imaging.KindPartition {
			continue
		}
		content := "partition " + inspect.Title(r) + " content"
		was, is := facts[0][content], facts[1][content]
		if was == "" || is == "" || was == is {
			continue
		}
		var trees [2]map[string]string
		for i, d := range disks {
			inside, _, err := d.Filesystem(strconv.Itoa(r.Number))
			if errors.Is(err, errors.ErrUnsupported) {
				continue // raw bytes on that side: all files of the other are new, or gone
			}
			name := insideName(d, inspect.Title(r))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			trees[i] = map[string]string{}
			if err := readTree(ctx, inside, ".", trees[i]); err != nil {
				return nil, insideError(name, err)
			}
		}
		prefix := r.Name
		if prefix == "" {
			prefix = strconv.Itoa(r.Number)
		}
		out = append(out, compareMaps(prefix+":", trees[0], trees[1])...)
	}
	return out, nil
}

// sumFile is the SHA-256 of a file on the host.
func sumFile(ctx context.Context, name string) (string, error) {
	f, err := openFile(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, contextReader{ctx, f}); err != nil {
		return "", withoutOperation(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
