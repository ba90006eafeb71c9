package scaffold

import (
	"fmt"
	"io/fs"
	"math/bits"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// Kickstart says what to import.
type Kickstart struct {
	// FS holds the file and what it includes, Name is its path there.
	FS   fs.FS
	Name string
	// Vars are values of ${VAR}.
	Vars map[string]string
}

// Imported is what a kickstart file became.
type Imported struct {
	Text string // a layout block with comments; empty when there are errors
	// Diags say what is wrong, and as warnings what could not be carried over. Their files are in Files.
	Diags hcl.Diagnostics
	Files map[string]*hcl.File
}

// Import turns a kickstart file into a layout block.
func Import(o Kickstart) (*Imported, error) {
	k := parseKickstart(o.FS, o.Name, o.Vars)
	m := &mapping{kickstart: k, vars: o.Vars, names: map[string]bool{}}
	if !k.diags.HasErrors() {
		m.run()
	}
	diag.Sort(k.diags)
	out := &Imported{Diags: k.diags, Files: k.files}
	if k.diags.HasErrors() {
		return out, nil
	}
	var err error
	out.Text, err = finish(m.text(o.Name))
	return out, err
}

// area is a partition, a pair of slots or a reserve of the layout.
type area struct {
	part       *part // nil for what the kickstart file does not have
	kind       string
	name       string
	size       int64
	offset     int64 // of a reserve; of others where it comes to stand
	filesystem string
	typ        string
	label      string
	mount      string
	bootable   bool
	fill       string // the argument of the fill that goes with it
}

const (
	kindPartition = "partition"
	kindSlots     = "slots"
	kindReserve   = "reserve"
)

// mapping is one import.
type mapping struct {
	*kickstart
	vars      map[string]string
	names     map[string]bool
	areas     []*area // in order
	alignment int64
	env       string // the reserve that holds U-Boot's environment
}

func (m *mapping) run() {
	if len(m.parts) == 0 {
		m.add(fault(nil, "No partitions", "The file has no part line, so there is nothing to import."))
		return
	}
	m.checkBootloader()
	m.chooseAlignment()
	first, second := m.findSlots()
	for _, p := range m.parts {
		if text := p.options["offset"]; text != "" {
			if _, err := kickstartSize(text, kib, true); err != nil {
				m.add(fault(&p.rng, "Wrong offset", "--offset: %s.", err))
			}
		}
		switch {
		case p == second:
			continue
		case p == first:
			m.areas = append(m.areas, m.slots(first, second))
		case p.has("no-table"):
			m.areas = append(m.areas, m.reserve(p))
		default:
			m.areas = append(m.areas, m.partition(p))
		}
		m.checkOptions(p)
	}
	if second != nil {
		m.checkOptions(second)
	}
	if first == nil {
		m.addSlots()
	}
	if !m.diags.HasErrors() {
		m.place()
		m.checkData()
	}
}

func (m *mapping) say(p *part, summary, format string, args ...any) {
	m.add(notice(&p.rng, summary, format, args...))
}

// checkBootloader speaks of the table and of what the boot loader line says beside.
func (m *mapping) checkBootloader() {
	table, at := "msdos", &m.parts[0].rng // wic's default
	if b := m.bootloader; b != nil {
		at = &b.rng
		if b.options["ptable"] != "" {
			table = b.options["ptable"]
		}
		if text := b.options["append"]; text != "" {
			m.add(notice(at, "Kernel command line left out", "--append %q belongs to the boot loader's configuration, which images do not write: set it in U-Boot's environment or boot script.", shorten(text)))
		}
		for _, name := range []string{"timeout", "configfile", "source", "diskid"} {
			if b.options[name] != "" {
				m.add(notice(at, "Boot loader option left out", "--%s %s is for boot loader files that wic writes; the device's boot loader is U-Boot here.", name, shorten(b.options[name])))
			}
		}
	}
	switch table {
	case "gpt":
	case "gpt-hybrid":
		m.add(notice(at, "Hybrid table", "A hybrid MBR beside the GPT cannot be expressed yet; a plain GPT is written."))
	default:
		said := "wic makes an MBR table (msdos) when --ptable is not given."
		if m.bootloader != nil && m.bootloader.options["ptable"] != "" {
			said = fmt.Sprintf("The table is %q.", shorten(table))
		}
		m.add(notice(at, "Table becomes GPT", "%s Layouts have GPT alone so far, which is written in its place: make sure that the board's boot ROM and U-Boot read GPT.", said))
	}
}

// chooseAlignment takes the coarsest --align, which is the whole layout's.
func (m *mapping) chooseAlignment() {
	different := false
	var from *part
	for _, p := range m.parts {
		text := p.options["align"]
		if text == "" || p.has("no-table") {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || n > gib/kib {
			m.add(fault(&p.rng, "Wrong alignment", "--align %q is not a number of KiB up to 1 GiB.", shorten(text)))
			continue
		}
		if n == 0 {
			continue
		}
		different = different || m.alignment != 0 && m.alignment != n*kib
		if n*kib > m.alignment {
			m.alignment, from = n*kib, p
		}
	}
	defer m.alignToOffsets()
	if m.alignment == 0 {
		m.alignment = mib
		return
	}
	if different {
		m.say(from, "One alignment for all", "The partitions have different --align; a layout has one, and the largest is taken: %s.", sizeText(m.alignment))
	}
	if m.alignment&(m.alignment-1) != 0 {
		was := m.alignment
		m.alignment = int64(1) << bits.Len64(uint64(was))
		m.say(from, "Alignment rounded up", "An alignment is a power of two: %s becomes %s.", sizeText(was), sizeText(m.alignment))
	}
}

// alignToOffsets makes the alignment as fine as the places that the file demands. What it demands beside, gaps keep.
func (m *mapping) alignToOffsets() {
	for _, p := range m.parts {
		if at, given := m.offset(p, 0); given && at >= tableEnd && at%sector == 0 && !p.has("no-table") {
			for at%m.alignment != 0 {
				m.alignment /= 2
			}
		}
	}
}

var (
	rootName  = regexp.MustCompile(`(?i)^(root|rootfs|system|os)([-_ ]?(a|b|0|1|2))?$`)
	slotName  = regexp.MustCompile(`(?i)^(.*[a-z])([-_. ]?)(a|b|0|1|2)$`)
	rootTypes = []string{".ext2", ".ext3", ".ext4", ".squashfs", ".squashfs-xz", ".squashfs-zst", ".squashfs-lz4", ".erofs", ".btrfs"}
)

// given is the name that the file gives a partition.
func (p *part) given() string {
	if name := p.options["part-name"]; name != "" {
		return name
	}
	return p.options["label"]
}

func (p *part) source() string { return strings.ReplaceAll(p.options["source"], "-", "_") }

// parameter reads one of --sourceparams.
func (p *part) parameter(name string) string {
	for pair := range strings.SplitSeq(p.options["sourceparams"], ",") {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			return v
		}
	}
	return ""
}

func (p *part) isRoot() bool {
	switch {
	case p.has("no-table"):
		return false
	case p.mount == "/" || rootName.MatchString(p.given()):
		return true
	case p.source() == "rootfs":
		return !p.has("rootfs-dir") && (p.mount == "" || !strings.HasPrefix(p.mount, "/"))
	case p.source() == "rawcopy":
		return p.given() == "" && p.mount == "" && slices.Contains(rootTypes, path.Ext(p.parameter("file")))
	}
	return false
}

// sizes are the options that say how large a partition is.
func (p *part) sizes() string { return p.options["size"] + "/" + p.options["fixed-size"] }

// findSlots finds the A/B pair, or the one root file system that becomes a pair.
func (m *mapping) findSlots() (first, second *part) {
	var roots []*part
	for _, p := range m.parts {
		if p.isRoot() {
			roots = append(roots, p)
		}
	}
	for i, a := range roots {
		for _, b := range roots[i+1:] {
			x, y := slotName.FindStringSubmatch(a.given()), slotName.FindStringSubmatch(b.given())
			if x != nil && y != nil && strings.EqualFold(x[1]+x[2], y[1]+y[2]) && !strings.EqualFold(x[3], y[3]) {
				return a, b
			}
		}
	}
	for i, a := range roots {
		for _, b := range roots[i+1:] {
			if a.source() == b.source() && a.sizes() == b.sizes() && a.options["sourceparams"] == b.options["sourceparams"] &&
				a.options["rootfs-dir"] == b.options["rootfs-dir"] && (b.mount == "" || b.mount == "/") {
				return a, b
			}
		}
	}
	if len(roots) == 0 {
		return nil, nil
	}
	first = roots[0]
	if i := slices.Index(m.parts, first) + 1; i < len(m.parts) { // Mender's images leave the second one empty
		next := m.parts[i]
		empty := next.source() == "" || next.source() == "empty"
		if empty && !next.has("no-table") && next.mount == "" && next.given() == "" && next.sizes() == first.sizes() && next.sizes() != "/" {
			return first, next
		}
	}
	m.say(first, "One root file system becomes two", "Updates need a pair of slots: the partition is written as slots, which take twice its place on the disk.")
	return first, nil
}

// unique makes a name that no other area has.
func (m *mapping) unique(text, fallback string) string {
	base := identifier(text, fallback)
	name := base
	for i := 2; m.names[name]; i++ {
		name = fmt.Sprintf("%s_%d", base, i)
	}
	m.names[name] = true
	return name
}

func (m *mapping) slots(first, second *part) *area {
	name := "rootfs"
	if second != nil {
		if x := slotName.FindStringSubmatch(first.given()); x != nil {
			name = x[1]
		}
	}
	a := &area{part: first, kind: kindSlots, name: identifier(name, "rootfs")}
	for _, n := range []string{a.name, a.name + "_a", a.name + "_b"} {
		m.names[n] = true
	}
	a.size = m.sizeOf(first, true)
	a.filesystem = m.filesystem(first)
	if a.filesystem == "vfat" {
		m.say(first, "File system of the slots", "A root file system on vfat cannot be updated; none is written, for content that is copied as it is.")
		a.filesystem = "none"
	}
	if second != nil {
		if other := m.sizeOf(second, true); other != a.size {
			a.size = max(a.size, other)
			m.say(second, "Slots of one size", "The two slots differ in size; both get %s.", sizeText(a.size))
		}
		if i := slices.Index(m.parts, first); m.parts[i+1] != second {
			m.say(second, "Partitions move", "The second slot follows the first one directly; the numbers of partitions change.")
		}
	}
	for _, option := range []string{"part-type", "uuid", "fsuuid"} {
		if first.has(option) {
			m.say(first, "Option of a slot left out", "--%s: both slots get type linux, and identifiers that follow from the pipeline.", option)
		}
	}
	if first.has("active") {
		m.say(first, "Slot is not marked bootable", "--active on a root file system is left out: U-Boot chooses the slot from its environment.")
	}
	a.fill = "file = source.yocto.NAME.rootfs"
	return a
}

// addSlots makes the pair that every layout has.
func (m *mapping) addSlots() {
	m.add(notice(nil, "No root file system", "No line of the file looks like a root file system, so slots of 1GiB each were added: see that they are meant."))
	m.areas = append(m.areas, &area{kind: kindSlots, name: m.unique("rootfs", "rootfs"), size: gib, filesystem: "ext4", fill: "file = source.yocto.NAME.rootfs"})
}

// sizeOf reads a size, or guesses one where wic would measure the content.
func (m *mapping) sizeOf(p *part, root bool) int64 {
	for _, option := range []string{"fixed-size", "size"} {
		text := p.options[option]
		if text == "" {
			continue
		}
		n, err := kickstartSize(text, mib, false)
		switch {
		case err != nil:
			m.add(fault(&p.rng, "Wrong size", "--%s: %s.", option, err))
			return mib
		case n > 0:
			return alignUp(n, sector)
		}
	}
	n := 64 * mib
	if root {
		n = gib
		if built, err := strconv.ParseInt(m.vars["IMAGE_ROOTFS_SIZE"], 10, 64); err == nil && built > 0 && built < maxSize/kib/2 {
			n = alignUp(built*kib*3/2, 64*mib)
		}
	}
	m.say(p, "Size is a guess", "wic makes this partition as large as its content; a layout says how large it is. %s is written: see that it has room for later releases.", sizeText(n))
	return n
}

// filesystem is what a layout calls the file system of a part.
func (m *mapping) filesystem(p *part) string {
	kind := p.options["fstype"]
	if kind == "" {
		switch {
		case p.mount == "swap":
			kind = "swap"
		case p.source() != "rawcopy":
			kind = "vfat" // wic's default
		default:
			// What is copied brings its own. Mender's classes name the parts of their images so.
			kind = map[string]string{".ext4": "ext4", ".vfat": "vfat", ".bootimg": "vfat", ".dataimg": "ext4"}[path.Ext(p.parameter("file"))]
		}
	}
	switch kind {
	case "ext4", "vfat":
		return kind
	case "squashfs", "erofs": // the language takes finished images of them
		if p.source() == "rawcopy" || p.mount == "/" {
			return kind
		}
		m.say(p, "File system is copied as it is", "The language makes ext4 and vfat; %s becomes none, for content that another program made.", kind)
	case "msdos":
		return "vfat"
	case "", "none", "swap":
	case "ext2", "ext3", "btrfs":
		if p.source() == "" && p.mount != "/" { // an empty one, which is made
			m.say(p, "File system becomes ext4", "The language makes ext4 and vfat; ext4 is written in the place of %s.", kind)
			return "ext4"
		}
		m.say(p, "File system is copied as it is", "The language makes ext4 and vfat; %s becomes none, for content that another program made.", kind)
	default:
		m.say(p, "File system is copied as it is", "The language makes ext4 and vfat; %s becomes none, for content that another program made.", shorten(kind))
	}
	return "none"
}

var (
	guidPattern = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	vfatLabel   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,11}$`)
	ext4Label   = regexp.MustCompile(`^[!-~]{1,16}$`)
	mountPath   = regexp.MustCompile(`^/[!-~]+$`)
)

// typeNames are what the language calls the usual types.
var typeNames = map[string]string{
	"c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "esp", "0fc63daf-8483-4772-8e79-3d69d8477de4": "linux",
	"ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "basic-data", "21686148-6449-6e6f-744e-656564454649": "bios-boot",
	"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "swap", "bc13c2ff-59e6-4262-a352-b275fd6f7172": "xbootldr",
	"8da63339-0007-60c0-c436-083ac8230908": "reserved",
}

func (m *mapping) partition(p *part) *area {
	a := &area{part: p, kind: kindPartition, bootable: p.has("active"), size: m.sizeOf(p, false), filesystem: m.filesystem(p)}
	a.name = m.unique(m.nameOf(p), fmt.Sprintf("part_%d", slices.Index(m.parts, p)+1))
	if mount := p.mount; mountPath.MatchString(mount) && path.Clean(mount) == mount {
		a.mount = mount
	}
	switch guid := strings.ToLower(p.options["part-type"]); {
	case guid == "" && (p.mount == "swap" || p.options["fstype"] == "swap"):
		a.typ = "swap"
		m.say(p, "Swap is not formatted", "The partition gets the type swap and no content: run mkswap on the device at first boot.")
	case guid == "":
	case typeNames[guid] != "":
		a.typ = typeNames[guid]
	case guidPattern.MatchString(guid) && strings.Trim(guid, "0-") != "":
		a.typ = guid
	default:
		m.say(p, "Type left out", "--part-type %q is not a GUID.", shorten(p.options["part-type"]))
	}
	m.label(p, a)
	if smallest := map[string]int64{"ext4": mib, "vfat": 128 * kib}[a.filesystem]; a.size < smallest {
		m.say(p, "Partition enlarged", "An empty %s has at least %s.", a.filesystem, sizeText(smallest))
		a.size = smallest
	}
	a.fill = m.fill(p)
	return a
}

func (m *mapping) label(p *part, a *area) {
	label := p.options["label"]
	switch {
	case label == "" || a.filesystem == "none":
	case a.filesystem == "vfat" && !vfatLabel.MatchString(label), a.filesystem == "ext4" && !ext4Label.MatchString(label):
		m.say(p, "Label left out", "%q is no label for %s.", shorten(label), a.filesystem)
	default:
		a.label = label
	}
}

func (m *mapping) nameOf(p *part) string {
	file := p.parameter("file")
	switch {
	case p.options["part-name"] != "":
		return p.options["part-name"]
	case p.options["label"] != "":
		return p.options["label"]
	case p.mount == "/":
		return "rootfs"
	case p.mount != "":
		return p.mount
	case path.Ext(file) == ".bootimg":
		return "boot"
	case path.Ext(file) == ".dataimg":
		return "data"
	case file != "":
		name, _, _ := strings.Cut(path.Base(file), ".")
		return name
	case strings.HasPrefix(p.source(), "bootimg"):
		return "boot"
	}
	return ""
}

// fill says what goes into a partition in the image block.
func (m *mapping) fill(p *part) string {
	file := p.parameter("file")
	switch source := p.source(); {
	case source == "bootimg_partition":
		return "files = source.yocto.NAME.boot_files"
	case strings.HasPrefix(source, "bootimg"), source == "isoimage_isohybrid":
		m.say(p, "Boot loader of another kind", "--source %s installs a boot loader for PCs, which cannot be expressed yet; the partition is written, its content is yours to fill in.", shorten(p.options["source"]))
		return "files = { ... }"
	case source == "rootfs" && p.has("rootfs-dir"):
		return fmt.Sprintf("dir = %s", quote(p.options["rootfs-dir"]))
	case path.Ext(file) == ".bootimg": // Mender's class makes it of IMAGE_BOOT_FILES
		return "files = source.yocto.NAME.boot_files"
	case path.Ext(file) == ".dataimg": // and this one holds little more than the agent's files, which images have anyway
		return ""
	case source == "rawcopy" && file != "":
		return "file = " + quote(file)
	case source == "" || source == "empty":
		return ""
	}
	m.say(p, "Content left out", "What --source %s makes cannot be expressed; fill the partition in the image block.", shorten(p.options["source"]))
	return ""
}

// optionNotes are the options that have no counterpart. An empty text: it makes no difference to an image.
var optionNotes = map[string]string{
	"extra-filesystem-space": "sizes are exact, so --size takes it in",
	"extra-space":            "sizes are exact, so --size takes it in",
	"extra-partition-space":  "sizes are exact, so --size takes it in",
	"overhead-factor":        "sizes are exact, so --size takes it in",
	"mkfs-extraopts":         "file systems are made in one reproducible way",
	"use-label":              "the device's fstab belongs to the root file system: write it there",
	"use-uuid":               "the device's fstab belongs to the root file system: write it there",
	"fsoptions":              "the device's fstab belongs to the root file system: write it there",
	"fspassno":               "the device's fstab belongs to the root file system: write it there",
	"fsuuid":                 "identifiers follow from the pipeline, the same in every build",
	"uuid":                   "identifiers follow from the pipeline, the same in every build",
	"exclude-path":           "content comes from the build as it is; leave the files out there",
	"include-path":           "content comes from the build as it is; add the files there",
	"change-directory":       "content comes from the build as it is",
	"system-id":              "it is for MBR tables",
	"type":                   "it is for MBR tables",
	"diskid":                 "identifiers follow from the pipeline, the same in every build",
	"hidden":                 "the attribute cannot be expressed yet",
	"mbr":                    "a hybrid table cannot be expressed yet",
}

func (m *mapping) checkOptions(p *part) {
	var names []string
	for name := range p.options {
		if optionNotes[name] != "" && (name != "use-uuid" || p.mount != "/") { // the kernel's root= comes from U-Boot
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		m.say(p, "Option left out", "--%s: %s.", name, optionNotes[name])
	}
	if p.mount != "" && p.mount != "/" && p.mount != "swap" && strings.HasPrefix(p.mount, "/") && !mountPath.MatchString(p.mount) {
		m.say(p, "Mount point left out", "%q is not an absolute path without spaces.", shorten(p.mount))
	}
}

func (m *mapping) reserve(p *part) *area {
	a := &area{part: p, kind: kindReserve, offset: -1}
	file := p.parameter("file")
	name := m.nameOf(p)
	if m.env == "" && strings.Contains(strings.ToLower(path.Base(file)+" "+p.given()), "env") {
		name = "uboot_env"
	}
	a.name = m.unique(name, fmt.Sprintf("area_%d", slices.Index(m.parts, p)+1))
	if name == "uboot_env" {
		m.env = a.name
	}
	if file != "" {
		a.fill = "file = " + quote(file)
		if m.env == a.name {
			a.fill = "file = source.yocto.NAME.uboot_env"
		}
	}
	if skip := p.parameter("skip"); skip != "" {
		m.say(p, "Skipped bytes", "skip=%s: a reserve is filled with a whole file; cut it first.", shorten(skip))
	}
	return a
}

// place finds where everything stands, as wic does: one after the other, at --align or --offset.
func (m *mapping) place() {
	cursor := tableEnd
	var out []*area
	for i, a := range m.areas {
		at := alignUp(cursor, m.alignment)
		if a.kind == kindReserve {
			at = alignUp(cursor, sector)
			if n, err := strconv.ParseInt(a.part.options["align"], 10, 64); err == nil && n > 0 && n < gib/kib {
				at = alignUp(cursor, n*kib)
				if n*kib < tableEnd && cursor == tableEnd { // wic's MBR ends after one sector
					at = n * kib
				}
			}
		}
		want, given := m.offset(a.part, at)
		if n, err := strconv.ParseInt(a.part.align(), 10, 64); err == nil && !given && a.kind != kindReserve && n*kib > m.alignment {
			want, given = alignUp(cursor, n*kib), true
		}
		if a.kind == kindReserve {
			a.offset = want
			if given && want >= tableEnd && want < cursor {
				m.add(fault(&a.part.rng, "Areas overlap", "The area is to start at %s, but what stands before it ends at %s.", sizeText(want), sizeText(cursor)))
				continue
			}
			if a.size = m.reserveSize(a, m.areas[i+1:]); a.size == 0 {
				continue
			}
			cursor = max(cursor, a.offset+a.size)
			out = append(out, a)
			continue
		}
		switch {
		case !given || want == at:
		case want > at && want%m.alignment == 0:
			out = append(out, &area{kind: kindReserve, name: m.unique("before_"+a.name, "gap"), offset: at, size: want - at})
			at = want
		default:
			m.say(a.part, "Place cannot be kept", "The partition is to start at %s, but with the table, what stands before it and the alignment of %s it starts at %s.", sizeText(want), sizeText(m.alignment), sizeText(at))
		}
		a.offset = at
		cursor = at + a.size
		if a.kind == kindSlots {
			cursor = alignUp(cursor, m.alignment) + a.size
		}
		out = append(out, a)
	}
	m.areas = out
	if m.env == "" {
		m.addEnvironment()
	}
}

// align is --align of a part, which is nil for slots that were added.
func (p *part) align() string {
	if p == nil {
		return ""
	}
	return p.options["align"]
}

// offset is where a part says that it starts. What is no offset has been reported.
func (m *mapping) offset(p *part, otherwise int64) (n int64, given bool) {
	if p == nil || p.options["offset"] == "" {
		return otherwise, false
	}
	n, err := kickstartSize(p.options["offset"], kib, true)
	if err != nil {
		return otherwise, false
	}
	return n, true
}

// reserveSize is the size of an area outside the table, or zero when there is no place for it.
func (m *mapping) reserveSize(a *area, later []*area) int64 {
	end := func(size int64) int64 { return a.offset + size }
	size := int64(0)
	for _, option := range []string{"fixed-size", "size"} {
		if text := a.part.options[option]; text != "" && size == 0 {
			n, err := kickstartSize(text, mib, false)
			if err != nil {
				m.add(fault(&a.part.rng, "Wrong size", "--%s: %s.", option, err))
				return 0
			}
			size = alignUp(n, sector)
		}
	}
	if a.offset < tableEnd {
		m.say(a.part, "No place beside a GPT", "The area starts at %s, where the GPT stands (up to 17KiB). It is left out. Boot ROMs that need it there want an MBR, which layouts do not have yet, or another place for the boot loader, such as the eMMC's boot partition.", sizeText(a.offset))
		return 0
	}
	if size > 0 {
		return size
	}
	size = alignUp(end(1), m.alignment) - a.offset
	if a.name != m.env && a.offset < 4*mib {
		size = min(size, 4*mib-a.offset) // where boards most often have U-Boot's environment
	}
	if a.name == m.env {
		size += m.alignment // Mender keeps each of the two copies in an erase block of its own
	}
	for _, next := range later {
		if n, given := m.offset(next.part, 0); given && n > a.offset {
			size = min(size, n-a.offset)
			break
		}
	}
	m.say(a.part, "Size is a guess", "The line does not say how large the area is; %s is written, up to the next area.", sizeText(size))
	return size
}

// addEnvironment makes a place for what U-Boot keeps: without it a device cannot change slots.
func (m *mapping) addEnvironment() {
	const size = 128 * kib
	at := mib
	for i, a := range m.areas { // a gap is the best place: nothing moves
		if a.part == nil && a.kind == kindReserve && a.size >= size {
			at = a.offset
			a.offset, a.size = a.offset+size, a.size-size
			if a.size == 0 {
				m.areas = slices.Delete(m.areas, i, i+1)
			}
			break
		}
	}
	for again := true; again; {
		again = false
		for _, a := range m.areas {
			end := a.offset + a.size
			if a.kind == kindSlots {
				end = alignUp(end, m.alignment) + a.size
			}
			if at < end && a.offset < at+size {
				at, again = alignUp(end, mib), true
			}
		}
	}
	name := m.unique("uboot_env", "uboot_env")
	m.env = name
	m.add(notice(nil, "Place of U-Boot's environment", "The file says nothing of U-Boot's environment. A reserve of %s at %s was added for its two copies: set offset and size to what U-Boot was built with (CONFIG_ENV_OFFSET, CONFIG_ENV_SIZE).", sizeText(size), sizeText(at)))
	m.areas = append([]*area{{kind: kindReserve, name: name, offset: at, size: size, fill: "file = source.yocto.NAME.uboot_env"}}, m.areas...)
}

// checkData finds the partition for what must outlast updates.
func (m *mapping) checkData() {
	mounts := map[string]*area{}
	var data *area
	for _, a := range m.areas {
		if a.mount != "" && mounts[a.mount] != nil {
			m.say(a.part, "Second mount", "%s is mounted at %s already; this one is left out.", mounts[a.mount].name, a.mount)
			a.mount = ""
		}
		if a.mount != "" {
			mounts[a.mount] = a
		}
		if a.kind == kindPartition && strings.EqualFold(a.name, "data") && a.mount == "" {
			data = a
		}
	}
	switch {
	case mounts["/data"] != nil:
		if d := mounts["/data"]; d.filesystem == "none" {
			d.filesystem, d.size = "ext4", max(d.size, mib)
			m.say(d.part, "Data partition becomes ext4", "The agent's configuration goes onto /data, which needs a file system that images can be made with.")
		}
	case data != nil && data.filesystem != "none":
		data.mount = "/data"
		m.say(data.part, "Data partition", "It is taken as the one for the agent's files, with mount = \"/data\".")
	default:
		m.add(notice(nil, "No data partition", "Nothing is mounted at /data, where the agent keeps what outlasts updates. Add a partition with mount = \"/data\"."))
	}
}

func (m *mapping) text(file string) string {
	var out strings.Builder
	base := path.Base(file)
	out.WriteString(comment("", "Imported from "+base+"."))
	if len(m.diags) > 0 {
		out.WriteString("#\n# What could not be carried over as it is:\n")
		for _, d := range m.diags {
			where := base
			if d.Subject != nil {
				where = fmt.Sprintf("%s:%d", d.Subject.Filename, d.Subject.Start.Line)
			}
			out.WriteString(comment("", where+": "+d.Summary+". "+d.Detail))
		}
	}
	name := identifier(strings.TrimSuffix(strings.TrimSuffix(base, ".in"), ".wks"), "imported")
	fmt.Fprintf(&out, "\nlayout %s {\n", quote(name))
	out.WriteString("table = \"gpt\"\n")
	fmt.Fprintf(&out, "alignment = %s\n", quoteSize(m.alignment))
	for _, a := range m.areas {
		out.WriteString(a.text())
	}
	out.WriteString("}\n\n# What goes with it, with the name of your source in the place of NAME:\n#\n")
	fmt.Fprintf(&out, "#   device_type \"...\" {\n#     layout = layout.%s\n", name)
	fmt.Fprintf(&out, "#     bootloader \"u-boot\" { environment = %s }\n#   }\n", quote(m.env))
	out.WriteString("#   image \"...\" {\n")
	for _, a := range m.areas {
		if a.fill != "" {
			fmt.Fprintf(&out, "#     fill %s { %s }\n", quote(a.name), printable(a.fill))
		}
	}
	out.WriteString("#   }\n")
	return out.String()
}

// text is the block of an area.
func (a *area) text() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s {\n", a.kind, quote(a.name))
	if a.kind == kindReserve {
		fmt.Fprintf(&out, "offset = %s\n", quoteSize(a.offset))
	}
	fmt.Fprintf(&out, "size = %s\n", quoteSize(a.size))
	for _, attr := range []struct{ name, value string }{
		{"filesystem", a.filesystem}, {"label", a.label}, {"type", a.typ}, {"mount", a.mount},
	} {
		if attr.value != "" {
			fmt.Fprintf(&out, "%s = %s\n", attr.name, quote(attr.value))
		}
	}
	if a.bootable {
		out.WriteString("bootable = true\n")
	}
	out.WriteString("}\n")
	return out.String()
}
