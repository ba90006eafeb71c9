package scaffold

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Limits of kickstart files. Real ones have a page; expanding variables must not blow a line up.
const (
	maxKickstart  = 1 << 20
	maxLines      = 10_000 // over all included files
	maxLine       = 64 << 10
	maxIncludes   = 8 // files that are open at once
	maxParts      = 100
	maxExpansions = 1_000 // variables in a line
)

// part is a `part` line.
type part struct {
	rng     hcl.Range
	mount   string
	options map[string]string // without the dashes; flags have ""
}

func (p *part) has(name string) bool { _, ok := p.options[name]; return ok }

// kickstart is what a kickstart file says.
type kickstart struct {
	parts      []*part
	bootloader *part // nil without one; its mount is empty
	files      map[string]*hcl.File
	diags      hcl.Diagnostics
	lines      int
}

// options of a line: whether each takes a value.
var partOptions = map[string]bool{
	"ondisk": true, "ondrive": true, "size": true, "fixed-size": true, "align": true, "offset": true, "extra-filesystem-space": true,
	"extra-space": true, "extra-partition-space": true, "overhead-factor": true, "fstype": true, "mkfs-extraopts": true,
	"label": true, "use-label": false, "fsuuid": true, "fsoptions": true, "fspassno": true, "source": true, "sourceparams": true,
	"rootfs-dir": true, "exclude-path": true, "include-path": true, "change-directory": true, "part-name": true,
	"part-type": true, "uuid": true, "use-uuid": false, "system-id": true, "active": false, "hidden": false, "mbr": false,
	"no-table": false, "type": true, "no-fstab-update": false, "diskid": true,
}

var bootloaderOptions = map[string]bool{
	"ptable": true, "diskid": true, "timeout": true, "append": true, "configfile": true, "source": true,
}

// several are the options that take all words up to the next option.
var several = []string{"exclude-path", "include-path"}

// parseKickstart reads a file and what it includes, which must lie in fsys.
func parseKickstart(fsys fs.FS, name string, vars map[string]string) *kickstart {
	k := &kickstart{files: map[string]*hcl.File{}}
	k.file(fsys, name, vars, nil, nil)
	return k
}

func (k *kickstart) add(d *hcl.Diagnostic) { k.diags = append(k.diags, d) }

func (k *kickstart) file(fsys fs.FS, name string, vars map[string]string, open []string, from *hcl.Range) {
	switch {
	case slices.Contains(open, name):
		k.add(fault(from, "Include goes in circles", "%s is being read already: it includes itself.", name))
		return
	case len(open) == maxIncludes:
		k.add(fault(from, "Too many includes", "At most %d files may include one another.", maxIncludes))
		return
	}
	src, err := readKickstart(fsys, name)
	if err != nil {
		k.add(fault(from, "Cannot read kickstart file", "%s.", err))
		return
	}
	k.files[name] = &hcl.File{Bytes: src}
	for _, l := range logicalLines(name, src) {
		if k.lines++; k.lines > maxLines {
			k.add(fault(&l.rng, "Too many lines", "A kickstart file has at most %d lines, those of included files counted.", maxLines))
			return
		}
		words, d := splitLine(l, vars)
		if d != nil {
			k.add(d)
			continue
		}
		if len(words) == 0 {
			continue
		}
		if words[0] == "include" {
			k.include(fsys, words, l.rng, vars, append(open, name))
		} else {
			k.command(words, l.rng)
		}
		if k.lines > maxLines {
			return
		}
	}
}

func (k *kickstart) include(fsys fs.FS, words []string, at hcl.Range, vars map[string]string, open []string) {
	if len(words) != 2 {
		k.add(fault(&at, "Wrong include", "include takes one file name."))
		return
	}
	name := path.Join(path.Dir(at.Filename), words[1])
	if path.IsAbs(words[1]) || !fs.ValidPath(name) {
		k.add(fault(&at, "Include leaves the directory", "%q is not in the directory of the kickstart file. Copy it there, or write its lines in its place.", shorten(words[1])))
		return
	}
	k.file(fsys, name, vars, open, &at)
}

func (k *kickstart) command(words []string, at hcl.Range) {
	switch words[0] {
	case "part", "partition":
		if len(k.parts) == maxParts {
			k.add(fault(&at, "Too many partitions", "At most %d are read.", maxParts))
		} else if len(k.parts) < maxParts {
			k.parts = append(k.parts, k.options(words[1:], at, partOptions))
			return
		}
	case "bootloader":
		if k.bootloader != nil {
			k.add(fault(&at, "Second bootloader", "There is a bootloader line already, at %s:%d.", k.bootloader.rng.Filename, k.bootloader.rng.Start.Line))
			return
		}
		k.bootloader = k.options(words[1:], at, bootloaderOptions)
		if k.bootloader.mount != "" {
			k.add(notice(&at, "Unknown argument", "bootloader takes no %q; it is left out.", shorten(k.bootloader.mount)))
		}
	default:
		k.add(fault(&at, "Unknown command", "%q is no kickstart command; there are part, bootloader and include.", shorten(words[0])))
	}
}

