package imaging

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// hostAttributes completes a file with what Linux knows of it. names remembers files that have more than one name.
func hostAttributes(path string, info fs.FileInfo, t *TreeFile, names map[string]string) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	t.UID, t.GID = int(stat.Uid), int(stat.Gid)
	if info.Mode()&fs.ModeDevice != 0 {
		t.Major, t.Minor = unix.Major(stat.Rdev), unix.Minor(stat.Rdev)
	}
	if info.Mode().IsRegular() && stat.Nlink > 1 {
		id := fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
		if first, known := names[id]; known {
			t.HardLink = first
			return nil
		}
		names[id] = t.Path
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return nil
	}
	var err error
	t.Xattrs, err = hostXattrs(path)
	return err
}

const maxHostXattrs = 64 << 10

func hostXattrs(path string) (map[string]string, error) {
	list := make([]byte, maxHostXattrs)
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.ENOTSUP) || n <= 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the extended attributes of %s: %w", path, err)
	}
	var all map[string]string
	for _, name := range strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if !keptXattr(name) {
			continue
		}
		value := make([]byte, maxHostXattrs)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("reading the extended attribute %s of %s: %w", name, path, err)
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[name] = string(value[:n])
	}
	return all, nil
}

// fileID names the file behind a path, the same for all its names.
func fileID(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
	}
	return ""
}
