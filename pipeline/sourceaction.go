package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// SourceDir is where source actions put their outputs, below the pipeline's directory. It belongs to them alone.
const SourceDir = ".twinkeel/sources"

// The types of source actions.
const (
	SourceUnpack = "unpack" // decompress a file
	SourceCopy   = "copy"   // copy the chosen part of a directory
	SourceHTTP   = "http"   // fetch a file
	SourceExec   = "exec"   // run a command
)

// SourceAction makes files that artifacts and images are made of. Where its outputs will be is known before it runs, so that
// everything else can be planned. Paths are absolute. One of Unpack, Copy, HTTP and Exec is set, as Type says.
type SourceAction struct {
	Address string   `json:"address"`
	Type    string   `json:"type"`
	Dir     string   `json:"dir"`     // of the outputs, for this action alone
	Outputs []string `json:"outputs"` // sorted; files below Dir, but of a copy the one directory
	Unpack  *Unpack  `json:"unpack,omitempty"`
	Copy    *Copy    `json:"copy,omitempty"`
	HTTP    *Fetch   `json:"http,omitempty"`
	Exec    *Exec    `json:"exec,omitempty"`
}

// Unpack says what to decompress.
type Unpack struct {
	From    string `json:"from"`
	MaxSize int64  `json:"max_size"` // bytes of the result
}

// Copy says what to take of a directory.
type Copy struct {
	From  string   `json:"from"`
	Files []string `json:"files"` // relative, sorted
}

// Fetch says what to get from where.
type Fetch struct {
	URL     string            `json:"url"`
	SHA256  string            `json:"sha256"` // empty: not known, and nothing can be fetched but to learn it
	MaxSize int64             `json:"max_size"`
	Headers map[string]Secret `json:"headers,omitempty"`
}

// Exec says what to run, and what comes of it.
type Exec struct {
	Command     []string          `json:"command"`
	Dir         string            `json:"dir"`
	Environment map[string]string `json:"environment,omitempty"`
	// SecretEnvironment is Environment when its values are sensitive. They do not count in the key.
	SecretEnvironment map[string]Secret `json:"secret_environment,omitempty"`
	Inputs            []string          `json:"inputs,omitempty"` // files, sorted
	Outputs           map[string]string `json:"outputs"`          // name to path below the action's Dir, relative
}

// FileCheck is a question about a file for a slot, a partition or a reserve. Of a file that a source action makes it can be
// asked when it is there.
type FileCheck struct {
	File       string // absolute
	Place      string // what it must fit into, in words
	Size       int64  // of that, bytes
	Filesystem string // of that; "none" takes everything, and so does a reserve, which has none
	Sector     int64  // of the disk, bytes
	Flash      bool   // it is raw flash, where no file system but ubifs can be declared
	Slot       bool   // the device boots from there, and whatever is there as it is
	Packed     bool   // where a file system is wanted it may be compressed, and is unpacked where it goes
}

// sources knows what the source actions of one evaluation make.
type sources struct {
	made map[string]string       // absolute path of an output to the address of what makes it
	fact map[string]filesystemAt // of outputs that are known before they are made
}

// filesystemAt is what a superblock says.
type filesystemAt struct {
	kind  string
	size  int64 // bytes
	block int64 // bytes, the least it reads and writes; 0: not known, or any will do
}

func (s *sources) add(a *SourceAction) {
	if s.made == nil {
		s.made = make(map[string]string)
	}
	for _, out := range a.Outputs {
		s.made[out] = a.Address
	}
}

// maker returns the address of the source action that makes a file, or the directory that it is in.
func (s *sources) maker(abs string) string {
	if s == nil || len(s.made) == 0 {
		return ""
	}
	for {
		if address := s.made[abs]; address != "" {
			return address
		}
		up := filepath.Dir(abs)
		if up == abs {
			return ""
		}
		abs = up
	}
}

// sourceDir is where an instance's outputs go, relative to the pipeline. Keys of for_each may be anything; a digest keeps
// two of them apart that look alike after cleaning.
func sourceDir(address string) string {
	name := strings.TrimPrefix(address, "source.")
	clean := strings.Map(func(r rune) rune {
		if validName.MatchString(string(r)) {
			return r
		}
		return '-'
	}, strings.NewReplacer(`["`, "-", `"]`, "").Replace(name))
	if clean != name {
		sum := sha256.Sum256([]byte(address))
		const most = 100
		clean = clean[:min(len(clean), most)] + "-" + hex.EncodeToString(sum[:4])
	}
	return path.Join(SourceDir, strings.TrimLeft(clean, "."))
}

// makes notes that an instance becomes an action with outputs at these paths below its directory.
func (e *evaluator) makes(inst *instance, a *SourceAction, outputs ...string) {
	a.Address, a.Dir = inst.address, e.pipeline.abs(sourceDir(inst.address))
	for _, out := range outputs {
		a.Outputs = append(a.Outputs, filepath.Join(a.Dir, filepath.FromSlash(out)))
	}
	slices.Sort(a.Outputs)
	inst.result = a
	e.sources.add(a)
}

