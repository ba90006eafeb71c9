package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/flash"
	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline/build"
	"github.com/twinkeel/twinkeel/signing/verify"
)

type flashOptions struct {
	bmap, sha256, log string
	noBmap            bool
	keys, serials     []string
	yes               bool
	file, partition   bool
	noVerify, delta   bool
	raw               bool
}

func (a *app) flashCommand() *cobra.Command {
	var o flashOptions
	c := &cobra.Command{
		Use:     "flash IMAGE DEVICE...",
		Short:   "Write a disk image to cards and disks, and read it back",
		GroupID: groupMain,
		Long: `Write a disk image to one or more devices at once. The image may be compressed with gzip, xz, zstd, bzip2 or lz4. A block
map beside it (NAME.bmap) says what need not be written.

Before the first write the whole image is checked: against its block map, against NAME.sha256 where there is one or
--sha256, and with --verify-key against its signature. The partition table is written last, after everything else was
read back and compared; a run that ends early, for whatever reason, leaves a device that does not start.

Refused are disks that are mounted, used as swap space, or part of something else, above all the one that this machine
runs from. Each device is shown with its model and serial number, whose last characters have to be typed. Where nobody can
answer, --yes with --serial, once for each device, stands in; a device that has none is "none".

  twinkeel flash out/images/board.img /dev/sdb
  twinkeel flash board.img.zst /dev/sdb /dev/sdc --verify-key release.pub --log flashed.jsonl
  twinkeel flash board.img /dev/sdb --yes --serial 4C530001`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("twinkeel flash needs IMAGE and at least one DEVICE")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.runFlash(cmd.Context(), o, args[0], args[1:]) },
	}
	f := c.Flags()
	f.Var((*notEmpty)(&o.bmap), "bmap", "block map `file`, in the place of the one beside the image")
	f.BoolVar(&o.noBmap, "no-bmap", false, "write everything, and use no block map")
	f.Var((*notEmpty)(&o.sha256), "sha256", "SHA-256 `digest` of the image file as it is")
	f.StringArrayVar(&o.keys, "verify-key", nil, "PEM `file` with a public key that must have signed the block map or the image, in NAME.sig")
	f.BoolVar(&o.yes, "yes", false, "do not ask; needs --serial for each device")
	f.StringArrayVar(&o.serials, "serial", nil, "`serial` number of a device that may be overwritten (may be repeated)")
	f.BoolVar(&o.file, "file", false, "take files as targets, too; they are made, or grow to the image's size")
	f.BoolVar(&o.partition, "partition", false, "the targets are partitions")
	f.BoolVar(&o.raw, "raw", false, "take an IMAGE that is neither a disk nor a file system, such as a boot loader")
	f.BoolVar(&o.noVerify, "no-verify", false, "do not read back what was written")
	f.BoolVar(&o.delta, "delta", false, "read the device first and write only what differs")
	f.Var((*notEmpty)(&o.log), "log", "append a line of JSON for each device to this `file`")
	return c
}

func (o *flashOptions) check(image string, targets []string) error {
	switch {
	case o.bmap != "" && o.noBmap:
		return usagef("--bmap and --no-bmap do not go together")
	case len(o.serials) > 0 && !o.yes:
		return usagef("--serial goes with --yes")
	case slices.Contains(o.keys, ""), slices.Contains(o.serials, ""):
		return usagef("--verify-key and --serial need a value; it is empty")
	case o.file && o.partition:
		return usagef("--file and --partition do not go together")
	}
	for i, t := range targets {
		if slices.Contains(targets[:i], t) {
			return usagef("%s is named twice", t)
		}
	}
	return notOver("--log", o.log, append([]string{image, o.bmap}, targets...)...)
}

