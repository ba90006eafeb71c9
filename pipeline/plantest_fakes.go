package pipeline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
)

// fakes are what a run of a test makes the pipeline believe. No source is read in a test: what it exposes is what the run
// says, and made up where it says nothing, so that a test needs no build on the machine and finds the same on each.
type fakes struct {
	objects   map[string]*fakeObject // by address, keys without quotes
	functions map[string]cty.Value   // results: one value, or a map of values by argument
	files     *pretendedFiles        // of this run
}

// fakeObject are the values that a block exposes.
type fakeObject struct {
	address string // as it was written
	rng     hcl.Range
	values  map[string]cty.Value
	used    bool
}

// pathFake is what the key of a faked file begins with.
const pathFake = "path:"

const (
	madeUpSize = 8 << 10 // bytes of a file that nobody gave a size: small, so that it fits wherever it goes
	maxPretend = 4 << 10 // bytes that can be read of a file without content: enough for the head of a file system
)

// unquoted is an address as shells and people write it.
func unquoted(address string) string { return strings.ReplaceAll(address, `"`, "") }

// of returns what the run says about an instance: about all of a block, and about the instance itself.
func (f *fakes) of(inst *instance) map[string]cty.Value {
	out := make(map[string]cty.Value)
	for _, address := range []string{unquoted(inst.block.address()), unquoted(inst.address)} {
		if o := f.objects[address]; o != nil {
			o.used = true
			maps.Copy(out, o.values)
		}
	}
	return out
}

// override puts faked sizes and digests of outputs in the place of those that only a build knows. Sources are done by
// then.
func (f *fakes) override(inst *instance) {
	if f == nil || inst.block.schema.Kind == "source" {
		return
	}
	for name, v := range f.of(inst) {
		inst.computed[name] = v
	}
}

// source returns what a source exposes: what the run says, the rest made up. All files among it exist.
func (f *fakes) source(e *evaluator, inst *instance) map[string]cty.Value {
	facts := e.facts
	e.facts = nil // offline it tells the names of what it exposes
	computed := e.computeSource(inst)
	e.facts = facts
	if facts == nil {
		return computed // validation
	}
	given := f.of(inst)
	likely := madeUp(inst, given)
	for name, v := range computed {
		switch made, ok := likely[name]; {
		case given[name] != cty.NilVal:
			computed[name] = given[name]
		case v.IsKnown():
		case ok:
			computed[name] = made
		default:
			computed[name] = plausible(inst, name, v.Type())
		}
	}
	f.pretend(e, inst, computed)
	return computed
}

// pretend makes the files exist that a source exposes or names.
func (f *fakes) pretend(e *evaluator, inst *instance, computed map[string]cty.Value) {
	b := inst.body
	for _, name := range []string{"deploy_dir", "dir"} {
		if b.has(name) && b.values[name].Type() == cty.String {
			f.files.below = append(f.files.below, e.pipeline.abs(b.text(name)))
		}
	}
	integer := func(name string) int64 {
		v, ok := computed[name]
		if !ok || !v.IsKnown() || v.IsNull() || v.Type() != cty.Number {
			return madeUpSize
		}
		n, _ := v.AsBigFloat().Int64()
		return n
	}
	text := func(v cty.Value) string {
		if v == cty.NilVal || !v.IsKnown() || v.IsNull() || v.Type() != cty.String {
			return ""
		}
		return v.AsString()
	}
	if rootfs := text(computed["rootfs"]); rootfs != "" {
		f.files.add(e.pipeline.abs(rootfs), pretended{size: integer("rootfs_size"), kind: text(computed["rootfs_type"])})
	}
	if b.has("path") && b.values["path"].Type() == cty.String {
		f.files.add(e.pipeline.abs(b.text("path")), pretended{size: integer("size"), kind: kindOf(b.text("path"))})
	}
	for name, v := range computed {
		size := int64(madeUpSize)
		if name == "path" {
			size = integer("size")
		}
		if s := text(v); s != "" {
			f.files.add(e.pipeline.abs(s), pretended{size: size, kind: kindOf(s)})
		}
		if v.IsKnown() && !v.IsNull() && v.Type().Equals(cty.Map(cty.String)) {
			for it := v.ElementIterator(); it.Next(); {
				if _, element := it.Element(); text(element) != "" {
					f.files.add(e.pipeline.abs(text(element)), pretended{size: madeUpSize, kind: kindOf(text(element))})
				}
			}
		}
	}
}

