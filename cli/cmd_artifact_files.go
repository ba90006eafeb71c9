package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/durable"
)

func (a *app) artifactExtractCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "extract FILE --output DIRECTORY",
		Short: "Write an artifact's files, state scripts and meta-data into a directory",
		Long: `Write what is in an artifact into a directory: its payload into files/, its state scripts into scripts/, the meta-data
into meta-data.json and the description of "artifact show --json" into info.json. Every checksum is checked; a file that
does not meet its own is not left behind. Holes of images stay holes.`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runArtifactExtract(cmd.Context(), args[0], dir)
		},
	}
	c.Flags().StringVarP(&dir, "output", "o", "", "`directory` to write to; it is made")
	return c
}

func (a *app) runArtifactExtract(ctx context.Context, name, dir string) error {
	if dir == "" {
		return usagef("--output is missing: which directory shall the files go to?")
	}
	in, err := a.openAny(ctx, name)
	if err != nil {
		return err
	}
	defer in.Close()
	var files []string
	err = a.working(ctx, name, "extracting", func(report func(done, total int64)) error {
		r, err := artifactfmt.NewReader(&countingReader{r: contextReader{ctx, in}, total: in.size, report: report}, artifactfmt.ReadOptions{Legacy: true})
		if err != nil {
			return fmt.Errorf("%s: %w", shown(name), err)
		}
		files, err = extract(ctx, r, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", shown(name), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if done, err := a.asJSON(map[string][]string{"files": files}); done {
		return err
	}
	for _, f := range files {
		a.printf("%s\n", f)
	}
	return nil
}

// extract writes all of an artifact below dir and returns the paths. Names were checked by the reader: none leads out.
func extract(ctx context.Context, r *artifactfmt.Reader, dir string) (written []string, err error) {
	put := func(name string, mode fs.FileMode, make func(f *durable.File) error) error {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := durable.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		f, err := durable.Create(file, mode)
		if err != nil {
			return err
		}
		defer f.Abort()
		if err := make(f); err != nil {
			if errors.Is(err, syscall.ENOSPC) {
				err = fmt.Errorf("writing %s: %w", file, syscall.ENOSPC) // without the temporary name
			}
			return err
		}
		written = append(written, file)
		return f.Commit()
	}
	bytes := func(content []byte) func(f *durable.File) error {
		return func(f *durable.File) error { _, err := f.Write(content); return err }
	}
	missing := missingDirs(dir, filepath.Join(dir, "files"), filepath.Join(dir, "scripts"))
	defer func() {
		if err != nil {
			for _, d := range slices.Backward(missing) {
				os.Remove(d) // only empty ones go
			}
		}
	}()
	for {
		file, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return written, err
		}
		if err := put("files/"+file.Name, 0o644, func(f *durable.File) error { return imaging.FillFile(ctx, f.File, file) }); err != nil {
			return written, err
		}
	}
	for _, s := range r.Scripts() {
		if err := put("scripts/"+s.Name, 0o755, bytes(s.Content)); err != nil {
			return written, err
		}
	}
	info := r.Info()
	if len(info.MetaData) > 0 {
		if err := put("meta-data.json", 0o644, bytes(info.MetaData)); err != nil {
			return written, err
		}
	}
	text, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return written, err
	}
	return written, put("info.json", 0o644, bytes(append(text, '\n')))
}

// missingDirs are those of the directories, and of what is above the first, that do not exist; the upper ones first.
func missingDirs(top string, below ...string) []string {
	var missing []string
	for d := filepath.Clean(top); ; d = filepath.Dir(d) {
		if _, err := os.Lstat(d); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		missing = append(missing, d)
	}
	slices.Reverse(missing)
	for _, d := range below {
		if _, err := os.Lstat(d); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, d)
		}
	}
	return missing
}

const insideHelp = `The payload's file system (ext2 to ext4, vfat or squashfs) is read without root and without mounting it. With an
uncompressed artifact, and with zstd and gzip as Twinkeel writes them, only the parts that are needed are read, also over
HTTP; others are unpacked into a temporary file first. Nothing is verified: use "artifact verify" for that.`

