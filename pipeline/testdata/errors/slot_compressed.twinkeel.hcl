layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "none"
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
  bootloader "u-boot" {
    environment = "env"
    redundant   = true
  }
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.d]
  payload "rootfs-image" { file = "squashfs.gz" } # ERROR: Compressed file
}
image "i" {
  device_type = device_type.d
  artifact    = artifact.os
  fill "rootfs" { file = "squashfs.gz" } # ERROR: Compressed file
}