// pending tells whether a source action makes the file, so that planning must not look at it: what is there now is of an
// earlier run, if anything is.
func (e *evaluator) pending(name string) bool {
	return e.sources.maker(e.pipeline.abs(name)) != ""
}

// sourceActions returns the instances that become source actions.
func (e *evaluator) sourceActions() []*instance {
	var out []*instance
	for _, b := range e.declared(string(KindSource)) {
		for _, inst := range e.blocks[b] {
			if _, ok := inst.result.(*SourceAction); ok {
				out = append(out, inst)
			}
		}
	}
	return out
}

// addSourceEdges makes an action depend on the source actions whose outputs it reads.
func (e *evaluator) addSourceEdges(a *Action) {
	for _, file := range a.inputFiles() {
		if maker := e.sources.maker(file); maker != "" && maker != a.Address && !slices.Contains(a.DependsOn, maker) {
			a.DependsOn = append(a.DependsOn, maker)
		}
	}
}

// inputFiles are the files and directories that an action reads; absolute.
func (a *Action) inputFiles() []string {
	var out []string
	add := func(files ...string) {
		for _, f := range files {
			if f != "" {
				out = append(out, f)
			}
		}
	}
	switch {
	case a.Artifact != nil:
		p := a.Artifact.Payload
		add(p.Files...)
		add(p.ImageFiles...)
		add(p.ComposeFiles...)
		add(a.Artifact.Scripts...)
		add(p.Directory, a.Artifact.SBOM)
	case a.Image != nil:
		for _, f := range a.Image.Fills {
			add(f.File, f.Dir, f.Tar)
			for _, inside := range keys(f.Files) {
				add(f.Files[inside])
			}
		}
		if a.Image.Server != nil {
			add(a.Image.Server.CACertificate)
		}
	case a.Source != nil && a.Source.Exec != nil:
		add(a.Source.Exec.Inputs...)
	case a.Source != nil && a.Source.Unpack != nil:
		add(a.Source.Unpack.From)
	}
	return out
}

// onlySources reports a target that names sources which nothing has to be done for.
func (e *evaluator) onlySources(targets []string, chosen []*instance) {
	for _, t := range targets {
		if slices.ContainsFunc(chosen, func(inst *instance) bool { return inst.answers(t) }) {
			continue
		}
		for _, b := range e.declared(string(KindSource)) {
			if matchAddress(t, b.address()) {
				e.report(fault("Nothing to make", fmt.Sprintf("%s makes nothing: it only says what is there.", b.address()), nil))
				break
			}
		}
	}
}

// problemOf says what is wrong with a file for its place: that it is larger, of another kind than the layout promises, or
// compressed where nothing unpacks it. An empty summary means nothing.
func (c FileCheck) problemOf(f *facts, shown string) (summary, detail string) {
	got, err := f.regular(c.File)
	if err != nil {
		return "", "" // reported where the file is named
	}
	var found filesystemAt
	if got > 0 && got <= c.Size {
		found, err = f.filesystemOf(c.File)
		if found.kind == "" && f.compressed(c.File) {
			return c.problemInside(f, shown)
		}
	}
	return c.judge(shown, got, found, err)
}

// problemInside is problemOf for a compressed file.
func (c FileCheck) problemInside(f *facts, shown string) (summary, detail string) {
	inside, _ := f.packedFilesystem(c.File) // whether all of it can be unpacked is seen when it is
	switch {
	case c.declared() && c.Packed:
		if inside.kind == "" {
			return "", ""
		}
		return c.judge("What is in "+shown, max(inside.size, 1), inside, nil)
	case c.Slot && !c.Packed:
		return "Compressed file", fmt.Sprintf("%s is compressed. Devices write the payload as it is, and could not boot from what %s would hold. Decompress it first; the artifact is compressed by itself.", shown, c.Place)
	case c.Slot:
		return "Compressed file", fmt.Sprintf("%s is compressed, and %s has filesystem = \"none\", so it would be copied as it is and the device could not boot from it. %s", shown, c.Place, c.unpackAdvice(inside.kind))
	}
	return "", ""
}

// doubtOf tells of a compressed file system where one is copied as it is. It is no error: there may be something that reads it.
func (c FileCheck) doubtOf(f *facts, shown string) string {
	if c.declared() || c.Slot || !f.compressed(c.File) {
		return ""
	}
	inside, err := f.packedFilesystem(c.File)
	if err != nil || inside.kind == "" {
		return ""
	}
	return fmt.Sprintf("%s holds a compressed %s file system, and is copied into %s as it is. %s", shown, inside.kind, c.Place, c.unpackAdvice(inside.kind))
}

func (c FileCheck) unpackAdvice(kind string) string {
	if kind == "" || c.Filesystem == "" || c.Flash && kind != ubifs {
		return "Decompress it first."
	}
	return fmt.Sprintf("Set filesystem = %q there to have it unpacked, or decompress it first.", kind)
}

