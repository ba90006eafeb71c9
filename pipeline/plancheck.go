package pipeline

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// What blocks say together is checked here, after each has been found good by itself: a kernel for another processor, a
// boot loader without its partition, an artifact that waits for something nobody provides. Every such mistake would be
// noticed by a device at last, when it no longer boots.

// checkTogether reports what does not fit together. With whole, all of the pipeline has been evaluated and not only what
// targets need. Offline nothing is said about the content of files.
func (e *evaluator) checkTogether(whole bool) {
	for _, address := range keys(e.instances) {
		inst := e.instances[address]
		switch r := inst.result.(type) {
		case *Artifact:
			e.checkClients(inst, r)
		case *Rollout:
			e.checkReach(inst, r)
		}
	}
	if e.facts != nil {
		e.checkProcessors()
	}
	if whole {
		e.checkDepends()
	}
}

// Clients.

// checkClients reports artifacts that the bundled agent, which installs root file systems and nothing else, refuses. While
// there are other clients, too, somebody can install it.
func (e *evaluator) checkClients(inst *instance, a *Artifact) {
	what := ""
	var at *hcl.Range
	for _, n := range inst.body.all("payload") {
		if a.Payload.Type != rootfsImage && a.Payload.Type != "" {
			what, at = "payloads of type "+a.Payload.Type, n.labelRng.Ptr()
		}
	}
	if what == "" && len(a.Scripts) > 0 {
		what, at = "state scripts", inst.body.rangeOf("scripts")
	}
	if what == "" {
		return
	}
	for _, address := range inst.body.texts("device_types") {
		d := result[*DeviceType](e, address)
		if d == nil || !slices.Contains(d.Clients, "twinkeel") {
			continue
		}
		text := fmt.Sprintf("The bundled agent, which is the client of %s, refuses artifacts with %s.", d.Address, what)
		if len(d.Clients) == 1 {
			e.report(fault("Payload that devices refuse", text, at))
			return
		}
		e.report(caution("Payload that some devices refuse", text, at))
	}
}

// Rollouts.

// checkReach reports phases that reach nobody new, and groups that no phase reaches. That percentages and counts rise and
// that groups are the target's is checked with each phase.
func (e *evaluator) checkReach(inst *instance, r *Rollout) {
	phases := inst.body.all("phase")
	if inst.body.open || len(phases) != len(r.Phases) {
		return // reported, or not known yet
	}
	reached := make(map[string]string) // by group, the phase that reaches it
	all := ""                          // the phase after which everybody has the release
	for i, n := range phases {
		ph := r.Phases[i]
		if all != "" {
			e.report(fault("Phase reaches nobody", fmt.Sprintf("All devices have the release after the phase %s.", all), n.rng.Ptr()))
			return
		}
		var again []string
		for _, g := range ph.Groups {
			if reached[g] != "" {
				again = append(again, g)
				continue
			}
			reached[g] = n.label
		}
		switch {
		case len(again) == 0:
		case len(again) == len(ph.Groups):
			e.report(fault("Phase reaches nobody", fmt.Sprintf("The phases before reach %s already.", strings.Join(again, ", ")), n.body.rangeOf("groups")))
			return
		default:
			e.report(caution("Group twice", fmt.Sprintf("The group %s has the release already from the phase %s.", again[0], reached[again[0]]), n.body.rangeOf("groups")))
		}
		if ph.Percent == 100 || len(r.Groups) > 0 && covers(reached, r.Groups) {
			all = n.label
		}
	}
	if all != "" || len(phases) == 0 || len(r.Phases[len(phases)-1].Groups) == 0 {
		return
	}
	last := phases[len(phases)-1]
	if len(r.Groups) == 0 {
		e.report(caution("Rollout may stay incomplete", fmt.Sprintf("The phases reach the groups %s, but without a target every device that the artifacts fit takes part, and the server refuses a rollout that leaves some over. Add target { groups = [...] }, or a phase with percent = 100.",
			strings.Join(keys(reached), ", ")), last.rng.Ptr()))
		return
	}
	var missing []string
	for _, g := range r.Groups {
		if reached[g] == "" {
			missing = append(missing, g)
		}
	}
	e.report(fault("Rollout stays incomplete", fmt.Sprintf("No phase reaches the group %s of the target. Add a phase for it, or one with percent = 100; a rollout can be paused before it.", strings.Join(missing, ", ")), last.rng.Ptr()))
}

