package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/imaging/edit"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

// What the commands that change images have in common.

const editHelp = `IMAGE is a raw image, or the address of an image block that is built. The work is done on a copy beside it, which shares its
blocks where the file system can; the copy takes the image's name when it is complete, and a block map (.bmap) and a
.sha256 file beside it are made anew. With --output IMAGE stays as it is, and may be compressed or of another format.`

// outputFlag is where the changed image goes.
func outputFlag(c *cobra.Command, output *string) {
	c.Flags().VarP((*notEmpty)(output), "output", "o", "write the changed image to this `file` and leave IMAGE as it is")
}

// editImage opens an image for a change, makes it, and puts the result in its place. When change says that there is nothing to
// change, IMAGE stays as it is.
func (a *app) editImage(ctx context.Context, path, output, doing string, change func(im *edit.Image) (bool, error)) (res *edit.Result, err error) {
	err = a.working(ctx, cmp.Or(output, path), doing, func(report func(done, total int64)) error {
		im, err := edit.Open(ctx, path, edit.Options{Output: output, Progress: report})
		if err != nil {
			return err
		}
		defer im.Abort()
		changed, err := change(im)
		if err != nil || !changed && output == "" {
			return err
		}
		res, err = im.Commit(ctx)
		return err
	})
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return res, err
}

// afterEdit says what else changed, and what does not fit the image any more.
func (a *app) afterEdit(res *edit.Result) {
	if res == nil {
		return
	}
	for _, path := range res.Rewritten {
		a.notef("%s: written anew\n", printable(path))
	}
	a.warnStale(res.Stale)
	if record, made := recorded(res.Path); made != nil {
		a.warnf("%s has the image as it was built; the next twinkeel image may build it again, without this change", record)
	}
}

// warnBeside names what describes a file as it was before something else was written to it.
func (a *app) warnBeside(path string) {
	for _, name := range edit.Beside(path) {
		if _, err := os.Lstat(name); err == nil {
			a.warnf("%s is about what %s held before; remove it", printable(name), printable(path))
		}
	}
}

// warnStale names signatures that are for an image as it was.
func (a *app) warnStale(signatures []string) {
	for _, sig := range signatures {
		signed := strings.TrimSuffix(sig, ".sig")
		a.warnf("%s is for the image as it was; sign again: openssl dgst -sha256 -sign KEY -out %s %s", printable(sig), printable(sig), printable(signed))
	}
}

// environmentPlaces are where a file in the form of fw_env.config, or the pipeline's layout, has the environment.
func (a *app) environmentPlaces(ctx context.Context, name, config string) (path string, known []bootenv.Location, err error) {
	path, im, planned, err := a.builtImage(ctx, name)
	if err != nil {
		return "", nil, err
	}
	if config == "" {
		if im != nil {
			known = build.EnvironmentLocations(im, planned)
		}
		return path, known, nil
	}
	text, err := readSmall(config, 64<<10)
	if err != nil {
		return "", nil, err
	}
	if known, err = bootenv.ParseFwEnvConfig(bytes.NewReader(text)); err != nil {
		return "", nil, &hintedError{fmt.Sprintf("%s: %v", config, err), hintOf(err)}
	}
	return path, known, nil
}

func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeDevice != 0
}

// splitVariable splits NAME=VALUE.
func splitVariable(text string) (name, value string, err error) {
	name, value, ok := strings.Cut(text, "=")
	switch {
	case !ok || name == "":
		return "", "", usagef("%q is not NAME=VALUE", text)
	case value == "":
		return "", "", usagef("%s has no value; --unset %s removes it", name, name)
	}
	return name, value, nil
}

// imageStem splits the name of an image into what is before and behind a device's own part.
func imageStem(path string) (stem, suffix string) {
	base := filepath.Base(path)
	suffix = filepath.Ext(base)
	if stem = strings.TrimSuffix(base, suffix); stem == "" || suffix == "" {
		return base, ".img"
	}
	return stem, suffix
}
