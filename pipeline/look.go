package pipeline

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// elfMachines are the processors of ELF files by the names that a device type's architecture has, else by Go's.
// (System V ABI, e_machine)
var elfMachines = map[uint16]string{3: "386", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64", 258: "loong64"}

// elfMachine tells for which processor an ELF file is.
func (f *facts) elfMachine(name string) (string, error) {
	head, err := f.head(name, 64)
	if err != nil {
		return "", err
	}
	if string(head[:4]) != "\x7fELF" {
		return "", fmt.Errorf("%s is not an ELF file", name)
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if head[5] == 2 {
		order = binary.BigEndian
	}
	number := order.Uint16(head[18:])
	machine, known := elfMachines[number]
	if !known {
		return "", fmt.Errorf("%s is for a processor that is not known here (number %d)", name, number)
	}
	if machine == "riscv64" && head[4] == 1 {
		machine = "riscv32"
	}
	return machine, nil
}

// head reads the beginning of a file; beyond its end there are zeros.
func (f *facts) head(name string, size int) ([]byte, error) {
	if _, err := f.regular(name); err != nil {
		return nil, err
	}
	r, err := f.fs.Open(f.abs(name))
	if err != nil {
		return nil, f.explain(name, err)
	}
	defer r.Close()
	head := make([]byte, size)
	if _, err := io.ReadFull(r, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, f.explain(name, err)
	}
	return head, nil
}

// usedOf returns how many bytes of a file system image hold something.
func (f *facts) usedOf(name string) (int64, error) {
	found, err := f.filesystemOf(name)
	if err != nil {
		return 0, err
	}
	size := found.size
	switch found.kind {
	case "ext4":
		head, err := f.head(name, 2048)
		if err != nil {
			return 0, err
		}
		le, super := binary.LittleEndian, head[1024:]
		free := uint64(le.Uint32(super[12:]))
		if le.Uint32(super[96:])&0x80 != 0 { // 64bit
			free |= uint64(le.Uint32(super[0x158:])) << 32
		}
		shift := 10 + le.Uint32(super[24:]) // filesystemOf has looked at it
		if free > uint64(size)>>shift {
			return 0, fmt.Errorf("%s has more free blocks than blocks; it is damaged", name)
		}
		return size - int64(free<<shift), nil
	case "squashfs", "erofs":
		return size, nil
	case "":
		return 0, fmt.Errorf("%s is not an image of ext4, squashfs or erofs", name)
	}
	return 0, fmt.Errorf("%s holds %s, of which the used space is not known here", name, found.kind)
}

// testdata returns a variable of a .testdata.json file. The file is read once.
func (f *facts) testdata(file, name string) (string, error) {
	variables := f.variables[file]
	if variables == nil {
		data, err := f.read(file, maxFactFile)
		if err != nil {
			return "", err
		}
		if err := json.Unmarshal(data, &variables); err != nil {
			return "", fmt.Errorf("%s is not valid JSON (%w)", file, err)
		}
		if f.variables == nil {
			f.variables = make(map[string]map[string]json.RawMessage)
		}
		f.variables[file] = variables
	}
	raw, ok := variables[name]
	if !ok {
		return "", fmt.Errorf("%s has no variable %s.%s", file, shorten(name), suggestion(name, keys(variables), ""))
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return "", fmt.Errorf("the variable %s in %s is not a text", shorten(name), file)
	}
	return text, nil
}

// inspectFunctions look into the outputs of builds. Offline they are unknown.
func inspectFunctions(f *facts) map[string]function.Function {
	ofPath := func(ty cty.Type, fn func(name string) (cty.Value, error)) function.Function {
		return function.New(&function.Spec{
			Params: []function.Parameter{{Name: "path", Type: cty.String}},
			Type:   function.StaticReturnType(ty),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				if f == nil || f.pending(args[0].AsString()) {
					return cty.UnknownVal(ty), nil
				}
				return fn(args[0].AsString())
			},
		})
	}
	return map[string]function.Function{
		"elf_machine": ofPath(cty.String, func(name string) (cty.Value, error) {
			machine, err := f.elfMachine(name)
			return cty.StringVal(machine), err
		}),
		"fs::type": ofPath(cty.String, func(name string) (cty.Value, error) {
			if _, err := f.regular(name); err != nil {
				return cty.NilVal, err
			}
			found, err := f.filesystemOf(name)
			if found.kind == "" {
				return cty.NullVal(cty.String), err
			}
			return cty.StringVal(found.kind), err
		}),
		"fs::used": ofPath(cty.Number, func(name string) (cty.Value, error) {
			used, err := f.usedOf(name)
			return number(used), err
		}),
		"yocto::testdata": ofSource("testdata", func(file cty.Value, name string) (string, error) {
			if f == nil {
				return "", errOffline
			}
			return f.testdata(file.AsString(), name)
		}),
		"yocto::package_version": ofSource("packages", func(packages cty.Value, name string) (string, error) {
			versions := packages.AsValueMap()
			if v, ok := versions[name]; ok {
				return v.AsString(), nil
			}
			return "", fmt.Errorf("the image has no package %s.%s", shorten(name), suggestion(name, keys(versions), ""))
		}),
	}
}

var errOffline = errors.New("known only with the file system")

// ofSource makes a function of a yocto source and a name, from one of the source's attributes.
func ofSource(attribute string, fn func(v cty.Value, name string) (string, error)) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "source", Type: cty.DynamicPseudoType, AllowUnknown: true, AllowDynamicType: true}, {Name: "name", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			ty := args[0].Type()
			if ty == cty.DynamicPseudoType {
				return cty.UnknownVal(cty.String), nil
			}
			if !ty.IsObjectType() || !ty.HasAttribute(attribute) {
				return cty.NilVal, function.NewArgErrorf(0, "a source is needed, such as source.yocto.NAME")
			}
			if !args[0].IsKnown() || !args[1].IsKnown() {
				return cty.UnknownVal(cty.String), nil
			}
			v := args[0].GetAttr(attribute)
			switch {
			case !v.IsWhollyKnown():
				return cty.UnknownVal(cty.String), nil
			case v.IsNull():
				return cty.NilVal, function.NewArgErrorf(0, "the source has no %s", attribute)
			}
			out, err := fn(v, args[1].AsString())
			if errors.Is(err, errOffline) {
				return cty.UnknownVal(cty.String), nil
			}
			if err != nil {
				return cty.NilVal, err
			}
			return cty.StringVal(out), nil
		},
	})
}
