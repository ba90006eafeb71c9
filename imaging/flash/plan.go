package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/unpack"
)

const (
	// zeroGrain is the smallest run of zeros that is looked for. Smaller ones would make many small writes of a few large.
	zeroGrain = 256 * kib
	// maxPieces bounds the memory of a plan, to 200 MiB; an image of 16 TiB without zeros stays below.
	maxPieces = 4 << 20
	// maxBadRanges is how many are listed in a message.
	maxBadRanges = 20
)

// piece is a part of the image that lies in one window and is written at once.
type piece struct {
	off  int64
	n    int32
	zero bool // nothing but zeros
	held bool // written last: it has a part of the table
	sum  [sha256.Size]byte
}

func (p piece) rng() Range { return Range{p.off, int64(p.n)} }

// plan says what has to be on a target.
type plan struct {
	size   int64
	pieces []piece // by offset
	bytes  int64   // of all pieces
	held   map[int64][]byte
}

// data are the pieces that are not held, those with zeros or the others.
func (p *plan) data(zero bool) []piece {
	var out []piece
	for _, one := range p.pieces {
		if !one.held && one.zero == zero {
			out = append(out, one)
		}
	}
	return out
}

// last are the pieces that are written last, the table's start at the end.
func (p *plan) last() []piece {
	var out []piece
	for _, one := range slices.Backward(p.pieces) {
		if one.held {
			out = append(out, one)
		}
	}
	return out
}

// Check reads the whole image and compares it with all that there is: its SHA-256, its signature, the block map's checksums and
// what the block map leaves out, which has to be zeros. It also learns what is written. An image that unpacks to more than
// limit bytes is refused with a [*TooSmallError]; 0 is no limit.
func (m *Image) Check(ctx context.Context, limit int64, events func(Event)) error {
	if limit <= 0 || limit > maxImage {
		limit = maxImage
	}
	if events == nil {
		events = func(Event) {}
	}
	if m.Size > limit {
		return &TooSmallError{Need: m.Size, Size: limit}
	}
	events(Event{Phase: PhaseCheck, State: StateStarted, Total: m.fileSize})
	if err := m.check(ctx, limit, events); err != nil {
		events(Event{Phase: PhaseCheck, State: StateFailed})
		return err
	}
	events(Event{Phase: PhaseCheck, State: StateDone, Done: m.fileSize, Total: m.fileSize})
	return nil
}

func (m *Image) check(ctx context.Context, limit int64, events func(Event)) error {
	fileHash := sha256.New()
	file := &progressReader{ctx: ctx, r: io.TeeReader(io.NewSectionReader(m.file, 0, m.fileSize), fileHash)}
	stream, _, err := m.streamThrough(file, limit)
	if err != nil {
		return err
	}
	defer stream.Close()
	c := newChecker(m)
	err = windows(ctx, stream, func(off int64, data []byte) error {
		events(Event{Phase: PhaseCheck, State: StateProgress, Done: file.done.Load(), Total: m.fileSize})
		return c.window(off, data)
	})
	var large *unpack.TooLargeError
	switch {
	case errors.As(err, &large):
		return &TooSmallError{Need: limit, Size: limit, AtLeastNeed: true}
	case err != nil:
		return m.streamError(err)
	}
	if err := c.end(); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, file); err != nil { // what a decoder did not need, so that the digest has all
		return m.streamError(err)
	}
	m.Size, m.plan = c.size, &c.plan
	m.SHA256, m.FileSHA256 = hex.EncodeToString(c.whole.Sum(nil)), hex.EncodeToString(fileHash.Sum(nil))
	if m.Map != nil && m.Map.Size < m.Size {
		m.Map.Size = m.Size
	}
	if m.wantSum != "" && m.wantSum != m.FileSHA256 {
		return &VerifyError{
			What: m.Path, Reason: fmt.Sprintf("its SHA-256 is %s; %s says %s", m.FileSHA256, m.sumFrom, m.wantSum),
			Advice: "get it again from where it came from",
		}
	}
	return m.checkSignatures([sha256.Size]byte(fileHash.Sum(nil)))
}