// rootfsKinds are the file systems that an image's name may end in.
var rootfsKinds = map[string]string{"ext2": "ext4", "ext3": "ext4", "ext4": "ext4", "squashfs": "squashfs", "erofs": "erofs", "vfat": "vfat"}

// kindOf is the file system that the name of a made-up file promises, or "".
func kindOf(name string) string { return rootfsKinds[strings.TrimPrefix(path.Ext(name), ".")] }

// madeUp are likely values of a yocto source, by the names that OpenEmbedded gives to its outputs since 4.3.
func madeUp(inst *instance, given map[string]cty.Value) map[string]cty.Value {
	b := inst.body
	if inst.block.typ != "yocto" {
		return nil
	}
	in := func(name string) cty.Value {
		return cty.StringVal(path.Join(filepath.ToSlash(b.text("deploy_dir")), name))
	}
	ext := "ext4"
	if types := b.texts("rootfs_types"); len(types) > 0 {
		ext = types[0]
	}
	if v := given["rootfs"]; v != cty.NilVal && !v.IsNull() && kindOf(v.AsString()) != "" {
		ext = strings.TrimPrefix(path.Ext(v.AsString()), ".")
	}
	if v := given["rootfs_type"]; v != cty.NilVal && !v.IsNull() {
		ext = v.AsString()
	}
	stem := b.text("image") + "-" + b.text("machine") + ".rootfs"
	kernel := "Image"
	if b.has("kernel") {
		kernel = b.text("kernel")
	}
	boot := make(map[string]cty.Value)
	for name, src := range b.textMap("boot_files") {
		boot[name] = in(src)
	}
	bootFiles := cty.MapValEmpty(cty.String)
	if len(boot) > 0 {
		bootFiles = cty.MapVal(boot)
	}
	return map[string]cty.Value{
		"rootfs": in(stem + "." + ext), "rootfs_type": cty.StringVal(ext), "rootfs_size": number(madeUpSize),
		"kernel": in(kernel), "uboot_env": in("u-boot-initial-env"), "boot_files": bootFiles,
		"manifest": in(stem + ".manifest"), "sbom": in(stem + ".manifest"), "testdata": in(stem + ".testdata.json"),
		"distro_version": cty.StringVal("1.0"), "build_id": cty.StringVal("20260101000000"),
	}
}

// plausible makes up a value of which only the type and the name are known.
func plausible(inst *instance, name string, ty cty.Type) cty.Value {
	switch {
	case ty == cty.Number:
		return number(madeUpSize)
	case ty == cty.Bool:
		return cty.False
	case ty == cty.String && strings.HasSuffix(name, "sha256"):
		return cty.StringVal(strings.Repeat("0", 64))
	case ty == cty.String:
		return cty.StringVal(path.Join("faked", cleanPath(unquoted(inst.address)), name))
	case ty.Equals(cty.Map(cty.String)):
		// What the block calls its outputs is known; where they are is not.
		out := make(map[string]cty.Value)
		for key := range inst.body.textMap(name) {
			out[key] = cty.StringVal(path.Join("faked", cleanPath(unquoted(inst.address)), key))
		}
		if len(out) > 0 {
			return cty.MapVal(out)
		}
		return cty.MapValEmpty(cty.String)
	case ty.IsListType():
		return cty.ListValEmpty(ty.ElementType())
	case ty.IsSetType():
		return cty.SetValEmpty(ty.ElementType())
	case ty.IsMapType():
		return cty.MapValEmpty(ty.ElementType())
	}
	return cty.NullVal(ty)
}