func (a *app) runFlash(ctx context.Context, o flashOptions, path string, names []string) error {
	if err := o.check(path, names); err != nil {
		return err
	}
	host := flash.Host()
	disks, err := inspectDisks(host, o, names)
	if err != nil {
		return err
	}
	img, err := openImage(o, path)
	if err != nil {
		return refused(err)
	}
	defer img.Close()
	for _, d := range disks {
		if same, err := sameFile(d.Node, path); err == nil && same {
			return usagef("%s is the image itself", d.Path)
		}
		if err := d.CheckImage(img); err != nil {
			return refused(err)
		}
	}
	if err := a.confirmFlash(ctx, o, img, disks); err != nil {
		return err
	}
	report := a.newFlashReport(ctx, img)
	results, err := a.flash(ctx, host, o, img, disks, report)
	report.close()
	if err != nil {
		return refused(err)
	}
	return a.flashDone(ctx, o, img, disks, results)
}

func sameFile(a, b string) (bool, error) {
	one, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	two, err := os.Stat(b)
	return err == nil && os.SameFile(one, two), err
}

func inspectDisks(host flash.System, o flashOptions, names []string) ([]*flash.Disk, error) {
	var disks []*flash.Disk
	for _, name := range names {
		d, err := host.Inspect(name, flash.Permit{File: o.file, Partition: o.partition})
		if err != nil {
			return nil, refused(err)
		}
		for _, other := range disks {
			if other.Node == d.Node {
				return nil, usagef("%s and %s are the same device", other.Path, d.Path)
			}
		}
		disks = append(disks, d)
	}
	return disks, nil
}

func openImage(o flashOptions, path string) (*flash.Image, error) {
	options := flash.ImageOptions{Bmap: o.bmap, NoBmap: o.noBmap, SHA256: o.sha256, Raw: o.raw}
	if len(o.keys) > 0 {
		keyring, err := verify.LoadKeyring(o.keys)
		if err != nil {
			return nil, err
		}
		options.Keyring = keyring
	}
	return flash.OpenImage(path, options)
}

// refused gives errors of a target or an image their exit codes: refused targets are wrong usage, images that are not what
// they have to be are a check that said no.
func refused(err error) error {
	var target *flash.RefusedError
	var small *flash.TooSmallError
	var wrong *flash.VerifyError
	var unsigned *flash.UnsignedError
	switch {
	case errors.As(err, &target), errors.As(err, &small):
		return &exitError{exitUsage, err}
	case errors.As(err, &wrong), errors.As(err, &unsigned):
		return &exitError{exitVerify, err}
	}
	return err
}

// confirmFlash shows what will be overwritten by what, and lets somebody confirm each device.
func (a *app) confirmFlash(ctx context.Context, o flashOptions, img *flash.Image, disks []*flash.Disk) error {
	a.showFlash(img, disks)
	var ask []*flash.Disk
	for _, d := range disks {
		switch {
		case d.Kind == flash.KindFile && d.Size == 0: // nothing is lost
		case o.yes && (d.Kind == flash.KindFile || d.Kind == flash.KindLoop): // no hardware, which could be mistaken for another
		case o.yes:
			if !slices.ContainsFunc(o.serials, func(s string) bool { return strings.EqualFold(s, shownSerial(d)) }) {
				return &exitError{exitUsage, &hintedError{
					fmt.Sprintf("%s: refused: its serial number %q is none of those given", d.Path, shownSerial(d)),
					"if it is the right device, add --serial " + shownSerial(d),
				}}
			}
		default:
			ask = append(ask, d)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	if !a.ui.interactive || a.global.json {
		return &hintedError{
			"flash asks before it overwrites a device, and nobody can answer here",
			fmt.Sprintf("add --yes --serial %s", shownSerial(ask[0])),
		}
	}
	in := bufio.NewReader(interruptible(ctx, a.stdin))
	for _, d := range ask {
		want := confirmation(d)
		fmt.Fprintf(a.stderr, "%s Type %s to go on: ", a.ui.err.bold("Overwrite all of "+printable(d.Path)+"?"), want.text)
		line, err := in.ReadString('\n')
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && line == "" || !strings.EqualFold(strings.TrimSpace(line), want.word) {
			return &exitError{exitFailed, errors.New("nothing was written")}
		}
	}
	return nil
}

func shownSerial(d *flash.Disk) string {
	if d.Serial == "" {
		return "none"
	}
	return d.Serial
}

// confirmed is what somebody types, and how it is asked for.
type confirmed struct{ word, text string }

// confirmation is the end of the serial number: it is on the label, and long ones are not typed.
func confirmation(d *flash.Disk) confirmed {
	const last = 4
	runes := []rune(d.Serial)
	switch {
	case len(runes) == 0:
		name := filepath.Base(d.Node)
		return confirmed{name, fmt.Sprintf("its name, %q (it has no serial number),", name)}
	case len(runes) <= last:
		return confirmed{d.Serial, "its serial number"}
	}
	return confirmed{string(runes[len(runes)-last:]), fmt.Sprintf("the last %d characters of its serial number", last)}
}

func (a *app) showFlash(img *flash.Image, disks []*flash.Disk) {
	if a.global.json {
		return
	}
	s := a.ui.err
	a.notef("%s %s", s.bold("image:"), printable(img.Path))
	if img.Size > 0 {
		a.notef(", %s", size(img.Size))
	}
	if img.BmapPath != "" {
		a.notef(", block map %s", printable(filepath.Base(img.BmapPath)))
	}
	a.notef("\n")
	if img.Map != nil {
		a.notef("%s", img.Map.Bar(min(a.ui.width, 100)))
	}
	for _, d := range disks {
		a.notef("%s %s\n", s.bold("target:"), printable(describeDisk(d)))
		if m := d.CurrentMap(); m != nil {
			a.notef("  now on it: %s\n", printable(describeMap(m)))
		}
		if d.Kind == flash.KindDisk && !d.Removable {
			a.notef("  %s\n", s.yellow("it is built in: not removable"))
		}
	}
}

func describeDisk(d *flash.Disk) string {
	parts := []string{d.Path}
	if d.Node != d.Path && d.Kind != flash.KindFile {
		parts[0] += " (" + d.Node + ")"
	}
	if d.Kind == flash.KindFile && d.Size == 0 {
		return d.Path + ", a new file"
	}
	parts = append(parts, d.Kind, size(d.Size), d.Model)
	if d.Kind != flash.KindFile && d.Kind != flash.KindLoop {
		parts = append(parts, "serial "+shownSerial(d), d.Transport)
	}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), ", ")
}

