package imaging

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/google/uuid"
)

// typeByName are the partition types a layout can name instead of giving the GUID. The names of the discoverable
// partitions are those of systemd (uapi-group.org/specifications/specs/discoverable_partitions_specification), the GUIDs
// are as sfdisk 2.38 lists them.
var typeByName = map[string]string{
	"esp":                "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", // EFI system partition
	"linux":              "0fc63daf-8483-4772-8e79-3d69d8477de4", // Linux file system
	"basic-data":         "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", // FAT and NTFS data
	"bios-boot":          "21686148-6449-6e6f-744e-656564454649", // GRUB's core image on BIOS machines
	"swap":               "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
	"xbootldr":           "bc13c2ff-59e6-4262-a352-b275fd6f7172", // extended boot loader partition
	"reserved":           "8da63339-0007-60c0-c436-083ac8230908", // Linux reserved
	"chromeos-kernel":    "fe3a2a5d-4f32-41a7-b725-accc3285a309", // also read by Depthcharge
	"chromeos-root":      "3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec",
	"hifive-bbl":         "2e54b353-1271-4842-806f-e436d6af6985", // second stage of SiFive boards
	"hifive-fsbl":        "5b193300-fc78-40cd-8002-e86c45580b47", // first stage of SiFive boards; U-Boot calls it SPL
	"home":               "933ac7e1-2eb4-4f13-b844-0e14e2aef915",
	"linux-dm-crypt":     "7ffec5c9-2d00-49b7-8941-3ea10a5586b7", // dm-crypt without a header
	"linux-luks":         "ca7d7ccb-63ed-4c53-861c-1742536059cc", // LUKS
	"lvm":                "e6d6d379-f507-44c2-a23c-238f2a3df928",
	"microsoft-reserved": "e3c9e316-0b5c-4db8-817d-f92df00215ae",
	"onie-boot":          "7412f7d5-a156-4b13-81dc-867174929325",
	"onie-config":        "d4e6e2cd-4469-46f3-b5cb-1bff57afc149",
	"prep":               "9e1a2d38-c612-4316-aa26-8b49521e5a8b", // PowerPC boot
	"raid":               "a19d880f-05fc-4d3b-a006-743f0f84911e",
	"srv":                "3b8f8425-20e0-4f3b-907f-1a25a76f98e8",
	"tmp":                "7ec6f557-3bc5-4aca-b293-16ef5df639d1",
	"u-boot-env":         "3de21764-95bd-54bd-a5c3-4abe786f38a8", // U-Boot's environment
	"user-home":          "773f91ef-66d4-49b5-bd83-d683bf40ad16",
	"var":                "4d21b016-b534-45c2-a9fb-5c16e091fd2d",

	// Found by systemd without an fstab, by the architecture that runs from them.
	"root-x86":                    "44479540-f297-41b2-9af7-d131d5f0458a",
	"usr-x86":                     "75250d76-8cc6-458e-bd66-bd47cc81a812",
	"root-x86-verity":             "d13c5d3b-b5d1-422a-b29f-9454fdc89d76",
	"usr-x86-verity":              "8f461b0d-14ee-4e81-9aa9-049b6fb97abd",
	"root-x86-verity-sig":         "5996fc05-109c-48de-808b-23fa0830b676",
	"usr-x86-verity-sig":          "974a71c0-de41-43c3-be5d-5c5ccd1ad2c0",
	"root-x86-64":                 "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
	"usr-x86-64":                  "8484680c-9521-48c6-9c11-b0720656f69e",
	"root-x86-64-verity":          "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
	"usr-x86-64-verity":           "77ff5f63-e7b6-4633-acf4-1565b864c0e6",
	"root-x86-64-verity-sig":      "41092b05-9fc8-4523-994f-2def0408b176",
	"usr-x86-64-verity-sig":       "e7bb33fb-06cf-4e81-8273-e543b413e2e2",
	"root-alpha":                  "6523f8ae-3eb1-4e2a-a05a-18b695ae656f",
	"usr-alpha":                   "e18cf08c-33ec-4c0d-8246-c6c6fb3da024",
	"root-alpha-verity":           "fc56d9e9-e6e5-4c06-be32-e74407ce09a5",
	"usr-alpha-verity":            "8cce0d25-c0d0-4a44-bd87-46331bf1df67",
	"root-alpha-verity-sig":       "d46495b7-a053-414f-80f7-700c99921ef8",
	"usr-alpha-verity-sig":        "5c6e1c76-076a-457a-a0fe-f3b4cd21ce6e",
	"root-arc":                    "d27f46ed-2919-4cb8-bd25-9531f3c16534",
	"usr-arc":                     "7978a683-6316-4922-bbee-38bff5a2fecc",
	"root-arc-verity":             "24b2d975-0f97-4521-afa1-cd531e421b8d",
	"usr-arc-verity":              "fca0598c-d880-4591-8c16-4eda05c7347c",
	"root-arc-verity-sig":         "143a70ba-cbd3-4f06-919f-6c05683a78bc",
	"usr-arc-verity-sig":          "94f9a9a1-9971-427a-a400-50cb297f0f35",
	"root-arm":                    "69dad710-2ce4-4e3c-b16c-21a1d49abed3",
	"usr-arm":                     "7d0359a3-02b3-4f0a-865c-654403e70625",
	"root-arm-verity":             "7386cdf2-203c-47a9-a498-f2ecce45a2d6",
	"usr-arm-verity":              "c215d751-7bcd-4649-be90-6627490a4c05",
	"root-arm-verity-sig":         "42b0455f-eb11-491d-98d3-56145ba9d037",
	"usr-arm-verity-sig":          "d7ff812f-37d1-4902-a810-d76ba57b975a",
	"root-arm64":                  "b921b045-1df0-41c3-af44-4c6f280d3fae",
	"usr-arm64":                   "b0e01050-ee5f-4390-949a-9101b17104e9",
	"root-arm64-verity":           "df3300ce-d69f-4c92-978c-9bfb0f38d820",
	"usr-arm64-verity":            "6e11a4e7-fbca-4ded-b9e9-e1a512bb664e",
	"root-arm64-verity-sig":       "6db69de6-29f4-4758-a7a5-962190f00ce3",
	"usr-arm64-verity-sig":        "c23ce4ff-44bd-4b00-b2d4-b41b3419e02a",
	"root-ia64":                   "993d8d3d-f80e-4225-855a-9daf8ed7ea97",
	"usr-ia64":                    "4301d2a6-4e3b-4b2a-bb94-9e0b2c4225ea",
	"root-ia64-verity":            "86ed10d5-b607-45bb-8957-d350f23d0571",
	"usr-ia64-verity":             "6a491e03-3be7-4545-8e38-83320e0ea880",
	"root-ia64-verity-sig":        "e98b36ee-32ba-4882-9b12-0ce14655f46a",
	"usr-ia64-verity-sig":         "8de58bc2-2a43-460d-b14e-a76e4a17b47f",
	"root-loongarch64":            "77055800-792c-4f94-b39a-98c91b762bb6",
	"usr-loongarch64":             "e611c702-575c-4cbe-9a46-434fa0bf7e3f",
	"root-loongarch64-verity":     "f3393b22-e9af-4613-a948-9d3bfbd0c535",
	"usr-loongarch64-verity":      "f46b2c26-59ae-48f0-9106-c50ed47f673d",
	"root-loongarch64-verity-sig": "5afb67eb-ecc8-4f85-ae8e-ac1e7c50e7d0",
	"usr-loongarch64-verity-sig":  "b024f315-d330-444c-8461-44bbde524e99",
	"root-mips-le":                "37c58c8a-d913-4156-a25f-48b1b64e07f0",
	"usr-mips-le":                 "0f4868e9-9952-4706-979f-3ed3a473e947",
	"root-mips-le-verity":         "d7d150d2-2a04-4a33-8f12-16651205ff7b",
	"usr-mips-le-verity":          "46b98d8d-b55c-4e8f-aab3-37fca7f80752",
	"root-mips-le-verity-sig":     "c919cc1f-4456-4eff-918c-f75e94525ca5",
	"usr-mips-le-verity-sig":      "3e23ca0b-a4bc-4b4e-8087-5ab6a26aa8a9",
	"root-mips64-le":              "700bda43-7a34-4507-b179-eeb93d7a7ca3",
	"usr-mips64-le":               "c97c1f32-ba06-40b4-9f22-236061b08aa8",
	"root-mips64-le-verity":       "16b417f8-3e06-4f57-8dd2-9b5232f41aa6",
	"usr-mips64-le-verity":        "3c3d61fe-b5f3-414d-bb71-8739a694a4ef",
	"root-mips64-le-verity-sig":   "904e58ef-5c65-4a31-9c57-6af5fc7c5de7",
	"usr-mips64-le-verity-sig":    "f2c2c7ee-adcc-4351-b5c6-ee9816b66e16",
	"root-ppc":                    "1de3f1ef-fa98-47b5-8dcd-4a860a654d78",
	"usr-ppc":                     "7d14fec5-cc71-415d-9d6c-06bf0b3c3eaf",
	"root-ppc-verity":             "98cfe649-1588-46dc-b2f0-add147424925",
	"usr-ppc-verity":              "df765d00-270e-49e5-bc75-f47bb2118b09",
	"root-ppc-verity-sig":         "1b31b5aa-add9-463a-b2ed-bd467fc857e7",
	"usr-ppc-verity-sig":          "7007891d-d371-4a80-86a4-5cb875b9302e",
	"root-ppc64":                  "912ade1d-a839-4913-8964-a10eee08fbd2",
	"usr-ppc64":                   "2c9739e2-f068-46b3-9fd0-01c5a9afbcca",
	"root-ppc64-verity":           "9225a9a3-3c19-4d89-b4f6-eeff88f17631",
	"usr-ppc64-verity":            "bdb528a5-a259-475f-a87d-da53fa736a07",
	"root-ppc64-verity-sig":       "f5e2c20c-45b2-4ffa-bce9-2a60737e1aaf",
	"usr-ppc64-verity-sig":        "0b888863-d7f8-4d9e-9766-239fce4d58af",
	"root-ppc64-le":               "c31c45e6-3f39-412e-80fb-4809c4980599",
	"usr-ppc64-le":                "15bb03af-77e7-4d4a-b12b-c0d084f7491c",
	"root-ppc64-le-verity":        "906bd944-4589-4aae-a4e4-dd983917446a",
	"usr-ppc64-le-verity":         "ee2b9983-21e8-4153-86d9-b6901a54d1ce",
	"root-ppc64-le-verity-sig":    "d4a236e7-e873-4c07-bf1d-bf6cf7f1c3c6",
	"usr-ppc64-le-verity-sig":     "c8bfbd1e-268e-4521-8bba-bf314c399557",
	"root-riscv32":                "60d5a7fe-8e7d-435c-b714-3dd8162144e1",
	"usr-riscv32":                 "b933fb22-5c3f-4f91-af90-e2bb0fa50702",
	"root-riscv32-verity":         "ae0253be-1167-4007-ac68-43926c14c5de",
	"usr-riscv32-verity":          "cb1ee4e3-8cd0-4136-a0a4-aa61a32e8730",
	"root-riscv32-verity-sig":     "3a112a75-8729-4380-b4cf-764d79934448",
	"usr-riscv32-verity-sig":      "c3836a13-3137-45ba-b583-b16c50fe5eb4",
	"root-riscv64":                "72ec70a6-cf74-40e6-bd49-4bda08e8f224",
	"usr-riscv64":                 "beaec34b-8442-439b-a40b-984381ed097d",
	"root-riscv64-verity":         "b6ed5582-440b-4209-b8da-5ff7c419ea3d",
	"usr-riscv64-verity":          "8f1056be-9b05-47c4-81d6-be53128e5b54",
	"root-riscv64-verity-sig":     "efe0f087-ea8d-4469-821a-4c2a96a8386a",
	"usr-riscv64-verity-sig":      "d2f9000a-7a18-453f-b5cd-4d32f77a7b32",
	"root-s390":                   "08a7acea-624c-4a20-91e8-6e0fa67d23f9",
	"usr-s390":                    "cd0f869b-d0fb-4ca0-b141-9ea87cc78d66",
	"root-s390-verity":            "7ac63b47-b25c-463b-8df8-b4a94e6c90e1",
	"usr-s390-verity":             "b663c618-e7bc-4d6d-90aa-11b756bb1797",
	"root-s390-verity-sig":        "3482388e-4254-435a-a241-766a065f9960",
	"usr-s390-verity-sig":         "17440e4f-a8d0-467f-a46e-3912ae6ef2c5",
	"root-s390x":                  "5eead9a9-fe09-4a1e-a1d7-520d00531306",
	"usr-s390x":                   "8a4f5770-50aa-4ed3-874a-99b710db6fea",
	"root-s390x-verity":           "b325bfbe-c7be-4ab8-8357-139e652d2f6b",
	"usr-s390x-verity":            "31741cc4-1a2a-4111-a581-e00b447d2d06",
	"root-s390x-verity-sig":       "c80187a5-73a3-491a-901a-017c3fa953e9",
	"usr-s390x-verity-sig":        "3f324816-667b-46ae-86ee-9b0c0c6c11b4",
	"root-tilegx":                 "c50cdd70-3862-4cc3-90e1-809a8c93ee2c",
	"usr-tilegx":                  "55497029-c7c1-44cc-aa39-815ed1558630",
	"root-tilegx-verity":          "966061ec-28e4-4b2e-b4a5-1f0a825a1d84",
	"usr-tilegx-verity":           "2fb4bf56-07fa-42da-8132-6b139f2026ae",
	"root-tilegx-verity-sig":      "b3671439-97b0-4a53-90f7-2d5a8f3ad47b",
	"usr-tilegx-verity-sig":       "4ede75e2-6ccc-4cc8-b9c7-70334b087510",
}

