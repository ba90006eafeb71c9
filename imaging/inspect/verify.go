package inspect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"strconv"
	"sync"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/internal/gptdisk"
	"github.com/twinkeel/twinkeel/internal/bootenv"
)

// When to run the programs that check file systems.
const (
	CheckAuto   = "auto" // when they are installed
	CheckAlways = "always"
	CheckNever  = "never"
)

// VerifyOptions of [Disk.Verify].
type VerifyOptions struct {
	Check       string             // a Check constant; default CheckAuto
	Environment []bootenv.Location // where a pipeline's layout has it; Path is that of the device's disk
	Bmap        *imaging.Bmap      // of this image
	NoDigests   bool
	// Progress is told how many bytes have been digested. It may be nil.
	Progress func(done, total int64)
}

// Report is all that [Disk.Verify] has found.
type Report struct {
	Path         string         `json:"path"`
	Format       string         `json:"format"`
	Compression  string         `json:"compression,omitempty"`
	Size         int64          `json:"size"`
	SHA256       string         `json:"sha256,omitempty"` // of the disk, not of the file it is packed in
	Map          *imaging.Map   `json:"map,omitempty"`
	Partitions   []Partition    `json:"partitions"`
	Environments []*Environment `json:"environments"`
	Boot         *Boot          `json:"boot,omitempty"`
	Agent        *Agent         `json:"agent,omitempty"`
	Findings     []Finding      `json:"findings"`
}

// Partition is what was found in a partition.
type Partition struct {
	Number         int    `json:"number"`
	Name           string `json:"name"`
	Slot           string `json:"slot,omitempty"`
	Offset         int64  `json:"offset"`
	Size           int64  `json:"size"`
	Filesystem     string `json:"filesystem,omitempty"`
	Label          string `json:"label,omitempty"`
	FilesystemUUID string `json:"filesystem_uuid,omitempty"`
	FilesystemSize int64  `json:"filesystem_size,omitempty"`
	Used           int64  `json:"used,omitempty"`
	Checked        string `json:"checked,omitempty"` // the program that checked it
	SHA256         string `json:"sha256,omitempty"`
	Content        *Slot  `json:"content,omitempty"` // of a slot
}

// Verify looks at everything on the disk that can be right or wrong. What is wrong is in Findings; the error is for what
// could not be looked at.
func (d *Disk) Verify(ctx context.Context, o VerifyOptions) (*Report, error) {
	v := &verification{d: d, o: o, report: &Report{
		Path: d.Path, Format: d.Format, Compression: d.Compression, Size: d.Size, Map: d.Map,
		Partitions: []Partition{}, Environments: []*Environment{}, Findings: []Finding{},
	}}
	v.tables()
	if d.Map != nil {
		agent, _ := d.findAgent()
		if agent != nil {
			v.report.Agent = agent
			v.report.Findings = append(v.report.Findings, agent.check(d.Map)...)
			agent.markSlots(d.Map)
		}
		for _, p := range d.partitions() {
			if err := v.partition(ctx, p); err != nil {
				return nil, err
			}
		}
		v.environments()
	}
	if o.Bmap != nil {
		if err := v.bmap(ctx); err != nil {
			return nil, err
		}
	}
	if !o.NoDigests {
		if err := v.digests(ctx); err != nil {
			return nil, err
		}
	}
	return v.report, nil
}

type verification struct {
	d      *Disk
	o      VerifyOptions
	report *Report
}

func (v *verification) add(code, severity, place, hint, format string, args ...any) {
	v.report.Findings = append(v.report.Findings, Finding{code, severity, place, fmt.Sprintf(format, args...), hint})
}

const (
	placeTable  = "partition table"
	placeBackup = "backup partition table"
)

func (v *verification) tables() {
	m := v.d.Map
	if m == nil {
		v.add(CodeTable, SeverityError, placeTable, "", "%v", v.d.NoTable)
		return
	}
	switch m.Damaged {
	case "primary":
		v.add(CodeTablePrimary, SeverityError, placeTable, "sgdisk -e repairs it from the backup", "the one at the start of the disk is damaged; this is what the backup says")
	case "backup":
		v.add(CodeTableBackup, SeverityError, placeBackup, "sgdisk -e writes it anew", "it is missing or damaged")
	case "extended":
		v.add(CodeTableExtended, SeverityError, placeTable, "", "the chain of logical partitions breaks off; there may be more of them")
	}
	if m.Table != imaging.TableMBR {
		v.gpt(m)
	}
	for _, p := range v.d.partitions() {
		if p.End() > v.d.Size {
			v.add(CodePartitionEnd, SeverityError, "partition "+Title(p), "the image may be cut short",
				"it ends at %s, behind the disk's end at %s", imaging.FormatSize(p.End()), imaging.FormatSize(v.d.Size))
		}
	}
}

