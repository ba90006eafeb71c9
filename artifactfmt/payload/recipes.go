package payload

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/twinkeel/twinkeel/artifactfmt"
)

const (
	maxName      = 90 // what devices allow in a manifest beside "data/0000/"
	maxPath      = 4096
	maxJSON      = 1 << 20 // of the list in an archive of images
	maxImageTar  = 100_000 // members that are looked at for it
	maxImageFile = 256
)

var (
	fileNamePattern = regexp.MustCompile(`^[A-Za-z0-9_.,-]+$`)
	badInName       = regexp.MustCompile(`[^A-Za-z0-9_.,-]`)
	modePattern     = regexp.MustCompile(`^0?[0-7]{3,4}$`)
	// The update module for directories uses the destination unquoted in a shell.
	shellSafePattern = regexp.MustCompile(`^[A-Za-z0-9_.,/+@:=%-]+$`)
	// The rules of Compose for a project, which are stricter than the update modules'.
	projectPattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
	platformPattern  = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?$`)
	referencePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$`)
	hexPattern       = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// composeNames are where Compose looks for its file.
var composeNames = []string{"compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"}

// protected are directories that the directory update module would remove from under the running system.
var protected = []string{
	"/bin", "/boot", "/data", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr",
	"/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share", "/var", "/var/lib", "/var/lib/mender", "/data/mender", "/etc/mender",
}

// inputs makes files of the payload of paths; check looks at the beginning of each. With rename set, names need not stay
// what they are.
func inputs(paths []string, rename bool, check func(name string, head []byte) error) (*Contents, error) {
	c := &Contents{}
	for _, p := range paths {
		in, head, err := input(p)
		if rename {
			in.Name = badInName.ReplaceAllString(in.Name, "_")
		}
		if err == nil {
			err = nameProblem("files", in.Name)
		}
		if err == nil && check != nil {
			err = check(in.Name, head)
		}
		if err != nil {
			return nil, err
		}
		c.Files = append(c.Files, in)
	}
	return c, nil
}

// input opens a file, reads its first bytes and closes it again.
func input(name string) (in artifactfmt.InputFile, head []byte, err error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return in, nil, invalid("files", "there is no file %s", name)
	case err != nil:
		return in, nil, err
	case !info.Mode().IsRegular():
		return in, nil, invalid("files", "%s is not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return in, nil, err
	}
	defer f.Close()
	head = make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return in, nil, fmt.Errorf("reading %s: %w", name, err)
	}
	in, err = File(name)
	in.Name = filepath.Base(name)
	return in, head[:n], err
}

func nameProblem(field, name string) error {
	switch {
	case name == "." || name == ".." || !fileNamePattern.MatchString(name):
		return &artifactfmt.InvalidError{
			Field: field, Reason: fmt.Sprintf("%q cannot be the name of a file in an artifact", name),
			Advice: "only the letters a-z and A-Z, digits and _ . , - may be in it: rename the file",
		}
	case len(name) > maxName:
		return invalid(field, "the name %q is longer than the %d bytes that devices allow", name, maxName)
	}
	return nil
}

// memory is a small file of the payload.
func memory(name, content string) artifactfmt.InputFile {
	return artifactfmt.InputFile{
		Name: name, Size: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil },
	}
}

func makePlain(o *Options) (*Contents, error) { return inputs(o.Files, false, nil) }

func makeRootfs(o *Options) (*Contents, error) {
	if len(o.Files) != 1 {
		return nil, invalid("files", "a %s payload is exactly one file, not %d", artifactfmt.RootfsImage, len(o.Files))
	}
	return makePlain(o)
}

// destination checks a path on the device.
func destination(p string) error {
	switch {
	case !strings.HasPrefix(p, "/"):
		return &artifactfmt.InvalidError{
			Field: "destination", Reason: fmt.Sprintf("%q is not an absolute path", p), Advice: "write it from the device's root: /" + p,
		}
	case len(p) > maxPath:
		return invalid("destination", "it is longer than %d bytes", maxPath)
	case slices.Contains(strings.Split(p, "/"), ".."):
		return invalid("destination", "%q goes back with ..", p)
	case strings.ContainsFunc(p, func(r rune) bool { return !strconv.IsPrint(r) }):
		return invalid("destination", "%q has characters that cannot be printed", p)
	}
	return nil
}

