package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// several is a pipeline whose artifacts come from one for_each; only some of their files exist.
const several = `
locals { files = { here = "good.ext4", also = "other.ext4", gone = "nowhere.ext4" } }
layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "64MiB"
    filesystem = "ext4"
    mount      = "/data"
  }
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "env" }
}
artifact "os" {
  for_each     = local.files
  name         = "os-${each.key}"
  device_types = [device_type.d]
  payload "rootfs-image" { file = each.value }
}
image "one" {
  device_type = device_type.d
  artifact    = artifact.os["here"]
  fill "rootfs" { file = "good.ext4" }
}
artifact "after" {
  name         = "after-${artifact.os["also"].name}"
  device_types = [device_type.d]
  payload "x" { file = "good.ext4" }
}
artifact "broken" {
  name         = "broken-${artifact.os["gone"].name}"
  device_types = [device_type.d]
  payload "x" { file = "good.ext4" }
}
`

// TestTargetsOfInstances: of a block with for_each only the instances that a target needs are looked at.
func TestTargetsOfInstances(t *testing.T) {
	t.Parallel()
	for targets, want := range map[string]string{
		`artifact.os["here"]`:            `artifact.os["here"]`,
		`artifact.os[here] image.*`:      `artifact.os["here"] image.one`,
		`image.one`:                      `artifact.os["here"] image.one`,
		`artifact.os[*e]`:                `nowhere.ext4`,
		`artifact.os[h*] artifact.os[a*`: `artifact.os["also"] artifact.os["here"]`,
		`artifact.os`:                    `nowhere.ext4`,
		`artifact.after`:                 `nowhere.ext4`, // a value of an instance needs all of them
		`artifact.broken`:                `nowhere.ext4`,
		`artifact.os[hare]`:              `Nothing is called artifact.os[hare]`,
	} {
		p := mustLoad(t, several, LoadOptions{})
		plan, diags := p.Plan(t.Context(), PlanOptions{FS: world(), Targets: strings.Fields(targets)})
		if diags.HasErrors() {
			if !strings.Contains(diags.Error(), want) {
				t.Errorf("%s: %v", targets, diags)
			}
			continue
		}
		var got []string
		for _, a := range plan.Actions {
			got = append(got, a.Address)
		}
		if d := cmp.Diff(want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s (-want +got):\n%s", targets, d)
		}
	}
}

// TestErrorOfFunction: what functions of others report in their own way is worded here.
func TestErrorOfFunction(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]string{
		`log(-1, 2)`: "more than 0", `log(0, 2)`: "more than 0", `log(8, -2)`: "more than 0", `log(8, 1)`: "other than 1",
		`uuid()`: "uuidv5", `timestamp()`: "git::commit_time",
	} {
		dir := write(t, map[string]string{"x" + suffixHCL: "locals { v = " + expr + " }"})
		_, _, diags := diagnose(t, dir, LoadOptions{})
		if text := fmt.Sprint(diags); !diags.HasErrors() || !strings.Contains(text, want) {
			t.Errorf("%s: %s", expr, text)
		}
	}
	p := mustLoad(t, "output \"v\" { value = [log(8, 2), log(1000, 10), log(1, 5)] }", LoadOptions{})
	outputs, diags := p.Outputs(t.Context(), OutputOptions{FS: world()})
	fatal(t, p, diags)
	if got := string(outputs[0].Value); !strings.HasPrefix(got, "[3,") || !strings.HasSuffix(got, ",0]") {
		t.Errorf("got %s", got)
	}
}
