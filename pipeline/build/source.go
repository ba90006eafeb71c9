package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/internal/unpack"
	"github.com/twinkeel/twinkeel/pipeline"
)

// sourceVerbs say what a source action is doing.
var sourceVerbs = map[string]string{
	pipeline.SourceUnpack: "unpacking", pipeline.SourceCopy: "copying", pipeline.SourceHTTP: "fetching", pipeline.SourceExec: "running",
}

// cached tells whether the cache keeps what an action makes. A copy of a directory is as near as the directory.
func cached(a *pipeline.Action) bool { return a.Source == nil || a.Source.Copy == nil }

// sourceRecordDir holds what source actions make, and the record of it.
func sourceRecordDir(pipelineDir string) string {
	return filepath.Join(pipelineDir, filepath.FromSlash(pipeline.SourceDir))
}

// readSourceRecord reads what source actions made. It is kept beside their outputs, apart from what a build is for.
func readSourceRecord(pipelineDir string) (*Record, error) {
	return ReadRecord(sourceRecordDir(pipelineDir))
}

func rememberSource(pipelineDir, address string, out *Output) error {
	where := sourceRecordDir(pipelineDir)
	dir, err := os.Open(where)
	if err != nil {
		return err
	}
	defer dir.Close() // and gives the lock back
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("locking %s: %w", where, err)
	}
	record, err := ReadRecord(where)
	if err != nil {
		return err
	}
	record.Outputs[address] = out
	return record.write(where)
}

// last is what the last build made of an action, or nil.
func (d *decider) last(a *pipeline.Action) *Output {
	if a.Kind == pipeline.KindSource {
		return d.sources.Outputs[a.Address]
	}
	return d.record.Outputs[a.Address]
}

// waitFor notes that a source action runs before the step.
func (s *Step) waitFor(address string) {
	if !slices.Contains(s.After, address) {
		s.After = append(s.After, address)
	}
}

// postpone says of a step that it is decided when the sources that it needs have run.
func (d *decider) postpone(s *Step, last *Output) *Step {
	s.Verb = VerbRebuild
	if last == nil {
		s.Verb, s.Reasons = VerbBuild, []Reason{{ReasonNeverBuilt, "never built"}}
	}
	for _, address := range s.After {
		s.Reasons = append(s.Reasons, Reason{ReasonDependency, address + " runs first"})
	}
	return s
}

// maker returns the step that makes a file and has something to do yet.
func (d *decider) maker(path string) *Step {
	for len(d.owners) > 0 {
		if step := d.steps[d.owners[path]]; step != nil {
			if step.UpToDate() || step.done {
				return nil
			}
			return step
		}
		up := filepath.Dir(path)
		if up == path {
			break
		}
		path = up
	}
	return nil
}

// ownersOf are the addresses of the source actions of a plan, by their outputs.
func ownersOf(plan *pipeline.Plan) map[string]string {
	owners := map[string]string{}
	for _, a := range plan.Actions {
		if a.Source == nil {
			continue
		}
		for _, out := range a.Source.Outputs {
			owners[out] = a.Address
		}
	}
	return owners
}

// comes tells whether an input is yet to be made, and what stands for its digest: what it must be, where that is known, and
// else nothing that could be compared with later, so that the step waits.
func (d *decider) comes(s *Step, role, path string) (digest string, yes bool) {
	maker := d.maker(path)
	if maker == nil {
		return "", false
	}
	a := maker.Action.Source
	if a.HTTP != nil {
		return a.HTTP.SHA256, true
	}
	if maker.Restore {
		if e, err := d.cache.read(maker.cacheKey); err == nil && len(e.Files) == len(a.Outputs) {
			if i := slices.Index(a.Outputs, path); i >= 0 {
				return e.Files[i].SHA256, true
			}
		}
	}
	s.waitFor(maker.Action.Address)
	return "after " + maker.Action.Address, true
}

// inputTree is input for a directory.
func (d *decider) inputTree(ctx context.Context, s *Step, role, dir string) error {
	if promised, waits := d.comes(s, role, dir); waits {
		s.inputs[role] = promised
		return nil
	}
	digest, err := d.digests.tree(ctx, dir)
	if err != nil {
		return err
	}
	s.inputs[role] = digest
	return nil
}

// maxNamedInputs is how many inputs of a command are recorded one by one, to say which of them changed.
const maxNamedInputs = 200

