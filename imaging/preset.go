package imaging

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// PresetInfo is what a preset knows beside its layout.
type PresetInfo struct {
	Name       string `json:"name"`
	Device     string `json:"device"`      // of the disk, such as /dev/mmcblk0
	DeviceBase string `json:"device_base"` // what partition numbers are appended to
	TotalSize  int64  `json:"total_size"`  // of the medium the layout is made for
	SlotSize   int64  `json:"slot_size"`   // as much as a root file system can have
	Bootloader string `json:"bootloader"`  // u-boot, grub-efi or grub-bios
	// Environment is where U-Boot keeps its variables; without U-Boot there is none.
	Environment *PresetEnvironment `json:"environment,omitempty"`
	// Files are what belongs into reserves, as the variables name it.
	Files []PresetFile `json:"files,omitempty"`
	// Notes say what is different from what the variables may have meant.
	Notes []string `json:"notes,omitempty"`
}

// PresetEnvironment is where the two copies of U-Boot's environment are.
type PresetEnvironment struct {
	Reserve string   `json:"reserve"` // empty: the copies are not in the image
	Device  string   `json:"device"`
	Offsets [2]int64 `json:"offsets"` // of the copies on the device
	Size    int64    `json:"size"`    // of each copy
}

// PresetFile is a file of the deploy directory that belongs into a reserve.
type PresetFile struct {
	Reserve string `json:"reserve"`
	File    string `json:"file"`
	Length  int64  `json:"length,omitempty"` // of the file only the first bytes; 0: all
}

// preset is a kind of image that Mender's build layers make. Their variables and formulas are in meta-mender, August 2026:
// meta-mender-core/classes/mender-setup.bbclass, mender-setup-install.inc, mender-setup-uboot.inc, mender-setup-bios.inc,
// mender-part-images.bbclass, and in mender-convert 5.2: mender-convert-package, configs/mender_convert_config.
type preset struct {
	table    string
	features string // MENDER_FEATURES when the variables have none
	bootType string // GPT type of the boot partition
	convert  bool   // a preset of mender-convert
	defaults map[string]string
}

var presets = map[string]preset{
	"sdimg":   {table: TableMBR, features: "mender-uboot"},
	"gptimg":  {table: TableGPT, features: "mender-uboot", bootType: "basic-data"}, // what parted takes for fat32
	"uefiimg": {table: TableGPT, features: "mender-grub", bootType: "esp"},
	"biosimg": {table: TableMBR, features: "mender-grub mender-bios"},

	"mender-convert-grub":  {table: TableGPT, bootType: "esp", convert: true, defaults: convertDefaults},
	"mender-convert-uboot": {table: TableMBR, bootType: "esp", features: "mender-uboot", convert: true, defaults: convertDefaults},
}

var convertDefaults = map[string]string{
	"MENDER_STORAGE_TOTAL_SIZE_MB": "8192", "MENDER_BOOT_PART_SIZE_MB": "40", "MENDER_STORAGE_DEVICE": "/dev/mmcblk0",
}

// The names of what presets lay out.
const (
	presetBoot       = "boot"
	presetSlotA      = "rootfs_a"
	presetSlotB      = "rootfs_b"
	presetData       = "data"
	presetSwap       = "swap"
	presetEnv        = "env"
	presetBootloader = "bootloader"
	presetBootCode   = "boot_code"
)

// PresetNames returns the names that [Preset] understands.
func PresetNames() []string { return slices.Sorted(maps.Keys(presets)) }

