package pipeline

import (
	"fmt"
	"maps"
	"math/big"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// compute makes the plan's value of an instance and returns what the block exposes beside its arguments. Values may be
// unknown, in which case fields stay zero and checks that need them are left out.
func (e *evaluator) compute(inst *instance) map[string]cty.Value {
	switch inst.block.schema.Kind {
	case "source":
		if e.fakes != nil {
			return e.fakes.source(e, inst)
		}
		return e.computeSource(inst)
	case "layout":
		return e.computeLayout(inst)
	case "device_type":
		return e.computeDeviceType(inst)
	case "signer":
		return e.computeSigner(inst)
	case "artifact":
		return e.computeArtifact(inst)
	case "image":
		return e.computeImage(inst)
	case "server":
		inst.result = &Server{
			Address: inst.address, URL: strings.TrimRight(inst.body.text("url"), "/"),
			Token: Secret(inst.body.text("token")), CACertificate: e.abs(inst.body.text("ca_certificate")),
			ClientCertificate: e.abs(inst.body.text("client_certificate")), ClientKey: e.abs(inst.body.text("client_key")),
		}
		e.checkClientCertificate(inst.body)
	case "rollout":
		e.computeRollout(inst)
		return e.deploymentValues(inst.address)
	}
	return nil
}

// checkClientCertificate: a certificate is of no use without its key, nor without TLS.
func (e *evaluator) checkClientCertificate(b *body) {
	switch {
	case b.unset("client_certificate") && b.unset("client_key"):
	case b.unset("client_certificate"):
		e.report(fault("Missing argument", "client_key needs client_certificate, whose key it is.", b.rangeOf("client_key")))
	case b.unset("client_key"):
		e.report(fault("Missing argument", "client_certificate needs client_key, its private key.", b.rangeOf("client_certificate")))
	case strings.HasPrefix(b.text("url"), "http://"):
		e.report(fault("Certificate without TLS", "A client certificate needs https://, but url begins with http://.", b.rangeOf("client_certificate")))
	}
}

// abs makes a path absolute; no path stays none.
func (p *Pipeline) abs(name string) string {
	if name == "" {
		return ""
	}
	return absolute(p.dir, name)
}

// abs is the path of a file, with the name that it has on the disk.
func (e *evaluator) abs(name string) string {
	if e.facts == nil || name == "" {
		return e.pipeline.abs(name)
	}
	return e.facts.abs(name)
}

// Readers of arguments. An unknown value or null reads as zero; has tells.

func (b *body) has(name string) bool {
	v := b.values[name]
	return v != cty.NilVal && v.IsKnown() && !v.IsNull()
}

// unset tells that there is certainly no value, as opposed to one that is not known yet.
func (b *body) unset(name string) bool {
	v := b.values[name]
	return v == cty.NilVal || v.IsNull()
}

func (b *body) text(name string) string {
	if !b.has(name) {
		return ""
	}
	return b.values[name].AsString()
}

func (b *body) flag(name string) bool { return b.has(name) && b.values[name].True() }

func (b *body) integer(name string) int64 {
	if !b.has(name) {
		return 0
	}
	n, _ := b.values[name].AsBigFloat().Int64()
	return n
}

func (b *body) float(name string) float64 {
	if !b.has(name) {
		return 0
	}
	n, _ := b.values[name].AsBigFloat().Float64()
	return n
}

// texts reads a list of strings; elements that are not known are left out. The result is nil only when nothing is set.
func (b *body) texts(name string) []string {
	if !b.has(name) {
		return nil
	}
	out := []string{}
	for it := b.values[name].ElementIterator(); it.Next(); {
		if _, v := it.Element(); v.IsKnown() && !v.IsNull() {
			out = append(out, v.AsString())
		}
	}
	return out
}

func (b *body) textMap(name string) map[string]string {
	if !b.has(name) {
		return nil
	}
	out := make(map[string]string)
	for it := b.values[name].ElementIterator(); it.Next(); {
		if k, v := it.Element(); v.IsKnown() && !v.IsNull() {
			out[k.AsString()] = v.AsString()
		}
	}
	return out
}

// rangeOf is where an argument's value stands, or where it would.
func (b *body) rangeOf(name string) *hcl.Range {
	if a := b.content.attrs[name]; a != nil {
		return a.Expr.Range().Ptr()
	}
	return b.content.missing.Ptr()
}

// result returns what the block at an address became in the plan.
func result[T any](e *evaluator, address string) (out T) {
	if inst := e.instances[address]; inst != nil {
		out, _ = inst.result.(T)
	}
	return out
}

// maxPartitionName is what a GPT entry holds.
const maxPartitionName = 36

func (e *evaluator) computeDeviceType(inst *instance) map[string]cty.Value {
	b := inst.body
	d := &DeviceType{
		Address: inst.address, Name: b.text("type"), Compatible: b.texts("compatible"),
		Architecture: b.text("architecture"), StorageBase: b.text("storage_device"), Clients: b.texts("clients"),
	}
	inst.result = d
	computed := map[string]cty.Value{"slot_size": cty.UnknownVal(cty.Number)}
	if b.unset("type") {
		d.Name = inst.block.name
		computed["type"] = cty.StringVal(d.Name)
	}
	layout := result[*Layout](e, b.text("layout"))
	if layout != nil {
		d.Layout = *layout
		if _, size, _ := layout.slots(); size > 0 {
			computed["slot_size"] = number(size)
		}
	}
	placed := layout != nil && len(layout.Partitions) > 0 // else it is not known, or its mistakes are reported
	if b.unset("storage_device") {
		computed["storage_device"] = cty.UnknownVal(cty.String)
	}
	if placed {
		if d.StorageBase = e.storageDevice(b, layout); d.StorageBase != "" {
			computed["storage_device"] = cty.StringVal(d.StorageBase)
		}
		e.checkFlashClient(d, layout, b)
	}
	for _, n := range b.all("bootloader") {
		d.Bootloader = Bootloader{Kind: n.label, ScriptVars: e.scriptVars(n.body)}
		e.warnOfLineEnds(n.body, "script_vars")
		switch {
		case n.label == uBoot:
			e.readEnvironment(d, layout, placed, n)
		case placed && n.label == grubEFI:
			e.findEFIPartition(d, layout, n)
		case placed:
			e.findBIOSPartition(d, layout, n)
		}
		if n.label == grubBIOS && d.Architecture != "" && d.Architecture != "amd64" && d.Architecture != "386" {
			e.report(fault("No BIOS", fmt.Sprintf("Only PCs have a BIOS, and %s is %s: the boot loader is grub-efi or u-boot.", d.Address, d.Architecture), n.labelRng.Ptr()))
		}
	}
	return computed
}

const (
	uBoot                  = "u-boot"
	defaultStorageDevice   = "/dev/mmcblk0"
	defaultUBIDevice       = "/dev/ubi0"
	defaultEnvironmentSize = 64 * kib
)

// given tells whether an argument is written out with a value that is known.
func (b *body) given(name string) bool { return b.content.attrs[name] != nil && b.has(name) }

// reportAgainstPreset says that an argument is not what the device's software was built with.
func (e *evaluator) reportAgainstPreset(b *body, name, here, l, variable, there string) {
	e.report(fault("Not as in the preset", fmt.Sprintf("%s is %s, but the preset of %s has %s (%s), which the device's software was built with. Leave %s out, or change the preset's variables.",
		name, here, l, there, variable, name), b.rangeOf(name)))
}

// storageDevice is the name of the disk. One that differs from the preset's would make the agent look for its slots where the
// boot loader does not.
func (e *evaluator) storageDevice(b *body, l *Layout) string {
	given := b.text("storage_device")
	isUBI := ubiDevice.MatchString(given)
	switch {
	case given != "" && isUBI != (l.UBI != nil):
		text := fmt.Sprintf("%s is a UBI device, but %s is a disk.", given, l.Address)
		if !isUBI {
			text = fmt.Sprintf("%s is raw flash, whose device is called as in /dev/ubi0, not %s.", l.Address, given)
		}
		e.report(fault("Not for this kind of medium", text, b.rangeOf("storage_device")))
		return given
	case !b.unset("storage_device"):
		if given != "" && l.StorageDevice != "" && given != l.StorageDevice {
			e.reportAgainstPreset(b, "storage_device", given, l.Address, "MENDER_STORAGE_DEVICE", l.StorageDevice)
		}
		return given
	case l.StorageDevice != "":
		if reason := checkDevice(cty.StringVal(l.StorageDevice)); reason != "" {
			e.report(fault("Wrong value", fmt.Sprintf("MENDER_STORAGE_DEVICE of the preset of %s is %q, but it %s.", l.Address, shorten(l.StorageDevice), reason), b.rangeOf("layout")))
			return ""
		}
		return l.StorageDevice
	case l.UBI != nil:
		return defaultUBIDevice
	}
	return defaultStorageDevice
}

var ubiDevice = regexp.MustCompile(`^/dev/ubi[0-9]+$`)

// checkFlashClient reports the bundled agent on raw flash, which it cannot write.
func (e *evaluator) checkFlashClient(d *DeviceType, l *Layout, b *body) {
	if l.UBI == nil || !slices.Contains(d.Clients, "twinkeel") {
		return
	}
	text := fmt.Sprintf("The bundled agent cannot write UBI volumes so far, so devices with %s need one of Mender's clients.", l.Address)
	if len(d.Clients) == 1 {
		e.report(fault("Client that cannot update the device", text, b.rangeOf("clients")))
		return
	}
	e.report(caution("Client that cannot update the device", text, b.rangeOf("clients")))
}

// readEnvironment finds U-Boot's environment in the layout.
func (e *evaluator) readEnvironment(d *DeviceType, l *Layout, placed bool, n *nestedBody) {
	b, boot := n.body, &d.Bootloader
	boot.Environment, boot.EnvironmentSize, boot.Redundant = b.text("environment"), b.integer("environment_size"), b.flag("redundant")
	if b.unset("environment_size") {
		boot.EnvironmentSize = defaultEnvironmentSize
	}
	switch {
	case !placed:
	case l.Environment != nil:
		e.presetEnvironment(d, l, b)
	case b.unset("environment"):
		if !b.content.incomplete {
			e.report(fault("Missing argument", fmt.Sprintf("The bootloader needs the argument environment: the name of the reserve of %s that holds U-Boot's environment.", l.Address), n.rng.Ptr()))
		}
	case b.has("environment") && l.UBI != nil:
		e.checkEnvironmentVolumes(d, l, b)
	case b.has("environment"):
		e.checkEnvironment(d, l, b)
	}
}

// checkEnvironmentVolumes wants a volume for each copy of the environment.
func (e *evaluator) checkEnvironmentVolumes(d *DeviceType, l *Layout, b *body) {
	var names []string
	for _, p := range l.Partitions {
		names = append(names, p.Name)
	}
	for _, name := range d.Bootloader.EnvironmentVolumes() {
		i := slices.Index(names, name)
		if i < 0 {
			e.report(fault("Unknown volume", fmt.Sprintf("%s has no partition %s.%s", l.Address, name, suggestion(name, names, "Known: ")), b.rangeOf("environment")))
			return
		}
		switch p := l.Partitions[i]; {
		case p.Filesystem != "none" || p.Slot != "" || p.Grow:
			e.report(fault("No volume for an environment", fmt.Sprintf("%s of %s holds U-Boot's environment as it is, without a file system, and does not grow.", name, l.Address), b.rangeOf("environment")))
		case p.Size < d.Bootloader.EnvironmentSize:
			at := "environment"
			if b.content.attrs["environment_size"] != nil {
				at = "environment_size"
			}
			e.report(fault("Volume too small", fmt.Sprintf("An environment has %s, but the partition %s of %s has %s.", formatSize(d.Bootloader.EnvironmentSize), name, l.Address, formatSize(p.Size)), b.rangeOf(at)))
		}
	}
}

// presetEnvironment takes the environment's place from a preset.
func (e *evaluator) presetEnvironment(d *DeviceType, l *Layout, b *body) {
	place := l.Environment
	if name := b.text("environment"); b.given("environment") && name != place.Reserve {
		text := fmt.Sprintf("environment is %s, but the preset of %s keeps U-Boot's environment in its reserve %s. Leave environment out.", name, l.Address, place.Reserve)
		if place.Reserve == "" {
			text = fmt.Sprintf("environment is %s, but the preset of %s keeps U-Boot's environment in %s, outside of the image. Leave environment out.", name, l.Address, place.Device)
		}
		e.report(fault("Not as in the preset", text, b.rangeOf("environment")))
	}
	if size := b.integer("environment_size"); b.given("environment_size") && size != place.Size {
		e.reportAgainstPreset(b, "environment_size", formatSize(size), l.Address, "BOOTENV_SIZE", formatSize(place.Size))
	}
	if b.given("redundant") && !b.flag("redundant") {
		e.report(fault("Not as in the preset", fmt.Sprintf("redundant is false, but the preset of %s has two copies of the environment, which Mender's U-Boot integration needs. Leave redundant out.", l.Address), b.rangeOf("redundant")))
	}
	d.Bootloader.Environment, d.Bootloader.EnvironmentSize, d.Bootloader.Redundant = place.Reserve, place.Size, true
}

const (
	sector       = 512 // what disks are read and written by
	bootCodeSize = 440 // of the first sector, in front of the disk's signature and the table of an MBR
)

// checkEnvironment finds out whether the boot loader's environment has its place: a device whose environment overlaps
// something else boots once.
func (e *evaluator) checkEnvironment(d *DeviceType, l *Layout, b *body) {
	var names []string
	for _, r := range l.Reserves {
		names = append(names, r.Name)
		if r.Name != d.Bootloader.Environment {
			continue
		}
		copies, what := int64(1), "one copy"
		if d.Bootloader.Redundant {
			copies, what = 2, "two copies"
		}
		if need := copies * d.Bootloader.EnvironmentSize; r.Size > 0 && need > r.Size {
			at := "environment"
			if b.content.attrs["environment_size"] != nil {
				at = "environment_size"
			}
			e.report(fault("Reserve too small", fmt.Sprintf("%s of an environment of %s need %s, but the reserve %s of %s has %s.",
				sentenceStart(what), formatSize(d.Bootloader.EnvironmentSize), formatSize(need), r.Name, l.Address, formatSize(r.Size)), b.rangeOf(at)))
		} else if copies == 2 && r.Size%(2*sector) != 0 {
			e.report(fault("Reserve cannot be halved", fmt.Sprintf("The second copy of the environment stands where the second half of the reserve %s of %s begins, and U-Boot reads whole sectors: its size, %s, must be a multiple of 1KiB.",
				r.Name, l.Address, formatSize(r.Size)), b.rangeOf("environment")))
		}
		return
	}
	detail := fmt.Sprintf("%s has no reserve %s.%s", l.Address, d.Bootloader.Environment, suggestion(d.Bootloader.Environment, names, "Known: "))
	e.report(fault("Unknown reserve", detail, b.rangeOf("environment")))
}

func sentenceStart(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func (e *evaluator) computeArtifact(inst *instance) map[string]cty.Value {
	b := inst.body
	a := &Artifact{
		Address: inst.address, Name: b.text("name"), Group: b.text("group"),
		Provides: b.textMap("provides"), Depends: b.textMap("depends"), ClearsProvides: b.texts("clears_provides"),
		NoDefaultProvides: b.has("default_provides") && !b.flag("default_provides"),
		Compression:       b.text("compress"), CompressionLevel: int(b.integer("compress_level")),
		Signer: result[*Signer](e, b.text("signer")), Provenance: b.flag("provenance"), SBOM: e.abs(b.text("sbom")),
	}
	inst.result = a
	rel := path.Join(filepath.ToSlash(e.out()), "artifacts", inst.block.home.folder, labelled(inst)+".mender")
	a.Path = e.abs(rel)
	for i, script := range b.texts("scripts") {
		a.Scripts = append(a.Scripts, e.abs(script))
		e.mustExist(script, elementRange(b.content.attrs["scripts"].Expr, &problem{index: i}))
	}
	seen := make(map[string]bool)
	for _, address := range b.texts("device_types") {
		d := result[*DeviceType](e, address)
		if d == nil || d.Name == "" {
			continue
		}
		for _, name := range append([]string{d.Name}, d.Compatible...) {
			if !seen[name] {
				seen[name] = true
				a.DeviceTypes = append(a.DeviceTypes, name)
			}
		}
	}
	for _, n := range b.all("software") {
		a.Software = Software{Filesystem: n.body.text("filesystem"), Name: n.body.text("name"), Version: n.body.text("version")}
	}
	e.chooseCompression(a, b)
	if b.has("sbom") {
		e.mustExist(b.text("sbom"), *b.rangeOf("sbom"))
	}
	if a.Provenance && b.unset("signer") {
		e.report(fault("Missing argument", "A statement of provenance needs a signer: one that nobody signed proves nothing.", b.rangeOf("provenance")))
	}
	for _, n := range b.all("payload") {
		e.computePayload(inst, a, n)
		e.warnOfLineEnds(n.body, "meta_data")
	}
	e.warnOfLineEnds(b, "provides")
	e.warnOfScripts(a, b)
	exposed := e.builtFile(inst.address, rel)
	exposed["signed"] = cty.UnknownVal(cty.Bool)
	if b.has("signer") || b.unset("signer") {
		exposed["signed"] = cty.BoolVal(!b.unset("signer"))
	}
	return exposed
}

// warnOfLineEnds warns of the line ends of Windows in a value, which a heredoc has when its file does.
func (e *evaluator) warnOfLineEnds(b *body, name string) {
	if !b.has(name) {
		return
	}
	_ = cty.Walk(b.values[name], func(_ cty.Path, v cty.Value) (bool, error) {
		if v.IsKnown() && !v.IsNull() && v.Type() == cty.String && strings.Contains(v.AsString(), "\r\n") {
			e.report(caution("Line ends of Windows", fmt.Sprintf("%s holds lines that end in a carriage return and a newline, which programs on the device may take for a part of the text. Write the file with plain newlines.", name), b.rangeOf(name)))
		}
		return true, nil
	})
}

// warnOfScripts warns of scripts whose first line ends as on Windows: the kernel looks for "/bin/sh\r" then.
func (e *evaluator) warnOfScripts(a *Artifact, b *body) {
	look := func(file string, at *hcl.Range) {
		if e.facts == nil || e.pending(file) {
			return
		}
		head, err := e.facts.head(file, 256)
		if line, _, found := strings.Cut(string(head), "\n"); err == nil && found && strings.HasPrefix(line, "#!") && strings.HasSuffix(line, "\r") {
			e.report(caution("Line ends of Windows", fmt.Sprintf("The first line of %s ends in a carriage return, so devices look for an interpreter of that name and cannot run it.", e.shown(file)), at))
		}
	}
	for i, script := range a.Scripts {
		look(script, b.rangeOfElement("scripts", i))
	}
	for _, n := range b.all("payload") {
		if n.label != "script" {
			continue
		}
		for _, file := range a.Payload.Files {
			look(file, n.body.rangeOf("file"))
		}
	}
}

// chooseCompression takes the best that all clients in the field read, unless the pipeline says which.
func (e *evaluator) chooseCompression(a *Artifact, b *body) {
	known, mender3 := true, ""
	for _, address := range b.texts("device_types") {
		d := result[*DeviceType](e, address)
		if d == nil || len(d.Clients) == 0 {
			known = false
		} else if slices.Contains(d.Clients, clientMender3) {
			mender3 = d.Address
		}
	}
	if b.unset("compress") {
		a.Compression = "gzip"
		if known && mender3 == "" {
			a.Compression = "zstd"
		}
	} else if a.Compression == "zstd" && mender3 != "" {
		e.report(fault("Compression that devices cannot read", fmt.Sprintf("There are clients of Mender 3 on devices of %s, and they do not read zstd.", mender3), b.rangeOf("compress")))
	}
	highest := map[string]int{"gzip": 9, "xz": 9, "zstd": 19}[a.Compression]
	if a.CompressionLevel > highest {
		text := fmt.Sprintf("The levels of %s are 1 to %d.", a.Compression, highest)
		if highest == 0 {
			text = "Without compression there is no level."
		}
		e.report(fault("Wrong value", text, b.rangeOf("compress_level")))
	}
}

const (
	rootfsImage = "rootfs-image"
	// BootstrapPayload is the type of an artifact without payload.
	BootstrapPayload = "bootstrap"
)

// PayloadKind says which arguments a payload takes. A test holds it against what makes the payloads.
type PayloadKind struct{ Takes, Needs []string }

// PayloadKinds are the payload types with a form of their own. All other update modules take files and meta_data. Files
// stands for file, too.
var PayloadKinds = map[string]PayloadKind{
	rootfsImage:      {Takes: []string{"files"}, Needs: []string{"files"}},
	"single-file":    {Takes: []string{"files", "destination", "file_name", "mode", "meta_data"}, Needs: []string{"files", "destination"}},
	"directory":      {Takes: []string{"directory", "destination", "keep_owners", "meta_data"}, Needs: []string{"directory", "destination"}},
	"script":         {Takes: []string{"files", "meta_data"}, Needs: []string{"files"}},
	"deb":            {Takes: []string{"files", "meta_data"}, Needs: []string{"files"}},
	"rpm":            {Takes: []string{"files", "meta_data"}, Needs: []string{"files"}},
	"docker":         {Takes: []string{"images", "run_args"}, Needs: []string{"images"}},
	"docker-compose": {Takes: []string{"directory", "compose_files", "image_files", "project"}, Needs: []string{"image_files", "project"}},
	"app":            {Takes: []string{"directory", "compose_files", "image_files", "project", "platform"}, Needs: []string{"image_files", "project", "platform"}},
}

// checkPayloadArguments tells whether the payload has what its type takes, and nothing else.
func (e *evaluator) checkPayloadArguments(n *nestedBody) bool {
	b := n.body
	kind, special := PayloadKinds[n.label]
	if !special {
		kind.Takes = []string{"files", "meta_data"}
	}
	if n.label == BootstrapPayload {
		kind.Takes = nil
	}
	ok := true
	for _, a := range payloadSchema.Attrs {
		name := a.Name
		if name == "file" {
			name = "files"
		}
		if b.unset(a.Name) || slices.Contains(kind.Takes, name) {
			continue
		}
		ok = false
		text := fmt.Sprintf("A payload of type %s takes %s.", n.label, strings.Join(kind.Takes, ", "))
		switch {
		case n.label == BootstrapPayload:
			text = "A bootstrap artifact installs nothing: it only sets what the device provides."
		case a.Name == "meta_data":
			text = fmt.Sprintf("A payload of type %s has no meta-data to set.", n.label)
		}
		e.report(fault("Unexpected argument", text, b.rangeOf(a.Name)))
	}
	var missing []string
	for _, name := range kind.Needs {
		if b.unset(name) && (name != "files" || b.unset("file")) && !b.content.incomplete {
			missing = append(missing, name)
		}
	}
	switch {
	case slices.Equal(missing, []string{"files"}):
		e.report(fault("Missing argument", "The payload needs file or files: what to install.", n.rng.Ptr()))
	case len(missing) > 0:
		e.report(fault("Missing argument", fmt.Sprintf("A payload of type %s needs %s.", n.label, strings.Join(missing, ", ")), n.rng.Ptr()))
	}
	ok = ok && len(missing) == 0
	return ok
}

func (e *evaluator) computePayload(inst *instance, a *Artifact, n *nestedBody) {
	b := n.body
	a.Payload.Type = n.label
	if !b.unset("file") && !b.unset("files") {
		e.report(fault("Conflicting arguments", "A payload takes file or files, not both.", b.rangeOf("files")))
		return
	}
	if !e.checkPayloadArguments(n) || n.label == BootstrapPayload {
		return
	}
	if _, special := PayloadKinds[n.label]; !special && b.unset("file") && b.unset("files") && b.unset("meta_data") {
		if !b.content.incomplete {
			e.report(fault("Missing argument", "The payload needs file or files: what to install.", n.rng.Ptr()))
		}
		return
	}
	p := &a.Payload
	p.Directory, p.Destination = e.abs(b.text("directory")), b.text("destination")
	p.FileName, p.Mode, p.KeepOwners = b.text("file_name"), b.text("mode"), b.flag("keep_owners")
	p.Images, p.Project, p.Platform, p.RunArgs = b.texts("images"), b.text("project"), b.text("platform"), b.text("run_args")
	if b.has("directory") && e.facts != nil && !e.pending(b.text("directory")) {
		if err := e.facts.directory(b.text("directory")); err != nil {
			e.report(fault("Directory not found", sentence(err.Error()), b.rangeOf("directory")))
		}
	}
	for _, list := range []struct {
		name string
		to   *[]string
	}{{"image_files", &p.ImageFiles}, {"compose_files", &p.ComposeFiles}} {
		for i, f := range b.texts(list.name) {
			e.mustExist(f, elementRange(b.content.attrs[list.name].Expr, &problem{index: i}))
			*list.to = append(*list.to, e.abs(f))
		}
	}
	if b.has("file") {
		e.mustExist(b.text("file"), *b.rangeOf("file"))
		a.Payload.Files = []string{e.abs(b.text("file"))}
	}
	base := make(map[string]string)
	for i, f := range b.texts("files") {
		at := elementRange(b.content.attrs["files"].Expr, &problem{index: i})
		e.mustExist(f, at)
		if first, dup := base[path.Base(f)]; dup {
			e.report(fault("Duplicate file name", fmt.Sprintf("%s and %s have one name in the artifact.", first, f), at.Ptr()))
		}
		base[path.Base(f)] = f
		a.Payload.Files = append(a.Payload.Files, e.abs(f))
	}
	if b.has("meta_data") {
		v := b.values["meta_data"]
		switch {
		case !v.Type().IsObjectType() && !v.Type().IsMapType():
			e.report(fault("Wrong type of value", fmt.Sprintf("An object is needed here, not %s.", describe(v)), b.rangeOf("meta_data")))
		case v.IsWhollyKnown():
			data, err := ctyjson.Marshal(v, v.Type())
			if err != nil {
				e.report(fault("Wrong value", sentence("meta_data cannot be written as JSON: "+err.Error()), b.rangeOf("meta_data")))
			}
			a.Payload.MetaData = data
		}
	}
	if n.label != rootfsImage {
		return
	}
	if len(b.texts("files")) > 1 {
		e.report(fault("Too many files", "A rootfs-image payload is exactly one file.", b.rangeOf("files")))
		return
	}
	if len(a.Payload.Files) != 1 {
		return
	}
	at := "file"
	if b.unset("file") {
		at = "files"
	}
	for _, address := range inst.body.texts("device_types") {
		d := result[*DeviceType](e, address)
		if d == nil {
			continue
		}
		group, size, filesystem := d.Layout.slots()
		e.mustFit(FileCheck{
			File: a.Payload.Files[0], Place: eachSlot + fmt.Sprintf("%s of %s", group, d.Layout.Address), Size: size,
			Filesystem: filesystem, Sector: d.Layout.SectorSize, Flash: d.Layout.UBI != nil, Slot: true,
		}, b.rangeOf(at), &a.Checks)
	}
}

// mustExist reports a file that is not there. Offline nothing is asked.
func (e *evaluator) mustExist(name string, at hcl.Range) {
	if e.facts == nil || name == "" || e.pending(name) || e.knownWrong(e.missingFile(name)) {
		return
	}
	if _, err := e.facts.regular(name); err != nil {
		e.report(fault("File not found", sentence(err.Error()), at.Ptr()))
	}
}

// mustFit reports a file that does not go into its place. One that a source action makes is looked at when it is there, unless
// what it will be is known.
func (e *evaluator) mustFit(c FileCheck, at *hcl.Range, later *[]FileCheck) {
	if e.facts == nil || c.Size == 0 {
		return
	}
	var summary, detail string
	shown := e.shown(c.File)
	if known, ok := e.sources.fact[c.File]; ok {
		summary, detail = c.judge(shown, known.size, known, nil)
	} else if !e.pending(c.File) {
		summary, detail = c.problemOf(e.facts, shown)
	}
	if e.pending(c.File) {
		*later = append(*later, c)
	} else if doubt := c.doubtOf(e.facts, shown); doubt != "" && summary == "" {
		e.report(caution("Compressed file system", doubt, at))
	}
	if summary != "" { // an artifact's and an image's slots are one place
		e.reportOrigin(strings.Join([]string{summary, c.File, strings.TrimPrefix(c.Place, eachSlot)}, "\x00"), fault(summary, detail, at))
	}
}

// eachSlot begins the description of a place that a payload goes to.
const eachSlot = "each of the slots "

func (e *evaluator) computeImage(inst *instance) map[string]cty.Value {
	b := inst.body
	im := &Image{Address: inst.address, Name: outputName(inst), Server: result[*Server](e, b.text("server")), WholeSHA256: b.flag("whole_sha256")}
	inst.result = im
	stem := path.Join(filepath.ToSlash(e.out()), "images", inst.block.home.folder, labelled(inst))
	device := result[*DeviceType](e, b.text("device_type"))
	if device != nil {
		im.DeviceType = *device
	}
	rel, paths := e.imageOutputs(im, stem, e.imageFormats(b, &im.DeviceType.Layout))
	im.Artifact = result[*Artifact](e, b.text("artifact"))
	if device != nil && im.Artifact != nil {
		artifact := e.instances[b.text("artifact")]
		fits := false
		for _, address := range artifact.body.texts("device_types") {
			fits = fits || address == device.Address
		}
		for _, name := range im.Artifact.DeviceTypes {
			fits = fits || name == device.Name
		}
		if !fits && artifact.body.content.attrs["device_types"] != nil && artifact.body.has("device_types") && artifact.body.values["device_types"].IsWhollyKnown() {
			e.report(fault("Artifact for another device type", fmt.Sprintf("%s is for %s, but the image is for %s.",
				im.Artifact.Address, strings.Join(artifact.body.texts("device_types"), ", "), device.Address), b.rangeOf("artifact")))
		}
	}
	filled := make(map[string]hcl.Range)
	for _, n := range b.all("fill") {
		if first, dup := filled[n.label]; dup {
			e.report(fault("Duplicate fill", fmt.Sprintf("There is already a fill of %s, at %s:%d,%d.", n.label, filepath.Base(first.Filename), first.Start.Line, first.Start.Column), n.labelRng.Ptr()))
			continue
		}
		filled[n.label] = n.labelRng
		e.checkFilledTwice(b, n, device)
		im.Fills = append(im.Fills, e.computeFill(n, device, &im.Checks))
	}
	if device != nil {
		if group, _, _ := device.Layout.slots(); group != "" {
			_, whole := filled[group]
			a, _ := device.Layout.slotNames(group)
			_, slot := filled[a]
			if !whole && !slot {
				e.report(caution("Slot stays empty", fmt.Sprintf("Nothing fills %s, so the device has nothing to boot. Add fill %q { file = ... }.", group, group), inst.block.rng.Ptr()))
			}
		}
	}
	if device != nil {
		e.checkSlotContent(inst, im)
		e.checkDataPartition(inst, im)
		e.checkLoaderFilled(inst, im)
		e.checkScriptVars(inst, im)
		e.checkPresetFiles(inst, im, filled)
	}
	exposed := e.builtFile(inst.address, rel)
	exposed["paths"] = cty.MapVal(paths)
	return exposed
}

// checkPresetFiles warns of boot loaders that Mender's build has in its image, and this one has not.
func (e *evaluator) checkPresetFiles(inst *instance, im *Image, filled map[string]hcl.Range) {
	for _, r := range im.DeviceType.Layout.Reserves {
		if _, ok := filled[r.Name]; r.File != "" && !ok && !inst.body.open {
			e.report(caution("Boot loader missing", fmt.Sprintf("Mender's build puts %s into %s of %s, and nothing fills that here. Add fill %q { file = ... }, or fill it with empty = true.",
				shorten(r.File), r.Name, im.DeviceType.Layout.Address, r.Name), inst.block.rng.Ptr()))
		}
	}
}

// imageSuffixes are what files of each format are called. A block map is found by the image's name.
var imageSuffixes = map[string]string{
	"raw": ".img", "bmap": ".img.bmap", "gz": ".img.gz", "xz": ".img.xz", "zst": ".img.zst", "android-sparse": ".simg", "qcow2": ".qcow2", formatUBI: ".ubi",
}

const formatUBI = "ubi"

// imageFormats are the formats of an image: raw flash has one of its own, and no other.
func (e *evaluator) imageFormats(b *body, l *Layout) []string {
	flash := l.UBI != nil
	if b.unset("formats") {
		if flash {
			return []string{formatUBI}
		}
		return []string{"raw", "bmap"}
	}
	formats := b.texts("formats")
	for i, f := range formats {
		if (f == formatUBI) == flash || l.Address == "" {
			continue
		}
		text := fmt.Sprintf("%s is raw flash, whose images have the format ubi: %s is for disks.", l.Address, f)
		if f == formatUBI {
			text = fmt.Sprintf("%s is a disk; the format ubi is for raw flash, which a layout with a block ubi has.", l.Address)
		}
		e.report(fault("Not for this kind of medium", text, elementRange(b.content.attrs["formats"].Expr, &problem{index: i}).Ptr()))
	}
	return formats
}

func checkFormats(v cty.Value) string {
	seen := make(map[string]bool)
	for it := v.ElementIterator(); it.Next(); {
		_, f := it.Element()
		if !f.IsKnown() {
			continue
		}
		switch name := f.AsString(); {
		case imageSuffixes[name] == "":
			return fmt.Sprintf("cannot hold %q.%s", shorten(name), suggestion(name, keys(imageSuffixes), "There are: "))
		case seen[name]:
			return fmt.Sprintf("names %s twice", name)
		default:
			seen[name] = true
		}
	}
	if len(seen) == 0 && v.IsWhollyKnown() || len(seen) == 1 && seen["bmap"] {
		return "names no format of an image"
	}
	return ""
}

// imageOutputs says where the forms of an image go. The raw one is the first, else that which was named first.
func (e *evaluator) imageOutputs(im *Image, stem string, formats []string) (first string, paths map[string]cty.Value) {
	if len(formats) == 0 { // not known, or wrong
		formats = []string{"raw"}
	}
	slices.SortStableFunc(formats, func(a, b string) int { return formatRank(a) - formatRank(b) })
	paths = make(map[string]cty.Value)
	for _, f := range formats {
		rel := stem + imageSuffixes[f]
		im.Outputs = append(im.Outputs, ImageOutput{Format: f, Path: e.abs(rel)})
		paths[f] = cty.StringVal(rel)
	}
	im.Path = im.Outputs[0].Path
	return stem + imageSuffixes[formats[0]], paths
}

func formatRank(format string) int {
	switch format {
	case "raw":
		return 0
	case "bmap": // describes another file
		return 2
	}
	return 1
}

// checkFilledTwice reports a slot that is filled under its own name and under that of the pair: one of the two would be
// lost.
func (e *evaluator) checkFilledTwice(b *body, slot *nestedBody, device *DeviceType) {
	if device == nil {
		return
	}
	p := findPartition(device, slot.label)
	if p == nil || p.Slot == "" || p.Name != slot.label {
		return
	}
	for _, n := range b.all("fill") {
		if n.label == p.SlotGroup && (p.Slot == "a" || n.body.flag("both")) {
			e.report(fault("Duplicate fill", fmt.Sprintf("The fill of %s, at %s:%d,%d, is for %s, too.", n.label, filepath.Base(n.labelRng.Filename), n.labelRng.Start.Line, n.labelRng.Start.Column, slot.label), slot.labelRng.Ptr()))
		}
	}
}

// checkSlotContent warns of a slot A that holds another file than the release whose name the device will report.
func (e *evaluator) checkSlotContent(inst *instance, im *Image) {
	if im.Artifact == nil || im.Artifact.Payload.Type != rootfsImage || len(im.Artifact.Payload.Files) != 1 {
		return
	}
	group, _, _ := im.DeviceType.Layout.slots()
	for _, n := range inst.body.all("fill") {
		if slotA, _ := im.DeviceType.Layout.slotNames(group); n.label != group && n.label != slotA || !n.body.has("file") {
			continue
		}
		file, release := e.abs(n.body.text("file")), im.Artifact.Payload.Files[0]
		if file != release {
			e.report(caution("Slot holds something else", fmt.Sprintf("The device will report the release of %s, but %s gets another file than that artifact has, %s.",
				im.Artifact.Address, n.label, e.shown(release)), n.body.rangeOf("file")))
		}
	}
}

// dataMount is where the agent looks for what it needs.
const dataMount = "/data"

// madeHere tells whether file systems of a kind are made, from nothing or from files.
func madeHere(filesystem string) bool {
	return filesystem == "ext4" || filesystem == "vfat" || filesystem == ubifs
}

func readOnly(filesystem string) bool { return filesystem == "squashfs" || filesystem == "erofs" }

// checkDataPartition finds out whether the agent's configuration has its place.
func (e *evaluator) checkDataPartition(inst *instance, im *Image) {
	for _, p := range im.DeviceType.Layout.Partitions {
		if p.Mount != dataMount {
			continue
		}
		file := false
		for _, n := range inst.body.all("fill") {
			file = file || n.label == p.Name && !n.body.unset("file")
		}
		makable := "ext4"
		if im.DeviceType.Layout.UBI != nil {
			makable = ubifs
		}
		switch {
		case p.Filesystem == "none" && !file:
			e.report(fault("No file system", fmt.Sprintf("The agent's configuration goes onto %s, which has no file system. Set its filesystem to %q in %s, or fill it with a file that holds one.",
				p.Name, makable, im.DeviceType.Layout.Address), inst.block.rng.Ptr()))
		case readOnly(p.Filesystem):
			e.report(fault("Read-only file system", fmt.Sprintf("The agent keeps its state on %s, and nothing can be written to %s. Set its filesystem to %q in %s.",
				p.Name, p.Filesystem, makable, im.DeviceType.Layout.Address), inst.block.rng.Ptr()))
		}
		return
	}
	if len(im.DeviceType.Layout.Partitions) > 0 && !inst.body.open {
		e.report(caution("No place for the agent's configuration", fmt.Sprintf("No partition of %s has mount = %q, so the image tells the device neither its server nor whom to trust.",
			im.DeviceType.Layout.Address, dataMount), inst.block.rng.Ptr()))
	}
}

// shown is a path as messages name it: relative when it is below the pipeline's directory.
func (e *evaluator) shown(file string) string {
	if r, err := filepath.Rel(e.pipeline.dir, file); err == nil && filepath.IsLocal(r) {
		return r
	}
	return file
}

func (e *evaluator) computeFill(n *nestedBody, device *DeviceType, later *[]FileCheck) Fill {
	b := n.body
	f := Fill{Partition: n.label, Both: b.flag("both"), Range: n.rng}
	var set []string
	for _, name := range []string{"file", "files", "dir", "tar"} {
		if !b.unset(name) {
			set = append(set, name)
		}
	}
	if f.Empty = b.flag("empty"); f.Empty {
		set = append(set, "empty")
	}
	switch {
	case len(set) == 0:
		e.report(fault("Missing argument", "A fill needs one of file, files, dir, tar and empty: what goes into the partition.", n.rng.Ptr()))
	case len(set) > 1:
		e.report(fault("Conflicting arguments", fmt.Sprintf("A fill takes one of file, files, dir, tar and empty, not %s.", strings.Join(set, " and ")), b.rangeOf(set[1])))
	}

	var target *Partition
	if device != nil && len(device.Layout.Partitions) > 0 {
		target = findPartition(device, n.label)
		if r := device.Layout.reserve(n.label); target == nil && r != nil { // bytes outside every partition
			target = &Partition{Name: r.Name, Size: r.Size}
			if r.Offset == 0 && r.Size <= bootCodeSize { // the file may go on as the sector does
				target.Size = sector
			}
		}
		if boot := device.Bootloader; device.Layout.UBI != nil && boot.Environment == n.label { // text, for each of its volumes
			if p := findPartition(device, boot.EnvironmentVolumes()[0]); p != nil {
				target = &Partition{Name: n.label, Size: p.Size}
			}
		}
		if target == nil {
			var names []string
			for _, p := range device.Layout.Partitions {
				if p.Slot == "a" {
					names = append(names, p.SlotGroup)
				}
				names = append(names, p.Name)
			}
			for _, r := range device.Layout.Reserves {
				names = append(names, r.Name)
			}
			e.report(fault("Unknown partition", fmt.Sprintf("%s has no partition %s.%s", device.Layout.Address, n.label, suggestion(n.label, names, "Known: ")), n.labelRng.Ptr()))
		} else if f.Both && target.SlotGroup != n.label {
			e.report(fault("Unexpected argument", "both makes sense for slots only.", b.rangeOf("both")))
		}
	}
	if b.has("file") {
		e.mustExist(b.text("file"), *b.rangeOf("file"))
		f.File = e.abs(b.text("file"))
		if target != nil {
			e.mustFit(FileCheck{
				File: f.File, Place: fmt.Sprintf("%s of %s", n.label, device.Layout.Address), Size: target.Size,
				Filesystem: target.Filesystem, Sector: device.Layout.SectorSize, Flash: device.Layout.UBI != nil, Slot: target.Slot != "", Packed: true,
			}, b.rangeOf("file"), later)
		}
	}
	if b.has("files") {
		f.Files = make(map[string]string)
		files := b.textMap("files")
		for _, dest := range keys(files) {
			src := files[dest]
			at := elementRange(b.content.attrs["files"].Expr, &problem{index: -1, key: dest})
			if reason := checkInside(dest); reason != "" {
				e.report(fault("Wrong path", reason, at.Ptr()))
				continue
			}
			if _, dup := f.Files[path.Clean(dest)]; dup {
				e.report(fault("Duplicate file name", fmt.Sprintf("There is already a file %s in this fill, written in another way.", path.Clean(dest)), at.Ptr()))
				continue
			}
			e.mustExist(src, at)
			f.Files[path.Clean(dest)] = e.abs(src)
		}
	}
	if target != nil && !madeHere(target.Filesystem) && (len(f.Files) > 0 || b.has("dir") || b.has("tar")) {
		detail := fmt.Sprintf("The partition %s has no file system, so only file = ... can fill it.", n.label)
		if readOnly(target.Filesystem) {
			detail = fmt.Sprintf("Of %s only finished images are taken, so file = ... has to fill %s. Made here are ext4 and vfat.", target.Filesystem, n.label)
		}
		e.report(fault("No file system", detail, b.rangeOf(set[0])))
	}
	e.computeOwners(b, &f)
	if b.has("tar") {
		e.mustExist(b.text("tar"), *b.rangeOf("tar"))
		f.Tar = e.abs(b.text("tar"))
	}
	if b.has("dir") {
		f.Dir = e.abs(b.text("dir"))
		if e.facts != nil && !e.pending(b.text("dir")) {
			if err := e.facts.directory(b.text("dir")); err != nil {
				e.report(fault("Directory not found", sentence(err.Error()), b.rangeOf("dir")))
			}
		}
	}
	if device != nil && len(set) == 1 {
		e.checkContentSize(&f, target, fmt.Sprintf("%s of %s", n.label, device.Layout.Address), b.rangeOf(set[0]))
	}
	return f
}

// computeOwners decides to whom the files of a fill belong. A directory belongs to whoever has built it, an archive says it.
func (e *evaluator) computeOwners(b *body, f *Fill) {
	f.RootOwned = b.text("owners") == "root" || b.unset("owners") && b.has("dir")
	if !b.unset("owners") && b.unset("dir") && b.unset("tar") {
		e.report(fault("Unexpected argument", "owners is about the files of dir or tar.", b.rangeOf("owners")))
	}
}

func (l *Layout) reserve(name string) *Reserve {
	for i := range l.Reserves {
		if l.Reserves[i].Name == name {
			return &l.Reserves[i]
		}
	}
	return nil
}

func findPartition(d *DeviceType, name string) *Partition {
	for i := range d.Layout.Partitions {
		if p := &d.Layout.Partitions[i]; p.Name == name || p.SlotGroup == name {
			return p
		}
	}
	return nil
}

// checkInside tells what is wrong with a path inside a file system.
func checkInside(name string) string {
	clean := path.Clean(name)
	if name == "" || path.IsAbs(name) || clean == "." || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return fmt.Sprintf("%q is not a path inside the partition; write it relative to the partition's root, without \"..\".", shorten(name))
	}
	return ""
}

func (e *evaluator) computeRollout(inst *instance) {
	b := inst.body
	r := &Rollout{
		Address: inst.address, Name: outputName(inst), FailureThreshold: b.float("failure_threshold"),
		OnFailure: b.text("on_failure"), Retries: int(b.integer("retries")),
	}
	inst.result = r
	if s := result[*Server](e, b.text("server")); s != nil {
		r.Server = *s
	}
	seen := make(map[string]bool)
	for i, address := range b.texts("artifacts") {
		a := result[*Artifact](e, address)
		if a == nil {
			continue
		}
		at := elementRange(b.content.attrs["artifacts"].Expr, &problem{index: i})
		if seen[address] {
			e.report(fault("Duplicate artifact", fmt.Sprintf("%s is there twice.", address), at.Ptr()))
			continue
		}
		seen[address] = true
		if len(r.Artifacts) > 0 && a.Name != "" && r.Artifacts[0].Name != "" && a.Name != r.Artifacts[0].Name {
			e.report(fault("Two releases in one rollout", fmt.Sprintf("A rollout brings one release, whose artifacts have one name, but %s is named %s and %s is named %s.",
				r.Artifacts[0].Address, r.Artifacts[0].Name, a.Address, a.Name), at.Ptr()))
		}
		for _, other := range r.Artifacts {
			if name := commonDeviceType(a, other); name != "" && maps.Equal(a.Depends, other.Depends) {
				e.report(fault("Two artifacts for one device type", fmt.Sprintf("%s and %s are both for %s, so a device could not choose. Give one of them other device_types or depends.",
					other.Address, a.Address, name), at.Ptr()))
			}
		}
		r.Artifacts = append(r.Artifacts, a)
	}
	for _, n := range b.all("target") {
		e.computeTarget(r, n)
	}
	for _, n := range b.all("window") {
		e.computeWindow(r, n)
	}
	if b.has("expires") {
		r.Expires, _ = parseDuration(b.text("expires"))
	}
	e.computePhases(inst, r)
}

func commonDeviceType(a, b *Artifact) string {
	for _, name := range a.DeviceTypes {
		if contains(b.DeviceTypes, name) {
			return name
		}
	}
	return ""
}

func (e *evaluator) computePhases(inst *instance, r *Rollout) {
	names := make(map[string]bool)
	targetKnown := true
	for _, n := range inst.body.all("target") {
		targetKnown = n.body.has("groups") || n.body.unset("groups")
	}
	var percent *big.Float
	var count int64
	complete := false
	phases := inst.body.all("phase")
	open := inst.body.open || len(phases) == 0
	for _, n := range phases {
		b := n.body
		if names[n.label] {
			e.report(fault("Duplicate phase", fmt.Sprintf("There are two phases %s.", n.label), n.labelRng.Ptr()))
		}
		names[n.label] = true
		var set []string
		for _, name := range []string{"percent", "count", "groups"} {
			if !b.unset(name) {
				set = append(set, name)
			}
		}
		if len(set) != 1 {
			e.report(fault("Wrong phase", "A phase needs exactly one of percent, count and groups.", n.rng.Ptr()))
			open = true
			continue
		}
		ph := Phase{Name: n.label, Percent: b.float("percent"), Count: int(b.integer("count")), Groups: b.texts("groups"), Approval: b.flag("approval")}
		if b.has("soak") {
			ph.Soak, _ = parseDuration(b.text("soak"))
		}
		if b.has("failure_threshold") {
			f := b.float("failure_threshold")
			ph.FailureThreshold = &f
		}
		complete = false
		switch {
		case !b.has(set[0]):
			open = true
		case set[0] == "percent":
			p := b.values["percent"].AsBigFloat()
			switch {
			case p.Sign() == 0:
				e.report(fault("Wrong phase", "A phase of 0 % does nothing.", b.rangeOf("percent")))
			case percent != nil && p.Cmp(percent) <= 0:
				e.report(fault("Phases do not increase", fmt.Sprintf("%s %% of the devices have the release after the phase before, so a phase of %s %% does nothing.", percent.Text('g', 6), p.Text('g', 6)), b.rangeOf("percent")))
			}
			percent = p
			complete = p.Cmp(big.NewFloat(100)) == 0
		case set[0] == "count":
			c := b.integer("count")
			if c <= count {
				e.report(fault("Phases do not increase", fmt.Sprintf("%d devices have the release after a phase before, so a phase of %d does nothing.", count, c), b.rangeOf("count")))
			}
			count = c
		case set[0] == "groups":
			complete = true
			for i, g := range ph.Groups {
				if contains(r.ExcludeGroups, g) {
					e.report(fault("Group is not in the target", fmt.Sprintf("The phase names the group %s, which the rollout's target excludes.", g),
						elementRange(b.content.attrs["groups"].Expr, &problem{index: i}).Ptr()))
				}
				if len(r.Groups) > 0 && targetKnown && !contains(r.Groups, g) {
					e.report(fault("Group is not in the target", fmt.Sprintf("The phase names the group %s, but the rollout's target has only %s.", g, strings.Join(r.Groups, ", ")),
						elementRange(b.content.attrs["groups"].Expr, &problem{index: i}).Ptr()))
				}
			}
		}
		r.Phases = append(r.Phases, ph)
	}
	if !complete && !open {
		last := phases[len(phases)-1]
		e.report(fault("Rollout stays incomplete", fmt.Sprintf("The last phase, %s, does not reach all devices. Add a phase with percent = 100; a rollout can be paused before it.", last.label), last.rng.Ptr()))
	}
}

// builtFile is what a block exposes of the file that it makes: the path always, the rest when it has been built.
func (e *evaluator) builtFile(address, path string) map[string]cty.Value {
	exposed := map[string]cty.Value{
		"path": cty.StringVal(path), "size": cty.UnknownVal(cty.Number), "sha256": cty.UnknownVal(cty.String),
	}
	if built, ok := e.built[address]; ok {
		exposed["size"], exposed["sha256"] = cty.NumberIntVal(built.Size), cty.NullVal(cty.String)
		if built.SHA256 != "" { // a large raw image has none
			exposed["sha256"] = cty.StringVal(built.SHA256)
		}
	}
	return exposed
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// outputName is the name of what an instance makes: its label, with the module before it and the key of for_each after it.
func outputName(inst *instance) string {
	return strings.ReplaceAll(path.Join(inst.block.home.folder, labelled(inst)), "/", "-")
}

// labelled is the label with the key of for_each.
func labelled(inst *instance) string {
	if !inst.keyed {
		return inst.block.name
	}
	return inst.block.name + "-" + cleanName(inst.key)
}

// cleanName makes a key fit for a file name.
func cleanName(key string) string {
	return strings.Map(func(r rune) rune {
		if validName.MatchString(string(r)) {
			return r
		}
		return '-'
	}, key)
}

// out is the directory of outputs as written.
func (e *evaluator) out() string {
	v := e.symbol(symbol{root: "path", name: "out"}, hcl.Range{}).get()
	if !v.IsKnown() || v.IsNull() || v.Type() != cty.String {
		return "out"
	}
	return v.AsString()
}
