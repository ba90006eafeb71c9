package flash

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twinkeel/twinkeel/imaging"
)

// DeviceError says what a target did not do.
type DeviceError struct {
	Target string
	Doing  string
	Err    error
}

func (e *DeviceError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Target, e.Doing, e.Err) }
func (e *DeviceError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *DeviceError) Hint() string {
	for _, h := range []struct {
		is     []error
		advice string
	}{
		{goneErrors, "the device has gone: check its cable, its reader and its power"},
		{brokenErrors, "the medium is worn out or badly connected: see dmesg, and try another one"},
		{[]error{syscall.ENOSPC}, "free some space, or take a larger device"},
		{[]error{syscall.EROFS, syscall.EPERM, syscall.EACCES}, "it is write-protected: look for a switch on the card or its adapter"},
		{[]error{errStalled}, "take it out: the medium or its reader is broken"},
	} {
		for _, one := range h.is {
			if errors.Is(e.Err, one) {
				return h.advice
			}
		}
	}
	return ""
}

var errStalled = errors.New("it does not answer any more")

// lane is one target on its way.
type lane struct {
	img    *Image
	target *Target
	dev    Device
	o      Options
	begun  time.Time
	took   time.Duration

	todo     []piece // what is written of the pieces that are not held and not zero, in order
	readback []piece // what is read back

	in   chan chunk
	gone chan struct{} // closed when the lane takes no more

	// moves counts writes, for whoever waits for them.
	moves, written, zeroed, skipped atomic.Int64

	mu       sync.Mutex
	err      error
	outcome  Outcome
	verified bool
}

type chunk struct {
	p    piece
	data []byte
}

func newLane(img *Image, t *Target, o Options) *lane {
	return &lane{
		img: img, target: t, dev: t.Device, o: o, begun: time.Now(), outcome: Untouched,
		in: make(chan chunk, queue), gone: make(chan struct{}),
	}
}

func (l *lane) event(p Phase, s State, done, total int64) {
	l.o.Events(Event{Target: l.target.Name, Phase: p, State: s, Done: done, Total: total})
}

func (l *lane) deviceError(doing string, err error) error {
	return &DeviceError{l.target.Name, doing, err}
}

// check ends the lane if err is one. Only the first counts.
func (l *lane) check(err error) {
	if err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err, l.took = err, time.Since(l.begun)
		close(l.gone)
	}
}

func (l *lane) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *lane) set(o Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil { // one that was given up stays as it was then
		l.outcome = o
	}
}

func (l *lane) result() Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := l.took
	if took == 0 {
		took = time.Since(l.begun)
	}
	return Result{
		Target: l.target.Name, Outcome: l.outcome, Err: l.err, Took: took, Verified: l.verified,
		Written: l.written.Load(), Zeroed: l.zeroed.Load(), Skipped: l.skipped.Load(),
	}
}

// phase runs a part of the work between its events.
func (l *lane) phase(p Phase, total int64, fn func(progress func(done int64)) error) error {
	l.event(p, StateStarted, 0, total)
	err := fn(func(done int64) { l.event(p, StateProgress, done, total) })
	if err != nil {
		l.event(p, StateFailed, 0, total)
		return err
	}
	l.event(p, StateDone, total, total)
	return nil
}

func (l *lane) write(data []byte, off int64) error {
	if err := l.failed(); err != nil {
		return err // given up: what comes late must not change what was reported
	}
	if _, err := l.dev.WriteAt(data, off); err != nil {
		return l.deviceError("writing at "+imaging.FormatSize(off), err)
	}
	l.written.Add(int64(len(data)))
	l.moves.Add(1)
	return nil
}

func (l *lane) sync() error {
	if err := l.dev.Sync(); err != nil {
		return l.deviceError("writing", err)
	}
	l.moves.Add(1)
	return nil
}

