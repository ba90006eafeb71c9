package imaging

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// The picture's measures, in pixels at its natural size.
const (
	svgWidth   = 960
	svgMargin  = 20
	svgInner   = svgWidth - 2*svgMargin
	svgBar     = 64 // height of the bar
	svgZoomBar = 40
	svgRow     = 22
	svgGlyph   = 7.3 // about the width of a character at 13 px; only used to leave out what would not fit
)

// The picture brings its own ground, so that it can be read wherever it stands; readers that prefer dark get it dark.
const svgStyle = `
svg{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
.ground{fill:#ffffff}.ink{fill:#1f2328}.faint{fill:#59636e}.rule{stroke:#d1d9e0;stroke-width:1}
.edge{stroke:#ffffff;stroke-width:1}.num{font-variant-numeric:tabular-nums}.head{font-weight:600}
.on{fill:#1f2328}.wedge{fill:#59636e;fill-opacity:.12}.around{fill:none;stroke:#59636e;stroke-width:1.5}
.table{fill:#8c959f}.reserve{fill:#f2b8b5}.boot{fill:#a5c8f0}.slot-a{fill:#9fd69a}.slot-b{fill:#cfebc9}
.data{fill:#f7d08a}.other{fill:#cdbff0}.free{fill:#eaeef2}
@media (prefers-color-scheme:dark){.ground{fill:#0d1117}.ink{fill:#e6edf3}.faint{fill:#9198a1}.rule{stroke:#3d444d}
.edge{stroke:#0d1117}.free{fill:#262c36}.around{stroke:#9198a1}.wedge{fill:#9198a1}}
`

// SVG draws the map as a picture that needs nothing else: a bar to scale, in which even the smallest area stays visible, what is
// in front of the first partition larger below it, and a table of all areas.
func (m *Map) SVG(w io.Writer) error {
	p := &picture{m: m, y: svgMargin}
	areas := m.withGaps()
	p.title()
	p.extended(areas)
	bottom := p.bar(areas, m.Size, svgBar)
	p.zoom(areas, bottom)
	p.table(areas)
	_, err := w.Write(p.finish())
	return err
}

// picture grows downwards.
type picture struct {
	m    *Map
	body bytes.Buffer
	y    float64
}

func (p *picture) printf(format string, args ...any) { fmt.Fprintf(&p.body, format+"\n", args...) }

// escape makes text safe between tags; names and labels may come from images of strangers.
func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // writing to memory does not fail
	return b.String()
}

