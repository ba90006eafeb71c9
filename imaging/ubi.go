package imaging

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// UBI is an image for raw NAND or NOR flash, to be written with ubiformat, which keeps the erase counters and skips bad
// blocks. Its format is in the kernel's drivers/mtd/ubi/ubi-media.h; ubinize and mkfs.ubifs of mtd-utils 2.1 make it.
type UBI struct {
	PEB     int64 // physical erase block
	Page    int64 // smallest write; 1 for NOR
	SubPage int64 // smallest write inside a page, where the second header goes; 0: Page
	Blocks  int64 // of the flash; 0: unknown, so whether the volumes fit is not checked
	NOR     bool  // no bad blocks, for which NAND keeps 20 of every 1024 in reserve
	// Compression of the UBIFS that are made here: lzo (default), zlib, zstd or none.
	Compression string
	// SpaceFixup makes a UBIFS repair its free space when it is mounted first, which it needs when whoever writes the flash
	// does not skip empty pages. ubiformat does.
	SpaceFixup bool
	Volumes    []UBIVolume
	Seed       string    // of identifiers
	Epoch      time.Time // no file in a file system that is made here is younger
}

// UBIVolume is a volume of a [UBI]; its place in the list is its number, ubi0_N.
type UBIVolume struct {
	Name       string
	Size       int64  // bytes, rounded up to logical erase blocks; 0: that of its content
	Static     bool   // read-only, with a checksum of all of it
	Autoresize bool   // grows over the rest of the flash when it is attached for the first time; one volume can
	Slot       string // "a" or "b"
	// Filesystem is FilesystemUBIFS, which is made or copied, or empty for what is copied as it is. A UBIFS without content
	// is an empty volume: the kernel makes the file system when it mounts it.
	Filesystem string
	Content    Content
}

// TableUBI is the Table of the [Map] of a [UBI], which no [Layout] has.
const TableUBI = "ubi"

// FormatUBI is what WriteUBI writes.
const FormatUBI = "ubi"

// UBICompressions are the values of [UBI].Compression.
var UBICompressions = []string{"lzo", "zlib", "zstd", "none"}

const (
	ubiMaxVolumes = 128
	ubiMaxName    = 127
	ubiHeader     = 64 // bytes of each of a block's two headers
	ubiOverhead   = 4  // blocks: two for the volume table, one for wear levelling, one for atomic changes

	ubifsMinBlocks = 17   // as mkfs.ubifs wants them
	ubifsMaxBlocks = 1024 // to which a UBIFS may grow on a flash of unknown size, as Mender's images
)

// LEB is the size of a logical erase block: what the two headers leave of a physical one.
func (u *UBI) LEB() int64 {
	sub := cmp.Or(u.SubPage, u.Page)
	return u.PEB - alignUp(alignUp(ubiHeader, sub)+ubiHeader, u.Page)
}

func (v UBIVolume) refuse(format string, args ...any) error {
	return refuse("", "volume %q: %s", v.Name, fmt.Sprintf(format, args...))
}

// Check refuses parameters with which a kernel would not attach the image, and volumes that do not fit.
func (u *UBI) Check() error {
	power := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	sub := cmp.Or(u.SubPage, u.Page)
	switch {
	case !power(u.PEB) || u.PEB < 2*kib || u.PEB > 16*mib:
		return refuse("see /sys/class/mtd/mtdN/erasesize on the device", "erase blocks of %s; a power of two from 2 KiB to 16 MiB is needed", FormatSize(u.PEB))
	case !power(u.Page) || u.Page > 64*kib:
		return refuse("see /sys/class/mtd/mtdN/writesize on the device", "pages of %d bytes; a power of two up to 64 KiB is needed", u.Page)
	case !power(sub) || sub > u.Page:
		return refuse("see /sys/class/mtd/mtdN/subpagesize on the device", "sub-pages of %d bytes in pages of %d", sub, u.Page)
	case u.LEB() < u.PEB/2 || u.LEB() <= 0:
		return refuse("", "erase blocks of %s with pages of %s leave too little behind their headers", FormatSize(u.PEB), FormatSize(u.Page))
	case u.Blocks < 0 || u.Blocks > 1<<32:
		return refuse("", "a flash of %d blocks", u.Blocks)
	case u.Compression != "" && !slices.Contains(UBICompressions, u.Compression):
		return refuse("they are "+strings.Join(UBICompressions, ", "), "UBIFS has no compression %q", u.Compression)
	case len(u.Volumes) == 0 || len(u.Volumes) > ubiMaxVolumes:
		return refuse("", "%d volumes; a UBI image has 1 to %d", len(u.Volumes), ubiMaxVolumes)
	}
	return u.checkVolumes()
}