// Preset returns the layout of a kind of Mender image from the variables of a build, as Yocto's testdata.json has them:
// expanded. A flag of a variable is given as "MENDER_EXTRA_PARTS_SIZES_MB[name]". Offsets, sizes, types and numbers come
// out as meta-mender and mender-convert make them; what is missing has their defaults. The error is a [*LayoutError].
func Preset(name string, vars map[string]string) (*Layout, *PresetInfo, error) {
	p, ok := presets[name]
	if !ok {
		return nil, nil, refuse(adviseType(name, PresetNames(), "presets are "+strings.Join(PresetNames(), ", ")), "unknown preset %q", name)
	}
	b := &presetBuilder{
		preset: p, vars: variables{given: vars, defaults: p.defaults},
		layout: &Layout{Table: p.table}, info: &PresetInfo{Name: name},
	}
	switch {
	case b.has("mender-uboot"):
		b.info.Bootloader = "u-boot"
	case b.has("mender-bios"):
		b.info.Bootloader = "grub-bios"
	default:
		b.info.Bootloader = "grub-efi"
	}
	steps := []func(){b.medium, b.bootloader, b.slots, b.partitions, b.identities}
	if p.convert {
		steps = []func(){b.medium, b.convertParts}
	}
	for _, step := range steps {
		if step(); b.vars.err != nil {
			return nil, nil, b.vars.err
		}
	}
	m, err := b.layout.Resolve()
	if err != nil {
		return nil, nil, err
	}
	if err := b.checkNumbers(m); err != nil {
		return nil, nil, err
	}
	if m.Size > b.info.TotalSize {
		b.note("the image has %s, more than MENDER_STORAGE_TOTAL_SIZE_MB, which is %s", FormatSize(m.Size), FormatSize(b.info.TotalSize))
	}
	return b.layout, b.info, nil
}

// variables are those of a build. The first error stays, as with bufio.Scanner.
type variables struct {
	given, defaults map[string]string
	err             error
}

// text is the value of a variable, in the build, in the preset, or the default.
func (v *variables) text(name, otherwise string) string {
	if s, ok := v.given[name]; ok {
		return strings.TrimSpace(s)
	}
	if s, ok := v.defaults[name]; ok {
		return s
	}
	return otherwise
}

// number is a variable with a number, decimal or 0x; times unit it is at most maxSize.
func (v *variables) number(name string, unit, otherwise int64) int64 {
	s := v.text(name, "")
	if s == "" {
		return otherwise * unit
	}
	n, err := strconv.ParseUint(s, 0, 62)
	switch {
	case v.err != nil:
	case err != nil:
		v.err = refuse("variables are taken expanded, as in testdata.json", "%s is %q, which is no number", name, s)
	case n > uint64(maxSize/unit):
		v.err = refuse("", "%s is %s, more than any disk", name, s)
	default:
		return int64(n) * unit
	}
	return 0
}

func (v *variables) refuse(advice, format string, args ...any) {
	if v.err == nil {
		v.err = refuse(advice, format, args...)
	}
}

type presetBuilder struct {
	preset
	vars            variables
	layout          *Layout
	info            *PresetInfo
	alignment       int64
	boot, swap      int64
	data, extra     int64
	reserved, first int64 // bytes taken from the root file systems; where the first partition begins
}

func (b *presetBuilder) note(format string, args ...any) {
	b.info.Notes = append(b.info.Notes, fmt.Sprintf(format, args...))
}

// has tells whether the build has a feature.
func (b *presetBuilder) has(feature string) bool {
	return slices.Contains(strings.Fields(b.vars.text("MENDER_FEATURES", b.features)), feature)
}

var withoutP = regexp.MustCompile(`^/dev/[shv]d[a-z]`)

// medium reads sizes and the alignment of everything.
func (b *presetBuilder) medium() {
	v := &b.vars
	b.info.Device = v.text("MENDER_STORAGE_DEVICE", "/dev/mmcblk0")
	base := b.info.Device + "p"
	if withoutP.MatchString(b.info.Device) {
		base = b.info.Device
	}
	b.info.DeviceBase = v.text("MENDER_STORAGE_DEVICE_BASE", base)
	b.info.TotalSize = v.number("MENDER_STORAGE_TOTAL_SIZE_MB", mib, 1024)
	b.boot = v.number("MENDER_BOOT_PART_SIZE_MB", mib, 16)
	b.data = v.number("MENDER_DATA_PART_SIZE_MB", mib, 128)
	b.swap = v.number("MENDER_SWAP_PART_SIZE_MB", mib, 0)
	for _, name := range b.extraNames() {
		b.extra = min(b.extra+v.number(flagOf("MENDER_EXTRA_PARTS_SIZES_MB", name), mib, 0), maxSize)
	}
	peb := v.number("MENDER_STORAGE_PEB_SIZE", 1, 8*mib)
	b.alignment = v.number("MENDER_PARTITION_ALIGNMENT", 1, max(peb, kib))
	switch {
	case v.err != nil:
	case b.alignment < kib || b.alignment%kib != 0 || b.alignment > maxAlignment:
		v.refuse("use a multiple of 1024, such as 8388608", "MENDER_PARTITION_ALIGNMENT is %s, which is not a whole number of KiB up to %s",
			FormatSize(b.alignment), FormatSize(maxAlignment))
	case strings.HasPrefix(b.info.Device, "ubi"):
		v.refuse("write the layout out, with a block ubi", "MENDER_STORAGE_DEVICE is %s, which is raw flash, but %s is a disk", b.info.Device, b.info.Name)
	case b.data == 0:
		v.refuse("", "MENDER_DATA_PART_SIZE_MB is 0, but updates need a data partition")
	}
	b.layout.Alignment = b.alignment
}

