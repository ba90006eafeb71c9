package inspect

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/bootenv"
)

// Kinds of environments.
const (
	EnvironmentUBoot = "u-boot"
	EnvironmentGRUB  = "grub"
)

// States of a copy of an environment.
const (
	CopyValid   = "valid"
	CopyBlank   = "blank" // never written
	CopyDamaged = "damaged"
)

// Environment is a boot loader's environment on a disk.
type Environment struct {
	Kind      string            `json:"kind"`   // an Environment constant
	Source    string            `json:"source"` // how its place is known
	Copies    []EnvironmentCopy `json:"copies"`
	Variables map[string]string `json:"variables,omitempty"` // of the copy in use

	// Partition and Dir say where the files of a GRUB environment are.
	Partition imaging.Region `json:"-"`
	Dir       string         `json:"-"`
}

// EnvironmentCopy is one of the one or two copies of an environment.
type EnvironmentCopy struct {
	Place  string `json:"place"`
	Offset int64  `json:"offset,omitempty"` // on the disk, U-Boot
	Size   int64  `json:"size"`
	State  string `json:"state"`          // a Copy constant
	Flag   *byte  `json:"flag,omitempty"` // of a redundant U-Boot environment: which copy is newer
	Used   bool   `json:"used"`
	Reason string `json:"reason,omitempty"` // why it cannot be used
}

// Usable tells whether a copy can be used.
func (e *Environment) Usable() bool {
	return slices.ContainsFunc(e.Copies, func(c EnvironmentCopy) bool { return c.Used })
}

// Blank tells whether no copy was ever written.
func (e *Environment) Blank() bool {
	return !slices.ContainsFunc(e.Copies, func(c EnvironmentCopy) bool { return c.State != CopyBlank })
}

// fwEnvConfigs are where a disk has its fw_env.config: on a data partition, or on a root file system, where it may be a
// link to the former.
var fwEnvConfigs = []string{"u-boot/fw_env.config", "data/u-boot/fw_env.config", "etc/fw_env.config"}

// grubDirs are where a boot partition has the directories of grub-mender-grubenv.
var grubDirs = []string{"grub-mender-grubenv", "EFI/BOOT", "efi/boot", "grub"}

// Environments finds the boot loader environments of the disk: where the caller knows them to be, where a fw_env.config on the
// disk says, by files in the manner of grub-mender-grubenv, and if there is none of these by a search of the space between the
// partitions.
func (d *Disk) Environments(known []bootenv.Location) ([]*Environment, []Finding) {
	var findings []Finding
	if d.Map == nil {
		return nil, nil
	}
	var out []*Environment
	if len(known) > 0 {
		e, found := d.ubootAt("the layout", known)
		if e != nil {
			out = append(out, e)
		}
		findings = append(findings, found...)
	} else {
		out, findings = d.environmentsByConfig()
	}
	if e := d.grubEnvironment(); e != nil {
		out = append(out, e)
	}
	if len(out) == 0 && len(findings) == 0 {
		if e := d.searchEnvironment(); e != nil {
			out = append(out, e)
		}
	}
	return out, findings
}

func (d *Disk) environmentsByConfig() (out []*Environment, findings []Finding) {
	seen := map[string]bool{}
	for _, p := range d.partitions() {
		files, _, err := imaging.OpenFilesystem(d.Section(p), p.Size)
		if err != nil {
			continue
		}
		for _, name := range fwEnvConfigs {
			text, err := readSmall(files, name, 64<<10)
			if err != nil {
				continue
			}
			source := "/" + name + " of partition " + Title(p)
			locs, err := bootenv.ParseFwEnvConfig(bytes.NewReader(text))
			if err != nil {
				findings = append(findings, Finding{CodeEnvironmentPlace, SeverityError, source, strings.TrimPrefix(err.Error(), "fw_env.config: "), ""})
				continue
			}
			if key := fmt.Sprint(locs); !seen[key] {
				seen[key] = true
				e, found := d.ubootAt(source, locs)
				if e != nil {
					out = append(out, e)
				}
				findings = append(findings, found...)
			}
		}
	}
	return out, findings
}

var (
	bootArea    = regexp.MustCompile(`^/dev/mmcblk[0-9]+boot[01]$`)
	onPartition = regexp.MustCompile(`^/dev/(?:(?:mmcblk|nvme[0-9]+n|loop|nbd)[0-9]+p|[shv]d[a-z]+|disk/.*-part)([0-9]+)$`)
	rawFlash    = regexp.MustCompile(`^/dev/(?:mtd|ubi)`)
	wholeDisk   = regexp.MustCompile(`^/dev/(?:(?:mmcblk|nvme[0-9]+n|loop|nbd)[0-9]+|[shv]d[a-z]+|disk/by-[a-z]+/.*)$`)
)

