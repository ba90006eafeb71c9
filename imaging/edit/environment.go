package edit

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// Variables say what changes in an environment.
type Variables struct {
	Set   map[string]string
	Unset []string
	// Init also writes an environment that was never written when Set has no bootcmd. U-Boot then boots nothing by itself: a valid
	// environment replaces all of the variables that are built into it.
	Init bool
	// Known is where the environment is, as a fw_env.config says it. Without it the disk is looked through.
	Known []bootenv.Location
}

// Change of a variable.
type Change struct {
	Name string  `json:"name"`
	Old  *string `json:"old"` // nil: it was not there
	New  *string `json:"new"` // nil: it is not there any more
}

// Environment is what changed in one.
type Environment struct {
	Kind    string       `json:"kind"`
	Source  string       `json:"source"` // how its place is known
	Changes []Change     `json:"changes"`
	Boot    inspect.Boot `json:"boot"` // what it boots now
	// Warning says why it may not boot.
	Warning string `json:"warning,omitempty"`
}

const varBootCmd = "bootcmd"

// SetEnvironment changes variables of the boot loader's environment. Of a redundant one the copy that is not in use is written,
// with the next flag, as fw_setenv does. When nothing changes, nothing is written and Changes is empty.
func (im *Image) SetEnvironment(ctx context.Context, v Variables) (out *Environment, err error) {
	defer spaceError(&err, im.Path)
	e, vars, err := plan(im.Disk, v)
	if err != nil {
		return nil, err
	}
	if !maps.Equal(vars, e.Variables) {
		if e.Kind == inspect.EnvironmentGRUB {
			err = im.writeGRUB(ctx, e, v.changes())
		} else {
			err = writeUBoot(im.file(), e, vars)
		}
		if err != nil {
			return nil, err
		}
	}
	return outcome(im.Disk, v, e, vars)
}

// SetDeviceEnvironment does it on a block device, in its place. With two copies a power cut at any instant leaves one that is
// valid.
func SetDeviceEnvironment(ctx context.Context, device string, v Variables) (*Environment, error) {
	d, err := inspect.Open(ctx, device, inspect.Options{})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if d.Map == nil {
		return nil, fmt.Errorf("%s: %w", device, d.NoTable)
	}
	e, vars, err := plan(d, v)
	if err != nil {
		return nil, err
	}
	switch {
	case e.Kind == inspect.EnvironmentGRUB:
		return nil, refuse(device, "mount that partition and use grub-mender-grubenv-set, or change the image and flash it",
			"its environment is in files of a file system, which are not changed on a device")
	case e.Blank():
		return nil, refuse(device, "flash an image that has one, or boot once and run saveenv in U-Boot",
			"its environment was never written; that is only done in an image")
	}
	store, err := bootenv.OpenUBoot(locations(e, device))
	if err != nil {
		return nil, err
	}
	if err := store.Update(v.changes()); err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	return outcome(d, v, e, vars)
}

func locations(e *inspect.Environment, path string) (out []bootenv.Location) {
	for _, c := range e.Copies {
		out = append(out, bootenv.Location{Path: path, Offset: c.Offset, Size: c.Size})
	}
	return out
}

// changes as package bootenv has them: an empty value removes a variable.
func (v Variables) changes() map[string]string {
	all := maps.Clone(v.Set)
	if all == nil {
		all = map[string]string{}
	}
	for _, name := range v.Unset {
		all[name] = ""
	}
	return all
}

// plan finds the environment and its variables after the change.
func plan(d *inspect.Disk, v Variables) (*inspect.Environment, map[string]string, error) {
	found, err := findEnvironment(d, v.Known)
	if err != nil {
		return nil, nil, err
	}
	vars, err := bootenv.Apply(found.Variables, v.changes())
	if err != nil {
		return nil, nil, err
	}
	if found.Blank() && vars[varBootCmd] == "" && !v.Init {
		return nil, nil, refuse(d.Path,
			"give all variables, as with --file u-boot-initial-env from the build of U-Boot; without bootcmd only --init writes it",
			"its environment was never written: U-Boot goes by the variables built into it, all of which a new one would replace, and this one has no bootcmd")
	}
	return found, vars, nil
}

// findEnvironment wants exactly one that can be used, or that was never written.
func findEnvironment(d *inspect.Disk, known []bootenv.Location) (*inspect.Environment, error) {
	all, findings := d.Environments(known)
	switch {
	case len(all) > 1:
		return nil, refuse(d.Path, "name the one that counts with --fw-env-config", "it has several environments: by %s, and by %s", all[0].Source, all[1].Source)
	case len(all) == 0 && len(findings) > 0:
		return nil, refuse(d.Path, "say where the environment is on this disk with --fw-env-config", "%s: %s", findings[0].Place, findings[0].Text)
	case len(all) == 0:
		return nil, refuse(d.Path, "say where it is with --fw-env-config FILE, which has lines of device, offset and size",
			"no environment of a boot loader was found")
	}
	e := all[0]
	if e.Kind == inspect.EnvironmentUBoot {
		if err := checkPlaces(d, e); err != nil {
			return nil, err
		}
	}
	if !e.Usable() && !e.Blank() {
		return nil, refuse(d.Path, "check that the offsets and the size are those the boot loader was built with",
			"no copy of its environment (by %s) can be used: %s", e.Source, e.Copies[0].Reason)
	}
	return e, nil
}

