package pipeline

import (
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// LayoutSolver knows disks: it gives the areas of a layout their places. It needs neither files nor devices, so it serves
// validation, too.
type LayoutSolver interface {
	// Preset returns a layout as Mender's build makes it from its variables. The error is for people.
	Preset(name string, variables map[string]string) (*Layout, error)
	// Place sets number, offset and size of each partition. The error is for people and names areas in double quotes; it may
	// have a Hint.
	Place(l *Layout) error
}

// sizeRest is the size of a partition that takes what the others leave.
const sizeRest = "rest"

// tExtent is the size of a partition: bytes, a share of the disk, or what is left.
var tExtent = &fieldType{name: "size, percent or \"rest\"", cty: cty.DynamicPseudoType, convert: convertExtent}

// convertExtent keeps bytes as a number and the others as the texts "25%" and "rest".
func convertExtent(r refResolver, v cty.Value) (cty.Value, *problem) {
	if v.Type() == cty.String {
		text := strings.TrimSpace(v.AsString())
		if text == sizeRest {
			return cty.StringVal(sizeRest), nil
		}
		if strings.HasSuffix(text, "%") {
			n, p := convertPercent(r, v)
			if p == nil && n.AsBigFloat().Sign() == 0 {
				p = wrong("A partition of 0%% has no room.")
			}
			if p != nil {
				return n, p
			}
			return cty.StringVal(numberText(n) + "%"), nil
		}
	}
	n, p := convertSize(r, v)
	if p != nil && p.summary == "Wrong type of value" {
		p = wrongType("A size is needed here (a whole number of bytes, or a text such as \"512MiB\", \"25%%\" or \"rest\"), not %s.", describe(v))
	}
	return n, p
}

// checkExtent is that for bytes; shares have been looked at.
func checkExtent(v cty.Value) string {
	if v.Type() == cty.Number {
		return checkPositive(v)
	}
	return ""
}

// extent reads the size of a partition: one of the three is set.
func (b *body) extent(name string) (bytes int64, percent float64, rest bool) {
	if !b.has(name) {
		return 0, 0, false
	}
	v := b.values[name]
	if v.Type() == cty.Number {
		return b.integer(name), 0, false
	}
	if v.AsString() == sizeRest {
		return 0, 0, true
	}
	f, _, _ := big.ParseFloat(strings.TrimSuffix(v.AsString(), "%"), 10, 64, big.ToNearestEven)
	percent, _ = f.Float64()
	return 0, percent, false
}

// computeLayout reads a layout and has it placed.
func (e *evaluator) computeLayout(inst *instance) map[string]cty.Value {
	b := inst.body
	r := &layoutReader{e: e, layout: &Layout{
		Address: inst.address, Table: b.text("table"), Alignment: b.integer("alignment"), SectorSize: b.integer("sector_size"),
		DiskSize: b.integer("disk_size"), DiskID: b.text("disk_id"), Range: inst.block.rng, Areas: areaRanges(b),
	}, names: make(map[string]hcl.Range), mounts: make(map[string]string), known: !b.open}
	inst.result = r.layout
	for _, s := range b.content.schemas {
		r.known = r.known && b.values[s.Name].IsWhollyKnown()
	}
	for _, n := range b.all("ubi") {
		r.flash(b, n)
	}
	if !b.unset("preset") {
		return e.presetLayout(inst, r)
	}
	for _, n := range b.nested {
		r.area(n)
	}
	if len(b.all("slots")) == 0 && !b.open {
		if !b.content.misread {
			e.report(fault("Missing block", "A layout needs a block slots, the pair of partitions that updates go to, or a preset.", inst.block.rng.Ptr()))
		}
		r.known = false
	}
	r.checkGrow(b)
	return e.placed(r)
}

// presetLayout makes a layout after Mender's variables. Nothing can be added to it: what is not as in Mender's image is
// written out.
func (e *evaluator) presetLayout(inst *instance, r *layoutReader) map[string]cty.Value {
	b := inst.body
	for _, n := range b.nested {
		r.known = false
		e.report(fault("Unexpected block", "A preset is a whole layout. To change it, write it out: \"twinkeel inspect\" shows its partitions.", n.rng.Ptr()))
	}
	for _, name := range []string{"table", "alignment", "sector_size", "disk_size", "disk_id"} {
		if b.content.attrs[name] != nil {
			r.known = false
			e.report(fault("Conflicting arguments", fmt.Sprintf("A preset says what the %s is.", strings.ReplaceAll(name, "_", " ")), b.rangeOf(name)))
		}
	}
	unplaced := map[string]cty.Value{"partitions": cty.UnknownVal(cty.List(partitionObject)), "slot_size": cty.UnknownVal(cty.Number)}
	if !r.known || e.pipeline.layouts == nil {
		return unplaced
	}
	made, err := e.pipeline.layouts.Preset(b.text("preset"), b.textMap("variables"))
	if err != nil {
		e.reportLayout(err, r.layout, b.rangeOf("preset"))
		return unplaced
	}
	made.Address, made.Range, made.Areas = r.layout.Address, r.layout.Range, r.layout.Areas
	for _, note := range made.Notes {
		e.report(caution("Preset needs a look", fmt.Sprintf("In %s: %s", made.Address, sentence(note)), b.rangeOf("preset")))
	}
	r.layout = made
	inst.result = made
	return e.placed(r)
}

// placed gives the areas their places and returns what the layout exposes.
func (e *evaluator) placed(r *layoutReader) map[string]cty.Value {
	l := r.layout
	out := map[string]cty.Value{"partitions": cty.UnknownVal(cty.List(partitionObject)), "slot_size": cty.UnknownVal(cty.Number)}
	if !r.known || len(l.Partitions) == 0 {
		return out
	}
	if e.pipeline.layouts != nil {
		if err := e.pipeline.layouts.Place(l); err != nil {
			at := l.RangeOf(err.Error())
			e.reportLayout(err, l, &at)
			return out
		}
	}
	var list []cty.Value
	for _, p := range l.Partitions {
		if p.Size == 0 { // nobody has placed it
			return out
		}
		mount := cty.NullVal(cty.String)
		if p.Mount != "" {
			mount = cty.StringVal(p.Mount)
		}
		start, num := cty.UnknownVal(cty.Number), cty.UnknownVal(cty.Number)
		switch {
		case l.UBI != nil && e.pipeline.layouts != nil: // where its blocks are nobody knows
			start, num = cty.NullVal(cty.Number), number(int64(p.Number))
		case p.Number > 0:
			start, num = number(p.Offset), number(int64(p.Number))
		}
		list = append(list, cty.ObjectVal(map[string]cty.Value{
			"name": cty.StringVal(p.Name), "number": num, "start": start, "size": number(p.Size),
			"filesystem": cty.StringVal(p.Filesystem), "mount": mount,
		}))
		if p.Slot == "a" {
			out["slot_size"] = number(p.Size)
		}
	}
	out["partitions"] = cty.ListVal(list)
	return out
}

// reportLayout says why a layout cannot be.
func (e *evaluator) reportLayout(err error, l *Layout, at *hcl.Range) {
	detail := sentence(strings.TrimPrefix(err.Error(), "layout: "))
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		detail += "\n\nHint: " + sentence(hinted.Hint())
	}
	e.report(fault("Layout not possible", fmt.Sprintf("In %s: %s", l.Address, detail), at))
}

