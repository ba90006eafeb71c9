package payload

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/artifactfmt"
)

// Options are the parts that payloads are made of. Each kind takes some of them; [Kinds] says which.
type Options struct {
	Files        []string        // paths of the files to install
	Directory    string          // path of a directory to install or to take manifests from
	Destination  string          // where it goes on the device
	FileName     string          // the file's name on the device
	Mode         string          // the file's permissions on the device, in octal
	Images       []string        // references of container images that the device pulls
	ImageFiles   []string        // paths of archives of container images, as docker save makes them
	ComposeFiles []string        // paths of Compose files and what belongs to them
	Project      string          // the name of a Compose project or application
	Platform     string          // of container images, such as linux/arm64
	RunArgs      string          // arguments of docker run
	KeepOwners   bool            // keep the owners of a directory's files instead of giving them to root
	MetaData     json.RawMessage // an object for the update module
	Epoch        time.Time       // the time that generated archives give their members; zero is 1970-01-01
}

// Option describes a field of [Options] as configuration languages and command lines name it.
type Option struct {
	Name     string // in HCL; a command line writes dashes for the underscores
	Doc      string
	List     bool // it takes several values
	Bool     bool // it is true or false
	Required bool
}

// Kind is a payload type whose layout this package knows.
type Kind struct {
	Name    string
	Doc     string
	Options []Option
	make    func(o *Options) (*Contents, error)
}

// fields ties the names of options to the fields of Options. Epoch is no option of a kind: it is the artifact's.
var fields = []struct {
	name string
	set  func(o *Options) bool
}{
	{"files", func(o *Options) bool { return len(o.Files) > 0 }},
	{"directory", func(o *Options) bool { return o.Directory != "" }},
	{"destination", func(o *Options) bool { return o.Destination != "" }},
	{"file_name", func(o *Options) bool { return o.FileName != "" }},
	{"mode", func(o *Options) bool { return o.Mode != "" }},
	{"images", func(o *Options) bool { return len(o.Images) > 0 }},
	{"image_files", func(o *Options) bool { return len(o.ImageFiles) > 0 }},
	{"compose_files", func(o *Options) bool { return len(o.ComposeFiles) > 0 }},
	{"project", func(o *Options) bool { return o.Project != "" }},
	{"platform", func(o *Options) bool { return o.Platform != "" }},
	{"run_args", func(o *Options) bool { return o.RunArgs != "" }},
	{"keep_owners", func(o *Options) bool { return o.KeepOwners }},
	{"meta_data", func(o *Options) bool { return len(o.MetaData) > 0 }},
}

// OptionNames returns the names of all options, in the order of the fields of [Options].
func OptionNames() []string {
	var names []string
	for _, f := range fields {
		names = append(names, f.name)
	}
	return names
}

var metaData = Option{Name: "meta_data", Doc: "An object that the update module finds as header/meta-data."}

// kinds is the table of what Make knows. A function breaks the initialization cycle with the makers.
func kinds() []Kind {
	compose := []Option{
		{Name: "directory", Doc: "The directory of the manifests: the Compose file and what it refers to. Or give compose_files."},
		{Name: "compose_files", List: true, Doc: "The Compose file, named compose.yaml or docker-compose.yml, and files it refers to."},
		{Name: "image_files", List: true, Required: true, Doc: "Archives of the images, as docker save or skopeo copy to docker-archive make them."},
	}
	return []Kind{
		{
			Name: artifactfmt.RootfsImage, Doc: "The image of a root file system, for the inactive slot.", make: makeRootfs,
			Options: []Option{{Name: "files", List: true, Required: true, Doc: "The image: exactly one."}},
		},
		{
			Name: "single-file", Doc: "One file, put in its place or replaced there.", make: makeSingleFile,
			Options: []Option{
				{Name: "files", List: true, Required: true, Doc: "The file: exactly one."},
				{
					Name: "destination", Required: true,
					Doc: "The file's absolute path on the device. With a slash at its end, or with file_name, it is the directory.",
				},
				{Name: "file_name", Doc: "The file's name on the device, if it is not the one it has here."},
				{Name: "mode", Doc: "The file's permissions on the device, in octal: 0644. Without it those it has here."},
				metaData,
			},
		},
		{
			Name: "directory", Doc: "A directory with all that is in it. What was in the destination before is removed.", make: makeDirectory,
			Options: []Option{
				{Name: "directory", Required: true, Doc: "The directory whose content is installed."},
				{Name: "destination", Required: true, Doc: "The directory's absolute path on the device."},
				{Name: "keep_owners", Bool: true, Doc: "Keep numeric owners and groups. Without it everything belongs to root."},
				metaData,
			},
		},
		{
			Name: "script", Doc: "Scripts or programs that the device runs once, by the order of their names.", make: makeScript,
			Options: []Option{{Name: "files", List: true, Required: true, Doc: "The scripts; each begins with #! or is an ELF program."}, metaData},
		},
		{
			Name: "deb", Doc: "Debian packages, installed together with dpkg.", make: makeDeb,
			Options: []Option{{Name: "files", List: true, Required: true, Doc: "The packages; their names end in .deb."}, metaData},
		},
		{
			Name: "rpm", Doc: "RPM packages, installed or upgraded together.", make: makeRPM,
			Options: []Option{{Name: "files", List: true, Required: true, Doc: "The packages; their names end in .rpm."}, metaData},
		},
		{
			Name: "docker", Doc: "Containers: the device pulls the images and runs these alone.", make: makeDocker,
			Options: []Option{
				{Name: "images", List: true, Required: true, Doc: "References of the images; by digest (name@sha256:…) they stay what they are."},
				{Name: "run_args", Doc: "Arguments of docker run, divided at blanks."},
			},
		},
		{
			Name: "docker-compose", Doc: "A Compose project together with its images.", make: makeDockerCompose,
			Options: append(slices.Clone(compose),
				Option{Name: "project", Required: true, Doc: "The name of the Compose project: small letters, digits, - and _."}),
		},
		{
			Name: "app", Doc: "The same for the older app update module, with Docker Compose.", make: makeApp,
			Options: append(slices.Clone(compose),
				Option{Name: "project", Required: true, Doc: "The name of the application: small letters, digits, - and _."},
				Option{Name: "platform", Required: true, Doc: "The platform of the images, such as linux/arm64."}),
		},
	}
}

