package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Graph says what needs what.
type Graph struct {
	Nodes []GraphNode `json:"nodes"`
	Edges []GraphEdge `json:"edges"`
}

// GraphNode is something with an address.
type GraphNode struct {
	Address string `json:"address"`
	Kind    string `json:"kind"`
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
}

// GraphEdge goes from what needs to what it needs.
type GraphEdge struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// ValueGraph is the graph of references as they are written, without any value: what is in the branch of a conditional that
// is not taken belongs to it, and so may cycles. Targets, as those of [InspectOptions] without keys, limit it to what they
// name and what that needs.
func (p *Pipeline) ValueGraph(targets []string) (*Graph, hcl.Diagnostics) {
	if p.loadDiags.HasErrors() {
		return nil, p.loadDiags
	}
	g := &Graph{Nodes: []GraphNode{}, Edges: []GraphEdge{}}
	all := p.everyValue()
	for _, m := range p.checked.everyModule() {
		for _, b := range m.others["check"] {
			all = append(all, named{m, b.address(), symbol{}, b, b.rng})
		}
	}
	edges := make(map[GraphEdge]bool)
	for _, n := range all {
		g.Nodes = append(g.Nodes, GraphNode{n.address, n.kind(), n.rng.Filename, n.rng.Start.Line})
		for _, to := range p.referredTo(n) {
			if e := (GraphEdge{n.address, to}); !edges[e] {
				edges[e] = true
				g.Edges = append(g.Edges, e)
			}
		}
	}
	return g.limit(targets)
}

// referredTo returns the addresses that the expressions of something refer to.
func (p *Pipeline) referredTo(n named) []string {
	var found []string
	expression := func(expr hcl.Expression) {
		for _, t := range expr.Variables() {
			found = append(found, n.module.behind(t)...)
		}
	}
	switch n.symbol.root {
	case "var":
		found = append(found, p.behindInput(n)...)
		for _, v := range n.module.variables[n.symbol.name].validations {
			eachExpression(v, expression)
		}
	case "local":
		expression(n.module.locals[n.symbol.name].Expr)
	case "module":
		if n.block.forEach != nil {
			expression(n.block.forEach.Expr)
		}
		for _, m := range p.checked.callees[n.block] {
			for _, out := range m.others["output"] {
				found = append(found, out.address())
			}
		}
	default:
		if n.block.forEach != nil {
			expression(n.block.forEach.Expr)
		}
		eachExpression(n.block.content, expression)
	}
	return slices.DeleteFunc(found, func(to string) bool { return to == n.address && n.symbol.root == "var" }) // its own validation
}

// behindInput returns what the value refers to that a module's variable is given.
func (p *Pipeline) behindInput(n named) []string {
	c := p.checked.calls[n.module.prefix]
	if c == nil {
		return nil
	}
	expr := c.inputs[n.symbol.name]
	if expr == nil && c.inputs == nil {
		expr = c.block.content.attrs["inputs"].Expr
	}
	if expr == nil {
		return nil
	}
	var found []string
	for _, t := range expr.Variables() {
		found = append(found, c.scope.module.behind(t)...)
	}
	return found
}

// eachExpression calls fn for every expression of a block and of those in it.
func eachExpression(c *content, fn func(hcl.Expression)) {
	if c == nil {
		return
	}
	for _, s := range c.schemas {
		if a := c.attrs[s.Name]; a != nil && s.Type != tType {
			fn(a.Expr)
		}
	}
	for _, n := range c.nested {
		if n.dynamic != nil {
			fn(n.dynamic.forEach)
			if n.dynamic.label != nil {
				fn(n.dynamic.label)
			}
		}
		eachExpression(n.content, fn)
	}
}

// behind returns the addresses that a reference is about: one, or those of all blocks of a kind. A name that a dynamic
// block or a for expression binds is none.
func (m *module) behind(t hcl.Traversal) []string {
	if root := t.RootName(); !rootNames[root] || root == "each" || root == "path" || root == "twinkeel" {
		return nil
	}
	ref, d := m.parseReference(t)
	if d != nil {
		return nil
	}
	ref.symbol.in = m.prefix
	if b, output := m.outputBehind(ref); output != "" {
		return []string{b.address() + ".output." + output}
	}
	if s := ref.symbol; s.name != "" {
		return []string{s.String()}
	}
	var all []string
	for _, b := range m.byKind[ref.symbol.root] {
		if ref.symbol.typ == "" || b.typ == ref.symbol.typ {
			all = append(all, b.address())
		}
	}
	return all
}

