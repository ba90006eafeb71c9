variable "pin" {
  default   = "hunter2hunter2"
  sensitive = true
}
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
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" {
    environment = "env"
    redundant   = true
  }
}
artifact "os" {
  name         = "os-${var.pin}" # ERROR: Secret in plain sight
  device_types = [device_type.d]
  payload "rootfs-image" { file = "good.ext4" }
}
