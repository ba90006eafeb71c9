package scaffold

import (
	"cmp"
	"slices"
	"strconv"
)

const (
	// bootRecord is what wic and layouts leave in front of a logical partition: the sector of its boot record and one more.
	bootRecord = 2 * sector
	maxLogical = 56                    // of a layout
	maxMBR     = int64(1<<32) * sector // as far as the sector numbers of an MBR reach
	maxInMBR   = 3                     // of a hybrid, beside the entry that protects the GPT
)

// checkMBR sees that an MBR can hold what is to be in it: one active partition, and in a hybrid one to three in all.
func (m *mapping) checkMBR() {
	var active *area
	listed := 0
	for _, a := range m.areas {
		if a.inMBR {
			listed += a.partitions()
		}
		if !a.bootable || m.table == "gpt" || m.table == "hybrid" && !a.inMBR {
			continue
		}
		if active != nil { // parted moves the flag
			active.bootable = false
			m.say(active.part, "Second active partition", "An MBR has one: --active counts where it stands last, on %s.", a.name)
		}
		active = a
	}
	for _, a := range slices.Backward(m.areas) {
		if a.inMBR && listed > maxInMBR {
			a.inMBR = false
			listed -= a.partitions()
			m.say(a.part, "Too many in the MBR", "Beside the entry that protects the GPT there is room for %d partitions; %s is in the GPT alone.", maxInMBR, a.name)
		}
	}
	if m.table == "hybrid" && listed == 0 {
		m.table = "gpt"
		m.add(notice(&m.bootloader.rng, "Hybrid without partitions", "No part has --mbr, so nothing stands in the MBR beside the entry that protects the GPT: a plain GPT is written."))
	}
}

// chain counts the partitions of an MBR, as wic does to find those that are logical (direct.py, layout_partitions).
type chain struct {
	mbr                         bool
	partitions                  int // in the table
	primary                     int // the extended one counts
	logical                     int
	primaryAfter, logicalBehind bool // a primary partition stands behind logical ones, and a logical one behind it
}

// isLogical tells what the next partition is; explicit: --type logical stands on it.
func (c *chain) isLogical(explicit bool) bool {
	return c.mbr && (explicit || c.primary > 3 || c.logical == 0 && c.primary >= 3 && c.partitions > 4)
}

func (c *chain) add(logical bool) {
	if !logical {
		c.primary++
		c.primaryAfter = c.logical > 0
		return
	}
	if c.logical == 0 {
		c.primary++
	}
	c.logical++
	c.logicalBehind = c.logicalBehind || c.primaryAfter
}

// place finds where wic puts everything: one after the other from the end of the table on, each at --align or --offset, in
// front of a logical partition its boot record.
func (m *mapping) place() {
	c := chain{mbr: m.table == "mbr"}
	for _, a := range m.areas {
		m.inChain = m.inChain || c.mbr && a.saysLogical()
		c.partitions += a.partitions()
	}
	cursor := m.tableEnd
	var out []*area
	for i, a := range m.areas {
		logical := c.isLogical(a.saysLogical())
		if a.kind == kindSlots && m.inChain && !logical { // both slots or none, where the layout says it
			ahead := c
			ahead.add(false)
			logical = ahead.isLogical(false)
		}
		a.free = cursor
		if logical { // wic does so for parts outside the table, too
			cursor += bootRecord
		}
		a.offset = m.at(a, cursor)
		if a.kind == kindReserve {
			if a.size = m.reserveSize(a, m.areas[i+1:]); a.size > 0 && a.offset >= 0 {
				out = append(out, a)
				cursor = max(cursor, a.offset+a.size)
			}
			continue
		}
		a.logical = logical
		c.add(logical)
		cursor = a.offset + a.size
		if a.kind == kindSlots {
			if logical = logical || c.isLogical(false); logical {
				cursor += bootRecord
			}
			a.secondLogical = logical
			c.add(logical)
			a.second = aligned(cursor, cmp.Or(a.other, a.part))
			if want, given := a.other.offset(); given && want >= cursor {
				a.second = want
			} else if given {
				m.misplaced(a.other, want, a.second)
			}
			cursor = a.second + a.size
		}
		if a.offset%(4*kib) != 0 {
			m.say(a.part, "Not aligned", "Without --align wic puts the partition directly behind what stands before it, at byte %d, and so does the layout. On flash memory, multiples of 4MiB are fast.", a.offset)
		}
		out = append(out, a)
	}
	m.areas = out
	m.checkEnds(c, cursor)
}