// layoutReader turns the blocks of a layout into its areas.
type layoutReader struct {
	e      *evaluator
	layout *Layout
	names  map[string]hcl.Range
	mounts map[string]string // path -> partition
	known  bool
}

// take notes the name of an area, which must be the only one of that name.
func (r *layoutReader) take(name string, at hcl.Range) {
	if first, dup := r.names[name]; dup {
		r.e.report(fault("Duplicate area", fmt.Sprintf("There is already an area %s in this layout, at %s:%d,%d.", name, filepath.Base(first.Filename), first.Start.Line, first.Start.Column), at.Ptr()))
		r.known = false
		return
	}
	r.names[name] = at
	if len(name) > maxPartitionName {
		r.e.report(fault("Name too long", fmt.Sprintf("A partition table has room for %d characters of a name; %s has %d.", maxPartitionName, name, len(name)), at.Ptr()))
		r.known = false
	}
}

func (r *layoutReader) area(n *nestedBody) {
	b, l := n.body, r.layout
	for _, s := range b.content.schemas {
		r.known = r.known && b.values[s.Name].IsWhollyKnown()
	}
	switch n.schema.Kind {
	case "gpt":
		l.GPT = GPT{Entries: int(b.integer("entries")), EntriesOffset: b.integer("entries_offset"), NoBackup: b.has("backup") && !b.flag("backup")}
	case "reserve":
		r.take(n.label, n.labelRng)
		if l.UBI != nil {
			r.e.report(fault("No reserves on raw flash", "In UBI everything is a volume: write it as a partition, also what holds U-Boot's environment.", n.rng.Ptr()))
			r.known = false
		}
		reserve := Reserve{Name: n.label, Offset: b.integer("offset"), Size: b.integer("size"), Align: b.integer("align")}
		for _, h := range b.all("hole") {
			reserve.Holes = append(reserve.Holes, Span{Offset: h.body.integer("offset"), Size: h.body.integer("size")})
			r.known = r.known && h.body.has("offset") && h.body.has("size")
		}
		l.Reserves = append(l.Reserves, reserve)
	case "partition":
		r.take(n.label, n.labelRng)
		p := r.partition(n)
		p.Mount, p.Bootable, p.Grow = b.text("mount"), b.flag("bootable"), b.flag("grow")
		if first := r.mounts[p.Mount]; first != "" {
			r.e.report(fault("Duplicate mount", fmt.Sprintf("%s and %s are both mounted at %s.", first, p.Name, p.Mount), b.rangeOf("mount")))
		} else if p.Mount != "" {
			r.mounts[p.Mount] = p.Name
		}
		l.Partitions = append(l.Partitions, p)
	case "slots":
		r.take(n.label, n.labelRng)
		for _, slot := range []string{"a", "b"} {
			p := r.partition(n)
			p.Name, p.Slot, p.SlotGroup = n.label+"_"+slot, slot, n.label
			if l.UBI != nil {
				p.Name = n.label + slot
			}
			if slot == "b" {
				p.Offset = 0 // behind the other
			}
			r.take(p.Name, n.labelRng)
			l.Partitions = append(l.Partitions, p)
		}
	}
}

