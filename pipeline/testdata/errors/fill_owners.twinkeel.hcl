layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
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
    environment = "env"
    redundant   = true
  }
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.d]
  payload "rootfs-image" { file = "good.ext4" }
}

image "i" {
  device_type = device_type.d
  artifact    = artifact.os
  fill "rootfs" { file = "good.ext4" }
  fill "boot" {
    files  = { "x" = "tree/file" }
    owners = "root" # ERROR: Unexpected argument
  }
}
