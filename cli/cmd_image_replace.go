package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/imaging/edit"
)

type imageReplaceOptions struct {
	output string
	force  bool
}

func (a *app) imageReplaceSlotCommand() *cobra.Command {
	var o imageReplaceOptions
	c := &cobra.Command{
		Use:   "replace-slot IMAGE PARTITION FILE",
		Short: "Put another root file system, or other content, into a partition of a disk image",
		Long: `Put a file system image into a slot or another partition: a raw one, one that is compressed (.gz, .xz, .zst, .bz2, .lz4), or the
payload of an artifact (.mender) of the type rootfs-image, whose checksum is verified but not its signature. Holes stay
holes, and what is left of the old content becomes zeros. A file that does not fit, or holds another kind of file system
than the partition, is refused.

The bootstrap artifact on the data partition still names the release that the image was built with; "image verify" says so.

` + partitionHelp + "\n\n" + editHelp,
		Args: exactArgs("IMAGE", "PARTITION", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runImageReplaceSlot(cmd.Context(), o, args[0], args[1], args[2])
		},
	}
	c.Flags().BoolVar(&o.force, "force", false, "take it whatever file system it holds, if it fits")
	outputFlag(c, &o.output)
	return c
}

// slotChange is what `image replace-slot --json` prints.
type slotChange struct {
	*edit.Replaced
	Release string       `json:"release,omitempty"` // of the artifact
	Image   *edit.Result `json:"image"`
}

func (a *app) runImageReplaceSlot(ctx context.Context, o imageReplaceOptions, name, partition, file string) error {
	path, _, _, err := a.builtImage(ctx, name)
	if err != nil {
		return err
	}
	if err := notOver("--output", o.output, file); err != nil {
		return err
	}
	content, release, done, err := slotContent(file)
	if err != nil {
		return err
	}
	defer done()
	content.Force = o.force
	out := slotChange{Release: release}
	out.Image, err = a.editImage(ctx, path, o.output, "replacing a partition", func(im *edit.Image) (bool, error) {
		im.Disk.FindAgent() // whose configuration names the slots, where the table does not
		r, err := im.Disk.Find(partition)
		if err != nil {
			return false, a.partitionError(im.Disk, err)
		}
		out.Replaced, err = im.Replace(ctx, r, content)
		return true, err
	})
	if err != nil {
		return err
	}
	a.afterEdit(out.Image)
	if done, err := a.asJSON(out); done {
		return err
	}
	what := out.Filesystem
	if what == "" {
		what = "no file system that is known"
	}
	a.printf("%s: %s of %s in partition %s\n", out.Image.Path, size(out.Size), what, partitionTitle(out.Replaced))
	return nil
}

func partitionTitle(r *edit.Replaced) string {
	if r.Name == "" {
		return fmt.Sprint(r.Partition)
	}
	return fmt.Sprintf("%d (%s)", r.Partition, oneLine(r.Name))
}

// slotContent opens what goes into a partition. Of an artifact that is its payload, read and checked on the way.
func slotContent(file string) (c edit.Content, release string, done func(), err error) {
	if err := checkRegular(file); err != nil {
		return c, "", nil, err
	}
	f, err := openFile(file)
	if err != nil {
		return c, "", nil, err
	}
	done = func() { f.Close() }
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	head := make([]byte, 8)
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return c, "", nil, withoutOperation(err)
	}
	if !bytes.Equal(head, []byte("version\x00")) { // an artifact is a tar archive that begins with this member
		return edit.Content{Name: file, File: file}, "", done, nil
	}
	r, err := artifactfmt.NewReader(f, artifactfmt.ReadOptions{Legacy: true})
	if err != nil {
		return c, "", nil, fmt.Errorf("%s: %w", file, err)
	}
	if kind := r.Info().PayloadType; kind != artifactfmt.RootfsImage {
		return c, "", nil, &hintedError{
			fmt.Sprintf("%s: its payload is %s, not a root file system", file, orNone(kind)), "an artifact of the type rootfs-image has one",
		}
	}
	payload, err := r.Next()
	if err != nil {
		return c, "", nil, fmt.Errorf("%s: %w", file, err)
	}
	return edit.Content{Name: file, Stream: payload, Size: payload.Size}, r.Info().Name, done, nil
}
