layout "ab" {
  slots "rootfs" {
    size       = "64 apples" # ERROR: Wrong value
    filesystem = "ext4"
  }
}
