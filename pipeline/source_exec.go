package pipeline

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// Limits of a command.
const (
	maxOutputs    = 32
	maxExecInputs = 20_000
)

// validVariable is what names of environment variables look like everywhere.
var validVariable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// computeExec plans a command. Nothing runs: its outputs have their places, and what they are is known when it has run.
func (e *evaluator) computeExec(inst *instance) map[string]cty.Value {
	b := inst.body
	x := &Exec{Command: b.texts("command"), Dir: e.abs("."), Outputs: map[string]string{}}
	if b.has("dir") {
		x.Dir = e.abs(b.text("dir"))
		if e.facts != nil && !e.pending(b.text("dir")) {
			if err := e.facts.directory(b.text("dir")); err != nil {
				e.report(fault("Directory not found", sentence(err.Error()), b.rangeOf("dir")))
			}
		}
	}
	e.execEnvironment(inst, x)
	values := make(map[string]string)
	outputs, used := b.textMap("outputs"), make(map[string]string)
	if len(outputs) > maxOutputs {
		e.report(fault("Too many outputs", fmt.Sprintf("A command has at most %d outputs; an archive holds more.", maxOutputs), b.rangeOf("outputs")))
		return nil
	}
	for _, name := range keys(outputs) {
		at := elementRange(b.content.attrs["outputs"].Expr, &problem{index: -1, key: name})
		clean := path.Clean(outputs[name])
		if reason := checkOutput(outputs[name]); reason != "" {
			e.report(fault("Wrong path", reason, at.Ptr()))
			continue
		}
		for other, of := range used {
			if clean == other || strings.HasPrefix(clean, other+"/") || strings.HasPrefix(other, clean+"/") {
				e.report(fault("Duplicate output", fmt.Sprintf("%s and %s cannot both be outputs: %s.", clean, other, of+" and "+name), at.Ptr()))
			}
		}
		used[clean] = name
		x.Outputs[name] = clean
		values[name] = path.Join(sourceDir(inst.address), clean)
	}
	if b.has("outputs") && len(outputs) == 0 {
		e.report(fault("Missing value", "A command without outputs makes nothing that anybody could use.", b.rangeOf("outputs")))
	}
	e.execInputs(inst, x)
	e.makes(inst, &SourceAction{Type: SourceExec, Exec: x}, slices.Collect(mapValues(x.Outputs))...)
	if !b.has("outputs") || !b.values["outputs"].IsWhollyKnown() {
		return map[string]cty.Value{"outputs": cty.UnknownVal(cty.Map(cty.String))}
	}
	return map[string]cty.Value{"outputs": textMapValue(values)}
}

func mapValues(m map[string]string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, k := range keys(m) {
			if !yield(m[k]) {
				return
			}
		}
	}
}

// checkOutput tells what is wrong with the path of an output.
func checkOutput(name string) string {
	clean := path.Clean(name)
	if !filepath.IsLocal(filepath.FromSlash(clean)) || clean == "." || strings.Contains(name, `\`) {
		return fmt.Sprintf("%q is not a path inside the output directory; write it relative to $OUT, without \"..\".", shorten(name))
	}
	for step := range strings.SplitSeq(clean, "/") {
		if strings.HasPrefix(step, ".") {
			return fmt.Sprintf("%q begins with a dot; such names are for files that are still being written.", shorten(step))
		}
	}
	return ""
}

func (e *evaluator) execEnvironment(inst *instance, x *Exec) {
	b := inst.body
	environment := b.textMap("environment")
	for _, name := range keys(environment) {
		at := elementRange(b.content.attrs["environment"].Expr, &problem{index: -1, key: name})
		switch {
		case !validVariable.MatchString(name):
			e.report(fault("Wrong name", fmt.Sprintf("%q is not the name of an environment variable.", shorten(name)), at.Ptr()))
		case name == "OUT" || name == "SOURCE_DATE_EPOCH":
			e.report(fault("Wrong name", fmt.Sprintf("%s is set for every command and has one meaning.", name), at.Ptr()))
		}
	}
	if !b.secret["environment"] {
		x.Environment = environment
		return
	}
	x.SecretEnvironment = make(map[string]Secret, len(environment))
	for name, value := range environment {
		x.SecretEnvironment[name] = Secret(value)
	}
}

// execInputs finds the files that a command reads: those that its patterns name, and outputs of other sources that stand in
// its command line.
func (e *evaluator) execInputs(inst *instance, x *Exec) {
	b := inst.body
	seen := make(map[string]bool)
	take := func(abs string) {
		if !seen[abs] {
			seen[abs] = true
			x.Inputs = append(x.Inputs, abs)
		}
	}
	for _, texts := range [][]string{x.Command, slices.Collect(mapValues(x.Environment))} {
		for _, text := range texts {
			for _, abs := range keys(e.sources.made) {
				if rel := e.shown(abs); strings.Contains(text, rel) || strings.Contains(text, abs) {
					take(abs)
				}
			}
		}
	}
	for i, pattern := range b.texts("inputs") {
		files, err := e.execInput(pattern)
		if err != nil {
			e.report(fault("Input not found", sentence(err.Error()), b.rangeOfElement("inputs", i)))
			continue
		}
		for _, f := range files {
			take(e.abs(f))
		}
		if len(x.Inputs) > maxExecInputs {
			e.report(fault("Too many inputs", fmt.Sprintf("The command has more than %d inputs; choose fewer files.", maxExecInputs), b.rangeOfElement("inputs", i)))
			break
		}
	}
	slices.Sort(x.Inputs)
}

// execInput lists the files that a pattern stands for: a file, all files below a directory, or those that a glob matches.
func (e *evaluator) execInput(pattern string) ([]string, error) {
	if e.pending(pattern) {
		return []string{pattern}, nil
	}
	if e.facts == nil {
		return nil, nil
	}
	base, rest := globBase(pattern)
	if rest == "" {
		_, err := e.facts.regular(pattern)
		if err == nil || e.facts.directory(pattern) != nil {
			return []string{pattern}, err
		}
		rest = "**"
	}
	names, err := e.facts.match(base, rest)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, name := range names {
		if file := path.Join(base, name); !e.ownFile(file) {
			files = append(files, file)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("nothing matches %s", pattern)
	}
	for _, f := range files { // a link to a directory, or a device
		if _, err := e.facts.regular(f); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// ownFile tells whether a file belongs to the tool: outputs of the last build must not be inputs of the next one.
func (e *evaluator) ownFile(file string) bool {
	rel := filepath.ToSlash(e.shown(e.abs(file)))
	out := path.Clean(filepath.ToSlash(e.out()))
	return strings.HasPrefix(rel, ".twinkeel/") || strings.HasPrefix(rel, out+"/") || strings.HasPrefix(rel, ".git/")
}
