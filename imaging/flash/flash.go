// Package flash writes disk images to cards, disks and files so that what it leaves is either the whole image, read back
// and compared, or a device without a partition table, which does not start. An image is read twice: first all of it is
// checked against its checksums and signatures, then it is written.
//
// Where the rules come from: bmap is bmaptool 3.6 (package imaging reads it); which devices are in use is what Linux says
// in /proc/self/mountinfo, /proc/swaps and sysfs (Documentation/ABI/stable/sysfs-block, proc(5)); the ioctls are those of
// linux/fs.h. docs/flashing.md is for users, docs/adr/0011 says why the table comes last and what is discarded.
package flash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/twinkeel/twinkeel/imaging"
)

// Sizes, all in bytes.
const (
	kib = int64(1) << 10
	mib = int64(1) << 20

	// window is what is read, written and compared at a time, at multiples of itself: erase blocks of cards are 4 MiB at
	// most on nearly all, and a write that covers one whole spares the card from copying.
	window = 4 * mib
	// tableArea is what is wiped first and written last at the start of the device, and wiped at its end. A GPT with 128
	// entries has 24 KiB at most; the rest are boot loaders, which should not run as long as there is nothing to start.
	tableArea = mib
)

// Device is what an image is written to. One goroutine at a time uses it.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
	// Sync returns when all that was written is on the medium.
	Sync() error
}

// What a Device may also have.
type (
	// zeroer makes a range read as zeros without sending them. With errUnsupported nothing has changed.
	zeroer interface {
		Zero(offset, size int64) error
	}
	// discarder tells the medium that a range holds nothing. What is read there afterwards is not known.
	discarder interface {
		Discard(offset, size int64) error
	}
	// pacer waits until what was written a little earlier is on the medium, and starts on the range. Without it progress
	// would show how fast the page cache is.
	pacer interface {
		Pace(offset, size int64) error
	}
	// cacheDropper makes the next reads come from the medium.
	cacheDropper interface{ DropCache() error }
	// rereader lets the kernel read the new partition table.
	rereader interface{ Reread() error }
)

var errUnsupported = errors.New("the device does not offer this")

// Phase of a run.
type Phase string

// The phases, in their order. Check is about the image, all others about one target.
const (
	PhaseCheck    Phase = "check"     // the image against its checksums and signatures
	PhaseCompare  Phase = "compare"   // with Delta: the target against the image
	PhasePrepare  Phase = "prepare"   // the old table is wiped, the medium discarded
	PhaseWrite    Phase = "write"     //
	PhaseReadBack Phase = "read back" //
)

// State of a phase.
type State string

// The states.
const (
	StateStarted  State = "started"
	StateProgress State = "progress"
	StateDone     State = "done"
	StateFailed   State = "failed"
)

// Event is what a run tells while it goes on. Done and Total are bytes.
type Event struct {
	Target      string // the path it was named by; "" for the image
	Phase       Phase
	State       State
	Done, Total int64
}

// Options of [Run]. The zero value reads back and writes everything.
type Options struct {
	NoVerify bool // do not read back
	Delta    bool // read first and write only what differs
	// Events may be nil. It is called by several goroutines, one per target.
	Events func(Event)
	// StallTimeout is how long a target may take for one write while others wait for it; then it is given up. 0: two minutes.
	StallTimeout time.Duration
}

const (
	stallTimeout = 2 * time.Minute
	// queue is how many windows a target may lie behind the fastest one: 64 MiB, shared by all targets.
	queue = 16
	// attempts to get a range right: so often it is read again, and so often written again.
	attempts = 3
)

// Target is an opened device and how it is called.
type Target struct {
	Name   string // for messages and events
	Device Device
	// SectorSize is the unit the device writes whole, also when power fails; 0: 512.
	SectorSize int64
}

// Outcome says what a target holds now.
type Outcome string

// The outcomes.
const (
	Untouched Outcome = "untouched" // nothing was written
	NoTable   Outcome = "no table"  // it was begun, has no valid partition table and does not start
	Complete  Outcome = "complete"
	Unknown   Outcome = "unknown" // even the table could not be taken away again
)

// Result is what came of one target.
type Result struct {
	Target  string
	Outcome Outcome
	Err     error // nil: complete
	// Bytes that were written, made zero by the device itself, and left alone as they were right already (Delta).
	Written, Zeroed, Skipped int64
	Verified                 bool // it was read back
	Took                     time.Duration
}

// Run writes a checked image to all targets at once; it is decompressed once. One that fails drops out, the others go on.
// There is a result for each target, in their order. A target that is given up since it does not answer may still be in use
// when Run returns.
func Run(ctx context.Context, img *Image, targets []*Target, o Options) []Result {
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = stallTimeout
	}
	lanes := make([]*lane, len(targets))
	for i, t := range targets {
		lanes[i] = newLane(img, t, o)
	}
	each(lanes, func(l *lane) error { return l.prepare(ctx) })
	feed(ctx, img, lanes, o.StallTimeout)
	each(lanes, func(l *lane) error { return l.finish(ctx) })
	results := make([]Result, len(lanes))
	for i, l := range lanes {
		results[i] = l.result()
	}
	return results
}

// each runs fn for every lane that has not failed, at once, and waits for all that move.
func each(lanes []*lane, fn func(*lane) error) {
	var wg sync.WaitGroup
	for _, l := range lanes {
		if l.failed() != nil {
			continue
		}
		done := make(chan struct{})
		go func() { // waited for below, unless it is given up: nothing can end a write that the kernel does not end
			defer close(done)
			l.check(fn(l))
		}()
		wg.Go(func() { l.await(done, l.o.StallTimeout) })
	}
	wg.Wait()
}

// Range of bytes.
type Range struct {
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
}

// End is the offset of the first byte after the range.
func (r Range) End() int64 { return r.Offset + r.Size }

func (r Range) String() string { return fmt.Sprintf("%d-%d", r.Offset, r.End()-1) }

// VerifyError says that an image, or what was read back from a target, is not what it has to be.
type VerifyError struct {
	What   string  // the file or device
	Reason string  //
	Bad    []Range // of a target: what stays wrong
	Advice string
}

func (e *VerifyError) Error() string { return e.What + ": " + e.Reason }

// Hint says what to do about it.
func (e *VerifyError) Hint() string { return e.Advice }

// TooSmallError says that an image does not fit on a target. Nothing has been written to it.
type TooSmallError struct {
	Target      string
	Need, Size  int64
	AtLeastNeed bool // the image was not unpacked to its end
}

func (e *TooSmallError) Error() string {
	need := imaging.FormatSize(e.Need)
	if e.AtLeastNeed {
		need = "more than " + imaging.FormatSize(e.Need)
	}
	return fmt.Sprintf("%s: the image needs %s, the device has %s", e.Target, need, imaging.FormatSize(e.Size))
}

// Hint says what to do about it.
func (e *TooSmallError) Hint() string {
	return "cards of one nominal size differ by some percent: make the image a little smaller than the smallest"
}
