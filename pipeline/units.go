package pipeline

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// sizeUnits are the units of sizes. "G" and "GB" mean different things to different tools, so "G" is refused.
var sizeUnits = map[string]int64{
	"": 1, "B": 1,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
}

// parseSize reads a size such as "512MiB". The result is exact: "1.5GiB" is fine, "0.1KiB" is not.
func parseSize(text string) (int64, error) {
	trimmed := strings.TrimSpace(text)
	end := strings.IndexFunc(trimmed, func(r rune) bool { return r != '.' && r != '-' && (r < '0' || r > '9') })
	if end < 0 {
		end = len(trimmed)
	}
	digits, unit := trimmed[:end], strings.TrimSpace(trimmed[end:])
	if digits == "" || len(digits) > 32 {
		return 0, fmt.Errorf("%q is not a size; write a whole number of bytes or a text such as \"512MiB\"", shorten(text))
	}
	factor, ok := sizeUnits[unit]
	if !ok {
		if letter := strings.ToUpper(unit); len(letter) == 1 && strings.Contains("KMGT", letter) {
			return 0, fmt.Errorf("%q can be read in two ways: write %s%siB (powers of 1024) or %s%s (powers of 1000)",
				text, digits, letter, digits, letter+"B")
		}
		return 0, fmt.Errorf("%q has no unit of size; use KiB, MiB, GiB, TiB, or kB, MB, GB, TB", shorten(text))
	}
	r, ok := new(big.Rat).SetString(digits)
	if !ok {
		return 0, fmt.Errorf("%q is not a size", shorten(text))
	}
	r.Mul(r, new(big.Rat).SetInt64(factor))
	switch {
	case !r.IsInt():
		return 0, fmt.Errorf("%q is not a whole number of bytes", shorten(text))
	case !r.Num().IsInt64():
		return 0, fmt.Errorf("%q is more than a disk can hold", shorten(text))
	}
	return r.Num().Int64(), nil
}

// formatSize writes a size for people: exactly, in the largest unit that divides it, else also rounded.
func formatSize(n int64) string {
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if f := sizeUnits[u]; n >= f && n%f == 0 {
			return fmt.Sprintf("%d%s", n/f, u)
		}
	}
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if f := sizeUnits[u]; n >= f {
			return fmt.Sprintf("%.1f%s (%d bytes)", float64(n)/float64(f), u, n)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// parseDuration reads Go's form of a duration with "d" for days in front, such as "1d12h".
func parseDuration(text string) (time.Duration, error) {
	errBad := fmt.Errorf("%q is not a duration; write one such as \"90s\", \"2h\" or \"1d12h\"", shorten(text))
	rest := strings.TrimSpace(text)
	if len(rest) > 64 {
		return 0, errBad
	}
	var total time.Duration
	if days, after, found := strings.Cut(rest, "d"); found {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || math.IsNaN(n) {
			return 0, errBad
		}
		if n < 0 {
			return 0, errors.New("a duration cannot be negative")
		}
		if n > 36500 {
			return 0, errors.New("a duration of more than 100 years is not meant seriously")
		}
		total, rest = time.Duration(n*24*float64(time.Hour)), after
		if rest == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(rest)
	switch {
	case err != nil:
		return 0, errBad
	case d < 0:
		return 0, errors.New("a duration cannot be negative")
	case d > 36500*24*time.Hour:
		return 0, errors.New("a duration of more than 100 years is not meant seriously")
	}
	return total + d, nil
}

// shorten cuts a text that is quoted in a message.
func shorten(text string) string {
	const limit = 60
	runes := []rune(text)
	if len(runes) <= limit {
		return text
	}
	return string(runes[:limit-1]) + "…"
}
