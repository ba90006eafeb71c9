package pipeline

import (
	"strings"

	"github.com/agext/levenshtein"
)

// closest returns the candidate that is most like name, or "" when none is like it.
func closest(name string, candidates []string) string {
	limit := 1 + len(name)/4
	best, bestDistance := "", limit+1
	for _, c := range candidates {
		if c == name {
			continue
		}
		if d := len(c) - len(name); d > limit || -d > limit {
			continue
		}
		distance := levenshtein.Distance(strings.ToLower(name), strings.ToLower(c), nil)
		if swapped(name, c) {
			distance = 1
		}
		if distance < bestDistance {
			best, bestDistance = c, distance
		}
	}
	if best == "" { // a word that was cut short or made longer: "device" for "device_type"
		for _, c := range candidates {
			if len(name) >= 4 && strings.HasPrefix(c, name) || len(c) >= 4 && strings.HasPrefix(name, c) {
				return c
			}
		}
	}
	return best
}

// swapped tells whether two neighbouring letters are all that differs, the commonest slip of all.
func swapped(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	return i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
}

// suggestion ends a message about an unknown name: with the candidate that was probably meant, else with all of them when
// they are few and a prefix for the list is given.
func suggestion(name string, candidates []string, list string) string {
	if best := closest(name, candidates); best != "" {
		return " Did you mean " + best + "?"
	}
	if list != "" && len(candidates) > 0 && len(candidates) <= 16 {
		return " " + list + strings.Join(candidates, ", ") + "."
	}
	return ""
}