// prepare decides what is to be written. Then it wipes the old table, before anything else is touched: from here on, until
// the new table is written, the device has none.
func (l *lane) prepare(ctx context.Context) error {
	size := l.dev.Size()
	if size < l.img.plan.size {
		return &TooSmallError{Target: l.target.Name, Need: l.img.plan.size, Size: size}
	}
	zero := l.img.plan.data(true)
	l.todo, l.readback = l.img.plan.data(false), l.img.plan.pieces
	if l.o.Delta {
		different, err := l.compare(ctx)
		if err != nil || len(different) == 0 {
			l.todo, l.readback = nil, nil
			return err
		}
		zero = l.keepRight(different)
	}
	total := int64(0)
	for _, p := range zero {
		total += int64(p.n)
	}
	return l.phase(PhasePrepare, total, func(progress func(int64)) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.set(NoTable)
		if err := l.wipe(); err != nil {
			return err
		}
		if !l.o.Delta {
			l.discard(ctx)
		}
		return l.zero(ctx, zero, progress)
	})
}

// keepRight leaves out what is on the target already, but for what wipe takes away. It returns the pieces to be zeroed.
func (l *lane) keepRight(different []piece) (zero []piece) {
	wrong := make(map[int64]bool, len(different))
	for _, p := range different {
		wrong[p.off] = true
	}
	l.todo, l.readback = nil, nil
	for _, p := range l.img.plan.pieces {
		wiped := p.off < tableArea || p.rng().End() > l.dev.Size()-tableArea
		if !wrong[p.off] && !wiped && !p.held {
			continue
		}
		l.readback = append(l.readback, p)
		switch {
		case p.held: // finish writes all of these
		case p.zero:
			zero = append(zero, p)
		default:
			l.todo = append(l.todo, p)
		}
	}
	return zero
}

// wipe takes the table away, at the end of the device first: a crash between the two leaves the old system with its
// primary table, and nothing of it was touched yet.
func (l *lane) wipe() error {
	size := l.dev.Size()
	head := min(tableArea, size)
	tail := min(tableArea, size-head)
	for _, r := range []Range{{size - tail, tail}, {0, head}} {
		if r.Size == 0 {
			continue
		}
		if err := l.write(make([]byte, r.Size), r.Offset); err != nil {
			return err
		}
		if err := l.sync(); err != nil {
			return err
		}
	}
	return nil
}

func byOffset(a, b piece) int { return cmp.Compare(a.off, b.off) }

// discard tells the medium that all of it is free, which makes cards fast again. It is only a hint: what is read there
// afterwards is not known, and an error of it means nothing.
func (l *lane) discard(ctx context.Context) {
	d, ok := l.dev.(discarder)
	end := l.dev.Size() - tableArea
	for at := tableArea; ok && at < end && ctx.Err() == nil; at += zeroStep {
		ok = d.Discard(at, min(zeroStep, end-at)) == nil
		l.moves.Add(1)
	}
}

// zero makes pieces of zeros, and all that the image leaves out as well where that costs nothing.
func (l *lane) zero(ctx context.Context, pieces []piece, progress func(int64)) error {
	ranges := make([]Range, 0, len(pieces))
	for _, p := range pieces {
		ranges = append(ranges, p.rng())
	}
	ranges = union(ranges)
	if z, ok := l.dev.(zeroer); ok {
		if !l.o.Delta {
			var all []Range
			for _, p := range l.img.plan.pieces {
				if !p.zero {
					all = append(all, p.rng())
				}
			}
			ranges = complement(union(all), l.img.plan.size)
		}
		left, err := l.offload(ctx, z, ranges)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		// Only what has to be zero is worth being sent.
		ranges = nil
		for _, p := range pieces {
			for _, r := range left {
				ranges = append(ranges, r.within(p.off, int64(p.n)))
			}
		}
		ranges = union(ranges)
	}
	done := int64(0)
	blank := make([]byte, window)
	for _, r := range ranges {
		for at := r.Offset; at < r.End(); {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min((at/window+1)*window, r.End()) - at
			if err := l.write(blank[:n], at); err != nil {
				return err
			}
			if err := l.pace(at, n); err != nil {
				return err
			}
			at, done = at+n, done+n
			progress(done)
		}
	}
	return nil
}

