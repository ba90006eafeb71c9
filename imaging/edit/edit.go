// Package edit changes disk images in the place of building them again: variables of the boot loader's environment, the
// content of a partition, the size of the disk, files that make one image many devices'.
//
// Its promise: an image is never left half changed. All work is done on a copy beside the image, which shares its blocks
// where the file system can and takes no more than its data where it cannot; the copy takes the image's name when it
// is complete and synced ([Image.Commit]). What lies beside and describes the image, a block map and a .sha256 file,
// follows it. Only [SetDeviceEnvironment] writes in place, to a redundant environment in the order that fw_setenv keeps.
//
// Formats are read by package inspect and written by their owners' tools: files in ext4 by debugfs of e2fsprogs 1.47, in vfat by
// mtools 4.0, the size of an ext4 by resize2fs. Partition tables are changed field by field, so that what is not known here
// stays. docs/adr/0015-editing-images.md says why. The judges are those of package inspect, and sfdisk.
package edit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/internal/unpack"
)

// RefusedError says why something is not changed. The image is as it was.
type RefusedError struct {
	What   string // the image, a partition, a file
	Reason string
	Advice string
}

func (e *RefusedError) Error() string { return e.What + ": " + e.Reason }

// Hint says what to do about it.
func (e *RefusedError) Hint() string { return e.Advice }

func refuse(what, advice, reason string, args ...any) error {
	return &RefusedError{what, fmt.Sprintf(reason, args...), advice}
}

// Options of [Open].
type Options struct {
	Output  string // path of the changed image; "": it takes the place of the old one
	Private bool   // it will hold private keys: only its owner may read it
	Digest  bool   // Result.SHA256 is wanted
	// Progress is told how many bytes have been copied and read. It may be nil.
	Progress func(done, total int64)
}

// Image is a copy of a disk image that is being changed. The caller ends it with Commit or Abort; Abort after Commit does
// nothing.
type Image struct {
	Path string        // that it will have
	Disk *inspect.Disk // as it is now

	o      Options
	source string      // path of the old image
	was    fs.FileInfo // of the old image when it was copied
	f      *durable.File
	work   string // scratch folder, made when it is needed
	remove func()
	meter  meter
}

// Result is what [Image.Commit] has made.
type Result struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"`
	// Rewritten are the files beside it that describe it.
	Rewritten []string `json:"rewritten,omitempty"`
	// Stale are signatures beside it that are not for it any more.
	Stale []string `json:"stale_signatures,omitempty"`
}

