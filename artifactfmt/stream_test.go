package artifactfmt

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWriteStreamGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	_, _, signer, _ := keyPair(t, "ecdsa-p256")
	for kind, a := range map[string]*Artifact{"rootfs": rootfs(sparseContent(6 << 20)), "module": module(), "bootstrap": bootstrap()} {
		for _, compression := range []Compression{CompressionNone, Gzip, XZ, Zstd} {
			t.Run(kind+" "+string(compression), func(t *testing.T) {
				t.Parallel()
				a := *a
				a.Compression, a.Signer = compression, signer
				made := 0
				a.Sidecars = []Sidecar{{"sidecar.checksum", func(context.Context, *Info) (string, error) { made++; return sumOf(nil), nil }}}
				var out bytes.Buffer
				info, err := WriteStream(t.Context(), &out, &a)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(out.Bytes(), write(t, &a)) {
					t.Error("the bytes differ from Write's")
				}
				if made != 2 || info.Provides["sidecar.checksum"] != sumOf(nil) {
					t.Errorf("made %d times, provides %v", made, info.Provides)
				}
			})
		}
	}
}

func TestWriteStreamNoticesChanges(t *testing.T) {
	t.Parallel()
	first := sparseContent(3 << 20)
	second := bytes.Clone(first)
	second[2<<20] ^= 1
	for _, compression := range []Compression{CompressionNone, Gzip, Zstd} {
		for name, again := range map[string][]byte{"one bit": second, "all zero": make([]byte, len(first)), "shorter": first[1:]} {
			a := rootfs(first)
			a.Compression = compression
			contents := [][]byte{first, again}
			a.Files[0].Open = func() (io.ReadCloser, error) {
				c := contents[0]
				contents = contents[1:]
				return io.NopCloser(bytes.NewReader(c)), nil
			}
			if _, err := WriteStream(t.Context(), io.Discard, a); err == nil || !strings.Contains(err.Error(), "changed") {
				t.Errorf("%s, %s: error %v", compression, name, err)
			}
		}
	}
}

