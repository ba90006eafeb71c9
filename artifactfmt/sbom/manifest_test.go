package sbom

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
)

func TestParseManifest(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in   string
		want []Package
	}{
		"three words": {"busybox core2-64 1.36.1-r0\nbase-files qemux86_64 3.0.14-r0\n", []Package{
			{"base-files", "qemux86_64", "3.0.14-r0"}, {"busybox", "core2-64", "1.36.1-r0"},
		}},
		"two words":     {"busybox 1.36.1-r0\n", []Package{{Name: "busybox", Version: "1.36.1-r0"}}},
		"no line feed":  {"a b c", []Package{{"a", "b", "c"}}},
		"blank and CR":  {"\n  \r\na  b\tc\r\n\n", []Package{{"a", "b", "c"}}},
		"duplicates":    {"a b c\na b c\na b d\na x c\n", []Package{{"a", "b", "c"}, {"a", "x", "c"}, {"a", "b", "d"}}},
		"odd but real":  {"kernel-6.6.21+gitAUTOINC+abc-yocto x 1:6.6~rc1^git\n", []Package{{"kernel-6.6.21+gitAUTOINC+abc-yocto", "x", "1:6.6~rc1^git"}}},
		"beyond ASCII":  {"größe all 1\n", []Package{{"größe", "all", "1"}}},
		"markup, quote": {"<b>\"a\"</b> all 1\n", []Package{{`<b>"a"</b>`, "all", "1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseManifest(strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseManifestRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in   string
		line int
		want string
	}{
		"empty":         {"", 0, "no package"},
		"blank":         {"\n\n", 0, "no package"},
		"one word":      {"a b c\nx\n", 2, "1 words"},
		"four words":    {"a b c d\n", 1, "4 words"},
		"JSON":          {spdx2Doc, 1, "words"},
		"escape":        {"a b c\na\x1b[31m b c\n", 2, `"a\x1b[31m"`},
		"NUL":           {"a\x00 b c\n", 1, "printed"},
		"not UTF-8":     {"a\xff b c\n", 1, "printed"},
		"right to left": {"a\u202eb b c\n", 1, "printed"},
		"long line":     {"a b c\n" + strings.Repeat("x", maxLine+1), 2, "longer than 4096"},
		"long word":     {strings.Repeat("x", maxField+1) + " b c\n", 1, "longer than 1024"},
		"many packages": {strings.Repeat("a b c\n", maxPackages+1), maxPackages + 1, "more than 100000"},
		"large":         {strings.Repeat(strings.Repeat(" ", 1023)+"\n", maxManifest>>10) + "a b c\n", 0, "16 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseManifest(strings.NewReader(tt.in))
			var me *ManifestError
			if got != nil || !errors.As(err, &me) || me.Line != tt.line || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want line %d, %q", err, tt.line, tt.want)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x00\x1b\u202e") {
				t.Errorf("%q", err)
			}
		})
	}
	if _, err := ParseManifest(broken{}); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}

func someFacts() Facts {
	return Facts{
		Image: "core-image-minimal", Machine: "qemux86-64", Distro: "poky", Version: "5.0.1", Artifact: "release-1",
		Files: map[string]string{"rootfs.ext4": strings.Repeat("ab", 32)}, Tool: "1.0",
		Epoch: time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)),
	}
}

const someManifest = "busybox core2-64 1.36.1-r0\nlibstdc++6 core2-64 13.2.0-r0\nbase-files qemux86_64 3.0.14-r0\n"

