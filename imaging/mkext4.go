package imaging

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// mke2fsConfig replaces the host's /etc/mke2fs.conf, which would otherwise have a say in the bytes of the image.
//
// There is no metadata_csum: with it a superblock of which a power cut let only one of its two sectors through cannot
// be mounted before e2fsck has repaired it, because the checksum is looked at before the journal. And no 64bit, which only
// file systems above 16 TiB need and old boot loaders cannot read.
const mke2fsConfig = `[defaults]
	base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal,extent,huge_file,flex_bg,dir_nlink,extra_isize
	}
`

// smallExt4 is the size below which blocks of 1 KiB waste less.
const smallExt4 = 32 * mib

// ext4Block is the block size of a new file system. The kernel mounts none whose blocks are smaller than the disk's sectors.
func ext4Block(size, sector int64) int64 {
	if size < smallExt4 && sector <= kib {
		return kib
	}
	return 4 * kib
}

// makeExt4 makes an ext4 file system in f, filled with the tree. mke2fs reads the tree from a staging directory, where
// everything belongs to the caller; normalize then sets types, owners, modes and times inside the file system.
func (img *Image) makeExt4(ctx context.Context, f *os.File, dir string, r Region, tree []TreeFile) error {
	if err := stage(ctx, dir, tree); err != nil {
		return err
	}
	config := f.Name() + ".conf"
	if err := os.WriteFile(config, []byte(mke2fsConfig), 0o600); err != nil { //nolint:forbidigo // scratch for mke2fs, removed with its folder
		return err
	}
	block := ext4Block(r.Size, img.sector())
	ratio := 16384 // bytes for each inode
	if r.Size < smallExt4 {
		ratio = 4096
	}
	seed := identifier(img.Seed, "hash-seed", r.Name).String()
	args := []string{
		"-q", "-F", "-t", "ext4", "-b", strconv.FormatInt(block, 10), "-i", strconv.Itoa(ratio), "-m", "1", "-U", r.FilesystemUUID,
		"-E", "hash_seed=" + seed + ",lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,no_copy_xattrs", "-d", dir,
	}
	if r.Label != "" {
		args = append(args, "-L", r.Label)
	}
	// 1.47.0 knows its own variable for the time, later versions SOURCE_DATE_EPOCH. Zero would mean "now" to it.
	env := []string{"MKE2FS_CONFIG=" + config, "E2FSPROGS_FAKE_TIME=" + strconv.FormatInt(max(img.epochSeconds(), 1), 10)}
	if err := img.runTool(ctx, filepath.Dir(f.Name()), env, "mke2fs", append(args, f.Name())...); err != nil {
		return err
	}
	numbers, err := img.normalize(f, r, tree)
	if err != nil {
		return err
	}
	if err := img.setXattrs(ctx, f, tree, numbers); err != nil {
		return err
	}
	return img.normalizeSuper(f)
}

// normalize sets in every inode what mke2fs took from the staging directory and the clock: type, owner, mode and times.
// It can write inodes as they are because they carry no checksum. The numbers of the inodes are returned by path.
func (img *Image) normalize(f *os.File, r Region, tree []TreeFile) (map[string]uint32, error) {
	e, err := OpenExt4(f, 0, r.Size)
	if err != nil {
		return nil, err
	}
	// The reserved inodes (journal, resize) only have times; the ones in between are not in use.
	for n := uint32(1); n < 11 && n <= e.inodes; n++ {
		if n != ext4RootInode {
			if err := e.setInode(f, n, nil, img.fileSeconds(time.Time{})); err != nil {
				return nil, err
			}
		}
	}
	numbers := map[string]uint32{".": ext4RootInode}
	entries := make(map[string]map[string]uint32) // of directories
	tree = append([]TreeFile{tree[0], {Path: "lost+found", Mode: fs.ModeDir | 0o700}}, tree[1:]...)
	for _, t := range tree { // parents come before what is in them
		dir := path.Dir(t.Path)
		if t.Path != "." {
			if entries[dir] == nil {
				if entries[dir], err = e.entriesOf(numbers[dir]); err != nil {
					return nil, err
				}
			}
			n, found := entries[dir][path.Base(t.Path)]
			if !found {
				return nil, fmt.Errorf("%q is not in the file system just made", t.Path)
			}
			numbers[t.Path] = n
		}
		if t.HardLink != "" {
			continue // the inode is that of the first name
		}
		if err := e.setInode(f, numbers[t.Path], &t, img.fileSeconds(t.Time)); err != nil {
			return nil, err
		}
		if direntType(t.Mode) != 0 {
			if err := e.setDirentType(f, numbers[dir], path.Base(t.Path), direntType(t.Mode)); err != nil {
				return nil, err
			}
		}
	}
	return numbers, nil
}

