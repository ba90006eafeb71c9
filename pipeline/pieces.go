package pipeline

import (
	"bytes"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// pieceSize is how much of a source is lexed at once. A token is twenty times as large as its text, so the tokens of a large
// file are most of the memory, and with it of the time, that reading it takes; those of a piece are gone after it.
const pieceSize = 4 << 10

// pieces cuts a source after lines that hold a closing brace alone, which is where most blocks end. It may be wrong about
// that: the brace may stand in a heredoc or a comment. Who reads the pieces in order, stops at the first that is not
// complete in itself and then takes the source as a whole, is right all the same.
func pieces(src []byte) [][]byte {
	var out [][]byte
	for len(src) > 2*pieceSize {
		end := pieceSize
		for {
			i := bytes.Index(src[end:], []byte("\n}\n"))
			if i < 0 {
				return append(out, src)
			}
			end += i + 3
			if end == len(src) {
				return append(out, src)
			}
			if src[end] < 0x80 { // what is removed from the beginning of a file, and of a piece, is not looked for inside
				break
			}
		}
		out = append(out, src[:end])
		src = src[end:]
	}
	return append(out, src)
}

// parseNative parses native syntax that may come from anybody.
func parseNative(src []byte, filename string) (*hcl.File, hcl.Diagnostics) {
	if file := parsePieces(src, filename); file != nil {
		return file, nil
	}
	if diags := checkNesting(src, filename); diags.HasErrors() {
		return &hcl.File{Bytes: src}, diags
	}
	return hclsyntax.ParseConfig(src, filename, hcl.InitialPos)
}

// parsePieces parses a large source in pieces, and returns nil when there is anything to say about it.
func parsePieces(src []byte, filename string) *hcl.File {
	parts := pieces(src)
	if len(parts) == 1 {
		return nil
	}
	whole := &hclsyntax.Body{Attributes: make(hclsyntax.Attributes)}
	pos := hcl.InitialPos
	for _, part := range parts {
		body := parsePiece(part, filename, pos)
		if body == nil {
			return nil
		}
		for name, a := range body.Attributes {
			if whole.Attributes[name] != nil {
				return nil
			}
			whole.Attributes[name] = a
		}
		whole.Blocks = append(whole.Blocks, body.Blocks...)
		whole.EndRange = body.EndRange
		pos.Byte += len(part)
		pos.Line += bytes.Count(part, []byte{'\n'})
	}
	whole.SrcRange = hcl.Range{Filename: filename, Start: hcl.InitialPos, End: whole.EndRange.End}
	return &hcl.File{Body: whole, Bytes: src, Nav: blockNames{whole}}
}

func parsePiece(part []byte, filename string, start hcl.Pos) *hclsyntax.Body {
	if checkNesting(part, filename).HasErrors() {
		return nil
	}
	file, diags := hclsyntax.ParseConfig(part, filename, start)
	if len(diags) > 0 {
		return nil
	}
	body, _ := file.Body.(*hclsyntax.Body)
	return body
}

// blockNames tells which block of a file an offset is in, for messages; hcled looks for these methods.
type blockNames struct{ body *hclsyntax.Body }

func (n blockNames) at(offset int) *hclsyntax.Block {
	for _, b := range n.body.Blocks {
		if b.Range().ContainsOffset(offset) {
			return b
		}
	}
	return nil
}

// ContextString is the header of the block.
func (n blockNames) ContextString(offset int) string {
	b := n.at(offset)
	if b == nil {
		return ""
	}
	text := b.Type
	for _, label := range b.Labels {
		text += " " + strconv.Quote(label)
	}
	return text
}

// ContextDefRange is where the header stands.
func (n blockNames) ContextDefRange(offset int) hcl.Range {
	if b := n.at(offset); b != nil {
		return b.DefRange()
	}
	return hcl.Range{}
}
