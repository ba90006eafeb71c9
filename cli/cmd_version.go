package cli

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/version"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			if done, err := a.asJSON(map[string]string{
				"version": version.Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
			}); done {
				return err
			}
			a.printf("twinkeel %s\n", version.Version)
			return nil
		},
	}
}
