signer "file" "s" { private_key = "k.pem" }
layout "nand" {
  ubi {
    erase_block = "128KiB"
    page        = "2KiB"
    blocks      = 1024
  }
  slots "rootfs" {
    size       = "40MiB"
    filesystem = "ubifs"
  }
  partition "data" {
    size       = "16MiB"
    filesystem = "ubifs"
    mount      = "/data"
    grow       = true
  }
  partition "u-boot-env-1" { size = "128KiB" }
  partition "u-boot-env-2" { size = "64KiB" }
}
layout "disk" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
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
device_type "board" {
  architecture = "arm"
  layout       = layout.nand
  clients      = ["mender-4"]
  bootloader "u-boot" { environment = "u-boot-env" }
}
device_type "disk" {
  architecture   = "arm"
  layout         = layout.disk
  storage_device = "/dev/ubi0" # ERROR: Not for this kind of medium
  bootloader "u-boot" { environment = "env" }
}
device_type "agent" {
  architecture   = "arm"
  layout         = layout.nand
  clients        = ["twinkeel"] # ERROR: Client that cannot update the device
  storage_device = "/dev/mmcblk0" # ERROR: Not for this kind of medium
  bootloader "u-boot" {
    environment      = "u-boot-env"
    environment_size = "128KiB" # ERROR: Volume too small
  }
}
device_type "both" {
  architecture = "arm"
  layout       = layout.nand
  clients      = ["twinkeel", "mender-4"] # WARNING: Client that cannot update the device
  bootloader "u-boot" {
    environment = "rootfsa" # ERROR: No volume for an environment
    redundant   = false
  }
}
device_type "unknown" {
  architecture = "arm"
  layout       = layout.nand
  bootloader "u-boot" {
    environment = "uboot-env" # ERROR: Unknown volume
  }
}
artifact "os" {
  name         = "os-1"
  device_types = [device_type.board, device_type.disk]
  signer       = signer.file.s
  payload "rootfs-image" { file = "root.ubifs" }
}
image "nand" {
  device_type = device_type.board
  artifact    = artifact.os
  formats     = ["ubi", "bmap"] # ERROR: Not for this kind of medium
  fill "rootfs" { file = "root.ubifs" }
  fill "u-boot-env" { file = "env.txt" }
  fill "u-boot-env-3" { file = "env.txt" } # ERROR: Unknown partition
}
image "disk" {
  device_type = device_type.disk
  artifact    = artifact.os
  formats     = ["ubi"] # ERROR: Not for this kind of medium
  fill "rootfs" { file = "root.ubifs" }
}