func (a *app) artifactLsCommand() *cobra.Command {
	var recursive bool
	var file string
	c := &cobra.Command{
		Use:   "ls FILE [PATH]",
		Short: "List what is in an artifact, or in the file system that is its payload",
		Long:  "List the payload's files; with PATH, such as /etc, a directory in the file system of the payload.\nWith --recursive or --file, PATH is / when it is left out.\n\n" + insideHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 2 {
				return nil
			}
			return usagef("%s takes FILE and perhaps PATH; got %s", cmd.CommandPath(), plural(len(args), "argument"))
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if !recursive && file == "" {
					return a.runArtifactLs(cmd.Context(), args[0])
				}
				args = append(args, "/")
			}
			return a.runArtifactLsInside(cmd.Context(), args[0], file, args[1], recursive)
		},
	}
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "list directories in directories, too")
	c.Flags().StringVar(&file, "file", "", "`name` of the payload file, when there are several")
	return c
}

// listed is an entry as --json prints it.
type listed struct {
	Path   string `json:"path"`
	Type   string `json:"type"` // file, dir, symlink, other
	Mode   string `json:"mode,omitempty"`
	Size   int64  `json:"size"`
	Target string `json:"target,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
}

func (a *app) runArtifactLs(ctx context.Context, name string) error {
	in, err := a.openAny(ctx, name)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := artifactfmt.NewReader(in, artifactfmt.ReadOptions{Legacy: true})
	if err != nil {
		return fmt.Errorf("%s: %w", shown(name), err)
	}
	entries := []listed{}
	for _, s := range r.Info().Scripts {
		entries = append(entries, listed{Path: "scripts/" + s.Name, Type: "file", Size: s.Size})
	}
	for _, f := range r.Info().Files {
		entries = append(entries, listed{Path: "files/" + f.Name, Type: "file", Size: f.Size, SHA256: f.SHA256})
	}
	if done, err := a.asJSON(entries); done {
		return err
	}
	for _, e := range entries {
		a.printf("%s\n", printable(e.Path))
	}
	return nil
}

func (a *app) runArtifactLsInside(ctx context.Context, name, file, dir string, recursive bool) error {
	inside, done, err := a.openInside(ctx, name, file)
	if err != nil {
		return err
	}
	defer done()
	return a.listInside(ctx, name, inside, dir, recursive)
}

// listInside prints what is in a directory of a file system, or one file.
func (a *app) listInside(ctx context.Context, name string, inside fs.FS, dir string, recursive bool) error {
	root := cleanInside(dir)
	entries := []listed{}
	var walk func(at string) error
	walk = func(at string) error {
		list, err := fs.ReadDir(inside, at)
		if err != nil {
			return insideError(name, err)
		}
		for _, e := range list {
			if err := ctx.Err(); err != nil {
				return err
			}
			l, err := describe(inside, path.Join(at, e.Name()), e)
			if err != nil {
				return insideError(name, err)
			}
			entries = append(entries, l)
			if recursive && e.IsDir() {
				if err := walk(path.Join(at, e.Name())); err != nil {
					return err
				}
			}
		}
		return nil
	}
	info, err := fs.Lstat(inside, root)
	if err != nil {
		return insideError(name, err)
	}
	if info.IsDir() {
		err = walk(root)
	} else {
		var l listed
		l, err = describe(inside, root, fs.FileInfoToDirEntry(info))
		entries = append(entries, l)
	}
	if err != nil {
		return err
	}
	if done, err := a.asJSON(entries); done {
		return err
	}
	t := table{}
	for _, e := range entries {
		text := e.Path
		if e.Target != "" {
			text += " -> " + e.Target
		}
		t.add(e.Mode, fmt.Sprint(e.Size), oneLine(text))
	}
	t.print(a.stdout)
	return nil
}

// oneLine keeps a name from looking like another line or column.
func oneLine(text string) string {
	return strings.NewReplacer("\n", "\uFFFD", "\t", "\uFFFD").Replace(printable(text))
}

func describe(inside fs.FS, name string, e fs.DirEntry) (listed, error) {
	info, err := e.Info()
	if err != nil {
		return listed{}, err
	}
	l := listed{Path: "/" + name, Type: "other", Mode: modeText(info.Mode()), Size: info.Size()}
	switch {
	case info.Mode().IsRegular():
		l.Type = "file"
	case info.IsDir():
		l.Type, l.Size = "dir", 0
	case info.Mode()&fs.ModeSymlink != 0:
		l.Type = "symlink"
		if links, ok := inside.(fs.ReadLinkFS); ok {
			l.Target, err = links.ReadLink(name)
		}
	}
	return l, err
}

// modeText writes a mode as ls -l does.
func modeText(mode fs.FileMode) string {
	kind := byte('-')
	switch {
	case mode.IsDir():
		kind = 'd'
	case mode&fs.ModeSymlink != 0:
		kind = 'l'
	case mode&fs.ModeCharDevice != 0:
		kind = 'c'
	case mode&fs.ModeDevice != 0:
		kind = 'b'
	case mode&fs.ModeNamedPipe != 0:
		kind = 'p'
	case mode&fs.ModeSocket != 0:
		kind = 's'
	}
	text := []byte(mode.Perm().String())
	text[0] = kind
	for _, special := range []struct {
		bit    fs.FileMode
		at     int
		letter byte
	}{{fs.ModeSetuid, 3, 's'}, {fs.ModeSetgid, 6, 's'}, {fs.ModeSticky, 9, 't'}} {
		switch {
		case mode&special.bit == 0:
		case text[special.at] == 'x':
			text[special.at] = special.letter
		default:
			text[special.at] = special.letter - 'a' + 'A'
		}
	}
	return string(text)
}

func (a *app) artifactCatCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "cat FILE PATH",
		Short: "Print a file of the file system that is an artifact's payload",
		Long: "Print a file, such as /etc/os-release, of the file system in the payload. PATH may also be a file that \"artifact ls FILE\"\nlists: scripts/NAME or files/NAME.\n\n" +
			insideHelp,
		Args: exactArgs("FILE", "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runArtifactCat(cmd.Context(), args[0], file, args[1])
		},
	}
	c.Flags().StringVar(&file, "file", "", "`name` of the payload file, when there are several")
	return c
}

func (a *app) runArtifactCat(ctx context.Context, name, file, inner string) error {
	if strings.HasPrefix(inner, "scripts/") || strings.HasPrefix(inner, "files/") {
		return a.catMember(ctx, name, inner)
	}
	inside, done, err := a.openInside(ctx, name, file)
	if err != nil {
		return err
	}
	defer done()
	return a.catInside(ctx, name, inside, inner)
}

// catInside prints a file of a file system.
func (a *app) catInside(ctx context.Context, name string, inside fs.FS, inner string) error {
	f, err := inside.Open(cleanInside(inner))
	if err != nil {
		return insideError(name, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return fmt.Errorf("%s: %s is a directory", shown(name), inner)
	}
	_, err = io.Copy(a.stdout.target, contextReader{ctx, f})
	return err
}

// catMember prints a member of the artifact itself. A payload file is printed as it comes; the error says when it does
// not meet its checksum.
func (a *app) catMember(ctx context.Context, name, member string) error {
	in, err := a.openAny(ctx, name)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := artifactfmt.NewReader(contextReader{ctx, in}, artifactfmt.ReadOptions{Legacy: true})
	if err != nil {
		return fmt.Errorf("%s: %w", shown(name), err)
	}
	kind, base, _ := strings.Cut(member, "/")
	if kind == "scripts" {
		for _, s := range r.Scripts() {
			if s.Name == base {
				_, err := a.stdout.target.Write(s.Content)
				return err
			}
		}
		return noMember(name, member)
	}
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return noMember(name, member)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", shown(name), err)
		}
		if f.Name == base {
			_, err := io.Copy(a.stdout.target, f)
			return err
		}
	}
}

func noMember(name, member string) error {
	return &hintedError{fmt.Sprintf("%s: it has no %s", shown(name), member), "twinkeel artifact ls " + shown(name)}
}

func cleanInside(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

// insideError names the artifact and takes the operation off an error about a file in it.
func insideError(name string, err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		reason := supported(e.Err)
		if errors.Is(reason, fs.ErrNotExist) {
			reason = errors.New("there is no such file in it")
		}
		return fmt.Errorf("%s: /%s: %w", shown(name), strings.TrimPrefix(e.Path, "/"), reason)
	}
	return fmt.Errorf("%s: %w", shown(name), err)
}

// supported takes off an error what it adds for programs: that the operation is unsupported.
func supported(err error) error {
	if text, found := strings.CutSuffix(err.Error(), ": "+errors.ErrUnsupported.Error()); found {
		return errors.New(text)
	}
	return err
}

// openInside opens the file system in a payload file of the artifact. done must be called at the end.
func (a *app) openInside(ctx context.Context, name, file string) (inside fs.FS, done func(), err error) {
	in, err := a.openAny(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	content, size, cleanUp, err := a.openPayload(ctx, in, name, file)
	if err != nil {
		in.Close()
		return nil, nil, err
	}
	done = func() {
		cleanUp()
		in.Close()
	}
	inside, kind, err := imaging.OpenFilesystem(content, size)
	if err != nil {
		done()
		switch {
		case kind != "":
			return nil, nil, fmt.Errorf("%s: the payload holds %s: %w", shown(name), kind, supported(err))
		case errors.Is(err, errors.ErrUnsupported):
			return nil, nil, &hintedError{
				fmt.Sprintf("%s: its payload is no file system that can be read here", shown(name)),
				"twinkeel artifact cat FILE files/NAME prints a payload file as it is",
			}
		}
		return nil, nil, fmt.Errorf("%s: its payload: %w", shown(name), err)
	}
	return inside, done, nil
}

// openPayload gives random access to a file of the payload: straight, where the compression allows it, else through a
// temporary file without a name.
func (a *app) openPayload(ctx context.Context, in *input, name, file string) (content io.ReaderAt, size int64, cleanUp func(), err error) {
	if in.at != nil {
		p, err := artifactfmt.OpenPayload(in.at, in.size, artifactfmt.ReadOptions{})
		if err == nil {
			if file, err = onlyFile(name, p.Info(), file); err != nil {
				return nil, 0, nil, err
			}
			f, err := p.File(file)
			if err != nil {
				return nil, 0, nil, fmt.Errorf("%s: %w", shown(name), err)
			}
			return f, f.Size(), func() {}, nil
		}
		if !errors.Is(err, artifactfmt.ErrNotSeekable) {
			return nil, 0, nil, fmt.Errorf("%s: %w", shown(name), err)
		}
	}
	spool, err := os.CreateTemp("", "twinkeel-payload-")
	if err != nil {
		return nil, 0, nil, withoutOperation(err)
	}
	os.Remove(spool.Name()) // it lives as long as it is open
	cleanUp = func() { spool.Close() }
	size, err = a.unpack(ctx, in, name, file, spool)
	if err != nil {
		cleanUp()
		return nil, 0, nil, err
	}
	return spool, size, cleanUp, nil
}

// unpack writes a file of the payload to an empty file.
func (a *app) unpack(ctx context.Context, in *input, name, file string, to *os.File) (size int64, err error) {
	err = a.working(ctx, name, "unpacking", func(report func(done, total int64)) error {
		r, err := artifactfmt.NewReader(&countingReader{r: contextReader{ctx, in}, total: in.size, report: report}, artifactfmt.ReadOptions{Legacy: true})
		if err != nil {
			return fmt.Errorf("%s: %w", shown(name), err)
		}
		if file, err = onlyFile(name, r.Info(), file); err != nil {
			return err
		}
		for {
			f, err := r.Next()
			if err != nil {
				return fmt.Errorf("%s: %w", shown(name), err)
			}
			if f.Name == file {
				size = f.Size
				return imaging.FillFile(ctx, to, f)
			}
		}
	})
	return size, err
}

// onlyFile chooses the payload file: the one that is named, or the only one.
func onlyFile(name string, info *artifactfmt.Info, wanted string) (string, error) {
	var names []string
	for _, f := range info.Files {
		if f.Name == wanted {
			return wanted, nil
		}
		names = append(names, f.Name)
	}
	switch {
	case len(names) == 0:
		return "", fmt.Errorf("%s: it has no payload", shown(name))
	case wanted != "":
		return "", usagef("--file %q: the payload has %s", wanted, strings.Join(names, ", "))
	case len(names) > 1:
		return "", usagef("%s has %s: choose one with --file", shown(name), strings.Join(names, ", "))
	}
	return names[0], nil
}
