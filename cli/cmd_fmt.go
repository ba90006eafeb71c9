package cli

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

	"github.com/hashicorp/hcl/v2"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
)

// maxSource is the largest file that fmt reads; the language has the same limit.
const maxSource = 8 << 20

type fmtOptions struct {
	check, diff, recursive bool
}

func (a *app) fmtCommand() *cobra.Command {
	var o fmtOptions
	c := &cobra.Command{
		Use:     "fmt [FILE|DIR|-]...",
		Short:   "Write pipeline files in their canonical form",
		GroupID: groupMain,
		Long: `Write pipeline files in their canonical form, in place. Without arguments all files of the pipeline; "-" formats
stdin to stdout. Prints the names of the files it changed. Files of variables (*.twinkeelvars.hcl) and of tests
(*.twinkeeltest.hcl, also those in tests/) are formatted, too.`,
		RunE: func(_ *cobra.Command, args []string) error { return a.runFmt(o, args) },
	}
	c.Flags().BoolVar(&o.check, "check", false, "change nothing; exit with 3 when a file is not in canonical form")
	c.Flags().BoolVar(&o.diff, "diff", false, "show what changes")
	c.Flags().BoolVar(&o.recursive, "recursive", false, "also format what is in the directories below; those that begin with a dot are left out")
	return c
}

func (a *app) runFmt(o fmtOptions, args []string) error {
	defer patientGC()()
	if len(args) == 1 && args[0] == "-" {
		return a.fmtStdin(o)
	}
	if len(args) == 0 {
		args = []string{a.global.dir}
	}
	changed := []string{}
	for _, arg := range args {
		files := []string{arg}
		if info, err := os.Stat(arg); err != nil {
			return withoutOperation(err)
		} else if info.IsDir() {
			if files, err = filesToFormat(arg, o.recursive); err != nil {
				return err
			}
		}
		for _, file := range files {
			if filepath.Ext(file) != ".hcl" {
				continue // JSON is left as it is
			}
			c, err := a.fmtFile(o, file)
			if err != nil {
				return err
			}
			if c {
				changed = append(changed, relative(file))
			}
		}
	}
	if _, err := a.asJSON(map[string][]string{"changed": changed}); err != nil {
		return err
	}
	if o.check && len(changed) > 0 {
		return &exitError{code: exitVerify}
	}
	return nil
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
	if !a.global.json {
		a.printf("%s\n", relative(file))
	}
	if o.diff && !a.global.json {
		a.printf("%s", diff.Diff("old/"+filepath.Base(file), src, "new/"+filepath.Base(file), out))
	}
	if o.check {
		return true, nil
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
	switch {
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
