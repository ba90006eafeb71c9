layout "ab" {
  partition "esp" {
    size       = "64MiB"
    filesystem = "vfat"
    mount      = "/boot/efi"
    bootable   = true
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "64MiB"
    filesystem = "ext4"
    mount      = "/data"
  }
}
device_type "pc" {
  architecture = "amd64"
  layout       = layout.ab
  bootloader "grub-efi" {}
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.pc]
  payload "rootfs-image" { file = "good.ext4" }
}
image "nothing" { # ERROR: Boot loader missing
  device_type = device_type.pc
  artifact    = artifact.os
  fill "rootfs" { file = "good.ext4" }
}
image "other" {
  device_type = device_type.pc
  artifact    = artifact.os
  fill "rootfs" { file = "good.ext4" }
  fill "esp" { files = { "EFI/BOOT/BOOTAA64.EFI" = "tree/file" } } # ERROR: Boot loader missing
}
image "good" {
  device_type = device_type.pc
  artifact    = artifact.os
  fill "rootfs" { file = "good.ext4" }
  fill "esp" { files = { "efi/boot/bootx64.efi" = "tree/file" } }
}