func covers(reached map[string]string, groups []string) bool {
	return !slices.ContainsFunc(groups, func(g string) bool { return reached[g] == "" })
}

// Dependencies of artifacts.

// alwaysProvided are the keys that a device provides whatever it has installed (mender-artifact's artifact-format-v3,
// depends).
var alwaysProvided = []string{"artifact_name", "artifact_group", "device_type"}

// unknownValue stands for a provided value that only the build knows, which every wanted value may equal.
const unknownValue = "\x00"

// defaultProvides are the keys and values that artifactfmt adds, as its header.go has them.
func (a *Artifact) defaultProvides() map[string]string {
	out := make(map[string]string)
	if a.NoDefaultProvides || a.Payload.Type == BootstrapPayload || a.Payload.Type == "" {
		return out
	}
	key := rootfsImage
	if a.Software.Filesystem != "" {
		key = a.Software.Filesystem
	}
	switch {
	case a.Software.Name != "":
		key += "." + a.Software.Name
	case a.Payload.Type != rootfsImage:
		key += "." + a.Payload.Type
	}
	out[key+".version"] = a.Name
	if a.Software.Version != "" {
		out[key+".version"] = a.Software.Version
	}
	if a.Payload.Type == rootfsImage {
		out["rootfs-image.checksum"] = unknownValue
	}
	return out
}

// checkDepends warns of artifacts that wait for what no artifact of the pipeline provides. It only warns: a device may have
// it from a release that was built elsewhere, or long ago.
func (e *evaluator) checkDepends() {
	var artifacts []*instance
	for _, address := range keys(e.instances) {
		inst := e.instances[address]
		if inst.block.schema.Kind != string(KindArtifact) {
			continue
		}
		open := len(e.blocks[inst.block]) == 0 // the keys of for_each are not known
		if open || !inst.body.values["provides"].IsWhollyKnown() || !inst.body.values["device_types"].IsWhollyKnown() {
			return // nobody knows yet what there will be
		}
		artifacts = append(artifacts, inst)
	}
	all := make(offers)
	for _, inst := range artifacts {
		a, _ := inst.result.(*Artifact)
		all.add(a)
	}
	for _, inst := range artifacts {
		a, _ := inst.result.(*Artifact)
		for _, key := range keys(a.Depends) {
			e.checkDependency(inst, a, key, a.Depends[key], all)
		}
	}
}

// offers are what artifacts provide: device type, key, value.
type offers map[string]map[string]map[string]bool

func (o offers) add(a *Artifact) {
	values := a.defaultProvides()
	maps.Copy(values, a.Provides)
	values["artifact_name"] = a.Name
	if a.Group != "" {
		values["artifact_group"] = a.Group
	}
	for _, device := range a.DeviceTypes {
		if o[device] == nil {
			o[device] = make(map[string]map[string]bool)
		}
		for k, v := range values {
			if o[device][k] == nil {
				o[device][k] = make(map[string]bool)
			}
			o[device][k][v] = true
		}
	}
}

func (e *evaluator) checkDependency(inst *instance, a *Artifact, key, value string, all offers) {
	offered, names := make(map[string]bool), slices.Clone(alwaysProvided)
	for _, device := range a.DeviceTypes {
		values := all[device][key]
		if values[value] || values[unknownValue] {
			return
		}
		maps.Copy(offered, values)
	}
	if slices.Contains(alwaysProvided, key) && len(offered) == 0 {
		return
	}
	at := elementRange(inst.body.content.attrs["depends"].Expr, &problem{index: -1, key: key})
	if len(offered) > 0 {
		e.report(caution("Nobody provides what this depends on", fmt.Sprintf("Artifacts for the same device type provide %s as %s, not as %q. Unless devices have that from an earlier release, they refuse this one.",
			shorten(key), someQuoted(keys(offered)), shorten(value)), at.Ptr()))
		return
	}
	for _, device := range a.DeviceTypes {
		names = append(names, keys(all[device])...)
	}
	e.report(caution("Nobody provides what this depends on", fmt.Sprintf("No artifact for the same device type provides %s, so devices refuse this one unless they have it from elsewhere.%s",
		shorten(key), suggestion(key, names, "")), at.Ptr()))
}

