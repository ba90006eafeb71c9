package flash

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// Host is this machine.
func Host() System { return System{Sys: "/sys", Proc: "/proc", Udev: "/run/udev", Number: blockNumber} }

func blockNumber(path string) (major, minor uint32, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, errors.New("no block device")
	}
	return unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)), nil //nolint:unconvert // uint32 on some architectures
}

// What the kernel says of a device that was taken out, and of a medium that fails.
var (
	goneErrors   = []error{unix.ENODEV, unix.ENXIO, unix.ENOMEDIUM}
	brokenErrors = []error{unix.EIO, unix.EILSEQ, unix.EREMOTEIO}
)

// opened is a block device or a file.
type opened struct {
	f      *os.File
	disk   *Disk
	size   int64
	paced  []Range // handed to the kernel, not waited for yet
	noPace bool
}

// Open claims a disk for writing: nobody can mount it or a part of it, and udev does not look at it, until it is closed. A
// file is made if there is none and grows to the image's size, of which it keeps what is behind. release closes it.
func (s System) Open(d *Disk, need int64) (t *Target, release func() error, err error) {
	if d.Kind == KindFile {
		return openRegular(d, need)
	}
	// O_EXCL without O_CREAT on a block device fails while it or a partition of it is mounted or part of something else, in
	// any mount namespace (open(2)).
	f, err := os.OpenFile(d.Node, os.O_RDWR|unix.O_EXCL|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, syscall.EBUSY):
		return nil, nil, &RefusedError{d.Path, "it is in use by something that is not visible here, such as a container", "look with: lsof " + d.Node}
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, &RefusedError{d.Path, "this user may not write to it", "run the command with sudo, or join the group that owns disks"}
	case errors.Is(err, syscall.EROFS):
		return nil, nil, &RefusedError{d.Path, "it is write-protected", "look for a switch on the card or its adapter"}
	case err != nil:
		return nil, nil, fileError(d.Path, err)
	}
	o := &opened{f: f, disk: d}
	if err := o.claim(s); err != nil {
		f.Close()
		return nil, nil, err
	}
	return &Target{Name: d.Path, Device: o, SectorSize: d.SectorSize}, f.Close, nil
}

// claim makes sure that what was opened is what was looked at, and that it is still free.
func (o *opened) claim(s System) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(o.f.Fd()), &st); err != nil {
		return fileError(o.disk.Path, err)
	}
	now := number(unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))) //nolint:unconvert // uint32 on some architectures
	again, err := s.Inspect(o.disk.Node, Permit{Partition: o.disk.Kind == KindPartition})
	if err != nil {
		return err
	}
	if now != o.disk.dev || again.Serial != o.disk.Serial || again.Size != o.disk.Size {
		return &RefusedError{o.disk.Path, "it is another device than a moment ago", "look which one it is, and start again"}
	}
	if err := lock(o.f); err != nil {
		return &RefusedError{o.disk.Path, "another program works on it", "wait until it is done"}
	}
	if o.size, err = o.f.Seek(0, io.SeekEnd); err != nil {
		return fileError(o.disk.Path, err)
	}
	return nil
}

// lock keeps udev from probing (https://systemd.io/BLOCK_DEVICE_LOCKING) and a second run of this program out.
func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

func openRegular(d *Disk, need int64) (*Target, func() error, error) {
	f, err := os.OpenFile(d.Node, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600) // an image may hold keys
	if err != nil {
		return nil, nil, fileError(d.Path, err)
	}
	fail := func(err error) (*Target, func() error, error) {
		f.Close()
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return fail(fileError(d.Path, err))
	}
	if !info.Mode().IsRegular() {
		return fail(&RefusedError{d.Path, "it is not a file any more", "look what it is, and start again"})
	}
	if lock(f) != nil {
		return fail(&RefusedError{d.Path, "another program works on it", "wait until it is done"})
	}
	size := info.Size()
	if size < need {
		if err := f.Truncate(need); err != nil {
			return fail(fileError(d.Path, err))
		}
		size = need
	}
	if err := durable.SyncDir(filepath.Dir(d.Node)); err != nil {
		return fail(err)
	}
	return &Target{Name: d.Path, Device: &opened{f: f, disk: d, size: size}}, f.Close, nil
}

func (o *opened) Size() int64 { return o.size }
func (o *opened) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.f.ReadAt(p, off)
	return n, plain(err)
}

func (o *opened) WriteAt(p []byte, off int64) (int, error) {
	if err := durable.WriteAt(o.f, p, off); err != nil {
		return 0, plain(err)
	}
	return len(p), nil
}

func (o *opened) Sync() error {
	o.paced = nil
	return plain(durable.Sync(o.f))
}

// plain leaves the path out of an error: messages name the device as the user did.
func plain(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// pacedRanges is how many ranges may be on their way to the medium: one is written while the next is prepared.
const pacedRanges = 2

func (o *opened) Pace(off, n int64) error {
	if o.noPace {
		return plain(o.f.Sync())
	}
	fd := int(o.f.Fd())
	err := unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		o.noPace = true
		return o.Pace(off, n)
	}
	if err != nil {
		return err
	}
	o.paced = append(o.paced, Range{off, n})
	for len(o.paced) > pacedRanges {
		r := o.paced[0]
		o.paced = o.paced[1:]
		const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
		if err := unix.SyncFileRange(fd, r.Offset, r.Size, wait); err != nil {
			return err
		}
		// What is on the medium need not fill this machine's memory.
		_ = unix.Fadvise(fd, r.Offset, r.Size, unix.FADV_DONTNEED)
	}
	return nil
}

func (o *opened) DropCache() error {
	if o.disk.Kind != KindFile {
		if err := o.ioctl(unix.BLKFLSBUF, nil); err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("dropping the cache: %w", err) // without the privilege the advice below does nearly as much
		}
	}
	return plain(unix.Fadvise(int(o.f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

func (o *opened) Discard(off, n int64) error {
	if !o.disk.discard || n <= 0 {
		return errUnsupported
	}
	return o.ioctl(unix.BLKDISCARD, &[2]uint64{uint64(off), uint64(n)})
}

// Zero asks the device only where it does it by itself: elsewhere the kernel would send the zeros.
func (o *opened) Zero(off, n int64) error {
	var err error
	switch {
	case o.disk.Kind == KindFile:
		err = unix.Fallocate(int(o.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	case o.disk.zeroes:
		err = o.ioctl(unix.BLKZEROOUT, &[2]uint64{uint64(off), uint64(n)})
	default:
		return errUnsupported
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return errUnsupported
	}
	return err
}

func (o *opened) Reread() error {
	if o.disk.Kind == KindFile || o.disk.Kind == KindPartition {
		return nil
	}
	return o.ioctl(unix.BLKRRPART, nil)
}

// ioctl is one of linux/fs.h with a range or nothing as its argument.
func (o *opened) ioctl(request uint, arg *[2]uint64) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, o.f.Fd(), uintptr(request), uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	return nil
}
