package edit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
)

// File is one that is written into a file system of an image. It belongs to root.
type File struct {
	Path string      // slash-separated, below the root of the file system
	Mode fs.FileMode // permissions; 0: those of the file it replaces, else 0644. vfat has none.
	Data []byte
}

// maxFile bounds the files that are put into an image: keys, certificates, configurations.
const maxFile = 64 << 20

// WriteFiles writes files into the file system of a partition, ext4 or vfat, in the place of those of the same names, and makes
// the directories they need. A file system that is damaged or was not unmounted is refused.
func (im *Image) WriteFiles(ctx context.Context, r imaging.Region, files []File) (err error) {
	defer spaceError(&err, im.Path)
	if len(files) == 0 {
		return nil
	}
	inside, kind, err := imaging.OpenFilesystem(im.Disk.Section(r), r.Size)
	if err != nil && kind != "" {
		return im.unreadable(ctx, r, kind, err)
	}
	w := &filesystem{im: im, ctx: ctx, r: r, what: "partition " + inspect.Title(r), files: slices.Clone(files), inside: inside}
	if err := w.check(kind); err != nil {
		return err
	}
	if _, err := im.scratch(); err != nil {
		return err
	}
	if kind == imaging.FilesystemVFAT {
		err = w.writeVFAT()
	} else {
		err = w.writeExt4()
	}
	if err != nil {
		return w.plain(err)
	}
	return w.readBack()
}

// unreadable says why a file system cannot be looked into, as well as its own program knows it.
func (im *Image) unreadable(ctx context.Context, r imaging.Region, kind string, err error) error {
	if kind == imaging.FilesystemExt4 {
		if _, err := im.checkExt4(ctx, r, target(r)); err != nil {
			return err
		}
	}
	return fmt.Errorf("partition %s: %w", inspect.Title(r), err)
}

// filesystem is one run of WriteFiles.
type filesystem struct {
	im     *Image
	ctx    context.Context //nolint:containedctx // lives as long as the call
	r      imaging.Region
	what   string
	files  []File
	inside fs.FS    // as it was
	dirs   []string // to be made, upper ones first
	there  []bool   // by file: it replaces one
}

// check looks at all names before anything is written. What is in the image may be hostile: a link in the place of a directory
// is not followed.
func (w *filesystem) check(kind string) error {
	if kind != imaging.FilesystemExt4 && kind != imaging.FilesystemVFAT {
		return refuse(w.what, "files are written into ext4 and vfat", "it has no file system that files could be written into")
	}
	for i := range w.files {
		f := &w.files[i]
		if err := checkPath(f.Path, kind); err != nil {
			return refuse(w.what, "", "%q: %v", f.Path, err)
		}
		f.Path = strings.TrimPrefix(f.Path, "/")
		if slices.ContainsFunc(w.files[:i], func(other File) bool { return other.Path == f.Path }) {
			return refuse(w.what, "", "/%s is written twice", f.Path)
		}
		if len(f.Data) > maxFile {
			return refuse(w.what, "", "/%s: it has more than %s", f.Path, imaging.FormatSize(maxFile))
		}
		if err := w.parents(path.Dir(f.Path)); err != nil {
			return err
		}
		info, err := fs.Lstat(w.inside, f.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			f.Mode = defaultMode(f.Mode, 0o644)
		case err != nil:
			return fmt.Errorf("%s: /%s: %w", w.what, f.Path, plainCause(err))
		case !info.Mode().IsRegular():
			return refuse(w.what, "", "/%s: it is there, and no file", f.Path)
		default:
			f.Mode = defaultMode(f.Mode, info.Mode().Perm())
		}
		w.there = append(w.there, err == nil)
	}
	return nil
}

func defaultMode(mode, otherwise fs.FileMode) fs.FileMode {
	if mode.Perm() == 0 {
		return otherwise
	}
	return mode.Perm()
}