// describeMap names the partitions that will be lost.
func describeMap(m *imaging.Map) string {
	var parts []string
	for _, r := range m.Regions {
		if r.Kind != imaging.KindPartition {
			continue
		}
		name := r.Name
		if name == "" {
			name = fmt.Sprintf("partition %d", r.Number)
		}
		if r.Label != "" {
			name += fmt.Sprintf(" %q", r.Label)
		}
		parts = append(parts, fmt.Sprintf("%s (%s, %s)", name, size(r.Size), r.Filesystem))
	}
	if n := len(parts); n > 8 {
		parts = append(parts[:8], fmt.Sprintf("and %d more", n-8))
	}
	if len(parts) == 0 {
		return m.Table + " without partitions"
	}
	return m.Table + ", " + strings.Join(parts, ", ")
}

// flash claims the devices, checks the image and writes it.
func (a *app) flash(ctx context.Context, host flash.System, o flashOptions, img *flash.Image, disks []*flash.Disk, report *flashReport) ([]flash.Result, error) {
	var targets []*flash.Target
	limit := int64(0)
	for _, d := range disks {
		if d.Kind == flash.KindFile { // it grows, once the size is known
			continue
		}
		if limit == 0 || d.Size < limit {
			limit = d.Size
		}
	}
	releases := []func() error{}
	defer func() {
		for _, release := range releases {
			_ = release() // all that matters was synced
		}
	}()
	open := func(wanted func(*flash.Disk) bool) error {
		for _, d := range disks {
			if !wanted(d) {
				continue
			}
			t, release, err := host.Open(d, img.Size)
			if err != nil {
				return err
			}
			releases, targets = append(releases, release), append(targets, t)
		}
		return nil
	}
	// Disks are claimed before the check, which may take minutes; files are not made before it is known that they are filled.
	if err := open(func(d *flash.Disk) bool { return d.Kind != flash.KindFile }); err != nil {
		return nil, err
	}
	if err := img.Check(ctx, limit, report.event); err != nil {
		var small *flash.TooSmallError
		if errors.As(err, &small) && small.Target == "" {
			small.Target = img.Path
		}
		return nil, err
	}
	if err := open(func(d *flash.Disk) bool { return d.Kind == flash.KindFile }); err != nil {
		return nil, err
	}
	results := flash.Run(ctx, img, targets, flash.Options{NoVerify: o.noVerify, Delta: o.delta, Events: report.event})
	byName := func(d *flash.Disk) int {
		return slices.IndexFunc(results, func(r flash.Result) bool { return r.Target == d.Path })
	}
	ordered := make([]flash.Result, len(disks))
	for i, d := range disks {
		ordered[i] = results[byName(d)]
	}
	return ordered, nil
}

