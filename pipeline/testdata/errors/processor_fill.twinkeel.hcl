layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  partition "boot" {
    size       = "16MiB"
    filesystem = "vfat"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
  partition "data" {
    size       = "16MiB"
    filesystem = "ext4"
    mount      = "/data"
  }
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "env" }
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.d]
  payload "rootfs-image" { file = "good.ext4" }
}
image "d" {
  device_type = device_type.d
  artifact    = artifact.os
  fill "rootfs" { file = "good.ext4" }
  fill "boot" {
    files = {
      "EFI/BOOT/BOOTAA64.EFI" = "amd64.efi" # ERROR: Built for another processor
      "start4.elf"            = "videocore.elf"
      "kernel8.img"           = "arm64.Image"
    }
  }
}
