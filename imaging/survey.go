package imaging

import (
	"bytes"
	"context"
	"io"
	"os"
)

// What others need to change an image that is there already: they copy it, change the copy, and describe it anew.

// CopyRange puts size bytes of in from base on to off in out, which has to read as zeros there. The blocks are shared
// where the file system can do that; otherwise only data is copied, and zeros become holes.
func CopyRange(ctx context.Context, out *os.File, off int64, in *os.File, base, size int64, report func(int64)) error {
	return copyFile(ctx, out, []int64{off}, in, base, size, report)
}

// CopyStream puts all of in to off in out, which has to read as zeros there, and returns how much it was. Zeros become
// holes.
func CopyStream(ctx context.Context, out io.WriterAt, off int64, in io.Reader, report func(int64)) (int64, error) {
	buf := make([]byte, copyChunk)
	size := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return size, err
		}
		n, err := readChunk(in, buf)
		if werr := writeSparse(out, buf[:n], off+size); werr != nil {
			return size, werr
		}
		size += int64(n)
		report(int64(n))
		if err == io.EOF { //nolint:errorlint // a damaged compression may wrap it, and is no end
			return size, nil
		}
		if err != nil {
			return size, err
		}
	}
}

// FillFile copies all of in to an empty file, in which zeros become holes.
func FillFile(ctx context.Context, f *os.File, in io.Reader) error {
	size, err := CopyStream(ctx, f, 0, in, func(int64) {})
	if err != nil {
		return err
	}
	return f.Truncate(size)
}

// Survey reads a raw image once and returns its block map and its SHA-256. What keep, an earlier block map of it, has
// between the partitions stays mapped: whoever made that one knew of areas, such as a boot loader's environment, that must
// be written though they hold zeros. It may be nil.
func Survey(ctx context.Context, f *os.File, m *Map, keep *Bmap, report func(int64)) (b *Bmap, sum string, err error) {
	must, err := mustKeep(f, m, keep)
	if err != nil {
		return nil, "", err
	}
	whole := &piece{source: source{region: Region{Name: "image", Size: m.Size}, size: m.Size}, file: f}
	reader := &imageReader{size: m.Size, pieces: []*piece{whole}}
	digest, blocks := newImageDigest(), newBmapper(m, must, nil)
	if err := reader.stream(ctx, []sink{digest, blocks}, report); err != nil {
		return nil, "", err
	}
	return &blocks.out, digest.sum, nil
}

// mustKeep is mustWrite for an image of which only the bytes are known. A partition of zeros counts as one without content.
func mustKeep(f *os.File, m *Map, keep *Bmap) (*blockSet, error) {
	contents := &imageReader{size: m.Size}
	for _, r := range m.Regions {
		if r.Kind != KindPartition {
			continue
		}
		blank, err := Blank(f, r.Offset, r.Size)
		if err != nil {
			return nil, err
		}
		if !blank {
			contents.pieces = append(contents.pieces, &piece{source: source{region: r, base: r.Offset, size: r.Size}, file: f})
		}
	}
	must, err := mustWrite(m, contents)
	if err != nil || keep == nil {
		return must, err
	}
	for _, r := range keep.Ranges {
		start, size := keep.Extent(r)
		end := min(start+size, m.Size)
		for _, p := range m.Regions { // sorted
			if p.Kind != KindPartition || p.End() <= start {
				continue
			}
			if p.Offset > start {
				must.add(start, min(p.Offset, end))
			}
			if start = p.End(); start >= end {
				break
			}
		}
		if start < end {
			must.add(start, end)
		}
	}
	return must, nil
}

// Blank tells whether a part of a file holds nothing but zeros.
func Blank(f *os.File, off, size int64) (bool, error) {
	buf := make([]byte, copyChunk)
	for at, end := off, off+size; at < end; {
		start, stop := nextData(f, at, end)
		for at = start; at < stop; {
			part := buf[:min(int64(len(buf)), stop-at)]
			if _, err := f.ReadAt(part, at); err != nil {
				return false, err
			}
			at += int64(len(part))
			for ; len(part) > 0; part = part[min(len(part), len(zeros)):] {
				if n := min(len(part), len(zeros)); !bytes.Equal(part[:n], zeros[:n]) {
					return false, nil
				}
			}
		}
	}
	return true, nil
}
