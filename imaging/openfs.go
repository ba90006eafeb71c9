package imaging

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"
)

// OpenFilesystem reads the file system in the first size bytes of r without mounting it: ext2, ext3, ext4, vfat (FAT12, FAT16,
// FAT32) and squashfs (version 4). What it returns also implements [fs.ReadDirFS], [fs.ReadFileFS], [fs.StatFS] and
// [fs.ReadLinkFS], and files that are open are [io.ReaderAt] and [io.Seeker]. No byte of it is taken on trust: whatever is in
// the image, reading costs bounded memory and ends.
//
// kind is one of the Filesystem constants, or what else was recognised. What cannot be read gives an error that wraps
// [errors.ErrUnsupported] and says what it is; a file system that contradicts itself one that wraps [ErrDamaged].
func OpenFilesystem(r io.ReaderAt, size int64) (files fs.FS, kind string, err error) {
	f, err := Probe(r, size)
	if err != nil {
		return nil, "", err
	}
	switch {
	case f.Compressed != "":
		return nil, f.Compressed, fmt.Errorf("it is compressed with %s; decompress it first: %w", f.Compressed, errors.ErrUnsupported)
	case f.Kind == FilesystemExt4:
		e, err := OpenExt4(r, 0, size)
		if err != nil {
			return nil, f.Kind, err
		}
		return e, f.Kind, nil
	case f.Kind == FilesystemVFAT:
		files, err := openVFAT(io.NewSectionReader(r, 0, size), size)
		if err != nil {
			return nil, f.Kind, err
		}
		return files, f.Kind, nil
	case f.Kind == FilesystemSquashFS:
		files, err := openSquashFS(io.NewSectionReader(r, 0, size), size)
		if err != nil {
			return nil, f.Kind, err
		}
		return files, f.Kind, nil
	case f.Kind != "":
		return nil, f.Kind, fmt.Errorf("it is %s, whose files cannot be read here: %w", f.Kind, errors.ErrUnsupported)
	}
	if kind, _ = Recognise(r, size); kind != "" {
		return nil, kind, fmt.Errorf("it is %s, whose files cannot be read here: %w", kind, errors.ErrUnsupported)
	}
	return nil, "", fmt.Errorf("it is no file system that is known here: %w", errors.ErrUnsupported)
}

// Limits of what is read from vfat and squashfs.
const (
	maxTreeDirs     = 1 << 20 // directories that are known by their place
	maxTreeEntries  = 1 << 18 // names in one directory, and in those that are kept in memory
	maxTreeLists    = 64      // directories that are kept in memory
	maxTreeExtents  = 1 << 20 // of one file
	maxTreeReadFile = maxExt4ReadFile
)

// damagedError is an ErrDamaged of a file system other than ext4.
type damagedError struct{ kind, what string }

func (e *damagedError) Error() string        { return "the " + e.kind + " file system is damaged: " + e.what }
func (e *damagedError) Is(target error) bool { return target == ErrDamaged }

func damaged(kind, format string, args ...any) error {
	return &damagedError{kind, fmt.Sprintf(format, args...)}
}

// node is a file, directory or whatever else a file system holds.
type node struct {
	id    uint64 // where it is; no two directories have the same
	mode  fs.FileMode
	size  int64
	mtime time.Time
	sys   *Ext4Stat
	impl  any // what the format knows of it
}

type namedNode struct {
	name string
	node *node
}

// format is how one kind of file system is read; treeFS makes an fs.FS of it.
type format interface {
	kind() string
	root() *node
	readDir(dir *node) ([]namedNode, error) // in any order, without . and ..
	open(file *node) (io.ReaderAt, error)
	readLink(link *node) (string, error)
	foldsCase() bool
}

// treeFS is the fs.FS of a format. A directory belongs to where it was seen first and cannot be met anywhere else, so a
// hostile image cannot send a walk in circles, or into one directory by countless names.
type treeFS struct {
	format
	mu     sync.Mutex
	places map[uint64]dirPlace
	lists  map[uint64][]namedNode // directories that were read last, since every lookup reads all on its way
	listed int                    // names in them
}

