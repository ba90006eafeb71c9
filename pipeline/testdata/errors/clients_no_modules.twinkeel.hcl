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
  clients      = ["twinkeel"]
  bootloader "u-boot" { environment = "env" }
}
artifact "edge-app" {
  name         = "edge-app-1"
  device_types = [device_type.d]
  payload "edge-app" { file = "tree/file" } # ERROR: Payload that devices refuse
}