func (p *picture) finish() []byte {
	var out bytes.Buffer
	height := p.y + svgMargin
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" viewBox="0 0 %d %.0f" role="img">`+"\n",
		svgWidth, height, svgWidth, height)
	fmt.Fprintf(&out, "<title>%s</title>\n<style>%s</style>\n", escape(p.m.headline()), svgStyle)
	fmt.Fprintf(&out, `<rect class="ground" width="%d" height="%.0f" rx="6"/>`+"\n", svgWidth, height)
	out.Write(p.body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

func (m *Map) headline() string {
	size := cmp.Or(shortSize(m.Size), fmt.Sprint(m.Size, " B"))
	if m.Size > 0 && m.Size%kib == 0 {
		size = place(m.Size)
	}
	parts := []string{
		size,
		map[string]string{TableGPT: "GPT", TableMBR: "MBR", TableHybrid: "GPT with hybrid MBR"}[m.Table],
		fmt.Sprintf("%d-byte sectors", m.SectorSize),
	}
	if id := cmp.Or(m.UUID, m.Signature); id != "" {
		parts = append(parts, id)
	}
	if m.Damaged != "" {
		parts = append(parts, "damaged: "+m.Damaged)
	}
	return strings.Join(parts, " · ")
}

func (p *picture) title() {
	p.printf(`<text class="ink head" x="%d" y="%.0f">%s</text>`, svgMargin, p.y+12, escape(p.m.headline()))
	p.y += 30
}

// extended leaves room for the bracket around logical partitions.
func (p *picture) extended(areas []area) {
	if p.m.Extended == nil {
		return
	}
	p.y += 18
	widths := share(areas, svgInner, p.m.Size, leastPixels)
	x, from, to := float64(svgMargin), 0.0, 0.0
	for i, width := range widths {
		if areas[i].Offset == p.m.Extended.Offset {
			from = x
		}
		if x += float64(width); areas[i].End() == p.m.Extended.End() {
			to = x
		}
	}
	if to <= from {
		return
	}
	p.printf(`<path class="around" d="M%.1f %.1fv-8H%.1fv8"/>`, from, p.y-2, to)
	p.label((from+to)/2, p.y-14, to-from, "ink", fmt.Sprintf("%d extended", p.m.Extended.Number), "extended")
}

// leastPixels keeps an area visible.
func leastPixels(a area) int {
	switch {
	case a.Kind == KindPartition:
		return 16
	case a.free:
		return 2
	default:
		return 5
	}
}

// bar draws areas of together size bytes and returns the right end of what is in front of the first partition.
func (p *picture) bar(areas []area, size int64, height float64) (front float64) {
	widths := share(areas, svgInner, size, leastPixels)
	x := float64(svgMargin)
	seen := false
	for i, width := range widths {
		a := areas[i]
		if !seen && a.Kind == KindPartition {
			front, seen = x, true
		}
		p.printf(`<g><title>%s</title><rect class="%s edge" x="%.1f" y="%.1f" width="%d" height="%.1f"/>`,
			escape(a.caption()), a.class(), x, p.y, width, height)
		middle, room := x+float64(width)/2, float64(width)-6
		if !a.free {
			name := strings.TrimSpace(a.markText() + " " + cmp.Or(a.Name, a.Label))
			p.label(middle, p.y+height/2-3, room, "on", name, a.markText())
			p.label(middle, p.y+height/2+14, room, "on num", cmp.Or(shortSize(a.Size), fmt.Sprint(a.Size, " B")))
		}
		p.printf("</g>")
		x += float64(width)
	}
	if len(widths) > 0 {
		p.y += height
	}
	return front
}

// label writes the first text that fits into room, centred, or none.
func (p *picture) label(x, y, room float64, class string, texts ...string) {
	for _, t := range texts {
		if t != "" && float64(utf8.RuneCountInString(t))*svgGlyph <= room {
			p.printf(`<text class="%s" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, class, x, y, escape(t))
			return
		}
	}
}

// zoom draws what is in front of the first partition a second time, when that is too small to be seen.
func (p *picture) zoom(areas []area, front float64) {
	first := slices.IndexFunc(areas, func(a area) bool { return a.Kind == KindPartition })
	if front == 0 || first < 3 || areas[first].Offset > p.m.Size/4 {
		p.y += 16
		return
	}
	top := p.y
	p.y += 26
	p.printf(`<path class="wedge" d="M%d %.1fH%.1fL%d %.1fH%dZ"/>`, svgMargin, top, front, svgWidth-svgMargin, p.y, svgMargin)
	p.printf(`<text class="faint" x="%d" y="%.1f">the first %s</text>`, svgMargin+6, p.y-7, escape(place(areas[first].Offset)))
	p.bar(areas[:first], areas[first].Offset, svgZoomBar)
	p.y += 16
}

// class is what the picture paints an area by.
func (a area) class() string {
	switch {
	case a.free:
		return "free"
	case a.Kind == KindReserve:
		return "reserve"
	case a.Kind != KindPartition:
		return "table"
	case a.Slot != "":
		return "slot-" + a.Slot
	case a.Bootable || a.Filesystem == FilesystemVFAT:
		return "boot"
	case a.Name == "data" || a.Label == "data":
		return "data"
	default:
		return "other"
	}
}

// markText is the mark where there is a text to mark; tables have a colour of their own.
func (a area) markText() string {
	if a.Kind == KindPartition {
		return a.mark
	}
	return ""
}

func (a area) caption() string {
	row := a.row()
	return fmt.Sprintf("%s %s", row[1], Span{a.Offset, a.Size}.describe())
}

// Columns of the table: where they begin, how many characters they have and, for numbers, where they end.
var svgColumns = []struct {
	title    string
	x, chars int
	end      bool
}{
	{title: ""}, {"area", 44, 30, false}, {"offset", 350, 14, true}, {"size", 450, 12, true}, {"type", 476, 21, false}, {"content", 640, 41, false},
}

func (p *picture) table(areas []area) {
	header := make([]string, len(svgColumns))
	for i, c := range svgColumns {
		header[i] = c.title
	}
	p.row("", "faint", header)
	extended := p.m.Extended
	for _, a := range areas {
		if extended != nil && a.Offset >= extended.Offset {
			p.row("", "ink", area{Region: *extended}.row())
			extended = nil
		}
		row := a.row()
		row[1] = strings.TrimSpace(a.markText() + " " + row[1])
		class := "ink"
		if a.free {
			class = "faint"
		}
		p.row(a.class(), class, row)
	}
}

func (p *picture) row(swatch, class string, cells []string) {
	if swatch != "" {
		p.printf(`<rect class="%s" x="%d" y="%.1f" width="12" height="12" rx="2"/>`, swatch, svgMargin, p.y+4)
	}
	for i, c := range svgColumns {
		text := []rune(cells[i])
		if c.chars == 0 || len(text) == 0 {
			continue
		}
		if len(text) > c.chars {
			text = append(text[:c.chars-1], '…')
		}
		anchor := ""
		if c.end {
			anchor = ` text-anchor="end"`
		}
		p.printf(`<text class="%s num" x="%d" y="%.1f"%s>%s</text>`, class, c.x, p.y+15, anchor, escape(string(text)))
	}
	p.y += svgRow
	p.printf(`<path class="rule" d="M%d %.1fH%d"/>`, svgMargin, p.y, svgWidth-svgMargin)
}
