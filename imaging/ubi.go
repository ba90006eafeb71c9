package imaging

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
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
	Volumes []UBIVolume
	Seed    string    // of identifiers
	Epoch   time.Time // of all files in file systems that are made here
}

// UBIVolume is a volume of a [UBI]; its place in the list is its number, ubi0_N.
type UBIVolume struct {
	Name       string
	Size       int64 // bytes, rounded up to logical erase blocks; 0: that of its content
	Static     bool  // read-only, with a checksum of all of it
	Autoresize bool  // grows over the rest of the flash when it is attached for the first time; one volume can
	// Content is one of: the path of an image (UBIFS, squashfs, anything), bytes, a directory to make a UBIFS of, whose files
	// belong to root; or nothing.
	File  string
	Bytes []byte
	Dir   string
}

const (
	ubiMaxVolumes = 128
	ubiMaxName    = 127
	ubiHeader     = 64 // bytes of each of a block's two headers
	ubiOverhead   = 4  // blocks: two for the volume table, one for wear levelling, one for atomic changes
)

// LEB is the size of a logical erase block: what the two headers leave of a physical one.
func (u *UBI) LEB() int64 {
	sub := u.SubPage
	if sub == 0 {
		sub = u.Page
	}
	return u.PEB - alignUp(alignUp(ubiHeader, sub)+ubiHeader, u.Page)
}

func (v UBIVolume) refuse(format string, args ...any) error {
	return &ContentError{Name: v.Name, Reason: fmt.Sprintf(format, args...)}
}

// Check refuses parameters with which a kernel would not attach the image, and volumes that do not fit.
func (u *UBI) Check() error {
	power := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	sub := u.SubPage
	if sub == 0 {
		sub = u.Page
	}
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
	case len(u.Volumes) == 0 || len(u.Volumes) > ubiMaxVolumes:
		return refuse("", "%d volumes; a UBI image has 1 to %d", len(u.Volumes), ubiMaxVolumes)
	}
	return u.checkVolumes()
}

func (u *UBI) checkVolumes() error {
	names := make(map[string]bool)
	autoresize := ""
	used := int64(ubiOverhead)
	if !u.NOR {
		used += (u.Blocks + 1023) / 1024 * 20
	}
	reserved := used
	for _, v := range u.Volumes {
		kinds := 0
		for _, set := range []bool{v.File != "", v.Bytes != nil, v.Dir != ""} {
			if set {
				kinds++
			}
		}
		switch {
		case v.Name == "" || len(v.Name) > ubiMaxName || strings.ContainsFunc(v.Name, func(r rune) bool {
			return !unicode.IsPrint(r) || unicode.IsSpace(r) || r == '=' || r == '#' || r == ';'
		}):
			return v.refuse("a volume's name has 1 to %d characters, none of them a blank, '=', '#' or ';'", ubiMaxName)
		case names[v.Name]:
			return v.refuse("two volumes have that name")
		case kinds > 1:
			return v.refuse("it has more than one of a file, bytes and a directory")
		case v.Size < 0 || v.Size > maxSize:
			return v.refuse("a volume of %d bytes", v.Size)
		case v.Size == 0 && (kinds == 0 || v.Dir != ""):
			return v.refuse("it has no size")
		case v.Static && kinds == 0:
			return v.refuse("a static volume needs a content")
		case v.Static && v.Dir != "":
			return v.refuse("a UBIFS cannot be in a static volume, which is read-only")
		case v.Autoresize && v.Static:
			return v.refuse("a static volume cannot grow")
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
		if v.Size > 0 && size > u.blocks(v.Size)*u.LEB() {
			return &TooLargeError{Area: "volume", Name: v.Name, What: "the content", Need: size, Size: u.blocks(v.Size) * u.LEB()}
		}
		used += u.blocks(max(v.Size, size))
	}
	if u.Blocks > 0 && used > u.Blocks {
		return refuse("make volumes smaller",
			"the volumes need %d blocks, of which UBI keeps %d for itself, but the flash has %d (of %s)", used, reserved, u.Blocks, FormatSize(u.PEB))
	}
	return nil
}

// blocks is the number of logical erase blocks that hold so many bytes.
func (u *UBI) blocks(size int64) int64 { return (size + u.LEB() - 1) / u.LEB() }

func (v UBIVolume) contentSize() (int64, error) {
	if v.File == "" {
		return int64(len(v.Bytes)), nil
	}
	info, err := os.Stat(v.File)
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is not a regular file", v.File)
	}
	return info.Size(), nil
}

