package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	goversion "github.com/hashicorp/go-version"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	hcljson "github.com/hashicorp/hcl/v2/json"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// File names.
const (
	suffixHCL      = ".twinkeel.hcl"
	suffixJSON     = ".twinkeel.json"
	suffixVarsHCL  = ".twinkeelvars.hcl"
	suffixVarsJSON = ".twinkeelvars.json"
	suffixAutoHCL  = ".auto.twinkeelvars.hcl"
	suffixAutoJSON = ".auto.twinkeelvars.json"
	maxFiles       = 1_000
	maxProblems    = 500 // that are reported of one step; a file of another language makes one for each line
)

// Pipeline is a loaded directory. It is not safe for concurrent use.
type Pipeline struct {
	*module // the root

	dir     string // absolute
	root    string // as it was given, which the names of files begin with
	version string // of the tool
	layouts LayoutSolver
	environ map[string]string
	files   map[string]*hcl.File
	given   map[string]*givenValue // of the root's variables

	sources map[string]*module // read from a directory, by its absolute path
	modules map[string]*module // instances by prefix, the root's included

	asked     map[string]bool // of asksFor
	effort    effort          // what the evaluation that goes on may still do
	secrets   map[string]bool
	loadDiags hcl.Diagnostics
	checked   *evaluator // the offline evaluation, once made
}

// block is a declared block.
type block struct {
	home    *module
	schema  *blockSchema
	typ     string // type label, or ""
	name    string // label, or ""
	content *content
	rng     hcl.Range // of the header
	nameRng hcl.Range
	forEach *hcl.Attribute
}

// address names the block in the whole pipeline.
func (b *block) address() string { return b.home.prefix + b.local() }

// local is what references in the block's module call it.
func (b *block) local() string {
	if b.typ != "" {
		return b.schema.Kind + "." + b.typ + "." + b.name
	}
	return b.schema.Kind + "." + b.name
}

// symbol is what the evaluator calls it.
func (b *block) symbol() symbol {
	return symbol{in: b.home.prefix, root: b.schema.Kind, typ: b.typ, name: b.name}
}

// Load reads the files of a pipeline and checks everything that needs no values: syntax, blocks, arguments, references.
// The Pipeline is never nil, so that its Files can serve to print the diagnostics. Evaluation comes with
// [Pipeline.Validate] and [Pipeline.Plan]; Validate works on a pipeline with errors too and finds what else is wrong.
func Load(o LoadOptions) (*Pipeline, hcl.Diagnostics) {
	dir := o.Dir
	if dir == "" {
		dir = "."
	}
	p := &Pipeline{
		module:  newModule("."),
		version: o.Version,
		layouts: o.Layouts,
		files:   make(map[string]*hcl.File),
		environ: make(map[string]string),
		given:   make(map[string]*givenValue),
		sources: make(map[string]*module),
	}
	p.modules = map[string]*module{"": p.module}
	p.renewEffort()
	for _, entry := range o.Environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			p.environ[name] = value
		}
	}
	p.loadDiags = p.load(dir, o)
	if len(p.variables)+len(p.blocks) > 0 {
		_ = p.Validate() // for Secrets; its diagnostics wait for who asks
	}
	diag.Sort(p.loadDiags)
	if more := len(p.loadDiags) - maxProblems; more > 0 {
		p.loadDiags = append(p.loadDiags[:maxProblems:maxProblems], fault("Too many problems", fmt.Sprintf("%d more are not shown.", more), nil))
	}
	return p, p.loadDiags
}

func (p *Pipeline) load(dir string, o LoadOptions) hcl.Diagnostics {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return hcl.Diagnostics{fault("Directory not found", sentence(err.Error()), nil)}
	}
	p.dir, p.root = abs, dir
	paths, err := SourceFiles(dir)
	if err != nil {
		return hcl.Diagnostics{fault("No pipeline found", sentence(err.Error()), nil)}
	}
	diags, fits := p.read(p.module, paths)
	if !fits {
		return diags
	}
	diags = append(diags, p.readGiven(dir, o)...)
	diags = append(diags, p.readModules(p.module, dir, nil)...)
	diags = append(diags, p.checkReferences()...)
	return diags
}

// read reads the files of a module. A file that is written for another version of the tool is not expected to make sense,
// so then nothing else is said.
func (p *Pipeline) read(m *module, paths []string) (diags hcl.Diagnostics, fits bool) {
	var bodies []hcl.Body
	for _, path := range paths {
		body, fileDiags := p.parseFile(path)
		diags = append(diags, fileDiags...)
		if body != nil {
			bodies = append(bodies, body)
		}
	}
	if versionDiags := checkRequiredVersion(bodies, p.version); versionDiags.HasErrors() {
		return versionDiags, false
	}
	for _, body := range bodies {
		diags = append(diags, m.declare(body)...)
	}
	p.effort.meterJSON(m)
	return diags, true
}

