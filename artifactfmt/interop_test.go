package artifactfmt

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/signing"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// menderArtifact runs the real tool.
func menderArtifact(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "mender-artifact", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("mender-artifact %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func needMenderArtifact(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("mender-artifact"); err != nil {
		t.Skip("mender-artifact is not installed (Debian package mender-artifact)")
	}
}

func TestMenderArtifactReadsOurs(t *testing.T) {
	needMenderArtifact(t)
	t.Parallel()
	content := sparseContent(3<<20 + 777)
	artifacts := map[string]*Artifact{"rootfs": rootfs(content), "module": module(), "bootstrap": bootstrap()}
	for kind, a := range artifacts {
		for _, algorithm := range []string{"", "ecdsa-p256", "rsa-3072"} {
			var public string
			var signer Signer
			if algorithm != "" {
				_, public, signer, _ = keyPair(t, algorithm)
			}
			for _, compression := range []Compression{CompressionNone, Gzip, XZ} {
				name := kind + " " + string(compression) + " " + algorithm
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					a := *a
					a.Compression = compression
					var validate []string
					if algorithm != "" {
						a.Signer = signer
						validate = []string{"-k", public}
					}
					path := filepath.Join(t.TempDir(), "a.mender")
					writeFile(t, path, write(t, &a))
					menderArtifact(t, append(append([]string{"validate"}, validate...), path)...)
					text := menderArtifact(t, append(append([]string{"read", "--no-progress"}, validate...), path)...)
					for _, want := range []string{a.Name, a.DeviceTypes[0], a.PayloadType} {
						if !strings.Contains(text, want) {
							t.Errorf("mender-artifact read does not show %q:\n%s", want, text)
						}
					}
					if algorithm != "" && !strings.Contains(text, "signed and verified correctly") {
						t.Errorf("the signature was not verified:\n%s", text)
					}
				})
			}
		}
	}
}

func TestMenderArtifactRefusesForeignKey(t *testing.T) {
	needMenderArtifact(t)
	t.Parallel()
	_, _, signer, _ := keyPair(t, "ecdsa-p256")
	_, foreign, _, _ := keyPair(t, "ecdsa-p256")
	a := module()
	a.Signer = signer
	path := filepath.Join(t.TempDir(), "a.mender")
	writeFile(t, path, write(t, a))
	if out, err := exec.CommandContext(t.Context(), "mender-artifact", "validate", "-k", foreign, path).CombinedOutput(); err == nil {
		t.Fatalf("mender-artifact accepts a foreign key, so the other tests show nothing:\n%s", out)
	}
}

