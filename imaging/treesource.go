package imaging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twinkeel/twinkeel/internal/unpack"
)

// checkContent checks what is to be in a file system as far as that can be told before anything is written.
func (img *Image) checkContent(ctx context.Context, r Region, c Content) error {
	switch {
	case c.Dir != "":
		_, err := img.tree(ctx, "", r, func(int64) {})
		return err
	case c.Tar != "":
		info, err := os.Stat(c.Tar)
		if err != nil {
			return fmt.Errorf("content of partition %q: %w", r.Name, err)
		}
		if !info.Mode().IsRegular() {
			return &ContentError{Name: r.Name, Reason: c.Tar + " is not a regular file"}
		}
	}
	return checkTree(r, ext4Block(r.Size, img.sector()), c.Tree)
}

// tree is all that is to be in the region's file system, complete and checked. The files of an archive are put into the
// directory spool.
func (img *Image) tree(ctx context.Context, spool string, r Region, report func(int64)) ([]TreeFile, error) {
	c := img.Contents[r.Name]
	var base []TreeFile
	var err error
	switch {
	case c.Dir != "":
		base, err = treeOfDir(ctx, c.Dir)
	case c.Tar != "":
		base, err = treeOfTar(ctx, c.Tar, spool, r.Size, report)
	}
	if err != nil {
		return nil, img.contentError(r, err)
	}
	if c.RootOwned {
		for i := range base {
			base[i].UID, base[i].GID = 0, 0
		}
	}
	all := addTree(base, c.Tree)
	if r.Filesystem == FilesystemVFAT {
		all = withoutLinks(all)
	}
	if err := checkTree(r, ext4Block(r.Size, img.sector()), all); err != nil {
		return nil, err
	}
	return completeTree(all), nil
}

// contentError says which partition an error is about, unless it is one of cancellation or of a full disk.
func (img *Image) contentError(r Region, err error) error {
	var large *unpack.TooLargeError
	var entry *unpack.EntryError
	switch {
	case errors.As(err, &large):
		return &ContentError{
			Name: r.Name, Reason: fmt.Sprintf("%s holds more than the %s of the partition", img.Contents[r.Name].Tar, FormatSize(r.Size)),
			Advice: fmt.Sprintf("give partition %q more room in the layout or put less into it", r.Name),
		}
	case errors.As(err, &entry):
		return &ContentError{Name: r.Name, Reason: err.Error()}
	}
	return fmt.Errorf("content of partition %q: %w", r.Name, err)
}

// addTree puts a tree over another one: directories may be in both, files may not.
func addTree(base, over []TreeFile) []TreeFile {
	if len(base) == 0 {
		return over
	}
	dirs := make(map[string]bool)
	for _, t := range over {
		if t.isDir() {
			dirs[clean(t.Path)] = true
		}
	}
	all := slices.DeleteFunc(slices.Clone(base), func(t TreeFile) bool { return t.isDir() && dirs[clean(t.Path)] })
	return append(all, over...)
}

// withoutLinks makes files of their own of further names of files, which vfat does not have.
func withoutLinks(tree []TreeFile) []TreeFile {
	files := make(map[string]TreeFile)
	for _, t := range tree {
		files[clean(t.Path)] = t
	}
	tree = slices.Clone(tree)
	for i, t := range tree {
		if to, ok := files[clean(t.HardLink)]; t.HardLink != "" && ok {
			tree[i].HardLink, tree[i].Source, tree[i].Data, tree[i].Mode = "", to.Source, to.Data, to.Mode
		}
		tree[i].Xattrs = nil
	}
	return tree
}

// ReadTree lists a directory as [Content].Dir takes it.
func ReadTree(ctx context.Context, dir string) ([]TreeFile, error) { return treeOfDir(ctx, dir) }

