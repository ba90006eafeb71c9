package imaging

import (
	"errors"
	"io"
)

// Nature tells what a file that [Recognise] knows has to do with disks.
type Nature int

// The natures.
const (
	Unknown     Nature = iota
	OnDisk             // a file system or a disk, which stands on a medium as it is
	VirtualDisk        // the disk of a virtual machine, in a container that qemu-img reads
	Other              // something else, a loader among it
)

// Recognise names what [Probe] and [ReadMap] know nothing of, for messages: "btrfs", "a VMDK disk".
func Recognise(r io.ReaderAt, size int64) (what string, nature Nature) {
	for _, m := range []struct {
		at     int64 // from the end, if it is negative
		magic  string
		what   string
		nature Nature
	}{
		{0x10040, "_BHRfS_M", "btrfs", OnDisk},
		{0, "UBI#", "a UBI image", OnDisk},
		{0, "\x31\x18\x10\x06", "UBIFS", OnDisk},
		{1024, "\x10\x20\xf5\xf2", "f2fs", OnDisk},
		{0, "XFSB", "xfs", OnDisk},
		{0, "\x85\x19", "jffs2", OnDisk},
		{0, "\x45\x3d\xcd\x28", "cramfs", OnDisk},
		{0, "-rom1fs-", "romfs", OnDisk},
		{3, "EXFAT   ", "exfat", OnDisk},
		{3, "NTFS    ", "ntfs", OnDisk},
		{0x8001, "CD001", "iso9660", OnDisk},
		{0, "\x3a\xff\x26\xed", "an Android sparse image", Other},
		{0, "KDMV", "a VMDK disk", VirtualDisk},
		{0, "# Disk DescriptorFile", "a VMDK disk", VirtualDisk},
		{0, "vhdxfile", "a VHDX disk", VirtualDisk},
		{0, "conectix", "a VHD disk", VirtualDisk},
		{-512, "conectix", "a VHD disk", VirtualDisk},
		{0x40, "\x7f\x10\xda\xbe", "a VDI disk", VirtualDisk},
		{-512, "koly", "an Apple disk image (dmg)", VirtualDisk},
		{512, "EFI PART", "a disk with a partition table (GPT)", OnDisk},
		{4096, "EFI PART", "a disk with a partition table (GPT)", OnDisk},
		{257, "ustar", "a tar archive", Other},
		{0, "070701", "a cpio archive", Other},
		{0, "PK\x03\x04", "a zip archive", Other},
		{0, "\x04\x22\x4d\x18", "compressed with lz4", Other},
		{0, "\x89LZO", "compressed with lzop", Other},
		{0, "\xd0\x0d\xfe\xed", "a device tree or FIT image", Other},
		{0, "\x27\x05\x19\x56", "a U-Boot image", Other},
		{0, "ANDROID!", "an Android boot image", Other},
		{0, "\x7fELF", "an ELF program", Other},
		{0, "-----BEGIN ", "a key or certificate (PEM)", Other},
		{510, "\x55\xaa", "a disk with a partition table (MBR)", OnDisk},
	} {
		b, at := make([]byte, len(m.magic)), m.at
		if at < 0 {
			at += size
		}
		if at < 0 || at+int64(len(b)) > size {
			continue
		}
		if n, err := r.ReadAt(b, at); n == len(b) && (err == nil || errors.Is(err, io.EOF)) && string(b) == m.magic {
			return m.what, m.nature
		}
	}
	return "", Unknown
}
