package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/internal/version"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
	"github.com/twinkeel/twinkeel/pipeline/scaffold"
)

type initOptions struct {
	from, machine, image string
	upgrade              bool
}

func (a *app) initCommand() *cobra.Command {
	var o initOptions
	c := &cobra.Command{
		Use:     "init [--from yocto DIR | --upgrade]",
		Short:   "Start a pipeline: a first file, a .gitignore, and what is still missing",
		GroupID: groupMain,
		Long: `Start a pipeline in the directory of -C, or here: main.twinkeel.hcl with comments, and a .gitignore. No file is ever
overwritten. It also says which programs and keys are missing, and how to get them.

With --from yocto DIR the pipeline is for what a build left in DIR, tmp/deploy/images/MACHINE or a build directory: its
machine, image, sizes, boot files, and what Mender's layer knows of the disk (.testdata.json). The result can be planned
at once; what the build does not say stands at the head of the file.

With --upgrade, for a pipeline that is there, the files that its http sources name without sha256 are fetched once, and what
they are is written to .twinkeel.lock.hcl, which belongs under version control. Later builds take nothing else.`,
		Example: `  twinkeel init
  twinkeel -C fleet init --from yocto ~/build/tmp/deploy/images/raspberrypi4-64 --image core-image-base`,
		Args: func(_ *cobra.Command, args []string) error { return o.check(args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.upgrade {
				return a.runUpgrade(cmd.Context())
			}
			return a.runInit(cmd.Context(), o, args)
		},
	}
	c.Flags().StringVar(&o.from, "from", "", "what made the system: yocto")
	c.Flags().StringVar(&o.machine, "machine", "", "MACHINE of the build, when there are several")
	c.Flags().StringVar(&o.image, "image", "", "image of the build, when there are several")
	c.Flags().BoolVar(&o.upgrade, "upgrade", false, "write the checksums of what http sources fetch to the lock file")
	return c
}

func (o *initOptions) check(args []string) error {
	switch {
	case o.upgrade && (o.from+o.machine+o.image != "" || len(args) > 0):
		return usagef("init --upgrade takes nothing else; -C names the pipeline's directory")
	case o.from != "" && o.from != "yocto":
		return usagef("--from takes yocto, not %q", o.from)
	case o.from != "" && len(args) != 1:
		return usagef("init --from yocto takes the deploy directory; got %s", plural(len(args), "argument"))
	case o.from == "" && len(args) > 0:
		return usagef("init takes no arguments without --from yocto; -C names the directory to start in")
	case o.from == "" && o.machine+o.image != "":
		return usagef("--machine and --image need --from yocto DIR")
	}
	return nil
}

// initialized is what `init --json` prints.
type initialized struct {
	Written []string      `json:"written"`
	Kept    []string      `json:"kept"` // there already
	Checks  []string      `json:"checks"`
	Missing []missingTool `json:"missing"`
}

// missingTool is something that the next commands need.
type missingTool struct {
	Name string `json:"name"`
	Run  string `json:"run"` // what gets it
}

const (
	initFile      = "main.twinkeel.hcl"
	initGitignore = "# What twinkeel makes, and keys, which never belong into version control.\n/out/\n/.twinkeel/\n/keys/\n"
)

func (a *app) runInit(ctx context.Context, o initOptions, args []string) error {
	dir := a.global.dir
	if there, err := pipeline.SourceFiles(dir); err == nil && len(there) > 0 {
		return &pipelineExistsError{relative(there[0])}
	}
	target := filepath.Join(dir, initFile)
	if err := mustBeNew(target); err != nil {
		return err
	}
	text, checks, err := a.draft(ctx, o, args)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	result := initialized{Written: []string{}, Kept: []string{}, Checks: notNil(checks), Missing: a.missing(dir)}
	if err := writeNew(target, text); err != nil {
		return err
	}
	result.Written = append(result.Written, relative(target))
	ignore := filepath.Join(dir, ".gitignore")
	var exists *existsError
	switch err := writeNew(ignore, initGitignore); {
	case errors.As(err, &exists):
		result.Kept = append(result.Kept, relative(ignore))
	case err != nil:
		return err
	default:
		result.Written = append(result.Written, relative(ignore))
	}
	if done, err := a.asJSON(result); err != nil {
		return err
	} else if !done {
		a.printInit(o, dir, &result)
	}
	return a.checkDraft(ctx, o, dir)
}

type pipelineExistsError struct{ file string }

func (e *pipelineExistsError) Error() string { return "there is a pipeline already: " + e.file }
func (e *pipelineExistsError) Hint() string {
	return "start in another directory with -C DIR; for a layout alone use twinkeel import wks"
}

// draft writes the pipeline.
func (a *app) draft(ctx context.Context, o initOptions, args []string) (text string, checks []string, err error) {
	if o.from == "" {
		text, err = scaffold.Starter()
		return text, nil, err
	}
	d, err := scaffold.FindDeploy(ctx, scaffold.DeployOptions{Dir: args[0], Machine: o.machine, Image: o.image})
	if err != nil {
		return "", nil, err
	}
	return scaffold.FromYocto(d, fromDir(a.global.dir, d.Dir))
}

// fromDir is how a pipeline names another directory: relative while that is short, so that both can move together.
func fromDir(dir, other string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return other
	}
	rel, err := filepath.Rel(abs, other)
	if err != nil || strings.HasPrefix(rel, filepath.Join("..", "..", "..")) {
		return other
	}
	return rel
}

