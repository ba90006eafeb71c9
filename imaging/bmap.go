package imaging

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // bmap 1.3 knows no other checksum
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Limits of a block map that is read; every byte of it may be hostile.
const (
	maxBmapText  = 32 << 20 // about 300,000 ranges
	maxBmapBlock = 16 << 20
)

// bmapVersion is what is written. Its format is described in bmaptool 3.6's BmapCreate.py and decided by BmapCopy.py.
const bmapVersion = "2.0"

// Bmap says which blocks of an image must be copied; all others hold zeros and may be left alone or discarded.
type Bmap struct {
	Version   string // of the file it was read from; WriteTo always writes 2.0
	ImageSize int64
	BlockSize int64
	// ChecksumType is "sha1", "sha256", "sha384" or "sha512"; empty in versions before 1.3, which have no checksums.
	ChecksumType string
	Ranges       []BmapRange // in order, none touching another's blocks
}

// BmapRange is a run of blocks, First and Last included.
type BmapRange struct {
	First, Last int64
	// Checksum of the run's bytes in lower case hex; empty when the map has none. The last run ends with the image, which
	// may be inside a block.
	Checksum string
}

// BmapError says what is wrong with a block map.
type BmapError struct{ Reason string }

func (e *BmapError) Error() string { return "the block map (bmap) is refused: " + e.Reason }

// Hint says what to do about it.
func (e *BmapError) Hint() string {
	return "make it again from the image, for example with bmaptool create, or get both again from where they came from"
}

func badBmap(format string, args ...any) error { return &BmapError{fmt.Sprintf(format, args...)} }

var bmapHashes = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}

// NewHash returns a hash of the map's ChecksumType, or nil when it has none.
func (b *Bmap) NewHash() hash.Hash {
	if make, ok := bmapHashes[b.ChecksumType]; ok {
		return make()
	}
	return nil
}

// Blocks is the number of blocks of the image; the last one may be cut short.
func (b *Bmap) Blocks() int64 { return (b.ImageSize-1)/b.BlockSize + 1 }

// MappedBlocks is the number of blocks in all ranges.
func (b *Bmap) MappedBlocks() int64 {
	var n int64
	for _, r := range b.Ranges {
		n += r.Last - r.First + 1
	}
	return n
}

// MappedBytes is the number of bytes in all ranges.
func (b *Bmap) MappedBytes() int64 {
	var n int64
	for _, r := range b.Ranges {
		_, size := b.Extent(r)
		n += size
	}
	return n
}

// Extent is the place of a range in the image, in bytes.
func (b *Bmap) Extent(r BmapRange) (offset, size int64) {
	offset = r.First * b.BlockSize
	return offset, min((r.Last+1)*b.BlockSize, b.ImageSize) - offset
}

// check holds what every user of a map relies on: all sums stay inside 63 bits and all ranges inside the image.
func (b *Bmap) check() error {
	switch {
	case b.ImageSize <= 0 || b.ImageSize > maxSize:
		return badBmap("an image of %d bytes", b.ImageSize)
	case b.BlockSize < 512 || b.BlockSize > maxBmapBlock || b.BlockSize%512 != 0:
		return badBmap("blocks of %d bytes", b.BlockSize)
	}
	digits := 0
	if h := b.NewHash(); h != nil {
		digits = 2 * h.Size()
	} else if b.ChecksumType != "" {
		return badBmap("checksums of type %q are not known here", printable(b.ChecksumType))
	}
	next, blocks := int64(0), b.Blocks()
	for _, r := range b.Ranges {
		switch {
		case r.First < 0 || r.Last < r.First:
			return badBmap("the range %d-%d is none", r.First, r.Last)
		case r.First < next:
			return badBmap("the range %d-%d is not behind the one before it", r.First, r.Last)
		case r.Last >= blocks:
			return badBmap("the range %d-%d ends behind the image, which has %d blocks", r.First, r.Last, blocks)
		case r.Checksum != "" && !isHex(r.Checksum, digits):
			return badBmap("the checksum of the range %d-%d is no %s in lower case hex", r.First, r.Last, b.ChecksumType)
		}
		next = r.Last + 1
	}
	return nil
}

