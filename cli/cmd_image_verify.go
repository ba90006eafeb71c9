package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/unpack"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

type imageVerifyOptions struct {
	fsck      string
	bmap      string
	noDigests bool
	strict    bool
}

func (a *app) imageVerifyCommand() *cobra.Command {
	o := imageVerifyOptions{fsck: inspect.CheckAuto}
	c := &cobra.Command{
		Use:   "verify IMAGE|DEVICE|ADDRESS",
		Short: "Check a disk image: tables, file systems, boot environment, slots, digests",
		Long: `Check all that can be right or wrong on a disk: the partition tables at both ends, every file system (with e2fsck -fn and
fsck.vfat -n where they are installed), both copies of the boot loader's environment and which slot it would boot, what the agent
finds on the data partition, and the digests against a block map (.bmap), a .sha256 file and the record of the build that lie
beside. Nothing is written.

With the address of an image block the built image is checked, also against the pipeline's layout.

Exit code 3 means that something is wrong. Each finding has a code that does not change, for scripts; docs/images.md lists them.

` + diskHelp,
		Args: exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runImageVerify(cmd.Context(), o, args[0]) },
	}
	c.Flags().StringVar(&o.fsck, "fsck", o.fsck, "run e2fsck and fsck.vfat: auto (when installed), always or never")
	c.Flags().StringVar(&o.bmap, "bmap", "", "block map `file`; default is the one beside the image")
	c.Flags().BoolVar(&o.noDigests, "no-digests", false, "do not read all of it for digests")
	c.Flags().BoolVar(&o.strict, "strict", false, "warnings fail it, too")
	return c
}

func (a *app) runImageVerify(ctx context.Context, o imageVerifyOptions, name string) error {
	if !slices.Contains([]string{inspect.CheckAuto, inspect.CheckAlways, inspect.CheckNever}, o.fsck) {
		return usagef("--fsck takes auto, always or never, not %q", o.fsck)
	}
	v := inspect.VerifyOptions{Check: o.fsck, NoDigests: o.noDigests}
	name, im, planned, err := a.builtImage(ctx, name)
	if err != nil {
		return err
	}
	if im != nil {
		v.Environment = build.EnvironmentLocations(im, planned)
	}
	d, err := a.openDisk(ctx, name)
	if err != nil {
		return err
	}
	defer d.Close()
	var early []inspect.Finding
	v.Bmap, early, err = a.besideBmap(o.bmap, name)
	if err != nil {
		return err
	}
	var report *inspect.Report
	err = a.working(ctx, name, "verifying", func(progress func(done, total int64)) error {
		v.Progress = progress
		report, err = d.Verify(ctx, v)
		return err
	})
	if err != nil {
		return err
	}
	report.Findings = append(report.Findings, early...)
	if planned != nil {
		report.Findings = append(report.Findings, comparePlanned(planned, d.Map)...)
	}
	report.Findings = append(report.Findings, a.checkBootstrap(ctx, d, report)...)
	digests, err := a.checkDigests(ctx, d, report, name, o.noDigests)
	if err != nil {
		return err
	}
	report.Findings = append(report.Findings, digests...)
	done, err := a.asJSON(report)
	if !done {
		a.printReport(report)
	}
	if err == nil && (inspect.Wrong(report.Findings) || o.strict && len(report.Findings) > 0) {
		return &exitError{exitVerify, nil}
	}
	return err
}