type dirPlace struct {
	parent uint64
	name   string
}

var (
	_ fs.ReadDirFS  = (*treeFS)(nil)
	_ fs.ReadFileFS = (*treeFS)(nil)
	_ fs.StatFS     = (*treeFS)(nil)
	_ fs.ReadLinkFS = (*treeFS)(nil)
)

func newTreeFS(f format) *treeFS {
	return &treeFS{format: f, places: map[uint64]dirPlace{f.root().id: {}}, lists: make(map[uint64][]namedNode)}
}

// list returns the checked and sorted entries of a directory.
func (t *treeFS) list(dir *node) ([]namedNode, error) {
	if !dir.mode.IsDir() {
		return nil, errors.New("not a directory")
	}
	t.mu.Lock()
	entries, found := t.lists[dir.id]
	t.mu.Unlock()
	if found {
		return entries, nil
	}
	entries, err := t.readDir(dir)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b namedNode) int { return cmp.Compare(a.name, b.name) })
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, e := range entries {
		if e.name == "" || e.name == "." || e.name == ".." || strings.ContainsAny(e.name, "/\x00") || (i > 0 && entries[i-1].name == e.name) {
			return nil, damaged(t.kind(), "a directory with the name %q", e.name)
		}
		if !e.node.mode.IsDir() {
			continue
		}
		here := dirPlace{dir.id, e.name}
		switch known, found := t.places[e.node.id]; {
		case found && known != here:
			return nil, damaged(t.kind(), "the directory %q is in two places", e.name)
		case !found && len(t.places) >= maxTreeDirs:
			return nil, fmt.Errorf("more than %d directories: %w", maxTreeDirs, errors.ErrUnsupported)
		case !found:
			t.places[e.node.id] = here
		}
	}
	if t.listed+len(entries) >= maxTreeEntries || len(t.lists) >= maxTreeLists {
		clear(t.lists)
		t.listed = 0
	}
	t.lists[dir.id] = entries
	t.listed += len(entries)
	return entries, nil
}

func (t *treeFS) child(dir *node, name string) (*node, error) {
	entries, err := t.list(dir)
	if err != nil {
		return nil, err
	}
	if i, found := slices.BinarySearchFunc(entries, name, func(e namedNode, name string) int { return cmp.Compare(e.name, name) }); found {
		return entries[i].node, nil
	}
	if t.foldsCase() {
		for _, e := range entries {
			if strings.EqualFold(e.name, name) {
				return e.node, nil
			}
		}
	}
	return nil, fs.ErrNotExist
}

// find walks to a name. Symbolic links are followed inside the file system, absolute ones from its root; the last part
// only when follow is set.
func (t *treeFS) find(op, name string, follow bool) (*node, error) {
	if !fs.ValidPath(name) || len(name) > maxExt4Path {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	n, err := t.walk(strings.Split(name, "/"), follow)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return n, nil
}

func (t *treeFS) walk(todo []string, follow bool) (*node, error) {
	path := []*node{t.root()}
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		dir := path[len(path)-1]
		if !dir.mode.IsDir() {
			return nil, fs.ErrNotExist
		}
		switch part {
		case "", ".":
			continue
		case "..":
			path = path[:max(1, len(path)-1)]
			continue
		}
		n, err := t.child(dir, part)
		if err != nil {
			return nil, err
		}
		if n.mode&fs.ModeSymlink == 0 || (len(todo) == 0 && !follow) {
			path = append(path, n)
			continue
		}
		if links++; links > maxExt4Links {
			return nil, errors.New("too many symbolic links")
		}
		target, err := t.readLink(n)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(target, "/") {
			path = path[:1]
		}
		if todo = append(strings.Split(target, "/"), todo...); len(todo) > maxExt4Path {
			return nil, errors.New("the path is too long")
		}
	}
	return path[len(path)-1], nil
}

// nodeInfo is a file's fs.FileInfo and fs.DirEntry.
type nodeInfo struct {
	name string
	node *node
}

