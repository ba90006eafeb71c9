layout "ab" {
  slots "rootfs" {
    size       = 0 # ERROR: Wrong value
    filesystem = "ext4"
  }
}