// Dir is the pipeline's directory, absolute.
func (p *Pipeline) Dir() string { return p.dir }

// FileName is how messages call a file of the pipeline: relative to its root.
func (p *Pipeline) FileName(file string) string {
	if rel, err := filepath.Rel(p.root, file); err == nil {
		return filepath.ToSlash(rel)
	}
	return file
}

// PlaceOf returns where the block with an address is declared; nil when there is none.
func (p *Pipeline) PlaceOf(address string) *hcl.Range {
	for _, m := range p.modules {
		for _, b := range m.blocks {
			if own := b.address(); address == own || strings.HasPrefix(address, own+"[") {
				return b.rng.Ptr()
			}
		}
	}
	return nil
}

// Files are the sources by the names that diagnostics use, values from the command line and the environment included.
func (p *Pipeline) Files() map[string]*hcl.File { return p.files }

// SourceFiles returns the files of the pipeline in dir, sorted. Names that begin with a dot, end in ~ or stand between #
// are skipped, as editors leave them behind. It is an error when there is none.
func SourceFiles(dir string) ([]string, error) {
	paths, err := listFiles(dir, suffixHCL, suffixJSON)
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("there is no *%s or *%s file in %s", suffixHCL, suffixJSON, dir)
	}
	return paths, nil
}

// cannotRead says that path can't be read, in words that name no system call.
func cannotRead(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("%s cannot be read: %w", path, err)
}

func listFiles(dir string, suffixes ...string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, cannotRead(dir, err)
	}
	var paths []string
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasPrefix(name, "#") {
			continue
		}
		if slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) && len(name) > len(s) }) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	if len(paths) > maxFiles {
		return nil, fmt.Errorf("%s holds %d files of a pipeline; at most %d are read", dir, len(paths), maxFiles)
	}
	return paths, nil // ReadDir sorts
}

func readSource(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, cannotRead(path, err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(src) > maxFileSize {
		return nil, fmt.Errorf("%s is larger than %s", path, formatSize(maxFileSize))
	}
	return src, nil
}

var byteOrderMark = []byte("\ufeff")

// parseFile reads and parses one file. The syntax follows from the name.
func (p *Pipeline) parseFile(path string) (hcl.Body, hcl.Diagnostics) {
	src, err := readSource(path)
	if err != nil {
		return nil, hcl.Diagnostics{fault("Cannot read file", sentence(err.Error()), nil)}
	}
	file, diags := parseSource(src, path)
	if file != nil {
		p.files[path] = file
	}
	if file == nil || file.Body == nil {
		return nil, diags
	}
	p.effort.meterBody(file.Body)
	return file.Body, diags
}

func parseSource(src []byte, path string) (*hcl.File, hcl.Diagnostics) {
	src = bytes.TrimPrefix(src, byteOrderMark)
	if !isJSON(path) {
		return parseNative(src, path)
	}
	if diags := checkJSONNesting(src, path); diags.HasErrors() {
		return &hcl.File{Bytes: src}, diags
	}
	file, diags := hcljson.Parse(src, path)
	if file == nil {
		file = &hcl.File{Bytes: src}
	}
	return file, diags
}

func isJSON(path string) bool { return strings.HasSuffix(path, ".json") }

// checkRequiredVersion looks for required_version alone, whatever else the files hold.
func checkRequiredVersion(bodies []hcl.Body, tool string) hcl.Diagnostics {
	var diags hcl.Diagnostics
	current, versionErr := goversion.NewVersion(tool)
	for _, body := range bodies {
		top, _, _ := body.PartialContent(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "twinkeel"}}})
		for _, b := range top.Blocks {
			inner, _, _ := b.Body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "required_version"}}})
			attr, ok := inner.Attributes["required_version"]
			if !ok {
				continue
			}
			v, valueDiags := attr.Expr.Value(nil)
			if valueDiags.HasErrors() || v.IsNull() || v.Type() != tString.cty {
				diags = append(diags, fault("Wrong required_version", "The required version is a text such as \"~> 0.1\", without references.", attr.Expr.Range().Ptr()))
				continue
			}
			constraint, err := goversion.NewConstraint(v.AsString())
			if err != nil {
				diags = append(diags, fault("Wrong required_version", fmt.Sprintf("%q is not a version constraint; write one such as \"~> 0.1\" or \">= 0.1, < 2\".", shorten(v.AsString())), attr.Expr.Range().Ptr()))
				continue
			}
			if versionErr == nil && !constraint.Check(current.Core()) {
				diags = append(diags, fault("Unsupported version of twinkeel",
					fmt.Sprintf("This pipeline needs twinkeel %s, and this is version %s. Other problems of the pipeline are not shown.", v.AsString(), tool), attr.Expr.Range().Ptr()))
			}
		}
	}
	return diags
}