func (i nodeInfo) Name() string               { return i.name }
func (i nodeInfo) Size() int64                { return i.node.size }
func (i nodeInfo) Mode() fs.FileMode          { return i.node.mode }
func (i nodeInfo) Type() fs.FileMode          { return i.node.mode.Type() }
func (i nodeInfo) ModTime() time.Time         { return i.node.mtime }
func (i nodeInfo) IsDir() bool                { return i.node.mode.IsDir() }
func (i nodeInfo) Info() (fs.FileInfo, error) { return i, nil }
func (i nodeInfo) String() string             { return fs.FormatDirEntry(i) }

func (i nodeInfo) Sys() any {
	if i.node.sys == nil {
		return nil
	}
	stat := *i.node.sys
	return &stat
}

// Stat describes a file; of a symbolic link what it leads to.
func (t *treeFS) Stat(name string) (fs.FileInfo, error) {
	n, err := t.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return nodeInfo{base(name), n}, nil
}

// Lstat describes a file; a symbolic link is not followed.
func (t *treeFS) Lstat(name string) (fs.FileInfo, error) {
	n, err := t.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return nodeInfo{base(name), n}, nil
}

// ReadLink returns the target of a symbolic link.
func (t *treeFS) ReadLink(name string) (string, error) {
	n, err := t.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if n.mode&fs.ModeSymlink == 0 {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	target, err := t.readLink(n)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// ReadDir returns the entries of a directory, sorted by name.
func (t *treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := t.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	list, err := t.dirEntries(n)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return list, nil
}

func (t *treeFS) dirEntries(dir *node) ([]fs.DirEntry, error) {
	entries, err := t.list(dir)
	if err != nil {
		return nil, err
	}
	list := make([]fs.DirEntry, len(entries))
	for i, e := range entries {
		list[i] = nodeInfo(e)
	}
	return list, nil
}

// ReadFile returns the content of a file of at most 256 MiB; use Open for larger ones.
func (t *treeFS) ReadFile(name string) ([]byte, error) {
	f, err := t.Open(name)
	if err != nil {
		return nil, err
	}
	file, ok := f.(*treeFile)
	switch {
	case !ok:
		err = errors.New("not a regular file")
	case file.Size() > maxTreeReadFile:
		err = fmt.Errorf("it has %s, more than the %s that are read at once", FormatSize(file.Size()), FormatSize(maxTreeReadFile))
	default:
		// What it claims to hold may be far more than what is there, so memory grows with what was read.
		var b bytes.Buffer
		if _, err = io.Copy(&b, file.SectionReader); err == nil {
			return b.Bytes(), nil
		}
	}
	return nil, &fs.PathError{Op: "read", Path: name, Err: err}
}

// Open opens a file for reading. A regular one is also an io.ReaderAt and an io.Seeker.
func (t *treeFS) Open(name string) (fs.File, error) {
	n, err := t.find("open", name, true)
	if err != nil {
		return nil, err
	}
	info := nodeInfo{base(name), n}
	switch {
	case n.mode.IsDir():
		list, err := t.dirEntries(n)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &treeDir{info: info, list: list}, nil
	case n.mode.IsRegular():
		r, err := t.open(n)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &treeFile{SectionReader: io.NewSectionReader(r, 0, n.size), info: info}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("neither a file nor a directory")}
}

type treeFile struct {
	*io.SectionReader
	info nodeInfo
}

func (f *treeFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *treeFile) Close() error               { return nil }

type treeDir struct {
	info nodeInfo
	list []fs.DirEntry
}

func (d *treeDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *treeDir) Close() error               { return nil }

func (d *treeDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a directory")}
}

func (d *treeDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(d.list)
	} else if len(d.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.list))
	list := d.list[:n]
	d.list = d.list[n:]
	return list, nil
}

// readFull reads all of b, or says that the file system points behind its end.
func readFull(r io.ReaderAt, b []byte, off int64, kind string) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return damaged(kind, "it points behind its end")
	}
	return fmt.Errorf("reading the %s file system: %w", kind, err)
}

var little = binary.LittleEndian
