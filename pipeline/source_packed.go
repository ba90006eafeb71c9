package pipeline

import (
	"path"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"

	"github.com/twinkeel/twinkeel/internal/unpack"
)

// packedSuffixes are the conversions of IMAGE_FSTYPES that can be undone here (CONVERSIONTYPES of image_types.bbclass).
var packedSuffixes = []string{".zst", ".xz", ".gz", ".bz2", ".lz4"}

// PackedSuffixes are those suffixes: what a root file system may be compressed with.
func PackedSuffixes() []string { return slices.Clone(packedSuffixes) }

// maxUnpacked bounds what a compressed root file system may become.
const maxUnpacked = 64 * gib

// findPacked looks for a compressed root file system, by its link and then by its date.
func (y *yocto) findPacked(base, ext, suffix string) (found bool, err error) {
	name, date, stem := "", "", ""
	for _, s := range []string{base + ".rootfs", base} {
		if n := s + "." + ext + suffix; name == "" && slices.Contains(y.names, n) {
			name, stem = n, s
		}
	}
	if name == "" {
		for _, n := range y.names {
			d, s, ok := y.dated(n, ext+suffix)
			if ok && (d > date || d == date && n > name) {
				name, date, stem = n, d, s
			}
		}
	}
	if name == "" {
		return false, nil
	}
	size, err := y.facts.regular(y.join(name))
	if err != nil {
		return false, &sourceError{"image", "Output not usable", err.Error() + "; the build was probably interrupted or cleaned"}
	}
	if err := y.leads(name, "image"); err != nil {
		return false, err
	}
	y.packed = true
	if target, err := y.facts.fs.ReadLink(y.facts.abs(y.join(name))); err == nil {
		if date, _, ok := y.dated(path.Base(target), ext+suffix); ok { // which build it is; the name of the output stays
			y.buildID = date
		}
	}
	return true, y.take(name, ext, stem, size)
}

// packedFilesystem looks at the beginning of the compressed root file system.
func (y *yocto) packedFilesystem() (filesystemAt, error) {
	found, err := y.facts.packedFilesystem(y.rootfs)
	if found.kind == "squashfs" { // mksquashfs fills its last block
		found.size = (found.size + 4095) &^ 4095
	}
	return found, err
}

// rootfsValues are what a source says of its root file system. A compressed one becomes an action, and its superblock tells
// what it will be.
func (e *evaluator) rootfsValues(inst *instance, y *yocto) (name, size, sum cty.Value, ok bool) {
	name, size, sum = cty.StringVal(y.rootfs), number(y.rootfsSize), cty.NullVal(cty.String)
	if !y.packed {
		if e.pipeline.mentions("rootfs_sha256") {
			digest, err := e.facts.sha256(y.rootfs)
			if err != nil {
				e.report(fault("Cannot read file", sentence(err.Error()), inst.body.rangeOf("image")))
				return name, size, sum, false
			}
			sum = cty.StringVal(digest)
		}
		return name, size, sum, true
	}
	super, err := y.packedFilesystem()
	if err != nil {
		e.report(fault("Output not usable", sentence(err.Error()), inst.body.rangeOf("image")))
		return name, size, sum, false
	}
	if e.pipeline.mentions("rootfs_sha256") {
		sum = cty.UnknownVal(cty.String)
	}
	bare, _ := unpack.Trim(path.Base(y.rootfs))
	e.makes(inst, &SourceAction{Type: SourceUnpack, Unpack: &Unpack{From: e.abs(y.rootfs), MaxSize: maxUnpacked}}, bare)
	rel := path.Join(sourceDir(inst.address), bare)
	size = cty.UnknownVal(cty.Number)
	if super.kind != "" && super.size > 0 {
		size = number(super.size)
		if e.sources.fact == nil {
			e.sources.fact = make(map[string]filesystemAt)
		}
		e.sources.fact[e.abs(rel)] = super
	}
	return cty.StringVal(rel), size, sum, true
}

// usedVariables of testdata.json are those that finding files needs.
var usedVariables = []string{"MACHINE", "DISTRO_VERSION", "IMAGE_BOOT_FILES", "KERNEL_IMAGETYPE", "DATETIME"}

// shownVariable tells whether references may see a variable.
func shownVariable(name string) bool {
	return strings.HasPrefix(name, "MENDER_") ||
		slices.Contains([]string{"MACHINE", "DISTRO", "DISTRO_VERSION", "DISTRO_CODENAME", "IMAGE_BASENAME", "KERNEL_IMAGETYPE"}, name)
}

// Bounds of what references see of a build's variables.
const (
	maxVariables = 500
	maxVariable  = 4096 // bytes of a value
)

func (y *yocto) shownVariables() map[string]string {
	out := make(map[string]string)
	for _, name := range keys(y.variables) {
		if v := y.variables[name]; shownVariable(name) && len(v) <= maxVariable && len(out) < maxVariables {
			out[name] = v
		}
	}
	return out
}
