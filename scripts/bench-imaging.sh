#!/bin/sh
# Puts a disk image together with twinkeel's imaging, genimage and dd side by side: GPT, 64 MiB of FAT, two slots of one
# ext4 of 1 GiB that is 60 % full, 128 MiB of ext4. They alternate, so that what else the machine does hits all; figures are
# medians. Bytes are those that the image takes on the disk, and those that went to the file system while it was made.
#
#   scripts/bench-imaging.sh [RUNS] [DIRECTORY]
#
# RUNS is 5; DIRECTORY (default /var/tmp/twinkeel-bench) keeps the file systems for the next time and needs 4 GiB. On one that
# can share blocks (XFS, btrfs) the image costs next to nothing. BENCH_ONLY="raw|genimage" runs the rows that match.
set -eu
runs=${1:-5}
dir=${2:-/var/tmp/twinkeel-bench}
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
for tool in genimage mke2fs mkfs.vfat sfdisk python3; do
	command -v "$tool" >/dev/null || { echo "bench: $tool is missing; on Debian: apt install genimage e2fsprogs dosfstools fdisk python3" >&2; exit 1; }
done
mkdir -p "$dir"
if [ ! -f "$dir/rootfs.ext4" ]; then
	echo "making the file systems, once" >&2
	rm -rf "$dir/root"
	mkdir "$dir/root"
	find /usr/lib /usr/bin /usr/share -xdev -type f -size -16384k -printf '%s %p\n' 2>/dev/null | LC_ALL=C sort -k 2 |
		awk '(sum += $1) < 580e6 { sub(/^[0-9]+ /, ""); printf "%s%c", $0, 0 }' | xargs -0 -r cp --parents -t "$dir/root" 2>/dev/null || true
	truncate -s 1G "$dir/image"
	mke2fs -q -t ext4 -d "$dir/root" "$dir/image"
	rm -rf "$dir/root"
	mv "$dir/image" "$dir/rootfs.ext4"
fi
if [ ! -f "$dir/data.ext4" ]; then
	truncate -s 64M "$dir/boot.vfat"
	mkfs.vfat "$dir/boot.vfat" >/dev/null
	truncate -s 128M "$dir/data.ext4"
	mke2fs -q -t ext4 "$dir/data.ext4"
fi
go test -c -o "$dir/imaging.test" ./imaging
cat >"$dir/genimage.cfg" <<EOF
image disk.genimage {
	hdimage { partition-table-type = gpt }
	partition boot { image = "boot.vfat" partition-type-uuid = U }
	partition a { image = "rootfs.ext4" }
	partition b { image = "rootfs.ext4" }
	partition data { image = "data.ext4" }
}
EOF
cat >"$dir/table" <<EOF
label: gpt
start=2048, size=131072
size=2097152
size=2097152
size=262144
EOF
exec python3 - "$runs" "$dir" <<'EOF'
import os, re, resource, statistics, subprocess, sys, time

runs, d = int(sys.argv[1]), sys.argv[2]
out = os.path.join(d, "out")
subprocess.run(["rm", "-rf", out, os.path.join(d, "tmp")])
os.mkdir(out)

def ours(mode):
    env = dict(os.environ, TWINKEEL_BENCH_INPUT=d, TWINKEEL_BENCH_OUTPUT=out + "/disk", TWINKEEL_BENCH_MODE=mode)
    return [d + "/imaging.test", "-test.run", "^TestBenchImage$"], env

def dd(extra):
    cmd = "truncate -s 2242M disk && sfdisk -q disk <%s/table" % d
    for name, at in ("boot.vfat", 1), ("rootfs.ext4", 65), ("rootfs.ext4", 1089), ("data.ext4", 2113):
        cmd += " && dd if=%s/%s of=disk bs=1M seek=%d conv=notrunc%s status=none" % (d, name, at, extra)
    return ["sh", "-c", cmd], None

rows = [
    ("twinkeel raw", ours("raw")),
    ("twinkeel raw + bmap + digests", ours("digests")),
    ("twinkeel zst alone", ours("zst")),
    ("twinkeel qcow2 alone", ours("qcow2")),
    ("twinkeel android-sparse alone", ours("android-sparse")),
    ("genimage", (["genimage", "--config", d + "/genimage.cfg", "--inputpath", d, "--outputpath", out, "--tmppath", d + "/tmp", "--rootpath", out], None)),
    ("sfdisk + dd conv=sparse", dd(",sparse")),
    ("sfdisk + dd", dd("")),
]
rows = [r for r in rows if re.search(os.environ.get("BENCH_ONLY", ""), r[0])]
seen = {name: [] for name, _ in rows}
for _ in range(runs):
    for name, (cmd, env) in rows:
        subprocess.run(["sh", "-c", "rm -rf %s/* %s/tmp; sync" % (out, d)])
        with open(os.path.join(d, "log"), "wb") as log:
            start = time.monotonic()
            p = subprocess.Popen(cmd, cwd=out, env=env, stdout=log, stderr=log)
            _, status, use = os.wait4(p.pid, 0)
            wall = time.monotonic() - start
        if status:
            sys.exit("bench: %s failed; see %s/log" % (name, d))
        allocated = sum(os.lstat(os.path.join(out, f)).st_blocks * 512 for f in os.listdir(out))
        seen[name].append((wall, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024, allocated / 2**20, use.ru_oublock * 512 / 2**20))
print("%-32s %8s %8s %8s %13s %11s" % ("", "wall s", "CPU s", "RSS MiB", "allocated MiB", "written MiB"))
for name, _ in rows:
    print("%-32s %8.2f %8.2f %8.0f %13.0f %11.0f" % ((name,) + tuple(statistics.median(c) for c in zip(*seen[name]))))
subprocess.run(["rm", "-rf", out, os.path.join(d, "tmp")])
EOF
