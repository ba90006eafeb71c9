// Package bootloader does what a boot loader with Mender's integration does at power on: it counts the boot of an
// update that is on trial, returns to the other slot when the count is over the limit, and says what to boot.
//
// The rules are those of meta-mender's U-Boot patch (0001-Generic-boot-code-for-Mender.patch) with
// CONFIG_BOOTCOUNT_LIMIT: the counter is raised only while upgrade_available is 1, and altbootcmd swaps the slots and
// clears the flag.
package bootloader

import (
	"fmt"
	"strconv"

	"github.com/twinkeel/twinkeel/internal/bootenv"
)

// Environment is where the variables are kept.
type Environment interface {
	Load() (map[string]string, error)
	Update(changes map[string]string) error
}

// Decision is what is booted.
type Decision struct {
	Part      int  // partition number
	BootCount int  // boots of the update so far, this one included; 0 without an update on trial
	FellBack  bool // the update had its chance
}

// PowerOn takes the decision and saves what it changes. parts are the partition numbers of the two slots, as they are
// built into altbootcmd.
func PowerOn(env Environment, parts [2]int) (Decision, error) {
	vars, err := env.Load()
	if err != nil {
		return Decision{}, err
	}
	part, err := strconv.Atoi(vars[bootenv.VarBootPart])
	if err != nil || part != parts[0] && part != parts[1] {
		return Decision{}, fmt.Errorf("%s is %q, which is no slot", bootenv.VarBootPart, vars[bootenv.VarBootPart])
	}
	d := Decision{Part: part}
	changes := map[string]string{}
	if vars[bootenv.VarCheckCanary] == "1" && vars[bootenv.VarCanary] != "1" {
		changes[bootenv.VarCanary] = "1"
	}
	if number(vars[bootenv.VarUpgradeAvailable]) != 0 {
		limit := number(vars[bootenv.VarBootLimit])
		d.BootCount = number(vars[bootenv.VarBootCount]) + 1
		changes[bootenv.VarBootCount] = strconv.Itoa(d.BootCount)
		if limit != 0 && d.BootCount > limit { // altbootcmd
			d.FellBack = true
			d.Part = parts[0] + parts[1] - part
			changes[bootenv.VarBootPart] = strconv.Itoa(d.Part)
			changes[bootenv.VarBootPartHex] = strconv.FormatInt(int64(d.Part), 16)
			changes[bootenv.VarUpgradeAvailable] = "0"
		}
	}
	if len(changes) == 0 {
		return d, nil
	}
	return d, env.Update(changes)
}

// number is U-Boot's env_get_ulong: the digits at the beginning, 0 without any. A limit of 0 means none.
func number(text string) int {
	end := 0
	for end < len(text) && text[end] >= '0' && text[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(text[:end])
	if err != nil {
		return 0
	}
	return n
}