// makeSingleFile: dest_dir, filename and permissions hold a line each, beside the file itself.
func makeSingleFile(o *Options) (*Contents, error) {
	if len(o.Files) != 1 {
		return nil, invalid("files", "a single-file payload is exactly one file, not %d", len(o.Files))
	}
	if err := destination(o.Destination); err != nil {
		return nil, err
	}
	in, _, err := input(o.Files[0])
	if err != nil {
		return nil, err
	}
	dir := path.Clean(o.Destination)
	field := "file_name"
	switch {
	case o.FileName != "":
		in.Name = o.FileName
	case !strings.HasSuffix(o.Destination, "/"):
		field = "destination"
		dir, in.Name = path.Split(dir)
		dir = path.Clean(dir)
	}
	if err := nameProblem(field, in.Name); err != nil {
		return nil, err
	}
	if slices.Contains([]string{"dest_dir", "filename", "permissions"}, strings.ToLower(in.Name)) {
		return nil, invalid(field, "the update module keeps a file of its own under the name %q", in.Name)
	}
	mode := o.Mode
	if mode == "" {
		info, err := os.Stat(o.Files[0])
		if err != nil {
			return nil, err
		}
		mode = fmt.Sprintf("%04o", unixMode(info.Mode()))
	}
	if !modePattern.MatchString(mode) {
		return nil, invalid("mode", "%q is not a mode: write it in octal, such as 0644", mode)
	}
	return &Contents{Files: []artifactfmt.InputFile{
		memory("dest_dir", dir+"\n"), memory("filename", in.Name+"\n"), memory("permissions", mode+"\n"), in,
	}}, nil
}

func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, value := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= value
		}
	}
	return mode
}

// makeDirectory: dest_dir holds a line, update.tar the content.
func makeDirectory(o *Options) (*Contents, error) {
	if err := destination(o.Destination); err != nil {
		return nil, err
	}
	dest := path.Clean(o.Destination)
	switch {
	case dest == "/":
		return nil, invalid("destination", "the update module does not replace the root directory")
	case slices.Contains(protected, dest):
		return nil, &artifactfmt.InvalidError{
			Field: "destination", Reason: fmt.Sprintf("the update module would first remove all that is in %s, which the device needs", dest),
			Advice: "choose a directory that belongs to the payload alone, such as " + path.Join(dest, "my-app"),
		}
	case !shellSafePattern.MatchString(dest):
		return nil, invalid("destination", "%q has characters that the update module does not quote: use letters, digits and _ . , / + @ : = %% -", dest)
	}
	a := &archive{epoch: o.Epoch}
	c := &Contents{}
	if err := c.addTree(a, o.Directory, ".", o.KeepOwners); err != nil {
		return nil, err
	}
	c.Files = []artifactfmt.InputFile{memory("dest_dir", dest+"\n"), a.input("update.tar")}
	return c, nil
}

// addTree appends a directory to an archive. It stays open until Close, so that nobody can put another in its place.
func (c *Contents) addTree(a *archive, dir, prefix string, keepOwners bool) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return invalid("directory", "there is no directory %s", dir)
	case err != nil:
		return err
	case !info.IsDir():
		return invalid("directory", "%s is not a directory", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	before := len(a.entries)
	err = a.addTree(root, prefix, keepOwners)
	if err == nil && len(a.entries) == before+1 {
		err = invalid("directory", "%s is empty", dir)
	}
	if err != nil {
		root.Close()
		return err
	}
	c.closers = append(c.closers, root.Close)
	return nil
}

func makeScript(o *Options) (*Contents, error) {
	return inputs(o.Files, false, func(name string, head []byte) error {
		if !bytes.HasPrefix(head, []byte("#!")) && !bytes.HasPrefix(head, []byte("\x7fELF")) {
			return &artifactfmt.InvalidError{
				Field: "files", Reason: fmt.Sprintf("%s is neither a script nor a program, and the device would fail to run it", name),
				Advice: "a script's first line names its interpreter: #!/bin/sh",
			}
		}
		if line, _, _ := bytes.Cut(head, []byte("\n")); bytes.HasSuffix(line, []byte("\r")) {
			return invalid("files", "the lines of %s end in CR LF, so that no device finds its interpreter", name)
		}
		return nil
	})
}

// makeDeb may rename the packages, whose names often have a + or ~ in them: dpkg looks into them, not at their names.
func makeDeb(o *Options) (*Contents, error) {
	return inputs(o.Files, true, func(name string, head []byte) error {
		if !strings.HasSuffix(name, ".deb") {
			return invalid("files", "the update module looks for names that end in .deb, and would not see %s", name)
		}
		if !bytes.HasPrefix(head, []byte("!<arch>\ndebian-binary")) {
			return invalid("files", "%s is not a Debian package", name)
		}
		return nil
	})
}