func (u *UBI) checkVolumes() error {
	names := make(map[string]bool)
	autoresize := ""
	used := u.reserved()
	for _, v := range u.Volumes {
		if err := u.checkVolume(v); err != nil {
			return err
		}
		switch {
		case names[v.Name]:
			return v.refuse("two volumes have that name")
		case v.Autoresize && autoresize != "":
			return v.refuse("the volume %q grows already, and only one can", autoresize)
		}
		names[v.Name] = true
		if v.Autoresize {
			autoresize = v.Name
		}
		size, err := v.contentSize()
		if err != nil {
			return fmt.Errorf("content of %q: %w", v.Name, err)
		}
		if v.Size > 0 && len(v.Content.Bytes) > 0 && size > u.blocks(v.Size)*u.LEB() {
			return &TooLargeError{Area: KindPartition, Name: v.Name, What: "the content", Need: size, Size: u.blocks(v.Size) * u.LEB()}
		}
		used += u.blocks(cmp.Or(v.Size, size))
	}
	if u.Blocks > 0 && used > u.Blocks {
		return refuse("make volumes smaller",
			"the volumes need %d blocks, of which UBI keeps %d for itself, but the flash has %d (of %s)", used, u.reserved(), u.Blocks, FormatSize(u.PEB))
	}
	return nil
}

func (u *UBI) checkVolume(v UBIVolume) error {
	makes := v.makes()
	empty := v.Content.File == "" && v.Content.Bytes == nil && !makes
	switch {
	case v.Name == "" || len(v.Name) > ubiMaxName || strings.ContainsFunc(v.Name, func(r rune) bool {
		return !unicode.IsPrint(r) || unicode.IsSpace(r) || r == '=' || r == '#' || r == ';'
	}):
		return v.refuse("a volume's name has 1 to %d characters, none of them a blank, '=', '#' or ';'", ubiMaxName)
	case v.Filesystem != "" && v.Filesystem != FilesystemUBIFS:
		return v.refuse("%s cannot be in a volume; UBIFS can", v.Filesystem)
	case makes && v.Filesystem == "":
		return v.refuse("files need a file system to be in")
	case v.Content.File != "" && v.Content.Bytes != nil || makes && (v.Content.File != "" || v.Content.Bytes != nil) || v.Content.Dir != "" && v.Content.Tar != "":
		return v.refuse("it has more than one of a file, bytes, a directory, an archive and a tree")
	case v.Size < 0 || v.Size > maxSize:
		return v.refuse("a volume of %d bytes", v.Size)
	case v.Size == 0 && (empty || makes):
		return v.refuse("it has no size")
	case v.Static && empty:
		return v.refuse("a static volume needs a content")
	case v.Static && v.Filesystem != "":
		return v.refuse("a UBIFS cannot be in a static volume, which is read-only")
	case v.Autoresize && v.Static:
		return v.refuse("a static volume cannot grow")
	case v.Filesystem != "" && v.Size > 0 && u.blocks(v.Size) < ubifsMinBlocks:
		return v.refuse("%s are too little for a UBIFS, which needs %d blocks of %d bytes: %s", FormatSize(v.Size), ubifsMinBlocks, u.LEB(), FormatSize(ubifsMinBlocks*u.LEB()))
	}
	return nil
}

// makes tells whether a file system is made of the content.
func (v UBIVolume) makes() bool {
	return v.Content.Dir != "" || v.Content.Tar != "" || v.Content.Tree != nil
}

// reserved are the blocks that UBI keeps for itself and against bad blocks.
func (u *UBI) reserved() int64 {
	if u.NOR {
		return ubiOverhead
	}
	return ubiOverhead + (u.Blocks+1023)/1024*20
}

// Map shows the volumes, numbered from 0, one after another. Where their blocks are on the flash UBI decides, so offsets mean
// nothing there.
func (u *UBI) Map() (*Map, error) {
	if err := u.Check(); err != nil {
		return nil, err
	}
	m := &Map{Table: TableUBI, SectorSize: u.LEB()}
	for i, v := range u.Volumes {
		size, err := v.contentSize()
		if err != nil {
			return nil, fmt.Errorf("content of %q: %w", v.Name, err)
		}
		size = u.blocks(cmp.Or(v.Size, size)) * u.LEB()
		m.Regions = append(m.Regions, Region{
			Kind: KindPartition, Name: v.Name, Number: i, Offset: m.Size, Size: size, Filesystem: cmp.Or(v.Filesystem, FilesystemNone), Slot: v.Slot,
		})
		m.Size += size
	}
	m.Size = max(m.Size, (u.Blocks-u.reserved())*u.LEB())
	return m, nil
}

// blocks is the number of logical erase blocks that hold so many bytes.
func (u *UBI) blocks(size int64) int64 { return (size + u.LEB() - 1) / u.LEB() }

func (v UBIVolume) contentSize() (int64, error) {
	if v.Content.File == "" {
		return int64(len(v.Content.Bytes)), nil
	}
	info, err := os.Stat(v.Content.File)
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is not a regular file", v.Content.File)
	}
	return info.Size(), nil
}

