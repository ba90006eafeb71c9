package artifactfmt

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
)

// tarItem is a member of an archive that is made by hand.
type tarItem struct {
	name    string
	content string
	kind    byte // '0' when not set
}

func (i tarItem) encode() []byte {
	kind := i.kind
	if kind == 0 {
		kind = '0'
	}
	b := ustarBlock(i.name, kind, int64(len(i.content)), rootfs(nil).Epoch)
	b = append(b, i.content...)
	return append(b, make([]byte, padding(int64(len(i.content))))...)
}

func archive(items []tarItem) []byte {
	var b []byte
	for _, i := range items {
		b = append(b, i.encode()...)
	}
	return append(b, tarEnd...)
}

// forgery is an artifact in parts, to be spoilt before it is put together. The manifest lists what is there, and is signed.
type forgery struct {
	version    string
	header     []tarItem
	payload    []tarItem
	headerName string
	packHeader func([]byte) []byte
	dataName   string
	packData   func([]byte) []byte
	manifest   func(lines []string) string
	signature  func(base64 string) string
	outer      func([]tarItem) []tarItem
	after      []byte
}

const (
	goodInfo = `{"payloads":[{"type":"app"}],"artifact_provides":{"artifact_name":"r1"},"artifact_depends":{"device_type":["dt"]}}`
	goodType = `{"type":"app","artifact_provides":{"k":"v"}}`
)

func newForgery() *forgery {
	same := func(b []byte) []byte { return b }
	return &forgery{
		version: versionContent,
		header: []tarItem{
			{name: "header-info", content: goodInfo},
			{name: "scripts/ArtifactInstall_Enter_00", content: "#!/bin/sh\n"},
			{name: "headers/0000/type-info", content: goodType},
			{name: "headers/0000/meta-data", content: `{"a":1}`},
		},
		payload:    []tarItem{{name: "one", content: "first file"}, {name: "two", content: strings.Repeat("x", 700)}},
		headerName: "header.tar.gz", packHeader: gzipped, dataName: "data/0000.tar", packData: same,
		manifest:  func(lines []string) string { return strings.Join(lines, "\n") + "\n" },
		signature: func(s string) string { return s },
		outer:     func(items []tarItem) []tarItem { return items },
	}
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func (f *forgery) build(t testing.TB, signer Signer) []byte {
	header := f.packHeader(archive(f.header))
	var lines []string
	for _, i := range f.payload {
		lines = append(lines, sumOf([]byte(i.content))+"  data/0000/"+i.name)
	}
	lines = append(lines, sumOf(header)+"  "+f.headerName, sumOf([]byte(f.version))+"  version")
	manifest := f.manifest(lines)
	items := []tarItem{{name: "version", content: f.version}, {name: "manifest", content: manifest}}
	if signer != nil {
		signature, err := signer.Sign(t.Context(), []byte(manifest))
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, tarItem{name: "manifest.sig", content: f.signature(base64.StdEncoding.EncodeToString(signature))})
	}
	items = append(items, tarItem{name: f.headerName, content: string(header)},
		tarItem{name: f.dataName, content: string(f.packData(archive(f.payload)))})
	return append(archive(f.outer(items)), f.after...)
}

func (f *forgery) headerItem(name string) *tarItem {
	for i := range f.header {
		if f.header[i].name == name {
			return &f.header[i]
		}
	}
	panic(name)
}

// set replaces text in a member of the header.
func set(name, old, replacement string) func(f *forgery) {
	return func(f *forgery) {
		i := f.headerItem(name)
		if !strings.Contains(i.content, old) {
			panic(old + " is not in " + name)
		}
		i.content = strings.Replace(i.content, old, replacement, 1)
	}
}

func pax(records string) tarItem { return tarItem{name: "pax", content: records, kind: 'x'} }

const (
	info  = "header-info"
	types = "headers/0000/type-info"
)