// builtImage is the file of an image block, with its layout, when name is the address of one; else name is that of a file. An image
// of raw flash is none of a disk.
func (a *app) builtImage(ctx context.Context, name string) (path string, im *pipeline.Image, planned *imaging.Map, err error) {
	im, err = a.imageAt(ctx, name)
	if err != nil || im == nil {
		return name, nil, nil, err
	}
	if planned, err = build.ImageMap(im); err != nil {
		return "", nil, nil, err
	}
	if planned.Table == imaging.TableUBI {
		return "", nil, nil, &hintedError{
			fmt.Sprintf("%s is a UBI image for raw flash, and this command is for disks", im.Address),
			"on the device: ubiattach checks what is on the flash, ubiupdatevol changes a volume",
		}
	}
	if !exists(im.Path) {
		return "", nil, nil, &hintedError{fmt.Sprintf("%s is not built", im.Address), "twinkeel image '" + im.Address + "'"}
	}
	return relative(im.Path), im, planned, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// besideBmap reads the block map that is named, or the one beside the image. A damaged one is a finding.
func (a *app) besideBmap(named, image string) (*imaging.Bmap, []inspect.Finding, error) {
	candidates := []string{named}
	if named == "" {
		bare, _ := unpack.Trim(image)
		candidates = []string{image + ".bmap", bare + ".bmap"}
	}
	for _, path := range candidates {
		f, err := openFile(path)
		if errors.Is(err, fs.ErrNotExist) && named == "" {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		defer f.Close()
		b, err := imaging.ParseBmap(f)
		var bad *imaging.BmapError
		if errors.As(err, &bad) {
			return nil, []inspect.Finding{{Code: inspect.CodeBmap, Severity: inspect.SeverityError, Place: path, Text: bad.Reason, Hint: bad.Hint()}}, nil
		}
		return b, nil, err
	}
	return nil, nil, nil
}

// comparePlanned compares a disk with the layout it was made from.
func comparePlanned(want, got *imaging.Map) []inspect.Finding {
	if got == nil {
		return nil
	}
	var out []inspect.Finding
	add := func(place, format string, args ...any) {
		out = append(out, inspect.Finding{
			Code: inspect.CodeTable, Severity: inspect.SeverityError, Place: place, Text: fmt.Sprintf(format, args...), Hint: "twinkeel image builds it again",
		})
	}
	for _, w := range want.Regions {
		if w.Kind != imaging.KindPartition {
			continue
		}
		g, ok := got.Partition(w.Number)
		switch place := "partition " + inspect.Title(w); {
		case !ok:
			add(place, "the layout has it, the image does not")
		case g.Offset != w.Offset || g.Size != w.Size:
			add(place, "the layout has it at %d with %d bytes, the image at %d with %d bytes", w.Offset, w.Size, g.Offset, g.Size)
		}
	}
	return out
}

// checkBootstrap compares what the bootstrap artifact says is in slot A with what is there, and for which devices it is.
func (a *app) checkBootstrap(ctx context.Context, d *inspect.Disk, report *inspect.Report) []inspect.Finding {
	agent := report.Agent
	if agent == nil || agent.Bootstrap == nil {
		return nil
	}
	place := "bootstrap.mender of partition " + agent.Partition
	finding := func(code, severity, format string, args ...any) []inspect.Finding {
		return []inspect.Finding{{Code: code, Severity: severity, Place: place, Text: fmt.Sprintf(format, args...)}}
	}
	r, err := artifactfmt.NewReader(bytes.NewReader(agent.Bootstrap), artifactfmt.ReadOptions{Legacy: true})
	if err != nil {
		return finding(inspect.CodeAgentConfig, inspect.SeverityError, "%v", err)
	}
	info := r.Info()
	if agent.DeviceType != "" && len(info.DeviceTypes) > 0 && !slices.Contains(info.DeviceTypes, agent.DeviceType) {
		return finding(inspect.CodeAgentDevice, inspect.SeverityError, "it is for %s, but the device type is %s",
			strings.Join(info.DeviceTypes, ", "), agent.DeviceType)
	}
	sum := info.Provides["rootfs-image.checksum"]
	for _, p := range report.Partitions {
		if p.Slot != "a" || sum == "" || p.Filesystem == "" || p.SHA256 == "" || p.SHA256 == sum {
			continue
		}
		if p.FilesystemSize > 0 && p.FilesystemSize <= p.Size {
			h := sha256.New()
			if _, err := io.Copy(h, contextReader{ctx, io.NewSectionReader(d, p.Offset, p.FilesystemSize)}); err == nil && fmt.Sprintf("%x", h.Sum(nil)) == sum {
				continue
			}
		}
		return finding(inspect.CodeSlotRelease, inspect.SeverityWarning,
			"it says that slot A holds %s, but the checksum of slot A is another: the device would report a release that it does not have", info.Name)
	}
	return nil
}

// checkDigests compares the image with a .sha256 file beside it and with the record of the build that made it.
func (a *app) checkDigests(ctx context.Context, d *inspect.Disk, report *inspect.Report, name string, skip bool) ([]inspect.Finding, error) {
	if skip || d.Device {
		return nil, nil
	}
	expected := map[string]string{} // digests by who says so
	if text, err := readSmall(name+".sha256", 64<<10); err == nil {
		if fields := strings.Fields(string(text)); len(fields) > 0 && len(fields[0]) == 64 {
			expected[name+".sha256"] = strings.ToLower(fields[0])
		}
	}
	var findings []inspect.Finding
	if record, made := recorded(name); made != nil && made.SparseSHA256 != "" {
		var err error
		if findings, err = checkSparse(ctx, name, record, made.SparseSHA256); err != nil {
			return nil, err
		}
	} else if made != nil && made.SHA256 != "" {
		expected[record] = made.SHA256
	}
	if len(expected) == 0 {
		return findings, nil
	}
	sum := report.SHA256
	if !d.Plain() {
		var err error
		if sum, err = sumFile(ctx, name); err != nil {
			return nil, err
		}
	}
	for _, who := range sortedNames(expected) {
		if expected[who] != sum {
			findings = append(findings, changedSince(name, "SHA-256", sum, who, expected[who]))
		}
	}
	return findings, nil
}

// checkSparse compares a large raw image with the record of the build that made it.
func checkSparse(ctx context.Context, name, record, want string) ([]inspect.Finding, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	got, err := imaging.SparseSHA256(ctx, f)
	if err != nil || got == want {
		return nil, err
	}
	return []inspect.Finding{changedSince(name, "SHA-256 without its zeros", got, record, want)}, nil
}

func changedSince(name, what, sum, who, want string) inspect.Finding {
	return inspect.Finding{
		Code: inspect.CodeDigest, Severity: inspect.SeverityError, Place: name,
		Text: fmt.Sprintf("its %s is %s, but %s says %s", what, sum, who, want), Hint: "it was changed after it was made",
	}
}

func sortedNames(m map[string]string) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// recorded is what the record of a build, out/twinkeel.json, says of an image in out/images.
func recorded(name string) (record string, out *build.Output) {
	path, err := filepath.Abs(name)
	if err != nil {
		return "", nil
	}
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		r, err := build.ReadRecord(dir)
		if err != nil {
			continue
		}
		for _, out := range r.Outputs {
			// Paths in it are relative to the pipeline's directory, which is above.
			if inside := filepath.FromSlash(out.Path); strings.HasSuffix(path, string(filepath.Separator)+inside) {
				return relative(filepath.Join(dir, build.RecordFile)), out
			}
		}
	}
	return "", nil
}

func (a *app) printReport(r *inspect.Report) {
	s := a.ui.out
	kind := r.Format
	if r.Compression != "" {
		kind += " in " + r.Compression
	}
	if r.Map != nil {
		kind += ", " + r.Map.Table
	}
	a.printf("%s: %s, %s\n", s.bold(oneLine(r.Path)), kind, size(r.Size))
	if r.SHA256 != "" {
		a.printf("  sha256 %s\n", r.SHA256)
	}
	t := table{}
	for _, p := range r.Partitions {
		t.add(append([]string{"  "}, partitionRow(p)...)...)
	}
	t.print(a.stdout)
	for _, e := range r.Environments {
		a.printf("environment: %s, by %s\n", e.Kind, oneLine(e.Source))
		for _, c := range e.Copies {
			text := c.State
			if c.Flag != nil {
				text += fmt.Sprintf(", flag %d", *c.Flag)
			}
			if c.Used {
				text += ", in use"
			}
			a.printf("  %s: %s\n", oneLine(c.Place), text)
		}
		a.printBootVariables(e.Variables)
	}
	if b := r.Boot; b != nil {
		target := "not known"
		if b.Partition != 0 {
			target = fmt.Sprintf("partition %d", b.Partition)
			if b.Slot != "" {
				target += ", slot " + strings.ToUpper(b.Slot)
			}
		}
		a.printf("boots: %s (%s)\n", target, oneLine(b.Why))
	}
	if g := r.Agent; g != nil {
		a.printf("agent: device type %s, server %s\n", orNone(oneLine(g.DeviceType)), orNone(oneLine(strings.Join(g.Servers, ", "))))
	}
	errors := 0
	for _, f := range r.Findings {
		head := s.yellow("warning:")
		if f.Severity == inspect.SeverityError {
			head = s.red("error:")
			errors++
		}
		a.printf("%s %s: %s (%s)\n", head, oneLine(f.Place), oneLine(f.Text), f.Code)
		if f.Hint != "" {
			a.printf("  hint: %s\n", oneLine(f.Hint))
		}
	}
	if errors > 0 {
		a.printf("%s %s\n", s.red("FAILED"), plural(errors, "error"))
		return
	}
	text := "nothing is wrong"
	if n := len(r.Findings); n > 0 {
		text = plural(n, "warning")
	}
	a.printf("%s %s\n", s.green("OK"), text)
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

// printBootVariables prints the variables that choose a slot.
func (a *app) printBootVariables(vars map[string]string) {
	var parts []string
	for _, name := range []string{bootenv.VarBootPart, bootenv.VarUpgradeAvailable, bootenv.VarBootCount, bootenv.VarBootLimit} {
		if value, ok := vars[name]; ok {
			parts = append(parts, name+"="+value)
		}
	}
	if len(parts) > 0 {
		a.printf("  %s\n", oneLine(strings.Join(parts, " ")))
	}
}

func partitionRow(p inspect.Partition) []string {
	kind, used, sum, content := p.Filesystem, "", "", ""
	if kind == "" {
		kind = "no file system"
	}
	if p.Used > 0 {
		used = fmt.Sprintf("%d %% used", p.Used*100/max(p.FilesystemSize, 1))
	}
	if p.SHA256 != "" {
		sum = "sha256:" + p.SHA256[:12]
	}
	if c := p.Content; c != nil {
		content = c.Release
		if content == "" {
			content = c.OS
		}
	}
	if p.Checked != "" {
		kind += " (" + p.Checked + ")"
	}
	return []string{fmt.Sprint(p.Number), oneLine(p.Name), size(p.Size), kind, used, sum, oneLine(content)}
}