// Open copies the image at path for a change. Without Options.Output only raw images can be changed; with it also one that is
// compressed or of another format becomes a raw one. Its partition table must be readable.
func Open(ctx context.Context, path string, o Options) (im *Image, err error) {
	im = &Image{o: o, source: path, meter: meter{report: o.Progress}}
	if err := im.resolve(); err != nil {
		return nil, err
	}
	defer spaceError(&err, im.Path)
	d, err := inspect.Open(ctx, im.source, inspect.Options{TempDir: filepath.Dir(im.Path), Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	switch {
	case !d.Plain() && o.Output == "":
		return nil, refuse(path, "write a raw image with --output FILE", "it is %s, not a raw image: it cannot be changed as it is", d.Format)
	case d.Map == nil:
		return nil, fmt.Errorf("%s: %w", path, d.NoTable)
	}
	if err := im.copy(ctx, d); err != nil {
		im.Abort()
		return nil, err
	}
	return im, nil
}

// resolve looks at both paths before anything is read: unpacking an image takes long.
func (im *Image) resolve() error {
	given := im.source
	target, err := filepath.EvalSymlinks(given)
	if err != nil {
		return fmt.Errorf("%s: %w", given, plainCause(err))
	}
	im.source = target
	if im.was, err = os.Stat(target); err != nil {
		return fmt.Errorf("%s: %w", given, plainCause(err))
	}
	switch mode := im.was.Mode(); {
	case mode&fs.ModeDevice != 0:
		return refuse(given, "change the image, then flash it; variables alone can be set on a device: twinkeel image set-env",
			"it is a device; only image files are changed")
	case !mode.IsRegular():
		return refuse(given, "", "it is not a file")
	}
	im.Path = target
	switch {
	case im.o.Output == "":
		return refusePacked(given, target, "unpack it first, or write a raw image with --output FILE")
	case im.o.Private: // one of many: each would have to be unpacked
		if err := refusePacked(given, target, "unpack it first"); err != nil {
			return err
		}
	}
	if slices.Contains(Beside(absolute(target)), absolute(im.o.Output)) {
		return refuse(im.o.Output, "choose another name", "what describes %s has that name", given)
	}
	im.Path = im.o.Output
	if target, err := filepath.EvalSymlinks(im.Path); err == nil {
		im.Path = target
	}
	if info, err := os.Stat(im.Path); err == nil && !info.Mode().IsRegular() {
		return refuse(im.o.Output, "name a file", "it is not a file that could be replaced")
	}
	return nil
}

// absolute is a path from the root, where that can be told.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// refusePacked refuses a compressed image by its first bytes.
func refusePacked(given, path, advice string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", given, plainCause(err))
	}
	defer f.Close()
	stream, format, err := unpack.Open(f, filepath.Base(path), 1<<62)
	if err != nil {
		return err
	}
	defer stream.Close()
	if format != unpack.None {
		return refuse(given, advice, "it is compressed (%s): it cannot be changed as it is", format)
	}
	return nil
}

// copy makes the copy.
func (im *Image) copy(ctx context.Context, d *inspect.Disk) error {
	mode := im.was.Mode().Perm()
	if im.o.Private {
		mode = 0o600
	}
	var err error
	if im.f, err = durable.Create(im.Path, mode); err != nil {
		return err
	}
	if st, ok := im.was.Sys().(*syscall.Stat_t); ok && im.o.Output == "" {
		_ = im.f.Chown(int(st.Uid), int(st.Gid)) // only root may give files away; others keep what they may
	}
	if err := im.f.Truncate(d.Size); err != nil {
		return fmt.Errorf("writing %s: %w", im.Path, plainCause(err))
	}
	im.meter.more(d.Size)
	if err := im.copyFrom(ctx, d); err != nil {
		return fmt.Errorf("copying %s: %w", im.source, plainCause(err))
	}
	return im.reload()
}

func (im *Image) copyFrom(ctx context.Context, d *inspect.Disk) error {
	if !d.Plain() {
		_, err := imaging.CopyStream(ctx, im.f, 0, io.NewSectionReader(d, 0, d.Size), im.meter.add)
		return err
	}
	in, err := os.Open(im.source)
	if err != nil {
		return err
	}
	defer in.Close()
	return imaging.CopyRange(ctx, im.file(), 0, in, 0, d.Size, im.meter.add)
}

// reload reads the table again after a change of it.
func (im *Image) reload() (err error) {
	im.Disk, err = inspect.OpenFile(im.file(), im.Path)
	if err == nil && im.Disk.Map == nil {
		err = fmt.Errorf("%s: %w", im.Path, im.Disk.NoTable)
	}
	return err
}

func (im *Image) file() *os.File { return im.f.File }

// unchanged tells whether the old image still is what was copied.
func (im *Image) unchanged() error {
	now, err := os.Stat(im.source)
	if err != nil {
		return fmt.Errorf("%s: %w", im.source, plainCause(err))
	}
	if !os.SameFile(now, im.was) || now.Size() != im.was.Size() || !now.ModTime().Equal(im.was.ModTime()) {
		return refuse(im.source, "run the command again", "another program has changed it meanwhile")
	}
	return nil
}

// Commit gives the image its name. Before that everything that can fail for want of space has been done, and what
// describes the image gets its name after it: an old block map or checksum beside a new image is found out, and so is the
// reverse.
func (im *Image) Commit(ctx context.Context) (res *Result, err error) {
	defer im.Abort()
	defer spaceError(&err, im.Path)
	beside, err := im.describe(ctx)
	if err != nil {
		return nil, err
	}
	defer beside.abort()
	if err := durable.Sync(im.file()); err != nil {
		return nil, fmt.Errorf("writing %s: %w", im.Path, plainCause(err))
	}
	if err := errors.Join(ctx.Err(), im.unchanged()); err != nil {
		return nil, err
	}
	res = &Result{Path: cmp.Or(im.o.Output, im.Path), Size: im.Disk.Size, SHA256: beside.sum}
	if err := im.f.Commit(); err != nil {
		return nil, err
	}
	if res.Rewritten, err = beside.commit(); err != nil {
		return nil, err
	}
	res.Stale = staleSignatures(im.Path)
	return res, nil
}

// Abort removes the copy. The old image is as it was.
func (im *Image) Abort() {
	if im.f != nil {
		im.f.Abort()
	}
	if im.remove != nil {
		im.remove()
		im.remove = nil
	}
}

// diskLink is the name of the copy in the scratch folder. Programs get it by that name, which has no character that would mean
// something to them.
const diskLink = "disk"

// scratch is a folder beside the image that only its owner can look into.
func (im *Image) scratch() (string, error) {
	if im.remove != nil {
		return im.work, nil
	}
	dir, remove, err := durable.TempDir(im.Path)
	if err != nil {
		return "", err
	}
	im.remove = remove
	if im.work, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	disk, err := filepath.Abs(im.file().Name())
	if err != nil {
		return "", err
	}
	return im.work, os.Symlink(disk, filepath.Join(im.work, diskLink))
}

// scratchFile writes a file that a program reads.
func (im *Image) scratchFile(name string, data []byte) error {
	dir, err := im.scratch()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), data, 0o600) //nolint:forbidigo // scratch, removed with its folder
}

// meter adds up the steps of a change.
type meter struct {
	report      func(done, total int64)
	done, total int64
}

func (m *meter) more(n int64) { m.total += n }

func (m *meter) add(n int64) {
	m.done += n
	if m.report != nil {
		m.report(m.done, m.total)
	}
}

// spaceError words a full disk, whoever found out.
func spaceError(err *error, path string) {
	if errors.Is(*err, syscall.ENOSPC) || errors.Is(*err, syscall.EDQUOT) {
		*err = &imaging.SpaceError{Path: path, Err: *err}
	}
}

// plainCause is an error of a system call without the call and the temporary name.
func plainCause(err error) error {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		return p.Err
	case errors.As(err, &l):
		return l.Err
	}
	return err
}
