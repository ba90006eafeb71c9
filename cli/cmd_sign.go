package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
	"github.com/twinkeel/twinkeel/signing"
)

type pipelineSignOptions struct {
	signer string
	force  bool
}

func (a *app) signCommand() *cobra.Command {
	var o pipelineSignOptions
	c := &cobra.Command{
		Use:     "sign [ADDRESS]... | FILE.mender... --signer ADDRESS",
		Short:   "Sign built artifacts, where the key is",
		GroupID: groupMain,
		Long: `Sign the pipeline's artifacts that are built: what "build --unsigned" wrote where the key is not, or what another key has
signed. The signer is the one that the artifact's block names, or that of --signer. Nothing is built; an artifact that is not up
to date is an error.

Files are signed with --signer, whoever made them. "artifact sign" does the same with keys that no pipeline names.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runSign(cmd.Context(), o, args) },
	}
	c.Flags().Var((*notEmpty)(&o.signer), "signer", "`address` of the signer block to use, such as signer.kms.release")
	c.Flags().BoolVarP(&o.force, "force", "f", false, "replace the signature that a FILE has")
	return c
}

// verifyCommand is "artifact verify" under a shorter name: it is what scripts do most with files.
func (a *app) verifyCommand() *cobra.Command {
	c := a.artifactVerifyCommand()
	c.GroupID = groupMain
	return c
}

func (a *app) runSign(ctx context.Context, o pipelineSignOptions, args []string) error {
	var files, targets []string
	for _, arg := range args {
		if strings.HasSuffix(arg, ".mender") {
			files = append(files, arg)
		} else {
			targets = append(targets, arg)
		}
	}
	switch {
	case len(files) > 0 && len(targets) > 0:
		return usagef("files and addresses are signed one after the other, not in one command")
	case len(files) > 0:
		return a.signFiles(ctx, o, files)
	case o.force:
		return usagef("--force is about files; signatures of the pipeline's artifacts are replaced anyway")
	}
	return a.signOutputs(ctx, o, targets)
}

func (a *app) signFiles(ctx context.Context, o pipelineSignOptions, files []string) error {
	if o.signer == "" {
		return usagef("a file names no signer: give --signer ADDRESS")
	}
	p, err := a.load()
	if err != nil {
		return err
	}
	block, err := a.signerBlock(p, o.signer)
	if err != nil {
		return err
	}
	signer, err := build.OpenSigner(ctx, block)
	if err != nil {
		return err
	}
	defer signing.Close(signer)
	for _, name := range files {
		info, err := a.resign(ctx, name, "", o.force, signer.Sign)
		if err != nil {
			return err
		}
		info.KeyID = signer.KeyID()
		if err := a.printWritten(name, info); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) signerBlock(p *pipeline.Pipeline, address string) (*pipeline.Signer, error) {
	signer, diags := p.Signer(address)
	return signer, a.check(p, diags)
}

// signWith puts the signer at an address in the place of those that a plan's artifacts name; no address leaves them.
func (a *app) signWith(p *pipeline.Pipeline, plan *pipeline.Plan, address string) error {
	if address == "" {
		return nil
	}
	signer, err := a.signerBlock(p, address)
	if err != nil {
		return err
	}
	return eachArtifact(plan, func(artifact *pipeline.Artifact) error { artifact.Signer = signer; return nil })
}

// signOutputs signs artifacts of the pipeline.
func (a *app) signOutputs(ctx context.Context, o pipelineSignOptions, targets []string) error {
	p, plan, err := a.planOf(ctx, targets, pipeline.KindArtifact)
	if err != nil {
		return err
	}
	if len(plan.Actions) == 0 {
		return noBlockError(pipeline.KindArtifact)
	}
	if err := a.signWith(p, plan, o.signer); err != nil {
		return err
	}
	steps, err := a.decideSteps(ctx, plan, false)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if err := signable(s); err != nil {
			return &build.ActionError{Address: s.Action.Address, Err: err}
		}
	}
	record, err := a.make(ctx, buildOptions{}, plan, steps)
	if err != nil {
		return err
	}
	return a.printOutputs(record, steps)
}

// signable refuses what would have to be built.
func signable(s *build.Step) error {
	switch {
	case s.Action.Artifact != nil && s.Action.Artifact.Signer == nil:
		return &hintedError{"it has no signer", "set signer in its block, or give --signer"}
	case s.UpToDate() || s.Restore || s.Verb == build.VerbSign:
		return nil
	}
	reason := ""
	if len(s.Reasons) > 0 {
		reason = ": " + s.Reasons[0].Detail
	}
	return &hintedError{fmt.Sprintf("it is not up to date%s", reason), "twinkeel build --unsigned " + s.Action.Address}
}
