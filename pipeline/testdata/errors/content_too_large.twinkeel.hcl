layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  partition "boot" {
    size       = "16MiB"
    filesystem = "vfat"
  }
  partition "data" {
    size       = "4MiB"
    filesystem = "ext4"
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
    environment = "env"
    redundant   = true
  }
}
artifact "app" {
  name         = "app-1"
  device_types = [device_type.d]
  payload "bootstrap" {}
}
image "d" {
  device_type = device_type.d
  artifact    = artifact.app
  fill "boot" {
    files = { a = "big.ext4" } # ERROR: Content too large for its place
  }
  fill "data" {
    dir = "large" # WARNING: Content may be too large for its place
  }
  fill "rootfs" {
    empty = true
  }
}
