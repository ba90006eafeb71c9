layout "ab" {
  slots "rootfs" {
    size       = 1.5 # ERROR: Wrong value
    filesystem = "ext4"
  }
}
