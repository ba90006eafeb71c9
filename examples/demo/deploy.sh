#!/bin/sh
# Makes what a Yocto build would have left in tmp/deploy/images/MACHINE, with real content: an ext4 root file system
# with busybox, an init and the Twinkeel agent, Debian's kernel, a U-Boot boot script, and the manifest and variables
# that bitbake writes.
#
#   deploy.sh VERSION AGENT [--broken]
#
# VERSION names the release; AGENT is the twinkeel-agent binary to put into it. With --broken the root file system has
# no working init, as after a bad build: such a release must never stay on a device.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${DEMO_WORK:-$here/work}
version=$1 agent=$(realpath "$2") broken=${3:-}

case $(uname -m) in
x86_64) machine=qemux86-64 arch=amd64 kernel=bzImage tune=core2-64 console=ttyS0 mkarch=x86_64 ;;
aarch64) machine=qemuarm64 arch=arm64 kernel=Image tune=cortexa57 console=ttyAMA0 mkarch=arm64 ;;
*) echo "deploy.sh: no demo machine for $(uname -m)" >&2 && exit 1 ;;
esac
image=demo-image distro_version=5.0.9
# Time stamps as bitbake writes them, one day per minor release.
minor=${version#*.}
stamp=2026010$((${minor%%.*} + 1))120000
epoch=1767268800
export SOURCE_DATE_EPOCH=$epoch E2FSPROGS_FAKE_TIME=$epoch PATH="$PATH:/usr/sbin:/sbin"

deploy=$work/deploy/$version
root=$work/rootfs-$version
rm -rf "$deploy" "$root"
mkdir -p "$deploy" "$root" "$work/cache"

# The kernel: Debian's cloud kernel, which has the NVMe and ext4 drivers built in and so needs no initramfs.
vmlinuz=$work/cache/vmlinuz-$arch
if [ ! -s "$vmlinuz" ]; then
	package= # a meta package names the kernel: Debian's first, then Ubuntu's
	for meta in "linux-image-cloud-$arch" linux-image-virtual; do
		[ -n "$package" ] || package=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/ *Depends: \(linux-image-\)/\1/p' | head -n 1)
	done
	if [ -z "$package" ]; then
		echo "deploy.sh: the package lists name no kernel; run: sudo apt-get update" >&2
		exit 1
	fi
	rm -rf "$work/cache/kernel" && mkdir -p "$work/cache/kernel"
	(cd "$work/cache/kernel" && apt-get -q -o APT::Sandbox::User=root download "$package" >/dev/null &&
		dpkg-deb -x ./*.deb .)
	cp "$work"/cache/kernel/boot/vmlinuz-* "$vmlinuz.new"
	echo "$package" >"$work/cache/kernel-name-$arch"
	mv "$vmlinuz.new" "$vmlinuz"
	rm -rf "$work/cache/kernel"
fi
kernel_version=$(sed 's/^linux-image-//' "$work/cache/kernel-name-$arch")

# The root file system.
cd "$root"
mkdir -p bin sbin etc/init.d etc/mender usr/bin usr/sbin usr/share/mender/identity usr/share/mender/inventory \
	var/lib var/log boot boot-part data dev proc sys tmp run root
cp "$(command -v busybox)" bin/busybox
for applet in sh ls cat cp mv rm mkdir mount umount ps kill sleep sync reboot poweroff dmesg hostname ip udhcpc \
	ifconfig wget vi top df free grep sed awk; do ln -s busybox "bin/$applet"; done
ln -s ../bin/busybox sbin/init
[ -z "$broken" ] || ln -sf ../bin/busybox-that-is-not-there sbin/init
cp "$agent" usr/bin/twinkeel-agent
chmod 755 usr/bin/twinkeel-agent bin/busybox
cp "$vmlinuz" "boot/$kernel"
ln -s /data/mender var/lib/mender
ln -s /data/u-boot/fw_env.config etc/fw_env.config
ln -s /proc/self/mounts etc/mtab
echo demo-board >etc/hostname
echo 'root::0:0:root:/root:/bin/sh' >etc/passwd
cat >etc/os-release <<EOF
ID=demo
NAME="Twinkeel demo"
VERSION="$version"
VERSION_ID=$version
PRETTY_NAME="Twinkeel demo $version"
EOF
cat >etc/fstab <<EOF
proc           /proc   proc     defaults       0 0
sysfs          /sys    sysfs    defaults       0 0
/dev/nvme0n1p4 /data   ext4     defaults       0 2
EOF
cat >etc/inittab <<EOF
::sysinit:/etc/init.d/rcS
$console::respawn:/bin/sh
::respawn:/usr/sbin/agent-loop
::ctrlaltdel:/bin/reboot
EOF
cat >etc/init.d/rcS <<'EOF'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -e /dev/null ] || mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
hostname -F /etc/hostname
mount /dev/nvme0n1p4 /data
ip link set lo up
ip link set eth0 up 2>/dev/null && udhcpc -q -n -i eth0
. /etc/os-release
echo "Welcome to $PRETTY_NAME"
EOF
cat >usr/share/mender/identity/mender-device-identity <<'EOF'
#!/bin/sh
for address in /sys/class/net/e*/address; do echo "mac=$(cat "$address")" && exit 0; done
EOF
cat >usr/share/mender/inventory/mender-inventory-os <<'EOF'
#!/bin/sh
. /etc/os-release
echo "os=$PRETTY_NAME"
echo "kernel=$(uname -r)"
EOF
cat >usr/sbin/agent-loop <<'EOF'
#!/bin/sh
# init starts this again whenever it ends; the pause keeps a broken configuration from filling the console.
/usr/bin/twinkeel-agent daemon
sleep 5
EOF
chmod 755 usr/sbin/agent-loop etc/init.d/rcS usr/share/mender/identity/* usr/share/mender/inventory/*
# What differs from release to release beside the version: an application and its data.
mkdir -p opt/app
printf '#!/bin/sh\necho "demo app %s"\n' "$version" >opt/app/run && chmod 755 opt/app/run
busybox seq 1 40000 | sed "s/\$/ $version/" >opt/app/data.txt
find . -exec touch -h -d "@$epoch" {} +

# Releases 1.0.x are named as Yocto 4.2 and older name them, the others as 4.3 and newer.
case $version in
1.0.*) real=$image-$machine-$stamp.rootfs link=$image-$machine ;;
*) real=$image-$machine.rootfs-$stamp link=$image-$machine.rootfs ;;
esac
cd "$deploy"
uuid=$(printf '%s-%s' "$image" "$version" | sha256sum | sed 's/^\(........\)\(....\).\(...\).\(...\)\(............\).*/\1-\2-4\3-8\4-\5/')
fakeroot mke2fs -q -t ext4 -d "$root" -L "" -U "$uuid" -m 0 -O ^metadata_csum \
	-E "hash_seed=$uuid,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" "$real.ext4" 48M >/dev/null
ln -s "$real.ext4" "$link.ext4"
cat >"$real.manifest" <<EOF
base-files $tune 3.0.14
busybox $tune $(busybox | sed -n '1s/BusyBox v\([0-9.]*\).*/\1/p')
demo-app $tune $version
kernel-image-$(echo "$kernel" | tr '[:upper:]' '[:lower:]')-$kernel_version $machine ${kernel_version%%-*}
twinkeel-agent $tune $("$agent" version 2>/dev/null | sed -n '1s/.* //p')
EOF
ln -s "$real.manifest" "$link.manifest"
cat >"$real.testdata.json" <<EOF
{
    "DATETIME": "$stamp",
    "DISTRO": "poky",
    "DISTRO_CODENAME": "scarthgap",
    "DISTRO_VERSION": "$distro_version",
    "IMAGE_BASENAME": "$image",
    "IMAGE_BOOT_FILES": "boot.scr config.txt;conf/config.txt",
    "IMAGE_FSTYPES": "ext4",
    "IMAGE_LINK_NAME": "$link",
    "IMAGE_NAME": "$real",
    "IMAGE_ROOTFS_SIZE": "49152",
    "KERNEL_IMAGETYPE": "$kernel",
    "MACHINE": "$machine",
    "MENDER_ARTIFACT_NAME": "demo-os-$version",
    "MENDER_DEVICE_TYPE": "demo-board",
    "SOURCE_DATE_EPOCH": "$epoch",
    "TARGET_ARCH": "$mkarch",
    "TUNE_ARCH": "$mkarch"
}
EOF
ln -s "$real.testdata.json" "$link.testdata.json"
cp "$vmlinuz" "$kernel--$kernel_version-$machine-$stamp.bin"
ln -s "$kernel--$kernel_version-$machine-$stamp.bin" "$kernel-$machine.bin"
ln -s "$kernel--$kernel_version-$machine-$stamp.bin" "$kernel"

# Boot files: Mender's scheme for U-Boot in a boot script; the kernel itself is in the slot, at /boot.
cat >boot.cmd <<EOF
setenv bootargs root=/dev/nvme0n1p\${mender_boot_part} rootwait ro console=$console panic=5
load nvme 0:\${mender_boot_part_hex} \${kernel_addr_r} /boot/$kernel
bootz \${kernel_addr_r}
EOF
mkimage -A "$mkarch" -T script -C none -n "demo $version" -d boot.cmd boot.scr >/dev/null
# U-Boot's built-in environment, as the recipe's "make u-boot-initial-env" deploys it; the first lines are Mender's.
cat >u-boot-initial-env-$machine <<'EOF'
altbootcmd=run mender_altbootcmd; run bootcmd
bootcmd=run mender_setup; load nvme 0:1 ${scriptaddr} boot.scr && source ${scriptaddr}
bootcount=0
bootdelay=2
bootlimit=1
mender_altbootcmd=if test ${mender_boot_part} = 2; then setenv mender_boot_part 3; setenv mender_boot_part_hex 3; else setenv mender_boot_part 2; setenv mender_boot_part_hex 2; fi; setenv upgrade_available 0; saveenv; run mender_setup
mender_boot_part=2
mender_boot_part_hex=2
mender_check_saveenv_canary=1
mender_setup=if test "${mender_saveenv_canary}" != 1; then setenv mender_saveenv_canary 1; saveenv; fi
scriptaddr=0x40200000
upgrade_available=0
EOF
ln -s u-boot-initial-env-$machine u-boot-initial-env
printf '# board settings of release %s\nuart=1\n' "$version" >config.txt
find . -exec touch -h -d "@$epoch" {} +
rm -rf "$root"