func TestFromManifest(t *testing.T) {
	t.Parallel()
	data, err := FromManifest(strings.NewReader(someManifest), someFacts())
	if err != nil {
		t.Fatal(err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if kind, _, err := Copy(&bytes.Buffer{}, bytes.NewReader(data)); err != nil || kind != CycloneDX {
		t.Errorf("it is not taken for what it is: %s %v", kind, err)
	}
	if bom.BOMFormat != "CycloneDX" || bom.SpecVersion != cdx.SpecVersion1_6 || bom.Version != 1 {
		t.Errorf("%s %s %d", bom.BOMFormat, bom.SpecVersion, bom.Version)
	}
	serial := regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if !serial.MatchString(bom.SerialNumber) {
		t.Errorf("serial number %q", bom.SerialNumber)
	}
	if bom.Metadata.Timestamp != "2026-01-02T02:04:05Z" {
		t.Errorf("time %q", bom.Metadata.Timestamp)
	}
	image := bom.Metadata.Component
	if image.Name != "core-image-minimal" || image.Version != "5.0.1" || image.Type != cdx.ComponentTypeOS {
		t.Errorf("%+v", image)
	}
	properties := map[string]string{}
	for _, p := range *image.Properties {
		properties[p.Name] = p.Value
	}
	if diff := cmp.Diff(map[string]string{propertyMachine: "qemux86-64", propertyDistro: "poky", propertyArtifact: "release-1"}, properties); diff != "" {
		t.Error(diff)
	}
	file := (*image.Components)[0]
	if file.Name != "rootfs.ext4" || (*file.Hashes)[0] != (cdx.Hash{Algorithm: cdx.HashAlgoSHA256, Value: strings.Repeat("ab", 32)}) {
		t.Errorf("%+v", file)
	}
	var purls []string
	refs := map[string]bool{image.BOMRef: true, file.BOMRef: true}
	for _, c := range *bom.Components {
		purls = append(purls, c.PackageURL)
		if c.Name == "" || c.Version == "" || c.Type == "" || refs[c.BOMRef] {
			t.Errorf("%+v", c)
		}
		refs[c.BOMRef] = true
	}
	want := []string{
		"pkg:generic/base-files@3.0.14-r0?arch=qemux86_64", "pkg:generic/busybox@1.36.1-r0?arch=core2-64",
		"pkg:generic/libstdc%2B%2B6@13.2.0-r0?arch=core2-64",
	}
	if diff := cmp.Diff(want, purls); diff != "" {
		t.Error(diff)
	}
	root := (*bom.Dependencies)[0]
	if diff := cmp.Diff(want, *root.Dependencies); root.Ref != image.BOMRef || diff != "" {
		t.Error(root.Ref, diff)
	}
}

func TestFromManifestReproducible(t *testing.T) {
	t.Parallel()
	made := func(manifest string, facts Facts) string {
		t.Helper()
		data, err := FromManifest(strings.NewReader(manifest), facts)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	serial := func(document string) string {
		var d struct{ SerialNumber string }
		if err := json.Unmarshal([]byte(document), &d); err != nil {
			t.Fatal(err)
		}
		return d.SerialNumber
	}
	first := made(someManifest, someFacts())
	lines := strings.SplitAfter(someManifest, "\n")
	if got := made(lines[2]+lines[0]+lines[1]+lines[0], someFacts()); got != first {
		t.Error("the order of the manifest matters")
	}
	noTime := someFacts()
	noTime.Epoch = time.Time{}
	if strings.Contains(made(someManifest, noTime), "timestamp") {
		t.Error("there is a time that nobody gave")
	}
	other := someFacts()
	other.Version = "5.0.2"
	seen := map[string]bool{serial(first): true}
	for _, document := range []string{made(someManifest, noTime), made(someManifest, other), made("a b c\n", someFacts())} {
		if seen[serial(document)] {
			t.Error("two documents have the same serial number")
		}
		seen[serial(document)] = true
	}
	if _, err := FromManifest(strings.NewReader(someManifest), Facts{}); err == nil {
		t.Error("an image without a name passes")
	}
	bare := made("a 1\n", Facts{Artifact: "r"})
	for _, absent := range []string{"hashes", "?arch", "machine"} {
		if strings.Contains(bare, absent) {
			t.Errorf("there is %s: %s", absent, bare)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(someManifest))
	f.Add([]byte("busybox 1.36\n"))
	f.Add([]byte("a\x1b b c\nd e f g\n"))
	f.Add([]byte("a%2B?&= @/# c+:~^\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		document, err := FromManifest(bytes.NewReader(data), someFacts())
		if err != nil {
			var me *ManifestError
			if !errors.As(err, &me) {
				t.Errorf("not typed: %v", err)
			}
			return
		}
		var bom cdx.BOM
		if err := cdx.NewBOMDecoder(bytes.NewReader(document), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
			t.Fatal(err)
		}
		refs := map[string]bool{}
		for _, c := range *bom.Components {
			if refs[c.BOMRef] {
				t.Errorf("%q is there twice", c.BOMRef)
			}
			refs[c.BOMRef] = true
		}
		// The document says the same as the manifest.
		var again strings.Builder
		for _, c := range *bom.Components {
			_, arch, _ := strings.Cut(c.PackageURL, "?arch=")
			again.WriteString(c.Name + " ")
			if arch != "" {
				again.WriteString("arch ")
			}
			again.WriteString(c.Version + "\n")
		}
		if packages, err := ParseManifest(strings.NewReader(again.String())); err != nil || len(packages) > len(*bom.Components) {
			t.Errorf("%q: %v", again.String(), err)
		}
	})
}
