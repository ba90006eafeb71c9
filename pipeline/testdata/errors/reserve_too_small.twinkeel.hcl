layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "64KiB"
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
    environment = "env" # ERROR: Reserve too small
    redundant   = true
  }
}
