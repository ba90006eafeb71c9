#!/bin/sh
# Prints what the language costs, beside its goals: validate of the full example, validate and fmt of thousands of blocks.
# CPU seconds are user and system time; take a quiet machine for the wall times. Fails when a goal is missed.
# RUNS is how often each is measured, by default 5; with 3, as in CI, it takes some seconds.
set -eu
cd "$(dirname "$0")/.."
tool=$PWD/bin/twinkeel
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
missed=0

# pipeline DIR N: a pipeline of N artifacts; 5,000 have 650 KB.
pipeline() {
	mkdir -p "$1"
	cat > "$1/x.twinkeel.hcl" <<-'EOF'
	variable "version" { default = "1.0.0" }
	layout "ab" {
	  reserve "env" {
	    offset = "1MiB"
	    size   = "128KiB"
	  }
	  slots "rootfs" {
	    size       = "64MiB"
	    filesystem = "ext4"
	  }
	}
	device_type "d" {
	  architecture = "arm64"
	  layout       = layout.ab
	  bootloader "u-boot" { environment = "env" }
	}
	EOF
	awk -v n="$2" 'BEGIN {
		for (i = 0; i < n; i++)
			printf "artifact \"a%d\" {\n  name         = \"app-%d-${var.version}\"\n  device_types = [device_type.d]\n  payload \"m\" { file = \"app.bin\" }\n}\n", i, i
	}' >> "$1/x.twinkeel.hcl"
}

runs=${RUNS:-5}

# measure COMMAND...: the best of the runs, as wall seconds, CPU seconds and MB in $wall, $cpu and $rss.
measure() {
	wall=999 cpu=999 rss=0
	for _ in $(seq "$runs"); do
		/usr/bin/time -f '%e %U %S %M' -o "$work/time" "$@" > /dev/null
		read -r e u s m < "$work/time"
		wall=$(echo "$wall $e" | awk '{print ($2 < $1) ? $2 : $1}')
		cpu=$(echo "$cpu $u $s" | awk '{c = $2 + $3; print (c < $1) ? c : $1}')
		rss=$(echo "$rss $m" | awk '{m = $2 / 1000; print (m > $1) ? m : $1}')
	done
}

# goal TEXT VALUE LIMIT UNIT
goal() {
	verdict=$(echo "$2 $3" | awk '{print ($1 < $2) ? "ok" : "MISSED"}')
	[ "$verdict" = ok ] || missed=1
	printf '%-46s %8.2f %-5s goal < %-6s %s\n' "$1" "$2" "$4" "$3" "$verdict"
}

cp -r pipeline/reference "$work/example" # with its modules
pipeline "$work/5000" 5000
pipeline "$work/20000" 20000

measure "$tool" -C "$work/example" validate
goal "validate, the full example" "$wall" 0.05 s
measure "$tool" -C "$work/5000" validate
goal "validate, 5,000 blocks (650 KB)" "$cpu" 1 "CPU-s"
goal "validate, 5,000 blocks, memory" "$rss" 200 MB
cpu5=$cpu rss5=$rss
measure "$tool" -C "$work/20000" validate
goal "validate, 20,000 blocks to 5,000" "$(echo "$cpu $cpu5" | awk '{print $1 / $2}')" 5 times
goal "validate, 20,000 blocks to 5,000, memory" "$(echo "$rss $rss5" | awk '{print $1 / $2}')" 5 times
measure "$tool" fmt -check "$work/5000"
goal "fmt, 5,000 blocks (650 KB)" "$cpu" 0.5 "CPU-s"
exit $missed
