package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// extracted is what `image extract --json` prints.
type extracted struct {
	Path    string   `json:"path"`
	Files   int      `json:"files"`
	Size    int64    `json:"size"`
	LeftOut []string `json:"left_out,omitempty"` // what is neither a file, a directory nor a symbolic link
}

// extractInside writes a file or a directory of a file system to the host.
func (a *app) extractInside(ctx context.Context, name string, inside fs.FS, inner, to string, result *extracted) error {
	at := cleanInside(inner)
	info, err := fs.Stat(inside, at)
	if err != nil {
		return insideError(name, err)
	}
	if !info.IsDir() {
		in, err := inside.Open(at)
		if err != nil {
			return insideError(name, err)
		}
		defer in.Close()
		result.Files, result.Size = 1, info.Size()
		return write(to, func(f *durable.File) error {
			if err := imaging.FillFile(ctx, f.File, in); err != nil {
				return insideError(name, err)
			}
			return f.Chmod(info.Mode().Perm() | 0o600)
		})
	}
	if _, err := os.Lstat(to); err == nil {
		return &hintedError{fmt.Sprintf("%s: it exists already", to), "choose another name, or move it away: a directory is not mixed with another"}
	}
	to = filepath.Clean(to)
	if err := durable.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	work, remove, err := durable.TempDir(to)
	if err != nil {
		return err
	}
	defer remove()
	x := &treeExtract{ctx: ctx, name: name, inside: inside, result: result}
	if err := x.run(at, filepath.Join(work, "tree"), info); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("writing %s: %w", to, syscall.ENOSPC) // without the temporary name
		}
		return err
	}
	if err := durable.Rename(filepath.Join(work, "tree"), to); err != nil {
		return err
	}
	for _, p := range result.LeftOut {
		a.warnf("%s is left out: it is a device, a pipe or a socket", oneLine(p))
	}
	return nil
}

// treeExtract writes a directory. Everything goes through an os.Root, which no name or link leads out of.
type treeExtract struct {
	ctx    context.Context
	name   string // for messages
	inside fs.FS
	result *extracted
	root   *os.Root
}

func (x *treeExtract) run(at, to string, info fs.FileInfo) (err error) {
	if err := os.Mkdir(to, 0o700); err != nil {
		return withoutOperation(err)
	}
	if x.root, err = os.OpenRoot(to); err != nil {
		return withoutOperation(err)
	}
	defer x.root.Close()
	if err := x.dir(at, "."); err != nil {
		return err
	}
	return x.finish(".", info)
}

func (x *treeExtract) dir(at, to string) error {
	entries, err := fs.ReadDir(x.inside, at)
	if err != nil {
		return insideError(x.name, err)
	}
	for _, e := range entries {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		from, here := path.Join(at, e.Name()), path.Join(to, e.Name())
		info, err := e.Info()
		if err != nil {
			return insideError(x.name, err)
		}
		switch {
		case info.IsDir():
			// Open to its owner until all is in it, whatever mode it will have.
			if err := x.root.Mkdir(here, 0o700); err != nil {
				return fmt.Errorf("/%s: %w", from, plainCause(err))
			}
			if err := x.dir(from, here); err != nil {
				return err
			}
			err = x.finish(here, info)
		case info.Mode().IsRegular():
			err = x.file(from, here, info)
		case info.Mode()&fs.ModeSymlink != 0:
			err = x.link(from, here)
		default:
			x.result.LeftOut = append(x.result.LeftOut, "/"+from)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (x *treeExtract) file(from, to string, info fs.FileInfo) error {
	in, err := x.inside.Open(from)
	if err != nil {
		return insideError(x.name, err)
	}
	defer in.Close()
	out, err := x.root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("/%s: %w", from, plainCause(err))
	}
	defer out.Close()
	if err := imaging.FillFile(x.ctx, out, in); err != nil {
		if errors.Is(err, syscall.ENOSPC) || x.ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%s: /%s: %w", x.name, from, plainCause(err))
	}
	x.result.Files++
	x.result.Size += info.Size()
	if err := durable.Sync(out); err != nil {
		return err
	}
	return x.finish(to, info)
}

func (x *treeExtract) link(from, to string) error {
	links, ok := x.inside.(fs.ReadLinkFS)
	if !ok {
		return nil
	}
	target, err := links.ReadLink(from)
	if err != nil {
		return insideError(x.name, err)
	}
	if err := x.root.Symlink(target, to); err != nil {
		return fmt.Errorf("/%s: %w", from, plainCause(err))
	}
	return nil
}

// finish gives a file or directory its permissions and time. The bits that lend a program its owner's rights stay off: the owner is
// the caller.
func (x *treeExtract) finish(to string, info fs.FileInfo) error {
	mode := info.Mode().Perm()
	if info.IsDir() {
		mode |= 0o700 // else nobody but root could ever remove it
	}
	if err := x.root.Chmod(to, mode); err != nil {
		return plainCause(err)
	}
	return plainCause(x.root.Chtimes(to, info.ModTime(), info.ModTime()))
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