// flashRecord is a line of the production log, and the result with --json.
type flashRecord struct {
	Type      string        `json:"type"` // "result"
	Time      string        `json:"time"`
	Device    string        `json:"device"`
	Model     string        `json:"model,omitempty"`
	Serial    string        `json:"serial,omitempty"`
	Image     string        `json:"image"`
	SHA256    string        `json:"sha256"` // of the image as it is on the device
	KeyID     string        `json:"key_id,omitempty"`
	Outcome   flash.Outcome `json:"outcome"`
	Verified  bool          `json:"verified"`
	Size      int64         `json:"size"`
	Written   int64         `json:"written"`
	Zeroed    int64         `json:"zeroed"`
	Skipped   int64         `json:"skipped"`
	Seconds   float64       `json:"seconds"`
	Error     string        `json:"error,omitempty"`
	BadRanges []flash.Range `json:"bad_ranges,omitempty"`
}

func newFlashRecord(img *flash.Image, d *flash.Disk, r flash.Result) flashRecord {
	rec := flashRecord{
		Type: "result", Time: time.Now().UTC().Format(time.RFC3339), Device: d.Path, Model: d.Model, Serial: d.Serial,
		Image: img.Path, SHA256: img.SHA256, KeyID: img.KeyID, Outcome: r.Outcome, Verified: r.Verified, Size: img.Size,
		Written: r.Written, Zeroed: r.Zeroed, Skipped: r.Skipped, Seconds: float64(r.Took.Milliseconds()) / 1000,
	}
	if r.Err != nil {
		rec.Error = printable(r.Err.Error())
	}
	var wrong *flash.VerifyError
	if errors.As(r.Err, &wrong) {
		rec.BadRanges = wrong.Bad
	}
	return rec
}

// flashDone says what came of each device, on stdout and in the log, and which exit code follows.
func (a *app) flashDone(ctx context.Context, o flashOptions, img *flash.Image, disks []*flash.Disk, results []flash.Result) error {
	var failed []flash.Result
	var lines []byte
	t := table{}
	for i, r := range results {
		rec := newFlashRecord(img, disks[i], r)
		line, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		lines = append(append(lines, line...), '\n')
		if r.Err != nil {
			failed = append(failed, r)
		}
		if disks[i].Kind == flash.KindFile {
			a.warnBeside(disks[i].Path)
		}
		t.add(rec.Device, outcomeText(rec), "serial "+shownSerial(disks[i]), size(r.Written)+" written", size(r.Zeroed)+" zeroed",
			size(r.Skipped)+" skipped", fmt.Sprintf("%.1f s", rec.Seconds), "sha256:"+img.SHA256)
	}
	if a.jsonInto != nil {
		_, _ = a.jsonInto.Write(lines) // its error is kept, and said when the command ends
	}
	if a.global.json {
		a.printf("%s", lines)
	} else {
		t.print(a.stdout)
	}
	err := a.flashError(ctx, failed, len(results))
	if o.log != "" {
		if logErr := appendLog(o.log, lines); logErr != nil {
			return errors.Join(err, fmt.Errorf("the log was not written: %w", logErr))
		}
	}
	return err
}

func outcomeText(r flashRecord) string {
	switch {
	case r.Outcome == flash.Complete && r.Verified:
		return "done, read back"
	case r.Outcome == flash.Complete:
		return "done, not read back"
	case r.Outcome == flash.Untouched:
		return "FAILED, nothing was written"
	case r.Outcome == flash.Unknown:
		return "FAILED, do not use it"
	}
	return "FAILED, no partition table, does not start"
}

