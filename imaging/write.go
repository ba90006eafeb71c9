package imaging

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/agext/levenshtein"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// TooLargeError says that a content does not fit into its area. Nothing has been written then.
type TooLargeError struct {
	Area string // "partition" or "reserve"
	Name string
	What string // the file, or what else it is
	Need int64  // bytes; of a tree the sum of its files, to which the file system adds its own needs
	Size int64  // of the area
	Tree bool
}

func (e *TooLargeError) Error() string {
	if e.Tree {
		return fmt.Sprintf("%s does not fit into %s %q: it holds %s of files, and the %s of the %s must also hold the file system's own tables",
			e.What, e.Area, e.Name, FormatSize(e.Need), FormatSize(e.Size), e.Area)
	}
	return fmt.Sprintf("%s does not fit into %s %q: it has %s, the %s has %s",
		e.What, e.Area, e.Name, FormatSize(e.Need), e.Area, FormatSize(e.Size))
}

// Hint says what to do about it.
func (e *TooLargeError) Hint() string {
	return fmt.Sprintf("give %s %q more room in the layout or put less into it", e.Area, e.Name)
}

// ContentError says that a content cannot go where it was meant to.
type ContentError struct {
	Name   string // of the partition or reserve
	Reason string
	Advice string
}

func (e *ContentError) Error() string { return fmt.Sprintf("content of %q: %s", e.Name, e.Reason) }

// Hint says what to do about it.
func (e *ContentError) Hint() string { return e.Advice }

// SpaceError says that the disk the image is written to is full. Nothing of the image is left on it.
type SpaceError struct {
	Path string
	Err  error
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("writing %s: no space left on the file system of %s", e.Path, filepath.Dir(e.Path))
}

func (e *SpaceError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *SpaceError) Hint() string {
	return "free some space; an image takes about as much as the contents of its partitions"
}

// source is a content that has been looked at: where its bytes are and how many.
type source struct {
	region Region
	sector int64  // of the disk
	path   string // of a file; or
	bytes  []byte
	sha256 string // of the whole content, if the caller knows it
	size   int64
	base   int64       // where the content begins in the file
	info   fs.FileInfo // of the file when it was looked at
	there  bool        // the bytes are in their place of the image already
	part   bool        // of a content that has holes for others
	packed bool        // the file is compressed, and size that of the compressed file
}

// outsideHoles cuts a content into the parts between the holes of its region, which belong to others.
func (s source) outsideHoles() []source {
	if len(s.region.Holes) == 0 {
		return []source{s}
	}
	var parts []source
	for _, at := range s.region.Pieces() {
		from := at.Offset - s.region.Offset
		if from >= s.size {
			break
		}
		part := s
		part.part, part.size = true, min(at.Size, s.size-from)
		part.region.Offset, part.region.Size, part.region.Holes = at.Offset, at.Size, nil
		if s.path == "" {
			part.bytes = s.bytes[from : from+part.size]
		} else {
			part.base += from
		}
		parts = append(parts, part)
	}
	return parts
}

func (s *source) name() string {
	if s.path == "" {
		return fmt.Sprintf("the content of %s %q", s.region.Kind, s.region.Name)
	}
	return s.path
}

