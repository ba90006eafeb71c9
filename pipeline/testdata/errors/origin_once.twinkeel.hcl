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
source "file" "app" {
  path = "missing.bin" # ERROR: File not found
}
source "file" "rootfs" {
  path = "big.ext4"
}
artifact "app" {
  name         = "app-1"
  device_types = [device_type.d]
  payload "single-file" {
    file        = source.file.app.path
    destination = "/opt"
  }
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.d]
  payload "rootfs-image" { file = source.file.rootfs.path } # ERROR: File system too large for its place
}
image "d" {
  device_type = device_type.d
  artifact    = artifact.os
  fill "rootfs" {
    file = source.file.rootfs.path
  }
  fill "boot" {
    files = { app = source.file.app.path }
  }
}
