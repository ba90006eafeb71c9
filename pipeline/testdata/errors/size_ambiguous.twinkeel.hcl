layout "ab" {
  slots "rootfs" {
    size       = "64M" # ERROR: Wrong value
    filesystem = "ext4"
  }
}
