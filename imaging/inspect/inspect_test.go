package inspect

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/bootenv"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	envOffset = 1 * mib
	envSize   = 16 * kib
)

func need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := findTool(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
}

func environment(t testing.TB, flag byte, change map[string]string) []byte {
	t.Helper()
	vars := map[string]string{"bootcmd": "run boot_slot", "bootlimit": "1", "bootcount": "0", "upgrade_available": "0", "mender_boot_part": "2", "mender_boot_part_hex": "2"}
	for name, value := range change {
		vars[name] = value
	}
	block, err := bootenv.EncodeUBoot(vars, envSize, true, flag)
	if err != nil {
		t.Fatal(err)
	}
	return block
}

// testImage writes an A/B image as pipelines make them.
func testImage(t testing.TB) string {
	t.Helper()
	need(t, "mke2fs", "mkfs.vfat", "mcopy")
	path := filepath.Join(t.TempDir(), "board.img")
	env := append(environment(t, 1, nil), environment(t, 1, nil)...)
	config := bootenv.FormatFwEnvConfig([]bootenv.Location{
		{Path: "/dev/mmcblk0", Offset: envOffset, Size: envSize}, {Path: "/dev/mmcblk0", Offset: envOffset + envSize, Size: envSize},
	})
	noise := make([]byte, 300*kib)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	_, err := imaging.Write(t.Context(), path, &imaging.Image{
		Seed: "test",
		Layout: imaging.Layout{
			Reserves: []imaging.Reserve{{Name: "env", Offset: envOffset, Size: 2 * envSize}},
			Partitions: []imaging.Partition{
				{Name: "boot", Size: 8 * mib, Filesystem: "vfat", Bootable: true},
				{Name: "rootfs_a", Size: 8 * mib, Filesystem: "ext4", Slot: "a"},
				{Name: "rootfs_b", Size: 8 * mib, Filesystem: "ext4", Slot: "b"},
				{Name: "data", Size: 8 * mib, Filesystem: "ext4", Label: "data"},
			},
		},
		Contents: map[string]imaging.Content{
			"env":  {Bytes: env},
			"boot": {Tree: []imaging.TreeFile{{Path: "boot.scr", Data: []byte("script")}}},
			"rootfs_a": {Tree: []imaging.TreeFile{
				{Path: "etc/os-release", Data: []byte("PRETTY_NAME=\"Board 1.0\"\n")},
				{Path: "noise", Data: noise},
				{Path: "etc/mender/artifact_info", Data: []byte("artifact_name=board-1.0\n")},
			}},
			"data": {Tree: []imaging.TreeFile{
				{Path: "mender/device_type", Data: []byte("device_type=board\n"), Mode: 0o444},
				{Path: "mender/mender.conf", Data: []byte(`{"ServerURL":"https://s","RootfsPartA":"/dev/mmcblk0p2","RootfsPartB":"/dev/mmcblk0p3","ArtifactVerifyKeys":["/data/mender/key.pem"]}`), Mode: 0o600},
				{Path: "mender/key.pem", Data: []byte("-----BEGIN PUBLIC KEY-----\n"), Mode: 0o444},
				{Path: "u-boot/fw_env.config", Data: config},
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) *Disk {
	t.Helper()
	d, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func verify(t testing.TB, path string, o VerifyOptions) *Report {
	t.Helper()
	r, err := open(t, path).Verify(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sum(t testing.TB, d *Disk) string {
	t.Helper()
	sums, err := Digests(t.Context(), d, d.Size, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sums[0]
}

// TestContainers: an image is the same disk in whatever it is packed. The packers are others' programs.
func TestContainers(t *testing.T) {
	t.Parallel()
	image := testImage(t)
	want := sum(t, open(t, image))
	for name, c := range map[string]struct{ tool, script string }{
		"gzip":        {"gzip", "gzip -c $I > $O.gz; mv $O.gz $O"},
		"bzip2":       {"bzip2", "bzip2 -c $I > $O"},
		"xz":          {"xz", "xz -1 -c $I > $O"},
		"zstd":        {"zstd", "zstd -q -c $I > $O"},
		"sparse":      {"img2simg", "img2simg $I $O"},
		"sparse.gz":   {"img2simg", "img2simg $I $O.s; gzip -c $O.s > $O; rm $O.s"},
		"sparse 1 K":  {"img2simg", "img2simg $I $O 1024"},
		"qcow2":       {"qemu-img", "qemu-img convert -O qcow2 $I $O"},
		"qcow2 v2":    {"qemu-img", "qemu-img convert -O qcow2 -o compat=0.10 $I $O"},
		"qcow2 512":   {"qemu-img", "qemu-img convert -O qcow2 -o cluster_size=512 $I $O"},
		"qcow2 2M":    {"qemu-img", "qemu-img convert -O qcow2 -o cluster_size=2M $I $O"},
		"qcow2 -c":    {"qemu-img", "qemu-img convert -c -O qcow2 $I $O"},
		"qcow2 -c 4K": {"qemu-img", "qemu-img convert -c -O qcow2 -o cluster_size=4K $I $O"},
		"qcow2 zstd":  {"qemu-img", "qemu-img convert -c -O qcow2 -o compression_type=zstd $I $O"},
		"qcow2 full":  {"qemu-img", "qemu-img convert -S 0 -O qcow2 -o preallocation=metadata $I $O"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			need(t, c.tool)
			packed := filepath.Join(t.TempDir(), "packed")
			cmd := exec.CommandContext(t.Context(), "sh", "-ec", c.script)
			cmd.Env = append(os.Environ(), "I="+image, "O="+packed)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			d := open(t, packed)
			if got := sum(t, d); got != want {
				t.Errorf("another disk: %s", got)
			}
			if d.Map == nil || d.Plain() {
				t.Errorf("map %v, plain %v: %v", d.Map, d.Plain(), d.NoTable)
			}
		})
	}
}

// TestVerifyGood: nothing is wrong with an image of our own, and the report says what is in it.
func TestVerifyGood(t *testing.T) {
	t.Parallel()
	r := verify(t, testImage(t), VerifyOptions{})
	if len(r.Findings) > 0 {
		t.Errorf("findings: %+v", r.Findings)
	}
	if r.Boot == nil || r.Boot.Partition != 2 || r.Boot.Slot != "a" {
		t.Errorf("boot: %+v", r.Boot)
	}
	if r.Agent == nil || r.Agent.DeviceType != "board" || !slices.Equal(r.Agent.Servers, []string{"https://s"}) {
		t.Errorf("agent: %+v", r.Agent)
	}
	if c := r.Partitions[1].Content; c == nil || c.Release != "board-1.0" || c.OS != "Board 1.0" {
		t.Errorf("slot A: %+v", c)
	}
	if len(r.Environments) != 1 || len(r.Environments[0].Copies) != 2 || r.Environments[0].Copies[1].Offset != envOffset+envSize {
		t.Errorf("environments: %+v", r.Environments)
	}
}

// TestVerifyFinds: each kind of damage has its finding, and only what follows from it.
func TestVerifyFinds(t *testing.T) {
	t.Parallel()
	good := testImage(t)
	m := open(t, good).Map
	at := func(name string) int64 {
		r, ok := m.Find(name)
		if !ok {
			t.Fatal(name)
		}
		return r.Offset
	}
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		damage func(b []byte) []byte
		want   []string
	}{
		"primary table": {func(b []byte) []byte { b[512+60] ^= 1; return b }, []string{CodeTablePrimary}},
		"backup table":  {func(b []byte) []byte { b[len(b)-512+60] ^= 1; return b }, []string{CodeTableBackup}},
		"longer disk":   {func(b []byte) []byte { return append(b, make([]byte, mib)...) }, []string{CodeTableEnd, CodeTableMBR}},
		"shorter disk":  {func(b []byte) []byte { return b[:len(b)-512*40] }, []string{CodeTableBackup, CodeTableMBR}},
		"no table": {func(b []byte) []byte {
			clear(b[:1024])
			clear(b[len(b)-512:])
			return b
		}, []string{CodeTable}},
		"no protection":      {func(b []byte) []byte { b[446+4] = 0; return b }, []string{CodeTableMBR}},
		"first copy":         {func(b []byte) []byte { b[envOffset+9] ^= 1; return b }, []string{CodeEnvironmentCopy}},
		"both copies":        {func(b []byte) []byte { b[envOffset+9] ^= 1; b[envOffset+envSize+9] ^= 1; return b }, []string{CodeEnvironment}},
		"blank copies":       {func(b []byte) []byte { clear(b[envOffset : envOffset+2*envSize]); return b }, []string{CodeEnvironmentBlank}},
		"missing slot":       {putEnv(t, map[string]string{"mender_boot_part": "9", "mender_boot_part_hex": "9"}), []string{CodeEnvironmentBoot}},
		"no slot":            {putEnv(t, map[string]string{"mender_boot_part": "x"}), []string{CodeEnvironmentBoot}},
		"two slots":          {putEnv(t, map[string]string{"mender_boot_part_hex": "3"}), []string{CodeEnvironmentBoot}},
		"file system state":  {func(b []byte) []byte { b[at("data")+1024+0x3a] = 0; return b }, []string{CodeFilesystemDirty}},
		"file system errors": {func(b []byte) []byte { b[at("data")+1024+0x3a] = 3; return b }, []string{CodeFilesystemErrors}},
		"file system size": {func(b []byte) []byte {
			s := b[at("data")+1024:]
			le.PutUint32(s[4:], le.Uint32(s[4:])*2)
			return b
		}, []string{CodeFilesystemSize, CodeFilesystemCheck}},
		"inode": {func(b []byte) []byte { // the root directory's mode
			i := bytes.Index(b[at("rootfs_a"):], []byte{0xed, 0x41})
			b[at("rootfs_a")+int64(i)+1] = 0x11
			return b
		}, []string{CodeFilesystem, CodeFilesystemCheck}},
		"allocation table": {func(b []byte) []byte {
			boot := b[at("boot"):]
			fat := int(le.Uint16(boot[14:])) * 512
			boot[fat+40] ^= 0xff
			return b
		}, []string{CodeFilesystem, CodeFilesystemCheck}},
		"device type": {replace("device_type=board\n", "device type=board\n"), []string{CodeAgentDevice}},
		"key":         {replace("-----BEGIN PUBLIC", "-----begin public"), []string{CodeAgentKey}},
		"config":      {replace(`{"ServerURL"`, `["ServerURL"`), []string{CodeAgentConfig}},
		"slots":       {replace(`/dev/mmcblk0p3`, `/dev/mmcblk0p7`), []string{CodeAgentConfig}},
		"one slot":    {replace(`/dev/mmcblk0p3`, `/dev/mmcblk0p2`), []string{CodeAgentConfig}},
		"environment behind the disk": {
			replace("/dev/mmcblk0 0x104000 0x4000", "/dev/mmcblk0 0x9904000 0x400"), []string{CodeEnvironmentPlace},
		},
		"environment in a partition": {
			replace("/dev/mmcblk0 0x104000 0x4000", "/dev/mmcblk0 0x404000 0x4000"), []string{CodeEnvironmentPlace},
		},
		"environment elsewhere": {replace("/dev/mmcblk0 0x100000 0x4000", "/dev/mtd0 0x100000    0x4000"), []string{CodeEnvironmentPlace}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			need(t, "e2fsck", "fsck.vfat")
			b, err := os.ReadFile(good)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "bad.img")
			if err := os.WriteFile(path, c.damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			var got []string
			r := verify(t, path, VerifyOptions{NoDigests: true, Check: CheckAlways})
			for _, f := range r.Findings {
				got = append(got, f.Code)
				if f.Place == "" || f.Text == "" {
					t.Errorf("%+v", f)
				}
			}
			slices.Sort(got)
			got = slices.Compact(got)
			slices.Sort(c.want)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s\n%+v", diff, r.Findings)
			}
		})
	}
}

// TestOtherContainers: what is not read is named, with what to do.
func TestOtherContainers(t *testing.T) {
	t.Parallel()
	backed := make([]byte, 112)
	copy(backed, "QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x70")
	for name, c := range map[string]struct{ content, want string }{
		"backing file": {string(backed), "it is a qcow2 image that has only what differs from another one (its backing file)"},
		"vmdk":         {"KDMV" + string(make([]byte, 4096)), "it is a VMDK disk"},
		"vhdx":         {"vhdxfile" + string(make([]byte, 4096)), "it is a VHDX disk"},
		"fixed vhd":    {string(make([]byte, 4096)) + "conectix" + string(make([]byte, 504)), "it is a VHD disk"},
	} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), path, Options{})
		var unsupported *UnsupportedError
		if !errors.As(err, &unsupported) || !errors.Is(err, errors.ErrUnsupported) || err.Error() != path+": "+c.want || unsupported.Hint() != convertAdvice {
			t.Errorf("%s: %v", name, err)
		}
	}
	iso := make([]byte, 40<<10)
	copy(iso[0x8001:], "CD001")
	path := filepath.Join(t.TempDir(), "disk.iso")
	if err := os.WriteFile(path, iso, 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, path)
	if !errors.Is(d.NoTable, imaging.ErrNoTable) || d.NoTable.Error() != "no partition table: it is iso9660" {
		t.Error(d.NoTable)
	}
}

// TestVerifySmallBlocks: a file system that no kernel mounts from a disk with such sectors.
func TestVerifySmallBlocks(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	dir := t.TempDir()
	part := filepath.Join(dir, "ext4")
	if err := os.WriteFile(part, make([]byte, 4*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	tool, err := findTool("mke2fs")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, "-q", "-t", "ext4", "-b", "1024", part).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// With "none" it is copied without a question.
	disk := filepath.Join(dir, "disk.img")
	if _, err := imaging.Write(t.Context(), disk, &imaging.Image{
		Layout:   imaging.Layout{SectorSize: 4096, Partitions: []imaging.Partition{{Name: "raw", Size: 4 * mib}}},
		Contents: map[string]imaging.Content{"raw": {File: part}},
	}); err != nil {
		t.Fatal(err)
	}
	r := verify(t, disk, VerifyOptions{NoDigests: true, Check: CheckNever})
	if len(r.Findings) != 1 || r.Findings[0].Code != CodeFilesystemBlock || r.Findings[0].Hint != "make it with mkfs.ext4 -b 4096" {
		t.Errorf("%+v", r.Findings)
	}
}

func putEnv(t *testing.T, change map[string]string) func(b []byte) []byte {
	return func(b []byte) []byte {
		copy(b[envOffset:], environment(t, 2, change))
		return b
	}
}

func replace(old, new string) func(b []byte) []byte {
	return func(b []byte) []byte {
		i := bytes.Index(b, []byte(old))
		if i < 0 {
			panic("not there: " + old)
		}
		copy(b[i:], new)
		return b
	}
}

// TestChecksumsOfExt4: file systems with checksums, as Yocto makes them, are checked by them, and e2fsck agrees.
func TestChecksumsOfExt4(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	for _, features := range []string{"metadata_csum,64bit", "metadata_csum,^64bit", "^metadata_csum,uninit_bg,^64bit", "^metadata_csum,uninit_bg,64bit", "metadata_csum,64bit,metadata_csum_seed"} {
		path := filepath.Join(t.TempDir(), "fs")
		if out, err := exec.CommandContext(t.Context(), "/usr/sbin/mke2fs", "-q", "-t", "ext4", "-b", "1024", "-O", features, path, "40M").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if p := checkExt4(bytes.NewReader(b), int64(len(b))); len(p) > 0 {
			t.Errorf("%s: %+v", features, p)
		}
		b[2048+3*32+12]++ // a count in a group descriptor
		if p := checkExt4(bytes.NewReader(b), int64(len(b))); len(p) != 1 || p[0].code != CodeFilesystem || !strings.Contains(p[0].text, "group") {
			t.Errorf("%s: damage is not seen: %+v", features, p)
		}
		b[2048+3*32+12]--
		b[1024+0x88]++ // the place of the last mount
		if p := checkExt4(bytes.NewReader(b), int64(len(b))); strings.HasPrefix(features, "metadata") != (len(p) == 1) {
			t.Errorf("%s: damage of the superblock: %+v", features, p)
		}
	}
}

// TestUsage: the room that is taken is what the file systems' own programs say.
func TestUsage(t *testing.T) {
	t.Parallel()
	d := open(t, testImage(t))
	for _, name := range []string{"boot", "rootfs_a"} {
		r, err := d.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		u, err := UsageOf(d.Section(r), r.Size)
		if err != nil {
			t.Fatal(err)
		}
		f, err := d.copyOf(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		tool, script := "dumpe2fs", `dumpe2fs -h /dev/fd/3 2>/dev/null | awk -F: '/^Block count/{b=$2} /^Free blocks/{f=$2} /^Block size/{s=$2} END{print (b-f)*s}'`
		if u.Kind == imaging.FilesystemVFAT {
			tool, script = "minfo", `mdir -i /dev/fd/3 :: | awk '/bytes free/{gsub(/[^0-9]/,""); print $0}'`
		}
		need(t, tool)
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin")
		cmd.ExtraFiles = []*os.File{f}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprint(u.Used)
		if u.Kind == imaging.FilesystemVFAT { // it tells what is free
			want = fmt.Sprint(u.Size - u.Used)
		}
		if got := strings.TrimSpace(string(out)); got != want {
			t.Errorf("%s: %d bytes used, that is %s, but its own program says %s", name, u.Used, want, got)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	d := open(t, testImage(t))
	for name, want := range map[string]int{"2": 2, "rootfs_a": 2, "a": 2, "B": 3, "data": 4, "boot": 1} {
		if r, err := d.Find(name); err != nil || r.Number != want {
			t.Errorf("%s is partition %d: %v", name, r.Number, err)
		}
	}
	for _, name := range []string{"", "5", "-1", "root", "primary"} {
		_, err := d.Find(name)
		var e *PartitionError
		if !errors.As(err, &e) || !strings.Contains(e.Hint(), "4 (data)") {
			t.Errorf("%q: %v", name, err)
		}
	}
	m := &imaging.Map{Regions: []imaging.Region{{Kind: imaging.KindPartition, Number: 1, Name: "primary"}, {Kind: imaging.KindPartition, Number: 2, Name: "primary"}}}
	if _, err := FindIn(m, "primary"); err == nil || !strings.Contains(err.Error(), "several") {
		t.Errorf("got %v", err)
	}
}

// TestSearch finds environments that nothing on the disk points to.
func TestSearch(t *testing.T) {
	t.Parallel()
	vars := map[string]string{"bootcmd": "x", "mender_boot_part": "2"}
	for name, c := range map[string]struct {
		at     []int64
		size   int
		double bool
	}{
		"one of 16 K":    {[]int64{0x80000}, 16 * kib, false},
		"two of 128 K":   {[]int64{0x80000, 0xc0000}, 128 * kib, true},
		"right together": {[]int64{0x80000, 0x84000}, 16 * kib, true},
	} {
		disk := make([]byte, 4*mib)
		for i, at := range c.at {
			block, err := bootenv.EncodeUBoot(vars, c.size, c.double, byte(i+1))
			if err != nil {
				t.Fatal(err)
			}
			copy(disk[at:], block)
		}
		d := &Disk{ReaderAt: bytes.NewReader(disk), Size: 4 * mib, Map: &imaging.Map{Size: 4 * mib}}
		found, findings := d.Environments(nil)
		if len(found) != 1 || len(findings) > 0 {
			t.Errorf("%s: %v %v", name, found, findings)
			continue
		}
		e := found[0]
		if diff := cmp.Diff(vars, e.Variables); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for i, at := range c.at {
			if e.Copies[i].Offset != at || e.Copies[i].Size != int64(c.size) {
				t.Errorf("%s: %+v", name, e.Copies)
			}
		}
	}
}

func TestBoot(t *testing.T) {
	t.Parallel()
	m := &imaging.Map{Regions: []imaging.Region{
		{Kind: imaging.KindPartition, Number: 2, Slot: "a"}, {Kind: imaging.KindPartition, Number: 3, Slot: "b"},
	}}
	for name, c := range map[string]struct {
		vars string
		grub bool
		part int
		why  string
	}{
		"at rest":      {"mender_boot_part=2 upgrade_available=0 bootcount=5 bootlimit=1", false, 2, "no update"},
		"installed":    {"mender_boot_part=3 upgrade_available=1 bootcount=0 bootlimit=1", false, 3, "gets 1 boot "},
		"booted once":  {"mender_boot_part=3 upgrade_available=1 bootcount=1 bootlimit=1", false, 2, "not committed"},
		"of three":     {"mender_boot_part=3 upgrade_available=1 bootcount=1 bootlimit=3", false, 3, "gets 2 boots"},
		"no limit":     {"mender_boot_part=3 upgrade_available=1 bootcount=9", false, 3, "any number"},
		"GRUB":         {"mender_boot_part=3 upgrade_available=1 bootcount=0", true, 3, "gets 1 boot "},
		"GRUB, booted": {"mender_boot_part=3 upgrade_available=1 bootcount=1", true, 2, "not committed"},
		"no number":    {"mender_boot_part=b", false, 0, "not the number"},
	} {
		e := &Environment{Kind: EnvironmentUBoot, Variables: map[string]string{}, Copies: []EnvironmentCopy{{State: CopyValid, Used: true}}}
		if c.grub {
			e.Kind = EnvironmentGRUB
		}
		for _, v := range strings.Fields(c.vars) {
			name, value, _ := strings.Cut(v, "=")
			e.Variables[name] = value
		}
		if got := BootOf(m, e); got.Partition != c.part || !strings.Contains(got.Why, c.why) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := BootOf(m, &Environment{Copies: []EnvironmentCopy{{State: CopyBlank}}}); got.Partition != 0 || !strings.Contains(got.Why, "never written") {
		t.Errorf("blank: %+v", got)
	}
}

// TestTruncated: a compressed image that is cut off is an error, never a shorter disk.
func TestTruncated(t *testing.T) {
	t.Parallel()
	need(t, "gzip", "xz")
	image := testImage(t)
	for _, tool := range []string{"gzip", "xz"} {
		packed, err := exec.CommandContext(t.Context(), tool, "-c", "-1", image).Output()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "cut")
		if err := os.WriteFile(path, packed[:len(packed)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), "too early") && !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", tool, err)
		}
		if err := os.WriteFile(path, packed, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), path, Options{Limit: mib}); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: limit: %v", tool, err)
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if _, err := Open(ctx, path, Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", tool, err)
		}
	}
}

// TestBmap: data that a block map leaves out, and ranges that have changed, are found.
func TestBmap(t *testing.T) {
	t.Parallel()
	need(t, "bmaptool")
	image := testImage(t)
	text, err := exec.CommandContext(t.Context(), "bmaptool", "create", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := imaging.ParseBmap(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	codes := func(b *imaging.Bmap) (out []string) {
		for _, f := range verify(t, image, VerifyOptions{NoDigests: true, Check: CheckNever, Bmap: b}).Findings {
			out = append(out, f.Code)
		}
		return out
	}
	if got := codes(b); len(got) > 0 {
		t.Errorf("bmaptool's own: %v", got)
	}
	less := *b
	less.Ranges = b.Ranges[1:]
	if diff := cmp.Diff([]string{CodeBmapMissing}, codes(&less)); diff != "" {
		t.Error(diff)
	}
	other := *b
	other.Ranges = slices.Clone(b.Ranges)
	other.Ranges[0].Checksum = strings.Repeat("0", 64)
	if diff := cmp.Diff([]string{CodeBmapChecksum}, codes(&other)); diff != "" {
		t.Error(diff)
	}
	short := *b
	short.ImageSize -= 512
	if diff := cmp.Diff([]string{CodeBmap}, codes(&short)); diff != "" {
		t.Error(diff)
	}
}

func TestDigests(t *testing.T) {
	t.Parallel()
	b := make([]byte, 3*mib+17)
	rand.NewChaCha8([32]byte{2}).Read(b)
	spans := []imaging.Span{{Offset: 0, Size: 100}, {Offset: mib - 1, Size: mib + 2}, {Offset: 3 * mib, Size: 17}, {Offset: 5, Size: 0}}
	got, err := Digests(t.Context(), bytes.NewReader(b), int64(len(b)), spans, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range append(spans, imaging.Span{Size: int64(len(b))}) {
		alone, err := Digests(t.Context(), io.NewSectionReader(bytes.NewReader(b), s.Offset, s.Size), s.Size, nil, nil)
		if err != nil || alone[0] != got[i] {
			t.Errorf("span %d: %s, alone %s: %v", i, got[i], alone, err)
		}
	}
}

// FuzzContainers: whatever is in a container, reading ends and never panics.
func FuzzContainers(f *testing.F) {
	sparse := binary.LittleEndian.AppendUint32(nil, sparseMagic)
	sparse = append(sparse, 1, 0, 0, 0, 28, 0, 12, 0, 0, 4, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0)
	sparse = append(sparse, 0xc2, 0xca, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0, 1, 2, 3, 4)
	sparse = append(sparse, 0xc3, 0xca, 0, 0, 1, 0, 0, 0, 12, 0, 0, 0)
	f.Add(sparse)
	qcow := make([]byte, 4096)
	copy(qcow, "QFI\xfb\x00\x00\x00\x03")
	be := binary.BigEndian
	be.PutUint32(qcow[20:], 9)
	be.PutUint64(qcow[24:], 2048)
	be.PutUint32(qcow[36:], 1)
	be.PutUint64(qcow[40:], 512)
	be.PutUint32(qcow[100:], 104)
	be.PutUint64(qcow[512:], 1024)
	be.PutUint64(qcow[1024:], 2048)
	be.PutUint64(qcow[1032:], 1<<62|2560)
	f.Add(qcow)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var disks []io.ReaderAt
		if a, err := openAndroidSparse(r, int64(len(b))); err == nil {
			disks = append(disks, io.NewSectionReader(a, 0, min(a.size, 1<<20)), io.NewSectionReader(a, max(0, a.size-4096), 4096))
		}
		if q, err := openQCOW2(r, int64(len(b))); err == nil {
			disks = append(disks, io.NewSectionReader(q, 0, min(q.size, 1<<20)), io.NewSectionReader(q, max(0, q.size-4096), 4096))
		}
		for _, d := range disks {
			p := make([]byte, 7000)
			for at := int64(0); at < 1<<20; at += 6000 {
				n, err := d.ReadAt(p, at)
				if n < len(p) && err == nil {
					t.Fatal("a short read without an error")
				}
				if err != nil {
					break
				}
			}
		}
	})
}

// FuzzFilesystems: the checks of file systems end and never panic.
func FuzzFilesystems(f *testing.F) {
	f.Add([]byte("no file system"), uint8(0))
	super := make([]byte, 8192)
	binary.LittleEndian.PutUint16(super[1024+0x38:], 0xef53)
	binary.LittleEndian.PutUint32(super[1024+4:], 8)
	binary.LittleEndian.PutUint32(super[1024+0x14:], 1)
	binary.LittleEndian.PutUint32(super[1024+0x20:], 8192)
	f.Add(super, uint8(1))
	boot := make([]byte, 4096)
	copy(boot[11:], []byte{0, 2, 1, 1, 0, 2, 16, 0, 8, 0, 0xf8, 1, 0})
	f.Add(boot, uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, extra uint8) {
		size := int64(len(b)) + int64(extra)<<9
		r := io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
		u, err := UsageOf(r, size)
		if err == nil && u.Used > u.Size {
			t.Errorf("%d bytes used of %d", u.Used, u.Size)
		}
		checkExt4(r, size)
		checkFAT(r, size)
	})
}