// options reads the arguments of a line as argparse does: --name value and --name=value, the last one wins.
func (k *kickstart) options(words []string, at hcl.Range, known map[string]bool) *part {
	p := &part{rng: at, options: map[string]string{}}
	for i := 0; i < len(words); i++ {
		text, isOption := strings.CutPrefix(words[i], "--")
		if !isOption {
			if p.mount == "" {
				p.mount = words[i]
			} else {
				k.add(notice(&at, "Unknown argument", "%q is left out: a line has one mount point.", shorten(words[i])))
			}
			continue
		}
		name, value, given := strings.Cut(text, "=")
		takes, ok := known[name]
		next := func() bool { return i+1 < len(words) && !strings.HasPrefix(words[i+1], "--") }
		switch {
		case !ok:
			k.add(notice(&at, "Unknown option", "--%s is not known and left out.", shorten(name)))
			if !given && next() && strings.HasPrefix(words[i], "--") && p.mount != "" {
				i++ // its value, in all likelihood: the mount point has been
			}
			continue
		case !takes && given:
			k.add(notice(&at, "Unexpected value", "--%s takes no value; it is left out.", name))
		case takes && !given && !next():
			k.add(fault(&at, "Missing value", "--%s needs a value.", name))
			continue
		case takes && !given:
			i++
			value = words[i]
			for slices.Contains(several, name) && next() {
				i++
			}
		}
		p.options[name] = value
	}
	return p
}

func readKickstart(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		var pathError *fs.PathError
		if errors.As(err, &pathError) {
			err = pathError.Err
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", name)
	}
	src, err := io.ReadAll(io.LimitReader(f, maxKickstart+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case len(src) > maxKickstart:
		return nil, fmt.Errorf("%s is larger than 1 MiB, which no kickstart file is", name)
	}
	return src, nil
}

// line is a line with those that continue it.
type line struct {
	text string
	rng  hcl.Range
}

// logicalLines joins lines that end in a backslash, and leaves out comments and empty lines.
func logicalLines(name string, src []byte) []line {
	var out []line
	var open *line
	offset, number := 0, 0
	for raw := range strings.Lines(string(src)) {
		number++
		text := strings.TrimRight(raw, "\r\n")
		rng := hcl.Range{Filename: name, Start: hcl.Pos{Line: number, Column: 1, Byte: offset}, End: hcl.Pos{Line: number, Column: len([]rune(text)) + 1, Byte: offset + len(text)}}
		offset += len(raw)
		text = strings.TrimSpace(text)
		if open == nil {
			if text == "" || text[0] == '#' {
				continue
			}
			out = append(out, line{rng: rng})
			open = &out[len(out)-1]
		}
		rest, more := strings.CutSuffix(text, `\`)
		if len(open.text) <= maxLine { // what is longer is refused anyway
			open.text += rest
		}
		if open.rng.Start.Line != number {
			open.rng.End = rng.End
		}
		if !more {
			open = nil
		}
	}
	return out
}

var variablePattern = regexp.MustCompile(`\$\{[^{}\n]*\}`)

// splitLine replaces ${VAR} and splits a line into words as a shell does.
func splitLine(l line, vars map[string]string) ([]string, *hcl.Diagnostic) {
	text := l.text
	for n := 0; ; n++ {
		if len(text) > maxLine || n > maxExpansions {
			return nil, fault(&l.rng, "Line too long", "With its variables the line is longer than 64 KiB, or a variable contains itself.")
		}
		at := variablePattern.FindStringIndex(text)
		if at == nil {
			break
		}
		name := text[at[0]+2 : at[1]-1]
		value, ok := vars[name]
		if !ok {
			return nil, fault(&l.rng, "Variable without value", "%s", missingVariable(name))
		}
		text = text[:at[0]] + value + text[at[1]:]
	}
	if strings.ContainsRune(text, 0) {
		return nil, fault(&l.rng, "Not a kickstart file", "The line holds a zero byte.")
	}
	words, err := shellWords(text)
	if err != nil {
		return nil, fault(&l.rng, "Open quotation", "%s.", err)
	}
	return words, nil
}

func missingVariable(name string) string {
	if strings.HasPrefix(name, "@") {
		return "The line holds Python for bitbake. Import the expanded file instead: bitbake leaves it beside the image, as IMAGE-MACHINE.wks."
	}
	return fmt.Sprintf("Nothing says what %s is. Give it with --var %s=VALUE, or the build's variables with --testdata FILE.testdata.json.", shorten(name), shorten(name))
}

// shellWords splits a text as Python's shlex.split does.
func shellWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, quoted := false, byte(0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quoted == 0 && (c == ' ' || c == '\t' || c == '\r' || c == '\n'):
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
			continue
		case quoted == 0 && (c == '"' || c == '\''):
			quoted, inWord = c, true
			continue
		case quoted != 0 && c == quoted:
			quoted = 0
			continue
		case c == '\\' && quoted != '\'':
			if i+1 == len(text) {
				return nil, errors.New("a backslash ends the line")
			}
			if next := text[i+1]; quoted == 0 || next == '"' || next == '\\' {
				i++
				c = next
			}
		}
		inWord = true
		word.WriteByte(c)
	}
	if quoted != 0 {
		return nil, fmt.Errorf("a %c is not closed", quoted)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// kickstartSize reads a size: digits and k, K, M or G, for offsets also s. A plain number counts in unit.
func kickstartSize(text string, unit int64, sectors bool) (int64, error) {
	digits := text
	if n := len(text); n > 0 {
		factor := map[byte]int64{'k': kib, 'K': kib, 'M': mib, 'G': gib}[text[n-1]]
		if sectors && (text[n-1] == 's' || text[n-1] == 'S') {
			factor = sector
		}
		if factor != 0 {
			digits, unit = text[:n-1], factor
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a size; write a number with k, M or G", shorten(text))
	}
	if n > math.MaxInt64/unit || n*unit > maxSize {
		return 0, fmt.Errorf("%q is more than a disk holds", shorten(text))
	}
	return n * unit, nil
}
