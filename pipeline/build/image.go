package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
)

// dataMount is where the data partition is mounted on a device; what the agent keeps is below it.
const dataMount = "/data"

// ImageMap resolves where everything in an image will be, without making it. For raw flash it shows the volumes.
func ImageMap(im *pipeline.Image) (*imaging.Map, error) { return layoutMap(&im.DeviceType.Layout) }

func (r *runner) image(ctx context.Context, im *pipeline.Image, progress func(done, total int64)) (*Output, error) {
	m, err := ImageMap(im)
	if err != nil {
		return nil, err
	}
	contents, err := r.contents(ctx, im, m)
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(filepath.Dir(im.Path), 0o755); err != nil {
		return nil, err
	}
	// Two images of one name and device type may have equal identifiers: they are the same disk, rebuilt.
	seed := im.Name + "/" + im.DeviceType.Name
	if im.DeviceType.Layout.UBI != nil {
		u := flash(&im.DeviceType.Layout)
		u.Seed, u.Epoch = seed, r.plan.Epoch
		for i := range u.Volumes {
			u.Volumes[i].Content = contents[u.Volumes[i].Name]
		}
		made, err := imaging.WriteUBI(ctx, im.Path, u)
		if err != nil {
			return nil, err
		}
		progress(made.Size, made.Size)
		return r.imageOutput(im, made)
	}
	image := &imaging.Image{
		Layout: *Layout(&im.DeviceType.Layout), Contents: contents, Epoch: r.plan.Epoch, Progress: progress, Seed: seed, Digests: true, WholeDigests: im.WholeSHA256,
	}
	raw := ""
	for _, o := range im.Outputs {
		if o.Format == imaging.FormatRaw {
			raw = o.Path
			continue
		}
		image.Outputs = append(image.Outputs, imaging.Output{Format: o.Format, Path: o.Path})
	}
	inodes := r.knownDigests(contents)
	made, err := imaging.Write(ctx, raw, image)
	if err != nil {
		return nil, err
	}
	for path, before := range inodes { // the digests held while the image was made, or it is of something else
		if _, now, _ := r.digests.remembered(path); now != before {
			return nil, fmt.Errorf("%s changed while the image was made", relativeTo(r.plan.Dir, path))
		}
	}
	if raw != "" {
		digest := made.SHA256
		if digest == "" {
			digest = sparseForm + made.SparseSHA256
		}
		made.Outputs = append(made.Outputs, imaging.WrittenOutput{Format: imaging.FormatRaw, Path: raw, Size: made.Size, SHA256: digest})
	}
	return r.imageOutput(im, made)
}

// knownDigests tells imaging of the files whose digests are known from planning, and returns what their inodes look like.
func (r *runner) knownDigests(contents map[string]imaging.Content) map[string]string {
	inodes := map[string]string{}
	for name, content := range contents {
		if content.File == "" {
			continue
		}
		if digest, inode, known := r.digests.remembered(content.File); known {
			content.SHA256, inodes[content.File] = digest, inode
			contents[name] = content
		}
	}
	return inodes
}

// imageOutput describes the files of an image that was just made: the first one, and the others beside it.
func (r *runner) imageOutput(im *pipeline.Image, made *imaging.Result) (*Output, error) {
	out := &Output{Kind: string(pipeline.KindImage), Path: relativeTo(r.plan.Dir, im.Path), DeviceTypes: []string{im.DeviceType.Name}}
	if im.Artifact != nil {
		out.ArtifactName = im.Artifact.Name
	}
	for _, a := range made.Areas {
		out.Areas = append(out.Areas, Area(a))
	}
	for _, o := range made.Outputs {
		id, err := r.digests.learn(o.Path, o.SHA256)
		if err != nil {
			return nil, err
		}
		if o.Path == im.Path {
			out.Size, out.identity = o.Size, id
			out.setDigest(o.SHA256)
			continue
		}
		out.Sidecars = append(out.Sidecars, Sidecar{relativeTo(r.plan.Dir, o.Path), o.SHA256})
	}
	return out, nil
}

