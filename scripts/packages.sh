#!/bin/sh
# Installs the Debian packages that a target of the Makefile needs, or says which are missing.
#
#   packages.sh demo|test|nand [--optional]
#
# With --optional a machine without them is no error: the tests that need them say that they are skipped.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
set_name=$1 optional=${2:-}

# command:package
image_tools="mke2fs:e2fsprogs mkfs.vfat:dosfstools mcopy:mtools"
case $set_name in
demo) wanted="$image_tools busybox:busybox-static mkimage:u-boot-tools fakeroot:fakeroot" ;;
test) wanted="$image_tools busybox:busybox-static mkimage:u-boot-tools fakeroot:fakeroot mender-artifact:mender-artifact
	mender-cli:mender-cli mender:mender-client sgdisk:gdisk sfdisk:fdisk parted:parted rsvg-convert:librsvg2-bin partx:util-linux fw_printenv:libubootenv-tool grub-editenv:grub-common
	openssl:openssl ssh-agent:openssh-client softhsm2-util:softhsm2 pkcs11-tool:opensc gcc:gcc gencat:libc6-dev mksquashfs:squashfs-tools jq:jq
	bmaptool:bmap-tools simg2img:android-sdk-libsparse-utils qemu-img:qemu-utils ubinize:mtd-utils mkfs.xfs:xfsprogs zstd:zstd xz:xz-utils" ;;
nand) wanted="qemu-system-x86_64:qemu-system-x86 busybox:busybox-static ubinize:mtd-utils fw_printenv:libubootenv-tool dpkg-deb:dpkg" ;;
*) echo "packages.sh: no set $set_name" >&2 && exit 2 ;;
esac

missing=
for entry in $wanted; do
	command -v "${entry%%:*}" >/dev/null || missing="$missing ${entry#*:}"
done
[ -n "$missing" ] || exit 0

as_root=
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if command -v apt-get >/dev/null && { [ -z "$as_root" ] || sudo -n true 2>/dev/null; }; then
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	# One that can't be had must not keep the others away.
	$as_root apt-get -q update >/dev/null
	# shellcheck disable=SC2086
	$as_root apt-get -q -y install --no-install-recommends $missing >/dev/null && exit 0
	for package in $missing; do
		$as_root apt-get -q -y install --no-install-recommends "$package" >/dev/null || echo "could not install $package" >&2
	done
fi
still=
for entry in $wanted; do
	command -v "${entry%%:*}" >/dev/null || still="$still ${entry#*:}"
done
[ -n "$still" ] || exit 0
echo "missing Debian packages:$still" >&2
echo "install them with: sudo apt-get install$still" >&2
[ -n "$optional" ] || exit 1
