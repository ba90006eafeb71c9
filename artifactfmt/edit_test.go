package artifactfmt

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func keep(*Artifact) error { return nil }

// signWith makes what Resign wants of a Signer.
func signWith(s Signer) func(context.Context, []byte) ([]byte, error) { return s.Sign }

func kinds() map[string]*Artifact {
	return map[string]*Artifact{"rootfs": rootfs(sparseContent(1<<20 + 77)), "module": module(), "bootstrap": bootstrap()}
}

var allCompressions = []Compression{CompressionNone, Gzip, XZ, Zstd}

// What Write wrote is rewritten without a change to the same bytes, so the artifact that change sees describes all of it.
func TestRewriteWithoutChange(t *testing.T) {
	t.Parallel()
	_, _, signer, ring := keyPair(t, "ecdsa-p256")
	clears := map[string]func(a *Artifact){
		"as it is":  func(*Artifact) {},
		"no clears": func(a *Artifact) { a.ClearsProvides, a.NoClears = nil, true },
		"clears []": func(a *Artifact) { a.ClearsProvides, a.NoClears = []string{}, false },
	}
	for kind, original := range kinds() {
		for _, c := range allCompressions {
			for variant, vary := range clears {
				a := *original
				a.Compression = c
				vary(&a)
				plain := write(t, &a)
				var out bytes.Buffer
				_, err := Rewrite(t.Context(), &out, bytes.NewReader(plain), ReadOptions{}, keep)
				if err != nil {
					t.Fatalf("%s %s %s: %v", kind, c, variant, err)
				}
				if !bytes.Equal(out.Bytes(), plain) {
					t.Errorf("%s %s %s: the bytes differ", kind, c, variant)
				}
				a.Signer = signer
				signed := write(t, &a)
				out.Reset()
				info, err := Rewrite(t.Context(), &out, bytes.NewReader(signed), ReadOptions{Verifier: ring}, func(a *Artifact) error {
					a.Signer = signer
					return nil
				})
				if err != nil || !bytes.Equal(out.Bytes(), signed) {
					t.Fatalf("%s %s %s, signed: the bytes differ (%v)", kind, c, variant, err)
				}
				want, err := Validate(t.Context(), bytes.NewReader(signed), ReadOptions{Verifier: ring})
				if err != nil {
					t.Fatal(err)
				}
				for i := range want.Files {
					want.Files[i].Size = -1
				}
				if d := cmp.Diff(want, info); d != "" {
					t.Errorf("%s %s %s: %s", kind, c, variant, d)
				}
			}
		}
	}
}