// parents notes the directories that are missing.
func (w *filesystem) parents(dir string) error {
	if dir == "." || slices.Contains(w.dirs, dir) {
		return nil
	}
	if err := w.parents(path.Dir(dir)); err != nil {
		return err
	}
	info, err := fs.Lstat(w.inside, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		w.dirs = append(w.dirs, dir)
		return nil
	case err != nil:
		return fmt.Errorf("%s: /%s: %w", w.what, dir, plainCause(err))
	case !info.IsDir():
		return refuse(w.what, "", "/%s: it is there, and no directory", dir)
	}
	return nil
}

// checkPath refuses what a program would take for something else than a name.
func checkPath(name, kind string) error {
	clean := strings.TrimPrefix(name, "/")
	switch {
	case !fs.ValidPath(clean) || clean == ".":
		return errors.New("it is no path in a file system, such as /mender/file")
	case strings.ContainsFunc(clean, func(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar || r == '"' }):
		return errors.New("a character that is not allowed in names here")
	case kind == imaging.FilesystemVFAT && strings.ContainsAny(clean, `*?<>|:\[]`):
		return errors.New("a character that vfat does not have in names")
	case len(clean) > 1024:
		return errors.New("it is too long")
	}
	for part := range strings.SplitSeq(clean, "/") {
		if len(part) > 255 || strings.HasPrefix(part, "<") {
			return errors.New("a name in it is too long or begins with '<'")
		}
	}
	return nil
}

// target is the file system of a partition for programs of e2fsprogs.
func target(r imaging.Region) string { return fmt.Sprintf("%s?offset=%d", diskLink, r.Offset) }

// checkExt4 wants an ext4 that is whole: a program that changes a damaged one may damage more.
func (im *Image) checkExt4(ctx context.Context, r imaging.Region, target string) (super ext4Super, err error) {
	what := "partition " + inspect.Title(r)
	if super, err = im.ext4Super(r); err != nil {
		return super, err
	}
	advice := fmt.Sprintf("repair it: e2fsck -f '%s?offset=%d'", im.source, r.Offset)
	if super.needsRecovery {
		return super, refuse(what, advice, "its file system was not unmounted: its journal has changes that are not in their places")
	}
	_, err = im.run(ctx, super.written, "e2fsck", "-f", "-n", target)
	var failed *imaging.ToolError
	if errors.As(err, &failed) && failed.Package == "" && ctx.Err() == nil {
		return super, refuse(what, advice, "its file system is damaged: e2fsck says: %s", failed.Output)
	}
	return super, err
}

// debugfs runs a script. It ends well whatever happened; what is neither its banner nor an echo of the script says that
// something did.
func (im *Image) debugfs(ctx context.Context, seconds int64, target, script string) error {
	if err := im.scratchFile("script", []byte(script)); err != nil {
		return err
	}
	output, err := im.run(ctx, seconds, "debugfs", "-w", "-f", "script", target)
	if err != nil {
		return err
	}
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "debugfs") && !strings.HasPrefix(line, "Allocated inode:") {
			err := errors.New("it failed")
			if strings.Contains(line, "No space left on device") { // of the host
				err = syscall.ENOSPC
			}
			return &imaging.ToolError{Tool: "debugfs", Output: line, Err: err}
		}
	}
	return nil
}

