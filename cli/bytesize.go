package cli

import (
	"math"

	"github.com/dustin/go-humanize"
)

// parseSize reads a size such as 200MiB; an empty text is 0.
func parseSize(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > math.MaxInt64 {
		return 0, usagef("%s takes a size, such as 200MiB or 1.5GB; not %q", flag, text)
	}
	return int64(n), nil
}
