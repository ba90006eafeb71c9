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
  clients      = ["mender-5"] # ERROR: Wrong value
  bootloader "u-boot" { environment = "env" }
}
artifact "a" {
  name         = "a-1"
  device_types = [device_type.d]
  payload "edge-app" { file = "good.ext4" }
}
