package scaffold

import (
	"cmp"
	"fmt"
	"io/fs"
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
	other      *part // of the second slot, if the file has it
	kind       string
	name       string
	size       int64
	offset     int64 // where it stands; of slots the first one
	second     int64 // of slots: where the other one stands
	align      int64 // written when it is not the layout's
	pinned     bool  // offset is written; always for a reserve
	filesystem string
	typ        string
	mbrType    string
	label      string
	mount      string
	uuid       string
	attributes []string
	bootable   bool
	logical    bool // stands behind a boot record of its own; of slots the first one
	inMBR      bool
	fill       string // the argument of the fill that goes with it

	secondLogical bool
	free          int64 // up to where wic has used the disk in front of it
}

const (
	kindPartition = "partition"
	kindSlots     = "slots"
	kindReserve   = "reserve"
)

// minEnvironment is less than any U-Boot keeps its environment in.
const minEnvironment = 4 * kib

// mapping is one import.
type mapping struct {
	*kickstart
	vars      map[string]string
	names     map[string]bool
	areas     []*area // in order
	table     string  // gpt, mbr or hybrid
	tableEnd  int64   // up to where wic has it
	entries   int64   // of a GPT that makes room for a boot loader; 0 for as many as usual
	diskID    string
	alignment int64
	env       string // the reserve that holds U-Boot's environment
	efi       bool   // the boot loader is for UEFI, and has no such environment
	inChain   bool   // partitions say themselves whether they are logical
}

func (m *mapping) run() {
	if len(m.parts) == 0 {
		m.add(fault(nil, "No partitions", "The file has no part line, so there is nothing to import."))
		return
	}
	m.checkBootloader()
	m.checkAligns()
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
	m.checkMBR()
	m.checkData()
	if !m.diags.HasErrors() {
		m.place()
	}
	if m.diags.HasErrors() {
		return
	}
	m.spell()
	if i := slices.IndexFunc(m.areas, func(a *area) bool { return a.name == m.env }); i >= 0 && m.areas[i].size < 2*minEnvironment {
		m.say(m.areas[i].part, "No room for U-Boot's environment", "The area is called as if U-Boot's environment were there, but has %s; it is taken as another one.", sizeText(m.areas[i].size))
		m.env, m.areas[i].fill = "", ""
	}
	if m.env == "" && !m.efi {
		m.addEnvironment()
	}
}

func (m *mapping) say(p *part, summary, format string, args ...any) {
	m.add(notice(&p.rng, summary, format, args...))
}

// tables are the language's words for wic's.
var tables = map[string]string{"msdos": "mbr", "gpt": "gpt", "gpt-hybrid": "hybrid"}

// checkBootloader chooses the table, and speaks of what the boot loader line says beside.
func (m *mapping) checkBootloader() {
	table := "msdos" // wic's default
	for _, p := range m.parts {
		m.efi = m.efi || p.source() == "bootimg_efi" || p.source() == "bootimg_biosplusefi"
	}
	b := m.bootloader
	if b != nil && b.options["ptable"] != "" {
		table = b.options["ptable"]
	}
	if m.table = tables[table]; m.table == "" {
		m.add(fault(&b.rng, "Unknown table", "--ptable %q: wic knows msdos, gpt and gpt-hybrid.", shorten(table)))
		return
	}
	m.tableEnd = gptEnd
	if m.table == "mbr" {
		m.tableEnd = sector
	}
	if b == nil {
		return
	}
	whose := "U-Boot"
	if m.efi {
		whose = "GRUB"
	}
	if text := b.options["append"]; text != "" {
		m.add(notice(&b.rng, "Kernel command line left out", "--append %q belongs to the boot loader's configuration, which images do not write: set it in %s's environment or configuration.", shorten(text), whose))
	}
	for _, name := range []string{"timeout", "configfile", "source"} {
		if b.options[name] != "" {
			m.add(notice(&b.rng, "Boot loader option left out", "--%s %s is for boot loader files that wic writes; here they come with the build.", name, shorten(b.options[name])))
		}
	}
	m.checkDiskID(b)
}

