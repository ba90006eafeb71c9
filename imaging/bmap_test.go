package imaging

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// bmapText is a map of 3 blocks and a bit, with its checksum put in unless %s is missing.
func bmapText(text string) string {
	blank := strings.Repeat("0", 64)
	sum := sha256.Sum256([]byte(strings.Replace(text, "SELF", blank, 1)))
	return strings.Replace(text, "SELF", hex.EncodeToString(sum[:]), 1)
}

const goodBmap = `<?xml version="1.0" ?>
<bmap version="2.0">
    <ImageSize> 13000 </ImageSize>
    <BlockSize> 4096 </BlockSize>
    <BlocksCount> 4 </BlocksCount>
    <MappedBlocksCount> 3 </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> SELF </BmapFileChecksum>
    <BlockMap>
        <Range chksum="AD7FACB2586FC6E966C004D7D1D16B024F5805FF7CB47C7A85DABD8B48892CA7"> 0-1 </Range>
        <Range> 3 </Range>
    </BlockMap>
</bmap>
`

func TestParseBmap(t *testing.T) {
	t.Parallel()
	b, err := ParseBmap(strings.NewReader(bmapText(goodBmap)))
	if err != nil {
		t.Fatal(err)
	}
	want := &Bmap{
		Version: "2.0", ImageSize: 13000, BlockSize: 4096, ChecksumType: "sha256",
		Ranges: []BmapRange{{0, 1, "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7"}, {First: 3, Last: 3}},
	}
	if diff := cmp.Diff(want, b); diff != "" {
		t.Error(diff)
	}
	if off, n := b.Extent(b.Ranges[1]); off != 12288 || n != 712 {
		t.Errorf("the last range is at %d and has %d bytes; it ends with the image", off, n)
	}
	if b.MappedBytes() != 8904 {
		t.Errorf("%d bytes are mapped", b.MappedBytes())
	}
	var text bytes.Buffer
	if _, err := b.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	again, err := ParseBmap(&text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, again); diff != "" {
		t.Error(diff)
	}
}

// Older versions: 1.4 is 2.0 by another name, 1.3 has SHA-1 in elements of other names, 1.2 has no checksums.
func TestParseBmapVersions(t *testing.T) {
	t.Parallel()
	v13 := strings.NewReplacer(
		`"2.0"`, `"1.3"`, "    <ChecksumType> sha256 </ChecksumType>\n", "", "BmapFileChecksum", "BmapFileSHA1",
		`chksum="AD7FACB2586FC6E966C004D7D1D16B024F5805FF7CB47C7A85DABD8B48892CA7"`, `sha1="da39a3ee5e6b4b0d3255bfef95601890afd80709"`,
	).Replace(goodBmap)
	sum := sha1.Sum([]byte(strings.Replace(v13, "SELF", strings.Repeat("0", 40), 1)))
	v12 := strings.NewReplacer(
		`"2.0"`, `"1.2"`, "    <ChecksumType> sha256 </ChecksumType>\n    <BmapFileChecksum> SELF </BmapFileChecksum>\n", "",
		` chksum="AD7FACB2586FC6E966C004D7D1D16B024F5805FF7CB47C7A85DABD8B48892CA7"`, "",
	).Replace(goodBmap)
	for version, text := range map[string]string{
		"1.2": v12, "1.3": strings.Replace(v13, "SELF", hex.EncodeToString(sum[:]), 1), "1.4": bmapText(strings.Replace(goodBmap, "2.0", "1.4", 1)),
	} {
		b, err := ParseBmap(strings.NewReader(text))
		if err != nil {
			t.Errorf("%s: %v", version, err)
			continue
		}
		if b.Version != version || len(b.Ranges) != 2 {
			t.Errorf("%s: %+v", version, b)
		}
		var out bytes.Buffer
		if _, err := b.WriteTo(&out); err != nil {
			t.Errorf("%s: %v", version, err)
		}
		if again, err := ParseBmap(&out); err != nil || !cmp.Equal(again.Ranges, b.Ranges) {
			t.Errorf("%s: written as 2.0 it is %+v, %v", version, again, err)
		}
	}
}

func TestBmapRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, new, want string }{
		"not XML":          {"<BlockMap>", "<BlockMap", "no XML"},
		"empty":            {goodBmap, "", "no <bmap>"},
		"entity":           {`<bmap version="2.0">`, `<!DOCTYPE b [<!ENTITY x "y">]><bmap version="2.0">`, "document type"},
		"unknown version":  {`"2.0"`, `"3.0"`, `version "3.0"`},
		"no version":       {` version="2.0"`, "", "no <bmap> with a version"},
		"changed":          {"SELF", strings.Repeat("a", 64), "not what its maker wrote"},
		"no self checksum": {"<BmapFileChecksum> SELF </BmapFileChecksum>", "", "its own checksum"},
		"unknown checksum": {"sha256", "crc32", `"crc32"`},
		"short checksum":   {"AD7F", "", "checksum of the range 0-1"},
		"size zero":        {" 13000 ", "0", "0 bytes"},
		"size huge":        {" 13000 ", "9223372036854775806", "an image of"},
		"size too huge":    {" 13000 ", "99999999999999999999", "not a number"},
		"size negative":    {" 13000 ", "-1", "not a number"},
		"block zero":       {" 4096 ", " 0 ", "blocks of 0"},
		"block odd":        {" 4096 ", " 4095 ", "blocks of 4095"},
		"blocks wrong":     {"<BlocksCount> 4", "<BlocksCount> 5", "counts 5 blocks"},
		"mapped wrong":     {"<MappedBlocksCount> 3", "<MappedBlocksCount> 4", "counts 4 mapped"},
		"behind the end":   {"<Range> 3 <", "<Range> 4 <", "behind the image"},
		"overlap":          {"<Range> 3 <", "<Range> 1-3 <", "not behind the one before"},
		"backwards":        {"<Range> 3 <", "<Range> 3-2 <", "3-2 is none"},
		"no number":        {"<Range> 3 <", "<Range> 0x3 <", "no range"},
		"half a range":     {"<Range> 3 <", "<Range> 3- <", "no range"},
		"twice":            {"<BlocksCount> 4 </BlocksCount>", "<BlocksCount> 4 </BlocksCount><BlocksCount> 4 </BlocksCount>", "twice"},
		"unknown element":  {"<BlocksCount>", "<Evil/><BlocksCount>", "<Evil>"},
		"nested":           {"<Range> 3 <", "<Range> <b>3</b> <", "<b>"},
		"second root":      {"</bmap>", "</bmap><bmap version=\"2.0\"/>", "does not belong"},
		"long text":        {"<Range> 3 <", "<Range>" + strings.Repeat(" ", 1100) + "3<", "1024"},
	} {
		_, err := ParseBmap(strings.NewReader(bmapText(strings.Replace(goodBmap, c.old, c.new, 1))))
		var be *BmapError
		if !errors.As(err, &be) || !strings.Contains(err.Error(), c.want) || be.Hint() == "" {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := ParseBmap(strings.NewReader(strings.Repeat(" ", maxBmapText+1))); err == nil || !strings.Contains(err.Error(), "32 MiB") {
		t.Errorf("an endless map gives %v", err)
	}
}

// bmaptool makes maps that are read here.
func TestBmapOfBmaptool(t *testing.T) {
	t.Parallel()
	tool(t, "bmaptool")
	path := filepath.Join(t.TempDir(), "x.img")
	data := make([]byte, 50_000)
	copy(data[9000:], "some bytes")
	os.WriteFile(path, data, 0o644)
	out, err := exec.CommandContext(t.Context(), "bmaptool", "create", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseBmap(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	if b.ImageSize != 50_000 || b.MappedBlocks() == 0 {
		t.Errorf("%+v", b)
	}
	for _, r := range b.Ranges {
		off, n := b.Extent(r)
		if got := fmt.Sprintf("%x", sha256.Sum256(data[off:off+n])); got != r.Checksum {
			t.Errorf("range %d-%d: %s, want %s", r.First, r.Last, got, r.Checksum)
		}
	}
}

// What is accepted can be written, is read back the same, and keeps its promises.
func FuzzParseBmap(f *testing.F) {
	f.Add([]byte(bmapText(goodBmap)))
	f.Add([]byte(strings.ReplaceAll(goodBmap, "2.0", "1.2")))
	f.Add([]byte(`<bmap version="1.2"><ImageSize>1</ImageSize><BlockSize>512</BlockSize><BlocksCount>1</BlocksCount>` +
		`<MappedBlocksCount>1</MappedBlocksCount><BlockMap><Range>0</Range></BlockMap></bmap>`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := ParseBmap(bytes.NewReader(text))
		if err != nil {
			var be *BmapError
			if !errors.As(err, &be) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		end := int64(0)
		for _, r := range b.Ranges {
			off, n := b.Extent(r)
			if off < end || n <= 0 || off+n > b.ImageSize {
				t.Fatalf("%+v is outside", r)
			}
			end = off + n
		}
		var out bytes.Buffer
		if _, err := b.WriteTo(&out); err != nil {
			t.Fatal(err)
		}
		again, err := ParseBmap(&out)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b.Ranges, again.Ranges); diff != "" {
			t.Error(diff)
		}
	})
}
