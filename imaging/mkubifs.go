package imaging

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Nodes of UBIFS, after the kernel's fs/ubifs/ubifs-media.h.
const (
	ubifsMagic      = 0x06101831
	ubifsHeader     = 24
	ubifsInode      = 0
	ubifsEntry      = 2
	ubifsSuperblock = 6
	ubifsRoot       = 1 // number of the root's inode

	// Offsets in an inode.
	ubifsTimes     = 56 // three of 8 bytes, then three of 4
	ubifsUID       = 96 // and the group
	ubifsMode      = 104
	ubifsInodeSize = 160

	// Offsets in an entry of a directory, and in both nodes of the key, which begins with the inode's number.
	ubifsKey         = 24
	ubifsEntryTarget = 40
	ubifsEntryLength = 50
	ubifsEntryName   = 56

	// Offsets in the superblock.
	ubifsMinIO   = 32
	ubifsLEB     = 36
	ubifsLEBs    = 40
	ubifsUUID    = 108
	ubifsUUIDEnd = ubifsUUID + 16
)

// checkUBIFS compares the blocks of a UBIFS that is copied with those of the flash: the kernel mounts it with no others.
func (u *UBI) checkUBIFS(v UBIVolume, path string) error {
	if v.Filesystem != FilesystemUBIFS {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, ubifsUUIDEnd)
	if _, err := f.ReadAt(head, 0); err != nil {
		return fmt.Errorf("content of partition %q: %w", v.Name, err)
	}
	le := binary.LittleEndian
	if page, leb := int64(le.Uint32(head[ubifsMinIO:])), int64(le.Uint32(head[ubifsLEB:])); page != u.minIO() || leb != u.LEB() {
		return &ContentError{
			Name: v.Name, Reason: fmt.Sprintf("%s is made for pages of %d and logical erase blocks of %d bytes, but the flash has %d and %d", v.Content.File, page, leb, u.minIO(), u.LEB()),
			Advice: fmt.Sprintf("make it with mkfs.ubifs -m %d -e %d", u.minIO(), u.LEB()),
		}
	}
	return nil
}

// minIO is the least that UBIFS writes.
func (u *UBI) minIO() int64 { return max(u.Page, 8) }

