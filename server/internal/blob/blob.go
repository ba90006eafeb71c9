// Package blob keeps the bytes of artifacts in a directory, one file for each, named by the artifact's id.
//
// A blob exists whole or not at all: it is written under a temporary name in the same directory, synced and renamed
// (package durable). A blob without a record in the database is what a crash between the two leaves; Sweep removes it.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// suffix lets a person who looks into the directory see what the files are.
const suffix = ".mender"

// Dir is a directory of blobs.
type Dir struct{ path string }

// Open uses the directory at path and creates it when it doesn't exist.
func Open(path string) (*Dir, error) {
	if err := durable.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	return &Dir{path: path}, nil
}

// name refuses everything but a UUID in its usual form: names come from URLs.
func (d *Dir) name(id string) (string, error) {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return "", fmt.Errorf("blob %q: %w", id, fs.ErrNotExist)
	}
	return filepath.Join(d.path, id+suffix), nil
}

// Create starts a blob. It exists after Commit; the caller ends it with Commit or Abort.
func (d *Dir) Create(id string) (*durable.File, error) {
	name, err := d.name(id)
	if err != nil {
		return nil, err
	}
	return durable.Create(name, 0o600)
}

// Open opens a blob for reading. One that doesn't exist is fs.ErrNotExist.
func (d *Dir) Open(id string) (*os.File, error) {
	name, err := d.name(id)
	if err != nil {
		return nil, err
	}
	return os.Open(name)
}

// Delete removes a blob. One that doesn't exist is no error; who reads it meanwhile reads on.
func (d *Dir) Delete(id string) error {
	name, err := d.name(id)
	if err != nil {
		return err
	}
	return durable.Remove(name)
}

// Sweep removes unfinished blobs and those that keep says nothing refers to. Nobody may write at the same time.
func (d *Dir) Sweep(ctx context.Context, keep func(ctx context.Context, id string) (bool, error)) (removed []string, err error) {
	if err := durable.Sweep(d.path); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		id, ok := cutSuffix(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue // not ours
		}
		wanted, err := keep(ctx, id)
		if err != nil {
			return removed, err
		}
		if wanted {
			continue
		}
		if err := d.Delete(id); err != nil {
			return removed, err
		}
		removed = append(removed, id)
	}
	return removed, nil
}

func cutSuffix(name string) (id string, ok bool) {
	id = name[:max(0, len(name)-len(suffix))]
	u, err := uuid.Parse(id)
	return id, err == nil && u.String() == id && id+suffix == name
}

// Check says whether the directory can be read.
func (d *Dir) Check() error {
	info, err := os.Stat(d.path)
	if err == nil && !info.IsDir() {
		err = errors.New("not a directory")
	}
	return err
}
