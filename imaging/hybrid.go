package imaging

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A hybrid is a GPT whose MBR lists some of the same partitions. Linux, U-Boot and UEFI see an entry of type ee that
// begins in sector 1 and read the GPT; a boot ROM that knows only MBRs reads the other entries. The ee entry comes
// last, as genimage has it, so that the entries in front have the numbers which the boot ROM's documents name.
const maxHybrid = mbrEntries - 1

// checkHybrid counts the partitions in the MBR.
func checkHybrid(m *Map) error {
	var names []string
	for _, r := range m.Regions {
		if m.listedInMBR(r) {
			names = append(names, fmt.Sprintf("%q", r.Name))
		}
	}
	switch {
	case len(names) == 0:
		return refuse(`say which partitions are in the MBR too, or use table = "gpt"`, "a hybrid table without a partition in its MBR")
	case len(names) > maxHybrid:
		return refuse("", "%d partitions in the MBR of a hybrid table: %s; beside the entry that protects the GPT there is room for %d",
			len(names), strings.Join(names, ", "), maxHybrid)
	}
	return nil
}

// protectiveBlock is the MBR in front of a GPT. UEFI 2.10 table 5.4 says what the protective entry is; its length is
// saturated when the disk has more sectors than it can name. In a hybrid it covers what is in front of the first partition,
// so that no two entries overlap.
func (m *Map) protectiveBlock() block {
	var s mbrSector
	slot, last := 0, min(m.Size/m.SectorSize-1, math.MaxUint32)
	if m.Table == TableHybrid {
		copy(s[:], m.hybridEntries(&slot, &last))
	}
	s.put(slot, mbrTypeProtective, false, 1, last)
	if m.Table != TableHybrid {
		copy(s[mbrEntriesAt+5:], []byte{0xff, 0xff, 0xff}) // UEFI's "not representable" is not what MBRs have, fe ff ff
	}
	return block{bootCodeSize, s[bootCodeSize:]}
}

// hybridEntries is an MBR with the partitions that are in it; it moves slot behind them and last in front of them.
func (m *Map) hybridEntries(slot *int, last *int64) []byte {
	listed := m.numberedInMBR()
	blocks := (&Map{Table: TableMBR, SectorSize: m.SectorSize, Signature: m.Signature, Regions: listed}).mbrBlocks()
	out := make([]byte, mbrSize)
	copy(out[bootCodeSize:], blocks[0].data)
	for _, r := range listed {
		*slot = max(*slot, r.Number)
		*last = min(*last, r.Offset/m.SectorSize-1)
	}
	return out
}

// numberedInMBR are the partitions in the MBR with their numbers there.
func (m *Map) numberedInMBR() []Region {
	var out []Region
	for _, r := range m.Regions {
		if m.listedInMBR(r) {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b Region) int { return cmp.Compare(a.Number, b.Number) })
	for i := range out {
		out[i].Number = i + 1
	}
	return out
}
