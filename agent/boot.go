package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twinkeel/twinkeel/internal/bootenv"
)

// bootEnv is the boot loader's environment. Update changes all given variables or none.
type bootEnv interface {
	Load() (map[string]string, error)
	Update(changes map[string]string) error
}

// system is the machine as far as the agent needs it.
type system interface {
	RunningSlot() (SlotName, error)
	// Reboot does not return nil: the process ends, or it returns ErrRebootNeeded or what went wrong.
	Reboot(ctx context.Context) error
}

// armed says that the boot loader will try the slot at the next boot, and return to the other one unless it is
// committed.
func armed(vars map[string]string, s Slot) bool {
	return vars[bootenv.VarUpgradeAvailable] == "1" && boots(vars, s)
}

// onTrial says that the boot loader counts boots, and returns to the other slot when there are too many. For U-Boot's
// counter every number but 0 means that.
func onTrial(vars map[string]string) bool {
	value := vars[bootenv.VarUpgradeAvailable]
	return value != "" && value != "0"
}

// boots says that the boot loader starts from this slot. U-Boot loads the kernel from the partition of the hexadecimal
// variable and gives it the root file system of the decimal one; GRUB knows only the latter.
func boots(vars map[string]string, s Slot) bool {
	part, err := strconv.Atoi(vars[bootenv.VarBootPart])
	if hex, ok := vars[bootenv.VarBootPartHex]; ok && !strings.EqualFold(hex, strconv.FormatInt(int64(s.BootPart), 16)) {
		return false
	}
	return err == nil && part == s.BootPart
}

// The two changes the agent ever makes to the environment, with the values both Mender clients write.

func arm(s Slot) map[string]string {
	changes := settle(s)
	changes[bootenv.VarUpgradeAvailable] = "1"
	changes[bootenv.VarBootCount] = "0"
	return changes
}

// settle makes a slot the one that boots, without trial: a commit of the new slot, or a return to the old one.
func settle(s Slot) map[string]string {
	return map[string]string{
		bootenv.VarBootPart:         strconv.Itoa(s.BootPart),
		bootenv.VarBootPartHex:      strconv.FormatInt(int64(s.BootPart), 16),
		bootenv.VarUpgradeAvailable: "0",
	}
}

func settled(vars map[string]string, s Slot) bool { return boots(vars, s) && !onTrial(vars) }

// lazyEnv opens the environment for each use: it is used a handful of times in an update, and never between.
type lazyEnv struct{ cfg *Config }

func (e *lazyEnv) open() (bootEnv, error) {
	where := e.cfg.BootEnvironment
	if where.Type == "grub" {
		return bootenv.OpenGRUB(where.Config)
	}
	f, err := os.Open(where.Config)
	if err != nil {
		return nil, withHint(fmt.Errorf("opening %s: %s", where.Config, reason(err)),
			"the file says where U-Boot keeps its environment; without it no update can be installed")
	}
	defer closeQuietly(f)
	locations, err := bootenv.ParseFwEnvConfig(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where.Config, err)
	}
	if e.cfg.Root != "" {
		for i := range locations {
			locations[i].Path = filepath.Join(e.cfg.Root, filepath.Join("/", locations[i].Path))
		}
	}
	return bootenv.OpenUBoot(locations)
}

func (e *lazyEnv) Load() (map[string]string, error) {
	env, err := e.open()
	if err != nil {
		return nil, err
	}
	return env.Load()
}

func (e *lazyEnv) Update(changes map[string]string) error {
	env, err := e.open()
	if err != nil {
		return err
	}
	return env.Update(changes)
}

// checkLimit makes sure that U-Boot would give an update up: without a limit it boots a dead system for ever.
func checkLimit(vars map[string]string) error {
	if limit, err := strconv.ParseUint(vars[bootenv.VarBootLimit], 10, 31); err != nil || limit == 0 {
		return withHint(fmt.Errorf("%s is %q: U-Boot would never return from an update that does not come up",
			bootenv.VarBootLimit, vars[bootenv.VarBootLimit]), "set it to 1, as Mender's integration of U-Boot does")
	}
	return nil
}