// The verdicts on artifacts that are wrong in one way each. want is part of the error; with "" the artifact is read, and warning,
// if set, is why Validate refuses it.
var hostile = map[string]struct {
	spoil   func(f *forgery)
	want    string
	is      error
	warning string
}{
	"untouched": {spoil: func(*forgery) {}},

	// version
	"version 1":             {spoil: func(f *forgery) { f.version = `{"format":"mender","version":1}` }, want: "version 1 of the format is not supported"},
	"version 2":             {spoil: func(f *forgery) { f.version = `{"format":"mender","version":2}` }, want: "version 2 of the format is not supported; version 3 is"},
	"version 3.5":           {spoil: func(f *forgery) { f.version = `{"format":"mender","version":3.5}` }, want: "version 3.5"},
	"version huge":          {spoil: func(f *forgery) { f.version = `{"format":"mender","version":1e999}` }, want: "version 1e999"},
	"version text":          {spoil: func(f *forgery) { f.version = `{"format":"mender","version":"x"}` }, want: "does not say which"},
	"other format":          {spoil: func(f *forgery) { f.version = `{"format":"other","version":3}` }, want: `the format is "other"`},
	"version trailing":      {spoil: func(f *forgery) { f.version += " x" }, want: "version: something follows"},
	"version empty":         {spoil: func(f *forgery) { f.version = "" }, want: "version: it ends too early"},
	"version twice":         {spoil: func(f *forgery) { f.version = `{"format":"mender","version":3,"Version":2}` }, want: "twice"},
	"version large":         {spoil: func(f *forgery) { f.version += strings.Repeat(" ", 5000) }, want: "version: it is larger"},
	"version deep":          {spoil: func(f *forgery) { f.version = strings.Repeat("[", 100) }, want: "nested deeper"},
	"version list":          {spoil: func(f *forgery) { f.version = `[]` }, want: "does not say which"},
	"version name prefix":   {spoil: func(f *forgery) { f.outer = rename("version", "version-old") }, want: `expected the member "version"`},
	"version unknown key":   {spoil: func(f *forgery) { f.version = `{"format":"mender","version":3,"x":1}` }, warning: "keys that the format does not have"},
	"version key in case":   {spoil: func(f *forgery) { f.version = `{"format":"mender","Version":3}` }, want: "does not say which"},
	"version null":          {spoil: func(f *forgery) { f.version = `{"format":"mender","version":null}` }, want: "does not say which"},
	"version not first":     {spoil: func(f *forgery) { f.outer = swap(0, 1) }, want: `expected the member "version", found "manifest"`},
	"version sum":           {spoil: func(f *forgery) { f.manifest = replaceLine("version", strings.Repeat("0", 64)+"  version") }, want: "checksum of version differs"},
	"version not listed":    {spoil: func(f *forgery) { f.manifest = dropLine("version") }, want: `does not list "version"`},
	"version is a link":     {spoil: func(f *forgery) { f.outer = retype("version", '2') }, want: "version: it is a link"},
	"version is a hardlink": {spoil: func(f *forgery) { f.outer = retype("version", '1') }, want: "version: it is a link"},

	"member owner by PAX": {spoil: func(f *forgery) { f.outer = insertBefore("header.tar.gz", pax(paxRecord("uname", "Ægir"))) }, warning: `header.tar.gz: its PAX record "uname" is not ASCII`},
	"PAX owner first":     {spoil: func(f *forgery) { f.outer = insertBefore("version", pax(paxRecord("uname", "Ægir"))) }, warning: `version: its PAX record "uname" is not ASCII`},

	// manifest
	"manifest missing":     {spoil: func(f *forgery) { f.outer = drop("manifest") }, want: `expected the member "manifest"`},
	"manifest empty":       {spoil: func(f *forgery) { f.manifest = func([]string) string { return "" } }, want: "manifest: it is empty"},
	"manifest no final LF": {spoil: func(f *forgery) { f.manifest = func(l []string) string { return strings.Join(l, "\n") } }, warning: "does not end with a line feed"},
	"manifest blank line":  {spoil: func(f *forgery) { f.manifest = func(l []string) string { return strings.Join(l, "\n\n") + "\n" } }, want: "line 2 is not"},
	"manifest CR":          {spoil: func(f *forgery) { f.manifest = func(l []string) string { return strings.Join(l, "\r\n") + "\r\n" } }, want: "line 1 is not"},
	"manifest one blank":   {spoil: func(f *forgery) { f.manifest = edit("  ", " ") }, want: "line 1 is not"},
	"manifest upper case": {spoil: func(f *forgery) {
		f.manifest = func(l []string) string { return strings.ToUpper(strings.Join(l, "\n")) + "\n" }
	}, want: "line 1 is not"},
	"manifest no digits": {spoil: func(f *forgery) { f.manifest = addLine(strings.Repeat("g", 64) + "  x") }, want: "line 5 is not"},
	"manifest NUL":       {spoil: func(f *forgery) { f.manifest = edit("data/0000/one", "data/0000/one\x00") }, want: "line 1 is not"},
	"manifest long name": {spoil: func(f *forgery) {
		f.manifest = addLine(strings.Repeat("0", 64) + "  data/0000/" + strings.Repeat("n", 2000))
	}, want: "line 5 is not"},
	"manifest twice":          {spoil: func(f *forgery) { f.manifest = addLine(strings.Repeat("0", 64) + "  data/0000/one") }, want: `line 5 names "data/0000/one" a second time`},
	"manifest lists too much": {spoil: func(f *forgery) { f.manifest = addLine(strings.Repeat("0", 64) + "  data/0000/three") }, want: `lists "data/0000/three", which is not in the artifact`},
	"manifest lists others":   {spoil: func(f *forgery) { f.manifest = addLine(strings.Repeat("0", 64) + "  etc/passwd") }, want: `lists "etc/passwd"`},
	"manifest traversal":      {spoil: func(f *forgery) { f.manifest = addLine(strings.Repeat("0", 64) + "  data/0000/../x") }, want: "directory part"},
	"manifest huge": {spoil: func(f *forgery) {
		f.manifest = func(l []string) string { return strings.Repeat(strings.Repeat("0", 64)+"  x\n", 1<<14) }
	}, want: "manifest: it is larger"},
	"manifest many lines": {spoil: func(f *forgery) {
		f.manifest = func([]string) string {
			var b strings.Builder
			for i := range 5000 {
				fmt.Fprintf(&b, "%064d  data/0000/%d\n", i, i)
			}
			return b.String()
		}
	}, want: "more than 4098 lines"},
	"augmented": {spoil: func(f *forgery) { f.outer = insertBefore("header.tar.gz", tarItem{name: "manifest-augment"}) }, want: "augmented artifacts are not supported"},

	// signature
	"signature stripped":  {spoil: func(f *forgery) { f.outer = drop("manifest.sig") }, is: ErrUnsigned},
	"signature late":      {spoil: func(f *forgery) { f.outer = swap(2, 3) }, is: ErrUnsigned},
	"signature empty":     {spoil: func(f *forgery) { f.signature = func(string) string { return "" } }, is: ErrSignature},
	"signature damaged":   {spoil: func(f *forgery) { f.signature = func(s string) string { return "AAAA" + s[4:] } }, is: ErrSignature},
	"signature no base64": {spoil: func(f *forgery) { f.signature = func(s string) string { return "!" + s[1:] } }, want: "not base64"},
	"signature two lines": {spoil: func(f *forgery) { f.signature = func(s string) string { return s[:20] + "\n" + s[20:] } }, want: "not base64"},
	"signature final LF":  {spoil: func(f *forgery) { f.signature = func(s string) string { return s + "\n" } }, warning: "ends with a line break"},
	"signature huge":      {spoil: func(f *forgery) { f.signature = func(s string) string { return strings.Repeat(s, 100) } }, want: "larger than any signature"},
	"signature short":     {spoil: func(f *forgery) { f.signature = func(string) string { return "AAAA" } }, is: ErrSignature},
	"signature of nothing": {spoil: func(f *forgery) {
		f.outer = replaceContent("manifest", func(c string) string { return c + strings.Repeat("0", 64) + "  data/0000/x\n" })
	}, is: ErrSignature},

	// header
	"header missing": {spoil: func(f *forgery) { f.outer = drop("header.tar.gz") }, want: `expected the header, found the member "data/0000.tar"`},
	"header sum": {spoil: func(f *forgery) {
		f.outer = replaceContent("header.tar.gz", func(c string) string { return c[:20] + "x" + c[21:] })
	}, want: "checksum of header.tar.gz differs"},
	"header not listed":     {spoil: func(f *forgery) { f.manifest = dropLine("header.tar.gz") }, want: `does not list "header.tar.gz"`},
	"header other suffix":   {spoil: func(f *forgery) { f.headerName = "header.tar.xz" }, warning: "in another way than its name says"},
	"header unknown suffix": {spoil: func(f *forgery) { f.headerName = "header.tar.gz.bak" }, want: "expected the header"},
	"header no archive": {spoil: func(f *forgery) {
		f.packHeader = func([]byte) []byte { return gzipped([]byte(strings.Repeat("rubbish ", 200))) }
	}, want: "not a tar archive"},
	"header empty":          {spoil: func(f *forgery) { f.packHeader = func([]byte) []byte { return nil } }, want: "header.tar.gz: it ends too early"},
	"header truncated gzip": {spoil: func(f *forgery) { f.packHeader = func(b []byte) []byte { g := gzipped(b); return g[:len(g)-20] } }, want: "compressed data end too early"},
	"header damaged gzip":   {spoil: func(f *forgery) { f.packHeader = func(b []byte) []byte { g := gzipped(b); g[len(g)-6] ^= 1; return g } }, want: "gzip data are damaged"},
	"header cut":            {spoil: func(f *forgery) { f.packHeader = func(b []byte) []byte { return gzipped(b[:len(b)-512]) } }, want: "header.tar.gz: it ends too early"},
	"header trailing":       {spoil: func(f *forgery) { f.packHeader = func(b []byte) []byte { return gzipped(append(b, "x"...)) } }, want: "something follows the end"},
	"header padded": {spoil: func(f *forgery) {
		f.packHeader = func(b []byte) []byte { return gzipped(append(b, make([]byte, 9<<10)...)) }
	}},
	"header bomb": {spoil: func(f *forgery) {
		f.headerItem("scripts/ArtifactInstall_Enter_00").content = strings.Repeat("\x00", 17<<20)
	}, want: "it is larger than 16384 KiB"},
	"header bomb behind": {spoil: func(f *forgery) {
		f.packHeader = func(b []byte) []byte { return gzipped(append(b, make([]byte, 64<<20)...)) }
	}, want: "zeros follow"},
	"header-info bomb":         {spoil: func(f *forgery) { f.header[0].content += strings.Repeat(" ", 2<<20) }, want: "header-info: it is larger than 1024 KiB"},
	"header-info missing":      {spoil: func(f *forgery) { f.header = f.header[1:] }, want: "must begin with header-info"},
	"header-info late":         {spoil: func(f *forgery) { f.header[0], f.header[1] = f.header[1], f.header[0] }, want: "must begin with header-info"},
	"header-info twice":        {spoil: func(f *forgery) { f.header = append(f.header, f.header[0]) }, want: "have it once"},
	"header-info is a link":    {spoil: func(f *forgery) { f.header[0].kind = '2' }, want: "it is a link"},
	"header directory":         {spoil: addHeader(2, tarItem{name: "headers/", kind: '5'}), warning: "it is a directory"},
	"header device":            {spoil: addHeader(2, tarItem{name: "scripts/ArtifactInstall_Enter_01", kind: '3'}), want: "not a regular file"},
	"header unknown member":    {spoil: addHeader(1, tarItem{name: "extra"}), want: "no such member"},
	"header second payload":    {spoil: addHeader(4, tarItem{name: "headers/0001/type-info", content: goodType}), want: "only one payload"},
	"header traversal":         {spoil: addHeader(4, tarItem{name: "headers/0000/../../x", content: goodType}), want: "only one payload"},
	"header PAX global":        {spoil: addHeader(1, tarItem{name: "g", content: "10 a=bcd\n\n", kind: 'g'}), want: "header"},
	"header PAX owner":         {spoil: addHeader(1, pax(paxRecord("uname", "Jürgen"))), warning: `its PAX record "uname" is not ASCII (Mender clients from 4.0`},
	"header PAX ASCII":         {spoil: addHeader(1, pax(paxRecord("uname", "builder")))},
	"header PAX sparse":        {spoil: addHeader(1, pax(paxRecord("GNU.sparse.map", "0,1")+paxRecord("GNU.sparse.size", "5"))), want: "header"},
	"header PAX huge":          {spoil: addHeader(1, pax(strings.Repeat("x", 3<<20))), want: "header"},
	"header GNU long name":     {spoil: addHeader(1, tarItem{name: "././@LongLink", content: "scripts/" + strings.Repeat("x", 2000) + "\x00", kind: 'L'}), want: "header"},
	"header name with escape":  {spoil: addHeader(1, tarItem{name: "scripts/\x1b[2J"}), want: "cannot be printed"},
	"script with slash":        {spoil: addHeader(1, tarItem{name: "scripts/x/"}), want: "not the name of a state script"},
	"script traversal":         {spoil: addHeader(1, tarItem{name: "scripts/ArtifactInstall_Enter_00_/../../x"}), want: "not the name of a state script"},
	"script junk before":       {spoil: addHeader(1, tarItem{name: "scripts/../ArtifactInstall_Enter_00"}), want: "not the name of a state script"},
	"script twice":             {spoil: addHeader(1, tarItem{name: "scripts/ArtifactInstall_Enter_00"}), want: "it is there twice"},
	"script late":              {spoil: addHeader(3, tarItem{name: "scripts/ArtifactInstall_Enter_01"}), warning: "it follows the type-info"},
	"too many scripts":         {spoil: manyScripts, want: "more than 256 state scripts"},
	"type-info missing":        {spoil: func(f *forgery) { f.header = slices.Delete(f.header, 2, 3) }, want: "has no type-info"},
	"type-info twice":          {spoil: addHeader(3, tarItem{name: types, content: goodType}), want: "twice"},
	"meta-data before":         {spoil: func(f *forgery) { f.header[2], f.header[3] = f.header[3], f.header[2] }, warning: "it follows the meta-data"},
	"meta-data twice":          {spoil: addHeader(4, tarItem{name: "headers/0000/meta-data", content: "{}"}), want: "twice"},
	"meta-data empty":          {spoil: func(f *forgery) { f.header[3].content = "" }},
	"meta-data absent":         {spoil: func(f *forgery) { f.header = f.header[:3] }},
	"meta-data list":           {spoil: func(f *forgery) { f.header[3].content = "[]" }, want: "not a JSON object"},
	"meta-data deep":           {spoil: func(f *forgery) { f.header[3].content = strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70) }, want: "nested deeper than 64"},
	"meta-data case":           {spoil: func(f *forgery) { f.header[3].content = `{"a":1,"A":2}` }},
	"meta-data trailing comma": {spoil: func(f *forgery) { f.header[3].content = `{"a":1,}` }, want: "not JSON"},

	// JSON of the header
	"info trailing":          {spoil: set(info, `"dt"]}}`, `"dt"]}} {}`), want: "something follows the JSON"},
	"info unknown key":       {spoil: set(info, `{"payloads"`, `{"x":1,"payloads"`), warning: "keys that the format does not have"},
	"info key twice":         {spoil: set(info, `{"payloads"`, `{"payloads":[],"payloads"`), want: `the key "payloads" twice`},
	"info key in other case": {spoil: set(info, `{"payloads"`, `{"Payloads":[],"payloads"`), want: "twice"},
	"info Kelvin sign":       {spoil: set(info, `{"payloads"`, `{"artifact_provideſ":{"artifact_name":"evil"},"payloads"`), want: "twice"},
	"info bad UTF-8":         {spoil: set(info, `"r1"`, "\"r1\xff\""), want: "UTF-8"},
	"info comment":           {spoil: set(info, `{"payloads"`, `/* */{"payloads"`), want: "not JSON"},
	"info list":              {spoil: func(f *forgery) { f.header[0].content = "[]" }, want: "does not allow there"},
	"info null":              {spoil: func(f *forgery) { f.header[0].content = "null" }, want: "0 payloads"},
	"info no payloads":       {spoil: set(info, `{"type":"app"}`, ``), want: "0 payloads"},
	"info two payloads":      {spoil: set(info, `{"type":"app"}`, `{"type":"app"},{"type":"app"}`), want: "2 payloads"},
	"info no name":           {spoil: set(info, `"artifact_name":"r1"`, ``), want: "no artifact_name"},
	"info number as name":    {spoil: set(info, `"r1"`, `1`), want: "JSON number"},
	"info no device type":    {spoil: set(info, `["dt"]`, `[]`), want: "no device_type"},
	"info device type text":  {spoil: set(info, `["dt"]`, `"dt"`), want: "JSON string"},
	"info escape in name":    {spoil: set(info, `"r1"`, `"r\u001b[2J"`), want: "cannot be printed"},
	"info long name":         {spoil: set(info, `"r1"`, `"`+strings.Repeat("r", 300)+`"`), warning: "longer than 256"},
	"info inner key":         {spoil: set(info, `"artifact_name":"r1"`, `"artifact_name":"r1","x":1`)},
	"type unknown key":       {spoil: set(types, `{"type"`, `{"x":[1],"type"`)},
	"type differs":           {spoil: set(types, `"app"`, `"other"`), want: `names the payload type "other"`},
	"type empty":             {spoil: set(types, `"app"`, `""`), warning: "does not name the payload type"},
	"type missing":           {spoil: set(types, `"type":"app",`, ``), warning: "does not name the payload type"},
	"type null":              {spoil: set(info, `"app"`, `null`), want: "header-info none"},
	"type with path":         {spoil: set(info, `"app"`, `"../../bin/sh"`), want: `names the payload type "app"`},
	"types with path": {spoil: func(f *forgery) {
		set(info, `"app"`, `"../../bin/sh"`)(f)
		set(types, `"app"`, `"../../bin/sh"`)(f)
	}, want: "cannot be the name of an update module"},
	"provides list":   {spoil: set(types, `"v"`, `["v"]`), want: "JSON array"},
	"provides number": {spoil: set(types, `"v"`, `1`), want: "JSON number"},
	"provides escape": {spoil: set(types, `"v"`, `"\u0007"`), want: "cannot be printed"},
	"rootfs two files": {spoil: func(f *forgery) {
		set(info, `"app"`, `"rootfs-image"`)(f)
		set(types, `"app"`, `"rootfs-image"`)(f)
	}, want: "lists 2 files; a rootfs-image artifact has one"},
	"bootstrap with files": {spoil: func(f *forgery) {
		set(info, `"app"`, `null`)(f)
		set(types, `"app"`, `null`)(f)
		f.header = f.header[:3]
	}, want: "no payload type"},
	"bootstrap with meta-data": {spoil: func(f *forgery) {
		set(info, `"app"`, `null`)(f)
		set(types, `"app"`, `null`)(f)
	}, want: "an artifact without payload has none"},

	// payload
	"payload missing":       {spoil: func(f *forgery) { f.outer = drop("data/0000.tar") }, want: "the payload is missing"},
	"payload other name":    {spoil: func(f *forgery) { f.dataName = "data/../data/0000.tar" }, want: "expected the payload"},
	"payload number":        {spoil: func(f *forgery) { f.dataName = "data/0001.tar" }, warning: "its number is not 0000"},
	"payload other suffix":  {spoil: func(f *forgery) { f.dataName = "data/0000.tar.gz" }, warning: "in another way than its name says"},
	"payload gzip as plain": {spoil: func(f *forgery) { f.packData = gzipped }, warning: "in another way than its name says"},
	"payload twice":         {spoil: func(f *forgery) { f.outer = duplicate("data/0000.tar") }, want: `"data/0000.tar" follows the payload`},
	"member behind": {spoil: func(f *forgery) {
		f.outer = func(i []tarItem) []tarItem { return append(i, tarItem{name: "sbom.json"}) }
	}, want: `"sbom.json" follows the payload`},
	"payload is a link": {spoil: func(f *forgery) { f.outer = retype("data/0000.tar", '2') }, want: "it is a link"},
	"file sum":          {spoil: func(f *forgery) { f.packData = swapBytes("first file", "worst file") }, want: "checksum of data/0000/one differs"},
	"file not listed":   {spoil: func(f *forgery) { f.manifest = dropLine("data/0000/one") }, want: "data/0000.tar: one: the manifest does not list it"},
	"file missing":      {spoil: func(f *forgery) { f.packData = func([]byte) []byte { return archive(f.payload[:1]) } }, want: `lists "data/0000/two"`},
	"file twice":        {spoil: func(f *forgery) { f.packData = func([]byte) []byte { return archive(append(f.payload, f.payload[0])) } }, want: "one: it is there twice"},
	"files swapped": {spoil: func(f *forgery) {
		f.packData = func([]byte) []byte { return archive([]tarItem{f.payload[1], f.payload[0]}) }
	}},
	"file is a symlink":    {spoil: func(f *forgery) { f.payload[0].kind = '2' }, want: "it is a link"},
	"file is a directory":  {spoil: func(f *forgery) { f.payload[0].kind = '5' }, want: "it is a directory"},
	"file is a device":     {spoil: func(f *forgery) { f.payload[0].kind = '4' }, want: "not a regular file"},
	"file is a pipe":       {spoil: func(f *forgery) { f.payload[0].kind = '6' }, want: "not a regular file"},
	"file is sparse (GNU)": {spoil: func(f *forgery) { f.payload[0].kind = 'S' }, want: "data/0000.tar"},
	"file is sparse (PAX)": {spoil: addPayload(pax(paxRecord("GNU.sparse.major", "1") + paxRecord("GNU.sparse.minor", "0") + paxRecord("GNU.sparse.realsize", "9999999"))), want: "data/0000.tar"},
	"file size by PAX":     {spoil: addPayload(pax(paxRecord("size", "1152921504606846977"))), want: "data/0000.tar"},
	"file negative size":   {spoil: addPayload(pax(paxRecord("size", "-1"))), want: "data/0000.tar"},
	"file renamed by PAX":  {spoil: addPayload(pax(paxRecord("path", "../../etc/passwd"))), want: "directory part"},
	"file owner by PAX":    {spoil: addPayload(pax(paxRecord("gname", "Groß"))), warning: `one: its PAX record "gname" is not ASCII`},
	"file with path":       {spoil: func(f *forgery) { f.payload[0].name = "sub/one" }, want: "directory part"},
	"file dot dot":         {spoil: func(f *forgery) { f.payload[0].name = ".." }, want: "not the name of a file"},
	"file backslash":       {spoil: func(f *forgery) { f.payload[0].name = `..\x` }, want: "directory part"},
	"file command":         {spoil: func(f *forgery) { f.payload[0].name = "$(reboot)" }, want: "only the letters"},
	"payload cut":          {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return b[:len(b)-1024] } }, want: "data/0000.tar: it ends too early"},
	"payload rubbish": {spoil: func(f *forgery) {
		f.packData = func(b []byte) []byte { return []byte(strings.Repeat("rubbish ", 200)) }
	}, want: "not a tar archive"},
	"payload trailing":     {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return append(b, "x"...) } }, want: "something follows the end"},
	"payload zeros behind": {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return append(b, make([]byte, 9<<10)...) } }},
	"payload bomb behind": {spoil: func(f *forgery) {
		f.packData = func(b []byte) []byte { return gzipped(append(b, make([]byte, 64<<20)...)) }
	}, want: "zeros follow the end"},
	"payload gzip cut": {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { g := gzipped(b); return g[:len(g)-4] } }, want: "compressed data end too early"},
	"payload gzip half": {spoil: func(f *forgery) {
		f.packData = func(b []byte) []byte { return gzipStored(b)[:800] }
	}, want: "compressed data end too early"},
	"payload zstd half":      {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return rawZstd(b)[:800] } }, want: "compressed data end too early"},
	"payload none half":      {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return b[:800] } }, want: "it ends too early"},
	"payload gzip checksum":  {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { g := gzipped(b); g[len(g)-8] ^= 1; return g } }, want: "gzip data are damaged"},
	"payload gzip rubbish":   {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return append(gzipped(b), "rubbish"...) } }, want: "data"},
	"payload gzip in gzip":   {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return gzipped(gzipped(b)) } }, want: "data/0000.tar"},
	"payload zstd window":    {spoil: func(f *forgery) { f.packData = wideZstd }, want: "more memory than is allowed"},
	"payload zstd cut":       {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { z := zstded(b); return z[:len(z)-3] } }, want: "compressed data end too early"},
	"payload zstd skippable": {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return append(zstded(b), seekTable(nil)...) } }, warning: "in another way than its name says"},
	"payload zstd rubbish":   {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return append(zstded(b), "rubbish"...) } }, want: "data"},
	"payload xz dictionary":  {spoil: func(f *forgery) { f.packData = wideXZ }, want: "more memory than is allowed"},
	"payload xz cut":         {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { z := xzed(b); return z[:len(z)-8] } }, want: "compressed data end too early"},
	"payload xz damaged":     {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { z := xzed(b); z[14] ^= 1; return z } }, want: "xz data are damaged"},
	"payload xz rubbish":     {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return append(xzed(b), "rubbish rubbish"...) } }, want: "xz data are damaged"},
	"payload xz padded":      {spoil: func(f *forgery) { f.packData = func(b []byte) []byte { return append(xzed(b), 0, 0, 0, 0) } }, warning: "in another way than its name says"},
	"payload xz second stream": {spoil: func(f *forgery) {
		f.packData = func(b []byte) []byte { return append(xzed(b[:512]), xzed(b[512:])...) }
	}, warning: "in another way than its name says"},
	"payload xz many blocks":    {spoil: func(f *forgery) { f.packData = manyXZ }, want: "more memory than is allowed"},
	"payload xz declared 4 GiB": {spoil: func(f *forgery) { f.packData = hugeXZ }, want: "more memory than is allowed"},

	// behind
	"zeros behind": {spoil: func(f *forgery) { f.after = make([]byte, 9<<10) }},
}