func flagOf(variable, name string) string { return variable + "[" + name + "]" }

func (b *presetBuilder) extraNames() []string {
	return strings.Fields(b.vars.text("MENDER_EXTRA_PARTS", ""))
}

// bootloader reserves what is in front of the partitions: boot code, raw boot loaders, U-Boot's environment.
func (b *presetBuilder) bootloader() {
	v := &b.vars
	b.first = alignUp(mbrSize, b.alignment)
	if b.table == TableGPT {
		b.first = alignUp(2*512+gptArraySize(gptEntries, 512), b.alignment)
	}
	end := b.first
	if b.has("mender-uboot") {
		if env := b.environment(); env.Size > 0 {
			if b.info.Environment.Reserve != "" { // else its place on the disk stays free
				b.layout.Reserves = append(b.layout.Reserves, env)
			}
			end = env.Offset
			b.first = alignUp(env.Offset+env.Size, b.alignment)
		}
	} else {
		b.reserved = v.number("MENDER_RESERVED_SPACE_BOOTLOADER_DATA", 1, 0)
	}
	file, sector := "", int64(2)
	if b.has("mender-bios") {
		file, sector = "grub-core.img", 1
		if b.table == TableGPT {
			sector = 34
		}
		b.bootCode(v.text("MENDER_MBR_BOOTLOADER_FILE", "boot.img"))
	} else {
		b.bootCode(v.text("MENDER_MBR_BOOTLOADER_FILE", ""))
	}
	if file = v.text("MENDER_IMAGE_BOOTLOADER_FILE", file); file == "" {
		return
	}
	at := v.number("MENDER_IMAGE_BOOTLOADER_BOOTSECTOR_OFFSET", 512, sector)
	if at >= end && v.err == nil {
		v.refuse("lower MENDER_IMAGE_BOOTLOADER_BOOTSECTOR_OFFSET or raise the environment's offset",
			"the boot loader at %s is not in front of what begins at %s", FormatSize(at), FormatSize(end))
		return
	}
	// As large as the gap: how large the file is shows when it is there.
	b.layout.Reserves = append(b.layout.Reserves, Reserve{Name: presetBootloader, Offset: at, Size: end - at})
	b.info.Files = append(b.info.Files, PresetFile{Reserve: presetBootloader, File: file})
}

func (b *presetBuilder) bootCode(file string) {
	if file == "" {
		return
	}
	length := b.vars.number("MENDER_MBR_BOOTLOADER_LENGTH", 1, 446)
	if length > bootCodeSize {
		length = bootCodeSize // the six bytes behind are the disk's signature, and zero in GRUB's boot.img
	}
	if length == 0 {
		return
	}
	b.layout.Reserves = append(b.layout.Reserves, Reserve{Name: presetBootCode, Size: length})
	b.info.Files = append(b.info.Files, PresetFile{Reserve: presetBootCode, File: file, Length: length})
}