// gpt compares the two tables, and the MBR in front of them.
func (v *verification) gpt(m *imaging.Map) {
	last := uint64(v.d.Size/m.SectorSize) - 1
	primary, err := gptdisk.Read(v.d, v.d.Size, m.SectorSize, 1)
	if err == nil && m.Damaged == "" && !m.NoBackup {
		backup, err := gptdisk.Read(v.d, v.d.Size, m.SectorSize, primary.Alternate)
		switch {
		case err != nil:
			v.add(CodeTableBackup, SeverityError, placeBackup, "sgdisk -e writes it anew", "%v", err)
		case !bytes.Equal(primary.Entries, backup.Entries) || primary.Disk != backup.Disk || primary.LastUsable != backup.LastUsable || primary.FirstUsable != backup.FirstUsable:
			v.add(CodeTableDiffers, SeverityError, placeBackup, "", "it does not say the same as the one at the start")
		case backup.Alternate != 1:
			v.add(CodeTableDiffers, SeverityError, placeBackup, "", "it says that the first table is in sector %d", backup.Alternate)
		case primary.Alternate != last:
			v.add(CodeTableEnd, SeverityWarning, placeBackup, resizeHint(v.d),
				"it is not at the end of the disk: %s lie behind it", imaging.FormatSize(int64(last-primary.Alternate)*m.SectorSize))
		}
	}
	mbr := make([]byte, 512)
	if n, _ := v.d.ReadAt(mbr, 0); n < len(mbr) {
		return
	}
	if reason := protective(mbr, last); reason != "" && m.Table == imaging.TableGPT {
		v.add(CodeTableMBR, SeverityWarning, "first sector (MBR)", "", "%s", reason)
	}
}

// resizeHint is the command that moves the backup table to the end of an image, or of the medium an image is for.
func resizeHint(d *Disk) string {
	if d.Device {
		return "sgdisk -e " + d.Path + " moves it there"
	}
	return fmt.Sprintf("twinkeel image resize %s %d moves it there", d.Path, d.Size)
}

// protective says what is wrong with the MBR of a GPT: old programs must see one partition over the whole disk.
func protective(mbr []byte, last uint64) string {
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return "its signature is missing, so programs that know only MBRs take the disk for an empty one"
	}
	for i := range 4 {
		entry := mbr[446+16*i:][:16]
		if entry[4] != 0xee {
			continue
		}
		start, count := binary.LittleEndian.Uint32(entry[8:]), binary.LittleEndian.Uint32(entry[12:])
		if start != 1 || uint64(count) != min(last, 0xffffffff) && count != 0xffffffff {
			return fmt.Sprintf("the entry that protects the GPT covers %d sectors from %d on, not the whole disk", count, start)
		}
		return ""
	}
	return "no entry protects the GPT from programs that know only MBRs"
}

func (v *verification) partition(ctx context.Context, p imaging.Region) error {
	if current, ok := v.d.Map.Partition(p.Number); ok {
		p = current // with its slot
	}
	place := "partition " + Title(p)
	out := Partition{Number: p.Number, Name: p.Name, Slot: p.Slot, Offset: p.Offset, Size: p.Size}
	section := v.d.Section(p)
	u, err := UsageOf(section, p.Size)
	if err != nil {
		return fmt.Errorf("partition %s: %w", Title(p), err)
	}
	out.Filesystem, out.Label, out.FilesystemUUID, out.FilesystemSize = u.Kind, u.Label, u.UUID, u.Size
	if u.Used > 0 {
		out.Used = u.Used
	}
	var problems []problem
	switch u.Kind {
	case imaging.FilesystemExt4:
		problems = checkExt4(section, p.Size)
	case imaging.FilesystemVFAT:
		problems = checkFAT(section, p.Size)
	default:
		if u.Size > p.Size {
			problems = []problem{{
				CodeFilesystemSize, SeverityError,
				fmt.Sprintf("the file system has %s, the partition only %s", imaging.FormatSize(u.Size), imaging.FormatSize(p.Size)), "",
			}}
		}
	}
	if reason, advice := u.Unfit(v.d.Map.SectorSize); reason != "" {
		problems = append(problems, problem{CodeFilesystemBlock, SeverityError, reason, advice})
	}
	if len(problems) == 0 && u.Kind != "" && u.Compressed == "" {
		if _, _, err := imaging.OpenFilesystem(section, p.Size); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			problems = []problem{{CodeFilesystem, SeverityError, err.Error(), ""}}
		}
	}
	if c, ok := checkers[u.Kind]; ok && v.o.Check != CheckNever {
		more, err := v.d.runChecker(ctx, p, u.Kind, v.o.Check == CheckAlways)
		if err != nil {
			return err
		}
		problems = append(problems, more...)
		if _, err := findTool(c.tool); err == nil {
			out.Checked = c.tool
		}
	}
	for _, f := range problems {
		v.add(f.code, f.severity, place, f.hint, "%s", f.text)
	}
	if p.Slot != "" {
		v.slot(&out, p, section)
	}
	v.report.Partitions = append(v.report.Partitions, out)
	return nil
}

