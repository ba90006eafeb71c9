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
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// checkTree refuses what cannot be put into the region's file system, which has blocks of that size, before anything is
// written.
func checkTree(r Region, block int64, tree []TreeFile) error {
	seen := make(map[string]TreeFile)
	bad := func(t TreeFile, format string, args ...any) error {
		return &ContentError{Name: r.Name, Reason: fmt.Sprintf("%q: ", t.Path) + fmt.Sprintf(format, args...)}
	}
	vfat := r.Filesystem == FilesystemVFAT
	if len(tree) > maxTreeFiles {
		return &ContentError{Name: r.Name, Reason: fmt.Sprintf("it has %d files; at most %d are supported", len(tree), maxTreeFiles)}
	}
	key := func(name string) string {
		if vfat {
			return strings.ToLower(name)
		}
		return name
	}
	for _, t := range tree {
		name := cmp.Or(clean(t.Path), ".")
		if !fs.ValidPath(name) || strings.ContainsRune(name, 0) {
			return bad(t, "not a path below the root of a file system")
		}
		if other, ok := seen[key(name)]; ok {
			if cmp.Or(clean(other.Path), ".") == name {
				return bad(t, "it is listed twice")
			}
			return bad(t, "%q is also listed, and vfat does not tell them apart", other.Path)
		}
		seen[key(name)] = t
		if err := checkTreeFile(t, name, vfat, block); err != "" {
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
		if t.HardLink != "" {
			to, ok := seen[key(clean(t.HardLink))]
			if !ok || !to.Mode.IsRegular() || to.Link != "" || to.HardLink != "" {
				return bad(t, "%q, of which it is another name, is not among the files", t.HardLink)
			}
		}
	}
	if need := treeSize(tree); need > r.Size {
		return &TooLargeError{Area: r.Kind, Name: r.Name, What: "the content", Need: need, Size: r.Size, Tree: true}
	}
	return nil
}

// checkTreeFile returns what is wrong with one entry, or nothing.
func checkTreeFile(t TreeFile, name string, vfat bool, block int64) string {
	kinds := 0
	for _, set := range []bool{t.Source != "", t.Data != nil, t.Link != "", t.HardLink != ""} {
		if set {
			kinds++
		}
	}
	special := t.Mode.Type() &^ (fs.ModeDir | fs.ModeSymlink)
	switch {
	case kinds > 1:
		return "it has more than one of a source, data, a link target and another file's name"
	case t.isDir() && kinds > 0:
		return "a directory has no content"
	case name == "." && !t.isDir():
		return "the root is a directory"
	case special != 0 && vfat:
		return "vfat has neither devices, pipes nor sockets"
	case special != 0 && kinds > 0:
		return "a device, pipe or socket has no content"
	case special&fs.ModeIrregular != 0:
		return fmt.Sprintf("%v is no kind of file that is known here", t.Mode)
	case t.Major > maxMajor || t.Minor > maxMinor:
		return fmt.Sprintf("Linux has no device %d:%d", t.Major, t.Minor)
	case t.Mode&fs.ModeSymlink != 0 && t.Link == "":
		return "a symbolic link without a target"
	case len(t.Link) > 4095:
		return "a symbolic link's target has at most 4095 bytes"
	case t.UID < 0 || t.GID < 0 || int64(t.UID) > 1<<32-2 || int64(t.GID) > 1<<32-2:
		return fmt.Sprintf("the owner %d:%d does not exist", t.UID, t.GID)
	case vfat && t.Link != "":
		return "vfat has no symbolic links"
	}
	if reason := checkXattrs(t.Xattrs, block); reason != "" {
		return reason
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

const (
	maxTreeFiles = 1 << 19
	// Of devices: the kernel has 12 and 20 bits.
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

var xattrName = regexp.MustCompile(`^(user|security|trusted)\.[A-Za-z0-9._-]+$|^system\.posix_acl_(access|default)$`)

// checkXattrs wants names that ext4 has, and no more bytes than fit beside an inode: one block.
func checkXattrs(xattrs map[string]string, block int64) string {
	room := int(block) - 64
	for name, value := range xattrs {
		if len(name) > 255 || !xattrName.MatchString(name) {
			return fmt.Sprintf("the extended attribute %q cannot be stored in ext4", name)
		}
		room -= 16 + (len(name)+3)/4*4 + (len(value)+3)/4*4
	}
	if room < 0 {
		return "its extended attributes are too large for one block of the file system"
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
		if t.HardLink != "" {
			t.HardLink = clean(t.HardLink)
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
		switch "." { // the root before all
		case a.Path:
			return -1
		case b.Path:
			return 1
		}
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	return out
}

// stage puts the tree into a directory of the host. Modes, owners and times are not those of the tree: an ordinary user cannot
// set them all, so they are set in the finished file system.
func stage(ctx context.Context, dir string, tree []TreeFile) error {
	return stageLinked(ctx, dir, tree, make(map[string]bool))
}

// stageLinked is stage with the sources that have got another name, or with none that may get one.
func stageLinked(ctx context.Context, dir string, tree []TreeFile, linked map[string]bool) error {
	for _, t := range tree {
		if t.HardLink != "" {
			continue
		}
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
		default: // devices, pipes and sockets too: what they are is set in the finished file system
			err = stageFile(target, t, linked)
		}
		if err != nil {
			return fmt.Errorf("preparing %q: %w", t.Path, err)
		}
	}
	for _, t := range tree {
		if t.HardLink != "" {
			from, to := filepath.Join(dir, filepath.FromSlash(t.HardLink)), filepath.Join(dir, filepath.FromSlash(t.Path))
			if err := os.Link(from, to); err != nil {
				return fmt.Errorf("preparing %q: %w", t.Path, err)
			}
		}
	}
	return nil
}

// stageFile gives the source another name in place of copying it, where the file system lets that be. Never twice for one
// file: mke2fs would make it one file with two names.
func stageFile(target string, t TreeFile, linked map[string]bool) error {
	if t.Source != "" && linked != nil {
		if id := fileID(t.Source); id != "" && !linked[id] {
			linked[id] = true
			if os.Link(t.Source, target) == nil {
				return nil
			}
		}
	}
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
