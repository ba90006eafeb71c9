package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/artifactfmt/payload"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// headerOptions are the flags that write and modify share.
type headerOptions struct {
	name, group                        string
	deviceTypes                        []string
	dependsNames, dependsGroups        []string
	provides, depends                  []string
	clears                             []string
	noDefaultProvides, noDefaultClears bool
	scripts                            []string
	metaData                           string
}

func (o *headerOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.VarP((*notEmpty)(&o.name), "name", "n", "`name` of the release, as devices report it")
	f.StringVarP(&o.group, "group", "g", "", "artifact `group` that it provides")
	f.StringArrayVarP(&o.deviceTypes, "device-type", "t", nil, "device `type` that it fits (may be repeated)")
	f.StringArrayVar(&o.dependsNames, "depends-name", nil, "release `name` that a device must have, one of several (may be repeated)")
	f.StringArrayVar(&o.dependsGroups, "depends-group", nil, "artifact `group` that a device must have, one of several (may be repeated)")
	f.StringArrayVarP(&o.provides, "provides", "p", nil, "what a device provides afterwards, `key=value` (may be repeated)")
	f.StringArrayVarP(&o.depends, "depends", "d", nil, "what a device must provide, `key=value` (may be repeated)")
	f.StringArrayVar(&o.clears, "clears-provides", nil, "`pattern` of what a device no longer provides, beside the defaults (may be repeated)")
	f.StringArrayVarP(&o.scripts, "script", "s", nil, "state script, or directory of them (`path`, may be repeated)")
	f.StringVarP(&o.metaData, "meta-data", "m", "", "JSON `file` with an object for the update module")
}

type writeOptions struct {
	header   headerOptions
	signer   signerOptions
	payload  payload.Options
	kind     string
	output   string
	software artifactfmt.Software

	bootstrap, noChecksum, legacyChecksum bool

	compression string
	clients     []string
	maxSize     string

	close func() error // of the payload
}

func (a *app) artifactWriteCommand() *cobra.Command {
	var o writeOptions
	c := &cobra.Command{
		Use:   "write --type TYPE --name NAME --device-type TYPE --output FILE --file FILE",
		Short: "Write an artifact from files, without a pipeline",
		Long: `Write an artifact. TYPE says what is in it: rootfs-image for a root file system, or the name of an update module. The
modules single-file, directory, script, deb, rpm, docker and docker-compose get their files in the form that they
expect; others get the files as they are.

Each input is read once and the output is written once, through no temporary file; with "--output -" it goes to stdout, for
which the inputs are read twice. The same inputs give the same bytes (SOURCE_DATE_EPOCH sets the only time in them).

` + keyRefHelp,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runArtifactWrite(cmd.Context(), o) },
		Example: `  twinkeel artifact write -t rpi4 -n os-2.1 -f rootfs.ext4 -k release.key -o os-2.1.mender
  twinkeel artifact write -t rpi4 -n conf-7 --type single-file -f app.conf --destination /etc -o conf-7.mender`,
	}
	o.header.addFlags(c)
	f := c.Flags()
	f.StringVarP(&o.kind, "type", "T", artifactfmt.RootfsImage, "payload `type`")
	f.StringArrayVarP(&o.payload.Files, "file", "f", nil, "`file` of the payload (may be repeated)")
	addPayloadFlags(f, &o.payload)
	f.BoolVar(&o.bootstrap, "bootstrap", false, "an artifact without payload: it only sets what the device provides")
	f.StringVarP(&o.output, "output", "o", "", "`file` to write; \"-\" is stdout")
	f.BoolVar(&o.header.noDefaultProvides, "no-default-provides", false, "leave out the version and the checksum that Mender's tool provides")
	f.BoolVar(&o.header.noDefaultClears, "no-default-clears", false, "leave out the default patterns of --clears-provides")
	f.BoolVar(&o.noChecksum, "no-checksum", false, "leave out the checksum of the root file system")
	f.BoolVar(&o.legacyChecksum, "legacy-checksum", false, "provide that checksum as rootfs_image_checksum, for clients before 2.5")
	f.StringVar(&o.software.Filesystem, "software-filesystem", "", "`name` in the place of rootfs-image in the version's key")
	f.StringVar(&o.software.Name, "software-name", "", "`name` of the software in the version's key")
	f.StringVar(&o.software.Version, "software-version", "", "`version` of the software (default: the artifact's name)")
	addCompressionFlag(f, &o.compression)
	f.StringSliceVar(&o.clients, "clients", nil, "clients in the field, of twinkeel, mender-3 and mender-4: they choose the default compression")
	f.StringVar(&o.maxSize, "max-size", "", "fail when the artifact is larger than this `size`, such as 200MiB")
	o.signer.addFlags(c)
	return c
}