// cleanPath makes a part of a path of an address.
func cleanPath(address string) string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || r < ' ' || r == 0x7f {
			return '-'
		}
		return r
	}, address)
}

// fakeFunctions are the functions whose results a run may set, with the type of the result. Those of git are never asked
// in a test: unless a run says otherwise they return what stands here.
var fakeFunctions = map[string]struct {
	result cty.Type
	madeUp cty.Value // NilVal: the function works as always, on what is faked
}{
	"git::branch":      {cty.String, cty.StringVal("main")},
	"git::commit":      {cty.String, cty.StringVal(strings.Repeat("0", 40))},
	"git::commit_time": {cty.String, cty.StringVal("1970-01-01T00:00:00Z")},
	"git::describe":    {cty.String, cty.StringVal("v0.0.0")},
	"git::dirty":       {cty.Bool, cty.False},
	"elf_machine":      {cty.String, cty.NilVal},
	"fs::used":         {cty.Number, cty.NilVal},
	"yocto::testdata":  {cty.String, cty.NilVal},
}

// functionFaker is the ability of a [FileSystem] to answer in the place of functions that look at the machine.
type functionFaker interface {
	fakedFunctions() map[string]function.Function
}

func fakedFunctions(f *facts) map[string]function.Function {
	if f == nil {
		return nil
	}
	if faker, ok := f.fs.(functionFaker); ok {
		return faker.fakedFunctions()
	}
	return nil
}

// fakedFunction returns one value whatever it is asked, or that which a map has for its last argument.
func fakedFunction(name string, ty cty.Type, v cty.Value) function.Function {
	return function.New(&function.Spec{
		VarParam: &function.Parameter{Name: "arguments", Type: cty.DynamicPseudoType, AllowNull: true, AllowUnknown: true, AllowDynamicType: true},
		Type:     function.StaticReturnType(ty),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if !v.Type().IsMapType() {
				return v, nil
			}
			if len(args) == 0 {
				return cty.NilVal, errors.New("the test fakes it for some arguments, but it has none here")
			}
			key := args[len(args)-1]
			switch {
			case !key.IsKnown():
				return cty.UnknownVal(ty), nil
			case key.IsNull() || key.Type() != cty.String:
				return cty.NilVal, errors.New("the test fakes it for some texts, and this is none")
			}
			values := v.AsValueMap()
			if found, ok := values[key.AsString()]; ok {
				return found, nil
			}
			return cty.NilVal, fmt.Errorf("the test fakes it for %s, not for %q", listSome(keys(values)), shorten(key.AsString()))
		},
	})
}

// convertFake makes a value fit, or tells why it cannot.
func convertFake(v cty.Value, ty cty.Type) (cty.Value, error) {
	out, err := convert.Convert(v, ty)
	if err != nil {
		return cty.NilVal, fmt.Errorf("%s is needed here, not %s", aWord(typeText(ty)), describe(v))
	}
	if ty == cty.Number && !out.IsNull() {
		if n := out.AsBigFloat(); !n.IsInt() || n.Sign() < 0 || !fitsInt64(n) {
			return cty.NilVal, errors.New("a whole number that is not negative is needed here")
		}
	}
	return out, nil
}

// pretendedFiles is a file system with files that a test made up in front of the real one. It knows no git.
type pretendedFiles struct {
	real      FileSystem
	files     map[string]pretended // by absolute path
	below     []string             // directories in which there is everything
	functions map[string]function.Function
}

// pretended is a file without content but a head, or with all of it.
type pretended struct {
	size    int64
	kind    string // of file system
	content *string
}

func (p *pretendedFiles) fakedFunctions() map[string]function.Function { return p.functions }

// add makes a file exist; one that a run names wins over what a source makes up.
func (p *pretendedFiles) add(name string, file pretended) {
	if _, there := p.files[name]; !there {
		p.files[name] = file
	}
}