// limit keeps what the targets name and what that needs, directly or not.
func (g *Graph) limit(targets []string) (*Graph, hcl.Diagnostics) {
	if len(targets) == 0 {
		return g, nil
	}
	needs := make(map[string][]string)
	for _, e := range g.Edges {
		needs[e.From] = append(needs[e.From], e.To)
	}
	keep := make(map[string]bool)
	var queue, addresses []string
	met := make([]bool, len(targets))
	for _, n := range g.Nodes {
		addresses = append(addresses, n.Address)
		if answersAny(targets, n.Address, met) {
			queue = append(queue, n.Address)
		}
	}
	for len(queue) > 0 {
		address := queue[0]
		queue = queue[1:]
		if !keep[address] {
			keep[address] = true
			queue = append(queue, needs[address]...)
		}
	}
	var diags hcl.Diagnostics
	for i, t := range targets {
		if !met[i] {
			diags = append(diags, fault("Unknown address", fmt.Sprintf("Nothing is called %s.%s", shorten(t), suggestion(t, addresses, "There are: ")), nil))
		}
	}
	if diags.HasErrors() {
		return nil, diags
	}
	out := &Graph{Nodes: []GraphNode{}, Edges: []GraphEdge{}}
	for _, n := range g.Nodes {
		if keep[n.Address] {
			out.Nodes = append(out.Nodes, n)
		}
	}
	for _, e := range g.Edges {
		if keep[e.From] {
			out.Edges = append(out.Edges, e)
		}
	}
	return out, nil
}

// ActionGraph is the graph of a plan: its actions, and the keys, servers and kinds of devices that they use. Unlike the
// value graph it has only what was chosen, so it tells which keys a build opens.
func (plan *Plan) ActionGraph() *Graph {
	g := &Graph{Nodes: []GraphNode{}, Edges: []GraphEdge{}}
	known := make(map[string]bool)
	node := func(address, kind string, rng hcl.Range) {
		if !known[address] {
			known[address] = true
			g.Nodes = append(g.Nodes, GraphNode{address, kind, rng.Filename, rng.Start.Line})
		}
	}
	for _, a := range plan.Actions {
		node(a.Address, string(a.Kind), a.Range)
	}
	for _, a := range plan.Actions {
		for _, need := range a.DependsOn {
			g.Edges = append(g.Edges, GraphEdge{a.Address, need})
		}
		use := func(address, kind string) {
			node(address, kind, hcl.Range{})
			g.Edges = append(g.Edges, GraphEdge{a.Address, address})
		}
		switch {
		case a.Artifact != nil && a.Artifact.Signer != nil:
			use(a.Artifact.Signer.Address, "signer")
		case a.Image != nil:
			use(a.Image.DeviceType.Address, "device_type")
			if a.Image.Server != nil {
				use(a.Image.Server.Address, "server")
			}
		case a.Rollout != nil:
			use(a.Rollout.Server.Address, "server")
		}
	}
	return g
}

// graphShapes are the kinds that stand out: DOT's shape, and Mermaid's brackets.
var graphShapes = map[string]struct{ dot, open, close string }{
	"variable": {"ellipse", "([", "])"},
	"local":    {"ellipse", "([", "])"},
	"output":   {"cds", ">", "]"},
	"check":    {"hexagon", "{{", "}}"},
	"artifact": {"box3d", "[[", "]]"},
	"source":   {"folder", "[/", "/]"},
	"image":    {"box3d", "[[", "]]"},
	"rollout":  {"box3d", "[[", "]]"},
}

// DOT writes the graph for Graphviz.
func (g *Graph) DOT() string {
	var b strings.Builder
	b.WriteString("digraph twinkeel {\n  rankdir = LR\n  node [shape = box, fontname = \"sans-serif\"]\n")
	for _, n := range g.Nodes {
		fmt.Fprintf(&b, "  %s", dotText(n.Address))
		if s := graphShapes[n.Kind].dot; s != "" {
			fmt.Fprintf(&b, " [shape = %s]", s)
		}
		b.WriteByte('\n')
	}
	for _, e := range g.Edges {
		fmt.Fprintf(&b, "  %s -> %s\n", dotText(e.From), dotText(e.To))
	}
	b.WriteString("}\n")
	return b.String()
}

// dotText quotes as Graphviz does: only quotes and backslashes are special.
func dotText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(s) + `"`
}

// Mermaid writes the graph for Mermaid, which Markdown viewers draw.
func (g *Graph) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	id := make(map[string]int, len(g.Nodes))
	for i, n := range g.Nodes {
		id[n.Address] = i
		s := graphShapes[n.Kind]
		if s.open == "" {
			s.open, s.close = "[", "]"
		}
		fmt.Fprintf(&b, "  n%d%s\"%s\"%s\n", i, s.open, mermaidText(n.Address), s.close)
	}
	for _, e := range g.Edges {
		from, okFrom := id[e.From]
		to, okTo := id[e.To]
		if okFrom && okTo {
			fmt.Fprintf(&b, "  n%d --> n%d\n", from, to)
		}
	}
	return b.String()
}

// mermaidText escapes what ends a quoted text there or starts markup, as entities by number.
func mermaidText(s string) string {
	return strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "`", "#96;", "\n", " ").Replace(s)
}
