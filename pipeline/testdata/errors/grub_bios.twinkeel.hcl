layout "bios" {
  preset = "biosimg"
}
layout "plain" {
  table = "mbr"
  partition "boot" {
    size       = "16MiB"
    filesystem = "ext4"
  }
  partition "efi" {
    size  = "16MiB"
    mount = "/boot/grub"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
device_type "pc" {
  architecture = "amd64"
  layout       = layout.bios
  bootloader "grub-bios" {}
}
device_type "board" {
  architecture = "arm64"
  layout       = layout.bios
  bootloader "grub-bios" {} # ERROR: No BIOS
}
device_type "none" {
  architecture = "386"
  layout       = layout.plain
  bootloader "grub-bios" {} # ERROR: No boot partition
}
device_type "unmounted" {
  architecture = "386"
  layout       = layout.plain
  bootloader "grub-bios" { partition = "boot" } # ERROR: Boot partition not mounted
}
device_type "slot" {
  architecture = "386"
  layout       = layout.plain
  bootloader "grub-bios" { partition = "rootfs_a" } # ERROR: No boot partition
}
device_type "unknown" {
  architecture = "386"
  layout       = layout.plain
  bootloader "grub-bios" { partition = "boots" } # ERROR: Unknown partition
}
