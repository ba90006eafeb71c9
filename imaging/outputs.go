package imaging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sync/errgroup"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// Formats that an image is written in. The zero bytes of an image cost next to nothing in any of them.
const (
	FormatRaw           = "raw"            // a sparse file
	FormatBmap          = "bmap"           // the block map, 2.0
	FormatGzip          = "gz"             // the raw image, compressed
	FormatXZ            = "xz"             //
	FormatZstd          = "zst"            //
	FormatAndroidSparse = "android-sparse" // for fastboot
	FormatQcow2         = "qcow2"          // version 3, for virtual machines
)

// Output is a file that [Write] makes beside the raw image.
type Output struct {
	Format string
	Path   string
	Level  int // of the compression, as the program of that name has them; 0: its default
}

// WrittenOutput is a file that Write has made.
type WrittenOutput struct {
	Format string `json:"format"`
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"` // with Image.Digests
}

// OutputError says that an output cannot be what it was meant to be. Nothing has been written then.
type OutputError struct {
	Path   string
	Reason string
	Advice string
}

func (e *OutputError) Error() string { return fmt.Sprintf("output %s: %s", e.Path, e.Reason) }

// Hint says what to do about it.
func (e *OutputError) Hint() string { return e.Advice }

// maxLevel is the highest level of each compression; formats without one are not compressed.
var maxLevel = map[string]int{FormatGzip: 9, FormatXZ: 9, FormatZstd: 22}

var formats = []string{FormatRaw, FormatBmap, FormatGzip, FormatXZ, FormatZstd, FormatAndroidSparse, FormatQcow2}

// checkOutputs refuses what cannot be made from an image after the map m.
func checkOutputs(m *Map, outputs []Output) error {
	if len(outputs) == 0 {
		return &OutputError{Path: `""`, Reason: "an image without a path and without outputs", Advice: "give it a path or an output"}
	}
	seen := make(map[string]string)
	for _, o := range outputs {
		bad := func(advice, format string, args ...any) error {
			return &OutputError{Path: o.Path, Reason: fmt.Sprintf(format, args...), Advice: advice}
		}
		other, twice := seen[o.Path]
		seen[o.Path] = o.Format
		switch {
		case !slices.Contains(formats, o.Format):
			return bad("formats are "+strings.Join(formats, ", "), "unknown format %q", o.Format)
		case o.Path == "":
			return bad("", "the %s output has no path", o.Format)
		case twice:
			return bad("give each its own file", "it would be both %s and %s", other, o.Format)
		case o.Level < 0 || o.Level > maxLevel[o.Format]:
			return bad("", "%s has no level %d", o.Format, o.Level)
		case o.Format == FormatAndroidSparse && m.Size/blockSize > 1<<32-1, o.Format == FormatQcow2 && m.Size > maxQcow2:
			return bad("use another format", "%s cannot describe a disk of %s", o.Format, FormatSize(m.Size))
		case o.Format == FormatAndroidSparse && m.Size%blockSize != 0:
			return bad("set an alignment of 4 KiB or more in the layout",
				"an Android sparse image consists of blocks of 4096 bytes, but the disk has %s", FormatSize(m.Size))
		}
	}
	return nil
}

// outputFile is one output while it is being written.
type outputFile struct {
	Output
	*durable.File
	sum string
}

// outputSet is all of them: they get their names together, when all are complete.
type outputSet struct {
	files []*outputFile
	raw   *outputFile
}

func createOutputs(outputs []Output) (*outputSet, error) {
	set := &outputSet{}
	for _, o := range outputs {
		f, err := durable.Create(o.Path, 0o644)
		if err != nil {
			set.abort()
			return nil, err
		}
		out := &outputFile{Output: o, File: f}
		set.files = append(set.files, out)
		if o.Format == FormatRaw {
			set.raw = out
		}
	}
	return set, nil
}

func (s *outputSet) abort() {
	for _, f := range s.files {
		f.Abort()
	}
}

// commit names the files. What can fail for want of space or for a bad medium comes before the first name; a block map comes
// after the image it describes, since an old one beside a new image is found out by its checksums, and so is the reverse.
func (s *outputSet) commit() error {
	if len(s.files) > 1 {
		for _, f := range s.files {
			if err := durable.Sync(f.File.File); err != nil {
				return err
			}
		}
	}
	files := slices.Clone(s.files)
	slices.SortStableFunc(files, func(a, b *outputFile) int {
		rank := map[string]int{FormatBmap: 1}
		return rank[a.Format] - rank[b.Format]
	})
	for _, f := range files {
		if err := f.Commit(); err != nil {
			return err
		}
	}
	return nil
}

// written describes the outputs but for the raw image.
func (s *outputSet) written() ([]WrittenOutput, error) {
	var list []WrittenOutput
	for _, f := range s.files {
		if f.Format == FormatRaw {
			continue
		}
		info, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", f.Output.Path, err)
		}
		list = append(list, WrittenOutput{Format: f.Format, Path: f.Output.Path, Size: info.Size(), SHA256: f.sum})
	}
	return list, nil
}

