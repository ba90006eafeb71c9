package cli_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/twinkeel/twinkeel/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"twinkeel": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			code := cli.Run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
			stop()
			os.Exit(code)
		},
	})
}

// TestScripts runs the user stories in testdata/script. They use the real tool as a process and, where they say so, the
// tools of Debian packages.
func TestScripts(t *testing.T) {
	t.Parallel()
	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("REPO", repo)
			e.Setenv("PATH", e.Getenv("PATH")+":/usr/sbin:/sbin")
			e.Setenv("NO_COLOR", "1")
			port, err := freePort()
			e.Setenv("PORT", port)
			return err
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "tools":
				return haveAll("mke2fs", "mkfs.vfat", "mcopy", "debugfs"), nil
			case "tmpfs":
				return os.Getuid() == 0 && canMountTmpfs(), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkdeploy":  mkdeploy,
			"mkimg":     mkImg,
			"waitfor":   waitFor,
			"flip":      flip,
			"tmpfs":     tmpfs,
			"nofile":    noFile,
			"isjson":    isJSON,
			"tokenfile": tokenFile,
			"https":     serveHTTPS,
			"readubi":   readUBI,
		},
	})
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

func haveAll(tools ...string) bool {
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if _, err := os.Stat("/usr/sbin/" + tool); err != nil {
				return false
			}
		}
	}
	return true
}

// mkdeploy DIR VERSION SIZE makes a small Yocto deploy directory: an ext4 of SIZE (as mke2fs reads it) with an
// os-release and a mebibyte of noise, its manifest and variables, and boot files.
func mkdeploy(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: mkdeploy DIR VERSION SIZE")
	}
	dir, version, size := ts.MkAbs(args[0]), args[1], args[2]
	root := dir + "-root"
	ts.Check(os.MkdirAll(filepath.Join(root, "etc"), 0o755))
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(os.WriteFile(filepath.Join(root, "etc/os-release"), []byte("VERSION_ID="+version+"\n"), 0o644))
	noise := make([]byte, 1<<20) // what can't be compressed away
	rand.NewChaCha8([32]byte{}).Read(noise)
	ts.Check(os.WriteFile(filepath.Join(root, "noise"), noise, 0o644))
	const link = "demo-image-qemux86-64.rootfs"
	real := link + "-20260101120000"
	ts.Check(ts.Exec("mke2fs", "-q", "-t", "ext4", "-d", root, "-U", "6c1a5a4e-52a1-4cf4-8e0c-6f1a0c3c1f00", filepath.Join(dir, real+".ext4"), size))
	variables, err := json.Marshal(map[string]string{
		"MACHINE": "qemux86-64", "IMAGE_LINK_NAME": link, "IMAGE_NAME": real, "IMAGE_BASENAME": "demo-image",
		"IMAGE_BOOT_FILES": "boot.scr", "KERNEL_IMAGETYPE": "bzImage", "DISTRO_VERSION": "5.0.9",
	})
	ts.Check(err)
	for name, content := range map[string]string{
		real + ".manifest":      "busybox core2_64 1.35.0\n",
		real + ".testdata.json": string(variables),
		"boot.scr":              "boot script of " + version,
		"bzImage":               "kernel",
		"u-boot-initial-env":    "bootcmd=run boot_slot\naltbootcmd=run bootcmd\nbootlimit=1\n",
	} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	for _, ext := range []string{".ext4", ".manifest", ".testdata.json"} {
		ts.Check(os.Symlink(real+ext, filepath.Join(dir, link+ext)))
	}
}

// mkimg FILE makes 6 MiB that begin with boot code and noise and end with noise, and sets DIGEST to its SHA-256.
func mkImg(ts *testscript.TestScript, _ bool, args []string) {
	b := make([]byte, 6<<20)
	rand.NewChaCha8([32]byte{1}).Read(b[:1<<20])
	b[510], b[511] = 0x55, 0xaa
	rand.NewChaCha8([32]byte{2}).Read(b[len(b)-3000:])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
	ts.Setenv("DIGEST", fmt.Sprintf("%x", sha256.Sum256(b)))
}

// waitfor FILE TEXT waits until a file holds a text.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && strings.Contains(string(b), args[1]) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("%s never had %q", args[0], args[1])
}

// flip FILE changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	ts.Check(err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, end/2)
	ts.Check(err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b, end/2)
	ts.Check(err)
}

// nofile DIR fails when any file is below DIR, a half-written one above all.
func noFile(ts *testscript.TestScript, _ bool, args []string) {
	_ = filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			ts.Fatalf("%s was left behind", path)
		}
		return nil
	})
}

// isjson stdout|stderr|FILE fails when it is not one JSON value.
func isJSON(ts *testscript.TestScript, _ bool, args []string) {
	if text := ts.ReadFile(args[0]); !json.Valid([]byte(text)) {
		ts.Fatalf("%s is not JSON: %q", args[0], text)
	}
}

// tokenfile VAR FILE sets a variable to a file's content without its last newline.
func tokenFile(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// tmpfs DIR SIZE mounts a small file system for the rest of the script.
func tmpfs(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

func canMountTmpfs() bool {
	dir, err := os.MkdirTemp("", "tmpfs")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	if syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k") != nil {
		return false
	}
	return syscall.Unmount(dir, syscall.MNT_DETACH) == nil
}

// https DIR serves a directory over HTTPS, at $URL, with a certificate that commands trust from then on. What was asked for
// goes to the file requests.
func serveHTTPS(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: https DIR")
	}
	files, log := http.FileServer(http.Dir(ts.MkAbs(args[0]))), ts.MkAbs("requests")
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			fmt.Fprintln(f, r.Method, r.URL.Path, r.Header.Get("Private-Token"))
			f.Close()
		}
		files.ServeHTTP(w, r)
	}))
	ts.Defer(server.Close)
	ca := ts.MkAbs("ca.pem")
	ts.Check(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644))
	ts.Setenv("SSL_CERT_FILE", ca)
	ts.Setenv("URL", server.URL)
	ts.Setenv("TWINKEEL_VAR_url", server.URL)
}

// readubi IMAGE writes the content of each volume of a UBI image with erase blocks of 128 KiB to a file of the volume's name. It
// prints the names, with what the volume table says.
func readUBI(ts *testscript.TestScript, _ bool, args []string) {
	const peb, layoutVolume, record = 128 << 10, 0x7fffefff, 172
	if len(args) != 1 {
		ts.Fatalf("usage: readubi IMAGE")
	}
	image, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	be := binary.BigEndian
	volumes := make(map[uint32][]byte)
	for ; len(image) >= peb; image = image[peb:] {
		header := image[be.Uint32(image[16:]):]
		id := be.Uint32(header[8:])
		volumes[id] = append(volumes[id], image[be.Uint32(image[20:]):peb]...)
	}
	for id, table := uint32(0), volumes[layoutVolume]; id < 128; id, table = id+1, table[record:] {
		length := be.Uint16(table[14:])
		if length == 0 {
			continue
		}
		name := string(table[16:][:length])
		fmt.Fprintln(ts.Stdout(), id, name, map[byte]string{1: "dynamic", 2: "static"}[table[12]], map[byte]string{1: "autoresize"}[table[144]])
		ts.Check(os.WriteFile(ts.MkAbs(name), volumes[id], 0o644))
	}
}
