package cli

import (
	"context"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

// checkUpToDate makes the checks that need what a build tells, for what is there and up to date.
func (a *app) checkUpToDate(ctx context.Context, plan *pipeline.Plan, steps []*build.Step) error {
	if !plan.Unchecked {
		return nil
	}
	record, err := build.ReadRecord(plan.OutDir)
	if err != nil {
		return err
	}
	return a.checkBuilt(ctx, builtFiles(record, steps, (*build.Step).UpToDate), "")
}

// checkMade makes them for what the steps have made or left alone.
func (a *app) checkMade(ctx context.Context, plan *pipeline.Plan, steps []*build.Step, record *build.Record) error {
	if !plan.Unchecked {
		return nil
	}
	all := func(*build.Step) bool { return true }
	return a.checkBuilt(ctx, builtFiles(record, steps, all), "\n\nWhat was built stays where it is.")
}

func builtFiles(record *build.Record, steps []*build.Step, which func(*build.Step) bool) map[string]pipeline.BuiltFile {
	built := map[string]pipeline.BuiltFile{}
	for _, s := range steps {
		if out := record.Outputs[s.Action.Address]; out != nil && which(s) {
			built[s.Action.Address] = pipeline.BuiltFile{Size: out.Size, SHA256: out.SHA256}
		}
	}
	return built
}

func (a *app) checkBuilt(ctx context.Context, built map[string]pipeline.BuiltFile, note string) error {
	if len(built) == 0 {
		return nil
	}
	diags := a.pipeline.CheckBuilt(ctx, build.Files{}, built)
	a.hide(a.pipeline)
	for _, d := range diags {
		d.Detail += note
	}
	return a.check(a.pipeline, diags)
}
