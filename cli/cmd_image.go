package cli

import (
	"github.com/spf13/cobra"

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
	for _, sub := range a.imageCommands() {
		c.AddCommand(sub)
	}
	return c
}