// zeroStep is how much is zeroed between two looks whether the run was interrupted.
const zeroStep = 1 << 30

// offload zeroes whole blocks of ranges and returns what is left to be written: the ends, or everything from where the device
// does not do it.
func (l *lane) offload(ctx context.Context, z zeroer, ranges []Range) (left []Range, err error) {
	const block = 4096 // the largest logical sector
	for i, r := range ranges {
		start, end := (r.Offset+block-1)/block*block, r.End()/block*block
		if start >= end {
			left = append(left, r)
			continue
		}
		left = append(left, Range{r.Offset, start - r.Offset}, Range{end, r.End() - end})
		for at := start; at < end; {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			n := min(zeroStep, end-at)
			err := z.Zero(at, n)
			if errors.Is(err, errUnsupported) {
				left = append(left, Range{at, end - at})
				return union(append(left, ranges[i+1:]...)), nil
			}
			if err != nil {
				return nil, l.deviceError("zeroing at "+imaging.FormatSize(at), err)
			}
			l.zeroed.Add(n)
			l.moves.Add(1)
			at += n
		}
	}
	return union(left), nil
}

func (l *lane) pace(off, n int64) error {
	if p, ok := l.dev.(pacer); ok {
		if err := p.Pace(off, n); err != nil {
			return l.deviceError("writing at "+imaging.FormatSize(off), err)
		}
	}
	return nil
}

// compare reads the target and returns the pieces that are not on it.
func (l *lane) compare(ctx context.Context) (different []piece, err error) {
	p := l.img.plan
	err = l.phase(PhaseCompare, p.bytes, func(progress func(int64)) error {
		different, err = l.wrong(ctx, p.pieces, progress)
		return err
	})
	if err != nil {
		return nil, err
	}
	skipped := p.bytes
	for _, d := range different {
		skipped -= int64(d.n)
	}
	l.skipped.Store(skipped)
	if len(different) == 0 {
		l.set(Complete)
		l.mu.Lock()
		l.verified = true
		l.mu.Unlock()
	}
	return different, nil
}

// wrong reads pieces from the target and returns those that are not what they have to be, or cannot be read.
func (l *lane) wrong(ctx context.Context, pieces []piece, progress func(int64)) ([]piece, error) {
	var bad []piece
	buf := make([]byte, window)
	done := int64(0)
	for _, p := range pieces {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		data := buf[:p.n]
		_, err := l.dev.ReadAt(data, p.off)
		switch {
		case isGone(err):
			return nil, l.deviceError("reading at "+imaging.FormatSize(p.off), err)
		case err != nil && !errors.Is(err, io.EOF), sha256.Sum256(data) != p.sum:
			bad = append(bad, p)
		}
		done += int64(p.n)
		l.moves.Add(1)
		progress(done)
	}
	return bad, nil
}

func isGone(err error) bool {
	return slices.ContainsFunc(goneErrors, func(gone error) bool { return errors.Is(err, gone) })
}