func TestHostile(t *testing.T) {
	t.Parallel()
	_, _, signer, ring := keyPair(t, "ecdsa-p256")
	for name, c := range hostile {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newForgery()
			c.spoil(f)
			data := f.build(t, signer)
			o := ReadOptions{Verifier: ring}
			info, err := Verify(t.Context(), bytes.NewReader(data), o)
			for _, goroutines := range []int{1, 2, 8} {
				o.Concurrency = goroutines
				again, err2 := Verify(t.Context(), iotest.HalfReader(bytes.NewReader(data)), o)
				if !sameError(err, err2) || !cmp.Equal(info, again) {
					t.Errorf("%d goroutines say %v, not %v", goroutines, err2, err)
				}
			}
			o.Concurrency = 0
			_, strictErr := Validate(t.Context(), iotest.OneByteReader(bytes.NewReader(data[:min(len(data), 1<<20)])), o)
			if c.want != "" || c.is != nil {
				if err == nil || !strings.Contains(err.Error(), c.want) || (c.is != nil && !errors.Is(err, c.is)) {
					t.Errorf("error %v, want %q %v", err, c.want, c.is)
				}
				if len(data) < 1<<20 && strictErr == nil {
					t.Error("Validate accepts it")
				}
				isTyped(t, err)
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			if c.warning == "" {
				if strictErr != nil || len(info.Warnings) > 0 {
					t.Errorf("Validate: %v, warnings %q", strictErr, info.Warnings)
				}
				return
			}
			if len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], c.warning) {
				t.Errorf("warnings %q, want %q", info.Warnings, c.warning)
			}
			if strictErr == nil || !strings.Contains(strictErr.Error(), c.warning) {
				t.Errorf("Validate: %v, want %q", strictErr, c.warning)
			}
		})
	}
}

