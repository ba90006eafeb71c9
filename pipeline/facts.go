package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/zclconf/go-cty/cty"
	"golang.org/x/text/unicode/norm"
)

// FileSystem answers the questions that planning asks about files. Paths are absolute. Loading and Validate ask nothing.
type FileSystem interface {
	Stat(path string) (fs.FileInfo, error) // follows links
	ReadDir(path string) ([]fs.DirEntry, error)
	ReadLink(path string) (string, error)
	Open(path string) (io.ReadCloser, error)
}

// OS is the real file system.
type OS struct{}

// Stat implements [FileSystem].
func (OS) Stat(path string) (fs.FileInfo, error) { return os.Stat(path) }

// ReadDir implements [FileSystem].
func (OS) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(path) }

// ReadLink implements [FileSystem].
func (OS) ReadLink(path string) (string, error) { return os.Readlink(path) }

// Open implements [FileSystem].
func (OS) Open(path string) (io.ReadCloser, error) { return os.Open(path) }

// Limits of what planning reads.
const (
	maxFactFile = 32 << 20 // of a file that is read into a value or parsed
	maxEntries  = 100_000  // of a directory tree that is searched
)

// facts asks the file system on behalf of one evaluation.
type facts struct {
	ctx context.Context //nolint:containedctx // one planning run, which every question belongs to
	fs  FileSystem
	dir string // of the pipeline, absolute

	reals      map[string]string // by the path as the pipeline has it
	decomposed string            // the first whose name is in another form on the disk

	sources *sources          // what is not there before the build; may be nil
	locked  map[string]Locked // of the lock file, when it was read

	answers   map[string]gitAnswer                  // of git, by question
	variables map[string]map[string]json.RawMessage // of testdata files, by path
	artifacts map[string]cty.Value                  // read by mender::artifact, by path
}

// abs makes a path of the pipeline absolute.
func (f *facts) abs(path string) string { return f.real(absolute(f.dir, path)) }

// real finds a file whose name on the disk is in another form than in the pipeline, where texts are in Unicode's composed form
// (NFC): some systems write é as e and an accent. Other paths stay as they are.
func (f *facts) real(abs string) string {
	if !strings.ContainsFunc(abs, func(r rune) bool { return r > unicode.MaxASCII }) {
		return abs
	}
	if found, ok := f.reals[abs]; ok {
		return found
	}
	found := abs
	if _, err := f.fs.Stat(abs); errors.Is(err, fs.ErrNotExist) && abs != filepath.Dir(abs) {
		found = filepath.Join(f.real(filepath.Dir(abs)), filepath.Base(abs))
		if _, err := f.fs.Stat(found); errors.Is(err, fs.ErrNotExist) {
			entries, _ := f.fs.ReadDir(filepath.Dir(found))
			for _, e := range entries {
				if norm.NFC.String(e.Name()) == norm.NFC.String(filepath.Base(abs)) {
					found = filepath.Join(filepath.Dir(found), e.Name())
				}
			}
		}
	}
	if f.reals == nil {
		f.reals = make(map[string]string)
	}
	f.reals[abs] = found
	if found != abs && len(f.decomposed) == 0 {
		f.decomposed = found
	}
	return found
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// pending tells whether a source action makes the file, so that there is nothing to look at yet.
func (f *facts) pending(path string) bool { return f.sources.maker(f.abs(path)) != "" }

// regular returns the size of a file.
func (f *facts) regular(path string) (int64, error) {
	info, err := f.fs.Stat(f.abs(path))
	switch {
	case err != nil:
		return 0, f.explain(path, err)
	case info.IsDir():
		return 0, fmt.Errorf("%s is a directory", path)
	case !info.Mode().IsRegular():
		return 0, fmt.Errorf("%s is not a regular file", path)
	}
	return info.Size(), nil
}

// directory tells whether path is a directory.
func (f *facts) directory(path string) error {
	info, err := f.fs.Stat(f.abs(path))
	switch {
	case err != nil:
		return f.explain(path, err)
	case !info.IsDir() && !isAnything(info):
		return fmt.Errorf("%s is not a directory", path)
	}
	return nil
}

// explain words an error of the file system: what was asked for, where a relative path led, and how far it exists.
func (f *facts) explain(path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		var pathError *fs.PathError
		if errors.As(err, &pathError) {
			err = pathError.Err
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	abs := f.abs(path)
	if _, linkErr := f.fs.ReadLink(abs); linkErr == nil {
		target, _ := f.fs.ReadLink(abs)
		return &missingError{fmt.Sprintf("%s is a link to %s, which does not exist", path, target), err}
	}
	text := fmt.Sprintf("there is no %s", path)
	parent := filepath.Dir(abs)
	for parent != filepath.Dir(parent) {
		if _, statErr := f.fs.Stat(parent); statErr == nil {
			break
		}
		parent = filepath.Dir(parent)
	}
	if rel, relErr := filepath.Rel(f.dir, parent); relErr == nil && rel != "." && !filepath.IsAbs(path) && !strings.HasPrefix(rel, "..") {
		text += fmt.Sprintf("; the path exists up to %s", rel)
	} else if filepath.IsAbs(path) {
		text += fmt.Sprintf("; the path exists up to %s", parent)
	}
	return &missingError{text, err}
}

// missingError says that a file is not there.
type missingError struct {
	text string
	err  error
}

func (e *missingError) Error() string { return e.text }
func (e *missingError) Unwrap() error { return e.err }

// read returns the content of a regular file of at most limit bytes.
func (f *facts) read(path string, limit int64) ([]byte, error) {
	size, err := f.regular(path)
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s has %s; at most %s are read", path, formatSize(size), formatSize(limit))
	}
	r, err := f.fs.Open(f.abs(path))
	if err != nil {
		return nil, f.explain(path, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, f.explain(path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s grew while it was read", path)
	}
	return data, nil
}

// sha256 hashes a regular file of any size.
func (f *facts) sha256(path string) (string, error) {
	sum, err := f.digest(path, sha256.New())
	return hex.EncodeToString(sum), err
}

// digest hashes a regular file of any size.
func (f *facts) digest(path string, h hash.Hash) ([]byte, error) {
	if _, err := f.regular(path); err != nil {
		return nil, err
	}
	r, err := f.fs.Open(f.abs(path))
	if err != nil {
		return nil, f.explain(path, err)
	}
	defer r.Close()
	buf := make([]byte, 1<<20)
	for {
		if err := f.ctx.Err(); err != nil {
			return nil, err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return h.Sum(nil), nil
		}
		if err != nil {
			return nil, f.explain(path, err)
		}
	}
}
