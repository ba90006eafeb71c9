package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/twinkeel/twinkeel/internal/durable"
)

const (
	blockSize = 1 << 20  // unit of comparing and writing
	syncEvery = 16 << 20 // bytes written between two flushes: bounds what the kernel holds back, 40 flushes for 623 MiB
)

// slotFile is an open slot. It cannot reach a byte outside of it.
type slotFile struct {
	f    *os.File
	base int64
	size int64
	name string
}

// openSlot opens a slot for writing. It never creates the file: a missing device node must not become a regular file
// that fills /dev (as it does with mender-flash).
func openSlot(s Slot) (*slotFile, error) {
	info, err := os.Stat(s.Device)
	if err != nil {
		return nil, fmt.Errorf("opening the slot %s: %s", s.Device, reason(err))
	}
	flags := os.O_RDWR
	switch mode := info.Mode(); {
	case mode.IsRegular():
	case mode.Type() == fs.ModeDevice: // a block device, as a character device has ModeCharDevice too
		flags |= os.O_EXCL // the kernel refuses if it is mounted
	default:
		return nil, fmt.Errorf("the slot %s is neither a block device nor a regular file", s.Device)
	}
	f, err := os.OpenFile(s.Device, flags, 0)
	if err != nil {
		if errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("the slot %s is in use (mounted?)", s.Device)
		}
		return nil, fmt.Errorf("opening the slot %s: %s", s.Device, reason(err))
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		closeQuietly(f)
		return nil, fmt.Errorf("measuring the slot %s: %s", s.Device, reason(err))
	}
	size := s.Size
	if size == 0 {
		size = end - s.Offset
	}
	if s.Offset < 0 || size <= 0 || s.Offset > end-size {
		closeQuietly(f)
		return nil, fmt.Errorf("the slot at %d, %d bytes long, is not inside %s, which has %d bytes", s.Offset, size, s.Device, end)
	}
	return &slotFile{f: f, base: s.Offset, size: size, name: s.Device}, nil
}

// writeStats counts the bytes of an install.
type writeStats struct {
	Written int64
	Skipped int64 // were there already
	Flushes int
}

// fill copies exactly size bytes of r to the start of the slot, writing only blocks that differ, and makes them
// durable. A second run after an interrupted one finds its blocks and writes nothing twice.
func (s *slotFile) fill(ctx context.Context, r io.Reader, size int64, progress func(done, total int64)) (writeStats, error) {
	var stats writeStats
	if size > s.size {
		return stats, fmt.Errorf("%d bytes do not fit into the slot %s of %d bytes", size, s.name, s.size)
	}
	block, present := make([]byte, blockSize), make([]byte, blockSize)
	var sinceSync int64
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return stats, err
		}
		n, err := io.ReadFull(r, block[:min(blockSize, size-done)])
		if err != nil {
			return stats, endsEarly(err)
		}
		if _, err := s.f.ReadAt(present[:n], s.base+done); err != nil {
			return stats, fmt.Errorf("reading %s: %w", s.name, err)
		}
		if bytes.Equal(block[:n], present[:n]) {
			stats.Skipped += int64(n)
		} else {
			if err := durable.WriteAt(s.f, block[:n], s.base+done); err != nil {
				return stats, err
			}
			stats.Written += int64(n)
			sinceSync += int64(n)
		}
		done += int64(n)
		if sinceSync >= syncEvery {
			if err := durable.Sync(s.f); err != nil {
				return stats, err
			}
			stats.Flushes++
			sinceSync = 0
		}
		progress(done, size)
	}
	// Also when nothing was written: an interrupted run before this one may have written what was skipped now, and
	// what it wrote may still be in memory only.
	if err := durable.Sync(s.f); err != nil {
		return stats, err
	}
	stats.Flushes++
	// The digest is checked where the stream ends: read on to its end, and take one byte more for the error it is.
	switch n, err := io.ReadFull(r, block[:1]); {
	case n > 0:
		return stats, errors.New("the payload is longer than its header says")
	case !errors.Is(err, io.EOF):
		return stats, err
	}
	return stats, nil
}

func endsEarly(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// digest reads back the first size bytes of the slot from the medium, not from memory.
func (s *slotFile) digest(ctx context.Context, size int64) (string, error) {
	if size > s.size {
		return "", fmt.Errorf("%d bytes are more than the slot %s holds", size, s.name)
	}
	// Drops clean pages only, which they all are after the flush. Not every file system can (tmpfs); reading from
	// memory is then all there is.
	_ = unix.Fadvise(int(s.f.Fd()), s.base, size, unix.FADV_DONTNEED)
	sum := sha256.New()
	block := make([]byte, blockSize)
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n := min(blockSize, size-done)
		if _, err := s.f.ReadAt(block[:n], s.base+done); err != nil {
			return "", fmt.Errorf("reading %s back: %w", s.name, err)
		}
		sum.Write(block[:n])
		done += n
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (s *slotFile) Close() error {
	if err := s.f.Close(); err != nil {
		return fmt.Errorf("closing %s: %s", s.name, reason(err))
	}
	return nil
}