func isHex(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

// ParseBmap reads a block map of version 1.2 to 2.0 and checks it: its own checksum, the numbers against one another, the
// ranges' order and bounds. A map that passes can be used without further checks; a refused one gives a [*BmapError].
func ParseBmap(r io.Reader) (*Bmap, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxBmapText+1))
	if err != nil {
		return nil, fmt.Errorf("reading the block map: %w", err)
	}
	if len(text) > maxBmapText {
		return nil, badBmap("it has more than %s", FormatSize(maxBmapText))
	}
	p := &bmapParser{fields: make(map[string]string)}
	if err := p.parse(text); err != nil {
		return nil, err
	}
	return p.finish(text)
}

// bmapParser walks the XML element by element: unlike xml.Unmarshal it refuses what is there twice or not known.
type bmapParser struct {
	version string
	fields  map[string]string
	ranges  []BmapRange
	sums    string // the attribute that the ranges' checksums had
}

// The elements below the root, by the first version that has them; Range is below BlockMap.
var bmapFields = []string{"ImageSize", "BlockSize", "BlocksCount", "MappedBlocksCount", "ChecksumType", "BmapFileChecksum", "BmapFileSHA1"}

func (p *bmapParser) parse(text []byte) error {
	d := xml.NewDecoder(bytes.NewReader(text))
	depth, mapped := 0, 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return badBmap("it is no XML: %s", printable(err.Error()))
		}
		switch t := token.(type) {
		case xml.EndElement:
			depth--
		case xml.Directive:
			return badBmap("it has a document type")
		case xml.StartElement:
			name := t.Name.Local
			switch {
			case depth == 0 && name == "bmap" && p.version == "":
				p.version = attribute(t, "version")
				depth++
			case depth == 1 && name == "BlockMap" && mapped == 0:
				mapped++
				depth++
			case depth == 1 && slices.Contains(bmapFields, name):
				if err := p.field(d, name); err != nil {
					return err
				}
			case depth == 2 && name == "Range":
				if err := p.addRange(d, t); err != nil {
					return err
				}
			default:
				return badBmap("the element <%s> does not belong there", printable(name))
			}
		}
	}
	if p.version == "" || mapped == 0 {
		return badBmap("it has no <bmap> with a version, or no <BlockMap>")
	}
	return nil
}

func attribute(t xml.StartElement, name string) string {
	for _, a := range t.Attr {
		if a.Name.Local == name {
			return strings.TrimSpace(a.Value)
		}
	}
	return ""
}

// text reads up to the end of an element that holds nothing but text.
func (p *bmapParser) text(d *xml.Decoder, name string) (string, error) {
	var b strings.Builder
	for {
		token, err := d.Token()
		if err != nil {
			return "", badBmap("it is no XML: %s", printable(err.Error()))
		}
		switch t := token.(type) {
		case xml.CharData:
			b.Write(t)
			if b.Len() > 1024 {
				return "", badBmap("a text of more than 1024 bytes in <%s>", name)
			}
		case xml.EndElement:
			return strings.TrimSpace(b.String()), nil
		case xml.StartElement:
			return "", badBmap("the element <%s> in <%s>", printable(t.Name.Local), name)
		}
	}
}

func (p *bmapParser) field(d *xml.Decoder, name string) error {
	value, err := p.text(d, name)
	if err != nil {
		return err
	}
	if _, twice := p.fields[name]; twice {
		return badBmap("<%s> is there twice", name)
	}
	p.fields[name] = value
	return nil
}

func (p *bmapParser) addRange(d *xml.Decoder, t xml.StartElement) error {
	value, err := p.text(d, "Range")
	if err != nil {
		return err
	}
	first, last, both := strings.Cut(value, "-")
	if !both {
		last = first
	}
	var r BmapRange
	var ok, ok2 bool
	r.First, ok = decimal(strings.TrimSpace(first))
	r.Last, ok2 = decimal(strings.TrimSpace(last))
	if !ok || !ok2 {
		return badBmap("%q is no range of blocks", printable(value))
	}
	for _, a := range t.Attr {
		if a.Name.Local != "chksum" && a.Name.Local != "sha1" || p.sums != "" && p.sums != a.Name.Local {
			return badBmap("a range with the attribute %q", printable(a.Name.Local))
		}
		p.sums, r.Checksum = a.Name.Local, strings.ToLower(strings.TrimSpace(a.Value))
	}
	p.ranges = append(p.ranges, r)
	return nil
}

// decimal reads a number as bmaptool writes it: digits and nothing else.
func decimal(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n < math.MaxInt64
}

