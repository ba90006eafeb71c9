package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server"
)

// serveVariable makes the test binary a server on the data directory that it names; see TestMain.
const serveVariable = "TWINKEEL_TEST_SERVE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveVariable); dir != "" {
		if err := serveUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveUntilKilled(dir string) error {
	s, err := server.Open(context.Background(), server.Config{DataDir: dir, Limits: server.Limits{DeviceRate: 10_000}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return s.Serve(context.Background(), l, nil)
}

// TestKill kills the server with SIGKILL while a fleet reports, several times. What was answered is there afterwards, the
// statistics sum to the targets, and the rollout has moved exactly as far as the reports say.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	const fleetSize, rounds = 12, 4
	dir, c := t.TempDir(), newClock()
	c.t = time.Now() // the killed servers have the real clock
	var devices []*device
	var id string
	t.Run("prepare", func(t *testing.T) {
		b := openBench(t, dir, c, nil)
		devices = fleet(b, fleetSize)
		b.push("r", "board", []byte("x"))
		id = b.deploy(menderapi.NewDeployment{Name: "os", ArtifactName: "r", AllDevices: true, Policy: &menderapi.Policy{
			Phases: []menderapi.Phase{{Count: 6}, {Percent: 100}},
		}})
	})
	finished := map[string]bool{} // answered with 204
	var mu sync.Mutex
	for round := range rounds {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), serveVariable+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		address, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("round %d: the server did not start: %v", round, err)
		}
		base := "http://" + strings.TrimSpace(address)
		var reports atomic.Int64
		var wait sync.WaitGroup
		for i, d := range devices {
			if finished[d.id] {
				continue
			}
			wait.Go(func() {
				for {
					status, err := put(t.Context(), "POST", base+menderapi.PathNextV2, d.token, `{"device_provides":{"device_type":"board","artifact_name":"old"}}`)
					if err != nil {
						return
					}
					if status == 204 {
						if reports.Load() >= 14 {
							return
						}
						continue
					}
					for _, s := range []menderapi.Status{"downloading", "installing", "rebooting", "installing", last(i)} {
						status, err := put(t.Context(), "PUT", base+fmt.Sprintf(menderapi.PathDeploymentStatus, id), d.token, `{"status":"`+string(s)+`"}`)
						if err != nil {
							return
						}
						if s == last(i) && status == 204 {
							mu.Lock()
							finished[d.id] = true
							mu.Unlock()
							return
						}
						if reports.Add(1) == 14 { // in the middle of everybody's reports
							cmd.Process.Kill()
						}
					}
				}
			})
		}
		wait.Wait()
		cmd.Process.Kill()
		cmd.Wait()
		t.Run(fmt.Sprint("after kill ", round), func(t *testing.T) {
			b := openBench(t, dir, c, nil)
			d := b.deployment(id) // checks the sum
			list, err := b.DeploymentDevices(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			counted := map[menderapi.Status]int{}
			first := 0
			for _, v := range list {
				counted[v.Status]++
				if finished[v.ID] && !v.Status.Final() {
					t.Errorf("device %s: its final report was answered and is gone; it has %s", v.ID, v.Status)
				}
				if v.Phase == "phase 1" && !v.Status.Final() {
					first++
				}
			}
			for s, n := range d.Statistics.Status {
				if counted[s] != n {
					t.Errorf("the statistics say %d × %s, the devices %d", n, s, counted[s])
				}
			}
			if (first == 0) != d.Rollout.Phases[1].Started {
				t.Errorf("%d devices of the first phase are open, and the second is started: %v", first, d.Rollout.Phases[1].Started)
			}
		})
	}
	b := openBench(t, dir, c, nil)
	for range 2 {
		for i, d := range devices {
			d.b = b
			if n := d.next("board", "old"); n != nil {
				d.report(id, "downloading", last(i))
			}
		}
	}
	b.expectStats(id, map[menderapi.Status]int{"success": 9, "failure": 3})
}

// last is how the update of a device ends.
func last(i int) menderapi.Status {
	if i%4 == 3 {
		return menderapi.StatusFailure
	}
	return menderapi.StatusSuccess
}

func put(ctx context.Context, method, url, token, body string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := killClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

var killClient = &http.Client{Timeout: 10 * time.Second}
