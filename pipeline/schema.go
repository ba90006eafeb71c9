package pipeline

import (
	"slices"

	"github.com/zclconf/go-cty/cty"
)

// blockSchema describes one kind of block, at the top of a file or inside another block. The tables below are the only
// description of the language: decoding, checks, suggestions and documentation all read them.
type blockSchema struct {
	Kind  string
	Doc   string
	Label string // what the last label is called; empty: the block has none
	Attrs []*attrSchema
	// Blocks are the nested kinds.
	Blocks []*blockSchema

	// Types, when set, are the values of a label that comes before Label (at the top) or in its place (nested) and
	// chooses among sets of arguments.
	Types []*typeSchema

	// Min and Max bound how often a nested block may appear; Max 0 means any number.
	Min, Max int

	// The rest matters at the top only.
	ForEach bool
	Refers  bool            // has an address that expressions may use
	Exposes []exposedSchema // what references see beside the arguments
	Once    bool            // at most one in a pipeline

	object cty.Type // of a reference's value; see objectTypes
}

// typeSchema is one type of a block whose kind has several.
type typeSchema struct {
	Name   string
	Doc    string
	Attrs  []*attrSchema
	Blocks []*blockSchema
	Also   []string // what it exposes by the names of arguments of other types
}

// attrSchema describes an argument.
type attrSchema struct {
	Name     string
	Doc      string
	Type     *fieldType
	Required bool
	Default  cty.Value // cty.NilVal: null
	Enum     []string
	// Secret arguments take sensitive values; all others end up in plain sight and refuse them.
	Secret bool
	// Check tells what is wrong with a known value that is not null, or returns "".
	Check func(cty.Value) string
}

// exposedSchema is a value that a block computes.
type exposedSchema struct {
	Name  string
	Doc   string
	Type  cty.Type
	Of    []string // the types that have it; nil: all
	Built bool     // known only after the build
	Known string   // from when, in the words of the reference; empty: see knownFrom
}

func (s *blockSchema) typed() bool { return len(s.Types) > 0 }

func (s *blockSchema) typeNamed(name string) *typeSchema {
	for _, t := range s.Types {
		if t.Name == name {
			return t
		}
	}
	return nil
}

func (s *blockSchema) typeNames() []string {
	names := make([]string, len(s.Types))
	for i, t := range s.Types {
		names[i] = t.Name
	}
	return names
}

// attrs returns the arguments of a block with the given type label.
func (s *blockSchema) attrs(typ string) []*attrSchema {
	all := s.Attrs
	if t := s.typeNamed(typ); t != nil {
		all = slices.Concat(t.Attrs, all)
	}
	return all
}

// blocks returns the nested kinds of a block with the given type label.
func (s *blockSchema) blocks(typ string) []*blockSchema {
	all := s.Blocks
	if t := s.typeNamed(typ); t != nil {
		all = slices.Concat(t.Blocks, all)
	}
	return all
}

// labelNames are the labels of a block at the top, as HCL wants them.
func (s *blockSchema) labelNames() []string {
	var names []string
	if s.typed() {
		names = append(names, "type")
	}
	if s.Label != "" {
		names = append(names, s.Label)
	}
	return names
}

// Meta-arguments.
const (
	metaForEach = "for_each"
	metaDepends = "depends_on"
)

var language = newLanguage()

// languageTable is the language, with the lookups that its users need.
type languageTable struct {
	blocks []*blockSchema
	byKind map[string]*blockSchema
}

func newLanguage() *languageTable {
	l := &languageTable{byKind: make(map[string]*blockSchema)}
	l.blocks = []*blockSchema{
		twinkeelSchema, variableSchema, localsSchema, sourceSchema, layoutSchema, deviceTypeSchema, signerSchema, artifactSchema,
		imageSchema, serverSchema, rolloutSchema, moduleSchema, checkSchema, outputSchema,
	}
	for _, s := range l.blocks {
		l.byKind[s.Kind] = s
		if s.Refers {
			s.object = s.objectType()
		}
	}
	return l
}

func (l *languageTable) kinds() []string {
	kinds := make([]string, len(l.blocks))
	for i, s := range l.blocks {
		kinds[i] = s.Kind
	}
	return kinds
}

// objectType is the type of every block of a kind, whatever its type label: a conditional between objects of differing
// types would silently lose attributes.
func (s *blockSchema) objectType() cty.Type {
	types := map[string]cty.Type{"id": cty.String}
	for _, a := range s.Attrs {
		types[a.Name] = a.Type.cty
	}
	for _, t := range s.Types {
		for _, a := range t.Attrs {
			types[a.Name] = a.Type.cty
		}
	}
	for _, x := range s.Exposes {
		types[x.Name] = x.Type
	}
	delete(types, metaDepends)
	return cty.Object(types)
}

// attributeNames are what may follow a reference to a block of this kind and type. The object has those of all types, null
// where they make no sense.
func (s *blockSchema) attributeNames(typ string) []string {
	names := []string{"id"}
	if t := s.typeNamed(typ); t != nil {
		names = append(names, t.Also...)
	}
	for _, a := range s.attrs(typ) {
		if a.Name != metaDepends {
			names = append(names, a.Name)
		}
	}
	for _, x := range s.Exposes {
		if (x.Of == nil || slices.Contains(x.Of, typ)) && !slices.Contains(names, x.Name) {
			names = append(names, x.Name)
		}
	}
	slices.Sort(names)
	return names
}

func number(n int64) cty.Value { return cty.NumberIntVal(n) }

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
)

const defaultCacheDir = ".twinkeel/cache"

var twinkeelSchema = &blockSchema{
	Kind: "twinkeel", Once: true,
	Doc: "Settings of the pipeline itself. At most one in all its files.",
	Attrs: []*attrSchema{
		{Name: "required_version", Type: tString, Doc: "Versions of twinkeel that can read this pipeline, such as \"~> 0.1\". Checked before anything else; a text without references."},
		{Name: "out_dir", Type: tPath, Default: cty.StringVal("out"), Doc: "Directory of the outputs."},
		{Name: "cache_dir", Type: tPath, Default: cty.StringVal(defaultCacheDir), Doc: "Directory of the cache of what was built; TWINKEEL_CACHE_DIR in the environment wins. Several pipelines may share it."},
		{Name: "builder", Type: tString, Doc: "URI of who builds, for statements of provenance, such as https://ci.example.com/ota; by default a person's machine."},
	},
}

