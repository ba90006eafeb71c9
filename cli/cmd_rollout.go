package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
	"github.com/twinkeel/twinkeel/server/client"
)

func (a *app) rolloutCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "rollout",
		Short:   "Start, watch and stop rollouts",
		GroupID: groupMain,
		Args:    onlyCommands,
		RunE:    helpRun,
	}
	c.AddCommand(
		&cobra.Command{
			Use:   "start [ADDRESS]...",
			Short: "Start rollouts whose artifacts are on the server",
			Long: `Start the pipeline's rollouts. A rollout of the same name and release is started once: a second call says so and
changes nothing.`,
			RunE: func(cmd *cobra.Command, args []string) error { return a.runRolloutStart(cmd.Context(), args) },
		},
		a.rolloutListCommand(),
		a.rolloutStatusCommand(),
		a.rolloutSetCommand("pause", "paused", "Hold a rollout: no further device is given the release"),
		a.rolloutSetCommand("resume", "running", "Let a paused rollout go on"),
		a.rolloutApproveCommand(),
		a.rolloutSetCommand("abort", "aborted", "End a rollout; devices that have not installed the release are left alone"),
	)
	return c
}

// rollouts plans the named rollouts, or all of them.
func (a *app) rollouts(ctx context.Context, targets []string) ([]*pipeline.Rollout, error) {
	_, plan, err := a.planOf(ctx, targets, pipeline.KindRollout)
	if err != nil {
		return nil, err
	}
	var rollouts []*pipeline.Rollout
	for _, action := range plan.Actions {
		if action.Rollout != nil {
			rollouts = append(rollouts, action.Rollout)
		}
	}
	if len(rollouts) == 0 {
		return nil, noBlockError(pipeline.KindRollout)
	}
	return rollouts, nil
}

func (a *app) runRolloutStart(ctx context.Context, targets []string) error {
	rollouts, err := a.rollouts(ctx, targets)
	if err != nil {
		return err
	}
	started := make([]*build.Started, 0, len(rollouts))
	for _, r := range rollouts {
		s, err := a.start(ctx, r)
		if err != nil {
			return err
		}
		started = append(started, s)
	}
	return a.printStarted(started)
}

func (a *app) printStarted(started []*build.Started) error {
	if done, err := a.asJSON(started); done {
		return err
	}
	t := table{}
	for _, s := range started {
		state := "started"
		if s.Already {
			state = "was started before (" + s.Status + ")"
		}
		t.add(s.Address, state, s.ArtifactName, "deployment "+s.DeploymentID)
	}
	t.print(a.stdout)
	return nil
}

func (a *app) rolloutListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the pipeline's rollouts and what came of them",
		Long: `List the pipeline's rollouts, one a line: the release of the newest deployment, its state, and how many devices have it
of those that take part. "rollout status" tells more of one.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runRolloutList(cmd.Context()) },
	}
}

// listedRollout is one of what `rollout ls --json` prints.
type listedRollout struct {
	Address    string                `json:"address"`
	State      string                `json:"state"`
	Deployment *menderapi.Deployment `json:"deployment"` // null: not started
}

func (a *app) runRolloutList(ctx context.Context) error {
	rollouts, err := a.declaredRollouts(nil)
	if err != nil {
		return err
	}
	list := make([]listedRollout, 0, len(rollouts))
	for _, r := range rollouts {
		c, err := build.Connect(&r.Server)
		if err != nil {
			return err
		}
		d, err := build.NewestDeployment(ctx, c, r.Name)
		if err != nil {
			return &build.ActionError{Address: r.Address, Err: err}
		}
		l := listedRollout{Address: r.Address, State: "not started", Deployment: d}
		if d != nil {
			l.State = d.State()
		}
		list = append(list, l)
	}
	if done, err := a.asJSON(list); done {
		return err
	}
	t := table{}
	for _, l := range list {
		d := l.Deployment
		if d == nil {
			t.add(l.Address, l.State)
			continue
		}
		count := d.Statistics.Status
		devices := fmt.Sprintf("%d of %s", count[menderapi.StatusSuccess]+count[menderapi.StatusAlreadyInstalled], plural(d.DeviceCount, "device"))
		if failed := count[menderapi.StatusFailure]; failed > 0 {
			devices += fmt.Sprintf(", %d failed", failed)
		}
		t.add(l.Address, l.State, d.ArtifactName, devices)
	}
	t.print(a.stdout)
	return nil
}

type statusOptions struct {
	watch bool
	wait  bool
}

func (a *app) rolloutStatusCommand() *cobra.Command {
	var o statusOptions
	c := &cobra.Command{
		Use:   "status [ADDRESS]...",
		Short: "Show how far rollouts have come",
		Long: `Show the newest deployment of each rollout: its phases and its devices. The server knows it; what a release is built from
