// Package inspect looks into disk images and disks: what is where, which of it is sound, which slot would boot, and what files
// lie in the file systems. It needs no privilege, no loop device and no mount, and it never writes to what it looks at.
//
// Every byte may come from a stranger: reading costs bounded memory and ends, and names come out as they are, for the caller to
// make fit for a terminal.
//
// Formats: raw images and block devices, the compressions of package internal/unpack, Android sparse images (AOSP libsparse
// 1.0) and qcow2 (QEMU's docs/interop/qcow2.rst). Tables and file systems are read by package imaging, boot loader
// environments by internal/bootenv. The judges are sgdisk, e2fsck, fsck.vfat, fw_printenv, qemu-img and simg2img.
package inspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/unpack"
)

// Formats of images.
const (
	FormatRaw           = "raw"
	FormatAndroidSparse = "android-sparse"
	FormatQCOW2         = "qcow2"
)

// DefaultLimit is how much a compressed image may unpack to, in bytes.
const DefaultLimit = 256 << 30

// Options of [Open]. The zero value is for use.
type Options struct {
	// Limit is how much a compressed image may unpack to; default DefaultLimit.
	Limit int64
	// TempDir is where it unpacks to; default is that of the system (TMPDIR). Zeros take no room there.
	TempDir string
	// Progress is told how much of a compressed image has been read. It may be nil.
	Progress func(done, total int64)
}

// Disk is a disk image or a disk that is open for reading.
type Disk struct {
	Path        string
	Format      string // a Format constant, inside the compression
	Compression string // "gzip", "xz" and so on; empty when it is not compressed
	Device      bool   // it is a block device
	Size        int64  // of the disk, in bytes
	// Map is what is where. It is nil when there is no table, then NoTable says why.
	Map     *imaging.Map
	NoTable error

	io.ReaderAt
	file *os.File // that is read: the image itself or its unpacked copy
}

// DamagedError says that the container an image is in contradicts itself.
type DamagedError struct {
	Format string
	Reason string
}

func (e *DamagedError) Error() string {
	return "the " + map[string]string{FormatAndroidSparse: "Android sparse", FormatQCOW2: "qcow2"}[e.Format] + " image is damaged: " + e.Reason
}

// UnsupportedError says that an image is in a container that is not read here. It is an [errors.ErrUnsupported].
type UnsupportedError struct{ What, Advice string }

func (e *UnsupportedError) Error() string { return "it is " + e.What }

// Hint says what to do about it.
func (e *UnsupportedError) Hint() string { return e.Advice }

// Is tells programs what kind of error it is.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

const convertAdvice = "convert it: qemu-img convert -O raw FILE board.img"

func damaged(format, reason string, args ...any) error {
	return &DamagedError{format, fmt.Sprintf(reason, args...)}
}

