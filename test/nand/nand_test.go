package nand

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// kernelVariable names the directory of an unpacked Debian kernel package, with boot/ and lib/modules/.
const kernelVariable = "TWINKEEL_NAND_KERNEL"

// guestTools are the programs of the virtual machine beside busybox.
var guestTools = []string{"ubiformat", "ubiattach", "ubidetach", "ubiupdatevol", "fw_printenv"}

// guestModules are where the kernel's modules for flash are, and what they need.
var guestModules = []string{"drivers/mtd", "fs/ubifs", "lib", "crypto", "arch/x86/crypto"}

func TestOnNAND(t *testing.T) {
	kernel := os.Getenv(kernelVariable)
	if kernel == "" {
		t.Skipf("%s is not set; \"make nand\" sets it", kernelVariable)
	}
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for _, tool := range append([]string{"qemu-system-x86_64", "busybox", "ubinize", "mkfs.ubifs", "ldd"}, guestTools...) {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing: %v", tool, err)
		}
	}
	dir := t.TempDir()
	buildImages(t, dir)
	initramfs := makeInitramfs(t, dir, kernel)
	got := boot(t, one(t, filepath.Join(kernel, "boot/vmlinuz-*")), initramfs)

	size, err := strconv.Atoi(got["page.mebibytes"])
	if sub, _ := strconv.Atoi(got["sub.mebibytes"]); err != nil || size < 100 || sub < 100 {
		t.Errorf("the data partition has %s and %s MiB; it should have grown over the flash", got["page.mebibytes"], got["sub.mebibytes"])
	}
	delete(got, "page.mebibytes")
	delete(got, "sub.mebibytes")
	want := map[string]string{"kernel": "0", "done": "1"}
	for name, leb := range map[string]string{"page": "0x1f000", "sub": "0x1f800"} {
		for k, v := range map[string]string{
			"volume0": "rootfsa dynamic", "volume1": "rootfsb dynamic", "volume2": "data dynamic", "volume3": "u-boot-env-1 dynamic", "volume4": "u-boot-env-2 dynamic",
			"a": "ID=" + name, "b": "0", "updated": "ID=" + name,
			"conf": "600 0", "parts": "ubi0_0 ubi0_1", "owner": "4750 1000 2000 2", "device": "character special file 1 3 666",
			"config": "/dev/ubi0_3 0x0 0x20000 " + leb + " /dev/ubi0_4 0x0 0x20000 " + leb,
			"part":   "0", "changed": "1 run distro_bootcmd",
		} {
			want[name+"."+k] = v
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// buildImages makes both images of the pipeline, and the root file systems that they start with.
func buildImages(t *testing.T, dir string) {
	t.Helper()
	for name, leb := range map[string]string{"page": "126976", "sub": "129024"} {
		root := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
		check(t, os.WriteFile(filepath.Join(root, "etc/os-release"), []byte("ID="+name+"\n"), 0o644))
		run(t, dir, "mkfs.ubifs", "-r", root, "-m", "2048", "-e", leb, "-c", "331", "-o", name+".ubifs")
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []*tar.Header{
		{Name: "a file", Typeflag: tar.TypeReg, Mode: 0o4750, Uid: 1000, Gid: 2000},
		{Name: "another name", Typeflag: tar.TypeLink, Linkname: "a file"},
		{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
	} {
		check(t, w.WriteHeader(h))
	}
	check(t, w.Close())
	check(t, os.WriteFile(filepath.Join(dir, "data.tar"), archive.Bytes(), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "u-boot-initial-env"), []byte("bootcmd=run distro_bootcmd\n"), 0o644))
	text, err := os.ReadFile("testdata/nand.twinkeel.hcl")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "nand.twinkeel.hcl"), text, 0o644))
	program := filepath.Join(dir, "twinkeel")
	run(t, ".", "go", "build", "-o", program, "../../cmd/twinkeel")
	run(t, dir, program, "keys", "generate", "dev.pem")
	run(t, dir, program, "image")
}

// makeInitramfs packs the virtual machine's root: busybox, the tools with their libraries, the modules and the images.
func makeInitramfs(t *testing.T, dir, kernel string) string {
	t.Helper()
	root := filepath.Join(dir, "initramfs")
	take := func(from, to string) {
		t.Helper()
		to = filepath.Join(root, to)
		check(t, os.MkdirAll(filepath.Dir(to), 0o755))
		run(t, dir, "cp", "-rL", from, to)
	}
	which := func(tool string) string {
		path, err := exec.LookPath(tool)
		check(t, err)
		return path
	}
	take("testdata/init", "init")
	check(t, os.Chmod(filepath.Join(root, "init"), 0o755))
	take(which("busybox"), "bin/busybox")
	for _, tool := range guestTools {
		take(which(tool), "usr/sbin/"+tool)
		for _, word := range strings.Fields(run(t, dir, "ldd", which(tool))) {
			if strings.HasPrefix(word, "/") {
				take(word, word)
			}
		}
	}
	check(t, os.Symlink("fw_printenv", filepath.Join(root, "usr/sbin/fw_setenv"))) // one program with two names
	modules := one(t, filepath.Join(kernel, "lib/modules/*"))
	for _, part := range guestModules {
		take(filepath.Join(modules, "kernel", part), filepath.Join("lib/modules", filepath.Base(modules), "kernel", part))
	}
	for _, name := range []string{"page", "sub"} {
		take(filepath.Join(dir, "out/images/nand-"+name+".ubi"), name+".ubi")
		take(filepath.Join(dir, name+".ubifs"), name+".ubifs")
	}
	run(t, root, "sh", "-c", "find . | busybox cpio -o -H newc > ../initramfs.cpio")
	return root + ".cpio"
}

// boot runs the virtual machine until it switches itself off, and returns what its init says.
func boot(t *testing.T, kernel, initramfs string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 panic=-1 loglevel=4")
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	check(t, cmd.Start())
	timer := time.AfterFunc(10*time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	said := make(map[string]string)
	for _, line := range strings.Split(console.String(), "\n") {
		_, text, found := strings.Cut(strings.TrimSpace(line), "nand: ")
		if name, value, ok := strings.Cut(text, "="); found && ok {
			said[name] = strings.TrimSpace(value)
		}
	}
	if err != nil || said["done"] == "" || said["failed"] != "" {
		t.Errorf("the machine ends with %v; its console:\n%s", err, console.String())
	}
	return said
}

func one(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %d found, one is needed: %v", pattern, len(found), err)
	}
	return found[0]
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	abs := make([]string, len(args))
	for i, arg := range args {
		abs[i] = arg
		if strings.HasPrefix(arg, "testdata/") {
			path, err := filepath.Abs(arg)
			check(t, err)
			abs[i] = path
		}
	}
	cmd := exec.CommandContext(t.Context(), name, abs...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
