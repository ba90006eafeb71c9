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
  partition "data" {
    size       = "16MiB"
    filesystem = "ext4"
    mount      = "/data"
  }
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "env" }
}
source "yocto" "x86" {
  deploy_dir = "deploy/x86"
  machine    = "qemux86-64" # ERROR: Built for another processor
  image      = "demo-image"
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.d]
  payload "rootfs-image" { file = source.yocto.x86.rootfs }
}
