package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// secretOf is the mark of sensitive values; it names where the secret came from.
type secretOf string

// origins tells where the secrets in a value come from.
func origins(v cty.Value) string {
	_, marks := v.UnmarkDeep()
	var names []string
	for m := range marks {
		if s, ok := m.(secretOf); ok {
			names = append(names, string(s))
		}
	}
	slices.Sort(names)
	return strings.Join(names, " and ")
}

// keepSecret remembers every text and number in a sensitive value, so that output can be searched for them. Marks do most
// of the work, but a text that a library puts into an error message carries none.
func (p *Pipeline) keepSecret(v cty.Value) { p.keepSecrets(v, 1) }

// keepDerived does so for the sensitive parts of what an expression made. Short texts are left out: "prod", chosen by a
// condition on a secret, would be hidden wherever it stands.
func (p *Pipeline) keepDerived(v cty.Value) {
	if v.ContainsMarked() {
		p.keepSecrets(onlyMarked(v), 8)
	}
}

func (p *Pipeline) keepSecrets(v cty.Value, shortest int) {
	if p.secrets == nil {
		p.secrets = make(map[string]bool)
	}
	if v == cty.NilVal {
		return
	}
	plain, _ := v.UnmarkDeep()
	_ = cty.Walk(plain, func(_ cty.Path, leaf cty.Value) (bool, error) {
		if !leaf.IsKnown() || leaf.IsNull() {
			return false, nil
		}
		text := ""
		switch leaf.Type() {
		case cty.String:
			text = leaf.AsString()
		case cty.Number:
			text = leaf.AsBigFloat().Text('f', -1)
		}
		if len(text) >= shortest {
			p.secrets[text] = true
		}
		return true, nil
	})
}

// Secrets are the texts that no output may show, longest first: the sensitive values found so far. Feed them to a redactor
// after Load, and again after Plan or Outputs, which find those that come from files.
func (p *Pipeline) Secrets() []string {
	out := make([]string, 0, len(p.secrets))
	for s := range p.secrets {
		if s != "" {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return out
}

// refuseSecret explains why a sensitive value cannot go where it was put.
func refuseSecret(name string, v cty.Value) *problem {
	return &problem{
		summary: "Secret in plain sight",
		detail:  fmt.Sprintf("%s ends up where everybody can read it, but its value comes from %s, which is sensitive. If it is no secret, wrap it in nonsensitive().", name, origins(v)),
		index:   -1,
	}
}
