package imaging

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	barMin = 40
	barMax = 160
)

// Bar draws the map for a terminal that is width columns wide: a bar to scale, in which even the smallest area stays
// visible, and a table of all areas.
func (m *Map) Bar(width int) string {
	width = min(max(width, barMin), barMax)
	areas := m.withGaps()
	var b strings.Builder
	m.drawBar(&b, areas, width)
	b.WriteByte('\n')
	m.drawTable(&b, areas, width)
	return b.String()
}

// area is a region, or free space between two.
type area struct {
	Region
	free bool
	mark string // that leads from the bar to the table
}

// withGaps are all areas in their order: what belongs to a region with holes comes in pieces.
func (m *Map) withGaps() []area {
	var pieces []area
	var reserves int
	regions := slices.Clone(m.Regions)
	byOffset(regions)
	for _, r := range regions {
		mark := "▪"
		switch r.Kind {
		case KindPartition:
			mark = fmt.Sprint(r.Number)
		case KindReserve:
			mark = reserveMark(reserves)
			reserves++
		}
		for _, s := range r.Pieces() {
			piece := area{Region: r, mark: mark}
			piece.Offset, piece.Size = s.Offset, s.Size
			pieces = append(pieces, piece)
		}
	}
	slices.SortStableFunc(pieces, func(a, b area) int { return cmp.Compare(a.Offset, b.Offset) })
	var out []area
	end := int64(0)
	gap := func(to int64) {
		// What is between a boot record and its partition is nobody's.
		if n := len(out); n > 0 && out[n-1].Name == regionEBR && to-end <= (ebrLead-1)*m.SectorSize {
			return
		}
		if to > end {
			out = append(out, area{Region: Region{Offset: end, Size: to - end}, free: true})
		}
	}
	for _, a := range pieces {
		gap(a.Offset)
		out = append(out, a)
		end = max(end, a.End())
	}
	gap(m.Size)
	return out
}

// reserveMark is a letter, for as long as there are some.
func reserveMark(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if n < len(letters) {
		return letters[n : n+1]
	}
	return "*"
}

// drawBar draws a box with the marks, names and sizes. Every area gets a column (partitions three), what remains is
// shared to scale. Only free space that would not fill half a column is left out.
func (m *Map) drawBar(b *strings.Builder, areas []area, width int) {
	areas = slices.DeleteFunc(slices.Clone(areas), func(a area) bool {
		return a.free && a.Size < m.Size/int64(2*width)
	})
	inner := width - len(areas) - 1 // walls between areas
	cells := share(areas, inner, m.Size, leastColumns)
	if cells == nil { // more areas than columns: without the small ones that come in numbers
		areas = slices.DeleteFunc(areas, func(a area) bool { return a.free || a.Name == regionEBR && a.Kind == KindTable })
		cells = share(areas, width-len(areas)-1, m.Size, leastColumns)
	}
	if cells == nil { // still: the table alone
		return
	}
	line := func(left, mid, right string, fill func(i int) string) {
		b.WriteString(left)
		for i := range areas {
			if i > 0 {
				b.WriteString(mid)
			}
			b.WriteString(fill(i))
		}
		b.WriteString(right + "\n")
	}
	rule := func(i int) string { return strings.Repeat("─", cells[i]) }
	line("┌", "┬", "┐", rule)
	line("│", "│", "│", func(i int) string { return center(areas[i].title(cells[i]), cells[i], areas[i].fill()) })
	line("│", "│", "│", func(i int) string {
		if areas[i].Kind != KindPartition {
			return strings.Repeat(areas[i].fill(), cells[i])
		}
		return center(fitting(cells[i], shortSize(areas[i].Size)), cells[i], areas[i].fill())
	})
	line("└", "┴", "┘", rule)
}

func (a area) fill() string {
	switch {
	case a.free:
		return "·"
	case a.Kind == KindPartition:
		return " "
	default:
		return "▒"
	}
}

func (a area) title(cells int) string {
	if a.Kind == KindPartition {
		return fitting(cells, strings.TrimRight(a.mark+" "+cmp.Or(a.Name, a.Label), " "), a.mark)
	}
	if a.free {
		return ""
	}
	return fitting(cells, a.mark)
}

// leastColumns keeps an area visible.
func leastColumns(a area) int {
	if a.Kind == KindPartition {
		return len(a.mark) + 2
	}
	return 1
}