// declared tells that a certain file system is wanted.
func (c FileCheck) declared() bool { return c.Filesystem != "none" && c.Filesystem != "" }

// judge is problemOf for a file of which that is known.
func (c FileCheck) judge(shown string, got int64, found filesystemAt, err error) (summary, detail string) {
	switch {
	case got > c.Size:
		return "File system too large for its place", fmt.Sprintf("%s has %s, but %s has only %s. Make it larger in the layout, or the file smaller.",
			shown, formatSize(got), c.Place, formatSize(c.Size))
	case got == 0:
		return "Empty file", fmt.Sprintf("%s is empty; the build that makes it was probably interrupted.", shown)
	case err != nil:
		return "Cannot read file", sentence(err.Error())
	case c.declared() && found.kind == "":
		return "Wrong file system", fmt.Sprintf("%s is no file system, or a compressed one, but %s is declared as %s.", shown, c.Place, c.Filesystem)
	case c.declared() && found.kind != c.Filesystem:
		return "Wrong file system", fmt.Sprintf("%s holds %s, but %s is declared as %s.", shown, found.kind, c.Place, c.Filesystem)
	case found.size > got:
		return "Truncated file", fmt.Sprintf("%s has %s, but the %s file system in it has %s; the build or the copy was probably interrupted.", shown, formatSize(got), found.kind, formatSize(found.size))
	case c.declared() && found.block != 0 && found.block < c.Sector:
		unit, option := "blocks", "b"
		if found.kind == "vfat" {
			unit, option = "sectors", "S"
		}
		return "File system for smaller sectors", fmt.Sprintf("%s has %s of %d bytes, but %s is on a disk with sectors of %d, where Linux cannot mount it. Make it with mkfs.%s -%s %d.",
			shown, unit, found.block, c.Place, c.Sector, found.kind, option, c.Sector)
	}
	return "", ""
}

// Check asks now what planning could not: the file is there. dir is the pipeline's directory, for the message.
func (c FileCheck) Check(fsys FileSystem, dir string) error {
	f := &facts{fs: fsys, dir: dir}
	shown := c.File
	if rel, err := filepath.Rel(dir, c.File); err == nil && filepath.IsLocal(rel) {
		shown = rel
	}
	if _, err := f.regular(c.File); err != nil {
		return err
	}
	if _, detail := c.problemOf(f, shown); detail != "" {
		return &checkError{strings.TrimSuffix(detail, ".")}
	}
	return nil
}

type checkError struct{ text string }

func (e *checkError) Error() string { return e.text }

// mentions tells whether the pipeline's files hold a word. Some facts take long to find, and are found for those who ask.
func (p *Pipeline) mentions(word string) bool {
	for _, f := range p.files {
		if strings.Contains(string(f.Bytes), word) {
			return true
		}
	}
	return false
}

// asksFor tells whether some reference may be about an attribute of a source of a type: it names it, or takes the source as a
// whole in a pipeline that names the attribute of something.
func (p *Pipeline) asksFor(typ, attribute string) bool {
	key := typ + "." + attribute
	if asked, known := p.asked[key]; known {
		return asked
	}
	asked := false
	look := func(expr hcl.Expression) {
		for _, t := range expr.Variables() {
			if asked || t.RootName() != "source" {
				continue
			}
			if len(t) > 1 {
				if kind, ok := stepName(t[1]); ok && kind != typ {
					continue
				}
			}
			whole := true
			for _, step := range t[min(3, len(t)):] {
				name, _ := stepName(step)
				asked = asked || name == attribute
				whole = whole && !language.byKind["source"].object.HasAttribute(name)
			}
			asked = asked || whole && p.mentions("."+attribute)
		}
	}
	for _, m := range p.modules {
		for _, a := range m.locals {
			look(a.Expr)
		}
		for _, lists := range []map[string][]*block{m.byKind, m.others} {
			for _, blocks := range lists {
				for _, b := range blocks {
					eachExpression(b.content, look)
					if b.forEach != nil {
						look(b.forEach.Expr)
					}
				}
			}
		}
	}
	if p.asked == nil {
		p.asked = make(map[string]bool)
	}
	p.asked[key] = asked
	return asked
}

// globBase splits a pattern into the directory before its first special character and the rest.
func globBase(pattern string) (dir, rest string) {
	steps := strings.Split(pattern, "/")
	i := slices.IndexFunc(steps, func(s string) bool { return strings.ContainsAny(s, "*?[{\\") })
	if i < 0 {
		return pattern, ""
	}
	dir = strings.Join(steps[:i], "/")
	switch {
	case i == 0:
		dir = "."
	case dir == "":
		dir = "/"
	}
	return dir, strings.Join(steps[i:], "/")
}

// rangeOfElement is where an element of a list argument stands.
func (b *body) rangeOfElement(name string, i int) *hcl.Range {
	if a := b.content.attrs[name]; a != nil {
		return elementRange(a.Expr, &problem{index: i}).Ptr()
	}
	return b.rangeOf(name)
}