// checkPlaces refuses copies that are in each other's way, or over a partition table: a damaged one is overwritten, and what
// says where it is may be wrong.
func checkPlaces(d *inspect.Disk, e *inspect.Environment) error {
	if _, err := bootenv.OpenUBoot(locations(e, d.Path)); err != nil {
		return refuse(d.Path, "", "its environment (by %s): %v", e.Source, err)
	}
	for _, c := range e.Copies {
		for _, r := range d.Map.Regions {
			if (r.Kind == imaging.KindTable || r.Kind == imaging.KindBackupTable) && c.Offset < r.End() && r.Offset < c.Offset+c.Size {
				return refuse(d.Path, "correct the offsets", "its environment (by %s) would be over the partition table, at %s", e.Source, c.Place)
			}
		}
	}
	return nil
}

// writeUBoot writes the copy that is not in use, or the only one; of an environment that was never written, all.
func writeUBoot(f *os.File, e *inspect.Environment, vars map[string]string) error {
	flag, targets := byte(1), []int{0, 1}[:len(e.Copies)]
	for i, c := range e.Copies {
		if !c.Used {
			continue
		}
		targets = []int{len(e.Copies) - 1 - i}
		if c.Flag != nil {
			flag = *c.Flag + 1
		}
	}
	for _, i := range targets {
		c := e.Copies[i]
		block, err := bootenv.EncodeUBoot(vars, int(c.Size), len(e.Copies) == 2, flag)
		if err != nil {
			return err
		}
		if err := durable.WriteAt(f, block, c.Offset); err != nil {
			return plainCause(err)
		}
	}
	return nil
}

// maxGRUBFile bounds the files of an environment, of which none has more than a block.
const maxGRUBFile = 4 * bootenv.GRUBSize

// writeGRUB changes the files outside of the image, where the store that devices use keeps their form, and puts them back.
func (im *Image) writeGRUB(ctx context.Context, e *inspect.Environment, changes map[string]string) error {
	files, _, err := imaging.OpenFilesystem(im.Disk.Section(e.Partition), e.Partition.Size)
	if err != nil {
		return fmt.Errorf("partition %s: %w", inspect.Title(e.Partition), err)
	}
	work, err := im.scratch()
	if err != nil {
		return err
	}
	outside := filepath.Join(work, "grub")
	before := map[string][]byte{}
	for _, c := range []string{"mender_grubenv1", "mender_grubenv2"} {
		if err := os.MkdirAll(filepath.Join(outside, c), 0o700); err != nil {
			return err
		}
		for _, name := range []string{"env", "lock", "lock.sha256sum"} {
			inside := path.Join(e.Dir, c, name)
			if info, err := fs.Stat(files, inside); err != nil || info.Size() > maxGRUBFile {
				continue // the store makes what is missing
			}
			text, err := fs.ReadFile(files, inside)
			if err != nil {
				continue
			}
			before[path.Join(c, name)] = text
			if err := im.scratchFile(path.Join("grub", c, name), text); err != nil {
				return err
			}
		}
	}
	store, err := bootenv.OpenGRUB(outside)
	if err != nil {
		return err
	}
	if err := store.Update(changes); err != nil {
		return err
	}
	after, err := grubChanges(outside, e.Dir, before)
	if err != nil {
		return err
	}
	return im.WriteFiles(ctx, e.Partition, after)
}

// grubChanges are the files that differ from what they were.
func grubChanges(outside, dir string, before map[string][]byte) (files []File, err error) {
	root := os.DirFS(outside)
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(root, name)
		if old, was := before[name]; err == nil && (!was || string(old) != string(text)) {
			files = append(files, File{Path: path.Join(dir, name), Data: text})
		}
		return err
	})
	return files, err
}

// outcome reads the environment back and compares it with what was meant.
func outcome(d *inspect.Disk, v Variables, before *inspect.Environment, vars map[string]string) (*Environment, error) {
	now, err := findEnvironment(d, v.Known)
	if err != nil {
		return nil, err
	}
	out := &Environment{Kind: now.Kind, Source: now.Source, Changes: []Change{}}
	if now.Blank() {
		return out, nil // nothing was asked for
	}
	if !maps.Equal(now.Variables, vars) {
		return nil, fmt.Errorf("%s: the environment reads back differently from what was written", d.Path)
	}
	out.Boot = inspect.BootOf(d.Map, now)
	out.Warning = bootWarning(d.Map, out.Boot, vars)
	for name, old := range before.Variables {
		if value, there := vars[name]; !there {
			out.Changes = append(out.Changes, Change{name, &old, nil})
		} else if value != old {
			out.Changes = append(out.Changes, Change{name, &old, &value})
		}
	}
	for name, value := range vars {
		if _, was := before.Variables[name]; !was {
			out.Changes = append(out.Changes, Change{name, nil, &value})
		}
	}
	slices.SortFunc(out.Changes, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// bootWarning looks at the variables that choose a slot, where there are slots.
func bootWarning(m *imaging.Map, boot inspect.Boot, vars map[string]string) string {
	part, hex := vars[bootenv.VarBootPart], vars[bootenv.VarBootPartHex]
	slots := slices.ContainsFunc(m.Regions, func(r imaging.Region) bool { return r.Slot != "" })
	if part == "" && !slots {
		return ""
	}
	p, there := m.Partition(boot.Partition)
	switch {
	case boot.Partition == 0:
		return boot.Why
	case !there:
		return fmt.Sprintf("it would boot partition %d, which is not there", boot.Partition)
	case p.Filesystem == imaging.FilesystemNone:
		return fmt.Sprintf("it would boot partition %s, which holds no file system", inspect.Title(p))
	}
	if n, err := strconv.ParseUint(hex, 16, 16); hex != "" && (err != nil || strconv.FormatUint(n, 10) != part) {
		return fmt.Sprintf("%s is %q and %s is %q: they name two partitions", bootenv.VarBootPart, part, bootenv.VarBootPartHex, hex)
	}
	return ""
}
