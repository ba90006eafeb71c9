layout "ab" {
  partition "boot" {
    size       = "10%" # ERROR: Missing argument
    filesystem = "vfat"
  }
  partition "none" {
    size = "0%" # ERROR: Wrong value
  }
  partition "more" {
    size = "101%" # ERROR: Wrong value
  }
  partition "list" {
    size = ["1MiB"] # ERROR: Wrong type of value
  }
  slots "rootfs" {
    size       = "all" # ERROR: Wrong value
    filesystem = "ext4"
  }
}
layout "sector" {
  sector_size = 2048 # ERROR: Wrong value
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