func (s *source) open() (*os.File, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	if err := s.check(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// check tells whether the file is still the one that was looked at. A file that changes between two readings of it
// would make digests that are not those of the image.
func (s *source) check(f *os.File) error {
	if s.info == nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, s.info) || info.Size() != s.info.Size() || !info.ModTime().Equal(s.info.ModTime()) {
		return fmt.Errorf("%s has changed while it was used", s.path)
	}
	return nil
}

// Write makes the image at path, and Image.Outputs beside it; without a path there are only those. All input is checked and
// every file system is made before the image is begun. The files then grow under temporary names in their folders, are
// synced and appear under their names all complete or, on any error and when ctx ends, not at all. The result's map is that
// of Image.Map, with the labels and UUIDs of copied file systems.
//
// Each source is read once if only the raw image is made, and not at all where the file system can share blocks; digests
// and outputs come from one pass over the image.
func Write(ctx context.Context, path string, img *Image) (res *Result, err error) {
	outputs := img.Outputs
	if path != "" {
		outputs = append([]Output{{Format: FormatRaw, Path: path}}, outputs...)
	}
	m, err := img.Map()
	if err != nil {
		return nil, err
	}
	if err := checkOutputs(m, outputs); err != nil {
		return nil, err
	}
	path = outputs[0].Path // that errors are about, and beside which there is room
	defer func() {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = &SpaceError{Path: path, Err: err}
		}
	}()
	sources, trees, err := img.survey(ctx, m)
	if err != nil {
		return nil, err
	}
	w := &writer{img: img, m: m, path: path, meter: newMeter(img, m, sources, trees)}
	defer w.cleanup()
	if len(trees) > 0 {
		if err := CheckTools(); err != nil {
			return nil, err
		}
	}
	for _, r := range trees {
		work, err := w.workDir()
		if err != nil {
			return nil, err
		}
		src, err := img.makeFilesystem(ctx, work, r, w.meter.add)
		if err != nil {
			return nil, err
		}
		sources = append(sources, src)
		w.meter.end()
	}
	return w.assemble(ctx, outputs, sources)
}

// writer is one run of Write behind the checks.
type writer struct {
	img    *Image
	m      *Map
	path   string
	meter  *meter
	work   string // made when it is needed
	remove func()
}

// workDir is beside the image: there is room for it, and finished file systems can be cloned instead of copied.
func (w *writer) workDir() (string, error) {
	if w.work != "" {
		return w.work, nil
	}
	dir, remove, err := durable.TempDir(w.path)
	if err != nil {
		return "", err
	}
	w.remove = func() { makeRemovable(dir); remove() }
	if w.work, err = filepath.Abs(dir); err != nil { // the programs run in folders of their own
		return "", fmt.Errorf("creating %s: %w", w.path, err)
	}
	return w.work, nil
}

func (w *writer) cleanup() {
	if w.remove != nil {
		w.remove()
	}
}

func (w *writer) assemble(ctx context.Context, outputs []Output, sources []source) (*Result, error) {
	set, err := createOutputs(outputs)
	if err != nil {
		return nil, err
	}
	defer set.abort()
	if set.raw != nil {
		if err := set.raw.Truncate(w.m.Size); err != nil {
			return nil, fmt.Errorf("writing %s: %w", w.path, err)
		}
	}
	if err := w.unpackAll(ctx, set, sources); err != nil {
		return nil, err
	}
	var tables overlay
	if err := w.m.writeTable(&tables); err != nil {
		return nil, fmt.Errorf("writing %s: %w", w.path, err)
	}
	res := &Result{Map: w.m, Size: w.m.Size}
	if len(outputs) == 1 && set.raw != nil && !w.img.Digests {
		err = w.copyAll(ctx, set.raw.File.File, sources, tables)
	} else {
		err = w.streamAll(ctx, set, sources, tables, res)
	}
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("writing %s: %w", w.path, err)
	}
	if res.Outputs, err = set.written(); err != nil {
		return nil, err
	}
	return res, set.commit()
}

// copyAll makes a raw image and nothing else: every source goes to all its places at once, in no particular order.
func (w *writer) copyAll(ctx context.Context, out *os.File, sources []source, tables overlay) error {
	done := make(map[int]bool)
	for i := range sources {
		s := &sources[i]
		if done[i] || s.there {
			continue
		}
		places := []int64{s.region.Offset}
		for j := i + 1; j < len(sources) && s.path != ""; j++ {
			if other := &sources[j]; other.path == s.path && other.base == s.base && other.size == s.size && !other.there {
				places = append(places, other.region.Offset)
				done[j] = true
			}
		}
		if err := s.copyTo(ctx, out, places, w.meter.add); err != nil {
			return fmt.Errorf("writing %s: %s %q: %w", w.path, s.region.Kind, s.region.Name, err)
		}
	}
	w.meter.end()
	for _, t := range tables {
		if _, err := out.WriteAt(t.data, t.off); err != nil {
			return fmt.Errorf("writing %s: %w", w.path, err)
		}
	}
	return nil
}