// contents gathers what goes where: the fills of the block, the first bootloader environment, and what the agent needs
// on the data partition. All of it comes from one layout, so that offsets and device names cannot disagree.
func (r *runner) contents(ctx context.Context, im *pipeline.Image, m *imaging.Map) (map[string]imaging.Content, error) {
	contents := map[string]imaging.Content{}
	for _, fill := range im.Fills {
		content := fillContent(fill)
		for _, name := range fillTargets(&im.DeviceType.Layout, fill) {
			if area, _ := m.Find(name); !fill.Empty || madeHere(area.Filesystem) {
				contents[name] = content
			}
		}
	}
	for _, p := range im.DeviceType.Layout.Partitions {
		if _, filled := contents[p.Name]; p.Slot == "b" && madeHere(p.Filesystem) && !filled {
			contents[p.Name] = imaging.Content{} // an empty file system, as on Mender's images: it can be mounted and checked
		}
	}
	for _, fill := range im.Fills {
		if fill.File == "" || fill.Partition != im.DeviceType.Bootloader.Environment {
			continue
		}
		if err := fillEnvironment(im, m, fill.File, contents); err != nil {
			return nil, err
		}
	}
	if boot := im.DeviceType.Bootloader; isGRUB(boot) && contents[boot.Partition].File == "" {
		tree, err := grubEnvironment(m)
		if err != nil {
			return nil, err
		}
		content := contents[boot.Partition]
		if err := addMade(&content, tree); err != nil {
			return nil, fmt.Errorf("fill of %s: %w", boot.Partition, err)
		}
		contents[boot.Partition] = content
	}
	if data := dataPartition(&im.DeviceType.Layout); data != nil {
		if content, filled := contents[data.Name]; filled && content.File != "" {
			return contents, nil // a prebuilt data partition brings its own
		}
		tree, err := r.agentData(ctx, im, m)
		if err != nil {
			return nil, err
		}
		content := contents[data.Name]
		if err := addMade(&content, tree); err != nil {
			return nil, fmt.Errorf("fill of %s: %w", data.Name, err)
		}
		contents[data.Name] = content
	}
	return contents, nil
}

// madeHere tells whether an empty file system of the kind can be made.
func madeHere(filesystem string) bool {
	return filesystem == imaging.FilesystemExt4 || filesystem == imaging.FilesystemVFAT || filesystem == imaging.FilesystemUBIFS
}

// addMade adds files that are made to those of a fill, which may have the same directories but not the same files.
func addMade(fill *imaging.Content, made []imaging.TreeFile) error {
	there := make(map[string]bool, len(fill.Tree))
	for _, t := range fill.Tree {
		there[path.Clean(t.Path)] = true
	}
	tree := slices.Clone(fill.Tree)
	for _, t := range made {
		found := there[t.Path]
		if fill.Dir != "" {
			_, err := os.Lstat(filepath.Join(fill.Dir, filepath.FromSlash(t.Path)))
			found = found || err == nil
		}
		switch {
		case !found:
			tree = append(tree, t)
		case !t.Mode.IsDir():
			return fmt.Errorf("it has %s, which is made with the image; leave it out", t.Path)
		}
	}
	fill.Tree = tree
	return nil
}

// fillTargets are the partitions a fill names: a slot group's name means slot A, or both.
func fillTargets(l *pipeline.Layout, f pipeline.Fill) []string {
	var names []string
	for _, r := range l.Reserves {
		if r.Name == f.Partition {
			names = append(names, r.Name)
		}
	}
	for _, p := range l.Partitions {
		if p.Name == f.Partition || (p.SlotGroup == f.Partition && (p.Slot == "a" || f.Both)) {
			names = append(names, p.Name)
		}
	}
	return names
}

func fillContent(f pipeline.Fill) imaging.Content {
	switch {
	case f.Empty:
		return imaging.Content{}
	case f.File != "":
		return imaging.Content{File: f.File}
	case f.Tar != "":
		return imaging.Content{Tar: f.Tar, RootOwned: f.RootOwned}
	case f.Dir != "":
		return imaging.Content{Dir: f.Dir, RootOwned: f.RootOwned}
	}
	var tree []imaging.TreeFile
	for _, inside := range sortedKeys(f.Files) {
		tree = append(tree, imaging.TreeFile{Path: inside, Mode: 0o644, Source: f.Files[inside]})
	}
	return imaging.Content{Tree: tree}
}

