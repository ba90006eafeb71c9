package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// racyWindow is how old a file's last change must be for its digest to be remembered: a change within the same tick
// of the file system's clock would go unnoticed (Git's "racy" rule).
const racyWindow = 2 * time.Second

// digests remembers the SHA-256 of files by what changes when their content does: device, inode, size, modification
// and change time. It is a memo only; losing it costs time.
type digests struct {
	path string

	mu      sync.Mutex
	known   map[string]string
	used    map[string]string // what this run saw: only that is kept
	made    map[string]string // what this run wrote, for itself alone: a change in the same tick would go unnoticed later
	changed bool
}

func openDigests(dir string) *digests {
	d := &digests{
		path:  filepath.Join(dir, ".twinkeel", "cache", "digests.json"),
		known: map[string]string{}, used: map[string]string{}, made: map[string]string{},
	}
	if text, err := os.ReadFile(d.path); err == nil {
		if json.Unmarshal(text, &d.known) != nil {
			d.known = map[string]string{} // damaged: a miss
		}
	}
	return d
}

// save keeps the memo for the next run. Failing to is no failure of the build.
func (d *digests) save() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.changed {
		return
	}
	d.changed = false
	text, err := json.Marshal(d.used)
	if err != nil {
		return
	}
	if durable.MkdirAll(filepath.Dir(d.path), 0o755) == nil {
		_ = durable.WriteFile(d.path, text, 0o644)
	}
}

// sparseForm is in front of digests by [imaging.SparseSHA256]. All others are SHA-256.
const sparseForm = "sparse-"

// formOf is sparseForm or nothing.
func formOf(digest string) string {
	if strings.HasPrefix(digest, sparseForm) {
		return sparseForm
	}
	return ""
}

// file returns the SHA-256 of a file as lower-case hex.
func (d *digests) file(ctx context.Context, path string) (string, error) {
	digest, _, err := d.identified(ctx, path)
	return digest, err
}

// like returns the digest of a file in the form of another digest.
func (d *digests) like(ctx context.Context, path, other string) (string, error) {
	digest, _, err := d.inForm(ctx, path, formOf(other))
	return digest, err
}

// identified is file, and also returns what the inode looked like before it was read: while it looks so the digest holds.
func (d *digests) identified(ctx context.Context, path string) (digest, id string, err error) {
	return d.inForm(ctx, path, "")
}

func (d *digests) inForm(ctx context.Context, path, form string) (digest, inode string, err error) {
	f, info, err := openRegular(path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	inode = identity(path, info)
	id := form + inode
	d.mu.Lock()
	digest, hit := d.known[id]
	if ours, written := d.made[id]; written && !hit && time.Since(info.ModTime()) < racyWindow {
		d.mu.Unlock()
		return ours, inode, nil
	}
	d.mu.Unlock()
	if !hit {
		if digest, err = hashOf(ctx, f, form); err != nil {
			return "", "", err
		}
		if time.Since(info.ModTime()) < racyWindow {
			return digest, inode, nil
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[id], d.used[id] = digest, digest
	d.changed = d.changed || !hit
	return digest, inode, nil
}

// remembered is the digest of a file if it is known without reading the file, and what the inode looks like: while it looks so
// the digest holds.
func (d *digests) remembered(path string) (digest, inode string, known bool) {
	info, err := os.Stat(path)
	if err != nil {
		return "", "", false
	}
	inode = identity(path, info)
	d.mu.Lock()
	defer d.mu.Unlock()
	digest, known = d.known[inode]
	return digest, inode, known
}

// learn takes the digest of a file that was just written, so that it is not read again, and returns what its inode looks like.
func (d *digests) learn(path, digest string) (id string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	id = identity(path, info)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made[formOf(digest)+id] = digest
	return id, nil
}

func openRegular(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// hashFile reads a file whatever is remembered of it, for a digest in the form of another one.
func hashFile(ctx context.Context, path, other string) (string, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return hashOf(ctx, f, formOf(other))
}

func hashOf(ctx context.Context, f *os.File, form string) (string, error) {
	if form == sparseForm {
		sum, err := imaging.SparseSHA256(ctx, f)
		return sparseForm + sum, err
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, &contextReader{ctx, f}); err != nil {
		return "", fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// tree digests the names, modes and contents below dir.
func (d *digests) tree(ctx context.Context, dir string) (string, error) {
	dir, err := filepath.EvalSymlinks(dir) // a walk would stop at a link
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case e.Type().IsRegular():
			content, err = d.file(ctx, path)
		case e.Type() == fs.ModeSymlink:
			content, err = os.Readlink(path)
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%q %s %q\n", rel, info.Mode(), content)
		return nil
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// fill digests what goes into a file system. Owners count unless all of it belongs to root.
func (d *digests) fill(ctx context.Context, tree []imaging.TreeFile, rootOwned bool) (string, error) {
	hash := sha256.New()
	for _, t := range tree {
		content := ""
		if t.Source != "" {
			var err error
			if content, err = d.file(ctx, t.Source); err != nil {
				return "", err
			}
		}
		if rootOwned {
			t.UID, t.GID = 0, 0
		}
		fmt.Fprintf(hash, "%q %s %d:%d %q %q %d:%d %q %q\n", t.Path, t.Mode, t.UID, t.GID, t.Link, t.HardLink, t.Major, t.Minor, t.Xattrs, content)
	}
	return hex.EncodeToString(hash.Sum(nil)), ctx.Err()
}

func identity(path string, info fs.FileInfo) string {
	id := path + "|" + strconv.FormatInt(info.Size(), 10) + "|" + strconv.FormatInt(info.ModTime().UnixNano(), 10)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		//nolint:unconvert // the fields have other types on other architectures
		id += fmt.Sprintf("|%d|%d|%d.%d", uint64(st.Dev), uint64(st.Ino), int64(st.Ctim.Sec), int64(st.Ctim.Nsec))
	}
	return id
}

// contextReader ends a long read when the context is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func relativeTo(dir, path string) string {
	if rel, err := filepath.Rel(dir, path); err == nil {
		return filepath.ToSlash(rel)
	}
	return path
}

// fileRole names an input by its place and its name: a payload file's name is in the artifact.
func fileRole(i int, path string) string {
	return fmt.Sprintf("%d (%s)", i+1, filepath.Base(path))
}
