package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/imaging/edit"
)

type imageSetEnvOptions struct {
	unset        []string
	file, config string
	output       string
	init         bool
}

func (a *app) imageSetEnvCommand() *cobra.Command {
	var o imageSetEnvOptions
	c := &cobra.Command{
		Use:   "set-env IMAGE|DEVICE [NAME=VALUE]...",
		Short: "Change variables of the boot loader's environment in a disk image",
		Long: `Change variables of the boot loader's environment: of U-Boot with one copy or two, of which the one that is not in use is written,
as fw_setenv does it, and of GRUB in the form of grub-mender-grubenv. Where it is, the pipeline's layout says, or a
fw_env.config on the disk, or the one given with --fw-env-config, or a search.

An environment that was never written is only written with a bootcmd, as with --file u-boot-initial-env: it replaces all
variables that are built into U-Boot, and without that one a board stops at its prompt.

On a block device U-Boot's variables are changed in their place; with two copies a power cut leaves one that is valid.

  twinkeel image set-env board.img bootlimit=3 --unset bootdelay

` + editHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s takes IMAGE and variables", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runImageSetEnv(cmd.Context(), o, args[0], args[1:])
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.unset, "unset", nil, "`name` of a variable to remove (may be repeated)")
	f.Var((*notEmpty)(&o.file), "file", "`file` with lines of NAME=VALUE, such as u-boot-initial-env; # begins a comment")
	f.Var((*notEmpty)(&o.config), "fw-env-config", "`file` that says where the environment is, as the one for fw_setenv")
	f.BoolVar(&o.init, "init", false, "write an environment that was never written even without a bootcmd")
	outputFlag(c, &o.output)
	return c
}

// maxVariables bounds a file of variables.
const maxVariables = 1 << 20

func (o *imageSetEnvOptions) variables(args []string) (edit.Variables, error) {
	v := edit.Variables{Set: map[string]string{}, Unset: o.unset, Init: o.init}
	if o.file != "" {
		text, err := readSmall(o.file, maxVariables)
		if err != nil {
			return v, err
		}
		line := 0
		for text := range strings.Lines(string(text)) {
			line++
			text = strings.TrimRight(text, "\r\n")
			if strings.TrimSpace(text) == "" || strings.HasPrefix(text, "#") {
				continue
			}
			name, value, ok := strings.Cut(text, "=")
			if !ok || name == "" {
				return v, &hintedError{o.file + " line " + strconv.Itoa(line) + ": it is not NAME=VALUE", "u-boot-initial-env, from the build of U-Boot, is such a file"}
			}
			v.Set[name] = value
		}
	}
	for _, arg := range args {
		name, value, err := splitVariable(arg)
		if err != nil {
			return v, err
		}
		v.Set[name] = value
	}
	for _, name := range o.unset {
		if _, twice := v.Set[name]; twice && o.file == "" {
			return v, usagef("%s is set and unset", name)
		}
		delete(v.Set, name)
	}
	if len(v.Set)+len(v.Unset) == 0 {
		return v, usagef("nothing to change: give NAME=VALUE, --unset or --file")
	}
	return v, nil
}

// environmentChange is what `image set-env --json` prints.
type environmentChange struct {
	*edit.Environment
	Image *edit.Result `json:"image,omitempty"` // as it was written; not on a device, and not when nothing changed
}

func (a *app) runImageSetEnv(ctx context.Context, o imageSetEnvOptions, name string, args []string) error {
	v, err := o.variables(args)
	if err != nil {
		return err
	}
	path, known, err := a.environmentPlaces(ctx, name, o.config)
	if err != nil {
		return err
	}
	v.Known = known
	var out environmentChange
	if isDevice(path) {
		if o.output != "" {
			return usagef("--output is for images; the variables of a device are changed in their place")
		}
		out.Environment, err = edit.SetDeviceEnvironment(ctx, path, v)
	} else {
		out.Image, err = a.editImage(ctx, path, o.output, "setting variables", func(im *edit.Image) (bool, error) {
			out.Environment, err = im.SetEnvironment(ctx, v)
			return err == nil && len(out.Changes) > 0, err
		})
	}
	if err != nil {
		return err
	}
	if out.Warning != "" {
		a.warnf("%s", oneLine(out.Warning))
	}
	a.afterEdit(out.Image)
	if done, err := a.asJSON(out); done {
		return err
	}
	a.printChanges(out.Environment)
	return nil
}

func (a *app) printChanges(e *edit.Environment) {
	s := a.ui.out
	for _, c := range e.Changes {
		switch name := oneLine(c.Name); {
		case c.Old == nil:
			a.printf("%s %s=%s\n", s.green("+"), name, oneLine(*c.New))
		case c.New == nil:
			a.printf("%s %s (was %s)\n", s.red("-"), name, oneLine(*c.Old))
		default:
			a.printf("%s %s=%s (was %s)\n", s.yellow("~"), name, oneLine(*c.New), oneLine(*c.Old))
		}
	}
	if len(e.Changes) == 0 {
		a.printf("nothing changes: the variables have these values already\n")
	}
}
