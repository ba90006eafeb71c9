package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Whatever needs an image's bytes in their order (digests, the block map, compressed outputs) is fed from one pass over
// the sources: a reader fills windows, and each sink works through them in a goroutine of its own. Windows are shared and
// come from a fixed pool, so that memory depends neither on the image nor on the slowest sink.

const (
	windowPool  = 16
	windowQueue = 8
	// maxZeros bounds what one window without data stands for, so that nobody is deaf to ctx for long.
	maxZeros = 256 * windowSize
)

// window is a part of an image. Its offset is a multiple of windowSize.
type window struct {
	off, size int64
	data      []byte // nil: zeros, of any number of windows
	nonzero   uint64 // the blocks that hold anything else
	refs      atomic.Int32
	buf       []byte
	free      chan *window
}

func (w *window) release() {
	if w.refs.Add(-1) == 0 && w.buf != nil {
		w.free <- w
	}
}

// slice returns the bytes from off to end of the image, which may be all zeros.
func (w *window) slice(off, end int64) []byte {
	if w.data == nil {
		return zeroWindow[:end-off]
	}
	return w.data[off-w.off : end-w.off]
}

// each calls fn with all bytes from off to end, in pieces of at most windowSize.
func (w *window) each(off, end int64, fn func(b []byte) error) error {
	for off < end {
		n := min(end-off, windowSize)
		if err := fn(w.slice(off, off+n)); err != nil {
			return err
		}
		off += n
	}
	return nil
}

var zeroWindow = make([]byte, windowSize)

// sink takes an image window by window, in order and without gaps.
type sink interface {
	put(w *window) error
	finish() error
}

// overlay is what the partition tables write: few bytes in odd places, over whatever is there.
type overlay []tableWrite

type tableWrite struct {
	off  int64
	data []byte
}

// maxTable bounds what a partition table may write: both arrays and heads, and a link in the chain for each logical partition.
const maxTable = 4 << 20

// WriteAt takes a copy.
func (o *overlay) WriteAt(b []byte, off int64) (int, error) {
	size := len(b)
	for _, w := range *o {
		size += len(w.data)
	}
	if size > maxTable {
		return 0, errors.New("the partition table is too large")
	}
	*o = append(*o, tableWrite{off, bytes.Clone(b)})
	return len(b), nil
}

// touches tells whether anything is written between start and end.
func (o overlay) touches(start, end int64) bool {
	return slices.ContainsFunc(o, func(w tableWrite) bool { return w.off < end && start < w.off+int64(len(w.data)) })
}

// piece is where the bytes of one area come from.
type piece struct {
	source
	file *os.File // or source.bytes
	// What was last found: no data from asked on up to data.
	asked int64
	data  span
}

func (p *piece) off() int64 { return p.region.Offset }
func (p *piece) end() int64 { return p.region.Offset + p.size }

// next returns the range of the content at or behind at that may hold anything but zeros.
func (p *piece) next(at int64) (start, end int64) {
	if p.file == nil {
		return at, p.size
	}
	if at < p.asked || at >= p.data.end {
		s, e := nextData(p.file, p.base+at, p.base+p.size)
		p.asked, p.data = at, span{s - p.base, e - p.base}
	}
	return max(at, p.data.start), p.data.end
}

// read fills b with the content at off; holes become zeros without being read.
func (p *piece) read(b []byte, off int64) error {
	if p.file == nil {
		copy(b, p.bytes[off:])
		return nil
	}
	for len(b) > 0 {
		start, end := p.next(off)
		if hole := min(start-off, int64(len(b))); hole > 0 {
			clear(b[:hole])
			b, off = b[hole:], off+hole
			continue
		}
		n := min(end-off, int64(len(b)))
		if _, err := p.file.ReadAt(b[:n], p.base+off); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("reading %s: %w", p.name(), err)
		}
		b, off = b[n:], off+n
	}
	return nil
}

// imageReader puts an image together in its order.
type imageReader struct {
	size   int64
	pieces []*piece // sorted, none touching another
	tables overlay
}

