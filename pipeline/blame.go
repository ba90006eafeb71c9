package pipeline

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// blamed keeps whom each reported problem belongs to: the variable, local value, block, check or output that was being
// looked at. A test that expects one of them to fail needs to know.
type blamed struct {
	at       string    // what is looked at without being a symbol: a check, an output, the validation of a variable
	instance *instance // that is being evaluated
	owners   map[string]map[string]bool
}

// leave notes that nothing is looked at any more.
func (b *blamed) leave() { b.at = "" }

// lookAtInstance notes which instance of a block is evaluated, and returns what ends that.
func (e *evaluator) lookAtInstance(inst *instance) (restore func()) {
	before := e.blamed.instance
	e.blamed.instance = inst
	return func() { e.blamed.instance = before }
}

// blame notes whose problem it is. Equal problems of several instances are reported once and belong to all of them.
func (e *evaluator) blame(key string) {
	if e.blamed.owners == nil {
		e.blamed.owners = make(map[string]map[string]bool)
	}
	owners := e.blamed.owners[key]
	if owners == nil {
		owners = make(map[string]bool)
		e.blamed.owners[key] = owners
	}
	if len(e.stack) == 0 {
		if e.blamed.at != "" {
			owners[e.blamed.at] = true
		}
		return
	}
	top := e.stack[len(e.stack)-1].symbol.String()
	owners[top] = true
	if inst := e.blamed.instance; inst != nil && inst.block.address() == top {
		owners[inst.address] = true
	}
}

// ownersOf are the addresses that a problem belongs to. What was found on the plan as a whole belongs to the block that it
// points to.
func (e *evaluator) ownersOf(d *hcl.Diagnostic) map[string]bool {
	if owners := e.blamed.owners[problemKey(d)]; len(owners) > 0 {
		return owners
	}
	if d.Subject == nil {
		return nil
	}
	owners := make(map[string]bool)
	for _, address := range e.pipeline.declaredAt(*d.Subject) {
		owners[address] = true
	}
	return owners
}

// declaredAt are the addresses of the block around a place: in each instance of a module it has another. In JSON only the
// header tells.
func (p *Pipeline) declaredAt(rng hcl.Range) []string {
	header := rng
	var local string
	if file := p.files[rng.Filename]; file != nil {
		if body, ok := file.Body.(*hclsyntax.Body); ok {
			for _, b := range body.Blocks {
				if b.Range().ContainsOffset(rng.Start.Byte) {
					header, local = b.DefRange(), localAddress(b)
				}
			}
		}
	}
	var found []string
	for _, m := range p.modules {
		for _, b := range m.blocks {
			if b.rng == header {
				found = append(found, b.address())
			}
		}
	}
	if len(found) == 0 && local != "" { // a variable, a check or an output
		found = append(found, local)
	}
	return found
}

func localAddress(b *hclsyntax.Block) string {
	address := b.Type
	if b.Type == "variable" {
		address = "var"
	}
	for _, label := range b.Labels {
		address += "." + label
	}
	return address
}