// isTyped demands an error that a caller can tell apart.
func isTyped(t testing.TB, err error) {
	t.Helper()
	var fe *FormatError
	var ce *ChecksumError
	if !errors.As(err, &fe) && !errors.As(err, &ce) && !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrSignature) && !errors.Is(err, ErrUnsigned) {
		t.Errorf("the error %q has no type (%T)", err, err)
	}
}

func TestTrailingData(t *testing.T) {
	t.Parallel()
	data := append(newForgery().build(t, nil), "trailing"...)
	if _, err := Verify(t.Context(), bytes.NewReader(data), ReadOptions{}); err != nil {
		t.Errorf("Verify reads what follows the artifact: %v", err)
	}
	if _, err := Validate(t.Context(), bytes.NewReader(data), ReadOptions{}); err == nil || !strings.Contains(err.Error(), "something follows") {
		t.Errorf("Validate: %v", err)
	}
}

// packers are the compressions as a forgery uses them.
func packers() map[Compression]func([]byte) []byte {
	return map[Compression]func([]byte) []byte{
		CompressionNone: func(b []byte) []byte { return b }, Gzip: gzipped, Zstd: zstded, XZ: xzed,
	}
}

func signedForgery(t *testing.T, compression Compression) (artifact []byte, o ReadOptions) {
	_, _, signer, ring := keyPair(t, "ecdsa-p256")
	f := newForgery()
	f.packData = packers()[compression]
	f.dataName += codecs[compression].suffix
	return f.build(t, signer), ReadOptions{Verifier: ring}
}

