package edit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// Suffixes of what lies beside an image.
const (
	suffixBmap = ".bmap"
	suffixSum  = ".sha256"
	suffixSig  = ".sig"
)

// Beside are the names that what describes the image at path can have.
func Beside(path string) []string {
	return []string{path + suffixBmap, path + suffixSum, path + suffixSig, path + suffixBmap + suffixSig, path + suffixSum + suffixSig}
}

const maxSumFile = 1 << 20

// beside are the files that describe an image, complete but for their names.
type beside struct {
	sum   string // SHA-256 of the image; "": not asked for
	files []*durable.File
}

// describe makes anew what lay beside the old image, or lies where the changed one will be.
func (im *Image) describe(ctx context.Context) (*beside, error) {
	bmap, sum := im.hasBeside(suffixBmap), im.hasBeside(suffixSum)
	b := &beside{}
	if !bmap && !sum && !im.o.Digest {
		return b, nil
	}
	im.meter.more(im.Disk.Size)
	made, digest, err := imaging.Survey(ctx, im.file(), im.Disk.WithEnvironments(), im.oldBmap(), im.meter.add)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", im.Path, plainCause(err))
	}
	b.sum = digest
	if bmap {
		err = b.add(im.Path+suffixBmap, func(w io.Writer) error { _, err := made.WriteTo(w); return err })
	}
	if sum && err == nil {
		text := im.sumText(digest)
		err = b.add(im.Path+suffixSum, func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
	}
	if err != nil {
		b.abort()
		return nil, err
	}
	return b, nil
}

func (im *Image) hasBeside(suffix string) bool {
	return exists(im.source+suffix) || exists(im.Path+suffix)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// oldBmap is that of the old image. One that is damaged says nothing.
func (im *Image) oldBmap() *imaging.Bmap {
	f, err := os.Open(im.source + suffixBmap)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := imaging.ParseBmap(f)
	if err != nil {
		return nil
	}
	return b
}

// sumText is the .sha256 file with the new digest: lines about other files stay.
func (im *Image) sumText(digest string) string {
	name := filepath.Base(im.Path)
	own := digest + "  " + name + "\n"
	old, _ := readLimited(im.Path+suffixSum, maxSumFile) // what cannot be read is replaced
	var text strings.Builder
	found := false
	for line := range strings.Lines(string(old)) {
		sum, of, _ := strings.Cut(strings.TrimSpace(line), " ")
		of = strings.TrimPrefix(strings.TrimSpace(of), "*")
		raw, err := hex.DecodeString(sum)
		switch {
		case err != nil || len(raw) != 32:
			return own // none that sha256sum writes
		case of != "" && filepath.Base(of) != name:
			text.WriteString(line)
		case !found:
			found = true
			text.WriteString(own)
		}
	}
	if !found {
		text.WriteString(own)
	}
	return text.String()
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("it has more than %s", imaging.FormatSize(limit))
	}
	return text, err
}

func (b *beside) add(path string, write func(w io.Writer) error) error {
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := durable.Create(path, mode)
	if err != nil {
		return err
	}
	b.files = append(b.files, f)
	if err := errors.Join(write(f), durable.Sync(f.File)); err != nil {
		return fmt.Errorf("writing %s: %w", path, plainCause(err))
	}
	return nil
}

func (b *beside) abort() {
	for _, f := range b.files {
		f.Abort()
	}
}

func (b *beside) commit() (paths []string, err error) {
	for _, f := range b.files {
		if err := f.Commit(); err != nil {
			return paths, err
		}
		paths = append(paths, f.Path())
	}
	return paths, nil
}

// staleSignatures are those beside a changed image: over the image, over its block map, over its checksum.
func staleSignatures(path string) (stale []string) {
	for _, name := range Beside(path) {
		if strings.HasSuffix(name, suffixSig) && exists(name) {
			stale = append(stale, name)
		}
	}
	return stale
}
