package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/pipeline"
)

func (a *app) imageCommand() *cobra.Command {
	var o buildOptions
	c := &cobra.Command{
		Use:     "image [ADDRESS]...",
		Short:   "Write disk images for flashing",
		GroupID: groupMain,
		Long: `Write the pipeline's disk images, and the artifacts they are made from. An image holds the partition table, the boot
files, the root file system in slot A, and on the data partition what the agent needs: the device type, the keys it
trusts, its server, and the first bootloader environment.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runBuild(cmd.Context(), o, args, pipeline.KindImage)
		},
	}
	o.addFlags(c)
	c.AddCommand(a.imageMapCommand())
	return c
}

func (a *app) imageMapCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "map FILE",
		Short: "Show the partitions of a disk image or a disk",
		Args:  exactArgs("FILE"),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.runImageMap(cmd.Context(), args[0]) },
	}
}

func (a *app) runImageMap(_ context.Context, file string) error {
	f, err := openFile(file)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	m, err := imaging.ReadMap(f, end)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if a.global.json {
		return a.printJSON(m)
	}
	a.printf("%s", m.Bar(min(a.ui.width, 100)))
	return nil
}