// checkDiskID reads --diskid: 32 bits for an MBR, a GUID for a GPT.
func (m *mapping) checkDiskID(b *part) {
	text := b.options["diskid"]
	if text == "" {
		return
	}
	if m.table != "mbr" {
		if m.diskID = strings.ToLower(text); !isGUID(m.diskID) {
			m.diskID = ""
			m.add(notice(&b.rng, "Disk identifier left out", "--diskid %q is not a GUID, which a GPT has.", shorten(text)))
		}
		return
	}
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil || n == 0 {
		m.add(notice(&b.rng, "Disk identifier left out", "--diskid %q is not a number of 32 bits, which an MBR has.", shorten(text)))
		return
	}
	m.diskID = fmt.Sprintf("%08x", n)
}

// checkAligns refuses what is no --align.
func (m *mapping) checkAligns() {
	for _, p := range m.parts {
		text := p.options["align"]
		if n, err := strconv.ParseInt(text, 10, 64); text != "" && (err != nil || n < 0 || n > gib/kib) {
			m.add(fault(&p.rng, "Wrong alignment", "--align %q is not a number of KiB up to 1 GiB.", shorten(text)))
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
	base := identifier(name, "rootfs")
	a := &area{part: first, other: second, kind: kindSlots, name: base}
	for i := 2; m.names[a.name] || m.names[a.name+"_a"] || m.names[a.name+"_b"]; i++ {
		a.name = fmt.Sprintf("%s_%d", base, i)
	}
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
	m.enlarge(a)
	both := func(option string) bool { return first.has(option) && (second == nil || second.has(option)) }
	for _, p := range []*part{first, second} {
		if p == nil {
			continue
		}
		for _, option := range []string{"uuid", "fsuuid"} {
			if p.has(option) {
				m.say(p, "Option of a slot left out", "--%s: slots get identifiers that follow from the pipeline.", option)
			}
		}
		if p.has("active") {
			m.say(p, "Slot is not marked bootable", "--active on a root file system is left out: the boot loader chooses the slot from its environment.")
		}
		for _, option := range []string{"hidden", "mbr"} {
			if p.has(option) && !both(option) {
				m.say(p, "Slots are alike", "--%s stands on one of the two slots alone and is left out.", option)
			}
		}
		if second != nil && first.options["part-type"]+first.options["system-id"] != second.options["part-type"]+second.options["system-id"] && p == second {
			m.say(p, "Slots are alike", "The two slots differ in --part-type or --system-id; both get what the first one has.")
		}
	}
	m.identify(first, a)
	if !both("hidden") {
		a.attributes = nil
	}
	a.inMBR = a.inMBR && both("mbr")
	m.checkName(first, a.name+"_a")
	if second != nil {
		m.checkName(second, a.name+"_b")
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
	read := func(option string) int64 {
		n, err := kickstartSize(p.options[option], mib, false)
		if err != nil && p.options[option] != "" {
			m.add(fault(&p.rng, "Wrong size", "--%s: %s.", option, err))
		}
		return n
	}
	if n := read("fixed-size"); n > 0 {
		return alignUp(n, sector)
	}
	extra := read("extra-partition-space")
	if n := read("size"); n > 0 {
		return alignUp(m.withOverhead(p, n)+extra, sector)
	}
	n := 64 * mib
	if root {
		n = gib
		if built, err := strconv.ParseInt(m.vars["IMAGE_ROOTFS_SIZE"], 10, 64); err == nil && built > 0 && built < maxSize/kib/2 {
			n = alignUp(built*kib*3/2, 64*mib)
		}
	}
	n += alignUp(extra, sector)
	m.say(p, "Size is a guess", "wic makes this partition as large as its content; a layout says how large it is. %s is written: see that it has room for later releases.", sizeText(n))
	return n
}

// withOverhead is the size of a file system that wic makes for --size: it adds its overhead to that, too (partition.py,
// get_rootfs_size). Content that is larger would make it larger still.
func (m *mapping) withOverhead(p *part, size int64) int64 {
	if p.source() != "rootfs" && p.source() != "bootimg_partition" {
		return size
	}
	if fstype := p.options["fstype"]; fstype == "squashfs" || fstype == "erofs" {
		m.say(p, "Size is that of the line", "wic makes a partition with %s as large as its content, whatever --size says. %s is written: see that it has room for later releases.", fstype, sizeText(size))
		return size
	}
	extra := 10 * mib
	for _, option := range []string{"extra-space", "extra-filesystem-space"} {
		if n, err := kickstartSize(p.options[option], mib, false); err == nil && n > 0 {
			extra = n
		}
	}
	factor, err := strconv.ParseFloat(p.options["overhead-factor"], 64)
	if p.options["overhead-factor"] == "" {
		factor, err = 1.3, nil
	}
	if err != nil || !(factor >= 1 && factor <= 1000) {
		m.add(fault(&p.rng, "Wrong overhead", "--overhead-factor %q is not a number from 1.0 on.", shorten(p.options["overhead-factor"])))
		return size
	}
	n := int64(float64(max(size, extra)/kib)*factor) * kib
	if n != size {
		m.say(p, "Size with overhead", "For --size %s wic makes %s, for it adds its overhead (--overhead-factor, --extra-filesystem-space), and more if the content needs it. The larger one is written, so that all stands where it does in wic's image.", sizeText(size), sizeText(n))
	}
	return min(n, maxSize)
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
	if p.mount == "swap" || p.options["fstype"] == "swap" {
		a.typ = "swap"
		m.say(p, "Swap is not formatted", "The partition gets the type swap and no content: run mkswap on the device at first boot.")
	}
	m.identify(p, a)
	m.checkName(p, a.name)
	m.label(p, a)
	m.enlarge(a)
	a.fill = m.fill(p)
	return a
}

// enlarge makes a partition as large as the smallest file system of its kind.
func (m *mapping) enlarge(a *area) {
	if smallest := map[string]int64{"ext4": mib, "vfat": 128 * kib}[a.filesystem]; a.size < smallest {
		m.say(a.part, "Partition enlarged", "An empty %s has at least %s.", a.filesystem, sizeText(smallest))
		a.size = smallest
	}
}

func isGUID(text string) bool { return guidPattern.MatchString(text) && strings.Trim(text, "0-") != "" }

// identify reads what the table says of a partition: types, identifiers, attributes.
func (m *mapping) identify(p *part, a *area) {
	left := func(option, why string) {
		m.say(p, "Option left out", "--%s: %s.", option, why)
	}
	guid, mbr := strings.ToLower(p.options["part-type"]), m.table == "mbr"
	switch {
	case guid == "":
	case mbr:
		left("part-type", "wic refuses it with an MBR, whose types --system-id gives")
	case typeNames[guid] != "":
		a.typ = typeNames[guid]
	case isGUID(guid):
		a.typ = guid
	default:
		m.say(p, "Type left out", "--part-type %q is not a GUID.", shorten(p.options["part-type"]))
	}
	if text := p.options["system-id"]; text != "" {
		n, err := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(text), "0x"), 16, 8)
		switch {
		case !mbr:
			left("system-id", "it is for MBR tables")
		case err != nil || slices.Contains(tableTypes, n):
			m.say(p, "Type left out", "--system-id %q is not the type of a partition in an MBR.", shorten(text))
		default:
			a.mbrType, a.typ = fmt.Sprintf("%02x", n), ""
		}
	}
	// parted takes the type from the file system that wic names, which is vfat for all that is copied.
	if a.typ == "" && a.mbrType == "" {
		fstype := p.options["fstype"]
		switch {
		case mbr && fstype == "msdos":
			a.mbrType = "06"
		case fstype != "" && fstype != "vfat" || p.isRoot() || a.kind == kindSlots || a.filesystem == "ext4":
		case mbr && a.filesystem != "vfat":
			a.mbrType = "0c"
		case !mbr && (a.filesystem != "vfat" || a.bootable && !strings.HasPrefix(p.source(), "bootimg_efi")):
			a.typ = "basic-data"
		}
	}
	switch uuid := strings.ToLower(p.options["uuid"]); {
	case uuid == "" || a.kind == kindSlots:
	case mbr:
		left("uuid", "in an MBR it follows from the disk's identifier (--diskid) and the number")
	case !isGUID(uuid):
		m.say(p, "Option left out", "--uuid %q is not a GUID.", shorten(p.options["uuid"]))
	case uuid == m.diskID || slices.ContainsFunc(m.areas, func(o *area) bool { return o.uuid == uuid }):
		left("uuid", "another one has it already")
	default:
		a.uuid = uuid
	}
	if p.has("hidden") {
		if m.table == "gpt" {
			a.attributes = []string{"required"} // what wic sets, whatever the name of the option
		} else {
			left("hidden", "wic heeds it with a plain GPT alone")
		}
	}
	if p.has("mbr") {
		if m.table == "hybrid" {
			a.inMBR = true
		} else {
			left("mbr", "it is for --ptable gpt-hybrid")
		}
	}
	if p.has("part-name") && mbr {
		left("part-name", "an MBR has no names, and wic refuses it; it is the name in the layout")
	}
}

// tableTypes are those of an MBR's own use: none, the extended partitions, and what protects a GPT.
var tableTypes = []uint64{0x00, 0x05, 0x0f, 0x85, 0xee}

// checkName says when a GPT gets another name for a partition than the file gives it.
func (m *mapping) checkName(p *part, name string) {
	if given := p.given(); given != "" && given != name && m.table != "mbr" {
		m.say(p, "Name changes", "In the table the partition is called %s, not %q: mind what looks for it by that name (PARTLABEL).", name, shorten(given))
	}
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
	case source == "bootimg_efi" || source == "bootimg_biosplusefi":
		m.say(p, "Boot loader comes with a fill", "What --source %s makes of the build's boot loader is yours to fill in: the loader as EFI/BOOT/BOOTX64.EFI (or that of your architecture) and its configuration.", shorten(p.options["source"]))
		return `files = { "EFI/BOOT/BOOTX64.EFI" = "..." }`
	case strings.HasPrefix(source, "bootimg"), source == "isoimage_isohybrid":
		m.say(p, "Boot loader of another kind", "--source %s installs a boot loader that knows no slots; the partition is written, its content is yours to fill in. For a PC's BIOS there is bootloader \"grub-bios\".", shorten(p.options["source"]))
		return "files = { ... }"
	case source == "rootfs" && p.has("rootfs-dir"):
		return fmt.Sprintf("dir = %s", quote(p.options["rootfs-dir"]))
	case path.Ext(file) == ".bootimg": // Mender's class makes it of IMAGE_BOOT_FILES
		return "files = source.yocto.NAME.boot_files"
	case path.Ext(file) == ".dataimg": // and this one holds little more than the agent's files, which images have anyway
		return ""
	case source == "rawcopy" && file != "":
		m.checkRaw(p)
		return "file = " + quote(file)
	case source == "" || source == "empty":
		return ""
	}
	m.say(p, "Content left out", "What --source %s makes cannot be expressed; fill the partition in the image block.", shorten(p.options["source"]))
	return ""
}

