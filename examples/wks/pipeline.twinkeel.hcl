# A board whose disk a kickstart file describes already. layout.twinkeel.hcl was made of it:
#
#   twinkeel import wks board.wks.in --var BOOT_SIZE=64 --out layout.twinkeel.hcl

source "yocto" "board" {
  deploy_dir = "deploy"
  machine    = "board-arm64"
  image      = "core-image-base"
}

device_type "board" {
  type         = "board-arm64"
  architecture = "arm64"
  layout       = layout.board
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
  fill "loader" {
    file = "${source.yocto.board.deploy_dir}/u-boot.bin"
  }
  fill "uboot_env" {
    file = source.yocto.board.uboot_env
  }
  fill "BOOT" {
    files = source.yocto.board.boot_files
  }
  fill "root" {
    file = source.yocto.board.rootfs
  }
}