// describeSource gathers what a source's outputs depend on.
func (d *decider) describeSource(ctx context.Context, s *Step, a *pipeline.SourceAction) error {
	outputs := make([]string, len(a.Outputs))
	for i, out := range a.Outputs {
		outputs[i] = relativeTo(a.Dir, out)
	}
	s.inputs = map[string]string{}
	values := map[string]any{"type": a.Type, "path": d.relative(a.Dir), "outputs": outputs}
	switch {
	case a.Unpack != nil:
		s.attributes = attributes(values)
		return d.input(ctx, s, "compressed file", a.Unpack.From)
	case a.Copy != nil:
		s.attributes = attributes(values)
		digest, err := d.chosen(ctx, a.Copy)
		s.inputs["directory"] = digest
		return err
	case a.HTTP != nil:
		values["sha256"] = a.HTTP.SHA256
		s.attributes = attributes(values)
		return nil
	}
	x := a.Exec
	values["command"], values["environment"], values["dir"], values["named"] = x.Command, x.Environment, d.relative(x.Dir), x.Outputs
	if len(x.SecretEnvironment) > 0 { // the names alone: a token says who asks and not what for
		names := make(map[string]string, len(x.SecretEnvironment))
		for name := range x.SecretEnvironment {
			names[name] = ""
		}
		values["environment"] = names
	}
	s.attributes = attributes(values)
	for _, f := range x.Inputs {
		if err := d.inputOrTree(ctx, s, "input "+d.relative(f), f); err != nil {
			return err
		}
	}
	if len(s.inputs) > maxNamedInputs && len(s.After) == 0 {
		hash := sha256.New()
		for _, role := range sortedKeys(s.inputs) {
			fmt.Fprintf(hash, "%q %s\n", role, s.inputs[role])
		}
		s.inputs = map[string]string{"inputs": hex.EncodeToString(hash.Sum(nil))}
	}
	return nil
}

// inputOrTree is for an input that another source makes, which may be a directory.
func (d *decider) inputOrTree(ctx context.Context, s *Step, role, path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return d.inputTree(ctx, s, role, path)
	}
	return d.input(ctx, s, role, path)
}

// chosen digests the chosen files of a directory.
func (d *decider) chosen(ctx context.Context, c *pipeline.Copy) (string, error) {
	hash := sha256.New()
	for _, name := range c.Files {
		path := filepath.Join(c.From, filepath.FromSlash(name))
		info, err := os.Lstat(path)
		if err != nil {
			return "", err
		}
		content := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			content, err = os.Readlink(path)
		} else {
			content, err = d.digests.file(ctx, path)
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%q %s %q\n", name, info.Mode(), content)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// outputsChanged compares what is where an action's output belongs with what was made.
func (d *decider) outputsChanged(ctx context.Context, a *pipeline.Action, last *Output) ([]Reason, error) {
	if cached(a) {
		return d.outputChanged(ctx, outputPath(a), last)
	}
	digest, err := d.digests.tree(ctx, outputPath(a))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Reason{{ReasonOutputMissing, "its output is gone"}}, nil
	case err != nil:
		return nil, err
	case digest != last.SHA256:
		return []Reason{{ReasonOutputModified, "its output was modified"}}, nil
	}
	return nil, nil
}

// settle decides about a step that waited for sources, which have run, or for its key, which may be opened now.
func (r *runner) settle(ctx context.Context, s *Step) error {
	if len(s.After) == 0 && !s.keyUnknown {
		return nil
	}
	opened, err := r.openKey(ctx, s)
	if err != nil {
		return err
	}
	d := &decider{
		plan: r.plan, record: r.before, sources: r.sourcesBefore, digests: r.digests, cache: r.cache, force: s.forced, steps: r.steps,
		owners: r.owners, opened: opened,
	}
	fresh, err := d.decide(ctx, s.Action)
	var pathError *fs.PathError
	if errors.As(err, &pathError) && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s, also after %v", relativeTo(r.plan.Dir, pathError.Path), s.After)
	}
	if err != nil {
		return err
	}
	*s = *fresh
	return nil
}

// openKey finds out which key signs a step's artifact, if planning could not, and returns all that are known so far.
func (r *runner) openKey(ctx context.Context, s *Step) (map[string]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := s.Action.Artifact
	if im := s.Action.Image; im != nil {
		a = im.Artifact
	}
	if s.keyUnknown && r.opened[a.Signer.Address] == "" {
		signer, err := OpenSigner(ctx, a.Signer)
		if err != nil {
			return nil, err
		}
		r.opened[a.Signer.Address] = signer.KeyID()
	}
	return maps.Clone(r.opened), nil
}

