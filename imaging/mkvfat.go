package imaging

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// mtoolsBatch keeps command lines below every system's limit.
const mtoolsBatch = 200

// makeVFAT makes a FAT file system in f, filled with the tree, in an order of its own and not in that of the host's
// directories.
func (img *Image) makeVFAT(ctx context.Context, f *os.File, dir string, r Region, tree []TreeFile) error {
	sector := img.sector()
	args := []string{
		"--invariant", "-i", strings.ReplaceAll(r.FilesystemUUID, "-", ""), "-S", strconv.FormatInt(sector, 10),
		// Where the partition begins: boot code that reads the FAT adds it to every sector number.
		"-h", strconv.FormatInt(r.Offset/sector, 10),
	}
	if sector > 512 {
		// For the sizes of floppies mkfs.vfat plans a root directory of less than one such sector, and leaves it out.
		args = append(args, "-r", "512")
	}
	if r.Label != "" {
		args = append(args, "-n", r.Label)
	}
	if err := img.runTool(ctx, dir, nil, "mkfs.vfat", append(args, f.Name())...); err != nil {
		return err
	}
	if err := stage(ctx, dir, tree); err != nil {
		return err
	}
	var dirs []string
	files := make(map[string][]string) // by directory
	order := []string{"."}
	for _, t := range tree {
		switch {
		case t.Path == ".":
		case t.isDir():
			dirs = append(dirs, "::/"+t.Path)
			order = append(order, t.Path)
		default:
			parent := path.Dir(t.Path)
			files[parent] = append(files[parent], filepath.Join(dir, filepath.FromSlash(t.Path)))
		}
	}
	env := []string{"MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1"}
	for len(dirs) > 0 {
		n := min(len(dirs), mtoolsBatch)
		// -D s: an existing name is an error of ours; skip instead of asking somebody.
		if err := img.runTool(ctx, dir, env, "mmd", append([]string{"-i", f.Name(), "-D", "s"}, dirs[:n]...)...); err != nil {
			return err
		}
		dirs = dirs[n:]
	}
	for _, parent := range order {
		for list := files[parent]; len(list) > 0; {
			n := min(len(list), mtoolsBatch)
			args := append([]string{"-i", f.Name(), "-Q", "-D", "s"}, list[:n]...)
			if err := img.runTool(ctx, dir, env, "mcopy", append(args, path.Join("::/", parent)+"/")...); err != nil {
				return err
			}
			list = list[n:]
		}
	}
	return nil
}
