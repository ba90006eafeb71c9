package pipeline

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"

	"github.com/twinkeel/twinkeel/internal/unpack"
)

// computeSource finds the facts of a source. Offline they are unknown.
func (e *evaluator) computeSource(inst *instance) map[string]cty.Value {
	unknown := func(names ...string) map[string]cty.Value {
		out := make(map[string]cty.Value)
		for _, n := range names {
			out[n] = cty.UnknownVal(inst.block.schema.object.AttributeType(n))
		}
		return out
	}
	switch inst.block.typ {
	case "dir":
		return e.computeDir(inst)
	case SourceHTTP:
		return e.computeHTTP(inst)
	case SourceExec:
		return e.computeExec(inst)
	}
	if inst.block.typ == "file" {
		b := inst.body
		if e.facts == nil || !b.has("path") || e.pending(b.text("path")) {
			if b.unset("sha256") {
				return unknown("size", "sha256")
			}
			return unknown("size")
		}
		size, err := e.facts.regular(b.text("path"))
		if err != nil {
			e.reportOrigin(e.missingFile(b.text("path")), fault("File not found", sentence(err.Error()), b.rangeOf("path")))
			return unknown("size")
		}
		out := map[string]cty.Value{"size": number(size)}
		if b.has("sha256") || e.pipeline.asksFor("file", "sha256") {
			got, err := e.facts.sha256(b.text("path"))
			switch {
			case err != nil:
				e.report(fault("Cannot read file", sentence(err.Error()), b.rangeOf("path")))
			case b.unset("sha256"):
				out["sha256"] = cty.StringVal(got)
			case got != b.text("sha256"):
				e.report(fault("Wrong checksum", fmt.Sprintf("%s has the SHA-256 %s.", b.text("path"), got), b.rangeOf("sha256")))
			}
		}
		return out
	}

	b := inst.body
	none := unknown("rootfs", "rootfs_type", "rootfs_size", "rootfs_sha256", "variables", "kernel", "uboot_env", "manifest", "sbom", "testdata", "boot_files", "packages", "distro_version", "build_id")
	if e.facts == nil || !b.has("deploy_dir") || !b.has("machine") || !b.has("image") || !b.has("rootfs_types") {
		return none
	}
	y := &yocto{
		facts: e.facts, dir: b.text("deploy_dir"), machine: b.text("machine"), image: b.text("image"), types: b.texts("rootfs_types"),
		kernel: b.text("kernel"), bootFiles: b.textMap("boot_files"), hasBootFiles: b.has("boot_files"),
	}
	if err := y.find(); err != nil {
		at, summary := "deploy_dir", "Deploy directory not usable"
		var se *sourceError
		if errors.As(err, &se) {
			at, summary = se.argument, se.summary
		}
		if b.content.attrs[at] == nil {
			at = "image"
		}
		e.report(fault(summary, sentence(err.Error()), b.rangeOf(at)))
		return none
	}
	optional := func(name string) cty.Value {
		if name == "" {
			return cty.NullVal(cty.String)
		}
		return cty.StringVal(name)
	}
	rootfs, size, sum, ok := e.rootfsValues(inst, y)
	if !ok {
		return none
	}
	return map[string]cty.Value{
		"rootfs": rootfs, "rootfs_type": cty.StringVal(y.rootfsType), "rootfs_size": size, "rootfs_sha256": sum,
		"variables": textMapValue(y.shownVariables()),
		"kernel":    optional(y.kernel), "uboot_env": optional(y.ubootEnv), "manifest": optional(y.manifest), "sbom": optional(y.billOfMaterials()), "testdata": optional(y.testdata),
		"boot_files": textMapValue(y.bootFiles), "packages": textMapValue(y.packages),
		"distro_version": optional(y.distroVersion), "build_id": optional(y.buildID),
	}
}