var variableSchema = &blockSchema{
	Kind: "variable", Label: "name",
	Doc: "An input of the pipeline: --var, --var-file, TWINKEEL_VAR_name or a *.auto.twinkeelvars.hcl file give its value.",
	Attrs: []*attrSchema{
		{Name: "type", Type: tType, Doc: "Type constraint, such as string or list(object({ name = string, size = optional(number, 1) })); any type without."},
		{Name: "default", Type: tAny, Doc: "Value when none is given; without it the variable is required. May use functions, env() among them, and no references."},
		{Name: "description", Type: tString, Doc: "What the variable is for."},
		{Name: "sensitive", Type: tBool, Default: cty.False, Doc: "Hides the value in all output. Only arguments marked as taking secrets accept it."},
		{Name: "nullable", Type: tBool, Default: cty.True, Doc: "Whether null is a value; when false, null means the default."},
		{Name: "deprecated", Type: tString, Doc: "Warning for whoever still sets the variable: what to use instead."},
	},
	Blocks: []*blockSchema{{
		Kind: "validation",
		Doc:  "A condition that the value must meet.",
		Attrs: []*attrSchema{
			{Name: "condition", Type: tBool, Required: true, Doc: "True when the value is good. May refer to other variables, too."},
			{Name: "error_message", Type: tString, Required: true, Doc: "What to tell when it is not."},
		},
	}},
}

var localsSchema = &blockSchema{Kind: "locals", Doc: "Named values: any names, any expressions, read as local.NAME. There may be several such blocks."}

var sourceSchema = &blockSchema{
	Kind: "source", Label: "name", ForEach: true, Refers: true,
	Doc: "Something that artifacts and images are made of: what another build made, what a server has, or what a command makes. Sources of the types http and exec, dir with globs and yocto with a compressed image make files before the rest of a build; their outputs are below .twinkeel/sources.",
	Types: []*typeSchema{
		{
			Name: "yocto", Doc: "An image in a Yocto deploy directory (tmp/deploy/images/MACHINE).",
			Attrs: []*attrSchema{
				{Name: "deploy_dir", Type: tPath, Required: true, Doc: "The deploy directory of the machine. Everything that is taken from it must lie inside it."},
				{Name: "machine", Type: tName, Required: true, Doc: "MACHINE of the build, such as qemux86-64."},
				{Name: "image", Type: tName, Required: true, Doc: "Name of the image recipe, such as core-image-minimal."},
				{Name: "rootfs_types", Type: listOf(tName), Default: strings2list("ext4", "squashfs", "erofs"), Check: notEmpty, Doc: "Kinds of root file system, best first; the first one that is there is taken."},
				{Name: "kernel", Type: tPath, Doc: "Name or glob of the kernel in the deploy directory; by default the one that KERNEL_IMAGETYPE names, or null."},
				{Name: "boot_files", Type: mapOf(tPath), Doc: "Files of the boot partition: name there = name or glob in the deploy directory; by default what IMAGE_BOOT_FILES says."},
			},
		},
		{
			Name: "file", Doc: "A file, whoever made it.",
			Attrs: []*attrSchema{
				{Name: "path", Type: tPath, Required: true, Doc: "The file."},
				{Name: "sha256", Type: tString, Check: checkSHA256, Doc: "What its SHA-256 must be: 64 hexadecimal digits in lower case. Not checked without; references then see what it is."},
			},
		},
		{
			Name: "dir", Doc: "A directory, or a part of it.",
			Attrs: []*attrSchema{
				{Name: "path", Type: tPath, Required: true, Doc: "The directory. Links in it must not lead out of it."},
				{Name: "include", Type: listOf(tString), Doc: "Globs of what to take, relative to the directory; ** stands for any directories, and a directory for all below it. By default everything."},
				{Name: "exclude", Type: listOf(tString), Doc: "Globs of what to leave out of that. When something is left out, references to path get a copy of the rest."},
			},
		},
		{
			Name: "http", Also: []string{"path"}, Doc: "A file from a server. It is fetched when something is built that needs it, once, and checked before anybody sees it.",
			Attrs: []*attrSchema{
				{Name: "url", Type: tString, Required: true, Check: checkFetchURL, Doc: "Where it is: https, or http together with sha256."},
				{Name: "sha256", Type: tString, Check: checkSHA256, Doc: "What its SHA-256 must be: 64 hexadecimal digits in lower case; by default what .twinkeel.lock.hcl says, which \"twinkeel init --upgrade\" writes."},
				{Name: "headers", Type: mapOf(tString), Secret: true, Doc: "Headers of the request, such as { Authorization = \"Bearer ${var.token}\" }. They go to the host of the URL alone, also when that redirects to another."},
				{Name: "max_size", Type: tSize, Default: number(16 * gib), Check: checkPositive, Doc: "How large the file may be."},
				attrSourceDepends,
			},
		},
		{
			Name: "exec", Doc: "What a command makes. It runs when something is built that needs it and its inputs, its environment or itself changed. Who builds a pipeline runs its commands; build --no-exec refuses to.",
			Attrs: []*attrSchema{
				{Name: "command", Type: listOf(tString), Required: true, Check: notEmpty, Doc: "The program and its arguments. No shell reads them; [\"sh\", \"-c\", \"...\"] is one."},
				{Name: "outputs", Type: mapOf(tPath), Required: true, Doc: "Files that it makes: a name for references = path below the directory that the environment variable OUT names, which is empty when the command starts. References see where the files are."},
				{Name: "inputs", Type: listOf(tPath), Doc: "What it reads: files, directories and globs, in which ** stands for any directories. When one of them changes the command runs again. Outputs of other sources in the command line count without being named."},
				{Name: "environment", Type: mapOf(tString), Secret: true, Doc: "Further environment variables. Beside them the command sees PATH, HOME, LANG=C.UTF-8, TZ=UTC, SOURCE_DATE_EPOCH and OUT. A change makes it run again, but not of sensitive values."},
				{Name: "dir", Type: tPath, Doc: "Where it runs; by default the pipeline's directory."},
				attrSourceDepends,
			},
		},
	},
	Exposes: []exposedSchema{
		{Name: "rootfs", Type: cty.String, Of: []string{"yocto"}, Doc: "Path of the root file system (yocto)."},
		{Name: "rootfs_type", Type: cty.String, Of: []string{"yocto"}, Doc: "Kind of the root file system, one of rootfs_types (yocto)."},
		{Name: "rootfs_size", Type: cty.Number, Of: []string{"yocto"}, Doc: "Apparent size of the root file system in bytes (yocto)."},
		{Name: "uboot_env", Type: cty.String, Of: []string{"yocto"}, Doc: "Path of u-boot-initial-env, U-Boot's built-in variables as text, or null (yocto)."},
		{Name: "manifest", Type: cty.String, Of: []string{"yocto"}, Doc: "Path of the package manifest, or null (yocto)."},
		{Name: "testdata", Type: cty.String, Of: []string{"yocto"}, Doc: "Path of the .testdata.json file, or null (yocto)."},
		{Name: "sbom", Type: cty.String, Of: []string{"yocto"}, Doc: "Path of what a bill of materials can be made of: the build's SPDX document, else the package manifest, or null (yocto)."},
		{Name: "packages", Type: cty.Map(cty.String), Of: []string{"yocto"}, Doc: "Versions of the packages in the image, by name (yocto)."},
		{Name: "distro_version", Type: cty.String, Of: []string{"yocto"}, Doc: "DISTRO_VERSION of the build, or null (yocto)."},
		{Name: "build_id", Type: cty.String, Of: []string{"yocto"}, Doc: "Date in the name of the output, YYYYMMDDHHMMSS, or null (yocto)."},
		{Name: "size", Type: cty.Number, Of: []string{"file", SourceHTTP}, Doc: "Size in bytes (file; http, when the file is there)."},
		{Name: "rootfs_sha256", Type: cty.String, Of: []string{"yocto"}, Doc: "SHA-256 of the root file system; of a compressed one it is known after the build, and null as long as nothing in the pipeline names this attribute (yocto)."},
		{Name: "variables", Type: cty.Map(cty.String), Of: []string{"yocto"}, Doc: "Variables of the build: MACHINE, DISTRO, DISTRO_VERSION, DISTRO_CODENAME, IMAGE_BASENAME, KERNEL_IMAGETYPE and all that begin with MENDER_ (yocto)."},
		{Name: "files", Type: cty.List(cty.String), Of: []string{"dir"}, Doc: "Names of the files and links, relative to path, sorted (dir)."},
		{Name: "tree_sha256", Type: cty.String, Of: []string{"dir"}, Doc: "SHA-256 over the names and contents of files; null as long as nothing in the pipeline names this attribute (dir)."},
	},
}

