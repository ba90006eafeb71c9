// Package diag prints what is wrong with a pipeline: as text for people, with the line and the values that led to it, and
// as JSON for programs. It promises that no source, however odd, can garble the terminal (control characters are
// replaced, long lines cut around the mistake), that the order is always the same, and, with [Redactor], that secrets
// stay out of any stream.
//
// The text follows Terraform's in shape, and the JSON is the object of `terraform validate -json`, format version 1.0
// (OpenTofu 1.10, internal/command/jsonentities/diagnostic.go), so tools that read the one read the other.
package diag

import (
	"cmp"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Sort orders diagnostics by file and place, errors before warnings at one place. Those without a place come first.
func Sort(diags hcl.Diagnostics) {
	slices.SortStableFunc(diags, func(a, b *hcl.Diagnostic) int {
		return cmp.Or(compareRanges(a.Subject, b.Subject), cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Summary, b.Summary), cmp.Compare(a.Detail, b.Detail))
	})
}

func compareRanges(a, b *hcl.Range) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return cmp.Or(cmp.Compare(a.Filename, b.Filename), cmp.Compare(a.Start.Byte, b.Start.Byte), cmp.Compare(a.End.Byte, b.End.Byte))
}

// Count returns how many errors and warnings there are.
func Count(diags hcl.Diagnostics) (errors, warnings int) {
	for _, d := range diags {
		if d.Severity == hcl.DiagWarning {
			warnings++
		} else {
			errors++
		}
	}
	return errors, warnings
}

// reference is a value that a failing expression used.
type reference struct {
	name, statement string
}

// references describes the values behind a diagnostic, in the order of their names. Sensitive and unknown ones are named
// without their value.
func references(d *hcl.Diagnostic) []reference {
	if d.Expression == nil || d.EvalContext == nil {
		return nil
	}
	seen := make(map[string]bool)
	var refs []reference
	for _, t := range d.Expression.Variables() {
		name := traversalString(t)
		if seen[name] {
			continue
		}
		seen[name] = true
		v, diags := t.TraverseAbs(d.EvalContext)
		if diags.HasErrors() {
			continue
		}
		if text := describe(v); text != "" {
			refs = append(refs, reference{name, text})
		}
	}
	slices.SortFunc(refs, func(a, b reference) int { return cmp.Compare(a.name, b.name) })
	return refs
}

func traversalString(t hcl.Traversal) string {
	out := t.RootName()
	for _, step := range t[1:] {
		switch s := step.(type) {
		case hcl.TraverseAttr:
			out += "." + s.Name
		case hcl.TraverseIndex:
			switch key, _ := s.Key.Unmark(); {
			case !key.IsKnown() || key.IsNull():
				out += "[…]"
			case key.Type() == cty.String:
				out += "[" + quote(key.AsString()) + "]"
			case key.Type() == cty.Number:
				out += "[" + key.AsBigFloat().Text('f', -1) + "]"
			}
		}
	}
	return out
}

// describe completes "NAME is". It returns "" when there is nothing to say.
func describe(v cty.Value) string {
	if v.ContainsMarked() {
		return "sensitive and not shown"
	}
	ty := v.Type()
	switch {
	case !v.IsKnown():
		return ""
	case v.IsNull():
		return "null"
	case ty == cty.Bool:
		if v.True() {
			return "true"
		}
		return "false"
	case ty == cty.Number:
		return v.AsBigFloat().Text('g', 10)
	case ty == cty.String:
		return quote(v.AsString())
	case ty.IsObjectType():
		n := len(ty.AttributeTypes())
		if id, ok := ty.AttributeTypes()["id"]; ok && id == cty.String {
			return ""
		}
		return "an object with " + count(n, "attribute")
	case ty.IsMapType():
		return "a map with " + count(v.LengthInt(), "element")
	case ty.IsSetType():
		return "a set with " + count(v.LengthInt(), "element")
	case ty.IsListType() || ty.IsTupleType():
		return "a list with " + count(v.LengthInt(), "element")
	}
	return ""
}