// yocto reads a deploy directory, as image-artifact-names.bbclass of openembedded-core lays it out. Two namings exist:
//
//	3.1 to 4.2  IMAGE-MACHINE-DATE.rootfs.EXT  with the link IMAGE-MACHINE.EXT
//	since 4.3   IMAGE-MACHINE.rootfs-DATE.EXT  with the link IMAGE-MACHINE.rootfs.EXT
//
// A link wins; without one the newest date does. Board support packages also empty the suffix ".rootfs".
type yocto struct {
	facts          *facts
	dir            string
	machine, image string
	types          []string
	kernel         string            // in: glob; out: path
	bootFiles      map[string]string // in: name in the partition = glob; out: = path
	hasBootFiles   bool

	ubootEnv               string
	rootfs, rootfsType     string
	rootfsSize             int64
	manifest, testdata     string
	packages               map[string]string
	distroVersion, buildID string
	names                  []string // in the directory, sorted
	stem                   string   // of the files that belong to rootfs: "demo-qemuarm64.rootfs"
	variables              map[string]string
	packed                 bool // rootfs is compressed, and rootfsSize not what it will be
}

// sourceError is a finding with the argument that it is about.
type sourceError struct {
	argument, summary, text string
}

func (e *sourceError) Error() string { return e.text }

func (y *yocto) join(name string) string { return path.Join(filepath.ToSlash(y.dir), name) }

func (y *yocto) find() error {
	info, err := y.facts.fs.Stat(y.facts.abs(y.dir))
	if err != nil {
		return &sourceError{"deploy_dir", "Deploy directory not found", y.facts.explain(y.dir, err).Error()}
	}
	if !info.IsDir() {
		return &sourceError{"deploy_dir", "Deploy directory not found", fmt.Sprintf("%s is not a directory", y.dir)}
	}
	entries, err := y.facts.fs.ReadDir(y.facts.abs(y.dir))
	if err != nil {
		return y.facts.explain(y.dir, err)
	}
	if len(entries) > maxEntries {
		return fmt.Errorf("%s has %d entries; at most %d are read", y.dir, len(entries), maxEntries)
	}
	for _, e := range entries {
		y.names = append(y.names, e.Name())
	}
	slices.Sort(y.names)
	if err := y.findRootfs(); err != nil {
		return err
	}
	if err := y.readTestdata(); err != nil {
		return err
	}
	if err := y.readManifest(); err != nil {
		return err
	}
	y.findUBootEnv()
	if err := y.findKernel(); err != nil {
		return err
	}
	return y.findBootFiles()
}

var yoctoDate = regexp.MustCompile(`^[0-9]{14}$`)

// findRootfs looks for the root file system, type by type.
func (y *yocto) findRootfs() error {
	base := y.image + "-" + y.machine
	for _, ext := range y.types {
		for _, stem := range []string{base + ".rootfs", base} {
			name := stem + "." + ext
			if !slices.Contains(y.names, name) {
				continue
			}
			size, err := y.facts.regular(y.join(name))
			if err != nil {
				return &sourceError{"image", "Output not usable", err.Error() + "; the build was probably interrupted or cleaned"}
			}
			if err := y.leads(name, "image"); err != nil {
				return err
			}
			real := name
			if target, err := y.facts.fs.ReadLink(y.facts.abs(y.join(name))); err == nil {
				dir := y.facts.abs(y.dir)
				if target = absolute(dir, target); filepath.Dir(target) == dir && slices.Contains(y.names, filepath.Base(target)) {
					real = filepath.Base(target)
				}
			}
			return y.take(real, ext, stem, size)
		}
	}
	for _, ext := range y.types { // no type has a link
		var newest, date, stem string
		for _, name := range y.names {
			d, s, ok := y.dated(name, ext)
			if ok && (d > date || d == date && name > newest) {
				newest, date, stem = name, d, s
			}
		}
		if newest != "" {
			size, err := y.facts.regular(y.join(newest))
			if err != nil {
				return &sourceError{"image", "Output not usable", err.Error()}
			}
			return y.take(newest, ext, stem, size)
		}
	}
	for _, ext := range y.types { // a plain one wins over a compressed one
		for _, suffix := range packedSuffixes {
			if found, err := y.findPacked(base, ext, suffix); found || err != nil {
				return err
			}
		}
	}
	return &sourceError{"image", "Output not found", y.missing()}
}