// someQuoted lists texts for a message.
func someQuoted(texts []string) string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = fmt.Sprintf("%q", shorten(t))
	}
	return listSome(out)
}

// Processors.

// alsoRuns are processors whose programs another one runs, too: nothing certain can be said about those.
var alsoRuns = map[string]string{"amd64": "386", "arm64": "arm"}

// processorNames are those that a device type can have; programs for others are firmware of something on the board, as
// Raspberry Pi's start.elf is.
var processorNames = []string{"amd64", "arm64", "arm", "386", "riscv64"}

// checkProcessors reports kernels, boot loaders and programs that the device they go to cannot run.
func (e *evaluator) checkProcessors() {
	c := &processorCheck{e: e, known: make(map[string]program), kernels: make(map[string][]kernel)}
	addresses := keys(e.instances)
	for _, address := range addresses {
		c.addKernel(e.instances[address])
	}
	for _, address := range addresses {
		inst := e.instances[address]
		switch r := inst.result.(type) {
		case *Artifact:
			c.artifact(inst, r)
		case *Image:
			c.image(inst, r)
		}
	}
}

// program is what a file can be run by; machine is empty when that is not certain.
type program struct{ kind, machine string }

type processorCheck struct {
	e       *evaluator
	known   map[string]program  // by path
	kernels map[string][]kernel // by the path of the root file system that they were built with
}

func (c *processorCheck) artifact(inst *instance, a *Artifact) {
	if len(a.Payload.Files) != 1 {
		return
	}
	file := a.Payload.Files[0]
	for _, address := range inst.body.texts("device_types") {
		d := result[*DeviceType](c.e, address)
		if d == nil {
			continue
		}
		for _, n := range inst.body.all("payload") {
			at := n.body.rangeOf("file")
			if n.body.unset("file") {
				at = n.body.rangeOf("files")
			}
			c.check(file, d, at)
		}
		if a.Payload.Type == rootfsImage {
			c.kernelOf(file, d)
		}
	}
}

func (c *processorCheck) image(inst *instance, im *Image) {
	d := &im.DeviceType
	if d.Architecture == "" {
		return
	}
	for _, n := range inst.body.all("fill") {
		if n.body.has("file") {
			file := c.e.abs(n.body.text("file"))
			c.check(file, d, n.body.rangeOf("file"))
			c.kernelOf(file, d)
		}
		files := n.body.textMap("files")
		for _, dest := range keys(files) {
			c.check(c.e.abs(files[dest]), d, elementRange(n.body.content.attrs["files"].Expr, &problem{index: -1, key: dest}).Ptr())
		}
	}
}

// kernel is one of a yocto source, and where its machine is said.
type kernel struct {
	path string
	at   *hcl.Range
}

func (c *processorCheck) addKernel(inst *instance) {
	if inst.block.schema.Kind != "source" || inst.block.typ != "yocto" {
		return
	}
	rootfs, ok := exposedText(inst, "rootfs")
	path, also := exposedText(inst, "kernel")
	if ok && also {
		rootfs = c.e.abs(rootfs)
		c.kernels[rootfs] = append(c.kernels[rootfs], kernel{c.e.abs(path), inst.body.rangeOf("machine")})
	}
}

// kernelOf checks the kernel that was built together with a root file system.
func (c *processorCheck) kernelOf(rootfs string, d *DeviceType) {
	for _, k := range c.kernels[rootfs] {
		c.check(k.path, d, k.at)
	}
}

// exposedText reads what a block exposes, if it is known and not null.
func exposedText(inst *instance, name string) (string, bool) {
	v, ok := inst.computed[name]
	if !ok || !v.IsKnown() || v.IsNull() {
		return "", false
	}
	return v.AsString(), true
}

func (c *processorCheck) check(file string, d *DeviceType, at *hcl.Range) {
	p, seen := c.known[file]
	if !seen {
		p = c.e.facts.programOf(file)
		c.known[file] = p
	}
	if p.machine == "" || p.machine == d.Architecture || alsoRuns[d.Architecture] == p.machine || d.Architecture == "" {
		return
	}
	c.e.report(fault("Built for another processor", fmt.Sprintf("%s is %s for %s, but %s is %s. It was taken from another build, or the architecture of the device type is wrong.",
		c.e.shown(file), p.kind, p.machine, d.Address, d.Architecture), at))
}

