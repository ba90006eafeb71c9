package vdevice

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/twinkeel/twinkeel/agent"
	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/bootenv"
)

// Status is what a device looks like from outside, on or off.
type Status struct {
	Name        string                        `json:"name"`
	On          bool                          `json:"on"`
	Slot        agent.SlotName                `json:"slot"` // that boots next
	Environment map[string]string             `json:"environment"`
	Artifact    string                        `json:"artifact_name"`
	State       agent.State                   `json:"state"`
	Systems     map[agent.SlotName]SlotStatus `json:"systems"`
}

// SlotStatus is what a slot holds.
type SlotStatus struct {
	Partition int    `json:"partition"`
	System    string `json:"system,omitempty"`  // PRETTY_NAME of os-release
	Version   string `json:"version,omitempty"` // VERSION_ID
	Problem   string `json:"problem,omitempty"` // why it would not boot
}

// Status looks at the disk and at the agent's journal.
func (d *Device) Status() (*Status, error) {
	vars, err := d.env.Load()
	if err != nil {
		return nil, err
	}
	record, err := agent.ReadStatus(filepath.Join(d.Dir, "data", "mender"))
	if err != nil {
		return nil, err
	}
	s := &Status{
		Name: d.Name, On: d.on(), Environment: map[string]string{}, Artifact: record.Installed.Name, State: record.State,
		Systems: map[agent.SlotName]SlotStatus{},
	}
	for _, name := range []string{bootenv.VarBootPart, bootenv.VarUpgradeAvailable, bootenv.VarBootCount, bootenv.VarBootLimit} {
		s.Environment[name] = vars[name]
	}
	disk, err := os.Open(filepath.Join(d.Dir, diskName))
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	for name, slot := range d.slots {
		if part, err := strconv.Atoi(vars[bootenv.VarBootPart]); err == nil && part == slot.BootPart {
			s.Slot = name
		}
		s.Systems[name] = slotStatus(disk, slot)
	}
	return s, nil
}

func slotStatus(disk io.ReaderAt, slot agent.Slot) SlotStatus {
	s := SlotStatus{Partition: slot.BootPart}
	root, err := imaging.OpenExt4(disk, slot.Offset, slot.Size)
	if err != nil {
		s.Problem = "no file system"
		return s
	}
	release := osRelease(root)
	s.System, s.Version = release["PRETTY_NAME"], release["VERSION_ID"]
	if err := runnable(root, initPath, 1); err != nil {
		s.Problem = err.Error()
		if empty(root) {
			s.Problem = "empty"
		}
	}
	return s
}

// empty says that a file system was made and never filled.
func empty(root *imaging.Ext4) bool {
	entries, err := root.ReadDir(".")
	return err == nil && (len(entries) == 0 || len(entries) == 1 && entries[0].Name() == "lost+found")
}

// on says whether somebody runs the device now.
func (d *Device) on() bool {
	f, err := os.Open(filepath.Join(d.Dir, "power.lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// Print writes the status for people.
func (s *Status) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	power, artifact := "off", s.Artifact
	if s.On {
		power = "on"
	}
	if artifact == "" {
		artifact = "unknown"
	}
	fmt.Fprintf(t, "device\t%s (%s)\nartifact\t%s\nagent\t%s\n", s.Name, power, artifact, s.State)
	for _, name := range []agent.SlotName{agent.SlotA, agent.SlotB} {
		slot := s.Systems[name]
		text := slot.System
		if slot.Problem != "" {
			text = fmt.Sprintf("%s(%s)", text+map[bool]string{true: " "}[text != ""], slot.Problem)
		}
		mark := ""
		if name == s.Slot {
			mark = "  <- boots"
			if s.Environment[bootenv.VarUpgradeAvailable] == "1" {
				mark += ", on trial"
			}
		}
		fmt.Fprintf(t, "slot %s\tpartition %d: %s%s\n", name, slot.Partition, text, mark)
	}
	return t.Flush()
}