// openPieces opens all sources.
func openPieces(m *Map, sources []source, tables overlay) (*imageReader, error) {
	r := &imageReader{size: m.Size, tables: tables}
	for _, s := range sources {
		if s.size == 0 {
			continue
		}
		p := &piece{source: s}
		if s.path != "" {
			f, err := s.open()
			if err != nil {
				r.close()
				return nil, err
			}
			p.file = f
		}
		r.pieces = append(r.pieces, p)
	}
	byPlace(r.pieces, (*piece).off)
	return r, nil
}

func (r *imageReader) close() {
	for _, p := range r.pieces {
		if p.file != nil {
			p.file.Close()
		}
	}
}

// unchanged tells whether the sources still are what they were.
func (r *imageReader) unchanged() error {
	for _, p := range r.pieces {
		if p.file != nil {
			if err := p.check(p.file); err != nil {
				return err
			}
		}
	}
	return nil
}

// nextData is the first place from at on that may hold anything but zeros, or the image's end.
func (r *imageReader) nextData(at int64) int64 {
	next := r.size
	for _, w := range r.tables {
		if w.off+int64(len(w.data)) > at {
			next = min(next, max(w.off, at))
		}
	}
	for _, p := range r.pieces {
		if p.end() <= at {
			continue
		}
		if p.off() >= next {
			break
		}
		if start, _ := p.next(max(at-p.off(), 0)); start < p.size {
			return min(next, p.off()+start)
		}
	}
	return next
}

// fill puts the window's bytes into its buffer and looks for blocks of zeros.
func (r *imageReader) fill(w *window) error {
	w.data = w.buf[:w.size]
	end, at := w.off+w.size, w.off
	for _, p := range r.pieces {
		start, stop := max(p.off(), w.off), min(p.end(), end)
		if start >= stop {
			continue
		}
		clear(w.data[at-w.off : start-w.off])
		if err := p.read(w.data[start-w.off:stop-w.off], start-p.off()); err != nil {
			return err
		}
		at = stop
	}
	clear(w.data[at-w.off:])
	for _, t := range r.tables {
		start, stop := max(t.off, w.off), min(t.off+int64(len(t.data)), end)
		if start < stop {
			copy(w.data[start-w.off:], t.data[start-t.off:stop-t.off])
		}
	}
	w.nonzero = 0
	for b := 0; b*blockSize < len(w.data); b++ {
		block := w.data[b*blockSize : min((b+1)*blockSize, len(w.data))]
		if !bytes.Equal(block, zeros[:len(block)]) {
			w.nonzero |= 1 << b
		}
	}
	return nil
}

// stream sends the image to all sinks and waits for them.
func (r *imageReader) stream(ctx context.Context, sinks []sink, report func(int64)) error {
	g, ctx := errgroup.WithContext(ctx)
	queues := make([]chan *window, len(sinks))
	for i, s := range sinks {
		queues[i] = make(chan *window, windowQueue)
		g.Go(func() error { return drain(ctx, queues[i], s) })
	}
	free := make(chan *window, windowPool)
	for range windowPool {
		free <- &window{buf: make([]byte, windowSize), free: free}
	}
	g.Go(func() error {
		for at := int64(0); at < r.size; {
			w, err := r.window(ctx, at, free)
			if err != nil {
				return err
			}
			size := w.size
			w.refs.Store(int32(len(sinks)))
			for _, q := range queues {
				select {
				case q <- w:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			report(size)
			at += size
		}
		// Only here: a sink whose queue is closed finishes its output.
		for _, q := range queues {
			close(q)
		}
		return nil
	})
	return g.Wait()
}

func drain(ctx context.Context, queue chan *window, s sink) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case w, more := <-queue:
			if !more {
				return s.finish()
			}
			if err := s.put(w); err != nil {
				return err
			}
			w.release()
		}
	}
}

// window makes the next one: of data, or of all the zeros up to the next data.
func (r *imageReader) window(ctx context.Context, at int64, free chan *window) (*window, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	next := r.nextData(at)
	if next < r.size {
		next -= next % windowSize
	}
	if next > at {
		return &window{off: at, size: min(next-at, maxZeros)}, nil
	}
	var w *window
	select {
	case w = <-free:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.off, w.size = at, min(windowSize, r.size-at)
	if err := r.fill(w); err != nil {
		return nil, err
	}
	if w.nonzero == 0 {
		free <- w
		return &window{off: at, size: w.size}, nil
	}
	return w, nil
}
