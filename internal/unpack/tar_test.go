package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mholt/archives"
)

func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = strings.Repeat("x", int(h.Size))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

var roomy = Limits{Size: 1 << 20, Entries: 100}

func file(name string, size int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}
}

func TestTarGivesEntries(t *testing.T) {
	t.Parallel()
	at := time.Unix(1700000000, 0)
	plain := archive(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
		tar.Header{Typeflag: tar.TypeReg, Name: "./usr/bin/ping", Size: 5, Mode: 0o4755, Uid: 1, Gid: 2, ModTime: at, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "cap"}},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "lib", Linkname: "/usr/lib", Mode: 0o777},
		tar.Header{Typeflag: tar.TypeLink, Name: "usr/bin/ping6", Linkname: "./usr/bin/ping"},
		tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		tar.Header{Typeflag: tar.TypeFifo, Name: "run/fifo", Mode: 0o600},
	)
	want := []string{
		". drwxr-xr-x 0 0:0 link= body=",
		"usr/bin/ping urwxr-xr-x 5 1:2 link= body=xxxxx security.capability=cap 1700000000",
		"lib Lrwxrwxrwx 0 0:0 link=/usr/lib body=",
		"usr/bin/ping6 ---------- 0 0:0 link=usr/bin/ping hard body=",
		"dev/null Dcrw-rw-rw- 0 0:0 link= 1:3 body=",
		"run/fifo prw------- 0 0:0 link= body=",
	}
	for name, data := range map[string][]byte{
		"x.tar": plain, "x.tar.gz": compressWith(t, archives.Gz{}, plain), "x.tar.zst": compressWith(t, archives.Zstd{}, plain), "x.txz": compressWith(t, archives.Xz{}, plain),
	} {
		var got []string
		err := Tar(t.Context(), bytes.NewReader(data), name, roomy, func(e *Entry) error {
			line := fmt.Sprintf("%s %s %d %d:%d link=%s", e.Name, e.Mode, e.Size, e.UID, e.GID, e.Link)
			if e.HardLink {
				line += " hard"
			}
			if e.Major != 0 {
				line += fmt.Sprintf(" %d:%d", e.Major, e.Minor)
			}
			body, err := io.ReadAll(e.Body)
			line += " body=" + string(body)
			for k, v := range e.Xattrs {
				line += fmt.Sprintf(" %s=%s %d", k, v, e.ModTime.Unix())
			}
			got = append(got, line)
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
}

func TestTarRefuses(t *testing.T) {
	t.Parallel()
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	good := archive(t, file("a", 3000))
	packed := compressWith(t, archives.Gz{}, good)
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"dots":                {archive(t, file("../etc/passwd", 1)), `x.tar holds "../etc/passwd", which is refused: its name leads out of the archive`},
		"dots inside":         {archive(t, file("a/../../b", 1)), `leads out of the archive`},
		"absolute":            {archive(t, file("/etc/passwd", 1)), `leads out of the archive`},
		"control":             {archive(t, file("a\nb", 1)), `holds a control character`},
		"long":                {archive(t, file(strings.Repeat("d/", 3000)+"a", 1)), `has more than 4095 bytes`},
		"through a link":      {archive(t, link("etc", "/etc"), file("etc/passwd", 1)), `etc is a symbolic link in the same archive`},
		"deep through a link": {archive(t, link("a/b", "/"), file("a/b/c/d", 1)), `a/b is a symbolic link`},
		"hard link out":       {archive(t, tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "../../etc/shadow"}), `what it links to leads out`},
		"too many":            {archive(t, make101()...), `it is one more than the 100 entries`},
		"too large":           {archive(t, file("a", 1<<19), file("b", 1<<19+1)), `x.tar unpacks to more than the 1048576 bytes`},
		"no archive":          {[]byte(strings.Repeat("no archive ", 200)), `x.tar is damaged, or not what tar can read`},
		"nothing":             {nil, `x.tar is damaged`},
		"cut header":          {good[:300], `x.tar ends too early`},
		"cut body":            {good[:1200], `x.tar ends too early`},
		"cut compression":     {packed[:len(packed)-4], `x.tar ends too early`},
		"wrong sum":           {append(bytes.Clone(packed[:len(packed)-8]), 1, 2, 3, 4, 5, 6, 7, 8), `x.tar is damaged`},
	} {
		err := Tar(t.Context(), bytes.NewReader(tt.data), "x.tar", roomy, func(e *Entry) error {
			_, err := io.Copy(io.Discard, e.Body)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
}

func make101() []tar.Header {
	var out []tar.Header
	for i := range 101 {
		out = append(out, file(fmt.Sprint(i), 0))
	}
	return out
}

// sparse is an archive with a file of one hole of 8 GiB, in GNU tar's old format, which the writer does not make.
func sparse() []byte {
	block := make([]byte, 512)
	copy(block, "hole")
	copy(block[100:], "0000644\x00")
	copy(block[124:], "00000000000\x00") // stored
	block[156] = tar.TypeGNUSparse
	copy(block[257:], "ustar  \x00")
	copy(block[386:], "77777777777\x0000000000000\x00") // the one fragment: nothing, at the end
	copy(block[483:], "77777777777\x00")                // size
	sum := 8 * 0x20
	for i, b := range block {
		if i < 148 || i >= 156 {
			sum += int(b)
		}
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(block, make([]byte, 1024)...)
}

// TestTarCountsHoles: a sparse file of a few bytes can unpack to any size.
func TestTarCountsHoles(t *testing.T) {
	t.Parallel()
	err := Tar(t.Context(), bytes.NewReader(sparse()), "x.tar", roomy, func(*Entry) error { return nil })
	var large *TooLargeError
	if !errors.As(err, &large) {
		t.Fatal(err)
	}
}

func TestTarReturnsTheCallersError(t *testing.T) {
	t.Parallel()
	mine := errors.New("mine")
	data := archive(t, file("a", 1), file("b", 1))
	for name, want := range map[string]error{"own": mine, "skip": fs.SkipAll, "skip dir": fs.SkipDir} {
		calls := 0
		if err := Tar(t.Context(), bytes.NewReader(data), "x.tar", roomy, func(*Entry) error { calls++; return want }); !errors.Is(err, want) || calls != 1 {
			t.Errorf("%s: %v after %d calls", name, err, calls)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := Tar(ctx, bytes.NewReader(data), "x.tar", roomy, func(*Entry) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestTarOfNothing(t *testing.T) {
	t.Parallel()
	if err := Tar(t.Context(), bytes.NewReader(archive(t)), "x.tar", roomy, func(*Entry) error { return errors.New("called") }); err != nil {
		t.Fatal(err)
	}
}

// FuzzTar: no panic, and no entry that leads out.
func FuzzTar(f *testing.F) {
	f.Add(archive(f, file("a", 700), tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "a"}))
	f.Add(compressWith(f, archives.Gz{}, archive(f, file("a/../b", 3))))
	f.Add(sparse())
	f.Fuzz(func(t *testing.T, data []byte) {
		var total int64
		entries := 0
		err := Tar(t.Context(), bytes.NewReader(data), "x", roomy, func(e *Entry) error {
			entries++
			if !filepath.IsLocal(e.Name) || path.Clean(e.Name) != e.Name {
				t.Errorf("%q", e.Name)
			}
			n, err := io.Copy(io.Discard, e.Body)
			total += n
			return err
		})
		if total > roomy.Size || entries > roomy.Entries {
			t.Fatalf("%d bytes in %d entries, %v", total, entries, err)
		}
	})
}