// WriteUBI makes the image at path; on any error, and when ctx ends, nothing is left. The same input gives the same bytes, but
// for two things: mkfs.ubifs takes files in the order in which the directories of the host list them, which is another one on
// another file system, and files with several names in that of their numbers there.
func WriteUBI(ctx context.Context, path string, u *UBI) (res *Result, err error) {
	defer func() {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = &SpaceError{Path: path, Err: err}
		}
	}()
	m, err := u.Map()
	if err != nil {
		return nil, err
	}
	work, remove, err := durable.TempDir(path)
	if err != nil {
		return nil, err
	}
	defer func() { makeRemovable(work); remove() }()
	if work, err = filepath.Abs(work); err != nil {
		return nil, fmt.Errorf("creating %s: %w", path, err)
	}
	tools := &Image{Epoch: u.Epoch}
	var config strings.Builder
	for i, v := range u.Volumes {
		content, err := u.content(ctx, work, m.Regions[i], v)
		if err != nil {
			return nil, err
		}
		kind := "dynamic"
		if v.Static {
			kind = "static"
		}
		fmt.Fprintf(&config, "[v%d]\nmode=ubi\nvol_id=%d\nvol_type=%s\nvol_name=%s\n", i, i, kind, v.Name)
		if content != "" {
			fmt.Fprintf(&config, "image=%s\n", content)
		}
		if v.Size > 0 {
			fmt.Fprintf(&config, "vol_size=%d\n", u.blocks(v.Size)*u.LEB())
		}
		if v.Autoresize {
			config.WriteString("vol_flags=autoresize\n")
		}
	}
	if err := os.WriteFile(filepath.Join(work, "ubi.cfg"), []byte(config.String()), 0o600); err != nil { //nolint:forbidigo // scratch for ubinize
		return nil, err
	}
	// The sequence number tells blocks of one writing from those of another; it must not be random.
	seq := binary.BigEndian.Uint32(identifierBytes(u.Seed, "ubi")) &^ (1 << 31)
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	err = tools.runTool(ctx, work, nil, "ubinize", "-p", number(u.PEB), "-m", number(u.Page), "-s", number(cmp.Or(u.SubPage, u.Page)),
		"-Q", strconv.FormatUint(uint64(seq), 10), "-o", "image.ubi", "ubi.cfg")
	if err != nil {
		return nil, err
	}
	size, sum, err := publish(ctx, path, filepath.Join(work, "image.ubi"))
	if err != nil {
		return nil, err
	}
	return &Result{
		Map: m, Size: size, SHA256: sum, Outputs: []WrittenOutput{{Format: FormatUBI, Path: path, Size: size, SHA256: sum}},
	}, nil
}

func identifierBytes(seed string, parts ...string) []byte {
	id := identifier(seed, parts...)
	return id[:]
}

// publish makes a file that a program has written appear under its name, and returns its size and digest.
func publish(ctx context.Context, path, from string) (int64, string, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, "", err
	}
	defer in.Close()
	out, err := durable.Create(path, 0o644)
	if err != nil {
		return 0, "", err
	}
	defer out.Abort()
	h := sha256.New()
	size, err := io.Copy(io.MultiWriter(out.File, h), contextReader{ctx, in})
	if err != nil {
		return 0, "", fmt.Errorf("writing %s: %w", path, err)
	}
	return size, hex.EncodeToString(h.Sum(nil)), out.Commit()
}

// contextReader stops when its context ends.
type contextReader struct {
	ctx context.Context //nolint:containedctx // of one copy
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// content makes the content of a volume and returns its name below work; of nothing it is "". Names are ours: ubinize's
// configuration has no way to quote one.
func (u *UBI) content(ctx context.Context, work string, r Region, v UBIVolume) (string, error) {
	name := fmt.Sprintf("volume%d", r.Number)
	path := filepath.Join(work, name)
	switch {
	case v.Content.File != "":
		src, err := openFile(&r, 0, v.Content.File) // raw flash has no sectors
		if err != nil {
			return "", err
		}
		if !src.packed {
			target, err := filepath.Abs(v.Content.File)
			if err != nil {
				return "", err
			}
			if err := os.Symlink(target, path); err != nil {
				return "", err
			}
			return name, u.checkUBIFS(v, path)
		}
		out, err := os.Create(path) //nolint:forbidigo // scratch for ubinize
		if err != nil {
			return "", err
		}
		defer out.Close()
		if _, err := src.unpackTo(ctx, out, 0, func(int64) {}); err != nil {
			return "", err
		}
		return name, u.checkUBIFS(v, path)
	case v.Content.Bytes != nil:
		return name, os.WriteFile(path, v.Content.Bytes, 0o600) //nolint:forbidigo // scratch for ubinize
	case !v.makes():
		return "", nil
	}
	return name, u.makeUBIFS(ctx, path, r, v)
}

// ErrUBI says that what was taken for a disk is a UBI image.
var ErrUBI = fmt.Errorf("%w: it is a UBI image for raw flash, which ubiformat writes", ErrNoTable)

// isUBI looks for the header of the first erase block.
func isUBI(r io.ReaderAt, size int64) bool {
	head := make([]byte, 4)
	if size < ubiHeader {
		return false
	}
	_, err := r.ReadAt(head, 0)
	return err == nil && string(head) == "UBI#"
}
