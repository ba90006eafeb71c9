variable "secret" {
  sensitive = true
  default   = "hunter2"
}
layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "env" }
}
device_type "e" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "env" }
}
artifact "a" {
  name         = "a-1"
  device_types = [var.secret == "x" ? device_type.d : device_type.e] # ERROR: Secret in plain sight
  payload "edge-app" { file = "good.ext4" }
}