// makeUBIFS makes a UBIFS at path. mkfs.ubifs reads the tree from a staging directory, where everything belongs to the caller;
// what that cannot hold is set in the finished file system, but for devices, of which it reads a table.
func (u *UBI) makeUBIFS(ctx context.Context, name string, r Region, v UBIVolume) error {
	img := &Image{Epoch: u.Epoch, Contents: map[string]Content{v.Name: v.Content}}
	if err := v.Content.check(r); err != nil {
		return err
	}
	tree, err := img.tree(ctx, name+".tar", r, func(int64) {})
	if err != nil {
		return err
	}
	special := func(t TreeFile) bool { return t.Mode.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0 }
	devices, err := deviceTable(r, tree, special)
	if err != nil {
		return err
	}
	dir, table := name+".dir", name+".devices"
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	// Sources are copied: files with several names get an order from their numbers on the host.
	if err := stageLinked(ctx, dir, slices.DeleteFunc(slices.Clone(tree), special), nil); err != nil {
		return err
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	// The file system is as large as what is in it and grows at the first mount, at most to -c blocks.
	most := u.blocks(v.Size)
	if v.Autoresize {
		most = max(most, u.Blocks)
		if u.Blocks == 0 {
			most = max(most, ubifsMaxBlocks)
		}
	}
	args := []string{"-r", dir, "-m", number(u.minIO()), "-e", number(u.LEB()), "-c", number(most), "-U", "-o", name}
	if len(devices) > 0 { // an empty table is an error
		if err := os.WriteFile(table, devices, 0o600); err != nil { //nolint:forbidigo // scratch for mkfs.ubifs
			return err
		}
		args = append(args, "-D", table)
	}
	if u.Compression != "" {
		args = append(args, "-x", u.Compression)
	}
	if u.SpaceFixup {
		args = append(args, "-F")
	}
	if err := img.runTool(ctx, filepath.Dir(name), nil, "mkfs.ubifs", args...); err != nil {
		return fmt.Errorf("making the file system of partition %q: %w", v.Name, err)
	}
	if info, err := os.Stat(name); err != nil {
		return err
	} else if info.Size() > r.Size {
		return &TooLargeError{Area: r.Kind, Name: r.Name, What: "the file system of the content", Need: info.Size(), Size: r.Size}
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := img.normalizeUBIFS(f, u.LEB(), identifierBytes(u.Seed, "ubifs", v.Name), tree); err != nil {
		return fmt.Errorf("making the file system of partition %q: %w", v.Name, err)
	}
	return f.Close()
}

// deviceTable lists what an ordinary user cannot make in a directory, and refuses what mkfs.ubifs cannot be told.
func deviceTable(r Region, tree []TreeFile, special func(TreeFile) bool) ([]byte, error) {
	var b strings.Builder
	for _, t := range tree {
		reason, kind := "", "p"
		if t.Mode&fs.ModeDevice != 0 {
			kind = "b"
		}
		if t.Mode&fs.ModeCharDevice != 0 {
			kind = "c"
		}
		switch {
		case len(t.Xattrs) > 0:
			reason = "extended attributes cannot be put into a UBIFS that is made here"
		case !special(t):
			continue
		case t.Mode&fs.ModeSocket != 0:
			reason = "a socket cannot be put into a UBIFS that is made here"
		case strings.ContainsAny(t.Path, " \t\n\v\f\r"):
			reason = "a device or pipe with a blank in its name cannot be put into a UBIFS that is made here"
		}
		if reason != "" {
			return nil, &ContentError{Name: r.Name, Reason: fmt.Sprintf("%q: %s", t.Path, reason), Advice: "leave it out, or make the UBIFS with the system it belongs to and fill the partition with that file"}
		}
		fmt.Fprintf(&b, "/%s %s %o %d %d %d %d 0 0 -\n", t.Path, kind, t.Mode.Perm(), t.UID, t.GID, t.Major, t.Minor)
	}
	return []byte(b.String()), nil
}

// normalizeUBIFS sets in every inode what mkfs.ubifs took from the staging directory and the clock: owner, mode and times; and
// the UUID, which it takes from chance.
func (img *Image) normalizeUBIFS(f *os.File, leb int64, id []byte, tree []TreeFile) error {
	le := binary.LittleEndian
	entries := make(map[uint32]map[string]uint32) // of directories
	err := eachUBIFSNode(f, leb, func(node []byte) bool {
		if node[20] != ubifsEntry || len(node) < ubifsEntryName {
			return false
		}
		dir := le.Uint32(node[ubifsKey:])
		if entries[dir] == nil {
			entries[dir] = make(map[string]uint32)
		}
		length := min(int(le.Uint16(node[ubifsEntryLength:])), len(node)-ubifsEntryName)
		entries[dir][string(node[ubifsEntryName:][:length])] = le.Uint32(node[ubifsEntryTarget:])
		return false
	})
	if err != nil {
		return err
	}
	numbers := map[string]uint32{".": ubifsRoot}
	files := map[uint32]TreeFile{ubifsRoot: tree[0]}
	for _, t := range tree[1:] { // parents come before what is in them
		n, found := entries[numbers[path.Dir(t.Path)]][path.Base(t.Path)]
		if !found {
			return fmt.Errorf("%q is not in the file system just made", t.Path)
		}
		numbers[t.Path] = n
		if t.HardLink == "" {
			files[n] = t
		}
	}
	return eachUBIFSNode(f, leb, func(node []byte) bool {
		switch {
		case node[20] == ubifsSuperblock && len(node) >= ubifsUUIDEnd:
			copy(node[ubifsUUID:], id)
		case node[20] == ubifsInode && len(node) >= ubifsInodeSize:
			t := files[le.Uint32(node[ubifsKey:])]
			for i := range 3 {
				le.PutUint64(node[ubifsTimes+8*i:], uint64(img.fileSeconds(t.Time)))
				le.PutUint32(node[ubifsTimes+24+4*i:], 0)
			}
			le.PutUint32(node[ubifsUID:], uint32(t.UID))
			le.PutUint32(node[ubifsUID+4:], uint32(t.GID))
			mode := le.Uint32(node[ubifsMode:])&0xf000 | uint32(t.Mode.Perm())
			for m, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
				if t.Mode&m != 0 {
					mode |= bit
				}
			}
			le.PutUint32(node[ubifsMode:], mode)
		default:
			return false
		}
		return true
	})
}

// eachUBIFSNode calls do for every node of a UBIFS, and writes those back that it has changed, with a new checksum.
func eachUBIFSNode(f *os.File, leb int64, do func(node []byte) (changed bool)) error {
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
			if node := block[pos : pos+size]; do(node) {
				le.PutUint32(node[4:], ^crc32.ChecksumIEEE(node[8:])) // without the usual inversion at the end
				changed = true
			}
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