// An artifact cut anywhere is ErrTruncated, whatever its compression.
func TestTruncated(t *testing.T) {
	t.Parallel()
	for compression := range codecs {
		data, o := signedForgery(t, compression)
		step := 3 // no divisor of 512: all kinds of places are cut
		if compression == XZ {
			step = 101 // each try makes a dictionary of 8 MiB
		}
		for n := 0; n < len(data); n += step {
			if _, err := Verify(t.Context(), bytes.NewReader(data[:n]), o); !errors.Is(err, ErrTruncated) {
				t.Fatalf("%s cut at %d of %d: %v", compression, n, len(data), err)
			}
		}
		for n := 0; n < len(data); n += blockSize {
			if _, err := Verify(t.Context(), bytes.NewReader(data[:n]), o); !errors.Is(err, ErrTruncated) {
				t.Fatalf("%s cut at %d of %d: %v", compression, n, len(data), err)
			}
		}
	}
}

// A changed byte is either detected or changes nothing that anyone reads.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	for compression := range codecs {
		data, o := signedForgery(t, compression)
		want, err := Verify(t.Context(), bytes.NewReader(data), o)
		if err != nil {
			t.Fatal(err)
		}
		detected := 0
		step := map[Compression]int{CompressionNone: 1, Gzip: 5, Zstd: 5, XZ: 31}[compression]
		for i := 0; i < len(data); i += step {
			data[i] ^= 1 << (i % 8)
			info, err := Verify(t.Context(), bytes.NewReader(data), o)
			data[i] ^= 1 << (i % 8)
			if err != nil {
				isTyped(t, err)
				detected++
			} else if d := cmp.Diff(want, info); d != "" {
				t.Fatalf("%s: byte %d: %s", compression, i, d)
			}
		}
		if detected*step < 8*blockSize { // the rest is padding of tar
			t.Errorf("%s: only %d of %d changes were detected", compression, detected, len(data))
		}
	}
}