// run runs a program in the scratch folder.
func (im *Image) run(ctx context.Context, seconds int64, name string, args ...string) (string, error) {
	dir, err := im.scratch()
	if err != nil {
		return "", err
	}
	env := []string{fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", seconds), "MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1"}
	out, err := imaging.RunTool(ctx, dir, seconds, env, name, args...)
	if err != nil && ctx.Err() != nil {
		return "", ctx.Err()
	}
	return out, err
}

func (w *filesystem) writeExt4() error {
	super, err := w.im.checkExt4(w.ctx, w.r, target(w.r))
	if err != nil {
		return err
	}
	var script strings.Builder
	for _, dir := range w.dirs {
		fmt.Fprintf(&script, "mkdir \"/%s\"\nset_inode_field \"/%s\" mode 040755\n", dir, dir)
	}
	for i, f := range w.files {
		if err := w.stage(i, super.written); err != nil {
			return err
		}
		if w.there[i] {
			fmt.Fprintf(&script, "rm \"/%s\"\n", f.Path)
		}
		fmt.Fprintf(&script, "write %s \"/%s\"\n", staged(i), f.Path)
		fmt.Fprintf(&script, "set_inode_field \"/%s\" mode 0100%03o\n", f.Path, f.Mode)
		for _, owner := range []string{"uid", "gid"} { // otherwise that of whoever runs this
			fmt.Fprintf(&script, "set_inode_field \"/%s\" %s 0\n", f.Path, owner)
		}
	}
	if err := w.im.debugfs(w.ctx, super.written, target(w.r), script.String()); err != nil {
		return err
	}
	_, err = w.im.checkExt4(w.ctx, w.r, target(w.r))
	return err
}

// vfatEpoch is 1980, before which vfat has no time.
const vfatEpoch = 315532800

func (w *filesystem) writeVFAT() error {
	disk := fmt.Sprintf("%s@@%d", diskLink, w.r.Offset)
	for _, dir := range w.dirs {
		if _, err := w.im.run(w.ctx, vfatEpoch, "mmd", "-i", disk, "-D", "s", "::/"+dir); err != nil {
			return err
		}
	}
	for i, f := range w.files {
		if err := w.stage(i, vfatEpoch); err != nil {
			return err
		}
		// -m: with the time of the staged file; -D o: over one of that name, instead of asking somebody.
		if _, err := w.im.run(w.ctx, vfatEpoch, "mcopy", "-i", disk, "-m", "-Q", "-D", "o", staged(i), "::/"+f.Path); err != nil {
			return err
		}
	}
	return nil
}

func staged(i int) string { return fmt.Sprintf("f%d", i) }

// stage puts a file where the program finds it, under a name that means nothing.
func (w *filesystem) stage(i int, seconds int64) error {
	if err := w.im.scratchFile(staged(i), w.files[i].Data); err != nil {
		return err
	}
	then := time.Unix(seconds, 0)
	return os.Chtimes(filepath.Join(w.im.work, staged(i)), then, then)
}

// readBack compares what is in the file system now with what was to be there, and clears the copies outside.
func (w *filesystem) readBack() error {
	files, kind, err := imaging.OpenFilesystem(w.im.Disk.Section(w.r), w.r.Size)
	if err != nil {
		return fmt.Errorf("%s: %w", w.what, err)
	}
	for i, f := range w.files {
		info, err := fs.Stat(files, f.Path)
		var data []byte
		if err == nil {
			data, err = fs.ReadFile(files, f.Path)
		}
		switch {
		case err != nil:
			return fmt.Errorf("%s: /%s was written but cannot be read: %w", w.what, f.Path, plainCause(err))
		case !bytes.Equal(data, f.Data), kind == imaging.FilesystemExt4 && info.Mode().Perm() != f.Mode:
			return fmt.Errorf("%s: /%s reads back differently from what was written", w.what, f.Path)
		}
		if err := os.Remove(filepath.Join(w.im.work, staged(i))); err != nil { // it may be a key
			return plainCause(err)
		}
	}
	return nil
}

// plain words a file system that is full.
func (w *filesystem) plain(err error) error {
	var tool *imaging.ToolError
	switch {
	case errors.As(err, &tool) && tool.Full():
		size := int64(0)
		for _, f := range w.files {
			size += int64(len(f.Data))
		}
		return refuse(w.what, "make the partition larger, or put less into it", "no room is left in its file system for %s", imaging.FormatSize(size))
	case errors.As(err, &tool):
		return fmt.Errorf("%s: %w", w.what, err)
	}
	return err
}
