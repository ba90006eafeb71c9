package artifactfmt

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// unpacker unpacks a payload on several cores, in front of whoever reads it. Frames whose end can be found without unpacking
// them (gzip members that say their size, zstd frames) are unpacked at the same time; whatever else the payload turns out to be
// is unpacked by one goroutine, as it would be without the unpacker. When a frame can't be unpacked, the goroutines end and the
// reader goes on alone from there. So the verdict on odd data, and the error, is the one that there would be without the unpacker.
//
//	source --split--> piece --> worker goroutines --> Read (in order) --> free pieces
//
// Memory is a fixed number of pieces of a fixed size.
type unpacker struct {
	d      *decompressor
	in     *bufio.Reader
	limits Limits
	decode func(p *piece) error

	free  chan *piece
	work  chan *piece
	order chan *piece
	done  chan struct{} // closed by stop
	once  sync.Once
	wg    sync.WaitGroup

	frames   sync.WaitGroup // that are being unpacked
	failed   atomic.Bool    // at least one of them
	tail     []byte         // what split has read behind the last frame, when it ends
	begun    bool           // split has found a frame
	complete bool           // and come to the payload's end

	current *piece
	rest    []byte // of current
	alone   io.Reader
	err     error
}

// piece is a frame, or a part of a payload that isn't one of frames.
type piece struct {
	packed, plain []byte
	size          int        // of plain, as the frame says
	ready         chan error // one value when plain is ready
}

const (
	maxUnpackers  = 8
	maxZstdPiece  = 4 << 20 // what we write
	maxGzipPiece  = 2 << 20
	streamPiece   = 512 << 10
	unpackMemory  = 40 << 20 // for all pieces
	maxZstdHeader = 18
)

// concurrently makes the rest of the payload be unpacked by up to n goroutines, until it ends or close is called.
func (d *decompressor) concurrently(in *bufio.Reader, limits Limits, n int) error {
	n = min(n, maxUnpackers)
	u := &unpacker{d: d, in: in, limits: limits, done: make(chan struct{})}
	pieces := 4 // of a stream
	switch d.compression {
	case Gzip:
		pieces = min(n+2, unpackMemory/(2*maxGzipPiece))
	case Zstd:
		pieces = min(n+2, unpackMemory/(2*maxZstdPiece))
		decode, err := zstdDecoder(n, limits)
		if err != nil {
			return err
		}
		u.decode = decode
	}
	d.source.stop = u.done // a source without frames and end must not keep split from ending
	u.free, u.work, u.order = make(chan *piece, pieces), make(chan *piece, pieces), make(chan *piece, pieces)
	for range pieces {
		u.free <- &piece{ready: make(chan error, 1)}
	}
	u.wg.Go(u.split)
	if d.compression == Gzip || d.compression == Zstd {
		for range min(n, pieces) {
			u.wg.Go(u.unpack)
		}
	}
	d.r, d.ahead = u, u
	return nil
}

// stop ends all goroutines. The source isn't read any more when it returns.
func (u *unpacker) stop() {
	u.once.Do(func() { close(u.done) })
	u.wg.Wait()
}

// take waits for an empty piece; nil when nobody wants more.
func (u *unpacker) take() *piece {
	select {
	case <-u.done:
		return nil
	default:
	}
	select {
	case p := <-u.free:
		return p
	case <-u.done:
		return nil
	}
}

