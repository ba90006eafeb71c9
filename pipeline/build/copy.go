package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyChunk is how much is copied between two looks at the context.
const copyChunk = 64 << 20

// copyFile copies the first size bytes of in to out, which is empty. Where the file system can share blocks (XFS, btrfs)
// that takes no time and no room; elsewhere the kernel copies. What is a hole stays one: an image of 8 GiB may hold 300 MiB.
func copyFile(ctx context.Context, out, in *os.File, size int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		start, end := nextData(in, at, size)
		if err := copyRange(ctx, out, in, start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// nextData returns the next range from at on that may hold anything but zeros. Where the kernel does not tell, that is all
// the rest.
func nextData(in *os.File, at, size int64) (start, end int64) {
	start, err := in.Seek(at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size // only a hole is left
	}
	if err != nil || start < at {
		return at, size
	}
	end, err = in.Seek(start, unix.SEEK_HOLE)
	if err != nil || end <= start {
		return min(start, size), size
	}
	return min(start, size), min(end, size)
}

func copyRange(ctx context.Context, out, in *os.File, start, end int64) error {
	if start >= end {
		return nil
	}
	for _, f := range []*os.File{out, in} {
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	for left := end - start; left > 0; left -= min(left, copyChunk) {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, err := io.CopyN(out, in, min(left, copyChunk)) // copy_file_range(2) between files
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("reading %s: %w", in.Name(), io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