func TestSourceErrorsPass(t *testing.T) {
	t.Parallel()
	for _, compression := range []Compression{CompressionNone, Gzip, Zstd, XZ} {
		a := module()
		a.Compression = compression
		data := write(t, a)
		for _, n := range []int{0, 100, 600, 3000, len(data) - 1100, len(data) - 10} {
			_, err := Verify(t.Context(), io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(errBroken)), ReadOptions{})
			if !errors.Is(err, errBroken) {
				t.Errorf("%s at %d: %v", compression, n, err)
				continue
			}
			if strings.Count(err.Error(), "reading the artifact") != 1 {
				t.Errorf("%s at %d: the error repeats itself: %v", compression, n, err)
			}
		}
	}
}

func TestForeignKey(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ecdsa-p256", "rsa-3072"} {
		_, _, signer, _ := keyPair(t, algorithm)
		_, _, _, foreign := keyPair(t, algorithm)
		data := write(t, signed(module(), signer))
		if _, err := NewReader(bytes.NewReader(data), ReadOptions{Verifier: foreign}); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
	_, _, _, ring := keyPair(t, "ecdsa-p256")
	if _, err := NewReader(bytes.NewReader(write(t, module())), ReadOptions{Verifier: ring}); !errors.Is(err, ErrUnsigned) {
		t.Errorf("unsigned: %v", err)
	}
}