func (u *unpacker) Read(b []byte) (int, error) {
	for len(u.rest) == 0 {
		if u.err != nil {
			return 0, u.err
		}
		if u.alone != nil {
			n, err := u.alone.Read(b)
			u.err = u.explain(err)
			return n, u.err
		}
		if u.current != nil {
			u.free <- u.current
			u.current = nil
		}
		p, ok := <-u.order
		if !ok {
			if u.err = io.EOF; !u.complete {
				u.err = errStopped
			}
			return 0, u.err
		}
		u.current = p
		if u.err = <-p.ready; u.err == errFrame { //nolint:errorlint // nobody wraps it
			u.err = u.goAlone(p)
			continue
		}
		u.rest = p.plain
	}
	n := copy(b, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

// goAlone ends the goroutines and unpacks the rest from a piece on without them.
func (u *unpacker) goAlone(p *piece) error {
	u.stop()
	u.d.source.stop = nil
	rest := []io.Reader{bytes.NewReader(p.packed)}
	for p := range u.order {
		rest = append(rest, bytes.NewReader(p.packed))
	}
	rest = append(rest, bytes.NewReader(u.tail), u.in)
	r, err := u.d.sequential(bufio.NewReaderSize(io.MultiReader(rest...), 32<<10), u.limits)
	u.alone = r
	return u.explain(err)
}

func (u *unpacker) explain(err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // a wrapped one is an error
		return err
	}
	return u.d.explain(err)
}

func (u *unpacker) unpack() {
	decode := u.decode
	if u.d.compression == Gzip {
		decode = gzipDecoder()
	}
	for p := range u.work {
		if cap(p.plain) < p.size {
			p.plain = make([]byte, 0, p.size)
		}
		err := decode(p)
		if err != nil || len(p.plain) != p.size {
			u.failed.Store(true)
			p.plain, err = p.plain[:0], errFrame
		}
		u.frames.Done()
		p.ready <- err
	}
}

var (
	errFrame     = errors.New("a frame can't be unpacked")
	errFrameSize = errors.New("frame: it does not have the size that it says")
	errStopped   = errors.New("the artifact was closed while it was being read")
)

// gzipDecoder unpacks one member: no less and no more than what is there.
func gzipDecoder() func(p *piece) error {
	var z gzip.Reader
	return func(p *piece) error {
		in := bytes.NewReader(p.packed)
		if err := z.Reset(in); err != nil {
			return err
		}
		z.Multistream(false)
		p.plain = p.plain[:p.size]
		if _, err := io.ReadFull(&z, p.plain); err != nil {
			return err
		}
		if n, err := z.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
			if err == nil || n > 0 {
				err = errFrameSize
			}
			return err
		}
		if in.Len() > 0 {
			return errFrameSize
		}
		return nil
	}
}

// split takes the source apart. It alone reads it.
func (u *unpacker) split() {
	defer close(u.order)
	defer close(u.work)
	frame := map[Compression]func(p *piece) (bool, error){Gzip: u.gzipMember, Zstd: u.zstdFrame}[u.d.compression]
	if frame == nil {
		u.stream(nil)
		return
	}
	for {
		p := u.take()
		if p == nil {
			return
		}
		p.packed = p.packed[:0]
		whole, err := frame(p)
		if errors.Is(err, io.EOF) {
			u.complete = true
			return
		}
		if !whole || err != nil {
			u.tail = bytes.Clone(p.packed)
			u.free <- p
			// What stream reads nobody can read again.
			if u.frames.Wait(); !u.failed.Load() {
				u.stream(u.tail)
			}
			return
		}
		u.begun = true
		u.frames.Add(1)
		u.order <- p // the channels have room for all pieces
		u.work <- p
	}
}

// stream unpacks what isn't a sequence of frames that can be found. start are the bytes that were read already.
func (u *unpacker) stream(start []byte) {
	in := u.in
	if len(start) > 0 {
		in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(start), u.in), 32<<10)
	}
	r, err := u.d.sequential(in, u.limits)
	if err != nil {
		if !u.begun { // it is no end when nothing has begun
			err = noEOF(err)
		}
		if p := u.take(); p != nil {
			p.plain = p.plain[:0]
			u.send(p, err)
		}
		return
	}
	for err == nil {
		p := u.take()
		if p == nil {
			return
		}
		if cap(p.plain) < streamPiece {
			p.plain = make([]byte, 0, streamPiece)
		}
		n := 0
		for n < streamPiece && err == nil {
			var k int
			k, err = r.Read(p.plain[n:streamPiece])
			n += k
		}
		p.plain = p.plain[:n]
		u.send(p, err)
	}
}

// send hands over a piece that is not to be unpacked; the last one with an error.
func (u *unpacker) send(p *piece, err error) {
	p.ready <- u.explain(err)
	u.order <- p
}

