layout "ab" {
  slots "rootfs" {
    size       = "-1MiB" # ERROR: Wrong value
    filesystem = "ext4"
  }
}