// onDisk turns the location of a fw_env.config, which names a device's own disk, into one of this disk.
func (d *Disk) onDisk(loc bootenv.Location) (bootenv.Location, error) {
	at := bootenv.Location{Path: d.Path, Offset: loc.Offset, Size: loc.Size}
	switch {
	case bootArea.MatchString(loc.Path):
		return at, errOtherMedium
	case rawFlash.MatchString(loc.Path):
		return at, errOtherMedium
	case onPartition.MatchString(loc.Path):
		number, err := strconv.Atoi(onPartition.FindStringSubmatch(loc.Path)[1])
		if err != nil {
			return at, err
		}
		p, ok := d.Map.Partition(number)
		if !ok {
			return at, fmt.Errorf("it is on partition %d, which is not there", number)
		}
		if loc.Offset > p.Size || loc.Size > p.Size-loc.Offset {
			return at, fmt.Errorf("it ends behind partition %d", number)
		}
		at.Offset += p.Offset
	case !wholeDisk.MatchString(loc.Path):
		return at, errOtherMedium // a file on a partition, such as /boot/uboot.env
	}
	if at.Offset > d.Size || at.Size > d.Size-at.Offset {
		return at, fmt.Errorf("it ends behind the disk, which has %s", imaging.FormatSize(d.Size))
	}
	return at, nil
}

var errOtherMedium = errors.New("it is not on this disk")

// ubootAt reads an environment at one place or two.
func (d *Disk) ubootAt(source string, locs []bootenv.Location) (*Environment, []Finding) {
	e := &Environment{Kind: EnvironmentUBoot, Source: source}
	for i, loc := range locs {
		at, err := d.onDisk(loc)
		place := fmt.Sprintf("%s, copy %d (%s)", source, i+1, loc)
		switch {
		case errors.Is(err, errOtherMedium):
			return nil, []Finding{{
				CodeEnvironmentPlace, SeverityWarning, source,
				fmt.Sprintf("the boot loader's environment is in %s, which is not on this disk; it was not looked at", loc.Path), "",
			}}
		case err != nil:
			return nil, []Finding{{CodeEnvironmentPlace, SeverityError, place, err.Error(), ""}}
		}
		for _, p := range d.partitions() {
			if p.Filesystem != imaging.FilesystemNone && !onPartition.MatchString(loc.Path) && at.Offset < p.End() && p.Offset < at.Offset+at.Size {
				return nil, []Finding{{
					CodeEnvironmentPlace, SeverityError, place, fmt.Sprintf("it lies in partition %s", Title(p)),
					"the boot loader would write over what is in that partition: correct the offsets",
				}}
			}
		}
		e.Copies = append(e.Copies, EnvironmentCopy{Place: fmt.Sprintf("offset 0x%x", at.Offset), Offset: at.Offset, Size: at.Size})
	}
	d.readUBoot(e)
	return e, nil
}

// readUBoot reads the copies and finds the one in use.
func (d *Disk) readUBoot(e *Environment) {
	redundant := len(e.Copies) == 2
	vars := make([]map[string]string, len(e.Copies))
	used := -1
	for i := range e.Copies {
		c := &e.Copies[i]
		block := make([]byte, c.Size) // at most bootenv.MaxUBootSize
		if n, err := d.ReadAt(block, c.Offset); int64(n) < c.Size {
			c.State, c.Reason = CopyDamaged, fmt.Sprint("it cannot be read: ", err)
			continue
		}
		v, flag, err := bootenv.DecodeUBoot(block, redundant)
		switch {
		case err == nil:
			c.State, vars[i] = CopyValid, v
			if redundant {
				c.Flag = &flag
			}
		case imaging.AllZeros(block) || len(bytes.Trim(block, "\xff")) == 0:
			c.State, c.Reason = CopyBlank, "it was never written"
		default:
			c.State, c.Reason = CopyDamaged, err.Error()
		}
		if c.State == CopyValid && (used < 0 || newer(*e.Copies[used].Flag, *c.Flag)) {
			used = i
		}
	}
	if used >= 0 {
		e.Copies[used].Used, e.Variables = true, vars[used]
	}
}

// newer tells whether the second of two valid copies counts: the one with the higher flag, where 0 comes after 255
// (env_check_redund in U-Boot's env/common.c).
func newer(first, second byte) bool {
	switch {
	case first == 255 && second == 0:
		return true
	case first == 0 && second == 255:
		return false
	}
	return second > first
}

// grubEnvironment looks for the files of grub-mender-grubenv.
func (d *Disk) grubEnvironment() *Environment {
	for _, p := range d.partitions() {
		if p.Slot != "" {
			continue
		}
		files, _, err := imaging.OpenFilesystem(d.Section(p), p.Size)
		if err != nil {
			continue
		}
		for _, dir := range grubDirs {
			if _, err := fs.Stat(files, path.Join(dir, "mender_grubenv1")); err == nil {
				e := readGRUB(files, dir)
				e.Source = fmt.Sprintf("/%s of partition %s", dir, Title(p))
				e.Partition, e.Dir = p, dir
				return e
			}
		}
	}
	return nil
}

