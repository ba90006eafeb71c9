package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/zclconf/go-cty/cty"
)

// treeOutput is the name of a chosen tree below its source's directory.
const treeOutput = "tree"

// computeDir lists a directory. When its globs leave something out, what others get is a copy without that.
func (e *evaluator) computeDir(inst *instance) map[string]cty.Value {
	b := inst.body
	out := map[string]cty.Value{"files": cty.UnknownVal(cty.List(cty.String)), "tree_sha256": cty.UnknownVal(cty.String)}
	include, exclude := b.texts("include"), b.texts("exclude")
	for _, list := range []string{"include", "exclude"} {
		for i, pattern := range b.texts(list) {
			if !doublestar.ValidatePattern(pattern) {
				e.report(fault("Wrong glob", fmt.Sprintf("%q is not a glob.", shorten(pattern)), b.rangeOfElement(list, i)))
				return out
			}
		}
	}
	if !b.has("path") || !b.unset("include") && !b.values["include"].IsWhollyKnown() || !b.unset("exclude") && !b.values["exclude"].IsWhollyKnown() {
		out["path"] = cty.UnknownVal(cty.String)
		return out
	}
	filtered := len(include) > 0 || len(exclude) > 0
	if e.facts == nil {
		if filtered { // whether they leave anything out is known with the files
			out["path"] = cty.UnknownVal(cty.String)
		}
		return out
	}
	if e.pending(b.text("path")) {
		if filtered {
			e.report(fault("Directory not found", fmt.Sprintf("%s is made by another source, so its files cannot be chosen before it has run.", b.text("path")), b.rangeOf("path")))
		}
		return out
	}
	t := &chosenTree{facts: e.facts, dir: b.text("path"), include: include, exclude: exclude}
	if err := t.read(); err != nil {
		e.report(fault("Directory not usable", sentence(err.Error()), b.rangeOf("path")))
		return out
	}
	if len(t.files) == 0 && filtered {
		e.report(fault("Directory not usable", fmt.Sprintf("Nothing in %s is left by include and exclude.", t.dir), b.rangeOf("path")))
		return out
	}
	out["files"], out["tree_sha256"] = textList(t.files), cty.NullVal(cty.String)
	if e.pipeline.mentions("tree_sha256") {
		sum, err := t.digest()
		if err != nil {
			e.report(fault("Cannot read file", sentence(err.Error()), b.rangeOf("path")))
			return out
		}
		out["tree_sha256"] = cty.StringVal(sum)
	}
	if t.left {
		e.makes(inst, &SourceAction{Type: SourceCopy, Copy: &Copy{From: e.abs(t.dir), Files: t.files}}, treeOutput)
		out["path"] = cty.StringVal(path.Join(sourceDir(inst.address), treeOutput))
	}
	return out
}

// chosenTree is a directory with what globs choose of it.
type chosenTree struct {
	facts            *facts
	dir              string
	include, exclude []string

	files []string // chosen: files and links, relative, sorted
	infos map[string]fs.FileInfo
	left  bool // something was not chosen
}

// chosen tells whether the globs choose a file. A glob that matches a directory is about everything below it.
func (t *chosenTree) chosen(name string) bool {
	in := len(t.include) == 0
	for at := name; at != "."; at = path.Dir(at) {
		match := func(pattern string) bool { ok, _ := doublestar.Match(pattern, at); return ok }
		if slices.ContainsFunc(t.exclude, match) {
			return false
		}
		in = in || slices.ContainsFunc(t.include, match)
	}
	return in
}

func (t *chosenTree) read() error {
	if err := t.facts.directory(t.dir); err != nil {
		return err
	}
	t.infos = make(map[string]fs.FileInfo)
	count := 0
	var walk func(rel string, depth int) error
	walk = func(rel string, depth int) error {
		if depth > 100 {
			return fmt.Errorf("%s is nested more than 100 directories deep", path.Join(t.dir, rel))
		}
		if err := t.facts.ctx.Err(); err != nil {
			return err
		}
		entries, err := t.facts.fs.ReadDir(t.abs(rel))
		if err != nil {
			return t.facts.explain(path.Join(t.dir, rel), err)
		}
		for _, e := range entries {
			if count++; count > maxEntries {
				return fmt.Errorf("%s holds more than %d files", t.dir, maxEntries)
			}
			name := path.Join(rel, e.Name())
			if e.IsDir() {
				if err := walk(name, depth+1); err != nil {
					return err
				}
				continue
			}
			if !t.chosen(name) {
				t.left = true
				continue
			}
			if err := t.take(name, e); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk("", 0); err != nil {
		return err
	}
	slices.Sort(t.files)
	return nil
}

func (t *chosenTree) abs(rel string) string {
	return filepath.Join(t.facts.abs(t.dir), filepath.FromSlash(rel))
}

func (t *chosenTree) take(name string, e fs.DirEntry) error {
	shown := path.Join(t.dir, name)
	switch {
	case e.Type() == fs.ModeSymlink:
		target, err := t.facts.fs.ReadLink(t.abs(name))
		if err != nil {
			return t.facts.explain(shown, err)
		}
		if !linkInside(name, target) {
			return fmt.Errorf("%s is a link to %s, which leads out of %s", shown, shorten(target), t.dir)
		}
	case !e.Type().IsRegular():
		return fmt.Errorf("%s is neither a file nor a link", shown)
	}
	info, err := e.Info()
	if err != nil {
		return t.facts.explain(shown, err)
	}
	t.files = append(t.files, name)
	t.infos[name] = info
	return nil
}

// linkInside tells whether a link in a tree stays in it. ".." is taken only at the beginning of a target: behind a name that
// is a link itself it would lead elsewhere than it looks.
func linkInside(name, target string) bool {
	if target == "" || path.IsAbs(target) {
		return false
	}
	named := false
	for step := range strings.SplitSeq(target, "/") {
		if step == ".." && named {
			return false
		}
		named = named || step != ".." && step != "." && step != ""
	}
	return filepath.IsLocal(filepath.FromSlash(path.Join(path.Dir(name), target)))
}

// digest is the SHA-256 of the chosen files: for each a line with its name, whether it can be executed, and its content.
func (t *chosenTree) digest() (string, error) {
	hash := sha256.New()
	for _, name := range t.files {
		info := t.infos[name]
		kind, content := "file", ""
		var err error
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			kind = "link"
			content, err = t.facts.fs.ReadLink(t.abs(name))
		default:
			if info.Mode()&0o111 != 0 {
				kind = "program"
			}
			content, err = t.facts.sha256(path.Join(t.dir, name))
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %q %q\n", kind, name, content)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