func dataPartition(l *pipeline.Layout) *pipeline.Partition {
	for i := range l.Partitions {
		if l.Partitions[i].Mount == dataMount {
			return &l.Partitions[i]
		}
	}
	return nil
}

// maxInitialEnv bounds u-boot-initial-env, which has a few kilobytes.
const maxInitialEnv = 1 << 20

// fillEnvironment fills the reserve of U-Boot's environment, or its volumes.
func fillEnvironment(im *pipeline.Image, m *imaging.Map, initial string, contents map[string]imaging.Content) error {
	boot := im.DeviceType.Bootloader
	if im.DeviceType.Layout.UBI == nil {
		block, err := firstEnvironment(im, m, initial)
		contents[boot.Environment] = imaging.Content{Bytes: block}
		return err
	}
	env, err := environmentCopy(im, m, initial)
	for _, name := range boot.EnvironmentVolumes() {
		contents[name] = imaging.Content{Bytes: env}
	}
	return err
}

// firstEnvironment is the reserve with all copies of the first environment.
func firstEnvironment(im *pipeline.Image, m *imaging.Map, initial string) ([]byte, error) {
	area, ok := m.Find(im.DeviceType.Bootloader.Environment)
	if !ok {
		return nil, fmt.Errorf("the layout has no area %q for the bootloader environment", im.DeviceType.Bootloader.Environment)
	}
	env, err := environmentCopy(im, m, initial)
	if err != nil {
		return nil, err
	}
	block := make([]byte, area.Size)
	for _, loc := range environmentCopies(im, m) {
		copy(block[loc.Offset-area.Offset:], env)
	}
	return block, nil
}

// environmentCopy is one copy of the boot loader's environment of a device that was just flashed: U-Boot's built-in variables,
// from the text that its build leaves, with slot A chosen and nothing pending. All copies are valid from the start, so that
// fw_printenv works before U-Boot has ever saved.
//
// Without that text the area stays empty and U-Boot uses its built-in variables until it saves them, as on Mender's
// images. It must not be filled with the slot's variables alone: U-Boot takes a valid environment in place of the
// built-in one, and without bootcmd it stops at its prompt.
func environmentCopy(im *pipeline.Image, m *imaging.Map, initial string) ([]byte, error) {
	boot := im.DeviceType.Bootloader
	a, err := slotNumber(m, "a")
	if err != nil {
		return nil, err
	}
	text, err := readLimited(initial, maxInitialEnv)
	if err != nil {
		return nil, err
	}
	vars, err := parseInitialEnv(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", initial, err)
	}
	for name, value := range boot.ScriptVars { // none of those below, which planning refuses
		vars[name] = value
	}
	vars[bootenv.VarBootPart] = strconv.Itoa(a)
	vars[bootenv.VarBootPartHex] = strconv.FormatInt(int64(a), 16)
	vars[bootenv.VarUpgradeAvailable] = "0"
	vars[bootenv.VarBootCount] = "0"
	if vars[bootenv.VarBootLimit] == "" {
		vars[bootenv.VarBootLimit] = "1"
	}
	env, err := bootenv.EncodeUBoot(vars, int(boot.EnvironmentSize), boot.Redundant, 1)
	if err != nil {
		return nil, fmt.Errorf("bootloader environment: %w", err)
	}
	return env, nil
}

// grubEnvironment is the first environment of GRUB on a device that was just flashed, in the files that the scripts of
// grub-mender-grubenv read: slot A chosen and nothing pending.
func grubEnvironment(m *imaging.Map) ([]imaging.TreeFile, error) {
	a, err := slotNumber(m, "a")
	if err != nil {
		return nil, err
	}
	files, err := bootenv.GRUBFiles(map[string]string{
		bootenv.VarBootPart: strconv.Itoa(a), bootenv.VarUpgradeAvailable: "0", bootenv.VarBootCount: "0",
	})
	if err != nil {
		return nil, err
	}
	tree := []imaging.TreeFile{{Path: grubEnvDir, Mode: os.ModeDir | 0o755}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		tree = append(tree, imaging.TreeFile{Path: path.Join(grubEnvDir, name), Mode: 0o644, Data: files[name]})
	}
	return tree, nil
}