func (s *source) copyTo(ctx context.Context, out *os.File, places []int64, report func(int64)) error {
	if s.path == "" {
		return copySparse(ctx, out, s.region.Offset, bytes.NewReader(s.bytes), s.size, report)
	}
	in, err := s.open()
	if err != nil {
		return err
	}
	defer in.Close()
	if err := copyFile(ctx, out, places, in, s.base, s.size, report); err != nil {
		return err
	}
	return s.check(in)
}

// streamAll makes everything that needs the image's bytes in their order, and the raw image on the way.
func (w *writer) streamAll(ctx context.Context, set *outputSet, sources []source, tables overlay, res *Result) error {
	ctx, cancel := context.WithCancel(ctx)
	reader, err := openPieces(w.m, sources, tables)
	if err != nil {
		cancel()
		return fmt.Errorf("writing %s: %w", w.path, err)
	}
	defer reader.close()
	s, err := w.sinks(ctx, set, reader)
	defer s.stop() // after cancel
	defer cancel()
	if err != nil {
		return err
	}
	if err := reader.stream(ctx, s.all, w.meter.add); err != nil {
		if strings.HasPrefix(err.Error(), "writing ") {
			return err
		}
		return fmt.Errorf("writing %s: %w", w.path, err)
	}
	if err := reader.unchanged(); err != nil {
		return fmt.Errorf("writing %s: %w", w.path, err)
	}
	w.meter.end()
	return s.collect(set, res)
}

// sinks are the consumers of one stream.
type sinks struct {
	all    []sink
	named  []*namedSink
	image  *imageDigest  // or
	sparse *sparseDigest // of a large one
	areas  *areaDigests
	bmap   *bmapper
	digest bool
}

func (w *writer) sinks(ctx context.Context, set *outputSet, reader *imageReader) (*sinks, error) {
	s := &sinks{digest: w.img.Digests}
	wants := func(format string) bool {
		return slices.ContainsFunc(set.files, func(f *outputFile) bool { return f.Format == format })
	}
	var must *blockSet
	if wants(FormatBmap) || wants(FormatAndroidSparse) {
		var err error
		if must, err = mustWrite(w.m, reader); err != nil {
			return s, fmt.Errorf("writing %s: %w", w.path, err)
		}
	}
	twins := reader.twins()
	if set.raw != nil {
		s.all = append(s.all, newRawSink(set.raw.File.File, reader))
	}
	if w.img.Digests {
		limit := cmp.Or(w.img.digestLimit, MaxWholeDigest)
		if w.img.WholeDigests {
			limit = math.MaxInt64
		}
		s.areas = newAreaDigests(reader, twins, limit)
		s.all = append(s.all, s.areas)
		if w.m.Size <= limit {
			s.image = newImageDigest()
			s.all = append(s.all, s.image)
		} else {
			s.sparse = newSparseDigest()
			s.all = append(s.all, s.sparse)
		}
	}
	if wants(FormatBmap) {
		s.bmap = newBmapper(w.m, must, twins)
		s.all = append(s.all, s.bmap)
	}
	for _, f := range set.files {
		named, err := f.sinkFor(ctx, w.m.Size, must, w.img.Digests)
		if err != nil {
			return s, err
		}
		if named != nil {
			s.named = append(s.named, named)
			s.all = append(s.all, named)
		}
	}
	return s, nil
}

func (s *sinks) stop() {
	for _, n := range s.named {
		n.stop()
	}
}