// flashError is the error of the run: the one there is, or how many failed of several.
func (a *app) flashError(ctx context.Context, failed []flash.Result, of int) error {
	if len(failed) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		for _, r := range failed {
			if r.Outcome != flash.Untouched {
				a.notef("%s: %s\n", printable(r.Target), "it was begun and has no valid partition table now: it does not start; flash it again")
			}
		}
		return ctx.Err()
	}
	if of == 1 {
		return refused(failed[0].Err)
	}
	code := exitVerify
	for _, r := range failed {
		var wrong *flash.VerifyError
		if !errors.As(r.Err, &wrong) {
			code = exitFailed
		}
		a.notef("%s %s\n", a.ui.err.red("failed:"), printable(r.Err.Error()))
		if hint := hintOf(r.Err); hint != "" {
			a.notef("%s %s\n", a.ui.err.cyan("hint:"), printable(hint))
		}
	}
	return &exitError{code, fmt.Errorf("%d of %s failed", len(failed), plural(of, "device"))}
}

// appendLog adds lines to a log that others may append to at the same time.
func appendLog(name string, lines []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(lines); err != nil {
		return err
	}
	if err := durable.Sync(f); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(name))
}

// flashReport turns events into bars or lines, or with --json into lines of JSON.
type flashReport struct {
	app  *app
	show progress
	img  string

	mu    sync.Mutex
	begun map[string]time.Time // by target and phase
	last  map[string]time.Time
}

func (a *app) newFlashReport(ctx context.Context, img *flash.Image) *flashReport {
	r := &flashReport{app: a, img: img.Name(), begun: map[string]time.Time{}, last: map[string]time.Time{}}
	if !a.global.json {
		r.show = a.newProgress(ctx)
	}
	return r
}

func (r *flashReport) close() {
	if r.show != nil {
		r.show.close()
	}
}

var flashDoing = map[flash.Phase]string{
	flash.PhaseCheck: "checking", flash.PhaseCompare: "comparing", flash.PhasePrepare: "preparing", flash.PhaseWrite: "writing",
	flash.PhaseReadBack: "reading back",
}

var flashStates = map[flash.State]build.State{
	flash.StateStarted: build.StateStarted, flash.StateProgress: build.StateProgress, flash.StateDone: build.StateDone,
	flash.StateFailed: build.StateFailed,
}

func (r *flashReport) event(e flash.Event) {
	if r.app.global.json {
		r.json(e)
		return
	}
	name := e.Target
	if name == "" {
		name = r.img
	}
	event := build.Event{Address: printable(name), State: flashStates[e.State], Doing: flashDoing[e.Phase], Done: e.Done, Total: e.Total}
	if e.State == flash.StateFailed {
		event.Err = context.Canceled // why is said at the end, with the result
	}
	r.show.event(event)
}

// flashProgress is a line of progress with --json.
type flashProgress struct {
	Type   string      `json:"type"` // "progress"
	Target string      `json:"target,omitempty"`
	Phase  flash.Phase `json:"phase"`
	State  flash.State `json:"state"`
	Done   int64       `json:"done"`
	Total  int64       `json:"total"`
	Rate   int64       `json:"rate,omitempty"` // bytes per second
	ETA    *float64    `json:"eta,omitempty"`  // seconds
}

func (r *flashReport) json(e flash.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, now := e.Target+"\x00"+string(e.Phase), time.Now()
	if e.State == flash.StateStarted {
		r.begun[key], r.last[key] = now, now
	}
	if e.State == flash.StateProgress {
		if now.Sub(r.last[key]) < time.Second {
			return
		}
		r.last[key] = now
	}
	p := flashProgress{Type: "progress", Target: e.Target, Phase: e.Phase, State: e.State, Done: e.Done, Total: e.Total}
	if took := now.Sub(r.begun[key]).Seconds(); took > 0 && e.Done > 0 {
		p.Rate = int64(float64(e.Done) / took)
		if p.Rate > 0 && e.State == flash.StateProgress {
			left := float64(max(e.Total-e.Done, 0)) / float64(p.Rate)
			p.ETA = &left
		}
	}
	if line, err := json.Marshal(p); err == nil {
		r.app.printf("%s\n", line)
	}
}