func TestSidecars(t *testing.T) {
	t.Parallel()
	_, _, signer, ring := keyPair(t, "ecdsa-p256")
	a := rootfs([]byte("x"))
	a.Signer = signer
	var seen []*Info
	document := func(sum string, err error) func(context.Context, *Info) (string, error) {
		return func(_ context.Context, i *Info) (string, error) {
			seen = append(seen, i)
			return sum, err
		}
	}
	a.Sidecars = []Sidecar{{"a.checksum", document(sumOf([]byte("a")), nil)}, {"b.checksum", document(sumOf([]byte("b")), nil)}}
	info, err := Verify(t.Context(), bytes.NewReader(write(t, a)), ReadOptions{Verifier: ring})
	if err != nil {
		t.Fatal(err)
	}
	if info.Provides["a.checksum"] != sumOf([]byte("a")) || info.Provides["b.checksum"] != sumOf([]byte("b")) {
		t.Errorf("provides %v", info.Provides)
	}
	want := *info
	want.KeyID, want.Provides = "", maps.Clone(info.Provides)
	maps.DeleteFunc(want.Provides, func(k, _ string) bool { return strings.HasSuffix(k, ".checksum") && k[0] != 'r' })
	for _, got := range seen {
		if d := cmp.Diff(&want, got); d != "" {
			t.Error(d)
		}
	}
	broken := errors.New("no disk")
	for name, c := range map[string]struct {
		sidecars []Sidecar
		want     string
	}{
		"fails":       {[]Sidecar{{"k", document("", broken)}}, "no disk"},
		"upper case":  {[]Sidecar{{"k", document(strings.ToUpper(sumOf(nil)), nil)}}, "lower-case"},
		"short":       {[]Sidecar{{"k", document("abcd", nil)}}, "lower-case"},
		"default key": {[]Sidecar{{"rootfs-image.checksum", document(sumOf(nil), nil)}}, "already"},
		"case alone":  {[]Sidecar{{"Rootfs-image.checksum", document(sumOf(nil), nil)}}, "case alone"},
		"twice":       {[]Sidecar{{"k", document(sumOf(nil), nil)}, {"k", document(sumOf(nil), nil)}}, "already"},
		"reserved":    {[]Sidecar{{"artifact_name", document(sumOf(nil), nil)}}, "by the artifact itself"},
		"nothing":     {[]Sidecar{{"k", nil}}, "nobody makes"},
	} {
		a.Sidecars = c.sidecars
		if _, err := Write(t.Context(), discard{}, a); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// liar is a SparseReader whose holes are lies.
type liar struct {
	io.Reader
	hole int64
}

func (l liar) Hole() (int64, error) { return l.hole, nil }
func (l liar) Close() error         { return nil }

func TestSparseReaderThatLies(t *testing.T) {
	t.Parallel()
	for _, hole := range []int64{-1, 4097, 1 << 62} {
		a := rootfs(make([]byte, 4096))
		a.Files[0].Open = func() (io.ReadCloser, error) { return liar{bytes.NewReader(nil), hole}, nil }
		if _, err := Write(t.Context(), discard{}, a); !errors.Is(err, errHole) {
			t.Errorf("a hole of %d bytes in a file of 4096: %v", hole, err)
		}
	}
}

// The switches change provides and clears as those of mender-artifact do.
func TestSoftwareAsMenderArtifact(t *testing.T) {
	needMenderArtifact(t)
	t.Parallel()
	cases := map[string]struct {
		args   []string
		change func(a *Artifact)
	}{
		"defaults":     {nil, func(*Artifact) {}},
		"file system":  {[]string{"--software-filesystem", "fs"}, func(a *Artifact) { a.Software.Filesystem = "fs" }},
		"name":         {[]string{"--software-name", "app"}, func(a *Artifact) { a.Software.Name = "app" }},
		"version":      {[]string{"--software-version", "v9"}, func(a *Artifact) { a.Software.Version = "v9" }},
		"all":          {[]string{"--software-filesystem", "fs", "--software-name", "app", "--software-version", "v9"}, func(a *Artifact) { a.Software = Software{"fs", "app", "v9"} }},
		"no version":   {[]string{"--no-default-software-version"}, func(a *Artifact) { a.Provides, a.NoDefaultProvides, a.ClearsProvides = nil, true, []string{} }},
		"no clears":    {[]string{"--no-default-clears-provides"}, func(a *Artifact) { a.NoClears = true }},
		"no checksum":  {[]string{"--no-checksum-provide"}, func(a *Artifact) { a.NoChecksum = true }},
		"legacy":       {[]string{"--legacy-rootfs-image-checksum"}, func(a *Artifact) { a.LegacyChecksum = true }},
		"own patterns": {[]string{"--clears-provides", "mine.*"}, func(a *Artifact) { a.ClearsProvides = append([]string{"mine.*"}, a.DefaultClears()...) }},
	}
	image := filepath.Join(t.TempDir(), "image")
	writeFile(t, image, []byte("image"))
	for name, c := range cases {
		for _, kind := range []string{"rootfs-image", "module-image"} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				a := &Artifact{Name: "r1", DeviceTypes: []string{"d"}, PayloadType: RootfsImage, Files: []InputFile{file("image", []byte("image"))}}
				path := filepath.Join(t.TempDir(), "a.mender")
				args := append([]string{"write", kind, "-n", "r1", "-t", "d", "-f", image, "-o", path}, c.args...)
				if kind == "module-image" {
					a.PayloadType = "x"
					args = append(args, "-T", "x")
				}
				if out, err := exec.CommandContext(t.Context(), "mender-artifact", args...).CombinedOutput(); err != nil {
					t.Skipf("mender-artifact does not do that: %s", out)
				}
				c.change(a)
				theirs, ours := infoOf(t, fileContent(t, path)), infoOf(t, write(t, a))
				if kind == "rootfs-image" && name == "no version" { // the checksum stays there; here all defaults go
					delete(theirs.Provides, checksumKey)
				}
				if !maps.Equal(theirs.Provides, ours.Provides) || !slices.Equal(theirs.ClearsProvides, ours.ClearsProvides) {
					t.Errorf("mender-artifact: %v, %q; we: %v, %q", theirs.Provides, theirs.ClearsProvides, ours.Provides, ours.ClearsProvides)
				}
			})
		}
	}
}

func infoOf(t *testing.T, artifact []byte) *Info {
	t.Helper()
	info, err := Verify(t.Context(), bytes.NewReader(artifact), ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func fileContent(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