// share gives each area its columns, no less than least says, or nothing if there are too few.
func share(areas []area, inner int, size int64, least func(area) int) []int {
	cells := make([]int, len(areas))
	left := inner
	for i, a := range areas {
		cells[i] = least(a)
		left -= cells[i]
	}
	if left < 0 || len(areas) == 0 {
		return nil
	}
	// Hand out the rest, a column at a time, to the areas furthest below their true share. Areas of one size, as the
	// slots are, stay equally wide even if that leaves the box a little narrower.
	for left > 0 {
		best, most := []int(nil), 0.0
		for i, a := range areas {
			missing := float64(a.Size)/float64(max(size, 1))*float64(inner) - float64(cells[i])
			if best != nil && missing <= most {
				continue
			}
			if same := sameSize(areas, a, least); len(same) <= left {
				best, most = same, missing
			}
		}
		if best == nil || most < 0 {
			break
		}
		for _, i := range best {
			cells[i]++
		}
		left -= len(best)
	}
	return cells
}

func sameSize(areas []area, like area, least func(area) int) (same []int) {
	for i, a := range areas {
		if a.Kind == like.Kind && a.Size == like.Size && least(a) == least(like) {
			same = append(same, i)
		}
	}
	return same
}

func fitting(cells int, texts ...string) string {
	for _, t := range texts {
		if utf8.RuneCountInString(t) <= cells {
			return t
		}
	}
	return ""
}

func center(text string, cells int, fill string) string {
	free := cells - utf8.RuneCountInString(text)
	return strings.Repeat(fill, free/2) + text + strings.Repeat(fill, free-free/2)
}

func (m *Map) drawTable(b *strings.Builder, areas []area, width int) {
	rows := [][]string{{"", "area", "offset", "size", "type", "content"}}
	extended := m.Extended
	for _, a := range areas {
		if extended != nil && a.Offset >= extended.Offset {
			rows = append(rows, area{Region: *extended}.row())
			extended = nil
		}
		rows = append(rows, a.row())
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	total := 0
	for _, w := range widths {
		total += w + 2
	}
	narrow := total-2 > width // then go without the type, which the content nearly tells
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if i == 4 && narrow || i == 2 && m.Table == TableUBI {
				continue
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 2 || i == 3 { // numbers
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
			line.WriteString("  ")
		}
		text := []rune(strings.TrimRight(line.String(), " "))
		if len(text) > width {
			text = append(text[:width-1], '…')
		}
		b.WriteString(string(text) + "\n")
	}
	if m.Table == TableUBI {
		fmt.Fprintf(b, "flash: room for %s, UBI, logical erase blocks of %d bytes\n", FormatSize(m.Size), m.SectorSize)
		return
	}
	fmt.Fprintf(b, "disk: %s, %s, %d-byte sectors\n", FormatSize(m.Size), m.Table, m.SectorSize)
	if m.Damaged != "" {
		fmt.Fprintf(b, "damaged: %s\n", damages[m.Damaged])
	}
}

// damages say what the values of Map.Damaged mean.
var damages = map[string]string{
	"primary":  "the partition table at the start of the disk; this is its copy at the end",
	"backup":   "the copy of the partition table at the end of the disk",
	"mbr":      "the MBR, which lists what the GPT does not",
	"extended": "the chain of logical partitions; there may have been more",
}

func (a area) row() []string {
	size := shortSize(a.Size)
	if size == "" {
		size = fmt.Sprintf("%d B", a.Size)
	}
	at := place(a.Offset)
	if a.Offset != 0 && a.Offset%kib != 0 {
		at += " B"
	}
	if a.free {
		return []string{"·", "free", at, size, "", ""}
	}
	name, typ, content := a.Name, "", ""
	switch a.Kind {
	case KindTable:
		name, content = a.tableName()
	case KindExtended:
		name, typ, content = fmt.Sprint("extended partition ", a.Number), MBRTypeName(a.MBRType), "what follows, to "+place(a.End())
	case KindBackupTable:
		name, content = "backup table", strings.ToUpper(a.Name)
	case KindReserve:
		typ = "reserve"
	case KindPartition:
		typ = cmp.Or(TypeName(a.Type), MBRTypeName(a.MBRType))
		content = a.content()
	}
	return []string{a.mark, name, at, size, typ, content}
}

func (a area) tableName() (name, content string) {
	switch a.Name {
	case regionEBR:
		return fmt.Sprint("boot record of ", a.Number), "EBR"
	case regionGPTEntries:
		return "partition table", "GPT entries"
	default:
		return "partition table", strings.ToUpper(a.Name)
	}
}

func (a area) content() string {
	var parts []string
	if a.Filesystem != "" && a.Filesystem != FilesystemNone {
		parts = append(parts, a.Filesystem)
	} else {
		parts = append(parts, "empty")
	}
	if a.Label != "" {
		parts = append(parts, `"`+a.Label+`"`)
	}
	if a.Slot != "" {
		parts = append(parts, "slot "+strings.ToUpper(a.Slot))
	}
	if a.Bootable {
		parts = append(parts, "bootable")
	}
	if a.InMBR {
		parts = append(parts, "in the MBR as "+a.MBRType)
	}
	for _, name := range a.Attributes {
		if name != attributeLegacyBoot {
			parts = append(parts, name)
		}
	}
	return strings.Join(parts, ", ")
}
