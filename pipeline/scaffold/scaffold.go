// Package scaffold writes the first draft of a pipeline: from nothing, from a Yocto deploy directory, or from the
// kickstart file that wic makes images with. It promises that the text is in canonical form and valid, that what it could
// not carry over is said with file and line, and that it asks the language itself what a deploy directory holds, so that
// the draft and the plan of it agree.
//
// Kickstart: wic's ksparser.py, partition.py and direct.py (openembedded-core up to 5.1, then yoctoproject/wic), and the
// "Kickstart" chapter of the Yocto Project reference manual; where they are silent, what wic does decides. Deploy
// directories: see source "yocto" of package pipeline. Variables of Mender: meta-mender-core/classes/mender-setup*.inc.
package scaffold

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/twinkeel/twinkeel/pipeline"
)

const (
	kib    = int64(1) << 10
	mib    = int64(1) << 20
	gib    = int64(1) << 30
	sector = int64(512)
	// gptEnd is where the first GPT ends: the protective MBR, the header and 128 entries.
	gptEnd = 34 * sector
	// maxSize is more than any disk has, and far from what an int64 holds.
	maxSize = int64(1) << 50
)

// quote writes a string of the language, with what would start a template escaped.
func quote(s string) string {
	return string(hclwrite.TokensForValue(cty.StringVal(s)).Bytes())
}

// quoteList writes a list of strings.
func quoteList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// sizeText writes a size in the largest unit that divides it.
func sizeText(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"GiB", gib}, {"MiB", mib}, {"KiB", kib}} {
		if n >= u.size && n%u.size == 0 {
			return fmt.Sprintf("%d%s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%d", n)
}

func quoteSize(n int64) string { return `"` + sizeText(n) + `"` }

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }

// identifier makes a name of the language from any text: letters, digits and underscores, a letter first.
func identifier(text, fallback string) string {
	out := strings.Trim(notInNames.ReplaceAllString(text, "_"), "_")
	if len(out) > 30 {
		out = strings.TrimRight(out[:30], "_") // room for _a and _b, and for a number
	}
	if out == "" || out[0]|0x20 < 'a' || out[0]|0x20 > 'z' {
		out = fallback
	}
	return out
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9_]+`)

// comment makes lines of a comment, wrapped, from text that may hold anything.
func comment(indent, text string) string {
	const width = 110
	var out strings.Builder
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := ""
		for _, word := range strings.Fields(printable(paragraph)) {
			if line != "" && len(line)+1+len(word) > width {
				out.WriteString(indent + "# " + line + "\n")
				line = ""
			}
			line = strings.TrimSpace(line + " " + word)
		}
		out.WriteString(strings.TrimRight(indent+"# "+line, " ") + "\n")
	}
	return out.String()
}

// printable replaces what would end a comment or drive a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != ' ' && !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}

// shorten cuts a text that is quoted in a message.
func shorten(text string) string {
	const limit = 80
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return text
}

// finish brings a draft into canonical form. That it parses is part of the package's promise.
func finish(text string) (string, error) {
	out, diags := pipeline.Format([]byte(text), "draft")
	if diags.HasErrors() {
		return "", fmt.Errorf("the draft is not valid, which is a mistake of this program: %w", diags)
	}
	return string(out), nil
}

// notice is a diagnostic that does not stop anything.
func notice(at *hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagWarning, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: at}
}

func fault(at *hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: at}
}