// readGRUB reads both copies. GRUB takes the first, unless its lock says that it was being written.
func readGRUB(files fs.FS, dir string) *Environment {
	e := &Environment{Kind: EnvironmentGRUB}
	for n := 1; n <= 2; n++ {
		sub := path.Join(dir, fmt.Sprintf("mender_grubenv%d", n))
		c := EnvironmentCopy{Place: "/" + sub, Size: bootenv.GRUBSize, State: CopyValid}
		vars, err := readGRUBCopy(files, sub)
		if err != nil {
			c.State, c.Reason = CopyDamaged, err.Error()
		} else if e.Variables == nil {
			c.Used, e.Variables = true, vars
		}
		e.Copies = append(e.Copies, c)
	}
	return e
}

func readGRUBCopy(files fs.FS, dir string) (map[string]string, error) {
	lock, err := readSmall(files, path.Join(dir, "lock"), 2*bootenv.GRUBSize)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", plainReason(err))
	}
	state, err := bootenv.DecodeGRUB(lock)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if state["editing"] != "0" {
		return nil, errors.New("its lock says that it was being written")
	}
	env, err := readSmall(files, path.Join(dir, "env"), 2*bootenv.GRUBSize)
	if err != nil {
		return nil, fmt.Errorf("env: %w", plainReason(err))
	}
	return bootenv.DecodeGRUB(env)
}

// plainReason is an error about a file without its name.
func plainReason(err error) error {
	var e *fs.PathError
	if !errors.As(err, &e) {
		return err
	}
	if errors.Is(e.Err, fs.ErrNotExist) {
		return errors.New("it is not there")
	}
	return e.Err
}

// Limits of the search for an environment that nothing points to.
const (
	searchStep  = 4 << 10
	searchLimit = 64 << 20 // bytes of free space that are looked at
	searchTries = 64       // places that look like an environment
)

// searchSizes are the sizes that environments have, CONFIG_ENV_SIZE, in the order of trying.
var searchSizes = []int64{4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20}

// searchEnvironment looks between the partitions for blocks whose checksum is right, which does not happen by chance.
func (d *Disk) searchEnvironment() *Environment {
	var found []EnvironmentCopy
	redundant, tries := false, searchTries
	left := int64(searchLimit)
	for _, gap := range Gaps(d.Map) {
		end := min(gap.Offset+gap.Size, gap.Offset+left)
		left -= end - gap.Offset
		for at := (gap.Offset + searchStep - 1) / searchStep * searchStep; at < end && tries > 0 && len(found) < 2; at += searchStep {
			header, ok := d.looksLikeEnvironment(at)
			if !ok {
				continue
			}
			tries--
			if size := d.environmentSize(at, gap.Offset+gap.Size, header); size > 0 {
				if len(found) == 1 && (found[0].Size != size || !redundant || header != 5) {
					continue
				}
				redundant = header == 5
				found = append(found, EnvironmentCopy{Place: fmt.Sprintf("offset 0x%x", at), Offset: at, Size: size})
				at += size - searchStep
			}
		}
	}
	if len(found) == 0 || redundant && len(found) < 2 {
		return nil // of a redundant one only one copy is valid: where the other is cannot be told
	}
	e := &Environment{Kind: EnvironmentUBoot, Source: "a search between the partitions", Copies: found}
	d.readUBoot(e)
	return e
}

// looksLikeEnvironment tells whether a variable's name begins where an environment has its first one.
func (d *Disk) looksLikeEnvironment(at int64) (header int, ok bool) {
	b := make([]byte, 64)
	if n, err := d.ReadAt(b, at); n < len(b) && err != nil {
		return 0, false
	}
	for _, header := range []int{4, 5} {
		text := b[header:]
		equals := bytes.IndexByte(text, '=')
		if equals < 1 {
			continue
		}
		name := text[:equals]
		if !slices.ContainsFunc(name, func(c byte) bool { return c <= ' ' || c >= 0x7f }) {
			// In the single form the byte behind the checksum belongs to the name; a flag is hardly ever a letter.
			return header, true
		}
	}
	return 0, false
}

// environmentSize tries the usual sizes; the checksum of one goes on where that of the smaller one ended.
func (d *Disk) environmentSize(at, end int64, header int) int64 {
	head := make([]byte, 4)
	if n, _ := d.ReadAt(head, at); n < 4 {
		return 0
	}
	want := uint32(head[0]) | uint32(head[1])<<8 | uint32(head[2])<<16 | uint32(head[3])<<24
	sum, done := uint32(0), int64(header)
	for _, size := range searchSizes {
		if at+size > end {
			return 0
		}
		part := make([]byte, size-done)
		if n, err := d.ReadAt(part, at+done); n < len(part) && (err == nil || errors.Is(err, io.EOF)) || n < len(part) {
			return 0
		}
		sum = crc32.Update(sum, crc32.IEEETable, part)
		done = size
		if sum == want {
			return size
		}
	}
	return 0
}