// WriteUBI makes the image at path; on any error, and when ctx ends, nothing is left.
func WriteUBI(ctx context.Context, path string, u *UBI) (err error) {
	defer func() {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = &SpaceError{Path: path, Err: err}
		}
	}()
	if err := u.Check(); err != nil {
		return err
	}
	work, remove, err := durable.TempDir(path)
	if err != nil {
		return err
	}
	defer remove()
	if work, err = filepath.Abs(work); err != nil {
		return fmt.Errorf("creating %s: %w", path, err)
	}
	tools := &Image{Epoch: u.Epoch}
	var config strings.Builder
	for i, v := range u.Volumes {
		content, err := u.content(ctx, tools, work, i)
		if err != nil {
			return fmt.Errorf("content of volume %q: %w", v.Name, err)
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
		return err
	}
	sub := u.SubPage
	if sub == 0 {
		sub = u.Page
	}
	// The sequence number tells blocks of one writing from those of another; it must not be random.
	seq := binary.BigEndian.Uint32(identifierBytes(u.Seed, "ubi")) &^ (1 << 31)
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	err = tools.runTool(ctx, work, nil, "ubinize", "-p", number(u.PEB), "-m", number(u.Page), "-s", number(sub),
		"-Q", strconv.FormatUint(uint64(seq), 10), "-o", "image.ubi", "ubi.cfg")
	if err != nil {
		return err
	}
	return publish(ctx, path, filepath.Join(work, "image.ubi"))
}

func identifierBytes(seed string, parts ...string) []byte {
	id := identifier(seed, parts...)
	return id[:]
}

// publish makes a file that a program has written appear under its name.
func publish(ctx context.Context, path, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := durable.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer out.Abort()
	if err := out.Truncate(info.Size()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := copyFile(ctx, out.File, []int64{0}, in, 0, info.Size(), func(int64) {}); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return out.Commit()
}

// content is the path of a volume's content; none is "".
func (u *UBI) content(ctx context.Context, tools *Image, work string, i int) (string, error) {
	v := u.Volumes[i]
	name := filepath.Join(work, fmt.Sprintf("volume%d", i))
	switch {
	case v.File != "":
		// By a name of ours: the configuration has no way to quote one.
		target, err := filepath.Abs(v.File)
		if err != nil {
			return "", err
		}
		return filepath.Base(name), os.Symlink(target, name)
	case v.Bytes != nil:
		return filepath.Base(name), os.WriteFile(name, v.Bytes, 0o600) //nolint:forbidigo // scratch for ubinize
	case v.Dir == "":
		return "", nil
	}
	dir, err := filepath.Abs(v.Dir)
	if err != nil {
		return "", err
	}
	err = tools.runTool(ctx, work, nil, "mkfs.ubifs", "-r", dir, "-m", strconv.FormatInt(max(u.Page, 8), 10), "-e", strconv.FormatInt(u.LEB(), 10),
		"-c", strconv.FormatInt(u.blocks(v.Size), 10), "-U", "-o", filepath.Base(name))
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := normalizeUBIFS(f, u.LEB(), identifierBytes(u.Seed, "ubifs", v.Name), uint64(tools.epochSeconds())); err != nil {
		return "", err
	}
	return filepath.Base(name), f.Close()
}

// Nodes of UBIFS, after the kernel's fs/ubifs/ubifs-media.h.
const (
	ubifsMagic      = 0x06101831
	ubifsHeader     = 24
	ubifsInode      = 0
	ubifsSuperblock = 6
	ubifsTimes      = 56  // in an inode: three of 8 bytes, then three of 4
	ubifsUUID       = 108 // in the superblock
)

// normalizeUBIFS takes out of a UBIFS what mkfs.ubifs takes from chance and the clock: the UUID, and the times of files, of
// which it copies even that of the last change of the inode, which nobody can set.
func normalizeUBIFS(f *os.File, leb int64, id []byte, seconds uint64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	block := make([]byte, leb)
	le := binary.LittleEndian
	for at := int64(0); at < info.Size(); at += leb {
		if n, err := f.ReadAt(block, at); int64(n) < min(leb, info.Size()-at) {
			return err
		}
		changed := false
		for pos := int64(0); pos+ubifsHeader <= leb; {
			if le.Uint32(block[pos:]) != ubifsMagic {
				pos += 8
				continue
			}
			size := int64(le.Uint32(block[pos+16:]))
			if size < ubifsHeader || pos+size > leb {
				return errors.New("mkfs.ubifs has made a node that is none")
			}
			node := block[pos : pos+size]
			switch kind := node[20]; {
			case kind == ubifsSuperblock && size >= ubifsUUID+16:
				copy(node[ubifsUUID:], id)
			case kind == ubifsInode && size >= ubifsTimes+36:
				for i := range 3 {
					le.PutUint64(node[ubifsTimes+8*i:], seconds)
					le.PutUint32(node[ubifsTimes+24+4*i:], 0)
				}
			default:
				pos += alignUp(size, 8)
				continue
			}
			le.PutUint32(node[4:], ^crc32.ChecksumIEEE(node[8:])) // without the usual inversion at the end
			changed = true
			pos += alignUp(size, 8)
		}
		if changed {
			if _, err := f.WriteAt(block[:min(leb, info.Size()-at)], at); err != nil {
				return err
			}
		}
	}
	return nil
}
