layout "plain" {
  partition "boot" {
    size       = "64MiB"
    filesystem = "vfat"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
layout "unmounted" {
  partition "esp" {
    size       = "64MiB"
    filesystem = "vfat"
    bootable   = true
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
device_type "a" {
  architecture = "amd64"
  layout       = layout.plain
  bootloader "grub-efi" {} # ERROR: No EFI system partition
}
device_type "b" {
  architecture = "amd64"
  layout       = layout.plain
  bootloader "grub-efi" { partition = "bot" } # ERROR: Unknown partition
}
device_type "c" {
  architecture = "amd64"
  layout       = layout.plain
  bootloader "grub-efi" { partition = "rootfs_a" } # ERROR: No EFI system partition
}
device_type "d" {
  architecture = "amd64"
  layout       = layout.unmounted
  bootloader "grub-efi" {} # ERROR: Boot partition not mounted
}
device_type "e" {
  architecture = "amd64"
  layout       = layout.unmounted
  bootloader "grub-efi" { # ERROR: Boot partition not mounted
    partition = "esp"
    loader    = "../BOOT.EFI" # ERROR: Wrong value
  }
}
