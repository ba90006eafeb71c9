package imaging

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// typeByName are the partition types a layout can name instead of giving the GUID.
var typeByName = map[string]string{
	"esp":        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", // EFI system partition
	"linux":      "0fc63daf-8483-4772-8e79-3d69d8477de4", // Linux file system
	"basic-data": "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", // FAT and NTFS data
	"bios-boot":  "21686148-6449-6e6f-744e-656564454649", // GRUB's core image on BIOS machines
	"swap":       "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
	"xbootldr":   "bc13c2ff-59e6-4262-a352-b275fd6f7172", // extended boot loader partition
	"reserved":   "8da63339-0007-60c0-c436-083ac8230908", // Linux reserved
}

// TypeNames returns the names that [Partition].Type understands beside GUIDs.
func TypeNames() []string { return slices.Sorted(maps.Keys(typeByName)) }

// TypeName returns the name of a partition type's GUID, or the GUID itself.
func TypeName(guid string) string {
	for name, g := range typeByName {
		if strings.EqualFold(g, guid) {
			return name
		}
	}
	return guid
}

func partitionType(p Partition) (string, error) {
	if p.Type == "" {
		switch {
		case p.Filesystem == FilesystemVFAT && p.Bootable:
			return typeByName["esp"], nil
		case p.Filesystem == FilesystemVFAT:
			return typeByName["basic-data"], nil
		default:
			return typeByName["linux"], nil
		}
	}
	if guid, ok := typeByName[p.Type]; ok {
		return guid, nil
	}
	// Only the plain form: the library also takes braces and urn: prefixes.
	if guid, err := uuid.Parse(p.Type); err == nil && len(p.Type) == 36 && guid != uuid.Nil {
		return guid.String(), nil
	}
	return "", refuse("use a GUID or one of "+strings.Join(TypeNames(), ", "), "partition %q: unknown type %q", p.Name, p.Type)
}

// namespace is the root of all identifiers; it only makes them differ from other programs' UUIDv5.
var namespace = uuid.MustParse("6f9a1c0e-4f57-5d0b-9c53-2f6b7f2c9a11")

// identifier derives a UUIDv5 from the seed and what it is for. The parts are length-prefixed, so that no two different lists of
// parts give one identifier.
func identifier(seed string, parts ...string) uuid.UUID {
	var b strings.Builder
	for _, p := range append([]string{seed}, parts...) {
		fmt.Fprintf(&b, "%d:%s,", len(p), p)
	}
	return uuid.NewSHA1(namespace, []byte(b.String()))
}

// Map resolves the layout and adds the identifiers that Write gives the disk, its partitions and the file systems that
// it makes. It writes nothing, so that a file system can name its own partition before the image exists.
func (img *Image) Map() (*Map, error) {
	m, err := img.Layout.Resolve()
	if err != nil {
		return nil, err
	}
	m.UUID = identifier(img.Seed, "disk").String()
	for i := range m.Regions {
		r := &m.Regions[i]
		if r.Kind != KindPartition {
			continue
		}
		r.UUID = identifier(img.Seed, "partition", r.Name).String()
		if !img.makes(*r) {
			continue
		}
		switch r.Filesystem {
		case FilesystemExt4:
			r.FilesystemUUID = identifier(img.Seed, "filesystem", r.Name).String()
		case FilesystemVFAT:
			r.FilesystemUUID = volumeID(img.Seed, r.Name)
			r.Label = strings.ToUpper(r.Label)
		}
	}
	return m, nil
}

// makes tells whether Write makes the region's file system, rather than copying it or leaving it out.
func (img *Image) makes(r Region) bool {
	if r.Kind != KindPartition || (r.Filesystem != FilesystemExt4 && r.Filesystem != FilesystemVFAT) {
		return false
	}
	c, given := img.Contents[r.Name]
	if !given {
		return r.Slot != "b"
	}
	return c.File == "" && c.Bytes == nil
}

// volumeID is the serial number of a FAT file system, as blkid prints it.
func volumeID(seed, name string) string {
	id := identifier(seed, "filesystem", name)
	return fmt.Sprintf("%02X%02X-%02X%02X", id[0], id[1], id[2], id[3])
}

// epochSeconds clamps to what ext4 and FAT can hold without extra bits.
func (img *Image) epochSeconds() int64 {
	if img.Epoch.IsZero() {
		return 0
	}
	return min(max(img.Epoch.Unix(), 0), 1<<31-1)
}
