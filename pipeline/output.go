package pipeline

import (
	"context"
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// Outputs evaluates the output blocks, in the order in which they stand.
func (p *Pipeline) Outputs(ctx context.Context, o OutputOptions) ([]Output, hcl.Diagnostics) {
	if p.loadDiags.HasErrors() {
		return nil, p.loadDiags
	}
	fsys := o.FS
	if fsys == nil {
		fsys = OS{}
	}
	e := newEvaluator(ctx, p, fsys, true)
	e.built, e.deployments = o.Built, o.Deployments
	var outputs []Output
	for _, b := range p.others["output"] {
		if o.Name != "" && b.name != o.Name {
			continue
		}
		v, out := e.output(b)
		if v == cty.NilVal {
			continue
		}
		out.Known = v.IsWhollyKnown()
		if ty, err := ctyjson.MarshalType(v.Type()); err == nil {
			out.Type = ty
		}
		if out.Known && (!out.Sensitive || o.ShowSensitive) {
			data, err := ctyjson.Marshal(v, v.Type())
			if err != nil {
				e.report(fault("Wrong value", fmt.Sprintf("The output %s cannot be written as JSON.", b.name), b.rng.Ptr()))
				continue
			}
			out.Value = data
		}
		outputs = append(outputs, out)
	}
	diag.Sort(e.diags)
	if e.failed() {
		return nil, e.diags
	}
	return outputs, e.diags
}

// output evaluates one output block. NilVal means that it has no value. What the pipeline puts out is without marks, what
// a module does keeps them: a secret in a block does not keep others from referring to the block.
func (e *evaluator) output(b *block) (cty.Value, Output) {
	out := Output{Name: b.name}
	e.blamed.at = b.address()
	defer e.blamed.leave()
	if b.content == nil || b.content.attrs["value"] == nil {
		return cty.NilVal, out
	}
	sc := e.scopeIn(b.home)
	for _, s := range b.content.schemas {
		a := b.content.attrs[s.Name]
		if a == nil || s.Name == "value" {
			continue
		}
		v, _ := e.argument(s, a, sc)
		switch {
		case !v.IsKnown() || v.IsNull():
		case s.Name == "sensitive":
			out.Sensitive = v.True()
		case s.Name == "description":
			out.Description = v.AsString()
		}
	}
	expr := b.content.attrs["value"].Expr
	v, ctx, ok := e.valueIn(expr, sc)
	if !ok {
		return cty.NilVal, out
	}
	if infinite(v) {
		e.reportAt("Wrong value", "The value holds an infinite number, such as 1/0 makes, which no output can show.", expr, ctx)
		return cty.NilVal, out
	}
	if b.home.prefix != "" { // it goes to the pipeline and not to a reader, with its marks
		if out.Sensitive && !v.ContainsMarked() {
			v = v.Mark(secretOf(b.address()))
		}
		return v, out
	}
	if v.ContainsMarked() {
		e.pipeline.keepDerived(v)
		if !out.Sensitive {
			e.reportAt("Secret in plain sight", fmt.Sprintf("The output shows a value from %s, which is sensitive. Add sensitive = true, or leave the value out.", origins(v)), expr, ctx)
			return cty.NilVal, out
		}
		v, _ = v.UnmarkDeep()
	}
	return v, out
}

func infinite(v cty.Value) (found bool) {
	v, _ = v.UnmarkDeep()
	_ = cty.Walk(v, func(_ cty.Path, part cty.Value) (bool, error) {
		found = found || part.Type() == cty.Number && part.IsKnown() && !part.IsNull() && part.AsBigFloat().IsInf()
		return !found, nil
	})
	return found
}

// OutDir is where outputs go, absolute.
func (p *Pipeline) OutDir() string {
	return p.abs(newEvaluator(context.Background(), p, nil, false).out())
}

// Servers returns the server blocks, evaluated without the file system, for commands that talk to a server and build
// nothing.
func (p *Pipeline) Servers() ([]Server, hcl.Diagnostics) {
	e, diags := p.withoutFiles()
	if diags.HasErrors() {
		return nil, diags
	}
	var servers []Server
	for _, b := range e.declared("server") {
		e.symbol(b.symbol(), b.rng)
		for _, inst := range e.blocks[b] {
			e.mustBeKnown(inst.body, inst)
			servers = append(servers, *result[*Server](e, inst.address))
		}
	}
	return servers, e.finish()
}

// Server returns the server at an address, "server.fleet" or "fleet". An empty address means the only server there is.
func (p *Pipeline) Server(address string) (Server, hcl.Diagnostics) {
	var addresses []string
	for _, b := range p.declaredOffline("server") {
		addresses = append(addresses, b.address())
	}
	if address == "" && len(addresses) == 1 {
		address = addresses[0]
	}
	switch {
	case len(addresses) == 0:
		return Server{}, hcl.Diagnostics{fault("No server", "The pipeline declares no server. Add server \"NAME\" { url = \"https://...\" }.", nil)}
	case address == "":
		return Server{}, hcl.Diagnostics{fault("Which server?", fmt.Sprintf("The pipeline declares several servers; name one.%s", suggestion("", addresses, "There are: ")), nil)}
	}
	servers, diags := p.Servers()
	for _, s := range servers {
		if s.Address == address || s.Address == "server."+address {
			return s, diags
		}
	}
	if diags.HasErrors() {
		return Server{}, diags
	}
	return Server{}, hcl.Diagnostics{fault("Unknown server", fmt.Sprintf("There is no server %s.%s", shorten(address), suggestion(address, addresses, "There are: ")), nil)}
}

// Signer returns the signer at an address, "signer.file.dev", evaluated without the file system.
func (p *Pipeline) Signer(address string) (*Signer, hcl.Diagnostics) {
	e, diags := p.withoutFiles()
	if diags.HasErrors() {
		return nil, diags
	}
	var addresses []string
	for _, b := range e.declared("signer") {
		addresses = append(addresses, b.address())
		if b.address() != address {
			continue
		}
		e.symbol(b.symbol(), b.rng)
		if inst := e.instances[address]; inst != nil {
			e.mustBeKnown(inst.body, inst)
		}
		return result[*Signer](e, address), e.finish()
	}
	return nil, hcl.Diagnostics{fault("Unknown signer", fmt.Sprintf("There is no %s.%s", shorten(address), suggestion(address, addresses, "There are: ")), nil)}
}

// Rollouts returns where the rollouts run, evaluated without the file system.
func (p *Pipeline) Rollouts() ([]RolloutRef, hcl.Diagnostics) {
	e, diags := p.withoutFiles()
	if diags.HasErrors() {
		return nil, diags
	}
	var refs []RolloutRef
	for _, b := range e.declared("rollout") {
		e.symbol(b.symbol(), b.rng)
		for _, inst := range e.blocks[b] {
			if server := e.instances[inst.body.text("server")]; server != nil {
				e.mustBeKnown(server.body, server)
			}
			r := result[*Rollout](e, inst.address)
			refs = append(refs, RolloutRef{Address: inst.address, Name: r.Name, Server: r.Server})
		}
	}
	return refs, e.finish()
}

func (p *Pipeline) withoutFiles() (*evaluator, hcl.Diagnostics) {
	if p.loadDiags.HasErrors() {
		return nil, p.loadDiags
	}
	return newEvaluator(context.Background(), p, nil, true), nil
}

func (e *evaluator) finish() hcl.Diagnostics {
	diag.Sort(e.diags)
	return e.diags
}