// programHead is as much of a file as is looked at: headers of EFI programs begin within the first pages.
const programHead = 4096

// programOf recognises programs and kernels by their headers. A file that cannot be read is none; that is reported elsewhere.
func (f *facts) programOf(path string) program {
	head, err := f.head(path, programHead)
	if err != nil {
		return program{}
	}
	p := recognize(head)
	if !slices.Contains(processorNames, p.machine) {
		return program{}
	}
	return p
}

// recognize tells what the first programHead bytes of a file begin. Kernels come before EFI programs, which they can be, too.
func recognize(head []byte) program {
	le := binary.LittleEndian
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return program{"an ELF file", elfMachineOf(head)}
	case string(head[0x38:0x3c]) == "ARM\x64": // Documentation/arch/arm64/booting.rst
		return program{"a Linux kernel", "arm64"}
	case string(head[0x38:0x3c]) == "RSC\x05" && head[32] != 0: // Documentation/arch/riscv/boot-image-header.rst, 0.2 and later
		return program{"a Linux kernel", "riscv64"}
	case le.Uint32(head[0x24:]) == 0x016f2818: // zImage: arch/arm/boot/compressed/head.S
		return program{"a Linux kernel", "arm"}
	case string(head[0x202:0x206]) == "HdrS" && le.Uint16(head[0x1fe:]) == 0xaa55: // Documentation/arch/x86/boot.rst
		if le.Uint16(head[0x206:]) >= 0x20c && le.Uint16(head[0x236:])&1 != 0 { // XLF_KERNEL_64
			return program{"a Linux kernel", "amd64"}
		}
		return program{"a Linux kernel", "386"}
	case binary.BigEndian.Uint32(head) == 0x27051956: // U-Boot's include/image.h
		return program{"a U-Boot image", map[byte]string{2: "arm", 3: "386", 22: "arm64", 24: "amd64"}[head[29]]}
	case bytes.HasPrefix(head, []byte("MZ")):
		return program{"an EFI program", peMachine(head)}
	}
	return program{}
}

// elfMachineOf is the processor in an ELF header, or "".
func elfMachineOf(head []byte) string {
	order := binary.ByteOrder(binary.LittleEndian)
	if head[5] == 2 {
		order = binary.BigEndian
	}
	machine := elfMachines[order.Uint16(head[18:])]
	if machine == "riscv64" && head[4] == 1 {
		return "riscv32"
	}
	return machine
}

// peMachine is the processor in the header of a PE file (PE Format, machine types), or "".
func peMachine(head []byte) string {
	at := int64(binary.LittleEndian.Uint32(head[0x3c:]))
	if at > int64(len(head)-6) || string(head[at:at+4]) != "PE\x00\x00" {
		return ""
	}
	return map[uint16]string{0x8664: "amd64", 0xaa64: "arm64", 0x14c: "386", 0x1c0: "arm", 0x1c2: "arm", 0x1c4: "arm", 0x5064: "riscv64"}[binary.LittleEndian.Uint16(head[at+4:])]
}

// areaRanges are where a layout's areas are declared, by name, for those who find that they do not go together: the offset
// where it is given, which is what there is to change then, else the header.
func areaRanges(b *body) map[string]hcl.Range {
	out := make(map[string]hcl.Range, len(b.nested))
	for _, n := range b.nested {
		out[n.label] = n.rng
		if n.body.content.attrs["offset"] != nil {
			out[n.label] = *n.body.rangeOf("offset")
		}
		if n.schema.Kind == "slots" {
			for _, slot := range []string{"_a", "_b", "a", "b"} { // the latter of raw flash
				out[n.label+slot] = n.rng
			}
		}
	}
	return out
}

// RangeOf is where the area is declared that a text names in quotes, else where the layout is.
func (l *Layout) RangeOf(text string) hcl.Range {
	best, found := l.Range, false
	for _, name := range keys(l.Areas) {
		at := l.Areas[name]
		if !strings.Contains(text, fmt.Sprintf("%q", name)) {
			continue
		}
		// Of two areas that do not go together, the later one is the newer one as a rule.
		if !found || at.Filename == best.Filename && at.Start.Byte > best.Start.Byte {
			best, found = at, true
		}
	}
	return best
}
