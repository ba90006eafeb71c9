package artifactfmt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

// Each parser by itself, and all together. What must hold: no panic, an error that has a type, bounded memory, and where
// the form is canonical, encoding again gives the input. The seeds are the artifacts of the other tests.

func FuzzVersion(f *testing.F) {
	for _, c := range hostile {
		forged := newForgery()
		c.spoil(forged)
		f.Add([]byte(forged.version))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, _, err := parseVersion(data); err != nil {
			isTyped(t, err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	for _, c := range hostile {
		forged := newForgery()
		c.spoil(forged)
		f.Add([]byte(forged.manifest([]string{sumOf(nil) + "  data/0000/x", sumOf(nil) + "  header.tar.gz", sumOf(nil) + "  version"})))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, warnings, err := parseManifest(data, defaultLimits)
		if err != nil {
			isTyped(t, err)
			return
		}
		if len(warnings) == 0 && !bytes.Equal(m.encode(), data) {
			t.Errorf("%q is encoded as %q", data, m.encode())
		}
	})
}

func FuzzHeader(f *testing.F) {
	add := func(items []tarItem) {
		var parts [4]string
		script := ""
		for _, i := range items {
			switch name, isScript := strings.CutPrefix(i.name, scriptsPrefix); {
			case i.name == headerInfoName:
				parts[0] = i.content
			case i.name == typeInfoName:
				parts[1] = i.content
			case i.name == metaDataName:
				parts[2] = i.content
			case isScript:
				script = name
			}
		}
		if len(parts[0]) < 4<<10 && len(parts[2]) < 4<<10 {
			f.Add(parts[0], parts[1], parts[2], script)
		}
	}
	for _, c := range hostile {
		forged := newForgery()
		c.spoil(forged)
		add(forged.header)
	}
	f.Fuzz(func(t *testing.T, info, types, metaData, script string) {
		if len(script) > 80 {
			return
		}
		data := archive([]tarItem{
			{name: headerInfoName, content: info},
			{name: scriptsPrefix + script},
			{name: typeInfoName, content: types},
			{name: metaDataName, content: metaData},
		})
		h, err := readHeader(bytes.NewReader(data), headerName, defaultLimits)
		if err != nil {
			isTyped(t, err)
			return
		}
		// What was read without a warning can be written, and is read as the same.
		if len(h.warnings) > 0 {
			return
		}
		again := Artifact{
			Name: h.info.Provides.Name, Group: h.info.Provides.Group, DeviceTypes: h.info.Depends.DeviceTypes,
			DependsNames: h.info.Depends.Names, DependsGroups: h.info.Depends.Groups,
			Provides: h.types.Provides, NoDefaultProvides: true, Depends: h.types.Depends, MetaData: h.metaData, Scripts: h.scripts,
		}
		if h.types.Clears != nil {
			again.ClearsProvides = append([]string{}, *h.types.Clears...)
		}
		if kind := h.info.Payloads[0].Type; kind != nil {
			again.PayloadType = *kind
		}
		encoded, err := again.encodeHeader("")
		if err != nil {
			t.Fatal(err)
		}
		second, err := readHeader(bytes.NewReader(encoded), headerName, defaultLimits)
		if err != nil {
			t.Fatalf("a header that was read and written again is refused: %v", err)
		}
		if len(second.warnings) > 0 || second.info.Provides != h.info.Provides || len(second.scripts) != len(h.scripts) {
			t.Errorf("read again it differs: %+v, %+v", h, second)
		}
	})
}

func FuzzXZ(f *testing.F) {
	plain := []byte(strings.Repeat("some text ", 300))
	f.Add(xzed(plain))
	f.Add(append(xzed(plain), xzed(nil)...))
	f.Add(append(xzed(plain), make([]byte, 8)...))
	f.Add(wideXZ(plain))
	limits := defaultLimits
	limits.XZDictionary = 1 << 20
	f.Add(xzWithDictionary(plain, 16)) // 1 MiB
	f.Fuzz(func(t *testing.T, data []byte) {
		if !bytes.HasPrefix(data, []byte("\xfd7zXZ\x00")) {
			return
		}
		d, err := decompress(bytes.NewReader(data), "x", limits, limits.Payload)
		if err == nil {
			_, err = io.Copy(io.Discard, io.LimitReader(d, 8<<20))
		}
		if err != nil {
			isTyped(t, err)
		}
	})
}

func FuzzArtifact(f *testing.F) {
	for _, c := range hostile {
		forged := newForgery()
		c.spoil(forged)
		if data := forged.build(f, nil); len(data) < 64<<10 {
			f.Add(data)
		}
	}
	for _, pack := range packers() {
		forged := newForgery()
		forged.packData, forged.packHeader = pack, pack
		f.Add(forged.build(f, nil))
	}
	limits := Limits{XZDictionary: 1 << 20, ZstdWindow: 1 << 20, Payload: 64 << 20}
	f.Fuzz(func(t *testing.T, data []byte) {
		repair(data)
		before := allocated()
		info, err := Verify(t.Context(), bytes.NewReader(data), ReadOptions{Limits: limits})
		if grown := allocated() - before; grown > 256<<20 {
			t.Errorf("%d MiB were allocated for %d bytes", grown>>20, len(data))
		}
		if err != nil {
			isTyped(t, err)
			return
		}
		for _, file := range info.Files {
			if file.Size < 0 || fileNameProblem(file.Name) != "" {
				t.Errorf("the file %+v came through", file)
			}
		}
		if _, err := Validate(t.Context(), bytes.NewReader(data), ReadOptions{Limits: limits}); err != nil {
			var fe *FormatError
			if !errors.As(err, &fe) {
				t.Errorf("Validate refuses with %v", err)
			}
		}
	})
}

// FuzzRewrite edits whatever comes. What is written without an error, and whose payload is good, is good.
func FuzzRewrite(f *testing.F) {
	for _, c := range hostile {
		forged := newForgery()
		c.spoil(forged)
		if data := forged.build(f, nil); len(data) < 64<<10 {
			f.Add(data)
		}
	}
	for compression, pack := range packers() {
		forged := newForgery()
		forged.packData, forged.dataName = pack, "data/0000.tar"+suffixOf(compression)
		f.Add(forged.build(f, nil))
	}
	o := ReadOptions{Limits: Limits{XZDictionary: 1 << 20, ZstdWindow: 1 << 20, Payload: 64 << 20}}
	f.Fuzz(func(t *testing.T, data []byte) {
		repair(data)
		_, payloadErr := Verify(t.Context(), bytes.NewReader(data), o)
		for kind, edit := range edits(t.Context(), 1) {
			out, err := edit(data, o)
			if err != nil {
				var ie *InvalidError
				if !errors.As(err, &ie) {
					isTyped(t, err)
				}
				if payloadErr == nil && kind == "resign" && !bytes.Contains([]byte(err.Error()), []byte("follow")) {
					t.Errorf("resign refuses what Verify takes: %v", err)
				}
				continue
			}
			_, err = Verify(t.Context(), bytes.NewReader(out), o)
			if kind == "convert" {
				_, err = Verify(t.Context(), bytes.NewReader(out), ReadOptions{})
			}
			if (err == nil) != (payloadErr == nil) {
				t.Errorf("%s: the input is read with %v, the output with %v", kind, payloadErr, err)
			}
		}
	})
}

func FuzzLegacy(f *testing.F) {
	for _, spoil := range []func(*forgery){version2, augment(func(*augmentation) {}), func(*forgery) {}} {
		forged := newForgery()
		spoil(forged)
		f.Add(forged.build(f, nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		repair(data)
		info, err := Verify(t.Context(), bytes.NewReader(data), ReadOptions{Legacy: true})
		if err != nil {
			isTyped(t, err)
			return
		}
		_, err = Verify(t.Context(), bytes.NewReader(data), ReadOptions{})
		if legacy := info.Version != 3 || info.Augmented; legacy != (err != nil) {
			t.Errorf("legacy %v, but without the option the error is %v", legacy, err)
		}
	})
}

// repair sets the checksums of tar headers right, so that changes of the other fields are not all refused for that.
func repair(data []byte) {
	for ; len(data) >= blockSize; data = data[blockSize:] {
		b := data[:blockSize]
		if string(b[257:262]) != "ustar" {
			continue
		}
		copy(b[148:], "        ")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