func TestRewriteChanges(t *testing.T) {
	t.Parallel()
	_, _, _, oldRing := keyPair(t, "ecdsa-p256")
	_, _, signer, ring := keyPair(t, "rsa-3072")
	in := write(t, module())
	// The artifact is not at the beginning, and the output is a pipe.
	source := bytes.NewReader(append([]byte("before"), in...))
	if _, err := source.Seek(6, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	info, err := Rewrite(t.Context(), struct{ io.Writer }{&out}, source, ReadOptions{}, func(a *Artifact) error {
		Rename(a, "app-3")
		a.Provides["new"] = "value"
		delete(a.Provides, "app.flavour")
		a.Depends["needs"] = "this"
		a.DeviceTypes = []string{"other"}
		a.Group, a.DependsNames, a.DependsGroups = "", nil, nil
		a.ClearsProvides = []string{"x.*"}
		a.MetaData = []byte(`{"n": 1.10}`)
		a.Scripts = []Script{{"ArtifactCommit_Leave_01", []byte("#!/bin/sh\n")}}
		a.Signer = signer
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Validate(t.Context(), bytes.NewReader(out.Bytes()), ReadOptions{Verifier: ring})
	if err != nil {
		t.Fatal(err)
	}
	want := &Info{
		Version: 3, Name: "app-3", DeviceTypes: []string{"other"}, PayloadType: "single-file",
		Provides:       map[string]string{"rootfs-image.single-file.version": "app-3", "new": "value"},
		Depends:        map[string]string{"needs": "this"},
		ClearsProvides: []string{"x.*"}, MetaData: []byte(`{"n":1.10}`),
		Scripts:     []ScriptInfo{{"ArtifactCommit_Leave_01", 10}},
		Compression: Gzip, Signed: true, KeyID: got.KeyID, Files: got.Files,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(got.Files) != 4 || info.Name != "app-3" || info.KeyID != got.KeyID {
		t.Errorf("info %+v, files %+v", info, got.Files)
	}
	if _, err := Rewrite(t.Context(), io.Discard, bytes.NewReader(out.Bytes()), ReadOptions{Verifier: oldRing}, keep); !errors.Is(err, ErrSignature) {
		t.Errorf("with a foreign key: %v", err)
	}
	if _, err := Rewrite(t.Context(), io.Discard, bytes.NewReader(in), ReadOptions{Verifier: ring}, keep); !errors.Is(err, ErrUnsigned) {
		t.Errorf("without a signature: %v", err)
	}
}

func TestRewriteRefuses(t *testing.T) {
	t.Parallel()
	in := write(t, module())
	for name, change := range map[string]func(a *Artifact) error{
		"compression": func(a *Artifact) error { a.Compression = Zstd; return nil },
		"a file":      func(a *Artifact) error { a.Files[0].Name = "x"; return nil },
		"no files":    func(a *Artifact) error { a.Files = nil; return nil },
		"no name":     func(a *Artifact) error { a.Name = ""; return nil },
		"no payload":  func(a *Artifact) error { a.PayloadType = ""; return nil },
		"type":        func(a *Artifact) error { a.PayloadType = "../x"; return nil },
		"meta-data":   func(a *Artifact) error { a.MetaData = []byte("[]"); return nil },
		"script":      func(a *Artifact) error { a.Scripts = []Script{{Name: "x"}}; return nil },
		"callback":    func(*Artifact) error { return errBroken },
	} {
		var out bytes.Buffer
		_, err := Rewrite(t.Context(), &out, bytes.NewReader(in), ReadOptions{}, change)
		var ie *InvalidError
		if !errors.As(err, &ie) && !errors.Is(err, errBroken) {
			t.Errorf("%s: %v", name, err)
		}
		if out.Len() > 0 {
			t.Errorf("%s: something was written", name)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errBroken)
	if _, err := Rewrite(ctx, io.Discard, bytes.NewReader(in), ReadOptions{}, keep); !errors.Is(err, errBroken) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestRename(t *testing.T) {
	t.Parallel()
	a := &Artifact{Name: "r1", Provides: map[string]string{
		"rootfs-image.version": "r1", "rootfs-image.app.version": "r1", "rootfs-image.other.version": "r0", "flavour": "r1", "version": "r1",
	}}
	Rename(a, "r2")
	want := map[string]string{
		"rootfs-image.version": "r2", "rootfs-image.app.version": "r2", "rootfs-image.other.version": "r0", "flavour": "r1", "version": "r1",
	}
	if d := cmp.Diff(want, a.Provides); d != "" || a.Name != "r2" {
		t.Error(a.Name, d)
	}
}

// Artifacts as mender-artifact 3.3 to 4.3 and newest ones with other forms become what all readers accept.
func TestRewriteRepairs(t *testing.T) {
	t.Parallel()
	for name, c := range hostile {
		if c.warning == "" || strings.Contains(c.warning, "cannot") {
			continue
		}
		f := newForgery()
		c.spoil(f)
		data := f.build(t, nil)
		if _, err := Verify(t.Context(), bytes.NewReader(data), ReadOptions{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var out bytes.Buffer
		_, err := Rewrite(t.Context(), &out, bytes.NewReader(data), ReadOptions{}, func(a *Artifact) error { a.Name = "r2"; return nil })
		if err == nil && strings.HasPrefix(name, "file ") { // what is in the payload stays
			continue
		}
		if err == nil {
			_, err = Validate(t.Context(), &out, ReadOptions{})
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// virtual is an artifact whose payload is too large to have; reading it gives what happens to be in the buffer.
type virtual struct {
	prefix []byte
	size   int64
	at     int64
}

func (v *virtual) Seek(offset int64, whence int) (int64, error) {
	v.at = map[int]int64{io.SeekStart: 0, io.SeekCurrent: v.at, io.SeekEnd: v.size}[whence] + offset
	return v.at, nil
}

func (v *virtual) Read(p []byte) (int, error) {
	if v.at >= v.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), v.size-v.at))
	switch {
	case v.at < int64(len(v.prefix)):
		n = copy(p[:n], v.prefix[v.at:])
	case v.at+int64(n) > v.size-1<<10:
		clear(p[:n])
	}
	v.at += int64(n)
	return n, nil
}

type beginning struct {
	b []byte
	n int64
}

func (b *beginning) Write(p []byte) (int, error) {
	b.n += int64(len(p))
	b.b = append(b.b, p[:min(len(p), max(0, 64<<10-len(b.b)))]...)
	return len(p), nil
}

func TestRewriteLargePayload(t *testing.T) {
	t.Parallel()
	const size = 9<<30 + 5<<9
	small := write(t, signed(module(), nil))
	r, err := NewReader(bytes.NewReader(small), ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := r.payloadMember()
	if err != nil {
		t.Fatal(err)
	}
	prefix := append(bytes.Clone(small[:m.start]), paxSizeHeader("data/0000.tar", size, m.ModTime)...)
	in := &virtual{prefix: prefix, size: int64(len(prefix)) + size + int64(len(tarEnd))}
	for name, edit := range map[string]func(out io.Writer) error{
		"rewrite": func(out io.Writer) error {
			_, err := Rewrite(t.Context(), out, in, ReadOptions{}, func(a *Artifact) error { Rename(a, "app-9"); return nil })
			return err
		},
		"resign": func(out io.Writer) error {
			_, err := Resign(t.Context(), out, in, ReadOptions{}, nil)
			return err
		},
	} {
		in.at = 0
		var out beginning
		if err := edit(&out); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if out.n != in.size && name == "resign" {
			t.Errorf("%s: %d bytes instead of %d", name, out.n, in.size)
		}
		again, err := NewReader(bytes.NewReader(out.b), ReadOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m, _, err := again.payloadMember(); err != nil || m.Size != size {
			t.Errorf("%s: the payload %+v %v", name, m, err)
		}
		in.at, in.size = 0, in.size-int64(len(tarEnd))-1
		if err := edit(&out); !errors.Is(err, ErrTruncated) {
			t.Errorf("%s of a truncated artifact: %v", name, err)
		}
		in.size += int64(len(tarEnd)) + 1
	}
}

// fileSink takes part in io.Copy as *os.File does.
type fileSink struct {
	*os.File
	sources []io.Reader
}

func (f *fileSink) ReadFrom(r io.Reader) (int64, error) {
	if l, ok := r.(*io.LimitedReader); ok {
		f.sources = append(f.sources, l.R)
	}
	return f.File.ReadFrom(r)
}

// The kernel copies from file to file only when the output sees the input as it is.
func TestRewriteLetsTheKernelCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "in")
	writeFile(t, path, write(t, module()))
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	f, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := &fileSink{File: f}
	if _, err := Rewrite(t.Context(), out, in, ReadOptions{}, keep); err != nil {
		t.Fatal(err)
	}
	if len(out.sources) != 1 || out.sources[0] != io.Reader(in) {
		t.Errorf("io.Copy was given %v", out.sources)
	}
}

func TestResign(t *testing.T) {
	t.Parallel()
	_, _, ecdsa, ecdsaRing := keyPair(t, "ecdsa-p256")
	_, _, rsa, rsaRing := keyPair(t, "rsa-3072")
	for kind, a := range kinds() {
		plain, withECDSA, withRSA := write(t, a), write(t, signed(a, ecdsa)), write(t, signed(a, rsa))
		for name, c := range map[string]struct {
			in, want []byte
			o        ReadOptions
			sign     func(context.Context, []byte) ([]byte, error)
		}{
			"insert":      {plain, withECDSA, ReadOptions{}, signWith(ecdsa)},
			"replace":     {withECDSA, withRSA, ReadOptions{Verifier: ecdsaRing}, signWith(rsa)},
			"remove":      {withRSA, plain, ReadOptions{Verifier: rsaRing}, nil},
			"remove none": {plain, plain, ReadOptions{}, nil},
		} {
			var out bytes.Buffer
			info, err := Resign(t.Context(), &out, bytes.NewReader(c.in), c.o, c.sign)
			if err != nil {
				t.Fatalf("%s %s: %v", kind, name, err)
			}
			if !bytes.Equal(out.Bytes(), c.want) {
				t.Errorf("%s %s: the bytes differ", kind, name)
			}
			if info.Signed != (c.sign != nil) || info.KeyID != "" || len(info.Warnings) > 0 {
				t.Errorf("%s %s: info %+v", kind, name, info)
			}
		}
		if _, err := Resign(t.Context(), io.Discard, bytes.NewReader(withRSA), ReadOptions{Verifier: ecdsaRing}, nil); !errors.Is(err, ErrSignature) {
			t.Errorf("%s with a foreign key: %v", kind, err)
		}
		if _, err := Resign(t.Context(), io.Discard, bytes.NewReader(plain), ReadOptions{Verifier: ecdsaRing}, nil); !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s without signature: %v", kind, err)
		}
	}
}

func TestResignSignature(t *testing.T) {
	t.Parallel()
	in := write(t, bootstrap())
	for n, want := range map[int]string{0: "0 bytes are no signature", 3072: "", 3073: "3073 bytes are no signature"} {
		var out bytes.Buffer
		_, err := Resign(t.Context(), &out, bytes.NewReader(in), ReadOptions{}, func(_ context.Context, manifest []byte) ([]byte, error) {
			clear(manifest) // it is a copy
			return bytes.Repeat([]byte{1}, n), nil
		})
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if err != nil && out.Len() > 0 {
			t.Errorf("%d bytes: something was written", n)
		}
		if err == nil {
			if _, err := Verify(t.Context(), &out, ReadOptions{}); err != nil {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	}
	info, err := Resign(t.Context(), io.Discard, bytes.NewReader(in), ReadOptions{}, func(context.Context, []byte) ([]byte, error) {
		return make([]byte, 71), nil
	})
	if err != nil || len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], "ASN.1") {
		t.Errorf("ASN.1: %+v %v", info, err)
	}
	if _, err := Resign(t.Context(), io.Discard, bytes.NewReader(in), ReadOptions{}, func(context.Context, []byte) ([]byte, error) { return nil, errBroken }); !errors.Is(err, errBroken) {
		t.Errorf("a signer that fails: %v", err)
	}
}

func TestReadManifest(t *testing.T) {
	t.Parallel()
	_, _, signer, ring := keyPair(t, "ecdsa-p256")
	for _, s := range []Signer{nil, signer} {
		data := write(t, signed(module(), s))
		got, err := ReadManifest(bytes.NewReader(data), ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(data, got.Manifest) || !bytes.HasSuffix(got.Manifest, []byte("  version\n")) || got.Info.Name != "app-2" {
			t.Errorf("manifest %q", got.Manifest)
		}
		if s == nil {
			if got.Signature != nil {
				t.Errorf("signature %x", got.Signature)
			}
			continue
		}
		if _, err := ring.Verify(got.Manifest, got.Signature); err != nil {
			t.Error(err)
		}
	}
}

// Converted, an artifact has the bytes that Write gives it.
func TestConvert(t *testing.T) {
	t.Parallel()
	_, _, signer, ring := keyPair(t, "ecdsa-p256")
	for kind, original := range kinds() {
		written := map[Compression][]byte{}
		for _, c := range allCompressions {
			a := *signed(original, signer)
			a.Compression = c
			written[c] = write(t, &a)
		}
		for _, from := range allCompressions {
			for _, to := range allCompressions {
				t.Run(fmt.Sprintf("%s %s to %s", kind, from, to), func(t *testing.T) {
					t.Parallel()
					var out memory
					var done, total int64
					info, err := Convert(t.Context(), &out, struct{ io.Reader }{bytes.NewReader(written[from])}, ReadOptions{Verifier: ring}, ConvertOptions{
						Compression: to, Progress: func(d, t int64) { done, total = d, t },
					})
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(out.b, written[to]) {
						t.Error("the bytes differ from those of Write")
					}
					want, err := Validate(t.Context(), bytes.NewReader(out.b), ReadOptions{Verifier: ring})
					if err != nil {
						t.Fatal(err)
					}
					if d := cmp.Diff(want, info); d != "" {
						t.Error(d)
					}
					if done != total || total == 0 {
						t.Errorf("progress ended at %d of %d", done, total)
					}
				})
			}
		}
	}
}

func TestConvertRefuses(t *testing.T) {
	t.Parallel()
	var ie *InvalidError
	for _, c := range []ConvertOptions{{Compression: "lzip"}, {Level: 10}, {Level: -1}, {Compression: CompressionNone, Level: 1}} {
		if _, err := Convert(t.Context(), &memory{}, bytes.NewReader(nil), ReadOptions{}, c); !errors.As(err, &ie) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	data := write(t, module())
	if _, err := Convert(t.Context(), &memory{}, bytes.NewReader(append(data, "x"...)), ReadOptions{}, ConvertOptions{}); err == nil {
		t.Error("what follows the artifact is passed over")
	}
}

// edits are all ways to copy an artifact with changes. They return what they wrote.
func edits(ctx context.Context, concurrency int) map[string]func(data []byte, o ReadOptions) ([]byte, error) {
	return map[string]func(data []byte, o ReadOptions) ([]byte, error){
		"rewrite": func(data []byte, o ReadOptions) ([]byte, error) {
			var out bytes.Buffer
			_, err := Rewrite(ctx, &out, bytes.NewReader(data), o, func(a *Artifact) error { Rename(a, "renamed"); return nil })
			return out.Bytes(), err
		},
		"resign": func(data []byte, o ReadOptions) ([]byte, error) {
			var out bytes.Buffer
			_, err := Resign(ctx, &out, bytes.NewReader(data), o, func(context.Context, []byte) ([]byte, error) { return make([]byte, 64), nil })
			return out.Bytes(), err
		},
		"convert": func(data []byte, o ReadOptions) ([]byte, error) {
			var out memory
			o.Concurrency = concurrency
			_, err := Convert(ctx, &out, bytes.NewReader(data), o, ConvertOptions{Compression: Zstd})
			return out.b, err
		},
	}
}

// No way to edit makes a good artifact of a bad one.
func TestHostileEdits(t *testing.T) {
	t.Parallel()
	_, _, signer, ring := keyPair(t, "ecdsa-p256")
	for name, c := range hostile {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newForgery()
			c.spoil(f)
			data := f.build(t, signer)
			bad := c.want != "" || c.is != nil
			for kind, edit := range edits(t.Context(), 2) {
				out, err := edit(data, ReadOptions{Verifier: ring})
				if err != nil {
					if !bad {
						t.Errorf("%s refuses it: %v", kind, err)
					}
					if kind != "convert" && len(out) > 0 {
						t.Errorf("%s failed and has written", kind)
					}
					isTyped(t, err)
					continue
				}
				_, err = Verify(t.Context(), bytes.NewReader(out), ReadOptions{})
				switch {
				case bad && kind == "convert":
					t.Error("convert accepts it")
				case bad && err == nil:
					t.Errorf("%s makes a good artifact of it", kind)
				case !bad && err != nil:
					t.Errorf("%s makes a bad artifact of it: %v", kind, err)
				}
			}
		})
	}
}

// An artifact that is cut is never copied as if it were whole, and before anything is written.
func TestTruncatedEdits(t *testing.T) {
	t.Parallel()
	for compression := range codecs {
		data, o := signedForgery(t, compression)
		step := map[Compression]int{CompressionNone: 7, Gzip: 7, Zstd: 31, XZ: 257}[compression]
		for n := 0; n < len(data); n += step {
			testCut(t, data, n, o)
		}
		for n := 0; n < len(data); n += blockSize { // every boundary of the archive
			testCut(t, data, n, o)
		}
		testCut(t, data, len(data)-1, o)
	}
}

func testCut(t *testing.T, data []byte, n int, o ReadOptions) {
	t.Helper()
	for kind, edit := range edits(t.Context(), 1) {
		out, err := edit(data[:n], o)
		if !errors.Is(err, ErrTruncated) {
			t.Fatalf("%s of an artifact cut at %d of %d: %v", kind, n, len(data), err)
		}
		if kind != "convert" && len(out) > 0 {
			t.Fatalf("%s of an artifact cut at %d of %d has written", kind, n, len(data))
		}
	}
}

// All hostile artifacts, one after the other, in a process of its own whose memory the kernel counts.
func TestHostileMemory(t *testing.T) {
	const limit = 100 << 10 // KiB
	if dir := os.Getenv("TWINKEEL_TEST_HOSTILE"); dir != "" {
		editAll(t, dir)
		return
	}
	if raceEnabled() || testing.Short() {
		t.Skip("the race detector's memory would be counted, or tests shall be quick")
	}
	t.Parallel()
	dir := t.TempDir()
	for name, c := range hostile {
		f := newForgery()
		c.spoil(f)
		writeFile(t, filepath.Join(dir, strings.ReplaceAll(name, "/", "-")), f.build(t, nil))
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHostileMemory$", "-test.v")
	cmd.Env = append(os.Environ(), "TWINKEEL_TEST_HOSTILE="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, text, _ := strings.Cut(string(out), "VmHWM:")
	fields := strings.Fields(text)
	if len(fields) == 0 {
		t.Skipf("the kernel does not say how much memory a process had:\n%s", out)
	}
	peak, err := strconv.Atoi(fields[0])
	if err != nil || peak > limit {
		t.Errorf("peak of %s KiB, the limit is %d (%v)", fields[0], limit, err)
	}
	t.Logf("peak of %d MiB", peak>>10)
}

func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func editAll(t *testing.T, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 60 {
		t.Fatal(len(entries), err)
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		o := ReadOptions{Legacy: true}
		rewind := func() io.ReadSeeker {
			runtime.GC() // each by itself
			f.Seek(0, io.SeekStart)
			return f
		}
		Verify(t.Context(), rewind(), o)
		Rewrite(t.Context(), io.Discard, rewind(), o, keep)
		Resign(t.Context(), io.Discard, rewind(), o, nil)
		Convert(t.Context(), discard{}, rewind(), o, ConvertOptions{Compression: Gzip})
		f.Close()
	}
	status, _ := os.ReadFile("/proc/self/status")
	t.Logf("%s", status)
}

func TestNotArtifact(t *testing.T) {
	t.Parallel()
	zeros := make([]byte, 4<<10)
	ext4, mbr := bytes.Clone(zeros), bytes.Clone(zeros)
	copy(ext4[1024+56:], "\x53\xef")
	copy(mbr[510:], "\x55\xaa")
	archived := archive([]tarItem{{name: "etc/passwd", content: "root"}})
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":     {nil, "it is empty"},
		"text":      {[]byte("hello\n"), "a text file"},
		"long text": {[]byte(strings.Repeat("grüße ", 1000)), "a text file"},
		"listing":   {[]byte("a.mender\nb.mender\n"), "a text file"},
		"web page":  {[]byte("\n<!DOCTYPE html><html></html>"), "a web page"},
		"JSON":      {[]byte(`{"error":"not found"}`), "a JSON document"},
		"gzip":      {gzipped(archived), "a gzip file"},
		"xz":        {xzed(archived), "an xz file"},
		"zstd":      {zstded(archived), "a zstd file"},
		"zip":       {[]byte("PK\x03\x04rest"), "a zip file"},
		"ELF":       {append([]byte("\x7fELF\x02\x01\x01"), zeros...), "an ELF program"},
		"PEM":       {[]byte("-----BEGIN PUBLIC KEY-----\n"), "a PEM file"},
		"ext4":      {ext4, "an ext4 image"},
		"disk":      {mbr, "a disk image"},
		"zeros":     {zeros, "nothing but zeros"},
		"noise":     {sparseContent(8 << 20)[3<<20:], "not"},
		"short":     {[]byte{0xff, 1, 2}, "not even a tar archive"},
		"tar":       {archived, `expected the member "version", found "etc/passwd"`},
	} {
		for kind, edit := range edits(t.Context(), 1) {
			_, err := edit(c.data, ReadOptions{})
			if !errors.Is(err, ErrNotArtifact) || !strings.HasPrefix(err.Error(), "not a Mender artifact: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s of %s: %v", kind, name, err)
			}
			isTyped(t, err)
			if strings.Count(err.Error(), "artifact") > 3 || (name != "empty" && errors.Is(err, ErrTruncated)) {
				t.Errorf("%s of %s: %v", kind, name, err)
			}
		}
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := NewReader(dir, ReadOptions{}); err == nil || errors.Is(err, ErrNotArtifact) || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
}

// Legacy artifacts, made by hand.

func version2(f *forgery) {
	f.version = `{"format":"mender","version":2}`
	f.header = []tarItem{
		{name: "header-info", content: `{"artifact_name":"r1","updates":[{"type":"rootfs-image"}],"device_types_compatible":["dt"]}`},
		{name: "headers/0000/files", content: `{"files":["one"]}`},
		{name: "headers/0000/type-info", content: `{"type":"rootfs-image"}`},
		{name: "headers/0000/meta-data"},
	}
	f.payload = f.payload[:1]
}

type augmentation struct {
	header                 []tarItem
	name, manifest, before string
}

// augment adds a second manifest and header, and the file "two" of the payload to them.
func augment(change func(a *augmentation)) func(f *forgery) {
	return func(f *forgery) {
		a := &augmentation{name: "header-augment.tar.gz", before: "data/0000.tar", header: []tarItem{
			{name: "header-info", content: goodInfo},
			{name: "headers/0000/type-info", content: `{"type":"app","artifact_provides":{"k":"augmented","l":"w"},"artifact_depends":{"d":"e"},"clears_artifact_provides":["c.*"]}`},
			{name: "headers/0000/meta-data", content: `{"b":2}`},
		}}
		a.manifest = sumOf([]byte(f.payload[1].content)) + "  data/0000/two\n"
		change(a)
		f.manifest = dropLine("data/0000/two")
		header := gzipped(archive(a.header))
		a.manifest += sumOf(header) + "  header-augment.tar.gz\n"
		f.outer = func(items []tarItem) []tarItem {
			items = insertBefore(a.before, tarItem{name: a.name, content: string(header)})(items)
			return insertBefore("header.tar.gz", tarItem{name: "manifest-augment", content: a.manifest})(items)
		}
	}
}

func TestLegacy(t *testing.T) {
	t.Parallel()
	_, _, signer, ring := keyPair(t, "ecdsa-p256")
	for name, c := range map[string]struct {
		spoil func(f *forgery)
		want  string // of the error
		plain string // of the error without Legacy
		info  Info
	}{
		"version 2": {spoil: version2, plain: "version 2 of the format is not supported", info: Info{
			Version: 2, Name: "r1", DeviceTypes: []string{"dt"}, PayloadType: RootfsImage, NoClears: true,
			Files:    []FileInfo{{"one", 10, sumOf([]byte("first file"))}},
			Warnings: []string{"version: version 2 of the format (Mender clients from 4.0 refuse it)"},
		}},
		"version 2 files missing": {spoil: func(f *forgery) { version2(f); f.header = append(f.header[:1], f.header[2:]...) }, want: "no list of files"},
		"version 2 files twice":   {spoil: func(f *forgery) { version2(f); f.header = append(f.header, f.header[1]) }, want: "twice"},
		"version 2 other files":   {spoil: func(f *forgery) { version2(f); f.header[1].content = `{"files":["two"]}` }, want: "does not list the files"},
		"version 2 files text":    {spoil: func(f *forgery) { version2(f); f.header[1].content = `{"files":"one"}` }, want: "does not allow there"},
		"version 2 null type":     {spoil: func(f *forgery) { version2(f); set(info, `"rootfs-image"`, `null`)(f) }, want: "without payload type"},
		"version 2 with 3 inside": {spoil: func(f *forgery) { f.version = `{"format":"mender","version":2}` }, want: "0 payloads"},
		"version 3 with 2 inside": {spoil: func(f *forgery) { version2(f); f.version = versionContent }, want: "0 payloads", plain: "0 payloads"},
		"version 3 with files":    {spoil: addHeader(2, tarItem{name: "headers/0000/files", content: `{"files":["one","two"]}`}), want: "only one payload", plain: "only one payload"},
		"augmented": {spoil: augment(func(*augmentation) {}), plain: "augmented artifacts are not supported", info: Info{
			Version: 3, Augmented: true, Name: "r1", DeviceTypes: []string{"dt"}, PayloadType: "app",
			Provides: map[string]string{"k": "augmented", "l": "w"}, Depends: map[string]string{"d": "e"}, ClearsProvides: []string{"c.*"},
			MetaData: []byte(`{"b":2}`), Scripts: []ScriptInfo{{"ArtifactInstall_Enter_00", 10}},
			Files:    []FileInfo{{"one", 10, sumOf([]byte("first file"))}, {"two", 700, sumOf(bytes.Repeat([]byte("x"), 700))}},
			Warnings: []string{"manifest-augment: an augmented artifact, of which the signature covers only a part (Mender clients from 4.0 refuse it)"},
		}},
		"augmented header missing": {spoil: func(f *forgery) {
			augment(func(*augmentation) {})(f)
			f.outer = chain(f.outer, drop("header-augment.tar.gz"))
		}, want: "expected the header, found"},
		"augmented header first": {spoil: augment(func(a *augmentation) { a.before = "header.tar.gz" }), want: "expected the header, found"},
		"augmented header changed": {spoil: func(f *forgery) {
			augment(func(*augmentation) {})(f)
			f.outer = chain(f.outer, replaceContent("header-augment.tar.gz", func(s string) string { return s + "x" }))
		}, want: "checksum of header-augment.tar.gz"},
		"augmented header alone": {spoil: func(f *forgery) {
			augment(func(*augmentation) {})(f)
			f.outer = chain(f.outer, drop("manifest-augment"))
		}, want: "expected the payload"},
		"augmented manifest twice": {spoil: func(f *forgery) {
			augment(func(*augmentation) {})(f)
			f.outer = chain(f.outer, duplicate("manifest-augment"))
		}, want: "follows the payload"},
		"augmented manifest large": {spoil: augment(func(a *augmentation) { a.manifest = strings.Repeat(a.manifest, 20000) }), want: "manifest-augment: it is larger"},
		"augmented without type": {spoil: augment(func(a *augmentation) {
			a.header[0].content = strings.ReplaceAll(goodInfo, `"app"`, "null")
			a.header[1].content = `{"type":null}`
		}), want: "an artifact without payload has none"},
		"augmented script": {spoil: augment(func(a *augmentation) {
			a.header = append(a.header[:1:1], append([]tarItem{{name: "scripts/ArtifactInstall_Enter_00"}}, a.header[1:]...)...)
		}), want: "nobody has signed"},
		"augmented lists a header":  {spoil: augment(func(a *augmentation) { a.manifest += strings.Repeat("0", 64) + "  version\n" }), want: "not for it to list"},
		"augmented lists the same":  {spoil: augment(func(a *augmentation) { a.manifest += strings.Repeat("0", 64) + "  data/0000/one\n" }), want: "as the manifest does"},
		"augmented lists too much":  {spoil: augment(func(a *augmentation) { a.manifest += strings.Repeat("0", 64) + "  data/0000/three\n" }), want: "not in the artifact"},
		"augmented manifest blanks": {spoil: augment(func(a *augmentation) { a.manifest += "\n" }), want: "manifest-augment: line 2"},
		"augmented traversal":       {spoil: augment(func(a *augmentation) { a.manifest += strings.Repeat("0", 64) + "  data/0000/../x\n" }), want: "directory part"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newForgery()
			c.spoil(f)
			data := f.build(t, signer)
			o := ReadOptions{Verifier: ring}
			_, err := Verify(t.Context(), bytes.NewReader(data), o)
			if err == nil || !strings.Contains(err.Error(), c.plain) {
				t.Errorf("without Legacy: %v", err)
			}
			isTyped(t, err)
			o.Legacy = true
			if strings.HasPrefix(name, "augmented") { // no key can vouch for what such an artifact provides
				if _, err := Verify(t.Context(), bytes.NewReader(data), o); err == nil || c.want == "" && !errors.Is(err, ErrSignature) {
					t.Errorf("with a key: %v", err)
				}
				for kind, edit := range edits(t.Context(), 1) {
					if out, err := edit(data, o); err == nil || len(out) > 0 {
						t.Errorf("%s with a key: %v and %d bytes", kind, err, len(out))
					}
				}
				o.Verifier = nil
			}
			got, err := Verify(t.Context(), bytes.NewReader(data), o)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
				isTyped(t, err)
				for kind, edit := range edits(t.Context(), 1) {
					if out, err := edit(data, o); err == nil {
						if _, err := Verify(t.Context(), bytes.NewReader(out), ReadOptions{Legacy: true}); err == nil || kind == "convert" {
							t.Errorf("%s accepts it", kind)
						}
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := c.info
			want.Signed, want.KeyID, want.Compression = true, got.KeyID, CompressionNone
			if d := cmp.Diff(&want, got); d != "" {
				t.Error(d)
			}
			if _, err := Validate(t.Context(), bytes.NewReader(data), o); err == nil || !strings.Contains(err.Error(), "Mender clients from 4.0") {
				t.Errorf("Validate: %v", err)
			}
			for kind, edit := range edits(t.Context(), 1) {
				out, err := edit(data, o)
				if kind == "rewrite" {
					if !errors.Is(err, ErrLegacy) {
						t.Errorf("rewrite: %v", err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", kind, err)
					continue
				}
				info, err := Verify(t.Context(), bytes.NewReader(out), ReadOptions{Legacy: true})
				if err != nil {
					t.Errorf("%s: %v", kind, err)
					continue
				}
				info.KeyID, info.Compression = want.KeyID, want.Compression
				if d := cmp.Diff(&want, info); d != "" {
					t.Errorf("%s: %s", kind, d)
				}
			}
		})
	}
}

func chain(fs ...func([]tarItem) []tarItem) func([]tarItem) []tarItem {
	return func(items []tarItem) []tarItem {
		for _, f := range fs {
			items = f(items)
		}
		return items
	}
}

// An empty signature is none, whoever looks.
func TestEmptySignature(t *testing.T) {
	t.Parallel()
	_, _, signer, _ := keyPair(t, "ecdsa-p256")
	f := newForgery()
	f.signature = func(string) string { return "" }
	if _, err := Verify(t.Context(), bytes.NewReader(f.build(t, signer)), ReadOptions{}); !errors.Is(err, ErrSignature) {
		t.Errorf("error %v", err)
	}
	f.signature = func(string) string { return base64.StdEncoding.EncodeToString(make([]byte, 69)) }
	info, err := Verify(t.Context(), bytes.NewReader(f.build(t, signer)), ReadOptions{})
	if err != nil || len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], "mender-artifact refuses it") {
		t.Errorf("%+v %v", info, err)
	}
}
