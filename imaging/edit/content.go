package edit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
	"github.com/twinkeel/twinkeel/internal/unpack"
)

// Content is what a partition shall hold: a file, which may be compressed, or a stream of plain bytes.
type Content struct {
	Name   string    // in messages
	File   string    // path; or
	Stream io.Reader // of Size bytes
	Size   int64
	// Force takes it whatever file system it holds.
	Force bool
}

// Replaced is what [Image.Replace] has put where.
type Replaced struct {
	Partition      int    `json:"partition"`
	Name           string `json:"name"`
	Slot           string `json:"slot,omitempty"`
	Room           int64  `json:"room"` // of the partition
	Size           int64  `json:"size"` // of what it holds now
	Filesystem     string `json:"filesystem"`
	Label          string `json:"label,omitempty"`
	FilesystemUUID string `json:"filesystem_uuid,omitempty"`
}

// Replace puts a file system, or whatever else, into a partition. What is left of the old content behind it becomes zeros.
// Without Content.Force it must be of the kind that the partition or its sister slot holds.
func (im *Image) Replace(ctx context.Context, r imaging.Region, c Content) (out *Replaced, err error) {
	defer spaceError(&err, im.Path)
	if r.Kind != imaging.KindPartition {
		return nil, refuse(r.Name, "", "it is no partition")
	}
	want := im.expected(r)
	if err := zero(ctx, im.file(), r.Offset, r.Size); err != nil {
		return nil, fmt.Errorf("writing %s: %w", im.Path, plainCause(err))
	}
	size, err := im.fill(ctx, r, c)
	if err != nil {
		return nil, err
	}
	found, err := imaging.Probe(io.NewSectionReader(im.file(), r.Offset, size), size)
	if err != nil {
		return nil, err
	}
	if err := checkContent(c, r, found, size, want); err != nil {
		return nil, err
	}
	out = &Replaced{
		Partition: r.Number, Name: r.Name, Slot: r.Slot, Room: r.Size, Size: size,
		Filesystem: found.Kind, Label: found.Label, FilesystemUUID: found.UUID,
	}
	return out, im.reload()
}

// expected is the kind of file system that a partition holds, or for an empty slot the other one.
func (im *Image) expected(r imaging.Region) string {
	if r.Filesystem != imaging.FilesystemNone {
		return r.Filesystem
	}
	for _, other := range im.Disk.Map.Regions {
		if r.Slot != "" && other.Slot != "" && other.Number != r.Number && other.Filesystem != imaging.FilesystemNone {
			return other.Filesystem
		}
	}
	return ""
}

// fill writes the content and returns its size.
func (im *Image) fill(ctx context.Context, r imaging.Region, c Content) (int64, error) {
	if c.File == "" {
		if c.Size > r.Size {
			return 0, tooLarge(c, r, c.Size)
		}
		im.meter.more(c.Size)
		size, err := imaging.CopyStream(ctx, im.file(), r.Offset, c.Stream, im.meter.add)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", c.Name, plainCause(err))
		}
		return size, nil
	}
	f, err := os.Open(c.File)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c.Name, plainCause(err))
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s: %w", c.Name, plainCause(err))
	case !info.Mode().IsRegular():
		return 0, refuse(c.Name, "", "it is not a file")
	case info.Size() == 0:
		return 0, refuse(c.Name, "", "it is empty")
	}
	stream, format, err := unpack.Open(f, filepath.Base(c.File), r.Size)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	if format != unpack.None {
		im.meter.more(r.Size) // at most
		size, err := imaging.CopyStream(ctx, im.file(), r.Offset, stream, im.meter.add)
		var large *unpack.TooLargeError
		if errors.As(err, &large) {
			return 0, tooLarge(c, r, 0)
		}
		im.meter.add(r.Size - size)
		return size, err
	}
	if info.Size() > r.Size {
		return 0, tooLarge(c, r, info.Size())
	}
	im.meter.more(info.Size())
	return info.Size(), imaging.CopyRange(ctx, im.file(), r.Offset, f, 0, info.Size(), im.meter.add)
}

func tooLarge(c Content, r imaging.Region, need int64) error {
	size := "more than that"
	if need > 0 {
		size = imaging.FormatSize(need)
	}
	return refuse(c.Name, "partitions keep their sizes: build an image with larger ones, or put less into it",
		"it does not fit into partition %s, which has %s: it has %s", inspect.Title(r), imaging.FormatSize(r.Size), size)
}

func checkContent(c Content, r imaging.Region, found imaging.Filesystem, size int64, want string) error {
	const force = "check that it is the right file; --force puts it there all the same"
	switch {
	case found.Size > size:
		return refuse(c.Name, "copy or build it again", "it is cut short: it has %s, its file system %s", imaging.FormatSize(size), imaging.FormatSize(found.Size))
	case c.Force:
		return nil
	case found.Kind == "":
		return refuse(c.Name, force, "it holds no file system that is known")
	case want != "" && found.Kind != want:
		return refuse(c.Name, force, "it holds %s, but partition %s is for %s", found.Kind, inspect.Title(r), want)
	}
	return nil
}

// zero makes a part of a file read as zeros: a hole, where the file system can.
func zero(ctx context.Context, f *os.File, off, size int64) error {
	if size == 0 {
		return nil
	}
	if done, err := punch(f, off, size); done || err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for end := off + size; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.WriteAt(buf[:min(int64(len(buf)), end-off)], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}
