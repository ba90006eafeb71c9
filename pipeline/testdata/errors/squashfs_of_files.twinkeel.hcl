layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "squashfs"
  }
  partition "data" {
    size       = "16MiB"
    filesystem = "squashfs"
    mount      = "/data"
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
  name         = "os-1"
  device_types = [device_type.d]
  payload "rootfs-image" { file = "root.squashfs" }
}
image "i" { # ERROR: Read-only file system
  device_type = device_type.d
  artifact    = artifact.os
  fill "rootfs" { dir = "tree" } # ERROR: No file system
}