// collect puts what the sinks have found into the result and writes the block map.
func (s *sinks) collect(set *outputSet, res *Result) error {
	if s.digest {
		if s.image != nil {
			res.SHA256 = s.image.sum
		} else {
			res.SparseSHA256 = s.sparse.sum
		}
		for _, p := range s.areas.pieces {
			res.Areas = append(res.Areas, AreaDigest{Name: p.region.Name, Size: p.size, SHA256: s.areas.sums[p.off()]})
		}
	}
	for _, f := range set.files {
		if f.Format != FormatBmap {
			continue
		}
		res.Mapped = s.bmap.out.MappedBytes()
		h := sha256.New()
		if _, err := s.bmap.out.WriteTo(io.MultiWriter(f.File, h)); err != nil {
			return fmt.Errorf("writing %s: %w", f.Output.Path, err)
		}
		if s.digest {
			f.sum = hex.EncodeToString(h.Sum(nil))
		}
	}
	return nil
}

// meter turns the steps of a run into one measure of progress. Every step has a part of the total, of which it cannot use
// more, and gets the rest of it when it ends.
type meter struct {
	progress    func(done, total int64)
	steps       []int64
	done, total int64
	used        int64 // of the current step
}

func newMeter(img *Image, m *Map, sources []source, trees []Region) *meter {
	p := &meter{progress: img.Progress}
	last := int64(0)
	for _, r := range trees {
		p.steps = append(p.steps, r.Size)
		last += r.Size
	}
	unpacked := make(map[string]bool)
	for _, s := range sources {
		if s.packed && !unpacked[s.path] {
			unpacked[s.path] = true
			p.steps = append(p.steps, s.region.Size)
		}
		last += min(s.size, s.region.Size)
	}
	if len(img.Outputs) > 0 || img.Digests {
		last = m.Size
	}
	p.steps = append(p.steps, last)
	for _, n := range p.steps {
		p.total += n
	}
	p.add(0)
	return p
}

func (p *meter) add(n int64) {
	n = min(n, p.steps[0]-p.used)
	p.used += n
	p.done += n
	if p.progress != nil {
		p.progress(p.done, p.total)
	}
}

// end is called after each step.
func (p *meter) end() {
	p.add(p.steps[0] - p.used)
	p.steps, p.used = append(p.steps[1:], 0), 0
}

// survey checks every content against its area and returns the ones to copy and the regions whose file system is to be made.
func (img *Image) survey(ctx context.Context, m *Map) (sources []source, trees []Region, err error) {
	for _, name := range slices.Sorted(maps.Keys(img.Contents)) {
		if _, ok := m.Find(name); !ok {
			return nil, nil, unknownArea(m, name)
		}
	}
	for i := range m.Regions {
		r := &m.Regions[i]
		if r.Kind != KindPartition && r.Kind != KindReserve {
			continue
		}
		content, given := img.Contents[r.Name]
		if given {
			if err := content.check(*r); err != nil {
				return nil, nil, err
			}
		}
		switch {
		case img.makes(*r):
			if err := img.checkContent(ctx, *r, content); err != nil {
				return nil, nil, err
			}
			trees = append(trees, *r)
		case content.Bytes != nil:
			if int64(len(content.Bytes)) > r.Size {
				return nil, nil, &TooLargeError{Area: r.Kind, Name: r.Name, What: "the content", Need: int64(len(content.Bytes)), Size: r.Size}
			}
			if r.Kind == KindPartition {
				if err := identify(r, m.SectorSize, "the content", bytes.NewReader(content.Bytes), int64(len(content.Bytes))); err != nil {
					return nil, nil, err
				}
			}
			sources = append(sources, source{region: *r, bytes: content.Bytes, size: int64(len(content.Bytes))}.outsideHoles()...)
		case content.File != "":
			src, err := openFile(r, m.SectorSize, content.File)
			if err != nil {
				return nil, nil, err
			}
			if !src.packed && src.path != "" {
				src.sha256 = content.SHA256
			}
			sources = append(sources, src.outsideHoles()...)
		default:
			r.Filesystem = FilesystemNone // slot B, or raw and without content
			r.Label = ""
		}
	}
	return sources, trees, nil
}

