signer "file" "s" { private_key = "k.pem" }
layout "nand" {
  ubi {
    erase_block = "128KiB"
    page        = "2KiB"
    blocks      = 1024
  }
  slots "rootfs" {
    size       = "40MiB"
    filesystem = "ubifs"
  }
  partition "data" {
    size       = "16MiB"
    filesystem = "ubifs"
    mount      = "/data"
    grow       = true
  }
  partition "u-boot-env-1" { size = "128KiB" }
  partition "u-boot-env-2" { size = "128KiB" }
}
device_type "board" {
  architecture = "arm"
  layout       = layout.nand
  bootloader "u-boot" { environment = "u-boot-env" }
}
artifact "good" {
  name         = "os-1"
  device_types = [device_type.board]
  signer       = signer.file.s
  payload "rootfs-image" { file = "root.ubifs" }
}
artifact "large" {
  name         = "os-1"
  device_types = [device_type.board]
  signer       = signer.file.s
  payload "rootfs-image" { file = "big.ubifs" } # ERROR: File system too large for its place
}
artifact "ext4" {
  name         = "os-1"
  device_types = [device_type.board]
  signer       = signer.file.s
  payload "rootfs-image" { file = "cut.ext4" } # ERROR: File system too large for its place
}
image "nand" {
  device_type = device_type.board
  artifact    = artifact.good
  fill "rootfsa" { file = "root.ubifs" }
  fill "rootfsb" { file = "root.squashfs" } # ERROR: Wrong file system
  fill "u-boot-env" { file = "boot.img" }
}
