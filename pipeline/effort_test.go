package pipeline

import (
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// multiplying are sources that make much work of few bytes.
func multiplying() map[string]string {
	rep := strings.Repeat
	return map[string]string{
		"loops":          "locals { a = length([for a in range(200): [for b in range(200): [for c in range(200): 1]]]) }",
		"deep loops":     "locals { a = " + rep("[for a in range(1000): ", 6) + "1" + rep("]", 6) + " }",
		"object loops":   "locals { a = " + rep("{for a in range(1000): a => ", 6) + "1" + rep("}", 6) + " }",
		"if loops":       "locals { a = " + rep("[for a in range(1000): a if 0 < length(", 6) + "[1]" + rep(")]", 6) + " }",
		"tried loops":    "locals { a = " + rep("[for a in range(1000): try(", 6) + "1" + rep(", 0)]", 6) + " }",
		"template loops": "locals { a = \"" + rep("%{ for a in range(1000) }", 6) + "x" + rep("%{ endfor }", 6) + "\" }",
		"splat loops":    manyStrings + "locals { b = [for a in local.s: [for b in local.s: local.s[*].x]] }",
		"large body":     manyStrings + "locals { b = [for a in local.s: [" + rep("a,", 20_000) + "]] }",
		"large text":     doubled("xxxxxxxxxxxxxxxx", 19) + "locals { b = [for a in range(1000): \"${local.d19}x\"] }",
		"large call":     doubled("xxxxxxxxxxxxxxxx", 19) + "locals { b = [for a in range(1000): upper(local.d19)] }",
		"large join":     doubled("xxxxxxxxxxxxxxxx", 18) + "locals { b = join(local.d18, range(1000)) }",
		"joined texts":   doubled("xxxxxxxxxxxxxxxx", 18) + "locals { b = join(\"\", [for i in range(1000): local.d18]) }",
		"formats":        doubled("%9999[1]d", 17) + "locals { b = format(local.d17, 1) }",
		"formatted":      doubled("%[1]s", 15) + "locals { b = format(local.d15, local.d15) }",
		"indents":        doubled("\\n", 20) + "locals { b = indent(1000, local.d20) }",
		"splits":         doubled(",,,,,,,,", 20) + "locals { b = split(\",\", local.d20) }",
		"matches":        doubled("aaaaaaaa", 20) + "locals { b = regexall(\"a*a*a*a*a*b\", local.d20) }",
		"documents":      doubled("[],", 20) + "locals { b = jsondecode(\"[${local.d20}[]]\") }",
		"yaml":           doubled("- a: [1]\\n", 18) + "locals { b = yamldecode(local.d18) }",
		"distinct":       manyStrings + "locals { b = distinct(local.s) }",
		"mixed distinct": manyStrings + "locals { b = distinct(concat(local.s, [for i in range(1000): { a = i }])) }",
		"list":           manyStrings + "locals { b = tolist(local.s) }",
		"sets":           manyStrings + "locals { b = setunion([for i in range(300): toset(local.s)]...) }",
		"many sets":      manyStrings + "locals { b = setunion([for i in local.s: [i]]...) }",
		"unified":        manyStrings + "locals { b = true ? local.s : [1] }",
		"typed":          "variable \"v\" {\ntype = list(any)\ndefault = [" + rep("1,", 30_000) + "]\n}",
		"matched keys":   manyStrings + "locals { b = matchkeys(local.s, local.s, reverse(local.s)) }",
		"equal": manyStrings + "locals {" + func() string {
			var b strings.Builder
			for i := range 2_000 {
				fmt.Fprintf(&b, "\ne%d = local.s == local.s", i)
			}
			return b.String()
		}() + "\n}",
	}
}

// manyStrings are 20,000 of them.
const manyStrings = `locals { s = flatten([for i in range(20): [for j in range(1000): "text-${i}-${j}"]]) }
`

// doubled makes a long text: local.dN has 2^N times the first one.
func doubled(first string, times int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "locals {\nd0 = \"%s\"\n", first)
	for i := 1; i <= times; i++ {
		fmt.Fprintf(&b, "d%d = \"${local.d%d}${local.d%d}\"\n", i, i-1, i-1)
	}
	return b.String() + "}\n"
}

// TestEffort: a few bytes that multiply work take about a second at most, and neither does their memory grow without bounds.
// The measure is the process's own time, so that other processes do not count; no other test runs meanwhile.
func TestEffort(t *testing.T) {
	for name, src := range multiplying() {
		dir := write(t, map[string]string{"x" + suffixHCL: src})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := processTime()
		p, _ := Load(LoadOptions{Dir: dir})
		_ = p.Validate()
		took := processTime() - began
		runtime.ReadMemStats(&after)
		if allocated := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 2*time.Second || allocated > 1024 {
			t.Errorf("%s: %v and %d MiB", name, took, allocated)
		} else {
			t.Logf("%s: %v and %d MiB", name, took.Round(time.Millisecond), allocated)
		}
	}
}

func processTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