func unknownArea(m *Map, name string) error {
	var names []string
	for _, r := range m.Regions {
		if r.Kind == KindPartition || r.Kind == KindReserve {
			names = append(names, r.Name)
		}
	}
	advice := "the layout has " + strings.Join(names, ", ")
	for _, n := range names {
		if levenshtein.Distance(n, name, nil) <= 2 {
			advice = fmt.Sprintf("did you mean %q?", n)
			break
		}
	}
	return &ContentError{Name: name, Reason: "the layout has no partition or reserve of that name", Advice: advice}
}

// check wants exactly one kind of content, and one that the region can take.
func (c Content) check(r Region) error {
	kinds := 0
	for _, set := range []bool{c.File != "", c.Bytes != nil, c.Dir != "", c.Tar != "", c.Tree != nil && c.Dir == "" && c.Tar == ""} {
		if set {
			kinds++
		}
	}
	tree := c.Tree != nil || c.Dir != "" || c.Tar != ""
	switch {
	case kinds > 1 || tree && (c.File != "" || c.Bytes != nil):
		return &ContentError{Name: r.Name, Reason: "it has more than one of a file, bytes, a directory, an archive and a tree"}
	case c.RootOwned && c.Dir == "" && c.Tar == "":
		return &ContentError{Name: r.Name, Reason: "only a directory or an archive can be given to root as a whole"}
	case tree && r.Kind == KindReserve:
		return &ContentError{Name: r.Name, Reason: "a reserve has no file system to put files into", Advice: "give it the bytes or a file"}
	case tree && r.Filesystem != FilesystemExt4 && r.Filesystem != FilesystemVFAT && r.Filesystem != FilesystemUBIFS:
		return &ContentError{
			Name: r.Name, Reason: fmt.Sprintf("a tree cannot be put into %q; only ext4 and vfat file systems are made here", r.Filesystem),
			Advice: "set the partition's filesystem to ext4 or vfat, or give it a file system image",
		}
	}
	return nil
}