// environment is the area of both copies of U-Boot's environment; its size is 0 if there is none in the image.
func (b *presetBuilder) environment() Reserve {
	v := &b.vars
	b.reserved = v.number("MENDER_RESERVED_SPACE_BOOTLOADER_DATA", 1, 2*b.alignment)
	if v.text("MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET", "set") == "" {
		return Reserve{}
	}
	size := v.number("BOOTENV_SIZE", 1, 0x20000)
	start := v.number("MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET", 1, b.alignment)
	half := alignUp(size, b.alignment)
	env := &PresetEnvironment{Reserve: presetEnv, Device: b.info.Device, Size: size, Offsets: [2]int64{
		v.number("MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_1", 1, start), v.number("MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_2", 1, start+half),
	}}
	emmc := v.number("MENDER_UBOOT_CONFIG_SYS_MMC_ENV_PART", 1, 0)
	area := Region{Kind: KindReserve, Name: presetEnv, Offset: start, Size: 2 * half}
	switch {
	case v.err != nil:
		return Reserve{}
	case size == 0:
		v.refuse("the default is 0x20000", "BOOTENV_SIZE is 0")
	case start%b.alignment != 0:
		v.refuse(moveTo(start, b.alignment), "MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET is %s, which is not a multiple of MENDER_PARTITION_ALIGNMENT (%s)",
			FormatSize(start), FormatSize(b.alignment))
	case emmc != 0 && b.info.Device == "":
		v.refuse("set MENDER_STORAGE_DEVICE", "MENDER_UBOOT_CONFIG_SYS_MMC_ENV_PART is %d, but the variables do not name the device that has this boot area", emmc)
	case emmc != 0:
		env.Reserve, env.Device = "", fmt.Sprintf("%sboot%d", b.info.Device, emmc-1)
		b.note("U-Boot keeps its environment in the boot area %s, which is not part of an image", env.Device)
	case b.reserved%(2*b.alignment) != 0:
		v.refuse("", "MENDER_RESERVED_SPACE_BOOTLOADER_DATA is %s, which is not an even multiple of MENDER_PARTITION_ALIGNMENT (%s)",
			FormatSize(b.reserved), FormatSize(b.alignment))
	case area.Size > b.reserved:
		v.refuse("raise MENDER_RESERVED_SPACE_BOOTLOADER_DATA or lower BOOTENV_SIZE",
			"both copies of the environment need %s, but MENDER_RESERVED_SPACE_BOOTLOADER_DATA is %s", FormatSize(area.Size), FormatSize(b.reserved))
	default:
		b.checkCopies(env, area)
	}
	b.info.Environment = env
	return Reserve{Name: presetEnv, Offset: area.Offset, Size: area.Size}
}

// checkCopies wants both copies inside the area and apart from each other.
func (b *presetBuilder) checkCopies(env *PresetEnvironment, area Region) {
	copies := []Span{{env.Offsets[0], env.Size}, {env.Offsets[1], env.Size}}
	for i, c := range copies {
		if c.Offset < area.Offset || c.End() > area.End() {
			b.vars.refuse("", "copy %d of the environment %s is outside %s", i+1, c.describe(), area.describe())
		}
	}
	if x, y := copies[0], copies[1]; x.Offset < y.End() && y.Offset < x.End() {
		b.vars.refuse("", "the copies of the environment overlap: %s and %s", x.describe(), y.describe())
	}
}

// slots calculates the size of the two root file systems.
func (b *presetBuilder) slots() {
	v := &b.vars
	overhead := v.number("MENDER_PARTITIONING_OVERHEAD_KB", kib, 2*alignUp(b.alignment, kib)/kib)
	space := b.info.TotalSize - overhead - b.reserved
	for _, taken := range []int64{b.boot, b.data, b.swap, b.extra} {
		space -= alignUp(taken, b.alignment)
	}
	size := space / (2 * b.alignment) * b.alignment
	if given := v.number("MENDER_CALC_ROOTFS_SIZE", kib, size/kib); given != size {
		b.note("the root file systems have %s, as MENDER_CALC_ROOTFS_SIZE says; the other variables give %s", FormatSize(given), FormatSize(size))
		size = given
	}
	if size <= 0 && v.err == nil {
		v.refuse("raise MENDER_STORAGE_TOTAL_SIZE_MB or make the other partitions smaller",
			"nothing is left for the root file systems of %s: boot %s, data %s, swap %s, extra %s, boot loader %s, tables and gaps %s",
			FormatSize(b.info.TotalSize), FormatSize(b.boot), FormatSize(b.data), FormatSize(b.swap), FormatSize(b.extra),
			FormatSize(b.reserved), FormatSize(overhead))
	}
	b.info.SlotSize = size
}