// feed reads the image once and hands its pieces to every lane that wants them. A lane may lie behind by the length of its
// queue; the slowest then sets the pace, until it does not move at all for the timeout.
func feed(ctx context.Context, img *Image, lanes []*lane, timeout time.Duration) {
	var wanted []piece
	var running []*lane
	for _, l := range lanes {
		if l.failed() == nil && len(l.todo) > 0 {
			running = append(running, l)
			wanted = append(wanted, l.todo...)
		}
	}
	if len(running) == 0 {
		return
	}
	slices.SortFunc(wanted, byOffset)
	wanted = slices.CompactFunc(wanted, func(a, b piece) bool { return a.off == b.off })
	done := make([]chan struct{}, len(running))
	for i, l := range running {
		done[i] = make(chan struct{})
		go func() { // waited for below, unless it is given up: nothing can end a write that the kernel does not end
			defer close(done[i])
			l.check(l.phase(PhaseWrite, sum(l.todo), l.take))
		}()
	}
	next := make([]int, len(running))
	err := img.pieceStream(ctx, wanted, func(p piece, data []byte) error {
		alive := false
		for i, l := range running {
			if next[i] == len(l.todo) || l.todo[next[i]].off != p.off {
				alive = alive || l.failed() == nil
				continue
			}
			next[i]++
			if l.failed() == nil && l.offer(ctx, chunk{p, data}, timeout) {
				alive = true
			}
		}
		if !alive {
			return errAllFailed
		}
		return ctx.Err()
	})
	for _, l := range running {
		if err != nil && !errors.Is(err, errAllFailed) {
			l.check(err)
		}
		close(l.in)
	}
	for i, l := range running {
		l.await(done[i], timeout)
	}
}

var errAllFailed = errors.New("no target is left")

func sum(pieces []piece) (n int64) {
	for _, p := range pieces {
		n += int64(p.n)
	}
	return n
}

// offer gives a chunk to the lane, or gives the lane up.
func (l *lane) offer(ctx context.Context, c chunk, timeout time.Duration) bool {
	for {
		before := l.moves.Load()
		timer := time.NewTimer(timeout)
		select {
		case l.in <- c:
			timer.Stop()
			return true
		case <-l.gone:
			timer.Stop()
			return false
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
			if l.moves.Load() == before {
				l.check(l.deviceError("writing", errStalled))
				return false
			}
		}
	}
}

// await waits until the lane has written all it was given.
func (l *lane) await(done <-chan struct{}, timeout time.Duration) {
	for {
		before := l.moves.Load()
		timer := time.NewTimer(timeout)
		select {
		case <-done:
			timer.Stop()
			return
		case <-timer.C:
			select {
			case <-done: // both at once
				return
			default:
			}
			if l.moves.Load() == before {
				l.check(l.deviceError("writing", errStalled))
				return
			}
		}
	}
}

// take writes what it is given. After an error, of its own or from outside, it only empties the queue.
func (l *lane) take(progress func(int64)) error {
	done := int64(0)
	var first error
	for c := range l.in {
		if first == nil {
			first = l.failed()
		}
		if first != nil {
			continue
		}
		if first = l.put(c); first != nil {
			l.check(first)
			continue
		}
		done += int64(c.p.n)
		progress(done)
	}
	if first == nil {
		first = l.failed()
	}
	return first
}

func (l *lane) put(c chunk) error {
	if err := l.write(c.data, c.p.off); err != nil {
		return err
	}
	return l.pace(c.p.off, int64(c.p.n))
}