// missing are the programs and the key that building needs and that are not there.
func (a *app) missing(dir string) []missingTool {
	missing := []missingTool{}
	for _, tool := range []struct{ name, pkg string }{{"mke2fs", "e2fsprogs"}, {"mkfs.vfat", "dosfstools"}, {"mcopy", "mtools"}} {
		if !haveTool(tool.name) {
			missing = append(missing, missingTool{tool.name, "apt-get install " + tool.pkg})
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "keys", "dev.pem")); err != nil {
		missing = append(missing, missingTool{"keys/dev.pem", "twinkeel keys generate " + filepath.Join(relativeDir(dir), "keys", "dev.pem")})
	}
	return missing
}

// relativeDir is dir as it can stand in a command.
func relativeDir(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}

func haveTool(name string) bool {
	if _, err := exec.LookPath(name); err == nil {
		return true
	}
	return slices.ContainsFunc([]string{"/usr/sbin", "/sbin"}, func(dir string) bool { // not in every user's PATH
		info, err := os.Stat(filepath.Join(dir, name))
		return err == nil && info.Mode()&0o111 != 0
	})
}

func (a *app) printInit(o initOptions, dir string, r *initialized) {
	for _, file := range r.Written {
		a.printf("%s written\n", file)
	}
	for _, file := range r.Kept {
		a.printf("%s kept; see that it ignores out/, .twinkeel/ and keys/\n", file)
	}
	if len(r.Checks) > 0 {
		a.printf("\nLook at these, they stand at the head of the file too:\n")
		for _, c := range r.Checks {
			a.printf("  - %s\n", printable(strings.TrimSuffix(c, ".")))
		}
	}
	if len(r.Missing) > 0 {
		a.printf("\nStill missing:\n")
		t := table{}
		for _, m := range r.Missing {
			t.add("  "+m.Name, m.Run)
		}
		t.print(a.stdout)
	}
	at := ""
	if dir != "." && dir != "" {
		at = " -C " + dir
	}
	next := "validate"
	if o.from != "" {
		next = "plan"
	}
	a.printf("\nNext:\n  twinkeel%s %s\n", at, next)
}

// checkDraft plans what was written for a build: what is wrong with it is better said now than at the first build.
func (a *app) checkDraft(ctx context.Context, o initOptions, dir string) error {
	if o.from == "" {
		return nil
	}
	p, diags := pipeline.Load(pipeline.LoadOptions{Dir: dir, Environ: a.env, Version: version.Version, Layouts: build.Layouts{}})
	if !diags.HasErrors() {
		_, diags = p.Plan(ctx, pipeline.PlanOptions{FS: build.Files{}})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(diags) > 0 {
		a.warnf("the pipeline was written, but its plan has these problems")
		a.reportDiagnostics(diags, p.Files())
	}
	if diags.HasErrors() {
		return fmt.Errorf("the pipeline that was written cannot be planned as it is")
	}
	return nil
}
