package pipeline

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zclconf/go-cty/cty"
)

// TestReference compares docs/language.md with what the schema says; -update rewrites it.
func TestReference(t *testing.T) {
	t.Parallel()
	const name = "../docs/language.md"
	got := Reference()
	if i := bytes.Index(got, []byte("<!--")); i >= 0 {
		t.Errorf("a mark was not replaced: %.40s", got[i:])
	}
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v; -update writes it", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s is out of date; run make golden (-file +schema):\n%s", name, d)
	}
}

// TestReferenceExample holds the example of the reference to the rules: it is valid, in canonical form and complete.
func TestReferenceExample(t *testing.T) {
	t.Parallel()
	const name = "example.twinkeel.hcl"
	dir := write(t, map[string]string{name: string(referenceExample), "modules/kiosk/kiosk.twinkeel.hcl": string(referenceModule)})
	p, diags := Load(LoadOptions{Dir: dir})
	for _, d := range slices.Concat(diags, p.Validate()) {
		t.Errorf("%s", d)
	}
	canonical, _ := Format(referenceExample, name)
	if d := cmp.Diff(string(canonical), string(referenceExample)); d != "" {
		t.Errorf("not in canonical form (-want +got):\n%s", d)
	}
	examples := blockExamples()
	for _, s := range language.blocks {
		if len(examples[s.Kind]) == 0 {
			t.Errorf("there is no example of %s", s.Kind)
		}
		for _, typ := range s.typeNames() {
			if !strings.Contains(strings.Join(examples[s.Kind], "\n"), s.Kind+` "`+typ+`"`) {
				t.Errorf("there is no example of %s %q", s.Kind, typ)
			}
		}
	}
}

// TestReferenceIsComplete finds what the tables hold and the reference does not describe.
func TestReferenceIsComplete(t *testing.T) {
	t.Parallel()
	p := &Pipeline{}
	table := functionTable(p, nil)
	maps.Copy(table, envFunctions(p))
	described := make(map[string]bool)
	for _, g := range functionDocs {
		if !slices.IsSortedFunc(g.functions, func(a, b functionDoc) int { return strings.Compare(a.name, b.name) }) {
			t.Errorf("the functions of %s are not sorted", g.title)
		}
		for _, f := range g.functions {
			if described[f.name] || impure[f.name] != "" {
				t.Errorf("%s is described twice", f.name)
			}
			described[f.name] = true
			if _, ok := table[f.name]; !ok {
				t.Errorf("%s is described and does not exist", f.name)
			}
		}
	}
	for name := range table {
		if !described[name] && impure[name] == "" {
			t.Errorf("the function %s is not described", name)
		}
	}

	known := make(map[*fieldType]bool)
	for _, d := range typeDocs {
		known[d.t] = true
	}
	var check func(where string, s *blockSchema)
	attrs := func(where string, list []*attrSchema) {
		for _, a := range list {
			at := where + "." + a.Name
			if !strings.HasSuffix(a.Doc, ".") || strings.ContainsAny(a.Doc, "|<") {
				t.Errorf("%s: the text is no sentence that Markdown can hold: %q", at, a.Doc)
			}
			ty := a.Type
			for ty.elem != nil {
				ty = ty.elem
			}
			if len(ty.ref) == 0 && !known[ty] {
				t.Errorf("%s: the type %s is not described", at, ty.name)
			}
			if a.Required && a.Default != cty.NilVal {
				t.Errorf("%s: required, with a default", at)
			}
		}
	}
	check = func(where string, s *blockSchema) {
		if !strings.HasSuffix(s.Doc, ".") {
			t.Errorf("%s: no sentence: %q", where, s.Doc)
		}
		attrs(where, s.Attrs)
		for _, typ := range s.Types {
			attrs(where+"."+typ.Name, typ.Attrs)
			for _, n := range typ.Blocks {
				check(where+"."+typ.Name+"."+n.Kind, n)
			}
		}
		for _, n := range s.Blocks {
			check(where+"."+n.Kind, n)
		}
	}
	for _, s := range language.blocks {
		check(s.Kind, s)
	}
}

// TestReferenceTellsWhenValuesAreKnown compares the column "known" with an offline evaluation.
func TestReferenceTellsWhenValuesAreKnown(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"modules/kiosk/kiosk.twinkeel.hcl": string(referenceModule), "example.twinkeel.hcl": strings.NewReplacer("  for_each   = local.machines\n", "", "  for_each       = local.machines\n", "",
		"  for_each     = local.machines\n", "", "  for_each    = local.machines\n", "", "  for_each = local.machines\n", "", "[each.key]", "", "each.value", `"qemuarm64"`, "each.key", `"qemu"`,
		"values(artifact.os)", "[artifact.os]", "[for s in source.yocto.image : s.rootfs_size", "[source.yocto.image.rootfs_size", "{ for board, a in artifact.os : board => a.path }", "artifact.os.path",
	).Replace(string(referenceExample))})
	p, diags := Load(LoadOptions{Dir: dir, Vars: []string{"version=1.0.0"}, Layouts: testLayouts{}})
	if diags.HasErrors() || p.Validate().HasErrors() {
		t.Fatal(diags, p.Validate())
	}
	seen := 0
	for _, inst := range p.checked.instances {
		s := inst.block.schema
		for _, x := range s.Exposes {
			v := inst.value().GetAttr(x.Name)
			if v.IsNull() {
				continue // of another type
			}
			seen++
			if known := s.knownFrom(x) == "always"; known != v.IsKnown() {
				t.Errorf("%s.%s: known offline %v, documented as %q", inst.address, x.Name, v.IsKnown(), s.knownFrom(x))
			}
		}
	}
	if seen < 15 {
		t.Errorf("only %d values were looked at", seen)
	}
}

// TestPagePipelines checks that the pipelines of the README, which stands in two files, and of the page about flashing are valid
// and in canonical form.
func TestPagePipelines(t *testing.T) {
	t.Parallel()
	checkPage(t, "../README.md", 2)
	checkPage(t, "../docs/flashing.md", 1)
}

func checkPage(t *testing.T, name string, pieces int) {
	t.Helper()
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for i, part := range strings.Split(string(page), "```hcl\n")[1:] {
		src, _, _ := strings.Cut(part, "```\n")
		files[fmt.Sprintf("%d%s", i, suffixHCL)] = src
		if formatted, diags := Format([]byte(src), name); diags.HasErrors() || string(formatted) != src {
			t.Errorf("piece %d of %s is not in canonical form: %v", i+1, name, diags)
		}
	}
	if len(files) != pieces {
		t.Fatalf("%s has %d pieces of a pipeline, want %d", name, len(files), pieces)
	}
	p, diags := Load(LoadOptions{Dir: write(t, files), Layouts: testLayouts{}})
	for _, d := range slices.Concat(diags, p.Validate()) {
		t.Error(d)
	}
}