var (
	attrFilesystem = &attrSchema{Name: "filesystem", Type: tString, Enum: []string{"ext4", "vfat", "squashfs", "erofs", "ubifs", "none"}, Default: cty.StringVal("none"), Doc: "File system of the partition. ext4 and vfat are made, or come as images like squashfs and erofs; an image that is compressed is unpacked on the way, and must hold this file system. none is for content that is copied as it is, compressed or not. On raw flash ubifs, and on nothing else."}
	attrSlotsFS    = &attrSchema{Name: "filesystem", Type: tString, Enum: []string{"ext4", "squashfs", "erofs", "ubifs", "none"}, Required: true, Doc: "File system of both slots, as for partition; none for others, which are copied as they are and therefore must not be compressed. On raw flash ubifs, and on nothing else."}
	attrSize       = &attrSchema{Name: "size", Type: tSize, Required: true, Check: checkPositive, Doc: "Size, such as \"64MiB\"; more than zero."}
)

// Arguments of partitions and slots.
var (
	attrExtent     = &attrSchema{Name: "size", Type: tExtent, Required: true, Check: checkExtent, Doc: "Size, such as \"64MiB\", a share of disk_size such as \"25%\", or \"rest\" for what the others leave of it. Of slots: the size of each."}
	attrOffset     = &attrSchema{Name: "offset", Type: tSize, Check: checkPositive, Doc: "Where it starts; by default at the next free place."}
	attrAlign      = &attrSchema{Name: "align", Type: tSize, Check: checkAlignment, Doc: "In the place of the layout's alignment."}
	attrUUID       = &attrSchema{Name: "uuid", Type: tString, Doc: "GUID of the partition (PARTUUID), GPT only; by default one that follows from the names."}
	attrAttributes = &attrSchema{Name: "attributes", Type: listOf(tString), Doc: "GPT only: required, no-block-io, legacy-boot, read-only, hidden, no-automount, grow-filesystem, or numbers of bits."}
	attrMBRType    = &attrSchema{Name: "mbr_type", Type: tString, Doc: "Type in an MBR: two hexadecimal digits such as \"0c\", or a name; by default after the file system."}
	attrLogical    = &attrSchema{Name: "logical", Type: tBool, Default: cty.False, Doc: "MBR only: inside the extended partition. If none is set, it holds the fourth and further partitions when there are more than four."}
	attrInMBR      = &attrSchema{Name: "in_mbr", Type: tBool, Default: cty.False, Doc: "Hybrid only: listed in the MBR, too; up to three can be."}
)

