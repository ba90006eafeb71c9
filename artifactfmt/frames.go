package artifactfmt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
)

// framer takes a stream, cuts it into frames, compresses those on all cores and writes them in order. Hashing, compressing
// and writing overlap with reading. Memory is a fixed number of frames.
//
//	caller --fill--> frame --+--> hash goroutine (in order) --+
//	                         +--> encoder goroutines ---------+--> writer goroutine (in order) --> free frames
type framer struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	free  chan *frame // empty ones
	work  chan *frame // to compress; nil when nothing is compressed
	sums  chan *frame // to hash
	order chan *frame // to write

	current *frame
	zeros   []byte // a frame of holes; never written to, so it takes no memory

	// Set by the writer goroutine, to be read after finish.
	written int64
	sizes   []frameSizes
}

type frame struct {
	in, out []byte // buffers
	data    []byte // the content: in, or zeros that all frames share
	spans   []span
	sum     [sha256.Size]byte // of data, when the codec wants it
	encoded chan error        // one value when out is ready
	hashed  chan struct{}     // one value when the spans are hashed
}

// span is a part of a frame that belongs to a file.
type span struct {
	h        hash.Hash
	from, to int
}

const (
	maxEncoders = 16        // bounds memory on large machines; the source is the bottleneck long before
	maxMemory   = 512 << 20 // for all encoders together, though there is always one
)

func newFramer(ctx context.Context, out io.Writer, c codec, level int) (*framer, error) {
	encoders := 0
	if c.newEncoder != nil {
		encoders = min(runtime.GOMAXPROCS(0), maxEncoders)
	}
	if c.frameMemory > 0 {
		encoders = max(1, min(encoders, maxMemory/c.frameMemory))
	}
	// One being filled, one being hashed or written; of small frames more, so that nobody waits for a core that is taken away.
	frames := encoders + min(max(1, 6<<20/c.frameSize), 8)
	f := &framer{
		free:  make(chan *frame, frames),
		sums:  make(chan *frame, frames),
		order: make(chan *frame, frames),
		zeros: make([]byte, c.frameSize),
	}
	var encode []func(dst, src []byte) ([]byte, error)
	for range encoders {
		e, err := c.newEncoder(level)
		if err != nil {
			return nil, err
		}
		encode = append(encode, e)
	}
	for range frames {
		fr := &frame{in: make([]byte, 0, c.frameSize), encoded: make(chan error, 1), hashed: make(chan struct{}, 1)}
		if encoders > 0 { // room for what does not shrink; memory that stays untouched costs nothing
			fr.out = make([]byte, 0, c.frameSize+c.frameSize/64)
		}
		f.free <- fr
	}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	f.wg.Go(f.hash)
	f.wg.Go(func() { f.write(out) })
	if encoders == 0 {
		return f, nil
	}
	f.work = make(chan *frame, frames)
	for _, e := range encode {
		f.wg.Go(func() { f.encode(e, c.chunkSums) })
	}
	return f, nil
}

// take waits for a frame on a channel; ok is false when there will be none.
func (f *framer) take(from <-chan *frame) (fr *frame, ok bool) {
	select {
	case fr, ok = <-from:
		return fr, ok
	case <-f.ctx.Done():
		return nil, false
	}
}

func (f *framer) hash() {
	for {
		fr, ok := f.take(f.sums)
		if !ok {
			return
		}
		for _, s := range fr.spans {
			s.h.Write(fr.data[s.from:s.to])
		}
		fr.hashed <- struct{}{}
	}
}

func (f *framer) encode(encode func(dst, src []byte) ([]byte, error), sums bool) {
	var zero []byte // a whole frame of zeros, compressed
	var zeroSum [sha256.Size]byte
	for {
		fr, ok := f.take(f.work)
		if !ok {
			return
		}
		var err error
		if len(fr.data) < len(f.zeros) || (&fr.data[0] != &f.zeros[0] && !allZero(fr.data)) {
			fr.out, err = encode(fr.out[:0], fr.data)
			if sums {
				fr.sum = sha256.Sum256(fr.data)
			}
		} else { // a hole of the image; there are many
			if zero == nil {
				zero, err = encode(nil, f.zeros)
				zeroSum = sha256.Sum256(f.zeros)
			}
			fr.out, fr.sum = append(fr.out[:0], zero...), zeroSum
		}
		fr.encoded <- err
	}
}

func (f *framer) write(out io.Writer) {
	for {
		fr, ok := f.take(f.order)
		if !ok {
			return
		}
		data := fr.data
		if f.work != nil {
			select {
			case err := <-fr.encoded:
				if err != nil {
					f.cancel(err)
					return
				}
			case <-f.ctx.Done():
				return
			}
			data = fr.out
		}
		if _, err := out.Write(data); err != nil {
			f.cancel(fmt.Errorf("writing the artifact: %w", err))
			return
		}
		f.written += int64(len(data))
		f.sizes = append(f.sizes, frameSizes{compressed: len(data), plain: len(fr.data), sum: fr.sum})
		select {
		case <-fr.hashed:
		case <-f.ctx.Done():
			return
		}
		f.free <- fr
	}
}