// checkEnv finds what would make a switch go wrong, before anything is downloaded for it.
func checkEnv(vars map[string]string, running Slot, name SlotName) error {
	// U-Boot writes the canary itself at the first boot: without it the boot loader and this agent look at different
	// places, and a switch would change nothing.
	if vars[bootenv.VarCheckCanary] == "1" && vars[bootenv.VarCanary] != "1" {
		return withHint(errors.New("the boot loader has never saved the environment that the agent reads"),
			"compare fw_env.config with the environment's place in the boot loader's configuration")
	}
	if onTrial(vars) {
		return withHint(errors.New("the boot loader is in the middle of an update that this agent has no record of"),
			"reboot to return to the old system, or clear upgrade_available with fw_setenv")
	}
	if !boots(vars, running) {
		return withHint(fmt.Errorf("the boot loader boots partition %q (hexadecimal %q), but slot %s, which runs, is partition %d",
			vars[bootenv.VarBootPart], vars[bootenv.VarBootPartHex], name, running.BootPart),
			"the boot loader's environment and the slots of the configuration do not belong together")
	}
	return nil
}

// slotOption on the kernel's command line tells which slot the boot loader started. It is needed where the root file
// system's device does not tell (an overlay, a device mapper target, a virtual device).
const slotOption = "twinkeel.slot="

// linux is the real machine.
type linux struct{ cfg *Config }

func (l *linux) RunningSlot() (SlotName, error) {
	line, err := os.ReadFile(filepath.Join(l.cfg.Root, "/proc/cmdline"))
	if err == nil {
		for _, word := range strings.Fields(string(line)) {
			if value, ok := strings.CutPrefix(word, slotOption); ok {
				if name := SlotName(value); name == SlotA || name == SlotB {
					return name, nil
				}
				return "", fmt.Errorf("the kernel's command line has %s, which is no slot", word)
			}
		}
	}
	device, err := rootDevice(filepath.Join(l.cfg.Root, "/proc/self/mountinfo"))
	if err != nil {
		return "", err
	}
	found := []SlotName{}
	for _, name := range []SlotName{SlotA, SlotB} {
		var st unix.Stat_t
		slot, ok := l.cfg.Slots[name]
		if ok && unix.Stat(slot.Device, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == device {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		return "", withHint(fmt.Errorf("the root file system's device %d:%d is not exactly one of the two slots",
			unix.Major(device), unix.Minor(device)),
			"check RootfsPartA and RootfsPartB, or put %sA or %sB on the kernel's command line", slotOption, slotOption)
	}
	return found[0], nil
}

// rootDevice is the number of the device mounted at /. The last line for / counts: it covers the ones before.
func rootDevice(mountinfo string) (uint64, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return 0, fmt.Errorf("finding the root file system: %s: %s", mountinfo, reason(err))
	}
	defer closeQuietly(f)
	var device uint64
	found := false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // id parent major:minor root mount-point …
		if len(fields) < 5 || fields[4] != "/" {
			continue
		}
		major, minor, ok := strings.Cut(fields[2], ":")
		a, err1 := strconv.ParseUint(major, 10, 32)
		b, err2 := strconv.ParseUint(minor, 10, 32)
		if ok && err1 == nil && err2 == nil {
			device, found = unix.Mkdev(uint32(a), uint32(b)), true
		}
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("finding the root file system: %s: %s", mountinfo, reason(err))
	}
	if !found {
		return 0, fmt.Errorf("finding the root file system: %s has no line for /", mountinfo)
	}
	return device, nil
}

// rebootPatience is how long a reboot may take to end this process.
const rebootPatience = 10 * time.Minute

func (l *linux) Reboot(ctx context.Context) error {
	if len(l.cfg.RebootCommand) == 0 {
		return ErrRebootNeeded
	}
	command := l.cfg.RebootCommand
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("running %s: %w: %s", strings.Join(command, " "), err, firstLine(out))
	}
	if err := pause(ctx, rebootPatience); err != nil {
		return err
	}
	return fmt.Errorf("%s did not end this system within %v", strings.Join(command, " "), rebootPatience)
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
