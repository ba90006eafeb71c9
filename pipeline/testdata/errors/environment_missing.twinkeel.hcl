layout "ab" {
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" {} # ERROR: Missing argument
}