// dated splits the name of a dated output, and returns the stem that its companions share.
func (y *yocto) dated(name, ext string) (date, stem string, ok bool) {
	rest, ok := strings.CutPrefix(name, y.image+"-"+y.machine)
	if !ok {
		return "", "", false
	}
	rest, ok = strings.CutSuffix(rest, "."+ext)
	if !ok {
		return "", "", false
	}
	switch {
	case strings.HasPrefix(rest, ".rootfs-"):
		date = strings.TrimPrefix(rest, ".rootfs-")
	case strings.HasPrefix(rest, "-"):
		date = strings.TrimSuffix(rest[1:], ".rootfs")
	}
	return date, strings.TrimSuffix(name, "."+ext), yoctoDate.MatchString(date)
}

// leads reports a link that leads out of the deploy directory: what is there now is not what was built here.
func (y *yocto) leads(name, argument string) error {
	target, err := y.facts.fs.ReadLink(y.facts.abs(y.join(name)))
	if err != nil {
		return nil // no link
	}
	dir := y.facts.abs(y.dir)
	to := absolute(filepath.Join(dir, filepath.FromSlash(path.Dir(name))), target)
	if rel, err := filepath.Rel(dir, to); err == nil && filepath.IsLocal(rel) {
		return nil
	}
	return &sourceError{argument, "Output not usable", fmt.Sprintf("%s is a link to %s, which leads out of the deploy directory", y.join(name), shorten(target))}
}

func (y *yocto) take(name, ext, stem string, size int64) error {
	if size == 0 {
		return &sourceError{"image", "Output not usable", fmt.Sprintf("%s is empty; the build was probably interrupted", y.join(name))}
	}
	y.rootfs, y.rootfsType, y.rootfsSize, y.stem = y.join(name), ext, size, stem
	if date, _, ok := y.dated(name, strings.TrimPrefix(name[strings.LastIndex(name, "."+ext):], ".")); ok {
		y.buildID = date
	}
	return nil
}

// missing words that there is no root file system: what was tried and what is there.
func (y *yocto) missing() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s has no root file system of the image %s for the machine %s.\nTried: %s-%s.rootfs.EXT and %s-%s.EXT, also with a date, with EXT = %s.",
		y.dir, y.image, y.machine, y.image, y.machine, y.image, y.machine, strings.Join(y.types, ", "))
	fmt.Fprintf(&text, " Each may be compressed: %s.", strings.Join(packedSuffixes, ", "))
	var same, images []string
	for _, name := range y.names {
		if strings.HasPrefix(name, y.image+"-"+y.machine) {
			same = append(same, name)
		}
		for _, suffix := range []string{".rootfs.testdata.json", ".testdata.json", ".rootfs.manifest", ".manifest"} {
			if stem, ok := strings.CutSuffix(name, suffix); ok {
				if image, ok := strings.CutSuffix(stem, "-"+y.machine); ok && image != y.image && !slices.Contains(images, image) {
					images = append(images, image)
				}
				break
			}
		}
	}
	switch {
	case len(same) > 0:
		fmt.Fprintf(&text, "\nOf this image there is: %s.", listSome(same))
		if best := closest(y.machine, y.machines()); best != "" {
			fmt.Fprintf(&text, " Did you mean the machine %s?", best)
		}
	case len(images) > 0:
		fmt.Fprintf(&text, "\nFor this machine there is: %s.", listSome(images))
		if best := closest(y.image, images); best != "" {
			fmt.Fprintf(&text, " Did you mean %s?", best)
		}
	case len(y.names) == 0:
		text.WriteString("\nThe directory is empty.")
	default:
		fmt.Fprintf(&text, "\nThe directory holds: %s.", listSome(y.names))
	}
	return text.String()
}

// machines are those that the image was built for, as far as names of outputs tell.
func (y *yocto) machines() (found []string) {
	for _, name := range y.names {
		rest, ok := strings.CutPrefix(name, y.image+"-")
		if machine, _, dot := strings.Cut(rest, "."); ok && dot && !slices.Contains(found, machine) {
			found = append(found, machine)
		}
	}
	return found
}