// checkEnds refuses what no table can hold.
func (m *mapping) checkEnds(c chain, end int64) {
	at := &m.parts[len(m.parts)-1].rng
	far := slices.ContainsFunc(m.areas, func(a *area) bool {
		return a.kind != kindReserve && (m.table == "mbr" || a.inMBR) && max(a.offset, a.second)+a.size > maxMBR
	})
	switch {
	case end > maxSize:
		m.add(fault(at, "Disk too large", "The partitions end at %s, which is more than a disk holds.", sizeText(end)))
	case far:
		m.add(fault(at, "Disk too large", "A partition ends behind 2TiB, which is as far as an MBR reaches. Let wic make a GPT (--ptable gpt)."))
	case c.logicalBehind:
		m.add(fault(at, "Primary partition among logical ones", "Logical partitions follow one another in the extended one. Put the primary partitions in front of them."))
	case c.logical > maxLogical:
		m.add(fault(at, "Too many logical partitions", "There are %d; tools read at most %d.", c.logical, maxLogical))
	}
}

func (p *part) isLogical() bool {
	return p != nil && p.options["type"] == "logical" && !p.has("no-table")
}

// saysLogical tells whether the file says that an area is logical; of slots, either of them.
func (a *area) saysLogical() bool { return a.part.isLogical() || a.other.isLogical() }

// partitions is how many entries of the table an area takes.
func (a *area) partitions() int {
	return map[string]int{kindPartition: 1, kindSlots: 2}[a.kind]
}

// alignment is --align of a part in bytes, or zero.
func (p *part) alignment() int64 {
	if p == nil {
		return mib // of slots that were added
	}
	n, _ := strconv.ParseInt(p.options["align"], 10, 64)
	return n * kib
}

func aligned(cursor int64, p *part) int64 {
	if n := p.alignment(); n > 0 {
		return alignUp(cursor, n)
	}
	return cursor
}

// offset is where a part says that it starts. What is no offset has been reported.
func (p *part) offset() (n int64, given bool) {
	if p == nil || p.options["offset"] == "" {
		return 0, false
	}
	n, err := kickstartSize(p.options["offset"], kib, true)
	return n, err == nil
}

// at is where an area starts that comes after cursor.
func (m *mapping) at(a *area, cursor int64) int64 {
	at := aligned(cursor, a.part)
	want, given := a.part.offset()
	switch {
	case !given:
		if wanted := aligned(sector, a.part); a.kind == kindReserve && m.table != "mbr" && wanted > sector && wanted < at {
			m.say(a.part, "Place behind a GPT", "wic counts --align from the end of the GPT, so the area is at %s. If the boot ROM looks at %s, say so with --offset %dk, or use an MBR.", sizeText(at), sizeText(wanted), wanted/kib)
		}
		return at
	case want >= cursor:
		return want
	case a.kind == kindReserve:
		return m.early(a, want)
	}
	m.misplaced(a.part, want, at)
	return at
}

func (m *mapping) misplaced(p *part, want, at int64) {
	m.say(p, "Place cannot be kept", "The partition is to start at %s, but with the table and what stands before it it starts at %s.", sizeText(want), sizeText(at))
}

// early is the place of an area that is to stand in front of where wic would have it, at want: a GPT can be made smaller for
// it. What has no place gets a negative one.
func (m *mapping) early(a *area, want int64) int64 {
	entries := (want - 2*sector) / 128
	partitions := 0
	for _, o := range m.areas {
		partitions += o.partitions()
	}
	switch {
	case want < m.tableEnd && m.table != "mbr" && m.entries == 0 && a.free == m.tableEnd && entries >= max(int64(partitions), 4):
		m.entries = entries
		m.say(a.part, "Smaller table", "The area starts at %s, where a GPT of the usual size still stands; wic refuses that. The GPT gets %d entries in the place of 128, so that it ends there.", sizeText(want), entries)
	case want < m.tableEnd && m.table != "mbr":
		m.say(a.part, "No place beside a GPT", "The area starts at %s, where the GPT stands (up to 17KiB). It is left out. Boot ROMs that need it there want an MBR, or another place for the boot loader, such as the eMMC's boot partition.", sizeText(want))
		return -1
	default:
		m.add(fault(&a.part.rng, "Areas overlap", "The area is to start at %s, but what stands before it ends at %s.", sizeText(want), sizeText(a.free)))
	}
	return want
}

