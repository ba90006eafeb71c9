#!/bin/sh
# Makes a small deploy directory such as a Yocto build leaves in tmp/deploy/images/MACHINE, so that the examples can be
# planned and built without a build of hours. The root file system is real ext4, and holds next to nothing.
#
#   fake-deploy.sh DIR MACHINE IMAGE ARCH
#
# ARCH is Yocto's name of the processor: aarch64, arm, x86_64.
set -eu
dir=$1 machine=$2 image=$3 arch=$4
PATH="$PATH:/usr/sbin:/sbin"
stamp=20260101120000
link=$image-$machine.rootfs
mkdir -p "$dir/.root/etc"
cd "$dir"
echo "VERSION_ID=5.0.9" >.root/etc/os-release
mke2fs -q -t ext4 -d .root -U 6c1a5a4e-52a1-4cf4-8e0c-6f1a0c3c1f00 "$link-$stamp.ext4" 8M
rm -r .root
echo "busybox $arch 1.36.1" >"$link-$stamp.manifest"
loader='"MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_1": "0x800000", "MENDER_UBOOT_ENV_STORAGE_DEVICE_OFFSET_2": "0x1000000",
  "BOOTENV_SIZE": "0x4000", "MENDER_FEATURES": "mender-uboot mender-image-sd"'
[ "$arch" != x86_64 ] || loader='"MENDER_FEATURES": "mender-grub mender-image-uefi"'
cat >"$link-$stamp.testdata.json" <<JSON
{
  "MACHINE": "$machine", "IMAGE_BASENAME": "$image", "IMAGE_LINK_NAME": "$link", "IMAGE_NAME": "$link-$stamp",
  "DISTRO_VERSION": "5.0.9", "TARGET_ARCH": "$arch", "IMAGE_ROOTFS_SIZE": "8192", "DATETIME": "$stamp",
  "IMAGE_BOOT_FILES": "boot.scr config.txt u-boot.bin;kernel8.img overlays/*;overlays/",
  "MENDER_STORAGE_DEVICE": "/dev/mmcblk0", "MENDER_PARTITION_ALIGNMENT": "8388608",
  "MENDER_BOOT_PART_SIZE_MB": "40", "MENDER_DATA_PART_SIZE_MB": "128", "MENDER_STORAGE_TOTAL_SIZE_MB": "2048",
  "MENDER_DEVICE_TYPE": "$machine", "MENDER_DEVICE_TYPES_COMPATIBLE": "$machine",
  $loader
}
JSON
for ext in ext4 manifest testdata.json; do ln -sf "$link-$stamp.$ext" "$link.$ext"; done
mkdir -p overlays
echo "boot script" >boot.scr
echo "enable_uart=1" >config.txt
echo "u-boot" >u-boot.bin
echo "overlay" >overlays/disable-bt.dtbo
echo "kernel" >Image
if [ "$arch" = x86_64 ]; then
  # The head of a PE file for x86-64, which is what a UEFI loader is: MZ, the offset of the PE header, its machine.
  { printf 'MZ'; head -c 58 /dev/zero; printf '\100\0\0\0PE\0\0\144\206'; head -c 442 /dev/zero; } >grub-efi-bootx64.efi
  echo "configfile /grub-mender-grubenv/grub.cfg" >grub.cfg
fi
printf 'bootcmd=run mender_setup\nbootlimit=1\n' >u-boot-initial-env