// partitions adds them in the order of their numbers: boot, A, B, swap, data and what else is wanted.
func (b *presetBuilder) partitions() {
	v := &b.vars
	root := v.text("ARTIFACTIMG_FSTYPE", FilesystemExt4)
	b.addBoot()
	for _, slot := range []struct{ name, letter string }{{presetSlotA, "a"}, {presetSlotB, "b"}} {
		b.add(Partition{Name: slot.name, Size: b.info.SlotSize, Slot: slot.letter, Type: "linux"}, root, "")
	}
	if b.swap > 0 {
		b.add(Partition{Name: presetSwap, Size: b.swap, Type: "swap"}, "", "")
		b.note("the swap partition is empty; it needs mkswap, or content made by it")
	}
	data := v.text("MENDER_DATA_PART_FSTYPE", "auto")
	if data == "auto" {
		data = root
	}
	b.add(Partition{Name: presetData, Size: b.data, Type: "linux"}, v.text("MENDER_DATA_PART_FSTYPE_TO_GEN", data), v.text("MENDER_DATA_PART_LABEL", "data"))
	for _, name := range b.extraNames() {
		b.addExtra(name)
	}
	if len(b.layout.Partitions) > 0 {
		b.layout.Partitions[0].Offset = b.first
	}
}

func (b *presetBuilder) addBoot() {
	if b.boot == 0 {
		return
	}
	v := &b.vars
	kind, label := v.text("MENDER_BOOT_PART_FSTYPE", "auto"), "boot"
	switch kind {
	case "auto":
		kind = FilesystemVFAT
	case FilesystemVFAT:
		label = "BOOT"
	}
	boot := Partition{Name: presetBoot, Size: b.boot, Bootable: true, Type: b.bootType}
	if b.table == TableMBR {
		boot.Type, boot.MBRType = "", mbrTypeFAT32
	}
	b.add(boot, v.text("MENDER_BOOT_PART_FSTYPE_TO_GEN", kind), v.text("MENDER_BOOT_PART_LABEL", label))
}

// add completes a partition with its file system. One that is not made here is copied as it is.
func (b *presetBuilder) add(p Partition, kind, label string) {
	switch kind {
	case FilesystemExt4, FilesystemVFAT:
		p.Filesystem, p.Label = kind, label
	case FilesystemSquashFS, FilesystemEROFS:
		p.Filesystem = kind
	case "", FilesystemNone:
	default:
		b.note("partition %q: %s is copied as it is, not checked or made", p.Name, kind)
	}
	b.layout.Partitions = append(b.layout.Partitions, p)
}

// addExtra reads the options of an extra partition as wic does, as far as they say something about tables. Without a file
// system wic takes vfat.
func (b *presetBuilder) addExtra(name string) {
	options := wicOptions(b.vars.text(flagOf("MENDER_EXTRA_PARTS", name), ""))
	p := Partition{Name: cmp.Or(options["part-name"], name), Size: b.vars.number(flagOf("MENDER_EXTRA_PARTS_SIZES_MB", name), mib, 0)}
	if p.Size == 0 {
		b.vars.refuse(fmt.Sprintf("give %s", flagOf("MENDER_EXTRA_PARTS_SIZES_MB", name)), "extra partition %q has no size", name)
	}
	kind := cmp.Or(options["fstype"], FilesystemVFAT)
	p.Type = "linux"
	switch kind {
	case FilesystemVFAT, "msdos":
		p.Type = "basic-data"
	case "swap":
		p.Type, kind = "swap", ""
	}
	if b.table == TableGPT {
		p.Type, p.UUID = cmp.Or(options["part-type"], p.Type), options["uuid"]
	} else {
		p.MBRType = options["system-id"]
		if kind == "msdos" {
			p.MBRType = cmp.Or(p.MBRType, "06")
		}
	}
	_, p.Bootable = options["active"]
	b.add(p, kind, options["label"])
}

// wicOptions reads "--name=value", "--name value" and "--name".
func wicOptions(text string) map[string]string {
	out := map[string]string{}
	last := ""
	for _, word := range strings.Fields(text) {
		word = strings.Trim(word, `"'`)
		if name, isOption := strings.CutPrefix(word, "--"); isOption {
			name, value, _ := strings.Cut(name, "=")
			out[name], last = strings.Trim(value, `"'`), name
		} else if last != "" {
			out[last], last = word, ""
		}
	}
	return out
}

const byPartUUID = "/dev/disk/by-partuuid/"

var mbrPartUUID = regexp.MustCompile(`^([0-9a-f]{8})-([0-9a-f]{2})$`)