// makeRPM may rename the packages, as makeDeb does.
func makeRPM(o *Options) (*Contents, error) {
	return inputs(o.Files, true, func(name string, head []byte) error {
		if !strings.HasSuffix(name, ".rpm") {
			return invalid("files", "the update module looks for names that end in .rpm, and would not see %s", name)
		}
		if !bytes.HasPrefix(head, []byte("\xed\xab\xee\xdb")) {
			return invalid("files", "%s is not an RPM package", name)
		}
		return nil
	})
}

// makeDocker has no files: the meta-data lists the images in "containers" and has the arguments in "run_args".
func makeDocker(o *Options) (*Contents, error) {
	for i, ref := range o.Images {
		if !referencePattern.MatchString(ref) || len(ref) > maxImageFile+128 {
			return nil, invalid("images", "%q is not the reference of a container image", ref)
		}
		if slices.Contains(o.Images[:i], ref) {
			return nil, invalid("images", "%s is given twice", ref)
		}
	}
	if strings.ContainsFunc(o.RunArgs, func(r rune) bool { return !strconv.IsPrint(r) }) || strings.ContainsAny(o.RunArgs, `*?["'\`) {
		return nil, invalid("run_args", "%q cannot be used: the update module divides it at blanks, and neither quotes nor patterns mean there what they say",
			o.RunArgs)
	}
	meta, err := encode(struct {
		Containers []string `json:"containers"`
		RunArgs    string   `json:"run_args"`
	}{o.Images, o.RunArgs})
	return &Contents{MetaData: meta}, err
}

// encode is json.Marshal without its care for HTML.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return json.RawMessage(bytes.TrimSpace(b.Bytes())), err
}

// manifests makes the archive of a Compose project's own files.
func (c *Contents) manifests(o *Options) (*archive, error) {
	a := &archive{epoch: o.Epoch}
	var names []string
	switch {
	case (o.Directory == "") == (len(o.ComposeFiles) == 0):
		return nil, invalid("compose_files", "give either the directory of the manifests or the Compose files")
	case o.Directory != "":
		if err := c.addTree(a, o.Directory, "manifests", false); err != nil {
			return nil, err
		}
		entries, err := os.ReadDir(o.Directory)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	default:
		if err := a.addDir("manifests"); err != nil {
			return nil, err
		}
		files := slices.Clone(o.ComposeFiles)
		slices.SortFunc(files, func(x, y string) int { return strings.Compare(filepath.Base(x), filepath.Base(y)) })
		for _, f := range files {
			name := filepath.Base(f)
			if slices.Contains(names, name) {
				return nil, invalid("compose_files", "two are named %s", name)
			}
			names = append(names, name)
			if err := a.addFile(f, "manifests/"+name); errors.Is(err, fs.ErrNotExist) {
				return nil, invalid("compose_files", "there is no file %s", f)
			} else if err != nil {
				return nil, err
			}
		}
	}
	if !slices.ContainsFunc(names, func(n string) bool { return slices.Contains(composeNames, n) }) {
		return nil, invalid("compose_files", "none of them is named %s, where Compose looks", strings.Join(composeNames, ", "))
	}
	return a, nil
}

// projectName checks the name that the software's keys and directories on the device get.
func projectName(o *Options) error {
	if !projectPattern.MatchString(o.Project) || len(o.Project) > 64 {
		return invalid("project", "%q cannot be the name of a Compose project: use up to 64 small letters, digits, - and _", o.Project)
	}
	return nil
}

// makeDockerCompose: manifests.tar holds manifests/, images.tar.gz holds images/ with an archive per image.
func makeDockerCompose(o *Options) (_ *Contents, err error) {
	if err := projectName(o); err != nil {
		return nil, err
	}
	c := &Contents{Software: artifactfmt.Software{Name: "mender-docker-compose." + o.Project}}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	manifests, err := c.manifests(o)
	if err != nil {
		return nil, err
	}
	images := &archive{epoch: o.Epoch}
	if err := images.addDir("images"); err != nil {
		return nil, err
	}
	files := slices.Clone(o.ImageFiles)
	slices.SortFunc(files, func(x, y string) int { return strings.Compare(filepath.Base(x), filepath.Base(y)) })
	for i, f := range files {
		if i > 0 && filepath.Base(files[i-1]) == filepath.Base(f) {
			return nil, invalid("image_files", "two are named %s", filepath.Base(f))
		}
		if err := looksLikeImage(f); err != nil {
			return nil, err
		}
		if err := images.addFile(f, "images/"+filepath.Base(f)); err != nil {
			return nil, err
		}
	}
	c.Files = []artifactfmt.InputFile{images.gzipInput("images.tar.gz"), manifests.input("manifests.tar")}
	c.MetaData, err = encode(struct {
		Version string `json:"version"`
		Project string `json:"project_name"`
	}{"1", o.Project})
	return c, err
}

// looksLikeImage refuses what docker load would.
func looksLikeImage(name string) error {
	in, head, err := input(name)
	var wrong *artifactfmt.InvalidError
	if errors.As(err, &wrong) {
		wrong.Field = "image_files"
	}
	if err != nil {
		return err
	}
	for _, magic := range []string{"\x1f\x8b", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd", "BZh"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return nil
		}
	}
	if len(head) < tarBlock || string(head[257:262]) != "ustar" {
		return &artifactfmt.InvalidError{
			Field: "image_files", Reason: in.Name + " is not an archive of container images", Advice: "make one with: docker save -o " + in.Name + " IMAGE",
		}
	}
	return nil
}

// makeApp: manifests.tar.gz holds manifests/, images.tar.gz holds images/ID/ with image.img and what it is, per image.
func makeApp(o *Options) (_ *Contents, err error) {
	if err := projectName(o); err != nil {
		return nil, err
	}
	if !platformPattern.MatchString(o.Platform) {
		return nil, invalid("platform", "%q is not the platform of an image: write it like linux/arm64", o.Platform)
	}
	c := &Contents{Software: artifactfmt.Software{Name: o.Project}}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	manifests, err := c.manifests(o)
	if err != nil {
		return nil, err
	}
	images := &archive{epoch: o.Epoch}
	if err := images.addDir("images"); err != nil {
		return nil, err
	}
	byID := make(map[string]string)
	reference := make(map[string]string)
	for _, f := range o.ImageFiles {
		id, ref, err := imageOf(f)
		if err != nil {
			return nil, err
		}
		if other, found := byID[id]; found {
			return nil, invalid("image_files", "%s and %s hold the same image", other, f)
		}
		byID[id], reference[id] = f, ref
	}
	ids := make([]string, 0, len(byID))
	for id := range byID {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		dir := "images/" + id
		if err := images.addDir(dir); err != nil {
			return nil, err
		}
		// The "current" ones are equal to the new ones when the image is whole and no difference to another.
		for _, f := range []struct{ name, content string }{
			{"url-new.txt", reference[id]},
			{"url-current.txt", reference[id]},
			{"sums-new.txt", id},
			{"sums-current.txt", id},
		} {
			if err := images.addBytes(dir+"/"+f.name, []byte(f.content+"\n")); err != nil {
				return nil, err
			}
		}
		if err := images.addFile(byID[id], dir+"/image.img"); err != nil {
			return nil, err
		}
	}
	c.Files = []artifactfmt.InputFile{images.gzipInput("images.tar.gz"), manifests.gzipInput("manifests.tar.gz")}
	c.MetaData, err = encode(struct {
		Application  string   `json:"application_name"`
		Orchestrator string   `json:"orchestrator"`
		Platform     string   `json:"platform"`
		Version      string   `json:"version"`
		Images       []string `json:"images"`
	}{o.Project, "docker-compose", o.Platform, "1.0", ids})
	return c, err
}

// imageOf reads the identity and the reference of the one image in an archive of docker save.
func imageOf(name string) (id, reference string, err error) {
	wrong := func(format string, args ...any) (string, string, error) {
		return "", "", &artifactfmt.InvalidError{
			Field: "image_files", Reason: name + ": " + fmt.Sprintf(format, args...),
			Advice: "make an archive for each image, with its name: docker save -o image.tar NAME:TAG",
		}
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", invalid("image_files", "there is no file %s", name)
	}
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	list, err := findMember(f, "manifest.json")
	if err != nil {
		return wrong("it is not an archive of a container image: %v", err)
	}
	var images []struct {
		Config   string
		RepoTags []string
	}
	if err := json.Unmarshal(list, &images); err != nil {
		return wrong("its manifest.json is not what docker save writes")
	}
	if len(images) != 1 || len(images[0].RepoTags) != 1 {
		return wrong("it must hold one image with one name, not %d images", len(images))
	}
	id = strings.TrimSuffix(path.Base(images[0].Config), ".json")
	reference = images[0].RepoTags[0]
	if !hexPattern.MatchString(id) || !referencePattern.MatchString(reference) {
		return wrong("its manifest.json names no image that could be checked")
	}
	return id, reference, nil
}

// findMember returns the content of a small member of a tar archive.
func findMember(f *os.File, name string) ([]byte, error) {
	r := tar.NewReader(f)
	for range maxImageTar {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("it has no %s", name)
		}
		if err != nil {
			return nil, err
		}
		if path.Clean(h.Name) != name || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxJSON {
			return nil, fmt.Errorf("its %s is too large", name)
		}
		return io.ReadAll(io.LimitReader(r, maxJSON))
	}
	return nil, errors.New("it has too many members")
}