var layoutSchema = &blockSchema{
	Kind: "layout", Label: "name", ForEach: true, Refers: true,
	Doc: "How a disk, or raw flash, is divided. Partitions are numbered in the order in which they stand.",
	Attrs: []*attrSchema{
		{Name: "preset", Type: tString, Enum: []string{"sdimg", "uefiimg", "gptimg", "biosimg", "mender-convert-grub", "mender-convert-uboot"}, Doc: "A layout of Mender's in place of all else: the disk images of those names, with the same offsets and sizes, from the variables of the build."},
		{Name: "variables", Type: mapOf(tString), Doc: "Variables of the build for preset, such as source.yocto.NAME.variables: MENDER_STORAGE_TOTAL_SIZE_MB, MENDER_PARTITION_ALIGNMENT and the like. Those that are missing have Mender's defaults."},
		{Name: "table", Type: tString, Enum: []string{"gpt", "mbr", "hybrid"}, Default: cty.StringVal("gpt"), Doc: "Kind of partition table. A hybrid is a GPT whose MBR lists the partitions with in_mbr, too, for boot ROMs that read nothing else. An MBR with more than four partitions has an extended one for the fourth and further."},
		{Name: "sector_size", Type: tInt, Default: number(sector), Check: checkSectorSize, Doc: "Logical sector of the disk: 512 or 4096 bytes."},
		{Name: "alignment", Type: tSize, Default: number(mib), Check: checkAlignment, Doc: "Partitions start at multiples of it: a power of two, from 512 bytes to 1GiB."},
		{Name: "disk_size", Type: tSize, Check: checkPositive, Doc: "Size of the disk image; by default as small as the partitions allow."},
		{Name: "disk_id", Type: tString, Doc: "Identity of the disk: a GUID, or the 8 hexadecimal digits of an MBR's signature. By default one that follows from the names of image and device type."},
	},
	Blocks: []*blockSchema{
		{
			Kind: "gpt", Max: 1,
			Doc: "What is unusual about a GPT, for chips that look for their boot loader where a table usually is.",
			Attrs: []*attrSchema{
				{Name: "entries", Type: tInt, Check: checkPositive, Doc: "How many partitions it has room for, by default 128. With 56 it ends at 8KiB."},
				{Name: "entries_offset", Type: tSize, Check: checkPositive, Doc: "Where the entries of the primary table are; by default behind the header. The header is always in sector 1."},
				{Name: "backup", Type: tBool, Default: cty.True, Doc: "Whether there is a copy at the end of the disk. Without one, a damaged table is the end of the data."},
			},
		},
		{
			Kind: "ubi", Max: 1,
			Doc: "Raw NAND or NOR flash in place of a disk. There is no table then, and partitions and slots are UBI volumes, numbered from 0: they have a size, which is rounded up to whole blocks, no place, and no other arguments but filesystem, mount and grow, which lets one volume take the rest of the flash. The slots are called NAMEa and NAMEb, as Mender's U-Boot expects. Images have the format ubi, made by ubinize and mkfs.ubifs. The bundled agent cannot write volumes so far; Mender's clients can.",
			Attrs: []*attrSchema{
				{Name: "erase_block", Type: tSize, Required: true, Check: checkPositive, Doc: "Size of a physical erase block (/sys/class/mtd/mtdN/erasesize)."},
				{Name: "page", Type: tSize, Required: true, Check: checkPositive, Doc: "Smallest write (writesize); 1 for NOR."},
				{Name: "sub_page", Type: tSize, Check: checkPositive, Doc: "Smallest write inside a page (subpagesize), where the second header goes; by default a page. A kernel attaches no image that was made for another."},
				{Name: "blocks", Type: tInt, Required: true, Check: checkPositive, Doc: "Number of erase blocks of the MTD partition. UBI keeps four, and on NAND 20 of every 1024 for bad ones."},
				{Name: "compression", Type: tString, Enum: []string{"lzo", "zlib", "zstd", "none"}, Default: cty.StringVal("lzo"), Doc: "Compression of the UBIFS that are made; what the kernel has must include it."},
				{Name: "space_fixup", Type: tBool, Default: cty.False, Doc: "Whether a UBIFS that is made repairs its free space at the first mount: needed if what writes the flash does not skip empty pages, as ubiformat does."},
			},
		},
		{
			Kind: "reserve", Label: "name",
			Doc: "An area outside every partition, such as the boot loader's environment. What lies at offset 0 and has at most 440 bytes is the boot code of the first sector; of a file of a whole sector, such as GRUB's boot.img, it takes the beginning.",
			Attrs: []*attrSchema{
				{Name: "offset", Type: tSize, Required: true, Check: checkNotNegative, Doc: "Where it starts, from the beginning of the disk."},
				attrSize,
				{Name: "align", Type: tSize, Check: checkPositive, Doc: "What offset must be a multiple of; by default a sector. With 1 it may be anywhere and of any size."},
			},
			Blocks: []*blockSchema{{
				Kind: "hole",
				Doc:  "A part of the reserve that belongs to something else, such as the partition table inside a boot loader's image.",
				Attrs: []*attrSchema{
					{Name: "offset", Type: tSize, Required: true, Check: checkNotNegative, Doc: "Where it starts, from the beginning of the disk."},
					attrSize,
				},
			}},
		},
		{
			Kind: "partition", Label: "name",
			Doc: "A partition.",
			Attrs: []*attrSchema{
				attrExtent, attrOffset, attrAlign, attrFilesystem,
				{Name: "label", Type: tString, Doc: "Label of the file system: at most 16 bytes for ext4, 11 characters for vfat."},
				{Name: "type", Type: tString, Doc: "Type of the partition: a GUID, or a name such as basic-data, bios-boot, esp, linux, reserved, swap, xbootldr, u-boot-env, and those that systemd finds by themselves: home, srv, tmp, var, root-ARCH and usr-ARCH (root-arm64, root-x86-64, each also with -verity and -verity-sig). By default esp for a bootable vfat, basic-data for another vfat, else linux."},
				attrUUID, attrAttributes, attrMBRType, attrLogical, attrInMBR,
				{Name: "mount", Type: tString, Check: checkMount, Doc: "Where the device mounts it, an absolute path. What the agent needs goes onto the one with \"/data\"."},
				{Name: "bootable", Type: tBool, Default: cty.False, Doc: "Whether the firmware boots from it; sets the attribute that U-Boot looks for."},
				{Name: "grow", Type: tBool, Default: cty.False, Doc: "Whether it takes the rest of disk_size, beyond its size; without disk_size, whether the device lets it grow to the end of its disk. The last partition alone can, or any one volume of raw flash."},
			},
		},
		{
			Kind: "slots", Label: "name", Max: 1,
			Doc: "The pair of equal partitions NAME_a and NAME_b (on raw flash the volumes NAMEa and NAMEb) that hold the running and the next system. Every layout without a preset has it.",
			Attrs: []*attrSchema{
				attrExtent,
				{Name: "offset", Type: tSize, Check: checkPositive, Doc: "Where NAME_a starts; by default at the next free place. NAME_b follows it."},
				attrAlign, attrSlotsFS,
				{Name: "type", Type: tString, Doc: "Type of both partitions: a GUID or a name, as for partition; by default linux."},
				attrAttributes, attrMBRType, attrLogical, attrInMBR,
			},
		},
	},
	Exposes: []exposedSchema{
		{Name: "partitions", Type: cty.List(partitionObject), Doc: "All partitions in order, slots as two: name, number in the table, start and size in bytes, filesystem and mount, which is null where there is none; on raw flash start is null, too."},
		{Name: "slot_size", Type: cty.Number, Doc: "Size of one slot in bytes."},
	},
}