func listSome(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// companion finds a file that belongs to the root file system: it has the stem of the link, or that of the dated file.
func (y *yocto) companion(suffix string) string {
	stems := []string{y.stem, y.image + "-" + y.machine + ".rootfs", y.image + "-" + y.machine}
	if y.buildID != "" {
		bare, _ := unpack.Trim(path.Base(y.rootfs))
		stems = slices.Insert(stems, 0, strings.TrimSuffix(bare, "."+y.rootfsType)) // a link may be of another build
	}
	for _, stem := range slices.Clone(stems) { // up to 4.2 only some of the companions are called .rootfs
		if bare := strings.TrimSuffix(stem, ".rootfs"); !slices.Contains(stems, bare) {
			stems = append(stems, bare)
		}
	}
	for _, stem := range stems {
		if slices.Contains(y.names, stem+suffix) {
			return y.join(stem + suffix)
		}
	}
	return ""
}

// billOfMaterials is the SPDX document of the build (create-spdx.bbclass; up to 5.0 IMAGE-MACHINE.spdx.json, with the
// documents of its packages in .spdx.tar.zst, which is not taken), else the package manifest.
func (y *yocto) billOfMaterials() string {
	if name := y.companion(".spdx.json"); name != "" {
		return name
	}
	return y.manifest
}

// readTestdata reads the variables of the build that somebody needs.
func (y *yocto) readTestdata() error {
	y.testdata = y.companion(".testdata.json")
	if y.testdata == "" {
		return nil
	}
	data, err := y.facts.read(y.testdata, maxFactFile)
	if err != nil {
		return &sourceError{"deploy_dir", "Output not usable", err.Error()}
	}
	all := make(map[string]json.RawMessage)
	if err := json.Unmarshal(data, &all); err != nil {
		return &sourceError{"deploy_dir", "Output not usable", fmt.Sprintf("%s is not valid JSON (%s); the build was probably interrupted", y.testdata, err)}
	}
	y.variables = make(map[string]string)
	for name, raw := range all {
		var text string
		if (slices.Contains(usedVariables, name) || shownVariable(name)) && json.Unmarshal(raw, &text) == nil && len(text) <= 1<<20 {
			y.variables[name] = strings.TrimSpace(text)
		}
	}
	if m := y.variables["MACHINE"]; m != "" && m != y.machine {
		return &sourceError{"machine", "Wrong machine", fmt.Sprintf("%s was built for MACHINE %q", y.testdata, m)}
	}
	y.distroVersion = y.variables["DISTRO_VERSION"]
	if d := y.variables["DATETIME"]; y.buildID == "" && yoctoDate.MatchString(d) {
		y.buildID = d
	}
	return nil
}

// readManifest reads the packages: lines of name, architecture and version.
func (y *yocto) readManifest() error {
	y.manifest = y.companion(".manifest")
	if y.manifest == "" {
		return nil
	}
	data, err := y.facts.read(y.manifest, maxFactFile)
	if err != nil {
		return &sourceError{"deploy_dir", "Output not usable", err.Error()}
	}
	y.packages = make(map[string]string)
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 3 {
			y.packages[fields[0]] = fields[2]
		}
		if len(y.packages) > maxEntries {
			return &sourceError{"deploy_dir", "Output not usable", fmt.Sprintf("%s names more than %d packages", y.manifest, maxEntries)}
		}
	}
	return nil
}

var kernelKinds = []string{"fitImage", "Image", "zImage", "bzImage", "uImage", "Image.gz", "vmlinux"}

