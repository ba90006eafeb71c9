// Package bootenv reads and writes boot loader environments: the few variables through which a running system and
// its boot loader agree on the slot to boot. imaging writes the first environment of a device, the agent all later ones.
//
// Its promise: [UBoot.Update] with two copies and [GRUB.Update] can be interrupted at any instant, by a signal or by a
// power cut, and the next Load gives all of the old values or all of the new ones.
//
// Where the formats come from:
//
//   - U-Boot: env/common.c, include/env_internal.h and tools/env of U-Boot 2023.01; for what a Linux tool accepts,
//     libubootenv 0.3.2 (fw_printenv, fw_setenv) decides, and mkenvimage for the bytes of a fresh environment.
//   - GRUB: the environment block of GRUB 2.06 (util/grub-editenv.c, grub-core/lib/envblk.c), kept twice with lock files
//     as in mender's grub-mender-grubenv, whose boot scripts decide which copy counts.
package bootenv

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The variables of Mender's boot integration. Boot scripts know these names.
const (
	VarBootPart         = "mender_boot_part"            // number of the root partition to boot, decimal
	VarBootPartHex      = "mender_boot_part_hex"        // the same in hexadecimal, as U-Boot's commands want it
	VarUpgradeAvailable = "upgrade_available"           // "1" from the install until the commit or the rollback
	VarBootCount        = "bootcount"                   // boots since the install; raised by the boot loader
	VarBootLimit        = "bootlimit"                   // boots that an uncommitted update gets
	VarAltBootCmd       = "altbootcmd"                  // what U-Boot runs when bootcount exceeds bootlimit
	VarCheckCanary      = "mender_check_saveenv_canary" // "1": the boot loader is expected to set VarCanary
	VarCanary           = "mender_saveenv_canary"       // set by U-Boot on its first boot: both sides see one storage
)

// VarError says that a variable cannot be stored.
type VarError struct {
	Name   string
	Reason string
}

func (e *VarError) Error() string {
	return fmt.Sprintf("boot environment variable %q: %s", e.Name, e.Reason)
}

// SizeError says that the variables do not fit.
type SizeError struct {
	Need, Size int // bytes, with the format's own overhead
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("the boot environment needs %d bytes but has room for %d", e.Need, e.Size)
}

// Hint says what to do about it.
func (e *SizeError) Hint() string {
	return "remove variables or give the environment more room (U-Boot: CONFIG_ENV_SIZE and fw_env.config; a GRUB block has always 1024 bytes)"
}

// checkName refuses what would change the meaning of the block or what the peers' text forms cannot carry.
func checkName(name string) error {
	if name == "" {
		return &VarError{name, "the name is empty"}
	}
	for _, r := range name {
		switch {
		case r == '=':
			return &VarError{name, "a name must not contain '='"}
		case r <= ' ' || r == 0x7f:
			return &VarError{name, "a name must not contain blanks or control characters"}
		}
	}
	if name[0] == '#' {
		return &VarError{name, "a name must not begin with '#', which begins a comment"}
	}
	return nil
}

func checkValue(name, value string) error {
	if strings.ContainsRune(value, 0) {
		return &VarError{name, "the value contains a NUL byte"}
	}
	return nil
}

// Apply returns vars with the changes made; an empty value removes the variable, as in fw_setenv.
func Apply(vars, changes map[string]string) (map[string]string, error) {
	out := maps.Clone(vars)
	if out == nil {
		out = make(map[string]string)
	}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		value := changes[name]
		if err := checkName(name); err != nil {
			return nil, err
		}
		if err := checkValue(name, value); err != nil {
			return nil, err
		}
		if value == "" {
			delete(out, name)
		} else {
			out[name] = value
		}
	}
	return out, nil
}