// fileSeconds clamps the time of a file: none is younger than the image.
func (img *Image) fileSeconds(t time.Time) uint32 {
	if t.IsZero() {
		return uint32(img.epochSeconds())
	}
	return uint32(min(max(t.Unix(), 0), img.epochSeconds()))
}

func (e *Ext4) entriesOf(number uint32) (map[string]uint32, error) {
	in, err := e.inode(number)
	if err != nil {
		return nil, err
	}
	entries, _, err := e.readDir(in)
	return entries, err
}

// normalizeSuper takes what mke2fs and debugfs took from the clock and the processor out of the superblock.
func (img *Image) normalizeSuper(f *os.File) error {
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return err
	}
	le := binary.LittleEndian
	if le.Uint32(super[0x64:])&ext4ROMetadataSum != 0 {
		return errors.New("mke2fs has made checksums it was told not to make")
	}
	// The kind of directory hash follows the signedness of the host's char; no directory is hashed yet.
	le.PutUint32(super[0x160:], 1)
	for _, field := range []int{0x2c, 0x30, 0x40, 0x108} { // s_mtime, s_wtime, s_lastcheck, s_mkfs_time
		if le.Uint32(super[field:]) != 0 {
			le.PutUint32(super[field:], uint32(img.epochSeconds()))
		}
	}
	_, err := f.WriteAt(super, 1024)
	return err
}

// direntType is the type that a directory notes beside the name of what was staged as an empty file.
func direntType(m fs.FileMode) byte {
	switch {
	case m&fs.ModeCharDevice != 0:
		return 3
	case m&fs.ModeDevice != 0:
		return 4
	case m&fs.ModeNamedPipe != 0:
		return 5
	case m&fs.ModeSocket != 0:
		return 6
	}
	return 0
}

// setDirentType notes the type beside a name in a directory, which mke2fs leaves as a plain list.
func (e *Ext4) setDirentType(f *os.File, dir uint32, name string, kind byte) error {
	in, err := e.inode(dir)
	if err != nil {
		return err
	}
	extents, err := e.extents(in)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	b := make([]byte, e.blockSize)
	for _, x := range extents {
		for block := range x.count {
			at := x.offset + block*e.blockSize
			if err := e.readAt(b, at); err != nil {
				return err
			}
			for pos := 0; pos+8 <= len(b); {
				size, length := int(le.Uint16(b[pos+4:])), int(b[pos+6])
				if size < 8 || pos+size > len(b) || 8+length > size {
					break
				}
				if le.Uint32(b[pos:]) != 0 && string(b[pos+8:pos+8+length]) == name {
					_, err := f.WriteAt([]byte{kind}, at+int64(pos)+7)
					return err
				}
				pos += size
			}
		}
	}
	return fmt.Errorf("%q is not in the file system just made", name)
}