var partitionObject = cty.Object(map[string]cty.Type{
	"name": cty.String, "number": cty.Number, "start": cty.Number, "size": cty.Number, "filesystem": cty.String, "mount": cty.String,
})

var deviceTypeSchema = &blockSchema{
	Kind: "device_type", Label: "name", ForEach: true, Refers: true,
	Doc: "A kind of device: what artifacts are for and images are made of.",
	Attrs: []*attrSchema{
		{Name: "type", Type: tName, Doc: "What the device calls itself; by default the block's label."},
		{Name: "compatible", Type: listOf(tName), Doc: "Further names under which devices of this type report themselves; artifacts for it name them too."},
		{Name: "architecture", Type: tString, Required: true, Enum: []string{"amd64", "arm64", "arm", "386", "riscv64"}, Doc: "Its processor; arm is 32 bits, arm64 64."},
		{Name: "layout", Type: refTo("layout"), Required: true, Doc: "The layout of its disk."},
		{Name: "clients", Type: listOf(tString), Check: checkClients, Doc: "Update clients on the devices in the field: twinkeel (the bundled agent), mender-3 (up to 3.x) and mender-4. They decide which compression artifacts get by default: zstd when all of them read it, which mender-3 does not; without this argument gzip, which all do."},
		{Name: "storage_device", Type: tString, Check: checkDevice, Doc: "The disk on the device, such as /dev/sda: names of partitions follow from it. By default what the layout's preset says, else /dev/mmcblk0. Of raw flash the UBI device, by default /dev/ubi0."},
	},
	Blocks: []*blockSchema{{
		Kind: "bootloader", Min: 1, Max: 1,
		Doc: "What chooses the slot at boot.",
		Types: []*typeSchema{{
			Name: "grub-efi", Doc: "GRUB on UEFI with the scripts of grub-mender-grubenv, which keep the environment in files on the EFI system partition. They are made with the image; the loader and its configuration come with a fill.",
			Attrs: []*attrSchema{
				{Name: "partition", Type: tString, Doc: "Name of the layout's EFI system partition: a vfat with a mount, by default the bootable one."},
				{Name: "loader", Type: tString, Check: checkLoader, Doc: "Path of the loader on it; by default that which firmware looks for, such as EFI/BOOT/BOOTX64.EFI on amd64."},
			},
		}, {
			Name: "grub-bios", Doc: "GRUB on a PC's BIOS with the scripts of grub-mender-grubenv, which keep the environment in files on the boot partition. They are made with the image; boot.img and core.img go into reserves, and what they load onto the partition with a fill.",
			Attrs: []*attrSchema{
				{Name: "partition", Type: tString, Doc: "Name of the layout's boot partition: a vfat or ext4 with a mount, by default the one mounted at /boot/grub."},
			},
		}, {
			Name: "u-boot", Doc: "U-Boot with its environment in a reserve of the layout.",
			Attrs: []*attrSchema{
				{Name: "environment", Type: tString, Doc: "Name of the layout's reserve that holds it. On raw flash NAME of the volume, or with redundant of the volumes NAME-1 and NAME-2, for which a fill of NAME is. Required, unless the layout's preset says where the environment is."},
				{Name: "environment_size", Type: tSize, Check: checkEnvironmentSize, Doc: "Size of one copy of the environment (CONFIG_ENV_SIZE). By default what the layout's preset says, else 64KiB."},
				{Name: "redundant", Type: tBool, Default: cty.True, Doc: "Whether there are two copies, one where the reserve begins (CONFIG_ENV_OFFSET) and one where its second half begins (CONFIG_ENV_OFFSET_REDUND), so that a power cut while one is written loses nothing. Mender's U-Boot integration needs it. A preset says itself where the two are."},
				{Name: "script_vars", Type: mapOf(tString), Doc: "Further variables of the first environment, in place of those of that name in U-Boot's built-in ones. Those that the update itself uses (mender_..., upgrade_available, bootcount, bootlimit) are refused. An image then needs a fill of the environment's reserve with u-boot-initial-env."},
			},
		}},
	}},
	Exposes: []exposedSchema{{Name: "slot_size", Type: cty.Number, Doc: "Size of one slot in bytes."}},
}

var signerSchema = &blockSchema{
	Kind: "signer", Label: "name", Refers: true,
	Doc: "A key that signs artifacts: P-256, or RSA with 2048 bits or more. It is used only when something is built that names it.",
	Types: []*typeSchema{
		{
			Name: "file", Doc: "A private key in a PEM file, as \"twinkeel keys generate\" makes it.",
			Attrs: []*attrSchema{
				{Name: "private_key", Type: tPath, Doc: "The file; it, or private_key_env, must be there."},
				{Name: "private_key_env", Type: tString, Check: checkVariableName, Doc: "Name of an environment variable that holds the PEM text itself, for CI systems that give secrets so."},
				{Name: "passphrase", Type: tString, Secret: true, Doc: "Passphrase of an encrypted key; by default that in TWINKEEL_KEY_PASSPHRASE."},
			},
		},
		{
			Name: "kms", Doc: "A key in a key management service. Credentials come from where that service's own tools take them.",
			Attrs: []*attrSchema{
				{Name: "uri", Type: tString, Required: true, Check: checkKMS, Doc: "Where the key is: awskms://, gcpkms://, azurekms:// or hashivault://, such as awskms:///alias/ota."},
			},
		},
		{
			Name: "pkcs11", Doc: "A key in a hardware module or smart card.",
			Attrs: []*attrSchema{
				{Name: "uri", Type: tString, Required: true, Check: checkPKCS11, Doc: "Which key, as in RFC 7512: pkcs11:token=fleet;object=ota. It holds no PIN."},
				{Name: "module", Type: tPath, Doc: "The vendor's PKCS #11 library (.so), unless the URI names it as module-path."},
				{Name: "pin", Type: tString, Secret: true, Doc: "The token's PIN; by default that in TWINKEEL_PKCS11_PIN."},
			},
		},
		{
			Name: "ssh-agent", Doc: "A key that a running ssh-agent holds (SSH_AUTH_SOCK).",
			Attrs: []*attrSchema{
				{Name: "key", Type: tString, Doc: "Its fingerprint (SHA256:...) or comment; not needed when the agent has one suitable key."},
			},
		},
		{
			Name: "command", Doc: "A program that signs: it reads the message on stdin and writes the signature to stdout.",
			Attrs: []*attrSchema{
				{Name: "command", Type: listOf(tString), Required: true, Check: notEmpty, Doc: "The program and its arguments, run in the pipeline's directory. No shell is involved."},
				{Name: "public_key", Type: tPath, Required: true, Doc: "PEM file with the public key, against which each signature is checked."},
			},
		},
	},
	Exposes: []exposedSchema{
		{Name: "key_id", Type: cty.String, Known: "plan", Doc: "Identity of the public key, as \"twinkeel keys fingerprint\" shows it. Known in a plan when the public key lies beside the private one as FILE.pub, or the block names it; otherwise once something is built with it, for no plan opens a key."},
		{Name: "public_key", Type: cty.String, Known: "plan", Doc: "The public key as PEM text; known when key_id is. For all types alike, so of a command it is not the path that the argument has."},
	},
}

