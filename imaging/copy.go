package imaging

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
)

const (
	copyChunk  = 256 << 10 // stays in a core's cache between reading, looking for zeros and writing
	copyGrain  = 4096      // zeros shorter than this are written
	copyAhead  = 16 << 20  // so much is copied before the disk begins with it
	cloneGrain = 4096
)

var zeros [copyGrain]byte

// copyFile puts size bytes of in from base on to every one of the places in out, which read as zeros there. If the file
// system can share the blocks of both files, nothing is copied at all; otherwise each byte is read once, however many
// places there are.
func copyFile(ctx context.Context, out *os.File, places []int64, in *os.File, base, size int64, report func(int64)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var left []int64
	for _, off := range places {
		if cloneWhole(out, off, in, base, size) {
			report(size)
			continue
		}
		left = append(left, off)
	}
	if len(left) == 0 {
		return nil
	}
	each := int64(len(left))
	begun := int64(0) // so far the disk has been told to write
	buf := make([]byte, min(copyChunk, max(size, 1)))
	for at := int64(0); at < size; {
		start, end := nextData(in, base+at, base+size)
		start, end = start-base, end-base
		report((start - at) * each)
		for at = start; at < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			// Chunks end where the buffer would after a hole, so that what is written begins and ends on blocks.
			part := buf[:min(copyChunk-at%copyChunk, end-at)]
			if _, err := in.ReadAt(part, base+at); err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			for _, off := range left {
				if err := writeSparse(out, part, off+at); err != nil {
					return err
				}
			}
			at += int64(len(part))
			if at-begun >= copyAhead {
				for _, off := range left {
					startWriting(out, off+begun, at-begun)
				}
				begun = at
			}
			report(int64(len(part)) * each)
		}
	}
	return nil
}

// cloneWhole shares the blocks of a range of in with out and tells whether that worked.
func cloneWhole(out *os.File, off int64, in *os.File, base, size int64) bool {
	return size%cloneGrain == 0 && off%cloneGrain == 0 && base%cloneGrain == 0 && cloneRange(out, off, in, base, size)
}

// copySparse copies size bytes and leaves out blocks of zeros, so that the output is sparse whatever the input is, and
// the same whatever the kernel says about the input's holes (for unwritten extents that depends on its page cache).
func copySparse(ctx context.Context, out io.WriterAt, off int64, in io.Reader, size int64, report func(int64)) error {
	buf := make([]byte, min(copyChunk, max(size, 1)))
	for size > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(int64(len(buf)), size)]
		if _, err := io.ReadFull(in, part); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if err := writeSparse(out, part, off); err != nil {
			return err
		}
		off += int64(len(part))
		size -= int64(len(part))
		report(int64(len(part)))
	}
	return nil
}

// writeSparse writes the runs of b between blocks of zeros. Blocks are counted from the start of the disk, so that the
// holes fall on the blocks of the file system that holds the image.
func writeSparse(out io.WriterAt, b []byte, off int64) error {
	for len(b) > 0 {
		skip := 0
		for skip < len(b) {
			n := grain(len(b)-skip, off+int64(skip))
			if !bytes.Equal(b[skip:skip+n], zeros[:n]) {
				break
			}
			skip += n
		}
		b, off = b[skip:], off+int64(skip)
		run := 0
		for run < len(b) {
			n := grain(len(b)-run, off+int64(run))
			if bytes.Equal(b[run:run+n], zeros[:n]) {
				break
			}
			run += n
		}
		if run > 0 {
			if _, err := out.WriteAt(b[:run], off); err != nil {
				return err
			}
		}
		b, off = b[run:], off+int64(run)
	}
	return nil
}

func grain(left int, off int64) int {
	return min(left, copyGrain-int(off%copyGrain))
}
