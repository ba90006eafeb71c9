package imaging

import (
	"os"

	"golang.org/x/sys/unix"
)

// cloneRange shares the blocks of in with out and tells whether that worked: XFS and btrfs can, on one file system.
func cloneRange(out *os.File, off int64, in *os.File, base, size int64) bool {
	return unix.IoctlFileCloneRange(int(out.Fd()), &unix.FileCloneRange{
		Src_fd: int64(in.Fd()), Src_offset: uint64(base), Src_length: uint64(size), Dest_offset: uint64(off),
	}) == nil
}

// nextData returns the next range of in, from at on, that may hold anything but zeros. Where the kernel does not tell, that is
// all the rest.
func nextData(in *os.File, at, size int64) (start, end int64) {
	start, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
	if err == unix.ENXIO {
		return size, size // only a hole is left
	}
	if err != nil || start < at {
		return at, size
	}
	end, err = unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE)
	if err != nil || end <= start {
		return start, size
	}
	return min(start, size), min(end, size)
}

// startWriting lets the disk begin with a range that was written, while the next one is copied. Otherwise most of it waits for
// the sync at the end. It is only a hint.
func startWriting(out *os.File, off, size int64) {
	_ = unix.SyncFileRange(int(out.Fd()), off, size, unix.SYNC_FILE_RANGE_WRITE)
}
