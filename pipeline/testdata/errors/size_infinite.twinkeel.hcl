layout "ab" {
  slots "rootfs" {
    size       = pow(10, 100000) # ERROR: Wrong value
    filesystem = "ext4"
  }
}