// identities takes over the UUIDs by which the device names its partitions.
func (b *presetBuilder) identities() {
	variables := map[string]string{
		presetBoot: "MENDER_BOOT_PART", presetSlotA: "MENDER_ROOTFS_PART_A", presetSlotB: "MENDER_ROOTFS_PART_B", presetData: "MENDER_DATA_PART",
	}
	for i := range b.layout.Partitions {
		p := &b.layout.Partitions[i]
		id, given := strings.CutPrefix(b.vars.text(variables[p.Name], ""), byPartUUID)
		switch {
		case p.Name == presetSwap:
			id = b.vars.text("MENDER_SWAP_PART_UUID", "")
			given = id != "" && b.table == TableGPT
		case !given:
			id = b.vars.text(flagOf("MENDER_EXTRA_PARTS_UUID", p.Name), "")
			given = id != "" && b.table == TableGPT
		}
		if !given {
			continue
		}
		if b.table == TableGPT {
			p.UUID = id
			continue
		}
		match := mbrPartUUID.FindStringSubmatch(id)
		if match == nil || b.layout.DiskID != "" && b.layout.DiskID != match[1] {
			b.vars.refuse("in an MBR all partitions have the disk's signature and their number, such as 1234abcd-02",
				"%s is %s%s, which cannot be a partition of this disk", variables[p.Name], byPartUUID, id)
			return
		}
		b.layout.DiskID = match[1]
	}
}

// checkNumbers compares the partition numbers that the device's software was built with.
func (b *presetBuilder) checkNumbers(m *Map) error {
	for _, c := range []struct{ name, number, device string }{
		{presetBoot, "MENDER_BOOT_PART_NUMBER", "MENDER_BOOT_PART"},
		{presetSlotA, "MENDER_ROOTFS_PART_A_NUMBER", "MENDER_ROOTFS_PART_A"},
		{presetSlotB, "MENDER_ROOTFS_PART_B_NUMBER", "MENDER_ROOTFS_PART_B"},
		{presetData, "MENDER_DATA_PART_NUMBER", "MENDER_DATA_PART"},
	} {
		r, ok := m.Find(c.name)
		if !ok {
			continue
		}
		if n := b.vars.number(c.number, 1, int64(r.Number)); n != int64(r.Number) {
			return refuse("the software on the device would use another partition", "%s is %d, but %s is number %d", c.number, n, r.describe(), r.Number)
		}
		id, byUUID := strings.CutPrefix(b.vars.text(c.device, ""), byPartUUID)
		if byUUID && m.Table == TableMBR && id != r.UUID {
			return refuse("the software on the device would use another partition", "%s is %s, but %s is %s", c.device, byPartUUID+id, r.describe(), r.UUID)
		}
	}
	return b.vars.err
}

// convertParts is the arithmetic of mender-convert: slots are rounded up, and the image has the size of the medium.
func (b *presetBuilder) convertParts() {
	v := &b.vars
	if scheme := v.text("MENDER_PARTITION_SCHEME", ""); scheme != "" {
		tables := map[string]string{"gpt": TableGPT, "msdos": TableMBR, "dos": TableMBR}
		if b.table = tables[scheme]; b.table == "" {
			v.refuse("schemes are gpt and msdos", "MENDER_PARTITION_SCHEME is %q", scheme)
			return
		}
		b.layout.Table = b.table
	}
	blocks, overhead := int64(1), 4*b.alignment
	if b.has("mender-uboot") {
		blocks, overhead = 3, 6*b.alignment
		b.layout.Reserves = []Reserve{{Name: presetEnv, Offset: b.alignment, Size: 2 * b.alignment}}
		b.note("where in reserve %q the environment is, its board's U-Boot decides", presetEnv)
	}
	b.first = blocks * b.alignment
	b.layout.DiskSize = b.info.TotalSize
	if b.boot == 0 {
		v.refuse("", "MENDER_BOOT_PART_SIZE_MB is 0, but mender-convert always makes a boot partition")
	}
	b.boot = alignUp(b.boot, b.alignment)
	space := (b.info.TotalSize - b.data - b.boot - overhead) / 512 / 2 * 512
	if space <= 0 {
		v.refuse("raise MENDER_STORAGE_TOTAL_SIZE_MB or make the other partitions smaller",
			"nothing is left for the root file systems of %s: boot %s, data %s, tables and gaps %s",
			FormatSize(b.info.TotalSize), FormatSize(b.boot), FormatSize(b.data), FormatSize(overhead))
		return
	}
	b.info.SlotSize = alignUp(space, b.alignment)
	b.swap = 0
	b.partitions()
}