// checkRaw speaks of what rawcopy does to a file on the way.
func (m *mapping) checkRaw(p *part) {
	if skip := p.parameter("skip"); skip != "" {
		m.say(p, "Skipped bytes", "skip=%s: a file is written from its start; cut it first.", shorten(skip))
	}
	if slices.Contains(strings.Split(p.options["sourceparams"], ","), "unpack") || p.parameter("unpack") != "" {
		m.say(p, "Compressed content", "unpack: a file is written as it is; unpack it first.")
	}
}

// optionNotes are the options that have no counterpart. Those that are missing here are mapped, or make no difference to an
// image: --ondisk and --no-fstab-update.
var optionNotes = map[string]string{
	"mkfs-extraopts":   "file systems are made in one reproducible way",
	"use-label":        "the device's fstab belongs to the root file system: write it there",
	"use-uuid":         "the device's fstab belongs to the root file system: write it there",
	"fsoptions":        "the device's fstab belongs to the root file system: write it there",
	"fspassno":         "the device's fstab belongs to the root file system: write it there",
	"fsuuid":           "identifiers follow from the pipeline, the same in every build",
	"exclude-path":     "content comes from the build as it is; leave the files out there",
	"include-path":     "content comes from the build as it is; add the files there",
	"change-directory": "content comes from the build as it is",
}

