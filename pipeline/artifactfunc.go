package pipeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// artifactReader is the ability of a [FileSystem] to read the head of an existing artifact, whose format this package does
// not know. Paths are absolute.
type artifactReader interface {
	ReadArtifact(ctx context.Context, path string) (*ExistingArtifact, error)
}

// ExistingArtifact is what the head of a .mender file says. Whether it speaks the truth only who verifies it knows.
type ExistingArtifact struct {
	Name           string
	Group          string
	DeviceTypes    []string
	PayloadType    string // empty: none, as of a bootstrap artifact
	Provides       map[string]string
	Depends        map[string]string
	ClearsProvides []string
	Signed         bool
}

var existingArtifactObject = cty.Object(map[string]cty.Type{
	"name": cty.String, "group": cty.String, "device_types": cty.List(cty.String), "payload_type": cty.String,
	"provides": cty.Map(cty.String), "depends": cty.Map(cty.String), "clears_provides": cty.List(cty.String),
	"signed": cty.Bool, "size": cty.Number, "sha256": cty.String,
})

// artifact reads an existing artifact, once.
func (f *facts) artifact(name string) (cty.Value, error) {
	if v, read := f.artifacts[name]; read {
		return v, nil
	}
	reader, ok := f.fs.(artifactReader)
	if !ok {
		return cty.NilVal, errors.New("artifacts cannot be read here")
	}
	size, err := f.regular(name)
	if err != nil {
		return cty.NilVal, err
	}
	a, err := reader.ReadArtifact(f.ctx, f.abs(name))
	if err != nil {
		return cty.NilVal, fmt.Errorf("%s: %w", name, err)
	}
	sum, err := f.sha256(name)
	if err != nil {
		return cty.NilVal, err
	}
	v := cty.ObjectVal(map[string]cty.Value{
		"name": cty.StringVal(a.Name), "group": textOrNull(a.Group), "device_types": textList(a.DeviceTypes),
		"payload_type": textOrNull(a.PayloadType), "provides": textMapValue(a.Provides), "depends": textMapValue(a.Depends),
		"clears_provides": textList(a.ClearsProvides), "signed": cty.BoolVal(a.Signed), "size": number(size), "sha256": cty.StringVal(sum),
	})
	if f.artifacts == nil {
		f.artifacts = make(map[string]cty.Value)
	}
	f.artifacts[name] = v
	return v, nil
}

// artifactFunctions look into artifacts that were built before. Offline they are unknown.
func artifactFunctions(f *facts) map[string]function.Function {
	return map[string]function.Function{
		"mender::artifact": function.New(&function.Spec{
			Params: []function.Parameter{{Name: "path", Type: cty.String}},
			Type:   function.StaticReturnType(existingArtifactObject),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				if f == nil || f.pending(args[0].AsString()) {
					return cty.UnknownVal(existingArtifactObject), nil
				}
				v, err := f.artifact(args[0].AsString())
				if err != nil {
					return cty.NilVal, function.NewArgError(0, err)
				}
				return v, nil
			},
		}),
	}
}

func textOrNull(text string) cty.Value {
	if text == "" {
		return cty.NullVal(cty.String)
	}
	return cty.StringVal(text)
}

func textList(texts []string) cty.Value {
	if len(texts) == 0 {
		return cty.ListValEmpty(cty.String)
	}
	return strings2list(texts...)
}

func textMapValue(texts map[string]string) cty.Value {
	if len(texts) == 0 {
		return cty.MapValEmpty(cty.String)
	}
	out := make(map[string]cty.Value, len(texts))
	for k, v := range texts {
		out[k] = cty.StringVal(v)
	}
	return cty.MapVal(out)
}