// zstdFrame reads a frame into a piece; io.EOF when there is none. It goes from block to block, unpacking nothing. whole is false
// when the frame can't be unpacked by itself within the memory there is; then the piece has what was read of it.
func (u *unpacker) zstdFrame(p *piece) (whole bool, err error) {
	var h zstd.Header
	for {
		start, err := u.in.Peek(maxZstdHeader)
		if len(start) == 0 && errors.Is(err, io.EOF) && u.d.source.err == nil {
			return false, io.EOF
		}
		if err := h.Decode(start); err != nil {
			return false, nil // the decoder will say so
		}
		if !h.Skippable {
			break
		}
		skipped := int64(h.HeaderSize) + int64(h.SkippableSize)
		if n, err := io.CopyN(io.Discard, u.in, skipped); err != nil || n != skipped {
			// The rest of it as a frame.
			p.packed = binary.LittleEndian.AppendUint32(p.packed, skippableMin)
			p.packed = binary.LittleEndian.AppendUint32(p.packed, uint32(skipped-n))
			return false, nil
		}
	}
	if !h.HasFCS || h.FrameContentSize > maxZstdPiece || h.DictionaryID != 0 || h.WindowSize > u.limits.ZstdWindow {
		return false, nil
	}
	p.size = int(h.FrameContentSize)
	if err := u.append(p, h.HeaderSize); err != nil {
		return false, err
	}
	for last := false; !last; {
		if err := u.append(p, 3); err != nil {
			return false, nil
		}
		b := p.packed[len(p.packed)-3:]
		block := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
		last = block&1 != 0
		size := block >> 3
		if block>>1&3 == 1 { // one byte, repeated
			size = 1
		}
		if len(p.packed)+size > maxZstdPiece+maxZstdPiece/64 {
			return false, nil
		}
		if err := u.append(p, size); err != nil {
			return false, nil
		}
	}
	if h.HasCheckSum {
		if err := u.append(p, 4); err != nil {
			return false, nil
		}
	}
	return true, nil
}

// gzipMember is zstdFrame for members that say their size.
func (u *unpacker) gzipMember(p *piece) (whole bool, err error) {
	start, err := u.in.Peek(gzipHeaderSize)
	if len(start) == 0 && errors.Is(err, io.EOF) && u.d.source.err == nil {
		return false, io.EOF
	}
	size, ok := gzipMemberSize(start)
	if !ok || size > maxGzipPiece+maxGzipPiece/64 {
		return false, nil
	}
	if err := u.append(p, size); err != nil {
		return false, nil
	}
	plain := binary.LittleEndian.Uint32(p.packed[len(p.packed)-4:])
	if plain > maxGzipPiece {
		return false, nil
	}
	p.size = int(plain)
	// Others may mean something else by the same subfield.
	next, err := u.in.Peek(2)
	return string(next) == "\x1f\x8b" || len(next) == 0 && errors.Is(err, io.EOF), nil
}

// append reads n bytes of the source into the packed form of a piece.
func (u *unpacker) append(p *piece, n int) error {
	at := len(p.packed)
	if need := at + n; need > cap(p.packed) {
		p.packed = append(make([]byte, 0, max(need, min(2*cap(p.packed), maxZstdPiece))), p.packed...)
	}
	k, err := io.ReadFull(u.in, p.packed[at:at+n])
	p.packed = p.packed[:at+k]
	return noEOF(err)
}

// Close ends the goroutines of ReadOptions.Concurrency, if there are any left. A Reader without Concurrency needs no Close.
func (a *Reader) Close() error {
	if a.payload != nil {
		a.payload.close()
	}
	return nil
}

// drain reads the rest of a file, hashing on another core than unpacking.
func (f *PayloadFile) drain() error {
	const size, buffers = 256 << 10, 4
	if !f.concurrent || f.Size < 2*size {
		_, err := io.Copy(io.Discard, f)
		return err
	}
	if f.err != nil {
		if errors.Is(f.err, io.EOF) {
			return nil
		}
		return f.err
	}
	full, free := make(chan []byte, buffers), make(chan []byte, buffers)
	var wg sync.WaitGroup
	wg.Go(func() {
		for b := range full {
			f.hash.Write(b)
			free <- b[:cap(b)]
		}
	})
	for range buffers {
		free <- make([]byte, size)
	}
	var err error
	for err == nil {
		b, n := <-free, 0
		for n < size && err == nil {
			var k int
			k, err = f.member.Read(b[n:])
			n += k
		}
		full <- b[:n]
	}
	close(full)
	wg.Wait()
	if f.err = f.end(err); errors.Is(f.err, io.EOF) {
		return nil
	}
	return f.err
}

// onAllCores makes Verify and Validate, which end what they begin, use the cores there are.
func (o ReadOptions) onAllCores() ReadOptions {
	if o.Concurrency == 0 {
		o.Concurrency = min(runtime.GOMAXPROCS(0), maxUnpackers)
	}
	return o
}