// sinkFor makes what writes an output; nil for the raw image and the block map.
func (f *outputFile) sinkFor(ctx context.Context, size int64, must *blockSet, digest bool) (*namedSink, error) {
	var s sink
	var err error
	switch f.Format {
	case FormatGzip, FormatXZ, FormatZstd:
		s, err = newCompressor(ctx, f, size, digest)
	case FormatAndroidSparse:
		s = newAndroidSparse(f.File.File, size, must)
	case FormatQcow2:
		s = newQcow2(f.File.File, size)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", f.Output.Path, err)
	}
	return &namedSink{sink: s, f: f, ctx: ctx, digest: digest && maxLevel[f.Format] == 0}, nil
}

// namedSink adds the output's name to errors, and the digest of those whose heads are written last.
type namedSink struct {
	sink
	f      *outputFile
	ctx    context.Context //nolint:containedctx // lives as long as the stream
	digest bool
}

// stop waits for what the sink has started, after ctx has ended.
func (s *namedSink) stop() {
	if c, ok := s.sink.(*compressor); ok {
		c.stop()
	}
}

func (s *namedSink) put(w *window) error { return s.named(s.sink.put(w)) }

func (s *namedSink) finish() error {
	if err := s.sink.finish(); err != nil || !s.digest {
		return s.named(err)
	}
	h := sha256.New()
	if err := copyContext(s.ctx, h, io.NewSectionReader(s.f, 0, maxSize)); err != nil {
		return s.named(err)
	}
	s.f.sum = hex.EncodeToString(h.Sum(nil))
	return nil
}

func (s *namedSink) named(err error) error {
	if err != nil {
		return fmt.Errorf("writing %s: %w", s.f.Output.Path, err)
	}
	return nil
}

