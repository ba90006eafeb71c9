layout "ab" {
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "64MiB"
    filesystem = "ext4"
    mount      = "/data"
  }
  partition "esp" {
    size       = "64MiB"
    filesystem = "vfat"
    mount      = "/boot/efi"
    bootable   = true
  }
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "grub-efi" {}
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.d]
  payload "rootfs-image" { file = "good.ext4" }
}
image "a" {
  device_type = device_type.d
  artifact    = artifact.os
  formats     = ["raw", "zstd"] # ERROR: Wrong value
  fill "rootfs" { file = "good.ext4" }
  fill "esp" { files = { "EFI/BOOT/BOOTAA64.EFI" = "tree/file" } }
}
image "b" {
  device_type = device_type.d
  artifact    = artifact.os
  formats     = ["bmap"] # ERROR: Wrong value
  fill "rootfs" { file = "good.ext4" }
  fill "esp" { files = { "EFI/BOOT/BOOTAA64.EFI" = "tree/file" } }
}
image "c" {
  device_type = device_type.d
  artifact    = artifact.os
  formats     = ["zst", "zst"] # ERROR: Wrong value
  fill "rootfs" { file = "good.ext4" }
  fill "esp" { files = { "EFI/BOOT/BOOTAA64.EFI" = "tree/file" } }
}
image "d" {
  device_type = device_type.d
  artifact    = artifact.os
  fill "rootfs" { file = "good.ext4" }
  fill "data" {
    dir   = "tree"
    empty = true # ERROR: Conflicting arguments
  }
  fill "esp" { files = { "EFI/BOOT/BOOTAA64.EFI" = "tree/file" } }
}