// partition reads what partitions and slots have in common.
func (r *layoutReader) partition(n *nestedBody) Partition {
	b := n.body
	p := Partition{
		Name: n.label, Filesystem: b.text("filesystem"), Label: b.text("label"), Type: b.text("type"), MBRType: b.text("mbr_type"),
		Offset: b.integer("offset"), Align: b.integer("align"), UUID: b.text("uuid"), Attributes: b.texts("attributes"),
		Logical: b.flag("logical"), InMBR: b.flag("in_mbr"),
	}
	p.Size, p.Percent, p.Rest = b.extent("size")
	r.checkKind(n, p)
	if r.layout.UBI != nil {
		return p
	}
	if (p.Percent > 0 || p.Rest) && r.layout.DiskSize == 0 && r.known {
		r.e.report(fault("Missing argument", fmt.Sprintf("The size of %s is a share of the disk, so the layout needs a disk_size.", n.label), b.rangeOf("size")))
		r.known = false
	}
	return p
}

// flash reads what is said of raw flash. What a layout says of a disk has no meaning then.
func (r *layoutReader) flash(b *body, n *nestedBody) {
	f := n.body
	for _, s := range f.content.schemas {
		r.known = r.known && f.values[s.Name].IsWhollyKnown()
	}
	r.layout.UBI = &UBI{
		EraseBlock: f.integer("erase_block"), Page: f.integer("page"), SubPage: f.integer("sub_page"), Blocks: f.integer("blocks"),
		Compression: f.text("compression"), SpaceFixup: f.flag("space_fixup"),
	}
	r.layout.Table, r.layout.Alignment, r.layout.SectorSize = tableUBI, 0, 0
	for _, name := range []string{"table", "alignment", "sector_size", "disk_size", "disk_id"} {
		if b.content.attrs[name] != nil && !b.unset(name) {
			r.e.report(fault("Conflicting arguments", fmt.Sprintf("Raw flash has no %s: that is for disks. Remove it, or the block ubi.", strings.ReplaceAll(name, "_", " ")), b.rangeOf(name)))
			r.known = false
		}
	}
	for _, g := range b.all("gpt") {
		r.e.report(fault("Unexpected block", "Raw flash has no partition table.", g.rng.Ptr()))
		r.known = false
	}
}

