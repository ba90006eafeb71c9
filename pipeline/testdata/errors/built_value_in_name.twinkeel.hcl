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
artifact "app" {
  name         = "app-${artifact.os.sha256}" # ERROR: Value known only after the build
  device_types = [device_type.d]
  payload "edge-app" { file = "good.ext4" }
}