func (a *app) runArtifactWrite(ctx context.Context, o writeOptions) error {
	switch {
	case o.output == "":
		return usagef("--output is missing: where shall the artifact go?")
	case o.header.name == "":
		return usagef("--name is missing: what is the release called?")
	case len(o.header.deviceTypes) == 0:
		return usagef("--device-type is missing: which devices is it for?")
	case o.noChecksum && o.legacyChecksum:
		return usagef("--no-checksum and --legacy-checksum contradict each other")
	}
	if err := a.notTerminal(o.output); err != nil {
		return err
	}
	if err := notOver("--output", o.output, o.inputs()...); err != nil {
		return err
	}
	limit, err := parseSize("--max-size", o.maxSize)
	if err != nil {
		return err
	}
	spec, err := a.artifactSpec(ctx, &o)
	if o.close != nil {
		defer func() { _ = o.close() }() // it was only read
	}
	if err != nil {
		return err
	}
	if spec.Signer == nil && !a.global.json {
		a.warnf("the artifact is not signed; devices with a key configured refuse it")
	}
	var info *artifactfmt.Info
	err = a.working(ctx, o.output, "writing", func(report func(done, total int64)) error {
		spec.Progress = report
		if o.output == "-" {
			return a.writeOrStdout("-", func(w io.Writer) error {
				info, err = artifactfmt.WriteStream(ctx, &limitWriter{w, limit, limit}, spec)
				return err
			})
		}
		return write(o.output, func(f *durable.File) error {
			if info, err = artifactfmt.Write(ctx, f, spec); err != nil {
				return err
			}
			return checkSize(f, limit)
		})
	})
	if err != nil || o.output == "-" {
		return err
	}
	return a.printWritten(o.output, info)
}

// inputs are the files that are read.
func (o *writeOptions) inputs() []string {
	return slices.Concat(o.payload.Files, o.payload.ImageFiles, o.payload.ComposeFiles, o.header.scripts,
		[]string{o.header.metaData, o.signer.key, o.signer.public})
}

// artifactSpec turns the flags into what is to be written.
func (a *app) artifactSpec(ctx context.Context, o *writeOptions) (*artifactfmt.Artifact, error) {
	spec := &artifactfmt.Artifact{
		PayloadType: o.kind, Software: o.software,
		NoDefaultProvides: o.header.noDefaultProvides, NoChecksum: o.noChecksum, LegacyChecksum: o.legacyChecksum,
	}
	var err error
	if spec.Epoch, err = a.epoch(); err != nil {
		return nil, err
	}
	if spec.Compression, spec.Level, err = parseCompression(o.compression, o.clients); err != nil {
		return nil, err
	}
	if o.header.metaData != "" {
		if o.payload.MetaData, err = readJSONFile(o.header.metaData); err != nil {
			return nil, err
		}
	}
	if o.bootstrap {
		if !reflect.DeepEqual(o.payload, payload.Options{}) || o.kind != artifactfmt.RootfsImage {
			return nil, usagef("--bootstrap makes an artifact without payload; --file, --type and other options of payloads do not go with it")
		}
		spec.PayloadType = ""
	} else {
		o.payload.Epoch = spec.Epoch
		contents, err := payload.Make(o.kind, o.payload)
		if err != nil {
			return nil, payloadError(err)
		}
		o.close = contents.Close
		spec.PayloadType, spec.Files, spec.MetaData = contents.Type, contents.Files, contents.MetaData
		if spec.Software == (artifactfmt.Software{}) {
			spec.Software = contents.Software
		}
	}
	if err := o.header.apply(spec); err != nil {
		return nil, err
	}
	if !o.header.noDefaultClears && len(spec.ClearsProvides) > 0 {
		for _, p := range spec.DefaultClears() {
			if !slices.Contains(spec.ClearsProvides, p) {
				spec.ClearsProvides = append(spec.ClearsProvides, p)
			}
		}
	}
	if o.header.noDefaultClears && spec.ClearsProvides == nil {
		spec.NoClears = o.bootstrap
		spec.ClearsProvides = []string{}
	}
	signer, err := a.signer(ctx, o.signer)
	if signer != nil {
		spec.Signer = signer
	}
	return spec, err
}

