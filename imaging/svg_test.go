package imaging

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func drawn(t testing.TB, m *Map) string {
	t.Helper()
	var b bytes.Buffer
	if err := m.SVG(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// elements parses a picture and returns its elements with their attributes, and all its text.
func elements(t testing.TB, svg string) (out []xml.StartElement, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	d.Strict = true
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out, text
		}
		if err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
		switch token := token.(type) {
		case xml.StartElement:
			out = append(out, token)
		case xml.CharData:
			text += string(token) + "\n"
		}
	}
}

func attributeOf(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func TestSVG(t *testing.T) {
	l, _, err := Preset("sdimg", map[string]string{"MENDER_SWAP_PART_SIZE_MB": "64", "MENDER_IMAGE_BOOTLOADER_FILE": "u-boot.bin"})
	if err != nil {
		t.Fatal(err)
	}
	svg := drawn(t, mustMap(t, &Image{Layout: *l, Seed: "picture"}))
	golden(t, "sdimg.svg", svg)
	// The bar is as wide as the picture allows, and no area is too narrow to be seen.
	all, _ := elements(t, svg)
	end := 0.0
	for _, e := range all {
		if e.Name.Local != "rect" || !strings.HasSuffix(attributeOf(e, "class"), " edge") || attributeOf(e, "height") != "64.0" {
			continue
		}
		var x, width float64
		fmt.Sscan(attributeOf(e, "x"), &x)
		fmt.Sscan(attributeOf(e, "width"), &width)
		if end != 0 && x != end {
			t.Errorf("an area at %v, the one before ends at %v", x, end)
		}
		if width < 2 {
			t.Errorf("an area of %v pixels", width)
		}
		end = x + width
	}
	if end < svgWidth-svgMargin-8 || end > svgWidth-svgMargin {
		t.Errorf("the bar ends at %v", end)
	}
}

// Names and labels of foreign images stay text.
func TestSVGEscapes(t *testing.T) {
	m := mustMap(t, &Image{Layout: Layout{Partitions: []Partition{
		{Name: `</title><script>alert(1)</script>`, Size: 64 * mib}, {Name: `"><a href='x'>&amp;`, Size: 64 * mib},
	}}})
	m.Regions[1].Label = "bell\a and null\x00 \xff"
	svg := drawn(t, m)
	all, text := elements(t, svg)
	for _, e := range all {
		switch e.Name.Local {
		case "svg", "title", "style", "rect", "g", "text", "path":
		default:
			t.Errorf("an element %s", e.Name.Local)
		}
		for _, a := range e.Attr {
			if strings.Contains(a.Name.Local, "href") || strings.HasPrefix(a.Name.Local, "on") {
				t.Errorf("an attribute %s", a.Name.Local)
			}
		}
	}
	for _, want := range []string{"</title><script>", `"><a href='x'>&amp;`} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the text", want)
		}
	}
}

func TestSVGOfAnything(t *testing.T) {
	maps := map[string]*Map{"empty": {}, "no size": {Regions: []Region{{Kind: KindPartition, Size: 5}}}}
	for name, l := range tableMatrix() {
		maps[name] = mustMap(t, &Image{Layout: l})
	}
	for _, m := range maps {
		elements(t, drawn(t, m))
	}
	if err := maps["gpt"].SVG(failing{}); !errors.Is(err, errFull) {
		t.Errorf("%v", err)
	}
}

var errFull = errors.New("full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFull }

// TestSVGWithTool lets another program draw the picture and looks for the colours of its areas.
func TestSVGWithTool(t *testing.T) {
	tool(t, "rsvg-convert")
	path := filepath.Join(t.TempDir(), "x.png")
	run(t, "rsvg-convert", "-o", path, "testdata/sdimg.svg")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			r, g, b, _ := img.At(x, y).RGBA()
			count[fmt.Sprintf("%02x%02x%02x", r>>8, g>>8, b>>8)]++
		}
	}
	for name, colour := range map[string]string{"slot A": "9fd69a", "slot B": "cfebc9", "data": "f7d08a", "boot": "a5c8f0", "reserve": "f2b8b5", "table": "8c959f"} {
		if count[colour] < 300 {
			t.Errorf("%s is painted with %d pixels", name, count[colour])
		}
	}
}