// checkFiles asks what planning could not, because sources had to run first. A file for which maker still returns one is
// left for later.
func checkFiles(plan *pipeline.Plan, a *pipeline.Action, maker func(path string) *Step) error {
	var checks []pipeline.FileCheck
	switch {
	case a.Artifact != nil:
		checks = a.Artifact.Checks
	case a.Image != nil:
		checks = a.Image.Checks
	}
	for _, c := range checks {
		if maker(c.File) != nil {
			continue
		}
		if err := c.Check(pipeline.OS{}, plan.Dir); err != nil {
			return err
		}
	}
	return nil
}

// source makes the outputs of a source action.
func (r *runner) source(ctx context.Context, s *Step, progress func(done, total int64)) (*Output, error) {
	a := s.Action.Source
	for _, out := range a.Outputs {
		if err := durable.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return nil, err
		}
		if err := durable.Sweep(filepath.Dir(out)); err != nil {
			return nil, err
		}
	}
	var err error
	switch {
	case a.Unpack != nil:
		err = unpackFile(ctx, a.Outputs[0], a.Unpack, progress)
	case a.Copy != nil:
		err = copyTree(ctx, a.Outputs[0], a.Copy)
	case a.HTTP != nil:
		err = fetch(ctx, a.Outputs[0], a.HTTP, progress)
	case r.noExec:
		err = &noExecError{}
	default:
		err = r.exec(ctx, a)
	}
	if err != nil {
		return nil, err
	}
	return r.sourceOutput(ctx, a)
}

// sourceOutput describes what a source action has made: its first output, and the others beside it.
func (r *runner) sourceOutput(ctx context.Context, a *pipeline.SourceAction) (*Output, error) {
	if a.Copy != nil {
		digest, err := r.digests.tree(ctx, a.Outputs[0])
		return &Output{Kind: string(pipeline.KindSource), Path: relativeTo(r.plan.Dir, a.Outputs[0]), SHA256: digest}, err
	}
	out, err := r.output(ctx, pipeline.KindSource, a.Outputs[0])
	if err != nil {
		return nil, err
	}
	for _, path := range a.Outputs[1:] {
		sum, err := r.digests.file(ctx, path)
		if err != nil {
			return nil, err
		}
		out.Sidecars = append(out.Sidecars, Sidecar{relativeTo(r.plan.Dir, path), sum})
	}
	return out, nil
}

// unpackFile decompresses a file. Blocks of zeros become holes: images of file systems are mostly empty.
func unpackFile(ctx context.Context, path string, u *pipeline.Unpack, progress func(done, total int64)) error {
	in, info, err := openRegular(u.From)
	if err != nil {
		return err
	}
	defer in.Close()
	counted := &countingReader{r: &contextReader{ctx, in}, total: info.Size(), progress: progress}
	plain, _, err := unpack.Open(counted, filepath.Base(u.From), u.MaxSize)
	if err != nil {
		return err
	}
	defer plain.Close()
	out, err := durable.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer out.Abort()
	if err := imaging.FillFile(ctx, out.File, plain); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = syscall.ENOSPC // without the name of the temporary file, which is gone
		}
		return fmt.Errorf("unpacking %s: %w", filepath.Base(u.From), err)
	}
	return out.Commit()
}

type countingReader struct {
	r           io.Reader
	done, total int64
	progress    func(done, total int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	c.progress(c.done, c.total)
	return n, err
}

// copyTree makes a directory with the chosen files of another. It replaces what was there before as a whole.
func copyTree(ctx context.Context, path string, c *pipeline.Copy) error {
	temp, remove, err := durable.TempDir(path)
	if err != nil {
		return err
	}
	defer remove()
	tree := filepath.Join(temp, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	from, err := os.OpenRoot(c.From)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer to.Close()
	for _, name := range c.Files {
		if err := copyOne(ctx, to, from, filepath.FromSlash(name)); err != nil {
			return fmt.Errorf("copying %s: %w", filepath.Join(c.From, name), err)
		}
	}
	if dir, err := os.Open(tree); err == nil { // one sync for all, before the name is there
		err = unix.Syncfs(int(dir.Fd()))
		dir.Close()
		if err != nil {
			return err
		}
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return durable.Rename(tree, path)
}

// copyOne copies a file or a link. The roots keep both ends inside, whatever happens to the directory meanwhile.
func copyOne(ctx context.Context, to, from *os.Root, name string) error {
	if err := to.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	info, err := from.Lstat(name)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := from.Readlink(name)
		if err != nil {
			return err
		}
		return to.Symlink(target, name)
	}
	in, err := from.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	if info, err = in.Stat(); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a file any more")
	}
	out, err := to.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	defer out.Close()
	if err := copyFile(ctx, out, in, info.Size()); err != nil {
		return err
	}
	if err := out.Chmod(info.Mode().Perm()); err != nil { // whatever the umask is
		return err
	}
	return out.Close()
}