// declare records what a file declares.
func (m *module) declare(body hcl.Body) hcl.Diagnostics {
	top, diags := readTop(body)
	for _, raw := range top {
		switch raw.Type {
		case "variable":
			diags = append(diags, m.declareVariable(raw)...)
		case "locals":
			diags = append(diags, m.declareLocals(raw)...)
		default:
			diags = append(diags, m.declareBlock(raw)...)
		}
	}
	return diags
}

func (m *module) declareLocals(raw *hcl.Block) hcl.Diagnostics {
	attrs, diags := readLocals(raw.Body)
	for _, a := range attrs {
		if first, dup := m.locals[a.Name]; dup {
			diags = append(diags, duplicate("local value", a.Name, a.NameRange, first.NameRange))
			continue
		}
		m.locals[a.Name] = a
		m.localNames = append(m.localNames, a.Name)
	}
	return diags
}

func (m *module) declareBlock(raw *hcl.Block) hcl.Diagnostics {
	b := &block{home: m, schema: language.byKind[raw.Type], rng: raw.DefRange, nameRng: raw.DefRange}
	var diags hcl.Diagnostics
	labels := raw.Labels
	if b.schema.typed() {
		b.typ, labels = labels[0], labels[1:]
		if b.schema.typeNamed(b.typ) == nil {
			return append(diags, fault("Unknown type of "+b.schema.Kind,
				fmt.Sprintf("There is no %s of type %q.%s", b.schema.Kind, b.typ, suggestion(b.typ, b.schema.typeNames(), "Known: ")), raw.LabelRanges[0].Ptr()))
		}
	}
	if b.schema.Label != "" {
		b.name, b.nameRng = labels[0], raw.LabelRanges[len(raw.LabelRanges)-1]
		diags = append(diags, checkLabel(b.name, b.nameRng)...)
		if diags.HasErrors() {
			return diags
		}
	}
	content, contentDiags := readContent(raw, b.schema, b.typ)
	diags = append(diags, contentDiags...)
	b.content = content
	if content != nil {
		b.forEach = content.forEach
	}

	switch {
	case b.schema.Refers:
		if first, dup := m.blocks[b.local()]; dup {
			return append(diags, duplicate(b.schema.Kind, strings.TrimPrefix(b.local(), b.schema.Kind+"."), b.rng, first.rng))
		}
		m.blocks[b.local()] = b
		m.byKind[b.schema.Kind] = append(m.byKind[b.schema.Kind], b)
		parent := b.schema.Kind
		if b.typ != "" {
			parent += "." + b.typ
		}
		if m.children[parent] == nil {
			m.children[parent] = make(map[string]*block)
		}
		m.children[parent][b.name] = b
	default:
		for _, first := range m.others[b.schema.Kind] {
			if b.schema.Once || first.name == b.name {
				return append(diags, duplicate(b.schema.Kind, b.name, b.rng, first.rng))
			}
		}
		m.others[b.schema.Kind] = append(m.others[b.schema.Kind], b)
	}
	return diags
}

func checkLabel(label string, rng hcl.Range) hcl.Diagnostics {
	if hclsyntax.ValidIdentifier(label) && len(label) <= maxName {
		return nil
	}
	return hcl.Diagnostics{fault("Wrong name", fmt.Sprintf("%q is not a name: letters, digits, _ and - are allowed, and a letter comes first.", shorten(label)), rng.Ptr())}
}

func duplicate(what, name string, second, first hcl.Range) *hcl.Diagnostic {
	if name != "" {
		name = " " + name
	}
	return fault("Duplicate "+what, fmt.Sprintf("There is already %s%s, at %s:%d,%d.", aWord(what), name, filepath.Base(first.Filename), first.Start.Line, first.Start.Column), second.Ptr())
}

func fault(summary, detail string, subject *hcl.Range) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: subject}
}

func caution(summary, detail string, subject *hcl.Range) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagWarning, Summary: summary, Detail: detail, Subject: subject}
}
