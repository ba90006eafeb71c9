package sbom

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// Documents as Yocto's classes write them, with the order of their members (sorted in SPDX 2, so that the version comes late).
const (
	spdx2Doc = `{"SPDXID": "SPDXRef-DOCUMENT", "creationInfo": {"created": "2024-01-01T00:00:00Z", "creators": ["Tool: OpenEmbedded Core create-spdx.bbclass"]}, ` +
		`"documentNamespace": "http://spdx.org/spdxdoc/busybox-1", "name": "busybox", "packages": [{"name": "busybox", "versionInfo": "1.36.1"}], ` +
		`"relationships": [], "spdxVersion": "SPDX-2.2"}`
	spdx3Doc = `{"@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld", "@graph": [{"type": "CreationInfo", "specVersion": "3.0.1"}, ` +
		`{"type": "software_Sbom", "spdxVersion": "x"}]}` + "\n"
	cdxDoc = `{"bomFormat":"CycloneDX","specVersion":"1.5","version":1}`
	index  = `{"documents": [{"filename": "busybox.spdx.json"}]}`
)

type member struct {
	name, content string
	kind          byte
}

func archive(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content)), Typeflag: tar.TypeReg}
		if m.kind != 0 {
			h.Typeflag, h.Linkname, h.Size = m.kind, "x", 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if m.kind == 0 {
			io.WriteString(w, m.content)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func yoctoArchive(t testing.TB) []byte {
	return archive(t, member{name: "busybox.spdx.json", content: spdx2Doc}, member{name: "index.json", content: index})
}

func zstded(t testing.TB, data []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(data, nil)
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(data)
	w.Close()
	return b.Bytes()
}

func TestCopy(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in   []byte
		want Kind
	}{
		"spdx 2":              {[]byte(spdx2Doc), SPDX2},
		"spdx 3":              {[]byte(spdx3Doc), SPDX3},
		"cyclonedx":           {[]byte(cdxDoc), CycloneDX},
		"zstd":                {zstded(t, yoctoArchive(t)), SPDX2TarZstd},
		"zstd in two frames":  {slices.Concat(zstded(t, yoctoArchive(t)[:700]), zstded(t, yoctoArchive(t)[700:])), SPDX2TarZstd},
		"gzip":                {gzipped(yoctoArchive(t)), SPDX2TarGzip},
		"without index":       {gzipped(archive(t, member{name: "a.spdx.json", content: spdx2Doc})), SPDX2TarGzip},
		"long, and text late": {[]byte(`{"x":"` + strings.Repeat("é\\n", 200_000) + `",` + spdx2Doc[1:]), SPDX2},
		"name in escapes":     {[]byte(`{"bom\u0046ormat":"Cyclone\u0044X"}`), CycloneDX},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			kind, sum, err := Copy(&out, bytes.NewReader(tt.in))
			if err != nil || kind != tt.want || sum != Digest(tt.in) || !bytes.Equal(out.Bytes(), tt.in) {
				t.Errorf("%s %s %v, %d bytes of %d", kind, sum, err, out.Len(), len(tt.in))
			}
			if kind, err := kindOfStart(bytes.NewReader(tt.in)); err != nil || kind != tt.want {
				t.Errorf("from its start: %s %v", kind, err)
			}
		})
	}
}

