#!/bin/sh
# Puts a disk image together with twinkeel, genimage and dd side by side, and compares what comes out with the project's goals:
# GPT, 64 MiB of FAT, two slots of one ext4 of 1 GiB that is 60 % full, 128 MiB of ext4. The programs alternate, so that what
# else the machine does hits all; figures are medians. Bytes are those that the image takes on the disk, and those that went to
# the file system while it was made. It ends with a table of the goals, and with 1 if one was missed.
#
#   scripts/bench-imaging.sh [RUNS] [DIRECTORY]
#
# RUNS is 5; DIRECTORY (default /var/tmp/twinkeel-bench) keeps the file systems for the next time and needs 6 GiB. It should
# not share blocks between files (ext4 does not): as root, the rows with shared blocks get an XFS of their own. bin/twinkeel
# must be there: make host. BENCH_ONLY="raw|genimage" runs the rows that match.
set -eu
runs=${1:-5}
dir=${2:-/var/tmp/twinkeel-bench}
cd "$(dirname "$0")/.."
repo=$PWD
PATH=$PATH:/usr/sbin:/sbin
for tool in genimage mke2fs mkfs.vfat sfdisk python3 bin/twinkeel; do
	command -v "$tool" >/dev/null || { echo "bench: $tool is missing; run make host; on Debian: apt install genimage e2fsprogs dosfstools fdisk python3" >&2; exit 1; }
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
for file in boot.vfat rootfs.ext4 data.ext4; do # known from planning, as in a build
	[ -f "$dir/$file.sha256" ] || sha256sum "$dir/$file" >"$dir/$file.sha256"
done
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

# The same board for the command: what make and flash an image by default, with slot B left to the first update.
rm -rf "$dir/pipeline"
mkdir "$dir/pipeline"
cat >"$dir/pipeline/bench.twinkeel.hcl" <<EOF
variable "slot" { default = "1GiB" }
layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  partition "boot" {
    size       = "64MiB"
    filesystem = "vfat"
    bootable   = true
  }
  slots "rootfs" {
    size       = var.slot
    filesystem = "ext4"
  }
  partition "data" {
    size       = "128MiB"
    filesystem = "ext4"
    mount      = "/data"
  }
}
device_type "board" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "env" }
}
signer "file" "bench" { private_key = "key.pem" }
artifact "app" {
  name         = "app-1"
  device_types = [device_type.board]
  signer       = signer.file.bench
  payload "single-file" {
    file        = "key.pem.pub"
    destination = "/opt/key"
  }
}
image "board" {
  device_type = device_type.board
  artifact    = artifact.app
  fill "rootfs" { file = "$dir/rootfs.ext4" }
}
EOF
(cd "$dir/pipeline" && "$repo/bin/twinkeel" keys generate key.pem >/dev/null)

# Where files share blocks: an XFS in a file, gone at the end.
xfs= loop=
cleanup() {
	[ -z "$xfs" ] || umount "$xfs" || true
	[ -z "$loop" ] || losetup -d "$loop" || true
	rm -rf "$dir/xfs" "$dir/xfs.img"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
if [ "$(id -u)" = 0 ] && command -v mkfs.xfs losetup >/dev/null; then
	truncate -s 8G "$dir/xfs.img"
	mkfs.xfs -q -m reflink=1 "$dir/xfs.img"
	loop=$(losetup -f --show "$dir/xfs.img")
	mkdir -p "$dir/xfs"
	mount "$loop" "$dir/xfs"
	xfs=$dir/xfs
	cp --sparse=always "$dir"/rootfs.ext4* "$dir"/boot.vfat* "$dir"/data.ext4* "$xfs"
else
	echo "no rows with shared blocks: they need root, losetup and mkfs.xfs" >&2
fi
python3 scripts/bench-imaging.py "$runs" "$dir" "$repo/bin/twinkeel" $xfs