var attrDependsOn = &attrSchema{Name: metaDepends, Type: listOf(refTo("artifact", "image", "rollout", "source")), Doc: "What must be done first, beside what the block refers to anyway. A source that only says what is there needs nothing done."}

// attrSourceDepends is for sources, which run before everything else.
var attrSourceDepends = &attrSchema{Name: metaDepends, Type: listOf(refTo("source")), Doc: "Sources that must have run first, beside those whose outputs it reads."}

var payloadSchema = &blockSchema{
	Kind: "payload", Label: "type", Min: 1, Max: 1,
	Doc: "What is in it: rootfs-image, bootstrap (nothing: it only sets what the device provides), or the name of an update module, which so far Mender's clients run and the bundled agent refuses. single-file, directory, script, deb, rpm, docker, docker-compose and app get their files in the form that those modules expect; others get them as they are.",
	Attrs: []*attrSchema{
		{Name: "file", Type: tPath, Doc: "The file to install. For rootfs-image it must fit into the slots and hold their file system."},
		{Name: "files", Type: listOf(tPath), Doc: "The files to install, for update modules that take several."},
		{Name: "directory", Type: tPath, Doc: "Directory to install (directory), or with the Compose file and what it refers to (docker-compose, app)."},
		{Name: "destination", Type: tString, Check: checkPlain, Doc: "Absolute path on the device (single-file, directory). For a single file it is the file's, or with a slash at its end the directory's."},
		{Name: "file_name", Type: tString, Check: checkPlain, Doc: "Name of the file on the device, if it is not the one it has here (single-file)."},
		{Name: "mode", Type: tString, Check: checkPlain, Doc: "Permissions of the file on the device, in octal, such as \"0644\" (single-file)."},
		{Name: "keep_owners", Type: tBool, Doc: "Whether the numeric owners of the files are kept; else all belong to root (directory)."},
		{Name: "images", Type: listOf(tString), Check: checkPlain, Doc: "Container images that the device pulls and runs (docker)."},
		{Name: "image_files", Type: listOf(tPath), Doc: "Archives of container images (docker-compose, app)."},
		{Name: "compose_files", Type: listOf(tPath), Doc: "The Compose file and files it refers to, in the place of directory (docker-compose, app)."},
		{Name: "project", Type: tString, Check: checkPlain, Doc: "Name of the Compose project (docker-compose, app)."},
		{Name: "platform", Type: tString, Check: checkPlain, Doc: "Platform of the images, such as linux/arm64 (app)."},
		{Name: "run_args", Type: tString, Check: checkPlain, Doc: "Arguments of docker run (docker)."},
		{Name: "meta_data", Type: tAny, Doc: "An object with what the update module wants to know. Not for rootfs-image."},
	},
}

var artifactSchema = &blockSchema{
	Kind: "artifact", Label: "name", ForEach: true, Refers: true,
	Doc: "A Mender artifact: what devices download and install.",
	Attrs: []*attrSchema{
		{Name: "name", Type: tName, Required: true, Doc: "Name of the release, as devices report it. It may be the same for several device types, and never names other content again."},
		{Name: "device_types", Type: listOf(refTo("device_type")), Required: true, Check: notEmpty, Doc: "The device types that it fits; at least one."},
		{Name: "signer", Type: refTo("signer"), Doc: "Who signs it. Without one it is unsigned, and devices refuse it."},
		{Name: "provides", Type: mapOf(tString), Check: checkPlain, Doc: "What the device provides once it is installed, beside the defaults of the payload's type."},
		{Name: "depends", Type: mapOf(tString), Check: checkPlain, Doc: "What the device must provide before it takes the artifact."},
		{Name: "clears_provides", Type: listOf(tString), Check: checkPlain, Doc: "Globs of what the device no longer provides once it is installed; by default those of the payload's type."},
		{Name: "group", Type: tName, Doc: "Artifact group that it provides."},
		{Name: "scripts", Type: listOf(tPath), Doc: "State scripts, named as in ArtifactInstall_Enter_00_stop. Mender's clients run them; the bundled agent refuses such artifacts so far."},
		{Name: "default_provides", Type: tBool, Default: cty.True, Doc: "Whether it provides what Mender's tool adds for the payload's type: a version, and the checksum of a root file system."},
		{Name: "compress", Type: tString, Enum: []string{"none", "gzip", "xz", "zstd"}, Doc: "Compression of the payload; by default zstd when the clients of all device_types are known to read it, else gzip."},
		{Name: "compress_level", Type: tInt, Check: checkLevel, Doc: "Effort of the compression: 1 to 9 for gzip and xz, 1 to 19 for zstd; by default 6, 6 and 3."},
		{Name: "provenance", Type: tBool, Default: cty.False, Doc: "Whether a signed statement of provenance (in-toto, SLSA) is written beside it. The artifact provides the statement's checksum."},
		{Name: "sbom", Type: tPath, Doc: "Bill of materials to put beside it: an SPDX or CycloneDX document in JSON, or a Yocto package manifest (source.yocto.NAME.sbom), of which one is made. The artifact provides its checksum."},
		attrDependsOn,
	},
	Blocks: []*blockSchema{
		payloadSchema,
		{
			Kind: "software", Max: 1,
			Doc: "Which software the default provides are about: FILESYSTEM.NAME.version.",
			Attrs: []*attrSchema{
				{Name: "filesystem", Type: tName, Doc: "In the place of rootfs-image."},
				{Name: "name", Type: tName, Doc: "In the place of the payload's type."},
				{Name: "version", Type: tString, Doc: "In the place of the artifact's name."},
			},
		},
	},
	Exposes: []exposedSchema{
		{Name: "path", Type: cty.String, Doc: "Path of the artifact, relative to the pipeline's directory."},
		{Name: "size", Type: cty.Number, Built: true, Doc: "Size in bytes."},
		{Name: "sha256", Type: cty.String, Built: true, Doc: "SHA-256 of the artifact."},
		{Name: "signed", Type: cty.Bool, Doc: "Whether it has a signer."},
	},
}

