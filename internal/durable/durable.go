// Package durable makes changes to files that survive a power cut: a file appears whole under its name or not at
// all, and a change that has been reported as done is on the medium.
//
// Every function follows the same order: write, fsync the file, rename, fsync the directory (POSIX leaves both the
// content and the name volatile until then; see rename(2) and fsync(2), and ext4's documentation for why a rename
// without an fsync before it can leave an empty file). All code of this project that persists something does it
// through this package, so that a test can stop the process before any single step (see [SetHook]) and prove that
// what is left is usable.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// tempPrefix and tempMark shape the name of a file that is still being written: ".NAME.twinkeel-tmp-RANDOM".
// Such a file is never read and may be deleted by anyone who holds the directory.
const (
	tempPrefix = "."
	tempMark   = ".twinkeel-tmp-"
)

var errNotAFile = errors.New("there is a device, a pipe or a socket of that name, and no file")

// File is an output that does not exist under its name before [File.Commit]. It is written like an [os.File].
type File struct {
	*os.File
	path string
	done bool
}

// Create starts a file that will appear at path, with the given permissions, when Commit is called. Until then its
// bytes are in a temporary file of the same directory. The caller must end it with Commit or Abort; Abort after
// Commit does nothing, so `defer f.Abort()` is the usual way.
func Create(path string, perm fs.FileMode) (*File, error) {
	if err := step("create", path); err != nil {
		return nil, pathError("creating", path, err)
	}
	if info, err := os.Stat(path); err == nil && info.Mode()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return nil, fmt.Errorf("creating %s: %w", path, errNotAFile) // a file in the place of /dev/null harms the whole machine
	}
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := createTemp(dir, tempPrefix+base+tempMark+"*")
	if err != nil {
		return nil, pathError("creating", path, err)
	}
	if err := f.Chmod(perm); err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, pathError("creating", path, err)
	}
	return &File{File: f, path: path}, nil
}

// TempDir makes a directory beside path for what is needed while path is made. The caller removes it with remove; Sweep
// does if the process can't any more.
func TempDir(path string) (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp(filepath.Dir(path), tempPrefix+filepath.Base(path)+tempMark+"*")
	if err != nil {
		return "", nil, pathError("creating a directory beside", path, err)
	}
	held, err := os.Open(dir)
	if err != nil {
		os.RemoveAll(dir)
		return "", nil, pathError("opening directory", dir, err)
	}
	if !hold(held) {
		held.Close()
		return TempDir(path)
	}
	return dir, func() { os.RemoveAll(dir); held.Close() }, nil
}

// createTemp makes a temporary file that is held. Between the two steps another process's Sweep may take the file for
// left behind; then there is another.
func createTemp(dir, pattern string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(dir, pattern)
		if err != nil {
			return nil, err
		}
		if hold(f) {
			return f, nil
		}
		f.Close()
		os.Remove(f.Name())
	}
}

// hold marks a temporary file or directory as in use, for Sweep. The kernel takes the mark away when the process ends,
// however it ends. False means that it is being swept, or was.
func hold(f *os.File) bool {
	if errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
		return false
	}
	_, err := os.Lstat(f.Name())
	return !errors.Is(err, fs.ErrNotExist)
}

// Path is the name the file will have after Commit.
func (f *File) Path() string { return f.path }

// Commit makes the file visible: after it returns nil the file is at its path with all its bytes, even if power
// fails at once. On an error the old file, if there was one, is still in place and the temporary file is gone.
func (f *File) Commit() error {
	if f.done {
		return errors.New("the file was already committed or aborted")
	}
	if err := f.fsync(); err != nil {
		f.Abort()
		return pathError("writing", f.path, err)
	}
	f.done = true
	defer f.Close() // after the rename: a file that nobody holds is taken for left behind
	if err := Rename(f.Name(), f.path); err != nil {
		os.Remove(f.Name())
		return err
	}
	return nil
}

func (f *File) fsync() error {
	if err := step("fsync", f.path); err != nil {
		return err
	}
	return f.Sync()
}

// Abort removes what was written. It does nothing after Commit.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	f.Close()
	os.Remove(f.Name())
}

// WriteFile replaces the file at path by data, or creates it.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	f, err := Create(path, perm)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := step("write", path); err != nil {
		return pathError("writing", path, err)
	}
	if _, err := f.Write(data); err != nil {
		return pathError("writing", path, err)
	}
	return f.Commit()
}

// Rename moves a file within one file system and makes the new name durable.
func Rename(from, to string) error {
	if err := step("rename", to); err != nil {
		return pathError("writing", to, err)
	}
	if err := os.Rename(from, to); err != nil {
		return pathError("writing", to, err)
	}
	return SyncDir(filepath.Dir(to))
}

// Remove deletes a file and makes that durable. A file that does not exist is no error.
func Remove(path string) error {
	if err := step("remove", path); err != nil {
		return pathError("removing", path, err)
	}
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return pathError("removing", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll creates a directory with its missing parents and makes their names durable.
func MkdirAll(path string, perm fs.FileMode) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := step("mkdir", path); err != nil {
		return pathError("creating directory", path, err)
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return pathError("creating directory", path, err)
	}
	return SyncDir(parent)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	if err := step("fsync directory", dir); err != nil {
		return pathError("syncing directory", dir, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return pathError("opening directory", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !isSyncUnsupported(err) {
		return pathError("syncing directory", dir, err)
	}
	return nil
}

// WriteAt overwrites bytes of an existing file or block device in place, and Sync makes them durable. They exist for
// what has a fixed place on the medium: slots and bootloader environments.
func WriteAt(f *os.File, data []byte, offset int64) error {
	if err := step("write at", f.Name()); err != nil {
		return pathError("writing", f.Name(), err)
	}
	if _, err := f.WriteAt(data, offset); err != nil {
		return pathError("writing", f.Name(), err)
	}
	return nil
}

// Sync makes all that was written to f durable.
func Sync(f *os.File) error {
	if err := step("fsync", f.Name()); err != nil {
		return pathError("writing", f.Name(), err)
	}
	if err := f.Sync(); err != nil {
		return pathError("writing", f.Name(), err)
	}
	return nil
}

// Sweep deletes what interrupted processes left in dir: temporary files and directories that no process holds.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return pathError("reading directory", dir, err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) || !strings.Contains(e.Name(), tempMark) {
			continue
		}
		if err := removeUnheld(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeUnheld removes a temporary file or directory, unless a process holds it. It is held itself until it is gone, so
// that nobody takes it into use meanwhile.
func removeUnheld(path string) error {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() && !info.IsDir() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil
	}
	return removeAll(path)
}

func removeAll(path string) error {
	if err := step("remove", path); err != nil {
		return pathError("removing", path, err)
	}
	if err := os.RemoveAll(path); err != nil {
		return pathError("removing", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// pathError says what was being done to which file. The temporary name, which *os.PathError carries, would only
// confuse: the user asked for path.
func pathError(doing, path string, err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		err = pe.Err
	case errors.As(err, &le):
		err = le.Err
	}
	return fmt.Errorf("%s %s: %w", doing, path, err)
}
