package imaging

import (
	"fmt"
	"strconv"
)

var units = []struct {
	name string
	size int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// FormatSize writes a size for people and for calculators: "64 MiB (67108864 bytes)".
func FormatSize(n int64) string {
	if short := shortSize(n); short != "" {
		return fmt.Sprintf("%s (%d bytes)", short, n)
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// shortSize writes n with one digit behind the point at most; empty below 1 KiB.
func shortSize(n int64) string {
	for _, u := range units {
		if n >= u.size {
			if n%u.size == 0 {
				return fmt.Sprintf("%d %s", n/u.size, u.name)
			}
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.size), u.name)
		}
	}
	return ""
}

// place writes an offset exactly, in the largest unit that divides it.
func place(n int64) string {
	if n != 0 {
		for _, u := range units {
			if n%u.size == 0 {
				return fmt.Sprintf("%d %s", n/u.size, u.name)
			}
		}
	}
	return strconv.FormatInt(n, 10)
}
