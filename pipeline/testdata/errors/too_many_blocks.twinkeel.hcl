layout "ab" {
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
  slots "other" { # ERROR: Too many blocks
    size       = "64MiB"
    filesystem = "ext4"
  }
}
