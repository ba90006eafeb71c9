package payload

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/twinkeel/twinkeel/artifactfmt"
)

// File makes an input of the regular file at path, with the last element of the path as its name. The file is opened when the
// artifact is written, and must have the same size then. Its holes are not read.
func File(path string) (artifactfmt.InputFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return artifactfmt.InputFile{}, err
	}
	if !info.Mode().IsRegular() {
		return artifactfmt.InputFile{}, fmt.Errorf("%s: it is not a regular file, so its size is not known; copy it to a file first", path)
	}
	return artifactfmt.InputFile{
		Name: filepath.Base(path),
		Size: info.Size(),
		Open: func() (io.ReadCloser, error) { return openSparse(path) },
	}, nil
}

// sparseFile is an artifactfmt.SparseReader of a file.
type sparseFile struct {
	f       *os.File
	at      int64
	dataEnd int64 // where the data at the present position ends; not beyond at if that isn't known
	dense   bool  // the file system doesn't know about holes
}

func openSparse(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	// A pipe in the file's place would block, and a device has no holes and another size.
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s: it is no longer a regular file", path), err, f.Close())
	}
	return &sparseFile{f: f}, nil
}

func (s *sparseFile) Hole() (int64, error) {
	if s.dense || s.at < s.dataEnd {
		return 0, nil
	}
	data, end, err := nextData(s.f, s.at)
	if err != nil { // not every file system can tell
		s.dense = true
		return 0, nil
	}
	hole := data - s.at
	s.at, s.dataEnd = data, end
	return hole, nil
}

// Read reads no further than the next hole.
func (s *sparseFile) Read(p []byte) (int, error) {
	if left := s.dataEnd - s.at; !s.dense && left > 0 && int64(len(p)) > left {
		p = p[:left]
	}
	n, err := s.f.ReadAt(p, s.at)
	s.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (s *sparseFile) Close() error { return s.f.Close() }