// payloadError names the flag for an option of a payload that is wrong.
func payloadError(err error) error {
	var e *artifactfmt.InvalidError
	if !errors.As(err, &e) {
		return err
	}
	name := strings.ReplaceAll(e.Field, "_", "-")
	for _, list := range []string{"files", "image-files", "compose-files", "images"} {
		if name == list {
			name = strings.TrimSuffix(name, "s")
		}
	}
	if strings.Contains(name, " ") {
		return err
	}
	named := *e
	named.Field = "--" + name
	return &named
}

// apply puts what the flags say into an artifact, over what is there.
func (o *headerOptions) apply(spec *artifactfmt.Artifact) error {
	if o.name != "" {
		spec.Name = o.name
	}
	if o.group != "" {
		spec.Group = o.group
	}
	for _, list := range []struct {
		given []string
		to    *[]string
	}{
		{o.deviceTypes, &spec.DeviceTypes},
		{o.dependsNames, &spec.DependsNames},
		{o.dependsGroups, &spec.DependsGroups},
	} {
		if len(list.given) > 0 {
			*list.to = list.given
		}
	}
	for _, p := range o.clears {
		if !slices.Contains(spec.ClearsProvides, p) {
			spec.ClearsProvides = append(spec.ClearsProvides, p)
			spec.NoClears = false
		}
	}
	for _, pairs := range []struct {
		flag  string
		given []string
		to    *map[string]string
	}{
		{"--provides", o.provides, &spec.Provides},
		{"--depends", o.depends, &spec.Depends},
	} {
		for _, pair := range pairs.given {
			key, value, err := parsePair(pairs.flag, pair)
			if err != nil {
				return err
			}
			if *pairs.to == nil {
				*pairs.to = map[string]string{}
			}
			(*pairs.to)[key] = value
		}
	}
	scripts, err := readScripts(o.scripts)
	if err != nil {
		return err
	}
	for _, s := range scripts {
		i := slices.IndexFunc(spec.Scripts, func(old artifactfmt.Script) bool { return old.Name == s.Name })
		if i < 0 {
			spec.Scripts = append(spec.Scripts, s)
		} else {
			spec.Scripts[i] = s
		}
	}
	return nil
}

// parsePair takes key=value, and key:value as mender-artifact wants it.
func parsePair(flag, pair string) (key, value string, err error) {
	i := strings.IndexAny(pair, "=:")
	if i <= 0 {
		return "", "", usagef("%s takes key=value, not %q", flag, pair)
	}
	return pair[:i], pair[i+1:], nil
}

const (
	maxScript   = 1 << 20
	maxMetaData = 1 << 20
)

// readScripts reads state scripts, and those in directories.
func readScripts(paths []string) ([]artifactfmt.Script, error) {
	var scripts []artifactfmt.Script
	for _, path := range paths {
		files := []string{path}
		if entries, err := os.ReadDir(path); err == nil {
			files = files[:0]
			for _, e := range entries {
				if !e.IsDir() {
					files = append(files, filepath.Join(path, e.Name()))
				}
			}
			if len(files) == 0 {
				return nil, fmt.Errorf("%s: there are no state scripts in it", path)
			}
		}
		for _, file := range files {
			content, err := readSmall(file, maxScript)
			if err != nil {
				return nil, err
			}
			scripts = append(scripts, artifactfmt.Script{Name: filepath.Base(file), Content: content})
		}
	}
	return scripts, nil
}

