layout "ab" {
  partition "rootfs_a" { size = "1MiB" }
  slots "rootfs" { # ERROR: Duplicate area
    size       = "64MiB"
    filesystem = "ext4"
  }
}