func (y *yocto) findKernel() error {
	if glob := y.kernel; glob != "" {
		y.kernel = ""
		matches, err := y.glob(glob)
		if err != nil {
			return &sourceError{"kernel", "Wrong glob", err.Error()}
		}
		switch len(matches) {
		case 0:
			return &sourceError{"kernel", "Output not found", fmt.Sprintf("nothing in %s matches %s", y.dir, glob)}
		case 1:
			y.kernel = y.join(matches[0])
			return y.leads(matches[0], "kernel")
		default:
			return &sourceError{"kernel", "Several outputs", fmt.Sprintf("%s matches %s", glob, listSome(matches))}
		}
	}
	kinds := kernelKinds
	if kind := y.variables["KERNEL_IMAGETYPE"]; kind != "" {
		kinds = []string{kind}
	}
	for _, kind := range kinds {
		for _, name := range []string{kind, kind + "-" + y.machine + ".bin"} {
			if slices.Contains(y.names, name) {
				y.kernel = y.join(name)
				return y.leads(name, "deploy_dir")
			}
		}
	}
	return nil
}

// findUBootEnv finds the text of U-Boot's built-in environment. Recipes deploy it under several names (u-boot.inc).
func (y *yocto) findUBootEnv() {
	for _, name := range []string{"u-boot-initial-env-" + y.machine, "u-boot-initial-env"} {
		if slices.Contains(y.names, name) {
			y.ubootEnv = y.join(name)
			return
		}
	}
}

// findBootFiles resolves the files of the boot partition: from the argument, else from IMAGE_BOOT_FILES, whose words are
// SRC or SRC;DST with globs in SRC. DST is a directory when SRC is a glob or DST ends in a slash.
func (y *yocto) findBootFiles() error {
	type want struct{ src, dst string }
	var wants []want
	argument, summary := "boot_files", "Output not found"
	if y.hasBootFiles {
		for dst, src := range y.bootFiles {
			wants = append(wants, want{src, dst})
		}
	} else {
		argument = "deploy_dir"
		for _, word := range strings.Fields(y.variables["IMAGE_BOOT_FILES"]) {
			src, dst, _ := strings.Cut(word, ";")
			if dst == "" && !isGlob(src) {
				dst = src
			}
			wants = append(wants, want{src, dst})
		}
	}
	slices.SortFunc(wants, func(a, b want) int { return strings.Compare(a.dst+"\x00"+a.src, b.dst+"\x00"+b.src) })
	out := make(map[string]string)
	for _, w := range wants {
		if !filepath.IsLocal(filepath.FromSlash(w.src)) {
			return &sourceError{argument, "Wrong path", fmt.Sprintf("the boot file %q is not inside the deploy directory", shorten(w.src))}
		}
		matches, err := y.glob(w.src)
		if err != nil {
			return &sourceError{argument, "Wrong glob", err.Error()}
		}
		if len(matches) == 0 {
			return &sourceError{argument, summary, fmt.Sprintf("the boot file %s is not in %s.%s", w.src, y.dir, suggestion(w.src, y.names, ""))}
		}
		directory := strings.HasSuffix(w.dst, "/") || w.dst == "" || isGlob(w.src) && !y.hasBootFiles
		if len(matches) > 1 && !directory {
			return &sourceError{argument, "Several outputs", fmt.Sprintf("%s matches %s; end the name in the partition with / to make it a directory", w.src, listSome(matches))}
		}
		for _, m := range matches {
			dst := w.dst
			if directory {
				dst = path.Join(w.dst, path.Base(m))
			}
			if reason := checkInside(dst); reason != "" {
				return &sourceError{argument, "Wrong path", reason}
			}
			if _, err := y.facts.regular(y.join(m)); err != nil {
				if isGlob(w.src) && !errors.Is(err, errMissing) {
					continue // a directory that a glob happens to match
				}
				return &sourceError{argument, summary, err.Error()}
			}
			if err := y.leads(m, argument); err != nil {
				return err
			}
			out[path.Clean(dst)] = y.join(m)
		}
	}
	y.bootFiles = out
	return nil
}

func isGlob(s string) bool { return strings.ContainsAny(s, "*?[") }

