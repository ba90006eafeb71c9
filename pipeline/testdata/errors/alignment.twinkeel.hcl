layout "ab" {
  alignment = 1000 # ERROR: Wrong value
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
