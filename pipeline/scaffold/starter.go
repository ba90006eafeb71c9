package scaffold

import (
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// board is what a pipeline for one device type says; Starter and FromYocto fill it in.
type board struct {
	name         string // of the device type in the pipeline
	deviceType   string // as the device reports it
	compatible   []string
	architecture string
	storage      string

	deployDir, machine, image string
	rootfsTypes               []string // nil: the language's
	noBootFiles               bool
	buildID                   bool
	sbom                      bool

	alignment int64
	env       envPlace
	loader    *area // a boot loader outside every partition
	boot      int64 // 0: no such partition
	bootFiles bool
	slot      int64
	slotFS    string
	swap      int64
	data      int64
	ubootEnv  bool

	server string
	checks []string // what a person has to look at, said at the head of the file
}

// envPlace is where U-Boot keeps its environment.
type envPlace struct {
	offset, size, copySize int64
	known                  bool // the build says so
}

// Starter is the pipeline of someone who has none: it is valid, and its paths wait for a build.
func Starter() (string, error) {
	b := &board{
		name: "board", deviceType: "raspberrypi4-64", architecture: "arm64", storage: "/dev/mmcblk0",
		deployDir: "build/tmp/deploy/images/raspberrypi4-64", machine: "raspberrypi4-64", image: "core-image-minimal",
		alignment: 4 * mib, env: envPlace{offset: 4 * mib, size: 128 * kib, copySize: 64 * kib},
		boot: 64 * mib, bootFiles: true, slot: gib, slotFS: "ext4", data: 256 * mib, ubootEnv: true, buildID: true,
		server: "https://ota.example.com",
		checks: []string{
			"deploy_dir, machine and image: what Yocto built.",
			"the layout: sizes, and the place of U-Boot's environment (CONFIG_ENV_OFFSET, CONFIG_ENV_SIZE).",
			"device_type: the name that the devices report, and their architecture.",
			"server: where your server is.",
		},
	}
	return b.text()
}

// FromYocto is a pipeline for what a deploy directory holds. deployDir is how the pipeline names the directory.
func FromYocto(d *Deploy, deployDir string) (text string, notes []string, err error) {
	b := &board{
		deployDir: filepath.ToSlash(deployDir), machine: d.Machine, image: d.Image, noBootFiles: d.noBootFiles,
		buildID: d.BuildID != "", sbom: d.HasSBOM, ubootEnv: d.UBootEnv != "", bootFiles: len(d.BootFiles) > 0,
	}
	b.name = identifier(d.Machine, "board")
	if i := slices.Index(rootfsTypes, d.RootfsType); i >= defaultTypes {
		b.rootfsTypes = []string{d.RootfsType}
	}
	b.device(d)
	b.layout(d)
	b.serverOf(d)
	text, err = b.text()
	return text, append(slices.Clone(d.Notes), b.checks...), err
}

func (b *board) check(format string, args ...any) {
	b.checks = append(b.checks, fmt.Sprintf(format, args...))
}

// architectures are Go's names for Yocto's.
var architectures = map[string]string{
	"aarch64": "arm64", "arm": "arm", "x86_64": "amd64", "i586": "386", "i686": "386", "riscv64": "riscv64",
}

var diskPattern = regexp.MustCompile(`^/dev/[A-Za-z0-9_-]+$`)

func (b *board) device(d *Deploy) {
	b.deviceType = d.Machine
	if name := d.Variables["MENDER_DEVICE_TYPE"]; namePattern.MatchString(name) {
		b.deviceType = name
	}
	for _, name := range strings.Fields(d.Variables["MENDER_DEVICE_TYPES_COMPATIBLE"]) {
		if namePattern.MatchString(name) && name != b.deviceType && !slices.Contains(b.compatible, name) {
			b.compatible = append(b.compatible, name)
		}
	}
	b.architecture = architectures[d.Variables["TARGET_ARCH"]]
	if b.architecture == "" {
		b.architecture = "arm64"
		for prefix, arch := range map[string]string{"zImage": "arm", "bzImage": "amd64"} {
			if strings.HasPrefix(path.Base(d.Kernel), prefix) {
				b.architecture = arch
			}
		}
		b.check("architecture: the build does not say it; %s is a guess.", b.architecture)
	}
	b.storage = "/dev/mmcblk0"
	switch disk := d.Variables["MENDER_STORAGE_DEVICE"]; {
	case strings.HasPrefix(disk, "ubi"):
		b.check("storage_device: MENDER_STORAGE_DEVICE is %s, raw flash: write the layout with a block ubi, as docs/flashing.md shows.", disk)
	case diskPattern.MatchString(disk):
		b.storage = disk
	default:
		b.check("storage_device: the build does not say on which disk the device runs; /dev/mmcblk0 is a guess.")
	}
	features := strings.Fields(d.Variables["MENDER_FEATURES"])
	if slices.Contains(features, "mender-grub") || slices.Contains(features, "mender-bios") {
		b.check("bootloader: the build is for GRUB: write bootloader \"grub-efi\" or \"grub-bios\", and the layout as preset = \"uefiimg\" or \"biosimg\".")
	}
}

func (b *board) layout(d *Deploy) {
	b.alignment = mib
	if n, ok := d.number("MENDER_PARTITION_ALIGNMENT"); ok && n >= 4*kib && n <= gib && n&(n-1) == 0 {
		b.alignment = n
	}
	b.environment(d)
	b.rawLoader(d)

	if n, ok := d.mebibytes("MENDER_BOOT_PART_SIZE_MB"); ok {
		b.boot = n
	} else if b.bootFiles {
		b.boot = 64 * mib
	}
	if need := alignUp(d.BootBytes+d.BootBytes/10+2*mib, mib); b.bootFiles && need > b.boot {
		if b.boot > 0 {
			b.check("partition boot: the boot files do not fit into %s; it has %s.", sizeText(b.boot), sizeText(need))
		}
		b.boot = need
	}
	b.slotFS = "none"
	if kind, _, _ := strings.Cut(d.RootfsType, "-"); slices.Contains([]string{"ext4", "squashfs", "erofs"}, kind) { // squashfs-xz
		b.slotFS = kind
	}
	b.slot = slotSize(d.RootfsSize)
	if n, ok := d.number("MENDER_CALC_ROOTFS_SIZE"); ok && n <= maxSize/kib && n*kib%sector == 0 && n*kib >= d.RootfsSize {
		b.slot = n * kib
	} else if total, ok := d.mebibytes("MENDER_STORAGE_TOTAL_SIZE_MB"); ok && total > 0 {
		b.check("slots: sized for today's root file system and room for later ones; the medium has %s (MENDER_STORAGE_TOTAL_SIZE_MB).", sizeText(total))
	} else {
		b.check("slots: %s is today's root file system with room for later ones; it cannot grow once devices are in the field.", sizeText(b.slot))
	}
	b.swap, _ = d.mebibytes("MENDER_SWAP_PART_SIZE_MB")
	b.data = 128 * mib
	if n, ok := d.mebibytes("MENDER_DATA_PART_SIZE_MB"); ok && n >= mib {
		b.data = n
	}
	if extra := d.Variables["MENDER_EXTRA_PARTS"]; extra != "" {
		b.check("layout: the partitions of MENDER_EXTRA_PARTS (%s) are left out; they come after data.", shorten(printable(extra)))
	}
}

// slotSize is half as much again as today's root file system, in steps that are easy to read.
func slotSize(rootfs int64) int64 {
	step := 64 * mib
	if rootfs > 2*gib {
		step = 256 * mib
	}
	return alignUp(rootfs+rootfs/2, step)
}

// environment finds where U-Boot keeps its variables: two copies, the second where the second half begins.
func (b *board) environment(d *Deploy) {
	b.env = envPlace{offset: max(b.alignment, mib), size: 128 * kib, copySize: 64 * kib}
	first, ok1 := d.number("MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_1")
	second, ok2 := d.number("MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_2")
	if !ok1 {
		first, ok1 = d.number("MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET")
	}
	size, ok3 := d.number("BOOTENV_SIZE")
	if ok3 && size >= sector && size%sector == 0 && size <= 16*mib {
		b.env.copySize = size
		b.env.size = 2 * size
	}
	switch {
	case ok1 && first >= tableEnd && first%sector == 0 && ok2 && second-first >= b.env.copySize && second%sector == 0:
		b.env.offset, b.env.size, b.env.known = first, 2*(second-first), ok3
	case ok1 && first >= tableEnd && first%sector == 0 && !ok2:
		b.env.offset = first
	}
	if !b.env.known {
		b.check("reserve uboot_env: the build does not say where U-Boot keeps its environment. Set offset and size to what U-Boot was built with: CONFIG_ENV_OFFSET, CONFIG_ENV_SIZE, and CONFIG_ENV_OFFSET_REDUND in the middle of the reserve.")
	}
}

// rawLoader takes over the boot loader that Mender's classes write before the first partition.
func (b *board) rawLoader(d *Deploy) {
	file := d.Variables["MENDER_IMAGE_BOOTLOADER_FILE"]
	if file == "" {
		return
	}
	at, ok := d.number("MENDER_IMAGE_BOOTLOADER_BOOTSECTOR_OFFSET")
	names, _ := listDir(d.Dir)
	size := fileSize(filepath.Join(d.Dir, file))
	offset := at * sector
	switch {
	case !ok || at > maxSize/sector || !slices.Contains(names, file) || size <= 0:
		b.check("boot loader: MENDER_IMAGE_BOOTLOADER_FILE is %s, which is not in the deploy directory.", shorten(printable(file)))
	case offset < tableEnd:
		b.check("boot loader: %s belongs at sector %d, where the GPT stands; MBR tables cannot be expressed yet. Put it into the eMMC's boot partition, or where the boot ROM looks next.", file, at)
	case offset < b.env.offset+b.env.size && b.env.offset < offset+alignUp(size, sector):
		b.check("boot loader: %s would overlap U-Boot's environment; it is left out.", file)
	default:
		room := alignUp(size, sector)
		if next := b.env.offset; offset < next && offset+2*room < next {
			room *= 2
		}
		b.loader = &area{kind: kindReserve, name: "bootloader", offset: offset, size: room, fill: file}
	}
}

func (b *board) serverOf(d *Deploy) {
	b.server = "https://ota.example.com"
	u, err := url.Parse(d.Variables["MENDER_SERVER_URL"])
	if err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http") && u.User == nil && u.RawQuery == "" && u.Fragment == "" &&
		u.Host != "docker.mender.io" { // meta-mender's default, where nobody's devices are
		b.server = u.String()
		return
	}
	b.check("server: where your server is.")
}

func (b *board) text() (string, error) {
	var out strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&out, format, args...) }
	p("# The pipeline of this directory: what a Yocto build made becomes signed artifacts, disk images and rollouts.\n")
	p("# `twinkeel plan` says what would be done. The whole language: docs/language.md.\n")
	if len(b.checks) > 0 {
		p("#\n# Look at these before you flash a device:\n")
		for _, c := range b.checks {
			out.WriteString(comment("", "- "+c))
		}
	}
	b.writeVersion(p)
	b.writeSource(p)
	b.writeLayout(p, &out)
	b.writeRest(p)
	return finish(out.String())
}

