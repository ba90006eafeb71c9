signer "file" "s" { private_key = "k.pem" }
layout "bios" {
  preset = "biosimg"
}
device_type "pc" {
  architecture = "amd64"
  layout       = layout.bios
  bootloader "grub-bios" {}
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.pc]
  signer       = signer.file.s
  payload "rootfs-image" { file = "good.ext4" }
}
image "whole" {
  device_type = device_type.pc
  artifact    = artifact.os
  fill "rootfs" { file = "good.ext4" }
  fill "boot_code" { file = "boot.img" }
  fill "bootloader" { file = "core.img" }
}
image "half" { # WARNING: Boot loader missing
  device_type = device_type.pc
  artifact    = artifact.os
  fill "rootfs" { file = "good.ext4" }
  fill "boot_code" { file = "core.img" } # ERROR: File system too large for its place
}
