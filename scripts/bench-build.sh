#!/bin/sh
# Measures builds with 4 GiB of inputs (two root file systems of 2 GiB of noise): the first one, and one that has nothing to do,
# whose bound is 0.3 s. Prints the medians of the latter over RUNS runs.
#
#   scripts/bench-build.sh [RUNS] [DIRECTORY]
#
# BENCH_MIB is the size of each in MiB, for a quick try. RUNS is 7; DIRECTORY (default /var/tmp) needs 16 GiB for a while. Where there is less the bench is skipped.
set -eu
runs=${1:-7}
parent=${2:-/var/tmp}
cd "$(dirname "$0")/.."
twinkeel=${TWINKEEL:-$PWD/bin/twinkeel}
[ -x "$twinkeel" ] || { echo "bench: $twinkeel is missing; run: make host" >&2; exit 1; }
free=$(df -Pk "$parent" | awk 'NR == 2 { print int($4 / 1048576) }')
if [ "$free" -lt 16 ]; then
	echo "bench-build: skipped, $parent has $free GiB and it takes 16"
	exit 0
fi
dir=$(mktemp -d "$parent/twinkeel-bench-build.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
cat >"$dir/bench.twinkeel.hcl" <<'HCL'
layout "ab" {
  table = "gpt"
  reserve "uboot_env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "3GiB"
    filesystem = "ext4"
  }
}
device_type "board" {
  type         = "board"
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "uboot_env" }
}
signer "file" "dev" { private_key = "key.pem" }
artifact "os" {
  for_each     = toset(["a", "b"])
  name         = "os-${each.key}"
  device_types = [device_type.board]
  signer       = signer.file.dev
  compress     = "none"
  payload "single-file" {
    file        = "${each.key}.ext4"
    destination = "/opt/${each.key}"
  }
}
HCL
"$twinkeel" keys generate "$dir/key.pem" >/dev/null
for name in a b; do
	openssl enc -aes-128-ctr -K "$(printf %032d 1)" -iv "$(printf '%031d' 0)$([ $name = a ] && echo 1 || echo 2)" -in /dev/zero 2>/dev/null |
		head -c "$((${BENCH_MIB:-2048} * 1048576))" >"$dir/$name.ext4"
done
sleep 3 # what changed a moment ago is read again
python3 - "$runs" "$twinkeel" "$dir" <<'PYTHON'
import statistics, subprocess, sys, time

runs, twinkeel, where = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def run():
    start = time.monotonic()
    out = subprocess.run([twinkeel, "-C", where, "--progress=quiet", "build"], check=True, capture_output=True, text=True).stdout
    return time.monotonic() - start, out
print("build, all inputs, first:                     %6.1f s" % run()[0])
time.sleep(3)
print("build, again, outputs not yet in the memo:    %6.1f s" % run()[0])
times = []
for _ in range(runs):
    took, out = run()
    assert out.count("up to date") == 2, out
    times.append(took)
median = statistics.median(times)
print("build, nothing to do, median of %d:            %6.3f s (bound 0.3 s) %s" % (runs, median, "ok" if median < 0.3 else "TOO SLOW"))
sys.exit(median >= 0.3)
PYTHON