// windows calls fn for every window of a stream while the next one is read.
func windows(ctx context.Context, r io.Reader, fn func(off int64, data []byte) error) error {
	type read struct {
		data []byte
		err  error
	}
	full, free := make(chan read), make(chan []byte, 2)
	free <- make([]byte, window)
	free <- make([]byte, window)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for {
			var buf []byte
			select {
			case buf = <-free:
			case <-ctx.Done():
				return
			}
			n, err := io.ReadFull(r, buf)
			select {
			case full <- read{buf[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	for off := int64(0); ; {
		var got read
		select {
		case got = <-full:
		case <-ctx.Done():
			return ctx.Err()
		}
		if len(got.data) > 0 {
			if err := fn(off, got.data); err != nil {
				return err
			}
			off += int64(len(got.data))
		}
		switch {
		case errors.Is(got.err, io.EOF), errors.Is(got.err, io.ErrUnexpectedEOF) && isShort(got.err):
			return nil
		case got.err != nil:
			return got.err
		}
		free <- got.data[:window]
	}
}

// isShort tells io.ReadFull's own error, the last window, from a stream that was cut off, whose error is wrapped.
func isShort(err error) bool { return err == io.ErrUnexpectedEOF } //nolint:errorlint // identity is what tells

// checker compares an image with its block map and makes the plan.
type checker struct {
	img    *Image
	whole  hash.Hash
	size   int64
	cover  []Range // what is to be written; nil: everything
	ranges []imaging.BmapRange
	hash   hash.Hash // of ranges[0], as far as it was read
	holes  []Range   // what the block map leaves out
	plan   plan
	tail   []heldTail
}

// heldTail is a piece that may turn out to be in the last tableArea bytes.
type heldTail struct {
	index int
	data  []byte
}

func newChecker(m *Image) *checker {
	c := &checker{img: m, whole: sha256.New(), plan: plan{held: make(map[int64][]byte)}}
	if m.bmap == nil {
		return c
	}
	c.ranges, c.hash = m.bmap.Ranges, m.bmap.NewHash()
	var mapped []Range
	for _, r := range m.bmap.Ranges {
		off, size := m.bmap.Extent(r)
		mapped = append(mapped, Range{off, size})
	}
	mapped = union(mapped)
	c.holes = complement(mapped, m.bmap.ImageSize)
	c.cover = union(append(mapped, mustMap(m.Map, m.bmap.ImageSize, m.bmap.BlockSize)...))
	return c
}

func (c *checker) window(off int64, data []byte) error {
	var wg sync.WaitGroup
	wg.Go(func() { c.whole.Write(data) })
	defer wg.Wait()
	c.size = off + int64(len(data))
	if b := c.img.bmap; b != nil {
		if c.size > b.ImageSize {
			return c.wrongSize("more than ", b.ImageSize)
		}
		if err := c.checkRanges(off, data); err != nil {
			return err
		}
		if err := c.checkHoles(off, data); err != nil {
			return err
		}
	}
	return c.addPieces(off, data)
}

func (c *checker) wrongSize(more string, size int64) error {
	return &VerifyError{
		What: c.img.Path, Reason: fmt.Sprintf("it has %s%s; its block map is for one of %s", more, imaging.FormatSize(size), imaging.FormatSize(c.img.bmap.ImageSize)),
		Advice: "get both again from where they came from, or write everything with --no-bmap",
	}
}

// checkRanges compares the ranges that end in this window with their checksums.
func (c *checker) checkRanges(off int64, data []byte) error {
	b := c.img.bmap
	for len(c.ranges) > 0 {
		start, size := b.Extent(c.ranges[0])
		part := Range{start, size}.within(off, int64(len(data)))
		if part.Size == 0 {
			return nil // further behind
		}
		if c.hash != nil {
			c.hash.Write(data[part.Offset-off:][:part.Size])
		}
		if part.End() < start+size {
			return nil
		}
		if c.hash != nil {
			got := hex.EncodeToString(c.hash.Sum(nil))
			c.hash.Reset()
			if want := c.ranges[0].Checksum; want != "" && got != want {
				return &VerifyError{
					What: c.img.Path, Reason: fmt.Sprintf("the bytes %s do not have the checksum that %s gives for them", Range{start, size}, c.img.BmapPath),
					Advice: "the image is damaged or the block map is of another one: get both again from where they came from",
				}
			}
		}
		c.ranges = c.ranges[1:]
	}
	return nil
}

// checkHoles looks that the block map leaves out nothing but zeros.
func (c *checker) checkHoles(off int64, data []byte) error {
	for len(c.holes) > 0 {
		part := c.holes[0].within(off, int64(len(data)))
		if part.Size > 0 && !imaging.AllZeros(data[part.Offset-off:][:part.Size]) {
			return &VerifyError{
				What: c.img.BmapPath, Reason: fmt.Sprintf("it leaves out the bytes %s, which are not zeros in %s", part, c.img.Path),
				Advice: "the block map is of another image: make it again, or write everything with --no-bmap",
			}
		}
		if c.holes[0].End() > off+int64(len(data)) {
			return nil
		}
		c.holes = c.holes[1:]
	}
	return nil
}

// addPieces cuts what is to be written in this window into runs with and without zeros.
func (c *checker) addPieces(off int64, data []byte) error {
	whole := Range{off, int64(len(data))}
	parts := []Range{whole}
	if c.img.bmap != nil {
		parts = nil
		for len(c.cover) > 0 {
			if part := c.cover[0].within(whole.Offset, whole.Size); part.Size > 0 {
				parts = append(parts, part)
			}
			if c.cover[0].End() > whole.End() {
				break
			}
			c.cover = c.cover[1:]
		}
	}
	first := len(c.plan.pieces)
	for _, part := range parts {
		for at := part.Offset; at < part.End(); {
			run := Range{at, min((at/zeroGrain+1)*zeroGrain, part.End()) - at}
			zero := imaging.AllZeros(data[run.Offset-off:][:run.Size])
			c.join(piece{off: at, n: int32(run.Size), zero: zero, held: !zero && at < tableArea}, first)
			at = run.End()
		}
	}
	if len(c.plan.pieces) > maxPieces {
		return &ImageError{Path: c.img.Path, Reason: "it has too many separate ranges", Advice: "write everything with --no-bmap"}
	}
	for i := first; i < len(c.plan.pieces); i++ {
		p := &c.plan.pieces[i]
		content := data[p.off-off:][:p.n]
		c.plan.bytes += int64(p.n)
		if p.sum = zeroSum(p, content); p.held {
			c.plan.held[p.off] = bytes.Clone(content)
		} else if !p.zero {
			c.keepTail(i, content)
		}
	}
	return nil
}

// join adds a run to the piece before it if both are of a kind.
func (c *checker) join(p piece, first int) {
	if n := len(c.plan.pieces); n > first {
		last := &c.plan.pieces[n-1]
		if last.zero == p.zero && last.held == p.held && last.rng().End() == p.off {
			last.n += p.n
			return
		}
	}
	c.plan.pieces = append(c.plan.pieces, p)
}

var zeroWindow = sync.OnceValue(func() [sha256.Size]byte { return sha256.Sum256(make([]byte, window)) })

func zeroSum(p *piece, content []byte) [sha256.Size]byte {
	if p.zero && int64(p.n) == window {
		return zeroWindow()
	}
	return sha256.Sum256(content)
}

// keepTail remembers the last pieces with data, until it is known which of them are in the last tableArea bytes.
func (c *checker) keepTail(index int, content []byte) {
	c.tail = slices.DeleteFunc(c.tail, func(t heldTail) bool {
		return c.plan.pieces[t.index].rng().End() <= c.size-window-tableArea
	})
	c.tail = append(c.tail, heldTail{index, bytes.Clone(content)})
}

// end checks what can only be checked at the end, and holds the backup table back.
func (c *checker) end() error {
	if b := c.img.bmap; b != nil && c.size != b.ImageSize {
		return c.wrongSize("", c.size)
	}
	for _, t := range c.tail {
		if p := &c.plan.pieces[t.index]; p.rng().End() > c.size-tableArea {
			p.held = true
			c.plan.held[p.off] = t.data
		}
	}
	c.tail, c.plan.size = nil, c.size
	slices.SortFunc(c.plan.pieces, byOffset)
	return nil
}

// pieceStream calls fn for every one of the wanted pieces, which are sorted. An uncompressed image is read only there. What
// fn gets is its own. Content that has changed since the check is an error.
func (m *Image) pieceStream(ctx context.Context, wanted []piece, fn func(p piece, data []byte) error) error {
	deliver := func(p piece, data []byte) error {
		if sha256.Sum256(data) != p.sum {
			return &VerifyError{What: m.Path, Reason: fmt.Sprintf("the bytes %s have changed since the image was checked", p.rng()), Advice: "leave the file alone while it is flashed, and check the disk it is on"}
		}
		return fn(p, data)
	}
	if m.Format == unpack.None {
		for _, p := range wanted {
			if err := ctx.Err(); err != nil {
				return err
			}
			data := make([]byte, p.n)
			if _, err := m.file.ReadAt(data, p.off); err != nil {
				return fileError(m.Path, err)
			}
			if err := deliver(p, data); err != nil {
				return err
			}
		}
		return nil
	}
	stream, _, err := m.stream(m.plan.size)
	if err != nil {
		return err
	}
	defer stream.Close()
	err = windows(ctx, stream, func(off int64, data []byte) error {
		for len(wanted) > 0 && wanted[0].off < off+int64(len(data)) {
			p := wanted[0]
			if p.rng().End() > off+int64(len(data)) {
				break // the image has become shorter: said below
			}
			if err := deliver(p, bytes.Clone(data[p.off-off:][:p.n])); err != nil {
				return err
			}
			wanted = wanted[1:]
		}
		if len(wanted) == 0 {
			return errAllRead
		}
		return nil
	})
	switch {
	case errors.Is(err, errAllRead):
		return nil
	case err != nil:
		return m.streamError(err)
	case len(wanted) > 0:
		return &VerifyError{What: m.Path, Reason: "it has become shorter since it was checked"}
	}
	return nil
}

var errAllRead = errors.New("all that is wanted was read")