need not be there.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runRolloutStatus(cmd.Context(), o, args) },
	}
	c.Flags().BoolVar(&o.watch, "watch", false, "show every change until the rollout is finished, aborted or paused")
	c.Flags().BoolVar(&o.wait, "wait", false, "as --watch, and exit with 1 unless every device has the release")
	return c
}

// rolloutStatus is what `rollout status` tells of one rollout.
type rolloutStatus struct {
	Address    string                       `json:"address"`
	Deployment *menderapi.Deployment        `json:"deployment"` // null: not started
	Devices    []menderapi.DeploymentDevice `json:"devices,omitempty"`

	identities map[string]string // of the devices, for people, who know them by those
}

func (a *app) runRolloutStatus(ctx context.Context, o statusOptions, targets []string) error {
	rollouts, err := a.declaredRollouts(targets)
	if err != nil {
		return err
	}
	all := make([]*rolloutStatus, 0, len(rollouts))
	for _, r := range rollouts {
		c, err := build.Connect(&r.Server)
		if err != nil {
			return err
		}
		s, err := a.rolloutStatus(ctx, c, r, o)
		if err != nil {
			return &build.ActionError{Address: r.Address, Err: err}
		}
		all = append(all, s)
	}
	if _, err := a.asJSON(all); err != nil {
		return err
	}
	if o.wait {
		for _, s := range all {
			if err := s.mustBeDone(); err != nil {
				return err
			}
		}
	}
	return nil
}

// watchInterval is how often a watched rollout is asked for.
const watchInterval = 500 * time.Millisecond