// reserveSize is the size of an area outside the table, or zero when there is no place for it.
func (m *mapping) reserveSize(a *area, later []*area) int64 {
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
	if a.offset < 0 || size > 0 {
		return size
	}
	step := max(mib, a.part.alignment())
	for _, next := range later {
		step = max(step, next.part.alignment())
	}
	size = alignUp(a.offset+1, step) - a.offset
	if a.name != m.env && a.offset < 4*mib {
		size = min(size, 4*mib-a.offset) // where boards most often have U-Boot's environment
	}
	if a.name == m.env {
		size += step // Mender keeps each of the two copies in an erase block of its own
	}
	for _, next := range later {
		if n, given := next.part.offset(); given && n > a.offset {
			size = min(size, n-a.offset)
			break
		}
	}
	if a.name == m.env {
		size -= size % (2 * sector) // two equal copies
	}
	m.say(a.part, "Size is a guess", "The line does not say how large the area is; %s is written, up to the next area.", sizeText(size))
	return size
}

// next is where the language puts a partition that comes after cursor: the first aligned place that touches no reserve.
func (m *mapping) next(cursor, align, size int64, logical bool) int64 {
	lead := int64(0)
	if logical {
		lead = bootRecord
	}
	at := alignUp(cursor+lead, align)
	for again := true; again; {
		again = false
		for _, r := range m.areas {
			if r.kind == kindReserve && at-lead < r.offset+r.size && r.offset < at+size {
				at, again = alignUp(r.offset+r.size+lead, align), true
			}
		}
	}
	return at
}

// spell chooses the words that put everything where it stands: the alignment with which most partitions get there by
// themselves, and for the others align, offset, or a reserve in front of slots, which have no offset.
func (m *mapping) spell() {
	first := m.tableEnd
	if m.entries > 0 {
		first = 2*sector + m.entries*128
	}
	fits := func(a *area, after, align int64) bool {
		if m.next(after, align, a.size, a.logical) != a.offset {
			return false
		}
		return a.kind != kindSlots || m.next(a.offset+a.size, align, a.size, a.secondLogical) == a.second
	}
	end := func(a *area) int64 { return max(a.offset, a.second) + a.size }
	candidates := []int64{mib, sector}
	for _, a := range m.areas {
		if n := a.part.alignment(); n >= sector && n&(n-1) == 0 {
			candidates = append(candidates, n)
		}
	}
	best := -1
	for _, align := range candidates {
		score, after := 0, first
		for _, a := range m.areas {
			if a.kind == kindReserve {
				continue
			}
			if fits(a, after, align) {
				score++
			}
			after = end(a)
		}
		if score > best || score == best && align > m.alignment {
			best, m.alignment = score, align
		}
	}
	after := first
	for _, a := range slices.Clone(m.areas) {
		if a.kind == kindReserve {
			continue
		}
		own := a.part.alignment()
		if own < sector || own&(own-1) != 0 {
			own = sector
		}
		switch {
		case fits(a, after, m.alignment):
		case fits(a, after, own):
			a.align = own
		case a.kind == kindSlots:
			a.align = sector
			m.gap(a, max(after, a.free), a.offset, a.logical)
			m.gap(a, a.offset+a.size, a.second, a.secondLogical)
		default:
			a.pinned = true
			if a.offset%m.alignment != 0 {
				a.align = sector
			}
		}
		after = end(a)
	}
}

// gap reserves what is in front of a slot, so that it starts at offset.
func (m *mapping) gap(a *area, from, offset int64, logical bool) {
	if m.next(from, sector, a.size, logical) == offset {
		return
	}
	if logical {
		offset -= bootRecord
	}
	reserve := &area{kind: kindReserve, name: m.unique("before_"+a.name, "gap"), pinned: true, offset: from, size: offset - from}
	m.areas = slices.Insert(m.areas, slices.Index(m.areas, a), reserve)
}

// addEnvironment makes a place for what U-Boot keeps: without it a device cannot change slots.
func (m *mapping) addEnvironment() {
	const size = 128 * kib
	at := mib
	for i, a := range m.areas { // in a gap, nothing moves
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
			for _, start := range a.starts() {
				if at < start+a.size && start-bootRecord < at+size {
					at, again = alignUp(start+a.size, mib), true
				}
			}
		}
	}
	m.env = m.unique("uboot_env", "uboot_env")
	m.add(notice(nil, "Place of U-Boot's environment", "The file says nothing of U-Boot's environment. A reserve of %s at %s was added for its two copies: set offset and size to what U-Boot was built with (CONFIG_ENV_OFFSET, CONFIG_ENV_SIZE).", sizeText(size), sizeText(at)))
	m.areas = slices.Insert(m.areas, 0, &area{kind: kindReserve, name: m.env, pinned: true, offset: at, size: size, fill: "file = source.yocto.NAME.uboot_env"})
}

// starts are the places of an area: slots have two.
func (a *area) starts() []int64 {
	if a.kind == kindSlots {
		return []int64{a.offset, a.second}
	}
	return []int64{a.offset}
}
