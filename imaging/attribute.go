package imaging

import (
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// The attribute of partitions that U-Boot's distro boot and syslinux look for.
const attributeLegacyBoot = "legacy-boot"

// attributeBits are the names of a GPT partition's attributes: bits 0 to 2 from UEFI 2.10 table 5.6, the others, which
// belong to the type of a partition, from the Discoverable Partitions Specification.
var attributeBits = map[string]uint{
	"required": 0, "no-block-io": 1, attributeLegacyBoot: 2, "grow-filesystem": 59, "read-only": 60, "hidden": 62, "no-automount": 63,
}

// AttributeNames returns the names that [Partition].Attributes understands beside the numbers of bits, in their order.
func AttributeNames() []string { return attributeNames(^uint64(0), false) }

// attributeNames lists the bits that are set; the ones without a name by their number, if numbers is set.
func attributeNames(set uint64, numbers bool) (names []string) {
	byBit := map[uint]string{}
	for name, bit := range attributeBits {
		byBit[bit] = name
	}
	for ; set != 0; set &= set - 1 {
		bit := uint(bits.TrailingZeros64(set))
		if name := byBit[bit]; name != "" {
			names = append(names, name)
		} else if numbers {
			names = append(names, strconv.Itoa(int(bit)))
		}
	}
	return names
}

// attributes of a partition as its region lists them: in the order of their bits, each once.
func attributes(p Partition) ([]string, error) {
	var set uint64
	if p.Bootable {
		set = 1 << attributeBits[attributeLegacyBoot]
	}
	for _, name := range p.Attributes {
		bit, ok := attributeBit(name)
		if !ok {
			all := "attributes are " + strings.Join(AttributeNames(), ", ") + " and the numbers of bits, 0 to 63"
			return nil, refuse(adviseType(name, AttributeNames(), all),
				"partition %q: unknown attribute %q", p.Name, name)
		}
		set |= 1 << bit
	}
	return attributeNames(set, true), nil
}

func attributeBit(name string) (uint, bool) {
	if bit, ok := attributeBits[name]; ok {
		return bit, true
	}
	n, err := strconv.ParseUint(name, 10, 8)
	return uint(n), err == nil && n < 64 && strconv.FormatUint(n, 10) == name
}

// attributeSet is the 64-bit field for a region.
func (r Region) attributeSet() (set uint64) {
	for _, name := range r.Attributes {
		if bit, ok := attributeBit(name); ok {
			set |= 1 << bit
		}
	}
	return set
}

func (r Region) hasAttribute(name string) bool { return slices.Contains(r.Attributes, name) }