// finish reads back what was written and only then writes the table.
func (l *lane) finish(ctx context.Context) error {
	if l.result().Outcome != NoTable {
		return nil // with Delta: all was right
	}
	if err := l.sync(); err != nil {
		return err
	}
	held := l.img.plan.last()
	rest := slices.DeleteFunc(slices.Clone(l.readback), func(p piece) bool { return p.held })
	if err := l.verify(ctx, rest, sum(rest)+sum(held), 0, l.rewrite); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	l.set(Unknown) // until it is complete, or wiped again
	err := l.commit(held)
	if err == nil {
		err = l.verify(ctx, held, sum(rest)+sum(held), sum(rest), func(context.Context, []piece) error { return l.commit(held) })
	}
	if err != nil {
		if l.wipeNew() == nil {
			l.set(NoTable)
		}
		return err
	}
	l.set(Complete)
	if !l.o.NoVerify {
		l.event(PhaseReadBack, StateDone, sum(rest)+sum(held), sum(rest)+sum(held))
		l.mu.Lock()
		l.verified = true
		l.mu.Unlock()
	}
	if r, ok := l.dev.(rereader); ok {
		// The image is complete; that the kernel still knows the old partitions is cured by plugging the device in again.
		_ = r.Reread()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = time.Since(l.begun)
	return nil
}

// commit writes the held pieces, the table's backup first. The first sector comes last and by itself: without it neither
// Linux nor a boot loader looks for a table, and the device writes it whole or not at all.
func (l *lane) commit(held []piece) error {
	sector := max(l.target.SectorSize, 512)
	for _, p := range held {
		data := l.img.plan.held[p.off]
		if p.off == 0 {
			n := min(sector, int64(len(data)))
			if rest := data[n:]; len(rest) > 0 {
				if err := l.write(rest, n); err != nil {
					return err
				}
				if err := l.sync(); err != nil {
					return err
				}
			}
			data = data[:n]
		}
		if err := l.write(data, p.off); err != nil {
			return err
		}
		if err := l.sync(); err != nil {
			return err
		}
	}
	return nil
}

// wipeNew takes away a new table that turned out to be bad, with its backup at the end of the image.
func (l *lane) wipeNew() error {
	if err := l.wipe(); err != nil {
		return err
	}
	end := l.img.plan.size
	tail := min(tableArea, end)
	if err := l.write(make([]byte, tail), end-tail); err != nil {
		return err
	}
	return l.sync()
}

// verify reads pieces back; those that are wrong are read again, then written again by rewrite, so often as it makes sense.
// The phase has total bytes, of which from are done already; the event of its end is left to finish.
func (l *lane) verify(ctx context.Context, pieces []piece, total, from int64, rewrite func(context.Context, []piece) error) error {
	if l.o.NoVerify {
		return nil
	}
	if from == 0 {
		l.event(PhaseReadBack, StateStarted, 0, total)
	}
	progress := func(done int64) { l.event(PhaseReadBack, StateProgress, from+done, total) }
	bad, err := l.readBack(ctx, pieces, progress)
	for try := 0; err == nil && len(bad) > 0 && try < attempts; try++ {
		if err = rewrite(ctx, bad); err == nil {
			bad, err = l.readBack(ctx, bad, func(int64) {})
		}
	}
	if err == nil && len(bad) > 0 {
		err = l.badRanges(bad)
	}
	if err != nil {
		l.event(PhaseReadBack, StateFailed, 0, total)
	}
	return err
}

// readBack returns the pieces that are wrong on the medium, each read several times.
func (l *lane) readBack(ctx context.Context, pieces []piece, progress func(int64)) (bad []piece, err error) {
	bad = pieces
	for range attempts {
		if d, ok := l.dev.(cacheDropper); ok {
			if err := d.DropCache(); err != nil {
				return nil, l.deviceError("reading back", err)
			}
		}
		if bad, err = l.wrong(ctx, bad, progress); err != nil || len(bad) == 0 {
			return nil, err
		}
		progress = func(int64) {}
	}
	return bad, nil
}

// rewrite writes pieces again.
func (l *lane) rewrite(ctx context.Context, bad []piece) error {
	err := l.img.pieceStream(ctx, bad, func(p piece, data []byte) error { return l.write(data, p.off) })
	if err != nil {
		var device *DeviceError
		if errors.As(err, &device) && !isGone(err) {
			return l.badRanges(bad) // what cannot be read back cannot be written either: say where
		}
		return err
	}
	return l.sync()
}

func (l *lane) badRanges(bad []piece) error {
	var ranges []Range
	for _, p := range bad {
		ranges = append(ranges, p.rng())
	}
	ranges = union(ranges)
	var list []string
	for _, r := range ranges[:min(len(ranges), maxBadRanges)] {
		list = append(list, r.String())
	}
	if more := len(ranges) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return &VerifyError{
		What: l.target.Name, Reason: "what was written cannot be read back, in the bytes " + strings.Join(list, ", "), Bad: ranges,
		Advice: "the medium is worn out, badly connected or smaller than it says: do not use it",
	}
}