func (p *bmapParser) finish(text []byte) (*Bmap, error) {
	b := &Bmap{Version: p.version, Ranges: p.ranges}
	sumField, sumAttribute := "", ""
	switch p.version {
	case "1.2":
	case "1.3":
		b.ChecksumType, sumField, sumAttribute = "sha1", "BmapFileSHA1", "sha1"
	case "1.4", bmapVersion: // the same format; 1.4 was a mistake of bmaptool's
		b.ChecksumType, sumField, sumAttribute = p.fields["ChecksumType"], "BmapFileChecksum", "chksum"
		if b.ChecksumType == "" {
			return nil, badBmap("it does not say what kind of checksums it has")
		}
	default:
		return nil, badBmap("version %q is not known here, only 1.2 to 2.0", printable(p.version))
	}
	if p.sums != "" && p.sums != sumAttribute {
		return nil, badBmap("version %s with checksums in %q", p.version, p.sums)
	}
	var blocks, mapped int64
	for name, to := range map[string]*int64{"ImageSize": &b.ImageSize, "BlockSize": &b.BlockSize, "BlocksCount": &blocks, "MappedBlocksCount": &mapped} {
		n, ok := decimal(p.fields[name])
		if !ok {
			return nil, badBmap("<%s> is %q, not a number", name, printable(p.fields[name]))
		}
		*to = n
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	if blocks != b.Blocks() {
		return nil, badBmap("it counts %d blocks, but an image of %d bytes has %d", blocks, b.ImageSize, b.Blocks())
	}
	if n := b.MappedBlocks(); mapped != n {
		return nil, badBmap("it counts %d mapped blocks, but its ranges have %d", mapped, n)
	}
	if sumField != "" {
		if err := b.checkText(text, p.fields[sumField]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// checkText compares the map's checksum of itself, which is taken with zeros in its own place.
func (b *Bmap) checkText(text []byte, sum string) error {
	h := b.NewHash()
	if !isHex(sum, 2*h.Size()) {
		return badBmap("its own checksum is %q, no %s in lower case hex", printable(sum), b.ChecksumType)
	}
	// The place is where the digits are first, as for bmaptool.
	before, after, found := bytes.Cut(text, []byte(sum))
	if !found {
		return badBmap("its own checksum cannot be found in its text")
	}
	h.Write(before)
	h.Write(bytes.Repeat([]byte{'0'}, len(sum)))
	h.Write(after)
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return badBmap("it is not what its maker wrote: its checksum is %s, its text has %s", sum, got)
	}
	return nil
}

// WriteTo writes the map in version 2.0, as bmaptool does but for most of its comments.
func (b *Bmap) WriteTo(w io.Writer) (int64, error) {
	if err := b.check(); err != nil {
		return 0, err
	}
	full := *b
	if full.ChecksumType == "" {
		full.ChecksumType = "sha256" // the version demands one, at least of the text
	}
	h := full.NewHash()
	blank := strings.Repeat("0", 2*h.Size())
	var text bytes.Buffer
	fmt.Fprintf(&text, `<?xml version="1.0" ?>
<!-- The blocks of an image that must be copied; all others hold zeros. See https://github.com/yoctoproject/bmaptool. -->

<bmap version="%s">
    <ImageSize> %d </ImageSize>
    <BlockSize> %d </BlockSize>
    <BlocksCount> %d </BlocksCount>
    <MappedBlocksCount> %d </MappedBlocksCount>
    <ChecksumType> %s </ChecksumType>
    <BmapFileChecksum> `, bmapVersion, b.ImageSize, b.BlockSize, b.Blocks(), b.MappedBlocks(), full.ChecksumType)
	at := text.Len()
	fmt.Fprintf(&text, "%s </BmapFileChecksum>\n    <BlockMap>\n", blank)
	for _, r := range b.Ranges {
		text.WriteString("        <Range")
		if r.Checksum != "" {
			fmt.Fprintf(&text, ` chksum="%s"`, r.Checksum)
		}
		fmt.Fprintf(&text, "> %d", r.First)
		if r.Last != r.First {
			fmt.Fprintf(&text, "-%d", r.Last)
		}
		text.WriteString(" </Range>\n")
	}
	text.WriteString("    </BlockMap>\n</bmap>\n")
	h.Write(text.Bytes())
	copy(text.Bytes()[at:], hex.EncodeToString(h.Sum(nil)))
	return text.WriteTo(w)
}