// Before the checksum of a file is met, its reader never says that the file ended well.
func TestChecksumInPlaceOfEOF(t *testing.T) {
	t.Parallel()
	f := newForgery()
	f.packData = swapBytes("first file", "worst file")
	r, err := NewReader(bytes.NewReader(f.build(t, nil)), ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	file, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	var ce *ChecksumError
	if _, err := io.ReadAll(file); !errors.As(err, &ce) || ce.Got != sumOf([]byte("worst file")) {
		t.Errorf("error %v", err)
	}
	if _, err := r.Next(); !errors.As(err, &ce) {
		t.Errorf("Next after it: %v", err)
	}
	if _, err := r.Next(); !errors.As(err, &ce) {
		t.Errorf("Next again: %v", err)
	}
}

func TestPayloadLimit(t *testing.T) {
	t.Parallel()
	data := newForgery().build(t, nil)
	if _, err := Verify(t.Context(), bytes.NewReader(data), ReadOptions{Limits: Limits{Payload: 710}}); err != nil {
		t.Errorf("exactly at the limit: %v", err)
	}
	_, err := Verify(t.Context(), bytes.NewReader(data), ReadOptions{Limits: Limits{Payload: 709}})
	if err == nil || !strings.Contains(err.Error(), "two: the payload is larger than the 709 bytes") {
		t.Errorf("over the limit: %v", err)
	}
}

// Ways to spoil the members of the artifact.

func drop(name string) func([]tarItem) []tarItem {
	return func(items []tarItem) []tarItem {
		return slices.DeleteFunc(items, func(i tarItem) bool { return i.name == name })
	}
}

func swap(a, b int) func([]tarItem) []tarItem {
	return func(items []tarItem) []tarItem {
		items[a], items[b] = items[b], items[a]
		return items
	}
}

func change(name string, f func(i *tarItem)) func([]tarItem) []tarItem {
	return func(items []tarItem) []tarItem {
		for i := range items {
			if items[i].name == name {
				f(&items[i])
			}
		}
		return items
	}
}

func rename(name, to string) func([]tarItem) []tarItem {
	return change(name, func(i *tarItem) { i.name = to })
}

func retype(name string, kind byte) func([]tarItem) []tarItem {
	return change(name, func(i *tarItem) { i.kind = kind })
}

func replaceContent(name string, f func(string) string) func([]tarItem) []tarItem {
	return change(name, func(i *tarItem) { i.content = f(i.content) })
}

func duplicate(name string) func([]tarItem) []tarItem {
	return func(items []tarItem) []tarItem {
		i := slices.IndexFunc(items, func(i tarItem) bool { return i.name == name })
		return append(items, items[i])
	}
}

func insertBefore(name string, item tarItem) func([]tarItem) []tarItem {
	return func(items []tarItem) []tarItem {
		return slices.Insert(items, slices.IndexFunc(items, func(i tarItem) bool { return i.name == name }), item)
	}
}

func addHeader(at int, item tarItem) func(*forgery) {
	return func(f *forgery) { f.header = slices.Insert(f.header, at, item) }
}

func addPayload(item tarItem) func(*forgery) {
	return func(f *forgery) {
		f.packData = func([]byte) []byte { return archive(slices.Insert(slices.Clone(f.payload), 0, item)) }
	}
}

func manyScripts(f *forgery) {
	for i := range 99 {
		for _, state := range []string{"Install", "Reboot", "Commit"} {
			f.header = slices.Insert(f.header, 1, tarItem{name: fmt.Sprintf("scripts/Artifact%s_Leave_%02d", state, i)})
		}
	}
}

// Ways to spoil the manifest.

func addLine(line string) func([]string) string {
	return func(lines []string) string { return strings.Join(append(lines, line), "\n") + "\n" }
}

func dropLine(name string) func([]string) string {
	return func(lines []string) string {
		return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.HasSuffix(l, "  "+name) }), "\n") + "\n"
	}
}

