package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/artifactfmt"
)

type diffOptions struct {
	files, exitCode bool
}

func (a *app) artifactDiffCommand() *cobra.Command {
	var o diffOptions
	c := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Show how two artifacts differ, down to the files of their file systems",
		Long: `Show what differs between two artifacts: what their headers say, the payload's files and, with --files, the files in
the file systems that these hold. Lines begin with + for what NEW has, - for what OLD had and ~ for what changed.

` + insideHelp,
		Args: exactArgs("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runArtifactDiff(cmd.Context(), o, args[0], args[1])
		},
	}
	c.Flags().BoolVar(&o.files, "files", false, "compare the files in the payload's file system, too")
	c.Flags().BoolVar(&o.exitCode, "exit-code", false, "exit with 3 when they differ")
	return c
}

// difference is one line of a diff, and what --json prints of it.
type difference struct {
	Change string `json:"change"` // added, removed, changed
	What   string `json:"what"`   // such as "name", "provides rootfs-image.version" or "/etc/os-release"
	Old    string `json:"old,omitempty"`
	New    string `json:"new,omitempty"`
}

func (a *app) runArtifactDiff(ctx context.Context, o diffOptions, old, new string) error {
	before, err := a.readFacts(ctx, old)
	if err != nil {
		return err
	}
	after, err := a.readFacts(ctx, new)
	if err != nil {
		return err
	}
	differences := compareMaps("", before, after)
	if o.files {
		more, err := a.compareTrees(ctx, old, new)
		if err != nil {
			return err
		}
		differences = append(differences, more...)
	}
	done, err := a.asJSON(notNil(differences))
	if !done {
		a.printDifferences(differences)
	}
	if err == nil && o.exitCode && len(differences) > 0 {
		return &exitError{exitVerify, nil}
	}
	return err
}

func (a *app) printDifferences(differences []difference) {
	s := a.ui.out
	for _, d := range differences {
		what, was, is := oneLine(d.What), oneLine(d.Old), oneLine(d.New)
		switch d.Change {
		case "added":
			a.printf("%s\n", s.green(strings.TrimRight("+ "+what+" "+is, " ")))
		case "removed":
			a.printf("%s\n", s.red(strings.TrimRight("- "+what+" "+was, " ")))
		default:
			a.printf("%s\n", s.yellow("~ "+what+": "+was+" -> "+is))
		}
	}
}

// withHeader calls do with the reader of an artifact, which has read the header.
func (a *app) withHeader(ctx context.Context, name string, do func(r *artifactfmt.Reader)) error {
	in, err := a.openAny(ctx, name)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := artifactfmt.NewReader(in, artifactfmt.ReadOptions{Legacy: true})
	if err != nil {
		return fmt.Errorf("%s: %w", shown(name), err)
	}
	do(r)
	return nil
}

func (a *app) readInfo(ctx context.Context, name string) (info *artifactfmt.Info, err error) {
	err = a.withHeader(ctx, name, func(r *artifactfmt.Reader) { info = r.Info() })
	return info, err
}

func (a *app) readFacts(ctx context.Context, name string) (all map[string]string, err error) {
	err = a.withHeader(ctx, name, func(r *artifactfmt.Reader) {
		all = facts(r.Info())
		for _, s := range r.Scripts() {
			sum := sha256.Sum256(s.Content)
			all["script "+s.Name] = fmt.Sprintf("%s, sha256:%x", size(int64(len(s.Content))), sum[:6])
		}
	})
	return all, err
}

// facts are all that an artifact's header says, by name.
func facts(info *artifactfmt.Info) map[string]string {
	f := map[string]string{
		"format version": fmt.Sprint(info.Version), "name": info.Name, "signed": fmt.Sprint(info.Signed), "payload type": info.PayloadType,
	}
	if info.Group != "" {
		f["group"] = info.Group
	}
	for what, values := range map[string][]string{
		"device type": info.DeviceTypes, "depends on artifact": info.DependsNames, "depends on group": info.DependsGroups,
		"clears": info.ClearsProvides,
	} {
		for _, v := range values {
			f[what+" "+v] = ""
		}
	}
	for what, pairs := range map[string]map[string]string{"provides": info.Provides, "depends": info.Depends} {
		for k, v := range pairs {
			f[what+" "+k] = v
		}
	}
	for _, file := range info.Files {
		f["file "+file.Name] = "sha256:" + file.SHA256
	}
	if len(info.MetaData) > 0 {
		text := string(info.MetaData)
		var v any
		numbers := json.NewDecoder(bytes.NewReader(info.MetaData))
		numbers.UseNumber() // as they were written
		if numbers.Decode(&v) == nil {
			if compact, err := json.Marshal(v); err == nil {
				text = string(compact)
			}
		}
		f["meta-data"] = text
	}
	return f
}

// compareMaps lists what differs, in the order of the names.
func compareMaps(prefix string, old, new map[string]string) []difference {
	var out []difference
	names := slices.Compact(slices.Sorted(func(yield func(string) bool) {
		for _, m := range []map[string]string{old, new} {
			for name := range maps.Keys(m) {
				if !yield(name) {
					return
				}
			}
		}
	}))
	for _, name := range names {
		was, hadOne := old[name]
		is, hasOne := new[name]
		switch {
		case !hadOne:
			out = append(out, difference{"added", prefix + name, "", is})
		case !hasOne:
			out = append(out, difference{"removed", prefix + name, was, ""})
		case was != is:
			out = append(out, difference{"changed", prefix + name, was, is})
		}
	}
	return out
}

func (a *app) compareTrees(ctx context.Context, old, new string) ([]difference, error) {
	var trees [2]map[string]string
	for i, name := range []string{old, new} {
		inside, done, err := a.openInside(ctx, name, "")
		if err != nil {
			return nil, err
		}
		trees[i] = map[string]string{}
		err = readTree(ctx, inside, ".", trees[i])
		done()
		if err != nil {
			return nil, insideError(name, err)
		}
	}
	return compareMaps("", trees[0], trees[1]), nil
}

// readTree describes all below dir: its mode and owner, and what it holds.
func readTree(ctx context.Context, inside fs.FS, dir string, tree map[string]string) error {
	entries, err := fs.ReadDir(inside, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := path.Join(dir, e.Name())
		l, err := describe(inside, name, e)
		if err != nil {
			return err
		}
		text := l.Mode
		switch l.Type {
		case "symlink":
			text += " -> " + l.Target
		case "file":
			sum, err := sumInside(ctx, inside, name)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(", %s, sha256:%s", size(l.Size), sum[:12])
		}
		tree["/"+name] = text
		if e.IsDir() {
			if err := readTree(ctx, inside, name, tree); err != nil {
				return err
			}
		}
	}
	return nil
}

func sumInside(ctx context.Context, inside fs.FS, name string) (string, error) {
	f, err := inside.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, contextReader{ctx, f}); err != nil {
		var e *fs.PathError
		if errors.As(err, &e) {
			return "", err
		}
		return "", &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), nil
}
