package imaging

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
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

// makeExt4 makes an ext4 file system in f, filled with the tree. mke2fs reads the tree from a staging directory, where
// everything belongs to the caller; normalize then sets owners, modes and times inside the file system.
func (img *Image) makeExt4(ctx context.Context, f *os.File, dir string, r Region, tree []TreeFile) error {
	if err := stage(ctx, dir, tree); err != nil {
		return err
	}
	config := f.Name() + ".conf"
	if err := os.WriteFile(config, []byte(mke2fsConfig), 0o600); err != nil { //nolint:forbidigo // scratch for mke2fs, removed with its folder
		return err
	}
	block, ratio := 4096, 16384
	if r.Size < smallExt4 {
		block, ratio = 1024, 4096
	}
	seed := identifier(img.Seed, "hash-seed", r.Name).String()
	args := []string{
		"-q", "-F", "-t", "ext4", "-b", strconv.Itoa(block), "-i", strconv.Itoa(ratio), "-m", "1", "-U", r.FilesystemUUID,
		"-E", "hash_seed=" + seed + ",lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0", "-d", dir,
	}
	if r.Label != "" {
		args = append(args, "-L", r.Label)
	}
	// 1.47.0 knows its own variable for the time, later versions SOURCE_DATE_EPOCH. Zero would mean "now" to it.
	env := []string{"MKE2FS_CONFIG=" + config, "E2FSPROGS_FAKE_TIME=" + strconv.FormatInt(max(img.epochSeconds(), 1), 10)}
	if err := img.runTool(ctx, filepath.Dir(f.Name()), env, "mke2fs", append(args, f.Name())...); err != nil {
		return err
	}
	return img.normalize(f, r, tree)
}

// normalize sets in every inode what mke2fs took from the staging directory and the clock: owner, mode, times, and
// extended attributes that a security module of the host has added. It can write inodes as they are because they carry no checksum.
func (img *Image) normalize(f *os.File, r Region, tree []TreeFile) error {
	e, err := OpenExt4(f, 0, r.Size)
	if err != nil {
		return err
	}
	super := make([]byte, 1024)
	if err := e.readAt(super, 1024); err != nil {
		return err
	}
	le := binary.LittleEndian
	if le.Uint32(super[0x64:])&0x400 != 0 {
		return errors.New("mke2fs has made checksums it was told not to make")
	}
	seconds := uint32(img.epochSeconds())
	// The kind of directory hash follows the signedness of the host's char; no directory is hashed yet.
	le.PutUint32(super[0x160:], 1)
	for _, field := range []int{0x2c, 0x30, 0x40, 0x108} { // s_mtime, s_wtime, s_lastcheck, s_mkfs_time
		if le.Uint32(super[field:]) != 0 {
			le.PutUint32(super[field:], seconds)
		}
	}
	if _, err := f.WriteAt(super, 1024); err != nil {
		return err
	}
	// The reserved inodes (journal, resize) only have times; the ones in between are not in use.
	for n := uint32(1); n < 11 && n <= e.inodes; n++ {
		if n != ext4RootInode {
			if err := e.setInode(f, n, nil, seconds); err != nil {
				return err
			}
		}
	}
	lostAndFound := TreeFile{Path: "lost+found", Mode: fs.ModeDir | 0o700}
	for _, t := range append([]TreeFile{lostAndFound}, tree...) {
		in, err := e.lookup(t.Path, false)
		if err != nil {
			return fmt.Errorf("finding %q in the file system just made: %w", t.Path, err)
		}
		if err := e.setInode(f, in.number, &t, seconds); err != nil {
			return err
		}
	}
	return nil
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
