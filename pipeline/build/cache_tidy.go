package build

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// Entries lists what the cache holds, what was used last first, and what of it cannot be read. Files are not looked at.
func (c *Cache) Entries() ([]*Entry, []*DamagedEntryError, error) {
	var entries []*Entry
	var damaged []*DamagedEntryError
	err := c.walk("ac", func(path string, info fs.FileInfo) error {
		key := filepath.Base(path)
		if !isDigest(key) || path != c.entryPath(key) {
			return nil
		}
		e, err := c.read(key)
		var d *DamagedEntryError
		switch {
		case errors.As(err, &d):
			damaged = append(damaged, d)
		case err == nil:
			entries = append(entries, e)
		}
		return nil
	})
	slices.SortFunc(entries, func(a, b *Entry) int {
		return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.Key, b.Key))
	})
	return entries, damaged, err
}

// walk calls visit for each file below a part of the cache, in the order of names.
func (c *Cache) walk(part string, visit func(path string, info fs.FileInfo) error) error {
	return filepath.WalkDir(filepath.Join(c.dir, part), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another process was faster, or there is no cache
		}
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return visit(path, info)
	})
}

// Verify reads everything that the cache holds and names what is damaged. With repair that is removed, and made again by the
// next build that needs it.
func (c *Cache) Verify(ctx context.Context, repair bool) (whole int, damaged []*DamagedEntryError, err error) {
	lock := c.share
	if repair {
		lock = c.alone
	}
	unlock, err := lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, nil // no cache, no damage
	}
	if err != nil {
		return 0, nil, err
	}
	defer unlock()
	entries, damaged, err := c.Entries()
	if err != nil {
		return 0, nil, err
	}
	sums := newSums()
	for _, e := range entries {
		d, err := c.verifyEntry(ctx, e, sums)
		if err != nil {
			return whole, damaged, err
		}
		if d == nil {
			whole++
			continue
		}
		damaged = append(damaged, d)
	}
	if !repair {
		return whole, damaged, nil
	}
	for _, d := range damaged {
		if err := durable.Remove(c.entryPath(d.Key)); err != nil {
			return whole, damaged, err
		}
	}
	if len(damaged) > 0 {
		_, err = c.removeUnnamed()
	}
	return whole, damaged, err
}

// newSums is a hasher that reads each file once, whatever is remembered of it.
func newSums() hasher {
	known := map[string]string{}
	return func(ctx context.Context, path, other string) (string, error) {
		if sum, ok := known[path]; ok {
			return sum, nil
		}
		sum, err := hashFile(ctx, path, other)
		if err == nil {
			known[path] = sum
		}
		return sum, err
	}
}

func (c *Cache) verifyEntry(ctx context.Context, e *Entry, hash hasher) (*DamagedEntryError, error) {
	for i := range e.Files {
		f, err := c.open(ctx, e, i, hash, true)
		var d *DamagedEntryError
		switch {
		case errors.As(err, &d):
			return d, nil
		case err != nil:
			return nil, err
		}
		f.Close()
	}
	return nil, nil
}

// Pruned says what prune removed and what it left.
type Pruned struct {
	Removed int   `json:"removed"`       // entries
	Freed   int64 `json:"freed_bytes"`   // on the disk
	Left    int   `json:"left"`          // entries
	Size    int64 `json:"left_bytes"`    // on the disk
	Max     int64 `json:"max_size"`      // as asked for; 0: no bound
	Older   int64 `json:"older_seconds"` // as asked for; 0: no bound
}

// Prune removes entries that were not used for a time, then those used longest ago until what is left takes at most maxSize
// bytes on the disk. Zero means no bound. Entries that cannot be read, contents without an entry and what killed processes
// left go in any case.
func (c *Cache) Prune(ctx context.Context, maxSize int64, olderThan time.Duration) (*Pruned, error) {
	p := &Pruned{Max: maxSize, Older: int64(olderThan.Seconds())}
	unlock, err := c.alone(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	entries, damaged, err := c.Entries()
	if err != nil {
		return nil, err
	}
	for _, d := range damaged {
		if err := c.drop(p, d.Key); err != nil {
			return nil, err
		}
	}
	kept := map[string]bool{} // contents
	for _, e := range entries {
		size := c.added(e, kept)
		old := olderThan > 0 && time.Since(e.Used) > olderThan
		if old || maxSize > 0 && p.Size+size > maxSize {
			if err := c.drop(p, e.Key); err != nil {
				return nil, err
			}
			continue
		}
		for _, f := range e.Files {
			kept[f.SHA256] = true
		}
		p.Left++
		p.Size += size
	}
	if err := c.sweep(); err != nil {
		return nil, err
	}
	p.Freed, err = c.removeUnnamed()
	return p, err
}

// sweep removes what killed processes left beside entries and contents, and what names entries that are gone.
func (c *Cache) sweep() error {
	for _, part := range []string{"ac", "payload"} {
		dirs, err := filepath.Glob(filepath.Join(c.dir, part, "*"))
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if err := durable.Sweep(dir); err != nil {
				return err
			}
		}
	}
	err := c.walk("payload", func(path string, _ fs.FileInfo) error {
		if key, ok := readKey(path); ok {
			if _, err := os.Lstat(c.entryPath(key)); err == nil {
				return nil
			}
		}
		return durable.Remove(path)
	})
	if err != nil {
		return err
	}
	return removeUnheld(filepath.Join(c.dir, "locks"))
}

func (c *Cache) drop(p *Pruned, key string) error {
	p.Removed++
	return durable.Remove(c.entryPath(key))
}

// added is what an entry takes on the disk beside the contents that are kept anyway.
func (c *Cache) added(e *Entry, kept map[string]bool) int64 {
	var n int64
	for _, f := range e.Files {
		if kept[f.SHA256] {
			continue
		}
		if info, err := os.Lstat(c.contentPath(f.SHA256)); err == nil {
			n += onDisk(info)
		}
	}
	return n
}

// removeUnnamed removes the contents that no entry names, and half-written files. Nobody else may be at work.
func (c *Cache) removeUnnamed() (freed int64, err error) {
	entries, _, err := c.Entries()
	if err != nil {
		return 0, err
	}
	named := map[string]bool{}
	for _, e := range entries {
		for _, f := range e.Files {
			named[c.contentPath(f.SHA256)] = true
		}
	}
	err = c.walk("cas", func(path string, info fs.FileInfo) error {
		if named[path] {
			return nil
		}
		freed += onDisk(info)
		return durable.Remove(path)
	})
	return freed, err
}
