package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// The test binary is also the agent of a device: started with these variables it runs the daemon, and kills itself at
// a given step of internal/durable.
const (
	childRoot = "TWINKEEL_TEST_ROOT"
	childKill = "TWINKEEL_TEST_KILL_AT"
)

func TestMain(m *testing.M) {
	if root := os.Getenv(childRoot); root != "" {
		os.Exit(childMain(root))
	}
	// The tests end processes, not the power: what a flush does to a real disk they cannot see, and it is most of their time.
	var memory syscall.Statfs_t
	if syscall.Statfs("/dev/shm", &memory) == nil && memory.Bavail*uint64(memory.Bsize) >= 1<<30 && os.Getenv("TMPDIR") == "" {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	os.Exit(m.Run())
}

func childMain(root string) int {
	if at, _ := strconv.ParseInt(os.Getenv(childKill), 10, 64); at > 0 {
		durable.SetHook(func(s durable.Step) error {
			if s.Number == at {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			return nil
		})
	}
	a, err := loadTestAgent(root, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err == nil {
		err = a.Daemon(context.Background())
	}
	if errors.Is(err, ErrRebootNeeded) {
		return 4
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// life is one run of the agent's process.
type life struct {
	exit   int // -1: killed
	stderr string
}

// live runs the agent until it ends, is killed at a step or at an instant, or the server has seen enough.
func (d *device) live(s *server, killAt int64, killAfter time.Duration) life {
	d.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childRoot+"="+d.root, childKill+"="+strconv.FormatInt(killAt, 10))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	var timer <-chan time.Time
	if killAfter > 0 {
		timer = time.After(killAfter)
	}
	select {
	case <-ended:
	case <-s.done:
		cmd.Process.Kill()
	case <-timer:
		cmd.Process.Kill()
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		<-ended
		d.t.Fatalf("the agent hangs:\n%s", stderr.String())
	}
	<-ended
	return life{cmd.ProcessState.ExitCode(), stderr.String()}
}

// finish runs the agent undisturbed until the server has seen enough.
func (d *device) finish(s *server) {
	d.t.Helper()
	for range 8 {
		l := d.live(s, 0, 0)
		select {
		case <-s.done:
			return
		default:
		}
		if l.exit != 4 {
			d.t.Fatalf("the agent ended with %d:\n%s", l.exit, l.stderr)
		}
		d.powerOn()
	}
	d.t.Fatalf("the deployment does not end; reported %v, booted %v", s.statuses, d.boots)
}

// The agent is killed before every single step that changes the medium, in either life, and must finish the deployment
// with success; at each instant the boot loader would start a complete system. Once the process alone is gone and is
// started again, once the power is.
func TestKillAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the agent a few hundred times")
	}
	next := image(2, imageSize)
	file := artifact(t, next, nil)
	for _, powerCut := range []bool{false, true} {
		t.Run(fmt.Sprintf("power cut %v", powerCut), func(t *testing.T) {
			t.Parallel()
			// The two lives of an update count their steps for themselves: 0 reboots before the kill, and 1.
			for reboots := range 2 {
				reached := 0
				for step := int64(1); killAt(t, file, next, reboots, step, powerCut); step++ {
					reached++
				}
				t.Logf("killed at each of %d steps after %d reboots", reached, reboots)
				if reached < 10 {
					t.Errorf("only %d steps: the hook is not where it should be", reached)
				}
			}
		})
	}
}

// killAt kills one life at one step, and says whether the life had that many.
func killAt(t *testing.T, file, next []byte, reboots int, step int64, powerCut bool) bool {
	t.Helper()
	d := newDevice(t)
	s := newServer(t, file)
	d.serverURL(s)
	for range reboots {
		if l := d.live(s, 0, 0); l.exit != 4 {
			t.Fatalf("ended with %d instead of a reboot:\n%s", l.exit, l.stderr)
		}
		d.powerOn()
	}
	l := d.live(s, step, 0)
	killed := l.exit == -1 && s.finalOpen()
	d.checkBootable(d.old, next)
	if powerCut {
		d.powerOn()
	} else if l.exit == 4 {
		d.powerOn()
	}
	d.finish(s)
	d.checkBootable(d.old, next)
	where := fmt.Sprintf("killed before step %d after %d reboots (power cut: %v)", step, reboots, powerCut)
	vars := d.vars()
	if vars[bootenv.VarUpgradeAvailable] != "0" {
		t.Errorf("%s: the boot loader still waits", where)
	}
	// A cut after the boot loader has started the new system and before the agent there could note it looks like a
	// system that does not come up. Everything else must end in success.
	unseen := powerCut && reboots == 1 && strings.Contains(s.final, "did not come up")
	if s.final != "success" && !unseen {
		t.Errorf("%s: reported %q\n%s", where, s.final, l.stderr)
	}
	running, installed := SlotA, ""
	if s.final == "success" {
		running, installed = SlotB, "release-2"
		if !d.holds(SlotB, next) {
			t.Errorf("%s: slot B does not hold the new system", where)
		}
	}
	if got := d.boots[len(d.boots)-1]; got != running || d.record().Installed.Name != installed {
		t.Errorf("%s: runs slot %s and says %q is installed, reported %q", where, got, d.record().Installed.Name, s.final)
	}
	return killed
}

// finalOpen says that the device has not finished yet.
func (s *server) finalOpen() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Twenty kills at random instants in one deployment, whose download is slow enough to be hit.
func TestKillAtRandom(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	next := image(2, imageSize)
	d := newDevice(t)
	s := newServer(t, artifact(t, next, nil))
	s.download = func(w http.ResponseWriter, r *http.Request, _ int) {
		w.Header().Set("Content-Length", strconv.Itoa(len(s.artifact)))
		for chunk := range slices.Chunk(s.artifact, 64<<10) {
			if _, err := w.Write(chunk); err != nil || pause(r.Context(), 2*time.Millisecond) != nil {
				return
			}
		}
	}
	d.serverURL(s)
	kills := 0
	for kills < 20 && s.finalOpen() {
		l := d.live(s, 0, time.Duration(5+random.IntN(150))*time.Millisecond)
		d.checkBootable(d.old, next)
		switch l.exit {
		case -1:
			kills++
		case 4:
			d.powerOn()
		default:
			t.Fatalf("the agent ended with %d:\n%s", l.exit, l.stderr)
		}
	}
	if s.finalOpen() {
		d.finish(s)
	}
	t.Logf("%d kills, %d downloads, booted %v", kills, len(s.gets), d.boots)
	if s.final != "success" || !d.holds(SlotB, next) {
		t.Errorf("reported %q", s.final)
	}
}