func copyContext(ctx context.Context, w io.Writer, r io.Reader) error {
	buf := make([]byte, copyChunk)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// rawSink fills the raw image from the stream, but for what is there already.
type rawSink struct {
	out   *os.File
	there []span // sorted
}

// newRawSink shares blocks with the sources where the file system can, so that only the rest is written.
func newRawSink(out *os.File, r *imageReader) *rawSink {
	s := &rawSink{out: out}
	for _, p := range r.pieces {
		if p.there || p.file != nil && !r.tables.touches(p.off(), p.end()) && cloneWhole(out, p.off(), p.file, p.base, p.size) {
			s.there = append(s.there, span{p.off(), p.end()})
		}
	}
	return s
}

func (s *rawSink) put(w *window) error {
	if w.data == nil {
		return nil
	}
	return runs(w.nonzero, w.off, w.size, func(start, end int64, set bool) error {
		for set && start < end {
			for len(s.there) > 0 && s.there[0].end <= start {
				s.there = s.there[1:]
			}
			stop := end
			if len(s.there) > 0 && s.there[0].start < end {
				if stop = s.there[0].start; stop <= start {
					start = min(end, s.there[0].end)
					continue
				}
			}
			if _, err := s.out.WriteAt(w.slice(start, stop), start); err != nil {
				return err
			}
			start = stop
		}
		return nil
	})
}

func (s *rawSink) finish() error { return nil }

// A compressed image is a sequence of frames (gzip members, xz streams, zstd frames), each made from a fixed number of
// bytes and from nothing else, as in artifacts (ADR 0001). So all cores can work on it, the result does not depend on how many
// there are, and frames of zeros alone are compressed once. Every reader takes such sequences.
var frameSizes = map[string]int64{FormatGzip: 1 << 20, FormatZstd: 1 << 20, FormatXZ: 8 << 20}

// maxCompressors bounds memory: each takes about four frames of gzip or zstd, ten of xz.
const maxCompressors = 8

type compressor struct {
	ctx      context.Context //nolint:containedctx // of its goroutines
	g        *errgroup.Group
	encoders chan func(src []byte) ([]byte, error) // those that are idle
	order    chan *frame
	size     int64 // of the image
	frame    int64
	at       int64
	current  *frame
	free     chan []byte
	zero     chan []byte // holds the frame of zeros, once there is one
}

// frame is a part of the image on its way to the file.
type frame struct {
	in    []byte
	zeros int64 // so many, when in is nil
	out   []byte
	done  chan struct{}
}

func newCompressor(ctx context.Context, f *outputFile, size int64, digest bool) (*compressor, error) {
	workers := min(maxCompressors, runtime.GOMAXPROCS(0))
	if f.Format == FormatXZ {
		workers = min(workers, 2)
	}
	c := &compressor{size: size, frame: frameSizes[f.Format], zero: make(chan []byte, 1)}
	if f.Format == FormatXZ && f.Level > 0 {
		c.frame = xzDictionary(f.Level)
	}
	c.g, c.ctx = errgroup.WithContext(ctx)
	c.encoders, c.free = make(chan func([]byte) ([]byte, error), workers), make(chan []byte, workers+1)
	c.order = make(chan *frame, workers)
	for range workers {
		encode, err := newEncoder(f.Format, f.Level)
		if err != nil {
			return nil, err
		}
		c.encoders <- encode
	}
	for range workers + 1 {
		c.free <- nil
	}
	c.zero <- nil
	c.g.Go(func() error { return c.write(f, digest) })
	return c, nil
}

func (c *compressor) put(w *window) error {
	for off := w.off; off < w.off+w.size; {
		if c.current == nil {
			if err := c.begin(off); err != nil {
				return err
			}
		}
		end := min(w.off+w.size, c.at+c.frame, c.size)
		if f := c.current; w.data == nil && f.in == nil {
			f.zeros += end - off
		} else {
			if f.in == nil {
				if err := c.fill(f); err != nil {
					return err
				}
			}
			_ = w.each(off, end, func(b []byte) error { f.in = append(f.in, b...); return nil })
		}
		if off = end; off == min(c.at+c.frame, c.size) {
			if err := c.send(); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin starts the frame at off, which has no bytes of its own as long as there are only zeros.
func (c *compressor) begin(off int64) error {
	c.at, c.current = off, &frame{done: make(chan struct{})}
	if c.ctx.Err() != nil {
		return c.failure()
	}
	return nil
}

// fill gives a frame that began with zeros a buffer.
func (c *compressor) fill(f *frame) error {
	select {
	case f.in = <-c.free:
	case <-c.ctx.Done():
		return c.failure()
	}
	if f.in == nil {
		f.in = make([]byte, 0, c.frame)
	}
	f.in = f.in[:f.zeros]
	clear(f.in)
	f.zeros = 0
	return nil
}

// send hands the frame over to an idle encoder, and to the writer, which wants them in order.
func (c *compressor) send() error {
	f := c.current
	c.current = nil
	select {
	case c.order <- f:
	case <-c.ctx.Done():
		return c.failure()
	}
	select {
	case encode := <-c.encoders:
		c.g.Go(func() error {
			defer func() { close(f.done); c.encoders <- encode }()
			return c.encode(f, encode)
		})
	case <-c.ctx.Done():
		return c.failure()
	}
	return nil
}

// encode compresses a frame. A whole one of zeros is only compressed the first time.
func (c *compressor) encode(f *frame, encode func([]byte) ([]byte, error)) (err error) {
	if f.in != nil {
		f.out, err = encode(f.in)
		c.free <- f.in[:0]
		return err
	}
	if f.zeros < c.frame {
		f.out, err = encode(make([]byte, f.zeros))
		return err
	}
	known := <-c.zero
	if known == nil {
		known, err = encode(make([]byte, f.zeros))
	}
	f.out = known
	c.zero <- known
	return err
}

// failure is why the others ended.
func (c *compressor) failure() error {
	if err := c.g.Wait(); err != nil {
		return err
	}
	return c.ctx.Err()
}

func (c *compressor) write(out *outputFile, digest bool) error {
	var w io.Writer = out.File
	var h hash.Hash
	if digest {
		h = sha256.New()
		w = io.MultiWriter(out.File, h)
	}
	for {
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case f, more := <-c.order:
			if !more {
				if h != nil {
					out.sum = hex.EncodeToString(h.Sum(nil))
				}
				return nil
			}
			select {
			case <-f.done:
			case <-c.ctx.Done():
				return c.ctx.Err()
			}
			if _, err := w.Write(f.out); err != nil {
				return err
			}
		}
	}
}

func (c *compressor) finish() error {
	close(c.order)
	return c.g.Wait()
}

// stop waits for the goroutines of a compressor whose ctx has ended.
func (c *compressor) stop() { _ = c.g.Wait() }

// newEncoder returns a function that makes one frame. It is used by one goroutine at a time.
func newEncoder(format string, level int) (func(src []byte) ([]byte, error), error) {
	switch format {
	case FormatGzip:
		if level == 0 {
			level = 6
		}
		w, err := gzip.NewWriterLevel(nil, level)
		if err != nil {
			return nil, err
		}
		return func(src []byte) ([]byte, error) {
			var b bytes.Buffer
			w.Reset(&b) // also makes the member's header one without name, time and system
			if _, err := w.Write(src); err != nil {
				return nil, err
			}
			err := w.Close()
			return b.Bytes(), err
		}, nil
	case FormatZstd:
		if level == 0 {
			level = 3
		}
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(int(frameSizes[FormatZstd])), zstd.WithEncoderCRC(true))
		if err != nil {
			return nil, err
		}
		return func(src []byte) ([]byte, error) { return e.EncodeAll(src, nil), nil }, nil
	}
	config := xz.WriterConfig{DictCap: int(xzDictionary(level)), CheckSum: xz.CRC64}
	return func(src []byte) ([]byte, error) {
		var b bytes.Buffer
		w, err := config.NewWriter(&b)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(src); err != nil {
			return nil, err
		}
		err = w.Close()
		// A writer cannot be used again and takes six times the dictionary; left to itself the heap would hold several.
		runtime.GC()
		return b.Bytes(), err
	}, nil
}

// xzDictionary is the size of dictionary and frame at a level of xz(1); 0 is the default.
func xzDictionary(level int) int64 {
	return [10]int64{8, 1, 2, 4, 4, 8, 8, 16, 32, 64}[level] << 20
}
