server "s" { url = "https://ota.example.com" }
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
  name         = "app-1"
  depends      = { a = "b" } # WARNING: Nobody provides what this depends on
  device_types = [device_type.d]
  payload "edge-app" { file = "good.ext4" }
}
rollout "r" {
  server    = server.s
  artifacts = [
    artifact.os,
    artifact.app, # ERROR: Two releases in one rollout
  ]
  phase "all" { percent = 100 }
}