// otherArchitectures are what compilers and distributions call those in typeByName.
var otherArchitectures = strings.NewReplacer("amd64", "x86-64", "x86_64", "x86-64", "aarch64", "arm64")

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
	if guid, ok := typeByName[otherArchitectures.Replace(p.Type)]; ok {
		return guid, nil
	}
	if guid, ok := parseGUID(p.Type); ok {
		return guid, nil
	}
	return "", refuse(adviseType(p.Type, TypeNames(), "use a GUID or a name: basic-data, bios-boot, esp, linux, swap, xbootldr, root-ARCH and others"),
		"partition %q: unknown type %q", p.Name, p.Type)
}

// adviseType suggests the name that was meant, or says what else there is.
func adviseType(given string, names []string, otherwise string) string {
	for _, n := range names {
		if levenshtein.Distance(n, strings.ToLower(given), nil) <= 2 && len(given) > 2 {
			return fmt.Sprintf("did you mean %q?", n)
		}
	}
	return otherwise
}

// parseGUID takes only the plain form: the library also takes braces and urn: prefixes.
func parseGUID(s string) (string, bool) {
	guid, err := uuid.Parse(s)
	return guid.String(), err == nil && len(s) == 36 && guid != uuid.Nil
}

// identify gives the region what its partition is known by: the types of both tables, attributes and UUID. It refuses
// what the table at hand cannot store rather than leaving it out.
func (r *resolver) identify(p Partition, area *Region) (err error) {
	if r.table == TableMBR {
		if p.UUID != "" || len(p.Attributes) > 0 {
			return refuse(`use table = "gpt"`, "partition %q: an MBR stores neither UUIDs nor attributes of partitions", p.Name)
		}
		if p.InMBR {
			return refuse(`that is for table = "hybrid"`, "partition %q: in an MBR every partition is in the MBR", p.Name)
		}
		area.MBRType, err = mbrPartitionType(p)
		return err
	}
	switch {
	case p.InMBR && r.table != TableHybrid:
		return refuse(`use table = "hybrid"`, "partition %q cannot be in the MBR too: the table is a %s", p.Name, r.table)
	case p.MBRType != "" && !p.InMBR:
		return refuse("", "partition %q has an MBR type, but is not in an MBR", p.Name)
	}
	if area.Type, err = partitionType(p); err != nil {
		return err
	}
	if p.InMBR {
		if area.MBRType, err = mbrPartitionType(p); err != nil {
			return err
		}
	}
	if p.UUID != "" {
		guid, ok := parseGUID(p.UUID)
		if !ok {
			return refuse("a GUID has the form 01234567-89ab-cdef-0123-456789abcdef", "partition %q: %q is no GUID", p.Name, p.UUID)
		}
		area.UUID = guid
	}
	area.Attributes, err = attributes(p)
	return err
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
	layout, err := img.sizedLayout()
	if err != nil {
		return nil, err
	}
	m, err := layout.Resolve()
	if err != nil {
		return nil, err
	}
	img.identifyDisk(m)
	for i := range m.Regions {
		r := &m.Regions[i]
		if r.Kind != KindPartition {
			continue
		}
		if r.UUID == "" {
			r.UUID = identifier(img.Seed, "partition", r.Name).String()
		}
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

// identifyDisk gives a GPT its GUID and an MBR its signature. The UUIDs of an MBR's partitions come with the signature.
func (img *Image) identifyDisk(m *Map) {
	if m.Table != TableMBR && m.UUID == "" {
		m.UUID = identifier(img.Seed, "disk").String()
	}
	if m.Table == TableGPT || m.Signature != "" {
		return
	}
	id := identifier(img.Seed, "signature")
	// Zero is what tools take for no signature; half of a UUIDv5 cannot be all zeros, its version is in there.
	m.setSignature(hex.EncodeToString(id[4:8]))
}

// sizedLayout is the layout in which reserves without a size have that of their content, in whole sectors.
func (img *Image) sizedLayout() (*Layout, error) {
	l := img.Layout
	l.Reserves = slices.Clone(l.Reserves)
	for i := range l.Reserves {
		r := &l.Reserves[i]
		content, given := img.Contents[r.Name]
		if r.Size != 0 || !given {
			continue
		}
		size := int64(len(content.Bytes))
		if content.File != "" {
			info, err := os.Stat(content.File)
			if err != nil {
				return nil, fmt.Errorf("content of reserve %q: %w", r.Name, err)
			}
			size = info.Size()
		}
		if sector := cmp.Or(l.SectorSize, 512); sector > 0 && size <= maxSize && (r.Offset != 0 || size > bootCodeSize) {
			size = alignUp(size, sector)
		}
		r.Size = size
	}
	return &l, nil
}

func (img *Image) sector() int64 { return cmp.Or(img.Layout.SectorSize, defaultSector) }

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