var imageSchema = &blockSchema{
	Kind: "image", Label: "name", ForEach: true, Refers: true,
	Doc: "An image of a disk or of raw flash, for flashing.",
	Attrs: []*attrSchema{
		{Name: "device_type", Type: refTo("device_type"), Required: true, Doc: "The device type that it is for."},
		{Name: "artifact", Type: refTo("artifact"), Required: true, Doc: "The release that slot A holds, for the same device type; the device reports its name, and trusts the key that signed it."},
		{Name: "server", Type: refTo("server"), Doc: "The server that the device asks for updates; without one it asks none."},
		{Name: "whole_sha256", Type: tBool, Default: cty.False, Doc: "Whether raw images above 4 GiB, and contents of partitions above it, get their SHA-256 as smaller ones do. All their zeros are read for that, about a second for each 2 GiB of the disk; without it a digest without zeros (sparse_sha256) stands in out/twinkeel.json."},
		{Name: "formats", Type: listOf(tString), Check: checkFormats, Doc: "What to write, all in one pass; by default raw and bmap, for raw flash ubi, which is all there is then: raw (a sparse file), bmap (the block map, which makes flashing quick and checks it), gz, xz and zst (the raw image, compressed), android-sparse (for fastboot), qcow2 (for virtual machines) and ubi (for ubiformat)."},
		attrDependsOn,
	},
	Blocks: []*blockSchema{{
		Kind: "fill", Label: "partition",
		Doc: "What goes into a partition: one of file, files, dir, tar and empty. The name of the slots fills slot A. An ext4 or vfat that nothing fills is an empty file system; a ubifs an empty volume, in which the kernel makes one.",
		Attrs: []*attrSchema{
			{Name: "file", Type: tPath, Doc: "A file system image, copied as it is; one that is compressed (gz, bz2, xz, zst, lz4) is unpacked on the way."},
			{Name: "files", Type: mapOf(tPath), Doc: "Files: path in the file system, without a slash in front = path here. They belong to root, with mode 0644."},
			{Name: "dir", Type: tPath, Doc: "A directory whose content goes in, with modes, links, devices and extended attributes (user.*, security.capability and ACLs)."},
			{Name: "tar", Type: tPath, Doc: "A tar archive whose content goes in with owners, modes, devices, links and extended attributes; it may be compressed."},
			{Name: "owners", Type: tString, Enum: []string{"keep", "root"}, Doc: "To whom the files of dir or tar belong: those who own them here (keep), or root. By default root for dir, whose files belong to whoever has built them, and keep for tar."},
			{Name: "empty", Type: tBool, Default: cty.False, Doc: "Nothing: an empty file system, or zeros where there is none."},
			{Name: "both", Type: tBool, Default: cty.False, Doc: "Whether slot B gets the same. For slots only."},
		},
	}},
	Exposes: []exposedSchema{
		{Name: "path", Type: cty.String, Doc: "Path of the image, relative to the pipeline's directory: the raw one, or else the first of formats."},
		{Name: "paths", Type: cty.Map(cty.String), Doc: "Paths of all that is written, by format."},
		{Name: "size", Type: cty.Number, Built: true, Doc: "Size of the file at path in bytes."},
		{Name: "sha256", Type: cty.String, Built: true, Doc: "SHA-256 of the file at path; null of a raw image above 4GiB, whose zeros would cost more than all else."},
	},
}

var serverSchema = &blockSchema{
	Kind: "server", Label: "name", Refers: true,
	Doc: "An update server.",
	Attrs: []*attrSchema{
		{Name: "url", Type: tString, Required: true, Check: checkURL, Doc: "Where it is, such as https://ota.example.com: scheme, host and path alone."},
		{Name: "token", Type: tString, Secret: true, Doc: "Access token for the management API; by default that in TWINKEEL_TOKEN."},
		{Name: "ca_certificate", Type: tPath, Doc: "PEM file with the certificates to trust, beside the system's. Images carry it to the devices."},
		{Name: "client_certificate", Type: tPath, Doc: "PEM file with the certificate, and its chain, that this program shows to a server that asks for one (mTLS). Devices do not get it."},
		{Name: "client_key", Type: tPath, Doc: "PEM file with the unencrypted private key of client_certificate; only its owner may be able to read it."},
	},
}

