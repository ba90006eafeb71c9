package imaging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/twinkeel/twinkeel/internal/unpack"
)

// A compressed file system is unpacked into its place in the raw image, or into a file beside the outputs if there is none;
// from there on it is like any other. Its tables tell which of its blocks the block map needs, and they have to be
// looked at in an order in which no stream gives them.

// looksPacked tells whether a file is compressed where a file system is wanted, and checks what the first bytes claim.
func looksPacked(r *Region, sector int64, path string, f *os.File, size int64) (bool, error) {
	found, err := Probe(f, size)
	if err != nil || r.Filesystem == FilesystemNone {
		return false, err
	}
	if found.Kind != "" && found.Compressed == "" {
		return false, nil
	}
	in, format, err := unpack.Open(io.NewSectionReader(f, 0, size), path, r.Size)
	var plain *unpack.NotCompressedError
	if errors.As(err, &plain) {
		return false, nil // whatever its name says
	}
	if err != nil {
		return false, unpackError(r, path, err)
	}
	defer in.Close()
	if format == unpack.None {
		return false, nil
	}
	head := make([]byte, 4096)
	n, err := readChunk(in, head)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, unpackError(r, path, err)
	}
	claim, err := Probe(sliceReader(head[:n]), int64(n))
	if err != nil {
		return false, err
	}
	if claim.Kind == r.Filesystem && claim.Size > r.Size {
		return false, &TooLargeError{Area: r.Kind, Name: r.Name, What: "the file system in " + path, Need: claim.Size, Size: r.Size}
	}
	// Whether all of it is there is seen when it is unpacked.
	return true, identify(r, sector, "what is in "+path, sliceReader(head[:n]), max(claim.Size, int64(n)))
}

func unpackError(r *Region, path string, err error) error {
	var large *unpack.TooLargeError
	if errors.As(err, &large) {
		return &ContentError{
			Name: r.Name, Reason: fmt.Sprintf("%s unpacks to more than the %s of the partition", path, FormatSize(r.Size)),
			Advice: fmt.Sprintf("give partition %q more room in the layout or put less into it", r.Name),
		}
	}
	return fmt.Errorf("content of partition %q: %w", r.Name, err)
}

// unpackAll unpacks every compressed source once and makes all that have it point there.
func (w *writer) unpackAll(ctx context.Context, set *outputSet, sources []source) error {
	type place struct {
		path string
		base int64
		size int64
	}
	done := make(map[string]place)
	for i := range sources {
		s := &sources[i]
		if !s.packed {
			continue
		}
		p, known := done[s.path]
		if !known {
			out, base := (*os.File)(nil), s.region.Offset
			if set.raw != nil {
				out, s.there = set.raw.File.File, true
			} else {
				work, err := w.workDir()
				if err != nil {
					return err
				}
				if out, err = os.Create(filepath.Join(work, fmt.Sprintf("part%d.unpacked", s.region.Number))); err != nil { //nolint:forbidigo // scratch, removed with its folder
					return fmt.Errorf("writing %s: %w", w.path, err)
				}
				defer out.Close()
				base = 0
			}
			size, err := s.unpackTo(ctx, out, base, w.meter.add)
			if err != nil {
				return fmt.Errorf("writing %s: %w", w.path, err)
			}
			w.meter.end()
			p = place{out.Name(), base, size}
			done[s.path] = p
		}
		if p.size > s.region.Size {
			return &TooLargeError{Area: s.region.Kind, Name: s.region.Name, What: "what is in " + s.path, Need: p.size, Size: s.region.Size}
		}
		s.path, s.base, s.size, s.info, s.packed = p.path, p.base, p.size, nil, false
	}
	return nil
}

// unpackTo unpacks the source to a place in out and checks what has come out.
func (s *source) unpackTo(ctx context.Context, out *os.File, base int64, report func(int64)) (int64, error) {
	f, err := s.open()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	in, _, err := unpack.Open(f, s.path, s.region.Size)
	if err != nil {
		return 0, unpackError(&s.region, s.path, err)
	}
	defer in.Close()
	size, err := CopyStream(ctx, out, base, in, report)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, syscall.ENOSPC) {
			return 0, err
		}
		return 0, unpackError(&s.region, s.path, err)
	}
	if err := s.check(f); err != nil {
		return 0, err
	}
	r := s.region
	return size, identify(&r, s.sector, "what is in "+s.path, io.NewSectionReader(out, base, size), size)
}

// readChunk fills buf as far as it can, so that blocks of zeros are seen whole. Unlike io.ReadFull it does not take the
// end for an error.
func readChunk(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}
