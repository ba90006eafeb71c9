package payload_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/artifactfmt/payload"
)

// sparse makes a file with data at some places and holes everywhere else, and returns its content.
func sparse(t *testing.T, path string, size int64, places ...int64) []byte {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	content := make([]byte, size)
	for i, at := range places {
		data := bytes.Repeat([]byte{byte('a' + i)}, int(min(100<<10, size-at)))
		copy(content[at:], data)
		if _, err := f.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
	}
	return content
}

// countingFile counts what is read of a file, and what is skipped.
type countingFile struct {
	artifactfmt.SparseReader
	io.Closer
	read, skipped *int64
}

func (c countingFile) Read(p []byte) (int, error) {
	n, err := c.SparseReader.Read(p)
	*c.read += int64(n)
	return n, err
}

func (c countingFile) Hole() (int64, error) {
	n, err := c.SparseReader.Hole()
	*c.skipped += n
	return n, err
}

func TestFile(t *testing.T) {
	t.Parallel()
	const size = 24 << 20
	cases := map[string]struct {
		size   int64
		places []int64
	}{
		"empty":           {0, nil},
		"one byte":        {1, []int64{0}},
		"hole only":       {size, nil},
		"hole in front":   {size + 77, []int64{size - 300<<10}},
		"hole at the end": {size + 77, []int64{0}},
		"many holes":      {size + 4097, []int64{1 << 20, 5<<20 + 4096, 13 << 20, 13<<20 + 200<<10, size}},
	}
	for name, c := range cases {
		for _, compression := range []artifactfmt.Compression{artifactfmt.CompressionNone, artifactfmt.Gzip, artifactfmt.Zstd} {
			t.Run(name+" "+string(compression), func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "rootfs.img")
				content := sparse(t, path, c.size, c.places...)
				in, err := payload.File(path)
				if err != nil {
					t.Fatal(err)
				}
				if in.Name != "rootfs.img" || in.Size != c.size {
					t.Fatalf("%q of %d bytes", in.Name, in.Size)
				}
				var read, skipped int64
				open := in.Open
				in.Open = func() (io.ReadCloser, error) {
					r, err := open()
					if err != nil {
						return nil, err
					}
					return countingFile{r.(artifactfmt.SparseReader), r, &read, &skipped}, nil
				}
				dense := in
				dense.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
				if !bytes.Equal(stream(t, in, compression), stream(t, dense, compression)) {
					t.Error("the holes change the artifact")
				}
				if read+skipped != 2*c.size { // two passes
					t.Errorf("%d bytes read and %d skipped of twice %d", read, skipped, c.size)
				}
				if data := 2 * int64(len(c.places)) * (110 << 10); skipped > 0 && read > data { // else holes are unknown here
					t.Errorf("%d bytes read of %d that are data", read, data)
				}
			})
		}
	}
}

func stream(t *testing.T, in artifactfmt.InputFile, compression artifactfmt.Compression) []byte {
	t.Helper()
	var out bytes.Buffer
	_, err := artifactfmt.WriteStream(t.Context(), &out, &artifactfmt.Artifact{
		Name: "r1", DeviceTypes: []string{"d"}, PayloadType: "file", Files: []artifactfmt.InputFile{in}, Compression: compression,
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestFileRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := payload.File(dir); err == nil {
		t.Error("a directory is taken")
	}
	if _, err := payload.File(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	path := filepath.Join(dir, "a")
	sparse(t, path, 1<<20, 0)
	in, err := payload.File(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{1<<20 - 1, 5 << 20, 1<<20 + 1} { // by data or by a hole
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		_, err := artifactfmt.WriteStream(t.Context(), io.Discard, &artifactfmt.Artifact{
			Name: "r1", DeviceTypes: []string{"d"}, PayloadType: "file", Files: []artifactfmt.InputFile{in},
		})
		if err == nil {
			t.Errorf("a file that has changed to %d bytes is taken", size)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Open(); err == nil {
		t.Error("a directory is opened in the file's place")
	}
}
