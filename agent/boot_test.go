package agent

import (
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/test/vdevice/bootloader"
)

// With these environments a switch would brick the device or change nothing. Each must be refused before a byte is
// written to the other slot.
func TestEnvironmentsThatCannotGiveAnUpdateUp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		changes map[string]string
		want    string
	}{
		"no limit":               {map[string]string{bootenv.VarBootLimit: ""}, "never return"},
		"limit 0":                {map[string]string{bootenv.VarBootLimit: "0"}, "never return"},
		"limit not decimal":      {map[string]string{bootenv.VarBootLimit: "x"}, "never return"},
		"kernel of another slot": {map[string]string{bootenv.VarBootPartHex: "3"}, "hexadecimal"},
		"counting without 1":     {map[string]string{bootenv.VarUpgradeAvailable: "2"}, "no record of"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			if err := d.env.Update(c.changes); err != nil {
				t.Fatal(err)
			}
			d.write("a.mender", string(artifact(t, image(2, imageSize), nil)))
			before := d.slot(SlotB)
			_, err := d.agent().Install(t.Context(), d.path("a.mender"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if string(before) != string(d.slot(SlotB)) {
				t.Error("the slot was written to")
			}
		})
	}
}

func TestSlotsWithOneBootPartitionAreRefused(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.config(map[string]any{"Twinkeel.Slots": map[string]any{
		"A": map[string]any{"Device": "/disk.img", "Offset": slotAAt, "Size": slotSize, "BootPart": 2},
		"B": map[string]any{"Device": "/disk.img", "Offset": slotBAt, "Size": slotSize, "BootPart": 2},
	}})
	d.write("a.mender", string(artifact(t, image(2, imageSize), nil)))
	if _, err := d.agent().Install(t.Context(), d.path("a.mender")); err == nil || !strings.Contains(err.Error(), "both slots") {
		t.Errorf("got %v", err)
	}
	d.checkOld()
}

// A commit makes the slot that runs the one that boots, whatever the environment has come to say meanwhile.
func TestCommitNamesTheSlotThatRuns(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.write("a.mender", string(artifact(t, image(2, imageSize), nil)))
	if _, err := d.agent().Install(t.Context(), d.path("a.mender")); err != nil {
		t.Fatal(err)
	}
	if slot := d.powerOn(); slot != SlotB {
		t.Fatal(slot)
	}
	if err := d.env.Update(map[string]string{bootenv.VarBootPart: "2", bootenv.VarBootPartHex: "2", bootenv.VarUpgradeAvailable: "0"}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.agent().Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if slot := d.powerOn(); slot != SlotB {
		t.Errorf("committed, and the next boot is of slot %s", slot)
	}
}

// The stand-in for U-Boot must fail where U-Boot fails: without a limit there is no way back.
func TestBootLoaderWithoutALimitNeverFallsBack(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	changes := arm(Slot{BootPart: 3})
	changes[bootenv.VarBootLimit] = "0"
	if err := d.env.Update(changes); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if decision, err := bootloader.PowerOn(d.env, [2]int{2, 3}); err != nil || decision.FellBack || decision.Part != 3 {
			t.Fatalf("%+v, %v", decision, err)
		}
	}
}
