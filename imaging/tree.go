package imaging

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// checkTree refuses what cannot be put into the region's file system, before anything is written.
func checkTree(r Region, tree []TreeFile) error {
	seen := make(map[string]TreeFile)
	bad := func(t TreeFile, format string, args ...any) error {
		return &ContentError{Name: r.Name, Reason: fmt.Sprintf("%q: ", t.Path) + fmt.Sprintf(format, args...)}
	}
	vfat := r.Filesystem == FilesystemVFAT
	key := func(name string) string {
		if vfat {
			return strings.ToLower(name)
		}
		return name
	}
	for _, t := range tree {
		name := clean(t.Path)
		if !fs.ValidPath(name) || strings.ContainsRune(name, 0) {
			return bad(t, "not a path below the root of a file system")
		}
		if other, ok := seen[key(name)]; ok {
			if clean(other.Path) == name {
				return bad(t, "it is listed twice")
			}
			return bad(t, "%q is also listed, and vfat does not tell them apart", other.Path)
		}
		seen[key(name)] = t
		if err := checkTreeFile(t, name, vfat); err != "" {
			return bad(t, "%s", err)
		}
		if t.Source != "" {
			info, err := os.Stat(t.Source)
			if err != nil {
				return fmt.Errorf("content of partition %q: %w", r.Name, err)
			}
			if !info.Mode().IsRegular() {
				return bad(t, "%s is not a regular file", t.Source)
			}
		}
	}
	for _, t := range tree {
		for dir := path.Dir(clean(t.Path)); dir != "."; dir = path.Dir(dir) {
			if parent, ok := seen[key(dir)]; ok && !parent.isDir() {
				return bad(t, "%q is not a directory", parent.Path)
			}
		}
	}
	if need := treeSize(tree); need > r.Size {
		return &TooLargeError{Area: r.Kind, Name: r.Name, What: "the content", Need: need, Size: r.Size, Tree: true}
	}
	return nil
}

// checkTreeFile returns what is wrong with one entry, or nothing.
func checkTreeFile(t TreeFile, name string, vfat bool) string {
	kinds := 0
	for _, set := range []bool{t.Source != "", t.Data != nil, t.Link != ""} {
		if set {
			kinds++
		}
	}
	other := t.Mode.Type() &^ (fs.ModeDir | fs.ModeSymlink)
	switch {
	case kinds > 1:
		return "it has more than one of a source, data and a link target"
	case t.isDir() && kinds > 0:
		return "a directory has no content"
	case name == "." && !t.isDir():
		return "the root is a directory"
	case other != 0:
		return fmt.Sprintf("%v is neither a file nor a directory nor a symbolic link", t.Mode)
	case t.Mode&fs.ModeSymlink != 0 && t.Link == "":
		return "a symbolic link without a target"
	case len(t.Link) > 4095:
		return "a symbolic link's target has at most 4095 bytes"
	case t.UID < 0 || t.GID < 0 || int64(t.UID) > 1<<32-2 || int64(t.GID) > 1<<32-2:
		return fmt.Sprintf("the owner %d:%d does not exist", t.UID, t.GID)
	case vfat && t.Link != "":
		return "vfat has no symbolic links"
	}
	for _, part := range strings.Split(name, "/") {
		switch {
		case len(part) > 255:
			return "a name has at most 255 bytes"
		case !vfat || name == ".":
		case !utf8.ValidString(part) || strings.ContainsFunc(part, func(r rune) bool { return r < ' ' || strings.ContainsRune(`"*/:<>?\|`, r) }):
			return "the name contains a character that vfat cannot store"
		case strings.HasSuffix(part, ".") || strings.HasSuffix(part, " ") || strings.HasPrefix(part, " "):
			return "vfat does not keep a blank around a name or a dot at its end"
		case strings.ContainsAny(part, "[]"):
			return "names with brackets are not supported in vfat, mtools takes them for patterns"
		}
	}
	return ""
}

func clean(p string) string {
	return strings.TrimPrefix(path.Clean("/"+strings.TrimSuffix(p, "/")), "/")
}

func (t TreeFile) isDir() bool { return t.Mode.IsDir() }

// treeSize is the sum of the contents, in blocks of 1 KiB, which no file system undercuts.
func treeSize(tree []TreeFile) int64 {
	var sum int64
	for _, t := range tree {
		n := int64(len(t.Data))
		if t.Source != "" {
			if info, err := os.Stat(t.Source); err == nil {
				n = info.Size()
			}
		}
		sum += alignUp(n, kib)
	}
	return sum
}

// completeTree adds the directories that are only implied, cleans the paths and sorts parents before children. An entry
// for the root comes first.
func completeTree(tree []TreeFile) []TreeFile {
	byPath := map[string]TreeFile{".": {Path: ".", Mode: fs.ModeDir | 0o755}}
	for _, t := range tree {
		t.Path = cmp.Or(clean(t.Path), ".")
		if t.Link != "" {
			t.Mode = fs.ModeSymlink | 0o777
		}
		if t.Mode.Perm() == 0 {
			t.Mode |= 0o644
			if t.isDir() {
				t.Mode |= 0o755
			}
		}
		byPath[t.Path] = t
	}
	for _, t := range tree {
		for dir := path.Dir(clean(t.Path)); dir != "."; dir = path.Dir(dir) {
			if _, ok := byPath[dir]; !ok {
				byPath[dir] = TreeFile{Path: dir, Mode: fs.ModeDir | 0o755}
			}
		}
	}
	out := make([]TreeFile, 0, len(byPath))
	for _, t := range byPath {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b TreeFile) int {
		if a.Path == "." || b.Path == "." {
			return cmp.Compare(len(a.Path), len(b.Path)) // the root before all
		}
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	return out
}

// stage puts the tree into a directory of the host. Modes, owners and times are not those of the tree: an ordinary user cannot
// set them all, so they are set in the finished file system.
func stage(ctx context.Context, dir string, tree []TreeFile) error {
	for _, t := range tree {
		if err := ctx.Err(); err != nil {
			return err
		}
		target := filepath.Join(dir, filepath.FromSlash(t.Path))
		var err error
		switch {
		case t.Path == ".":
		case t.isDir():
			err = os.Mkdir(target, 0o700)
		case t.Link != "":
			err = os.Symlink(t.Link, target)
		default:
			err = stageFile(target, t)
		}
		if err != nil {
			return fmt.Errorf("preparing %q: %w", t.Path, err)
		}
	}
	return nil
}

func stageFile(target string, t TreeFile) error {
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if t.Source == "" {
		_, err = out.Write(t.Data)
	} else {
		err = appendFile(out, t.Source)
	}
	if err != nil {
		return err
	}
	return out.Close()
}

func appendFile(out *os.File, source string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(out, in) // copy_file_range where the kernel has it
	return err
}