func TestCopyRefuses(t *testing.T) {
	t.Parallel()
	good := yoctoArchive(t)
	doc := member{name: "a.spdx.json", content: spdx2Doc}
	for name, tt := range map[string]struct {
		in   []byte
		want string
	}{
		"empty":                  {nil, "empty"},
		"text":                   {[]byte("busybox core2-64 1.36.1\n"), "not JSON"},
		"other JSON":             {[]byte(`{"name":"x"}`), "none of spdxVersion"},
		"version not at the top": {[]byte(`{"x":{"spdxVersion":"SPDX-2.2"}}`), "none of spdxVersion"},
		"a list":                 {[]byte(`["spdxVersion","SPDX-2.2"]`), "none of spdxVersion"},
		"null":                   {[]byte(`null`), "none of spdxVersion"},
		"version 1":              {[]byte(`{"spdxVersion":"SPDX-1.2"}`), `spdxVersion is "SPDX-1.2"`},
		"version a number":       {[]byte(`{"spdxVersion":2}`), `spdxVersion is ""`},
		"other linked data":      {[]byte(`{"@context":"https://schema.org"}`), "@context is"},
		"a list of contexts":     {[]byte(`{"@context":["https://spdx.org/rdf/3.0.1/spdx-context.jsonld"]}`), "@context is"},
		"other format":           {[]byte(`{"bomFormat":"Cyclone"}`), "bomFormat is"},
		"two kinds":              {[]byte(`{"bomFormat":"CycloneDX","spdxVersion":"SPDX-2.3"}`), "twice"},
		"cut short":              {[]byte(spdx2Doc[:len(spdx2Doc)-1]), "ends too early"},
		"trailing data":          {[]byte(spdx3Doc + "x"), `unexpected 'x'`},
		"not UTF-8":              {[]byte("{\"spdxVersion\":\"SPDX-2.2\",\"x\":\"\xff\"}"), "UTF-8"},
		"too deep":               {[]byte(strings.Repeat("[", 65)), "nested deeper"},
		"an archive of nothing":  {gzipped(archive(t)), "without any SPDX document"},
		"an index alone":         {gzipped(archive(t, member{name: "index.json", content: index})), "without any SPDX document"},
		"other files":            {gzipped(archive(t, doc, member{name: "etc/passwd", content: "x"})), `"etc/passwd": an archive`},
		"a link":                 {gzipped(archive(t, doc, member{name: "b.spdx.json", kind: tar.TypeSymlink})), "not a file"},
		"a directory":            {gzipped(archive(t, member{name: "d/", kind: tar.TypeDir}, doc)), "not a file"},
		"a damaged document":     {zstded(t, archive(t, doc, member{name: "b.spdx.json", content: `{"spdxVersion":"SPDX-2.2"`})), `"b.spdx.json": it ends too early`},
		"a document of SPDX 3":   {zstded(t, archive(t, member{name: "b.spdx.json", content: spdx3Doc})), "expected spdx-2"},
		"a damaged index":        {zstded(t, archive(t, doc, member{name: "index.json", content: "{"})), `"index.json": it ends too early`},
		"gzip of no archive":     {gzipped([]byte(spdx2Doc)), "damaged"},
		"gzip header alone":      {gzipped(good)[:10], "damaged"},
		"gzip cut short":         {gzipped(good)[:len(gzipped(good))-5], "damaged"},
		"gzip with a wrong sum":  {flip(gzipped(good), -6), "damaged"},
		"gzip and more":          {append(gzipped(good), "x"...), "damaged"},
		"zstd cut short":         {zstded(t, good)[:len(zstded(t, good))-3], "damaged"},
		"zstd with a wrong sum":  {flip(zstded(t, good), -1), "damaged"},
		"zstd and more":          {append(zstded(t, good), "xxxx"...), "damaged"},
		"a bomb in the index": {
			zstded(t, archive(t, doc, member{name: "index.json", content: strings.Repeat("[", 1<<20)})), "nested deeper",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kind, sum, err := Copy(io.Discard, bytes.NewReader(tt.in))
			var fe *FormatError
			if kind != "" || sum != "" || !errors.As(err, &fe) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s %v, want %q", kind, err, tt.want)
			}
		})
	}
}

func flip(data []byte, at int) []byte {
	data = slices.Clone(data)
	data[len(data)+at] ^= 1
	return data
}

// repeated is a pattern without end, so that tests of limits need no memory.
type repeated struct{ start, pattern string }

func (r *repeated) Read(p []byte) (int, error) {
	if r.start != "" {
		n := copy(p, r.start)
		r.start = r.start[n:]
		return n, nil
	}
	n := 0
	for n < len(p) {
		n += copy(p[n:], r.pattern)
	}
	return n, nil
}

func TestCopyLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 256 MiB")
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := Copy(io.Discard, &repeated{`{"spdxVersion":"SPDX-2.2","x":"`, "abcdefgh"})
	runtime.ReadMemStats(&after)
	var fe *FormatError
	if !errors.As(err, &fe) || !strings.Contains(err.Error(), "larger") {
		t.Error(err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
		t.Errorf("%d MiB were allocated", used>>20)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Read([]byte) (int, error)  { return 0, errBroken }
func (broken) Write([]byte) (int, error) { return 0, errBroken }

// Errors of files and disks are not blamed on the document.
func TestCopyOutsideErrors(t *testing.T) {
	t.Parallel()
	for name, in := range map[string][]byte{"json": []byte(spdx2Doc), "gzip": gzipped(yoctoArchive(t)), "zstd": zstded(t, yoctoArchive(t))} {
		for what, try := range map[string]func() error{
			"read": func() error {
				_, _, err := Copy(io.Discard, io.MultiReader(bytes.NewReader(in[:40]), broken{}))
				return err
			},
			"write": func() error { _, _, err := Copy(broken{}, bytes.NewReader(in)); return err },
		} {
			err := try()
			var fe *FormatError
			if !errors.Is(err, errBroken) || errors.As(err, &fe) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}

// encoding/json is the judge of what is JSON.
func TestScanJSON(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", " ", "0", "-0", "00", "01", "-", "1.", "1.5", ".5", "1e", "1e5", "1E+5", "1e-", "1e+x", "12 ", "1 2", "-1.5e3,", "--1", "1a",
		"[0]", "[01]", "[1.]", "[1.5]", "[1e]", "[1e1]", "[-]", "[1,]", "[,1]", "[1 2]", "[1,2]", "[", "]", "[]", "[[]]", "[]]", "[}", "{]",
		"{}", "{", "}", `{"a"}`, `{"a":}`, `{"a":1}`, `{"a":1,}`, `{"a":1 "b":2}`, `{"a":1,"b":[]}`, `{a:1}`, `{1:1}`, `{"a":{"b":{}},"c":[{}]}`,
		`""`, `"a`, `"\n"`, `"\x"`, `"\u12"`, `"\u12g4"`, `"\uD800"`, "\"\n\"", "\"\x7f\"", "\"é\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"\ufffd\"", "\x00",
		"true", "false", "null", "tru", "nul", "truex", "[true,false,null]", "nulll", "\ufeff{}", " \t\r\n{} \n", "\v{}", "/**/{}",
	} {
		got := scanJSON(bufio.NewReader(strings.NewReader(in)), func(string, string) error { return nil })
		if want := json.Valid([]byte(in)) && utf8.ValidString(in); (got == nil) != want {
			t.Errorf("%q: %v, want valid: %v", in, got, want)
		}
	}
	var got []string
	err := scanJSON(bufio.NewReader(strings.NewReader(`{"a":"x\"é\u00e9","b":1,"é":[{"c":"d"}],"`+strings.Repeat("n", 300)+`":"`+strings.Repeat("v", 300)+`"}`)),
		func(name, value string) error { got = append(got, name+"="+value); return nil })
	if diff := cmp.Diff([]string{`a=x"éé`, "b=", "é=", "="}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func FuzzScanJSON(f *testing.F) {
	for _, s := range []string{spdx2Doc, spdx3Doc, cdxDoc, index, `[1.5e-3,"\u00e9",true,{"":null}]`, `"é`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := scanJSON(bufio.NewReader(bytes.NewReader(data)), func(string, string) error { return nil })
		var fe *FormatError
		if err != nil && !errors.As(err, &fe) {
			t.Fatalf("not typed: %v", err)
		}
		valid := json.Valid(data) && utf8.Valid(data)
		if err == nil && !valid || err != nil && valid && !strings.Contains(err.Error(), "nested deeper") {
			t.Errorf("%q: %v, want valid: %v", data, err, valid)
		}
	})
}

func FuzzCopy(f *testing.F) {
	f.Add([]byte(spdx2Doc))
	f.Add(gzipped(yoctoArchive(f)))
	f.Add(zstded(f, yoctoArchive(f)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		_, sum, err := Copy(&out, bytes.NewReader(data))
		var fe *FormatError
		switch {
		case err == nil && (!bytes.Equal(out.Bytes(), data) || sum != Digest(data)):
			t.Error("the copy differs")
		case err != nil && !errors.As(err, &fe):
			t.Errorf("not typed: %v", err)
		}
	})
}

func TestNames(t *testing.T) {
	t.Parallel()
	want := []string{"a.mender.cdx.json", "a.mender.spdx.json", "a.mender.spdx.tar.gz", "a.mender.spdx.tar.zst"}
	if diff := cmp.Diff(want, SidecarNames("a.mender")); diff != "" {
		t.Error(diff)
	}
	for kind := range sidecarSuffixes {
		if !slices.Contains(want, SidecarName("a.mender", kind)) {
			t.Errorf("%s: %s", kind, SidecarName("a.mender", kind))
		}
	}
	if got := ProvidesKey("rootfs-image.app"); got != "rootfs-image.app.sbom.sha256" {
		t.Error(got)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	sum := Digest([]byte("x"))
	key := ProvidesKey("rootfs-image")
	for name, tt := range map[string]struct {
		provides map[string]string
		want     string
	}{
		"good":      {map[string]string{key: sum, "a.sbom.sha256": "0"}, ""},
		"nothing":   {nil, ErrNotNamed.Error()},
		"other key": {map[string]string{"rootfs-image.provenance.sha256": sum}, ErrNotNamed.Error()},
		"other sum": {map[string]string{key: "\x1b"}, `sbom.sha256 "\x1b"`},
	} {
		err := Check(tt.provides, sum)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	const n = "core-image-minimal-qemux86-64"
	for name, tt := range map[string]struct {
		files map[string]string // "-> NAME" is a link
		want  string
		kind  Kind
		err   any
	}{
		"SPDX 3, as from styhead on": {map[string]string{
			n + ".rootfs-20260101000000.spdx.json": spdx3Doc, n + ".rootfs.spdx.json": "-> " + n + ".rootfs-20260101000000.spdx.json",
			n + ".rootfs.manifest": "a b c\n",
		}, n + ".rootfs.spdx.json", SPDX3, nil},
		"an archive, as of scarthgap": {map[string]string{
			n + ".rootfs-20260101000000.spdx.tar.zst": "z", n + ".rootfs.spdx.tar.zst": "-> " + n + ".rootfs-20260101000000.spdx.tar.zst",
		}, n + ".rootfs.spdx.tar.zst", SPDX2TarZstd, nil},
		"both, as of kirkstone": {map[string]string{
			n + ".spdx.json": spdx2Doc, n + ".spdx.tar.zst": "z", n + ".spdx.index.json": index, n + ".manifest": "a b c\n",
		}, n + ".spdx.tar.zst", SPDX2TarZstd, nil},
		"gzip, as of dunfell": {map[string]string{n + ".spdx.tar.gz": "z"}, n + ".spdx.tar.gz", SPDX2TarGzip, nil},
		"one document":        {map[string]string{n + ".spdx.json": spdx2Doc}, n + ".spdx.json", SPDX2, nil},
		"a manifest":          {map[string]string{n + ".rootfs.manifest": "a b c\n"}, n + ".rootfs.manifest", Manifest, nil},
		"no links": {map[string]string{
			n + "-20260101000000.rootfs.manifest": "a b c\n", n + "-musl-20260101000000.rootfs.manifest": "", n + "-x.manifest": "",
		}, n + "-20260101000000.rootfs.manifest", Manifest, nil},
		"no links and two builds": {map[string]string{
			n + ".rootfs-20260101000000.manifest": "", n + ".rootfs-20260102000000.manifest": "",
		}, "", "", new(*AmbiguousError)},
		"a link to nothing":    {map[string]string{n + ".spdx.json": "-> x", n + ".manifest": "a b c\n"}, n + ".manifest", Manifest, nil},
		"a directory":          {map[string]string{n + ".manifest/x": ""}, "", "", new(error)},
		"a damaged document":   {map[string]string{n + ".spdx.json": "x"}, "", "", new(*FormatError)},
		"of another image":     {map[string]string{"core-image-base-qemux86-64.manifest": ""}, "", "", new(*NotFoundError)},
		"of another machine":   {map[string]string{n + "-musl.manifest": ""}, "", "", new(*NotFoundError)},
		"an SDK's":             {map[string]string{n + ".testdata.json": "", n + ".host.manifest": ""}, "", "", new(*NotFoundError)},
		"nothing":              {nil, "", "", new(*NotFoundError)},
		"CycloneDX of a class": {map[string]string{n + ".spdx.json": cdxDoc}, "", "", new(*NotFoundError)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, content := range tt.files {
				path := filepath.Join(dir, file)
				os.MkdirAll(filepath.Dir(path), 0o755)
				var err error
				if target, ok := strings.CutPrefix(content, "-> "); ok {
					err = os.Symlink(target, path)
				} else {
					err = os.WriteFile(path, []byte(content), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			path, kind, err := Find(dir, "qemux86-64", "core-image-minimal")
			if tt.err != nil {
				if !errors.As(err, tt.err) || path != "" {
					t.Errorf("%q %s %v", path, kind, err)
				}
				return
			}
			if err != nil || path != filepath.Join(dir, tt.want) || kind != tt.kind {
				t.Errorf("%q %s %v", path, kind, err)
			}
		})
	}
	if _, _, err := Find(filepath.Join(t.TempDir(), "x"), "m", "i"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, _, err := Find(t.TempDir(), "m", "../i"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, _, err := Find(t.TempDir(), "m", "i"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestWriteSidecar(t *testing.T) {
	t.Parallel()
	manifest := "busybox core2-64 1.36.1-r0\n"
	made, err := FromManifest(strings.NewReader(manifest), Facts{Image: "i"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		in     string
		suffix string
		kind   Kind
		out    string
	}{
		"a.spdx.json":    {spdx3Doc, ".spdx.json", SPDX3, spdx3Doc},
		"a.json":         {cdxDoc, ".cdx.json", CycloneDX, cdxDoc},
		"a.spdx.tar.zst": {string(zstded(t, yoctoArchive(t))), ".spdx.tar.zst", SPDX2TarZstd, string(zstded(t, yoctoArchive(t)))},
		"a.manifest":     {manifest, ".cdx.json", CycloneDX, string(made)},
		"bad.spdx.json":  {spdx3Doc + "x", "", "", ""},
		"bad.tar.zst":    {string(zstded(t, yoctoArchive(t)))[:50], "", "", ""},
		"bad.manifest":   {"x\n", "", "", ""},
		"empty":          {"", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, out := t.TempDir(), t.TempDir()
			in, artifact := filepath.Join(dir, name), filepath.Join(out, "r.mender")
			if err := os.WriteFile(in, []byte(tt.in), 0o600); err != nil {
				t.Fatal(err)
			}
			path, kind, sum, err := WriteSidecar(t.Context(), artifact, in, Facts{Image: "i"})
			entries, _ := os.ReadDir(out)
			if tt.suffix == "" {
				if err == nil || !strings.Contains(err.Error(), in) || len(entries) != 0 {
					t.Errorf("%v, left over: %v", err, entries)
				}
				return
			}
			if err != nil || path != artifact+tt.suffix || kind != tt.kind || sum != Digest([]byte(tt.out)) || len(entries) != 1 {
				t.Fatalf("%s %s %s %v", path, kind, sum, err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != tt.out {
				t.Errorf("%v %q", err, got)
			}
			// A document that lies there already may be given again.
			if kind == SPDX3 {
				if _, _, again, err := WriteSidecar(t.Context(), artifact, path, Facts{}); err != nil || again != sum {
					t.Error(err)
				}
			}
			cancelled, cancel := context.WithCancel(t.Context())
			cancel()
			if _, _, _, err := WriteSidecar(cancelled, artifact, in, Facts{Image: "i"}); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	if _, _, _, err := WriteSidecar(t.Context(), "x", filepath.Join(t.TempDir(), "none"), Facts{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func ExampleSidecarName() {
	fmt.Println(SidecarName("release-1.mender", SPDX3))
	// Output: release-1.mender.spdx.json
}