func readJSONFile(path string) (json.RawMessage, error) {
	data, err := readSmall(path, maxMetaData)
	if err == nil && !json.Valid(data) {
		err = fmt.Errorf("%s: it is not JSON", path)
	}
	return data, err
}

// readSmall reads a file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, withoutOperation(err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: it is larger than %s", path, size(limit))
	}
	return data, nil
}

// epoch is the time stamped into artifacts.
func (a *app) epoch() (time.Time, error) {
	text := a.getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q; it takes seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// checkSize refuses an artifact that has become too large.
func checkSize(f *durable.File, limit int64) error {
	if limit == 0 {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > limit {
		return tooLarge(limit, info.Size())
	}
	return nil
}

func tooLarge(limit, got int64) error {
	return &hintedError{
		fmt.Sprintf("the artifact has %s, more than --max-size %s", size(got), size(limit)),
		smallerHint,
	}
}

const smallerHint = "zstd or xz make it smaller; see --compression"

// limitWriter refuses what goes beyond a limit; 0 is none.
type limitWriter struct {
	w           io.Writer
	left, limit int64
}

func (l *limitWriter) Write(p []byte) (int, error) {
	if l.limit > 0 {
		if l.left -= int64(len(p)); l.left < 0 {
			return 0, &hintedError{fmt.Sprintf("the artifact is larger than --max-size %s", size(l.limit)), smallerHint}
		}
	}
	return l.w.Write(p)
}

// printWritten says what was written to path.
func (a *app) printWritten(path string, info *artifactfmt.Info) error {
	if path == "-" {
		return nil
	}
	file, err := os.Stat(path)
	if err != nil {
		return err
	}
	if done, err := a.asJSON(struct {
		Path string `json:"path"`
		Size int64  `json:"size"`
		*artifactfmt.Info
	}{path, file.Size(), info}); done {
		return err
	}
	signed := a.ui.out.yellow("unsigned")
	if info.Signed {
		signed = "signed"
		if info.KeyID != "" {
			signed += " by key " + info.KeyID[:16]
		}
	}
	a.printf("%s: %s, %s, %s\n", path, info.Name, size(file.Size()), signed)
	return nil
}

var errCompression = errors.New("use none, gzip, xz or zstd, with a level as in zstd:19")

// parseCompression reads "zstd" and "zstd:19"; without one the clients in the field choose.
func parseCompression(text string, clients []string) (artifactfmt.Compression, int, error) {
	for _, c := range clients {
		if !slices.Contains(knownClients, c) {
			return "", 0, usagef("--clients takes %s; not %q", strings.Join(knownClients, ", "), c)
		}
	}
	if text == "" {
		if len(clients) > 0 && !slices.Contains(clients, "mender-3") {
			return artifactfmt.Zstd, 0, nil
		}
		return artifactfmt.Gzip, 0, nil // what all read
	}
	name, level, hasLevel := strings.Cut(text, ":")
	n := 0
	if hasLevel {
		var err error
		if n, err = strconv.Atoi(level); err != nil || n < 1 {
			return "", 0, usagef("--compression %q: %v", text, errCompression)
		}
	}
	c := artifactfmt.Compression(name)
	switch highest := highestLevel[c]; {
	case hasLevel && c == artifactfmt.CompressionNone:
		return "", 0, usagef("--compression %s: none has no levels", text)
	case highest > 0 && n > highest:
		return "", 0, usagef("--compression %s: the levels of %s are 1 to %d", text, name, highest)
	}
	switch c {
	case artifactfmt.CompressionNone, artifactfmt.Gzip, artifactfmt.XZ:
	case artifactfmt.Zstd:
		if slices.Contains(clients, "mender-3") {
			return "", 0, usagef("--compression %s: clients of Mender 3 cannot read zstd", text)
		}
	default:
		return "", 0, usagef("--compression %q: %v", text, errCompression)
	}
	return c, n, nil
}

var highestLevel = map[artifactfmt.Compression]int{artifactfmt.Gzip: 9, artifactfmt.XZ: 9, artifactfmt.Zstd: 19}

var knownClients = []string{"twinkeel", "mender-3", "mender-4"}