// slot looks for a system in a slot. Slot B of a new device may be empty.
func (v *verification) slot(out *Partition, p imaging.Region, section *io.SectionReader) {
	if out.Filesystem == "" {
		if p.Slot == "a" {
			v.add(CodeSlot, SeverityWarning, "partition "+Title(p), "", "slot A holds no file system, so the device has nothing to boot")
		}
		return
	}
	files, _, err := imaging.OpenFilesystem(section, p.Size)
	if err != nil {
		return // said already, or a kind that is not read here
	}
	content, system := slotContent(files)
	if content != (Slot{}) {
		out.Content = &content
	}
	if !system && p.Slot == "a" {
		v.add(CodeSlot, SeverityWarning, "partition "+Title(p), "", "slot A holds no system: none of /sbin, /bin, /usr and /etc is there")
	}
}

func (v *verification) environments() {
	found, findings := v.d.Environments(v.o.Environment)
	v.report.Findings = append(v.report.Findings, findings...)
	v.report.Environments = append(v.report.Environments, found...)
	for _, e := range found {
		v.environment(e)
	}
	for _, e := range found {
		boot := BootOf(v.d.Map, e)
		if v.report.Boot == nil || boot.Partition != 0 {
			v.report.Boot = &boot
		}
		if boot.Partition == 0 && !e.Usable() {
			continue
		}
		p, ok := v.d.Map.Partition(boot.Partition)
		switch {
		case boot.Partition == 0:
			v.add(CodeEnvironmentBoot, SeverityError, "environment", setEnvHint(v.d), "%s", boot.Why)
		case !ok:
			v.add(CodeEnvironmentBoot, SeverityError, "environment", setEnvHint(v.d),
				"it would boot partition %d, which is not there", boot.Partition)
		case p.Filesystem == imaging.FilesystemNone:
			v.add(CodeEnvironmentBoot, SeverityError, "environment", "", "it would boot partition %s, which holds no file system", Title(p))
		}
		if hex := e.Variables[bootenv.VarBootPartHex]; hex != "" {
			if n, err := strconv.ParseUint(hex, 16, 16); err != nil || strconv.FormatUint(n, 10) != e.Variables[bootenv.VarBootPart] {
				v.add(CodeEnvironmentBoot, SeverityError, "environment", setEnvHint(v.d),
					"%s is %q and %s is %q: they name two partitions", bootenv.VarBootPart, e.Variables[bootenv.VarBootPart], bootenv.VarBootPartHex, hex)
			}
		}
	}
}

// setEnvHint is the command that lets the boot loader start slot A.
func setEnvHint(d *Disk) string {
	for _, p := range d.partitions() {
		if p.Slot == "a" {
			return fmt.Sprintf("twinkeel image set-env %s %s=%d %s=%x", d.Path, bootenv.VarBootPart, p.Number, bootenv.VarBootPartHex, p.Number)
		}
	}
	return fmt.Sprintf("twinkeel image set-env %s %s=NUMBER %s=HEX", d.Path, bootenv.VarBootPart, bootenv.VarBootPartHex)
}

// environment reports copies that cannot be used.
func (v *verification) environment(e *Environment) {
	switch {
	case e.Blank():
		v.add(CodeEnvironmentBlank, SeverityWarning, "environment ("+e.Source+")",
			"give the image a u-boot-initial-env, and it is valid from the first boot on",
			"it was never written; fw_printenv on the device fails until the boot loader has saved it")
		return
	case !e.Usable():
		reason := e.Copies[0].Reason
		v.add(CodeEnvironment, SeverityError, "environment ("+e.Source+")",
			"check that the offsets and the size are those the boot loader was built with", "no copy can be used: %s", reason)
		return
	}
	for _, c := range e.Copies {
		if c.State != CopyValid {
			v.add(CodeEnvironmentCopy, SeverityWarning, "environment, "+c.Place, "the next change of a variable writes it anew",
				"this copy cannot be used: %s", c.Reason)
		}
	}
}