type printer = func(format string, args ...any)

func (b *board) writeVersion(p printer) {
	p("\nvariable \"version\" {\ntype = string\n")
	if b.buildID {
		p("default = null\ndescription = \"Version of the release; by default the date of the build.\"\n}\n")
		return
	}
	p("default = \"0.1.0\"\ndescription = \"Version of the release; each release needs its own.\"\n}\n")
}

func (b *board) writeSource(p printer) {
	p("\n# What Yocto built: its newest root file system, its boot files and variables.\nsource \"yocto\" %s {\n", quote(b.name))
	p("deploy_dir = %s\nmachine = %s\nimage = %s\n", quote(b.deployDir), quote(b.machine), quote(b.image))
	if b.rootfsTypes != nil {
		p("rootfs_types = %s\n", quoteList(b.rootfsTypes))
	}
	if b.noBootFiles {
		p("boot_files = {} # files that IMAGE_BOOT_FILES names are not there\n")
	}
	p("}\n")
}

func (b *board) writeLayout(p printer, out *strings.Builder) {
	p("\n# The disk. Partitions follow one another at multiples of the alignment and step over reserves.\nlayout \"ab\" {\n")
	p("table = \"gpt\"\nalignment = %s\n", quoteSize(b.alignment))
	if b.loader != nil {
		p("# The boot loader, where the boot ROM looks for it.\n")
		out.WriteString(b.loader.text())
	}
	p("# U-Boot's environment: two copies, the second one where the second half begins.\n")
	p("reserve \"uboot_env\" {\noffset = %s\nsize = %s\n}\n", quoteSize(b.env.offset), quoteSize(b.env.size))
	if b.boot > 0 {
		p("partition \"boot\" {\nsize = %s\nfilesystem = \"vfat\"\nmount = \"/uboot\"\nbootable = true\n}\n", quoteSize(b.boot))
	}
	p("# Two of them, rootfs_a and rootfs_b: one runs, the other one gets the update.\n")
	p("slots \"rootfs\" {\nsize = %s\nfilesystem = %s\n}\n", quoteSize(b.slot), quote(b.slotFS))
	if b.swap > 0 {
		p("partition \"swap\" {\nsize = %s\ntype = \"swap\"\n}\n", quoteSize(b.swap))
	}
	p("# What outlasts updates, the agent's own files among it.\n")
	p("partition \"data\" {\nsize = %s\nfilesystem = \"ext4\"\nmount = \"/data\"\ngrow = true\n}\n}\n", quoteSize(b.data))
}