func replaceLine(name, line string) func([]string) string {
	return func(lines []string) string { return dropLine(name)(lines) + line + "\n" }
}

func edit(old, replacement string) func([]string) string {
	return func(lines []string) string {
		return strings.Replace(strings.Join(lines, "\n")+"\n", old, replacement, 1)
	}
}

// Ways to spoil the payload.

func swapBytes(old, replacement string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(replacement), 1) }
}

func zstded(b []byte) []byte {
	e, err := newZstdEncoder(0)
	if err != nil {
		panic(err)
	}
	z, err := e(nil, b)
	if err != nil {
		panic(err)
	}
	return z
}

// gzipStored does not shrink anything, so that a place in it is near the same place of the content.
func gzipStored(b []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		panic(err)
	}
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// rawZstd makes a frame of raw blocks of 128 bytes.
func rawZstd(b []byte) []byte {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0}
	for len(b) > 0 {
		n := min(len(b), 128)
		last := 0
		if n == len(b) {
			last = 1
		}
		header := n<<3 | last
		frame = append(append(frame, byte(header), byte(header>>8), byte(header>>16)), b[:n]...)
		b = b[n:]
	}
	return frame
}

// wideZstd makes a frame for whose decoding 512 MiB must be remembered: magic, descriptor, window, one raw block.
func wideZstd(b []byte) []byte {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 19 << 3}
	header := uint32(len(b))<<3 | 1
	return append(append(frame, byte(header), byte(header>>8), byte(header>>16)), b...)
}

func xzed(b []byte) []byte {
	e, err := newXZEncoder(0)
	if err != nil {
		panic(err)
	}
	z, err := e(nil, b)
	if err != nil {
		panic(err)
	}
	return z
}

// xzWithDictionary changes the size of the dictionary that the first block asks for.
func xzWithDictionary(b []byte, bits byte) []byte {
	z := xzed(b)
	size := int(z[12])*4 + 4
	block := z[12 : 12+size]
	i := bytes.Index(block, []byte{0x21, 1})
	block[i+2] = bits
	binary.LittleEndian.PutUint32(block[size-4:], crcOf(block[:size-4]))
	return z
}

func crcOf(b []byte) uint32 { return crc32.ChecksumIEEE(b) }

func wideXZ(b []byte) []byte { return xzWithDictionary(b, 30) } // 128 MiB

func hugeXZ(b []byte) []byte { return xzWithDictionary(b, 40) }

// manyXZ makes a block of each of the first bytes, all with a dictionary of 64 MiB.
func manyXZ(b []byte) []byte {
	var z []byte
	for i := range 20 {
		z = append(z, xzWithDictionary(b[i:i+1], 28)...)
	}
	return append(z, xzed(b[20:])...)
}