// tableUBI stands in the place of a partition table where there is none.
const tableUBI = "ubi"

// checkKind tells arguments of disks from those of raw flash.
func (r *layoutReader) checkKind(n *nestedBody, p Partition) {
	b, flash := n.body, r.layout.UBI != nil
	refuse := func(name, format string, args ...any) {
		r.e.report(fault("Not for this kind of medium", fmt.Sprintf(format, args...), b.rangeOf(name)))
		r.known = false
	}
	switch {
	case !flash && p.Filesystem == ubifs:
		refuse("filesystem", "UBIFS is for raw flash, which a layout with a block ubi has.")
	case flash && p.Filesystem != "" && p.Filesystem != ubifs && p.Filesystem != "none":
		refuse("filesystem", "%s needs a disk. On raw flash there is ubifs, and none for what is copied as it is.", p.Filesystem)
	}
	if !flash {
		return
	}
	if p.Percent > 0 || p.Rest {
		refuse("size", "A volume has a size of its own; grow = true lets one take the rest of the flash.")
	}
	for _, name := range []string{"offset", "align", "label", "type", "uuid", "attributes", "mbr_type", "logical", "in_mbr", "bootable"} {
		if b.content.attrs[name] != nil && !b.unset(name) {
			refuse(name, "%s is for partitions of a disk; a volume of raw flash has none.", name)
		}
	}
}

const ubifs = "ubifs"

// checkGrow: one partition can take the rest of the disk, and only the last one.
func (r *layoutReader) checkGrow(b *body) {
	last := ""
	if len(r.layout.Partitions) > 0 {
		last = r.layout.Partitions[len(r.layout.Partitions)-1].Name
	}
	first := ""
	for _, n := range b.all("partition") {
		switch {
		case !n.body.flag("grow"):
		case first != "":
			r.e.report(fault("Two partitions grow", fmt.Sprintf("Only one partition can take the rest of the disk, and %s does already.", first), n.body.rangeOf("grow")))
			r.known = false
		default:
			first = n.label
		}
	}
	if first == "" || first == last || !r.known || r.layout.UBI != nil {
		return
	}
	i := slices.IndexFunc(b.nested, func(n *nestedBody) bool { return n.label == first })
	r.e.report(fault("Partition cannot grow", fmt.Sprintf("%s grows to the end of the disk, so it must be the last partition.", first), b.nested[i].body.rangeOf("grow")))
	r.known = false
}

// slotNames are the names of the partitions of a pair, A and B.
func (l *Layout) slotNames(group string) (a, b string) {
	if l.UBI != nil {
		return group + "a", group + "b"
	}
	return group + "_a", group + "_b"
}

// slots returns the layout's slot size and the name of the pair.
func (l *Layout) slots() (group string, size int64, filesystem string) {
	for _, p := range l.Partitions {
		if p.Slot == "a" {
			return p.SlotGroup, p.Size, p.Filesystem
		}
	}
	return "", 0, ""
}