// bmap checks the checksums of a block map and that it leaves out no data.
func (v *verification) bmap(ctx context.Context) error {
	b := v.o.Bmap
	if b.ImageSize != v.d.Size {
		v.add(CodeBmap, SeverityError, "block map", "make it again", "it is for an image of %s; this one has %s", imaging.FormatSize(b.ImageSize), imaging.FormatSize(v.d.Size))
		return nil
	}
	buf := make([]byte, 1<<20)
	bad, missing := 0, int64(0)
	walk := func(off, size int64, use func([]byte)) error {
		for size > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := buf[:min(int64(len(buf)), size)]
			if n, err := v.d.ReadAt(part, off); n < len(part) {
				return fmt.Errorf("reading %s: %w", v.d.Path, err)
			}
			use(part)
			off, size = off+int64(len(part)), size-int64(len(part))
		}
		return nil
	}
	end := int64(0)
	zeros := func(to int64) error {
		return walk(end, to-end, func(p []byte) {
			for len(p) > 0 {
				n := min(int64(len(p)), b.BlockSize)
				if !imaging.AllZeros(p[:n]) {
					missing++
				}
				p = p[n:]
			}
		})
	}
	for _, r := range b.Ranges {
		off, size := b.Extent(r)
		if err := zeros(off); err != nil {
			return err
		}
		end = off + size
		h := b.NewHash()
		if h == nil || r.Checksum == "" {
			continue
		}
		if err := walk(off, size, func(p []byte) { h.Write(p) }); err != nil {
			return err
		}
		if hex.EncodeToString(h.Sum(nil)) != r.Checksum {
			if bad++; bad <= 3 {
				v.add(CodeBmapChecksum, SeverityError, "block map", "", "the blocks %d to %d are not those it was made from", r.First, r.Last)
			}
		}
	}
	if err := zeros(v.d.Size); err != nil {
		return err
	}
	if bad > 3 {
		v.add(CodeBmapChecksum, SeverityError, "block map", "", "so are %d other ranges", bad-3)
	}
	if missing > 0 {
		v.add(CodeBmapMissing, SeverityError, "block map", "make it again", "it leaves out %d blocks that hold data: a device flashed with it lacks them", missing)
	}
	return nil
}

// digests takes those of the disk and of the partitions in one pass. Two goroutines hash, since the disk's own digest takes
// as long as all others together.
func (v *verification) digests(ctx context.Context) error {
	whole, err := Digests(ctx, v.d, v.d.Size, v.report.spans(), v.o.Progress)
	if err != nil {
		return fmt.Errorf("reading %s: %w", v.d.Path, err)
	}
	v.report.SHA256 = whole[len(whole)-1]
	for i := range v.report.Partitions {
		v.report.Partitions[i].SHA256 = whole[i]
	}
	return nil
}

func (r *Report) spans() []imaging.Span {
	var out []imaging.Span
	for _, p := range r.Partitions {
		out = append(out, imaging.Span{Offset: p.Offset, Size: p.Size})
	}
	return out
}

// Digests reads size bytes once and returns the SHA-256 of each span and, as the last, that of all.
func Digests(ctx context.Context, r io.ReaderAt, size int64, spans []imaging.Span, report func(done, total int64)) ([]string, error) {
	const chunk = 1 << 20
	hashes := make([]hash.Hash, len(spans)+1)
	for i := range hashes {
		hashes[i] = sha256.New()
	}
	var buffers [2][]byte
	for i := range buffers {
		buffers[i] = make([]byte, min(chunk, max(size, 1)))
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	for at, n := int64(0), 0; at < size; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := buffers[n%2][:min(chunk, size-at)]
		if got, err := r.ReadAt(part, at); got < len(part) {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		wait.Wait() // the other buffer is hashed while this one is read
		start := at
		wait.Go(func() { hashes[len(spans)].Write(part) })
		wait.Go(func() {
			for i, s := range spans {
				from, to := max(s.Offset, start), min(s.End(), start+int64(len(part)))
				if from < to {
					hashes[i].Write(part[from-start : to-start])
				}
			}
		})
		if runtime.GOMAXPROCS(0) == 1 {
			wait.Wait()
		}
		at += int64(len(part))
		if report != nil {
			report(at, size)
		}
	}
	wait.Wait()
	out := make([]string, len(hashes))
	for i, h := range hashes {
		out[i] = hex.EncodeToString(h.Sum(nil))
	}
	return out, nil
}