// find returns the file that is pretended to be at a path.
func (p *pretendedFiles) find(name string) (file pretended, ok, anything bool) {
	if file, ok = p.files[name]; ok {
		return file, true, false
	}
	if slices.ContainsFunc(p.below, func(dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }) {
		return pretended{size: madeUpSize, kind: kindOf(name)}, true, true
	}
	return pretended{}, false, false
}

// Stat implements [FileSystem].
func (p *pretendedFiles) Stat(name string) (fs.FileInfo, error) {
	if file, ok, anything := p.find(name); ok {
		return &pretendedInfo{path.Base(filepath.ToSlash(name)), file.length(), anything}, nil
	}
	return p.real.Stat(name)
}

// ReadDir implements [FileSystem].
func (p *pretendedFiles) ReadDir(name string) ([]fs.DirEntry, error) { return p.real.ReadDir(name) }

// ReadLink implements [FileSystem].
func (p *pretendedFiles) ReadLink(name string) (string, error) {
	if _, ok, _ := p.find(name); ok {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return p.real.ReadLink(name)
}

// Open implements [FileSystem].
func (p *pretendedFiles) Open(name string) (io.ReadCloser, error) {
	if file, ok, _ := p.find(name); ok {
		return io.NopCloser(file.reader()), nil
	}
	return p.real.Open(name)
}

func (f pretended) length() int64 {
	if f.content != nil {
		return int64(len(*f.content))
	}
	return f.size
}

var errNoContent = errors.New("it is made up by the test and has no content; give it some: fakes = { \"path:FILE\" = { content = ... } }")

func (f pretended) reader() io.Reader {
	if f.content != nil {
		return strings.NewReader(*f.content)
	}
	head := f.head()
	if f.size <= int64(len(head)) && f.kind == "" { // a file system is recognised however small it is said to be
		return strings.NewReader(string(head[:f.size]))
	}
	return io.MultiReader(strings.NewReader(string(head)), noContent{})
}

// noContent fails who reads on: a digest of zeros would be a lie that takes long.
type noContent struct{}

func (noContent) Read([]byte) (int, error) { return 0, errNoContent }

// head is the beginning of a file system of the file's kind and size, as far as [facts.filesystemOf] looks.
func (f pretended) head() []byte {
	head := make([]byte, maxPretend)
	le, super := binary.LittleEndian, head[1024:]
	const block = 4096 // bytes, a shift of 12
	switch rootfsKinds[f.kind] {
	case "ext4":
		blocks := uint64(f.size) / block
		le.PutUint32(super[4:], uint32(blocks))
		le.PutUint32(super[24:], 2) // 1024 << 2
		le.PutUint16(super[56:], 0xEF53)
		le.PutUint32(super[96:], 0x80) // 64bit
		le.PutUint32(super[0x150:], uint32(blocks>>32))
	case "squashfs":
		copy(head, "hsqs")
		le.PutUint64(head[40:], uint64(f.size))
	case "erofs":
		le.PutUint32(super, 0xE0F5E1E2)
		super[12] = 12
		le.PutUint32(super[36:], uint32(f.size/block))
	case "vfat":
		copy(head[82:], "FAT32")
		head[510], head[511] = 0x55, 0xAA
	}
	return head
}

// pretendedInfo describes a file that may also be a directory.
type pretendedInfo struct {
	name     string
	size     int64
	anything bool
}

func (i *pretendedInfo) Name() string       { return i.name }
func (i *pretendedInfo) Size() int64        { return i.size }
func (i *pretendedInfo) Mode() fs.FileMode  { return 0o644 }
func (i *pretendedInfo) ModTime() time.Time { return time.Time{} }
func (i *pretendedInfo) IsDir() bool        { return false }
func (i *pretendedInfo) Sys() any           { return nil }

// isAnything tells that a made-up path may as well be a directory.
func isAnything(info fs.FileInfo) bool {
	made, ok := info.(*pretendedInfo)
	return ok && made.anything
}