func (a *app) rolloutStatus(ctx context.Context, c *client.Client, r pipeline.RolloutRef, o statusOptions) (*rolloutStatus, error) {
	s := &rolloutStatus{Address: r.Address}
	last := ""
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		d, err := build.NewestDeployment(ctx, c, r.Name)
		if err != nil {
			return nil, err
		}
		s.Deployment = d
		if d != nil {
			if s.Devices, err = c.DeploymentDevices(ctx, d.ID); err != nil {
				return nil, err
			}
			if s.identities == nil {
				if s.identities, err = identities(ctx, c); err != nil {
					return nil, err
				}
			}
		}
		if text := a.statusText(s, r); !a.global.json && text != last {
			a.printf("%s", text)
			last = text
		}
		if d == nil || (!o.watch && !o.wait) || s.resting() {
			return s, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func identities(ctx context.Context, c *client.Client) (map[string]string, error) {
	devices, err := c.Devices(ctx, "")
	if err != nil {
		return nil, err
	}
	texts := make(map[string]string, len(devices))
	for _, d := range devices {
		texts[d.ID] = identityText(d.IdentityData)
	}
	return texts, nil
}

// resting says that nothing more happens by itself: the rollout is over, or a person is needed, or devices that meet its
// conditions only later.
func (s *rolloutStatus) resting() bool {
	if s.Deployment.Status == "finished" {
		return true
	}
	p := s.Deployment.Rollout
	if p == nil || p.Waits == nil {
		return false
	}
	switch p.Waits.For {
	case menderapi.WaitResume, menderapi.WaitApproval, menderapi.WaitMatches:
	default:
		return false
	}
	for _, d := range s.Devices { // a paused rollout lets those that have begun finish
		if !d.Status.Final() && d.Status != menderapi.StatusPending {
			return false
		}
	}
	return true
}

func (s *rolloutStatus) mustBeDone() error {
	d := s.Deployment
	if d == nil {
		return &exitError{exitFailed, fmt.Errorf("%s is not started", s.Address)}
	}
	done := d.Statistics.Status[menderapi.StatusSuccess] + d.Statistics.Status[menderapi.StatusAlreadyInstalled]
	if done == d.MaxDevices && d.MaxDevices > 0 {
		return nil
	}
	state := d.State()
	return &exitError{exitFailed, fmt.Errorf("%s is %s: %d of %s have %s", s.Address, state, done, plural(d.MaxDevices, "device"), d.ArtifactName)}
}

// statusText is one look at a rollout: the phases, then the devices.
func (a *app) statusText(s *rolloutStatus, r pipeline.RolloutRef) string {
	st := a.ui.out
	var b strings.Builder
	d := s.Deployment
	if d == nil {
		fmt.Fprintf(&b, "%s %s\n", st.bold(r.Address), st.dim("not started"))
		return b.String()
	}
	state := d.State()
	fmt.Fprintf(&b, "%s %s %s\n", st.bold(r.Address), d.ArtifactName, a.paintState(state))
	if p := d.Rollout; p != nil {
		for i, phase := range p.Phases {
			mark := " "
			if i == p.Phase && state != "finished" {
				mark = ">"
			}
			fmt.Fprintf(&b, "  %s phase %-12s %d of %s done", mark, printable(phase.Name), phase.Done, plural(phase.Devices, "device"))
			if phase.Failed > 0 {
				fmt.Fprintf(&b, ", %s", st.red(fmt.Sprintf("%d failed", phase.Failed)))
			}
			b.WriteByte('\n')
		}
		if p.PauseReason != "" {
			fmt.Fprintf(&b, "  %s\n", st.yellow(printable(p.PauseReason)))
		}
		if text := waitText(p.Waits, r.Address); text != "" {
			fmt.Fprintf(&b, "  waits %s\n", text)
		}
		switch {
		case p.Expired:
			fmt.Fprintf(&b, "  expired %s\n", p.Expires.Format(time.RFC3339))
		case p.Expires != nil && p.Waits != nil:
			fmt.Fprintf(&b, "  expires %s\n", p.Expires.Format(time.RFC3339))
		}
	}
	for _, dev := range s.Devices {
		name := s.identities[dev.ID]
		if name == "" {
			name = dev.ID
		}
		fmt.Fprintf(&b, "    %s %s", printable(name), a.paintState(string(dev.Status)))
		if dev.SubState != "" {
			fmt.Fprintf(&b, " %s", st.dim(printable(dev.SubState)))
		}
		if w := dev.Waits; w != nil {
			fmt.Fprintf(&b, " %s", st.dim("waits "+deviceWaitText(w)))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// waitText says what a rollout waits for, and what a person can do about it.
func waitText(w *menderapi.Wait, address string) string {
	if w == nil {
		return ""
	}
	switch w.For {
	case menderapi.WaitApproval:
		return fmt.Sprintf("for approval of phase %s: twinkeel rollout approve '%s'", printable(w.Phase), address)
	case menderapi.WaitResume:
		return fmt.Sprintf("for a person: twinkeel rollout resume '%s', or abort", address)
	case menderapi.WaitMatches:
		return "for further devices that match its target"
	case menderapi.WaitDevices:
		return "for devices of phase " + printable(w.Phase)
	}
	return deviceWaitText(w)
}

// deviceWaitText says what a device waits for.
func deviceWaitText(w *menderapi.Wait) string {
	until := ""
	if w.Until != nil {
		until = " until " + w.Until.Format(time.RFC3339)
	}
	switch w.For {
	case menderapi.WaitSoak:
		return "while phase " + printable(w.Phase) + " soaks" + until
	case menderapi.WaitWindow:
		return "for the window" + until
	case menderapi.WaitPhase:
		return "for phase " + printable(w.Phase)
	case menderapi.WaitRetry:
		return "before its next attempt" + until
	case menderapi.WaitResume:
		return "for the rollout to be resumed"
	case menderapi.WaitPoll:
		return "to ask"
	}
	return "for " + printable(w.For) // of a newer server
}

func (a *app) paintState(state string) string {
	st := a.ui.out
	switch state {
	case "success", "already-installed", "finished":
		return st.green(state)
	case "failure", "aborted":
		return st.red(state)
	case "paused", "waiting":
		return st.yellow(state)
	case "pending":
		return st.dim(state)
	}
	return st.cyan(state)
}

func (a *app) rolloutSetCommand(verb, status, short string) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " ADDRESS...",
		Short: short,
		Args:  atLeastOne("rollout"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runRolloutSet(cmd.Context(), args, status)
		},
	}
}

func (a *app) rolloutApproveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "approve ADDRESS...",
		Short: "Release the phase that waits for approval",
		Long: `Release the phase of each rollout that waits for approval (approval = true). Only the phase that waits now is
released: of two people who approve at once, one is told that nothing waits.`,
		Args: atLeastOne("rollout"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeRollouts(cmd.Context(), args, func(ctx context.Context, c *client.Client, d *menderapi.Deployment) (string, error) {
				if d.Rollout == nil || d.Rollout.Waits == nil || d.Rollout.Waits.For != menderapi.WaitApproval {
					return "", fmt.Errorf("no phase waits for approval; the rollout of %s is %s", d.ArtifactName, d.State())
				}
				phase := d.Rollout.Waits.Phase
				return "approved (phase " + printable(phase) + ")", c.ApprovePhase(ctx, d.ID, phase)
			})
		},
	}
}

func (a *app) runRolloutSet(ctx context.Context, targets []string, status string) error {
	return a.changeRollouts(ctx, targets, func(ctx context.Context, c *client.Client, d *menderapi.Deployment) (string, error) {
		return a.paintState(status), c.SetDeploymentStatus(ctx, d.ID, status)
	})
}

// changeRollouts changes the newest deployment of each rollout, whatever its release. change says what it became.
func (a *app) changeRollouts(ctx context.Context, targets []string, change func(context.Context, *client.Client, *menderapi.Deployment) (string, error)) error {
	rollouts, err := a.declaredRollouts(targets)
	if err != nil {
		return err
	}
	changed := make([]rolloutChange, 0, len(rollouts))
	for _, r := range rollouts {
		c, err := build.Connect(&r.Server)
		if err != nil {
			return err
		}
		d, err := build.NewestDeployment(ctx, c, r.Name)
		if err == nil && d == nil {
			err = &hintedError{"the rollout is not started", "twinkeel rollout start '" + r.Address + "'"}
		}
		became := ""
		if err == nil {
			became, err = change(ctx, c, d)
		}
		if err == nil {
			d, err = c.Deployment(ctx, d.ID) // its state as it is now
		}
		if err != nil {
			return &build.ActionError{Address: r.Address, Err: err}
		}
		changed = append(changed, rolloutChange{r.Address, d.ArtifactName, d.ID, d.State()})
		a.notef("%s %s is %s\n", r.Address, printable(d.ArtifactName), became)
	}
	if done, err := a.asJSON(changed); done {
		return err
	}
	return nil
}

// rolloutChange is one of the rollouts that `rollout pause --json` and its like print.
type rolloutChange struct {
	Address      string `json:"address"`
	ArtifactName string `json:"artifact_name"`
	DeploymentID string `json:"deployment_id"`
	State        string `json:"state"`
}

// chooseRollouts returns the rollouts that targets name: by address, by block for all its instances, or "rollout.*".
// declaredRollouts are the pipeline's rollouts as their servers know them, without the files of the build: whoever
// watches or stops a rollout may sit elsewhere, and is in a hurry.
func (a *app) declaredRollouts(targets []string) ([]pipeline.RolloutRef, error) {
	p, err := a.load()
	if err != nil {
		return nil, err
	}
	all, diags := p.Rollouts()
	if err := a.check(p, diags); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("the pipeline has no rollout")
	}
	if len(targets) == 0 {
		return all, nil
	}
	return chooseRollouts(all, targets)
}

func chooseRollouts(all []pipeline.RolloutRef, targets []string) ([]pipeline.RolloutRef, error) {
	addresses := make([]string, len(all))
	for i, r := range all {
		addresses[i] = r.Address
	}
	var chosen []pipeline.RolloutRef
	for _, t := range targets {
		before := len(chosen)
		for _, r := range all {
			if block, _, _ := strings.Cut(r.Address, "["); t == r.Address || t == block || t == "rollout.*" {
				chosen = append(chosen, r)
			}
		}
		if len(chosen) == before {
			return nil, usagef("there is no rollout %q in the pipeline; it has %v", t, addresses)
		}
	}
	return chosen, nil
}
