package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
)

// maxSource is the largest file that fmt reads; the language has the same limit.
const maxSource = 8 << 20

type fmtOptions struct {
	check, diff, recursive, write, list bool
}

func (a *app) fmtCommand() *cobra.Command {
	var o fmtOptions
	c := &cobra.Command{
		Use:     "fmt [FILE|DIR|-]...",
		Short:   "Write pipeline files in their canonical form",
		GroupID: groupMain,
		Long: `Write pipeline files in their canonical form, in place. Without arguments all files of the pipeline; "-" formats
stdin to stdout. Prints the names of the files it changed. Files of variables (*.twinkeelvars.hcl) and of tests
(*.twinkeeltest.hcl, also those in tests/) are formatted, too. A file that cannot be read as a pipeline stays as it is; the
others are written all the same, and the exit code is 2.`,
		RunE: func(_ *cobra.Command, args []string) error {
			err := a.runFmt(o, args)
			var chosen *exitError
			if err == nil || errors.As(err, &chosen) {
				return err
			}
			return &exitError{exitUsage, err}
		},
	}
	c.Flags().BoolVar(&o.check, "check", false, "change nothing; exit with 3 when a file is not in canonical form")
	c.Flags().BoolVar(&o.diff, "diff", false, "show what changes")
	c.Flags().BoolVar(&o.recursive, "recursive", false, "also format what is in the directories below; those that begin with a dot are left out")
	c.Flags().BoolVar(&o.write, "write", true, "write the files; with --write=false nothing is changed, as with --check, but the exit code is 0")
	c.Flags().BoolVar(&o.list, "list", true, "print the names of the files that change; with --list=false none")
	return c
}

// formatResult is what `fmt --json` prints.
type formatResult struct {
	Changed   []string `json:"changed"`             // files; "-" is stdin
	Formatted *string  `json:"formatted,omitempty"` // what stdin becomes, where it would be printed
}

func (a *app) runFmt(o fmtOptions, args []string) error {
	defer garbagePercent(300)()
	if len(args) == 1 && args[0] == "-" {
		return a.fmtStdin(o)
	}
	if len(args) == 0 {
		args = []string{a.global.dir}
	}
	result := formatResult{Changed: []string{}}
	var broken []error
	for _, arg := range args {
		files := []string{arg}
		if info, err := os.Stat(arg); err != nil {
			broken = append(broken, withoutOperation(err))
			continue
		} else if info.IsDir() {
			if files, err = filesToFormat(arg, o.recursive); err != nil {
				broken = append(broken, err)
				continue
			}
		}
		for _, file := range files {
			if filepath.Ext(file) != ".hcl" {
				continue // JSON is left as it is
			}
			changed, err := a.fmtFile(o, file)
			if err != nil {
				broken = append(broken, err)
			} else if changed {
				result.Changed = append(result.Changed, relative(file))
			}
		}
	}
	if len(broken) > 0 {
		return together(broken)
	}
	if _, err := a.asJSON(result); err != nil {
		return err
	}
	if o.check && len(result.Changed) > 0 {
		return &exitError{code: exitVerify}
	}
	return nil
}

// together is what is wrong with several files as one error.
func together(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	all := &diagnosticsError{files: map[string]*hcl.File{}}
	for _, err := range errs {
		var d *diagnosticsError
		if errors.As(err, &d) {
			all.diags = append(all.diags, d.diags...)
			maps.Copy(all.files, d.files)
		} else {
			all.diags = append(all.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Cannot be formatted", Detail: err.Error() + "."})
		}
	}
	return all
}

// maxDirs is how many directories are searched for files to format.
const maxDirs = 100_000

// filesToFormat lists the files of the pipeline in dir, and with below those of the directories in it. There must be some.
func filesToFormat(dir string, below bool) ([]string, error) {
	if !below {
		files, err := pipeline.SourceFiles(dir)
		if err != nil {
			return nil, err
		}
		tests, err := pipeline.TestFiles(dir)
		return slices.Concat(files, variableFiles(dir), tests), err
	}
	var files []string
	dirs := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return withoutOperation(err)
		case !entry.IsDir():
			return nil
		case path != dir && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		}
		if dirs++; dirs > maxDirs {
			return fmt.Errorf("%s holds more than %d directories", dir, maxDirs)
		}
		if found, err := pipeline.SourceFiles(path); err == nil { // an error here is that there is none
			files = append(files, found...)
		}
		files = append(files, variableFiles(path)...)
		if found, err := pipeline.TestFiles(path); err == nil && filepath.Base(path) != "tests" { // whose files belong to the one above
			files = append(files, found...)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("there is no file of a pipeline in %s or below", dir)
	}
	return files, err
}

// variableFiles are the files of variables in a directory, which have the same syntax.
func variableFiles(dir string) []string {
	var files []string
	entries, _ := os.ReadDir(dir) // who asks has read it already
	for _, entry := range entries {
		if name := entry.Name(); !entry.IsDir() && strings.HasSuffix(name, ".twinkeelvars.hcl") && !strings.HasPrefix(name, ".") {
			files = append(files, filepath.Join(dir, name))
		}
	}
	return files
}

func (a *app) fmtFile(o fmtOptions, file string) (changed bool, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return false, err
	}
	src, err := readSource(file)
	if err != nil {
		return false, err
	}
	out, err := a.formatted(src, file)
	if err != nil || bytes.Equal(src, out) {
		return false, err
	}
	if o.list && !a.global.json {
		a.printf("%s\n", relative(file))
	}
	if o.diff && !a.global.json {
		a.printf("%s", diff.Diff("old/"+filepath.Base(file), src, "new/"+filepath.Base(file), out))
	}
	if o.check || !o.write {
		return true, nil
	}
	if file, err = filepath.EvalSymlinks(file); err != nil { // a link stays one
		return false, err
	}
	return true, durable.WriteFile(file, out, info.Mode().Perm())
}

func (a *app) fmtStdin(o fmtOptions) error {
	src, err := io.ReadAll(io.LimitReader(a.stdin, maxSource+1))
	if err != nil {
		return err
	}
	out, err := a.formatted(src, "<stdin>")
	if err != nil {
		return err
	}
	changed := !bytes.Equal(src, out)
	result := formatResult{Changed: []string{}}
	if changed {
		result.Changed = append(result.Changed, "-")
	}
	if text := string(out); !o.check {
		result.Formatted = &text
	}
	done, err := a.asJSON(result)
	switch {
	case err != nil:
		return err
	case done:
	case o.diff:
		a.printf("%s", diff.Diff("old/stdin", src, "new/stdin", out))
	case !o.check:
		a.printf("%s", out)
	}
	if o.check && changed {
		return &exitError{code: exitVerify}
	}
	return nil
}

func (a *app) formatted(src []byte, name string) ([]byte, error) {
	out, diags := pipeline.Format(src, name)
	if !diags.HasErrors() {
		return out, nil
	}
	return nil, &diagnosticsError{diags, map[string]*hcl.File{name: {Bytes: src}}}
}

func readSource(file string) ([]byte, error) {
	f, err := openFile(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxSource+1))
	if err != nil {
		return nil, err
	}
	if len(src) > maxSource {
		return nil, fmt.Errorf("%s: %w", file, errors.New("larger than 8 MiB, which no pipeline file is"))
	}
	return src, nil
}
