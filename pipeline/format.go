package pipeline

import (
	"bytes"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format returns the canonical form of a file in native syntax. Line ends stay as they are and a byte order mark goes. A
// file that does not parse is refused, since formatting would move its mistakes around; JSON syntax has no canonical form
// here and comes back unchanged.
func Format(src []byte, filename string) ([]byte, hcl.Diagnostics) {
	if isJSON(filename) {
		return src, nil
	}
	if len(src) > maxFileSize {
		return nil, hcl.Diagnostics{fault("File too large", "Files of more than "+formatSize(maxFileSize)+" are not read.", nil)}
	}
	src = bytes.TrimPrefix(src, byteOrderMark)
	if diags := checkNesting(src, filename); diags.HasErrors() {
		return nil, diags
	}
	if _, diags := hclsyntax.ParseConfig(src, filename, hcl.InitialPos); diags.HasErrors() {
		return nil, diags
	}
	return hclwrite.Format(src), nil
}
