layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = 257 * 512
  }
  partition "boot" {
    size       = "16MiB"
    filesystem = "vfat"
    mount      = "/data"
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
    environment = "env" # ERROR: Reserve cannot be halved
    redundant   = true
  }
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.d]
  payload "rootfs-image" { file = "good.ext4" }
}