var rolloutSchema = &blockSchema{
	Kind: "rollout", Label: "name", ForEach: true, Refers: true,
	Doc: "How a release reaches the fleet.",
	Attrs: []*attrSchema{
		{Name: "server", Type: refTo("server"), Required: true, Doc: "The server that runs it."},
		{Name: "artifacts", Type: listOf(refTo("artifact")), Required: true, Check: notEmpty, Doc: "One release: artifacts of one name, each for other device types; at least one."},
		{Name: "failure_threshold", Type: tPercent, Default: number(5), Doc: "Share of a phase's devices, from 0 to 100, that may fail before it stops, such as \"5%\"."},
		{Name: "on_failure", Type: tString, Enum: []string{"pause", "abort"}, Default: cty.StringVal("pause"), Doc: "What happens then: pause lets a person decide, abort ends it."},
		{Name: "retries", Type: tInt, Default: number(0), Check: checkRetries, Doc: "How often a device may try again, from 0 to 100."},
		{Name: "expires", Type: tDuration, Check: checkExpires, Doc: "How long after its start devices that have not begun are still given the release, such as \"30d\"; at most ten years. Without it for ever."},
		attrDependsOn,
	},
	Blocks: []*blockSchema{
		{
			Kind: "target", Max: 1,
			Doc: "Which devices take part: accepted ones that are in the groups and meet every match; without it all that an artifact fits. Groups alone are looked at when the rollout starts. With a match the server looks whenever a device asks: one that meets it later joins, one that no longer does before it has begun is left out, and the rollout stays open until it expires, is aborted, or the next release starts.",
			Attrs: []*attrSchema{
				{Name: "groups", Type: listOf(tName), Check: notEmpty, Doc: "Groups of devices, at least one; without it devices of all groups and of none."},
				{Name: "exclude_groups", Type: listOf(tName), Check: notEmpty, Doc: "Groups whose devices take no part."},
			},
			Blocks: []*blockSchema{matchSchema},
		},
		windowSchema,
		{
			Kind: "phase", Label: "name", Min: 1,
			Doc: "A step of the rollout, in this order: it takes one of percent, count and groups. The last one must reach all devices that take part.",
			Attrs: []*attrSchema{
				{Name: "percent", Type: tPercent, Doc: "Share of all devices that have the release at its end, those of earlier phases counted: more than in the phase before, up to 100."},
				{Name: "count", Type: tInt, Check: checkPositive, Doc: "Number of devices that have the release at its end, those of earlier phases counted."},
				{Name: "groups", Type: listOf(tName), Check: notEmpty, Doc: "Groups that get the release; at least one, and of those in target."},
				{Name: "soak", Type: tDuration, Default: cty.StringVal("0s"), Doc: "How long to wait and watch before the next phase, such as \"2h\" or \"1d\"; at most a year."},
				{Name: "failure_threshold", Type: tPercent, Doc: "In place of the rollout's, from 0 to 100."},
				{Name: "approval", Type: tBool, Default: cty.False, Doc: "Whether the rollout waits before this phase until a person says \"twinkeel rollout approve\"."},
			},
		},
	},
	Exposes: []exposedSchema{
		{Name: "deployment_id", Type: cty.String, Known: "server", Doc: "Id of the newest deployment of the rollout on its server; null when there is none. Plans do not ask the server: \"twinkeel output --server\" does."},
		{Name: "status", Type: cty.String, Known: "server", Doc: "State of that deployment: running, soaking, waiting, paused, finished or aborted; not started when there is none."},
	},
}

var matchSchema = &blockSchema{
	Kind: "match", Label: "attribute",
	Doc: "A condition on an attribute of a device, SCOPE.KEY: inventory.KEY is what it reports of itself, identity.KEY what it is known by, system.KEY what the server knows (group, created_ts, updated_ts). All arguments must hold; of an attribute that is a list one element is enough. Numbers compare as numbers, also where the device reports them as texts. At least one argument.",
	Attrs: []*attrSchema{
		{Name: "equals", Type: tScalar, Doc: "The value, a text or a number ($eq in Mender's filters)."},
		{Name: "not", Type: tScalar, Doc: "What the value is not; a device without the attribute meets it, too ($ne)."},
		{Name: "in", Type: tScalars, Check: notEmpty, Doc: "Values, of which it is one ($in)."},
		{Name: "min", Type: tNumber, Doc: "The value is a number and at least this ($gte)."},
		{Name: "max", Type: tNumber, Doc: "The value is a number and at most this ($lte)."},
		{Name: "exists", Type: tBool, Doc: "Whether the device has the attribute at all ($exists)."},
		{Name: "pattern", Type: tString, Check: checkPattern, Doc: "Regular expression that is found in the value: RE2 (no look-around, no back-references), at most 256 bytes; ^ and $ tie it to the ends ($regex)."},
	},
}

var windowSchema = &blockSchema{
	Kind: "window", Max: 1,
	Doc: "When devices may begin; outside of it they get nothing new, and what has begun goes on. It has days, or from and to, or both.",
	Attrs: []*attrSchema{
		{Name: "days", Type: listOf(tString), Check: checkDays, Doc: "Days on which it begins: mon, tue, wed, thu, fri, sat, sun; by default all."},
		{Name: "from", Type: tString, Check: checkFrom, Doc: "When it begins, such as \"22:00\"."},
		{Name: "to", Type: tString, Check: checkTo, Doc: "When it ends, such as \"04:00\" or \"24:00\"; not after from, it is on the next day."},
		{Name: "timezone", Type: tString, Check: checkZone, Default: cty.StringVal("UTC"), Doc: "Zone of these times in the IANA database, such as \"Europe/Berlin\"."},
	},
}

var moduleSchema = &blockSchema{
	Kind: "module", Label: "name", ForEach: true, Refers: true,
	Doc: "Another directory of files as a part of this pipeline, under an address of its own: module.NAME.artifact.os. Its variables get their values from inputs alone, and of what is in it " +
		"its outputs can be referred to: module.NAME.OUTPUT, with for_each module.NAME[\"KEY\"].OUTPUT. Paths are relative to the root of the pipeline also in modules; path.module is the module's directory.",
	Attrs: []*attrSchema{
		{Name: "source", Type: tString, Required: true, Doc: "Directory of the module, relative to the file: a text without references that begins with ./ or ../."},
		{Name: "inputs", Type: tAny, Doc: "Values of the module's variables: an object. References such as device_type.d may be passed, to a variable of type any."},
	},
}

var checkSchema = &blockSchema{
	Kind: "check", Label: "name",
	Doc: "Conditions on the pipeline and on what it found. Unless they hold there is no plan. Those about what a build makes, such as the size of an artifact, are made for what is up to date, and after a build for what it made: then what was built stays, and nothing is pushed. Not checked when a plan is limited to some addresses, as image, push and rollout do by themselves.",
	Blocks: []*blockSchema{{
		Kind: "assert", Min: 1,
		Doc: "A condition.",
		Attrs: []*attrSchema{
			{Name: "condition", Type: tBool, Required: true, Doc: "True when all is well. May refer to what a build makes, such as artifact.os.size; until it is known it is not checked."},
			{Name: "error_message", Type: tString, Required: true, Doc: "What to tell when it is not."},
		},
	}},
}

var outputSchema = &blockSchema{
	Kind: "output", Label: "name",
	Doc: "A value for \"twinkeel output\": to show, or to hand to a script.",
	Attrs: []*attrSchema{
		{Name: "value", Type: tAny, Required: true, Secret: true, Doc: "The value: any expression."},
		{Name: "description", Type: tString, Doc: "What it is."},
		{Name: "sensitive", Type: tBool, Default: cty.False, Doc: "Hides the value. Needed when it comes from something sensitive."},
	},
}
