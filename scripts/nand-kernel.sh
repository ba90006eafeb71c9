#!/bin/sh
# Unpacks Debian's kernel into a directory, for the virtual machine of "make nand": it has the modules for flash, which the
# cloud kernels lack. Nothing is installed.
#
#   nand-kernel.sh DIR
set -eu
dir=$1
[ ! -d "$dir/boot" ] || exit 0
package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: //p' | head -n 1)
[ -n "$package" ] || { echo "nand-kernel.sh: apt knows no linux-image-amd64; run apt-get update" >&2 && exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get -q download "$package"
mkdir unpacked
dpkg-deb -x ./*.deb unpacked
cd - >/dev/null
mkdir -p "$(dirname "$dir")"
mv "$work/unpacked" "$dir"