// room returns the current frame, with at least one byte of room.
func (f *framer) room() (*frame, error) {
	if f.current != nil && len(f.current.in) == cap(f.current.in) {
		f.cut()
	}
	if f.current == nil {
		fr, ok := f.take(f.free)
		if !ok {
			return nil, context.Cause(f.ctx)
		}
		fr.in, fr.spans = fr.in[:0], fr.spans[:0]
		f.current = fr
	}
	return f.current, nil
}

// cut ends the current frame, so that what follows begins a new one.
func (f *framer) cut() {
	fr := f.current
	if fr == nil || len(fr.in) == 0 {
		return
	}
	f.current = nil
	fr.data = fr.in
	f.send(fr)
}

// send hands a full frame to all who work on it.
func (f *framer) send(fr *frame) {
	f.sums <- fr // the channels have room for all frames
	f.order <- fr
	if f.work != nil {
		f.work <- fr
	}
}

// add appends bytes that belong to no file.
func (f *framer) add(p []byte) error {
	for len(p) > 0 {
		fr, err := f.room()
		if err != nil {
			return err
		}
		n := min(len(p), cap(fr.in)-len(fr.in))
		fr.in = append(fr.in, p[:n]...)
		p = p[n:]
	}
	return nil
}

// errSize is returned by copy when the source gives fewer or more bytes than it should.
var errSize = errors.New("the file does not have the size that was announced; was it changed meanwhile?")

// errHole is returned by copy when a SparseReader tells of holes that can't be.
var errHole = errors.New("a hole reaches beyond the end of the file; was it changed meanwhile?")

// copy appends exactly size bytes of r and hashes them with h. progress is told about each piece.
func (f *framer) copy(r io.Reader, size int64, h hash.Hash, progress func(n int)) error {
	sparse, _ := r.(SparseReader)
	for left := size; left > 0; {
		if sparse != nil {
			n, err := f.copyHole(sparse, left, h, progress)
			if err != nil {
				return err
			}
			if left -= n; left == 0 {
				break
			}
		}
		fr, err := f.room()
		if err != nil {
			return err
		}
		from := len(fr.in)
		n, err := readPiece(r, fr.in[from:min(int64(cap(fr.in)), int64(from)+left)], sparse != nil)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errSize
		}
		if err != nil {
			return err
		}
		fr.in = fr.in[:from+n]
		fr.spans = append(fr.spans, span{h: h, from: from, to: from + n})
		left -= int64(n)
		progress(n)
	}
	return demandEnd(r, sparse)
}

// readPiece fills p, or of a sparse file what precedes the next hole.
func readPiece(r io.Reader, p []byte, sparse bool) (int, error) {
	if !sparse {
		return io.ReadFull(r, p)
	}
	for range 100 {
		n, err := r.Read(p)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

func demandEnd(r io.Reader, sparse SparseReader) error {
	if sparse != nil {
		if n, err := sparse.Hole(); err != nil {
			return err
		} else if n != 0 {
			return errHole
		}
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n > 0 {
		return errSize
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// copyHole appends the hole at the reader's position, if there is one, and returns its size.
func (f *framer) copyHole(r SparseReader, left int64, h hash.Hash, progress func(n int)) (int64, error) {
	hole, err := r.Hole()
	if err != nil {
		return 0, err
	}
	if hole < 0 || hole > left {
		return 0, errHole
	}
	for rest := hole; rest > 0; {
		fr, err := f.room()
		if err != nil {
			return 0, err
		}
		from := len(fr.in)
		n := int(min(int64(cap(fr.in)-from), rest))
		fr.spans = append(fr.spans, span{h: h, from: from, to: from + n})
		if n == len(f.zeros) { // a whole frame
			f.current = nil
			fr.data = f.zeros
			f.send(fr)
		} else {
			fr.in = fr.in[:from+n]
			clear(fr.in[from:])
		}
		rest -= int64(n)
		progress(n)
	}
	return hole, nil
}

// finish writes what is left and waits for everything. It or stop must be called.
func (f *framer) finish() error {
	f.cut()
	close(f.sums)
	close(f.order)
	if f.work != nil {
		close(f.work)
	}
	f.wg.Wait()
	err := context.Cause(f.ctx)
	f.cancel(nil)
	return err
}

// stop ends everything early.
func (f *framer) stop(err error) {
	f.cancel(err)
	f.wg.Wait()
}

func allZero(p []byte) bool {
	const step = 4 << 10
	for len(p) >= step {
		if string(p[:step]) != zeroStep {
			return false
		}
		p = p[step:]
	}
	return string(p) == zeroStep[:len(p)]
}

var zeroStep = string(make([]byte, 4<<10))