func openFile(r *Region, sector int64, path string) (source, error) {
	f, err := os.Open(path)
	if err != nil {
		return source{}, fmt.Errorf("content of %s %q: %w", r.Kind, r.Name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return source{}, fmt.Errorf("content of %s %q: %w", r.Kind, r.Name, err)
	}
	if !info.Mode().IsRegular() {
		return source{}, &ContentError{Name: r.Name, Reason: path + " is not a regular file"}
	}
	if r.Kind == KindReserve && r.Offset == 0 && r.Size <= bootCodeSize && info.Size() == mbrSize {
		return bootCode(r, path, f)
	}
	src := source{region: *r, sector: sector, path: path, size: info.Size(), info: info}
	if r.Kind == KindPartition {
		if src.packed, err = looksPacked(r, sector, path, f, info.Size()); err != nil {
			return source{}, err
		}
	}
	if !src.packed {
		if src.size > r.Size {
			return source{}, &TooLargeError{Area: r.Kind, Name: r.Name, What: path, Need: info.Size(), Size: r.Size}
		}
		if r.Kind == KindPartition {
			if err := identify(r, sector, path, f, info.Size()); err != nil {
				return source{}, err
			}
		}
	}
	src.region = *r
	return src, nil
}

// bootCode takes the beginning of a first sector, as GRUB's boot.img is one. What stands where the table comes is for floppy
// disks there; grub-install leaves it out, too.
func bootCode(r *Region, path string, f *os.File) (source, error) {
	head := make([]byte, mbrSize)
	if _, err := io.ReadFull(f, head); err != nil {
		return source{}, fmt.Errorf("content of %s %q: %w", r.Kind, r.Name, err)
	}
	if head[510] != 0x55 || head[511] != 0xaa {
		return source{}, &ContentError{Name: r.Name, Reason: fmt.Sprintf("%s has %d bytes and is no boot sector: it does not end with 55 aa", path, mbrSize)}
	}
	if len(bytes.Trim(head[r.Size:bootCodeSize], "\x00")) > 0 {
		return source{}, &TooLargeError{Area: r.Kind, Name: r.Name, What: "the boot code of " + path, Need: bootCodeSize, Size: r.Size}
	}
	return source{region: *r, bytes: head[:r.Size], size: r.Size}, nil
}

// identify compares what a content is with what the layout says about its partition, and completes the region with it.
func identify(r *Region, sector int64, what string, content io.ReaderAt, size int64) error {
	found, err := Probe(content, size)
	if err != nil {
		return fmt.Errorf("content of partition %q: %s: %w", r.Name, what, err)
	}
	if r.Filesystem == FilesystemNone {
		return nil
	}
	switch {
	case found.Compressed != "": // bytes, or what was compressed twice
		return &ContentError{
			Name: r.Name, Reason: fmt.Sprintf("%s is compressed (%s), but the partition wants a %s file system", what, found.Compressed, r.Filesystem),
			Advice: "unpack it first",
		}
	case found.Kind == "":
		return &ContentError{Name: r.Name, Reason: fmt.Sprintf("%s is no file system that is known here, but the partition wants %s", what, r.Filesystem)}
	case found.Kind != r.Filesystem:
		return &ContentError{
			Name: r.Name, Reason: fmt.Sprintf("%s is a %s file system, but the partition wants %s", what, found.Kind, r.Filesystem),
			Advice: fmt.Sprintf("set the partition's filesystem to %q, or give it another file", found.Kind),
		}
	case found.Size > size:
		return &ContentError{
			Name: r.Name, Reason: fmt.Sprintf("%s is truncated: it has %s, but its file system has %s", what, FormatSize(size), FormatSize(found.Size)),
			Advice: "copy or build it again",
		}
	}
	if reason, advice := found.Unfit(sector); reason != "" {
		return &ContentError{Name: r.Name, Reason: fmt.Sprintf("%s: %s", what, reason), Advice: advice}
	}
	r.Label, r.FilesystemUUID = found.Label, found.UUID
	return nil
}

// makeFilesystem makes the region's file system in a file below work, exactly as large as the region.
func (img *Image) makeFilesystem(ctx context.Context, work string, r Region, report func(int64)) (source, error) {
	path := filepath.Join(work, fmt.Sprintf("part%d.img", r.Number))
	stage := filepath.Join(work, fmt.Sprintf("part%d", r.Number))
	if err := os.Mkdir(stage, 0o700); err != nil {
		return source{}, err
	}
	defer func() { makeRemovable(stage); os.RemoveAll(stage) }() // it is as large as what is in the file system
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return source{}, err
	}
	defer f.Close()
	if err := f.Truncate(r.Size); err != nil {
		return source{}, err
	}
	tree, err := img.tree(ctx, filepath.Join(work, fmt.Sprintf("part%d.tar", r.Number)), r, report)
	if err != nil {
		return source{}, err
	}
	maker := img.makeExt4
	if r.Filesystem == FilesystemVFAT {
		maker = img.makeVFAT
	}
	if err := maker(ctx, f, stage, r, tree); err != nil {
		if ctx.Err() != nil {
			return source{}, fmt.Errorf("making the file system of partition %q: %w", r.Name, ctx.Err())
		}
		var tool *ToolError
		if errors.As(err, &tool) && tool.Full() {
			return source{}, &TooLargeError{
				Area: KindPartition, Name: r.Name, What: "the content", Need: treeSize(tree), Size: r.Size, Tree: true,
			}
		}
		return source{}, fmt.Errorf("making the file system of partition %q: %w", r.Name, err)
	}
	return source{region: r, path: path, size: r.Size}, f.Close()
}

// makeRemovable opens directories that a tree made unreadable.
func makeRemovable(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
}
