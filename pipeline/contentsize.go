package pipeline

import (
	"fmt"
	"io/fs"
	"path"

	"github.com/hashicorp/hcl/v2"
)

// maxWalked bounds how many entries of a directory are looked at; a build finds out about larger ones.
const maxWalked = 100_000

// checkContentSize reports a fill whose files are more than its partition. What the file system itself needs is not known
// here, so what is reported certainly does not fit. On ext4 it is only probable: files there can have holes, and what is
// zero is left out. The others compress.
func (e *evaluator) checkContentSize(f *Fill, target *Partition, place string, at *hcl.Range) {
	if e.facts == nil || target == nil || target.Size == 0 || f.Dir == "" && len(f.Files) == 0 {
		return
	}
	sum := int64(0)
	for _, dest := range keys(f.Files) {
		if size, err := e.facts.regular(f.Files[dest]); err == nil && !e.pending(f.Files[dest]) {
			sum += size
		}
	}
	what := "The files"
	if f.Dir != "" && !e.pending(f.Dir) {
		left := maxWalked
		sum += e.facts.sizeBelow(f.Dir, &left)
		what = "The files of " + e.shown(f.Dir)
	}
	if sum <= target.Size {
		return
	}
	detail := fmt.Sprintf("%s have %s in all, but %s has only %s. Make it larger in the layout, or leave something out.", what, formatSize(sum), place, formatSize(target.Size))
	switch target.Filesystem {
	case "vfat":
		e.report(fault("Content too large for its place", detail, at))
	case "ext4":
		e.report(caution("Content may be too large for its place", detail, at))
	}
}

// sizeBelow adds up the files of a directory, as far as left entries go. What cannot be read counts nothing.
func (f *facts) sizeBelow(dir string, left *int) (sum int64) {
	entries, err := f.fs.ReadDir(f.abs(dir))
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		if *left--; *left < 0 || f.ctx.Err() != nil {
			return sum
		}
		name := path.Join(dir, entry.Name())
		switch entry.Type() {
		case fs.ModeDir:
			sum += f.sizeBelow(name, left)
		case 0:
			if size, err := f.regular(name); err == nil {
				sum += size
			}
		}
	}
	return sum
}
