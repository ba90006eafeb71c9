package pipeline

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func edgeTexts(g *Graph) []string {
	out := []string{}
	for _, e := range g.Edges {
		out = append(out, e.From+" > "+e.To)
	}
	slices.Sort(out)
	return out
}

func TestValueGraph(t *testing.T) {
	t.Parallel()
	p := lookAt(t, lookPipeline)
	g, diags := p.ValueGraph(nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	want := []string{
		"artifact.app > device_type.board", "artifact.app > local.signer", "artifact.app > var.version",
		"artifact.none > device_type.board", "check.size > artifact.app", "device_type.board > layout.ab",
		"local.half > var.pin", "local.signer > local.prod", "local.signer > signer.file.dev", "local.signer > signer.pkcs11.hsm",
		"output.sizes > artifact.app", "signer.pkcs11.hsm > var.pin",
	}
	if d := cmp.Diff(want, edgeTexts(g)); d != "" {
		t.Errorf("edges (-want +got):\n%s", d)
	}
	limited, diags := p.ValueGraph([]string{"local.signer"})
	if diags.HasErrors() || len(limited.Nodes) != 5 || len(limited.Edges) != 4 {
		t.Errorf("%v %v", limited, diags)
	}
	if _, diags := p.ValueGraph([]string{"local.singer"}); !diags.HasErrors() || !strings.Contains(diags[0].Detail, "local.signer?") {
		t.Error(diags)
	}
}

// TestGraphOfCycle draws what cannot be evaluated, a reference to a whole kind and one to itself among it.
func TestGraphOfCycle(t *testing.T) {
	t.Parallel()
	p, diags := Load(LoadOptions{Dir: write(t, map[string]string{"a.twinkeel.hcl": `
locals {
  a = local.b
  b = local.a
  c = keys(signer)
}
signer "file" "x" {
  private_key = local.c[0]
}
`})})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	g, _ := p.ValueGraph(nil)
	want := []string{"local.a > local.b", "local.b > local.a", "local.c > signer.file.x", "signer.file.x > local.c"}
	if d := cmp.Diff(want, edgeTexts(g)); d != "" {
		t.Error(d)
	}
	if limited, _ := p.ValueGraph([]string{"local.a"}); len(limited.Nodes) != 2 {
		t.Error(limited)
	}
}

func TestActionGraph(t *testing.T) {
	t.Parallel()
	plan := &Plan{Actions: []*Action{
		{Address: `artifact.app["rpi4"]`, Kind: KindArtifact, Artifact: &Artifact{Signer: &Signer{Address: "signer.file.dev"}}},
		{Address: "image.board", Kind: KindImage, DependsOn: []string{`artifact.app["rpi4"]`}, Image: &Image{DeviceType: DeviceType{Address: `device_type.board["rpi4"]`}, Server: &Server{Address: "server.s"}}},
	}}
	g := plan.ActionGraph()
	want := []string{
		`artifact.app["rpi4"] > signer.file.dev`, `image.board > artifact.app["rpi4"]`, `image.board > device_type.board["rpi4"]`, "image.board > server.s",
	}
	if d := cmp.Diff(want, edgeTexts(g)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(`digraph twinkeel {
  rankdir = LR
  node [shape = box, fontname = "sans-serif"]
  "artifact.app[\"rpi4\"]" [shape = box3d]
  "image.board" [shape = box3d]
  "signer.file.dev"
  "device_type.board[\"rpi4\"]"
  "server.s"
  "artifact.app[\"rpi4\"]" -> "signer.file.dev"
  "image.board" -> "artifact.app[\"rpi4\"]"
  "image.board" -> "device_type.board[\"rpi4\"]"
  "image.board" -> "server.s"
}
`, g.DOT()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(`flowchart LR
  n0[["artifact.app[#quot;rpi4#quot;]"]]
  n1[["image.board"]]
  n2["signer.file.dev"]
  n3["device_type.board[#quot;rpi4#quot;]"]
  n4["server.s"]
  n0 --> n2
  n1 --> n0
  n1 --> n3
  n1 --> n4
`, g.Mermaid()); d != "" {
		t.Error(d)
	}
}