func (b *board) writeRest(p printer) {
	source := "source.yocto." + b.name
	p("\ndevice_type %s {\ntype = %s\n", quote(b.name), quote(b.deviceType))
	if len(b.compatible) > 0 {
		p("compatible = %s\n", quoteList(b.compatible))
	}
	p("architecture = %s\nlayout = layout.ab\nstorage_device = %s\n", quote(b.architecture), quote(b.storage))
	p("bootloader \"u-boot\" {\nenvironment = \"uboot_env\"\nenvironment_size = %s\nredundant = true\n}\n}\n", quoteSize(b.env.copySize))

	p("\n# `twinkeel keys generate keys/dev.pem` makes the pair; devices trust keys/dev.pem.pub.\n")
	p("signer \"file\" \"dev\" {\nprivate_key = \"keys/dev.pem\"\n}\n")

	version := "${var.version}"
	if b.buildID {
		version = "${coalesce(var.version, " + source + ".build_id, \"0\")}"
	}
	prefix := b.image
	if len(prefix) > 80 {
		prefix = prefix[:80]
	}
	p("\n# The update: its name is the release, and never names other content again.\nartifact \"os\" {\n")
	p("name = \"%s-%s\"\ndevice_types = [device_type.%s]\nsigner = signer.file.dev\n", prefix, version, b.name)
	p("payload \"rootfs-image\" {\nfile = %s.rootfs\n}\n}\n", source)

	p("\n# The disk image for flashing: slot A holds the release above.\nimage %s {\n", quote(b.name))
	p("device_type = device_type.%s\nartifact = artifact.os\nserver = server.main\n", b.name)
	if b.loader != nil {
		p("fill \"bootloader\" {\nfile = \"${%s.deploy_dir}/%s\"\n}\n", source, strings.Trim(quote(b.loader.fill), `"`))
	}
	if b.ubootEnv {
		p("fill \"uboot_env\" {\nfile = %s.uboot_env\n}\n", source)
	}
	if b.bootFiles {
		p("fill \"boot\" {\nfiles = %s.boot_files\n}\n", source)
	}
	p("fill \"rootfs\" {\nfile = %s.rootfs\n}\n}\n", source)

	p("\nserver \"main\" {\nurl = %s\n}\n", quote(b.server))
	p("\n# How a release reaches the fleet. `twinkeel rollout start` begins it.\nrollout \"os\" {\n")
	p("server = server.main\nartifacts = [artifact.os]\nfailure_threshold = \"5%%\"\non_failure = \"pause\"\n")
	p("phase \"canary\" {\ncount = 1\nsoak = \"1h\"\n}\nphase \"everyone\" {\npercent = 100\n}\n}\n")
}