func (m *mapping) checkOptions(p *part) {
	var names []string
	for name := range p.options {
		switch {
		case name == "use-uuid" && p.mount == "/": // the kernel's root= comes from the boot loader
		case name == "fsuuid" && p.isRoot(): // has been spoken of
		case optionNotes[name] != "":
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		m.say(p, "Option left out", "--%s: %s.", name, optionNotes[name])
	}
	if disk := p.disk(); disk != "" && disk != m.disk() {
		m.say(p, "Another disk", "The part is on %s; a layout is of one disk, %s.", shorten(disk), m.disk())
	}
	if p.has("size") && p.has("fixed-size") {
		m.say(p, "Two sizes", "wic takes --size or --fixed-size, not both; --fixed-size is taken.")
	}
	if p.mount != "" && p.mount != "/" && p.mount != "swap" && strings.HasPrefix(p.mount, "/") && !mountPath.MatchString(p.mount) {
		m.say(p, "Mount point left out", "%q is not an absolute path without spaces.", shorten(p.mount))
	}
}

func (m *mapping) reserve(p *part) *area {
	a := &area{part: p, kind: kindReserve, pinned: true}
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
	m.checkRaw(p)
	for _, option := range []string{"active", "hidden", "mbr", "part-type", "system-id", "uuid"} {
		if p.has(option) {
			m.say(p, "Option left out", "--%s is about the table, in which --no-table has the part not stand.", option)
		}
	}
	return a
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
	fmt.Fprintf(&out, "table = %s\nalignment = %s\n", quote(m.table), quoteSize(m.alignment))
	if m.diskID != "" {
		fmt.Fprintf(&out, "disk_id = %s\n", quote(m.diskID))
	}
	if m.entries > 0 {
		fmt.Fprintf(&out, "gpt {\nentries = %d\n}\n", m.entries)
	}
	for _, a := range m.areas {
		out.WriteString(a.text(m.inChain))
	}
	out.WriteString("}\n\n# What goes with it, with the name of your source in the place of NAME:\n#\n")
	fmt.Fprintf(&out, "#   device_type \"...\" {\n#     layout = layout.%s\n", name)
	if disk := m.disk(); disk != "" {
		fmt.Fprintf(&out, "#     storage_device = %s\n", quote("/dev/"+disk))
	}
	if m.efi {
		out.WriteString("#     bootloader \"grub-efi\" {}\n#   }\n")
	} else {
		fmt.Fprintf(&out, "#     bootloader \"u-boot\" { environment = %s }\n#   }\n", quote(m.env))
	}
	out.WriteString("#   image \"...\" {\n")
	for _, a := range m.areas {
		if a.fill != "" {
			fmt.Fprintf(&out, "#     fill %s { %s }\n", quote(a.name), printable(a.fill))
		}
	}
	out.WriteString("#   }\n")
	return out.String()
}

// diskName is what Linux calls a disk.
var diskName = regexp.MustCompile(`^([hsv]d[a-z]|mmcblk[0-9]|nvme[0-9]n[0-9])$`)

// disk is what --ondisk says, in either of its spellings.
func (p *part) disk() string {
	return strings.TrimPrefix(cmp.Or(p.options["ondisk"], p.options["ondrive"]), "/dev/")
}

// disk is the first one that the file names.
func (m *mapping) disk() string {
	for _, p := range m.parts {
		if name := p.disk(); diskName.MatchString(name) {
			return name
		}
	}
	return ""
}

// text is the block of an area.
func (a *area) text(inChain bool) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s {\n", a.kind, quote(a.name))
	if a.pinned {
		fmt.Fprintf(&out, "offset = %s\n", quoteSize(a.offset))
	}
	fmt.Fprintf(&out, "size = %s\n", quoteSize(a.size))
	if a.align > 0 {
		fmt.Fprintf(&out, "align = %s\n", quoteSize(a.align))
	}
	for _, attr := range []struct{ name, value string }{
		{"filesystem", a.filesystem}, {"label", a.label}, {"type", a.typ}, {"mbr_type", a.mbrType}, {"uuid", a.uuid}, {"mount", a.mount},
	} {
		if attr.value != "" {
			fmt.Fprintf(&out, "%s = %s\n", attr.name, quote(attr.value))
		}
	}
	if a.attributes != nil {
		fmt.Fprintf(&out, "attributes = %s\n", quoteList(a.attributes))
	}
	for _, flag := range []struct {
		name string
		set  bool
	}{{"bootable", a.bootable}, {"logical", a.logical && inChain}, {"in_mbr", a.inMBR}} {
		if flag.set {
			fmt.Fprintf(&out, "%s = true\n", flag.name)
		}
	}
	out.WriteString("}\n")
	return out.String()
}
