package build

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/artifactfmt/payload"
	"github.com/twinkeel/twinkeel/pipeline"
)

// TestPayloadKinds holds what the language says of payloads against what makes them.
func TestPayloadKinds(t *testing.T) {
	t.Parallel()
	made := map[string]pipeline.PayloadKind{}
	for _, k := range payload.Kinds() {
		var kind pipeline.PayloadKind
		for _, o := range k.Options {
			kind.Takes = append(kind.Takes, o.Name)
			if o.Required {
				kind.Needs = append(kind.Needs, o.Name)
			}
		}
		slices.Sort(kind.Takes)
		slices.Sort(kind.Needs)
		made[k.Name] = kind
	}
	said := map[string]pipeline.PayloadKind{}
	for name, k := range pipeline.PayloadKinds {
		said[name] = pipeline.PayloadKind{Takes: slices.Sorted(slices.Values(k.Takes)), Needs: slices.Sorted(slices.Values(k.Needs))}
	}
	if diff := cmp.Diff(made, said); diff != "" {
		t.Errorf("payload.Kinds and pipeline.PayloadKinds differ (-made +said):\n%s", diff)
	}
}
