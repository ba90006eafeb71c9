package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline/scaffold"
)

func (a *app) importCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "import",
		Short:   "Turn what another tool describes into blocks of a pipeline",
		GroupID: groupMain,
		Args:    onlyCommands,
		RunE:    helpRun,
	}
	c.AddCommand(a.importWksCommand())
	return c
}

type importWksOptions struct {
	out, testdata string
}

func (a *app) importWksCommand() *cobra.Command {
	var o importWksOptions
	c := &cobra.Command{
		Use:   "wks FILE",
		Short: "Turn a kickstart file of wic (.wks, .wks.in) into a layout block",
		Long: `Turn a kickstart file of wic (.wks, .wks.in) into a layout block, printed or written to a new file.

The layout has the table that wic writes (msdos, gpt, gpt-hybrid), and everything stands where wic puts it, as far as the
file says how large things are. Two root file systems that look like a pair become slots, and so does a single one. Parts
outside the table (--no-table) become reserves. What a layout cannot express is said with file and line, and stands as a
comment in the text.

Bitbake's variables, ${NAME}, get their values from --var NAME=VALUE or from the .testdata.json that the build leaves
beside each image. Included files must lie in the directory of the kickstart file.`,
		Args: exactArgs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return a.runImportWks(o, args[0]) },
	}
	c.Flags().StringVarP(&o.out, "out", "o", "", "new `file` for the layout, such as layout.twinkeel.hcl")
	c.Flags().StringVar(&o.testdata, "testdata", "", "`file` with the build's variables, IMAGE-MACHINE.testdata.json")
	return c
}

// imported is what `import wks --json` prints.
type imported struct {
	File  string         `json:"file,omitempty"` // that was written
	Text  string         `json:"text"`
	Notes []importedNote `json:"notes"`
}

// importedNote is something that could not be carried over.
type importedNote struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Summary string `json:"summary"`
	Detail  string `json:"detail"`
}

func (a *app) runImportWks(o importWksOptions, file string) error {
	vars, err := a.bitbakeVariables(o.testdata)
	if err != nil {
		return err
	}
	if o.out != "" {
		if err := mustBeNew(o.out); err != nil {
			return err
		}
	}
	dir := filepath.Dir(file)
	root, err := os.OpenRoot(dir) // an included file cannot be outside, not even by a link
	if err != nil {
		return withoutOperation(err)
	}
	defer root.Close()
	in, err := scaffold.Import(scaffold.Kickstart{FS: root.FS(), Name: filepath.Base(file), Vars: vars})
	if err != nil {
		return err
	}
	files := map[string]*hcl.File{}
	for name, f := range in.Files {
		files[filepath.Join(dir, name)] = f
	}
	notes := []importedNote{}
	for _, d := range in.Diags {
		n := importedNote{Summary: d.Summary, Detail: d.Detail}
		if d.Subject != nil {
			at := *d.Subject
			at.Filename = filepath.Join(dir, at.Filename)
			d.Subject = &at
			n.File, n.Line = at.Filename, at.Start.Line
		}
		notes = append(notes, n)
	}
	if in.Diags.HasErrors() {
		return &diagnosticsError{in.Diags, files}
	}
	if o.out != "" {
		if err := writeNew(o.out, in.Text); err != nil {
			return err
		}
	}
	if done, err := a.asJSON(imported{File: o.out, Text: in.Text, Notes: notes}); done {
		return err
	}
	if len(in.Diags) > 0 {
		a.reportDiagnostics(in.Diags, files)
	}
	if o.out == "" {
		a.printf("%s", in.Text)
	} else {
		a.printf("%s written\n", relative(o.out))
	}
	return nil
}

// maxTestdata is the largest .testdata.json that is read; source "yocto" has the same limit.
const maxTestdata = 32 << 20

// bitbakeVariables are the variables of a build, and over them those of --var.
func (a *app) bitbakeVariables(testdata string) (map[string]string, error) {
	vars := map[string]string{}
	if testdata != "" {
		data, err := readSmall(testdata, maxTestdata)
		if err != nil {
			return nil, err
		}
		all := map[string]any{}
		if err := json.Unmarshal(data, &all); err != nil {
			return nil, fmt.Errorf("%s is not valid JSON: %w", testdata, err)
		}
		for name, value := range all {
			if text, ok := value.(string); ok {
				vars[name] = text
			}
		}
	}
	for _, v := range a.global.vars {
		if v.File != "" {
			return nil, usagef("--var-file holds variables of a pipeline; for bitbake's use --testdata or --var NAME=VALUE")
		}
		name, value, _ := strings.Cut(v.Var, "=")
		vars[name] = value
	}
	return vars, nil
}

// existsError says that a file is there and was left alone.
type existsError struct{ path string }

func (e *existsError) Error() string {
	return fmt.Sprintf("%s exists and is never overwritten", e.path)
}
func (e *existsError) Hint() string { return "choose another name, or move the file away" }

func mustBeNew(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return &existsError{path}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return withoutOperation(err)
	}
	return nil
}

// writeNew writes a file that was not there.
func writeNew(path, text string) error {
	if err := mustBeNew(path); err != nil {
		return err
	}
	return durable.WriteFile(path, []byte(text), 0o644)
}