// glob matches a pattern in the deploy directory, step by step.
func (y *yocto) glob(pattern string) ([]string, error) {
	if !filepath.IsLocal(filepath.FromSlash(pattern)) {
		return nil, fmt.Errorf("%s is not inside the deploy directory", pattern)
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("%s is not a glob", pattern)
	}
	found := []string{""}
	steps := strings.Split(path.Clean(pattern), "/")
	for i, step := range steps {
		var next []string
		for _, dir := range found {
			names := y.names
			if i > 0 {
				entries, err := y.facts.fs.ReadDir(y.facts.abs(y.join(dir)))
				if err != nil {
					continue
				}
				names = nil
				for _, e := range entries {
					names = append(names, e.Name())
				}
				slices.Sort(names)
			}
			for _, name := range names {
				if ok, _ := path.Match(step, name); ok && (name[0] != '.' || step[0] == '.') {
					next = append(next, path.Join(dir, name))
				}
			}
		}
		if len(next) > maxEntries {
			return nil, fmt.Errorf("%s matches more than %d files", pattern, maxEntries)
		}
		found = next
	}
	return found, nil
}

// filesystemOf recognises a file system image by its magic numbers, or returns "". The size is that of the file system as
// its superblock has it, and 0 where that is not looked for.
func (f *facts) filesystemOf(name string) (filesystemAt, error) {
	r, err := f.fs.Open(f.abs(name))
	if err != nil {
		return filesystemAt{}, f.explain(name, err)
	}
	defer r.Close()
	found, err := readSuperblock(r)
	if err != nil {
		err = f.explain(name, err)
	}
	return found, err
}

// packedFilesystem is filesystemOf for what a compressed file unpacks to.
func (f *facts) packedFilesystem(name string) (filesystemAt, error) {
	r, err := f.fs.Open(f.abs(name))
	if err != nil {
		return filesystemAt{}, f.explain(name, err)
	}
	defer r.Close()
	plain, _, err := unpack.Open(r, name, maxUnpacked)
	if err != nil {
		return filesystemAt{}, err
	}
	defer plain.Close()
	return readSuperblock(plain)
}

// readSuperblock is filesystemOf for the beginning of a file system.
func readSuperblock(r io.Reader) (filesystemAt, error) {
	head := make([]byte, 2048)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return filesystemAt{}, err
	}
	clear(head[n:])
	le := binary.LittleEndian
	switch super := head[1024:]; {
	case le.Uint16(super[56:]) == 0xEF53:
		blocks, shift := uint64(le.Uint32(super[4:])), le.Uint32(super[24:])
		if le.Uint32(super[96:])&0x80 != 0 { // 64bit
			blocks |= uint64(le.Uint32(super[0x150:])) << 32
		}
		if shift > 6 || blocks > 1<<46 { // no size that exists
			return filesystemAt{}, nil
		}
		return filesystemAt{"ext4", int64(blocks << (10 + shift)), 1024 << shift}, nil
	case le.Uint32(head) == 0x06101831 && head[20] == 6: // a node of UBIFS, the superblock
		return filesystemAt{ubifs, int64(min(uint64(le.Uint32(head[36:]))*uint64(le.Uint32(head[40:])), 1<<62)), 0}, nil
	case bytes.HasPrefix(head, []byte("hsqs")):
		return filesystemAt{"squashfs", int64(min(le.Uint64(head[40:]), 1<<62)), 0}, nil
	case le.Uint32(super) == 0xE0F5E1E2:
		shift := min(super[12], 16)
		return filesystemAt{"erofs", int64(le.Uint32(super[36:])) << shift, 1 << shift}, nil
	case head[510] == 0x55 && head[511] == 0xAA && (bytes.HasPrefix(head[54:], []byte("FAT")) || bytes.HasPrefix(head[82:], []byte("FAT32"))):
		return filesystemAt{"vfat", 0, int64(le.Uint16(head[11:]))}, nil
	}
	return filesystemAt{}, nil
}

// compressed tells whether a file begins as compressed ones do.
func (f *facts) compressed(name string) bool {
	head, err := f.head(name, 6)
	return err == nil && slices.ContainsFunc([]string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd", "\x04\x22\x4d\x18"}, func(magic string) bool {
		return strings.HasPrefix(string(head), magic)
	})
}

var errMissing = &missingError{}

// Is makes every missingError one kind for errors.Is.
func (e *missingError) Is(target error) bool { _, ok := target.(*missingError); return ok }