// opensslKey makes a key in the form that Debian's mender-artifact signs with (it can't read PKCS #8).
func opensslKey(t *testing.T, algorithm string) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	private, public = filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.pub")
	commands := [][]string{{"ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private}, {"ec", "-in", private, "-pubout", "-out", public}}
	if algorithm == "rsa" {
		commands = [][]string{{"genrsa", "-traditional", "-out", private, "3072"}, {"rsa", "-in", private, "-pubout", "-out", public}}
	}
	for _, args := range commands {
		if out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput(); err != nil {
			t.Skipf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	return private, public
}

func TestWeReadMenderArtifacts(t *testing.T) {
	needMenderArtifact(t)
	t.Parallel()
	content := sparseContent(1<<20 + 333)
	dir := t.TempDir()
	image, script := filepath.Join(dir, "rootfs.ext4"), filepath.Join(dir, "ArtifactInstall_Enter_10_x")
	second, metaData := filepath.Join(dir, "other.conf"), filepath.Join(dir, "meta.json")
	writeFile(t, image, content)
	writeFile(t, script, []byte("#!/bin/sh\n"))
	writeFile(t, second, []byte("second\n"))
	writeFile(t, metaData, []byte(`{"a": [1, {"b": null}]}`))

	kinds := map[string]struct {
		args []string
		want Info
	}{
		"rootfs-image": {
			args: []string{"-f", image, "-s", script, "-N", "r0", "-g", "grp", "-G", "grp2", "-d", "k:v", "-p", "x:y"},
			want: Info{
				PayloadType: RootfsImage, Group: "grp", DependsNames: []string{"r0"}, DependsGroups: []string{"grp2"},
				Depends: map[string]string{"k": "v"}, Scripts: []ScriptInfo{{"ArtifactInstall_Enter_10_x", 10}},
				ClearsProvides: []string{"artifact_group", "rootfs_image_checksum", "rootfs-image.*"},
			},
		},
		"module-image": {
			args: []string{"-T", "single-file", "-f", image, "-f", second, "-m", metaData},
			want: Info{
				PayloadType: "single-file", MetaData: []byte(`{"a":[1,{"b":null}]}`),
				Provides:       map[string]string{"rootfs-image.single-file.version": "r1"},
				ClearsProvides: []string{"rootfs-image.single-file.*"},
			},
		},
		"bootstrap-artifact": {
			args: []string{"-p", "x:y", "--clears-provides", "z.*"},
			want: Info{Provides: map[string]string{"x": "y"}, ClearsProvides: []string{"z.*"}},
		},
	}
	for kind, c := range kinds {
		for _, algorithm := range []string{"", "ecdsa", "rsa"} {
			var private, public string
			if algorithm != "" {
				private, public = opensslKey(t, algorithm)
			}
			for _, compression := range []string{"none", "gzip", "lzma"} {
				t.Run(kind+" "+compression+" "+algorithm, func(t *testing.T) {
					t.Parallel()
					path := filepath.Join(t.TempDir(), "a.mender")
					args := append([]string{"write", kind, "-n", "r1", "-t", "dt1", "-t", "dt2", "--compression", compression, "-o", path}, c.args...)
					var o ReadOptions
					if algorithm != "" {
						args = append(args, "-k", private)
						ring, err := verify.LoadKeyring([]string{public})
						if err != nil {
							t.Fatal(err)
						}
						o.Verifier = ring
					}
					menderArtifact(t, args...)
					f, err := os.Open(path)
					if err != nil {
						t.Fatal(err)
					}
					defer f.Close()
					info, err := Verify(t.Context(), f, o)
					if err != nil {
						t.Fatal(err)
					}
					got := *info
					if got.Signed != (algorithm != "") || (got.KeyID != "") != got.Signed {
						t.Errorf("signed %v by %q", got.Signed, got.KeyID)
					}
					want := c.want
					want.Version, want.Name, want.DeviceTypes = 3, "r1", []string{"dt1", "dt2"}
					want.Compression = map[string]Compression{"none": CompressionNone, "gzip": Gzip, "lzma": XZ}[compression]
					want.Signed, want.KeyID = got.Signed, got.KeyID
					sum := sumOf(content)
					switch kind {
					case "rootfs-image": // versions 3.3 to 4.3 write "type":""
						want.Warnings = []string{"header.tar" + codecs[want.Compression].suffix + ": headers/0000/type-info: " +
							"it does not name the payload type (mender-artifact from 4.4 refuses that)"}
						want.Provides = map[string]string{"x": "y", "rootfs-image.version": "r1", "rootfs-image.checksum": sum}
						want.Files = []FileInfo{{"rootfs.ext4", int64(len(content)), sum}}
					case "module-image":
						want.Files = []FileInfo{{"rootfs.ext4", int64(len(content)), sum}, {"other.conf", 7, sumOf([]byte("second\n"))}}
					}
					if d := cmp.Diff(want, got); d != "" {
						t.Error(d)
					}
					menderArtifactTakesEdits(t, path, algorithm, private, public, o)
				})
			}
		}
	}
}

// menderArtifactTakesEdits changes an artifact of mender-artifact in every way, and has mender-artifact read the results.
func menderArtifactTakesEdits(t *testing.T, path, algorithm, private, public string, o ReadOptions) {
	t.Helper()
	if testing.Short() {
		return
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var signer Signer
	if algorithm != "" {
		if signer, err = signing.LoadFile(private, nil); err != nil {
			t.Fatal(err)
		}
	}
	edited := func(name string, edit func(out *os.File, in io.ReadSeeker) error) {
		t.Helper()
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(path + "-" + strings.ReplaceAll(name, " ", "-"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if err := edit(out, in); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		signed := signer != nil && name != "remove"
		var key []string
		if signed {
			key = []string{"-k", public}
		}
		menderArtifact(t, append(append([]string{"validate"}, key...), out.Name())...)
		text := menderArtifact(t, append(append([]string{"read", "--no-progress"}, key...), out.Name())...)
		if signed && !strings.Contains(text, "signed and verified correctly") {
			t.Errorf("%s: the signature was not verified:\n%s", name, text)
		}
		if name == "rewrite" && !strings.Contains(text, "Name: r2") {
			t.Errorf("the name was not changed:\n%s", text)
		}
		out.Seek(0, io.SeekStart)
		check := Verify
		if name == "rewrite" {
			check = Validate
		}
		if !signed {
			o.Verifier = nil
		}
		if _, err := check(t.Context(), out, o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	edited("rewrite", func(out *os.File, in io.ReadSeeker) error {
		_, err := Rewrite(t.Context(), out, in, o, func(a *Artifact) error { Rename(a, "r2"); a.Signer = signer; return nil })
		return err
	})
	for _, c := range []Compression{CompressionNone, Gzip, XZ} {
		edited("convert to "+string(c), func(out *os.File, in io.ReadSeeker) error {
			_, err := Convert(t.Context(), out, in, o, ConvertOptions{Compression: c})
			return err
		})
	}
	if signer == nil {
		edited("resign", func(out *os.File, in io.ReadSeeker) error {
			_, err := Resign(t.Context(), out, in, o, nil)
			return err
		})
		return
	}
	edited("resign", func(out *os.File, in io.ReadSeeker) error {
		_, err := Resign(t.Context(), out, in, o, signer.Sign)
		return err
	})
	edited("remove", func(out *os.File, in io.ReadSeeker) error {
		_, err := Resign(t.Context(), out, in, o, nil)
		return err
	})
}

// What mender-artifact still writes of the old forms is read, re-signed and converted.
func TestWeReadLegacyMenderArtifacts(t *testing.T) {
	needMenderArtifact(t)
	t.Parallel()
	dir := t.TempDir()
	image, second, script, metaData := filepath.Join(dir, "img"), filepath.Join(dir, "second"), filepath.Join(dir, "ArtifactInstall_Enter_10_x"), filepath.Join(dir, "m.json")
	writeFile(t, image, sparseContent(300<<10))
	writeFile(t, second, []byte("second"))
	writeFile(t, script, []byte("#!/bin/sh\n"))
	writeFile(t, metaData, []byte(`{"x":1}`))
	for name, args := range map[string][]string{
		"version 2": {"rootfs-image", "-v", "2", "-f", image, "-s", script},
		"augmented": {
			"module-image", "-T", "app", "-f", image, "--augment-type", "app", "--augment-file", second, "--augment-meta-data", metaData,
			"--augment-provides", "ak:av", "--augment-depends", "ad:bd", "-s", script,
		},
		"augmented empty": {"module-image", "-T", "app", "-f", image, "--augment-type", "app"},
		"augmented type":  {"module-image", "-T", "app", "-f", image, "--augment-type", "other", "--augment-file", second},
	} {
		for _, algorithm := range []string{"", "ecdsa", "rsa"} {
			for _, compression := range []string{"none", "gzip", "lzma"} {
				if compression != "gzip" && algorithm != "" {
					continue
				}
				t.Run(name+" "+compression+" "+algorithm, func(t *testing.T) {
					t.Parallel()
					path := filepath.Join(t.TempDir(), "a.mender")
					all := append([]string{"write"}, args...)
					all = append(all, "-n", "r1", "-t", "dt", "--compression", compression, "-o", path)
					o := ReadOptions{Legacy: true}
					var private, public string
					var key []string
					if algorithm != "" {
						private, public = opensslKey(t, algorithm)
						ring, err := verify.LoadKeyring([]string{public})
						if err != nil {
							t.Fatal(err)
						}
						o.Verifier, key = ring, []string{"-k", public}
						all = append(all, "-k", private)
					}
					menderArtifact(t, all...)
					data, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := Verify(t.Context(), bytes.NewReader(data), ReadOptions{}); err == nil || !strings.Contains(err.Error(), "not supported") {
						t.Errorf("without Legacy: %v", err)
					}
					if strings.HasPrefix(name, "augmented") && o.Verifier != nil {
						if _, err := Verify(t.Context(), bytes.NewReader(data), o); !errors.Is(err, ErrSignature) {
							t.Errorf("with a key: %v", err)
						}
						o.Verifier = nil
					}
					info, err := Verify(t.Context(), bytes.NewReader(data), o)
					if err != nil {
						t.Fatal(err)
					}
					version := map[bool]int{true: 2, false: 3}[name == "version 2"]
					if info.Version != version || info.Augmented != (version == 3) || info.Name != "r1" || info.Signed != (algorithm != "") {
						t.Errorf("info %+v", info)
					}
					if name == "augmented" && (info.Provides["ak"] != "av" || info.Depends["ad"] != "bd" || string(info.MetaData) != `{"x":1}` || len(info.Files) != 2) {
						t.Errorf("info %+v", info)
					}
					for kind, edit := range edits(t.Context(), 1) {
						if kind == "rewrite" {
							continue
						}
						out, err := edit(data, o)
						if err != nil {
							t.Errorf("%s: %v", kind, err)
						}
						if _, err := Verify(t.Context(), bytes.NewReader(out), ReadOptions{Legacy: true}); err != nil {
							t.Errorf("%s: %v", kind, err)
						}
					}
					var out memory
					if _, err := Convert(t.Context(), &out, bytes.NewReader(data), o, ConvertOptions{Compression: Gzip}); err != nil {
						t.Fatal(err)
					}
					writeFile(t, path, out.b)
					menderArtifact(t, append(append([]string{"validate"}, key...), path)...)
				})
			}
		}
	}
}

// Other implementations of the compressions, which pass over nothing.
func TestCommandsUnpackOurs(t *testing.T) {
	t.Parallel()
	content := sparseContent(9<<20 + 5)
	for compression, command := range map[Compression][]string{
		Gzip: {"gzip", "-dc"}, XZ: {"xz", "-dc"}, Zstd: {"zstd", "-dc"},
	} {
		t.Run(string(compression), func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Skipf("%s is not installed", command[0])
			}
			a := rootfs(content)
			a.Compression = compression
			outer := newTarReader(bytes.NewReader(write(t, a)), "")
			for {
				m, err := outer.next()
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(m.Name, "data/") {
					continue
				}
				c := exec.CommandContext(t.Context(), command[0], command[1:]...)
				c.Stdin = m
				unpacked, err := c.Output()
				if err != nil {
					t.Fatal(err)
				}
				inner := newTarReader(bytes.NewReader(unpacked), m.Name)
				f, err := inner.next()
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(f)
				if err != nil || !bytes.Equal(got, content) {
					t.Fatalf("the content differs (%v)", err)
				}
				return
			}
		})
	}
}