// Open opens an image or a block device. A compressed image is unpacked into a sparse temporary file without a name, which is
// gone with Close: what looks into an image needs its parts in any order.
func Open(ctx context.Context, path string, o Options) (*Disk, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeNamedPipe != 0 { // to open it would wait for a writer
		return nil, fmt.Errorf("%s: it is neither a file nor a block device", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, plainPathError(err)
	}
	d := &Disk{Path: path, Format: FormatRaw, file: f}
	if err := d.open(ctx, o); err != nil {
		d.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// OpenFile is [Open] for a raw image that is open already; path is its name in messages. Its owner closes f, not the Disk.
func OpenFile(f *os.File, path string) (*Disk, error) {
	d := &Disk{Path: path, Format: FormatRaw, file: f, ReaderAt: f}
	var err error
	if d.Size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	d.Map, d.NoTable = imaging.ReadMap(d, d.Size)
	if d.NoTable != nil && !errors.Is(d.NoTable, imaging.ErrNoTable) {
		return nil, fmt.Errorf("%s: %w", path, d.NoTable)
	}
	return d, nil
}

// plainPathError drops the operation of the system call: people see which file and why.
func plainPathError(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	}
	return err
}

func (d *Disk) open(ctx context.Context, o Options) error {
	info, err := d.file.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return errors.New("it is a directory, not a disk image")
	case info.Mode()&(os.ModeCharDevice|os.ModeNamedPipe|os.ModeSocket) != 0:
		return errors.New("it is neither a file nor a block device")
	}
	d.Device = info.Mode()&os.ModeDevice != 0
	if !d.Device {
		if err := d.unpack(ctx, info.Size(), o); err != nil {
			return err
		}
	}
	size, err := d.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if err := d.container(size); err != nil {
		return err
	}
	d.Map, d.NoTable = imaging.ReadMap(d, d.Size)
	if d.NoTable == nil {
		return nil
	}
	if !errors.Is(d.NoTable, imaging.ErrNoTable) {
		return d.NoTable
	}
	if errors.Is(d.NoTable, imaging.ErrUBI) { // which says what it is
		return nil
	}
	return d.explainNoTable()
}

// explainNoTable says what a disk without a partition table is instead.
func (d *Disk) explainNoTable() error {
	found, err := imaging.Probe(d, d.Size)
	if err != nil {
		return err
	}
	what, nature := found.Kind, imaging.OnDisk
	if what == "" {
		what, nature = imaging.Recognise(d, d.Size)
	}
	switch {
	case nature == imaging.VirtualDisk:
		return &UnsupportedError{what, convertAdvice}
	case nature == imaging.OnDisk && strings.HasPrefix(what, "a disk with"): // whose table is damaged, which the error says
	case what != "":
		d.NoTable = &shortened{"no partition table: it is " + what, d.NoTable}
	}
	return nil
}

// unpack replaces the file by what is in it, if it is compressed.
func (d *Disk) unpack(ctx context.Context, total int64, o Options) error {
	in := &progressReader{ctx: ctx, r: d.file, total: total}
	out, format, err := unpack.Open(in, filepath.Base(d.Path), cmp.Or(o.Limit, DefaultLimit))
	if err != nil {
		return withoutName(err, d.Path)
	}
	defer out.Close()
	if format == unpack.None {
		return nil
	}
	d.Compression, in.report = string(format), o.Progress
	spool, err := os.CreateTemp(o.TempDir, "twinkeel-image-")
	if err != nil {
		return fmt.Errorf("unpacking: %w", err)
	}
	os.Remove(spool.Name()) // it lives as long as it is open
	if err := imaging.FillFile(ctx, spool, out); err != nil {
		spool.Close()
		if errors.Is(err, syscall.ENOSPC) {
			return &NoRoomError{Dir: filepath.Dir(spool.Name())}
		}
		return withoutName(err, d.Path)
	}
	d.file.Close()
	d.file = spool
	return nil
}

// NoRoomError says that a compressed image cannot be unpacked for want of room.
type NoRoomError struct{ Dir string }

func (e *NoRoomError) Error() string { return "no space left on " + e.Dir + " to unpack it" }

// Hint says what to do about it.
func (e *NoRoomError) Hint() string {
	return "free some space there, or set TMPDIR to a directory with more of it"
}

// withoutName takes off the front of an error the name that the caller puts there.
func withoutName(err error, path string) error {
	for _, prefix := range []string{filepath.Base(path) + " ", "reading " + filepath.Base(path) + ": "} {
		if text, found := strings.CutPrefix(err.Error(), prefix); found {
			if strings.HasPrefix(prefix, "reading ") {
				return &shortened{text, err}
			}
			return &shortened{"it " + text, err}
		}
	}
	return err
}

type shortened struct {
	text string
	err  error
}

func (e *shortened) Error() string { return e.text }
func (e *shortened) Unwrap() error { return e.err }

// container looks through the formats that are not one byte for one byte.
func (d *Disk) container(size int64) error {
	d.ReaderAt, d.Size = d.file, size
	head := make([]byte, 4)
	if n, _ := d.file.ReadAt(head, 0); n < len(head) {
		return nil // too short for anything; ReadMap says so
	}
	switch {
	case string(head) == "\x3a\xff\x26\xed":
		a, err := openAndroidSparse(d.file, size)
		if err != nil {
			return err
		}
		d.Format, d.ReaderAt, d.Size = FormatAndroidSparse, a, a.size
	case string(head) == "QFI\xfb":
		q, err := openQCOW2(d.file, size)
		if err != nil {
			return err
		}
		d.Format, d.ReaderAt, d.Size = FormatQCOW2, q, q.size
	}
	return nil
}

// Close ends the use of the disk; an unpacked copy is gone then.
func (d *Disk) Close() error { return d.file.Close() }

// Plain tells whether the bytes of the disk are those of the file at Path.
func (d *Disk) Plain() bool { return d.Format == FormatRaw && d.Compression == "" }

// PartitionError says that a disk has no such partition, or several.
type PartitionError struct {
	Name   string
	Reason string
	Known  []string
}

func (e *PartitionError) Error() string { return fmt.Sprintf("partition %q: %s", e.Name, e.Reason) }

// Hint lists the partitions.
func (e *PartitionError) Hint() string {
	if len(e.Known) == 0 {
		return ""
	}
	return "there are " + strings.Join(e.Known, ", ")
}

// Find looks for a partition by its number, its name, the label of its file system, or "a" and "b" for the slots. A reserve
// that the map knows can be named, too.
func (d *Disk) Find(name string) (imaging.Region, error) {
	if d.Map == nil {
		return imaging.Region{}, d.NoTable
	}
	return FindIn(d.Map, name)
}

// FindIn is [Disk.Find] for a map.
func FindIn(m *imaging.Map, name string) (imaging.Region, error) {
	var known []string
	for _, by := range []func(r imaging.Region) bool{
		func(r imaging.Region) bool { return r.Name == name },
		func(r imaging.Region) bool { return r.Kind == imaging.KindPartition && strconv.Itoa(r.Number) == name },
		func(r imaging.Region) bool { return r.Slot != "" && strings.EqualFold(r.Slot, name) },
		func(r imaging.Region) bool { return r.Label == name },
	} {
		var found []imaging.Region
		known = nil
		for _, r := range m.Regions {
			if r.Kind != imaging.KindPartition && r.Kind != imaging.KindReserve {
				continue
			}
			known = append(known, Title(r))
			if name != "" && by(r) {
				found = append(found, r)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return imaging.Region{}, &PartitionError{name, "there are several of that name; use the number", known}
		}
	}
	return imaging.Region{}, &PartitionError{name, "there is none of that name or number", known}
}

// Title names a partition for people: its number and its name.
func Title(r imaging.Region) string {
	switch {
	case r.Kind != imaging.KindPartition:
		return r.Name
	case r.Name == "":
		return strconv.Itoa(r.Number)
	}
	return fmt.Sprintf("%d (%s)", r.Number, r.Name)
}

// Section reads a region of the disk.
func (d *Disk) Section(r imaging.Region) *io.SectionReader {
	return io.NewSectionReader(d, r.Offset, r.Size)
}

// Partition reads a partition; see Find for its name.
func (d *Disk) Partition(name string) (*io.SectionReader, error) {
	r, err := d.Find(name)
	if err != nil {
		return nil, err
	}
	return d.Section(r), nil
}

// Filesystem opens the file system of a partition. The name "" means the disk itself, when it is one file system without a
// partition table.
func (d *Disk) Filesystem(name string) (files fs.FS, kind string, err error) {
	if name == "" {
		if d.Map != nil {
			_, err := d.Find("")
			return nil, "", err
		}
		return imaging.OpenFilesystem(d, d.Size)
	}
	r, err := d.Find(name)
	if err != nil {
		return nil, "", err
	}
	return imaging.OpenFilesystem(d.Section(r), r.Size)
}

// progressReader reports how much of a file has been read and stops when the context ends.
type progressReader struct {
	ctx         context.Context
	r           io.Reader
	done, total int64
	report      func(done, total int64)
}

func (p *progressReader) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.r.Read(b)
	p.done += int64(n)
	if p.report != nil {
		p.report(p.done, p.total)
	}
	return n, err
}