// parseInitialEnv reads NAME=VALUE lines, as U-Boot's "make u-boot-initial-env" writes them. A text without bootcmd would
// make a board that stops at its prompt, so it is refused.
func parseInitialEnv(text string) (map[string]string, error) {
	vars := map[string]string{}
	for n, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		name, value, ok := strings.Cut(line, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("line %d is not NAME=VALUE; u-boot-initial-env is meant", n+1)
		}
		vars[name] = value
	}
	if vars["bootcmd"] == "" {
		return nil, errors.New("it has no bootcmd, so U-Boot would not boot with it")
	}
	return vars, nil
}

// environmentCopies says where on the device the copies of U-Boot's environment are: where the preset has them, in volumes of
// their own, else one at the start of its area or, when redundant, two in its halves.
func environmentCopies(im *pipeline.Image, m *imaging.Map) []bootenv.Location {
	boot, device := im.DeviceType.Bootloader, im.DeviceType.StorageBase
	var copies []bootenv.Location
	if place := im.DeviceType.Layout.Environment; place != nil && boot.Kind == bootEnvTypeUBoot {
		if place.Reserve == "" {
			device = place.Device
		}
		for _, offset := range place.Offsets {
			copies = append(copies, bootenv.Location{Path: device, Offset: offset, Size: boot.EnvironmentSize})
		}
		return copies
	}
	if im.DeviceType.Layout.UBI != nil {
		for _, name := range boot.EnvironmentVolumes() {
			if volume, ok := m.Find(name); ok {
				copies = append(copies, bootenv.Location{Path: fmt.Sprintf("%s_%d", device, volume.Number), Size: boot.EnvironmentSize, Sector: m.SectorSize})
			}
		}
		return copies
	}
	area, ok := m.Find(boot.Environment)
	if !ok {
		return nil
	}
	copies = append(copies, bootenv.Location{Path: device, Offset: area.Offset, Size: boot.EnvironmentSize})
	if boot.Redundant {
		copies = append(copies, bootenv.Location{Path: device, Offset: area.Offset + area.Size/2, Size: boot.EnvironmentSize})
	}
	return copies
}

// EnvironmentLocations says where on the disk of an image its boot loader's environment is, if it has one there: Path is the
// device's name of the disk.
func EnvironmentLocations(im *pipeline.Image, m *imaging.Map) []bootenv.Location {
	if im.DeviceType.Bootloader.Environment == "" || im.DeviceType.Layout.UBI != nil {
		return nil
	}
	return environmentCopies(im, m)
}

// isGRUB tells whether the environment is in files, which are on the boot partition.
func isGRUB(b pipeline.Bootloader) bool { return b.Kind == bootloaderEFI || b.Kind == bootloaderBIOS }

func slotNumber(m *imaging.Map, slot string) (int, error) {
	for _, region := range m.Regions {
		if region.Slot == slot {
			return region.Number, nil
		}
	}
	return 0, errors.New("the layout has no slots; add a slots block, so that there is something to update")
}

// slotDevice is what the agent's configuration calls a slot. Volumes have the names that Mender's clients know them by.
func slotDevice(d *pipeline.DeviceType, number int) string {
	if d.Layout.UBI != nil {
		return fmt.Sprintf("%s_%d", path.Base(d.StorageBase), number)
	}
	return partitionDevice(d.StorageBase, number)
}

// partitionDevice is Linux's name of a partition: /dev/sda2, /dev/mmcblk0p2, /dev/disk/by-path/pci-1-part2.
func partitionDevice(disk string, number int) string {
	if strings.HasPrefix(disk, "/dev/disk/by-") { // udev's links, all of one form
		return disk + "-part" + strconv.Itoa(number)
	}
	name := path.Base(disk)
	if name != "" && name[len(name)-1] >= '0' && name[len(name)-1] <= '9' {
		disk += "p"
	}
	return disk + strconv.Itoa(number)
}
