package pipeline

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// LockFile holds the digests of what a pipeline fetches and does not pin itself. It belongs under version control.
const LockFile = ".twinkeel.lock.hcl"

const (
	maxLockFile = 4 << 20 // bytes
	maxLocked   = 10_000
)

// Locked is what a lock file knows of a URL.
type Locked struct {
	SHA256 string
	Size   int64 // bytes
}

const lockHeader = `# Written by "twinkeel init --upgrade". It holds what the files must be that the pipeline fetches.
# Keep it under version control.
`

// lockFile reads the pipeline's lock file, once. Without one nothing is locked.
func (f *facts) lockFile() (map[string]Locked, hcl.Diagnostics) {
	if f.locked != nil {
		return f.locked, nil
	}
	data, err := f.read(LockFile, maxLockFile)
	if errors.Is(err, errMissing) {
		f.locked = map[string]Locked{}
		return f.locked, nil
	}
	if err != nil {
		return nil, hcl.Diagnostics{fault("Cannot read file", sentence(err.Error()), nil)}
	}
	locked, diags := ParseLock(data, LockFile)
	if !diags.HasErrors() {
		f.locked = locked
	}
	return locked, diags
}

// ParseLock reads a lock file: blocks http "URL" { sha256 = "..." size = 123 }, whose values are literals.
func ParseLock(data []byte, filename string) (map[string]Locked, hcl.Diagnostics) {
	if len(data) > maxLockFile {
		return nil, hcl.Diagnostics{fault("Lock file too large", fmt.Sprintf("%s has more than %s.", filename, formatSize(maxLockFile)), nil)}
	}
	if diags := checkNesting(data, filename); diags.HasErrors() {
		return nil, diags
	}
	file, diags := hclparse.NewParser().ParseHCL(data, filename)
	if diags.HasErrors() {
		return nil, diags
	}
	content, diags := file.Body.Content(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "http", LabelNames: []string{"url"}}}})
	if diags.HasErrors() {
		return nil, diags
	}
	locked := make(map[string]Locked)
	for _, b := range content.Blocks {
		var l struct {
			SHA256 string `hcl:"sha256"`
			Size   int64  `hcl:"size"`
		}
		if d := gohcl.DecodeBody(b.Body, nil, &l); d.HasErrors() {
			return nil, d
		}
		at := b.DefRange.Ptr()
		_, twice := locked[b.Labels[0]]
		u, err := url.Parse(b.Labels[0])
		switch {
		case !validSHA256.MatchString(l.SHA256) || l.Size < 0:
			return nil, hcl.Diagnostics{fault("Damaged lock file", "The sha256 must be 64 hexadecimal digits in lower case, and the size not negative. \"twinkeel init --upgrade\" writes the file anew.", at)}
		case err != nil || u.Host == "":
			return nil, hcl.Diagnostics{fault("Damaged lock file", "The label is no URL.", at)}
		case twice:
			return nil, hcl.Diagnostics{fault("Damaged lock file", fmt.Sprintf("%s is there twice.", shorten(b.Labels[0])), at)}
		case len(locked) >= maxLocked:
			return nil, hcl.Diagnostics{fault("Lock file too large", fmt.Sprintf("There are more than %d files in it.", maxLocked), at)}
		}
		locked[b.Labels[0]] = Locked(l)
	}
	return locked, nil
}

// FormatLock writes a lock file, sorted by URL.
func FormatLock(locked map[string]Locked) []byte {
	f := hclwrite.NewEmptyFile()
	for _, u := range keys(locked) {
		f.Body().AppendNewline()
		b := f.Body().AppendNewBlock("http", []string{u}).Body()
		b.SetAttributeValue("sha256", cty.StringVal(locked[u].SHA256))
		b.SetAttributeValue("size", cty.NumberIntVal(locked[u].Size))
	}
	var out strings.Builder
	out.WriteString(lockHeader)
	out.Write(f.Bytes())
	return []byte(out.String())
}