// Kinds returns the payload types whose layout this package knows, with what each takes.
func Kinds() []Kind { return kinds() }

// Lookup returns what a payload type takes. known is false for an update module that is not in [Kinds]: that takes files
// and meta-data as they are.
func Lookup(name string) (k Kind, known bool) {
	for _, k := range kinds() {
		if k.Name == name {
			return k, true
		}
	}
	return Kind{
		Name: name, Doc: "Files and meta-data for any update module.", make: makePlain,
		Options: []Option{{Name: "files", List: true, Doc: "The files, as the update module expects them."}, metaData},
	}, false
}

// Contents is a payload, ready to be written. Its files are read when the artifact is written, and must not change
// until then.
type Contents struct {
	Type     string
	Files    []artifactfmt.InputFile
	MetaData json.RawMessage
	// Software is what the type's own generator calls the software, where that is not what Mender's defaults say; an artifact
	// should use it unless it is told otherwise.
	Software artifactfmt.Software

	closers []func() error
}

// Close lets go of what the contents hold open.
func (c *Contents) Close() error {
	var first error
	for _, f := range c.closers {
		if err := f(); err != nil && first == nil {
			first = err
		}
	}
	c.closers = nil
	return first
}

// Make makes the payload of a type from its options, or says with an [*artifactfmt.InvalidError] what is wrong with them. The
// same files and options give the same bytes.
func Make(kind string, o Options) (*Contents, error) {
	if kind == "" {
		return nil, invalid("payload type", "it is missing")
	}
	k, _ := Lookup(kind)
	if err := k.check(&o); err != nil {
		return nil, err
	}
	c, err := k.make(&o)
	if err != nil {
		return nil, err
	}
	c.Type = kind
	if len(o.MetaData) > 0 {
		c.MetaData = o.MetaData
	}
	names := make(map[string]bool, len(c.Files))
	for _, f := range c.Files {
		folded := strings.ToLower(f.Name)
		if names[folded] {
			c.Close()
			return nil, invalid("files", "two are named %q, or names that differ in case alone: give one of them another name", f.Name)
		}
		names[folded] = true
	}
	return c, nil
}

// check compares the options that are set with those that the kind takes.
func (k Kind) check(o *Options) error {
	var takes []string
	for _, option := range k.Options {
		takes = append(takes, option.Name)
	}
	for _, f := range fields {
		i := slices.IndexFunc(k.Options, func(option Option) bool { return option.Name == f.name })
		switch {
		case i < 0 && f.set(o):
			return invalid(f.name, "a payload of type %s has no use for it; it takes %s", k.Name, strings.Join(takes, ", "))
		case i >= 0 && k.Options[i].Required && !f.set(o):
			return invalid(f.name, "it is missing, and a payload of type %s needs it", k.Name)
		}
	}
	return nil
}

func invalid(field, format string, args ...any) error {
	return &artifactfmt.InvalidError{Field: field, Reason: fmt.Sprintf(format, args...)}
}