// setXattrs adds extended attributes, for which debugfs finds room. An ordinary user could not give them to the staged
// files. Inodes are named by number and values by files, so that no name has to be quoted.
func (img *Image) setXattrs(ctx context.Context, f *os.File, tree []TreeFile, numbers map[string]uint32) error {
	dir := f.Name() + ".xattrs"
	var script bytes.Buffer
	values := make(map[string]string)
	for _, t := range tree {
		for _, name := range slices.Sorted(maps.Keys(t.Xattrs)) {
			if script.Len() == 0 {
				if err := os.Mkdir(dir, 0o700); err != nil {
					return err
				}
				// Otherwise it would be the clock's.
				fmt.Fprintf(&script, "set_current_time %s\n", time.Unix(max(img.epochSeconds(), 1), 0).UTC().Format("20060102150405"))
			}
			value := t.Xattrs[name]
			file, known := values[value]
			if !known {
				file = fmt.Sprintf("v%d", len(values))
				values[value] = file
				if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o600); err != nil { //nolint:forbidigo // scratch for debugfs, removed with its folder
					return err
				}
			}
			fmt.Fprintf(&script, "ea_set -f %s <%d> %s\n", file, numbers[t.Path], name)
		}
	}
	if script.Len() == 0 {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, "script"), script.Bytes(), 0o600); err != nil { //nolint:forbidigo // as above
		return err
	}
	output, err := img.runToolOutput(ctx, dir, nil, "debugfs", "-w", "-f", "script", f.Name())
	if err != nil {
		return err
	}
	// It ends well whatever happened; what is not its banner or an echo of the script says that something did.
	for _, line := range strings.Split(output, "\n") {
		if line != "" && !strings.HasPrefix(line, "debugfs") && !strings.HasPrefix(line, "Setting current time") {
			return &ToolError{Tool: "debugfs", Output: line, Err: errors.New("setting extended attributes")}
		}
	}
	return os.RemoveAll(dir)
}

// setInode sets the times of an inode that is in use and, if t is given, its owner and permissions.
func (e *Ext4) setInode(f *os.File, n uint32, t *TreeFile, seconds uint32) error {
	off, err := e.inodeOffset(n)
	if err != nil {
		return err
	}
	b := make([]byte, e.inodeSize)
	if err := e.readAt(b, off); err != nil {
		return err
	}
	le := binary.LittleEndian
	if t != nil {
		mode := le.Uint16(b)&0xf000 | uint16(t.Mode.Perm())
		if kind := direntType(t.Mode); kind != 0 {
			mode = [...]uint16{3: 0x2000, 4: 0x6000, 5: 0x1000, 6: 0xc000}[kind] | uint16(t.Mode.Perm())
			makeSpecial(b, t)
		}
		for m, bit := range map[fs.FileMode]uint16{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
			if t.Mode&m != 0 {
				mode |= bit
			}
		}
		le.PutUint16(b, mode)
		le.PutUint16(b[0x2:], uint16(t.UID))
		le.PutUint16(b[0x18:], uint16(t.GID))
		le.PutUint16(b[0x78:], uint16(t.UID>>16))
		le.PutUint16(b[0x7a:], uint16(t.GID>>16))
		if le.Uint32(b[0x68:]) != 0 || le.Uint16(b[0x76:]) != 0 {
			return fmt.Errorf("%q carries extended attributes of the host that do not fit into its inode", t.Path)
		}
	}
	for _, field := range []int{0x8, 0xc, 0x10} { // access, change, modification
		if le.Uint32(b[field:]) != 0 || t != nil {
			le.PutUint32(b[field:], seconds)
		}
	}
	if len(b) >= 0xa0 {
		extra := int(le.Uint16(b[0x80:])) // bytes of fields behind the first 128
		if extra >= 0x18 {
			if le.Uint32(b[0x90:]) != 0 || t != nil {
				le.PutUint32(b[0x90:], seconds) // creation
			}
			for _, field := range []int{0x84, 0x88, 0x8c, 0x94} { // nanoseconds
				le.PutUint32(b[field:], 0)
			}
		}
		if t != nil && 128+extra <= len(b) {
			clear(b[128+extra:])
		}
	}
	_, err = f.WriteAt(b, off)
	return err
}

// makeSpecial turns the inode of an empty file into one without blocks, in whose place a device has its number.
func makeSpecial(inode []byte, t *TreeFile) {
	le := binary.LittleEndian
	le.PutUint32(inode[0x20:], le.Uint32(inode[0x20:])&^ext4FlagExtents)
	clear(inode[0x28:0x64])
	switch {
	case t.Mode&fs.ModeDevice == 0:
	case t.Major < 256 && t.Minor < 256 && (t.Major != 0 || t.Minor != 0):
		le.PutUint32(inode[0x28:], t.Major<<8|t.Minor)
	default:
		le.PutUint32(inode[0x2c:], t.Minor&0xff|t.Major<<8|(t.Minor&^0xff)<<12)
	}
}