// CheckTree refuses a tree that cannot be put into a partition, as [Write] does before it begins.
func (m *Map) CheckTree(partition string, tree []TreeFile) error {
	r, ok := m.Find(partition)
	if !ok {
		return unknownArea(m, partition)
	}
	if r.Filesystem == FilesystemVFAT {
		tree = withoutLinks(tree)
	}
	return checkTree(r, ext4Block(r.Size, m.SectorSize), tree)
}

// treeOfDir lists a directory of the host. Times are left out: they are those of a checkout or a copy.
func treeOfDir(ctx context.Context, dir string) ([]TreeFile, error) {
	dir, err := filepath.EvalSymlinks(dir) // a walk would stop at a link
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	var tree []TreeFile
	names := make(map[string]string) // of files with more than one, by what they are
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if len(tree) >= maxTreeFiles {
			return fmt.Errorf("%s has more than %d files", dir, maxTreeFiles)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		t := TreeFile{Path: filepath.ToSlash(rel), Mode: info.Mode()}
		if err := hostAttributes(p, info, &t, names); err != nil {
			return err
		}
		switch {
		case t.HardLink != "":
		case info.Mode().IsRegular():
			t.Source = p
		case info.Mode()&fs.ModeSymlink != 0:
			if t.Link, err = os.Readlink(p); err != nil {
				return err
			}
		}
		tree = append(tree, t)
		return nil
	})
	return tree, err
}

// treeOfTar lists an archive and puts its files into the directory spool, under numbers: their names are anybody's.
func treeOfTar(ctx context.Context, archive, spool string, size int64, report func(int64)) ([]TreeFile, error) {
	if err := os.Mkdir(spool, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var tree []TreeFile
	dirs := make(map[string]int) // where they are in tree: an archive may list one more than once, and the last counts
	limits := unpack.Limits{Size: size, Entries: maxTreeFiles}
	err = unpack.Tar(ctx, f, archive, limits, func(e *unpack.Entry) error {
		t := TreeFile{Path: e.Name, Mode: e.Mode, UID: e.UID, GID: e.GID, Time: e.ModTime, Xattrs: maps.Clone(e.Xattrs)}
		if e.Mode&fs.ModeDevice != 0 {
			if e.Major < 0 || e.Major > maxMajor || e.Minor < 0 || e.Minor > maxMinor {
				return &unpack.EntryError{Name: archive, Entry: e.Name, Reason: fmt.Sprintf("Linux has no device %d:%d", e.Major, e.Minor)}
			}
			t.Major, t.Minor = uint32(e.Major), uint32(e.Minor)
		}
		switch {
		case e.HardLink:
			t.HardLink, t.Xattrs, t.Mode = e.Link, nil, 0
		case e.Mode&fs.ModeSymlink != 0:
			t.Link = e.Link
		case e.Mode.IsRegular():
			t.Source = filepath.Join(spool, fmt.Sprintf("f%d", len(tree)))
			if err := spoolFile(t.Source, e.Body); err != nil {
				return err
			}
			report(e.Size)
		case e.Mode.IsDir():
			if at, twice := dirs[clean(e.Name)]; twice {
				tree[at] = t
				return nil
			}
			dirs[clean(e.Name)] = len(tree)
		}
		tree = append(tree, t)
		return nil
	})
	return firstNames(tree), err
}

// firstNames makes all further names of a file those of its first one: in an archive one may refer to another.
func firstNames(tree []TreeFile) []TreeFile {
	first := make(map[string]string)
	for i, t := range tree {
		if t.HardLink == "" {
			continue
		}
		to := clean(t.HardLink)
		if known, ok := first[to]; ok {
			to = known
		}
		tree[i].HardLink, first[clean(t.Path)] = to, to
	}
	return tree
}

func spoolFile(path string, body io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, body); err != nil {
		return err
	}
	return f.Close()
}

// keptXattr tells which extended attributes of the host's files go into an image. Labels of the host's security module
// and what only root can see would make images of different users differ.
func keptXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_")
}
