package pipeline

import (
	"github.com/hashicorp/hcl/v2"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// PlanVariable is the value that a variable had for a plan, in canonical JSON. Even one that is not sensitive is not shown.
type PlanVariable struct {
	Name      string
	Sensitive bool
	JSON      Secret
}

// planVariables are the values of the pipeline's variables, by name.
func (e *evaluator) planVariables() []PlanVariable {
	var out []PlanVariable
	for _, name := range keys(e.pipeline.variables) {
		v, _ := e.symbol(symbol{root: "var", name: name}, hcl.Range{}).get().UnmarkDeep()
		if !v.IsWhollyKnown() {
			continue // the reason has been reported
		}
		text, err := ctyjson.Marshal(v, v.Type())
		if err != nil {
			continue // no variable can hold what JSON cannot
		}
		out = append(out, PlanVariable{name, e.pipeline.variables[name].sensitive, Secret(text)})
	}
	return out
}
