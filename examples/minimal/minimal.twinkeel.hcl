# One board, one image, one key: the least that a device needs to update itself.

source "yocto" "board" {
  deploy_dir = "deploy" # tmp/deploy/images/raspberrypi4-64
  machine    = "raspberrypi4-64"
  image      = "core-image-base"
}

layout "sd" {
  alignment = "4MiB"
  reserve "uboot_env" {
    offset = "4MiB" # CONFIG_ENV_OFFSET; the second copy stands 64KiB behind it
    size   = "128KiB"
  }
  partition "boot" {
    size       = "64MiB"
    filesystem = "vfat"
    mount      = "/uboot"
    bootable   = true
  }
  slots "rootfs" {
    size       = "512MiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "128MiB"
    filesystem = "ext4"
    mount      = "/data"
  }
}

device_type "board" {
  type         = "raspberrypi4-64"
  architecture = "arm64"
  layout       = layout.sd
  bootloader "u-boot" {
    environment = "uboot_env"
  }
}

signer "file" "dev" {
  private_key = "keys/dev.pem" # twinkeel keys generate keys/dev.pem
}

artifact "os" {
  name         = "board-os-${source.yocto.board.build_id}"
  device_types = [device_type.board]
  signer       = signer.file.dev
  payload "rootfs-image" {
    file = source.yocto.board.rootfs
  }
}

image "board" {
  device_type = device_type.board
  artifact    = artifact.os
  fill "uboot_env" {
    file = source.yocto.board.uboot_env
  }
  fill "boot" {
    files = source.yocto.board.boot_files
  }
  fill "rootfs" {
    file = source.yocto.board.rootfs
  }
}