// Gaps is the space of a disk that belongs to no region.
func Gaps(m *imaging.Map) []imaging.Span {
	var out []imaging.Span
	end := int64(0)
	regions := slices.Clone(m.Regions)
	slices.SortFunc(regions, func(a, b imaging.Region) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, r := range regions {
		if r.Offset > end {
			out = append(out, imaging.Span{Offset: end, Size: r.Offset - end})
		}
		end = max(end, r.End())
	}
	if end < m.Size {
		out = append(out, imaging.Span{Offset: end, Size: m.Size - end})
	}
	return out
}

func (d *Disk) partitions() []imaging.Region {
	var out []imaging.Region
	if d.Map == nil {
		return nil
	}
	for _, r := range d.Map.Regions {
		if r.Kind == imaging.KindPartition {
			out = append(out, r)
		}
	}
	return out
}

// readSmall reads a regular file of a file system, at most limit bytes.
func readSmall(files fs.FS, name string, limit int64) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("it is no file of at most %d bytes", limit)}
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// Boot is which slot a boot loader would start, and why.
type Boot struct {
	Partition int    `json:"partition,omitempty"` // 0: it cannot be told
	Slot      string `json:"slot,omitempty"`      // "a" or "b"
	Why       string `json:"why"`
}

// BootOf tells which slot the environment would boot next.
func BootOf(m *imaging.Map, e *Environment) Boot {
	if !e.Usable() {
		if e.Blank() {
			return Boot{Why: "the environment was never written: the variables built into the boot loader decide, and it saves them on its first boot"}
		}
		return Boot{Why: "no copy of the environment can be used"}
	}
	v := e.Variables
	part, err := strconv.Atoi(v[bootenv.VarBootPart])
	if err != nil || part < 1 {
		return Boot{Why: fmt.Sprintf("%s is %q, not the number of a partition", bootenv.VarBootPart, v[bootenv.VarBootPart])}
	}
	b := Boot{Partition: part, Slot: slotOf(m, part)}
	if v[bootenv.VarUpgradeAvailable] != "1" {
		b.Why = "no update is pending"
		return b
	}
	count, limit := number(v[bootenv.VarBootCount]), number(v[bootenv.VarBootLimit])
	if e.Kind == EnvironmentGRUB { // its scripts know no limit: one boot, then back
		limit = 1
	}
	if limit < 1 || count < limit {
		b.Why = fmt.Sprintf("an update is pending: it gets %s before the boot loader goes back to the other slot", boots(limit-count, limit))
		return b
	}
	other := otherSlot(m, part)
	b = Boot{Partition: other.Number, Slot: other.Slot}
	b.Why = fmt.Sprintf("the update in partition %d was not committed after %s: the boot loader goes back to the other slot", part, boots(count, 1))
	return b
}

func boots(n, limit int) string {
	switch {
	case limit < 1:
		return "any number of boots (bootlimit is not set)"
	case n == 1:
		return "1 boot"
	}
	return fmt.Sprintf("%d boots", n)
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return min(max(n, 0), 1<<20)
}

func slotOf(m *imaging.Map, number int) string {
	p, _ := m.Partition(number)
	return p.Slot
}

func otherSlot(m *imaging.Map, number int) imaging.Region {
	for _, r := range m.Regions {
		if r.Kind == imaging.KindPartition && r.Slot != "" && r.Number != number {
			return r
		}
	}
	return imaging.Region{}
}

// WithEnvironments is the disk's map with the copies of U-Boot environments that lie between its partitions as reserves: a
// table does not list them.
func (d *Disk) WithEnvironments() *imaging.Map {
	if d.Map == nil {
		return nil
	}
	m := *d.Map
	m.Regions = slices.Clone(d.Map.Regions)
	found, _ := d.Environments(nil)
	for _, e := range found {
		for i, c := range e.Copies {
			area := imaging.Region{Kind: imaging.KindReserve, Name: fmt.Sprintf("environment %d", i+1), Offset: c.Offset, Size: c.Size}
			free := slices.ContainsFunc(Gaps(&m), func(g imaging.Span) bool { return area.Offset >= g.Offset && area.End() <= g.End() })
			if e.Kind == EnvironmentUBoot && c.State != CopyDamaged && free {
				m.Regions = append(m.Regions, area)
			}
		}
	}
	slices.SortStableFunc(m.Regions, func(a, b imaging.Region) int { return cmp.Compare(a.Offset, b.Offset) })
	return &m
}
