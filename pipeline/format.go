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
	if out := formatPieces(src, filename); out != nil {
		return out, nil
	}
	if diags := checkNesting(src, filename); diags.HasErrors() {
		return nil, diags
	}
	if _, diags := hclsyntax.ParseConfig(src, filename, hcl.InitialPos); diags.HasErrors() {
		return nil, diags
	}
	return hclwrite.Format(src), nil
}

// formatPieces formats a large source in pieces, and returns nil when there is anything to say about it. A line that holds
// a closing brace alone ends every alignment, so the result is that of the whole.
func formatPieces(src []byte, filename string) []byte {
	parts := pieces(src)
	if len(parts) == 1 {
		return nil
	}
	out := make([]byte, 0, len(src)+len(src)/8)
	names := make(map[string]bool)
	for _, part := range parts {
		body := parsePiece(part, filename, hcl.InitialPos)
		if body == nil {
			return nil
		}
		for name := range body.Attributes {
			if names[name] {
				return nil // twice, which is a mistake
			}
			names[name] = true
		}
		out = append(out, hclwrite.Format(part)...)
	}
	return out
}
