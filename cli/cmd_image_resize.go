package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/edit"
)

type imageResizeOptions struct {
	device       string
	noFilesystem bool
	output       string
}

func (a *app) imageResizeCommand() *cobra.Command {
	var o imageResizeOptions
	c := &cobra.Command{
		Use:   "resize IMAGE [SIZE]",
		Short: "Give a disk image the size of a medium: backup table, last partition, file system",
		Long: `Grow an image to a size such as 8GiB, or to that of a device with --device-size-of: the backup partition table goes to the new
end, the last partition takes the room in front of it, and an ext4 file system in it grows, too (with resize2fs). Other
file systems keep their size. The image stays sparse.

An image shrinks only by what is free behind its last partition, which does not shrink itself.

  twinkeel image resize board.img 8GiB --output board-8g.img
  twinkeel image resize board.img --device-size-of /dev/sdb

` + editHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 2 && o.device != "":
				return usagef("SIZE and --device-size-of do not go together")
			case len(args) == 2, len(args) == 1 && o.device != "":
				return nil
			}
			return usagef("%s takes IMAGE and SIZE, or IMAGE and --device-size-of DEVICE", cmd.CommandPath())
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			text := ""
			if len(args) == 2 {
				text = args[1]
			}
			return a.runImageResize(cmd.Context(), o, args[0], text)
		},
	}
	f := c.Flags()
	f.Var((*notEmpty)(&o.device), "device-size-of", "take the size of this `device`, which is not written to")
	f.BoolVar(&o.noFilesystem, "no-filesystem", false, "grow the partition alone: the device grows the file system on its first start")
	outputFlag(c, &o.output)
	return c
}

// sizeChange is what `image resize --json` prints.
type sizeChange struct {
	*edit.Resized
	Image *edit.Result `json:"image"`
}

func (a *app) runImageResize(ctx context.Context, o imageResizeOptions, name, text string) error {
	want, err := a.wantedSize(o, text)
	if err != nil {
		return err
	}
	path, _, _, err := a.builtImage(ctx, name)
	if err != nil {
		return err
	}
	var out sizeChange
	out.Image, err = a.editImage(ctx, path, o.output, "resizing", func(im *edit.Image) (bool, error) {
		out.Resized, err = im.Resize(ctx, want, !o.noFilesystem)
		return true, err
	})
	if err != nil {
		return err
	}
	grown := out.Room > out.OldRoom
	if grown && !out.Grown && !o.noFilesystem && out.Filesystem != imaging.FilesystemNone {
		a.warnf("partition %d has more room now, its %s file system has not: only ext4 is grown here", out.Partition, out.Filesystem)
	}
	a.afterEdit(out.Image)
	if done, err := a.asJSON(out); done {
		return err
	}
	a.printf("%s: %s (was %s)\n", out.Image.Path, size(out.Size), size(out.OldSize))
	if grown {
		a.printf("partition %d %s: %s (was %s)\n", out.Partition, oneLine(out.Name), size(out.Room), size(out.OldRoom))
	}
	return nil
}

// wantedSize is the size that was asked for.
func (a *app) wantedSize(o imageResizeOptions, text string) (int64, error) {
	if o.device == "" {
		if text == "" {
			return 0, usagef("SIZE is empty; it takes a size, such as 8GiB")
		}
		return parseSize("SIZE", text)
	}
	f, err := os.Open(o.device)
	if err != nil {
		return 0, withoutOperation(err)
	}
	defer f.Close()
	if !isDevice(o.device) {
		return 0, usagef("--device-size-of %s: it is not a device", o.device)
	}
	n, err := f.Seek(0, io.SeekEnd)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: it has no medium", o.device)
	}
	return n, err
}
